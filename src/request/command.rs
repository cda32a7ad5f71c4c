//! Commands: all that a client's call can ask of the rest of the member.

use std::sync::Arc;

use bytes::Bytes;

use super::{Login, Read, RequestKind};
use crate::types::MemberId;

/// What a client shard asks of the rest of the member.
#[derive(Debug)]
pub enum Command {
    /// Through consensus: `body` is the client's encoded request, already validated. `login` is absent where nobody has logged in.
    Propose { kind: RequestKind, body: Bytes, login: Option<Arc<Login>> },
    /// From the state machine.
    Read(Read),
    /// A change of who belongs to the cluster, or of who leads it.
    Member(MemberCall),
    /// How appends between the members go, as this one sees it. `pinion.peer.v1.AppendStats`.
    AppendStats,
}

/// A call about the cluster's members. Each answer's body is the named response message without its
/// header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberCall {
    /// `MemberAddResponse`. The URLs are checked.
    Add { peer_urls: Vec<String>, learner: bool },
    /// `MemberRemoveResponse`.
    Remove(MemberId),
    /// `MemberPromoteResponse`.
    Promote(MemberId),
    /// `MoveLeaderResponse`.
    MoveLeader(MemberId),
}
