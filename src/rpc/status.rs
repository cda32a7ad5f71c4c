//! The one table of what a client is told when it is told "no".
//!
//! Clients match on the exact text and on the code, so both are etcd's, odd grammar included. What the
//! front end says of frames, bodies and its own bounds is not here: no client of etcd knows those texts.
//!
//! Compatibility: etcd 3.7. Where 3.5 answered another code, 3.7's is here. A row in the group
//! "arrives as Unknown" looks as if it had a better code; etcd sends none, and clients know it so.

use std::borrow::Cow;

use crate::request::{AuthRejection, Refusal, Rejection};

/// gRPC status codes, with their numbers on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The number in `grpc-status`.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code of this number; one that nobody knows is `Unknown`.
    #[must_use]
    pub const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Canceled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

/// How a call ended, when not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub code: Code,
    /// Not yet percent-encoded.
    pub message: Cow<'static, str>,
}

/// Writes the rows as constants and, for the tests, as one list.
macro_rules! table {
    ($($(#[$doc:meta])* $name:ident: $code:ident, $text:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: Status =
                Status { code: Code::$code, message: Cow::Borrowed($text) };
        )*
        #[cfg(test)]
        const ROWS: &[(&str, Status)] = &[$((stringify!($name), $name)),*];
    };
}

table! {
    // Keys, values, transactions.
    KEY_EMPTY: InvalidArgument, "etcdserver: key is not provided";
    /// Also the answer to a transaction's operation that is none.
    KEY_NOT_FOUND: InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED: InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED: InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS: InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY: InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_SORT_OPTION: InvalidArgument, "etcdserver: invalid sort option";
    COMPACTED: OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION: OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE: ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    RANGE_STREAM_SORT: Unimplemented, "RangeStream does not support custom sort orders";
    RANGE_STREAM_FILTER: Unimplemented, "RangeStream does not support revision filters";

    // Any request.
    INVALID_CLIENT_API_VERSION: InvalidArgument, "etcdserver: invalid client api version";
    REQUEST_TOO_LARGE: InvalidArgument, "etcdserver: request is too large";
    CORRUPT: DataLoss, "etcdserver: corrupt cluster";
    NOT_CAPABLE: FailedPrecondition, "etcdserver: not capable";
    NOT_SUPPORTED_FOR_LEARNER: FailedPrecondition, "etcdserver: rpc not supported for learner";
    NO_LEADER: Unavailable, "etcdserver: no leader";
    LEADER_CHANGED: Unavailable, "etcdserver: leader changed";
    STOPPED: Unavailable, "etcdserver: server stopped";
    TIMED_OUT: Unavailable, "etcdserver: request timed out";
    NOT_NEW_ENOUGH: Unavailable,
        "pinion: this member has not applied the revision of pinion-not-older-than in time";
    TIMED_OUT_LEADER_FAILURE: Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    TIMED_OUT_CONNECTION_LOST: Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    TIMED_OUT_WAITING_APPLIED: Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    REQUEST_CANCELED: Canceled, "etcdserver: request canceled";
    CONTEXT_CANCELED: Canceled, "context canceled";
    CONTEXT_DEADLINE_EXCEEDED: DeadlineExceeded, "context deadline exceeded";
    UNKNOWN_HEALTH_SERVICE: NotFound, "unknown service";

    // Watch.
    WATCH_CANCELED: Canceled, "etcdserver: watch canceled";

    // Leases.
    LEASE_NOT_FOUND: NotFound, "etcdserver: requested lease not found";
    LEASE_EXISTS: FailedPrecondition, "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE: OutOfRange, "etcdserver: too large lease TTL";

    // Members.
    MEMBER_NOT_FOUND: NotFound, "etcdserver: member not found";
    MEMBER_EXISTS: FailedPrecondition, "etcdserver: member ID already exist";
    PEER_URL_EXISTS: FailedPrecondition, "etcdserver: Peer URLs already exists";
    MEMBER_NOT_LEARNER: FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY: FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS: FailedPrecondition, "etcdserver: too many learner members in cluster";
    BAD_MEMBER_URLS: InvalidArgument, "etcdserver: given member URLs are invalid";
    UNHEALTHY_CLUSTER: Unavailable, "etcdserver: unhealthy cluster";
    CLUSTER_ID_MISMATCH: FailedPrecondition, "etcdserver: cluster ID mismatch";
    NOT_LEADER: FailedPrecondition, "etcdserver: not leader";
    BAD_LEADER_TRANSFEREE: FailedPrecondition, "etcdserver: bad leader transferee";
    CLUSTER_VERSION_UNAVAILABLE: FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    WRONG_DOWNGRADE_VERSION_FORMAT: InvalidArgument,
        "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET_VERSION: InvalidArgument,
        "etcdserver: invalid downgrade target version";
    DOWNGRADE_IN_PROCESS: FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress";

    // Auth.
    USER_EMPTY: InvalidArgument, "etcdserver: user name is empty";
    ROLE_EMPTY: InvalidArgument, "etcdserver: role name is empty";
    AUTH_FAILED: InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN: InvalidArgument, "etcdserver: permission not given";
    INVALID_AUTH_MANAGEMENT: InvalidArgument, "etcdserver: invalid auth management";
    AUTH_OLD_REVISION: InvalidArgument, "etcdserver: revision of auth store is old";
    ROOT_USER_NOT_FOUND: FailedPrecondition, "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_GRANTED: FailedPrecondition, "etcdserver: root user does not have root role";
    USER_EXISTS: FailedPrecondition, "etcdserver: user name already exists";
    USER_NOT_FOUND: FailedPrecondition, "etcdserver: user name not found";
    ROLE_EXISTS: FailedPrecondition, "etcdserver: role name already exists";
    ROLE_NOT_FOUND: FailedPrecondition, "etcdserver: role name not found";
    ROLE_NOT_GRANTED: FailedPrecondition, "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED: FailedPrecondition,
        "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED: FailedPrecondition, "etcdserver: authentication is not enabled";
    PERMISSION_DENIED: PermissionDenied, "etcdserver: permission denied";
    INVALID_AUTH_TOKEN: Unauthenticated, "etcdserver: invalid auth token";

    // Arrives as Unknown.
    TOO_MANY_REQUESTS: Unknown, "etcdserver: too many requests";
    NOT_ENOUGH_STARTED_MEMBERS: Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    UNKNOWN_DOWNGRADE_ACTION: Unknown, "etcdserver: unknown method";
    LEADER_TRANSFER_TIMED_OUT: Unknown,
        "etcdserver: request timed out, leader transfer took too long";
    NOT_PRIMARY_LESSOR: Unknown, "not a primary lessor";
    PROPOSAL_DROPPED: Unknown, "raft proposal dropped";
    NO_PASSWORD_USER: Unknown,
        "auth: authentication failed, password was given for no password user";
    VERIFY_ONLY_KEY: Unknown, "auth: token signing attempted with verify-only key";
    PASSWORD_TOO_LONG: Unknown, "bcrypt: password length exceeds 72 bytes";
    ELECTION_NO_LEADER: Unknown, "election: no leader";
    ELECTION_NOT_LEADER: Unknown, "election: not leader";
    ELECTION_OBSERVE_CLOSED: Unknown, "election: observe closed early";
    ELECTION_LEADER_MISSING: Unknown, "\"leader\" field must be provided";
    SESSION_EXPIRED: Unknown, "mutex: session is expired";
}

impl Status {
    /// The request's bytes are no message of its type. The tail is the decoder's own word, so only
    /// the part before the colon can be matched on, as with etcd.
    #[must_use]
    pub fn undecodable(reason: &str) -> Self {
        Self {
            code: Code::Internal,
            message: Cow::Owned(format!("grpc: error unmarshalling request: {reason}")),
        }
    }

    /// A frame announces more than the receiver takes.
    #[must_use]
    pub fn received_too_large(bytes: u64, bytes_max: u64) -> Self {
        Self {
            code: Code::ResourceExhausted,
            message: Cow::Owned(format!("grpc: received message larger than max ({bytes} vs. {bytes_max})")),
        }
    }

    /// The request headers are larger than the receiver takes. etcd has no words for it.
    #[must_use]
    pub fn metadata_too_large(bytes_max: usize) -> Self {
        Self {
            code: Code::ResourceExhausted,
            message: Cow::Owned(format!("grpc: received metadata larger than max ({bytes_max} bytes)")),
        }
    }

    /// The request headers find no memory: the shard holds as many unfinished requests as it may.
    #[must_use]
    pub fn no_memory_for_metadata() -> Self {
        Self { code: Code::ResourceExhausted, message: Cow::Borrowed("too many unfinished request headers") }
    }

    /// An answer takes more than one frame can carry.
    #[must_use]
    pub fn sent_too_large(bytes: u64, bytes_max: u64) -> Self {
        Self {
            code: Code::ResourceExhausted,
            message: Cow::Owned(format!(
                "grpc: trying to send message larger than max ({bytes} vs. {bytes_max})"
            )),
        }
    }

    /// An alarm that cannot be raised. etcd has no words for it: it ends.
    #[must_use]
    pub fn unknown_alarm(alarm: i32) -> Self {
        Self {
            code: Code::InvalidArgument,
            message: Cow::Owned(format!("etcdserver: unknown alarm {alarm}")),
        }
    }

    /// As `unknown_alarm`.
    #[must_use]
    pub fn unknown_alarm_action(action: i32) -> Self {
        let message = Cow::Owned(format!("etcdserver: unknown alarm action {action}"));
        Self { code: Code::InvalidArgument, message }
    }

    /// The path names no service of ours.
    #[must_use]
    pub fn unknown_service(service: &str) -> Self {
        Self { code: Code::Unimplemented, message: Cow::Owned(format!("unknown service {service}")) }
    }

    /// The service is ours and has no such method.
    #[must_use]
    pub fn unknown_method(method: &str, service: &str) -> Self {
        Self {
            code: Code::Unimplemented,
            message: Cow::Owned(format!("unknown method {method} for service {service}")),
        }
    }
}

/// Ours: a list whose client reads too slowly holds memory that others need.
const TOO_SLOW: Status = Status {
    code: Code::Unavailable,
    message: Cow::Borrowed("etcdserver: the answer was read too slowly and held too much memory"),
};

/// Ours: etcd sorts whatever is asked for.
const SORT_TOO_LARGE: Status = Status {
    code: Code::ResourceExhausted,
    message: Cow::Borrowed("etcdserver: sorting the answer takes too much memory"),
};

impl From<&Rejection> for Status {
    fn from(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::Compacted { .. } => COMPACTED,
            Rejection::FutureRevision { .. } => FUTURE_REVISION,
            Rejection::LeaseNotFound(_) => LEASE_NOT_FOUND,
            Rejection::LeaseExists(_) => LEASE_EXISTS,
            Rejection::KeyNotFound => KEY_NOT_FOUND,
            Rejection::KeyEmpty => KEY_EMPTY,
            Rejection::SortOption { .. } => INVALID_SORT_OPTION,
            Rejection::RequestTooLarge { .. } => REQUEST_TOO_LARGE,
            Rejection::AnswerTooLarge { bytes, bytes_max } => Self::sent_too_large(*bytes, *bytes_max),
            Rejection::MemberNotFound(_) => MEMBER_NOT_FOUND,
            Rejection::MemberExists(_) => MEMBER_EXISTS,
            Rejection::PeerUrlExists(_) => PEER_URL_EXISTS,
            Rejection::NotLearner(_) => MEMBER_NOT_LEARNER,
            Rejection::TooManyLearners(_) => TOO_MANY_LEARNERS,
            // etcd's strict check says so before it comes to that.
            Rejection::LastVoter(_) => NOT_ENOUGH_STARTED_MEMBERS,
            Rejection::Corrupt => CORRUPT,
            Rejection::NoSpace => NO_SPACE,
            Rejection::UnknownAlarm(alarm) => Self::unknown_alarm(*alarm),
            Rejection::UnknownAlarmAction(action) => Self::unknown_alarm_action(*action),
            Rejection::TooManyAlarms(count) => Self {
                code: Code::ResourceExhausted,
                message: Cow::Owned(format!("etcdserver: {count} alarms are active already")),
            },
            Rejection::Auth(rejection) => Self::from(*rejection),
            Rejection::NotCapable => NOT_CAPABLE,
            Rejection::Undecodable(reason) => Self::undecodable(reason),
        }
    }
}

impl From<AuthRejection> for Status {
    fn from(rejection: AuthRejection) -> Self {
        match rejection {
            AuthRejection::UserNameEmpty => USER_EMPTY,
            AuthRejection::RoleNameEmpty => ROLE_EMPTY,
            AuthRejection::UserExists => USER_EXISTS,
            AuthRejection::UserNotFound => USER_NOT_FOUND,
            AuthRejection::RoleExists => ROLE_EXISTS,
            AuthRejection::RoleNotFound => ROLE_NOT_FOUND,
            AuthRejection::RoleNotGranted => ROLE_NOT_GRANTED,
            AuthRejection::PermissionNotGiven => PERMISSION_NOT_GIVEN,
            AuthRejection::PermissionNotGranted => PERMISSION_NOT_GRANTED,
            AuthRejection::InvalidManagement => INVALID_AUTH_MANAGEMENT,
            AuthRejection::RootUserNotFound => ROOT_USER_NOT_FOUND,
            AuthRejection::RootRoleNotGranted => ROOT_ROLE_NOT_GRANTED,
            AuthRejection::NotEnabled => AUTH_NOT_ENABLED,
            AuthRejection::AuthenticationFailed => AUTH_FAILED,
            AuthRejection::NoPasswordUser => NO_PASSWORD_USER,
            AuthRejection::InvalidToken => INVALID_AUTH_TOKEN,
            AuthRejection::RevisionOld => AUTH_OLD_REVISION,
            AuthRejection::PermissionDenied => PERMISSION_DENIED,
            AuthRejection::NotCapable => NOT_CAPABLE,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stopped => STOPPED,
            Refusal::TooManyRequests => TOO_MANY_REQUESTS,
            Refusal::NoSpace => NO_SPACE,
            Refusal::TooLarge => REQUEST_TOO_LARGE,
            Refusal::TooSlow => TOO_SLOW,
            Refusal::SortTooLarge => SORT_TOO_LARGE,
            Refusal::TimedOut => TIMED_OUT,
            Refusal::NotProposed => CONTEXT_DEADLINE_EXCEEDED,
            Refusal::NoLeader => NO_LEADER,
            Refusal::LeaderChanged => LEADER_CHANGED,
            Refusal::Dropped => PROPOSAL_DROPPED,
            Refusal::LostWithLeader => TIMED_OUT_LEADER_FAILURE,
            Refusal::NotLeader => NOT_LEADER,
            Refusal::BadTransferee => BAD_LEADER_TRANSFEREE,
            Refusal::TransferTimedOut => LEADER_TRANSFER_TIMED_OUT,
            Refusal::NotEnoughStarted => NOT_ENOUGH_STARTED_MEMBERS,
            Refusal::Unhealthy => UNHEALTHY_CLUSTER,
            Refusal::MemberNotFound => MEMBER_NOT_FOUND,
            Refusal::NotLearner => MEMBER_NOT_LEARNER,
            Refusal::LearnerNotReady => LEARNER_NOT_READY,
            Refusal::NotCapable => NOT_CAPABLE,
        }
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
