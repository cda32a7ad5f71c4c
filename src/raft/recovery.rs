//! From what the disk held to a log that raft-rs can start with.
//!
//! The disk's content is hostile here: raft-rs would panic on most of what is refused below. Nothing
//! is repaired; a log that does not add up stops the start with the numbers that disagree.

use std::collections::VecDeque;

use ::raft::eraftpb;

use super::conf_change::{ConfChange, ConfChangeUndecodable};
use super::entry::{Entry, EntryKind, HardState};
use super::log::{Log, Retention};
use super::snapshot::CheckpointMeta;
use crate::types::{LogIndex, Term};

/// What the disk held.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The last one written, if any was.
    pub hard_state: Option<HardState>,
    /// Where the state machine starts: the newest checkpoint, or `CheckpointMeta::bootstrap`, or
    /// `CheckpointMeta::joining`.
    pub checkpoint: CheckpointMeta,
    /// Entries in the order they were written. One whose index is not past the one before replaces
    /// that one and all after it, as the log on disk means it. Those the checkpoint covers may be here.
    /// What the disk released must be a prefix of what was written, not of what has low indexes: an
    /// entry that replaced others would be gone, and those it replaced would be back.
    pub entries: Vec<Entry>,
}

/// Why a member cannot start from what it recovered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("raft configuration: {0}")]
    Config(String),
    #[error("the checkpoint's position and members make no sense: {0}")]
    Checkpoint(&'static str),
    #[error("the log has a gap: entry {found:?} follows {previous:?}")]
    Gap { previous: LogIndex, found: LogIndex },
    #[error("entry {index:?} has {found:?}, less than {previous:?} of the entry before it")]
    TermFell { index: LogIndex, previous: Term, found: Term },
    #[error("entry {index:?} has {log:?} in the log and {checkpoint:?} in the checkpoint")]
    CheckpointDisagrees { index: LogIndex, log: Term, checkpoint: Term },
    #[error(
        "the hard state says {commit:?} is committed, but the log ends at {last:?}: acknowledged entries are lost"
    )]
    CommitPastLast { commit: LogIndex, last: LogIndex },
    #[error("entry {index:?}: {source}")]
    ConfChange { index: LogIndex, source: ConfChangeUndecodable },
}

impl Recovered {
    /// The entries behind the checkpoint, without those that were replaced.
    ///
    /// # Errors
    /// When they do not add up; a start would be refused alike.
    pub fn tail(&self) -> Result<Vec<Entry>, StartError> {
        let entries = surviving(self.entries.clone())?;
        let tail = after_checkpoint(entries, &self.checkpoint)?;
        Ok(tail.into_iter().map(Entry::from_library).collect())
    }

    pub(super) fn into_log(self, retention: Retention) -> Result<Log, StartError> {
        let Self { hard_state, checkpoint, entries: written } = self;
        if checkpoint != CheckpointMeta::joining()
            && let Some(fault) = checkpoint.fault()
        {
            return Err(StartError::Checkpoint(fault));
        }
        let entries = surviving(written)?;
        let last = entries.back().map_or(checkpoint.index, |entry| entry.index.max(checkpoint.index));
        // Entries are written before the hard state, so a torn tail cannot leave a commit past them.
        let mut hard_state = match hard_state {
            Some(state) => state,
            None => HardState { term: checkpoint.term, vote: None, commit: checkpoint.index },
        };
        if last < hard_state.commit {
            return Err(StartError::CommitPastLast { commit: hard_state.commit, last });
        }
        // The checkpoint may have been written after the hard state: what it covers was committed.
        hard_state.commit = hard_state.commit.max(checkpoint.index);
        let tail = after_checkpoint(entries, &checkpoint)?;
        // A torn tail may hold a term's entry and not the hard state behind it; a checkpoint may be
        // installed and the hard state not written. Then nothing was promised in that term: no vote.
        let term_last = tail.back().map_or(checkpoint.term, |entry| Term(entry.term));
        if hard_state.term < term_last {
            hard_state.term = term_last;
            hard_state.vote = None;
        }
        Ok(Log::new(hard_state.to_library(), checkpoint, tail, retention))
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
            if entry.index.0 != previous.index.0 + 1 {
                return Err(StartError::Gap { previous: previous.index, found: entry.index });
            }
            if entry.term < previous.term {
                return Err(StartError::TermFell {
                    index: entry.index,
                    previous: previous.term,
                    found: entry.term,
                });
            }
        }
        if entry.kind == EntryKind::ConfChange {
            let decoded = ConfChange::decode(entry.data.clone());
            decoded.map_err(|source| StartError::ConfChange { index: entry.index, source })?;
        }
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
        if first.index.0 != checkpoint.index.0 + 1 {
            return Err(StartError::Gap { previous: checkpoint.index, found: first.index });
        }
        if first.term < checkpoint.term {
            return Err(StartError::TermFell {
                index: first.index,
                previous: checkpoint.term,
                found: first.term,
            });
        }
    }
    Ok(entries.into_iter().map(Entry::into_library).collect())
}
