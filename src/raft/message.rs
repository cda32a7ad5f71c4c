//! Messages between members: raft-rs's, in our own framing.
//!
//! raft-rs's messages are protobuf 2.x types, whose parser can be made to overflow the stack
//! (RUSTSEC-2024-0437). So the wire form is a prost message of ours, and this file converts. A
//! `Message` is either made by raft-rs on this member or decoded here; what is decoded has been
//! checked for everything that can be checked without knowing the receiver's state, because raft-rs
//! trusts its peers and panics where they err. `Node::step` checks the rest.
//!
//! What the network may do: lose, delay, reorder and repeat messages. A `Propose`, by which a follower hands
//! requests to the leader, is no exception: its groups are applied once (`apply::session`).
//!
//! Invariants of a decoded message: kind known and meant for the network; a term where the kind has
//! one and none where it has none; entries contiguous, terms rising and none above the message's.
//! Compatibility: `FORMAT` rises when an older reader would misread; a reader refuses a higher one.

use ::raft::eraftpb::{self, MessageType};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::conf_change::ConfChange;
use super::entry::EntryKind;
use super::read_index::CONTEXT_BYTES;
use super::snapshot::CheckpointMeta;
use crate::pb::peer as pb;
use crate::types::{LogIndex, MemberId, Term};

/// The wire form's version.
const FORMAT: u32 = 1;

/// At a million entries a second a cluster gets there in 146,000 years.
const NUMBER_MAX: u64 = 1 << 62;

/// What a message is for. The numbers are on the wire: never reused, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageKind {
    Propose = 1,
    Append = 2,
    AppendResponse = 3,
    RequestVote = 4,
    RequestVoteResponse = 5,
    Snapshot = 6,
    Heartbeat = 7,
    HeartbeatResponse = 8,
    TransferLeader = 9,
    TimeoutNow = 10,
    ReadIndex = 11,
    ReadIndexResponse = 12,
    RequestPreVote = 13,
    RequestPreVoteResponse = 14,
}

const KINDS: [(MessageKind, MessageType); 14] = [
    (MessageKind::Propose, MessageType::MsgPropose),
    (MessageKind::Append, MessageType::MsgAppend),
    (MessageKind::AppendResponse, MessageType::MsgAppendResponse),
    (MessageKind::RequestVote, MessageType::MsgRequestVote),
    (MessageKind::RequestVoteResponse, MessageType::MsgRequestVoteResponse),
    (MessageKind::Snapshot, MessageType::MsgSnapshot),
    (MessageKind::Heartbeat, MessageType::MsgHeartbeat),
    (MessageKind::HeartbeatResponse, MessageType::MsgHeartbeatResponse),
    (MessageKind::TransferLeader, MessageType::MsgTransferLeader),
    (MessageKind::TimeoutNow, MessageType::MsgTimeoutNow),
    (MessageKind::ReadIndex, MessageType::MsgReadIndex),
    (MessageKind::ReadIndexResponse, MessageType::MsgReadIndexResp),
    (MessageKind::RequestPreVote, MessageType::MsgRequestPreVote),
    (MessageKind::RequestPreVoteResponse, MessageType::MsgRequestPreVoteResponse),
];

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("raft message does not decode: {0}")]
    Undecodable(String),
    #[error("raft message of format {0}, this version reads up to {FORMAT}: update this member")]
    Format(u32),
    #[error("raft message of kind {0}, which this version does not know")]
    Kind(u32),
    #[error("raft entry of kind {0}, which this version does not know")]
    EntryKind(u32),
    #[error("{kind:?} message is malformed: {fault}")]
    Malformed { kind: MessageKind, fault: String },
}

/// A raft message, made by a `Node` or decoded from another member's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Message(pub(super) eraftpb::Message);

impl Message {
    /// Who sent it; of a `Propose`, `ReadIndex` or `TransferLeader`, which followers pass on, who sent
    /// it first.
    #[must_use]
    pub fn from(&self) -> MemberId {
        MemberId(self.0.from)
    }

    #[must_use]
    pub fn to(&self) -> MemberId {
        MemberId(self.0.to)
    }

    /// Of an append: the last entry in it, or the one before if it has none. Of its answer: the last entry that is
    /// there.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.0.index + self.0.entries.len() as u64)
    }

    #[must_use]
    pub fn term(&self) -> Term {
        Term(self.0.term)
    }

    /// # Panics
    /// Never: raft-rs sends no other kinds, and decoding lets no other in.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        let library = self.0.get_msg_type();
        let known = KINDS.iter().find(|(_, kind)| *kind == library);
        known.expect("raft-rs keeps its local message kinds to itself").0
    }

    /// Bytes of the entries' data.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        self.0.get_entries().iter().map(|entry| entry.data.len()).sum()
    }

    /// The data of the entries.
    pub fn entry_data(&self) -> impl Iterator<Item = (EntryKind, Bytes)> {
        self.0
            .get_entries()
            .iter()
            .map(|entry| (EntryKind::from_library(entry.get_entry_type()), entry.data.clone()))
    }

    /// The checkpoint a `Snapshot` message stands for; its content travels apart and must be
    /// installable before the message is stepped.
    #[must_use]
    pub fn checkpoint(&self) -> Option<CheckpointMeta> {
        (self.kind() == MessageKind::Snapshot).then(|| CheckpointMeta::from_library(self.0.get_snapshot()))
    }

    /// Appends the wire form to `buffer`. The entries' data is copied once, from the log to there.
    ///
    /// # Panics
    /// When raft-rs uses a field that the wire form lacks: a conversion that loses something must
    /// not pass for one that works.
    pub fn encode(&self, buffer: &mut BytesMut) {
        self.to_wire().encode(buffer).expect("a BytesMut grows");
    }

    /// Bytes that `encode` will append.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.to_wire().encoded_len()
    }

    fn to_wire(&self) -> pb::RaftMessage {
        let message = &self.0;
        let entries = message.get_entries().iter().map(|entry| {
            assert!(entry.context.is_empty(), "entry context is not part of the wire form");
            pb::RaftEntry {
                index: entry.index,
                term: entry.term,
                kind: u32::from(EntryKind::from_library(entry.get_entry_type()).number()),
                data: entry.data.clone(),
            }
        });
        let snapshot = message.has_snapshot().then(|| {
            assert!(message.get_snapshot().data.is_empty(), "a checkpoint's content travels apart");
            let meta = CheckpointMeta::from_library(message.get_snapshot());
            pb::RaftSnapshot {
                index: meta.index.0,
                term: meta.term.0,
                voters: meta.voters.iter().map(|id| id.0).collect(),
                learners: meta.learners.iter().map(|id| id.0).collect(),
            }
        });
        pb::RaftMessage {
            format: FORMAT,
            kind: self.kind() as u32,
            to: message.to,
            from: message.from,
            term: message.term,
            log_term: message.log_term,
            index: message.index,
            commit: message.commit,
            commit_term: message.commit_term,
            entries: entries.collect(),
            snapshot,
            request_snapshot: message.request_snapshot,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.context.clone(),
            priority: message.priority,
        }
    }

    /// Reads the wire form. The entries' data stays a part of `bytes`.
    ///
    /// # Errors
    /// When the bytes are no message, one of a later version, or one that no member would send.
    pub fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        let wire =
            pb::RaftMessage::decode(bytes).map_err(|error| MessageError::Undecodable(error.to_string()))?;
        if wire.format != FORMAT {
            return Err(MessageError::Format(wire.format));
        }
        let known = KINDS.iter().find(|(kind, _)| *kind as u32 == wire.kind);
        let &(kind, library_kind) = known.ok_or(MessageError::Kind(wire.kind))?;
        let malformed = |fault: String| MessageError::Malformed { kind, fault };

        let mut message = eraftpb::Message::default();
        message.set_msg_type(library_kind);
        message.to = wire.to;
        message.from = wire.from;
        message.term = wire.term;
        message.log_term = wire.log_term;
        message.index = wire.index;
        message.commit = wire.commit;
        message.commit_term = wire.commit_term;
        message.request_snapshot = wire.request_snapshot;
        message.reject = wire.reject;
        message.reject_hint = wire.reject_hint;
        message.context = wire.context;
        message.priority = wire.priority;
        // raft-rs sets both for members older than its 0.7; the newer field rules.
        message.deprecated_priority = u64::try_from(wire.priority).unwrap_or(0);
        let mut entries = Vec::with_capacity(wire.entries.len());
        for entry in wire.entries {
            let number = u8::try_from(entry.kind).map_err(|_| MessageError::EntryKind(entry.kind))?;
            let kind = EntryKind::from_number(number).ok_or(MessageError::EntryKind(entry.kind))?;
            let mut data = entry.data;
            if kind == EntryKind::ConfChange {
                let change = ConfChange::decode(data).map_err(|error| malformed(error.to_string()))?;
                data = change.encode();
            }
            let mut library = eraftpb::Entry::default();
            library.set_entry_type(kind.to_library());
            library.index = entry.index;
            library.term = entry.term;
            library.data = data;
            entries.push(library);
        }
        message.set_entries(entries.into());
        if let Some(snapshot) = wire.snapshot {
            let meta = CheckpointMeta {
                index: LogIndex(snapshot.index),
                term: Term(snapshot.term),
                voters: snapshot.voters.into_iter().map(MemberId).collect(),
                learners: snapshot.learners.into_iter().map(MemberId).collect(),
            };
            if let Some(fault) = meta.fault() {
                return Err(malformed(fault.to_owned()));
            }
            message.set_snapshot(meta.to_library());
        }
        match fault(kind, &message) {
            Some(fault) => Err(malformed(fault.to_owned())),
            None => Ok(Self(message)),
        }
    }
}

/// What is wrong with a message, whoever receives it. Each line names a place where raft-rs would
/// panic or take the message for a local one.
fn fault(kind: MessageKind, message: &eraftpb::Message) -> Option<&'static str> {
    use MessageKind as K;
    let entries = message.get_entries();
    if message.from == 0 || message.to == 0 {
        return Some("no sender or no receiver");
    }
    // What is passed on to the leader keeps its first sender, who may lead by now.
    if message.from == message.to && !matches!(kind, K::TransferLeader | K::Propose | K::ReadIndex) {
        return Some("sender and receiver are one");
    }
    // raft-rs adds to these without asking whether they still fit.
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        message.request_snapshot,
    ];
    if numbers.iter().any(|number| NUMBER_MAX < *number) {
        return Some("a position or term that no cluster reaches");
    }
    // raft-rs takes term 0 for "made on this member" and skips every check of terms.
    if (message.term == 0) != matches!(kind, K::Propose | K::ReadIndex) {
        return Some("a term where none belongs, or none where one does");
    }
    if message.has_snapshot() != (kind == K::Snapshot) {
        return Some("a checkpoint where none belongs, or none where one does");
    }
    if message.has_snapshot() && message.term < message.get_snapshot().get_metadata().term {
        return Some("a checkpoint from the future");
    }
    match kind {
        K::Propose if entries.is_empty() => Some("nothing proposed"),
        K::Propose => None,
        // `entries[0]` is read without asking.
        K::ReadIndex | K::ReadIndexResponse
            if entries.len() != 1 || entries[0].data.len() != CONTEXT_BYTES =>
        {
            Some("no read context")
        }
        K::ReadIndex | K::ReadIndexResponse => None,
        K::Append => {
            // A position past the end has term 0 for raft-rs: it would match, and leave a gap.
            if message.index == 0 || message.log_term == 0 {
                return Some("follows no entry");
            }
            let (mut index, mut term) = (message.index, message.log_term);
            for entry in entries {
                if index.checked_add(1) != Some(entry.index) {
                    return Some("entries are not contiguous");
                }
                if entry.term < term {
                    return Some("terms fall");
                }
                (index, term) = (entry.index, entry.term);
            }
            (message.term < term).then_some("an entry from the future")
        }
        _ if !entries.is_empty() => Some("entries where none belong"),
        _ => None,
    }
}
