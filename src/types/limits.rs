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

/// The longest that a slice of long work may take, in nanoseconds. See `types/slice.rs`.
pub const SLICE_NS_MAX: u64 = 500_000;

/// The longest that all slices of one turn of the store may take together.
pub const TURN_NS_MAX: u64 = 1_000_000;

/// Counted work of a slice: half of what it may take, so that a slower machine keeps the bound too.
pub const SLICE_NS: u64 = SLICE_NS_MAX / 2;

/// Counted work of a turn's slices together, where nobody else wants the executor.
pub const TURN_NS: u64 = TURN_NS_MAX / 2;

/// Counted work of a turn while calls are under way. A role of one executor is behind every turn of another, so a
/// put waits for the rest of one where it comes in, and for another where its sync is done.
pub const TURN_NS_IN_COMPANY: u64 = TURN_NS_MAX / 10;

/// Price of a key that is found in the index, its record in no cache.
pub const KEY_NS: u64 = 200;

/// Price of a key that is deleted behind the one before it, its version unseen and its record owed.
pub const BURY_NS: u64 = 40;

/// Price of writing the record of such a deletion; and of deleting a key whose version is looked at.
pub const SETTLE_NS: u64 = 250;

/// Price of a record behind the one before it.
pub const RECORD_NS: u64 = 60;

/// Price of one comparison of a sort.
pub const COMPARE_NS: u64 = 20;

/// Price of a KiB that is copied or compared.
pub const KIB_NS: u64 = 150;

/// The largest unit of work that is not divided: one comparison of two values.
pub const SLICE_UNIT_NS_MAX: u64 = 8_000_000;

/// What large writes may take in counted work, and leave owed, before the next one waits for settling and removal: two
/// million deletions that owe their records. See `upkeep::Room`.
pub const LARGE_WRITES_NS: u64 = 500_000_000;

/// Keys that are read in one piece: what an ordinary page has.
pub const SHORT_KEYS_MAX: u64 = 1_000;

/// Deletions whose records are worth a list of their own until they are written.
pub const OWED_KEYS_MIN: u64 = 256;

/// Bytes of an answer that is made in one piece.
pub const SHORT_BYTES_MAX: usize = 256 << 10;

/// Bytes of one piece of a long answer.
pub const PIECE_BYTES: usize = 128 << 10;

/// Pieces of one answer on their way between the store and the client's socket.
pub const PIECES_MAX: usize = 2;
