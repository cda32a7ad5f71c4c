//! A request as it travels through the log, and the group of them that is one entry.
//!
//! An entry's data is a `pinion.peer.v1.Group`: a format number and the requests that were waiting
//! when the previous sync finished. A group is written by hand in one pass (it grows while requests
//! arrive) and read by prost; the bodies of a decoded group are slices of the entry's own bytes.
//!
//! Invariants: an empty entry is an empty group, which is how every term begins. What this version
//! does not know is an error that names it, never skipped: a member that ignored a request that
//! others apply would hold other data than they do.
//! Cost: encode one copy of each body; decode none.
//! Compatibility: `FORMAT` and the kinds' numbers are on disk.

use bytes::{Buf as _, BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{
    WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

use crate::pb::peer as pb;
use crate::types::{LogIndex, MemberId, Term, Ticket};

/// The group's version. It rises when an older reader would misread.
const FORMAT: u32 = 1;

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub member: MemberId,
    pub ticket: Ticket,
}

/// The log entry in which a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EntryId {
    pub index: LogIndex,
    pub term: Term,
}

/// What a request's body is. The numbers are on disk: never reused, never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RequestKind {
    /// `etcdserverpb.PutRequest`
    Put = 1,
    /// `etcdserverpb.DeleteRangeRequest`
    DeleteRange = 2,
    /// `etcdserverpb.TxnRequest`
    Txn = 3,
    /// `etcdserverpb.CompactionRequest`
    Compact = 4,
    /// `pinion.peer.v1.PublishMember`
    PublishMember = 5,
    /// `etcdserverpb.LeaseGrantRequest`, its id chosen and its TTL within bounds.
    LeaseGrant = 6,
    /// `etcdserverpb.LeaseRevokeRequest`
    LeaseRevoke = 7,
    /// `pinion.peer.v1.LeaseExpire`
    LeaseExpire = 8,
    /// `pinion.peer.v1.LeaseCheckpoint`
    LeaseCheckpoint = 9,
    /// `etcdserverpb.MemberUpdateRequest`
    MemberUpdate = 10,
    /// `etcdserverpb.AlarmRequest`
    Alarm = 11,
}

impl RequestKind {
    /// The number on disk.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// `None` for a number of a later version.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Put),
            2 => Some(Self::DeleteRange),
            3 => Some(Self::Txn),
            4 => Some(Self::Compact),
            5 => Some(Self::PublishMember),
            6 => Some(Self::LeaseGrant),
            7 => Some(Self::LeaseRevoke),
            8 => Some(Self::LeaseExpire),
            9 => Some(Self::LeaseCheckpoint),
            10 => Some(Self::MemberUpdate),
            11 => Some(Self::Alarm),
            _ => None,
        }
    }
}

/// One request: the client's own bytes, not a re-encoded copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub origin: Origin,
    pub kind: RequestKind,
    pub body: Bytes,
}

/// Why an entry's data is no group that this version can apply. The member must stop and say so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    #[error("group of requests does not decode: {0}")]
    Undecodable(String),
    #[error("group of requests of format {0}, this version reads format {FORMAT}: update this member")]
    Format(u32),
    #[error("request of kind {0}, which this version does not know: update this member")]
    Kind(u32),
}

/// Field numbers in `pinion.peer.v1`.
mod tag {
    pub(super) const GROUP_FORMAT: u32 = 1;
    pub(super) const GROUP_REQUESTS: u32 = 2;
    pub(super) const ORIGIN_MEMBER: u32 = 1;
    pub(super) const TICKET: u32 = 2;
    pub(super) const KIND: u32 = 3;
    pub(super) const BODY: u32 = 4;
}

/// Two fixed64 fields, each with its one-byte key.
const ORIGIN_BYTES: usize = 2 * (1 + 8);

/// Bytes that open every group.
#[must_use]
pub fn group_head_bytes() -> usize {
    key_len(tag::GROUP_FORMAT) + encoded_len_varint(u64::from(FORMAT))
}

fn fields_bytes(kind: RequestKind, body_bytes: usize) -> usize {
    let kind_bytes = key_len(tag::KIND) + encoded_len_varint(u64::from(kind.number()));
    ORIGIN_BYTES + kind_bytes + key_len(tag::BODY) + encoded_len_varint(body_bytes as u64) + body_bytes
}

/// Bytes that a request adds to a group.
#[must_use]
pub fn request_bytes(kind: RequestKind, body_bytes: usize) -> usize {
    let fields = fields_bytes(kind, body_bytes);
    key_len(tag::GROUP_REQUESTS) + encoded_len_varint(fields as u64) + fields
}

/// Opens a group.
pub fn put_group_head(buffer: &mut BytesMut) {
    encode_key(tag::GROUP_FORMAT, WireType::Varint, buffer);
    encode_varint(u64::from(FORMAT), buffer);
}

/// Adds a request to an opened group.
pub fn put_request(buffer: &mut BytesMut, origin: Origin, kind: RequestKind, body: &[u8]) {
    encode_key(tag::GROUP_REQUESTS, WireType::LengthDelimited, buffer);
    encode_varint(fields_bytes(kind, body.len()) as u64, buffer);
    encode_key(tag::ORIGIN_MEMBER, WireType::SixtyFourBit, buffer);
    buffer.put_u64_le(origin.member.0);
    encode_key(tag::TICKET, WireType::SixtyFourBit, buffer);
    buffer.put_u64_le(origin.ticket.0);
    encode_key(tag::KIND, WireType::Varint, buffer);
    encode_varint(u64::from(kind.number()), buffer);
    encode_key(tag::BODY, WireType::LengthDelimited, buffer);
    encode_varint(body.len() as u64, buffer);
    buffer.put_slice(body);
}

/// Who waits for the first request of a group that this code wrote; `None` when the bytes look otherwise.
/// Reads no further, so it costs the same however long the group is.
#[must_use]
pub fn first_origin(mut data: &[u8]) -> Option<Origin> {
    let mut expect = |tag: u32, wire: WireType| {
        let (number, found) = decode_key(&mut data).ok()?;
        ((number, found) == (tag, wire)).then_some(())?;
        match wire {
            WireType::SixtyFourBit => data.try_get_u64_le().ok(),
            _ => decode_varint(&mut data).ok(),
        }
    };
    expect(tag::GROUP_FORMAT, WireType::Varint).filter(|format| *format == u64::from(FORMAT))?;
    expect(tag::GROUP_REQUESTS, WireType::LengthDelimited)?;
    let member = MemberId(expect(tag::ORIGIN_MEMBER, WireType::SixtyFourBit)?);
    let ticket = Ticket(expect(tag::TICKET, WireType::SixtyFourBit)?);
    Some(Origin { member, ticket })
}

/// An entry's data for these requests.
#[must_use]
pub fn encode_group(requests: &[Request]) -> Bytes {
    if requests.is_empty() {
        return Bytes::new();
    }
    let bytes: usize = requests.iter().map(|request| request_bytes(request.kind, request.body.len())).sum();
    let mut buffer = BytesMut::with_capacity(group_head_bytes() + bytes);
    put_group_head(&mut buffer);
    for request in requests {
        put_request(&mut buffer, request.origin, request.kind, &request.body);
    }
    buffer.freeze()
}

/// The requests of an entry. Their bodies share `data`.
///
/// # Errors
/// When the bytes are no group, or one that only a later version can apply.
pub fn decode_group(data: Bytes) -> Result<Vec<Request>, GroupError> {
    if data.is_empty() {
        return Ok(Vec::new());
    }
    let group = pb::Group::decode(data).map_err(|error| GroupError::Undecodable(error.to_string()))?;
    if group.format != FORMAT {
        return Err(GroupError::Format(group.format));
    }
    let requests = group.requests.into_iter().map(|request| {
        let kind = RequestKind::from_number(request.kind).ok_or(GroupError::Kind(request.kind))?;
        let origin = Origin { member: MemberId(request.origin_member), ticket: Ticket(request.ticket) };
        Ok(Request { origin, kind, body: request.body })
    });
    requests.collect()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    use super::*;

    const KINDS: [RequestKind; 11] = [
        RequestKind::Put,
        RequestKind::DeleteRange,
        RequestKind::Txn,
        RequestKind::Compact,
        RequestKind::PublishMember,
        RequestKind::LeaseGrant,
        RequestKind::LeaseRevoke,
        RequestKind::LeaseExpire,
        RequestKind::LeaseCheckpoint,
        RequestKind::MemberUpdate,
        RequestKind::Alarm,
    ];

    fn request(member: u64, ticket: u64, kind: RequestKind, body: &[u8]) -> Request {
        let origin = Origin { member: MemberId(member), ticket: Ticket(ticket) };
        Request { origin, kind, body: Bytes::copy_from_slice(body) }
    }

    #[test]
    fn group_decodes_to_the_requests_it_was_made_of_in_exactly_the_bytes_foretold() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let count = random.random_range(1..20);
            let requests: Vec<Request> = (0..count)
                .map(|_| {
                    let mut body = vec![0; random.random_range(0..300)];
                    random.fill_bytes(&mut body);
                    let small = random.random_bool(0.2);
                    let (member, ticket) = if small { (0, 0) } else { (random.random(), random.random()) };
                    request(member, ticket, KINDS[random.random_range(0..KINDS.len())], &body)
                })
                .collect();
            let data = encode_group(&requests);
            let foretold: usize = requests.iter().map(|r| request_bytes(r.kind, r.body.len())).sum();
            assert_eq!(data.len(), group_head_bytes() + foretold, "seed {seed}");
            assert_eq!(first_origin(&data), Some(requests[0].origin), "seed {seed}");
            assert_eq!(decode_group(data), Ok(requests), "seed {seed}");
        }
    }

    #[test]
    fn decoded_bodies_are_slices_of_the_entry() {
        let data = encode_group(&[request(1, 2, RequestKind::Put, b"some body")]);
        let range = data.as_ptr_range();
        let decoded = decode_group(data.clone()).unwrap();
        assert!(range.contains(&decoded[0].body.as_ptr()));
    }

    #[test]
    fn empty_entry_is_an_empty_group() {
        assert_eq!(decode_group(Bytes::new()), Ok(Vec::new()));
        assert_eq!(encode_group(&[]), Bytes::new());
    }

    #[test]
    fn unknown_format_and_unknown_kind_are_named_not_skipped() {
        let known = pb::Request { kind: 1, ..Default::default() };
        let later = pb::Group { format: 2, requests: vec![known.clone()] }.encode_to_vec();
        assert_eq!(decode_group(later.into()), Err(GroupError::Format(2)));
        let unknown = pb::Request { kind: 77, ..Default::default() };
        let group = pb::Group { format: FORMAT, requests: vec![known, unknown] }.encode_to_vec();
        let error = decode_group(group.into()).unwrap_err();
        assert_eq!(error, GroupError::Kind(77));
        assert_eq!(
            error.to_string(),
            "request of kind 77, which this version does not know: update this member"
        );
    }

    #[test]
    fn golden_bytes_of_a_group_still_mean_the_same_and_no_kind_has_another_number() {
        let numbers = KINDS.map(RequestKind::number);
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert!(KINDS.iter().all(|kind| RequestKind::from_number(kind.number()) == Some(*kind)));
        assert!([0, 1_000].iter().all(|number| RequestKind::from_number(*number).is_none()));
        let requests =
            [request(7, 1, RequestKind::Put, b"ab"), request(u64::MAX, 300, RequestKind::Alarm, b"")];
        let golden: &[u8] = b"\x08\x01\x12\x18\x09\x07\x00\x00\x00\x00\x00\x00\x00\x11\x01\x00\x00\x00\x00\x00\x00\x00\x18\x01\"\x02ab\x12\x16\x09\xff\xff\xff\xff\xff\xff\xff\xff\x11,\x01\x00\x00\x00\x00\x00\x00\x18\x0b\"\x00";
        assert_eq!(encode_group(&requests), golden, "raise FORMAT and keep the old bytes readable");
        assert_eq!(decode_group(Bytes::from_static(golden)), Ok(requests.to_vec()));
    }

    #[test]
    fn every_cut_and_every_flip_of_a_group_is_an_answer_not_a_panic() {
        let whole = encode_group(&[
            request(7, 1, RequestKind::Put, b"abc"),
            request(7, 2, RequestKind::Txn, &[0xff; 40]),
        ]);
        for cut in 1..whole.len() {
            // A cut between two fields of the group leaves a shorter group; anywhere else, none.
            if let Ok(requests) = decode_group(whole.slice(..cut)) {
                assert!(requests.len() < 2, "cut at {cut}");
            }
            let _answered = first_origin(&whole[..cut]);
        }
        for offset in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.to_vec();
                bytes[offset] ^= 1 << bit;
                let _answered = first_origin(&bytes);
                drop(decode_group(bytes.into()));
            }
        }
        for seed in 0..2_000 {
            let mut bytes = vec![0; 64];
            StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
            drop(decode_group(bytes.into()));
        }
    }
}
