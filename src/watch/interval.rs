//! Which of many ranges contain a key.
//!
//! `IntervalIndex` holds one value for each distinct `WatchRange`. Single keys, which most watchers
//! are, live in an ordered map; true ranges live in a balanced binary tree ordered by their start, in
//! which every node also knows which end below it lies furthest right. A search for the ranges around
//! a key leaves out a subtree as soon as that end is not behind the key.
//!
//! Invariants: a single key is in `ones`, everything else in the tree; the tree is an AVL tree ordered
//! by (start, end) without equals; `furthest` of a node names the node of its subtree whose end is
//! the greatest.
//! Cost: insert, look-up and remove O(log n) comparisons, whatever the order ranges come in (they are
//! chosen by clients, so a tree that is balanced only on average would not do). `stab` visits
//! O(log n) nodes and for each hit at most O(log n) more, fewer when hits lie close together. An entry
//! takes its bytes, the value and about 32 bytes for a single key, 56 for a range; keys are copied, so
//! that none holds the request it came in.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::WatchRange;
use crate::types::KeyRange;

/// No node.
const NONE: u32 = u32::MAX;

/// An AVL tree of 2^32 nodes is 46 levels deep at most; a walk keeps one node aside for each level.
const DEPTH_MAX: usize = 48;

/// Values by the range of keys that they concern.
#[derive(Debug)]
pub struct IntervalIndex<T> {
    ones: BTreeMap<Box<[u8]>, T>,
    nodes: Vec<Node<T>>,
    root: u32,
    /// First of the nodes that are not in use, which are chained by `left`.
    free: u32,
    ranges_count: usize,
}

#[derive(Debug)]
struct Node<T> {
    start: Box<[u8]>,
    /// Exclusive; `None` reaches to the end of all keys.
    end: Option<Box<[u8]>>,
    left: u32,
    right: u32,
    furthest: u32,
    height: u8,
    value: T,
}

impl<T> Node<T> {
    fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }
}

/// A range of more than one key as the tree orders it.
#[derive(Debug, Clone, Copy)]
struct Span<'a> {
    start: &'a [u8],
    end: Option<&'a [u8]>,
}

impl Span<'_> {
    fn cmp<T>(&self, node: &Node<T>) -> Ordering {
        self.start.cmp(&node.start).then_with(|| compare_ends(self.end, node.end()))
    }
}

/// No end is the furthest.
fn compare_ends(left: Option<&[u8]>, right: Option<&[u8]>) -> Ordering {
    match (left, right) {
        (Some(left), Some(right)) => left.cmp(right),
        (left, right) => left.is_none().cmp(&right.is_none()),
    }
}

fn is_before(key: &[u8], end: Option<&[u8]>) -> bool {
    end.is_none_or(|end| key < end)
}

/// Where a range is kept.
enum Place<'a> {
    One(&'a [u8]),
    Tree(Span<'a>),
}

fn place(range: &WatchRange) -> Place<'_> {
    match range.keys() {
        KeyRange::One(key) => Place::One(key),
        KeyRange::Between { start, end } => Place::Tree(Span { start, end: Some(end) }),
        KeyRange::From(start) => Place::Tree(Span { start, end: None }),
    }
}

impl<T> Default for IntervalIndex<T> {
    fn default() -> Self {
        Self { ones: BTreeMap::new(), nodes: Vec::new(), root: NONE, free: NONE, ranges_count: 0 }
    }
}

impl<T: Default> IntervalIndex<T> {
    /// An index of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of distinct ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ones.len() + self.ranges_count
    }

    /// Whether there is no range at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ones.is_empty() && self.root == NONE
    }

    /// The value of `range`; a default one if the range is new.
    pub fn insert(&mut self, range: &WatchRange) -> &mut T {
        match place(range) {
            Place::One(key) => {
                // Two look-ups for a new key, so that a known one is not copied.
                if !self.ones.contains_key(key) {
                    self.ones.insert(key.into(), T::default());
                }
                self.ones.get_mut(key).expect("it was there or has just been put there")
            }
            Place::Tree(span) => {
                let slot = match self.find(span) {
                    Some(slot) => slot,
                    None => self.add(span),
                };
                &mut self.nodes[slot as usize].value
            }
        }
    }

    /// The value of exactly this range.
    pub fn get_mut(&mut self, range: &WatchRange) -> Option<&mut T> {
        match place(range) {
            Place::One(key) => self.ones.get_mut(key),
            Place::Tree(span) => self.find(span).map(|slot| &mut self.nodes[slot as usize].value),
        }
    }

    /// Takes exactly this range out.
    pub fn remove(&mut self, range: &WatchRange) -> Option<T> {
        match place(range) {
            Place::One(key) => self.ones.remove(key),
            Place::Tree(span) => {
                let slot = self.find(span)?;
                self.root = self.unlink(self.root, span);
                self.ranges_count -= 1;
                let node = &mut self.nodes[slot as usize];
                let value = std::mem::take(&mut node.value);
                if self.root == NONE {
                    (self.nodes, self.free) = (Vec::new(), NONE);
                } else {
                    (node.start, node.end) = (Box::default(), None);
                    node.left = self.free;
                    self.free = slot;
                }
                Some(value)
            }
        }
    }

    /// Shows `f` the value of every range that contains `key`: of the single key first, then by
    /// ascending start.
    #[inline]
    pub fn stab<'a>(&'a self, key: &[u8], mut f: impl FnMut(&'a T)) {
        self.stab_until(key, |value| {
            f(value);
            ControlFlow::Continue(())
        });
    }

    /// As `stab`, but ends when `f` has seen enough.
    #[inline]
    pub fn stab_until<'a>(&'a self, key: &[u8], mut f: impl FnMut(&'a T) -> ControlFlow<()>) {
        if !self.ones.is_empty()
            && let Some(value) = self.ones.get(key)
            && f(value).is_break()
        {
            return;
        }
        if self.root != NONE {
            self.stab_tree(key, f);
        }
    }

    /// Returns how many nodes it looked at.
    fn stab_tree<'a>(&'a self, key: &[u8], mut f: impl FnMut(&'a T) -> ControlFlow<()>) -> usize {
        let mut visited = 0;
        let mut aside = [NONE; DEPTH_MAX];
        let mut aside_count = 0;
        let mut slot = self.root;
        loop {
            // Down the left side as long as something there may reach behind the key.
            while slot != NONE {
                visited += 1;
                let node = &self.nodes[slot as usize];
                if !is_before(key, self.nodes[node.furthest as usize].end()) {
                    break;
                }
                aside[aside_count] = slot;
                aside_count += 1;
                slot = node.left;
            }
            if aside_count == 0 {
                return visited;
            }
            aside_count -= 1;
            let node = &self.nodes[aside[aside_count] as usize];
            if key < &*node.start {
                // What is to the right begins behind the key.
                slot = NONE;
                continue;
            }
            if is_before(key, node.end()) && f(&node.value).is_break() {
                return visited;
            }
            slot = node.right;
        }
    }

    fn find(&self, span: Span<'_>) -> Option<u32> {
        let mut slot = self.root;
        while slot != NONE {
            let node = &self.nodes[slot as usize];
            slot = match span.cmp(node) {
                Ordering::Less => node.left,
                Ordering::Equal => return Some(slot),
                Ordering::Greater => node.right,
            };
        }
        None
    }

    /// Makes a node for `span`, which has none.
    fn add(&mut self, span: Span<'_>) -> u32 {
        let end = span.end.map(Into::into);
        let (start, value) = (span.start.into(), T::default());
        let mut node = Node { start, end, left: NONE, right: NONE, furthest: NONE, height: 1, value };
        let slot = if self.free == NONE {
            let slot = u32::try_from(self.nodes.len()).expect("far fewer than 2^32 ranges fit in memory");
            assert_ne!(slot, NONE);
            node.furthest = slot;
            self.nodes.push(node);
            slot
        } else {
            let slot = self.free;
            node.furthest = slot;
            self.free = std::mem::replace(&mut self.nodes[slot as usize], node).left;
            slot
        };
        self.ranges_count += 1;
        self.root = self.link(self.root, slot);
        slot
    }

    /// Puts node `new` into the subtree at `slot` and returns what is now its top.
    fn link(&mut self, slot: u32, new: u32) -> u32 {
        if slot == NONE {
            return new;
        }
        let node = &self.nodes[slot as usize];
        let (left, right) = (node.left, node.right);
        let added = &self.nodes[new as usize];
        let span = Span { start: &added.start, end: added.end() };
        if span.cmp(node) == Ordering::Less {
            self.nodes[slot as usize].left = self.link(left, new);
        } else {
            self.nodes[slot as usize].right = self.link(right, new);
        }
        self.balance(slot)
    }

    /// Takes the node of `span` out of the subtree at `slot`, where it is, and returns the new top.
    fn unlink(&mut self, slot: u32, span: Span<'_>) -> u32 {
        let node = &self.nodes[slot as usize];
        let (left, right) = (node.left, node.right);
        match span.cmp(node) {
            Ordering::Less => self.nodes[slot as usize].left = self.unlink(left, span),
            Ordering::Greater => self.nodes[slot as usize].right = self.unlink(right, span),
            Ordering::Equal if right == NONE => return left,
            Ordering::Equal => {
                // The next one in order takes its place.
                let (rest, next) = self.unlink_first(right);
                let node = &mut self.nodes[next as usize];
                (node.left, node.right) = (left, rest);
                return self.balance(next);
            }
        }
        self.balance(slot)
    }

    /// Takes the first node out of the subtree at `slot`: what is left of it, and that node.
    fn unlink_first(&mut self, slot: u32) -> (u32, u32) {
        let node = &self.nodes[slot as usize];
        let (left, right) = (node.left, node.right);
        if left == NONE {
            return (right, slot);
        }
        let (rest, first) = self.unlink_first(left);
        self.nodes[slot as usize].left = rest;
        (self.balance(slot), first)
    }

    fn height(&self, slot: u32) -> u8 {
        if slot == NONE { 0 } else { self.nodes[slot as usize].height }
    }

    /// Makes a node right whose subtrees are right and differ by two levels at most; returns the top.
    fn balance(&mut self, slot: u32) -> u32 {
        let Node { left, right, .. } = self.nodes[slot as usize];
        let (left_height, right_height) = (self.height(left), self.height(right));
        if right_height + 1 < left_height {
            let Node { left: outer, right: inner, .. } = self.nodes[left as usize];
            if self.height(outer) < self.height(inner) {
                self.nodes[slot as usize].left = self.rotate_left(left);
            }
            return self.rotate_right(slot);
        }
        if left_height + 1 < right_height {
            let Node { left: inner, right: outer, .. } = self.nodes[right as usize];
            if self.height(outer) < self.height(inner) {
                self.nodes[slot as usize].right = self.rotate_right(right);
            }
            return self.rotate_left(slot);
        }
        self.renew(slot);
        slot
    }

    fn rotate_right(&mut self, slot: u32) -> u32 {
        let top = self.nodes[slot as usize].left;
        self.nodes[slot as usize].left = std::mem::replace(&mut self.nodes[top as usize].right, slot);
        self.renew(slot);
        self.renew(top);
        top
    }

    fn rotate_left(&mut self, slot: u32) -> u32 {
        let top = self.nodes[slot as usize].right;
        self.nodes[slot as usize].right = std::mem::replace(&mut self.nodes[top as usize].left, slot);
        self.renew(slot);
        self.renew(top);
        top
    }

    /// Computes anew what a node knows of its subtree.
    fn renew(&mut self, slot: u32) {
        let Node { left, right, .. } = self.nodes[slot as usize];
        let mut furthest = slot;
        for child in [left, right] {
            if child != NONE {
                let candidate = self.nodes[child as usize].furthest;
                let ends = (self.nodes[candidate as usize].end(), self.nodes[furthest as usize].end());
                if compare_ends(ends.0, ends.1) == Ordering::Greater {
                    furthest = candidate;
                }
            }
        }
        let height = 1 + self.height(left).max(self.height(right));
        let node = &mut self.nodes[slot as usize];
        (node.furthest, node.height) = (furthest, height);
    }
}

#[cfg(test)]
#[path = "interval_tests.rs"]
mod tests;
