//! One thread's connections that carry streams and calls: many messages both ways, one epoll.
//!
//! Where `worker` asks questions and counts answers, this serves what is not a question: watches that
//! bring events unasked, keep-alives that share a stream. A scenario owns a `Streams` and calls `turn`
//! in its loop; what came is told to its `Script`, message by message.
//!
//! Invariants: streams on one connection are found by subtraction, in the order they were opened; a lost
//! connection ends the scenario with an error, since what it would have brought cannot be counted.
//! Cost: a message that lies whole in what was read is handed on without a copy.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::client::{ClientError, Endpoint, nanos};
use crate::http2::{End, Method, Sink};
use crate::link::{CONNECT_TIMEOUT, Link, OUT_BYTES_MAX, READ_BYTES};
use crate::sys::{self, Clock, Timer};
use crate::tally::Failure;

/// Reads from one connection before the others have their turn: one that brings events without end must
/// not keep a put's reply on another from being seen.
const READS_PER_TURN: u32 = 2;
/// The longest sleep in epoll.
const POLL_MAX: Duration = Duration::from_millis(5);
/// A stream is given its window back once it has used this much.
const REFILL_BYTES: u32 = 1 << 29;
/// A longer message is refused. The largest that etcd makes here are 1000 revisions of 64 KiB values.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// A buffer for messages in pieces is kept up to this size.
const PARTIAL_KEPT_BYTES: usize = 64 * 1024;
/// The gRPC prefix: one byte of flags, four of length.
const PREFIX_BYTES: usize = 5;
const TIMER: Token = Token(usize::MAX);

/// Where a stream or call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamRef {
    lane: usize,
    stream: u32,
}

/// Hears what comes on streams and calls, by the tag that each was opened with.
pub(crate) trait Script {
    /// One whole message.
    fn on_message(&mut self, tag: u64, message: &[u8], now_ns: u64);
    /// A call is over, or a stream has ended.
    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, now_ns: u64);
}

/// Puts gRPC messages together.
#[derive(Debug, Default)]
struct Inbox {
    /// The start of a message, prefix included, whose rest has not come.
    partial: Vec<u8>,
}

impl Inbox {
    /// Takes the bytes of one DATA frame. An error is a message that gRPC does not allow here.
    fn feed(&mut self, mut payload: &[u8], mut on_message: impl FnMut(&[u8])) -> Result<(), &'static str> {
        while !payload.is_empty() {
            if self.partial.is_empty()
                && let Some((prefix, rest)) = payload.split_first_chunk::<PREFIX_BYTES>()
                && let Some((message, after)) = rest.split_at_checked(message_bytes(*prefix)?)
            {
                on_message(message);
                payload = after;
                continue;
            }
            let mut wanted = PREFIX_BYTES;
            if let Some(prefix) = self.partial.first_chunk::<PREFIX_BYTES>() {
                wanted += message_bytes(*prefix)?;
            }
            let taken = wanted.saturating_sub(self.partial.len()).min(payload.len());
            self.partial.extend_from_slice(&payload[..taken]);
            payload = &payload[taken..];
            if let Some(prefix) = self.partial.first_chunk::<PREFIX_BYTES>()
                && self.partial.len() == PREFIX_BYTES + message_bytes(*prefix)?
            {
                on_message(&self.partial[PREFIX_BYTES..]);
                self.partial.clear();
                self.partial.shrink_to(PARTIAL_KEPT_BYTES);
            }
        }
        Ok(())
    }
}

fn message_bytes(prefix: [u8; PREFIX_BYTES]) -> Result<usize, &'static str> {
    let [compressed, l0, l1, l2, l3] = prefix;
    if compressed != 0 {
        return Err("a compressed message, which was not agreed to");
    }
    let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).expect("32 bits fit");
    if MESSAGE_BYTES_MAX < length { Err("a message of more than 256 MiB") } else { Ok(length) }
}

/// A stream or call.
#[derive(Debug)]
struct Slot {
    tag: u64,
    inbox: Inbox,
    /// Bytes that came since the stream's window was last refilled.
    unrefilled_bytes: u32,
    is_open: bool,
}

/// A connection and what is open on it.
#[derive(Debug)]
struct Lane {
    link: Link,
    /// Stream id of the front.
    first_stream: u32,
    slots: VecDeque<Slot>,
    open: usize,
    /// Streams whose window is to be refilled.
    thirsty: Vec<(u32, u32)>,
    /// The socket has more than was read.
    is_readable: bool,
}

/// What one connection brings, on its way to the script.
struct Incoming<'a, S> {
    first_stream: u32,
    slots: &'a mut VecDeque<Slot>,
    open: &'a mut usize,
    thirsty: &'a mut Vec<(u32, u32)>,
    script: &'a mut S,
    now_ns: u64,
    fault: Option<&'static str>,
}

/// The open stream or call with this id; none when it is over or never was.
fn open_slot(slots: &mut VecDeque<Slot>, first_stream: u32, stream: u32) -> Option<&mut Slot> {
    let slot = stream.checked_sub(first_stream)? / 2;
    slots.get_mut(usize::try_from(slot).ok()?).filter(|slot| slot.is_open)
}

impl<S: Script> Sink for Incoming<'_, S> {
    fn on_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    fn on_data(&mut self, stream: u32, payload: &[u8]) {
        let now_ns = self.now_ns;
        let Some(slot) = open_slot(self.slots, self.first_stream, stream) else { return };
        slot.unrefilled_bytes += u32::try_from(payload.len()).expect("a frame");
        if REFILL_BYTES <= slot.unrefilled_bytes {
            self.thirsty.push((stream, slot.unrefilled_bytes));
            slot.unrefilled_bytes = 0;
        }
        let (tag, script) = (slot.tag, &mut *self.script);
        if let Err(fault) = slot.inbox.feed(payload, |message| script.on_message(tag, message, now_ns)) {
            self.fault = Some(fault);
        }
    }

    fn on_end(&mut self, stream: u32, end: End<'_>) {
        let Some(slot) = open_slot(self.slots, self.first_stream, stream) else { return };
        slot.is_open = false;
        slot.inbox = Inbox::default();
        let tag = slot.tag;
        *self.open -= 1;
        let end = match end {
            End::Status { code: 0, .. } => Ok(()),
            End::Status { code, message } => Err((Failure::Status(code), message)),
            End::Reset(code) => Err((Failure::Reset(code), "")),
        };
        self.script.on_end(tag, end, self.now_ns);
    }
}

/// The connections of one scenario.
#[derive(Debug)]
pub(crate) struct Streams {
    clock: Clock,
    poll: Poll,
    events: Events,
    timer: Timer,
    lanes: Vec<Lane>,
    buffer: Vec<u8>,
}

impl Streams {
    /// A thread's epoll without connections.
    pub(crate) fn new(clock: Clock) -> Result<Self, ClientError> {
        let io = |operation| move |source| ClientError::Io { operation, source };
        let poll = Poll::new().map_err(io("epoll"))?;
        let timer = Timer::new().map_err(io("timerfd"))?;
        let timer_fd = timer.fd();
        poll.registry()
            .register(&mut SourceFd(&timer_fd), TIMER, Interest::READABLE)
            .map_err(io("epoll add"))?;
        let events = Events::with_capacity(1024);
        Ok(Self { clock, poll, events, timer, lanes: Vec::new(), buffer: vec![0; READ_BYTES] })
    }

    /// Connects `count` times and waits for the server's greetings. `stream_window` narrows what each
    /// stream may bring; such a window is never refilled, so the reader is one that has stopped reading.
    pub(crate) fn connect(
        &mut self,
        endpoint: &Endpoint,
        count: usize,
        stream_window: Option<u32>,
    ) -> Result<std::ops::Range<usize>, ClientError> {
        let first = self.lanes.len();
        for _ in 0..count {
            let connection = match stream_window {
                None => endpoint.connection(),
                Some(window) => endpoint.connection_with_stream_window(window),
            };
            let mut link = Link::connect(endpoint, connection, self.clock)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut link.stream, Token(self.lanes.len()), interest)
                .map_err(|source| ClientError::Io { operation: "epoll add", source })?;
            self.lanes.push(Lane {
                link,
                first_stream: 1,
                slots: VecDeque::new(),
                open: 0,
                thirsty: Vec::new(),
                is_readable: false,
            });
        }
        let give_up_ns = self.clock.now_ns() + nanos(CONNECT_TIMEOUT);
        while self.lanes.iter().any(|lane| !lane.link.connection.is_settled()) {
            if give_up_ns < self.clock.now_ns() {
                let error = "no SETTINGS frame came".to_owned();
                return Err(ClientError::NoSettings(endpoint.address, error));
            }
            self.turn(None, &mut Deaf)?;
        }
        Ok(first..self.lanes.len())
    }

    /// Opens a stream, whose messages `send` brings.
    pub(crate) fn open(&mut self, lane: usize, method: Method, tag: u64) -> StreamRef {
        let stream = self.lanes[lane].link.connection.open_stream(method);
        self.lanes[lane].push(stream, tag);
        StreamRef { lane, stream }
    }

    /// Sends one message. On a stream that has ended it is dropped: the script has heard of the end.
    pub(crate) fn send(&mut self, at: StreamRef, message: &[u8]) {
        self.lanes[at.lane].link.connection.send(at.stream, message);
    }

    /// Makes one unary call. Its reply is a message, its status an end.
    pub(crate) fn call(&mut self, lane: usize, method: Method, message: &[u8], tag: u64) {
        let stream = self.lanes[lane].link.connection.open(method, message);
        self.lanes[lane].push(stream, tag);
    }

    /// Whether a connection takes another stream or call, with `open_max` open at most.
    pub(crate) fn has_room(&self, lane: usize, open_max: usize) -> bool {
        let lane = &self.lanes[lane];
        let streams_max = usize::try_from(lane.link.connection.streams_max()).expect("32 bits fit");
        lane.open < open_max.min(streams_max)
            && lane.link.connection.can_open()
            && lane.link.waiting_bytes() < OUT_BYTES_MAX
    }

    /// Whether messages for a stream's connection pile up here.
    pub(crate) fn is_choked(&self, at: StreamRef) -> bool {
        let link = &self.lanes[at.lane].link;
        OUT_BYTES_MAX < link.waiting_bytes() || link.connection.is_holding_back(at.stream)
    }

    /// Writes what waits, sleeps until something comes or the clock says `until_ns` (5 ms at most), and
    /// hands on what came.
    pub(crate) fn turn(
        &mut self,
        until_ns: Option<u64>,
        script: &mut impl Script,
    ) -> Result<(), ClientError> {
        if sys::is_interrupted() {
            return Err(ClientError::Interrupted);
        }
        let lost = |error: String| ClientError::Call(format!("connection lost: {error}"));
        for lane in &mut self.lanes {
            lane.link.flush().map_err(lost)?;
        }
        let mut timeout = POLL_MAX;
        if self.lanes.iter().any(|lane| lane.is_readable) {
            timeout = Duration::ZERO;
        } else if let Some(until_ns) = until_ns {
            let delay_ns = until_ns.saturating_sub(self.clock.now_ns());
            if delay_ns == 0 {
                timeout = Duration::ZERO;
            } else if delay_ns < nanos(POLL_MAX) {
                self.timer
                    .set(delay_ns)
                    .map_err(|source| ClientError::Io { operation: "timerfd", source })?;
            }
        }
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(ClientError::Io { operation: "epoll wait", source: error });
            }
            _ => {}
        }
        for event in &self.events {
            let Token(slot) = event.token();
            if let Some(lane) = self.lanes.get_mut(slot) {
                lane.link.is_blocked &= !event.is_writable();
                lane.is_readable |= event.is_readable();
            }
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_readable) {
            lane.read(&mut self.buffer, self.clock, script).map_err(lost)?;
        }
        Ok(())
    }
}

impl Lane {
    fn push(&mut self, stream: u32, tag: u64) {
        while self.slots.front().is_some_and(|slot| !slot.is_open) {
            self.slots.pop_front();
            self.first_stream += 2;
        }
        if self.slots.is_empty() {
            self.first_stream = stream;
        }
        let slot = u32::try_from(self.slots.len()).expect("stream ids have 31 bits");
        assert!(self.first_stream + 2 * slot == stream, "stream {stream} is out of order");
        self.slots.push_back(Slot { tag, inbox: Inbox::default(), unrefilled_bytes: 0, is_open: true });
        self.open += 1;
    }

    fn read(&mut self, buffer: &mut [u8], clock: Clock, script: &mut impl Script) -> Result<(), String> {
        let mut incoming = Incoming {
            first_stream: self.first_stream,
            slots: &mut self.slots,
            open: &mut self.open,
            thirsty: &mut self.thirsty,
            script,
            now_ns: 0,
            fault: None,
        };
        let is_drained = self.link.read(buffer, READS_PER_TURN, clock, &mut incoming)?;
        if let Some(fault) = incoming.fault {
            return Err(fault.to_owned());
        }
        self.is_readable = !is_drained;
        for (stream, bytes) in self.thirsty.drain(..) {
            self.link.connection.widen(stream, bytes);
        }
        if let Some(last) = self.link.connection.goaway() {
            return Err(format!("GOAWAY after stream {last}"));
        }
        Ok(())
    }
}

/// Hears nothing: for turns in which nothing is open.
struct Deaf;

impl Script for Deaf {
    fn on_message(&mut self, _tag: u64, _message: &[u8], _now_ns: u64) {}
    fn on_end(&mut self, _tag: u64, _end: Result<(), (Failure, &str)>, _now_ns: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way to cut three messages into three pieces gives the same three messages.
    #[test]
    fn messages_come_out_alike_however_the_bytes_arrive() {
        let bytes = b"\0\0\0\0\x05hello\0\0\0\0\0\0\0\0\0\x03abc";
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let (mut inbox, mut messages) = (Inbox::default(), Vec::new());
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    inbox.feed(piece, |message| messages.push(message.to_vec())).unwrap();
                }
                assert_eq!(messages, [&b"hello"[..], b"", b"abc"], "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_message_that_was_not_agreed_to_is_refused() {
        let refuse = |bytes: &[u8]| Inbox::default().feed(bytes, |_| {}).is_err();
        assert!(refuse(b"\x01\0\0\0\0"), "compressed");
        assert!(refuse(b"\0\xff\0\0\0"), "too long");
        assert!(!refuse(b"\0\0\0\0\0"));
    }
}
