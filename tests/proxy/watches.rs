//! Watches through a proxy: joined for the members, and for each client as if it had its own.

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::stream::Answers;
use pinion_kit::{Cluster, Launch, Server, TEST_DEADLINE, WorkDir, block_on, etcds, until};

use crate::process::{PATIENCE, Proxy, at};
use crate::web::Web;

/// A Pinion, and the newest etcd that there is.
async fn members(work: &WorkDir) -> Vec<(&'static str, Server)> {
    let mut all = vec![("pinion", Launch::new(work.join("pinion")).start().await)];
    if let Some(etcd) = etcds("etcd").last() {
        all.push(("etcd", Launch::binary(etcd, work.join("etcd")).start().await));
    }
    all
}

fn create(watch_id: i64, key: &str, range_end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        watch_id,
        ..Default::default()
    }
}

/// Watchers that the member has.
async fn watchers(server: &Server) -> u64 {
    let page = Web::connect(server.client_port()).await.get("/metrics").await.text();
    let line = page.lines().find_map(|line| line.strip_prefix("etcd_debugging_mvcc_watcher_total "));
    line.unwrap().trim().parse().unwrap()
}

/// Whether the member's progress answers come in the order of its events, as etcd's do from 3.4.25 and 3.5.8 on. In front of
/// others the proxy has a watch for each of its clients'.
async fn answers_in_order(server: &Server) -> bool {
    let page = Web::connect(server.client_port()).await.get("/version").await.text();
    let (_, version) = page.split_once(r#""etcdserver":""#).unwrap();
    let numbers: Vec<u32> = version.split(['.', '-', '"']).map_while(|number| number.parse().ok()).collect();
    let [major, minor, patch] = numbers[..] else { panic!("{page}") };
    (3, 5, 8) <= (major, minor, patch) || (minor == 4 && 25 <= patch)
}

async fn next(answers: &mut Answers<pb::WatchResponse>) -> pb::WatchResponse {
    answers.next().await.unwrap().unwrap()
}

fn keys(response: &pb::WatchResponse) -> Vec<Bytes> {
    response.events.iter().map(|event| event.kv.as_ref().unwrap().key.clone()).collect()
}

#[test]
fn ten_thousand_watches_of_a_range_are_one_at_the_member_and_each_hears_of_every_change() {
    const STREAMS: usize = 5;
    const EACH: i64 = 2_000;
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, server) in members(&work).await {
            let proxy = Proxy::start(&work, &[at(server.client_port())], &[]);
            let mut streams = Vec::new();
            for _ in 0..STREAMS {
                let client = proxy.client().await;
                let (mut requests, answers) = client.watch().await.unwrap();
                for id in 1..=EACH {
                    requests.create(create(1_000_000 + id, "a", "b")).unwrap();
                }
                streams.push((client, requests, answers));
            }
            for (_, _, answers) in &mut streams {
                for id in 1..=EACH {
                    let created = next(answers).await;
                    assert_eq!((created.created, created.watch_id), (true, 1_000_000 + id), "{name}");
                }
            }
            let expected = if answers_in_order(&server).await {
                1
            } else {
                u64::try_from(EACH).unwrap() * STREAMS as u64
            };
            assert_eq!(watchers(&server).await, expected, "{name}");
            let direct = server.connect().await;
            let mut revision = 0;
            for number in 0..3 {
                let put = direct.put_kv(&format!("a{number}"), "v").await.unwrap();
                revision = put.header.unwrap().revision;
            }
            for (_, _, answers) in &mut streams {
                let mut seen = vec![Vec::new(); usize::try_from(EACH).unwrap()];
                while seen.iter().any(|keys| keys.len() < 3) {
                    let news = next(answers).await;
                    seen[usize::try_from(news.watch_id - 1_000_001).unwrap()].extend(keys(&news));
                    assert!(news.header.unwrap().revision <= revision);
                }
                assert!(seen.iter().all(|keys| *keys == ["a0", "a1", "a2"]), "{name}");
            }
            drop(streams);
            until(PATIENCE, async || watchers(&server).await == 0).await;
        }
    });
}

#[test]
fn a_watch_has_its_own_filters_previous_versions_fragments_and_history() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        for (name, server) in members(&work).await {
            let proxy = Proxy::start(&work, &[at(server.client_port())], &[]);
            let client = proxy.client().await;
            let first = client.put_kv("a", "1").await.unwrap().header.unwrap().revision;
            client.put_kv("a", "2").await.unwrap();
            let (mut requests, mut answers) = client.watch().await.unwrap();
            requests.create(create(1, "a", "")).unwrap();
            requests.create(pb::WatchCreateRequest { filters: vec![0], ..create(2, "a", "") }).unwrap();
            requests.create(pb::WatchCreateRequest { prev_kv: true, ..create(3, "a", "") }).unwrap();
            requests.create(pb::WatchCreateRequest { start_revision: first, ..create(4, "a", "") }).unwrap();
            let later = first + 4;
            requests.create(pb::WatchCreateRequest { start_revision: later, ..create(5, "a", "") }).unwrap();
            let mut heard = std::collections::BTreeMap::<i64, Vec<(i32, Bytes, bool)>>::new();
            let mut created = 0;
            let mut take = |response: pb::WatchResponse| {
                created += u32::from(response.created);
                for event in response.events {
                    let (kind, previous) = (event.r#type, event.prev_kv.is_some());
                    heard.entry(response.watch_id).or_default().push((
                        kind,
                        event.kv.unwrap().value,
                        previous,
                    ));
                }
                let count = heard.values().map(Vec::len).sum::<usize>();
                (created, count)
            };
            while take(next(&mut answers).await) != (5, 2) {}
            client.put_kv("a", "3").await.unwrap();
            client.delete(&pb::DeleteRangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
            client.put_kv("a", "4").await.unwrap();
            // 1 and 3 all three, 2 the deletion, 4 all there ever was, 5 the last one.
            while take(next(&mut answers).await).1 < 3 + 1 + 3 + 5 + 1 {}
            let plain = [(0, "3".into(), false), (1, Bytes::new(), false), (0, "4".into(), false)];
            assert_eq!(heard[&1], plain, "{name}");
            assert_eq!(heard[&2], plain[1..2], "{name}");
            let previous: Vec<_> = heard[&3].iter().map(|(_, _, previous)| *previous).collect();
            assert_eq!(previous, [true, true, false], "{name}");
            assert_eq!(heard[&4][2..], plain, "{name}");
            assert_eq!(heard[&5], plain[2..], "{name}");
            // One response of three megabytes comes in parts to whoever asked for that.
            requests.create(pb::WatchCreateRequest { fragment: true, ..create(6, "f", "g") }).unwrap();
            assert!(next(&mut answers).await.created);
            let value = Bytes::from(vec![b'v'; 400 << 10]);
            let put = |number: u8| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                    key: vec![b'f', number].into(),
                    value: value.clone(),
                    ..Default::default()
                })),
            };
            for half in [0..3, 3..6] {
                client
                    .txn(&pb::TxnRequest { success: half.map(put).collect(), ..Default::default() })
                    .await
                    .unwrap();
            }
            let mut count = 0;
            while count < 6 {
                let part = next(&mut answers).await;
                assert_eq!(part.watch_id, 6, "{name}");
                count += part.events.len();
            }
        }
    });
}

#[test]
fn clients_hear_of_every_change_once_while_the_members_that_are_watched_die_and_come_back() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut cluster = Cluster::start(3, &[]).await;
        let endpoints: Vec<_> = (0..3).map(|member| at(cluster.client_port(member))).collect();
        let proxy = Proxy::start(&work, &endpoints, &[]);
        let client = proxy.client().await;
        let writer = client.clone();
        pinion_kit::eventually(async || writer.put_kv("b", "v").await).await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(create(1, "a", "b")).unwrap();
        requests.create(create(2, "a", "")).unwrap();
        assert!(next(&mut answers).await.created && next(&mut answers).await.created);
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        let mut put = 0;
        for member in 0..3 {
            cluster.kill(member);
            for _ in 0..20 {
                let key = if put % 2 == 0 { "a" } else { "a2" };
                pinion_kit::eventually(async || writer.put_kv(key, "v").await).await;
                put += 1;
            }
            cluster.start_again(member).await;
        }
        let last = client.get("a").await.unwrap();
        assert!(last.is_some());
        requests.progress().unwrap();
        // A put that was told as failed may have counted, so the store says what was to be told.
        let direct = cluster.client(0).await;
        let (mut history, mut told) = direct.watch().await.unwrap();
        history.create(pb::WatchCreateRequest { start_revision: 1, ..create(1, "a", "b") }).unwrap();
        let revision =
            client.range(&pb::RangeRequest { key: "a".into(), ..Default::default() }).await.unwrap();
        let revision = revision.header.unwrap().revision;
        let mut expected = Vec::new();
        while expected.last().is_none_or(|last| *last < revision) {
            expected.extend(
                next(&mut told).await.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision),
            );
        }
        while wide.last().is_none_or(|last| *last < revision) {
            let news = next(&mut answers).await;
            let to = if news.watch_id == 1 { &mut wide } else { &mut narrow };
            to.extend(news.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision));
        }
        assert_eq!(wide, expected);
        assert!(narrow.is_sorted() && narrow.windows(2).all(|two| two[0] < two[1]));
    });
}

#[test]
fn members_that_stand_at_an_older_revision_or_are_others_end_all_watches_with_a_word() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("first"));
        let mut server = launch.start().await;
        let mut proxy = Proxy::start(&work, &[at(launch.client_port)], &[]);
        let client = proxy.client().await;
        for number in 0..10 {
            client.put_kv(&format!("k{number}"), "v").await.unwrap();
        }
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(create(1, "k", "l")).unwrap();
        assert!(next(&mut answers).await.created);
        server.kill();
        drop(server);
        let anew = Launch { client_port: launch.client_port, ..Launch::new(work.join("second")) };
        let _server = anew.start().await;
        let ended = loop {
            match answers.next().await {
                Ok(Some(response)) => assert!(response.events.is_empty(), "{response:?}"),
                Ok(None) => panic!("it has ended well"),
                Err(ended) => break ended,
            }
        };
        let CallError::Status { code: 14, message } = &ended else { panic!("{ended}") };
        assert!(message.contains("the members behind this proxy"), "{message}");
        // Whoever begins anew is served.
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(create(1, "k", "l")).unwrap();
        let created = next(&mut answers).await;
        assert!(created.created && created.header.unwrap().revision < 10, "{created:?}");
        client.put_kv("k", "new").await.unwrap();
        assert_eq!(keys(&next(&mut answers).await), ["k"]);
        proxy.wait_for("all watches end");
    });
}

#[test]
fn a_client_that_never_reads_costs_little_and_holds_up_nobody() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("m")).start().await;
        let proxy = Proxy::start(&work, &[at(server.client_port())], &[]);
        let mut lazy = Vec::new();
        for _ in 0..20 {
            let client = Client::connect_with_window(proxy.port, 1 << 16).await.unwrap();
            let (mut requests, answers) = client.watch().await.unwrap();
            requests.create(create(1, "a", "b")).unwrap();
            lazy.push((client, requests, answers));
        }
        let client = proxy.client().await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(create(1, "a", "b")).unwrap();
        assert!(next(&mut answers).await.created);
        let before = proxy.memory();
        let value = "v".repeat(256 << 10);
        for number in 0..400 {
            client.put_kv(&format!("a{number}"), &value).await.unwrap();
            let mut seen = 0;
            while seen < 1 {
                seen += next(&mut answers).await.events.len();
            }
        }
        let grown = proxy.memory().saturating_sub(before);
        assert!(grown < 160 << 20, "{grown} bytes for twenty that do not read a hundred megabytes");
        // Whoever reads on gets everything.
        let (_, _, late) = &mut lazy[0];
        let mut count = 0;
        while count < 400 {
            count += next(late).await.events.len();
        }
        assert_eq!(count, 400);
    });
}

#[test]
fn members_that_answer_progress_out_of_order_are_watched_one_by_one() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Some(etcd) =
            etcds("etcd").into_iter().find(|etcd| etcd.ends_with("bin/etcd") && etcd.starts_with("/usr/bin"))
        else {
            return;
        };
        let server = Launch::binary(&etcd, work.join("etcd")).start().await;
        let mut proxy = Proxy::start(&work, &[at(server.client_port())], &[]);
        proxy.wait_for("watches are passed on one by one");
        let client = proxy.client().await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        for id in [3, 4] {
            requests.create(create(id, "a", "b")).unwrap();
            assert_eq!(next(&mut answers).await.watch_id, id);
        }
        assert_eq!(watchers(&server).await, 2);
        client.put_kv("a", "v").await.unwrap();
        assert_eq!(keys(&next(&mut answers).await), ["a"]);
    });
}

#[test]
fn whoever_needs_a_login_is_refused_a_joined_watch_too() {
    block_on(TEST_DEADLINE, async {
        use prost::Message as _;
        let work = WorkDir::new();
        for (name, server) in members(&work).await {
            let proxy = Proxy::start(&work, &[at(server.client_port())], &[]);
            let client = proxy.client().await;
            let (mut requests, mut answers) = client.watch().await.unwrap();
            requests.create(create(1, "a", "b")).unwrap();
            assert!(next(&mut answers).await.created);
            let call = async |method: &str, request: Vec<u8>| {
                client.call(&format!("/etcdserverpb.Auth/{method}"), request.into()).await.unwrap()
            };
            let add =
                pb::AuthUserAddRequest { name: "root".into(), password: "root".into(), ..Default::default() };
            call("UserAdd", add.encode_to_vec()).await;
            call("RoleAdd", pb::AuthRoleAddRequest { name: "root".into() }.encode_to_vec()).await;
            let grant = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
            call("UserGrantRole", grant.encode_to_vec()).await;
            call("AuthEnable", Vec::new()).await;
            // The range is watched already, which helps nobody who may not read it.
            let (mut requests, mut answers) = client.watch().await.unwrap();
            requests.create(create(1, "a", "b")).unwrap();
            let mut refused = next(&mut answers).await;
            if !refused.canceled {
                refused = next(&mut answers).await;
            }
            assert!(
                refused.canceled && refused.cancel_reason.contains("user name is empty"),
                "{name}: {refused:?}"
            );
            let root = client.logged_in("root", "root").await.unwrap();
            let (mut requests, mut answers) = root.watch().await.unwrap();
            requests.create(create(1, "a", "b")).unwrap();
            assert!(next(&mut answers).await.created);
            root.put_kv("a", "v").await.unwrap();
            assert_eq!(keys(&next(&mut answers).await), ["a"], "{name}");
        }
    });
}
