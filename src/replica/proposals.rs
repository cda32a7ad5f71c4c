//! Requests on their way into the log: everything that waits becomes one group.
//!
//! A request is written into the open group the moment it arrives, so nothing is kept for it but its
//! bytes there. The open group is taken when the log can take it, that is when the previous sync is
//! done: under load a group grows while a sync runs, and a lone request never waits for company. No
//! timer and no count makes a group leave. `GROUP_BYTES_MAX` closes one, and so does a request that comes
//! long after the first one, when there is no leader or the disk stands still; then the next one opens.
//!
//! A request that is large goes in parts (`request::part`), where all members read them: each is a group, and leaves
//! when no other group waits, or between two that were full. So what is small waits for one part of what is large.
//!
//! Invariants: groups leave in the order their requests arrived, which is the order of their numbers. A
//! group holds at least one request, and more than `GROUP_BYTES_MAX` only when a single request or part does.
//! Cost: one copy of each body; a group's memory is at most a quarter larger than its bytes.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::group::Group;
use super::large::LargeRequests;
use crate::request::group;
use crate::request::{GroupId, Login, RequestKind};
use crate::types::{MemberId, Ticket};

/// 1 MiB: a group of this size is some thousand puts and a few milliseconds of disk, so a larger one
/// would gain nothing and hold up whatever waits behind it.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// The first group's space; a page.
const GROUP_BYTES_EXPECTED: usize = 4096;

/// A group that grows beyond this shares its memory with those behind it, so that nothing of it is copied again.
const SHARING_BYTES: usize = 64 << 10;

/// The memory that large groups share. They are in the log next to each other, so they go together, too.
const BLOCK_BYTES: usize = 4 << 20;

/// Blocks that are kept to be used again: what the log keeps in memory, and some under way. New memory costs more
/// than the copy into it.
const BLOCKS_MAX: usize = 24;

/// Requests that are in no log yet.
#[derive(Debug)]
pub(super) struct Proposals {
    member: MemberId,
    incarnation: u64,
    /// Of the group that was opened last.
    last_number: u64,
    /// The group that takes the next request; empty when none waits.
    open: BytesMut,
    /// Whether the space behind it is for the next group, too.
    is_shared: bool,
    /// Blocks that are full, oldest first.
    blocks: VecDeque<BytesMut>,
    opened_tick: u64,
    /// Groups that were full, oldest first.
    full: VecDeque<Group>,
    full_bytes: usize,
    /// What the last group needed: the next one asks for as much at once.
    expected_bytes: usize,
    open_ticks_max: u64,
    large: LargeRequests,
}

impl Proposals {
    /// A group that waits is refused as a whole, so it stays open for `open_ticks_max` at most.
    pub(super) fn new(member: MemberId, incarnation: u64, open_ticks_max: u64, part_bytes: usize) -> Self {
        Self {
            member,
            incarnation,
            last_number: 0,
            open_ticks_max,
            open: BytesMut::new(),
            is_shared: false,
            blocks: VecDeque::new(),
            opened_tick: 0,
            full: VecDeque::new(),
            full_bytes: 0,
            expected_bytes: GROUP_BYTES_EXPECTED,
            large: LargeRequests::new(part_bytes),
        }
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.full_bytes + self.open.len() + self.large.bytes()
    }

    /// Those of them that wait for no part of a large request to go first.
    pub(super) fn grouped_bytes(&self) -> usize {
        self.full_bytes + self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting_bytes() == 0
    }

    pub(super) fn push(
        &mut self,
        ticket: Ticket,
        kind: RequestKind,
        body: &[u8],
        login: Option<&Login>,
        tick: u64,
    ) {
        let bytes = group::request_bytes(kind, body.len(), login);
        let is_over =
            GROUP_BYTES_MAX < self.open.len() + bytes || self.opened_tick + self.open_ticks_max < tick;
        if is_over {
            self.set_aside();
        }
        if self.open.is_empty() {
            self.opened_tick = tick;
            self.make_room(group::GROUP_HEAD_BYTES + bytes, self.expected_bytes);
            let id = self.next_id();
            group::put_group_head(&mut self.open, id);
        } else {
            self.make_room(bytes, bytes);
        }
        group::put_request(&mut self.open, ticket, kind, body, login);
    }

    /// Makes room for so many bytes more; where it is to be made, for as many as are expected.
    fn make_room(&mut self, bytes: usize, expected: usize) {
        if bytes <= self.open.capacity() - self.open.len() {
            return;
        }
        let needed = self.open.len() + bytes;
        let was_shared = std::mem::replace(&mut self.is_shared, SHARING_BYTES < needed);
        if self.is_shared {
            let mut block = self.take_block(needed);
            block.extend_from_slice(&self.open);
            let mut full = std::mem::replace(&mut self.open, block);
            if was_shared && self.blocks.len() < BLOCKS_MAX {
                full.clear();
                self.blocks.push_back(full);
            }
        } else {
            // Large groups have ceased, and so does their memory.
            self.blocks.clear();
            self.open.reserve(bytes.max(expected));
        }
    }

    /// A block with room for so many bytes: the oldest one, if the log has given up all groups in it.
    fn take_block(&mut self, bytes: usize) -> BytesMut {
        let is_free =
            self.blocks.front_mut().is_some_and(|oldest| oldest.try_reclaim(bytes.max(BLOCK_BYTES)));
        let block = if is_free { self.blocks.pop_front() } else { None };
        block.unwrap_or_else(|| BytesMut::with_capacity(bytes.max(BLOCK_BYTES)))
    }

    /// Takes a large request, to go in parts.
    pub(super) fn push_large(
        &mut self,
        ticket: Ticket,
        kind: RequestKind,
        body: Bytes,
        login: Option<Login>,
        tick: u64,
    ) {
        self.large.push(ticket, kind, body, login, tick);
    }

    /// Takes a group that was overtaken, under a new number and behind all others.
    pub(super) fn push_again(&mut self, data: &[u8], opened_tick: u64) {
        self.set_aside();
        let number = self.next_id().number;
        let data = group::renumbered(data, number);
        self.full_bytes += data.len();
        self.full.push_back(Group { data, number, opened_tick, is_part: false });
    }

    fn next_id(&mut self) -> GroupId {
        self.last_number += 1;
        GroupId { member: self.member, incarnation: self.incarnation, number: self.last_number }
    }

    /// Closes the open group, if there is one. A part of a large request follows it, so that those who fill
    /// group after group do not keep it waiting.
    fn set_aside(&mut self) {
        if !self.open.is_empty() {
            let group = self.close();
            let part = self.cut();
            for group in [group].into_iter().chain(part) {
                self.full_bytes += group.data.len();
                self.full.push_back(group);
            }
        }
    }

    /// A part of a large request, if one waits.
    fn cut(&mut self) -> Option<Group> {
        let (member, incarnation, last_number) = (self.member, self.incarnation, &mut self.last_number);
        self.large.cut(|| {
            *last_number += 1;
            GroupId { member, incarnation, number: *last_number }
        })
    }

    fn close(&mut self) -> Group {
        let data = self.open.split();
        let used = data.len();
        self.expected_bytes = used.next_multiple_of(GROUP_BYTES_EXPECTED);
        let data = if self.is_shared {
            data.freeze()
        } else {
            // The log keeps the group for a while: what it does not use goes back, at the price of a copy.
            let unused = std::mem::take(&mut self.open).capacity();
            if used / 4 < unused { Bytes::copy_from_slice(&data) } else { data.freeze() }
        };
        Group { data, number: self.last_number, opened_tick: self.opened_tick, is_part: false }
    }

    /// The oldest group, with the bytes it must not exceed: `None` when nothing waits or it does not
    /// fit. Any group fits when `first`.
    pub(super) fn take(&mut self, bytes_max: usize, first: bool) -> Option<Group> {
        let next_bytes = match self.full.front() {
            Some(group) => group.data.len(),
            None if self.open.is_empty() => self.large.next_group_bytes(),
            None => self.open.len(),
        };
        if next_bytes == 0 || (!first && bytes_max < next_bytes) {
            return None;
        }
        match self.full.pop_front() {
            Some(group) => {
                self.full_bytes -= group.data.len();
                Some(group)
            }
            None if self.open.is_empty() => self.cut(),
            None => Some(self.close()),
        }
    }

    /// Takes out the groups whose first request arrived before `tick`: their callers are gone.
    pub(super) fn take_older_than(&mut self, tick: u64) -> Vec<Bytes> {
        let mut taken = Vec::new();
        self.full.retain(|group| {
            let is_old = group.opened_tick < tick;
            if is_old {
                self.full_bytes -= group.data.len();
                taken.push(group.data.clone());
            }
            !is_old
        });
        if !self.open.is_empty() && self.opened_tick < tick {
            taken.push(self.close().data);
        }
        taken
    }

    /// Takes out the large requests that came before `tick`: whoever waits for them.
    pub(super) fn take_large_older_than(&mut self, tick: u64) -> Vec<Ticket> {
        self.large.take_older_than(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::group::decode_group;

    fn push(proposals: &mut Proposals, ticket: u64, bytes: usize, tick: u64) {
        proposals.push(Ticket(ticket), RequestKind::Put, &vec![7; bytes], None, tick);
    }

    fn tickets(data: Bytes) -> Vec<u64> {
        decode_group(data).unwrap().requests.iter().map(|request| request.origin.ticket.0).collect()
    }

    #[test]
    fn everything_that_waits_is_one_group_in_the_order_it_came() {
        let mut proposals = Proposals::new(MemberId(1), 9, 5, 100);
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
        let mut proposals = Proposals::new(MemberId(1), 9, 5, 100);
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
    fn overtaken_group_goes_behind_all_others_under_a_new_number_and_keeps_its_age() {
        let mut proposals = Proposals::new(MemberId(1), 9, 5, 100);
        push(&mut proposals, 0, 10, 3);
        let overtaken = proposals.take(usize::MAX, true).unwrap();
        push(&mut proposals, 1, 10, 8);
        proposals.push_again(&overtaken.data, overtaken.opened_tick);
        push(&mut proposals, 2, 10, 8);
        let mut seen = Vec::new();
        let mut others = Proposals::new(MemberId(1), 9, 5, 100);
        while let Some(group) = proposals.take(usize::MAX, true) {
            let id = group::group_id(&group.data).unwrap();
            assert_eq!(id, GroupId { member: MemberId(1), incarnation: 9, number: group.number });
            others.push_again(&group.data, group.opened_tick);
            seen.push((group.number, tickets(group.data)));
        }
        assert_eq!(seen, [(2, vec![1]), (3, vec![0]), (4, vec![2])]);
        assert_eq!(proposals.waiting_bytes(), 0);
        let old = others.take_older_than(8);
        assert_eq!(old.into_iter().map(tickets).collect::<Vec<_>>(), [[0]]);
        assert_eq!(tickets(others.take(0, true).unwrap().data), [1]);
    }

    #[test]
    fn group_keeps_no_more_than_a_quarter_of_unused_memory() {
        let mut proposals = Proposals::new(MemberId(1), 9, 5, 100);
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
    #[test]
    fn large_groups_lie_behind_each_other_in_the_same_memory_and_none_is_copied() {
        let mut proposals = Proposals::new(MemberId(1), 9, 5, 100);
        let mut groups = Vec::new();
        for round in 0..64_u64 {
            for ticket in 0..=(round % 4) {
                push(&mut proposals, ticket, 64 << 10, 0);
            }
            groups.push(proposals.take(usize::MAX, true).unwrap().data);
        }
        let next_to_each_other = groups.windows(2).filter(|two| two[0].as_ptr_range().end == two[1].as_ptr());
        let bytes: usize = groups.iter().map(Bytes::len).sum();
        // A group that is open when a block ends moves to the next one.
        assert_eq!(next_to_each_other.count(), groups.len() - 1 - bytes / BLOCK_BYTES);
        for (round, group) in (0..).zip(groups) {
            assert_eq!(tickets(group), (0..=(round % 4)).collect::<Vec<_>>());
        }
    }
    #[test]
    fn memory_of_large_groups_is_used_again_when_they_are_gone_and_given_back_when_small_ones_come() {
        let mut proposals = Proposals::new(MemberId(1), 9, 5, 100);
        let mut held = VecDeque::new();
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..1_000 {
            push(&mut proposals, 1, 900 << 10, 0);
            let data = proposals.take(usize::MAX, true).unwrap().data;
            places.insert(data.as_ptr());
            held.push_back(data);
            // As much as the log keeps.
            if 64 < held.len() {
                held.pop_front();
            }
        }
        assert!(places.len() < 100, "1,000 groups lay in {} places", places.len());
        assert!(10 < proposals.blocks.len() && proposals.blocks.len() <= BLOCKS_MAX);
        for ticket in 0..100_000 {
            push(&mut proposals, ticket, 100, 0);
            proposals.take(usize::MAX, true).unwrap();
        }
        assert!(!proposals.is_shared && proposals.blocks.is_empty());
    }
}
