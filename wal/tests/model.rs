//! The log against a `Vec`: what is appended comes back, across cuts, releases and reopenings.

mod common;
use common::*;
use pinion_wal::memory::MemoryStorage;
use pinion_wal::{Note, Wal, WalError};
use rand::RngExt;

#[test]
fn what_was_synced_comes_back_after_the_process_dies() {
    let mut wal = create();
    wal.append(Some(state(1, 0)), &[entry(1, 1, 300), entry(2, 1, 0)]).unwrap();
    wal.sync().unwrap();
    wal.append(Some(state(1, 2)), &[]).unwrap();
    wal.sync().unwrap();
    let (wal, recovered) = open(wal.into_storage().process_killed(), 0, 0).unwrap();
    assert_eq!(recovered.entries, vec![entry(1, 1, 300), entry(2, 1, 0)]);
    assert_eq!(recovered.hard_state, Some(state(1, 2)));
    assert_eq!(recovered.notes, vec![]);
    assert_eq!(wal.last_index(), 2);
}

#[test]
fn one_group_is_one_sync_and_nothing_to_sync_is_none() {
    let mut wal = create();
    let before = wal.storage().syncs();
    wal.sync().unwrap();
    assert_eq!(wal.storage().syncs(), before);
    for index in 1..=5 {
        wal.append(Some(state(1, index - 1)), &[entry(index, 1, 200)]).unwrap();
        wal.sync().unwrap();
    }
    wal.append(None, &[entry(6, 1, 10)]).unwrap();
    wal.append(None, &[entry(7, 1, 10)]).unwrap();
    wal.sync().unwrap();
    assert_eq!(wal.storage().syncs() - before, 6);
    assert_eq!(wal.counters().syncs, 6);
    assert_eq!(wal.counters().groups, 7);
    assert_eq!(wal.counters().cuts, 0);
}

#[test]
fn a_replaced_suffix_stays_replaced_and_void_entries_do_not_return() {
    let mut wal = create();
    let entries: Vec<_> = (1..=9).map(|index| entry(index, 1, 40)).collect();
    wal.append(Some(state(1, 3)), &entries).unwrap();
    wal.append(Some(state(2, 3)), &[entry(5, 2, 700)]).unwrap();
    wal.sync().unwrap();
    let (_, recovered) = open(wal.into_storage().process_killed(), 0, 0).unwrap();
    let mut expected = entries[..4].to_vec();
    expected.push(entry(5, 2, 700));
    assert_eq!(recovered.entries, expected);
}

#[test]
fn random_work_recovers_as_the_model_says() {
    for seed in 0..runs("PINION_WAL_MODEL_SEEDS", 150) {
        println!("replay with seed {seed}");
        let mut rng = rng(seed);
        let (mut wal, mut model, mut after) = (create(), Model::default(), 0);
        for _ in 0..rng.random_range(1..60) {
            let (hard_state, entries) = random_group(&mut rng, &model, 900);
            wal.append(hard_state, &entries).unwrap();
            model.append(hard_state, &entries);
            if rng.random_range(0..3) > 0 {
                wal.sync().unwrap();
            }
            if rng.random_range(0..8) == 0 {
                wal.mark().unwrap();
            }
            if rng.random_range(0..10) == 0 {
                wal.sync().unwrap();
                after = rng.random_range(after..=model.hard_state.map_or(0, |state| state.commit).max(after));
                wal.release(after).unwrap();
            }
            if rng.random_range(0..10) == 0 {
                let (reopened, recovered) =
                    open(wal.into_storage().process_killed(), after, model.term_at(after)).unwrap();
                assert_eq!(seen(&recovered), model.after(after), "seed {seed}");
                assert_eq!(recovered.notes, vec![]);
                wal = reopened;
            }
        }
        let (_, recovered) = open(wal.into_storage().process_killed(), after, model.term_at(after)).unwrap();
        assert_eq!(seen(&recovered), model.after(after), "seed {seed}");
    }
}

#[test]
fn the_hard_state_outlives_the_segments_it_was_written_in() {
    let mut wal = create();
    wal.append(Some(state(4, 0)), &[]).unwrap();
    for index in 1..=100 {
        wal.append(None, &[entry(index, 4, 400)]).unwrap();
        wal.sync().unwrap();
    }
    assert!(3 < wal.segments_count());
    wal.release(99).unwrap();
    assert!(wal.segments_count() <= 2, "{}", wal.segments_count());
    let (_, recovered) = open(wal.into_storage().process_killed(), 99, 4).unwrap();
    assert_eq!(seen(&recovered), (Some(state(4, 0)), vec![entry(100, 4, 400)]));
}

#[test]
fn a_recycled_segment_does_not_let_its_old_groups_speak() {
    let mut wal = create();
    for index in 1..=200 {
        wal.append(Some(state(1, index - 1)), &[entry(index, 1, 450)]).unwrap();
        wal.sync().unwrap();
        wal.release(index - 1).unwrap();
        assert!(wal.segments_count() <= 2);
        let storage = wal.storage().process_killed();
        let (_, recovered) = open(storage, index - 1, if index == 1 { 0 } else { 1 }).unwrap();
        assert_eq!(recovered.entries, vec![entry(index, 1, 450)]);
        assert_eq!(recovered.notes, vec![], "at {index}");
    }
    // Two segments, one prepared, two free: the disk stops growing.
    assert!(wal.storage().files().len() <= 5, "{:?}", wal.storage().files().keys());
}

#[test]
fn a_group_larger_than_a_segment_is_split_and_comes_back_whole() {
    let mut wal = create();
    wal.append(Some(state(1, 0)), &[]).unwrap();
    let entries: Vec<_> = (1..=40).map(|index| entry(index, 2, 1500)).collect();
    wal.append(Some(state(2, 30)), &entries).unwrap();
    wal.sync().unwrap();
    assert!(5 < wal.segments_count());
    let (_, recovered) = open(wal.into_storage().process_killed(), 0, 0).unwrap();
    assert_eq!(seen(&recovered), (Some(state(2, 30)), entries));
}

#[test]
fn an_entry_that_no_segment_can_hold_is_refused_and_the_log_goes_on() {
    let mut wal = create();
    let error = wal.append(None, &[entry(1, 1, 10), entry(2, 1, 9000)]).unwrap_err();
    assert!(matches!(error, WalError::TooLarge { bytes: 9000, .. }), "{error}");
    let WalError::TooLarge { max, .. } = error else { unreachable!() };
    wal.append(None, &[entry(1, 1, max)]).unwrap();
    wal.append(None, &[entry(2, 1, max)]).unwrap();
    wal.sync().unwrap();
    let (_, recovered) = open(wal.into_storage().process_killed(), 0, 0).unwrap();
    assert_eq!(recovered.entries, vec![entry(1, 1, max), entry(2, 1, max)]);
}

#[test]
fn a_full_disk_refuses_the_append_before_a_byte_is_written_and_recovers_with_space() {
    let mut wal = create();
    wal.storage().limit_free_bytes(u64::from(SEGMENT));
    let mut index = 0;
    let refused = loop {
        let files = wal.storage().files();
        match wal.append(Some(state(1, index)), &[entry(index + 1, 1, 300)]) {
            Ok(()) => {
                wal.sync().unwrap();
                index += 1;
            }
            Err(error) => {
                assert_eq!(files, wal.storage().files(), "something was written");
                break error;
            }
        }
        assert!(index < 1000, "the disk never fills");
    };
    assert!(matches!(refused, WalError::NoSpace { .. }), "{refused}");
    assert!(matches!(wal.append(None, &[entry(index + 1, 1, 300)]), Err(WalError::NoSpace { .. })));
    // A checkpoint frees segments, or the operator makes room.
    let mut relieved = wal.storage().process_killed();
    relieved.limit_free_bytes(10 * u64::from(SEGMENT));
    let (_, recovered) = open(relieved, 0, 0).unwrap();
    assert_eq!(recovered.entries.len() as u64, index);
    wal.release(index).unwrap();
    wal.append(Some(state(1, index)), &[entry(index + 1, 1, 300)]).unwrap();
    wal.sync().unwrap();
    let (_, recovered) = open(wal.into_storage().process_killed(), index, 1).unwrap();
    assert_eq!(recovered.entries, vec![entry(index + 1, 1, 300)]);
}

#[test]
fn a_log_behind_its_checkpoint_restarts_behind_it() {
    let mut wal = create();
    wal.append(Some(state(1, 2)), &[entry(1, 1, 10), entry(2, 1, 10)]).unwrap();
    wal.sync().unwrap();
    // The checkpoint came from the leader; the power failed before the log could follow.
    let (mut wal, recovered) = open(wal.into_storage().process_killed(), 50, 3).unwrap();
    assert_eq!(recovered.entries, vec![]);
    assert_eq!(recovered.notes, vec![Note::BehindCheckpoint { last: 2, after: 50 }]);
    wal.append(Some(state(3, 50)), &[entry(51, 3, 10)]).unwrap();
    wal.sync().unwrap();
    let (_, recovered) = open(wal.into_storage().process_killed(), 50, 3).unwrap();
    assert_eq!(seen(&recovered), (Some(state(3, 50)), vec![entry(51, 3, 10)]));
    assert_eq!(recovered.notes, vec![]);
}

#[test]
fn a_reset_voids_what_was_before_and_survives_a_cut() {
    for filler in 0..40 {
        let mut wal = create();
        wal.append(Some(state(1, 0)), &[entry(1, 1, 10)]).unwrap();
        for index in 0..filler {
            wal.append(None, &[entry(2 + index, 1, 100)]).unwrap();
        }
        wal.sync().unwrap();
        wal.reset(500, 7);
        wal.append(Some(state(7, 500)), &[entry(501, 7, 3000)]).unwrap();
        wal.append(None, &[entry(502, 7, 3000)]).unwrap();
        wal.sync().unwrap();
        wal.release(500).unwrap();
        let (_, recovered) = open(wal.into_storage().process_killed(), 500, 7).unwrap();
        let expected = vec![entry(501, 7, 3000), entry(502, 7, 3000)];
        assert_eq!(seen(&recovered), (Some(state(7, 500)), expected), "after {filler}");
    }
}

#[test]
fn a_checkpoint_of_another_term_overrules_the_log() {
    let mut wal = create();
    wal.append(Some(state(1, 0)), &[entry(1, 1, 10), entry(2, 1, 10), entry(3, 1, 10)]).unwrap();
    wal.sync().unwrap();
    let (_, recovered) = open(wal.into_storage().process_killed(), 2, 5).unwrap();
    assert_eq!(recovered.entries, vec![]);
    assert_eq!(recovered.notes, vec![Note::Overruled { after: 2, log_term: 1, checkpoint_term: 5 }]);
}

#[test]
fn a_checkpoint_older_than_the_log_is_refused() {
    let mut wal = create();
    for index in 1..=100 {
        wal.append(Some(state(1, index - 1)), &[entry(index, 1, 400)]).unwrap();
        wal.sync().unwrap();
    }
    wal.release(90).unwrap();
    let error = open(wal.into_storage().process_killed(), 3, 1).unwrap_err();
    assert!(matches!(error, WalError::Hole { after: 3, .. }), "{error}");
}

#[test]
fn another_members_log_and_a_second_creation_are_refused() {
    let wal = create();
    let storage = wal.into_storage();
    let stranger = pinion_wal::Identity { member_id: 1, ..IDENTITY };
    let error = Wal::open(storage.process_killed(), stranger, 0, 0).unwrap_err();
    assert!(matches!(error, WalError::Identity { .. }), "{error}");
    let error = Wal::create(storage.process_killed(), IDENTITY, 0, 0).unwrap_err();
    assert!(matches!(error, WalError::Exists { .. }), "{error}");
    let error = open(MemoryStorage::new(SEGMENT), 0, 0).unwrap_err();
    assert!(matches!(error, WalError::Missing), "{error}");
}
