//! gRPC over HTTP/2: the front end that turns a connection's bytes into calls, and answers into bytes.

pub(super) mod bidi;
pub(super) mod frame_credit;
mod frame_head;
pub(super) mod frame_meter;
pub(super) mod greeting;
pub(super) mod gzip;
pub(super) mod h2_io;
pub(super) mod limits;
mod request;
pub(super) mod response;
