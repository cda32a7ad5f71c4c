//! What the tests of the real binary are made of: members on loopback, a client, judges, a disk
//! that remembers.
//!
//! The binary is `pinion` as cargo built it, or the one that `PINION_TEST_BIN` names. Since the flags
//! are etcd's, `PINION_TEST_BIN=/usr/bin/etcd` runs most tests against etcd itself, which is how the
//! tests were proven before they judged anything.
//!
//! Every wait has a deadline. A process is stopped by its own id, also when its test panics; its
//! directory and log are then kept and named.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

pub mod client;
pub mod disk;
pub mod judge;
pub mod mount;
pub mod pb;
pub mod program;
pub mod stream;
pub mod tls;

mod cluster;
#[cfg(test)]
mod disk_tests;
mod files;
mod launch;
mod member;
mod pipe;
mod runner;
#[allow(unsafe_code, reason = "prctl between fork and exec; see the module")]
mod seccomp;
mod server;
mod wait;
mod work_dir;

pub use cluster::{Cluster, start_all, start_new};
pub use files::{copy_tree, segments};
pub use launch::{Launch, free_port, server_binary, server_is_etcd};
pub use member::Member;
pub use pipe::full_pipe;
pub use runner::{TEST_DEADLINE, block_on, env_number, etcds, installed, skip};
pub use server::{Exit, Server};
pub use wait::{PATIENCE, eventually, until};
pub use work_dir::WorkDir;
