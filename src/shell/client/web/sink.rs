//! What a transport gives for the answer to one request. One variant for each transport.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::part::Part;
use crate::rpc::http1::answer::{begin_chunk, end_chunk};
use crate::rpc::web::AnswerHead;
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::http1::exchange::Exchange;
use crate::shell::client::http1::websocket;
use crate::shell::client::http2;
use crate::shell::client::responder::Gone;

/// How the messages of a stream are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) enum MessageFraming {
    /// A line each.
    Lines,
    /// The same, each in a chunk of its own.
    Chunks,
    /// A text message of a WebSocket each, without the end of the line.
    WebSocket,
}

impl MessageFraming {
    /// Begins a part of a message. Returns where.
    pub(in crate::shell::client) fn begin(self, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        if self == Self::Chunks {
            begin_chunk(out);
        }
        start
    }

    /// Ends the part that began at `start`.
    pub(in crate::shell::client) fn end(self, out: &mut Vec<u8>, start: usize, part: Part) {
        match self {
            Self::Lines => {}
            Self::Chunks => end_chunk(out, start),
            Self::WebSocket => websocket::frame_text(out, start, part),
        }
    }
}

/// What a request is answered on. Dropped without an answer, the request is given up.
pub(in crate::shell::client) enum Sink {
    Http1(Exchange),
    Http2(http2::Exchange),
}

impl Sink {
    /// Answers with a head and the body that `write` appends.
    pub(in crate::shell::client) fn answer(
        self,
        account: &Rc<Account>,
        head: AnswerHead,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        match self {
            Self::Http1(exchange) => exchange.answer(account, head, write),
            Self::Http2(exchange) => exchange.answer(&head, write),
        }
    }

    /// Answers with a body that is there.
    pub(super) fn answer_bytes(self, account: &Rc<Account>, head: AnswerHead, body: &[u8]) {
        self.answer(account, head, |out| out.extend_from_slice(body));
    }

    /// Begins an answer of any number of messages. None: the client has left.
    pub(in crate::shell::client) fn open(self, head: AnswerHead) -> Option<SinkStream> {
        match self {
            Self::Http1(exchange) => exchange.open(head).then_some(SinkStream::Http1(exchange)),
            Self::Http2(exchange) => exchange.open(&head).map(SinkStream::Http2),
        }
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(in crate::shell::client) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(exchange) => exchange.poll_gone(cx),
            Self::Http2(exchange) => exchange.poll_gone(cx),
        }
    }
}

/// An answer that has begun.
pub(in crate::shell::client) enum SinkStream {
    Http1(Exchange),
    Http2(http2::Outgoing),
}

impl SinkStream {
    /// How its messages are framed.
    pub(in crate::shell::client) fn framing(&self) -> MessageFraming {
        match self {
            Self::Http1(exchange) => exchange.framing(),
            Self::Http2(_) => MessageFraming::Lines,
        }
    }

    /// Sends a piece, of whole framed messages or of parts of them.
    pub(in crate::shell::client) fn send(&self, body: Body) -> Result<(), Gone> {
        match self {
            Self::Http1(exchange) => exchange.send(body),
            Self::Http2(outgoing) => outgoing.send(body),
        }
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(in crate::shell::client) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(exchange) => exchange.poll_gone(cx),
            Self::Http2(exchange) => exchange.poll_gone(cx),
        }
    }

    /// Ends the answer well, behind `last`, which is framed.
    pub(in crate::shell::client) fn end(self, last: Vec<u8>) {
        match self {
            Self::Http1(exchange) => exchange.end(Bytes::from(last)),
            Self::Http2(outgoing) => outgoing.end(last),
        }
    }

    /// Ends it so that the client sees that something is missing.
    pub(in crate::shell::client) fn cut(self) {
        match self {
            Self::Http1(exchange) => drop(exchange),
            Self::Http2(outgoing) => outgoing.cut(),
        }
    }
}
