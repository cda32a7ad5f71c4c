//! `pinion gateway start` with the real binary: clients of etcd through it, endpoints that go and come back, ends of
//! each kind, its bounds, and what an operator is told.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod clients;
#[expect(dead_code, reason = "the DNS server of tests/discovery, of which these tests need a part")]
#[path = "../discovery/dns_server.rs"]
mod dns_server;
mod endpoints;
mod ends;
mod operator;
mod process;
