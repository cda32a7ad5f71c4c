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
use crate::types::{KeyRange, LeaseId, LogIndex, Slice};

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    ttl_s: u64,
    /// As last logged; 0 is the full time.
    remaining_s: u64,
    /// The entry that granted it, which tells it from an earlier lease of the same id.
    granted_at: LogIndex,
    keys: BTreeSet<Box<[u8]>>,
    /// Their bytes together.
    keys_bytes: u64,
}

impl Lease {
    /// A lease without keys, as the log or a checkpoint tells of it.
    #[must_use]
    pub fn new(ttl_s: u64, remaining_s: u64, granted_at: LogIndex) -> Self {
        assert!((1..=LEASE_TTL_MAX_S.cast_unsigned()).contains(&ttl_s), "a TTL of {ttl_s} s");
        assert!(remaining_s < ttl_s, "{remaining_s} s are left of {ttl_s} s");
        Self { ttl_s, remaining_s, granted_at, keys: BTreeSet::new(), keys_bytes: 0 }
    }

    fn without_keys(&self) -> Self {
        Self { keys: BTreeSet::new(), keys_bytes: 0, ..*self }
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
        let key = self.keys.pop_first()?;
        self.keys_bytes -= key.len() as u64;
        Some(key)
    }

    /// The bytes of its keys together.
    #[must_use]
    pub fn keys_bytes(&self) -> u64 {
        self.keys_bytes
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
    key_walks: BTreeMap<KeyWalkId, KeyWalk>,
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

/// Where a look at the attached keys of a range stands.
#[derive(Debug, Default)]
pub struct AttachedCursor {
    lease: Option<LeaseId>,
    /// The last key of it that was shown.
    after: Option<Box<[u8]>>,
    is_at_end: bool,
}

/// Names a walk over keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyWalkId(u64);

/// A walk over the keys of a lease as they were at its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyWalk {
    lease: LeaseId,
    /// The last one that was visited; empty before the first.
    after: Vec<u8>,
    /// Keys behind it that have come or gone since; whether they were there.
    changed: BTreeMap<Box<[u8]>, bool>,
    /// The lease is out of the table.
    is_revoked: bool,
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
        for walk in self.key_walks.values_mut().filter(|walk| walk.lease == id) {
            (walk.is_revoked, walk.changed) = (true, BTreeMap::new());
        }
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

    /// Begins to walk over the keys of a lease as they are now.
    pub fn begin_key_walk(&mut self, lease: LeaseId) -> KeyWalkId {
        let id = KeyWalkId(self.key_walks.last_key_value().map_or(0, |(last, _)| last.0 + 1));
        let is_revoked = !self.contains(lease);
        self.key_walks.insert(id, KeyWalk { lease, after: Vec::new(), changed: BTreeMap::new(), is_revoked });
        id
    }

    /// Shows the next keys of a walk in order, as long as `visit` says so. `Some(true)` behind the last one; `None` if
    /// the lease was revoked since.
    pub fn walk_keys(&mut self, walk: KeyWalkId, mut visit: impl FnMut(&[u8]) -> bool) -> Option<bool> {
        let KeyWalk { lease, after, changed, is_revoked } = self.key_walks.get_mut(&walk)?;
        if *is_revoked {
            return None;
        }
        let behind = (Bound::Excluded(&**after), Bound::Unbounded);
        let mut now = self.leases.get(lease)?.keys.range::<[u8], _>(behind).peekable();
        // What is in `after` is borrowed.
        let mut last = None;
        let is_done = loop {
            let then = changed.first_key_value().map(|(key, _)| key);
            let is_changed = match (now.peek(), then) {
                (None, None) => break true,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(now), Some(then)) => then <= *now,
            };
            let goes_on = if is_changed {
                let (key, was_there) = changed.pop_first()?;
                now.next_if(|now| **now == key);
                let goes_on = !was_there || visit(&key);
                last = Some(std::borrow::Cow::Owned(key.into_vec()));
                goes_on
            } else {
                let key = now.next()?;
                last = Some(std::borrow::Cow::Borrowed(&**key));
                visit(key)
            };
            if !goes_on {
                break false;
            }
        };
        if let Some(last) = last {
            let last = last.into_owned();
            drop(now);
            *after = last;
        }
        Some(is_done)
    }

    /// Ends a walk over keys, wherever it stands.
    pub fn end_key_walk(&mut self, walk: KeyWalkId) {
        self.key_walks.remove(&walk);
    }

    /// `key` comes to the lease, or leaves it.
    #[inline]
    fn before_key_change(&mut self, id: LeaseId, key: &[u8], was_there: bool) {
        for walk in self.key_walks.values_mut().filter(|walk| walk.lease == id && !walk.is_revoked) {
            if *walk.after < *key && !walk.changed.contains_key(key) {
                walk.changed.insert(key.into(), was_there);
            }
        }
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
            self.before_key_change(from, key, true);
            let lease = self.leases.get_mut(&from).expect("a key's lease exists");
            assert!(lease.keys.remove(key), "{from:?} does not know a key attached to it");
            lease.keys_bytes -= key.len() as u64;
        }
        if to != LeaseId(0) {
            self.before_key_change(to, key, false);
            let lease = self.leases.get_mut(&to).expect("a key is attached to a lease that exists");
            assert!(lease.keys.insert(key.into()), "{to:?} knows the key already");
            lease.keys_bytes += key.len() as u64;
        }
    }

    /// Shows the keys of `range` that are attached, lease by lease and behind `cursor`, until the slice is spent. True
    /// when that was all, and from then on.
    pub fn attached_slice(
        &self,
        range: KeyRange<'_>,
        cursor: &mut AttachedCursor,
        slice: &mut Slice,
        mut each: impl FnMut(LeaseId, &[u8]),
    ) -> bool {
        if cursor.is_at_end {
            return true;
        }
        let from = cursor.lease.map_or(Bound::Unbounded, Bound::Included);
        for (&id, lease) in self.leases.range((from, Bound::Unbounded)) {
            if cursor.lease != Some(id) {
                *cursor = AttachedCursor { lease: Some(id), ..AttachedCursor::default() };
            }
            if slice.is_spent() {
                return false;
            }
            slice.spend_record();
            let after = cursor.after.take();
            let from = after.as_deref().map_or(Bound::Included(range.start()), Bound::Excluded);
            let behind = lease.keys.range::<[u8], _>((from, Bound::Unbounded));
            for key in behind.take_while(|key| range.contains(key)) {
                slice.spend_key();
                each(id, key);
                if slice.is_spent() {
                    cursor.after = Some(key.clone());
                    return false;
                }
            }
        }
        cursor.is_at_end = true;
        true
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

    #[test]
    fn a_walk_over_keys_sees_them_as_they_were_at_its_beginning_or_that_their_lease_is_gone() {
        let mut random = 11_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let (mut finished, mut gone) = (0, 0);
        for _ in 0..300 {
            let mut table = Table::new();
            let ids = [LeaseId(1), LeaseId(2)];
            ids.into_iter().for_each(|id| table.insert(id, lease(100)));
            let mut of_key: BTreeMap<String, LeaseId> = BTreeMap::new();
            let mut walks = Vec::new();
            for step in 0..200 {
                let key = format!("k{:02}", draw(40));
                let from = of_key.get(&key).copied().unwrap_or(LeaseId(0));
                let to = [LeaseId(0), ids[0], ids[1]][usize::try_from(draw(3)).unwrap()];
                if to == LeaseId(0) || table.contains(to) {
                    table.move_key(key.as_bytes(), from, to);
                    of_key.insert(key, to);
                }
                if draw(60) == 0 {
                    let id = ids[usize::try_from(draw(2)).unwrap()];
                    of_key.retain(|_, of| *of != id);
                    if table.revoke(id).is_some() && draw(2) == 0 {
                        // Of the same id, and yet another one.
                        table.insert(id, lease(step + 2));
                    }
                    walks.retain(|(walk, of, _): &(KeyWalkId, LeaseId, std::vec::IntoIter<Box<[u8]>>)| {
                        if *of != id {
                            return true;
                        }
                        assert_eq!(table.walk_keys(*walk, |_| panic!("there is none")), None);
                        table.end_key_walk(*walk);
                        gone += 1;
                        false
                    });
                }
                if draw(10) == 0 && walks.len() < 3 && table.contains(ids[0]) {
                    let keys: Vec<Box<[u8]>> = table.get(ids[0]).unwrap().keys().map(Into::into).collect();
                    walks.push((table.begin_key_walk(ids[0]), ids[0], keys.into_iter()));
                }
                walks.retain_mut(|(walk, _, expected)| {
                    let mut left = 1 + draw(4);
                    let is_done = table.walk_keys(*walk, |key| {
                        assert_eq!(Some(key), expected.next().as_deref());
                        left -= 1;
                        0 < left
                    });
                    if is_done == Some(true) {
                        assert_eq!(expected.next(), None);
                        table.end_key_walk(*walk);
                        finished += 1;
                    }
                    is_done == Some(false)
                });
                for (_, lease) in table.iter() {
                    assert_eq!(lease.keys_bytes(), lease.keys().map(|key| key.len() as u64).sum::<u64>());
                }
            }
        }
        assert!(500 < finished && 50 < gone, "{finished} walks to the end, {gone} leases gone");
    }
}
