//! Log that is kept for members that lag: what the log was last told, and for how long it waits for whom.

use crate::raft::Entry;
use crate::shell::log::keeping::Keep;

/// A follower that answers is heard of in any two election timeouts.
const HEARD_ELECTIONS: u64 = 2;

/// One that is restarted comes back in this time, half a minute by default, and finds all that it missed,
/// however fast the others wrote: up to the bound on what is held.
const BACK_ELECTIONS: u64 = 30;

/// What the log was last told.
#[derive(Debug)]
pub(super) struct Kept {
    /// `--snapshot-catchup-entries`
    pub(super) entries: u64,
    pub(super) keep: Keep,
    /// The newest durable checkpoint, and its bytes.
    pub(super) through: u64,
    pub(super) checkpoint_bytes: u64,
}

/// What entries take of the log, a group of sectors at least.
pub(super) fn bytes_in_log(entries: &[Entry]) -> u64 {
    const SECTOR_BYTES: u64 = pinion_wal::sector::SECTOR_BYTES as u64;
    let bytes: u64 = entries.iter().map(|entry| entry.data.len() as u64).sum();
    bytes.next_multiple_of(SECTOR_BYTES).max(SECTOR_BYTES)
}

impl Kept {
    #[must_use]
    pub(super) fn new(entries: u64) -> Self {
        Self { entries, keep: Keep::default(), through: 0, checkpoint_bytes: 0 }
    }

    /// Election timeouts for which the log waits for a follower that is not heard of.
    pub(super) fn patience(&self) -> u64 {
        if self.entries == 0 { HEARD_ELECTIONS } else { BACK_ELECTIONS }
    }
}
