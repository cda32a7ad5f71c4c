//! The log as raft-rs sees it: its tail in memory, and before that what the disk still holds.
//!
//! In memory is every entry that is not applied yet, plus, where there are followers, some applied ones.
//! Older ones are on the disk until the shell says that it let go of them (`on_disk_released`). raft-rs
//! gets those in two steps: it is told "later" and the wish is noted (`take_wanted`); when the shell has
//! read them, they are laid out (`lay_out`) for the one call in which raft-rs asks again. What is older
//! than the disk holds comes from a checkpoint. A lone member keeps no applied entry in memory.
//! Writing to the disk is the shell's: an entry is put here when a `Ready` hands it out, and raft-rs is
//! told apart when it is durable.
//!
//! Invariants: the entries are contiguous from `dropped.index + 1`, terms never fall, and
//! floor <= dropped <= applied <= last. An entry leaves memory only when it is applied, so what is read
//! back from the disk is durable and will never be replaced.
//! Cost: append and drop O(1) an entry; an entry's data is shared, never copied.

use std::cell::{Cell, RefCell};
use std::collections::{VecDeque, vec_deque};

use ::raft::eraftpb::{self, ConfState};
use ::raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::replay::Replayed;
use super::snapshot::CheckpointMeta;
use super::terms::Terms;
use crate::types::{LogIndex, MemberId, Term};

/// How much of the applied log stays in memory for followers that lag. What a follower needs beyond it
/// comes from the disk. Both bounds hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub entries_max: usize,
    pub bytes_max: usize,
}

/// Counted for each entry besides its data: the struct here and about as much around it.
const ENTRY_OVERHEAD_BYTES: usize = 2 * size_of::<eraftpb::Entry>();

/// Wishes that are noted between two looks at them. raft-rs repeats what it still needs.
const WANTED_MAX: usize = 64;

/// Entries that raft-rs asked for and only the disk holds.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) first: u64,
    /// The last one it would take, of those that memory does not hold.
    pub(super) last: u64,
    pub(super) bytes_max: u64,
    /// Tells raft-rs for whom it was.
    pub(super) context: GetEntriesContext,
}

fn entry_bytes(entry: &eraftpb::Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
}

/// The log's tail in memory.
pub(super) struct Log {
    /// Index and term of the entry before the first one in memory.
    dropped: (u64, u64),
    /// Of the entries up to `dropped` that can be read from the disk, and of the one before them.
    terms: Terms,
    /// The disk holds what is behind this entry.
    disk_floor: u64,
    /// raft-rs asks through `&self`.
    wanted: RefCell<Vec<Wanted>>,
    /// What was read from the disk, while raft-rs takes it.
    laid_out: VecDeque<eraftpb::Entry>,
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
    /// The log as recovered. `entries` follow what was replayed, or else the checkpoint, without a gap; the caller
    /// checked it.
    pub(super) fn new(
        hard_state: eraftpb::HardState,
        checkpoint: CheckpointMeta,
        replayed: Option<Replayed>,
        entries: VecDeque<eraftpb::Entry>,
        retention: Retention,
    ) -> Self {
        let disk_floor = checkpoint.index.0;
        let mut terms = Terms::new(checkpoint.index.0, checkpoint.term.0);
        for (index, term) in replayed.iter().flat_map(Replayed::entries) {
            terms.push(index, term);
        }
        let start = replayed.as_ref().map_or(&checkpoint, |replayed| &replayed.through);
        let dropped = (start.index.0, start.term.0);
        let unapplied_bytes = entries.iter().map(entry_bytes).sum();
        let initial = RaftState::new(hard_state, start.conf_state());
        let mut log = Self {
            dropped,
            terms,
            disk_floor,
            wanted: RefCell::default(),
            laid_out: VecDeque::new(),
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

    /// Index and term of the entry before the first one in memory.
    pub(super) fn dropped(&self) -> (u64, u64) {
        self.dropped
    }

    /// The entry before the first one that can be sent.
    pub(super) fn floor(&self) -> u64 {
        self.terms.floor()
    }

    /// What raft-rs asked for since the last call.
    pub(super) fn take_wanted(&self) -> Vec<Wanted> {
        self.wanted.take()
    }

    /// The terms of entries that only the disk holds.
    pub(super) fn terms(&self, first: u64, last: u64) -> Vec<(LogIndex, Term)> {
        self.terms.runs(first, last)
    }

    /// Whether these are entries of this log that memory does not hold, from `first` on.
    pub(super) fn is_of_disk(&self, first: u64, entries: &[eraftpb::Entry]) -> bool {
        let is_next = |(index, entry): (u64, &eraftpb::Entry)| {
            entry.index == index && index <= self.dropped.0 && self.terms.get(index) == Some(entry.term)
        };
        !entries.is_empty() && self.floor() < first && (first..).zip(entries).all(is_next)
    }

    /// Shows raft-rs entries that were read from the disk; none takes them away again.
    pub(super) fn lay_out(&mut self, entries: Vec<eraftpb::Entry>) {
        self.laid_out = entries.into();
    }

    /// The disk has let go of everything up to `index`, or cannot give it.
    pub(super) fn on_disk_released(&mut self, index: u64) {
        self.disk_floor = self.disk_floor.max(index);
        self.terms.forget_before(self.disk_floor.min(self.dropped.0));
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
            self.terms.push(entry.index, entry.term);
        }
        self.terms.forget_before(self.disk_floor.min(self.dropped.0));
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
        self.terms = Terms::new(meta.index.0, meta.term.0);
        self.disk_floor = meta.index.0;
        self.wanted.get_mut().clear();
        self.applied = meta.index.0;
        self.entries.clear();
        self.retained_bytes = 0;
        self.unapplied_bytes = 0;
        self.on_conf_change(&meta.conf_state());
        self.checkpoint = meta;
    }

    /// Walks the whole log; for tests and simulators after every step.
    pub(super) fn check_invariants(&self) {
        assert!(self.floor() <= self.dropped.0);
        assert!(self.dropped.0 <= self.applied);
        assert!(self.applied <= self.last());
        assert_eq!(self.terms.get(self.dropped.0), Some(self.dropped.1));
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

/// As many as fit. The bound is on what is sent; at least one always goes, or nothing ever would.
fn first_of(entries: vec_deque::Iter<'_, eraftpb::Entry>, bytes_max: u64) -> Vec<eraftpb::Entry> {
    let mut bytes = 0;
    let fitting = entries.clone().take_while(|entry| {
        let first = bytes == 0;
        bytes += entry_bytes(entry) as u64;
        first || bytes <= bytes_max
    });
    let count = fitting.count();
    entries.take(count).cloned().collect()
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
        context: GetEntriesContext,
    ) -> ::raft::Result<Vec<eraftpb::Entry>> {
        assert!(high <= self.last() + 1, "entries up to {high} asked, last is {}", self.last());
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        if self.dropped.0 < low {
            let wanted = self.entries.range(self.slot(low)..self.slot(high));
            return Ok(first_of(wanted, bytes_max));
        }
        // What raft-rs must have at once is not applied, and so in memory.
        if low <= self.floor() || !context.can_async() {
            return Err(StorageError::Compacted.into());
        }
        let from = self.laid_out.partition_point(|entry| entry.index < low);
        if self.laid_out.get(from).is_some_and(|entry| entry.index == low) {
            let to = self.laid_out.partition_point(|entry| entry.index < high);
            return Ok(first_of(self.laid_out.range(from..to), bytes_max));
        }
        let mut wanted = self.wanted.borrow_mut();
        if wanted.len() < WANTED_MAX {
            let last = self.dropped.0.min(high - 1);
            wanted.push(Wanted { first: low, last, bytes_max, context });
        }
        Err(StorageError::LogTemporarilyUnavailable.into())
    }

    fn term(&self, index: u64) -> ::raft::Result<u64> {
        if index <= self.dropped.0 {
            self.terms.get(index).ok_or_else(|| StorageError::Compacted.into())
        } else if self.last() < index {
            Err(StorageError::Unavailable.into())
        } else {
            Ok(self.entries[self.slot(index)].term)
        }
    }

    fn first_index(&self) -> ::raft::Result<u64> {
        Ok(self.floor() + 1)
    }

    fn last_index(&self) -> ::raft::Result<u64> {
        Ok(self.last())
    }

    /// The checkpoint to send to a follower that needs entries which are gone. One that ends before the
    /// first entry there is would leave a gap behind it, and one that does not know the follower would be
    /// refused by it; so the follower waits for a newer one.
    fn snapshot(&self, request_index: u64, to: u64) -> ::raft::Result<eraftpb::Snapshot> {
        let index = self.checkpoint.index.0;
        if index < self.floor() || index < request_index || !self.checkpoint.contains(MemberId(to)) {
            self.checkpoint_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(self.checkpoint.to_library())
    }
}
