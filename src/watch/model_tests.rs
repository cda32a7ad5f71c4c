//! A store that keeps every change for ever, and its feed done the plain way: what the hub's tests
//! play the other side with, and what they hold deliveries against.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message;

use super::{Batch, CatchUp, Event, Notice, Order, WatchRange};
use crate::pb::mvccpb;

/// Numbers from a seed (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// One change, with what was there before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) key: Vec<u8>,
    pub(super) put: Option<mvccpb::KeyValue>,
    pub(super) previous: Option<mvccpb::KeyValue>,
}

/// All changes of all revisions. The history begins at revision 2, like etcd's.
pub(super) struct ModelStore {
    live: BTreeMap<Vec<u8>, mvccpb::KeyValue>,
    history: Vec<Vec<Change>>,
    pub(super) compacted: i64,
}

impl ModelStore {
    pub(super) fn new() -> Self {
        // Revisions 0 and 1 have no changes.
        Self { live: BTreeMap::new(), history: vec![Vec::new(); 2], compacted: 0 }
    }

    pub(super) fn current(&self) -> i64 {
        self.history.len() as i64 - 1
    }

    pub(super) fn changes(&self, revision: i64) -> &[Change] {
        &self.history[usize::try_from(revision).unwrap()]
    }

    /// Makes a revision: puts with a value, deletes without. Deletes of missing keys change nothing.
    pub(super) fn write(&mut self, writes: &[(&[u8], Option<Vec<u8>>)]) {
        let revision = self.current() + 1;
        let mut changes = Vec::new();
        for (key, value) in writes {
            let previous = self.live.get(*key).cloned();
            let put = value.as_ref().map(|value| mvccpb::KeyValue {
                key: Bytes::copy_from_slice(key),
                create_revision: previous.as_ref().map_or(revision, |previous| previous.create_revision),
                mod_revision: revision,
                version: previous.as_ref().map_or(1, |previous| previous.version + 1),
                value: Bytes::from(value.clone()),
                lease: 0,
            });
            if put.is_none() && previous.is_none() {
                continue;
            }
            match &put {
                Some(put) => _ = self.live.insert(key.to_vec(), put.clone()),
                None => _ = self.live.remove(*key),
            }
            changes.push(Change { key: key.to_vec(), put, previous });
        }
        if !changes.is_empty() {
            self.history.push(changes);
        }
    }

    /// The changes of `after+1..=through` that concern one of the ranges.
    pub(super) fn batch(&self, after: i64, through: i64, ranges: &[(WatchRange, bool)]) -> Batch {
        let mut events = Vec::new();
        for revision in after + 1..=through {
            for change in self.changes(revision) {
                let mut around =
                    ranges.iter().filter(|(range, _)| range.keys().contains(&change.key)).peekable();
                if around.peek().is_some() {
                    let previous = around.any(|&(_, previous)| previous);
                    let is_kept = revision > self.compacted;
                    events.push(event(revision, change, previous && is_kept));
                }
            }
        }
        Batch { after, through, events }
    }
}

/// A change as the feed encodes it.
pub(super) fn event(revision: i64, change: &Change, previous: bool) -> Event {
    let body = wire_event(revision, change, false).encode_to_vec();
    let whole = wire_event(revision, change, previous).encode_to_vec();
    assert_eq!(body, whole[..body.len()], "the previous version is the last field");
    Event {
        revision,
        key: Bytes::copy_from_slice(&change.key),
        is_delete: change.put.is_none(),
        previous: Bytes::copy_from_slice(&whole[body.len()..]),
        body: Bytes::from(body),
    }
}

/// A change as a client sees it.
pub(super) fn wire_event(revision: i64, change: &Change, previous: bool) -> mvccpb::Event {
    let deleted = mvccpb::KeyValue {
        key: Bytes::copy_from_slice(&change.key),
        mod_revision: revision,
        ..Default::default()
    };
    mvccpb::Event {
        r#type: i32::from(change.put.is_none()),
        kv: Some(change.put.clone().unwrap_or(deleted)),
        prev_kv: change.previous.clone().filter(|_| previous),
    }
}

/// The store's side of one shard: its subscriptions, and the notices on their way to it.
#[derive(Default)]
pub(super) struct ModelFeed {
    pub(super) subscriptions: Vec<(WatchRange, bool)>,
    pub(super) notices: VecDeque<Notice>,
}

impl ModelFeed {
    /// Tells the shard what revisions `after+1..` of the store changed.
    pub(super) fn on_applied(&mut self, store: &ModelStore, after: i64) {
        let batch = store.batch(after, store.current(), &self.subscriptions);
        if !batch.events.is_empty() {
            self.notices.push_back(Notice::Batch(batch));
        }
    }

    /// The store has got to where it stands without telling what happened behind `from`.
    pub(super) fn on_jump(&mut self, store: &ModelStore, from: i64) {
        self.notices.push_back(Notice::Jumped { from, current: store.current() });
    }

    /// Does what the shard asks; a slice covers `slice_revisions`.
    pub(super) fn on_order(&mut self, store: &ModelStore, order: Order, slice_revisions: i64) {
        let (current, compacted) = (store.current(), store.compacted);
        self.notices.push_back(match order {
            Order::Subscribe { token, range, previous } => {
                self.subscriptions.push((range, previous));
                Notice::Subscribed { token, current, compacted }
            }
            Order::Unsubscribe { token, range, previous } => {
                let found = self.subscriptions.iter().position(|found| *found == (range.clone(), previous));
                self.subscriptions.swap_remove(found.expect("only what was subscribed is taken back"));
                Notice::Unsubscribed { token, current }
            }
            Order::Ask { token } => Notice::Standing { token, current },
            Order::CatchUp(CatchUp { token, from, .. }) if from < compacted => {
                Notice::Overtaken { token, compacted }
            }
            Order::CatchUp(CatchUp { token, from, ranges, .. }) => {
                let through = current.min(from - 1 + slice_revisions);
                Notice::CaughtUp { token, batch: store.batch(from - 1, through, &ranges), current }
            }
        });
    }
}
