//! History in slices: what a watcher that is behind has missed.
//!
//! An order names keys and a first revision, and is answered with the changes of some whole revisions
//! from there on. How many is decided by the work: a slice ends with the revision at which it has
//! walked over so many records or encoded so many bytes (`SLICE`). A revision is never split, so the one
//! piece that may be longer is a single revision that is: a range delete of a million keys is one
//! slice of a million events.
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
use crate::types::{KeyRange, Revision};

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
    /// The budget of a slice for so many watchers.
    fn shared_by(self, watchers: usize) -> Self {
        let bytes = (COPIED_BYTES_MAX / watchers.max(1)).max(SLICE_BYTES_MIN).min(self.bytes);
        Self { bytes, ..self }
    }
}

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

/// Answers `order`: the store stands at `current`, and every subscribed change up to there has left.
pub(super) fn answer(
    order: &CatchUp,
    store: &Store,
    encoder: &mut EventEncoder,
    budget: Budget,
    current: i64,
) -> Notice {
    let &CatchUp { token, from, watchers, .. } = order;
    let budget = budget.shared_by(watchers);
    let compacted = store.compact_revision();
    if from < compacted {
        return Notice::Overtaken { token, compacted };
    }
    if current < from {
        let batch = Batch { after: from - 1, through: current, events: Vec::new() };
        return Notice::CaughtUp { token, batch, current };
    }
    let batch = slice(order, store, encoder, budget, current, way(order, store, budget));
    Notice::CaughtUp { token, batch, current }
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
pub(super) fn slice(
    order: &CatchUp,
    store: &Store,
    encoder: &mut EventEncoder,
    budget: Budget,
    current: i64,
    way: Way,
) -> Batch {
    let wanted = RangeSet::of(order.ranges.iter().map(|(range, _)| range));
    let with_previous =
        RangeSet::of(order.ranges.iter().filter(|(_, previous)| *previous).map(|(range, _)| range));
    let mut slice = Slice { store, encoder, budget, wanted, with_previous, events: Vec::new() };
    let through = match way {
        Way::Walk => slice.take(store.changes(Revision::new(order.from, 0)), 1),
        Way::LookUp => slice.take(Merged::new(order, store), LOOK_UP_RECORDS),
    };
    Batch { after: order.from - 1, through: through.unwrap_or(current), events: slice.events }
}

struct Slice<'a> {
    store: &'a Store,
    encoder: &'a mut EventEncoder,
    budget: Budget,
    wanted: RangeSet<'a>,
    with_previous: RangeSet<'a>,
    events: Vec<Event>,
}

impl<'a> Slice<'a> {
    /// Takes what is wanted of `changes`, each of which costs as much as `records`. Returns the last
    /// revision that is complete, `None` if there are no more changes.
    fn take(&mut self, changes: impl Iterator<Item = Change<'a>>, records: u64) -> Option<i64> {
        let Self { store, encoder, budget, wanted, with_previous, events } = self;
        let mut give = |_target, event| events.push(event);
        let mut through = None;
        let mut last = None;
        let (mut walked, mut bytes) = (0, 0);
        for change in changes {
            let revision = change.revision.main;
            if last.is_some_and(|last| last != revision)
                && (budget.records <= walked || budget.bytes <= bytes)
            {
                // Between the last revision and this one there is none with a change that is wanted.
                through = Some(revision - 1);
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
        through
    }
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
