//! Deletions that owe their records (`owed`), and the writing of those.
//!
//! Cost: a deletion in a range a few nanoseconds, since neighbours lie side by side in the index; to write its record as
//! much as a deletion at once.

use super::log::{CHUNK_BYTES, Chunk, Log};
use super::owed::{OWED_MAX, Owed};
use super::record::{NEWEST, Newest, Record};
use super::store::is_past;
use super::{Cursor, KEYS_AHEAD, KeyValueRef, Mark, Store, WriteTxn};
use crate::types::limits::{BURY_NS, SETTLE_NS};
use crate::types::{KeyRange, Revision, Slice};

/// Versions that are fetched side by side.
const AHEAD: usize = 32;

impl Log {
    /// Numbers a deletion of the version `superseded`, whose record is to be written later.
    #[inline]
    fn owe(&mut self, revision: Revision, mark: Mark, superseded: Newest) -> Newest {
        let seq = self.next_seq;
        let last = self.chunks.last_mut().and_then(|chunk| chunk.owed.as_mut());
        match last {
            Some(owed) if (owed.main, owed.mark) == (revision.main, mark) && owed.count() < OWED_MAX => {
                owed.superseded.push(superseded);
            }
            _ => {
                self.seal();
                let mut owed = Box::new(Owed::new(revision, mark));
                owed.superseded.push(superseded);
                let chunk = Box::new(Chunk::of_owed(seq, owed));
                self.sealed_held_bytes += chunk.held_bytes();
                self.chunks.push(chunk);
                self.firsts.push(seq);
                self.owed.push_back(seq);
            }
        }
        self.owed_records += 1;
        self.next_seq += 1;
        Newest::new(seq, 0, true)
    }

    /// Writes records that are owed until the slice is spent. Returns their bytes as far as they lie in the log now.
    fn settle_slice(&mut self, slice: &mut Slice) -> u64 {
        let mut bytes = 0;
        while let Some(&first_seq) = self.owed.front() {
            if slice.is_spent() {
                break;
            }
            let index = self.chunk_of(first_seq).expect("what is owed has its place in the log");
            let owed = self.chunks[index].owed.take().expect("the log knows which chunks are owed");
            let mut paid = match self.paid.take() {
                Some(paid) => paid,
                None => Box::new(Chunk::for_owed(self.spares.take(CHUNK_BYTES))),
            };
            self.write_owed(first_seq, &owed, &mut paid, slice);
            let is_whole = paid.records_count() == owed.count();
            if is_whole || CHUNK_BYTES <= paid.bytes_count() {
                bytes += paid.bytes_count() as u64;
                self.put_paid(index, owed, paid);
            } else {
                self.chunks[index].owed = Some(owed);
                self.paid = Some(paid);
            }
        }
        bytes
    }

    /// Writes records of a list behind those that are in `paid`, until that is full or the slice spent.
    fn write_owed(&mut self, first_seq: u64, owed: &Owed, paid: &mut Chunk, slice: &mut Slice) {
        while !slice.is_spent() && paid.bytes_count() < CHUNK_BYTES {
            let from = paid.records_count();
            let count = (owed.count() - from).min(AHEAD).min(slice.units_left(SETTLE_NS));
            if count == 0 {
                return;
            }
            let ahead = &owed.superseded[from..from + count];
            // The sum means nothing: it only keeps the reads from being optimised away.
            std::hint::black_box(ahead.iter().fold(0, |sum, &superseded| sum ^ self.touch(superseded)));
            for (slot, &superseded) in (from..).zip(ahead) {
                let record = self.owed_record(owed, first_seq + slot as u64, slot);
                slice.spend(SETTLE_NS);
                slice.spend_bytes(record.key.len());
                paid.push_owed(&record);
                self.set_superseded_at(superseded, owed.main);
                if CHUNK_BYTES <= paid.bytes_count() {
                    return;
                }
            }
        }
    }

    /// Puts the records that are written in the place of the list, or in front of what is left of it.
    fn put_paid(&mut self, index: usize, mut owed: Box<Owed>, mut paid: Box<Chunk>) {
        let count = paid.records_count();
        for (&slot, &main) in owed.superseded_at.range(..count) {
            paid.set_superseded_at(slot, main);
        }
        paid.trim();
        self.owed_records -= count as u64;
        self.sealed_held_bytes += paid.held_bytes();
        if count == owed.count() {
            self.sealed_held_bytes -= owed.held_bytes() as u64;
            self.owed.pop_front();
            self.chunks[index] = paid;
            return;
        }
        owed.drop_front(count);
        let first_seq = paid.first_seq;
        let rest_seq = first_seq + count as u64;
        self.firsts[index] = rest_seq;
        self.firsts.insert(index, first_seq);
        *self.chunks[index] = Chunk::of_owed(rest_seq, owed);
        self.chunks.insert(index, paid);
        self.owed[0] = rest_seq;
    }
}

impl Store {
    /// Whether the records of all deletions are written.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.log.owed.is_empty()
    }

    /// Whether those of all deletions up to `revision` are: what is read at that is found as it is written.
    #[must_use]
    pub fn is_settled_through(&self, revision: i64) -> bool {
        self.owed_from().is_none_or(|from| revision < from)
    }

    /// Deletions whose records are still to be written.
    #[must_use]
    pub fn owed_records(&self) -> u64 {
        self.log.owed_records
    }

    /// Writes records of deletions that took effect, until the slice is spent. True when none is owed any more. Nothing
    /// that can be read changes. No transaction is open, suspended or not.
    pub fn settle_slice(&mut self, slice: &mut Slice) -> bool {
        assert!(!self.is_writing(), "what may be taken back is settled when it is committed");
        self.record_bytes += self.log.settle_slice(slice);
        self.is_settled()
    }

    /// The record with the revision at which it was superseded, where that is not written yet.
    #[inline]
    pub(super) fn exact<'a>(&self, record: Record<'a>) -> Record<'a> {
        self.exact_through(i64::MAX, record)
    }

    /// The same for whoever reads at `revision`: the newest there may be superseded later than that and not say so.
    #[inline]
    pub(super) fn exact_through<'a>(&self, revision: i64, record: Record<'a>) -> Record<'a> {
        if self.is_settled() || record.superseded_at != NEWEST || self.is_settled_through(revision) {
            return record;
        }
        self.with_next_version(record)
    }

    /// Whether a compaction at `revision` drops the record, whatever is written of that yet.
    #[inline]
    pub(super) fn is_dropped(&self, record: &Record<'_>, revision: i64) -> bool {
        record.is_dropped_at(revision) || self.exact_through(revision, *record).is_dropped_at(revision)
    }

    /// The first revision of which records are owed.
    fn owed_from(&self) -> Option<i64> {
        let index = self.log.chunk_of(*self.log.owed.front()?)?;
        self.log.chunks[index].owed.as_ref().map(|owed| owed.main)
    }

    /// A record is looked at behind the one before it. Made of the version before it, it costs more.
    pub(super) fn spend_record(&self, slice: &mut Slice) {
        if self.is_settled() {
            slice.spend_record();
        } else {
            slice.spend(SETTLE_NS);
        }
    }

    fn with_next_version<'a>(&self, record: Record<'a>) -> Record<'a> {
        let newest = self.tree.get(record.key).filter(|newest| newest.seq() != record.seq);
        let next = newest.and_then(|newest| self.find_since(newest, record.seq + 1));
        Record { superseded_at: next.map_or(NEWEST, |next| next.main), ..record }
    }
}

impl WriteTxn<'_> {
    /// Deletes on behind `cursor` as `delete_slice` does, but owes the records. `deleted`, if it is given, sees each
    /// version before it goes; who needs none of them does not pay for the look. For many keys: each list begins a chunk.
    pub fn bury_slice(
        &mut self,
        range: KeyRange<'_>,
        mark: Mark,
        cursor: &mut Cursor,
        slice: &mut Slice,
        mut deleted: Option<impl FnMut(KeyValueRef<'_>)>,
    ) -> (u64, bool) {
        let mut revision = self.next_revision();
        let unit_ns = if deleted.is_some() { BURY_NS + SETTLE_NS / 2 } else { BURY_NS };
        let Store { tree, log, .. } = &mut *self.store;
        let mut path = tree.seek(cursor.last().unwrap_or(range.start()));
        let mut count = 0;
        let is_done = loop {
            let Some((key, _)) = tree.settle(&mut path, true) else { break true };
            if is_past(&range, key) {
                break true;
            }
            if slice.is_spent() {
                cursor.set(key);
                break false;
            }
            let entries = tree.rest_of_leaf_in(&path, &range).min(slice.units_left(unit_ns));
            if let Some(deleted) = &mut deleted {
                let ahead = &tree.rest_of_leaf(&path)[..entries];
                let live = || ahead.iter().filter(|newest| newest.is_live());
                // As above.
                std::hint::black_box(live().fold(0, |sum, &newest| sum ^ log.touch(newest)));
                for &newest in live() {
                    deleted(log.newest(newest).key_value().expect("a live key's newest record is a put"));
                }
            }
            let buried = tree.bury(&mut path, entries, |newest| {
                let tombstone = log.owe(revision, mark, newest);
                revision.sub += 1;
                tombstone
            });
            slice.spend(u64::from(buried) * unit_ns);
            count += u64::from(buried);
        };
        if 0 < count {
            self.store.head = revision.main;
        }
        self.tallies.deletes += count;
        (count, is_done)
    }

    /// Deletes these keys, each of which is there, and owes the records. For many of them, as above.
    pub fn bury_keys(&mut self, keys: &[Box<[u8]>], mark: Mark) {
        let mut revision = self.next_revision();
        let Store { tree, log, .. } = &mut *self.store;
        for keys in keys.chunks(KEYS_AHEAD) {
            if tree.is_far() && keys.len() == KEYS_AHEAD {
                let keys: [&[u8]; KEYS_AHEAD] = std::array::from_fn(|place| &*keys[place]);
                std::hint::black_box(tree.touch(&keys));
            }
            for key in keys {
                let (mut path, newest) = tree.find(key);
                assert!(newest.is_some_and(Newest::is_live), "a key that goes with others is there");
                tree.bury(&mut path, 1, |newest| log.owe(revision, mark, newest));
                revision.sub += 1;
            }
        }
        if !keys.is_empty() {
            self.store.head = revision.main;
        }
        self.tallies.deletes += keys.len() as u64;
    }
}
