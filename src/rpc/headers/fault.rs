//! What is wrong with header blocks beyond one call.

/// Bytes of one request's headers from which on they are an attack, whatever may be taken: as many as etcd
/// takes.
pub const HEADERS_BYTES_ABUSE: usize = 16 << 20;

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A block breaks HPACK's rules: the client's table is not known any more.
    Compression,
    /// One request's headers are larger than any that make sense.
    Flood,
}

/// The block breaks HPACK's rules: from here on nobody knows what the client's table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HpackError;

impl From<HpackError> for Fault {
    fn from(_: HpackError) -> Self {
        Self::Compression
    }
}
