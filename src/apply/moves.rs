//! Which lease each key hangs on, and which versions had an expiry: moves on their way, and whether a lease may be named.
//!
//! A put or a transaction moves keys between leases when it commits and not before: what it will
//! move is collected in `Moves` on the way.
//!
//! Cost: a put without leases, of a key without one, compares two numbers.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::directory::Deadlines;
use crate::lease::Table;
use crate::mvcc::KeyValueRef;
use crate::request::Rejection;
use crate::types::{LeaseId, Slice};

/// Whether a key may be attached to `lease`: to none, or to one that exists.
pub(super) fn check_lease(leases: &Table, lease: i64) -> Result<(), Rejection> {
    let id = LeaseId(lease);
    if lease == 0 || leases.contains(id) { Ok(()) } else { Err(Rejection::LeaseNotFound(id)) }
}

/// Moves of one chunk.
const CHUNK: usize = 1_024;

#[derive(Debug)]
enum Move {
    /// A key goes from one lease to another.
    Lease(Bytes, LeaseId, LeaseId),
    /// The version of this revision had an expiry, which ends with it.
    Ended(i64),
}

/// Keys on their way from one lease to another, in the order of the writes that move them, and versions whose expiry
/// ends with them.
///
/// They lie in chunks, so that a million of them are neither copied as they grow nor given back in one piece.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Being carried out.
    going: std::vec::IntoIter<Move>,
    full: VecDeque<Vec<Move>>,
    last: Vec<Move>,
}

impl Moves {
    /// A put.
    #[inline]
    pub(super) fn on_put(&mut self, key: &Bytes, from: i64, to: i64) {
        if from != to {
            self.push(Move::Lease(key.clone(), LeaseId(from), LeaseId(to)));
        }
    }

    /// A version was superseded that had an expiry, if `revision` is not 0.
    #[inline]
    pub(super) fn on_superseded(&mut self, revision: i64) {
        if revision != 0 {
            self.push(Move::Ended(revision));
        }
    }

    /// A deletion of this version.
    #[inline]
    pub(super) fn on_delete(&mut self, version: &KeyValueRef<'_>) {
        if version.lease != 0 {
            let key = Bytes::copy_from_slice(version.key);
            self.push(Move::Lease(key, LeaseId(version.lease), LeaseId(0)));
        }
        self.on_superseded(version.expiring());
    }

    /// A deletion of a key that hangs on this lease.
    pub(super) fn on_detach(&mut self, key: &[u8], from: LeaseId) {
        self.push(Move::Lease(Bytes::copy_from_slice(key), from, LeaseId(0)));
    }

    /// Whether none is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.going.as_slice().is_empty() && self.full.is_empty() && self.last.is_empty()
    }

    fn push(&mut self, key: Move) {
        if self.last.len() == CHUNK {
            self.full.push_back(std::mem::take(&mut self.last));
        }
        self.last.push(key);
    }

    fn take_first(&mut self) -> Option<Move> {
        loop {
            if let Some(first) = self.going.next() {
                return Some(first);
            }
            let chunk = self.full.pop_front().unwrap_or_else(|| std::mem::take(&mut self.last));
            if chunk.is_empty() {
                return None;
            }
            self.going = chunk.into_iter();
        }
    }

    /// Carries moves out until the slice is spent. True when that was all.
    pub(super) fn commit_slice(
        &mut self,
        leases: &mut Table,
        deadlines: &mut Deadlines,
        slice: &mut Slice,
    ) -> bool {
        self.take_slice(slice, |step| step.carry_out(leases, deadlines))
    }

    /// Gives moves up until the slice is spent. True when that was all.
    pub(super) fn forget_slice(&mut self, slice: &mut Slice) -> bool {
        self.take_slice(slice, drop)
    }

    fn take_slice(&mut self, slice: &mut Slice, mut each: impl FnMut(Move)) -> bool {
        while !slice.is_spent() {
            let Some(step) = self.take_first() else { return true };
            slice.spend_key();
            each(step);
        }
        false
    }

    /// The writes are committed.
    #[inline]
    pub(super) fn commit(mut self, leases: &mut Table, deadlines: &mut Deadlines) {
        while let Some(step) = self.take_first() {
            step.carry_out(leases, deadlines);
        }
    }
}

impl Move {
    fn carry_out(self, leases: &mut Table, deadlines: &mut Deadlines) {
        match self {
            Self::Lease(key, from, to) => leases.move_key(&key, from, to),
            Self::Ended(revision) => deadlines.end(revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Lease;
    use crate::types::LogIndex;
    use crate::types::limits::KEY_NS;

    #[test]
    fn a_put_without_leases_moves_nothing() {
        let mut moves = Moves::default();
        moves.on_put(&Bytes::from_static(b"a"), 0, 0);
        moves.on_put(&Bytes::from_static(b"a"), 7, 7);
        moves.on_superseded(0);
        assert_eq!(moves.last.capacity(), 0);
    }

    #[test]
    fn moves_are_carried_out_in_the_order_of_their_writes_however_they_are_sliced() {
        let mut leases = Table::new();
        leases.insert(LeaseId(7), Lease::new(60, 0, LogIndex(1)));
        let mut moves = Moves::default();
        let key = |number: u32| Bytes::from(number.to_be_bytes().to_vec());
        for number in 0..3_000 {
            moves.on_put(&key(number), 0, 7);
        }
        // Each is attached before it goes again.
        for number in 1_000..3_000 {
            moves.on_put(&key(number), 7, 0);
        }
        let mut slices = 0;
        let mut deadlines = Deadlines::default();
        while !moves.commit_slice(&mut leases, &mut deadlines, &mut Slice::of(700 * KEY_NS)) {
            slices += 1;
        }
        assert_eq!(slices, 7);
        let left: Vec<_> = leases.get(LeaseId(7)).unwrap().keys().map(<[u8]>::to_vec).collect();
        assert_eq!(left, (0..1_000).map(|number| key(number).to_vec()).collect::<Vec<_>>());
    }
}
