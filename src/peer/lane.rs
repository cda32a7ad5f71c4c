//! Which connection a message travels on.
//!
//! Within a lane messages arrive in order; between lanes they may overtake each other, which raft
//! allows. All appends share a lane, the empty ones too: one that overtook its predecessor would be
//! rejected and slow the leader down.

use crate::raft::MessageKind;

/// One of the connections that a member keeps to another. The numbers are on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    /// Small and urgent: heartbeats, votes, acknowledgements, ReadIndex, leader transfer.
    Control = 1,
    /// Entries: appends, requests on their way to the leader, the word that a checkpoint comes.
    Append = 2,
    /// Questions with answers.
    Call = 3,
    /// One stream of bytes, then the connection ends.
    Bulk = 4,
}

impl Lane {
    /// The lane of a number on the wire.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Control, Self::Append, Self::Call, Self::Bulk].into_iter().find(|lane| *lane as u32 == number)
    }

    /// Whether raft's messages travel on it.
    #[must_use]
    pub fn is_raft(self) -> bool {
        matches!(self, Self::Control | Self::Append)
    }
}

/// The lane of a raft message.
#[must_use]
pub fn lane_of(kind: MessageKind) -> Lane {
    match kind {
        MessageKind::Append | MessageKind::Propose | MessageKind::Snapshot => Lane::Append,
        MessageKind::AppendResponse
        | MessageKind::RequestVote
        | MessageKind::RequestVoteResponse
        | MessageKind::Heartbeat
        | MessageKind::HeartbeatResponse
        | MessageKind::TransferLeader
        | MessageKind::TimeoutNow
        | MessageKind::ReadIndex
        | MessageKind::ReadIndexResponse
        | MessageKind::RequestPreVote
        | MessageKind::RequestPreVoteResponse => Lane::Control,
    }
}
