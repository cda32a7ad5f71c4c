//! The bytes of an answer, to its text.
//!
//! A message may come in pieces that are cut anywhere, also inside a field, as a long list does; its text comes
//! in pieces too. So there is one way to write, for whole messages too: an explicit stack of the messages that
//! are open, and the few bytes of a key, a number or a base64 group that are not whole yet.
//!
//! Bounds: what is held between two pieces is a text field (an error, a name: small), and some 20 bytes.
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

/// A message that is open.
#[derive(Debug)]
struct Open {
    message: &'static Message,
    /// Where among all bytes it ends.
    end: u64,
    /// The list that is not closed yet.
    list: Option<u32>,
    is_empty: bool,
}

/// A field whose bytes are still coming.
#[derive(Debug)]
enum Leaf {
    None,
    /// So many bytes follow, to be written as base64. The bytes held are no whole group.
    Bytes {
        rest: u64,
        held: [u8; 2],
        held_len: usize,
    },
    /// The same, to be written as text.
    Text {
        rest: u64,
        held: Vec<u8>,
    },
}

/// A message that is written as it comes. See the module.
#[derive(Debug)]
pub struct Writer {
    open: Vec<Open>,
    leaf: Leaf,
    /// The beginning of a key and its number.
    partial: Vec<u8>,
    /// Bytes taken so far.
    at: u64,
}

impl Writer {
    /// Begins the text.
    #[must_use]
    pub fn begin(message: &'static Message, out: &mut Vec<u8>) -> Self {
        out.push(b'{');
        let mut open = Vec::with_capacity(4);
        open.push(Open { message, end: u64::MAX, list: None, is_empty: true });
        Self { open, leaf: Leaf::None, partial: Vec::new(), at: 0 }
    }

    /// Appends the text of more bytes.
    pub fn put(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        loop {
            self.put_leaf(&mut bytes, out);
            if !matches!(self.leaf, Leaf::None) {
                return;
            }
            while 1 < self.open.len() && self.open.last().is_some_and(|open| open.end == self.at) {
                self.close(out);
            }
            if bytes.is_empty() {
                return;
            }
            let Some((key, number)) = self.take_field(&mut bytes) else { return };
            self.put_field(key, number, out);
        }
    }

    /// Ends the text.
    pub fn end(mut self, out: &mut Vec<u8>) {
        assert!(self.open.len() == 1 && matches!(self.leaf, Leaf::None), "the message is whole");
        self.close(out);
    }

    /// Closes the innermost message.
    fn close(&mut self, out: &mut Vec<u8>) {
        let open = self.open.pop().expect("one is open");
        if open.list.is_some() {
            out.push(b']');
        }
        out.push(b'}');
    }

    /// Takes a key and the number behind it, which is the field's or its length. None: they are not whole.
    fn take_field(&mut self, bytes: &mut &[u8]) -> Option<(u64, u64)> {
        let before = bytes.len();
        let found = if self.partial.is_empty() {
            let whole = *bytes;
            let found = take_two(bytes);
            if found.is_none() {
                self.partial.extend_from_slice(whole);
                *bytes = &[];
            }
            found
        } else {
            let mut found = None;
            while let (None, Some((&byte, rest))) = (found, bytes.split_first()) {
                self.partial.push(byte);
                *bytes = rest;
                found = take_two(&mut &self.partial[..]);
            }
            if found.is_some() {
                self.partial.clear();
            }
            found
        };
        self.at += (before - bytes.len()) as u64;
        assert!(self.partial.len() < 20, "a key and a number are shorter");
        found
    }

    fn put_field(&mut self, key: u64, number: u64, out: &mut Vec<u8>) {
        let open = self.open.last_mut().expect("one is open");
        let field = u32::try_from(key >> 3).ok().and_then(|number| open.message.by_number(number));
        let field = field.expect("answers have no unknown fields");
        open.name(field, out);
        match (key & 7, field.kind) {
            (LENGTH, Kind::Message(message)) => {
                out.push(b'{');
                let end = self.at + number;
                self.open.push(Open { message, end, list: None, is_empty: true });
            }
            (LENGTH, Kind::Bytes) => {
                out.push(b'"');
                self.leaf = Leaf::Bytes { rest: number, held: [0; 2], held_len: 0 };
            }
            (LENGTH, Kind::Text) => self.leaf = Leaf::Text { rest: number, held: Vec::new() },
            (VARINT, kind) => put_number(kind, number, out),
            (wire_type, kind) => panic!("no answer has {kind:?} as wire type {wire_type}"),
        }
    }

    /// Writes what there is of the field whose bytes are coming.
    fn put_leaf(&mut self, bytes: &mut &[u8], out: &mut Vec<u8>) {
        let mut take = |rest: &mut u64| {
            let n = usize::try_from(*rest).map_or(bytes.len(), |rest| rest.min(bytes.len()));
            let (taken, behind) = bytes.split_at(n);
            *bytes = behind;
            *rest -= n as u64;
            self.at += n as u64;
            taken
        };
        let is_over = match &mut self.leaf {
            Leaf::None => return,
            Leaf::Text { rest, held } => {
                held.extend_from_slice(take(rest));
                if *rest == 0 {
                    put_text(&String::from_utf8_lossy(held), out);
                }
                *rest == 0
            }
            Leaf::Bytes { rest, held, held_len } => {
                let mut taken = take(rest);
                // Fill the group that has begun.
                if 0 < *held_len {
                    let n = taken.len().min(3 - *held_len);
                    let mut group = [held[0], held[1], 0];
                    group[*held_len..*held_len + n].copy_from_slice(&taken[..n]);
                    taken = &taken[n..];
                    *held_len += n;
                    if *held_len == 3 || *rest == 0 {
                        put_base64(&group[..*held_len], out);
                        *held_len = 0;
                    } else {
                        *held = [group[0], group[1]];
                    }
                }
                // Whole groups, and at the end the rest.
                let whole = if *rest == 0 { taken.len() } else { taken.len() / 3 * 3 };
                put_base64(&taken[..whole], out);
                let left = &taken[whole..];
                if !left.is_empty() {
                    held[..left.len()].copy_from_slice(left);
                    *held_len = left.len();
                }
                if *rest == 0 {
                    out.push(b'"');
                }
                *rest == 0
            }
        };
        if is_over {
            self.leaf = Leaf::None;
        }
    }
}

impl Open {
    /// Writes all that stands in front of a value of `field`.
    fn name(&mut self, field: &Field, out: &mut Vec<u8>) {
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

/// Takes two numbers, if both are there.
fn take_two(bytes: &mut &[u8]) -> Option<(u64, u64)> {
    let mut rest = *bytes;
    let found = (take_varint(&mut rest)?, take_varint(&mut rest)?);
    *bytes = rest;
    Some(found)
}

fn put_number(kind: Kind, number: u64, out: &mut Vec<u8>) {
    let low = u32::try_from(number & 0xffff_ffff).expect("it has 32 bits");
    match kind {
        Kind::Int64 => put_quoted(itoa::Buffer::new().format(number.cast_signed()), out),
        Kind::Uint64 => put_quoted(itoa::Buffer::new().format(number), out),
        Kind::Uint32 => out.extend_from_slice(itoa::Buffer::new().format(low).as_bytes()),
        Kind::Bool => out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
        Kind::Enum(values) => match values.name(low.cast_signed()) {
            Some(name) => put_quoted(name, out),
            None => out.extend_from_slice(itoa::Buffer::new().format(low.cast_signed()).as_bytes()),
        },
        Kind::Text | Kind::Bytes | Kind::Message(_) => panic!("{kind:?} is no number"),
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
    let start = out.len();
    out.resize(start + length, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).expect("there is room for it");
    assert_eq!(written, length, "padded to whole groups");
}
