//! Which medium suits the disk: measured where the log will lie, at first start.
//!
//! Both media write and sync groups in turn, into a file of their own: small ones, as a lone client
//! makes them, large ones, as many clients do, and ones in bulk, as large values make. There the mapped
//! medium pays for every page two faults and a flush of the TLB, and the direct one does not. The mapped one is
//! preferred; direct must be clearly faster at one size to be chosen, because a file system's own noise is about a
//! tenth, and no slower than that at the small one, for which a lone client waits.
//!
//! What counts is the lower quartile: other work on the machine makes rounds longer and none shorter.

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

/// Costs of one group, and what follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    pub small: Cost,
    pub large: Cost,
    pub bulk: Cost,
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

    fn is_mmap_faster(self) -> bool {
        self.mmap_us < NOISE * self.direct_us
    }
}

/// The medium that suits a disk of these costs.
fn choose(small: Cost, large: Cost, bulk: Cost) -> Choice {
    let is_worth_it = [small, large, bulk].into_iter().any(Cost::is_direct_clearly_faster);
    if is_worth_it && !small.is_mmap_faster() { Choice::Direct } else { Choice::Mmap }
}

/// Direct is chosen below this share of the mapped medium's time.
const CLEARLY_FASTER: f64 = 0.75;
/// A difference of less may be none.
const NOISE: f64 = 0.9;
/// About what five hundred puts of 256 bytes make.
const LARGE_BYTES: usize = 128 << 10;
/// Thirty values of 64 KiB.
const BULK_BYTES: usize = 2 << 20;
const ROUNDS_MAX: usize = 60;
/// They differ by more, and take longer.
const BULK_ROUNDS_MAX: usize = 12;
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
    let mut cost = |bytes, rounds_max| -> io::Result<Cost> {
        let began = Instant::now();
        for _ in 0..rounds_max {
            mapped.run(bytes)?;
            if let Some(direct) = &mut direct {
                direct.run(bytes)?;
            }
            if TIME_MAX < began.elapsed() {
                break;
            }
        }
        let direct_us = direct.as_mut().map_or(f64::INFINITY, Rounds::take_quartile_us);
        Ok(Cost { mmap_us: mapped.take_quartile_us(), direct_us })
    };
    let (small, large) = (cost(SECTOR_BYTES, ROUNDS_MAX)?, cost(LARGE_BYTES, ROUNDS_MAX)?);
    let bulk = cost(BULK_BYTES, BULK_ROUNDS_MAX)?;
    Ok(Probe { small, large, bulk, choice: choose(small, large, bulk) })
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
        if (FILE_BYTES as usize) < self.tail + bytes {
            self.tail = DATA_OFFSET;
            self.medium.position(DATA_OFFSET as u64)?;
        }
        let began = Instant::now();
        self.medium.window(self.tail, bytes).fill(0x5a);
        self.medium.sync()?;
        self.times.push(began.elapsed());
        self.tail += bytes;
        Ok(())
    }

    fn take_quartile_us(&mut self) -> f64 {
        self.times.sort_unstable();
        let quartile = self.times[self.times.len() / 4].as_secs_f64() * 1e6;
        self.times.clear();
        quartile
    }
}

const _: () = assert!(DATA_OFFSET + BULK_BYTES <= FILE_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_is_chosen_where_it_is_clearly_faster_at_a_size_and_not_slower_for_a_lone_client() {
        let cost = |mmap_us, direct_us| Cost { mmap_us, direct_us };
        let even = cost(100.0, 100.0);
        for (small, large, bulk, choice) in [
            (even, even, even, Choice::Mmap),
            (cost(100.0, 80.0), cost(100.0, 80.0), cost(100.0, 80.0), Choice::Mmap),
            (cost(100.0, 70.0), even, even, Choice::Direct),
            (even, cost(270.0, 140.0), even, Choice::Direct),
            (even, even, cost(5_000.0, 1_200.0), Choice::Direct),
            (cost(100.0, 108.0), even, cost(5_000.0, 1_200.0), Choice::Direct),
            (cost(100.0, 120.0), even, cost(5_000.0, 1_200.0), Choice::Mmap),
            (cost(100.0, f64::INFINITY), cost(1.0, f64::INFINITY), cost(1.0, f64::INFINITY), Choice::Mmap),
        ] {
            assert_eq!(choose(small, large, bulk), choice, "{small:?} {large:?} {bulk:?}");
        }
    }
}
