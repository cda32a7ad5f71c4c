//! A "no" to the client that every member computes alike.

use crate::types::{LeaseId, MemberId};

/// Why a request was refused. Part of the applied state: no member-local fact may decide it.
/// `rpc::status` turns it into etcd's code and text, and nothing else does.
///
/// A refused request has changed nothing: whatever it wrote before it failed is rolled back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("revision {required} is compacted, the oldest readable one is {compacted}")]
    Compacted { required: i64, compacted: i64 },
    #[error("revision {required} is in the future, the current one is {current}")]
    FutureRevision { required: i64, current: i64 },
    #[error("lease {0:?} not found")]
    LeaseNotFound(LeaseId),
    #[error("lease {0:?} exists already")]
    LeaseExists(LeaseId),
    /// `ignore_value` or `ignore_lease` on a key that is not there; an operation that names nothing.
    #[error("key not found")]
    KeyNotFound,
    /// The client shard answers this one; here it guards against a log written by another version.
    #[error("key is empty")]
    KeyEmpty,
    /// As `KeyEmpty`: a number that is no sort order or target.
    #[error("unknown sort order {order} or target {target}")]
    SortOption { order: i32, target: i32 },
    /// As `KeyEmpty`: no member may be made to store this.
    #[error("the request takes {bytes} bytes")]
    RequestTooLarge { bytes: u64 },
    /// More than one gRPC message can carry. A transaction is refused whole: a write whose answer
    /// cannot be told would be a write that the client can never know of.
    #[error("the answer takes {bytes} bytes, a message holds {bytes_max}")]
    AnswerTooLarge { bytes: u64, bytes_max: u64 },
    #[error("member {0} is not in the cluster")]
    MemberNotFound(MemberId),
    /// The id is in use, or was once.
    #[error("member id {0} is taken")]
    MemberExists(MemberId),
    #[error("peer URL {0} belongs to another member")]
    PeerUrlExists(String),
    #[error("member {0} votes already")]
    NotLearner(MemberId),
    #[error("the cluster has {0} learners already")]
    TooManyLearners(usize),
    /// It would leave nobody who votes.
    #[error("member {0} is the last that votes")]
    LastVoter(MemberId),
    /// Some member's data differs from that of others: nothing may be written until the alarm is lifted.
    #[error("the CORRUPT alarm is active")]
    Corrupt,
    /// Some member has reached its quota: nothing may be added until the alarm is lifted.
    #[error("the NOSPACE alarm is active")]
    NoSpace,
    #[error("alarm {0} is unknown")]
    UnknownAlarm(i32),
    #[error("alarm action {0} is unknown")]
    UnknownAlarmAction(i32),
    #[error("there are {0} alarms already")]
    TooManyAlarms(usize),
    /// About users, roles and rights.
    #[error(transparent)]
    Auth(#[from] AuthRejection),
    /// The cluster's format level is below the request's.
    #[error("some member does not know this request yet")]
    NotCapable,
    #[error("the request's bytes do not decode: {0}")]
    Undecodable(String),
}

/// Why a request about users and roles, or for want of rights, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthRejection {
    /// No name for a new user, or no user where rights are asked for.
    #[error("no user is named")]
    UserNameEmpty,
    #[error("no role is named")]
    RoleNameEmpty,
    #[error("the user exists already")]
    UserExists,
    #[error("no such user")]
    UserNotFound,
    #[error("the role exists already")]
    RoleExists,
    #[error("no such role")]
    RoleNotFound,
    #[error("the user does not have the role")]
    RoleNotGranted,
    #[error("the request names no permission")]
    PermissionNotGiven,
    #[error("the role does not have the permission")]
    PermissionNotGranted,
    /// It would lock everybody out, or a permission is for no key.
    #[error("the change would make no sense")]
    InvalidManagement,
    #[error("there is no user root")]
    RootUserNotFound,
    #[error("the user root does not have the role root")]
    RootRoleNotGranted,
    /// Rights are not asked for, so nobody can log in.
    #[error("auth is not enabled")]
    NotEnabled,
    /// No such user, or a wrong password: a caller must not learn which.
    #[error("wrong user or password")]
    AuthenticationFailed,
    /// A user that has no password on purpose, or a hash that is none.
    #[error("the user has no password")]
    NoPasswordUser,
    #[error("the token is not known")]
    InvalidToken,
    /// Rights have changed since the user was known.
    #[error("rights have changed meanwhile")]
    RevisionOld,
    #[error("permission denied")]
    PermissionDenied,
    /// The cluster's format level is below that of users and roles.
    #[error("some member does not know users and roles yet")]
    NotCapable,
}
