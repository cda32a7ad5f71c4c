//! The multi-version store: every key's value at every revision that is not yet compacted.
//!
//! One revision-ordered log holds all records, values included (`log`, `record`); one B+tree maps
//! each key to its newest record (`tree`). Reads, write transactions, compaction, hashing, watch
//! catch-up and checkpoints are all views of these two. Leases, auth and request semantics live
//! elsewhere: here a lease is a number kept beside the value.
mod checkpoint;
mod compaction;
mod crc32c;
mod hash;
mod key_block;
mod log;
mod record;
mod restore;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod txn;

pub use checkpoint::CheckpointCursor;
pub use hash::{HashCursor, HashKv, HashOvertaken};
pub use restore::{Restore, RestoreError};
pub use store::{Changes, Scan, Store};
pub use txn::WriteTxn;

use crate::types::Revision;

/// One version of a key, borrowed from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyValueRef<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
    /// Main revision of the put that (re)created the key.
    pub create_revision: i64,
    /// Main revision of the put that wrote this version.
    pub mod_revision: i64,
    /// Position of that put among the changes of its request.
    pub sub: i64,
    /// 1 for the put that created the key, one more for each put since.
    pub version: i64,
    /// Attached lease, 0 for none.
    pub lease: i64,
}

/// One entry of the by-revision history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    pub revision: Revision,
    pub key: &'a [u8],
    /// The version a put wrote; `None` for a delete.
    pub put: Option<KeyValueRef<'a>>,
}
