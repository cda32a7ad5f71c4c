//! Messages of a stream as JSON: gathered as bytes of the message, written as text when each is whole.
//!
//! Large parts are copied here, unlike in gRPC's answers: they are written anew anyway.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::part::Part;
use super::sink::{MessageFraming, SinkStream};
use crate::rpc::{Status, json, web};
use crate::shell::client::call::body::Body;
use crate::shell::client::call::end::Ended;
use crate::shell::client::responder::Gone;
use crate::shell::client::tally::Tally;

/// A buffer of text that has grown so large is sent as it is and the next one begun.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// gRPC-Go's bound on a message.
const MESSAGE_BYTES_MAX: usize = i32::MAX.unsigned_abs() as usize;

/// An answer of several messages.
pub(in crate::shell::client) struct AnswerStream {
    stream: SinkStream,
    tally: Tally,
    pub(in crate::shell::client) lines: Lines,
    /// The one message that comes in pieces.
    pieces: Option<json::Writer>,
}

impl AnswerStream {
    pub(super) fn new(stream: SinkStream, tally: Tally, answer: &'static json::Message) -> Self {
        let lines = Lines::new(stream.framing(), answer);
        Self { stream, tally, lines, pieces: None }
    }

    /// Sends what was gathered. `body` counts each piece.
    pub(in crate::shell::client) fn send(&mut self, mut body: impl FnMut(Bytes) -> Body) -> Result<(), Gone> {
        let mut sent = Ok(());
        let (messages, bytes) = std::mem::take(&mut self.lines.gathered);
        self.tally.sent(messages, bytes);
        // All are taken, whatever becomes of the first: `body` counts them.
        for piece in self.lines.take() {
            sent = sent.and(self.stream.send(body(piece)));
        }
        sent
    }

    /// Sends the beginning of the one message: what `head` writes.
    ///
    /// # Errors
    /// The client has left, or no message may be so large.
    pub(in crate::shell::client) fn begin_in_pieces(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        body_bytes: u64,
        body: impl FnOnce(Bytes) -> Body,
    ) -> Result<(), Ended> {
        let mut first = Vec::new();
        head(&mut first);
        let message_bytes = first.len() as u64 + body_bytes;
        let framing = self.stream.framing();
        if MESSAGE_BYTES_MAX as u64 <= message_bytes {
            return Err(Status::sent_too_large(message_bytes, MESSAGE_BYTES_MAX as u64).into());
        }
        self.tally.sent(1, usize::try_from(message_bytes).unwrap_or(usize::MAX));
        let mut text = Vec::new();
        let start = framing.begin(&mut text);
        let mut writer = json::Writer::begin(self.lines.answer, &mut text);
        writer.put(&first, &mut text);
        framing.end(&mut text, start, Part::First);
        self.pieces = Some(writer);
        Ok(self.stream.send(body(text.into()))?)
    }

    /// Sends the next part of the message that has begun.
    pub(in crate::shell::client) fn send_piece(
        &mut self,
        piece: &[u8],
        body: impl FnOnce(Bytes) -> Body,
    ) -> Result<(), Gone> {
        let writer = self.pieces.as_mut().expect("a message has begun");
        let framing = self.stream.framing();
        let mut text = Vec::with_capacity(piece.len() * 3 / 2 + 128);
        let start = framing.begin(&mut text);
        let before = text.len();
        writer.put(piece, &mut text);
        // A chunk without data would end the answer. What the piece had is held for the next one.
        if text.len() == before {
            text.clear();
        } else {
            framing.end(&mut text, start, Part::Middle);
        }
        self.stream.send(body(text.into()))
    }

    /// Whether the client has left.
    pub(in crate::shell::client) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_gone(cx)
    }

    /// Ends the answer, behind what was sent.
    pub(in crate::shell::client) fn end(self, end: Result<(), Ended>) {
        self.tally.end_stream(&end);
        match end {
            Ok(()) => {
                let mut last = Vec::new();
                if let Some(writer) = self.pieces {
                    let framing = self.stream.framing();
                    let start = framing.begin(&mut last);
                    writer.end(&mut last);
                    framing.end(&mut last, start, Part::Last);
                }
                self.stream.end(last);
            }
            // No status can be told inside a message: it is broken off.
            Err(Ended::Status(_)) if self.pieces.is_some() => self.stream.cut(),
            Err(Ended::Status(status)) => {
                let (framing, mut last) = (self.stream.framing(), Vec::new());
                let start = framing.begin(&mut last);
                web::put_stream_error(&status, &mut last);
                framing.end(&mut last, start, Part::Whole);
                self.stream.end(last);
            }
            Err(Ended::Gone | Ended::Crowded) => self.stream.cut(),
        }
    }
}

/// Messages that the transport does not have yet.
pub(in crate::shell::client) struct Lines {
    framing: MessageFraming,
    answer: &'static json::Message,
    /// The message that was begun, as bytes.
    message: Vec<u8>,
    /// What it was announced to take.
    announced: usize,
    /// What is written of the messages before `buffer`.
    pieces: Vec<Bytes>,
    buffer: Vec<u8>,
    /// Bytes of `pieces`.
    sealed_bytes: usize,
    /// Messages since the last were taken, and their bytes before they became text.
    gathered: (u64, usize),
}

impl Lines {
    fn new(framing: MessageFraming, answer: &'static json::Message) -> Self {
        Self {
            framing,
            answer,
            message: Vec::new(),
            announced: 0,
            pieces: Vec::new(),
            buffer: Vec::new(),
            sealed_bytes: 0,
            gathered: (0, 0),
        }
    }

    /// Bytes gathered.
    pub(in crate::shell::client) fn len(&self) -> usize {
        self.sealed_bytes + self.buffer.len()
    }

    /// Pieces that would be sent now.
    pub(in crate::shell::client) fn pieces_count(&self) -> usize {
        self.pieces.len() + usize::from(!self.buffer.is_empty())
    }

    /// Begins a message with what `head` writes, of which `rest_bytes` follow.
    ///
    /// # Errors
    /// It would be too large. Nothing is gathered.
    pub(in crate::shell::client) fn begin(
        &mut self,
        head: impl FnOnce(&mut Vec<u8>),
        rest_bytes: usize,
    ) -> Result<(), Status> {
        self.message.clear();
        head(&mut self.message);
        self.announced = self.message.len() + rest_bytes;
        if MESSAGE_BYTES_MAX < self.announced {
            return Err(Status::sent_too_large(self.announced as u64, MESSAGE_BYTES_MAX as u64));
        }
        Ok(())
    }

    /// Where the rest of the message is written.
    pub(in crate::shell::client) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.message
    }

    /// Appends a part of the message.
    pub(in crate::shell::client) fn share(&mut self, part: &[u8]) {
        self.message.extend_from_slice(part);
    }

    /// Ends the message. Returns what its text will take.
    pub(in crate::shell::client) fn end(&mut self) -> usize {
        assert_eq!(self.message.len(), self.announced, "the length was announced");
        self.gathered.0 += 1;
        self.gathered.1 += self.announced;
        if BUFFER_BYTES_MAX <= self.buffer.len() {
            self.seal();
        }
        let before = self.len();
        let start = self.framing.begin(&mut self.buffer);
        self.buffer.extend_from_slice(b"{\"result\":");
        json::write(self.answer, &self.message, &mut self.buffer);
        self.buffer.extend_from_slice(b"}\n");
        self.framing.end(&mut self.buffer, start, Part::Whole);
        if BUFFER_BYTES_MAX <= self.message.capacity() {
            self.message = Vec::new();
        }
        self.len() - before
    }

    /// Ends the buffer.
    fn seal(&mut self) {
        if !self.buffer.is_empty() {
            self.sealed_bytes += self.buffer.len();
            self.pieces.push(std::mem::take(&mut self.buffer).into());
        }
    }

    /// Takes all that is gathered.
    fn take(&mut self) -> impl Iterator<Item = Bytes> {
        self.seal();
        self.sealed_bytes = 0;
        self.pieces.drain(..)
    }
}

/// Writes a message that is in two parts, each of whole fields.
pub(super) fn write_parts(answer: &'static json::Message, parts: [&[u8]; 2], out: &mut Vec<u8>) {
    // Base64 makes four of three; names and brackets are few beside large values.
    out.reserve(parts.iter().map(|part| part.len()).sum::<usize>() * 3 / 2 + 128);
    let mut writer = json::Writer::begin(answer, out);
    for part in parts {
        writer.put(part, out);
    }
    writer.end(out);
}
