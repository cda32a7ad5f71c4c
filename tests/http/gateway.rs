//! Calls as JSON, as `curl` and the client libraries send them.

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on};
use serde_json::{Value, json};

use crate::web::{Web, b64};

async fn started(work: &WorkDir) -> (Server, Web) {
    let server = Launch::new(work.join("data")).start().await;
    let web = Web::connect(server.client_port()).await;
    (server, web)
}

/// A number that the gateway writes in quotes.
fn number(value: &Value) -> i64 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no quoted number")).parse().unwrap()
}

#[test]
fn put_range_delete_and_txn_do_what_they_do_by_grpc() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        let answer = web.post("/v3/kv/put", &json!({"key": b64("a"), "value": b64("1")}).to_string()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(answer.header("grpc-metadata-content-type"), Some("application/grpc"));
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        let put = answer.json();
        assert_eq!(number(&put["header"]["revision"]), 2);
        assert!(put["header"]["cluster_id"].is_string() && put["header"]["raft_term"].is_string());
        // A field that is unset is not there.
        assert!(put.get("prev_kv").is_none());

        let put = web.call("/v3/kv/put", json!({"key": b64("a"), "value": b64("2"), "prev_kv": true})).await;
        assert_eq!(put["prev_kv"]["value"], b64("1"));
        server.connect().await.put_kv("b", "3").await.unwrap();
        let range = web.call("/v3/kv/range", json!({"key": "AA==", "range_end": "AA==", "limit": 1})).await;
        assert_eq!((range["kvs"][0]["key"].as_str(), &range["more"]), (Some(&*b64("a")), &json!(true)));
        assert_eq!(number(&range["count"]), 2);
        assert_eq!(number(&range["kvs"][0]["version"]), 2);

        let txn = json!({
            "compare": [{"key": b64("a"), "target": "VALUE", "result": "EQUAL", "value": b64("2")}],
            "success": [{"requestPut": {"key": b64("c"), "value": b64("4")}},
                        {"request_range": {"key": b64("c")}}],
            "failure": [{"request_delete_range": {"key": b64("a")}}],
        });
        let answer = web.call("/v3beta/kv/txn", txn).await;
        assert_eq!(answer["succeeded"], json!(true));
        assert_eq!(answer["responses"][1]["response_range"]["kvs"][0]["value"], b64("4"));
        let deleted = web.call("/v3/kv/deleterange", json!({"key": b64("a"), "prevKv": true})).await;
        assert_eq!((number(&deleted["deleted"]), &deleted["prev_kvs"][0]["value"]), (1, &json!(b64("2"))));
        assert_eq!(web.call("/v3/kv/range", json!({"key": b64("a")})).await.get("kvs"), None);
    });
}

#[test]
fn errors_have_status_and_fields_of_both_kinds_of_etcds_gateway() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, mut web) = started(&work).await;
        let text = "etcdserver: key is not provided";
        let answer = web.post("/v3/kv/put", "{}").await;
        assert_eq!((answer.status, answer.json()), (400, json!({"error": text, "code": 3, "message": text})));
        // An empty body is an empty message.
        assert_eq!(web.post("/v3/kv/put", "").await, answer);
        let lease = json!({"key": b64("a"), "lease": "77"}).to_string();
        assert_eq!(web.post("/v3/kv/put", &lease).await.status, 404);
        let future = json!({"key": b64("a"), "revision": 99}).to_string();
        assert_eq!(web.post("/v3/kv/range", &future).await.status, 400);
        let answer = web.post("/v3/kv/nothing", "{}").await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!(5)));
        assert_eq!(answer.json()["message"], "Not Found");
        let answer = web.get("/v3/kv/put").await;
        assert_eq!((answer.status, &answer.json()["code"]), (501, &json!(12)));
        assert_eq!(answer.json()["message"], "Method Not Allowed");
        // A service that is not there yet says so as by gRPC.
        let answer = web.post("/v3/maintenance/snapshot", "{}").await;
        assert!(matches!(answer.status, 200 | 501), "{}", answer.text());
    });
}

#[test]
fn watch_streams_a_line_for_each_response_and_ends_with_the_connection() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        let client = server.connect().await;
        // Two requests in one body, and its end is no end of the watch.
        let two = json!({"create_request": {"key": b64("a"), "progress_notify": true}}).to_string()
            + &json!({"create_request": {"key": b64("b"), "watch_id": "7"}}).to_string();
        web.begin("/v3/watch", "", &two).await;
        let head = web.head().await.unwrap();
        assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
        let created = web.line().await.unwrap();
        assert_eq!((&created["result"]["created"], created["result"].get("watch_id")), (&json!(true), None));
        assert_eq!(web.line().await.unwrap()["result"]["watch_id"], "7");
        client.put_kv("a", "1").await.unwrap();
        let event = web.line().await.unwrap();
        let kv = &event["result"]["events"][0]["kv"];
        assert_eq!((&kv["key"], &kv["value"]), (&json!(b64("a")), &json!(b64("1"))));
        assert_eq!(event["result"]["events"][0].get("type"), None, "PUT is 0, so it is left out");
        let gone = pb::DeleteRangeRequest { key: "a".into(), ..Default::default() };
        client.delete(&gone).await.unwrap();
        assert_eq!(web.line().await.unwrap()["result"]["events"][0]["type"], "DELETE");
        client.put_kv("b", "1").await.unwrap();
        assert_eq!(web.line().await.unwrap()["result"]["watch_id"], "7");
        drop(web);
        client.put_kv("a", "2").await.unwrap();
    });
}

#[test]
fn keep_alives_are_answered_in_order_and_end_with_the_body() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, mut web) = started(&work).await;
        let granted = web.call("/v3/lease/grant", json!({"TTL": 60, "ID": "5"})).await;
        assert_eq!((number(&granted["ID"]), number(&granted["TTL"])), (5, 60));
        let answer = web.post("/v3/lease/keepalive", r#"{"ID":5} {"ID":"6"}{"ID":"5"}"#).await;
        let lines: Vec<Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let renewed: Vec<_> =
            lines.iter().map(|line| (&line["result"]["ID"], &line["result"]["TTL"])).collect();
        assert_eq!(
            renewed,
            [(&json!("5"), &json!("60")), (&json!("6"), &Value::Null), (&json!("5"), &json!("60"))]
        );
        // The connection goes on behind it, and so it does behind a body in chunks.
        web.send("POST /v3/lease/keepalive HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        web.send("4\r\n{\"ID\r\n").await;
        web.send("4\r\n\":5}\r\n").await;
        assert_eq!(web.head().await.unwrap().status, 200);
        assert_eq!(web.line().await.unwrap()["result"]["TTL"], "60");
        web.send("0\r\n\r\n").await;
        assert_eq!(web.line().await, None);
        let left = web.call("/v3/kv/lease/timetolive", json!({"ID": 5, "keys": true})).await;
        assert_eq!(number(&left["grantedTTL"]), 60);
        web.call("/v3/lease/revoke", json!({"ID": 5})).await;
        assert_eq!(web.call("/v3/lease/leases", json!({})).await.get("leases"), None);
    });
}

#[test]
fn lock_and_election_are_called_and_observed() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        web.call("/v3/lease/grant", json!({"TTL": 60, "ID": 5})).await;
        let locked = web.call("/v3/lock/lock", json!({"name": b64("l"), "lease": 5})).await;
        assert_eq!(locked["key"], b64("l/5"));
        // Somebody who waits and leaves is taken out of the queue.
        let mut waiting = Web::connect(server.client_port()).await;
        waiting.begin("/v3/lock/lock", "", &json!({"name": b64("l")}).to_string()).await;
        let queue = json!({"key": b64("l/"), "range_end": b64("l0"), "count_only": true});
        pinion_kit::until(pinion_kit::PATIENCE, async || {
            web.call("/v3/kv/range", queue.clone()).await["count"] == "2"
        })
        .await;
        drop(waiting);
        pinion_kit::until(pinion_kit::PATIENCE, async || {
            web.call("/v3/kv/range", queue.clone()).await["count"] == "1"
        })
        .await;
        web.call("/v3/lock/unlock", json!({"key": b64("l/5")})).await;

        let mut observing = Web::connect(server.client_port()).await;
        observing.begin("/v3/election/observe", "", &json!({"name": b64("e")}).to_string()).await;
        let won = json!({"name": b64("e"), "lease": 5, "value": b64("v")});
        let leader = web.call("/v3/election/campaign", won).await["leader"].clone();
        assert_eq!(observing.head().await.unwrap().status, 200);
        assert_eq!(observing.line().await.unwrap()["result"]["kv"]["value"], b64("v"));
        web.call("/v3/election/proclaim", json!({"leader": leader.clone(), "value": b64("w")})).await;
        assert_eq!(observing.line().await.unwrap()["result"]["kv"]["value"], b64("w"));
        web.call("/v3/election/resign", json!({"leader": leader})).await;
        let answer = web.post("/v3/election/leader", &json!({"name": b64("e")}).to_string()).await;
        assert_eq!((answer.status, &answer.json()["message"]), (500, &json!("election: no leader")));
    });
}

#[test]
fn members_status_and_alarms_are_asked_for() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, mut web) = started(&work).await;
        let members = web.call("/v3/cluster/member/list", json!({"linearizable": true})).await;
        assert_eq!(members["members"].as_array().unwrap().len(), 1);
        assert!(
            members["members"][0]["peerURLs"].is_array() && members["members"][0]["clientURLs"].is_array()
        );
        let status = web.call("/v3/maintenance/status", json!({})).await;
        assert!(number(&status["raftAppliedIndex"]) > 0 && status["version"].is_string());
        assert_eq!(web.call("/v3/maintenance/alarm", json!({"action": "GET"})).await.get("alarms"), None);
        let hash = web.call("/v3/maintenance/hashkv", json!({})).await;
        assert!(hash["hash"].is_number(), "32 bits are no text");
    });
}

#[test]
fn deadline_and_wish_for_a_leader_come_as_headers() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, mut web) = started(&work).await;
        let locked = json!({"name": b64("l")}).to_string();
        assert_eq!(web.post("/v3/lock/lock", &locked).await.status, 200);
        let answer = web.post_with("/v3/lock/lock", "Grpc-Timeout: 200m\r\n", &locked).await;
        assert_eq!((answer.status, &answer.json()["code"]), (504, &json!(4)));
        let answer = web.post_with("/v3/kv/range", "Grpc-Timeout: soon\r\n", "{}").await;
        assert_eq!(answer.status, 400);
        let key = json!({"key": b64("a")}).to_string();
        for (timeout, status) in [("0S", 200), ("1n", 504), ("10S", 200)] {
            let answer = web.post_with("/v3/kv/range", &format!("Grpc-Timeout: {timeout}\r\n"), &key).await;
            assert_eq!(answer.status, status, "{timeout}");
        }
        let answer = web.post_with("/v3/kv/range", "Grpc-Metadata-hasleader: true\r\n", &key).await;
        assert_eq!(answer.status, 200);
    });
}

#[test]
fn a_read_says_by_a_header_how_new_its_answer_has_to_be() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        let key = json!({"key": b64("a"), "serializable": true}).to_string();
        let ask = |revision: &str| {
            format!("Grpc-Metadata-pinion-not-older-than: {revision}\r\nGrpc-Timeout: 300m\r\n")
        };
        for (revision, status) in [("1", 200), ("2", 503), ("x", 400)] {
            let answer = web.post_with("/v3/kv/range", &ask(revision), &key).await;
            assert_eq!(answer.status, status, "{revision}: {}", answer.text());
        }
        // The answer comes with the write that it waits for.
        let header = "Grpc-Metadata-pinion-not-older-than: 2\r\n";
        let client = server.connect().await;
        let (answer, put) = tokio::join!(web.post_with("/v3/kv/range", header, &key), async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            client.put_kv("a", "b").await
        });
        put.unwrap();
        assert_eq!(answer.json()["kvs"][0]["value"], b64("b"));
    });
}

#[test]
fn client_that_has_ended_its_side_still_gets_the_answer_to_its_call() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, mut web) = started(&work).await;
        web.begin("/v3/kv/put", "", &json!({"key": b64("a")}).to_string()).await;
        web.shut().await;
        assert_eq!(web.answer().await.unwrap().status, 200);
        assert_eq!(web.rest().await, b"");
    });
}

#[test]
fn large_values_and_many_keys_come_back_whole() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, mut web) = started(&work).await;
        let large = vec![7_u8; 1_000_000];
        let put = json!({"key": b64("large"), "value": b64(&large)}).to_string();
        // As curl sends what is large.
        let length = put.len();
        web.send(format!(
            "POST /v3/kv/put HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
        assert_eq!(web.head().await.unwrap().status, 100);
        web.send(&put).await;
        assert_eq!(web.answer().await.unwrap().status, 200);
        let range = web.call("/v3/kv/range", json!({"key": b64("large")})).await;
        assert!(range["kvs"][0]["value"] == b64(&large));
        let client = server.connect().await;
        for n in 0..2_000 {
            client.put_kv(&format!("k{n:04}"), &"v".repeat(1_000)).await.unwrap();
        }
        let range = web.call("/v3/kv/range", json!({"key": b64("k"), "range_end": b64("l")})).await;
        assert_eq!(range["kvs"].as_array().unwrap().len(), 2_000);
        assert_eq!(range["kvs"][1999]["key"], b64("k1999"));
        // A list inside a transaction's answer too, and the connection goes on.
        let txn = json!({"success": [{"request_range": {"key": b64("k"), "range_end": b64("l")}}]});
        let answered = web.call("/v3/kv/txn", txn).await;
        assert_eq!(answered["responses"][0]["response_range"]["kvs"], range["kvs"]);
    });
}
