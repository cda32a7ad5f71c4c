//! Leases: which keys die together, and when.
//!
//! Two halves that must not be mixed. The *table* (`table`) is replicated: which leases there are,
//! for how long each was granted, which keys hang on it. It is a part of the state machine, a
//! function of the log, and knows no time. The other half exists on the leader alone and in memory
//! only: the *expiry* (`expiry`, on a timer `wheel`) knows when each lease is due, and the *keeper*
//! (`keeper`) turns that into requests for the log and answers keep-alives. A keep-alive is not
//! logged: it moves a deadline. A lease that is due is not gone: the leader proposes `LeaseExpire`,
//! and it is gone when every member applies that.
//!
//! What a new leader or a restarted member knows of time is what the log says. So the leader notes in
//! the log how long a lease has still to live, whenever half of what the log says has passed without
//! a keep-alive (`LeaseCheckpoint`); a lease that is kept alive in time is never noted. A keep-alive
//! of a lease that was noted is answered only when the note is taken back.
//!
//! Invariant, never early: once a keep-alive that came at time t is answered, the lease is not
//! expired before some leader has led for its whole TTL after t. Time without a leader does not count,
//! and a new leader gives every lease one election timeout more.
//! Late: by a tick of the shell and a round through the log. After a change of leader or a restart a
//! lease that nobody keeps alive lives up to twice as long as it had left, and that timeout.
//! Compatibility: etcd's answers. etcd forgets remaining times at a restart (unless it is told not
//! to) and gives the full TTL again; a client notices only that an abandoned lease ends sooner here.

#[cfg(test)]
mod cost_tests;
pub mod expiry;
pub mod keeper;
pub mod table;
mod wheel;

pub use expiry::{Expiry, Renewal};
pub use keeper::{Keeper, Proposal};
pub use table::{AttachedCursor, KeyWalkId, Lease, Table, WalkId};

use crate::types::LeaseId;

/// What an applied request did to the table: the leader's memory follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Granted {
        id: LeaseId,
        ttl_s: u64,
    },
    Revoked {
        id: LeaseId,
    },
    /// 0: the full time again.
    RemainingSet {
        id: LeaseId,
        remaining_s: u64,
    },
}
