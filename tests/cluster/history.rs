//! What clients asked and were told, and what a watch says happened: the two halves that
//! `check.rs` holds against each other.

use std::collections::BTreeMap;
use std::fmt;

/// Nanoseconds since the history began.
pub type Moment = u64;

/// A client's call.
#[derive(Debug, Clone)]
pub struct Op {
    /// The connection it used. Calls on one connection follow one another and reach one start of one
    /// member.
    pub connection: u64,
    pub member: usize,
    pub invoked: Moment,
    /// Absent while nothing is known: the call was not answered, or with an error. It may have been
    /// carried out, then or later.
    pub completed: Option<Moment>,
    pub call: Call,
    pub answer: Option<Answer>,
}

/// What was asked. Values that are written are written once in a history, so an event names its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Put {
        key: String,
        value: String,
    },
    /// Both keys get the value, or neither.
    PutPair {
        keys: [String; 2],
        value: String,
    },
    /// If the key has not changed since `expected` (its revision, 0: absent), put; else get.
    Cas {
        key: String,
        expected: i64,
        value: String,
    },
    Delete {
        key: String,
    },
    /// All keys, by one read.
    Read {
        serializable: bool,
    },
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A write happened at this revision.
    Written {
        revision: i64,
    },
    /// The compare failed, and this is the key's state.
    Unequal {
        revision: i64,
        found: Option<Found>,
    },
    /// The key to be deleted was not there.
    NothingDeleted {
        revision: i64,
    },
    Read {
        revision: i64,
        found: BTreeMap<String, Found>,
    },
}

/// A key's state in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub value: String,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
}

/// What one revision did, by a watch from the first revision on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub revision: i64,
    pub key: String,
    /// Absent: deleted.
    pub found: Option<Found>,
}

impl Answer {
    pub fn revision(&self) -> i64 {
        match self {
            Self::Written { revision }
            | Self::Unequal { revision, .. }
            | Self::NothingDeleted { revision }
            | Self::Read { revision, .. } => *revision,
        }
    }
}

impl Op {
    /// Whether the answer must reflect everything that was answered before it was asked.
    pub fn is_linearizable(&self) -> bool {
        self.call != Call::Read { serializable: true }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} by connection {} of member {}, ", self.call, self.connection, self.member)?;
        match (self.completed, &self.answer) {
            (Some(completed), Some(answer)) => {
                write!(f, "asked at {} ns, answered at {completed} ns: {answer:?}", self.invoked)
            }
            _ => write!(f, "asked at {} ns, unanswered", self.invoked),
        }
    }
}
