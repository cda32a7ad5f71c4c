//! Reads in slices, lists, snapshots and long answers about leases: whose turn it is, what the client has taken of each, and which have to end early.
//!
//! Every other slice is the oldest read's, so that reads are done one after the other and many of them do not
//! all come to their timeouts together; the slices between go round all in turn, so that a short read behind a
//! long one is soon done. A read whose pieces wait for its client is parked and has no turn until one has left. So a
//! slow client costs its pieces, the key at which its read stands, and what compactions would remove meanwhile but for
//! its pin.
//!
//! What reads hold together is bounded: the history behind their pins by `--pinned-history-bytes`, the memory of
//! their sorts by `SORT_BYTES_MAX`. Beyond the first the oldest read ends as too slow. A sort that finds no
//! room waits; when it has waited for `PATIENCE`, whichever parked sort has stood still for longest, and for at
//! least as long, ends as too slow.
//!
//! Invariants: a read is measured, made whole, parked or in pieces; all but the parked and the waiting ones
//! are ready. A read that ended has released its pin.
//! Cost: O(log reads) a slice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::lease_clock::LeaseClock;
use crate::apply::{LeaseRead, LongRead, Machine};
use crate::backup::Export;
use crate::mvcc::Store;
use crate::request::{AnswerId, Outcome, PieceNotice, PieceOrder, Query, Refusal, Rejection, Response};
use crate::types::limits::{PIECE_BYTES, PIECES_MAX};
use crate::types::{Caller, LogIndex, Slice, Term, Ticket};

/// Memory of all sorts, and of answers about leases: some 16 million keys at once.
const SORT_BYTES_MAX: u64 = 512 << 20;

/// How long a sort waits for the memory of one whose client takes nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a line is logged about reads that were ended.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// What is said to whoever asked.
#[derive(Debug)]
pub(super) enum Said {
    Answer { ticket: Ticket, result: Result<Outcome, Refusal> },
    Notice { shard: u16, notice: PieceNotice },
}

/// All reads in slices.
#[derive(Debug)]
pub(super) struct LongReads {
    reads: BTreeMap<AnswerId, Reading>,
    /// Those that want a slice.
    ready: BTreeSet<AnswerId>,
    /// The one that had the last slice of the round.
    last: AnswerId,
    /// The next slice is the oldest's.
    is_oldests: bool,
    /// Sorts without memory, each since when.
    waiting: VecDeque<(AnswerId, Instant)>,
    sort_bytes: u64,
    begun: u64,
    /// Most of the history that pins may hold.
    history_bytes_max: u64,
    /// Reads that were ended and not told of.
    ended: u64,
    logged_at: Option<Instant>,
}

#[derive(Debug)]
struct Reading {
    ticket: Ticket,
    read: Read,
    sort_bytes: u64,
    stage: Stage,
}

/// What is read.
#[derive(Debug)]
enum Read {
    Lists(Box<LongRead>),
    /// The file of a snapshot, which goes to a client.
    Snapshot(Box<Export>),
    /// All leases, or the keys of one.
    Leases(Box<LeaseRead>),
}

impl Read {
    fn measure(
        &mut self,
        machine: &mut Machine,
        leases: &LeaseClock,
        slice: &mut Slice,
    ) -> Result<Option<u64>, Rejection> {
        match self {
            Self::Lists(read) => read.measure(machine.store(), slice),
            Self::Snapshot(export) => Ok(export.measure(machine.store(), slice)),
            Self::Leases(read) => Ok(machine.lease_read_slice(read, |id| leases.due_ms(id), slice)),
        }
    }

    fn write(&mut self, store: &Store, slice: &mut Slice, full: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Lists(read) => read.write(store, slice, full, out),
            Self::Snapshot(export) => export.write(store, slice, full, out),
            Self::Leases(read) => read.write(slice, full, out),
        }
    }

    fn end(self, machine: &mut Machine) {
        match self {
            Self::Lists(read) => machine.end_long_read(*read),
            Self::Snapshot(export) => export.end(machine),
            Self::Leases(read) => machine.end_lease_read(*read),
        }
    }

    /// The revision that it keeps readable, if it does.
    fn pinned(&self) -> Option<i64> {
        match self {
            Self::Lists(read) => Some(read.pinned()),
            Self::Snapshot(export) => Some(export.pinned()),
            Self::Leases(_) => None,
        }
    }

    fn revision(&self) -> i64 {
        match self {
            Self::Lists(read) => read.revision(),
            Self::Snapshot(export) => export.revision(),
            Self::Leases(read) => read.revision(),
        }
    }
}

#[derive(Debug)]
enum Stage {
    Measure,
    /// Small enough for one message between roles.
    Whole(Vec<u8>),
    Pieces {
        shard: u16,
        /// Pieces that may be sent.
        credit: usize,
        piece: Vec<u8>,
        parked_at: Option<Instant>,
    },
}

impl LongReads {
    pub(super) fn new(history_bytes_max: u64) -> Self {
        Self {
            reads: BTreeMap::new(),
            ready: BTreeSet::new(),
            last: AnswerId(0),
            is_oldests: true,
            waiting: VecDeque::new(),
            sort_bytes: 0,
            begun: 0,
            history_bytes_max,
            ended: 0,
            logged_at: None,
        }
    }

    /// Whether a slice would find something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Begins a read. What it answers is as new as this moment.
    pub(super) fn begin(&mut self, machine: &mut Machine, ticket: Ticket, query: &Query) -> Option<Said> {
        let read = match machine.begin_long_read(query) {
            Ok(read) => read,
            Err(rejection) => return Some(Said::Answer { ticket, result: Ok(Err(rejection)) }),
        };
        let sort_bytes = read.sort_bytes_max();
        self.begin_read(machine, ticket, Read::Lists(Box::new(read)), sort_bytes)
    }

    /// Begins an answer about leases.
    pub(super) fn begin_leases(
        &mut self,
        machine: &mut Machine,
        ticket: Ticket,
        read: LeaseRead,
    ) -> Option<Said> {
        let bytes_max = read.bytes_max();
        self.begin_read(machine, ticket, Read::Leases(Box::new(read)), bytes_max)
    }

    /// Begins a read that needs so much memory, at once or when others have given back theirs.
    fn begin_read(
        &mut self,
        machine: &mut Machine,
        ticket: Ticket,
        read: Read,
        sort_bytes: u64,
    ) -> Option<Said> {
        if SORT_BYTES_MAX < sort_bytes {
            read.end(machine);
            return Some(Said::Answer { ticket, result: Err(Refusal::SortTooLarge) });
        }
        let id = self.add(Reading { ticket, read, sort_bytes, stage: Stage::Measure });
        if sort_bytes == 0 || self.has_room_for(sort_bytes) {
            self.sort_bytes += sort_bytes;
            self.ready.insert(id);
        } else {
            self.waiting.push_back((id, Instant::now()));
        }
        None
    }

    /// Begins the snapshot of the state after the entry `applied`. It is told of at once, since measuring it may take
    /// longer than a client waits for the first word.
    pub(super) fn begin_snapshot(
        &mut self,
        machine: &mut Machine,
        ticket: Ticket,
        (applied, term): (LogIndex, Term),
    ) -> Said {
        let Caller::Client(call) = ticket.caller() else { unreachable!("only a client asks for a snapshot") };
        let export = Export::begin(machine, applied, term);
        let revision = export.revision();
        let read = Read::Snapshot(Box::new(export));
        let shard = call.shard;
        let stage = Stage::Pieces { shard, credit: PIECES_MAX, piece: Vec::new(), parked_at: None };
        let id = self.add(Reading { ticket, read, sort_bytes: 0, stage });
        self.ready.insert(id);
        let notice = PieceNotice::Begin { id, ticket, term, revision, body_bytes: 0 };
        Said::Notice { shard, notice }
    }

    fn add(&mut self, reading: Reading) -> AnswerId {
        let id = AnswerId(self.begun);
        self.begun += 1;
        self.reads.insert(id, reading);
        id
    }

    fn has_room_for(&self, sort_bytes: u64) -> bool {
        self.waiting.is_empty() && self.sort_bytes + sort_bytes <= SORT_BYTES_MAX
    }

    /// Takes an order of the shard that gets the answer.
    pub(super) fn on_order(&mut self, machine: &mut Machine, order: PieceOrder) -> Option<Said> {
        match order {
            PieceOrder::More { id } => {
                if let Some(Reading { stage: Stage::Pieces { credit, parked_at, .. }, .. }) =
                    self.reads.get_mut(&id)
                {
                    *credit += 1;
                    if parked_at.take().is_some() {
                        self.ready.insert(id);
                    }
                }
                None
            }
            PieceOrder::Cancel { id } => {
                self.end(machine, id);
                None
            }
            PieceOrder::Forget { ticket } => {
                let (&id, _) = self.reads.iter().find(|(_, reading)| reading.ticket == ticket)?;
                self.end(machine, id);
                Some(Said::Answer { ticket, result: Err(Refusal::TimedOut) })
            }
        }
    }

    /// Gives a read up, whose caller knows.
    fn end(&mut self, machine: &mut Machine, id: AnswerId) -> Option<(Ticket, Stage)> {
        let Reading { ticket, read, sort_bytes, stage } = self.reads.remove(&id)?;
        read.end(machine);
        match self.waiting.iter().position(|(waiting, _)| *waiting == id) {
            Some(place) => drop(self.waiting.remove(place)),
            None => self.sort_bytes -= sort_bytes,
        }
        self.ready.remove(&id);
        while let Some((id, _)) =
            self.waiting.pop_front_if(|(id, _)| self.sort_bytes + self.reads[id].sort_bytes <= SORT_BYTES_MAX)
        {
            self.sort_bytes += self.reads[&id].sort_bytes;
            self.ready.insert(id);
        }
        Some((ticket, stage))
    }

    /// One slice of the read whose turn it is.
    pub(super) fn slice(
        &mut self,
        machine: &mut Machine,
        (term, leases): (Term, &LeaseClock),
        slice: &mut Slice,
        mut say: impl FnMut(Said),
    ) {
        let Some(id) = self.take_next() else { return };
        let Some(reading) = self.reads.get_mut(&id) else { return };
        let Reading { ticket, read, stage, .. } = reading;
        let (ticket, revision) = (*ticket, read.revision());
        match stage {
            Stage::Measure => match read.measure(machine, leases, slice) {
                Err(rejection) => {
                    self.end(machine, id);
                    return say(Said::Answer { ticket, result: Ok(Err(rejection)) });
                }
                Ok(None) => {}
                Ok(Some(body_bytes)) => match ticket.caller() {
                    Caller::Client(call) if PIECE_BYTES as u64 <= body_bytes => {
                        let shard = call.shard;
                        *stage =
                            Stage::Pieces { shard, credit: PIECES_MAX, piece: Vec::new(), parked_at: None };
                        let notice = PieceNotice::Begin { id, ticket, term, revision, body_bytes };
                        say(Said::Notice { shard, notice });
                    }
                    _ => *stage = Stage::Whole(Vec::with_capacity(PIECE_BYTES.min(usize_of(body_bytes)))),
                },
            },
            Stage::Whole(body) => {
                if read.write(machine.store(), slice, usize::MAX, body) {
                    let body = std::mem::take(body);
                    self.end(machine, id);
                    let response = Response { revision, body, resume: None };
                    return say(Said::Answer { ticket, result: Ok(Ok(response)) });
                }
            }
            Stage::Pieces { shard, credit, piece, parked_at } => {
                let shard = *shard;
                if let Read::Snapshot(export) = read
                    && !export.is_measured()
                {
                    if let Some(body_bytes) = export.measure(machine.store(), slice) {
                        say(Said::Notice { shard, notice: PieceNotice::Length { id, body_bytes } });
                    }
                    self.ready.insert(id);
                    return;
                }
                if piece.capacity() == 0 {
                    piece.reserve_exact(PIECE_BYTES);
                }
                let is_done = read.write(machine.store(), slice, PIECE_BYTES, piece);
                if is_done || PIECE_BYTES <= piece.len() {
                    let bytes = std::mem::take(piece);
                    say(Said::Notice { shard, notice: PieceNotice::Piece { id, bytes } });
                    *credit -= 1;
                    if is_done {
                        self.end(machine, id);
                        return say(Said::Notice { shard, notice: PieceNotice::End { id, result: Ok(()) } });
                    }
                    if *credit == 0 {
                        *parked_at = Some(Instant::now());
                        return;
                    }
                }
            }
        }
        self.ready.insert(id);
    }

    /// Takes the read that is next out of those that are ready.
    fn take_next(&mut self) -> Option<AnswerId> {
        self.is_oldests = !self.is_oldests;
        let first = self.ready.first().copied()?;
        if self.is_oldests {
            self.ready.remove(&first);
            return Some(first);
        }
        let behind = (Bound::Excluded(self.last), Bound::Unbounded);
        self.last = self.ready.range(behind).next().copied().unwrap_or(first);
        self.ready.remove(&self.last);
        Some(self.last)
    }

    /// Ends a read that holds what others need, if there is one.
    pub(super) fn relieve(&mut self, machine: &mut Machine, say: impl FnMut(Said)) {
        if self.reads.is_empty() {
            return;
        }
        let held_bytes = machine.store().history_held_bytes();
        let now = Instant::now();
        let slowest = if self.history_bytes_max < held_bytes {
            // None: it is the checkpoint that holds it.
            let oldest = machine.store().oldest_pin();
            self.reads
                .iter()
                .find(|(_, reading)| oldest.is_some() && reading.read.pinned() == oldest)
                .map(|(id, _)| *id)
        } else if self.waiting.front().is_some_and(|(_, since)| PATIENCE <= now.duration_since(*since)) {
            let parked = self.reads.iter().filter_map(|(id, reading)| match reading.stage {
                Stage::Pieces { parked_at, .. } if 0 < reading.sort_bytes => Some((parked_at?, *id)),
                _ => None,
            });
            parked.min().filter(|(since, _)| PATIENCE <= now.duration_since(*since)).map(|(_, id)| id)
        } else {
            None
        };
        if let Some(id) = slowest {
            self.refuse(machine, id, Refusal::TooSlow, say);
            self.ended += 1;
        }
        if 0 < self.ended && self.logged_at.is_none_or(|at| LOG_PAUSE <= now.duration_since(at)) {
            tracing::warn!(
                ended = self.ended,
                pinned_history_bytes = held_bytes,
                pinned_history_bytes_max = self.history_bytes_max,
                sort_bytes = self.sort_bytes,
                "lists whose clients read too slowly were ended: they held compacted history, or memory of sorts, \
                 that others need (--pinned-history-bytes)"
            );
            self.ended = 0;
            self.logged_at = Some(now);
        }
    }

    fn refuse(&mut self, machine: &mut Machine, id: AnswerId, refusal: Refusal, mut say: impl FnMut(Said)) {
        match self.end(machine, id) {
            Some((_, Stage::Pieces { shard, .. })) => {
                say(Said::Notice { shard, notice: PieceNotice::End { id, result: Err(refusal) } });
            }
            Some((ticket, _)) => say(Said::Answer { ticket, result: Err(refusal) }),
            None => {}
        }
    }

    /// The state that the reads are of is about to go.
    pub(super) fn end_all(&mut self, machine: &mut Machine, mut say: impl FnMut(Said)) {
        while let Some((&id, _)) = self.reads.first_key_value() {
            self.refuse(machine, id, Refusal::LeaderChanged, &mut say);
        }
        self.ready.clear();
    }
}

fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
