//! The checker is proven by histories that it must take and by faults that it must name.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::history::{Answer, Call, Event, Found, Op};
use super::order::check;
use crate::env_number;

const KEYS: usize = 8;

/// A history of a store that works, seen by clients that overlap.
struct History {
    ops: Vec<Op>,
    events: Vec<Event>,
}

fn key(number: usize) -> String {
    format!("k{number}")
}

fn history(seed: u64, count: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut events: Vec<Event> = Vec::new();
    let mut state: BTreeMap<String, Found> = BTreeMap::new();
    let mut older = (1, state.clone());
    let mut revision = 1;
    let mut compacted = 1;
    let mut ops = Vec::new();
    for number in 0..count {
        let at = 1_000 + 10 * number;
        if rng.random_ratio(1, 30) {
            older = (revision, state.clone());
        }
        let name = key(rng.random_range(0..KEYS));
        let value = format!("v{number}");
        let mut put = |state: &mut BTreeMap<String, Found>, name: &str, revision: i64, value: &str| {
            let before = state.get(name);
            let (created, version) =
                before.map_or((revision, 1), |before| (before.created, before.version + 1));
            let found = Found { value: value.to_owned(), created, modified: revision, version };
            state.insert(name.to_owned(), found.clone());
            events.push(Event { revision, key: name.to_owned(), found: Some(found) });
        };
        let is_lost = rng.random_ratio(1, 100);
        let (call, answer) = match rng.random_range(0..13) {
            0..3 => {
                if !is_lost {
                    revision += 1;
                    put(&mut state, &name, revision, &value);
                }
                (Call::Put { key: name, value }, Answer::Written { revision })
            }
            3 => {
                let keys = vec![key(0), key(KEYS - 1)];
                if !is_lost {
                    revision += 1;
                    keys.iter().for_each(|key| put(&mut state, key, revision, &value));
                }
                (Call::PutAll { keys, value }, Answer::Written { revision })
            }
            4..6 => {
                let found = state.get(&name).cloned();
                let now = found.as_ref().map_or(0, |found| found.modified);
                let expected = if rng.random_ratio(1, 2) { now } else { now + 1 };
                let answer = if expected != now {
                    Answer::Unequal { revision, found }
                } else {
                    if !is_lost {
                        revision += 1;
                        put(&mut state, &name, revision, &value);
                    }
                    Answer::Written { revision }
                };
                (Call::Cas { key: name, expected, value }, answer)
            }
            6 => {
                let answer = if !state.contains_key(&name) {
                    Answer::NothingDeleted { revision }
                } else {
                    if !is_lost {
                        revision += 1;
                        state.remove(&name);
                        events.push(Event { revision, key: name.clone(), found: None });
                    }
                    Answer::Written { revision }
                };
                (Call::Delete { key: name }, answer)
            }
            7 => {
                let (revision, found) = older.clone();
                (Call::Read { serializable: true }, Answer::Read { revision, found })
            }
            8 | 9 => {
                let (at, found) = older.clone();
                let is_there = compacted <= at;
                let answer = if is_there { Answer::Read { revision, found } } else { Answer::Compacted };
                (Call::ReadAt { revision: at }, answer)
            }
            10 if number % 7 == 0 => {
                let wanted = rng.random_range(1..=older.0 + 3);
                let answer = match wanted {
                    _ if revision < wanted => Answer::Future,
                    _ if wanted <= compacted => Answer::Compacted,
                    _ if is_lost => Answer::Compacted,
                    _ => {
                        compacted = wanted;
                        Answer::Compacts { revision }
                    }
                };
                (Call::Compact { revision: wanted }, answer)
            }
            _ => (Call::Read { serializable: false }, Answer::Read { revision, found: state.clone() }),
        };
        let is_unknown = is_lost || rng.random_ratio(1, 100);
        ops.push(Op {
            connection: number,
            member: 0,
            invoked: at - rng.random_range(0..50),
            completed: (!is_unknown).then(|| at + rng.random_range(0..50)),
            call,
            answer: (!is_unknown).then_some(answer),
        });
    }
    History { ops, events }
}

impl History {
    fn check(&self) -> Result<super::order::Tally, String> {
        check(&self.ops, &self.events)
    }

    /// A call in the midst of the history that `wanted` likes.
    fn find(&mut self, wanted: impl Fn(&Op) -> bool) -> &mut Op {
        let middle = self.ops.len() / 2;
        self.ops[middle..].iter_mut().find(|op| wanted(op)).expect("the history is long")
    }
}

#[test]
fn histories_of_a_working_store_are_taken() {
    let mut happened = 0;
    for seed in 1..=env_number("PINION_CLUSTER_HISTORIES", 30) {
        let tally = history(seed, 2_000).check().unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(tally.written > 300 && tally.read > 300 && tally.unequal > 50 && tally.unknown > 5);
        happened += tally.unknown_happened;
    }
    assert!(happened > 0, "no unknown call had happened");
}

#[test]
fn each_planted_fault_is_named() {
    type Fault = fn(&mut History);
    let faults: [(&str, &str, Fault); 21] = [
        ("a linearizable read tells an older state", "stale", |history| {
            let old = history.ops[..500].iter().rfind(|op| is_read_of(op, false)).unwrap().answer.clone();
            history.find(|op| is_read_of(op, false)).answer = old;
        }),
        ("a serializable read tells a state to come", "from the future", |history| {
            let late = history.ops.iter().rfind(|op| is_read_of(op, false)).unwrap().answer.clone();
            history.find(|op| is_read_of(op, true)).answer = late;
        }),
        ("a serializable read goes back on its connection", "backwards", |history| {
            let old = history.ops[..500].iter().rfind(|op| is_read_of(op, true)).unwrap().answer.clone();
            history.find(|op| is_read_of(op, false)).connection = u64::MAX;
            let read = history.ops.iter_mut().rfind(|op| is_read_of(op, true)).unwrap();
            (read.answer, read.connection) = (old, u64::MAX);
        }),
        ("a read misses a key", "the answer has None", |history| {
            let read = history.find(|op| is_read_of(op, false));
            let Some(Answer::Read { found, .. }) = &mut read.answer else { unreachable!() };
            found.pop_last();
        }),
        ("a read tells half of a revision", "the answer has", |history| {
            // A pair's state, one key of it as it was before.
            let read = history.find(|op| {
                matches!(&op.answer, Some(Answer::Read { found, .. })
                if op.is_linearizable() && found.contains_key("k0"))
            });
            let Some(Answer::Read { found, .. }) = &mut read.answer else { unreachable!() };
            let half = found.get_mut("k0").unwrap();
            half.modified -= 1;
        }),
        ("an acknowledged write is gone", "lost", |history| {
            history.events.truncate(history.events.len() - 5);
        }),
        ("a revision is missing", "a gap", |history| {
            let gone = history.events[200].revision;
            history.events.retain(|event| event.revision != gone);
        }),
        ("two revisions are swapped", "out of order", |history| {
            let pair = (300..).find(|at| history.events[*at].revision != history.events[at + 1].revision);
            history.events.swap(pair.unwrap(), pair.unwrap() + 1);
        }),
        ("an event is told twice", "twice", |history| {
            let event = history.events[300].clone();
            history.events.insert(300, event);
        }),
        ("a write is carried out twice", "again", |history| {
            let last = history.events.last().unwrap().revision;
            let unknown_or_known = history.events.iter().rfind(|event| event.found.is_some()).unwrap();
            let mut again = unknown_or_known.clone();
            again.revision = last + 1;
            let found = again.found.as_mut().unwrap();
            (found.modified, found.version) = (last + 1, found.version + 1);
            history.events.push(again);
        }),
        ("a write that nobody asked for", "nobody asked", |history| {
            let revision = history.events.last().unwrap().revision + 1;
            let found = Found { value: "x".to_owned(), created: revision, modified: revision, version: 1 };
            history.events.push(Event { revision, key: "x".to_owned(), found: Some(found) });
        }),
        ("two writes get one revision", "is the work of", |history| {
            let of = |op: &&Op| matches!(op.answer, Some(Answer::Written { .. }));
            let answer = history.ops[..500].iter().rfind(of).unwrap().answer.clone();
            history.find(|op| matches!(op.answer, Some(Answer::Written { .. }))).answer = answer;
        }),
        ("half of a pair is written", "not what was asked", |history| {
            let both = (300..).find(|at| history.events[*at].revision == history.events[at + 1].revision);
            // The second key's later states would not add up; the history ends here.
            history.events.truncate(both.unwrap() + 1);
            let last = history.events.last().unwrap().revision;
            let is_kept = |op: &Op| op.answer.as_ref().and_then(Answer::revision).is_none_or(|at| at <= last);
            history.ops.retain(is_kept);
        }),
        ("a compare that did not hold succeeds", "the compare holds for", |history| {
            let op = history.find(|op| {
                matches!((&op.call, &op.answer),
                (Call::Cas { expected, .. }, Some(Answer::Written { .. })) if *expected > 0)
            });
            let Call::Cas { expected, .. } = &mut op.call else { unreachable!() };
            *expected -= 1;
        }),
        ("a read of the past tells the present", "the answer has", |history| {
            let is_read = |op: &&Op| op.answer.is_some() && op.call == Call::Read { serializable: false };
            let now = history.ops.iter().rfind(is_read).unwrap().answer.clone();
            let Some(Answer::Read { found: now, .. }) = now else { unreachable!() };
            let past = history.find(|op| is_past(op) && matches!(op.answer, Some(Answer::Read { .. })));
            let Some(Answer::Read { found, .. }) = &mut past.answer else { unreachable!() };
            *found = now;
        }),
        ("a read of the past tells a part of it", "the answer has None", |history| {
            let past = history.find(|op| {
                is_past(op) && matches!(&op.answer, Some(Answer::Read { found, .. }) if !found.is_empty())
            });
            let Some(Answer::Read { found, .. }) = &mut past.answer else { unreachable!() };
            found.pop_first();
        }),
        ("what nobody had asked to be compacted is gone", "nobody asked", |history| {
            let newest = history.events.last().unwrap().revision;
            let past = history.find(is_past);
            past.call = Call::ReadAt { revision: newest };
            past.answer = Some(Answer::Compacted);
        }),
        ("what was compacted is still read", "not compacted", |history| {
            // Revision 1 is compacted early in every history.
            let past = history.find(|op| is_past(op) && matches!(op.answer, Some(Answer::Read { .. })));
            past.call = Call::ReadAt { revision: 1 };
            let Some(Answer::Read { found, .. }) = &mut past.answer else { unreachable!() };
            found.clear();
        }),
        ("what was written is to come", "stale", |history| {
            let past = history.find(is_past);
            past.call = Call::ReadAt { revision: 5 };
            past.answer = Some(Answer::Future);
        }),
        ("keys of a lease are taken away by a call", "ends a lease and is", |history| {
            let key = super::history::leased_key(1, 1);
            let made = history.events.last().unwrap().revision + 1;
            let found = Found { value: "leased".to_owned(), created: made, modified: made, version: 1 };
            history.events.push(Event { revision: made, key: key.clone(), found: Some(found) });
            history.events.push(Event { revision: made + 1, key: key.clone(), found: None });
            let mut op = history.ops.last().unwrap().clone();
            (op.invoked, op.completed) = (op.invoked + 1_000, Some(op.invoked + 1_100));
            let put = Call::PutLeased { lease: 1, key: key.clone(), value: "leased".to_owned() };
            (op.call, op.answer) = (put, Some(Answer::Written { revision: made }));
            history.ops.push(op.clone());
            (op.invoked, op.completed) = (op.invoked + 1_000, Some(op.invoked + 1_100));
            (op.call, op.answer) = (Call::Delete { key }, Some(Answer::Written { revision: made + 1 }));
            history.ops.push(op);
        }),
        ("a write is ordered before one that was answered when it was asked", "stale", |history| {
            let op = history.find(|op| matches!(op.answer, Some(Answer::Written { .. })));
            op.invoked += 10_000;
            op.completed = op.completed.map(|completed| completed + 10_000);
        }),
    ];
    for (what, word, plant) in faults {
        for seed in 1..=5 {
            let mut history = history(seed, 2_000);
            plant(&mut history);
            let said = history.check().err().unwrap_or_else(|| panic!("not seen: {what}, seed {seed}"));
            assert!(said.contains(word), "{what}, seed {seed}: {said}");
        }
    }
}

fn is_past(op: &Op) -> bool {
    op.answer.is_some() && matches!(op.call, Call::ReadAt { .. })
}

fn is_read_of(op: &Op, serializable: bool) -> bool {
    op.answer.is_some() && op.call == Call::Read { serializable }
}

#[test]
fn a_hundred_thousand_calls_are_judged_in_seconds() {
    let count = env_number("PINION_CLUSTER_CALLS", 100_000);
    let history = history(7, count);
    let began = tokio::time::Instant::now();
    let tally = history.check().unwrap();
    println!("{count} calls judged in {:?}: {tally:?}", began.elapsed());
}
