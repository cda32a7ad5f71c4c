//! The store's side of watch: which keys each client shard cares for, and what it is told.
//!
//! A shard's hub subscribes ranges. After a group of requests was applied, `collect` walks over the
//! changes they made, finds the shards that care for each, encodes those changes once and makes one
//! batch for every shard that gets any of them. Orders for the past wait in the shard's queue and are
//! worked off by `work`, one slice a call, one shard after the other, so that a shard with many orders
//! delays nobody but itself, and a put waits for one slice at most.
//!
//! Invariants: every subscribed change up to `through` has been handed out, and none behind it; orders
//! are looked at only while `through` is the store's revision, so an answer that names the current
//! revision leaves behind all batches up to it. The answers to a shard's orders leave in the order in
//! which the orders came. The changes of a large write are encoded in slices before it is committed (`prepare`) and
//! handed out with their revision; orders wait meanwhile. The changes of a revision are collected before the revision is compacted
//! (the caller calls `collect` before it applies a compaction too).
//! Cost: without a subscription `collect` is a comparison. Otherwise a change costs one search in the
//! interval index, which ends as soon as every shard is known to care, and what is wanted is copied
//! twice. An entry of the index holds 12 bytes for each shard that subscribed the range.
//! Memory: batches wait in their shard's ring, so what is held is what was applied while the shard was
//! busy. A shard takes every batch at its next turn, whether or not its clients read; the orders that
//! wait here, and their answers, are bounded by the hub that gives them.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use super::event_encoder::{EventEncoder, Target};
use super::history::{Budget, Progress, Reading};
use super::{Batch, Event, IntervalIndex, Notice, Order, WatchRange, event_encoder, history};
use crate::mvcc::{Change, Store};
use crate::types::{Revision, Slice};

/// Orders behind one for the past that are answered in the same slice, each in less than a microsecond.
const SHORT_ORDERS_MAX: usize = 128;

/// See the module.
#[derive(Debug)]
pub struct Feed {
    index: IntervalIndex<Interest>,
    shards: Vec<Shard>,
    /// Shards that subscribe anything.
    subscribed_count: usize,
    through: i64,
    /// The first change that is not encoded. Behind the first one after `through`: a write is being prepared.
    next: Revision,
    encoder: EventEncoder,
    /// Of one slice of history.
    budget: Budget,
    /// Whoever gets the change at hand.
    targets: Vec<Target>,
    /// The shard whose queue comes next.
    turn: usize,
    /// Orders that wait, of all shards, the one that is being answered included.
    waiting_count: usize,
    /// An order whose answer takes several slices, and the shard that gave it.
    reading: Option<(u16, Box<Reading>)>,
}

/// Who subscribes a range. Few shards share one, so they are a list.
#[derive(Debug, Default)]
struct Interest {
    counts: Vec<Count>,
}

/// How often a shard subscribes a range.
#[derive(Debug, Clone, Copy)]
struct Count {
    shard: u16,
    plain: u32,
    with_previous: u32,
}

/// What a shard wants of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Wish {
    #[default]
    Nothing,
    Event,
    WithPrevious,
}

#[derive(Debug, Default)]
struct Shard {
    /// Orders behind a `CatchUp` that waits, that one included.
    orders: VecDeque<Order>,
    /// Its part of the batch in the making.
    events: Vec<Event>,
    /// What it wants of the change at hand.
    wish: Wish,
    /// Subscriptions of all ranges.
    plain: u64,
    with_previous: u64,
}

impl Shard {
    /// The most that it can want of a change.
    fn most(&self) -> Wish {
        match (self.plain, self.with_previous) {
            (0, 0) => Wish::Nothing,
            (_, 0) => Wish::Event,
            _ => Wish::WithPrevious,
        }
    }
}

impl Feed {
    /// A feed for `shards` client shards, of a store that stands at `current`.
    #[must_use]
    pub fn new(shards: usize, current: i64) -> Self {
        assert!(u16::try_from(shards).is_ok(), "{shards} client shards");
        Self {
            index: IntervalIndex::new(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            subscribed_count: 0,
            through: current,
            next: Revision::new(current + 1, 0),
            encoder: EventEncoder::default(),
            budget: history::SLICE,
            targets: Vec::new(),
            turn: 0,
            waiting_count: 0,
            reading: None,
        }
    }

    /// Takes an order. What can be answered at once is; otherwise `work` will.
    #[must_use]
    pub fn on_order(&mut self, shard: u16, order: Order, store: &Store) -> Option<Notice> {
        self.check_collected(store);
        // A subscription that began now would miss what is encoded already.
        let is_reading = self.reading.as_ref().is_some_and(|(of, _)| *of == shard);
        let waits = is_reading || !self.shards[usize::from(shard)].orders.is_empty() || self.is_preparing();
        if waits || matches!(order, Order::CatchUp(_)) {
            self.shards[usize::from(shard)].orders.push_back(order);
            self.waiting_count += 1;
            return None;
        }
        Some(self.answer(shard, order, store))
    }

    /// Whether `work` has anything to do.
    #[must_use]
    pub fn has_work(&self) -> bool {
        0 < self.waiting_count && !self.is_preparing()
    }

    fn is_preparing(&self) -> bool {
        self.next != Revision::new(self.through + 1, 0)
    }

    /// Answers the order for the past that has waited longest in the next shard's queue, and the orders
    /// behind it that cost nothing.
    pub fn work(&mut self, store: &Store, slice: &mut Slice, mut give: impl FnMut(u16, Notice)) {
        if !self.has_work() {
            return;
        }
        self.check_collected(store);
        let budget = self.budget.within(slice);
        let mut may_slice = true;
        if let Some((shard, reading)) = self.reading.take() {
            self.turn = usize::from(shard);
            may_slice = false;
            let progress = reading.go_on(store, &mut self.encoder, budget, self.through);
            if !self.on_progress(shard, progress, &mut give) {
                return;
            }
        }
        while may_slice && self.shards[self.turn].orders.is_empty() {
            self.turn = (self.turn + 1) % self.shards.len();
        }
        let shard = u16::try_from(self.turn).expect("checked at the start");
        let mut left = SHORT_ORDERS_MAX;
        while let Some(order) = self.shards[self.turn].orders.pop_front_if(|order| match order {
            Order::CatchUp(_) => std::mem::take(&mut may_slice),
            _ => 0 < left,
        }) {
            left = left.saturating_sub(1);
            let progress = match order {
                Order::CatchUp(order) => {
                    history::begin(order, store, &mut self.encoder, budget, self.through)
                }
                order => Progress::Answered(self.answer(shard, order, store)),
            };
            if !self.on_progress(shard, progress, &mut give) {
                return;
            }
        }
        self.turn = (self.turn + 1) % self.shards.len();
    }

    /// Passes an answer on; false if it is not made yet.
    fn on_progress(&mut self, shard: u16, progress: Progress, give: &mut impl FnMut(u16, Notice)) -> bool {
        match progress {
            Progress::Answered(notice) => {
                self.waiting_count -= 1;
                give(shard, notice);
                true
            }
            Progress::Reading(reading) => {
                self.reading = Some((shard, reading));
                false
            }
        }
    }

    /// Encodes changes that a write has made which is not committed yet, until the slice is spent. True when that
    /// was all: they are handed out by the `collect` behind the commit.
    pub fn prepare(&mut self, store: &Store, slice: &mut Slice) -> bool {
        if self.subscribed_count == 0 {
            return true;
        }
        if !self.is_preparing() {
            // A million events are not copied as their lists grow; what is not used costs no memory.
            let count = usize::try_from(store.changes_count_max(self.next.main)).unwrap_or(0);
            for shard in self.shards.iter_mut().filter(|shard| shard.most() != Wish::Nothing) {
                shard.events.reserve(count);
            }
        }
        for change in store.changes_under_way(self.next) {
            if slice.is_spent() {
                self.next = change.revision;
                return false;
            }
            slice.spend_key();
            let bytes = self.encode(store, &change);
            slice.spend_bytes(bytes);
            self.next = Revision::new(change.revision.main, change.revision.sub + 1);
        }
        true
    }

    /// Hands out the changes that were applied since the last call.
    #[inline]
    pub fn collect(&mut self, store: &Store, give: impl FnMut(u16, Batch)) {
        let current = store.current_revision();
        if self.subscribed_count == 0 {
            (self.through, self.next) = (current, Revision::new(current + 1, 0));
        } else if self.through < current {
            self.collect_changes(store, current, give);
        }
    }

    /// Another member's checkpoint has taken the store's place. What the old store had applied was
    /// collected; orders that wait are answered from the new one, whose history is the same as far as
    /// it reaches.
    pub fn jump(&mut self, store: &Store, mut give: impl FnMut(u16, Notice)) {
        let current = store.current_revision();
        assert!(!self.is_preparing(), "nothing is installed while a write is prepared");
        let from = std::mem::replace(&mut self.through, current);
        self.next = Revision::new(current + 1, 0);
        assert!(from <= current, "a checkpoint at revision {current} took the place of a store at {from}");
        for (shard, _) in (0..).zip(&self.shards) {
            give(shard, Notice::Jumped { from, current });
        }
    }

    fn collect_changes(&mut self, store: &Store, current: i64, mut give: impl FnMut(u16, Batch)) {
        let compacted = store.compact_revision();
        assert!(compacted <= self.through, "compacted at {compacted}, collected up to {}", self.through);
        // Of leases that end together some may be committed while the next one is prepared.
        let is_ahead = current < self.next.main;
        if !is_ahead {
            for change in store.changes(self.next) {
                self.encode(store, &change);
            }
            self.next = Revision::new(current + 1, 0);
        }
        let Self { shards, encoder, through, .. } = self;
        encoder.flush(|shard, event| shards[usize::from(shard)].events.push(event));
        let after = std::mem::replace(through, current);
        for (number, shard) in (0..).zip(shards) {
            let mut events = std::mem::take(&mut shard.events);
            if is_ahead {
                let committed = events.partition_point(|event| event.revision <= current);
                shard.events = events.split_off(committed);
            }
            if !events.is_empty() {
                give(number, Batch { after, through: current, events });
            }
        }
    }

    /// Encodes a change for those who care for it. Returns the bytes that it took.
    fn encode(&mut self, store: &Store, change: &Change<'_>) -> usize {
        let Self { index, shards, subscribed_count, encoder, targets, .. } = self;
        // Shards of which it is not known yet that they want all they can.
        let mut open = *subscribed_count;
        targets.clear();
        index.stab_until(change.key, |interest| {
            for count in &interest.counts {
                let shard = &mut shards[usize::from(count.shard)];
                let wish = if 0 < count.with_previous { Wish::WithPrevious } else { Wish::Event };
                if shard.wish < wish {
                    if shard.wish == Wish::Nothing {
                        targets.push((count.shard, false));
                    }
                    shard.wish = wish;
                    open -= usize::from(wish == shard.most());
                }
            }
            if open == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if targets.is_empty() {
            return 0;
        }
        let mut anyone_wants_previous = false;
        for (shard, with_previous) in targets.iter_mut() {
            let wish = std::mem::take(&mut shards[usize::from(*shard)].wish);
            *with_previous = wish == Wish::WithPrevious;
            anyone_wants_previous |= *with_previous;
        }
        let previous = if anyone_wants_previous { event_encoder::previous(store, change) } else { None };
        let give = |shard, event| shards[usize::from(shard)].events.push(event);
        encoder.push(change, previous.as_ref(), targets, give)
    }

    fn answer(&mut self, shard: u16, order: Order, store: &Store) -> Notice {
        let current = self.through;
        match order {
            Order::Subscribe { token, range, previous } => {
                let counts = &mut self.index.insert(&range).counts;
                let slot = counts.iter().position(|count| count.shard == shard).unwrap_or_else(|| {
                    counts.reserve_exact(1);
                    counts.push(Count { shard, plain: 0, with_previous: 0 });
                    counts.len() - 1
                });
                let of_shard = &mut self.shards[usize::from(shard)];
                self.subscribed_count += usize::from(of_shard.most() == Wish::Nothing);
                if previous {
                    counts[slot].with_previous += 1;
                    of_shard.with_previous += 1;
                } else {
                    counts[slot].plain += 1;
                    of_shard.plain += 1;
                }
                Notice::Subscribed { token, current, compacted: store.compact_revision() }
            }
            Order::Unsubscribe { token, range, previous } => {
                self.unsubscribe(shard, &range, previous);
                Notice::Unsubscribed { token, current }
            }
            Order::Ask { token } => Notice::Standing { token, current },
            Order::CatchUp(_) => unreachable!("history is read by `work`"),
        }
    }

    fn unsubscribe(&mut self, shard: u16, range: &WatchRange, previous: bool) {
        let counts = &mut self.index.get_mut(range).expect("only what is subscribed is taken back").counts;
        let slot = counts.iter().position(|count| count.shard == shard);
        let slot = slot.expect("a shard takes back its own subscriptions");
        let of_shard = &mut self.shards[usize::from(shard)];
        // Subtractions that would go below zero stop the process, in release too.
        if previous {
            counts[slot].with_previous -= 1;
            of_shard.with_previous -= 1;
        } else {
            counts[slot].plain -= 1;
            of_shard.plain -= 1;
        }
        self.subscribed_count -= usize::from(of_shard.most() == Wish::Nothing);
        if counts[slot].plain == 0 && counts[slot].with_previous == 0 {
            counts.swap_remove(slot);
            if counts.is_empty() {
                self.index.remove(range);
            }
        }
    }

    fn check_collected(&self, store: &Store) {
        let current = store.current_revision();
        assert_eq!(self.through, current, "orders are looked at when all that is applied is collected");
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
