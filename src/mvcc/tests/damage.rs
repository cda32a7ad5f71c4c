//! Damaged and hostile checkpoints: an error, or a store whose invariants hold; never a panic.

use super::{Random, checkpoint_of, restored};
use crate::mvcc::{Restore, RestoreError, Store};
use crate::types::KeyRange;

fn sample() -> Store {
    let mut random = Random::new(1);
    let mut store = Store::new();
    for number in 0..150_u64 {
        let mut txn = store.begin();
        let key = format!("k{}", random.below(40));
        txn.put(key.as_bytes(), &vec![b'v'; random.index(20)], i64::from(number % 3 == 0));
        if random.one_in(4) {
            txn.delete_range(KeyRange::One(format!("k{}", random.below(40)).as_bytes()), |_| {});
        }
        txn.commit();
    }
    store.compact(50);
    store
}

/// Uses a store the way its owner would; whatever was let in must not trip an assertion.
fn exercise(mut store: Store) {
    store.check_invariants();
    let current = store.current_revision();
    for number in 0..60 {
        let mut txn = store.begin();
        txn.put(format!("k{}", number % 45).as_bytes(), b"again", 0);
        txn.commit();
    }
    for at in [store.compact_revision(), current, store.current_revision()] {
        assert_eq!(store.scan(KeyRange::From(b""), at).count() as u64, store.count(KeyRange::From(b""), at));
    }
    store.compact(store.current_revision());
    while !store.compact_slice(10_000) {}
    store.check_invariants();
}

#[test]
fn flipped_bits_are_refused_or_harmless() {
    let blocks = checkpoint_of(&mut sample(), 2_000);
    let (mut refused, mut taken) = (0, 0);
    for block in 0..blocks.len() {
        for at in (block % 2..blocks[block].len()).step_by(2) {
            let mut damaged = blocks.clone();
            let bit = (block * 7 + at) % 8;
            damaged[block][at] ^= 1 << bit;
            match restored(&damaged) {
                Ok(store) => {
                    taken += 1;
                    exercise(store);
                }
                Err(_) => refused += 1,
            }
        }
    }
    // What no structure can tell (a byte of a value, a lease) is left to the outer checksum.
    println!("{refused} flips refused, {taken} taken");
    assert!(1_000 < refused && 0 < taken);
}

#[test]
fn truncated_blocks_and_missing_blocks_are_refused() {
    let blocks = checkpoint_of(&mut sample(), 500);
    for missing in 0..blocks.len() {
        let mut fewer = blocks.clone();
        fewer.remove(missing);
        assert!(restored(&fewer).is_err(), "without block {missing}");
        for cut in 0..blocks[missing].len() {
            let mut cut_short = blocks.clone();
            cut_short[missing].truncate(cut);
            assert!(restored(&cut_short).is_err(), "block {missing} cut at {cut}");
        }
    }
}

/// Where the blocks with keys are in a checkpoint. The last block of that kind may be empty.
fn keys_of(blocks: &[Vec<u8>]) -> std::ops::Range<usize> {
    let has_keys = |block: &Vec<u8>| block[0] == 3 && 1 < block.len();
    let first = blocks.iter().position(has_keys).unwrap();
    first..blocks.iter().rposition(has_keys).unwrap() + 1
}

#[test]
fn blocks_of_keys_out_of_order_twice_or_of_another_checkpoint_are_refused() {
    let blocks = checkpoint_of(&mut sample(), 9);
    let keys = keys_of(&blocks);
    assert!(4 < keys.len(), "{} blocks of keys", keys.len());
    let refused = |what: &str, blocks: &[Vec<u8>]| {
        let Err(error) = restored(blocks) else { panic!("{what}: accepted") };
        assert!(error.to_string().contains("is damaged"), "{what}: {error}");
    };
    for first in keys.clone() {
        for second in first + 1..keys.end {
            let mut swapped = blocks.clone();
            swapped.swap(first, second);
            refused("swapped", &swapped);
        }
        let mut twice = blocks.clone();
        twice.insert(first, blocks[first].clone());
        refused("twice", &twice);
        let mut reversed = blocks.clone();
        reversed[first][1..].reverse();
        if reversed != blocks {
            refused("reversed", &reversed);
        }
    }
    let mut other = sample();
    let mut txn = other.begin();
    txn.delete_range(KeyRange::From(b""), |_| {});
    txn.commit();
    let mut mixed = blocks.clone();
    let foreign = checkpoint_of(&mut other, 9);
    mixed.splice(keys, foreign[keys_of(&foreign)].to_vec());
    refused("another checkpoint's", &mixed);
}

#[test]
fn random_bytes_are_refused() {
    let mut random = Random::new(2);
    let header = &checkpoint_of(&mut sample(), 500)[0];
    for _ in 0..3_000 {
        let mut restore = Restore::new();
        restore.feed(header).unwrap();
        for kind in [2, 2, 3, 4] {
            let mut block = vec![kind];
            block.extend(
                (0..random.below(60))
                    .map(|_| if random.one_in(2) { 0 } else { random.next().to_le_bytes()[0] }),
            );
            if restore.feed(&block).is_err() {
                break;
            }
        }
    }
}

#[test]
fn newer_format_is_refused_by_its_number() {
    let mut blocks = checkpoint_of(&mut sample(), 500);
    blocks[0][5] = 2;
    assert_eq!(restored(&blocks).unwrap_err(), RestoreError::Format(2));
}
