//! A member's part in consensus.

use raft::StateRole;

/// A member's part at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftState {
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    Candidate,
    Leader,
}

impl From<StateRole> for RaftState {
    fn from(state: StateRole) -> Self {
        match state {
            StateRole::Follower => Self::Follower,
            StateRole::PreCandidate => Self::PreCandidate,
            StateRole::Candidate => Self::Candidate,
            StateRole::Leader => Self::Leader,
        }
    }
}
