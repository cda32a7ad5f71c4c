//! One watcher, and the table that holds them all.

use super::{Event, StreamId};

/// A watcher: what it asked for and how far it has come. Its keys are its group's (`group`).
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: StreamId,
    pub(super) watch_id: i64,
    pub(super) group: u32,
    /// Place among the synced watchers of the group; means something only while it is synced.
    pub(super) position: u32,
    /// First revision that it has not got. All changes before it that concern it were delivered.
    pub(super) next: i64,
    /// First revision that it asked for, 0 for what comes from now on.
    pub(super) start: i64,
    pub(super) state: State,
    pub(super) wants: Wants,
    /// Whether it got events since the last progress interval.
    pub(super) got_events: bool,
}

/// Where a watcher's changes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// From nowhere yet: the store has not said that it is subscribed.
    Creating,
    /// From the batches: every change so far is delivered, or lies before `start`.
    Synced,
    /// From history, from `next` on. Batches pass it by.
    Behind,
}

/// What a watcher's creation asked for besides keys and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) puts: bool,
    pub(super) deletes: bool,
    pub(super) previous: bool,
    pub(super) fragment: bool,
    pub(super) progress: bool,
}

impl Wants {
    /// Whether it is an event that was not filtered out.
    pub(super) fn has(self, event: &Event) -> bool {
        if event.is_delete { self.deletes } else { self.puts }
    }

    /// Whether the same events make the same bytes for both.
    pub(super) fn are_of_events_as(self, other: Self) -> bool {
        let of_events = |wants: Self| (wants.puts, wants.deletes, wants.previous);
        of_events(self) == of_events(other)
    }
}

/// Names a watcher for as long as it lives; its slot may have another one later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WatcherKey {
    pub(super) slot: u32,
    generation: u32,
}

/// Watchers by slot. A slot that becomes free is used again.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    /// How many watchers it has had before. Four billion of them in one slot would need as many
    /// requests while one answer is under way.
    generation: u32,
    watcher: Option<Watcher>,
}

impl Watchers {
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, watcher: Watcher) -> WatcherKey {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            place.watcher = Some(watcher);
            return WatcherKey { slot, generation: place.generation };
        }
        let slot = u32::try_from(self.slots.len()).expect("far fewer than 2^32 watchers fit in memory");
        self.slots.push(Slot { generation: 0, watcher: Some(watcher) });
        WatcherKey { slot, generation: 0 }
    }

    pub(super) fn remove(&mut self, slot: u32) -> Watcher {
        let place = &mut self.slots[slot as usize];
        let watcher = place.watcher.take().expect("whoever names a slot names its watcher");
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        watcher
    }

    /// Whether the watcher still lives.
    pub(super) fn is_alive(&self, key: WatcherKey) -> bool {
        let place = &self.slots[key.slot as usize];
        place.generation == key.generation && place.watcher.is_some()
    }

    pub(super) fn key(&self, slot: u32) -> WatcherKey {
        WatcherKey { slot, generation: self.slots[slot as usize].generation }
    }

    /// How many slots there are, used or not.
    pub(super) fn slots_count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("far fewer than 2^32 watchers fit in memory")
    }

    /// The watcher in a slot, if there is one.
    pub(super) fn find(&self, slot: u32) -> Option<&Watcher> {
        self.slots[slot as usize].watcher.as_ref()
    }

    pub(super) fn get(&self, slot: u32) -> &Watcher {
        self.slots[slot as usize].watcher.as_ref().expect("whoever names a slot names its watcher")
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Watcher {
        self.slots[slot as usize].watcher.as_mut().expect("whoever names a slot names its watcher")
    }
}
