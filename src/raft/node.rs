//! One member's part in the consensus: raft-rs's `RawNode`, driven.
//!
//! Owns the log's tail in memory and every raft pointer. Knows no disk, clock, network or state
//! machine: ticks, messages and completions come in as calls, effects go out as `Ready`.
//!
//! Appending is asynchronous: a `Ready` is handed out, and the node goes on stepping, proposing and
//! handing out more while its sync runs; `on_durable` tells what is done. raft-rs applies only what
//! is both committed and durable here.
//!
//! Invariants: applied <= handed out <= min(committed, durable), and both <= last; asserted after
//! every move. raft-rs panics where a peer or a disk errs, so everything from outside is checked
//! first: the disk's content in `recovery`, messages in `message` and `Node::step`.

mod catch_up;

use std::collections::VecDeque;
use std::mem;

use ::raft::eraftpb::{self, MessageType};
use ::raft::{RawNode, StateRole, Storage as _};
use bytes::Bytes;

use self::catch_up::CatchUp;
pub use self::catch_up::Fetch;
use super::conf_change::ConfChange;
use super::election::ElectionTimer;
use super::entry::{Entry, EntryKind, HardState};
use super::library_log::{self, LogLevel, LogSink};
use super::log::{Log, Retention};
use super::message::{Message, MessageKind};
use super::raft_state::RaftState;
use super::read_index::ReadContext;
use super::ready::{Leadership, ReadState, Ready};
use super::recovery::Recovered;
use super::snapshot::CheckpointMeta;
use super::start_error::StartError;
use crate::types::{LogIndex, MemberId, Term};

/// ReadIndex rounds of followers that a leader keeps open; more are dropped, and asked again. A member
/// has one or two open at a time.
const READ_ROUNDS_MAX: usize = 1_024;

/// How a node behaves.
#[derive(Debug, Clone)]
pub struct Config {
    pub id: MemberId,
    /// A number that grows from start to start of the member. It seeds the spread of election timeouts and
    /// tells this start's requests and reads from those of an earlier one.
    pub incarnation: u64,
    /// Ticks without a leader before an election: the timeout lies in `[this, 2 * this)`.
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats. Less than `election_ticks`; etcd's ratio is 1 to 10.
    pub heartbeat_ticks: usize,
    /// Ask whether an election could be won before starting one, so that a member that was cut off
    /// does not depose a working leader when it comes back.
    pub pre_vote: bool,
    /// A leader that hears from no quorum for `election_ticks` steps down, and members that hear
    /// from a leader do not vote against it.
    pub check_quorum: bool,
    /// Bytes of entries in one message to a follower; one entry always fits.
    pub message_bytes_max: u64,
    /// Append messages to one follower that may be unanswered.
    pub messages_in_flight_max: usize,
    /// Bytes of entries that a leader accepts beyond what is committed; proposals past it are
    /// refused. Bounds the log's memory while no quorum answers.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries in one `Ready`; one entry always fits. Bounds a replay's slices.
    pub committed_bytes_max: u64,
    /// Bytes in memory that are not applied, above which a member takes no more entries from its leader
    /// until it has applied what is committed of them.
    pub unapplied_bytes_max: usize,
    /// Applied entries kept in memory for followers that lag.
    pub retention: Retention,
    /// Where raft-rs's own log lines go, and up to which level.
    pub log: Option<(LogSink, LogLevel)>,
}

impl Config {
    /// etcd's timing in its ticks of 100 ms, and bounds for groups of up to 1 MiB.
    #[must_use]
    pub fn new(id: MemberId, incarnation: u64) -> Self {
        Self {
            id,
            incarnation,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            check_quorum: true,
            message_bytes_max: 1 << 20,
            messages_in_flight_max: 256,
            uncommitted_bytes_max: 64 << 20,
            committed_bytes_max: 4 << 20,
            unapplied_bytes_max: 128 << 20,
            retention: Retention { entries_max: 5_000, bytes_max: 64 << 20 },
            log: None,
        }
    }

    fn to_library(&self, applied: LogIndex) -> ::raft::Config {
        ::raft::Config {
            id: self.id.0,
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied: applied.0,
            max_size_per_msg: self.message_bytes_max,
            max_inflight_msgs: self.messages_in_flight_max,
            check_quorum: self.check_quorum,
            pre_vote: self.pre_vote,
            max_uncommitted_size: self.uncommitted_bytes_max,
            max_committed_size_per_ready: self.committed_bytes_max,
            ..::raft::Config::default()
        }
    }
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub state: RaftState,
    pub term: Term,
    pub leader: Option<MemberId>,
    pub last: LogIndex,
    pub durable: LogIndex,
    pub committed: LogIndex,
    /// Committed entries up to here were given out in a `Ready`.
    pub handed_out: LogIndex,
    pub applied: LogIndex,
    pub voters_count: usize,
    pub learners_count: usize,
    /// Whether this member is the only voter.
    pub sole_voter: bool,
    pub transferring_to: Option<MemberId>,
}

/// Why a proposal went nowhere. It is not in any log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("no leader is known")]
    NoLeader,
    #[error("leadership is on its way to another member")]
    Transferring,
    #[error("this member is no longer part of the cluster")]
    NotMember,
    #[error("too much is proposed and not committed")]
    Full,
}

/// Why no ReadIndex round began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    #[error("no leader is known")]
    NoLeader,
    /// The leader cannot know what its predecessors acknowledged before its own term's first entry
    /// is committed.
    #[error("the leader has not committed an entry of its term yet")]
    TermNotCommitted,
}

/// A message that was not taken. The node is as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("message for member {to}, this is {id}")]
    NotForUs { to: MemberId, id: MemberId },
    #[error("message that claims to be from this member")]
    FromSelf,
    #[error("answer from {from}, which is no member")]
    UnknownPeer { from: MemberId },
    /// This member once acknowledged entries that it no longer has. It must not take part: it could
    /// help to elect a leader that lacks what was acknowledged.
    #[error("the leader knows {commit:?} as stored here, but this log ends at {last:?}: entries were lost")]
    LogLost { commit: LogIndex, last: LogIndex },
    #[error("{from} speaks as the leader of {term:?}, which is led by {leader}")]
    TwoLeaders { from: MemberId, leader: MemberId, term: Term },
    #[error("{from} acknowledges {index:?}, but the log ends at {last:?}")]
    AckPastLast { from: MemberId, index: LogIndex, last: LogIndex },
    #[error("vote for a candidacy that is not durable yet, so nobody can have been asked")]
    VoteTooEarly,
    #[error("{from} proposes something else than its own requests")]
    NotAProposal { from: MemberId },
    #[error("raft does not take the message: {0}")]
    Refused(String),
}

/// raft-rs refuses the change: it would leave no voter, for one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("membership change refused: {0}")]
pub struct ConfChangeRefused(pub String);

/// A `Ready` whose sync is not reported yet.
struct InFlight {
    number: u64,
    /// Whether it holds entries: proposals wait for these.
    has_entries: bool,
    /// Whether it changes term or vote.
    has_vote: bool,
    /// A checkpoint that takes the log's place.
    checkpoint: Option<LogIndex>,
    /// Leave when it is durable.
    messages: Vec<eraftpb::Message>,
}

/// One member's consensus state.
pub struct Node {
    raw: RawNode<Log>,
    id: MemberId,
    incarnation: u64,
    timer: ElectionTimer,
    election_ticks: u64,
    unapplied_bytes_max: usize,
    catch_up: CatchUp,
    /// The last one handed out.
    hard_state: HardState,
    /// In the order of their numbers.
    in_flight: VecDeque<InFlight>,
    /// Became free to leave since the last `Ready`.
    released: Vec<eraftpb::Message>,
    /// Last committed entry given out. Moves only in `take_ready`.
    handed_out: LogIndex,
    /// The last checkpoint that took the log's place, or the one this start is from. Completions of
    /// entries before it, still on their way, mean nothing any more.
    installed: LogIndex,
    /// Handed out, no verdict yet.
    conf_changes: VecDeque<(LogIndex, ConfChange)>,
    /// As last handed out.
    last_leadership: Leadership,
    /// First entry of the current term while this member leads.
    term_start: Option<LogIndex>,
}

impl Node {
    /// A node on what the disk held. The state machine must stand at `recovered.start()`; what is
    /// committed after it comes again in the first `Ready`s. A sole voter runs for leader at once.
    ///
    /// # Errors
    /// When the configuration contradicts itself or what was recovered does not add up.
    pub fn new(config: &Config, recovered: Recovered) -> Result<Self, StartError> {
        let handed_out = recovered.start().index;
        let library = config.to_library(handed_out);
        library.validate().map_err(|error| StartError::Config(error.to_string()))?;
        let log = recovered.into_log(config.retention)?;
        let hard_state = log.initial_state().expect("the log in memory does not fail").hard_state;
        let raw = RawNode::new(&library, log, &library_log::logger(config.log))
            .map_err(|error| StartError::Config(error.to_string()))?;
        let hard_state = HardState::from_library(&hard_state);
        let mut node = Self {
            raw,
            id: config.id,
            incarnation: config.incarnation,
            timer: ElectionTimer::new(config.incarnation ^ config.id.0, config.election_ticks),
            election_ticks: config.election_ticks as u64,
            unapplied_bytes_max: config.unapplied_bytes_max,
            catch_up: CatchUp::default(),
            hard_state,
            in_flight: VecDeque::new(),
            released: Vec::new(),
            handed_out,
            installed: handed_out,
            conf_changes: VecDeque::new(),
            last_leadership: Leadership { state: RaftState::Follower, term: hard_state.term, leader: None },
            term_start: None,
        };
        if node.is_sole_voter() {
            node.campaign();
        }
        node.after_event();
        Ok(node)
    }

    /// One unit of time has passed.
    pub fn tick(&mut self) {
        self.tick_catch_up();
        if self.may_campaign() || self.raw.raft.state == StateRole::Leader {
            let before = self.raw.raft.state;
            self.raw.tick();
            if before != StateRole::Leader && self.raw.raft.election_elapsed == 0 {
                self.timer.on_attempt();
            }
        }
        self.after_event();
    }

    /// Runs for leader now.
    pub fn campaign(&mut self) {
        // raft-rs looks for a vote only where its own timer runs out; asked to run, a member without one
        // would, and panic when it wins.
        if self.raw.raft.promotable() && self.may_campaign() {
            self.timer.on_attempt();
            self.raw.campaign().expect("a call to run is never refused, at most ignored");
        }
        self.after_event();
    }

    /// Whether raft-rs may start an election: it takes for granted that nothing is on its way to the
    /// disk when it wins, which votes see to unless there is nobody to ask.
    fn may_campaign(&self) -> bool {
        let alone_and_writing = self.is_sole_voter() && !self.is_settled();
        !alone_and_writing && !self.in_flight.iter().any(|ready| ready.checkpoint.is_some())
    }

    /// Whether everything this member knows is durable.
    fn is_settled(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let now = HardState::from_library(&self.raw.raft.hard_state());
        self.in_flight.is_empty()
            && log.persisted == log.last_index()
            && !now.promises_more_than(&self.hard_state)
    }

    /// Proposes an entry that holds `group`. On a follower it goes to the leader, without a promise
    /// that it arrives.
    ///
    /// # Errors
    /// When it certainly goes nowhere.
    pub fn propose(&mut self, group: Bytes) -> Result<(), ProposeError> {
        self.propose_entry(EntryKind::Normal, group)
    }

    /// Proposes a membership change. One at a time: raft-rs turns a second one into an empty entry
    /// while the first is not applied.
    ///
    /// # Errors
    /// When it certainly goes nowhere.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(), ProposeError> {
        self.propose_entry(EntryKind::ConfChange, change.encode())
    }

    fn propose_entry(&mut self, kind: EntryKind, data: Bytes) -> Result<(), ProposeError> {
        let raft = &mut self.raw.raft;
        if raft.leader_id == ::raft::INVALID_ID {
            return Err(ProposeError::NoLeader);
        }
        let mut entry = eraftpb::Entry::default();
        entry.set_entry_type(kind.to_library());
        entry.data = data;
        let mut message = eraftpb::Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id.0;
        message.mut_entries().push(entry);
        self.step_proposal(message)
    }

    fn step_proposal(&mut self, message: eraftpb::Message) -> Result<(), ProposeError> {
        let raft = &mut self.raw.raft;
        let result = raft.step(message).map_err(|_| {
            if raft.lead_transferee.is_some() {
                ProposeError::Transferring
            } else if raft.prs().get(raft.id).is_none() {
                ProposeError::NotMember
            } else if raft.leader_id == ::raft::INVALID_ID {
                ProposeError::NoLeader
            } else {
                ProposeError::Full
            }
        });
        self.after_event();
        result
    }

    /// A `Propose` message of another member: it is appended.
    ///
    /// # Errors
    /// When it certainly went nowhere.
    ///
    /// # Panics
    /// When the message is of another kind.
    pub fn pass_on(&mut self, message: &Message) -> Result<(), ProposeError> {
        assert!(message.kind() == MessageKind::Propose, "{:?} is not a proposal", message.kind());
        // Entries are slices, so a copy costs no more than their list.
        self.step_proposal(message.0.clone())
    }

    /// Starts a ReadIndex round; `round` comes back in a `ReadState`, or never, when a message is
    /// lost or leadership moves: ask again under another number then.
    ///
    /// # Errors
    /// When no answer can come.
    pub fn read_index(&mut self, round: u64) -> Result<(), ReadIndexError> {
        let raft = &self.raw.raft;
        if raft.leader_id == ::raft::INVALID_ID {
            return Err(ReadIndexError::NoLeader);
        }
        if raft.state == StateRole::Leader && !raft.commit_to_current_term() {
            return Err(ReadIndexError::TermNotCommitted);
        }
        let context = ReadContext { member: self.id, incarnation: self.incarnation, round };
        self.raw.read_index(context.encode().into());
        self.after_event();
        Ok(())
    }

    /// Whether a membership change may be under way, so that another one would be dropped. Only the
    /// leader knows.
    #[must_use]
    pub fn has_pending_change(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// # Errors
    /// When the message is for another member.
    pub fn check_recipient(&self, message: &Message) -> Result<(), StepError> {
        if message.to() == self.id {
            Ok(())
        } else {
            Err(StepError::NotForUs { to: message.to(), id: self.id })
        }
    }

    /// A message from another member.
    ///
    /// # Errors
    /// When the message cannot be taken; the node is unchanged.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.check_recipient(&message)?;
        let Message(message) = message;
        let kind = message.get_msg_type();
        let raft = &self.raw.raft;
        let (from, last) = (MemberId(message.from), LogIndex(raft.raft_log.last_index()));
        let passed_on = matches!(
            kind,
            MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgTransferLeader
        );
        if message.from == self.id.0 && !passed_on {
            return Err(StepError::FromSelf);
        }
        // A term has one leader. raft-rs would follow whoever spoke last, and take his entries.
        let is_leaders =
            matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        let leader = raft.leader_id;
        if is_leaders && raft.term == message.term && ![::raft::INVALID_ID, message.from].contains(&leader) {
            return Err(StepError::TwoLeaders { from, leader: MemberId(leader), term: Term(message.term) });
        }
        // An older term is ignored by raft-rs before it looks at anything else.
        if raft.term <= message.term {
            match kind {
                MessageType::MsgHeartbeat if last.0 < message.commit => {
                    return Err(StepError::LogLost { commit: LogIndex(message.commit), last });
                }
                MessageType::MsgAppendResponse
                    if raft.state == StateRole::Leader && !message.reject && last.0 < message.index =>
                {
                    return Err(StepError::AckPastLast { from, index: LogIndex(message.index), last });
                }
                MessageType::MsgRequestVoteResponse
                    if raft.state == StateRole::Candidate && !self.is_settled() =>
                {
                    return Err(StepError::VoteTooEarly);
                }
                MessageType::MsgTimeoutNow if !self.may_campaign() => return Ok(()),
                // As if it were lost: the leader finds out at the next one.
                MessageType::MsgAppend if !message.entries.is_empty() && self.is_behind_applying() => {
                    return Ok(());
                }
                _ => {}
            }
        }
        // raft-rs refuses the vote in its own term, and panics over sending none. Members have no priorities.
        if kind == MessageType::MsgRequestPreVote && raft.term == 0 && message.priority < raft.priority {
            return Err(StepError::Refused("a candidate of low priority".to_owned()));
        }
        // A follower would send it on, and raft-rs panics over a message sent on twice. Who lost the
        // leadership meanwhile need not hand it over.
        if kind == MessageType::MsgTransferLeader && raft.state != StateRole::Leader {
            return Ok(());
        }
        if kind == MessageType::MsgReadIndex && READ_ROUNDS_MAX <= raft.pending_read_count() {
            return Ok(());
        }
        let result = self.raw.step(message).map_err(|error| match error {
            ::raft::Error::StepPeerNotFound => StepError::UnknownPeer { from },
            other => StepError::Refused(other.to_string()),
        });
        self.after_event();
        result
    }

    /// Hands leadership to another voter, when this member leads.
    pub fn transfer_leader(&mut self, to: MemberId) {
        self.raw.transfer_leader(to.0);
        self.after_event();
    }

    /// The leader's process is known to have ended. A follower then owes it nothing: it may run, or vote
    /// for who runs, before the election timeout is over. Its term, its vote and its log stay what they
    /// are, so nothing that raft promises depends on the news being true; a leader that lives after all
    /// is followed again at its next heartbeat.
    pub fn forget_leader(&mut self, leader: MemberId) {
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Follower && raft.leader_id == leader.0 {
            let term = raft.term;
            raft.become_follower(term, ::raft::INVALID_ID);
        }
        self.after_event();
    }

    /// The voter that would miss least if leadership went to it; none when this member does not lead or
    /// is alone.
    #[must_use]
    pub fn successor(&self) -> Option<MemberId> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return None;
        }
        let voters = raft.prs().conf().voters();
        let others = raft
            .prs()
            .iter()
            .filter(|(id, progress)| **id != self.id.0 && voters.contains(**id) && progress.recent_active);
        others.map(|(id, progress)| (progress.matched, *id)).max().map(|(_, id)| MemberId(id))
    }

    /// The peer's connection is gone: what was sent last may be lost.
    pub fn on_unreachable(&mut self, peer: MemberId) {
        self.raw.report_unreachable(peer.0);
        self.after_event();
    }

    /// The next work for the shell, if there is any.
    pub fn take_ready(&mut self) -> Option<Ready> {
        if !self.raw.has_ready() && self.released.is_empty() {
            return None;
        }
        let mut ready = self.raw.ready();
        let number = ready.number();
        let library_entries = ready.take_entries();
        let checkpoint =
            (!ready.snapshot().is_empty()).then(|| CheckpointMeta::from_library(ready.snapshot()));
        let committed = ready.take_committed_entries();
        // raft-rs hands out one or the other, depending on who leads; what leaves when is ours to say.
        let mut made = ready.take_messages();
        made.append(&mut ready.take_persisted_messages());
        let read_states = ready.take_read_states();

        let now = HardState::from_library(&self.raw.raft.hard_state());
        let has_vote = now.promises_more_than(&self.hard_state);
        let must_sync = has_vote || !library_entries.is_empty() || checkpoint.is_some();
        let hard_state = (must_sync && now != self.hard_state).then_some(now);
        self.hard_state = hard_state.unwrap_or(self.hard_state);

        // raft-rs reads from the log what it has handed out, so this comes before `advance`.
        let log = self.raw.mut_store();
        if let Some(meta) = &checkpoint {
            log.install(meta.clone());
            self.handed_out = meta.index;
            self.installed = meta.index;
            self.conf_changes.clear();
        }
        log.append(&library_entries);
        self.raw.advance_append_async(ready);

        if must_sync {
            self.in_flight.push_back(InFlight {
                number,
                has_entries: !library_entries.is_empty(),
                has_vote,
                checkpoint: checkpoint.as_ref().map(|meta| meta.index),
                messages: Vec::new(),
            });
        } else if self.in_flight.is_empty() {
            self.raw.on_persist_ready(number);
        }
        let mut messages = mem::take(&mut self.released);
        self.release_or_hold(made, &mut messages);

        Some(Ready {
            number,
            messages: messages.into_iter().map(Message).collect(),
            checkpoint,
            entries: library_entries.into_iter().map(Entry::from_library).collect(),
            hard_state,
            must_sync,
            committed: self.hand_out(committed),
            read_states: self.own_read_states(read_states),
            leadership: self.take_leadership(),
        })
    }

    /// A message that promises something about this member's disk waits for everything handed out so
    /// far. The others leave at once: replication runs beside the leader's own sync, and neither a
    /// heartbeat nor a linearizable read of the leader waits for a follower's disk.
    ///
    /// Nothing at all overtakes a change of term or vote. A sole voter shows why: it wins without
    /// asking, so it could send its learners entries of a term that a crash makes it forget, win the
    /// same term again, and fill the same places with other entries.
    fn release_or_hold(&mut self, made: Vec<eraftpb::Message>, now: &mut Vec<eraftpb::Message>) {
        let vote_in_flight = self.in_flight.iter().any(|ready| ready.has_vote);
        let Some(newest) = self.in_flight.back_mut() else {
            now.extend(made);
            return;
        };
        for message in made {
            let promises = matches!(
                message.get_msg_type(),
                MessageType::MsgAppendResponse
                    | MessageType::MsgRequestVote
                    | MessageType::MsgRequestVoteResponse
                    | MessageType::MsgRequestPreVote
                    | MessageType::MsgRequestPreVoteResponse
            );
            if promises || vote_in_flight { newest.messages.push(message) } else { now.push(message) }
        }
    }

    fn hand_out(&mut self, committed: Vec<eraftpb::Entry>) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(committed.len());
        for entry in committed {
            let entry = Entry::from_library(entry);
            assert!(
                entry.index.0 == self.handed_out.0 + 1,
                "{:?} handed out after {:?}: an entry is skipped or repeated",
                entry.index,
                self.handed_out
            );
            self.handed_out = entry.index;
            if entry.kind == EntryKind::ConfChange {
                let change = ConfChange::decode(entry.data.clone());
                let change = change.expect("decoded before it came into the log");
                self.conf_changes.push_back((entry.index, change));
            }
            entries.push(entry);
        }
        self.check_pointers();
        entries
    }

    fn own_read_states(&self, states: Vec<::raft::ReadState>) -> Vec<ReadState> {
        let own = states.into_iter().filter_map(|state| {
            let context = ReadContext::decode(&state.request_ctx)?;
            let ours = context.member == self.id && context.incarnation == self.incarnation;
            ours.then_some(ReadState { round: context.round, index: LogIndex(state.index) })
        });
        own.collect()
    }

    fn take_leadership(&mut self) -> Option<Leadership> {
        let now = self.leadership();
        (now != mem::replace(&mut self.last_leadership, now)).then_some(now)
    }

    /// The `Ready` of this number, and every one before it, is durable.
    ///
    /// # Panics
    /// When the number was not handed out, or was reported before.
    pub fn on_durable(&mut self, number: u64) {
        let position = self.in_flight.iter().position(|ready| ready.number == number);
        let position = position.unwrap_or_else(|| panic!("ready {number} is not waiting for a sync"));
        self.raw.on_persist_ready(number);
        for ready in self.in_flight.drain(..=position) {
            self.released.extend(ready.messages);
            if let Some(index) = ready.checkpoint {
                self.raw.advance_apply_to(index.0);
            }
        }
        self.after_event();
    }

    /// The state machine has applied everything up to `index`. A lone member forgets the entries.
    ///
    /// # Panics
    /// When `index` goes backwards, is past what was handed out, or passes a membership change that
    /// had no verdict.
    pub fn on_applied(&mut self, index: LogIndex) {
        if index <= self.installed {
            return;
        }
        let applied = LogIndex(self.raw.store().applied());
        assert!(applied <= index, "applied went backwards: {applied:?} -> {index:?}");
        assert!(index <= self.handed_out, "applied {index:?} past handed out {:?}", self.handed_out);
        if let Some((pending, _)) = self.conf_changes.front() {
            assert!(index < *pending, "applied {index:?} passes the membership change at {pending:?}");
        }
        if applied == index {
            return;
        }
        self.raw.advance_apply_to(index.0);
        self.raw.mut_store().on_applied(index.0);
        self.after_event();
    }

    /// The state machine has reached the membership change at `index` and accepts or rejects it; this
    /// comes before `on_applied` of that index.
    ///
    /// # Errors
    /// When raft-rs refuses an accepted change, so that the change must not count as made.
    ///
    /// # Panics
    /// When no such change was handed out, or not as the next one.
    pub fn on_conf_change(&mut self, index: LogIndex, accepted: bool) -> Result<(), ConfChangeRefused> {
        if index <= self.installed {
            return Ok(());
        }
        let (pending, change) = self.conf_changes.pop_front().expect("a verdict needs a change");
        assert!(pending == index, "verdict on {index:?}, the next change is at {pending:?}");
        if accepted {
            let conf = self
                .raw
                .apply_conf_change(&change.to_library())
                .map_err(|error| ConfChangeRefused(error.to_string()))?;
            self.raw.mut_store().on_conf_change(&conf);
            if self.raw.raft.state == StateRole::Leader && !conf.get_voters().contains(&self.id.0) {
                self.leave_office();
            }
        }
        self.after_event();
        Ok(())
    }

    /// This member leads and has no vote any more. raft-rs would go on leading and panic at the next
    /// acknowledgement, for want of its own progress. The voter that has most of the log is asked to
    /// run, so that the cluster need not wait for a timeout.
    fn leave_office(&mut self) {
        let raft = &mut self.raw.raft;
        let voters = raft.prs().conf().voters();
        let successors = raft.prs().iter().filter(|(id, _)| voters.contains(**id));
        let successor = successors.map(|(id, progress)| (progress.matched, *id)).max();
        if let Some((_, id)) = successor {
            raft.send_timeout_now(id);
        }
        let term = raft.term;
        raft.become_follower(term, ::raft::INVALID_ID);
    }

    /// `Ready`s with entries that are not durable yet.
    #[must_use]
    pub fn appends_in_flight(&self) -> usize {
        self.in_flight.iter().filter(|ready| ready.has_entries).count()
    }

    /// Bytes of the log in memory that are not applied yet.
    #[must_use]
    pub fn unapplied_bytes(&self) -> usize {
        self.raw.store().unapplied_bytes()
    }

    /// While this member leads: the first entry of its term.
    #[must_use]
    pub fn term_start(&self) -> Option<LogIndex> {
        self.term_start
    }

    /// The term of the entry at `index`, as far as the log in memory reaches; `first_held` tells from
    /// where on it does.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.raw.store().term(index.0).ok().map(Term)
    }

    /// The oldest entry whose term the log in memory knows.
    #[must_use]
    pub fn first_held(&self) -> LogIndex {
        LogIndex(self.raw.store().dropped().0)
    }

    /// How far a follower's log is known to match, while this member leads.
    #[must_use]
    pub fn matched(&self, member: MemberId) -> Option<LogIndex> {
        if self.raw.raft.state != StateRole::Leader {
            return None;
        }
        self.raw.raft.prs().get(member.0).map(|progress| LogIndex(progress.matched))
    }

    /// Entries committed and not applied.
    #[must_use]
    pub fn apply_gap(&self) -> u64 {
        self.raw.raft.raft_log.committed - self.raw.store().applied()
    }

    /// Last committed entry given out in a `Ready`.
    #[must_use]
    pub fn handed_out(&self) -> LogIndex {
        self.handed_out
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        let raft = &self.raw.raft;
        Leadership {
            state: raft.state.into(),
            term: Term(raft.term),
            leader: (raft.leader_id != ::raft::INVALID_ID).then_some(MemberId(raft.leader_id)),
        }
    }

    /// Whether this member leads and is handing leadership over; it takes no proposal meanwhile.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    #[must_use]
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let Leadership { state, term, leader } = self.leadership();
        Status {
            state,
            term,
            leader,
            last: LogIndex(raft.raft_log.last_index()),
            durable: LogIndex(raft.raft_log.persisted),
            committed: LogIndex(raft.raft_log.committed),
            handed_out: self.handed_out,
            applied: LogIndex(self.raw.store().applied()),
            voters_count: raft.prs().conf().voters().ids().len(),
            learners_count: raft.prs().conf().learners().len(),
            sole_voter: self.is_sole_voter(),
            transferring_to: raft.lead_transferee.map(MemberId),
        }
    }

    /// Whether this member's vote is every quorum.
    #[must_use]
    pub fn is_sole_voter(&self) -> bool {
        let voters = self.raw.raft.prs().conf().voters();
        voters.contains(self.id.0) && voters.ids().len() == 1
    }

    /// What holds after every call.
    fn after_event(&mut self) {
        // Nobody else can win, so waiting for the timeout would only delay the first answer. While a
        // committed membership change is not applied raft-rs would refuse, hence the second condition.
        let raft = &self.raw.raft;
        let all_applied = raft.raft_log.applied == raft.raft_log.committed;
        if raft.state != StateRole::Leader && all_applied && self.is_sole_voter() && self.may_campaign() {
            self.raw.campaign().expect("a call to run is never refused, at most ignored");
        }
        let raft = &mut self.raw.raft;
        raft.set_randomized_election_timeout(self.timer.timeout_ticks(raft.term));
        if raft.state != StateRole::Leader {
            self.term_start = None;
        } else if self.term_start.is_none() {
            // raft-rs appends the term's first entry in the moment it wins, and no call of ours does
            // more than win and append that one.
            self.term_start = Some(LogIndex(raft.raft_log.last_index()));
        }
        self.check_pointers();
    }

    fn check_pointers(&self) {
        let log = &self.raw.raft.raft_log;
        let (applied, handed_out) = (self.raw.store().applied(), self.handed_out.0);
        assert!(applied <= handed_out, "applied {applied} past handed out {handed_out}");
        assert!(handed_out <= log.committed, "handed out {handed_out} past committed {}", log.committed);
        assert!(
            log.committed <= log.last_index(),
            "committed {} past last {}",
            log.committed,
            log.last_index()
        );
        assert!(
            log.persisted <= log.last_index(),
            "durable {} past last {}",
            log.persisted,
            log.last_index()
        );
    }

    /// Walks the log in memory; for tests and simulators after every step.
    pub fn check_invariants(&self) {
        self.check_pointers();
        self.raw.store().check_invariants();
    }
}
