//! Why a member cannot start from what it recovered, and the rules of a log that say so.

use super::conf_change::{ConfChange, ConfChangeUndecodable};
use super::entry::{Entry, EntryKind};
use crate::types::{LogIndex, Term};

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

/// Whether an entry may stand behind another one.
pub(super) fn check_follows(
    (previous, previous_term): (LogIndex, Term),
    (index, term): (LogIndex, Term),
) -> Result<(), StartError> {
    if index.0 != previous.0 + 1 {
        return Err(StartError::Gap { previous, found: index });
    }
    if term < previous_term {
        return Err(StartError::TermFell { index, previous: previous_term, found: term });
    }
    Ok(())
}

/// Whether a membership change says which.
pub(super) fn check_conf_change(entry: &Entry) -> Result<(), StartError> {
    if entry.kind == EntryKind::ConfChange {
        let decoded = ConfChange::decode(entry.data.clone());
        decoded.map_err(|source| StartError::ConfChange { index: entry.index, source })?;
    }
    Ok(())
}
