//! The raft role's executor: feeds the replica and does what it asks.
//!
//! Decides nothing about consensus. Each turn takes everything that waits (requests, reads, messages of
//! other members, completions of the log, ticks), then carries out every `Ready`, then rings the other
//! roles once.
//! Order that matters: messages leave before the entries they carry are appended here, so followers
//! sync while this member does; committed entries and the reads released behind them leave on one ring
//! to the store, in this order, so the store answers a read when it comes to it.

pub(in crate::shell) mod checkpoint_transfer;
pub(in crate::shell) mod hash_checks;
mod kept;
pub(in crate::shell) mod lease_forward;
pub(in crate::shell) mod member_calls;

mod catch_up;
mod reads;
mod starting;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;

use self::kept::{Kept, bytes_in_log};
use crate::apply::{Alarm, AlarmType};
use crate::config::Url;
use crate::membership::{Cluster, MemberChange, Touch};
use crate::pb::peer as pb;
use crate::peer::{Refusal as Refused, RefusalCode};
use crate::raft::{self, MessageKind};
use crate::replica::exchange::{Facts, ToRaft, ToShard, ToStore};
use crate::replica::{Ready, Replica, Space};
use crate::request::{Answer, Query, Refusal, Reply, RequestKind, Response};
use crate::shell::log::entries::{entry_to_wal, hard_state_to_wal};
use crate::shell::log::reader::ReaderHandle;
use crate::shell::log::writer::{LogCommand, LogEvent, LogHandle};
use crate::shell::peer::{self, IncomingCall, PeerEvent, Reply as CallReply, Transport};
use crate::shell::runtime::exit::EXIT_LOG_LOST;
use crate::shell::runtime::logging::{self, rounded};
use crate::shell::runtime::mesh::{Doorbell, SharedRing};
use crate::shell::runtime::waiting::Waiting;
use crate::shell::runtime::wiring::RaftPorts;
use crate::shell::store::quota::Quota;
use crate::types::{Caller, LogIndex, MemberId, Ticket};
use checkpoint_transfer::Transfers;
use hash_checks::{CALL_HASH_KV, HashCheckConfig, HashChecks, Occasion};
use lease_forward::{Asking, CALL_LEASE, Serving};
use member_calls::{LeaderAnswer, MemberCalls, Standing, Told, refusal_number, refusal_of};

/// A call between members: who belongs to the cluster, as `pinion.peer.v1.Membership`.
pub(in crate::shell) const CALL_MEMBERS: u32 = 1;

/// A call to the leader: a membership change to propose, as `pinion.peer.v1.ConfChange`; answered with
/// `MemberChangeAnswer`.
const CALL_MEMBER_CHANGE: u32 = 2;

/// How long the leader may take for it; then it is asked again.
const MEMBER_CHANGE_TIMEOUT: Duration = Duration::from_secs(3);

const MEMBER_CHANGE_PAUSE: Duration = Duration::from_millis(50);

/// A linearizable read that waits: its caller and what it asks.
pub(in crate::shell) type WaitingRead = (Ticket, Query);

/// The most that members stagger their candidacies when the leader's process has ended: without it
/// they would all ask each other at once and split the vote.
const CANDIDACY_SPREAD: Duration = Duration::from_millis(60);

/// How long a peer has been connected before a membership change counts on it; etcd's.
const IN_TOUCH_TIME: Duration = Duration::from_secs(5);

/// What the raft role starts from.
pub(in crate::shell) struct Seat {
    pub replica: Replica<WaitingRead>,
    pub ports: RaftPorts,
    pub log: LogHandle,
    pub log_events: Arc<SharedRing<LogEvent>>,
    pub log_reader: ReaderHandle,
    pub transport: Rc<Transport>,
    pub transfers: Transfers,
    /// This member's `PublishMember`.
    pub publish: Bytes,
    /// The store has applied it.
    pub is_published: Arc<AtomicBool>,
    /// Told what the start waits for until then.
    pub waiting: Waiting,
    pub orders: RaftOrders,
    /// `--strict-reconfig-check`
    pub strict: bool,
    /// `--snapshot-catchup-entries`
    pub catch_up_entries: u64,
    /// `--max-learners`
    pub learners_max: u32,
    pub tick: Duration,
    /// Ticks without a leader before an election; a log that syncs nothing for as long costs the
    /// leadership.
    pub election_ticks: u64,
    /// Differs between members and starts.
    pub entropy: u64,
    pub hash_checks: HashCheckConfig,
    pub quota: Arc<Quota>,
    /// This member's data was compared with the others' (`RaftOrders::compare`): it may serve, or why not.
    pub on_compared: Box<dyn Fn(Result<(), String>)>,
    pub on_handed_over: Box<dyn Fn()>,
    /// The cluster has gone on without this member.
    pub on_removed: Box<dyn Fn()>,
}

/// What the process tells the raft role. Each flag comes with a ring of the role's bell.
#[derive(Debug, Clone, Default)]
pub(in crate::shell) struct RaftOrders {
    /// Give leadership away, if this member has it; `Seat::on_handed_over` is called when that is done or
    /// cannot be.
    pub hand_over: Arc<AtomicBool>,
    /// Compare this member's data with the others'; `Seat::on_compared` is called then.
    pub compare: Arc<AtomicBool>,
    /// Close the log and end.
    pub stop: Arc<AtomicBool>,
}

/// The raft role.
pub(in crate::shell) struct Consensus {
    replica: Replica<WaitingRead>,
    ports: RaftPorts,
    log: LogHandle,
    log_events: Arc<SharedRing<LogEvent>>,
    log_reader: ReaderHandle,
    /// What the log was last told to keep.
    kept: Kept,
    transport: Rc<Transport>,
    transfers: Transfers,
    publish: Bytes,
    is_published: Arc<AtomicBool>,
    waiting: Waiting,
    /// When it was proposed last, if it may be on its way.
    published_tick: Cell<Option<u64>>,
    facts: Facts,
    cluster: Option<Box<Cluster>>,
    calls: MemberCalls,
    /// What the leader said to this member's changes.
    leader_answers: Rc<RefCell<Vec<(u64, LeaderAnswer)>>>,
    /// Followers that wait for this member's word, by the key that `calls` knows them by.
    followers: BTreeMap<u64, CallReply>,
    last_follower: u64,
    is_removed: bool,
    /// Of this member's clients, for another leader.
    lease_questions: Asking,
    /// How calls with such questions ended, by their numbers.
    lease_replies: LeaseReplies,
    /// Of other members' clients, for this leader.
    served_leases: Serving<peer::Reply>,
    orders: RaftOrders,
    tick: Duration,
    election_ticks: u64,
    ticks: u64,
    /// The oldest append that is not durable: its number and the tick it left at.
    unsynced: VecDeque<(u64, u64)>,
    /// When to run for leader ahead of the election timeout.
    candidacy: Option<Instant>,
    entropy: u64,
    checks: HashChecks,
    quota: Arc<Quota>,
    on_compared: Box<dyn Fn(Result<(), String>)>,
    hand_over: HandOver,
    on_handed_over: Box<dyn Fn()>,
    on_removed: Box<dyn Fn()>,
}

/// What came of calls about leases, by their numbers; None for nothing.
type LeaseReplies = Rc<RefCell<VecDeque<(u64, Option<Bytes>)>>>;

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
    pub(in crate::shell) fn new(seat: Seat) -> Self {
        let Seat { replica, ports, log, log_events, transport, transfers, publish, .. } = seat;
        let status = replica.status();
        let checks = HashChecks::new(seat.hash_checks, Rc::clone(&transport), ports.bell.clone());
        let facts = Facts {
            leader: status.leader,
            term: status.term,
            committed: status.committed,
            is_learner: false,
            in_touch: false,
        };
        Self {
            replica,
            ports,
            log,
            log_events,
            log_reader: seat.log_reader,
            kept: Kept::new(seat.catch_up_entries),
            transport,
            transfers,
            publish,
            is_published: seat.is_published,
            waiting: seat.waiting,
            published_tick: Cell::new(None),
            facts,
            cluster: None,
            calls: MemberCalls::new(seat.strict, seat.learners_max),
            leader_answers: Rc::default(),
            followers: BTreeMap::new(),
            last_follower: 0,
            is_removed: false,
            orders: seat.orders,
            tick: seat.tick,
            election_ticks: seat.election_ticks,
            ticks: 0,
            unsynced: VecDeque::new(),
            lease_questions: Asking::default(),
            lease_replies: Rc::default(),
            served_leases: Serving::new(),
            candidacy: None,
            entropy: seat.entropy,
            checks,
            quota: seat.quota,
            on_compared: seat.on_compared,
            hand_over: HandOver::NotAsked,
            on_handed_over: seat.on_handed_over,
            on_removed: seat.on_removed,
        }
    }

    /// Runs until stopped; then everything in the log is durable and the log is closed.
    pub(in crate::shell) async fn run(mut self) {
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
            self.pass_on_lease_questions();
            self.compare_data();
            self.hand_over();
            let is_log_closed = self.take_log_events();
            self.take_fetched();
            self.carry_out();
            self.fetch();
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
            let (transfers, lease_replies) = (&self.transfers, &self.lease_replies);
            let leader_answers = &self.leader_answers;
            self.ports
                .bell
                .wait(|| {
                    ticks.get() > 0
                        || !log_events.is_empty()
                        || self.log_reader.has_answer()
                        || transport.has_event()
                        || transfers.has_event()
                        || !leader_answers.borrow().is_empty()
                        || !lease_replies.borrow().is_empty()
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
        self.keep_log();
        self.tell_waiting();
        if let Some(oldest) = self.ticks.checked_sub(self.replica.request_timeout_ticks()) {
            for ticket in self.lease_questions.expire(oldest) {
                self.refuse(ticket, Refusal::NoLeader);
            }
        }
        // A leader whose disk stalls commits nothing and deposes nobody, because its heartbeats need
        // no disk. It gives way to a member whose disk works.
        // Asked at every tick: raft forgets once in an election timeout whom it has heard of, and in that
        // tick knows no successor.
        if let Some((_, since)) = self.unsynced.front()
            && since + self.election_ticks <= self.ticks
            && !self.replica.node().is_transferring()
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
                        let taken = match self.quota.admits(kind, &body) {
                            true => self.replica.on_request(ticket, kind, &body),
                            false => Err(Refusal::NoSpace),
                        };
                        if let Err(refusal) = taken {
                            self.refuse(ticket, refusal);
                        }
                    }
                    ToRaft::Read { ticket, query } => self.on_read(ticket, query),
                    ToRaft::LeaseAnswer { number, result } => self.answer_other_member(number, result),
                    ToRaft::Member { ticket, call } => self.calls.push(ticket, call, self.ticks),
                    ToRaft::Members { cluster } => self.on_members(cluster),
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

    fn request_timeout(&self) -> Duration {
        self.tick.saturating_mul(u32::try_from(self.replica.request_timeout_ticks()).unwrap_or(u32::MAX))
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
            self.end_as_removed("this member has applied its removal from the cluster");
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
    }

    fn take_peer_events(&mut self) {
        while let Some(event) = self.transport.take_event() {
            match event {
                PeerEvent::Message(message) => self.on_message(message),
                PeerEvent::Up(member) => {
                    tracing::debug!(%member, "peer connected");
                    self.on_touch();
                }
                PeerEvent::Reconnected(member) => self.replica.on_reconnected(member),
                PeerEvent::Down { member, reset } => {
                    self.on_down(member, reset);
                    self.on_touch();
                }
                PeerEvent::Unreachable(member) => self.replica.node_mut().on_unreachable(member),
                PeerEvent::Refused { by, refusal } => self.on_refused(by, &refusal),
                PeerEvent::Call(call) => self.on_call(call),
                PeerEvent::Bulk(reader) => self.transfers.receive(reader),
            }
        }
        while let Some(sent) = self.transfers.take_sent() {
            self.replica.node_mut().on_checkpoint_sent(sent.peer, sent.arrived);
            if let Some(message) = sent.message.filter(|_| sent.arrived) {
                // Raft repeats it if it has to.
                let _is_sent = self.transport.send(&message);
            }
        }
    }

    /// Another member does not want to talk to this one. One reason is final.
    fn on_refused(&mut self, by: MemberId, refusal: &Refused) {
        match refusal.code {
            RefusalCode::Removed => self.end_as_removed(&refusal.reason),
            RefusalCode::DuplicateIdentity => tracing::error!(
                %by,
                reason = refusal.reason,
                "two processes run as one member: a data directory was copied. Stop the one that is not meant \
                 to be, and delete its data"
            ),
            _ => {}
        }
    }

    /// The cluster has gone on without this member, for ever.
    fn end_as_removed(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_removed, true) {
            tracing::error!(
                reason,
                "this member was removed from the cluster and cannot come back. To join again, add a member and \
                 start it with an empty data directory"
            );
            (self.on_removed)();
        }
    }

    fn on_call(&mut self, call: IncomingCall) {
        match call.kind {
            CALL_MEMBER_CHANGE => match MemberChange::decode(call.body) {
                // A change is answered on the member that made it, so nobody makes one for another.
                Ok(change) if change.origin.member == call.from => {
                    self.last_follower += 1;
                    self.followers.insert(self.last_follower, call.reply);
                    self.calls.push_change(self.last_follower, change, self.ticks);
                }
                Ok(_) => call.reply.fail("a change in the name of another member"),
                Err(error) => call.reply.fail(&error.to_string()),
            },
            CALL_MEMBERS => match &self.cluster {
                Some(cluster) => call.reply.succeed(cluster.encode().into()),
                None => call.reply.fail("this member is still starting"),
            },
            CALL_LEASE => self.serve_leases(call),
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
                raft::StepError::LogLost { .. } => logging::exit(EXIT_LOG_LOST, || {
                    tracing::error!(%from, %error, "this member's log lacks what it once \
                        acknowledged; it must not take part. Remove the member from the cluster and add it again with an \
                        empty data directory")
                }),
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
        let drawn = u128::from(raft::mix(self.entropy ^ self.ticks ^ self.replica.id().0)) % spread;
        let delay = Duration::from_micros(u64::try_from(drawn).expect("below the spread"));
        self.candidacy = Some(Instant::now() + delay);
        let bell = self.ports.bell.clone();
        glommio::spawn_local(async move {
            glommio::timer::sleep(delay).await;
            bell.ring();
        })
        .detach();
        tracing::info!(leader = %member, delay = rounded(delay), "the leader's connection ended");
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
        if self.is_published.load(Ordering::Acquire) || self.facts.leader.is_none() {
            return;
        }
        // A member that joins knows nobody until it has the leader's checkpoint.
        if self.replica.status().voters_count == 0 {
            return;
        }
        // One that went to a leader may have been lost with it.
        let patience = 2 * self.election_ticks;
        if self.published_tick.get().is_none_or(|tick| tick + patience <= self.ticks) {
            let proposed =
                self.replica.on_request(Caller::Publish.into(), RequestKind::PublishMember, &self.publish);
            self.published_tick.set(proposed.is_ok().then_some(self.ticks));
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
            touch: &|member| match self.transport.connected_since(member) {
                _ if member == own => Touch::Lasting,
                None => Touch::Lost,
                Some(since) if since.elapsed() < IN_TOUCH_TIME => Touch::Young,
                Some(_) => Touch::Lasting,
            },
            ask: &|id, leader, change| {
                let (transport, bell) = (Rc::clone(&self.transport), self.ports.bell.clone());
                ask_leader(transport, bell, Rc::clone(&self.leader_answers), (id, leader, change));
            },
        };
        for (id, answer) in self.leader_answers.take() {
            self.calls.on_leader_answer(id, answer);
        }
        let told = self.calls.advance(&mut self.replica, &standing);
        for told in told {
            match told {
                Told::Client(ticket, outcome) => {
                    let answer = Answer { term: self.facts.term, outcome: Ok(Response::default()) };
                    self.reply(Reply { ticket, result: outcome.map(|()| answer) });
                }
                Told::Follower(key, refusal) => {
                    let reply = self.followers.remove(&key).expect("one for each change");
                    let answer = pb::MemberChangeAnswer { refusal: refusal_number(refusal) };
                    reply.succeed(answer.encode_to_vec().into());
                }
            }
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
        let proposed =
            self.replica.on_request(Caller::Nobody.into(), RequestKind::Alarm, &request.encode_to_vec());
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
            // Until the new leader is known, what waits here has nowhere to go.
            None if self.facts.leader.is_none() && self.ticks < until => {}
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
                LogEvent::Released { through } => {
                    self.replica.node_mut().on_log_released(LogIndex(through));
                }
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
            } else if !self.transport.send(&message) {
                self.replica.on_unsent(&message);
            }
        }
        let installed = ready.checkpoint.map(|meta| self.install(meta));
        if ready.must_sync {
            self.unsynced.push_back((ready.number, self.ticks));
            self.transfers.load().on_append(bytes_in_log(&ready.entries));
            self.log.send(LogCommand::Append {
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
        if let Some(leadership) = ready.leadership {
            self.facts.leader = leadership.leader;
            self.facts.term = leadership.term;
            if leadership.leader.is_some() {
                self.candidacy = None;
            }
            if leadership.role != raft::Role::Leader {
                self.transfers.stop_sending();
            }
            tracing::info!(
                role = ?leadership.role,
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

    /// A connection came or went.
    fn on_touch(&mut self) {
        if self.facts.in_touch != self.is_in_touch() {
            self.tell_facts();
        }
    }

    fn is_in_touch(&self) -> bool {
        let (own, Some(cluster)) = (self.replica.id(), &self.cluster) else { return false };
        let is_connected = |member| member == own || self.transport.connected_since(member).is_some();
        match self.facts.leader {
            None => false,
            Some(leader) if leader == own => {
                let voters = || cluster.members().filter(|member| !member.learner);
                voters().count() < 2 * voters().filter(|member| is_connected(member.id)).count()
            }
            Some(leader) => is_connected(leader),
        }
    }

    /// Tells store and shards who leads.
    fn tell_facts(&mut self) {
        self.facts.in_touch = self.is_in_touch();
        self.ports.to_store.send_always(ToStore::Leadership { facts: self.facts });
        for sender in &self.ports.to_shards {
            sender.send_always(ToShard::Facts(self.facts));
        }
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        match ticket.caller() {
            Caller::PassedOn(number) => self.answer_other_member(number, Err(refusal)),
            Caller::Publish => self.published_tick.set(None),
            Caller::Lease(number) => self.ports.to_store.send_always(ToStore::LeaseRefused { number }),
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
            Caller::Publish | Caller::Lease(_) | Caller::PassedOn(_) | Caller::Nobody => {}
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

/// Sends a membership change to the leader, whose answer goes to `answers`.
fn ask_leader(
    transport: Rc<Transport>,
    bell: Doorbell,
    answers: Rc<RefCell<Vec<(u64, LeaderAnswer)>>>,
    (id, leader, change): (u64, MemberId, Bytes),
) {
    glommio::spawn_local(async move {
        let called = transport.call(leader, CALL_MEMBER_CHANGE, change, MEMBER_CHANGE_TIMEOUT).await;
        if let Err(error) = &called {
            tracing::debug!(%leader, %error, "a membership change did not reach the leader");
        }
        let answer = called.ok().and_then(|body| pb::MemberChangeAnswer::decode(body).ok());
        let answer = match answer.map(|answer| refusal_of(answer.refusal)) {
            Some(None) => LeaderAnswer::Proposed,
            Some(Some(refusal)) => LeaderAnswer::Refused(refusal),
            None => LeaderAnswer::Lost,
        };
        if matches!(answer, LeaderAnswer::Lost | LeaderAnswer::Refused(Refusal::NotLeader)) {
            // News of who leads is on its way; to ask again at once would only spin.
            glommio::timer::sleep(MEMBER_CHANGE_PAUSE).await;
        }
        answers.borrow_mut().push((id, answer));
        bell.ring();
    })
    .detach();
}
