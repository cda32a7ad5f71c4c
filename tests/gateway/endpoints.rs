//! Who gets a connection: turns, endpoints that are down and come back, records of DNS.

use std::process::Command;

use pinion_kit::{WorkDir, free_port, server_binary};

use crate::dns_server::{DnsServer, Zone};
use crate::process::{Echo, Gateway, flags, is_closed, name_of};

fn names(gateway: &Gateway, count: usize) -> String {
    (0..count).map(|_| name_of(gateway)).collect()
}

#[test]
fn endpoints_take_turns_and_one_that_is_down_is_passed_over_until_it_answers_again() {
    let work = WorkDir::new();
    let (a, mut b, c) = (Echo::start("a"), Echo::start("b"), Echo::start("c"));
    let endpoints = [a.endpoint(), format!("http://{}", b.endpoint()), c.endpoint()];
    let mut gateway = Gateway::start(&work, &flags(&endpoints));
    assert_eq!(names(&gateway, 7), "abcabca");
    b.stop();
    // Nobody's connection fails for it.
    assert_eq!(names(&gateway, 5), "cacac");
    gateway.wait_for("deactivated endpoint");
    let _again = Echo::start_at("b", b.port);
    gateway.wait_for("activated endpoint: it answers again");
    let told = names(&gateway, 6);
    assert_eq!(told.matches('b').count(), 2, "{told}");
}

#[test]
fn with_all_endpoints_down_connections_are_closed_and_they_come_back() {
    let work = WorkDir::new();
    let (first, second) = (free_port(), free_port());
    let endpoints = [first, second].map(|port| format!("127.0.0.1:{port}"));
    let mut gateway = Gateway::start(&work, &flags(&endpoints));
    for _ in 0..20 {
        assert!(is_closed(&mut gateway.connect()));
    }
    gateway.wait_for_times("deactivated endpoint", 2);
    gateway.wait_for("no endpoint answers");
    assert_eq!(gateway.output().matches("no endpoint answers").count(), 1, "said once in a while");
    let _second = Echo::start_at("s", second);
    gateway.wait_for("activated endpoint: it answers again");
    assert_eq!(names(&gateway, 3), "sss");
}

#[test]
fn its_own_address_is_refused_as_an_endpoint_in_every_form() {
    let work = WorkDir::new();
    for (listen, endpoint) in
        [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "localhost")]
    {
        let port = free_port();
        let output = Command::new("timeout")
            .arg("20")
            .arg(server_binary())
            .args(["gateway", "start", &format!("--listen-addr={listen}:{port}")])
            .arg(format!("--endpoints=127.0.0.1:1,{endpoint}:{port}"))
            .current_dir(work.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("should not resolve to the gateway listen addr"), "{told}");
    }
}

#[test]
fn endpoints_of_a_domain_are_found_and_those_without_tls_only_if_that_is_allowed() {
    let work = WorkDir::new();
    let (a, given) = (Echo::start("a"), Echo::start("g"));
    let zone =
        Zone::default().srv("_etcd-client-x._tcp.pinion.test", "m1.pinion.test", a.port).a("m1.pinion.test");
    let Some(dns) = DnsServer::start(zone) else { return };
    let binary = dns.client(&work, &server_binary());
    let mut flags = flags(&[given.endpoint()]);
    flags.extend(["--discovery-srv=pinion.test", "--discovery-srv-name=x"].map(str::to_owned));
    let insecure = [&flags[..], &["--insecure-discovery".to_owned()]].concat();
    let gateway = Gateway::start_as(Command::new(&binary), &work, &insecure);
    assert_eq!(names(&gateway, 2), "aa");
    // Without TLS nobody is believed, and --endpoints counts.
    let mut gateway = Gateway::start_as(Command::new(&binary), &work, &flags);
    gateway.wait_for("an endpoint of DNS is left out");
    gateway.wait_for("forwarding to --endpoints");
    assert_eq!(names(&gateway, 2), "gg");
    // A domain without records is the same.
    let none = [&flags[..1], &["--discovery-srv=nobody.test".to_owned()]].concat();
    let mut gateway = Gateway::start_as(Command::new(&binary), &work, &none);
    gateway.wait_for("forwarding to --endpoints");
    assert_eq!(names(&gateway, 2), "gg");
}
