//! Requests on their way into the log: everything that waits becomes one group.
//!
//! A request is written into the open group the moment it arrives, so nothing is kept for it but its
//! bytes there. The open group is taken when the log can take it, that is when the previous sync is
//! done: under load a group grows while a sync runs, and a lone request never waits for company. No
//! timer and no count makes a group leave. `GROUP_BYTES_MAX` closes one, and so does a request that comes
//! long after the first one, when there is no leader or the disk stands still; then the next one opens.
//!
//! Invariants: groups leave in the order their requests arrived. A group holds at least one request,
//! and more than `GROUP_BYTES_MAX` only when a single request does.
//! Cost: one copy of each body; a group's memory is at most a quarter larger than its bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::apply::request::{self, Origin, RequestKind};

/// 1 MiB: a group of this size is some thousand puts and a few milliseconds of disk, so a larger one
/// would gain nothing and hold up whatever waits behind it.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// The first group's space; a page.
const GROUP_BYTES_EXPECTED: usize = 4096;

/// A closed group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) data: Bytes,
    /// When its first request arrived.
    opened_tick: u64,
}

/// Requests that are in no log yet.
#[derive(Debug)]
pub(super) struct Proposals {
    /// The group that takes the next request; empty when none waits.
    open: BytesMut,
    opened_tick: u64,
    /// Groups that were full, oldest first.
    full: VecDeque<Group>,
    full_bytes: usize,
    /// What the last group needed: the next one asks for as much at once.
    expected_bytes: usize,
    open_ticks_max: u64,
}

impl Proposals {
    /// A group that waits is refused as a whole, so it stays open for `open_ticks_max` at most.
    pub(super) fn new(open_ticks_max: u64) -> Self {
        Self {
            open_ticks_max,
            open: BytesMut::new(),
            opened_tick: 0,
            full: VecDeque::new(),
            full_bytes: 0,
            expected_bytes: GROUP_BYTES_EXPECTED,
        }
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.full_bytes + self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting_bytes() == 0
    }

    pub(super) fn push(&mut self, origin: Origin, kind: RequestKind, body: &[u8], tick: u64) {
        let bytes = request::request_bytes(kind, body.len());
        let is_over =
            GROUP_BYTES_MAX < self.open.len() + bytes || self.opened_tick + self.open_ticks_max < tick;
        if !self.open.is_empty() && is_over {
            let group = self.close();
            self.full_bytes += group.data.len();
            self.full.push_back(group);
        }
        if self.open.is_empty() {
            self.opened_tick = tick;
            self.open.reserve((request::group_head_bytes() + bytes).max(self.expected_bytes));
            request::put_group_head(&mut self.open);
        }
        request::put_request(&mut self.open, origin, kind, body);
    }

    fn close(&mut self) -> Group {
        let open = std::mem::take(&mut self.open);
        let (used, reserved) = (open.len(), open.capacity());
        self.expected_bytes = used.next_multiple_of(GROUP_BYTES_EXPECTED);
        // The log keeps the group for a while: what it does not use goes back, at the price of a copy.
        let roomy = used / 4 < reserved - used;
        let data = if roomy { Bytes::copy_from_slice(&open) } else { open.freeze() };
        Group { data, opened_tick: self.opened_tick }
    }

    /// The oldest group, with the bytes it must not exceed: `None` when nothing waits or it does not
    /// fit. Any group fits when `first`.
    pub(super) fn take(&mut self, bytes_max: usize, first: bool) -> Option<Group> {
        let next_bytes = self.full.front().map_or(self.open.len(), |group| group.data.len());
        if next_bytes == 0 || (!first && bytes_max < next_bytes) {
            return None;
        }
        match self.full.pop_front() {
            Some(group) => {
                self.full_bytes -= group.data.len();
                Some(group)
            }
            None => Some(self.close()),
        }
    }

    /// Puts back what the log did not take, to the front.
    pub(super) fn put_back(&mut self, group: Group) {
        self.full_bytes += group.data.len();
        self.full.push_front(group);
    }

    /// Takes out the groups whose first request arrived before `tick`: their callers are gone.
    pub(super) fn take_older_than(&mut self, tick: u64) -> Vec<Bytes> {
        let mut taken = Vec::new();
        while self.full.front().is_some_and(|group| group.opened_tick < tick) {
            let group = self.full.pop_front().expect("it was there a line above");
            self.full_bytes -= group.data.len();
            taken.push(group.data);
        }
        if self.full.is_empty() && !self.open.is_empty() && self.opened_tick < tick {
            taken.push(self.close().data);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::request::decode_group;
    use crate::types::{MemberId, Ticket};

    fn push(proposals: &mut Proposals, ticket: u64, bytes: usize, tick: u64) {
        let origin = Origin { member: MemberId(1), ticket: Ticket(ticket) };
        proposals.push(origin, RequestKind::Put, &vec![7; bytes], tick);
    }

    fn tickets(data: Bytes) -> Vec<u64> {
        decode_group(data).unwrap().iter().map(|request| request.origin.ticket.0).collect()
    }

    #[test]
    fn everything_that_waits_is_one_group_in_the_order_it_came() {
        let mut proposals = Proposals::new(5);
        for ticket in 0..1_000 {
            push(&mut proposals, ticket, 10, 0);
        }
        let group = proposals.take(usize::MAX, true).unwrap().data;
        assert_eq!(tickets(group), (0..1_000).collect::<Vec<_>>());
        assert!(proposals.is_empty());
        assert!(proposals.take(usize::MAX, true).is_none());
    }

    #[test]
    fn group_closes_at_its_byte_bound_and_a_larger_request_is_a_group_of_its_own() {
        let mut proposals = Proposals::new(5);
        push(&mut proposals, 0, 10, 0);
        push(&mut proposals, 1, GROUP_BYTES_MAX + 5, 0);
        for ticket in 2..5 {
            push(&mut proposals, ticket, GROUP_BYTES_MAX / 2 - 50, 0);
        }
        let mut groups = Vec::new();
        while let Some(group) = proposals.take(usize::MAX, true) {
            assert!(group.data.len() <= GROUP_BYTES_MAX || groups.len() == 1);
            groups.push(tickets(group.data));
        }
        assert_eq!(groups, [vec![0], vec![1], vec![2, 3], vec![4]]);
        assert_eq!(proposals.waiting_bytes(), 0);
    }

    #[test]
    fn group_that_was_put_back_leaves_first_and_keeps_its_age() {
        let mut proposals = Proposals::new(5);
        push(&mut proposals, 0, 10, 3);
        let group = proposals.take(usize::MAX, true).unwrap();
        push(&mut proposals, 1, 10, 8);
        proposals.put_back(group);
        assert!(proposals.take_older_than(3).is_empty());
        let old = proposals.take_older_than(8);
        assert_eq!(old.into_iter().map(tickets).collect::<Vec<_>>(), [[0]]);
        assert_eq!(tickets(proposals.take(0, true).unwrap().data), [1]);
        assert!(proposals.is_empty());
    }

    #[test]
    fn group_keeps_no_more_than_a_quarter_of_unused_memory() {
        let mut proposals = Proposals::new(5);
        for round in 0..50_usize {
            for ticket in 0..(round * 37 % 400) as u64 + 1 {
                push(&mut proposals, ticket, 100, 0);
            }
            let data = proposals.take(usize::MAX, true).unwrap().data;
            let used = data.len();
            let reserved = data.try_into_mut().unwrap().capacity();
            assert!(reserved - used <= used / 4, "{used} of {reserved} bytes used");
        }
    }
}
