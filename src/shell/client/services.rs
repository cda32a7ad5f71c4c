//! Which method a path means.

use crate::rpc::framing::split_path;
use crate::rpc::{Code, Method, Status};

/// A method this server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Answered by the rest of the member.
    Member(Method),
    /// Answered here: there is nothing to defragment.
    Defragment,
    HealthCheck,
    HealthWatch,
    HealthList,
    /// A stream of requests and a stream of answers.
    Bidi(BidiMethod),
    /// Proposed once its lease has a number.
    LeaseGrant,
    /// Carried out here in several commands.
    Recipe(Recipe),
}

/// Methods of `Lock` and `Election`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipe {
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Observe,
    Resign,
}

/// Methods whose requests are a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BidiMethod {
    Watch,
    LeaseKeepAlive,
}

impl Call {
    /// Whether a member without a vote answers. A range it answers only if it may be stale. Of all
    /// others it would tell what it has, and nobody could see that this is an hour old.
    pub(super) fn suits_learner(self) -> bool {
        match self {
            Self::Member(Method::Status | Method::Range)
            | Self::HealthCheck
            | Self::HealthWatch
            | Self::HealthList => true,
            Self::Member(_) | Self::Defragment | Self::Bidi(_) | Self::LeaseGrant | Self::Recipe(_) => false,
        }
    }
}

/// Methods of etcd that this version does not answer yet. "Unknown method" would send their callers to look
/// for a mistake of their own.
const NOT_YET: [(&str, &[&str]); 2] = [
    ("etcdserverpb.Maintenance", &["Snapshot", "Downgrade"]),
    (
        "etcdserverpb.Auth",
        &[
            "AuthEnable",
            "AuthDisable",
            "AuthStatus",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
    ),
];

/// Services that etcd has. A name of theirs that is no method is refused with gRPC-Go's words.
const SERVICES: [&str; 9] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
];

/// Finds the method. The path is matched byte by byte, its leading slash included.
pub(super) fn find(path: &str) -> Result<Call, Status> {
    if let Some(method) = Method::from_path(path) {
        return Ok(Call::Member(method));
    }
    Ok(match path {
        "/etcdserverpb.Maintenance/Defragment" => Call::Defragment,
        "/grpc.health.v1.Health/Check" => Call::HealthCheck,
        "/grpc.health.v1.Health/Watch" => Call::HealthWatch,
        "/grpc.health.v1.Health/List" => Call::HealthList,
        "/etcdserverpb.Lease/LeaseGrant" => Call::LeaseGrant,
        "/v3lockpb.Lock/Lock" => Call::Recipe(Recipe::Lock),
        "/v3lockpb.Lock/Unlock" => Call::Recipe(Recipe::Unlock),
        "/v3electionpb.Election/Campaign" => Call::Recipe(Recipe::Campaign),
        "/v3electionpb.Election/Proclaim" => Call::Recipe(Recipe::Proclaim),
        "/v3electionpb.Election/Leader" => Call::Recipe(Recipe::Leader),
        "/v3electionpb.Election/Observe" => Call::Recipe(Recipe::Observe),
        "/v3electionpb.Election/Resign" => Call::Recipe(Recipe::Resign),
        "/etcdserverpb.Watch/Watch" => Call::Bidi(BidiMethod::Watch),
        "/etcdserverpb.Lease/LeaseKeepAlive" => Call::Bidi(BidiMethod::LeaseKeepAlive),
        _ => return Err(unknown(path)),
    })
}

fn unknown(path: &str) -> Status {
    match split_path(path) {
        Some((service, method)) if is_not_yet(service, method) => Status::not_supported(method, service),
        Some((service, method)) if SERVICES.contains(&service) => Status::unknown_method(method, service),
        Some((service, _)) => Status::unknown_service(service),
        None => {
            Status { code: Code::Unimplemented, message: format!("malformed method name: {path:?}").into() }
        }
    }
}

fn is_not_yet(service: &str, method: &str) -> bool {
    NOT_YET.iter().any(|(missing, methods)| *missing == service && methods.contains(&method))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The protocol's own list of methods, so that none is forgotten.
    #[test]
    fn each_method_of_etcd_is_answered_or_said_to_be_missing() {
        let protocol = [
            include_str!("../../../proto/rpc.proto"),
            include_str!("../../../proto/v3lock.proto"),
            include_str!("../../../proto/v3election.proto"),
            include_str!("../../../proto/health.proto"),
        ];
        let (mut answered, mut missing) = (0, 0);
        for text in protocol {
            let package = text.lines().find_map(|line| line.strip_prefix("package ")).unwrap();
            let package = package.trim_end_matches(';');
            let mut service = "";
            for line in text.lines().map(str::trim_start) {
                if let Some(rest) = line.strip_prefix("service ") {
                    service = rest.split(' ').next().unwrap();
                }
                let Some(rest) = line.strip_prefix("rpc ") else { continue };
                let path = format!("/{package}.{service}/{}", rest.split('(').next().unwrap());
                match find(&path) {
                    Ok(_) => answered += 1,
                    Err(status) => {
                        let wanted = format!("{} is not supported by Pinion yet", &path[1..]);
                        assert_eq!((status.code, &*status.message), (Code::Unimplemented, &*wanted));
                        missing += 1;
                    }
                }
            }
        }
        let listed: usize = NOT_YET.iter().map(|(_, methods)| methods.len()).sum();
        assert_eq!(missing, listed, "a method is answered and said to be missing");
        assert!(20 < answered, "{answered}");
    }

    #[test]
    fn only_the_exact_path_is_a_method() {
        assert_eq!(find("/etcdserverpb.KV/Put"), Ok(Call::Member(Method::Put)));
        let text = |path| find(path).unwrap_err().message.into_owned();
        assert_eq!(text("/etcdserverpb.KV/put"), "unknown method put for service etcdserverpb.KV");
        assert_eq!(text("/etcdserverpb.KV/Put/"), "unknown service etcdserverpb.KV/Put");
        assert_eq!(text("/etcdserverpb.kv/Put"), "unknown service etcdserverpb.kv");
        assert_eq!(text("/etcdserverpb.KV/Put?x=1"), "unknown method Put?x=1 for service etcdserverpb.KV");
        assert_eq!(text("/"), "malformed method name: \"/\"");
        assert_eq!(text("etcdserverpb.KV/Put"), "malformed method name: \"etcdserverpb.KV/Put\"");
        assert_eq!(text("/etcdserverpb.Auth/Enable"), "unknown method Enable for service etcdserverpb.Auth");
        assert_eq!(text("/v3lockpb.Lock/Try"), "unknown method Try for service v3lockpb.Lock");
    }
}
