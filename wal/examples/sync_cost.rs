//! What one group costs on this disk: microseconds per sync and bytes that the device writes for it.
//!
//! `cargo run --release -p pinion-wal --features map --example sync_cost -- DIRECTORY [GROUPS]`
//!
//! The raw rows are the floor: the same medium without a log around it would be the probe's figure;
//! here a plain pwrite + fdatasync into a zero-written file. `own B` is what the writer's thread caused
//! to be written (/proc/thread-self/io: dirtied page-cache folios whole, or direct writes); `device B`
//! is everything that the device wrote meanwhile (/proc/diskstats), other processes and segment
//! preparation included.

#![expect(clippy::disallowed_types, reason = "a measuring program reads the clock")]

use pinion_wal::direct::DirectStorage;
use pinion_wal::map::MapStorage;
use pinion_wal::{Entry, HardState, Identity, SEGMENT_BYTES, Storage, Wal};
use std::error::Error;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| "/var/tmp".to_owned()));
    let groups: u64 = arguments.next().map_or(Ok(4000), |text| text.parse())?;
    let work = directory.join(format!("pinion-sync-cost-{}", std::process::id()));
    println!(
        "{:<8} {:>8} {:>9} {:>9} {:>9} {:>10} {:>14}",
        "medium", "group B", "p50 us", "p99 us", "append us", "own B/sync", "device B/sync"
    );
    for group_bytes in [300, 16 << 10] {
        fs::create_dir_all(&work)?;
        raw(&work, group_bytes, groups)?;
        let (mmap, direct) = (work.join("mmap"), work.join("direct"));
        fs::create_dir(&mmap)?;
        let wal = Wal::create(MapStorage::open(&mmap, SEGMENT_BYTES)?, IDENTITY, 0, 0)?;
        drop(run("mmap", wal, &work, group_bytes, groups)?);
        // Again after a restart: the segment found there must not come back in large folios.
        let (wal, _) = Wal::open(MapStorage::open(&mmap, SEGMENT_BYTES)?, IDENTITY, 0, 0)?;
        drop(run("mmap/2", wal, &work, group_bytes, groups)?);
        fs::create_dir(&direct)?;
        let wal = Wal::create(DirectStorage::open(&direct, SEGMENT_BYTES)?, IDENTITY, 0, 0)?;
        drop(run("direct", wal, &work, group_bytes, groups)?);
        fs::remove_dir_all(&work)?;
    }
    Ok(())
}

const IDENTITY: Identity = Identity { cluster_id: 1, member_id: 1 };

fn run<S: Storage>(
    name: &str,
    mut wal: Wal<S>,
    directory: &Path,
    group_bytes: usize,
    groups: u64,
) -> Result<Wal<S>, Box<dyn Error>> {
    let data = bytes::Bytes::from(vec![0x61; group_bytes]);
    let mut index = wal.last_index();
    let mut group = |wal: &mut Wal<_>| -> Result<(Duration, Duration), Box<dyn Error>> {
        index += 1;
        let began = Instant::now();
        let state = HardState { term: 1, vote: 1, commit: index - 1 };
        wal.append(Some(state), &[Entry { index, term: 1, kind: 0, data: data.clone() }])?;
        let appended = began.elapsed();
        wal.sync()?;
        Ok((appended, began.elapsed()))
    };
    // The next segment is being zero-written meanwhile; its cost is not a sync's.
    settle(directory)?;
    for _ in 0..100 {
        group(&mut wal)?;
    }
    let before = (device_bytes(directory)?, own_bytes()?);
    let mut times = Vec::new();
    let mut appends = Duration::ZERO;
    for _ in 0..groups {
        let (append, whole) = group(&mut wal)?;
        appends += append;
        times.push(whole);
    }
    let written = (device_bytes(directory)? - before.0, own_bytes()? - before.1);
    let append_us = appends.as_secs_f64() * 1e6 / groups as f64;
    report(name, group_bytes, &mut times, append_us, written);
    println!("         {:?}, {} segments", wal.counters(), wal.segments_count());
    Ok(wal)
}

fn raw(directory: &Path, group_bytes: usize, groups: u64) -> Result<(), Box<dyn Error>> {
    let path = directory.join("raw");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    let page = [0; 4096];
    for at in 0..8192_u64 {
        file.write_all_at(&page, at * 4096)?;
    }
    file.sync_all()?;
    settle(directory)?;
    let data = vec![0x61; group_bytes];
    let before = (device_bytes(directory)?, own_bytes()?);
    let mut times = Vec::new();
    let mut at = 0;
    for _ in 0..groups {
        let began = Instant::now();
        file.write_all_at(&data, at)?;
        file.sync_data()?;
        times.push(began.elapsed());
        at = (at + (group_bytes as u64).next_multiple_of(512)) % (30 << 20);
    }
    let written = (device_bytes(directory)? - before.0, own_bytes()? - before.1);
    report("raw", group_bytes, &mut times, 0.0, written);
    fs::remove_file(path)?;
    Ok(())
}

fn report(name: &str, group_bytes: usize, times: &mut [Duration], append_us: f64, written: (u64, u64)) {
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e6;
    let (device, own) = (written.0 / times.len() as u64, written.1 / times.len() as u64);
    println!(
        "{name:<8} {group_bytes:>8} {:>9.1} {:>9.1} {append_us:>9.2} {own:>10} {device:>14}",
        at(50),
        at(99)
    );
}

/// Waits until the device has been quiet for a moment: helpers are done preparing.
fn settle(directory: &Path) -> Result<(), Box<dyn Error>> {
    let (mut quiet, mut last) = (0, device_bytes(directory)?);
    for _ in 0..200 {
        std::thread::park_timeout(Duration::from_millis(20));
        let now = device_bytes(directory)?;
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        if quiet == 10 {
            break;
        }
    }
    Ok(())
}

/// Bytes written so far by the block device that holds `directory`; 0 where it has none.
fn device_bytes(directory: &Path) -> Result<u64, Box<dyn Error>> {
    let device = fs::metadata(directory)?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    for line in fs::read_to_string("/proc/diskstats")?.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields[0].parse() == Ok(major) && fields[1].parse() == Ok(minor) {
            return Ok(fields[9].parse::<u64>()? * 512);
        }
    }
    Ok(0)
}

/// Bytes that this thread caused to be written; 0 where the kernel does not account them.
fn own_bytes() -> Result<u64, Box<dyn Error>> {
    let Ok(text) = fs::read_to_string("/proc/thread-self/io") else { return Ok(0) };
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.map_or(Ok(0), str::parse)?)
}
