//! Values as large as a request may be, through log, checkpoint and restart: larger than a frame of the checkpoint
//! file, and larger than an entry of the log.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use pinion_kit::client::{CallError, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, Launch, WorkDir, block_on, env_number, eventually, server_is_etcd, skip};
use tokio::time::Instant;

const KEYS: u8 = 6;
const WRITES: u8 = 24;

/// What a member's log has once requests in parts, of level 2, are among what it takes.
const AT_LEVEL_3: &str = r#""level":3,"needs""#;

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

const LARGEST: usize = 50 << 20;

fn largest(number: u8) -> Bytes {
    // In runs: byte by byte it is seconds of an unoptimised build, which a loaded machine's members lack.
    let mut value = Vec::with_capacity(LARGEST);
    for run in 0..LARGEST.div_ceil(1021) {
        value.resize(LARGEST.min(value.len() + 1021), run.to_le_bytes()[0] ^ number);
    }
    value.into()
}

fn put_of(key: &str, value: Bytes) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value, ..Default::default() }
}

/// What a member holds, in bytes of memory.
fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_value_of_50_mib_is_put_read_watched_and_survives_a_kill_on_three_members() {
    if server_is_etcd() {
        return skip("etcd takes it too; it is our way that is tested");
    }
    block_on(Duration::from_secs(120), async {
        let flags = [
            "--max-request-bytes=54525952",
            "--checkpoint-bytes=16777216",
            "--snapshot-count=4",
            // A request has two of these and 5 s, which 150 MiB on one slow disk may need.
            "--election-timeout=5000",
            "--heartbeat-interval=500",
        ];
        let mut cluster = Cluster::start(3, &flags).await;
        let (leader, followers) = cluster.roles().await;
        for member in 0..3 {
            // A member takes large requests from the level on at which it has heard of them.
            eventually(async || {
                let output = cluster.output(member);
                if output.contains(AT_LEVEL_3) { Ok(()) } else { Err(output) }
            })
            .await;
        }
        let watching = cluster.client(followers[0]).await;
        let (mut requests, mut events) = watching.watch().await.unwrap();
        let create =
            pb::WatchCreateRequest { key: "huge/".into(), range_end: "huge0".into(), ..Default::default() };
        requests.create(create).unwrap();
        assert!(events.next().await.unwrap().unwrap().created);
        let mut watched = async |key: &str, number| {
            let mut answer = events.next().await.unwrap().expect("the stream goes on");
            let event = answer.events.pop().expect("a change of its own");
            let kv = event.kv.unwrap();
            assert_eq!((&*kv.key, answer.events.len()), (key.as_bytes(), 0));
            assert!(kv.value == largest(number), "a watcher is told another {key}");
        };
        // Through a member that passes it on, and through the one that leads.
        for (member, number) in [(followers[0], 1), (leader, 2)] {
            let key = format!("huge/{number}");
            cluster
                .client(member)
                .await
                .put(&put_of(&key, largest(number)))
                .await
                .expect("it is within the limit");
            watched(&key, number).await;
        }
        for member in 0..3 {
            let client = cluster.client(member).await;
            for number in [1, 2] {
                let value =
                    client.get(&format!("huge/{number}")).await.unwrap().expect("it was acknowledged");
                assert!(value == largest(number), "member {member} holds another huge/{number}");
            }
        }
        let request = put_of("too large", vec![0; (52 << 20) + 1_000].into());
        let (code, message) = refusal(cluster.client(leader).await.put(&request).await);
        assert_eq!((code, message.as_str()), (3, "etcdserver: request is too large"));
        // One that was away while it was written, and whoever begins again.
        cluster.kill(followers[1]);
        cluster
            .client(leader)
            .await
            .put(&put_of("huge/1", largest(3)))
            .await
            .expect("two of three are there");
        watched("huge/1", 3).await;
        cluster.start_again(followers[1]).await;
        cluster.kill(leader);
        cluster.start_again(leader).await;
        let revision = cluster.settle().await;
        cluster.assert_equal_hashes(revision).await;
        for member in 0..3 {
            let value = cluster.client(member).await.get("huge/1").await.unwrap().unwrap();
            assert!(value == largest(3), "member {member} holds another huge/1");
        }
    });
}

#[test]
fn the_largest_value_of_thirty_clients_at_once_is_taken_from_all_in_bounded_memory() {
    // All of them at once would be 960 MiB beside what is stored.
    take_from_all_at_once(30, 32 << 20, 1 << 30);
}

/// `PINION_LARGE_VALUE_MIB=50` makes them as large as anybody's: 5 GiB of values.
#[test]
fn large_values_of_a_hundred_clients_at_once_cost_the_memory_of_a_few_of_them() {
    // A few are under way at a time, and the log's pages are the kernel's.
    let value_mib = env_number("PINION_LARGE_VALUE_MIB", 6);
    take_from_all_at_once(100, usize::try_from(value_mib << 20).unwrap(), 320 << 20);
}

/// Each client puts a value of so many bytes. Meanwhile somebody else is served, and the member holds no more than
/// `beyond_bytes` beside what it stores.
fn take_from_all_at_once(clients: usize, value_bytes: usize, beyond_bytes: u64) {
    if server_is_etcd() {
        return skip("it looks at our bounds");
    }
    let work = WorkDir::new();
    let request_bytes_max = 512 + value_bytes.max(32 << 20);
    let launch = Launch::new(work.join("data")).flag(format!("--max-request-bytes={request_bytes_max}"));
    block_on(Duration::from_secs(180), async {
        let server = launch.start().await;
        server.says(AT_LEVEL_3).await;
        let is_done = std::cell::Cell::new(false);
        let other = server.connect().await;
        let small = async {
            let mut count = 0_usize;
            while !is_done.get() {
                other
                    .put_kv("small", &count.to_string())
                    .await
                    .expect("nobody else's requests are in its way");
                count += 1;
            }
            count
        };
        let mut largest_bytes = 0;
        let watch = async {
            while !is_done.get() {
                largest_bytes = largest_bytes.max(resident_bytes(server.pid()));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let large = async {
            let value = Bytes::from(vec![7; value_bytes]);
            let mut putting = Vec::new();
            for _ in 0..clients {
                let (client, value) = (server.connect().await, value.clone());
                // All to one key, so that memory is what is under way.
                putting
                    .push(tokio::task::spawn_local(async move { client.put(&put_of("one", value)).await }));
            }
            for put in putting {
                let answer = put.await.expect("a client panicked");
                // A loaded machine may be too slow for all in their time. None may be refused at once.
                if let Err(error) = answer {
                    assert!(matches!(error, CallError::Deadline), "{error}");
                }
            }
            is_done.set(true);
        };
        let (small_count, (), ()) = tokio::join!(small, watch, large);
        let stored = server.connect().await.status().await.unwrap().db_size.cast_unsigned();
        println!(
            "{small_count} small puts meanwhile; {largest_bytes} bytes at most, {stored} of them stored"
        );
        assert!(largest_bytes < stored + beyond_bytes, "{largest_bytes} bytes, and {stored} are stored");
        assert!(clients.min(30) < small_count, "only {small_count} small puts came between the large ones");
    });
}
