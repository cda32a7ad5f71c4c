//! Accepted writes over time: how many, and for how long there was none.
//!
//! Only takes times; it neither reads a clock nor waits.

use std::time::{Duration, Instant};

/// How long a gap is looked for after the act that may cause one.
const LOOK: Duration = Duration::from_secs(1);

/// Writes are under way again once the last one is as recent as this.
const RECENT: Duration = Duration::from_millis(250);

/// What all writers have had accepted, and the act whose gap is measured.
#[derive(Debug)]
pub(super) struct Flow {
    accepted_count: u64,
    last: Instant,
    act: Option<Act>,
}

#[derive(Debug)]
struct Act {
    at: Instant,
    widest: Duration,
}

impl Flow {
    pub(super) fn new(now: Instant) -> Self {
        Self { accepted_count: 0, last: now, act: None }
    }

    /// A write was accepted. Times of several writers may come slightly out of order.
    pub(super) fn on_accepted(&mut self, now: Instant) {
        self.accepted_count += 1;
        if let Some(act) = self.act.as_mut().filter(|act| act.at <= now) {
            act.widest = act.widest.max(now.saturating_duration_since(self.last));
        }
        self.last = self.last.max(now);
    }

    /// Begins to look for the gap that something done now causes.
    pub(super) fn on_act(&mut self, now: Instant) {
        self.act = Some(Act { at: now, widest: Duration::ZERO });
    }

    /// The longest time between two accepted writes since the act, once writes are under way again.
    pub(super) fn take_gap(&mut self, now: Instant) -> Option<Duration> {
        let act = self.act.as_ref()?;
        let is_over = LOOK <= now.saturating_duration_since(act.at) && !self.is_silent(now);
        if is_over { self.act.take().map(|act| act.widest) } else { None }
    }

    pub(super) fn is_looking(&self) -> bool {
        self.act.is_some()
    }

    /// How long ago the last write was accepted, and whether that is longer than between two of a load.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        RECENT <= now.saturating_duration_since(self.last)
    }

    pub(super) fn accepted_count(&self) -> u64 {
        self.accepted_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// Writes each millisecond from `from` to `to`.
    fn write(flow: &mut Flow, start: Instant, from: u64, to: u64) {
        (from..to).for_each(|at| flow.on_accepted(start + ms(at)));
    }

    #[test]
    fn the_gap_is_the_longest_time_between_two_writes_after_the_act() {
        let start = Instant::now();
        let mut flow = Flow::new(start);
        // A stall before the act is none of its gap.
        write(&mut flow, start, 500, 600);
        flow.on_act(start + ms(600));
        write(&mut flow, start, 623, 1_650);
        assert_eq!(flow.take_gap(start + ms(1_650)), Some(ms(24)));
        assert!(!flow.is_looking());
    }

    #[test]
    fn a_gap_is_not_told_before_writes_are_accepted_again() {
        let start = Instant::now();
        let mut flow = Flow::new(start);
        write(&mut flow, start, 0, 10);
        flow.on_act(start + ms(10));
        // What was on its way when the leader froze still comes.
        flow.on_accepted(start + ms(11));
        assert_eq!(flow.take_gap(start + ms(5_000)), None);
        assert!(flow.is_silent(start + ms(5_000)));
        flow.on_accepted(start + ms(5_011));
        assert_eq!(flow.take_gap(start + ms(5_012)), Some(ms(5_000)));
    }
}
