//! When each lease is due, as its leader remembers it. Never replicated; gone with the leadership.
//!
//! Time comes in as milliseconds of a clock that never goes back. A lease has one timer on the wheel,
//! set to when it must be looked at next: when it is due, or when its remaining time must be noted in
//! the log. A keep-alive moves the deadline and leaves the timer alone; the timer goes off too soon
//! then, finds the lease alive, and is set again. So a renewal touches no list, and a lease that is
//! kept alive is looked at about twice per TTL, however often it is renewed.
//!
//! A lease that nobody has kept alive yet is noted when it is a second old, two, four and so on; one that
//! was kept alive only when half its time has passed since, which a client that renews in time, as
//! clients do at a third, never lets come. A new leader does not know when a lease was kept alive last: it
//! notes it when nobody has come for two fifths of its time, so that leaders that follow each other faster
//! than leases end do not keep them alive for ever. Towards its end each is noted when what it has left is half
//! of what the log says. So a few notes remember at least half of the time that has passed, and at most
//! twice the time that is left. From the moment such a note may be in the log, a keep-alive is not
//! answered before the log says "the full time" again: a leader that follows this one knows only the log.
//!
//! Invariants: it holds exactly the table's leases while it leads; at most one note of a lease is on
//! its way to the log; a lease that is due stays due until it is revoked.
//! Cost: renew O(log leases), a map look-up, no allocation; a timer O(1). 130 bytes a lease.

use std::collections::{BTreeMap, VecDeque};

use super::wheel::{Popped, Wheel};
use super::{Change, Table};
use crate::pb::peer::LeaseRemaining;
use crate::types::LeaseId;

/// Milliseconds of a tick of the wheel, as a shift: 32 ms, well below the shell's own tick.
const TICK_SHIFT: u32 = 5;

/// Less than this is not noted, neither as time that has passed nor as time that is left.
const NOTED_MS_MIN: u64 = 1_000;

/// What became of a keep-alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// There is no such lease.
    Unknown,
    /// It lives for its whole TTL from now on.
    Renewed { ttl_s: u64 },
    /// It was found due before: the answer is the outcome of that.
    Due,
    /// It is renewed when the log says so; the change `RemainingSet` with 0 tells.
    MustLog,
}

/// How far the end of a lease has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Not,
    /// In the list `due`.
    Listed,
    /// Handed out: a request that revokes it is on its way.
    Taken,
}

#[derive(Debug, Clone)]
struct Entry {
    id: LeaseId,
    ttl_s: u64,
    deadline_ms: u64,
    /// What the log says it has left; 0 is the full time.
    noted_s: u64,
    due: Due,
    /// A keep-alive has come, or may have come to an earlier leader.
    is_kept: bool,
    /// None has come since this member leads.
    is_inherited: bool,
    /// What a new leader adds to the deadline, so that clients find it: no part of any promise, and not noted.
    grace_ms: u64,
    /// A keep-alive waits for the full time to be noted.
    is_resetting: bool,
    /// It is in `to_note`.
    is_queued: bool,
    /// A request that notes it is on its way.
    is_sent: bool,
}

impl Entry {
    /// Its remaining time is to be noted when it has come down to this; `None` when it is not.
    fn note_below_ms(&self) -> Option<u64> {
        let full_ms = self.ttl_s * 1_000;
        let noted_ms = if self.noted_s == 0 { full_ms } else { self.noted_s * 1_000 };
        let half = noted_ms / 2;
        let below = if self.is_inherited && self.noted_s == 0 {
            full_ms / 5 * 3
        } else if self.is_kept && self.noted_s == 0 {
            half
        } else {
            let passed_ms = full_ms.saturating_sub(noted_ms);
            half.max(full_ms.saturating_sub(NOTED_MS_MIN.max(2 * passed_ms)))
        };
        (NOTED_MS_MIN <= below).then_some(below)
    }

    /// When it must be looked at next.
    fn wake_ms(&self) -> u64 {
        match self.note_below_ms() {
            Some(left) if !self.is_queued && !self.is_sent => {
                self.deadline_ms.saturating_sub(left + self.grace_ms)
            }
            _ => self.deadline_ms,
        }
    }

    /// The time left that may be noted.
    fn noted_left_ms(&self, now_ms: u64) -> u64 {
        self.deadline_ms.saturating_sub(now_ms + self.grace_ms)
    }

    fn renew(&mut self, now_ms: u64) {
        // `max`: a new leader's first deadline may be further away than a whole TTL.
        let renewed = deadline(now_ms, self.ttl_s);
        self.deadline_ms = self.deadline_ms.max(renewed);
        self.grace_ms = self.deadline_ms - renewed;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Expiry {
    slots: BTreeMap<LeaseId, u32>,
    /// By slot, which is also the number of the lease's timer.
    entries: Vec<Entry>,
    free: Vec<u32>,
    wheel: Wheel,
    /// Found due, not yet handed out.
    due: VecDeque<LeaseId>,
    /// To be noted, or to be set back to the full time.
    to_note: VecDeque<LeaseId>,
}

impl Default for Expiry {
    fn default() -> Self {
        Self::new()
    }
}

fn tick_of(at_ms: u64) -> u64 {
    // Rounded up: a timer may be late by a tick, never early.
    at_ms.div_ceil(1 << TICK_SHIFT)
}

fn deadline(now_ms: u64, left_s: u64) -> u64 {
    now_ms.saturating_add(left_s.saturating_mul(1_000))
}

impl Expiry {
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: BTreeMap::new(),
            entries: Vec::new(),
            free: Vec::new(),
            wheel: Wheel::new(0),
            due: VecDeque::new(),
            to_note: VecDeque::new(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Starts with the leases of `table`, each with the time the log says it has left and `extend_ms`
    /// more. The table holds everything that earlier leaders logged.
    pub fn become_leader(&mut self, now_ms: u64, table: &Table, extend_ms: u64) {
        *self = Self { wheel: Wheel::new(now_ms >> TICK_SHIFT), ..Self::new() };
        self.entries.reserve_exact(table.len());
        for (id, lease) in table.iter() {
            let left_s = if lease.remaining_s() == 0 { lease.ttl_s() } else { lease.remaining_s() };
            self.entries.push(Entry {
                id,
                ttl_s: lease.ttl_s(),
                deadline_ms: deadline(now_ms, left_s).saturating_add(extend_ms),
                noted_s: lease.remaining_s(),
                due: Due::Not,
                is_kept: true,
                is_inherited: true,
                grace_ms: extend_ms,
                is_resetting: false,
                is_queued: false,
                is_sent: false,
            });
        }
        self.slots = self.entries.iter().map(|entry| entry.id).zip(0..).collect();
        for (timer, entry) in (0..).zip(&self.entries) {
            self.wheel.insert(timer, tick_of(entry.wake_ms()));
        }
    }

    /// Forgets everything: another member leads.
    pub fn step_down(&mut self) {
        *self = Self::new();
    }

    /// Follows the table. The change was made by an entry of this leader's own term.
    pub fn on_change(&mut self, now_ms: u64, change: Change) {
        match change {
            Change::Granted { id, ttl_s } => self.on_granted(now_ms, id, ttl_s),
            Change::Revoked { id } => {
                let slot = self.slots.remove(&id).expect("a lease that is revoked was there");
                self.wheel.remove(slot);
                self.free.push(slot);
            }
            Change::RemainingSet { id, remaining_s } => {
                let slot = self.slots[&id];
                let entry = &mut self.entries[slot as usize];
                entry.noted_s = remaining_s;
                entry.is_sent = false;
                if remaining_s == 0 && entry.is_resetting {
                    entry.is_resetting = false;
                    entry.deadline_ms = deadline(now_ms, entry.ttl_s);
                    entry.grace_ms = 0;
                }
                self.set_timer(slot);
            }
        }
    }

    fn on_granted(&mut self, now_ms: u64, id: LeaseId, ttl_s: u64) {
        let entry = Entry {
            id,
            ttl_s,
            deadline_ms: deadline(now_ms, ttl_s),
            noted_s: 0,
            due: Due::Not,
            is_kept: false,
            is_inherited: false,
            grace_ms: 0,
            is_resetting: false,
            is_queued: false,
            is_sent: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                let slot = u32::try_from(self.entries.len()).expect("memory holds no 2^32 leases");
                self.entries.push(entry);
                slot
            }
        };
        let before = self.slots.insert(id, slot);
        assert!(before.is_none(), "{id:?} was granted twice");
        self.set_timer(slot);
    }

    fn set_timer(&mut self, slot: u32) {
        self.wheel.remove(slot);
        let entry = &self.entries[slot as usize];
        if entry.due == Due::Not && !entry.is_resetting {
            self.wheel.insert(slot, tick_of(entry.wake_ms()));
        }
    }

    fn entry(&self, id: LeaseId) -> Option<&Entry> {
        self.slots.get(&id).map(|&slot| &self.entries[slot as usize])
    }

    fn entry_mut(&mut self, id: LeaseId) -> Option<&mut Entry> {
        self.slots.get(&id).map(|&slot| &mut self.entries[slot as usize])
    }

    /// A keep-alive came. One that comes late, but before the lease was found due, counts.
    pub fn renew(&mut self, id: LeaseId, now_ms: u64) -> Renewal {
        let Some(entry) = self.entry_mut(id) else { return Renewal::Unknown };
        if entry.due != Due::Not {
            return Renewal::Due;
        }
        entry.is_kept = true;
        entry.is_inherited = false;
        if entry.noted_s == 0 && !entry.is_sent {
            entry.renew(now_ms);
            return Renewal::Renewed { ttl_s: entry.ttl_s };
        }
        if !entry.is_resetting {
            entry.is_resetting = true;
            if !std::mem::replace(&mut entry.is_queued, true) {
                self.to_note.push_back(id);
            }
        }
        Renewal::MustLog
    }

    /// The TTL of a lease that is there and was not found due.
    #[must_use]
    pub(super) fn ttl_s_of_live(&self, id: LeaseId) -> Option<u64> {
        self.entry(id).filter(|entry| entry.due == Due::Not).map(|entry| entry.ttl_s)
    }

    /// Time until the lease is due; `None` for one that is not there.
    #[must_use]
    pub fn remaining_ms(&self, id: LeaseId, now_ms: u64) -> Option<u64> {
        self.entry(id).map(|entry| entry.deadline_ms.saturating_sub(now_ms))
    }

    /// All leases, soonest due first. O(leases log leases).
    #[must_use]
    pub fn by_remaining(&self) -> Vec<LeaseId> {
        let mut leases: Vec<(u64, LeaseId)> =
            self.slots.iter().map(|(&id, &slot)| (self.entries[slot as usize].deadline_ms, id)).collect();
        leases.sort_unstable();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// Lets time pass, looking at no more than `timers_max` timers. True if that was not enough.
    pub fn advance(&mut self, now_ms: u64, timers_max: usize) -> bool {
        let mut steps = timers_max;
        loop {
            match self.wheel.pop(now_ms >> TICK_SHIFT, &mut steps) {
                Popped::Timer(slot) => self.look_at(slot, now_ms),
                Popped::Nothing => return false,
                Popped::Pause => return true,
            }
        }
    }

    fn look_at(&mut self, slot: u32, now_ms: u64) {
        let entry = &mut self.entries[slot as usize];
        if entry.is_resetting {
            return; // its timer is set when the log says that it is renewed
        }
        let left_ms = entry.deadline_ms.saturating_sub(now_ms);
        if left_ms == 0 {
            entry.due = Due::Listed;
            self.due.push_back(entry.id);
            return;
        }
        let noted_left_ms = entry.noted_left_ms(now_ms);
        let is_to_note = entry.note_below_ms().is_some_and(|below| noted_left_ms <= below);
        if is_to_note && !entry.is_queued && !entry.is_sent {
            entry.is_queued = true;
            self.to_note.push_back(entry.id);
        }
        self.wheel.insert(slot, tick_of(entry.wake_ms()));
    }

    /// The next lease that is due: none before its time, and each once, unless it is given back.
    pub fn take_due(&mut self) -> Option<LeaseId> {
        while let Some(id) = self.due.pop_front() {
            // It may have been revoked since, and granted anew.
            if let Some(entry) = self.entry_mut(id).filter(|entry| entry.due == Due::Listed) {
                entry.due = Due::Taken;
                return Some(id);
            }
        }
        None
    }

    /// The revocation of this lease went nowhere, if it is still there.
    pub fn put_back_due(&mut self, id: LeaseId) {
        if let Some(entry) = self.entry_mut(id).filter(|entry| entry.due == Due::Taken) {
            entry.due = Due::Listed;
            self.due.push_back(id);
        }
    }

    /// What is to be logged of remaining times. Not called again before `on_noted` for these.
    pub fn take_notes(&mut self, now_ms: u64, count_max: usize) -> Vec<LeaseRemaining> {
        let mut notes = Vec::with_capacity(count_max.min(self.to_note.len()));
        while notes.len() < count_max
            && let Some(id) = self.to_note.pop_front()
        {
            let Some(entry) = self.entry_mut(id) else { continue };
            if !std::mem::take(&mut entry.is_queued) || entry.due != Due::Not {
                continue;
            }
            assert!(!entry.is_sent, "{id:?} is noted twice at a time");
            let left_ms = entry.noted_left_ms(now_ms);
            let remaining_s = if entry.is_resetting { 0 } else { left_ms.div_ceil(1_000).max(1) };
            // It may have been kept alive while it waited here; then its timer knows the next time.
            let is_to_note = entry.note_below_ms().is_some_and(|below| left_ms <= below);
            if entry.is_resetting || is_to_note {
                entry.is_sent = true;
                notes.push(LeaseRemaining { id: id.0, remaining_s });
            } else {
                let slot = self.slots[&id];
                self.set_timer(slot);
            }
        }
        notes
    }

    /// The request with these notes was applied, its changes are known here, or it went nowhere: what
    /// it did not do is to be done again.
    pub fn on_noted(&mut self, ids: impl Iterator<Item = LeaseId>) {
        for id in ids {
            let Some(&slot) = self.slots.get(&id) else { continue };
            let entry = &mut self.entries[slot as usize];
            entry.is_sent = false;
            if entry.is_resetting {
                if !std::mem::replace(&mut entry.is_queued, true) {
                    self.to_note.push_back(id);
                }
            } else {
                self.set_timer(slot);
            }
        }
    }
}

#[cfg(test)]
#[path = "expiry_tests.rs"]
mod tests;
