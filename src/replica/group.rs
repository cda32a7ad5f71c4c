//! A closed group of requests on its way to a leader.

use bytes::Bytes;

/// See the module.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) data: Bytes,
    /// Its place among all groups of this start of the member.
    pub(super) number: u64,
    /// When its first request arrived.
    pub(super) opened_tick: u64,
    /// It holds a part of a large request.
    pub(super) is_part: bool,
}
