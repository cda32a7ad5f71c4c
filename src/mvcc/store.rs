//! The store: the revision log and the key index joined, and reads of both.
//!
//! Invariants: a key is in the tree exactly when its newest record is retained, and the tree names
//! that record; a record's `superseded_at` is the main revision of the next version of its key, as far as that is
//! written (`owed`);
//! `compacted <= current`; `head` is `current`, or one more while an open transaction has changes.
//! Cost: see each call; the newest version of a key is reached without touching older ones.

use super::compaction::Compaction;
use super::log::{Log, Records};
use super::memory::TakesMemory;
use super::pin::Pins;
use super::record::{NEWEST, Newest, Record};
use super::tree::{Path, Tree};
use super::{Change, KeyValueRef, WriteTxn};
use crate::types::{KeyRange, Revision};

/// What a key costs in `bytes_in_use` besides its own length: its place in the tree.
pub(super) const KEY_OVERHEAD_BYTES: u64 = 16;

/// All keys, and all versions of them that are not compacted.
#[derive(Debug)]
pub struct Store {
    pub(super) log: Log,
    pub(super) tree: Tree,
    pub(super) current: i64,
    pub(super) head: i64,
    pub(super) compacted: i64,
    pub(super) compaction: Compaction,
    pub(super) pins: Pins,
    /// Encoded length of all records that no compaction has given up.
    pub(super) record_bytes: u64,
    /// What the tree holds: its keys and a fixed overhead for each.
    pub(super) key_bytes: u64,
    pub(super) tallies: Tallies,
}

/// What was written so far, in this process alone; no part of the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Keys put.
    pub puts: u64,
    /// Keys deleted.
    pub deletes: u64,
    /// Bytes of the keys and values put.
    pub put_bytes: u64,
    /// Records that compactions removed.
    pub removed: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl TakesMemory for Store {
    fn wanted_memory(&self) -> (usize, usize) {
        self.log.spares.wanted_memory()
    }

    fn supply_memory(&mut self, piece: Vec<u8>) {
        self.log.spares.supply_memory(piece);
    }
}

impl Store {
    /// An empty store: revision 1, nothing compacted (`compact_revision()` is -1).
    #[must_use]
    pub fn new() -> Self {
        Self {
            // A sequence number is never below its main revision, and the first write is 2.
            log: Log::new(2),
            tree: Tree::new(),
            current: 1,
            head: 1,
            compacted: -1,
            compaction: Compaction::new(-1),
            pins: Pins::default(),
            record_bytes: 0,
            key_bytes: 0,
            tallies: Tallies::default(),
        }
    }

    /// What was written so far.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// Revision of the last committed write.
    #[must_use]
    pub fn current_revision(&self) -> i64 {
        self.current
    }

    /// Oldest readable revision; -1 if nothing was ever compacted.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.compacted
    }

    /// Keys alive at the current revision.
    #[must_use]
    pub fn keys_count(&self) -> u64 {
        self.tree.live_count()
    }

    /// Logical size: all retained versions and keys with what keeping them costs. Falls as
    /// `compact_slice` works through a compaction, so members may differ for a while; nothing that
    /// is applied may depend on it.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        self.record_bytes + self.key_bytes
    }

    /// Memory the versions are kept in, given-up ones that are not yet removed included: what
    /// `Status` shows as the size of the database. O(1).
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.log.held_bytes() + self.key_bytes
    }

    /// The version of `key` visible at revision `at`. At or above the current revision `at` means
    /// the current one; it is not below the compact revision.
    ///
    /// O(log keys); at older revisions plus O(log versions).
    #[must_use]
    pub fn get(&self, key: &[u8], at: i64) -> Option<KeyValueRef<'_>> {
        self.check_readable(at);
        let newest = self.tree.get(key)?;
        self.live_version(newest, at)
    }

    /// Keys of `range` alive at `at`.
    ///
    /// O(log keys) at the current revision. At older ones the cheaper of the number of changes
    /// since `at` and the number of keys in the range: pages of a list that is pinned to a recent
    /// revision stay cheap.
    #[must_use]
    pub fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        self.check_readable(at);
        if range.is_empty() {
            return 0;
        }
        if let KeyRange::One(key) = range {
            return u64::from(self.get(key, at).is_some());
        }
        let now = self.count_now(range);
        if self.head <= at {
            return now;
        }
        let first = self.log.seq_of_revision(at + 1);
        if self.log.next_seq() - first <= now {
            self.count_back(range, at, first, now)
        } else {
            self.scan(range, at).count() as u64
        }
    }

    /// Live keys of a range, with what a write under way has changed. O(log keys).
    #[must_use]
    pub fn count_now(&self, range: KeyRange<'_>) -> u64 {
        match range {
            KeyRange::One(key) => u64::from(self.tree.get(key).is_some_and(Newest::is_live)),
            _ if range.is_empty() => 0,
            KeyRange::Between { start, end } => self.tree.rank(end) - self.tree.rank(start),
            KeyRange::From(start) => self.tree.live_count() - self.tree.rank(start),
        }
    }

    /// The count at `at` out of the count `now`, by undoing what happened from record `first` on.
    fn count_back(&self, range: KeyRange<'_>, at: i64, first: u64, now: u64) -> u64 {
        let (mut appeared, mut vanished) = (0, 0);
        for record in self.log.iter_from(first).filter(|record| range.contains(record.key)) {
            let before = record.links.and_then(|links| self.log.get(links.previous));
            if before.is_some_and(|before| at < before.main) {
                continue; // not the key's first change since `at`
            }
            let was_live = before.is_some_and(|before| !before.tombstone);
            let is_live = self.tree.get(record.key).is_some_and(Newest::is_live);
            appeared += u64::from(is_live && !was_live);
            vanished += u64::from(was_live && !is_live);
        }
        now - appeared + vanished
    }

    /// Live keys of `range` at `at`, in key order.
    ///
    /// O(log keys + items) at the current revision, however many deleted keys lie between. At older
    /// revisions each known key of the range costs O(log versions), whether alive then or not.
    /// Values are in the items by reference only: who does not read them does not pay for them.
    #[must_use]
    pub fn scan<'a>(&'a self, range: KeyRange<'a>, at: i64) -> Scan<'a> {
        self.check_readable(at);
        // The first item is not touched ahead: most scans of one key end there.
        Scan { store: self, path: self.tree.seek(range.start()), range, at, touched: 1 }
    }

    /// Lets revisions pass in which nothing is written here, up to and including `revision`.
    ///
    /// Numbers of records are passed over with them, since none is below its revision.
    pub fn advance_to(&mut self, revision: i64) {
        assert!(self.current <= revision, "revision {revision} is passed already, at {}", self.current);
        assert_eq!(self.head, self.current, "not within a transaction");
        (self.current, self.head) = (revision, revision);
        let next_seq = u64::try_from(revision + 1).expect("revisions are not negative");
        self.log.jump_to(next_seq.max(self.log.next_seq()));
    }

    /// Starts the one write transaction. Dropped without `commit` it leaves no trace.
    pub fn begin(&mut self) -> WriteTxn<'_> {
        assert_eq!(self.head, self.current, "one write at a time");
        WriteTxn::new(self)
    }

    /// All changes from `from` on, in revision order; `from.main` is not below the compact
    /// revision. Of the compact revision itself only what a compaction keeps is there.
    ///
    /// O(log chunks) to start, then O(1) an item.
    #[must_use]
    pub fn changes(&self, from: Revision) -> Changes<'_> {
        self.check_readable(from.main);
        let records = self.log.iter_from(self.log.seq_of(from));
        Changes { store: self, records, compacted: self.compacted, through: self.current }
    }

    /// The same, with those of a transaction that is suspended.
    #[must_use]
    pub fn changes_under_way(&self, from: Revision) -> Changes<'_> {
        Changes { through: self.head, ..self.changes(from) }
    }

    pub(super) fn check_readable(&self, at: i64) {
        assert!(self.compacted <= at, "read at {at}, which is compacted at {}", self.compacted);
    }

    /// The version alive at `at` of the key whose newest record is `newest`.
    #[inline]
    fn live_version(&self, newest: Newest, at: i64) -> Option<KeyValueRef<'_>> {
        if self.head <= at {
            return newest.is_live().then(|| self.log.newest_put(newest));
        }
        self.find_version(newest, at)?.key_value()
    }

    #[inline]
    pub(super) fn newest_record(&self, newest: Newest) -> Record<'_> {
        self.log.newest(newest)
    }

    /// The newest record not above `at`, tombstone or not, of the key whose newest is `newest`.
    ///
    /// A link to a removed record is the end of the chain: what is removed is older than any
    /// readable revision, or it is a tombstone with nothing visible behind it.
    pub(super) fn find_version(&self, newest: Newest, at: i64) -> Option<Record<'_>> {
        let above =
            |link: Option<u64>| link.and_then(|seq| self.log.get(seq)).filter(|record| at < record.main);
        let mut record = self.newest_record(newest);
        let mut near = false;
        while at < record.main {
            let links = record.links?;
            if !near {
                if let Some(further) = above(links.jump).or_else(|| above(links.express)) {
                    record = further;
                    continue;
                }
                // The stop in front is at or below `at`: the answer is among the few before it.
                near = true;
            }
            record = self.log.get(links.previous)?;
        }
        Some(record)
    }

    /// Checks the invariants of the store and its parts. O(records), for tests and simulation.
    pub fn check_invariants(&self) {
        self.tree.check_invariants();
        assert!(self.compacted <= self.current);
        assert_eq!(self.head, self.current, "checked outside of transactions only");
        assert!(self.compaction.done() <= self.compacted);
        let (done, walked) = (self.compaction.done(), self.compaction.walked());
        self.log.check_invariants(|record| match walked {
            // A compaction begins when nothing is owed.
            Some(to) => Some(record.is_dropped_at(to)),
            None if self.compaction.is_idle() => Some(record.is_dropped_at(done)),
            None => None,
        });
        let (mut newest, mut bytes, mut key_bytes) = (0, 0, 0);
        let mut records = self.log.iter_from(0);
        while let Some((record, encoded)) = records.next_with_bytes() {
            let record = self.exact(record);
            assert!(record.main <= self.current);
            if self.compaction.is_idle() && !record.is_dropped_at(done) {
                bytes += encoded.map_or(0, |encoded| encoded.len() as u64);
            }
            if record.superseded_at == NEWEST {
                // A given-up tombstone leaves the tree before it leaves the log.
                let known = self.tree.get(record.key).is_some_and(|newest| newest.is(&record));
                assert!(known || record.is_dropped_at(self.compacted));
                newest += u64::from(known);
                key_bytes += if known { record.key.len() as u64 + KEY_OVERHEAD_BYTES } else { 0 };
            }
            if let Some(before) = record.links.and_then(|links| self.log.get(links.previous)) {
                assert_eq!(before.key, record.key);
                assert_eq!(self.exact(before).superseded_at, record.main);
            }
        }
        assert_eq!(newest, self.tree.entries_count(), "each key of the tree has its record");
        assert_eq!(key_bytes, self.key_bytes);
        let counted = self.record_bytes;
        assert!(!self.compaction.is_idle() || bytes == counted, "{bytes} bytes, {counted} counted");
    }
}

/// Iterator over live keys in key order. See `Store::scan`.
#[derive(Debug, Clone)]
pub struct Scan<'a> {
    store: &'a Store,
    path: Path,
    range: KeyRange<'a>,
    at: i64,
    /// Of the next entries so many are touched already.
    touched: usize,
}

/// Records that a scan fetches side by side.
const AHEAD: usize = 8;

/// Keys that a writer has fetched side by side.
pub const KEYS_AHEAD: usize = 8;

impl Store {
    /// Has the processor fetch what writes of these keys, in their order, will read: each by itself waits for memory
    /// several times. Changes nothing that is read, and does nothing where the keys are few enough to be near.
    pub fn touch_keys<const N: usize>(&mut self, keys: &[&[u8]; N]) {
        if self.tree.is_far() {
            let found = self.tree.touch_next(keys);
            let sum = found.into_iter().flatten().fold(0, |sum, newest| sum ^ self.log.touch(newest));
            // As above.
            std::hint::black_box(sum);
        }
    }

    /// Has the processor fetch the records of the next keys from `path` on. Returns of how many, at least
    /// one.
    pub(super) fn touch_ahead(&self, path: &Path) -> usize {
        let ahead = self.tree.rest_of_leaf(path);
        let ahead = &ahead[..ahead.len().min(AHEAD)];
        let sum = ahead.iter().fold(0_u8, |sum, &newest| sum ^ self.log.touch(newest));
        // The sum means nothing: it only keeps the reads from being optimised away.
        std::hint::black_box(sum);
        ahead.len().max(1)
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = KeyValueRef<'a>;

    fn next(&mut self) -> Option<KeyValueRef<'a>> {
        let current = self.store.head <= self.at;
        loop {
            let (key, newest) = self.store.tree.settle(&mut self.path, current)?;
            if is_past(&self.range, key) {
                return None;
            }
            if self.touched == 0 {
                self.touched = self.store.touch_ahead(&self.path);
            }
            self.touched -= 1;
            Tree::advance(&mut self.path);
            if let Some(version) = self.store.live_version(newest, self.at) {
                return Some(version);
            }
        }
    }
}

/// Whether `key`, which is not below the range's start, lies behind its end.
#[inline]
pub(super) fn is_past(range: &KeyRange<'_>, key: &[u8]) -> bool {
    match *range {
        KeyRange::One(one) => key != one,
        KeyRange::Between { end, .. } => end <= key,
        KeyRange::From(_) => false,
    }
}

/// Iterator over changes in revision order. See `Store::changes`.
#[derive(Debug, Clone)]
pub struct Changes<'a> {
    store: &'a Store,
    records: Records<'a>,
    compacted: i64,
    /// What lies behind it is not committed.
    through: i64,
}

impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        loop {
            let record = self.records.next().filter(|record| record.main <= self.through)?;
            if !self.store.is_dropped(&record, self.compacted) {
                return Some(Change::new(&record));
            }
        }
    }
}
