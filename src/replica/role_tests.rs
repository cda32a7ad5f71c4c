//! The raft role of one member: when groups close, when reads go, what is refused.

use bytes::Bytes;
use prost::Message as _;

use super::{Config, FormatGate, Ready, Replica, Space};
use crate::membership::Cluster;
use crate::pb::peer as pb;
use crate::raft::tests::Disk;
use crate::raft::{
    self, CheckpointMeta, ConfChange, ConfChangeKind, EntryKind, Message, MessageKind, StepError,
};
use crate::request::group::{decode_group, encode_group, group_id};
use crate::request::part::PART_BYTES_MAX;
use crate::request::{GroupId, Origin, Part, Refusal, Request, RequestKind};
use crate::types::{FormatLevel, LogIndex, MemberId, Ticket};

const ME: MemberId = MemberId(1);

struct Role {
    replica: Replica<u64>,
    disk: Disk,
    /// Proposals on their way.
    sent: Vec<Message>,
}

impl Role {
    fn new(voters: u64, adjust: impl FnOnce(&mut Config)) -> Self {
        let disk = Disk::new(CheckpointMeta::bootstrap((1..=voters).map(MemberId)));
        let mut config = Config::new(raft::Config::new(ME, 0));
        adjust(&mut config);
        Self { replica: Replica::new(config, disk.recover()).unwrap(), disk, sent: Vec::new() }
    }

    /// Leads, with its term's first entry applied.
    fn leading(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut role = Self::new(1, adjust);
        role.settle();
        role
    }

    fn put(&mut self, ticket: u64) -> Result<(), Refusal> {
        self.replica.on_request(Ticket(ticket), RequestKind::Put, Bytes::from_static(b"some request"), None)
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
    groups.map(|entry| tickets(entry.data.clone())).collect()
}

fn tickets(data: Bytes) -> Vec<u64> {
    decode_group(data).unwrap().requests.iter().map(|request| request.origin.ticket.0).collect()
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
fn while_much_waits_one_more_append_is_on_its_way() {
    let mut role = Role::leading(|_| {});
    role.put(1).unwrap();
    assert_eq!(appended(&role.next().unwrap()), [[1]]);
    role.replica.on_request(Ticket(2), RequestKind::Put, vec![7; 500_000].into(), None).unwrap();
    assert!(role.next().is_none(), "it waits for company while the disk is busy");
    role.replica.on_request(Ticket(3), RequestKind::Put, vec![7; 30_000].into(), None).unwrap();
    assert_eq!(appended(&role.next().unwrap()), [[2, 3]]);
    role.replica.on_request(Ticket(4), RequestKind::Put, vec![7; 900_000].into(), None).unwrap();
    assert!(role.next().is_none(), "and never two more");
    assert!(role.sync());
    assert_eq!(appended(&role.next().unwrap()), [[4]]);
}

#[test]
fn full_groups_share_an_append_up_to_its_byte_bound() {
    let mut role = Role::leading(|config| config.append_bytes_max = 3_000_000);
    let body = vec![0; 900_000];
    for ticket in 1..=5 {
        role.replica.on_request(Ticket(ticket), RequestKind::Put, body.clone().into(), None).unwrap();
    }
    assert_eq!(appended(&role.next().unwrap()), [[1], [2], [3]]);
    assert!(role.sync());
    assert_eq!(appended(&role.next().unwrap()), [[4], [5]]);
}

/// Offset and length of the part in each entry that is to be appended; of a group without one, `None`.
fn parts(ready: &Ready<u64>) -> Vec<Option<(usize, usize)>> {
    let entries = ready.raft.iter().flat_map(|raft| &raft.entries);
    let requests = entries.map(|entry| decode_group(entry.data.clone()).unwrap().requests.swap_remove(0));
    requests
        .map(|request| {
            let part = (request.kind == RequestKind::Part).then(|| Part::decode(request.body).unwrap());
            part.map(|part| (part.head.offset, part.data.len()))
        })
        .collect()
}

#[test]
fn large_request_goes_in_parts_and_what_is_small_waits_for_one_of_them() {
    let mut role = Role::leading(|_| {});
    let body = Bytes::from(vec![7; 2 * PART_BYTES_MAX + 5]);
    role.replica.on_request(Ticket(1), RequestKind::Put, body.clone(), None).unwrap();
    assert_eq!(parts(&role.next().unwrap()), [None], "no member may have to read a part at level 0");
    role.settle();
    role.replica.on_format_level(FormatLevel(2));
    role.replica.on_request(Ticket(2), RequestKind::Put, body, None).unwrap();
    assert_eq!(parts(&role.next().unwrap()), [Some((0, PART_BYTES_MAX))], "one part an append");
    role.put(3).unwrap();
    assert!(role.sync());
    assert_eq!(parts(&role.next().unwrap()), [None, Some((PART_BYTES_MAX, PART_BYTES_MAX))]);
    assert!(role.sync());
    assert_eq!(parts(&role.next().unwrap()), [Some((2 * PART_BYTES_MAX, 5))]);
    assert!(role.sync());
    assert!(role.next().is_none_or(|ready| parts(&ready).is_empty()));
}

#[test]
fn full_groups_do_not_keep_a_large_request_waiting() {
    let mut role = Role::leading(|_| {});
    role.replica.on_format_level(FormatLevel(2));
    role.put(1).unwrap();
    assert_eq!(parts(&role.next().unwrap()), [None]);
    role.replica.on_request(Ticket(2), RequestKind::Put, vec![7; 2 * PART_BYTES_MAX].into(), None).unwrap();
    for ticket in 3..7 {
        role.replica.on_request(Ticket(ticket), RequestKind::Put, vec![7; 1_000_000].into(), None).unwrap();
    }
    let both = [Some((0, PART_BYTES_MAX)), Some((PART_BYTES_MAX, PART_BYTES_MAX))];
    for expected in [[None, both[0]], [None, both[1]], [None, None]] {
        assert!(role.sync());
        assert_eq!(parts(&role.next().unwrap()), expected);
    }
}

#[test]
fn large_request_that_no_member_may_have_to_read_is_refused_and_so_is_what_would_not_fit() {
    let mut role = Role::leading(|_| {});
    let mut ask = |ticket, bytes| {
        role.replica.on_request(Ticket(ticket), RequestKind::Put, vec![7; bytes].into(), None)
    };
    assert_eq!(ask(1, (10 << 20) + 1), Err(Refusal::TooLarge));
    assert_eq!(ask(2, 10 << 20), Ok(()));
    role.replica.on_format_level(FormatLevel(2));
    let mut ask = |ticket, bytes| {
        role.replica.on_request(Ticket(ticket), RequestKind::Put, vec![7; bytes].into(), None)
    };
    assert_eq!(ask(3, (10 << 20) + 1), Ok(()));
    assert_eq!(ask(4, 60 << 20), Err(Refusal::TooManyRequests));
}

#[test]
fn large_request_is_refused_once_its_time_is_over_and_the_next_one_says_so() {
    let mut role = Role::leading(|config| config.request_timeout_ticks = 4);
    role.replica.on_format_level(FormatLevel(2));
    role.replica.on_request(Ticket(1), RequestKind::Put, vec![7; 2 * PART_BYTES_MAX].into(), None).unwrap();
    let first = role.next().unwrap();
    assert_eq!(parts(&first), [Some((0, PART_BYTES_MAX))]);
    for _ in 0..5 {
        role.replica.on_tick();
    }
    let refused = role.next().unwrap().refused_requests;
    assert!(refused.contains(&(Ticket(1), Refusal::NotProposed)), "it is never whole: {refused:?}");
    role.replica.on_request(Ticket(2), RequestKind::Put, vec![8; 2 * PART_BYTES_MAX].into(), None).unwrap();
    assert!(role.sync());
    let ready = role.next().unwrap();
    let entry = ready.raft.unwrap().entries.swap_remove(0);
    let part = Part::decode(decode_group(entry.data).unwrap().requests.swap_remove(0).body).unwrap();
    assert_eq!((part.head.number, part.head.given_up, part.head.offset), (2, 1, 0));
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

/// What another member proposes.
fn passed_on(from: MemberId, ticket: u64) -> Message {
    let request = Request {
        origin: Origin { member: from, ticket: Ticket(ticket) },
        kind: RequestKind::Put,
        body: Bytes::from_static(b"some request"),
        login: None,
    };
    propose(from, encode_group(GroupId { member: from, incarnation: 1, number: 1 }, &[request]))
}

impl Role {
    /// To whom proposals go now, with their tickets.
    fn proposed(&mut self) -> Vec<(MemberId, Vec<u64>)> {
        let mut sent = Vec::new();
        while let Some(ready) = self.next() {
            let messages = ready.raft.into_iter().flat_map(|raft| raft.messages);
            for message in messages.filter(|message| message.kind() == MessageKind::Propose) {
                for (_, data) in message.entry_data() {
                    sent.push((message.to(), tickets(data)));
                }
                self.sent.push(message);
            }
            self.sync();
        }
        sent
    }
}

#[test]
fn follower_gives_what_has_no_outcome_to_each_new_leader_and_over_each_new_connection() {
    let (b, c) = (MemberId(2), MemberId(3));
    let mut role = Role::new(3, |_| {});
    role.put(1).unwrap();
    assert_eq!(role.proposed(), [], "nobody leads");
    role.replica.on_message(heartbeat(c, 5)).unwrap();
    assert_eq!(role.proposed(), [(c, vec![1])]);
    role.put(2).unwrap();
    assert_eq!(role.proposed(), [(c, vec![2])]);
    role.replica.on_message(heartbeat(b, 6)).unwrap();
    assert_eq!(role.proposed(), [(b, vec![1]), (b, vec![2])]);
    role.replica.on_reconnected(c);
    assert_eq!(role.proposed(), [], "it does not lead");
    role.replica.on_reconnected(b);
    assert_eq!(role.proposed(), [(b, vec![1]), (b, vec![2])]);
    let last = role.sent.pop().unwrap();
    role.replica.on_unsent(&last);
    assert_eq!(role.proposed(), [], "not at once, or it would spin");
    role.replica.on_tick();
    assert_eq!(role.proposed(), [(b, vec![2])]);
    for _ in 0..10 {
        role.replica.on_message(heartbeat(b, 6)).unwrap();
        role.replica.on_tick();
    }
    assert_eq!(role.proposed(), [(b, vec![1]), (b, vec![2])], "nothing came of it for long");
}

#[test]
fn leader_takes_what_members_propose_for_themselves_and_nothing_else() {
    let (b, c) = (MemberId(2), MemberId(3));
    let mut role = Role::leading(|_| {});
    role.replica.on_message(passed_on(b, 7)).unwrap();
    assert_eq!(appended(&role.next().unwrap()), [[7]]);
    let mut foreign = passed_on(b, 8);
    let data = foreign.entry_data().next().unwrap().1;
    foreign = propose(c, data);
    for message in [foreign, propose(b, "nonsense".into())] {
        assert!(matches!(role.replica.on_message(message), Err(StepError::NotAProposal { .. })));
    }
    let mut follower = Role::new(3, |_| {});
    follower.replica.on_message(heartbeat(c, 5)).unwrap();
    follower.replica.on_message(passed_on(b, 7)).unwrap();
    assert_eq!(follower.proposed(), [], "its own member gives it to the leader");
}

#[test]
fn callers_are_told_in_time_whether_their_request_may_still_come() {
    let c = MemberId(3);
    let mut role = Role::new(3, |config| config.request_timeout_ticks = 30);
    let pass = |role: &mut Role, ticks| {
        let mut refused = Vec::new();
        for _ in 0..ticks {
            role.replica.on_message(heartbeat(c, 5)).unwrap();
            role.replica.on_tick();
            while let Some(ready) = role.next() {
                role.sync();
                refused.extend(ready.refused_requests);
            }
        }
        refused
    };
    role.put(1).unwrap();
    for _ in 0..3 {
        role.replica.on_tick();
        assert!(role.next().is_none());
    }
    assert!(pass(&mut role, 10).is_empty());
    role.put(2).unwrap();
    assert_eq!(role.proposed(), [(c, vec![2])]);
    role.put(3).unwrap();
    let ready = role.next().unwrap();
    role.replica.on_unsent(&ready.raft.unwrap().messages[0]);
    // Another leader came while the first request waited; none while the second did.
    assert_eq!(pass(&mut role, 18), [(Ticket(1), Refusal::LostWithLeader)]);
    assert_eq!(pass(&mut role, 13), [(Ticket(2), Refusal::TimedOut), (Ticket(3), Refusal::TimedOut)]);
}

#[test]
fn what_was_overtaken_is_proposed_again_under_another_number() {
    let c = MemberId(3);
    let mut role = Role::new(3, |_| {});
    role.replica.on_message(heartbeat(c, 5)).unwrap();
    role.proposed();
    role.put(1).unwrap();
    role.proposed();
    role.put(2).unwrap();
    role.proposed();
    let second = role.sent.pop().unwrap().entry_data().next().unwrap().1;
    let kind = MessageKind::Append as u32;
    let entry =
        pb::RaftEntry { index: 2, term: 5, kind: u32::from(EntryKind::Normal.number()), data: second };
    role.replica
        .on_message(message(&pb::RaftMessage {
            format: 1,
            kind,
            from: c.0,
            to: ME.0,
            term: 5,
            log_term: 1,
            index: 1,
            commit: 2,
            entries: vec![entry],
            ..Default::default()
        }))
        .unwrap();
    assert_eq!(role.proposed(), [(c, vec![1])]);
    let again = role.sent.pop().unwrap().entry_data().next().unwrap().1;
    assert_eq!(group_id(&again).unwrap().number, 3);
}

#[test]
fn follower_gives_the_leader_no_more_than_it_may_and_the_rest_waits() {
    let mut role = Role::new(3, |config| config.forwarded_bytes_max = 1);
    role.replica.on_message(heartbeat(MemberId(3), 5)).unwrap();
    role.put(1).unwrap();
    assert_eq!(role.proposed(), [(MemberId(3), vec![1])]);
    role.put(2).unwrap();
    role.put(3).unwrap();
    assert_eq!(role.proposed(), []);
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
    // Renewals have room of their own, which is bounded, too.
    role.replica.on_urgent_read(4).unwrap();
    role.replica.on_urgent_read(5).unwrap();
    assert_eq!(role.replica.on_urgent_read(6), Err((6, Refusal::TooManyRequests)));
}

#[test]
fn scarce_space_refuses_what_adds_data_and_exhausted_space_everything() {
    let mut role = Role::leading(|_| {});
    let mut taken = |space| {
        role.replica.on_space(space);
        let kinds = [RequestKind::Put, RequestKind::Txn, RequestKind::DeleteRange, RequestKind::Compact];
        kinds.map(|kind| role.replica.on_request(Ticket(1), kind, Bytes::from_static(b"x"), None).is_ok())
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

/// Every entry that raises the format level among what is to be appended.
fn raised(ready: &Ready<u64>) -> Vec<u32> {
    let entries = ready.raft.iter().flat_map(|raft| &raft.entries);
    let groups = entries.filter(|entry| !entry.data.is_empty()).map(|entry| decode_group(entry.data.clone()));
    let requests = groups.flat_map(|group| group.unwrap().requests);
    let levels = requests.filter(|request| request.kind == RequestKind::FormatLevel);
    levels.map(|request| pb::FormatLevel::decode(request.body).unwrap().level).collect()
}

fn cluster_of(members: u64) -> Cluster {
    let record = |id| pb::MemberRecord { id, learner: 1 < id, ..Default::default() };
    let members = (1..=members).map(record).collect();
    Cluster::decode(pb::Membership { cluster_id: 5, members, removed: vec![] }.encode_to_vec().into())
        .unwrap()
}

#[test]
fn leader_raises_the_format_level_once_a_term_by_one_and_a_follower_never() {
    let mut role = Role::leading(|_| {});
    let mut gate = FormatGate::new(FormatLevel(2));
    let alone = cluster_of(1);
    for _tick in 0..5 {
        assert_eq!(gate.on_tick(&mut role.replica, &alone, |_| None), None);
    }
    let ready = role.next().unwrap();
    assert_eq!(raised(&ready), [1], "one entry, however often it was asked");
    role.settle();
    gate.on_applied(FormatLevel(1));
    gate.on_tick(&mut role.replica, &alone, |_| None);
    assert_eq!(raised(&role.next().unwrap()), [2]);
    role.settle();
    gate.on_applied(FormatLevel(2));
    gate.on_tick(&mut role.replica, &alone, |_| None);
    assert!(role.next().is_none(), "as high as this member goes");

    let mut follower = Role::new(2, |_| {});
    let mut gate = FormatGate::new(FormatLevel(1));
    gate.on_tick(&mut follower.replica, &alone, |_| Some(FormatLevel(1)));
    assert!(follower.sent.is_empty() && follower.next().is_none_or(|ready| raised(&ready).is_empty()));
}

#[test]
fn leader_waits_for_every_member_also_for_one_without_a_vote_and_for_a_change_under_way() {
    let mut role = Role::leading(|_| {});
    let mut gate = FormatGate::new(FormatLevel(1));
    let two = cluster_of(2);
    let mut tick = |role: &mut Role, reads| {
        gate.on_tick(&mut role.replica, &two, |_| reads);
        role.next().map(|ready| raised(&ready))
    };
    assert_eq!(tick(&mut role, None), None, "it is not connected");
    assert_eq!(tick(&mut role, Some(FormatLevel(0))), None, "an earlier release");
    // A third member is about to be added, which nobody has heard of yet.
    let change = ConfChange { kind: ConfChangeKind::AddLearner, member: MemberId(3), context: Bytes::new() };
    role.replica.propose_conf_change(&change).unwrap();
    assert!(role.next().is_some());
    assert_eq!(tick(&mut role, Some(FormatLevel(1))), None, "the change is under way");
    role.sync();
    let committed = role.next().unwrap().raft.unwrap().committed;
    let index = committed.last().unwrap().index;
    assert_eq!(tick(&mut role, Some(FormatLevel(1))), None, "committed and not applied");
    role.replica.on_conf_change(index, false).unwrap();
    role.replica.on_applied(index);
    assert_eq!(tick(&mut role, Some(FormatLevel(1))), Some(vec![1]));
}

#[test]
fn level_waits_while_the_disk_is_full_or_the_member_stops_and_its_entry_is_never_passed_on() {
    let mut role = Role::leading(|_| {});
    let mut gate = FormatGate::new(FormatLevel(1));
    let alone = cluster_of(1);
    role.replica.on_space(Space::Exhausted);
    gate.on_tick(&mut role.replica, &alone, |_| None);
    assert!(role.next().is_none());
    role.replica.on_space(Space::Ample);
    gate.on_tick(&mut role.replica, &alone, |_| None);
    let ready = role.next().unwrap();
    assert_eq!(raised(&ready), [1]);
    // Only what has a name is proposed again, to whoever leads then.
    let entry = ready.raft.unwrap().entries.into_iter().find(|entry| !entry.data.is_empty()).unwrap();
    assert_eq!(group_id(&entry.data), None);
    // Another member that gives it to a leader is refused: only named groups are its own requests.
    let message = propose(MemberId(2), entry.data);
    assert_eq!(role.replica.on_message(message), Err(StepError::NotAProposal { from: MemberId(2) }));
    let mut role = Role::leading(|_| {});
    role.replica.stop();
    FormatGate::new(FormatLevel(1)).on_tick(&mut role.replica, &alone, |_| None);
    assert!(role.next().is_none());
}
