//! etcd's KV requests out of the engine's bytes: well-formed ones, and the many ways to be odd.
//!
//! Keys come from a small alphabet so that requests meet; numbers are mostly near the revisions that
//! a short run reaches, and sometimes at the ends of their range.

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion::pb::authpb;
use pinion::pb::etcdserverpb as pb;
use pinion::pb::etcdserverpb::compare::TargetUnion;
use pinion::pb::etcdserverpb::request_op::Request as Op;
use pinion::pb::peer;
use pinion::request::RequestKind;
use pinion::rpc::Method;
use prost::Message as _;

use crate::{below, bytes, number, one_in};

/// Every method that becomes a command.
pub const METHODS: [Method; 20] = [
    Method::Put,
    Method::Txn,
    Method::DeleteRange,
    Method::Range,
    Method::Compact,
    Method::RangeStream,
    Method::HashKv,
    Method::Hash,
    Method::MemberList,
    Method::Status,
    Method::LeaseRevoke,
    Method::LeaseTimeToLive,
    Method::LeaseLeases,
    Method::MemberAdd,
    Method::MemberRemove,
    Method::MemberUpdate,
    Method::MemberPromote,
    Method::MoveLeader,
    Method::Alarm,
    Method::LeaseGrant,
];

/// Every kind of request in the log.
pub const KINDS: [RequestKind; 28] = [
    RequestKind::Put,
    RequestKind::Txn,
    RequestKind::DeleteRange,
    RequestKind::Compact,
    RequestKind::PublishMember,
    RequestKind::LeaseGrant,
    RequestKind::LeaseRevoke,
    RequestKind::LeaseExpire,
    RequestKind::LeaseCheckpoint,
    RequestKind::MemberUpdate,
    RequestKind::Alarm,
    RequestKind::FormatLevel,
    RequestKind::Part,
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
    RequestKind::NodeWrite,
    RequestKind::NodeExpire,
    RequestKind::NodeCheckpoint,
];

/// Levels of transactions inside transactions that are built; deeper ones come as raw bytes.
const DEPTH_MAX: usize = 4;

pub fn key(input: &mut Unstructured<'_>) -> Bytes {
    match below(input, 12) {
        0..=8 => {
            let length = 1 + below(input, 3);
            (0..length).map(|_| b"ab\0\xff"[below(input, 4)]).collect()
        }
        9 => Bytes::from_static(b"\0"),
        10 => Bytes::copy_from_slice(bytes(input, 40)),
        _ => Bytes::new(),
    }
}

pub fn range_end(input: &mut Unstructured<'_>) -> Bytes {
    match below(input, 4) {
        0 | 1 => Bytes::new(),
        2 => Bytes::from_static(b"\0"),
        _ => key(input),
    }
}

fn value(input: &mut Unstructured<'_>) -> Bytes {
    match below(input, 8) {
        0 => Bytes::new(),
        7 => vec![b'v'; below(input, 3_000)].into(),
        _ => Bytes::copy_from_slice(bytes(input, 6)),
    }
}

/// A number of an enum with `known` values, or one that is not known.
fn choice(input: &mut Unstructured<'_>, known: usize) -> i32 {
    match below(input, known + 1) {
        chosen if chosen < known => i32::try_from(chosen).unwrap_or(0),
        _ => input.arbitrary().unwrap_or(0),
    }
}

/// A number, or mostly none.
fn rarely(input: &mut Unstructured<'_>) -> i64 {
    if one_in(input, 6) { number(input) } else { 0 }
}

pub fn range(input: &mut Unstructured<'_>) -> pb::RangeRequest {
    let mut request = pb::RangeRequest { key: key(input), range_end: range_end(input), ..Default::default() };
    if one_in(input, 2) {
        request.limit = number(input);
        request.revision = rarely(input);
        request.sort_order = choice(input, 3);
        request.sort_target = choice(input, 5);
        request.serializable = one_in(input, 2);
        request.keys_only = one_in(input, 3);
        request.count_only = one_in(input, 4);
        request.min_mod_revision = rarely(input);
        request.max_mod_revision = rarely(input);
        request.min_create_revision = rarely(input);
        request.max_create_revision = rarely(input);
    }
    request
}

fn put(input: &mut Unstructured<'_>) -> pb::PutRequest {
    pb::PutRequest {
        key: key(input),
        value: value(input),
        lease: if one_in(input, 3) { lease(input) } else { rarely(input) },
        prev_kv: one_in(input, 3),
        ignore_value: one_in(input, 6),
        ignore_lease: one_in(input, 6),
    }
}

fn delete_range(input: &mut Unstructured<'_>) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key(input), range_end: range_end(input), prev_kv: one_in(input, 3) }
}

fn compare(input: &mut Unstructured<'_>) -> pb::Compare {
    let target_union = match below(input, 6) {
        0 => Some(TargetUnion::Version(number(input))),
        1 => Some(TargetUnion::ModRevision(number(input))),
        2 => Some(TargetUnion::CreateRevision(number(input))),
        3 => Some(TargetUnion::Value(value(input))),
        4 => Some(TargetUnion::Lease(number(input))),
        _ => None,
    };
    pb::Compare {
        result: choice(input, 4),
        target: choice(input, 5),
        key: key(input),
        range_end: range_end(input),
        target_union,
    }
}

fn txn(input: &mut Unstructured<'_>, depth: usize) -> pb::TxnRequest {
    let mut ops = |depth: usize| -> Vec<pb::RequestOp> {
        (0..below(input, 5))
            .map(|_| {
                let request = match below(input, 7) {
                    0 | 1 => Some(Op::RequestPut(put(input))),
                    2 | 3 => Some(Op::RequestRange(range(input))),
                    4 => Some(Op::RequestDeleteRange(delete_range(input))),
                    5 if depth < DEPTH_MAX => Some(Op::RequestTxn(txn(input, depth + 1))),
                    _ => None,
                };
                pb::RequestOp { request }
            })
            .collect()
    };
    let (success, failure) = (ops(depth), ops(depth));
    pb::TxnRequest { compare: (0..below(input, 3)).map(|_| compare(input)).collect(), success, failure }
}

fn compact(input: &mut Unstructured<'_>) -> pb::CompactionRequest {
    pb::CompactionRequest { revision: number(input), physical: one_in(input, 2) }
}

fn member(input: &mut Unstructured<'_>) -> u64 {
    5 + u64::try_from(below(input, 4)).unwrap_or(0)
}

fn urls(input: &mut Unstructured<'_>) -> Vec<String> {
    let url = ["http://a:1", "http://b:1", "https://c:1", "nonsense"];
    (0..below(input, 3)).map(|_| url[below(input, url.len())].to_owned()).collect()
}

fn member_update(input: &mut Unstructured<'_>) -> pb::MemberUpdateRequest {
    pb::MemberUpdateRequest { id: member(input), peer_ur_ls: urls(input) }
}

/// Lifting an alarm as often as raising it, or everything else would be refused for ever.
fn alarm(input: &mut Unstructured<'_>) -> pb::AlarmRequest {
    let action = [0, 1, 2, 2, 2, 7][below(input, 6)];
    let alarm = [0, 1, 2, 9][below(input, 4)];
    pb::AlarmRequest { action, member_id: member(input), alarm }
}

/// The body of a call.
pub fn call_body(input: &mut Unstructured<'_>, method: Method) -> Vec<u8> {
    match method {
        Method::Range | Method::RangeStream => range(input).encode_to_vec(),
        Method::Put => put(input).encode_to_vec(),
        Method::DeleteRange => delete_range(input).encode_to_vec(),
        Method::Txn => txn(input, 0).encode_to_vec(),
        Method::Compact => compact(input).encode_to_vec(),
        Method::HashKv => pb::HashKvRequest { revision: number(input) }.encode_to_vec(),
        Method::MemberList => pb::MemberListRequest { linearizable: one_in(input, 2) }.encode_to_vec(),
        Method::LeaseGrant => {
            let ttl = number(input);
            pb::LeaseGrantRequest { id: number(input), ttl }.encode_to_vec()
        }
        Method::LeaseRevoke => pb::LeaseRevokeRequest { id: number(input) }.encode_to_vec(),
        Method::LeaseTimeToLive => {
            pb::LeaseTimeToLiveRequest { id: number(input), keys: one_in(input, 2) }.encode_to_vec()
        }
        Method::MemberAdd => {
            pb::MemberAddRequest { peer_ur_ls: urls(input), is_learner: one_in(input, 2) }.encode_to_vec()
        }
        Method::MemberRemove => pb::MemberRemoveRequest { id: member(input) }.encode_to_vec(),
        Method::MemberUpdate => member_update(input).encode_to_vec(),
        Method::MemberPromote => pb::MemberPromoteRequest { id: member(input) }.encode_to_vec(),
        Method::MoveLeader => pb::MoveLeaderRequest { target_id: member(input) }.encode_to_vec(),
        Method::Alarm => alarm(input).encode_to_vec(),
        Method::Status | Method::Hash | Method::LeaseLeases => Vec::new(),
        _ => unreachable!("{method:?} becomes no command"),
    }
}

/// The body of a request in the log, as a client shard without checks would have passed it on.
pub fn request_body(input: &mut Unstructured<'_>, kind: RequestKind) -> Vec<u8> {
    match kind {
        RequestKind::Put => put(input).encode_to_vec(),
        RequestKind::DeleteRange => delete_range(input).encode_to_vec(),
        RequestKind::Txn => txn(input, 0).encode_to_vec(),
        RequestKind::Compact => compact(input).encode_to_vec(),
        RequestKind::PublishMember => peer::PublishMember {
            id: 6 + u64::try_from(below(input, 3)).unwrap_or(0),
            name: String::from_utf8_lossy(bytes(input, 10)).into_owned(),
            client_urls: vec![String::from_utf8_lossy(bytes(input, 10)).into_owned(); below(input, 3)],
        }
        .encode_to_vec(),
        RequestKind::MemberUpdate => member_update(input).encode_to_vec(),
        RequestKind::Alarm => alarm(input).encode_to_vec(),
        RequestKind::FormatLevel => {
            peer::FormatLevel { level: u32::try_from(below(input, 3)).unwrap_or(0) }.encode_to_vec()
        }
        RequestKind::Part => {
            let (number, given_up) = (below(input, 3) as u64, below(input, 3) as u64);
            let data = Bytes::copy_from_slice(bytes(input, 6));
            let (length, offset) = (below(input, 12) as u64, below(input, 8) as u64);
            let kind = u32::try_from(below(input, 15)).unwrap_or(0);
            peer::RequestPart { number, kind, bytes: length, offset, given_up, data }.encode_to_vec()
        }
        RequestKind::LeaseGrant => {
            let ttl = [60, 2, 0, -1, i64::MAX][below(input, 5)];
            pb::LeaseGrantRequest { id: lease(input), ttl }.encode_to_vec()
        }
        RequestKind::LeaseRevoke => pb::LeaseRevokeRequest { id: lease(input) }.encode_to_vec(),
        RequestKind::LeaseExpire | RequestKind::NodeExpire => {
            let ids = (0..below(input, 4)).map(|_| lease(input)).collect();
            let (term, through) = entry(input);
            peer::LeaseExpire { term, ids, through }.encode_to_vec()
        }
        RequestKind::LeaseCheckpoint | RequestKind::NodeCheckpoint => {
            let leases = (0..below(input, 4)).map(|_| peer::LeaseRemaining {
                id: lease(input),
                remaining_s: u64::try_from(below(input, 70)).unwrap_or(0),
            });
            let leases = leases.collect();
            let (term, through) = entry(input);
            peer::LeaseCheckpoint { term, leases, through }.encode_to_vec()
        }
        RequestKind::NodeWrite => {
            let key = [&b"/a"[..], b"/a/b", b"/a/b/c", b"/b", b"/", b"a", b""][below(input, 7)];
            let expiry =
                one_in(input, 3).then(|| peer::NodeExpiry { at_ns: 9, ttl_s: below(input, 4) as u64 });
            peer::NodeWrite {
                method: u32::try_from(below(input, 9)).unwrap_or(0),
                key: Bytes::from_static(key),
                root_bytes: u32::try_from([0, 0, 0, 1, 9][below(input, 5)]).unwrap_or(0),
                value: Bytes::copy_from_slice(bytes(input, 3)),
                is_directory: one_in(input, 3),
                recursive: one_in(input, 3),
                refresh: one_in(input, 6),
                previous_value: Bytes::copy_from_slice(bytes(input, 1)),
                previous_index: below(input, 12) as u64,
                expiry,
                shows_nothing: one_in(input, 4),
            }
            .encode_to_vec()
        }
        RequestKind::AuthEnable | RequestKind::AuthDisable => Vec::new(),
        RequestKind::Authenticate => {
            let (user, prefix) = (name(input), name(input));
            peer::Authenticate {
                user,
                prefix,
                revision: below(input, 12) as u64,
                is_digest: one_in(input, 2),
            }
            .encode_to_vec()
        }
        RequestKind::UserAdd => {
            let options = one_in(input, 2).then(|| authpb::UserAddOptions { no_password: one_in(input, 2) });
            let (name, hashed_password) = (name(input), name(input));
            pb::AuthUserAddRequest { name, hashed_password, options, ..Default::default() }.encode_to_vec()
        }
        RequestKind::UserDelete => pb::AuthUserDeleteRequest { name: name(input) }.encode_to_vec(),
        RequestKind::UserChangePassword => {
            let (name, hashed_password) = (name(input), name(input));
            pb::AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() }.encode_to_vec()
        }
        RequestKind::UserGrantRole => {
            pb::AuthUserGrantRoleRequest { user: name(input), role: name(input) }.encode_to_vec()
        }
        RequestKind::UserRevokeRole => {
            pb::AuthUserRevokeRoleRequest { name: name(input), role: name(input) }.encode_to_vec()
        }
        RequestKind::RoleAdd => pb::AuthRoleAddRequest { name: name(input) }.encode_to_vec(),
        RequestKind::RoleDelete => pb::AuthRoleDeleteRequest { role: name(input) }.encode_to_vec(),
        RequestKind::RoleGrantPermission => {
            let perm = (!one_in(input, 8)).then(|| {
                let (key, range_end) = (key(input), key(input));
                authpb::Permission { perm_type: below(input, 4) as i32, key, range_end }
            });
            pb::AuthRoleGrantPermissionRequest { name: name(input), perm }.encode_to_vec()
        }
        RequestKind::RoleRevokePermission => {
            let (role, key, range_end) = (name(input), key(input), key(input));
            pb::AuthRoleRevokePermissionRequest { role, key, range_end }.encode_to_vec()
        }
    }
}

/// One of a few users and roles, so that requests meet.
fn name(input: &mut Unstructured<'_>) -> String {
    ["root", "a", "b", ""][below(input, 4)].to_owned()
}

fn lease(input: &mut Unstructured<'_>) -> i64 {
    [1, 2, 3, -1, 0][below(input, 5)]
}

/// The term and index of `requests::AT`, mostly.
fn entry(input: &mut Unstructured<'_>) -> (u64, u64) {
    ([3, 3, 3, 2][below(input, 4)], [9, 9, 9, 8][below(input, 4)])
}

/// Changes a few bytes in place, cuts some out, or puts some in.
pub fn damage(input: &mut Unstructured<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..=below(input, 4) {
        let at = below(input, bytes.len() + 1);
        let end = (at + 1 + below(input, 64)).min(bytes.len());
        match below(input, 5) {
            0 | 1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << below(input, 8)),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            _ => drop(bytes.splice(at..at, crate::bytes(input, 16).iter().copied())),
        }
    }
}
