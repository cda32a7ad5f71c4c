//! A request's way in: from its headers and its body to `web`.
//!
//! A body that is not there in the connection's turn gets a task. Bounds and deadlines are those of HTTP/1: the
//! longest text of a message, counted as an upload, a large one in its turn.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::RecvStream;
use h2::server::SendResponse;
use http::Request as HttpRequest;

use super::exchange::Exchange;
use crate::rpc::headers::Note;
use crate::rpc::method::CallShape;
use crate::rpc::web::{self, AnswerHead, Ask, Header, JSON, Route};
use crate::rpc::{Method, Status, status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::place::Upload;
use crate::shell::client::call::turns::{LARGE_BYTES_MIN, Turn};
use crate::shell::client::call::{Head, overloaded};
use crate::shell::client::responder::{Requests, Responder};
use crate::shell::client::speaks::Speaks;
use crate::shell::client::web::gateway::{self, messages_of, text_bytes_max, text_too_large};
use crate::shell::client::web::incoming::{Inbound, Incoming};
use crate::shell::client::web::sink::Sink;
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
        let ask = Ask { method, path, query, headers: &headers, is_secured: true };
        let rules = Rc::clone(&self.web_rules);
        let origin = if speaks == Speaks::Metrics { None } else { rules.origin_for(&ask) };
        let sink = Sink::Http2(Exchange::new(stream, account, method == "HEAD", origin));
        if let Some(refusal) = note.refusal {
            let head = AnswerHead::new(web::status_of(refusal.code), JSON);
            return sink.answer(account, head, |out| web::put_error(&refusal, out));
        }
        let route = match speaks {
            Speaks::Metrics => Route::Page(path.into()),
            _ => web::route(&ask, &rules),
        };
        match route {
            Route::Call(method) => self.on_web_call(account, cx, &ask, method, body, sink),
            // A body that is there is passed over.
            route => self.on_other(account, &ask, route, speaks == Speaks::Metrics, sink),
        }
    }

    /// A call through the gateway.
    fn on_web_call(
        self: &Rc<Self>,
        account: &Rc<Account>,
        cx: &mut Context<'_>,
        ask: &Ask<'_>,
        method: Method,
        mut body: RecvStream,
        sink: Sink,
    ) {
        let responder = gateway::Responder::new(sink, account, method, &self.tallies);
        let asks_rights = self.identities.revision().is_some();
        let head = match gateway::read_head(ask, method, self.now_ms(), asks_rights) {
            Ok(head) => head,
            Err(status) => return responder.refuse(&status),
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
        let mut text = Vec::new();
        loop {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => {
                    text.extend_from_slice(&piece);
                    if text_bytes_max(self.receive_bytes_max) < text.len() {
                        let status = text_too_large(text.len() as u64, self.receive_bytes_max);
                        return responder.refuse(&status);
                    }
                    if body.is_end_stream() {
                        break;
                    }
                }
                Poll::Ready(None) => break,
                // Reset by the client.
                Poll::Ready(Some(Err(_))) => return,
                Poll::Pending => return self.spawn_text(account, head, body, text, responder),
            }
        }
        drop(body);
        self.on_text(account, &head, &text, responder);
    }

    /// Gives a body that comes in pieces a task of its own.
    fn spawn_text(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: Head,
        body: RecvStream,
        text: Vec<u8>,
        mut responder: gateway::Responder,
    ) {
        let Some(upload) = Upload::begin(&self.places, &account.upload_bytes) else {
            return responder.refuse(&overloaded("too many unfinished requests"));
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            match shard.collect_text(&account, &head, body, text, upload, &mut responder).await {
                Some(Ok((text, turn))) => {
                    responder.turn = turn;
                    shard.on_text(&account, &head, &text, responder);
                }
                Some(Err(status)) => responder.refuse(&status),
                // The client gave up: the stream ends with the responder.
                None => {}
            }
        })
        .detach();
    }

    /// Collects the rest of a text. None: the stream is gone.
    async fn collect_text(
        &self,
        account: &Rc<Account>,
        head: &Head,
        mut body: RecvStream,
        mut text: Vec<u8>,
        mut upload: Upload,
        responder: &mut gateway::Responder,
    ) -> Option<Result<(Vec<u8>, Option<Turn>), Status>> {
        let timer = head.client_deadline_ms.map(|deadline_ms| self.set_timer(deadline_ms));
        let mut turn: Option<Turn> = None;
        let mut grown = text.len();
        loop {
            body.flow_control().release_capacity(grown).ok()?;
            if !upload.grow(grown) {
                return Some(Err(overloaded("too many unfinished request bytes")));
            }
            if text_bytes_max(self.receive_bytes_max) < text.len() {
                return Some(Err(text_too_large(text.len() as u64, self.receive_bytes_max)));
            }
            if turn.is_none() && LARGE_BYTES_MIN < text.len() {
                // How long it will be is not told.
                let longest = text_bytes_max(self.receive_bytes_max);
                turn = Turn::begin(&self.turns, &account.waiting_uploads, longest);
                if turn.is_none() {
                    return Some(Err(overloaded("too many large requests wait on this connection")));
                }
            }
            let piece = poll_fn(|cx| {
                if timer.as_ref().is_some_and(|timer| timer.poll_fired(cx).is_ready()) {
                    return Poll::Ready(Err(status::CONTEXT_DEADLINE_EXCEEDED));
                }
                if upload.poll_refused(cx).is_ready() {
                    return Poll::Ready(Err(overloaded("unfinished request has not moved for too long")));
                }
                if turn.as_ref().is_some_and(|turn| turn.poll_comes(cx).is_pending()) {
                    return responder.poll_gone(cx).map(|()| Ok(None));
                }
                body.poll_data(cx).map(|piece| Ok(Some(piece)))
            });
            match piece.await {
                Ok(Some(Some(Ok(piece)))) => {
                    text.extend_from_slice(&piece);
                    grown = piece.len();
                }
                Ok(Some(None)) => return Some(Ok((text, turn))),
                Ok(Some(Some(Err(_))) | None) => return None,
                Err(status) => return Some(Err(status)),
            }
        }
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
