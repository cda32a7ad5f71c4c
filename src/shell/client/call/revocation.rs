//! Watches whose right is revoked: each is asked for again when rights have changed, and ends if it is gone.
//!
//! etcd asks once, when a watch is created. Here a client that may not read a range any more hears of no change in
//! it from soon on: the shard notices within a tick that the revision of rights is another, and asks the store for
//! each watcher of a stream with a login, one after the other, each question once for a user and a range.
//!
//! Cost: nothing while rights do not change; then a question of some ten microseconds for each user and range.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::request::{Login, Permit};
use crate::rpc::status;
use crate::shell::client::{Backend, ClientShard};
use crate::types::KeyRange;
use crate::watch::StreamId;

/// The text of a watch that ends: what clients of etcd know it by.
const DENIED: &str = "etcdserver: permission denied";

/// The watch streams whose clients have logged in.
#[derive(Default)]
pub(in crate::shell::client) struct Revocation {
    /// The user of each.
    users: RefCell<BTreeMap<StreamId, Bytes>>,
    /// Rights were looked at last at this revision.
    looked_at: Cell<u64>,
    is_looking: Cell<bool>,
}

impl Revocation {
    /// A stream watches in the name of this user.
    pub(super) fn insert(&self, stream: StreamId, user: &Bytes) {
        self.users.borrow_mut().entry(stream).or_insert_with(|| user.clone());
    }

    pub(super) fn remove(&self, stream: StreamId) {
        self.users.borrow_mut().remove(&stream);
    }
}

impl<B: Backend> ClientShard<B> {
    /// Looks after the watches of those who have logged in, if rights have changed.
    pub(in crate::shell::client) fn tick_revocation(self: &Rc<Self>) {
        let Some(revision) = self.identities.revision() else { return };
        let state = &self.revocation;
        if state.looked_at.get() == revision || state.is_looking.get() {
            return;
        }
        state.looked_at.set(revision);
        if state.users.borrow().is_empty() {
            return;
        }
        state.is_looking.set(true);
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            shard.revoke_watches(revision).await;
            shard.revocation.is_looking.set(false);
        })
        .detach();
    }

    async fn revoke_watches(&self, revision: u64) {
        let streams: Vec<(StreamId, Bytes)> = {
            let users = self.revocation.users.borrow();
            users.iter().map(|(id, user)| (*id, user.clone())).collect()
        };
        let mut asked = BTreeMap::<(Bytes, Bytes, Bytes), bool>::new();
        for (stream, user) in streams {
            for (watch_id, key, range_end) in self.watched_ranges(stream) {
                let question = (user.clone(), key, range_end);
                let is_allowed = match asked.get(&question) {
                    Some(is_allowed) => *is_allowed,
                    None => {
                        let (name, key, range_end) = question.clone();
                        let login = Some(Arc::new(Login { name, revision }));
                        let permitted = self.permit(login, Permit::Range { key, range_end }).await;
                        // Only a clear no ends a watch. Rights that changed again are looked at again.
                        let is_allowed = permitted != Err(status::PERMISSION_DENIED);
                        asked.insert(question, is_allowed);
                        is_allowed
                    }
                };
                if !is_allowed {
                    self.watches.revoke(stream, watch_id, DENIED);
                    self.settle_watches();
                }
            }
        }
    }

    fn watched_ranges(&self, stream: StreamId) -> Vec<(i64, Bytes, Bytes)> {
        self.watches.ranges(stream, |watch_id, range| {
            let (key, range_end) = match range {
                KeyRange::One(key) => (key, &[][..]),
                KeyRange::Between { start, end } => (start, end),
                KeyRange::From(start) => (start, &[0][..]),
            };
            (watch_id, Bytes::copy_from_slice(key), Bytes::copy_from_slice(range_end))
        })
    }
}
