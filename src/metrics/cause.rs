//! What of a request tells who causes the load: the prefix of its key, and how many keys it has changed.
//!
//! Only the first fields of the encoded messages are looked at. What does not decode counts for no key: it is
//! refused elsewhere.

use crate::request::{Command, Query, RequestKind};
use crate::types::proto::take_varint;

/// Longest prefix that is told apart.
const PREFIX_BYTES_MAX: usize = 64;

/// The first `depth` segments of a key, each with the slash that ends it. What is behind the last slash is a name
/// and no prefix: a key without any slash has the empty prefix. A leading slash begins the first segment.
#[must_use]
pub fn key_prefix(key: &[u8], depth: usize) -> &[u8] {
    let key = &key[..key.len().min(PREFIX_BYTES_MAX)];
    let slashes = key.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
    slashes.map(|(at, _)| &key[..=at]).take(depth).last().unwrap_or_default()
}

/// The key that a command is about; of several, the first.
#[must_use]
pub fn key_of(command: &Command) -> Option<&[u8]> {
    match command {
        Command::Propose { kind: RequestKind::Put | RequestKind::DeleteRange, body, .. } => field(body, 1),
        Command::Propose { kind: RequestKind::Txn, body, .. } => key_of_txn(body),
        Command::Read(read) => key_of_query(&read.query),
        _ => None,
    }
}

fn key_of_query(query: &Query) -> Option<&[u8]> {
    match query {
        Query::Range(range) => Some(&range.key),
        Query::RangeSlice(slice) => Some(&slice.start),
        Query::NotOlder(later) => key_of_query(&later.query),
        _ => None,
    }
}

/// The first operation's key; without operations, the first comparison's.
fn key_of_txn(txn: &[u8]) -> Option<&[u8]> {
    let operation = field(txn, 2).or_else(|| field(txn, 3));
    match operation {
        // Range, put and delete have their key first; a transaction inside is followed.
        Some(operation) => {
            let plain = (1..=3).find_map(|kind| field(operation, kind));
            plain.and_then(|request| field(request, 1))
        }
        None => field(txn, 1).and_then(|compare| field(compare, 3)),
    }
}

/// Keys that a request of this kind has changed, by its answer without the header.
#[must_use]
pub fn changed_keys(kind: RequestKind, answer: &[u8]) -> u64 {
    match kind {
        RequestKind::Put => 1,
        RequestKind::DeleteRange => number(answer, 2),
        RequestKind::Txn => changed_by_txn(answer, 0),
        _ => 0,
    }
}

/// As deep as transactions may be nested.
const DEPTH_MAX: usize = 4;

fn changed_by_txn(answer: &[u8], depth: usize) -> u64 {
    let mut changed = 0;
    for (number_of, operation) in fields(answer) {
        let Field::Bytes(operation) = operation else { continue };
        if number_of != 3 {
            continue;
        }
        changed += match fields(operation).next() {
            Some((2, Field::Bytes(_))) => 1,
            Some((3, Field::Bytes(deleted))) => number(deleted, 2),
            Some((4, Field::Bytes(inner))) if depth < DEPTH_MAX => changed_by_txn(inner, depth + 1),
            _ => 0,
        };
    }
    changed
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message, until one that does not decode.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let tag = take_varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Number(take_varint(&mut message)?),
            1 => {
                message = message.get(8..)?;
                Field::Other
            }
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                let bytes = message.get(..length)?;
                message = &message[length..];
                Field::Bytes(bytes)
            }
            5 => {
                message = message.get(4..)?;
                Field::Other
            }
            _ => return None,
        };
        Some((tag >> 3, field))
    })
}

fn field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    fields(message).find_map(|(number, field)| match field {
        Field::Bytes(bytes) if number == wanted => Some(bytes),
        _ => None,
    })
}

fn number(message: &[u8], wanted: u64) -> u64 {
    let found = fields(message).find_map(|(number, field)| match field {
        Field::Number(value) if number == wanted => Some(value),
        _ => None,
    });
    found.unwrap_or(0)
}
