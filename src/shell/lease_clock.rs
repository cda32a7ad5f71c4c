//! The store role's work for leases: it tells the leader's memory what time it is, sends its requests
//! to raft, and gives keep-alives their answers.
//!
//! Decides nothing; `lease::Keeper` does. Leads from the moment the first entry of its own term is
//! applied, since only then does the table hold what earlier leaders logged; no keep-alive is
//! confirmed before that.
//!
//! A turn takes its messages before time passes for leases, so a keep-alive that has arrived counts.
//! A tick is late by a few turns at most when the messages never end. There are ticks only while
//! this member leads and there are leases.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use prost::Message as _;

use super::lease_ticket;
use super::mesh::{Doorbell, Sender};
use crate::apply::{Machine, RequestKind, Response};
use crate::lease::keeper::{Answer, KeepAlive};
use crate::lease::{Keeper, Proposal};
use crate::pb::etcdserverpb as pb;
use crate::replica::exchange::{Refusal, ToRaft};
use crate::types::{LeaseId, LogIndex, Term, Ticket};

/// How late a lease may be found due, beside its way through the log.
const TICK: Duration = Duration::from_millis(100);

/// Turns that a tick waits for a turn that takes all messages there are.
const TURNS_MAX: u32 = 16;

/// What a caller is told.
pub(super) type Told = (Ticket, Result<Response, Refusal>);

/// See the module.
pub(super) struct LeaseClock {
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
    answers: Vec<Answer>,
    refused: Vec<(Ticket, Refusal)>,
}

impl LeaseClock {
    #[must_use]
    pub(super) fn new(extension: Duration) -> Self {
        Self {
            keeper: Keeper::new(),
            started: Instant::now(),
            extension,
            has_ticked: Rc::default(),
            wants_ticks: Rc::default(),
            is_ticking: Rc::default(),
            turns_waited: 0,
            may_propose: false,
            answers: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("no process lives for 2^64 ms")
    }

    /// Whether time is to pass for leases: part of what the role sleeps on.
    pub(super) fn has_ticked(&self) -> bool {
        self.has_ticked.get()
    }

    /// Leadership may have moved. `leads` is the term in which this member leads, if it does.
    pub(super) fn on_leadership(&mut self, leads: Option<Term>) {
        if self.keeper.term().is_some() && self.keeper.term() != leads {
            let waiting = self.keeper.step_down();
            self.refused.extend(waiting.into_iter().map(|ticket| (ticket, Refusal::LeaderChanged)));
        }
    }

    /// A request of an entry of term `term` was applied.
    pub(super) fn on_request(&mut self, machine: &mut Machine, term: Term) {
        let is_own = self.keeper.term() == Some(term);
        // Asked first: nearly every request is not about leases, and the clock costs more than that.
        let changes = machine.take_lease_changes();
        if changes.as_slice().is_empty() || !is_own {
            return;
        }
        let now_ms = self.now_ms();
        for change in changes {
            self.keeper.on_change(now_ms, change, &mut self.answers);
        }
        self.may_propose = true;
    }

    /// An entry of term `term` was applied as a whole; `leads` as in `on_leadership`.
    pub(super) fn on_entry(&mut self, machine: &Machine, term: Term, leads: Option<Term>) {
        if leads == Some(term) && self.keeper.term() != leads {
            let extend_ms = u64::try_from(self.extension.as_millis()).unwrap_or(u64::MAX);
            self.keeper.lead(self.now_ms(), term, machine.leases(), extend_ms);
            self.may_propose = true;
        }
    }

    /// The request with this number was applied in an entry of term `term`, its changes told.
    pub(super) fn on_applied(&mut self, number: u64, term: Term) {
        if self.keeper.term() == Some(term) {
            self.keeper.on_applied(number);
            self.may_propose = true;
        }
    }

    /// Raft did not take the request with this number.
    pub(super) fn on_refused(&mut self, number: u64) {
        self.keeper.on_refused(number);
    }

    /// A keep-alive, confirmed: this member was the leader after it came.
    pub(super) fn keep_alive(&mut self, machine: &Machine, id: LeaseId, ticket: Ticket) -> Option<Told> {
        match self.keeper.keep_alive(self.now_ms(), id, ticket) {
            None => Some((ticket, Err(Refusal::NoLeader))),
            Some(KeepAlive::Now { ttl_s }) => Some((ticket, Ok(machine.lease_keep_alive(id, ttl_s)))),
            Some(KeepAlive::Refused) => Some((ticket, Err(Refusal::TooManyRequests))),
            Some(KeepAlive::Later) => {
                self.may_propose = true;
                None
            }
        }
    }

    /// The time a lease has left; only the leader knows.
    pub(super) fn time_to_live(
        &self,
        machine: &Machine,
        request: &pb::LeaseTimeToLiveRequest,
    ) -> Result<Response, Refusal> {
        if self.keeper.term().is_none() {
            return Err(Refusal::NoLeader);
        }
        let remaining_ms = self.keeper.remaining_ms(LeaseId(request.id), self.now_ms());
        Ok(machine.lease_time_to_live(request, remaining_ms.unwrap_or(0)))
    }

    /// All leases: the soonest due first where that is known, else in the order of their ids.
    pub(super) fn leases(&self, machine: &Machine) -> Response {
        match self.keeper.by_remaining() {
            Some(ids) => machine.lease_leases(ids.into_iter()),
            None => machine.lease_leases(machine.leases().iter().map(|(id, _)| id)),
        }
    }

    /// A turn of the role, after its messages. `is_behind`: more messages may be waiting. Returns
    /// whether another turn is wanted at once.
    pub(super) fn turn(
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
            while let Some((number, proposal)) = self.keeper.propose(now_ms, machine.leases(), applied) {
                let (kind, body) = match proposal {
                    Proposal::Expire(message) => (RequestKind::LeaseExpire, message.encode_to_vec()),
                    Proposal::Checkpoint(message) => (RequestKind::LeaseCheckpoint, message.encode_to_vec()),
                };
                let ticket = lease_ticket(number);
                to_raft.send_always(ToRaft::Propose { ticket, kind, body: body.into() });
            }
            self.may_propose = self.keeper.has_work();
            self.keep_ticking(bell);
        }
        self.may_propose
    }

    /// The answers that came about since the last call.
    pub(super) fn take_told(&mut self, machine: &Machine) -> Vec<Told> {
        let answers = self.answers.drain(..);
        let answered =
            answers.map(|Answer { ticket, id, ttl_s }| (ticket, Ok(machine.lease_keep_alive(id, ttl_s))));
        let refused = self.refused.drain(..).map(|(ticket, refusal)| (ticket, Err(refusal)));
        answered.chain(refused).collect()
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
