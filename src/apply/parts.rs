//! Requests in parts that are not complete yet.
//!
//! The parts of one member's request come in groups of that member, each applied once and in order unless one was
//! lost on its way and proposed again under a later number (`session`, `replica::under_way`). So they are collected by
//! their offsets, and the request is whole when all its bytes are there. A member sends one request in parts after
//! the other; the rest of one that its caller gave up never comes, and the next one's parts say so.
//!
//! Invariants: a function of the log, and so part of the state: a checkpoint holds what was collected. Parts of an
//! earlier start of a member are dropped with the first part of a later one.
//! Bounds: `HELD_BYTES_MAX` a member by the lengths of its requests, beyond which the oldest request is dropped; its caller hears nothing and gives
//! up. Each part is kept as it came, for a checkpoint, and once more in its place in the whole: a request of 50 MiB is
//! then whole without a copy of 50 MiB in one piece.
//! Cost: one copy of each part.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::pb::peer;
use crate::request::{GroupId, Login, Origin, Part, Request, RequestKind};
use crate::types::{MemberId, Ticket};

/// Bytes of one member's requests, what is missing included: twice the largest.
const HELD_BYTES_MAX: usize = 256 << 20;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    members: BTreeMap<MemberId, OfMember>,
}

/// Requests in parts of one start of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OfMember {
    incarnation: u64,
    /// By their numbers.
    requests: BTreeMap<u64, Partial>,
}

/// A request of which something is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Partial {
    ticket: Ticket,
    kind: RequestKind,
    /// By their offsets.
    parts: BTreeMap<usize, Held>,
    held_bytes: usize,
    /// Of the whole length; what is missing is zero.
    body: Vec<u8>,
}

/// A part that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    bytes: usize,
    /// As it came, for a checkpoint.
    encoded: Bytes,
}

impl Parts {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes the part that is the only request of a group that was admitted. The whole request, if it was the last
    /// that was missing; the part itself, if it is none that fits.
    pub fn take(&mut self, id: GroupId, request: Request) -> Option<Request> {
        let Ok(part) = Part::decode(request.body.clone()) else { return Some(request) };
        if let Some(own) = self.members.get_mut(&id.member) {
            own.requests.remove(&part.head.given_up);
        }
        self.collect(
            id.member,
            id.incarnation,
            request.origin.ticket,
            &part,
            &request.body,
            request.login.clone(),
        )
        .unwrap_or_else(|_does_not_fit| Some(request))
    }

    fn collect(
        &mut self,
        member: MemberId,
        incarnation: u64,
        ticket: Ticket,
        part: &Part,
        encoded: &Bytes,
        login: Option<Login>,
    ) -> Result<Option<Request>, String> {
        let head = part.head;
        let entry = self.members.entry(member);
        let own = entry.or_insert_with(|| OfMember { incarnation, requests: BTreeMap::new() });
        if own.incarnation != incarnation {
            *own = OfMember { incarnation, requests: BTreeMap::new() };
        }
        let partial = own.requests.entry(head.number).or_insert_with(|| Partial {
            ticket,
            kind: head.kind,
            parts: BTreeMap::new(),
            held_bytes: 0,
            body: vec![0; head.bytes],
        });
        let fits = (partial.ticket, partial.kind, partial.body.len()) == (ticket, head.kind, head.bytes)
            && partial.has_gap(head.offset, part.data.len());
        if !fits {
            return Err(format!(
                "part at {} of request {} does not fit the others",
                head.offset, head.number
            ));
        }
        partial.body[head.offset..head.offset + part.data.len()].copy_from_slice(&part.data);
        partial.held_bytes += part.data.len();
        partial.parts.insert(head.offset, Held { bytes: part.data.len(), encoded: encoded.clone() });
        let is_whole = partial.held_bytes == partial.body.len();
        let whole = is_whole.then(|| own.requests.remove(&head.number)).flatten().map(|partial| Request {
            origin: Origin { member, ticket },
            kind: head.kind,
            body: Bytes::from(partial.body),
            login,
        });
        while HELD_BYTES_MAX < own.requests.values().map(|partial| partial.body.len()).sum() {
            own.requests.pop_first();
        }
        if own.requests.is_empty() {
            self.members.remove(&member);
        }
        Ok(whole)
    }

    /// Keeps the parts of these members alone.
    pub(super) fn retain(&mut self, is_member: impl Fn(MemberId) -> bool) {
        self.members.retain(|member, _| is_member(*member));
    }

    /// What a checkpoint holds of them, a record a part.
    pub(super) fn to_records(&self) -> Vec<peer::HeldPart> {
        let mut records = Vec::new();
        for (member, own) in &self.members {
            for partial in own.requests.values() {
                records.extend(partial.parts.values().map(|part| peer::HeldPart {
                    member: member.0,
                    incarnation: own.incarnation,
                    ticket: partial.ticket.0,
                    part: part.encoded.clone(),
                }));
            }
        }
        records
    }

    /// Takes back a record.
    pub(super) fn restore(&mut self, record: peer::HeldPart) -> Result<(), String> {
        let part = Part::decode(record.part.clone()).map_err(|error| error.to_string())?;
        let member = MemberId(record.member);
        if self.members.get(&member).is_some_and(|own| own.incarnation != record.incarnation) {
            return Err(format!("two starts of member {member}"));
        }
        match self.collect(member, record.incarnation, Ticket(record.ticket), &part, &record.part, None)? {
            None => Ok(()),
            Some(_) => Err("a request that is whole".to_owned()),
        }
    }
}

impl Partial {
    /// Whether nothing is held yet of so many bytes at `offset`.
    fn has_gap(&self, offset: usize, bytes: usize) -> bool {
        let end = |(offset, held): (&usize, &Held)| offset + held.bytes;
        self.parts.range(..=offset).next_back().map_or(0, end) <= offset
            && self.parts.range(offset..).next().is_none_or(|(next, _)| offset + bytes <= *next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::part::{Head, PART_BYTES_MAX};

    const ME: MemberId = MemberId(1);

    fn id(incarnation: u64) -> GroupId {
        GroupId { member: ME, incarnation, number: 1 }
    }

    fn part(number: u64, bytes: usize, offset: usize, data: &[u8]) -> Request {
        let head = Head { number, kind: RequestKind::Put, bytes, offset, given_up: number - 1 };
        let body = Part { head, data: Bytes::copy_from_slice(data) }.encode();
        let origin = Origin { member: ME, ticket: Ticket(number) };
        Request { origin, kind: RequestKind::Part, body, login: None }
    }

    fn whole(number: u64, body: &'static [u8]) -> Option<Request> {
        let origin = Origin { member: ME, ticket: Ticket(number) };
        Some(Request { origin, kind: RequestKind::Put, body: Bytes::from_static(body), login: None })
    }

    #[test]
    fn parts_in_any_order_make_the_request_and_leave_nothing() {
        let pieces: [(usize, &[u8]); 3] = [(0, b"ab"), (2, b"cde"), (5, b"f")];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut parts = Parts::default();
            let mut taken = Vec::new();
            for place in order {
                let (offset, data) = pieces[place];
                let restored = parts.to_records().into_iter().fold(Parts::default(), |mut parts, record| {
                    parts.restore(record).unwrap();
                    parts
                });
                assert_eq!(restored, parts, "a checkpoint between any two parts");
                taken.push(parts.take(id(5), part(1, 6, offset, data)));
            }
            assert_eq!(taken, [None, None, whole(1, b"abcdef")], "{order:?}");
            assert!(parts.is_empty());
        }
    }

    #[test]
    fn what_was_given_up_or_is_of_an_earlier_start_is_dropped() {
        let mut parts = Parts::default();
        assert_eq!(parts.take(id(5), part(1, 6, 0, b"ab")), None);
        assert_eq!(parts.take(id(5), part(2, 4, 0, b"ab")), None);
        assert_eq!(parts.to_records().len(), 1, "the second names the first");
        assert_eq!(parts.take(id(6), part(1, 4, 2, b"cd")), None);
        assert_eq!(parts.take(id(6), part(1, 4, 0, b"ab")), whole(1, b"abcd"));
        assert!(parts.is_empty());
        parts.take(id(6), part(2, 4, 0, b"ab"));
        parts.retain(|member| member != ME);
        assert!(parts.is_empty());
    }

    #[test]
    fn a_part_that_does_not_fit_comes_back_and_changes_nothing() {
        let mut parts = Parts::default();
        assert_eq!(parts.take(id(5), part(1, 6, 1, b"bcd")), None);
        let before = parts.clone();
        for wrong in [
            part(1, 6, 1, b"bcd"),
            part(1, 6, 0, b"ab"),
            part(1, 6, 2, b"x"),
            part(1, 6, 3, b"xy"),
            part(1, 5, 4, b"x"),
        ] {
            assert_eq!(parts.take(id(5), wrong.clone()), Some(wrong));
            assert_eq!(parts, before);
        }
    }

    #[test]
    fn what_a_member_leaves_behind_is_bounded() {
        let mut parts = Parts::default();
        let data = vec![7; PART_BYTES_MAX];
        let whole_bytes = 2 * PART_BYTES_MAX;
        let count = HELD_BYTES_MAX / whole_bytes + 3;
        for number in 1..=count as u64 {
            let Request { origin, kind, body, .. } = part(number, whole_bytes, 0, &data);
            let mut part = Part::decode(body).unwrap();
            part.head.given_up = 0;
            assert_eq!(parts.take(id(5), Request { origin, kind, body: part.encode(), login: None }), None);
        }
        assert_eq!(parts.to_records().len(), count - 3);
    }
}
