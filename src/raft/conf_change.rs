//! One change of who votes, as the log carries it.
//!
//! The bytes are protobuf, written and read by prost. raft-rs parses a change itself at the moment
//! it is proposed on the leader, with protobuf 2.x; so a change that comes from another member is
//! decoded here and encoded anew before raft-rs sees it, and what protobuf 2.x parses is always what
//! this file wrote.
//!
//! Invariants: an encoded change holds exactly one step. Joint configurations are never entered.

use ::raft::eraftpb;
use bytes::Bytes;
use prost::Message as _;

use crate::pb::peer as pb;
use crate::types::MemberId;

/// What happens to the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// Joins as a voter, or a learner becomes one.
    AddVoter,
    /// Leaves, voter or learner.
    Remove,
    /// Joins without a vote.
    AddLearner,
}

/// A membership change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfChange {
    pub kind: ConfChangeKind,
    pub member: MemberId,
    /// What the state machine needs to carry the change out and to answer who asked for it.
    pub context: Bytes,
}

/// The bytes of an entry are no membership change that this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("membership change of unknown form: {0}")]
pub struct ConfChangeUndecodable(pub String);

impl ConfChange {
    /// As an entry's data.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let change_type = match self.kind {
            ConfChangeKind::AddVoter => 0,
            ConfChangeKind::Remove => 1,
            ConfChangeKind::AddLearner => 2,
        };
        let step = pb::ConfChangeStep { change_type, node_id: self.member.0 };
        pb::ConfChange { transition: 0, changes: vec![step], context: self.context.clone() }
            .encode_to_vec()
            .into()
    }

    /// From an entry's data.
    ///
    /// # Errors
    /// When the bytes do not decode, or say something this version never writes.
    pub fn decode(data: Bytes) -> Result<Self, ConfChangeUndecodable> {
        let wire = pb::ConfChange::decode(data).map_err(|error| ConfChangeUndecodable(error.to_string()))?;
        let [step] = wire.changes.as_slice() else {
            return Err(ConfChangeUndecodable(format!("{} steps instead of one", wire.changes.len())));
        };
        if wire.transition != 0 {
            return Err(ConfChangeUndecodable(format!("transition {}", wire.transition)));
        }
        if step.node_id == 0 {
            return Err(ConfChangeUndecodable("member 0 cannot exist".to_owned()));
        }
        let kind = match step.change_type {
            0 => ConfChangeKind::AddVoter,
            1 => ConfChangeKind::Remove,
            2 => ConfChangeKind::AddLearner,
            other => return Err(ConfChangeUndecodable(format!("change type {other}"))),
        };
        Ok(Self { kind, member: MemberId(step.node_id), context: wire.context })
    }

    pub(super) fn to_library(&self) -> eraftpb::ConfChangeV2 {
        let mut step = eraftpb::ConfChangeSingle::default();
        step.set_change_type(match self.kind {
            ConfChangeKind::AddVoter => eraftpb::ConfChangeType::AddNode,
            ConfChangeKind::Remove => eraftpb::ConfChangeType::RemoveNode,
            ConfChangeKind::AddLearner => eraftpb::ConfChangeType::AddLearnerNode,
        });
        step.node_id = self.member.0;
        let mut change = eraftpb::ConfChangeV2::default();
        change.mut_changes().push(step);
        change
    }
}
