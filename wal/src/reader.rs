//! Reads durable entries back while the log is being written: for followers that lag behind what
//! memory holds.
//!
//! Works on the files alone and shares nothing with the writer, so it runs on a thread of its own and
//! holds up nobody. The price is that it may meet a group half stored, a segment recycled under its
//! eyes, or entries that were replaced later. So nothing is believed by its place: every sector proves
//! by its stamp which segment it belongs to, every group its bytes by its checksum, and every entry
//! must have the term that the caller knows for its index. Two entries of one index and one term are the
//! same entry: a term has one leader, and it appends an index once.
//!
//! Invariants: what is answered is contiguous from the index asked for, and each entry is the log's.
//! Where something cannot be read, what precedes it is answered, or the error.
//! Cost: a batch that continues an earlier one reads its own bytes, once; any other reads from its
//! segment's beginning. Memory: a batch and the largest group.

use crate::Identity;
use crate::record::{Entry, RECORD_HEAD_BYTES, Record};
use crate::scan::{Step, first_group_bytes, read_group_in, start_of};
use crate::sector::{SECTOR_BYTES, Sector, Writing};
use crate::segment::{DATA_OFFSET, DATA_SECTOR, SegmentSeq};
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// Bytes read at once, unless a group is larger.
const PIECE_BYTES: usize = 1 << 20;

/// Readings in progress whose place is remembered: one for each follower that catches up, and some.
const PLACES_MAX: usize = 16;

/// The log's files, as a reader sees them.
pub trait SegmentFiles {
    /// Segments present, ascending.
    fn list(&mut self) -> io::Result<Vec<SegmentSeq>>;

    /// `len` bytes of a segment from `offset` on, fewer where the file ends.
    fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>>;
}

/// What is wanted of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Index of the first entry.
    pub first: u64,
    /// Index of the last entry.
    pub last: u64,
    /// Bytes of entries after which no further one is read.
    pub bytes_max: usize,
    /// Which term wrote what: a term holds from its index on until the next. The first holds for
    /// `first`.
    pub terms: &'a [(u64, u64)],
}

impl Wanted<'_> {
    fn term(&self, index: u64) -> Option<u64> {
        let behind = self.terms.partition_point(|(from, _)| *from <= index);
        self.terms[..behind].last().map(|(_, term)| *term)
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No segment holds it, any more or yet.
    #[error("entry {index} is in no segment of the log")]
    Gone { index: u64 },
    #[error("segment {seq} at offset {offset}, where entry {index} should be: {reason}")]
    Unreadable { seq: SegmentSeq, offset: u64, index: u64, reason: &'static str },
    #[error("reading the log: {0}")]
    Io(#[from] io::Error),
}

/// Where a group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    seq: SegmentSeq,
    sector: u32,
}

/// Reads a log's entries.
#[derive(Debug)]
pub struct LogReader<F> {
    files: F,
    identity: Identity,
    /// The last entry before each segment. A segment's number is never used again, so neither is this
    /// ever wrong.
    starts: BTreeMap<SegmentSeq, u64>,
    /// The group with which a reading goes on at an index, newest last.
    places: VecDeque<(u64, Place)>,
}

/// How far a segment was read.
enum Walked {
    /// All that was wanted is there, or as much as the bound allows.
    Enough,
    /// The log goes on in this segment.
    Next(SegmentSeq),
    /// Nothing behind this place can be read.
    Stopped(Place, &'static str),
}

impl<F: SegmentFiles> LogReader<F> {
    pub fn new(files: F, identity: Identity) -> Self {
        Self { files, identity, starts: BTreeMap::new(), places: VecDeque::new() }
    }

    /// The same log's files, seen anew. A directory that is read at each call needs none.
    pub fn replace_files(&mut self, files: F) {
        self.files = files;
    }

    /// The entries from `wanted.first` on: at least one, then up to the bounds or to where the log
    /// cannot be read.
    pub fn read(&mut self, wanted: &Wanted<'_>) -> Result<Vec<Entry>, ReadError> {
        let known = self.places.iter().position(|(index, _)| *index == wanted.first);
        let mut place = match known.and_then(|known| self.places.remove(known)) {
            Some((_, place)) => place,
            None => self.locate(wanted.first)?,
        };
        let mut reading = Reading { wanted, entries: Vec::new(), bytes: 0 };
        let stopped = loop {
            match self.walk(place, &mut reading)? {
                Walked::Enough => return Ok(reading.entries),
                Walked::Next(seq) => place = Place { seq, sector: DATA_SECTOR },
                Walked::Stopped(place, reason) => break (place, reason),
            }
        };
        if !reading.entries.is_empty() {
            return Ok(reading.entries);
        }
        let (Place { seq, sector }, reason) = stopped;
        let offset = u64::from(sector) * SECTOR_BYTES as u64;
        Err(ReadError::Unreadable { seq, offset, index: wanted.first, reason })
    }

    /// The latest segment that begins before `index`. Its last version is there or behind: whatever
    /// began after that was written has it among what precedes.
    fn locate(&mut self, index: u64) -> Result<Place, ReadError> {
        let segments = self.files.list()?;
        if let Some(oldest) = segments.first() {
            self.starts = self.starts.split_off(oldest);
        }
        for seq in segments.into_iter().rev() {
            if self.start(seq)?.is_some_and(|start| start < index) {
                return Ok(Place { seq, sector: DATA_SECTOR });
            }
        }
        Err(ReadError::Gone { index })
    }

    /// The last entry before a segment; none while it has no group.
    fn start(&mut self, seq: SegmentSeq) -> io::Result<Option<u64>> {
        if let Some(start) = self.starts.get(&seq) {
            return Ok(Some(*start));
        }
        let head = self.files.read(seq, 0, DATA_OFFSET + SECTOR_BYTES)?;
        let Some(sector) = head.get(DATA_OFFSET..DATA_OFFSET + SECTOR_BYTES) else { return Ok(None) };
        let Some(bytes) = first_group_bytes(self.identity, seq, sector) else { return Ok(None) };
        let length = usize::try_from(bytes).expect("no longer than a segment says it is");
        let head = self.files.read(seq, 0, length)?;
        if head.len() < length {
            return Ok(None);
        }
        let start = start_of(self.identity, seq, &head).map(|point| point.index);
        if let Some(start) = start {
            self.starts.insert(seq, start);
        }
        Ok(start)
    }

    /// Reads groups from `place` to the segment's end or until there is enough.
    fn walk(&mut self, place: Place, reading: &mut Reading<'_, '_>) -> Result<Walked, ReadError> {
        let Place { seq, mut sector } = place;
        let writing = Writing::new(self.identity, seq);
        // A part of the segment, from `base` on.
        let (mut base, mut part) = (sector, Vec::new());
        loop {
            let at = Place { seq, sector };
            let have = part.len() / SECTOR_BYTES - (sector - base) as usize;
            let from = (sector - base) as usize * SECTOR_BYTES;
            let needed = match part.get(from..from + SECTOR_BYTES) {
                None => 1,
                Some(bytes) => match writing.classify(sector, bytes) {
                    Sector::Written(stamp) => stamp.left as usize + 1,
                    Sector::Blank => return Ok(Walked::Stopped(at, "nothing is written there")),
                    Sector::Damaged => return Ok(Walked::Stopped(at, "the group cannot be read")),
                },
            };
            if have < needed {
                let bytes = (needed * SECTOR_BYTES).max(PIECE_BYTES);
                part = self.files.read(seq, u64::from(sector) * SECTOR_BYTES as u64, bytes)?;
                part.truncate(part.len() / SECTOR_BYTES * SECTOR_BYTES);
                base = sector;
                if part.len() < needed * SECTOR_BYTES {
                    return Ok(Walked::Stopped(at, "the segment ends there"));
                }
                continue;
            }
            let (records, sectors) = match read_group_in(writing, base, &part, sector) {
                Ok(Step::Group { records, sectors, .. }) => (records, sectors),
                Ok(Step::Absent) => return Ok(Walked::Stopped(at, "the group is not whole")),
                Err(reason) => return Ok(Walked::Stopped(at, reason)),
            };
            for record in records {
                match record {
                    Record::Entry(entry) => {
                        if reading.take(entry) {
                            // Entries that follow may be of this group.
                            self.remember(reading.next(), at);
                            return Ok(Walked::Enough);
                        }
                    }
                    Record::Cut(next) => return Ok(Walked::Next(next)),
                    Record::Start(_) | Record::HardState(_) | Record::Reset(_) => {}
                }
            }
            sector += sectors;
        }
    }

    fn remember(&mut self, index: u64, place: Place) {
        if self.places.len() == PLACES_MAX {
            self.places.pop_front();
        }
        self.places.push_back((index, place));
    }
}

/// What has been read so far.
struct Reading<'a, 'b> {
    wanted: &'a Wanted<'b>,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Reading<'_, '_> {
    fn next(&self) -> u64 {
        self.entries.last().map_or(self.wanted.first, |last| last.index + 1)
    }

    /// Takes an entry if it is the next one; whether there is enough now. The log's own version of an
    /// entry was written before that of the next one, so going forwards finds all.
    fn take(&mut self, entry: Entry) -> bool {
        if entry.index == self.next() && self.wanted.term(entry.index) == Some(entry.term) {
            self.bytes += RECORD_HEAD_BYTES + entry.data.len();
            self.entries.push(entry);
            return self.wanted.last < self.next() || self.wanted.bytes_max <= self.bytes;
        }
        false
    }
}

/// The files of a log that another thread or process may be writing, in memory: for tests.
#[derive(Debug, Default)]
pub struct MemoryFiles(pub BTreeMap<String, Vec<u8>>);

impl SegmentFiles for MemoryFiles {
    fn list(&mut self) -> io::Result<Vec<SegmentSeq>> {
        Ok(self.0.keys().filter_map(|name| SegmentSeq::parse(name)).collect())
    }

    fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.get(&seq.file_name()).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes[from..bytes.len().min(from.saturating_add(len))].to_vec())
    }
}
