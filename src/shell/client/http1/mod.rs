//! HTTP/1 connections: the transport of `web`, and of WebSockets.
//!
//! One request after the other: the next head is read when the last answer is on its way out. So a connection has
//! one `exchange` at most, and no task of its own for it.

mod connection;
pub(super) mod exchange;
pub(super) mod websocket;

pub(super) use connection::{IDLE_MAX, serve};
