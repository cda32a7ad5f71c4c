//! A client shard's watchers: which there are, how far each has come, and what it is told.
//!
//! The shell hands in requests, notices of the store and news of its outboxes; it takes orders for the
//! store, and responses come out through a `Sink`. No request is answered by itself: each makes an
//! order, and its answer is made when the store's notice comes back. Notices arrive in the order of
//! the orders and of the store's changes, so answers leave in the order of the requests, and every
//! header revision tells of a moment at which all earlier changes were delivered.
//!
//! A watcher is *creating* until the store has subscribed it, then *synced* or *behind*. Synced
//! watchers get batches. One that finds no room in its stream's outbox, or that begins in the past, is
//! behind: it keeps a position and nothing else, batches pass it by, and it reads history in slices
//! (`catch_up` says whose turn it is) until a slice reaches the present. A slice's notice stands behind
//! all batches up to the revision it reaches and before all later ones, so at that point the watcher
//! joins the synced ones without gap or repetition. If compaction gets there first it is cancelled.
//! A member that fell behind the log takes another one's checkpoint: its store jumps, and then all
//! synced watchers are behind at once, each where it stood.
//!
//! A notice is carried out in slices (`work`), in the order in which they came (`inbox`): a batch may be for a hundred
//! thousand watchers, or a million events long. `current` moves when all of a batch is delivered. The watchers of a
//! stream that is closed go in slices as well.
//!
//! Invariants: exactly the synced watchers are in their group's list; exactly those behind are in
//! their stream's `behind`, if it is open; `bytes` is what all watchers and reserved ids cost; tokens come back in
//! the order they were given, the outstanding slice's apart.
//! Cost: a change O(log ranges) for each range around it and O(1) for each of their watchers; creating
//! and cancelling O(log watchers); no allocation per change.
//! Compatibility: ids, texts, header revisions and cancellation are etcd's (3.7). Different, and
//! allowed by its contract: the revisions of one batch share a response, which etcd does only while
//! catching up; progress notifications are left out while the outbox is full; memory is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use super::delivery::{Delivery, Recipients, ResponseLimits};
use super::group::Groups;
use super::inbox::Inbox;
use super::stream::{Id, Stream};
use super::unsynced::{Turn, UnsyncedTurns};
use super::watcher::{State, Wants, Watcher, WatcherKey, Watchers};
use super::{Batch, CatchUp, Event, Notice, Order, Response, Sink, StreamId, Token, WatchRange};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::types::Slice;

mod work;

/// The id in answers that belong to no watcher.
const NO_WATCHER: i64 = -1;

// etcd's texts, which clients compare.
const START_NEGATIVE: &str = "etcdserver: mvcc: required revision has been compacted";
const RANGE_EMPTY: &str = "mvcc: watcher range is empty";
const ID_DUPLICATE: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// Ours; etcd takes watchers until its memory is used up.
const TOO_MANY: &str = "etcdserver: this member has no memory left for watchers: cancel watchers, watch a \
                        range in place of many keys, or connect to another member";

/// What a watcher costs besides its keys: its slot, its id, its group and the group's place in the
/// index, here and in the store's feed.
const WATCHER_BYTES: usize = 512;

/// Copies of a watcher's keys: the group's, the index's, the feed's.
const KEY_COPIES: usize = 3;

/// What an id costs that compaction left reserved.
const RESERVED_BYTES: usize = 64;

/// What a hub may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubLimits {
    /// A response of so many bytes or more is split if its watcher asked for fragments:
    /// `--max-request-bytes` and 512 KiB, etcd's bound.
    pub fragment_bytes: usize,
    /// Watchers may cost so much in all; creations beyond it are refused.
    pub watcher_bytes_max: usize,
    /// The store's side tells of each range by itself: a slice of history is for watchers of one.
    pub is_by_range: bool,
}

/// What is to be done when an order's notice comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    /// Say `created`, and start the watcher if it was not cancelled meanwhile.
    Create { stream: StreamId, watch_id: i64, watcher: WatcherKey },
    /// Say `created` and `canceled` at once, with the reason.
    Refuse { stream: StreamId, reason: &'static str },
    /// Say `canceled`, of a watcher or of an id that was `Id::Reserved`; with the reason, if its client did not
    /// ask for it.
    Cancel { stream: StreamId, watch_id: i64, id: Id, reason: &'static str },
    /// Answer a manual progress request if the stream is synced.
    Progress { stream: StreamId },
    /// Notify the watchers that got nothing for a whole interval.
    Interval { stream: StreamId },
    /// Nothing: nobody waits.
    Forget,
}

impl Pending {
    /// The stream whose request is answered by it.
    fn asked_by(self) -> Option<StreamId> {
        match self {
            Self::Create { stream, .. }
            | Self::Refuse { stream, .. }
            | Self::Cancel { stream, .. }
            | Self::Progress { stream } => Some(stream),
            Self::Interval { .. } | Self::Forget => None,
        }
    }
}

/// The slice of history that is on its way.
#[derive(Debug)]
struct HistorySlice {
    token: Token,
    from: i64,
    cohort: Vec<WatcherKey>,
}

/// What a notice makes a hub do.
#[derive(Debug)]
enum Work {
    Deliver(Box<Delivery>),
    /// The store has left out the batches behind `from` up to `current`. The next slot is to be looked at.
    Jump {
        from: i64,
        current: i64,
        slot: u32,
    },
    /// Watchers of the stream that got nothing for a whole interval are notified, behind this id.
    Notify {
        stream: StreamId,
        after: Option<i64>,
    },
}

/// All watch streams of one client shard.
#[derive(Debug)]
pub struct Hub {
    watcher_bytes_max: usize,
    response_limits: ResponseLimits,
    is_by_range: bool,
    streams: BTreeMap<StreamId, Stream>,
    stream_next: u64,
    watchers: Watchers,
    groups: Groups,
    turns: UnsyncedTurns,
    /// The highest revision the store was heard to stand at.
    current: i64,
    bytes: usize,
    token_next: u64,
    orders: VecDeque<Order>,
    /// Orders that found the ring full, the first one last.
    given_back: Vec<Order>,
    /// What waits for notices, in the order of the orders.
    pending: VecDeque<(Token, Pending)>,
    slice: Option<HistorySlice>,
    /// A slice of history has come and is being delivered, so those it is for are not where they say.
    is_cohort_told: bool,
    /// The last order taken was for a slice.
    was_history_last: bool,
    inbox: Inbox,
    /// The notice that is being carried out.
    under_way: Option<Work>,
    /// Closed streams whose watchers are not all gone.
    leaving: VecDeque<(StreamId, Stream)>,
    /// Events of large batches that were delivered.
    given_up: Vec<Vec<Event>>,
    /// Room for the events of one group.
    of_group: Vec<u32>,
}

impl Hub {
    #[must_use]
    pub fn new(limits: HubLimits) -> Self {
        Self {
            watcher_bytes_max: limits.watcher_bytes_max,
            response_limits: ResponseLimits::new(limits.fragment_bytes),
            is_by_range: limits.is_by_range,
            streams: BTreeMap::new(),
            stream_next: 0,
            watchers: Watchers::default(),
            groups: Groups::default(),
            turns: UnsyncedTurns::default(),
            current: 0,
            bytes: 0,
            token_next: 0,
            orders: VecDeque::new(),
            given_back: Vec::new(),
            pending: VecDeque::new(),
            slice: None,
            is_cohort_told: false,
            was_history_last: false,
            inbox: Inbox::default(),
            under_way: None,
            leaving: VecDeque::new(),
            given_up: Vec::new(),
            of_group: Vec::new(),
        }
    }

    /// A hub for a store that has nothing to do with the one before: without streams, and it names no stream as this one
    /// did.
    #[must_use]
    pub fn renewed(&self, limits: HubLimits) -> Self {
        Self { stream_next: self.stream_next, ..Self::new(limits) }
    }

    /// A new stream, without watchers.
    pub fn open(&mut self) -> StreamId {
        let id = StreamId(self.stream_next);
        self.stream_next += 1;
        self.streams.insert(id, Stream::default());
        id
    }

    /// Forgets the stream; nothing is pushed to it any more. Its watchers go in slices.
    pub fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else { return };
        self.turns.remove(stream, &closed);
        self.bytes -= closed.reserved_count * RESERVED_BYTES;
        self.leaving.push_back((stream, closed));
    }

    /// A request of the stream's client. Never answers by itself: every answer waits for a notice.
    pub fn on_request(&mut self, stream: StreamId, request: pb::WatchRequest) {
        if !self.streams.contains_key(&stream) {
            return;
        }
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(stream, &create),
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(stream, cancel.watch_id, ""),
            Some(RequestUnion::ProgressRequest(_)) => self.ask(Pending::Progress { stream }),
            // As etcd: it may be of a later version and mean something there.
            None => {}
        }
    }

    /// A creation that somebody else refuses: it is answered in its turn, as created and canceled.
    pub fn refuse(&mut self, stream: StreamId, reason: &'static str) {
        if self.streams.contains_key(&stream) {
            self.ask(Pending::Refuse { stream, reason });
        }
    }

    /// Ends a watcher for a reason that its client is told. Nothing happens when there is none of this id.
    pub fn revoke(&mut self, stream: StreamId, watch_id: i64, reason: &'static str) {
        if self.streams.contains_key(&stream) {
            self.cancel(stream, watch_id, reason);
        }
    }

    /// The stream's watchers behind an id and their ranges, as many as the slice has time for; at least one, if there
    /// is one.
    #[must_use]
    pub fn ranges(&self, stream: StreamId, after: Option<i64>, slice: &mut Slice) -> Vec<(i64, WatchRange)> {
        let Some(state) = self.streams.get(&stream) else { return Vec::new() };
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for (&watch_id, &id) in state.ids.range((behind, Bound::Unbounded)) {
            slice.spend_key();
            if let Id::Watcher(slot) = id {
                found.push((watch_id, self.groups.range(self.watchers.get(slot).group).clone()));
            }
            if slice.is_spent() && !found.is_empty() {
                break;
            }
        }
        found
    }

    /// Whether the stream has a watcher of this id and range.
    #[must_use]
    pub fn watches(&self, stream: StreamId, watch_id: i64, range: &WatchRange) -> bool {
        let id = self.streams.get(&stream).and_then(|state| state.ids.get(&watch_id));
        matches!(id, Some(Id::Watcher(slot)) if self.groups.range(self.watchers.get(*slot).group) == range)
    }

    /// News from the store, which `work` carries out.
    pub fn on_notice(&mut self, notice: Notice) {
        let left_out = self.inbox.push(notice);
        self.give_up(left_out);
    }

    /// Carries out what is short of a notice; what is left of it is under way then.
    fn begin(&mut self, notice: Notice, sink: &mut impl Sink) {
        match notice {
            Notice::Batch(batch) => self.on_batch(batch),
            Notice::Part { range, batch } => {
                if let Some(group) = self.groups.find(&range) {
                    self.begin_delivery(batch, Recipients::Part { group });
                }
            }
            Notice::Jumped { from, current } => self.under_way = Some(Work::Jump { from, current, slot: 0 }),
            Notice::CaughtUp { token, batch, current } => self.on_caught_up(token, batch, current),
            Notice::Overtaken { token, compacted } => self.on_overtaken(token, compacted, sink),
            Notice::Subscribed { token, current, compacted } => {
                self.note_current(current);
                let Pending::Create { stream, watch_id, watcher } = self.take_pending(token) else {
                    panic!("{token:?} did not subscribe");
                };
                let Some(state) = self.streams.get_mut(&stream) else { return };
                let is_alive = self.watchers.is_alive(watcher);
                if !is_alive {
                    state.on_leaving(0);
                }
                let created = Response { watch_id, revision: current, created: true, ..Response::default() };
                sink.push(stream, &created);
                if is_alive {
                    self.start(watcher.slot, compacted, sink);
                }
            }
            Notice::Unsubscribed { token, current } | Notice::Standing { token, current } => {
                self.note_current(current);
                let pending = self.take_pending(token);
                self.answer(pending, sink);
            }
        }
    }

    /// The stream's outbox, which had refused events, can take some again.
    pub fn on_room(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.is_blocked = false;
            self.turns.rank(stream, state);
        }
    }

    /// The stream's progress interval is over.
    pub fn on_progress_due(&mut self, stream: StreamId) {
        if self.streams.get(&stream).is_some_and(|state| state.notified_count > 0) {
            self.ask(Pending::Interval { stream });
        }
    }

    /// What to send to the store next. To be called until `None` after any other call.
    pub fn next_order(&mut self) -> Option<Order> {
        if let Some(order) = self.given_back.pop() {
            return Some(order);
        }
        // In turns, since either may always have something: a slice may be answered at once, and the
        // queue may be filled faster than the ring takes it.
        if std::mem::take(&mut self.was_history_last)
            && let Some(order) = self.orders.pop_front()
        {
            return Some(order);
        }
        let slice = self.read_history();
        self.was_history_last = slice.is_some();
        slice.or_else(|| self.orders.pop_front())
    }

    /// The order could not be sent. It comes first again; of several the last one given back is first.
    pub fn give_back(&mut self, order: Order) {
        self.given_back.push(order);
    }

    /// Watchers of all streams.
    #[must_use]
    pub fn watchers_count(&self) -> usize {
        self.watchers.len()
    }

    /// Watchers of the stream.
    #[must_use]
    pub fn stream_watchers(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |state| state.ids.len() - state.reserved_count)
    }

    /// Requests of the stream that are not answered yet. Whoever reads requests should wait with the
    /// next one while these are many: they are the only memory that no other bound covers.
    #[must_use]
    pub fn waiting_count(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |state| state.waiting_count)
    }

    /// Watchers that are behind, and how many revisions they have still to be told in all. O(streams).
    #[must_use]
    pub fn behind(&self) -> (u64, u64) {
        let mut sums = (0, 0);
        for from in self.streams.values().flat_map(Stream::behind_from) {
            sums.0 += 1;
            sums.1 += u64::try_from((self.current + 1).saturating_sub(from)).unwrap_or(0);
        }
        sums
    }

    /// What the watchers cost, of `HubLimits::watcher_bytes_max`.
    #[must_use]
    pub fn bytes_count(&self) -> usize {
        self.bytes
    }

    fn create(&mut self, stream: StreamId, request: &pb::WatchCreateRequest) {
        let range = WatchRange::new(request.key.clone(), request.range_end.clone());
        let cost = watcher_cost(&range);
        let state = self.streams.get_mut(&stream).expect("the caller found it");
        let refusal = if request.start_revision < 0 {
            Some(START_NEGATIVE)
        } else if range.keys().is_empty() {
            Some(RANGE_EMPTY)
        } else if request.watch_id != 0 && state.ids.contains_key(&request.watch_id) {
            Some(ID_DUPLICATE)
        } else if self.bytes + cost > self.watcher_bytes_max {
            Some(TOO_MANY)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.ask(Pending::Refuse { stream, reason });
        }
        let watch_id = if request.watch_id == 0 { state.assign_id() } else { request.watch_id };
        let group = self.groups.join(&range);
        let is_filtered = |filter: FilterType| request.filters.contains(&(filter as i32));
        let watcher = self.watchers.insert(Watcher {
            stream,
            watch_id,
            group,
            position: 0,
            next: request.start_revision,
            start: request.start_revision,
            state: State::Creating,
            wants: Wants {
                puts: !is_filtered(FilterType::Noput),
                deletes: !is_filtered(FilterType::Nodelete),
                previous: request.prev_kv,
                fragment: request.fragment,
                progress: request.progress_notify,
            },
            got_events: false,
        });
        state.ids.insert(watch_id, Id::Watcher(watcher.slot));
        self.bytes += cost;
        // The group's copy of the range: the request's would keep the request's buffer alive.
        let range = self.groups.range(group).clone();
        self.order(Pending::Create { stream, watch_id, watcher }, |token| Order::Subscribe {
            token,
            range,
            previous: request.prev_kv,
        });
    }

    fn cancel(&mut self, stream: StreamId, watch_id: i64, reason: &'static str) {
        let state = self.streams.get_mut(&stream).expect("the caller found it");
        let Some(id) = state.ids.remove(&watch_id) else { return };
        let pending = Pending::Cancel { stream, watch_id, id, reason };
        match id {
            Id::Watcher(slot) => {
                let watcher = self.watchers.get(slot);
                let is_complete = watcher.state == State::Synced && watcher.start <= self.current;
                if watcher.state != State::Creating {
                    state.on_leaving(if is_complete { self.current } else { 0 });
                }
                self.drop_watcher(slot, pending);
            }
            Id::Reserved => {
                state.reserved_count -= 1;
                self.bytes -= RESERVED_BYTES;
                self.ask(pending);
            }
        }
    }

    /// Lets a created watcher begin at its start, now that the store stands at `self.current`.
    fn start(&mut self, slot: u32, compacted: i64, sink: &mut impl Sink) {
        let watcher = self.watchers.get_mut(slot);
        let id = watcher.stream;
        let is_past = watcher.start != 0 && watcher.start <= self.current;
        if is_past {
            watcher.state = State::Behind;
        } else {
            watcher.next = watcher.start.max(self.current + 1);
            self.groups.add_synced(slot, &mut self.watchers);
        }
        let watcher = self.watchers.get(slot);
        let state = self.streams.get_mut(&id).expect("a watcher's stream is open");
        state.add(slot, watcher);
        if is_past && watcher.start < compacted {
            return self.cancel_overtaken(slot, compacted, sink);
        }
        self.turns.rank(id, state);
    }

    /// What a standing or unsubscribed store allows to be said.
    fn answer(&mut self, pending: Pending, sink: &mut impl Sink) {
        let current = self.current;
        match pending {
            Pending::Create { .. } => panic!("a subscription was answered as something else"),
            Pending::Forget => {}
            Pending::Refuse { stream, reason } => {
                if self.streams.contains_key(&stream) {
                    let refused = Response {
                        watch_id: NO_WATCHER,
                        revision: current,
                        created: true,
                        canceled: true,
                        cancel_reason: reason,
                        ..Response::default()
                    };
                    sink.push(stream, &refused);
                }
            }
            Pending::Cancel { stream, watch_id, id, reason } => {
                if let Some(state) = self.streams.get_mut(&stream) {
                    if let Id::Watcher(_) = id {
                        state.on_left();
                    }
                    let canceled = Response {
                        watch_id,
                        revision: current,
                        canceled: true,
                        cancel_reason: reason,
                        ..Response::default()
                    };
                    sink.push(stream, &canceled);
                }
            }
            Pending::Progress { stream } => {
                if self.streams.get_mut(&stream).is_some_and(|state| state.is_synced(current)) {
                    let progress =
                        Response { watch_id: NO_WATCHER, revision: current, ..Response::default() };
                    sink.push(stream, &progress);
                }
            }
            Pending::Interval { stream } => self.under_way = Some(Work::Notify { stream, after: None }),
        }
    }

    fn on_batch(&mut self, batch: Batch) {
        if let Some(first) = batch.events.first() {
            let (first, current) = (first.revision, self.current);
            assert!(current < first, "revision {first} came after the store was said to stand at {current}");
        }
        self.begin_delivery(batch, Recipients::Synced);
    }

    fn on_caught_up(&mut self, token: Token, batch: Batch, current: i64) {
        let HistorySlice { from, cohort, .. } = self.take_slice(token);
        assert_eq!(batch.after + 1, from, "a slice of another part of history");
        assert!(batch.through <= current, "history through {} of {current}", batch.through);
        self.note_current(current);
        let mut members: Vec<(u32, WatcherKey)> = cohort
            .into_iter()
            .filter(|&key| self.watchers.is_alive(key))
            .map(|key| (self.watchers.get(key.slot).group, key))
            .collect();
        // By group, whose events are then gathered once.
        members.sort_unstable();
        for &(group, _) in &members {
            self.groups.want(group);
        }
        self.is_cohort_told = true;
        self.begin_delivery(batch, Recipients::Cohort { members, current });
    }

    fn begin_delivery(&mut self, batch: Batch, recipients: Recipients) {
        self.groups.begin_delivery();
        let of_group = std::mem::take(&mut self.of_group);
        self.under_way = Some(Work::Deliver(Box::new(Delivery::new(batch, recipients, of_group))));
    }

    fn on_overtaken(&mut self, token: Token, compacted: i64, sink: &mut impl Sink) {
        let HistorySlice { from, cohort, .. } = self.take_slice(token);
        // Otherwise the same slice would be asked for again, forever.
        assert!(from < compacted, "history from {from} is there when {compacted} is compacted");
        for key in cohort {
            let is_alive =
                self.watchers.is_alive(key) && self.streams.contains_key(&self.watchers.get(key.slot).stream);
            if is_alive && self.watchers.get(key.slot).next < compacted {
                self.cancel_overtaken(key.slot, compacted, sink);
            }
        }
    }

    /// Cancels a watcher whose next changes are gone. Its id stays taken until the client cancels it
    /// too, as in etcd.
    fn cancel_overtaken(&mut self, slot: u32, compacted: i64, sink: &mut impl Sink) {
        let Watcher { stream, watch_id, .. } = *self.watchers.get(slot);
        self.drop_watcher(slot, Pending::Forget);
        let state = self.streams.get_mut(&stream).expect("a watcher's stream is open");
        state.ids.insert(watch_id, Id::Reserved);
        state.reserved_count += 1;
        self.bytes += RESERVED_BYTES;
        let canceled =
            Response { watch_id, canceled: true, compact_revision: compacted, ..Response::default() };
        sink.push(stream, &canceled);
    }

    /// A synced watcher goes on from `next` by reading history, because it found no room there or the
    /// store jumped.
    fn fall_behind(&mut self, slot: u32, next: i64, is_blocked: bool) {
        self.groups.remove_synced(slot, &mut self.watchers);
        let watcher = self.watchers.get_mut(slot);
        watcher.next = next;
        let id = watcher.stream;
        let state = self.streams.get_mut(&id).expect("a watcher's stream is open");
        state.is_blocked |= is_blocked;
        state.behind.insert(next, slot);
        self.turns.rank(id, state);
    }

    /// A watcher that stays behind has come to `next`, where it found no room or the slice ended.
    fn advance(&mut self, slot: u32, next: i64, is_blocked: bool) {
        let watcher = self.watchers.get_mut(slot);
        let before = std::mem::replace(&mut watcher.next, next);
        let id = watcher.stream;
        let state = self.streams.get_mut(&id).expect("a watcher's stream is open");
        state.is_blocked |= is_blocked;
        state.behind.advance(before, next, slot);
        self.turns.rank(id, state);
    }

    /// A watcher that was behind has got everything up to `self.current`.
    fn catch_up_with(&mut self, slot: u32) {
        let watcher = self.watchers.get_mut(slot);
        let before = std::mem::replace(&mut watcher.next, self.current + 1);
        let id = watcher.stream;
        let state = self.streams.get_mut(&id).expect("a watcher's stream is open");
        state.behind.remove(before, slot);
        self.turns.rank(id, state);
        self.groups.add_synced(slot, &mut self.watchers);
    }

    /// Takes a watcher out of everything but its stream's ids, and takes back its subscription;
    /// `pending` is what its end is answered with. Its stream may be gone already.
    fn drop_watcher(&mut self, slot: u32, pending: Pending) {
        let id = self.watchers.get(slot).stream;
        if let Some(state) = self.streams.get_mut(&id) {
            state.remove(slot, self.watchers.get(slot));
            self.turns.rank(id, state);
        }
        if self.watchers.get(slot).state == State::Synced {
            self.groups.remove_synced(slot, &mut self.watchers);
        }
        let watcher = self.watchers.remove(slot);
        let range = self.groups.range(watcher.group).clone();
        self.groups.leave(watcher.group);
        self.bytes -= watcher_cost(&range);
        let previous = watcher.wants.previous;
        self.order(pending, |token| Order::Unsubscribe { token, range, previous });
    }

    /// Asks where the store stands and does `pending` then.
    fn ask(&mut self, pending: Pending) {
        self.order(pending, |token| Order::Ask { token });
    }

    fn order(&mut self, pending: Pending, order: impl FnOnce(Token) -> Order) {
        if let Some(state) = pending.asked_by().and_then(|stream| self.streams.get_mut(&stream)) {
            state.waiting_count += 1;
        }
        let token = self.token();
        self.pending.push_back((token, pending));
        self.orders.push_back(order(token));
    }

    fn token(&mut self) -> Token {
        self.token_next += 1;
        Token(self.token_next)
    }

    fn take_pending(&mut self, token: Token) -> Pending {
        let (expected, pending) = self.pending.pop_front().expect("no order waits for a notice");
        assert_eq!(token, expected, "notices come in the order of the orders");
        if let Some(state) = pending.asked_by().and_then(|stream| self.streams.get_mut(&stream)) {
            state.waiting_count -= 1;
        }
        pending
    }

    /// The order for the next slice, if somebody is behind and none is on its way.
    fn read_history(&mut self) -> Option<Order> {
        if self.slice.is_some() || self.is_cohort_told {
            return None;
        }
        let watchers = &self.watchers;
        let Turn { from, cohort } = self.turns.take(&mut self.streams, |slot| watchers.get(slot).next)?;
        let mut cohort = cohort;
        if self.is_by_range {
            let group_of = |slot: u32| watchers.get(slot).group;
            let group = cohort.first().map(|leader| group_of(*leader))?;
            cohort.retain(|slot| group_of(*slot) == group);
        }
        let mut wanted: Vec<(u32, bool)> = cohort
            .iter()
            .map(|&slot| self.watchers.get(slot))
            .map(|watcher| (watcher.group, watcher.wants.previous))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let ranges = wanted
            .into_iter()
            .map(|(group, previous)| (self.groups.range(group).clone(), previous))
            .collect();
        let watchers = cohort.len();
        let cohort = cohort.into_iter().map(|slot| self.watchers.key(slot)).collect();
        let token = self.token();
        self.slice = Some(HistorySlice { token, from, cohort });
        Some(Order::CatchUp(CatchUp { token, from, ranges, watchers }))
    }

    fn take_slice(&mut self, token: Token) -> HistorySlice {
        let slice = self.slice.take().expect("no slice of history is on its way");
        assert_eq!(token, slice.token, "a slice that nobody asked for");
        slice
    }

    /// Whatever the store is said to have reached, all changes up to there have come.
    fn note_current(&mut self, current: i64) {
        assert!(self.current <= current, "the store went back from {} to {current}", self.current);
        self.current = current;
    }
}

/// What a watcher of these keys costs.
fn watcher_cost(range: &WatchRange) -> usize {
    WATCHER_BYTES + KEY_COPIES * range.bytes_count()
}

#[cfg(test)]
impl Hub {
    /// Panics unless what the module says holds.
    fn check_invariants(&self) {
        let members = self.groups.check_invariants(&self.watchers);
        assert_eq!(members, self.watchers.len());
        let mut cost = 0;
        let mut watchers = 0;
        for (&id, stream) in &self.streams {
            let (mut created, mut behind, mut reserved) = (0, 0, 0);
            for (&watch_id, &holder) in &stream.ids {
                let Id::Watcher(slot) = holder else {
                    reserved += 1;
                    continue;
                };
                watchers += 1;
                let watcher = self.watchers.get(slot);
                assert_eq!((watcher.stream, watcher.watch_id), (id, watch_id));
                cost += watcher_cost(self.groups.range(watcher.group));
                created += usize::from(watcher.state != State::Creating);
                if watcher.state == State::Behind {
                    behind += 1;
                    assert!(stream.behind.within(watcher.next, watcher.next + 1).any(|found| found == slot));
                }
            }
            assert_eq!((stream.created_count, stream.behind.len()), (created, behind));
            assert_eq!(stream.reserved_count, reserved);
            let is_ready = behind > 0 && !stream.is_blocked;
            assert_eq!(stream.rank.is_some(), is_ready);
            cost += reserved * RESERVED_BYTES;
        }
        for id in self.leaving.iter().flat_map(|(_, stream)| stream.ids.values()) {
            let Id::Watcher(slot) = *id else { continue };
            watchers += 1;
            cost += watcher_cost(self.groups.range(self.watchers.get(slot).group));
        }
        assert_eq!((watchers, cost), (self.watchers.len(), self.bytes));
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod simulation;
