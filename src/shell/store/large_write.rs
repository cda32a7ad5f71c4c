//! A large write that is being prepared, and what waits for it.

use std::time::Instant;

use crate::raft::Entry;
use crate::request::Request;

/// A large write under way, and what waits for it.
pub(super) struct Applying {
    /// The ring that brought it.
    pub slot: usize,
    pub write: Write,
    pub entry: Entry,
    /// The rest of its group.
    pub group: Admitted,
    /// The entries behind.
    pub entries: std::vec::IntoIter<Entry>,
}

pub(super) struct Write {
    pub request: Request,
    pub begun: Instant,
    /// Leases before it.
    pub leases: usize,
}

/// The requests of a group, of which some are applied.
pub(super) struct Admitted {
    pub begun: Instant,
    pub count: usize,
    pub left: std::vec::IntoIter<Request>,
}
