//! Turns of the store: which kind of long work has its slice next, and whether slices keep their bound.
//!
//! A turn gives each kind one slice, and then once more, as long as they have not come to `TURN_NS` of counted
//! work together. The next turn begins with the kind at which this one stopped, so a kind with work has a slice at
//! least every `KINDS` turns, whatever the others do. Within a kind, its own queue says who is next.
//!
//! Slices are counted work; what they take is measured here. Those that took longer than `SLICE_NS_MAX`, and
//! the turns that took longer than `TURN_NS_MAX`, are counted and told once a minute: they are the fault of a
//! price in `types/limits.rs`, or of a machine that ran something else meanwhile.

use std::time::{Duration, Instant};

use crate::types::Slice;
use crate::types::limits::{SLICE_NS, SLICE_NS_MAX, TURN_NS, TURN_NS_MAX};

/// How often slices that took too long are told of.
const TELL_PAUSE: Duration = Duration::from_secs(60);

/// What long work there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A large write, for which others wait.
    Write,
    Read,
    Compact,
    Hash,
    Checkpoint,
    Watch,
    Wait,
}

/// In the order of their turns.
const KINDS: [Kind; 7] =
    [Kind::Write, Kind::Read, Kind::Compact, Kind::Hash, Kind::Checkpoint, Kind::Watch, Kind::Wait];

/// The store's turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The kind that the next turn begins with.
    first: usize,
    slices: u64,
    long_slices: u64,
    long_turns: u64,
    longest: Duration,
    told_at: Option<Instant>,
}

/// A turn under way.
#[derive(Debug)]
pub(super) struct Turn {
    given: usize,
    spent_ns: u64,
    taken: Duration,
    slices: u64,
    long_slices: u64,
    longest: Duration,
}

impl Turns {
    pub(super) fn begin(&self) -> Turn {
        Turn {
            given: 0,
            spent_ns: 0,
            taken: Duration::ZERO,
            slices: 0,
            long_slices: 0,
            longest: Duration::ZERO,
        }
    }

    /// Ends a turn.
    pub(super) fn end(&mut self, turn: Turn, wants_turn: bool) {
        self.first = (self.first + turn.given) % KINDS.len();
        self.slices += turn.slices;
        self.long_slices += turn.long_slices;
        self.long_turns += u64::from(Duration::from_nanos(TURN_NS_MAX) < turn.taken);
        self.longest = self.longest.max(turn.longest);
        if !wants_turn && (self.long_slices, self.long_turns) != (0, 0) {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let now = Instant::now();
        if self.told_at.is_some_and(|at| now.duration_since(at) < TELL_PAUSE) {
            return;
        }
        self.told_at = Some(now);
        tracing::debug!(
            slices = self.slices,
            long_slices = self.long_slices,
            long_turns = self.long_turns,
            longest_us = self.longest.as_micros(),
            "slices of long work took longer than they may"
        );
        (self.long_slices, self.long_turns, self.longest) = (0, 0, Duration::ZERO);
    }
}

impl Turn {
    /// The next slice of this turn, and what it is for.
    pub(super) fn next_slice(&mut self, turns: &Turns) -> Option<(Kind, Slice)> {
        let has_work = self.given < KINDS.len() || 0 < self.spent_ns;
        if self.given == 2 * KINDS.len() || !has_work || TURN_NS <= self.spent_ns {
            return None;
        }
        let kind = KINDS[(turns.first + self.given) % KINDS.len()];
        self.given += 1;
        Some((kind, Slice::of(SLICE_NS.min(TURN_NS - self.spent_ns))))
    }

    /// A slice is over.
    pub(super) fn on_slice(&mut self, slice: &Slice, taken: Duration) {
        if slice.spent_ns() == 0 {
            return;
        }
        self.spent_ns += slice.spent_ns();
        self.taken += taken;
        self.slices += 1;
        self.long_slices += u64::from(Duration::from_nanos(SLICE_NS_MAX) < taken);
        self.longest = self.longest.max(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_slice_whatever_the_others_spend() {
        let mut turns = Turns::default();
        let mut given = [0; KINDS.len()];
        for _ in 0..100 {
            let mut turn = turns.begin();
            while let Some((kind, mut slice)) = turn.next_slice(&turns) {
                given[kind as usize] += 1;
                // All but the hash have more than enough to do.
                slice.spend(if kind == Kind::Hash { 1 } else { SLICE_NS });
                turn.on_slice(&slice, Duration::ZERO);
            }
            assert!(turn.spent_ns < TURN_NS + SLICE_NS);
            turns.end(turn, true);
        }
        assert!(given.iter().all(|&slices| 33 <= slices), "{given:?}");
        let idle = turns.begin();
        assert_eq!(idle.spent_ns, 0);
    }
}
