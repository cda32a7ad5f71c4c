//! A request's way in: from its headers and its body to `web`.
//!
//! A body that is not there in the connection's turn gets a task. Bounds and deadlines are those of HTTP/1: the
//! longest text of a message, counted as an upload, a large one in its turn.
//!
//! A request that is refused before its body has ended is answered, and the rest of the body is passed over, as HTTP/1
//! does it: `curl` takes a stream that is reset while it uploads for broken, and does not look at the answer. Nothing of
//! the rest is kept; `PASSED_OVER_BYTES_MAX` and `PASSED_OVER_MS` bound it, then the stream is reset.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request as HttpRequest;

use super::exchange::Exchange;
use crate::rpc::headers::Note;
use crate::rpc::method::CallShape;
use crate::rpc::web::{self, AnswerHead, Ask, Header, JSON, Route};
use crate::rpc::{Method, Status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::overloaded;
use crate::shell::client::call::place::Upload;
use crate::shell::client::call::turns::LARGE_BYTES_MIN;
use crate::shell::client::responder::{Requests, Responder};
use crate::shell::client::speaks::Speaks;
use crate::shell::client::upload::{Gather, Torn};
use crate::shell::client::web::gateway::{self, messages_of};
use crate::shell::client::web::incoming::{Inbound, Incoming};
use crate::shell::client::web::sink::Sink;
use crate::shell::client::web::taker::Taker;
use crate::shell::client::web::v2;
use crate::shell::client::{Backend, ClientShard};

impl<B: Backend> ClientShard<B> {
    /// A request's headers have arrived, which are not gRPC's.
    pub(in crate::shell::client) fn on_web_request(
        self: &Rc<Self>,
        account: &Rc<Account>,
        cx: &mut Context<'_>,
        speaks: Speaks,
        request: HttpRequest<RecvStream>,
        note: Option<Note>,
        stream: SendResponse<Body>,
    ) {
        self.counters.count(|counters| counters.requests += 1);
        let note = note.unwrap_or_default();
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let target = note.path.as_deref().unwrap_or(target);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers: Vec<Header<'_>> = parts
            .headers
            .iter()
            .map(|(name, value)| Header { name: name.as_str(), value: value.as_bytes() })
            .collect();
        if let Some(authority) = parts.uri.authority() {
            headers.push(Header { name: "host", value: authority.as_str().as_bytes() });
        }
        let method = note.method.as_deref().unwrap_or(parts.method.as_str());
        let is_named = self.is_named_in_vain(account);
        let ask = Ask { method, path, query, headers: &headers, is_secured: true, is_named };
        let rules = Rc::clone(&self.web_rules);
        let origin = if speaks == Speaks::Metrics { None } else { rules.origin_for(&ask) };
        let sink = Sink::Http2(Exchange::new(stream, account, method == "HEAD", origin));
        if let Some(refusal) = note.refusal {
            let head = AnswerHead::new(web::status_of(refusal.code), JSON);
            sink.answer(account, head, |out| web::put_error(&refusal, out));
            return self.pass_over(account, body, 0);
        }
        let route = match speaks {
            Speaks::Metrics => Route::Page(path.into()),
            _ => web::route(&ask, &rules),
        };
        match route {
            Route::Call(method) => self.on_web_call(account, cx, &ask, method, body, sink),
            Route::V2(path) => {
                let request = v2::Request::of(&ask, path);
                self.take_text(account, cx, Taker::V2 { request, sink }, body);
            }
            route => {
                self.on_other(account, &ask, route, speaks == Speaks::Metrics, sink);
                self.pass_over(account, body, 0);
            }
        }
    }

    /// A call through the gateway.
    fn on_web_call(
        self: &Rc<Self>,
        account: &Rc<Account>,
        cx: &mut Context<'_>,
        ask: &Ask<'_>,
        method: Method,
        body: RecvStream,
        sink: Sink,
    ) {
        let responder = gateway::Responder::new(sink, account, method, &self.tallies);
        let asks_rights = self.asks_rights();
        let head = match gateway::read_head(ask, method, self.now_ms(), asks_rights, account) {
            Ok(head) => head,
            Err(status) => {
                responder.refuse(&status);
                return self.pass_over(account, body, 0);
            }
        };
        if method.row().call == CallShape::BothWays {
            let inbound = Inbound::new(self.receive_bytes_max);
            let (request, bytes_max) = (messages_of(method).request, self.receive_bytes_max);
            let received = responder.tally.received_of();
            let requests =
                |place| Requests::Web(Incoming::new(&inbound, account, request, bytes_max, place, received));
            self.on_stream(account, &head, requests, Responder::Web(responder));
            glommio::spawn_local(feed(Rc::clone(&inbound), body)).detach();
            return;
        }
        self.take_text(account, cx, Taker::Call { head, responder }, body);
    }

    /// Gives a request's text to whoever takes it, at once or when all of it has come.
    fn take_text(
        self: &Rc<Self>,
        account: &Rc<Account>,
        cx: &mut Context<'_>,
        taker: Taker,
        mut body: RecvStream,
    ) {
        let (bytes_max, receive_bytes_max) = (taker.bytes_max(self), self.receive_bytes_max);
        let mut text = Text { taker, bytes: Vec::new(), last_bytes: 0, bytes_max, receive_bytes_max };
        loop {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    if let Err(status) = text.push(piece) {
                        text.taker.refuse(account, &status);
                        return self.pass_over(account, body, text.bytes.len());
                    }
                    if body.is_end_stream() {
                        break;
                    }
                }
                Poll::Ready(None) => break,
                // Reset by the client.
                Poll::Ready(Some(Err(_))) => return,
                Poll::Pending => return self.spawn_text(account, body, text),
            }
        }
        drop(body);
        text.taker.take(self, account, &text.bytes, None);
    }

    /// Gives a body that comes in pieces a task of its own.
    fn spawn_text(self: &Rc<Self>, account: &Rc<Account>, mut body: RecvStream, mut text: Text) {
        let Some(upload) = Upload::begin(&self.places, &account.upload_bytes) else {
            text.taker.refuse(account, &overloaded("too many unfinished requests"));
            return self.pass_over(account, body, text.bytes.len());
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let deadline_ms = text.taker.deadline_ms();
            match shard.collect(&account, deadline_ms, &mut body, &mut text, upload).await {
                Ok(turn) => text.taker.take(&shard, &account, &text.bytes, turn),
                Err(Torn::Refused(status)) => {
                    text.taker.refuse(&account, &status);
                    shard.pass_over(&account, body, text.last_bytes);
                }
                // The stream ends with its sink.
                Err(Torn::Gone) => {}
            }
        })
        .detach();
    }
}

/// Of a body whose request was refused; a client that sends more sees its stream reset.
const PASSED_OVER_BYTES_MAX: usize = 64 << 20;

/// As long is waited for it.
const PASSED_OVER_MS: u64 = 10_000;

impl<B: Backend> ClientShard<B> {
    /// Lets the rest of a body come without keeping it. Of what has come `held` bytes still take a part of the windows.
    /// It has a place as an upload; without one its stream is reset.
    fn pass_over(self: &Rc<Self>, account: &Account, mut body: RecvStream, mut held: usize) {
        if body.is_end_stream() {
            return;
        }
        let Some(upload) = Upload::begin(&self.places, &account.upload_bytes) else { return };
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            let timer = shard.set_timer(shard.now_ms() + PASSED_OVER_MS);
            let (stop, mut left) = (shard.signal_at_stop(), PASSED_OVER_BYTES_MAX);
            while body.flow_control().release_capacity(held).is_ok() {
                let piece = poll_fn(|cx| {
                    let is_over = timer.poll_fired(cx).is_ready()
                        || stop.poll_fired(cx).is_ready()
                        || upload.poll_refused(cx).is_ready();
                    if is_over { Poll::Ready(None) } else { body.poll_data(cx) }
                });
                let Some(Ok(piece)) = piece.await else { return };
                held = piece.len();
                left = left.saturating_sub(held);
                if left == 0 {
                    return;
                }
            }
        })
        .detach();
    }
}

/// A text, as far as it has come, and who gets it.
struct Text {
    taker: Taker,
    bytes: Vec<u8>,
    /// Of the last piece.
    last_bytes: usize,
    bytes_max: usize,
    receive_bytes_max: u32,
}

impl Gather for Text {
    fn push(&mut self, piece: Bytes) -> Result<(), Status> {
        self.last_bytes = piece.len();
        self.bytes.extend_from_slice(&piece);
        if self.bytes_max < self.bytes.len() {
            return Err(self.taker.too_large(self.bytes.len() as u64, self.receive_bytes_max));
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn expected(&self) -> usize {
        // How long it will be is not told.
        if LARGE_BYTES_MIN < self.bytes.len() { self.bytes_max } else { 0 }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.taker.poll_gone(cx)
    }
}

/// Puts the bytes of a body where the call takes its requests, as long as there is room.
async fn feed(inbound: Rc<Inbound>, mut body: RecvStream) {
    loop {
        poll_fn(|cx| inbound.poll_room(cx)).await;
        if inbound.is_left() {
            return;
        }
        match poll_fn(|cx| body.poll_data(cx)).await {
            Some(Ok(piece)) => {
                inbound.push(&piece);
                if body.flow_control().release_capacity(piece.len()).is_err() {
                    return inbound.leave();
                }
            }
            None => return inbound.close(),
            Some(Err(_)) => return inbound.leave(),
        }
    }
}
