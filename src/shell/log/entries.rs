//! Entries and hard states as the log holds them.

use pinion_wal as wal;

use crate::raft::{Entry, EntryKind, HardState};
use crate::types::{LogIndex, MemberId, Term};

/// An entry that a later version wrote.
#[derive(Debug, thiserror::Error)]
#[error(
    "log entry {index} is of kind {kind}, which this version does not know; start a newer version of Pinion"
)]
pub(in crate::shell) struct UnknownKind {
    index: u64,
    kind: u8,
}

/// As the log writes it.
pub(in crate::shell) fn entry_to_wal(entry: Entry) -> wal::Entry {
    wal::Entry { index: entry.index.0, term: entry.term.0, kind: entry.kind.number(), data: entry.data }
}

pub(in crate::shell) fn hard_state_to_wal(state: HardState) -> wal::HardState {
    wal::HardState { term: state.term.0, vote: state.vote.map_or(0, |vote| vote.0), commit: state.commit.0 }
}

/// As raft knows it.
///
/// # Errors
/// When only a later version knows the entry's kind.
pub(in crate::shell) fn entry_from_wal(entry: wal::Entry) -> Result<Entry, UnknownKind> {
    let wal::Entry { index, term, kind, data } = entry;
    let kind = EntryKind::from_number(kind).ok_or(UnknownKind { index, kind })?;
    Ok(Entry { index: LogIndex(index), term: Term(term), kind, data })
}

pub(in crate::shell) fn hard_state_from_wal(state: wal::HardState) -> HardState {
    HardState {
        term: Term(state.term),
        vote: (state.vote != 0).then_some(MemberId(state.vote)),
        commit: LogIndex(state.commit),
    }
}
