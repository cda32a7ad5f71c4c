//! Leases: the unary calls and the stream of renewals.

use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response as HttpResponse};

use super::*;

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

pub(super) fn grant(id: i64, ttl: i64) -> Vec<u8> {
    framed(&pb::LeaseGrantRequest { id, ttl }.encode_to_vec())
}

pub(super) async fn granted(client: &Client, id: i64, ttl: i64) -> pb::LeaseGrantResponse {
    client.call(GRANT, grant(id, ttl)).await.message()
}

#[test]
fn grant_is_answered_with_the_id_and_time_that_were_proposed() {
    let mut config = quick();
    config.lease_ttl_min_s = 3;
    let server = Server::start(config);
    client(async {
        let client = Client::connect(&server).await;
        let response = granted(&client, 7, 100).await;
        let header = response.header.as_ref().unwrap();
        assert_eq!((header.cluster_id, header.member_id), (CLUSTER.0, MEMBER.0));
        assert_eq!((header.revision, header.raft_term), (1, TERM.0));
        assert_eq!((response.id, response.ttl, &*response.error), (7, 100, ""));
        for (asked, ttl) in [(0, 3), (-5, 3), (i64::MIN, 3), (2, 3), (4, 4), (9_000_000_000, 9_000_000_000)] {
            assert_eq!(granted(&client, -1, asked).await.ttl, ttl, "asked for {asked}");
        }
        let status = client.call(GRANT, grant(8, 9_000_000_001)).await.status();
        assert_eq!(status, (11, "etcdserver: too large lease TTL".into()));
        assert_eq!(server.model().0.leases.keys().copied().collect::<Vec<_>>(), [-1, 7]);
    });
}

#[test]
fn leases_without_a_name_get_positive_ones_that_all_differ() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for _ in 0..100 {
            assert!(0 < granted(&client, 0, 60).await.id);
        }
        assert_eq!(server.model().0.leases.len(), 100);
    });
}

#[test]
fn revoke_time_to_live_and_leases_carry_the_header_and_etcds_texts() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        granted(&client, 5, 60).await;
        let ask = framed(&pb::LeaseTimeToLiveRequest { id: 5, keys: true }.encode_to_vec());
        let lives: pb::LeaseTimeToLiveResponse = client.call(TIME_TO_LIVE, ask.clone()).await.message();
        assert_eq!((lives.id, lives.ttl, lives.granted_ttl), (5, 60, 60));
        assert_eq!(lives.header.unwrap().raft_term, TERM.0);
        let leases: pb::LeaseLeasesResponse = client.call(LEASES, framed(&[])).await.message();
        assert_eq!(leases.leases, [pb::LeaseStatus { id: 5 }]);
        let revoke = framed(&pb::LeaseRevokeRequest { id: 5 }.encode_to_vec());
        let revoked: pb::LeaseRevokeResponse = client.call(REVOKE, revoke.clone()).await.message();
        assert_eq!(revoked.header.unwrap().revision, 1);
        let status = client.call(REVOKE, revoke).await.status();
        assert_eq!(status, (5, "etcdserver: requested lease not found".into()));
        let lives: pb::LeaseTimeToLiveResponse = client.call(TIME_TO_LIVE, ask).await.message();
        assert_eq!(lives.ttl, -1);
    });
}

/// A stream of renewals.
struct Stream {
    requests: SendStream<Bytes>,
    answers: RecvStream,
    bytes: Vec<u8>,
}

impl Stream {
    async fn open(client: &Client) -> Self {
        Self::open_with(client, client.request(KEEP_ALIVE)).await
    }

    async fn open_with(client: &Client, request: http::request::Builder) -> Self {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let (response, requests) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        let response: HttpResponse<RecvStream> = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Self { requests, answers: response.into_body(), bytes: Vec::new() }
    }

    fn renew(&mut self, ids: impl IntoIterator<Item = i64>) {
        let messages = ids.into_iter().map(|id| framed(&pb::LeaseKeepAliveRequest { id }.encode_to_vec()));
        self.requests.send_data(Bytes::from(messages.collect::<Vec<_>>().concat()), false).unwrap();
    }

    fn half_close(&mut self) {
        self.requests.send_data(Bytes::new(), true).unwrap();
    }

    /// The next answer; None at the end.
    async fn next(&mut self) -> Option<pb::LeaseKeepAliveResponse> {
        loop {
            if let Some((prefix, rest)) = self.bytes.split_first_chunk::<PREFIX_BYTES>() {
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                if length <= rest.len() {
                    let message = pb::LeaseKeepAliveResponse::decode(&rest[..length]).unwrap();
                    self.bytes.drain(..PREFIX_BYTES + length);
                    return Some(message);
                }
            }
            let piece = tokio::time::timeout(PATIENCE, self.answers.data()).await.expect("in time")?.unwrap();
            self.answers.flow_control().release_capacity(piece.len()).unwrap();
            self.bytes.extend_from_slice(&piece);
        }
    }

    async fn status(&mut self) -> (u32, String) {
        assert!(self.bytes.is_empty(), "an answer was cut");
        let trailers = tokio::time::timeout(PATIENCE, self.answers.trailers()).await.expect("in time");
        let trailers = trailers.unwrap().expect("trailers");
        Answered { http: StatusCode::OK, headers: HeaderMap::new(), body: vec![], trailers: Some(trailers) }
            .status()
    }
}

#[test]
fn renewals_are_answered_one_by_one_in_order_unknown_leases_with_no_time() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        for id in [3, -4] {
            granted(&client, id, 60 - id).await;
        }
        let mut stream = Stream::open(&client).await;
        stream.renew([3, 99, 0, -4, 3]);
        for (id, ttl) in [(3, 57), (99, 0), (0, 0), (-4, 64), (3, 57)] {
            let answer = stream.next().await.unwrap();
            assert_eq!((answer.id, answer.ttl), (id, ttl));
            let header = answer.header.unwrap();
            assert_eq!((header.member_id, header.revision, header.raft_term), (MEMBER.0, 1, TERM.0));
        }
        // And one alone, on the stream that was idle.
        stream.renew([3]);
        assert_eq!(stream.next().await.unwrap().ttl, 57);
        stream.half_close();
        assert_eq!(stream.next().await, None);
        assert_eq!(stream.status().await, (0, String::new()));
    });
}

#[test]
fn thousands_of_renewals_before_the_half_close_are_all_answered_before_the_end() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        granted(&client, 1, 60).await;
        let mut stream = Stream::open(&client).await;
        for batch in 0..50 {
            stream.renew((0..100).map(|n| batch * 100 + n));
        }
        stream.half_close();
        for id in 0..5000 {
            let answer = stream.next().await.unwrap();
            assert_eq!((answer.id, answer.ttl), (id, if id == 1 { 60 } else { 0 }));
        }
        assert_eq!(stream.next().await, None);
        assert_eq!(stream.status().await.0, 0);
    });
}

#[test]
fn refusal_ends_the_stream_with_its_text_behind_the_answers_before_it() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        granted(&client, 1, 60).await;
        let mut stream = Stream::open(&client).await;
        server.tell(Control::Hold(true));
        server.counters();
        stream.renew([1]);
        server.until("the first is asked", |counters| counters.calls == 1).await;
        server.tell(Control::Refuse(Some(Refusal::NoLeader)));
        server.counters();
        stream.renew([1, 1]);
        server.until("the others are asked", |counters| counters.calls == 3).await;
        server.tell(Control::Hold(false));
        assert_eq!(stream.next().await.unwrap().ttl, 60);
        assert_eq!(stream.next().await, None);
        assert_eq!(stream.status().await, (14, "etcdserver: no leader".into()));
        server.until("nothing stays behind", |counters| counters.calls == 0).await;
    });
}

#[test]
fn garbage_deadline_silence_and_stop_each_end_the_stream_with_their_status() {
    let mut config = quick();
    config.request_timeout = Duration::from_millis(200);
    let server = Server::start(config);
    client(async {
        let client = Client::connect(&server).await;
        let mut garbage = Stream::open(&client).await;
        garbage.renew([1]);
        garbage.requests.send_data(Bytes::from(framed(&[0xff; 3])), false).unwrap();
        assert_eq!(garbage.next().await.unwrap().ttl, 0, "what came before is answered");
        assert_eq!(garbage.next().await, None);
        let (code, text) = garbage.status().await;
        assert!(code == 13 && text.starts_with("grpc: error unmarshalling request: "), "{code} {text}");

        let mut cut = Stream::open(&client).await;
        cut.requests.send_data(Bytes::from_static(&[0, 0, 0]), true).unwrap();
        assert_eq!(cut.next().await, None);
        assert_eq!(cut.status().await, (13, "unexpected EOF".into()));

        let short = client.request(KEEP_ALIVE).header("grpc-timeout", "30m");
        let mut short = Stream::open_with(&client, short).await;
        assert_eq!(short.next().await, None);
        assert_eq!(short.status().await, (4, "context deadline exceeded".into()));

        server.tell(Control::Hold(true));
        server.counters();
        let mut silent = Stream::open(&client).await;
        silent.renew([1]);
        assert_eq!(silent.next().await, None);
        assert_eq!(silent.status().await, (14, "etcdserver: request timed out".into()));
        server.tell(Control::Hold(false));

        let mut last = Stream::open(&client).await;
        last.renew([1]);
        assert!(last.next().await.is_some());
        server.tell(Control::Stop);
        assert_eq!(last.next().await, None);
        assert_eq!(last.status().await, (14, "etcdserver: server stopped".into()));
    });
}

#[test]
fn client_that_leaves_with_renewals_under_way_leaves_nothing_behind() {
    let server = Server::start(quick());
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let mut stream = Stream::open(&client).await;
            stream.renew(0..20);
            streams.push(stream);
        }
        server.until("renewals are asked", |counters| counters.calls == 200).await;
        // Half of them by a reset, the others with their connection.
        streams.truncate(5);
        drop((streams, client));
        server.until("the connection is gone", |counters| counters.connections == 0).await;
        server.tell(Control::Hold(false));
        let gone = |counters: &Counters| counters.calls == 0 && counters.unsent_bytes == 0;
        server.until("nothing is left", gone).await;
    });
}

/// Renewals that the client asks for and whose answers it does not read.
const FLOOD: i64 = 50_000;

#[test]
fn client_that_reads_no_answers_is_not_read_and_gets_all_once_it_reads() {
    let server = Server::start(quick());
    client(async {
        // A window of one answer: the server may hardly send.
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(64);
        let client = Client::connect_with(&server, &mut builder).await;
        let mut stream = Stream::open(&client).await;
        for batch in 0..FLOOD / 1000 {
            stream.renew((0..1000).map(|n| batch * 1000 + n));
        }
        stream.half_close();
        // It has stopped when twenty looks in a row find nothing new.
        let (mut renewals, mut looks) = (0, 0);
        while looks < 20 || renewals == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = server.model().1;
            looks = if now == renewals { looks + 1 } else { 0 };
            renewals = now;
        }
        assert!(renewals < 1000, "{renewals} renewals for a client that reads nothing");
        assert!(server.counters().unsent_bytes < 16 << 10, "{:?}", server.counters());
        for id in 0..2000 {
            assert_eq!(stream.next().await.unwrap().id, id);
        }
    });
}

/// One client: `streams` streams with so many renewals under way on each.
async fn renew_many(client: &Client, streams: i64, in_flight: i64, rounds: i64) {
    let one = async |client: &Client| {
        let mut stream = Stream::open(client).await;
        stream.renew(0..in_flight);
        for round in 0..rounds {
            for n in 0..in_flight {
                assert_eq!(stream.next().await.unwrap().id, n, "round {round}");
            }
            if round + 1 < rounds {
                stream.renew(0..in_flight);
            }
        }
        stream.half_close();
        assert_eq!(stream.next().await, None);
    };
    futures_util::future::join_all((0..streams).map(|_| one(client))).await;
}

/// `PINION_BENCH_CALLS=2000000 cargo test --release renewals_of_many -- --nocapture` measures.
#[test]
#[expect(clippy::disallowed_types, reason = "a measurement")]
fn renewals_of_many_streams_are_all_answered_and_cost_is_printed() {
    let calls = std::env::var_os("PINION_BENCH_CALLS")
        .map_or(10_000, |calls| calls.to_str().unwrap().parse().unwrap());
    for (streams, in_flight) in [(1_i64, 1), (64, 1), (16, 64), (1, 1000)] {
        let server = Server::start(quick());
        client(async {
            let client = Client::connect(&server).await;
            let share = if streams * in_flight == 1 { 20 } else { 1 };
            let rounds = (calls / share / streams / in_flight).max(1);
            let (cpu, start) = (server.cpu_ns(), std::time::Instant::now());
            renew_many(&client, streams, in_flight, rounds).await;
            let renewals = rounds * in_flight * streams;
            let (cpu, elapsed) = (server.cpu_ns() - cpu, start.elapsed());
            assert_eq!(server.model().1, renewals.unsigned_abs());
            println!(
                "{streams} streams x {in_flight} in flight: {:.0} renewals/s, shard CPU {:.2} us each",
                renewals as f64 / elapsed.as_secs_f64(),
                cpu as f64 / 1e3 / renewals as f64,
            );
        });
    }
}
