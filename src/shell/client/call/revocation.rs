//! Watches whose right is revoked: each is asked for again when rights have changed, and ends if it is gone.
//!
//! etcd asks once, when a watch is created. Here a client that may not read a range any more hears of no change in
//! it from soon on: the shard notices within a tick that the revision of rights is another, and asks the store for
//! each watcher of a stream with a login, one after the other, each question once for a user and a range.
//!
//! Cost: nothing while rights do not change; then a question of some ten microseconds for each user and range, and a
//! look-up for each watcher. A hundred thousand watchers are looked at in short turns, others' calls between them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::request::{Login, Permit};
use crate::rpc::status;
use crate::shell::client::{Backend, ClientShard};
use crate::shell::runtime::pace::breathe;
use crate::types::limits::TURN_NS_IN_COMPANY;
use crate::types::{KeyRange, Slice};
use crate::watch::{StreamId, WatchRange};

/// The text of a watch that ends: what clients of etcd know it by.
const DENIED: &str = "etcdserver: permission denied";

/// Price of looking up what was asked before.
const LOOK_UP_NS: u64 = 300;

/// Price of a watcher that ends.
const END_NS: u64 = 1_000;

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

    /// The first stream behind another, and its user.
    fn next(&self, after: Option<StreamId>) -> Option<(StreamId, Bytes)> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let users = self.users.borrow();
        users.range((behind, Bound::Unbounded)).next().map(|(stream, user)| (*stream, user.clone()))
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
        let mut asked = BTreeMap::<(Bytes, WatchRange), bool>::new();
        let mut slice = Slice::of(TURN_NS_IN_COMPANY);
        let mut after = None;
        // A stream that comes meanwhile is asked for with the rights of now.
        while let Some((stream, user)) = self.revocation.next(after) {
            after = Some(stream);
            let mut last = None;
            loop {
                slice.spend_key();
                if slice.is_spent() {
                    breathe().await;
                    slice = Slice::of(TURN_NS_IN_COMPANY);
                }
                let page = self.watches.ranges(stream, last, &mut slice.half());
                let Some((watch_id, _)) = page.last() else { break };
                last = Some(*watch_id);
                for (watch_id, range) in page {
                    slice.spend(LOOK_UP_NS);
                    let question = (user.clone(), range);
                    let is_allowed = match asked.get(&question) {
                        Some(is_allowed) => *is_allowed,
                        None => {
                            let is_allowed = self.may_still_watch(revision, &question).await;
                            slice = Slice::of(TURN_NS_IN_COMPANY);
                            asked.insert(question.clone(), is_allowed);
                            is_allowed
                        }
                    };
                    if !is_allowed {
                        slice.spend(END_NS);
                        self.watches.revoke(stream, watch_id, &question.1, DENIED);
                        self.settle_watches();
                    }
                    if slice.is_spent() {
                        breathe().await;
                        slice = Slice::of(TURN_NS_IN_COMPANY);
                    }
                }
            }
        }
    }

    /// Asks the store. Only a clear no ends a watch: rights that changed again are looked at again.
    async fn may_still_watch(&self, revision: u64, (user, range): &(Bytes, WatchRange)) -> bool {
        let (key, range_end) = match range.keys() {
            KeyRange::One(key) => (key, &[][..]),
            KeyRange::Between { start, end } => (start, end),
            KeyRange::From(start) => (start, &[0][..]),
        };
        let permit =
            Permit::Range { key: Bytes::copy_from_slice(key), range_end: Bytes::copy_from_slice(range_end) };
        let login = Some(Arc::new(Login { name: user.clone(), revision }));
        self.permit(login, permit).await != Err(status::PERMISSION_DENIED)
    }
}
