//! The log on real files, mapped and direct.
#![cfg(feature = "map")]

mod common;
use common::*;
use pinion_wal::direct::DirectStorage;
use pinion_wal::map::MapStorage;
use pinion_wal::probe::{Choice, probe};
use pinion_wal::{Note, SegmentSeq, Storage, Wal, WalError};
use rand::RngExt;
use std::io;
use std::path::Path;

type Opener = fn(&Path, u32) -> io::Result<Box<dyn Storage>>;

fn mapped(path: &Path, segment_bytes: u32) -> io::Result<Box<dyn Storage>> {
    Ok(Box::new(MapStorage::open(path, segment_bytes)?))
}

fn direct(path: &Path, segment_bytes: u32) -> io::Result<Box<dyn Storage>> {
    Ok(Box::new(DirectStorage::open(path, segment_bytes)?))
}

const MEDIA: [(&str, Opener); 2] = [("mmap", mapped), ("direct", direct)];

#[test]
fn random_work_on_real_files_recovers_as_the_model_says_whichever_medium_reopens() {
    for (name, medium) in MEDIA {
        for seed in 0..runs("PINION_WAL_FILE_SEEDS", 3) {
            println!("{name}, replay with seed {seed}");
            let directory = tempfile::tempdir().unwrap();
            let mut rng = rng(seed);
            let mut wal = Wal::create(medium(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
            let (mut model, mut after) = (Model::default(), 0);
            for _ in 0..60 {
                let (hard_state, entries) = random_group(&mut rng, &model, 1500);
                wal.append(hard_state, &entries).unwrap();
                model.append(hard_state, &entries);
                if rng.random_range(0..4) > 0 {
                    wal.sync().unwrap();
                }
                if rng.random_range(0..10) == 0 {
                    wal.mark().unwrap();
                    after =
                        rng.random_range(after..=model.hard_state.map_or(0, |state| state.commit).max(after));
                    wal.release(after).unwrap();
                }
                if rng.random_range(0..8) == 0 {
                    // Without a sync: what the cache holds counts as written once it was recovered.
                    wal.sync().unwrap();
                    drop(wal);
                    let (_, next) = MEDIA[rng.random_range(0..2)];
                    let storage = next(directory.path(), SEGMENT).unwrap();
                    let (reopened, recovered) = open(storage, after, model.term_at(after)).unwrap();
                    assert_eq!(seen(&recovered), model.after(after), "{name}, seed {seed}");
                    assert_eq!(recovered.notes, vec![]);
                    wal = reopened;
                }
            }
        }
    }
}

#[test]
fn groups_of_megabytes_and_of_bytes_come_back_across_segments_whichever_medium_reopens() {
    const SEGMENT: u32 = 8 << 20;
    for (name, medium) in MEDIA {
        for seed in 0..runs("PINION_WAL_BULK_SEEDS", 1) {
            println!("{name}, replay with seed {seed}");
            let directory = tempfile::tempdir().unwrap();
            let mut rng = rng(seed);
            let mut wal = Wal::create(medium(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
            let (mut expected, mut cuts) = (Vec::new(), 0);
            for round in 0..24 {
                for _ in 0..rng.random_range(1..4) {
                    let bytes_max = if rng.random_range(0..3) == 0 { 3 << 20 } else { 10_000 };
                    let group = entry(expected.len() as u64 + 1, 1, rng.random_range(0..bytes_max));
                    wal.append(None, std::slice::from_ref(&group)).unwrap();
                    expected.push(group);
                }
                wal.sync().unwrap();
                if round % 8 == 7 {
                    cuts += wal.counters().cuts;
                    drop(wal);
                    let (_, next) = MEDIA[rng.random_range(0..2)];
                    let (reopened, recovered) = open(next(directory.path(), SEGMENT).unwrap(), 0, 0).unwrap();
                    assert!(recovered.entries == expected, "{name}, seed {seed}, round {round}");
                    assert_eq!(recovered.notes, vec![]);
                    wal = reopened;
                }
            }
            assert!(2 < cuts, "all of it was in {cuts} segments");
        }
    }
}

#[test]
fn a_second_process_is_refused_while_the_first_lives() {
    let directory = tempfile::tempdir().unwrap();
    let first = MapStorage::open(directory.path(), SEGMENT).unwrap();
    let second = DirectStorage::open(directory.path(), SEGMENT).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
    drop(first);
    DirectStorage::open(directory.path(), SEGMENT).unwrap();
}

#[test]
fn a_torn_tail_on_real_files_is_zeroed_and_reported_once() {
    for (name, medium) in MEDIA {
        let directory = tempfile::tempdir().unwrap();
        let mut wal = Wal::create(medium(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
        wal.append(Some(state(1, 0)), &[entry(1, 1, 100)]).unwrap();
        wal.append(None, &[entry(2, 1, 2000)]).unwrap();
        wal.sync().unwrap();
        drop(wal);
        // The second group lost its third sector: 16 start, 17 first group, 18.. second.
        let file = directory.path().join(SegmentSeq(1).file_name());
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[20 * 512..21 * 512].fill(0);
        std::fs::write(&file, bytes).unwrap();
        let (mut wal, recovered) = open(medium(directory.path(), SEGMENT).unwrap(), 0, 0).unwrap();
        assert_eq!(recovered.entries, vec![entry(1, 1, 100)], "{name}");
        assert!(
            matches!(&recovered.notes[..], [Note::TornTail { offset: 9216, after: 1, .. }]),
            "{name}: {:?}",
            recovered.notes
        );
        wal.append(None, &[entry(2, 2, 50)]).unwrap();
        wal.sync().unwrap();
        drop(wal);
        let (_, recovered) = open(medium(directory.path(), SEGMENT).unwrap(), 0, 0).unwrap();
        assert_eq!(recovered.entries, vec![entry(1, 1, 100), entry(2, 2, 50)], "{name}");
        assert_eq!(recovered.notes, vec![]);
    }
}

#[test]
fn left_overs_of_an_interrupted_preparation_are_removed_and_foreign_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("wal-00000009.tmp"), b"half").unwrap();
    std::fs::write(directory.path().join("wal-00000009.free"), b"half").unwrap();
    std::fs::write(directory.path().join("notes.txt"), b"mine").unwrap();
    drop(Wal::create(mapped(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap());
    assert!(!directory.path().join("wal-00000009.tmp").exists());
    assert!(!directory.path().join("wal-00000009.free").exists());
    assert!(directory.path().join("notes.txt").exists());
}

#[test]
fn a_steady_log_recycles_its_files_and_never_leaves_them_sparse() {
    use std::os::unix::fs::MetadataExt;
    for (name, medium) in MEDIA {
        let directory = tempfile::tempdir().unwrap();
        let mut wal = Wal::create(medium(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap();
        for index in 1..=120 {
            wal.append(Some(state(1, index - 1)), &[entry(index, 1, 900)]).unwrap();
            wal.sync().unwrap();
            wal.release(index - 1).unwrap();
        }
        assert!(wal.counters().cuts > 10);
        drop(wal);
        let files: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap).collect();
        assert!(files.len() <= 5, "{name}: {files:?}");
        for file in files {
            let metadata = file.metadata().unwrap();
            assert_eq!(metadata.len(), u64::from(SEGMENT));
            assert!(metadata.blocks() * 512 >= metadata.len(), "{name}: {file:?} is sparse");
        }
    }
}

#[test]
fn opening_adopts_the_segment_size_the_log_was_made_with() {
    let directory = tempfile::tempdir().unwrap();
    drop(Wal::create(mapped(directory.path(), SEGMENT).unwrap(), IDENTITY, 0, 0).unwrap());
    let (mut wal, _) = open(direct(directory.path(), 4 * SEGMENT).unwrap(), 0, 0).unwrap();
    for index in 1..=40 {
        wal.append(None, &[entry(index, 1, 900)]).unwrap();
        wal.sync().unwrap();
    }
    let error = wal.append(None, &[entry(41, 1, 3 * SEGMENT as usize)]).unwrap_err();
    assert!(matches!(error, WalError::TooLarge { .. }), "{error}");
    drop(wal);
    let (_, recovered) = open(mapped(directory.path(), SEGMENT).unwrap(), 0, 0).unwrap();
    assert_eq!(recovered.entries.len(), 40);
}

#[test]
fn the_probe_measures_both_media_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let found = probe(directory.path()).unwrap();
    println!("{found:?}");
    for cost in [found.small, found.large, found.bulk] {
        assert!(0.0 < cost.mmap_us);
        assert!(0.0 < cost.direct_us);
    }
    let costs = [found.small, found.large, found.bulk];
    let is_clear = costs.iter().any(|cost| cost.direct_us < 0.75 * cost.mmap_us);
    let is_no_slower = 0.9 * found.small.direct_us <= found.small.mmap_us;
    assert_eq!(found.choice == Choice::Direct, is_clear && is_no_slower);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Needs a file system of a few MiB of its own: `PINION_WAL_SMALL_DISK=/mnt/small`.
#[test]
fn a_really_full_disk_refuses_appends_and_recovers_with_space() {
    #[expect(clippy::disallowed_methods, reason = "names the disk that the test may fill")]
    let Ok(disk) = std::env::var("PINION_WAL_SMALL_DISK") else { return };
    let segment = 1 << 20;
    for (name, medium) in MEDIA {
        let directory = Path::new(&disk).join(name);
        std::fs::create_dir(&directory).unwrap();
        let ballast = Path::new(&disk).join("ballast");
        let mut wal = Wal::create(medium(&directory, segment).unwrap(), IDENTITY, 0, 0).unwrap();
        // The segment prepared ahead is there; nothing after it will be.
        wal.append(None, &[entry(1, 1, 10)]).unwrap();
        wal.storage().wait_prepared(SegmentSeq(2)).unwrap();
        let mut filler = std::fs::OpenOptions::new().write(true).create_new(true).open(&ballast).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
        let mut index = 1;
        let refused = loop {
            match wal.append(None, &[entry(index + 1, 1, 60_000)]) {
                Ok(()) => index += 1,
                Err(error) => break error,
            }
            wal.sync().unwrap();
            assert!(index < 200, "the disk never fills");
        };
        assert!(matches!(refused, WalError::NoSpace { .. }), "{name}: {refused:?}");
        assert!(20 < index, "{name}: the prepared segment was not used");
        std::fs::remove_file(&ballast).unwrap();
        drop(filler);
        wal.append(None, &[entry(index + 1, 1, 60_000)]).unwrap();
        wal.sync().unwrap();
        drop(wal);
        let (_, recovered) = open(medium(&directory, segment).unwrap(), 0, 0).unwrap();
        assert_eq!(recovered.entries.len() as u64, index + 1);
        println!("{name}: refused at entry {}, went on with space", index + 1);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
