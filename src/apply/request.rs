//! A request as it travels through the log.

use bytes::Bytes;

use crate::types::{MemberId, Ticket};

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub member: MemberId,
    pub ticket: Ticket,
}

/// What a request's body is. The numbers are on disk: never reused, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RequestKind {
    /// `etcdserverpb.PutRequest`
    Put = 1,
    /// `etcdserverpb.DeleteRangeRequest`
    DeleteRange = 2,
    /// `etcdserverpb.TxnRequest`
    Txn = 3,
    /// `etcdserverpb.CompactionRequest`
    Compact = 4,
    /// `pinion.peer.v1.PublishMember`
    PublishMember = 5,
}

/// One request: the client's own bytes, not a re-encoded copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub origin: Origin,
    pub kind: RequestKind,
    pub body: Bytes,
}
