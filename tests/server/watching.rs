//! Watch streams as no sane client opens them: etcd's answers, bounded memory, and nobody else waits.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::stream::Answers;
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, env_number, server_is_etcd};
use tokio::time::Instant;

async fn started(work: &WorkDir, flags: &[&str]) -> (Server, Client) {
    let mut launch = Launch::new(work.join("data"));
    for flag in flags {
        launch = launch.flag(*flag);
    }
    let server = launch.start().await;
    let client = server.connect().await;
    (server, client)
}

async fn next(answers: &mut Answers<pb::WatchResponse>) -> pb::WatchResponse {
    answers.next().await.expect("an answer").expect("the stream goes on")
}

fn create(key: &'static str, range_end: &'static str, watch_id: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), range_end: range_end.into(), watch_id, ..Default::default() }
}

#[test]
fn watch_that_breaks_a_rule_is_refused_and_the_others_on_its_stream_go_on() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, client) = started(&work, &[]).await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(create("k", "", 7)).unwrap();
        assert!(next(&mut answers).await.created);
        let refusals = [
            (create("b", "a", 0), "mvcc: watcher range is empty"),
            (create("b", "b", 0), "mvcc: watcher range is empty"),
            (create("x", "", 7), "mvcc: duplicate watch ID provided on the WatchStream"),
        ];
        for (request, reason) in refusals {
            requests.create(request.clone()).unwrap();
            let refused = next(&mut answers).await;
            assert!(refused.created && refused.canceled, "{request:?}: {refused:?}");
            assert_eq!((refused.watch_id, refused.cancel_reason.as_str()), (-1, reason), "{request:?}");
            assert_eq!(refused.header.unwrap().revision, 1);
        }
        if !server_is_etcd() {
            // The installed etcd knows no such rule.
            requests.create(pb::WatchCreateRequest { start_revision: -1, ..create("k", "", 0) }).unwrap();
            let refused = next(&mut answers).await;
            assert!(refused.created && refused.canceled, "{refused:?}");
            assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
        }
        // Neither is answered.
        requests.send(&pb::WatchRequest { request_union: None }).unwrap();
        requests.cancel(4_711).unwrap();
        client.put_kv("k", "v").await.unwrap();
        let told = next(&mut answers).await;
        assert_eq!((told.watch_id, told.events.len()), (7, 1));
        drop(server);
    });
}

#[test]
fn half_closed_watch_stream_goes_on_delivering() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, client) = started(&work, &[]).await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        requests.create(create("k", "", 0)).unwrap();
        requests.half_close().unwrap();
        assert!(next(&mut answers).await.created);
        for revision in 2..50 {
            client.put_kv("k", "v").await.unwrap();
            assert_eq!(next(&mut answers).await.header.unwrap().revision, revision);
        }
        // Half closed before anything was asked.
        let (mut requests, answers) = client.watch().await.unwrap();
        requests.half_close().unwrap();
        client.put_kv("k", "v").await.expect("others are served");
        drop(answers);
    });
}

#[test]
fn one_stream_of_100_000_watchers_costs_bounded_memory_each() {
    block_on(TEST_DEADLINE, async {
        let count = i64::try_from(env_number("PINION_WATCHERS", 100_000)).unwrap();
        let work = WorkDir::new();
        let (server, client) = started(&work, &[]).await;
        let before = server.resident_bytes();
        let (mut requests, mut answers) = client.watch().await.unwrap();
        let began = Instant::now();
        // In portions: a client that never reads its answers is another test.
        for portion in 0..count / 1_000 {
            for number in 0..1_000 {
                let key: Bytes = format!("watched/{:06}", portion * 1_000 + number).into();
                requests.create(pb::WatchCreateRequest { key, ..Default::default() }).unwrap();
            }
            for number in 0..1_000 {
                let created = next(&mut answers).await;
                assert!(created.created && !created.canceled, "{created:?}");
                assert_eq!(created.watch_id, portion * 1_000 + number, "ids are given in order");
            }
        }
        let took = began.elapsed();
        let each = server.resident_bytes().saturating_sub(before) / count.cast_unsigned();
        println!("{count} watchers on one stream: {each} bytes of memory each, created in {took:?}");
        assert!(each < 4_096, "{each} bytes for each watcher");
        // Each still gets its own, and one put does not walk through all of them.
        let mut slowest = Duration::ZERO;
        for number in (0..count).step_by(usize::try_from(count / 200).unwrap()) {
            let began = Instant::now();
            client.put_kv(&format!("watched/{number:06}"), "v").await.unwrap();
            assert_eq!(next(&mut answers).await.watch_id, number);
            slowest = slowest.max(began.elapsed());
        }
        println!("the slowest of 200 puts was seen after {slowest:?}");
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    });
}

/// A client opens a watch and stops reading; 200,000 changes are made. Memory stays bounded, another
/// watcher is told in time, and the reader then gets everything, in order, without a gap.
#[test]
fn watcher_that_does_not_read_costs_bounded_memory_and_nobody_else_time() {
    use pb::request_op::Request as Op;
    block_on(TEST_DEADLINE, async {
        let events = env_number("PINION_UNREAD_EVENTS", 200_000);
        let work = WorkDir::new();
        // The default bound would be in the way of longer runs.
        let quota: &[&str] = &["--quota-backend-bytes=8589934592"];
        let (server, client) = started(&work, quota).await;
        let lazy = Client::connect_with_window(server.client_port(), 65_535).await.unwrap();
        let (mut requests, mut unread) = lazy.watch().await.unwrap();
        requests.create(create("k/", "k0", 1)).unwrap();
        assert!(next(&mut unread).await.created);
        let quick = server.connect().await;
        let (mut requests_of_other, mut other) = quick.watch().await.unwrap();
        requests_of_other.create(create("other", "", 1)).unwrap();
        assert!(next(&mut other).await.created);

        let before = server.resident_bytes();
        let value = Bytes::from(vec![b'v'; 100]);
        // 100 changes in one revision, each to a key of its own.
        let op = |key: usize| {
            let key = format!("k/{key:02}").into();
            let put = pb::PutRequest { key, value: value.clone(), ..Default::default() };
            pb::RequestOp { request: Some(Op::RequestPut(put)) }
        };
        let txn = Rc::new(pb::TxnRequest { success: (0..100).map(op).collect(), ..Default::default() });
        let mut slowest = Duration::ZERO;
        let mut written = 0;
        while written < events {
            // Twenty at once, which share syncs.
            let portion: Vec<_> = (0..20)
                .map(|_| {
                    let (client, txn) = (client.clone(), Rc::clone(&txn));
                    tokio::task::spawn_local(async move { client.txn(&txn).await.unwrap() })
                })
                .collect();
            for done in portion {
                done.await.unwrap();
                written += 100;
            }
            let began = Instant::now();
            client.put_kv("other", "v").await.unwrap();
            assert_eq!(next(&mut other).await.events.len(), 1);
            slowest = slowest.max(began.elapsed());
        }
        let growth = server.resident_bytes_peak().saturating_sub(before);
        // The store itself keeps every change: about 100 bytes of value and its bookkeeping each.
        println!(
            "{written} changes unread: {} bytes more for each, the store's own included; another watcher \
             waited {slowest:?} at most",
            growth / written
        );
        assert!(growth / written < 2_048, "{} bytes for each unread change", growth / written);
        assert!(slowest < Duration::from_secs(2), "another watcher waited {slowest:?}");

        // Now it reads.
        let mut told = 0;
        let mut last = 0;
        while told < written {
            let response = next(&mut unread).await;
            assert!(!response.canceled, "nothing was compacted: {response:?}");
            for event in response.events {
                let revision = event.kv.unwrap().mod_revision;
                assert!(last <= revision, "revision {revision} after {last}");
                last = revision;
                told += 1;
            }
        }
        assert_eq!(told, written);
    });
}

#[test]
fn watcher_that_does_not_read_is_cancelled_when_a_compaction_overtakes_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, client) = started(&work, &[]).await;
        let lazy = Client::connect_with_window(server.client_port(), 16_384).await.unwrap();
        let (mut requests, mut unread) = lazy.watch().await.unwrap();
        requests.create(create("k", "", 1)).unwrap();
        assert!(next(&mut unread).await.created);
        let value = "v".repeat(20_000);
        // Some at once, which share syncs.
        let writers: Vec<_> = (0..10)
            .map(|_| {
                let (client, value) = (client.clone(), value.clone());
                tokio::task::spawn_local(async move {
                    for _ in 0..150 {
                        client.put_kv("k", &value).await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let last = 1 + 10 * 150;
        let request = pb::CompactionRequest { revision: last, physical: true };
        client.compact(&request).await.unwrap();
        // It gets what had been sent or kept for it, without a gap, and then either all or the truth.
        let mut expected = 2;
        loop {
            let response = next(&mut unread).await;
            if response.canceled {
                assert_eq!((response.watch_id, response.compact_revision), (1, last));
                println!("{} of {last} revisions were delivered, then it was cancelled", expected - 1);
                break;
            }
            for event in response.events {
                assert_eq!(event.kv.unwrap().mod_revision, expected, "no gap before the cancel");
                expected += 1;
            }
            assert!(expected <= last, "30 MB were kept for a client that did not read");
        }
        assert!(expected <= last);
    });
}
