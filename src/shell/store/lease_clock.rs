//! The store role's work for leases: it tells the leader's memory what time it is, sends its requests
//! to raft, and gives keep-alives their answers. A second clock does the same for nodes with a time to live, which
//! nobody keeps alive.
//!
//! Decides nothing; `lease::Keeper` does. Leads from the moment the first entry of its own term is
//! applied, since only then does the table hold what earlier leaders logged; no keep-alive is
//! confirmed before that. A question that comes while this member does not lead is given back: the
//! raft role asks whoever does.
//!
//! A turn takes its messages before time passes for leases, so a keep-alive that has arrived counts.
//! A tick is late by a few turns at most when the messages never end. There are ticks only while
//! this member leads and there are leases.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::apply::Machine;
use crate::lease::keeper::{KeepAlive, Renewed};
use crate::lease::{Change, Keeper, Proposal, Table};
use crate::metrics::{Count, Histogram, Name, Report};
use crate::pb::etcdserverpb as pb;
use crate::replica::exchange::ToRaft;
use crate::request::{Command, Query, Refusal, RequestKind, Response};
use crate::shell::runtime::mesh::{Doorbell, Sender};
use crate::types::{Caller, LeaseId, LogIndex, Term, Ticket};

/// How late a lease may be found due, beside its way through the log.
const TICK: Duration = Duration::from_millis(100);

/// Turns that a tick waits for a turn that takes all messages there are.
const TURNS_MAX: u32 = 16;

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Of {
    Leases,
    /// `directory::Deadlines`
    Nodes,
}

impl Of {
    fn table(self, machine: &Machine) -> &Table {
        match self {
            Self::Leases => machine.leases(),
            Self::Nodes => machine.directories().table(),
        }
    }

    fn take_changes(self, machine: &mut Machine) -> std::vec::Drain<'_, Change> {
        match self {
            Self::Leases => machine.take_lease_changes(),
            Self::Nodes => machine.take_deadline_changes(),
        }
    }

    fn request(self, number: u64, proposal: Proposal) -> ToRaft {
        let (caller, expire, checkpoint) = match self {
            Self::Leases => (Caller::Lease(number), RequestKind::LeaseExpire, RequestKind::LeaseCheckpoint),
            Self::Nodes => (Caller::Node(number), RequestKind::NodeExpire, RequestKind::NodeCheckpoint),
        };
        let (kind, body) = match proposal {
            Proposal::Expire(message) => (expire, message.encode_to_vec()),
            Proposal::Checkpoint(message) => (checkpoint, message.encode_to_vec()),
        };
        let command = Command::Propose { kind, body: body.into(), login: None };
        ToRaft::Command { ticket: caller.into(), command }
    }
}

/// What a caller is told.
pub(in crate::shell) type LeaseReply = (Ticket, Result<Response, Refusal>);

/// See the module.
pub(in crate::shell) struct LeaseClock {
    of: Of,
    keeper: Keeper,
    started: Instant,
    /// What a new leader adds to every lease: an election timeout.
    extension: Duration,
    /// Set by the ticker.
    has_ticked: Rc<Cell<bool>>,
    wants_ticks: Rc<Cell<bool>>,
    is_ticking: Rc<Cell<bool>>,
    turns_waited: u32,
    /// The keeper may have requests.
    may_propose: bool,
    answers: Vec<Renewed>,
    /// Questions for whoever leads now.
    unserved: Vec<(Ticket, Query)>,
    observed: Observed,
}

/// What was counted of leases.
struct Observed {
    granted: Count,
    revoked: Count,
    expired: Count,
    renewed: Count,
    ttl_s: Histogram,
}

impl Observed {
    #[expect(clippy::cast_precision_loss, reason = "seconds of a lease, at most 9,000,000,000")]
    fn on_change(&self, change: Change) {
        match change {
            Change::Granted { ttl_s, .. } => {
                self.granted.increment();
                self.ttl_s.observe(ttl_s as f64);
            }
            Change::Revoked { .. } => self.revoked.increment(),
            Change::RemainingSet { .. } => {}
        }
    }
}

impl LeaseClock {
    #[must_use]
    pub(in crate::shell) fn new(of: Of, extension: Duration) -> Self {
        Self {
            of,
            keeper: Keeper::new(),
            started: Instant::now(),
            extension,
            has_ticked: Rc::default(),
            wants_ticks: Rc::default(),
            is_ticking: Rc::default(),
            turns_waited: 0,
            may_propose: false,
            answers: Vec::new(),
            unserved: Vec::new(),
            observed: Observed {
                granted: Count::default(),
                revoked: Count::default(),
                expired: Count::default(),
                renewed: Count::default(),
                ttl_s: Histogram::new(Name::LeaseTtl),
            },
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("no process lives for 2^64 ms")
    }

    /// Whether time is to pass for leases: part of what the role sleeps on.
    pub(in crate::shell) fn has_ticked(&self) -> bool {
        self.has_ticked.get()
    }

    /// Leadership may have moved. `leads` is the term in which this member leads, if it does.
    pub(in crate::shell) fn on_leadership(&mut self, leads: Option<Term>) {
        if self.keeper.term().is_some() && self.keeper.term() != leads {
            let waiting = self.keeper.step_down();
            self.unserved.extend(waiting.into_iter().map(|(id, ticket)| (ticket, Query::LeaseKeepAlive(id))));
        }
    }

    /// A request of an entry of term `term` was applied.
    pub(in crate::shell) fn on_request(&mut self, machine: &mut Machine, term: Term) {
        let is_own = self.keeper.term() == Some(term);
        // Asked first: nearly every request is not about leases, and the clock costs more than that.
        let changes = self.of.take_changes(machine);
        if changes.as_slice().is_empty() {
            return;
        }
        changes.as_slice().iter().for_each(|change| self.observed.on_change(*change));
        if !is_own {
            return;
        }
        let now_ms = self.now_ms();
        for change in changes {
            self.keeper.on_change(now_ms, change, &mut self.answers);
        }
        self.may_propose = true;
    }

    /// An entry of term `term` was applied as a whole; `leads` as in `on_leadership`.
    pub(in crate::shell) fn on_entry(&mut self, machine: &Machine, term: Term, leads: Option<Term>) {
        if leads == Some(term) && self.keeper.term() != leads {
            let extend_ms = u64::try_from(self.extension.as_millis()).unwrap_or(u64::MAX);
            self.keeper.lead(self.now_ms(), term, self.of.table(machine), extend_ms);
            self.may_propose = true;
        }
    }

    /// The request with this number was applied in an entry of term `term`, its changes told.
    pub(in crate::shell) fn on_applied(&mut self, number: u64, term: Term) {
        if self.keeper.term() == Some(term) {
            self.keeper.on_applied(number);
            self.may_propose = true;
        }
    }

    /// Raft did not take the request with this number.
    pub(in crate::shell) fn on_refused(&mut self, number: u64) {
        self.keeper.on_refused(number);
    }

    /// A keep-alive, confirmed: this member was the leader after it came. None: it waits, or is not
    /// for this member.
    pub(in crate::shell) fn keep_alive(
        &mut self,
        machine: &Machine,
        id: LeaseId,
        ticket: Ticket,
    ) -> Option<LeaseReply> {
        match self.keeper.keep_alive(self.now_ms(), id, ticket) {
            None => {
                self.unserved.push((ticket, Query::LeaseKeepAlive(id)));
                None
            }
            Some(KeepAlive::Now { ttl_s }) => {
                self.observed.renewed.increment();
                Some((ticket, Ok(machine.lease_keep_alive(id, ttl_s))))
            }
            Some(KeepAlive::Refused) => Some((ticket, Err(Refusal::TooManyRequests))),
            Some(KeepAlive::Later) => {
                self.may_propose = true;
                None
            }
        }
    }

    /// The time a lease has left, 0 if there is none; only the leader knows. `None`: it is not for this member.
    pub(in crate::shell) fn remaining_ms(
        &mut self,
        request: &pb::LeaseTimeToLiveRequest,
        ticket: Ticket,
    ) -> Option<u64> {
        if self.keeper.term().is_none() {
            self.unserved.push((ticket, Query::LeaseTimeToLive(*request)));
            return None;
        }
        Some(self.keeper.remaining_ms(LeaseId(request.id), self.now_ms()).unwrap_or(0))
    }

    /// When a lease is due, on this clock. `None`: it is not there, or this member does not lead.
    pub(in crate::shell) fn due_ms(&self, id: LeaseId) -> Option<u64> {
        self.keeper.due_ms(id)
    }

    /// So many leases ended because nobody renewed them.
    pub(in crate::shell) fn on_expired(&self, leases: usize) {
        self.observed.expired.add(leases as u64);
    }

    pub(in crate::shell) fn report(&self, report: &mut Report) {
        report.count(Name::LeaseGranted, [], self.observed.granted.get());
        report.count(Name::LeaseRevoked, [], self.observed.revoked.get());
        report.count(Name::LeaseExpired, [], self.observed.expired.get());
        report.count(Name::LeaseRenewed, [], self.observed.renewed.get());
        report.histogram(Name::LeaseTtl, [], &self.observed.ttl_s);
    }

    /// The questions for whoever leads now.
    pub(in crate::shell) fn take_unserved(&mut self) -> Vec<(Ticket, Query)> {
        std::mem::take(&mut self.unserved)
    }

    /// All leases: the soonest due first where that is known, else in the order of their ids.
    pub(in crate::shell) fn leases(&self, machine: &Machine) -> Response {
        match self.keeper.by_remaining() {
            Some(ids) => machine.lease_leases(ids.into_iter()),
            None => machine.lease_leases(machine.leases().iter().map(|(id, _)| id)),
        }
    }

    /// A turn of the role, after its messages. `is_behind`: more messages may be waiting. Returns
    /// whether another turn is wanted at once.
    pub(in crate::shell) fn turn(
        &mut self,
        machine: &Machine,
        applied: LogIndex,
        is_behind: bool,
        to_raft: &Sender<ToRaft>,
        bell: &Doorbell,
    ) -> bool {
        if self.has_ticked.get() {
            self.turns_waited += 1;
            if !is_behind || TURNS_MAX <= self.turns_waited {
                self.turns_waited = 0;
                self.has_ticked.set(false);
                self.keeper.on_tick();
                self.may_propose = true;
            }
        }
        if self.may_propose {
            let now_ms = self.now_ms();
            // It would be ignored, and asked for again without an end.
            self.keeper.hold(machine.alarms().is_corrupt());
            while let Some((number, proposal)) = self.keeper.propose(now_ms, self.of.table(machine), applied)
            {
                to_raft.send_always(self.of.request(number, proposal));
            }
            self.may_propose = self.keeper.has_work();
            self.keep_ticking(bell);
        }
        self.may_propose
    }

    /// The answers that came about since the last call.
    pub(in crate::shell) fn take_told(&mut self, machine: &Machine) -> Vec<LeaseReply> {
        self.observed.renewed.add(self.answers.len() as u64);
        let answers = self.answers.drain(..);
        answers
            .map(|Renewed { ticket, id, ttl_s }| (ticket, Ok(machine.lease_keep_alive(id, ttl_s))))
            .collect()
    }

    fn keep_ticking(&mut self, bell: &Doorbell) {
        self.wants_ticks.set(self.keeper.needs_ticks());
        if !self.wants_ticks.get() || self.is_ticking.replace(true) {
            return;
        }
        let (has_ticked, wants_ticks) = (Rc::clone(&self.has_ticked), Rc::clone(&self.wants_ticks));
        let (is_ticking, bell) = (Rc::clone(&self.is_ticking), bell.clone());
        glommio::spawn_local(async move {
            while wants_ticks.get() {
                glommio::timer::sleep(TICK).await;
                has_ticked.set(true);
                bell.ring();
            }
            is_ticking.set(false);
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::membership::Cluster;
    use crate::mvcc::Store;
    use crate::pb::peer;
    use crate::request::{EntryId, Origin, Request};
    use crate::shell::runtime::mesh::{self, Receiver};
    use crate::types::MemberId;

    /// A store role of nothing but leases, and raft's end of its ring.
    struct Role {
        machine: Machine,
        clock: LeaseClock,
        bell: Doorbell,
        to_raft: Sender<ToRaft>,
        raft: Receiver<ToRaft>,
        index: u64,
    }

    const TERM: Term = Term(4);

    impl Role {
        fn leading() -> Self {
            let voter = peer::MemberRecord { id: 7, ..Default::default() };
            let record = peer::Membership { cluster_id: 5, members: vec![voter], removed: vec![] };
            let cluster = Cluster::decode(record.encode_to_vec().into()).unwrap();
            let bell = Doorbell::new(Arc::default());
            let (to_raft, raft) = mesh::local(16, &bell);
            let machine = Machine::new(Store::new(), cluster);
            let mut clock = LeaseClock::new(Of::Leases, Duration::ZERO);
            clock.on_leadership(Some(TERM));
            clock.on_entry(&machine, TERM, Some(TERM));
            Self { machine, clock, bell, to_raft, raft, index: 1 }
        }

        fn apply(&mut self, kind: RequestKind, body: bytes::Bytes) {
            self.index += 1;
            let at = EntryId { index: LogIndex(self.index), term: TERM };
            let origin = Origin { member: MemberId(7), ticket: Ticket(0) };
            let _answer = self.machine.apply(&Request { origin, kind, body, login: None }, at);
            self.clock.on_request(&mut self.machine, TERM);
        }

        fn turn(&mut self) {
            let applied = LogIndex(self.index);
            while self.clock.turn(&self.machine, applied, false, &self.to_raft, &self.bell) {}
        }

        /// Turns, each begun by a tick, until the role proposes something.
        async fn next_proposal(&mut self) -> (u64, RequestKind, bytes::Bytes) {
            loop {
                self.turn();
                if let Some(ToRaft::Command { ticket, command: Command::Propose { kind, body, .. } }) =
                    self.raft.take()
                {
                    let Caller::Lease(number) = ticket.caller() else { panic!("{ticket:?}") };
                    return (number, kind, body);
                }
                self.bell.wait_once(|| self.clock.has_ticked()).await;
            }
        }
    }

    #[test]
    fn a_lease_is_expired_by_the_clock_asked_for_again_when_refused_and_then_nothing_ticks() {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(async {
            let mut role = Role::leading();
            let granted = Instant::now();
            role.apply(
                RequestKind::LeaseGrant,
                pb::LeaseGrantRequest { id: 9, ttl: 1 }.encode_to_vec().into(),
            );
            let (number, kind, body) = role.next_proposal().await;
            assert!(Duration::from_secs(1) <= granted.elapsed(), "early: {:?}", granted.elapsed());
            assert_eq!(kind, RequestKind::LeaseExpire);
            let expected = peer::LeaseExpire { term: TERM.0, ids: vec![9], through: 2 };
            assert_eq!(peer::LeaseExpire::decode(&*body).unwrap(), expected);
            assert!(role.clock.keep_alive(&role.machine, LeaseId(9), Ticket(1)).is_none(), "it waits");

            role.clock.on_refused(number);
            let (again, kind, body) = role.next_proposal().await;
            assert!(number < again);
            role.apply(kind, body);
            role.clock.on_applied(again, TERM);
            let told = role.clock.take_told(&role.machine);
            assert_eq!(told, [(Ticket(1), Ok(role.machine.lease_keep_alive(LeaseId(9), 0)))]);

            while role.clock.is_ticking.get() {
                role.turn();
                glommio::executor().yield_if_needed().await;
                role.bell.wait_once(|| role.clock.has_ticked() || !role.clock.is_ticking.get()).await;
            }
            assert!(role.raft.take().is_none());
        });
    }

    #[test]
    fn a_member_that_does_not_lead_answers_for_no_lease_and_gives_the_question_back() {
        let mut role = Role::leading();
        role.apply(RequestKind::LeaseGrant, pb::LeaseGrantRequest { id: 9, ttl: 60 }.encode_to_vec().into());
        let request = pb::LeaseTimeToLiveRequest { id: 9, keys: false };
        let remaining_ms = role.clock.remaining_ms(&request, Ticket(0)).unwrap();
        assert!((58_000..=60_000).contains(&remaining_ms), "{remaining_ms}");
        // Leadership of a term counts from its first entry on.
        role.clock.on_leadership(Some(Term(5)));
        assert_eq!(role.clock.remaining_ms(&request, Ticket(3)), None);
        assert_eq!(role.clock.keep_alive(&role.machine, LeaseId(9), Ticket(1)), None);
        role.clock.on_entry(&role.machine, TERM, Some(Term(5)));
        let asked = role.clock.remaining_ms(&request, Ticket(4));
        assert_eq!(asked, None, "an entry of the term before");
        let unserved = role.clock.take_unserved();
        assert_eq!(unserved.iter().map(|(ticket, _)| ticket.0).collect::<Vec<_>>(), [3, 1, 4]);
        assert!(matches!(unserved[1].1, Query::LeaseKeepAlive(LeaseId(9))));
        role.clock.on_entry(&role.machine, Term(5), Some(Term(5)));
        let (_, kept) = role.clock.keep_alive(&role.machine, LeaseId(9), Ticket(2)).unwrap();
        assert_eq!(kept, Ok(role.machine.lease_keep_alive(LeaseId(9), 60)));
    }
}
