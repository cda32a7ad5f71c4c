//! Long polls and streams: what ends them, and what they are told.

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};
use serde_json::{Value, json};

use crate::v2::{ask, member, well};
use crate::web::{Web, b64};

async fn begin(port: u16, path: &str) -> Web {
    let mut web = Web::connect(port).await;
    web.send(format!("GET /v2/keys{path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    web
}

/// The next event of a stream.
async fn event(web: &mut Web) -> (String, String, u64) {
    let line = web.line().await.expect("an event");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&line["action"]), text(&line["node"]["key"]), line["node"]["modifiedIndex"].as_u64().unwrap())
}

#[test]
fn a_long_poll_is_told_the_next_change_and_one_from_the_past_at_once() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let (web, port) = (&mut Web::connect(server.client_port()).await, server.client_port());
        let first = well(web, "PUT", "/keys/a/b", "value=1").await["node"]["modifiedIndex"].as_u64().unwrap();
        let mut waits = begin(port, "/a/b?wait=true").await;
        let head = waits.head().await.unwrap();
        assert_eq!(
            head.header("x-etcd-index"),
            Some(first.to_string().as_str()),
            "told before anything happens"
        );
        well(web, "PUT", "/keys/a/c", "value=other").await;
        let second = well(web, "PUT", "/keys/a/b", "value=2&prevExist=true").await;
        let told = waits.line().await.unwrap();
        assert_eq!(told["action"], "update");
        assert_eq!((&told["node"], &told["prevNode"]), (&second["node"], &second["prevNode"]));
        assert!(waits.line().await.is_none(), "one change ends it");

        // From the past: the oldest that matches, as it was.
        let past = begin(port, &format!("/a?wait=true&recursive=true&waitIndex={first}"))
            .await
            .answer()
            .await
            .unwrap();
        assert_eq!((past.json()["node"]["value"].clone(), past.status), (json!("1"), 200));
        let mut future = begin(port, &format!("/a/b?wait=true&waitIndex={}", first + 4)).await;
        well(web, "PUT", "/keys/a/b", "value=3").await;
        let last = well(web, "PUT", "/keys/a/b", "value=4").await;
        let told = future.answer().await.unwrap().json();
        assert_eq!(told["node"]["modifiedIndex"], last["node"]["modifiedIndex"]);
        assert_eq!(told["node"]["value"], "4", "what is below the index is passed over");
    });
}

#[test]
fn a_stream_tells_every_change_of_both_apis_in_order_and_no_refresh_and_nothing_hidden() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        let mut stream =
            begin(server.client_port(), "/?wait=true&recursive=true&stream=true&waitIndex=2").await;
        stream.head().await.unwrap();
        well(web, "PUT", "/keys/d", "dir=true").await;
        well(web, "PUT", "/keys/d/a", "value=1&ttl=100").await;
        well(web, "PUT", "/keys/d/a", "refresh=true&ttl=100&prevExist=true").await;
        well(web, "PUT", "/keys/d/_hidden", "value=1").await;
        web.call("/v3/kv/put", json!({"key": b64("/d/v3"), "value": b64("2")})).await;
        // Several keys of one transaction share an index, and none is passed over.
        let puts: Vec<Value> = ["/t/1", "/t/2", "/t/3"]
            .iter()
            .map(|key| json!({"requestPut": {"key": b64(key), "value": b64("x")}}))
            .collect();
        web.call("/v3/kv/txn", json!({"success": puts})).await;
        web.call("/v3/kv/deleterange", json!({"key": b64("/t/2")})).await;
        well(web, "POST", "/keys/q", "value=job").await;
        well(web, "DELETE", "/keys/d?recursive=true", "").await;
        let mut told = Vec::new();
        while told.last().is_none_or(|(_, key, _): &(String, String, u64)| key != "/d" || told.len() < 3) {
            told.push(event(&mut stream).await);
        }
        let words: Vec<_> = told.iter().map(|(action, key, _)| (action.as_str(), key.as_str())).collect();
        let queued = words[7].1.to_owned();
        assert_eq!(
            words,
            [
                ("set", "/d"),
                ("set", "/d/a"),
                ("set", "/d/v3"),
                ("set", "/t/1"),
                ("set", "/t/2"),
                ("set", "/t/3"),
                ("delete", "/t/2"),
                ("create", queued.as_str()),
                ("delete", "/d"),
            ]
        );
        assert_eq!(queued, format!("/q/{:020}", told[7].2));
        assert_eq!((told[3].2, told[5].2), (told[4].2, told[4].2));
        assert!(told.is_sorted_by_key(|(_, _, index)| *index));
    });
}

#[test]
fn a_wait_for_what_is_compacted_is_told_401_and_history_is_what_compaction_has_left() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        // More than etcd remembers.
        for number in 0..1_500 {
            well(web, "PUT", "/keys/n", &format!("value={number}")).await;
        }
        let oldest = ask(web, "GET", "/keys/n?wait=true&waitIndex=1", "").await;
        assert_eq!(oldest.json()["node"]["value"], "0");
        web.call("/v3/kv/compaction", json!({"revision": 1_000, "physical": true})).await;
        let cleared = ask(web, "GET", "/keys/n?wait=true&waitIndex=1000", "").await;
        assert_eq!((cleared.status, &cleared.json()["errorCode"]), (400, &json!(401)));
        assert_eq!(cleared.json()["cause"], "the requested history has been cleared [1001/1000]");
        let told = ask(web, "GET", "/keys/n?wait=true&waitIndex=1001", "").await;
        assert_eq!(told.json()["node"]["modifiedIndex"], 1001);
    });
}

#[test]
fn waits_that_are_left_or_stopped_end_and_leave_nothing() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag("--enable-v2").start().await;
        let web = &mut Web::connect(server.client_port()).await;
        let watchers = async |web: &mut Web| well(web, "GET", "/stats/store", "").await["watchers"].clone();
        let mut held = Vec::new();
        for number in 0..200 {
            let mut wait = begin(server.client_port(), &format!("/w/{number}?wait=true")).await;
            wait.head().await.unwrap();
            held.push(wait);
        }
        // The head of an answer leaves before the store has the wait.
        while watchers(web).await != json!(200) {}
        held.truncate(50);
        while watchers(web).await != json!(50) {}
        server.terminate().await;
        for mut wait in held {
            assert!(wait.chunk().await.is_none(), "it ends without an event");
        }
    });
}
