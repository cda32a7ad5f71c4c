//! Answers as gRPC: response headers, framed messages, trailers; or trailers alone.
//!
//! An answer that is whole is one buffer when it is small; a large body stays where the store wrote it and
//! goes out as a second piece. Messages of a stream are framed one behind the other into one buffer, which
//! goes to `h2` as one piece when they are sent; large parts of them are not copied and are pieces that all
//! who send them share.
//!
//! A send that fails has lost its client, who cannot be told; `h2` forgets the stream by itself.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response as HttpResponse, StatusCode};

use super::gzip;
use crate::rpc::framing::{PREFIX_BYTES, percent_encode, put_prefix};
use crate::rpc::{Code, Status};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::end::Ended;
use crate::shell::client::call::header::HEADER_BYTES_MAX;
use crate::shell::client::call::turns::Turn;
use crate::shell::client::responder::Gone;
use crate::shell::client::tally::Tally;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// From here on a body is sent as a piece of its own: a copy would cost more than the second frame.
const BODY_APART_BYTES: usize = 8 * 1024;

/// A buffer of framed messages that has grown so large is sent as it is and the next one begun.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// gRPC-Go's bound on a message.
const MESSAGE_BYTES_MAX: u32 = i32::MAX.unsigned_abs();

/// Response headers and trailers of the ordinary case, copied instead of built.
pub(in crate::shell::client) struct Templates {
    headers: HeaderMap,
    ok: HeaderMap,
}

impl Templates {
    pub(in crate::shell::client) fn new() -> Rc<Self> {
        let mut headers = HeaderMap::with_capacity(1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let mut ok = HeaderMap::with_capacity(1);
        ok.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Rc::new(Self { headers, ok })
    }

    fn head(&self, gzip: bool) -> HttpResponse<()> {
        let mut head = HttpResponse::new(());
        *head.headers_mut() = self.headers.clone();
        if gzip {
            head.headers_mut().insert(GRPC_ENCODING, HeaderValue::from_static("gzip"));
        }
        head
    }
}

/// What a call is answered on.
pub(in crate::shell::client) struct Responder {
    stream: SendResponse<Body>,
    templates: Rc<Templates>,
    /// A whole answer is compressed, since its request may have been.
    pub(super) gzip: bool,
    /// Of a large request; it ends with the answer.
    pub(super) turn: Option<Turn>,
    /// None: the method is not known.
    pub(super) tally: Option<Tally>,
}

impl Responder {
    pub(super) fn new(stream: SendResponse<Body>, templates: &Rc<Templates>) -> Self {
        Self { stream, templates: Rc::clone(templates), gzip: false, turn: None, tally: None }
    }

    /// Answers with one message made of `head` and `tail`.
    pub(in crate::shell::client) fn answer(
        mut self,
        account: &Rc<Account>,
        head: impl FnOnce(&mut Vec<u8>),
        tail: Vec<u8>,
    ) {
        let gzip = self.gzip;
        let apart = BODY_APART_BYTES <= tail.len() && !gzip;
        let room = PREFIX_BYTES + HEADER_BYTES_MAX + if apart { 0 } else { tail.len() };
        let mut first = Vec::with_capacity(room);
        first.resize(PREFIX_BYTES, 0);
        head(&mut first);
        let mut length = first.len() - PREFIX_BYTES + tail.len();
        if gzip {
            let packed = gzip::deflate(&[&first[PREFIX_BYTES..], &tail]);
            length = packed.len();
            first.truncate(PREFIX_BYTES);
            first.extend_from_slice(&packed);
        } else if !apart {
            first.extend_from_slice(&tail);
        }
        let Ok(announced) = u32::try_from(length) else {
            return self.refuse(&Status::sent_too_large(length as u64, MESSAGE_BYTES_MAX.into()));
        };
        put_prefix(&mut &mut first[..PREFIX_BYTES], gzip, announced);
        if let Some(tally) = &self.tally {
            tally.sent(1, length);
        }
        let Ok(mut stream) = self.stream.send_response(self.templates.head(gzip), false) else { return };
        let mut sent = stream.send_data(Body::new(account, Bytes::from(first)), false);
        if apart && sent.is_ok() {
            sent = stream.send_data(Body::new(account, Bytes::from(tail)), false);
        }
        if sent.is_ok() {
            drop(stream.send_trailers(self.templates.ok.clone()));
            if let Some(tally) = self.tally {
                tally.end(Code::Ok);
            }
        }
    }

    /// Answers with a status alone, which is response headers and trailers in one.
    pub(in crate::shell::client) fn refuse(self, status: &Status) {
        self.refuse_http(StatusCode::OK, status);
    }

    /// The same for a request that is not gRPC's: with an HTTP status that says so too.
    pub(super) fn refuse_http(mut self, http: StatusCode, status: &Status) {
        debug_assert!(status.code != Code::Ok, "a call that went well answers with a message");
        if let Some(tally) = self.tally.take() {
            tally.end(status.code);
        }
        let mut head = HttpResponse::new(());
        *head.status_mut() = http;
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        put_status(&mut headers, status);
        *head.headers_mut() = headers;
        drop(self.stream.send_response(head, true));
    }

    /// Sends the response headers of an answer of several messages. None: the client has left.
    pub(in crate::shell::client) fn open(mut self) -> Option<AnswerStream> {
        let stream = self.stream.send_response(self.templates.head(false), false).ok()?;
        let (templates, tally) = (self.templates, self.tally);
        Some(AnswerStream { stream, templates, tally, framed: Framed::default() })
    }

    /// Whether the client has left.
    pub(in crate::shell::client) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }

    /// The client has left: says so to `h2`, which forgets the stream.
    pub(in crate::shell::client) fn abandon(mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

/// An answer of several messages.
pub(in crate::shell::client) struct AnswerStream {
    stream: SendStream<Body>,
    templates: Rc<Templates>,
    tally: Option<Tally>,
    pub(in crate::shell::client) framed: Framed,
}

impl AnswerStream {
    /// Sends the messages that were gathered. `body` counts each piece.
    pub(in crate::shell::client) fn send(&mut self, mut body: impl FnMut(Bytes) -> Body) -> Result<(), Gone> {
        let mut sent = Ok(());
        if let Some(tally) = &self.tally {
            tally.sent(self.framed.take_messages(), self.framed.len());
        }
        // All are taken, whatever becomes of the first: `body` counts them.
        for piece in self.framed.take() {
            if self.stream.send_data(body(piece), false).is_err() {
                sent = Err(Gone);
            }
        }
        sent
    }

    /// Sends the prefix and the head of a message of which `body_bytes` follow by `send_piece`.
    pub(in crate::shell::client) fn begin_in_pieces(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        body_bytes: u64,
        body: impl FnOnce(Bytes) -> Body,
    ) -> Result<(), Ended> {
        let mut first = vec![0; PREFIX_BYTES];
        head(&mut first);
        let message_bytes = (first.len() - PREFIX_BYTES) as u64 + body_bytes;
        let announced = match u32::try_from(message_bytes) {
            Ok(announced) if announced <= MESSAGE_BYTES_MAX => announced,
            _ => return Err(Status::sent_too_large(message_bytes, MESSAGE_BYTES_MAX.into()).into()),
        };
        put_prefix(&mut &mut first[..PREFIX_BYTES], false, announced);
        if let Some(tally) = &self.tally {
            tally.sent(1, announced as usize);
        }
        self.stream.send_data(body(first.into()), false).map_err(|_| Ended::Gone)
    }

    /// Sends the next part of a message that has begun.
    pub(in crate::shell::client) fn send_piece(&mut self, piece: Body) -> Result<(), Gone> {
        self.stream.send_data(piece, false).map_err(|_| Gone)
    }

    /// Whether the client has left.
    pub(in crate::shell::client) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }

    /// Ends the answer, behind what was sent.
    pub(in crate::shell::client) fn end(mut self, end: Result<(), Ended>) {
        if let Some(tally) = self.tally.take() {
            tally.end_stream(&end);
        }
        let trailers = match end {
            Ok(()) => self.templates.ok.clone(),
            Err(Ended::Status(status)) => {
                let mut trailers = HeaderMap::with_capacity(2);
                put_status(&mut trailers, &status);
                trailers
            }
            // If `h2` knows already, this does nothing.
            Err(Ended::Gone) => return self.stream.send_reset(Reason::CANCEL),
            // Clients of etcd take `Internal` as a reason to watch on from where they were. `Canceled` and
            // `ResourceExhausted` would end their watches.
            Err(Ended::Crowded) => return self.stream.send_reset(Reason::INTERNAL_ERROR),
        };
        drop(self.stream.send_trailers(trailers));
    }
}

/// Framed messages that `h2` does not have yet.
#[derive(Default)]
pub(in crate::shell::client) struct Framed {
    /// What is written of the messages before `buffer`.
    pieces: Vec<Bytes>,
    buffer: Vec<u8>,
    /// Bytes of `pieces`.
    sealed_bytes: usize,
    /// Where among all bytes the message that was begun last begins and ends.
    message: (usize, usize),
    /// Messages gathered since the last were taken.
    messages: u64,
}

impl Framed {
    /// Bytes gathered.
    pub(in crate::shell::client) fn len(&self) -> usize {
        self.sealed_bytes + self.buffer.len()
    }

    /// Makes room for a message whose header and `bytes` behind it will be copied.
    pub(in crate::shell::client) fn make_room(&mut self, bytes: usize) {
        if BUFFER_BYTES_MAX <= self.buffer.len() {
            self.seal();
        }
        self.buffer.reserve(PREFIX_BYTES + HEADER_BYTES_MAX + bytes.min(BUFFER_BYTES_MAX));
    }

    /// Begins a message with what `head` writes, of which `rest_bytes` follow.
    ///
    /// # Errors
    /// How large the message would be and how large it may be. Nothing is gathered.
    pub(in crate::shell::client) fn begin(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        rest_bytes: usize,
    ) -> Result<(), Status> {
        if BUFFER_BYTES_MAX <= self.buffer.len() {
            self.seal();
        }
        let start = self.buffer.len();
        self.buffer.resize(start + PREFIX_BYTES, 0);
        head(&mut self.buffer);
        let message_bytes = self.buffer.len() - start - PREFIX_BYTES + rest_bytes;
        let announced = match u32::try_from(message_bytes) {
            Ok(announced) if announced <= MESSAGE_BYTES_MAX => announced,
            _ => {
                self.buffer.truncate(start);
                return Err(Status::sent_too_large(message_bytes as u64, MESSAGE_BYTES_MAX.into()));
            }
        };
        put_prefix(&mut &mut self.buffer[start..start + PREFIX_BYTES], false, announced);
        let begin = self.sealed_bytes + start;
        self.message = (begin, begin + PREFIX_BYTES + message_bytes);
        Ok(())
    }

    /// Where the rest of the message is written.
    pub(in crate::shell::client) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends a large part of the message, which is not copied.
    pub(in crate::shell::client) fn share(&mut self, part: Bytes) {
        self.seal();
        self.sealed_bytes += part.len();
        self.pieces.push(part);
    }

    /// Ends the message. Returns what it will take of the wire.
    pub(in crate::shell::client) fn end(&mut self) -> usize {
        let (begin, end) = self.message;
        assert_eq!(self.len(), end, "the length was announced");
        self.messages += 1;
        end - begin
    }

    /// How many messages were gathered since this was asked last.
    fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    /// Ends the buffer.
    fn seal(&mut self) {
        if !self.buffer.is_empty() {
            self.sealed_bytes += self.buffer.len();
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }

    /// Pieces that would be sent now.
    pub(in crate::shell::client) fn pieces_count(&self) -> usize {
        self.pieces.len() + usize::from(!self.buffer.is_empty())
    }

    /// Takes all that is gathered.
    pub(in crate::shell::client) fn take(&mut self) -> impl Iterator<Item = Bytes> {
        self.seal();
        self.sealed_bytes = 0;
        self.pieces.drain(..)
    }
}

fn put_status(headers: &mut HeaderMap, status: &Status) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status.code.number())));
    if !status.message.is_empty() {
        let text = HeaderValue::try_from(percent_encode(&status.message));
        headers.insert(GRPC_MESSAGE, text.expect("percent-encoded text is printable ASCII"));
    }
}
