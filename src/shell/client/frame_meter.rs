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

use super::frame_head::{Head, kind};

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;

/// Control frames a second that a connection may send on top of its credit. A client that works
/// sends a few for each answer; 2,000 cost us about 0.2 % of a core.
pub(super) const CONTROL_FRAMES_PER_S_MAX: u32 = 2_000;

/// Control frames that each frame of ours excuses: a window update for the stream and one for the
/// connection, a bandwidth probe's PING, a cancellation.
const CREDIT_PER_FRAME_SENT: u32 = 4;

/// Pings against the policy that are tolerated; the next one ends the connection.
const PING_STRIKES_MAX: u32 = 2;

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
pub(super) struct FrameWalker {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there; a whole head is taken at once, so less than `HEAD_BYTES`.
    head_filled: usize,
    /// Payload bytes of the current frame still to come.
    payload_left: usize,
}

impl FrameWalker {
    /// Goes over `bytes` and tells `on_frame` each head that is complete.
    pub(super) fn walk(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Head)) {
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
pub(super) enum Abuse {
    /// More control frames than any use of gRPC makes.
    ControlFlood,
    /// Keepalive pings more often than the policy allows.
    TooManyPings,
}

/// Counts of one connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    inbound: FrameWalker,
    outbound: FrameWalker,
    /// Control frames of the current second, less the credit, at least 0.
    control_frames: u32,
    second: u64,
    frames: u64,
    last_stream: u32,
    flooded: bool,
    /// Pings not yet held against the policy.
    pings: u32,
    last_ping_ms: Option<u64>,
    strikes: u32,
    /// Something was sent since the last ping: the client has a reason to measure us.
    strikes_forgiven: bool,
    ping_interval_min_ms: u64,
}

impl FrameMeter {
    pub(super) fn new(ping_interval_min_ms: u64) -> Self {
        Self {
            inbound: FrameWalker::default(),
            outbound: FrameWalker::default(),
            control_frames: 0,
            second: 0,
            frames: 0,
            last_stream: 0,
            flooded: false,
            pings: 0,
            last_ping_ms: None,
            strikes: 0,
            strikes_forgiven: false,
            ping_interval_min_ms,
        }
    }

    /// Bytes from the client, after the preface.
    pub(super) fn on_received(&mut self, now_ms: u64, mut bytes: &[u8]) {
        let second = now_ms / 1000;
        if second != self.second {
            self.second = second;
            self.control_frames = 0;
        }
        while !bytes.is_empty() {
            let (passed, what) = self.inbound.pass(bytes);
            if let Passed::Head(head) = what {
                self.on_frame_received(head);
            }
            bytes = &bytes[passed..];
        }
        self.flooded |= CONTROL_FRAMES_PER_S_MAX < self.control_frames;
    }

    fn on_frame_received(&mut self, head: Head) {
        self.frames += 1;
        let acked_or_ended = head.flags & FLAG_END_STREAM_OR_ACK != 0;
        match head.kind {
            kind::HEADERS => self.last_stream = self.last_stream.max(head.stream),
            // Empty DATA that ends a stream is how some clients half-close.
            kind::DATA if 0 < head.length || acked_or_ended => {}
            kind::PING if acked_or_ended => {}
            kind::PING => {
                self.pings = self.pings.saturating_add(1);
                self.control_frames = self.control_frames.saturating_add(1);
            }
            _ => self.control_frames = self.control_frames.saturating_add(1),
        }
    }

    /// Bytes to the client.
    pub(super) fn on_sent(&mut self, bytes: &[u8]) {
        let Self { outbound, control_frames, strikes_forgiven, .. } = self;
        outbound.walk(bytes, |head| {
            if matches!(head.kind, kind::HEADERS | kind::DATA) {
                *control_frames = control_frames.saturating_sub(CREDIT_PER_FRAME_SENT);
                *strikes_forgiven = true;
            }
        });
    }

    /// Holds what was counted against the limits.
    pub(super) fn check(&mut self, now_ms: u64, has_streams: impl Fn() -> bool) -> Result<(), Abuse> {
        if self.flooded {
            return Err(Abuse::ControlFlood);
        }
        for _ in 0..std::mem::take(&mut self.pings) {
            let last = self.last_ping_ms.replace(now_ms);
            if std::mem::take(&mut self.strikes_forgiven) {
                self.strikes = 0;
                continue;
            }
            let interval = if has_streams() { self.ping_interval_min_ms } else { IDLE_PING_INTERVAL_MS };
            if last.is_some_and(|last| now_ms < last + interval) {
                self.strikes += 1;
            }
            if PING_STRIKES_MAX < self.strikes {
                return Err(Abuse::TooManyPings);
            }
        }
        Ok(())
    }

    /// Frames received in all.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// The highest stream the client has opened, for a GOAWAY.
    pub(super) fn last_stream(&self) -> u32 {
        self.last_stream
    }

    /// Whether the client stopped inside a frame.
    pub(super) fn is_inside_frame(&self) -> bool {
        !self.inbound.is_between_frames()
    }

    /// Whether a frame of our own may be put behind what was sent.
    pub(super) fn may_insert(&self) -> bool {
        self.outbound.is_between_frames()
    }
}

/// A GOAWAY frame with debug data, which `h2` cannot be asked for.
pub(super) fn go_away(last_stream: u32, code: u32, debug: &[u8]) -> Vec<u8> {
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

    #[test]
    fn each_kind_of_control_frame_alone_is_a_flood_and_what_requests_are_made_of_is_not() {
        let floods = [
            frame(2, 0, 1, &[0; 5]),
            frame(3, 0, 1, &[0; 4]),
            frame(4, 0, 0, &[]),
            frame(PING, 0, 0, &[0; 8]),
            frame(8, 0, 0, &[0, 0, 0, 1]),
            frame(0, 0, 1, &[]),
            frame(0xee, 0, 0, &[1]),
        ];
        for flood in floods {
            let mut meter = FrameMeter::new(5_000);
            for _ in 0..CONTROL_FRAMES_PER_S_MAX {
                meter.on_received(100, &flood);
            }
            assert!(!meter.flooded);
            meter.on_received(100, &flood);
            assert_eq!(meter.check(100, || true), Err(Abuse::ControlFlood), "{flood:?}");
        }
        let mut meter = FrameMeter::new(5_000);
        for _ in 0..10 * CONTROL_FRAMES_PER_S_MAX {
            meter.on_received(100, &frame(1, 4, 1, b"h"));
            meter.on_received(100, &frame(0, 0, 1, b"d"));
            meter.on_received(100, &frame(0, 1, 1, b""));
            meter.on_received(100, &frame(PING, 1, 0, &[0; 8]));
        }
        assert_eq!(meter.check(100, || true), Ok(()));
    }

    #[test]
    fn window_updates_that_answer_our_frames_are_no_flood() {
        let mut meter = FrameMeter::new(5_000);
        for _ in 0..100_000 {
            meter.on_received(100, &frame(8, 0, 1, &[0, 0, 0, 9]));
            meter.on_received(100, &frame(8, 0, 0, &[0, 0, 0, 9]));
            meter.on_sent(&frame(0, 0, 1, b"x"));
        }
        assert_eq!(meter.check(100, || true), Ok(()));
    }

    #[test]
    fn a_new_second_starts_a_new_count() {
        let mut meter = FrameMeter::new(5_000);
        for second in 0..5 {
            for _ in 0..CONTROL_FRAMES_PER_S_MAX {
                meter.on_received(second * 1000, &frame(4, 0, 0, &[]));
            }
        }
        assert_eq!(meter.check(5_000, || true), Ok(()));
    }

    /// One ping at each of `at_ms`; the index of the one that ends the connection.
    fn pings(at_ms: &[u64], has_streams: bool) -> Option<usize> {
        let mut meter = FrameMeter::new(5_000);
        at_ms.iter().position(|&now| {
            meter.on_received(now, &frame(PING, 0, 0, &[0; 8]));
            meter.check(now, || has_streams).is_err()
        })
    }

    #[test]
    fn third_strike_ends_the_connection_and_slow_pings_never_do() {
        assert_eq!(pings(&[0, 1_000, 2_000, 3_000], true), Some(3));
        assert_eq!(pings(&[0, 5_000, 10_000, 15_000, 20_000], true), None);
        assert_eq!(pings(&[0, 5_000, 10_000, 15_000, 20_000], false), Some(3));
        let hours: Vec<u64> = (0..9).map(|n| n * IDLE_PING_INTERVAL_MS).collect();
        assert_eq!(pings(&hours, false), None);
    }

    #[test]
    fn data_sent_forgives_strikes() {
        let mut meter = FrameMeter::new(5_000);
        for now in 0..100 {
            meter.on_received(now, &frame(PING, 0, 0, &[0; 8]));
            assert_eq!(meter.check(now, || true), Ok(()), "ping {now}");
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
