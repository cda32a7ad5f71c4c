//! Upkeep: when a member does what no client asks for, and what makes room for it.
//!
//! Decisions alone: the shell passes the time and where the state stands, and carries out what comes back. What is
//! to change the state goes through the log as any client's request does.

mod auto_compaction;
mod room;

pub use auto_compaction::{AutoCompactor, Ended, Outcome, Standing};
pub use room::Room;

#[cfg(test)]
mod auto_compaction_tests;
