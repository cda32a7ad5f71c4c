//! Members that find each other, with the real binary: by SRV records of a DNS server of the test's own,
//! and through a discovery service, which is another Pinion or a real etcd.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod dns_server;
mod group;
mod service;
mod srv;
