//! Bounds that clients can observe, with etcd's defaults.

/// Largest encoded request that goes through consensus, in bytes (`--max-request-bytes`).
pub const REQUEST_BYTES_MAX_DEFAULT: u32 = 1_572_864;

/// What gRPC accepts above the request bound, so that a too large request still gets a clear answer.
pub const GRPC_OVERHEAD_BYTES: u32 = 524_288;

/// Metadata of one call, in bytes (`--max-request-metadata-bytes`). Ours: etcd takes 16 MiB of any client.
/// Tokens and the headers of a service mesh take a few thousand.
pub const METADATA_BYTES_MAX_DEFAULT: u32 = 64 * 1024;

/// Operations per level of a transaction (`--max-txn-ops`).
pub const TXN_OPS_MAX_DEFAULT: u32 = 128;

/// Nesting of transactions. etcd bounds it only by the request size and the operation count, which
/// shrinks by at least one a level; prost refuses deeper messages than 100 by itself.
pub const TXN_DEPTH_MAX: u32 = 64;

/// Committed but not applied entries above which writes are refused with "too many requests".
pub const APPLY_GAP_MAX: u64 = 5_000;

/// Longest life that may be asked for a lease, in seconds; etcd's bound.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;

/// Shortest life of a lease at the default election timeout, in seconds.
pub const LEASE_TTL_MIN_S_DEFAULT: i64 = 2;
