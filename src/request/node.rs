//! Nodes of the v2 API between the roles: what is asked of one, and by which numbers answers tell what happened.
//!
//! The messages are `pinion.peer.v1.Node…`; their numbers are here, and those of writes are on the disk.

use bytes::Bytes;

use crate::pb::peer;
use crate::types::NodePath;

/// A write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum NodeMethod {
    /// Whatever there is, but for a directory.
    Set = 1,
    /// There is nothing.
    Create = 2,
    /// A child whose name is the revision.
    CreateInOrder = 3,
    /// There is something.
    Update = 4,
    /// There is a key with this value or index.
    CompareAndSwap = 5,
    Delete = 6,
    CompareAndDelete = 7,
}

impl NodeMethod {
    pub const ALL: [Self; 7] = [
        Self::Set,
        Self::Create,
        Self::CreateInOrder,
        Self::Update,
        Self::CompareAndSwap,
        Self::Delete,
        Self::CompareAndDelete,
    ];

    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// `None` for a number of a later version.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.number() == number)
    }
}

/// What an answer or an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum NodeAction {
    Get = 1,
    Set = 2,
    Create = 3,
    Update = 4,
    CompareAndSwap = 5,
    Delete = 6,
    CompareAndDelete = 7,
    Expire = 8,
}

impl NodeAction {
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Get),
            2 => Some(Self::Set),
            3 => Some(Self::Create),
            4 => Some(Self::Update),
            5 => Some(Self::CompareAndSwap),
            6 => Some(Self::Delete),
            7 => Some(Self::CompareAndDelete),
            8 => Some(Self::Expire),
            _ => None,
        }
    }
}

/// Why the state does not allow it. The numbers are the v2 API's error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum NodeFault {
    NotFound = 100,
    CompareFailed = 101,
    NotFile = 102,
    NotDirectory = 104,
    Exists = 105,
    RootReadOnly = 107,
    NotEmpty = 108,
    /// What a wait asked for is compacted.
    Cleared = 401,
}

impl NodeFault {
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            100 => Some(Self::NotFound),
            101 => Some(Self::CompareFailed),
            102 => Some(Self::NotFile),
            104 => Some(Self::NotDirectory),
            105 => Some(Self::Exists),
            107 => Some(Self::RootReadOnly),
            108 => Some(Self::NotEmpty),
            401 => Some(Self::Cleared),
            _ => None,
        }
    }
}

/// A read of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeQuery {
    pub path: NodePath,
    /// Of a directory: all that is below it.
    pub recursive: bool,
    /// Only how far the state has come, and whether it may be read.
    pub is_standing: bool,
    /// The revision to read at; 0 is the current one. Of a standing: the first one whose changes are wanted.
    pub at: i64,
    /// Where a list goes on that earlier answers have begun.
    pub resume: Option<peer::NodeResume>,
}

/// A wait for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeWait {
    pub path: NodePath,
    /// Of what is below it, too.
    pub recursive: bool,
    /// The first revision that counts; 0 is the next one.
    pub from: i64,
    /// Of that revision, so many changes do not count: they were told before.
    pub passed: u32,
}

/// Names a wait to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitId(pub u64);

/// From a shard to the store.
#[derive(Debug)]
pub enum WaitOrder {
    Begin {
        id: WaitId,
        wait: Box<NodeWait>,
    },
    /// Nobody waits any more. Nothing follows for it but what is on its way.
    Cancel {
        id: WaitId,
    },
}

/// From the store to the shard that waits. A wait ends with its first news; one for more begins another.
#[derive(Debug)]
pub struct WaitNews {
    pub id: WaitId,
    /// `pinion.peer.v1.NodeAnswer`: an event, or why there will be none.
    pub answer: Bytes,
    /// Of the event's revision, so many changes are told with this one.
    pub passed: u32,
}
