//! Keys and directories as answers show them.

use bytes::Bytes;

use crate::mvcc::{Expiry, KeyValueRef};
use crate::pb::peer;

/// A directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// 0 of the root.
    pub created: i64,
    pub modified: i64,
    pub expiry: Option<Expiry>,
    /// v2 has made it.
    pub has_entry: bool,
}

impl Directory {
    pub(super) const ROOT: Self = Self { created: 0, modified: 0, expiry: None, has_entry: false };

    /// Of an entry.
    pub(super) fn of_entry(entry: &KeyValueRef<'_>) -> Self {
        Self {
            created: created_index(entry),
            modified: entry.mod_revision,
            expiry: entry.mark.expiry,
            has_entry: true,
        }
    }

    /// The revision of its deadline; 0 for none.
    #[must_use]
    pub fn expiring(&self) -> i64 {
        if self.expiry.is_some() { self.modified } else { 0 }
    }
}

/// The createdIndex of a version.
#[must_use]
pub fn created_index(version: &KeyValueRef<'_>) -> i64 {
    if version.mark.created == 0 { version.mod_revision } else { version.mark.created }
}

pub(super) fn index(revision: i64) -> u64 {
    u64::try_from(revision).expect("revisions are not negative")
}

fn expiry_of(expiry: Option<Expiry>) -> Option<peer::NodeExpiry> {
    expiry.map(|Expiry { at_ns, ttl_s }| peer::NodeExpiry { at_ns, ttl_s })
}

/// A key, at this path.
#[must_use]
pub fn node_of_key(path: &[u8], kv: &KeyValueRef<'_>) -> peer::Node {
    peer::Node {
        path: Bytes::copy_from_slice(path),
        value: Bytes::copy_from_slice(kv.value),
        expiry: expiry_of(kv.mark.expiry),
        modified: index(kv.mod_revision),
        created: index(created_index(kv)),
        ..peer::Node::default()
    }
}

/// A directory, at this path.
#[must_use]
pub fn node_of_directory(path: &[u8], directory: &Directory) -> peer::Node {
    peer::Node {
        path: Bytes::copy_from_slice(path),
        is_directory: true,
        expiry: expiry_of(directory.expiry),
        modified: index(directory.modified),
        created: index(directory.created),
        ..peer::Node::default()
    }
}
