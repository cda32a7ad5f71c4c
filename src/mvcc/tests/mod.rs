//! Tests that span the module's parts: the model, examples of the rules, damage, cost.

mod cost;
mod damage;
mod examples;
mod model;
mod owed;
mod tree;

use super::{OneByOne, Restore, RestoreError, SideBySide, Store};

/// A small seeded generator (SplitMix64): the same numbers on every machine and in every version.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// A number in `low..=high`.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below(u64::try_from(high - low + 1).unwrap())).unwrap()
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A whole checkpoint, block by block.
pub(super) fn checkpoint_of(store: &mut super::Store, bytes_max: usize) -> Vec<Vec<u8>> {
    let mut cursor = store.begin_checkpoint();
    let mut blocks = Vec::new();
    loop {
        let mut block = Vec::new();
        let done = store.checkpoint_slice(&mut cursor, bytes_max, &mut block);
        blocks.push(block);
        if done {
            store.end_checkpoint(cursor);
            return blocks;
        }
    }
}

/// Several at a time, the last one first.
struct Backwards(usize);

impl SideBySide for Backwards {
    fn width(&self) -> usize {
        self.0
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        assert!(count <= self.0);
        (0..count).rev().for_each(work);
    }
}

fn restored_with(blocks: &[Vec<u8>], workers: &dyn SideBySide) -> Result<Store, RestoreError> {
    let mut restore = Restore::new();
    for block in blocks {
        restore.feed_with(block, workers)?;
    }
    restore.finish()
}

/// The store of a checkpoint, which is the same however many blocks of keys are looked up at a time.
pub(super) fn restored(blocks: &[Vec<u8>]) -> Result<Store, RestoreError> {
    let mut alone = restored_with(blocks, &OneByOne);
    let mut other = restored_with(blocks, &Backwards(3));
    match (&mut alone, &mut other) {
        (Ok(alone), Ok(other)) => {
            other.check_invariants();
            assert_eq!(checkpoint_of(alone, 4_000), checkpoint_of(other, 4_000));
        }
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => panic!("refused with three at a time alone: {error}"),
        (Err(error), Ok(_)) => panic!("accepted with three at a time, and alone: {error}"),
    }
    alone
}
