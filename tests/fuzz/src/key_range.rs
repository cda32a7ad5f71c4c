//! Key ranges and the store's reads against a map per revision.
//!
//! Claims, for any puts, deletes, transactions taken back, compactions, and any `key` / `range_end`
//! pair: `KeyRange` names the keys that etcd's documentation says, and `scan`, `count` and `get` at
//! every readable revision answer what a filter over a plain map answers.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion::mvcc::{KeyValueRef, Store};
use pinion::types::KeyRange;

use crate::message::{key, range_end};
use crate::{below, bytes, one_in};

const STEPS_MAX: usize = 80;
const QUERIES: usize = 12;

/// `(value, create revision, modify revision, version, lease)`.
type Version = (Vec<u8>, i64, i64, i64, i64);
type Keys = BTreeMap<Vec<u8>, Version>;

/// By etcd's own words, not by `KeyRange`'s.
fn is_named(key: &[u8], range_end: &[u8], candidate: &[u8]) -> bool {
    if range_end.is_empty() {
        candidate == key
    } else if range_end == b"\0" {
        key <= candidate
    } else {
        key <= candidate && candidate < range_end
    }
}

pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut store = Store::new();
    // `states[n]` is the state at revision n + 1.
    let mut states: Vec<Keys> = vec![Keys::new()];
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match below(&mut input, 12) {
            0..=8 => transaction(&mut input, &mut store, &mut states),
            9 => {
                let (from, to) = (store.compact_revision().max(0), store.current_revision());
                let span = usize::try_from(to - from).expect("a short history");
                let at = from + i64::try_from(below(&mut input, span + 1)).expect("a short history");
                if store.compact_revision() < at {
                    store.compact(at);
                }
            }
            10 => drop(store.compact_slice(1 + below(&mut input, 50))),
            _ => query(&mut input, &store, &states),
        }
    }
    for _ in 0..QUERIES {
        query(&mut input, &store, &states);
    }
    store.check_invariants();
}

fn transaction(input: &mut Unstructured<'_>, store: &mut Store, states: &mut Vec<Keys>) {
    let revision = store.current_revision() + 1;
    let mut keys = states.last().expect("there is a first state").clone();
    let mut changed = false;
    let mut txn = store.begin();
    for _ in 0..=below(input, 4) {
        let (key, end) = (key(input), range_end(input));
        if one_in(input, 3) {
            let range = KeyRange::new(&key, &end);
            let gone: Vec<Vec<u8>> = keys.keys().filter(|x| is_named(&key, &end, x)).cloned().collect();
            let mut seen = Vec::new();
            let count = txn.delete_range(range, |kv| seen.push(kv.key.to_vec()));
            assert_eq!(seen, gone, "deleting {key:?} {end:?}");
            assert_eq!(count, gone.len() as u64);
            changed |= !gone.is_empty();
            gone.iter().for_each(|key| drop(keys.remove(key)));
        } else if !key.is_empty() {
            let (value, lease) = (bytes(input, 8).to_vec(), i64::from(one_in(input, 4)));
            txn.put(&key, &value, lease);
            let (create, version) = keys.get(&*key).map_or((revision, 0), |old| (old.1, old.3));
            keys.insert(key.to_vec(), (value, create, revision, version + 1, lease));
            changed = true;
        }
        // A transaction reads what it wrote.
        let at = txn.revision();
        assert_eq!(txn.changed(), changed);
        assert_eq!(txn.count(KeyRange::new(&key, &end), at), named(&keys, &key, &end).count() as u64);
    }
    if one_in(input, 5) {
        drop(txn); // leaves no trace
    } else if changed {
        assert_eq!(txn.commit(), revision);
        states.push(keys);
    }
}

fn named<'a>(
    keys: &'a Keys,
    key: &'a [u8],
    range_end: &'a [u8],
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Version)> {
    keys.iter().filter(move |(candidate, _)| is_named(key, range_end, candidate))
}

fn seen(kv: &KeyValueRef<'_>) -> (Vec<u8>, Version) {
    (kv.key.to_vec(), (kv.value.to_vec(), kv.create_revision, kv.mod_revision, kv.version, kv.lease))
}

fn query(input: &mut Unstructured<'_>, store: &Store, states: &[Keys]) {
    let (key, end, probe): (Bytes, Bytes, Bytes) = (key(input), range_end(input), self::key(input));
    let range = KeyRange::new(&key, &end);
    let (current, oldest) = (store.current_revision(), store.compact_revision().max(1));
    assert_eq!(current, i64::try_from(states.len()).expect("a short history"));
    let age = below(input, usize::try_from(current - oldest + 1).expect("a short history"));
    let keys = &states[states.len() - 1 - age];
    let at = current - i64::try_from(age).expect("a short history");

    let candidates = keys.keys().map(Vec::as_slice).chain([&*probe, &*key, &*end]);
    for candidate in candidates {
        let contains = range.contains(candidate);
        assert_eq!(contains, is_named(&key, &end, candidate), "{range:?} and {candidate:?}");
        assert!(!contains || (!range.is_empty() && range.start() <= candidate), "{range:?}, {candidate:?}");
    }
    let expected: Vec<(Vec<u8>, Version)> =
        named(keys, &key, &end).map(|(key, version)| (key.clone(), version.clone())).collect();
    let found: Vec<(Vec<u8>, Version)> = store.scan(range, at).map(|kv| seen(&kv)).collect();
    assert_eq!(found, expected, "{range:?} at {at} of {current}, compacted {oldest}");
    assert_eq!(store.count(range, at), expected.len() as u64, "{range:?} at {at} of {current}");
    let got = store.get(&probe, at).map(|kv| seen(&kv).1);
    assert_eq!(got.as_ref(), keys.get(&*probe), "{probe:?} at {at} of {current}");
    if age == 0 {
        assert_eq!(store.keys_count(), keys.len() as u64);
    }
}
