//! What the log holds, in our words: entries and the hard state.

use ::raft::eraftpb::{self, EntryType};
use bytes::Bytes;

use crate::types::{LogIndex, MemberId, Term};

/// What an entry's data is. The numbers are on disk and on the wire: never reused, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A group of requests (`request::group::decode_group`); empty for a term's first entry.
    Normal = 1,
    /// A membership change (`ConfChange::decode`).
    ConfChange = 2,
}

impl EntryKind {
    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// `None` for a number of a later version: the member must stop and say so, not skip the entry.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Normal),
            2 => Some(Self::ConfChange),
            _ => None,
        }
    }

    pub(super) fn to_library(self) -> EntryType {
        match self {
            Self::Normal => EntryType::EntryNormal,
            Self::ConfChange => EntryType::EntryConfChangeV2,
        }
    }

    pub(super) fn from_library(kind: EntryType) -> Self {
        match kind {
            EntryType::EntryNormal => Self::Normal,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => Self::ConfChange,
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub index: LogIndex,
    pub term: Term,
    pub kind: EntryKind,
    /// Shared with the log in memory; cloning it is cheap.
    pub data: Bytes,
}

impl Entry {
    pub(super) fn from_library(entry: eraftpb::Entry) -> Self {
        Self {
            index: LogIndex(entry.index),
            term: Term(entry.term),
            kind: EntryKind::from_library(entry.get_entry_type()),
            data: entry.data,
        }
    }

    pub(super) fn into_library(self) -> eraftpb::Entry {
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(self.kind.to_library());
        entry.index = self.index.0;
        entry.term = self.term.0;
        entry.data = self.data;
        entry
    }
}

/// What must survive a crash before a message that depends on it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: Term,
    /// Whom this member voted for in `term`.
    pub vote: Option<MemberId>,
    /// Committed as far as this member knew when it was written; may trail, never leads.
    pub commit: LogIndex,
}

impl HardState {
    pub(super) fn from_library(state: &eraftpb::HardState) -> Self {
        Self {
            term: Term(state.term),
            vote: (state.vote != 0).then_some(MemberId(state.vote)),
            commit: LogIndex(state.commit),
        }
    }

    pub(super) fn to_library(self) -> eraftpb::HardState {
        eraftpb::HardState {
            term: self.term.0,
            vote: self.vote.map_or(0, |id| id.0),
            commit: self.commit.0,
            ..eraftpb::HardState::default()
        }
    }

    /// Whether a sync is due: the commit index alone is recomputed after a crash and needs none.
    pub(super) fn promises_more_than(&self, written: &Self) -> bool {
        (self.term, self.vote) != (written.term, written.vote)
    }
}
