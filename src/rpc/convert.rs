//! From a call's method and body to what the rest of the member is asked.
//!
//! The body that goes through consensus is the client's own bytes: it is decoded here to be
//! checked, and once more when it is applied, but never encoded again. Only a lease's grant is, with its
//! name and time chosen, so that every member applies the same.
//!
//! Compatibility: which calls write, and which reads may be stale, is etcd 3.7's choice; the one
//! deviation is in `is_serializable`.

use bytes::Bytes;
use prost::Message;

use super::downgrade;
use super::method::Method;
use super::range_stream::RangeStream;
use super::status::Status;
use super::validate;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::request::{Command, MemberCall, Query, Read, RequestKind};
use crate::types::limits::{LEASE_TTL_MIN_S_DEFAULT, REQUEST_BYTES_MAX_DEFAULT, TXN_OPS_MAX_DEFAULT};
use crate::types::{LeaseId, MemberId};

/// Bounds that the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations per level of a transaction (`--max-txn-ops`).
    pub txn_ops_max: u32,
    /// Largest request that goes through consensus (`--max-request-bytes`).
    pub request_bytes_max: u32,
    /// Shortest life of a lease: 1.5 election timeouts in whole seconds, rounded up.
    pub lease_ttl_min_s: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            txn_ops_max: TXN_OPS_MAX_DEFAULT,
            request_bytes_max: REQUEST_BYTES_MAX_DEFAULT,
            lease_ttl_min_s: LEASE_TTL_MIN_S_DEFAULT,
        }
    }
}

/// Decodes and checks the body of a call that becomes a command, a read or a member call.
/// `fresh_lease_id` names a lease whose client leaves that to the server.
///
/// # Errors
/// The call's final answer.
pub fn command(
    method: Method,
    body: Bytes,
    limits: &Limits,
    fresh_lease_id: impl FnOnce() -> i64,
) -> Result<Command, Status> {
    match method {
        Method::Range => {
            let request: pb::RangeRequest = decode(body)?;
            validate::range(&request)?;
            Ok(read(!request.serializable, Query::Range(request)))
        }
        Method::RangeStream => {
            let request: pb::RangeRequest = decode(body)?;
            validate::range_stream(&request)?;
            Ok(read(!request.serializable, Query::RangeSlice(Box::new(RangeStream::first_slice(request)))))
        }
        Method::Put => {
            validate::put(&decode(body.clone())?)?;
            propose(method, body, limits)
        }
        Method::DeleteRange => {
            validate::delete_range(&decode(body.clone())?)?;
            propose(method, body, limits)
        }
        Method::Txn => {
            let request: pb::TxnRequest = decode(body.clone())?;
            validate::txn(&request, limits.txn_ops_max)?;
            if is_read_only(&request) {
                Ok(read(!is_serializable(&request), Query::Txn(request)))
            } else {
                propose(method, body, limits)
            }
        }
        Method::Compact => {
            decode::<pb::CompactionRequest>(body.clone())?;
            propose(method, body, limits)
        }
        Method::MemberList => {
            let request: pb::MemberListRequest = decode(body)?;
            Ok(read(request.linearizable, Query::MemberList))
        }
        Method::MemberAdd => {
            let request: pb::MemberAddRequest = decode(body)?;
            validate::member_add(&request)?;
            let call = MemberCall::Add { peer_urls: request.peer_ur_ls, learner: request.is_learner };
            Ok(Command::Member(call))
        }
        Method::MemberRemove => {
            let request: pb::MemberRemoveRequest = decode(body)?;
            Ok(Command::Member(MemberCall::Remove(MemberId(request.id))))
        }
        Method::MemberUpdate => {
            decode::<pb::MemberUpdateRequest>(body.clone())?;
            propose(method, body, limits)
        }
        Method::MemberPromote => {
            let request: pb::MemberPromoteRequest = decode(body)?;
            Ok(Command::Member(MemberCall::Promote(MemberId(request.id))))
        }
        Method::MoveLeader => {
            let request: pb::MoveLeaderRequest = decode(body)?;
            Ok(Command::Member(MemberCall::MoveLeader(MemberId(request.target_id))))
        }
        Method::Alarm => {
            use pb::alarm_request::AlarmAction;
            let request: pb::AlarmRequest = decode(body.clone())?;
            match AlarmAction::try_from(request.action) {
                // etcd takes it through the log; a linearizable read sees as much and writes nothing.
                Ok(AlarmAction::Get) => Ok(read(true, Query::Alarms { kind: request.alarm })),
                Ok(_) => propose(method, body, limits),
                Err(_) => Err(Status::unknown_alarm_action(request.action)),
            }
        }
        Method::Status => {
            decode::<pb::StatusRequest>(body)?;
            Ok(read(false, Query::Status))
        }
        Method::Downgrade => {
            downgrade::check(&decode(body)?)?;
            Ok(read(true, Query::ClusterVersion))
        }
        Method::Hash => {
            decode::<pb::HashRequest>(body)?;
            Ok(read(false, Query::Hash))
        }
        Method::Snapshot => {
            decode::<pb::SnapshotRequest>(body)?;
            Ok(read(false, Query::Snapshot))
        }
        Method::HashKv => Ok(read(false, Query::HashKv(decode(body)?))),
        Method::LeaseGrant => {
            let mut request: pb::LeaseGrantRequest = decode(body)?;
            validate::lease_grant(&request)?;
            if request.id == 0 {
                request.id = fresh_lease_id();
            }
            request.ttl = request.ttl.max(limits.lease_ttl_min_s);
            propose(method, request.encode_to_vec().into(), limits)
        }
        Method::LeaseRevoke => {
            decode::<pb::LeaseRevokeRequest>(body.clone())?;
            propose(method, body, limits)
        }
        // The leader alone knows how long a lease has still to live.
        Method::LeaseTimeToLive => Ok(read(true, Query::LeaseTimeToLive(decode(body)?))),
        Method::LeaseLeases => {
            decode::<pb::LeaseLeasesRequest>(body)?;
            Ok(read(false, Query::LeaseLeases))
        }
        Method::AuthEnable => checked::<pb::AuthEnableRequest>(method, body, limits),
        Method::AuthDisable => checked::<pb::AuthDisableRequest>(method, body, limits),
        Method::UserDelete => checked::<pb::AuthUserDeleteRequest>(method, body, limits),
        Method::UserGrantRole => checked::<pb::AuthUserGrantRoleRequest>(method, body, limits),
        Method::UserRevokeRole => checked::<pb::AuthUserRevokeRoleRequest>(method, body, limits),
        Method::RoleAdd => checked::<pb::AuthRoleAddRequest>(method, body, limits),
        Method::RoleDelete => checked::<pb::AuthRoleDeleteRequest>(method, body, limits),
        Method::RoleGrantPermission => checked::<pb::AuthRoleGrantPermissionRequest>(method, body, limits),
        Method::RoleRevokePermission => checked::<pb::AuthRoleRevokePermissionRequest>(method, body, limits),
        // etcd takes these through the log, so they see everything that was acknowledged.
        Method::AuthStatus => {
            decode::<pb::AuthStatusRequest>(body)?;
            Ok(read(true, Query::AuthStatus))
        }
        Method::UserGet => {
            let request: pb::AuthUserGetRequest = decode(body)?;
            Ok(read(true, Query::UserGet(request.name)))
        }
        Method::UserList => {
            decode::<pb::AuthUserListRequest>(body)?;
            Ok(read(true, Query::UserList))
        }
        Method::RoleGet => {
            let request: pb::AuthRoleGetRequest = decode(body)?;
            Ok(read(true, Query::RoleGet(request.role)))
        }
        Method::RoleList => {
            decode::<pb::AuthRoleListRequest>(body)?;
            Ok(read(true, Query::RoleList))
        }
        Method::Watch
        | Method::LeaseKeepAlive
        | Method::Defragment
        | Method::Authenticate
        | Method::UserAdd
        | Method::UserChangePassword
        | Method::Lock
        | Method::Unlock
        | Method::Campaign
        | Method::Proclaim
        | Method::Leader
        | Method::Observe
        | Method::Resign
        | Method::HealthCheck
        | Method::HealthWatch
        | Method::HealthList => unreachable!("{method:?} does not become one command"),
    }
}

/// The lease that a message of a keep-alive stream renews.
///
/// # Errors
/// As `command`.
pub fn lease_keep_alive(body: Bytes) -> Result<Command, Status> {
    let request: pb::LeaseKeepAliveRequest = decode(body)?;
    Ok(read(true, Query::LeaseKeepAlive(LeaseId(request.id))))
}

fn decode<M: Message + Default>(body: Bytes) -> Result<M, Status> {
    M::decode(body).map_err(|error| Status::undecodable(&error.to_string()))
}

fn read(linearizable: bool, query: Query) -> Command {
    Command::Read(Read::new(linearizable, query))
}

fn propose(method: Method, body: Bytes, limits: &Limits) -> Result<Command, Status> {
    propose_kind(method.request_kind().expect("the table makes it a request of the log"), body, limits)
}

fn propose_kind(kind: RequestKind, body: Bytes, limits: &Limits) -> Result<Command, Status> {
    validate::request_bytes(body.len(), limits.request_bytes_max)?;
    Ok(Command::Propose { kind, body, login: None })
}

/// A request that is a message of its type, and nothing more is asked of it here.
fn checked<M: Message + Default>(method: Method, body: Bytes, limits: &Limits) -> Result<Command, Status> {
    decode::<M>(body.clone())?;
    propose(method, body, limits)
}

/// A request about a user whose password has been hashed.
///
/// # Errors
/// It is too large for the log.
pub fn hashed(kind: RequestKind, request: &impl Message, limits: &Limits) -> Result<Command, Status> {
    propose_kind(kind, request.encode_to_vec().into(), limits)
}

fn ops(request: &pb::TxnRequest) -> impl Iterator<Item = Option<&Op>> {
    request.success.iter().chain(&request.failure).map(|op| op.request.as_ref())
}

/// Whether every operation of both branches is a range. A nested transaction makes it a write even
/// if that one only reads; a transaction without operations only reads.
#[must_use]
pub fn is_read_only(request: &pb::TxnRequest) -> bool {
    ops(request).all(|op| matches!(op, Some(Op::RequestRange(_))))
}

/// Whether a read-only transaction may be answered from a state that is behind.
///
/// etcd also lets one without any range be stale, though its comparisons read and nobody asked for
/// that; here it waits like any other read.
fn is_serializable(request: &pb::TxnRequest) -> bool {
    ops(request).next().is_some()
        && ops(request).all(|op| matches!(op, Some(Op::RequestRange(range)) if range.serializable))
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
