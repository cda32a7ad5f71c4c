//! The shell.
pub mod client;
