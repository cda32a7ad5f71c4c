//! `--experimental-serializable-ordering`: answers do not go back, whichever member gives them.

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, etcds};

use crate::process::{Proxy, at};

const ORDERING: &str = "--experimental-serializable-ordering";

/// A member that has so many revisions, and lies about them where another has more: it is of another cluster.
async fn member(launch: Launch, puts: usize) -> Server {
    let server = launch.start().await;
    let client = server.connect().await;
    for _ in 0..puts {
        client.put_kv("k", &puts.to_string()).await.unwrap();
    }
    server
}

async fn read(client: &Client) -> Result<i64, CallError> {
    let request = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    client.range(&request).await.map(|answer| answer.header.unwrap().revision)
}

async fn read_in_transaction(client: &Client) -> Result<i64, CallError> {
    let range = pb::RangeRequest { key: "k".into(), serializable: true, ..Default::default() };
    let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestRange(range)) };
    let request = pb::TxnRequest { success: vec![op], ..Default::default() };
    client.txn(&request).await.map(|answer| answer.header.unwrap().revision)
}

#[test]
fn answers_never_go_back_though_a_member_is_behind_and_do_without_the_flag() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut kinds = vec![("pinion", Launch::new(work.join("p1")), Launch::new(work.join("p2")))];
        if let Some(etcd) = etcds("etcd").last() {
            let launch = |name: &str| Launch::binary(etcd, work.join(name));
            kinds.push(("etcd", launch("e1"), launch("e2")));
        }
        for (name, ahead, behind) in kinds {
            let (mut ahead, behind) = (member(ahead, 9).await, member(behind, 2).await);
            let endpoints = [at(behind.client_port()), at(ahead.client_port())];
            let careless = Proxy::start(&work, &endpoints, &[]);
            let client = careless.client().await;
            let mut told = Vec::new();
            while !told.contains(&3) || !told.contains(&10) {
                told.extend(read(&client).await);
            }
            assert!(told.len() < 1_000, "{name}: members take turns");
            // Nobody is served before one has said what is committed; it may be either.
            let careful = Proxy::start(&work, &endpoints, &[ORDERING.to_owned()]);
            let client = careful.client().await;
            let mut newest = 0;
            while newest < 10 {
                newest = read(&client).await.unwrap();
            }
            // A member of Pinion that is behind is waited for, here for as long as it waits itself.
            for number in 0..if name == "pinion" { 4 } else { 40 } {
                // Another connection may be another shard's.
                let client = careful.client().await;
                let read = match number % 2 {
                    0 => read_in_transaction(&client).await,
                    _ => read(&client).await,
                };
                assert_eq!(read.unwrap(), 10, "{name}");
            }
            // A transaction that writes is carried out once, wherever, and its answer is passed on.
            let put = pb::PutRequest { key: "w".into(), ..Default::default() };
            let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
            for _ in 0..4 {
                client
                    .txn(&pb::TxnRequest { success: vec![op.clone()], ..Default::default() })
                    .await
                    .unwrap();
            }
            let mut written = 0;
            for server in [&ahead, &behind] {
                let request = pb::RangeRequest { key: "w".into(), ..Default::default() };
                let found = server.connect().await.range(&request).await.unwrap().kvs;
                written += found.first().map_or(0, |kv| kv.version);
            }
            assert_eq!(written, 4, "{name}");
            ahead.kill();
            // Nobody is left who has as much.
            let refused = loop {
                match read(&client).await {
                    Ok(revision) => assert!(10 <= revision, "{name}"),
                    Err(CallError::Status { code, message }) if message.contains("error reading") => {
                        assert_eq!(code, 14);
                    }
                    Err(refused) => break refused.to_string(),
                }
            };
            let words = match name {
                "pinion" => "pinion-not-older-than",
                _ => "no cluster members have a revision higher than the previously received revision",
            };
            assert!(refused.contains(words), "{name}: {refused}");
        }
    });
}
