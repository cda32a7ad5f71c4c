//! The revision log: all retained records, values included, in the order they were written.
//!
//! Records lie packed in chunks of about 256 KiB. A record is found by its sequence number:
//! binary search for the chunk, then an offset table. Chunks out of which compaction took
//! records keep the sequence numbers of what is left, so links between records never change.
//!
//! Invariants: sequence numbers and main revisions ascend; no chunk is empty; only the last
//! chunk may be open for appends, and it has no gaps. `dropped_bytes` of a chunk counts the
//! bytes of records that a compaction gave up but has not yet removed.
//! Cost: append O(record); look-up O(log chunks), two cache misses when cold. Overhead per
//! record: 4 bytes of offset, 8 in chunks with gaps.

use std::collections::VecDeque;

use super::KeyValueRef;
use super::memory::Spares;
use super::owed::Owed;
use super::record::{EXPRESS_STRIDE, Links, Newest, OFFSET_BITS, Record, jump_span};
use crate::types::Revision;

/// Small enough that rewriting one chunk is a short slice of work, large enough that the
/// directory of an 8 GiB store (32 k chunks) still fits the second-level cache.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
const _: () = assert!(CHUNK_BYTES == 1 << OFFSET_BITS);

/// The memory for a chunk whose first record has so many bytes. Large records come in numbers and sizes alike: the
/// chunk has room for as many of that size as it holds, since one that is not filled is copied when it is closed.
fn reserved_bytes(first: usize) -> usize {
    if CHUNK_BYTES / 16 < first { (CHUNK_BYTES / first).max(1) * first } else { CHUNK_BYTES }
}

#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    offsets: Vec<u32>,
    /// Distance of each record from `first_seq`; empty while there are no gaps.
    seqs: Vec<u32>,
    pub(super) first_seq: u64,
    dropped_bytes: usize,
    /// Whether records came here from another chunk or are owed, so that a `Newest` does not tell their offset.
    rewritten: bool,
    /// Instead of all the above but `first_seq`: tombstones whose bytes are still to be written.
    pub(super) owed: Option<Box<Owed>>,
}

impl Chunk {
    fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// A chunk for what is left of others.
    pub(super) fn for_rewrite(bytes: usize) -> Self {
        Self { rewritten: true, ..Self::with_capacity(bytes) }
    }

    /// A chunk for records that were owed, in this memory.
    pub(super) fn for_owed(bytes: Vec<u8>) -> Self {
        Self { bytes, rewritten: true, ..Self::default() }
    }

    /// A chunk of tombstones that are owed, the first of them numbered `first_seq`.
    pub(super) fn of_owed(first_seq: u64, owed: Box<Owed>) -> Self {
        Self { first_seq, owed: Some(owed), rewritten: true, ..Self::default() }
    }

    pub(super) fn records_count(&self) -> usize {
        self.owed.as_ref().map_or(self.offsets.len(), |owed| owed.count())
    }

    pub(super) fn bytes_count(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn dropped_bytes(&self) -> usize {
        self.dropped_bytes
    }

    /// Memory reserved for records and their offsets.
    pub(super) fn held_bytes(&self) -> u64 {
        let written = self.bytes.capacity() + 4 * (self.offsets.capacity() + self.seqs.capacity());
        (written + self.owed.as_ref().map_or(0, |owed| owed.held_bytes())) as u64
    }

    pub(super) fn seq_at(&self, slot: usize) -> u64 {
        match self.seqs.get(slot) {
            Some(&distance) => self.first_seq + u64::from(distance),
            None => self.first_seq + slot as u64,
        }
    }

    /// First slot whose record has at least `seq`; `records_count()` if there is none.
    pub(super) fn lower_bound(&self, seq: u64) -> usize {
        let Some(distance) = seq.checked_sub(self.first_seq) else { return 0 };
        if self.seqs.is_empty() {
            let count = self.records_count();
            return usize::try_from(distance).map_or(count, |slot| slot.min(count));
        }
        let Ok(distance) = u32::try_from(distance) else { return self.offsets.len() };
        lower_bound_near(&self.seqs, distance)
    }

    /// Reads a number near the one a search for `seq` begins with.
    #[inline]
    fn touch_number(&self, seq: u64) -> u32 {
        let (Some(&first), Some(&last)) = (self.seqs.first(), self.seqs.last()) else { return 0 };
        let distance = u32::try_from(seq - self.first_seq).unwrap_or(last);
        self.seqs[guess(first, last, self.seqs.len(), distance)]
    }

    fn find(&self, seq: u64) -> Option<usize> {
        let slot = self.lower_bound(seq);
        (slot < self.records_count() && self.seq_at(slot) == seq).then_some(slot)
    }

    pub(super) fn record_at(&self, slot: usize) -> Record<'_> {
        self.record_and_length_at(slot).0
    }

    fn record_and_length_at(&self, slot: usize) -> (Record<'_>, usize) {
        let bytes = &self.bytes[self.offsets[slot] as usize..];
        Record::decode(self.seq_at(slot), bytes).expect("the log holds whole records")
    }

    pub(super) fn record_bytes_at(&self, slot: usize) -> &[u8] {
        let start = self.offsets[slot] as usize;
        let end = self.offsets.get(slot + 1).map_or(self.bytes.len(), |&next| next as usize);
        &self.bytes[start..end]
    }

    /// Whether a record of `seq` and about `bytes` bytes may be added without growing past the
    /// chunk's size.
    pub(super) fn has_room(&self, seq: u64, bytes: usize) -> bool {
        self.offsets.is_empty()
            || (self.bytes.len() + bytes <= CHUNK_BYTES && u32::try_from(seq - self.first_seq).is_ok())
    }

    /// Whether so many bytes more take no other memory.
    fn has_reserved(&self, bytes: usize) -> bool {
        self.offsets.is_empty() || bytes <= self.bytes.capacity() - self.bytes.len()
    }

    /// Makes the next record's slot, which starts at the present end of `bytes`.
    fn open_slot(&mut self, seq: u64) {
        let offset = u32::try_from(self.bytes.len()).expect("a chunk is far below 4 GiB");
        if self.offsets.is_empty() {
            self.first_seq = seq;
        } else if !self.seqs.is_empty() || seq != self.first_seq + self.offsets.len() as u64 {
            let distance = seq.checked_sub(self.first_seq).expect("sequence numbers ascend");
            let distance = u32::try_from(distance).expect("has_room said the distance fits");
            if self.seqs.is_empty() {
                self.seqs = (0..).take(self.offsets.len()).collect();
            }
            assert!(self.seqs.last().is_some_and(|&last| last < distance), "sequence numbers ascend");
            self.seqs.push(distance);
        }
        self.offsets.push(offset);
    }

    /// Writes a record that was owed.
    pub(super) fn push_owed(&mut self, record: &Record<'_>) {
        self.open_slot(record.seq);
        record.encode(&mut self.bytes);
    }

    /// Notes in the record at `slot` that its key got a newer version at `main`.
    pub(super) fn set_superseded_at(&mut self, slot: usize, main: i64) {
        let start = self.offsets[slot] as usize;
        self.bytes[start..start + 8].copy_from_slice(&main.to_le_bytes());
    }

    #[cold]
    fn set_superseded_in_owed(&mut self, seq: u64, main: i64) {
        let owed = self.owed.as_mut().expect("a superseded record is in the log");
        owed.set_superseded_at(seq - self.first_seq, main);
    }

    /// Adds a record of another chunk.
    pub(super) fn push_moved(&mut self, seq: u64, record: &[u8]) {
        self.rewritten = true;
        self.open_slot(seq);
        self.bytes.extend_from_slice(record);
    }

    /// Where record `newest` lies, if it is here.
    #[inline]
    fn offset_of(&self, newest: Newest) -> Option<usize> {
        if self.rewritten {
            return self.offset_by_number(newest.seq());
        }
        debug_assert!(
            self.find(newest.seq()).is_some_and(|slot| self.offsets[slot] as usize == newest.offset())
        );
        Some(newest.offset())
    }

    fn offset_by_number(&self, seq: u64) -> Option<usize> {
        // What is owed has a slot and no bytes.
        self.find(seq).and_then(|slot| self.offsets.get(slot)).map(|&offset| offset as usize)
    }

    /// Gives back what was reserved and not used.
    pub(super) fn trim(&mut self) {
        // Copies instead of shrinking: allocators answer a shrink by less than half with the same
        // block.
        if self.bytes.len() + self.bytes.len() / 16 < self.bytes.capacity() {
            self.bytes = exact_copy(&self.bytes);
        }
        if self.offsets.len() + self.offsets.len() / 16 < self.offsets.capacity() {
            self.offsets = exact_copy(&self.offsets);
        }
        if self.seqs.len() + self.seqs.len() / 16 < self.seqs.capacity() {
            self.seqs = exact_copy(&self.seqs);
        }
    }

    /// Makes room for a record of `bytes`, at best for the `expected` bytes that come in all.
    /// Grows in steps, so that thousands of nearly empty chunks are joined in linear time.
    pub(super) fn reserve(&mut self, bytes: usize, expected: usize) {
        let held = self.bytes.len();
        if self.bytes.capacity() < held + bytes {
            let room = CHUNK_BYTES.saturating_sub(held);
            self.bytes.reserve_exact(expected.max(held).min(room).max(bytes));
        }
    }
}

/// Position of the first number not below `wanted`. What compaction left is spread evenly as a rule:
/// so the search begins where `wanted` would be then, and looks around in widening steps. A plain
/// binary search would touch more lines of memory.
fn lower_bound_near(ascending: &[u32], wanted: u32) -> usize {
    let (Some(&first), Some(&last)) = (ascending.first(), ascending.last()) else { return 0 };
    if wanted <= first {
        return 0;
    }
    if last < wanted {
        return ascending.len();
    }
    let guess = guess(first, last, ascending.len(), wanted);
    let (mut low, mut high, mut step) = (guess, guess, 4);
    while 0 < low && wanted <= ascending[low] {
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 4;
    while high < ascending.len() && ascending[high] < wanted {
        high = (high + step).min(ascending.len());
        step *= 2;
    }
    low + ascending[low..high].partition_point(|&known| known < wanted)
}

/// Where `wanted` would be among `length` numbers spread evenly from `first` to `last`.
#[inline]
fn guess(first: u32, last: u32, length: usize, wanted: u32) -> usize {
    let (passed, whole) = (wanted.saturating_sub(first).min(last - first), last - first);
    let share = u64::from(passed) * (length as u64 - 1) / u64::from(whole.max(1));
    usize::try_from(share).expect("at most the length")
}

fn exact_copy<T: Copy>(from: &[T]) -> Vec<T> {
    let mut to = Vec::with_capacity(from.len());
    to.extend_from_slice(from);
    to
}

/// Boxed, since taking chunks out of the middle then moves 8 bytes for each that follows, not 100.
pub(super) type SegmentBox = Box<Chunk>;

#[derive(Debug)]
pub(super) struct Log {
    /// `first_seq` of each chunk: the directory, apart from the chunks to stay dense in cache.
    pub(super) firsts: Vec<u64>,
    pub(super) chunks: Vec<SegmentBox>,
    pub(super) next_seq: u64,
    /// Whether the last chunk takes appends.
    open: bool,
    /// Memory of all chunks but the open one.
    pub(super) sealed_held_bytes: u64,
    /// `first_seq` of the chunks whose tombstones are owed.
    pub(super) owed: VecDeque<u64>,
    /// How many those are.
    pub(super) owed_records: u64,
    /// Part of the first of them, as far as it is written.
    pub(super) paid: Option<SegmentBox>,
    /// Memory for the next chunks.
    pub(super) spares: Spares,
}

impl Log {
    /// An empty log whose first record gets `next_seq`.
    pub(super) fn new(next_seq: u64) -> Self {
        Self {
            firsts: Vec::new(),
            chunks: Vec::new(),
            next_seq,
            open: false,
            sealed_held_bytes: 0,
            owed: VecDeque::new(),
            owed_records: 0,
            paid: None,
            spares: Spares::default(),
        }
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn chunks(&self) -> &[SegmentBox] {
        &self.chunks
    }

    /// Memory reserved for records and their offsets. O(1).
    pub(super) fn held_bytes(&self) -> u64 {
        let open = self.chunks.last().filter(|_| self.open);
        self.sealed_held_bytes + open.map_or(0, |open| open.held_bytes())
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Chunk that holds `seq` if any does.
    #[inline]
    pub(super) fn chunk_of(&self, seq: u64) -> Option<usize> {
        match self.firsts.last() {
            Some(&last) if last <= seq => Some(self.firsts.len() - 1),
            _ => self.firsts.partition_point(|&first| first <= seq).checked_sub(1),
        }
    }

    /// The record with this number; `None` if compaction removed it.
    #[inline]
    pub(super) fn get(&self, seq: u64) -> Option<Record<'_>> {
        let chunk = &self.chunks[self.chunk_of(seq)?];
        chunk.find(seq).map(|slot| self.record_at(chunk, slot))
    }

    /// A record of one of the log's chunks.
    #[inline]
    fn record_at<'a>(&'a self, chunk: &'a Chunk, slot: usize) -> Record<'a> {
        match &chunk.owed {
            None => chunk.record_at(slot),
            Some(owed) => self.owed_record(owed, chunk.seq_at(slot), slot),
        }
    }

    /// A record that is owed, made of the version that it superseded.
    pub(super) fn owed_record(&self, owed: &Owed, seq: u64, slot: usize) -> Record<'_> {
        let superseded = self.newest(owed.superseded[slot]);
        owed.record(seq, slot, (superseded.key, self.links_to(&superseded)))
    }

    /// The links of a version that follows `old`.
    pub(super) fn links_to(&self, old: &Record<'_>) -> Links {
        let old_depth = old.links.map_or(0, |links| links.depth);
        let depth = old_depth + 1;
        let express = if old_depth.is_multiple_of(EXPRESS_STRIDE) {
            Some(old.seq)
        } else {
            old.links.and_then(|links| links.express)
        };
        let jump_of = |seq: u64| self.get(seq)?.links?.jump;
        let jump = if !depth.is_multiple_of(EXPRESS_STRIDE) {
            None
        } else if jump_span(depth / EXPRESS_STRIDE) == 1 {
            express
        } else {
            express.and_then(jump_of).and_then(jump_of)
        };
        Links { previous: old.seq, depth, express, jump }
    }

    fn revision_at(chunk: &Chunk, slot: usize) -> Revision {
        match &chunk.owed {
            None => {
                let record = chunk.record_at(slot);
                Revision::new(record.main, record.sub)
            }
            Some(owed) => owed.revision_at(slot),
        }
    }

    /// A key's newest record.
    #[inline]
    pub(super) fn newest(&self, newest: Newest) -> Record<'_> {
        let found = self.chunk_of(newest.seq()).and_then(|index| {
            let chunk = &self.chunks[index];
            let Some(offset) = chunk.offset_of(newest) else { return self.find_owed(chunk, newest.seq()) };
            Record::decode(newest.seq(), &chunk.bytes[offset..]).map(|(record, _)| record)
        });
        found.expect("the tree names retained records only")
    }

    /// The version that a live key's newest record holds.
    #[inline]
    pub(super) fn newest_put(&self, newest: Newest) -> KeyValueRef<'_> {
        let found = self.chunk_of(newest.seq()).and_then(|index| {
            let chunk = &self.chunks[index];
            // It has bytes: only tombstones are owed.
            let bytes = &chunk.bytes[chunk.offset_of(newest)?..];
            Record::decode_inline(newest.seq(), bytes)?.0.key_value()
        });
        found.expect("the tree names retained records only")
    }

    #[cold]
    fn find_owed<'a>(&'a self, chunk: &'a Chunk, seq: u64) -> Option<Record<'a>> {
        chunk.find(seq).map(|slot| self.record_at(chunk, slot))
    }

    /// Reads a byte of a key's newest record, so that the processor begins to fetch it. Several in a
    /// row are fetched side by side, where reading one record after the other would wait for each.
    #[inline]
    pub(super) fn touch(&self, newest: Newest) -> u8 {
        let byte = self.chunk_of(newest.seq()).and_then(|index| {
            let chunk = &self.chunks[index];
            chunk.bytes.get(chunk.offset_of(newest)?)
        });
        byte.copied().unwrap_or(0)
    }

    /// What the tree keeps of record `seq`.
    pub(super) fn newest_of(&self, seq: u64) -> Option<Newest> {
        let chunk = self.chunk_of(seq)?;
        let slot = self.chunks[chunk].find(seq)?;
        Some(self.newest_at(chunk, slot))
    }

    fn newest_at(&self, chunk: usize, slot: usize) -> Newest {
        self.newest_as(chunk, slot, &self.record_at(&self.chunks[chunk], slot))
    }

    /// The same of a record that was read.
    fn newest_as(&self, chunk: usize, slot: usize, record: &Record<'_>) -> Newest {
        let chunk = &self.chunks[chunk];
        // Of a rewritten chunk no one asks for the offset, and it may be past the bits for it.
        let offset = if chunk.rewritten { 0 } else { chunk.offsets[slot] as usize };
        Newest::new(record.seq, offset, record.tombstone)
    }

    /// Many records, which lie anywhere, and what the tree keeps of each. `None` if one of them is not there.
    ///
    /// One after the other each would wait three times for memory, for the number, the offset and
    /// the record. Done in steps, the many wait side by side.
    pub(super) fn newest_of_each(&self, seqs: &[u64]) -> Option<Vec<(Newest, Record<'_>)>> {
        let mut fetched = 0_u32;
        let mut places = Vec::with_capacity(seqs.len());
        for &seq in seqs {
            let chunk = self.chunk_of(seq)?;
            fetched ^= self.chunks[chunk].touch_number(seq);
            places.push((chunk, 0));
        }
        for (&seq, (chunk, slot)) in seqs.iter().zip(&mut places) {
            *slot = self.chunks[*chunk].find(seq)?;
            fetched ^= self.chunks[*chunk].offsets[*slot];
        }
        for &(chunk, slot) in &places {
            let chunk = &self.chunks[chunk];
            fetched ^= u32::from(chunk.bytes[chunk.offsets[slot] as usize]);
        }
        // What was fetched means nothing here; it only must not be optimised away.
        std::hint::black_box(fetched);
        let found = places.into_iter().map(|(chunk, slot)| {
            let record = self.chunks[chunk].record_at(slot);
            (self.newest_as(chunk, slot, &record), record)
        });
        Some(found.collect())
    }

    /// Where the first record with at least `seq` lies: chunk and slot.
    pub(super) fn position(&self, seq: u64) -> (usize, usize) {
        let Some(index) = self.chunk_of(seq) else { return (0, 0) };
        let slot = self.chunks[index].lower_bound(seq);
        if slot < self.chunks[index].records_count() { (index, slot) } else { (index + 1, 0) }
    }

    /// Number of the first record whose main revision is at least `main`; `next_seq()` if none.
    pub(super) fn seq_of_revision(&self, main: i64) -> u64 {
        self.seq_of(Revision::new(main, 0))
    }

    /// Number of the first record that is not before `revision`; `next_seq()` if none.
    ///
    /// Most are asked for near the end, where the changes of the last group begin: the search goes back
    /// from there in widening steps.
    pub(super) fn seq_of(&self, revision: Revision) -> u64 {
        let is_before = |chunk: &Chunk, slot: usize| Self::revision_at(chunk, slot) < revision;
        let is_below = |chunk: &SegmentBox| is_before(chunk, 0);
        let index = match self.chunks.last() {
            Some(last) if is_below(last) => self.chunks.len(),
            _ => self.chunks.partition_point(is_below),
        };
        if let Some(index) = index.checked_sub(1) {
            let chunk = &self.chunks[index];
            let (mut low, mut high, mut step) = (1, chunk.records_count(), 1);
            while low < high {
                let middle = low.midpoint(high).max(high.saturating_sub(step));
                if is_before(chunk, middle) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
                step *= 2;
            }
            if low < chunk.records_count() {
                return chunk.seq_at(low);
            }
        }
        self.firsts.get(index).copied().unwrap_or(self.next_seq)
    }

    /// Records from `seq` on.
    pub(super) fn iter_from(&self, seq: u64) -> Records<'_> {
        let (chunk, slot) = self.position(seq);
        Records { log: self, chunk, slot }
    }

    /// Appends a record; its `seq` is the next one. Returns what the tree keeps of it, and its
    /// encoded length.
    pub(super) fn append(&mut self, record: &Record<'_>) -> (Newest, usize) {
        assert_eq!(record.seq, self.next_seq, "records are numbered in the order they are written");
        let bytes_max = record.encoded_bytes_max();
        let chunk = self.chunk_with_room(record.seq, bytes_max);
        chunk.open_slot(record.seq);
        let start = chunk.bytes.len();
        record.encode(&mut chunk.bytes);
        let length = chunk.bytes.len() - start;
        self.next_seq += 1;
        (Newest::new(record.seq, start, record.tombstone), length)
    }

    /// Appends an encoded record of a restored log. Numbers may skip; the caller has checked that
    /// they ascend.
    pub(super) fn append_encoded(&mut self, seq: u64, record: &[u8]) {
        assert!(self.next_seq <= seq, "record {seq} comes after {}", self.next_seq);
        let chunk = self.chunk_with_room(seq, record.len());
        chunk.open_slot(seq);
        chunk.bytes.extend_from_slice(record);
        self.next_seq = seq + 1;
    }

    fn chunk_with_room(&mut self, seq: u64, bytes: usize) -> &mut Chunk {
        let fits = |open: &SegmentBox| open.has_room(seq, bytes) && open.has_reserved(bytes);
        if !(self.open && self.chunks.last().is_some_and(fits)) {
            self.seal();
            let bytes = self.spares.take(reserved_bytes(bytes));
            self.chunks.push(Box::new(Chunk { bytes, ..Chunk::default() }));
            self.firsts.push(seq);
            self.open = true;
        }
        self.chunks.last_mut().expect("there is an open chunk")
    }

    /// Closes the open chunk, if there is one.
    pub(super) fn seal(&mut self) {
        if self.open {
            let last = self.chunks.last_mut().expect("an open chunk is the last one");
            last.trim();
            self.sealed_held_bytes += last.held_bytes();
            self.open = false;
        }
    }

    /// The next record gets the number `seq`: those before it were compacted elsewhere, or no record has them.
    pub(super) fn jump_to(&mut self, seq: u64) {
        assert!(self.next_seq <= seq, "the log already holds {seq}");
        self.next_seq = seq;
    }

    /// Says from now on that numbers below `next_seq` are taken.
    pub(super) fn skip_to(&mut self, next_seq: u64) {
        assert!(self.next_seq <= next_seq, "the log already holds {next_seq}");
        self.seal();
        self.next_seq = next_seq;
    }

    /// Takes back every record from `seq` on: they were appended by a transaction that failed.
    pub(super) fn truncate(&mut self, seq: u64) {
        assert!(seq <= self.next_seq, "nothing to take back at {seq}");
        while self.firsts.last().is_some_and(|&first| seq <= first) {
            self.firsts.pop();
            let chunk = self.chunks.pop().expect("there is a chunk for each first number");
            if let Some(owed) = &chunk.owed {
                self.owed.pop_back();
                self.owed_records -= owed.count() as u64;
            }
            if !std::mem::take(&mut self.open) {
                self.sealed_held_bytes -= chunk.held_bytes();
            }
        }
        if let Some(last) = self.chunks.last_mut() {
            let slots = last.lower_bound(seq);
            if let Some(owed) = &mut last.owed {
                self.owed_records -= (owed.count() - slots) as u64;
                owed.truncate(slots);
            } else if slots < last.records_count() {
                let end = last.offsets[slots] as usize;
                last.bytes.truncate(end);
                last.offsets.truncate(slots);
                last.seqs.truncate(slots);
            }
        }
        self.next_seq = seq;
    }

    /// Notes in a key's newest record that the key got a newer version at `main`, or with `record::NEWEST`
    /// that it did not after all.
    #[inline]
    pub(super) fn set_superseded_at(&mut self, newest: Newest, main: i64) {
        let index = self.chunk_of(newest.seq()).expect("a superseded record is in the log");
        let chunk = &mut self.chunks[index];
        match chunk.offset_of(newest) {
            Some(start) => chunk.bytes[start..start + 8].copy_from_slice(&main.to_le_bytes()),
            None => chunk.set_superseded_in_owed(newest.seq(), main),
        }
    }

    /// Counts record `seq` as given up by a compaction, and says how long it is.
    pub(super) fn note_dropped(&mut self, seq: u64) -> usize {
        let index = self.chunk_of(seq).expect("a dropped record is still in the log");
        let chunk = &mut self.chunks[index];
        let slot = chunk.find(seq).expect("a dropped record is still in the log");
        let length = chunk.record_bytes_at(slot).len();
        chunk.dropped_bytes += length;
        assert!(chunk.dropped_bytes <= chunk.bytes.len(), "a record was dropped twice");
        length
    }

    /// Puts `with` in the place of the chunks `range`.
    pub(super) fn replace(&mut self, range: std::ops::Range<usize>, with: Vec<SegmentBox>) {
        debug_assert!(with.iter().all(|chunk| 0 < chunk.records_count()));
        assert!(!self.open || range.end < self.chunks.len(), "the open chunk is not rewritten");
        drop(self.firsts.splice(range.clone(), with.iter().map(|chunk| chunk.first_seq)));
        self.sealed_held_bytes += with.iter().map(|chunk| chunk.held_bytes()).sum::<u64>();
        for chunk in self.chunks.splice(range, with) {
            self.sealed_held_bytes -= chunk.held_bytes();
        }
    }

    /// Takes a sealed chunk out of its place; `replace` must close the gap.
    pub(super) fn take(&mut self, index: usize) -> SegmentBox {
        self.sealed_held_bytes -= self.chunks[index].held_bytes();
        std::mem::take(&mut self.chunks[index])
    }

    /// Checks the module's invariants; `dropped` tells which records are counted as dropped, `None`
    /// while that is in between.
    pub(super) fn check_invariants(&self, mut dropped: impl FnMut(&Record<'_>) -> Option<bool>) {
        assert_eq!(self.firsts.len(), self.chunks.len());
        assert!(!self.open || !self.chunks.is_empty());
        let mut last = (0, -1);
        for (&first, chunk) in self.firsts.iter().zip(&self.chunks) {
            assert!(0 < chunk.records_count(), "chunk at {first} is empty");
            assert_eq!(first, chunk.first_seq);
            assert!(chunk.seqs.is_empty() || chunk.seqs.len() == chunk.offsets.len());
            let (mut bytes, mut dropped_bytes, mut exact) = (0, 0, true);
            for slot in 0..chunk.records_count() {
                if chunk.owed.is_some() {
                    let (seq, revision) = (chunk.seq_at(slot), Self::revision_at(chunk, slot));
                    assert!(last.0 < seq && last.1 <= revision.main, "record {seq} out of order");
                    last = (seq, revision.main);
                    continue;
                }
                let (record, length) = chunk.record_and_length_at(slot);
                assert_eq!(chunk.offsets[slot] as usize, bytes, "records lie side by side");
                bytes += length;
                assert!(last.0 < record.seq && last.1 <= record.main, "record {} out of order", record.seq);
                assert!(record.main <= record.superseded_at);
                last = (record.seq, record.main);
                match dropped(&record) {
                    Some(true) => dropped_bytes += length,
                    Some(false) => {}
                    None => exact = false,
                }
            }
            assert_eq!(bytes, chunk.bytes.len());
            assert!(!exact || dropped_bytes == chunk.dropped_bytes, "chunk at {first}");
        }
        assert!(last.0 < self.next_seq);
        let owed = self.chunks.iter().filter(|chunk| chunk.owed.is_some());
        assert!(
            owed.clone().map(|chunk| chunk.first_seq).eq(self.owed.iter().copied()),
            "chunks that are owed"
        );
        assert_eq!(owed.map(|chunk| chunk.records_count() as u64).sum::<u64>(), self.owed_records);
        let held_bytes: u64 = self.chunks.iter().map(|chunk| chunk.held_bytes()).sum();
        assert_eq!(held_bytes, self.held_bytes());
    }
}

/// Records in order. See `Log::iter_from`.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    log: &'a Log,
    chunk: usize,
    slot: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let chunk = self.log.chunks.get(self.chunk)?;
        let record = self.log.record_at(chunk, self.slot);
        self.slot += 1;
        if self.slot == chunk.records_count() {
            self.chunk += 1;
            self.slot = 0;
        }
        Some(record)
    }
}

impl<'a> Records<'a> {
    /// The record and its bytes as they lie in the log; `None` while they are owed.
    pub(super) fn next_with_bytes(&mut self) -> Option<(Record<'a>, Option<&'a [u8]>)> {
        let chunk = self.log.chunks.get(self.chunk)?;
        let bytes = chunk.owed.is_none().then(|| chunk.record_bytes_at(self.slot));
        self.next().map(|record| (record, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_BYTES, Log, Record, lower_bound_near};
    use crate::mvcc::Mark;
    use crate::mvcc::record::NEWEST;

    #[test]
    fn large_records_are_copied_into_the_log_once_and_leave_no_room_behind_them() {
        for bytes in [20 << 10, 64 << 10, 100 << 10, CHUNK_BYTES - 100, CHUNK_BYTES, 5 << 20] {
            let mut log = Log::new(2);
            let value = vec![7; bytes];
            let mut places = Vec::new();
            for seq in 2..14_u64 {
                log.append(&Record {
                    seq,
                    main: seq.cast_signed(),
                    sub: 0,
                    superseded_at: NEWEST,
                    tombstone: false,
                    links: None,
                    create_revision: seq.cast_signed(),
                    version: 1,
                    lease: 0,
                    mark: Mark::default(),
                    key: b"key",
                    value: &value,
                });
                places.push(log.get(seq).unwrap().value.as_ptr());
            }
            log.seal();
            let found: Vec<_> = (2..14).map(|seq| log.get(seq).unwrap().value.as_ptr()).collect();
            // Only the last chunk may not be full.
            assert_eq!(found[..9], places[..9], "{bytes} bytes");
            let held = log.held_bytes();
            assert!(
                held <= 12 * (bytes + bytes / 16) as u64 + 4_096,
                "{held} bytes for 12 records of {bytes}"
            );
        }
    }

    #[test]
    fn search_from_a_guess_finds_what_a_binary_search_finds() {
        let shapes: [fn(u32) -> u32; 4] =
            [|n| n * 3, |n| n * n, |n| n + 1_000 * (n / 50), |n| n + u32::from(n == 99) * 4_000_000_000];
        for shape in shapes {
            for length in [0, 1, 2, 3, 10, 100] {
                let numbers: Vec<u32> = (0..length).map(shape).collect();
                let around = numbers.iter().flat_map(|&n| [n.saturating_sub(1), n, n.saturating_add(1)]);
                for wanted in around.chain([0, 7, u32::MAX]) {
                    let expected = numbers.partition_point(|&known| known < wanted);
                    assert_eq!(lower_bound_near(&numbers, wanted), expected, "{wanted} in {numbers:?}");
                }
            }
        }
    }
}
