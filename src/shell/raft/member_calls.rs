//! Calls about the members, from their arrival to the proposal.
//!
//! The member that is asked judges an addition or a removal by what it knows (`membership::strict`) and
//! makes the change; the leader proposes it. A follower sends it to the leader by a call of its own,
//! because raft takes one change at a time and would silently drop one that came by its messages
//! meanwhile. The client's answer comes from the state machine of the member that was asked, when it
//! applies the entry.
//!
//! A change that is sent twice, because the leader's word was lost, does no harm: the second entry is
//! refused, and nobody waits for it any more. That is why a change is made once, with its id.
//! Bounds: `CALLS_MAX` calls wait, none longer than any request.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::membership::{
    Cluster, Member, MemberChange, MemberChangeKind, Touch, Unsafe, check_add, check_promote, check_remove,
    joining_member_id,
};
use crate::raft::{ProposeError, RaftState};
use crate::replica::Replica;
use crate::request::{MemberCall, Origin, Refusal};
use crate::types::{MemberId, Ticket};

/// Calls that may wait.
const CALLS_MAX: usize = 256;

/// A learner has caught up when it has so many hundredths of the leader's log, as in etcd.
const LEARNER_READY_PERCENT: u64 = 90;

/// Refusals as members tell them each other. On the wire: never reused.
const REFUSALS: [(u32, Refusal); 8] = [
    (1, Refusal::NotLeader),
    (2, Refusal::TimedOut),
    (3, Refusal::TooManyRequests),
    (4, Refusal::NotEnoughStarted),
    (5, Refusal::MemberNotFound),
    (6, Refusal::NotLearner),
    (7, Refusal::LearnerNotReady),
    (8, Refusal::Stopped),
];

/// The number of a refusal on the wire; 0 is none.
pub(in crate::shell) fn refusal_number(refusal: Option<Refusal>) -> u32 {
    let Some(refusal) = refusal else { return 0 };
    let known = REFUSALS.iter().find(|(_, known)| *known == refusal);
    known.unwrap_or(&REFUSALS[1]).0
}

/// What a number on the wire means. One that a later version sends is no reason to ask again.
pub(in crate::shell) fn refusal_of(number: u32) -> Option<Refusal> {
    let known = REFUSALS.iter().find(|(known, _)| *known == number);
    if number == 0 { None } else { Some(known.map_or(Refusal::TimedOut, |(_, refusal)| *refusal)) }
}

/// Who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Client(Ticket),
    /// A follower, by the number that the caller of `push_change` chose.
    Follower(u64),
    /// Somebody who asks by HTTP, by the number that the caller of `push_page` chose.
    Page(u64),
}

/// How far a call has come.
#[derive(Debug)]
enum CallStage {
    /// Not judged yet.
    Arrived(MemberCall),
    MovingLeader(MemberId),
    /// The leader is to propose this.
    Made(MemberChange),
    /// The leader was asked.
    Asked(MemberChange),
}

#[derive(Debug)]
struct Call {
    id: u64,
    caller: Caller,
    stage: CallStage,
    arrived_tick: u64,
}

/// What a call is judged by.
pub(in crate::shell) struct Standing<'a> {
    pub cluster: &'a Cluster,
    pub own: MemberId,
    pub ticks: u64,
    pub touch: &'a dyn Fn(MemberId) -> Touch,
    /// Sends a change to the leader; the number comes back with `on_leader_answer`.
    pub ask: &'a dyn Fn(u64, MemberId, Bytes),
}

/// What the leader made of a change that it was asked to propose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum LeaderAnswer {
    Proposed,
    Refused(Refusal),
    /// Nobody knows whether it got there.
    Lost,
}

/// Who is to be told what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Notification {
    /// Leadership has moved. All other successes come from the state machine.
    Client(Ticket, Result<(), Refusal>),
    /// A follower that asked; without a refusal its change is proposed.
    Follower(u64, Option<Refusal>),
    /// Somebody who asks by HTTP: the change is proposed, or why not.
    Page(u64, Result<(), Refusal>),
}

/// Calls that are not proposed yet.
pub(in crate::shell) struct MemberCalls {
    /// `--strict-reconfig-check`
    strict: bool,
    /// `--max-learners`
    learners_max: u32,
    calls: Vec<Call>,
    last_id: u64,
    told: Vec<Notification>,
}

/// What became of a call in one turn.
enum Advance {
    Waits(CallStage),
    /// Somebody else answers, or has.
    Gone,
    Ends(Result<(), Refusal>),
}

impl MemberCalls {
    pub(in crate::shell) fn new(strict: bool, learners_max: u32) -> Self {
        Self { strict, learners_max, calls: Vec::new(), last_id: 0, told: Vec::new() }
    }

    /// A client's call.
    pub(in crate::shell) fn push(&mut self, ticket: Ticket, call: MemberCall, tick: u64) {
        self.add(Caller::Client(ticket), CallStage::Arrived(call), tick);
    }

    /// A follower's change, which is told by `key`.
    pub(in crate::shell) fn push_change(&mut self, key: u64, change: MemberChange, tick: u64) {
        self.add(Caller::Follower(key), CallStage::Made(change), tick);
    }

    /// A change that a page asks for, which is told by `key`. `change` is answered to nobody when it is applied.
    pub(in crate::shell) fn push_page(&mut self, key: u64, change: MemberChange, tick: u64) {
        self.add(Caller::Page(key), CallStage::Made(change), tick);
    }

    fn add(&mut self, caller: Caller, stage: CallStage, tick: u64) {
        if CALLS_MAX <= self.calls.len() {
            self.tell(caller, Err(Refusal::TooManyRequests));
            return;
        }
        self.last_id += 1;
        self.calls.push(Call { id: self.last_id, caller, stage, arrived_tick: tick });
    }

    /// What the leader said to a change.
    pub(in crate::shell) fn on_leader_answer(&mut self, id: u64, answer: LeaderAnswer) {
        // Its caller may have given up.
        let Some(position) = self.calls.iter().position(|call| call.id == id) else { return };
        match answer {
            LeaderAnswer::Proposed => {
                // The state machine answers a client.
                if let caller @ Caller::Page(_) = self.calls.remove(position).caller {
                    self.tell(caller, Ok(()));
                }
            }
            LeaderAnswer::Refused(refusal) if refusal != Refusal::NotLeader => {
                let call = self.calls.remove(position);
                self.tell(call.caller, Err(refusal));
            }
            // Whoever leads now is asked next.
            LeaderAnswer::Refused(_) | LeaderAnswer::Lost => {
                let call = &mut self.calls[position];
                let stage = std::mem::replace(&mut call.stage, CallStage::MovingLeader(MemberId(0)));
                call.stage = match stage {
                    CallStage::Asked(change) => CallStage::Made(change),
                    other => other,
                };
            }
        }
    }

    fn tell(&mut self, caller: Caller, result: Result<(), Refusal>) {
        self.told.push(match caller {
            Caller::Client(ticket) => Notification::Client(ticket, result),
            Caller::Follower(key) => Notification::Follower(key, result.err()),
            Caller::Page(key) => Notification::Page(key, result),
        });
    }

    /// Carries every call on as far as it gets now. Returns who is told.
    pub(in crate::shell) fn advance<R>(
        &mut self,
        replica: &mut Replica<R>,
        standing: &Standing<'_>,
    ) -> Vec<Notification> {
        let timeout_ticks = replica.request_timeout_ticks();
        for call in std::mem::take(&mut self.calls) {
            let Call { id, caller, stage, arrived_tick } = call;
            let is_moving = matches!(stage, CallStage::MovingLeader(_));
            match self.step(id, caller, stage, replica, standing) {
                Advance::Gone => {}
                Advance::Ends(result) => self.tell(caller, result),
                Advance::Waits(_) if arrived_tick + timeout_ticks <= standing.ticks => {
                    let late = if is_moving { Refusal::TransferTimedOut } else { Refusal::TimedOut };
                    self.tell(caller, Err(late));
                }
                Advance::Waits(stage) => self.calls.push(Call { id, caller, stage, arrived_tick }),
            }
        }
        std::mem::take(&mut self.told)
    }

    fn step<R>(
        &self,
        id: u64,
        caller: Caller,
        stage: CallStage,
        replica: &mut Replica<R>,
        standing: &Standing<'_>,
    ) -> Advance {
        match stage {
            CallStage::Arrived(MemberCall::MoveLeader(to)) => begin_move(to, replica, standing),
            CallStage::Arrived(call) => match self.make(call, caller, standing) {
                Ok(change) => self.propose(id, caller, change, replica, standing),
                Err(refusal) => Advance::Ends(Err(refusal)),
            },
            CallStage::MovingLeader(to) => go_on_moving(to, replica),
            CallStage::Made(change) => self.propose(id, caller, change, replica, standing),
            CallStage::Asked(change) => Advance::Waits(CallStage::Asked(change)),
        }
    }

    /// Judges a call and makes the change it asks for.
    fn make(
        &self,
        call: MemberCall,
        caller: Caller,
        standing: &Standing<'_>,
    ) -> Result<MemberChange, Refusal> {
        let Caller::Client(ticket) = caller else { unreachable!("others send changes") };
        let kind = match call {
            MemberCall::Add { peer_urls, learner } => {
                self.check(check_add(standing.cluster, learner, standing.touch))?;
                let id = joining_member_id(&peer_urls, "", unix_seconds());
                let (name, client_urls) = (String::new(), Vec::new());
                let member = Member { id, name, peer_urls, client_urls, learner };
                MemberChangeKind::Add { member, learners_max: self.learners_max }
            }
            MemberCall::Remove(id) => {
                self.check(check_remove(standing.cluster, id, standing.touch))?;
                // No member has id 0, and raft has no entry for it.
                if id == MemberId(0) {
                    return Err(Refusal::MemberNotFound);
                }
                MemberChangeKind::Remove(id)
            }
            MemberCall::Promote(id) => MemberChangeKind::Promote(id),
            MemberCall::MoveLeader(_) => unreachable!("no change of the members"),
        };
        Ok(MemberChange { origin: Origin { member: standing.own, ticket }, kind })
    }

    fn propose<R>(
        &self,
        id: u64,
        caller: Caller,
        change: MemberChange,
        replica: &mut Replica<R>,
        standing: &Standing<'_>,
    ) -> Advance {
        let status = replica.status();
        let conf_change = || change.to_conf_change();
        if status.state != RaftState::Leader {
            return match (caller, status.leader) {
                // Whoever asked finds the one that leads.
                (Caller::Follower(_), _) => Advance::Ends(Err(Refusal::NotLeader)),
                (Caller::Client(_) | Caller::Page(_), None) => Advance::Waits(CallStage::Made(change)),
                (Caller::Client(_) | Caller::Page(_), Some(leader)) => {
                    (standing.ask)(id, leader, conf_change().encode());
                    Advance::Waits(CallStage::Asked(change))
                }
            };
        }
        if let MemberChangeKind::Promote(learner) = change.kind
            && let Err(refusal) = self.check_learner(learner, replica, standing)
        {
            return Advance::Ends(Err(refusal));
        }
        if replica.node().has_pending_change() {
            return Advance::Waits(CallStage::Made(change));
        }
        match replica.propose_conf_change(&conf_change()) {
            Ok(()) => match caller {
                Caller::Client(_) => Advance::Gone,
                Caller::Follower(_) | Caller::Page(_) => Advance::Ends(Ok(())),
            },
            Err(ProposeError::NotMember) => Advance::Ends(Err(Refusal::Stopped)),
            Err(ProposeError::NoLeader | ProposeError::Transferring | ProposeError::Full) => {
                Advance::Waits(CallStage::Made(change))
            }
        }
    }

    /// Whether the learner has what it takes to vote. Only the leader knows how far its log reaches.
    fn check_learner<R>(
        &self,
        id: MemberId,
        replica: &Replica<R>,
        standing: &Standing<'_>,
    ) -> Result<(), Refusal> {
        // First how far it is, then the quorum, then whether there is such a learner: etcd's order.
        if let Some(matched) = replica.node().matched(id) {
            let last = replica.status().last;
            if matched.0.saturating_mul(100) < last.0.saturating_mul(LEARNER_READY_PERCENT) {
                return Err(Refusal::LearnerNotReady);
            }
        }
        self.check(check_promote(standing.cluster))?;
        match standing.cluster.member(id) {
            None => Err(Refusal::MemberNotFound),
            Some(member) if !member.learner => Err(Refusal::NotLearner),
            Some(_) => Ok(()),
        }
    }

    fn check(&self, checked: Result<(), Unsafe>) -> Result<(), Refusal> {
        match checked {
            Err(Unsafe::NotEnoughStarted) if self.strict => Err(Refusal::NotEnoughStarted),
            Err(Unsafe::Unhealthy) if self.strict => Err(Refusal::Unhealthy),
            _ => Ok(()),
        }
    }
}

fn begin_move<R>(to: MemberId, replica: &mut Replica<R>, standing: &Standing<'_>) -> Advance {
    let status = replica.status();
    if status.state != RaftState::Leader {
        return Advance::Ends(Err(Refusal::NotLeader));
    }
    if standing.cluster.member(to).is_none_or(|member| member.learner) {
        return Advance::Ends(Err(Refusal::BadTransferee));
    }
    go_on_moving(to, replica)
}

fn go_on_moving<R>(to: MemberId, replica: &mut Replica<R>) -> Advance {
    let status = replica.status();
    if status.leader == Some(to) {
        return Advance::Ends(Ok(()));
    }
    // Nobody leads while it moves. If another one won, this member no longer has a say.
    if status.state == RaftState::Leader {
        if !replica.node().is_transferring() {
            replica.node_mut().transfer_leader(to);
        }
    } else if status.leader.is_some() {
        return Advance::Ends(Err(Refusal::TransferTimedOut));
    }
    Advance::Waits(CallStage::MovingLeader(to))
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "member_calls_tests.rs"]
mod tests;
