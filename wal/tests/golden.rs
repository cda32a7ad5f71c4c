//! Segments written by earlier versions of the format: they open, and today's writer still writes them.
//!
//! `PINION_WAL_WRITE_GOLDEN=1` writes a missing directory; one that exists is never touched again.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
use common::*;
use pinion_wal::memory::MemoryStorage;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Every kind of record: start, hard state, entries, a replaced suffix, a cut, a reset, a mark.
fn sample() -> (MemoryStorage, Model) {
    let (mut wal, mut model) = (create(), Model::default());
    let groups = [
        (Some(state(1, 0)), vec![entry(1, 1, 0), entry(2, 1, 1200), entry(3, 1, 30)]),
        (Some(state(2, 2)), vec![entry(3, 2, 2500)]),
        (None, vec![entry(4, 2, 3900)]),
        (Some(state(2, 4)), vec![]),
    ];
    for (hard_state, entries) in groups {
        wal.append(hard_state, &entries).unwrap();
        wal.sync().unwrap();
        model.append(hard_state, &entries);
    }
    assert_eq!(wal.segments_count(), 2);
    wal.mark().unwrap();
    (wal.into_storage(), model)
}

fn sample_after_reset() -> MemoryStorage {
    let (mut storage, model) = sample();
    let (mut wal, _) = open(&mut storage, 0, 0).unwrap();
    wal.reset(90, 6);
    wal.append(Some(state(6, 90)), &[entry(91, 6, 64)]).unwrap();
    wal.sync().unwrap();
    drop((wal, model));
    storage
}

fn golden(name: &str, written_now: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if runs("PINION_WAL_WRITE_GOLDEN", 0) == 1 && !directory.exists() {
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in written_now {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }
    let files = fs::read_dir(&directory).unwrap().map(Result::unwrap);
    files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
}

#[test]
fn version_1_opens_and_is_what_the_writer_still_writes() {
    let (storage, model) = sample();
    let files = golden("v1", &storage.files());
    let (_, recovered) = open(MemoryStorage::from_files(SEGMENT, files.clone()), 0, 0).unwrap();
    assert_eq!(seen(&recovered), model.after(0));
    assert_eq!(recovered.notes, vec![]);
    assert!(files == storage.files(), "the writer's bytes changed: raise VERSION and add golden files");
}

#[test]
fn version_1_with_a_reset_opens_and_is_what_the_writer_still_writes() {
    let storage = sample_after_reset();
    let files = golden("v1-reset", &storage.files());
    let (_, recovered) = open(MemoryStorage::from_files(SEGMENT, files.clone()), 90, 6).unwrap();
    assert_eq!(seen(&recovered), (Some(state(6, 90)), vec![entry(91, 6, 64)]));
    assert!(files == storage.files(), "the writer's bytes changed: raise VERSION and add golden files");
}
