//! A damaged data directory either serves everything it acknowledged or is refused by name.
//!
//! Samples only: every byte and every truncation of a small log is tried in the `wal` crate, where it
//! costs microseconds. Here the whole binary is asked, with checkpoint and all other files.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pinion_kit::{Launch, WorkDir, block_on, copy_tree, env_number, server_is_etcd, skip};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const KEYS: u64 = 300;

#[derive(Debug, Clone)]
enum Damage {
    Flip { offset: u64, bit: u8 },
    Truncate { length: u64 },
    Remove,
}

fn launch(data_dir: PathBuf) -> Launch {
    Launch::new(data_dir)
        .flag("--snapshot-count=100")
        .flag("--heartbeat-interval=10")
        .flag("--election-timeout=100")
        .flag("--checkpoint-bytes=1048576")
}

/// After a clean stop nothing is in doubt: every damage is either harmless or named.
#[test]
fn damage_after_a_clean_stop_loses_nothing_or_is_refused_naming_the_file() {
    damaged_copies(true);
}

/// After a kill the last group has no later record that vouches for it, so damage inside it cannot
/// be told from a torn write; nothing but the last write may be missing.
#[test]
fn damage_after_a_kill_loses_at_most_the_unvouched_last_write_or_is_refused() {
    damaged_copies(false);
}

fn damaged_copies(clean_stop: bool) {
    if server_is_etcd() {
        return skip("etcd does not notice every damage");
    }
    let samples = env_number("PINION_DAMAGE_SAMPLES", 12);
    let seed = env_number("PINION_CRASH_SEED", u64::from(std::process::id()));
    println!(
        "replay: PINION_CRASH_SEED={seed} PINION_DAMAGE_SAMPLES={samples} cargo test --test crash damage"
    );
    let mut rng = StdRng::seed_from_u64(seed);
    block_on(Duration::from_secs(60 + 5 * samples), async {
        let work = WorkDir::new();
        let original = work.join("original");
        write_original(&original, clean_stop).await;
        let files = files_below(&original);
        assert!(!files.is_empty(), "an empty data directory after {KEYS} writes");
        let (mut served, mut refused) = (0, 0);
        for _ in 0..samples {
            let file = &files[rng.random_range(0..files.len())];
            let Some(damage) = choose(&original.join(file), &mut rng) else { continue };
            let copy = work.join("copy");
            copy_tree(&original, &copy);
            inflict(&copy.join(file), &damage);
            let what = format!("{damage:?} of {}", file.display());
            println!("{what}");
            let mut server = launch(copy.clone()).spawn();
            match server.wait_ready().await {
                Ok(()) => {
                    let required = if clean_stop { KEYS } else { KEYS - 1 };
                    let client = server.connect().await;
                    let found = client.prefix("k/").await.unwrap_or_else(|e| panic!("{what}: {e}"));
                    let found: Vec<_> = found.kvs.iter().map(|kv| (&kv.key, &kv.value)).collect();
                    assert!(found.len() as u64 >= required, "{what}: only {} of {KEYS} keys", found.len());
                    for (number, (key, value)) in found.iter().enumerate() {
                        assert_eq!(**key, key_name(number as u64), "{what}");
                        assert_eq!(**value, value_of(number as u64), "{what}");
                    }
                    served += 1;
                }
                Err(_) => {
                    let exit = server.wait_exit().await;
                    let name = file.file_name().unwrap().to_str().unwrap();
                    assert!(exit.status.code().is_some_and(|code| code != 0), "{what}: {}", exit.status);
                    match damage {
                        Damage::Flip { .. } => exit.assert_says(&[name, "offset"]),
                        Damage::Truncate { .. } => exit.assert_says(&[name]),
                        // What is gone is told by what is missing in its directory.
                        Damage::Remove => {
                            let dir =
                                file.parent().and_then(|dir| dir.to_str()).filter(|dir| !dir.is_empty());
                            exit.assert_says(&[dir.unwrap_or(name)]);
                        }
                    }
                    refused += 1;
                }
            }
            drop(server);
            fs::remove_dir_all(&copy).unwrap();
        }
        println!("{served} served everything, {refused} refused");
    });
}

async fn write_original(data_dir: &Path, clean_stop: bool) {
    let mut server = launch(data_dir.to_owned()).start().await;
    let client = server.connect().await;
    for number in 0..KEYS {
        client.put_kv(&key_name(number), &value_of(number)).await.unwrap();
    }
    if clean_stop {
        let exit = server.terminate().await;
        assert!(exit.status.success(), "{}: {}", exit.status, exit.output);
    } else {
        server.kill();
    }
}

fn key_name(number: u64) -> String {
    format!("k/{number:05}")
}

fn value_of(number: u64) -> String {
    format!("{number}:{}", "v".repeat(usize::try_from(number * 7 % 900).unwrap()))
}

/// Files with content, relative to `dir`. The lock file's content, if any, is not data.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if fs::metadata(&path).unwrap().len() > 0
                && !path.file_name().unwrap().to_string_lossy().to_lowercase().contains("lock")
            {
                files.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn choose(file: &Path, rng: &mut StdRng) -> Option<Damage> {
    let bytes = fs::read(file).unwrap();
    // A prepared segment is zeros for most of its length; damage there is tried too, but rarely.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(bytes.len(), |last| last + 1);
    let reach = if rng.random_ratio(9, 10) { used } else { bytes.len() };
    let offset = rng.random_range(0..reach) as u64;
    Some(match rng.random_range(0..20) {
        0 => Damage::Remove,
        1..4 => Damage::Truncate { length: offset },
        _ => Damage::Flip { offset, bit: rng.random_range(0..8) },
    })
}

fn inflict(file: &Path, damage: &Damage) {
    match *damage {
        Damage::Remove => fs::remove_file(file).unwrap(),
        Damage::Truncate { length } => {
            fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length).unwrap();
        }
        Damage::Flip { offset, bit } => {
            let mut file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
            let mut byte = [0];
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.read_exact(&mut byte).unwrap();
            byte[0] ^= 1 << bit;
            file.seek(SeekFrom::Start(offset)).unwrap();
            file.write_all(&byte).unwrap();
        }
    }
}
