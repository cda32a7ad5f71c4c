//! The raft role of a member: consensus, the requests on their way into it and the reads that wait
//! for it, joined.
//!
//! The shell feeds requests, reads, messages, ticks and completions, and does what `take_ready`
//! returns. Time is counted in ticks; nothing here blocks, allocates per tick, or knows a clock.
//!
//! Pipelining: up to `pipeline_depth` appends are on their way to the disk at once, and everything
//! that arrives meanwhile becomes the next one. With depth 1 a group is exactly what arrived during
//! the previous sync. A follower forwards what it has whenever it is asked for a `Ready`.
//!
//! A request has one outcome, however often leaders and connections change: what has none yet is
//! proposed again (`under_way`), and applied once (`apply::session`).
//!
//! Backpressure: refused with "too many requests" when more entries than `apply_gap_max` are
//! committed and not applied, or more bytes than `backlog_bytes_max` wait or are not applied, or more
//! reads than `reads_max` wait (urgent ones are counted apart). These bound the memory that clients can make a member hold.

use bytes::Bytes;
use prost::Message as _;

use super::proposals::Proposals;
use super::reads::Reads;
use super::under_way::{Given, UnderWay};
use crate::pb::peer as pb;
use crate::raft::{
    self, CheckpointMeta, ConfChange, ConfChangeRefused, EntryKind, Message, MessageKind, Node, ProposeError,
    RaftState, Recovered, StartError, Status, StepError,
};
use crate::request::group;
use crate::request::part::PART_BYTES_MAX;
use crate::request::{Login, Refusal, RequestKind};
use crate::rpc::method;
use crate::types::{Feature, FormatLevel, LogIndex, MemberId, Term, Ticket, limits};

/// A request of so many bytes goes in parts. Above the default of `--max-request-bytes`, and enough that parts are
/// worth their syncs.
const LARGE_BYTES_MIN: usize = 2 << 20;

/// Half of what a group holds at most: a sync of some hundred microseconds more than that of an empty one.
const PIPELINE_BYTES: usize = 512 << 10;

/// Most bytes of a request that is one entry, until all members read requests in parts: as much as the first
/// release took.
const WHOLE_BYTES_MAX: usize = 10 << 20;

/// A group stays open for this part of the request timeout at most, which is how much too early some of
/// its requests may be refused: a tick or so.
const GROUPS_PER_TIMEOUT: u64 = 64;

/// How the role behaves, beside consensus itself.
#[derive(Debug, Clone)]
pub struct Config {
    pub raft: raft::Config,
    /// Appends on their way to the disk at once. More than one pays where a sync's latency is mostly
    /// waiting and the disk takes several at a time; with one, groups are largest.
    pub pipeline_depth: usize,
    /// One append more than that may be on its way while so many bytes of groups wait: then the disk has the next one at
    /// once when it is done, where it would wait for the clients of the last one.
    pub pipeline_bytes: usize,
    /// Bytes of groups in one append; one group always fits.
    pub append_bytes_max: usize,
    /// Bytes of requests that wait or are not applied, above which new ones are refused.
    pub backlog_bytes_max: usize,
    /// A request of so many bytes goes in parts, once all members read them.
    pub large_bytes_min: usize,
    /// Bytes of a part; at most `part::PART_BYTES_MAX`.
    pub part_bytes: usize,
    /// Bytes of groups that a follower has given to the leader and that are not committed; what is above
    /// waits. All members together stay below what a leader takes (`raft::Config::uncommitted_bytes_max`).
    pub forwarded_bytes_max: usize,
    /// Entries committed and not applied, above which new requests are refused.
    pub apply_gap_max: u64,
    /// Linearizable reads that wait, above which new ones are refused.
    pub reads_max: usize,
    /// Ticks after which an unanswered ReadIndex round is asked again (etcd: 500 ms).
    pub read_retry_ticks: u64,
    /// Ticks after which what waits for a leader is refused; requests in the log are not recalled.
    pub request_timeout_ticks: u64,
}

impl Config {
    /// One append in flight, and etcd's timing in ticks of 100 ms: 5 s and two election timeouts.
    #[must_use]
    pub fn new(raft: raft::Config) -> Self {
        let request_timeout_ticks = 50 + 2 * raft.election_ticks as u64;
        Self {
            raft,
            pipeline_depth: 1,
            pipeline_bytes: PIPELINE_BYTES,
            append_bytes_max: 4 << 20,
            backlog_bytes_max: 64 << 20,
            large_bytes_min: LARGE_BYTES_MIN,
            part_bytes: PART_BYTES_MAX,
            forwarded_bytes_max: 8 << 20,
            apply_gap_max: limits::APPLY_GAP_MAX,
            reads_max: 100_000,
            read_retry_ticks: 5,
            request_timeout_ticks,
        }
    }
}

/// Room for the log on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Enough.
    Ample,
    /// Little: requests that add data are refused, so that those which free some find room.
    Scarce,
    /// None: nothing goes into the log.
    Exhausted,
}

/// What the shell does next, in this order.
#[must_use = "dropping a Ready loses entries the node counts on"]
#[derive(Debug)]
pub struct Ready<R> {
    /// Messages, log and committed entries; see there.
    pub raft: Option<raft::Ready>,
    /// Linearizable reads that may be answered by a state machine which has applied `reads_index`.
    /// That is at most the last committed entry handed out so far, so on one ring to the state
    /// machine, behind `raft.committed`, nothing is left to wait for.
    pub reads: Vec<R>,
    pub reads_index: LogIndex,
    /// Requests of this member that go nowhere.
    pub refused_requests: Vec<(Ticket, Refusal)>,
    /// Reads that go nowhere.
    pub refused_reads: Vec<(R, Refusal)>,
}

/// The raft role's state. `R` is what the caller keeps for a read that waits.
pub struct Replica<R> {
    node: Node,
    config: Config,
    proposals: Proposals,
    under_way: UnderWay,
    /// Nothing is proposed before this tick: something could not be sent.
    paused_until: u64,
    /// Who gets proposals: the leader of this term.
    leader: Option<(MemberId, Term)>,
    /// When it was first heard of.
    leader_tick: u64,
    reads: Reads<R>,
    space: Space,
    /// What may be written.
    format_level: FormatLevel,
    stopped: bool,
    /// Ticks since the start.
    tick: u64,
    refused_requests: Vec<(Ticket, Refusal)>,
    refused_reads: Vec<(R, Refusal)>,
}

impl<R> Replica<R> {
    /// The role on what the disk held; see `Node::new`.
    ///
    /// # Errors
    /// When the configuration contradicts itself or what was recovered does not add up.
    pub fn new(config: Config, recovered: Recovered) -> Result<Self, StartError> {
        if config.pipeline_depth == 0 {
            return Err(StartError::Config("the pipeline is at least one append deep".to_owned()));
        }
        let (id, incarnation) = (config.raft.id, config.raft.incarnation);
        Ok(Self {
            node: Node::new(&config.raft, recovered)?,
            proposals: Proposals::new(
                id,
                incarnation,
                config.request_timeout_ticks / GROUPS_PER_TIMEOUT,
                config.part_bytes,
            ),
            under_way: UnderWay::new(id, incarnation, config.raft.election_ticks as u64),
            config,
            paused_until: 0,
            leader: None,
            leader_tick: 0,
            reads: Reads::new(),
            space: Space::Ample,
            format_level: FormatLevel::LOWEST,
            stopped: false,
            tick: 0,
            refused_requests: Vec::new(),
            refused_reads: Vec::new(),
        })
    }

    /// A client's request, already validated. Its bytes are copied into the group that is open, or into their parts
    /// when those go.
    ///
    /// # Errors
    /// When the member cannot take it now; then it is in no log.
    pub fn on_request(
        &mut self,
        ticket: Ticket,
        kind: RequestKind,
        body: Bytes,
        login: Option<&Login>,
    ) -> Result<(), Refusal> {
        if self.stopped {
            return Err(Refusal::Stopped);
        }
        let refused_for_space = if method::adds_data(kind) { Space::Scarce } else { Space::Exhausted };
        if refused_for_space <= self.space {
            return Err(Refusal::NoSpace);
        }
        if self.config.apply_gap_max < self.node.apply_gap() {
            return Err(Refusal::TooManyRequests);
        }
        let backlog_bytes =
            self.proposals.waiting_bytes() + self.forwarded_bytes() + self.node.unapplied_bytes();
        if self.config.backlog_bytes_max < backlog_bytes + body.len() {
            return Err(Refusal::TooManyRequests);
        }
        if body.len() < self.config.large_bytes_min {
            self.proposals.push(ticket, kind, &body, login, self.tick);
        } else if self.format_level.allows(Feature::RequestParts) {
            self.proposals.push_large(ticket, kind, body, login.cloned(), self.tick);
        } else if body.len() <= WHOLE_BYTES_MAX {
            self.proposals.push(ticket, kind, &body, login, self.tick);
        } else {
            return Err(Refusal::TooLarge);
        }
        Ok(())
    }

    /// The cluster writes at this level from now on.
    pub fn on_format_level(&mut self, level: FormatLevel) {
        self.format_level = level;
    }

    /// Bytes of groups that are under way and not in this member's own log, as far as it knows.
    fn forwarded_bytes(&self) -> usize {
        if self.leads() { 0 } else { self.under_way.bytes() }
    }

    fn leads(&self) -> bool {
        self.node.leadership().state == RaftState::Leader
    }

    /// A linearizable read. It comes back in `Ready::reads`, or refused.
    ///
    /// # Errors
    /// The read, when the member cannot take it now.
    pub fn on_read(&mut self, read: R) -> Result<(), (R, Refusal)> {
        if self.stopped {
            return Err((read, Refusal::Stopped));
        }
        if self.config.reads_max <= self.reads.count() {
            return Err((read, Refusal::TooManyRequests));
        }
        self.reads.push(read, self.tick);
        Ok(())
    }

    /// The same for one that has a deadline of its own, as a renewal of a lease has: it goes before others, and is
    /// taken when too many of those wait.
    ///
    /// # Errors
    /// As `on_read`, for as many urgent reads.
    pub fn on_urgent_read(&mut self, read: R) -> Result<(), (R, Refusal)> {
        if self.stopped {
            return Err((read, Refusal::Stopped));
        }
        if self.config.reads_max <= self.reads.urgent_count() {
            return Err((read, Refusal::TooManyRequests));
        }
        self.reads.push_urgent(read, self.tick);
        Ok(())
    }

    /// Takes back the reads that are meant. They are neither released nor refused.
    pub fn withdraw_reads(&mut self, is_meant: impl Fn(&R) -> bool) -> Vec<R> {
        let mut withdrawn = Vec::new();
        self.reads.withdraw(is_meant, &mut withdrawn);
        withdrawn
    }

    /// Rounds of linearizable reads that had to be asked again so far.
    #[must_use]
    pub fn read_retries(&self) -> u64 {
        self.reads.retries()
    }

    /// One unit of time has passed.
    pub fn on_tick(&mut self) {
        self.tick += 1;
        self.node.tick();
        if !self.leads() {
            self.under_way.on_tick(self.tick);
        }
        let Some(oldest) = self.tick.checked_sub(self.config.request_timeout_ticks) else { return };
        self.refuse_waiting(oldest, Refusal::NotProposed);
        for given in self.under_way.take_older_than(oldest) {
            let refusal = self.refusal_of(&given);
            self.refuse_group(given.data, refusal);
        }
        let mut expired = Vec::new();
        self.reads.expire(oldest, &mut expired);
        self.refused_reads.extend(expired.into_iter().map(|read| (read, Refusal::TimedOut)));
    }

    /// Why a group has no outcome in time. That a leader was lost meanwhile is said as etcd says it.
    fn refusal_of(&self, given: &Given) -> Refusal {
        let lost_tick = self.leader_tick.saturating_sub(2 * self.config.raft.election_ticks as u64);
        if !given.was_sent {
            Refusal::NotProposed
        } else if (lost_tick..self.leader_tick).contains(&given.opened_tick) {
            Refusal::LostWithLeader
        } else {
            Refusal::TimedOut
        }
    }

    /// A message from another member.
    ///
    /// # Errors
    /// When it cannot be taken; the role is as it was.
    pub fn on_message(&mut self, message: Message) -> Result<(), StepError> {
        if message.kind() != MessageKind::Propose {
            return self.node.step(message);
        }
        self.node.check_recipient(&message)?;
        let is_senders = |data: &Bytes| group::group_id(data).is_some_and(|id| id.member == message.from());
        if !message.entry_data().all(|(kind, data)| kind == EntryKind::Normal && is_senders(&data)) {
            return Err(StepError::NotAProposal { from: message.from() });
        }
        // What is dropped here its sender proposes again: to a new leader, or after a while.
        if self.leads() {
            let _dropped = self.node.pass_on(&message);
        }
        Ok(())
    }

    /// A message could not be sent: no byte of it has left. A proposal is tried again, not at once; raft
    /// itself repeats what else matters.
    pub fn on_unsent(&mut self, message: &Message) {
        if message.kind() == MessageKind::Propose {
            self.paused_until = self.tick + 1;
            for id in message.entry_data().filter_map(|(_, data)| group::group_id(&data)) {
                self.under_way.on_unsent(id.number);
            }
        }
    }

    /// A new connection to this member: what was sent to it before may be lost.
    pub fn on_reconnected(&mut self, member: MemberId) {
        if self.node.leadership().leader == Some(member) {
            self.paused_until = 0;
            self.under_way.send_again();
        }
    }

    /// Another member's checkpoint has taken the place of the state, in which `number` is the last group
    /// of this start that was applied. Of the groups up to there nobody knows the outcome.
    pub fn on_installed(&mut self, number: u64) {
        for given in self.under_way.on_passed(number) {
            self.refuse_group(given.data, Refusal::TimedOut);
        }
    }

    /// The `Ready` of this number, and every one before it, is durable.
    pub fn on_durable(&mut self, number: u64) {
        self.node.on_durable(number);
    }

    /// The state machine has applied everything up to `index`.
    pub fn on_applied(&mut self, index: LogIndex) {
        self.node.on_applied(index);
    }

    /// The state machine's verdict on the membership change at `index`; before `on_applied` of it.
    ///
    /// # Errors
    /// When raft refuses an accepted change.
    pub fn on_conf_change(&mut self, index: LogIndex, accepted: bool) -> Result<(), ConfChangeRefused> {
        self.node.on_conf_change(index, accepted)
    }

    /// A checkpoint of this member's state machine is durable.
    pub fn on_checkpoint(&mut self, meta: CheckpointMeta) {
        self.node.on_checkpoint(meta);
    }

    /// How much room the log has. What waits when there is none left is in no log yet, and refused.
    pub fn on_space(&mut self, space: Space) {
        self.space = space;
        if space == Space::Exhausted {
            self.refuse_waiting(u64::MAX, Refusal::NoSpace);
        }
    }

    /// Proposes a membership change; it bypasses the groups.
    ///
    /// # Errors
    /// When it certainly goes nowhere.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(), ProposeError> {
        self.node.propose_conf_change(change)
    }

    /// Proposes to raise the cluster's format level. Whether that may be, `FormatGate` decides.
    ///
    /// It bypasses the groups: those are proposed again to whoever leads next, which may be a member that
    /// does not know such an entry. This one is the present leader's, in its present term, or lost.
    ///
    /// # Errors
    /// When it certainly goes nowhere, or this member does not lead.
    pub(super) fn propose_format_level(&mut self, level: FormatLevel) -> Result<(), ProposeError> {
        if self.stopped || !self.leads() {
            return Err(ProposeError::NoLeader);
        }
        if self.space == Space::Exhausted {
            return Err(ProposeError::Full);
        }
        let body = pb::FormatLevel { level: level.0 }.encode_to_vec();
        self.node.propose(group::encode_unnamed(RequestKind::FormatLevel, body.into()))
    }

    /// Takes nothing more, and refuses what waits. What is in the log goes on.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.refuse_waiting(u64::MAX, Refusal::Stopped);
        for given in self.under_way.take_never_sent() {
            self.refuse_group(given.data, Refusal::Stopped);
        }
        let mut waiting = Vec::new();
        self.reads.expire(u64::MAX, &mut waiting);
        self.refused_reads.extend(waiting.into_iter().map(|read| (read, Refusal::Stopped)));
    }

    /// The next work for the shell, if there is any. Call it after each batch of events, until it
    /// returns nothing: this is where a group closes and a read round starts.
    pub fn take_ready(&mut self) -> Option<Ready<R>> {
        self.propose_waiting();
        self.ask_for_reads();
        let raft = self.node.take_ready();
        if let Some(ready) = &raft {
            for state in &ready.read_states {
                self.reads.on_confirmed(state.round, state.index);
            }
            if ready.leadership.is_some() {
                self.reads.on_leader_change();
            }
            for id in ready.committed.iter().filter_map(|entry| group::group_id(&entry.data)) {
                for overtaken in self.under_way.on_committed(id, self.tick) {
                    self.proposals.push_again(&overtaken.data, overtaken.opened_tick);
                }
            }
        }
        let mut reads = Vec::new();
        let reads_index = self.node.handed_out();
        self.reads.release(reads_index, &mut reads);
        let ready = Ready {
            raft,
            reads,
            reads_index,
            refused_requests: std::mem::take(&mut self.refused_requests),
            refused_reads: std::mem::take(&mut self.refused_reads),
        };
        let idle = ready.raft.is_none()
            && ready.reads.is_empty()
            && ready.refused_requests.is_empty()
            && ready.refused_reads.is_empty();
        (!idle).then_some(ready)
    }

    /// Another leader has nothing of what the last one was given, as far as anybody knows.
    fn look_for_leader(&mut self) {
        let leadership = self.node.leadership();
        let leader = leadership.leader.map(|leader| (leader, leadership.term));
        if leader != self.leader {
            self.leader = leader;
            self.paused_until = 0;
            self.under_way.send_again();
            if leader.is_some() {
                self.leader_tick = self.tick;
            }
        }
    }

    fn propose_waiting(&mut self) {
        self.look_for_leader();
        if self.tick < self.paused_until
            || (self.under_way.next_unsent().is_none() && self.proposals.is_empty())
        {
            return;
        }
        // What waits for a leader stays in the open group; taking it out would only cut it up.
        if self.leader.is_none() || self.node.is_transferring() {
            return;
        }
        let leads = self.leads();
        // A follower forwards: its own appends are the leader's, and need not hold up anything.
        let is_much = self.config.pipeline_bytes <= self.proposals.grouped_bytes();
        let depth = self.config.pipeline_depth + usize::from(is_much);
        if leads && depth <= self.node.appends_in_flight() {
            return;
        }
        let mut bytes_left = self.config.append_bytes_max;
        let mut first = true;
        loop {
            let mut is_part = false;
            if self.under_way.next_unsent().is_none() {
                let is_full = !leads && self.config.forwarded_bytes_max <= self.under_way.bytes();
                if self.stopped || is_full {
                    return;
                }
                let Some(group) = self.proposals.take(bytes_left, first) else { return };
                is_part = group.is_part;
                self.under_way.push(group);
            }
            let Some(data) = self.under_way.next_unsent() else { return };
            if !first && bytes_left < data.len() {
                return;
            }
            let data = data.clone();
            // What comes behind a part would wait for its sync, and gain nothing.
            let is_last = is_part && leads;
            bytes_left = if is_last { 0 } else { bytes_left.saturating_sub(data.len()) };
            first = false;
            match self.node.propose(data) {
                Ok(()) => self.under_way.on_sent(self.tick),
                Err(ProposeError::NotMember) => {
                    let given = self.under_way.take_unsent().expect("it was just proposed");
                    let refusal = if given.was_sent { Refusal::TimedOut } else { Refusal::Stopped };
                    self.refuse_group(given.data, refusal);
                }
                // What waits may still find room, until its callers give up.
                Err(ProposeError::NoLeader | ProposeError::Transferring | ProposeError::Full) => return,
            }
        }
    }

    fn ask_for_reads(&mut self) {
        if self.reads.count() + self.reads.urgent_count() == 0 {
            return;
        }
        if let Some(index) = self.local_reads_from() {
            self.reads.confirm_all(index);
            return;
        }
        if let Some(round) = self.reads.due(self.tick, self.config.read_retry_ticks)
            && self.node.read_index(round).is_ok()
        {
            self.reads.on_asked(self.tick);
        }
    }

    /// While this member is the only voter and leads: the index whose application opens linearizable
    /// reads without a round (see `reads`). It also opens them to a state machine that is asked
    /// directly, for as long as that state machine itself has applied no second voter.
    #[must_use]
    pub fn local_reads_from(&self) -> Option<LogIndex> {
        if self.node.is_sole_voter() { self.node.term_start() } else { None }
    }

    /// Refuses the requests that came before `tick` and were given to no leader, or not whole.
    fn refuse_waiting(&mut self, tick: u64, refusal: Refusal) {
        let large = self.proposals.take_large_older_than(tick);
        self.refused_requests.extend(large.into_iter().map(|ticket| (ticket, refusal)));
        for group in self.proposals.take_older_than(tick) {
            self.refuse_group(group, refusal);
        }
    }

    fn refuse_group(&mut self, group: Bytes, refusal: Refusal) {
        let group = group::decode_group(group).expect("this member wrote the group");
        self.refused_requests
            .extend(group.requests.into_iter().map(|request| (request.origin.ticket, refusal)));
    }

    /// Ticks after which whatever waits is given up.
    #[must_use]
    pub fn request_timeout_ticks(&self) -> u64 {
        self.config.request_timeout_ticks
    }

    /// Where consensus stands.
    #[must_use]
    pub fn status(&self) -> Status {
        self.node.status()
    }

    #[must_use]
    pub fn id(&self) -> MemberId {
        self.node.id()
    }

    /// The number of this start of the member.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.config.raft.incarnation
    }

    /// The consensus state, for leadership transfer, connection events and inspection.
    pub fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }

    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }
}
