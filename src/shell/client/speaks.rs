//! Which protocols an address for clients is for.

/// Protocols that a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// gRPC and HTTP/1, told apart by the first bytes.
    All,
    /// gRPC alone: HTTP has addresses of its own (`--listen-client-http-urls`).
    Grpc,
    /// HTTP/1 alone.
    Http,
    /// Health and metrics alone (`--listen-metrics-urls`).
    Metrics,
}
