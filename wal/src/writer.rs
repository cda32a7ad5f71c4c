//! The log writer: appends groups, makes them durable, lets old segments go.
//!
//! Driven from one thread by plain blocking calls. The caller copies nothing first: entries are
//! borrowed and their bytes stored once, into the open segment's window.
//!
//! Invariants: `durable <= tail`, both in the open segment; `segments` are gapless and end with the
//! open one; a failed sync poisons the log for good. Un-synced groups lie in the open segment only:
//! a cut syncs before it moves on, so a group in a later segment proves all earlier ones whole.
//! Cost: an append is one copy and two CRC-32 runs over its bytes, no allocation, no system call; a
//! sync is one. A cut, once a segment, is one sync more.

use crate::Identity;
use crate::error::{Note, WalError};
use crate::record::{
    ENTRY_BYTES_MAX, Entry, GROUP_HEAD_BYTES, Group, HardState, PRELUDE_BYTES_MAX, Point, RECORD_HEAD_BYTES,
    sectors_for,
};
use crate::recover;
use crate::scan::{Scanned, TornTail};
use crate::sector::{PAYLOAD_BYTES, SECTOR_BYTES, Writing, make_blank};
use crate::segment::{
    DATA_OFFSET, DATA_SECTOR, MARK_OFFSET, PAGE_BYTES, SegmentSeq, seal_mark, sector_count,
};
use crate::storage::{Storage, empty_head};
use std::collections::VecDeque;

/// What the log held when it was opened. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub hard_state: Option<HardState>,
    /// Contiguous from `after + 1`, or from behind the last one that was handed out.
    pub entries: Vec<Entry>,
    pub notes: Vec<Note>,
}

/// A segment that holds part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub seq: SegmentSeq,
    /// The last entry before it: what comes later is in it or in a later one. Not told by the oldest
    /// segment of a log that was opened (0), nor lowered by a reset; the caller's checkpoint says more.
    pub start_index: u64,
    /// Highest entry index ever put in it; never lowered, so releasing is never early.
    pub last_index: u64,
}

/// Counters since the log was opened, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub groups: u64,
    /// Bytes of log written, stamps and padding included.
    pub appended_bytes: u64,
    pub syncs: u64,
    pub cuts: u64,
}

/// A group larger than this is split, so that a cut wastes at most an eighth of a segment.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// The write-ahead log.
#[derive(Debug)]
pub struct Wal<S> {
    storage: S,
    identity: Identity,
    /// Oldest first; the last is the open one.
    segments: VecDeque<Held>,
    /// Sectors of a segment, the same for all.
    sectors: u32,
    /// Where the next group goes, in the open segment.
    tail: u32,
    /// Sectors of the open segment before this one were synced.
    durable: u32,
    /// What the open segment's mark says of `durable`.
    marked: u32,
    /// The open segment has its first group.
    started: bool,
    next_number: u64,
    sum: u32,
    /// The last entry; after a reset, what precedes the next.
    last: Point,
    /// The last entry as the log's bytes have it: behind `last` while a reset waits to be written.
    written: Point,
    hard_state: Option<HardState>,
    /// The log must say that it restarts here before it takes entries.
    reset: Option<Point>,
    poisoned: bool,
    counters: Counters,
}

/// A log that was read and believed, and not touched yet.
pub struct Reading<S> {
    storage: S,
    identity: Identity,
    after: Point,
    found: recover::Found,
}

impl<S: Storage> Reading<S> {
    /// The second half of [`Wal::open`]: makes durable what was read, and the space behind it blank.
    pub fn open(self) -> Result<(Wal<S>, Recovered), WalError> {
        Wal::open_found(self)
    }
}

impl<S: Storage> Wal<S> {
    /// Whether the storage holds a log.
    pub fn exists(storage: &mut S) -> Result<bool, WalError> {
        storage.segments().map(|found| !found.is_empty()).map_err(WalError::io("listing the log's segments"))
    }

    /// A new log whose first entry will be `after + 1`. It exists, durably, or it does not: the first
    /// segment gets its name only with its first group in it.
    pub fn create(mut storage: S, identity: Identity, after: u64, after_term: u64) -> Result<Self, WalError> {
        let found = storage.segments().map_err(WalError::io("listing the log's segments"))?;
        if let Some(seq) = found.first() {
            return Err(WalError::Exists { file: storage.locate(*seq) });
        }
        let seq = SegmentSeq(1);
        let segment_bytes = storage.segment_bytes();
        let point = Point { index: after, term: after_term };
        let group = Group { start: Some(point), ..Group::default() };
        let mut head = empty_head(identity, seq, segment_bytes);
        let sectors = group.sectors();
        let group_end = DATA_OFFSET + sectors as usize * SECTOR_BYTES;
        head.resize(group_end.next_multiple_of(PAGE_BYTES), 0);
        let writing = Writing::new(identity, seq);
        let sum = group.encode(writing, DATA_SECTOR, DATA_SECTOR, 1, 0, &mut head[DATA_OFFSET..group_end]);
        storage.prepare(seq, head);
        storage.wait_prepared(seq).map_err(WalError::io("creating the log's first segment"))?;
        let tail = DATA_SECTOR + sectors;
        storage.open(seq, group_end as u64).map_err(WalError::io("opening the log's first segment"))?;
        let mut wal = Self {
            storage,
            identity,
            segments: VecDeque::from([Held { seq, start_index: after, last_index: after }]),
            sectors: sector_count(segment_bytes),
            tail,
            durable: tail,
            marked: DATA_SECTOR,
            started: true,
            next_number: 2,
            sum,
            last: point,
            written: point,
            hard_state: None,
            reset: None,
            poisoned: false,
            counters: Counters::default(),
        };
        wal.prepare_next();
        Ok(wal)
    }

    /// Opens the log beside a checkpoint that covers everything up to `after`. All that it answers is
    /// durable: what a dead process left in the page cache is synced first.
    pub fn open(
        storage: S,
        identity: Identity,
        after: u64,
        after_term: u64,
    ) -> Result<(Self, Recovered), WalError> {
        Self::read(storage, identity, after, after_term)?.open()
    }

    /// The first half of `open`, which changes nothing: what the log says. So it can go on while the checkpoint is
    /// loaded, and is nothing but time lost if that cannot be.
    pub fn read(storage: S, identity: Identity, after: u64, after_term: u64) -> Result<Reading<S>, WalError> {
        Self::read_to(storage, identity, after, after_term, None::<fn(Entry)>)
    }

    /// The same, and hands out on the way what the log says is committed behind `after`, in order and without a gap.
    /// Whoever takes it may apply it, and has to forget all of it should the log turn out to be damaged further on.
    pub fn read_handing_out(
        storage: S,
        identity: Identity,
        after: u64,
        after_term: u64,
        take: impl FnMut(Entry),
    ) -> Result<Reading<S>, WalError> {
        Self::read_to(storage, identity, after, after_term, Some(take))
    }

    fn read_to(
        mut storage: S,
        identity: Identity,
        after: u64,
        after_term: u64,
        take: Option<impl FnMut(Entry)>,
    ) -> Result<Reading<S>, WalError> {
        let after = Point { index: after, term: after_term };
        let found = recover::read(&mut storage, identity, after, take)?;
        Ok(Reading { storage, identity, after, found })
    }

    fn open_found(reading: Reading<S>) -> Result<(Self, Recovered), WalError> {
        let Reading { mut storage, identity, after, found } = reading;
        let recover::Found { scanned, covered, notes, reset, segment_bytes } = found;
        let written = scanned.last();
        let Scanned {
            base,
            handed_out,
            mut entries,
            hard_state,
            segments,
            tail,
            started,
            next_number,
            sum,
            torn,
            ..
        } = scanned;
        if reset.is_some() {
            entries.clear();
        } else if handed_out.is_none() {
            let before = usize::try_from(after.index - base.index).expect("no more than entries held");
            entries.drain(..before);
        }
        storage.adopt_segment_bytes(segment_bytes);
        let mut wal = Self {
            storage,
            identity,
            segments: segments
                .iter()
                .map(|held| Held {
                    seq: held.seq,
                    start_index: held.start_index,
                    last_index: held.last_index,
                })
                .collect(),
            sectors: sector_count(segment_bytes),
            tail: tail.sector,
            durable: DATA_SECTOR,
            marked: DATA_SECTOR,
            started,
            next_number,
            sum,
            last: reset.unwrap_or(written),
            written,
            hard_state,
            reset,
            poisoned: false,
            counters: Counters::default(),
        };
        wal.settle(torn)?;
        for seq in covered {
            wal.storage.release(seq);
        }
        wal.prepare_next();
        Ok((wal, Recovered { hard_state, entries, notes }))
    }

    /// Makes what was recovered durable, and the space behind it blank.
    fn settle(&mut self, torn: Option<TornTail>) -> Result<(), WalError> {
        let offset = u64::from(self.tail) * SECTOR_BYTES as u64;
        self.storage.open(self.open_seq(), offset).map_err(WalError::io("opening the log's last segment"))?;
        if let Some(torn) = torn {
            // Before any append: a new group must not meet remains that look like its own.
            const PIECE: usize = 2048; // 1 MiB
            let sectors = torn.sectors as usize;
            for from in (0..sectors).step_by(PIECE) {
                let count = PIECE.min(sectors - from);
                let at = (torn.at.sector as usize + from) * SECTOR_BYTES;
                for sector in self.storage.window(at, count * SECTOR_BYTES).chunks_exact_mut(SECTOR_BYTES) {
                    make_blank(sector);
                }
                self.storage.sync().map_err(WalError::io("zeroing the log's torn tail"))?;
            }
            let reopened = self.storage.open(self.open_seq(), offset);
            reopened.map_err(WalError::io("opening the log's last segment"))?;
        }
        self.storage.sync().map_err(WalError::io("syncing the recovered log"))?;
        self.durable = self.tail;
        self.mark()
    }

    /// Appends one group: durable together, once `sync` returns. Entries are contiguous; the first
    /// may replace an earlier one and all behind it.
    ///
    /// `NoSpace` and `TooLarge` leave the log as it was.
    pub fn append(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if hard_state.is_none() && entries.is_empty() {
            return Ok(());
        }
        self.check_order(hard_state, entries);
        self.check_sizes(entries)?;
        self.secure_segments(entries)?;

        let mut rest = entries;
        let mut begun = false;
        loop {
            let (count, bytes) = next_group(rest, self.group_bytes_max());
            let (group, behind) = rest.split_at(count);
            let state = match (behind.is_empty(), begun) {
                (true, _) => hard_state,
                // A split group: the term and vote precede all entries, but the commit index may
                // only follow the entry it names.
                (false, false) => hard_state.map(|state| HardState {
                    commit: state.commit.min(self.hard_state.map_or(0, |before| before.commit)),
                    ..state
                }),
                (false, true) => None,
            };
            if !self.fits(self.tail, bytes) {
                self.cut()?;
            }
            self.write(state, group);
            if behind.is_empty() {
                return Ok(());
            }
            rest = behind;
            begun = true;
        }
    }

    /// The caller's own mistakes, not the disk's.
    fn check_order(&self, hard_state: Option<HardState>, entries: &[Entry]) {
        let mut last = self.last.index;
        if let Some(first) = entries.first() {
            assert!(first.index <= last + 1, "entry {} leaves a hole behind {last}", first.index);
            assert!(0 < first.index, "raft indexes begin at 1");
            if let Some(reset) = self.reset {
                assert_eq!(first.index, reset.index + 1, "the log restarts behind {}", reset.index);
            }
            last = first.index - 1;
        }
        for entry in entries {
            assert_eq!(entry.index, last + 1, "entries of a group are contiguous");
            last = entry.index;
        }
        if let Some(state) = hard_state {
            assert!(state.commit <= last, "commit {} is past the last entry {last}", state.commit);
        }
    }

    fn check_sizes(&self, entries: &[Entry]) -> Result<(), WalError> {
        let max = ENTRY_BYTES_MAX.min(self.segment_payload_max() - RECORD_HEAD_BYTES);
        match entries.iter().map(|entry| entry.data.len()).find(|bytes| *bytes > max) {
            Some(bytes) => Err(WalError::TooLarge { bytes, max }),
            None => Ok(()),
        }
    }

    /// Waits until every segment that this append can need is there, before a byte is written.
    fn secure_segments(&mut self, entries: &[Entry]) -> Result<(), WalError> {
        let mut sector = self.tail;
        let mut rest = entries;
        let mut seq = self.open_seq();
        loop {
            let (count, bytes) = next_group(rest, self.group_bytes_max());
            if !self.fits(sector, bytes) {
                seq = seq.next();
                self.prepare(seq);
                self.storage.wait_prepared(seq).map_err(WalError::io("preparing the next log segment"))?;
                sector = DATA_SECTOR;
            }
            sector += sectors_for(PRELUDE_BYTES_MAX + bytes);
            rest = &rest[count..];
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether appends of so many more bytes of entries will find room, asked before they are known:
    /// while the open segment has that much left this is a comparison, after that it waits for the
    /// next segment's preparation to end. So a full disk shows while what is on its way still fits.
    pub fn secure_room(&mut self, bytes: usize) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if self.fits(self.tail, bytes) {
            return Ok(());
        }
        let next = self.open_seq().next();
        self.prepare(next);
        self.storage.wait_prepared(next).map_err(WalError::io("preparing the next log segment"))
    }

    /// Whether a group with `bytes` of entries fits at `sector`, and a cut behind it. Assumes the
    /// longest prelude, so that what is planned is never less than what is written.
    fn fits(&self, sector: u32, bytes: usize) -> bool {
        sector + sectors_for(PRELUDE_BYTES_MAX + bytes) < self.sectors
    }

    /// Most bytes of entries that one group of an empty segment can hold.
    fn segment_payload_max(&self) -> usize {
        let sectors = self.sectors - DATA_SECTOR - 1;
        sectors as usize * PAYLOAD_BYTES - GROUP_HEAD_BYTES - PRELUDE_BYTES_MAX
    }

    fn group_bytes_max(&self) -> usize {
        GROUP_BYTES_MAX.min(self.segment_payload_max())
    }

    fn write(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        let group = Group {
            start: (!self.started).then_some(self.written),
            reset: self.reset,
            // Repeated at each segment's head, so that it outlives the segments before.
            hard_state: hard_state.or(if self.started { None } else { self.hard_state }),
            entries,
            cut: None,
        };
        let sectors = group.sectors();
        self.sum = self.encode(&group, sectors);
        self.next_number += 1;
        self.tail += sectors;
        self.started = true;
        self.reset = None;
        self.hard_state = hard_state.or(self.hard_state);
        if let Some(entry) = entries.last() {
            self.last = Point { index: entry.index, term: entry.term };
        }
        self.written = self.last;
        let held = self.segments.back_mut().expect("the open segment");
        held.last_index = held.last_index.max(self.last.index);
        self.counters.groups += 1;
    }

    fn encode(&mut self, group: &Group<'_>, sectors: u32) -> u32 {
        assert!(self.tail + sectors <= self.sectors, "a group past the end of its segment");
        let writing = Writing::new(self.identity, self.open_seq());
        let bytes = sectors as usize * SECTOR_BYTES;
        self.counters.appended_bytes += bytes as u64;
        let window = self.storage.window(self.tail as usize * SECTOR_BYTES, bytes);
        group.encode(writing, self.tail, self.durable, self.next_number, self.sum, window)
    }

    /// Closes the open segment and goes on in the next. A barrier: everything before the cut, and the
    /// cut itself, is durable before the next segment is touched.
    fn cut(&mut self) -> Result<(), WalError> {
        let next = self.open_seq().next();
        let group = Group { cut: Some(next), ..Group::default() };
        let sectors = group.sectors();
        // A cut is no link of the chain: the next segment's first group continues the group before it.
        self.encode(&group, sectors);
        self.tail += sectors;
        self.sync_now("syncing a full log segment")?;
        self.storage.open(next, DATA_OFFSET as u64).map_err(|source| {
            self.poisoned = true;
            WalError::Io { operation: "opening the next log segment", source }
        })?;
        let start_index = self.written.index;
        self.segments.push_back(Held { seq: next, start_index, last_index: self.last.index });
        self.tail = DATA_SECTOR;
        self.durable = DATA_SECTOR;
        self.marked = DATA_SECTOR;
        self.started = false;
        self.counters.cuts += 1;
        self.prepare_next();
        Ok(())
    }

    /// One blocking sync for all appended since the last. After an error every later call fails: the
    /// page cache no longer says what is on disk, and a retry would prove nothing.
    pub fn sync(&mut self) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        if self.durable == self.tail {
            return Ok(());
        }
        self.sync_now("syncing the log")
    }

    fn sync_now(&mut self, operation: &'static str) -> Result<(), WalError> {
        self.counters.syncs += 1;
        // Not `WalError::io`: space that runs out under a sync is a lost write, not a full disk.
        self.storage.sync().map_err(|source| {
            self.poisoned = true;
            WalError::Io { operation, source }
        })?;
        self.durable = self.tail;
        Ok(())
    }

    /// Writes down, away from the groups, how far the log is durable: evidence for the last group.
    /// Call it when nothing waits, and before a clean end. Nothing to do costs nothing.
    pub fn mark(&mut self) -> Result<(), WalError> {
        self.sync()?;
        if self.marked == self.durable {
            return Ok(());
        }
        let writing = Writing::new(self.identity, self.open_seq());
        let window = self.storage.window(MARK_OFFSET, SECTOR_BYTES);
        window[crate::sector::STAMP_BYTES..].fill(0);
        seal_mark(writing, self.durable, window);
        self.sync_now("syncing the log's mark")?;
        self.marked = self.durable;
        Ok(())
    }

    /// The log restarts behind `after`: the member took a snapshot from its leader. Entries are void
    /// at once; the next append says so on disk, before which the checkpoint says it as well.
    pub fn reset(&mut self, after: u64, after_term: u64) {
        self.reset = Some(Point { index: after, term: after_term });
        self.last = Point { index: after, term: after_term };
    }

    /// A checkpoint is durable that covers entries up to `through`: lets go of segments that hold no
    /// later one. The open segment, and the one before it until the open one speaks for itself, stay.
    pub fn release(&mut self, through: u64) -> Result<(), WalError> {
        if self.poisoned {
            return Err(WalError::Poisoned);
        }
        loop {
            let (Some(oldest), Some(second)) = (self.segments.front(), self.segments.get(1)) else {
                return Ok(());
            };
            let second_speaks = second.seq != self.open_seq() || self.durable > DATA_SECTOR;
            if oldest.last_index > through || !second_speaks {
                return Ok(());
            }
            self.storage.release(oldest.seq);
            self.segments.pop_front();
        }
    }

    fn prepare_next(&mut self) {
        let next = self.open_seq().next();
        self.prepare(next);
    }

    fn prepare(&mut self, seq: SegmentSeq) {
        let head = empty_head(self.identity, seq, self.storage.segment_bytes());
        self.storage.prepare(seq, head);
    }

    fn open_seq(&self) -> SegmentSeq {
        self.segments.back().expect("a log has an open segment").seq
    }

    /// Index of the last entry appended.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last.index
    }

    #[must_use]
    pub fn hard_state(&self) -> Option<HardState> {
        self.hard_state
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    #[must_use]
    pub fn segments_count(&self) -> usize {
        self.segments.len()
    }

    /// The segments that hold the log, oldest first; the last is the open one.
    pub fn segments(&self) -> impl Iterator<Item = Held> + Clone {
        self.segments.iter().copied()
    }

    pub fn storage(&mut self) -> &mut S {
        &mut self.storage
    }

    #[must_use]
    pub fn into_storage(self) -> S {
        self.storage
    }
}

/// How many of `entries` the next group takes, and their bytes: at least one, then up to `bytes_max`.
fn next_group(entries: &[Entry], bytes_max: usize) -> (usize, usize) {
    let mut bytes = 0;
    for (count, entry) in entries.iter().enumerate() {
        let more = RECORD_HEAD_BYTES + entry.data.len();
        if 0 < count && bytes_max < bytes + more {
            return (count, bytes);
        }
        bytes += more;
    }
    (entries.len(), bytes)
}
