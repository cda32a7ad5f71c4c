//! The real binary from outside: how it starts and refuses to, what bad input gets, what `etcdctl` sees.
#![allow(unreachable_pub, reason = "a test binary has no other crate to reach")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod auto_compaction;
mod bad_input;
mod command_line;
mod compaction;
mod container;
mod data_dirs;
mod demo;
mod disk_full;
mod doctor;
mod etcdctl;
mod large_values;
mod large_writes;
mod leases;
mod listening;
mod lists;
mod lock;
mod logging;
mod metrics;
mod readiness;
mod startup;
mod try_cluster;
mod unix_sockets;
mod watching;
