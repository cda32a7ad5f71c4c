//! More long polls than there is room for: by HTTP/2, since descriptors are fewer than polls.

use std::collections::BTreeMap;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::tls::{self, Authority};
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, env_number, free_port};
use serde_json::{Value, json};

use crate::v2::{ask, well};
use crate::web::{Web, b64};

const CONNECTIONS: usize = 20;

/// Polls that are asked for side by side.
const BURST: usize = 1_000;

/// Parameters that take no number but 0 and 1.
const FLAGS: [&str; 4] = ["recursive", "sorted", "quorum", "stream"];

/// What a poll may cost, the client's stream and its path in the server's memory included.
const POLL_BYTES_MAX: u64 = 6_000;

async fn get(sender: &mut SendRequest<Bytes>, port: u16, path: &str) -> ResponseFuture {
    let request = Request::get(format!("https://127.0.0.1:{port}/v2/keys{path}")).body(()).unwrap();
    let mut ready = sender.clone().ready().await.unwrap();
    let (response, _) = ready.send_request(request, true).unwrap();
    response
}

/// The body of an answer.
async fn body(mut stream: h2::RecvStream) -> Value {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.data().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", bytes.escape_ascii()))
}

/// A member with an address for TLS, and a connection there.
struct Crowded {
    server: Server,
    port: u16,
    senders: Vec<SendRequest<Bytes>>,
}

impl Crowded {
    async fn start(work: &WorkDir, connections: usize) -> Self {
        let authority = Authority::new(work, "ca");
        let (launch, port) = (Launch::new(work.join("data")), free_port());
        let urls = format!("{},https://127.0.0.1:{port}", launch.client_url());
        let [certificate, key] = authority.issue("server").flags("cert-file", "key-file");
        let server = launch
            .flag("--enable-v2")
            .flag(format!("--listen-client-urls={urls}"))
            .flag(format!("--advertise-client-urls={urls}"))
            .flag(certificate)
            .flag(key)
            .start()
            .await;
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(tls::connect(port, &authority.certificate, None).await.unwrap().requests());
        }
        Self { server, port, senders }
    }
}

/// More than a connection reads in a turn, each with a note of the gate's for its query.
#[test]
fn requests_of_one_burst_are_each_answered_as_asked() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Crowded { server: _server, port, mut senders } = Crowded::start(&work, 1).await;
        let mut asked = Vec::new();
        for number in 2..10_000 {
            let name = FLAGS[number % FLAGS.len()];
            asked.push((name, get(&mut senders[0], port, &format!("/n?{name}={number}")).await));
        }
        for (name, response) in asked {
            let told = body(response.await.unwrap().into_body()).await;
            assert_eq!(told["cause"], format!("invalid value for \"{name}\""), "{told}");
        }
    });
}

/// By default 100,000 polls at a member whose shards have room for 65,536 each.
#[test]
fn polls_beyond_the_bound_are_refused_and_harm_nobody() {
    let count = usize::try_from(env_number("PINION_V2_POLLS", 100_000)).unwrap();
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let Crowded { server, port, mut senders } = Crowded::start(&work, CONNECTIONS).await;
        let web = &mut Web::connect(server.client_port()).await;
        let watchers = async |web: &mut Web| well(web, "GET", "/stats/store", "").await["watchers"].as_u64();
        let empty = server.resident_bytes_own();
        let (mut waiting, mut refused) = (BTreeMap::new(), 0);
        // Some at a time: what is measured is who waits, not who queues.
        for begin in (0..count).step_by(BURST) {
            let mut asked = Vec::new();
            for number in begin..count.min(begin + BURST) {
                let sender = &mut senders[number % CONNECTIONS];
                asked.push((number, get(sender, port, &format!("/w/{number}?wait=true")).await));
            }
            for (number, response) in asked {
                let response = response.await.unwrap();
                let status = response.status();
                if status == 200 {
                    waiting.insert(number, response.into_body());
                    continue;
                }
                refused += 1;
                let told = body(response.into_body()).await;
                assert_eq!(status, 500, "{told}");
                let wanted = json!({"errorCode": 300, "message": "Raft Internal Error",
                    "cause": "etcdserver: too many requests", "index": 0});
                assert_eq!(told, wanted);
            }
        }
        let accepted = waiting.len() as u64;
        let each = server.resident_bytes_own().saturating_sub(empty) / accepted;
        println!("{accepted} polls wait, {refused} are refused; {each} bytes each");
        assert!(0 < refused && 50_000 < accepted, "{accepted} wait and {refused} are refused");
        assert!(each < POLL_BYTES_MAX, "{each} bytes a poll");

        // Whoever comes by HTTP/1 hears the same, and everybody else is served.
        assert_eq!(
            ask(web, "GET", "/keys/w?wait=true", "").await.json()["cause"],
            "etcdserver: too many requests"
        );
        let written = well(web, "PUT", "/keys/w/7", "value=1").await;
        assert_eq!(well(web, "GET", "/keys/w/7?quorum=true", "").await["node"], written["node"]);
        let client = server.connect().await;
        let put = pb::PutRequest { key: "/other".into(), value: "1".into(), ..Default::default() };
        client.put(&put).await.unwrap();
        assert_eq!(client.get("/other").await.unwrap(), Some(Bytes::from("1")));
        web.call("/v3/kv/put", json!({"key": b64("/w/8"), "value": b64("2")})).await;
        for (number, value) in [(7, "1"), (8, "2")] {
            let told = body(waiting.remove(&number).expect("an early one waits")).await;
            assert_eq!(told["node"]["value"], value);
        }
        // Those that leave make room.
        waiting.retain(|number, _| number % 2 == 0);
        let left = waiting.len() as u64;
        while watchers(web).await != Some(left) {}
        let response = get(&mut senders[0], port, "/w/again?wait=true").await.await.unwrap();
        assert_eq!(response.status(), 200);
        well(web, "PUT", "/keys/w/again", "value=3").await;
        assert_eq!(body(response.into_body()).await["node"]["value"], "3");
        drop(waiting);
        while watchers(web).await != Some(0) {}
    });
}
