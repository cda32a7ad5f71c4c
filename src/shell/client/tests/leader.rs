//! What a member without a leader, and one without a vote, says to clients.

use super::*;
use crate::pb::{v3electionpb as election, v3lockpb as lock};
use crate::replica::exchange::Facts;
use crate::types::LogIndex;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const OBSERVE: &str = "/v3electionpb.Election/Observe";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

const NO_LEADER: &str = "etcdserver: no leader";
const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";

const VOTER: Facts = Facts {
    leader: Some(MemberId(1)),
    term: TERM,
    committed: LogIndex(1),
    is_learner: false,
    in_touch: true,
};

impl Server {
    fn hear(&self, facts: Facts) {
        self.run(move |shard, _| shard.on_facts(facts));
    }

    fn lose_leader(&self) {
        self.hear(Facts { leader: None, in_touch: false, ..VOTER });
    }
}

/// An election timeout so short that a test can see three of them pass.
fn impatient() -> ShardConfig {
    let mut config = quick();
    config.election_timeout = Duration::from_millis(30);
    config.request_timeout = Duration::from_millis(250);
    config
}

impl Client {
    async fn call_with_leader(&self, path: &str, body: Vec<u8>) -> (u32, String) {
        self.send(self.request(path).header("hasleader", "true"), body).await.unwrap().status()
    }

    /// Opens a stream that wants a leader, or does not care, with one request on it.
    async fn open(&self, path: &str, wish: Option<&str>, body: Vec<u8>) -> h2::client::ResponseFuture {
        let mut request = self.request(path);
        if let Some(wish) = wish {
            request = request.header("hasleader", wish);
        }
        self.open_with(request, path, body).await
    }

    async fn open_with(
        &self,
        request: http::request::Builder,
        path: &str,
        body: Vec<u8>,
    ) -> h2::client::ResponseFuture {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, mut stream) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        let is_bidi = [WATCH, KEEP_ALIVE].contains(&path);
        stream.send_data(Bytes::from(body), !is_bidi).unwrap();
        if is_bidi {
            // Held open by the test that holds the answer; never closed by this side.
            std::mem::forget(stream);
        }
        response
    }
}

async fn end_of(response: h2::client::ResponseFuture) -> (u32, String) {
    tokio::time::timeout(PATIENCE, read_answer(response)).await.expect("ended in time").unwrap().status()
}

fn observe(name: &'static str) -> Vec<u8> {
    framed(&election::LeaderRequest { name: name.into() }.encode_to_vec())
}

/// Every method whose answer is a stream, with a request after which it stays open.
fn streams() -> [(&'static str, Vec<u8>); 4] {
    [(WATCH, vec![]), (KEEP_ALIVE, vec![]), (OBSERVE, observe("nobody")), (HEALTH_WATCH, framed(&[]))]
}

#[test]
fn calls_that_want_a_leader_are_refused_at_once_where_none_is_known_and_others_are_not() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let calls = [
            (PUT, put("a", b"1")),
            (RANGE, get("a")),
            ("/etcdserverpb.Maintenance/Status", framed(&[])),
            ("/etcdserverpb.Cluster/MemberList", framed(&[])),
            ("/v3lockpb.Lock/Unlock", framed(&lock::UnlockRequest { key: "l/1".into() }.encode_to_vec())),
        ];
        for (path, body) in &calls {
            assert_eq!(
                client.call_with_leader(path, body.clone()).await.0,
                0,
                "raft has said nothing: {path}"
            );
        }
        server.lose_leader();
        for (path, body) in &calls {
            assert_eq!(client.call_with_leader(path, body.clone()).await, (14, NO_LEADER.into()), "{path}");
            assert_eq!(client.call(path, body.clone()).await.status().0, 0, "it does not care: {path}");
        }
        for (path, body) in streams() {
            let refused = end_of(client.open(path, Some("true"), body).await).await;
            assert_eq!(refused, (14, NO_LEADER.into()), "{path}");
        }
        // Only this word is the wish.
        let lax = client.request(PUT).header("hasleader", "True");
        assert_eq!(client.send(lax, put("a", b"2")).await.unwrap().status().0, 0);
        server.hear(VOTER);
        assert_eq!(client.call_with_leader(PUT, put("a", b"3")).await.0, 0);
    });
}

#[test]
#[expect(clippy::disallowed_types, reason = "the test is about a time")]
fn streams_that_want_a_leader_end_after_three_election_timeouts_without_one_and_others_stay() {
    let server = Server::start(impatient());
    server.hear(VOTER);
    client(async {
        let client = Client::connect(&server).await;
        let mut wanting = Vec::new();
        let mut easy = Vec::new();
        for (path, body) in streams() {
            wanting.push((path, client.open(path, Some("true"), body.clone()).await));
            easy.push((path, client.open(path, None, body).await));
        }
        server.until("they are open", |counters| counters.requests == 8).await;
        server.lose_leader();
        let lost = std::time::Instant::now();
        for (path, response) in wanting {
            assert_eq!(end_of(response).await, (14, NO_LEADER.into()), "{path}");
            assert!(Duration::from_millis(85) <= lost.elapsed(), "{path}: early, {:?}", lost.elapsed());
        }
        server.tell(Control::Stop);
        for (path, response) in easy {
            assert_eq!(end_of(response).await.1, "etcdserver: server stopped", "{path}");
        }
    });
}

#[test]
fn range_stream_that_wants_a_leader_does_not_wait_for_its_timeout_without_one() {
    let mut config = impatient();
    config.request_timeout = 10 * PATIENCE;
    let server = Server::start(config);
    server.hear(VOTER);
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let stream = client.open(RANGE_STREAM, Some("true"), wide("a")).await;
        server.until("it is asked", |counters| counters.calls == 1).await;
        server.lose_leader();
        assert_eq!(end_of(stream).await, (14, NO_LEADER.into()));
    });
}

#[test]
fn a_learner_serves_status_stale_ranges_and_health_and_nothing_else() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        client.call(PUT, put("a", b"1")).await;
        server.hear(Facts { is_learner: true, ..VOTER });
        let range = |key: &'static str, serializable| {
            framed(&pb::RangeRequest { key: key.into(), serializable, ..Default::default() }.encode_to_vec())
        };
        let stale: pb::RangeResponse = client.call(RANGE, range("a", true)).await.message();
        assert_eq!(stale.kvs[0].value, "1");
        for path in ["/etcdserverpb.Maintenance/Status", "/grpc.health.v1.Health/Check"] {
            assert_eq!(client.call(path, framed(&[])).await.status().0, 0, "{path}");
        }
        let stale_txn = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                    key: "a".into(),
                    serializable: true,
                    ..Default::default()
                })),
            }],
            ..Default::default()
        };
        let refused = [
            (RANGE, range("a", false)),
            (RANGE_STREAM, range("a", true)),
            (PUT, put("a", b"2")),
            ("/etcdserverpb.KV/Txn", framed(&stale_txn.encode_to_vec())),
            ("/etcdserverpb.KV/DeleteRange", framed(&[])),
            ("/etcdserverpb.KV/Compact", framed(&[])),
            ("/etcdserverpb.Cluster/MemberList", framed(&[])),
            ("/etcdserverpb.Maintenance/HashKV", framed(&[])),
            ("/etcdserverpb.Maintenance/Hash", framed(&[])),
            ("/etcdserverpb.Maintenance/Alarm", framed(&[])),
            ("/etcdserverpb.Maintenance/Defragment", framed(&[])),
            ("/etcdserverpb.Maintenance/MoveLeader", framed(&[])),
            ("/etcdserverpb.Lease/LeaseGrant", framed(&[])),
            ("/etcdserverpb.Lease/LeaseLeases", framed(&[])),
            (TIME_TO_LIVE, framed(&[])),
            ("/v3lockpb.Lock/Lock", framed(&[])),
            ("/v3electionpb.Election/Leader", framed(&[])),
            (OBSERVE, observe("e")),
            (WATCH, vec![]),
            (KEEP_ALIVE, vec![]),
        ];
        // Clients before 3.6 go on to the next endpoint for Unavailable alone.
        let versions: [(&[&[u8]], u32); 8] = [
            (&[], 14),
            (&[b"3.5"], 14),
            (&[b""], 14),
            (&[b"latest"], 14),
            (&[b"3.6\xff"], 14),
            (&[b"3.6"], 9),
            (&[b"3.10"], 9),
            (&[b"3.7", b"3.5"], 9),
        ];
        for (path, body) in refused {
            for (versions, code) in versions {
                let mut request = client.request(path);
                for version in versions {
                    request = request.header("client-api-version", *version);
                }
                let status = end_of(client.open_with(request, path, body.clone()).await).await;
                assert_eq!(status, (code, NOT_FOR_LEARNERS.into()), "{path} {versions:?}");
            }
        }
        server.hear(VOTER);
        assert_eq!(client.call(PUT, put("a", b"3")).await.status().0, 0, "it was promoted");
    });
}

#[test]
fn a_call_that_waited_too_long_is_told_what_it_waited_for() {
    let server = Server::start(impatient());
    server.hear(VOTER);
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let look_up = framed(&pb::LeaseTimeToLiveRequest { id: 5, keys: false }.encode_to_vec());
        let all = async |what: &str, write: (u32, &str), lease: (u32, &str)| {
            let (written, read, looked_up) = tokio::join!(
                client.call(PUT, put("a", b"1")),
                client.call(RANGE, get("a")),
                client.call(TIME_TO_LIVE, look_up.clone()),
            );
            assert_eq!(written.status(), (write.0, write.1.to_owned()), "{what}");
            assert_eq!(read.status(), (14, "etcdserver: request timed out".into()), "{what}");
            assert_eq!(looked_up.status(), (lease.0, lease.1.to_owned()), "{what}");
        };
        const TIMED_OUT: (u32, &str) = (14, "etcdserver: request timed out");
        let lost = (14, "etcdserver: request timed out, possibly due to connection lost");
        server.hear(Facts { in_touch: false, ..VOTER });
        all("nobody is reached", lost, TIMED_OUT).await;
        server.lose_leader();
        all("nobody leads", (4, "context deadline exceeded"), (14, NO_LEADER)).await;
    });
    drop(server);

    let mut config = impatient();
    config.election_timeout = Duration::from_secs(5);
    let server = Server::start(config);
    server.hear(VOTER);
    server.tell(Control::Hold(true));
    client(async {
        let client = Client::connect(&server).await;
        let (answer, ()) = tokio::join!(client.call(PUT, put("a", b"1")), async {
            server.until("it is asked", |counters| counters.calls == 1).await;
            // So that the shard's clock tells the two moments apart.
            tokio::time::sleep(Duration::from_millis(30)).await;
            server.hear(Facts { leader: Some(MemberId(2)), ..VOTER });
        });
        let text = "etcdserver: request timed out, possibly due to previous leader failure";
        assert_eq!(answer.status(), (14, text.into()));
    });
}
