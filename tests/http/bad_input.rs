//! What bad requests get: a clear answer or the connection's end, and the others never notice.

use std::time::Duration;

use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on};
use serde_json::json;

use crate::web::{Web, b64};

async fn started(work: &WorkDir) -> (Server, Web) {
    let server = Launch::new(work.join("data")).start().await;
    let web = Web::connect(server.client_port()).await;
    (server, web)
}

#[test]
fn text_that_is_no_request_gets_400_and_the_connection_goes_on() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, mut web) = started(&work).await;
        for body in [
            "{",
            "[]",
            "nonsense",
            r#"{"key":5}"#,
            r#"{"key":"!!!"}"#,
            r#"{"key":"YQ==","lease":"x"}"#,
            r#"{"key":"YQ==","lease":99999999999999999999}"#,
            r#"{"key":"YQ==","prev_kv":"yes"}"#,
        ] {
            let answer = web.post("/v3/kv/put", body).await;
            assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(3)), "{body}");
        }
        let deep = r#"{"success":[{"request_txn":"#.repeat(10_000);
        assert_eq!(web.post("/v3/kv/txn", &deep).await.status, 400);
        web.call("/v3/kv/put", json!({"key": "YQ=="})).await;
        // A stream ends with its error behind what was answered.
        let answer = web.post("/v3/lease/keepalive", r#"{"ID":1} nonsense"#).await;
        let lines: Vec<serde_json::Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{}", answer.text());
        assert_eq!(lines[1]["error"]["grpc_code"], 3);
        assert_eq!(lines[1]["error"]["http_code"], 400);
    });
}

#[test]
fn request_that_could_be_cut_in_two_ways_ends_its_connection() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, _web) = started(&work).await;
        let smuggled =
            "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{\"key\":\"c211Zw==\"}";
        for (headers, status) in [
            ("Content-Length: 4\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", 400),
            ("Transfer-Encoding: chunked, identity\r\n", 501),
            ("Transfer-Encoding: xchunked\r\n", 501),
            ("Content-Length: 4, 4\r\n", 400),
            ("Host: y\r\n", 400),
            ("Bad Name: x\r\n", 400),
        ] {
            let mut web = Web::connect(server.client_port()).await;
            web.send(format!("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\n{headers}\r\n0\r\n\r\n{smuggled}"))
                .await;
            let answer = web.answer().await.unwrap();
            assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{headers}");
            assert_eq!(web.rest().await, b"", "{headers}");
        }
        let mut web = Web::connect(server.client_port()).await;
        assert_eq!(web.call("/v3/kv/range", json!({"key": b64("smug")})).await.get("kvs"), None);
        let mut broken = Web::connect(server.client_port()).await;
        broken
            .send("POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
            .await;
        assert_eq!(broken.answer().await.unwrap().status, 400);
        assert_eq!(broken.rest().await, b"");
    });
}

#[test]
fn body_over_the_limit_is_refused_announced_or_not() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        web.send("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n{").await;
        let answer = web.answer().await.unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (429, &json!(8)));
        assert_eq!(web.rest().await, b"");
        // One that never ends.
        let mut endless = Web::connect(server.client_port()).await;
        endless.send("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let chunk = [&b"10000\r\n"[..], &[b' '; 0x1_0000], b"\r\n"].concat();
        let mut taken = 0;
        while taken < 100 << 20 && endless.send_some(&chunk).await {
            taken += chunk.len();
        }
        assert!(taken < 50 << 20, "{taken} bytes were taken");
        // What is too large for the log, though not for a text.
        let mut web = Web::connect(server.client_port()).await;
        let put = json!({"key": "YQ==", "value": b64(vec![0; 1_600_000])}).to_string();
        let answer = web.post("/v3/kv/put", &put).await;
        assert_eq!(
            (answer.status, &answer.json()["message"]),
            (400, &json!("etcdserver: request is too large"))
        );
        let put = json!({"key": "YQ==", "value": b64(vec![0; 2_200_000])}).to_string();
        assert_eq!(web.post("/v3/kv/put", &put).await.status, 429);
    });
}

#[test]
fn head_that_is_too_large_or_malformed_is_refused() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, _web) = started(&work).await;
        for (head, status) in [
            (format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(100_000)), 431),
            (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(1_000)), 431),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(), 505),
            ("GET /\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n".to_owned(), 417),
        ] {
            let mut web = Web::connect(server.client_port()).await;
            web.send_some(head.as_bytes()).await;
            assert_eq!(web.answer().await.unwrap().status, status, "{:.40}", head);
        }
    });
}

#[test]
fn ten_thousand_idle_connections_are_bounded_and_others_are_served() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        web.call("/v3/kv/put", json!({"key": "YQ=="})).await;
        let before = server.resident_bytes();
        let mut idle = Vec::new();
        for n in 0..10_000 {
            let mut web = Web::connect(server.client_port()).await;
            // Some wait behind an answer, some inside a head.
            if n % 2 == 0 {
                web.send("GET /health HT").await;
            } else {
                web.send("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await;
            }
            idle.push(web);
        }
        let client = server.connect().await;
        tokio::time::timeout(Duration::from_secs(5), client.put_kv("a", "b")).await.unwrap().unwrap();
        let mut fresh = Web::connect(server.client_port()).await;
        fresh.call("/v3/kv/put", json!({"key": "YQ=="})).await;
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 200 << 20, "{grown} bytes");
        // The first ones had to go.
        assert!(idle[0].is_ended().await);
    });
}
