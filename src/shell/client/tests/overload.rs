//! Full rings and clients that do not read.

use super::super::call::account::{CALLS_MAX, SHARD_UNSENT_BYTES_LIMIT, UNSENT_BYTES_MAX};
use super::*;

#[test]
fn full_rings_stop_the_reading_and_no_call_is_lost() {
    let server = Server::start(quick());
    server.tell(Control::Full(true));
    server.counters();
    client(async {
        let client = Client::connect(&server).await;
        let calls = (0..200).map(|n| client.call(PUT, put(&format!("k{n}"), b"v")));
        let calls = futures_util::future::join_all(calls);
        let open = async {
            server.until("rings were found full", |counters| 2 <= counters.blocked).await;
            let before = server.counters();
            assert_eq!(before.replies, 0);
            server.tell(Control::Full(false));
        };
        let (answered, ()) = tokio::join!(calls, open);
        assert!(answered.iter().all(|answered| answered.status().0 == 0));
    });
    let counters = server.counters();
    assert_eq!((counters.requests, counters.replies, counters.calls), (200, 200, 0));
}

#[test]
fn calls_that_wait_for_full_rings_time_out() {
    let mut config = quick();
    config.request_timeout = Duration::from_millis(100);
    let server = Server::start(config);
    server.tell(Control::Full(true));
    server.counters();
    client(async {
        let client = Client::connect(&server).await;
        let status = client.call(PUT, put("k", b"v")).await.status();
        assert_eq!(status, (14, "etcdserver: request timed out".into()));
        server.tell(Control::Full(false));
        assert_eq!(client.call(PUT, put("k", b"v")).await.status().0, 0);
    });
}

#[test]
fn connection_with_too_many_calls_is_not_read_until_answers_come() {
    let server = Server::start(quick());
    server.tell(Control::Hold(true));
    server.counters();
    client(async {
        let client = Client::connect(&server).await;
        let calls = (0..CALLS_MAX + 1000).map(|n| client.call(PUT, put(&format!("k{n}"), b"v")));
        let calls = futures_util::future::join_all(calls);
        let open = async {
            let full = |counters: &Counters| counters.calls == CALLS_MAX as u64;
            server.until("the connection is full", full).await;
            // Another connection is.
            let other = Client::connect(&server).await;
            let held = other.call(PUT, put("other", b"v"));
            let release = async {
                let one_more = |counters: &Counters| counters.calls == CALLS_MAX as u64 + 1;
                server.until("the other's call is there", one_more).await;
                server.tell(Control::Hold(false));
            };
            let (held, ()) = tokio::join!(held, release);
            assert_eq!(held.status().0, 0);
        };
        let (answered, ()) = tokio::join!(calls, open);
        assert!(answered.iter().all(|answered| answered.status().0 == 0));
    });
}

/// Asks for 50 large values and reads none.
async fn ask_and_do_not_read(server: &Server, body: &[u8]) -> (Client, Vec<h2::client::ResponseFuture>) {
    let client = Client::connect(server).await;
    let mut requests = client.requests.clone();
    let mut unread = Vec::new();
    for _ in 0..50 {
        requests = requests.ready().await.unwrap();
        let request = client.request(RANGE).body(()).unwrap();
        let (response, mut stream) = requests.send_request(request, false).unwrap();
        stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
        unread.push(response);
    }
    (client, unread)
}

#[test]
fn unread_answers_are_bounded_others_are_served_and_all_arrive_once_they_are_read() {
    const VALUE_BYTES: usize = 4 << 20;
    const HOGS: usize = 5;
    let server = Server::start(quick());
    client(async {
        let body = wide(&format!("size:{VALUE_BYTES}"));
        let mut hogs = Vec::new();
        for _ in 0..HOGS {
            hogs.push(ask_and_do_not_read(&server, &body).await);
        }
        let asked = |counters: &Counters| counters.requests == 50 * HOGS as u64;
        server.until("all is asked for", asked).await;
        let other = Client::connect(&server).await;
        for _ in 0..100 {
            assert_eq!(other.call(PUT, put("k", b"v")).await.status().0, 0);
            let range: pb::RangeResponse = other.call(RANGE, get("k")).await.message();
            assert_eq!(range.kvs[0].value, "v");
        }
        let counters = server.counters();
        let bound = HOGS * (UNSENT_BYTES_MAX + (64 << 10));
        assert!(counters.unsent_bytes <= bound as u64, "{counters:?}");
        assert!(VALUE_BYTES as u64 <= counters.unsent_bytes, "{counters:?}");
        // One connection begins to read and gets everything.
        let (_client, unread) = hogs.pop().unwrap();
        let answers = futures_util::future::join_all(unread.into_iter().map(read_answer)).await;
        for answered in answers {
            let range: pb::RangeResponse = answered.unwrap().message();
            assert_eq!(range.kvs[0].value.len(), VALUE_BYTES);
        }
        drop(hogs);
    });
    client(server.until("nothing is left", |counters| counters.unsent_bytes == 0));
}

#[test]
fn client_that_takes_nothing_is_kept_past_every_timeout_and_gets_all_of_it_later() {
    const VALUE_BYTES: usize = 4_000_000;
    let mut config = quick();
    config.request_timeout = Duration::from_secs(1);
    config.pressure_timeout = Duration::from_millis(100);
    let server = Server::start(config);
    client(async {
        let (_client, unread) = ask_and_do_not_read(&server, &wide(&format!("size:{VALUE_BYTES}"))).await;
        server.until("all is asked for", |counters| counters.requests == 50).await;
        // Three request timeouts go by on the server's clock.
        let other = Client::connect(&server).await;
        for _ in 0..3 {
            let timer = other.request("/grpc.health.v1.Health/Watch").header("grpc-timeout", "1S");
            assert_eq!(other.send(timer, framed(&[])).await.unwrap().status().0, 4);
        }
        let answers = futures_util::future::join_all(unread.into_iter().map(read_answer)).await;
        for answered in answers {
            let range: pb::RangeResponse = answered.unwrap().message();
            assert_eq!(range.kvs[0].value.len(), VALUE_BYTES);
        }
        let counters = server.counters();
        assert_eq!((counters.stalled, counters.evicted), (0, 0), "{counters:?}");
    });
}

#[test]
fn past_its_limit_a_shard_closes_at_once_whoever_has_taken_nothing_for_longest() {
    // Nobody has waited for long when the limit is passed.
    let mut config = quick();
    config.pressure_timeout = Duration::from_secs(3600);
    let server = Server::start(config);
    client(async {
        let limit = SHARD_UNSENT_BYTES_LIMIT as u64;
        let body = wide(&format!("size:{}", 40 << 20));
        let mut hogs = Vec::new();
        for number in 1..=20 {
            hogs.push(ask_and_do_not_read(&server, &body).await);
            let counters = server.until("it is answered", |counters| counters.replies == number).await;
            assert!(counters.unsent_bytes <= limit + (41 << 20), "{counters:?}");
        }
        let relieved = |counters: &Counters| counters.unsent_bytes <= limit;
        let counters = server.until("the shard is within its limit", relieved).await;
        assert!((7..12).contains(&counters.evicted), "{counters:?}");
        drop(hogs);
        server.until("nothing is left", |counters| counters.unsent_bytes == 0).await;
    });
}

#[test]
fn shard_out_of_room_closes_whoever_takes_nothing() {
    let mut config = quick();
    config.pressure_timeout = Duration::from_millis(100);
    let server = Server::start(config);
    client(async {
        // 20 connections with one answer of 20 MiB each pass the shard's 256 MiB.
        let body = wide(&format!("size:{}", 20 << 20));
        let mut hogs = Vec::new();
        for _ in 0..20 {
            hogs.push(ask_and_do_not_read(&server, &body).await);
        }
        let relieved = |counters: &Counters| 0 < counters.evicted && counters.unsent_bytes <= 256 << 20;
        let counters = server.until("the shard has room", relieved).await;
        assert!(counters.evicted < 20, "{counters:?}");
        drop(hogs);
        server.until("nothing is left", |counters| counters.unsent_bytes == 0).await;
    });
}
