//! Calls about the members, from their arrival to the proposal.
//!
//! A change is checked against what this member knows, then proposed as raft's own entry; its answer
//! comes from the state machine when the entry is applied. Raft takes one change at a time, so the
//! others wait here, no longer than any request.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::apply::request::Origin;
use crate::membership::{
    Cluster, Member, MemberChange, MemberChangeKind, Unsafe, check_add, check_promote, check_remove,
    joining_member_id,
};
use crate::raft::{ProposeError, Role};
use crate::replica::Replica;
use crate::replica::exchange::{MemberCall, Refusal};
use crate::types::{MemberId, Ticket};

/// Calls that may wait.
const CALLS_MAX: usize = 256;

/// Ticks after which a change that was proposed no longer holds back the next: a follower's proposal
/// may have been lost on its way to the leader.
const PROPOSED_TICKS_MAX: u64 = 20;

/// A learner has caught up when it has so many hundredths of the leader's log, as in etcd.
const LEARNER_READY_PERCENT: u64 = 90;

struct Call {
    ticket: Ticket,
    call: MemberCall,
    arrived_tick: u64,
    /// A transfer of leadership is under way.
    is_moving: bool,
}

/// What a call is judged by.
pub(super) struct Standing<'a> {
    pub cluster: &'a Cluster,
    pub own: MemberId,
    pub ticks: u64,
    /// Whether a peer has been connected for as long as etcd asks, 5 s.
    pub in_touch: &'a dyn Fn(MemberId) -> bool,
}

/// Calls that are not proposed yet.
pub(super) struct MemberCalls {
    /// `--strict-reconfig-check`
    strict: bool,
    calls: VecDeque<Call>,
    /// A change is on its way since this tick.
    proposed_tick: Option<u64>,
    too_many: Vec<Ticket>,
}

/// What to tell a caller now; the others are told by the state machine.
type Told = (Ticket, Result<(), Refusal>);

impl MemberCalls {
    pub(super) fn new(strict: bool) -> Self {
        Self { strict, calls: VecDeque::new(), proposed_tick: None, too_many: Vec::new() }
    }

    pub(super) fn push(&mut self, ticket: Ticket, call: MemberCall, tick: u64) {
        if CALLS_MAX <= self.calls.len() {
            self.too_many.push(ticket);
        } else {
            self.calls.push_back(Call { ticket, call, arrived_tick: tick, is_moving: false });
        }
    }

    /// A change was applied: the next one may go.
    pub(super) fn on_change_applied(&mut self) {
        self.proposed_tick = None;
    }

    /// Proposes what can be proposed. Returns who is answered here.
    pub(super) fn advance<R>(&mut self, replica: &mut Replica<R>, standing: &Standing<'_>) -> Vec<Told> {
        let mut told: Vec<Told> =
            self.too_many.drain(..).map(|ticket| (ticket, Err(Refusal::TooManyRequests))).collect();
        if self.proposed_tick.is_some_and(|tick| tick + PROPOSED_TICKS_MAX <= standing.ticks) {
            self.proposed_tick = None;
        }
        let timeout_ticks = replica.request_timeout_ticks();
        for mut call in std::mem::take(&mut self.calls) {
            let is_late = call.arrived_tick + timeout_ticks <= standing.ticks;
            match self.try_call(&mut call, replica, standing) {
                Some(Ok(is_answered)) => {
                    if is_answered {
                        told.push((call.ticket, Ok(())));
                    }
                }
                Some(Err(refusal)) => told.push((call.ticket, Err(refusal))),
                None if is_late => {
                    let refusal = if call.is_moving { Refusal::TransferTimedOut } else { Refusal::TimedOut };
                    told.push((call.ticket, Err(refusal)));
                }
                None => self.calls.push_back(call),
            }
        }
        told
    }

    /// None: it waits. `Ok(true)`: done; `Ok(false)`: the state machine will answer.
    fn try_call<R>(
        &mut self,
        call: &mut Call,
        replica: &mut Replica<R>,
        standing: &Standing<'_>,
    ) -> Option<Result<bool, Refusal>> {
        let status = replica.status();
        let kind = match &call.call {
            MemberCall::MoveLeader(to) => return move_leader(*to, &mut call.is_moving, replica, standing),
            MemberCall::Add { peer_urls, learner } => {
                if let Err(refusal) = self.check(check_add(standing.cluster, *learner, standing.in_touch)) {
                    return Some(Err(refusal));
                }
                MemberChangeKind::Add(Member {
                    id: joining_member_id(peer_urls, "", unix_seconds()),
                    name: String::new(),
                    peer_urls: peer_urls.clone(),
                    client_urls: Vec::new(),
                    learner: *learner,
                })
            }
            MemberCall::Remove(id) => {
                if let Err(refusal) = self.check(check_remove(standing.cluster, *id, standing.in_touch)) {
                    return Some(Err(refusal));
                }
                MemberChangeKind::Remove(*id)
            }
            MemberCall::Promote(id) => {
                if status.role != Role::Leader {
                    // Only the leader knows how far a learner has come.
                    return status.leader.map(|_| Err(Refusal::NotLeader));
                }
                match standing.cluster.member(*id) {
                    None => return Some(Err(Refusal::MemberNotFound)),
                    Some(member) if !member.learner => return Some(Err(Refusal::NotLearner)),
                    Some(_) => {}
                }
                if let Err(refusal) = self.check(check_promote(standing.cluster)) {
                    return Some(Err(refusal));
                }
                let matched = replica.node().matched(*id).map_or(0, |index| index.0);
                if matched.saturating_mul(100) < status.last.0.saturating_mul(LEARNER_READY_PERCENT) {
                    return Some(Err(Refusal::LearnerNotReady));
                }
                MemberChangeKind::Promote(*id)
            }
        };
        if self.proposed_tick.is_some() || status.leader.is_none() {
            return None;
        }
        let origin = Origin { member: standing.own, ticket: call.ticket };
        match replica.propose_conf_change(&MemberChange { origin, kind }.to_conf_change()) {
            Ok(()) => {
                self.proposed_tick = Some(standing.ticks);
                Some(Ok(false))
            }
            Err(ProposeError::NotMember) => Some(Err(Refusal::Stopped)),
            Err(ProposeError::NoLeader | ProposeError::Transferring | ProposeError::Full) => None,
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

fn move_leader<R>(
    to: MemberId,
    is_moving: &mut bool,
    replica: &mut Replica<R>,
    standing: &Standing<'_>,
) -> Option<Result<bool, Refusal>> {
    let status = replica.status();
    if status.leader == Some(to) && (*is_moving || status.role == Role::Leader) {
        return Some(Ok(true));
    }
    if status.role != Role::Leader {
        // While it moves there may be nobody for a moment.
        return if *is_moving { None } else { Some(Err(Refusal::NotLeader)) };
    }
    if standing.cluster.member(to).is_none_or(|member| member.learner) {
        return Some(Err(Refusal::BadTransferee));
    }
    if !replica.node().is_transferring() {
        replica.node_mut().transfer_leader(to);
        *is_moving = true;
    }
    None
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
