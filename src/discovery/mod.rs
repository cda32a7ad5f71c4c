//! Who begins a cluster, when no list says so: what DNS and the discovery service answer, and what it
//! means. Without I/O; `shell/discovery/` asks the questions.
//!
//! All members must come to the same list, since their ids and the cluster's follow from it. Names do not
//! go into ids, URLs and token do.

pub mod dns;
pub mod registry;
pub mod resolv_conf;
pub mod srv;

/// More members than any cluster has. Answers that list more are not looked at.
pub const MEMBERS_MAX: usize = 1_000;
