//! The words every other module uses: revisions, ranges, identities, callers, limits, slices of long work, format
//! levels, paths of nodes, protobuf's bytes, and the first bytes of a connection.

pub mod first_bytes;
pub mod format;
pub mod ids;
pub mod key_range;
pub mod limits;
pub mod node_path;
pub mod proto;
pub mod revision;
pub mod slice;
pub mod ticket;

pub use first_bytes::{FirstBytes, TLS_RECORD_BYTES_MAX, whole_tls_records};
pub use format::{Feature, FormatLevel};
pub use ids::{ClusterId, LeaseId, LogIndex, MemberId, Term};
pub use key_range::KeyRange;
pub use node_path::NodePath;
pub use revision::Revision;
pub use slice::Slice;
pub use ticket::{Caller, Ticket};
