//! The key index: a B+tree from key to its newest record, with counts of live keys per subtree.
//!
//! Nodes live in two slabs and name each other by number; freed numbers are used again. A key is in
//! the tree as long as its newest record is retained, tombstones included, so a node counts *live*
//! keys apart: counting a range is two descents, and a scan skips subtrees in which all is deleted.
//!
//! Invariants (`check_invariants`): keys ascend; every key of child i is below separator i and every
//! key of child i + 1 is not; all leaves are equally deep; no node is empty but a lone root leaf;
//! `live` of a child is the number of live keys under it; a node is referenced once or is free.
//! Neighbours that together would leave a node half empty are merged when one becomes small.
//! Cost: all operations O(log keys), counts included. A leaf that fills up by ascending inserts
//! stays full when it splits, also when such a run lies between other keys.

use super::key_block::{KeyBlock, SLOTS, Slots, narrow, separator};
use super::record::Newest;
use super::ways::{LEVELS_MAX, Way, Ways};
use crate::types::KeyRange;

/// Most keys of a leaf and children of an inner node.
const FANOUT: usize = SLOTS - 1;
/// A node also splits when its keys are longer than this together and it has more than one.
const NODE_BYTES_MAX: usize = 16 * 1024;
/// Below this a node looks for a neighbour to merge with.
const MERGE_BELOW: usize = FANOUT / 4;
/// Largest outcome of a merge; leaves room so that the next insert does not split it again.
const MERGED_MAX: usize = FANOUT * 3 / 4;
/// How full leaves are after a bulk load.
const BULK_FILL: usize = FANOUT * 15 / 16;
/// So many inserts in a row, each right behind the one before, are taken for an ascending run. As
/// many as an even split leaves room for: so uneven splits come no more often than even ones.
const ASCENDING_RUN: u32 = narrow(FANOUT / 2);
/// A tree of so many keys is larger than a second-level cache: each takes about 60 bytes of it.
const FAR_ENTRIES: u64 = 30_000;
/// A tree of 64-way nodes, half full on average, reaches 2^32 keys in seven levels.
const HEIGHT_MAX: usize = 24;

#[derive(Debug, Default)]
struct Leaf {
    keys: KeyBlock,
    newest: Slots<Newest>,
    live: u32,
    /// Inserts in a row of which each came right behind the one before.
    run: u32,
    /// Where the next insert of that run would come.
    run_slot: usize,
}

#[derive(Debug, Default)]
struct Inner {
    /// Separator i stands between child i and child i + 1.
    separators: KeyBlock,
    children: Slots<u32>,
    live: Slots<u32>,
}

impl Inner {
    fn live_total(&self) -> u32 {
        self.live.iter().sum()
    }
}

/// The way from the root to a slot in a leaf. Valid until the tree's shape changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// Inner node and index of the child taken, root first.
    steps: [(u32, u32); HEIGHT_MAX],
    height: usize,
    leaf: u32,
    slot: usize,
}

#[derive(Debug, Default)]
pub(super) struct Tree {
    leaves: Slab<Leaf>,
    inners: Slab<Inner>,
    root: u32,
    height: usize,
    entries: u64,
    live: u64,
    ways: Ways,
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self::default();
        tree.root = tree.leaves.insert(Leaf::default());
        tree
    }

    /// Keys alive.
    pub(super) fn live_count(&self) -> u64 {
        self.live
    }

    /// Keys known, deleted ones included.
    pub(super) fn entries_count(&self) -> u64 {
        self.entries
    }

    #[inline]
    pub(super) fn get(&self, key: &[u8]) -> Option<Newest> {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            node = inner.children[inner.separators.upper_bound(key)];
        }
        let leaf = self.leaves.get(node);
        leaf.keys.search(key).ok().map(|slot| leaf.newest[slot])
    }

    /// Whether the tree is so large that most of it lies in no near cache.
    #[inline]
    pub(super) fn is_far(&self) -> bool {
        FAR_ENTRIES <= self.entries
    }

    /// Has the processor fetch what `find` will read for these keys, and returns what those hold that seem to be
    /// there. One after the other each search would wait for memory several times; level by level they wait together.
    #[inline]
    pub(super) fn touch<const N: usize>(&self, keys: &[&[u8]; N]) -> [Option<Newest>; N] {
        self.touch_by(keys, |_, _, _| {}).0
    }

    /// The same for keys that `find_next` will be asked for, in their order.
    #[inline]
    pub(super) fn touch_next<const N: usize>(&mut self, keys: &[&[u8]; N]) -> [Option<Newest>; N] {
        if LEVELS_MAX < self.height {
            return self.touch(keys);
        }
        let mut ways = [Way::default(); N];
        let (found, leaves) = self.touch_by(keys, |place, level, step| ways[place].steps[level] = step);
        for (way, leaf) in ways.iter_mut().zip(leaves) {
            way.leaf = leaf;
        }
        self.ways.keep(&ways);
        found
    }

    /// Tells each step of each key, and also returns the leaves.
    #[inline]
    fn touch_by<const N: usize>(
        &self,
        keys: &[&[u8]; N],
        mut on_step: impl FnMut(usize, usize, (u32, u32)),
    ) -> ([Option<Newest>; N], [u32; N]) {
        let mut nodes = [self.root; N];
        for level in 0..self.height {
            for (place, (node, key)) in nodes.iter_mut().zip(keys).enumerate() {
                let inner = self.inners.get(*node);
                let child = inner.separators.upper_bound(key);
                on_step(place, level, (*node, narrow(child)));
                *node = inner.children[child];
            }
        }
        let mut read = 0;
        for node in nodes {
            read ^= self.leaves.get(node).keys.touch();
        }
        let found = std::array::from_fn(|place| {
            let leaf = self.leaves.get(nodes[place]);
            let (slot, byte) = leaf.keys.touch_key(keys[place]);
            read ^= u32::from(byte);
            slot.and_then(|slot| leaf.newest.get(slot).copied())
        });
        // What was read means nothing here; it only must not be optimised away.
        std::hint::black_box(read);
        (found, nodes)
    }

    /// As `find`, and shorter for a key that was touched before: by its way, while the tree has its shape.
    #[inline]
    pub(super) fn find_next(&mut self, key: &[u8]) -> (Path, Option<Newest>) {
        let Some(way) = self.ways.take_next() else { return self.find(key) };
        let leaf = self.leaves.get(way.leaf);
        let (slot, newest) = match leaf.keys.search(key) {
            Ok(slot) => (slot, Some(leaf.newest[slot])),
            Err(slot) if 0 < slot && slot < leaf.keys.len() => (slot, None),
            Err(_) => return self.find(key),
        };
        let mut path = Path { steps: [(0, 0); HEIGHT_MAX], height: self.height, leaf: way.leaf, slot };
        path.steps[..LEVELS_MAX].copy_from_slice(&way.steps);
        debug_assert_eq!((path, newest), self.find(key), "a way leads where a search does");
        (path, newest)
    }

    /// The slot of `key` and what it holds; without a holding, the slot where it belongs.
    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> (Path, Option<Newest>) {
        let mut path = Path { steps: [(0, 0); HEIGHT_MAX], height: self.height, leaf: self.root, slot: 0 };
        for step in &mut path.steps[..self.height] {
            let inner = self.inners.get(path.leaf);
            let child = inner.separators.upper_bound(key);
            *step = (path.leaf, narrow(child));
            path.leaf = inner.children[child];
        }
        let leaf = self.leaves.get(path.leaf);
        match leaf.keys.search(key) {
            Ok(slot) => (Path { slot, ..path }, Some(leaf.newest[slot])),
            Err(slot) => (Path { slot, ..path }, None),
        }
    }

    /// Replaces what the key at `path` holds. Keeps all paths valid.
    #[inline]
    pub(super) fn set(&mut self, path: &Path, newest: Newest) {
        let leaf = self.leaves.get_mut(path.leaf);
        let was_live = std::mem::replace(&mut leaf.newest[path.slot], newest).is_live();
        match (was_live, newest.is_live()) {
            (false, true) => {
                leaf.live += 1;
                self.adjust_live(path, |live| live + 1);
                self.live += 1;
            }
            (true, false) => {
                leaf.live -= 1;
                self.adjust_live(path, |live| live - 1);
                self.live -= 1;
            }
            _ => {}
        }
    }

    /// How many entries from `path` on, to the end of its leaf, are not behind `range`, which the one at `path` is in.
    pub(super) fn rest_of_leaf_in(&self, path: &Path, range: &KeyRange<'_>) -> usize {
        let keys = &self.leaves.get(path.leaf).keys;
        let end = match *range {
            KeyRange::One(_) => path.slot + 1,
            KeyRange::Between { end, .. } if keys.last().is_some_and(|last| end <= last) => {
                keys.lower_bound(end)
            }
            KeyRange::Between { .. } | KeyRange::From(_) => keys.len(),
        };
        end - path.slot
    }

    /// Puts tombstones in the place of live versions: of the next `count` entries of the leaf, which `path` is behind
    /// then. Keeps all paths valid. Returns how many.
    #[inline]
    pub(super) fn bury(
        &mut self,
        path: &mut Path,
        count: usize,
        mut tombstone_of: impl FnMut(Newest) -> Newest,
    ) -> u32 {
        let leaf = self.leaves.get_mut(path.leaf);
        let mut buried = 0;
        for newest in &mut leaf.newest[path.slot..path.slot + count] {
            if newest.is_live() {
                *newest = tombstone_of(*newest);
                debug_assert!(!newest.is_live());
                buried += 1;
            }
        }
        leaf.live -= buried;
        self.adjust_live(path, |live| live - buried);
        self.live -= u64::from(buried);
        path.slot += count;
        buried
    }

    fn adjust_live(&mut self, path: &Path, change: impl Fn(u32) -> u32) {
        for &(node, child) in &path.steps[..path.height] {
            let live = &mut self.inners.get_mut(node).live[child as usize];
            *live = change(*live);
        }
    }

    /// Adds `key` at `path`, as `find` gave it for this very key.
    pub(super) fn insert(&mut self, path: &Path, key: &[u8], newest: Newest) {
        let leaf = self.leaves.get_mut(path.leaf);
        leaf.run = if path.slot == leaf.run_slot { leaf.run.saturating_add(1) } else { 1 };
        leaf.run_slot = path.slot + 1;
        leaf.keys.insert(path.slot, key);
        leaf.newest.insert(path.slot, newest);
        self.entries += 1;
        if newest.is_live() {
            leaf.live += 1;
            self.live += 1;
            self.adjust_live(path, |live| live + 1);
        }
        let leaf = self.leaves.get_mut(path.leaf);
        if leaf.keys.len() <= FANOUT && (leaf.keys.bytes_count() <= NODE_BYTES_MAX || leaf.keys.len() == 1) {
            return;
        }
        self.ways.clear();
        // An ascending run leaves full leaves behind: at a leaf's end its next key opens a new leaf;
        // in the middle, what lies behind the run moves away once.
        let in_run = ASCENDING_RUN <= leaf.run;
        let behind = leaf.keys.len() - leaf.run_slot;
        let split_at = match behind {
            0 if in_run => leaf.keys.len() - 1,
            _ if in_run => leaf.run_slot,
            _ => leaf.keys.len() / 2,
        };
        let right = Leaf {
            keys: leaf.keys.split_off(split_at),
            newest: leaf.newest.split_off(split_at),
            ..Leaf::default()
        };
        let right = if in_run && behind == 0 {
            Leaf { run: std::mem::take(&mut leaf.run), run_slot: 1, ..right }
        } else {
            right
        };
        let live = live_of(&right.newest);
        leaf.live -= live;
        let left_live = leaf.live;
        let last = leaf.keys.last().expect("a split leaves keys on both sides");
        let between = separator(last, right.keys.get(0)).to_vec();
        let right = self.leaves.insert(Leaf { live, ..right });
        self.add_child(path, path.height, between, right, left_live, live);
    }

    /// Hangs node `right` in behind the node at `level` of the path, splitting upwards as needed.
    fn add_child(
        &mut self,
        path: &Path,
        level: usize,
        between: Vec<u8>,
        right: u32,
        left_live: u32,
        right_live: u32,
    ) {
        let Some(level) = level.checked_sub(1) else {
            let mut root = Inner::default();
            root.children.append(&[self.root, right]);
            root.live.append(&[left_live, right_live]);
            root.separators.push(&between);
            self.root = self.inners.insert(root);
            self.height += 1;
            assert!(self.height < HEIGHT_MAX, "the tree cannot grow so high");
            return;
        };
        let (node, child) = path.steps[level];
        let child = child as usize;
        let inner = self.inners.get_mut(node);
        inner.separators.insert(child, &between);
        inner.children.insert(child + 1, right);
        inner.live[child] = left_live;
        inner.live.insert(child + 1, right_live);
        let children = inner.children.len();
        if children <= FANOUT && (inner.separators.bytes_count() <= NODE_BYTES_MAX || children < 4) {
            return;
        }
        // As in a leaf: growth at the end leaves a full node behind.
        let keep = if child + 2 == children { children - 2 } else { children / 2 };
        let mut upper = inner.separators.split_off(keep - 1);
        let between = upper.get(0).to_vec();
        upper.remove(0);
        let right = Inner {
            separators: upper,
            children: inner.children.split_off(keep),
            live: inner.live.split_off(keep),
        };
        let (left_live, right_live) = (inner.live_total(), right.live_total());
        let right = self.inners.insert(right);
        self.add_child(path, level, between, right, left_live, right_live);
    }

    /// Removes the key at `path`.
    pub(super) fn remove(&mut self, path: &Path) {
        self.ways.clear();
        let leaf = self.leaves.get_mut(path.leaf);
        leaf.keys.remove(path.slot);
        leaf.run = 0;
        let removed = leaf.newest.remove(path.slot);
        self.entries -= 1;
        if removed.is_live() {
            leaf.live -= 1;
            self.live -= 1;
            self.adjust_live(path, |live| live - 1);
        }
        self.mend(path);
    }

    /// Merges or frees nodes along the path that became small.
    fn mend(&mut self, path: &Path) {
        for level in (0..path.height).rev() {
            let (parent, child) = path.steps[level];
            let child = child as usize;
            let below_is_leaf = level + 1 == path.height;
            let size = self.node_size(self.inners.get(parent).children[child], below_is_leaf);
            if MERGE_BELOW <= size {
                break;
            }
            if size == 0 {
                self.drop_child(parent, child, below_is_leaf);
                continue;
            }
            let children = self.inners.get(parent).children.len();
            let neighbours = [child.checked_sub(1), Some(child).filter(|&left| left + 1 < children)];
            for left in neighbours.into_iter().flatten() {
                if self.try_merge(parent, left, below_is_leaf) {
                    break;
                }
            }
        }
        while 0 < self.height && self.inners.get(self.root).children.len() <= 1 {
            let old = self.inners.remove(self.root);
            self.height -= 1;
            self.root = match old.children.first() {
                Some(&only) => only,
                // The last leaf went: start over with an empty one.
                None => {
                    self.height = 0;
                    self.leaves.insert(Leaf::default())
                }
            };
        }
    }

    fn node_size(&self, node: u32, is_leaf: bool) -> usize {
        if is_leaf { self.leaves.get(node).keys.len() } else { self.inners.get(node).children.len() }
    }

    fn node_bytes(&self, node: u32, is_leaf: bool) -> usize {
        if is_leaf {
            self.leaves.get(node).keys.bytes_count()
        } else {
            self.inners.get(node).separators.bytes_count()
        }
    }

    fn drop_child(&mut self, parent: u32, child: usize, is_leaf: bool) {
        let inner = self.inners.get_mut(parent);
        let node = inner.children.remove(child);
        inner.live.remove(child);
        if 0 < inner.separators.len() {
            inner.separators.remove(child.saturating_sub(1));
        }
        if is_leaf {
            drop(self.leaves.remove(node));
        } else {
            drop(self.inners.remove(node));
        }
    }

    /// Merges child `left` of `parent` with the one after it, if the outcome is not too full.
    fn try_merge(&mut self, parent: u32, left: usize, is_leaf: bool) -> bool {
        let inner = self.inners.get(parent);
        let (left_node, right_node) = (inner.children[left], inner.children[left + 1]);
        let between = inner.separators.get(left);
        let size = self.node_size(left_node, is_leaf) + self.node_size(right_node, is_leaf);
        let bytes =
            self.node_bytes(left_node, is_leaf) + self.node_bytes(right_node, is_leaf) + between.len();
        if MERGED_MAX < size || NODE_BYTES_MAX < bytes {
            return false;
        }
        if is_leaf {
            let right = self.leaves.remove(right_node);
            let leaf = self.leaves.get_mut(left_node);
            leaf.keys.append(&right.keys);
            leaf.newest.append(&right.newest);
            leaf.live += right.live;
            leaf.run = 0;
        } else {
            let between = between.to_vec();
            let right = self.inners.remove(right_node);
            let inner = self.inners.get_mut(left_node);
            inner.separators.push(&between);
            inner.separators.append(&right.separators);
            inner.children.append(&right.children);
            inner.live.append(&right.live);
        }
        let inner = self.inners.get_mut(parent);
        inner.separators.remove(left);
        inner.children.remove(left + 1);
        let right_live = inner.live.remove(left + 1);
        inner.live[left] += right_live;
        true
    }

    /// Number of live keys below `key`.
    pub(super) fn rank(&self, key: &[u8]) -> u64 {
        let mut rank = 0;
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = self.inners.get(node);
            let child = inner.separators.upper_bound(key);
            rank += inner.live[..child].iter().map(|&live| u64::from(live)).sum::<u64>();
            node = inner.children[child];
        }
        let leaf = self.leaves.get(node);
        rank + u64::from(live_of(&leaf.newest[..leaf.keys.lower_bound(key)]))
    }

    /// Stands before the first key not below `key`.
    pub(super) fn seek(&self, key: &[u8]) -> Path {
        self.find(key).0
    }

    /// The entry at `path`, moving on to the next leaf when this one has no more. With `live_only`
    /// skips deleted keys, whole subtrees of them at a time. Leaves `path` at the entry.
    #[inline]
    pub(super) fn settle(&self, path: &mut Path, live_only: bool) -> Option<(&[u8], Newest)> {
        loop {
            let leaf = self.leaves.get(path.leaf);
            while path.slot < leaf.keys.len() {
                let newest = leaf.newest[path.slot];
                if !live_only || newest.is_live() {
                    return Some((leaf.keys.get(path.slot), newest));
                }
                path.slot += 1;
            }
            if !self.next_leaf(path, live_only) {
                return None;
            }
        }
    }

    /// What the entries from `path` to the end of its leaf hold.
    pub(super) fn rest_of_leaf(&self, path: &Path) -> &[Newest] {
        self.leaves.get(path.leaf).newest.get(path.slot..).unwrap_or(&[])
    }

    /// Steps over the entry at `path`.
    #[inline]
    pub(super) fn advance(path: &mut Path) {
        path.slot += 1;
    }

    fn next_leaf(&self, path: &mut Path, live_only: bool) -> bool {
        let wanted = |inner: &Inner, from: usize| {
            (from..inner.children.len()).find(|&child| !live_only || 0 < inner.live[child])
        };
        for level in (0..path.height).rev() {
            let (node, child) = path.steps[level];
            let inner = self.inners.get(node);
            let Some(child) = wanted(inner, child as usize + 1) else { continue };
            path.steps[level].1 = narrow(child);
            let mut below = inner.children[child];
            for step in &mut path.steps[level + 1..path.height] {
                let inner = self.inners.get(below);
                let child = wanted(inner, 0).expect("a parent with live keys has a child with some");
                *step = (below, narrow(child));
                below = inner.children[child];
            }
            path.leaf = below;
            path.slot = 0;
            return true;
        }
        false
    }

    /// Leaves and inner nodes in use.
    #[cfg(test)]
    pub(super) fn shape(&self) -> (usize, usize) {
        (self.leaves.used(), self.inners.used())
    }

    /// Checks the module's invariants. O(keys).
    pub(super) fn check_invariants(&self) {
        let mut walk = Walk { tree: self, entries: 0, leaves: 0, inners: 0 };
        let live = walk.node(self.root, 0, None, None);
        assert_eq!(u64::from(live), self.live, "live keys");
        assert_eq!(walk.entries, self.entries, "keys");
        assert_eq!(walk.leaves, self.leaves.used(), "leaves in use");
        assert_eq!(walk.inners, self.inners.used(), "inner nodes in use");
        assert!(self.height == 0 || 1 < self.inners.get(self.root).children.len());
    }
}

struct Walk<'a> {
    tree: &'a Tree,
    entries: u64,
    leaves: usize,
    inners: usize,
}

impl Walk<'_> {
    fn node(&mut self, node: u32, level: usize, low: Option<&[u8]>, high: Option<&[u8]>) -> u32 {
        let keys = if level == self.tree.height {
            &self.tree.leaves.get(node).keys
        } else {
            &self.tree.inners.get(node).separators
        };
        keys.check_invariants();
        for slot in 0..keys.len() {
            assert!(low.is_none_or(|low| low <= keys.get(slot)), "key below its node's range");
            assert!(high.is_none_or(|high| keys.get(slot) < high), "key above its node's range");
        }
        if level == self.tree.height {
            let leaf = self.tree.leaves.get(node);
            self.leaves += 1;
            self.entries += leaf.keys.len() as u64;
            assert!(level == 0 || 0 < leaf.keys.len(), "empty leaf");
            assert!(leaf.keys.len() <= FANOUT);
            assert_eq!(leaf.keys.len(), leaf.newest.len());
            assert_eq!(leaf.live, live_of(&leaf.newest));
            return leaf.live;
        }
        let inner = self.tree.inners.get(node);
        self.inners += 1;
        assert!(!inner.children.is_empty());
        assert!(inner.children.len() <= FANOUT);
        assert_eq!(inner.children.len(), inner.live.len());
        assert_eq!(inner.children.len(), keys.len() + 1);
        for (index, (&child, &live)) in inner.children.iter().zip(inner.live.iter()).enumerate() {
            let low = if index == 0 { low } else { Some(keys.get(index - 1)) };
            let high = if index == keys.len() { high } else { Some(keys.get(index)) };
            assert_eq!(self.node(child, level + 1, low, high), live, "live keys under child {index}");
        }
        inner.live_total()
    }
}

impl Leaf {
    /// Adds a key above all others, for a bulk load. False if the leaf is as full as those get.
    fn fill(&mut self, key: &[u8], newest: Newest) -> bool {
        let is_full = BULK_FILL <= self.keys.len() || NODE_BYTES_MAX < self.keys.bytes_count() + key.len();
        if is_full && 0 < self.keys.len() {
            return false;
        }
        self.keys.push(key);
        self.newest.push(newest);
        self.live += u32::from(newest.is_live());
        true
    }
}

/// Boxed as a tree has it, so that a leaf is not copied again as it moves there.
type LeafBox = Box<Leaf>;

/// Leaves of keys in ascending order that belong to no tree yet, so that several can be made at a time.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    leaves: Vec<LeafBox>,
}

impl Leaves {
    /// Adds a key. False if it is not above all earlier ones.
    #[must_use]
    pub(super) fn push(&mut self, key: &[u8], newest: Newest) -> bool {
        let mut bytes = 0;
        if let Some(leaf) = self.leaves.last_mut() {
            if leaf.keys.last().is_some_and(|last| key <= last) {
                return false;
            }
            if leaf.fill(key, newest) {
                return true;
            }
            leaf.keys.trim();
            bytes = leaf.keys.bytes_count();
        }
        let mut leaf = LeafBox::default();
        // Neighbours are alike: as much as the last one took saves growing in steps.
        leaf.keys.reserve(bytes);
        let is_added = leaf.fill(key, newest);
        assert!(is_added, "an empty leaf takes any key");
        self.leaves.push(leaf);
        true
    }
}

/// Builds a tree from keys in ascending order, in linear time.
#[derive(Debug, Default)]
pub(super) struct TreeBuilder {
    tree: Tree,
    leaf: LeafBox,
    /// Finished nodes of the lowest level: number, live keys, separator in front of it.
    done: Vec<(u32, u32, Vec<u8>)>,
    /// Separator in front of the leaf being filled.
    between: Vec<u8>,
}

impl TreeBuilder {
    /// Adds a key. False if it is not above all earlier ones.
    #[must_use]
    pub(super) fn push(&mut self, key: &[u8], newest: Newest) -> bool {
        if self.leaf.keys.last().is_some_and(|last| key <= last) {
            return false;
        }
        if !self.leaf.fill(key, newest) {
            let last = self.leaf.keys.last().expect("a full leaf has keys");
            let between = separator(last, key).to_vec();
            self.close_leaf(between);
            let is_added = self.leaf.fill(key, newest);
            assert!(is_added, "an empty leaf takes any key");
        }
        self.tree.entries += 1;
        self.tree.live += u64::from(newest.is_live());
        true
    }

    /// Adds leaves. False if their keys are not above all earlier ones.
    #[must_use]
    pub(super) fn append(&mut self, run: Leaves) -> bool {
        if let [few] = run.leaves.as_slice() {
            // Runs of a few keys each must not become leaves of a few keys each.
            return (0..few.keys.len()).all(|slot| self.push(few.keys.get(slot), few.newest[slot]));
        }
        for leaf in run.leaves {
            let first = leaf.keys.get(0);
            if let Some(last) = self.leaf.keys.last() {
                if first <= last {
                    return false;
                }
                let between = separator(last, first).to_vec();
                self.close_leaf(between);
            }
            self.tree.entries += leaf.keys.len() as u64;
            self.tree.live += u64::from(leaf.live);
            self.leaf = leaf;
        }
        true
    }

    fn close_leaf(&mut self, next_between: Vec<u8>) {
        let mut leaf = std::mem::take(&mut self.leaf);
        leaf.keys.trim();
        let live = leaf.live;
        let node = self.tree.leaves.insert_boxed(leaf);
        self.done.push((node, live, std::mem::replace(&mut self.between, next_between)));
    }

    pub(super) fn finish(mut self) -> Tree {
        self.close_leaf(Vec::new());
        let mut level = self.done;
        while 1 < level.len() {
            let mut above = Vec::with_capacity(level.len() / BULK_FILL + 1);
            let mut inner = Inner::default();
            let mut front = Vec::new();
            let count = level.len();
            for (index, (node, live, between)) in level.into_iter().enumerate() {
                let full = BULK_FILL <= inner.children.len()
                    || (NODE_BYTES_MAX < inner.separators.bytes_count() + between.len()
                        && 2 <= inner.children.len());
                // The very last child never starts a node of its own: there is room for it.
                if full && index + 1 < count {
                    let closed = std::mem::take(&mut inner);
                    let live = closed.live_total();
                    above.push((self.tree.inners.insert(closed), live, front));
                    front = between;
                } else if inner.children.is_empty() {
                    front = between;
                } else {
                    inner.separators.push(&between);
                }
                inner.children.push(node);
                inner.live.push(live);
            }
            let live = inner.live_total();
            above.push((self.tree.inners.insert(inner), live, front));
            level = above;
            self.tree.height += 1;
        }
        self.tree.root = level.first().expect("there is at least one leaf").0;
        self.tree
    }
}

/// Nodes by number. Freed numbers are used again.
#[derive(Debug)]
struct Slab<T> {
    // Boxed, so that growing the slab moves 8 bytes a node: no pause even at tens of millions.
    nodes: Vec<Option<Box<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { nodes: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    #[inline]
    fn get(&self, number: u32) -> &T {
        self.nodes[number as usize].as_deref().expect("a referenced node is in use")
    }

    #[inline]
    fn get_mut(&mut self, number: u32) -> &mut T {
        self.nodes[number as usize].as_deref_mut().expect("a referenced node is in use")
    }

    fn insert(&mut self, node: T) -> u32 {
        self.insert_boxed(Box::new(node))
    }

    fn insert_boxed(&mut self, node: Box<T>) -> u32 {
        if let Some(number) = self.free.pop() {
            self.nodes[number as usize] = Some(node);
            return number;
        }
        self.nodes.push(Some(node));
        u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 nodes")
    }

    fn remove(&mut self, number: u32) -> T {
        let node = self.nodes[number as usize].take().expect("a freed node was in use");
        self.free.push(number);
        *node
    }

    fn used(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

fn live_of(newest: &[Newest]) -> u32 {
    narrow(newest.iter().filter(|newest| newest.is_live()).count())
}
