//! Long answers about leases, made in slices: all leases, or the keys of one.
//!
//! The answer is as of the moment at which the read began: the table keeps for it what changes meanwhile. Of a lease
//! that is revoked meanwhile the answer is that there is none, which was true at its end. The body is made whole, since
//! its length goes first and cannot be told before; whoever begins reads bounds what all of them hold
//! (`bytes_max`).

use std::collections::BTreeSet;

use prost::Message as _;

use super::Machine;
use crate::lease::{KeyWalkId, Table, WalkId};
use crate::pb::etcdserverpb as pb;
use crate::types::proto::{put_bytes_field, put_int_field, put_message_head};
use crate::types::{LeaseId, Slice};

/// `LeaseLeasesResponse.leases`, and `LeaseStatus.ID`.
const LEASES: u8 = 2;
const ID: u8 = 1;
/// `LeaseTimeToLiveResponse.keys`
const KEYS: u8 = 5;

/// Price of a lease that is put in order.
const LEASE_NS: u64 = 600;

/// What a lease takes in the answer at most, and while it is put in order.
const LEASE_BYTES: u64 = 14;
const SORTED_BYTES: u64 = 32;

/// What a key takes in the answer besides itself.
const KEY_BYTES: u64 = 6;

/// See the module.
#[derive(Debug)]
pub struct LeaseRead {
    state: State,
    revision: i64,
    bytes_max: u64,
    body: Vec<u8>,
    written: usize,
}

#[derive(Debug)]
enum State {
    All {
        walk: WalkId,
        sorted: BTreeSet<(u64, LeaseId)>,
    },
    /// By when they are due.
    Sorted(BTreeSet<(u64, LeaseId)>),
    Keys {
        walk: KeyWalkId,
        id: LeaseId,
    },
    Made,
}

/// The answer about a lease that is not there.
pub(super) fn no_lease(id: LeaseId) -> pb::LeaseTimeToLiveResponse {
    pb::LeaseTimeToLiveResponse { id: id.0, ttl: -1, ..Default::default() }
}

impl Machine {
    /// Whether an answer with all leases is long.
    #[must_use]
    pub fn has_many_leases(&self) -> bool {
        self.short_keys_max < self.leases.len() as u64
    }

    /// Begins to read all leases.
    pub fn begin_lease_leases(&mut self) -> LeaseRead {
        let bytes_max = self.leases.len() as u64 * (LEASE_BYTES + SORTED_BYTES);
        let state = State::All { walk: self.leases.begin_walk(), sorted: BTreeSet::new() };
        LeaseRead::new(state, self.store().current_revision(), bytes_max, Vec::new())
    }

    /// Begins to answer for a lease with its keys. `None` if that is short.
    pub fn begin_lease_time_to_live(
        &mut self,
        request: &pb::LeaseTimeToLiveRequest,
        remaining_ms: u64,
    ) -> Option<LeaseRead> {
        let id = LeaseId(request.id);
        let lease = self.leases.get(id).filter(|_| request.keys)?;
        let keys = lease.keys().len() as u64;
        if keys <= self.short_keys_max {
            return None;
        }
        let bytes_max = lease.keys_bytes() + KEY_BYTES * keys;
        let head =
            self.lease_time_to_live(&pb::LeaseTimeToLiveRequest { keys: false, ..*request }, remaining_ms);
        let state = State::Keys { walk: self.leases.begin_key_walk(id), id };
        Some(LeaseRead::new(state, head.revision, bytes_max, head.body))
    }

    /// A slice of making the answer. Its bytes, once it is made. `due_ms` tells when a lease is due, if this member
    /// knows; all are in that order, and then in that of their ids.
    pub fn lease_read_slice(
        &mut self,
        read: &mut LeaseRead,
        due_ms: impl Fn(LeaseId) -> Option<u64>,
        slice: &mut Slice,
    ) -> Option<u64> {
        read.make(&mut self.leases, due_ms, slice)
    }

    /// Gives a read up, or ends it.
    pub fn end_lease_read(&mut self, read: LeaseRead) {
        match read.state {
            State::All { walk, .. } => self.leases.end_walk(walk),
            State::Keys { walk, .. } => self.leases.end_key_walk(walk),
            State::Sorted(_) | State::Made => {}
        }
    }
}

impl LeaseRead {
    fn new(state: State, revision: i64, bytes_max: u64, body: Vec<u8>) -> Self {
        Self { state, revision, bytes_max, body, written: 0 }
    }

    /// The memory that it takes at most.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The store's when it began.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    fn make(
        &mut self,
        leases: &mut Table,
        due_ms: impl Fn(LeaseId) -> Option<u64>,
        slice: &mut Slice,
    ) -> Option<u64> {
        let Self { state, body, bytes_max, .. } = self;
        while !slice.is_spent() {
            match state {
                State::All { walk, sorted } => match leases.walk(*walk) {
                    Some((id, _)) => {
                        sorted.insert((due_ms(id).unwrap_or(0), id));
                        slice.spend(LEASE_NS);
                    }
                    None => {
                        leases.end_walk(*walk);
                        // Memory is touched as it is written: nothing is copied while the body grows.
                        body.reserve_exact(usize::try_from(LEASE_BYTES).unwrap_or(0) * sorted.len());
                        *state = State::Sorted(std::mem::take(sorted));
                    }
                },
                State::Sorted(sorted) => match sorted.pop_first() {
                    Some((_, LeaseId(id))) => {
                        let mut status = [0; 16];
                        let mut rest = &mut status[..];
                        put_int_field(&mut rest, ID, id);
                        let len = 16 - rest.len();
                        put_message_head(body, LEASES, len);
                        body.extend_from_slice(&status[..len]);
                        slice.spend_record();
                    }
                    None => *state = State::Made,
                },
                State::Keys { walk, id } => {
                    if body.capacity() < usize::try_from(*bytes_max).unwrap_or(0) {
                        body.reserve_exact(usize::try_from(*bytes_max).unwrap_or(0));
                    }
                    let is_there = leases.walk_keys(*walk, |key| {
                        put_bytes_field(body, KEYS, key);
                        slice.spend_key();
                        slice.spend_bytes(key.len());
                        !slice.is_spent()
                    });
                    match is_there {
                        // Revoked since.
                        None => *body = no_lease(*id).encode_to_vec(),
                        Some(is_done) if !is_done => continue,
                        Some(_) => {}
                    }
                    leases.end_key_walk(*walk);
                    *state = State::Made;
                }
                State::Made => return Some(body.len() as u64),
            }
        }
        None
    }

    /// Copies what is left of the answer until the slice is spent or `out` has `full` bytes. True behind the last
    /// byte.
    pub fn write(&mut self, slice: &mut Slice, full: usize, out: &mut Vec<u8>) -> bool {
        let rest = &self.body[self.written..];
        let count = rest.len().min(full.saturating_sub(out.len())).min(slice.bytes_left());
        out.extend_from_slice(&rest[..count]);
        slice.spend_bytes(count);
        slice.spend_key();
        self.written += count;
        self.written == self.body.len()
    }
}

#[cfg(test)]
#[path = "lease_read_tests.rs"]
mod tests;
