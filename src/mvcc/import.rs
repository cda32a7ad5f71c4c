//! A store made of the history that another program kept: its changes in the order of their revisions.
//!
//! What comes in was in somebody else's file. Each change is checked against those before it as a checkpoint's records
//! are (`restore`), so that what passes here trips no assertion later. Compaction may have taken any version but the
//! newest of a key; what the file should have given up already goes at the end.
//!
//! Cost: a look-up in the index and one record for each change.

use super::record::{NEWEST, PAYLOAD_BYTES_MAX, Record, SEQ_END};
use super::store::KEY_OVERHEAD_BYTES;
use super::{KeyValueRef, Mark, Store};
use crate::types::Revision;

/// The highest revision that is taken: far from the end of the numbers, so that none overflows later.
pub const REVISION_MAX: i64 = (SEQ_END / 4).cast_signed();

/// Takes changes and makes a store of them.
#[derive(Debug, Default)]
pub struct Import {
    store: Store,
    last: Revision,
    /// Sequence number less main revision, of the last record.
    lag: u64,
}

impl Import {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next change of `key`: what a put wrote, or that it was deleted.
    ///
    /// # Errors
    /// No store ever had that history. The rest is of no use then.
    pub fn add(
        &mut self,
        revision: Revision,
        key: &[u8],
        put: Option<&KeyValueRef<'_>>,
    ) -> Result<(), &'static str> {
        let store = &mut self.store;
        if revision <= self.last || revision.main < 1 || REVISION_MAX < revision.main {
            return Err("revisions do not ascend");
        }
        let sub = u64::try_from(revision.sub).ok().filter(|sub| *sub < SEQ_END / 4);
        let sub = sub.ok_or("a revision out of range")?;
        if key.is_empty() {
            return Err("an empty key");
        }
        if PAYLOAD_BYTES_MAX < key.len().saturating_add(put.map_or(0, |put| put.value.len())) {
            return Err("a version that is too large");
        }
        // What is skipped inside a revision was compacted and keeps its numbers.
        let skipped = if revision.main == self.last.main { sub - self.last.sub.cast_unsigned() } else { sub };
        let lag = self.lag.checked_add(skipped).ok_or("a revision out of range")?;
        let seq = revision.main.cast_unsigned().checked_add(lag).filter(|seq| *seq < SEQ_END / 2);
        let seq = seq.ok_or("a revision out of range")?;
        let (path, newest) = store.tree.find(key);
        let old = newest.map(|newest| store.log.newest(newest));
        if let Some(put) = put {
            let is_possible = put.mod_revision == revision.main
                && put.sub == revision.sub
                && (1..=revision.main).contains(&put.create_revision)
                && (1..=seq.cast_signed()).contains(&put.version);
            if !is_possible {
                return Err("a version with impossible numbers");
            }
        }
        let follows = match (&old, put) {
            (None, _) => true,
            (Some(old), None) => !old.tombstone,
            (Some(old), Some(put)) if old.tombstone => {
                put.version == 1 && put.create_revision == revision.main
            }
            (Some(old), Some(put)) => {
                put.version == old.version + 1 && put.create_revision == old.create_revision
            }
        };
        if !follows {
            return Err("a version that does not follow the one before");
        }
        let links = old.as_ref().map(|old| store.log.links_to(old));
        store.log.jump_to(seq);
        let (written, length) = store.log.append(&Record {
            seq,
            main: revision.main,
            sub: revision.sub,
            superseded_at: NEWEST,
            tombstone: put.is_none(),
            links,
            create_revision: put.map_or(0, |put| put.create_revision),
            version: put.map_or(0, |put| put.version),
            lease: put.map_or(0, |put| put.lease),
            mark: Mark::default(),
            key,
            value: put.map_or(&[], |put| put.value),
        });
        if let Some(newest) = newest {
            store.log.set_superseded_at(newest, revision.main);
            store.tree.set(&path, written);
        } else {
            store.tree.insert(&path, key, written);
            store.key_bytes += key.len() as u64 + KEY_OVERHEAD_BYTES;
        }
        store.record_bytes += length as u64;
        (self.last, self.lag) = (revision, lag);
        Ok(())
    }

    /// The store, compacted at `compacted` (-1: never), its current revision no less than `at_least`.
    ///
    /// # Errors
    /// Revisions out of range.
    pub fn finish(self, compacted: i64, at_least: i64) -> Result<Store, &'static str> {
        if compacted < -1 || REVISION_MAX < compacted.max(at_least) {
            return Err("a revision out of range");
        }
        let Self { mut store, last, lag } = self;
        let current = last.main.max(compacted).max(at_least).max(1);
        (store.current, store.head) = (current, current);
        let next_seq = current.cast_unsigned() + lag + 1;
        store.log.skip_to(next_seq.max(store.log.next_seq()));
        if -1 < compacted {
            store.compact(compacted);
            while !store.compact_slice(usize::MAX) {}
        }
        Ok(store)
    }

    /// The revision of the last change; 0 before the first.
    #[must_use]
    pub fn last_revision(&self) -> i64 {
        self.last.main
    }

    /// The keys whose newest version has a lease, in the order of the keys.
    pub fn leased(&self) -> impl Iterator<Item = KeyValueRef<'_>> {
        let all = crate::types::KeyRange::From(&[]);
        self.store.scan(all, i64::MAX).filter(|kv| kv.lease != 0)
    }
}
