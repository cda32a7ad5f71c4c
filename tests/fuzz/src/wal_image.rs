//! Log segments written by hand from `FORMAT.md`, so that any content can stand under valid checksums.

use pinion_wal::Identity;
use pinion_wal::sector::{PAYLOAD_BYTES, SECTOR_BYTES, Stamp, Writing};
use pinion_wal::segment::{DATA_OFFSET, DATA_SECTOR, Header, SegmentSeq};

pub(crate) const IDENTITY: Identity = Identity { cluster_id: 0xc1, member_id: 0x3e };

/// The smallest segment: sixteen sectors of groups.
pub(crate) const SEGMENT_BYTES: u32 = 16 << 10;

const GROUP_HEAD_BYTES: usize = 24;

/// A record as its bytes say it, true or not.
pub(crate) struct RawRecord {
    pub(crate) record_type: u8,
    pub(crate) kind: u8,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) data: Vec<u8>,
    /// Claimed length minus true length.
    pub(crate) length_error: u32,
}

impl RawRecord {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.data.len()).expect("short").wrapping_add(self.length_error);
        out.extend_from_slice(&[self.record_type, self.kind, 0, 0]);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.data);
    }
}

/// A segment under construction.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    writing: Writing,
    pub(crate) sector: u32,
    /// First sector that no sync covered.
    pub(crate) durable: u32,
}

impl Image {
    pub(crate) fn new(seq: SegmentSeq) -> Self {
        let header = Header { seq, segment_bytes: SEGMENT_BYTES, identity: IDENTITY };
        let mut bytes = header.encode();
        assert_eq!(bytes.len(), DATA_OFFSET);
        bytes.resize(SEGMENT_BYTES as usize, 0);
        Self { bytes, writing: Writing::new(IDENTITY, seq), sector: DATA_SECTOR, durable: DATA_SECTOR }
    }

    /// Whether a group of `records_bytes` still fits.
    pub(crate) fn fits(&self, records_bytes: usize) -> bool {
        let sectors = (GROUP_HEAD_BYTES + records_bytes).div_ceil(PAYLOAD_BYTES);
        self.sector as usize + sectors <= self.bytes.len() / SECTOR_BYTES
    }

    /// Adds a group that is sealed as it should be, whatever `records` says; answers its sum.
    pub(crate) fn group(&mut self, number: u64, prev_sum: u32, records: &[u8], length_error: u32) -> u32 {
        let length = u32::try_from(records.len()).expect("short").wrapping_add(length_error);
        let mut hasher = crc32fast::Hasher::new_with_initial(prev_sum);
        hasher.update(&number.to_le_bytes());
        hasher.update(&length.to_le_bytes());
        hasher.update(records);
        let sum = hasher.finalize();
        let mut joined = Vec::new();
        joined.extend_from_slice(&number.to_le_bytes());
        joined.extend_from_slice(&length.to_le_bytes());
        joined.extend_from_slice(&prev_sum.to_le_bytes());
        joined.extend_from_slice(&sum.to_le_bytes());
        joined.extend_from_slice(&[0; 4]);
        joined.extend_from_slice(records);
        let sectors = joined.len().div_ceil(PAYLOAD_BYTES);
        joined.resize(sectors * PAYLOAD_BYTES, 0);
        for (place, payload) in joined.chunks_exact(PAYLOAD_BYTES).enumerate() {
            let left = u32::try_from(sectors - place - 1).expect("fits a segment");
            let stamp = Stamp { durable: self.durable, first: place == 0, left };
            self.seal(stamp, payload);
        }
        sum
    }

    /// Adds one sector with this stamp.
    pub(crate) fn seal(&mut self, stamp: Stamp, payload: &[u8]) {
        let at = self.sector as usize * SECTOR_BYTES;
        let sector = &mut self.bytes[at..at + SECTOR_BYTES];
        sector[SECTOR_BYTES - PAYLOAD_BYTES..].copy_from_slice(payload);
        self.writing.seal(self.sector, stamp, sector);
        self.sector += 1;
    }
}
