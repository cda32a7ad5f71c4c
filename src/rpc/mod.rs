//! What goes over the wire, as bytes and messages only: no socket, no runtime, no state.
//!
//! What can be called stands in one table (`method`). A client shard decodes a request (`convert`), checks
//! whatever needs no state (`validate`), and says "no" from one table (`status`). `framing` is gRPC's bytes around the messages, `headers` what
//! stands in front of the HTTP/2 decoder, `queue` the recipe of `Lock` and `Election`.

pub mod api_version;
pub mod convert;
mod downgrade;
pub mod framing;
pub mod headers;
pub mod method;
pub mod queue;
pub mod range_stream;
pub mod status;
pub mod validate;

pub use convert::Limits;
pub use method::Method;
pub use status::{Code, Status};
