//! Tombstones that are owed: deletions that took effect, whose records are written later.
//!
//! What a deletion of many keys takes is not the change of the index, which lies side by side, but the records: each
//! is copied into memory that nobody has touched, and marks a version that lies anywhere. So a large deletion changes
//! the index and notes of each key only the version that was its newest: from that, the revision and the place in the
//! list follows the tombstone. The lists stand in the log as chunks among the others, and who asks for a record of
//! them gets it made. `settle_slice` writes the records, in slices, when nothing waits any more.
//!
//! Until then a superseded version still says that it is its key's newest; `exact` says what it will say, and
//! `is_dropped` what follows from that. Whoever reads `superseded_at` asks them, so nothing that can be seen depends on
//! how much is settled. A compaction settles first.
//!
//! Invariants: what a list names is retained; lists are settled in the order of the log, and none that a transaction
//! under way has made.
//! Cost: 8 bytes a deletion; to read such a record costs a look at the version before it.

use std::collections::BTreeMap;

use super::Mark;
use super::record::{Links, NEWEST, Newest, Record};
use crate::types::Revision;

/// Deletions in a list: their records fill a chunk as a rule.
pub(super) const OWED_MAX: usize = 4_096;

/// Deletions of one revision, one after the other.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) mark: Mark,
    pub(super) main: i64,
    first_sub: i64,
    /// Of each, the version that it superseded.
    pub(super) superseded: Vec<Newest>,
    /// Of those whose key was put again: the main revision of that.
    pub(super) superseded_at: BTreeMap<usize, i64>,
}

impl Owed {
    pub(super) fn new(first: Revision, mark: Mark) -> Self {
        Self {
            mark,
            main: first.main,
            first_sub: first.sub,
            superseded: Vec::with_capacity(OWED_MAX),
            superseded_at: BTreeMap::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.superseded.len()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.superseded.capacity() * size_of::<Newest>()
    }

    pub(super) fn revision_at(&self, slot: usize) -> Revision {
        let sub = i64::try_from(slot).expect("a list is short");
        Revision::new(self.main, self.first_sub + sub)
    }

    /// The record that is owed, of the version that it superseded and the links to that.
    pub(super) fn record<'a>(&self, seq: u64, slot: usize, (key, links): (&'a [u8], Links)) -> Record<'a> {
        let Revision { main, sub } = self.revision_at(slot);
        Record {
            seq,
            main,
            sub,
            superseded_at: self.superseded_at.get(&slot).copied().unwrap_or(NEWEST),
            tombstone: true,
            links: Some(links),
            create_revision: 0,
            version: 0,
            lease: 0,
            mark: self.mark,
            key,
            value: &[],
        }
    }

    /// Notes that the key of this deletion was put again at `main`, or with `NEWEST` that it was not after all.
    pub(super) fn set_superseded_at(&mut self, slot: u64, main: i64) {
        let slot = usize::try_from(slot).expect("a list is short");
        assert!(slot < self.count(), "deletion {slot} of {}", self.count());
        if main == NEWEST {
            self.superseded_at.remove(&slot);
        } else {
            self.superseded_at.insert(slot, main);
        }
    }

    pub(super) fn truncate(&mut self, count: usize) {
        self.superseded.truncate(count);
        self.superseded_at.split_off(&count);
    }

    /// Forgets the first deletions.
    pub(super) fn drop_front(&mut self, count: usize) {
        self.superseded.drain(..count);
        self.first_sub += i64::try_from(count).expect("a list is short");
        let behind = self.superseded_at.split_off(&count);
        self.superseded_at = behind.into_iter().map(|(slot, main)| (slot - count, main)).collect();
    }
}
