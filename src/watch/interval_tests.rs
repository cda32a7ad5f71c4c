//! `IntervalIndex` beside a plain list, and how many nodes a search looks at.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;

impl<T: Default> IntervalIndex<T> {
    fn check_invariants(&self) {
        let mut order = Vec::new();
        self.check_subtree(self.root, &mut order);
        assert_eq!(order.len(), self.ranges_count);
        for pair in order.windows(2) {
            let (left, right) = (&self.nodes[pair[0] as usize], &self.nodes[pair[1] as usize]);
            let left = Span { start: &left.start, end: left.end() };
            assert_eq!(left.cmp(right), Ordering::Less, "spans ascend");
        }
        let mut free = 0;
        let mut slot = self.free;
        while slot != NONE {
            free += 1;
            slot = self.nodes[slot as usize].left;
        }
        assert_eq!(free + self.ranges_count, self.nodes.len(), "a node is used or free");
    }

    fn check_subtree(&self, slot: u32, order: &mut Vec<u32>) -> u8 {
        if slot == NONE {
            return 0;
        }
        let begin = order.len();
        let node = &self.nodes[slot as usize];
        let left = self.check_subtree(node.left, order);
        order.push(slot);
        let right = self.check_subtree(node.right, order);
        assert!(left.abs_diff(right) <= 1, "balanced");
        assert_eq!(node.height, 1 + left.max(right));
        let own = order[begin..].iter().map(|&slot| self.nodes[slot as usize].end());
        let furthest = own.max_by(|left, right| compare_ends(*left, *right)).unwrap();
        assert_eq!(furthest, self.nodes[node.furthest as usize].end());
        assert!(order[begin..].contains(&node.furthest));
        node.height
    }
}

/// How many values a search shows, and how many nodes it visits.
fn counted(index: &IntervalIndex<u64>, key: &str) -> (usize, usize) {
    let mut count = 0;
    let visited = index.stab_tree(key.as_bytes(), |_| {
        count += 1;
        ControlFlow::Continue(())
    });
    (count, visited)
}

fn range(key: &[u8], end: &[u8]) -> WatchRange {
    WatchRange::new(Bytes::copy_from_slice(key), Bytes::copy_from_slice(end))
}

fn hits(index: &IntervalIndex<u64>, key: &[u8]) -> Vec<u64> {
    let mut hits = Vec::new();
    index.stab(key, |&value| hits.push(value));
    hits.sort_unstable();
    hits
}

#[test]
fn a_key_is_found_by_single_keys_ranges_and_open_ranges_and_by_no_other() {
    let mut index = IntervalIndex::<u64>::new();
    for (number, (key, end)) in
        [("b", ""), ("a", "c"), ("b", "\0"), ("c", "d"), ("b", "b"), ("c", "a"), ("", "\0")]
            .iter()
            .enumerate()
    {
        *index.insert(&range(key.as_bytes(), end.as_bytes())) = number as u64;
    }
    assert_eq!(index.len(), 7);
    assert_eq!(hits(&index, b"b"), [0, 1, 2, 6]);
    assert_eq!(hits(&index, b"a"), [1, 6]);
    assert_eq!(hits(&index, b"c"), [2, 3, 6]);
    assert_eq!(hits(&index, b"b\0"), [1, 2, 6]);
    assert_eq!(hits(&index, b"\xff"), [2, 6]);
    *index.insert(&range(b"b", b"")) += 10;
    assert_eq!((index.len(), hits(&index, b"b")), (7, vec![1, 2, 6, 10]));
}

#[test]
fn what_was_removed_is_gone_and_what_was_not_stays() {
    let mut index = IntervalIndex::<u64>::new();
    *index.insert(&range(b"a", b"z")) = 1;
    *index.insert(&range(b"a", b"y")) = 2;
    *index.insert(&range(b"a", b"")) = 3;
    assert_eq!(index.remove(&range(b"a", b"x")), None);
    assert_eq!(index.remove(&range(b"a", b"y")), Some(2));
    assert_eq!(index.remove(&range(b"a", b"y")), None);
    assert_eq!(hits(&index, b"a"), [1, 3]);
    assert_eq!(index.remove(&range(b"a", b"z")), Some(1));
    assert_eq!(index.remove(&range(b"a", b"")), Some(3));
    assert!(index.is_empty());
    assert_eq!(index.nodes.capacity(), 0, "an empty index holds no memory for ranges");
}

#[test]
fn any_order_of_inserts_and_removes_finds_what_a_list_finds() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        println!("replay: seed {seed}");
        let letters = 1 + random.random_range(1_u8..6);
        let length_max = 1 + random.random_range(1_usize..4);
        let word = |random: &mut StdRng| -> Vec<u8> {
            let length = random.random_range(0..=length_max);
            (0..length).map(|_| random.random_range(0..letters)).collect()
        };
        let mut index = IntervalIndex::<u64>::new();
        let mut list: Vec<(WatchRange, u64)> = Vec::new();
        // Phases of growth and of decline, so that the tree is large, small and empty in turn.
        for step in 0..600_u64 {
            let grows = (step / 150) % 2 == 0;
            let one = range(&word(&mut random), &word(&mut random));
            let known = list.iter().position(|(known, _)| *known == one);
            if random.random_bool(if grows { 0.8 } else { 0.3 }) {
                assert_eq!(index.get_mut(&one).copied(), known.map(|slot| list[slot].1));
                *index.insert(&one) = step;
                match known {
                    Some(slot) => list[slot].1 = step,
                    None => list.push((one, step)),
                }
            } else {
                let gone = if random.random_bool(0.8) && !list.is_empty() {
                    list[random.random_range(0..list.len())].0.clone()
                } else {
                    one
                };
                let known = list.iter().position(|(known, _)| *known == gone);
                assert_eq!(index.remove(&gone), known.map(|slot| list.swap_remove(slot).1));
            }
            assert_eq!(index.len(), list.len());
            index.check_invariants();
            let key = word(&mut random);
            let mut expected: Vec<u64> = list
                .iter()
                .filter(|(range, _)| range.keys().contains(&key))
                .map(|(_, value)| *value)
                .collect();
            expected.sort_unstable();
            assert_eq!(hits(&index, &key), expected, "seed {seed} step {step} key {key:?}");
        }
    }
}

#[test]
fn a_search_visits_few_nodes_beyond_its_hits() {
    // Ascending order, which an unbalanced tree turns into a list.
    let mut prefixes = IntervalIndex::<u64>::new();
    for number in 0..10_000_u64 {
        let (key, end) = (format!("{number:05}"), format!("{:05}", number + 1));
        prefixes.insert(&range(key.as_bytes(), end.as_bytes()));
    }
    for number in (0..10_000).step_by(97) {
        let (count, visited) = counted(&prefixes, &format!("{number:05}/x"));
        assert_eq!(count, 1);
        assert!(visited <= 3 * 14, "{visited} nodes for one hit among 10,000");
    }
    // Each range holds the next: all begin before the key, half of them end behind it.
    let mut nested = IntervalIndex::<u64>::new();
    for number in 0..5_000_u64 {
        let (key, end) = (format!("{number:05}"), format!("{:05}", 10_000 - number));
        nested.insert(&range(key.as_bytes(), end.as_bytes()));
    }
    for (key, expected) in [("07500", 2_501), ("09999", 2), ("10000", 0), ("05000", 5_000)] {
        let (count, visited) = counted(&nested, key);
        assert!(count <= expected && expected <= count + 1, "{count} hits at {key}");
        assert!(visited <= 2 * count + 3 * 14, "{visited} nodes for {count} hits");
    }
    // Hits far apart from each other among many that end too early.
    let mut mixed = IntervalIndex::<u64>::new();
    for number in 0..10_000_u64 {
        let key = format!("{number:05}");
        let end = if number % 100 == 0 { "x".into() } else { format!("{key}x") };
        mixed.insert(&range(key.as_bytes(), end.as_bytes()));
    }
    let (count, visited) = counted(&mixed, "w");
    assert_eq!(count, 100);
    let mut first = 0;
    mixed.stab_until(b"w", |_| {
        first += 1;
        ControlFlow::Break(())
    });
    assert_eq!(first, 1, "who has seen enough sees no more");
    assert!(visited <= 100 * 2 * 8 + 3 * 14, "{visited} nodes for 100 hits");
}
