//! Messages of a stream as JSON: gathered as bytes of the message, written as text when each is whole.
//!
//! Large parts are written anew, unlike in gRPC's answers. A long message, a revision of a million events, becomes text
//! in slices: it waits as the bytes that its watchers share, the messages behind it wait too, and `convert` goes on with
//! them. Until a message is whole its text leaves in parts, and an answer that ends meanwhile is broken off.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::part::Part;
use super::sink::{MessageFraming, SinkStream};
use crate::rpc::{Status, json, web};
use crate::shell::client::call::body::Body;
use crate::shell::client::call::end::Ended;
use crate::shell::client::responder::Gone;
use crate::shell::client::tally::Tally;
use crate::types::Slice;
use crate::types::limits::PIECE_BYTES;

/// A buffer of text that has grown so large is sent as it is and the next one begun.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// A message of so many bytes becomes text in slices. A piece of a snapshot is no such message.
const LONG_BYTES: usize = PIECE_BYTES + (32 << 10);

/// Bytes that become text at a time, and the price of a KiB.
const CHUNK_BYTES: usize = 16 << 10;
const TEXT_KIB_NS: u64 = 4_000;

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
            Err(Ended::Status(_)) if self.pieces.is_some() || self.lines.is_inside() => self.stream.cut(),
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
    /// The message that was begun is going to wait.
    is_long: bool,
    /// Its parts so far.
    parts: VecDeque<Bytes>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

/// A message that is not text yet, or not all of it.
struct Waiting {
    parts: VecDeque<Bytes>,
    bytes: usize,
    /// Some of it is text.
    writer: Option<json::Writer>,
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
            is_long: false,
            parts: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
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
        self.is_long = LONG_BYTES <= self.announced || !self.waiting.is_empty();
        Ok(())
    }

    /// Where the rest of the message is written.
    pub(in crate::shell::client) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.message
    }

    /// Appends a part of the message.
    pub(in crate::shell::client) fn share(&mut self, part: Bytes) {
        if self.is_long {
            self.end_part();
            self.parts.push_back(part);
        } else {
            self.message.extend_from_slice(&part);
        }
    }

    fn end_part(&mut self) {
        if !self.message.is_empty() {
            self.parts.push_back(std::mem::take(&mut self.message).into());
        }
    }

    /// Ends the message. Returns what its text takes, or its bytes if it waits.
    pub(in crate::shell::client) fn end(&mut self) -> usize {
        if self.is_long {
            self.end_part();
            let (parts, bytes) = (std::mem::take(&mut self.parts), self.announced);
            assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), bytes, "the length was announced");
            self.waiting.push_back(Waiting { parts, bytes, writer: None });
            self.waiting_bytes += bytes;
            return bytes;
        }
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

    /// Bytes of messages that wait.
    pub(in crate::shell::client) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether the text so far ends inside a message.
    fn is_inside(&self) -> bool {
        self.waiting.front().is_some_and(|waiting| waiting.writer.is_some())
    }

    /// Makes text of messages that wait, until the slice is spent. Returns how many of their bytes became how much of
    /// it.
    pub(in crate::shell::client) fn convert(&mut self, slice: &mut Slice) -> (usize, usize) {
        let (mut taken, before) = (0, self.len());
        while let Some(mut waiting) = self.waiting.pop_front() {
            if slice.is_spent() {
                self.waiting.push_front(waiting);
                break;
            }
            let mut chunk = waiting.parts.pop_front().unwrap_or_default();
            if CHUNK_BYTES < chunk.len() {
                waiting.parts.push_front(chunk.split_off(CHUNK_BYTES));
            }
            self.put_chunk(&mut waiting, &chunk);
            slice.spend_key();
            slice.spend((chunk.len() as u64 * TEXT_KIB_NS) >> 10);
            taken += chunk.len();
            if waiting.parts.is_empty() {
                self.gathered.0 += 1;
                self.gathered.1 += waiting.bytes;
            } else {
                self.waiting.push_front(waiting);
            }
        }
        self.waiting_bytes -= taken;
        (taken, self.len() - before)
    }

    fn put_chunk(&mut self, waiting: &mut Waiting, chunk: &[u8]) {
        if BUFFER_BYTES_MAX <= self.buffer.len() {
            self.seal();
        }
        let (is_first, is_last) = (waiting.writer.is_none(), waiting.parts.is_empty());
        let before = self.buffer.len();
        let start = self.framing.begin(&mut self.buffer);
        let begun = self.buffer.len();
        let mut writer = waiting.writer.take().unwrap_or_else(|| {
            self.buffer.extend_from_slice(b"{\"result\":");
            json::Writer::begin(self.answer, &mut self.buffer)
        });
        writer.put(chunk, &mut self.buffer);
        if is_last {
            writer.end(&mut self.buffer);
            self.buffer.extend_from_slice(b"}\n");
        } else {
            waiting.writer = Some(writer);
        }
        let part = match (is_first, is_last) {
            (true, true) => Part::Whole,
            (true, false) => Part::First,
            (false, false) => Part::Middle,
            (false, true) => Part::Last,
        };
        // A chunk without data would end the answer.
        if self.buffer.len() == begun {
            self.buffer.truncate(before);
        } else {
            self.framing.end(&mut self.buffer, start, part);
        }
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

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::{etcdserverpb as pb, mvccpb};
    use crate::types::limits::TURN_NS_IN_COMPANY;

    fn response(events: usize) -> Vec<u8> {
        let event = |number: usize| mvccpb::Event {
            kv: Some(mvccpb::KeyValue {
                key: format!("key {number}").into(),
                version: 7,
                ..Default::default()
            }),
            ..Default::default()
        };
        let events = (0..events).map(event).collect();
        pb::WatchResponse { watch_id: 5, events, ..Default::default() }.encode_to_vec()
    }

    fn gather(lines: &mut Lines, message: &[u8], shared_bytes: usize) -> usize {
        lines.begin(|out| out.extend_from_slice(&message[..1]), message.len() - 1).unwrap();
        lines.rest().extend_from_slice(&message[1..9]);
        for part in message[9..].chunks(shared_bytes) {
            lines.share(Bytes::copy_from_slice(part));
        }
        lines.end()
    }

    #[test]
    fn a_message_of_a_hundred_thousand_events_becomes_text_in_slices_and_others_stay_behind_it() {
        let answer = json::Call::of_path("/etcdserverpb.Watch/Watch").unwrap().answer;
        let messages = [response(1), response(100_000), response(2)];
        let mut expected = Vec::new();
        for message in &messages {
            expected.extend_from_slice(b"{\"result\":");
            json::write(answer, message, &mut expected);
            expected.extend_from_slice(b"}\n");
        }
        let mut lines = Lines::new(MessageFraming::Lines, answer);
        let counted = messages.each_ref().map(|message| gather(&mut lines, message, 50_001));
        assert_eq!(counted[1..], [messages[1].len(), messages[2].len()]);
        assert_eq!(lines.waiting_bytes(), messages[1].len() + messages[2].len());
        let (mut text, mut text_bytes, mut slices) = (Vec::new(), counted[0], 0);
        while 0 < lines.waiting_bytes() {
            let (mut slice, waiting) = (Slice::of(TURN_NS_IN_COMPANY), lines.waiting_bytes());
            let (taken, added) = lines.convert(&mut slice);
            let spent_ns = slice.spent_ns();
            assert!(spent_ns <= 2 * TURN_NS_IN_COMPANY, "{spent_ns} ns were spent at once");
            assert_eq!(waiting - taken, lines.waiting_bytes());
            text_bytes += added;
            slices += 1;
            text.extend(lines.take().flatten());
        }
        assert!(50 <= slices, "{slices} slices");
        assert_eq!(text_bytes, text.len());
        assert!(text == expected);
        assert_eq!(lines.gathered.0, 3);
        assert!(!lines.is_inside());
        // Nothing waits any more, so a short one is text at once.
        assert_ne!(gather(&mut lines, &messages[0], 100), messages[0].len());
        assert_eq!(lines.waiting_bytes(), 0);
    }

    #[test]
    fn each_part_of_a_long_message_is_a_chunk_with_data() {
        let answer = json::Call::of_path("/etcdserverpb.Watch/Watch").unwrap().answer;
        let message = response(20_000);
        let mut lines = Lines::new(MessageFraming::Chunks, answer);
        // Parts of a byte each, of which some are no text yet.
        gather(&mut lines, &message, 1);
        let mut body: Vec<u8> = Vec::new();
        while 0 < lines.waiting_bytes() {
            lines.convert(&mut Slice::of(1_000));
            body.extend(lines.take().flatten());
        }
        let mut text = Vec::new();
        let mut rest = &body[..];
        while !rest.is_empty() {
            let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            assert_ne!(size, 0, "it would end the answer");
            text.extend_from_slice(&rest[end + 2..][..size]);
            rest = &rest[end + 2 + size + 2..];
        }
        let mut expected = b"{\"result\":".to_vec();
        json::write(answer, &message, &mut expected);
        expected.extend_from_slice(b"}\n");
        assert!(text == expected);
    }
}
