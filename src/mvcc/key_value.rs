//! One version of a key as readers see it.

use super::Mark;

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
    /// What the v2 API tells of the put; no part of any answer of v3.
    pub mark: Mark,
}

impl KeyValueRef<'_> {
    /// The revision of the version, if it has an expiry; else 0.
    #[inline]
    #[must_use]
    pub fn expiring(&self) -> i64 {
        if self.mark.expiry.is_some() { self.mod_revision } else { 0 }
    }
}
