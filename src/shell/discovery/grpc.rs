//! A gRPC client for the little that a boot has to ask: one connection, unary calls and one watch.
//!
//! Bounds: every wait has a deadline; a message is at most `MESSAGE_BYTES_MAX`, and HTTP/2's windows hold
//! back what was not read yet; headers are at most `HEADERS_BYTES_MAX`. Connections that were silent for
//! `keepalive_time` are pinged.
//! Compatibility: gRPC over HTTP/2 without TLS; `grpc-timeout` and codes as gRPC-Go's.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_lite::future;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Request, Response};
use prost::Message;

use super::Stop;
use crate::rpc::framing::{
    Assembler, FramingError, PREFIX_BYTES, Splitter, percent_decode, put_prefix, timeout_text,
};
use crate::shell::net::{self, H2Socket, TimedOut, within};
use crate::shell::runtime::wake::Broadcast;

/// What gRPC-Go's clients take.
const MESSAGE_BYTES_MAX: u32 = 4 << 20;

const HEADERS_BYTES_MAX: u32 = 16 << 10;

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

impl From<TimedOut> for CallError {
    fn from(late: TimedOut) -> Self {
        Self::Connection(late.to_string())
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
    pub(super) request: Duration,
    pub(super) keepalive_time: Option<Duration>,
    pub(super) keepalive_timeout: Duration,
}

/// One connection. Its tasks end with it.
pub(super) struct Client<'a> {
    sender: SendRequest<Bytes>,
    line: Rc<Line>,
    scheme: &'static str,
    authority: String,
    patience: Patience,
    /// What Authenticate gave.
    token: Option<HeaderValue>,
    stop: &'a Stop<'a>,
    _tasks: [glommio::Task<()>; 2],
}

/// What a connection's tasks and its callers share.
#[derive(Debug)]
struct Line {
    last_read: Rc<Cell<Instant>>,
    /// Why the connection is over, once it is.
    end: RefCell<Option<String>>,
    ended: Broadcast,
}

impl Line {
    /// The first reason counts.
    fn end(&self, reason: String) {
        self.end.borrow_mut().get_or_insert(reason);
        self.ended.ring();
    }

    /// Waits for the end.
    async fn end_reason(&self) -> String {
        loop {
            if let Some(reason) = &*self.end.borrow() {
                return reason.clone();
            }
            self.ended.rung().await;
        }
    }
}

impl<'a> Client<'a> {
    /// Begins HTTP/2 on a connection; the service's half is awaited with the first call.
    ///
    /// # Errors
    /// [`CallError`]; the service had no part in it.
    pub(super) async fn begin(
        stream: net::Stream,
        authority: &str,
        patience: Patience,
        stop: &'a Stop<'a>,
    ) -> Result<Self, CallError> {
        Self::begin_at(Instant::now(), stream, authority, patience, stop).await
    }

    /// The same; something was last heard at `last_read`.
    async fn begin_at(
        last_read: Instant,
        stream: net::Stream,
        authority: &str,
        patience: Patience,
        stop: &'a Stop<'a>,
    ) -> Result<Self, CallError> {
        stream.set_nodelay()?;
        let scheme = if stream.is_secured() { "https" } else { "http" };
        let line = Rc::new(Line {
            last_read: Rc::new(Cell::new(last_read)),
            end: RefCell::default(),
            ended: Broadcast::default(),
        });
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(HEADERS_BYTES_MAX);
        let socket = H2Socket::new(stream, Rc::clone(&line.last_read));
        let handshake = async { builder.handshake::<_, Bytes>(socket).await.map_err(CallError::from) };
        let (sender, mut connection) = within(patience.request, handshake).await?;
        let pings = connection.ping_pong().expect("it is taken once");
        let carried = Rc::clone(&line);
        let carry = glommio::spawn_local(async move {
            carried.end(match connection.await {
                Ok(()) => "the service closed the connection".to_owned(),
                Err(error) => error.to_string(),
            });
        });
        let keep_alive = glommio::spawn_local(keep_alive(pings, patience, Rc::clone(&line)));
        let (authority, tasks) = (authority.to_owned(), [carry, keep_alive]);
        Ok(Self { sender, line, scheme, authority, patience, token: None, stop, _tasks: tasks })
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
    pub(super) async fn unary<A: Message + Default>(
        &mut self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, CallError> {
        let deadline = Instant::now() + self.patience.request;
        let (response, _request) = self.send(path, message, true, Some(deadline), HeaderMap::new()).await?;
        let (head, mut body) = self.response(response, deadline).await?.into_parts();
        if let Some(error) = status(&head.headers) {
            return Err(error);
        }
        let mut assembler = Assembler::new(MESSAGE_BYTES_MAX);
        while let Some(piece) = self.data(&mut body, deadline).await? {
            assembler.push(piece)?;
        }
        match self.drive(deadline, |cx| body.poll_trailers(cx)).await?? {
            Some(trailers) => status(&trailers).map_or(Ok(()), Err)?,
            None => return Err(CallError::Connection("an answer without a status".to_owned())),
        }
        decode(assembler.finish()?)
    }

    /// Opens a call of many answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn stream(&mut self, path: &str, message: &impl Message) -> Result<Stream, CallError> {
        let deadline = Instant::now() + self.patience.request;
        // A member that has lost its leader ends the call, rather than stay silent.
        let mut headers = HeaderMap::new();
        headers.insert("hasleader", HeaderValue::from_static("true"));
        let (response, request) = self.send(path, message, false, None, headers).await?;
        let (head, body) = self.response(response, deadline).await?.into_parts();
        match status(&head.headers) {
            Some(error) => Err(error),
            None => Ok(Stream { body, _request: request, splitter: Splitter::new(MESSAGE_BYTES_MAX) }),
        }
    }

    /// The next answer; none if there is none by the deadline.
    ///
    /// # Errors
    /// [`CallError`], also when the service ends the call.
    pub(super) async fn next<A: Message + Default>(
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
            match self.try_drive(deadline, |cx| stream.body.poll_data(cx)).await? {
                None => return Ok(None),
                Some(Some(piece)) => {
                    let piece = piece?;
                    stream.body.flow_control().release_capacity(piece.len())?;
                    stream.splitter.push(&piece);
                }
                Some(None) => {
                    let grace = Instant::now() + self.patience.request;
                    let trailers = self.drive(grace, |cx| stream.body.poll_trailers(cx)).await??;
                    let ended = || CallError::Connection("the service ended the call".to_owned());
                    return Err(trailers.as_ref().and_then(status).unwrap_or_else(ended));
                }
            }
        }
    }

    async fn send(
        &mut self,
        path: &str,
        message: &impl Message,
        is_last: bool,
        deadline: Option<Instant>,
        mut headers: HeaderMap,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        let until = deadline.unwrap_or_else(|| Instant::now() + self.patience.request);
        let mut sender = self.sender.clone();
        self.drive(until, |cx| sender.poll_ready(cx)).await??;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            headers.insert(
                "grpc-timeout",
                HeaderValue::from_str(&timeout_text(left)).expect("digits and a unit"),
            );
        }
        if let Some(token) = &self.token {
            // etcd reads either name; the older is known to all its versions.
            headers.insert("token", token.clone());
        }
        let uri = format!("{}://{}{path}", self.scheme, self.authority);
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

    async fn response(
        &mut self,
        mut response: ResponseFuture,
        deadline: Instant,
    ) -> Result<Response<RecvStream>, CallError> {
        let response = self.drive(deadline, |cx| Pin::new(&mut response).poll(cx)).await??;
        match response.status() {
            http::StatusCode::OK => Ok(response),
            status => {
                Err(CallError::Connection(format!("HTTP status {status}: no gRPC service answers there")))
            }
        }
    }

    async fn data(&mut self, body: &mut RecvStream, deadline: Instant) -> Result<Option<Bytes>, CallError> {
        let Some(piece) = self.drive(deadline, |cx| body.poll_data(cx)).await? else { return Ok(None) };
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        Ok(Some(piece))
    }

    /// Waits for a value; after the deadline there is none, and that is an error.
    async fn drive<T>(
        &self,
        deadline: Instant,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, CallError> {
        self.try_drive(deadline, poll).await?.ok_or_else(|| TimedOut.into())
    }

    /// None: the deadline passed first.
    async fn try_drive<T>(
        &self,
        deadline: Instant,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<Option<T>, CallError> {
        // A value that arrived before the end counts, so it is asked for first.
        let value = async { Ok(Some(poll_fn(poll).await)) };
        let ended = async { Err(CallError::Connection(self.line.end_reason().await)) };
        let late = async {
            glommio::timer::sleep(deadline.saturating_duration_since(Instant::now())).await;
            Ok(None)
        };
        let stopped = async {
            self.stop.told().await;
            Err(CallError::Interrupted)
        };
        future::or(value, future::or(ended, future::or(stopped, late))).await
    }
}

/// Pings a connection that was silent for `keepalive_time`, and ends it when no answer comes.
async fn keep_alive(mut pings: PingPong, patience: Patience, line: Rc<Line>) {
    let Some(interval) = patience.keepalive_time else { return };
    let interval = interval.max(PING_INTERVAL_MIN);
    loop {
        let silent = line.last_read.get().elapsed();
        if silent < interval {
            glommio::timer::sleep(interval - silent).await;
            continue;
        }
        let pong = async { pings.ping(Ping::opaque()).await.map_err(CallError::from) };
        if within(patience.keepalive_timeout, pong).await.is_err() {
            return line.end("it does not answer pings".to_owned());
        }
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

#[cfg(test)]
#[path = "grpc_tests.rs"]
mod tests;
