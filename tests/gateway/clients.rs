//! Clients of etcd through a gateway.

use pinion_kit::client::Client;
use pinion_kit::program::run;
use pinion_kit::{Cluster, Launch, TEST_DEADLINE, WorkDir, block_on, etcds, until};

use crate::process::{Gateway, PATIENCE, flags};

#[test]
fn etcdctl_of_each_release_works_through_it_in_front_of_pinion_and_of_etcd() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let etcdctls = etcds("etcdctl");
        let mut behind = vec![("pinion".to_owned(), Launch::new(work.join("pinion")).start().await)];
        for (number, etcd) in etcds("etcd").iter().enumerate() {
            let name = format!("etcd{number}");
            let server = Launch::binary(etcd, work.join(&name)).start().await;
            behind.push((name, server));
        }
        for (name, server) in &behind {
            let gateway = Gateway::start(&work, &flags(&[format!("127.0.0.1:{}", server.client_port())]));
            for (number, etcdctl) in etcdctls.iter().enumerate() {
                let key = format!("key{number}");
                for (args, input, wanted) in [
                    (format!("put {key} value"), "", "OK\n".to_owned()),
                    (format!("get {key}"), "", format!("{key}\nvalue\n")),
                    (format!("get {key} --consistency=s --print-value-only"), "", "value\n".to_owned()),
                    (format!("lock {key} echo locked"), "", "locked".to_owned()),
                    ("endpoint health".to_owned(), "", "is healthy".to_owned()),
                    (format!("put {key}"), LARGE.as_str(), "OK\n".to_owned()),
                    (format!("get {key} --print-value-only"), "", LARGE.clone()),
                    (format!("del {key}"), "", "1\n".to_owned()),
                ] {
                    let mut all = vec![format!("--endpoints={}", gateway.endpoint())];
                    all.extend(args.split_whitespace().map(str::to_owned));
                    let (success, told) = run(etcdctl, &all, input).await;
                    assert!(success && told.contains(&wanted), "{name}, {args}: {told:.300}");
                }
            }
        }
    });
}

/// More than one read's bytes.
static LARGE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "x".repeat(300_000));

/// Three members behind one address: whoever goes is passed over by whoever comes next.
#[test]
fn a_member_that_ends_costs_a_new_connection_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(3, &[]).await;
        let endpoints: Vec<_> =
            (0..3).map(|member| format!("127.0.0.1:{}", cluster.server(member).client_port())).collect();
        let mut gateway = Gateway::start(&work, &flags(&endpoints));
        let port = gateway.port;
        let put = async |key: &str| {
            let client = Client::connect(port).await.unwrap();
            client.put_kv(key, "v").await.unwrap();
        };
        for key in ["a", "b", "c"] {
            put(key).await;
        }
        let killed = cluster.server(1).client_port();
        cluster.kill(1);
        // The kernel takes connections for a killed process until its sockets are taken apart.
        until(PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", killed)).is_err()).await;
        for key in ["d", "e", "f", "g"] {
            // A leader may have gone.
            put(key).await;
        }
        gateway.wait_for("deactivated endpoint");
    });
}
