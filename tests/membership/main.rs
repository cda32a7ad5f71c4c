//! Who belongs to a cluster, with the real binary: members join, learn, are promoted, move, are removed
//! and replaced, and no acknowledged write is lost meanwhile.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod change;
mod force_new;
mod group;
mod refused;
mod texts;
