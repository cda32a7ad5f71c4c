//! `Maintenance.Snapshot`: what comes, that real etcds take it, and what it costs others.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use pinion_kit::client::{CallError, Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, PATIENCE, TEST_DEADLINE, WorkDir, block_on, env_number, until};
use sha2::{Digest as _, Sha256};

use crate::etcds;
use crate::fill::{PASSWORD, fill, guard};
use crate::seen::seen;

type Pieces = pinion_kit::stream::Answers<pb::SnapshotResponse>;

async fn begin(client: &Client) -> Result<Pieces, CallError> {
    let (mut requests, pieces) = client.open("/etcdserverpb.Maintenance/Snapshot").await?;
    requests.send(&pb::SnapshotRequest::default())?;
    requests.half_close()?;
    Ok(pieces)
}

/// A whole snapshot, its messages checked one by one.
pub async fn snapshot(client: &Client) -> Result<Vec<u8>, CallError> {
    let mut pieces = begin(client).await?;
    let (mut file, mut total) = (Vec::new(), None);
    while let Some(piece) = pieces.next().await? {
        assert_eq!(piece.version, "3.7.0");
        assert_eq!(piece.header, None);
        if piece.remaining_bytes == 0 && total == Some(file.len() as u64) {
            assert_eq!(piece.blob[..], Sha256::digest(&file)[..], "the hash is that of the file");
        } else {
            let sum = piece.remaining_bytes + (file.len() + piece.blob.len()) as u64;
            assert_eq!(*total.get_or_insert(sum), sum, "what remains and what came are the same sum");
        }
        file.extend_from_slice(&piece.blob);
    }
    assert_eq!(file.len() % 512, 32);
    Ok(file)
}

#[test]
fn real_etcds_take_a_snapshot_and_serve_the_same_history_leases_users_and_roles() {
    let etcds = etcds::all();
    let rounds = env_number("PINION_BACKUP_ROUNDS", 2);
    let first = env_number("PINION_BACKUP_SEED", 1);
    for seed in first..first + rounds {
        println!("PINION_BACKUP_SEED={seed} PINION_BACKUP_ROUNDS=1 cargo test --test backup real_etcds");
        block_on(TEST_DEADLINE, async {
            let work = WorkDir::new();
            let server = Launch::new(work.join("pinion")).start().await;
            let mut client = server.connect().await;
            fill(&client, seed, 400).await;
            let is_guarded = seed % 2 == 0;
            if is_guarded {
                guard(&client).await;
                client = client.logged_in("root", PASSWORD).await.unwrap();
            }
            // Others write meanwhile.
            let writer = client.clone();
            let writing = tokio::task::LocalSet::new();
            let file = writing
                .run_until(async {
                    let task = tokio::task::spawn_local(async move {
                        for number in 0.. {
                            if writer.put_kv("meanwhile", &number.to_string()).await.is_err() {
                                break;
                            }
                        }
                    });
                    let file = snapshot(&client).await.unwrap();
                    task.abort();
                    file
                })
                .await;
            let path = work.join("snapshot.db");
            std::fs::write(&path, &file).unwrap();
            for etcd in &etcds {
                let (_, revision) = etcd.status(&path);
                let launch = etcd.launch(work.join(&etcd.version));
                etcd.restore(&path, &launch);
                let judge = launch.start().await;
                let mut judge_client = judge.connect().await;
                if is_guarded {
                    let all = pb::RangeRequest { key: "key-1".into(), ..Default::default() };
                    let (code, _) = refusal(judge_client.range(&all).await);
                    assert_eq!(code, 3, "rights are asked for after a restore");
                    judge_client = judge_client.logged_in("root", PASSWORD).await.unwrap();
                }
                assert_eq!(
                    seen(&judge_client, 0).await,
                    seen(&client, revision).await,
                    "seed {seed}, etcd {}",
                    etcd.version
                );
                // It goes on as any other.
                judge_client.put_kv("key-1", "after").await.unwrap();
                let all = pb::DeleteRangeRequest {
                    key: vec![0].into(),
                    range_end: vec![0].into(),
                    ..Default::default()
                };
                judge_client.delete(&all).await.unwrap();
                let compaction = pb::CompactionRequest { revision: revision + 1, physical: true };
                judge_client.compact(&compaction).await.unwrap();
            }
        });
    }
}

#[test]
fn only_root_gets_a_snapshot_where_rights_are_asked_for() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("pinion")).start().await;
        let client = server.connect().await;
        guard(&client).await;
        assert_eq!(refusal(snapshot(&client).await), (3, "etcdserver: user name is empty".to_owned()));
        let reader = client.logged_in("reader", PASSWORD).await.unwrap();
        assert_eq!(refusal(snapshot(&reader).await), (7, "etcdserver: permission denied".to_owned()));
        let root = client.logged_in("root", PASSWORD).await.unwrap();
        assert!(8_192 < snapshot(&root).await.unwrap().len());
    });
}

#[test]
fn readers_that_stop_hold_up_nobody_and_several_snapshots_are_made_at_once() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("pinion")).start().await;
        let client = server.connect().await;
        for number in 0..40 {
            client.put_kv(&format!("k{number}"), &"v".repeat(500_000)).await.unwrap();
        }
        let mut stopped = Vec::new();
        for _ in 0..5 {
            // A window smaller than a piece: what is not read does not come.
            let reader = Client::connect_with_window(server.client_port(), 65_535).await.unwrap();
            let mut pieces = begin(&reader).await.unwrap();
            pieces.next().await.unwrap().unwrap();
            stopped.push((reader, pieces));
        }
        client.put_kv("k1", "while they stand").await.unwrap();
        let clients = [server.connect().await, server.connect().await, server.connect().await];
        let [a, b, c] = &clients;
        let (a, b, c) = tokio::join!(snapshot(a), snapshot(b), snapshot(c));
        for file in [a, b, c] {
            assert!(19_000_000 < file.unwrap().len());
        }
        // What they pin goes with them.
        let compaction = pb::CompactionRequest { revision: 42, physical: true };
        client.compact(&compaction).await.unwrap();
        drop(stopped);
        assert!(snapshot(&client).await.unwrap().len() < 21_000_000);
    });
}

/// The snapshot as the gateway streams it.
async fn snapshot_by_gateway(port: u16) -> Vec<u8> {
    let text = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = "POST /v3/maintenance/snapshot HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}";
        stream.write_all(head.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    })
    .await
    .unwrap();
    let (_, body) = text.split_once("\r\n\r\n").unwrap();
    let mut file = Vec::new();
    for line in body.lines().filter(|line| line.starts_with('{')) {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let result = &json["result"];
        assert_eq!(result["version"], "3.7.0", "{json}");
        let blob = result["blob"].as_str().unwrap();
        file.extend_from_slice(&base64::engine::general_purpose::STANDARD.decode(blob).unwrap());
    }
    file
}

#[test]
fn the_gateway_streams_the_same_file_as_json() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("pinion")).start().await;
        let client = server.connect().await;
        fill(&client, 3, 100).await;
        // A file tells the applied index, which moves on with notes of leases and the format level's raises: what
        // was taken between two equal ones is equal to them.
        until(PATIENCE, async || {
            let before = snapshot(&client).await.unwrap();
            let by_gateway = snapshot_by_gateway(server.client_port()).await;
            let is_still = snapshot(&client).await.unwrap() == before;
            assert!(!is_still || by_gateway == before, "the gateway streams another file");
            is_still
        })
        .await;
    });
}
