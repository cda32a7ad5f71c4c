//! Compaction beside other work of the store.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, WorkDir, block_on};

const VALUE_BYTES: usize = 16 << 10;
const WRITERS: u64 = 16;

/// Writes by each writer.
const PUTS: u64 = 1_200;

/// What a compaction leaves.
const KEPT_REVISIONS: i64 = 512;

async fn write(client: Client, writer: u64, peak: Rc<Cell<i64>>) {
    for round in 0..PUTS {
        let key = format!("{writer}/{}", round % 16).into();
        let value = vec![u8::try_from(round % 251).unwrap(); VALUE_BYTES].into();
        let put = client.put(&pb::PutRequest { key, value, ..Default::default() }).await.unwrap();
        let revision = put.header.unwrap().revision;
        if writer == 0 && round.is_multiple_of(32) && KEPT_REVISIONS < revision {
            let request = pb::CompactionRequest { revision: revision - KEPT_REVISIONS, physical: false };
            client.compact(&request).await.unwrap();
            let status = client.status().await.unwrap();
            peak.set(peak.get().max(status.db_size_in_use));
        }
    }
}

/// A checkpoint holds back compactions that came after its begin, and here one follows the other.
#[test]
fn compaction_keeps_up_with_writers_though_checkpoints_follow_each_other() {
    block_on(Duration::from_secs(120), async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data"))
            .flag("--snapshot-count=100")
            .flag("--checkpoint-bytes=1048576")
            .start()
            .await;
        let client = server.connect().await;
        let peak = Rc::new(Cell::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::task::spawn_local(write(client.clone(), writer, Rc::clone(&peak))))
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let written = i64::try_from(WRITERS * PUTS).unwrap() * i64::try_from(VALUE_BYTES).unwrap();
        println!("{} MB written, at most {} MB held", written >> 20, peak.get() >> 20);
        assert!(peak.get() < written / 4, "{} of {written} bytes are held", peak.get());
    });
}
