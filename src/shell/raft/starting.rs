//! What a start still waits for, as far as the raft role knows: members, a leader, or its own replay.

use std::sync::atomic::Ordering;

use super::RaftRole;
use crate::types::LogIndex;

/// Who is there, and how far this member is.
#[derive(Debug, Clone, Copy)]
struct Outlook {
    /// Members with a vote, this one included if it has one.
    voters: usize,
    /// Those of them that this member is, or is connected with.
    voters_up: usize,
    others: usize,
    others_up: usize,
    /// It knows no voters yet: the leader's checkpoint will tell.
    is_joining: bool,
    has_leader: bool,
    applied: LogIndex,
    committed: LogIndex,
    is_comparing: bool,
}

impl Outlook {
    fn missing(self) -> String {
        let Self { voters, voters_up, others, others_up, applied, committed, .. } = self;
        let quorum = voters / 2 + 1;
        if self.is_joining {
            format!(
                "{others_up} of {others} other members are connected; the leader's checkpoint comes first"
            )
        } else if voters_up < quorum && !self.has_leader {
            format!("{voters_up} of {voters} members; serves when {quorum} are up")
        } else if !self.has_leader {
            format!("{voters_up} of {voters} members; they have to elect a leader")
        } else if applied < committed {
            format!("entry {} of {} of the log is applied", applied.0, committed.0)
        } else if self.is_comparing {
            format!("this member's data is compared with that of {others} other members")
        } else {
            "the leader has to commit that this member serves".to_owned()
        }
    }
}

impl RaftRole {
    /// Says now and then what holds the start up, until it is over.
    pub(super) fn tell_waiting(&self) {
        if self.parts.is_open.load(Ordering::Acquire)
            || !self.ticks.is_multiple_of(self.settings.election_ticks)
        {
            return;
        }
        let own = self.replica.id();
        let is_up = |member| member == own || self.transport.connected_since(member).is_some();
        let (mut voters, mut voters_up, mut others, mut others_up) = (0, 0, 0, 0);
        for member in self.cluster.iter().flat_map(|cluster| cluster.members()) {
            voters += usize::from(!member.learner);
            voters_up += usize::from(!member.learner && is_up(member.id));
            others += usize::from(member.id != own);
            others_up += usize::from(member.id != own && is_up(member.id));
        }
        let status = self.replica.status();
        let outlook = Outlook {
            voters,
            voters_up,
            others,
            others_up,
            is_joining: status.voters_count == 0,
            has_leader: status.leader.is_some(),
            applied: status.applied,
            committed: status.committed,
            is_comparing: !self.checks.may_start(),
        };
        self.parts.waiting.on(outlook.missing());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_a_start_waits_for_has_its_words() {
        let mut outlook = Outlook {
            voters: 3,
            voters_up: 1,
            others: 2,
            others_up: 0,
            is_joining: false,
            has_leader: false,
            applied: LogIndex(4),
            committed: LogIndex(9),
            is_comparing: true,
        };
        assert_eq!(outlook.missing(), "1 of 3 members; serves when 2 are up");
        assert_eq!(Outlook { voters: 4, ..outlook }.missing(), "1 of 4 members; serves when 3 are up");
        outlook.voters_up = 2;
        assert_eq!(outlook.missing(), "2 of 3 members; they have to elect a leader");
        outlook.has_leader = true;
        assert_eq!(outlook.missing(), "entry 4 of 9 of the log is applied");
        outlook.applied = LogIndex(9);
        assert_eq!(outlook.missing(), "this member's data is compared with that of 2 other members");
        outlook.is_comparing = false;
        assert_eq!(outlook.missing(), "the leader has to commit that this member serves");
        outlook.is_joining = true;
        assert_eq!(
            outlook.missing(),
            "0 of 2 other members are connected; the leader's checkpoint comes first"
        );
    }
}
