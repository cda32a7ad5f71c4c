//! The raft role of one member: when groups close, when reads go, what is refused.

use bytes::Bytes;
use prost::Message as _;

use super::exchange::Refusal;
use super::{Config, Ready, Replica, Space};
use crate::apply::request::{RequestKind, decode_group};
use crate::pb::peer as pb;
use crate::raft::tests::Disk;
use crate::raft::{self, CheckpointMeta, EntryKind, Message, MessageKind};
use crate::types::{LogIndex, MemberId, Ticket};

const ME: MemberId = MemberId(1);

struct Role {
    replica: Replica<u64>,
    disk: Disk,
}

impl Role {
    fn new(voters: u64, adjust: impl FnOnce(&mut Config)) -> Self {
        let disk = Disk::new(CheckpointMeta::bootstrap((1..=voters).map(MemberId)));
        let mut config = Config::new(raft::Config::new(ME, 0));
        adjust(&mut config);
        Self { replica: Replica::new(config, disk.recover()).unwrap(), disk }
    }

    /// Leads, with its term's first entry applied.
    fn leading(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut role = Self::new(1, adjust);
        role.settle();
        role
    }

    fn put(&mut self, ticket: u64) -> Result<(), Refusal> {
        self.replica.on_request(Ticket(ticket), RequestKind::Put, b"some request")
    }

    /// The next `Ready`, written.
    fn next(&mut self) -> Option<Ready<u64>> {
        let ready = self.replica.take_ready()?;
        if let Some(raft) = &ready.raft {
            self.disk.write(raft);
        }
        Some(ready)
    }

    fn sync(&mut self) -> bool {
        let Some((number, _)) = self.disk.sync() else { return false };
        self.replica.on_durable(number);
        true
    }

    /// Until nothing is left; the reads that went.
    fn settle(&mut self) -> Vec<u64> {
        let mut reads = Vec::new();
        loop {
            let Some(ready) = self.next() else {
                if self.sync() {
                    continue;
                }
                return reads;
            };
            reads.extend(ready.reads);
            if let Some(last) = ready.raft.and_then(|raft| raft.committed.last().map(|entry| entry.index)) {
                self.replica.on_applied(last);
            }
        }
    }
}

/// The tickets in each entry that is to be appended.
fn appended(ready: &Ready<u64>) -> Vec<Vec<u64>> {
    let entries = ready.raft.iter().flat_map(|raft| &raft.entries);
    let groups = entries.filter(|entry| entry.kind == EntryKind::Normal && !entry.data.is_empty());
    groups
        .map(|entry| decode_group(entry.data.clone()).unwrap().iter().map(|r| r.origin.ticket.0).collect())
        .collect()
}

#[test]
fn group_is_what_arrived_during_the_previous_sync() {
    let mut role = Role::leading(|_| {});
    role.put(1).unwrap();
    assert_eq!(appended(&role.next().unwrap()), [[1]], "a lone request waits for nobody");
    role.put(2).unwrap();
    role.put(3).unwrap();
    assert!(role.next().is_none(), "the sync is not done");
    role.put(4).unwrap();
    assert!(role.sync());
    let ready = role.next().unwrap();
    assert_eq!(appended(&ready), [[2, 3, 4]]);
    assert_eq!(ready.raft.unwrap().committed.len(), 1, "and what was synced is committed in the same step");
}

#[test]
fn deeper_pipeline_starts_as_many_appends_before_it_gathers() {
    let mut role = Role::leading(|config| config.pipeline_depth = 2);
    for ticket in 1..=4 {
        role.put(ticket).unwrap();
        let ready = role.next();
        assert_eq!(ready.is_some(), ticket <= 2, "request {ticket}");
    }
    assert!(role.sync());
    assert_eq!(appended(&role.next().unwrap()), [[3, 4]]);
}

#[test]
fn full_groups_share_an_append_up_to_its_byte_bound() {
    let mut role = Role::leading(|config| config.append_bytes_max = 3_000_000);
    let body = vec![0; 900_000];
    for ticket in 1..=5 {
        role.replica.on_request(Ticket(ticket), RequestKind::Put, &body).unwrap();
    }
    assert_eq!(appended(&role.next().unwrap()), [[1], [2], [3]]);
    assert!(role.sync());
    assert_eq!(appended(&role.next().unwrap()), [[4], [5]]);
}

#[test]
fn sole_voter_releases_reads_once_its_terms_first_entry_is_handed_out_and_then_at_once() {
    let mut role = Role::new(1, |_| {});
    assert_eq!(role.replica.local_reads_from(), Some(LogIndex(2)));
    role.replica.on_read(10).unwrap();
    let ready = role.next().unwrap();
    assert!(ready.reads.is_empty(), "what was acknowledged before the start may not be applied yet");
    assert!(role.sync());
    let ready = role.next().unwrap();
    assert_eq!((ready.reads.as_slice(), ready.reads_index), ([10].as_slice(), LogIndex(2)));
    // A write that waits for its sync is not acknowledged, so it holds up no read.
    role.put(1).unwrap();
    assert!(role.next().unwrap().reads.is_empty());
    role.replica.on_read(11).unwrap();
    assert_eq!(role.next().unwrap().reads, [11]);
}

#[test]
fn without_a_leader_requests_and_reads_wait_and_are_refused_in_time() {
    let mut role = Role::new(3, |config| config.request_timeout_ticks = 4);
    role.put(1).unwrap();
    role.replica.on_read(10).unwrap();
    assert!(role.next().is_none());
    for _ in 0..4 {
        role.replica.on_tick();
        assert!(role.next().is_none());
    }
    role.put(2).unwrap();
    role.replica.on_tick();
    let ready = role.next().unwrap();
    assert_eq!(ready.refused_requests, [(Ticket(1), Refusal::NotProposed)], "the younger waits on");
    assert_eq!(ready.refused_reads, [(10, Refusal::TimedOut)]);
    assert!(role.next().is_none());
    for _ in 0..4 {
        role.replica.on_tick();
    }
    assert_eq!(role.next().unwrap().refused_requests, [(Ticket(2), Refusal::NotProposed)]);
}

fn message(wire: &pb::RaftMessage) -> Message {
    Message::decode(wire.encode_to_vec().into()).unwrap()
}

fn propose(from: MemberId, data: Bytes) -> Message {
    let kind = u32::from(EntryKind::Normal.number());
    let entry = pb::RaftEntry { kind, data, ..Default::default() };
    let kind = MessageKind::Propose as u32;
    let wire = pb::RaftMessage { format: 1, kind, from: from.0, to: ME.0, ..Default::default() };
    message(&pb::RaftMessage { entries: vec![entry], ..wire })
}

fn heartbeat(from: MemberId, term: u64) -> Message {
    let kind = MessageKind::Heartbeat as u32;
    message(&pb::RaftMessage { format: 1, kind, from: from.0, to: ME.0, term, ..Default::default() })
}

/// What another member passes on.
fn passed_on(from: MemberId, ticket: u64) -> Message {
    let mut other = Role::leading(|_| {});
    other.put(ticket).unwrap();
    let data = other.next().unwrap().raft.unwrap().entries.remove(0).data;
    propose(from, data)
}

#[test]
fn proposal_passed_on_to_a_member_that_knows_no_leader_waits_for_one() {
    let mut role = Role::new(3, |_| {});
    role.replica.on_message(passed_on(MemberId(2), 77)).unwrap();
    assert!(role.next().is_none());
    role.replica.on_message(heartbeat(MemberId(3), 5)).unwrap();
    let mut sent = Vec::new();
    while let Some(ready) = role.next() {
        sent.extend(ready.raft.into_iter().flat_map(|raft| raft.messages));
        role.sync();
    }
    let proposals: Vec<_> = sent.iter().filter(|message| message.kind() == MessageKind::Propose).collect();
    assert_eq!(proposals.len(), 1);
    assert_eq!((proposals[0].to(), proposals[0].from()), (MemberId(3), MemberId(2)));

    // Nobody can be reached: it is tried again in the next tick, and given up in time.
    role.replica.on_unsent(proposals[0].clone());
    assert!(role.next().is_none());
    role.replica.on_tick();
    assert_eq!(role.next().unwrap().raft.unwrap().messages.len(), 1);
}

#[test]
fn own_proposal_that_could_not_be_sent_is_refused_in_time_and_what_is_no_group_is_dropped() {
    let mut role = Role::new(3, |config| config.request_timeout_ticks = 4);
    for message in [passed_on(ME, 7), passed_on(MemberId(2), 8), propose(ME, "nonsense".into())] {
        role.replica.on_unsent(message);
    }
    for _ in 0..5 {
        assert!(role.next().is_none());
        role.replica.on_tick();
    }
    assert_eq!(role.next().unwrap().refused_requests, [(Ticket(7), Refusal::NotProposed)]);
}

#[test]
fn backlog_in_bytes_and_in_entries_refuses_what_comes_after() {
    let mut role = Role::leading(|config| config.backlog_bytes_max = 10_000);
    let accepted = (0..1_000).take_while(|&ticket| role.put(ticket).is_ok()).count();
    assert!((100..400).contains(&accepted), "{accepted}");
    assert_eq!(role.put(0), Err(Refusal::TooManyRequests));
    role.settle();
    assert_eq!(role.put(0), Ok(()), "applied, so there is room again");

    let mut role = Role::leading(|config| config.apply_gap_max = 3);
    let mut refused = None;
    for ticket in 0..10 {
        if let Err(refusal) = role.put(ticket) {
            refused = Some((ticket, refusal));
            break;
        }
        // Written, synced, committed, and never applied.
        while role.next().is_some() || role.sync() {}
    }
    assert_eq!(refused, Some((4, Refusal::TooManyRequests)));
}

#[test]
fn reads_are_bounded() {
    let mut role = Role::new(3, |config| config.reads_max = 2);
    role.replica.on_read(1).unwrap();
    role.replica.on_read(2).unwrap();
    assert_eq!(role.replica.on_read(3), Err((3, Refusal::TooManyRequests)));
}

#[test]
fn scarce_space_refuses_what_adds_data_and_exhausted_space_everything() {
    let mut role = Role::leading(|_| {});
    let mut taken = |space| {
        role.replica.on_space(space);
        let kinds = [RequestKind::Put, RequestKind::Txn, RequestKind::DeleteRange, RequestKind::Compact];
        kinds.map(|kind| role.replica.on_request(Ticket(1), kind, b"x").is_ok())
    };
    assert_eq!(taken(Space::Ample), [true, true, true, true]);
    assert_eq!(taken(Space::Scarce), [false, false, true, true]);
    assert_eq!(taken(Space::Exhausted), [false, false, false, false]);
    assert_eq!(taken(Space::Ample), [true, true, true, true]);
}

#[test]
fn stopping_refuses_what_waits_and_what_comes_but_finishes_what_is_in_the_log() {
    let mut role = Role::leading(|_| {});
    role.put(1).unwrap();
    assert_eq!(appended(&role.next().unwrap()), [[1]]);
    role.put(2).unwrap();
    role.replica.stop();
    assert_eq!(role.put(3), Err(Refusal::Stopped));
    assert_eq!(role.replica.on_read(9), Err((9, Refusal::Stopped)));
    let ready = role.next().unwrap();
    assert_eq!(ready.refused_requests, [(Ticket(2), Refusal::Stopped)]);
    assert!(role.sync());
    assert_eq!(role.next().unwrap().raft.unwrap().committed.len(), 1);
}
