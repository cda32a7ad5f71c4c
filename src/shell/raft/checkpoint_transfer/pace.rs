//! How fast a checkpoint is streamed while clients write.
//!
//! Reading, sending, checking and writing a database costs cores, disk and network that the leader and its
//! followers need for every put. So while something is written the stream makes [`RATE_BUSY`] at most, and
//! rests after each piece [`REST`] times as long as the piece took; what a piece costs the receiver shows
//! in that too, since the stream waits for its window. It never falls below [`RATE_MIN`] for that, and it
//! does not rest at all while nobody writes, or when it is late: the log that is held for the follower is bounded, so the stream's
//! part of the way must be done before the log has used up half of that bound. The other half is for
//! the log that follows.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::shell::log::keeping::held_bytes_max;

/// Rest after a piece, by the time that the piece took.
const REST: u32 = 4;

/// Bytes a second that a stream makes at most while its members are busy.
const RATE_BUSY: u64 = 32 << 20;

/// Bytes a second that a stream makes however busy its members are, as far as they can.
const RATE_MIN: u64 = 16 << 20;

/// Members count as busy for so long after a write.
const BUSY: Duration = Duration::from_millis(200);

/// What the raft role tells those that stream.
#[derive(Debug, Default)]
pub(in crate::shell) struct Load {
    /// Bytes appended to the log since the start.
    appended: Cell<u64>,
}

impl Load {
    /// The log grows by so many bytes.
    pub(in crate::shell) fn on_append(&self, bytes: u64) {
        self.appended.set(self.appended.get() + bytes);
    }
}

/// The pace of one stream.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    load: &'a Load,
    bytes: u64,
    /// What was appended when the stream began, and as last seen.
    appended_first: u64,
    appended_last: u64,
    busy_until: Option<Instant>,
}

impl<'a> Pace<'a> {
    /// Of a stream of so many bytes.
    pub(super) fn new(load: &'a Load, bytes: u64) -> Self {
        let appended = load.appended.get();
        Self { load, bytes, appended_first: appended, appended_last: appended, busy_until: None }
    }

    /// How long to rest behind a piece that took so long; the stream has come to `offset`.
    pub(super) fn rest(&mut self, now: Instant, piece_bytes: u64, took: Duration, offset: u64) -> Duration {
        let appended = self.load.appended.get();
        if self.appended_last < appended {
            self.appended_last = appended;
            self.busy_until = Some(now + BUSY);
        }
        let is_busy = self.busy_until.is_some_and(|until| now < until);
        if !is_busy || self.is_late(offset) {
            return Duration::ZERO;
        }
        let at_rate =
            |rate: u64| Duration::from_nanos(piece_bytes * 1_000_000_000 / rate).saturating_sub(took);
        (took * REST).clamp(at_rate(RATE_BUSY), at_rate(RATE_MIN))
    }

    /// Whether the log has used more of its time than the stream has of its way.
    fn is_late(&self, offset: u64) -> bool {
        let grown = u128::from(self.appended_last - self.appended_first);
        let bound = u128::from(held_bytes_max(self.bytes) / 2);
        u128::from(offset) * bound < grown * u128::from(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PIECE: u64 = 256 << 10;
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stream_rests_only_while_something_is_written() {
        let (load, now) = (Load::default(), Instant::now());
        let mut pace = Pace::new(&load, 1024 * MIB);
        assert_eq!(pace.rest(now, PIECE, MS, MIB), Duration::ZERO);
        load.on_append(512);
        // 32 MiB a second are 128 pieces, one each 7.8 ms.
        assert_eq!(pace.rest(now, PIECE, MS, MIB), Duration::from_nanos(6_812_500));
        assert_eq!(pace.rest(now + BUSY / 2, PIECE, 2 * MS, MIB), 8 * MS);
        assert_eq!(pace.rest(now + BUSY, PIECE, MS, MIB), Duration::ZERO);
    }

    #[test]
    fn a_stream_keeps_its_lowest_rate_where_pieces_take_long() {
        let (load, now) = (Load::default(), Instant::now());
        let mut pace = Pace::new(&load, 1024 * MIB);
        load.on_append(512);
        // 16 MiB a second are 64 pieces, one each 15.6 ms.
        assert_eq!(pace.rest(now, PIECE, 10 * MS, MIB), Duration::from_micros(5_625));
        assert_eq!(pace.rest(now, PIECE, 20 * MS, MIB), Duration::ZERO);
    }

    #[test]
    fn a_stream_that_the_log_is_about_to_overtake_does_not_rest() {
        let (load, now) = (Load::default(), Instant::now());
        let mut pace = Pace::new(&load, 100 * MIB);
        // Half of 1 GiB is for the way: a tenth of it is used.
        load.on_append(52 * MIB);
        assert_eq!(pace.rest(now, PIECE, MS, 9 * MIB), Duration::ZERO);
        assert_eq!(pace.rest(now, PIECE, 2 * MS, 11 * MIB), 8 * MS);
    }
}
