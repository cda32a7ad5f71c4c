//! The store against a model that keeps every version of every key for ever in plain maps.
//!
//! Each seed draws a shape (how many keys, how long, how much of what) and then operations:
//! transactions with their own reads, kept or taken back; reads, counts and scans at random
//! revisions; changes; hashes; compactions, with slices of removal in between; checkpoints written
//! while all this goes on, restored and compared. Deletions may owe their records for a while, a short one or a long
//! one, and nothing may tell. `PINION_MODEL_OPS` sets the number of operations,
//! `PINION_MODEL_SEED` replays one seed.

use std::collections::BTreeMap;

use prost::Message;

use super::{Random, checkpoint_of, restored};
use crate::mvcc::{CheckpointCursor, Cursor, KeyValueRef, Mark, Restore, Store, WriteTxn};
use crate::pb::mvccpb;
use crate::types::limits::{BURY_NS, KEY_NS, SETTLE_NS};
use crate::types::{KeyRange, Revision, Slice};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Put {
    value: Vec<u8>,
    create: i64,
    version: i64,
    lease: i64,
}

#[derive(Debug, Clone)]
struct Version {
    revision: Revision,
    put: Option<Put>,
}

/// Every version ever; nothing is forgotten at a compaction.
struct Model {
    keys: BTreeMap<Vec<u8>, Vec<Version>>,
    /// Key and index of its version, in revision order.
    events: Vec<(Vec<u8>, usize)>,
    current: i64,
    compacted: i64,
}

/// What a reader sees of one version.
type Seen = (Vec<u8>, Revision, Put);

fn seen(version: KeyValueRef<'_>) -> Seen {
    let put = Put {
        value: version.value.to_vec(),
        create: version.create_revision,
        version: version.version,
        lease: version.lease,
    };
    (version.key.to_vec(), Revision::new(version.mod_revision, version.sub), put)
}

impl Model {
    fn new() -> Self {
        Self { keys: BTreeMap::new(), events: Vec::new(), current: 1, compacted: -1 }
    }

    fn at(versions: &[Version], at: i64) -> Option<&Version> {
        versions[..versions.partition_point(|version| version.revision.main <= at)].last()
    }

    fn get(&self, key: &[u8], at: i64) -> Option<Seen> {
        let version = Self::at(self.keys.get(key)?, at)?;
        version.put.clone().map(|put| (key.to_vec(), version.revision, put))
    }

    fn scan(&self, range: KeyRange<'_>, at: i64) -> Vec<Seen> {
        let from = self.keys.range(range.start().to_vec()..);
        let within = from.take_while(|(key, _)| range.contains(key));
        within
            .filter_map(|(key, versions)| {
                let version = Self::at(versions, at)?;
                version.put.clone().map(|put| (key.clone(), version.revision, put))
            })
            .collect()
    }

    fn write(&mut self, key: &[u8], revision: Revision, put: Option<(&[u8], i64)>) {
        let versions = self.keys.entry(key.to_vec()).or_default();
        let put = put.map(|(value, lease)| {
            let (create, version) = match versions.last().and_then(|version| version.put.as_ref()) {
                Some(before) => (before.create, before.version + 1),
                None => (revision.main, 1),
            };
            Put { value: value.to_vec(), create, version, lease }
        });
        versions.push(Version { revision, put });
        self.events.push((key.to_vec(), versions.len() - 1));
    }

    fn roll_back(&mut self, events_before: usize) {
        while events_before < self.events.len() {
            let (key, _) = self.events.pop().unwrap();
            let versions = self.keys.get_mut(&key).unwrap();
            versions.pop();
            if versions.is_empty() {
                self.keys.remove(&key);
            }
        }
    }

    /// Whether the rule of compaction at `compacted` keeps this version.
    fn is_kept(&self, key: &[u8], index: usize, compacted: i64) -> bool {
        let versions = &self.keys[key];
        let version = &versions[index];
        if compacted < version.revision.main {
            return true;
        }
        let newest = versions.get(index + 1).is_none_or(|next| compacted < next.revision.main);
        newest && (version.put.is_some() || version.revision.main == compacted)
    }

    fn changes(&self, from: Revision) -> Vec<(Revision, Vec<u8>, Option<Put>)> {
        let mut changes = Vec::new();
        let first = self.events.partition_point(|(key, index)| self.keys[key][*index].revision < from);
        for (key, index) in &self.events[first..] {
            if self.is_kept(key, *index, self.compacted) {
                let version = &self.keys[key][*index];
                changes.push((version.revision, key.clone(), version.put.clone()));
            }
        }
        changes
    }

    /// etcd's rule told from its side: the versions that a compaction at `revision` would keep,
    /// tombstones excepted, decide what counts below the compact revision; an empty set of them
    /// decides nothing.
    fn hash(&self, revision: i64) -> u32 {
        let alive = |key: &[u8], index: usize| {
            self.keys[key][index].put.is_some() && self.is_kept(key, index, revision)
        };
        let stored: Vec<_> = self
            .events
            .iter()
            .filter(|(key, index)| self.keys[key][*index].revision.main <= revision)
            .filter(|(key, index)| self.is_kept(key, *index, self.compacted))
            .collect();
        let none_alive = !stored.iter().any(|(key, index)| alive(key, *index));
        let mut bytes = b"key".to_vec();
        for (key, index) in stored {
            let version = &self.keys[key][*index];
            if version.revision.main <= self.compacted && !none_alive && !alive(key, *index) {
                continue;
            }
            bytes.extend(version.revision.main.to_be_bytes());
            bytes.push(b'_');
            bytes.extend(version.revision.sub.to_be_bytes());
            let mut message = mvccpb::KeyValue { key: key.clone().into(), ..Default::default() };
            match &version.put {
                Some(put) => {
                    message.create_revision = put.create;
                    message.mod_revision = version.revision.main;
                    message.version = put.version;
                    message.value = put.value.clone().into();
                    message.lease = put.lease;
                }
                None => bytes.push(b't'),
            }
            bytes.extend(message.encode_to_vec());
        }
        crc32c_bit_by_bit(&bytes)
    }
}

fn crc32c_bit_by_bit(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

/// How one seed differs from another.
struct Shape {
    keys: u64,
    key_padding: usize,
    value_bytes: usize,
    delete_one_in: u64,
    compact_one_in: u64,
    slice_steps: usize,
    /// How often records that are owed are written, and how many.
    settle_one_in: u64,
    settle_records: u64,
}

impl Shape {
    fn draw(random: &mut Random) -> Self {
        Self {
            keys: [3, 40, 700, 6_000][random.index(4)],
            key_padding: [0, 0, 20, 300][random.index(4)],
            value_bytes: [0, 20, 300, 3_000][random.index(4)],
            delete_one_in: [2, 5, 30][random.index(3)],
            compact_one_in: [15, 60, 400][random.index(3)],
            slice_steps: [1, 20, 700, 1_000_000][random.index(4)],
            settle_one_in: [2, 10, 200][random.index(3)],
            settle_records: [1, 30, 5_000][random.index(3)],
        }
    }

    fn key(&self, random: &mut Random) -> Vec<u8> {
        // A third of the draws take one of few keys, so that some have long histories.
        let number = if random.one_in(3) { random.below(self.keys.min(4)) } else { random.below(self.keys) };
        let mut key = format!("/{}/", number % 7).into_bytes();
        key.resize(key.len() + self.key_padding, b'p');
        key.extend_from_slice(format!("{number}").as_bytes());
        key
    }

    fn value(&self, random: &mut Random) -> Vec<u8> {
        let bytes = match random.below(2_000) {
            0 => 300_000, // larger than a chunk
            _ => random.index(self.value_bytes + 1),
        };
        vec![b'a' + u8::try_from(random.below(26)).unwrap(); bytes]
    }

    /// Two keys that `range` makes a range of.
    fn bounds(&self, random: &mut Random) -> (Vec<u8>, Vec<u8>) {
        let start = if random.one_in(8) { vec![0] } else { self.key(random) };
        let end = match random.below(6) {
            0 => Vec::new(),
            1 => vec![0],
            2 => vec![b'/', b'3'],
            _ => self.key(random),
        };
        (start, end)
    }
}

/// A checkpoint being written, and what the model knew when it began.
struct Running {
    cursor: CheckpointCursor,
    restore: Restore,
    revision: i64,
    compacted: i64,
    events: usize,
}

struct Run {
    store: Store,
    model: Model,
    random: Random,
    shape: Shape,
    running: Option<Running>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let shape = Shape::draw(&mut random);
        Self { store: Store::new(), model: Model::new(), random, shape, running: None }
    }

    fn step(&mut self) {
        match self.random.below(10) {
            0..=5 => self.transaction(),
            6 | 7 => self.read(),
            8 => self.look_at_history(),
            _ => self.checkpoint(),
        }
        if self.random.one_in(self.shape.compact_one_in) {
            self.compact();
        }
        if self.random.one_in(self.shape.settle_one_in) {
            self.store.settle_slice(&mut Slice::of(self.shape.settle_records * SETTLE_NS));
        }
        // It settles first.
        if self.random.one_in(self.shape.settle_one_in.max(3)) {
            let held = self.store.compact_slice(self.shape.slice_steps);
            assert!(!held || self.running.is_some() || !self.store.is_compacting());
        }
        assert_eq!(self.store.current_revision(), self.model.current);
        assert_eq!(self.store.compact_revision(), self.model.compacted);
    }

    fn transaction(&mut self) {
        let Self { store, model, random, shape, .. } = self;
        let (events_before, bytes_before) = (model.events.len(), store.bytes_in_use());
        let dump_before = (random.one_in(40)).then(|| dump(store));
        let mut txn = store.begin();
        for _ in 0..=random.below(4) {
            let sub = i64::try_from(model.events.len() - events_before).unwrap();
            if random.one_in(shape.delete_one_in) {
                delete_range(&mut txn, model, random, shape, events_before);
            } else {
                let (key, value) = (shape.key(random), shape.value(random));
                let lease = [0, 0, 7, -3, i64::MAX][random.index(5)];
                let revision = txn.put(&key, &value, lease).revision;
                assert_eq!(revision, Revision::new(model.current + 1, sub));
                model.write(&key, revision, Some((&value, lease)));
            }
            let at = txn.revision();
            assert_eq!(at, model.current + i64::from(events_before < model.events.len()));
            if !random.one_in(4) {
                continue;
            }
            let (start, end) = shape.bounds(random);
            let range = KeyRange::new(&start, &end);
            let expected = model.scan(range, at);
            assert_eq!(txn.count(range, at), expected.len() as u64);
            assert_eq!(txn.scan(range, at).map(seen).collect::<Vec<_>>(), expected);
            let before = model.scan(range, model.current);
            assert_eq!(txn.count(range, txn.base_revision()), before.len() as u64);
            assert_eq!(txn.scan(range, txn.base_revision()).map(seen).collect::<Vec<_>>(), before);
            assert_eq!(txn.get(&start, at).map(seen), model.get(&start, at));
        }
        assert_eq!(txn.changed(), events_before < model.events.len());
        if random.one_in(4) {
            drop(txn);
            model.roll_back(events_before);
            assert_eq!(store.bytes_in_use(), bytes_before);
            if let Some(before) = dump_before {
                assert_eq!(dump(store), before, "a transaction taken back leaves no trace");
                store.check_invariants();
            }
        } else {
            model.current += i64::from(txn.changed());
            assert_eq!(txn.commit(), model.current);
        }
    }

    fn revision(&mut self) -> i64 {
        let (low, high) = (self.model.compacted, self.model.current);
        if self.random.one_in(3) { high } else { self.random.between(low, high) }
    }

    fn read(&mut self) {
        let at = self.revision();
        let (start, end) = self.shape.bounds(&mut self.random);
        let range = KeyRange::new(&start, &end);
        let expected = self.model.scan(range, at);
        assert_eq!(self.store.count(range, at), expected.len() as u64, "count of {range:?} at {at}");
        assert_eq!(self.store.scan(range, at).map(seen).collect::<Vec<_>>(), expected, "{range:?} at {at}");
        assert_eq!(self.store.get(&start, at).map(seen), self.model.get(&start, at), "{start:?} at {at}");
        let all = KeyRange::From(b"");
        assert_eq!(self.store.keys_count(), self.store.count(all, self.model.current));
    }

    fn look_at_history(&mut self) {
        let main = self.revision();
        if self.random.one_in(2) {
            let from = Revision::new(main, self.random.between(0, 2));
            compare_changes(&self.store, &self.model, from);
            let (key, _) = self.shape.bounds(&mut self.random);
            compare_changes_of(&self.store, &self.model, &key, main);
        } else if self.random.one_in(30) {
            let mut cursor = self.store.begin_hash(main);
            let keys = 1 + self.random.index(1_000) as u64;
            let hash = loop {
                let mut slice = Slice::of(keys * KEY_NS);
                if let Some(hash) = self.store.hash_slice(&mut cursor, &mut slice).unwrap() {
                    break hash;
                }
            };
            assert_eq!(hash.hash, self.model.hash(main), "hash at {main}");
            assert_eq!((hash.compact_revision, hash.hash_revision), (self.model.compacted, main));
        }
    }

    fn compact(&mut self) {
        if self.model.compacted < self.model.current {
            let to = self.random.between(self.model.compacted + 1, self.model.current);
            self.store.compact(to);
            self.model.compacted = to;
        }
    }

    fn checkpoint(&mut self) {
        let Some(mut running) = self.running.take() else {
            if self.random.one_in(40) {
                // Without writes in between the restored store takes over.
                let blocks = checkpoint_of(&mut self.store, 1 + self.random.index(100_000));
                self.store = restored(&blocks).unwrap();
                self.store.check_invariants();
            } else if self.random.one_in(4) {
                let cursor = self.store.begin_checkpoint();
                self.running = Some(Running {
                    cursor,
                    restore: Restore::new(),
                    revision: self.model.current,
                    compacted: self.model.compacted,
                    events: self.model.events.len(),
                });
            }
            return;
        };
        if self.random.one_in(100) {
            return self.store.end_checkpoint(running.cursor); // abandoned
        }
        for _ in 0..self.random.below(30) {
            let mut block = Vec::new();
            let bytes = 1 + self.random.index(20_000);
            let done = self.store.checkpoint_slice(&mut running.cursor, bytes, &mut block);
            running.restore.feed(&block).unwrap();
            if done {
                self.store.end_checkpoint(running.cursor);
                let store = running.restore.finish().unwrap();
                return self.compare_restored(&store, running.revision, running.compacted, running.events);
            }
        }
        self.running = Some(running);
    }

    /// Holds a restored store against the model as it was when the checkpoint began.
    fn compare_restored(&mut self, store: &Store, revision: i64, compacted: i64, events: usize) {
        store.check_invariants();
        assert_eq!((store.current_revision(), store.compact_revision()), (revision, compacted));
        let mut model = Model::new();
        for (key, index) in &self.model.events[..events] {
            let version = &self.model.keys[key][*index];
            let put = version.put.as_ref().map(|put| (put.value.as_slice(), put.lease));
            model.write(key, version.revision, put);
        }
        (model.current, model.compacted) = (revision, compacted);
        for _ in 0..4 {
            let at = self.random.between(compacted, revision);
            let all = KeyRange::From(b"");
            assert_eq!(store.scan(all, at).map(seen).collect::<Vec<_>>(), model.scan(all, at), "at {at}");
        }
        compare_changes(store, &model, Revision::new(compacted, 0));
        assert_eq!(store.hash_kv(revision).hash, model.hash(revision));
    }
}

fn delete_range(
    txn: &mut WriteTxn<'_>,
    model: &mut Model,
    random: &mut Random,
    shape: &Shape,
    events_before: usize,
) {
    let (start, end) = match random.below(12) {
        0 => (b"/1".to_vec(), b"/2".to_vec()),
        1 => shape.bounds(random),
        _ => (shape.key(random), Vec::new()),
    };
    let range = KeyRange::new(&start, &end);
    let expected = model.scan(range, txn.revision());
    let mut deleted = Vec::new();
    let count = match random.below(3) {
        0 => {
            let count = txn.delete_range(range, |version| deleted.push(seen(version)));
            assert_eq!(deleted, expected);
            count
        }
        1 => {
            let count =
                bury_range(txn, random, range, Some(|version: KeyValueRef<'_>| deleted.push(seen(version))));
            assert_eq!(deleted, expected);
            count
        }
        _ => bury_range(txn, random, range, None::<fn(KeyValueRef<'_>)>),
    };
    assert_eq!(count, expected.len() as u64);
    for (key, _, _) in &expected {
        let sub = i64::try_from(model.events.len() - events_before).unwrap();
        model.write(key, Revision::new(model.current + 1, sub), None);
    }
}

/// Deletes a range in slices, and owes the records.
fn bury_range(
    txn: &mut WriteTxn<'_>,
    random: &mut Random,
    range: KeyRange<'_>,
    mut deleted: Option<impl FnMut(KeyValueRef<'_>)>,
) -> u64 {
    let (mut cursor, mut count, mark) = (Cursor::default(), 0, Mark::default());
    loop {
        let mut slice = Slice::of(BURY_NS * (1 + random.below(300)));
        let (now, is_done) = txn.bury_slice(range, mark, &mut cursor, &mut slice, deleted.as_mut());
        count += now;
        if is_done {
            return count;
        }
        assert!(0 < now, "a slice without a deletion");
    }
}

fn compare_changes(store: &Store, model: &Model, from: Revision) {
    let changes = store.changes(from).map(|change| {
        let put = change.put.map(|put| {
            let (key, revision, put) = seen(put);
            assert_eq!((key.as_slice(), revision), (change.key, change.revision));
            put
        });
        (change.revision, change.key.to_vec(), put)
    });
    assert_eq!(changes.collect::<Vec<_>>(), model.changes(from), "changes from {from:?}");
}

/// One key's changes as all changes tell them, and the version before each.
fn compare_changes_of(store: &Store, model: &Model, key: &[u8], from: i64) {
    let of_key = store.changes_of(key, from);
    let count_max = of_key.count_max();
    let expected: Vec<_> = store.changes(Revision::new(from, 0)).filter(|change| change.key == key).collect();
    assert_eq!(of_key.collect::<Vec<_>>(), expected, "changes of {key:?} from {from}");
    let expected_count = expected.len() as u64;
    assert!(expected_count <= count_max, "{count_max} at most, {expected_count} in fact");
    assert!(count_max == expected_count || from == store.compact_revision());
    let all_count = store.changes(Revision::new(from, 0)).count() as u64;
    assert!(all_count <= store.changes_count_max(from));
    for change in expected.iter().filter(|change| store.compact_revision() < change.revision.main) {
        let before = store.version_before(change).map(seen);
        assert_eq!(before, model.get(key, change.revision.main - 1), "before {change:?}");
    }
}

/// Everything a reader can tell of a store.
fn dump(store: &Store) -> (i64, i64, u64, Vec<Seen>, String) {
    let at = Revision::new(store.compact_revision(), 0);
    let changes = store.changes(at).map(|change| format!("{change:?}\n")).collect();
    let live = store.scan(KeyRange::From(b""), i64::MAX).map(seen).collect();
    (store.current_revision(), store.compact_revision(), store.keys_count(), live, changes)
}

fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob, not configuration")]
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn a_store_loaded_in_bulk_equals_the_one_that_was_written_key_by_key() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let mut run = Run::new(1_000 + seed);
        for _ in 0..1_000 {
            run.step();
        }
        if let Some(running) = run.running.take() {
            run.store.end_checkpoint(running.cursor);
        }
        while !run.store.compact_slice(10_000) {}
        // Small blocks, so that leaves of the index end where blocks do, too.
        let bytes_max = 1 + run.random.index(2_000);
        let mut store = restored(&checkpoint_of(&mut run.store, bytes_max)).unwrap();
        store.check_invariants();
        assert_eq!(dump(&store), dump(&run.store));
        for _ in 0..20 {
            let (low, high) = (store.compact_revision().max(1), store.current_revision());
            let at = run.random.between(low, high);
            assert_eq!(store.hash_kv(at), run.store.hash_kv(at), "hash at {at}");
            let all = KeyRange::From(b"");
            let (mine, theirs) = (store.scan(all, at).map(seen), run.store.scan(all, at).map(seen));
            assert!(mine.eq(theirs), "keys at {at}");
        }
        // They go on alike.
        for number in 0..50_u64 {
            let (key, kept) = (run.random.below(60).to_string(), number % 2 == 0);
            for store in [&mut store, &mut run.store] {
                let mut txn = store.begin();
                if kept {
                    txn.put(key.as_bytes(), b"later", 0);
                } else {
                    txn.delete_range(KeyRange::new(key.as_bytes(), b"5"), |_| {});
                }
                txn.commit();
            }
        }
        assert_eq!(dump(&store), dump(&run.store));
        let current = store.current_revision();
        for store in [&mut store, &mut run.store] {
            store.compact(current);
            while !store.compact_slice(10_000) {}
            store.check_invariants();
        }
        assert_eq!(dump(&store), dump(&run.store));
        assert_eq!(store.hash_kv(current), run.store.hash_kv(current));
    }
}

#[test]
fn store_behaves_like_a_map_per_revision() {
    let ops = setting("PINION_MODEL_OPS").unwrap_or(20_000);
    let only = setting("PINION_MODEL_SEED");
    // Shapes differ by seed, so many short runs see more than one long one; but histories must get
    // long enough for several levels of the tree and many chunks.
    let ops_of_seed = (ops / 8).clamp(1, 20_000);
    let seeds = if let Some(seed) = only { seed..seed + 1 } else { 1..ops.div_ceil(ops_of_seed) + 1 };
    let (mut done, mut changes) = (0, 0);
    for seed in seeds {
        println!(
            "replay: PINION_MODEL_SEED={seed} PINION_MODEL_OPS={ops} cargo test --lib mvcc::tests::model"
        );
        let mut run = Run::new(seed);
        for step in 0..ops_of_seed {
            run.step();
            if step % (ops_of_seed / 8).max(1) == 0 {
                run.store.check_invariants();
            }
        }
        if let Some(running) = run.running.take() {
            run.store.end_checkpoint(running.cursor);
        }
        while !run.store.compact_slice(10_000) {}
        run.store.check_invariants();
        assert!(!run.store.is_compacting());
        done += ops_of_seed;
        changes += run.model.events.len();
    }
    println!("{done} operations, {changes} changes: no difference");
}
