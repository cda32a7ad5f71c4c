//! When a checkpoint is due.
//!
//! A start loads the newest checkpoint and replays the log behind it. So the log behind it must not grow for ever,
//! and a checkpoint costs as much as the state is large. Two bounds, whichever comes first: the log is half as large
//! as the state, or replaying it takes longer than loading the state and a second. The first keeps what is written
//! for checkpoints within three times the log of a small state; the second a restart within twice what the
//! state alone takes, and costs a busy member with a large state more: at 100,000 puts a second on 5,000,000 keys, a
//! checkpoint of 1.5 GB for each 350 MB of log.
//! Below `entries_min` and `bytes_min` neither counts.
//!
//! While a compaction goes on, which a checkpoint holds back, both bounds are doubled: checkpoints that follow each
//! other under load do not starve it.
//!
//! How fast this member replays it measures at its starts; before, a usual machine is assumed.

/// Nanoseconds to replay one request, until it was measured: 350,000 puts a second.
const REPLAY_NS_ASSUMED: u64 = 2_900;
/// What is believed of a measurement. A start beside other work is slow.
const REPLAY_NS_MIN: u64 = 200;
const REPLAY_NS_MAX: u64 = 10_000;
/// A measurement of less says nothing.
const MEASURED_REQUESTS_MIN: u64 = 100_000;
/// Nanoseconds to load 1,000 bytes of a checkpoint: 2.6 million keys, 780 MB, in 1.2 s.
const LOAD_NS_A_KILOBYTE: u64 = 1_500;
/// Replay that is always allowed.
const REPLAY_NS_FREE: u64 = 1_000_000_000;

/// The log behind the last checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSince {
    pub entries: u64,
    pub bytes: u64,
    pub requests: u64,
}

/// The state that a checkpoint would hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub bytes: u64,
    pub is_compacting: bool,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cadence {
    /// `--snapshot-count`
    entries_min: u64,
    /// `--checkpoint-bytes`
    bytes_min: u64,
    replay_ns: u64,
}

impl Cadence {
    /// With a usual machine's speed.
    #[must_use]
    pub fn new(entries_min: u64, bytes_min: u64) -> Self {
        Self { entries_min, bytes_min, replay_ns: REPLAY_NS_ASSUMED }
    }

    /// So many requests were replayed in so many nanoseconds.
    pub fn on_replayed(&mut self, requests: u64, took_ns: u64) {
        if MEASURED_REQUESTS_MIN <= requests {
            self.replay_ns = (took_ns / requests).clamp(REPLAY_NS_MIN, REPLAY_NS_MAX);
        }
    }

    /// Whether a checkpoint should begin.
    #[must_use]
    pub fn is_due(&self, log: LogSince, state: State) -> bool {
        let factor = if state.is_compacting { 2 } else { 1 };
        let has_entries = self.entries_min.saturating_mul(factor) <= log.entries;
        let has_bytes = self.bytes_min.saturating_mul(factor) <= log.bytes;
        let is_long = (state.bytes / 2).saturating_mul(factor) <= log.bytes;
        let load_ns = (state.bytes / 1_000).saturating_mul(LOAD_NS_A_KILOBYTE);
        let allowed_ns = REPLAY_NS_FREE.saturating_add(load_ns).saturating_mul(factor);
        let is_slow = allowed_ns <= log.requests.saturating_mul(self.replay_ns);
        (has_entries || has_bytes) && (is_long || is_slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn log(bytes: u64, requests: u64) -> LogSince {
        LogSince { entries: 1_000_000, bytes, requests }
    }

    fn state(bytes: u64) -> State {
        State { bytes, is_compacting: false }
    }

    #[test]
    fn half_of_the_state_or_a_long_replay_make_it_due_and_never_a_short_log() {
        let cadence = Cadence::new(10_000, 64 * MIB);
        assert!(cadence.is_due(log(50 * MIB, 0), state(100 * MIB)));
        assert!(!cadence.is_due(log(49 * MIB, 0), state(100 * MIB)));
        let short = LogSince { entries: 9_999, bytes: 63 * MIB, requests: u64::MAX };
        assert!(!cadence.is_due(short, state(0)));
        // 1.5 GB load in 2.25 s: 3.25 s of replay are 1.12 million puts, long before 750 MB of log.
        assert!(!cadence.is_due(log(300 * MIB, 1_100_000), state(1_500_000_000)));
        assert!(cadence.is_due(log(300 * MIB, 1_130_000), state(1_500_000_000)));
    }

    #[test]
    fn a_compaction_gets_twice_the_time() {
        let cadence = Cadence::new(10_000, 64 * MIB);
        let compacting = |bytes| State { is_compacting: true, ..state(bytes) };
        assert!(!cadence.is_due(log(60 * MIB, 0), compacting(100 * MIB)));
        assert!(cadence.is_due(log(100 * MIB, 0), compacting(100 * MIB)));
        assert!(!cadence.is_due(log(300 * MIB, 1_130_000), compacting(1_500_000_000)));
        assert!(cadence.is_due(log(300 * MIB, 2_260_000), compacting(1_500_000_000)));
    }

    #[test]
    fn what_was_measured_counts_within_reason() {
        let mut cadence = Cadence::new(10_000, 64 * MIB);
        let is_due = |cadence: &Cadence, requests| cadence.is_due(log(0, requests), state(1_000_000_000));
        assert!(is_due(&cadence, 900_000));
        cadence.on_replayed(99_999, 1);
        assert!(is_due(&cadence, 900_000), "too few to say anything");
        cadence.on_replayed(1_000_000, 1_000_000_000);
        assert!(!is_due(&cadence, 2_400_000), "a microsecond each");
        assert!(is_due(&cadence, 2_600_000));
        cadence.on_replayed(1_000_000, u64::MAX);
        assert!(!is_due(&cadence, 240_000) && is_due(&cadence, 260_000), "ten microseconds at most");
    }
}
