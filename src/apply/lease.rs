//! Requests about leases. A lease that goes takes its keys along, in key order and in one revision of its
//! own.

use bytes::Bytes;
use prost::Message as _;

use super::Machine;
use super::lease_read::no_lease;
use super::preparation::Preparation;
use crate::lease::{Change, Lease, Table};
use crate::mvcc::{Action, Mark, Store};
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{EntryId, Outcome, Rejection, Response};
use crate::types::limits::LEASE_TTL_MAX_S;
use crate::types::{Feature, KeyRange, LeaseId, LogIndex};

/// Deletes the keys of a lease that is gone already. Returns the revision that follows.
fn delete_keys(store: &mut Store, lease: &Lease, mark: Mark) -> i64 {
    let mut txn = store.begin();
    for key in lease.keys() {
        let deleted = txn.delete_marked(KeyRange::One(key), mark, |_| ());
        assert!(deleted == 1, "a key attached to a lease is not there");
    }
    txn.commit()
}

impl Machine {
    pub(super) fn grant_lease(&mut self, request: &pb::LeaseGrantRequest, at: EntryId) -> Outcome {
        let id = LeaseId(request.id);
        if request.id == 0 {
            // The client shard chooses an id where the client did not.
            return Err(Rejection::LeaseNotFound(id));
        }
        if self.leases.contains(id) {
            return Err(Rejection::LeaseExists(id));
        }
        // The client shard refuses what is too long and raises what is too short; a log from
        // elsewhere may hold anything.
        let ttl = request.ttl.clamp(1, LEASE_TTL_MAX_S);
        let ttl_s = ttl.cast_unsigned();
        self.leases.insert(id, Lease::new(ttl_s, 0, at.index));
        self.lease_changes.push(Change::Granted { id, ttl_s });
        let body = pb::LeaseGrantResponse { header: None, id: id.0, ttl, error: String::new() };
        Ok(self.response(body.encode_to_vec()))
    }

    /// None: it is a large write.
    pub(super) fn revoke_lease(&mut self, request: &pb::LeaseRevokeRequest) -> Option<Outcome> {
        let id = LeaseId(request.id);
        if self.leases.get(id).is_some_and(|lease| self.short_keys_max < lease.keys().len() as u64) {
            return self.prepare(|machine| {
                let lease = machine.leases.revoke(id).expect("it was there above");
                Preparation::revoke(&mut machine.store, id, lease, machine.owed_keys_min)
            });
        }
        if !self.revoke(id, Mark::default()) {
            return Some(Err(Rejection::LeaseNotFound(id)));
        }
        Some(Ok(self.response(Vec::new())))
    }

    fn revoke(&mut self, id: LeaseId, mark: Mark) -> bool {
        let Some(lease) = self.leases.revoke(id) else { return false };
        delete_keys(&mut self.store, &lease, mark);
        self.lease_changes.push(Change::Revoked { id });
        true
    }

    /// Whether the leader of `term`, having applied everything through `through`, meant this lease.
    fn is_meant(&self, id: LeaseId, through: u64) -> bool {
        self.leases.get(id).is_some_and(|lease| lease.granted_at() <= LogIndex(through))
    }

    /// Each lease is a revision of its own, like a revocation by a client. Nothing expires while data is
    /// corrupt: the leader asks again when the alarm is lifted.
    ///
    /// None: it is a large write.
    pub(super) fn expire_leases(&mut self, request: &peer::LeaseExpire, at: EntryId) -> Option<Response> {
        if request.term == at.term.0 && !self.alarms.is_corrupt() {
            let ids = request.ids.iter().map(|&id| LeaseId(id));
            let meant: Vec<_> = ids.filter(|&id| self.is_meant(id, request.through)).collect();
            let keys = meant.iter().filter_map(|&id| Some(1 + self.leases.get(id)?.keys().len() as u64));
            // As v2 tells of it.
            let is_told = self.format_level.allows(Feature::Nodes);
            let mark = if is_told { Mark::of(Action::Expire) } else { Mark::default() };
            if self.short_keys_max < keys.sum() {
                return self.prepare(|machine| {
                    Preparation::expire(&mut machine.store, meant, mark, machine.owed_keys_min)
                });
            }
            for id in meant {
                self.revoke(id, mark);
            }
        }
        Some(self.response(Vec::new()))
    }

    pub(super) fn note_leases(&mut self, request: &peer::LeaseCheckpoint, at: EntryId) -> Response {
        if request.term == at.term.0 {
            for &peer::LeaseRemaining { id, remaining_s } in &request.leases {
                let id = LeaseId(id);
                if self.is_meant(id, request.through)
                    && let Some(remaining_s) = self.leases.set_remaining(id, remaining_s)
                {
                    self.lease_changes.push(Change::RemainingSet { id, remaining_s });
                }
            }
        }
        self.response(Vec::new())
    }

    /// All leases.
    #[must_use]
    pub fn leases(&self) -> &Table {
        &self.leases
    }

    /// What the requests applied since the last call did to leases, in order. Whoever applies takes
    /// them each time: they are kept until then.
    pub fn take_lease_changes(&mut self) -> std::vec::Drain<'_, Change> {
        self.lease_changes.drain(..)
    }

    /// The answer to a keep-alive: `LeaseKeepAliveResponse`. 0 says that there is no such lease.
    #[must_use]
    pub fn lease_keep_alive(&self, id: LeaseId, ttl_s: u64) -> Response {
        let body = pb::LeaseKeepAliveResponse { header: None, id: id.0, ttl: seconds(ttl_s) };
        self.response(body.encode_to_vec())
    }

    /// `LeaseTimeToLiveResponse`; `remaining_ms` is the leader's.
    #[must_use]
    pub fn lease_time_to_live(&self, request: &pb::LeaseTimeToLiveRequest, remaining_ms: u64) -> Response {
        let mut answer = no_lease(LeaseId(request.id));
        if let Some(lease) = self.leases.get(LeaseId(request.id)) {
            answer.ttl = seconds(remaining_ms / 1_000);
            answer.granted_ttl = seconds(lease.ttl_s());
            if request.keys {
                answer.keys = lease.keys().map(Bytes::copy_from_slice).collect();
            }
        }
        self.response(answer.encode_to_vec())
    }

    /// `LeaseLeasesResponse`, with the leases in this order.
    pub fn lease_leases(&self, ids: impl Iterator<Item = LeaseId>) -> Response {
        let leases = ids.map(|id| pb::LeaseStatus { id: id.0 }).collect();
        self.response(pb::LeaseLeasesResponse { header: None, leases }.encode_to_vec())
    }
}

fn seconds(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
