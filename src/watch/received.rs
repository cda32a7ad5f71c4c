//! A member's `WatchResponse`, as whoever stands in front of that member reads it.
//!
//! Events keep the bytes that they came with: a change is copied to every watcher, and is not encoded anew for it. A
//! member writes fields in ascending order, so what it says of the previous version is the end of an event; an event in
//! any other form is decoded and encoded once.
//!
//! Hostile bytes: an error, and no more memory than came.

use bytes::Bytes;
use prost::Message as _;

use super::Event;
use crate::pb::{etcdserverpb as pb, mvccpb};
use crate::types::proto::{bytes_field_len, put_message_head, take_varint};

/// The field `prev_kv` of an event.
const PREVIOUS: u8 = 3;

/// What a member said on a watch stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    pub header: pb::ResponseHeader,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: String,
    /// The rest of its last revision is in the next one.
    pub fragment: bool,
    pub events: Vec<Event>,
}

/// One field of a message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The next field and its number; None where there is none, or what is there is none.
fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = take_varint(bytes)?;
    let value = match key & 7 {
        0 => Value::Number(take_varint(bytes)?),
        1 => Value::Other.behind(bytes, 8)?,
        2 => {
            let length = usize::try_from(take_varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Value::Bytes(value)
        }
        5 => Value::Other.behind(bytes, 4)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

impl Value<'_> {
    fn behind(self, bytes: &mut &[u8], length: usize) -> Option<Self> {
        *bytes = bytes.get(length..)?;
        Some(self)
    }
}

impl Received {
    /// Reads a message; None: it is no `WatchResponse`.
    #[must_use]
    pub fn read(message: &Bytes) -> Option<Self> {
        let mut received = Self::default();
        let mut rest = &message[..];
        while !rest.is_empty() {
            match take_field(&mut rest)? {
                (1, Value::Bytes(header)) => received.header = pb::ResponseHeader::decode(header).ok()?,
                (2, Value::Number(id)) => received.watch_id = id.cast_signed(),
                (3, Value::Number(flag)) => received.created = flag != 0,
                (4, Value::Number(flag)) => received.canceled = flag != 0,
                (5, Value::Number(revision)) => received.compact_revision = revision.cast_signed(),
                (6, Value::Bytes(reason)) => {
                    received.cancel_reason = String::from_utf8_lossy(reason).into_owned();
                }
                (7, Value::Number(flag)) => received.fragment = flag != 0,
                (11, Value::Bytes(event)) => received.events.push(read_event(message, event)?),
                (1..=7 | 11, _) => return None,
                _ => {}
            }
        }
        Some(received)
    }
}

/// An event whose bytes are a part of `message`'s.
fn read_event(message: &Bytes, event: &[u8]) -> Option<Event> {
    let mut rest = event;
    let (mut last, mut is_plain, mut is_delete) = (0, true, false);
    let mut kv = None;
    let mut body_len = event.len();
    while !rest.is_empty() {
        let before = event.len() - rest.len();
        let (number, value) = take_field(&mut rest)?;
        is_plain &= last < number && number <= PREVIOUS.into();
        last = number;
        match (number, value) {
            (1, Value::Number(kind)) => is_delete = kind == mvccpb::event::EventType::Delete as u64,
            (2, Value::Bytes(bytes)) => kv = Some(bytes),
            (3, Value::Bytes(_)) => body_len = before,
            (1..=3, _) => return None,
            _ => {}
        }
    }
    if !is_plain {
        return encoded(mvccpb::Event::decode(event).ok()?);
    }
    let (key, revision) = read_key(kv?)?;
    Some(Event {
        revision,
        key: message.slice_ref(key),
        is_delete,
        body: message.slice_ref(&event[..body_len]),
        previous: message.slice_ref(&event[body_len..]),
    })
}

/// Key and revision of a change.
fn read_key(kv: &[u8]) -> Option<(&[u8], i64)> {
    let mut rest = kv;
    let (mut key, mut revision) = (&kv[..0], 0);
    while !rest.is_empty() {
        match take_field(&mut rest)? {
            (1, Value::Bytes(bytes)) => key = bytes,
            (3, Value::Number(number)) => revision = number.cast_signed(),
            (1 | 3, _) => return None,
            _ => {}
        }
    }
    Some((key, revision))
}

/// An event in the form in which members write it.
fn encoded(event: mvccpb::Event) -> Option<Event> {
    let is_delete = event.r#type() == mvccpb::event::EventType::Delete;
    let previous = event.prev_kv.as_ref().map_or_else(Vec::new, |previous| {
        let previous = previous.encode_to_vec();
        let mut field = Vec::with_capacity(bytes_field_len(&previous));
        put_message_head(&mut field, PREVIOUS, previous.len());
        field.extend_from_slice(&previous);
        field
    });
    let (key, revision) = event.kv.as_ref().map(|kv| (kv.key.clone(), kv.mod_revision))?;
    let body = mvccpb::Event { prev_kv: None, ..event }.encode_to_vec().into();
    Some(Event { revision, key, is_delete, body, previous: previous.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, value: &'static str, mod_revision: i64) -> mvccpb::KeyValue {
        mvccpb::KeyValue { key: key.into(), value: value.into(), mod_revision, ..Default::default() }
    }

    fn response() -> pb::WatchResponse {
        let put = mvccpb::Event { kv: Some(kv("a", "1", 7)), prev_kv: Some(kv("a", "0", 5)), r#type: 0 };
        let delete = mvccpb::Event { kv: Some(kv("b", "", 8)), prev_kv: None, r#type: 1 };
        let header = pb::ResponseHeader { cluster_id: u64::MAX, member_id: 2, revision: 9, raft_term: 4 };
        pb::WatchResponse {
            header: Some(header),
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 3,
            cancel_reason: "why".into(),
            fragment: true,
            events: vec![put, delete],
        }
    }

    #[test]
    fn what_is_read_is_what_was_written_and_an_event_falls_into_its_two_halves() {
        let sent = response();
        let read = Received::read(&sent.encode_to_vec().into()).unwrap();
        assert_eq!(Some(read.header), sent.header);
        assert_eq!((read.watch_id, read.compact_revision), (-1, 3));
        assert!(read.created && read.canceled && read.fragment && read.cancel_reason == "why");
        for (event, sent) in read.events.iter().zip(&sent.events) {
            let kv = sent.kv.as_ref().unwrap();
            assert_eq!((event.revision, &event.key), (kv.mod_revision, &kv.key));
            assert_eq!(event.is_delete, sent.r#type == 1);
            let without = mvccpb::Event { prev_kv: None, ..sent.clone() };
            assert_eq!(event.body, without.encode_to_vec());
            assert_eq!([&event.body[..], &event.previous[..]].concat(), sent.encode_to_vec());
        }
        assert!(!read.events[0].previous.is_empty() && read.events[1].previous.is_empty());
    }

    #[test]
    fn an_event_in_another_order_is_the_same_event() {
        let sent = response().events.remove(0);
        let mut whole = sent.encode_to_vec();
        let previous = mvccpb::Event { kv: None, ..sent.clone() }.encode_to_vec();
        // What stands first here stands last there; of a field that comes twice the last one counts.
        let mut turned = previous;
        turned.append(&mut whole);
        let read = encoded(mvccpb::Event::decode(&turned[..]).unwrap()).unwrap();
        assert_eq!(read_event(&Bytes::from(turned.clone()), &turned), Some(read.clone()));
        assert_eq!([&read.body[..], &read.previous[..]].concat(), sent.encode_to_vec());
    }

    #[test]
    fn bytes_that_are_cut_or_changed_are_refused_or_read_but_never_more_than_there_are() {
        let whole = response().encode_to_vec();
        for cut in 0..whole.len() {
            // A message may end between two fields.
            if let Some(read) = Received::read(&whole[..cut].to_vec().into()) {
                assert!(read.events.len() <= 2, "{cut}");
            }
        }
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let [at, what, ..] = seed.to_le_bytes().map(usize::from);
                let at = (at << 3 | what & 7) % bytes.len();
                bytes[at] = (seed >> 56) as u8;
            }
            if let Some(read) = Received::read(&bytes.into()) {
                let total: usize =
                    read.events.iter().map(|event| event.body.len() + event.previous.len()).sum();
                assert!(total <= 2 * whole.len());
            }
        }
        for bad in [&[0xff][..], &[0x5a, 0x7f], &[0x0a, 1, 0xff], &[0x10], &[0x5a, 2, 0x08, 0]] {
            assert_eq!(Received::read(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }
}
