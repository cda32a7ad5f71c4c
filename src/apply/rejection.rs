//! A "no" to the client that every member computes alike.

use crate::types::LeaseId;

/// Why a request was refused. Part of the applied state: no member-local fact may decide it.
/// `rpc::status` turns it into etcd's code and text, and nothing else does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("revision {required} is compacted, the oldest readable one is {compacted}")]
    Compacted { required: i64, compacted: i64 },
    #[error("revision {required} is in the future, the current one is {current}")]
    FutureRevision { required: i64, current: i64 },
    #[error("lease {0:?} not found")]
    LeaseNotFound(LeaseId),
    #[error("key not found")]
    KeyNotFound,
    #[error("the request's bytes do not decode: {0}")]
    Undecodable(String),
}
