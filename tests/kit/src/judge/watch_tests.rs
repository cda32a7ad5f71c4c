//! The judge must see what it is for: each rule is broken on purpose in a life that is right.

use super::watch::{History, Interest, Life, Rule, Told, check};
use crate::pb::mvccpb::{Event, KeyValue};

fn put(key: &str, create_revision: i64, mod_revision: i64, version: i64) -> Event {
    let kv = KeyValue {
        key: key.to_owned().into(),
        value: format!("{key}@{mod_revision}").into(),
        create_revision,
        mod_revision,
        version,
        lease: 0,
    };
    Event { r#type: 0, kv: Some(kv), prev_kv: None }
}

fn delete(key: &str, mod_revision: i64) -> Event {
    let kv = KeyValue { key: key.to_owned().into(), mod_revision, ..Default::default() };
    Event { r#type: 1, kv: Some(kv), prev_kv: None }
}

/// Revision 4 changes three keys, revision 6 deletes and creates.
fn history() -> History {
    let events = [
        put("a", 2, 2, 1),
        put("b", 3, 3, 1),
        put("a", 2, 4, 2),
        put("b", 3, 4, 2),
        put("c", 4, 4, 1),
        put("a", 2, 5, 3),
        delete("a", 6),
        put("d", 6, 6, 1),
        put("a", 7, 7, 1),
        put("b", 3, 8, 3),
    ];
    let mut history = History::default();
    for event in events {
        history.add(event).unwrap();
    }
    history
}

fn everything() -> Interest {
    Interest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        no_put: false,
        no_delete: false,
        prev_kv: true,
    }
}

/// One response for each revision, as the history has it.
fn life() -> Life {
    let history = history();
    let mut told: Vec<Told> = Vec::new();
    let mut before: std::collections::BTreeMap<_, KeyValue> = std::collections::BTreeMap::new();
    let with_previous: Vec<Event> = history
        .events
        .iter()
        .map(|event| {
            let kv = event.kv.clone().unwrap();
            let prev_kv = before.remove(&kv.key);
            if event.r#type == 0 {
                before.insert(kv.key.clone(), kv);
            }
            Event { prev_kv, ..event.clone() }
        })
        .collect();
    for group in with_previous.chunk_by(|a, b| revision(a) == revision(b)) {
        told.push(Told::Events { events: group.to_vec(), fragment: false, compacted: 0 });
    }
    Life { interest: everything(), start_revision: 2, told, complete_to: Some(8) }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision
}

fn events(told: &mut Told) -> &mut Vec<Event> {
    match told {
        Told::Events { events, .. } => events,
        other => panic!("{other:?} has no events"),
    }
}

fn broken(change: impl FnOnce(&mut Life)) -> Option<Rule> {
    let mut life = life();
    change(&mut life);
    check(&history(), &life).err().map(|violation| violation.rule)
}

#[test]
fn lives_that_are_right_are_accepted() {
    assert_eq!(check(&history(), &life()).unwrap(), 10);
    assert_eq!(broken(|life| life.told.insert(2, Told::Progress(3))), None);
    // Begins again where it had come to, or after what was announced.
    assert_eq!(broken(|life| life.told.insert(3, Told::Resumed(5))), None);
    // Began in the middle; several revisions in one response.
    assert_eq!(
        broken(|life| {
            life.start_revision = 4;
            life.told.drain(..2);
        }),
        None
    );
    assert_eq!(
        broken(|life| {
            let more = std::mem::take(events(&mut life.told[3]));
            events(&mut life.told[2]).extend(more);
            life.told.remove(3);
        }),
        None
    );
    // One revision in two responses that say so.
    assert_eq!(
        broken(|life| {
            let rest = events(&mut life.told[2]).split_off(1);
            let Told::Events { fragment, .. } = &mut life.told[2] else { unreachable!() };
            *fragment = true;
            life.told.insert(3, Told::Events { events: rest, fragment: false, compacted: 0 });
        }),
        None
    );
    // The value before is gone with a compaction.
    assert_eq!(
        broken(|life| {
            events(&mut life.told[2])[0].prev_kv = None;
            let Told::Events { compacted, .. } = &mut life.told[2] else { unreachable!() };
            *compacted = 4;
        }),
        None
    );
    assert_eq!(
        broken(|life| {
            life.told.truncate(2);
            life.told.push(Told::Compacted(5));
            life.complete_to = None;
        }),
        None
    );
}

#[test]
fn changes_in_the_wrong_order_are_seen() {
    assert_eq!(broken(|life| life.told.swap(1, 2)), Some(Rule::Ordered));
    assert_eq!(broken(|life| events(&mut life.told[2]).swap(0, 1)), Some(Rule::Ordered));
}

#[test]
fn change_that_comes_twice_is_seen() {
    assert_eq!(
        broken(|life| {
            let again = life.told[1].clone();
            life.told.insert(2, again);
        }),
        Some(Rule::Unique)
    );
    assert_eq!(
        broken(|life| {
            let again = life.told[0].clone();
            life.told.insert(4, again);
        }),
        Some(Rule::Unique)
    );
    assert_eq!(
        broken(|life| {
            let again = events(&mut life.told[2])[2].clone();
            events(&mut life.told[2]).push(again);
        }),
        Some(Rule::Unique)
    );
}

#[test]
fn change_that_never_comes_is_seen() {
    assert_eq!(broken(|life| drop(life.told.remove(1))), Some(Rule::Reliable));
    assert_eq!(broken(|life| drop(life.told.pop())), Some(Rule::Reliable), "the last one");
    assert_eq!(broken(|life| drop(life.told.remove(0))), Some(Rule::Reliable), "the first one");
}

#[test]
fn revision_told_by_halves_is_seen() {
    assert_eq!(
        broken(|life| {
            let rest = events(&mut life.told[2]).split_off(1);
            life.told.insert(3, Told::Events { events: rest, fragment: false, compacted: 0 });
        }),
        Some(Rule::Atomic)
    );
    assert_eq!(
        broken(|life| {
            let rest = events(&mut life.told[2]).split_off(2);
            events(&mut life.told[3]).splice(0..0, rest);
        }),
        Some(Rule::Atomic),
        "the rest comes with the next revision"
    );
}

#[test]
fn gap_at_a_new_beginning_is_seen() {
    assert_eq!(
        broken(|life| {
            life.told.insert(3, Told::Resumed(5));
            life.told.remove(4);
        }),
        Some(Rule::Resumable)
    );
}

#[test]
fn bookmark_ahead_of_the_events_is_seen() {
    assert_eq!(broken(|life| life.told.insert(2, Told::Progress(4))), Some(Rule::Bookmarkable));
    assert_eq!(broken(|life| life.told.insert(0, Told::Progress(2))), Some(Rule::Bookmarkable));
}

#[test]
fn change_that_nobody_asked_for_is_seen() {
    assert_eq!(broken(|life| life.interest.no_delete = true), Some(Rule::Filtered));
    assert_eq!(broken(|life| life.interest.no_put = true), Some(Rule::Filtered));
    assert_eq!(broken(|life| life.interest.range_end = "c".into()), Some(Rule::Filtered));
}

#[test]
fn creation_told_as_a_change_is_seen() {
    assert_eq!(
        broken(|life| events(&mut life.told[1])[0].kv.as_mut().unwrap().version = 2),
        Some(Rule::Creation)
    );
    assert_eq!(
        broken(|life| {
            let kv = events(&mut life.told[3])[0].kv.as_mut().unwrap();
            (kv.create_revision, kv.version) = (5, 1);
        }),
        Some(Rule::Creation)
    );
}

#[test]
fn wrong_or_missing_previous_value_is_seen() {
    assert_eq!(broken(|life| events(&mut life.told[2])[0].prev_kv = None), Some(Rule::PreviousValue));
    assert_eq!(
        broken(|life| events(&mut life.told[2])[0].prev_kv.as_mut().unwrap().version = 7),
        Some(Rule::PreviousValue)
    );
    assert_eq!(broken(|life| life.interest.prev_kv = false), Some(Rule::PreviousValue), "not asked for");
}

#[test]
fn change_told_otherwise_than_it_was_is_seen() {
    assert_eq!(
        broken(|life| events(&mut life.told[3])[0].kv.as_mut().unwrap().value = "else".into()),
        Some(Rule::True)
    );
    assert_eq!(
        broken(|life| events(&mut life.told[1])[0].kv.as_mut().unwrap().key = "never".into()),
        Some(Rule::True)
    );
}

#[test]
fn cancel_for_a_compaction_that_took_nothing_is_seen() {
    assert_eq!(
        broken(|life| {
            life.told.truncate(3);
            life.told.push(Told::Compacted(5));
            life.complete_to = None;
        }),
        Some(Rule::Kept)
    );
}

#[test]
fn history_that_cannot_be_one_is_refused() {
    for impossible in
        [put("a", 9, 9, 1), put("a", 2, 9, 2), put("e", 9, 9, 2), delete("e", 9), put("e", 7, 7, 1)]
    {
        assert!(history().add(impossible.clone()).is_err(), "{impossible:?}");
    }
    history().add(put("a", 7, 9, 2)).expect("the next version of a key");
}
