//! Records and groups: what the log's bytes mean.
//!
//! A record is a 24-byte head and its data. A group is what one append wrote: a head, then records,
//! cut into the payloads of whole sectors. Groups are numbered and chained: each carries the
//! checksum of the one before, so a group can neither vanish from the middle nor be replaced.
//!
//! Invariants: a group never shares a sector with another, so an acknowledged sector is never
//! stored to again. Decoding bounds every length by the bytes at hand and never panics.
//! Cost: encoding copies each byte once and runs CRC-32 over it twice (group, sector), in one pass over memory.
//! Compatibility: unknown record types and non-zero reserved bytes are refused, not skipped.

use crate::sector::{PAYLOAD_BYTES, SECTOR_BYTES, STAMP_BYTES, Stamp, Writing, u32_at, u64_at};
use crate::segment::SegmentSeq;
use bytes::Bytes;

/// What raft must not forget across a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// One raft entry; `kind` and `data` are opaque here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub kind: u8,
    pub data: Bytes,
}

/// Where a log stands: an entry's index and its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Point {
    pub index: u64,
    pub term: u64,
}

/// Largest data of one entry.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;

pub(crate) const RECORD_HEAD_BYTES: usize = 24;
pub(crate) const GROUP_HEAD_BYTES: usize = 24;

/// What a group may carry before its entries: start, reset, hard state with its vote.
pub(crate) const PRELUDE_BYTES_MAX: usize = 3 * RECORD_HEAD_BYTES + 8;

/// Everything a record can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// Opens a segment: the last entry before it.
    Start(Point),
    HardState(HardState),
    /// The log restarts after this point (a snapshot from the leader); earlier entries are void.
    Reset(Point),
    Entry(Entry),
    /// Closes a segment: the log goes on in this one, which exists.
    Cut(SegmentSeq),
}

const START: u8 = 1;
const HARD_STATE: u8 = 2;
const RESET: u8 = 3;
const ENTRY: u8 = 4;
const CUT: u8 = 5;

fn head(record_type: u8, kind: u8, data_bytes: usize, index: u64, term: u64) -> [u8; RECORD_HEAD_BYTES] {
    let data_bytes = u32::try_from(data_bytes).expect("bounded by ENTRY_BYTES_MAX");
    let mut bytes = [0; RECORD_HEAD_BYTES];
    bytes[0] = record_type;
    bytes[1] = kind;
    bytes[4..8].copy_from_slice(&data_bytes.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..24].copy_from_slice(&term.to_le_bytes());
    bytes
}

/// One group on its way to the log: borrowed entries behind a short prelude.
#[derive(Debug, Default)]
pub(crate) struct Group<'a> {
    pub(crate) start: Option<Point>,
    pub(crate) reset: Option<Point>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) entries: &'a [Entry],
    pub(crate) cut: Option<SegmentSeq>,
}

impl Group<'_> {
    /// Hands out the payload piece by piece, in the order it is stored.
    fn pieces(&self, mut piece: impl FnMut(&[u8])) {
        if let Some(point) = self.start {
            piece(&head(START, 0, 0, point.index, point.term));
        }
        if let Some(point) = self.reset {
            piece(&head(RESET, 0, 0, point.index, point.term));
        }
        if let Some(state) = self.hard_state {
            piece(&head(HARD_STATE, 0, 8, state.commit, state.term));
            piece(&state.vote.to_le_bytes());
        }
        for entry in self.entries {
            piece(&head(ENTRY, entry.kind, entry.data.len(), entry.index, entry.term));
            piece(&entry.data);
        }
        if let Some(next) = self.cut {
            piece(&head(CUT, 0, 0, u64::from(next.0), 0));
        }
    }

    pub(crate) fn payload_bytes(&self) -> usize {
        let fixed = [self.start.is_some(), self.reset.is_some(), self.cut.is_some()];
        fixed.iter().filter(|present| **present).count() * RECORD_HEAD_BYTES
            + self.hard_state.map_or(0, |_| RECORD_HEAD_BYTES + 8)
            + self.entries.iter().map(|entry| RECORD_HEAD_BYTES + entry.data.len()).sum::<usize>()
    }

    pub(crate) fn sectors(&self) -> u32 {
        sectors_for(self.payload_bytes())
    }

    /// Writes the group into `window`, which begins at `sector`, and answers its chained checksum.
    pub(crate) fn encode(
        &self,
        writing: Writing,
        sector: u32,
        durable: u32,
        number: u64,
        prev_sum: u32,
        window: &mut [u8],
    ) -> u32 {
        assert_eq!(window.len(), self.sectors() as usize * SECTOR_BYTES, "the window is the group's");
        let payload_bytes = u32::try_from(self.payload_bytes()).expect("a group fits a segment");
        let mut hasher = chain(prev_sum, number, payload_bytes);
        let mut sink = SectorSink::behind_head(writing, sector, durable, window);
        self.pieces(|piece| {
            for block in piece.chunks(NEAR_BYTES) {
                hasher.update(block);
                sink.push(block);
            }
        });
        let sum = hasher.finalize();

        let mut group_head = [0; GROUP_HEAD_BYTES];
        group_head[..8].copy_from_slice(&number.to_le_bytes());
        group_head[8..12].copy_from_slice(&payload_bytes.to_le_bytes());
        group_head[12..16].copy_from_slice(&prev_sum.to_le_bytes());
        group_head[16..20].copy_from_slice(&sum.to_le_bytes());
        sink.finish(&group_head);
        sum
    }
}

/// Bytes that are summed and then copied while they are in the nearest cache.
const NEAR_BYTES: usize = 16 << 10;

pub(crate) fn sectors_for(payload_bytes: usize) -> u32 {
    u32::try_from((GROUP_HEAD_BYTES + payload_bytes).div_ceil(PAYLOAD_BYTES)).expect("a group fits a segment")
}

fn chain(prev_sum: u32, number: u64, payload_bytes: u32) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new_with_initial(prev_sum);
    hasher.update(&number.to_le_bytes());
    hasher.update(&payload_bytes.to_le_bytes());
    hasher
}

/// Cuts a stream of bytes into the payloads of sectors, and seals each as it fills. The first one holds the group's
/// head, which says the sum of what follows: it is sealed last.
struct SectorSink<'a> {
    writing: Writing,
    /// Number of the window's first sector.
    first: u32,
    durable: u32,
    window: &'a mut [u8],
    /// Sector of the window being filled, and payload bytes in it.
    sector: usize,
    filled: usize,
}

impl<'a> SectorSink<'a> {
    /// Leaves room for the group's head.
    fn behind_head(writing: Writing, first: u32, durable: u32, window: &'a mut [u8]) -> Self {
        Self { writing, first, durable, window, sector: 0, filled: GROUP_HEAD_BYTES }
    }

    fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.filled == PAYLOAD_BYTES {
                if 0 < self.sector {
                    self.seal(self.sector);
                }
                self.sector += 1;
                self.filled = 0;
            }
            let taken = piece.len().min(PAYLOAD_BYTES - self.filled);
            let at = self.sector * SECTOR_BYTES + STAMP_BYTES + self.filled;
            self.window[at..at + taken].copy_from_slice(&piece[..taken]);
            self.filled += taken;
            piece = &piece[taken..];
        }
    }

    fn seal(&mut self, sector: usize) {
        let at = sector * SECTOR_BYTES;
        let left = self.window.len() / SECTOR_BYTES - sector - 1;
        let stamp = Stamp {
            durable: self.durable,
            first: sector == 0,
            left: u32::try_from(left).expect("a group fits a segment"),
        };
        let number = self.first + u32::try_from(sector).expect("a group fits a segment");
        self.writing.seal(number, stamp, &mut self.window[at..at + SECTOR_BYTES]);
    }

    fn finish(mut self, group_head: &[u8; GROUP_HEAD_BYTES]) {
        // What a recycled file held before must not outlive it behind a valid checksum.
        let at = self.sector * SECTOR_BYTES + STAMP_BYTES + self.filled;
        let end = (self.sector + 1) * SECTOR_BYTES;
        assert_eq!(end, self.window.len(), "the group filled another number of sectors than planned");
        self.window[at..end].fill(0);
        if 0 < self.sector {
            self.seal(self.sector);
        }
        self.window[STAMP_BYTES..STAMP_BYTES + GROUP_HEAD_BYTES].copy_from_slice(group_head);
        self.seal(0);
    }
}

const _: () = assert!(GROUP_HEAD_BYTES < PAYLOAD_BYTES);

/// The first bytes of a group's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupHead {
    pub(crate) number: u64,
    pub(crate) prev_sum: u32,
    pub(crate) sum: u32,
}

/// Reads the joined payloads of a group's sectors.
pub(crate) fn decode_group(joined: Bytes) -> Result<(GroupHead, Vec<Record>), &'static str> {
    if joined.len() < GROUP_HEAD_BYTES {
        return Err("the group is shorter than its head");
    }
    let group_head =
        GroupHead { number: u64_at(&joined, 0), prev_sum: u32_at(&joined, 12), sum: u32_at(&joined, 16) };
    let payload_bytes = u32_at(&joined, 8);
    if u32_at(&joined, 20) != 0 {
        return Err("the group head's reserved bytes are not zero");
    }
    let padded = joined.len() - GROUP_HEAD_BYTES;
    let length = payload_bytes as usize;
    if length > padded || padded - length >= PAYLOAD_BYTES {
        return Err("the group's length does not fit its sectors");
    }
    let mut payload = joined.slice(GROUP_HEAD_BYTES..GROUP_HEAD_BYTES + length);
    let mut hasher = chain(group_head.prev_sum, group_head.number, payload_bytes);
    hasher.update(&payload);
    if hasher.finalize() != group_head.sum {
        return Err("the group fails its checksum though every sector of it passes");
    }
    let mut records = Vec::new();
    while !payload.is_empty() {
        records.push(decode_record(&mut payload)?);
    }
    Ok((group_head, records))
}

fn decode_record(payload: &mut Bytes) -> Result<Record, &'static str> {
    if payload.len() < RECORD_HEAD_BYTES {
        return Err("a record is shorter than its head");
    }
    let bytes = payload.split_to(RECORD_HEAD_BYTES);
    let (record_type, kind) = (bytes[0], bytes[1]);
    let data_bytes = u32_at(&bytes, 4) as usize;
    let (index, term) = (u64_at(&bytes, 8), u64_at(&bytes, 16));
    if bytes[2] != 0 || bytes[3] != 0 {
        return Err("a record's reserved bytes are not zero");
    }
    if data_bytes > payload.len() || data_bytes > ENTRY_BYTES_MAX {
        return Err("a record is longer than its group");
    }
    let data = payload.split_to(data_bytes);
    match (record_type, kind, data_bytes) {
        (START, 0, 0) => Ok(Record::Start(Point { index, term })),
        (RESET, 0, 0) => Ok(Record::Reset(Point { index, term })),
        (HARD_STATE, 0, 8) => {
            Ok(Record::HardState(HardState { term, vote: u64_at(&data, 0), commit: index }))
        }
        (ENTRY, _, _) => Ok(Record::Entry(Entry { index, term, kind, data })),
        (CUT, 0, 0) if term == 0 => {
            let seq = u32::try_from(index).map_err(|_| "a cut names an impossible segment")?;
            Ok(Record::Cut(SegmentSeq(seq)))
        }
        _ => Err("a record's type is unknown or its shape is wrong"),
    }
}
