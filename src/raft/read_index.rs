//! The name of a ReadIndex round.
//!
//! raft-rs carries it to the leader, through the heartbeats of the round, and back. Two rounds must
//! never share a name: a late answer to one would let the reads of the other see an older state. So
//! the name holds the member, its incarnation (a number that differs at every start) and a count.
//! Without the incarnation, an answer to round 1 from before a restart, delayed in the network,
//! would confirm the reads of round 1 after it.

use bytes::{Buf, BufMut, Bytes};

use crate::types::MemberId;

pub(super) const CONTEXT_BYTES: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadContext {
    pub(super) member: MemberId,
    pub(super) incarnation: u64,
    pub(super) round: u64,
}

impl ReadContext {
    pub(super) fn encode(self) -> Bytes {
        let mut bytes = Vec::with_capacity(CONTEXT_BYTES);
        bytes.put_u64(self.member.0);
        bytes.put_u64(self.incarnation);
        bytes.put_u64(self.round);
        bytes.into()
    }

    /// `None` when the bytes are no round's name: then nobody here waits for it.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() != CONTEXT_BYTES {
            return None;
        }
        Some(Self { member: MemberId(bytes.get_u64()), incarnation: bytes.get_u64(), round: bytes.get_u64() })
    }
}
