//! Where a walk over the keys of a range stands between two slices.
//!
//! It holds nothing of the store but a key, which is found again however the index and the log have moved.

/// See the module.
#[derive(Debug, Default)]
pub struct Cursor {
    /// The last key that was visited.
    last: Option<Vec<u8>>,
}

impl Cursor {
    pub(super) fn last(&self) -> Option<&[u8]> {
        self.last.as_deref()
    }

    /// Stands at `key`.
    pub(super) fn set(&mut self, key: &[u8]) {
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
    }
}
