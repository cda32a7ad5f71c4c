//! `WatchResponse` as protobuf, written straight from the events' own bytes.
//!
//! An event comes encoded (`event`), so a response is a few small fields and one copy of each event's
//! bytes, the same bytes for every watcher that gets the event. The header is not written here: it is
//! field 1, so whoever knows the member's identity and term writes it in front.
//!
//! Invariant: the bytes are those that prost writes for the same message: fields in ascending order,
//! zeros left out.

use bytes::BufMut;

use super::{Event, Response};

// Tags: field number << 3 | wire type (0 varint, 2 length-delimited).
const WATCH_ID: u8 = 2 << 3;
const CREATED: u8 = 3 << 3;
const CANCELED: u8 = 4 << 3;
const COMPACT_REVISION: u8 = 5 << 3;
const CANCEL_REASON: u8 = 6 << 3 | 2;
const FRAGMENT: u8 = 7 << 3;
const EVENTS: u8 = 11 << 3 | 2;

/// Bytes of a varint: one for every seven bits begun.
fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

/// Negative numbers are sign-extended, ten bytes long.
fn int_field_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value.cast_unsigned()) }
}

fn put_int_field(out: &mut impl BufMut, tag: u8, value: i64) {
    if value != 0 {
        out.put_u8(tag);
        put_varint(out, value.cast_unsigned());
    }
}

fn flag_len(is_set: bool) -> usize {
    if is_set { 2 } else { 0 }
}

fn put_flag(out: &mut impl BufMut, tag: u8, is_set: bool) {
    if is_set {
        out.put_slice(&[tag, 1]);
    }
}

/// Bytes of a length-delimited field, tag and length included.
fn bytes_field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

fn put_bytes_head(out: &mut impl BufMut, tag: u8, len: usize) {
    out.put_u8(tag);
    put_varint(out, len as u64);
}

/// Bytes of one `mvccpb.Event`.
fn event_len(event: &Event, previous: bool) -> usize {
    event.body.len() + if previous { event.previous.len() } else { 0 }
}

/// Bytes that an event adds to a response.
pub(super) fn event_field_len(event: &Event, previous: bool) -> usize {
    bytes_field_len(event_len(event, previous))
}

/// Bytes of a response apart from its header and events.
pub(super) fn frame_len(response: &Response<'_>) -> usize {
    let reason = response.cancel_reason.len();
    int_field_len(response.watch_id)
        + flag_len(response.created)
        + flag_len(response.canceled)
        + int_field_len(response.compact_revision)
        + if reason == 0 { 0 } else { bytes_field_len(reason) }
        + flag_len(response.fragment)
}

/// Bytes that `put_response` writes.
#[must_use]
pub fn encoded_len(response: &Response<'_>) -> usize {
    let events = response.events.iter();
    frame_len(response) + events.map(|event| event_field_len(event, response.previous)).sum::<usize>()
}

/// Writes the response without its header.
pub fn put_response(out: &mut impl BufMut, response: &Response<'_>) {
    put_int_field(out, WATCH_ID, response.watch_id);
    put_flag(out, CREATED, response.created);
    put_flag(out, CANCELED, response.canceled);
    put_int_field(out, COMPACT_REVISION, response.compact_revision);
    if !response.cancel_reason.is_empty() {
        put_bytes_head(out, CANCEL_REASON, response.cancel_reason.len());
        out.put_slice(response.cancel_reason.as_bytes());
    }
    put_flag(out, FRAGMENT, response.fragment);
    for event in response.events {
        put_bytes_head(out, EVENTS, event_len(event, response.previous));
        out.put_slice(&event.body);
        if response.previous {
            out.put_slice(&event.previous);
        }
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
