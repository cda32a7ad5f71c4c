//! Proxies that register: what clients are told who ask where members are.

use std::collections::BTreeSet;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, etcds, until};

use crate::process::{PATIENCE, Proxy, at};

#[test]
fn proxies_of_both_kinds_find_each_other_and_one_that_stops_or_dies_is_gone() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("m")).start().await;
        let endpoints = [at(server.client_port())];
        let flags = ["--resolver-prefix=/proxies", "--resolver-ttl=2"].map(str::to_owned);
        let mut first = Proxy::start(&work, &endpoints, &flags);
        let mut second = Proxy::start(&work, &endpoints, &flags);
        let mut all = BTreeSet::from([first.endpoint(), second.endpoint()]);
        let etcds = etcds("etcd").last().map(|etcd| Proxy::start_etcds(etcd, &work, &endpoints, &flags));
        all.extend(etcds.as_ref().map(Proxy::endpoint));
        let client = second.client().await;
        let listed = async || -> BTreeSet<String> {
            let members = client.member_list(true).await.unwrap().members;
            assert!(members.iter().all(|member| member.id == 0 && !member.name.is_empty()));
            members.into_iter().flat_map(|member| member.client_ur_ls).collect()
        };
        until(PATIENCE, async || listed().await == all).await;
        if let Some(etcds) = &etcds {
            let through = etcds.client().await;
            until(PATIENCE, async || {
                let members = through.member_list(true).await.unwrap().members;
                members.into_iter().flat_map(|member| member.client_ur_ls).collect::<BTreeSet<_>>() == all
            })
            .await;
        }
        // What is no registration is passed over.
        client.put_kv("/proxies/nonsense", "{").await.unwrap();
        assert_eq!(listed().await, all);
        // It outlives its lease's time, and goes with its proxy.
        first.signal("TERM");
        assert_eq!(first.wait().code(), Some(0), "{}", first.output());
        assert!(first.output().contains("this proxy is registered no more"), "{}", first.output());
        all.remove(&first.endpoint());
        assert_eq!(listed().await, all);
        // A lease that somebody has ended costs a moment.
        let leases = client.leases().await.unwrap().leases;
        for lease in leases {
            client.lease_revoke(lease.id).await.unwrap();
        }
        second.wait_for("the registration of this proxy is made anew");
        until(PATIENCE, async || listed().await.contains(&second.endpoint())).await;
    });
}
