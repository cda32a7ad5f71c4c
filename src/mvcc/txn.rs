//! One atomic write: all its changes share one main revision, or none of them ever was.
//!
//! Changes are made in place at once, so the transaction reads its own writes like any others.
//! Taking them back needs no undo log: the records appended since the start say what they replaced.
//!
//! A large write is made in slices. Between two of them the transaction is *suspended*: the store's current
//! revision is the one before it, and a read at that sees nothing of it, as a read of any older revision sees
//! nothing of what came later. Meanwhile nothing else is written, nothing is compacted and no checkpoint begins.

use super::record::{NEWEST, PAYLOAD_BYTES_MAX, Record};
use super::store::{KEY_OVERHEAD_BYTES, Tallies, is_past};
use super::tree::Tree;
use super::{Cursor, KeyValueRef, Mark, Scan, Store};
use crate::types::{KeyRange, Revision, Slice};

/// What a put did besides storing a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub revision: Revision,
    /// The lease of the version it superseded; 0 where that had none, or where the key was not there.
    pub previous_lease: i64,
    /// The revision of that version if it had an expiry; else 0.
    pub previous_expiring: i64,
}

/// An open write transaction. Dropping it takes everything back; `commit` keeps it.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    pub(super) store: &'a mut Store,
    /// Number of the first record this transaction writes.
    first_seq: u64,
    /// `Store::record_bytes` and `key_bytes` before it.
    bytes_before: (u64, u64),
    /// `Store::tallies` with what it has written.
    pub(super) tallies: Tallies,
}

/// A write transaction between two slices. It must be resumed, or rolled back to its end.
#[derive(Debug)]
#[must_use = "the store takes no other write until it is over"]
pub struct Suspended {
    first_seq: u64,
    bytes_before: (u64, u64),
    tallies: Tallies,
    /// While it is rolled back: records from this one on are taken back.
    undone_seq: Option<u64>,
}

impl Store {
    /// Goes on with a transaction.
    pub fn resume(&mut self, suspended: Suspended) -> WriteTxn<'_> {
        let Suspended { first_seq, bytes_before, tallies, undone_seq } = suspended;
        assert!(undone_seq.is_none(), "what is being rolled back does not go on");
        WriteTxn { store: self, first_seq, bytes_before, tallies }
    }

    /// Whether a transaction is suspended that has written something.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.head != self.current
    }

    /// Takes a transaction back, slice by slice. True when it never was.
    pub fn roll_back_slice(&mut self, suspended: &mut Suspended, slice: &mut Slice) -> bool {
        let first_seq = suspended.first_seq;
        let next = suspended.undone_seq.get_or_insert(self.log.next_seq());
        while first_seq < *next {
            if slice.is_spent() {
                return false;
            }
            slice.spend_key();
            *next -= 1;
            self.undo(*next);
        }
        self.end_undo(first_seq, suspended.bytes_before);
        true
    }

    /// Makes the version that record `seq` superseded the newest of its key again.
    fn undo(&mut self, seq: u64) {
        let record = self.log.get(seq).expect("the transaction's own records are there");
        let (path, newest) = self.tree.find(record.key);
        assert!(newest.is_some_and(|newest| newest.is(&record)), "changes go back newest first");
        if let Some(links) = record.links {
            let before = self.log.newest_of(links.previous).expect("what was superseded is retained");
            self.tree.set(&path, before);
            self.log.set_superseded_at(before, NEWEST);
        } else {
            self.tree.remove(&path);
        }
    }

    fn end_undo(&mut self, first_seq: u64, bytes_before: (u64, u64)) {
        self.log.truncate(first_seq);
        (self.record_bytes, self.key_bytes) = bytes_before;
        self.head = self.current;
    }
}

impl<'a> WriteTxn<'a> {
    pub(super) fn new(store: &'a mut Store) -> Self {
        let tallies = store.tallies;
        Self {
            first_seq: store.log.next_seq(),
            bytes_before: (store.record_bytes, store.key_bytes),
            tallies,
            store,
        }
    }
}

impl WriteTxn<'_> {
    /// Writes a new version of `key`. The lease is only kept beside the value: 0 is none.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) -> Written {
        self.put_marked(key, value, lease, Mark::default())
    }

    /// The same with what the v2 API tells of it.
    pub fn put_marked(&mut self, key: &[u8], value: &[u8], lease: i64, mark: Mark) -> Written {
        assert!(key.len() + value.len() <= PAYLOAD_BYTES_MAX, "{} + {} bytes", key.len(), value.len());
        let revision = self.next_revision();
        let store = &mut *self.store;
        let seq = store.log.next_seq();
        let (path, newest) = store.tree.find_next(key);
        let old = newest.map(|newest| store.newest_record(newest));
        let (create_revision, version, previous_lease, previous_expiring) = match &old {
            Some(old) if !old.tombstone => {
                let expiring = if old.mark.expiry.is_some() { old.main } else { 0 };
                (old.create_revision, old.version + 1, old.lease, expiring)
            }
            _ => (revision.main, 1, 0, 0),
        };
        let links = old.as_ref().map(|old| store.log.links_to(old));
        let (written, length) = store.log.append(&Record {
            seq,
            main: revision.main,
            sub: revision.sub,
            superseded_at: NEWEST,
            tombstone: false,
            links,
            create_revision,
            version,
            lease,
            mark,
            key,
            value,
        });
        if let Some(newest) = newest {
            store.log.set_superseded_at(newest, revision.main);
            store.tree.set(&path, written);
        } else {
            store.tree.insert(&path, key, written);
            store.key_bytes += key.len() as u64 + KEY_OVERHEAD_BYTES;
        }
        store.record_bytes += length as u64;
        store.head = revision.main;
        self.tallies.puts += 1;
        self.tallies.put_bytes += (key.len() + value.len()) as u64;
        Written { revision, previous_lease, previous_expiring }
    }

    /// Deletes every live key of `range`, in key order, and returns how many. `deleted` sees each
    /// version just before it goes.
    pub fn delete_range(&mut self, range: KeyRange<'_>, deleted: impl FnMut(KeyValueRef<'_>)) -> u64 {
        self.delete_marked(range, Mark::default(), deleted)
    }

    /// The same with what the v2 API tells of it.
    pub fn delete_marked(
        &mut self,
        range: KeyRange<'_>,
        mark: Mark,
        deleted: impl FnMut(KeyValueRef<'_>),
    ) -> u64 {
        let mut slice = Slice::unbounded();
        let (count, is_done) = self.delete_slice(range, mark, &mut Cursor::default(), &mut slice, deleted);
        assert!(is_done, "a slice without a bound is not spent");
        count
    }

    /// Deletes on behind `cursor` until the slice is spent. Returns how many keys, and whether they were the last.
    pub fn delete_slice(
        &mut self,
        range: KeyRange<'_>,
        mark: Mark,
        cursor: &mut Cursor,
        slice: &mut Slice,
        mut deleted: impl FnMut(KeyValueRef<'_>),
    ) -> (u64, bool) {
        let mut count = 0;
        // What was deleted is passed over, so the cursor may stand at a key that is gone already.
        let mut path = self.store.tree.seek(cursor.last().unwrap_or(range.start()));
        let mut touched = if matches!(range, KeyRange::One(_)) { usize::MAX } else { 0 };
        let is_done = loop {
            let revision = self.next_revision();
            if touched == 0 {
                touched = self.store.touch_ahead(&path);
            }
            touched -= 1;
            let Store { tree, log, .. } = &mut *self.store;
            let Some((key, newest)) = tree.settle(&mut path, true) else { break true };
            if is_past(&range, key) {
                break true;
            }
            if slice.is_spent() {
                cursor.set(key);
                break false;
            }
            slice.spend_key();
            let old = log.newest(newest);
            deleted(old.key_value().expect("a live key's newest record is a put"));
            let links = log.links_to(&old);
            let seq = log.next_seq();
            let (written, length) = log.append(&Record {
                seq,
                main: revision.main,
                sub: revision.sub,
                superseded_at: NEWEST,
                tombstone: true,
                links: Some(links),
                create_revision: 0,
                version: 0,
                lease: 0,
                mark,
                key,
                value: &[],
            });
            log.set_superseded_at(newest, revision.main);
            tree.set(&path, written);
            Tree::advance(&mut path);
            self.store.record_bytes += length as u64;
            self.store.head = revision.main;
            count += 1;
        };
        self.tallies.deletes += count;
        (count, is_done)
    }

    /// Stops between two slices.
    pub fn suspend(self) -> Suspended {
        let Self { first_seq, bytes_before, tallies, .. } = self;
        let suspended = Suspended { first_seq, bytes_before, tallies, undone_seq: None };
        // It is not taken back: it goes on.
        std::mem::forget(self);
        suspended
    }

    /// The store with what the transaction has written so far. Reads at `revision()` see it.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }

    pub(super) fn next_revision(&self) -> Revision {
        let sub = self.store.log.next_seq() - self.first_seq;
        let sub = i64::try_from(sub).expect("far fewer than 2^63 changes");
        Revision::new(self.store.current + 1, sub)
    }

    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.store.head != self.store.current
    }

    /// What a read inside the transaction sees: the revision before it, or that plus one once
    /// something was written. Pass it as `at` to read the transaction's own state.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.store.head
    }

    /// The revision before the transaction. Passed as `at` it reads the state before it, even after
    /// writes (then as any older revision: `count` and `scan` cost accordingly).
    #[must_use]
    pub fn base_revision(&self) -> i64 {
        self.store.current
    }

    /// As `Store::compact_revision`.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.store.compacted
    }

    /// As `Store::get`; `at` may be `revision()`.
    #[must_use]
    pub fn get(&self, key: &[u8], at: i64) -> Option<KeyValueRef<'_>> {
        self.store.get(key, at)
    }

    /// As `Store::count`; `at` may be `revision()`.
    #[must_use]
    pub fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        self.store.count(range, at)
    }

    /// As `Store::scan`; `at` may be `revision()`.
    #[must_use]
    pub fn scan<'b>(&'b self, range: KeyRange<'b>, at: i64) -> Scan<'b> {
        self.store.scan(range, at)
    }

    /// Keeps the changes. Returns the store's revision, which is one more if there were any.
    pub fn commit(self) -> i64 {
        self.store.current = self.store.head;
        self.store.tallies = self.tallies;
        self.store.current
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        let store = &mut *self.store;
        if store.head == store.current {
            return; // committed, or nothing was written
        }
        for seq in (self.first_seq..store.log.next_seq()).rev() {
            store.undo(seq);
        }
        store.end_undo(self.first_seq, self.bytes_before);
    }
}
