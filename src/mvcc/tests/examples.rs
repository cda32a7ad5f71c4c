//! etcd's rules for revisions, versions, deletes and compaction, one by one, and bounds on memory and work.

use super::{checkpoint_of, restored};
use crate::mvcc::{HashKv, Store};
use crate::types::limits::{KEY_NS, KIB_NS, SLICE_NS};
use crate::types::{KeyRange, Revision, Slice};

fn put(store: &mut Store, key: &str, value: &str) -> i64 {
    let mut txn = store.begin();
    txn.put(key.as_bytes(), value.as_bytes(), 0);
    txn.commit()
}

fn delete(store: &mut Store, key: &str) -> i64 {
    let mut txn = store.begin();
    txn.delete_range(KeyRange::One(key.as_bytes()), |_| {});
    txn.commit()
}

fn value(store: &Store, key: &str, at: i64) -> Option<String> {
    store.get(key.as_bytes(), at).map(|version| String::from_utf8(version.value.to_vec()).unwrap())
}

fn changes(store: &Store, from: i64) -> Vec<String> {
    let tell = |change: crate::mvcc::Change<'_>| {
        let Revision { main, sub } = change.revision;
        let key = String::from_utf8(change.key.to_vec()).unwrap();
        format!("{main}.{sub} {} {key}", if change.put.is_some() { "put" } else { "delete" })
    };
    store.changes(Revision::new(from, 0)).map(tell).collect()
}

#[test]
fn fresh_store_is_at_revision_1_and_the_first_write_makes_2() {
    let mut store = Store::new();
    assert_eq!((store.current_revision(), store.compact_revision()), (1, -1));
    assert_eq!(put(&mut store, "a", "1"), 2);
}

#[test]
fn deleting_nothing_makes_no_revision() {
    let mut store = Store::new();
    assert_eq!(delete(&mut store, "a"), 1);
    put(&mut store, "a", "1");
    assert_eq!((delete(&mut store, "a"), delete(&mut store, "a")), (3, 3));
}

#[test]
fn version_restarts_after_a_delete() {
    let mut store = Store::new();
    for _ in 0..3 {
        put(&mut store, "a", "1");
    }
    delete(&mut store, "a");
    put(&mut store, "a", "2");
    let version = store.get(b"a", i64::MAX).unwrap();
    assert_eq!((version.create_revision, version.mod_revision, version.version), (6, 6, 1));
    let version = store.get(b"a", 4).unwrap();
    assert_eq!((version.create_revision, version.mod_revision, version.version), (2, 4, 3));
    assert!(store.get(b"a", 5).is_none());
}

#[test]
fn key_deleted_and_put_again_in_one_transaction_is_new() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    let mut txn = store.begin();
    assert_eq!(txn.delete_range(KeyRange::From(b"a"), |_| {}), 1);
    assert!(txn.get(b"a", txn.revision()).is_none());
    assert_eq!(txn.put(b"a", b"2", 0).revision, Revision::new(3, 1));
    assert_eq!(txn.commit(), 3);
    let version = store.get(b"a", 3).unwrap();
    assert_eq!((version.create_revision, version.version, version.value), (3, 1, b"2".as_slice()));
    assert_eq!(value(&store, "a", 2).as_deref(), Some("1"));
    store.compact(3);
    while !store.compact_slice(1) {}
    store.check_invariants();
    assert_eq!(value(&store, "a", 3).as_deref(), Some("2"), "its newest version survives the compaction");
}

#[test]
fn compaction_keeps_the_newest_version_and_a_tombstone_only_at_the_very_revision() {
    let mut store = Store::new();
    put(&mut store, "a", "1"); // 2
    put(&mut store, "a", "2"); // 3
    put(&mut store, "b", "1"); // 4
    delete(&mut store, "b"); // 5
    put(&mut store, "c", "1"); // 6
    delete(&mut store, "c"); // 7
    store.compact(7);
    let expected = ["3.0 put a", "7.0 delete c"];
    let kept = |store: &Store| {
        let mut told = vec![format!("3.0 put a ({:?})", value(store, "a", 7))];
        told.extend(changes(store, 7));
        told
    };
    assert_eq!(kept(&store), ["3.0 put a (Some(\"2\"))", "7.0 delete c"]);
    while !store.compact_slice(1) {
        assert_eq!(kept(&store), ["3.0 put a (Some(\"2\"))", "7.0 delete c"], "in the middle of a slice");
    }
    store.check_invariants();
    assert_eq!(store.log.iter_from(0).filter(|record| !record.is_dropped_at(7)).count(), expected.len());
    put(&mut store, "d", "1"); // 8
    store.compact(8);
    while !store.compact_slice(1) {}
    store.check_invariants();
    assert_eq!(store.tree.entries_count(), 2, "c and its tombstone are gone");
}

#[test]
fn compaction_on_a_fresh_store_to_zero_is_possible_once() {
    let mut store = Store::new();
    store.compact(0);
    assert!(store.compact_slice(10));
    assert_eq!(store.compact_revision(), 0);
    put(&mut store, "a", "1");
    assert_eq!(changes(&store, 0), ["2.0 put a"]);
}

#[test]
fn hot_key_among_cold_ones_holds_no_memory_after_compaction() {
    let mut store = Store::new();
    let cold_value = "c".repeat(100);
    for number in 0..2_000 {
        put(&mut store, &format!("cold{number:05}"), &cold_value);
        for _ in 0..20 {
            put(&mut store, "hot", &cold_value);
        }
    }
    let before = store.bytes_held();
    store.compact(store.current_revision());
    while !store.compact_slice(500) {}
    store.check_invariants();
    let (after, live) = (store.bytes_held(), 2_001 * (100 + 9 + 4 + 13 + 16_u64));
    println!("held {before} B before, {after} B after, {live} B live");
    assert!(after < live * 3 / 2, "{after} B held for {live} B of live records");
    assert!(store.bytes_in_use() <= after);
}

#[test]
fn compaction_slices_are_bounded() {
    let mut store = Store::new();
    for number in 0..30_000 {
        put(&mut store, &format!("key{}", number % 100), "value");
    }
    store.compact(store.current_revision());
    let mut slices = 1;
    while !store.compact_slice(100) {
        slices += 1;
    }
    // 30 000 records to walk, then at most as many to sweep, with a chunk of up to 10 000 small
    // records as the step that may not be cut.
    assert!((300..=700).contains(&slices), "{slices} slices");
}

#[test]
fn old_version_of_a_key_with_a_long_history_is_found_in_logarithmic_time() {
    let mut store = Store::new();
    for number in 0..20_000 {
        put(&mut store, "hot", &number.to_string());
    }
    for at in [2, 3, 17, 18, 19, 5_000, 16_385, 20_000] {
        assert_eq!(value(&store, "hot", at), Some((at - 2).to_string()));
    }
    // Counted by the length of the way: follow the search's own links.
    let mut record = store.newest_record(store.tree.get(b"hot").unwrap());
    let mut steps = 0;
    while 100 < record.main {
        let links = record.links.unwrap();
        let candidates = [links.jump, links.express, Some(links.previous)];
        let further = |seq: u64| store.log.get(seq).filter(|record| 100 <= record.main);
        record = candidates.into_iter().flatten().find_map(further).unwrap();
        steps += 1;
    }
    assert!(steps <= 60, "{steps} steps through 20000 versions");
}

#[test]
fn count_at_a_pinned_revision_costs_the_changes_since() {
    let mut store = Store::new();
    for number in 0..1_000 {
        put(&mut store, &format!("key{number:04}"), "1");
    }
    let pinned = store.current_revision();
    put(&mut store, "key0500x", "new");
    delete(&mut store, "key0501");
    put(&mut store, "key0502", "again");
    delete(&mut store, "key0503");
    put(&mut store, "key0503", "back");
    let range = KeyRange::Between { start: b"key0500", end: b"key0600" };
    assert_eq!(store.count(range, pinned), 100);
    assert_eq!(store.count(range, pinned + 1), 101);
    assert_eq!(store.count(range, i64::MAX), 100);
}

#[test]
fn compaction_beyond_a_running_checkpoint_waits_for_it() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    put(&mut store, "a", "2");
    let cursor = store.begin_checkpoint();
    put(&mut store, "a", "3");
    store.compact(4);
    assert!(store.compact_slice(100), "nothing may be done now");
    assert!(store.is_compacting());
    store.end_checkpoint(cursor);
    while !store.compact_slice(100) {}
    assert!(!store.is_compacting());
    assert_eq!(store.keys_count(), 1);
}

#[test]
fn restored_store_goes_on_where_the_other_stopped() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    let mut txn = store.begin();
    txn.put(b"b", b"1", 9);
    txn.put(b"c", b"1", 0);
    txn.commit();
    delete(&mut store, "c");
    store.compact(3);
    let mut other = restored(&checkpoint_of(&mut store, 1)).unwrap();
    for store in [&mut store, &mut other] {
        put(store, "c", "2");
        put(store, "a", "2");
    }
    assert_eq!(store.hash_kv(6), other.hash_kv(6));
    assert_eq!(changes(&store, 3), changes(&other, 3));
    assert_eq!(other.get(b"b", 6).unwrap().lease, 9);
    other.check_invariants();
}

#[test]
fn hash_under_way_ends_when_a_compaction_overtakes_it() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    put(&mut store, "a", "2");
    let mut cursor = store.begin_hash(3);
    assert_eq!(store.hash_slice(&mut cursor, &mut Slice::of(1)), Ok(None));
    put(&mut store, "a", "3");
    assert!(store.hash_slice(&mut cursor, &mut Slice::of(1)).is_ok(), "writes do not disturb it");
    store.compact(3);
    assert_eq!(store.hash_slice(&mut cursor, &mut Slice::new()).unwrap_err().compact_revision, 3);
}

#[test]
fn a_slice_of_a_hash_ends_inside_a_long_value() {
    let mut store = Store::new();
    put(&mut store, "a", &"long".repeat(1 << 20));
    put(&mut store, "b", &"other".repeat(1 << 10));
    let mut cursor = store.begin_hash(3);
    let mut slices = 0;
    let hash = loop {
        let mut slice = Slice::of(SLICE_NS / 10);
        let hash = store.hash_slice(&mut cursor, &mut slice).unwrap();
        // By a piece of a KiB at most.
        assert!(slice.spent_ns() <= SLICE_NS / 10 + KIB_NS + KEY_NS, "{} ns", slice.spent_ns());
        slices += 1;
        if let Some(hash) = hash {
            break hash;
        }
    };
    assert!(20 < slices, "4 MiB in {slices} slices");
    assert_eq!(hash, store.hash_kv(3));
}

/// The same history was written to etcd 3.4.23 with `etcdctl put/del/txn/compact`, and after each
/// step `etcdctl endpoint hashkv -w json` printed these numbers.
#[test]
fn hash_equals_that_of_a_real_etcd_after_the_same_history() {
    const LEASE: i64 = 8_883_528_354_809_518_345;
    let mut store = Store::new();
    let check = |store: &Store, revision: i64, compacted: i64, hash: u32| {
        let expected = HashKv { hash, compact_revision: compacted, hash_revision: revision };
        assert_eq!(store.hash_kv(revision), expected);
    };
    check(&store, 1, -1, 1_084_519_789);
    put(&mut store, "a", "1");
    check(&store, 2, -1, 2_587_454_935);
    put(&mut store, "a", "2");
    put(&mut store, "b", "");
    check(&store, 4, -1, 3_785_861_384);
    let mut txn = store.begin();
    txn.put(b"c", b"x", LEASE);
    txn.commit();
    check(&store, 5, -1, 1_719_630_588);
    delete(&mut store, "a");
    check(&store, 6, -1, 2_352_136_647);
    let mut txn = store.begin();
    txn.put(b"d", b"1", 0);
    txn.put(b"e", b"2", 0);
    txn.delete_range(KeyRange::One(b"b"), |_| {});
    txn.commit();
    check(&store, 7, -1, 3_693_371_227);
    put(&mut store, "a", "3");
    put(&mut store, "a", "4");
    check(&store, 9, -1, 512_206_424);
    check(&store, 6, -1, 2_352_136_647);
    let compact = |store: &mut Store, to: i64, revisions: &[(i64, u32)]| {
        store.compact(to);
        for &(revision, hash) in revisions {
            check(store, revision, to, hash); // before anything is removed,
        }
        while !store.compact_slice(1) {}
        for &(revision, hash) in revisions {
            check(store, revision, to, hash); // and after
        }
    };
    compact(&mut store, 5, &[(9, 2_455_291_907), (7, 1_255_953_330)]);
    compact(&mut store, 6, &[(9, 1_219_611_962), (8, 2_016_748_210)]);
    compact(&mut store, 9, &[(9, 176_417_318)]);
    let mut txn = store.begin();
    txn.delete_range(KeyRange::From(b""), |_| {});
    txn.commit();
    check(&store, 10, 9, 448_036_466);
    // With nothing alive etcd leaves nothing out. Since 3.5.16 the tombstones of the compact revision
    // are still stored then and count; 3.4.23 has removed them, so only here the two differ.
    compact(&mut store, 10, &[]);
    assert_ne!(store.hash_kv(10).hash, 1_084_519_789);
    put(&mut store, "z", "1");
    check(&store, 11, 10, 974_378_710);
}

#[test]
fn record_that_moves_into_a_chunk_written_in_place_is_found_there() {
    let mut store = Store::new();
    put(&mut store, "first", "1"); // a small chunk, closed by what does not fit behind it:
    put(&mut store, "big", &"b".repeat(300_000));
    for number in 0..3_000 {
        put(&mut store, "hot", &"h".repeat(100));
        if number % 1_000 == 0 {
            put(&mut store, &format!("cold{number}"), &number.to_string());
        }
    }
    put(&mut store, "big", "small");
    store.compact(store.current_revision());
    while !store.compact_slice(100) {}
    store.check_invariants();
    assert!(store.log.chunks()[0].records_count() > 1, "the cold records joined the first");
    for number in [0, 1_000, 2_000] {
        assert_eq!(value(&store, &format!("cold{number}"), i64::MAX), Some(number.to_string()));
    }
    put(&mut store, "cold0", "new");
    assert_eq!(value(&store, "cold0", i64::MAX).as_deref(), Some("new"));
}
