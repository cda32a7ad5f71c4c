//! The keys of a watcher, owned.

use bytes::Bytes;

use crate::types::KeyRange;

/// A watcher's `key` and `range_end`, with an empty key already read as the smallest one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchRange {
    key: Bytes,
    range_end: Bytes,
}

impl WatchRange {
    /// Unlike everywhere else an empty key is allowed and means `\0`.
    #[must_use]
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        let key = if key.is_empty() { Bytes::from_static(b"\0") } else { key };
        Self { key, range_end }
    }

    /// The keys it means.
    #[must_use]
    pub fn keys(&self) -> KeyRange<'_> {
        KeyRange::new(&self.key, &self.range_end)
    }

    /// `key` and `range_end` of a request for these keys.
    #[must_use]
    pub fn as_request(&self) -> (Bytes, Bytes) {
        (self.key.clone(), self.range_end.clone())
    }

    /// Bytes of its two keys.
    #[must_use]
    pub fn bytes_count(&self) -> usize {
        self.key.len() + self.range_end.len()
    }
}
