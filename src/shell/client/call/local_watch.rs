//! A watcher of the server's own: what `Lock` and `Election` wait with.
//!
//! A stream of the shard's hub like any other, whose responses are handed to a task instead of a
//! client. A task that does not ask for its news falls behind as a client does that does not read.
//!
//! A revision has few events for a task: one of a key, or of a range its puts, which are as many as a transaction may
//! have. So news need no slices, though the hub may look at a million deletions for them, which it does in slices.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::end::Ended;
use super::outbox::Outbox;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::rpc::{Status, status};
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::signal::Signal;
use crate::types::KeyRange;
use crate::watch::{Event, WatchRange};

/// What a watcher learnt.
#[derive(Debug)]
pub(in crate::shell::client) enum News {
    /// Changes in order, whole revisions.
    Events(Vec<Event>),
    /// History was compacted up to and including this revision - 1 before it was read. There will be
    /// no more events.
    Compacted(i64),
}

/// Gets the changes of a range from a revision on. Dropped, it leaves the hub.
pub(in crate::shell::client) struct LocalWatch<B: Backend> {
    shard: Rc<ClientShard<B>>,
    outbox: Rc<Outbox>,
    stop: Rc<Signal>,
}

impl<B: Backend> ClientShard<B> {
    /// Watches a key from `start_revision` on (inclusive; 0 is from now on). A revision has one event of it.
    pub(in crate::shell::client) fn watch_locally(
        self: &Rc<Self>,
        key: Bytes,
        start_revision: i64,
    ) -> LocalWatch<B> {
        self.open_local_watch(WatchRange::new(key, Bytes::new()), start_revision, Vec::new())
    }

    /// Watches for the first put in a range. A revision may delete a million keys there, and of those the task is told
    /// nothing.
    pub(in crate::shell::client) fn watch_puts_locally(
        self: &Rc<Self>,
        range: WatchRange,
        start_revision: i64,
    ) -> LocalWatch<B> {
        self.open_local_watch(range, start_revision, vec![FilterType::Nodelete.into()])
    }

    fn open_local_watch(
        self: &Rc<Self>,
        range: WatchRange,
        start_revision: i64,
        filters: Vec<i32>,
    ) -> LocalWatch<B> {
        let outbox = self.watches.open(Outbox::of_task);
        let (key, range_end) = match range.keys() {
            KeyRange::One(key) => (key, &[][..]),
            KeyRange::Between { start, end } => (start, end),
            KeyRange::From(start) => (start, &[0][..]),
        };
        let create = pb::WatchCreateRequest {
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(range_end),
            start_revision,
            filters,
            ..Default::default()
        };
        let request_union = Some(RequestUnion::CreateRequest(create));
        self.watches.on_request(outbox.id, pb::WatchRequest { request_union });
        self.settle_watches();
        LocalWatch { shard: Rc::clone(self), outbox, stop: self.signal_at_stop() }
    }
}

impl<B: Backend> LocalWatch<B> {
    /// The next news. Cancel-safe: a dropped wait loses nothing.
    ///
    /// # Errors
    /// The shard is stopping, or has no memory left for watchers.
    pub(in crate::shell::client) async fn next(&mut self) -> Result<News, Status> {
        let news = poll_fn(|cx| match self.outbox.poll_news(cx) {
            Poll::Pending => self.stop.poll_fired(cx).map(|()| Err(status::STOPPED)),
            news => news,
        });
        let news = news.await;
        // Taking them may have made room for the next ones.
        self.shard.settle_rooms();
        news
    }
}

impl<B: Backend> Drop for LocalWatch<B> {
    fn drop(&mut self) {
        self.shard.close_watch(&self.outbox, Ended::Gone);
    }
}
