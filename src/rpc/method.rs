//! The methods of the protocol, one row each. A method that is not in the table does not exist.
//!
//! A row says by which path a method is called, how many messages go each way, what stands in front of
//! its answer and how large that may get, what becomes of the call, and what refuses it. Whoever needs to
//! know one of these reads it here: the client shard, `convert`, and the replica for a full disk.
//!
//! Not here: what `apply` refuses because of an alarm. That is a function of the log, and a log outlives
//! the table of the version that reads it. Nor what a member without a leader refuses: a client asks for
//! that with any call, and then no method is exempt.
//!
//! Cost: a path is found by one `match` over all of them. A perfect hash was measured and took longer, since
//! it ends in a call of `memcmp`.
//! Compatibility: paths and shapes are those of `proto/`, which a test compares; texts for what is not
//! found are gRPC-Go's.

use super::framing::split_path;
use super::status::{Code, Status};
use crate::request::{Command, Query, RequestKind};

/// How many messages go each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallShape {
    /// One request, one answer.
    Unary,
    /// One request, any number of answers.
    ServerStream,
    /// Any number of requests and of answers.
    BothWays,
}

/// What of etcd's `ResponseHeader` an answer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderShape {
    Full,
    /// All but the revision: answers about the membership.
    NoRevision,
    Absent,
}

/// How large an answer may get, as far as the method tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerWeight {
    Light,
    Point,
    Wide,
    /// `Point` for one key or a count, else `Wide`.
    ByRange,
    /// `Wide` with the keys of a lease, else `Light`.
    ByKeys,
    /// `Light` if the transaction writes, else `Wide`.
    ByOperations,
}

/// How large an answer may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A write, or a question about the member: small.
    Light,
    /// One key.
    Point,
    /// Any number of keys.
    Wide,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// A request of this kind in the log. A transaction or a call about alarms may turn out to be a read.
    Command(RequestKind),
    /// A read of the state machine or of the leader's memory.
    Read,
    /// A change of who belongs to the cluster, or of who leads it.
    Member,
    /// A stream of the shard's watch hub.
    Watch,
    /// A stream of renewals, each a read.
    LeaseStream,
    /// A task of the shard that takes several commands.
    Recipe(Recipe),
    /// A task of the shard that compares or hashes a password first.
    Password(Password),
    /// Answered by the shard alone.
    Here,
}

/// Methods of `Lock` and `Election`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Observe,
    Resign,
}

/// Methods that carry a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Password {
    LogIn,
    UserAdd,
    Change,
}

/// All that is known of a method before a call of it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub method: Method,
    /// The `:path` of a call, byte by byte.
    pub path: &'static str,
    /// The paths by which the JSON gateway calls it.
    pub web_paths: &'static [&'static str],
    pub call: CallShape,
    pub header: HeaderShape,
    pub weight: AnswerWeight,
    pub becomes: Becomes,
    /// Whether a member without a vote answers. A range it answers only if it may be stale. Of all others
    /// it would tell what it has, and nobody could see that this is an hour old.
    pub suits_learner: bool,
    /// Whether it is refused first when space gets scarce. The other requests free space, or are needed to
    /// run the cluster.
    pub adds_data: bool,
    /// Whether it is answered without a login where rights are asked for.
    pub is_for_all: bool,
    /// Whether only those may call it who run the cluster, which is asked before it is carried out. What the others
    /// need, and what is in the log, the state machine knows by the request: `apply::permit`.
    pub needs_admin: bool,
}

impl Row {
    /// Whether it is about this process, and about nothing that it stands for.
    #[must_use]
    pub fn is_of_health(&self) -> bool {
        matches!(self.method, Method::HealthCheck | Method::HealthList | Method::HealthWatch)
    }

    /// How large the answer to this call of the method may get.
    #[must_use]
    pub fn weigh(&self, command: &Command) -> Weight {
        match self.weight {
            AnswerWeight::Light => Weight::Light,
            AnswerWeight::Point => Weight::Point,
            AnswerWeight::Wide => Weight::Wide,
            AnswerWeight::ByRange | AnswerWeight::ByKeys | AnswerWeight::ByOperations => {
                let Command::Read(read) = command else { return Weight::Light };
                match &read.query {
                    Query::Range(range) if range.range_end.is_empty() || range.count_only => Weight::Point,
                    Query::LeaseTimeToLive(request) if !request.keys => Weight::Light,
                    _ => Weight::Wide,
                }
            }
        }
    }
}

/// Makes of the table the enum, the rows, and the way from a path to its method.
macro_rules! methods {
    ($(
        $name:ident: $path:literal, $call:ident, $header:ident, $weight:ident, $becomes:expr, [$($flag:ident)*], [$($web:literal)*];
    )*) => {
        /// A method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Method {
            $($name,)*
        }

        /// A method's number is that of its row.
        const ROWS: &[Row] = &[$(Row {
            method: Method::$name,
            path: $path,
            call: CallShape::$call,
            header: HeaderShape::$header,
            weight: AnswerWeight::$weight,
            becomes: $becomes,
            $($flag: true,)*
            web_paths: &[$($web),*],
            ..PLAIN
        },)*];

        impl Method {
            /// The method that a path calls, whether or not this version has it.
            fn of_path(path: &str) -> Option<Self> {
                Some(match path {
                    $($path => Self::$name,)*
                    _ => return None,
                })
            }

            /// The method that a path of the JSON gateway calls, whether or not this version has it.
            #[must_use]
            pub fn of_web_path(path: &str) -> Option<Self> {
                Some(match path {
                    $($($web => Self::$name,)*)*
                    _ => return None,
                })
            }
        }
    };
}

/// What a row is where it does not say otherwise.
const PLAIN: Row = Row {
    method: Method::Range,
    path: "",
    web_paths: &[],
    call: CallShape::Unary,
    header: HeaderShape::Full,
    weight: AnswerWeight::Light,
    becomes: Here,
    suits_learner: false,
    adds_data: false,
    is_for_all: false,
    needs_admin: false,
};

use Becomes::{Command as Asks, Here, LeaseStream, Member, Password as Hashes, Read, Recipe as Does, Watch};
use RequestKind as Kind;

methods! {
    Range:                "/etcdserverpb.KV/Range",                    Unary,        Full,       ByRange,      Read,                        [suits_learner], ["/v3/kv/range"];
    RangeStream:          "/etcdserverpb.KV/RangeStream",              ServerStream, Full,       Point,        Read,                        [], [];
    Put:                  "/etcdserverpb.KV/Put",                      Unary,        Full,       Light,        Asks(Kind::Put),             [adds_data], ["/v3/kv/put"];
    DeleteRange:          "/etcdserverpb.KV/DeleteRange",              Unary,        Full,       Light,        Asks(Kind::DeleteRange),     [], ["/v3/kv/deleterange"];
    Txn:                  "/etcdserverpb.KV/Txn",                      Unary,        Full,       ByOperations, Asks(Kind::Txn),             [adds_data], ["/v3/kv/txn"];
    Compact:              "/etcdserverpb.KV/Compact",                  Unary,        Full,       Light,        Asks(Kind::Compact),         [], ["/v3/kv/compaction"];

    Watch:                "/etcdserverpb.Watch/Watch",                 BothWays,     Full,       Wide,         Watch,                       [], ["/v3/watch"];

    LeaseGrant:           "/etcdserverpb.Lease/LeaseGrant",            Unary,        Full,       Light,        Asks(Kind::LeaseGrant),      [adds_data], ["/v3/lease/grant"];
    LeaseRevoke:          "/etcdserverpb.Lease/LeaseRevoke",           Unary,        Full,       Light,        Asks(Kind::LeaseRevoke),     [], ["/v3/lease/revoke" "/v3/kv/lease/revoke"];
    LeaseKeepAlive:       "/etcdserverpb.Lease/LeaseKeepAlive",        BothWays,     Full,       Light,        LeaseStream,                 [], ["/v3/lease/keepalive"];
    LeaseTimeToLive:      "/etcdserverpb.Lease/LeaseTimeToLive",       Unary,        Full,       ByKeys,       Read,                        [], ["/v3/lease/timetolive" "/v3/kv/lease/timetolive"];
    LeaseLeases:          "/etcdserverpb.Lease/LeaseLeases",           Unary,        Full,       Wide,         Read,                        [], ["/v3/lease/leases" "/v3/kv/lease/leases"];

    MemberAdd:            "/etcdserverpb.Cluster/MemberAdd",           Unary,        NoRevision, Light,        Member,                      [needs_admin], ["/v3/cluster/member/add"];
    MemberRemove:         "/etcdserverpb.Cluster/MemberRemove",        Unary,        NoRevision, Light,        Member,                      [needs_admin], ["/v3/cluster/member/remove"];
    MemberUpdate:         "/etcdserverpb.Cluster/MemberUpdate",        Unary,        NoRevision, Light,        Asks(Kind::MemberUpdate),    [], ["/v3/cluster/member/update"];
    MemberList:           "/etcdserverpb.Cluster/MemberList",          Unary,        NoRevision, Light,        Read,                        [], ["/v3/cluster/member/list"];
    MemberPromote:        "/etcdserverpb.Cluster/MemberPromote",       Unary,        NoRevision, Light,        Member,                      [needs_admin], ["/v3/cluster/member/promote"];

    Alarm:                "/etcdserverpb.Maintenance/Alarm",           Unary,        Full,       Light,        Asks(Kind::Alarm),           [], ["/v3/maintenance/alarm"];
    Status:               "/etcdserverpb.Maintenance/Status",          Unary,        Full,       Light,        Read,                        [suits_learner], ["/v3/maintenance/status"];
    Defragment:           "/etcdserverpb.Maintenance/Defragment",      Unary,        Absent,     Light,        Here,                        [needs_admin], ["/v3/maintenance/defragment"];
    Hash:                 "/etcdserverpb.Maintenance/Hash",            Unary,        Full,       Light,        Read,                        [], ["/v3/maintenance/hash"];
    HashKv:               "/etcdserverpb.Maintenance/HashKV",          Unary,        Full,       Light,        Read,                        [], ["/v3/maintenance/hashkv"];
    Snapshot:             "/etcdserverpb.Maintenance/Snapshot",        ServerStream, Absent,     Wide,         Read,                        [suits_learner], ["/v3/maintenance/snapshot"];
    MoveLeader:           "/etcdserverpb.Maintenance/MoveLeader",      Unary,        Absent,     Light,        Member,                      [needs_admin], ["/v3/maintenance/transfer-leadership"];
    Downgrade:            "/etcdserverpb.Maintenance/Downgrade",       Unary,        Full,       Light,        Read,                        [], ["/v3/maintenance/downgrade"];

    AuthEnable:           "/etcdserverpb.Auth/AuthEnable",             Unary,        Full,       Light,        Asks(Kind::AuthEnable),      [], ["/v3/auth/enable"];
    AuthDisable:          "/etcdserverpb.Auth/AuthDisable",            Unary,        Full,       Light,        Asks(Kind::AuthDisable),     [], ["/v3/auth/disable"];
    AuthStatus:           "/etcdserverpb.Auth/AuthStatus",             Unary,        Full,       Light,        Read,                        [is_for_all], ["/v3/auth/status"];
    Authenticate:         "/etcdserverpb.Auth/Authenticate",           Unary,        Full,       Light,        Hashes(Password::LogIn),     [is_for_all], ["/v3/auth/authenticate"];
    UserAdd:              "/etcdserverpb.Auth/UserAdd",                Unary,        Full,       Light,        Hashes(Password::UserAdd),   [], ["/v3/auth/user/add"];
    UserGet:              "/etcdserverpb.Auth/UserGet",                Unary,        Full,       Light,        Read,                        [], ["/v3/auth/user/get"];
    UserList:             "/etcdserverpb.Auth/UserList",               Unary,        Full,       Wide,         Read,                        [], ["/v3/auth/user/list"];
    UserDelete:           "/etcdserverpb.Auth/UserDelete",             Unary,        Full,       Light,        Asks(Kind::UserDelete),      [], ["/v3/auth/user/delete"];
    UserChangePassword:   "/etcdserverpb.Auth/UserChangePassword",     Unary,        Full,       Light,        Hashes(Password::Change),    [], ["/v3/auth/user/changepw"];
    UserGrantRole:        "/etcdserverpb.Auth/UserGrantRole",          Unary,        Full,       Light,        Asks(Kind::UserGrantRole),   [], ["/v3/auth/user/grant"];
    UserRevokeRole:       "/etcdserverpb.Auth/UserRevokeRole",         Unary,        Full,       Light,        Asks(Kind::UserRevokeRole),  [], ["/v3/auth/user/revoke"];
    RoleAdd:              "/etcdserverpb.Auth/RoleAdd",                Unary,        Full,       Light,        Asks(Kind::RoleAdd),         [], ["/v3/auth/role/add"];
    RoleGet:              "/etcdserverpb.Auth/RoleGet",                Unary,        Full,       Light,        Read,                        [], ["/v3/auth/role/get"];
    RoleList:             "/etcdserverpb.Auth/RoleList",               Unary,        Full,       Wide,         Read,                        [], ["/v3/auth/role/list"];
    RoleDelete:           "/etcdserverpb.Auth/RoleDelete",             Unary,        Full,       Light,        Asks(Kind::RoleDelete),      [], ["/v3/auth/role/delete"];
    RoleGrantPermission:  "/etcdserverpb.Auth/RoleGrantPermission",    Unary,        Full,       Light,        Asks(Kind::RoleGrantPermission), [], ["/v3/auth/role/grant"];
    RoleRevokePermission: "/etcdserverpb.Auth/RoleRevokePermission",   Unary,        Full,       Light,        Asks(Kind::RoleRevokePermission), [], ["/v3/auth/role/revoke"];

    Lock:                 "/v3lockpb.Lock/Lock",                       Unary,        Full,       Light,        Does(Recipe::Lock),          [], ["/v3/lock/lock"];
    Unlock:               "/v3lockpb.Lock/Unlock",                     Unary,        Full,       Light,        Does(Recipe::Unlock),        [], ["/v3/lock/unlock"];

    Campaign:             "/v3electionpb.Election/Campaign",           Unary,        Full,       Light,        Does(Recipe::Campaign),      [], ["/v3/election/campaign"];
    Proclaim:             "/v3electionpb.Election/Proclaim",           Unary,        Full,       Light,        Does(Recipe::Proclaim),      [], ["/v3/election/proclaim"];
    Leader:               "/v3electionpb.Election/Leader",             Unary,        Full,       Point,        Does(Recipe::Leader),        [], ["/v3/election/leader"];
    Observe:              "/v3electionpb.Election/Observe",            ServerStream, Full,       Point,        Does(Recipe::Observe),       [], ["/v3/election/observe"];
    Resign:               "/v3electionpb.Election/Resign",             Unary,        Full,       Light,        Does(Recipe::Resign),        [], ["/v3/election/resign"];

    HealthCheck:          "/grpc.health.v1.Health/Check",              Unary,        Absent,     Light,        Here,                        [suits_learner is_for_all], [];
    HealthWatch:          "/grpc.health.v1.Health/Watch",              ServerStream, Absent,     Light,        Here,                        [suits_learner is_for_all], [];
    HealthList:           "/grpc.health.v1.Health/List",               Unary,        Absent,     Light,        Here,                        [suits_learner is_for_all], [];
}

/// All methods.
#[must_use]
pub fn table() -> &'static [Row] {
    ROWS
}

impl Method {
    /// The method's row.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Finds the method that a path calls. The path is matched byte by byte, its leading slash included.
    ///
    /// # Errors
    /// The call's final answer: there is no such method.
    pub fn find(path: &str) -> Result<Self, Status> {
        Self::of_path(path).ok_or_else(|| unknown(path))
    }

    /// The kind of request that a call becomes.
    #[must_use]
    pub fn request_kind(self) -> Option<RequestKind> {
        match self.row().becomes {
            Asks(kind) => Some(kind),
            _ => None,
        }
    }
}

/// Whether requests of this kind are refused first when space gets scarce: those of a method that adds data.
#[must_use]
pub const fn adds_data(kind: RequestKind) -> bool {
    KINDS_THAT_ADD >> kind.number() & 1 == 1
}

/// A bit for each kind of request. Writes of nodes are no method's; few of them delete.
const KINDS_THAT_ADD: u64 = {
    let mut kinds = 1 << RequestKind::NodeWrite.number();
    let mut at = 0;
    while at < ROWS.len() {
        if let Asks(kind) = ROWS[at].becomes
            && ROWS[at].adds_data
        {
            kinds |= 1 << kind.number();
        }
        at += 1;
    }
    kinds
};

/// Why a call of `path` is refused.
#[cold]
fn unknown(path: &str) -> Status {
    match split_path(path) {
        Some((service, method)) if is_service(service) => Status::unknown_method(method, service),
        Some((service, _)) => Status::unknown_service(service),
        None => {
            Status { code: Code::Unimplemented, message: format!("malformed method name: {path:?}").into() }
        }
    }
}

/// Whether the table has methods of this service.
fn is_service(name: &str) -> bool {
    ROWS.iter().any(|row| split_path(row.path).is_some_and(|(service, _)| service == name))
}

#[cfg(test)]
#[path = "method_tests.rs"]
mod tests;
