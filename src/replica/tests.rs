//! Clusters of replicas in one thread: a seeded network, disks and crashes, and the checks that
//! every step must pass.
//!
//! A run is a function of its seed. It has a stormy part (loss, delay, duplication, partitions,
//! crashes with torn writes, membership changes, checkpoints) and a calm one, at whose end everything
//! must have arrived. Checked after every step: election safety, log matching, leader completeness,
//! that what was applied somewhere never differs elsewhere or later, and that a linearizable read is
//! not released at a place before something acknowledged when it arrived. At the end: every
//! acknowledged request is in every member's state once, and the states are equal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Config, Ready, Replica};
use crate::apply::{Parts, Sessions};
use crate::raft::tests::{Disk, runs};
use crate::raft::{
    self, CheckpointMeta, ConfChange, ConfChangeKind, Entry, EntryKind, Message, MessageKind, RaftState,
    Retention,
};
use crate::request::group::decode_group;
use crate::request::{Refusal, RequestKind};
use crate::types::{FormatLevel, LogIndex, MemberId, Term, Ticket};

/// What is planted into a cluster to see that its checks see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// Writes are reported durable when they are only written.
    DurableBeforeSync,
    /// A follower answers reads from its own commit index, without a round.
    ReadsWithoutRound,
    /// The disk loses what it said was synced.
    DiskLies,
    /// A group that is in the log twice is applied twice.
    AppliesCopies,
    /// The log of one life of a member is taken for that of the next.
    SameIncarnation,
}

/// What a member's state machine holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    index: LogIndex,
    term: Term,
    voters: BTreeSet<MemberId>,
    learners: BTreeSet<MemberId>,
    sessions: Sessions,
    parts: Parts,
    tickets: Vec<(MemberId, Ticket)>,
}

impl State {
    fn new(meta: &CheckpointMeta) -> Self {
        Self {
            index: meta.index,
            term: meta.term,
            voters: meta.voters.iter().copied().collect(),
            learners: meta.learners.iter().copied().collect(),
            sessions: Sessions::default(),
            parts: Parts::default(),
            tickets: Vec::new(),
        }
    }

    fn meta(&self) -> CheckpointMeta {
        CheckpointMeta {
            index: self.index,
            term: self.term,
            voters: self.voters.iter().copied().collect(),
            learners: self.learners.iter().copied().collect(),
        }
    }

    /// The rule every member applies alike.
    fn accepts(&self, change: &ConfChange) -> bool {
        let known = self.voters.contains(&change.member) || self.learners.contains(&change.member);
        match change.kind {
            ConfChangeKind::AddLearner => !known,
            ConfChangeKind::AddVoter => self.learners.contains(&change.member),
            ConfChangeKind::Remove => {
                known && (self.voters.len() > 1 || !self.voters.contains(&change.member))
            }
        }
    }

    fn change(&mut self, change: &ConfChange) {
        self.learners.remove(&change.member);
        self.voters.remove(&change.member);
        match change.kind {
            ConfChangeKind::AddLearner => drop(self.learners.insert(change.member)),
            ConfChangeKind::AddVoter => drop(self.voters.insert(change.member)),
            ConfChangeKind::Remove => {}
        }
    }
}

struct Member {
    id: MemberId,
    /// Absent while it is down.
    replica: Option<Replica<u64>>,
    disk: Disk,
    state: State,
    /// The state at `disk.checkpoint`; survives.
    saved: State,
    to_apply: VecDeque<Entry>,
    /// By the number of its `Ready`, what is on its way to the disk.
    written: Vec<(u64, Vec<Written>)>,
    /// The content of the checkpoint whose message is being stepped; raft may have no use for it.
    offered: Option<State>,
    /// The content of the checkpoint that is being installed.
    fetched: Option<State>,
    /// What the thread that reads the log will answer: when, to which fetch, what.
    reading: Vec<(u64, u64, Option<Vec<Entry>>)>,
}

/// Index and term of an entry; the term before it, and its data.
type Written = ((LogIndex, Term), (Term, Bytes));

struct Packet {
    due: u64,
    bytes: Bytes,
    /// The content of a checkpoint message, which travels apart.
    content: Option<State>,
}

struct Cluster {
    random: StdRng,
    bug: Bug,
    now: u64,
    stormy: bool,
    members: BTreeMap<MemberId, Member>,
    packets: Vec<Packet>,
    /// Pairs that cannot talk, one way.
    cut: BTreeSet<(MemberId, MemberId)>,
    pipeline_depth: usize,
    next_ticket: u64,
    starts: u64,
    /// Groups that came again and were passed over.
    copies: u64,
    /// Requests that were put together from their parts.
    joined: u64,
    // What was seen, for the checks.
    leaders: BTreeMap<Term, MemberId>,
    /// Term of the entry before, and data, of every entry ever appended anywhere.
    appended: BTreeMap<(LogIndex, Term), (Term, Bytes)>,
    /// What was applied at each place, by whoever was first.
    applied: BTreeMap<LogIndex, (Term, Bytes)>,
    acknowledged: BTreeMap<Ticket, LogIndex>,
    acknowledged_max: LogIndex,
    /// Whoever asked was told that it is in no log.
    refused: BTreeSet<Ticket>,
    /// What was acknowledged when a read arrived.
    reads: BTreeMap<u64, LogIndex>,
    reads_released: u64,
    /// Entries read back from disks for followers.
    read_back: u64,
    trace: u64,
}

/// The request of this ticket: bytes that are its own, and one in eight goes in parts.
fn body_of(ticket: Ticket) -> Bytes {
    let seed = ticket.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = if seed >> 61 == 0 { 100 + (seed >> 32 & 0xff) } else { seed >> 32 & 0x3f };
    (0..length).map(|place| (seed ^ place.wrapping_mul(seed | 1)).to_be_bytes()[0]).collect()
}

type Check = Result<(), String>;

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(what()) }
}

impl Cluster {
    fn new(seed: u64, size: u64, bug: Bug) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let pipeline_depth = random.random_range(1..4);
        let mut cluster = Self {
            random,
            bug,
            now: 0,
            stormy: true,
            members: BTreeMap::new(),
            packets: Vec::new(),
            cut: BTreeSet::new(),
            pipeline_depth,
            next_ticket: 1,
            starts: 0,
            copies: 0,
            joined: 0,
            leaders: BTreeMap::new(),
            appended: BTreeMap::new(),
            applied: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            acknowledged_max: LogIndex(0),
            refused: BTreeSet::new(),
            reads: BTreeMap::new(),
            reads_released: 0,
            read_back: 0,
            trace: 0,
        };
        let start = CheckpointMeta::bootstrap((1..=size).map(MemberId));
        for id in start.voters.clone() {
            cluster.add(id, start.clone());
        }
        cluster
    }

    fn add(&mut self, id: MemberId, start: CheckpointMeta) {
        let state = State::new(&start);
        let disk = Disk::new(start);
        let member = Member {
            id,
            replica: None,
            disk,
            saved: state.clone(),
            state,
            to_apply: VecDeque::new(),
            written: Vec::new(),
            offered: None,
            fetched: None,
            reading: Vec::new(),
        };
        self.members.insert(id, member);
        self.start(id).expect("nothing is in its log");
    }

    fn start(&mut self, id: MemberId) -> Check {
        self.starts += 1;
        let is_told_apart = self.bug != Bug::SameIncarnation;
        let mut raft = raft::Config::new(id, if is_told_apart { self.starts } else { 1 });
        raft.retention = Retention { entries_max: 5, bytes_max: 1 << 20 };
        raft.message_bytes_max = 2_000;
        raft.committed_bytes_max = 2_000;
        let pipeline_depth = self.pipeline_depth;
        let config = Config {
            pipeline_depth,
            pipeline_bytes: 300,
            large_bytes_min: 100,
            part_bytes: 60,
            ..Config::new(raft)
        };
        let lies = self.bug == Bug::DiskLies;
        let member = self.members.get_mut(&id).unwrap();
        member.state = member.saved.clone();
        member.to_apply.clear();
        member.written.clear();
        member.fetched = None;
        member.reading.clear();
        let disk = member.disk.clone();
        let mut fault = None;
        // What is committed for certain, or some of it, is applied before there is a replica.
        let replayed_max = if lies { 0 } else { self.random.random_range(0..40) };
        let mut recovered = disk.replay(replayed_max, |entry| {
            fault = fault.take().or(self.apply_entry(id, entry).err());
            self.members[&id].state.meta()
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        if lies {
            recovered.entries.truncate(recovered.entries.len() / 2);
        }
        let mut replica = Replica::new(config, recovered).unwrap();
        replica.on_format_level(FormatLevel::HIGHEST);
        self.members.get_mut(&id).unwrap().replica = Some(replica);
        Ok(())
    }

    fn crash(&mut self, id: MemberId) {
        let member = self.members.get_mut(&id).unwrap();
        member.replica = None;
        member.disk.crash(&mut self.random);
    }

    fn node_mut(&mut self, id: MemberId) -> &mut raft::Node {
        self.members.get_mut(&id).unwrap().replica.as_mut().unwrap().node_mut()
    }

    fn pick(&mut self) -> MemberId {
        let slot = self.random.random_range(0..self.members.len());
        *self.members.keys().nth(slot).unwrap()
    }

    fn leader(&self) -> Option<MemberId> {
        let leads = |member: &&Member| {
            let replica = member.replica.as_ref();
            replica.is_some_and(|replica| replica.status().state == RaftState::Leader)
        };
        let newest = self
            .members
            .values()
            .filter(leads)
            .max_by_key(|member| member.replica.as_ref().map(|replica| replica.status().term));
        newest.map(|member| member.id)
    }

    /// A tick of everybody, and whatever else happens in it.
    fn round(&mut self) -> Check {
        self.now += 1;
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            if let Some(replica) = &mut self.members.get_mut(&id).unwrap().replica {
                // Clocks drift.
                if !self.random.random_ratio(1, 10) {
                    replica.on_tick();
                }
            }
            self.answer_fetches(id);
            self.run(id)?;
        }
        if self.now.is_multiple_of(20) {
            self.give_up_checkpoints();
        }
        for _ in 0..self.random.random_range(0..30) {
            self.event()?;
        }
        self.deliver()
    }

    /// A transport tells a leader what became of a checkpoint it sent; this one that none arrived.
    fn give_up_checkpoints(&mut self) {
        let ids: Vec<MemberId> = self.members.keys().copied().collect();
        for member in self.members.values_mut() {
            let Some(replica) = &mut member.replica else { continue };
            for &peer in ids.iter().filter(|&&peer| peer != member.id) {
                replica.node_mut().on_checkpoint_sent(peer, false);
            }
        }
    }

    fn event(&mut self) -> Check {
        let id = self.pick();
        let dice = self.random.random_range(0..1000);
        let member = self.members.get_mut(&id).unwrap();
        match dice {
            0..300 if self.stormy => {
                if let Some(replica) = &mut member.replica {
                    let ticket = Ticket(self.next_ticket);
                    self.next_ticket += 1;
                    // Refused is fine; it is then in no log, and nobody expects it.
                    let _refused = replica.on_request(ticket, RequestKind::Put, body_of(ticket), None);
                }
            }
            300..450 if self.stormy => {
                if let Some(replica) = &mut member.replica {
                    let read = self.next_ticket;
                    self.next_ticket += 1;
                    if replica.on_read(read).is_ok() {
                        self.reads.insert(read, self.acknowledged_max);
                    }
                }
            }
            450..700 => self.sync(id)?,
            700..950 => self.apply(id)?,
            950..955 if self.stormy => self.crash(id),
            955..975 if self.stormy && member.replica.is_none() => self.start(id)?,
            975..980 if self.stormy => {
                let other = self.pick();
                self.cut.insert((id, other));
                if self.random.random() {
                    self.cut.insert((other, id));
                }
            }
            980..985 => self.cut.clear(),
            985..988 if self.stormy => self.change_membership(id),
            988..990 if self.stormy => {
                if let Some(replica) = &mut self.members.get_mut(&id).unwrap().replica {
                    let to = MemberId(self.random.random_range(1..4));
                    replica.node_mut().transfer_leader(to);
                }
            }
            990..996 if self.stormy => self.save(id),
            // A new connection to the leader, which is told whether or not the last one was worse.
            996..997 if self.stormy => {
                if let Some(replica) = &mut self.members.get_mut(&id).unwrap().replica
                    && let Some(leader) = replica.status().leader
                {
                    replica.on_reconnected(leader);
                }
            }
            // News that the leader's process has ended, true or not.
            997..1000 if self.stormy => {
                if let Some(replica) = &mut self.members.get_mut(&id).unwrap().replica {
                    if let Some(leader) = replica.status().leader {
                        replica.node_mut().forget_leader(leader);
                    }
                    if self.random.random() {
                        replica.node_mut().campaign();
                    }
                }
            }
            _ => {}
        }
        self.run(id)
    }

    fn change_membership(&mut self, id: MemberId) {
        let Some(leader) = self.leader() else { return };
        let state = &self.members[&leader].state;
        let newcomer = MemberId(self.random.random_range(4..8));
        let (kind, member) = if state.learners.contains(&newcomer) {
            (ConfChangeKind::AddVoter, newcomer)
        } else if !self.members.contains_key(&newcomer) {
            (ConfChangeKind::AddLearner, newcomer)
        } else if state.voters.len() > 3 {
            (ConfChangeKind::Remove, id)
        } else {
            return;
        };
        if kind == ConfChangeKind::AddLearner {
            self.add(newcomer, CheckpointMeta::joining());
        }
        let change = ConfChange { kind, member, context: Bytes::new() };
        let replica = self.members.get_mut(&leader).unwrap().replica.as_mut().unwrap();
        let _refused = replica.propose_conf_change(&change);
    }

    fn sync(&mut self, id: MemberId) -> Check {
        let member = self.members.get_mut(&id).unwrap();
        let Some(replica) = &mut member.replica else { return Ok(()) };
        let Some((number, checkpoint)) = member.disk.sync() else { return Ok(()) };
        if let Some(meta) = checkpoint {
            let content = member.fetched.take().expect("fetched before its message was stepped");
            assert_eq!(content.meta(), meta);
            member.saved = content.clone();
            replica.on_installed(content.sessions.last_number(id, replica.incarnation()));
            member.state = content;
            member.to_apply.retain(|entry| meta.index < entry.index);
        }
        if self.bug != Bug::DurableBeforeSync {
            replica.on_durable(number);
        }
        self.on_durable(id, number)
    }

    fn apply(&mut self, id: MemberId) -> Check {
        let count = self.random.random_range(1..5);
        for _ in 0..count {
            let member = self.members.get_mut(&id).unwrap();
            if member.replica.is_none() {
                return Ok(());
            }
            // What is behind a checkpoint that is being installed waits for it.
            if member.to_apply.front().is_none_or(|entry| entry.index.0 != member.state.index.0 + 1) {
                return Ok(());
            }
            let entry = member.to_apply.pop_front().unwrap();
            let index = entry.index;
            if let Some(accepted) = self.apply_entry(id, entry)? {
                self.node_mut(id).on_conf_change(index, accepted).map_err(|error| error.to_string())?;
            }
            let replica = self.members.get_mut(&id).unwrap().replica.as_mut();
            replica.expect("it runs").on_applied(index);
        }
        Ok(())
    }

    /// Returns the verdict on a change of members.
    fn apply_entry(&mut self, id: MemberId, entry: Entry) -> Result<Option<bool>, String> {
        let member = self.members.get_mut(&id).unwrap();
        (member.state.index, member.state.term) = (entry.index, entry.term);
        let seen = self.applied.entry(entry.index).or_insert((entry.term, entry.data.clone()));
        ensure(*seen == (entry.term, entry.data.clone()), || {
            format!("{id} applies another entry at {:?} than a member before it", entry.index)
        })?;
        if entry.kind == EntryKind::ConfChange {
            let change = ConfChange::decode(entry.data.clone()).unwrap();
            let accepted = member.state.accepts(&change);
            if accepted {
                member.state.change(&change);
            }
            return Ok(Some(accepted));
        }
        let group = decode_group(entry.data).unwrap();
        let is_new = group.id.is_none_or(|id| member.state.sessions.admit(id));
        self.copies += u64::from(!is_new);
        let is_admitted = is_new || self.bug == Bug::AppliesCopies;
        for request in group.requests.into_iter().filter(|_| is_admitted) {
            let request = match group.id {
                Some(id) if request.kind == RequestKind::Part => {
                    let Some(whole) = member.state.parts.take(id, request) else { continue };
                    self.joined += 1;
                    whole
                }
                _ => request,
            };
            ensure(request.body == body_of(request.origin.ticket), || {
                format!("{:?} is not what was asked for: {:?}", request.origin, request.kind)
            })?;
            let origin = request.origin;
            member.state.tickets.push((origin.member, origin.ticket));
            if origin.member == id {
                let again = self.acknowledged.insert(origin.ticket, entry.index);
                ensure(again.is_none_or(|index| index == entry.index), || {
                    format!("{:?} is applied twice", origin.ticket)
                })?;
                self.acknowledged_max = self.acknowledged_max.max(entry.index);
            }
        }
        Ok(None)
    }

    /// The member writes a checkpoint.
    fn save(&mut self, id: MemberId) {
        let member = self.members.get_mut(&id).unwrap();
        let Some(replica) = &mut member.replica else { return };
        // None while another member's is being installed: it would come out of order.
        if member.fetched.is_some() || member.state.index <= member.saved.index {
            return;
        }
        let meta = member.state.meta();
        member.saved = member.state.clone();
        // Beyond a bound the log keeps nothing for anybody.
        let is_full = self.random.random_ratio(1, 4);
        let needed_after = replica.node().log_needed_after(2).filter(|_| !is_full);
        let kept = if is_full { 0 } else { self.random.random_range(0..30) };
        let floor = member.disk.release_some(meta.clone(), kept, needed_after);
        replica.on_checkpoint(meta);
        replica.node_mut().on_log_released(floor);
    }

    /// The member's thread reads the log: at once, late, never, in vain, or it answers with what nobody
    /// asked for.
    fn fetch(&mut self, id: MemberId, fetch: &raft::Fetch) {
        let Self { random, now, stormy, members, .. } = self;
        let member = members.get_mut(&id).unwrap();
        let entries = member.disk.read(fetch, random.random_range(1..20));
        let mut answer = (!entries.is_empty()).then_some(entries);
        if *stormy {
            match random.random_range(0..20) {
                0 => return,
                1 | 2 => answer = None,
                3 | 4 => {
                    let entries = answer.get_or_insert_default();
                    let slot = random.random_range(0..=entries.len());
                    entries.truncate(slot);
                    entries.extend(member.disk.any_version(random));
                }
                _ => {}
            }
        }
        let delay = if *stormy { random.random_range(0..8) } else { 0 };
        member.reading.push((*now + delay, fetch.number, answer));
    }

    fn answer_fetches(&mut self, id: MemberId) {
        let now = self.now;
        let member = self.members.get_mut(&id).unwrap();
        let Some(replica) = &mut member.replica else { return };
        for (_, number, entries) in member.reading.extract_if(.., |(due, ..)| *due <= now) {
            self.read_back += entries.as_ref().map_or(0, |entries| entries.len() as u64);
            replica.node_mut().on_fetched(number, entries);
        }
    }

    /// Does what the member asks for until it asks for nothing.
    fn run(&mut self, id: MemberId) -> Check {
        loop {
            let member = self.members.get_mut(&id).unwrap();
            let Some(replica) = &mut member.replica else { return Ok(()) };
            if self.bug == Bug::ReadsWithoutRound {
                let index = replica.status().committed;
                for read in self.reads.keys().copied().collect::<Vec<_>>() {
                    let floor = self.reads.remove(&read).unwrap();
                    ensure(floor <= index, || format!("read {read} is stale"))?;
                }
            }
            if replica.node().take_checkpoint_wanted() {
                self.save(id);
            }
            while let Some(fetch) = self.node_mut(id).take_fetch() {
                self.fetch(id, &fetch);
            }
            let member = self.members.get_mut(&id).unwrap();
            let Some(ready) = member.replica.as_mut().unwrap().take_ready() else { break };
            let Ready { raft, reads, reads_index, refused_requests, .. } = ready;
            // Of these two nobody can know; every other refusal says that the request is in no log.
            let is_certain = |refusal| !matches!(refusal, Refusal::TimedOut | Refusal::LostWithLeader);
            let certain = refused_requests.into_iter().filter(|(_, refusal)| is_certain(*refusal));
            self.refused.extend(certain.map(|(ticket, _)| ticket));
            if let Some(raft) = raft {
                self.take(id, raft)?;
            }
            for read in reads {
                self.reads_released += 1;
                let floor = self.reads.remove(&read).unwrap_or_default();
                ensure(floor <= reads_index, || {
                    format!(
                        "read {read} at {id} released at {reads_index:?}, {floor:?} was acknowledged before"
                    )
                })?;
            }
        }
        self.check(id)
    }

    fn take(&mut self, id: MemberId, ready: raft::Ready) -> Check {
        for message in &ready.messages {
            // A transport knows of some messages that they were not sent, for want of a connection.
            let is_unsent = self.stormy && self.random.random_ratio(1, 10);
            if is_unsent {
                self.members.get_mut(&id).unwrap().replica.as_mut().unwrap().on_unsent(message);
            } else {
                self.send(message);
            }
        }
        let member = self.members.get_mut(&id).unwrap();
        member.disk.write(&ready);
        if let Some(meta) = &ready.checkpoint {
            member.fetched = member.offered.take();
            ensure(member.fetched.as_ref().map(State::meta).as_ref() == Some(meta), || {
                format!("{id} is to install {meta:?}, which it was not offered")
            })?;
        }
        for entry in &ready.entries {
            self.trace = self.trace.wrapping_mul(31).wrapping_add(entry.index.0 ^ entry.term.0 ^ id.0);
        }
        if self.bug == Bug::DurableBeforeSync && ready.must_sync && ready.checkpoint.is_none() {
            member.replica.as_mut().unwrap().on_durable(ready.number);
        }
        member.to_apply.extend(ready.committed);
        let mut previous = ready.entries.first().map(|first| self.term_before(id, first));
        let written = ready.entries.into_iter().map(|entry| {
            let before = previous.replace(entry.term).expect("there is a first entry");
            ((entry.index, entry.term), (before, entry.data))
        });
        let written: Vec<Written> = written.collect();
        self.members.get_mut(&id).unwrap().written.push((ready.number, written));
        Ok(())
    }

    /// A sole voter may lose, in a crash, a term that it won and nobody heard of, and win it again: so
    /// what counts is what is durable somewhere.
    fn on_durable(&mut self, id: MemberId, number: u64) -> Check {
        let written = &mut self.members.get_mut(&id).unwrap().written;
        for (_, entries) in written.extract_if(.., |(written, _)| *written <= number) {
            for ((index, term), entry) in entries {
                let seen = self.appended.entry((index, term)).or_insert_with(|| entry.clone());
                ensure(*seen == entry, || {
                    format!(
                        "raft 5.3: two entries at {index:?} in {term:?} differ, or differ in what precedes"
                    )
                })?;
            }
        }
        Ok(())
    }

    /// The term of the entry before, in the member's own log.
    fn term_before(&self, id: MemberId, entry: &Entry) -> Term {
        let node = self.members[&id].replica.as_ref().unwrap().node();
        node.term_at(LogIndex(entry.index.0 - 1)).expect("the entry before is the log's or the checkpoint's")
    }

    fn send(&mut self, message: &Message) {
        let mut buffer = BytesMut::new();
        message.encode(&mut buffer);
        let content =
            (message.kind() == MessageKind::Snapshot).then(|| self.members[&message.from()].saved.clone());
        let copies = match self.random.random_range(0..100) {
            0..8 if self.stormy => 0,
            8..16 if self.stormy => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if self.stormy { self.random.random_range(0..4) } else { 1 };
            let far = self.stormy && self.random.random_ratio(1, 50);
            let due = self.now + delay + if far { 30 } else { 0 };
            self.packets.push(Packet { due, bytes: buffer.clone().freeze(), content: content.clone() });
        }
    }

    fn deliver(&mut self) -> Check {
        // Each pass delivers what is due in any order; answers within the tick come in the next pass.
        for _ in 0..3 {
            let now = self.now;
            let mut due: Vec<Packet> = self.packets.extract_if(.., |packet| packet.due <= now).collect();
            while !due.is_empty() {
                let packet = due.swap_remove(self.random.random_range(0..due.len()));
                let message = Message::decode(packet.bytes).map_err(|error| error.to_string())?;
                let (from, to) = (message.from(), message.to());
                if self.cut.contains(&(from, to)) {
                    continue;
                }
                let Some(member) = self.members.get_mut(&to) else { continue };
                let Some(replica) = &mut member.replica else { continue };
                if packet.content.is_some() {
                    // One at a time; and only for a message that still means that content.
                    let meta = packet.content.as_ref().map(State::meta);
                    if member.fetched.is_some() || message.checkpoint() != meta {
                        continue;
                    }
                    member.offered = packet.content;
                }
                if let Err(error) = replica.on_message(message)
                    && matches!(error, raft::StepError::LogLost { .. } | raft::StepError::VoteTooEarly)
                {
                    return Err(error.to_string());
                }
                self.run(to)?;
                if let Some(member) = self.members.get_mut(&to) {
                    member.offered = None;
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, id: MemberId) -> Check {
        let node = self.members[&id].replica.as_ref().unwrap().node();
        node.check_invariants();
        let status = node.status();
        if status.state == RaftState::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(id);
            ensure(leader == id, || format!("raft 5.2: {leader} and {id} both lead in {:?}", status.term))?;
            for (index, (term, _)) in self.applied.range(node.first_held()..) {
                ensure(node.term_at(*index) == Some(*term) || status.term < *term, || {
                    format!("raft 5.4: {id} leads in {:?} without the entry at {index:?}", status.term)
                })?;
            }
        }
        Ok(())
    }

    /// No more faults: everybody up, everything delivered, until all agree.
    fn calm(&mut self) -> Check {
        self.stormy = false;
        self.cut.clear();
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            if self.members[&id].replica.is_none() {
                self.start(id)?;
            }
        }
        let wanted = self.now + 3_000;
        while self.now < wanted {
            self.round()?;
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                self.sync(id)?;
                self.apply(id)?;
                self.run(id)?;
            }
            if self.now.is_multiple_of(20) && self.agreed() {
                return self.everything_acknowledged_is_everywhere();
            }
        }
        let stands = self.current().into_iter().map(|member| {
            let status = member.replica.as_ref().map(Replica::status);
            format!(
                "\n{}: applied {:?}, {} to apply, {status:?}",
                member.id,
                member.state.index,
                member.to_apply.len()
            )
        });
        Err(format!("a calm cluster did not come to agree: {}", stands.collect::<String>()))
    }

    fn current(&self) -> Vec<&Member> {
        let newest = self.members.values().max_by_key(|member| member.state.index).unwrap();
        let state = &newest.state;
        let ids = state.voters.iter().chain(&state.learners);
        ids.filter_map(|id| self.members.get(id)).collect()
    }

    fn agreed(&self) -> bool {
        let members = self.current();
        let calm = |member: &&Member| member.to_apply.is_empty() && member.state == members[0].state;
        // A leader that is new has not committed everything that its predecessors had.
        let has_all = |leader| {
            let leader: &Member = &self.members[&leader];
            let status = leader.replica.as_ref().map(Replica::status);
            status.is_some_and(|status| status.committed == status.last && status.last == leader.state.index)
        };
        self.leader().is_some_and(has_all) && members.iter().all(calm)
    }

    fn everything_acknowledged_is_everywhere(&self) -> Check {
        for member in self.current() {
            let tickets: BTreeSet<Ticket> = member.state.tickets.iter().map(|(_, ticket)| *ticket).collect();
            ensure(tickets.len() == member.state.tickets.len(), || {
                format!("{} holds a request twice", member.id)
            })?;
            let lost = self.acknowledged.keys().find(|ticket| !tickets.contains(ticket));
            ensure(lost.is_none(), || format!("{lost:?} was acknowledged and {} lacks it", member.id))?;
            let undead = self.refused.intersection(&tickets).next();
            ensure(undead.is_none(), || format!("{undead:?} was refused and {} holds it", member.id))?;
        }
        Ok(())
    }
}

/// What a run came to, for comparing two runs of one seed.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    acknowledged: usize,
    refused: usize,
    reads_released: u64,
    copies: u64,
    joined: u64,
    read_back: u64,
    trace: u64,
}

fn run(seed: u64, size: u64, rounds: u64, bug: Bug) -> Result<Outcome, String> {
    let mut cluster = Cluster::new(seed, size, bug);
    for _ in 0..rounds {
        cluster.round()?;
    }
    cluster.calm()?;
    let Cluster { acknowledged, refused, reads_released, copies, joined, read_back, trace, .. } = cluster;
    let (acknowledged, refused) = (acknowledged.len(), refused.len());
    Ok(Outcome { acknowledged, refused, reads_released, copies, joined, read_back, trace })
}

#[test]
fn clusters_stay_consistent_through_loss_partitions_crashes_and_membership_changes() {
    let (mut acknowledged, mut refused, mut reads) = (0, 0, 0);
    let (mut copies, mut joined, mut read_back) = (0, 0, 0);
    for seed in 0..runs(30) {
        let size = [1, 3, 3, 3, 5][usize::try_from(seed % 5).unwrap()];
        match run(seed, size, 300, Bug::None) {
            Ok(outcome) => {
                acknowledged += outcome.acknowledged;
                refused += outcome.refused;
                copies += outcome.copies;
                joined += outcome.joined;
                read_back += outcome.read_back;
                // A sole voter's reads prove nothing about rounds.
                reads += if size == 1 { 0 } else { outcome.reads_released };
            }
            Err(fault) => panic!("run({seed}, {size}, 300, Bug::None): {fault}"),
        }
    }
    println!("{acknowledged} requests acknowledged, {refused} refused, {reads} reads released");
    println!(
        "{copies} groups came again, {joined} requests came in parts, {read_back} entries were read back from the disk for followers"
    );
    assert!(100 < copies, "next to nothing was proposed again");
    assert!(300 < joined, "next to nothing came in parts");
    assert!(1_000 < read_back, "followers caught up by other ways");
    assert!(1_000 < acknowledged, "the storm let next to nothing through");
    assert!(300 < reads, "the storm let next to nothing through");
}

#[test]
fn same_seed_gives_the_same_run() {
    assert_eq!(run(7, 3, 200, Bug::None), run(7, 3, 200, Bug::None));
}

/// The harness above must see the bugs it exists for. Asserts of the code under test count as seen.
#[test]
fn planted_bugs_are_seen() {
    for bug in [
        Bug::DurableBeforeSync,
        Bug::ReadsWithoutRound,
        Bug::DiskLies,
        Bug::AppliesCopies,
        Bug::SameIncarnation,
    ] {
        let seen = (0..60).find(|&seed| {
            let result = std::panic::catch_unwind(|| run(seed, 3, 300, bug));
            // That nothing moves any more is no sign that the right check saw it.
            !matches!(&result, Ok(Ok(_))) && !matches!(&result, Ok(Err(fault)) if fault.contains("calm"))
        });
        println!("{bug:?} seen with seed {seen:?}");
        assert!(seen.is_some(), "{bug:?} went unseen");
    }
}
