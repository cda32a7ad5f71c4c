//! Large writes that follow each other without a gap, and the long work that has to end beside them.

use std::cell::Cell;
use std::rc::Rc;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::stream::Answers;
use pinion_kit::{
    Launch, Server, TEST_DEADLINE, WorkDir, block_on, env_number, eventually, server_is_etcd, skip,
};

/// What a member says when a checkpoint is durable.
const WRITTEN: &str = "checkpoint written";

fn operation(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put(key: String, value_bytes: usize) -> pb::RequestOp {
    let value = vec![b'v'; value_bytes].into();
    let put = pb::PutRequest { key: key.into(), value, ..Default::default() };
    operation(pb::request_op::Request::RequestPut(put))
}

fn number(name: &str, default: u64) -> usize {
    usize::try_from(env_number(name, default)).unwrap()
}

async fn fill(client: &Client, prefix: &str, keys: usize, value_bytes: usize) {
    for first in (0..keys).step_by(100) {
        let success =
            (first..first + 100).map(|number| put(format!("{prefix}{number:06}"), value_bytes)).collect();
        client.txn(&pb::TxnRequest { success, ..Default::default() }).await.unwrap();
    }
}

/// A transaction that lists everything so many times and puts a key.
fn large_txn(lists: usize, keys_only: bool, key: String) -> pb::TxnRequest {
    let range =
        pb::RangeRequest { key: "k/".into(), range_end: "k0".into(), keys_only, ..Default::default() };
    let ranges = (0..lists).map(|_| operation(pb::request_op::Request::RequestRange(range.clone())));
    pb::TxnRequest { success: ranges.chain([put(key, 1)]).collect(), ..Default::default() }
}

async fn take_snapshot(client: &Client) {
    let (mut requests, pieces) = client.open("/etcdserverpb.Maintenance/Snapshot").await.unwrap();
    let mut pieces: Answers<pb::SnapshotResponse> = pieces;
    requests.send(&pb::SnapshotRequest {}).unwrap();
    requests.half_close().unwrap();
    let mut left = 1;
    while let Some(piece) = pieces.next().await.unwrap() {
        left = piece.remaining_bytes;
    }
    assert_eq!(left, 0, "the snapshot ends early");
}

/// Large writes of several clients, of which the next always waits in the log.
struct Load {
    is_over: Rc<Cell<bool>>,
    written: Rc<Cell<usize>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(server: &Server, writers: usize, deleted_keys: usize) -> Self {
        let (is_over, written) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        let mut tasks = Vec::new();
        for writer in 0..writers {
            let client = server.connect().await;
            let (is_over, written) = (Rc::clone(&is_over), Rc::clone(&written));
            tasks.push(tokio::task::spawn_local(async move {
                while !is_over.get() {
                    client.txn(&large_txn(4, true, format!("writer/{writer}"))).await.unwrap();
                    written.set(written.get() + 1);
                }
            }));
        }
        // Deletions, which owe their records.
        let client = server.connect().await;
        let goes_on = Rc::clone(&is_over);
        tasks.push(tokio::task::spawn_local(async move {
            let delete =
                pb::DeleteRangeRequest { key: "g/".into(), range_end: "g0".into(), ..Default::default() };
            while !goes_on.get() {
                fill(&client, "g/", deleted_keys, 1_000).await;
                assert_eq!(client.delete(&delete).await.unwrap().deleted, deleted_keys as i64);
            }
        }));
        Self { is_over, written, tasks }
    }

    /// Waits for so many large writes more.
    async fn goes_on(&self, writes: usize) {
        let from = self.written.get();
        eventually(async || {
            let written = self.written.get() - from;
            if writes <= written { Ok(()) } else { Err(format!("{written} large writes")) }
        })
        .await;
    }

    async fn end(self) {
        self.is_over.set(true);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[test]
fn hashes_compactions_checkpoints_snapshots_and_ends_of_leases_come_beside_large_writes_without_a_gap() {
    if server_is_etcd() {
        return skip("it looks at our checkpoints");
    }
    let (keys, writers) = (number("PINION_LARGE_WRITE_KEYS", 2_000), number("PINION_LARGE_WRITERS", 16));
    block_on(2 * TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag("--snapshot-count=1").start().await;
        let client = server.connect().await;
        fill(&client, "k/", keys, 1).await;
        let load = Load::start(&server, writers, keys).await;
        load.goes_on(2 * writers).await;
        for round in 0..3 {
            let from = load.written.get();
            let began = tokio::time::Instant::now();
            let mut told = Vec::new();
            let mut tell = |what: &str| {
                told.push(format!("{what} {:.0?} and {} writes", began.elapsed(), load.written.get() - from));
            };
            client.hash_kv(0).await.unwrap();
            tell("hash");
            let revision = client.status().await.unwrap().header.unwrap().revision;
            client.compact(&pb::CompactionRequest { revision, physical: true }).await.unwrap();
            tell("compaction");
            let checkpoints = server.output().matches(WRITTEN).count();
            eventually(async || {
                let now = server.output().matches(WRITTEN).count();
                if checkpoints + 2 <= now { Ok(()) } else { Err(format!("{now} checkpoints")) }
            })
            .await;
            tell("a checkpoint that began meanwhile");
            take_snapshot(&client).await;
            tell("snapshot");
            let lease = client.lease_grant(&pb::LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().id;
            let held = pb::PutRequest { key: "held".into(), lease, ..Default::default() };
            client.put(&held).await.unwrap();
            eventually(async || match client.get("held").await.unwrap() {
                None => Ok(()),
                Some(_) => Err("the lease has not ended"),
            })
            .await;
            tell("end of a lease");
            println!("round {round}: {}", told.join(", "));
            load.goes_on(writers).await;
        }
        load.end().await;
    });
}

/// Bytes of a shard's answers that wait for clients who do not read.
const UNSENT_BYTES_LIMIT: u64 = 512 << 20;

/// The answer of a transaction that writes is made whole, and a client decides how large it is.
#[test]
fn answers_of_large_transactions_that_nobody_reads_cost_bounded_memory() {
    if server_is_etcd() {
        return skip("it looks at our bounds");
    }
    let (keys, clients) = (number("PINION_UNREAD_KEYS", 1_200), number("PINION_UNREAD_CLIENTS", 12));
    block_on(2 * TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        fill(&client, "k/", keys, 1_000).await;
        let answer_bytes = 127 * keys as u64 * 1_040;
        let before = server.resident_bytes_own();
        let unanswered = Rc::new(Cell::new(clients));
        let mut unread = Vec::new();
        for number in 0..clients {
            let client = Client::connect_with_window(server.client_port(), 65_535).await.unwrap();
            let unanswered = Rc::clone(&unanswered);
            unread.push(tokio::task::spawn_local(async move {
                let txn = large_txn(127, false, format!("writer/{number}"));
                let answer = client.begin("/etcdserverpb.KV/Txn", &txn).await;
                unanswered.set(unanswered.get() - 1);
                (answer, client)
            }));
        }
        let (mut most, mut puts, mut longest) = (0, 0, std::time::Duration::ZERO);
        while 0 < unanswered.get() {
            let begun = tokio::time::Instant::now();
            // Behind all of the transactions in the log it may come too late.
            puts += u32::from(client.put_kv("other", "x").await.is_ok());
            longest = longest.max(begun.elapsed());
            most = most.max(server.resident_bytes_own());
        }
        let mut held = Vec::new();
        for answer in unread {
            held.push(answer.await.unwrap());
        }
        client.put_kv("other", "x").await.unwrap();
        let grown = most.max(server.resident_bytes_own()).saturating_sub(before);
        println!(
            "{clients} answers of {answer_bytes} bytes: {grown} bytes more; {puts} puts meanwhile, the longest {longest:?}"
        );
        // One is being made, one is on its way to the shard, one waits when the bound is looked at, and one is given up.
        let bound = UNSENT_BYTES_LIMIT + 4 * answer_bytes;
        assert!(grown < bound, "{grown} bytes, not {bound}");
    });
}
