//! Are leases what they promise, whatever fails? Judged by the clock of their clients.
//!
//! A lease's life is a promise with each answered grant and keep-alive: its keys stay for its whole time
//! from the moment the call was *sent*. When they went is known from the watchers of everything, in the
//! same process and by the same clock; they hear of it later, never earlier, so whatever looks early is
//! early. How late an end may be is judged only once nothing fails any more.
//!
//! Cost: n log n in the calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::history::{Answer, Call, Event, LEASED, Moment, Op, lease_of};

/// What happened to the leases, when nothing was wrong with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub granted: u64,
    pub renewed: u64,
    pub expired: u64,
    pub revoked: u64,
    /// The longest that one lived on after its time, once all was well.
    pub latest: Duration,
}

/// What the watchers of everything told of the leases' ends.
pub struct Seen<'a> {
    pub events: &'a [Event],
    /// When each revision was first told.
    pub moments: &'a BTreeMap<i64, Moment>,
    /// Nothing failed any more from here on.
    pub healed: Moment,
    /// How long after its time a lease may end then.
    pub slack: Duration,
}

#[derive(Default)]
struct Life<'a> {
    ops: Vec<&'a Op>,
    ttl_ns: Moment,
    /// Revision and moment.
    end: Option<(i64, Moment)>,
    last_put: i64,
}

impl Life<'_> {
    /// When a revoke was asked first.
    fn revoke_asked(&self) -> Option<Moment> {
        let revokes = self.ops.iter().filter(|op| matches!(op.call, Call::Revoke { .. }));
        revokes.map(|op| op.invoked).min()
    }

    /// The calls whose answers promise the whole time.
    fn promises(&self) -> impl Iterator<Item = &Op> {
        self.ops
            .iter()
            .copied()
            .filter(|op| matches!(op.answer, Some(Answer::Granted { .. } | Answer::Alive)))
    }
}

/// Judges all leases.
///
/// # Errors
/// The first broken promise.
pub fn check(ops: &[Op], seen: &Seen<'_>) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let mut lives: BTreeMap<i64, Life<'_>> = BTreeMap::new();
    for op in ops {
        let (Call::Grant { lease, .. }
        | Call::KeepAlive { lease }
        | Call::PutLeased { lease, .. }
        | Call::Revoke { lease }) = &op.call
        else {
            continue;
        };
        let life = lives.entry(*lease).or_default();
        if let Call::Grant { ttl_s, .. } = op.call {
            life.ttl_ns = ttl_s * 1_000_000_000;
        }
        life.ops.push(op);
    }
    ends(seen, &mut lives)?;
    for (lease, life) in &lives {
        promises_are_kept(*lease, life, &mut tally)?;
        let Some((revision, moment)) = life.end else { continue };
        match life.revoke_asked().is_some_and(|asked| asked < moment) {
            true => tally.revoked += 1,
            false => tally.expired += 1,
        }
        let touched = life.ops.iter().map(|op| op.completed.unwrap_or(op.invoked)).max();
        let due = touched.expect("it was granted").max(seen.healed) + life.ttl_ns;
        let late = Duration::from_nanos(moment.saturating_sub(due));
        if seen.slack < late {
            return Err(format!("late: lease {lease} ended {late:?} after its time, at revision {revision}"));
        }
        if seen.healed <= moment {
            tally.latest = tally.latest.max(late);
        }
    }
    Ok(tally)
}

/// Finds when each lease ended. All its keys go at once, and nothing of it comes after.
fn ends(seen: &Seen<'_>, lives: &mut BTreeMap<i64, Life<'_>>) -> Result<(), String> {
    let mut present: BTreeMap<i64, BTreeSet<&str>> = BTreeMap::new();
    let mut rest = seen.events;
    while let Some(first) = rest.first() {
        let revision = first.revision;
        let count = rest.iter().take_while(|event| event.revision == revision).count();
        let (events, behind) = rest.split_at(count);
        rest = behind;
        let Some(lease) = lease_of(&first.key) else {
            if let Some(event) = events.iter().find(|event| event.key.starts_with(LEASED)) {
                return Err(format!("revision {revision} writes {} and {}", first.key, event.key));
            }
            continue;
        };
        let Some(life) = lives.get_mut(&lease) else {
            return Err(format!("revision {revision} is about lease {lease}, which nobody asked for"));
        };
        if let Some((end, _)) = life.end {
            return Err(format!(
                "lives on: lease {lease} ended at {end}, and {} changed at {revision}",
                first.key
            ));
        }
        let keys = present.entry(lease).or_default();
        if first.found.is_some() {
            keys.insert(&first.key);
            life.last_put = revision;
            continue;
        }
        let gone: BTreeSet<&str> = events.iter().map(|event| event.key.as_str()).collect();
        if gone != *keys {
            return Err(format!(
                "by halves: revision {revision} takes {gone:?} of lease {lease}, which has {keys:?}"
            ));
        }
        keys.clear();
        life.end = Some((revision, seen.moments[&revision]));
    }
    match present.iter().find(|(_, keys)| !keys.is_empty()) {
        Some((lease, keys)) => Err(format!("never ends: lease {lease} still has {keys:?}")),
        None => Ok(()),
    }
}

fn promises_are_kept(lease: i64, life: &Life<'_>, tally: &mut Tally) -> Result<(), String> {
    let revoke_asked = life.revoke_asked();
    let lives_until = |promise: &Op| promise.invoked + life.ttl_ns;
    for promise in life.promises() {
        match promise.answer {
            Some(Answer::Alive) => tally.renewed += 1,
            _ => tally.granted += 1,
        }
        let revoked = life.ops.iter().find(|op| {
            matches!(op.answer, Some(Answer::Revoked { .. })) && op.completed < Some(promise.invoked)
        });
        if let Some(revoked) = revoked {
            return Err(format!("lives on: {promise}, after {revoked}"));
        }
        let Some((revision, moment)) = life.end else { continue };
        if moment < promise.invoked {
            return Err(format!(
                "lives on: {promise}, and lease {lease} ended at revision {revision}, {moment} ns"
            ));
        }
        if revoke_asked.is_none_or(|asked| moment < asked) && moment < lives_until(promise) {
            return Err(format!(
                "early: lease {lease} ended at revision {revision}, {moment} ns, {} ms after {promise}",
                (moment - promise.invoked) / 1_000_000
            ));
        }
    }
    for op in &life.ops {
        match (&op.answer, op.completed) {
            (Some(Answer::NoLease), Some(completed)) => {
                let broken = life
                    .promises()
                    .find(|promise| promise.completed < Some(op.invoked) && completed < lives_until(promise));
                if let Some(promise) = broken.filter(|_| revoke_asked.is_none_or(|asked| completed < asked)) {
                    return Err(format!("early: {op}, after {promise}"));
                }
            }
            (Some(Answer::Revoked { revision }), _) => {
                let is_left = match life.end {
                    Some((end, _)) => *revision < end,
                    None => false,
                };
                if is_left || *revision < life.last_put {
                    return Err(format!("lives on: {op}, and its keys were there afterwards"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
