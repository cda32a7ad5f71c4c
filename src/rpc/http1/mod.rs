//! HTTP/1 as bytes: the head of a request (`head`), the framing of its body (`body`), the head of an answer
//! (`answer`). No socket; what a request asks for is `web`'s business.
//!
//! The syntax of a head is read by `httparse`, hyper's own parser. `hyper` itself is not used: it drops a
//! `Content-Length` that stands behind `Transfer-Encoding` without a trace, so a request that two parties could
//! cut in two ways could not be refused; and it has buffers of its own for each connection, which the accounts of
//! the client shard could not see.
//!
//! Compatibility: RFC 9112. A request whose end can be read in two ways is refused (section 6.1).

pub mod answer;
pub mod body;
pub mod head;

pub use body::{BodyError, Decoder};
pub use head::{Head, Length, Malformed, Parsed, parse};
