//! Requests of HTTP/2 that are not gRPC's, for `web`: at addresses with TLS, where browsers, curl and Prometheus
//! choose HTTP/2. Without TLS nobody does, and there HTTP/2 is gRPC's alone.
//!
//! A connection carries both kinds; the content type of a request tells. `h2` is the same, and so are its turns and its
//! account (`connection`).

mod exchange;
mod request;

pub(super) use exchange::{Exchange, Outgoing};
