//! The roles of a user, of whom a role may go from all at once.
//!
//! A role that is deleted is taken from nobody at that moment, since ten thousand users may have it: the deletion is noted
//! with its revision, and a grant of an earlier one counts no more. Each later change clears a few users of such grants, and
//! a note goes when all have been looked at since.
//!
//! Invariant: what counts is what would be left if the role had been taken from each of them at once.
//! Cost: O(log roles of the user) and O(log notes) each; notes are at most twice the changes of one round over all users.

use std::collections::BTreeMap;

/// Users that a change clears.
pub(super) const CLEARED: usize = 64;

/// A role, and the revision at which it was granted; 0 where that is not known any more.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    role: String,
    revision: u64,
}

impl Grant {
    fn counts(&self, deleted: Option<u64>) -> bool {
        deleted.is_none_or(|deleted| deleted < self.revision)
    }
}

/// The roles of a user, in order, with some that count no more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Granted(Vec<Grant>);

impl Granted {
    /// Roles in order, of a state without notes.
    pub(super) fn restored(roles: Vec<String>) -> Self {
        Self(roles.into_iter().map(|role| Grant { role, revision: 0 }).collect())
    }

    fn place(&self, role: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|own| own.role.as_str().cmp(role))
    }

    pub(super) fn has(&self, role: &str, deletions: &Deletions) -> bool {
        self.place(role).is_ok_and(|place| self.0[place].counts(deletions.of(role)))
    }

    /// Those that count, in order.
    pub(super) fn roles<'a>(&'a self, deletions: &'a Deletions) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(|grant| grant.counts(deletions.of(&grant.role))).map(|grant| grant.role.as_str())
    }

    /// Grants a role that was last deleted at `deleted`. False: it counts already.
    pub(super) fn grant(&mut self, role: &str, revision: u64, deleted: Option<u64>) -> bool {
        match self.place(role) {
            Ok(place) if self.0[place].counts(deleted) => return false,
            Ok(place) => self.0[place].revision = revision,
            Err(place) => self.0.insert(place, Grant { role: role.to_owned(), revision }),
        }
        true
    }

    /// Takes a role away. False: it does not count.
    pub(super) fn revoke(&mut self, role: &str, deleted: Option<u64>) -> bool {
        self.place(role).is_ok_and(|place| self.0.remove(place).counts(deleted))
    }

    fn is_clear(&self, deletions: &Deletions) -> bool {
        self.0.iter().all(|grant| grant.counts(deletions.of(&grant.role)))
    }

    fn clear(&mut self, deletions: &Deletions) {
        self.0.retain(|grant| grant.counts(deletions.of(&grant.role)));
    }
}

/// The last deletion of a role.
#[derive(Debug, Clone, Copy)]
struct Deletion {
    revision: u64,
    /// The round over the users in which it was noted.
    round: u64,
}

/// Roles that were deleted and may still be among somebody's grants.
#[derive(Debug, Clone, Default)]
pub(super) struct Deletions {
    noted: BTreeMap<String, Deletion>,
    round: u64,
    /// The user that was looked at last in this round.
    last: Option<String>,
}

impl Deletions {
    /// The revision at which a role was deleted last, if that still matters.
    pub(super) fn of(&self, role: &str) -> Option<u64> {
        // Mostly there are none.
        if self.noted.is_empty() {
            return None;
        }
        self.noted.get(role).map(|deletion| deletion.revision)
    }

    pub(super) fn note(&mut self, role: &str, revision: u64) {
        self.noted.insert(role.to_owned(), Deletion { revision, round: self.round });
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.noted.len()
    }

    /// Clears the next users. `granted` gives a user's roles, to be looked at and to be changed.
    pub(super) fn clear_some<U>(
        &mut self,
        users: &mut BTreeMap<String, U>,
        look: impl Fn(&U) -> &Granted,
        change: impl Fn(&mut U) -> &mut Granted,
    ) {
        use std::ops::Bound::{Excluded, Unbounded};
        if self.noted.is_empty() {
            return;
        }
        let from = self.last.take().map_or(Unbounded, Excluded);
        let mut rest = users.range_mut::<String, _>((from, Unbounded));
        for (name, user) in rest.by_ref().take(CLEARED) {
            // A record that is not changed is not copied for a checkpoint on its way.
            if !look(user).is_clear(self) {
                change(user).clear(self);
            }
            self.last = Some(name.clone());
        }
        if rest.next().is_none() {
            self.last = None;
            self.round += 1;
            // Noted before the round that has just ended began.
            let round = self.round;
            self.noted.retain(|_, deletion| round < deletion.round + 2);
        }
    }
}
