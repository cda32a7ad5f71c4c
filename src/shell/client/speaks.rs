//! Which protocols an address for clients is for.

use crate::config::Encryption;

/// Protocols that a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// gRPC and HTTP, told apart by the first bytes, or by TLS and each request's headers.
    All,
    /// gRPC alone: HTTP has addresses of its own (`--listen-client-http-urls`).
    Grpc,
    /// HTTP alone.
    Http,
    /// Health and metrics alone (`--listen-metrics-urls`).
    Metrics,
}

/// What an address is for, and whether what comes to it is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub speaks: Speaks,
    pub encryption: Encryption,
}

impl Endpoint {
    /// Without encryption.
    #[must_use]
    pub fn plain(speaks: Speaks) -> Self {
        Self { speaks, encryption: Encryption::None }
    }
}
