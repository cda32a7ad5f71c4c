//! What a hub does in slices: deliveries, jumps, notifications of progress, and the end of streams.
//!
//! One notice is carried out at a time, and those behind it wait, so everything is said in the order of the store.
//! Between two slices clients may ask, cancel and go. A watcher that goes meanwhile is told no more; one that comes is
//! told by later notices, since its own subscription's stands behind. Watchers of closed streams go in slices too,
//! which are half of a slice at most, so that deliveries go on beside them.

use super::super::delivery::{Delivery, Recipients, Told};
use super::super::group::MatchFor;
use super::super::stream::Id;
use super::super::watcher::{State, WatcherKey};
use super::super::{Event, Response, Sink, StreamId};
use super::{Hub, Pending, Work};
use crate::types::Slice;

/// Price of a watcher that goes.
const WATCHER_NS: u64 = 1_000;

/// Price of an event that is given up.
const DROP_NS: u64 = 30;

/// A batch of so many events is given up in slices.
const DROPPED_EVENTS_MAX: usize = 4_096;

impl Hub {
    /// Whether `work` would find something to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.under_way.is_some()
            || !self.inbox.is_empty()
            || !self.leaving.is_empty()
            || !self.given_up.is_empty()
    }

    /// Whether nobody waits for `work` but watchers that read history.
    #[must_use]
    pub fn only_reads_history(&self) -> bool {
        let reads = |work: &Work| match work {
            Work::Deliver(delivery) => matches!(delivery.recipients, Recipients::Cohort { .. }),
            Work::Jump { .. } | Work::Notify { .. } => false,
        };
        self.inbox.is_empty() && self.under_way.as_ref().is_some_and(reads)
    }

    /// Carries out notices, and lets watchers of closed streams go, until the slice is spent or nothing is left.
    /// `next_order` may have orders afterwards.
    pub fn work(&mut self, slice: &mut Slice, sink: &mut impl Sink) {
        let mut half = slice.half();
        self.let_go(&mut half);
        slice.spend(half.spent_ns());
        while !slice.is_spent() {
            let Some(mut work) = self.under_way.take() else {
                let Some(notice) = self.inbox.pop() else { break };
                slice.spend_key();
                self.begin(notice, sink);
                continue;
            };
            let is_done = match &mut work {
                Work::Deliver(delivery) => self.deliver(delivery, slice, sink),
                Work::Jump { from, current, slot } => self.jump(*from, *current, slot, slice),
                Work::Notify { stream, after } => self.notify(*stream, after, slice, sink),
            };
            if !is_done {
                self.under_way = Some(work);
            } else if let Work::Deliver(delivery) = work {
                self.end_delivery(*delivery);
            }
        }
    }

    /// Lets watchers of closed streams go, and events that were delivered, until the slice is spent. `next_order` may
    /// have orders afterwards.
    pub fn let_go(&mut self, slice: &mut Slice) {
        while let Some((_, stream)) = self.leaving.front_mut() {
            if slice.is_spent() {
                return;
            }
            match stream.ids.pop_first() {
                None => drop(self.leaving.pop_front()),
                Some((_, Id::Reserved)) => slice.spend_key(),
                Some((_, Id::Watcher(slot))) => {
                    stream.remove(slot, self.watchers.get(slot));
                    self.drop_watcher(slot, Pending::Forget);
                    slice.spend(WATCHER_NS);
                }
            }
        }
        while let Some(events) = self.given_up.last_mut() {
            if slice.is_spent() {
                return;
            }
            let before = events.len();
            events.truncate(before.saturating_sub(256));
            slice.spend(DROP_NS * (before - events.len()) as u64);
            if events.is_empty() {
                self.given_up.pop();
            }
        }
    }

    /// Events that nobody needs any more.
    pub(super) fn give_up(&mut self, events: Vec<Event>) {
        if DROPPED_EVENTS_MAX < events.len() {
            self.given_up.push(events);
        }
    }

    /// Whether nothing is said to the stream any more.
    fn is_closed(&self, stream: StreamId) -> bool {
        !self.streams.contains_key(&stream)
    }

    /// Delivers a batch. True when all have been told.
    fn deliver(&mut self, delivery: &mut Delivery, slice: &mut Slice, sink: &mut impl Sink) -> bool {
        let events = &delivery.batch.events;
        if delivery.matched < events.len() {
            let matched = delivery.matched;
            delivery.matched = match delivery.recipients {
                Recipients::Synced => self.groups.match_events(events, matched, MatchFor::Synced, slice),
                Recipients::Part { group } => self.groups.match_all(group, events.len(), matched, slice),
                Recipients::Cohort { .. } => {
                    self.groups.match_events(events, matched, MatchFor::Wanted, slice)
                }
            };
            if delivery.matched < events.len() {
                return false;
            }
        }
        while !slice.is_spent() {
            let Some(hand) = delivery.at_hand else {
                let next = match delivery.recipients {
                    Recipients::Synced | Recipients::Part { .. } => self.next_synced(delivery, slice),
                    Recipients::Cohort { .. } => self.next_of_cohort(delivery, slice),
                };
                match next {
                    Next::NotYet => return false,
                    Next::None => return true,
                    Next::Watcher(key) => delivery.begin(key, self.watchers.get(key.slot)),
                }
                continue;
            };
            let is_alive = self.watchers.is_alive(hand.key);
            if (!is_alive || !self.leaving.is_empty()) && self.is_closed(hand.stream) {
                delivery.at_hand = None;
                slice.spend_record();
                continue;
            }
            let stopped_at = match delivery.tell(&self.response_limits, is_alive, slice, sink) {
                Told::NotYet => return false,
                Told::All => None,
                Told::StoppedAt(revision) => Some(revision),
            };
            let has_got_events = delivery.at_hand.take().is_some_and(|hand| hand.has_got_events);
            slice.spend_record();
            if is_alive {
                self.watchers.get_mut(hand.key.slot).got_events |= has_got_events;
                self.on_told(hand.key.slot, stopped_at, delivery);
            }
        }
        false
    }

    /// The next watcher of the groups that were touched.
    fn next_synced(&mut self, delivery: &mut Delivery, slice: &mut Slice) -> Next {
        while delivery.next < self.groups.touched_count() {
            let group = self.groups.touched(delivery.next);
            if delivery.group.is_none() {
                if !self.groups.collect(group, &mut delivery.of_group, slice) {
                    return Next::NotYet;
                }
                delivery.group = Some(group);
                self.groups.begin_to_tell(group);
            }
            if let Some(slot) = self.groups.next_to_tell() {
                return Next::Watcher(self.watchers.key(slot));
            }
            delivery.end_group();
            delivery.next += 1;
        }
        Next::None
    }

    /// The next watcher of the cohort that the history was read for.
    fn next_of_cohort(&mut self, delivery: &mut Delivery, slice: &mut Slice) -> Next {
        loop {
            let Recipients::Cohort { members, .. } = &delivery.recipients else { return Next::None };
            let Some(&(group, key)) = members.get(delivery.next) else { return Next::None };
            if delivery.group.is_some_and(|of| of != group) {
                delivery.end_group();
            }
            if delivery.group.is_none() {
                if !self.groups.collect(group, &mut delivery.of_group, slice) {
                    return Next::NotYet;
                }
                delivery.group = Some(group);
            }
            delivery.next += 1;
            if !self.watchers.is_alive(key) {
                continue;
            }
            let watcher = self.watchers.get(key.slot);
            // The slice may end before it begins.
            if watcher.next <= delivery.batch.through + 1 && !self.is_closed(watcher.stream) {
                return Next::Watcher(key);
            }
        }
    }

    /// A watcher has got what the batch has for it, or found no room at a revision.
    fn on_told(&mut self, slot: u32, stopped_at: Option<i64>, delivery: &Delivery) {
        let through = delivery.batch.through;
        match (&delivery.recipients, stopped_at) {
            (Recipients::Synced | Recipients::Part { .. }, None) => {
                let watcher = self.watchers.get_mut(slot);
                watcher.next = watcher.next.max(through + 1);
            }
            (Recipients::Synced | Recipients::Part { .. }, Some(revision)) => {
                self.fall_behind(slot, revision, true)
            }
            (Recipients::Cohort { .. }, Some(revision)) => self.advance(slot, revision, true),
            (Recipients::Cohort { current, .. }, None) if through == *current => self.catch_up_with(slot),
            (Recipients::Cohort { .. }, None) => self.advance(slot, through + 1, false),
        }
    }

    fn end_delivery(&mut self, delivery: Delivery) {
        self.groups.end_delivery();
        let Delivery { batch, recipients, mut of_group, .. } = delivery;
        of_group.clear();
        match recipients {
            Recipients::Synced => self.note_current(batch.through.max(self.current)),
            Recipients::Part { .. } => {}
            Recipients::Cohort { .. } => self.is_cohort_told = false,
        }
        self.of_group = of_group;
        self.give_up(batch.events);
    }

    /// Whoever wants changes that were left out is behind now. Compaction may have got there first; history will
    /// say so. True when all watchers were looked at.
    fn jump(&mut self, from: i64, current: i64, next: &mut u32, slice: &mut Slice) -> bool {
        while *next < self.watchers.slots_count() {
            if slice.is_spent() {
                return false;
            }
            slice.spend_record();
            let slot = *next;
            *next += 1;
            let Some(watcher) = self.watchers.find(slot).filter(|watcher| watcher.state == State::Synced)
            else {
                continue;
            };
            let behind_at = watcher.next.max(from + 1);
            if behind_at <= current && !self.is_closed(watcher.stream) {
                self.fall_behind(slot, behind_at, false);
                slice.spend(WATCHER_NS);
            }
        }
        self.note_current(current);
        true
    }

    /// Tells watchers how far they have come. True when all of the stream were looked at.
    fn notify(
        &mut self,
        stream: StreamId,
        after: &mut Option<i64>,
        slice: &mut Slice,
        sink: &mut impl Sink,
    ) -> bool {
        let Some(state) = self.streams.get(&stream) else { return true };
        let behind = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for (&watch_id, &id) in state.ids.range((behind, std::ops::Bound::Unbounded)) {
            if slice.is_spent() {
                return false;
            }
            slice.spend_record();
            *after = Some(watch_id);
            let Id::Watcher(slot) = id else { continue };
            let watcher = self.watchers.get_mut(slot);
            if !watcher.wants.progress || watcher.state == State::Creating {
                continue;
            }
            let was_quiet = !std::mem::replace(&mut watcher.got_events, false);
            let is_synced = watcher.state == State::Synced && watcher.start <= self.current;
            // Unlike answers a notification may be missed, and a client that does not read gets no
            // more of them than its outbox holds.
            if was_quiet && is_synced && sink.has_room(stream) {
                let progress = Response { watch_id, revision: self.current, ..Response::default() };
                sink.push(stream, &progress);
                slice.spend_key();
            }
        }
        true
    }
}

/// Whose turn it is in a delivery.
enum Next {
    /// The slice is spent.
    NotYet,
    None,
    Watcher(WatcherKey),
}
