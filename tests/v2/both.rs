//! Both APIs on the same keys: what one writes the other shows.

use std::time::Duration;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};
use serde_json::{Value, json};

use crate::v2::{ask, fault, member, paths, well};
use crate::web::{Web, b64};

async fn v3_get(web: &mut Web, key: &str) -> Option<Value> {
    let found = web.call("/v3/kv/range", json!({"key": b64(key)})).await;
    found["kvs"].as_array().map(|kvs| kvs[0].clone())
}

#[test]
fn what_one_api_writes_the_other_shows() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        let set = well(web, "PUT", "/keys/app/db", "value=1").await;
        let index = set["node"]["modifiedIndex"].as_u64().unwrap();
        let kv = v3_get(web, "/app/db").await.unwrap();
        assert_eq!(kv["value"], b64("1"));
        assert_eq!(kv["mod_revision"], index.to_string(), "an index is a revision");
        assert!(kv.get("lease").is_none());

        web.call("/v3/kv/put", json!({"key": b64("/app/v3/x"), "value": b64("2")})).await;
        let listed = well(web, "GET", "/keys/app?recursive=true", "").await;
        assert_eq!(paths(&listed["node"]), ["/app/db", "/app/v3", "/app/v3/x"]);

        // A put of v3 reads as a set, and renews createdIndex, which create_revision is not.
        well(web, "PUT", "/keys/app/db", "value=3&prevExist=true").await;
        let updated = well(web, "GET", "/keys/app/db", "").await["node"].clone();
        assert_eq!(updated["createdIndex"], index);
        web.call("/v3/kv/put", json!({"key": b64("/app/db"), "value": b64("4")})).await;
        let put = well(web, "GET", "/keys/app/db", "").await["node"].clone();
        assert_eq!(put["createdIndex"], put["modifiedIndex"]);
        let kv = v3_get(web, "/app/db").await.unwrap();
        assert_eq!((&kv["version"], &kv["create_revision"]), (&json!("3"), &json!(index.to_string())));

        // A directory goes with what v3 has put into it, in one revision.
        let deleted = well(web, "DELETE", "/keys/app?recursive=true", "").await;
        assert!(v3_get(web, "/app/v3/x").await.is_none() && v3_get(web, "/app/db").await.is_none());
        let revision = web.call("/v3/kv/range", json!({"key": b64("x")})).await["header"]["revision"].clone();
        assert_eq!(revision, deleted["node"]["modifiedIndex"].to_string());
    });
}

#[test]
fn a_refresh_is_a_put_for_v3_and_renews_directories_too() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        well(web, "PUT", "/keys/k", "value=v&ttl=100").await;
        let before = v3_get(web, "/k").await.unwrap();
        let refreshed = well(web, "PUT", "/keys/k", "refresh=true&ttl=500&prevExist=true").await;
        assert_eq!(refreshed["node"]["ttl"], 500);
        assert_eq!(refreshed["node"]["value"], "v");
        let after = v3_get(web, "/k").await.unwrap();
        assert_eq!((&after["value"], &after["version"]), (&before["value"], &json!("2")));
        assert_ne!(after["mod_revision"], before["mod_revision"]);

        let since = tokio::time::Instant::now();
        well(web, "PUT", "/keys/d", "dir=true&ttl=100").await;
        let renewed = well(web, "PUT", "/keys/d", "dir=true&ttl=500&prevExist=true&refresh=true").await;
        assert_eq!((&renewed["action"], &renewed["node"]["ttl"]), (&json!("update"), &json!(500)));
        // What was left of it.
        let left = renewed["prevNode"]["ttl"].as_u64().unwrap();
        let least = 99_u64.saturating_sub(since.elapsed().as_secs());
        assert!((least..=100).contains(&left), "{renewed}");
        // Without a time to live it stays.
        let kept = well(web, "PUT", "/keys/d", "dir=true&prevExist=true").await;
        assert!(kept["node"].get("ttl").is_none());
    });
}

#[test]
fn a_time_to_live_ends_keys_and_directories_with_all_that_is_in_them() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        let mut watch = Web::connect(server.client_port()).await;
        well(web, "PUT", "/keys/keep/k", "value=v&ttl=1").await;
        // Whoever writes next takes the time to live away.
        web.call("/v3/kv/put", json!({"key": b64("/keep/k"), "value": b64("2")})).await;
        let since = tokio::time::Instant::now();
        well(web, "PUT", "/keys/d", "dir=true&ttl=2").await;
        web.call("/v3/kv/put", json!({"key": b64("/d/late"), "value": b64("2")})).await;
        watch.send("GET /v2/keys/d/late?wait=true HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let ended = watch.answer().await.unwrap().json();
        assert_eq!((&ended["action"], &ended["node"]["key"]), (&json!("expire"), &json!("/d")));
        assert_eq!(ended["node"]["dir"], true);
        assert!(Duration::from_secs(2) <= since.elapsed(), "it ended after {:?} of 2 s", since.elapsed());
        assert!(v3_get(web, "/d/late").await.is_none(), "it went with its directory");
        assert_eq!(fault(web, "GET", "/keys/d", "").await, 100);
        assert_eq!(v3_get(web, "/keep/k").await.unwrap()["value"], b64("2"));
        let leases = web.call("/v3/lease/leases", json!({})).await;
        assert!(leases.get("leases").is_none(), "no lease is seen: {leases}");
        let stats = well(web, "GET", "/stats/store", "").await;
        assert_eq!((&stats["expireCount"], &stats["setsSuccess"]), (&json!(1), &json!(2)));
    });
}

#[test]
fn a_prefix_moves_the_root_and_a_member_without_the_flag_says_its_name() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server =
            Launch::new(work.join("data")).flag("--enable-v2").flag("--v2-prefix=/v2/").start().await;
        let web = &mut Web::connect(server.client_port()).await;
        well(web, "PUT", "/keys/a/b", "value=1").await;
        assert_eq!(v3_get(web, "/v2/a/b").await.unwrap()["value"], b64("1"));
        web.call("/v3/kv/put", json!({"key": b64("/outside"), "value": b64("2")})).await;
        let root = well(web, "GET", "/keys?recursive=true", "").await;
        assert_eq!(paths(&root["node"]), ["/a", "/a/b"]);
        drop(server);

        let server = Launch::new(work.join("plain")).start().await;
        let web = &mut Web::connect(server.client_port()).await;
        let answer = ask(web, "GET", "/keys/a", "").await;
        assert_eq!(answer.status, 404);
        assert!(answer.text().contains("--enable-v2"), "{}", answer.text());
    });
}

#[test]
fn v2_discovery_registers_members_until_the_cluster_is_full() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = member(&work).await;
        let web = &mut Web::connect(server.client_port()).await;
        let token = "/keys/_etcd/registry/6c007a14875d53d9bf0ef5a6fc0257c8";
        well(web, "PUT", &format!("{token}/_config/size"), "value=2").await;
        let size = well(web, "GET", &format!("{token}/_config/size"), "").await;
        assert_eq!(size["node"]["value"], "2");
        let first = format!("{token}/d1?prevExist=false");
        let one = well(web, "PUT", &first, "value=n1%3Dhttp%3A%2F%2F10.0.0.1%3A2380").await;
        assert_eq!(fault(web, "PUT", &first, "value=again").await, 105);
        let mut watch = Web::connect(server.client_port()).await;
        let next = one["node"]["modifiedIndex"].as_u64().unwrap() + 1;
        let wait =
            format!("GET /v2{token}?recursive=true&wait=true&waitIndex={next} HTTP/1.1\r\nHost: x\r\n\r\n");
        watch.send(wait).await;
        well(web, "PUT", &format!("{token}/d2?prevExist=false"), "value=n2%3Dhttp%3A%2F%2F10.0.0.2%3A2380")
            .await;
        assert_eq!(watch.answer().await.unwrap().json()["node"]["value"], "n2=http://10.0.0.2:2380");
        let listed = well(web, "GET", token, "").await;
        // Sorted as members sort them, by createdIndex; the size is hidden.
        let mut members: Vec<_> = listed["node"]["nodes"].as_array().unwrap().clone();
        members.sort_by_key(|member| member["createdIndex"].as_u64());
        let values: Vec<_> = members.iter().map(|member| member["value"].as_str().unwrap()).collect();
        assert_eq!(values, ["n1=http://10.0.0.1:2380", "n2=http://10.0.0.2:2380"]);
    });
}
