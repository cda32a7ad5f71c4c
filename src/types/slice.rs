//! A slice: the counted work that long work may do before others get their turn.
//!
//! Long work is everything whose cost grows with the data: a list, a sort, a hash, a compaction. It is cut
//! into slices. A core has no clock, so a slice is a budget of counted work, not of time: each unit (a key
//! visited, a record walked, a KiB copied) has a price in nanoseconds, which was measured once. The prices are
//! those of a slow case, records that lie in no cache; a slice so takes less than it counts as a rule.
//!
//! Whoever works asks `is_spent` between two units and stops when it is. So a slice runs over by one unit
//! at most, which `check` asserts in debug builds. The shell's clock counts the slices that took longer than
//! `SLICE_NS_MAX` all the same (`shell/store/turn.rs`).

use super::limits::{COMPARE_NS, KEY_NS, KIB_NS, RECORD_NS, SLICE_NS, SLICE_UNIT_NS_MAX};

/// Work that may still be done before others get their turn.
#[derive(Debug)]
#[must_use = "long work without a slice holds up everybody"]
pub struct Slice {
    budget_ns: u64,
    spent_ns: u64,
}

impl Default for Slice {
    fn default() -> Self {
        Self::new()
    }
}

impl Slice {
    /// A whole slice.
    pub fn new() -> Self {
        Self::of(SLICE_NS)
    }

    /// A slice of another size: for what is left of a turn, and for tests, which stop between any two units.
    pub fn of(budget_ns: u64) -> Self {
        Self { budget_ns, spent_ns: 0 }
    }

    /// Without a bound, for work that may be done in one piece.
    pub fn unbounded() -> Self {
        Self::of(u64::MAX)
    }

    /// A slice of half of what is left of this one.
    pub fn half(&self) -> Self {
        Self::of(self.budget_ns.saturating_sub(self.spent_ns).div_ceil(2))
    }

    /// Whether others have their turn now.
    #[inline]
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.budget_ns <= self.spent_ns
    }

    /// How many units of so many nanoseconds this slice still has, at least one.
    #[must_use]
    pub fn units_left(&self, unit_ns: u64) -> usize {
        let left_ns = self.budget_ns.saturating_sub(self.spent_ns).min(SLICE_NS);
        usize::try_from(left_ns / unit_ns).unwrap_or(usize::MAX).max(1)
    }

    /// What was done, in counted nanoseconds.
    #[must_use]
    pub fn spent_ns(&self) -> u64 {
        self.spent_ns
    }

    /// A key was found in the index, and its record looked at.
    #[inline]
    pub fn spend_key(&mut self) {
        self.spend(KEY_NS);
    }

    /// A record was looked at behind the one before it.
    #[inline]
    pub fn spend_record(&mut self) {
        self.spend(RECORD_NS);
    }

    /// Two entries of a sort were held against each other.
    #[inline]
    pub fn spend_comparison(&mut self) {
        self.spend(COMPARE_NS);
    }

    /// So many bytes were copied, or compared.
    #[inline]
    pub fn spend_bytes(&mut self, bytes: usize) {
        self.spend((bytes as u64 * KIB_NS) >> 10);
    }

    /// Work with a price of its own.
    #[inline]
    pub fn spend(&mut self, ns: u64) {
        self.spent_ns += ns;
    }

    /// Bytes that may be copied before the slice is spent, at least one KiB.
    #[must_use]
    pub fn bytes_left(&self) -> usize {
        let left_ns = self.budget_ns.saturating_sub(self.spent_ns).min(SLICE_NS);
        usize::try_from((left_ns << 10) / KIB_NS).unwrap_or(usize::MAX).max(1024)
    }

    /// Asserts in debug builds that the work stopped in time.
    pub fn check(&self) {
        debug_assert!(
            self.spent_ns <= self.budget_ns.saturating_add(SLICE_UNIT_NS_MAX),
            "{} ns of {} were spent",
            self.spent_ns,
            self.budget_ns
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_spent_by_the_unit_that_reaches_its_budget() {
        let mut slice = Slice::of(2 * KEY_NS);
        assert!(!slice.is_spent());
        slice.spend_key();
        assert!(!slice.is_spent());
        slice.spend_key();
        assert!(slice.is_spent());
        slice.check();
        assert_eq!(slice.spent_ns(), 2 * KEY_NS);
    }

    #[test]
    fn bytes_left_are_never_none_and_never_more_than_a_slice_holds() {
        let mut slice = Slice::unbounded();
        assert_eq!(slice.bytes_left() as u64, (SLICE_NS << 10) / KIB_NS);
        slice.spend(u64::MAX);
        assert_eq!(slice.bytes_left(), 1024);
    }
}
