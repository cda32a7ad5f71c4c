#![doc = include_str!("../FORMAT.md")]

mod error;
pub mod memory;
pub mod reader;
mod record;
mod recover;
pub mod scan;
pub mod sector;
pub mod segment;
pub mod storage;
mod writer;

#[cfg(feature = "map")]
pub mod direct;
#[cfg(feature = "map")]
pub mod files;
#[cfg(feature = "map")]
pub mod map;
#[cfg(feature = "map")]
pub mod probe;

pub use error::{Note, WalError};
pub use reader::LogReader;
pub use record::{ENTRY_BYTES_MAX, Entry, HardState, Point};
pub use segment::{SEGMENT_BYTES, SegmentSeq};
pub use storage::Storage;
pub use writer::{Counters, Held, Reading, Recovered, Wal};

/// Whose log it is: in each segment's header and under every checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
}
