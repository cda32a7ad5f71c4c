//! Large requests on their way into the log: cut into parts, one request after the other.
//!
//! What a part means is `request::part`'s; when one leaves is `proposals`'.
//!
//! Invariant: one request at a time is cut, in the order they came, so at most one is half cut.
//! Cost: a part is copied once, when it is cut; until then a request is what its caller sent.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::group::Group;
use crate::request::group;
use crate::request::part::{Head, PART_BYTES_MAX};
use crate::request::{GroupId, Login, RequestKind};
use crate::types::Ticket;

/// Bytes of a part's group beside its data and the name of its user, at most.
const OVERHEAD_BYTES: usize = group::GROUP_HEAD_BYTES + 128;

/// A request of which a part is still to be cut.
#[derive(Debug)]
struct Large {
    number: u64,
    ticket: Ticket,
    kind: RequestKind,
    body: Bytes,
    /// Goes with each part; that of the last one counts.
    login: Option<Login>,
    /// Bytes that are cut.
    cut: usize,
    /// When it came.
    tick: u64,
}

/// Requests that wait to be cut.
#[derive(Debug)]
pub(super) struct LargeRequests {
    part_bytes: usize,
    /// Only the first may be half cut.
    waiting: VecDeque<Large>,
    /// Of what is not cut.
    bytes: usize,
    last_number: u64,
    /// The request that was half cut when it was given up last.
    given_up: u64,
}

impl LargeRequests {
    pub(super) fn new(part_bytes: usize) -> Self {
        assert!((1..=PART_BYTES_MAX).contains(&part_bytes), "{part_bytes} bytes a part");
        Self { part_bytes, waiting: VecDeque::new(), bytes: 0, last_number: 0, given_up: 0 }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(
        &mut self,
        ticket: Ticket,
        kind: RequestKind,
        body: Bytes,
        login: Option<Login>,
        tick: u64,
    ) {
        assert!(!body.is_empty(), "what is empty has no part");
        self.bytes += body.len();
        self.last_number += 1;
        self.waiting.push_back(Large { number: self.last_number, ticket, kind, body, login, cut: 0, tick });
    }

    /// Most bytes of the next part's group; 0 when nothing waits.
    pub(super) fn next_group_bytes(&self) -> usize {
        self.waiting.front().map_or(0, |large| {
            let name_bytes = large.login.as_ref().map_or(0, |login| login.name.len());
            (large.body.len() - large.cut).min(self.part_bytes) + OVERHEAD_BYTES + name_bytes
        })
    }

    /// Cuts the next part, as a group of this name.
    pub(super) fn cut(&mut self, id: impl FnOnce() -> GroupId) -> Option<Group> {
        let large = self.waiting.front_mut()?;
        let end = large.body.len().min(large.cut + self.part_bytes);
        let data = &large.body[large.cut..end];
        let head = Head {
            number: large.number,
            kind: large.kind,
            bytes: large.body.len(),
            offset: large.cut,
            given_up: self.given_up,
        };
        let id = id();
        let mut buffer = BytesMut::with_capacity(data.len() + OVERHEAD_BYTES);
        group::put_group_head(&mut buffer, id);
        group::put_part(&mut buffer, large.ticket, head, data, large.login.as_ref());
        self.bytes -= data.len();
        large.cut = end;
        let opened_tick = large.tick;
        self.waiting.pop_front_if(|large| large.cut == large.body.len());
        Some(Group { data: buffer.freeze(), number: id.number, opened_tick, is_part: true })
    }

    /// Takes out the requests that came before `tick`: whoever waits for them. What is missing of them never comes.
    pub(super) fn take_older_than(&mut self, tick: u64) -> Vec<Ticket> {
        let mut taken = Vec::new();
        while let Some(large) = self.waiting.pop_front_if(|large| large.tick < tick) {
            self.bytes -= large.body.len() - large.cut;
            if 0 < large.cut {
                self.given_up = large.number;
            }
            taken.push(large.ticket);
        }
        taken
    }
}
