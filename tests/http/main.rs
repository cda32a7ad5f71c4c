//! HTTP/1.1 on the client port of the real binary: the JSON gateway, WebSockets, pages for operators, what bad input
//! gets, and the gateway's answers beside those of a real etcd.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod against_etcd;
mod bad_input;
mod clients;
mod dashboard;
mod gateway;
mod pages;
mod peer_port;
mod web;
mod websocket;
