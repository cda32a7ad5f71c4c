//! A store rebuilt from a checkpoint's blocks (`checkpoint` draws them).
//!
//! The blocks come from a disk or a peer: every number is checked before it is used, memory grows
//! with the bytes received and never with a number they state, and a store comes out only if all of
//! its invariants hold: what passes here cannot trip an assertion later.
//!
//! Most of the time goes into the keys: each names a record that lies anywhere. Blocks of keys need nothing of each
//! other but their order, so they are looked up and made into leaves side by side, where the caller has the cores.

use std::sync::OnceLock;

use super::checkpoint::{END, FORMAT, HEADER, KEYS, MAGIC, RECORDS};
use super::compaction::Compaction;
use super::log::Log;
use super::memory::TakesMemory;
use super::pin::Pins;
use super::record::{EXPRESS_STRIDE, NEWEST, Newest, PAYLOAD_BYTES_MAX, Record, SEQ_END};
use super::side_by_side::{OneByOne, SideBySide};
use super::store::{KEY_OVERHEAD_BYTES, Tallies};
use super::tree::{Leaves, TreeBuilder};
use super::{KeyValueRef, Store};
use crate::types::proto::take_varint;

/// Keys are taken in batches whose records are fetched side by side: the keys come in an order that
/// has nothing to do with where their records lie.
const BATCH: usize = 64;

/// Bytes of blocks that wait to be looked up together; one block more at most.
const WAITING_BYTES_MAX: usize = 4 << 20;

const DISORDER: &str = "keys do not ascend";

/// Why a checkpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("checkpoint of format {0}, this program reads format {FORMAT}")]
    Format(u32),
    #[error("checkpoint block {block} is damaged: {what}")]
    Damaged { block: u64, what: &'static str },
    #[error("checkpoint ends before its last block")]
    Truncated,
}

/// Takes a checkpoint's blocks and makes a store of them.
#[derive(Debug)]
pub struct Restore {
    section: Section,
    block: u64,
    log: Log,
    tree: TreeBuilder,
    current: i64,
    compacted: i64,
    end_seq: u64,
    last: (u64, i64, i64),
    records: u64,
    keys: u64,
    /// Number of the first record that is not its key's newest.
    first_superseded: u64,
    /// Records reached from the keys met so far.
    reached: u64,
    record_bytes: u64,
    key_bytes: u64,
    /// Newest versions that have a lease, in key order.
    leased: Vec<Newest>,
    /// The same of those that have an expiry.
    expiring: Vec<Newest>,
    /// Blocks of keys that are not looked up yet, with their numbers.
    waiting: Vec<(u64, Vec<u8>)>,
    waiting_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    Header,
    Records,
    Keys,
    Ended,
}

impl Default for Restore {
    fn default() -> Self {
        Self::new()
    }
}

impl TakesMemory for Restore {
    fn wanted_memory(&self) -> (usize, usize) {
        self.log.spares.wanted_memory()
    }

    fn supply_memory(&mut self, piece: Vec<u8>) {
        self.log.spares.supply_memory(piece);
    }
}

impl Restore {
    #[must_use]
    pub fn new() -> Self {
        Self {
            section: Section::Header,
            block: 0,
            log: Log::new(0),
            tree: TreeBuilder::default(),
            current: 0,
            compacted: 0,
            end_seq: 0,
            last: (0, 0, 0),
            records: 0,
            keys: 0,
            first_superseded: u64::MAX,
            reached: 0,
            record_bytes: 0,
            key_bytes: 0,
            leased: Vec::new(),
            expiring: Vec::new(),
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// The keys met so far whose newest version has a lease, in key order.
    pub fn leased(&self) -> impl Iterator<Item = KeyValueRef<'_>> {
        self.newest_of(&self.leased)
    }

    /// The keys met so far whose newest version has an expiry, in key order.
    pub fn expiring(&self) -> impl Iterator<Item = KeyValueRef<'_>> {
        self.newest_of(&self.expiring)
    }

    fn newest_of<'s>(&'s self, list: &'s [Newest]) -> impl Iterator<Item = KeyValueRef<'s>> {
        let newest = list.iter().map(|&newest| self.log.newest(newest));
        newest.map(|record| record.key_value().expect("only live versions are in the list"))
    }

    /// Takes the next block, exactly as one `checkpoint_slice` appended it. After an error the rest
    /// is of no use.
    pub fn feed(&mut self, block: &[u8]) -> Result<(), RestoreError> {
        self.feed_with(block, &OneByOne)
    }

    /// The same, with the help of others: keys are looked up in as many blocks at a time as `workers` do.
    pub fn feed_with(&mut self, block: &[u8], workers: &dyn SideBySide) -> Result<(), RestoreError> {
        let fed = match block.split_first() {
            Some((&HEADER, rest)) if self.section == Section::Header => self.header(rest)?,
            Some((&RECORDS, rest)) if self.section == Section::Records => self.records(rest),
            Some((&KEYS, rest)) if Section::Records <= self.section && self.section <= Section::Keys => {
                self.keys(rest, workers)?;
                Ok(())
            }
            Some((&END, rest)) if Section::Records <= self.section && self.section <= Section::Keys => {
                self.look_up(workers)?;
                self.end(rest)
            }
            Some(_) => Err("a block of an unknown kind or out of place"),
            None => Err("an empty block"),
        };
        fed.map_err(|what| RestoreError::Damaged { block: self.block, what })?;
        self.block += 1;
        Ok(())
    }

    /// The store, if all blocks were there.
    pub fn finish(self) -> Result<Store, RestoreError> {
        if self.section != Section::Ended {
            return Err(RestoreError::Truncated);
        }
        Ok(Store {
            log: self.log,
            tree: self.tree.finish(),
            current: self.current,
            head: self.current,
            compacted: self.compacted,
            compaction: Compaction::new(self.compacted),
            pins: Pins::default(),
            record_bytes: self.record_bytes,
            key_bytes: self.key_bytes,
            tallies: Tallies::default(),
        })
    }

    fn header(&mut self, mut rest: &[u8]) -> Result<Result<(), &'static str>, RestoreError> {
        let mut fields = || -> Option<([u8; 4], u32, i64, i64, u64)> {
            Some((
                take(&mut rest)?,
                u32::from_le_bytes(take(&mut rest)?),
                i64::from_le_bytes(take(&mut rest)?),
                i64::from_le_bytes(take(&mut rest)?),
                u64::from_le_bytes(take(&mut rest)?),
            ))
        };
        let Some((magic, format, current, compacted, end_seq)) = fields() else {
            return Ok(Err("a short header"));
        };
        if magic != MAGIC {
            return Ok(Err("not a checkpoint"));
        }
        if format != FORMAT {
            return Err(RestoreError::Format(format));
        }
        // The next record gets `end_seq` and revision `current + 1`, and a sequence number is never
        // below its revision. Far from the ends of both ranges, so that neither overflows.
        let in_range = 1 <= current
            && -1 <= compacted
            && compacted <= current
            && end_seq <= SEQ_END / 2
            && u64::try_from(current).is_ok_and(|current| current < end_seq);
        if !in_range || !rest.is_empty() {
            return Ok(Err("a header with numbers out of range"));
        }
        (self.current, self.compacted, self.end_seq) = (current, compacted, end_seq);
        self.section = Section::Records;
        Ok(Ok(()))
    }

    fn records(&mut self, mut rest: &[u8]) -> Result<(), &'static str> {
        while !rest.is_empty() {
            let distance = take_varint(&mut rest).ok_or("a sequence number is no number")?;
            let seq = self.last.0.checked_add(distance).filter(|&seq| seq < self.end_seq);
            let seq = seq.filter(|_| 0 < distance).ok_or("a sequence number out of range")?;
            let (record, length) = Record::decode(seq, rest).ok_or("a record is cut short")?;
            let bytes = &rest[..length];
            self.check_record(&record)?;
            self.log.append_encoded(seq, bytes);
            if record.superseded_at != NEWEST {
                self.first_superseded = self.first_superseded.min(seq);
            }
            self.last = (seq, record.main, record.sub);
            self.records += 1;
            self.record_bytes += length as u64;
            rest = &rest[length..];
        }
        Ok(())
    }

    /// What a record alone, and the one before it, can tell.
    fn check_record(&self, record: &Record<'_>) -> Result<(), &'static str> {
        let (_, last_main, last_sub) = self.last;
        if (record.main, record.sub) <= (last_main, last_sub) || self.current < record.main {
            return Err("revisions do not ascend");
        }
        let superseded = record.superseded_at;
        if superseded < record.main || (self.current < superseded && superseded != NEWEST) {
            return Err("a record is superseded at an impossible revision");
        }
        if record.is_dropped_at(self.compacted) {
            return Err("a record that is compacted");
        }
        if PAYLOAD_BYTES_MAX < record.key.len() + record.value.len() {
            return Err("a record is too large");
        }
        // No key has more versions than there were changes; so neither count can overflow later.
        let changes = i64::try_from(record.seq).map_err(|_| "a sequence number out of range")?;
        let put_ok =
            (1..=changes).contains(&record.version) && (1..=record.main).contains(&record.create_revision);
        if !record.tombstone && !put_ok {
            return Err("a version with impossible numbers");
        }
        if record.links.is_some_and(|links| record.seq <= links.depth) {
            return Err("a version deeper than there were changes");
        }
        Ok(())
    }

    /// Looks the keys of a block up at once, or lets the block wait until there are as many as `workers` look up at
    /// a time.
    fn keys(&mut self, rest: &[u8], workers: &dyn SideBySide) -> Result<(), RestoreError> {
        self.section = Section::Keys;
        if workers.width() <= 1 {
            let keys = Keys::look_up(&self.log, self.first_superseded, rest);
            let added = keys.and_then(|keys| self.add(keys));
            return added.map_err(|what| RestoreError::Damaged { block: self.block, what });
        }
        self.waiting_bytes += rest.len();
        self.waiting.push((self.block, rest.to_vec()));
        if workers.width() <= self.waiting.len() || WAITING_BYTES_MAX <= self.waiting_bytes {
            return self.look_up(workers);
        }
        Ok(())
    }

    /// Looks up what waits.
    fn look_up(&mut self, workers: &dyn SideBySide) -> Result<(), RestoreError> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let found: Vec<_> = waiting.iter().map(|_| OnceLock::new()).collect();
        let (log, first_superseded) = (&self.log, self.first_superseded);
        workers.run(waiting.len(), &|place| {
            let (_, block) = &waiting[place];
            let is_first = found[place].set(Keys::look_up(log, first_superseded, block)).is_ok();
            assert!(is_first, "each block is looked up once");
        });
        for ((block, _), keys) in waiting.iter().zip(found) {
            let keys = keys.into_inner().expect("each block is looked up");
            let added = keys.and_then(|keys| self.add(keys));
            added.map_err(|what| RestoreError::Damaged { block: *block, what })?;
        }
        Ok(())
    }

    /// Adds the keys of the next block.
    fn add(&mut self, keys: Keys) -> Result<(), &'static str> {
        if !self.tree.append(keys.leaves) {
            return Err(DISORDER);
        }
        self.reached += keys.reached;
        self.leased.extend(keys.leased);
        self.expiring.extend(keys.expiring);
        self.keys += keys.count;
        self.key_bytes += keys.bytes;
        Ok(())
    }

    fn end(&mut self, mut rest: &[u8]) -> Result<(), &'static str> {
        let records = take(&mut rest).map(u64::from_le_bytes).ok_or("a short last block")?;
        let keys = take(&mut rest).map(u64::from_le_bytes).ok_or("a short last block")?;
        if records != self.records || keys != self.keys {
            return Err("records or keys are missing");
        }
        // Chains of distinct keys are disjoint, so equal sums mean that each record is in one.
        if self.reached != self.records {
            return Err("records that belong to no key");
        }
        self.log.skip_to(self.end_seq);
        self.section = Section::Ended;
        Ok(())
    }
}

/// What the keys of one block are found to be: all that can be told without the blocks before it.
#[derive(Debug, Default)]
struct Keys {
    leaves: Leaves,
    count: u64,
    bytes: u64,
    /// Records reached from these keys.
    reached: u64,
    leased: Vec<Newest>,
    expiring: Vec<Newest>,
}

impl Keys {
    fn look_up(log: &Log, first_superseded: u64, mut rest: &[u8]) -> Result<Self, &'static str> {
        let mut keys = Self::default();
        let mut seqs = Vec::with_capacity(BATCH);
        while !rest.is_empty() {
            seqs.clear();
            while seqs.len() < BATCH && !rest.is_empty() {
                seqs.push(take_varint(&mut rest).ok_or("a key's record number is no number")?);
            }
            for (newest, record) in log.newest_of_each(&seqs).ok_or("a key's newest record is missing")? {
                keys.push(log, first_superseded, newest, record)?;
            }
        }
        Ok(keys)
    }

    fn push(
        &mut self,
        log: &Log,
        first_superseded: u64,
        newest: Newest,
        record: Record<'_>,
    ) -> Result<(), &'static str> {
        if record.superseded_at != NEWEST {
            return Err("a key's newest record is superseded");
        }
        if !self.leaves.push(record.key, newest) {
            return Err(DISORDER);
        }
        self.reached += check_chain(log, first_superseded, record)?;
        if record.lease != 0 && !record.tombstone {
            self.leased.push(newest);
        }
        if record.mark.expiry.is_some() && !record.tombstone {
            self.expiring.push(newest);
        }
        self.count += 1;
        self.bytes += record.key.len() as u64 + KEY_OVERHEAD_BYTES;
        Ok(())
    }
}

/// Follows a key's versions from the newest back, checking that each fits the one before it.
/// Returns how many there are.
fn check_chain(log: &Log, first_superseded: u64, newest: Record<'_>) -> Result<u64, &'static str> {
    let mut count = 1;
    let mut record = newest;
    // Older versions are superseded ones: where none of those begins, none is to be looked for.
    while let Some(links) = record.links.filter(|links| first_superseded <= links.previous) {
        for target in [links.express, links.jump].into_iter().flatten().filter_map(|seq| log.get(seq)) {
            let depth = target.links.map_or(0, |links| links.depth);
            if target.key != record.key || !depth.is_multiple_of(EXPRESS_STRIDE) || links.depth <= depth {
                return Err("a link to another key's version");
            }
        }
        let Some(before) = log.get(links.previous) else { break };
        let depth = before.links.map_or(0, |links| links.depth);
        if before.key != record.key || before.superseded_at != record.main || depth + 1 != links.depth {
            return Err("a link to another key's version");
        }
        let continues = if before.tombstone {
            record.tombstone || (record.version == 1 && record.create_revision == record.main)
        } else {
            record.tombstone
                || (record.version - 1 == before.version && record.create_revision == before.create_revision)
        };
        if !continues || (before.tombstone && record.tombstone) {
            return Err("a version that does not follow the one before");
        }
        record = before;
        count += 1;
    }
    Ok(count)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (front, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*front)
}
