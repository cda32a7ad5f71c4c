//! A request as it travels through the log, and the group of them that is one entry.
//!
//! An entry's data is a `pinion.peer.v1.Group`: a format number, the group's name, and the requests that
//! were waiting when the previous sync finished. A group is written by hand in one pass (it grows while
//! requests arrive) and read by prost; the bodies of a decoded group are slices of the entry's own bytes.
//! The name makes it possible to propose a group again without applying it twice: see `session`.
//!
//! Invariants: an empty entry is an empty group, which is how every term begins. What this version
//! does not know is an error that names it, never skipped: a member that ignored a request that
//! others apply would hold other data than they do.
//! Cost: encode one copy of each body; decode none.
//! Compatibility: `FORMAT` and the kinds' numbers are on disk. Format 1, whose groups had no name and whose
//! requests each had their member, is still read, and still written where a request needs no name: see
//! `encode_unnamed`. A new format or kind is written from its format level on (`types::format`).

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use super::part::{self, PartError};
use super::{Login, Origin, RequestKind};
use crate::pb::peer as pb;
use crate::types::proto::{
    FIXED64_FIELD_LEN, message_field_len, put_fixed64_field, put_message_head, put_uint_field,
    take_fixed64_field, take_uint_field, uint_field_len,
};
use crate::types::{MemberId, Ticket};

/// The group's version. It rises when an older reader would misread.
const FORMAT: u32 = 2;

/// The version of a group without a name.
const FORMAT_UNNAMED: u32 = 1;

/// Names a group among all that were ever proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupId {
    /// Whose clients made the requests.
    pub member: MemberId,
    /// The member's start; grows from one to the next.
    pub incarnation: u64,
    /// Grows from group to group of one start. From 1.
    pub number: u64,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Absent in format 1, and of an empty entry.
    pub id: Option<GroupId>,
    pub requests: Vec<Request>,
}

/// One request: the client's own bytes, not a re-encoded copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub origin: Origin,
    pub kind: RequestKind,
    pub body: Bytes,
    /// Absent where nobody has logged in.
    pub login: Option<Login>,
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
    #[error("part of a request that cannot be: {0}")]
    Part(&'static str),
}

/// Field numbers in `pinion.peer.v1`.
mod field {
    pub(super) const GROUP_FORMAT: u8 = 1;
    pub(super) const GROUP_REQUESTS: u8 = 2;
    pub(super) const GROUP_MEMBER: u8 = 3;
    pub(super) const GROUP_INCARNATION: u8 = 4;
    pub(super) const GROUP_NUMBER: u8 = 5;
    pub(super) const TICKET: u8 = 2;
    pub(super) const KIND: u8 = 3;
    pub(super) const BODY: u8 = 4;
    pub(super) const USER: u8 = 5;
    pub(super) const AUTH_REVISION: u8 = 6;
}

/// Bytes that open every group: the format, and three fixed64 fields.
pub const GROUP_HEAD_BYTES: usize = uint_field_len(FORMAT as u64) + 3 * FIXED64_FIELD_LEN;

fn fields_bytes(kind: RequestKind, body_bytes: usize, login: Option<&Login>) -> usize {
    let login_bytes =
        login.map_or(0, |login| message_field_len(login.name.len()) + uint_field_len(login.revision));
    FIXED64_FIELD_LEN + uint_field_len(kind.number().into()) + message_field_len(body_bytes) + login_bytes
}

/// Bytes that a request adds to a group.
#[must_use]
pub fn request_bytes(kind: RequestKind, body_bytes: usize, login: Option<&Login>) -> usize {
    message_field_len(fields_bytes(kind, body_bytes, login))
}

/// Opens a group.
pub fn put_group_head(buffer: &mut BytesMut, id: GroupId) {
    put_uint_field(buffer, field::GROUP_FORMAT, FORMAT.into());
    put_fixed64_field(buffer, field::GROUP_MEMBER, id.member.0);
    put_fixed64_field(buffer, field::GROUP_INCARNATION, id.incarnation);
    put_fixed64_field(buffer, field::GROUP_NUMBER, id.number);
}

/// Adds a request of the group's member to an opened group. Its login stands behind it, and only where rights
/// are asked for, which the format level allows.
pub fn put_request(
    buffer: &mut BytesMut,
    ticket: Ticket,
    kind: RequestKind,
    body: &[u8],
    login: Option<&Login>,
) {
    put_message_head(buffer, field::GROUP_REQUESTS, fields_bytes(kind, body.len(), login));
    put_fixed64_field(buffer, field::TICKET, ticket.0);
    put_uint_field(buffer, field::KIND, kind.number().into());
    // Present even when it is empty, as in the first version that wrote it.
    put_message_head(buffer, field::BODY, body.len());
    buffer.put_slice(body);
    put_login(buffer, login);
}

/// Adds a part of a request of the group's member to an opened group.
pub fn put_part(buffer: &mut BytesMut, ticket: Ticket, head: part::Head, data: &[u8], login: Option<&Login>) {
    let body_bytes = head.len() + message_field_len(data.len());
    put_message_head(buffer, field::GROUP_REQUESTS, fields_bytes(RequestKind::Part, body_bytes, login));
    put_fixed64_field(buffer, field::TICKET, ticket.0);
    put_uint_field(buffer, field::KIND, RequestKind::Part.number().into());
    put_message_head(buffer, field::BODY, body_bytes);
    head.put(buffer);
    put_message_head(buffer, part::DATA_FIELD, data.len());
    buffer.put_slice(data);
    put_login(buffer, login);
}

fn put_login(buffer: &mut BytesMut, login: Option<&Login>) {
    if let Some(login) = login {
        put_message_head(buffer, field::USER, login.name.len());
        buffer.put_slice(&login.name);
        put_uint_field(buffer, field::AUTH_REVISION, login.revision);
    }
}

/// The name of a group that this code wrote; `None` when the bytes look otherwise. Reads no further, so it
/// costs the same however long the group is.
#[must_use]
pub fn group_id(mut data: &[u8]) -> Option<GroupId> {
    let format = take_uint_field(&mut data, field::GROUP_FORMAT)?;
    (format == u64::from(FORMAT)).then_some(())?;
    let member = MemberId(take_fixed64_field(&mut data, field::GROUP_MEMBER)?);
    let incarnation = take_fixed64_field(&mut data, field::GROUP_INCARNATION)?;
    let number = take_fixed64_field(&mut data, field::GROUP_NUMBER)?;
    Some(GroupId { member, incarnation, number })
}

/// A copy of a group that this code wrote, under another number.
///
/// # Panics
/// When the bytes are no such group.
#[must_use]
pub fn renumbered(data: &[u8], number: u64) -> Bytes {
    let id = group_id(data).expect("this code wrote the group");
    let mut buffer = BytesMut::with_capacity(data.len());
    put_group_head(&mut buffer, GroupId { number, ..id });
    buffer.extend_from_slice(&data[GROUP_HEAD_BYTES..]);
    buffer.freeze()
}

/// An entry's data for these requests, which are all of the group's member.
#[must_use]
pub fn encode_group(id: GroupId, requests: &[Request]) -> Bytes {
    let bytes: usize = requests
        .iter()
        .map(|request| request_bytes(request.kind, request.body.len(), request.login.as_ref()))
        .sum();
    let mut buffer = BytesMut::with_capacity(GROUP_HEAD_BYTES + bytes);
    put_group_head(&mut buffer, id);
    for request in requests {
        assert!(request.origin.member == id.member, "a group's requests are its member's");
        let login = request.login.as_ref();
        put_request(&mut buffer, request.origin.ticket, request.kind, &request.body, login);
    }
    buffer.freeze()
}

/// An entry's data for one request that nobody waits for and that may be applied any number of times. It has
/// no name, so no member proposes it again, to a leader who may know less than the one that it was made by.
#[must_use]
pub fn encode_unnamed(kind: RequestKind, body: Bytes) -> Bytes {
    encode_unnamed_by(kind, body, None)
}

/// The same, in somebody's name.
#[must_use]
pub fn encode_unnamed_by(kind: RequestKind, body: Bytes, login: Option<&Login>) -> Bytes {
    let (user, auth_revision) = login.map_or((Bytes::new(), 0), |login| (login.name.clone(), login.revision));
    let request = pb::Request { kind: kind.number(), body, user, auth_revision, ..Default::default() };
    pb::Group { format: FORMAT_UNNAMED, requests: vec![request], ..Default::default() }.encode_to_vec().into()
}

/// What an entry holds. The bodies share `data`.
///
/// # Errors
/// When the bytes are no group, or one that only a later version can apply.
pub fn decode_group(data: Bytes) -> Result<Group, GroupError> {
    if data.is_empty() {
        return Ok(Group::default());
    }
    let group = pb::Group::decode(data).map_err(|error| GroupError::Undecodable(error.to_string()))?;
    let id = match group.format {
        FORMAT_UNNAMED => None,
        FORMAT => Some(GroupId {
            member: MemberId(group.member),
            incarnation: group.incarnation,
            number: group.number,
        }),
        later => return Err(GroupError::Format(later)),
    };
    let count = group.requests.len();
    let requests = group.requests.into_iter().map(|request| {
        let kind = RequestKind::from_number(request.kind).ok_or(GroupError::Kind(request.kind))?;
        if kind == RequestKind::Part {
            part::Part::decode(request.body.clone()).map_err(|error| match error {
                PartError::Undecodable(what) => GroupError::Undecodable(what),
                PartError::Kind(kind) => GroupError::Kind(kind),
                PartError::Impossible(what) => GroupError::Part(what),
            })?;
            if id.is_none() || count != 1 {
                return Err(GroupError::Part("its group has no name, or others in it"));
            }
        }
        let member = id.map_or(MemberId(request.origin_member), |id| id.member);
        // No state of users and roles has revision 0.
        let login = (request.auth_revision != 0)
            .then_some(Login { name: request.user, revision: request.auth_revision });
        let origin = Origin { member, ticket: Ticket(request.ticket) };
        Ok(Request { origin, kind, body: request.body, login })
    });
    Ok(Group { id, requests: requests.collect::<Result<_, GroupError>>()? })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    use super::*;

    const KINDS: [RequestKind; 24] = [
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
        RequestKind::FormatLevel,
        RequestKind::AuthEnable,
        RequestKind::AuthDisable,
        RequestKind::Authenticate,
        RequestKind::UserAdd,
        RequestKind::UserDelete,
        RequestKind::UserChangePassword,
        RequestKind::UserGrantRole,
        RequestKind::UserRevokeRole,
        RequestKind::RoleAdd,
        RequestKind::RoleDelete,
        RequestKind::RoleGrantPermission,
        RequestKind::RoleRevokePermission,
    ];

    fn request(member: u64, ticket: u64, kind: RequestKind, body: &[u8]) -> Request {
        let origin = Origin { member: MemberId(member), ticket: Ticket(ticket) };
        Request { origin, kind, body: Bytes::copy_from_slice(body), login: None }
    }

    fn id(member: u64) -> GroupId {
        GroupId { member: MemberId(member), incarnation: 5, number: 300 }
    }

    #[test]
    fn group_decodes_to_the_requests_it_was_made_of_in_exactly_the_bytes_foretold() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let count = random.random_range(1..20);
            let member = if random.random_bool(0.2) { 0 } else { random.random() };
            let id =
                GroupId { member: MemberId(member), incarnation: random.random(), number: random.random() };
            let requests: Vec<Request> = (0..count)
                .map(|_| {
                    let mut body = vec![0; random.random_range(0..300)];
                    random.fill_bytes(&mut body);
                    let ticket = if random.random_bool(0.2) { 0 } else { random.random() };
                    let kind = KINDS[random.random_range(0..KINDS.len())];
                    let login = match random.random_range(0..4) {
                        0 => Some(Login::member()),
                        1 => Some(Login { name: body.clone().into(), revision: random.random_range(1..400) }),
                        _ => None,
                    };
                    Request { login, ..request(member, ticket, kind, &body) }
                })
                .collect();
            let data = encode_group(id, &requests);
            let foretold: usize =
                requests.iter().map(|r| request_bytes(r.kind, r.body.len(), r.login.as_ref())).sum();
            assert_eq!(data.len(), GROUP_HEAD_BYTES + foretold, "seed {seed}");
            assert_eq!(group_id(&data), Some(id), "seed {seed}");
            let again = renumbered(&data, 7);
            assert_eq!(
                decode_group(data),
                Ok(Group { id: Some(id), requests: requests.clone() }),
                "seed {seed}"
            );
            let id = Some(GroupId { number: 7, ..id });
            assert_eq!(decode_group(again), Ok(Group { id, requests }), "seed {seed}");
        }
    }

    #[test]
    fn decoded_bodies_are_slices_of_the_entry() {
        let data = encode_group(id(1), &[request(1, 2, RequestKind::Put, b"some body")]);
        let range = data.as_ptr_range();
        let decoded = decode_group(data.clone()).unwrap();
        assert!(range.contains(&decoded.requests[0].body.as_ptr()));
    }

    #[test]
    fn empty_entry_is_an_empty_group() {
        assert_eq!(decode_group(Bytes::new()), Ok(Group::default()));
    }

    #[test]
    fn unknown_format_and_unknown_kind_are_named_not_skipped() {
        let known = pb::Request { kind: 1, ..Default::default() };
        let group = |format, requests| pb::Group { format, requests, ..Default::default() }.encode_to_vec();
        let later = group(FORMAT + 1, vec![known.clone()]);
        assert_eq!(decode_group(later.into()), Err(GroupError::Format(FORMAT + 1)));
        let unknown = pb::Request { kind: 77, ..Default::default() };
        let group = group(FORMAT, vec![known, unknown]);
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
        assert_eq!(numbers[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(numbers[12..], [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);
        assert!(KINDS.iter().all(|kind| RequestKind::from_number(kind.number()) == Some(*kind)));
        assert!([0, 1_000].iter().all(|number| RequestKind::from_number(*number).is_none()));
        let requests = vec![request(7, 1, RequestKind::Put, b"ab"), request(7, 300, RequestKind::Alarm, b"")];
        let golden: &[u8] = b"\x08\x02\x19\x07\0\0\0\0\0\0\0!\x05\0\0\0\0\0\0\0),\x01\0\0\0\0\0\0\x12\x0f\x11\x01\0\0\0\0\0\0\0\x18\x01\"\x02ab\x12\x0d\x11,\x01\0\0\0\0\0\0\x18\x0b\"\0";
        assert_eq!(encode_group(id(7), &requests), golden, "raise FORMAT and keep the old bytes readable");
        assert_eq!(decode_group(Bytes::from_static(golden)), Ok(Group { id: Some(id(7)), requests }));

        let requests =
            vec![request(7, 1, RequestKind::Put, b"ab"), request(u64::MAX, 300, RequestKind::Alarm, b"")];
        let golden: &[u8] = b"\x08\x01\x12\x18\x09\x07\x00\x00\x00\x00\x00\x00\x00\x11\x01\x00\x00\x00\x00\x00\x00\x00\x18\x01\"\x02ab\x12\x16\x09\xff\xff\xff\xff\xff\xff\xff\xff\x11,\x01\x00\x00\x00\x00\x00\x00\x18\x0b\"\x00";
        assert_eq!(decode_group(Bytes::from_static(golden)), Ok(Group { id: None, requests }), "format 1");
        assert_eq!(group_id(golden), None);
    }

    #[test]
    fn golden_bytes_of_a_request_with_a_login() {
        let login = Some(Login { name: Bytes::from_static(b"al"), revision: 300 });
        let requests = vec![Request { login, ..request(7, 1, RequestKind::Put, b"ab") }];
        let golden: &[u8] = b"\x08\x02\x19\x07\0\0\0\0\0\0\0!\x05\0\0\0\0\0\0\0),\x01\0\0\0\0\0\0\x12\x16\x11\x01\0\0\0\0\0\0\0\x18\x01\"\x02ab*\x02al0\xac\x02";
        assert_eq!(encode_group(id(7), &requests), golden);
        assert_eq!(decode_group(Bytes::from_static(golden)), Ok(Group { id: Some(id(7)), requests }));
    }

    /// Release 0.1.0 reads this as a request of a kind that it does not know, and stops by name.
    #[test]
    fn golden_bytes_of_the_entry_that_raises_the_format_level() {
        let golden: &[u8] = b"\x08\x01\x12\x06\x18\x0c\"\x02\x08\x01";
        let body = Bytes::from(pb::FormatLevel { level: 1 }.encode_to_vec());
        let data = encode_unnamed(RequestKind::FormatLevel, body.clone());
        assert_eq!(&data[..], golden);
        assert_eq!(group_id(&data), None, "nobody proposes it again");
        let requests = vec![request(0, 0, RequestKind::FormatLevel, &body)];
        assert_eq!(decode_group(data), Ok(Group { id: None, requests }));
    }

    #[test]
    fn every_cut_and_every_flip_of_a_group_is_an_answer_not_a_panic() {
        let requests =
            [request(7, 1, RequestKind::Put, b"abc"), request(7, 2, RequestKind::Txn, &[0xff; 40])];
        let whole = encode_group(id(7), &requests);
        for cut in 1..whole.len() {
            // A cut between two fields of the group leaves a shorter group; anywhere else, none.
            if let Ok(group) = decode_group(whole.slice(..cut)) {
                assert!(group.requests.len() < 2, "cut at {cut}");
            }
            let _answered = group_id(&whole[..cut]);
        }
        for offset in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.to_vec();
                bytes[offset] ^= 1 << bit;
                let _answered = group_id(&bytes);
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
