//! Committed entries that are applied before raft starts, and what raft has to know of them.

use super::entry::Entry;
use super::snapshot::CheckpointMeta;
use super::start_error::{StartError, check_conf_change, check_follows};
use crate::types::{LogIndex, MemberId, Term};

/// Committed entries behind the checkpoint that were applied as the log was read. The disk holds them, memory does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The last of them, and who was a member then.
    pub through: CheckpointMeta,
    /// Which term wrote what of them, each from its first entry on.
    terms: Vec<(LogIndex, Term)>,
}

/// Entries that are applied as the log is read: whether they add up, and what raft has to know of them.
#[derive(Debug)]
pub struct Replay {
    first: LogIndex,
    last: (LogIndex, Term),
    terms: Vec<(LogIndex, Term)>,
}

impl Replay {
    /// Nothing is applied behind the checkpoint.
    #[must_use]
    pub fn new(checkpoint: &CheckpointMeta) -> Self {
        let last = (checkpoint.index, checkpoint.term);
        Self { first: LogIndex(last.0.0 + 1), last, terms: Vec::new() }
    }

    /// The last entry that was taken, or the checkpoint's.
    #[must_use]
    pub fn last(&self) -> (LogIndex, Term) {
        self.last
    }

    /// The next entry, which is committed, before it is applied.
    ///
    /// # Errors
    /// Why it cannot be the next one.
    pub fn take(&mut self, entry: &Entry) -> Result<(), StartError> {
        check_follows(self.last, (entry.index, entry.term))?;
        check_conf_change(entry)?;
        if self.terms.last().is_none_or(|(_, term)| *term < entry.term) {
            self.terms.push((entry.index, entry.term));
        }
        self.last = (entry.index, entry.term);
        Ok(())
    }

    /// All are applied, and these are the members. `None` if there were none.
    #[must_use]
    pub fn finish(self, voters: Vec<MemberId>, learners: Vec<MemberId>) -> Option<Replayed> {
        let (index, term) = self.last;
        (self.first <= index).then_some(Replayed {
            through: CheckpointMeta { index, term, voters, learners },
            terms: self.terms,
        })
    }
}

impl Replayed {
    /// Index and term of each entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        let ends = self.terms.iter().skip(1).map(|(from, _)| from.0).chain([self.through.index.0 + 1]);
        self.terms.iter().zip(ends).flat_map(|((from, term), end)| (from.0..end).map(|index| (index, term.0)))
    }
}
