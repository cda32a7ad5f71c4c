//! The feed of hubs whose store is elsewhere: watches at a member, one for each range, told to all who asked for it.
//!
//! ```text
//! hubs ── orders ──► RemoteFeed ── trunk: one stream, a watch a range ──────► member
//!      ◄─ notices ──            ── readers: a stream for what lies behind ──► member
//! ```
//!
//! A hub wants to know where its store stands, and that all is told up to there. Watches of one stream come each at its
//! own pace, so what they say is *held* until the member has answered a progress request: all that was to be said up to
//! that revision has come then. This moment is a *barrier*; what is held is handed out, range by range, and orders are
//! answered. A subscription is answered by the first barrier behind its watch's creation, and not before the feed stands at the
//! order's *floor*, the revision that was committed when its client asked.
//!
//! History is read by a watch of its own, one a shard at a time, until that stands where the feed stands.
//!
//! A broken trunk is opened anew and goes on behind the last barrier. What cannot be gone on with ends all: the members
//! are others or stand at an older revision, have compacted what was still to be told, have taken the right away, or
//! say what cannot be. Then everything is forgotten, and all watches of all shards are to end (`Act::Renew`); their
//! clients know up to where they were told.
//!
//! Invariants: `current` never goes back but by a renewal; what is held is behind `current`; each order is answered once, in
//! its shard's order, history apart.
//! Bounds: `HELD_BYTES_MAX` of what is held, beyond which it is thrown away and read as history; a reader's events by
//! `has_room`; orders by the hubs.
//! Cost: an event one list, and one more for each shard that wants it.
//! Compatibility: a member answers progress requests in the order of its events. etcd does from 3.4.25 and 3.5.8 on.

use std::collections::{BTreeMap, VecDeque};

use super::{Batch, CatchUp, Event, Notice, Order, Received, Token, WatchRange};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::watch_request::RequestUnion;

/// Bytes of events that wait for a barrier.
const HELD_BYTES_MAX: usize = 32 << 20;

/// Bytes of events that a reader has before it is read no further.
const READ_BYTES_MAX: usize = 4 << 20;

/// Bytes of a slice of history.
const SLICE_BYTES: usize = 256 << 10;

/// What an event costs besides its bytes.
const EVENT_BYTES: usize = 128;

/// A progress request is made again after so long without an answer, and each time after twice as long.
const ASK_PAUSE_MS: u64 = 20;
const ASK_PAUSE_MAX_MS: u64 = 1_000;

/// Where the member has not come far enough, it is asked again after this.
const BEHIND_PAUSE_MS: u64 = 10;

/// Barriers while nothing happens, so that a trunk that breaks goes on where the members still have history.
const REFRESH_MS: u64 = 5_000;

/// Between the end of a stream and the next one.
const OPEN_PAUSE_MS: u64 = 100;

/// How long an order waits for its floor.
const FLOOR_PATIENCE_MS: u64 = 5_000;

/// A stream that brings nobody further for so long is given up for another.
const STUCK_MS: u64 = 20_000;

/// A reader that nobody asks any more.
const IDLE_MS: u64 = 1_000;

const COMPACTED: &str =
    "etcdserver: the members have compacted what the watches of this proxy had still to be told";
const OTHERS: &str = "etcdserver: the members behind this proxy belong to another cluster than before";
const OLDER: &str = "etcdserver: the members behind this proxy stand at an older revision than its watches";
const IMPOSSIBLE: &str = "etcdserver: a member behind this proxy has told its watches what cannot be";

/// What the feed wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// A watch stream to a member, under this number.
    Open {
        stream: u64,
    },
    Send {
        stream: u64,
        request: pb::WatchRequest,
    },
    Close {
        stream: u64,
    },
    /// What is committed, to be told by `on_present`.
    AskPresent,
    Tell {
        shard: u16,
        notice: Notice,
    },
    /// All watches of all shards end with this word. Orders from before, and their notices, are void.
    Renew {
        reason: String,
    },
}

/// Who has answered last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answerer {
    pub cluster: u64,
    pub member: u64,
    pub term: u64,
}

/// A range that somebody has subscribed.
#[derive(Debug)]
struct Watched {
    /// Subscriptions by shard, plain and with the previous version.
    counts: Vec<[u32; 2]>,
    /// The watch on the trunk; 0: there is none.
    id: i64,
    previous: bool,
    /// The barrier behind which it was created, if it is.
    live_since: Option<u64>,
    /// No barrier has passed since it was created for the first time, so it may begin anywhere.
    is_new: bool,
    created_at: i64,
    /// Up to here it repeats what was told.
    repeats: i64,
    held: Vec<Event>,
    /// More of its last revision is to come.
    is_cut: bool,
}

impl Watched {
    fn wants_previous(&self) -> bool {
        self.counts.iter().any(|[_, previous]| 0 < *previous)
    }

    fn is_wanted(&self) -> bool {
        self.counts.iter().any(|counts| *counts != [0, 0])
    }
}

/// An order that waits for a barrier.
#[derive(Debug)]
struct Waiting {
    order: Order,
    floor: i64,
    /// Barriers before it came, and when it did.
    barriers: u64,
    since_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Opened not before this moment.
    Closed {
        until_ms: u64,
    },
    Opening(u64),
    Open(u64),
}

impl Line {
    fn number(self) -> Option<u64> {
        match self {
            Self::Closed { .. } => None,
            Self::Opening(stream) | Self::Open(stream) => Some(stream),
        }
    }
}

/// Progress requests on one stream: when the last was made, and how long its answer may take.
#[derive(Debug, Default)]
struct Asking {
    under_way: Option<(u64, u64)>,
}

impl Asking {
    /// Whether to ask now.
    fn begin(&mut self, now_ms: u64) -> bool {
        let pause_ms = match self.under_way {
            None => ASK_PAUSE_MS,
            Some((asked_ms, pause_ms)) if asked_ms + pause_ms <= now_ms => {
                (2 * pause_ms).min(ASK_PAUSE_MAX_MS)
            }
            Some(_) => return false,
        };
        self.under_way = Some((now_ms, pause_ms));
        true
    }
}

/// A shard's watch of history.
#[derive(Debug)]
struct Reader {
    line: Line,
    range: WatchRange,
    previous: bool,
    /// The first revision that was not handed out.
    next: i64,
    is_created: bool,
    events: VecDeque<Event>,
    bytes: usize,
    is_cut: bool,
    /// Everything up to here has come.
    through: i64,
    compacted: Option<i64>,
    asking: Asking,
    order: Option<Token>,
    /// When its last order came, or was answered.
    since_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct RemoteFeed {
    shards: usize,
    now_ms: u64,
    /// Everything that is subscribed has been handed out up to here.
    current: i64,
    barriers: u64,
    barrier_ms: u64,
    /// When the trunk was last known to be good for something, or had nothing to do.
    good_ms: u64,
    watched: BTreeMap<WatchRange, Watched>,
    by_id: BTreeMap<i64, WatchRange>,
    id_next: i64,
    held_bytes: usize,
    /// There was too much to hold: shards read what lies between two barriers as history.
    is_overfull: bool,
    queues: Vec<VecDeque<Waiting>>,
    trunk: Line,
    asking: Asking,
    /// What `current` was when it was asked what is committed.
    present_floor: i64,
    readers: Vec<Option<Reader>>,
    stream_next: u64,
    answerer: Answerer,
    acts: VecDeque<Act>,
}

impl RemoteFeed {
    /// A feed for so many shards.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self {
            shards,
            now_ms: 0,
            current: 0,
            barriers: 0,
            barrier_ms: 0,
            good_ms: 0,
            watched: BTreeMap::new(),
            by_id: BTreeMap::new(),
            id_next: 1,
            held_bytes: 0,
            is_overfull: false,
            queues: (0..shards).map(|_| VecDeque::new()).collect(),
            trunk: Line::Closed { until_ms: 0 },
            asking: Asking::default(),
            present_floor: 0,
            readers: (0..shards).map(|_| None).collect(),
            stream_next: 1,
            answerer: Answerer::default(),
            acts: VecDeque::new(),
        }
    }

    /// What to do next. To be called until `None` after any other call.
    pub fn take_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    #[must_use]
    pub fn answerer(&self) -> Answerer {
        self.answerer
    }

    /// Ranges that are watched at the member.
    #[must_use]
    pub fn ranges_count(&self) -> usize {
        self.watched.len()
    }

    /// Whether something waits for time to pass.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.wants_barrier() || self.readers.iter().flatten().any(|reader| reader.order.is_some())
    }

    /// Whether more may be read of this stream now.
    #[must_use]
    pub fn has_room(&self, stream: u64) -> bool {
        let reader = self.readers.iter().flatten().find(|reader| reader.line.number() == Some(stream));
        reader.is_none_or(|reader| reader.bytes < READ_BYTES_MAX)
    }

    /// An order of a shard, whose answer may not be older than `floor`.
    pub fn on_order(&mut self, shard: u16, order: Order, floor: i64) {
        match order {
            Order::CatchUp(order) => return self.on_catch_up(shard, order),
            Order::Subscribe { ref range, previous, .. } => self.subscribe(shard, range, previous),
            Order::Unsubscribe { .. } | Order::Ask { .. } => {}
        }
        let waiting = Waiting { order, floor, barriers: self.barriers, since_ms: self.now_ms };
        self.queues[usize::from(shard)].push_back(waiting);
        self.settle();
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for shard in 0..self.shards {
            self.settle_reader(shard);
        }
        self.settle();
    }

    /// Ends everything for this reason.
    pub fn give_up(&mut self, reason: &str) {
        self.renew(reason);
    }

    /// A stream has reached a member.
    pub fn on_opened(&mut self, stream: u64) {
        if self.trunk == Line::Opening(stream) {
            self.trunk = Line::Open(stream);
            self.good_ms = self.now_ms;
            self.asking = Asking::default();
            self.present_floor = self.current;
            self.acts.push_back(Act::AskPresent);
            let ranges: Vec<WatchRange> = self.watched.keys().cloned().collect();
            ranges.iter().for_each(|range| self.create(range));
            return self.settle();
        }
        let Some(shard) = self.reader_of(stream) else { return };
        let Some(reader) = &mut self.readers[shard] else { return };
        reader.line = Line::Open(stream);
        let request = create(&reader.range, 1, reader.next, reader.previous);
        self.acts.push_back(Act::Send { stream, request });
    }

    /// A stream has ended, or could not be opened.
    pub fn on_ended(&mut self, stream: u64) {
        let closed = Line::Closed { until_ms: self.now_ms + OPEN_PAUSE_MS };
        if self.trunk.number() == Some(stream) {
            self.trunk = closed;
            self.by_id.clear();
            for watched in self.watched.values_mut() {
                (watched.id, watched.live_since) = (0, None);
                watched.held.clear();
                watched.is_cut = false;
            }
            self.held_bytes = 0;
            self.is_overfull = false;
        } else if let Some(shard) = self.reader_of(stream)
            && let Some(reader) = &mut self.readers[shard]
        {
            reader.begin(closed);
        }
    }

    /// What is committed, as a member has said that was asked behind the opening of the trunk.
    pub fn on_present(&mut self, revision: i64) {
        if revision < self.present_floor {
            self.renew(OLDER);
        }
    }

    /// A member has said something on a stream.
    pub fn on_received(&mut self, stream: u64, received: Received) {
        let is_of_trunk = self.trunk == Line::Open(stream);
        let reader = self.reader_of(stream);
        if !is_of_trunk && reader.is_none() {
            return;
        }
        let cluster = received.header.cluster_id;
        if self.answerer.cluster != 0 && cluster != self.answerer.cluster {
            return self.renew(OTHERS);
        }
        let pb::ResponseHeader { member_id: member, raft_term: term, .. } = received.header;
        self.answerer = Answerer { cluster, member, term };
        match reader {
            Some(shard) => self.on_history(shard, received),
            None => self.on_news(received),
        }
    }
}

impl RemoteFeed {
    fn stream(&mut self) -> u64 {
        let stream = self.stream_next;
        self.stream_next += 1;
        self.acts.push_back(Act::Open { stream });
        stream
    }

    fn tell(&mut self, shard: usize, notice: Notice) {
        let shard = u16::try_from(shard).expect("shards are few");
        self.acts.push_back(Act::Tell { shard, notice });
    }

    /// Ends everything.
    fn renew(&mut self, reason: &str) {
        let streams = self.readers.iter().flatten().filter_map(|reader| reader.line.number());
        let streams: Vec<u64> = streams.chain(self.trunk.number()).collect();
        let kept = std::mem::take(&mut self.acts);
        let Self { shards, now_ms, stream_next, .. } = *self;
        *self = Self {
            now_ms,
            barrier_ms: now_ms,
            good_ms: now_ms,
            stream_next,
            acts: kept,
            trunk: Line::Closed { until_ms: now_ms + OPEN_PAUSE_MS },
            ..Self::new(shards)
        };
        self.acts.extend(streams.into_iter().map(|stream| Act::Close { stream }));
        self.acts.push_back(Act::Renew { reason: reason.to_owned() });
    }

    // The trunk.

    fn subscribe(&mut self, shard: u16, range: &WatchRange, previous: bool) {
        let shards = self.shards;
        if self.watched.is_empty() {
            self.good_ms = self.now_ms;
        }
        let watched = self.watched.entry(range.clone()).or_insert_with(|| Watched {
            counts: vec![[0, 0]; shards],
            id: 0,
            previous: false,
            live_since: None,
            is_new: true,
            created_at: 0,
            repeats: 0,
            held: Vec::new(),
            is_cut: false,
        });
        watched.counts[usize::from(shard)][usize::from(previous)] += 1;
        if watched.id == 0 || (previous && !watched.previous) {
            self.create(&range.clone());
        }
    }

    fn unsubscribe(&mut self, shard: usize, range: &WatchRange, previous: bool) {
        let watched = self.watched.get_mut(range).expect("only what is subscribed is taken back");
        watched.counts[shard][usize::from(previous)] -= 1;
        if !watched.is_wanted() {
            self.end_watch(range);
            self.watched.remove(range);
        }
    }

    /// Ends the range's watch on the trunk, if there is one, and forgets what it has said.
    fn end_watch(&mut self, range: &WatchRange) {
        let watched = self.watched.get_mut(range).expect("its caller found it");
        self.held_bytes -= bytes_of(&watched.held);
        watched.held.clear();
        watched.is_cut = false;
        let id = std::mem::take(&mut watched.id);
        if id != 0 {
            self.by_id.remove(&id);
            let cancel = pb::WatchCancelRequest { watch_id: id };
            self.send(RequestUnion::CancelRequest(cancel));
        }
    }

    /// Watches a range from the last barrier on, or from now on if nobody waits for what was before. From behind the
    /// barrier would be from the future, and a member does not answer progress requests before that has come.
    fn create(&mut self, range: &WatchRange) {
        let Line::Open(stream) = self.trunk else { return };
        self.end_watch(range);
        let id = self.id_next;
        self.id_next += 1;
        let current = self.current;
        let watched = self.watched.get_mut(range).expect("its caller found it");
        watched.id = id;
        watched.previous = watched.wants_previous();
        watched.live_since = None;
        watched.repeats = if watched.is_new { 0 } else { current };
        let request = create(range, id, watched.repeats, watched.previous);
        self.by_id.insert(id, range.clone());
        self.acts.push_back(Act::Send { stream, request });
    }

    fn send(&mut self, request_union: RequestUnion) {
        if let Line::Open(stream) = self.trunk {
            let request = pb::WatchRequest { request_union: Some(request_union) };
            self.acts.push_back(Act::Send { stream, request });
        }
    }

    fn on_news(&mut self, received: Received) {
        let Received { header, watch_id, created, canceled, compact_revision, .. } = &received;
        if *canceled {
            // One that was not asked for is over, whatever was.
            let is_ours = *created || self.by_id.contains_key(watch_id);
            return match (is_ours, *compact_revision) {
                (false, _) => {}
                (true, 0) => self.renew(&received.cancel_reason),
                (true, _) => self.renew(COMPACTED),
            };
        }
        let Some(range) = self.by_id.get(watch_id) else {
            let is_progress = *watch_id == -1 && !created && received.events.is_empty();
            if is_progress {
                self.on_progress(header.revision);
            }
            return;
        };
        let watched = self.watched.get_mut(range).expect("a watch has its range");
        if *created {
            watched.live_since = Some(self.barriers);
            watched.created_at = header.revision;
            return self.settle();
        }
        let mut events = received.events;
        events.retain(|event| !(0..=watched.repeats).contains(&event.revision));
        let mut last = watched.held.last().map_or(self.current, |event| event.revision - 1);
        for event in &events {
            if event.revision <= last || !range.keys().contains(&event.key) {
                return self.renew(IMPOSSIBLE);
            }
            last = event.revision - 1;
        }
        watched.is_cut = received.fragment;
        if !self.is_overfull {
            self.held_bytes += bytes_of(&events);
            watched.held.extend(events);
            if HELD_BYTES_MAX < self.held_bytes {
                self.throw_away();
            }
        }
        self.settle();
    }

    /// There is too much to hold.
    fn throw_away(&mut self) {
        self.is_overfull = true;
        self.held_bytes = 0;
        self.watched.values_mut().for_each(|watched| watched.held = Vec::new());
    }

    /// The member has said everything up to a revision.
    fn on_progress(&mut self, revision: i64) {
        self.asking.under_way = None;
        // What a watch has said that is not known to be created may come behind this.
        let is_whole = |watched: &Watched| watched.live_since.is_some() && !watched.is_cut;
        if self.current <= revision && self.watched.values().all(is_whole) {
            self.on_barrier(revision);
        }
        // What was only not far enough is not asked at once.
        let is_behind = revision < self.current || self.queues.iter().flatten().any(|of| revision < of.floor);
        if is_behind {
            self.asking.under_way = Some((self.now_ms, BEHIND_PAUSE_MS));
        }
        self.settle();
        for shard in 0..self.shards {
            self.settle_reader(shard);
        }
    }

    fn on_barrier(&mut self, revision: i64) {
        let after = std::mem::replace(&mut self.current, revision);
        self.barriers += 1;
        (self.barrier_ms, self.good_ms) = (self.now_ms, self.now_ms);
        let mut is_told = vec![false; self.shards];
        let mut parts = Vec::new();
        let is_overfull = std::mem::take(&mut self.is_overfull);
        for (range, watched) in &mut self.watched {
            watched.is_new &= watched.live_since.is_none();
            let behind = watched.held.partition_point(|event| event.revision <= revision);
            let kept = watched.held.split_off(behind);
            let events = std::mem::replace(&mut watched.held, kept);
            self.held_bytes -= bytes_of(&events);
            let wanting = (0..).zip(&watched.counts).filter(|(_, counts)| **counts != [0, 0]);
            for (shard, _) in wanting {
                is_told[shard] |= is_overfull || !events.is_empty();
                if !events.is_empty() {
                    let batch = Batch { after, through: revision, events: events.clone() };
                    parts.push((shard, Notice::Part { range: range.clone(), batch }));
                }
            }
        }
        if is_overfull {
            parts.clear();
        }
        for (shard, notice) in parts {
            self.tell(shard, notice);
        }
        for shard in (0..self.shards).filter(|shard| is_told[*shard]) {
            self.tell(
                shard,
                match is_overfull {
                    true => Notice::Jumped { from: after, current: revision },
                    false => Notice::Batch(Batch { after, through: revision, events: Vec::new() }),
                },
            );
        }
    }

    /// Whether the member is to be asked how far it has come.
    fn wants_barrier(&self) -> bool {
        !self.watched.is_empty()
            && (self.is_overfull
                || 0 < self.held_bytes
                || self.barrier_ms + REFRESH_MS <= self.now_ms
                || self.queues.iter().any(|queue| !queue.is_empty()))
    }

    /// Answers what can be answered, and asks for what is missing.
    fn settle(&mut self) {
        for shard in 0..self.shards {
            while let Some(notice) = self.answer_next(shard) {
                self.tell(shard, notice);
            }
        }
        if self.watched.is_empty() {
            return;
        }
        match self.trunk {
            Line::Closed { until_ms } if until_ms <= self.now_ms => {
                self.trunk = Line::Opening(self.stream());
            }
            Line::Closed { .. } | Line::Opening(_) => {}
            Line::Open(stream) if self.good_ms + STUCK_MS <= self.now_ms => {
                self.acts.push_back(Act::Close { stream });
                self.on_ended(stream);
            }
            Line::Open(_) => {
                let is_live = self.watched.values().all(|watched| watched.live_since.is_some());
                if is_live && self.wants_barrier() && self.asking.begin(self.now_ms) {
                    self.send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
                }
            }
        }
    }

    /// The answer to the shard's first order, if it can be given.
    fn answer_next(&mut self, shard: usize) -> Option<Notice> {
        let waiting = self.queues[shard].front()?;
        let is_patient = self.now_ms < waiting.since_ms + FLOOR_PATIENCE_MS;
        let is_far_enough = waiting.floor <= self.current || !is_patient;
        let current = self.current;
        let may = match &waiting.order {
            Order::Unsubscribe { .. } => true,
            Order::Ask { .. } => {
                self.watched.is_empty() || (waiting.barriers < self.barriers && is_far_enough)
            }
            Order::Subscribe { range, .. } => {
                let watched = self.watched.get(range).expect("it is subscribed");
                let since = watched.live_since.map(|since| since.max(waiting.barriers));
                since.is_some_and(|since| since < self.barriers)
                    && is_far_enough
                    && watched.created_at <= current
            }
            Order::CatchUp(_) => unreachable!("history has a reader"),
        };
        if !may {
            return None;
        }
        match self.queues[shard].pop_front()?.order {
            Order::Unsubscribe { token, range, previous } => {
                self.unsubscribe(shard, &range, previous);
                Some(Notice::Unsubscribed { token, current })
            }
            Order::Ask { token } => Some(Notice::Standing { token, current }),
            Order::Subscribe { token, .. } => Some(Notice::Subscribed { token, current, compacted: 0 }),
            Order::CatchUp(_) => unreachable!("history has a reader"),
        }
    }

    // History.

    fn reader_of(&self, stream: u64) -> Option<usize> {
        let is_its = |reader: &Option<Reader>| {
            reader.as_ref().is_some_and(|reader| reader.line.number() == Some(stream))
        };
        self.readers.iter().position(is_its)
    }

    fn on_catch_up(&mut self, shard: u16, order: CatchUp) {
        let CatchUp { token, from, ranges, .. } = order;
        let shard = usize::from(shard);
        let previous = ranges.iter().any(|(_, previous)| *previous);
        let (range, _) = ranges.into_iter().next().expect("history is read for somebody");
        let goes_on = self.readers[shard].as_ref().is_some_and(|reader| {
            reader.range == range && reader.next == from && (reader.previous || !previous)
        });
        if !goes_on {
            self.close_reader(shard);
            let line = Line::Opening(self.stream());
            self.readers[shard] = Some(Reader {
                line,
                range,
                previous,
                next: from,
                is_created: false,
                events: VecDeque::new(),
                bytes: 0,
                is_cut: false,
                through: 0,
                compacted: None,
                asking: Asking::default(),
                order: None,
                since_ms: 0,
            });
        }
        let reader = self.readers[shard].as_mut().expect("it is there by now");
        assert!(reader.order.is_none(), "a hub reads one slice at a time");
        reader.order = Some(token);
        reader.since_ms = self.now_ms;
        self.settle_reader(shard);
    }

    fn close_reader(&mut self, shard: usize) {
        if let Some(stream) = self.readers[shard].take().and_then(|reader| reader.line.number()) {
            self.acts.push_back(Act::Close { stream });
        }
    }

    fn on_history(&mut self, shard: usize, received: Received) {
        let Some(reader) = &mut self.readers[shard] else { return };
        if received.canceled {
            match received.compact_revision {
                0 => return self.renew(&received.cancel_reason),
                // Or else it would be asked for again and again.
                compacted if compacted <= reader.next => return self.renew(IMPOSSIBLE),
                compacted => reader.compacted = Some(compacted),
            }
        } else if received.created {
            reader.is_created = true;
        } else if received.events.is_empty() {
            reader.asking.under_way = None;
            if received.watch_id == -1 && !reader.is_cut {
                reader.through = reader.through.max(received.header.revision);
                if reader.through < self.current {
                    reader.asking.under_way = Some((self.now_ms, BEHIND_PAUSE_MS));
                }
            }
        } else {
            let mut last = reader.events.back().map_or(reader.next, |event| event.revision);
            for event in &received.events {
                if event.revision < last || !reader.range.keys().contains(&event.key) {
                    return self.renew(IMPOSSIBLE);
                }
                last = event.revision;
            }
            reader.bytes += bytes_of(&received.events);
            reader.is_cut = received.fragment;
            let whole = last - i64::from(reader.is_cut);
            reader.through = reader.through.max(whole);
            reader.events.extend(received.events);
        }
        self.settle_reader(shard);
    }

    /// Answers a reader's order if it can be, and asks for what is missing.
    fn settle_reader(&mut self, shard: usize) {
        let (now_ms, current) = (self.now_ms, self.current);
        let Some(reader) = &mut self.readers[shard] else { return };
        let Some(token) = reader.order else {
            if reader.since_ms + IDLE_MS <= now_ms {
                self.close_reader(shard);
            }
            return;
        };
        let is_at_present = current <= reader.through;
        let has_slice = SLICE_BYTES <= reader.bytes && reader.next <= reader.through;
        let is_last = reader.compacted.is_some() && reader.next <= reader.through;
        if is_at_present || has_slice || is_last {
            let through = if is_at_present { current } else { reader.through };
            let batch = reader.take(through);
            reader.order = None;
            reader.since_ms = now_ms;
            if is_at_present {
                self.close_reader(shard);
            }
            return self.tell(shard, Notice::CaughtUp { token, batch, current });
        }
        if let Some(compacted) = reader.compacted {
            self.close_reader(shard);
            return self.tell(shard, Notice::Overtaken { token, compacted });
        }
        if let Some(stream) = reader.line.number().filter(|_| reader.since_ms + STUCK_MS <= now_ms) {
            reader.begin(Line::Closed { until_ms: now_ms });
            reader.since_ms = now_ms;
            self.acts.push_back(Act::Close { stream });
            return;
        }
        match reader.line {
            Line::Closed { until_ms } if until_ms <= now_ms => {
                let line = Line::Opening(self.stream());
                self.readers[shard].as_mut().expect("it is there").begin(line);
            }
            Line::Open(stream) if reader.is_created && reader.asking.begin(now_ms) => {
                let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let request = pb::WatchRequest { request_union: Some(progress) };
                self.acts.push_back(Act::Send { stream, request });
            }
            _ => {}
        }
    }
}

impl Reader {
    /// Begins anew behind what was handed out.
    fn begin(&mut self, line: Line) {
        self.line = line;
        self.is_created = false;
        self.events.clear();
        (self.bytes, self.is_cut, self.through) = (0, false, 0);
        self.compacted = None;
        self.asking = Asking::default();
    }

    /// Hands out what there is up to a revision.
    fn take(&mut self, through: i64) -> Batch {
        let count = self.events.partition_point(|event| event.revision <= through);
        let events: Vec<Event> = self.events.drain(..count).collect();
        self.bytes -= bytes_of(&events);
        let after = self.next - 1;
        self.next = through + 1;
        Batch { after, through, events }
    }
}

fn create(range: &WatchRange, watch_id: i64, start_revision: i64, prev_kv: bool) -> pb::WatchRequest {
    let (key, range_end) = range.as_request();
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        start_revision,
        prev_kv,
        watch_id,
        fragment: true,
        ..Default::default()
    };
    pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

fn bytes_of(events: &[Event]) -> usize {
    events.iter().map(|event| EVENT_BYTES + event.body.len() + event.previous.len()).sum()
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
