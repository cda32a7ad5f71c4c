//! One atomic write.

use super::{KeyValueRef, Scan, Store};
use crate::types::{KeyRange, Revision};

/// A write transaction: all its changes share one main revision, or none of them ever was.
pub struct WriteTxn<'a> {
    store: &'a mut Store,
}

impl WriteTxn<'_> {
    /// Writes a version of `key`. Does not look at the lease: 0 detaches, any other number is kept.
    pub fn put(&mut self, _key: &[u8], _value: &[u8], _lease: i64) -> Revision {
        unimplemented!()
    }
    /// Deletes every live key of `range`, in key order; returns how many. `deleted` sees each
    /// version just before it is superseded (for `prev_kv` and lease detachment).
    pub fn delete_range(&mut self, _range: KeyRange<'_>, _deleted: impl FnMut(KeyValueRef<'_>)) -> u64 {
        unimplemented!()
    }
    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        unimplemented!()
    }
    /// What a read inside the transaction sees: the revision before it, or that plus one once
    /// something was written. Pass it as `at` to read the transaction's own state.
    #[must_use]
    pub fn revision(&self) -> i64 {
        unimplemented!()
    }
    /// The revision before the transaction. Pass it as `at` to read the state before it, even
    /// after writes.
    #[must_use]
    pub fn base_revision(&self) -> i64 {
        unimplemented!()
    }
    /// As `Store::get`; `at` may be `revision()`.
    #[must_use]
    pub fn get(&self, _key: &[u8], _at: i64) -> Option<KeyValueRef<'_>> {
        unimplemented!()
    }
    #[must_use]
    pub fn count(&self, _range: KeyRange<'_>, _at: i64) -> u64 {
        unimplemented!()
    }
    #[must_use]
    pub fn scan(&self, _range: KeyRange<'_>, _at: i64) -> Scan<'_> {
        let _ = &self.store;
        unimplemented!()
    }
    /// Keeps the changes. Returns the store's revision: one more if anything changed.
    pub fn commit(self) -> i64 {
        unimplemented!()
    }
}
