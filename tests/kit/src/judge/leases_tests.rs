//! Each promise of a lease, broken once on purpose.

use std::collections::BTreeMap;
use std::time::Duration;

use super::history::{Answer, Call, Event, Found, Moment, Op, leased_key};
use super::leases::{Seen, check};

const S: Moment = 1_000_000_000;

/// Lease 1 is granted for 2 s at 0 s, renewed at 1.0 s and at 2.5 s, and ends by itself after 4.6 s; lease 2 is
/// granted at 0 s and revoked at 1 s. Nothing fails from 5 s on.
struct Story {
    ops: Vec<Op>,
    events: Vec<Event>,
    moments: BTreeMap<i64, Moment>,
}

fn op(at: Moment, call: Call, answer: Option<Answer>) -> Op {
    let completed = answer.as_ref().map(|_| at + S / 100);
    Op { connection: 1, member: 0, invoked: at, completed, call, answer }
}

fn put(lease: i64, number: u32, at: Moment, revision: i64) -> (Op, Event) {
    let (key, value) = (leased_key(lease, number), format!("{lease} {number}"));
    let found = Found { value: value.clone(), created: revision, modified: revision, version: 1 };
    let call = Call::PutLeased { lease, key: key.clone(), value };
    (op(at, call, Some(Answer::Written { revision })), Event { revision, key, found: Some(found) })
}

fn story() -> Story {
    let grant = |lease| Call::Grant { lease, ttl_s: 2 };
    let mut ops = vec![
        op(0, grant(1), Some(Answer::Granted { revision: 1 })),
        op(0, grant(2), Some(Answer::Granted { revision: 1 })),
        op(S, Call::KeepAlive { lease: 1 }, Some(Answer::Alive)),
        op(S, Call::Revoke { lease: 2 }, Some(Answer::Revoked { revision: 6 })),
        op(5 * S / 2, Call::KeepAlive { lease: 1 }, Some(Answer::Alive)),
        op(49 * S / 10, Call::KeepAlive { lease: 1 }, Some(Answer::NoLease)),
    ];
    let mut events = Vec::new();
    for (lease, number, revision) in [(1, 0, 2), (1, 1, 3), (2, 0, 4), (2, 1, 5)] {
        let (op, event) = put(lease, number, S / 10, revision);
        ops.push(op);
        events.push(event);
    }
    let gone = |lease, number, revision| Event { revision, key: leased_key(lease, number), found: None };
    events.extend([gone(2, 0, 6), gone(2, 1, 6), gone(1, 0, 7), gone(1, 1, 7)]);
    let mut moments: BTreeMap<i64, Moment> = (2..6).map(|revision| (revision, S / 10)).collect();
    moments.extend([(6, S + S / 50), (7, 46 * S / 10)]);
    Story { ops, events, moments }
}

impl Story {
    fn check(&self) -> Result<super::leases::Tally, String> {
        let slack = Duration::from_secs(1);
        check(&self.ops, &Seen { events: &self.events, moments: &self.moments, healed: 5 * S, slack })
    }
}

#[test]
fn leases_that_keep_their_promises_are_taken() {
    let tally = story().check().unwrap();
    assert_eq!((tally.granted, tally.renewed, tally.expired, tally.revoked), (2, 2, 1, 1));
}

#[test]
fn each_planted_broken_promise_is_named() {
    type Plant = fn(&mut Story);
    let plants: [(&str, &str, Plant); 11] = [
        ("a lease ends 1.9 s after its last renewal", "early", |story| {
            story.moments.insert(7, 44 * S / 10);
        }),
        ("a lease that was renewed is unknown a second later", "early", |story| {
            story.ops[5].invoked = 4 * S;
            story.ops[5].completed = Some(4 * S + 1);
        }),
        ("a lease whose keys are gone is renewed", "lives on", |story| {
            story.ops.push(op(5 * S, Call::KeepAlive { lease: 1 }, Some(Answer::Alive)));
        }),
        ("a revoked lease is renewed", "lives on", |story| {
            story.ops.push(op(11 * S / 10, Call::KeepAlive { lease: 2 }, Some(Answer::Alive)));
            // Its end is heard of late.
            story.moments.insert(6, 2 * S);
        }),
        ("a lease is revoked and its keys go later", "lives on", |story| {
            story.ops[3].answer = Some(Answer::Revoked { revision: 5 });
        }),
        ("a key is put under a lease that ended", "lives on", |story| {
            let (op, event) = put(2, 3, 2 * S, 8);
            story.ops.push(op);
            story.events.push(event);
            story.moments.insert(8, 2 * S);
        }),
        ("one key of a lease stays", "by halves", |story| {
            story.events.pop();
        }),
        ("two leases end in one revision", "by halves", |story| {
            story.events.iter_mut().filter(|event| event.revision == 6).for_each(|event| event.revision = 7);
            story.moments.insert(7, 47 * S / 10);
        }),
        ("a lease never ends", "never ends", |story| story.events.truncate(6)),
        ("a lease ends long after its time", "late", |story| {
            story.moments.insert(7, 9 * S);
        }),
        ("keys under a lease that nobody was granted", "nobody asked", |story| {
            let (_, event) = put(9, 0, 2 * S, 8);
            story.events.push(event);
            story.moments.insert(8, 2 * S);
        }),
    ];
    for (what, word, plant) in plants {
        let mut story = story();
        plant(&mut story);
        let said = story.check().err().unwrap_or_else(|| panic!("not seen: {what}"));
        assert!(said.contains(word), "{what}: {said}");
    }
}
