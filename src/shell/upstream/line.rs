//! One connection to an endpoint: HTTP/2, its pings, its end.
//!
//! It counts as connected once the other side has answered a ping: a kernel takes connections for a process that is
//! frozen. While calls are under way and nothing is heard, it is pinged; etcd's servers take pings of a connection without
//! calls for an attack, so there are none then.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_lite::future;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::Request;

use super::call::{Asked, Call, framed};
use crate::shell::net::{H2Socket, Stream, within};
use crate::shell::runtime::wake::Broadcast;

/// When a connection is asked whether it lives.
#[derive(Debug, Clone, Copy)]
pub(in crate::shell) struct Pings {
    /// After so long without a byte, while calls are under way.
    pub after: Duration,
    /// How long the answer may take.
    pub patience: Duration,
    /// Also while no calls are.
    pub always: bool,
}

/// A page of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell) struct Page {
    pub status: u16,
    pub body: Vec<u8>,
}

const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Bytes of one answer that may be on their way or unread.
const WINDOW_BYTES: u32 = 256 << 10;

/// Bytes of all answers: each is bounded by its own window, and one that nobody reads must not hold up the others.
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

const FRAME_BYTES_MAX: u32 = 64 << 10;

/// See the module.
pub(super) struct Line {
    sender: SendRequest<Bytes>,
    base: String,
    state: Rc<State>,
}

/// What a connection's task and its calls share.
struct State {
    /// Calls under way.
    calls: Rc<Cell<usize>>,
    /// Why it is over, once it is.
    end: RefCell<Option<String>>,
    ended: Broadcast,
}

impl State {
    /// The first reason counts.
    fn end(&self, reason: String) {
        self.end.borrow_mut().get_or_insert(reason);
        self.ended.ring();
    }
}

impl Line {
    /// Begins HTTP/2, and waits for the other side's first answer.
    ///
    /// # Errors
    /// It is no HTTP/2, or the connection has ended.
    pub(super) async fn begin(stream: Stream, authority: &str, pings: Pings) -> io::Result<Self> {
        stream.set_nodelay()?;
        let scheme = if stream.is_secured() { "https" } else { "http" };
        let last_read = Rc::new(Cell::new(Instant::now()));
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX);
        let socket = H2Socket::new(stream, Rc::clone(&last_read));
        let (sender, mut connection) =
            builder.handshake::<_, Bytes>(socket).await.map_err(io::Error::other)?;
        let mut ping = connection.ping_pong().expect("it is taken once");
        let greeted = async { ping.ping(Ping::opaque()).await.map(drop) };
        let ended = async {
            match (&mut connection).await {
                Ok(()) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(error) => Err(io::Error::other(error)),
            }
        };
        future::or(async { greeted.await.map_err(io::Error::other) }, ended).await?;
        let state =
            Rc::new(State { calls: Rc::default(), end: RefCell::default(), ended: Broadcast::default() });
        let carried = Rc::clone(&state);
        glommio::spawn_local(async move {
            let carry = async {
                match connection.await {
                    Ok(()) => "EOF".to_owned(),
                    Err(error) => error.to_string(),
                }
            };
            let reason = future::or(carry, watch_over(ping, pings, last_read, Rc::clone(&carried))).await;
            carried.end(reason);
        })
        .detach();
        Ok(Self { sender, base: format!("{scheme}://{authority}"), state })
    }

    /// Whether calls may begin.
    pub(super) fn is_open(&self) -> bool {
        self.state.end.borrow().is_none()
    }

    /// Takes no calls any more; those that there are go on.
    pub(super) fn end(&self, reason: String) {
        self.state.end(reason);
    }

    /// Waits for the end.
    pub(super) async fn end_reason(&self) -> String {
        loop {
            if let Some(reason) = &*self.state.end.borrow() {
                return reason.clone();
            }
            self.state.ended.rung().await;
        }
    }

    /// Sends a call's headers and its first request.
    ///
    /// # Errors
    /// The other side does not have it, and never will.
    pub(super) async fn begin_call(&self, asked: &Asked) -> Result<Call, String> {
        let mut sender = self.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|error| error.to_string())?;
        let request = asked.request(&self.base)?;
        let (response, mut requests) =
            sender.send_request(request, false).map_err(|error| error.to_string())?;
        if let Some(first) = &asked.first {
            // h2 keeps what the window does not take.
            requests.send_data(framed(first), asked.is_unary).map_err(|error| error.to_string())?;
        }
        Ok(Call::new(response, requests, &self.state.calls))
    }
}

impl Line {
    /// Asks for a page of at most so many bytes.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn get(&self, path: &str, bytes_max: usize) -> Result<Page, String> {
        let mut sender = self.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|error| error.to_string())?;
        let request =
            Request::get(format!("{}{path}", self.base)).body(()).map_err(|error| error.to_string())?;
        let (response, _) = sender.send_request(request, true).map_err(|error| error.to_string())?;
        let (head, mut body) = response.await.map_err(|error| error.to_string())?.into_parts();
        let mut page = Page { status: head.status.as_u16(), body: Vec::new() };
        while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
            let piece = piece.map_err(|error| error.to_string())?;
            if bytes_max < page.body.len() + piece.len() {
                return Err(format!("a page of more than {bytes_max} bytes"));
            }
            page.body.extend_from_slice(&piece);
            body.flow_control().release_capacity(piece.len()).map_err(|error| error.to_string())?;
        }
        Ok(page)
    }
}

/// Ends when the other side does not answer a ping.
async fn watch_over(
    mut ping: PingPong,
    pings: Pings,
    last_read: Rc<Cell<Instant>>,
    state: Rc<State>,
) -> String {
    loop {
        let silent = last_read.get().elapsed();
        if silent < pings.after || (state.calls.get() == 0 && !pings.always) {
            // Calls may come meanwhile; the silence before them is not theirs.
            glommio::timer::sleep(pings.after.saturating_sub(silent).max(pings.after / 4)).await;
            continue;
        }
        let pong = async { ping.ping(Ping::opaque()).await.map_err(io::Error::other) };
        match within(pings.patience, pong).await {
            Ok(_pong) => {}
            Err(_late) => return "keepalive ping failed to receive ACK within timeout".to_owned(),
        }
    }
}
