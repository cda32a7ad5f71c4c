//! What a hub says to a watch stream, before it is bytes.

use bytes::Bytes;

use super::Event;

/// A watch stream of one shard, chosen by its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// Events of one response: some of a batch, without those that the watcher does not want.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Events<'a> {
    all: &'a [Event],
    /// Places in `all`, ascending.
    chosen: &'a [u32],
    count: usize,
    skips_puts: bool,
    skips_deletes: bool,
}

impl<'a> Events<'a> {
    /// The `chosen` ones of `all` that are puts, or deletes, or either. There are `count` of them.
    #[must_use]
    pub fn new(all: &'a [Event], chosen: &'a [u32], count: usize, puts: bool, deletes: bool) -> Self {
        Self { all, chosen, count, skips_puts: !puts, skips_deletes: !deletes }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Events that are looked at to find those that are wanted.
    #[cfg(test)]
    pub(super) fn span(&self) -> usize {
        self.chosen.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a Event> + use<'a> {
        let Self { all, skips_puts, skips_deletes, .. } = *self;
        let chosen = self.chosen.iter().map(move |&at| &all[at as usize]);
        chosen.filter(move |event| if event.is_delete { !skips_deletes } else { !skips_puts })
    }
}

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
    pub events: Events<'a>,
    /// All events as they are on the wire, if they were joined before: a revision of many events is, so that it
    /// is not written in one go, and once for all its watchers.
    pub joined: &'a [Bytes],
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
