//! Recovery: what a log's bytes say, and where they stop saying it.
//!
//! Pure over `&[u8]`: the caller hands over segment images in order, then asks for the result.
//! Tells a torn tail (a group that no sync covered: dropped) from damage (a group that one did:
//! refused), by the rules that `FORMAT.md` argues for.
//!
//! What the log itself says is committed can be handed out on the way, so that a state machine applies it while the
//! rest is read. A hard state says so, and no later record takes back what lies up to its commit index.
//!
//! Invariants: an answer is a prefix of what was written that holds every synced group, or a
//! `Damage` that names segment and offset. Never a panic, whatever the bytes.
//! Cost: each sector read once; memory is the bytes of the entries that were not handed out.

use crate::Identity;
use crate::record::{Entry, HardState, Point, Record, decode_group};
use crate::sector::{PAYLOAD_BYTES, SECTOR_BYTES, STAMP_BYTES, Sector, Stamp, Writing};
use crate::segment::{DATA_OFFSET, DATA_SECTOR, Header, HeaderFault, PAGE_BYTES, SegmentSeq, read_mark};
use bytes::Bytes;

/// Why the log must not be opened. `index` is the first entry that may be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub seq: SegmentSeq,
    pub offset: u64,
    pub index: u64,
    pub fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Bytes that no crash leaves behind.
    Bytes(&'static str),
    /// Written by a later version of the format.
    Version(u32),
    /// The log of another member.
    Identity(Identity),
}

/// Where the next group goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub seq: SegmentSeq,
    pub sector: u32,
}

/// What lies behind the end of the log in its last segment: remains of groups that no sync covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TornTail {
    pub at: Position,
    /// Sectors from `at` on through the last that is not blank; they are zeroed before any append.
    pub sectors: u32,
}

/// One segment that holds part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedSegment {
    pub seq: SegmentSeq,
    pub segment_bytes: u32,
    /// The last entry before it; 0 in the first one scanned, whatever precedes that.
    pub start_index: u64,
    /// Highest entry index in it or, if it has none, before it.
    pub last_index: u64,
}

/// The log as its bytes tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// What precedes the first entry of all.
    pub base: Point,
    /// The last entry that was handed out.
    pub handed_out: Option<Point>,
    /// The checkpoint must cover all through this index. Above `base.index` only where entries that
    /// older segments held were replaced in these: what precedes them is then not known here.
    pub covered_min: u64,
    /// Contiguous from behind `handed_out`, or else `base`.
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    pub segments: Vec<ScannedSegment>,
    pub tail: Position,
    /// The segment of `tail` has its first group.
    pub started: bool,
    pub next_number: u64,
    pub sum: u32,
    pub torn: Option<TornTail>,
    /// A damaged mark: evidence lost, nothing else. It is written anew at open.
    pub mark_damaged: bool,
}

impl Scanned {
    /// The last entry, or what precedes the first.
    #[must_use]
    pub fn last(&self) -> Point {
        let before = self.handed_out.unwrap_or(self.base);
        self.entries.last().map_or(before, |entry| Point { index: entry.index, term: entry.term })
    }
}

/// Who gets what is committed, as soon as the log has said so.
#[derive(Debug)]
pub struct HandOut<F> {
    /// Entries behind this one are handed out, if the log holds it in its term.
    pub after: Point,
    pub take: F,
}

/// Reads segments one after another, oldest first.
#[derive(Debug)]
pub struct Scan {
    identity: Identity,
    base: Option<Point>,
    covered_min: u64,
    handed_out: Option<Point>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    segments: Vec<ScannedSegment>,
    /// The segment that the last cut announced.
    announced: Option<SegmentSeq>,
    next_number: Option<u64>,
    sum: u32,
    end: Option<End>,
    mark_damaged: bool,
}

#[derive(Debug, Clone, Copy)]
struct End {
    tail: Position,
    started: bool,
    torn: Option<TornTail>,
}

/// How a walk over one segment ended.
enum Walk {
    Cut,
    Ended(u32),
}

pub(crate) enum Step {
    Group {
        records: Vec<Record>,
        sectors: u32,
        number: u64,
        prev_sum: u32,
        sum: u32,
    },
    /// Some sector of the group was never written.
    Absent,
}

impl Scan {
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            base: None,
            covered_min: 0,
            handed_out: None,
            entries: Vec::new(),
            hard_state: None,
            segments: Vec::new(),
            announced: None,
            next_number: None,
            sum: 0,
            end: None,
            mark_damaged: false,
        }
    }

    /// Takes the next segment's whole image.
    pub fn segment(&mut self, seq: SegmentSeq, image: &[u8]) -> Result<(), Damage> {
        self.segment_handing_out(seq, image, &mut None::<HandOut<fn(Entry)>>)
    }

    /// The same, and hands out what is committed.
    pub fn segment_handing_out<F: FnMut(Entry)>(
        &mut self,
        seq: SegmentSeq,
        image: &[u8],
        hand_out: &mut Option<HandOut<F>>,
    ) -> Result<(), Damage> {
        let header = self.header(seq, image)?;
        let writing = Writing::new(self.identity, seq);
        if let Some(end) = self.end {
            return self.check_unused(end, writing, image);
        }
        if seq.0 == u32::MAX {
            // No log gets there (`SegmentSeq::next`), but a file can claim it.
            return Err(self.damage(seq, 0, "no segment can follow this one"));
        }
        if self.announced.is_some_and(|announced| announced != seq) {
            return Err(self.damage(seq, 0, "the segment before it announces another one next"));
        }
        if self.segments.first().is_some_and(|first| first.segment_bytes != header.segment_bytes) {
            return Err(self.damage(seq, 0, "the segment is not as long as the one before it"));
        }
        self.announced = None;
        self.segments.push(ScannedSegment {
            seq,
            segment_bytes: header.segment_bytes,
            start_index: self.last().index,
            last_index: self.last().index,
        });
        match self.walk(seq, writing, image, hand_out)? {
            Walk::Cut => Ok(()),
            Walk::Ended(sector) => self.end_at(Position { seq, sector }, writing, image),
        }
    }

    /// The result, once the last segment is in.
    pub fn finish(self) -> Result<Scanned, Damage> {
        let Some(end) = self.end else {
            let seq = self.announced.unwrap_or(SegmentSeq(1));
            return Err(self.damage(seq, 0, "the segment is missing, and the one before it says it exists"));
        };
        let (Some(base), Some(next_number)) = (self.base, self.next_number) else {
            return Err(self.damage(end.tail.seq, DATA_OFFSET as u64, "the log has no beginning"));
        };
        Ok(Scanned {
            base,
            covered_min: self.covered_min.max(base.index),
            handed_out: self.handed_out,
            entries: self.entries,
            hard_state: self.hard_state,
            segments: self.segments,
            tail: end.tail,
            started: end.started,
            next_number,
            sum: self.sum,
            torn: end.torn,
            mark_damaged: self.mark_damaged,
        })
    }

    fn last(&self) -> Point {
        let before = self.before();
        self.entries.last().map_or(before, |entry| Point { index: entry.index, term: entry.term })
    }

    /// What precedes the entries that are held.
    fn before(&self) -> Point {
        self.handed_out.or(self.base).unwrap_or_default()
    }

    /// Hands out what is committed, once it reaches behind the point from which on it is wanted.
    fn hand_out<F: FnMut(Entry)>(&mut self, HandOut { after, take }: &mut HandOut<F>) {
        let committed = self.hard_state.map_or(0, |state| state.commit);
        let before = self.before();
        if committed <= after.index.max(before.index) {
            return;
        }
        if self.handed_out.is_none() {
            // The checkpoint overrules a log that has another entry there, or nothing.
            let Some(wanted) = after.index.checked_sub(before.index) else { return };
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let found = match wanted.checked_sub(1) {
                None => before,
                Some(place) => match self.entries.get(place) {
                    Some(entry) => Point { index: entry.index, term: entry.term },
                    None => return,
                },
            };
            if found != *after {
                return;
            }
            drop(self.entries.drain(..wanted));
            self.handed_out = Some(*after);
        }
        let count = usize::try_from(committed - self.before().index).unwrap_or(usize::MAX);
        for entry in self.entries.drain(..count.min(self.entries.len())) {
            self.handed_out = Some(Point { index: entry.index, term: entry.term });
            take(entry);
        }
    }

    fn damage(&self, seq: SegmentSeq, sector: u64, reason: &'static str) -> Damage {
        // A point is believed as it is read, and no index lies behind the last one.
        let index = self.last().index.saturating_add(1);
        Damage { seq, offset: sector, index, fault: Fault::Bytes(reason) }
    }

    fn damage_at(&self, at: Position, reason: &'static str) -> Damage {
        self.damage(at.seq, u64::from(at.sector) * SECTOR_BYTES as u64, reason)
    }

    fn header(&self, seq: SegmentSeq, image: &[u8]) -> Result<Header, Damage> {
        let page = &image[..image.len().min(PAGE_BYTES)];
        Header::decode(page, seq, image.len() as u64, self.identity).map_err(|fault| {
            let mut damage = self.damage(seq, 0, "");
            damage.fault = match fault {
                HeaderFault::Damaged(reason) => Fault::Bytes(reason),
                HeaderFault::Version(version) => Fault::Version(version),
                HeaderFault::Identity(found) => Fault::Identity(found),
            };
            damage
        })
    }

    fn walk<F: FnMut(Entry)>(
        &mut self,
        seq: SegmentSeq,
        writing: Writing,
        image: &[u8],
        hand_out: &mut Option<HandOut<F>>,
    ) -> Result<Walk, Damage> {
        let sectors = sector_count(image);
        let mut sector = DATA_SECTOR;
        while sector < sectors {
            let at = Position { seq, sector };
            let step = read_group(writing, image, sector).map_err(|reason| self.damage_at(at, reason))?;
            let Step::Group { records, sectors: length, number, prev_sum, sum } = step else {
                return Ok(Walk::Ended(sector));
            };
            if self.next_number.is_some_and(|expected| expected != number || self.sum != prev_sum) {
                return Err(self.damage_at(at, "the group does not continue the one before it"));
            }
            let opens = sector == DATA_SECTOR;
            let cut = self.apply(opens, records).map_err(|reason| self.damage_at(at, reason))?;
            let last = self.last().index;
            let held = self.segments.last_mut().expect("the caller pushed this segment");
            held.last_index = held.last_index.max(last);
            if let Some(next) = cut {
                if next.0 != seq.0 + 1 {
                    return Err(self.damage_at(at, "the cut announces a segment that is not the next"));
                }
                // A cut repeats the number and sum that the next segment's first group must have.
                self.next_number = Some(number);
                self.sum = prev_sum;
                self.announced = Some(next);
                return Ok(Walk::Cut);
            }
            let Some(next_number) = number.checked_add(1) else {
                return Err(self.damage_at(at, "the group's number is impossible"));
            };
            self.next_number = Some(next_number);
            self.sum = sum;
            sector += length;
            if let Some(hand_out) = hand_out {
                self.hand_out(hand_out);
            }
        }
        Ok(Walk::Ended(sectors))
    }

    /// Lets a whole, valid group speak. Answers the announced segment if it is a cut.
    fn apply(&mut self, opens: bool, records: Vec<Record>) -> Result<Option<SegmentSeq>, &'static str> {
        if opens != matches!(records.first(), Some(Record::Start(_))) {
            return Err("a segment's first group, and no other, begins with a start record");
        }
        let count = records.len();
        for (place, record) in records.into_iter().enumerate() {
            match record {
                Record::Start(point) => {
                    if place != 0 {
                        return Err("a start record inside a group");
                    }
                    if self.base.is_some() && self.last() != point {
                        return Err("the segment does not start where the one before it ended");
                    }
                    self.base.get_or_insert(point);
                }
                Record::HardState(state) => self.hard_state = Some(state),
                Record::Reset(_) if self.handed_out.is_some() => {
                    return Err("the log begins anew before an entry that is committed");
                }
                Record::Reset(point) => {
                    self.base = Some(point);
                    self.covered_min = point.index;
                    self.entries.clear();
                }
                Record::Entry(entry) => self.entry(entry)?,
                Record::Cut(next) => {
                    if count != 1 {
                        return Err("a cut shares its group");
                    }
                    return Ok(Some(next));
                }
            }
        }
        Ok(None)
    }

    fn entry(&mut self, entry: Entry) -> Result<(), &'static str> {
        assert!(self.base.is_some(), "a start record came first");
        let base = self.before().index;
        let last = self.last().index;
        let before = entry.index.checked_sub(1).ok_or("an entry has index 0")?;
        if last < before {
            return Err("entries are missing before this one");
        }
        // Raft replaces a conflicting suffix: all from this index on is void.
        if base <= before {
            let kept = usize::try_from(before - base).expect("no more than entries held");
            self.entries.truncate(kept);
        } else if self.handed_out.is_some() {
            return Err("an entry takes the place of one that is committed");
        } else {
            // It reaches back into segments that this scan does not have. They may be missing only if
            // the checkpoint is past what was replaced there; then nobody asks for the term at `before`.
            self.covered_min = self.covered_min.max(base);
            self.base = Some(Point { index: before, term: 0 });
            self.entries.clear();
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The log seems to end at `tail`, in this image. Looks for evidence that a sync went past it.
    fn end_at(&mut self, tail: Position, writing: Writing, image: &[u8]) -> Result<(), Damage> {
        let started = tail.sector > DATA_SECTOR;
        if !started && self.segments.len() == 1 {
            return Err(self.damage_at(tail, "the oldest segment has no beginning"));
        }
        match read_mark(writing, image) {
            Sector::Written(mark) if mark.durable > tail.sector => {
                return Err(self.damage_at(tail, "the segment's mark says that what was here is durable"));
            }
            Sector::Written(_) | Sector::Blank => {}
            Sector::Damaged => self.mark_damaged = true,
        }
        let mut torn = None;
        for (sector, bytes) in sectors_from(image, tail.sector) {
            match writing.classify(sector, bytes) {
                Sector::Blank => continue,
                Sector::Damaged => {}
                Sector::Written(stamp) if stamp.durable > tail.sector => {
                    return Err(self.damage_at(tail, "a later group says that what was here is durable"));
                }
                Sector::Written(_) => {}
            }
            torn = Some(TornTail { at: tail, sectors: sector - tail.sector + 1 });
        }
        self.end = Some(End { tail, started, torn });
        Ok(())
    }

    /// A segment behind the log's end is prepared and unused. It is written to only after a cut, and
    /// the cut is a barrier: any group in it proves the segment before it whole.
    fn check_unused(&self, end: End, writing: Writing, image: &[u8]) -> Result<(), Damage> {
        let mut written = sectors_from(image, DATA_SECTOR)
            .any(|(sector, bytes)| matches!(writing.classify(sector, bytes), Sector::Written(_)));
        written |= matches!(read_mark(writing, image), Sector::Written(_));
        if written {
            return Err(self.damage_at(end.tail, "a later segment holds groups, so this one was whole"));
        }
        Ok(())
    }
}

fn sector_count(image: &[u8]) -> u32 {
    u32::try_from(image.len() / SECTOR_BYTES).expect("bounded by SEGMENT_BYTES_MAX, see Header::decode")
}

fn sectors_from(image: &[u8], first: u32) -> impl Iterator<Item = (u32, &[u8])> {
    (first..).zip(image[first as usize * SECTOR_BYTES..].chunks_exact(SECTOR_BYTES))
}

/// The start record of a segment, if its first group is whole. `head` is the segment's beginning, at
/// least as long as `first_group_bytes` says.
#[must_use]
pub fn start_of(identity: Identity, seq: SegmentSeq, head: &[u8]) -> Option<Point> {
    match read_group(Writing::new(identity, seq), head, DATA_SECTOR) {
        Ok(Step::Group { records, .. }) => match records.first() {
            Some(Record::Start(point)) => Some(*point),
            _ => None,
        },
        Ok(Step::Absent) | Err(_) => None,
    }
}

/// Bytes from the file's beginning through its first group's end, told by that group's first sector.
#[must_use]
pub fn first_group_bytes(identity: Identity, seq: SegmentSeq, sector: &[u8]) -> Option<u64> {
    match Writing::new(identity, seq).classify(DATA_SECTOR, sector) {
        Sector::Written(Stamp { first: true, left, .. }) => {
            Some(DATA_OFFSET as u64 + (u64::from(left) + 1) * SECTOR_BYTES as u64)
        }
        _ => None,
    }
}

fn read_group(writing: Writing, image: &[u8], at: u32) -> Result<Step, &'static str> {
    read_group_in(writing, 0, image, at)
}

/// The group at sector `at` of a segment of which `image` holds the part that begins at sector `base`.
pub(crate) fn read_group_in(
    writing: Writing,
    base: u32,
    image: &[u8],
    at: u32,
) -> Result<Step, &'static str> {
    let from = (at - base) as usize * SECTOR_BYTES;
    let first = match writing.classify(at, &image[from..from + SECTOR_BYTES]) {
        Sector::Blank => return Ok(Step::Absent),
        Sector::Damaged => return Err("the group's first sector was written and has changed since"),
        Sector::Written(stamp) if !stamp.first => {
            return Err("the sector belongs to the middle of a group, where one should begin");
        }
        Sector::Written(stamp) => stamp,
    };
    let room = sector_count(image) - (at - base);
    if first.left >= room {
        return Err("the group says it is longer than its segment");
    }
    let sectors = first.left + 1;
    let group = &image[from..from + sectors as usize * SECTOR_BYTES];
    // One pass decides before a byte is copied: a group with a blank sector was never synced, so
    // whatever else is wrong in it harms nobody.
    let mut fault = None;
    for (place, bytes) in (0..sectors).zip(group.chunks_exact(SECTOR_BYTES)) {
        let expected = Stamp { durable: first.durable, first: place == 0, left: first.left - place };
        match writing.classify(at + place, bytes) {
            Sector::Blank => return Ok(Step::Absent),
            Sector::Damaged => fault = Some("a sector of the group was written and has changed since"),
            Sector::Written(stamp) if stamp != expected => {
                fault = Some("a sector of the group belongs to another group");
            }
            Sector::Written(_) => {}
        }
    }
    if let Some(fault) = fault {
        return Err(fault);
    }
    let mut joined = Vec::with_capacity(sectors as usize * PAYLOAD_BYTES);
    for bytes in group.chunks_exact(SECTOR_BYTES) {
        joined.extend_from_slice(&bytes[STAMP_BYTES..]);
    }
    let (head, records) = decode_group(Bytes::from(joined))?;
    if records.is_empty() {
        return Err("the group is empty");
    }
    Ok(Step::Group { records, sectors, number: head.number, prev_sum: head.prev_sum, sum: head.sum })
}
