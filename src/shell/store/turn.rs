//! Turns of the store: which kind of long work has its slice next.
//!
//! A turn gives each kind one slice, and then once more, as long as they have not come to `TURN_NS` of counted
//! work together, or to `TURN_NS_IN_COMPANY` while calls are under way. The next turn begins with the kind at which this one stopped, so a kind with work has a slice at
//! least every `KINDS` turns, whatever the others do. Within a kind, its own queue says who is next.

use std::time::{Duration, Instant};

use crate::shell::runtime::pace::{self, Pace};
use crate::types::Slice;

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
#[derive(Debug)]
pub(super) struct Turns {
    /// The kind that the next turn begins with.
    first: usize,
    pace: Pace,
}

/// A turn under way.
#[derive(Debug)]
pub(super) struct Turn {
    given: usize,
    first: usize,
    turn: pace::Turn,
}

impl Default for Turns {
    fn default() -> Self {
        Self { first: 0, pace: Pace::new("store") }
    }
}

impl Turns {
    /// See [`Pace::on_calls`].
    pub(super) fn on_calls(&mut self) {
        self.pace.on_calls();
    }

    /// See [`Pace::on_all_wait`].
    pub(super) fn on_all_wait(&mut self) {
        self.pace.on_all_wait();
    }

    /// See [`Pace::pause`].
    pub(super) fn pause(&mut self) -> Option<Instant> {
        self.pace.pause()
    }

    /// See [`Pace::is_in_close_company`].
    pub(super) fn is_in_close_company(&self) -> bool {
        self.pace.is_in_close_company()
    }

    pub(super) fn begin(&mut self) -> Turn {
        Turn { given: 0, first: self.first, turn: self.pace.begin() }
    }

    /// Ends a turn.
    pub(super) fn end(&mut self, turn: &Turn) {
        self.first = (self.first + turn.given) % KINDS.len();
        self.pace.end(&turn.turn);
    }
}

impl Turn {
    /// The next slice of this turn, and what it is for.
    pub(super) fn next_slice(&mut self) -> Option<(Kind, Slice)> {
        let has_work = self.given < KINDS.len() || self.turn.has_worked();
        if self.given == 2 * KINDS.len() || !has_work {
            return None;
        }
        let slice = self.turn.next_slice()?;
        let kind = KINDS[(self.first + self.given) % KINDS.len()];
        self.given += 1;
        Some((kind, slice))
    }

    /// A slice is over.
    pub(super) fn on_slice(&mut self, slice: &Slice, taken: Duration) {
        self.turn.on_slice(slice, taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::SLICE_NS;

    #[test]
    fn every_kind_has_its_slice_whatever_the_others_spend() {
        let mut turns = Turns::default();
        let mut given = [0; KINDS.len()];
        for _ in 0..100 {
            let mut turn = turns.begin();
            let mut full_slices = 0;
            while let Some((kind, mut slice)) = turn.next_slice() {
                given[kind as usize] += 1;
                // All but the hash have more than enough to do.
                slice.spend(if kind == Kind::Hash { 1 } else { SLICE_NS });
                full_slices += u32::from(kind != Kind::Hash);
                turn.on_slice(&slice, Duration::ZERO);
            }
            assert!(full_slices <= 3, "a turn is two slices, and what one is over");
            turns.end(&turn);
        }
        assert!(given.iter().all(|&slices| 33 <= slices), "{given:?}");
        assert!(!turns.begin().turn.has_worked());
    }
}
