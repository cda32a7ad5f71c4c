//! `--discovery-srv`: members find each other by the records of a domain, or say why they do not.

use std::net::Ipv4Addr;
use std::path::Path;

use pinion::membership::{cluster_id, member_id};
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, installed, server_binary, start_all};

use crate::dns_server::{DnsServer, Zone, client_of};
use crate::group::{check_one_cluster, identities, member};

const SERVICE: &str = "_etcd-server._tcp.pinion.test";

/// A zone in which `m1`, `m2`, … are members with these ports.
fn zone(service: &str, launches: &[Launch]) -> Zone {
    launches.iter().enumerate().fold(Zone::default(), |zone, (slot, launch)| {
        let host = format!("m{}.pinion.test", slot + 1);
        zone.srv(service, &host, launch.peer_port).a(&host)
    })
}

fn three(work: &WorkDir) -> Vec<Launch> {
    ["one", "two", "three"]
        .iter()
        .map(|name| member(work, name).flag("--discovery-srv=pinion.test"))
        .collect()
}

fn urls(launches: &[Launch]) -> Vec<String> {
    let ports = launches.iter().map(|launch| launch.peer_port);
    (1..).zip(ports).map(|(number, port)| format!("http://m{number}.pinion.test:{port}")).collect()
}

#[test]
fn three_members_of_a_domain_begin_one_cluster_and_restart_without_the_records() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launches = three(&work);
        // Too long for UDP, so that TCP is part of it.
        let mut zone = zone(SERVICE, &launches);
        zone.is_long = true;
        let Some(dns) = DnsServer::start(zone) else { return };
        let binary = dns.client(&work, &server_binary());
        launches.iter_mut().for_each(|launch| launch.binary = binary.clone());
        // One is listed as it calls itself, the others by the address that their names lead to.
        let by_name = format!("--initial-advertise-peer-urls={}", urls(&launches)[2]);
        launches[2].flags.push(by_name);
        let mut servers = start_all(&launches).await;
        check_one_cluster(&servers).await;
        let (cluster, members) = identities(&servers[0], 3).await;
        let ids: Vec<_> = urls(&launches).into_iter().map(|url| member_id(&[url], "etcd-cluster")).collect();
        let mut wanted: Vec<u64> = ids.iter().map(|id| id.0).collect();
        wanted.sort_unstable();
        assert_eq!(members.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), wanted);
        assert_eq!(cluster, cluster_id(ids).0);

        let mut fourth = member(&work, "four").flag("--discovery-srv=pinion.test");
        fourth.binary = binary.clone();
        fourth.start_refused().await.assert_says(&[
            "cannot find local etcd member \\\"four\\\" in SRV records",
            "m1.pinion.test",
            "Add a record for it",
        ]);

        // The records are only for the beginning; the addresses are still needed.
        servers[1].kill();
        let Some(hosts) = DnsServer::start(Zone::default().a("m1.pinion.test").a("m3.pinion.test")) else {
            return;
        };
        launches[1].binary = hosts.client(&work, &server_binary());
        let mut again = launches[1].start().await;
        again.wait_output("discovery flags are ignored").await;
        assert_eq!(identities(&again, 3).await.0, cluster);
    });
}

/// The installed etcd (3.4) drops what it finds in records without TLS, so it is given the list that the
/// records spell out.
#[test]
fn etcd_with_the_listed_urls_has_the_ids_that_pinion_derives_from_the_records() {
    block_on(TEST_DEADLINE, async {
        let Some(etcd) = installed("etcd") else { return };
        let work = WorkDir::new();
        let launches: Vec<Launch> =
            three(&work).into_iter().map(|launch| launch.flag("--discovery-srv-name=b")).collect();
        let zone = zone("_etcd-server-b._tcp.pinion.test", &launches);
        // The same names and ports, which are what ids are made of; another address, so that both can run.
        let other = Ipv4Addr::new(127, 0, 0, 2);
        let Some(dns) = DnsServer::start(zone.clone()) else { return };
        let Some(other_dns) = DnsServer::start(zone.moved_to(other)) else { return };
        let listed: Vec<String> = launches
            .iter()
            .zip(urls(&launches))
            .map(|(launch, url)| format!("{}={url}", launch.name))
            .collect();
        let of_etcd = launches.iter().zip(urls(&launches)).map(|(launch, url)| {
            let data_dir = work.join(&format!("etcd-{}", launch.name));
            let mut theirs = Launch::binary(other_dns.client(&work, &etcd), data_dir).named(&launch.name);
            theirs.initial_cluster = Some(listed.join(","));
            theirs
                .flag(format!("--listen-peer-urls=http://{other}:{}", launch.peer_port))
                .flag(format!("--initial-advertise-peer-urls={url}"))
        });
        let of_etcd: Vec<Launch> = of_etcd.collect();
        let binary = dns.client(&work, &server_binary());
        let ours: Vec<Launch> =
            launches.into_iter().map(|launch| Launch { binary: binary.clone(), ..launch }).collect();
        let (ours, of_etcd) = (start_all(&ours).await, start_all(&of_etcd).await);
        let (found, wanted) = (identities(&ours[0], 3).await, identities(&of_etcd[0], 3).await);
        assert_eq!(found, wanted, "cluster id, member ids, peer URLs and names");
        println!("the same on both: cluster {:x}, {:x?}", found.0, found.1);
    });
}

/// By TLS the installed etcd does find its members, and so do we.
#[test]
fn etcd_and_we_derive_ids_from_the_urls_with_tls_that_records_spell_out() {
    if let Some(etcd) = installed("etcd") {
        members_with_tls_have_ids_by_their_urls(&etcd);
    }
    members_with_tls_have_ids_by_their_urls(&server_binary());
}

fn members_with_tls_have_ids_by_their_urls(binary: &Path) {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launches = three(&work);
        let Some(dns) = DnsServer::start(zone("_etcd-server-ssl._tcp.pinion.test", &launches)) else {
            return;
        };
        for launch in &mut launches {
            launch.binary = dns.client(&work, binary);
            let url = format!("https://127.0.0.1:{}", launch.peer_port);
            launch.flags.push(format!("--listen-peer-urls={url}"));
            launch.flags.push(format!("--initial-advertise-peer-urls={url}"));
            launch.flags.push("--peer-auto-tls".to_owned());
        }
        let servers = start_all(&launches).await;
        let listed = urls(&launches).into_iter().map(|url| url.replace("http:", "https:"));
        let ids: Vec<_> = listed.map(|url| member_id(&[url], "etcd-cluster")).collect();
        let (cluster, members) = identities(&servers[0], 3).await;
        let mut wanted: Vec<u64> = ids.iter().map(|id| id.0).collect();
        wanted.sort_unstable();
        assert_eq!(members.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), wanted);
        assert_eq!(cluster, cluster_id(ids).0);
    });
}

#[test]
fn member_that_was_added_joins_by_the_domain_that_lists_it_now() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut launches = three(&work);
        launches.truncate(2);
        let before = zone(SERVICE, &launches[..1]).a("m2.pinion.test");
        let Some(before) = DnsServer::start(before) else { return };
        launches[0].binary = before.client(&work, &server_binary());
        let first = launches[0].start().await;
        first.connect().await.member_add(&urls(&launches)[1], false).await.unwrap();
        let Some(after) = DnsServer::start(zone(SERVICE, &launches)) else { return };
        launches[1].binary = after.client(&work, &server_binary());
        let joining = launches[1].clone().flag("--initial-cluster-state=existing");
        let second = joining.start().await;
        check_one_cluster(&[first, second]).await;
    });
}

#[test]
fn domain_without_members_or_without_a_server_is_told_from_each_other() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Some(dns) = DnsServer::start(Zone::default()) else { return };
        let mut launch = member(&work, "one");
        launch.binary = dns.client(&work, &server_binary());
        let nothing = launch.clone().flag("--discovery-srv=pinion.test").start_refused().await;
        nothing.assert_says(&["no SRV records", "_etcd-server._tcp.pinion.test", "Add one for each member"]);
        // Nobody listens there; it is asked again for a while, which a signal ends.
        launch.binary = client_of(Ipv4Addr::new(127, 54, 0, 1), &work, &server_binary());
        let mut alone = launch.flag("--discovery-srv=pinion.test").spawn();
        alone.wait_output("asking DNS again").await;
        let exit = alone.terminate().await;
        exit.assert_says(&[
            "cannot ask DNS",
            "127.54.0.1:53",
            "/etc/resolv.conf",
            "stopped while asking DNS",
        ]);
    });
}
