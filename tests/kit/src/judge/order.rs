//! Is a recorded history one that a strictly serializable store can have produced?
//!
//! The store itself names the order: a write's revision. So the check needs no search. The events that
//! a watch told from the first revision on are the history of the store; every answered write must be
//! in it at the revision it was told, everything in it must have been asked for, every read and compare
//! must have seen exactly the state at the revision it names, and that order must respect real time:
//! what was asked after another answer had come sees no less. A call without an answer may have
//! happened at any time after it was asked, once, or never; its value in the events tells.
//!
//! A compaction has no revision. It is judged by what it takes: a read of the past is answered whole, or
//! as compacted when somebody had asked for that, and must be once it was answered.
//!
//! Keys of leases are written by calls like others, and go by themselves: what that may be is the business
//! of `leases.rs`. So do the keys of locks.
//!
//! What it cannot see: a call that was refused and happened all the same counts as one whose outcome is
//! unknown.
//! Cost: n log n in the calls.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Answer, Call, Event, Found, LEASED, LOCKED, Moment, Op, is_workers};

/// What a history held, when nothing was wrong with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub written: u64,
    pub read: u64,
    pub unequal: u64,
    /// Reads of the past that were answered with data.
    pub past: u64,
    /// Those that were answered as compacted.
    pub compacted: u64,
    pub compactions: u64,
    /// Calls about leases that were answered.
    pub leases: u64,
    pub unknown: u64,
    /// Of the unknown ones, those that happened.
    pub unknown_happened: u64,
}

/// Judges a history.
///
/// # Errors
/// The first broken rule, with the calls that broke it.
pub fn check(ops: &[Op], events: &[Event]) -> Result<Tally, String> {
    let store = Store::replay(events)?;
    let owners = owners(ops, &store)?;
    for (number, op) in ops.iter().enumerate() {
        answer_fits(op, &store).map_err(|why| format!("call {number}, {op}: {why}"))?;
    }
    in_real_time(ops, &owners)?;
    serializable_reads(ops, &owners)?;
    compactions(ops)?;
    let mut tally = Tally::default();
    for (number, op) in ops.iter().enumerate() {
        match &op.answer {
            Some(Answer::Written { .. }) => tally.written += 1,
            Some(Answer::Read { .. }) if matches!(op.call, Call::ReadAt { .. }) => tally.past += 1,
            Some(Answer::Read { .. }) => tally.read += 1,
            Some(Answer::Compacts { .. }) => tally.compactions += 1,
            Some(Answer::Compacted | Answer::Future) => tally.compacted += 1,
            Some(Answer::Granted { .. } | Answer::Alive | Answer::Revoked { .. } | Answer::NoLease) => {
                tally.leases += 1;
            }
            Some(Answer::Unequal { .. } | Answer::NothingDeleted { .. }) => tally.unequal += 1,
            None => {
                tally.unknown += 1;
                tally.unknown_happened += u64::from(owners.by_op.contains_key(&number));
            }
        }
    }
    Ok(tally)
}

/// The states that the events make, every one of them.
struct Store {
    /// What each key was from a revision on.
    keys: BTreeMap<String, Vec<(i64, Option<Found>)>>,
    /// What each revision did.
    revisions: BTreeMap<i64, Vec<Event>>,
    last: i64,
}

impl Store {
    fn replay(events: &[Event]) -> Result<Self, String> {
        let mut store = Self { keys: BTreeMap::new(), revisions: BTreeMap::new(), last: 1 };
        for event in events {
            let at = event.revision;
            if at != store.last && at != store.last + 1 {
                return Err(format!("revision {at} follows {}: a gap, or out of order", store.last));
            }
            store.last = at;
            let of_revision = store.revisions.entry(at).or_default();
            if of_revision.iter().any(|earlier| earlier.key == event.key) {
                return Err(format!("revision {at} tells {} twice", event.key));
            }
            of_revision.push(event.clone());
            let states = store.keys.entry(event.key.clone()).or_default();
            let before = states.last().and_then(|(_, found)| found.as_ref());
            match &event.found {
                None if before.is_none() => {
                    return Err(format!("revision {at} deletes {}, which is absent", event.key));
                }
                None => {}
                Some(found) => {
                    let (created, version) =
                        before.map_or((at, 1), |before| (before.created, before.version + 1));
                    if (found.created, found.modified, found.version) != (created, at, version) {
                        return Err(format!(
                            "revision {at} says {found:?} of {}, created at {created}, version {version}",
                            event.key
                        ));
                    }
                }
            }
            states.push((at, event.found.clone()));
        }
        Ok(store)
    }

    /// A key at a revision.
    fn at(&self, key: &str, revision: i64) -> Option<&Found> {
        let states = self.keys.get(key)?;
        let count = states.partition_point(|(from, _)| *from <= revision);
        states[..count].last()?.1.as_ref()
    }

    fn all_at(&self, revision: i64) -> BTreeMap<String, Found> {
        let keys = self.keys.keys();
        keys.filter_map(|key| Some((key.clone(), self.at(key, revision)?.clone()))).collect()
    }
}

/// Whether a revision is nobody's call: it only takes keys away that hang on leases, or it is about locks.
fn is_servers(events: &[Event]) -> bool {
    let is_locks = |event: &Event| event.key.starts_with(LOCKED);
    let ends_lease = |event: &Event| event.found.is_none() && event.key.starts_with(LEASED);
    events.iter().all(is_locks) || events.iter().all(ends_lease)
}

/// Whose work each revision is. Leases end without a call.
struct Owners {
    by_revision: BTreeMap<i64, usize>,
    by_op: BTreeMap<usize, i64>,
}

fn owners(ops: &[Op], store: &Store) -> Result<Owners, String> {
    let mut owners = Owners { by_revision: BTreeMap::new(), by_op: BTreeMap::new() };
    let mut own = |revision: i64, number: usize| match owners.by_revision.insert(revision, number) {
        Some(other) => {
            Err(format!("revision {revision} is the work of {} and of {}", ops[other], ops[number]))
        }
        None => {
            owners.by_op.insert(number, revision);
            Ok(())
        }
    };
    let mut by_value: BTreeMap<&str, usize> = BTreeMap::new();
    let mut deletes: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut clearings: BTreeSet<usize> = BTreeSet::new();
    for (number, op) in ops.iter().enumerate() {
        match &op.call {
            Call::Put { value, .. }
            | Call::PutAll { value, .. }
            | Call::PutLeased { value, .. }
            | Call::Cas { value, .. } => {
                if let Some(earlier) = by_value.insert(value, number) {
                    return Err(format!("the test wrote {value} twice: {} and {op}", ops[earlier]));
                }
            }
            Call::Delete { key } if op.answer.is_none() => {
                deletes.entry(key).or_default().insert(number);
            }
            Call::DeleteAll if op.answer.is_none() => {
                clearings.insert(number);
            }
            _ => {}
        }
        if let Some(Answer::Written { revision }) = &op.answer {
            if !store.revisions.contains_key(revision) {
                return Err(format!("lost: {op}, but the store's history ends or lacks it"));
            }
            own(*revision, number)?;
        }
    }
    for (revision, events) in &store.revisions {
        if is_servers(events) {
            match owners.by_revision.get(revision) {
                Some(number) => {
                    return Err(format!("revision {revision} ends a lease and is {}", ops[*number]));
                }
                None => continue,
            }
        }
        let acknowledged = owners.by_revision.get(revision).copied();
        let number = match (acknowledged, &events[0].found) {
            (Some(number), _) => number,
            (None, Some(found)) => match by_value.get(found.value.as_str()).copied() {
                Some(number) if ops[number].answer.is_some() => {
                    return Err(format!(
                        "revision {revision} does again, or in spite of the answer, {}",
                        ops[number]
                    ));
                }
                Some(number) => number,
                None => return Err(format!("revision {revision} writes {found:?}, which nobody asked for")),
            },
            // Any that was asked in time will do: two without an answer cannot be told apart. The one
            // asked first is the one that real time forbids least.
            (None, None) => match deletes
                .get_mut(events[0].key.as_str())
                .filter(|_| events.len() == 1)
                .and_then(BTreeSet::pop_first)
                .or_else(|| clearings.pop_first())
            {
                Some(number) => number,
                None => return Err(format!("revision {revision} deletes {}, unasked", events[0].key)),
            },
        };
        if acknowledged.is_none() {
            if let Some(earlier) = owners.by_op.insert(number, *revision) {
                return Err(format!("{} happened at {earlier} and again at {revision}", ops[number]));
            }
            owners.by_revision.insert(*revision, number);
        }
        effect_fits(&ops[number], *revision, events, store)
            .map_err(|why| format!("revision {revision}, {}: {why}; it did {events:?}", ops[number]))?;
    }
    Ok(owners)
}

/// Whether a revision did what its call asks, no less and no more.
fn effect_fits(op: &Op, revision: i64, events: &[Event], store: &Store) -> Result<(), String> {
    let mut did: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for event in events {
        did.insert(&event.key, event.found.as_ref().map(|found| found.value.as_str()));
    }
    let asked: BTreeMap<&str, Option<&str>> = match &op.call {
        Call::Put { key, value } | Call::PutLeased { key, value, .. } => {
            [(key.as_str(), Some(value.as_str()))].into()
        }
        Call::PutAll { keys, value } => keys.iter().map(|key| (key.as_str(), Some(value.as_str()))).collect(),
        Call::Cas { key, expected, value } => {
            let before = store.at(key, revision - 1).map_or(0, |found| found.modified);
            if before != *expected {
                return Err(format!("the compare holds for {expected}, the key was at {before}"));
            }
            [(key.as_str(), Some(value.as_str()))].into()
        }
        Call::Delete { key } => [(key.as_str(), None)].into(),
        Call::DeleteAll => {
            let present = store.keys.keys().filter(|key| is_workers(key));
            let present = present.filter(|key| store.at(key, revision - 1).is_some());
            present.map(|key| (key.as_str(), None)).collect()
        }
        _ => return Err("such a call writes nothing".to_owned()),
    };
    if did == asked { Ok(()) } else { Err("not what was asked".to_owned()) }
}

/// Whether an answer that wrote nothing saw the state at the revision it names.
fn answer_fits(op: &Op, store: &Store) -> Result<(), String> {
    let Some(answer) = &op.answer else { return Ok(()) };
    let Some(revision) = answer.revision() else { return Ok(()) };
    if store.last < revision {
        return Err(format!("the store's history ends at {}", store.last));
    }
    match (&op.call, answer) {
        (_, Answer::Written { .. }) => Ok(()),
        (Call::Cas { key, expected, .. }, Answer::Unequal { found, .. }) => {
            let state = store.at(key, revision);
            if state != found.as_ref() {
                return Err(format!("at that revision the key was {state:?}"));
            }
            if state.map_or(0, |found| found.modified) == *expected {
                return Err("the compare held".to_owned());
            }
            Ok(())
        }
        (Call::Delete { key }, Answer::NothingDeleted { .. }) => match store.at(key, revision) {
            Some(found) => Err(format!("at that revision the key was {found:?}")),
            None => Ok(()),
        },
        (Call::ReadAt { revision: asked }, _) if revision < *asked => {
            Err(format!("it was answered at revision {revision}"))
        }
        (Call::Read { .. } | Call::ReadAt { .. }, Answer::Read { found, .. }) => {
            let state = store.all_at(match op.call {
                Call::ReadAt { revision } => revision,
                _ => revision,
            });
            if state == *found {
                return Ok(());
            }
            let keys: BTreeSet<&String> = state.keys().chain(found.keys()).collect();
            let differs = keys.into_iter().find(|key| state.get(*key) != found.get(*key));
            let key = differs.expect("the maps differ");
            Err(format!("{key} was {:?}, the answer has {:?}", state.get(key), found.get(key)))
        }
        (Call::Compact { .. }, Answer::Compacts { .. })
        | (Call::Grant { .. }, Answer::Granted { .. })
        | (Call::Revoke { .. }, Answer::Revoked { .. }) => Ok(()),
        _ => Err("an answer of another kind".to_owned()),
    }
}

/// Whether the past is read whole until a compaction takes it, and not at all afterwards.
fn compactions(ops: &[Op]) -> Result<(), String> {
    /// Moments in order, each with the highest number up to then and the call that told it.
    type Highest = Vec<(Moment, i64, usize)>;
    fn highest(mut told: Highest) -> Highest {
        told.sort_unstable();
        let mut highest = (i64::MIN, 0);
        for (_, number, by) in &mut told {
            highest = highest.max((*number, *by));
            (*number, *by) = highest;
        }
        told
    }
    fn before(told: &Highest, moment: Moment) -> Option<(i64, usize)> {
        let count = told.partition_point(|(at, ..)| *at < moment);
        told[..count].last().map(|(_, number, by)| (*number, *by))
    }
    let (mut asked, mut done, mut known) = (Highest::new(), Highest::new(), Highest::new());
    for (number, op) in ops.iter().enumerate() {
        if let Call::Compact { revision } = op.call {
            asked.push((op.invoked, revision, number));
            if let (Some(Answer::Compacts { .. }), Some(completed)) = (&op.answer, op.completed) {
                done.push((completed, revision, number));
            }
        }
        if let Some((completed, revision)) = op.completed.zip(op.answer.as_ref().and_then(Answer::revision)) {
            known.push((completed, revision, number));
        }
    }
    let (asked, done, known) = (highest(asked), highest(done), highest(known));
    for op in ops {
        let (Call::ReadAt { revision } | Call::Compact { revision }) = op.call else { continue };
        let Some((answer, completed)) = op.answer.as_ref().zip(op.completed) else { continue };
        // A revision can be read as long as it is not older than the compaction's, and compacted as long
        // as it is newer.
        let is_taken = |compacted: i64| match op.call {
            Call::Compact { .. } => revision <= compacted,
            _ => revision < compacted,
        };
        match answer {
            Answer::Compacted => {
                if !before(&asked, completed).is_some_and(|(compacted, _)| is_taken(compacted)) {
                    return Err(format!("compacted, and nobody asked for that: {op}"));
                }
            }
            Answer::Future => {
                if let Some((known, by)) = before(&known, op.invoked)
                    && revision <= known
                {
                    return Err(format!("stale: {op}, asked after {}", ops[by]));
                }
            }
            _ => {
                if let Some((compacted, by)) = before(&done, op.invoked)
                    && is_taken(compacted)
                {
                    return Err(format!("not compacted: {op}, asked after {}", ops[by]));
                }
            }
        }
    }
    Ok(())
}

/// Whether the order of revisions respects that of time: a call sees everything whose answer had come
/// when it was asked, and a write comes after it.
fn in_real_time(ops: &[Op], owners: &Owners) -> Result<(), String> {
    let revision_of = |number: usize| {
        let answered = ops[number].answer.as_ref().and_then(Answer::revision);
        answered.or_else(|| owners.by_op.get(&number).copied())
    };
    // At one moment a call is asked before another is answered: that they were at once is the kinder
    // reading.
    let mut moments = Vec::new();
    for (number, op) in ops.iter().enumerate() {
        if revision_of(number).is_none() || !op.is_linearizable() {
            continue;
        }
        moments.push((op.invoked, false, number));
        if let Some(completed) = op.completed.filter(|_| op.answer.is_some()) {
            moments.push((completed, true, number));
        }
    }
    moments.sort_unstable();
    let mut newest: Option<(i64, usize)> = None;
    for (_, is_answer, number) in moments {
        let revision = revision_of(number).expect("others were left out");
        if is_answer {
            if newest.is_none_or(|(newest, _)| newest < revision) {
                newest = Some((revision, number));
            }
            continue;
        }
        let Some((seen, by)) = newest else { continue };
        let is_write = owners.by_op.contains_key(&number);
        if revision < seen || (is_write && revision == seen) {
            return Err(format!(
                "stale: {} (at revision {revision}) was asked after {}",
                ops[number], ops[by]
            ));
        }
    }
    Ok(())
}

/// A serializable read may be old, but not from the future, and on one connection, whose calls follow one
/// another, never older than what that connection was told before.
fn serializable_reads(ops: &[Op], owners: &Owners) -> Result<(), String> {
    let mut told: BTreeMap<u64, (i64, usize)> = BTreeMap::new();
    for (number, op) in ops.iter().enumerate() {
        let Some(revision) = op.answer.as_ref().and_then(Answer::revision) else { continue };
        let newest = told.entry(op.connection).or_insert((revision, number));
        if !op.is_linearizable() {
            if let Some(owner) = owners.by_revision.get(&revision)
                && op.completed.is_some_and(|completed| completed < ops[*owner].invoked)
            {
                return Err(format!("from the future: {op}, but that revision is {}", ops[*owner]));
            }
            if revision < newest.0 {
                return Err(format!("backwards on one connection: {op}, after {}", ops[newest.1]));
            }
        }
        *newest = (*newest).max((revision, number));
    }
    Ok(())
}
