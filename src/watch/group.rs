//! Watchers of the same keys, and which of them a change concerns.
//!
//! A change is matched against distinct ranges, not against watchers: a thousand watchers of one key
//! are one hit, and the list of a batch's changes that concern them is made once.
//!
//! Invariants: the index holds exactly the ranges of the groups; `synced` holds exactly the group's
//! watchers that are synced, each at its `position`; hits exist only between `match_events` and the
//! `collect` of each matched group.
//! Cost: joining and leaving O(log groups); matching a change as `interval` says, and one hit of eight
//! bytes for each range around it.

use bytes::Bytes;

use super::interval::IntervalIndex;
use super::watcher::{State, Watchers};
use super::{Event, WatchRange};
use crate::types::KeyRange;

/// No hit.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Group {
    range: WatchRange,
    /// All its watchers, synced or not.
    watchers_count: u32,
    /// Slots of the synced ones, in no order.
    synced: Vec<u32>,
    /// Matching is asked to look at it whether it has synced watchers or not.
    is_wanted: bool,
    /// Hits of the batch being delivered, as a list in `Groups::hits`.
    first_hit: u32,
    last_hit: u32,
}

/// One change that concerns a group.
#[derive(Debug, Clone, Copy)]
struct Hit {
    event: u32,
    next: u32,
}

/// Groups by slot.
#[derive(Debug, Default)]
pub(super) struct Groups {
    index: IntervalIndex<Option<u32>>,
    groups: Vec<Group>,
    free: Vec<u32>,
    hits: Vec<Hit>,
    touched: Vec<u32>,
}

/// Which groups a batch is matched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MatchFor {
    /// Those that have synced watchers.
    Synced,
    /// Those that `want` named.
    Wanted,
}

impl Groups {
    /// Adds a watcher to the group of its range.
    pub(super) fn join(&mut self, range: &WatchRange) -> u32 {
        let slot = self.index.insert(range);
        if let Some(slot) = *slot {
            self.groups[slot as usize].watchers_count += 1;
            return slot;
        }
        let group = Group {
            range: detached(range),
            watchers_count: 1,
            synced: Vec::new(),
            is_wanted: false,
            first_hit: NONE,
            last_hit: NONE,
        };
        let new = match self.free.pop() {
            Some(free) => {
                self.groups[free as usize] = group;
                free
            }
            None => {
                self.groups.push(group);
                u32::try_from(self.groups.len() - 1).expect("there are no more groups than watchers")
            }
        };
        *slot = Some(new);
        new
    }

    /// Takes away a watcher that is not among the synced ones.
    pub(super) fn leave(&mut self, group: u32) {
        let left = &mut self.groups[group as usize];
        left.watchers_count -= 1;
        if left.watchers_count == 0 {
            assert!(left.synced.is_empty(), "a watcher left its group but not the group's synced ones");
            left.synced = Vec::new();
            let found = self.index.remove(&left.range);
            assert_eq!(found, Some(Some(group)), "the index names another group for this range");
            left.range = WatchRange::new(Bytes::new(), Bytes::new());
            self.free.push(group);
        }
    }

    pub(super) fn range(&self, group: u32) -> &WatchRange {
        &self.groups[group as usize].range
    }

    pub(super) fn synced(&self, group: u32) -> &[u32] {
        &self.groups[group as usize].synced
    }

    /// Counts a watcher among the synced ones.
    pub(super) fn add_synced(&mut self, slot: u32, watchers: &mut Watchers) {
        let watcher = watchers.get_mut(slot);
        assert_ne!(watcher.state, State::Synced, "it would get every change twice");
        let synced = &mut self.groups[watcher.group as usize].synced;
        watcher.position = u32::try_from(synced.len()).expect("slots are 32 bits");
        watcher.state = State::Synced;
        synced.push(slot);
    }

    /// Its place is taken by the last one.
    pub(super) fn remove_synced(&mut self, slot: u32, watchers: &mut Watchers) {
        let watcher = watchers.get_mut(slot);
        assert_eq!(watcher.state, State::Synced);
        watcher.state = State::Behind;
        let position = watcher.position as usize;
        let synced = &mut self.groups[watcher.group as usize].synced;
        assert_eq!(synced.swap_remove(position), slot, "a synced watcher is not where it says");
        if let Some(&moved) = synced.get(position) {
            watchers.get_mut(moved).position = u32::try_from(position).expect("slots are 32 bits");
        }
    }

    /// Has the next `match_events` look at the group.
    pub(super) fn want(&mut self, group: u32) {
        self.groups[group as usize].is_wanted = true;
    }

    /// Finds out which groups the events concern.
    pub(super) fn match_events(&mut self, events: &[Event], who: MatchFor) {
        let Self { index, groups, hits, touched, .. } = self;
        hits.clear();
        touched.clear();
        for (number, event) in (0..).zip(events) {
            index.stab(&event.key, |slot| {
                let slot = slot.expect("a range is in the index as long as it has a group");
                let group = &mut groups[slot as usize];
                let is_asked = match who {
                    MatchFor::Synced => !group.synced.is_empty(),
                    MatchFor::Wanted => group.is_wanted,
                };
                if !is_asked {
                    return;
                }
                let hit = u32::try_from(hits.len()).expect("a batch has fewer than 2^32 hits");
                hits.push(Hit { event: number, next: NONE });
                if group.first_hit == NONE {
                    group.first_hit = hit;
                    touched.push(slot);
                } else {
                    hits[group.last_hit as usize].next = hit;
                }
                group.last_hit = hit;
            });
        }
    }

    /// Number of groups with hits, for `touched`.
    pub(super) fn touched_count(&self) -> usize {
        self.touched.len()
    }

    /// The group that was found as number `at`.
    pub(super) fn touched(&self, at: usize) -> u32 {
        self.touched[at]
    }

    /// Moves the group's hits into `of_group`, in the order of the events.
    pub(super) fn collect<'e>(&mut self, group: u32, events: &'e [Event], of_group: &mut Vec<&'e Event>) {
        of_group.clear();
        let group = &mut self.groups[group as usize];
        group.is_wanted = false;
        group.last_hit = NONE;
        let mut hit = std::mem::replace(&mut group.first_hit, NONE);
        while hit != NONE {
            let Hit { event, next } = self.hits[hit as usize];
            of_group.push(&events[event as usize]);
            hit = next;
        }
    }
}

/// The range in memory of its own: a request's keys share the buffer that the request came in, and a
/// watcher of three bytes would hold all of it for as long as it lives.
fn detached(range: &WatchRange) -> WatchRange {
    let (key, range_end): (&[u8], &[u8]) = match range.keys() {
        KeyRange::One(key) => (key, &[]),
        KeyRange::Between { start, end } => (start, end),
        KeyRange::From(start) => (start, &[0]),
    };
    let mut joined = Vec::with_capacity(key.len() + range_end.len());
    joined.extend_from_slice(key);
    joined.extend_from_slice(range_end);
    let joined = Bytes::from(joined);
    WatchRange::new(joined.slice(..key.len()), joined.slice(key.len()..))
}

#[cfg(test)]
impl Groups {
    /// Panics unless what the module says holds. Returns the number of watchers in groups.
    pub(super) fn check_invariants(&self, watchers: &Watchers) -> usize {
        let mut members = 0;
        for (slot, group) in (0..).zip(&self.groups) {
            assert_eq!(group.first_hit, NONE);
            assert!(!group.is_wanted);
            if self.free.contains(&slot) {
                continue;
            }
            members += group.watchers_count as usize;
            assert!(group.synced.len() <= group.watchers_count as usize);
            for (position, &synced) in (0..).zip(&group.synced) {
                let watcher = watchers.get(synced);
                assert_eq!((watcher.state, watcher.group), (State::Synced, slot));
                assert_eq!(watcher.position, position);
            }
        }
        assert_eq!(self.index.len(), self.groups.len() - self.free.len());
        members
    }
}
