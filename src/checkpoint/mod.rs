//! Checkpoints: the whole state at one log index, as a file and as a stream.

pub mod cadence;
pub mod format;
