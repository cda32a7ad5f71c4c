//! Lists of many keys beside other calls.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use pinion_kit::client::{CallError, Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, server_is_etcd, skip};

const KEYS: usize = 20_000;

const LISTS: usize = 30;

/// Puts so many keys, with values of so many bytes.
async fn fill(client: &Client, keys: usize, value_bytes: usize) {
    for first in (0..keys).step_by(100) {
        let put = |number: usize| {
            let (key, value) = (format!("k/{number:06}").into(), vec![b'v'; value_bytes].into());
            let put = pb::PutRequest { key, value, ..Default::default() };
            pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
        };
        let success = (first..first + 100).map(put).collect();
        client.txn(&pb::TxnRequest { success, ..Default::default() }).await.unwrap();
    }
}

fn everything() -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from_static(b"k/"),
        range_end: Bytes::from_static(b"k0"),
        ..Default::default()
    }
}

/// A list whose client takes no more than the first bytes until it is awaited.
type Stopped = Pin<Box<dyn Future<Output = Result<pb::RangeResponse, CallError>>>>;

/// Begins a list and waits until the server has begun it, too.
async fn begin_and_stop(server: &Server, request: pb::RangeRequest) -> Stopped {
    let client = Client::connect_with_window(server.client_port(), 65_535).await.unwrap();
    let listing = client.clone();
    let mut list: Stopped = Box::pin(async move { listing.range(&request).await });
    std::future::poll_fn(|cx| {
        assert!(list.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    // Reads of one connection are taken in order.
    client.range(&pb::RangeRequest { count_only: true, ..everything() }).await.unwrap();
    list
}

#[test]
fn what_comes_behind_many_lists_waits_for_one_of_them_and_not_for_all() {
    if server_is_etcd() {
        return skip("etcd answers side by side");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        fill(&client, KEYS, 0).await;
        let lease = client.lease_grant(&pb::LeaseGrantRequest { ttl: 600, id: 0 }).await.unwrap().id;
        // A connection has few lists under way at a time.
        let mut listers = Vec::new();
        for _ in 0..LISTS {
            listers.push(server.connect().await);
        }
        let listed = Rc::new(Cell::new(0));
        let lists: Vec<_> = listers
            .into_iter()
            .map(|lister| {
                let listed = Rc::clone(&listed);
                tokio::task::spawn_local(async move {
                    let request = pb::RangeRequest { keys_only: true, ..everything() };
                    assert_eq!(lister.range(&request).await.unwrap().kvs.len(), KEYS);
                    listed.set(listed.get() + 1);
                })
            })
            .collect();
        // The lists leave first.
        tokio::task::yield_now().await;
        let (mut renewals, mut renewed) = client.keep_alive().await.unwrap();
        renewals.send(&pb::LeaseKeepAliveRequest { id: lease }).unwrap();
        assert!(renewed.next().await.unwrap().is_some());
        client.put_kv("other", "x").await.unwrap();
        let before = listed.get();
        for list in lists {
            list.await.unwrap();
        }
        assert!(before < LISTS / 2, "a renewal and a put came behind {before} of {LISTS} lists");
    });
}

#[test]
fn a_list_that_is_read_late_answers_what_there_was_when_it_was_asked_for() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        fill(&client, KEYS, 100).await;
        let sorted = pb::RangeRequest { sort_order: 2, sort_target: 4, ..everything() };
        let requests = [everything(), sorted, pb::RangeRequest { limit: 15_000, ..everything() }];
        let before = client.range(&everything()).await.unwrap();
        let revision = before.header.unwrap().revision;
        let mut lists = Vec::new();
        for request in requests {
            lists.push(begin_and_stop(&server, request).await);
        }
        let half =
            pb::DeleteRangeRequest { range_end: "k/010000".into(), key: "k/".into(), ..Default::default() };
        assert_eq!(client.delete(&half).await.unwrap().deleted, 10_000);
        fill(&client, KEYS / 4, 7).await;
        let current = client.put_kv("other", "x").await.unwrap().header.unwrap().revision;
        // Its answer waits for no list.
        client.compact(&pb::CompactionRequest { revision: current, physical: true }).await.unwrap();
        for (number, list) in lists.into_iter().enumerate() {
            let answer = list.await.unwrap();
            assert_eq!(answer.header.unwrap().revision, revision);
            let taken = if number == 2 { 15_000 } else { KEYS };
            assert_eq!((answer.count, answer.more), (20_000, number == 2));
            assert!(answer.kvs == before.kvs[..taken], "list {number}");
        }
        let now = client.range(&everything()).await.unwrap();
        assert_eq!(now.kvs.len(), 10_000 + KEYS / 4);
    });
}

#[test]
fn a_list_that_stops_costs_a_few_pieces_and_nothing_of_what_others_do() {
    if server_is_etcd() {
        return skip("etcd makes its answers whole");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        // Less log than an idle member writes a checkpoint for.
        fill(&client, KEYS, 300).await;
        // The shard and the store have whatever they need for one.
        drop(begin_and_stop(&server, everything()).await);
        let before = server.resident_bytes_own();
        let mut lists = Vec::new();
        for _ in 0..16 {
            lists.push(begin_and_stop(&server, everything()).await);
        }
        for number in 0..100 {
            client.put_kv(&format!("other/{number}"), "x").await.unwrap();
        }
        let grown = server.resident_bytes_own().saturating_sub(before);
        assert!(grown < 16 << 20, "16 lists of 6 MB that stand still cost {grown} bytes");
        for list in lists {
            assert_eq!(list.await.unwrap().kvs.len(), KEYS);
        }
    });
}

#[test]
fn a_list_that_holds_too_much_history_ends_as_unavailable_and_a_line_says_so() {
    if server_is_etcd() {
        return skip("the flag is ours");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag("--pinned-history-bytes=1000000").start().await;
        let client = server.connect().await;
        fill(&client, KEYS, 100).await;
        let first = begin_and_stop(&server, everything()).await;
        fill(&client, KEYS, 100).await;
        let second = begin_and_stop(&server, everything()).await;
        let current = client.put_kv("other", "x").await.unwrap().header.unwrap().revision;
        client.compact(&pb::CompactionRequest { revision: current, physical: true }).await.unwrap();
        server.says("lists whose clients read too slowly were ended").await;
        let (code, message) = refusal(first.await);
        assert_eq!((code, message.contains("too slowly")), (14, true), "{message}");
        assert_eq!(second.await.unwrap().kvs.len(), KEYS);
    });
}
