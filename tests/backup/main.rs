//! Backups with the real binary, and with every real etcd that is there as the judge: what one side writes the other
//! has to serve, with the same history.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod commands;
mod etcds;
mod fill;
mod out;
mod recover;
mod restore;
mod seen;
mod start;
mod steps;
