//! History in slices: what a watcher that is behind has missed.
//!
//! An order names keys and a first revision, and is answered with the changes of some whole revisions
//! from there on. How many is decided by the work: a slice ends with the revision at which it has
//! walked over so many records or encoded so many bytes (`SLICE`). A revision is never split between answers, so a
//! range delete of a million keys is one answer of a million events. It is read in several goes (`Reading`), each of
//! which does as much as a slice does.
//!
//! Two ways lead to the same events. As a rule the log is walked from the first revision on and each
//! change is held against the ranges. Where an order names a few single keys that have changed seldom
//! since, their own versions are looked up one by one, so that a slice reaches much further.
//!
//! Cost: a change that is walked over, one binary search among the order's ranges; a change that is
//! looked up, O(log versions) for each of the keys' changes. Beside its events a slice holds nothing.

use std::borrow::Cow;

use super::event_encoder::EventEncoder;
use super::{Batch, CatchUp, Event, Notice, WatchRange, event_encoder};
use crate::mvcc::{Change, KeyChanges, Store};
use crate::types::limits::{RECORD_NS, SLICE_NS};
use crate::types::{KeyRange, Revision, Slice};

/// After how much work a slice ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Records walked over.
    pub(super) records: u64,
    /// Bytes encoded.
    pub(super) bytes: usize,
}

/// Bytes that a hub copies for one slice, all its watchers together, where the slice is not already as
/// short as it gets: about a millisecond of the shard's time.
const COPIED_BYTES_MAX: usize = 512 << 10;

/// A slice is no shorter than this, however many watchers share it.
const SLICE_BYTES_MIN: usize = 16 << 10;

impl Budget {
    /// What of it fits a slice, which is spent by it.
    pub(super) fn within(self, slice: &mut Slice) -> Self {
        let records = self.records.min(slice.units_left(RECORD_NS) as u64);
        let bytes = self.bytes.min(slice.units_left(ENCODED_KIB_NS) << 10);
        slice.spend(SLICE_NS);
        Self { records, bytes }
    }

    /// The budget of a slice for so many watchers.
    fn shared_by(self, watchers: usize) -> Self {
        let bytes = (COPIED_BYTES_MAX / watchers.max(1)).max(SLICE_BYTES_MIN).min(self.bytes);
        Self { bytes, ..self }
    }
}

/// Price of a KiB of events that is encoded.
const ENCODED_KIB_NS: u64 = 1_000;

/// A few tenths of a millisecond.
pub(super) const SLICE: Budget = Budget { records: 4096, bytes: 256 << 10 };

/// Keys that may be looked up one by one.
const KEYS_MAX: usize = 16;

/// A look-up costs about as much as walking over so many records.
const LOOK_UP_RECORDS: u64 = 16;

/// How an order's changes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Over the whole log.
    Walk,
    /// Along the versions of the keys.
    LookUp,
}

/// How far an order is.
#[derive(Debug)]
pub(super) enum Progress {
    Answered(Notice),
    /// A revision is so long that it is read in several goes.
    Reading(Box<Reading>),
}

/// Begins to answer `order`: the store stands at `current`, and every subscribed change up to there has left.
pub(super) fn begin(
    order: CatchUp,
    store: &Store,
    encoder: &mut EventEncoder,
    budget: Budget,
    current: i64,
) -> Progress {
    let CatchUp { token, from, .. } = order;
    let compacted = store.compact_revision();
    if from < compacted {
        return Progress::Answered(Notice::Overtaken { token, compacted });
    }
    if current < from {
        let batch = Batch { after: from - 1, through: current, events: Vec::new() };
        return Progress::Answered(Notice::CaughtUp { token, batch, current });
    }
    let way = way(&order, store, budget.shared_by(order.watchers));
    Box::new(Reading::new(order, way, compacted)).go_on(store, encoder, budget, current)
}

/// Which way costs less.
pub(super) fn way(order: &CatchUp, store: &Store, budget: Budget) -> Way {
    let distance = store.changes_count_max(order.from);
    if distance <= budget.records || KEYS_MAX < order.ranges.len() {
        return Way::Walk;
    }
    let mut changes = 0;
    for (range, _) in &order.ranges {
        let KeyRange::One(key) = range.keys() else { return Way::Walk };
        changes += store.changes_of(key, order.from).count_max();
    }
    if changes * LOOK_UP_RECORDS <= distance { Way::LookUp } else { Way::Walk }
}

/// The first slice of `order`, which begins in the readable past, found in the given way.
#[cfg(test)]
pub(super) fn slice(
    order: &CatchUp,
    store: &Store,
    encoder: &mut EventEncoder,
    budget: Budget,
    current: i64,
    way: Way,
) -> Batch {
    let mut reading = Reading::new(order.clone(), way, store.compact_revision());
    loop {
        if let Some(batch) = reading.read(store, encoder, budget, current) {
            return batch;
        }
    }
}

/// An order whose answer is being made.
#[derive(Debug)]
pub(super) struct Reading {
    order: CatchUp,
    way: Way,
    /// The first change that was not looked at.
    at: Revision,
    /// The compact revision when it began.
    compacted: i64,
    /// Records and bytes of earlier goes.
    records: u64,
    bytes: usize,
    events: Vec<Event>,
}

impl Reading {
    fn new(order: CatchUp, way: Way, compacted: i64) -> Self {
        let at = Revision::new(order.from, 0);
        Self { order, way, at, compacted, records: 0, bytes: 0, events: Vec::new() }
    }

    /// Goes on, for no more work than a slice has.
    pub(super) fn go_on(
        mut self: Box<Self>,
        store: &Store,
        encoder: &mut EventEncoder,
        budget: Budget,
        current: i64,
    ) -> Progress {
        let CatchUp { token, from, watchers, .. } = self.order;
        // Also between two goes.
        let compacted = store.compact_revision();
        if from < compacted {
            return Progress::Answered(Notice::Overtaken { token, compacted });
        }
        if self.compacted != compacted {
            // Some of a revision may be gone of which the rest was read.
            *self = Self::new(self.order, self.way, compacted);
        }
        match self.read(store, encoder, budget.shared_by(watchers), current) {
            Some(batch) => Progress::Answered(Notice::CaughtUp { token, batch, current }),
            None => Progress::Reading(self),
        }
    }

    /// The batch, once its last revision is complete.
    fn read(
        &mut self,
        store: &Store,
        encoder: &mut EventEncoder,
        budget: Budget,
        current: i64,
    ) -> Option<Batch> {
        let through = match self.way {
            Way::Walk => self.take(store, encoder, budget, store.changes(self.at), 1),
            // A few keys: a revision has few of their changes.
            Way::LookUp => {
                let order = self.order.clone();
                self.take(store, encoder, budget, Merged::new(&order, store), LOOK_UP_RECORDS)
            }
        };
        let through = match through {
            Taken::NotYet => return None,
            Taken::Through(through) => through,
            Taken::All => current,
        };
        let events = std::mem::take(&mut self.events);
        Some(Batch { after: self.order.from - 1, through, events })
    }

    /// Takes what is wanted of `changes`, each of which costs as much as `records`.
    fn take<'a>(
        &mut self,
        store: &'a Store,
        encoder: &mut EventEncoder,
        budget: Budget,
        changes: impl Iterator<Item = Change<'a>>,
        records: u64,
    ) -> Taken {
        let Self { order, way, at, events, .. } = self;
        let wanted = RangeSet::of(order.ranges.iter().map(|(range, _)| range));
        let with_previous =
            RangeSet::of(order.ranges.iter().filter(|(_, previous)| *previous).map(|(range, _)| range));
        let mut give = |_target, event| events.push(event);
        // A revision that an earlier go has begun with, if any.
        let mut last = (0 < self.records).then_some(at.main);
        let (mut walked, mut bytes) = (0, 0);
        let mut taken = Taken::All;
        for change in changes {
            let revision = change.revision.main;
            let is_spent = |walked: u64, bytes: usize| budget.records <= walked || budget.bytes <= bytes;
            if last.is_some_and(|last| last != revision)
                && is_spent(self.records + walked, self.bytes + bytes)
            {
                // Between the last revision and this one there is none with a change that is wanted.
                taken = Taken::Through(revision - 1);
                break;
            }
            if *way == Way::Walk && is_spent(walked, bytes) {
                *at = change.revision;
                taken = Taken::NotYet;
                break;
            }
            last = Some(revision);
            walked += records;
            if wanted.contains(change.key) {
                let previous = with_previous.contains(change.key);
                let before = if previous { event_encoder::previous(store, &change) } else { None };
                bytes += encoder.push(&change, before.as_ref(), &[(0, previous)], &mut give);
            }
        }
        encoder.flush(&mut give);
        self.records += walked;
        self.bytes += bytes;
        taken
    }
}

/// What came of a go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// The slice is spent in the middle of a revision.
    NotYet,
    /// The last revision that is complete.
    Through(i64),
    /// There are no more changes.
    All,
}

/// The changes of several keys in revision order.
struct Merged<'a> {
    /// Each with the change that comes next.
    keys: Vec<(Change<'a>, KeyChanges<'a>)>,
}

impl<'a> Merged<'a> {
    /// The changes of `order`, which names single keys only.
    fn new(order: &CatchUp, store: &'a Store) -> Self {
        let mut names: Vec<&[u8]> = order.ranges.iter().map(|(range, _)| range.keys().start()).collect();
        names.sort_unstable();
        names.dedup();
        let changes = names.into_iter().map(|key| store.changes_of(key, order.from));
        Self { keys: changes.filter_map(|mut changes| Some((changes.next()?, changes))).collect() }
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        let heads = self.keys.iter().enumerate();
        let (slot, _) = heads.min_by_key(|(_, (head, _))| head.revision)?;
        let (head, changes) = &mut self.keys[slot];
        match changes.next() {
            Some(next) => Some(std::mem::replace(head, next)),
            None => Some(self.keys.swap_remove(slot).0),
        }
    }
}

/// Start, and exclusive end, without which it reaches to the end of all keys.
type Interval<'a> = (&'a [u8], Option<Cow<'a, [u8]>>);

/// The union of ranges, as intervals that ascend and do not touch.
#[derive(Debug, Default)]
struct RangeSet<'a> {
    intervals: Vec<Interval<'a>>,
}

impl<'a> RangeSet<'a> {
    fn of(ranges: impl Iterator<Item = &'a WatchRange>) -> Self {
        let interval = |range: &'a WatchRange| match range.keys() {
            // The next key after it is itself and a zero.
            KeyRange::One(key) => (key, Some([key, b"\0"].concat().into())),
            KeyRange::Between { start, end } => (start, Some(end.into())),
            KeyRange::From(start) => (start, None),
        };
        let mut all: Vec<Interval<'a>> =
            ranges.filter(|range| !range.keys().is_empty()).map(interval).collect();
        all.sort_unstable_by_key(|(start, _)| *start);
        let mut intervals = Vec::<Interval<'a>>::with_capacity(all.len());
        for (start, end) in all {
            match intervals.last_mut() {
                Some((_, last)) if last.as_deref().is_none_or(|last| start <= last) => {
                    let is_further = match (last.as_deref(), end.as_deref()) {
                        (Some(last), Some(end)) => last < end,
                        (last, _) => last.is_some(),
                    };
                    if is_further {
                        *last = end;
                    }
                }
                _ => intervals.push((start, end)),
            }
        }
        Self { intervals }
    }

    fn contains(&self, key: &[u8]) -> bool {
        let behind = self.intervals.partition_point(|(start, _)| *start <= key);
        behind
            .checked_sub(1)
            .is_some_and(|slot| self.intervals[slot].1.as_ref().is_none_or(|end| key < &**end))
    }
}
