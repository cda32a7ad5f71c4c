//! The tail of the log in memory: the storage that raft-rs reads.
//!
//! Holds every entry that is not applied yet, plus, where there are followers, some applied ones so
//! that a follower that fell behind catches up without a checkpoint. A lone member keeps no applied
//! entry. Writing to the disk is the shell's: an entry is put here when a `Ready` hands it out, and
//! raft-rs is told apart when it is durable.
//!
//! Invariants: the entries are contiguous from `dropped.index + 1`, terms never fall, and
//! dropped <= applied <= last. An entry leaves at the front only when it is applied.
//! Cost: append and drop O(1) an entry; an entry's data is shared, never copied.

use std::cell::Cell;
use std::collections::VecDeque;

use ::raft::eraftpb::{self, ConfState};
use ::raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::snapshot::CheckpointMeta;
use crate::types::MemberId;

/// How much of the applied log stays for followers that lag. What a follower needs beyond it comes
/// from a checkpoint. Both bounds hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub entries_max: usize,
    pub bytes_max: usize,
}

/// Counted for each entry besides its data: the struct here and about as much around it.
const ENTRY_OVERHEAD_BYTES: usize = 2 * size_of::<eraftpb::Entry>();

fn entry_bytes(entry: &eraftpb::Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

/// The log's tail in memory.
pub(super) struct Log {
    /// Index and term of the entry before the first one held.
    dropped: (u64, u64),
    entries: VecDeque<eraftpb::Entry>,
    /// Moves only in `on_applied` and `install`.
    applied: u64,
    /// Bytes of the entries up to `applied`.
    retained_bytes: usize,
    /// Bytes of the entries past `applied`.
    unapplied_bytes: usize,
    retention: Retention,
    /// Whether another member may ask for old entries.
    has_followers: bool,
    /// The newest durable checkpoint; what a follower gets that needs a dropped entry.
    checkpoint: CheckpointMeta,
    /// Somebody needs a checkpoint newer than `checkpoint`. raft-rs asks through `&self`.
    checkpoint_wanted: Cell<bool>,
    /// Read once, when raft-rs starts.
    initial: RaftState,
}

impl Log {
    /// The log as recovered. `entries` follow the checkpoint without a gap; the caller checked it.
    pub(super) fn new(
        hard_state: eraftpb::HardState,
        checkpoint: CheckpointMeta,
        entries: VecDeque<eraftpb::Entry>,
        retention: Retention,
    ) -> Self {
        let dropped = (checkpoint.index.0, checkpoint.term.0);
        let unapplied_bytes = entries.iter().map(entry_bytes).sum();
        let initial = RaftState::new(hard_state, checkpoint.conf_state());
        let mut log = Self {
            dropped,
            entries,
            applied: dropped.0,
            retained_bytes: 0,
            unapplied_bytes,
            retention,
            has_followers: false,
            checkpoint,
            checkpoint_wanted: Cell::new(false),
            initial,
        };
        let conf = log.initial.conf_state.clone();
        log.on_conf_change(&conf);
        log
    }

    pub(super) fn last(&self) -> u64 {
        self.dropped.0 + self.entries.len() as u64
    }

    /// Index and term of the entry before the first one held.
    pub(super) fn dropped(&self) -> (u64, u64) {
        self.dropped
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    pub(super) fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    pub(super) fn checkpoint(&self) -> &CheckpointMeta {
        &self.checkpoint
    }

    /// Whether a follower waits for a checkpoint newer than the newest. Asking clears it.
    pub(super) fn take_checkpoint_wanted(&self) -> bool {
        self.checkpoint_wanted.take()
    }

    fn slot(&self, index: u64) -> usize {
        assert!(self.dropped.0 < index, "entry {index} was dropped, the log starts after {:?}", self.dropped);
        usize::try_from(index - self.dropped.0 - 1).expect("positions in memory fit a usize")
    }

    /// Appends what a `Ready` hands out. An entry that is there already replaces it and all after it:
    /// another leader's log won.
    pub(super) fn append(&mut self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            self.applied < first.index,
            "entry {} would replace an applied one ({})",
            first.index,
            self.applied
        );
        assert!(first.index <= self.last() + 1, "gap in the log: {} after {}", first.index, self.last());
        let keep = self.slot(first.index);
        for replaced in self.entries.drain(keep..) {
            self.unapplied_bytes -= entry_bytes(&replaced);
        }
        for entry in entries {
            assert!(entry.index == self.last() + 1, "gap in the log: {} after {}", entry.index, self.last());
            self.unapplied_bytes += entry_bytes(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// The state machine has applied everything up to `index`.
    pub(super) fn on_applied(&mut self, index: u64) {
        assert!(self.applied <= index, "applied went backwards: {} -> {index}", self.applied);
        assert!(index <= self.last(), "applied {index} past last {}", self.last());
        while self.applied < index {
            self.applied += 1;
            let bytes = entry_bytes(&self.entries[self.slot(self.applied)]);
            self.unapplied_bytes -= bytes;
            self.retained_bytes += bytes;
        }
        self.drop_applied();
    }

    fn drop_applied(&mut self) {
        let Retention { entries_max, bytes_max } = self.retention;
        while self.dropped.0 < self.applied {
            let retained = self.applied - self.dropped.0;
            if self.has_followers && retained <= entries_max as u64 && self.retained_bytes <= bytes_max {
                break;
            }
            let entry = self.entries.pop_front().expect("applied entries are held until dropped");
            self.retained_bytes -= entry_bytes(&entry);
            self.dropped = (entry.index, entry.term);
        }
    }

    pub(super) fn on_conf_change(&mut self, conf: &ConfState) {
        self.has_followers = conf.get_voters().len() + conf.get_learners().len() > 1;
        self.drop_applied();
    }

    /// A newer checkpoint of this member is durable.
    pub(super) fn on_checkpoint(&mut self, meta: CheckpointMeta) {
        assert!(meta.index.0 <= self.applied, "checkpoint {:?} past applied {}", meta.index, self.applied);
        if self.checkpoint.index < meta.index {
            self.checkpoint = meta;
        }
    }

    /// A checkpoint of another member takes the place of the whole log.
    pub(super) fn install(&mut self, meta: CheckpointMeta) {
        assert!(self.applied <= meta.index.0, "checkpoint {:?} before applied {}", meta.index, self.applied);
        self.dropped = (meta.index.0, meta.term.0);
        self.applied = meta.index.0;
        self.entries.clear();
        self.retained_bytes = 0;
        self.unapplied_bytes = 0;
        self.on_conf_change(&meta.conf_state());
        self.checkpoint = meta;
    }

    /// Walks the whole log; for tests and simulators after every step.
    pub(super) fn check_invariants(&self) {
        assert!(self.dropped.0 <= self.applied);
        assert!(self.applied <= self.last());
        let (mut previous, mut retained, mut unapplied) = (self.dropped, 0, 0);
        for entry in &self.entries {
            assert_eq!(entry.index, previous.0 + 1);
            assert!(previous.1 <= entry.term);
            previous = (entry.index, entry.term);
            *if entry.index <= self.applied { &mut retained } else { &mut unapplied } += entry_bytes(entry);
        }
        assert_eq!(retained, self.retained_bytes);
        assert_eq!(unapplied, self.unapplied_bytes);
    }
}

impl Storage for Log {
    fn initial_state(&self) -> ::raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> ::raft::Result<Vec<eraftpb::Entry>> {
        if low <= self.dropped.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "entries up to {high} asked, last is {}", self.last());
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let wanted = self.entries.range(self.slot(low)..self.slot(high));
        // The bound is on what is sent; at least one entry always goes, or nothing ever would.
        let mut bytes = 0;
        let fitting = wanted.clone().take_while(|entry| {
            let first = bytes == 0;
            bytes += entry_bytes(entry) as u64;
            first || bytes <= bytes_max
        });
        let count = fitting.count();
        Ok(wanted.take(count).cloned().collect())
    }

    fn term(&self, index: u64) -> ::raft::Result<u64> {
        if index == self.dropped.0 {
            Ok(self.dropped.1)
        } else if index < self.dropped.0 {
            Err(StorageError::Compacted.into())
        } else if self.last() < index {
            Err(StorageError::Unavailable.into())
        } else {
            Ok(self.entries[self.slot(index)].term)
        }
    }

    fn first_index(&self) -> ::raft::Result<u64> {
        Ok(self.dropped.0 + 1)
    }

    fn last_index(&self) -> ::raft::Result<u64> {
        Ok(self.last())
    }

    /// The checkpoint to send to a follower that needs dropped entries. One that ends before the
    /// first entry held would leave a gap behind it, and one that does not know the follower would be
    /// refused by it; so the follower waits for a newer one.
    fn snapshot(&self, request_index: u64, to: u64) -> ::raft::Result<eraftpb::Snapshot> {
        let index = self.checkpoint.index.0;
        if index < self.dropped.0 || index < request_index || !self.checkpoint.contains(MemberId(to)) {
            self.checkpoint_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.checkpoint.to_library())
    }
}
