//! A change as watchers get it, encoded once.

use bytes::Bytes;

/// One change. All watchers on all shards share its bytes.
///
/// On the wire an event is `mvccpb.Event`: what is in `body`, then what is in `previous` if the
/// watcher asked for it. Protobuf's last field is `prev_kv`, so the two halves are simply joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Main revision.
    pub revision: i64,
    /// Shares `body`'s bytes.
    pub key: Bytes,
    pub is_delete: bool,
    /// `mvccpb.Event` without `prev_kv`.
    pub body: Bytes,
    /// The field `prev_kv`, tag and length included; empty where there was no previous version, where
    /// its revision is compacted, and where no subscriber of this key on this shard asked for it.
    pub previous: Bytes,
}

/// All changes with `after < revision <= through` in the ranges it was made for, in revision order
/// and within a revision in the order they were made. Never a part of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub after: i64,
    pub through: i64,
    pub events: Vec<Event>,
}
