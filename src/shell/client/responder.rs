//! What a front end provides: a call's requests, and what it is answered on.
//!
//! A call knows no transport. It takes its request, or one after the other if they are a stream, and gives
//! its answer whole or in pieces; how these look on the wire, and how a status is said there, is the front
//! end's business. The types here are the only place that names the front ends, one variant each.
//!
//! ```text
//! front end ─► ClientShard::on_call(head, request, Responder)
//!           ─► ClientShard::on_stream(head, Requests, Responder)
//! front end ◄─ Responder::answer(one message) │ refuse(status)
//!           ◄─ Responder::open() ─► AnswerStream: messages, send, …, end(status)
//!                                 │ AnswerStream: begin_in_pieces, send_piece, …, end(status)
//! ```
//!
//! The answer of a call that has one comes in either of two ways. A short one comes whole, by `answer`. A long
//! one (`call::pieces`: a list of many keys, a large value) comes as one message in pieces: `begin_in_pieces`
//! tells its length and its head before a byte of its body is there, and the pieces are cut anywhere, also
//! inside a field. If the store has to give it up half way, `end` gets a status though the message is not
//! complete; a front end then has to break the message off so that no client takes it for whole. A front end
//! that needs a message whole collects the pieces, and counts them as it would have counted the whole.
//!
//! Backpressure: what is sent is a `Body`, which counts its bytes until the front end has let go of them.
//! Whoever wants to go on only then asks its `Signal` or its level.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::call::account::Account;
use super::call::body::Body;
use super::call::end::Ended;
use super::grpc::bidi::Incoming;
use super::grpc::response;
use super::signal::Signal;
use super::web::gateway;
use super::web::incoming;
use super::web::lines;
use crate::rpc::Status;
use crate::types::Slice;

/// The client has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// What a call is answered on. Dropped without an answer, the call is given up.
pub(super) enum Responder {
    Grpc(response::Responder),
    Web(gateway::Responder),
}

impl Responder {
    /// Answers with one message: what `head` writes, and `body` behind it.
    pub(super) fn answer(self, account: &Rc<Account>, head: impl FnOnce(&mut Vec<u8>), body: Vec<u8>) {
        match self {
            Self::Grpc(responder) => responder.answer(account, head, body),
            Self::Web(responder) => responder.answer(account, head, &body),
        }
    }

    /// Answers with a status alone, which is not OK.
    pub(super) fn refuse(self, status: &Status) {
        match self {
            Self::Grpc(responder) => responder.refuse(status),
            Self::Web(responder) => responder.refuse(status),
        }
    }

    /// Begins an answer of any number of messages. None: the client has left.
    pub(super) fn open(self) -> Option<AnswerStream> {
        match self {
            Self::Grpc(responder) => responder.open().map(AnswerStream::Grpc),
            Self::Web(responder) => responder.open().map(Box::new).map(AnswerStream::Web),
        }
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Grpc(responder) => responder.poll_gone(cx),
            Self::Web(responder) => responder.poll_gone(cx),
        }
    }

    /// Ends without an answer what nobody waits for.
    pub(super) fn abandon(self) {
        match self {
            Self::Grpc(responder) => responder.abandon(),
            Self::Web(responder) => drop(responder),
        }
    }
}

/// An answer of any number of messages. They are gathered, and then sent together.
pub(super) enum AnswerStream {
    Grpc(response::AnswerStream),
    // In a box: it is large, and most streams are gRPC's.
    Web(Box<lines::AnswerStream>),
}

impl AnswerStream {
    /// Where messages are gathered.
    pub(super) fn messages(&mut self) -> Messages<'_> {
        match self {
            Self::Grpc(stream) => Messages::Grpc(&mut stream.framed),
            Self::Web(stream) => Messages::Web(&mut stream.lines),
        }
    }

    /// Sends what was gathered, in pieces of which `body` counts each.
    pub(super) fn send(&mut self, body: impl FnMut(Bytes) -> Body) -> Result<(), Gone> {
        match self {
            Self::Grpc(stream) => stream.send(body),
            Self::Web(stream) => stream.send(body),
        }
    }

    /// Makes ready to be sent what was gathered and is not, until the slice is spent. Returns how many counted bytes
    /// became how many.
    pub(super) fn convert(&mut self, slice: &mut Slice) -> (usize, usize) {
        match self {
            Self::Grpc(_) => (0, 0),
            Self::Web(stream) => stream.lines.convert(slice),
        }
    }

    /// Counted bytes of what `send` would leave here, since it is not ready.
    pub(super) fn waiting_bytes(&self) -> usize {
        match self {
            Self::Grpc(_) => 0,
            Self::Web(stream) => stream.lines.waiting_bytes(),
        }
    }

    /// Sends one message: what `head` writes, and `body` behind it. The signal fires when it has left.
    ///
    /// # Errors
    /// The client has left, or no message may be so large.
    pub(super) fn send_message(
        &mut self,
        account: &Rc<Account>,
        head: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
    ) -> Result<Rc<Signal>, Ended> {
        let mut messages = self.messages();
        messages.make_room(body.len());
        messages.begin(head, body.len())?;
        messages.rest().extend_from_slice(body);
        messages.end();
        Ok(self.send_gathered(account)?)
    }

    /// Begins an answer of one message whose body comes in pieces: what `head` writes, and `body_bytes` behind
    /// it, by `send_piece`. Nothing else is sent before it or behind it.
    ///
    /// # Errors
    /// The client has left, or no message may be so large.
    pub(super) fn begin_in_pieces(
        &mut self,
        account: &Rc<Account>,
        head: impl FnOnce(&mut Vec<u8>),
        body_bytes: u64,
    ) -> Result<(), Ended> {
        match self {
            Self::Grpc(stream) => stream.begin_in_pieces(head, body_bytes, |head| Body::new(account, head)),
            Self::Web(stream) => stream.begin_in_pieces(head, body_bytes, |head| Body::new(account, head)),
        }
    }

    /// Sends the next part of the body. The signal fires when it has left.
    pub(super) fn send_piece(&mut self, account: &Rc<Account>, piece: Bytes) -> Result<Rc<Signal>, Gone> {
        let has_left = Rc::new(Signal::default());
        match self {
            Self::Grpc(stream) => stream.send_piece(Body::with_signal(account, piece, &has_left))?,
            Self::Web(stream) => {
                stream.send_piece(&piece, |text| Body::with_signal(account, text, &has_left))?;
            }
        }
        Ok(has_left)
    }

    /// Sends what was gathered. The signal fires when the last of it has left.
    pub(super) fn send_gathered(&mut self, account: &Rc<Account>) -> Result<Rc<Signal>, Gone> {
        self.convert(&mut Slice::unbounded());
        let has_left = Rc::new(Signal::default());
        let mut pieces_left = self.messages().pieces_count();
        self.send(|piece| {
            pieces_left -= 1;
            match pieces_left {
                0 => Body::with_signal(account, piece, &has_left),
                _ => Body::new(account, piece),
            }
        })?;
        Ok(has_left)
    }

    /// Whether the client has left. If not, the task is woken when it does.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Grpc(stream) => stream.poll_gone(cx),
            Self::Web(stream) => stream.poll_gone(cx),
        }
    }

    /// Ends the answer: well, with a status behind what was sent, or without a word.
    pub(super) fn end(self, end: Result<(), Ended>) {
        match self {
            Self::Grpc(stream) => stream.end(end),
            Self::Web(stream) => stream.end(end),
        }
    }
}

/// Messages that the front end gathers.
pub(super) enum Messages<'a> {
    Grpc(&'a mut response::Framed),
    Web(&'a mut lines::Lines),
}

impl Messages<'_> {
    /// Bytes gathered, as the front end counts them.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Grpc(framed) => framed.len(),
            Self::Web(lines) => lines.len(),
        }
    }

    /// Pieces that would be sent now.
    pub(super) fn pieces_count(&self) -> usize {
        match self {
            Self::Grpc(framed) => framed.pieces_count(),
            Self::Web(lines) => lines.pieces_count(),
        }
    }

    /// Makes room for a message whose header and `bytes` behind it will be copied.
    pub(super) fn make_room(&mut self, bytes: usize) {
        match self {
            Self::Grpc(framed) => framed.make_room(bytes),
            Self::Web(lines) => lines.rest().reserve(bytes),
        }
    }

    /// Begins a message with what `head` writes. `rest_bytes` follow, by `rest` and `share`, then `end`.
    ///
    /// # Errors
    /// No message may be so large. Nothing is gathered.
    pub(super) fn begin(&mut self, head: impl FnOnce(&mut Vec<u8>), rest_bytes: usize) -> Result<(), Status> {
        match self {
            Self::Grpc(framed) => framed.begin(head, rest_bytes),
            Self::Web(lines) => lines.begin(head, rest_bytes),
        }
    }

    /// Where the rest of the message is written.
    pub(super) fn rest(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Grpc(framed) => framed.rest(),
            Self::Web(lines) => lines.rest(),
        }
    }

    /// Appends a part of the message that is too large to be copied.
    pub(super) fn share(&mut self, part: Bytes) {
        match self {
            Self::Grpc(framed) => framed.share(part),
            Self::Web(lines) => lines.share(part),
        }
    }

    /// Ends the message. Returns its bytes as the front end counts them.
    pub(super) fn end(&mut self) -> usize {
        match self {
            Self::Grpc(framed) => framed.end(),
            Self::Web(lines) => lines.end(),
        }
    }
}

/// What a stream of requests brings next.
pub(super) enum Request {
    /// One request message.
    Message(Bytes),
    /// The client will send no more; it may still read.
    HalfClosed,
    /// The client has left.
    Gone,
}

/// The requests of a call that has any number of them.
pub(super) enum Requests {
    Grpc(Incoming),
    Web(incoming::Incoming),
}

impl Requests {
    /// The next request. An error is the call's final status.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Request, Status>> {
        match self {
            Self::Grpc(incoming) => incoming.poll_next(cx),
            Self::Web(incoming) => incoming.poll_next(cx),
        }
    }

    /// Takes what has arrived out of the transport while no request may be taken.
    pub(super) fn absorb(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Grpc(incoming) => incoming.absorb(cx),
            // Its transport puts bytes in whether or not they may be taken, as far as there is room.
            Self::Web(_) => {}
        }
    }
}
