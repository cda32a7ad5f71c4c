//! `/metrics` of the real binary: the series of etcd's dashboard and alert rules are there, and each moves when what
//! it measures happens.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, Launch, PATIENCE, WorkDir, block_on, free_port, installed, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What etcd's Grafana dashboard and its alert rules ask for, besides `up`, which is the scraper's own.
const DASHBOARD_AND_ALERTS: [&str; 21] = [
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
];

/// A page, asked for as a scraper does.
async fn page(port: u16, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let ask =
        format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    (head.to_owned(), body.to_owned())
}

/// The samples of a scrape, by name and labels as they are written.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    async fn of(port: u16) -> Self {
        let (_, body) = page(port, "*/*").await;
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (name, value) = line.rsplit_once(' ').unwrap();
                    (name.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    fn has(&self, name: &str) -> bool {
        self.0.keys().any(|key| key.split('{').next() == Some(name))
    }

    /// The sum over all labels that contain every one of these.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let is_meant =
            |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
        self.0.iter().filter(|(key, _)| is_meant(key)).map(|(_, value)| value).sum()
    }
}

async fn put(client: &Client, key: &str, bytes: usize) {
    let request =
        pb::PutRequest { key: key.to_owned().into(), value: vec![b'x'; bytes].into(), ..Default::default() };
    client.put(&request).await.unwrap();
}

const PUT: [&str; 2] = ["grpc_service=\"etcdserverpb.KV\"", "grpc_method=\"Put\""];

#[test]
fn every_series_of_dashboard_and_alerts_is_there_and_moves_with_what_it_measures() {
    block_on(Duration::from_secs(180), async {
        let mut cluster =
            Cluster::start(3, &["--metrics=extensive", "--quota-backend-bytes=123456789"]).await;
        let (leader, followers) = cluster.roles().await;
        let port = cluster.client_port(leader);
        let rtt = "etcd_network_peer_round_trip_time_seconds_count";
        until(PATIENCE, async || 2.0 <= Samples::of(port).await.sum(rtt, &[])).await;

        let before = Samples::of(port).await;
        let missing: Vec<_> = DASHBOARD_AND_ALERTS.iter().filter(|name| !before.has(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let client = cluster.client(leader).await;
        for number in 0..64 {
            put(&client, &format!("/registry/pods/{number}"), 1 << 20).await;
        }
        let after = Samples::of(port).await;
        for name in [
            "etcd_disk_backend_commit_duration_seconds_count",
            "etcd_disk_wal_fsync_duration_seconds_count",
            "etcd_server_proposals_applied_total",
            "etcd_server_proposals_committed_total",
            "etcd_network_client_grpc_sent_bytes_total",
        ] {
            assert!(before.sum(name, &[]) < after.sum(name, &[]), "{name}");
        }
        let grown = |name: &str, labels: &[&str]| after.sum(name, labels) - before.sum(name, labels);
        for name in ["started_total", "handling_seconds_count"] {
            assert_eq!(grown(&format!("grpc_server_{name}"), &PUT), 64.0, "{name}");
        }
        let handled_well = [&PUT[..], &["grpc_code=\"OK\""]].concat();
        assert_eq!(grown("grpc_server_handled_total", &handled_well), 64.0);
        assert_eq!(grown("etcd_mvcc_put_total", &[]), 64.0);
        let bytes = f64::from(64 << 20);
        for name in [
            "etcd_mvcc_db_total_size_in_bytes",
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "etcd_network_client_grpc_received_bytes_total",
            "process_resident_memory_bytes",
        ] {
            assert!(bytes * 0.9 < grown(name, &[]), "{name}: {}", grown(name, &[]));
        }
        assert!(2.0 * bytes < grown("etcd_network_peer_sent_bytes_total", &[]));
        assert!(0.0 < grown("etcd_network_peer_received_bytes_total", &[]));
        assert_eq!(after.sum("etcd_server_quota_backend_bytes", &[]), 123_456_789.0);
        let prefix = ["prefix=\"/registry/pods/\""];
        assert_eq!(grown("pinion_load_by_prefix_requests_total", &prefix), 64.0);
        assert_eq!(grown("pinion_load_by_prefix_changed_keys_total", &prefix), 64.0);
        assert!(bytes < grown("pinion_load_by_address_bytes_total", &["address=\"127.0.0.1\""]));

        // A stream of watches is one that has begun and not ended.
        let open = |samples: &Samples| {
            let of = ["grpc_type=\"bidi_stream\"", "etcdserverpb.Watch"];
            samples.sum("grpc_server_started_total", &of) - samples.sum("grpc_server_handled_total", &of)
        };
        assert_eq!(open(&after), 0.0);
        let watch = client.watch().await.unwrap();
        until(PATIENCE, async || open(&Samples::of(port).await) == 1.0).await;
        watch.0.reset();
        until(PATIENCE, async || open(&Samples::of(port).await) == 0.0).await;

        // Another leader, and then none.
        let heir_port = cluster.client_port(followers[0]);
        let changes = Samples::of(heir_port).await.sum("etcd_server_leader_changes_seen_total", &[]);
        assert_eq!(Samples::of(heir_port).await.sum("etcd_server_has_leader", &[]), 1.0);
        cluster.kill(leader);
        let (heir, others) = cluster.roles().await;
        let port = cluster.client_port(heir);
        until(PATIENCE, async || {
            let samples = Samples::of(port).await;
            changes < samples.sum("etcd_server_leader_changes_seen_total", &[])
                && samples.sum("etcd_server_is_leader", &[]) == 1.0
                && 0.0 < samples.sum("etcd_network_peer_sent_failures_total", &[])
        })
        .await;
        cluster.kill(others[0]);
        let client = cluster.client(heir).await;
        let failing = tokio::task::spawn_local(async move { client.put_kv("k", "v").await });
        until(PATIENCE, async || Samples::of(port).await.sum("etcd_server_proposals_pending", &[]) == 1.0)
            .await;
        until(PATIENCE, async || Samples::of(port).await.sum("etcd_server_has_leader", &[]) == 0.0).await;
        failing.await.unwrap().unwrap_err();
        // Its caller was told; the request is given up a little later.
        until(PATIENCE, async || Samples::of(port).await.sum("etcd_server_proposals_pending", &[]) == 0.0)
            .await;
        let samples = Samples::of(port).await;
        assert_eq!(samples.sum("etcd_server_proposals_failed_total", &[]), 1.0);
        let roles = ["log", "raft", "shard-0", "store"];
        for role in roles {
            assert_eq!(samples.sum("pinion_role_up", &[&format!("role=\"{role}\"")]), 1.0, "{role}");
        }
    });
}

/// promtool complains of names that are etcd's; of no other.
#[test]
fn promtool_finds_nothing_but_what_it_finds_in_etcds_names() {
    if installed("promtool").is_none() {
        return;
    }
    block_on(Duration::from_secs(60), async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag("--metrics=extensive").start().await;
        put(&server.connect().await, "a\"b\\c\n/d/e", 10).await;
        let (head, body) = page(server.client_port(), "*/*").await;
        assert!(head.contains("text/plain; version=0.0.4"), "{head}");
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), body.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8(told).unwrap();
        // Go's client names them so, and rules ask for them.
        let of_etcd = |line: &str| {
            let (name, what) = line.split_once(' ').unwrap_or((line, ""));
            name.starts_with("etcd_")
                && (what.contains("\"_total\" suffix") || what.contains("use base unit \"seconds\""))
        };
        let others: Vec<&str> = told.lines().filter(|line| !of_etcd(line)).collect();
        assert!(others.is_empty(), "{others:?}");
        let (head, body) = page(server.client_port(), "application/openmetrics-text;version=1.0.0").await;
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("# EOF\n"));
    });
}

#[test]
fn prometheus_scrapes_a_member() {
    if installed("prometheus").is_none() {
        return;
    }
    block_on(Duration::from_secs(90), async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag("--metrics=extensive").start().await;
        let port = free_port();
        let config = work.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: etcd, static_configs: \
                 [{{targets: ['127.0.0.1:{}']}}]}}]\n",
                server.client_port()
            ),
        )
        .unwrap();
        let mut prometheus = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", work.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let asked = tokio::task::spawn_local(async move {
            until(PATIENCE, async || query(port, "etcd_server_has_leader").await.contains("\"1\"")).await;
            until(PATIENCE, async || query(port, "up").await.contains("\"1\"")).await;
        });
        let asked = asked.await;
        prometheus.kill().unwrap();
        prometheus.wait().unwrap();
        asked.unwrap();
    });
}

/// Prometheus' answer to a query; nothing before it listens.
async fn query(port: u16, query: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return String::new() };
    let ask =
        format!("GET /api/v1/query?query={query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    match stream.write_all(ask.as_bytes()).await {
        Ok(()) => drop(stream.read_to_end(&mut answer).await),
        Err(_) => return String::new(),
    }
    String::from_utf8_lossy(&answer).into_owned()
}
