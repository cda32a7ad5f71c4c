//! Values as large as a request may be, through log, checkpoint and restart: each is larger than a
//! frame of the checkpoint file.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, WorkDir, block_on, server_is_etcd, skip};
use tokio::time::Instant;

const KEYS: u8 = 6;
const WRITES: u8 = 24;

fn value(number: u8) -> Bytes {
    vec![number; 1_500_000].into()
}

#[test]
fn values_as_large_as_a_request_survive_checkpoints_and_a_kill() {
    if server_is_etcd() {
        return skip("it looks at our checkpoint files");
    }
    let work = WorkDir::new();
    let launch = Launch::new(work.join("data")).flag("--checkpoint-bytes=1048576").flag("--snapshot-count=1");
    let checkpoints = work.join("data").join("checkpoint");
    let newest = || {
        let names = fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".checkpoint")).max()
    };
    block_on(Duration::from_secs(60), async {
        let mut server = launch.start().await;
        let first = newest().expect("every member begins with a checkpoint");
        let client = server.connect().await;
        for number in 0..WRITES {
            let key = format!("large/{}", number % KEYS);
            let request = pb::PutRequest { key: key.into(), value: value(number), ..Default::default() };
            client.put(&request).await.expect("it is within the limit");
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while newest().expect("one is always there") == first {
            assert!(Instant::now() < deadline, "no checkpoint was written: {}", server.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server.kill();
        let server = launch.start().await;
        let found = server.connect().await.prefix("large/").await.expect("it serves again").kvs;
        assert_eq!(found.len(), usize::from(KEYS));
        for (slot, kv) in found.iter().enumerate() {
            assert_eq!(kv.version, i64::from(WRITES / KEYS));
            let last = WRITES - KEYS + u8::try_from(slot).unwrap();
            assert!(kv.value == value(last), "large/{slot} does not hold write {last}");
        }
    });
}
