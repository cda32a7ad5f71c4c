//! Groups of this member that have no outcome yet: proposed again until they have one.
//!
//! Raft promises nothing about a proposal: the message to the leader may be lost, a leader may be
//! replaced with entries that nobody else has, or may drop what it cannot take. So the member that took
//! the requests keeps them here and proposes them again whenever what it sent may have been lost: to a new
//! leader, over a new connection, or after a time in which none of its groups was committed. That is
//! safe because every group has a number and is applied at most once (`apply::session`).
//!
//! Groups leave in the order of their numbers, so a committed one tells about all before it: what is
//! not committed by then never will be under that number (*overtaken*), and may be proposed under another.
//!
//! Invariants: numbers ascend from front to back; the first `sent` groups were given to the present
//! leader. A group that no attempt was made for is in no log, and its callers may be told so.
//! Cost: a group's bytes are shared with raft's log where this member leads; a commit is one comparison
//! with the front.

use std::collections::VecDeque;

use bytes::Bytes;

use super::group::Group;
use crate::request::GroupId;
use crate::types::MemberId;

/// A group on its way.
#[derive(Debug)]
struct Proposed {
    group: Group,
    /// How often it was given to a leader.
    attempts: u32,
}

/// What became of groups that left the list before their outcome was known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) data: Bytes,
    /// When its first request came.
    pub(super) opened_tick: u64,
    /// It was proposed, so its requests may still be applied.
    pub(super) was_sent: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct UnderWay {
    member: MemberId,
    incarnation: u64,
    groups: VecDeque<Proposed>,
    bytes: usize,
    sent: usize,
    /// The number of the last group that is committed.
    committed: u64,
    /// When something was last sent or committed.
    moved_tick: u64,
    /// Ticks without a commit before everything is sent again; doubles each time it is in vain.
    patience_ticks: u64,
    patience_ticks_min: u64,
}

impl UnderWay {
    /// Of this start of the member.
    pub(super) fn new(member: MemberId, incarnation: u64, patience_ticks: u64) -> Self {
        Self {
            member,
            incarnation,
            groups: VecDeque::new(),
            bytes: 0,
            sent: 0,
            committed: 0,
            moved_tick: 0,
            patience_ticks,
            patience_ticks_min: patience_ticks,
        }
    }

    /// Bytes of the groups.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a group that is to be proposed, behind all others.
    pub(super) fn push(&mut self, group: Group) {
        let last = self.groups.back().map_or(self.committed, |last| last.group.number);
        assert!(last < group.number, "group {} comes behind {last}", group.number);
        self.bytes += group.data.len();
        self.groups.push_back(Proposed { group, attempts: 0 });
    }

    /// The next group for the leader.
    pub(super) fn next_unsent(&self) -> Option<&Bytes> {
        self.groups.get(self.sent).map(|proposed| &proposed.group.data)
    }

    /// The leader was given it.
    pub(super) fn on_sent(&mut self, tick: u64) {
        self.groups[self.sent].attempts += 1;
        self.sent += 1;
        self.moved_tick = tick;
    }

    /// The next group goes nowhere: takes it out.
    pub(super) fn take_unsent(&mut self) -> Option<Given> {
        let proposed = self.groups.remove(self.sent)?;
        Some(self.give(proposed))
    }

    /// Takes out the groups that no leader was ever given.
    pub(super) fn take_never_sent(&mut self) -> Vec<Given> {
        let mut taken = Vec::new();
        while self.groups.back().is_some_and(|last| last.attempts == 0) {
            let last = self.groups.pop_back().expect("it was there a line above");
            taken.push(self.give(last));
        }
        taken
    }

    /// This group was not sent after all, and so what came behind it is of no use there.
    pub(super) fn on_unsent(&mut self, number: u64) {
        let Some(place) = self.groups.iter().position(|proposed| proposed.group.number == number) else {
            return;
        };
        if place < self.sent {
            self.groups[place].attempts -= 1;
            self.sent = place;
        }
    }

    /// What was sent may be lost.
    pub(super) fn send_again(&mut self) {
        self.sent = 0;
    }

    /// Sends everything again when nothing has moved for long; only for a member that does not lead, since
    /// a leader's log keeps what it was given.
    pub(super) fn on_tick(&mut self, tick: u64) {
        if self.sent != 0 && self.moved_tick + self.patience_ticks <= tick {
            self.patience_ticks = self.patience_ticks.saturating_mul(2);
            self.moved_tick = tick;
            self.send_again();
        }
    }

    /// A group is committed. Takes out the groups that it has overtaken: they will never be applied
    /// under their numbers.
    pub(super) fn on_committed(&mut self, id: GroupId, tick: u64) -> Vec<Given> {
        let is_ours = id.member == self.member && id.incarnation == self.incarnation;
        if !is_ours || id.number <= self.committed {
            return Vec::new();
        }
        self.committed = id.number;
        self.moved_tick = tick;
        self.patience_ticks = self.patience_ticks_min;
        let mut overtaken = self.take_through(id.number);
        // The last of them is the one that is committed, unless its callers have given up.
        overtaken.pop_if(|(number, _)| *number == id.number);
        overtaken.into_iter().map(|(_, given)| given).collect()
    }

    /// The state has passed the group of this number at a place that this member did not see: takes
    /// out all groups up to it, of which nobody knows the outcome.
    pub(super) fn on_passed(&mut self, number: u64) -> Vec<Given> {
        self.committed = self.committed.max(number);
        self.take_through(number).into_iter().map(|(_, given)| given).collect()
    }

    fn take_through(&mut self, number: u64) -> Vec<(u64, Given)> {
        let mut taken = Vec::new();
        while let Some(proposed) = self.groups.pop_front_if(|proposed| proposed.group.number <= number) {
            self.sent = self.sent.saturating_sub(1);
            taken.push((proposed.group.number, self.give(proposed)));
        }
        taken
    }

    /// Takes out the groups whose first request came before `tick`: their callers have given up.
    pub(super) fn take_older_than(&mut self, tick: u64) -> Vec<Given> {
        let mut taken = Vec::new();
        let mut place = 0;
        while let Some(proposed) = self.groups.get(place) {
            if tick <= proposed.group.opened_tick {
                place += 1;
                continue;
            }
            let proposed = self.groups.remove(place).expect("it was there a line above");
            if place < self.sent {
                self.sent -= 1;
            }
            taken.push(self.give(proposed));
        }
        taken
    }

    fn give(&mut self, proposed: Proposed) -> Given {
        self.bytes -= proposed.group.data.len();
        let Group { data, opened_tick, .. } = proposed.group;
        Given { data, opened_tick, was_sent: proposed.attempts != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: MemberId = MemberId(1);
    const LIFE: u64 = 77;

    fn group(number: u64, opened_tick: u64) -> Group {
        Group { data: Bytes::from(format!("group {number}")), number, opened_tick, is_part: false }
    }

    fn id(number: u64) -> GroupId {
        GroupId { member: ME, incarnation: LIFE, number }
    }

    fn under_way(numbers: impl IntoIterator<Item = u64>) -> UnderWay {
        let mut under_way = UnderWay::new(ME, LIFE, 10);
        numbers.into_iter().for_each(|number| under_way.push(group(number, number)));
        under_way
    }

    fn send_all(under_way: &mut UnderWay) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(data) = under_way.next_unsent() {
            sent.push(String::from_utf8(data.to_vec()).unwrap());
            under_way.on_sent(0);
        }
        sent
    }

    #[test]
    fn what_is_committed_leaves_and_what_it_has_overtaken_is_given_back() {
        let mut under_way = under_way(1..=4);
        send_all(&mut under_way);
        assert!(under_way.on_committed(GroupId { incarnation: LIFE - 1, ..id(4) }, 0).is_empty());
        assert!(under_way.on_committed(GroupId { member: MemberId(2), ..id(4) }, 0).is_empty());
        assert!(under_way.on_committed(id(1), 0).is_empty());
        assert!(under_way.on_committed(id(1), 0).is_empty(), "a second copy is nothing new");
        let overtaken = under_way.on_committed(id(3), 0);
        assert_eq!(overtaken, [Given { data: "group 2".into(), opened_tick: 2, was_sent: true }]);
        assert!(under_way.on_committed(id(2), 0).is_empty());
        assert_eq!(under_way.bytes(), "group 4".len());
        assert!(under_way.on_committed(id(4), 0).is_empty());
        assert_eq!(under_way.bytes(), 0);
    }

    #[test]
    fn a_new_leader_gets_everything_again_in_order_and_then_what_is_new() {
        let mut under_way = under_way(1..=3);
        assert_eq!(send_all(&mut under_way), ["group 1", "group 2", "group 3"]);
        under_way.on_committed(id(1), 0);
        under_way.send_again();
        under_way.push(group(4, 4));
        assert_eq!(send_all(&mut under_way), ["group 2", "group 3", "group 4"]);
    }

    #[test]
    fn what_was_given_back_goes_again_with_all_that_came_behind_it() {
        let mut under_way = under_way(1..=3);
        send_all(&mut under_way);
        under_way.on_unsent(2);
        under_way.on_unsent(3);
        assert_eq!(send_all(&mut under_way), ["group 2", "group 3"]);
        under_way.on_unsent(9);
        assert!(under_way.next_unsent().is_none());
    }

    #[test]
    fn a_silent_leader_is_asked_again_less_and_less_often_until_something_is_committed() {
        let mut under_way = under_way(1..=2);
        send_all(&mut under_way);
        let mut asked = Vec::new();
        for tick in 1..100 {
            under_way.on_tick(tick);
            if under_way.next_unsent().is_some() {
                asked.push(tick);
                while under_way.next_unsent().is_some() {
                    under_way.on_sent(tick);
                }
            }
        }
        assert_eq!(asked, [10, 30, 70]);
        under_way.on_committed(id(1), 100);
        under_way.on_tick(110);
        assert!(under_way.next_unsent().is_some());
    }

    #[test]
    fn callers_that_gave_up_are_told_whether_their_request_may_come_yet() {
        let mut under_way = under_way(1..=2);
        send_all(&mut under_way);
        under_way.push(group(3, 1));
        under_way.push(group(4, 9));
        let old = under_way.take_older_than(3);
        let told: Vec<(&[u8], bool)> = old.iter().map(|given| (&given.data[..], given.was_sent)).collect();
        assert_eq!(told, [(&b"group 1"[..], true), (b"group 2", true), (b"group 3", false)]);
        assert!(under_way.on_committed(id(2), 0).is_empty(), "nobody waits for it");
        assert_eq!(send_all(&mut under_way), ["group 4"]);
    }

    #[test]
    fn what_an_installed_state_has_passed_is_given_back() {
        let mut under_way = under_way(1..=3);
        send_all(&mut under_way);
        let passed = under_way.on_passed(2);
        assert_eq!(passed.len(), 2);
        assert!(under_way.on_committed(id(2), 0).is_empty());
        assert_eq!(under_way.bytes(), "group 3".len());
    }
}
