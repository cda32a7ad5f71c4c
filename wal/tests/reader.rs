//! Reading a log back while it is written: what is answered is the log's, whatever happens to its files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
use bytes::Bytes;
use common::*;
use pinion_wal::memory::MemoryStorage;
use pinion_wal::reader::{MemoryFiles, ReadError, Wanted};
use pinion_wal::{Entry, LogReader, Wal};
use rand::RngExt;
use rand::rngs::StdRng;

/// A log that has its first term, as a member's has: a term never holds two entries of one index.
fn begin() -> (Wal<MemoryStorage>, Model) {
    let (mut wal, mut model) = (create(), Model::default());
    wal.append(Some(state(1, 0)), &[]).unwrap();
    model.append(Some(state(1, 0)), &[]);
    (wal, model)
}

/// The model's terms as runs from `first` on.
fn terms(model: &Model, first: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for index in first..=model.last() {
        if runs.last().is_none_or(|(_, term)| *term != model.term_at(index)) {
            runs.push((index, model.term_at(index)));
        }
    }
    runs
}

fn slice(model: &Model, first: u64, count: usize) -> &[Entry] {
    let from = usize::try_from(first - 1).unwrap();
    &model.entries[from..from + count]
}

fn reader(wal: &mut Wal<MemoryStorage>) -> LogReader<MemoryFiles> {
    LogReader::new(MemoryFiles(wal.storage().files()), IDENTITY)
}

/// Reads a random range and holds it against the model; how many entries came.
fn read_any(
    rng: &mut StdRng,
    reader: &mut LogReader<MemoryFiles>,
    model: &Model,
    floor: u64,
    seed: u64,
) -> Result<usize, ReadError> {
    let first = rng.random_range(floor + 1..=model.last());
    let last = rng.random_range(first..=model.last());
    let bytes_max = rng.random_range(1..6_000);
    let terms = terms(model, first);
    let entries = reader.read(&Wanted { first, last, bytes_max, terms: &terms })?;
    assert!(!entries.is_empty(), "seed {seed}");
    assert!(entries == slice(model, first, entries.len()), "seed {seed}: from {first}");
    assert!(entries.last().unwrap().index <= last, "seed {seed}");
    Ok(entries.len())
}

#[test]
fn whatever_is_held_is_read_back_as_the_model_has_it_across_cuts_replacements_releases_and_reopenings() {
    let mut read = 0;
    for seed in 0..runs("PINION_WAL_MODEL_SEEDS", 150) {
        println!("replay with seed {seed}");
        let mut rng = rng(seed);
        let ((mut wal, mut model), mut after) = (begin(), 0);
        for _ in 0..rng.random_range(10..120) {
            let (hard_state, entries) = random_group(&mut rng, &model, 900);
            wal.append(hard_state, &entries).unwrap();
            model.append(hard_state, &entries);
            wal.sync().unwrap();
            if rng.random_range(0..10) == 0 {
                after = rng.random_range(after..=model.hard_state.map_or(0, |state| state.commit).max(after));
                wal.release(after).unwrap();
            }
            if rng.random_range(0..20) == 0 {
                let storage = wal.into_storage().process_killed();
                wal = open(storage, after, model.term_at(after)).unwrap().0;
            }
            // What precedes the oldest segment is gone, and what the checkpoint covered at a start may be.
            let floor = wal.segments().next().unwrap().start_index.max(after);
            if floor < model.last() {
                let mut reader = reader(&mut wal);
                for _ in 0..4 {
                    read += read_any(&mut rng, &mut reader, &model, floor, seed).unwrap();
                }
            }
        }
    }
    assert!(10_000 < read, "{read} entries were read, which is next to nothing");
}

#[test]
fn a_reading_goes_on_in_batches_while_the_log_grows_without_a_gap() {
    let mut rng = rng(3);
    let (mut wal, mut model) = begin();
    let mut reader = LogReader::new(MemoryFiles::default(), IDENTITY);
    let (mut next, mut batches) = (1, 0);
    for _ in 0..400 {
        let (hard_state, entries) = random_group(&mut rng, &model, 900);
        // What was read must not be replaced: only what is committed is read.
        if entries.first().is_some_and(|first| first.index < next) {
            continue;
        }
        wal.append(hard_state, &entries).unwrap();
        model.append(hard_state, &entries);
        wal.sync().unwrap();
        let commit = model.hard_state.map_or(0, |state| state.commit);
        if next <= commit {
            reader.replace_files(MemoryFiles(wal.storage().files()));
            let terms = terms(&model, next);
            let wanted = Wanted { first: next, last: commit, bytes_max: 1_500, terms: &terms };
            let batch = reader.read(&wanted).unwrap();
            assert_eq!(batch, slice(&model, next, batch.len()));
            next += batch.len() as u64;
            batches += 1;
        }
    }
    assert!(50 < batches && wal.counters().cuts > 3, "{batches} batches, {} cuts", wal.counters().cuts);
}

#[test]
fn what_is_not_held_is_gone_and_what_was_never_written_is_not_there() {
    let mut wal = create();
    for index in 1..=60 {
        wal.append(Some(state(1, index - 1)), &[entry(index, 1, 800)]).unwrap();
        wal.sync().unwrap();
    }
    wal.release(40).unwrap();
    let floor = wal.segments().next().unwrap().start_index;
    assert!(0 < floor && floor <= 40);
    let mut reader = reader(&mut wal);
    let terms = [(1, 1)];
    let error = reader.read(&Wanted { first: floor, last: 60, bytes_max: 100, terms: &terms }).unwrap_err();
    assert!(matches!(error, ReadError::Gone { index } if index == floor), "{error}");
    let entries = reader.read(&Wanted { first: floor + 1, last: 60, bytes_max: 1, terms: &terms }).unwrap();
    assert_eq!(entries, [entry(floor + 1, 1, 800)]);
    let error = reader.read(&Wanted { first: 61, last: 70, bytes_max: 100, terms: &terms }).unwrap_err();
    assert!(matches!(error, ReadError::Unreadable { index: 61, .. }), "{error}");
    // Of another term than the caller knows: it is not what is wanted.
    let error = reader.read(&Wanted { first: 50, last: 60, bytes_max: 100, terms: &[(1, 2)] }).unwrap_err();
    assert!(matches!(error, ReadError::Unreadable { index: 50, .. }), "{error}");
}

/// Files of one log as they were at different times, recycled ones among them, and damaged bytes: an
/// error or the log's entries, never anything else.
#[test]
fn files_that_change_under_the_reader_or_are_damaged_give_an_error_or_the_truth() {
    let (mut whole, mut failed) = (0, 0);
    for seed in 0..runs("PINION_WAL_MODEL_SEEDS", 150) {
        println!("replay with seed {seed}");
        let mut rng = rng(seed);
        let (mut wal, mut model) = begin();
        let mut shots = Vec::new();
        for _ in 0..80 {
            let (hard_state, entries) = random_group(&mut rng, &model, 900);
            wal.append(hard_state, &entries).unwrap();
            // A reader may look before the sync, too.
            if rng.random_range(0..4) == 0 {
                shots.push(wal.storage().files());
            }
            model.append(hard_state, &entries);
            wal.sync().unwrap();
            if rng.random_range(0..6) == 0 {
                wal.release(model.hard_state.map_or(0, |state| state.commit)).unwrap();
            }
            shots.push(wal.storage().files());
        }
        for _ in 0..20 {
            let mut mixed = shots[rng.random_range(0..shots.len())].clone();
            for (name, bytes) in &mut mixed {
                if let Some(other) = shots[rng.random_range(0..shots.len())].get(name)
                    && rng.random()
                {
                    bytes.clone_from(other);
                }
                if rng.random_range(0..4) == 0 {
                    let at = rng.random_range(0..bytes.len());
                    bytes[at] ^= 1 << rng.random_range(0..8);
                }
                if rng.random_range(0..8) == 0 {
                    bytes.truncate(rng.random_range(0..bytes.len()));
                }
            }
            let mut reader = LogReader::new(MemoryFiles(mixed), IDENTITY);
            for _ in 0..4 {
                match read_any(&mut rng, &mut reader, &model, 0, seed) {
                    Ok(_) => whole += 1,
                    Err(_) => failed += 1,
                }
            }
        }
    }
    println!("{whole} readings succeeded, {failed} failed");
    assert!(1_000 < whole && 1_000 < failed, "{whole} readings succeeded, {failed} failed");
}

/// A term has one leader, so index and term name an entry; without the terms a replaced one would be
/// believed. The reader must be seen to need them.
#[test]
fn an_entry_that_was_replaced_is_passed_over() {
    let mut wal = create();
    let old: Vec<Entry> = (1..=9).map(|index| entry(index, 1, 40)).collect();
    wal.append(Some(state(1, 3)), &old).unwrap();
    let new = Entry { data: Bytes::from_static(b"of another leader"), ..entry(5, 2, 0) };
    wal.append(Some(state(2, 3)), std::slice::from_ref(&new)).unwrap();
    wal.sync().unwrap();
    let mut reader = reader(&mut wal);
    let read = |reader: &mut LogReader<_>, terms: &[(u64, u64)]| {
        reader.read(&Wanted { first: 5, last: 5, bytes_max: 1 << 20, terms })
    };
    assert_eq!(read(&mut reader, &[(4, 1), (5, 2)]).unwrap(), [new]);
    assert_eq!(read(&mut reader, &[(4, 1)]).unwrap(), [entry(5, 1, 40)]);
}
