//! Which term wrote each entry that only the disk holds.
//!
//! raft-rs asks for the term of the entry before the ones it sends, and what is read back from the disk
//! is believed by its term. A term's entries are neighbours, so a run of them takes 16 bytes, however
//! many they are.
//!
//! Invariants: runs ascend in index and term, the first begins at `floor` or before, and
//! floor <= last. Cost: a look-up is a binary search over the terms.

use std::collections::VecDeque;

use crate::types::{LogIndex, Term};

#[derive(Debug)]
pub(super) struct Terms {
    /// The first entry of each term; of the oldest, any one up to `floor`.
    runs: VecDeque<(u64, u64)>,
    /// The first entry whose term is known: the one before those that the disk holds.
    floor: u64,
    last: u64,
}

impl Terms {
    /// Knows one entry.
    pub(super) fn new(index: u64, term: u64) -> Self {
        Self { runs: VecDeque::from([(index, term)]), floor: index, last: index }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// The next entry's term.
    pub(super) fn push(&mut self, index: u64, term: u64) {
        assert!(index == self.last + 1, "term of entry {index} behind {}", self.last);
        let newest = self.runs.back().expect("at least one run").1;
        assert!(newest <= term, "terms fall at {index}: {newest}, then {term}");
        if newest < term {
            self.runs.push_back((index, term));
        }
        self.last = index;
    }

    /// What is before `floor` is forgotten.
    pub(super) fn forget_before(&mut self, floor: u64) {
        assert!(floor <= self.last, "terms up to {} are known, not from {floor} on", self.last);
        self.floor = self.floor.max(floor);
        while self.runs.get(1).is_some_and(|(from, _)| *from <= self.floor) {
            self.runs.pop_front();
        }
    }

    pub(super) fn get(&self, index: u64) -> Option<u64> {
        if index < self.floor || self.last < index {
            return None;
        }
        let behind = self.runs.partition_point(|(from, _)| *from <= index);
        Some(self.runs[behind - 1].1)
    }

    /// The terms of a range, each with its first entry there.
    pub(super) fn runs(&self, first: u64, last: u64) -> Vec<(LogIndex, Term)> {
        assert!(self.floor <= first && last <= self.last, "terms of {first} to {last} are not known");
        let from = self.runs.partition_point(|(from, _)| *from <= first) - 1;
        let runs = self.runs.range(from..).take_while(|(from, _)| *from <= last);
        runs.map(|(from, term)| (LogIndex((*from).max(first)), Term(*term))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_known_from_the_floor_on_and_forgotten_before_it() {
        let mut terms = Terms::new(10, 2);
        for (index, term) in [(11, 2), (12, 3), (13, 3), (14, 7)] {
            terms.push(index, term);
        }
        let known = |terms: &Terms| (9..16).map(|index| terms.get(index)).collect::<Vec<_>>();
        assert_eq!(known(&terms), [None, Some(2), Some(2), Some(3), Some(3), Some(7), None]);
        let run = |index, term| (LogIndex(index), Term(term));
        assert_eq!(terms.runs(11, 13), [run(11, 2), run(12, 3)]);
        terms.forget_before(13);
        assert_eq!(known(&terms), [None, None, None, None, Some(3), Some(7), None]);
        assert_eq!(terms.runs(13, 14), [run(13, 3), run(14, 7)]);
        assert_eq!(terms.runs(13, 13), [run(13, 3)]);
        terms.forget_before(11);
        assert_eq!(terms.floor(), 13, "what is forgotten stays forgotten");
    }
}
