//! Reading keys: the same code for a committed state and for a transaction's own.

use crate::mvcc::{KeyValueRef, Scan, Store, WriteTxn};
use crate::request::Rejection;
use crate::types::KeyRange;

/// Something that keys can be read from at a revision.
pub(super) trait View {
    /// The newest revision to read at.
    fn current(&self) -> i64;
    fn get(&self, key: &[u8], at: i64) -> Option<KeyValueRef<'_>>;
    fn count(&self, range: KeyRange<'_>, at: i64) -> u64;
    fn scan<'a>(&'a self, range: KeyRange<'a>, at: i64) -> Scan<'a>;
}

impl View for Store {
    fn current(&self) -> i64 {
        self.current_revision()
    }

    fn get(&self, key: &[u8], at: i64) -> Option<KeyValueRef<'_>> {
        Self::get(self, key, at)
    }

    fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        Self::count(self, range, at)
    }

    fn scan<'a>(&'a self, range: KeyRange<'a>, at: i64) -> Scan<'a> {
        Self::scan(self, range, at)
    }
}

impl View for WriteTxn<'_> {
    fn current(&self) -> i64 {
        self.revision()
    }

    fn get(&self, key: &[u8], at: i64) -> Option<KeyValueRef<'_>> {
        Self::get(self, key, at)
    }

    fn count(&self, range: KeyRange<'_>, at: i64) -> u64 {
        Self::count(self, range, at)
    }

    fn scan<'a>(&'a self, range: KeyRange<'a>, at: i64) -> Scan<'a> {
        Self::scan(self, range, at)
    }
}

/// Whether the store can be read at `revision`.
pub(super) fn check_readable(store: &Store, revision: i64) -> Result<(), Rejection> {
    let (compacted, current) = (store.compact_revision(), store.current_revision());
    if revision > current {
        return Err(Rejection::FutureRevision { required: revision, current });
    }
    // Reading at the compacted revision itself still works.
    if revision < compacted {
        return Err(Rejection::Compacted { required: revision, compacted });
    }
    Ok(())
}
