//! The key index by itself.

use std::collections::BTreeMap;

use super::Random;
use crate::mvcc::record::Newest;
use crate::mvcc::tree::{Leaves, Tree, TreeBuilder};

fn put(tree: &mut Tree, key: &[u8], newest: Newest) {
    let (path, found) = tree.find(key);
    match found {
        Some(_) => tree.set(&path, newest),
        None => tree.insert(&path, key, newest),
    }
}

#[test]
fn random_inserts_and_removals_match_a_btree_map() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut tree = Tree::new();
        let mut model = BTreeMap::new();
        for step in 0..12_000_u64 {
            // Grows for a while, then shrinks to nothing, so that nodes split and merge.
            let growing = step % 4_000 < 2_500;
            let number = random.below(5_000);
            let mut key = number.to_string().into_bytes();
            if seed == 2 {
                key.resize(2_000, b'x'); // nodes that split by bytes
            }
            if random.below(10) < if growing { 8 } else { 1 } {
                let newest = Newest::new(step, 0, random.one_in(3));
                put(&mut tree, &key, newest);
                model.insert(key, newest);
            } else if let Some((key, _)) = model.range(key..).next().map(|(key, _)| (key.clone(), ())) {
                let (path, found) = tree.find(&key);
                assert_eq!(found, model.remove(&key));
                tree.remove(&path);
            }
            if step % 997 == 0 {
                tree.check_invariants();
                let bound = random.below(5_000).to_string().into_bytes();
                let below = model.range(..bound.clone()).filter(|(_, newest)| newest.is_live()).count();
                assert_eq!(tree.rank(&bound), below as u64);
                compare_from(&tree, &model, &bound);
            }
        }
        for key in model.keys() {
            let (path, _) = tree.find(key);
            tree.remove(&path);
        }
        tree.check_invariants();
        assert_eq!((tree.entries_count(), tree.shape()), (0, (1, 0)), "an empty tree is one leaf");
    }
}

#[test]
fn a_touched_key_is_found_where_it_is_and_nothing_is_changed() {
    let mut random = Random::new(9);
    let mut tree = Tree::new();
    let mut model = BTreeMap::new();
    for step in 0..3_000_u64 {
        // An empty tree, a lone leaf, several levels.
        let keys: Vec<_> = (0..8).map(|_| random.below(9_000).to_string().into_bytes()).collect();
        let found = tree.touch(&std::array::from_fn::<&[u8], 8, _>(|place| &keys[place]));
        for (key, found) in keys.iter().zip(found) {
            // Of a key that is not there it may name another one.
            let known = model.get(key).copied();
            assert!(known.is_none() || found == known, "{key:?} at step {step}: {found:?}, {known:?}");
        }
        let key = random.below(9_000).to_string().into_bytes();
        let newest = Newest::new(step, 0, random.one_in(3));
        put(&mut tree, &key, newest);
        model.insert(key, newest);
        std::hint::black_box(tree.touch(&[b"".as_slice(), &[0xff; 3_000], b"0", b"99999999"]));
    }
    tree.check_invariants();
    compare_from(&tree, &model, b"");
}

#[test]
fn a_key_is_found_by_the_way_of_a_look_ahead_as_without_one_whatever_changed_since() {
    for seed in 1..=4 {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut tree = Tree::new();
        let mut model = BTreeMap::new();
        for step in 0..6_000_u64 {
            let growing = step % 2_000 < 1_300;
            let keys: Vec<_> = (0..16).map(|_| random.below(9_000).to_string().into_bytes()).collect();
            tree.touch_next(&std::array::from_fn::<&[u8], 16, _>(|place| &keys[place]));
            for key in &keys {
                // Some are left out, so that the ways that follow are those of other keys.
                if random.one_in(8) {
                    continue;
                }
                if growing || random.one_in(5) {
                    let newest = Newest::new(step, 0, random.one_in(3));
                    let (path, found) = tree.find_next(key);
                    assert_eq!((path, found), tree.find(key));
                    match found {
                        Some(_) => tree.set(&path, newest),
                        None => tree.insert(&path, key, newest),
                    }
                    model.insert(key.clone(), newest);
                } else if let Some((key, _)) =
                    model.range(key.clone()..).next().map(|(key, _)| (key.clone(), ()))
                {
                    let (path, found) = tree.find_next(&key);
                    assert_eq!((path, found), tree.find(&key));
                    assert_eq!(found, model.remove(&key));
                    tree.remove(&path);
                }
            }
            if step % 199 == 0 {
                tree.check_invariants();
            }
        }
        compare_from(&tree, &model, b"");
    }
}

fn compare_from(tree: &Tree, model: &BTreeMap<Vec<u8>, Newest>, from: &[u8]) {
    for live_only in [false, true] {
        let mut path = tree.seek(from);
        let mut found = Vec::new();
        while let Some((key, newest)) = tree.settle(&mut path, live_only) {
            found.push((key.to_vec(), newest));
            Tree::advance(&mut path);
        }
        let expected: Vec<_> = model
            .range(from.to_vec()..)
            .filter(|(_, newest)| !live_only || newest.is_live())
            .map(|(key, newest)| (key.clone(), *newest))
            .collect();
        assert!(found == expected, "entries from {from:?}, live only: {live_only}");
    }
}

#[test]
fn ascending_inserts_leave_full_leaves() {
    let mut tree = Tree::new();
    for number in 0..64_000_u64 {
        put(&mut tree, format!("/key/{number:08}").as_bytes(), Newest::new(number, 0, false));
    }
    tree.check_invariants();
    let (leaves, _) = tree.shape();
    assert!(leaves <= 1_002, "{leaves} leaves for 64000 keys of 64 a leaf");
}

#[test]
fn ascending_inserts_under_many_prefixes_in_turn_leave_full_leaves() {
    let mut tree = Tree::new();
    for number in 0..64_000_u64 {
        let key = format!("/prefix{:02}/{:08}", number % 20, number / 20);
        put(&mut tree, key.as_bytes(), Newest::new(number, 0, false));
    }
    tree.check_invariants();
    let (leaves, _) = tree.shape();
    assert!(leaves <= 1_100, "{leaves} leaves for 64000 keys of 64 a leaf");
}

#[test]
fn no_squeezing_pattern_makes_nearly_empty_leaves() {
    // Each key just above a fixed one and below all earlier ones, after a leaf-filling run.
    let mut tree = Tree::new();
    for number in 0..64_u64 {
        put(&mut tree, format!("a{number:02}").as_bytes(), Newest::new(number, 0, false));
    }
    for length in 0..4_000_usize {
        let mut key = b"a63".to_vec();
        key.extend(format!("{:08}", 4_000 - length).bytes());
        put(&mut tree, &key, Newest::new(1, 0, false));
    }
    tree.check_invariants();
    let (leaves, _) = tree.shape();
    assert!(leaves <= 2 * 4_064 / 64 + 2, "{leaves} leaves for 4064 keys");
}

#[test]
fn bulk_load_equals_inserting_and_refuses_disorder() {
    for count in [0, 1, 59, 60, 61, 3_600, 3_601, 3_660, 3_661, 20_000_u64] {
        let mut builder = TreeBuilder::default();
        let mut model = BTreeMap::new();
        for number in 0..count {
            let key = format!("{number:06}").into_bytes();
            let newest = Newest::new(number, 0, number % 3 == 0);
            assert!(builder.push(&key, newest));
            assert!(!builder.push(&key, newest), "the same key twice");
            model.insert(key, newest);
        }
        let tree = builder.finish();
        tree.check_invariants();
        compare_from(&tree, &model, b"");
    }
}

#[test]
fn leaves_made_apart_become_the_tree_that_inserting_makes_and_disorder_is_refused() {
    let key = |number: u64| format!("{number:06}").into_bytes();
    for run_keys in [1, 2, 59, 61, 500, 5_000_u64] {
        let mut builder = TreeBuilder::default();
        let mut model = BTreeMap::new();
        for first in (0..10_000).step_by(usize::try_from(run_keys).unwrap()) {
            let mut run = Leaves::default();
            for number in first..(first + run_keys).min(10_000) {
                let newest = Newest::new(number, 0, number % 3 == 0);
                assert!(run.push(&key(number), newest));
                assert!(!run.push(&key(number), newest), "the same key twice");
                model.insert(key(number), newest);
            }
            assert!(builder.append(run));
            if first % 1_000 != 0 {
                continue;
            }
            let (mut same, mut lower) = (Leaves::default(), Leaves::default());
            let last = (first + run_keys).min(10_000) - 1;
            assert!(same.push(&key(last), Newest::new(0, 0, false)));
            for number in last / 2..last + 200 {
                assert!(lower.push(&key(number), Newest::new(0, 0, false)));
            }
            // A refusal leaves what is there as it is, as far as the keys before it go.
            assert!(!builder.append(same), "the last key again");
            assert!(!builder.append(lower), "below the last key");
        }
        let tree = builder.finish();
        tree.check_invariants();
        compare_from(&tree, &model, b"");
        let (leaves, _) = tree.shape();
        assert!(leaves <= 10_000 / 30 + 1, "{leaves} leaves for 10000 keys, {run_keys} at a time");
    }
}
