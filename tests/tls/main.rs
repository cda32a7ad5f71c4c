//! TLS of the real binary, with real clients: what is served, who is refused, what is read anew, members among each
//! other.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod certificates;
mod hellos;
mod peers;
mod programs;
mod refused;
mod reload;
mod served;
mod startup;
