//! etcd's log: its segments in order, record by record.
//!
//! ```text
//! frame   length i64 LE: 56 bits, and if bit 63 is set the padding in bits 56 to 58 | record | padding to 8 bytes
//! record  1 type: 1 metadata, 2 entry, 3 state, 4 crc, 5 snapshot | 2 crc | 3 data
//! ```
//! The sum is CRC-32C over the data of all records, across segments; a record's is that behind its own data. The first
//! record of a segment says the sum so far. A later entry replaces an earlier one of its index and all behind it.
//!
//! The end of the last segment may be torn: a write that a crash cut off, which nobody was promised. It is told from
//! damage as etcd tells it: the record ends behind the file, or one of its sectors was never written. Anything else is
//! refused. A tear in front of what was committed or applied is refused too, by `member`.

use bytes::Bytes;

use super::fields::{Value, bytes, conf_state, fields, number};

const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
const CRC: u64 = 4;
const SNAPSHOT: u64 = 5;

/// Bytes of which each is written or not, as a whole.
const SECTOR_BYTES: usize = 512;

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} at offset {offset}: {problem}")]
pub struct LogFault {
    pub file: String,
    pub offset: usize,
    pub problem: String,
}

/// One segment.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    pub file: &'a str,
    pub bytes: &'a [u8],
    /// No other follows.
    pub is_last: bool,
}

/// An entry as etcd wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawEntry {
    pub index: u64,
    pub term: u64,
    /// 0 normal, 1 membership change.
    pub kind: u64,
    pub data: Bytes,
}

/// A record of a snapshot that was taken or received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotRecord {
    pub index: u64,
    pub term: u64,
    /// Voters and learners, from etcd 3.5 on.
    pub conf_state: Option<(Vec<u64>, Vec<u64>)>,
}

/// A log that is being read.
#[derive(Debug, Default)]
pub struct Reading {
    sum: u32,
    metadata: Option<Bytes>,
    pub(super) member: u64,
    pub(super) cluster: u64,
    pub(super) term: u64,
    pub(super) vote: u64,
    pub(super) commit: u64,
    pub(super) snapshots: Vec<SnapshotRecord>,
    /// Contiguous.
    pub(super) entries: Vec<RawEntry>,
    /// Of what this index covers only changes of the members are kept.
    applied: u64,
    /// Where the last segment is torn.
    pub(super) torn: Option<(String, usize)>,
}

enum Frame<'a> {
    Record {
        fields: Vec<(u64, Value<'a>)>,
        end: usize,
    },
    End,
    /// Cut off, or never written; why.
    Torn(&'static str),
}

impl Reading {
    /// A log whose entries up to `applied` are in the database.
    #[must_use]
    pub fn new(applied: u64) -> Self {
        Self { applied, ..Self::default() }
    }

    /// The cluster that the log is of.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.cluster
    }

    /// Reads the next segment.
    ///
    /// # Errors
    /// Damage.
    pub fn segment(&mut self, segment: Segment<'_>) -> Result<(), LogFault> {
        let fault = |offset, problem: String| LogFault { file: segment.file.to_owned(), offset, problem };
        let mut offset = 0;
        let mut is_first = true;
        loop {
            let (record, end) = match self.frame(segment.bytes, offset) {
                Ok(Frame::Record { fields, end }) => (fields, end),
                Ok(Frame::End) => return Ok(()),
                Ok(Frame::Torn(_)) if segment.is_last && !is_first => {
                    self.torn = Some((segment.file.to_owned(), offset));
                    return Ok(());
                }
                Ok(Frame::Torn(problem)) => return Err(fault(offset, problem.to_owned())),
                Err(problem) => return Err(fault(offset, problem.to_owned())),
            };
            let kind = number(&record, 1);
            if is_first != (kind == CRC) {
                return Err(fault(offset, "a segment begins with its sum, and nothing else does".to_owned()));
            }
            is_first = false;
            self.record(kind, &record).map_err(|problem| fault(offset, problem))?;
            offset = end;
        }
    }

    /// The record at `offset`, its sum checked.
    fn frame<'a>(&self, file: &'a [u8], offset: usize) -> Result<Frame<'a>, &'static str> {
        let rest = &file[offset..];
        if rest.is_empty() {
            return Ok(Frame::End);
        }
        let Some((length, body)) = rest.split_first_chunk::<8>() else {
            return Ok(Frame::Torn("it ends inside a length"));
        };
        let length = u64::from_le_bytes(*length);
        if length == 0 {
            // Preallocated. etcd takes whatever follows for nothing, which a lost sector could be as well.
            let is_blank = body.iter().all(|byte| *byte == 0);
            return Ok(if is_blank { Frame::End } else { Frame::Torn("blank, with bytes behind it") });
        }
        let padding = if length >> 63 == 1 { usize::from((length >> 56).to_le_bytes()[0] & 7) } else { 0 };
        let bytes = usize::try_from(length & ((1 << 56) - 1)).unwrap_or(usize::MAX);
        let whole = bytes.checked_add(padding).and_then(|whole| body.get(..whole));
        let Some(whole) = whole else { return Ok(Frame::Torn("a record longer than its file")) };
        let end = offset + 8 + whole.len();
        let record = &whole[..bytes];
        let found = fields(record).filter(|found| {
            let data = super::fields::bytes(found, 3);
            let kind = number(found, 1);
            let sum = if kind == CRC { self.sum } else { crc32c::crc32c_append(self.sum, data) };
            let told = number(found, 2);
            // The first segment that is read has the sum of those before it, which are gone.
            if kind == CRC { self.sum == 0 || told == u64::from(sum) } else { told == u64::from(sum) }
        });
        match found {
            Some(fields) => Ok(Frame::Record { fields, end }),
            None if has_blank_sector(record, offset + 8) => {
                Ok(Frame::Torn("a record of which not all was written"))
            }
            None => Err("a record whose sum is wrong"),
        }
    }

    fn record(&mut self, kind: u64, record: &[(u64, Value<'_>)]) -> Result<(), String> {
        let data = bytes(record, 3);
        let told = u32::try_from(number(record, 2)).map_err(|_| "a sum of more than 32 bits".to_owned())?;
        self.sum = told;
        let decoded = || fields(data).ok_or_else(|| "data that does not decode".to_owned());
        match kind {
            METADATA => match &self.metadata {
                Some(known) if known[..] == *data => {}
                Some(_) => return Err("the log of another member".to_owned()),
                None => {
                    let metadata = decoded()?;
                    (self.member, self.cluster) = (number(&metadata, 1), number(&metadata, 2));
                    self.metadata = Some(Bytes::copy_from_slice(data));
                }
            },
            ENTRY => {
                let entry = decoded()?;
                let (kind, index) = (number(&entry, 1), number(&entry, 3));
                let is_needed = kind != 0 || self.applied < index || is_of_members(bytes(&entry, 4));
                let data = if is_needed { Bytes::copy_from_slice(bytes(&entry, 4)) } else { Bytes::new() };
                self.entry(RawEntry { index, term: number(&entry, 2), kind, data })?;
            }
            STATE => {
                let state = decoded()?;
                (self.term, self.vote, self.commit) =
                    (number(&state, 1), number(&state, 2), number(&state, 3));
            }
            CRC => {}
            SNAPSHOT => {
                let snapshot = decoded()?;
                let conf = snapshot.iter().find(|(name, _)| *name == 3).and_then(|(_, value)| value.bytes());
                self.snapshots.push(SnapshotRecord {
                    index: number(&snapshot, 1),
                    term: number(&snapshot, 2),
                    conf_state: conf.map(conf_state).transpose()?,
                });
            }
            other => return Err(format!("a record of type {other}, which is not known")),
        }
        Ok(())
    }

    fn entry(&mut self, entry: RawEntry) -> Result<(), String> {
        if let (Some(first), Some(last)) = (self.entries.first(), self.entries.last()) {
            if last.index + 1 < entry.index || entry.index < first.index {
                // A leader's snapshot stands between them: `member` looks whether it does.
                self.entries.clear();
            } else {
                let kept = usize::try_from(entry.index - first.index)
                    .map_err(|_| "an impossible index".to_owned())?;
                self.entries.truncate(kept);
            }
        }
        if let Some(last) = self.entries.last()
            && entry.term < last.term
        {
            return Err(format!(
                "entry {} of term {} behind one of term {}",
                entry.index, entry.term, last.term
            ));
        }
        if entry.index == 0 || entry.term == 0 {
            return Err("an entry without index or term".to_owned());
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// Whether a normal entry may say something of the members: one that every state needs that is older than the database.
fn is_of_members(data: &[u8]) -> bool {
    let Some(found) = fields(data) else { return true };
    // A request of v2, by its method, or one about a member's name.
    let is_v2 = found.iter().any(|(name, value)| *name == 2 && value.bytes().is_some());
    is_v2 || found.iter().any(|(name, _)| *name == 1301)
}

/// Whether a part of the record between two sectors of the file is all zeros.
fn has_blank_sector(record: &[u8], start: usize) -> bool {
    let mut rest = record;
    let mut at = start;
    while !rest.is_empty() {
        let part = (SECTOR_BYTES - at % SECTOR_BYTES).min(rest.len());
        let (sector, behind) = rest.split_at(part);
        if sector.iter().all(|byte| *byte == 0) {
            return true;
        }
        (rest, at) = (behind, at + part);
    }
    false
}
