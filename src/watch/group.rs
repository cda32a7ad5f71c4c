//! Watchers of the same keys, and which of them a change concerns.
//!
//! A change is matched against distinct ranges, not against watchers: a thousand watchers of one key
//! are one hit, and the list of a batch's changes that concern them is made once.
//!
//! Invariants: the index holds exactly the ranges of the groups; `synced` holds exactly the group's
//! watchers that are synced, each at its `position`; hits exist only between `begin_delivery` and the
//! `collect` of each matched group; a slot that becomes free meanwhile is used again after `end_delivery`.
//! Cost: joining and leaving O(log groups); matching a change as `interval` says, and one hit of eight
//! bytes for each range around it.

use bytes::Bytes;

use super::interval::IntervalIndex;
use super::watcher::{State, Watchers};
use super::{Event, WatchRange};
use crate::types::{KeyRange, Slice};

/// No hit.
const NONE: u32 = u32::MAX;

/// Price of a hit that is noted, or collected.
const HIT_NS: u64 = 5;

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

impl Group {
    /// Notes that an event concerns the group of this slot.
    fn add_hit(&mut self, slot: u32, event: usize, hits: &mut Vec<Hit>, touched: &mut Vec<u32>) {
        let event = u32::try_from(event).expect("a batch has fewer than 2^32 events");
        let hit = u32::try_from(hits.len()).expect("a batch has fewer than 2^32 hits");
        hits.push(Hit { event, next: NONE });
        if self.first_hit == NONE {
            self.first_hit = hit;
            touched.push(slot);
        } else {
            hits[self.last_hit as usize].next = hit;
        }
        self.last_hit = hit;
    }
}

/// Groups by slot.
#[derive(Debug)]
pub(super) struct Groups {
    index: IntervalIndex<Option<u32>>,
    groups: Vec<Group>,
    free: Vec<u32>,
    /// Slots that are free when the batch under way is delivered, which may have hits for them.
    free_later: Vec<u32>,
    is_delivering: bool,
    /// The group whose watchers are being told, or `NONE`, and how many of them have been: the first ones.
    telling: u32,
    told: usize,
    hits: Vec<Hit>,
    touched: Vec<u32>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            index: IntervalIndex::new(),
            groups: Vec::new(),
            free: Vec::new(),
            free_later: Vec::new(),
            is_delivering: false,
            telling: NONE,
            told: 0,
            hits: Vec::new(),
            touched: Vec::new(),
        }
    }
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
            if self.is_delivering { self.free_later.push(group) } else { self.free.push(group) }
        }
    }

    pub(super) fn range(&self, group: u32) -> &WatchRange {
        &self.groups[group as usize].range
    }

    /// Begins to tell the synced watchers of a group.
    pub(super) fn begin_to_tell(&mut self, group: u32) {
        (self.telling, self.told) = (group, 0);
    }

    /// The next one to be told of the group at hand. Each that stays is named once, whoever leaves meanwhile.
    pub(super) fn next_to_tell(&mut self) -> Option<u32> {
        let next = self.groups[self.telling as usize].synced.get(self.told).copied();
        if next.is_some() {
            self.told += 1;
        } else {
            self.telling = NONE;
        }
        next
    }

    /// Counts a watcher among the synced ones.
    pub(super) fn add_synced(&mut self, slot: u32, watchers: &mut Watchers) {
        let watcher = watchers.get_mut(slot);
        assert_ne!(watcher.state, State::Synced, "it would get every change twice");
        let synced = &mut self.groups[watcher.group as usize].synced;
        watcher.position = narrow(synced.len());
        watcher.state = State::Synced;
        synced.push(slot);
    }

    /// Its place is taken by the last one, or if some of the group have been told, by the last of those.
    pub(super) fn remove_synced(&mut self, slot: u32, watchers: &mut Watchers) {
        let watcher = watchers.get_mut(slot);
        assert_eq!(watcher.state, State::Synced);
        watcher.state = State::Behind;
        let mut position = watcher.position as usize;
        let synced = &mut self.groups[watcher.group as usize].synced;
        if self.telling == watcher.group && position < self.told {
            self.told -= 1;
            synced.swap(position, self.told);
            watchers.get_mut(synced[position]).position = narrow(position);
            position = self.told;
        }
        assert_eq!(synced.swap_remove(position), slot, "a synced watcher is not where it says");
        if let Some(&moved) = synced.get(position) {
            watchers.get_mut(moved).position = narrow(position);
        }
    }

    /// Has the next `match_events` look at the group.
    pub(super) fn want(&mut self, group: u32) {
        self.groups[group as usize].is_wanted = true;
    }

    /// Begins with another batch.
    pub(super) fn begin_delivery(&mut self) {
        assert!(!self.is_delivering, "one batch at a time");
        self.is_delivering = true;
        self.hits.clear();
        self.touched.clear();
    }

    /// Every group that was touched, or wanted, has been collected.
    pub(super) fn end_delivery(&mut self) {
        self.is_delivering = false;
        self.free.append(&mut self.free_later);
    }

    /// Finds out which groups the events concern, from number `matched` on, until the slice is spent. Returns how
    /// many were looked at.
    pub(super) fn match_events(
        &mut self,
        events: &[Event],
        mut matched: usize,
        who: MatchFor,
        slice: &mut Slice,
    ) -> usize {
        let Self { index, groups, hits, touched, .. } = self;
        while let Some(event) = events.get(matched)
            && !slice.is_spent()
        {
            let before = hits.len();
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
                group.add_hit(slot, matched, hits, touched);
            });
            slice.spend_key();
            slice.spend(HIT_NS * (hits.len() - before) as u64);
            matched += 1;
        }
        matched
    }

    /// The group of a range, if there is one.
    pub(super) fn find(&mut self, range: &WatchRange) -> Option<u32> {
        self.index.get_mut(range).copied().flatten()
    }

    /// Notes that all events concern the group, from number `matched` on, until the slice is spent. Returns how many
    /// were noted.
    pub(super) fn match_all(
        &mut self,
        group: u32,
        events: usize,
        mut matched: usize,
        slice: &mut Slice,
    ) -> usize {
        let Self { groups, hits, touched, .. } = self;
        let hit_group = &mut groups[group as usize];
        if hit_group.synced.is_empty() && hit_group.first_hit == NONE {
            return events;
        }
        while matched < events && !slice.is_spent() {
            hit_group.add_hit(group, matched, hits, touched);
            slice.spend(HIT_NS);
            matched += 1;
        }
        matched
    }

    /// Number of groups with hits, for `touched`.
    pub(super) fn touched_count(&self) -> usize {
        self.touched.len()
    }

    /// The group that was found as number `at`.
    pub(super) fn touched(&self, at: usize) -> u32 {
        self.touched[at]
    }

    /// Moves the group's hits behind `of_group`, in the order of the events, until the slice is spent. True when
    /// that was all.
    pub(super) fn collect(&mut self, group: u32, of_group: &mut Vec<u32>, slice: &mut Slice) -> bool {
        let group = &mut self.groups[group as usize];
        group.is_wanted = false;
        while group.first_hit != NONE {
            if slice.is_spent() {
                return false;
            }
            slice.spend(HIT_NS);
            let Hit { event, next } = self.hits[group.first_hit as usize];
            of_group.push(event);
            group.first_hit = next;
        }
        group.last_hit = NONE;
        true
    }
}

/// A position among watchers, whose slots are 32 bits.
fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("slots are 32 bits")
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
            assert!(self.is_delivering || (group.first_hit == NONE && !group.is_wanted));
            if self.free.contains(&slot) || self.free_later.contains(&slot) {
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
        assert_eq!(self.index.len(), self.groups.len() - self.free.len() - self.free_later.len());
        members
    }
}
