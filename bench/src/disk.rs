//! The disk under a directory: what one sync costs, and what the device has been made to write.
//!
//! Counters are the whole device's, from `/proc/diskstats`: whoever else writes meanwhile is in them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

const SECTOR_BYTES: u64 = 512;
const PROBE_FILE_BYTES: usize = 16 << 20;
const PROBE_WRITE_BYTES: usize = 4096;
const PROBE_SYNCS_MAX: usize = 2000;
const PROBE_TIME_MAX: Duration = Duration::from_secs(1);

/// What the device did since it was attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DiskCounters {
    pub writes: u64,
    pub bytes_written: u64,
    /// Cache flushes; absent (zero) before Linux 5.5.
    pub flushes: u64,
}

impl DiskCounters {
    /// What was done since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes.saturating_sub(before.writes),
            bytes_written: self.bytes_written.saturating_sub(before.bytes_written),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Device {
    pub name: String,
    major: u64,
    minor: u64,
}

impl Device {
    /// The device that holds `dir`; none for file systems without one (tmpfs, overlay, btrfs).
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let number = fs::metadata(dir).ok()?.dev();
        let (major, minor) = (u64::from(libc::major(number)), u64::from(libc::minor(number)));
        let stats = fs::read_to_string("/proc/diskstats").ok()?;
        let name = line_of(&stats, major, minor)?.split_ascii_whitespace().nth(2)?.to_owned();
        Some(Self { name, major, minor })
    }

    pub(crate) fn counters(&self) -> Option<DiskCounters> {
        let stats = fs::read_to_string("/proc/diskstats").ok()?;
        parse_counters(line_of(&stats, self.major, self.minor)?)
    }
}

fn line_of(stats: &str, major: u64, minor: u64) -> Option<&str> {
    stats.lines().find(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse);
        fields.next() == Some(Ok(major)) && fields.next() == Some(Ok(minor))
    })
}

/// Fields as in the kernel's Documentation/admin-guide/iostats.rst, after major, minor and name.
fn parse_counters(line: &str) -> Option<DiskCounters> {
    let fields: Vec<u64> =
        line.split_ascii_whitespace().skip(3).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(DiskCounters {
        writes: *fields.get(4)?,
        bytes_written: fields.get(6)? * SECTOR_BYTES,
        flushes: fields.get(15).copied().unwrap_or(0),
    })
}

/// What a bare sync costs on a disk.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RawSync {
    pub p50_us: f64,
    pub p99_us: f64,
    pub syncs: u64,
    /// Device bytes and flushes per sync, where the device can be counted.
    pub device_bytes_per_sync: Option<f64>,
    pub device_flushes_per_sync: Option<f64>,
}

/// Overwrites 4 KiB after 4 KiB of a zero-written file in `dir`, each followed by fdatasync: the least
/// that a durable put can cost there.
pub(crate) fn raw_sync(dir: &Path) -> io::Result<RawSync> {
    let path = dir.join("raw-sync.probe");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let result = probe(&file, Device::of(dir));
    drop(file);
    fs::remove_file(&path)?;
    result
}

fn probe(file: &File, device: Option<Device>) -> io::Result<RawSync> {
    file.write_all_at(&vec![0; PROBE_FILE_BYTES], 0)?;
    file.sync_all()?;
    let block = [0x5A; PROBE_WRITE_BYTES];
    let mut times =
        Histogram::<u64>::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are in order");
    let counters = || device.as_ref().and_then(Device::counters);
    let before = counters();
    let start = Instant::now();
    let offsets = (0..PROBE_FILE_BYTES).step_by(PROBE_WRITE_BYTES).take(PROBE_SYNCS_MAX);
    for offset in offsets {
        if PROBE_TIME_MAX < start.elapsed() {
            break;
        }
        let begin = Instant::now();
        file.write_all_at(&block, offset as u64)?;
        file.sync_data()?;
        times.saturating_record(crate::client::nanos(begin.elapsed()));
    }
    let per_sync = |pick: fn(DiskCounters) -> u64| {
        let done = counters()?.since(before?);
        Some(pick(done) as f64 / times.len() as f64)
    };
    Ok(RawSync {
        p50_us: times.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: times.value_at_quantile(0.99) as f64 / 1e3,
        syncs: times.len(),
        device_bytes_per_sync: per_sync(|done| done.bytes_written),
        device_flushes_per_sync: per_sync(|done| done.flushes),
    })
}

/// A directory that is removed when this is dropped, unless it is to be kept.
#[derive(Debug)]
pub(crate) struct ScratchDir {
    pub path: PathBuf,
    is_kept: bool,
}

impl ScratchDir {
    /// Creates `parent/name`, which must not exist.
    pub(crate) fn create(parent: &Path, name: &str, is_kept: bool) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let path = parent.join(name);
        fs::create_dir(&path)?;
        Ok(Self { path: path.canonicalize()?, is_kept })
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        if self.is_kept {
            eprintln!("kept: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n \
        254       0 vda 49360 7493 4371170 37123 8849 57132 19059832 96288 0 10172 133999 5011 40 215800 571 340 15\n";

    #[test]
    fn diskstats_fields_are_the_kernels() {
        let counters = parse_counters(line_of(STATS, 254, 0).unwrap()).unwrap();
        let expected = DiskCounters { writes: 8849, bytes_written: 19_059_832 * 512, flushes: 340 };
        assert_eq!(counters, expected);
        assert_eq!(parse_counters(line_of(STATS, 7, 0).unwrap()).unwrap().flushes, 0, "an old kernel");
        assert_eq!(line_of(STATS, 254, 1), None);
    }

    #[test]
    fn a_scratch_directory_goes_with_its_guard() {
        let parent = std::env::temp_dir();
        let name = format!("pinion-bench-test-{}", std::process::id());
        let scratch = ScratchDir::create(&parent, &name, false).unwrap();
        assert!(ScratchDir::create(&parent, &name, false).is_err(), "an existing directory is not ours");
        let sync = raw_sync(&scratch.path).unwrap();
        assert!(0 < sync.syncs);
        assert!(0.0 < sync.p50_us, "{sync:?}");
        assert!(sync.p50_us <= sync.p99_us, "{sync:?}");
        assert!(fs::read_dir(&scratch.path).unwrap().next().is_none(), "the probe file is gone");
        let path = scratch.path.clone();
        drop(scratch);
        assert!(!path.exists());
    }
}
