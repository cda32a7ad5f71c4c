//! What the logs of some members prove about those of the others, when a majority is lost.
//!
//! The rules are raft's (Ongaro's thesis, 3.5 to 3.6). A log whose last entry has the highest term, and among those the
//! highest index, holds every committed entry that any of the compared logs holds. An entry that only lost members
//! hold was committed only if they could commit it alone, that is, if they were a quorum by themselves.
//!
//! All of it supposes that each log is as its member left it: an older copy proves less than it seems to.

use std::collections::BTreeSet;

use crate::raft::Entry;
use crate::types::{LogIndex, MemberId, Term};

/// The log of one member that is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    pub member: MemberId,
    /// The last entry that the member knew as committed.
    pub commit: LogIndex,
    /// The first entry of each term, ascending; the first one stands for the checkpoint.
    terms: Vec<(LogIndex, Term)>,
    last: LogIndex,
}

/// Two logs that no cluster makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    #[error(
        "member {knows} knows entry {commit} as committed, and the log of member {furthest}, whose last term is higher, \
         ends at entry {last}"
    )]
    Short { knows: MemberId, commit: u64, furthest: MemberId, last: u64 },
    #[error(
        "entry {index} has term {ours} in the log of member {furthest} and term {theirs} in that of member {other}"
    )]
    Terms { index: u64, furthest: MemberId, ours: u64, other: MemberId, theirs: u64 },
}

impl Survivor {
    /// A log: the checkpoint's position, and the entries behind it in order.
    #[must_use]
    pub fn new(member: MemberId, checkpoint: (LogIndex, Term), tail: &[Entry], commit: LogIndex) -> Self {
        let mut terms = vec![checkpoint];
        for entry in tail {
            if terms.last().is_some_and(|(_, term)| *term < entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        let last = tail.last().map_or(checkpoint.0, |entry| entry.index);
        Self { member, commit, terms, last }
    }

    /// Its last entry. Whose is the greatest holds the most.
    #[must_use]
    pub fn last(&self) -> (Term, LogIndex) {
        (self.terms.last().map_or(Term(0), |(_, term)| *term), self.last)
    }

    /// The term of an entry, if the log still tells it.
    fn term_of(&self, index: LogIndex) -> Option<Term> {
        if self.last < index {
            return None;
        }
        self.terms.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term)
    }

    /// Whether another log, which is no further, may be of the same cluster.
    ///
    /// # Errors
    /// It is not: one of the two lost something, or was changed.
    pub fn check(&self, other: &Self) -> Result<(), Disagreement> {
        assert!(other.last() <= self.last(), "the furthest is compared with the others");
        if self.last < other.commit {
            return Err(Disagreement::Short {
                knows: other.member,
                commit: other.commit.0,
                furthest: self.member,
                last: self.last.0,
            });
        }
        // What is committed is the same everywhere; what is of one term has one author.
        let same_term = (other.last().0 == self.last().0).then_some(other.last);
        for index in [Some(other.commit), same_term].into_iter().flatten() {
            if let (Some(ours), Some(theirs)) = (self.term_of(index), other.term_of(index))
                && ours != theirs
            {
                return Err(Disagreement::Terms {
                    index: index.0,
                    furthest: self.member,
                    ours: ours.0,
                    other: other.member,
                    theirs: theirs.0,
                });
            }
        }
        Ok(())
    }
}

/// Members with a vote that are not among `survivors`, and whether they may have committed entries by themselves.
/// `voters` are the members that voted, and those after each change of members that the logs tell of: a leader may have
/// gone by any of them.
#[must_use]
pub fn lost(voters: &[BTreeSet<MemberId>], survivors: &BTreeSet<MemberId>) -> (BTreeSet<MemberId>, bool) {
    let missing =
        |voters: &BTreeSet<MemberId>| voters.difference(survivors).copied().collect::<BTreeSet<_>>();
    let could_commit = voters.iter().any(|voters| voters.len() / 2 < missing(voters).len());
    (voters.last().map(missing).unwrap_or_default(), could_commit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::EntryKind;

    fn log(member: u64, checkpoint: (u64, u64), terms: &[u64], commit: u64) -> Survivor {
        let entries: Vec<Entry> = (checkpoint.0 + 1..)
            .zip(terms)
            .map(|(index, term)| Entry {
                index: LogIndex(index),
                term: Term(*term),
                kind: EntryKind::Normal,
                data: bytes::Bytes::new(),
            })
            .collect();
        let checkpoint = (LogIndex(checkpoint.0), Term(checkpoint.1));
        Survivor::new(MemberId(member), checkpoint, &entries, LogIndex(commit))
    }

    #[test]
    fn the_higher_last_term_is_further_than_the_longer_log() {
        let (long, late) = (log(1, (0, 0), &[1, 1, 1, 1], 2), log(2, (0, 0), &[1, 1, 3], 2));
        assert!(long.last() < late.last());
        assert_eq!(late.check(&long), Ok(()), "what the longer one has beyond was never committed");
        let longer = log(3, (1, 1), &[1, 3, 3], 2);
        assert!(late.last() < longer.last());
        assert_eq!(longer.check(&late), Ok(()));
        assert_eq!(log(4, (7, 2), &[], 7).last(), (Term(2), LogIndex(7)));
    }

    #[test]
    fn logs_that_no_cluster_makes_are_told() {
        let furthest = log(1, (2, 1), &[2, 3], 3);
        for (other, told) in [
            (log(2, (0, 0), &[1, 1, 2, 2, 2], 5), "knows entry 5 as committed"),
            (log(2, (2, 1), &[1, 1], 3), "entry 3 has term 2 in the log of member 1 and term 1"),
            (log(2, (2, 1), &[3], 2), "entry 3 has term 2"),
        ] {
            let told_of = furthest.check(&other).unwrap_err().to_string();
            assert!(told_of.replace("0000000000000001", "1").contains(told), "{told_of}");
        }
        // What the checkpoint covers is not compared.
        assert_eq!(furthest.check(&log(3, (0, 0), &[1], 1)), Ok(()));
    }

    #[test]
    fn lost_members_committed_alone_only_if_they_were_a_quorum_of_any_voters() {
        let ids = |ids: &[u64]| ids.iter().copied().map(MemberId).collect::<BTreeSet<_>>();
        for (voters, survivors, may) in [
            (&[1, 2, 3, 4, 5][..], &[1, 2][..], true),
            (&[1, 2, 3, 4, 5], &[1, 2, 3], false),
            (&[1, 2, 3], &[1], true),
            (&[1, 2, 3, 4], &[1, 2], false),
            (&[1, 2, 3, 4], &[1], true),
            (&[1], &[1], false),
        ] {
            let (missing, may_be) = lost(&[ids(voters)], &ids(survivors));
            assert_eq!(may_be, may, "{voters:?} {survivors:?}");
            assert_eq!(missing.len(), voters.len() - survivors.len());
        }
        // The fourth was removed, and a leader may not have known it yet.
        assert!(!lost(&[ids(&[1, 2, 3, 4]), ids(&[1, 2, 3])], &ids(&[1, 2])).1);
        assert!(lost(&[ids(&[1, 2, 3]), ids(&[1, 2])], &ids(&[1])).1);
    }
}
