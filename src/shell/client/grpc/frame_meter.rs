//! Watches HTTP/2 frames go by and says when a client abuses them.
//!
//! `h2` bounds what a frame may make it remember, not how many frames it answers: a client that
//! sends nothing but PING, SETTINGS, RST_STREAM, PRIORITY, WINDOW_UPDATE or empty DATA keeps a core
//! busy for ever. So the bytes are counted as they pass, before `h2` sees them: nine bytes of each
//! frame are looked at, and no payload. Header blocks are the business of `rpc::headers`.
//!
//! Plain values: no clock and no socket; `now_ms` comes in.
//!
//! Invariants: `FrameWalker` is between frames exactly when `is_between_frames` says so, however the
//! bytes were cut.
//! Cost: O(1) a frame plus O(1) a piece of bytes.
//! Compatibility: the ping policy is gRPC-Go's, with etcd's parameters; the rest is ours.

use super::frame_credit::FrameCredit;
use super::frame_head::{Head, kind};

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;

/// CONTINUATION frames from here on are what large metadata is cut into, and cost as much as other bytes.
const CONTINUATION_BYTES_MIN: u32 = 1024;

/// Pings against the policy that are tolerated; the next one ends the connection.
const PING_STRIKES_MAX: u32 = 2;

/// A client that pings exactly as often as it may is late on its way in once and early the next time:
/// a ping may come so much of the interval too early, a tenth.
const PING_TOLERANCE: u64 = 10;

/// How seldom a client without open streams may ping.
const IDLE_PING_INTERVAL_MS: u64 = 2 * 60 * 60 * 1000;

/// The END_STREAM flag of DATA, and the ACK flag of SETTINGS and PING.
const FLAG_END_STREAM_OR_ACK: u8 = 1;

/// What bytes are that went by.
enum Passed {
    PartOfHead,
    /// The last of a head: the frame starts.
    Head(Head),
    /// Of the frame that started last.
    Payload,
}

/// Finds frame heads in a stream of bytes that comes in arbitrary pieces.
#[derive(Debug, Default)]
pub(in crate::shell::client) struct FrameWalker {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there; a whole head is taken at once, so less than `HEAD_BYTES`.
    head_filled: usize,
    /// Payload bytes of the current frame still to come.
    payload_left: usize,
}

impl FrameWalker {
    /// Goes over `bytes` and tells `on_frame` each head that is complete.
    pub(in crate::shell::client) fn walk(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let (passed, what) = self.pass(bytes);
            if let Passed::Head(head) = what {
                on_frame(head);
            }
            bytes = &bytes[passed..];
        }
    }

    /// Passes the first of `bytes`, as many as belong together, and says what they are.
    fn pass(&mut self, bytes: &[u8]) -> (usize, Passed) {
        if 0 < self.payload_left {
            let passed = self.payload_left.min(bytes.len());
            self.payload_left -= passed;
            return (passed, Passed::Payload);
        }
        let passed = (HEAD_BYTES - self.head_filled).min(bytes.len());
        self.head[self.head_filled..self.head_filled + passed].copy_from_slice(&bytes[..passed]);
        self.head_filled += passed;
        if self.head_filled < HEAD_BYTES {
            return (passed, Passed::PartOfHead);
        }
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
        self.head_filled = 0;
        self.payload_left = length as usize;
        (passed, Passed::Head(Head { length, kind, flags, stream }))
    }

    /// Whether the last byte seen was the last of a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.head_filled == 0 && self.payload_left == 0
    }
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) enum Abuse {
    /// More control frames than any use of gRPC makes.
    ControlFlood,
    /// Keepalive pings more often than the policy allows.
    TooManyPings,
}

/// Counts of one connection.
#[derive(Debug)]
pub(in crate::shell::client) struct FrameMeter {
    inbound: FrameWalker,
    outbound: FrameWalker,
    credit: FrameCredit,
    frames: u64,
    /// Pings not yet held against the policy.
    pings: u32,
    last_ping_ms: Option<u64>,
    strikes: u32,
    /// Something was sent since the last ping: the client has a reason to measure us.
    strikes_forgiven: bool,
    ping_interval_min_ms: u64,
}

impl FrameMeter {
    pub(in crate::shell::client) fn new(ping_interval_min_ms: u64, now_ms: u64) -> Self {
        Self {
            inbound: FrameWalker::default(),
            outbound: FrameWalker::default(),
            credit: FrameCredit::new(now_ms),
            frames: 0,
            pings: 0,
            last_ping_ms: None,
            strikes: 0,
            strikes_forgiven: false,
            ping_interval_min_ms,
        }
    }

    /// Bytes from the client, after the preface.
    pub(in crate::shell::client) fn on_received(&mut self, now_ms: u64, mut bytes: &[u8]) {
        self.credit.on_time(now_ms);
        while !bytes.is_empty() {
            let (passed, what) = self.inbound.pass(bytes);
            if let Passed::Head(head) = what {
                self.on_frame_received(head);
            }
            bytes = &bytes[passed..];
        }
    }

    fn on_frame_received(&mut self, head: Head) {
        self.frames += 1;
        let acked_or_ended = head.flags & FLAG_END_STREAM_OR_ACK != 0;
        match head.kind {
            kind::HEADERS => self.credit.on_headers(head.stream),
            kind::RST_STREAM => self.credit.on_reset(head.stream),
            // Empty DATA that ends a stream is how some clients half-close.
            kind::DATA if 0 < head.length || acked_or_ended => {}
            kind::CONTINUATION if CONTINUATION_BYTES_MIN <= head.length => {}
            kind::PING if !acked_or_ended => {
                self.pings = self.pings.saturating_add(1);
                self.credit.on_control_frame();
            }
            _ => self.credit.on_control_frame(),
        }
    }

    /// Bytes to the client.
    pub(super) fn on_sent(&mut self, bytes: &[u8]) {
        let Self { outbound, credit, strikes_forgiven, .. } = self;
        outbound.walk(bytes, |head| match head.kind {
            kind::HEADERS => {
                credit.on_headers_sent();
                *strikes_forgiven = true;
            }
            kind::DATA => {
                credit.on_data_sent(head.length);
                *strikes_forgiven = true;
            }
            kind::RST_STREAM => credit.on_reset_sent(),
            kind::PING if head.flags & FLAG_END_STREAM_OR_ACK == 0 => credit.on_ping_sent(),
            _ => {}
        });
    }

    /// Holds what was counted against the limits. `clock` is read where they seem to be passed: the
    /// time that came with the bytes may be from before this process stood still.
    pub(in crate::shell::client) fn check(
        &mut self,
        clock: impl Fn() -> u64,
        has_streams: impl Fn() -> bool,
    ) -> Result<(), Abuse> {
        if self.credit.is_overdrawn() {
            self.credit.on_time(clock());
            if self.credit.is_overdrawn() {
                return Err(Abuse::ControlFlood);
            }
        }
        if self.pings == 0 {
            return Ok(());
        }
        let (now_ms, pings) = (clock(), std::mem::take(&mut self.pings));
        let interval_ms = if has_streams() { self.ping_interval_min_ms } else { IDLE_PING_INTERVAL_MS };
        for left in (0..pings).rev() {
            let last = self.last_ping_ms;
            // Pings that are read together may have come one after the other while nothing was read.
            let sent_ms = now_ms.saturating_sub(interval_ms.saturating_mul(left.into()));
            let earliest_ms = last.map_or(0, |last| last.saturating_add(interval_ms));
            self.last_ping_ms = Some(sent_ms.max(earliest_ms).min(now_ms));
            if std::mem::take(&mut self.strikes_forgiven) {
                self.strikes = 0;
                continue;
            }
            let tolerated_ms = interval_ms / PING_TOLERANCE;
            if last.is_some() && now_ms.saturating_add(tolerated_ms) < earliest_ms {
                self.strikes += 1;
            }
            if PING_STRIKES_MAX < self.strikes {
                return Err(Abuse::TooManyPings);
            }
        }
        Ok(())
    }

    /// Frames received in all.
    pub(in crate::shell::client) fn frames(&self) -> u64 {
        self.frames
    }

    /// The highest stream the client has opened, for a GOAWAY.
    pub(in crate::shell::client) fn last_stream(&self) -> u32 {
        self.credit.last_stream()
    }

    /// Whether a frame of our own may be put behind what was sent.
    pub(in crate::shell::client) fn may_insert(&self) -> bool {
        self.outbound.is_between_frames()
    }
}

/// A GOAWAY frame with debug data, which `h2` cannot be asked for.
pub(in crate::shell::client) fn go_away(last_stream: u32, code: u32, debug: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + debug.len()).expect("debug data is a short constant");
    let mut frame = Vec::with_capacity(HEAD_BYTES + 8 + debug.len());
    frame.extend_from_slice(&length.to_be_bytes()[1..]);
    frame.extend_from_slice(&[kind::GO_AWAY, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&last_stream.to_be_bytes());
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(debug);
    frame
}

#[cfg(test)]
mod tests {
    use super::super::frame_credit::CONTROL_FRAMES_FIRST;
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    const PING: u8 = kind::PING;

    #[test]
    fn walker_finds_the_same_heads_however_the_bytes_are_cut() {
        let mut bytes = frame(4, 0, 0, &[1; 12]);
        bytes.extend(frame(1, 5, 1, b"headers"));
        bytes.extend(frame(0, 1, 1, b""));
        let mut whole = Vec::new();
        FrameWalker::default().walk(&bytes, |head| whole.push(head));
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[1], Head { length: 7, kind: 1, flags: 5, stream: 1 });
        for size in 1..bytes.len() {
            let (mut walker, mut cut) = (FrameWalker::default(), Vec::new());
            for piece in bytes.chunks(size) {
                walker.walk(piece, |head| cut.push(head));
            }
            assert_eq!(cut, whole, "pieces of {size}");
            assert!(walker.is_between_frames());
        }
    }

    #[test]
    fn walker_knows_when_it_stands_inside_a_frame() {
        let bytes = frame(0, 0, 1, b"abc");
        for cut in 1..bytes.len() {
            let mut walker = FrameWalker::default();
            walker.walk(&bytes[..cut], |_| {});
            assert!(!walker.is_between_frames(), "cut at {cut}");
        }
    }

    fn meter() -> FrameMeter {
        FrameMeter::new(5_000, 100)
    }

    #[test]
    fn each_kind_of_control_frame_alone_is_a_flood_and_what_requests_are_made_of_is_not() {
        let floods = [
            frame(2, 0, 1, &[0; 5]),
            frame(3, 0, 1, &[0; 4]),
            frame(4, 0, 0, &[]),
            frame(PING, 0, 0, &[0; 8]),
            frame(PING, 1, 0, &[0; 8]),
            frame(8, 0, 0, &[0, 0, 0, 1]),
            frame(kind::CONTINUATION, 0, 1, &[0; 1023]),
            frame(0, 0, 1, &[]),
            frame(1, 5, 0, b"trailers of a stream that is not new"),
            frame(0xee, 0, 0, &[1]),
        ];
        for flood in floods {
            let mut meter = meter();
            meter.on_received(100, &flood.repeat(CONTROL_FRAMES_FIRST as usize));
            assert!(!meter.credit.is_overdrawn());
            meter.on_received(100, &flood);
            assert_eq!(meter.check(|| 100, || true), Err(Abuse::ControlFlood), "{flood:?}");
        }
        let mut meter = meter();
        for _ in 0..10 * CONTROL_FRAMES_FIRST {
            let stream = meter.last_stream() + 1;
            meter.on_received(100, &frame(1, 4, stream, b"h"));
            meter.on_received(100, &frame(kind::CONTINUATION, 4, stream, &[b'h'; 1024]));
            meter.on_received(100, &frame(0, 0, stream, b"d"));
            meter.on_received(100, &frame(0, 1, stream, b""));
        }
        assert_eq!(meter.check(|| 100, || true), Ok(()));
    }

    #[test]
    fn answers_to_our_pings_are_no_flood_and_answers_to_none_are() {
        let mut meter = meter();
        for _ in 0..10 * CONTROL_FRAMES_FIRST {
            meter.on_sent(&frame(PING, 0, 0, &[0; 8]));
            meter.on_received(100, &frame(PING, 1, 0, &[0; 8]));
        }
        assert_eq!(meter.check(|| 100, || true), Ok(()));
        // Our answers to the client's pings are no question.
        for _ in 0..=CONTROL_FRAMES_FIRST {
            meter.on_sent(&frame(PING, 1, 0, &[0; 8]));
            meter.on_received(100, &frame(PING, 1, 0, &[0; 8]));
        }
        assert_eq!(meter.check(|| 100, || true), Err(Abuse::ControlFlood));
    }

    #[test]
    fn window_updates_that_answer_our_frames_are_no_flood() {
        let mut meter = meter();
        for _ in 0..100_000 {
            meter.on_received(100, &frame(8, 0, 1, &[0, 0, 0, 9]));
            meter.on_received(100, &frame(8, 0, 0, &[0, 0, 0, 9]));
            meter.on_sent(&frame(0, 0, 1, b"x"));
        }
        assert_eq!(meter.check(|| 100, || true), Ok(()));
    }

    #[test]
    fn flood_is_judged_by_the_clock_and_not_by_the_time_before_a_pause() {
        let burst = frame(4, 0, 0, &[]).repeat(2 * CONTROL_FRAMES_FIRST as usize);
        for (now_ms, judged) in [(1_000, Err(Abuse::ControlFlood)), (1_100, Ok(()))] {
            let mut meter = meter();
            meter.on_received(100, &burst);
            assert_eq!(meter.check(|| now_ms, || true), judged, "at {now_ms}");
        }
    }

    /// Pings at each of `at_ms`, so many; the index of those that end the connection.
    fn pings(at_ms: &[(u64, usize)], has_streams: bool) -> Option<usize> {
        let mut meter = FrameMeter::new(5_000, 0);
        at_ms.iter().position(|&(now, count)| {
            meter.on_received(now, &frame(PING, 0, 0, &[0; 8]).repeat(count));
            meter.check(|| now, || has_streams).is_err()
        })
    }

    fn one_each(interval_ms: u64, count: u64) -> Vec<(u64, usize)> {
        (0..count).map(|n| (n * interval_ms, 1)).collect()
    }

    #[test]
    fn third_strike_ends_the_connection_and_slow_pings_never_do() {
        assert_eq!(pings(&one_each(1_000, 4), true), Some(3));
        assert_eq!(pings(&one_each(5_000, 9), true), None);
        assert_eq!(pings(&one_each(5_000, 9), false), Some(3));
        assert_eq!(pings(&one_each(IDLE_PING_INTERVAL_MS, 9), false), None);
        assert_eq!(pings(&[(0, 4)], true), Some(0));
    }

    #[test]
    fn ping_that_is_read_late_does_not_make_the_next_one_early() {
        let late: Vec<_> = (0..50).map(|n| (5_000 * n + 450 * (n % 2), 1)).collect();
        assert_eq!(pings(&late, true), None);
        let hasty = one_each(4_499, 9);
        assert_eq!(pings(&hasty, true), Some(3));
    }

    #[test]
    fn pings_that_came_while_nothing_was_read_are_taken_as_sent_in_turn() {
        let paused = [(0, 1), (60_000, 12), (65_000, 1), (70_000, 1), (75_000, 1)];
        assert_eq!(pings(&paused, true), None);
        let hasty = [(0, 1), (60_000, 12), (60_000, 1), (60_000, 1), (60_000, 1)];
        assert_eq!(pings(&hasty, true), Some(4));
        assert_eq!(pings(&[(0, 1), (60_000, 16)], true), Some(1));
    }

    #[test]
    fn data_sent_forgives_strikes() {
        let mut meter = meter();
        for now in 100..200 {
            meter.on_received(now, &frame(PING, 0, 0, &[0; 8]));
            assert_eq!(meter.check(|| now, || true), Ok(()), "ping {now}");
            meter.on_sent(&frame(1, 4, 1, b"h"));
        }
    }

    #[test]
    fn goaway_is_a_well_formed_frame() {
        let bytes = go_away(7, 11, b"too_many_pings");
        let mut heads = Vec::new();
        FrameWalker::default().walk(&bytes, |head| heads.push(head));
        assert_eq!(heads, [Head { length: 22, kind: 7, flags: 0, stream: 0 }]);
        assert_eq!(&bytes[9..17], [0, 0, 0, 7, 0, 0, 0, 11]);
    }
}
