//! Sorting what a list found, in slices and in counted memory.
//!
//! An entry is 16 bytes, whatever the key and the value: a number that says most of the order, and the number
//! of the version, by which the rest is found again. For versions and revisions the number says all. For
//! values it is their first eight bytes; values that agree in them are compared in the store.
//!
//! The sort is a merge sort from the bottom up, which can stop after any comparison and keeps what ties in
//! the order in which it was found: the order of the keys.
//!
//! Cost: O(n log n) comparisons; 32 bytes an entry while it sorts, 16 before and after.

use std::cmp::Ordering;

use crate::mvcc::{KeyValueRef, Store};
use crate::pb::etcdserverpb::range_request::SortTarget;
use crate::types::Slice;

/// Bytes that an entry takes while it is sorted.
pub(super) const SORTING_ENTRY_BYTES: u64 = 2 * size_of::<Entry>() as u64;

/// Entries that are sorted in one piece where no comparison looks at a value.
const RUN: usize = 256;

/// A version that was found, and its place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    rank: u64,
    pub(super) seq: u64,
}

/// The order that a list is sorted in. Keys that tie are left in key order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) target: SortTarget,
    pub(super) descending: bool,
}

impl Order {
    /// The entry of version `seq`, the `place`-th that was found.
    pub(super) fn entry(self, seq: u64, kv: &KeyValueRef<'_>, place: u64) -> Entry {
        let number = |number: i64| u64::try_from(number).expect("versions and revisions are not negative");
        let rank = match self.target {
            SortTarget::Key => place,
            SortTarget::Version => number(kv.version),
            SortTarget::Create => number(kv.create_revision),
            SortTarget::Mod => number(kv.mod_revision),
            SortTarget::Value => first_bytes(kv.value),
        };
        Entry { rank, seq }
    }

    /// Whether `right`, which was found behind `left`, comes before it.
    fn precedes(self, store: &Store, right: Entry, left: Entry, slice: &mut Slice) -> bool {
        slice.spend_comparison();
        let mut ordering = right.rank.cmp(&left.rank);
        if ordering.is_eq() && self.target == SortTarget::Value {
            let (right, left) = (store.version(right.seq).value, store.version(left.seq).value);
            slice.spend_key();
            slice.spend_key();
            slice.spend_bytes(right.len().min(left.len()));
            ordering = right.cmp(left);
        }
        ordering == if self.descending { Ordering::Greater } else { Ordering::Less }
    }
}

/// The first eight bytes as a number that sorts as they do.
fn first_bytes(value: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = value.len().min(8);
    first[..length].copy_from_slice(&value[..length]);
    u64::from_be_bytes(first)
}

/// A sort under way.
#[derive(Debug)]
pub(super) struct Merge {
    order: Order,
    /// Sorted in runs of `width`.
    from: Vec<Entry>,
    /// The runs of the next width, as far as they are there.
    to: Vec<Entry>,
    width: usize,
    /// Entries below this lie in runs of `RUN` already; all, where those are not made.
    runs_end: usize,
    /// The next entries of the two runs that are merged.
    left: usize,
    right: usize,
}

impl Merge {
    /// Sorts entries that are in the order in which they were found.
    pub(super) fn new(order: Order, entries: Vec<Entry>) -> Self {
        let makes_runs = order.target != SortTarget::Value;
        let (width, runs_end) = if makes_runs { (RUN, 0) } else { (1, entries.len()) };
        Self { order, to: Vec::new(), width, runs_end, left: 0, right: width, from: entries }
    }

    /// Sorts on. The entries in their order, when that is done.
    pub(super) fn slice(&mut self, store: &Store, slice: &mut Slice) -> Option<Vec<Entry>> {
        let length = self.from.len();
        while self.runs_end < length {
            if slice.is_spent() {
                return None;
            }
            let end = length.min(self.runs_end + RUN);
            let run = &mut self.from[self.runs_end..end];
            // Stable, as the merge is.
            if self.order.descending {
                run.sort_by_key(|entry| std::cmp::Reverse(entry.rank));
            } else {
                run.sort_by_key(|entry| entry.rank);
            }
            (0..run.len()).for_each(|_| slice.spend_comparison());
            self.runs_end = end;
        }
        if self.width < length && self.to.capacity() == 0 {
            self.to.reserve_exact(length);
        }
        while self.width < length {
            while self.to.len() < length {
                let start = self.to.len() / (2 * self.width) * (2 * self.width);
                let middle = length.min(start + self.width);
                let end = length.min(start + 2 * self.width);
                while self.to.len() < end {
                    if slice.is_spent() {
                        return None;
                    }
                    let has_both = self.left < middle && self.right < end;
                    let takes_right = if has_both {
                        self.order.precedes(store, self.from[self.right], self.from[self.left], slice)
                    } else {
                        slice.spend_comparison();
                        self.left == middle
                    };
                    let next = if takes_right { &mut self.right } else { &mut self.left };
                    self.to.push(self.from[*next]);
                    *next += 1;
                }
                self.left = end;
                self.right = length.min(end + self.width);
            }
            std::mem::swap(&mut self.from, &mut self.to);
            self.to.clear();
            self.width *= 2;
            self.left = 0;
            self.right = length.min(self.width);
        }
        Some(std::mem::take(&mut self.from))
    }
}
