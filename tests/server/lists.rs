//! Lists and deletions of many keys beside other calls.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use pinion_kit::client::{Answering, CallError, Client, refusal};
use pinion_kit::pb::{etcdserverpb as pb, mvccpb};
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, env_number, server_is_etcd, skip};
use prost::Message as _;

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

/// A list whose answer has begun, and whose client takes no more than its first bytes until it is read.
struct Stopped(Answering);

impl Stopped {
    async fn begin(server: &Server, request: &pb::RangeRequest) -> Self {
        let client = Client::connect_with_window(server.client_port(), 65_535).await.unwrap();
        Self(client.begin("/etcdserverpb.KV/Range", request).await.unwrap())
    }

    async fn read(self) -> Result<pb::RangeResponse, CallError> {
        Ok(pb::RangeResponse::decode(self.0.finish().await?).unwrap())
    }
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
            lists.push(Stopped::begin(&server, &request).await);
        }
        let half =
            pb::DeleteRangeRequest { range_end: "k/010000".into(), key: "k/".into(), ..Default::default() };
        assert_eq!(client.delete(&half).await.unwrap().deleted, 10_000);
        fill(&client, KEYS / 4, 7).await;
        let current = client.put_kv("other", "x").await.unwrap().header.unwrap().revision;
        // Its answer waits for no list.
        client.compact(&pb::CompactionRequest { revision: current, physical: true }).await.unwrap();
        for (number, list) in lists.into_iter().enumerate() {
            let answer = list.read().await.unwrap();
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
        drop(Stopped::begin(&server, &everything()).await);
        let before = server.resident_bytes_own();
        let mut lists = Vec::new();
        for _ in 0..16 {
            lists.push(Stopped::begin(&server, &everything()).await);
        }
        for number in 0..100 {
            client.put_kv(&format!("other/{number}"), "x").await.unwrap();
        }
        let grown = server.resident_bytes_own().saturating_sub(before);
        assert!(grown < 16 << 20, "16 lists of 6 MB that stand still cost {grown} bytes");
        for list in lists {
            assert_eq!(list.read().await.unwrap().kvs.len(), KEYS);
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
        let first = Stopped::begin(&server, &everything()).await;
        fill(&client, KEYS, 100).await;
        let second = Stopped::begin(&server, &everything()).await;
        let current = client.put_kv("other", "x").await.unwrap().header.unwrap().revision;
        client.compact(&pb::CompactionRequest { revision: current, physical: true }).await.unwrap();
        server.says("lists whose clients read too slowly were ended").await;
        let (code, message) = refusal(first.read().await);
        assert_eq!((code, message.contains("too slowly")), (14, true), "{message}");
        assert_eq!(second.read().await.unwrap().kvs.len(), KEYS);
    });
}

/// Keys that a serializable read counts, which waits for no write.
async fn count_now(client: &Client) -> i64 {
    let count = pb::RangeRequest { count_only: true, serializable: true, ..everything() };
    client.range(&count).await.unwrap().count
}

#[test]
fn a_deletion_of_many_keys_is_seen_whole_or_not_at_all_and_what_comes_behind_it_sees_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"));
        let mut server = launch.start().await;
        let client = server.connect().await;
        let all = i64::try_from(KEYS).unwrap();
        let delete =
            pb::DeleteRangeRequest { key: "k/".into(), range_end: "k0".into(), ..Default::default() };
        for round in 0..3 {
            fill(&client, KEYS, 10).await;
            let (deleter, watcher) = (server.connect().await, server.connect().await);
            let (request, is_done) = (delete.clone(), Rc::new(Cell::new(false)));
            let deletion = tokio::task::spawn_local({
                let is_done = Rc::clone(&is_done);
                async move {
                    let deleted = deleter.delete(&request).await;
                    is_done.set(true);
                    deleted
                }
            });
            let mut seen = Vec::new();
            while !is_done.get() {
                seen.push(count_now(&watcher).await);
                if round == 2 && seen.len() == 3 {
                    break;
                }
            }
            assert!(seen.iter().all(|count| [0, all].contains(count)), "{seen:?}");
            assert!(seen.is_sorted_by(|before, after| after <= before), "{seen:?}");
            if round == 2 {
                break;
            }
            let header = deletion.await.unwrap().unwrap().header.unwrap();
            let put = client.put_kv("other", "x").await.unwrap().header.unwrap();
            assert_eq!(put.revision, header.revision + 1);
            assert_eq!(client.range(&everything()).await.unwrap().count, 0);
        }
        // The process dies wherever the deletion stands: all of it is in the log, or nothing.
        server.kill();
        server = launch.start().await;
        let count = count_now(&server.connect().await).await;
        assert!([0, all].contains(&count), "{count} keys are left");
    });
}

const GROUP: usize = 100;

/// What a member says that has as many proposals as it takes.
const TOO_MANY: &str = "etcdserver: too many requests";

/// An answer, or none where the machine was too slow, or the server ended what held too much for too long or had too
/// much to do.
fn served<T>(answer: Result<T, CallError>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(CallError::Deadline) => None,
        Err(error) => {
            let (code, message) = refusal::<()>(Err(error));
            assert!(code == 14 || message == TOO_MANY, "{code} {message}");
            None
        }
    }
}

/// Everything at once that takes long, of whoever means no good: memory is bounded, others are served, and nothing is
/// seen by halves.
#[test]
fn long_work_of_many_hostile_clients_at_once_costs_bounded_memory_and_shows_nothing_by_halves() {
    if server_is_etcd() {
        return skip("it looks at our bounds");
    }
    let lists = env_number("PINION_HOSTILE_LISTS", 90);
    block_on(4 * TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        fill(&client, KEYS, 300).await;
        let value = Bytes::from(vec![b'v'; 1 << 20]);
        for number in 0..16 {
            let put = pb::PutRequest {
                key: format!("large/{number}").into(),
                value: value.clone(),
                ..Default::default()
            };
            client.put(&put).await.unwrap();
        }
        drop(Stopped::begin(&server, &everything()).await);
        let (before, stored) = (server.resident_bytes_own(), client.status().await.unwrap().db_size);
        let (is_over, most) = (Rc::new(Cell::new(false)), Cell::new(0));

        // Sorted lists: a third is given up in the middle, a third never read, a third read late.
        let lists = async {
            let sorted = pb::RangeRequest { sort_target: 4, sort_order: 2, ..everything() };
            let mut unread = Vec::new();
            for number in 0..lists {
                let client = Client::connect_with_window(server.client_port(), 65_535).await.unwrap();
                let request = sorted.clone();
                let list = tokio::task::spawn_local(async move {
                    let begun =
                        client.begin("/etcdserverpb.KV/Range", &request).await.map(|answer| (answer, client));
                    served(begun)
                });
                match number % 3 {
                    0 => drop(list.await.unwrap()),
                    1 => list.abort(),
                    _ => unread.push(list),
                }
            }
            let mut whole = 0;
            for list in unread {
                let Some((answer, _client)) = list.await.unwrap() else { continue };
                if let Some(bytes) = served(answer.finish().await) {
                    assert_eq!(pb::RangeResponse::decode(bytes).unwrap().kvs.len(), KEYS);
                    whole += 1;
                }
            }
            whole
        };
        // Transactions of 128 ranges over everything, of which each sees one revision.
        let transactions = async {
            let client = server.connect().await;
            let range = || pb::RequestOp {
                request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                    count_only: true,
                    key: "g/".into(),
                    range_end: "g0".into(),
                    ..Default::default()
                })),
            };
            let txn = pb::TxnRequest { success: (0..128).map(|_| range()).collect(), ..Default::default() };
            while !is_over.get() {
                let Some(answer) = served(client.txn(&txn).await) else { continue };
                let counts = answer.responses.into_iter().map(|op| match op.response {
                    Some(pb::response_op::Response::ResponseRange(range)) => range.count,
                    other => panic!("{other:?}"),
                });
                let counts: Vec<_> = counts.collect();
                assert!(
                    counts.iter().all(|count| *count == counts[0] && count % GROUP as i64 == 0),
                    "{counts:?}"
                );
            }
        };
        // Deletions of everything in a loop; what they delete comes back in groups.
        let deletions = async {
            let (filler, deleter) = (server.connect().await, server.connect().await);
            let delete = pb::DeleteRangeRequest { key: "g/".into(), range_end: "g0".into(), prev_kv: true };
            while !is_over.get() {
                for first in (0..3_000).step_by(GROUP) {
                    let put = |number: usize| pb::RequestOp {
                        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                            key: format!("g/{number:06}").into(),
                            value: vec![b'g'; 100].into(),
                            ..Default::default()
                        })),
                    };
                    let success = (first..first + GROUP).map(put).collect();
                    served(filler.txn(&pb::TxnRequest { success, ..Default::default() }).await);
                }
                let Some(deleted) = served(deleter.delete(&delete).await) else { continue };
                let told = deleted.prev_kvs.len();
                assert_eq!((usize::try_from(deleted.deleted).unwrap(), told % GROUP), (told, 0));
            }
        };
        // Large values of a hundred clients, to one key.
        let values = async {
            let mut clients = Vec::new();
            for _ in 0..100 {
                let (client, value) = (server.connect().await, value.clone());
                clients.push(tokio::task::spawn_local(async move {
                    let put = pb::PutRequest { key: "large/0".into(), value, ..Default::default() };
                    client.put(&put).await
                }));
            }
            for client in clients {
                served(client.await.unwrap());
            }
        };
        let other = async {
            let client = server.connect().await;
            let count = pb::RangeRequest {
                count_only: true,
                serializable: true,
                key: "g/".into(),
                range_end: "g0".into(),
                ..Default::default()
            };
            let mut calls = 0_u32;
            while !is_over.get() {
                if let Some(found) = served(client.range(&count).await) {
                    assert_eq!(
                        found.count % GROUP as i64,
                        0,
                        "{} keys: a write is seen by halves",
                        found.count
                    );
                }
                calls += u32::from(served(client.put_kv("other", "x").await).is_some());
                most.set(server.resident_bytes_own().max(most.get()));
            }
            calls
        };
        let hostile = async {
            let (whole, ()) = tokio::join!(lists, values);
            is_over.set(true);
            whole
        };
        let (whole, (), (), calls) = tokio::join!(hostile, transactions, deletions, other);
        let written = client.status().await.unwrap().db_size - stored;
        let grown = most.get().saturating_sub(before);
        println!(
            "{grown} bytes more, {written} more are stored; {calls} puts of another client, {whole} late lists whole"
        );
        // Beside what is stored and its copy in the log's memory: two pieces a list, sorts, requests under way.
        assert!(
            grown < written.unsigned_abs() + (512 << 20),
            "{grown} bytes more, and {written} were written"
        );
        assert!(10 < calls, "another client was served {calls} times");
    });
}

#[test]
fn many_leases_the_many_keys_of_one_and_the_events_of_a_large_deletion_are_told_whole_and_in_order() {
    block_on(TEST_DEADLINE, async {
        const LEASES: i64 = 1_500;
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = Rc::new(server.connect().await);
        let granting: Vec<_> = (1..=LEASES)
            .map(|id| {
                let client = Rc::clone(&client);
                tokio::task::spawn_local(async move {
                    // Each ends behind all with larger ids.
                    let grant = pb::LeaseGrantRequest { ttl: 1_000_000 - 10 * id, id };
                    client.lease_grant(&grant).await.unwrap();
                })
            })
            .collect();
        for grant in granting {
            grant.await.unwrap();
        }
        for first in (0..KEYS).step_by(100) {
            let put = |number: usize| {
                let key = format!("k/{number:06}").into();
                let put = pb::PutRequest { key, lease: 7, ..Default::default() };
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
            };
            let success = (first..first + 100).map(put).collect();
            client.txn(&pb::TxnRequest { success, ..Default::default() }).await.unwrap();
        }
        let told = client.lease_time_to_live(7, true).await.unwrap();
        assert_eq!((told.id, told.granted_ttl), (7, 999_930));
        assert!((999_000..=999_930).contains(&told.ttl), "{}", told.ttl);
        let mut keys = told.keys;
        // etcd tells them in no order.
        keys.sort_unstable();
        assert!(
            keys.iter()
                .eq(&(0..KEYS).map(|number| Bytes::from(format!("k/{number:06}"))).collect::<Vec<_>>())
        );
        assert_eq!(client.lease_time_to_live(7, false).await.unwrap().keys.len(), 0);
        let ids: Vec<i64> = client.leases().await.unwrap().leases.iter().map(|lease| lease.id).collect();
        assert!(ids.iter().copied().eq((1..=LEASES).rev()), "the soonest due first");

        let watching = server.connect().await;
        let (mut requests, mut answers) = watching.watch().await.unwrap();
        let watch = |fragment| pb::WatchCreateRequest {
            key: "k/".into(),
            range_end: "k0".into(),
            prev_kv: true,
            fragment,
            ..Default::default()
        };
        requests.create(watch(false)).unwrap();
        requests.create(watch(true)).unwrap();
        for _ in 0..2 {
            assert!(answers.next().await.unwrap().unwrap().created);
        }
        let all = pb::DeleteRangeRequest { key: "k/".into(), range_end: "k0".into(), ..Default::default() };
        let deleted = client.delete(&all).await.unwrap();
        assert_eq!(deleted.deleted, KEYS as i64);
        let mut of_watch = [Vec::new(), Vec::new()];
        let (mut whole, mut parts) = (0, 0);
        while of_watch.iter().any(|events: &Vec<mvccpb::Event>| events.len() < KEYS) {
            let response = answers.next().await.unwrap().unwrap();
            assert_eq!(response.header.unwrap().revision, deleted.header.unwrap().revision);
            let slot = usize::try_from(response.watch_id).unwrap();
            if slot == 0 {
                whole += 1
            } else {
                parts += 1
            }
            of_watch[slot].extend(response.events);
        }
        assert_eq!(whole, 1, "a revision is one response");
        assert!(1 <= parts, "{parts} fragments");
        assert!(of_watch[0] == of_watch[1]);
        for (number, event) in of_watch[0].iter().enumerate() {
            let before = event.prev_kv.as_ref().unwrap();
            assert_eq!((event.r#type, before.lease), (1, 7));
            assert_eq!(before.key, format!("k/{number:06}").as_bytes());
        }
        // A stream of many watchers that ends takes them along, and others go on.
        drop((requests, answers));
        client.put_kv("other", "x").await.unwrap();
    });
}
