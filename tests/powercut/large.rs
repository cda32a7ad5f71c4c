//! Power cuts inside a large request, whose parts are entries of their own: on every image it is there whole or not
//! at all, and whole if it was acknowledged; what was small beside it is held to its acknowledgement as ever.

use std::collections::BTreeMap;

use pinion_kit::client::Client;
use pinion_kit::mount::{Mounted, Position};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Server, env_number};

use super::{Duration, Path, block_on, check, server_is_etcd};
use rand::SeedableRng as _;

use super::{Fate, Launch, StdRng, WorkDir, data_dir, fs, moment, skip, work_dir};

/// Three parts and a bit.
const LARGE_BYTES: usize = (3 << 20) + 77;
const LARGE_COUNT: u8 = 6;

fn large_value(number: u8) -> Vec<u8> {
    (0..LARGE_BYTES).map(|place| (place / 509).to_le_bytes()[0] ^ number).collect()
}

/// What was acknowledged, with the number of disk operations before that was noticed.
#[derive(Default)]
struct Acknowledged {
    large: BTreeMap<u8, usize>,
    small: BTreeMap<u32, usize>,
}

fn launch(disk: &Path, sync: &str, work: &WorkDir) -> Launch {
    let mut launch = Launch::new(data_dir(disk))
        .flag(format!("--wal-sync={sync}"))
        .flag("--max-request-bytes=8388608")
        // Checkpoints fall between the parts, too.
        .flag("--snapshot-count=8")
        .flag("--checkpoint-bytes=1048576")
        .flag("--heartbeat-interval=4")
        .flag("--election-timeout=20");
    launch.log_path = Some(work.join("server.log"));
    launch
}

async fn put_small(
    client: Client,
    from: u32,
    position: Position,
    is_done: &std::cell::Cell<bool>,
) -> BTreeMap<u32, usize> {
    let mut acknowledged = BTreeMap::new();
    for number in (from..).step_by(2) {
        if is_done.get() {
            break;
        }
        client.put_kv(&format!("small/{number:06}"), &number.to_string()).await.expect("the recorded server");
        acknowledged.insert(number, position.now());
    }
    acknowledged
}

async fn load(server: &Server, mounted: &Mounted) -> Acknowledged {
    let is_done = std::cell::Cell::new(false);
    let (first, second) = (server.connect().await, server.connect().await);
    let large = async {
        let client = server.connect().await;
        let mut acknowledged = BTreeMap::new();
        for number in 0..LARGE_COUNT {
            let key = format!("large/{number}");
            let value = large_value(number).into();
            let request = pb::PutRequest { key: key.into(), value, ..Default::default() };
            client.put(&request).await.expect("the recorded server");
            acknowledged.insert(number, mounted.position().now());
        }
        is_done.set(true);
        acknowledged
    };
    let (large, even, odd) = tokio::join!(
        large,
        put_small(first, 0, mounted.position(), &is_done),
        put_small(second, 1, mounted.position(), &is_done)
    );
    Acknowledged { large, small: even.into_iter().chain(odd).collect() }
}

async fn check_image(launch: &Launch, acknowledged: &Acknowledged, position: usize) -> Result<usize, String> {
    let mut server = launch.spawn();
    server.wait_ready().await.map_err(|reason| format!("start refused: {reason}"))?;
    let client = server.connect().await;
    let said = |error| format!("a recovered server answered: {error}");
    let mut found = 0;
    for number in 0..LARGE_COUNT {
        let value = client.get(&format!("large/{number}")).await.map_err(said)?;
        let is_due = acknowledged.large.get(&number).is_some_and(|at| *at <= position);
        match value {
            Some(value) if value == large_value(number) => found += 1,
            Some(value) => return Err(format!("large/{number} holds {} other bytes", value.len())),
            None if is_due => return Err(format!("large/{number} was acknowledged and is not there")),
            None => {}
        }
    }
    let held: BTreeMap<Vec<u8>, Vec<u8>> = client
        .prefix("small/")
        .await
        .map_err(said)?
        .kvs
        .into_iter()
        .map(|kv| (kv.key.to_vec(), kv.value.to_vec()))
        .collect();
    for (number, _) in acknowledged.small.iter().filter(|(_, at)| **at <= position) {
        let value = held.get(format!("small/{number:06}").as_bytes());
        if value != Some(&number.to_string().into_bytes()) {
            return Err(format!("small/{number:06} was acknowledged and is {value:?}"));
        }
    }
    // A large request goes on from here, whatever was left of the last one.
    let request = pb::PutRequest { key: "after".into(), value: large_value(99).into(), ..Default::default() };
    client.put(&request).await.map_err(said)?;
    let is_whole = client.get("after").await.map_err(said)?.is_some_and(|value| value == large_value(99));
    server.kill();
    if is_whole { Ok(found) } else { Err("the first large value after the cut is not what was put".into()) }
}

#[test]
fn a_large_request_is_there_whole_or_not_at_all_after_a_power_cut_between_its_parts() {
    if server_is_etcd() {
        return skip("the log's format and modes are ours");
    }
    let images = env_number("PINION_POWERCUT_IMAGES", 40) / 2;
    let seed = env_number("PINION_POWERCUT_SEED", u64::from(std::process::id()));
    let replay = format!(
        "replay: PINION_POWERCUT_SEED={seed} PINION_POWERCUT_IMAGES={} cargo test --test powercut large",
        2 * images
    );
    println!("{replay}");
    let (work, mut rng) = (work_dir(), StdRng::seed_from_u64(seed));
    block_on(Duration::from_secs(180 + 10 * images), async {
        let disk = work.join("mount");
        fs::create_dir_all(&disk).unwrap();
        let mounted = match Mounted::mount(super::Node::Dir(Default::default()), &disk) {
            Ok(mounted) => mounted,
            Err(reason) => {
                return skip(&format!("no FUSE file system can be mounted (root, /dev/fuse?): {reason}"));
            }
        };
        let mut server = launch(&disk, "mmap", &work).start().await;
        // Before that a request of this size is one entry.
        // The newest: requests in parts are of level 2.
        server.says(r#""level":3,"needs""#).await;
        let begins = mounted.position().now();
        let acknowledged = load(&server, &mounted).await;
        server.kill();
        drop(server);
        let recording = mounted.finish();
        println!(
            "{} operations, {} large and {} small writes acknowledged",
            recording.ops.len(),
            acknowledged.large.len(),
            acknowledged.small.len()
        );
        let mut found = BTreeMap::<usize, u64>::new();
        for _ in 0..images {
            let position = moment(&recording, &mut rng).max(begins);
            let fate = Fate::random(&mut rng);
            let image = recording.disk_at(position, usize::MAX).after_cut(fate, &mut rng);
            let files = work.join("image");
            check::write(&image, &files).unwrap();
            let result = check_image(&launch(&files, "mmap", &work), &acknowledged, position).await;
            match result {
                Ok(count) => *found.entry(count).or_default() += 1,
                Err(broken) => panic!("{broken}\ncut after {position} operations, {fate:?}\n{replay}"),
            }
            fs::remove_dir_all(&files).unwrap();
            fs::remove_file(work.join("server.log")).unwrap();
        }
        println!("{images} images hold; large values found, and on how many images: {found:?}");
    });
}
