//! What can go wrong with a log, and what is merely worth a log line.
//!
//! Owns the texts that an operator reads. An error of the disk is never an answer to a client: the
//! shell refuses writes on `NoSpace` and ends the process on everything else.

use crate::Identity;
use crate::segment::VERSION;
use std::{fmt, io};

/// Why the log cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Bytes that a sync made durable are no longer what they were.
    #[error(
        "{file}: damaged at offset {offset}: {reason}. Log entries from index {index} on may be lost, and \
         some may have been acknowledged, so this member will not start. Keep a copy of the directory. \
         In a cluster, remove this member and add it again with an empty data directory; a single \
         member is restored from its last backup"
    )]
    Corrupt { file: String, offset: u64, index: u64, reason: String },
    #[error(
        "{file}: written by cluster {:x} member {:x}, but this is cluster {:x} member {:x}: \
         the log belongs to another member's data directory",
        found.cluster_id, found.member_id, expected.cluster_id, expected.member_id
    )]
    Identity { file: String, found: Identity, expected: Identity },
    #[error(
        "{file}: written in log format {found}, and this program reads up to {VERSION}: use a later version"
    )]
    Version { file: String, found: u32 },
    #[error(
        "{file}: the log begins after index {base}, but the checkpoint covers only up to {after}: the \
         checkpoint is older than this log, or segments before this file were deleted"
    )]
    Hole { file: String, base: u64, after: u64 },
    #[error("there is no log to open")]
    Missing,
    #[error("there is a log already: {file}")]
    Exists { file: String },
    /// Nothing was written; the same append may be tried again once there is space.
    #[error("no space for the next log segment")]
    NoSpace {
        #[source]
        source: io::Error,
    },
    #[error("an entry of {bytes} bytes exceeds the limit of {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("{operation} failed")]
    Io {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    /// A sync failed earlier: what is on disk is unknown, and only a restart can tell.
    #[error("the log failed earlier and takes no more")]
    Poisoned,
}

impl WalError {
    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { source },
            _ => Self::Io { operation, source },
        }
    }
}

/// Something worth a log line that did not stop the log from opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A group that no sync covered was dropped; nothing in it was acknowledged.
    TornTail { file: String, offset: u64, bytes: u64, after: u64 },
    /// Only the evidence is gone; the log is whole as far as its groups tell.
    MarkDamaged { file: String },
    /// The log ends before the checkpoint does: right after a snapshot from the leader, else a sign
    /// that the disk lost writes it had confirmed.
    BehindCheckpoint { last: u64, after: u64 },
    /// The log disagrees with the checkpoint about the term at `after`; its entries are void.
    Overruled { after: u64, log_term: u64, checkpoint_term: u64 },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TornTail { file, offset, bytes, after } => {
                write!(
                    f,
                    "{file}: dropped {bytes} bytes of an unfinished write at offset {offset}, after index {after}"
                )
            }
            Self::MarkDamaged { file } => {
                write!(f, "{file}: the mark of durability is damaged; wrote a new one")
            }
            Self::BehindCheckpoint { last, after } => {
                write!(f, "the log ends at index {last}, before the checkpoint's {after}")
            }
            Self::Overruled { after, log_term, checkpoint_term } => write!(
                f,
                "the log has term {log_term} at index {after}, the checkpoint {checkpoint_term}: dropped the log's entries"
            ),
        }
    }
}
