//! `WatchResponse` as protobuf, written straight from the events' own bytes.
//!
//! An event comes encoded (`event`), so a response is a few small fields and one copy of each event's
//! bytes, the same bytes for every watcher that gets the event. The header is not written here: it is
//! field 1, so whoever knows the member's identity and term writes it in front.
//!
//! Invariant: the bytes are those that prost writes for the same message: fields in ascending order,
//! zeros left out.

use bytes::{BufMut, Bytes};

use super::{Event, Response};
use crate::types::proto::{
    bytes_field_len, flag_field_len, int_field_len, message_field_len, put_bytes_field, put_flag_field,
    put_int_field, put_message_head,
};

/// Fields of `WatchResponse`.
const WATCH_ID: u8 = 2;
const CREATED: u8 = 3;
const CANCELED: u8 = 4;
const COMPACT_REVISION: u8 = 5;
const CANCEL_REASON: u8 = 6;
const FRAGMENT: u8 = 7;
const EVENTS: u8 = 11;

/// Bytes of one `mvccpb.Event`.
fn event_len(event: &Event, previous: bool) -> usize {
    event.body.len() + if previous { event.previous.len() } else { 0 }
}

/// Bytes that an event adds to a response.
pub(super) fn event_field_len(event: &Event, previous: bool) -> usize {
    message_field_len(event_len(event, previous))
}

/// Bytes of a response apart from its header and events.
pub(super) fn frame_len(response: &Response<'_>) -> usize {
    int_field_len(response.watch_id)
        + flag_field_len(response.created)
        + flag_field_len(response.canceled)
        + int_field_len(response.compact_revision)
        + bytes_field_len(response.cancel_reason.as_bytes())
        + flag_field_len(response.fragment)
}

/// Bytes that `put_response` writes.
#[must_use]
pub fn encoded_len(response: &Response<'_>) -> usize {
    let events_bytes: usize = if response.joined.is_empty() {
        response.events.iter().map(|event| event_field_len(event, response.previous)).sum()
    } else {
        response.joined.iter().map(Bytes::len).sum()
    };
    frame_len(response) + events_bytes
}

/// Writes all of an event but its bytes, `body` and then `previous`. Events are a response's last field.
pub fn put_event_head(out: &mut impl BufMut, event: &Event, previous: bool) {
    put_message_head(out, EVENTS, event_len(event, previous));
}

/// Writes the response without its header and events.
pub fn put_frame(out: &mut impl BufMut, response: &Response<'_>) {
    put_int_field(out, WATCH_ID, response.watch_id);
    put_flag_field(out, CREATED, response.created);
    put_flag_field(out, CANCELED, response.canceled);
    put_int_field(out, COMPACT_REVISION, response.compact_revision);
    put_bytes_field(out, CANCEL_REASON, response.cancel_reason.as_bytes());
    put_flag_field(out, FRAGMENT, response.fragment);
}

/// Writes the response without its header.
pub fn put_response(out: &mut impl BufMut, response: &Response<'_>) {
    put_frame(out, response);
    if !response.joined.is_empty() {
        return response.joined.iter().for_each(|piece| out.put_slice(piece));
    }
    for event in response.events.iter() {
        put_event_head(out, event, response.previous);
        out.put_slice(&event.body);
        if response.previous {
            out.put_slice(&event.previous);
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
