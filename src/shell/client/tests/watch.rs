//! Watch streams end to end: what clients get, and what they can make the shard hold.

use h2::{Reason, RecvStream, SendStream};
use pb::watch_request::RequestUnion;

use super::super::call::local_watch::News;
use super::super::call::outbox::SHARD_BYTES_MAX;
use super::super::call::place::Kind;
use super::*;
use crate::watch::WatchRange;

const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// What one stream of which nothing is read may have unsent: a 256th of the budget, one response that
/// passes it, and the overhead of its last piece.
const STREAM_BYTES_MAX: u64 = (SHARD_BYTES_MAX / 256) as u64 + 64 * 1024;

/// A client's watch stream.
pub(super) struct Watch {
    requests: SendStream<Bytes>,
    responses: RecvStream,
    received: Vec<u8>,
}

impl Watch {
    pub(super) async fn open(client: &Client) -> Self {
        Self::open_with(client, client.request(WATCH)).await
    }

    async fn open_with(client: &Client, request: http::request::Builder) -> Self {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (response, requests) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        // Before anything is asked.
        let response = tokio::time::timeout(PATIENCE, response).await.expect("headers in time").unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self { requests, responses: response.into_body(), received: Vec::new() }
    }

    fn send_bytes(&mut self, bytes: Vec<u8>) {
        self.requests.send_data(Bytes::from(bytes), false).unwrap();
    }

    fn send(&mut self, union: RequestUnion) {
        self.send_bytes(framed(&pb::WatchRequest { request_union: Some(union) }.encode_to_vec()));
    }

    fn create(&mut self, create: pb::WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create));
    }

    /// Watches a key, and hears that it does.
    pub(super) async fn created(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.create(create);
        let created = self.next().await;
        assert!(created.created, "{created:?}");
        created
    }

    /// Bytes of one more message, if the stream goes on.
    async fn next_or_end(&mut self) -> Option<pb::WatchResponse> {
        let work = async {
            loop {
                if let Some(prefix) = self.received.first_chunk::<PREFIX_BYTES>() {
                    let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                    if PREFIX_BYTES + length <= self.received.len() {
                        let message = self.received[PREFIX_BYTES..PREFIX_BYTES + length].to_vec();
                        self.received.drain(..PREFIX_BYTES + length);
                        return Some(pb::WatchResponse::decode(&message[..]).unwrap());
                    }
                }
                let piece = self.responses.data().await?.ok()?;
                self.responses.flow_control().release_capacity(piece.len()).unwrap();
                self.received.extend_from_slice(&piece);
            }
        };
        tokio::time::timeout(PATIENCE, work).await.expect("a response in time")
    }

    pub(super) async fn next(&mut self) -> pb::WatchResponse {
        self.next_or_end().await.expect("the stream goes on")
    }

    /// Reads up to the end and returns its status.
    async fn status(&mut self) -> (u32, String) {
        while self.next_or_end().await.is_some() {}
        let trailers = tokio::time::timeout(PATIENCE, self.responses.trailers()).await.unwrap();
        let trailers = trailers.unwrap().expect("a status");
        let text = trailers.get("grpc-message").map_or("", |text| text.to_str().unwrap());
        (trailers["grpc-status"].to_str().unwrap().parse().unwrap(), percent_decode(text))
    }
}

pub(super) fn of_key(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}

fn of_all() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: Bytes::from_static(b"\0"), ..Default::default() }
}

async fn put_ok(client: &Client, key: &str, value: &[u8]) {
    assert_eq!(client.call(PUT, put(key, value)).await.status(), (0, String::new()));
}

fn revisions(response: &pb::WatchResponse) -> Vec<i64> {
    response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

#[test]
fn one_stream_creates_watches_cancels_and_asks_for_progress() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        let created = watch.created(of_key("k")).await;
        let header = created.header.unwrap();
        assert_eq!((header.cluster_id, header.member_id), (CLUSTER.0, MEMBER.0));
        assert_eq!((header.raft_term, header.revision, created.watch_id), (TERM.0, 1, 0));
        put_ok(&client, "k", b"one").await;
        put_ok(&client, "other", b"x").await;
        let with_previous = pb::WatchCreateRequest { prev_kv: true, ..of_key("k") };
        assert_eq!(watch.next().await.events[0].kv.as_ref().unwrap().value, "one");
        assert_eq!(watch.created(with_previous).await.watch_id, 1);
        let delete = pb::DeleteRangeRequest { key: Bytes::from_static(b"k"), ..Default::default() };
        client.call("/etcdserverpb.KV/DeleteRange", framed(&delete.encode_to_vec())).await;
        for _ in 0..2 {
            let deleted = watch.next().await;
            assert_eq!((deleted.header.as_ref().unwrap().revision, revisions(&deleted)), (4, vec![4]));
            let event = &deleted.events[0];
            assert_eq!(event.r#type, mvccpb::event::EventType::Delete as i32);
            let previous = event.prev_kv.as_ref().map(|kv| &kv.value[..]);
            assert_eq!(previous, (deleted.watch_id == 1).then_some(&b"one"[..]));
        }
        watch.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
        let progress = watch.next().await;
        assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, 4));
        assert!(progress.events.is_empty());
        watch.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 0 }));
        let canceled = watch.next().await;
        assert!(canceled.canceled && canceled.watch_id == 0 && canceled.cancel_reason.is_empty());
        server.until("one watcher is left", |counters| counters.watchers == 1).await;
        let refused = watch.created(pb::WatchCreateRequest { start_revision: -1, ..of_key("k") }).await;
        assert!(refused.canceled && refused.watch_id == -1 && refused.compact_revision == 0);
        assert_eq!(refused.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    });
}

#[test]
fn history_is_sent_whole_and_in_order_and_the_present_follows_it() {
    const PUTS: i64 = 300;
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for n in 0..PUTS {
            put_ok(&client, &format!("k{n:03}"), b"v").await;
        }
        let mut watch = Watch::open(&client).await;
        watch.created(pb::WatchCreateRequest { start_revision: 2, ..of_all() }).await;
        put_ok(&client, "last", b"v").await;
        let mut seen = Vec::new();
        while seen.last() != Some(&(PUTS + 2)) {
            seen.extend(revisions(&watch.next().await));
        }
        assert_eq!(seen, (2..=PUTS + 2).collect::<Vec<i64>>());

        let compaction = pb::CompactionRequest { revision: 100, physical: false };
        client.call("/etcdserverpb.KV/Compact", framed(&compaction.encode_to_vec())).await;
        let created = watch.created(pb::WatchCreateRequest { start_revision: 99, ..of_all() }).await;
        let canceled = watch.next().await;
        assert_eq!((canceled.watch_id, canceled.canceled), (created.watch_id, true));
        assert_eq!((canceled.compact_revision, canceled.header.unwrap().revision), (100, 0));
    });
}

#[test]
fn each_of_many_streams_and_connections_gets_its_own() {
    let server = Server::start(quick());
    client(async {
        let mut watches = Vec::new();
        for connection in 0..5 {
            let client = Client::connect(&server).await;
            for stream in 0..20 {
                let mut watch = Watch::open(&client).await;
                watch.created(of_key(&format!("{connection}/{stream}"))).await;
                watch.created(of_key("all")).await;
                watches.push(watch);
            }
        }
        assert_eq!(server.counters().watch_streams, 100);
        assert_eq!(server.counters().watchers, 200);
        let client = Client::connect(&server).await;
        for n in (0..100).rev() {
            put_ok(&client, &format!("{}/{}", n / 20, n % 20), b"v").await;
        }
        put_ok(&client, "all", b"v").await;
        for (n, watch) in (0..).zip(&mut watches) {
            let (own, all) = (watch.next().await, watch.next().await);
            assert_eq!((own.watch_id, revisions(&own)), (0, vec![2 + 99 - n]));
            assert_eq!((all.watch_id, revisions(&all)), (1, vec![102]));
        }
    });
}

#[test]
fn hundred_thousand_watchers_fit_one_stream_and_leave_with_it() {
    let count = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        for n in 0..count {
            watch.create(of_key(&format!("key-{n:06}")));
        }
        for _ in 0..count {
            assert!(watch.next().await.created);
        }
        assert_eq!(server.counters().watchers, count);
        put_ok(&client, "key-000777", b"v").await;
        let response = watch.next().await;
        assert_eq!((response.watch_id, revisions(&response)), (777, vec![2]));
        drop(watch);
        server.until("all watchers are gone", |counters| counters.watchers == 0).await;
        // The orders for that go out bit by bit.
        while server.run(|_, backend| backend.feed.borrow().subscriptions_count()) > 0 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn half_closed_stream_gets_events_until_it_is_reset() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        watch.created(of_key("k")).await;
        watch.requests.send_data(Bytes::new(), true).unwrap();
        for revision in 2..10 {
            put_ok(&client, "k", b"v").await;
            assert_eq!(revisions(&watch.next().await), [revision]);
        }
        watch.requests.send_reset(Reason::CANCEL);
        server.until("the stream is gone", |counters| counters.watch_streams == 0).await;
        assert_eq!(server.counters().watchers, 0);
    });
}

#[test]
fn stream_or_connection_that_ends_takes_its_watchers_along() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut kept = Watch::open(&client).await;
        kept.created(of_key("k")).await;
        let mut reset = Watch::open(&client).await;
        reset.created(of_key("k")).await;
        {
            let doomed = Client::connect_alone(&server).await;
            let mut watch = Watch::open(&doomed.0).await;
            watch.created(of_key("k")).await;
            let mut half_closed = Watch::open(&doomed.0).await;
            half_closed.created(of_key("k")).await;
            half_closed.requests.send_data(Bytes::new(), true).unwrap();
            assert_eq!(server.counters().watchers, 4);
            doomed.1.abort();
        }
        server.until("the connection's are gone", |counters| counters.watchers == 2).await;
        reset.requests.send_reset(Reason::CANCEL);
        server.until("the stream's is gone", |counters| counters.watchers == 1).await;
        put_ok(&client, "k", b"v").await;
        assert_eq!(revisions(&kept.next().await), [2]);
    });
}

#[test]
fn garbage_ends_its_stream_with_a_status_behind_what_was_answered() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut kept = Watch::open(&client).await;
        kept.created(of_key("k")).await;
        for (garbage, code, text) in [
            (framed(b"\xff\xff\xff"), 13, "grpc: error unmarshalling request: "),
            (vec![7, 0, 0, 0, 0], 13, "grpc: received unexpected payload format 7"),
            (vec![1, 0, 0, 0, 0], 13, "grpc: compressed flag set with identity or empty encoding"),
            (vec![0, 0xff, 0, 0, 0], 8, "grpc: received message larger than max (4278190080 vs. 2097152)"),
        ] {
            let mut watch = Watch::open(&client).await;
            watch.created(of_key("k")).await;
            watch.send_bytes(garbage);
            let status = watch.status().await;
            assert_eq!(status.0, code, "{status:?}");
            assert!(status.1.starts_with(text), "{status:?}");
        }
        let mut watch = Watch::open(&client).await;
        watch.requests.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), true).unwrap();
        assert_eq!(watch.status().await, (13, "unexpected EOF".into()));
        // Nothing is asked, so nothing is answered.
        kept.send_bytes(framed(b""));
        kept.send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: 77 }));
        put_ok(&client, "k", b"v").await;
        assert_eq!(revisions(&kept.next().await), [2]);
        server.until("one watcher is left", |counters| counters.watchers == 1).await;
    });
}

#[test]
fn clients_deadline_ends_a_stream() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let request = client.request(WATCH).header("grpc-timeout", "100m");
        let mut watch = Watch::open_with(&client, request).await;
        watch.created(of_key("k")).await;
        assert_eq!(watch.status().await, (4, "context deadline exceeded".into()));
    });
}

#[test]
fn gzipped_requests_are_taken() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let request = client.request(WATCH).header("grpc-encoding", "gzip");
        let mut watch = Watch::open_with(&client, request).await;
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(of_key("k"))) };
        let mut bytes = framed(&super::super::grpc::gzip::deflate(&[&create.encode_to_vec()]));
        bytes[0] = 1;
        watch.send_bytes(bytes);
        assert!(watch.next().await.created);
    });
}

#[test]
fn stop_ends_streams_so_that_clients_go_elsewhere() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        watch.created(of_key("k")).await;
        let mut half_closed = Watch::open(&client).await;
        half_closed.requests.send_data(Bytes::new(), true).unwrap();
        let local = server.run(|shard, _| {
            let mut local = shard.watch_locally(Bytes::from_static(b"k"), 0);
            let (out, result) = mpsc::channel();
            glommio::spawn_local(async move { out.send(local.next().await.map(drop)).unwrap() }).detach();
            result
        });
        server.tell(Control::Stop);
        let stopped = (14, "etcdserver: server stopped".to_owned());
        assert_eq!(watch.status().await, stopped);
        assert_eq!(half_closed.status().await, stopped);
        assert_eq!(local.recv_timeout(PATIENCE).unwrap().unwrap_err().message, stopped.1);
    });
}

#[test]
fn progress_is_notified_at_the_interval_to_who_asked_for_it() {
    let mut config = quick();
    config.watch_progress_interval = Duration::from_millis(100);
    let server = Server::start(config);
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        watch.created(of_key("k")).await;
        watch.created(pb::WatchCreateRequest { progress_notify: true, ..of_key("k") }).await;
        put_ok(&client, "other", b"v").await;
        for _ in 0..3 {
            let progress = watch.next().await;
            assert_eq!((progress.watch_id, progress.header.unwrap().revision), (1, 2));
            assert!(progress.events.is_empty() && !progress.created && !progress.canceled);
        }
    });
}

#[test]
fn orders_wait_for_full_rings_and_none_is_lost() {
    let server = Server::start(quick());
    server.tell(Control::Full(true));
    server.counters();
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        for n in 0..2_000 {
            watch.create(of_key(&format!("k{n}")));
        }
        server.until("watchers wait", |counters| 0 < counters.watchers).await;
        server.tell(Control::Full(false));
        for n in 0..2_000 {
            assert_eq!(watch.next().await.watch_id, n);
        }
    });
}

/// Puts so many times, and reads each change from the watch of someone who is not slow.
async fn put_and_watch(client: &Client, watch: &mut Watch, value: &[u8], count: i64) {
    for _ in 0..count {
        put_ok(client, "k", value).await;
        assert_eq!(watch.next().await.events[0].kv.as_ref().unwrap().value.len(), value.len());
    }
}

#[test]
fn slow_reader_holds_a_bounded_amount_others_go_on_and_it_gets_everything_once_it_reads() {
    let server = Server::start(quick());
    client(async {
        let value = vec![b'v'; 4_000];
        let slow_client = Client::connect(&server).await;
        let mut slow = Watch::open(&slow_client).await;
        slow.created(of_key("k")).await;
        let client = Client::connect(&server).await;
        let mut fast = Watch::open(&client).await;
        fast.created(of_key("k")).await;
        put_and_watch(&client, &mut fast, &value, 1_000).await;
        let counters = server.counters();
        assert!(counters.watch_unsent_bytes <= STREAM_BYTES_MAX, "{counters:?}");
        assert!(STREAM_BYTES_MAX / 2 <= counters.watch_unsent_bytes, "{counters:?}");
        assert_eq!(counters.watchers, 2);
        // The slow one's own connection serves calls.
        put_ok(&slow_client, "other", b"v").await;
        let mut seen = Vec::new();
        while seen.len() < 1_000 {
            seen.extend(revisions(&slow.next().await));
        }
        assert_eq!(seen, (2..1_002).collect::<Vec<i64>>());
        server.until("nothing is left", |counters| counters.watch_unsent_bytes == 0).await;
    });
}

#[test]
fn client_that_reads_no_watch_response_is_not_given_up() {
    let mut config = quick();
    config.pressure_timeout = Duration::from_millis(100);
    let server = Server::start(config);
    client(async {
        // A window so large that it is the socket which is full, and a process that has stopped.
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (requests, mut connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
        let stopped = Client { requests, authority: server.address.to_string() };
        let watching = async {
            let mut watch = Watch::open(&stopped).await;
            watch.created(of_key("k")).await;
            watch
        };
        let watch = tokio::select! {
            watch = watching => watch,
            _ = &mut connection => panic!("the connection ended"),
        };
        let client = Client::connect(&server).await;
        for _ in 0..200 {
            put_ok(&client, "k", &vec![b'v'; 100_000]).await;
        }
        // Several pressure timeouts, measured by the server's clock.
        for _ in 0..10 {
            let request = client.request(WATCH).header("grpc-timeout", "50m");
            let mut timer = Watch::open_with(&client, request).await;
            timer.status().await;
        }
        let counters = server.counters();
        assert_eq!((counters.stalled, counters.watchers), (0, 1), "{counters:?}");
        assert!(0 < counters.watch_unsent_bytes, "{counters:?}");
        drop((watch, connection));
    });
}

/// A client as gRPC-Go is one: streams that nobody reads take nothing from the connection's window.
async fn connect_with_wide_window(server: &Server) -> Client {
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(1 << 30);
    Client::connect_with(server, &mut builder).await
}

#[test]
fn streams_that_nobody_reads_share_a_budget_and_a_reader_is_served_beside_them() {
    const SLOW: usize = 1_000;
    let server = Server::start(quick());
    client(async {
        let value = vec![b'v'; 8_000];
        let mut slow = Vec::new();
        for _ in 0..4 {
            let client = connect_with_wide_window(&server).await;
            for _ in 0..SLOW / 4 {
                let mut watch = Watch::open(&client).await;
                watch.created(of_key("k")).await;
                slow.push(watch);
            }
        }
        let client = Client::connect(&server).await;
        let mut fast = Watch::open(&client).await;
        fast.created(of_key("k")).await;
        put_and_watch(&client, &mut fast, &value, 100).await;
        let counters = server.counters();
        println!("{SLOW} slow streams hold {} KiB", counters.watch_unsent_bytes >> 10);
        assert!(counters.watch_unsent_bytes <= SHARD_BYTES_MAX as u64, "{counters:?}");
        assert_eq!((counters.watch_resets, counters.evicted), (0, 0));
        // One of them wakes up and gets everything.
        let mut late = slow.pop().unwrap();
        let mut seen = Vec::new();
        while seen.len() < 100 {
            seen.extend(revisions(&late.next().await));
        }
        assert_eq!(seen, (2..102).collect::<Vec<i64>>());
    });
    client(server.until("nothing is left", |counters| counters.watch_unsent_bytes == 0));
}

#[test]
fn budget_full_of_large_responses_is_taken_from_streams_that_stand_still() {
    const SLOW: usize = 200;
    let mut config = quick();
    config.pressure_timeout = Duration::from_millis(100);
    let server = Server::start(config);
    client(async {
        let mut slow = Vec::new();
        let slow_client = connect_with_wide_window(&server).await;
        for _ in 0..SLOW {
            let mut watch = Watch::open(&slow_client).await;
            watch.created(of_key("k")).await;
            slow.push(watch);
        }
        let client = Client::connect(&server).await;
        let mut fast = Watch::open(&client).await;
        fast.created(of_key("k")).await;
        let value = vec![b'v'; 1 << 20];
        put_and_watch(&client, &mut fast, &value, 2).await;
        let relieved = |counters: &Counters| {
            0 < counters.watch_resets && counters.watch_unsent_bytes <= SHARD_BYTES_MAX as u64
        };
        let counters = server.until("the budget has room", relieved).await;
        assert!(counters.watch_resets < SLOW as u64 / 2, "{counters:?}");
        assert_eq!((counters.evicted, counters.stalled), (0, 0), "the connection stays");
        put_ok(&slow_client, "other", b"v").await;
    });
    client(server.until("nothing is left", |counters| counters.watch_unsent_bytes == 0));
}

#[test]
fn large_values_are_sent_whole_with_and_without_their_previous_ones() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        watch.created(of_key("k")).await;
        watch.created(pb::WatchCreateRequest { prev_kv: true, ..of_key("k") }).await;
        let mut before = Vec::new();
        for size in [10, 60_000, 65_500, 70_000, 1_000_000, 20] {
            let value: Vec<u8> = (0..size).map(|n: usize| (n * 7 + size).to_le_bytes()[0]).collect();
            put_ok(&client, "k", &value).await;
            for _ in 0..2 {
                let response = watch.next().await;
                let event = &response.events[0];
                assert!(event.kv.as_ref().unwrap().value == value);
                let previous = event.prev_kv.as_ref().map_or(&[][..], |kv| &kv.value);
                assert!(previous == if response.watch_id == 1 { &before[..] } else { &[] });
            }
            before = value;
        }
    });
}

#[test]
fn unfinished_requests_are_counted_and_given_back() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let mut watch = Watch::open(&client).await;
        let key = vec![b'k'; 1 << 20];
        let request = of_key(std::str::from_utf8(&key).unwrap());
        let request_union = Some(RequestUnion::CreateRequest(request));
        let message = framed(&pb::WatchRequest { request_union }.encode_to_vec());
        let uploads = || server.run(|shard, _| shard.places.bytes(Kind::Watch));
        let idle = uploads();
        let (first, rest) = message.split_at(message.len() / 2);
        watch.send_bytes(first.to_vec());
        while uploads() < idle + first.len() {
            tokio::task::yield_now().await;
        }
        watch.send_bytes(rest.to_vec());
        assert!(watch.next().await.created);
        assert_eq!(uploads(), idle);
    });
}

#[test]
fn task_of_the_member_watches_falls_behind_and_hears_of_compaction() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for n in 0..200 {
            put_ok(&client, &format!("k{n:03}"), &vec![b'v'; 10_000]).await;
        }
        // 2 MB of history in a mailbox of half a megabyte, to a task that takes one piece at a time.
        let result = server.run(|shard, _| {
            let range = WatchRange::new(Bytes::from_static(b"k"), Bytes::from_static(b"l"));
            let mut local = shard.watch_puts_locally(range, 2);
            let (out, result) = mpsc::channel();
            glommio::spawn_local(async move {
                let mut seen = Vec::new();
                while seen.len() < 201 {
                    match local.next().await.unwrap() {
                        News::Events(events) => seen.extend(events.iter().map(|event| event.revision)),
                        News::Compacted(revision) => panic!("compacted at {revision}"),
                    }
                }
                out.send(seen).unwrap();
            })
            .detach();
            result
        });
        put_ok(&client, "k999", b"v").await;
        let seen = result.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seen, (2..=202).collect::<Vec<i64>>());
        server.until("it has left", |counters| counters.watchers == 0).await;

        let compaction = pb::CompactionRequest { revision: 100, physical: false };
        client.call("/etcdserverpb.KV/Compact", framed(&compaction.encode_to_vec())).await;
        let result = server.run(|shard, _| {
            let range = WatchRange::new(Bytes::from_static(b"k"), Bytes::from_static(b"\0"));
            let mut local = shard.watch_puts_locally(range, 50);
            let (out, result) = mpsc::channel();
            glommio::spawn_local(async move {
                for _ in 0..2 {
                    // A wait that is dropped loses nothing.
                    let waited = futures_lite::future::poll_once(local.next()).await;
                    let news = match waited {
                        Some(news) => news,
                        None => local.next().await,
                    };
                    out.send(format!("{news:?}")).unwrap();
                }
            })
            .detach();
            result
        });
        for _ in 0..2 {
            assert_eq!(result.recv_timeout(PATIENCE).unwrap(), "Ok(Compacted(100))");
        }
    });
}
