//! The messages of Watch and Lease, by hand: requests into a reused buffer, replies read where they lie.
//!
//! Cost: an event is read in one pass over its fields, nothing is copied; that is what lets one client
//! thread count millions of them a second.

use crate::protobuf::{Fields, Malformed, Value, put_length, put_varint, varint_bytes};

/// A WatchRequest that creates a watcher of `[key, range_end)` (of `key` alone when that is empty), whose id
/// the server picks. `start_revision` 0 is from now.
pub(crate) fn put_watch_create(message: &mut Vec<u8>, key: &[u8], range_end: &[u8], start_revision: i64) {
    let start_revision = start_revision.cast_unsigned();
    let field_bytes = |length: usize| if length == 0 { 0 } else { 1 + varint_bytes(length) + length };
    let start_bytes = if start_revision == 0 { 0 } else { 1 + varint64_bytes(start_revision) };
    put_length(message, 1, field_bytes(key.len()) + field_bytes(range_end.len()) + start_bytes);
    for (number, bytes) in [(1, key), (2, range_end)] {
        if !bytes.is_empty() {
            put_length(message, number, bytes.len());
            message.extend_from_slice(bytes);
        }
    }
    if start_revision != 0 {
        put_varint(message, 3, start_revision);
    }
}

/// A LeaseGrantRequest; with `id` 0 the server picks one.
pub(crate) fn put_lease_grant(message: &mut Vec<u8>, id: i64, ttl_s: i64) {
    put_varint(message, 1, ttl_s.cast_unsigned());
    if id != 0 {
        put_varint(message, 2, id.cast_unsigned());
    }
}

/// A LeaseKeepAliveRequest.
pub(crate) fn put_keep_alive(message: &mut Vec<u8>, id: i64) {
    put_varint(message, 1, id.cast_unsigned());
}

/// A PutRequest of one piece of key and one of value; `lease` 0 is none.
pub(crate) fn put_put(message: &mut Vec<u8>, key: &[u8], value: &[u8], lease: i64) {
    for (number, bytes) in [(1, key), (2, value)] {
        put_length(message, number, bytes.len());
        message.extend_from_slice(bytes);
    }
    if lease != 0 {
        put_varint(message, 3, lease.cast_unsigned());
    }
}

fn varint64_bytes(value: u64) -> usize {
    varint_bytes(usize::try_from(value).expect("this client has 64-bit pointers"))
}

/// One event of a WatchResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event<'a> {
    pub is_delete: bool,
    pub mod_revision: i64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// A WatchResponse but for its events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct WatchHead<'a> {
    /// The header's.
    pub revision: i64,
    pub watch_id: i64,
    pub is_created: bool,
    pub is_canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: &'a [u8],
}

/// A WatchResponse: its head, read, and its events, yet to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchResponse<'a> {
    pub head: WatchHead<'a>,
    /// The fields from the first event on.
    events: Fields<'a>,
}

impl<'a> WatchResponse<'a> {
    /// Reads everything but the events. The head may stand after them: protobuf allows it.
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut head = WatchHead::default();
        let mut fields = Fields::of(message);
        let mut events = None;
        loop {
            let here = fields;
            let Some((number, value)) = fields.next()? else { break };
            match number {
                1 => head.revision = read_revision(value.bytes()?)?,
                2 => head.watch_id = value.int64()?,
                3 => head.is_created = value.varint()? != 0,
                4 => head.is_canceled = value.varint()? != 0,
                5 => head.compact_revision = value.int64()?,
                6 => head.cancel_reason = value.bytes()?,
                11 => events = events.or(Some(here)),
                _ => {}
            }
        }
        Ok(Self { head, events: events.unwrap_or(Fields::of(&[])) })
    }

    /// The next event.
    #[inline]
    pub(crate) fn next_event(&mut self) -> Result<Option<Event<'a>>, Malformed> {
        while let Some((number, value)) = self.events.next()? {
            if number == 11 {
                return read_event(value.bytes()?).map(Some);
            }
        }
        Ok(None)
    }
}

#[inline]
fn read_event(bytes: &[u8]) -> Result<Event<'_>, Malformed> {
    let mut event = Event { is_delete: false, mod_revision: 0, key: &[], value: &[] };
    let mut fields = Fields::of(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => event.is_delete = value.varint()? == 1,
            2 => {
                let mut pair = Fields::of(value.bytes()?);
                while let Some((number, value)) = pair.next()? {
                    match number {
                        1 => event.key = value.bytes()?,
                        3 => event.mod_revision = value.int64()?,
                        5 => event.value = value.bytes()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(event)
}

/// `revision` of a ResponseHeader.
fn read_revision(header: &[u8]) -> Result<i64, Malformed> {
    let mut fields = Fields::of(header);
    let mut revision = 0;
    while let Some((number, value)) = fields.next()? {
        if number == 3 {
            revision = value.int64()?;
        }
    }
    Ok(revision)
}

/// A LeaseGrantResponse or LeaseKeepAliveResponse, which have the same fields: id and TTL in seconds.
pub(crate) fn read_lease(message: &[u8]) -> Result<(i64, i64), Malformed> {
    let (mut id, mut ttl_s) = (0, 0);
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (2, Value::Varint(number)) => id = number.cast_signed(),
            (3, Value::Varint(number)) => ttl_s = number.cast_signed(),
            _ => {}
        }
    }
    Ok((id, ttl_s))
}

/// Who answered a StatusRequest, and who leads as far as it knows; 0 is nobody.
pub(crate) fn read_status(message: &[u8]) -> Result<(u64, u64), Malformed> {
    let (mut member, mut leader) = (0, 0);
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => {
                let mut header = Fields::of(value.bytes()?);
                while let Some((number, value)) = header.next()? {
                    if number == 2 {
                        member = value.varint()?;
                    }
                }
            }
            4 => leader = value.varint()?,
            _ => {}
        }
    }
    Ok((member, leader))
}

/// The revision in the header of any response: field 1 is always it.
pub(crate) fn read_header_revision(message: &[u8]) -> Result<i64, Malformed> {
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            return read_revision(value.bytes()?);
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use rand::{Rng, RngExt, SeedableRng};

    #[derive(Clone, PartialEq, prost::Message)]
    struct Header {
        #[prost(uint64, tag = "1")]
        cluster_id: u64,
        #[prost(uint64, tag = "2")]
        member_id: u64,
        #[prost(int64, tag = "3")]
        revision: i64,
        #[prost(uint64, tag = "4")]
        raft_term: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct KeyValue {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(int64, tag = "2")]
        create_revision: i64,
        #[prost(int64, tag = "3")]
        mod_revision: i64,
        #[prost(int64, tag = "4")]
        version: i64,
        #[prost(bytes = "vec", tag = "5")]
        value: Vec<u8>,
        #[prost(int64, tag = "6")]
        lease: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct WireEvent {
        #[prost(int32, tag = "1")]
        kind: i32,
        #[prost(message, optional, tag = "2")]
        kv: Option<KeyValue>,
        #[prost(message, optional, tag = "3")]
        prev_kv: Option<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Response {
        #[prost(message, optional, tag = "1")]
        header: Option<Header>,
        #[prost(int64, tag = "2")]
        watch_id: i64,
        #[prost(bool, tag = "3")]
        created: bool,
        #[prost(bool, tag = "4")]
        canceled: bool,
        #[prost(int64, tag = "5")]
        compact_revision: i64,
        #[prost(string, tag = "6")]
        cancel_reason: String,
        #[prost(bool, tag = "7")]
        fragment: bool,
        #[prost(message, repeated, tag = "11")]
        events: Vec<WireEvent>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Create {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        range_end: Vec<u8>,
        #[prost(int64, tag = "3")]
        start_revision: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Request {
        #[prost(message, optional, tag = "1")]
        create_request: Option<Create>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Put {
        #[prost(bytes = "vec", tag = "1")]
        key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
        #[prost(int64, tag = "3")]
        lease: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Lease {
        #[prost(message, optional, tag = "1")]
        header: Option<Header>,
        #[prost(int64, tag = "2")]
        id: i64,
        #[prost(int64, tag = "3")]
        ttl: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Grant {
        #[prost(int64, tag = "1")]
        ttl: i64,
        #[prost(int64, tag = "2")]
        id: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Status {
        #[prost(message, optional, tag = "1")]
        header: Option<Header>,
        #[prost(string, tag = "2")]
        version: String,
        #[prost(uint64, tag = "4")]
        leader: u64,
    }

    fn header(revision: i64) -> Option<Header> {
        Some(Header { cluster_id: u64::MAX, member_id: 7, revision, raft_term: 2 })
    }

    fn put_event(revision: i64, value: &[u8]) -> WireEvent {
        let kv = KeyValue {
            key: b"k".to_vec(),
            create_revision: 1,
            mod_revision: revision,
            version: 3,
            value: value.to_vec(),
            lease: 9,
        };
        WireEvent { kind: 0, kv: Some(kv.clone()), prev_kv: Some(KeyValue { mod_revision: 1, ..kv }) }
    }

    fn response() -> Response {
        let delete = KeyValue { key: b"gone".to_vec(), mod_revision: 43, ..KeyValue::default() };
        Response {
            header: header(50),
            watch_id: 300,
            events: vec![
                put_event(42, &[1; 300]),
                WireEvent { kind: 1, kv: Some(delete), prev_kv: None },
                put_event(44, b""),
            ],
            ..Response::default()
        }
    }

    fn events(message: &[u8]) -> Result<(WatchHead<'_>, Vec<Event<'_>>), Malformed> {
        let mut response = WatchResponse::read(message)?;
        let mut events = Vec::new();
        while let Some(event) = response.next_event()? {
            events.push(event);
        }
        Ok((response.head, events))
    }

    #[test]
    fn requests_say_what_protobuf_says() {
        for (key, end, start) in [
            (&b"key"[..], &b""[..], 0),
            (b"a", b"b", 1 << 40),
            (&[b'k'; 200], &[b'l'; 300], 1),
            (b"", b"", -1),
        ] {
            let mut message = Vec::new();
            put_watch_create(&mut message, key, end, start);
            let create = Create { key: key.to_vec(), range_end: end.to_vec(), start_revision: start };
            assert_eq!(Request::decode(&message[..]), Ok(Request { create_request: Some(create) }));
        }
        let mut message = Vec::new();
        put_put(&mut message, b"key", b"value", 77);
        let put = Put { key: b"key".to_vec(), value: b"value".to_vec(), lease: 77 };
        assert_eq!(Put::decode(&message[..]), Ok(put));
        message.clear();
        put_lease_grant(&mut message, -5, 60);
        assert_eq!(Grant::decode(&message[..]), Ok(Grant { ttl: 60, id: -5 }));
    }

    #[test]
    fn responses_are_read_as_protobuf_wrote_them() {
        let bytes = response().encode_to_vec();
        let (head, events) = events(&bytes).unwrap();
        assert_eq!(
            (head.revision, head.watch_id, head.is_created, head.is_canceled),
            (50, 300, false, false)
        );
        let seen: Vec<(bool, i64, &[u8], usize)> =
            events.iter().map(|e| (e.is_delete, e.mod_revision, e.key, e.value.len())).collect();
        assert_eq!(seen, [(false, 42, &b"k"[..], 300), (true, 43, b"gone", 0), (false, 44, b"k", 0)]);
        let canceled = Response {
            watch_id: -1,
            canceled: true,
            created: true,
            compact_revision: 12,
            cancel_reason: "because".to_owned(),
            header: None,
            ..Response::default()
        };
        let bytes = canceled.encode_to_vec();
        let head = WatchResponse::read(&bytes).unwrap().head;
        assert_eq!((head.watch_id, head.compact_revision, head.cancel_reason), (-1, 12, &b"because"[..]));
        assert!(head.is_created && head.is_canceled);
        let lease = Lease { header: header(9), id: -3, ttl: 60 }.encode_to_vec();
        assert_eq!(read_lease(&lease), Ok((-3, 60)));
        assert_eq!(read_header_revision(&lease), Ok(9));
        let status = Status { header: header(9), version: "3.7.1".to_owned(), leader: u64::MAX };
        assert_eq!(read_status(&status.encode_to_vec()), Ok((7, u64::MAX)));
    }

    /// Protobuf leaves the order of fields to the writer.
    #[test]
    fn a_head_after_the_events_is_read_too() {
        let only_events = Response { header: None, watch_id: 0, ..response() };
        let only_head = Response { events: Vec::new(), ..response() };
        let bytes = [only_events.encode_to_vec(), only_head.encode_to_vec()].concat();
        let (head, events) = events(&bytes).unwrap();
        assert_eq!((head.watch_id, head.revision, events.len()), (300, 50, 3));
    }

    /// Every prefix and every one-byte change of a response: an error or another response, never a panic.
    #[test]
    fn hostile_responses_are_refused_or_read() {
        let bytes = response().encode_to_vec();
        let mut refused = 0;
        for length in 0..bytes.len() {
            refused += u32::from(events(&bytes[..length]).is_err());
        }
        assert!(bytes.len() / 2 < usize::try_from(refused).unwrap(), "{refused} of {}", bytes.len());
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut garbage = vec![0; 100];
        let mut refused = [0; 3];
        for _ in 0..20_000 {
            let mut wrong = bytes.clone();
            let slot = random.random_range(0..wrong.len());
            wrong[slot] = random.random();
            random.fill_bytes(&mut garbage);
            refused[0] += u32::from(events(&wrong).is_err());
            refused[1] += u32::from(read_lease(&wrong).is_err());
            refused[2] += u32::from(events(&garbage).is_err());
        }
        assert!(refused.iter().all(|&refused| (100..=20_000).contains(&refused)), "{refused:?}");
    }
}
