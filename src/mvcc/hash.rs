//! etcd's `HashKV`: one number for everything that can be read up to a revision.
//!
//! CRC-32C over the word `key` and then each record in revision order: its 17-byte revision key
//! (`t` appended for a tombstone) and the `mvccpb.KeyValue` as etcd encodes it. Of what is at or
//! below the compact revision only those versions count that are alive at the hashed revision:
//! whether a member has already removed the others must not show. etcd has one exception, kept
//! here: when no key at all is alive at that revision, nothing is left out.
//!
//! Cost: one pass over the retained records up to the revision, in slices if wanted, which end inside a value
//! where that is long. The cursor holds back nothing; a compaction meanwhile ends it.
//! Compatibility: etcd also remembers the hashes of its last ten compactions and answers a request
//! for exactly that revision from them; that memory is the caller's.

use super::Store;
use super::crc32c::Crc32c;
use super::record::Record;
use crate::types::Slice;
use crate::types::proto::{put_int_field, put_message_head};

/// The answer to `HashKV`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

/// A compaction overtook a hash under way: its first part describes records that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store was compacted at {compact_revision} while being hashed")]
pub struct HashOvertaken {
    pub compact_revision: i64,
}

/// A `HashKV` under way. See `Store::begin_hash`.
#[derive(Debug)]
pub struct HashCursor {
    revision: i64,
    compacted: i64,
    next_seq: u64,
    /// Bytes that are hashed of that record's value.
    value_at: usize,
    hash: Crc32c,
    /// The hash that leaves nothing out, as long as it differs and no live key was met.
    if_all_dead: Option<Crc32c>,
    live_seen: bool,
}

impl Store {
    /// etcd's `HashKV` at `revision`, which is neither compacted nor in the future.
    #[must_use]
    pub fn hash_kv(&self, revision: i64) -> HashKv {
        let mut cursor = self.begin_hash(revision);
        loop {
            match self.hash_slice(&mut cursor, &mut Slice::unbounded()) {
                Ok(Some(hash)) => return hash,
                Ok(None) => {}
                Err(overtaken) => unreachable!("nobody compacts meanwhile: {overtaken}"),
            }
        }
    }

    /// Starts a `HashKV` that `hash_slice` carries on, while writes go on.
    #[must_use]
    pub fn begin_hash(&self, revision: i64) -> HashCursor {
        assert!(self.compacted <= revision, "{revision} is compacted at {}", self.compacted);
        assert!(revision <= self.current, "{revision} is above {}", self.current);
        let mut hash = Crc32c::new();
        hash.update(b"key");
        HashCursor {
            revision,
            compacted: self.compacted,
            next_seq: 0,
            value_at: 0,
            hash,
            if_all_dead: None,
            live_seen: false,
        }
    }

    /// Hashes on until the slice is spent. `Some` when that was all.
    pub fn hash_slice(
        &self,
        cursor: &mut HashCursor,
        slice: &mut Slice,
    ) -> Result<Option<HashKv>, HashOvertaken> {
        if cursor.compacted != self.compacted {
            return Err(HashOvertaken { compact_revision: self.compacted });
        }
        let mut log = self.log.iter_from(cursor.next_seq);
        while !slice.is_spent() {
            let Some(record) = log.next().filter(|record| record.main <= cursor.revision) else {
                return Ok(Some(cursor.finish()));
            };
            cursor.add(&self.exact_through(cursor.revision, record), slice);
        }
        Ok(None)
    }
}

impl HashCursor {
    /// The revision that is hashed.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Adds a record, or as much of it as the slice has room for.
    fn add(&mut self, record: &Record<'_>, slice: &mut Slice) {
        // Another than the one whose value is half hashed: nothing is removed unless it is compacted.
        assert!(self.value_at == 0 || self.next_seq == record.seq, "a record is gone that was half hashed");
        slice.spend_key();
        self.next_seq = record.seq + 1;
        if record.is_dropped_at(self.compacted) {
            return;
        }
        let live = !record.tombstone && self.revision < record.superseded_at;
        self.live_seen |= live;
        if self.live_seen {
            self.if_all_dead = None;
        }
        let counts = live || self.compacted < record.main;
        if !counts && !self.live_seen && self.if_all_dead.is_none() {
            self.if_all_dead = Some(self.hash);
        }
        if self.value_at == 0 {
            self.feed(counts, |crc| feed_front(crc, record));
        }
        let fed_before = self.value_at;
        while let Some(rest) = record.value.get(self.value_at..).filter(|rest| !rest.is_empty()) {
            if self.value_at != fed_before && slice.is_spent() {
                self.next_seq = record.seq;
                return;
            }
            let piece = &rest[..rest.len().min(slice.bytes_left())];
            self.feed(counts, |crc| crc.update(piece));
            slice.spend_bytes(piece.len());
            self.value_at += piece.len();
        }
        self.value_at = 0;
        self.feed(counts, |crc| feed_back(crc, record));
    }

    /// Feeds whichever hashes the record counts for.
    fn feed(&mut self, counts: bool, feed: impl Fn(&mut Crc32c)) {
        if let Some(all) = &mut self.if_all_dead {
            feed(all);
        }
        if counts {
            feed(&mut self.hash);
        }
    }

    fn finish(&self) -> HashKv {
        let hash = self.if_all_dead.unwrap_or(self.hash).finish();
        HashKv { hash, compact_revision: self.compacted, hash_revision: self.revision }
    }
}

/// What stands before the bytes of the value.
fn feed_front(crc: &mut Crc32c, record: &Record<'_>) {
    // Revision key, then the message up to the key bytes.
    let mut piece = Piece::default();
    piece.push(&record.main.to_be_bytes());
    piece.push(b"_");
    piece.push(&record.sub.to_be_bytes());
    if record.tombstone {
        piece.push(b"t");
    }
    piece.put_length(1, record.key.len());
    crc.update(piece.bytes());
    crc.update(record.key);
    if record.tombstone {
        return;
    }
    let mut piece = Piece::default();
    piece.put_field(2, record.create_revision);
    piece.put_field(3, record.main);
    piece.put_field(4, record.version);
    piece.put_length(5, record.value.len());
    crc.update(piece.bytes());
}

/// What stands behind it.
fn feed_back(crc: &mut Crc32c, record: &Record<'_>) {
    if !record.tombstone {
        let mut piece = Piece::default();
        piece.put_field(6, record.lease);
        crc.update(piece.bytes());
    }
}

/// Bytes between key and value, gathered on the stack. The longest piece: three fields of eleven
/// bytes and a length of six.
const PIECE_BYTES: usize = 48;

/// A piece in the making.
struct Piece {
    bytes: [u8; PIECE_BYTES],
    length: usize,
}

impl Default for Piece {
    fn default() -> Self {
        Self { bytes: [0; PIECE_BYTES], length: 0 }
    }
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Writes with `put` behind what is there.
    fn put(&mut self, put: impl FnOnce(&mut &mut [u8])) {
        let mut free = &mut self.bytes[self.length..];
        put(&mut free);
        self.length = PIECE_BYTES - free.len();
    }

    fn put_field(&mut self, field: u8, number: i64) {
        self.put(|out| put_int_field(out, field, number));
    }

    /// The front of a bytes field; proto3 leaves out an empty one.
    fn put_length(&mut self, field: u8, length: usize) {
        if length != 0 {
            self.put(|out| put_message_head(out, field, length));
        }
    }
}
