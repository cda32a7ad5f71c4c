//! A disk double, and what one node alone must hold to. Clusters are in `replica/tests.rs`.

use std::collections::VecDeque;

use ::raft::eraftpb;
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::pb::peer as pb;
use crate::types::{LogIndex, MemberId, Term};

/// A disk that holds what was synced, and may hold part of what was only written.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) checkpoint: CheckpointMeta,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    written: VecDeque<Write>,
}

#[derive(Debug, Clone)]
struct Write {
    number: u64,
    checkpoint: Option<CheckpointMeta>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
}

impl Disk {
    pub(crate) fn new(checkpoint: CheckpointMeta) -> Self {
        Self { checkpoint, hard_state: None, entries: Vec::new(), written: VecDeque::new() }
    }

    pub(crate) fn write(&mut self, ready: &Ready) {
        if ready.must_sync {
            self.written.push_back(Write {
                number: ready.number,
                checkpoint: ready.checkpoint.clone(),
                entries: ready.entries.clone(),
                hard_state: ready.hard_state,
            });
        } else {
            assert!(ready.entries.is_empty() && ready.hard_state.is_none() && ready.checkpoint.is_none());
        }
    }

    /// Makes the oldest write durable. Returns its number and the checkpoint it installs.
    pub(crate) fn sync(&mut self) -> Option<(u64, Option<CheckpointMeta>)> {
        let write = self.written.pop_front()?;
        if let Some(meta) = &write.checkpoint {
            self.checkpoint = meta.clone();
            self.entries.clear();
        }
        self.entries.extend(write.entries);
        self.hard_state = write.hard_state.or(self.hard_state);
        Some((write.number, write.checkpoint))
    }

    /// The power fails: of what was written, a random prefix survives, the last write torn.
    pub(crate) fn crash(&mut self, random: &mut impl Rng) {
        for _ in 0..random.random_range(0..=self.written.len()) {
            // A checkpoint is installed by a rename, which is its own sync: it does not survive early.
            if self.written.front().is_some_and(|write| write.checkpoint.is_some()) {
                break;
            }
            self.sync();
        }
        if let Some(write) = self.written.pop_front()
            && write.checkpoint.is_none()
        {
            let kept = random.random_range(0..=write.entries.len());
            self.entries.extend(write.entries.into_iter().take(kept));
        }
        self.written.clear();
    }

    /// A checkpoint of this member is durable: what was written first goes, as far as it is covered.
    pub(crate) fn release(&mut self, meta: CheckpointMeta) {
        let covered = self.covered(meta.index);
        self.entries.drain(..covered);
        self.checkpoint = meta;
    }

    /// A checkpoint is durable, and the log keeps some of what it covers: the last `kept` entries that
    /// were written, none that `needed_after` may need. Returns the entry behind which all is there.
    pub(crate) fn release_some(
        &mut self,
        meta: CheckpointMeta,
        kept: usize,
        needed_after: Option<LogIndex>,
    ) -> LogIndex {
        let needed_after = needed_after.unwrap_or(meta.index).min(meta.index);
        let released = self.covered(needed_after).min(self.covered(meta.index).saturating_sub(kept));
        let floor = self.entries.drain(..released).map(|entry| entry.index).max();
        self.checkpoint = meta;
        floor.unwrap_or_default()
    }

    fn covered(&self, index: LogIndex) -> usize {
        self.entries.iter().take_while(|entry| entry.index <= index).count()
    }

    /// Reads as the log on the disk is read: forwards, by index and term.
    pub(crate) fn read(&self, fetch: &Fetch, count_max: usize) -> Vec<Entry> {
        let mut next = fetch.first;
        let mut read = Vec::new();
        for entry in &self.entries {
            let behind = fetch.terms.partition_point(|(from, _)| *from <= next);
            if entry.index == next && next <= fetch.last && entry.term == fetch.terms[behind - 1].1 {
                read.push(entry.clone());
                next.0 += 1;
                if read.len() == count_max {
                    break;
                }
            }
        }
        read
    }

    /// A version of an entry, perhaps one that was replaced.
    pub(crate) fn any_version(&self, random: &mut impl Rng) -> Option<Entry> {
        if self.entries.is_empty() {
            return None;
        }
        Some(self.entries[random.random_range(0..self.entries.len())].clone())
    }

    pub(crate) fn recover(&self) -> Recovered {
        Recovered {
            hard_state: self.hard_state,
            checkpoint: self.checkpoint.clone(),
            replayed: None,
            entries: self.entries.clone(),
        }
    }

    /// The entries behind the checkpoint of which the log says that they are committed, the first `count_max` of them,
    /// and what is recovered when the state machine has applied those, which leaves it with these members.
    pub(crate) fn replay(
        &self,
        count_max: usize,
        mut apply: impl FnMut(Entry) -> CheckpointMeta,
    ) -> Recovered {
        let mut recovered = self.recover();
        let committed = self.hard_state.map_or(LogIndex(0), |state| state.commit);
        let mut tail = recovered.tail().unwrap();
        let count = tail.iter().take_while(|entry| entry.index <= committed).count().min(count_max);
        let (mut replay, mut members) = (Replay::new(&self.checkpoint), self.checkpoint.clone());
        for entry in tail.drain(..count) {
            replay.take(&entry).unwrap();
            members = apply(entry);
        }
        recovered.replayed = replay.finish(members.voters, members.learners);
        recovered.entries = tail;
        recovered
    }
}

/// How many seeds a randomised test tries: `count`, times `PINION_SIM_FACTOR` where that is set.
#[expect(clippy::disallowed_methods, reason = "a test's size is the caller's to choose")]
pub(crate) fn runs(count: u64) -> u64 {
    let factor = std::env::var("PINION_SIM_FACTOR").ok().and_then(|text| text.parse().ok());
    count * factor.unwrap_or(1)
}

const ME: MemberId = MemberId(1);

fn sole() -> CheckpointMeta {
    CheckpointMeta::bootstrap([ME])
}

fn three() -> CheckpointMeta {
    CheckpointMeta::bootstrap([MemberId(3), ME, MemberId(2)])
}

fn node(disk: &Disk, incarnation: u64) -> Node {
    Node::new(&Config::new(ME, incarnation), disk.recover()).unwrap()
}

/// Takes, writes and syncs until nothing is left; returns what was committed and sent.
fn settle(node: &mut Node, disk: &mut Disk) -> (Vec<Entry>, Vec<Message>) {
    let (mut committed, mut messages) = (Vec::new(), Vec::new());
    while let Some(ready) = node.take_ready() {
        disk.write(&ready);
        committed.extend(ready.committed);
        messages.extend(ready.messages);
        while let Some((number, _)) = disk.sync() {
            node.on_durable(number);
        }
    }
    node.check_invariants();
    (committed, messages)
}

/// What is planted into the single member to see that its checks see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A write is reported durable when it is only written.
    DurableBeforeSync,
    /// An answer leaves when the entry is proposed.
    AnswerBeforeCommit,
}

/// One member with its disk and a state machine that remembers the order of what it applied.
struct Single {
    node: Node,
    disk: Disk,
    /// Data of the entries applied, from the bootstrap on. The checkpoint's share survives a crash.
    applied: Vec<Bytes>,
    checkpoint_applied: Vec<Bytes>,
    to_apply: VecDeque<Entry>,
    synced: VecDeque<u64>,
    acknowledged: Vec<Bytes>,
    proposed: u64,
    bug: Bug,
}

impl Single {
    fn new(bug: Bug) -> Self {
        let disk = Disk::new(sole());
        Self {
            node: node(&disk, 0),
            disk,
            applied: Vec::new(),
            checkpoint_applied: Vec::new(),
            to_apply: VecDeque::new(),
            synced: VecDeque::new(),
            acknowledged: Vec::new(),
            proposed: 0,
            bug,
        }
    }

    fn restart(&mut self, random: &mut StdRng) {
        self.disk.crash(random);
        self.synced.clear();
        self.to_apply.clear();
        self.applied = self.checkpoint_applied.clone();
        let recovered = self.disk.replay(random.random_range(0..6), |entry| {
            if !entry.data.is_empty() {
                self.applied.push(entry.data);
            }
            sole()
        });
        self.node = Node::new(&Config::new(ME, random.random()), recovered).unwrap();
    }

    /// One small step; any of them may be the last before the power fails.
    fn step(&mut self, random: &mut StdRng) {
        match random.random_range(0..12) {
            0 | 1 => {
                self.proposed += 1;
                let data = Bytes::from(format!("request {}", self.proposed));
                if self.node.propose(data.clone()).is_ok() && self.bug == Bug::AnswerBeforeCommit {
                    self.acknowledged.push(data);
                }
            }
            2..=4 => {
                if let Some(ready) = self.node.take_ready() {
                    self.disk.write(&ready);
                    if ready.must_sync && self.bug == Bug::DurableBeforeSync {
                        self.synced.push_back(ready.number);
                    }
                    self.to_apply.extend(ready.committed);
                }
            }
            5 | 6 => {
                if let Some((number, _)) = self.disk.sync()
                    && self.bug != Bug::DurableBeforeSync
                {
                    self.synced.push_back(number);
                }
            }
            7 | 8 => {
                if let Some(number) = self.synced.pop_front() {
                    self.node.on_durable(number);
                }
            }
            9 | 10 => {
                for _ in 0..random.random_range(0..4) {
                    let Some(entry) = self.to_apply.pop_front() else { break };
                    if !entry.data.is_empty() {
                        self.applied.push(entry.data.clone());
                        self.acknowledged.push(entry.data);
                    }
                    self.node.on_applied(entry.index);
                    if random.random_ratio(1, 8) {
                        let meta = CheckpointMeta { index: entry.index, term: entry.term, ..sole() };
                        self.checkpoint_applied = self.applied.clone();
                        self.disk.release(meta.clone());
                        self.node.on_checkpoint(meta);
                    }
                }
            }
            _ => self.node.tick(),
        }
        self.node.check_invariants();
    }

    /// Without new requests and without faults.
    fn settle(&mut self) {
        while let Some(ready) = self.node.take_ready() {
            self.disk.write(&ready);
            self.to_apply.extend(ready.committed);
            while let Some((number, _)) = self.disk.sync() {
                self.node.on_durable(number);
            }
            while let Some(entry) = self.to_apply.pop_front() {
                if !entry.data.is_empty() {
                    self.applied.push(entry.data.clone());
                }
                self.node.on_applied(entry.index);
            }
        }
    }
}

/// Runs `steps`, fails the power there, starts again; several lives in a row. What was applied must
/// be the beginning of what is applied later, and hold everything acknowledged.
fn survives(seed: u64, steps: usize, bug: Bug) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut single = Single::new(bug);
    for life in 0..3 {
        for _ in 0..steps {
            single.step(&mut random);
        }
        let before = single.applied.clone();
        single.restart(&mut random);
        single.settle();
        if !single.applied.starts_with(&before) {
            return Err(format!("life {life}: applied {before:?}, after the restart {:?}", single.applied));
        }
        if let Some(lost) = single.acknowledged.iter().find(|data| !single.applied.contains(data)) {
            return Err(format!("life {life}: {lost:?} was acknowledged and is lost"));
        }
        let mut unique = single.applied.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != single.applied.len() {
            return Err(format!("life {life}: applied twice in {:?}", single.applied));
        }
        if single.node.status().state != RaftState::Leader {
            return Err(format!("life {life}: the only voter does not lead"));
        }
    }
    Ok(())
}

#[test]
fn sole_voter_keeps_what_it_acknowledged_and_replays_what_it_applied_wherever_power_fails() {
    for steps in 0..120 {
        for seed in 0..runs(6) {
            if let Err(fault) = survives(seed, steps, Bug::None) {
                panic!("survives({seed}, {steps}, Bug::None): {fault}");
            }
        }
    }
}

/// The harness above must see the two bugs it exists for.
#[test]
fn planted_bugs_are_seen() {
    for bug in [Bug::DurableBeforeSync, Bug::AnswerBeforeCommit] {
        let seen = (0..200).any(|seed| survives(seed, 60, bug).is_err());
        assert!(seen, "{bug:?} went unseen");
    }
}

#[test]
fn sole_voter_leads_at_once_and_commits_only_what_is_durable() {
    let mut disk = Disk::new(sole());
    let mut node = node(&disk, 0);
    assert_eq!(node.status().state, RaftState::Leader);
    assert_eq!(node.term_start(), Some(LogIndex(2)));
    node.propose(Bytes::from_static(b"x")).unwrap();
    let ready = node.take_ready().unwrap();
    assert!(ready.must_sync);
    assert!(ready.committed.is_empty());
    assert_eq!(ready.entries.len(), 2, "the term's first entry and the group");
    assert_eq!(ready.hard_state.map(|state| state.vote), Some(Some(ME)));
    disk.write(&ready);
    assert!(node.take_ready().is_none(), "nothing to do until the sync is done");
    node.on_durable(ready.number);
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.committed.len(), 2);
    assert!(!ready.must_sync, "a commit index that moved alone needs no write");
    assert_eq!(ready.hard_state, None);
}

#[test]
fn several_appends_may_be_in_flight_and_later_completion_covers_earlier() {
    let mut disk = Disk::new(sole());
    let mut node = node(&disk, 0);
    settle(&mut node, &mut disk);
    let numbers: Vec<u64> = (0..3)
        .map(|_| {
            node.propose(Bytes::from_static(b"x")).unwrap();
            node.take_ready().unwrap().number
        })
        .collect();
    assert_eq!(node.appends_in_flight(), 3);
    node.on_durable(numbers[1]);
    assert_eq!(node.take_ready().unwrap().committed.len(), 2);
    node.on_durable(numbers[2]);
    assert_eq!(node.take_ready().unwrap().committed.len(), 1);
    assert_eq!(node.appends_in_flight(), 0);
}

#[test]
fn lone_member_forgets_entries_as_they_are_applied() {
    let mut disk = Disk::new(sole());
    let mut node = node(&disk, 0);
    for _ in 0..10 {
        node.propose(Bytes::from(vec![0; 1000])).unwrap();
    }
    let (committed, _) = settle(&mut node, &mut disk);
    assert!(10_000 <= node.unapplied_bytes());
    node.on_applied(committed.last().unwrap().index);
    assert_eq!(node.unapplied_bytes(), 0);
    node.check_invariants();
}

#[test]
fn raft_5_2_vote_leaves_only_when_it_is_durable() {
    let disk = Disk::new(three());
    let mut node = node(&disk, 0);
    let mut request = eraftpb::Message::default();
    request.set_msg_type(eraftpb::MessageType::MsgRequestVote);
    (request.from, request.to, request.term, request.index, request.log_term) = (2, 1, 5, 9, 4);
    node.step(Message(request)).unwrap();
    let ready = node.take_ready().unwrap();
    assert!(ready.messages.is_empty());
    assert!(ready.must_sync);
    let state = ready.hard_state.unwrap();
    assert_eq!((state.term, state.vote), (Term(5), Some(MemberId(2))));
    assert!(node.take_ready().is_none());
    node.on_durable(ready.number);
    let ready = node.take_ready().unwrap();
    assert_eq!(ready.messages.len(), 1);
    assert_eq!(ready.messages[0].kind(), MessageKind::RequestVoteResponse);
    assert!(!ready.must_sync);
}

#[test]
fn sole_voter_sends_its_learner_nothing_of_a_term_that_is_not_durable() {
    let mut meta = sole();
    meta.learners = vec![MemberId(2)];
    let disk = Disk::new(meta);
    let mut node = node(&disk, 0);
    let ready = node.take_ready().unwrap();
    assert!(ready.must_sync);
    assert!(ready.messages.is_empty(), "{:?}", ready.messages);
    node.on_durable(ready.number);
    assert!(!node.take_ready().unwrap().messages.is_empty());
}

fn append(term: u64, after: (u64, u64), count: u64, commit: u64) -> Message {
    let mut message = eraftpb::Message::default();
    message.set_msg_type(eraftpb::MessageType::MsgAppend);
    (message.from, message.to, message.term, message.commit) = (2, 1, term, commit);
    (message.index, message.log_term) = after;
    for index in after.0 + 1..=after.0 + count {
        let mut entry = eraftpb::Entry::default();
        (entry.index, entry.term) = (index, term);
        message.mut_entries().push(entry);
    }
    Message(message)
}

#[test]
fn follower_acknowledges_after_its_sync_but_answers_heartbeats_meanwhile() {
    let disk = Disk::new(three());
    let mut node = node(&disk, 0);
    node.step(append(4, (1, 1), 0, 1)).unwrap();
    let first = node.take_ready().unwrap();
    node.on_durable(first.number);
    assert_eq!(node.take_ready().unwrap().messages.len(), 1, "the answer to the empty append");
    node.step(append(4, (1, 1), 2, 1)).unwrap();
    let ready = node.take_ready().unwrap();
    assert_eq!((ready.entries.len(), ready.messages.len()), (2, 0));
    let mut heartbeat = eraftpb::Message::default();
    heartbeat.set_msg_type(eraftpb::MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to, heartbeat.term) = (2, 1, 4);
    node.step(Message(heartbeat)).unwrap();
    let meanwhile = node.take_ready().unwrap();
    assert_eq!(meanwhile.messages.len(), 1);
    assert_eq!(meanwhile.messages[0].kind(), MessageKind::HeartbeatResponse);
    node.on_durable(ready.number);
    let after = node.take_ready().unwrap();
    assert_eq!(after.messages.len(), 1);
    assert_eq!(after.messages[0].kind(), MessageKind::AppendResponse);
}

#[test]
fn leader_that_knows_more_stored_here_than_there_is_says_that_the_log_was_lost() {
    let mut node = node(&Disk::new(three()), 0);
    let mut heartbeat = eraftpb::Message::default();
    heartbeat.set_msg_type(eraftpb::MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to, heartbeat.term, heartbeat.commit) = (2, 1, 4, 50);
    let lost = StepError::LogLost { commit: LogIndex(50), last: LogIndex(1) };
    assert_eq!(node.step(Message(heartbeat)), Err(lost));
}

#[test]
fn second_leader_of_a_term_is_refused_and_its_entries_are_not_taken() {
    let disk = Disk::new(three());
    let mut node = node(&disk, 0);
    node.step(append(4, (1, 1), 2, 1)).unwrap();
    let of_another = |term: u64| {
        let mut message = append(term, (1, 1), 1, 2);
        message.0.from = 3;
        message
    };
    let both = StepError::TwoLeaders { from: MemberId(3), leader: MemberId(2), term: Term(4) };
    assert_eq!(node.step(of_another(4)), Err(both));
    let status = node.status();
    assert_eq!((status.leader, status.term), (Some(MemberId(2)), Term(4)));
    assert_eq!(node.take_ready().unwrap().entries.len(), 2, "the leader's own");
    // In a later term it may well lead.
    node.step(of_another(5)).unwrap();
    assert_eq!(node.status().leader, Some(MemberId(3)));
}

#[test]
fn candidate_of_low_priority_does_not_stop_a_member_that_knows_no_term() {
    let mut node = node(&Disk::new(CheckpointMeta::joining()), 0);
    let mut ask = eraftpb::Message::default();
    ask.set_msg_type(eraftpb::MessageType::MsgRequestPreVote);
    (ask.from, ask.to, ask.term, ask.index, ask.log_term, ask.priority) = (2, 1, 1, 1, 1, -1);
    assert!(matches!(node.step(Message(ask)), Err(StepError::Refused(_))));
}

/// The members that speak say yes to whatever they are asked. Returns what was committed, and the messages
/// to the others.
fn answer(node: &mut Node, disk: &mut Disk, speak: &[u64]) -> (Vec<Entry>, Vec<Message>) {
    let (committed, messages) = settle(node, disk);
    let (asked, unanswered) = messages.into_iter().partition::<Vec<_>, _>(|sent| speak.contains(&sent.0.to));
    for Message(asked) in asked {
        let kind = match asked.get_msg_type() {
            eraftpb::MessageType::MsgRequestPreVote => eraftpb::MessageType::MsgRequestPreVoteResponse,
            eraftpb::MessageType::MsgRequestVote => eraftpb::MessageType::MsgRequestVoteResponse,
            eraftpb::MessageType::MsgHeartbeat => eraftpb::MessageType::MsgHeartbeatResponse,
            eraftpb::MessageType::MsgAppend => eraftpb::MessageType::MsgAppendResponse,
            _ => continue,
        };
        let mut yes = eraftpb::Message::default();
        yes.set_msg_type(kind);
        (yes.from, yes.to, yes.term) = (asked.to, asked.from, asked.term);
        yes.index = asked.index + asked.get_entries().len() as u64;
        node.step(Message(yes)).unwrap();
    }
    (committed, unanswered)
}

#[test]
fn leader_knows_a_successor_in_every_tick_but_the_one_that_counts_whom_it_heard() {
    let mut disk = Disk::new(three());
    let mut node = node(&disk, 0);
    node.campaign();
    for _ in 0..4 {
        answer(&mut node, &mut disk, &[2, 3]);
    }
    assert_eq!(node.leadership().state, RaftState::Leader);
    let unknown: Vec<usize> = (0..50)
        .filter(|_| {
            node.tick();
            let is_unknown = node.successor().is_none();
            answer(&mut node, &mut disk, &[2, 3]);
            assert!(node.successor().is_some(), "they have just answered");
            is_unknown
        })
        .collect();
    assert!(
        (4..=5).contains(&unknown.len()) && unknown.windows(2).all(|pair| pair[0] + 10 <= pair[1]),
        "{unknown:?}"
    );
}

#[test]
fn log_waits_for_a_follower_from_the_first_word_that_is_heard_of_it() {
    let mut disk = Disk::new(three());
    let retention = Retention { entries_max: 0, bytes_max: 0 };
    let mut node = Node::new(&Config { retention, ..Config::new(ME, 0) }, disk.recover()).unwrap();
    node.campaign();
    let mut applied = LogIndex(0);
    // The third member is away, for longer than the log waits, while its part of the log goes.
    for round in 0..60 {
        if node.leadership().state == RaftState::Leader {
            node.propose(Bytes::from(vec![round])).unwrap();
        }
        let (committed, _) = answer(&mut node, &mut disk, &[2]);
        applied = committed.last().map_or(applied, |last| last.index);
        node.on_applied(applied);
        if 4 < round {
            node.tick();
        }
    }
    let checkpoint = CheckpointMeta { index: applied, term: node.status().term, ..three() };
    disk.release(checkpoint.clone());
    node.on_checkpoint(checkpoint);
    node.on_log_released(applied);
    assert!(node.log_needed_after(2).is_none_or(|after| after == applied));
    let mut heartbeat = eraftpb::Message::default();
    heartbeat.set_msg_type(eraftpb::MessageType::MsgHeartbeatResponse);
    (heartbeat.from, heartbeat.to, heartbeat.term) = (3, 1, node.status().term.0);
    node.step(Message(heartbeat)).unwrap();
    let sent = answer(&mut node, &mut disk, &[2]).1;
    assert!(sent.iter().any(|message| message.kind() == MessageKind::Snapshot), "{sent:?}");
    // A newer checkpoint is durable before the next tick: what is behind the one on its way is needed.
    node.propose(Bytes::from_static(b"newer")).unwrap();
    answer(&mut node, &mut disk, &[2]);
    let last = settle(&mut node, &mut disk).0.last().unwrap().index;
    node.on_applied(last);
    node.on_checkpoint(CheckpointMeta { index: last, term: node.status().term, ..three() });
    assert_eq!(node.log_needed_after(2), Some(applied));
}

fn entry(index: u64, term: u64) -> Entry {
    let data = Bytes::from(format!("{index}.{term}"));
    Entry { index: LogIndex(index), term: Term(term), kind: EntryKind::Normal, data }
}

fn recover(
    hard_state: Option<(u64, u64)>,
    checkpoint: (u64, u64),
    entries: &[(u64, u64)],
) -> Result<Status, StartError> {
    let recovered = Recovered {
        hard_state: hard_state.map(|(term, commit)| HardState {
            term: Term(term),
            vote: None,
            commit: LogIndex(commit),
        }),
        checkpoint: CheckpointMeta { index: LogIndex(checkpoint.0), term: Term(checkpoint.1), ..three() },
        replayed: None,
        entries: entries.iter().map(|&(index, term)| entry(index, term)).collect(),
    };
    Node::new(&Config::new(ME, 0), recovered).map(|node| node.status())
}

#[test]
fn recovered_log_that_does_not_add_up_is_refused_with_the_numbers() {
    let (index, term) = (LogIndex, Term);
    let gap = StartError::Gap { previous: index(2), found: index(4) };
    assert_eq!(recover(None, (1, 1), &[(2, 2), (4, 2)]), Err(gap));
    let gap = StartError::Gap { previous: index(1), found: index(3) };
    assert_eq!(recover(None, (1, 1), &[(3, 2)]), Err(gap));
    let fell = StartError::TermFell { index: index(3), previous: term(4), found: term(3) };
    assert_eq!(recover(None, (1, 1), &[(2, 4), (3, 3)]), Err(fell));
    let fell = StartError::TermFell { index: index(6), previous: term(4), found: term(3) };
    assert_eq!(recover(None, (5, 4), &[(6, 3)]), Err(fell));
    let lost = StartError::CommitPastLast { commit: index(9), last: index(3) };
    assert_eq!(recover(Some((2, 9)), (1, 1), &[(2, 2), (3, 2)]), Err(lost));
    let disagrees = StartError::CheckpointDisagrees { index: index(3), log: term(2), checkpoint: term(3) };
    assert_eq!(recover(None, (3, 3), &[(2, 2), (3, 2), (4, 3)]), Err(disagrees));
    assert!(matches!(recover(None, (0, 1), &[]), Err(StartError::Checkpoint(_))));
    let undecodable = Recovered {
        hard_state: None,
        checkpoint: three(),
        replayed: None,
        entries: vec![Entry { kind: EntryKind::ConfChange, ..entry(2, 2) }],
    };
    assert!(matches!(Node::new(&Config::new(ME, 0), undecodable), Err(StartError::ConfChange { .. })));
}

#[test]
fn entries_that_cannot_be_replayed_are_refused_with_the_numbers() {
    let (index, term) = (LogIndex, Term);
    let mut replay = Replay::new(&CheckpointMeta { index: index(4), term: term(2), ..three() });
    assert_eq!(replay.take(&entry(6, 2)), Err(StartError::Gap { previous: index(4), found: index(6) }));
    let fell = StartError::TermFell { index: index(5), previous: term(2), found: term(1) };
    assert_eq!(replay.take(&entry(5, 1)), Err(fell));
    let undecodable = Entry { kind: EntryKind::ConfChange, ..entry(5, 2) };
    assert!(matches!(replay.take(&undecodable), Err(StartError::ConfChange { .. })));
    assert_eq!(replay.last(), (index(4), term(2)));
    assert_eq!(replay.finish(vec![ME], Vec::new()), None, "nothing was taken");
}

#[test]
fn a_start_behind_replayed_entries_is_one_that_has_applied_them() {
    let mut replay = Replay::new(&three());
    for (index, term) in [(2, 2), (3, 2), (4, 5), (5, 6), (6, 6)] {
        replay.take(&entry(index, term)).unwrap();
    }
    let replayed = replay.finish(vec![ME, MemberId(2)], vec![MemberId(3)]);
    let recovered = |commit, entries: &[(u64, u64)]| Recovered {
        hard_state: Some(HardState { term: Term(6), vote: None, commit: LogIndex(commit) }),
        checkpoint: three(),
        replayed: replayed.clone(),
        entries: entries.iter().map(|&(index, term)| entry(index, term)).collect(),
    };
    let node = |recovered| Node::new(&Config::new(ME, 0), recovered);
    let status = node(recovered(6, &[(7, 6), (8, 6)])).unwrap().status();
    assert_eq!((status.applied, status.committed, status.last), (LogIndex(6), LogIndex(6), LogIndex(8)));
    assert_eq!((status.voters_count, status.learners_count), (2, 1), "as of the last one applied");
    // Raft never hears that less is committed than is applied.
    assert_eq!(node(recovered(3, &[])).unwrap().status().committed, LogIndex(6));
    assert!(matches!(node(recovered(6, &[(8, 6)])), Err(StartError::Gap { .. })));
    assert!(matches!(node(recovered(6, &[(7, 5)])), Err(StartError::TermFell { .. })));
    assert!(matches!(node(recovered(9, &[(7, 6)])), Err(StartError::CommitPastLast { .. })));
}

#[test]
fn recovery_replaces_overwritten_entries_and_cuts_off_what_the_checkpoint_covers() {
    let status = recover(Some((3, 4)), (1, 1), &[(2, 2), (3, 2), (4, 2), (5, 2), (3, 3), (4, 3)]).unwrap();
    assert_eq!((status.last, status.committed, status.term), (LogIndex(4), LogIndex(4), Term(3)));
    let status = recover(Some((3, 2)), (4, 3), &[(2, 2), (3, 3), (4, 3), (5, 3)]).unwrap();
    assert_eq!((status.last, status.committed, status.applied), (LogIndex(5), LogIndex(4), LogIndex(4)));
    // The hard state behind the term's first entry was torn off: the term counts, without a vote.
    let status = recover(Some((2, 2)), (1, 1), &[(2, 2), (3, 5)]).unwrap();
    assert_eq!(status.term, Term(5));
}

#[test]
fn membership_changes_take_effect_with_their_verdict() {
    let mut disk = Disk::new(sole());
    let mut node = node(&disk, 0);
    let (committed, _) = settle(&mut node, &mut disk);
    node.on_applied(committed.last().unwrap().index);
    let change =
        |kind, member| ConfChange { kind, member: MemberId(member), context: Bytes::from_static(b"c") };
    let mut decide = |node: &mut Node, change: &ConfChange, accepted| {
        node.propose_conf_change(change).unwrap();
        let (committed, _) = settle(node, &mut disk);
        assert_eq!(committed.len(), 1);
        assert_eq!(ConfChange::decode(committed[0].data.clone()), Ok(change.clone()));
        let result = node.on_conf_change(committed[0].index, accepted);
        node.on_applied(committed[0].index);
        result
    };
    decide(&mut node, &change(ConfChangeKind::AddLearner, 2), true).unwrap();
    decide(&mut node, &change(ConfChangeKind::AddLearner, 3), false).unwrap();
    let status = node.status();
    assert_eq!((status.voters_count, status.learners_count, status.sole_voter), (1, 1, true));
    assert!(decide(&mut node, &change(ConfChangeKind::Remove, 1), true).is_err(), "no voter would be left");
    decide(&mut node, &change(ConfChangeKind::AddVoter, 2), true).unwrap();
    assert!(!node.is_sole_voter());
    node.propose(Bytes::from_static(b"x")).unwrap();
    assert!(settle(&mut node, &mut disk).0.is_empty(), "two voters must store it now");
}

#[test]
fn election_timeouts_stay_in_their_window_change_with_each_attempt_and_follow_the_seed() {
    let draw = |seed| {
        let mut timer = super::election::ElectionTimer::new(seed, 10);
        let drawn: Vec<usize> = (0..50)
            .map(|_| {
                timer.on_attempt();
                timer.timeout_ticks(7)
            })
            .collect();
        drawn
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let mut seen = draw(3);
    assert!(seen.iter().all(|ticks| (10..20).contains(ticks)));
    seen.sort_unstable();
    seen.dedup();
    assert!(8 <= seen.len(), "{seen:?}");
}

fn encode(message: &Message) -> Bytes {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    assert_eq!(buffer.len(), message.encoded_bytes());
    buffer.freeze()
}

/// A message such as a member could send, with every field of raft-rs's filled that its kind allows.
fn any_message(random: &mut StdRng, number_max: u64) -> Message {
    use eraftpb::MessageType as T;
    const KINDS: [T; 14] = [
        T::MsgPropose,
        T::MsgAppend,
        T::MsgAppendResponse,
        T::MsgRequestVote,
        T::MsgRequestVoteResponse,
        T::MsgSnapshot,
        T::MsgHeartbeat,
        T::MsgHeartbeatResponse,
        T::MsgTransferLeader,
        T::MsgTimeoutNow,
        T::MsgReadIndex,
        T::MsgReadIndexResp,
        T::MsgRequestPreVote,
        T::MsgRequestPreVoteResponse,
    ];
    let kind = KINDS[random.random_range(0..KINDS.len())];
    let mut number = |least: u64| random.random_range(least..=number_max);
    let mut message = eraftpb::Message::default();
    message.set_msg_type(kind);
    (message.from, message.to) = (number(2).min(4), 1);
    message.term = if matches!(kind, T::MsgPropose | T::MsgReadIndex) { 0 } else { number(1) };
    (message.index, message.log_term) = (number(1), number(1).min(message.term.max(1)));
    (message.commit, message.commit_term) = (number(0), number(0));
    (message.reject_hint, message.request_snapshot) = (number(0), if number(0) == 1 { 1 } else { 0 });
    message.priority = i64::try_from(number(0)).unwrap() - 2;
    message.deprecated_priority = u64::try_from(message.priority).unwrap_or(0);
    message.reject = random.random();
    let mut bytes = vec![0; 24];
    random.fill_bytes(&mut bytes);
    if kind == T::MsgHeartbeatResponse || kind == T::MsgHeartbeat {
        message.context = Bytes::from(bytes.clone());
    }
    match kind {
        T::MsgPropose | T::MsgAppend => {
            let mut term = message.log_term;
            for offset in 1..=random.random_range(1..4) {
                term = random.random_range(term..=message.term.max(term));
                let mut entry = eraftpb::Entry::default();
                (entry.index, entry.term) = (message.index + offset, term);
                entry.data = Bytes::from(bytes.clone());
                if random.random_ratio(1, 4) {
                    entry.set_entry_type(eraftpb::EntryType::EntryConfChangeV2);
                    let kind = ConfChangeKind::AddLearner;
                    entry.data = ConfChange { kind, member: MemberId(9), context: entry.data }.encode();
                }
                message.mut_entries().push(entry);
            }
        }
        T::MsgReadIndex | T::MsgReadIndexResp => {
            let entry = eraftpb::Entry { data: Bytes::from(bytes), ..eraftpb::Entry::default() };
            message.mut_entries().push(entry);
        }
        T::MsgSnapshot => {
            let mut meta = three();
            meta.index = LogIndex(message.index);
            meta.term = Term(random.random_range(1..=message.term));
            meta.learners = vec![MemberId(7), MemberId(9)];
            message.set_snapshot(meta.to_library());
        }
        _ => {}
    }
    Message(message)
}

#[test]
fn every_kind_of_message_comes_out_of_the_wire_form_as_it_went_in() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..3_000 {
        let message = any_message(&mut random, 1 << 40);
        let decoded =
            Message::decode(encode(&message)).unwrap_or_else(|error| panic!("{error}: {message:?}"));
        assert_eq!(decoded, message);
    }
}

#[test]
fn message_of_another_format_or_kind_is_named() {
    let mut random = StdRng::seed_from_u64(2);
    let wire = |change: &dyn Fn(&mut pb::RaftMessage)| {
        let mut random = StdRng::seed_from_u64(3);
        let mut wire = pb::RaftMessage::decode(encode(&any_message(&mut random, 9))).unwrap();
        change(&mut wire);
        Message::decode(wire.encode_to_vec().into())
    };
    assert_eq!(wire(&|wire| wire.format = 2), Err(MessageError::Format(2)));
    assert_eq!(wire(&|wire| wire.kind = 99), Err(MessageError::Kind(99)));
    let odd = pb::RaftEntry { kind: 300, ..Default::default() };
    assert_eq!(wire(&|wire| wire.entries = vec![odd.clone()]), Err(MessageError::EntryKind(300)));
    let malformed = |result| matches!(result, Err(MessageError::Malformed { .. }));
    assert!(malformed(wire(&|wire| wire.from = wire.to)));
    assert!(malformed(wire(&|wire| wire.term = u64::MAX)));
    for _ in 0..500 {
        let message = any_message(&mut random, 9);
        if message.kind() == MessageKind::Append {
            let mut wire = pb::RaftMessage::decode(encode(&message)).unwrap();
            wire.entries[0].index += 1;
            assert!(malformed(Message::decode(wire.encode_to_vec().into())));
        }
    }
}

#[test]
fn hostile_bytes_are_an_answer_not_a_panic() {
    let mut random = StdRng::seed_from_u64(4);
    for _ in 0..300 {
        let whole = encode(&any_message(&mut random, 9));
        drop(Message::decode(whole.slice(..random.random_range(0..whole.len()))));
        for _ in 0..20 {
            let mut bytes = whole.to_vec();
            let offset = random.random_range(0..bytes.len());
            bytes[offset] ^= 1 << random.random_range(0..8);
            drop(Message::decode(bytes.into()));
        }
    }
}

/// Messages that decode but contradict each other, in any order, never stop the member: raft-rs
/// panics where a peer errs, and `decode` and `step` must keep that from it.
#[test]
fn peer_that_lies_cannot_stop_the_member() {
    for seed in 0..runs(400) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = Disk::new(if seed % 3 == 0 { CheckpointMeta::joining() } else { three() });
        let mut node = node(&disk, seed);
        for _ in 0..200 {
            match random.random_range(0..10) {
                0 => node.tick(),
                1 => drop(node.propose(Bytes::from_static(b"x"))),
                2 => drop(node.read_index(random.random_range(0..5))),
                3 => {
                    if let Some((number, _)) = disk.sync() {
                        node.on_durable(number);
                    }
                }
                4 => {
                    if let Some(ready) = node.take_ready() {
                        disk.write(&ready);
                        for entry in &ready.committed {
                            if entry.kind == EntryKind::ConfChange {
                                drop(node.on_conf_change(entry.index, random.random()));
                            }
                            node.on_applied(entry.index);
                        }
                    }
                }
                _ => {
                    let message = Message::decode(encode(&any_message(&mut random, 9))).unwrap();
                    drop(node.step(message));
                }
            }
            node.check_invariants();
        }
    }
}
