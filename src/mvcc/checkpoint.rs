//! The whole store at one revision as a stream of blocks, written in slices while writes go on.
//!
//! A running checkpoint pins the store: nothing that is retained at its start is removed before
//! `end_checkpoint`, and what is written later is recognised by its revision, so no state is copied
//! and no slice has to be fast. Checksums, files and sync are the caller's.
//!
//! Format 1. The caller carries whole blocks and gives them back in order; a block says its kind in
//! the first byte. Integers are little endian, `varint` is protobuf's.
//!
//! ```text
//! header    kind u8 = 1 | magic "PNKV" | format u32 = 1 | current revision i64
//!           | compact revision i64 (-1: none) | next sequence number u64
//! records   kind u8 = 2 | until the block ends:
//!             seq - seq of the record before (in the stream; 0 before the first) varint
//!             | record as `record` draws it, `superseded_at` reset to i64::MAX if the newer
//!               version came after the checkpoint's revision
//! keys      kind u8 = 3 | until the block ends, in ascending order of keys:
//!             seq of the key's newest record varint
//! end       kind u8 = 4 | records u64 | keys u64
//! ```
//!
//! One header, then records blocks, keys blocks, one end. The records are the revision log, so
//! they restore by copying; the keys blocks are a permutation of the newest ones, so that the tree
//! is built in order and nothing is sorted.
//! Cost: one pass over the records and one over the keys. Restoring: the same, plus a look-up for
//! each key.

use super::Store;
use super::pin::Pin;
use super::record::NEWEST;
use super::tree::Tree;
use crate::types::proto::put_varint;

pub(super) const MAGIC: [u8; 4] = *b"PNKV";
pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER: u8 = 1;
pub(super) const RECORDS: u8 = 2;
pub(super) const KEYS: u8 = 3;
pub(super) const END: u8 = 4;

/// A checkpoint being written. Must be given to `Store::end_checkpoint`, finished or not: until
/// then compacted history stays in memory.
#[derive(Debug)]
#[must_use = "a forgotten checkpoint holds back compaction for ever"]
pub struct CheckpointCursor {
    pin: Pin,
    revision: i64,
    end_seq: u64,
    phase: Phase,
    records: u64,
    keys: u64,
}

#[derive(Debug)]
enum Phase {
    Header,
    /// After the record with this number.
    Records(u64),
    /// After this key.
    Keys(Vec<u8>),
    End,
    Done,
}

impl CheckpointCursor {
    /// The revision that is being written.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

impl Store {
    /// Starts a checkpoint of the current revision. Writes and compactions may go on; memory of
    /// later compactions comes back only after `end_checkpoint`.
    pub fn begin_checkpoint(&mut self) -> CheckpointCursor {
        assert!(!self.is_writing(), "a checkpoint holds all of a write or nothing");
        CheckpointCursor {
            pin: self.pins.add(self.compacted),
            revision: self.current,
            end_seq: self.log.next_seq(),
            phase: Phase::Header,
            records: 0,
            keys: 0,
        }
    }

    /// Appends the next block to `out`: about `bytes_max` bytes, more only if a single record is
    /// larger. True when that was the last block.
    pub fn checkpoint_slice(
        &self,
        cursor: &mut CheckpointCursor,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let full = out.len().saturating_add(bytes_max);
        match &mut cursor.phase {
            Phase::Header => {
                out.push(HEADER);
                out.extend_from_slice(&MAGIC);
                out.extend_from_slice(&FORMAT.to_le_bytes());
                out.extend_from_slice(&cursor.revision.to_le_bytes());
                out.extend_from_slice(&cursor.pin.at.to_le_bytes());
                out.extend_from_slice(&cursor.end_seq.to_le_bytes());
                cursor.phase = Phase::Records(0);
            }
            Phase::Records(last) => {
                out.push(RECORDS);
                let mut records = self.log.iter_from(*last + 1);
                loop {
                    let next = records.next_with_bytes();
                    let Some((record, bytes)) = next.filter(|(record, _)| record.seq < cursor.end_seq) else {
                        cursor.phase = Phase::Keys(Vec::new());
                        break;
                    };
                    let record = self.exact_through(cursor.revision, record);
                    if record.is_dropped_at(cursor.pin.at) {
                        continue;
                    }
                    put_varint(out, record.seq - *last);
                    let start = out.len();
                    match bytes {
                        Some(bytes) => out.extend_from_slice(bytes),
                        None => record.encode(out),
                    }
                    let is_superseded = record.superseded_at <= cursor.revision;
                    let superseded_at = if is_superseded { record.superseded_at } else { NEWEST };
                    out[start..start + 8].copy_from_slice(&superseded_at.to_le_bytes());
                    *last = record.seq;
                    cursor.records += 1;
                    if full <= out.len() {
                        break;
                    }
                }
            }
            Phase::Keys(last) => {
                out.push(KEYS);
                // No key is empty; should one be, it is below all others and was met first.
                let mut path = self.tree.seek(last);
                let mut first = !last.is_empty() || 0 < cursor.keys;
                loop {
                    let Some((key, newest)) = self.tree.settle(&mut path, false) else {
                        cursor.phase = Phase::End;
                        break;
                    };
                    Tree::advance(&mut path);
                    if std::mem::take(&mut first) && key == last.as_slice() {
                        continue;
                    }
                    // The newest record as of the checkpoint, if it is one the stream carries. That of
                    // a live key that was not written since need not even be looked at.
                    let seq = if newest.is_live() && newest.seq() < cursor.end_seq {
                        Some(newest.seq())
                    } else {
                        let record = self.find_version(newest, cursor.revision);
                        record.filter(|record| !record.is_dropped_at(cursor.pin.at)).map(|record| record.seq)
                    };
                    let Some(seq) = seq else { continue };
                    put_varint(out, seq);
                    cursor.keys += 1;
                    if full <= out.len() {
                        last.clear();
                        last.extend_from_slice(key);
                        break;
                    }
                }
            }
            Phase::End => {
                out.push(END);
                out.extend_from_slice(&cursor.records.to_le_bytes());
                out.extend_from_slice(&cursor.keys.to_le_bytes());
                cursor.phase = Phase::Done;
                return true;
            }
            Phase::Done => panic!("the checkpoint's last block was written already"),
        }
        false
    }

    /// Releases a checkpoint, finished or abandoned.
    pub fn end_checkpoint(&mut self, cursor: CheckpointCursor) {
        self.pins.remove(cursor.pin);
    }
}
