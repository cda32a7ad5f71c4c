//! When the cluster's format level is raised (`types::format`), which is for the leader to decide.
//!
//! It asks to raise the level by one when every member, learners included, has said that it reads the next
//! one, each over a connection that is open now: so the process at its other end is the one that said it.
//! A member that does not belong any more has no say, one that was added and has not started yet has.
//!
//! Safe because the entry is proposed only where all of that holds in the leader's own term: it knows all
//! earlier entries as applied, none of them is a membership change under way, and the entry is never
//! proposed again by anybody else (`Replica::propose_format_level`). A member that is exchanged for an earlier
//! release between the proposal and the commit ends at the entry by name (code 70); nothing can prevent
//! that, and its data is not harmed.
//! Cost: two comparisons a tick while there is nothing to raise, else one look at each member.

use super::replica::Replica;
use crate::membership::Cluster;
use crate::raft::RaftState;
use crate::types::{FormatLevel, LogIndex, MemberId, Term};

/// Ticks after which an operator is told who holds the level back; 10 s by default. Members that start one
/// after the other are no news.
const TELL_TICKS: u64 = 100;

/// Why the level is not raised: the first member in the order of ids that does not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack {
    pub member: MemberId,
    /// The highest level that it reads; absent while it is not connected.
    pub reads: Option<FormatLevel>,
    /// The level that it would have to read.
    pub needed: FormatLevel,
}

/// What follows from what the members say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// This member itself goes no further.
    Enough,
    Wait(HeldBack),
    Raise(FormatLevel),
}

/// The whole rule. `reads` tells what a member reads that is connected.
fn decide(
    level: FormatLevel,
    own_max: FormatLevel,
    others: impl IntoIterator<Item = MemberId>,
    reads: impl Fn(MemberId) -> Option<FormatLevel>,
) -> Decision {
    let needed = level.next();
    if own_max < needed {
        return Decision::Enough;
    }
    for member in others {
        let reads = reads(member);
        if reads.is_none_or(|reads| reads < needed) {
            return Decision::Wait(HeldBack { member, reads, needed });
        }
    }
    Decision::Raise(needed)
}

/// The leader's part in raising the level; of a follower it does nothing.
#[derive(Debug)]
pub struct FormatGate {
    /// The highest level this member reads, or is to let the cluster write (`--format-level-max`).
    own_max: FormatLevel,
    /// The cluster's, as this member has applied it.
    level: FormatLevel,
    /// Asked for last, and in which term. Once a term is enough: the entry is in the leader's log.
    proposed: Option<(Term, FormatLevel)>,
    /// Who holds the level back, and for how many ticks.
    held_back: Option<(HeldBack, u64)>,
}

impl FormatGate {
    #[must_use]
    pub fn new(own_max: FormatLevel) -> Self {
        Self { own_max, level: FormatLevel::LOWEST, proposed: None, held_back: None }
    }

    /// The cluster's level, as this member has applied it.
    #[must_use]
    pub fn level(&self) -> FormatLevel {
        self.level
    }

    /// The state machine has applied this level.
    pub fn on_applied(&mut self, level: FormatLevel) {
        self.level = level;
    }

    /// A tick has passed: raises the level if this member leads and it can be. `cluster` is as applied;
    /// `reads` tells what a member reads that is connected. Returns who has held it back for a while, once.
    pub fn on_tick<R>(
        &mut self,
        replica: &mut Replica<R>,
        cluster: &Cluster,
        reads: impl Fn(MemberId) -> Option<FormatLevel>,
    ) -> Option<HeldBack> {
        if self.own_max <= self.level {
            self.held_back = None;
            return None;
        }
        let status = replica.status();
        let is_informed = knows_its_members(status.state, status.applied, replica.node().term_start());
        if !is_informed || replica.node().has_pending_change() {
            self.held_back = None;
            return None;
        }
        let own = replica.id();
        let others = cluster.members().map(|member| member.id).filter(|id| *id != own);
        match decide(self.level, self.own_max, others, reads) {
            Decision::Enough => None,
            Decision::Wait(held_back) => self.tell(held_back),
            Decision::Raise(level) => {
                self.held_back = None;
                let wanted = Some((status.term, level));
                if self.proposed != wanted && replica.propose_format_level(level).is_ok() {
                    self.proposed = wanted;
                }
                None
            }
        }
    }

    fn tell(&mut self, held_back: HeldBack) -> Option<HeldBack> {
        let ticks = match self.held_back {
            Some((last, ticks)) if last == held_back => ticks + 1,
            _ => 1,
        };
        self.held_back = Some((held_back, ticks));
        (ticks == TELL_TICKS).then_some(held_back)
    }
}

/// A leader that has applied an entry of its own term has applied all that earlier leaders committed, so it
/// knows who the members are.
fn knows_its_members(state: RaftState, applied: LogIndex, term_start: Option<LogIndex>) -> bool {
    state == RaftState::Leader && term_start.is_some_and(|start| start <= applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: FormatLevel = FormatLevel(1);
    const TWO: FormatLevel = FormatLevel(2);

    fn decided(level: u32, own_max: u32, others: &[Option<u32>]) -> Decision {
        let ids = (0..others.len()).map(|slot| MemberId(slot as u64 + 2));
        decide(FormatLevel(level), FormatLevel(own_max), ids, |id| {
            others[usize::try_from(id.0).unwrap() - 2].map(FormatLevel)
        })
    }

    fn held_back(member: u64, reads: Option<u32>, needed: FormatLevel) -> Decision {
        Decision::Wait(HeldBack { member: MemberId(member), reads: reads.map(FormatLevel), needed })
    }

    #[test]
    fn lone_member_raises_at_once_and_by_one() {
        assert_eq!(decided(0, 1, &[]), Decision::Raise(ONE));
        assert_eq!(decided(0, 9, &[]), Decision::Raise(ONE));
        assert_eq!(decided(1, 9, &[]), Decision::Raise(TWO));
    }

    #[test]
    fn level_is_raised_when_the_last_member_reads_the_next_one_and_not_before() {
        assert_eq!(decided(0, 1, &[Some(1), Some(0)]), held_back(3, Some(0), ONE));
        assert_eq!(decided(0, 1, &[Some(1), None]), held_back(3, None, ONE), "not connected");
        assert_eq!(decided(0, 1, &[Some(1), Some(1)]), Decision::Raise(ONE));
        assert_eq!(decided(0, 5, &[Some(1), Some(7)]), Decision::Raise(ONE));
        assert_eq!(decided(1, 5, &[Some(1), Some(7)]), held_back(2, Some(1), TWO));
    }

    #[test]
    fn member_never_raises_the_level_above_what_it_reads_itself() {
        assert_eq!(decided(0, 0, &[Some(3), Some(3)]), Decision::Enough);
        assert_eq!(decided(1, 1, &[Some(3), Some(3)]), Decision::Enough);
        assert_eq!(decided(2, 1, &[]), Decision::Enough);
    }

    #[test]
    fn only_a_leader_that_has_applied_an_entry_of_its_term_knows_its_members() {
        let start = Some(LogIndex(7));
        assert!(knows_its_members(RaftState::Leader, LogIndex(7), start));
        assert!(!knows_its_members(RaftState::Leader, LogIndex(6), start));
        assert!(!knows_its_members(RaftState::Leader, LogIndex(7), None));
        assert!(!knows_its_members(RaftState::Follower, LogIndex(9), start));
    }

    #[test]
    fn operator_is_told_once_who_holds_the_level_back_and_again_when_it_is_another() {
        let mut gate = FormatGate::new(ONE);
        let held = |member| HeldBack { member: MemberId(member), reads: None, needed: ONE };
        let told = |gate: &mut FormatGate, member, ticks: u64| {
            (0..ticks).filter_map(|_| gate.tell(held(member))).count()
        };
        assert_eq!(told(&mut gate, 2, TELL_TICKS - 1), 0);
        assert_eq!(told(&mut gate, 2, 5 * TELL_TICKS), 1);
        assert_eq!(told(&mut gate, 3, TELL_TICKS), 1);
    }
}
