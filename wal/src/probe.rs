//! Which medium suits the disk: measured where the log will lie, at first start.
//!
//! Both media write one small group at a time and sync it, in turn, into a file of their own. The
//! mapped one is preferred; direct must be clearly faster to be chosen, because a file system's own
//! noise is about a tenth.

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

/// Median cost of one small group, and what follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    pub mmap_us: f64,
    /// Infinite where the file system takes no direct writes.
    pub direct_us: f64,
    pub choice: Choice,
}

/// Direct is chosen below this share of the mapped medium's time.
const CLEARLY_FASTER: f64 = 0.75;
const FILE_BYTES: u32 = 256 << 10;
const ROUNDS_MAX: usize = 100;
/// A disk of 10 ms a sync still gets a dozen rounds.
const TIME_MAX: Duration = Duration::from_millis(300);

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
    let began = Instant::now();
    for _ in 0..ROUNDS_MAX {
        mapped.run()?;
        if let Some(direct) = &mut direct {
            direct.run()?;
        }
        if TIME_MAX < began.elapsed() {
            break;
        }
    }
    let mmap_us = mapped.median_us();
    let direct_us = direct.map_or(f64::INFINITY, |mut direct| direct.median_us());
    let choice = if direct_us < CLEARLY_FASTER * mmap_us { Choice::Direct } else { Choice::Mmap };
    Ok(Probe { mmap_us, direct_us, choice })
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

    fn run(&mut self) -> io::Result<()> {
        let began = Instant::now();
        self.medium.window(self.tail, SECTOR_BYTES).fill(0x5a);
        self.medium.sync()?;
        self.times.push(began.elapsed());
        self.tail += SECTOR_BYTES;
        Ok(())
    }

    fn median_us(&mut self) -> f64 {
        self.times.sort_unstable();
        self.times[self.times.len() / 2].as_secs_f64() * 1e6
    }
}

const _: () = assert!(DATA_OFFSET + ROUNDS_MAX * SECTOR_BYTES <= FILE_BYTES as usize);
