//! Origins of requests: whoever waits for the answer, and the log entry that holds the request.

use crate::types::{LogIndex, MemberId, Term, Ticket};

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub member: MemberId,
    pub ticket: Ticket,
}

/// The log entry in which a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryId {
    pub index: LogIndex,
    pub term: Term,
}
