//! One atomic write: all its changes share one main revision, or none of them ever was.
//!
//! Changes are made in place at once, so the transaction reads its own writes like any others.
//! Taking them back needs no undo log: the records appended since the start say what they replaced.

use super::log::Log;
use super::record::{EXPRESS_STRIDE, Links, NEWEST, PAYLOAD_BYTES_MAX, Record, jump_span};
use super::store::{KEY_OVERHEAD_BYTES, Tallies, is_past};
use super::tree::Tree;
use super::{KeyValueRef, Scan, Store};
use crate::types::{KeyRange, Revision};

/// What a put did besides storing a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub revision: Revision,
    /// The lease of the version it superseded; 0 where that had none, or where the key was not there.
    pub previous_lease: i64,
}

/// An open write transaction. Dropping it takes everything back; `commit` keeps it.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    store: &'a mut Store,
    /// Number of the first record this transaction writes.
    first_seq: u64,
    /// `Store::record_bytes` and `key_bytes` before it.
    bytes_before: (u64, u64),
    tallies: Tallies,
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
        assert!(key.len() + value.len() <= PAYLOAD_BYTES_MAX, "{} + {} bytes", key.len(), value.len());
        let revision = self.next_revision();
        let store = &mut *self.store;
        let seq = store.log.next_seq();
        let (path, newest) = store.tree.find(key);
        let old = newest.map(|newest| store.newest_record(newest));
        let (create_revision, version, previous_lease) = match &old {
            Some(old) if !old.tombstone => (old.create_revision, old.version + 1, old.lease),
            _ => (revision.main, 1, 0),
        };
        let links = old.as_ref().map(|old| links_to(&store.log, old));
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
        Written { revision, previous_lease }
    }

    /// Deletes every live key of `range`, in key order, and returns how many. `deleted` sees each
    /// version just before it goes.
    pub fn delete_range(&mut self, range: KeyRange<'_>, mut deleted: impl FnMut(KeyValueRef<'_>)) -> u64 {
        let mut count = 0;
        let mut path = self.store.tree.seek(range.start());
        loop {
            let revision = self.next_revision();
            let Store { tree, log, .. } = &mut *self.store;
            let Some((key, newest)) = tree.settle(&mut path, true) else { break };
            if is_past(&range, key) {
                break;
            }
            let old = log.newest(newest);
            deleted(old.key_value().expect("a live key's newest record is a put"));
            let links = links_to(log, &old);
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
                key,
                value: &[],
            });
            log.set_superseded_at(newest, revision.main);
            tree.set(&path, written);
            Tree::advance(&mut path);
            self.store.record_bytes += length as u64;
            self.store.head = revision.main;
            count += 1;
        }
        self.tallies.deletes += count;
        count
    }

    fn next_revision(&self) -> Revision {
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
            let record = store.log.get(seq).expect("the transaction's own records are there");
            let (path, newest) = store.tree.find(record.key);
            assert!(newest.is_some_and(|newest| newest.is(&record)), "changes go back newest first");
            if let Some(links) = record.links {
                let before = store.log.newest_of(links.previous).expect("what was superseded is retained");
                store.tree.set(&path, before);
                store.log.set_superseded_at(before, NEWEST);
            } else {
                store.tree.remove(&path);
            }
        }
        store.log.truncate(self.first_seq);
        (store.record_bytes, store.key_bytes) = self.bytes_before;
        store.head = store.current;
    }
}

/// The links of a version that follows `old`.
fn links_to(log: &Log, old: &Record<'_>) -> Links {
    let old_depth = old.links.map_or(0, |links| links.depth);
    let depth = old_depth + 1;
    let express = if old_depth.is_multiple_of(EXPRESS_STRIDE) {
        Some(old.seq)
    } else {
        old.links.and_then(|links| links.express)
    };
    let jump_of = |seq: u64| log.get(seq)?.links?.jump;
    let jump = if !depth.is_multiple_of(EXPRESS_STRIDE) {
        None
    } else if jump_span(depth / EXPRESS_STRIDE) == 1 {
        express
    } else {
        express.and_then(jump_of).and_then(jump_of)
    };
    Links { previous: old.seq, depth, express, jump }
}
