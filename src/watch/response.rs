//! What a hub says to a watch stream, before it is bytes.

use super::Event;

/// A watch stream of one shard, chosen by its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One `etcdserverpb.WatchResponse`; the shell adds the header's identity and term.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response<'a> {
    pub watch_id: i64,
    /// `header.revision`.
    pub revision: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: &'static str,
    pub fragment: bool,
    pub events: &'a [&'a Event],
    /// The watcher asked for `prev_kv`: events are written with their `previous`.
    pub previous: bool,
}

/// Where a hub's responses go: the shell's outboxes, or a test's lists.
pub trait Sink {
    /// Whether events may be pushed to the stream. Its client reads too slowly while they may not;
    /// its watchers then fall behind and hold nothing. Other responses are pushed regardless.
    fn has_room(&self, stream: StreamId) -> bool;

    /// Takes one response.
    fn push(&mut self, stream: StreamId, response: &Response<'_>);
}
