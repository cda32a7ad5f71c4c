//! Reads of the state machine, without a trace in the log.

use std::sync::Arc;

use bytes::Bytes;

use super::{Login, NodeQuery};
use crate::pb::etcdserverpb as pb;
use crate::types::LeaseId;

/// A read of the state machine.
#[derive(Debug)]
pub struct Read {
    /// Whether the answer must reflect everything acknowledged before the read arrived.
    pub linearizable: bool,
    /// In whose name it is asked, where rights are asked for; absent where nobody has logged in.
    pub login: Option<Arc<Login>>,
    pub query: Query,
}

impl Read {
    /// In nobody's name.
    #[must_use]
    pub fn new(linearizable: bool, query: Query) -> Self {
        Self { linearizable, login: None, query }
    }
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
    /// The file of a `Snapshot`, which comes in pieces.
    Snapshot,
    /// `MemberListResponse`.
    MemberList,
    /// `pinion.peer.v1.Membership`: whoever is a member, and whoever was. For the member itself.
    Membership,
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
    /// `pinion.peer.v1.NodeAnswer`.
    Node(Box<NodeQuery>),
    /// `pinion.peer.v1.NodeTallies`. For the member itself.
    NodeTallies,
    /// `AuthStatusResponse`.
    AuthStatus,
    /// `AuthUserGetResponse`, of the user with this name.
    UserGet(String),
    /// `AuthUserListResponse`.
    UserList,
    /// `AuthRoleGetResponse`, of the role with this name.
    RoleGet(String),
    /// `AuthRoleListResponse`.
    RoleList,
    /// `pinion.peer.v1.PasswordRecord`, of the user with this name. For the member itself.
    PasswordOf(String),
    /// `pinion.peer.v1.TokenUser`: the user of a simple token, which this member's memory tells. For the member
    /// itself.
    Token(Bytes),
    /// Empty: whether the login may do this, which is done elsewhere.
    Permit(Permit),
    /// A query that waits until the state is new enough, and is answered as the query itself.
    NotOlder(Box<NotOlder>),
}

/// A query, and the revision that its answer has to be of, or a later one.
#[derive(Debug)]
pub struct NotOlder {
    pub revision: i64,
    pub query: Query,
}

impl Query {
    /// Whether only the leader can answer.
    #[must_use]
    pub fn is_for_leader(&self) -> bool {
        matches!(self, Self::LeaseKeepAlive(_) | Self::LeaseTimeToLive(_))
    }
}

/// What a login is asked to have the right to.
#[derive(Debug)]
pub enum Permit {
    /// To be somebody.
    Login,
    /// To run the cluster.
    Admin,
    /// To read these keys.
    Range { key: Bytes, range_end: Bytes },
    /// To ask this, which somebody else than this member's store will answer.
    Ask(Box<Query>),
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
