//! The store's surface.

use super::{Change, KeyValueRef, WriteTxn};
use crate::types::{KeyRange, Revision};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

/// A `hash_kv` that is taken in slices. See `Store::hash_slice`.
pub struct HashCursor {}
/// A checkpoint being written. Holds back physical compaction until `Store::end_checkpoint`.
pub struct CheckpointCursor {}
/// Rebuilds a store from a checkpoint's blocks.
pub struct Restore {}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("checkpoint of format {0} is not understood")]
    Version(u32),
    #[error("checkpoint block {block} is damaged: {what}")]
    Damaged { block: u64, what: &'static str },
    #[error("checkpoint ends early")]
    Truncated,
}

/// All keys, all retained versions.
pub struct Store {}

/// Iterator over live keys in key order. See `Store::scan`.
pub struct Scan<'a> {
    store: &'a Store,
}

/// Iterator over changes in revision order. See `Store::changes`.
pub struct Changes<'a> {
    store: &'a Store,
}

impl Store {
    /// An empty store: revision 1, nothing compacted (`compact_revision()` is -1).
    #[must_use]
    pub fn new() -> Self {
        unimplemented!()
    }
    /// Revision of the last committed write.
    #[must_use]
    pub fn current_revision(&self) -> i64 {
        unimplemented!()
    }
    /// Oldest readable revision; -1 if nothing was ever compacted.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        unimplemented!()
    }
    /// Keys alive at the current revision.
    #[must_use]
    pub fn keys_count(&self) -> u64 {
        unimplemented!()
    }
    /// Logical size: keys, values and a fixed overhead of every retained version. The same on all
    /// members that applied the same entries, whatever they have physically removed.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        unimplemented!()
    }
    /// The version of `key` visible at revision `at` (`compact_revision() <= at`; anything at or
    /// above the current revision means current). O(log keys + log versions).
    #[must_use]
    pub fn get(&self, _key: &[u8], _at: i64) -> Option<KeyValueRef<'_>> {
        unimplemented!()
    }
    /// Keys of `range` alive at `at`. O(log keys) at the current revision.
    #[must_use]
    pub fn count(&self, _range: KeyRange<'_>, _at: i64) -> u64 {
        unimplemented!()
    }
    /// Live keys of `range` at `at`, in key order. O(log keys + items) at the current revision.
    /// Values are not touched until the caller reads them.
    #[must_use]
    pub fn scan(&self, _range: KeyRange<'_>, _at: i64) -> Scan<'_> {
        unimplemented!()
    }
    /// Starts the one write transaction. Dropped without `commit` it leaves no trace.
    pub fn begin(&mut self) -> WriteTxn<'_> {
        unimplemented!()
    }
    /// Makes revisions below `revision` unreadable at once. The caller has checked
    /// `compact_revision() < revision <= current_revision()`. Memory comes back by `compact_slice`.
    pub fn compact(&mut self, _revision: i64) {
        unimplemented!()
    }
    /// Removes compacted history, about `steps` records' worth of work. True when nothing is left
    /// to do (or all that is left waits for a running checkpoint).
    pub fn compact_slice(&mut self, _steps: usize) -> bool {
        unimplemented!()
    }
    /// etcd's `HashKV` at `revision` (`compact_revision() <= revision <= current_revision()`).
    #[must_use]
    pub fn hash_kv(&self, _revision: i64) -> HashKv {
        unimplemented!()
    }
    /// Starts a sliced `hash_kv`.
    #[must_use]
    pub fn begin_hash(&self, _revision: i64) -> HashCursor {
        unimplemented!()
    }
    /// Hashes about `records` records more. `Some` when done. `Err` with the compact revision if a
    /// compaction overtook the cursor: the answer would no longer be any single state's hash.
    pub fn hash_slice(&self, _cursor: &mut HashCursor, _records: usize) -> Result<Option<HashKv>, i64> {
        unimplemented!()
    }
    /// All changes from `from` on (`compact_revision() <= from.main`), in revision order. For
    /// revisions at the compact revision only what a compaction keeps is left.
    #[must_use]
    pub fn changes(&self, _from: Revision) -> Changes<'_> {
        unimplemented!()
    }
    /// Starts a checkpoint of the current revision. Writes may go on; physical compaction beyond
    /// the present compact revision waits until `end_checkpoint`.
    pub fn begin_checkpoint(&mut self) -> CheckpointCursor {
        unimplemented!()
    }
    /// Appends about `bytes_max` bytes of the next block to `out`. True when that was the last.
    pub fn checkpoint_slice(&self, _c: &mut CheckpointCursor, _bytes_max: usize, _out: &mut Vec<u8>) -> bool {
        unimplemented!()
    }
    /// Releases a checkpoint, finished or abandoned.
    pub fn end_checkpoint(&mut self, _c: CheckpointCursor) {
        unimplemented!()
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = KeyValueRef<'a>;
    fn next(&mut self) -> Option<KeyValueRef<'a>> {
        let _ = self.store;
        unimplemented!()
    }
}
impl<'a> Iterator for Changes<'a> {
    type Item = Change<'a>;
    fn next(&mut self) -> Option<Change<'a>> {
        let _ = self.store;
        unimplemented!()
    }
}

impl Restore {
    #[must_use]
    pub fn new() -> Self {
        unimplemented!()
    }
    /// Takes the next block, exactly as `checkpoint_slice` appended it.
    pub fn feed(&mut self, _block: &[u8]) -> Result<(), RestoreError> {
        unimplemented!()
    }
    pub fn finish(self) -> Result<Store, RestoreError> {
        unimplemented!()
    }
}
impl Default for Restore {
    fn default() -> Self {
        Self::new()
    }
}
