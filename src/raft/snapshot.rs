//! What a checkpoint stands for in the log: the entry it ends with and who was a member then.
//!
//! A new cluster starts from a checkpoint too, one that nobody wrote: every initial member computes
//! it from the configured membership alone, so all agree on it without a message.
//!
//! Invariants: voters and learners are sorted, disjoint, and voters is not empty.

use ::raft::eraftpb;

use crate::types::{LogIndex, MemberId, Term};

/// Where a checkpoint ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// The last entry the checkpoint contains.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// Members that vote, ascending, as of `index`.
    pub voters: Vec<MemberId>,
    /// Members that only receive, ascending, as of `index`.
    pub learners: Vec<MemberId>,
}

impl CheckpointMeta {
    /// The start of a new cluster: the initial members as if one entry of term 1 had made them.
    ///
    /// Index 0 will not do: raft-rs takes it for "no log at all", and a member that joins later must
    /// find a start to be sent. It is the same on every member, since it depends on the initial
    /// voters only, and the first leader's term is 2 or more.
    #[must_use]
    pub fn bootstrap(voters: impl IntoIterator<Item = MemberId>) -> Self {
        let mut voters: Vec<MemberId> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        Self { index: LogIndex(1), term: Term(1), voters, learners: Vec::new() }
    }

    /// The start of a member that joins a cluster which runs already: nothing, until a checkpoint of
    /// another member arrives. It knows nobody and cannot run for leader.
    #[must_use]
    pub fn joining() -> Self {
        Self { index: LogIndex(0), term: Term(0), voters: Vec::new(), learners: Vec::new() }
    }

    pub(super) fn contains(&self, member: MemberId) -> bool {
        self.voters.binary_search(&member).is_ok() || self.learners.binary_search(&member).is_ok()
    }

    /// Why these numbers cannot be a checkpoint's, if they cannot.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let ascends = |ids: &[MemberId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        if self.index.0 == 0 || self.term.0 == 0 {
            return Some("index and term start at 1");
        }
        if self.voters.is_empty() {
            return Some("no voter");
        }
        if !ascends(&self.voters) || !ascends(&self.learners) {
            return Some("members are not in ascending order");
        }
        if self.voters.contains(&MemberId(0)) || self.learners.contains(&MemberId(0)) {
            return Some("member 0 cannot exist");
        }
        if self.learners.iter().any(|learner| self.voters.binary_search(learner).is_ok()) {
            return Some("a member is both voter and learner");
        }
        None
    }

    pub(super) fn conf_state(&self) -> eraftpb::ConfState {
        let mut conf = eraftpb::ConfState::default();
        conf.set_voters(self.voters.iter().map(|id| id.0).collect());
        conf.set_learners(self.learners.iter().map(|id| id.0).collect());
        conf
    }

    pub(super) fn to_library(&self) -> eraftpb::Snapshot {
        let mut snapshot = eraftpb::Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.index.0;
        metadata.term = self.term.0;
        metadata.set_conf_state(self.conf_state());
        snapshot
    }

    pub(super) fn from_library(snapshot: &eraftpb::Snapshot) -> Self {
        let metadata = snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        let sorted = |ids: &[u64]| {
            let mut ids: Vec<MemberId> = ids.iter().map(|&id| MemberId(id)).collect();
            ids.sort_unstable();
            ids
        };
        Self {
            index: LogIndex(metadata.index),
            term: Term(metadata.term),
            voters: sorted(conf.get_voters()),
            learners: sorted(conf.get_learners()),
        }
    }
}
