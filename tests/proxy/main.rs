//! `pinion grpc-proxy start` with the real binary: clients of etcd through it in front of Pinion and of etcd, beside etcd's
//! own proxy; endpoints that are down, freeze, break off or talk nonsense; what an operator is told.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod calls;
mod clients;
mod hostile;
mod operator;
mod ordering;
mod process;
mod registry;
mod watches;
#[expect(dead_code, reason = "the HTTP client of tests/http, of which these tests need a part")]
#[path = "../http/web.rs"]
mod web;
