//! Large writes that are being prepared or wait for room, and what waits for them.

use std::time::Instant;

use crate::raft::Entry;
use crate::request::Request;

/// Entries that wait for a large write.
pub(super) struct Applying {
    /// The ring that brought them.
    pub slot: usize,
    /// The one with the write. None: it is applied, and others have their turn before the next.
    pub entry: Option<Unfinished>,
    pub entries: std::vec::IntoIter<Entry>,
}

impl Applying {
    /// Whether half a write is in the state.
    pub(super) fn is_preparing(&self) -> bool {
        self.entry.as_ref().is_some_and(|unfinished| unfinished.write.begun.is_some())
    }
}

/// An entry of which some requests are applied.
pub(super) struct Unfinished {
    pub entry: Entry,
    pub write: Write,
    /// The rest of its group.
    pub group: Admitted,
}

/// A large write.
pub(super) struct Write {
    pub request: Request,
    /// None: it waits for room.
    pub begun: Option<Instant>,
    /// Leases before it.
    pub leases: usize,
}

/// The requests of a group, of which some are applied.
pub(super) struct Admitted {
    pub begun: Instant,
    pub count: usize,
    pub left: std::vec::IntoIter<Request>,
}
