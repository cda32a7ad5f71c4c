//! When each request of an open loop is due.
//!
//! The times are fixed before anything is sent and do not depend on replies: a server that stalls is
//! charged for every request that was due meanwhile (no coordinated omission).
//!
//! Invariants: request `i` of the whole run is due at `start + i / rate`, computed from `i` each time, so
//! no rounding adds up; workers take every `workers`-th one, so together they are the one schedule.

const NS_PER_S: u128 = 1_000_000_000;

/// One worker's share of the due times.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    start_ns: u64,
    stop_ns: u64,
    rate_per_s: u64,
    workers: u64,
    next: u64,
}

impl Schedule {
    /// The share of `worker` of `workers`, from `start_ns` until before `stop_ns`.
    pub(crate) fn new(start_ns: u64, stop_ns: u64, rate_per_s: u64, worker: u64, workers: u64) -> Self {
        assert!(0 < rate_per_s);
        assert!(worker < workers);
        Self { start_ns, stop_ns, rate_per_s, workers, next: worker }
    }

    /// When the next request is due; `None` once all are taken.
    pub(crate) fn peek(&self) -> Option<u64> {
        let offset = u128::from(self.next) * NS_PER_S / u128::from(self.rate_per_s);
        let due_ns = u64::try_from(offset).ok()?.checked_add(self.start_ns)?;
        (due_ns < self.stop_ns).then_some(due_ns)
    }

    /// Nothing is due from `stop_ns` on.
    pub(crate) fn close(&mut self, stop_ns: u64) {
        self.stop_ns = self.stop_ns.min(stop_ns);
    }

    /// Moves past the request that `peek` told.
    pub(crate) fn advance(&mut self) {
        self.next += self.workers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dues(mut schedule: Schedule) -> Vec<u64> {
        std::iter::from_fn(|| {
            let due = schedule.peek();
            schedule.advance();
            due
        })
        .collect()
    }

    #[test]
    fn a_second_holds_exactly_the_rate_and_no_drift() {
        // 1 s / 7 is not a whole number of nanoseconds.
        let all = dues(Schedule::new(500, 500 + 3_000_000_000, 7, 0, 1));
        assert_eq!(all.len(), 21);
        assert_eq!((all[0], all[7], all[14]), (500, 1_000_000_500, 2_000_000_500));
        assert!(all.windows(2).all(|pair| (142_857_142..=142_857_143).contains(&(pair[1] - pair[0]))));
    }

    #[test]
    fn a_closed_schedule_is_over() {
        let mut schedule = Schedule::new(0, 1_000, 1_000_000_000, 0, 1);
        schedule.close(3);
        assert_eq!(dues(schedule), [0, 1, 2]);
    }

    #[test]
    fn workers_share_one_schedule() {
        let whole = dues(Schedule::new(0, 1_000_000, 100_000, 0, 1));
        let mut shares: Vec<u64> =
            (0..3).flat_map(|worker| dues(Schedule::new(0, 1_000_000, 100_000, worker, 3))).collect();
        shares.sort_unstable();
        assert_eq!(shares, whole);
    }

    #[test]
    fn due_times_do_not_wait_for_anyone() {
        let mut schedule = Schedule::new(0, 1_000, 1_000_000_000, 0, 1);
        // Nobody took requests for a while: what was due stays due at its own time.
        assert_eq!(schedule.peek(), Some(0));
        schedule.advance();
        assert_eq!(schedule.peek(), Some(1));
    }
}
