//! One change as bytes: how a version or a tombstone lies in the revision log.
//!
//! A record is known by its sequence number `seq`, which counts all changes ever made. All links
//! are distances in `seq`, so a record may be copied to another place as it is. The checkpoint
//! stream carries the same bytes, so this layout is a disk format; `checkpoint` holds its version.
//!
//! ```text
//! superseded_at  i64 LE   main revision of the key's next version; i64::MAX on the newest
//! flags          u8       1 tombstone, 2 has previous, 4 first of its generation, 8 lease, 16 sub, 32 mark
//! lag            varint   seq - main revision (grows by one with each sub-revision above 0)
//! sub            varint   if flag 16, else 0
//! previous       varint   if flag 2: seq - seq of the key's previous version,
//! depth          varint     number of versions before this one in the chain, at least 1,
//! express        varint     seq - seq of the nearest older version whose depth is a multiple of
//!                           16, 0 for none,
//! jump           varint     only if depth is a multiple of 16: as `express`, further back; 0: none
//! create         varint   unless flag 1 or 4: main revision - create revision
//! version        varint   unless flag 1 or 4 (flag 4: version 1, created here)
//! lease          u64 LE   if flag 8, else 0
//! mark                    if flag 32, from format level 3 on: as `mark` draws it
//! key length     varint
//! value length   varint   unless flag 1
//! key, value
//! ```
//!
//! Why `superseded_at` stands in the older record: whether a compaction drops a record is then told
//! by that record alone, without a look at the key's other versions.

use super::mark::MARK_BYTES_MAX;
use super::{KeyValueRef, Mark};
use crate::types::proto::{put_varint, take_varint};

/// `superseded_at` of a key's newest record.
pub(super) const NEWEST: i64 = i64::MAX;

/// Every 16th version of a key is an express stop: a search for an old revision runs along the
/// stops (with jumps, in logarithmic time) and walks at most this many single versions at the end.
pub(super) const EXPRESS_STRIDE: u64 = 16;

/// Largest key plus value. Far above any request bound; keeps offsets inside a chunk in 32 bits.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

const TOMBSTONE: u8 = 1;
const PREVIOUS: u8 = 2;
const FIRST: u8 = 4;
const LEASE: u8 = 8;
const SUB: u8 = 16;
const MARK: u8 = 32;

/// Where a key's older versions are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    pub(super) previous: u64,
    pub(super) depth: u64,
    pub(super) express: Option<u64>,
    pub(super) jump: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) seq: u64,
    pub(super) main: i64,
    pub(super) sub: i64,
    pub(super) superseded_at: i64,
    pub(super) tombstone: bool,
    pub(super) links: Option<Links>,
    pub(super) create_revision: i64,
    pub(super) version: i64,
    pub(super) lease: i64,
    pub(super) mark: Mark,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record that starts at `bytes[0]`, and says how long it is. `None` if these bytes
    /// are no record.
    pub(super) fn decode(seq: u64, bytes: &'a [u8]) -> Option<(Self, usize)> {
        Self::decode_inline(seq, bytes)
    }

    /// The same for whoever wants a few fields only. A record is long, so returning and passing it on costs a third of
    /// what reading it does.
    #[inline(always)]
    pub(super) fn decode_inline(seq: u64, bytes: &'a [u8]) -> Option<(Self, usize)> {
        let (superseded_at, rest) = bytes.split_first_chunk::<8>()?;
        let superseded_at = i64::from_le_bytes(*superseded_at);
        let (&flags, mut rest) = rest.split_first()?;
        if flags & !(TOMBSTONE | PREVIOUS | FIRST | LEASE | SUB | MARK) != 0 {
            return None;
        }
        let tombstone = flags & TOMBSTONE != 0;
        let lag = take_varint(&mut rest)?;
        let main = i64::try_from(seq.checked_sub(lag)?).ok()?;
        let sub = if flags & SUB != 0 { i64::try_from(take_varint(&mut rest)?).ok()? } else { 0 };
        let links = if flags & PREVIOUS != 0 { Some(take_links(seq, &mut rest)?) } else { None };
        let (create_revision, version) = if tombstone {
            (0, 0)
        } else if flags & FIRST != 0 {
            (main, 1)
        } else {
            let create = main.checked_sub(i64::try_from(take_varint(&mut rest)?).ok()?)?;
            (create, i64::try_from(take_varint(&mut rest)?).ok()?)
        };
        let lease = if flags & LEASE != 0 {
            let (lease, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            i64::from_le_bytes(*lease)
        } else {
            0
        };
        let mark = if flags & MARK != 0 { Mark::decode(main, &mut rest)? } else { Mark::default() };
        let key_bytes = usize::try_from(take_varint(&mut rest)?).ok()?;
        let value_bytes = if tombstone { 0 } else { usize::try_from(take_varint(&mut rest)?).ok()? };
        let (key, rest) = rest.split_at_checked(key_bytes)?;
        let (value, rest) = rest.split_at_checked(value_bytes)?;
        let record = Self {
            seq,
            main,
            sub,
            superseded_at,
            tombstone,
            links,
            create_revision,
            version,
            lease,
            mark,
            key,
            value,
        };
        Some((record, bytes.len() - rest.len()))
    }

    /// Appends the record's bytes to `out`.
    // Every put ends here: called, it would cost fifteen instructions more.
    #[inline(always)]
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let first = !self.tombstone && self.version == 1 && self.create_revision == self.main;
        let mut flags = 0;
        for (flag, set) in [
            (TOMBSTONE, self.tombstone),
            (PREVIOUS, self.links.is_some()),
            (FIRST, first),
            (LEASE, self.lease != 0),
            (SUB, self.sub != 0),
            (MARK, !self.mark.is_empty()),
        ] {
            if set {
                flags |= flag;
            }
        }
        out.extend_from_slice(&self.superseded_at.to_le_bytes());
        out.push(flags);
        put_varint(out, self.seq - unsigned(self.main));
        if self.sub != 0 {
            put_varint(out, unsigned(self.sub));
        }
        if let Some(links) = self.links {
            put_varint(out, self.seq - links.previous);
            put_varint(out, links.depth);
            put_varint(out, links.express.map_or(0, |express| self.seq - express));
            if links.depth.is_multiple_of(EXPRESS_STRIDE) {
                put_varint(out, links.jump.map_or(0, |jump| self.seq - jump));
            }
        }
        if !self.tombstone && !first {
            put_varint(out, unsigned(self.main - self.create_revision));
            put_varint(out, unsigned(self.version));
        }
        if self.lease != 0 {
            out.extend_from_slice(&self.lease.to_le_bytes());
        }
        if !self.mark.is_empty() {
            self.mark.encode(self.main, out);
        }
        put_varint(out, self.key.len() as u64);
        if !self.tombstone {
            put_varint(out, self.value.len() as u64);
        }
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }

    /// Upper bound of the encoded length.
    pub(super) fn encoded_bytes_max(&self) -> usize {
        8 + 1 + 10 * 10 + 8 + MARK_BYTES_MAX + self.key.len() + self.value.len()
    }

    /// Whether a compaction at `revision` drops this record: a newer version was visible at that
    /// revision, or it is a tombstone older than it.
    pub(super) fn is_dropped_at(&self, revision: i64) -> bool {
        self.superseded_at <= revision || (self.tombstone && self.main < revision)
    }

    /// The version, or `None` for a tombstone.
    pub(super) fn key_value(&self) -> Option<KeyValueRef<'a>> {
        (!self.tombstone).then_some(KeyValueRef {
            key: self.key,
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: self.main,
            sub: self.sub,
            version: self.version,
            lease: self.lease,
            mark: self.mark,
        })
    }
}

/// A key's newest record as the tree keeps it, in eight bytes: its `seq`, whether it is a tombstone,
/// and where in its chunk it was written. As long as that chunk is not rewritten, the record is
/// reached without the chunk's offset table, which would be one more cache miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Newest(u64);

/// Bits of the offset: a record starts below `CHUNK_BYTES`.
pub(super) const OFFSET_BITS: u32 = 18;
/// What is left for the sequence number: 35 million million changes.
const SEQ_BITS: u32 = 63 - OFFSET_BITS;
/// No record is numbered so high: at a million changes a second it takes a year to get there.
pub(super) const SEQ_END: u64 = 1 << SEQ_BITS;

impl Newest {
    pub(super) fn new(seq: u64, offset: usize, tombstone: bool) -> Self {
        assert!(seq < SEQ_END, "sequence number {seq} out of range");
        assert!(offset < 1 << OFFSET_BITS, "a record starts at {offset}, behind its chunk's size");
        Self(seq << (OFFSET_BITS + 1) | (offset as u64) << 1 | u64::from(tombstone))
    }

    #[inline]
    pub(super) fn seq(self) -> u64 {
        self.0 >> (OFFSET_BITS + 1)
    }

    /// Where the record lay when it was written.
    #[inline]
    pub(super) fn offset(self) -> usize {
        (self.0 >> 1 & ((1 << OFFSET_BITS) - 1)) as usize
    }

    #[inline]
    pub(super) fn is_live(self) -> bool {
        self.0 & 1 == 0
    }

    /// Whether this names `record`.
    pub(super) fn is(self, record: &Record<'_>) -> bool {
        self.seq() == record.seq && self.is_live() != record.tombstone
    }
}

/// How many express stops the jump of stop number `stop` (1, 2, …) spans: the last term when
/// `stop` is written as a sum of numbers of the form 2^k - 1, largest first. With that, a stop's
/// jump is either its neighbour or its neighbour's jump's jump, and any stop is reached from any
/// later one in O(log stops).
pub(super) fn jump_span(stop: u64) -> u64 {
    assert!(0 < stop, "the first stop has no jump");
    let mut rest = stop;
    loop {
        let bits = 63 - (rest + 1).leading_zeros();
        let term = (1 << bits) - 1;
        rest -= term;
        if rest == 0 {
            return term;
        }
    }
}

fn take_links(seq: u64, rest: &mut &[u8]) -> Option<Links> {
    // Every link goes strictly back, so that no chain of them, however damaged, runs in a circle.
    let back = |distance: u64| if distance == 0 { None } else { seq.checked_sub(distance) };
    let previous = back(take_varint(rest)?)?;
    let depth = take_varint(rest)?;
    let optional = |distance: u64| match distance {
        0 => Some(None),
        _ => Some(Some(back(distance)?)),
    };
    let express = optional(take_varint(rest)?)?;
    let at_stop = depth.is_multiple_of(EXPRESS_STRIDE);
    let jump = if at_stop { optional(take_varint(rest)?)? } else { None };
    (0 < depth).then_some(Links { previous, depth, express, jump })
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).expect("revisions, versions and their differences are never negative")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Action;

    #[test]
    fn jump_of_a_stop_is_its_neighbour_or_its_neighbours_jumps_jump() {
        for stop in 1..5_000_u64 {
            let target = stop - jump_span(stop);
            let jump = |stop: u64| stop - jump_span(stop);
            assert!(target == stop - 1 || target == jump(jump(stop - 1)), "stop {stop}");
        }
    }

    #[test]
    fn every_field_survives_the_bytes() {
        let links = Links { previous: 90, depth: 32, express: Some(50), jump: None };
        let record = Record {
            seq: 100,
            main: 98,
            sub: 2,
            superseded_at: 99,
            tombstone: false,
            links: Some(links),
            create_revision: 3,
            version: 33,
            lease: -7,
            mark: Mark { created: 5, ..Mark::of(Action::Update) },
            key: b"k",
            value: b"value",
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert!(bytes.len() <= record.encoded_bytes_max());
        let (back, length) = Record::decode(100, &bytes).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(back.key_value(), record.key_value());
        assert_eq!((back.superseded_at, back.links), (99, Some(links)));
        for cut in 0..bytes.len() {
            assert!(Record::decode(100, &bytes[..cut]).is_none(), "cut at {cut}");
        }
    }
}
