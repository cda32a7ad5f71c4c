//! The bytes of an answer, to its text.
//!
//! A message may be written in pieces, each of whole fields, so that a long list need not be there in full: the
//! list stays open from one piece to the next.
//!
//! Invariants: the bytes are this member's own messages, whose fields ascend, so those of one list stand together.
//! Broken ones are a bug and panic.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::schema::{Field, Kind, Message};
use crate::types::proto::take_varint;

/// Wire types.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;

/// Appends a message's text.
pub fn write(message: &'static Message, bytes: &[u8], out: &mut Vec<u8>) {
    let mut writer = Writer::begin(message, out);
    writer.put(bytes, out);
    writer.end(out);
}

/// A message that is written in pieces.
#[derive(Debug)]
pub struct Writer {
    message: &'static Message,
    /// The list that is not closed yet.
    list: Option<u32>,
    is_empty: bool,
}

impl Writer {
    /// Begins the text.
    #[must_use]
    pub fn begin(message: &'static Message, out: &mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { message, list: None, is_empty: true }
    }

    /// Appends fields.
    pub fn put(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let number = u32::try_from(key >> 3).expect("a field's number has 29 bits");
            let (number_value, slice) = match key & 7 {
                VARINT => (varint(&mut bytes), &[][..]),
                LENGTH => {
                    let length = usize::try_from(varint(&mut bytes)).expect("it fits the memory it is in");
                    let (slice, rest) = bytes.split_at(length);
                    bytes = rest;
                    (0, slice)
                }
                other => panic!("no message of the gateway has wire type {other}"),
            };
            let field = self.message.by_number(number).expect("answers have no unknown fields");
            if field.repeated && key & 7 == LENGTH && !is_slice(field.kind) {
                // Packed.
                let mut packed = slice;
                while !packed.is_empty() {
                    let number_value = varint(&mut packed);
                    self.open(field, out);
                    put_value(field, number_value, &[], out);
                }
            } else {
                self.open(field, out);
                put_value(field, number_value, slice, out);
            }
        }
    }

    /// Ends the text.
    pub fn end(self, out: &mut Vec<u8>) {
        if self.list.is_some() {
            out.push(b']');
        }
        out.push(b'}');
    }

    /// Writes all that stands in front of a value of `field`.
    fn open(&mut self, field: &Field, out: &mut Vec<u8>) {
        if self.list == Some(field.number) {
            return out.push(b',');
        }
        if self.list.take().is_some() {
            out.push(b']');
        }
        if !std::mem::take(&mut self.is_empty) {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b"\":");
        if field.repeated {
            self.list = Some(field.number);
            out.push(b'[');
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    take_varint(bytes).expect("the message is our own")
}

fn is_slice(kind: Kind) -> bool {
    matches!(kind, Kind::Text | Kind::Bytes | Kind::Message(_))
}

fn put_value(field: &Field, number: u64, slice: &[u8], out: &mut Vec<u8>) {
    let low = u32::try_from(number & 0xffff_ffff).expect("it has 32 bits");
    match field.kind {
        Kind::Int64 => put_quoted(itoa::Buffer::new().format(number.cast_signed()), out),
        Kind::Uint64 => put_quoted(itoa::Buffer::new().format(number), out),
        Kind::Uint32 => out.extend_from_slice(itoa::Buffer::new().format(low).as_bytes()),
        Kind::Bool => out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
        Kind::Enum(values) => match values.name(low.cast_signed()) {
            Some(name) => put_quoted(name, out),
            None => out.extend_from_slice(itoa::Buffer::new().format(low.cast_signed()).as_bytes()),
        },
        Kind::Text => put_text(&String::from_utf8_lossy(slice), out),
        Kind::Bytes => put_base64(slice, out),
        Kind::Message(message) => write(message, slice, out),
    }
}

/// Text that needs no escape.
fn put_quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Appends a text as a JSON string.
pub fn put_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text can be written to memory");
}

fn put_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let length = bytes.len().div_ceil(3) * 4;
    out.push(b'"');
    let start = out.len();
    out.resize(start + length, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("there is room for it");
    assert_eq!(written, length, "padded to whole groups");
    out.push(b'"');
}
