//! The leases that exist, and the keys attached to each. Replicated.
//!
//! Owns both directions' truth only by half: that a key belongs to a lease is written beside the
//! key's value (`mvcc`); the sets here are that, turned round.
//!
//! Invariants: no lease has id 0; `1 <= ttl_s <= LEASE_TTL_MAX_S`; `remaining_s < ttl_s`; a key is in
//! the set of the lease that its newest version names and in no other.
//! Cost: grant and look-up O(log leases); attach and detach O(log leases + log keys of the lease). A
//! lease takes about 100 bytes, its first key 250 more, each further one about 30 and its own bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::types::limits::LEASE_TTL_MAX_S;
use crate::types::{LeaseId, LogIndex};

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    ttl_s: u64,
    /// As last logged; 0 is the full time.
    remaining_s: u64,
    /// The entry that granted it, which tells it from an earlier lease of the same id.
    granted_at: LogIndex,
    keys: BTreeSet<Box<[u8]>>,
}

impl Lease {
    /// A lease without keys, as the log or a checkpoint tells of it.
    #[must_use]
    pub fn new(ttl_s: u64, remaining_s: u64, granted_at: LogIndex) -> Self {
        assert!((1..=LEASE_TTL_MAX_S.cast_unsigned()).contains(&ttl_s), "a TTL of {ttl_s} s");
        assert!(remaining_s < ttl_s, "{remaining_s} s are left of {ttl_s} s");
        Self { ttl_s, remaining_s, granted_at, keys: BTreeSet::new() }
    }

    fn without_keys(&self) -> Self {
        Self { keys: BTreeSet::new(), ..*self }
    }

    /// Index of the log entry that granted it.
    #[must_use]
    pub fn granted_at(&self) -> LogIndex {
        self.granted_at
    }

    /// For how long it was granted.
    #[must_use]
    pub fn ttl_s(&self) -> u64 {
        self.ttl_s
    }

    /// How long it has still to live as far as the log knows; 0 means its whole TTL.
    #[must_use]
    pub fn remaining_s(&self) -> u64 {
        self.remaining_s
    }

    /// Takes the first key away; `None` behind the last. For a lease that is out of the table.
    pub fn take_key(&mut self) -> Option<Box<[u8]>> {
        self.keys.pop_first()
    }

    /// The keys attached to it, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.keys.iter().map(|key| &**key)
    }
}

/// All leases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    leases: BTreeMap<LeaseId, Lease>,
    walks: BTreeMap<WalkId, Walk>,
}

/// Names a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalkId(u64);

/// A walk over all leases as they were at its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Walk {
    /// The last one that was visited.
    after: Option<LeaseId>,
    /// Leases behind it that have changed since, as they were; `None`: not there.
    changed: BTreeMap<LeaseId, Option<Lease>>,
}

impl Table {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    #[must_use]
    pub fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(&id, lease)| (id, lease))
    }

    /// Adds a lease. The id is not in use.
    pub fn insert(&mut self, id: LeaseId, lease: Lease) {
        assert!(id != LeaseId(0), "0 is no lease");
        self.before_change(id);
        let before = self.leases.insert(id, lease);
        assert!(before.is_none(), "{id:?} was granted twice");
    }

    /// Takes a lease out; the caller deletes its keys.
    pub fn revoke(&mut self, id: LeaseId) -> Option<Lease> {
        self.before_change(id);
        self.leases.remove(&id)
    }

    /// Notes how long a lease has still to live; what is not less than its TTL is the full time.
    /// Returns what was noted, or `None` if there is no such lease.
    pub fn set_remaining(&mut self, id: LeaseId, remaining_s: u64) -> Option<u64> {
        self.before_change(id);
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_s = if remaining_s < lease.ttl_s { remaining_s } else { 0 };
        Some(lease.remaining_s)
    }

    /// Begins to walk over all leases as they are now.
    pub fn begin_walk(&mut self) -> WalkId {
        let id = WalkId(self.walks.last_key_value().map_or(0, |(last, _)| last.0 + 1));
        self.walks.insert(id, Walk::default());
        id
    }

    /// The next lease of a walk, in the order of their ids, without its keys. `None` behind the last.
    pub fn walk(&mut self, walk: WalkId) -> Option<(LeaseId, Lease)> {
        let Walk { after, changed } = self.walks.get_mut(&walk)?;
        loop {
            let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let now = self.leases.range(behind).next().map(|(&id, _)| id);
            let then = changed.first_key_value().map(|(&id, _)| id);
            let id = now.into_iter().chain(then).min()?;
            *after = Some(id);
            match changed.remove(&id) {
                Some(Some(lease)) => return Some((id, lease)),
                // Granted since.
                Some(None) => {}
                None => return Some((id, self.leases[&id].without_keys())),
            }
        }
    }

    /// Ends a walk, wherever it stands.
    pub fn end_walk(&mut self, walk: WalkId) {
        self.walks.remove(&walk);
    }

    #[inline]
    fn before_change(&mut self, id: LeaseId) {
        for Walk { after, changed } in self.walks.values_mut() {
            if after.is_none_or(|after| after < id) {
                changed.entry(id).or_insert_with(|| self.leases.get(&id).map(Lease::without_keys));
            }
        }
    }

    /// The newest version of `key` has gone over from one lease to another; 0 is none. Both exist.
    pub fn move_key(&mut self, key: &[u8], from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if from != LeaseId(0) {
            let lease = self.leases.get_mut(&from).expect("a key's lease exists");
            assert!(lease.keys.remove(key), "{from:?} does not know a key attached to it");
        }
        if to != LeaseId(0) {
            let lease = self.leases.get_mut(&to).expect("a key is attached to a lease that exists");
            assert!(lease.keys.insert(key.into()), "{to:?} knows the key already");
        }
    }

    /// Checks the table against what the key space says of every key: `attached` are the live keys
    /// that name a lease. O(keys), for tests and simulation.
    pub fn check_invariants<'k>(&self, attached: impl Iterator<Item = (&'k [u8], LeaseId)>) {
        let mut count = 0;
        for (key, id) in attached {
            let lease = self.get(id).expect("a key names a lease that exists");
            assert!(lease.keys.contains(key), "{id:?} does not know a key that names it");
            count += 1;
        }
        let known: usize = self.leases.values().map(|lease| lease.keys.len()).sum();
        assert_eq!(known, count, "leases know keys that do not name them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ttl_s: u64) -> Lease {
        Lease::new(ttl_s, 0, LogIndex(ttl_s))
    }

    #[test]
    fn a_walk_sees_every_lease_as_it_was_at_its_beginning_whatever_changes_meanwhile() {
        let mut random = 7_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for _ in 0..200 {
            let mut table = Table::new();
            let mut walks = Vec::new();
            for step in 0..100 {
                let id = LeaseId(1 + draw(20).cast_signed());
                match draw(3) {
                    0 if !table.contains(id) => {
                        table.insert(id, lease(100 + step));
                        table.move_key(b"key", LeaseId(0), id);
                    }
                    1 => drop(table.revoke(id)),
                    _ => drop(table.set_remaining(id, draw(90))),
                }
                if draw(10) == 0 && walks.len() < 3 {
                    let all: Vec<_> = table.iter().map(|(id, lease)| (id, lease.without_keys())).collect();
                    walks.push((table.begin_walk(), all.into_iter()));
                }
                walks.retain_mut(|(walk, expected)| {
                    for _ in 0..draw(4) {
                        let found = table.walk(*walk);
                        assert_eq!(found, expected.next());
                        if found.is_none() {
                            table.end_walk(*walk);
                            return false;
                        }
                    }
                    true
                });
            }
        }
    }
}
