//! Segments: one file, its header page, its mark page, then sectors of groups.
//!
//! Owns file names, the header and the mark. Both are written outside the hot path: the header once,
//! while the segment is prepared; the mark when the log is idle and when it is opened or closed.
//!
//! Invariants: a file under its segment name is complete: its size is the header's, the header is
//! durable and so is the name. Names are gapless.
//! Compatibility: `VERSION` is the first thing read after the magic; a higher one is refused.

use crate::Identity;
use crate::record::ENTRY_BYTES_MAX;
use crate::sector::{SECTOR_BYTES, Sector, Stamp, Writing, u32_at, u64_at};
use std::fmt;

/// Place of a segment in the log, from 1. A recycled file takes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSeq(pub u32);

impl SegmentSeq {
    #[must_use]
    pub fn next(self) -> Self {
        // 2^32 segments of 32 MiB: 128 PiB through one log.
        Self(self.0.checked_add(1).expect("four thousand million segments"))
    }

    /// `0000002a.wal`
    #[must_use]
    pub fn file_name(self) -> String {
        format!("{:08x}.wal", self.0)
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".wal")?;
        let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 8 || !digits.bytes().all(lower_hex) {
            return None;
        }
        u32::from_str_radix(digits, 16).ok().filter(|seq| *seq > 0).map(Self)
    }
}

impl fmt::Display for SegmentSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Pages keep header, mark and groups apart, so that writing one never rewrites another.
pub const PAGE_BYTES: usize = 4096;
/// Where the mark lies.
pub const MARK_OFFSET: usize = PAGE_BYTES;
/// Number of the first sector that may hold a group.
pub const DATA_SECTOR: u32 = 16;
/// Bytes before the first group.
pub const DATA_OFFSET: usize = DATA_SECTOR as usize * SECTOR_BYTES;

/// 32 MiB: holds the largest entry (16 MiB) beside others, at the 40 MB/s of 140 k puts/s lasts 0.8 s
/// (long enough to zero-write the next one in slices), and makes a first start write 64 MiB: the
/// segment and the one prepared ahead. 64 MiB would double start-up for no measured gain: a cut costs
/// one more sync, once a segment.
pub const SEGMENT_BYTES: u32 = 32 << 20;
/// Header page, mark page, and sixteen sectors of groups.
pub const SEGMENT_BYTES_MIN: u32 = 16 << 10;
/// Keeps sector numbers and file offsets far from any overflow.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// Sectors of a segment.
#[must_use]
pub fn sector_count(segment_bytes: u32) -> u32 {
    const BYTES: u32 = 512;
    const _: () = assert!(BYTES as usize == SECTOR_BYTES);
    segment_bytes / BYTES
}

// A segment holds the largest entry, stamps, heads and the cut included: a tenth is more than enough.
const _: () = assert!(ENTRY_BYTES_MAX + ENTRY_BYTES_MAX / 10 + DATA_OFFSET < SEGMENT_BYTES as usize);

/// Format written, and the highest one read.
pub const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"PinionWL";
const HEADER_BYTES: usize = 48;

/// Why a header was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderFault {
    Damaged(&'static str),
    Version(u32),
    Identity(Identity),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub seq: SegmentSeq,
    pub segment_bytes: u32,
    pub identity: Identity,
}

impl Header {
    /// The header page and an empty mark page: what a prepared segment begins with.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        assert_eq!(self.segment_bytes as usize % PAGE_BYTES, 0, "segments are whole pages");
        assert!(SEGMENT_BYTES_MIN <= self.segment_bytes, "{} bytes is too small", self.segment_bytes);
        assert!(self.segment_bytes <= SEGMENT_BYTES_MAX, "{} bytes is too large", self.segment_bytes);
        let mut bytes = vec![0; DATA_OFFSET];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.seq.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.identity.cluster_id.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.identity.member_id.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..44]);
        bytes[44..48].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of the file named `seq`, which is `file_bytes` long.
    pub fn decode(
        bytes: &[u8],
        seq: SegmentSeq,
        file_bytes: u64,
        identity: Identity,
    ) -> Result<Self, HeaderFault> {
        if bytes.len() < HEADER_BYTES {
            return Err(HeaderFault::Damaged("the file ends inside its header"));
        }
        if &bytes[..8] != MAGIC {
            return Err(HeaderFault::Damaged("the file does not begin as a segment does"));
        }
        if u32_at(bytes, 44) != crc32fast::hash(&bytes[..44]) {
            return Err(HeaderFault::Damaged("the header fails its checksum"));
        }
        let version = u32_at(bytes, 8);
        if version == 0 || version > VERSION {
            return Err(HeaderFault::Version(version));
        }
        let found = Identity { cluster_id: u64_at(bytes, 24), member_id: u64_at(bytes, 32) };
        if found != identity {
            return Err(HeaderFault::Identity(found));
        }
        let header =
            Self { seq: SegmentSeq(u32_at(bytes, 12)), segment_bytes: u32_at(bytes, 16), identity: found };
        if header.seq != seq {
            return Err(HeaderFault::Damaged("the header names another segment than the file name"));
        }
        let size_is_sane = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&header.segment_bytes)
            && (header.segment_bytes as usize).is_multiple_of(PAGE_BYTES);
        if !size_is_sane || u64::from(header.segment_bytes) != file_bytes {
            return Err(HeaderFault::Damaged("the file is not as long as its header says"));
        }
        Ok(header)
    }
}

/// The mark: "all sectors before `durable` were synced", written where no group lies. It is the only
/// evidence about the last group of a log, which no later group can vouch for.
pub fn seal_mark(writing: Writing, durable: u32, sector: &mut [u8]) {
    let stamp = Stamp { durable, first: false, left: 0 };
    writing.seal(MARK_SECTOR, stamp, sector);
}

const MARK_SECTOR: u32 = DATA_SECTOR / 2;
const _: () = assert!(MARK_SECTOR as usize * SECTOR_BYTES == MARK_OFFSET);

/// The mark of a segment image: what it claims, nothing, or that it is damaged.
#[must_use]
pub fn read_mark(writing: Writing, segment: &[u8]) -> Sector {
    writing.classify(MARK_SECTOR, &segment[MARK_OFFSET..MARK_OFFSET + SECTOR_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { cluster_id: 1, member_id: 2 };

    #[test]
    fn names_round_trip_and_foreign_names_are_not_segments() {
        assert_eq!(SegmentSeq(42).file_name(), "0000002a.wal");
        assert_eq!(SegmentSeq::parse("0000002a.wal"), Some(SegmentSeq(42)));
        for name in ["0000002A.wal", "2a.wal", "0000002a.tmp", "00000000.wal", "+000002a.wal", "x"] {
            assert_eq!(SegmentSeq::parse(name), None, "{name}");
        }
    }

    #[test]
    fn every_changed_byte_of_a_header_is_refused() {
        let header = Header { seq: SegmentSeq(5), segment_bytes: SEGMENT_BYTES_MIN, identity: IDENTITY };
        let good = header.encode();
        let size = u64::from(SEGMENT_BYTES_MIN);
        assert_eq!(Header::decode(&good, SegmentSeq(5), size, IDENTITY), Ok(header));
        for at in 0..HEADER_BYTES {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            assert!(Header::decode(&bytes, SegmentSeq(5), size, IDENTITY).is_err(), "byte {at}");
        }
        assert!(Header::decode(&good, SegmentSeq(6), size, IDENTITY).is_err());
        assert!(Header::decode(&good, SegmentSeq(5), size - 512, IDENTITY).is_err());
        let other = Identity { cluster_id: 1, member_id: 3 };
        assert_eq!(Header::decode(&good, SegmentSeq(5), size, other), Err(HeaderFault::Identity(IDENTITY)));
    }
}
