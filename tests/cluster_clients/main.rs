//! What clients notice of a cluster: three members of the real binary on loopback.
//!
//! Leases through any member, and what a member says that has lost its leader, was told to stop, or has
//! no vote. Whether the members agree is tried elsewhere.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod leaderless;
mod learner;
mod leases;
mod recipes;
mod restart;
