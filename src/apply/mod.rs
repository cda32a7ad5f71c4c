//! Committed entries in, answers out: the state machine every member runs alike.

pub mod rejection;
pub mod request;
pub mod response;

pub use rejection::Rejection;
pub use request::{Origin, Request, RequestKind};
pub use response::{Outcome, Response};
