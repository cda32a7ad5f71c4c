//! Raft and state machine joined, still without I/O.

pub mod exchange;
