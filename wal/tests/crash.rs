//! Power cuts, failing disks and dying processes at every step: what was acknowledged is there, what
//! was not is whole or absent, and the log opens.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
use common::*;
use pinion_wal::memory::{Fault, MemoryStorage};
use pinion_wal::{Note, Wal, WalError};
use rand::RngExt;
use rand::rngs::StdRng;
use std::io;

/// A log under work, and what a crash may leave of it: any of the states since the last sync.
struct Work {
    wal: Option<Wal<MemoryStorage>>,
    /// States by appended group since the last acknowledged one, which is the first.
    allowed: Vec<Model>,
    after: u64,
}

impl Work {
    fn new(wal: Wal<MemoryStorage>) -> Self {
        Self { wal: Some(wal), allowed: vec![Model::default()], after: 0 }
    }

    fn model(&self) -> &Model {
        self.allowed.last().expect("never empty")
    }

    /// One step; an error means that the disk failed.
    fn step(&mut self, rng: &mut StdRng) -> Result<(), WalError> {
        let roll = rng.random_range(0..20);
        let (hard_state, entries) = random_group(rng, self.model(), 700);
        let mut next = self.model().clone();
        let wal = self.wal.as_mut().expect("not crashed");
        match roll {
            0 => wal.mark()?,
            1 => {
                wal.sync()?;
                self.allowed.drain(..self.allowed.len() - 1);
                let commit = self.model().hard_state.map_or(0, |state| state.commit);
                self.after = rng.random_range(self.after..=commit.max(self.after));
                self.wal.as_mut().expect("not crashed").release(self.after)?;
            }
            2..=6 => {
                wal.sync()?;
                self.allowed.drain(..self.allowed.len() - 1);
            }
            _ => {
                next.append(hard_state, &entries);
                // Allowed even if the append fails: its bytes may have reached the disk.
                self.allowed.push(next);
                wal.append(hard_state, &entries)?;
            }
        }
        Ok(())
    }

    /// As `recover`, but the power fails again at a random operation of it, a few times.
    fn recover_at_last(&mut self, mut storage: MemoryStorage, rng: &mut StdRng, seed: u64) -> Vec<Note> {
        for _ in 0..rng.random_range(0..3) {
            storage.inject(rng.random_range(0..25), Fault::PowerOff);
            let term = self.allowed[0].term_at(self.after);
            // Whether it opened or failed, nothing was acknowledged by it yet.
            if let Err(error) = Wal::open(&mut storage, IDENTITY, self.after, term) {
                assert!(matches!(error, WalError::Io { .. }), "seed {seed}: {error}");
            }
            storage = storage.power_cut(&mut dice(rng));
        }
        self.recover(storage, seed)
    }

    /// The machine comes back with `storage`; the log must open and hold an allowed state.
    fn recover(&mut self, storage: MemoryStorage, seed: u64) -> Vec<Note> {
        let checkpoint_term = self.allowed[0].term_at(self.after);
        let (wal, recovered) = match open(storage, self.after, checkpoint_term) {
            Ok(opened) => opened,
            Err(error) => panic!("seed {seed}: an honest crash was refused: {error}"),
        };
        let found = self.allowed.iter().rposition(|model| model.after(self.after) == seen(&recovered));
        let Some(found) = found else {
            panic!("seed {seed}: recovered none of the {} allowed states", self.allowed.len());
        };
        // What was recovered is durable now: it must survive the next cut as well.
        self.allowed = vec![self.allowed[found].clone()];
        self.wal = Some(wal);
        recovered.notes
    }
}

#[test]
fn acknowledged_groups_survive_power_cuts_that_lose_tear_and_reorder_the_rest() {
    let seeds = runs("PINION_WAL_IMAGES", 400);
    let mut torn = 0;
    for seed in 0..seeds {
        let mut rng = rng(seed);
        let mut work = Work::new(create());
        for _ in 0..rng.random_range(1..5) {
            for _ in 0..rng.random_range(1..25) {
                work.step(&mut rng).unwrap();
            }
            let storage = work.wal.take().unwrap().into_storage();
            // A process that dies leaves everything in the cache, durable or not.
            let storage = if rng.random_range(0..4) == 0 {
                storage.process_killed()
            } else {
                storage.power_cut(&mut dice(&mut rng))
            };
            let notes = work.recover_at_last(storage, &mut rng, seed);
            torn += notes.iter().filter(|note| matches!(note, Note::TornTail { .. })).count();
        }
    }
    println!("{seeds} runs (0..{seeds}), {torn} torn tails");
    assert!(torn > 0, "no image was torn: the test tests nothing");
}

#[test]
fn the_power_may_fail_at_every_single_operation() {
    for seed in 0..runs("PINION_WAL_POWER_SEEDS", 6) {
        for at in 0.. {
            let mut rng = rng(seed);
            let mut storage = MemoryStorage::new(SEGMENT);
            storage.inject(at, Fault::PowerOff);
            // A creation that fails leaves a log or none, so that it can be tried again.
            let mut cut_rng = common::rng(seed * 1000 + at);
            let wal = match Wal::create(storage, IDENTITY, 0, 0) {
                Ok(wal) => wal,
                Err(_) => continue,
            };
            let mut work = Work::new(wal);
            let mut failed = false;
            for _ in 0..60 {
                if work.step(&mut rng).is_err() {
                    failed = true;
                    break;
                }
            }
            let storage = work.wal.take().unwrap().into_storage();
            let image = storage.power_cut(&mut dice(&mut cut_rng));
            work.recover(image, seed);
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn a_creation_cut_short_leaves_a_log_or_none() {
    for at in 0..20 {
        for seed in 0..20 {
            let mut storage = MemoryStorage::new(SEGMENT);
            storage.inject(at, Fault::PowerOff);
            let created = Wal::create(&mut storage, IDENTITY, 0, 0).is_ok();
            let mut rng = rng(seed);
            let mut image = storage.power_cut(&mut dice(&mut rng));
            if Wal::exists(&mut image).unwrap() {
                let (_, recovered) = open(image, 0, 0).unwrap();
                assert_eq!(recovered.entries, vec![]);
            } else {
                assert!(!created, "a created log vanished");
                Wal::create(image, IDENTITY, 0, 0).unwrap();
            }
        }
    }
}

#[test]
fn every_operation_may_fail_once_and_no_acknowledged_group_is_lost() {
    let kinds = [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    for (seed, kind) in (0..).zip(kinds) {
        for at in 0.. {
            let mut rng = rng(seed);
            let mut storage = MemoryStorage::new(SEGMENT);
            storage.inject(at, Fault::Once(kind));
            let Ok(wal) = Wal::create(storage, IDENTITY, 0, 0) else { continue };
            let mut work = Work::new(wal);
            for _ in 0..60 {
                match work.step(&mut rng) {
                    Ok(()) => {}
                    Err(WalError::NoSpace { .. }) => {
                        // Nothing was written; the same log goes on.
                        work.allowed.pop();
                        assert!(!work.allowed.is_empty());
                    }
                    Err(_) => break,
                }
            }
            let past = work.wal.as_mut().unwrap().storage().operations() <= at;
            let storage = work.wal.take().unwrap().into_storage();
            let mut cut_rng = common::rng(seed * 1000 + at);
            work.recover(storage.power_cut(&mut dice(&mut cut_rng)), seed);
            if past {
                break;
            }
        }
    }
}

#[test]
fn a_failed_sync_ends_the_log_whatever_comes_after() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let mut wal = create();
        wal.append(Some(state(1, 0)), &[entry(1, 1, 100)]).unwrap();
        let operations = wal.storage().operations();
        wal.storage().inject(operations, Fault::Once(kind));
        assert!(matches!(wal.sync(), Err(WalError::Io { .. })), "not NoSpace: bytes are lost");
        assert!(matches!(wal.sync(), Err(WalError::Poisoned)));
        assert!(matches!(wal.append(None, &[entry(2, 1, 1)]), Err(WalError::Poisoned)));
        assert!(matches!(wal.mark(), Err(WalError::Poisoned)));
        assert!(matches!(wal.release(0), Err(WalError::Poisoned)));
    }
}
