//! One version of a key as readers see it.

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
