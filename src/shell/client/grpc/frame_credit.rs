//! Credit of one connection for frames that make work and bring no request.
//!
//! `h2` answers such frames and forgets them, so nothing but this bounds how many it answers. An honest
//! client has a reason for each. Reasons earn credit, frames spend it:
//!
//! | purse | earned by | spent by |
//! |---|---|---|
//! | control frames | time; a call that is opened; DATA, HEADERS and PING that we send | WINDOW_UPDATE, RST_STREAM, PING, SETTINGS, PRIORITY, empty DATA, small CONTINUATION, unknown frames |
//! | early ends | time; HEADERS that we send | a stream reset by the client soon after it was opened; a stream that we reset |
//!
//! Time earns without a reason, so it is what a flood lives on: `PER_MS` bounds its share of a core. It
//! earns while nothing is read, too. Frames that came while this process stood still are therefore paid
//! for by the time it stood still, as long as `on_time` hears of that time before the balance is judged.
//!
//! The second purse is for rapid reset (CVE-2023-44487), where each call earns what its own end spends,
//! and for streams that the client makes us reset (CVE-2025-8671). A stream that has lived for
//! `YOUNG_MS` was a call with its own bounds, and may end as its client likes.
//!
//! Plain values: no clock and no socket.
//!
//! Cost: O(1) a frame.

/// Credit for a second.
pub(in crate::shell::client) const PER_S: u32 = 1000 * PER_MS;

/// The same for a millisecond. 2,000 control frames cost about 0.2 % of a core, as many early ends 2 %.
const PER_MS: u32 = 2;

/// Control frames of a connection that has just begun, beside those it earns.
pub(super) const CONTROL_FRAMES_FIRST: u32 = 2_000;

/// Credit for control frames up to which time earns: a minute, which is 0.1 s of a core at once.
const CONTROL_FRAMES_TIME_MAX: u32 = 60 * PER_S;

/// Credit for control frames in all. What is earned beyond the time's has cost more work than it buys:
/// 100,000 streams may be cancelled at once.
const CONTROL_FRAMES_MAX: u32 = 1_000_000;

/// Control frames that a call earns. gRPC's C core sends two WINDOW_UPDATEs with each call; a
/// RST_STREAM may end it; the rest is for PRIORITY, SETTINGS and PING beside it.
const CALL_EARNS: u32 = 4;

/// Control frames that a HEADERS or DATA frame of ours earns: window updates for the stream and for the
/// connection, a bandwidth probe's PING, a cancellation.
const FRAME_SENT_EARNS: u32 = 4;

/// Bytes of DATA that earn one control frame more. C core sends up to two window updates for each
/// message that its application takes, and one frame of ours has many messages. The smallest, the answer
/// to a renewal, has 30 bytes.
const DATA_BYTES_PER_FRAME: u32 = 12;

/// Early ends of a connection that has just begun.
pub(in crate::shell::client) const EARLY_ENDS_FIRST: u32 = 4_096;

/// Credit for early ends in all: 16 s of standing still, or 0.3 s of a core at once.
const EARLY_ENDS_MAX: u32 = 32_768;

/// A stream of at least this age does not end early. Some are up to twice as old and still count.
const YOUNG_MS: u64 = 500;

/// A balance that time adds to.
#[derive(Debug)]
struct Purse {
    /// Negative: more was spent than there was.
    balance: i64,
    /// Time adds nothing beyond.
    time_max: u32,
    max: u32,
}

impl Purse {
    fn earn(&mut self, amount: u32) {
        self.balance = (self.balance + i64::from(amount)).min(self.max.into());
    }

    fn earn_by_time(&mut self, elapsed_ms: u64) {
        let amount = elapsed_ms.saturating_mul(PER_MS.into()).min(u64::from(u32::MAX)).cast_signed();
        let most = self.balance.max(self.time_max.into());
        self.balance = (self.balance + amount).min(most);
    }

    fn spend(&mut self) {
        self.balance -= 1;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct FrameCredit {
    control_frames: Purse,
    early_ends: Purse,
    /// The latest time heard of.
    at_ms: u64,
    /// The highest stream that the client has opened, now and at the last two multiples of `YOUNG_MS`.
    last_stream: u32,
    recent_stream: u32,
    old_stream: u32,
}

impl FrameCredit {
    pub(in crate::shell::client) fn new(now_ms: u64) -> Self {
        let control_frames = Purse {
            balance: CONTROL_FRAMES_FIRST.into(),
            time_max: CONTROL_FRAMES_TIME_MAX,
            max: CONTROL_FRAMES_MAX,
        };
        let early_ends =
            Purse { balance: EARLY_ENDS_FIRST.into(), time_max: EARLY_ENDS_MAX, max: EARLY_ENDS_MAX };
        Self { control_frames, early_ends, at_ms: now_ms, last_stream: 0, recent_stream: 0, old_stream: 0 }
    }

    /// Time goes on.
    pub(super) fn on_time(&mut self, now_ms: u64) {
        if now_ms <= self.at_ms {
            return;
        }
        let elapsed_ms = now_ms - self.at_ms;
        self.control_frames.earn_by_time(elapsed_ms);
        self.early_ends.earn_by_time(elapsed_ms);
        let passed = now_ms / YOUNG_MS - self.at_ms / YOUNG_MS;
        if 1 <= passed {
            self.old_stream = if passed == 1 { self.recent_stream } else { self.last_stream };
            self.recent_stream = self.last_stream;
        }
        self.at_ms = now_ms;
    }

    /// HEADERS of the client. On a stream that exists they are trailers, which gRPC's clients do not send.
    pub(super) fn on_headers(&mut self, stream: u32) {
        if self.last_stream < stream {
            self.last_stream = stream;
            self.control_frames.earn(CALL_EARNS);
        } else {
            self.control_frames.spend();
        }
    }

    /// A control frame of the client.
    pub(super) fn on_control_frame(&mut self) {
        self.control_frames.spend();
    }

    /// RST_STREAM of the client.
    pub(super) fn on_reset(&mut self, stream: u32) {
        self.control_frames.spend();
        if self.old_stream < stream {
            self.early_ends.spend();
        }
    }

    /// HEADERS of ours.
    pub(super) fn on_headers_sent(&mut self) {
        self.control_frames.earn(FRAME_SENT_EARNS);
        self.early_ends.earn(1);
    }

    /// DATA of ours, with so many bytes.
    pub(super) fn on_data_sent(&mut self, bytes: u32) {
        self.control_frames.earn(FRAME_SENT_EARNS + bytes / DATA_BYTES_PER_FRAME);
    }

    /// PING of ours, which will be answered.
    pub(super) fn on_ping_sent(&mut self) {
        self.control_frames.earn(1);
    }

    /// RST_STREAM of ours.
    pub(super) fn on_reset_sent(&mut self) {
        self.early_ends.spend();
    }

    /// More was spent than there was, as far as time is known.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.control_frames.balance < 0 || self.early_ends.balance < 0
    }

    /// The highest stream that the client has opened.
    pub(in crate::shell::client) fn last_stream(&self) -> u32 {
        self.last_stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens `count` streams and returns the last of them.
    fn open(credit: &mut FrameCredit, count: u32) -> u32 {
        let first = credit.last_stream() | 1;
        (0..count).for_each(|n| credit.on_headers(first + 2 * n + 2));
        credit.last_stream()
    }

    fn times(count: u32, mut work: impl FnMut()) {
        (0..count).for_each(|_| work());
    }

    #[test]
    fn control_frames_without_a_reason_are_bounded_by_the_start_and_by_time() {
        let mut credit = FrameCredit::new(7_000);
        times(CONTROL_FRAMES_FIRST, || credit.on_control_frame());
        assert!(!credit.is_overdrawn());
        credit.on_control_frame();
        assert!(credit.is_overdrawn());
        credit.on_time(8_000);
        times(PER_S - 1, || credit.on_control_frame());
        assert!(!credit.is_overdrawn());
        credit.on_control_frame();
        assert!(credit.is_overdrawn());
    }

    #[test]
    fn a_long_silence_earns_no_more_than_a_minute_does() {
        let mut credit = FrameCredit::new(0);
        credit.on_time(u64::MAX / 4);
        times(60 * PER_S, || credit.on_control_frame());
        assert!(!credit.is_overdrawn());
        credit.on_control_frame();
        assert!(credit.is_overdrawn());
        // Time that goes back earns nothing and breaks nothing.
        credit.on_time(0);
        assert!(credit.is_overdrawn());
    }

    #[test]
    fn calls_of_c_core_pay_for_their_window_updates_and_their_cancellations() {
        let mut credit = FrameCredit::new(0);
        for n in 0..100_000 {
            credit.on_headers(2 * n + 1);
            credit.on_control_frame();
            credit.on_control_frame();
        }
        // Lock waiters: nothing is sent to them.
        credit.on_time(2 * YOUNG_MS);
        (0..100_000).for_each(|n| credit.on_reset(2 * n + 1));
        assert!(!credit.is_overdrawn());
    }

    #[test]
    fn renewals_pay_for_two_window_updates_each_though_many_answers_share_a_frame() {
        const ANSWERS_A_FRAME: u32 = 45;
        const ANSWER_BYTES: u32 = 30;
        let mut credit = FrameCredit::new(0);
        open(&mut credit, 1);
        for _ in 0..100_000 / ANSWERS_A_FRAME {
            credit.on_data_sent(ANSWERS_A_FRAME * ANSWER_BYTES);
            times(2 * ANSWERS_A_FRAME, || credit.on_control_frame());
        }
        assert!(!credit.is_overdrawn());
    }

    #[test]
    fn rapid_reset_is_bounded_though_each_call_earns_its_control_frames() {
        let mut credit = FrameCredit::new(0);
        for _ in 0..EARLY_ENDS_FIRST {
            let stream = open(&mut credit, 1);
            credit.on_reset(stream);
        }
        assert!(!credit.is_overdrawn());
        let stream = open(&mut credit, 1);
        credit.on_reset(stream);
        assert!(credit.is_overdrawn());
    }

    #[test]
    fn calls_given_up_while_this_process_stood_still_are_paid_for_by_that_time() {
        let mut credit = FrameCredit::new(0);
        for _ in 0..EARLY_ENDS_FIRST + 3 * PER_S {
            let stream = open(&mut credit, 1);
            credit.on_reset(stream);
        }
        assert!(credit.is_overdrawn());
        credit.on_time(3_000);
        assert!(!credit.is_overdrawn());
    }

    #[test]
    fn answered_streams_end_as_they_like_and_so_do_old_ones_but_each_once() {
        let mut credit = FrameCredit::new(0);
        for _ in 0..50_000 {
            let stream = open(&mut credit, 1);
            credit.on_headers_sent();
            credit.on_reset(stream);
        }
        assert!(!credit.is_overdrawn());
        let old = open(&mut credit, 20_000);
        credit.on_time(2 * YOUNG_MS);
        times(20_000, || credit.on_reset(old));
        assert!(!credit.is_overdrawn());
        times(CONTROL_FRAMES_MAX, || credit.on_reset(old));
        assert!(credit.is_overdrawn(), "one stream reset over and over");
    }

    #[test]
    fn stream_is_young_for_half_a_second_at_least() {
        for opened_ms in [1_000, 1_200, 1_499] {
            for (age_ms, is_young) in [(499, true), (1_000, false)] {
                let mut credit = FrameCredit::new(0);
                credit.on_time(opened_ms);
                let stream = open(&mut credit, 1);
                // In steps, and at once.
                let mut stepped = FrameCredit::new(0);
                stepped.on_time(opened_ms);
                open(&mut stepped, 1);
                credit.on_time(opened_ms + age_ms);
                (0..=age_ms).for_each(|ms| stepped.on_time(opened_ms + ms));
                for credit in [credit, stepped] {
                    assert_eq!(credit.old_stream < stream, is_young, "{age_ms} ms after {opened_ms}");
                }
            }
        }
    }

    #[test]
    fn streams_that_we_must_reset_are_bounded() {
        let mut credit = FrameCredit::new(0);
        open(&mut credit, 2 * EARLY_ENDS_FIRST);
        times(EARLY_ENDS_FIRST, || credit.on_reset_sent());
        assert!(!credit.is_overdrawn());
        credit.on_reset_sent();
        assert!(credit.is_overdrawn());
    }
}
