//! etcd's v2 API on the real binary: directories beside a real etcd's, both APIs on the same keys, waits, times to live
//! in a cluster whose leaders change, restarts, rights, and what bad input gets.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod against_etcd;
mod auth;
mod bad_input;
mod both;
mod clients;
mod cluster;
mod crowd;
mod v2;
mod waits;
#[expect(dead_code, reason = "the client of tests/http, of which these tests need a part")]
#[path = "../http/web.rs"]
mod web;
