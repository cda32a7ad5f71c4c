//! Directories over the key space: etcd's v2 API on the one store.
//!
//! A node `/a/b` is the key of that name, and a directory is a prefix (`types::node_path`), so whatever v3 writes
//! under `--v2-prefix` is a node, and whatever v2 writes is a key. What a prefix cannot hold lies beside the keys, in
//! two tables of the state machine:
//!
//! * *entries*: directories that v2 has made, which exist without a child, may have a time to live and have indices
//!   of their own. A second `mvcc::Store` in step with the first: a change of an entry has the revision of the key
//!   space at which it was made, so entries have history, are compacted, and are written to a checkpoint as keys are.
//! * *deadlines*: which nodes end, a `lease::Table` of its own. A deadline's id is the revision that set it.
//!
//! An index is a revision. A record says what v3 does not tell in its *mark* (`mvcc::Mark`): the action, the
//! createdIndex where it is not the revision itself, the expiry. What has no mark reads as `set` or `delete`.
//!
//! | v2 | becomes one applied request | which writes, at the next revision |
//! |---|---|---|
//! | PUT, POST, DELETE | `NodeWrite`, decided by `apply::node` on every member alike | the key or the entry; entries of directories that were missing above it; for a directory that goes, deletions of all that was below |
//! | refresh | the same | the old value again: a put for watchers of v3, nothing for those of v2 |
//! | expiry | `NodeExpire` by the leader, who counts as for leases (`lease::Keeper`) | as DELETE, each node a revision |
//! | time passed | `NodeCheckpoint` by the leader: how long nodes have still to live | nothing; no revision |
//! | GET | a read | |
//! | wait | no request: `waits` reads the history of both stores | |
//!
//! A change of a directory alone takes a revision in which no key changes (`Store::advance_to`). Expiry is counted in
//! time that leaders led, as for leases: never early, and a new leader goes on from what the log says is left. The
//! moment that answers show as `expiration` was computed by the member that took the request, and is for people.
//!
//! A checkpoint holds the entries with their history, the deadlines with what is noted of them (`apply::checkpoint`,
//! sections 10 and 11), and marks within the records. All of it is written from `Feature::Nodes` on, and no write of
//! a node is proposed below that level.
//!
//! Where v3 has written what no v2 store could hold: a key hides the directory of the same name from listings, and is
//! found itself; a key that is no path is left out; a directory that nobody made has the indices of the first key
//! below it and ends with its last one. The changes of one transaction share an index.
//!
//! Cost: a look-up O(levels · log keys); a list O(children · log keys), whatever lies below them. A directory that v2
//! made costs about 100 bytes and its name; a deadline 400.

pub mod deadlines;
pub mod history;
pub mod shown;
pub mod tallies;
pub mod tree;
pub mod waits;

#[cfg(test)]
mod tests;

pub use deadlines::Deadlines;
pub use tallies::Tallies;
pub use tree::{Found, Tree};
pub use waits::Waits;

use crate::lease::{Change, Table};
use crate::mvcc::Store;

/// Bytes that a deadline counts as against the quota.
const DEADLINE_BYTES: u64 = 400;

/// The tables beside the key space.
#[derive(Debug, Default)]
pub struct Directories {
    pub entries: Store,
    pub deadlines: Deadlines,
    pub tallies: Tallies,
}

impl Directories {
    /// What the quota counts.
    #[must_use]
    pub fn bytes_held(&self) -> u64 {
        self.entries.bytes_held() + self.deadlines.table().len() as u64 * DEADLINE_BYTES
    }

    /// The same without what compactions have not given back yet.
    #[must_use]
    pub fn bytes_in_use(&self) -> u64 {
        self.entries.bytes_in_use() + self.deadlines.table().len() as u64 * DEADLINE_BYTES
    }

    /// Whether v2 has never made a directory.
    #[must_use]
    pub fn has_no_history(&self) -> bool {
        self.entries.current_revision() == 1
    }

    /// Makes the history below `revision`, a revision of the key space, unreadable as the key space's is.
    pub fn compact(&mut self, revision: i64, current: i64) {
        if !self.has_no_history() {
            self.entries.advance_to(current);
            self.entries.compact(revision);
        }
    }

    /// The deadlines that there are.
    #[must_use]
    pub fn table(&self) -> &Table {
        self.deadlines.table()
    }

    /// As `Machine::take_lease_changes`.
    pub fn take_changes(&mut self) -> std::vec::Drain<'_, Change> {
        self.deadlines.take_changes()
    }
}
