//! What clients asked and were told, and what a watch says happened: the two halves that
//! `order.rs` holds against each other.

use std::collections::BTreeMap;
use std::fmt;

use crate::pb::mvccpb;

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
    /// All keys get the value, or none.
    PutAll {
        keys: Vec<String>,
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
    /// All of the workers' keys, by one request.
    DeleteAll,
    /// All keys, by one read.
    Read {
        serializable: bool,
    },
    /// All keys as they were.
    ReadAt {
        revision: i64,
    },
    Compact {
        revision: i64,
    },
    /// Leases are granted once under one id, and each has keys of its own.
    Grant {
        lease: i64,
        ttl_s: u64,
    },
    KeepAlive {
        lease: i64,
    },
    PutLeased {
        lease: i64,
        key: String,
        value: String,
    },
    Revoke {
        lease: i64,
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
    /// The revision that was to be read or compacted is compacted.
    Compacted,
    /// The revision that was to be read or compacted is to come.
    Future,
    /// Compacted, as asked.
    Compacts {
        revision: i64,
    },
    Granted {
        revision: i64,
    },
    /// The lease lives for its whole time again. A keep-alive reads no key, so its revision says nothing.
    Alive,
    Revoked {
        revision: i64,
    },
    /// There is no such lease.
    NoLease,
}

/// Leased keys begin so, and no others do: they may go without anybody's call.
pub const LEASED: &str = "lease/";

/// The lock's name; the keys under it come and go by the server's hand.
pub const LOCKED: &str = "lock";

/// Whether a worker writes this key, by calls that are noted.
pub fn is_workers(key: &str) -> bool {
    !key.starts_with(LEASED) && !key.starts_with(LOCKED)
}

/// A key of a lease.
pub fn leased_key(lease: i64, number: u32) -> String {
    format!("{LEASED}{lease}/{number}")
}

/// Whose key it is.
pub fn lease_of(key: &str) -> Option<i64> {
    key.strip_prefix(LEASED)?.split('/').next()?.parse().ok()
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
    /// The store's revision when the call took place, if the answer tells it.
    pub fn revision(&self) -> Option<i64> {
        match self {
            Self::Written { revision }
            | Self::Unequal { revision, .. }
            | Self::NothingDeleted { revision }
            | Self::Read { revision, .. }
            | Self::Compacts { revision }
            | Self::Granted { revision }
            | Self::Revoked { revision } => Some(*revision),
            Self::Compacted | Self::Future | Self::Alive | Self::NoLease => None,
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

/// A change as a watch tells it.
impl From<mvccpb::Event> for Event {
    fn from(event: mvccpb::Event) -> Self {
        let is_delete = event.r#type() == mvccpb::event::EventType::Delete;
        let kv = event.kv.expect("an event has a key");
        let key = String::from_utf8(kv.key.to_vec()).unwrap();
        Self { revision: kv.mod_revision, key, found: (!is_delete).then(|| Found::from(&kv)) }
    }
}

/// A key's state as an answer tells it.
impl From<&mvccpb::KeyValue> for Found {
    fn from(kv: &mvccpb::KeyValue) -> Self {
        Self {
            value: String::from_utf8(kv.value.to_vec()).unwrap(),
            created: kv.create_revision,
            modified: kv.mod_revision,
            version: kv.version,
        }
    }
}
