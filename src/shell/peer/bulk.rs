//! Streams of bytes from one member to another, each on a connection of its own.
//!
//! ```text
//! sender   BulkBegin{header}                      BulkChunk{offset} ...  BulkEnd{length}
//! receiver                    BulkAccept{offset}                                         BulkDone
//!          or Goodbye at any time, with the reason
//! ```
//!
//! The receiver says from which offset on it wants the stream, so that one which broke can be resumed
//! when its header says that it is the same. What was received is what the receiver says it holds:
//! there are no acknowledgements on the way, TCP's window is the backpressure.
//!
//! The sender dials. If it cannot, because a firewall is open in one direction alone or the receiver has moved, it
//! asks the receiver to dial, by a call over whatever connection there is (`OpenStream`). That connection begins
//! with the same Hello, which says the name under which it was asked for; after the Welcome all is as drawn.
//! Invariants: chunks follow each other without gap or overlap from the accepted offset to the length.
//! Bounds: the sender holds `WINDOW_BYTES` and a chunk, the receiver a chunk and what one read brings; a
//! receiver dials for `BULKS_MAX` streams of a member at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_lite::future;
use prost::Message as _;

use super::Transport;
use super::call::{CALL_OPEN_STREAM, CallError, Reply};
use super::connection::{Connection, End, FrameReader};
use super::events::PeerEvent;
use super::link::{DialError, Purpose};
use super::listener::{BULKS_MAX, Counted};
use crate::pb::peer as pb;
use crate::peer::frame::put_frame;
use crate::peer::{Frame, FrameKind, Lane, Refusal, RefusalCode};
use crate::shell::net::within;
use crate::shell::runtime::wake::{Broadcast, Wake};
use crate::types::MemberId;

/// Bytes of one chunk: small beside the window, so that a stream shares its executor.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Bytes that wait for the sender's socket.
const WINDOW_BYTES: usize = 1024 * 1024;

/// Largest header of a stream.
const HEADER_BYTES_MAX: usize = CHUNK_BYTES_MAX;

/// Largest frame of the lane.
const FRAME_BYTES_MAX: usize = CHUNK_BYTES_MAX + 64;

/// Why a stream did not arrive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::shell) enum BulkError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The other side wants it no more, or never did.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The connection ended; the stream may be resumed.
    #[error("interrupted: {0}")]
    Interrupted(String),
    #[error("no progress for too long")]
    TimedOut,
    #[error("a header of {0} bytes is too large")]
    HeaderTooLarge(usize),
}

impl From<End> for BulkError {
    fn from(end: End) -> Self {
        match end {
            End::Goodbye(refusal) => Self::Refused(refusal),
            other => Self::Interrupted(other.to_string()),
        }
    }
}

/// What the receiver has said.
#[derive(Debug, Default)]
struct Answers {
    accepted: Cell<Option<u64>>,
    is_done: Cell<bool>,
    changed: Broadcast,
}

/// A stream whose receiver was asked to dial.
#[derive(Debug)]
pub(super) struct Wanted {
    member: MemberId,
    opened: RefCell<Option<(Rc<Connection>, Rc<Answers>)>>,
    arrived: Wake,
}

/// Nobody waits for a connection any more. One that came and was not taken ends.
struct Forget<'a>(&'a Transport, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.wanted.borrow_mut().remove(&self.1);
    }
}

/// The sending end of a stream. Dropped before it is finished, it tells the receiver so.
#[derive(Debug)]
pub(in crate::shell) struct BulkWriter {
    connection: Rc<Connection>,
    answers: Rc<Answers>,
    offset: u64,
    is_finished: bool,
}

impl Transport {
    /// Begins a stream to `member`. The header tells the receiver what it is.
    pub(in crate::shell) async fn open_bulk(
        self: &Rc<Self>,
        member: MemberId,
        header: Bytes,
    ) -> Result<BulkWriter, BulkError> {
        if HEADER_BYTES_MAX < header.len() {
            return Err(BulkError::HeaderTooLarge(header.len()));
        }
        let peer = self.peer(member);
        let peer = peer.ok_or_else(|| BulkError::Unreachable(format!("member {member} is not known")))?;
        let dialed = self.dial(&peer.candidates(), member, Purpose::of(Lane::Bulk)).await;
        let (connection, answers) = match dialed {
            Ok(opened) => {
                let (connection, answers) = (opened.connection, Rc::<Answers>::default());
                let task = {
                    let (transport, reader) = (Rc::clone(self), opened.reader);
                    let (connection, answers) = (Rc::clone(&connection), Rc::clone(&answers));
                    async move {
                        let _registered = transport.register(member, &connection);
                        answers.read(&connection, reader).await;
                    }
                };
                self.spawn(task);
                (connection, answers)
            }
            Err(DialError::Refused(refusal)) if !refusal.is_of_stranger() => {
                return Err(BulkError::Refused(refusal));
            }
            Err(error) => self.be_dialed(member).await.map_err(|reason| {
                BulkError::Unreachable(format!("{error}; asked to dial this member for it: {reason}"))
            })?,
        };
        connection.queue_message(FrameKind::BulkBegin, &pb::BulkBegin { header });
        let mut writer = BulkWriter { connection, answers, offset: 0, is_finished: false };
        let patience = self.patience(Lane::Bulk);
        writer.offset = writer.wait(patience, |answers| answers.accepted.get()).await?;
        Ok(writer)
    }

    /// Asks a member to open a connection for a stream to it.
    async fn be_dialed(&self, member: MemberId) -> Result<(Rc<Connection>, Rc<Answers>), CallError> {
        let name = self.next_session();
        let wanted = Rc::new(Wanted { member, opened: RefCell::default(), arrived: Wake::default() });
        self.wanted.borrow_mut().insert(name, Rc::clone(&wanted));
        let _forget = Forget(self, name);
        let body = pb::OpenStream { stream: name }.encode_to_vec().into();
        // It looks a name up, connects and greets, for some addresses.
        let timeout = self.config.handshake_timeout + 8 * self.config.dial_timeout;
        self.call(member, CALL_OPEN_STREAM, body, timeout).await?;
        let arrived = async {
            while wanted.opened.borrow().is_none() {
                wanted.arrived.rung().await;
            }
            Ok::<_, CallError>(())
        };
        within(self.config.handshake_timeout, arrived).await?;
        Ok(wanted.opened.take().expect("it was there a line above"))
    }

    /// Whether a stream to `member` waits for a connection under this name.
    pub(super) fn is_wanted(&self, member: MemberId, name: u64) -> bool {
        let wanted = self.wanted.borrow();
        wanted.get(&name).is_some_and(|wanted| wanted.member == member && wanted.opened.borrow().is_none())
    }

    /// Hands a connection to the stream that waits for it, and serves it to its end.
    pub(super) async fn send_wanted(
        &self,
        name: u64,
        connection: &Rc<Connection>,
        reader: FrameReader,
    ) -> End {
        let answers = Rc::<Answers>::default();
        // The sender may have given up since the Hello was judged; then nobody holds the connection open.
        let Some(wanted) = self.wanted.borrow_mut().remove(&name) else {
            connection.leave(Refusal::new(RefusalCode::Aborted, "the sender gave up"));
            return connection.run(future::pending()).await;
        };
        connection.set_patience(self.patience(Lane::Bulk));
        wanted.opened.replace(Some((Rc::clone(connection), Rc::clone(&answers))));
        wanted.arrived.ring();
        drop(wanted);
        answers.read(connection, reader).await
    }

    /// A member wants to send a stream, and cannot dial this one.
    pub(super) fn open_for_stream(self: &Rc<Self>, from: MemberId, body: Bytes, reply: Reply) {
        let stream = pb::OpenStream::decode(body).map_or(0, |wanted| wanted.stream);
        if stream == 0 {
            return reply.fail("a stream without a name");
        }
        let Some(peer) = self.peer(from) else { return reply.fail("this member does not know the caller") };
        if BULKS_MAX <= peer.fetching.get() {
            return reply.fail("too many streams of this member are under way");
        }
        let transport = Rc::clone(self);
        self.spawn(async move {
            let _counted = Counted::one_more(&peer.fetching);
            let purpose = Purpose { lane: Lane::Bulk, stream };
            let opened = match transport.dial(&peer.candidates(), from, purpose).await {
                Ok(opened) => opened,
                Err(error) => return reply.fail(&error.to_string()),
            };
            reply.succeed(Bytes::new());
            let _registered = transport.register(from, &opened.connection);
            tracing::info!(peer = %from, "this member dialed a peer that has a checkpoint for it and cannot dial");
            transport.take_bulk(from, &opened.connection, opened.reader).await;
        });
    }

    /// Takes a stream that another member sends, to its end.
    pub(super) async fn take_bulk(
        &self,
        from: MemberId,
        connection: &Rc<Connection>,
        reader: FrameReader,
    ) -> End {
        let begin = async {
            match self.begin_bulk(from, connection, reader).await {
                Ok(stream) => {
                    self.events.tell(PeerEvent::Bulk(stream));
                    // From here on the stream's receiver reads, and ends it.
                    future::pending().await
                }
                Err(end) => end,
            }
        };
        connection.run(begin).await
    }

    /// Takes the first frame of a stream.
    async fn begin_bulk(
        &self,
        from: MemberId,
        connection: &Rc<Connection>,
        mut reader: FrameReader,
    ) -> Result<BulkReader, End> {
        reader.set_payload_bytes_max(FRAME_BYTES_MAX);
        let patience = self.patience(Lane::Bulk);
        let late = async {
            glommio::timer::sleep(patience).await;
            Err(End::Malformed("a stream that does not begin".to_owned()))
        };
        let frame = future::or(reader.next(), late).await?;
        if frame.kind != FrameKind::BulkBegin {
            return Err(End::Malformed(format!("{:?} frame before a stream", frame.kind)));
        }
        let begin = pb::BulkBegin::decode(frame.payload)
            .map_err(|error| End::Malformed(format!("a stream's header does not decode: {error}")))?;
        let connection = Rc::clone(connection);
        Ok(BulkReader { from, header: begin.header, connection, reader, patience, offset: 0, is_over: false })
    }
}

impl Answers {
    /// Carries a connection that a stream is sent over.
    async fn read(&self, connection: &Connection, reader: FrameReader) -> End {
        let end = connection.run(self.take(reader)).await;
        self.changed.ring();
        end
    }

    async fn take(&self, mut reader: FrameReader) -> End {
        loop {
            let frame = match reader.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            match frame.kind {
                FrameKind::BulkAccept => match pb::BulkAccept::decode(frame.payload) {
                    Ok(accept) => self.accepted.set(Some(accept.offset)),
                    Err(error) => return End::Malformed(format!("BulkAccept does not decode: {error}")),
                },
                FrameKind::BulkDone => self.is_done.set(true),
                kind => return End::Malformed(format!("{kind:?} frame as the answer to a stream")),
            }
            self.changed.ring();
        }
    }
}

impl BulkWriter {
    /// Where the stream stands; at first, from where on the receiver wants it.
    #[must_use]
    pub(in crate::shell) fn offset(&self) -> u64 {
        self.offset
    }

    /// Sends the bytes that follow. Waits while the receiver is behind.
    pub(in crate::shell) async fn write(&mut self, mut bytes: Bytes) -> Result<(), BulkError> {
        while !bytes.is_empty() {
            self.connection.room(WINDOW_BYTES).await;
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            let is_queued = self.connection.queue(usize::MAX, |outbox| {
                put_frame(outbox, FrameKind::BulkChunk, |outbox| {
                    outbox.extend_from_slice(&self.offset.to_le_bytes());
                    outbox.extend_from_slice(&chunk);
                });
            });
            if !is_queued {
                return Err(self.connection.ended().await.into());
            }
            self.offset += chunk.len() as u64;
        }
        Ok(())
    }

    /// Ends the stream and waits until the receiver has it and wants no more, at most `timeout`.
    pub(in crate::shell) async fn finish(mut self, timeout: Duration) -> Result<(), BulkError> {
        self.connection.queue_message(FrameKind::BulkEnd, &pb::BulkEnd { length: self.offset });
        self.wait(timeout, |answers| answers.is_done.get().then_some(())).await?;
        self.is_finished = true;
        Ok(())
    }

    async fn wait<T>(
        &self,
        timeout: Duration,
        answer: impl Fn(&Answers) -> Option<T>,
    ) -> Result<T, BulkError> {
        let answered = async {
            loop {
                // First the answer: behind it the receiver may have closed the connection.
                if let Some(answer) = answer(&self.answers) {
                    return Ok(answer);
                }
                if !self.connection.is_open() {
                    return Err(self.connection.ended().await.into());
                }
                let changed = self.answers.changed.rung();
                future::or(changed, async { drop(self.connection.ended().await) }).await;
            }
        };
        let late = async {
            glommio::timer::sleep(timeout).await;
            Err(BulkError::TimedOut)
        };
        future::or(answered, late).await
    }
}

impl Drop for BulkWriter {
    fn drop(&mut self) {
        let reason = if self.is_finished { "the stream is complete" } else { "the sender gave up" };
        self.connection.leave(Refusal::new(RefusalCode::Aborted, reason));
    }
}

/// The receiving end of a stream. Dropped before it is over, it tells the sender so.
#[derive(Debug)]
pub(in crate::shell) struct BulkReader {
    pub from: MemberId,
    pub header: Bytes,
    connection: Rc<Connection>,
    reader: FrameReader,
    patience: Duration,
    /// Of the next chunk.
    offset: u64,
    is_over: bool,
}

impl BulkReader {
    /// Takes the stream from `offset` on.
    pub(in crate::shell) fn accept(&mut self, offset: u64) {
        self.offset = offset;
        self.connection.queue_message(FrameKind::BulkAccept, &pb::BulkAccept { offset });
    }

    /// Ends the stream with a reason that the sender hears.
    pub(in crate::shell) fn refuse(mut self, reason: &str) {
        self.is_over = true;
        self.connection.leave(Refusal::new(RefusalCode::Aborted, reason));
    }

    /// The next bytes and their offset; None at the end of the stream, which is complete then.
    pub(in crate::shell) async fn next(&mut self) -> Result<Option<(u64, Bytes)>, BulkError> {
        let frame = {
            let read = async { self.reader.next().await.map_err(BulkError::from) };
            let ended = async { Err(self.connection.ended().await.into()) };
            let late = async {
                glommio::timer::sleep(self.patience).await;
                Err(BulkError::TimedOut)
            };
            future::or(read, future::or(ended, late)).await?
        };
        self.chunk_of(frame).map_err(|reason| {
            let refusal = Refusal::new(RefusalCode::Malformed, reason.clone());
            self.is_over = true;
            self.connection.leave(refusal);
            BulkError::Interrupted(reason)
        })
    }

    fn chunk_of(&mut self, frame: Frame) -> Result<Option<(u64, Bytes)>, String> {
        let mut payload = frame.payload;
        match frame.kind {
            FrameKind::BulkChunk if size_of::<u64>() <= payload.len() => {
                let offset = payload.get_u64_le();
                if offset != self.offset {
                    return Err(format!("a chunk at offset {offset}, not at {}", self.offset));
                }
                self.offset += payload.len() as u64;
                Ok(Some((offset, payload)))
            }
            FrameKind::BulkEnd => {
                let end = pb::BulkEnd::decode(payload)
                    .map_err(|error| format!("a stream's end does not decode: {error}"))?;
                if end.length != self.offset {
                    return Err(format!("a stream of {} bytes ends at {}", end.length, self.offset));
                }
                Ok(None)
            }
            kind => Err(format!("{kind:?} frame in a stream")),
        }
    }

    /// Tells the sender that all has arrived and is as it should be.
    pub(in crate::shell) fn finish(mut self) {
        self.is_over = true;
        self.connection.queue_message(FrameKind::BulkDone, &pb::BulkDone {});
        self.connection.leave(Refusal::new(RefusalCode::Aborted, "the stream is complete"));
    }
}

impl Drop for BulkReader {
    fn drop(&mut self) {
        if !self.is_over {
            self.connection.leave(Refusal::new(RefusalCode::Aborted, "the receiver gave up"));
        }
    }
}
