//! The raft role's executor: feeds the replica and does what it asks.
//!
//! Decides nothing about consensus. Each turn takes everything that waits, source by source ([`SOURCES`]),
//! then carries out every `Ready`, then rings the other roles once.
//! Order that matters: messages leave before the entries they carry are appended here, so followers
//! sync while this member does; committed entries and the reads released behind them leave on one ring
//! to the store, in this order, so the store answers a read when it comes to it.

pub(in crate::shell) mod checkpoint_transfer;
pub(in crate::shell) mod hash_checks;
mod kept;
pub(in crate::shell) mod lease_forward;
pub(in crate::shell) mod member_calls;
pub(in crate::shell) mod seat;

mod appends;
mod comparing;
mod format_level;
mod lagging;
mod leadership;
mod members;
mod observed;
mod observing;
mod pages;
mod peers;
mod promotions;
mod reads;
mod starting;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use self::kept::{Kept, bytes_in_log};
use self::seat::{Parts, RaftNews, Seat, Settings};
use crate::config::Address;
use crate::membership::Cluster;
use crate::raft::{self, MessageKind, StartError};
use crate::replica::exchange::{Facts, ToRaft, ToShard, ToStore};
use crate::replica::{Candidacy, FormatGate, Ready, Replica, Space};
use crate::request::{Answer, Command, Read, Refusal, Reply, Response};
use crate::shell::log::entries::{entry_to_wal, hard_state_to_wal};
use crate::shell::log::writer::{LogCommand, LogEvent};
use crate::shell::peer::{self, Reply as CallReply, Transport};
use crate::shell::runtime::wiring::RaftPorts;
use crate::types::{Caller, LogIndex, Ticket};
use appends::Appends;
use checkpoint_transfer::Transfers;
use hash_checks::HashChecks;
use lease_forward::{Asking, Serving};
use member_calls::{LeaderAnswer, MemberCalls};
use observed::Observed;
use promotions::Promotions;

/// A call between members: who belongs to the cluster, as `pinion.peer.v1.Membership`.
pub(in crate::shell) const CALL_MEMBERS: u32 = 1;

/// A call to the leader: a membership change to propose, as `pinion.peer.v1.ConfChange`; answered with
/// `MemberChangeAnswer`.
const CALL_MEMBER_CHANGE: u32 = 2;

/// A linearizable read that waits: its caller and what it asks.
pub(in crate::shell) type WaitingRead = (Ticket, Read);

/// Why the role does not start.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum RaftStartError {
    #[error(transparent)]
    Log(#[from] StartError),
    #[error("cannot listen on {0}: {1}")]
    Listen(Address, #[source] io::Error),
}

/// The raft role.
pub(in crate::shell) struct RaftRole {
    settings: Settings,
    parts: Parts,
    ports: RaftPorts,
    replica: Replica<WaitingRead>,
    transport: Rc<Transport>,
    transfers: Transfers,
    checks: HashChecks,
    on_news: Box<dyn Fn(RaftNews)>,
    facts: Facts,
    cluster: Option<Box<Cluster>>,
    calls: MemberCalls,
    promotions: Promotions,
    format_gate: FormatGate,
    /// Requests that the format level does not allow yet, and when they came.
    waiting_for_level: VecDeque<(Ticket, Command, u64)>,
    /// What the leader said to this member's changes.
    leader_answers: Rc<RefCell<Vec<(u64, LeaderAnswer)>>>,
    /// Followers that wait for this member's word, by the key that `calls` knows them by.
    followers: BTreeMap<u64, CallReply>,
    last_follower: u64,
    /// Of this member's clients, for another leader.
    lease_questions: Asking,
    /// How calls with such questions ended, by their numbers.
    lease_replies: LeaseReplies,
    /// Of other members' clients, for this leader.
    served_leases: Serving<peer::Reply>,
    /// What the log was last told to keep.
    kept: Kept,
    /// The oldest append that is not durable: its number and the tick it left at.
    unsynced: VecDeque<(u64, u64)>,
    /// Ticks of the clock that were not taken yet.
    due_ticks: Rc<Cell<u32>>,
    ticks: u64,
    /// When this member's record was proposed last, if it may be on its way.
    published_tick: Option<u64>,
    /// When to run for leader ahead of the election timeout.
    candidacy: Candidacy,
    hand_over: HandOver,
    observed: Observed,
    appends: Appends,
    is_removed: bool,
    is_stopping: bool,
    is_log_closed: bool,
}

/// The way of leadership to another member before this one stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandOver {
    NotAsked,
    /// Until this tick at most.
    Until(u64),
    Done,
}

/// What came of calls about leases, by their numbers; None for nothing.
type LeaseReplies = Rc<RefCell<VecDeque<(u64, Option<Bytes>)>>>;

/// Where events come from.
struct Source {
    /// Whether the role has to wake up for it.
    is_pending: fn(&RaftRole) -> bool,
    /// Takes all there is, if there is anything.
    take: fn(&mut RaftRole),
}

/// All sources, in the order of a turn.
const SOURCES: [Source; 14] = [
    Source { is_pending: |role| 0 < role.due_ticks.get(), take: RaftRole::take_ticks },
    Source {
        is_pending: |role| role.ports.inbox.iter().any(|ring| !ring.is_empty()),
        take: RaftRole::take_messages,
    },
    Source { is_pending: |role| role.transport.has_event(), take: RaftRole::take_peer_events },
    Source { is_pending: |role| role.transfers.has_event(), take: RaftRole::take_sent_checkpoints },
    Source { is_pending: RaftRole::is_candidacy_due, take: RaftRole::run_if_due },
    // Follows from ticks and from who leads.
    Source { is_pending: |_| false, take: RaftRole::publish },
    Source { is_pending: |role| !role.leader_answers.borrow().is_empty(), take: RaftRole::call_members },
    Source {
        is_pending: |role| !role.lease_replies.borrow().is_empty(),
        take: RaftRole::pass_on_lease_questions,
    },
    Source { is_pending: RaftRole::has_to_compare, take: RaftRole::compare_data },
    Source { is_pending: RaftRole::is_asked_to_hand_over, take: RaftRole::hand_over },
    Source { is_pending: |role| !role.parts.log_events.is_empty(), take: RaftRole::take_log_events },
    Source { is_pending: |role| role.parts.log_reader.has_answer(), take: RaftRole::take_fetched },
    Source { is_pending: |role| !role.ports.scrapes.is_empty(), take: RaftRole::answer_scrapes },
    Source { is_pending: RaftRole::is_asked_to_stop, take: RaftRole::begin_to_stop },
];

impl RaftRole {
    /// Takes its seat. Its own record is proposed as soon as there is a leader.
    ///
    /// # Errors
    /// When the log cannot be continued, or an address not be listened on.
    pub(in crate::shell) fn new(
        seat: Seat,
        ports: RaftPorts,
        on_news: impl Fn(RaftNews) + 'static,
    ) -> Result<Self, RaftStartError> {
        let Seat { settings, parts, .. } = seat;
        let replica = Replica::new(seat.replica, seat.recovered)?;
        let transport = Transport::new(seat.peers, ports.bell.clone());
        for (is_secured, held) in seat.held {
            let address = held.address().clone();
            let listener = held.listen().map_err(|error| RaftStartError::Listen(address, error))?;
            transport.listen(listener, is_secured);
        }
        let transfers = Transfers::new(seat.checkpoints, seat.checkpoint, seat.helpers, ports.bell.clone());
        let checks = HashChecks::new(seat.hash_checks, Rc::clone(&transport), ports.bell.clone());
        let status = replica.status();
        let facts = Facts {
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            is_learner: false,
            in_touch: false,
        };
        Ok(Self {
            settings,
            parts,
            ports,
            replica,
            transport,
            transfers,
            checks,
            on_news: Box::new(on_news),
            facts,
            cluster: None,
            promotions: Promotions::default(),
            calls: MemberCalls::new(settings.strict, settings.learners_max),
            format_gate: FormatGate::new(settings.format_level_max),
            waiting_for_level: VecDeque::new(),
            leader_answers: Rc::default(),
            followers: BTreeMap::new(),
            last_follower: 0,
            lease_questions: Asking::default(),
            lease_replies: Rc::default(),
            served_leases: Serving::new(),
            kept: Kept::new(settings.catch_up_entries),
            unsynced: VecDeque::new(),
            due_ticks: Rc::default(),
            ticks: 0,
            published_tick: None,
            candidacy: Candidacy::default(),
            hand_over: HandOver::NotAsked,
            observed: Observed::new(),
            appends: Appends::default(),
            is_removed: false,
            is_stopping: false,
            is_log_closed: false,
        })
    }

    /// Runs until stopped; then everything in the log is durable and the log is closed.
    pub(in crate::shell) async fn run(mut self) {
        let ticker = {
            let (ticks, bell, tick) =
                (Rc::clone(&self.due_ticks), self.ports.bell.clone(), self.settings.tick);
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(tick).await;
                    ticks.set(ticks.get() + 1);
                    bell.ring();
                }
            })
        };
        loop {
            for source in &SOURCES {
                (source.take)(&mut self);
            }
            self.carry_out();
            self.fetch();
            let is_waiting_for_room = self.ring();
            if self.is_log_closed {
                break;
            }
            if is_waiting_for_room {
                glommio::executor().yield_now().await;
                continue;
            }
            self.ports.bell.wait(|| SOURCES.iter().any(|source| (source.is_pending)(&self))).await;
        }
        ticker.cancel().await;
        self.transport.stop().await;
    }

    fn take_ticks(&mut self) {
        let due = self.due_ticks.take();
        // The heartbeats of all ticks but the last one leave late.
        if 1 < due && self.facts.leader == Some(self.replica.id()) {
            self.observed.late_heartbeats.add(u64::from(due - 1));
        }
        for _tick in 0..due {
            self.on_tick();
        }
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.replica.on_tick();
        self.raise_format_level();
        self.keep_log();
        self.tell_waiting();
        if let Some(oldest) = self.ticks.checked_sub(self.replica.request_timeout_ticks()) {
            for ticket in self.lease_questions.expire(oldest) {
                self.refuse(ticket, Refusal::NoLeader);
            }
        }
        self.give_way_if_stalled();
        self.ping_if_due();
    }

    fn take_messages(&mut self) {
        for slot in 0..self.ports.inbox.len() {
            while let Some(message) = self.ports.inbox[slot].take() {
                match message {
                    ToRaft::Command { ticket, command } => self.on_command(ticket, command),
                    ToRaft::LeaseAnswer { number, result } => self.answer_other_member(number, result),
                    ToRaft::Members { cluster } => self.on_members(cluster),
                    ToRaft::FormatLevel(level) => self.on_format_level(level),
                    ToRaft::Verdict { index, accepted } => self.on_verdict(index, accepted),
                    ToRaft::Answer(reply) => self.reply(reply),
                    ToRaft::Applied { index } => {
                        self.transfers.on_applied(index);
                        self.replica.on_applied(index);
                    }
                    ToRaft::Checkpointed { meta, bytes } => self.on_checkpointed(meta, bytes),
                }
            }
        }
    }

    fn on_command(&mut self, ticket: Ticket, command: Command) {
        if let Command::Propose { kind, .. } = &command
            && !self.allows(*kind)
        {
            return self.wait_for_level(ticket, command);
        }
        match command {
            Command::Propose { kind, body, login } => {
                let taken = match self.parts.quota.admits(kind, &body) {
                    true => self.replica.on_request(ticket, kind, body, login.as_deref()),
                    false => Err(Refusal::NoSpace),
                };
                if let Err(refusal) = taken {
                    self.refuse(ticket, refusal);
                }
            }
            Command::Read(read) => self.on_read(ticket, read),
            Command::Member(call) => self.calls.push(ticket, call, self.ticks),
            Command::AppendStats => {
                let body = self.appends.stats();
                let outcome = Ok(Response { body, ..Response::default() });
                let answer = Answer { term: self.facts.term, outcome };
                self.reply(Reply { ticket, result: Ok(answer) });
            }
        }
    }

    fn request_timeout(&self) -> Duration {
        self.settings
            .tick
            .saturating_mul(u32::try_from(self.replica.request_timeout_ticks()).unwrap_or(u32::MAX))
    }

    fn take_log_events(&mut self) {
        while let Some(event) = self.parts.log_events.take() {
            match event {
                LogEvent::Durable { number } => {
                    while self.unsynced.front().is_some_and(|(unsynced, _)| *unsynced <= number) {
                        self.unsynced.pop_front();
                    }
                    self.replica.on_durable(number);
                }
                LogEvent::OutOfSpace => self.replica.on_space(Space::Exhausted),
                LogEvent::SpaceReturned => self.replica.on_space(Space::Ample),
                LogEvent::Released { through } => {
                    self.replica.node_mut().on_log_released(LogIndex(through));
                }
                LogEvent::Stopped => self.is_log_closed = true,
            }
        }
    }

    fn is_asked_to_stop(&self) -> bool {
        !self.is_stopping && self.parts.orders.stop.load(Ordering::Acquire)
    }

    fn begin_to_stop(&mut self) {
        if self.is_asked_to_stop() {
            self.is_stopping = true;
            self.replica.stop();
            // What is under way goes into the log before it closes.
            self.carry_out();
            self.parts.log.send(LogCommand::Stop);
        }
    }

    fn carry_out(&mut self) {
        while let Some(ready) = self.replica.take_ready() {
            let Ready { raft, reads, reads_index: _, refused_requests, refused_reads } = ready;
            if let Some(raft) = raft {
                self.carry_out_raft(raft);
            }
            if !reads.is_empty() {
                self.ports.to_store.send_always(ToStore::Confirmed { reads });
            }
            for (ticket, refusal) in refused_requests {
                self.refuse(ticket, refusal);
            }
            self.observed.failed_reads.add(refused_reads.len() as u64);
            for ((ticket, _query), refusal) in refused_reads {
                self.refuse(ticket, refusal);
            }
        }
    }

    fn carry_out_raft(&mut self, ready: raft::Ready) {
        for message in ready.messages {
            if message.kind() == MessageKind::Snapshot {
                self.transfers.send(&self.transport, message);
            } else {
                let is_sent = self.transport.send(&message);
                self.appends.on_sent(&message, is_sent);
                if !is_sent {
                    self.replica.on_unsent(&message);
                }
            }
        }
        let installed = ready.checkpoint.map(|meta| self.install(meta));
        if ready.must_sync {
            self.unsynced.push_back((ready.number, self.ticks));
            self.transfers.load().on_append(bytes_in_log(&ready.entries));
            if let Some(last) = ready.entries.last()
                && self.facts.leader == Some(self.replica.id())
            {
                self.observed.on_appended(last.index);
            }
            self.parts.log.send(LogCommand::Append {
                number: ready.number,
                hard_state: ready.hard_state.map(hard_state_to_wal),
                entries: ready.entries.into_iter().map(entry_to_wal).collect(),
            });
        }
        if let Some(through) = installed {
            // Behind the append that makes the reset speak for itself.
            self.release_log(through);
        }
        self.facts.committed = self.replica.status().committed;
        self.observed.on_committed(self.facts.committed);
        if let Some(leadership) = ready.leadership {
            self.facts.leader = leadership.leader;
            self.facts.term = leadership.term;
            self.observed.on_leader(leadership.leader);
            if leadership.leader.is_some() {
                self.candidacy.end();
            }
            if leadership.state != raft::RaftState::Leader {
                self.transfers.stop_sending();
                self.appends.stop_leading();
                self.observed.stop_leading();
            }
            tracing::info!(
                role = ?leadership.state,
                term = leadership.term.0,
                leader = leadership.leader.map(|leader| leader.to_string()),
                "raft leadership"
            );
            self.tell_facts();
            self.turn_to_new_leader();
        }
        if !ready.committed.is_empty() {
            let message = ToStore::Committed { entries: ready.committed, facts: self.facts };
            self.ports.to_store.send_always(message);
        }
        if self.replica.node().take_checkpoint_wanted() {
            self.ports.to_store.send_always(ToStore::CheckpointWanted);
        }
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        match ticket.caller() {
            Caller::PassedOn(number) => self.answer_other_member(number, Err(refusal)),
            Caller::Publish => self.published_tick = None,
            Caller::Lease(number) => self.ports.to_store.send_always(ToStore::LeaseRefused { number }),
            Caller::Node(number) => self.ports.to_store.send_always(ToStore::NodeRefused { number }),
            Caller::Compaction(number) => {
                self.ports.to_store.send_always(ToStore::CompactionRefused { number, refusal });
            }
            Caller::Client(_) | Caller::Raft(_) => self.reply(Reply { ticket, result: Err(refusal) }),
            Caller::Nobody => {}
        }
    }

    fn reply(&self, reply: Reply) {
        match reply.ticket.caller() {
            Caller::Raft(number) => self.checks.on_answer(number, reply.result),
            Caller::Client(call) => {
                if let Some(sender) = self.ports.to_shards.get(usize::from(call.shard)) {
                    sender.send_always(ToShard::Reply(reply));
                }
            }
            Caller::Publish
            | Caller::Lease(_)
            | Caller::Node(_)
            | Caller::PassedOn(_)
            | Caller::Compaction(_)
            | Caller::Nobody => {}
        }
    }

    /// Rings every role that was sent something; whether anything still waits for room.
    fn ring(&self) -> bool {
        let mut is_waiting = self.ports.to_store.ring();
        for sender in &self.ports.to_shards {
            is_waiting |= sender.ring();
        }
        is_waiting
    }
}
