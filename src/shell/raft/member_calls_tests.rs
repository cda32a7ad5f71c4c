//! What each call about the members comes to, on a leader and on a follower.

use std::cell::RefCell;

use prost::Message as _;

use super::*;
use crate::pb::peer as pb;
use crate::raft::tests::Disk;
use crate::raft::{self, CheckpointMeta, Message, MessageKind};
use crate::replica::Config;

const OWN: MemberId = MemberId(1);
const TICKET: Ticket = Ticket(40);

/// One member with its calls.
struct Seat {
    calls: MemberCalls,
    replica: Replica<u64>,
    disk: Disk,
    cluster: Cluster,
    ticks: u64,
    asked: RefCell<Vec<(u64, MemberId, Bytes)>>,
}

impl Seat {
    /// `members`: id, whether it has started, whether it learns.
    fn new(members: &[(u64, bool, bool)]) -> Self {
        let record = |(id, started, learner): &(u64, bool, bool)| pb::MemberRecord {
            id: *id,
            name: if *started { format!("m{id}") } else { String::new() },
            peer_urls: vec![format!("http://m{id}:1")],
            learner: *learner,
            ..Default::default()
        };
        let members = members.iter().map(record).collect();
        let wire = pb::Membership { cluster_id: 7, members, removed: Vec::new() };
        let cluster = Cluster::decode(wire.encode_to_vec().into()).unwrap();
        let mut meta = CheckpointMeta::bootstrap(cluster.voters());
        meta.learners = cluster.learners().collect();
        let disk = Disk::new(meta);
        let replica = Replica::new(Config::new(raft::Config::new(OWN, 0)), disk.recover()).unwrap();
        let calls = MemberCalls::new(true, 1);
        let mut seat = Self { calls, replica, disk, cluster, ticks: 0, asked: RefCell::default() };
        seat.settle();
        seat
    }

    /// Carries everything out but the verdicts on changes; how many of those are committed.
    fn settle(&mut self) -> usize {
        let mut changes = 0;
        loop {
            if let Some(ready) = self.replica.take_ready() {
                let Some(ready) = ready.raft else { continue };
                self.disk.write(&ready);
                for entry in &ready.committed {
                    if entry.kind == raft::EntryKind::ConfChange {
                        changes += 1;
                    } else if changes == 0 {
                        self.replica.on_applied(entry.index);
                    }
                }
            } else if let Some((number, _)) = self.disk.sync() {
                self.replica.on_durable(number);
            } else {
                return changes;
            }
        }
    }

    /// As if `leader` had sent a heartbeat.
    fn follow(&mut self, leader: u64) {
        let heartbeat = pb::RaftMessage {
            format: 1,
            kind: MessageKind::Heartbeat as u32,
            to: OWN.0,
            from: leader,
            term: 9,
            ..Default::default()
        };
        let message = Message::decode(heartbeat.encode_to_vec().into()).unwrap();
        self.replica.on_message(message).unwrap();
        self.settle();
        assert_eq!(self.replica.status().leader, Some(MemberId(leader)));
    }

    fn advance(&mut self) -> Vec<Notification> {
        let touch = |_: MemberId| Touch::Lasting;
        let ask = |id, leader, change| self.asked.borrow_mut().push((id, leader, change));
        let standing =
            Standing { cluster: &self.cluster, own: OWN, ticks: self.ticks, touch: &touch, ask: &ask };
        self.calls.advance(&mut self.replica, &standing)
    }

    fn call(&mut self, call: MemberCall) -> Vec<Notification> {
        self.calls.push(TICKET, call, self.ticks);
        self.advance()
    }
}

fn refused(refusal: Refusal) -> Vec<Notification> {
    vec![Notification::Client(TICKET, Err(refusal))]
}

fn add(url: &str) -> MemberCall {
    MemberCall::Add { peer_urls: vec![url.to_owned()], learner: false }
}

fn removal(member: u64, id: u64) -> MemberChange {
    let origin = Origin { member: MemberId(member), ticket: TICKET };
    MemberChange { origin, kind: MemberChangeKind::Remove(MemberId(id)) }
}

#[test]
fn leader_proposes_one_change_and_keeps_the_next_until_that_is_applied() {
    let mut seat = Seat::new(&[(1, true, false)]);
    assert_eq!(seat.call(add("http://x:1")), []);
    seat.calls.push_change(5, removal(3, 8), 0);
    assert_eq!(seat.advance(), [], "raft would drop a second one");
    assert_eq!(seat.settle(), 1);
    let index = seat.replica.status().committed;
    seat.replica.on_conf_change(index, false).unwrap();
    seat.replica.on_applied(index);
    assert_eq!(seat.advance(), [Notification::Follower(5, None)]);
    assert_eq!(seat.settle(), 1);
    assert!(seat.asked.borrow().is_empty());
}

#[test]
fn follower_asks_the_leader_and_leaves_the_answer_to_the_state_machine() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, false), (3, true, false)]);
    assert_eq!(seat.call(MemberCall::Remove(MemberId(3))), [], "nobody leads yet");
    assert!(seat.asked.borrow().is_empty());
    seat.follow(2);
    assert_eq!(seat.advance(), []);
    assert_eq!(seat.advance(), [], "asked once");
    let (id, leader, change) = seat.asked.take().pop().unwrap();
    assert_eq!(leader, MemberId(2));
    assert_eq!(MemberChange::decode(change).unwrap(), removal(1, 3));
    seat.calls.on_leader_answer(id, LeaderAnswer::Proposed);
    seat.ticks += 1_000;
    assert_eq!(seat.advance(), [], "the call has left");
}

#[test]
fn change_is_sent_again_unaltered_when_the_leader_is_gone_and_its_own_no_is_passed_on() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, false), (3, true, true)]);
    seat.follow(2);
    seat.call(MemberCall::Add { peer_urls: vec!["http://x:1".to_owned()], learner: true });
    let (id, _, first) = seat.asked.take().pop().unwrap();
    for answer in [LeaderAnswer::Lost, LeaderAnswer::Refused(Refusal::NotLeader)] {
        seat.calls.on_leader_answer(id, answer);
        assert_eq!(seat.advance(), []);
        let again = seat.asked.take().pop().unwrap();
        assert_eq!((again.0, &again.2), (id, &first), "a second id would be a second member");
    }
    seat.calls.on_leader_answer(id, LeaderAnswer::Refused(Refusal::LearnerNotReady));
    assert_eq!(seat.advance(), refused(Refusal::LearnerNotReady));
    seat.calls.on_leader_answer(id, LeaderAnswer::Proposed);
    assert_eq!(seat.advance(), [], "nobody waits any more");
}

#[test]
fn member_that_does_not_lead_sends_a_follower_away() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, false)]);
    seat.calls.push_change(5, removal(2, 3), 0);
    assert_eq!(seat.advance(), [Notification::Follower(5, Some(Refusal::NotLeader))]);
}

#[test]
fn call_that_waits_for_a_leader_ends_at_the_request_timeout() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, false)]);
    assert_eq!(seat.call(MemberCall::Remove(MemberId(9))), []);
    seat.ticks = seat.replica.request_timeout_ticks() - 1;
    assert_eq!(seat.advance(), []);
    seat.ticks += 1;
    assert_eq!(seat.advance(), refused(Refusal::TimedOut));
}

#[test]
fn strict_checks_come_before_everything_and_can_be_switched_off() {
    let mut seat = Seat::new(&[(1, true, false), (2, false, false)]);
    for call in [add("http://x:1"), MemberCall::Remove(MemberId(1)), MemberCall::Remove(MemberId(9))] {
        assert_eq!(seat.call(call), refused(Refusal::NotEnoughStarted));
    }
    seat.calls.strict = false;
    assert_eq!(seat.call(add("http://x:1")), []);
    assert_eq!(seat.calls.calls.len(), 1, "it waits for a leader");
}

#[test]
fn promotion_wants_a_learner_that_has_nearly_the_whole_log() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, true)]);
    let promote = |id| MemberCall::Promote(MemberId(id));
    assert_eq!(seat.call(promote(9)), refused(Refusal::MemberNotFound));
    assert_eq!(seat.call(promote(0)), refused(Refusal::MemberNotFound));
    assert_eq!(seat.call(MemberCall::Remove(MemberId(0))), refused(Refusal::MemberNotFound));
    assert_eq!(seat.call(promote(1)), refused(Refusal::NotLearner));
    assert_eq!(seat.call(promote(2)), refused(Refusal::LearnerNotReady));
    let last = seat.replica.status().last;
    let (term, index) = (seat.replica.status().term.0, last.0);
    let kind = MessageKind::AppendResponse as u32;
    let answer = pb::RaftMessage { format: 1, kind, to: OWN.0, from: 2, term, index, ..Default::default() };
    seat.replica.on_message(Message::decode(answer.encode_to_vec().into()).unwrap()).unwrap();
    assert_eq!(seat.call(promote(2)), []);
    assert_eq!(seat.settle(), 1);
}

#[test]
fn leadership_goes_to_voters_only_and_only_from_the_leader() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, true)]);
    let to = |id| MemberCall::MoveLeader(MemberId(id));
    assert_eq!(seat.call(to(1)), [Notification::Client(TICKET, Ok(()))], "it leads already");
    assert_eq!(seat.call(to(2)), refused(Refusal::BadTransferee));
    assert_eq!(seat.call(to(9)), refused(Refusal::BadTransferee));
    let mut follower = Seat::new(&[(1, true, false), (2, true, false), (3, true, false)]);
    follower.follow(2);
    assert_eq!(follower.call(to(3)), refused(Refusal::NotLeader));
    assert_eq!(follower.call(to(2)), refused(Refusal::NotLeader), "though that one leads");
}

#[test]
fn refusals_keep_their_meaning_between_members_and_an_unknown_one_is_a_refusal() {
    assert_eq!((refusal_number(None), refusal_of(0)), (0, None));
    for (number, refusal) in REFUSALS {
        assert_eq!((refusal_number(Some(refusal)), refusal_of(number)), (number, Some(refusal)));
    }
    assert_eq!(refusal_of(99), Some(Refusal::TimedOut));
}

#[test]
fn calls_beyond_the_bound_are_refused() {
    let mut seat = Seat::new(&[(1, true, false), (2, true, false)]);
    for _ in 0..CALLS_MAX {
        seat.calls.push(TICKET, MemberCall::Remove(MemberId(9)), 0);
    }
    seat.calls.push_change(6, removal(2, 9), 0);
    assert_eq!(seat.advance(), [Notification::Follower(6, Some(Refusal::TooManyRequests))]);
}
