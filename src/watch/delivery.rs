//! A batch's way to the watchers that it concerns, one response after the other.
//!
//! Whole revisions make a response; it is cut where it gets long, and sent in fragments where the client can put
//! them together again. All of this stops between any two events and goes on later: a batch may have a million
//! events, and so may one revision. The events of a long response are joined in slices before it is sent (`Joined`),
//! once for all watchers that want the same.
//!
//! Invariants: a watcher is at one place of its group's events; what it has got lies before; a response that is
//! begun in fragments is ended, unless its stream is closed.

use bytes::Bytes;

use super::response::Events;
use super::watcher::{Wants, Watcher, WatcherKey};
use super::wire::{event_field_len, frame_len, put_event_head};
use super::{Batch, Event, Response, Sink, StreamId};
use crate::types::Slice;
use crate::types::limits::SLICE_NS;

/// How long responses get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseLimits {
    /// Revisions of one response at most.
    pub(super) revisions_max: usize,
    /// Bytes of events in one response, unless a single revision has more.
    pub(super) events_bytes_max: usize,
    /// From this size on a response is sent in fragments to those who asked for them.
    pub(super) fragment_bytes: usize,
    /// From this size on the events of a response are joined in slices, once for all who get the same.
    pub(super) joined_bytes_min: usize,
    /// The same for events that are looked at, of which few may be wanted.
    pub(super) joined_events_min: usize,
}

impl ResponseLimits {
    /// A thousand revisions are etcd's bound; it has none for bytes.
    pub(super) fn new(fragment_bytes: usize) -> Self {
        Self {
            revisions_max: 1_000,
            events_bytes_max: 1 << 20,
            fragment_bytes,
            joined_bytes_min: 256 << 10,
            joined_events_min: 4_096,
        }
    }
}

/// The largest `ResponseHeader` with its tag and length: four numbers of at most ten bytes.
const HEADER_BYTES_MAX: usize = 2 + 4 * 11;

/// Bytes of one piece of joined events. Outboxes share pieces of this size.
const PIECE_BYTES: usize = 128 << 10;

/// Price of an event that is looked at.
const EVENT_NS: u64 = 10;

/// Price of a KiB that is sent, as far as it holds up the executor behind the hub's turn: the frame and the socket.
const SENT_KIB_NS: u64 = 200;

/// Price of a piece that is shared.
const PIECE_NS: u64 = 100;

/// What `header.revision` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderRevision {
    /// The last event's: the watcher is told what happens as it happens.
    LastEvent,
    /// Where the store stood when the history was read.
    Current(i64),
}

/// Whom a batch is for.
#[derive(Debug)]
pub(super) enum Recipients {
    /// All that are synced: it has just been applied.
    Synced,
    /// All of this group that are synced.
    Part { group: u32 },
    /// Those behind for whom the history was read, with their groups, by group.
    Cohort { members: Vec<(u32, WatcherKey)>, current: i64 },
}

/// A batch that is being delivered.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) batch: Batch,
    pub(super) recipients: Recipients,
    /// Events that were held against the groups.
    pub(super) matched: usize,
    /// The next one of the touched groups, or of the cohort's members.
    pub(super) next: usize,
    /// The group at hand, once its events are in `of_group`.
    pub(super) group: Option<u32>,
    pub(super) of_group: Vec<u32>,
    pub(super) at_hand: Option<AtHand>,
    cut: Option<Cut>,
    joined: Option<Joined>,
}

/// The watcher that is being told.
#[derive(Debug, Clone, Copy)]
pub(super) struct AtHand {
    pub(super) key: WatcherKey,
    pub(super) stream: StreamId,
    watch_id: i64,
    wants: Wants,
    /// The first event of its group that it has not got.
    from: usize,
    has_room: bool,
    /// How far the response is that is sent in fragments.
    part: Option<Part>,
    pub(super) has_got_events: bool,
}

/// From the first wanted event of a response to behind the last: what stands before and behind it may be a million
/// that its watcher does not want.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    from: usize,
    end: usize,
}

impl Wanted {
    fn take(&mut self, place: usize) {
        if self.end == 0 {
            self.from = place;
        }
        self.end = place + 1;
    }
}

/// A fragment of a response.
#[derive(Debug, Clone, Copy)]
struct Part {
    end: usize,
    wanted: Wanted,
    /// Events in it, and in those before it.
    count: usize,
    sent: usize,
    /// With everything around the events.
    bytes: usize,
    is_measured: bool,
}

impl Part {
    /// The one that begins at `from`, behind so many events of the same response.
    fn new(from: usize, sent: usize) -> Self {
        Self { end: from, wanted: Wanted::default(), count: 0, sent, bytes: 0, is_measured: false }
    }

    /// Finds its end, as etcd's `sendFragments`: a part takes events until the next one would bring it to the bound,
    /// and at least one. False when the slice is spent before.
    fn measure(
        &mut self,
        of_group: OfGroup<'_>,
        cut: &Cut,
        watch_id: i64,
        fragment_bytes: usize,
        slice: &mut Slice,
    ) -> bool {
        if self.bytes == 0 {
            let frame = Response { fragment: true, watch_id, ..Response::default() };
            self.bytes = HEADER_BYTES_MAX + frame_len(&frame);
        }
        while !self.is_measured {
            if slice.is_spent() {
                return false;
            }
            slice.spend(EVENT_NS);
            let Some(event) = of_group.get(self.end).filter(|_| self.end < cut.end) else {
                self.is_measured = true;
                break;
            };
            if cut.wants.has(event) {
                let bytes = self.bytes + event_field_len(event, cut.wants.previous);
                if 0 < self.count && fragment_bytes <= bytes {
                    self.is_measured = true;
                    break;
                }
                (self.bytes, self.count) = (bytes, self.count + 1);
                self.wanted.take(self.end);
            }
            self.end += 1;
        }
        true
    }
}

/// What came of a watcher's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// It goes on with the next slice.
    NotYet,
    All,
    /// The revision that found no room.
    StoppedAt(i64),
}

impl Delivery {
    pub(super) fn new(batch: Batch, recipients: Recipients, of_group: Vec<u32>) -> Self {
        Self {
            batch,
            recipients,
            matched: 0,
            next: 0,
            group: None,
            of_group,
            at_hand: None,
            cut: None,
            joined: None,
        }
    }

    /// Leaves the group at hand.
    pub(super) fn end_group(&mut self) {
        self.group = None;
        self.of_group.clear();
        self.cut = None;
        self.joined = None;
    }

    /// Begins to tell a watcher of the group at hand.
    pub(super) fn begin(&mut self, key: WatcherKey, watcher: &Watcher) {
        let events = &self.batch.events;
        let from = match self.of_group.first() {
            Some(&first) if events[first as usize].revision < watcher.next => {
                self.of_group.partition_point(|&at| events[at as usize].revision < watcher.next)
            }
            _ => 0,
        };
        self.at_hand = Some(AtHand {
            key,
            stream: watcher.stream,
            watch_id: watcher.watch_id,
            wants: watcher.wants,
            from,
            has_room: false,
            part: None,
            has_got_events: false,
        });
    }

    /// Tells the watcher at hand until the slice is spent. One that `is_alive` no more is only told the rest of a
    /// response that it has got fragments of.
    pub(super) fn tell(
        &mut self,
        limits: &ResponseLimits,
        is_alive: bool,
        slice: &mut Slice,
        sink: &mut impl Sink,
    ) -> Told {
        let header = match self.recipients {
            Recipients::Synced | Recipients::Part { .. } => HeaderRevision::LastEvent,
            Recipients::Cohort { current, .. } => HeaderRevision::Current(current),
        };
        let Self { batch, of_group, at_hand, cut, joined, .. } = self;
        let hand = at_hand.as_mut().expect("a watcher is told that is at hand");
        let of_group = OfGroup { all: &batch.events, chosen: of_group };
        loop {
            if hand.part.is_none() && (!is_alive || hand.from == of_group.chosen.len()) {
                return Told::All;
            }
            if slice.is_spent() {
                return Told::NotYet;
            }
            let cut = match cut {
                Some(cut) if cut.is_for(hand) => cut,
                _ => cut.insert(Cut::new(hand)),
            };
            if !cut.measure(of_group, limits, slice) {
                return Told::NotYet;
            }
            if cut.count == 0 {
                return Told::All;
            }
            if !hand.has_room {
                if !sink.has_room(hand.stream) {
                    return Told::StoppedAt(cut.first);
                }
                hand.has_room = true;
            }
            let mut response = Response {
                watch_id: hand.watch_id,
                revision: match header {
                    HeaderRevision::LastEvent => cut.last,
                    HeaderRevision::Current(current) => current,
                },
                previous: hand.wants.previous,
                ..Response::default()
            };
            let (from, end, count, bytes) = if hand.wants.fragment && 1 < cut.count {
                let part = hand.part.get_or_insert(Part::new(cut.from, 0));
                if !part.measure(of_group, cut, hand.watch_id, limits.fragment_bytes, slice) {
                    return Told::NotYet;
                }
                response.fragment = part.sent + part.count < cut.count;
                (part.wanted.from, part.wanted.end, part.count, part.bytes)
            } else {
                (cut.wanted.from, cut.wanted.end, cut.count, cut.bytes)
            };
            response.events = of_group.events(cut.wants, from, end, count);
            let is_long = limits.joined_bytes_min <= bytes || limits.joined_events_min <= end - from;
            if is_long && 1 < count {
                joined.take_if(|joined| !joined.is_of(cut.wants, from, end));
                let joined = joined.get_or_insert_with(|| Joined::new(cut.wants, from, end));
                if !joined.join(of_group, slice) {
                    return Told::NotYet;
                }
                response.joined = &joined.pieces;
                slice.spend(PIECE_NS * joined.pieces.len() as u64);
            } else {
                slice.spend_bytes(bytes);
            }
            // Connections send a turn's bytes at a time, however much of one response waits for them.
            slice.spend(((bytes as u64 * SENT_KIB_NS) >> 10).min(SLICE_NS / 2));
            sink.push(hand.stream, &response);
            hand.has_got_events = true;
            if response.fragment {
                let (end, sent) = hand.part.map_or((end, 0), |part| (part.end, part.sent + part.count));
                hand.part = Some(Part::new(end, sent));
                continue;
            }
            hand.part = None;
            slice.spend_key();
            hand.has_room = false;
            hand.from = cut.end;
        }
    }
}

/// The events of a batch that concern a group.
#[derive(Debug, Clone, Copy)]
struct OfGroup<'a> {
    all: &'a [Event],
    chosen: &'a [u32],
}

impl<'a> OfGroup<'a> {
    fn get(self, place: usize) -> Option<&'a Event> {
        self.chosen.get(place).map(|&at| &self.all[at as usize])
    }

    fn events(self, wants: Wants, from: usize, end: usize, count: usize) -> Events<'a> {
        Events::new(self.all, &self.chosen[from..end], count, wants.puts, wants.deletes)
    }
}

/// The events of one response: whole revisions, at least one.
#[derive(Debug, Clone, Copy)]
struct Cut {
    wants: Wants,
    from: usize,
    /// Behind the last whole revision.
    end: usize,
    wanted: Wanted,
    /// Events that are wanted.
    count: usize,
    bytes: usize,
    revisions: usize,
    /// Revisions of the first and the last wanted event.
    first: i64,
    last: i64,
    /// The revision that is being measured, from `end` on.
    seen: usize,
    seen_wanted: Wanted,
    seen_count: usize,
    seen_bytes: usize,
    is_measured: bool,
}

impl Cut {
    fn new(hand: &AtHand) -> Self {
        Self {
            wants: hand.wants,
            from: hand.from,
            end: hand.from,
            wanted: Wanted::default(),
            count: 0,
            bytes: 0,
            revisions: 0,
            first: 0,
            last: 0,
            seen: hand.from,
            seen_wanted: Wanted::default(),
            seen_count: 0,
            seen_bytes: 0,
            is_measured: false,
        }
    }

    fn is_for(&self, hand: &AtHand) -> bool {
        self.from == hand.from && self.wants.are_of_events_as(hand.wants)
    }

    /// Finds its end. False when the slice is spent before.
    fn measure(&mut self, of_group: OfGroup<'_>, limits: &ResponseLimits, slice: &mut Slice) -> bool {
        while !self.is_measured {
            if slice.is_spent() {
                return false;
            }
            slice.spend(EVENT_NS);
            let revision = of_group.get(self.end).map(|event| event.revision);
            match of_group.get(self.seen) {
                Some(event) if Some(event.revision) == revision => {
                    if self.wants.has(event) {
                        self.seen_count += 1;
                        self.seen_bytes += event_field_len(event, self.wants.previous);
                        self.seen_wanted.take(self.seen);
                    }
                    self.seen += 1;
                }
                next => self.end_revision(revision, next.is_none(), limits),
            }
        }
        true
    }

    /// The revision behind the last whole one is measured.
    fn end_revision(&mut self, revision: Option<i64>, is_last: bool, limits: &ResponseLimits) {
        let (count, bytes) = (std::mem::take(&mut self.seen_count), std::mem::take(&mut self.seen_bytes));
        let wanted = std::mem::take(&mut self.seen_wanted);
        if let Some(revision) = revision.filter(|_| 0 < count) {
            let is_full =
                self.revisions == limits.revisions_max || limits.events_bytes_max < self.bytes + bytes;
            if 0 < self.count && is_full {
                self.is_measured = true;
                return;
            }
            self.first = if self.count == 0 { revision } else { self.first };
            self.last = revision;
            self.wanted = match self.count {
                0 => wanted,
                _ => Wanted { end: wanted.end, ..self.wanted },
            };
            self.count += count;
            self.bytes += bytes;
            self.revisions += 1;
        }
        self.end = self.seen;
        self.is_measured = is_last;
    }
}

/// The events of a long response, as they are on the wire.
#[derive(Debug)]
struct Joined {
    wants: Wants,
    from: usize,
    end: usize,
    /// The next event.
    next: usize,
    pieces: Vec<Bytes>,
    rest: Vec<u8>,
}

impl Joined {
    fn new(wants: Wants, from: usize, end: usize) -> Self {
        Self { wants, from, end, next: from, pieces: Vec::new(), rest: Vec::new() }
    }

    fn is_of(&self, wants: Wants, from: usize, end: usize) -> bool {
        (self.from, self.end) == (from, end) && self.wants.are_of_events_as(wants)
    }

    /// Joins what is left. False when the slice is spent before.
    fn join(&mut self, of_group: OfGroup<'_>, slice: &mut Slice) -> bool {
        let wants = self.wants;
        while self.next < self.end {
            if slice.is_spent() {
                return false;
            }
            slice.spend(EVENT_NS);
            let event = &of_group.all[of_group.chosen[self.next] as usize];
            self.next += 1;
            if !wants.has(event) {
                continue;
            }
            if self.rest.capacity() == 0 {
                self.rest.reserve_exact(PIECE_BYTES);
            }
            put_event_head(&mut self.rest, event, wants.previous);
            self.put(&event.body, slice);
            if wants.previous {
                self.put(&event.previous, slice);
            }
            if PIECE_BYTES <= self.rest.len() {
                self.end_piece();
            }
        }
        self.end_piece();
        true
    }

    fn put(&mut self, part: &Bytes, slice: &mut Slice) {
        if PIECE_BYTES <= part.len() {
            self.end_piece();
            self.pieces.push(part.clone());
        } else {
            slice.spend_bytes(part.len());
            self.rest.extend_from_slice(part);
        }
    }

    fn end_piece(&mut self) {
        if !self.rest.is_empty() {
            self.pieces.push(std::mem::take(&mut self.rest).into());
        }
    }
}
