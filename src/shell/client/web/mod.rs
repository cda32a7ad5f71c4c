//! Requests of HTTP other than gRPC's: the JSON gateway and the pages for operators, as the second front end.
//!
//! Nothing here knows which version of HTTP carries a request. A transport (`http1`, `http2`) reads it, asks `rpc::web`
//! what it is about, and comes here with the request and with a `Sink`, on which the answer is written.
//!
//! ```text
//! transport ─ ask, text, Sink ─► gateway ─ bytes of the message ─► ClientShard::on_call, on_stream
//! transport ◄─ text ─ Sink ◄──── gateway ◄─ bytes of the answer ── Responder
//! transport ─ ask, Sink ───────► pages: health, version, variables; dashboard
//! ```
//!
//! Calls take the way of all calls (`call`): one admission, one account, one set of deadlines. The messages are
//! turned from text to bytes and back by `rpc::json`.
//!
//! A method has a path in the gateway if its row says so (`rpc/method.rs`); there is nothing to add here.

mod behind;
mod dashboard;
pub(super) mod gateway;
mod health;
pub(super) mod incoming;
pub(super) mod lines;
mod other;
pub(super) mod pages;
pub(super) mod part;
pub(super) mod sink;
pub(super) mod taker;
pub(super) mod v2;
mod variables;
