//! Deletions whose records are owed, beside a store in which the same was deleted at once.

use std::ops::ControlFlow;

use super::{checkpoint_of, restored};
use crate::mvcc::{Action, Cursor, ExportCursor, KeyValueRef, Mark, Store};
use crate::types::limits::{BURY_NS, KEY_NS, SETTLE_NS};
use crate::types::{KeyRange, Revision, Slice};

const KEYS: u64 = 10_000;

/// Some keys are so long that few of them fill a chunk.
fn key(number: u64) -> Vec<u8> {
    let mut key = format!("{number:05}").into_bytes();
    if (2_000..2_500).contains(&number) {
        key.resize(3_000, b'k');
    }
    key
}

fn put(store: &mut Store, number: u64) {
    let mut txn = store.begin();
    txn.put(&key(number), b"value", 0);
    txn.commit();
}

fn filled() -> Store {
    let mut store = Store::new();
    for number in 0..KEYS {
        put(&mut store, number * 7_919 % KEYS);
    }
    store
}

fn bury(store: &mut Store, range: KeyRange<'_>) -> u64 {
    let (mut cursor, mut count) = (Cursor::default(), 0);
    let mut open = store.begin().suspend();
    loop {
        let mut txn = store.resume(open);
        let mut slice = Slice::of(700 * BURY_NS);
        let (now, is_done) =
            txn.bury_slice(range, Mark::default(), &mut cursor, &mut slice, None::<fn(KeyValueRef<'_>)>);
        slice.check();
        count += now;
        if is_done {
            txn.commit();
            return count;
        }
        open = txn.suspend();
    }
}

fn delete(store: &mut Store, range: KeyRange<'_>) {
    let mut txn = store.begin();
    txn.delete_range(range, |_| ());
    txn.commit();
}

/// Everything but what it takes in memory.
fn assert_equal(owing: &mut Store, other: &mut Store) {
    owing.check_invariants();
    assert!(checkpoint_of(owing, 100_000) == checkpoint_of(other, 100_000), "their checkpoints differ");
    let current = other.current_revision();
    assert_eq!(owing.hash_kv(current), other.hash_kv(current));
    assert_eq!(owing.keys_count(), other.keys_count());
    let from = Revision::new(other.compact_revision().max(1), 0);
    assert!(owing.changes(from).eq(other.changes(from)), "their histories differ");
    assert!(exported(owing) == exported(other), "their exports differ");
}

/// What a backup is made of.
fn exported(store: &mut Store) -> Vec<(u64, Revision, Vec<u8>, bool)> {
    let (export, mut cursor, mut all) = (store.begin_export(), ExportCursor::default(), Vec::new());
    let mut slice = Slice::unbounded();
    let is_whole = store.export_slice(&export, &mut cursor, &mut slice, |seq, change, _| {
        all.push((seq, change.revision, change.key.to_vec(), change.put.is_some()));
        ControlFlow::Continue(())
    });
    assert!(is_whole, "a slice without a bound is not spent");
    store.end_export(export);
    all
}

#[test]
fn a_store_that_owes_records_is_the_one_that_wrote_them_however_many_are_settled() {
    let (mut owing, mut other) = (filled(), filled());
    let most = KeyRange::Between { start: b"00003", end: b"09990" };
    assert_eq!(bury(&mut owing, most), 9_987);
    delete(&mut other, most);
    assert!(!owing.is_settled());
    assert_equal(&mut owing, &mut other);
    let mut number = 0;
    loop {
        let mut slice = Slice::of(900 * SETTLE_NS);
        let is_done = owing.settle_slice(&mut slice);
        slice.check();
        // Keys are put again meanwhile, those of written deletions and of others, and deleted again.
        for store in [&mut owing, &mut other] {
            for step in 0..40 {
                put(store, (number + step * 311) % KEYS);
            }
        }
        number += 1;
        if number == 4 {
            let again = KeyRange::Between { start: b"001", end: b"09" };
            bury(&mut owing, again);
            delete(&mut other, again);
        }
        assert_equal(&mut owing, &mut other);
        if is_done {
            break;
        }
    }
    assert!(10 < number, "{number} slices");
    assert!(owing.is_settled());
    assert_eq!(owing.bytes_in_use(), other.bytes_in_use());
    assert_eq!(owing.tallies(), other.tallies());
    restored(&checkpoint_of(&mut owing, 100_000)).unwrap().check_invariants();
}

#[test]
fn a_compaction_writes_what_is_owed_and_then_removes_what_it_would_have() {
    let (mut owing, mut other) = (filled(), filled());
    let all = KeyRange::From(b"");
    bury(&mut owing, all);
    delete(&mut other, all);
    for store in [&mut owing, &mut other] {
        for number in 0..100 {
            put(store, number * 3);
        }
    }
    for to in [owing.current_revision() - 100, owing.current_revision()] {
        owing.compact(to);
        other.compact(to);
        // Before anything is removed.
        assert_equal(&mut owing, &mut other);
        while !other.compact_slice(1_000) {}
        while !owing.compact_slice(50) {
            assert!(owing.hash_kv(to) == other.hash_kv(to), "while it is removed");
        }
        assert_equal(&mut owing, &mut other);
        assert_eq!(owing.bytes_in_use(), other.bytes_in_use());
    }
}

#[test]
fn a_write_that_owes_records_is_taken_back_in_slices_and_leaves_nothing() {
    let (mut store, mut other) = (filled(), filled());
    // Of an earlier deletion some records are still owed.
    let few = KeyRange::Between { start: b"05", end: b"06" };
    bury(&mut store, few);
    delete(&mut other, few);
    store.settle_slice(&mut Slice::of(100 * SETTLE_NS));
    for number in 5_000..5_050 {
        put(&mut store, number);
        put(&mut other, number);
    }
    let before = (store.bytes_in_use(), store.bytes_held());
    let mut txn = store.begin();
    let mut cursor = Cursor::default();
    let all = KeyRange::From(b"");
    let mut slice = Slice::unbounded();
    let (count, is_done) =
        txn.bury_slice(all, Mark::default(), &mut cursor, &mut slice, None::<fn(KeyValueRef<'_>)>);
    assert!((count, is_done) == (9_050, true));
    for number in 0..2_000 {
        txn.put(&key(number), b"again", 0);
    }
    let (count, _) =
        txn.bury_slice(all, Mark::default(), &mut Cursor::default(), &mut slice, None::<fn(KeyValueRef<'_>)>);
    assert_eq!(count, 2_000);
    let mut open = txn.suspend();
    while !store.roll_back_slice(&mut open, &mut Slice::of(500 * KEY_NS)) {}
    assert_eq!(store.bytes_in_use(), before.0);
    assert_equal(&mut store, &mut other);
    while !store.settle_slice(&mut Slice::new()) {}
    assert_equal(&mut store, &mut other);
    assert_eq!(store.bytes_in_use(), other.bytes_in_use());
}

#[test]
fn a_deletion_that_owes_its_records_takes_little_memory_for_them() {
    let mut store = filled();
    let before = store.bytes_held();
    let count = bury(&mut store, KeyRange::From(b""));
    let after = store.bytes_held();
    // A list that is not full has its memory all the same.
    assert!(after <= before + 8 * (count + 4_096), "from {before} to {after} bytes by {count} deletions");
}

#[test]
fn keys_that_go_one_by_one_with_a_mark_are_told_as_if_they_were_deleted_at_once() {
    let (mut owing, mut other) = (filled(), filled());
    let mark = Mark::of(Action::Expire);
    let keys: Vec<Box<[u8]>> = (0..KEYS).step_by(3).map(|number| key(number).into()).collect();
    let mut txn = owing.begin();
    // Two marks make two lists.
    let (some, rest) = keys.split_at(100);
    txn.bury_keys(some, Mark::default());
    for keys in rest.chunks(11) {
        txn.bury_keys(keys, mark);
    }
    txn.commit();
    let mut txn = other.begin();
    for (place, key) in keys.iter().enumerate() {
        txn.delete_marked(KeyRange::One(key), if place < 100 { Mark::default() } else { mark }, |_| ());
    }
    txn.commit();
    assert_equal(&mut owing, &mut other);
    while !owing.settle_slice(&mut Slice::of(70 * SETTLE_NS)) {}
    assert_equal(&mut owing, &mut other);
    assert_eq!(owing.bytes_in_use(), other.bytes_in_use());
}

#[test]
fn a_version_that_its_own_revision_deleted_is_not_told_once_that_is_compacted() {
    let mut store = filled();
    let mut txn = store.begin();
    txn.put(b"00007", b"for a moment", 0);
    let all = KeyRange::From(b"");
    let mut slice = Slice::unbounded();
    txn.bury_slice(all, Mark::default(), &mut Cursor::default(), &mut slice, None::<fn(KeyValueRef<'_>)>);
    let current = txn.commit();
    let told = |store: &Store| {
        store.changes(Revision::new(current, 0)).filter(|change| change.put.is_some()).count()
    };
    let told_of_key = |store: &Store| store.changes_of(b"00007", current).count();
    assert_eq!((told(&store), told_of_key(&store)), (1, 2));
    store.compact(current);
    assert_eq!((told(&store), told_of_key(&store)), (0, 1));
    while !store.settle_slice(&mut Slice::new()) {}
    assert_eq!((told(&store), told_of_key(&store)), (0, 1));
}

#[test]
fn what_is_owed_of_later_revisions_changes_no_hash_and_no_checkpoint_of_an_earlier_one() {
    let (mut owing, mut other) = (filled(), filled());
    let first = KeyRange::Between { start: b"00003", end: b"05000" };
    bury(&mut owing, first);
    delete(&mut other, first);
    let revision = owing.current_revision();
    assert!(owing.is_settled_through(revision - 1) && !owing.is_settled_through(revision));
    let stores = [&mut owing, &mut other];
    let mut begun = stores.map(|store| (store.begin_hash(revision), store.begin_checkpoint(), Vec::new()));
    let second = KeyRange::Between { start: b"05000", end: b"09000" };
    bury(&mut owing, second);
    delete(&mut other, second);
    put(&mut owing, 7_000);
    put(&mut other, 7_000);
    assert_eq!(owing.owed_records(), 4_997 + 4_000);
    while !owing.is_settled_through(revision) {
        owing.settle_slice(&mut Slice::of(900 * SETTLE_NS));
    }
    assert!(!owing.is_settled(), "what the second deletion owes is not written");
    let mut hashes = Vec::new();
    for (store, (hash, checkpoint, blocks)) in [&mut owing, &mut other].into_iter().zip(&mut begun) {
        hashes
            .push(store.hash_slice(hash, &mut Slice::unbounded()).unwrap().expect("a slice without a bound"));
        while !store.checkpoint_slice(checkpoint, 100_000, blocks) {}
    }
    assert_eq!(hashes[0], hashes[1]);
    let [of_owing, of_other] = begun.map(|(_, checkpoint, blocks)| (checkpoint, blocks));
    assert!(of_owing.1 == of_other.1, "their checkpoints differ");
    owing.end_checkpoint(of_owing.0);
    other.end_checkpoint(of_other.0);
    assert_equal(&mut owing, &mut other);
}
