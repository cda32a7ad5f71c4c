//! Calls that come as JSON.
//!
//! Compatibility: etcd's gateway. Headers that begin with `Grpc-Metadata-` are the call's metadata, and
//! `Grpc-Timeout` is its deadline. The answer of a call with one is its message; a call with many answers has a
//! line for each, and an error behind the first ends the lines.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::lines::{AnswerStream, write_parts};
use super::sink::Sink;
use crate::rpc::api_version::ApiVersion;
use crate::rpc::framing::{FramingError, parse_timeout};
use crate::rpc::method::CallShape;
use crate::rpc::web::{self, AnswerHead, Ask, JSON};
use crate::rpc::{Code, Method, Status, json, not_older, status};
use crate::shell::client::call::Head;
use crate::shell::client::call::account::Account;
use crate::shell::client::call::identity;
use crate::shell::client::call::turns::Turn;
use crate::shell::client::http1::websocket;
use crate::shell::client::tally::{Tallies, Tally};
use crate::shell::client::{Backend, ClientShard, responder};

const NS_PER_MS: u64 = 1_000_000;

/// Text besides the base64 of a message's bytes.
const TEXT_OVERHEAD_BYTES: usize = 64 << 10;

/// How long the text of a message of at most so many bytes may be. Base64 makes four of three.
pub(in crate::shell::client) fn text_bytes_max(receive_bytes_max: u32) -> usize {
    receive_bytes_max as usize * 2 + TEXT_OVERHEAD_BYTES
}

/// A text has, or will have, too many bytes.
pub(in crate::shell::client) fn text_too_large(bytes: u64, receive_bytes_max: u32) -> Status {
    let max = text_bytes_max(receive_bytes_max) as u64;
    let error = FramingError::TooLarge { announced: bytes, max };
    Status { code: Code::ResourceExhausted, message: error.to_string().into() }
}

/// The messages of a method that has a path in the gateway.
pub(in crate::shell::client) fn messages_of(method: Method) -> json::Call {
    json::Call::of_path(method.row().path).expect("the build knows the messages of every method")
}

/// Reads what the headers say about a call.
///
/// # Errors
/// The call's final answer.
pub(in crate::shell::client) fn read_head(
    ask: &Ask<'_>,
    method: Method,
    now_ms: u64,
    asks_rights: bool,
    account: &Account,
) -> Result<Head, Status> {
    let client_deadline_ms = match ask.header("grpc-timeout") {
        None => None,
        Some(text) => {
            let timeout_ns = parse_timeout(text).map_err(|why| Status {
                code: Code::InvalidArgument,
                message: format!("invalid grpc-timeout: {why}").into(),
            })?;
            match timeout_ns {
                // None at all, to the gateway of etcd.
                0 => None,
                // A call that has no time left at this clock's step is not begun.
                1..NS_PER_MS => return Err(status::CONTEXT_DEADLINE_EXCEEDED),
                _ => Some(now_ms.saturating_add(timeout_ns.div_ceil(NS_PER_MS))),
            }
        }
    };
    // Refuses what this version does not have.
    let method = Method::find(method.row().path)?;
    let api_version = ApiVersion::parse(ask.metadata("client-api-version").unwrap_or_default());
    let needs_leader = ask.metadata("hasleader") == Some(b"true");
    let shown = || ask.metadata("token").or_else(|| ask.header("authorization"));
    let shown = || shown().or_else(|| websocket::token(ask));
    let shown = if asks_rights { shown() } else { None };
    let shown = shown.map(|shown| identity::token(shown, account));
    let not_older_than = not_older::parse(ask.metadata(not_older::NOT_OLDER_THAN))?;
    // Proxies pass calls on as gRPC.
    let hops = 0;
    Ok(Head { method, client_deadline_ms, needs_leader, api_version, shown, not_older_than, hops })
}

/// The bytes of the message that a text begins with.
///
/// # Errors
/// The call's final answer.
pub(in crate::shell::client) fn read_message(
    request: &'static json::Message,
    text: &[u8],
    receive_bytes_max: u32,
) -> Result<Bytes, Status> {
    let mut bytes = Vec::with_capacity(text.len());
    if let Err(error) = json::read(request, text, &mut bytes) {
        return Err(Status { code: Code::InvalidArgument, message: error.to_string().into() });
    }
    if (receive_bytes_max as usize) < bytes.len() {
        let error = FramingError::TooLarge { announced: bytes.len() as u64, max: receive_bytes_max.into() };
        return Err(Status { code: Code::ResourceExhausted, message: error.to_string().into() });
    }
    Ok(bytes.into())
}

impl<B: Backend> ClientShard<B> {
    /// A call with one request has arrived, the request's text with it.
    pub(in crate::shell::client) fn on_text(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        text: &[u8],
        responder: Responder,
    ) {
        match read_message(responder.call.request, text, self.receive_bytes_max) {
            Ok(payload) => {
                responder.tally.received(payload.len());
                self.on_call(account, head, payload, responder::Responder::Web(responder));
            }
            Err(status) => responder.refuse(&status),
        }
    }
}

/// What a call is answered on.
pub(in crate::shell::client) struct Responder {
    sink: Sink,
    account: Rc<Account>,
    call: json::Call,
    has_one_answer: bool,
    /// That of a large request, until it is answered.
    pub(in crate::shell::client) turn: Option<Turn>,
    pub(in crate::shell::client) tally: Tally,
}

impl Responder {
    pub(in crate::shell::client) fn new(
        sink: Sink,
        account: &Rc<Account>,
        method: Method,
        tallies: &Rc<Tallies>,
    ) -> Self {
        // A client of the gateway says no version.
        let tally = Tally::begin(tallies, method, ApiVersion::Old);
        let has_one_answer = method.row().call == CallShape::Unary;
        Self {
            sink,
            account: Rc::clone(account),
            call: messages_of(method),
            has_one_answer,
            turn: None,
            tally,
        }
    }

    /// Answers with one message made of `head` and `tail`.
    pub(in crate::shell::client) fn answer(
        self,
        account: &Rc<Account>,
        head: impl FnOnce(&mut Vec<u8>),
        tail: &[u8],
    ) {
        let mut first = Vec::new();
        head(&mut first);
        self.tally.sent(1, first.len() + tail.len());
        self.tally.end(Code::Ok);
        let answer = self.call.answer;
        self.sink.answer(account, AnswerHead::of_call(), |out| write_parts(answer, [&first, tail], out));
    }

    /// Answers with a status alone, which is not OK.
    pub(in crate::shell::client) fn refuse(self, status: &Status) {
        let head = AnswerHead::new(web::status_of(status.code), JSON);
        let has_one_answer = self.has_one_answer;
        self.tally.end(status.code);
        self.sink.answer(&self.account, head, |out| {
            if has_one_answer { web::put_error(status, out) } else { web::put_stream_error(status, out) }
        });
    }

    /// Begins an answer of several messages. None: the client has left.
    pub(in crate::shell::client) fn open(self) -> Option<AnswerStream> {
        let stream = self.sink.open(AnswerHead::of_call())?;
        Some(AnswerStream::new(stream, self.tally, self.call.answer))
    }

    /// Whether the client has left.
    pub(in crate::shell::client) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sink.poll_gone(cx)
    }
}
