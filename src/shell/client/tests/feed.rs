//! The store's side of watch, as slow and as simple as it can be: it looks at everything each time.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use crate::pb::mvccpb;
use crate::pb::mvccpb::event::EventType;
use crate::watch::{Batch, CatchUp, Event, Notice, Order, WatchRange};

/// Changes of one slice of history.
const SLICE_EVENTS_MAX: usize = 50;

/// All changes, and who subscribed what.
#[derive(Default)]
pub(super) struct Feed {
    history: Vec<Event>,
    /// With how often each is subscribed.
    subscriptions: BTreeMap<(WatchRange, bool), usize>,
    compacted: i64,
}

impl Feed {
    pub(super) fn subscriptions_count(&self) -> usize {
        self.subscriptions.values().sum()
    }

    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = revision;
        self.history.retain(|event| revision <= event.revision);
    }

    /// A change that has just been applied. Its notice, if somebody wants it.
    pub(super) fn on_change(
        &mut self,
        kv: mvccpb::KeyValue,
        is_delete: bool,
        previous: Option<mvccpb::KeyValue>,
    ) -> Option<Notice> {
        let kind = if is_delete { EventType::Delete } else { EventType::Put };
        let (revision, key) = (kv.mod_revision, kv.key.clone());
        let body = mvccpb::Event { r#type: kind.into(), kv: Some(kv), prev_kv: None };
        let previous = mvccpb::Event { prev_kv: previous, ..Default::default() };
        let event = Event {
            revision,
            key,
            is_delete,
            body: body.encode_to_vec().into(),
            previous: previous.encode_to_vec().into(),
        };
        self.history.push(event.clone());
        let events = select(&[event], self.subscriptions.keys());
        (!events.is_empty()).then_some(Notice::Batch(Batch {
            after: revision - 1,
            through: revision,
            events,
        }))
    }

    pub(super) fn on_order(&mut self, order: Order, current: i64) -> Notice {
        match order {
            Order::Subscribe { token, range, previous } => {
                *self.subscriptions.entry((range, previous)).or_default() += 1;
                Notice::Subscribed { token, current, compacted: self.compacted }
            }
            Order::Unsubscribe { token, range, previous } => {
                let key = (range, previous);
                let count = self.subscriptions.get_mut(&key).expect("it was subscribed");
                *count -= 1;
                if *count == 0 {
                    self.subscriptions.remove(&key);
                }
                Notice::Unsubscribed { token, current }
            }
            Order::Ask { token } => Notice::Standing { token, current },
            Order::CatchUp(CatchUp { token, from, .. }) if from < self.compacted => {
                Notice::Overtaken { token, compacted: self.compacted }
            }
            Order::CatchUp(CatchUp { token, from, ranges, .. }) => {
                let wanted: Vec<Event> =
                    self.history.iter().filter(|event| from <= event.revision).cloned().collect();
                let slice = &wanted[..wanted.len().min(SLICE_EVENTS_MAX)];
                let is_all = slice.len() == wanted.len();
                let through = if is_all { current } else { slice[slice.len() - 1].revision };
                let events = select(slice, ranges.iter());
                Notice::CaughtUp { token, batch: Batch { after: from - 1, through, events }, current }
            }
        }
    }
}

/// What of `events` lies in the ranges; with the previous version where a range asks for it.
fn select<'a>(events: &[Event], ranges: impl Iterator<Item = &'a (WatchRange, bool)> + Clone) -> Vec<Event> {
    let mut selected = Vec::new();
    for event in events {
        let mut of_event = ranges.clone().filter(|(range, _)| range.keys().contains(&event.key)).peekable();
        if of_event.peek().is_some() {
            let previous =
                if of_event.any(|(_, previous)| *previous) { event.previous.clone() } else { Bytes::new() };
            selected.push(Event { previous, ..event.clone() });
        }
    }
    selected
}
