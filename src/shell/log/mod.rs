//! The log role: the only writer of the write-ahead log, a reader beside it for members that lag, and how
//! much stays on the disk for them.

pub(in crate::shell) mod entries;
pub(in crate::shell) mod keeping;
pub(in crate::shell) mod reader;
pub(in crate::shell) mod writer;
