//! The pace of long work: whether slices and turns keep their bounds, and the pause between two turns.
//!
//! Slices are counted work (`types/slice.rs`); what they take is measured here. Those that took longer than
//! `SLICE_NS_MAX`, and the turns that took longer than `TURN_NS_MAX`, are counted and told once a minute: they are
//! the fault of a price, or of a machine that ran something else meanwhile.

use std::time::{Duration, Instant};

use crate::types::Slice;
use crate::types::limits::{SLICE_NS, SLICE_NS_MAX, TURN_NS, TURN_NS_IN_COMPANY, TURN_NS_MAX};

/// How long after a call turns stay short. Whoever makes ten calls a second so never meets a long one.
const COMPANY: Duration = Duration::from_millis(100);

/// How long after a call long work pauses between its turns. Shorter than [`COMPANY`]: a list beside ten calls a second
/// is a list alone.
const CLOSE_COMPANY: Duration = Duration::from_millis(5);

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
    /// Counted work of a turn while calls are under way.
    company_ns: u64,
    slices: u64,
    long_slices: u64,
    long_turns: u64,
    longest: Duration,
    told_at: Option<Instant>,
    /// Calls have come since the last turn.
    has_calls: bool,
    /// Turns are short until then.
    company_until: Option<Instant>,
    /// Calls came shortly before the last turn, which had something to do.
    is_close: bool,
    /// The next turn may begin then.
    pause_until: Option<Instant>,
}

/// A turn under way.
#[derive(Debug)]
pub(in crate::shell) struct Turn {
    /// Counted work of all its slices.
    bound_ns: u64,
    spent_ns: u64,
    taken: Duration,
    slices: u64,
    long_slices: u64,
    longest: Duration,
}

impl Pace {
    pub(in crate::shell) fn new(of: &'static str) -> Self {
        Self::in_company(of, TURN_NS_IN_COMPANY)
    }

    /// Of a role whose turns are so long while calls are under way.
    pub(in crate::shell) fn in_company(of: &'static str, company_ns: u64) -> Self {
        Self {
            of,
            company_ns,
            slices: 0,
            long_slices: 0,
            long_turns: 0,
            longest: Duration::ZERO,
            told_at: None,
            has_calls: false,
            company_until: None,
            is_close: false,
            pause_until: None,
        }
    }

    /// Somebody's call has come, or goes on: it waits for the turns of this role.
    pub(in crate::shell) fn on_calls(&mut self) {
        self.has_calls = true;
    }

    /// Whoever has called so far waits for this very work: it is done soonest in long turns. They are short again from
    /// the next call on that does not wait for it.
    pub(in crate::shell) fn on_all_wait(&mut self) {
        self.has_calls = false;
        self.company_until = None;
    }

    pub(in crate::shell) fn begin(&mut self) -> Turn {
        let bound_ns = if self.is_in_company() { self.company_ns } else { TURN_NS };
        Turn {
            bound_ns,
            spent_ns: 0,
            taken: Duration::ZERO,
            slices: 0,
            long_slices: 0,
            longest: Duration::ZERO,
        }
    }

    fn is_in_company(&mut self) -> bool {
        if !self.has_calls && self.company_until.is_none() {
            return false;
        }
        let now = Instant::now();
        if std::mem::take(&mut self.has_calls) {
            self.company_until = Some(now + COMPANY);
        }
        self.company_until = self.company_until.filter(|until| now < *until);
        self.company_until.is_some()
    }

    /// Ends a turn.
    pub(in crate::shell) fn end(&mut self, turn: &Turn) {
        self.slices += turn.slices;
        self.long_slices += turn.long_slices;
        self.long_turns += u64::from(Duration::from_nanos(TURN_NS_MAX) < turn.taken);
        self.longest = self.longest.max(turn.longest);
        self.is_close = false;
        if turn.has_worked()
            && let Some(until) = self.company_until
        {
            let now = Instant::now();
            self.is_close = now + COMPANY < until + CLOSE_COMPANY;
            self.pause_until = self.is_close.then(|| now + turn.taken);
        }
        if (self.long_slices, self.long_turns) != (0, 0) {
            self.tell();
        }
    }

    /// When the next turn may begin, if that is not yet. Beside calls long work takes half of the executor at most: a
    /// core that never sleeps keeps others from it, the kernel's threads and, on a virtual machine, what the host does
    /// for its disk.
    pub(in crate::shell) fn pause(&mut self) -> Option<Instant> {
        self.pause_until = self.pause_until.filter(|until| Instant::now() < *until);
        self.pause_until
    }

    /// Whether there is a pause behind the last turn, for whoever counts more to it than its slices.
    pub(in crate::shell) fn is_in_close_company(&self) -> bool {
        self.is_close
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
        (self.spent_ns < self.bound_ns).then(|| Slice::of(SLICE_NS.min(self.bound_ns - self.spent_ns)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted work of a turn whose slices are all spent.
    fn turn_ns(pace: &mut Pace) -> u64 {
        let mut turn = pace.begin();
        while let Some(mut slice) = turn.next_slice() {
            while !slice.is_spent() {
                slice.spend_key();
            }
            turn.on_slice(&slice, Duration::ZERO);
        }
        pace.end(&turn);
        turn.spent_ns
    }

    #[test]
    fn turns_are_short_from_a_call_on_and_long_again_when_none_has_come_for_a_while() {
        let mut pace = Pace::new("a test");
        assert_eq!(turn_ns(&mut pace), TURN_NS);
        pace.on_calls();
        assert_eq!(turn_ns(&mut pace), TURN_NS_IN_COMPANY);
        assert_eq!(turn_ns(&mut pace), TURN_NS_IN_COMPANY, "the call may still be on its way");
        pace.on_all_wait();
        assert_eq!(turn_ns(&mut pace), TURN_NS, "the call waits for this work");
        pace.on_calls();
        assert_eq!(turn_ns(&mut pace), TURN_NS_IN_COMPANY);
        pace.company_until = Some(Instant::now());
        assert_eq!(turn_ns(&mut pace), TURN_NS);
        assert_eq!(pace.company_until, None, "and the clock is asked no more");
    }

    #[test]
    fn long_work_pauses_as_long_as_it_took_while_calls_are_under_way_and_not_at_all_when_alone() {
        // Long enough to be under way still when it is looked at.
        let taken = Duration::from_secs(3600);
        let mut pace = Pace::new("a test");
        let mut pause_behind_a_turn = |has_calls: bool, has_work: bool| {
            if has_calls {
                pace.on_calls();
            }
            let mut turn = pace.begin();
            let mut slice = turn.next_slice().expect("a turn has a slice");
            if has_work {
                slice.spend_key();
            }
            turn.on_slice(&slice, taken);
            pace.end(&turn);
            assert_eq!(pace.is_in_close_company(), has_calls && has_work);
            pace.pause().map(|end| end.saturating_duration_since(Instant::now()))
        };
        assert_eq!(pause_behind_a_turn(false, true), None);
        assert_eq!(pause_behind_a_turn(true, false), None, "nothing was done");
        let pause = pause_behind_a_turn(true, true).expect("a call has just come");
        assert!(taken / 2 < pause && pause <= taken, "{pause:?}");
    }
}
