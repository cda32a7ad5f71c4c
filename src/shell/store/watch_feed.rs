//! The watch feed on the store's rings: orders in, batches and answers out.
//!
//! Notices are sent in the order the feed makes them and never refused: nobody could take them back.
//! A ring that is full goes on in its producer's list (`mesh`), which holds what was applied while the
//! shard was busy with one turn.

use crate::mvcc::Store;
use crate::replica::exchange::ToShard;
use crate::shell::runtime::mesh::Sender;
use crate::shell::runtime::scrape::now_ns;
use crate::types::{Slice, Term};
use crate::watch::{Feed, Notice, Order};

/// The feed of the store role.
#[derive(Debug)]
pub(in crate::shell) struct WatchFeed {
    feed: Feed,
}

impl WatchFeed {
    #[must_use]
    pub(in crate::shell) fn new(shards: usize, store: &Store) -> Self {
        Self { feed: Feed::new(shards, store.current_revision()) }
    }

    /// Takes an order of `shard`'s hub.
    pub(in crate::shell) fn on_order(
        &mut self,
        shard: u16,
        order: Order,
        store: &Store,
        to_shards: &[Sender<ToShard>],
        term: Term,
    ) {
        if let Some(notice) = self.feed.on_order(shard, order, store) {
            send(to_shards, shard, term, notice);
        }
    }

    /// Encodes what a large write has changed, before it is committed. True when that is all.
    pub(in crate::shell) fn prepare(&mut self, store: &Store, slice: &mut Slice) -> bool {
        self.feed.prepare(store, slice)
    }

    /// Sends what was applied since the last call.
    #[inline]
    pub(in crate::shell) fn collect(&mut self, store: &Store, to_shards: &[Sender<ToShard>], term: Term) {
        self.feed.collect(store, |shard, batch| send(to_shards, shard, term, Notice::Batch(batch)));
    }

    /// Tells all shards that another member's checkpoint has taken the store's place.
    pub(in crate::shell) fn jump(&mut self, store: &Store, to_shards: &[Sender<ToShard>], term: Term) {
        self.feed.jump(store, |shard, notice| send(to_shards, shard, term, notice));
    }

    /// One slice of history. Whether there is more to do.
    pub(in crate::shell) fn work(
        &mut self,
        store: &Store,
        to_shards: &[Sender<ToShard>],
        term: Term,
        slice: &mut Slice,
    ) -> bool {
        if !self.feed.has_work() {
            return false;
        }
        self.feed.work(store, slice, |shard, notice| send(to_shards, shard, term, notice));
        self.feed.has_work()
    }
}

fn send(to_shards: &[Sender<ToShard>], shard: u16, term: Term, notice: Notice) {
    to_shards[usize::from(shard)].send_always(ToShard::Watch { term, notice, made_ns: now_ns() });
}
