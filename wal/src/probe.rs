//! Which medium suits the disk: measured where the log will lie, at first start.
//!
//! Both media write and sync groups in turn, into a file of their own: small ones, as a lone client
//! makes them, and large ones, as many clients do, where the mapped medium pays a page fault for
//! every page and the direct one does not. The mapped one is preferred; direct must be clearly faster
//! at either size to be chosen, because a file system's own noise is about a tenth.

#![expect(clippy::disallowed_types, reason = "the map feature is where the log touches files and the clock")]

use crate::direct::{Direct, is_supported};
use crate::files::Medium;
use crate::map::Mapped;
use crate::sector::SECTOR_BYTES;
use crate::segment::DATA_OFFSET;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

/// How syncs reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Mmap,
    Direct,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mmap => "mmap",
            Self::Direct => "direct",
        })
    }
}

/// Median costs of one group, and what follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    pub small: Cost,
    pub large: Cost,
    pub choice: Choice,
}

/// What one group costs through either medium.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    pub mmap_us: f64,
    /// Infinite where the file system takes no direct writes.
    pub direct_us: f64,
}

impl Cost {
    fn is_direct_clearly_faster(self) -> bool {
        self.direct_us < CLEARLY_FASTER * self.mmap_us
    }
}

/// Direct is chosen below this share of the mapped medium's time.
const CLEARLY_FASTER: f64 = 0.75;
/// About what five hundred puts of 256 bytes make.
const LARGE_BYTES: usize = 128 << 10;
const ROUNDS_MAX: usize = 60;
const FILE_BYTES: u32 = 8 << 20;
/// Of each size. A disk of 10 ms a sync still gets ten rounds.
const TIME_MAX: Duration = Duration::from_millis(200);

/// Measures the disk under `directory`; takes less than a second on all but failing disks.
pub fn probe(directory: &Path) -> io::Result<Probe> {
    // Names that a later start sweeps, should this one die here.
    let mapped_file = directory.join("wal-probe-mmap.tmp");
    let direct_file = directory.join("wal-probe-direct.tmp");
    let measured = measure(&mapped_file, &direct_file);
    for file in [mapped_file, direct_file] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    measured
}

fn measure(mapped_file: &Path, direct_file: &Path) -> io::Result<Probe> {
    for file in [mapped_file, direct_file] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut mapped = Rounds::<Mapped>::new(mapped_file)?;
    let mut direct = if is_supported(mapped_file) { Some(Rounds::<Direct>::new(direct_file)?) } else { None };
    let mut cost = |bytes| -> io::Result<Cost> {
        let began = Instant::now();
        for _ in 0..ROUNDS_MAX {
            mapped.run(bytes)?;
            if let Some(direct) = &mut direct {
                direct.run(bytes)?;
            }
            if TIME_MAX < began.elapsed() {
                break;
            }
        }
        let direct_us = direct.as_mut().map_or(f64::INFINITY, Rounds::take_median_us);
        Ok(Cost { mmap_us: mapped.take_median_us(), direct_us })
    };
    let (small, large) = (cost(SECTOR_BYTES)?, cost(LARGE_BYTES)?);
    let is_direct = small.is_direct_clearly_faster() || large.is_direct_clearly_faster();
    Ok(Probe { small, large, choice: if is_direct { Choice::Direct } else { Choice::Mmap } })
}

struct Rounds<M> {
    medium: M,
    tail: usize,
    times: Vec<Duration>,
}

impl<M: Medium> Rounds<M> {
    fn new(file: &Path) -> io::Result<Self> {
        M::fill_zero(file, FILE_BYTES)?;
        let mut medium = M::open(file)?;
        medium.position(DATA_OFFSET as u64)?;
        // The first sync of a file settles what its creation left; no group ever pays that.
        medium.sync()?;
        Ok(Self { medium, tail: DATA_OFFSET, times: Vec::with_capacity(ROUNDS_MAX) })
    }

    fn run(&mut self, bytes: usize) -> io::Result<()> {
        let began = Instant::now();
        self.medium.window(self.tail, bytes).fill(0x5a);
        self.medium.sync()?;
        self.times.push(began.elapsed());
        self.tail += bytes;
        Ok(())
    }

    fn take_median_us(&mut self) -> f64 {
        self.times.sort_unstable();
        let median = self.times[self.times.len() / 2].as_secs_f64() * 1e6;
        self.times.clear();
        median
    }
}

const _: () = assert!(DATA_OFFSET + ROUNDS_MAX * (SECTOR_BYTES + LARGE_BYTES) <= FILE_BYTES as usize);
