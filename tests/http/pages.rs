//! Health, version and variables, on the addresses for clients and on those for metrics.

use pinion_kit::{Cluster, Launch, TEST_DEADLINE, WorkDir, block_on, free_port};
use serde_json::json;

use crate::web::Web;

#[test]
fn a_member_that_serves_is_healthy_live_and_ready() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let mut web = Web::connect(server.client_port()).await;
        let answer = web.get("/health").await;
        assert_eq!((answer.status, answer.text()), (200, r#"{"health":"true","reason":""}"#.to_owned()));
        for path in ["/livez", "/readyz", "/readyz/linearizable_read", "/livez/serializable_read"] {
            let answer = web.get(path).await;
            assert_eq!((answer.status, answer.text()), (200, "ok\n".to_owned()), "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
        let answer = web.get("/readyz?verbose&exclude=non_learner").await;
        assert_eq!(
            answer.text(),
            "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\nok\n"
        );
        assert_eq!(web.get("/readyz/nothing").await.status, 404);
        web.send("POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").await;
        let answer = web.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
        let version = web.get("/version").await.json();
        assert_eq!(version["etcdserver"], "3.7.1");
        assert_eq!((&version["etcdcluster"], &version["storage"]), (&json!("3.7.0"), &json!("3.7.0")));
        let variables = web.get("/debug/vars").await.json();
        assert!(variables["cmdline"][0].as_str().unwrap().contains("pinion"), "{variables}");
        assert_eq!(web.get("/v1/keys").await.text(), "404 page not found\n");
        // Which is there, and not asked for: the flag is named.
        let why = "404 page not found: this member serves /v2 with --enable-v2\n";
        assert_eq!(web.get("/v2/keys").await.text(), why);
    });
}

#[test]
fn a_member_without_a_quorum_is_live_but_neither_healthy_nor_ready() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &["--heartbeat-interval=50", "--election-timeout=500"]).await;
        let leader = cluster.leader().await;
        let others: Vec<usize> = (0..3).filter(|&member| member != leader).collect();
        for &member in &others {
            cluster.kill(member);
        }
        let mut web = Web::connect(cluster.client_port(leader)).await;
        pinion_kit::until(pinion_kit::PATIENCE, async || {
            web.get("/health").await.text() == "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"
        })
        .await;
        assert_eq!(web.get("/livez").await.status, 200);
        assert_eq!(web.get("/health?serializable=true").await.status, 200);
        let answer = web.get("/readyz").await;
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("[-]linearizable_read failed: "), "{}", answer.text());
        assert!(answer.text().contains("[+]serializable_read ok\n"), "{}", answer.text());
    });
}

#[test]
fn an_active_alarm_is_told_unless_it_is_excluded() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let mut web = Web::connect(server.client_port()).await;
        let member = web.call("/v3/maintenance/status", json!({})).await["header"]["member_id"].clone();
        let alarm = |kind| json!({"action": "ACTIVATE", "memberID": member, "alarm": kind});
        web.call("/v3/maintenance/alarm", alarm("NOSPACE")).await;
        let answer = web.get("/health").await;
        assert_eq!((answer.status, &answer.json()["reason"]), (503, &json!("ALARM NOSPACE")));
        assert_eq!(web.get("/health?exclude=NOSPACE").await.status, 200);
        assert_eq!(web.get("/readyz").await.status, 200);
        web.call("/v3/maintenance/alarm", alarm("CORRUPT")).await;
        let answer = web.get("/readyz").await;
        assert_eq!(answer.status, 503);
        assert!(answer.text().starts_with("[-]data_corruption failed: alarm activated: CORRUPT\n"));
        assert_eq!(web.get("/readyz?exclude=data_corruption").await.status, 200);
    });
}

#[test]
fn addresses_of_their_own_serve_metrics_alone_or_http_alone() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (metrics, http) = (free_port(), free_port());
        let server = Launch::new(work.join("data"))
            .flag(format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"))
            .flag(format!("--listen-client-http-urls=http://127.0.0.1:{http}"))
            .start()
            .await;
        let mut web = Web::connect(metrics).await;
        assert_eq!(web.get("/health").await.status, 200);
        assert_eq!(web.get("/readyz?verbose").await.status, 200);
        assert_eq!(web.get("/version").await.status, 404);
        assert_eq!(web.post("/v3/kv/range", "{}").await.status, 404);
        let mut web = Web::connect(http).await;
        web.call("/v3/kv/put", json!({"key": "YQ=="})).await;
        assert_eq!(web.get("/health").await.status, 200);
        let mut web = Web::connect(server.client_port()).await;
        assert_eq!(web.get("/health").await.status, 404);
        server.connect().await.put_kv("a", "b").await.unwrap();
        // HTTP/2 has no business there.
        let mut web = Web::connect(http).await;
        web.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert_eq!(web.rest().await, b"");
    });
}

#[test]
fn host_and_origin_are_held_to_the_operators_lists() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data"))
            .flag("--host-whitelist=good.example")
            .flag("--cors=http://app.example")
            .start()
            .await;
        let mut web = Web::connect(server.client_port()).await;
        let answer = web.get("/health").await;
        assert_eq!(answer.status, 421);
        assert!(answer.text().contains("--host-whitelist"), "{}", answer.text());
        let mut get = async |headers: &str| {
            web.send(format!("GET /health HTTP/1.1\r\nHost: good.example:2379\r\n{headers}\r\n")).await;
            web.answer().await.unwrap()
        };
        let answer = get("").await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
        let answer = get("Origin: http://app.example\r\n").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://app.example"));
        web.send("OPTIONS /v3/kv/put HTTP/1.1\r\nHost: good.example\r\nOrigin: http://app.example\r\n\r\n")
            .await;
        let answer = web.answer().await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, String::new()));
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST, GET, OPTIONS, PUT, DELETE"));
    });
}
