//! The raft role's executor: feeds the replica and does what it asks.
//!
//! Decides nothing about consensus. Each turn takes everything that waits (requests, reads, messages of
//! other members, completions of the log, ticks), then carries out every `Ready`, then rings the other
//! roles once.
//! Order that matters: messages leave before the entries they carry are appended here, so followers
//! sync while this member does; committed entries and the reads released behind them leave on one ring
//! to the store, in this order, so the store answers a read when it comes to it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pinion_wal as wal;
use prost::Message as _;

use super::checkpoint_transfer::{Arrived, Transfers};
use super::hash_checks::{self, CALL_HASH_KV, HashCheckConfig, HashChecks, Occasion};
use super::log_writer::{LogCommand, LogEvent, LogHandle};
use super::member_calls::{MemberCalls, Standing};
use super::mesh::SharedRing;
use super::peer::{IncomingCall, PeerEvent, Transport};
use super::wiring::RaftPorts;
use super::{PUBLISH_TICKET, lease_number, raft_number, raft_ticket, shard_of};
use crate::apply::{Alarm, AlarmType, RequestKind, Response};
use crate::config::Url;
use crate::membership::Cluster;
use crate::peer::{Refusal as Refused, RefusalCode};
use crate::raft::{self, CheckpointMeta, Entry, HardState, MessageKind};
use crate::replica::exchange::{Answer, Facts, Query, Refusal, Reply, ToRaft, ToShard, ToStore};
use crate::replica::{Ready, Replica, Space};
use crate::types::{LogIndex, MemberId, Ticket};

/// A call between members: who belongs to the cluster, as `pinion.peer.v1.Membership`.
pub(super) const CALL_MEMBERS: u32 = 1;

/// A linearizable read that waits: its caller and what it asks.
pub(super) type WaitingRead = (Ticket, Query);

/// The most that members stagger their candidacies when the leader's process has ended: without it
/// they would all ask each other at once and split the vote.
const CANDIDACY_SPREAD: Duration = Duration::from_millis(60);

/// How long a peer has been connected before a membership change counts on it; etcd's.
const IN_TOUCH_TIME: Duration = Duration::from_secs(5);

/// What the raft role starts from.
pub(super) struct Seat {
    pub replica: Replica<WaitingRead>,
    pub ports: RaftPorts,
    pub log: LogHandle,
    pub log_events: Arc<SharedRing<LogEvent>>,
    pub transport: Rc<Transport>,
    pub transfers: Transfers,
    /// This member's `PublishMember`.
    pub publish: Bytes,
    pub orders: RaftOrders,
    /// `--strict-reconfig-check`
    pub strict: bool,
    pub tick: Duration,
    /// Ticks without a leader before an election; a log that syncs nothing for as long costs the
    /// leadership.
    pub election_ticks: u64,
    /// Differs between members and starts.
    pub entropy: u64,
    pub hash_checks: HashCheckConfig,
    /// This member's data was compared with the others' (`RaftOrders::compare`): it may serve, or why not.
    pub on_compared: Box<dyn Fn(Result<(), String>)>,
    pub on_handed_over: Box<dyn Fn()>,
    /// The cluster has gone on without this member.
    pub on_removed: Box<dyn Fn()>,
}

/// What the process tells the raft role. Each flag comes with a ring of the role's bell.
#[derive(Debug, Clone, Default)]
pub(super) struct RaftOrders {
    /// Give leadership away, if this member has it; `Seat::on_handed_over` is called when that is done or
    /// cannot be.
    pub hand_over: Arc<AtomicBool>,
    /// Compare this member's data with the others'; `Seat::on_compared` is called then.
    pub compare: Arc<AtomicBool>,
    /// Close the log and end.
    pub stop: Arc<AtomicBool>,
}

/// The raft role.
pub(super) struct Consensus {
    replica: Replica<WaitingRead>,
    ports: RaftPorts,
    log: LogHandle,
    log_events: Arc<SharedRing<LogEvent>>,
    transport: Rc<Transport>,
    transfers: Transfers,
    publish: Bytes,
    /// It is neither on its way nor applied.
    must_publish: Cell<bool>,
    facts: Facts,
    cluster: Option<Box<Cluster>>,
    calls: MemberCalls,
    orders: RaftOrders,
    tick: Duration,
    election_ticks: u64,
    ticks: u64,
    /// The oldest append that is not durable: its number and the tick it left at.
    unsynced: std::collections::VecDeque<(u64, u64)>,
    /// When to run for leader ahead of the election timeout.
    candidacy: Option<Instant>,
    entropy: u64,
    checks: HashChecks,
    on_compared: Box<dyn Fn(Result<(), String>)>,
    hand_over: HandOver,
    on_handed_over: Box<dyn Fn()>,
    on_removed: Box<dyn Fn()>,
}

/// The way of leadership to another member before this one stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HandOver {
    NotAsked,
    /// Until this tick at most.
    Until(u64),
    Done,
}

impl Consensus {
    /// `publish` is proposed as soon as there is a leader.
    #[must_use]
    pub(super) fn new(seat: Seat) -> Self {
        let Seat { replica, ports, log, log_events, transport, transfers, publish, .. } = seat;
        let status = replica.status();
        let checks = HashChecks::new(seat.hash_checks, Rc::clone(&transport), ports.bell.clone());
        let facts = Facts {
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            is_learner: false,
        };
        Self {
            replica,
            ports,
            log,
            log_events,
            transport,
            transfers,
            publish,
            must_publish: Cell::new(true),
            facts,
            cluster: None,
            calls: MemberCalls::new(seat.strict),
            orders: seat.orders,
            tick: seat.tick,
            election_ticks: seat.election_ticks,
            ticks: 0,
            unsynced: std::collections::VecDeque::new(),
            candidacy: None,
            entropy: seat.entropy,
            checks,
            on_compared: seat.on_compared,
            hand_over: HandOver::NotAsked,
            on_handed_over: seat.on_handed_over,
            on_removed: seat.on_removed,
        }
    }

    /// Runs until stopped; then everything in the log is durable and the log is closed.
    pub(super) async fn run(mut self) {
        let ticks = Rc::new(Cell::new(0_u32));
        let ticker = {
            let (ticks, bell, tick) = (Rc::clone(&ticks), self.ports.bell.clone(), self.tick);
            glommio::spawn_local(async move {
                loop {
                    glommio::timer::sleep(tick).await;
                    ticks.set(ticks.get() + 1);
                    bell.ring();
                }
            })
        };
        let mut is_stopping = false;
        loop {
            for _tick in 0..ticks.take() {
                self.on_tick();
            }
            self.take_messages();
            self.take_peer_events();
            self.run_if_due();
            self.publish();
            self.call_members();
            self.compare_data();
            self.hand_over();
            let is_log_closed = self.take_log_events();
            self.carry_out();
            let is_waiting_for_room = self.ring();
            if is_log_closed {
                break;
            }
            if self.orders.stop.load(Ordering::Acquire) && !is_stopping {
                is_stopping = true;
                self.replica.stop();
                self.carry_out();
                self.ring();
                self.log.send(LogCommand::Stop);
            }
            if is_waiting_for_room {
                glommio::executor().yield_now().await;
                continue;
            }
            let (inbox, log_events, orders) = (&self.ports.inbox, &self.log_events, &self.orders);
            let transport = &self.transport;
            let is_asked = self.hand_over != HandOver::NotAsked;
            let transfers = &self.transfers;
            self.ports
                .bell
                .wait(|| {
                    ticks.get() > 0
                        || !log_events.is_empty()
                        || transport.has_event()
                        || transfers.has_event()
                        || self.checks.has_work()
                        || (self.checks.may_start() && orders.compare.load(Ordering::Acquire))
                        || inbox.iter().any(|ring| !ring.is_empty())
                        || self.candidacy.is_some_and(|at| at <= Instant::now())
                        || (!is_asked && orders.hand_over.load(Ordering::Acquire))
                        || (!is_stopping && orders.stop.load(Ordering::Acquire))
                })
                .await;
        }
        ticker.cancel().await;
        self.transport.stop().await;
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.replica.on_tick();
        // A leader whose disk stalls commits nothing and deposes nobody, because its heartbeats need
        // no disk. It gives way to a member whose disk works.
        if let Some((_, since)) = self.unsynced.front()
            && since + self.election_ticks <= self.ticks
            && (self.ticks - since).is_multiple_of(self.election_ticks)
            && let Some(successor) = self.replica.node().successor()
        {
            tracing::warn!(
                ticks = self.ticks - since,
                successor = %successor,
                "the log has synced nothing for an election timeout: handing leadership over"
            );
            self.replica.node_mut().transfer_leader(successor);
        }
    }

    fn take_messages(&mut self) {
        for slot in 0..self.ports.inbox.len() {
            while let Some(message) = self.ports.inbox[slot].take() {
                match message {
                    ToRaft::Propose { ticket, kind, body } => {
                        if let Err(refusal) = self.replica.on_request(ticket, kind, &body) {
                            self.refuse(ticket, refusal);
                        }
                    }
                    ToRaft::Read { ticket, query } => {
                        if let Err((read, refusal)) = self.replica.on_read((ticket, query)) {
                            self.refuse(read.0, refusal);
                        }
                    }
                    ToRaft::Member { ticket, call } => self.calls.push(ticket, call, self.ticks),
                    ToRaft::Members { cluster } => self.on_members(cluster),
                    ToRaft::Verdict { index, accepted } => self.on_verdict(index, accepted),
                    ToRaft::Answer(reply) => self.reply(reply),
                    ToRaft::Applied { index } => self.replica.on_applied(index),
                    ToRaft::Checkpointed { meta } => {
                        self.log.send(LogCommand::Release { through: meta.index.0 });
                        self.transfers.on_checkpoint(meta.index);
                        self.replica.on_checkpoint(meta);
                    }
                }
            }
        }
    }

    fn on_members(&mut self, cluster: Box<Cluster>) {
        let own = self.replica.id();
        let others = cluster.members().filter(|member| member.id != own);
        self.transport.set_peers(others.map(|member| {
            // A URL that this version cannot dial is another member's way to it.
            let urls = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok());
            (member.id, urls.collect::<Vec<Url>>())
        }));
        self.transport.set_removed(cluster.removed());
        if cluster.is_removed(own) {
            tracing::warn!("this member was removed from the cluster");
            (self.on_removed)();
        }
        self.facts.is_learner = cluster.member(own).is_some_and(|member| member.learner);
        self.cluster = Some(cluster);
        self.tell_facts();
    }

    fn on_verdict(&mut self, index: LogIndex, accepted: bool) {
        // The cluster's own rules are stricter than raft's, so raft has nothing left to refuse.
        if let Err(refused) = self.replica.on_conf_change(index, accepted) {
            panic!("raft refuses the membership change at {index:?} that the cluster accepted: {refused}");
        }
        self.calls.on_change_applied();
    }

    fn take_peer_events(&mut self) {
        while let Some(event) = self.transport.take_event() {
            match event {
                PeerEvent::Message(message) => self.on_message(message),
                PeerEvent::Up(member) => tracing::debug!(%member, "peer connected"),
                PeerEvent::Down { member, reset } => self.on_down(member, reset),
                PeerEvent::Unreachable(member) => self.replica.node_mut().on_unreachable(member),
                PeerEvent::Refused { by, refusal } => self.on_refused(by, &refusal),
                PeerEvent::Call(call) => self.on_call(call),
                PeerEvent::Bulk(reader) => self.transfers.receive(reader),
            }
        }
        while let Some(sent) = self.transfers.take_sent() {
            self.replica.node_mut().on_checkpoint_sent(sent.peer, sent.arrived);
            if let Some(message) = sent.message.filter(|_| sent.arrived) {
                self.transport.send(&message);
            }
        }
    }

    /// Another member does not want to talk to this one. One reason is final.
    fn on_refused(&mut self, by: MemberId, refusal: &Refused) {
        if refusal.code != RefusalCode::Removed {
            return;
        }
        tracing::error!(
            %by,
            reason = refusal.reason,
            "this member was removed from the cluster and cannot come back. To join again, add a member and \
             start it with an empty data directory"
        );
        (self.on_removed)();
    }

    fn on_call(&mut self, call: IncomingCall) {
        match call.kind {
            CALL_MEMBERS => match &self.cluster {
                Some(cluster) => call.reply.succeed(cluster.encode().into()),
                None => call.reply.fail("this member is still starting"),
            },
            CALL_HASH_KV => self.checks.on_call(call),
            kind => call.reply.fail(&format!("call of kind {kind}, which this version does not know")),
        }
    }

    fn on_message(&mut self, message: raft::Message) {
        // A checkpoint's content comes first, on a lane of its own; what has none yet is asked again.
        if let Some(meta) = message.checkpoint()
            && !self.transfers.has_arrived(&meta)
        {
            tracing::debug!(index = meta.index.0, "checkpoint announced that did not arrive");
            return;
        }
        let (from, kind) = (message.from(), message.kind());
        if let Err(error) = self.replica.on_message(message) {
            match error {
                raft::StepError::LogLost { .. } => {
                    tracing::error!(%from, %error, "this member's log lacks what it once acknowledged; it must not take part. \
                        Remove the member from the cluster and add it again with an empty data directory");
                    std::process::exit(super::EXIT_LOG_LOST);
                }
                _ => tracing::debug!(%from, ?kind, %error, "raft message not taken"),
            }
        }
    }

    /// A connection is gone. The end of the leader's process is news worth acting on at once.
    fn on_down(&mut self, member: MemberId, reset: bool) {
        self.replica.node_mut().on_unreachable(member);
        if !reset || self.facts.leader != Some(member) || self.facts.is_learner {
            return;
        }
        self.replica.node_mut().forget_leader(member);
        let spread = CANDIDACY_SPREAD.as_micros();
        let drawn = u128::from(mix(self.entropy ^ self.ticks ^ self.replica.id().0)) % spread;
        let delay = Duration::from_micros(u64::try_from(drawn).expect("below the spread"));
        self.candidacy = Some(Instant::now() + delay);
        let bell = self.ports.bell.clone();
        glommio::spawn_local(async move {
            glommio::timer::sleep(delay).await;
            bell.ring();
        })
        .detach();
        tracing::info!(leader = %member, delay_us = drawn as u64, "the leader's connection ended");
    }

    /// Runs for leader when that is due and nobody else leads by now.
    fn run_if_due(&mut self) {
        if self.candidacy.is_some_and(|at| at <= Instant::now()) {
            self.candidacy = None;
            if self.replica.status().leader.is_none() {
                self.replica.node_mut().campaign();
            }
        }
    }

    /// Proposes this member's own record once somebody leads and the replay leaves room: a long log
    /// that is still being applied counts as a backlog like any other.
    fn publish(&mut self) {
        if self.facts.leader.is_some() && self.must_publish.get() {
            let proposed = self.replica.on_request(PUBLISH_TICKET, RequestKind::PublishMember, &self.publish);
            self.must_publish.set(proposed.is_err());
        }
    }

    /// Carries out calls about the members, as far as they can be now.
    fn call_members(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let own = self.replica.id();
        let standing = Standing {
            cluster,
            own,
            ticks: self.ticks,
            in_touch: &|member| {
                let since = self.transport.connected_since(member);
                member == own || since.is_some_and(|since| IN_TOUCH_TIME <= since.elapsed())
            },
        };
        for (ticket, outcome) in self.calls.advance(&mut self.replica, &standing) {
            let result = outcome.map(|()| Answer { term: self.facts.term, outcome: Ok(Response::default()) });
            self.reply(Reply { ticket, result });
        }
    }

    /// Carries comparisons of data on: begins them, gives their reads to the store, acts on what they find.
    fn compare_data(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let own = self.replica.id();
        let leads = self.facts.leader == Some(own);
        let others = || cluster.members().map(|member| member.id).filter(|id| *id != own).collect();
        // One that is under way goes first; this one is asked for again.
        if self.orders.compare.load(Ordering::Acquire) && self.checks.may_start() {
            self.orders.compare.store(false, Ordering::Release);
            self.checks.start(Occasion::Start, own, others());
        }
        if let Some(occasion) = self.checks.take_due().filter(|_| leads) {
            self.checks.start(occasion, own, others());
        }
        while let Some(asked) = self.checks.take_asked() {
            if !asked.linearizable {
                self.ports.to_store.send_always(ToStore::Read { ticket: asked.ticket, query: asked.query });
            } else if let Err((read, refusal)) = self.replica.on_read((asked.ticket, asked.query)) {
                self.refuse(read.0, refusal);
            }
        }
        if let Some((occasion, found)) = self.checks.take_found() {
            let verdict = hash_checks::report(occasion, own, &found);
            if occasion == Occasion::Start {
                (self.on_compared)(verdict);
            } else if let Ok(findings) = found {
                findings.suspects().into_iter().for_each(|member| self.raise_corrupt(member));
            }
        }
    }

    fn raise_corrupt(&mut self, member: MemberId) {
        let request = Alarm { kind: AlarmType::Corrupt, member }.activation();
        let proposed = self.replica.on_request(raft_ticket(0), RequestKind::Alarm, &request.encode_to_vec());
        if let Err(refusal) = proposed {
            tracing::error!(%member, ?refusal, "the CORRUPT alarm could not be raised; the next check tries again");
        }
    }

    /// Gives leadership away when the process is about to end, so that nobody has to notice.
    fn hand_over(&mut self) {
        let until = match self.hand_over {
            HandOver::Done => return,
            HandOver::NotAsked if !self.orders.hand_over.load(Ordering::Acquire) => return,
            HandOver::NotAsked => self.ticks + self.election_ticks,
            HandOver::Until(until) => until,
        };
        self.hand_over = HandOver::Until(until);
        match self.replica.node().successor().filter(|_| self.ticks < until) {
            Some(successor) if !self.replica.node().is_transferring() => {
                tracing::info!(successor = %successor, "handing leadership over");
                self.replica.node_mut().transfer_leader(successor);
            }
            Some(_) => {}
            None => {
                self.hand_over = HandOver::Done;
                (self.on_handed_over)();
            }
        }
    }

    /// Whether the log has ended.
    fn take_log_events(&mut self) -> bool {
        while let Some(event) = self.log_events.take() {
            match event {
                LogEvent::Durable { number } => {
                    while self.unsynced.front().is_some_and(|(unsynced, _)| *unsynced <= number) {
                        self.unsynced.pop_front();
                    }
                    self.replica.on_durable(number);
                }
                LogEvent::OutOfSpace => self.replica.on_space(Space::Exhausted),
                LogEvent::SpaceReturned => self.replica.on_space(Space::Ample),
                LogEvent::Stopped => return true,
            }
        }
        false
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
                self.transport.send(&message);
            }
        }
        if let Some(meta) = ready.checkpoint {
            self.install(meta);
        }
        if ready.must_sync {
            self.unsynced.push_back((ready.number, self.ticks));
            self.log.send(LogCommand::Append {
                number: ready.number,
                hard_state: ready.hard_state.map(hard_state_to_wal),
                entries: ready.entries.into_iter().map(entry_to_wal).collect(),
            });
        }
        self.facts.committed = self.replica.status().committed;
        if let Some(leadership) = ready.leadership {
            self.facts.leader = leadership.leader;
            self.facts.term = leadership.term;
            if leadership.leader.is_some() {
                self.candidacy = None;
            }
            tracing::info!(
                role = ?leadership.role,
                term = leadership.term.0,
                leader = leadership.leader.map(|leader| leader.to_string()),
                "raft leadership"
            );
            self.tell_facts();
        }
        if !ready.committed.is_empty() {
            let message = ToStore::Committed { entries: ready.committed, facts: self.facts };
            self.ports.to_store.send_always(message);
        }
        if self.replica.node().take_checkpoint_wanted() {
            self.ports.to_store.send_always(ToStore::CheckpointWanted);
        }
    }

    /// A leader's checkpoint takes the place of state and log.
    fn install(&mut self, meta: CheckpointMeta) {
        let Arrived { machine } = self.transfers.take_arrived(&meta);
        tracing::info!(index = meta.index.0, term = meta.term.0, "installing the leader's checkpoint");
        self.log.send(LogCommand::Reset { after: meta.index.0, after_term: meta.term.0 });
        self.ports.to_store.send_always(ToStore::Install { meta, machine });
    }

    /// Tells store and shards who leads.
    fn tell_facts(&self) {
        self.ports.to_store.send_always(ToStore::Leadership { facts: self.facts });
        for sender in &self.ports.to_shards {
            sender.send_always(ToShard::Facts(self.facts));
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: Refusal) {
        if ticket == PUBLISH_TICKET {
            self.must_publish.set(true);
        }
        if lease_number(ticket).is_some() {
            self.ports.to_store.send_always(ToStore::Refused { ticket });
        }
        self.reply(Reply { ticket, result: Err(refusal) });
    }

    fn reply(&self, reply: Reply) {
        if raft_number(reply.ticket).is_some() {
            self.checks.on_answer(reply);
        } else if let Some(sender) = self.ports.to_shards.get(shard_of(reply.ticket)) {
            sender.send_always(ToShard::Reply(reply));
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

/// SplitMix64's finaliser.
fn mix(input: u64) -> u64 {
    let mut word = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// As the log writes it.
fn entry_to_wal(entry: Entry) -> wal::Entry {
    wal::Entry { index: entry.index.0, term: entry.term.0, kind: entry.kind.number(), data: entry.data }
}

fn hard_state_to_wal(state: HardState) -> wal::HardState {
    wal::HardState { term: state.term.0, vote: state.vote.map_or(0, |vote| vote.0), commit: state.commit.0 }
}
