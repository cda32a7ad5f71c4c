//! A gRPC client for the little that a boot has to ask: one connection over a blocking socket, unary
//! calls and one watch.
//!
//! No executor runs yet, so `h2` is driven by hand: it is polled until it has nothing more to do, and then
//! the thread waits for bytes. Writes block, which is bounded by their own timeout, so bytes from the
//! server are all that progress can depend on.
//!
//! Bounds: every wait has a deadline; a message is at most `MESSAGE_BYTES_MAX`, and HTTP/2's windows hold
//! back what was not read yet; headers are at most `HEADERS_BYTES_MAX`. Connections that were silent for
//! `keepalive_time` are pinged.
//! Compatibility: gRPC over HTTP/2 without TLS; `grpc-timeout` and codes as gRPC-Go's.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stop;
use crate::rpc::framing::{Assembler, FramingError, PREFIX_BYTES, Splitter, percent_decode, put_prefix};

/// What gRPC-Go's clients take.
const MESSAGE_BYTES_MAX: u32 = 4 << 20;

const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Bytes of one read.
const SCRATCH_BYTES: usize = 16 << 10;

/// Waits are cut into pieces of this length, so that a signal is noticed.
const SLICE: Duration = Duration::from_millis(100);

/// gRPC-Go's lower bound: servers take a client that pings much more often for an attack.
const PING_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// Why a call has no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::shell) enum CallError {
    /// The service's own word.
    #[error("{message} (code {code})")]
    Status { code: u32, message: String },
    /// The connection cannot be used any more.
    #[error("{0}")]
    Connection(String),
    #[error("stopped")]
    Interrupted,
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

impl From<FramingError> for CallError {
    fn from(error: FramingError) -> Self {
        Self::Connection(error.to_string())
    }
}

/// How long to wait, and for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the connection, and again for the handshake on it.
    pub(super) dial: Duration,
    pub(super) request: Duration,
    pub(super) keepalive_time: Option<Duration>,
    pub(super) keepalive_timeout: Duration,
}

/// One connection.
pub(super) struct Client<'a> {
    connection: Connection<SocketHandle, Bytes>,
    sender: SendRequest<Bytes>,
    pings: PingPong,
    /// When the ping that is not answered yet was sent.
    pinged: Option<Instant>,
    socket: SocketHandle,
    woken: Arc<Woken>,
    authority: String,
    patience: Patience,
    /// What Authenticate gave.
    token: Option<HeaderValue>,
    stop: &'a Stop<'a>,
}

impl<'a> Client<'a> {
    /// Connects to one address.
    ///
    /// # Errors
    /// [`CallError`]; the service had no part in it.
    pub(super) fn connect(
        address: SocketAddr,
        authority: &str,
        patience: Patience,
        stop: &'a Stop<'a>,
    ) -> Result<Self, CallError> {
        let stream = TcpStream::connect_timeout(&address, patience.dial)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(patience.request))?;
        let socket = SocketHandle(Rc::new(RefCell::new(Socket::new(stream))));
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(HEADERS_BYTES_MAX);
        let mut handshake = std::pin::pin!(builder.handshake::<_, Bytes>(socket.clone()));
        // Ready once our half is written; the server's half is awaited with the first call.
        let waker = Waker::from(Arc::clone(&woken));
        let (sender, mut connection) = match handshake.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => done?,
            Poll::Pending => return Err(CallError::Connection("the handshake stalls".to_owned())),
        };
        let pings = connection.ping_pong().expect("it is taken once");
        Ok(Self {
            connection,
            sender,
            pings,
            pinged: None,
            socket,
            woken,
            authority: authority.to_owned(),
            patience,
            token: None,
            stop,
        })
    }

    /// Sends this token with every call from now on.
    ///
    /// # Errors
    /// If it cannot stand in a header.
    pub(super) fn set_token(&mut self, token: &str) -> Result<(), CallError> {
        let mut value = HeaderValue::from_str(token)
            .map_err(|_| CallError::Connection("the token cannot be sent in a header".to_owned()))?;
        value.set_sensitive(true);
        self.token = Some(value);
        Ok(())
    }

    /// A call of one message and one answer.
    ///
    /// # Errors
    /// [`CallError`], after `Patience::request` at the latest.
    pub(super) fn unary<A: Message + Default>(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, CallError> {
        let deadline = Instant::now() + self.patience.request;
        let (response, _request) = self.send(path, message, true, Some(deadline), HeaderMap::new())?;
        let (head, mut body) = self.response(response, deadline)?.into_parts();
        if let Some(error) = status(&head.headers) {
            return Err(error);
        }
        let mut assembler = Assembler::new(MESSAGE_BYTES_MAX);
        while let Some(piece) = self.data(&mut body, deadline)? {
            assembler.push(piece)?;
        }
        match self.drive(deadline, |cx| body.poll_trailers(cx))?? {
            Some(trailers) => status(&trailers).map_or(Ok(()), Err)?,
            None => return Err(CallError::Connection("an answer without a status".to_owned())),
        }
        decode(assembler.finish()?)
    }

    /// Opens a call of many answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) fn stream(&mut self, path: &str, message: &impl Message) -> Result<Stream, CallError> {
        let deadline = Instant::now() + self.patience.request;
        // A member that has lost its leader ends the call, rather than stay silent.
        let mut headers = HeaderMap::new();
        headers.insert("hasleader", HeaderValue::from_static("true"));
        let (response, request) = self.send(path, message, false, None, headers)?;
        let (head, body) = self.response(response, deadline)?.into_parts();
        match status(&head.headers) {
            Some(error) => Err(error),
            None => Ok(Stream { body, _request: request, splitter: Splitter::new(MESSAGE_BYTES_MAX) }),
        }
    }

    /// The next answer; none if there is none by the deadline.
    ///
    /// # Errors
    /// [`CallError`], also when the service ends the call.
    pub(super) fn next<A: Message + Default>(
        &mut self,
        stream: &mut Stream,
        deadline: Instant,
    ) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = stream.splitter.take()? {
                return decode(message).map(Some);
            }
            if deadline <= Instant::now() {
                return Ok(None);
            }
            match self.try_drive(deadline, |cx| stream.body.poll_data(cx))? {
                None => return Ok(None),
                Some(Some(piece)) => {
                    let piece = piece?;
                    stream.body.flow_control().release_capacity(piece.len())?;
                    stream.splitter.push(&piece);
                }
                Some(None) => {
                    let grace = Instant::now() + self.patience.request;
                    let trailers = self.drive(grace, |cx| stream.body.poll_trailers(cx))??;
                    let ended = || CallError::Connection("the service ended the call".to_owned());
                    return Err(trailers.as_ref().and_then(status).unwrap_or_else(ended));
                }
            }
        }
    }

    fn send(
        &mut self,
        path: &str,
        message: &impl Message,
        is_last: bool,
        deadline: Option<Instant>,
        mut headers: HeaderMap,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        let until = deadline.unwrap_or_else(|| Instant::now() + self.patience.request);
        let mut sender = self.sender.clone();
        self.drive(until, |cx| sender.poll_ready(cx))??;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            headers.insert("grpc-timeout", HeaderValue::from_str(&timeout(left)).expect("digits and a unit"));
        }
        if let Some(token) = &self.token {
            // etcd reads either name; the older is known to all its versions.
            headers.insert("token", token.clone());
        }
        let uri = format!("http://{}{path}", self.authority);
        let mut request =
            Request::post(uri).body(()).map_err(|error| CallError::Connection(error.to_string()))?;
        *request.headers_mut() = headers;
        let mut body = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
        let length = u32::try_from(message.encoded_len()).expect("requests are small");
        put_prefix(&mut body, false, length);
        message.encode(&mut body).expect("there is room for it");
        let (response, mut stream) = sender.send_request(request, false)?;
        // h2 keeps what the window does not take.
        stream.send_data(body.freeze(), is_last)?;
        Ok((response, stream))
    }

    fn response(
        &mut self,
        mut response: ResponseFuture,
        deadline: Instant,
    ) -> Result<Response<RecvStream>, CallError> {
        let response = self.drive(deadline, |cx| Pin::new(&mut response).poll(cx))??;
        match response.status() {
            http::StatusCode::OK => Ok(response),
            status => {
                Err(CallError::Connection(format!("HTTP status {status}: no gRPC service answers there")))
            }
        }
    }

    fn data(&mut self, body: &mut RecvStream, deadline: Instant) -> Result<Option<Bytes>, CallError> {
        let Some(piece) = self.drive(deadline, |cx| body.poll_data(cx))? else { return Ok(None) };
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        Ok(Some(piece))
    }

    /// Polls until there is a value; after the deadline there is none, and that is an error.
    fn drive<T>(
        &mut self,
        deadline: Instant,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, CallError> {
        let late = || CallError::Connection("no answer in time".to_owned());
        self.try_drive(deadline, poll)?.ok_or_else(late)
    }

    fn try_drive<T>(
        &mut self,
        deadline: Instant,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<Option<T>, CallError> {
        let waker = Waker::from(Arc::clone(&self.woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::Relaxed);
            let end = Pin::new(&mut self.connection).poll(&mut cx);
            // What arrived before the end counts.
            if let Poll::Ready(value) = poll(&mut cx) {
                return Ok(Some(value));
            }
            match end {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    return Err(CallError::Connection("the service closed the connection".to_owned()));
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
            if self.woken.0.load(Ordering::Relaxed) {
                continue;
            }
            self.keep_alive(&mut cx)?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if self.stop.is_told() {
                return Err(CallError::Interrupted);
            }
            self.socket.0.borrow_mut().wait(left.min(SLICE))?;
        }
    }

    fn keep_alive(&mut self, cx: &mut Context<'_>) -> Result<(), CallError> {
        let Some(interval) = self.patience.keepalive_time else { return Ok(()) };
        let now = Instant::now();
        if let Some(pinged) = self.pinged {
            match self.pings.poll_pong(cx) {
                Poll::Ready(pong) => {
                    pong?;
                    self.pinged = None;
                }
                Poll::Pending if self.patience.keepalive_timeout <= now - pinged => {
                    return Err(CallError::Connection("it does not answer pings".to_owned()));
                }
                Poll::Pending => {}
            }
        } else if interval.max(PING_INTERVAL_MIN) <= now - self.socket.0.borrow().last_read {
            self.pings.send_ping(Ping::opaque())?;
            self.pinged = Some(now);
            // The connection is polled again to write it.
            cx.waker().wake_by_ref();
        }
        Ok(())
    }
}

/// A call of many answers.
pub(super) struct Stream {
    body: RecvStream,
    /// The call is over when this half ends.
    _request: SendStream<Bytes>,
    splitter: Splitter,
}

fn decode<A: Message + Default>(message: crate::rpc::framing::Message) -> Result<A, CallError> {
    if message.compressed {
        return Err(CallError::Connection("a compressed answer that nobody asked for".to_owned()));
    }
    A::decode(message.payload).map_err(|error| CallError::Connection(format!("no such message: {error}")))
}

/// The error that headers or trailers carry, if they do.
fn status(headers: &HeaderMap) -> Option<CallError> {
    let code = headers.get("grpc-status")?;
    let code = code.to_str().ok().and_then(|code| code.parse().ok());
    let Some(code) = code else {
        return Some(CallError::Connection("a status that is no number".to_owned()));
    };
    if code == 0 {
        return None;
    }
    let message = headers.get("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()));
    Some(CallError::Status { code, message: percent_decode(&message.unwrap_or_default()) })
}

/// At most eight digits, as gRPC wants it.
fn timeout(ms: u128) -> String {
    if ms < 100_000_000 { format!("{ms}m") } else { format!("{}S", (ms / 1_000).min(99_999_999)) }
}

/// Whether something has to be polled again.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A blocking socket, and what was read from it and not taken yet.
struct Socket {
    stream: TcpStream,
    scratch: Box<[u8]>,
    start: usize,
    end: usize,
    is_ended: bool,
    last_read: Instant,
}

impl Socket {
    fn new(stream: TcpStream) -> Self {
        let scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        Self { stream, scratch, start: 0, end: 0, is_ended: false, last_read: Instant::now() }
    }

    /// Waits for bytes, unless some are left. None may come.
    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        if self.start < self.end || self.is_ended {
            return Ok(());
        }
        // Zero would be for ever.
        self.stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        match self.stream.read(&mut self.scratch) {
            Ok(0) => self.is_ended = true,
            Ok(read) => {
                (self.start, self.end) = (0, read);
                self.last_read = Instant::now();
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        Ok(())
    }
}

/// The socket as `h2` wants it. Wakers are of no use: whoever waits for bytes polls after it got some.
#[derive(Clone)]
struct SocketHandle(Rc<RefCell<Socket>>);

impl AsyncRead for SocketHandle {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut socket = self.0.borrow_mut();
        let Socket { scratch, start, end, is_ended, .. } = &mut *socket;
        if *start < *end {
            let length = (*end - *start).min(into.remaining());
            into.put_slice(&scratch[*start..*start + length]);
            *start += length;
            return Poll::Ready(Ok(()));
        }
        // Nothing was put: the end.
        if *is_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl AsyncWrite for SocketHandle {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match (&self.0.borrow().stream).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pause of a blocking socket is its timeout, and nobody would wake us.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "it takes no bytes")));
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow().stream.shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
