//! A request in parts: one that is too large for an entry of its own.
//!
//! An entry is copied, sent, synced and applied in one piece, and everything behind it waits. So a large
//! request is cut, and its parts go into the log one at a time between the groups of everybody else
//! (`replica::proposals`). The state machine collects them (`apply::parts`), and the request takes effect where
//! its last part is applied; until then nobody sees any of it.
//!
//! A part is the only request of its group, so it is proposed again, and applied once, as groups are.
//!
//! Bounds: a part holds at most `PART_BYTES_MAX`, a whole request `WHOLE_BYTES_MAX`. Reading checks both.
//! Compatibility: written from a format level on (`Feature::RequestParts`); a reader that does not know the kind of
//! the whole stops, as at any kind that it does not know.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::RequestKind;
use crate::pb::peer as pb;
use crate::types::proto::{put_uint_field, uint_field_len};

/// Most bytes of a part: a sync of a millisecond or two on a disk that takes 800 MB/s.
pub const PART_BYTES_MAX: usize = 1 << 20;

/// Most bytes of a request in parts: above every `--max-request-bytes` that is taken.
pub const WHOLE_BYTES_MAX: usize = 128 << 20;

/// Field number of the bytes, behind the head.
pub(super) const DATA_FIELD: u8 = 6;

/// A part without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Which of its member's requests in parts it belongs to; grows. From 1.
    pub number: u64,
    /// Of the whole.
    pub kind: RequestKind,
    /// Of the whole.
    pub bytes: usize,
    /// Where the part begins in it.
    pub offset: usize,
    /// The request in parts of this member that will not be completed; 0 for none.
    pub given_up: u64,
}

impl Head {
    fn fields(self) -> [(u8, u64); 5] {
        let (bytes, offset) = (self.bytes as u64, self.offset as u64);
        [(1, self.number), (2, self.kind.number().into()), (3, bytes), (4, offset), (5, self.given_up)]
    }

    pub(super) fn len(self) -> usize {
        self.fields().into_iter().map(|(_, value)| uint_field_len(value)).sum()
    }

    pub(super) fn put(self, buffer: &mut BytesMut) {
        for (field, value) in self.fields() {
            put_uint_field(buffer, field, value);
        }
    }
}

/// Why bytes are no part that this version can apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    #[error("{0}")]
    Undecodable(String),
    #[error("it is of a request of kind {0}")]
    Kind(u32),
    #[error("{0}")]
    Impossible(&'static str),
}

/// A part as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub head: Head,
    pub data: Bytes,
}

impl Part {
    /// # Errors
    /// When the bytes are no part that this version can apply.
    pub fn decode(body: Bytes) -> Result<Self, PartError> {
        let part =
            pb::RequestPart::decode(body).map_err(|error| PartError::Undecodable(error.to_string()))?;
        let kind = RequestKind::from_number(part.kind).ok_or(PartError::Kind(part.kind))?;
        if kind == RequestKind::Part {
            return Err(PartError::Impossible("it is part of a part"));
        }
        let bytes = usize::try_from(part.bytes).ok().filter(|bytes| *bytes <= WHOLE_BYTES_MAX);
        let bytes = bytes.ok_or(PartError::Impossible("the whole is too large"))?;
        let rest = usize::try_from(part.offset).ok().and_then(|offset| bytes.checked_sub(offset));
        let rest = rest.ok_or(PartError::Impossible("it begins behind the end"))?;
        if part.data.is_empty() || PART_BYTES_MAX < part.data.len() || rest < part.data.len() {
            return Err(PartError::Impossible("it is empty, too large or reaches past the end"));
        }
        let offset = bytes - rest;
        let head = Head { number: part.number, kind, bytes, offset, given_up: part.given_up };
        Ok(Self { head, data: part.data })
    }

    /// The body of a request of kind `Part`, as `group::put_part` writes it.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Head { number, kind, bytes, offset, given_up } = self.head;
        let part = pb::RequestPart {
            number,
            kind: kind.number(),
            bytes: bytes as u64,
            offset: offset as u64,
            given_up,
            data: self.data.clone(),
        };
        part.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::group::{
        GROUP_HEAD_BYTES, GroupError, decode_group, encode_unnamed, put_group_head, put_part, put_request,
    };
    use crate::request::{Group, GroupId, Origin, Request};
    use crate::types::{MemberId, Ticket};

    const ID: GroupId = GroupId { member: MemberId(7), incarnation: 5, number: 300 };

    fn head() -> Head {
        Head { number: 2, kind: RequestKind::Put, bytes: 300, offset: 256, given_up: 1 }
    }

    #[test]
    fn golden_bytes_of_a_part_in_its_group() {
        let mut buffer = BytesMut::new();
        put_group_head(&mut buffer, ID);
        put_part(&mut buffer, Ticket(9), head(), b"ab", None);
        let golden: &[u8] = b"\x08\x02\x19\x07\0\0\0\0\0\0\0!\x05\0\0\0\0\0\0\0),\x01\0\0\0\0\0\0\x12\x1d\x11\x09\0\0\0\0\0\0\0\x18\x0d\"\x10\x08\x02\x10\x01\x18\xac\x02 \x80\x02(\x012\x02ab";
        assert_eq!(buffer, golden, "what is on disk keeps its meaning");
        let part = Part { head: head(), data: Bytes::from_static(b"ab") };
        let origin = Origin { member: ID.member, ticket: Ticket(9) };
        let requests = vec![Request { origin, kind: RequestKind::Part, body: part.encode(), login: None }];
        assert_eq!(decode_group(buffer.freeze()), Ok(Group { id: Some(ID), requests: requests.clone() }));
        assert_eq!(Part::decode(requests[0].body.clone()), Ok(part));
        assert!(golden.len() - GROUP_HEAD_BYTES < 64, "a part costs little beside its bytes");
    }

    #[test]
    fn a_part_that_cannot_be_is_refused_by_name() {
        let good =
            pb::RequestPart { number: 1, kind: 1, bytes: 8, offset: 6, given_up: 0, data: "ab".into() };
        let decode = |part: &pb::RequestPart| Part::decode(part.encode_to_vec().into());
        decode(&good).unwrap();
        let bad = [
            pb::RequestPart { kind: 13, ..good.clone() },
            pb::RequestPart { bytes: u64::MAX, ..good.clone() },
            pb::RequestPart { bytes: WHOLE_BYTES_MAX as u64 + 1, ..good.clone() },
            pb::RequestPart { offset: 7, ..good.clone() },
            pb::RequestPart { offset: u64::MAX, ..good.clone() },
            pb::RequestPart { data: Bytes::new(), ..good.clone() },
            pb::RequestPart { bytes: 1 << 24, data: vec![0; PART_BYTES_MAX + 1].into(), ..good.clone() },
        ];
        for part in bad {
            assert!(matches!(decode(&part), Err(PartError::Impossible(_))), "{:?}", part.offset);
        }
        assert_eq!(decode(&pb::RequestPart { kind: 77, ..good }), Err(PartError::Kind(77)));
        Part::decode(Bytes::from_static(b"\xff")).unwrap_err();
    }

    #[test]
    fn a_part_in_a_group_without_a_name_or_with_others_is_refused() {
        let part = Part { head: head(), data: Bytes::from_static(b"ab") };
        let group = encode_unnamed(RequestKind::Part, part.encode());
        assert!(matches!(decode_group(group), Err(GroupError::Part(_))));
        let mut buffer = BytesMut::new();
        put_group_head(&mut buffer, ID);
        put_request(&mut buffer, Ticket(1), RequestKind::Put, b"ab", None);
        put_part(&mut buffer, Ticket(9), head(), b"ab", None);
        assert!(matches!(decode_group(buffer.freeze()), Err(GroupError::Part(_))));
    }
}
