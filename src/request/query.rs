//! Reads of the state machine, without a trace in the log.

use bytes::Bytes;

use crate::pb::etcdserverpb as pb;
use crate::types::LeaseId;

/// A read of the state machine.
#[derive(Debug)]
pub struct Read {
    /// Whether the answer must reflect everything acknowledged before the read arrived.
    pub linearizable: bool,
    pub query: Query,
}

/// What is read. Each answer's body is the named response message without its header.
#[derive(Debug)]
pub enum Query {
    /// `RangeResponse`.
    Range(pb::RangeRequest),
    /// The next `RangeResponse` of a `RangeStream`.
    RangeSlice(Box<RangeSlice>),
    /// `TxnResponse`, of a transaction that only reads.
    Txn(pb::TxnRequest),
    /// `HashKVResponse`.
    HashKv(pb::HashKvRequest),
    /// `HashKVResponse` at the compact revision; refused as compacted when there is none.
    HashCompacted,
    /// `HashResponse`.
    Hash,
    /// `MemberListResponse`.
    MemberList,
    /// `StatusResponse`.
    Status,
    /// `DowngradeResponse`, which tells the cluster's version.
    ClusterVersion,
    /// `AlarmResponse`: the active alarms of this kind, or of all kinds for 0.
    Alarms { kind: i32 },
    /// `LeaseKeepAliveResponse`. Renews the lease in the leader's memory; nothing is logged.
    LeaseKeepAlive(LeaseId),
    /// `LeaseTimeToLiveResponse`.
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    /// `LeaseLeasesResponse`.
    LeaseLeases,
}

/// One step of a `RangeStream`: the keys from `start` on.
///
/// The body holds `kvs` only while the answer's `resume` names the key to go on from; the last one
/// also holds `more` and `count`, and is told by `resume` being absent.
#[derive(Debug)]
pub struct RangeSlice {
    /// The client's request. After the first slice `revision` is the one the first slice was read at.
    pub request: pb::RangeRequest,
    /// First key of this slice; the request's own key at first.
    pub start: Bytes,
    /// Keys at most in this slice.
    pub keys_max: u32,
    /// Keys that earlier slices carried.
    pub keys_sent: u64,
}
