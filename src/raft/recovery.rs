//! From what the disk held to a log that raft-rs can start with.
//!
//! The disk's content is hostile here: raft-rs would panic on most of what is refused below. Nothing
//! is repaired; a log that does not add up stops the start with the numbers that disagree.

use std::collections::VecDeque;

use ::raft::eraftpb;

use super::entry::{Entry, HardState};
use super::log::{Log, Retention};
use super::replay::Replayed;
use super::snapshot::CheckpointMeta;
use super::start_error::{StartError, check_conf_change, check_follows};
use crate::types::Term;

/// What the disk held.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The last one written, if any was.
    pub hard_state: Option<HardState>,
    /// The newest checkpoint, where the state machine starts if nothing was replayed; or `CheckpointMeta::bootstrap`, or
    /// `CheckpointMeta::joining`.
    pub checkpoint: CheckpointMeta,
    /// What was applied behind the checkpoint: the state machine starts there then, not at the checkpoint.
    pub replayed: Option<Replayed>,
    /// Entries in the order they were written. One whose index is not past the one before replaces
    /// that one and all after it, as the log on disk means it. Those the checkpoint covers may be here; those that
    /// were replayed are not.
    /// What the disk released must be a prefix of what was written, not of what has low indexes: an
    /// entry that replaced others would be gone, and those it replaced would be back.
    pub entries: Vec<Entry>,
}

impl Recovered {
    /// Where the state machine starts.
    #[must_use]
    pub fn start(&self) -> &CheckpointMeta {
        self.replayed.as_ref().map_or(&self.checkpoint, |replayed| &replayed.through)
    }

    /// The entries behind where the state machine starts, without those that were replaced.
    ///
    /// # Errors
    /// When they do not add up; a start would be refused alike.
    pub fn tail(&self) -> Result<Vec<Entry>, StartError> {
        let entries = surviving(self.entries.clone())?;
        let tail = after_checkpoint(entries, self.start())?;
        Ok(tail.into_iter().map(Entry::from_library).collect())
    }

    pub(super) fn into_log(self, retention: Retention) -> Result<Log, StartError> {
        let Self { hard_state, checkpoint, replayed, entries: written } = self;
        let through = replayed.as_ref().map(|replayed| &replayed.through);
        for meta in [Some(&checkpoint), through].into_iter().flatten() {
            if *meta != CheckpointMeta::joining()
                && let Some(fault) = meta.fault()
            {
                return Err(StartError::Checkpoint(fault));
            }
        }
        let start = through.unwrap_or(&checkpoint);
        let entries = surviving(written)?;
        let last = entries.back().map_or(start.index, |entry| entry.index.max(start.index));
        // Entries are written before the hard state, so a torn tail cannot leave a commit past them.
        let mut hard_state = match hard_state {
            Some(state) => state,
            None => HardState { term: start.term, vote: None, commit: start.index },
        };
        if last < hard_state.commit {
            return Err(StartError::CommitPastLast { commit: hard_state.commit, last });
        }
        // The checkpoint may have been written after the hard state: what it covers was committed.
        hard_state.commit = hard_state.commit.max(start.index);
        let tail = after_checkpoint(entries, start)?;
        // A torn tail may hold a term's entry and not the hard state behind it; a checkpoint may be
        // installed and the hard state not written. Then nothing was promised in that term: no vote.
        let term_last = tail.back().map_or(start.term, |entry| Term(entry.term));
        if hard_state.term < term_last {
            hard_state.term = term_last;
            hard_state.vote = None;
        }
        Ok(Log::new(hard_state.to_library(), checkpoint, replayed, tail, retention))
    }
}

/// Plays the entries in the order they were written, later ones replacing earlier ones.
fn surviving(written: Vec<Entry>) -> Result<VecDeque<Entry>, StartError> {
    let mut entries: VecDeque<Entry> = VecDeque::with_capacity(written.len());
    for entry in written {
        while entries.back().is_some_and(|last| entry.index <= last.index) {
            entries.pop_back();
        }
        if let Some(previous) = entries.back() {
            check_follows((previous.index, previous.term), (entry.index, entry.term))?;
        }
        check_conf_change(&entry)?;
        entries.push_back(entry);
    }
    Ok(entries)
}

/// Cuts off what the checkpoint covers and checks that the rest joins it.
fn after_checkpoint(
    mut entries: VecDeque<Entry>,
    checkpoint: &CheckpointMeta,
) -> Result<VecDeque<eraftpb::Entry>, StartError> {
    let mut covered = None;
    while entries.front().is_some_and(|entry| entry.index <= checkpoint.index) {
        covered = entries.pop_front();
    }
    match covered {
        Some(entry) if entry.index == checkpoint.index && entry.term != checkpoint.term => {
            return Err(StartError::CheckpointDisagrees {
                index: entry.index,
                log: entry.term,
                checkpoint: checkpoint.term,
            });
        }
        _ => {}
    }
    if let Some(first) = entries.front() {
        check_follows((checkpoint.index, checkpoint.term), (first.index, first.term))?;
    }
    Ok(entries.into_iter().map(Entry::into_library).collect())
}
