//! Sectors: the 512 bytes that a disk writes wholly or not at all, each saying who wrote it.
//!
//! Owns the 20-byte stamp at the head of each sector and the one question recovery asks of a
//! sector: blank (not written in this life of the file), written, or damaged.
//!
//! Invariants: the stamp's first word is stored last, so a device that reads the page while the
//! writer still copies sees the old word and calls the sector blank. No single changed byte turns a
//! written sector into a blank one or into another valid one.
//! Cost: two CRC-32 runs a sector, over 8 and over 500 bytes.
//! Compatibility: `FORMAT.md`; a change of meaning raises `segment::VERSION`.

use crate::segment::SegmentSeq;
use std::sync::atomic::{Ordering, fence};

/// The unit of tearing: every block device in use writes at least this much wholly or not at all.
pub const SECTOR_BYTES: usize = 512;
pub(crate) const STAMP_BYTES: usize = 20;
/// What is left of a sector for records.
pub const PAYLOAD_BYTES: usize = SECTOR_BYTES - STAMP_BYTES;

const FIRST: u32 = 1 << 31;

/// What a stamp says beside who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the first sector of this segment not known durable when this one was written: the
    /// watermark. All before it, in this segment and in all earlier ones, was synced by then.
    pub durable: u32,
    /// The sector opens a group.
    pub first: bool,
    /// Sectors of the same group that follow.
    pub left: u32,
}

/// The answer of [`Writing::classify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sector {
    /// Zero, or left over from an earlier life of a recycled file: not written in this one.
    Blank,
    Written(Stamp),
    /// Written, and changed since: no crash leaves this behind.
    Damaged,
}

/// One life of a segment file: whose log it is and which segment. Every checksum starts from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    seed: u32,
    seq: SegmentSeq,
}

impl Writing {
    #[must_use]
    pub fn new(identity: crate::Identity, seq: SegmentSeq) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&identity.cluster_id.to_le_bytes());
        hasher.update(&identity.member_id.to_le_bytes());
        Self { seed: hasher.finalize(), seq }
    }

    fn tag(self, seq: u32, sector: u32) -> u32 {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&seq.to_le_bytes());
        bytes[4..].copy_from_slice(&sector.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&bytes);
        hasher.finalize()
    }

    /// Stamps a sector whose payload is already in place.
    pub fn seal(self, sector: u32, stamp: Stamp, bytes: &mut [u8]) {
        assert_eq!(bytes.len(), SECTOR_BYTES, "a sector has one size");
        assert!(stamp.left < FIRST, "{} sectors left do not fit the stamp", stamp.left);
        let tag = self.tag(self.seq.0, sector);
        let position = stamp.left | if stamp.first { FIRST } else { 0 };
        bytes[12..16].copy_from_slice(&stamp.durable.to_le_bytes());
        bytes[16..20].copy_from_slice(&position.to_le_bytes());
        let crc = checksum(tag, &bytes[12..]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        // The kernel may hand this very page to the device while we store into it. Until the word
        // below lands the sector reads as blank, so such a half copy is a torn tail, not damage.
        fence(Ordering::Release);
        let word = (u64::from(self.seq.0) << 32) | u64::from(tag);
        bytes[..8].copy_from_slice(&word.to_le_bytes());
    }

    /// What `bytes`, found at `sector` of this segment, are.
    #[must_use]
    pub fn classify(self, sector: u32, bytes: &[u8]) -> Sector {
        assert_eq!(bytes.len(), SECTOR_BYTES, "a sector has one size");
        let tag = u32_at(bytes, 0);
        let seq = u32_at(bytes, 4);
        if tag == 0 && seq == 0 {
            return Sector::Blank;
        }
        if tag != self.tag(seq, sector) || seq > self.seq.0 || seq == 0 {
            return Sector::Damaged;
        }
        if seq < self.seq.0 {
            return Sector::Blank;
        }
        if u32_at(bytes, 8) != checksum(tag, &bytes[12..]) {
            return Sector::Damaged;
        }
        let position = u32_at(bytes, 16);
        Sector::Written(Stamp {
            durable: u32_at(bytes, 12),
            first: position & FIRST != 0,
            left: position & !FIRST,
        })
    }
}

/// Unwrites a sector. Its first word goes first, for the reason that `seal` stores it last.
pub fn make_blank(bytes: &mut [u8]) {
    bytes[..8].fill(0);
    fence(Ordering::Release);
    bytes[8..].fill(0);
}

fn checksum(initial: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(initial);
    hasher.update(bytes);
    hasher.finalize()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a four byte slice"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("an eight byte slice"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    const IDENTITY: Identity = Identity { cluster_id: 7, member_id: 9 };

    fn sealed(seq: u32, sector: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..SECTOR_BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let stamp = Stamp { durable: 40, first: true, left: 3 };
        Writing::new(IDENTITY, SegmentSeq(seq)).seal(sector, stamp, &mut bytes);
        bytes
    }

    #[test]
    fn no_changed_byte_makes_a_written_sector_blank_or_another_valid_one() {
        let writing = Writing::new(IDENTITY, SegmentSeq(3));
        let good = sealed(3, 44);
        assert!(matches!(
            writing.classify(44, &good),
            Sector::Written(Stamp { durable: 40, first: true, left: 3 })
        ));
        for at in 0..SECTOR_BYTES {
            for flip in 1..=255_u8 {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                assert_eq!(writing.classify(44, &bytes), Sector::Damaged, "byte {at} ^ {flip}");
            }
        }
    }

    #[test]
    fn a_sector_of_an_earlier_life_is_blank_and_one_of_a_later_life_or_another_place_is_damaged() {
        assert_eq!(Writing::new(IDENTITY, SegmentSeq(4)).classify(44, &sealed(3, 44)), Sector::Blank);
        assert_eq!(Writing::new(IDENTITY, SegmentSeq(2)).classify(44, &sealed(3, 44)), Sector::Damaged);
        assert_eq!(Writing::new(IDENTITY, SegmentSeq(3)).classify(45, &sealed(3, 44)), Sector::Damaged);
        let other = Identity { cluster_id: 8, member_id: 9 };
        assert_eq!(Writing::new(other, SegmentSeq(3)).classify(44, &sealed(3, 44)), Sector::Damaged);
    }

    #[test]
    fn a_sector_caught_before_its_first_word_is_blank() {
        let mut bytes = sealed(3, 44);
        bytes[..8].fill(0);
        assert_eq!(Writing::new(IDENTITY, SegmentSeq(3)).classify(44, &bytes), Sector::Blank);
        let mut recycled = sealed(3, 44);
        recycled[8..].fill(0x5a);
        assert_eq!(Writing::new(IDENTITY, SegmentSeq(4)).classify(44, &recycled), Sector::Blank);
    }
}
