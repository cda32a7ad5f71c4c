//! Whether rights are asked for, as one word that all roles of a process read.
//!
//! The store writes it when it has applied a change and before it answers anybody about it; a shard reads it at each
//! call. So whoever was told of a change meets it at every shard of this member. It is read much and written
//! rarely, so it is in every core's cache. All else about users and roles only the store knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module. Clones are one.
#[derive(Debug, Clone, Default)]
pub(in crate::shell) struct Rights(Arc<AtomicU64>);

impl Rights {
    /// What the state machine says now.
    pub(in crate::shell) fn set(&self, is_enabled: bool, revision: u64) {
        let revision = if is_enabled { revision.max(1) } else { 0 };
        self.0.store(revision, Ordering::Release);
    }

    /// The auth revision, where rights are asked for.
    #[inline]
    pub(in crate::shell) fn revision(&self) -> Option<u64> {
        match self.0.load(Ordering::Acquire) {
            0 => None,
            revision => Some(revision),
        }
    }
}
