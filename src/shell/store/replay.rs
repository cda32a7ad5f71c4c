//! The end of the log at a start, of which only a leader can say that it is committed, as an operator sees it: how far
//! it is, and how long it took. What is committed for certain was applied before (`boot/replay.rs`).

use std::time::{Duration, Instant};

use crate::types::LogIndex;

/// How often it says how far it is.
const PERIOD: Duration = Duration::from_secs(2);

/// Looks at the clock once in so many entries.
const ENTRIES_A_LOOK: u64 = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Replay {
    /// What was applied before.
    after: LogIndex,
    /// Start, and when it last said something.
    began: Option<(Instant, Instant)>,
}

impl Replay {
    pub(super) fn new(after: LogIndex) -> Self {
        Self { after, began: None }
    }

    /// An entry up to `last`, the last one that was in the log, is applied, and so many requests by now. Once all
    /// are: how many there were, and the nanoseconds that they took.
    pub(super) fn on_applied(
        &mut self,
        index: LogIndex,
        last: LogIndex,
        requests: u64,
    ) -> Option<(u64, u64)> {
        let is_last = index == last;
        if !is_last && !index.0.is_multiple_of(ENTRIES_A_LOOK) && self.began.is_some() {
            return None;
        }
        let now = Instant::now();
        let (start, told) = self.began.get_or_insert((now, now));
        let took = now.duration_since(*start);
        if is_last {
            tracing::info!(
                entries = last.0 - self.after.0,
                requests,
                seconds = took.as_secs_f64(),
                "end of the log replayed"
            );
            return Some((requests, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)));
        }
        if PERIOD <= now.duration_since(*told) {
            *told = now;
            let (done, all) = (index.0 - self.after.0, last.0 - self.after.0);
            tracing::info!(
                percent = 100 * done / all,
                entries = all,
                requests,
                "end of the log is being replayed"
            );
        }
        None
    }
}
