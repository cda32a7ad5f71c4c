//! One change of the history as readers see it.

use super::record::Record;
use super::{KeyValueRef, Mark};
use crate::types::Revision;

/// One entry of the by-revision history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    pub revision: Revision,
    pub key: &'a [u8],
    /// The version a put wrote; `None` for a delete.
    pub put: Option<KeyValueRef<'a>>,
    /// What the v2 API tells of it.
    pub mark: Mark,
    /// Record of the key's previous version, as far as there was one.
    pub(super) before: Option<u64>,
}

impl<'a> Change<'a> {
    pub(super) fn new(record: &Record<'a>) -> Self {
        Self {
            revision: Revision::new(record.main, record.sub),
            key: record.key,
            put: record.key_value(),
            mark: record.mark,
            before: record.links.map(|links| links.previous),
        }
    }
}
