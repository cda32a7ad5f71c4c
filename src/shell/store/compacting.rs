//! Compactions in the store role: those that it asks for of its own accord, and the removal of what all of them made
//! unreadable, in slices.

use std::time::Instant;

use super::StoreRole;
use crate::apply::Applied;
use crate::request::Login;
use crate::types::Slice;
use crate::types::limits::KEY_NS;
use crate::upkeep::Standing;

impl StoreRole {
    /// Compacts history of its own accord, if that is wanted and its time has come.
    pub(super) fn look_at_history(&mut self) {
        let leads = self.leads().is_some();
        let Some(clock) = &mut self.auto_compaction else { return };
        let store = self.machine.store();
        let (current, compacted) = (store.current_revision(), store.compact_revision());
        let login = Login::of_member(self.machine.format_level());
        clock.turn(Standing { current, compacted, leads }, login, &self.ports.to_raft);
    }

    pub(super) fn on_compacted(&mut self, number: u64, applied: &Applied) {
        if let Some(clock) = &mut self.auto_compaction {
            let rejection = match applied {
                Applied::Now(Err(rejection)) => Some(rejection),
                Applied::Now(Ok(_)) | Applied::AfterCompaction(_) => None,
            };
            clock.on_ended(number, rejection);
        }
    }

    /// Settles, then removes what compactions made unreadable: what rests while a large write is prepared.
    pub(super) fn clear(&mut self, slice: &mut Slice) -> bool {
        if self.is_preparing() {
            return false;
        }
        if self.settle(slice) {
            return true;
        }
        let has_more = self.compact(slice);
        self.room.on_removal(slice.spent_ns(), has_more);
        has_more
    }

    /// Writes the records that a large deletion owes.
    fn settle(&mut self, slice: &mut Slice) -> bool {
        if self.machine.store().is_settled() {
            return false;
        }
        self.machine.settle_slice(slice);
        self.memory.refill(&mut self.machine);
        true
    }

    /// Removes what compactions made unreadable, whether or not anybody waits for that.
    fn compact(&mut self, slice: &mut Slice) -> bool {
        let is_done = !self.machine.store().is_compacting() && self.compacting.is_empty();
        if is_done || self.compact_after.is_some_and(|end| Instant::now() < end) {
            return false;
        }
        self.compact_after = None;
        let steps = self.upkeep.compaction_batch.min(slice.units_left(KEY_NS));
        slice.spend(steps as u64 * KEY_NS);
        let (begun, was_compacting) = (self.observed.begin(), self.machine.store().is_compacting());
        let is_paused = self.machine.work_slice(steps);
        if was_compacting {
            self.observed.on_compaction_slice(begun, !self.machine.store().is_compacting());
        }
        let removed = self.machine.store().removed_through();
        while let Some((ticket, response, _)) =
            self.compacting.pop_front_if(|(_, _, revision)| is_paused || *revision <= removed)
        {
            self.answer(ticket, Ok(response));
        }
        if is_paused {
            // What is left is held back by a pin, for which no caller waits.
            return false;
        }
        if self.upkeep.compaction_sleep.is_zero() {
            return true;
        }
        self.compact_after = Some(Instant::now() + self.upkeep.compaction_sleep);
        false
    }
}
