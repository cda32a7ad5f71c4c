//! `--quota-backend-bytes`, as this member alone keeps it.
//!
//! What makes all members refuse alike is the NOSPACE alarm, which travels through the log; this is what
//! comes before it. The store says after each turn how much it holds; the raft role turns away a request
//! of this member's clients that would not fit, and the store raises the alarm then. So one large value
//! does not go past the quota because the alarm waits for the store to be full. Requests that are on
//! their way already are not counted: the quota is a bound that is kept within a backlog, as etcd's.
//!
//! Cost: one load and one comparison a request; only near the quota is a request looked into.
//! Compatibility: what counts, and with what weight, is etcd's (`apply::alarm::cost_bytes`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;

use crate::apply::alarm;
use crate::request::RequestKind;
use crate::shell::runtime::mesh::SharedBell;

/// Shared by the raft role, which asks, and the store, which tells.
pub(in crate::shell) struct Quota {
    quota_bytes: u64,
    /// What the store may still take.
    room_bytes: AtomicU64,
    /// A request was turned away and the store has not heard of it.
    is_exceeded: AtomicBool,
    store: Arc<SharedBell>,
}

impl Quota {
    /// `u64::MAX` is no quota.
    pub(in crate::shell) fn new(quota_bytes: u64, store: Arc<SharedBell>) -> Self {
        Self {
            quota_bytes,
            room_bytes: AtomicU64::new(quota_bytes),
            is_exceeded: AtomicBool::new(false),
            store,
        }
    }

    pub(in crate::shell) fn quota_bytes(&self) -> u64 {
        self.quota_bytes
    }

    /// The store holds so much. Only a hint for what comes next, so it orders nothing.
    pub(in crate::shell) fn on_held(&self, bytes: u64) {
        self.room_bytes.store(self.quota_bytes.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// Whether this request still fits. If not the store is told.
    pub(in crate::shell) fn admits(&self, kind: RequestKind, body: &Bytes) -> bool {
        let room_bytes = self.room_bytes.load(Ordering::Relaxed);
        if alarm::cost_bytes_max(kind, body.len()) < room_bytes || self.quota_bytes == u64::MAX {
            return true;
        }
        let fits = alarm::cost_bytes(kind, body).is_none_or(|cost_bytes| cost_bytes < room_bytes);
        if !fits && !self.is_exceeded.swap(true, Ordering::Relaxed) {
            self.store.ring();
        }
        fits
    }

    /// Whether a request was turned away since the last call.
    pub(in crate::shell) fn take_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed) && self.is_exceeded.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::etcdserverpb as pb;

    fn quota(quota_bytes: u64) -> Quota {
        Quota::new(quota_bytes, Arc::default())
    }

    fn put(value_bytes: usize) -> Bytes {
        pb::PutRequest { key: "key".into(), value: vec![b'x'; value_bytes].into(), ..Default::default() }
            .encode_to_vec()
            .into()
    }

    #[test]
    fn a_put_that_would_not_fit_is_refused_and_the_store_hears_of_it_once() {
        let quota = quota(10_000);
        quota.on_held(5_000);
        assert!(quota.admits(RequestKind::Put, &put(5_000 - 256 - 4)));
        assert!(!quota.take_exceeded());
        assert!(!quota.admits(RequestKind::Put, &put(5_000 - 256 - 3)), "as much as there is room for");
        assert!(quota.take_exceeded());
        assert!(!quota.take_exceeded());
        quota.on_held(4_000);
        assert!(quota.admits(RequestKind::Put, &put(5_000 - 256 - 3)), "space was made");
    }

    #[test]
    fn what_adds_nothing_passes_a_full_member() {
        let quota = quota(1_000);
        quota.on_held(2_000);
        let delete =
            pb::DeleteRangeRequest { key: "key".into(), ..Default::default() }.encode_to_vec().into();
        let reading = pb::TxnRequest::default().encode_to_vec().into();
        assert!(quota.admits(RequestKind::DeleteRange, &delete));
        assert!(quota.admits(RequestKind::Compact, &Bytes::new()));
        assert!(quota.admits(RequestKind::Txn, &reading));
        assert!(!quota.take_exceeded());
        assert!(!quota.admits(RequestKind::Put, &put(0)));
        assert!(!quota.admits(RequestKind::LeaseGrant, &Bytes::new()));
    }

    #[test]
    fn no_quota_admits_everything() {
        let quota = quota(u64::MAX);
        quota.on_held(u64::MAX);
        assert!(quota.admits(RequestKind::Put, &put(1_000)));
    }
}
