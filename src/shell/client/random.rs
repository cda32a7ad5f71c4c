//! Numbers for the leases that clients let the server name.
//!
//! `SplitMix64` [Steele, Lea and Flood 2014]: each state gives another number, so a shard never gives
//! one twice, and two shards or two lives of the process meet with a chance of 2^-63 a pair. They
//! need not be secret: whoever may revoke a lease may also list them all.

use std::cell::Cell;

/// A shard's generator.
pub(super) struct Random(Cell<u64>);

impl Random {
    /// `seed` differs between starts of the process, `shard` within it.
    pub(super) fn new(seed: u64, shard: u16) -> Self {
        Self(Cell::new(mix(mix(seed) ^ u64::from(shard))))
    }

    /// A positive number.
    pub(super) fn positive(&self) -> i64 {
        loop {
            self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let number = (mix(self.0.get()) >> 1).cast_signed();
            if number != 0 {
                return number;
            }
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
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
                let random = Random::new(seed, shard);
                for _ in 0..1000 {
                    let number = random.positive();
                    assert!(0 < number);
                    assert!(seen.insert(number), "seed {seed}, shard {shard}: {number} twice");
                }
            }
        }
    }
}
