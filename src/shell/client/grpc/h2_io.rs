//! A socket as `h2` wants it: reads metered and in bounded turns, writes gathered.
//!
//! `h2` flushes after every DATA frame that is worth sending from its own buffer, which would be a
//! system call each. Here a write appends to a gather buffer, `poll_flush` says yes, and the
//! connection's task calls `poll_drain` once it has polled `h2` to the end: one system call a turn.
//! Only shutdown really flushes. When the socket takes no more, the gather buffer fills up to
//! `GATHER_BYTES_MAX` and then writes wait, which is what bounds it.
//!
//! What is read passes the gate for headers (`rpc::headers`) on its way to `h2`. Its bytes go straight into
//! `h2`'s buffer; what has no room there waits in `gated`, and what the gate does not take yet in `unread`.
//!
//! Nothing on glommio makes a busy task yield, so a turn reads at most `TURN_BYTES_MAX` bytes and
//! `TURN_FRAMES_MAX` frames; then the read is pending and the connection rests (`rest`). All connections of a shard
//! together have a *round*, which is what they read and write between two looks of the executor at its sockets: once
//! `ROUND_FRAMES_MAX` are read or `ROUND_SENT_BYTES_MAX` sent, each that has a turn does a little and rests. So a
//! request of one never waits for all that ten others have to say.
//!
//! Invariants: what is appended is sent in order, whole; `write_blocked` is set exactly while bytes
//! wait for the socket.
//! Cost: a read copies once more than it must (a stranger's buffer need not be zeroed first: the
//! shard's scratch is); a write copies once. Both are small beside the system call they save.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_lite::io::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_meter::FrameMeter;
use super::greeting::{Heard, Sifted};
use crate::config::Address;
use crate::rpc::headers::{Gate, NOTES_MAX, REQUEST_BYTES_MIN};
use crate::shell::net::{Remote, Stream};

/// Bytes gathered before a write has to go to the socket: four of the largest frames that `h2`
/// sends by default, and more than the answers to a batch of puts.
const GATHER_BYTES_MAX: usize = 64 * 1024;

/// Bytes that the connections of a shard send before the executor looks at its sockets: a millisecond, most of it the
/// kernel's. Beyond that a turn sends what it has gathered and rests.
const ROUND_SENT_BYTES_MAX: usize = 16 * GATHER_BYTES_MAX;

/// Frames that they read. Beyond that a turn reads `SMALL_READ_BYTES`, a few requests, and rests. With an eighth of it
/// the requests of 16 busy connections came to raft in halves: groups were half as large, and puts a tenth slower.
const ROUND_FRAMES_MAX: u64 = 4096;

/// See `ROUND_FRAMES_MAX`.
const SMALL_READ_BYTES: usize = 4 * 1024;

/// Bytes read before the task gives others a turn; some 100 µs of work when they are requests.
const TURN_BYTES_MAX: usize = 128 * 1024;

/// Frames read before the task gives others a turn. A frame may be as small as nine bytes.
pub(super) const TURN_FRAMES_MAX: u64 = 1024;

/// Bytes of one read.
const SCRATCH_BYTES: usize = 16 * 1024;

// A turn passes what the last read of the one before has left, `TURN_FRAMES_MAX` frames, and what the read brings
// that reaches them.
const _: () = assert!(2 * (SCRATCH_BYTES / REQUEST_BYTES_MIN) as u64 + TURN_FRAMES_MAX <= NOTES_MAX as u64);

/// Buffers that the connections of a shard share, since at most one of them is at work.
pub(in crate::shell::client) struct SharedBuffers {
    scratch: RefCell<Box<[u8]>>,
    /// A gather buffer is with a connection only while bytes wait in it.
    gather: RefCell<Vec<u8>>,
    /// Bytes sent and frames read in this round.
    sent_bytes: Cell<usize>,
    frames: Cell<u64>,
}

impl SharedBuffers {
    pub(in crate::shell::client) fn new() -> Rc<Self> {
        Rc::new(Self {
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            gather: RefCell::new(Vec::with_capacity(GATHER_BYTES_MAX)),
            sent_bytes: Cell::new(0),
            frames: Cell::new(0),
        })
    }

    /// The executor has looked at its sockets.
    pub(in crate::shell::client) fn begin_round(&self) {
        self.sent_bytes.set(0);
        self.frames.set(0);
    }

    /// Whether somebody has to say when the executor looks at its sockets: the round is half over. Before that it does
    /// not matter when the round began.
    pub(in crate::shell::client) fn is_look_due(&self) -> bool {
        ROUND_SENT_BYTES_MAX / 2 <= self.sent_bytes.get() || ROUND_FRAMES_MAX / 2 <= self.frames.get()
    }

    /// Whether connections have read or sent all that they may before the next look.
    pub(in crate::shell::client) fn is_round_over(&self) -> bool {
        // A connection that rests has gathered so much; one whose socket takes nothing would otherwise have turn after
        // turn.
        self.is_round_sent(GATHER_BYTES_MAX) || self.is_round_read()
    }

    fn is_round_sent(&self, bytes: usize) -> bool {
        ROUND_SENT_BYTES_MAX <= self.sent_bytes.get() + bytes
    }

    fn is_round_read(&self) -> bool {
        ROUND_FRAMES_MAX <= self.frames.get()
    }
}

/// One connection's socket and what is known about its bytes.
pub(in crate::shell::client) struct Io {
    stream: Stream,
    buffers: Rc<SharedBuffers>,
    pub(in crate::shell::client) meter: FrameMeter,
    pub(in crate::shell::client) gate: Gate,
    /// Bytes read and metered that the gate has not taken.
    unread: Vec<u8>,
    /// Bytes that the gate has passed and `h2` has not taken.
    gated: Vec<u8>,
    gated_taken: usize,
    /// Bytes that were read to tell the protocol: the preface, which is no frame. `h2` gets it first.
    pushback: Vec<u8>,
    /// Until `h2` has said again what the client heard before it began.
    heard: Option<Heard>,
    gather: Vec<u8>,
    gather_sent: usize,
    write_blocked: bool,
    /// `h2` was told to wait until a write is possible.
    has_refused_write: bool,
    /// No more bytes of this socket go to `h2` for now: the connection has enough to do.
    pub(in crate::shell::client) paused: bool,
    /// The socket had no more bytes in this turn.
    is_dry: bool,
    turn_bytes: usize,
    /// There is more to read or to write than the turn has room for.
    is_turn_over: bool,
    turn_frames_start: u64,
    pub(in crate::shell::client) now_ms: u64,
    pub(in crate::shell::client) last_read_ms: u64,
    /// When the socket last took bytes.
    pub(in crate::shell::client) last_write_ms: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
}

impl Io {
    pub(in crate::shell::client) fn new(
        stream: Stream,
        buffers: Rc<SharedBuffers>,
        meter: FrameMeter,
        gate: Gate,
        now_ms: u64,
    ) -> Self {
        Self {
            stream,
            buffers,
            meter,
            gate,
            unread: Vec::new(),
            gated: Vec::new(),
            gated_taken: 0,
            pushback: Vec::new(),
            heard: None,
            gather: Vec::new(),
            gather_sent: 0,
            write_blocked: false,
            has_refused_write: false,
            paused: false,
            is_dry: false,
            turn_bytes: 0,
            is_turn_over: false,
            turn_frames_start: 0,
            now_ms,
            last_read_ms: now_ms,
            last_write_ms: now_ms,
            bytes_received: 0,
            bytes_sent: 0,
        }
    }

    /// Starts a turn of the connection's task.
    pub(in crate::shell::client) fn start_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.is_dry = false;
        self.turn_bytes = 0;
        self.is_turn_over = false;
        self.turn_frames_start = self.meter.frames();
    }

    /// Gives bytes back that were read before `h2` was there to take them.
    pub(in crate::shell::client) fn push_back(&mut self, bytes: Vec<u8>) {
        assert!(self.pushback.is_empty(), "bytes are given back once");
        self.pushback = bytes;
    }

    /// Takes over the words that were said and heard before `h2` began.
    pub(in crate::shell::client) fn replay(&mut self, (said, heard): (Vec<u8>, Heard)) {
        assert!(self.unread.is_empty(), "nothing was read for h2");
        (self.unread, self.heard) = (said, Some(heard));
    }

    /// Takes those bytes back out.
    pub(in crate::shell::client) fn take_pushback(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pushback)
    }

    /// The client's address and ours.
    pub(in crate::shell::client) fn addresses(&self) -> Option<(Remote, Address)> {
        Some((self.stream.remote().ok()?, self.stream.local().ok()?))
    }

    /// Whether the connection is encrypted.
    pub(in crate::shell::client) fn is_secured(&self) -> bool {
        self.stream.is_secured()
    }

    /// Reads as much as there is, at most `into.len()` bytes.
    pub(in crate::shell::client) fn poll_raw_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        self.last_read_ms = self.now_ms;
        self.bytes_received += n as u64;
        Poll::Ready(Ok(n))
    }

    /// Appends to `into` what one read brings. Nothing only at the end of the stream.
    pub(in crate::shell::client) fn poll_append_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<u8>,
    ) -> Poll<io::Result<usize>> {
        let buffers = Rc::clone(&self.buffers);
        let mut scratch = buffers.scratch.borrow_mut();
        let n = ready!(self.poll_raw_read(cx, &mut scratch))?;
        into.extend_from_slice(&scratch[..n]);
        Poll::Ready(Ok(n))
    }

    /// Whether bytes wait for the socket to take them.
    pub(in crate::shell::client) fn is_write_blocked(&self) -> bool {
        self.write_blocked
    }

    /// Whether `h2` was told to wait though the socket has more, or would take more. Whoever asks gives the
    /// connection another turn.
    pub(in crate::shell::client) fn is_turn_over(&self) -> bool {
        self.is_turn_over
    }

    /// Bytes that wait for the socket.
    pub(in crate::shell::client) fn gathered(&self) -> usize {
        self.gather.len() - self.gather_sent
    }

    /// Memory that this takes, while they do.
    pub(in crate::shell::client) fn blocked_bytes(&self) -> usize {
        self.gather.capacity()
    }

    /// Appends bytes of our own, which are whole frames. Only between frames.
    pub(in crate::shell::client) fn append(&mut self, bytes: &[u8]) {
        if self.gather.capacity() == 0 {
            self.gather = std::mem::take(&mut *self.buffers.gather.borrow_mut());
        }
        self.gather.extend_from_slice(bytes);
    }

    /// Hands what is gathered to the socket. Ready when all of it went.
    pub(in crate::shell::client) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gather_sent < self.gather.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.gather[self.gather_sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.gather_sent += n;
                    self.bytes_sent += n as u64;
                    self.buffers.sent_bytes.set(self.buffers.sent_bytes.get() + n);
                    self.last_write_ms = self.now_ms;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.write_blocked = true;
                    return Poll::Pending;
                }
            }
        }
        self.write_blocked = false;
        self.gather_sent = 0;
        if std::mem::take(&mut self.has_refused_write) {
            // The write that succeeded took the socket's promise of a wake-up with it.
            cx.waker().wake_by_ref();
        }
        if 0 < self.gather.capacity() {
            self.gather.clear();
            let mut shared = self.buffers.gather.borrow_mut();
            let own = std::mem::take(&mut self.gather);
            // The larger one is kept; the other belongs to a connection that was blocked meanwhile.
            if shared.capacity() < own.capacity() && own.capacity() <= 2 * GATHER_BYTES_MAX {
                *shared = own;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our direction of the connection.
    pub(in crate::shell::client) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_close(cx)
    }

    /// Reads for `h2`: nothing only at the end of the stream.
    fn poll_metered_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.pushback.is_empty() {
            let n = self.pushback.len().min(into.remaining());
            into.put_slice(&self.pushback[..n]);
            self.pushback.drain(..n);
            return Poll::Ready(Ok(()));
        }
        if self.paused {
            // Whoever lifts the pause wakes the task.
            return Poll::Pending;
        }
        let room = into.remaining();
        loop {
            self.put_gated(into);
            if into.remaining() < room {
                return Poll::Ready(Ok(()));
            }
            if !self.unread.is_empty() {
                let unread = std::mem::take(&mut self.unread);
                self.pass(&unread, into);
                continue;
            }
            // The socket's waker is registered from the read that found it dry. A fault: the task ends the
            // connection after this turn.
            if self.is_dry || self.gate.fault().is_some() {
                return Poll::Pending;
            }
            let buffers = Rc::clone(&self.buffers);
            let is_round_read = buffers.is_round_read();
            if TURN_BYTES_MAX <= self.turn_bytes
                || TURN_FRAMES_MAX <= self.meter.frames() - self.turn_frames_start
                || (is_round_read && 0 < self.turn_bytes)
            {
                self.is_dry = true;
                self.is_turn_over = true;
                return Poll::Pending;
            }
            let mut scratch = buffers.scratch.borrow_mut();
            let most = if is_round_read { SMALL_READ_BYTES } else { scratch.len() };
            let room = most.min(into.remaining());
            match self.poll_raw_read(cx, &mut scratch[..room]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(n)) => {
                    let bytes = &scratch[..n];
                    let frames = self.meter.frames();
                    self.meter.on_received(self.now_ms, bytes);
                    buffers.frames.set(buffers.frames.get() + self.meter.frames() - frames);
                    self.pass(bytes, into);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.is_dry = true;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Passes bytes through the gate, into `into` as far as there is room.
    fn pass(&mut self, bytes: &[u8], into: &mut ReadBuf<'_>) {
        let (before, Self { gate, gated, .. }) = (into.filled().len(), &mut *self);
        let taken = gate.pass(bytes, &mut |passed| {
            let room = if gated.is_empty() { into.remaining().min(passed.len()) } else { 0 };
            into.put_slice(&passed[..room]);
            gated.extend_from_slice(&passed[room..]);
        });
        // A few bytes of the client may have become many.
        self.turn_bytes += taken.max(into.filled().len() - before + self.gated.len() - self.gated_taken);
        self.unread.extend_from_slice(&bytes[taken..]);
    }

    /// Gives `h2` what had no room before.
    fn put_gated(&mut self, into: &mut ReadBuf<'_>) {
        if self.gated.is_empty() {
            return;
        }
        let waiting = &self.gated[self.gated_taken..];
        let n = waiting.len().min(into.remaining());
        into.put_slice(&waiting[..n]);
        self.gated_taken += n;
        if self.gated_taken == self.gated.len() {
            (self.gated, self.gated_taken) = (Vec::new(), 0);
        }
    }

    /// Memory that holds headers on their way.
    pub(in crate::shell::client) fn header_bytes(&self) -> usize {
        self.gate.held_bytes() + self.gated.capacity() + self.unread.capacity()
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(heard) = &mut self.heard {
            let (n, sifted) = heard.sift(bytes);
            if heard.is_over() {
                self.heard = None;
            }
            if sifted == Sifted::Dropped {
                return Poll::Ready(Ok(n));
            }
            bytes = &bytes[..n];
        }
        if GATHER_BYTES_MAX <= self.gathered() {
            if self.buffers.is_round_sent(self.gathered()) {
                self.is_turn_over = true;
                return Poll::Pending;
            }
            // Full: some of it has to go first.
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
            if GATHER_BYTES_MAX <= self.gathered() {
                self.has_refused_write = true;
                return Poll::Pending;
            }
        }
        let n = bytes.len().min(GATHER_BYTES_MAX - self.gathered());
        if 0 < self.gather_sent {
            self.gather.drain(..self.gather_sent);
            self.gather_sent = 0;
        }
        self.append(&bytes[..n]);
        self.meter.on_sent(&bytes[..n]);
        Poll::Ready(Ok(n))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        // A buffer that still has bytes in it goes with the connection; an empty one returns.
        if 0 < self.gather.capacity() && self.buffers.gather.borrow().capacity() == 0 {
            self.gather.clear();
            self.buffers.gather.replace(std::mem::take(&mut self.gather));
        }
    }
}

/// The connection's `Io`, shared between `h2`, which keeps it out of sight, and the task.
#[derive(Clone)]
pub(in crate::shell::client) struct IoHandle(pub(in crate::shell::client) Rc<RefCell<Io>>);

impl AsyncRead for IoHandle {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_metered_read(cx, into)
    }
}

impl AsyncWrite for IoHandle {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_gather(cx, bytes)
    }

    // See the module: the task drains after it has polled h2, so that a turn is one system call.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_close(cx)
    }
}
