//! A stream's watch ids, and its watchers that are behind.

use std::collections::{BTreeMap, BTreeSet};

use super::watcher::{State, Watcher};

/// Who has a watch id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Id {
    /// The watcher in this slot.
    Watcher(u32),
    /// Nobody any more: compaction cancelled the watcher, and the client has not said that it knows.
    Reserved,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) ids: BTreeMap<i64, Id>,
    /// Where the search for an id to assign begins. Only grows: a freed id is not assigned again.
    id_next: i64,
    pub(super) reserved_count: usize,
    /// Watchers that the client was told are created.
    pub(super) created_count: usize,
    /// Of them those that asked for `progress_notify`.
    pub(super) notified_count: usize,
    /// Synced watchers that wait for a revision which the store may not have reached yet, by it.
    future: BTreeSet<(i64, u32)>,
    pub(super) behind: Behind,
    /// Created watchers that the client has cancelled and was not told so yet. They get no more
    /// events, but to the client they still count among those that a progress answer speaks for.
    leaving_count: usize,
    /// What at least was delivered to all of them.
    leaving_through: i64,
    /// The outbox refused events and has not said that it has room again.
    pub(super) is_blocked: bool,
    /// As what `catch_up` knows the stream.
    pub(super) rank: Option<i64>,
    /// Requests that wait for a notice before they are answered.
    pub(super) waiting_count: usize,
}

impl Stream {
    /// An id that is not in use. Amortised O(log watchers).
    pub(super) fn assign_id(&mut self) -> i64 {
        while self.ids.contains_key(&self.id_next) {
            self.id_next += 1;
        }
        self.id_next += 1;
        self.id_next - 1
    }

    /// Counts a watcher from when it is created.
    pub(super) fn add(&mut self, slot: u32, watcher: &Watcher) {
        assert_ne!(watcher.state, State::Creating);
        self.created_count += 1;
        self.notified_count += usize::from(watcher.wants.progress);
        match watcher.state {
            State::Behind => self.behind.insert(watcher.next, slot),
            _ if watcher.start != 0 => _ = self.future.insert((watcher.start, slot)),
            _ => {}
        }
    }

    /// Forgets a watcher that is going away, but not its id.
    pub(super) fn remove(&mut self, slot: u32, watcher: &Watcher) {
        if watcher.state == State::Creating {
            return;
        }
        self.created_count -= 1;
        self.notified_count -= usize::from(watcher.wants.progress);
        self.future.remove(&(watcher.start, slot));
        if watcher.state == State::Behind {
            self.behind.remove(watcher.next, slot);
        }
    }

    /// The next revision of each watcher that is behind.
    pub(super) fn behind_from(&self) -> impl Iterator<Item = i64> + '_ {
        self.behind.by_next.iter().map(|(next, _)| *next)
    }

    /// A watcher that was said to be created is being cancelled; `through` was delivered to it.
    pub(super) fn on_leaving(&mut self, through: i64) {
        let before = if self.leaving_count == 0 { through } else { self.leaving_through };
        self.leaving_through = through.min(before);
        self.leaving_count += 1;
    }

    /// The client is being told that such a watcher is gone.
    pub(super) fn on_left(&mut self) {
        self.leaving_count -= 1;
    }

    /// Whether everything up to `current` was delivered to all watchers and will be to new ones: what
    /// a manual progress request asks. `current` must never be less than in an earlier call.
    pub(super) fn is_synced(&mut self, current: i64) -> bool {
        while let Some(&(start, _)) = self.future.first()
            && start <= current
        {
            self.future.pop_first();
        }
        self.created_count > 0
            && self.reserved_count == 0
            && self.behind.is_empty()
            && self.future.is_empty()
            && (self.leaving_count == 0 || current <= self.leaving_through)
    }
}

/// Watchers that are behind: a set by position, and the same set by slot to take turns.
#[derive(Debug, Default)]
pub(super) struct Behind {
    by_next: BTreeSet<(i64, u32)>,
    slots: BTreeSet<u32>,
    /// Slot that the next turn begins to look at.
    turn: u32,
}

impl Behind {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn insert(&mut self, next: i64, slot: u32) {
        let is_new = self.by_next.insert((next, slot)) && self.slots.insert(slot);
        assert!(is_new, "a watcher is behind at one place");
    }

    pub(super) fn remove(&mut self, next: i64, slot: u32) {
        let was_there = self.by_next.remove(&(next, slot)) && self.slots.remove(&slot);
        assert!(was_there, "a watcher that is behind is not where it says");
    }

    /// Moves a watcher forward.
    pub(super) fn advance(&mut self, from: i64, to: i64, slot: u32) {
        assert!(from <= to, "a watcher never goes back");
        let was_there = self.by_next.remove(&(from, slot));
        assert!(was_there, "a watcher that is behind is not where it says");
        self.by_next.insert((to, slot));
    }

    /// Position of the one with the least to catch up.
    pub(super) fn nearest(&self) -> Option<(i64, u32)> {
        self.by_next.last().copied()
    }

    /// The next one in turn: all get one before any gets a second.
    pub(super) fn take_turn(&mut self) -> Option<u32> {
        let slot = *self.slots.range(self.turn..).next().or_else(|| self.slots.first())?;
        self.turn = slot.wrapping_add(1);
        Some(slot)
    }

    /// Those whose next revision is in `from..end`.
    pub(super) fn within(&self, from: i64, end: i64) -> impl Iterator<Item = u32> + '_ {
        self.by_next.range((from, 0)..(end, 0)).map(|&(_, slot)| slot)
    }
}
