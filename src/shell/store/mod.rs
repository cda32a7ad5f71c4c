//! The store role's executor: applies what is committed, answers reads, and does the long work in
//! slices between them.
//!
//! Long work is whatever grows with the data: lists (`long_reads`), compaction, hashing, checkpoints, and the
//! history that watchers ask for. Each kind has its slices in turn (`turn`): a turn of the store gives slices
//! until they come to `TURN_NS` of counted work together, looks at its rings again, and goes on with the kind
//! that is next. So every kind that has work gets a slice within `KINDS` turns, and what waits in the rings
//! waits for one turn's slices.

mod applying;
mod auto_compaction;
pub(in crate::shell) mod checkpoint_file;
mod checkpointing;
mod compacting;
mod early_reads;
mod large_write;
pub(in crate::shell) mod lease_clock;
mod logins;
mod long_reads;
pub(in crate::shell) mod memory_supply;
pub(in crate::shell) mod node_waits;
mod not_older;
mod observed;
mod observing;
pub(in crate::shell) mod quota;
mod read_ahead;
mod replay;
mod turn;
pub(in crate::shell) mod watch_feed;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future;
use prost::Message as _;

use crate::apply::checkpoint::Checkpoint;
use crate::apply::machine::{Applied, HashRead, StatusFacts};
use crate::apply::{Alarm, AlarmType, Machine};
use crate::checkpoint::cadence::{Cadence, LogSince};
use crate::checkpoint::format::Header;
use crate::config::AutoCompaction;
use crate::membership::MemberChange;
use crate::pb::etcdserverpb::LeaseTimeToLiveRequest;
use crate::raft::{CheckpointMeta, Entry};
use crate::replica::exchange::{Facts, ToRaft, ToShard, ToStore};
use crate::request::{
    Answer, AuthRejection, Command, EntryId, Login, Outcome, Query, Read, Refusal, Reply, RequestKind,
    Response,
};
use crate::rpc::status;
use crate::shell::runtime::exit::EXIT_STATE_UNKNOWN;
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::logging;
use crate::shell::runtime::mesh::{SharedBell, SharedRing};
use crate::shell::runtime::pace::breathe;
use crate::shell::runtime::rights::Rights;
use crate::shell::runtime::wiring::StorePorts;
use crate::types::{Caller, FormatLevel, LogIndex, MemberId, Slice, Term, Ticket};
use crate::upkeep::Room;
use auto_compaction::CompactionClock;
use checkpoint_file::CheckpointWriter;
use large_write::Applying;
use lease_clock::{LeaseClock, Of};
use logins::Logins;
use long_reads::{LongReads, Said};
use memory_supply::MemorySupply;
use node_waits::NodeWaits;
use not_older::NotOlderReads;
use observed::Observed;
use quota::Quota;
use replay::Replay;
use turn::{Kind, Turns};
use watch_feed::WatchFeed;

/// Messages taken from the rings before long work gets its turn. A KiB of an answer counts as one, too.
const MESSAGES_PER_TURN: usize = 256;

/// How often the store looks whether it is idle.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// How long a NOSPACE alarm that was asked for may be on its way.
const QUOTA_RETRY: Duration = Duration::from_secs(1);

/// When the store does its long work.
#[derive(Debug, Clone, Copy)]
pub(in crate::shell) struct Upkeep {
    /// Entries between checkpoints at least (`--snapshot-count`).
    pub checkpoint_entries: u64,
    /// Bytes of log after which a checkpoint is due whatever the entries (`--checkpoint-bytes`).
    pub checkpoint_bytes: u64,
    /// Records a compaction slice may look at.
    pub compaction_batch: usize,
    /// Pause after each compaction slice.
    pub compaction_sleep: Duration,
    /// History that stays when nobody asks for compactions (`--auto-compaction-retention`).
    pub auto_compaction: Option<AutoCompaction>,
    /// Compacted history that lists under way may hold (`--pinned-history-bytes`).
    pub pinned_history_bytes: u64,
    /// A new leader gives every lease so much more time (`--election-timeout`).
    pub election_timeout: Duration,
}

/// What the store role starts from. Made on the main thread, taken on the role's core.
pub(in crate::shell) struct Seat {
    pub machine: Machine,
    pub position: Position,
    pub upkeep: Upkeep,
    /// As Status tells it.
    pub quota_bytes: i64,
    pub quota: Arc<Quota>,
    pub rights: Rights,
    /// Of simple tokens (`--auth-token-ttl`).
    pub token_ttl: Duration,
    /// Of the checkpoints.
    pub dir: PathBuf,
    pub helpers: Helpers,
}

/// Where this member stands when its store starts.
#[derive(Debug, Clone)]
pub(in crate::shell) struct Position {
    pub member: MemberId,
    /// What the loaded checkpoint covers.
    pub checkpoint: LogIndex,
    /// The last entry that is applied.
    pub applied: EntryId,
    /// What of the log behind the checkpoint was applied already, and how long that took.
    pub replayed: LogSince,
    pub replay: Duration,
    /// Last entry that was in the log at start: whoever asked for it is gone.
    pub recovered: LogIndex,
    /// The highest format level that it reads, or is to read (`--format-level-max`).
    pub format_level_max: FormatLevel,
}

/// A checkpoint on its way to the disk.
struct Checkpointing {
    header: Header,
    progress: Progress,
}

enum Progress {
    /// The thread has not taken the header yet.
    Begin(Checkpoint),
    /// Slices are made; one may wait for the thread.
    Slices { checkpoint: Checkpoint, waiting: Option<Vec<u8>>, is_last: bool },
    /// All slices are handed over.
    Finish,
    /// The thread syncs and renames.
    Wait,
    /// The state it is of is gone.
    Abandon,
}

/// The store role.
pub(in crate::shell) struct StoreRole {
    machine: Machine,
    ports: StorePorts,
    position: Position,
    upkeep: Upkeep,
    facts: StatusFacts,
    applied: LogIndex,
    applied_term: Term,
    /// What raft was last told.
    reported: LogIndex,
    /// Callers of physical compactions, with the revision that each waits for.
    compacting: VecDeque<(Ticket, Response, i64)>,
    compact_after: Option<Instant>,
    /// With the moment when each began.
    hashing: VecDeque<(Ticket, HashRead, Instant)>,
    long_reads: LongReads,
    /// Callers of snapshots that are not begun.
    snapshots: Vec<Ticket>,
    /// Entries that wait for a large write which is being prepared.
    applying: Option<Applying>,
    room: Room,
    /// Callers who want to see all leases and wait for it, too.
    lease_lists: Vec<Ticket>,
    turns: Turns,
    /// The ring that the next turn begins with.
    first_ring: usize,
    watch: WatchFeed,
    leases: LeaseClock,
    nodes: LeaseClock,
    waits: NodeWaits,
    not_older: NotOlderReads,
    auto_compaction: Option<CompactionClock>,
    logins: Logins,
    quota: Arc<Quota>,
    writer: CheckpointWriter,
    checkpoint_events: Arc<SharedRing<checkpoint_file::WriterEvent>>,
    checkpointing: Option<Checkpointing>,
    checkpoint_after: Option<Instant>,
    cadence: Cadence,
    checkpoint_began: Option<Instant>,
    /// Since the last checkpoint began.
    log: LogSince,
    replay: Replay,
    /// Where the log stood at the last idle tick.
    idle_at: LogIndex,
    /// The leader's checkpoint that took the state's place last.
    installed: LogIndex,
    /// The newest durable checkpoint.
    checkpointed: LogIndex,
    helpers: Helpers,
    memory: MemorySupply,
    /// When a NOSPACE alarm may be asked for again.
    quota_after: Option<Instant>,
    observed: Observed,
    is_published: bool,
    on_published: Box<dyn Fn()>,
}

impl StoreRole {
    /// Takes its seat. `on_published` is called once this member's own record is applied: everything that
    /// was acknowledged before this start is readable then.
    ///
    /// # Errors
    /// When the thread that writes checkpoints cannot be started.
    pub(in crate::shell) fn new(
        seat: Seat,
        ports: StorePorts,
        bell: Arc<SharedBell>,
        on_published: impl Fn() + 'static,
    ) -> io::Result<Self> {
        let Seat { mut machine, position, upkeep, quota_bytes, quota, rights, token_ttl, dir, helpers } =
            seat;
        let checkpoint_events = SharedRing::new(4, Arc::clone(&bell));
        let report = Arc::clone(&checkpoint_events);
        let writer = CheckpointWriter::start(dir, bell, move |event| {
            // One checkpoint is under way at a time, so its end always finds room.
            assert!(report.send(event).is_ok(), "one checkpoint at a time");
        })?;
        let Position {
            checkpoint, replayed, applied: EntryId { index: applied, term: applied_term }, ..
        } = position;
        let mut logins = Logins::new(rights, token_ttl, machine.realm());
        // Who logged in behind the checkpoint.
        logins.on_applied(&mut machine);
        let mut cadence = Cadence::new(upkeep.checkpoint_entries, upkeep.checkpoint_bytes);
        let took_ns = u64::try_from(position.replay.as_nanos()).unwrap_or(u64::MAX);
        cadence.on_replayed(replayed.requests, took_ns);
        let watch = WatchFeed::new(ports.to_shards.len(), machine.store());
        let auto_compaction = upkeep.auto_compaction.map(|policy| {
            CompactionClock::start(policy, machine.store().current_revision(), ports.bell.clone())
        });
        Ok(Self {
            logins,
            machine,
            ports,
            position,
            upkeep,
            facts: StatusFacts { applied, quota_bytes, ..StatusFacts::default() },
            applied,
            applied_term,
            reported: applied,
            compacting: VecDeque::new(),
            compact_after: None,
            hashing: VecDeque::new(),
            long_reads: LongReads::new(upkeep.pinned_history_bytes),
            snapshots: Vec::new(),
            applying: None,
            room: Room::default(),
            lease_lists: Vec::new(),
            turns: Turns::default(),
            first_ring: 0,
            watch,
            leases: LeaseClock::new(Of::Leases, upkeep.election_timeout),
            nodes: LeaseClock::new(Of::Nodes, upkeep.election_timeout),
            waits: NodeWaits::default(),
            not_older: NotOlderReads::default(),
            auto_compaction,
            quota,
            writer,
            checkpoint_events,
            checkpointing: None,
            checkpoint_after: None,
            cadence,
            log: replayed,
            replay: Replay::new(applied),
            checkpoint_began: None,
            idle_at: applied,
            installed: LogIndex::default(),
            checkpointed: checkpoint,
            memory: MemorySupply::start(&helpers),
            helpers,
            quota_after: None,
            observed: Observed::new(),
            is_published: false,
            on_published: Box::new(on_published),
        })
    }

    /// Runs for the life of the process.
    pub(in crate::shell) async fn run(mut self) {
        self.tell_members();
        self.tell_format_level();
        let idle_tick = Rc::new(Cell::new(false));
        let (ticked, bell) = (Rc::clone(&idle_tick), self.ports.bell.clone());
        glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(IDLE_TICK).await;
                ticked.set(true);
                bell.ring();
            }
        })
        .detach();
        let mut goes_on = false;
        loop {
            let Taken { is_behind, has_calls } = self.take_messages();
            if idle_tick.take() {
                self.on_idle_tick();
            }
            self.watch_quota();
            self.look_at_history();
            self.answer_scrapes();
            // Calls that were answered have their answers before long work goes on. What comes meanwhile does not
            // put it off again.
            let pause = self.pause();
            if goes_on && has_calls && pause.is_none() {
                self.tell_applied();
                self.ring();
                glommio::executor().yield_now().await;
                goes_on = false;
                continue;
            }
            if pause.is_none() {
                goes_on = self.work();
            }
            let has_work = self.lease_turn(is_behind) | self.read_what_waited();
            self.tell_applied();
            let is_waiting_for_room = self.ring();
            let pause = self.pause();
            if has_work || (goes_on && pause.is_none()) {
                breathe().await;
                continue;
            }
            if is_behind || is_waiting_for_room {
                glommio::executor().yield_now().await;
                continue;
            }
            let (inbox, events) = (&self.ports.inbox, &self.checkpoint_events);
            let has_ticked = || self.leases.has_ticked() || self.nodes.has_ticked();
            let has_to_look = || self.auto_compaction.as_ref().is_some_and(CompactionClock::has_ticked);
            let is_asked = || !self.ports.scrapes.is_empty();
            let has_message = || inbox.iter().any(|ring| !ring.is_empty());
            let is_ready =
                || !events.is_empty() || has_ticked() || has_to_look() || is_asked() || has_message();
            // A pause of background work ends by itself; everything else rings.
            if let Some(end) = pause {
                let is_over = glommio::timer::sleep(end.saturating_duration_since(Instant::now()));
                future::or(is_over, self.ports.bell.wait_once(is_ready)).await;
                continue;
            }
            let pause = [self.compact_after, self.checkpoint_after].into_iter().flatten().min();
            match (pause, &self.checkpointing) {
                (Some(end), None) => {
                    let bell = self.ports.bell.clone();
                    let timer = glommio::spawn_local(async move {
                        glommio::timer::sleep(end.saturating_duration_since(Instant::now())).await;
                        bell.ring();
                    });
                    self.ports.bell.wait(|| is_ready() || end <= Instant::now()).await;
                    timer.cancel().await;
                }
                // The checkpoint thread rings when it has room again.
                _ => self.ports.bell.wait_once(is_ready).await,
            }
        }
    }

    /// When long work goes on, if that is not yet. A write for which others wait has no pause.
    fn pause(&mut self) -> Option<Instant> {
        self.turns.pause().filter(|_| self.applying.is_none())
    }

    /// Tells raft what is applied.
    fn tell_applied(&mut self) {
        if self.reported < self.applied {
            self.reported = self.applied;
            self.ports.to_raft.send_always(ToRaft::Applied { index: self.applied });
        }
    }

    fn take_messages(&mut self) -> Taken {
        let mut left = MESSAGES_PER_TURN;
        let (mut has_calls, mut has_other_reads) = (false, false);
        let was_free = self.applying.is_none();
        let rings = self.ports.inbox.len();
        self.first_ring = (self.first_ring + 1) % rings;
        let is_behind = 'rings: {
            for slot in (self.first_ring..rings).chain(0..self.first_ring) {
                // What comes behind a large write, reads that are to see it among it, waits for it.
                while !self.waits_for_write(slot)
                    && let Some(message) = self.ports.inbox[slot].take()
                {
                    has_calls |= is_of_calls(&message);
                    has_other_reads |= matches!(message, ToStore::Read { .. });
                    match message {
                        ToStore::Committed { entries, facts } => {
                            self.on_facts(facts);
                            self.apply_entries(slot, entries.into_iter());
                            // Before the next message: what that one is told must not be ahead of this.
                            self.collect_changes();
                        }
                        ToStore::Confirmed { reads } => {
                            self.observed.begin();
                            for (ticket, read) in reads {
                                left = left.saturating_sub(self.read(ticket, read));
                            }
                        }
                        ToStore::Pieces { order } => {
                            if let Some(said) = self.long_reads.on_order(&mut self.machine, order) {
                                self.say(said);
                            }
                        }
                        ToStore::Read { ticket, read } => {
                            self.observed.begin();
                            left = left.saturating_sub(self.read(ticket, read));
                        }
                        ToStore::LeaseAnswers { answers } => {
                            let revision = self.machine.store().current_revision();
                            for (ticket, body) in answers {
                                self.answer(ticket, Ok(Response { revision, body, resume: None }));
                            }
                        }
                        ToStore::Watch { shard, order } => {
                            let term = self.facts.term;
                            self.watch.on_order(
                                shard,
                                order,
                                self.machine.store(),
                                &self.ports.to_shards,
                                term,
                            );
                        }
                        ToStore::Leadership { facts } => {
                            self.on_facts(facts);
                            self.leases.on_leadership(self.leads());
                            self.nodes.on_leadership(self.leads());
                            self.give_back_lease_questions();
                        }
                        ToStore::LeaseRefused { number } => self.leases.on_refused(number),
                        ToStore::NodeRefused { number } => self.nodes.on_refused(number),
                        ToStore::Wait { shard, order } => {
                            self.waits.on_order(shard, order, &self.machine, &self.ports.to_shards);
                        }
                        ToStore::CompactionRefused { number, refusal } => {
                            if let Some(clock) = &mut self.auto_compaction {
                                clock.on_refused(number, &format!("{refusal:?}"));
                            }
                        }
                        ToStore::CheckpointWanted => {
                            // One that holds all there is may be on its way to raft; one that failed rests.
                            let is_newer = self.checkpointed < self.applied;
                            let may_try = self.checkpoint_after.is_none_or(|end| end <= Instant::now());
                            if self.checkpointing.is_none() && is_newer && may_try {
                                self.begin_checkpoint();
                            }
                        }
                        ToStore::Install { meta, machine } => self.install(&meta, machine),
                    }
                    left = left.saturating_sub(1);
                    if left == 0 {
                        break 'rings true;
                    }
                }
            }
            false
        };
        if has_calls {
            self.turns.on_calls();
        }
        if was_free && self.applying.is_some() && !has_other_reads {
            self.turns.on_all_wait();
        }
        Taken { is_behind, has_calls }
    }

    fn on_facts(&mut self, facts: Facts) {
        self.facts.leader = facts.leader.unwrap_or_default();
        self.facts.term = facts.term;
        self.facts.committed = facts.committed;
        self.facts.is_learner = facts.is_learner;
        self.facts.errors =
            facts.leader.is_none().then(|| status::NO_LEADER.message.into()).into_iter().collect();
    }

    /// The term in which this member leads, if it does.
    fn leads(&self) -> Option<Term> {
        (self.facts.leader == self.position.member).then_some(self.facts.term)
    }

    /// The leader's checkpoint takes the place of the state: this member had fallen behind the log that
    /// others keep. What was under way on the old state ends.
    fn install(&mut self, meta: &CheckpointMeta, machine: Box<Machine>) {
        assert!(self.applied < meta.index, "a checkpoint is installed to get ahead");
        self.give_up_checkpoint();
        let mut said = Vec::new();
        self.long_reads.end_all(&mut self.machine, |what| said.push(what));
        said.into_iter().for_each(|what| self.say(what));
        // What a million keys held is not given back on this core.
        self.helpers.discard(std::mem::replace(&mut self.machine, *machine));
        // Who leads installs nothing, whatever this role has heard so far.
        self.leases.on_leadership(None);
        self.nodes.on_leadership(None);
        self.logins.on_installed(self.machine.realm());
        self.installed = meta.index;
        self.checkpointed = self.checkpointed.max(meta.index);
        self.applied = meta.index;
        self.applied_term = meta.term;
        self.facts.applied = meta.index;
        self.log = LogSince::default();
        for (ticket, ..) in std::mem::take(&mut self.hashing) {
            self.refuse(ticket, Refusal::LeaderChanged);
        }
        self.watch.jump(self.machine.store(), &self.ports.to_shards, self.facts.term);
        self.waits.jump();
        self.tell_members();
        self.tell_format_level();
    }

    fn on_format_level(&self, entry: &Entry) {
        // Once: a restart replays the entry.
        if self.position.recovered < entry.index {
            let level = self.machine.format_level();
            tracing::info!(
                level = level.0,
                needs = level.releases(),
                "the cluster's format level is raised: no member can go back to an earlier release, and none of an \
                 earlier release can join"
            );
        }
        self.tell_format_level();
    }

    /// Tells raft what the cluster may write, or ends the process if this member may not read that.
    fn tell_format_level(&self) {
        let (level, level_max) = (self.machine.format_level(), self.position.format_level_max);
        if let Err(error) = check_format_level(level, level_max) {
            logging::exit(EXIT_STATE_UNKNOWN, || tracing::error!("{error}"));
        }
        self.ports.to_raft.send_always(ToRaft::FormatLevel(level));
    }

    fn change_members(&mut self, entry: &Entry) {
        let change = match MemberChange::decode(entry.data.clone()) {
            Ok(change) => change,
            Err(error) => stop(EntryId { index: entry.index, term: entry.term }, &error.to_string()),
        };
        let outcome = self.machine.change_members(&change);
        tracing::info!(index = entry.index.0, kind = ?change.kind, refused = outcome.is_err(), "membership change");
        let accepted = outcome.is_ok();
        self.ports.to_raft.send_always(ToRaft::Verdict { index: entry.index, accepted });
        self.tell_members();
        if change.origin.member == self.position.member && self.position.recovered < entry.index {
            self.answer(change.origin.ticket, outcome);
        }
    }

    /// Tells raft who the members are.
    fn tell_members(&self) {
        let cluster = Box::new(self.machine.cluster().clone());
        self.ports.to_raft.send_always(ToRaft::Members { cluster });
    }

    fn collect_changes(&mut self) {
        self.watch.collect(self.machine.store(), &self.ports.to_shards, self.facts.term);
        self.waits.collect(&self.machine, &self.ports.to_shards);
    }

    fn on_published(&mut self) {
        if !std::mem::replace(&mut self.is_published, true) {
            (self.on_published)();
        }
    }

    fn answer_request(&mut self, ticket: Ticket, applied: Applied) {
        match applied {
            Applied::Now(outcome) => self.answer(ticket, outcome),
            Applied::AfterCompaction(response) => {
                let revision = self.machine.store().compact_revision();
                self.compacting.push_back((ticket, response, revision));
            }
        }
    }

    /// Answers a read, or takes it in. Returns how many messages it counts as besides its own.
    fn read(&mut self, ticket: Ticket, read: Read) -> usize {
        let Some(Read { login, query, .. }) = self.wait_if_older(ticket, read) else { return 0 };
        if let Err(denied) = self.permit(ticket, login.as_deref(), &query) {
            self.answer(ticket, Err(denied.into()));
            return 0;
        }
        let mut cost = 0;
        match &query {
            Query::NodeTallies => self.answer(ticket, Ok(self.waits.tallies(&self.machine))),
            Query::Token(token) => {
                let outcome = self.logins.user_of(token, &self.machine, self.applied);
                self.answer(ticket, outcome);
            }
            Query::Hash | Query::HashKv(_) | Query::HashCompacted => match self.machine.begin_hash(&query) {
                Ok(cursor) => self.hashing.push_back((ticket, cursor, Instant::now())),
                Err(rejection) => self.answer(ticket, Err(rejection)),
            },
            Query::LeaseKeepAlive(id) => match self.leases.keep_alive(&self.machine, *id, ticket) {
                Some((ticket, result)) => self.tell(ticket, result.map(Ok)),
                None => self.give_back_lease_questions(),
            },
            Query::LeaseTimeToLive(request) => match self.leases.remaining_ms(request, ticket) {
                Some(remaining_ms) => self.tell_time_to_live(ticket, request, remaining_ms),
                None => self.give_back_lease_questions(),
            },
            Query::Snapshot => self.snapshots.push(ticket),
            // Some leases may be half way out.
            Query::LeaseLeases if self.is_preparing() => self.lease_lists.push(ticket),
            Query::LeaseLeases => self.list_leases(ticket),
            _ => match self.machine.read_short(&query, &self.facts) {
                Some(outcome) => {
                    cost = outcome.as_ref().map_or(0, |response| response.body.len() >> 10);
                    self.observed.on_read(&query, &outcome);
                    self.answer(ticket, outcome);
                }
                None => {
                    self.observed.on_long_read(&query);
                    if let Some(said) = self.long_reads.begin(&mut self.machine, ticket, &query) {
                        self.say(said);
                    }
                }
            },
        }
        cost
    }

    /// Answers for a lease that has so much time left.
    fn tell_time_to_live(&mut self, ticket: Ticket, request: &LeaseTimeToLiveRequest, remaining_ms: u64) {
        let Some(read) = self.machine.begin_lease_time_to_live(request, remaining_ms) else {
            return self.answer(ticket, Ok(self.machine.lease_time_to_live(request, remaining_ms)));
        };
        if let Some(said) = self.long_reads.begin_leases(&mut self.machine, ticket, read) {
            self.say(said);
        }
    }

    fn list_leases(&mut self, ticket: Ticket) {
        if !self.machine.has_many_leases() {
            return self.answer(ticket, Ok(self.leases.leases(&self.machine)));
        }
        let read = self.machine.begin_lease_leases();
        if let Some(said) = self.long_reads.begin_leases(&mut self.machine, ticket, read) {
            self.say(said);
        }
    }

    /// Whether a query may be answered. What a client asks while rights are asked for comes with its login, or was
    /// permitted before it went to the leader. What the member asks for itself needs no right.
    fn permit(&self, ticket: Ticket, login: Option<&Login>, query: &Query) -> Result<(), AuthRejection> {
        let is_asked = login.is_some() || matches!(ticket.caller(), Caller::Client(_));
        if is_asked && !query.is_for_leader() { self.machine.permit(login, query) } else { Ok(()) }
    }

    /// Begins the snapshots that were asked for, each of the state after a whole entry.
    fn begin_snapshots(&mut self) {
        if !self.is_between_entries() {
            return;
        }
        for ticket in std::mem::take(&mut self.snapshots) {
            let at = (self.applied, self.applied_term);
            let said = self.long_reads.begin_snapshot(&mut self.machine, ticket, at);
            self.say(said);
        }
    }

    /// A slice of a long read.
    fn read_on(&mut self, slice: &mut Slice) -> bool {
        let (term, mut said) = (self.facts.term, Vec::new());
        self.long_reads.relieve(&mut self.machine, |what| said.push(what));
        let leases = &self.leases;
        self.long_reads.slice(&mut self.machine, (term, leases), slice, |what| said.push(what));
        said.into_iter().for_each(|what| self.say(what));
        self.long_reads.has_work()
    }

    /// Passes on what a long read says.
    fn say(&self, said: Said) {
        match said {
            Said::Answer { ticket, result } => self.tell(ticket, result),
            Said::Notice { shard, notice } => {
                if let Some(sender) = self.ports.to_shards.get(usize::from(shard)) {
                    sender.send_always(ToShard::Pieces(notice));
                }
            }
        }
    }

    /// This member does not lead: what it was asked about leases is for whoever does.
    fn give_back_lease_questions(&mut self) {
        for (ticket, query) in self.leases.take_unserved() {
            let message = match ticket.caller() {
                // The member that passed it on finds the new leader itself.
                Caller::PassedOn(number) => ToRaft::LeaseAnswer { number, result: Err(Refusal::NotLeader) },
                _ => {
                    let command = Command::Read(Read::new(true, query));
                    ToRaft::Command { ticket, command }
                }
            };
            self.ports.to_raft.send_always(message);
        }
    }

    /// Lets time pass for leases; whether that wants another turn at once.
    fn lease_turn(&mut self, is_behind: bool) -> bool {
        if !self.is_between_entries() {
            // Some leases may be half way out.
            return false;
        }
        let StorePorts { to_raft, bell, .. } = &self.ports;
        let wants_turn = self.leases.turn(&self.machine, self.applied, is_behind, to_raft, bell)
            | self.nodes.turn(&self.machine, self.applied, is_behind, to_raft, bell);
        for (ticket, result) in self.leases.take_told(&self.machine) {
            self.tell(ticket, result.map(Ok));
        }
        wants_turn
    }

    fn answer(&self, ticket: Ticket, outcome: Outcome) {
        self.tell(ticket, Ok(outcome));
    }

    fn tell(&self, ticket: Ticket, result: Result<Outcome, Refusal>) {
        let reply = |result: Result<Outcome, _>| {
            let result = result.map(|outcome| Answer { term: self.facts.term, outcome });
            Reply { ticket, result }
        };
        match ticket.caller() {
            Caller::Client(call) => {
                if let Some(sender) = self.ports.to_shards.get(usize::from(call.shard)) {
                    sender.send_always(ToShard::Reply(reply(result)));
                }
            }
            Caller::PassedOn(number) => {
                let result = result.map(|outcome| outcome.expect("a question about a lease is not rejected"));
                self.ports.to_raft.send_always(ToRaft::LeaseAnswer { number, result });
            }
            Caller::Raft(_) => self.ports.to_raft.send_always(ToRaft::Answer(reply(result))),
            Caller::Publish | Caller::Lease(_) | Caller::Node(_) | Caller::Compaction(_) | Caller::Nobody => {
            }
        }
    }

    fn refuse(&self, ticket: Ticket, refusal: Refusal) {
        self.tell(ticket, Err(refusal));
    }

    fn ring(&self) -> bool {
        let mut is_waiting = self.ports.to_raft.ring();
        for sender in &self.ports.to_shards {
            is_waiting |= sender.ring();
        }
        is_waiting
    }

    /// Slices of long work, as many as a turn has. Whether any of it wants another turn at once.
    fn work(&mut self) -> bool {
        self.begin_snapshots();
        let mut turn = self.turns.begin();
        let mut wants_turn = false;
        while let Some((kind, mut slice)) = turn.next_slice() {
            let begun = Instant::now();
            wants_turn |= match kind {
                Kind::Write => self.prepare(&mut slice),
                Kind::Read => self.read_on(&mut slice),
                // What a write superseded stays until that is committed, and what it owes may be taken back.
                Kind::Compact => self.clear(&mut slice),
                Kind::Hash => self.hash(&mut slice),
                Kind::Checkpoint => self.checkpoint(&mut slice),
                Kind::Wait => self.waits.work(&self.machine, &self.ports.to_shards, &mut slice),
                Kind::Watch => {
                    let (store, term) = (self.machine.store(), self.facts.term);
                    self.watch.work(store, &self.ports.to_shards, term, &mut slice)
                }
            };
            slice.check();
            turn.on_slice(&slice, begun.elapsed());
        }
        self.turns.end(&turn);
        wants_turn
    }

    /// Raises the NOSPACE alarm when the key space has reached its quota, or a request was refused that
    /// would have taken it there. All members refuse alike because of the alarm; a few more may come
    /// before it.
    fn watch_quota(&mut self) {
        let held_bytes = self.machine.bytes_held();
        self.quota.on_held(held_bytes);
        let is_reached = self.quota.take_exceeded() || self.quota.quota_bytes() <= held_bytes;
        if !is_reached || !self.is_published {
            return;
        }
        let alarm = Alarm { kind: AlarmType::NoSpace, member: self.position.member };
        if self.machine.alarms().contains(alarm) || self.quota_after.is_some_and(|end| Instant::now() < end) {
            return;
        }
        self.quota_after = Some(Instant::now() + QUOTA_RETRY);
        tracing::error!(
            bytes = held_bytes,
            quota = self.quota.quota_bytes(),
            "the key space has reached --quota-backend-bytes, or a request would take it there; raising the NOSPACE alarm. Delete keys, compact, then disarm it"
        );
        let body = alarm.activation().encode_to_vec().into();
        let login = Login::of_member(self.machine.format_level()).map(Arc::new);
        let command = Command::Propose { kind: RequestKind::Alarm, body, login };
        self.ports.to_raft.send_always(ToRaft::Command { ticket: Caller::Nobody.into(), command });
    }

    fn hash(&mut self, slice: &mut Slice) -> bool {
        let Some((ticket, cursor, begun)) = self.hashing.front_mut() else { return false };
        if !self.machine.store().is_settled_through(cursor.revision()) {
            // It would look for the next version of each record.
            return false;
        }
        if let Some(outcome) = self.machine.hash_slice(cursor, slice) {
            let (ticket, begun, is_of_all) = (*ticket, *begun, cursor.is_of_all());
            self.observed.on_hashed(is_of_all, begun);
            self.hashing.pop_front();
            self.answer(ticket, outcome);
        }
        !self.hashing.is_empty()
    }
}

/// What one look at the rings brought.
struct Taken {
    /// More may be waiting.
    is_behind: bool,
    /// Somebody was answered, or is going to be.
    has_calls: bool,
}

/// Whether somebody waits for what this message brings. Those who take an answer in pieces are long work themselves.
fn is_of_calls(message: &ToStore) -> bool {
    matches!(
        message,
        ToStore::Committed { .. }
            | ToStore::Confirmed { .. }
            | ToStore::Read { .. }
            | ToStore::LeaseAnswers { .. }
    )
}

/// The cluster writes what this member may not read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the format level of this data is {level}, and this member reads up to {level_max}. {advice}",
    advice = advice(*level)
)]
pub(in crate::shell) struct FormatLevelTooHigh {
    level: FormatLevel,
    level_max: FormatLevel,
}

fn advice(level: FormatLevel) -> String {
    if level <= FormatLevel::HIGHEST {
        "--format-level-max holds it below what the cluster has reached, and a level never falls: start it with a \
         higher one, or without the flag"
            .to_owned()
    } else {
        format!("Start {}", level.releases())
    }
}

/// # Errors
/// When a member that reads up to `level_max` may not be given a state of `level`.
pub(in crate::shell) fn check_format_level(
    level: FormatLevel,
    level_max: FormatLevel,
) -> Result<(), FormatLevelTooHigh> {
    if level <= level_max { Ok(()) } else { Err(FormatLevelTooHigh { level, level_max }) }
}

/// The log holds something this version cannot apply: going on would make the member differ.
pub(in crate::shell) fn stop(at: EntryId, problem: &str) -> ! {
    logging::exit(EXIT_STATE_UNKNOWN, || {
        tracing::error!(
            index = at.index.0,
            term = at.term.0,
            problem,
            "a committed entry cannot be applied; the process ends before its state differs from the other members'. \
             Start a version that knows it"
        );
    })
}
