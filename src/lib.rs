#![doc = include_str!("ARCHITECTURE.md")]

pub mod apply;
pub mod checkpoint;
pub mod config;
pub mod discovery;
pub mod lease;
pub mod membership;
pub mod mvcc;
pub mod pb;
pub mod peer;
pub mod raft;
pub mod replica;
pub mod rpc;
#[cfg(feature = "server")]
pub mod shell;
pub mod types;
pub mod watch;
