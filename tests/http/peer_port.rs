//! HTTP on the port for peers. With `PINION_TEST_BIN` naming an etcd all this holds of it.

use pinion_kit::{Cluster, PATIENCE, TEST_DEADLINE, block_on, eventually, server_is_etcd, until};
use serde_json::Value;

use crate::web::{Answer, Web};

async fn ask(port: u16, method: &str, path: &str) -> Answer {
    let mut web = Web::connect(port).await;
    web.send(format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
    web.answer().await.unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

#[test]
fn the_port_for_peers_tells_versions_and_members_and_promotes_a_learner() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(1, &["--heartbeat-interval=50", "--election-timeout=500"]).await;
        let client = cluster.client(0).await;
        cluster.add_learner(&client).await;
        // Its own record comes with its first leader.
        until(PATIENCE, async || {
            let listed = client.member_list(true).await.unwrap().members;
            listed.iter().all(|member| !member.name.is_empty())
        })
        .await;
        let listed = client.member_list(true).await.unwrap();
        let ports: Vec<u16> = (0..2).map(|member| cluster.launch(member).peer_port).collect();
        for &port in &ports {
            until(PATIENCE, async || {
                ask(port, "GET", "/members").await.text().matches("clientURLs").count() == 2
            })
            .await;
            let version = ask(port, "GET", "/version").await.json();
            assert!(server_is_etcd() || version["etcdserver"] == "3.7.1", "{version}");
            let answer = ask(port, "GET", "/members").await;
            let cluster_id = format!("{:x}", listed.header.as_ref().unwrap().cluster_id);
            assert_eq!(answer.header("x-etcd-cluster-id"), Some(&cluster_id[..]));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let told = answer.json();
            for member in &listed.members {
                let told = told.as_array().unwrap().iter().find(|told| told["id"] == member.id).unwrap();
                assert_eq!(told["name"], member.name);
                assert_eq!(told["peerURLs"], Value::from(member.peer_ur_ls.clone()));
                assert_eq!(told["clientURLs"], Value::from(member.client_ur_ls.clone()));
                assert_eq!(told.get("isLearner").and_then(Value::as_bool), member.is_learner.then_some(true));
            }
            for (method, path, status, text) in [
                ("POST", "/version", 405, "Method Not Allowed\n"),
                ("POST", "/members", 405, "Method Not Allowed\n"),
                ("GET", "/members/promote/5", 405, "Method Not Allowed\n"),
                ("GET", "/members/", 404, "404 page not found\n"),
                ("GET", "/health", 404, "404 page not found\n"),
                ("GET", "/", 404, "404 page not found\n"),
                ("POST", "/members/promote/a1", 404, "member a1 not found in cluster\n"),
                ("POST", "/members/promote/5", 404, "membership: ID not found\n"),
            ] {
                let answer = ask(port, method, path).await;
                assert_eq!((answer.status, answer.text().as_str()), (status, text), "{method} {path}");
            }
        }
        let learner = listed.members.iter().find(|member| member.is_learner).unwrap().id;
        let promote = format!("/members/promote/{learner}");
        // Refused while it has not caught up.
        let told = eventually(async || {
            let answer = ask(ports[0], "POST", &promote).await;
            if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
        })
        .await;
        assert!(told.as_array().unwrap().iter().all(|member| member.get("isLearner").is_none()), "{told}");
        // How far it is is asked first, and of a voter too.
        until(PATIENCE, async || {
            let again = ask(ports[0], "POST", &promote).await;
            assert_eq!(again.status, 412);
            again.text() == "membership: can only promote a learner member\n"
        })
        .await;
    });
}

#[test]
fn http_that_is_none_does_not_hold_up_the_port_for_peers() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &["--heartbeat-interval=50", "--election-timeout=500"]).await;
        let port = cluster.launch(0).peer_port;
        let mut silent = Vec::new();
        for _connection in 0..200 {
            let mut web = Web::connect(port).await;
            web.send_some(b"GET /version HTTP/1.1\r\n").await;
            silent.push(web);
        }
        for begun in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/3.0\r\nHost: x\r\n\r\n", "G\tT"] {
            let mut web = Web::connect(port).await;
            web.send(begun).await;
            assert!(web.answer().await.is_none_or(|answer| 400 <= answer.status));
        }
        let mut long = Web::connect(port).await;
        long.send(format!("GET /{} HTTP/1.1\r\nHost: x\r\n", "x".repeat(1 << 20))).await;
        drop(long);
        assert_eq!(ask(port, "GET", "/version").await.status, 200);
        cluster.assert_running();
        cluster.client(1).await.put_kv("a", "1").await.unwrap();
    });
}
