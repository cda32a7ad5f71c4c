//! Nodes in a cluster: expiry while leaders change, what a restart keeps, and the format gate.

use std::time::Duration;

use pinion_kit::{Cluster, Launch, TEST_DEADLINE, WorkDir, block_on};
use serde_json::{Value, json};

use crate::v2::{ask, fault, paths, well};
use crate::web::Web;

#[test]
fn nodes_end_once_and_not_early_while_leaders_change() {
    block_on(TEST_DEADLINE, async {
        let mut cluster =
            Cluster::start(3, &["--enable-v2", "--election-timeout=500", "--heartbeat-interval=50"]).await;
        let leader = cluster.leader().await;
        let follower = (leader + 1) % 3;
        let mut web = Web::connect(cluster.client_port(follower)).await;
        let mut written = Vec::new();
        for number in 0..20 {
            let ttl = 2 + number % 4;
            let path = format!("/keys/t/{number}");
            let node = well(&mut web, "PUT", &path, &format!("value=v&ttl={ttl}")).await["node"].clone();
            written.push((node["modifiedIndex"].as_u64().unwrap(), tokio::time::Instant::now(), ttl));
        }
        well(&mut web, "PUT", "/keys/keep", "value=v&ttl=1000").await;
        // Every change of what expires, from the member that stays.
        let mut stream = Web::connect(cluster.client_port(follower)).await;
        let from = written[0].0;
        stream
            .send(format!("GET /v2/keys/t?wait=true&recursive=true&stream=true&waitIndex={from} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await;
        stream.head().await.unwrap();
        for number in 0..20 {
            let line = stream.line().await.unwrap();
            assert_eq!(line["node"]["key"], format!("/t/{number}"));
        }
        cluster.kill(leader);
        let mut ended = Vec::new();
        while ended.len() < 20 {
            let line = stream.line().await.unwrap();
            assert_eq!(line["action"], "expire", "{line}");
            let key = line["node"]["key"].as_str().unwrap().to_owned();
            let number: usize = key.strip_prefix("/t/").unwrap().parse().unwrap();
            let (_, since, ttl) = written[number];
            assert!(
                Duration::from_secs(ttl) <= since.elapsed(),
                "{key} ended after {:?} of {ttl} s",
                since.elapsed()
            );
            ended.push(key);
        }
        let count = ended.len();
        ended.sort();
        ended.dedup();
        assert_eq!(ended.len(), count, "each ends once");
        // The one that was away sees the same.
        cluster.start_again(leader).await;
        let mut other = Web::connect(cluster.client_port(leader)).await;
        let query = "/keys?recursive=true&quorum=true";
        let (ours, theirs) =
            (well(&mut web, "GET", query, "").await, well(&mut other, "GET", query, "").await);
        assert_eq!(paths(&ours["node"]), ["/keep", "/t"]);
        let without_ttl = |mut answer: Value| {
            answer["node"]["nodes"][0]["ttl"] = json!("left");
            answer
        };
        assert_eq!(without_ttl(ours), without_ttl(theirs));
        let leads = cluster.leader().await;
        let mut web = Web::connect(cluster.client_port(leads)).await;
        let stats = well(&mut web, "GET", "/stats/leader", "").await;
        let followers = stats["followers"].as_object().unwrap();
        assert_eq!(followers.len(), 2, "{stats}");
        assert!(
            followers.values().any(|follower| 0 < follower["counts"]["success"].as_u64().unwrap()),
            "{stats}"
        );
        let mut web = Web::connect(cluster.client_port((leads + 1) % 3)).await;
        assert_eq!(ask(&mut web, "GET", "/stats/leader", "").await.status, 403);
        assert!(0 < well(&mut web, "GET", "/stats/self", "").await["recvAppendRequestCnt"].as_u64().unwrap());
    });
}

#[test]
fn a_restart_keeps_directories_times_to_live_and_history() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"))
            .flag("--enable-v2")
            .flag("--snapshot-count=50")
            .flag("--checkpoint-bytes=1048576");
        let mut server = launch.clone().start().await;
        let mut web = Web::connect(server.client_port()).await;
        let web = &mut web;
        well(web, "PUT", "/keys/empty/of/all", "dir=true").await;
        well(web, "PUT", "/keys/d", "dir=true&ttl=1000").await;
        well(web, "PUT", "/keys/k", "value=1").await;
        well(web, "PUT", "/keys/k", "value=2&prevExist=true&ttl=500").await;
        for number in 0..300 {
            well(web, "PUT", "/keys/noise", &format!("value={number}")).await;
        }
        let before = well(web, "GET", "/keys?recursive=true", "").await;
        let history = ask(web, "GET", "/keys/d?wait=true&waitIndex=2", "").await.json();
        server.kill();
        server.wait_exit().await;
        let server = launch.clone().start().await;
        let web = &mut Web::connect(server.client_port()).await;
        let after = well(web, "GET", "/keys?recursive=true", "").await;
        assert_eq!(paths(&after["node"]), ["/d", "/empty", "/empty/of", "/empty/of/all", "/k", "/noise"]);
        let fields = |answer: &Value, path: &str| {
            let nodes = answer["node"]["nodes"].as_array().unwrap();
            let node = nodes.iter().find(|node| node["key"] == path).unwrap();
            ["value", "expiration", "modifiedIndex", "createdIndex"].map(|name| node[name].clone())
        };
        for path in ["/d", "/empty", "/k", "/noise"] {
            assert_eq!(fields(&after, path), fields(&before, path), "{path}");
        }
        let mut again = ask(web, "GET", "/keys/d?wait=true&waitIndex=2", "").await.json();
        again["node"]["ttl"] = history["node"]["ttl"].clone();
        assert_eq!(again, history);
    });
}

#[test]
fn writes_are_refused_by_name_while_the_level_is_held_below_that_of_nodes() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let held = Launch::new(work.join("data")).flag("--enable-v2").flag("--format-level-max=2");
        let server = held.clone().start().await;
        let web = &mut Web::connect(server.client_port()).await;
        let refused = ask(web, "PUT", "/keys/a", "value=1").await;
        assert_eq!((refused.status, &refused.json()["errorCode"]), (500, &json!(300)));
        assert_eq!(refused.json()["cause"], "etcdserver: not capable");
        assert_eq!(fault(web, "GET", "/keys/a", "").await, 100, "reads are served");
        server.says("a request was refused that some member of the cluster does not know yet").await;
        server.terminate().await;
        // The same data with the level free.
        let mut free = held;
        free.flags.retain(|flag| !flag.starts_with("--format-level-max"));
        let server = free.start().await;
        let web = &mut Web::connect(server.client_port()).await;
        well(web, "PUT", "/keys/a", "value=1").await;
    });
}
