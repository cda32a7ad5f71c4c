//! Groups of this member that were proposed and are not committed yet, so that none is waited for in vain.
//!
//! Raft promises nothing about a proposal: the message to the leader may be lost, and a leader may be
//! replaced with entries that nobody else has. Both show in the log. A proposal gets the term of the
//! leader that takes it, and terms in a log never fall: once an entry of a later term is committed, a
//! group that was proposed before and is not behind it will hardly come: only if a member keeps it that
//! handed leadership over, and passes it on to the next leader (`passed_on`). That takes a moment at most,
//! so its callers are told after a little while, instead of when they run out of patience.
//!
//! What they are told is that the outcome is unknown, which is what a client must expect of every error:
//! a message to a leader can be so late that the same leader, elected again, takes it in a later term.
//!
//! Invariants: terms ascend from front to back. Groups leave in their order, but for those lost.
//! Cost: a group's bytes are shared with raft's log where this member leads; a lookup is one comparison
//! unless something was lost.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::apply::request::{self, Origin};
use crate::types::Term;

/// A group on its way.
#[derive(Debug)]
struct Proposed {
    term: Term,
    tick: u64,
    first: Origin,
    /// Not in this member's log, so its memory is counted here.
    is_forwarded: bool,
    data: Bytes,
}

/// What was proposed and has no outcome yet.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    groups: VecDeque<Proposed>,
    forwarded_bytes: usize,
    /// The newest term of a committed entry, and the tick in which the first was seen.
    newest: (Term, u64),
}

impl UnderWay {
    /// Bytes that only this list keeps.
    pub(super) fn forwarded_bytes(&self) -> usize {
        self.forwarded_bytes
    }

    /// A group was proposed in `term`, to another member if `is_forwarded`.
    pub(super) fn push(&mut self, term: Term, tick: u64, is_forwarded: bool, data: Bytes) {
        let first = request::first_origin(&data).expect("this member wrote the group");
        if is_forwarded {
            self.forwarded_bytes += data.len();
        }
        self.groups.push_back(Proposed { term, tick, first, is_forwarded, data });
    }

    /// An entry is committed, perhaps one of these groups.
    pub(super) fn on_committed(&mut self, data: &[u8]) {
        if self.groups.is_empty() {
            return;
        }
        let Some(first) = request::first_origin(data) else { return };
        if let Some(place) = self.groups.iter().position(|group| group.first == first) {
            let group = self.groups.remove(place).expect("it was found a line above");
            self.uncount(&group);
        }
    }

    /// Everything through an entry of `term` is committed.
    pub(super) fn on_term(&mut self, term: Term, tick: u64) {
        if self.newest.0 < term {
            self.newest = (term, tick);
        }
    }

    /// Takes out the groups that an entry of a later term has overtaken for `patience_ticks`.
    pub(super) fn take_lost(&mut self, tick: u64, patience_ticks: u64) -> Vec<Bytes> {
        let (term, since) = self.newest;
        if tick < since + patience_ticks {
            return Vec::new();
        }
        self.take_while(|group| group.term < term)
    }

    /// Takes out the groups proposed before `tick`.
    pub(super) fn take_older_than(&mut self, tick: u64) -> Vec<Bytes> {
        self.take_while(|group| group.tick < tick)
    }

    fn take_while(&mut self, is_taken: impl Fn(&Proposed) -> bool) -> Vec<Bytes> {
        let mut taken = Vec::new();
        while let Some(group) = self.groups.pop_front_if(|group| is_taken(group)) {
            self.uncount(&group);
            taken.push(group.data);
        }
        taken
    }

    fn uncount(&mut self, group: &Proposed) {
        if group.is_forwarded {
            self.forwarded_bytes -= group.data.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::request::{Request, RequestKind, encode_group};
    use crate::types::{MemberId, Ticket};

    fn group(member: u64, ticket: u64) -> Bytes {
        let origin = Origin { member: MemberId(member), ticket: Ticket(ticket) };
        encode_group(&[Request { origin, kind: RequestKind::Put, body: Bytes::from_static(b"body") }])
    }

    #[test]
    fn what_a_later_term_overtakes_is_lost_and_what_is_committed_is_not() {
        let mut under_way = UnderWay::default();
        for (term, ticket) in [(2, 1), (2, 2), (2, 3), (3, 4)] {
            under_way.push(Term(term), 0, ticket % 2 == 0, group(1, ticket));
        }
        assert_eq!(under_way.forwarded_bytes(), 2 * group(1, 1).len());
        under_way.on_committed(&group(1, 2));
        // Another member's request may have the same ticket.
        under_way.on_committed(&group(9, 1));
        under_way.on_term(Term(2), 7);
        assert!(under_way.take_lost(100, 5).is_empty());
        under_way.on_term(Term(3), 8);
        under_way.on_term(Term(3), 12);
        assert!(under_way.take_lost(12, 5).is_empty(), "one that is passed on may still come");
        assert_eq!(under_way.take_lost(13, 5), [group(1, 1), group(1, 3)]);
        under_way.on_committed(&group(1, 4));
        under_way.on_term(Term(9), 14);
        assert!(under_way.take_lost(100, 5).is_empty());
        assert_eq!(under_way.forwarded_bytes(), 0);
    }

    #[test]
    fn what_has_no_outcome_in_time_is_given_up() {
        let mut under_way = UnderWay::default();
        under_way.push(Term(2), 10, true, group(1, 1));
        under_way.push(Term(2), 11, true, group(1, 2));
        assert_eq!(under_way.take_older_than(11), [group(1, 1)]);
        assert_eq!(under_way.forwarded_bytes(), group(1, 2).len());
    }
}
