//! A watcher of the server's own: what `Lock` and `Election` wait with.

use std::rc::Rc;

use super::account::Account;
use super::{Backend, ClientShard};
use crate::rpc::Status;
use crate::watch::{Event, WatchRange};

/// What a watcher learnt.
#[derive(Debug)]
pub(super) enum News {
    /// Changes in order, whole revisions.
    Events(Vec<Event>),
    /// History was compacted up to and including this revision - 1 before it was read.
    Compacted(i64),
}

/// Gets the changes of a range from a revision on. Dropped, it leaves the hub.
pub(super) struct LocalWatch<B: Backend> {
    shard: Rc<ClientShard<B>>,
}

impl<B: Backend> ClientShard<B> {
    /// Watches `range` from `start_revision` on (inclusive; 0 is from now on).
    pub(super) fn watch_locally(
        self: &Rc<Self>,
        _account: &Rc<Account>,
        _range: WatchRange,
        _start_revision: i64,
    ) -> LocalWatch<B> {
        todo!("watch service")
    }
}

impl<B: Backend> LocalWatch<B> {
    /// The next news. Cancel-safe: a dropped wait loses nothing.
    pub(super) async fn next(&mut self) -> Result<News, Status> {
        todo!("watch service {}", self.shard.is_stopping())
    }
}
