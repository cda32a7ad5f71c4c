//! Who waits for which answer.
//!
//! A ticket names a slot and the slot's generation (`types/ticket.rs`). An answer whose generation is not
//! the slot's came too late; nobody waits for it any more.
//!
//! Deadlines are looked at by a scan on the shard's tick, not by a timer each: a slot costs the scan
//! a nanosecond, a timer costs an allocation and two heap operations a request.
//!
//! Invariants: a slot is free or holds a waiter; generations of one slot never repeat within 2^28
//! uses.
//! Cost: insert and take O(1); `expire` and `replace_each` O(slots ever used at once).

use crate::types::ticket::{Caller, ClientCall, GENERATIONS, SHARDS_MAX, SLOTS_MAX, Ticket};

/// A table of waiters `W`.
pub(in crate::shell::client) struct Slots<W> {
    shard: u16,
    first_generation: u32,
    entries: Vec<Entry<W>>,
    free: Vec<u32>,
}

struct Entry<W> {
    generation: u32,
    deadline_ms: u64,
    waiter: Option<W>,
}

impl<W> Slots<W> {
    /// `first_generation` differs between starts of the process, so that an answer to a ticket of
    /// an earlier life finds nobody.
    pub(in crate::shell::client) fn new(shard: u16, first_generation: u32) -> Self {
        assert!(shard < SHARDS_MAX, "shard {shard} does not fit a ticket");
        Self { shard, first_generation, entries: Vec::new(), free: Vec::new() }
    }

    /// Waiters now.
    pub(in crate::shell::client) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    fn ticket(&self, slot: u32) -> Ticket {
        let generation = self.entries[slot as usize].generation;
        Caller::Client(ClientCall { shard: self.shard, generation, slot }).into()
    }

    /// Takes a waiter in until `deadline_ms`.
    pub(in crate::shell::client) fn insert(&mut self, deadline_ms: u64, waiter: W) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.entries.len()).expect("accounts bound the calls");
            assert!(slot < SLOTS_MAX, "accounts bound the calls");
            let generation = self.first_generation % GENERATIONS;
            self.entries.push(Entry { generation, deadline_ms: 0, waiter: None });
            slot
        });
        let entry = &mut self.entries[slot as usize];
        assert!(entry.waiter.is_none(), "slot {slot} is free");
        entry.deadline_ms = deadline_ms;
        entry.waiter = Some(waiter);
        self.ticket(slot)
    }

    /// The slot a ticket names, if its waiter is still there.
    fn slot(&self, ticket: Ticket) -> Option<usize> {
        let Caller::Client(ClientCall { shard, generation, slot }) = ticket.caller() else { return None };
        let entry = self.entries.get(slot as usize)?;
        let is_waiting = entry.waiter.is_some() && (shard, generation) == (self.shard, entry.generation);
        is_waiting.then_some(slot as usize)
    }

    fn release(&mut self, slot: usize) -> W {
        let entry = &mut self.entries[slot];
        let waiter = entry.waiter.take().expect("only a taken slot is released");
        entry.generation = (entry.generation + 1) % GENERATIONS;
        self.free.push(u32::try_from(slot).expect("slots are 24 bits"));
        waiter
    }

    /// Ends a wait.
    pub(in crate::shell::client) fn take(&mut self, ticket: Ticket) -> Option<W> {
        self.slot(ticket).map(|slot| self.release(slot))
    }

    /// Ends each wait that is over at `now_ms`, unless `keep` turns the waiter into one that waits
    /// until a later deadline.
    pub(in crate::shell::client) fn expire(
        &mut self,
        now_ms: u64,
        mut keep: impl FnMut(Ticket, W) -> Option<(u64, W)>,
    ) {
        for slot in 0..self.entries.len() {
            let entry = &self.entries[slot];
            if entry.waiter.is_none() || now_ms < entry.deadline_ms {
                continue;
            }
            let ticket = self.ticket(u32::try_from(slot).expect("slots are 24 bits"));
            let entry = &mut self.entries[slot];
            match entry.waiter.take().and_then(|waiter| keep(ticket, waiter)) {
                Some((deadline_ms, waiter)) => {
                    entry.deadline_ms = deadline_ms;
                    entry.waiter = Some(waiter);
                }
                None => {
                    entry.generation = (entry.generation + 1) % GENERATIONS;
                    self.free.push(u32::try_from(slot).expect("slots are 24 bits"));
                }
            }
        }
    }

    /// Goes over all waiters.
    pub(in crate::shell::client) fn each(&self, mut look: impl FnMut(&W)) {
        self.entries.iter().filter_map(|entry| entry.waiter.as_ref()).for_each(&mut look);
    }

    /// Goes over all waiters and replaces each by what `map` makes of it.
    pub(super) fn replace_each(&mut self, mut map: impl FnMut(Ticket, W) -> W) {
        for slot in 0..self.entries.len() {
            let Some(waiter) = self.entries[slot].waiter.take() else { continue };
            let ticket = self.ticket(u32::try_from(slot).expect("slots are 24 bits"));
            self.entries[slot].waiter = Some(map(ticket, waiter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_finds_its_waiter_once_and_never_the_next_one() {
        let mut slots = Slots::new(5, 9);
        let first = slots.insert(10, "first");
        assert!(matches!(first.caller(), Caller::Client(ClientCall { shard: 5, .. })));
        assert_eq!(slots.take(first), Some("first"));
        assert_eq!(slots.take(first), None);
        let second = slots.insert(10, "second");
        assert_ne!(first, second);
        assert_eq!(slots.take(first), None);
        assert_eq!(slots.take(Ticket(second.0 ^ 1 << 60)), None, "another shard's");
        assert_eq!(slots.take(Ticket(u64::MAX)), None);
        assert_eq!(slots.take(second), Some("second"));
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn ticket_of_another_life_of_the_process_finds_nobody() {
        let old = Slots::new(0, 1).insert(10, ());
        let mut slots = Slots::new(0, 2);
        slots.insert(10, ());
        assert_eq!(slots.take(old), None);
    }

    #[test]
    fn expire_takes_what_is_due_and_lets_it_be_kept_under_the_same_ticket() {
        let mut slots = Slots::new(0, 0);
        let early = slots.insert(10, 1);
        let late = slots.insert(20, 2);
        let kept = slots.insert(10, 3);
        let mut due = Vec::new();
        slots.expire(10, |_, waiter| {
            due.push(waiter);
            (waiter == 3).then_some((30, 4))
        });
        assert_eq!(due, [1, 3]);
        assert_eq!(slots.take(early), None);
        assert_eq!(slots.take(late), Some(2));
        assert_eq!(slots.take(kept), Some(4));
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn generations_wrap_without_touching_the_shard() {
        let mut slots = Slots::new(SHARDS_MAX - 1, GENERATIONS - 1);
        let last = slots.insert(0, ());
        assert_eq!(slots.take(last), Some(()));
        let wrapped = slots.insert(0, ());
        let call = ClientCall { shard: SHARDS_MAX - 1, generation: 0, slot: 0 };
        assert_eq!(wrapped.caller(), Caller::Client(call));
    }
}
