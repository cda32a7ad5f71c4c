//! What goes over the wire, as bytes and messages only: no socket, no runtime, no state.
//!
//! What can be called stands in one table (`method`). A client shard decodes a request (`convert`), checks
//! whatever needs no state (`validate`), and says "no" from one table (`status`). `framing` is gRPC's bytes around the messages, `headers` what
//! stands in front of the HTTP/2 decoder, `queue` the recipe of `Lock` and `Election`. `http1`, `web` and `json` are the same
//! for requests of HTTP that are not gRPC's.

pub mod api_version;
pub mod convert;
mod downgrade;
pub mod escape;
pub mod framing;
pub mod headers;
pub mod hops;
pub mod http1;
pub mod json;
pub mod method;
pub mod nodes;
pub mod not_older;
pub mod queue;
pub mod range_stream;
pub mod status;
pub mod validate;
pub mod web;

pub use convert::Limits;
pub use method::Method;
pub use status::{Code, Status};
