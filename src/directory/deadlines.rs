//! Which nodes end, and what follows the leader's memory of them.
//!
//! A deadline is a lease without a client: its id is the revision that set it, its one key the node. It ends when the
//! node's next version is written, whoever writes it; a refresh begins another.
//!
//! Invariant: there is a deadline for exactly the live keys and entries whose newest record has an expiry.

use crate::lease::{Change, Lease, Table};
use crate::mvcc::Expiry;
use crate::types::limits::LEASE_TTL_MAX_S;
use crate::types::{LeaseId, LogIndex};

/// Longest time to live of a node, in seconds: 150 years, so that its end is a date.
pub const NODE_TTL_MAX_S: u64 = 5_000_000_000;

const _: () = assert!(NODE_TTL_MAX_S <= LEASE_TTL_MAX_S.unsigned_abs());

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending<'a> {
    Key(&'a [u8]),
    /// The prefix of what is below it, which is also the name of its entry.
    Directory(&'a [u8]),
}

const KEY: u8 = b'k';
const DIRECTORY: u8 = b'd';

impl<'a> Ending<'a> {
    fn name(self) -> Vec<u8> {
        let tag = if matches!(self, Self::Key(_)) { KEY } else { DIRECTORY };
        let key = self.key();
        let mut name = Vec::with_capacity(1 + key.len());
        name.push(tag);
        name.extend_from_slice(key);
        name
    }

    /// The key, or the prefix.
    #[must_use]
    pub fn key(self) -> &'a [u8] {
        match self {
            Self::Key(key) | Self::Directory(key) => key,
        }
    }

    fn of_name(name: &'a [u8]) -> Self {
        match name.split_first() {
            Some((&DIRECTORY, below)) => Self::Directory(below),
            Some((_, key)) => Self::Key(key),
            None => unreachable!("a deadline's name has its tag"),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Deadlines {
    table: Table,
    /// Not yet taken by whoever applies.
    changes: Vec<Change>,
}

impl Deadlines {
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// For walks over it alone.
    pub fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// What was done since the last call, in order.
    pub fn take_changes(&mut self) -> std::vec::Drain<'_, Change> {
        self.changes.drain(..)
    }

    /// The version of `revision` ends `expiry.ttl_s` after the entry `at`.
    pub fn begin(&mut self, revision: i64, ending: Ending<'_>, expiry: Expiry, at: LogIndex) {
        self.insert(revision, ending, expiry.ttl_s, 0, at);
        self.changes.push(Change::Granted { id: LeaseId(revision), ttl_s: expiry.ttl_s.min(NODE_TTL_MAX_S) });
    }

    fn insert(&mut self, revision: i64, ending: Ending<'_>, ttl_s: u64, remaining_s: u64, at: LogIndex) {
        let id = LeaseId(revision);
        // At once is a second for the table, and no time for the leader that hears of it.
        let ttl_s = ttl_s.clamp(1, NODE_TTL_MAX_S);
        let remaining_s = if remaining_s < ttl_s { remaining_s } else { 0 };
        self.table.insert(id, Lease::new(ttl_s, remaining_s, at));
        self.table.move_key(&ending.name(), LeaseId(0), id);
    }

    /// The version of `revision` is superseded; 0 is none.
    pub fn end(&mut self, revision: i64) {
        if revision != 0 {
            let ended = self.table.revoke(LeaseId(revision));
            assert!(ended.is_some(), "the version of revision {revision} has no deadline");
            self.changes.push(Change::Revoked { id: LeaseId(revision) });
        }
    }

    /// What the leader that had applied everything through `through` means by this id.
    #[must_use]
    pub fn meant(&self, id: LeaseId, through: LogIndex) -> Option<Ending<'_>> {
        let lease = self.table.get(id).filter(|lease| lease.granted_at() <= through)?;
        lease.keys().next().map(Ending::of_name)
    }

    /// Notes how long a node has still to live.
    pub fn note(&mut self, id: LeaseId, through: LogIndex, remaining_s: u64) {
        if self.meant(id, through).is_some()
            && let Some(remaining_s) = self.table.set_remaining(id, remaining_s)
        {
            self.changes.push(Change::RemainingSet { id, remaining_s });
        }
    }

    /// Puts one back that a checkpoint tells of.
    ///
    /// # Errors
    /// There is one already.
    pub fn restore(
        &mut self,
        revision: i64,
        ending: Ending<'_>,
        ttl_s: u64,
        (remaining_s, at): (u64, LogIndex),
    ) -> Result<(), &'static str> {
        if revision <= 0 || self.table.contains(LeaseId(revision)) {
            return Err("two nodes end by one revision");
        }
        self.insert(revision, ending, ttl_s, remaining_s, at);
        Ok(())
    }
}
