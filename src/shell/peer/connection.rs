//! One open connection: what waits to be sent, what arrives, and how it ended.
//!
//! Whoever has something to say appends whole frames to the outbox; the connection's task writes all
//! that a turn has gathered in one go. Reading is the business of whoever the lane's frames are for.
//!
//! An end has a cause, and the first one counts. Every end on purpose says so in a last frame, so an
//! end without one is news: the other process is gone, or something tore the connection.
//! Invariants: a frame is either not sent, or sent whole and once; bytes are never sent again on
//! another connection, since nobody knows which of them arrived.
//! Bounds: the outbox by whoever appends; what is received by the decoder's bound.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_lite::future;
use futures_lite::io::{AsyncRead as _, AsyncWrite as _};

use crate::peer::frame::put_message;
use crate::peer::{
    FRAME_HEADER_BYTES, Frame, FrameDecoder, FrameError, FrameKind, PREFACE, Refusal, RefusalCode, Seal,
};
use crate::shell::net::{Remote, Stream};
use crate::shell::runtime::wake::{Broadcast, Wake};

/// Bytes of one read.
const SCRATCH_BYTES: usize = 128 * 1024;

/// Bytes read before other tasks get a turn; nothing on this runtime makes a busy task yield.
const TURN_BYTES_MAX: usize = 512 * 1024;

/// An outbox larger than this is given back once it is empty.
const OUTBOX_KEPT_BYTES: usize = 1024 * 1024;

/// How long a connection that we end may take to deliver its last frame.
const LINGER: Duration = Duration::from_millis(500);

/// How long it is remembered whether bytes are acknowledged.
const UNHEARD_KEPT: Duration = Duration::from_millis(50);

/// A read buffer that all connections share, since at most one of them reads at a time.
pub(super) type Scratch = Rc<RefCell<Box<[u8]>>>;

/// The buffer, for a transport to hand around.
pub(super) fn scratch() -> Scratch {
    Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()))
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    /// Closed or reset by the other side's kernel without a word.
    #[error("closed by the other side")]
    Cut,
    /// The other side said why.
    #[error("ended by the other side: {0}")]
    Goodbye(Refusal),
    /// This side said why.
    #[error("ended here: {0}")]
    Local(Refusal),
    /// Nothing came through any more.
    #[error("lost: {0}")]
    Lost(String),
    /// The other side sent what it should not.
    #[error("{0}")]
    Malformed(String),
    /// No frames at all.
    #[error("{0}")]
    Garbage(FrameError),
}

impl End {
    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::ConnectionReset
            | K::ConnectionAborted
            | K::BrokenPipe
            | K::UnexpectedEof
            | K::WriteZero
            | K::NotConnected => Self::Cut,
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: RefCell<Stream>,
    pub remote: Remote,
    pub opened: Instant,
    outbox: RefCell<BytesMut>,
    /// Of the frames that are appended from now on.
    seal: RefCell<Option<Seal>>,
    /// An empty buffer that takes the outbox's place while it is written.
    spare: RefCell<BytesMut>,
    /// Bytes on their way to the socket.
    writing_bytes: Cell<usize>,
    sent_bytes: Cell<u64>,
    received_bytes: Cell<u64>,
    /// When it was last asked, and what it was then.
    unheard: Cell<(Option<Instant>, bool)>,
    writer: Wake,
    drained: Broadcast,
    end: RefCell<Option<End>>,
    scratch: Scratch,
    /// How long a write, or a frame that has begun to arrive, may make no progress.
    patience: Cell<Duration>,
}

impl Connection {
    /// Over a socket that is connected; the preface is already in the outbox.
    pub(super) fn new(stream: Stream, scratch: &Scratch, patience: Duration) -> io::Result<Rc<Self>> {
        stream.expect_answers(patience)?;
        let remote = stream.remote()?;
        Ok(Rc::new(Self {
            stream: RefCell::new(stream),
            remote,
            opened: Instant::now(),
            outbox: RefCell::new(BytesMut::from(&PREFACE[..])),
            seal: RefCell::default(),
            spare: RefCell::default(),
            writing_bytes: Cell::new(0),
            sent_bytes: Cell::new(0),
            received_bytes: Cell::new(0),
            unheard: Cell::default(),
            writer: Wake::default(),
            drained: Broadcast::default(),
            end: RefCell::default(),
            scratch: Rc::clone(scratch),
            patience: Cell::new(patience),
        }))
    }

    /// Changes how long the connection may make no progress.
    pub(super) fn set_patience(&self, patience: Duration) {
        self.patience.set(patience);
        // Refused for a socket that has ended, and that is heard elsewhere.
        self.stream.borrow().expect_answers(patience).ok();
    }

    /// Frames that are appended from now on are sealed.
    pub(super) fn set_seal(&self, seal: Option<Seal>) {
        self.seal.replace(seal);
    }

    /// Seals what was appended at `start`.
    fn close_seal(&self, outbox: &mut BytesMut, start: usize) {
        if let Some(seal) = &mut *self.seal.borrow_mut() {
            seal.close(&mut outbox[start..]);
        }
    }

    /// Whether frames still get through, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// Whether the bytes that were sent seem to go nowhere. They may arrive after all; new ones are better sent
    /// over another connection meanwhile.
    pub(super) fn is_unheard(&self) -> bool {
        let (asked, was_unheard) = self.unheard.get();
        let now = Instant::now();
        if asked.is_some_and(|asked| now.duration_since(asked) < UNHEARD_KEPT) {
            return was_unheard;
        }
        let is_unheard = self.stream.borrow().is_unheard();
        self.unheard.set((Some(now), is_unheard));
        is_unheard
    }

    /// Bytes that wait for the socket.
    pub(super) fn queued_bytes(&self) -> usize {
        self.outbox.borrow().len() + self.writing_bytes.get()
    }

    /// Bytes sent and received so far.
    pub(super) fn traffic(&self) -> (u64, u64) {
        (self.sent_bytes.get(), self.received_bytes.get())
    }

    /// Whether it ended by a fault of the network or of the other side.
    pub(super) fn has_failed(&self) -> bool {
        matches!(&*self.end.borrow(), Some(End::Lost(_) | End::Malformed(_) | End::Garbage(_)))
    }

    /// Appends a frame that `write` makes, unless the connection has ended or more than `bytes_max`
    /// would wait. A single frame fits an empty outbox whatever its size. Whether it was appended.
    pub(super) fn queue(&self, bytes_max: usize, write: impl FnOnce(&mut BytesMut)) -> bool {
        if !self.is_open() || bytes_max <= self.queued_bytes() {
            return false;
        }
        let mut outbox = self.outbox.borrow_mut();
        let start = outbox.len();
        write(&mut outbox);
        let waiting = start + self.writing_bytes.get();
        if waiting != 0 && bytes_max < waiting + outbox.len() - start {
            outbox.truncate(start);
            return false;
        }
        self.close_seal(&mut outbox, start);
        drop(outbox);
        self.writer.ring();
        true
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.borrow().clone() {
                return end;
            }
            self.drained.rung().await;
        }
    }

    /// Appends a message of bounded size.
    pub(super) fn queue_message(&self, kind: FrameKind, message: &impl prost::Message) -> bool {
        self.queue(usize::MAX, |outbox| put_message(outbox, kind, message))
    }

    /// Waits until fewer than `below` bytes wait, or the connection has ended.
    pub(super) async fn room(&self, below: usize) {
        while self.is_open() && below <= self.queued_bytes() {
            self.drained.rung().await;
        }
    }

    /// Ends the connection after what waits and a last frame with the reason.
    pub(super) fn leave(&self, refusal: Refusal) {
        self.leave_with(FrameKind::Goodbye, refusal);
    }

    /// The same before the connection was accepted.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.leave_with(FrameKind::Refusal, refusal);
    }

    /// Ends the connection after `bytes`, in whatever the other side speaks. They are the first ones that it gets.
    pub(super) fn leave_in_other_words(&self, bytes: &[u8], why: Refusal) {
        if self.is_open() {
            let mut outbox = self.outbox.borrow_mut();
            assert_eq!(&outbox[..], PREFACE, "nothing was said before");
            outbox.clear();
            outbox.extend_from_slice(bytes);
            drop(outbox);
            self.set_end(End::Local(why));
        }
    }

    fn leave_with(&self, kind: FrameKind, refusal: Refusal) {
        if self.is_open() {
            {
                let mut outbox = self.outbox.borrow_mut();
                let start = outbox.len();
                put_message(&mut outbox, kind, &refusal.to_wire());
                self.close_seal(&mut outbox, start);
            }
            self.set_end(End::Local(refusal));
        }
    }

    /// Ends the connection now.
    pub(super) fn close(&self, end: End) {
        self.set_end(end);
        self.stream.borrow().shut();
    }

    fn set_end(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.writer.ring();
        self.drained.ring();
    }

    /// Carries the connection: writes what is queued, while `reading` does what the lane is for. Comes
    /// to the reason of the end, after which nothing is queued or read any more.
    pub(super) async fn run(&self, reading: impl Future<Output = End>) -> End {
        let reading = async {
            let end = reading.await;
            match &end {
                // The other side is told what it did wrong.
                End::Malformed(reason) if self.is_open() => {
                    self.leave(Refusal::new(RefusalCode::Malformed, reason.clone()));
                    self.end.replace(Some(end));
                }
                _ if self.is_open() => return self.set_end(end),
                _ => {}
            }
            // A last frame is on its way, and `write` waits for it.
            future::pending().await
        };
        future::or(reading, self.write()).await;
        self.end.borrow().clone().expect("both set one")
    }

    /// Writes until the end; then what is left, for a moment.
    async fn write(&self) {
        let result = self.write_while_open().await;
        if let Err(error) = result {
            self.set_end(End::of(&error));
            return;
        }
        let goodbye = async {
            self.flush().await.ok();
            self.stream.borrow().shut_write();
            // Closing a socket with unread bytes resets it, and the last frame would be lost.
            while self.read_into(|_bytes| ()).await.is_ok() {}
        };
        future::or(goodbye, glommio::timer::sleep(LINGER)).await;
    }

    async fn write_while_open(&self) -> io::Result<()> {
        while self.is_open() {
            self.flush().await?;
            poll_fn(|cx| match self.writer.poll_rung(cx) {
                Poll::Pending if self.is_open() && self.outbox.borrow().is_empty() => Poll::Pending,
                _ => Poll::Ready(()),
            })
            .await;
        }
        Ok(())
    }

    /// Writes what waits at the moment.
    pub(super) async fn flush(&self) -> io::Result<()> {
        let mut bytes = self.outbox.replace(self.spare.take());
        self.writing_bytes.set(bytes.len());
        let mut sent = 0;
        while sent < bytes.len() {
            sent += poll_fn(|cx| {
                let mut stream = self.stream.borrow_mut();
                match Pin::new(&mut *stream).poll_write(cx, &bytes[sent..]) {
                    Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    other => other,
                }
            })
            .await?;
            self.writing_bytes.set(bytes.len() - sent);
            self.drained.ring();
        }
        self.sent_bytes.set(self.sent_bytes.get() + sent as u64);
        bytes.clear();
        if bytes.capacity() <= OUTBOX_KEPT_BYTES {
            self.spare.replace(bytes);
        }
        Ok(())
    }

    /// Reads what the socket has into the shared buffer and passes it on.
    pub(super) async fn read_into(&self, mut take: impl FnMut(&[u8])) -> Result<usize, End> {
        let read = poll_fn(|cx| {
            let (mut stream, mut scratch) = (self.stream.borrow_mut(), self.scratch.borrow_mut());
            Pin::new(&mut *stream).poll_read(cx, &mut scratch).map_ok(|n| {
                take(&scratch[..n]);
                n
            })
        });
        match read.await {
            Ok(0) => Err(End::Cut),
            Ok(n) => {
                self.received_bytes.set(self.received_bytes.get() + n as u64);
                Ok(n)
            }
            Err(error) => Err(End::of(&error)),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The runtime's ring may hold the socket for a while after it was closed here, and the other
        // side is to hear of the end now.
        self.stream.get_mut().shut();
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct FrameReader {
    connection: Rc<Connection>,
    decoder: FrameDecoder,
    turn_bytes: usize,
}

impl FrameReader {
    /// Of a connection that nothing was read from yet.
    pub(super) fn new(connection: &Rc<Connection>, payload_bytes_max: usize) -> Self {
        let decoder = FrameDecoder::new(payload_bytes_max);
        Self { connection: Rc::clone(connection), decoder, turn_bytes: 0 }
    }

    /// The bytes of somebody who does not speak in frames.
    pub(super) fn into_bytes(self) -> BytesMut {
        self.decoder.into_bytes()
    }

    /// The bound for frames to come.
    pub(super) fn set_payload_bytes_max(&mut self, payload_bytes_max: usize) {
        self.decoder.set_payload_bytes_max(payload_bytes_max);
    }

    /// Frames to come are sealed.
    pub(super) fn set_seal(&mut self, seal: Option<Seal>) {
        self.decoder.set_seal(seal);
    }

    /// The next frame. Cancel-safe: what has arrived is kept.
    pub(super) async fn next(&mut self) -> Result<Frame, End> {
        loop {
            match self.decoder.take() {
                Ok(Some(Frame { kind: FrameKind::Goodbye, payload })) => {
                    return Err(End::Goodbye(Refusal::from_wire(payload)));
                }
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(
                    error @ (FrameError::Stranger
                    | FrameError::Tls
                    | FrameError::Http1
                    | FrameError::Http2
                    | FrameError::Version(_)),
                ) => return Err(End::Garbage(error)),
                Err(error) => return Err(End::Malformed(error.to_string())),
            }
            if TURN_BYTES_MAX <= self.turn_bytes {
                self.turn_bytes = 0;
                glommio::executor().yield_now().await;
            }
            let patience = self.decoder.is_partial().then_some(self.connection.patience.get());
            let set = self.connection.stream.borrow().set_read_timeout(patience);
            set.expect("the configuration has no timeout of zero");
            let decoder = &mut self.decoder;
            let read = self.connection.read_into(|bytes| decoder.push(bytes)).await?;
            // A read that did not fill the buffer found the socket dry, and the next one will wait.
            self.turn_bytes = if read < SCRATCH_BYTES { 0 } else { self.turn_bytes + read };
        }
    }
}

/// Bytes that a payload takes in an outbox.
pub(super) fn framed_bytes(payload: usize) -> usize {
    payload + FRAME_HEADER_BYTES
}
