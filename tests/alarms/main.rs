//! Alarms, the comparison of data between members, and entries of later releases, with real processes.
//!
//! The difference that a comparison must find is made by hand: a stopped member's checkpoint is read,
//! one value in it exchanged, and all checksums made anew, which is what a fault in memory or an
//! earlier release's bug leaves behind. Nothing in the product can do that.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod against_etcd;
mod cluster;
mod corrupt;
mod forge;
mod quota;
mod versions;

pub const GET: i32 = 0;
pub const ACTIVATE: i32 = 1;
pub const DEACTIVATE: i32 = 2;
pub const NO_SPACE: i32 = 1;
pub const CORRUPT: i32 = 2;
