//! The pace of long work: whether slices and turns keep their bounds, and the pause between two turns.
//!
//! Slices are counted work (`types/slice.rs`); what they take is measured here. Those that took longer than
//! `SLICE_NS_MAX`, and the turns that took longer than `TURN_NS_MAX`, are counted and told once a minute: they are
//! the fault of a price, or of a machine that ran something else meanwhile.

use std::time::{Duration, Instant};

use crate::types::Slice;
use crate::types::limits::{SLICE_NS, SLICE_NS_MAX, TURN_NS, TURN_NS_MAX};

/// How often slices that took too long are told of.
const TELL_PAUSE: Duration = Duration::from_secs(60);

/// Long work lets the executor look at its sockets after each turn, which it does not while a task of it is ready
/// to run, until its preempt timer fires. So the task waits for a timer, which has run out when the executor looks: it
/// must not go to sleep, since on a busy machine it would get its core back much later.
const BREATH: Duration = Duration::from_nanos(500);

/// The pause behind a turn of long work that has more to do.
pub(in crate::shell) async fn breathe() {
    glommio::timer::sleep(BREATH).await;
}

/// What one role's slices took.
#[derive(Debug)]
pub(in crate::shell) struct Pace {
    /// Whose.
    of: &'static str,
    slices: u64,
    long_slices: u64,
    long_turns: u64,
    longest: Duration,
    told_at: Option<Instant>,
}

/// A turn under way.
#[derive(Debug, Default)]
pub(in crate::shell) struct Turn {
    spent_ns: u64,
    taken: Duration,
    slices: u64,
    long_slices: u64,
    longest: Duration,
}

impl Pace {
    pub(in crate::shell) fn new(of: &'static str) -> Self {
        Self { of, slices: 0, long_slices: 0, long_turns: 0, longest: Duration::ZERO, told_at: None }
    }

    pub(in crate::shell) fn begin(&self) -> Turn {
        Turn::default()
    }

    /// Ends a turn.
    pub(in crate::shell) fn end(&mut self, turn: &Turn) {
        self.slices += turn.slices;
        self.long_slices += turn.long_slices;
        self.long_turns += u64::from(Duration::from_nanos(TURN_NS_MAX) < turn.taken);
        self.longest = self.longest.max(turn.longest);
        if (self.long_slices, self.long_turns) != (0, 0) {
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
            of = self.of,
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
    /// The next slice, unless the turn is over.
    pub(in crate::shell) fn next_slice(&self) -> Option<Slice> {
        (self.spent_ns < TURN_NS).then(|| Slice::of(SLICE_NS.min(TURN_NS - self.spent_ns)))
    }

    /// Whether any slice found something to do.
    pub(in crate::shell) fn has_worked(&self) -> bool {
        0 < self.spent_ns
    }

    /// A slice is over.
    pub(in crate::shell) fn on_slice(&mut self, slice: &Slice, taken: Duration) {
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
