//! Answers on their way to their callers.

use super::{Outcome, Refusal};
use crate::types::{Term, Ticket};

/// An answer on its way to the client shard that asked.
#[derive(Debug)]
pub struct Reply {
    pub ticket: Ticket,
    pub result: Result<Answer, Refusal>,
}

/// An answer of the state machine with the term it was given in.
#[derive(Debug)]
pub struct Answer {
    pub term: Term,
    pub outcome: Outcome,
}
