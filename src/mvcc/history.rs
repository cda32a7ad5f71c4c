//! The history seen by key: one key's changes in order, and what a change replaced.
//!
//! Versions are linked from new to old only, with stops that skip back (`record`). So the changes of
//! one key are found oldest first by searching for each from the newest, which costs O(log versions)
//! an item; against a walk over the whole log that is cheap for keys that seldom change.

use super::record::{Newest, Record};
use super::{Change, KeyValueRef, Store};

impl Store {
    /// How many changes there are at most from revision `from` on. O(log chunks).
    #[must_use]
    pub fn changes_count_max(&self, from: i64) -> u64 {
        self.log.next_seq() - self.log.seq_of_revision(from)
    }

    /// As `changes` from the first change of revision `from` on, but of one key only: O(log versions)
    /// an item.
    #[must_use]
    pub fn changes_of(&self, key: &[u8], from: i64) -> KeyChanges<'_> {
        self.check_readable(from);
        KeyChanges { store: self, newest: self.tree.get(key), next: self.log.seq_of_revision(from) }
    }

    /// The version of `change`'s key that was visible just before `change`'s revision, which is above
    /// the compact revision: O(log chunks), and as much again for each change that the revision made
    /// to the key before this one.
    #[must_use]
    pub fn version_before(&self, change: &Change<'_>) -> Option<KeyValueRef<'_>> {
        self.check_readable(change.revision.main - 1);
        let mut before = self.log.get(change.before?)?;
        while before.main == change.revision.main {
            before = self.log.get(before.links?.previous)?;
        }
        before.key_value()
    }

    /// The oldest record with at least `seq` of the key whose newest is `newest`. A link to a removed
    /// record is the end of the chain, as in `find_version`.
    pub(super) fn find_since(&self, newest: Newest, seq: u64) -> Option<Record<'_>> {
        let since = |link: Option<u64>| self.log.get(link.filter(|&link| seq <= link)?);
        let mut record = self.newest_record(newest);
        if record.seq < seq {
            return None;
        }
        let mut near = false;
        while let Some(links) = record.links {
            if !near && let Some(older) = since(links.jump).or_else(|| since(links.express)) {
                record = older;
                continue;
            }
            // The stop in front is too old: the answer is among the few behind it.
            near = true;
            let Some(older) = since(Some(links.previous)) else { break };
            record = older;
        }
        Some(record)
    }
}

/// Iterator over one key's changes in revision order. See `Store::changes_of`.
#[derive(Debug, Clone)]
pub struct KeyChanges<'a> {
    store: &'a Store,
    newest: Option<Newest>,
    /// Records below this are done.
    next: u64,
}

impl KeyChanges<'_> {
    /// How many are left; more only by what a compaction dropped of the compact revision itself.
    /// O(log versions).
    #[must_use]
    pub fn count_max(&self) -> u64 {
        let depth = |record: Record<'_>| record.links.map_or(0, |links| links.depth);
        let Some(newest) = self.newest else { return 0 };
        let Some(first) = self.store.find_since(newest, self.next) else { return 0 };
        depth(self.store.newest_record(newest)) - depth(first) + 1
    }
}

impl<'a> Iterator for KeyChanges<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        loop {
            let record = self.store.find_since(self.newest?, self.next)?;
            if self.store.current < record.main {
                return None; // not committed
            }
            self.next = record.seq + 1;
            if !self.store.is_dropped(&record, self.store.compacted) {
                return Some(Change::new(&record));
            }
        }
    }
}
