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

/// Services whose methods exist in etcd. A method of theirs that is not answered yet is an unknown
/// method, as it would be in an older etcd.
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
        Some((service, method)) if SERVICES.contains(&service) => Status::unknown_method(method, service),
        Some((service, _)) => Status::unknown_service(service),
        None => {
            Status { code: Code::Unimplemented, message: format!("malformed method name: {path:?}").into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            text("/etcdserverpb.Auth/AuthEnable"),
            "unknown method AuthEnable for service etcdserverpb.Auth"
        );
        assert_eq!(text("/v3lockpb.Lock/Try"), "unknown method Try for service v3lockpb.Lock");
    }
}
