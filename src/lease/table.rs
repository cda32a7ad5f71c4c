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
        let before = self.leases.insert(id, lease);
        assert!(before.is_none(), "{id:?} was granted twice");
    }

    /// Takes a lease out; the caller deletes its keys.
    pub fn revoke(&mut self, id: LeaseId) -> Option<Lease> {
        self.leases.remove(&id)
    }

    /// Notes how long a lease has still to live; what is not less than its TTL is the full time.
    /// Returns what was noted, or `None` if there is no such lease.
    pub fn set_remaining(&mut self, id: LeaseId, remaining_s: u64) -> Option<u64> {
        let lease = self.leases.get_mut(&id)?;
        lease.remaining_s = if remaining_s < lease.ttl_s { remaining_s } else { 0 };
        Some(lease.remaining_s)
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
