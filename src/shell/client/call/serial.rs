//! Numbers for what clients leave to the server to name.
//!
//! A shard counts from a place that was drawn for it, so it gives no number twice, and what it named first
//! sorts first, as with etcd. Two shards or two lives of the process that name n things together meet with
//! a chance of n / 2^63. The numbers need not be secret: whoever may revoke a lease may also list them all.

use std::cell::Cell;

use crate::raft::mix;

/// A shard's generator.
pub(in crate::shell::client) struct Serial(Cell<u64>);

impl Serial {
    /// `seed` differs between starts of the process, `shard` within it.
    pub(in crate::shell::client) fn new(seed: u64, shard: u16) -> Self {
        Self(Cell::new(mix(mix(seed) ^ u64::from(shard))))
    }

    /// A positive number; each is greater than the last, but for the step from the greatest to 1.
    pub(super) fn positive(&self) -> i64 {
        loop {
            self.0.set(self.0.get().wrapping_add(1));
            let number = (self.0.get() & i64::MAX.cast_unsigned()).cast_signed();
            if number != 0 {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_positive_and_differ_between_shards_and_seeds() {
        let mut seen = BTreeSet::new();
        for seed in [0, 1, u64::MAX] {
            for shard in 0..4 {
                let serial = Serial::new(seed, shard);
                for _ in 0..1000 {
                    let number = serial.positive();
                    assert!(0 < number);
                    assert!(seen.insert(number), "seed {seed}, shard {shard}: {number} twice");
                }
            }
        }
    }

    #[test]
    fn what_was_named_first_sorts_first_and_the_greatest_number_is_followed_by_one() {
        let serial = Serial::new(7, 0);
        let numbers: Vec<i64> = (0..100).map(|_| serial.positive()).collect();
        assert!(numbers.is_sorted());
        for last in [u64::MAX, i64::MAX.cast_unsigned()] {
            assert_eq!(Serial(Cell::new(last)).positive(), 1);
        }
    }
}
