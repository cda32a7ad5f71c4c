//! Which lease each key hangs on: moves on their way, and whether a lease may be named.
//!
//! A put or a transaction moves keys between leases when it commits and not before: what it will
//! move is collected in `Moves` on the way.
//!
//! Cost: a put without leases, of a key without one, compares two numbers.

use bytes::Bytes;

use crate::lease::Table;
use crate::request::Rejection;
use crate::types::LeaseId;

/// Whether a key may be attached to `lease`: to none, or to one that exists.
pub(super) fn check_lease(leases: &Table, lease: i64) -> Result<(), Rejection> {
    let id = LeaseId(lease);
    if lease == 0 || leases.contains(id) { Ok(()) } else { Err(Rejection::LeaseNotFound(id)) }
}

/// Keys on their way from one lease to another, in the order of the writes that move them.
#[derive(Debug, Default)]
pub(super) struct Moves(Vec<(Bytes, LeaseId, LeaseId)>);

impl Moves {
    /// A put.
    #[inline]
    pub(super) fn on_put(&mut self, key: &Bytes, from: i64, to: i64) {
        if from != to {
            self.0.push((key.clone(), LeaseId(from), LeaseId(to)));
        }
    }

    /// A deletion.
    #[inline]
    pub(super) fn on_delete(&mut self, key: &[u8], from: i64) {
        if from != 0 {
            self.0.push((Bytes::copy_from_slice(key), LeaseId(from), LeaseId(0)));
        }
    }

    /// The writes are committed.
    #[inline]
    pub(super) fn commit(self, leases: &mut Table) {
        for (key, from, to) in self.0 {
            leases.move_key(&key, from, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_without_leases_moves_nothing() {
        let mut moves = Moves::default();
        moves.on_put(&Bytes::from_static(b"a"), 0, 0);
        moves.on_put(&Bytes::from_static(b"a"), 7, 7);
        moves.on_delete(b"a", 0);
        assert_eq!(moves.0.capacity(), 0);
    }
}
