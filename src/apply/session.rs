//! Which groups of requests have been applied, so that none is applied twice.
//!
//! A member that proposed a group may not learn whether it got into the log: the message to the leader
//! may be lost, or the leader with its log. So it proposes the group again (`replica::under_way`), and
//! the log may hold it several times. Here it counts once: of each member the last group is remembered,
//! and what does not come behind it, by its member's start and its number, is passed over on every
//! member alike.
//!
//! Invariants: a function of the log. Groups of one member are applied in the order of their numbers; one
//! that was overtaken is never applied, and nobody was told that it was.
//! Bounds: one record for each member that ever proposed anything; a removed one's is kept, since the
//! log may still hold copies.

use std::collections::BTreeMap;

use crate::pb::peer;
use crate::request::GroupId;
use crate::types::MemberId;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sessions {
    /// Start and number of the last group that was applied.
    last: BTreeMap<MemberId, (u64, u64)>,
}

impl Sessions {
    /// Whether the group is to be applied; then it is the last of its member.
    pub fn admit(&mut self, id: GroupId) -> bool {
        let last = self.last.entry(id.member).or_default();
        let is_next = *last < (id.incarnation, id.number);
        if is_next {
            *last = (id.incarnation, id.number);
        }
        is_next
    }

    /// The number of the last group that was applied of this start of the member; 0 for none.
    #[must_use]
    pub fn last_number(&self, member: MemberId, incarnation: u64) -> u64 {
        self.last.get(&member).filter(|(start, _)| *start == incarnation).map_or(0, |(_, number)| *number)
    }

    /// The newest start of the member of which a group was applied; 0 for none.
    #[must_use]
    pub fn last_incarnation(&self, member: MemberId) -> u64 {
        self.last.get(&member).map_or(0, |(start, _)| *start)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    pub(super) fn to_record(&self) -> peer::Sessions {
        let sessions = self.last.iter().map(|(member, &(incarnation, number))| peer::SessionRecord {
            member: member.0,
            incarnation,
            number,
        });
        peer::Sessions { sessions: sessions.collect() }
    }

    pub(super) fn from_record(record: &peer::Sessions) -> Result<Self, String> {
        let mut last = BTreeMap::new();
        for session in &record.sessions {
            if last.insert(MemberId(session.member), (session.incarnation, session.number)).is_some() {
                return Err(format!("two of member {:x}", session.member));
            }
        }
        Ok(Self { last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(member: u64, incarnation: u64, number: u64) -> GroupId {
        GroupId { member: MemberId(member), incarnation, number }
    }

    #[test]
    fn copies_overtaken_groups_and_those_of_an_earlier_start_are_passed_over() {
        let mut sessions = Sessions::default();
        assert!(sessions.admit(id(1, 5, 1)));
        assert!(!sessions.admit(id(1, 5, 1)), "a copy");
        assert!(sessions.admit(id(1, 5, 4)), "what lies between was lost");
        assert!(!sessions.admit(id(1, 5, 3)), "overtaken");
        assert!(sessions.admit(id(2, 5, 3)), "of another member");
        assert!(sessions.admit(id(1, 6, 1)), "after a start numbers begin anew");
        assert!(!sessions.admit(id(1, 5, 9)), "of an earlier start");
        assert_eq!(sessions.last_number(MemberId(1), 6), 1);
        assert_eq!(sessions.last_number(MemberId(1), 5), 0);
        assert_eq!(sessions.last_number(MemberId(9), 5), 0);
        assert_eq!([1, 9].map(|member| sessions.last_incarnation(MemberId(member))), [6, 0]);
        assert_eq!(Sessions::from_record(&sessions.to_record()), Ok(sessions));
    }

    #[test]
    fn a_record_with_a_member_twice_is_refused() {
        let record = peer::SessionRecord { member: 7, incarnation: 1, number: 1 };
        Sessions::from_record(&peer::Sessions { sessions: vec![record, record] }).unwrap_err();
    }
}
