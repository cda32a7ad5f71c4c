//! Watch streams: the shard's hub, and the tasks that bring it what clients ask.
//!
//! ```text
//! client ─► task of the stream ─ request ─► Hub ─ order ─► Backend (the store's feed)
//! client ◄─ front end ◄─ flush ◄─ Outbox ◄─ response ─ Hub ◄─ notice ─┘ on_watch
//! ```
//!
//! A stream's task reads requests and waits for the stream's end; it has no part in the sending. A
//! notice is given to the hub, which writes responses into the outboxes of the streams concerned; when
//! the notices at hand are through, `flush` hands each of them to the front end in one piece and thereby gives
//! its connection a turn. So a change costs a task switch for each connection, not for each watcher. Notices that
//! are more than a turn's work, a million events or the end of a hundred thousand watchers, go on in later turns.
//!
//! The member's own tasks watch too (`local_watch`): their outbox is a queue of events.
//!
//! What a stream may hold: requests that wait for an answer, `WAITING_MAX`; watchers, by the hub's
//! `WATCHER_BYTES_MAX`, which all clients of the shard share first come, first served; responses, by its
//! outbox; and its place among the calls with a task, which also counts the unfinished request.
//!
//! Invariants: the hub has exactly the streams in `outboxes` and `closing`; no borrow of it is held
//! while the front end or the backend is called; at most `ORDERS_MAX` orders are with the store.
//! Cost: a response O(log streams) and a copy; a tick O(streams that have no room).
//! Compatibility: a stream lives until its client resets it or its deadline passes; half-closing it ends
//! nothing. At `stop` it gets `Unavailable`, which clients take as a reason to watch on elsewhere; what
//! etcd's text for a cancelled stream is for, a client that resets it never sees.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use super::end::{CallEnd, Ended};
use super::header::Headers;
use super::outbox::{Outbox, Room};
use super::shown::Shown;
use super::{Head, decode};
use crate::metrics::{Count, Name, Report};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::request::{Login, Permit};
use crate::rpc::{Code, Status, status};
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::ShardConfig;
use crate::shell::client::counters::Counters;
use crate::shell::client::responder::{Request, Requests, Responder};
use crate::shell::runtime::pace::{Pace, breathe};
use crate::types::limits::{GRPC_OVERHEAD_BYTES, TURN_NS_IN_COMPANY};
use crate::types::{Slice, Term};
use crate::watch::{Hub, HubLimits, Notice, Response, Sink, StreamId, WatchRange};

/// What all watchers of the shard may cost: some 900,000 of short keys.
const WATCHER_BYTES_MAX: usize = 512 << 20;

/// Requests of one stream that wait for their answers. The next one is read when half of them have come.
const WAITING_MAX: usize = 256;

/// Requests read in one go before other tasks get a turn. Those that wait for no answer count too.
const REQUESTS_A_TURN: usize = 512;

/// Streams looked at after a batch of notices, to see whether they may go on.
const PAUSED_A_FLUSH: usize = 64;

/// Counted work of a turn of the hub while calls are under way. Twice the store's: what a put tells a thousand watchers is
/// then two turns, and half of a turn's price is paid by the connections behind it.
const HUB_NS_IN_COMPANY: u64 = 2 * TURN_NS_IN_COMPANY;

/// The longest pause of history between two turns of the hub, which a change that comes meanwhile waits for as well.
const HISTORY_PAUSE_MAX: Duration = Duration::from_millis(1);

/// Counted work on streams that end, all together, between two turns of the hub. What is left of their watchers goes in
/// slices.
const CLOSING_NS: u64 = 20_000;

/// Orders that are with the store: a quarter of the ring, so that reads always find room in it.
const ORDERS_MAX: usize = 1024;

/// The shard's watch streams.
pub(in crate::shell::client) struct Watches {
    hub: RefCell<Hub>,
    limits: HubLimits,
    outboxes: RefCell<BTreeMap<StreamId, Rc<Outbox>>>,
    room: Rc<Room>,
    /// Outboxes that have something for the front end.
    dirty: RefCell<Vec<Rc<Outbox>>>,
    /// Streams that have ended and are still with the hub.
    closing: RefCell<Vec<StreamId>>,
    /// Streams whose next request waits for answers to earlier ones.
    paused: RefCell<VecDeque<Rc<Outbox>>>,
    /// When streams with progress notifications are due.
    due: RefCell<BTreeSet<(u64, StreamId)>>,
    orders_count: Cell<usize>,
    /// As the store said last.
    term: Cell<Term>,
    /// Whether slices of the hub's work keep their bound.
    pace: RefCell<Pace>,
    /// Counted work on streams that have ended since the hub had its turn.
    closed_ns: Cell<u64>,
    /// A task goes on with the hub's work.
    is_working: Cell<bool>,
    /// Events given to watchers so far.
    events: Count,
}

impl Watches {
    /// `is_by_range` as in `HubLimits`.
    pub(in crate::shell::client) fn new(config: &ShardConfig, is_by_range: bool) -> Self {
        let fragment_bytes = config.request_bytes_max.saturating_add(GRPC_OVERHEAD_BYTES) as usize;
        let limits = HubLimits { fragment_bytes, watcher_bytes_max: WATCHER_BYTES_MAX, is_by_range };
        Self {
            hub: RefCell::new(Hub::new(limits)),
            limits,
            outboxes: RefCell::new(BTreeMap::new()),
            room: Rc::default(),
            dirty: RefCell::new(Vec::new()),
            closing: RefCell::new(Vec::new()),
            paused: RefCell::new(VecDeque::new()),
            due: RefCell::new(BTreeSet::new()),
            orders_count: Cell::new(0),
            term: Cell::default(),
            pace: RefCell::new(Pace::in_company("watchers", HUB_NS_IN_COMPANY)),
            closed_ns: Cell::new(0),
            is_working: Cell::new(false),
            events: Count::default(),
        }
    }

    pub(in crate::shell::client) fn count(&self, counters: &mut Counters) {
        counters.watch_streams = self.outboxes.borrow().len() as u64;
        counters.watchers = self.hub.borrow().watchers_count() as u64;
        counters.watch_unsent_bytes = self.room.unsent_bytes() as u64;
    }

    pub(in crate::shell::client) fn report(&self, report: &mut Report) {
        let hub = self.hub.borrow();
        let (behind, revisions) = hub.behind();
        report.count(Name::WatchEvents, [], self.events.get());
        report.count(Name::SlowWatchers, [], behind);
        report.count(Name::PendingEvents, [], revisions);
        report.count(Name::Memory, ["watchers".into()], hub.bytes_count() as u64);
    }

    /// Begins a stream. Whoever does closes it.
    pub(super) fn open(&self, make: impl FnOnce(StreamId, &Rc<Room>) -> Rc<Outbox>) -> Rc<Outbox> {
        let id = self.hub.borrow_mut().open();
        let outbox = make(id, &self.room);
        self.outboxes.borrow_mut().insert(id, Rc::clone(&outbox));
        outbox
    }

    pub(in crate::shell::client) fn on_request(&self, id: StreamId, request: pb::WatchRequest) {
        self.hub.borrow_mut().on_request(id, request);
    }

    /// Whether there is something that another turn has to go on with.
    fn has_work(&self) -> bool {
        self.hub.borrow().has_work() || !self.dirty.borrow().is_empty()
    }

    /// Whether the next turn is one that calls under way need not wait for.
    fn may_rest(&self) -> bool {
        self.hub.borrow().only_reads_history() && self.pace.borrow().is_in_close_company()
    }

    /// The stream's watchers behind an id and their ranges, as many as the slice has time for; at least one, if there
    /// is one.
    pub(super) fn ranges(
        &self,
        stream: StreamId,
        after: Option<i64>,
        slice: &mut Slice,
    ) -> Vec<(i64, WatchRange)> {
        self.hub.borrow().ranges(stream, after, slice)
    }

    /// Ends a watcher of this range for a reason that its client is told. One that has ended meanwhile may have left its
    /// id to another.
    pub(super) fn revoke(&self, stream: StreamId, watch_id: i64, range: &WatchRange, reason: &'static str) {
        let mut hub = self.hub.borrow_mut();
        if hub.watches(stream, watch_id, range) {
            hub.revoke(stream, watch_id, reason);
        }
    }

    /// Whether the stream has to wait with its next request. Its task is woken when it is over.
    fn must_wait(&self, outbox: &Rc<Outbox>) -> bool {
        if self.hub.borrow().waiting_count(outbox.id) < WAITING_MAX {
            return false;
        }
        if !outbox.is_paused.replace(true) {
            self.paused.borrow_mut().push_back(Rc::clone(outbox));
        }
        true
    }

    /// Lets those of the next `count` waiting streams go on whose requests were answered.
    fn wake_paused(&self, count: usize) {
        let hub = self.hub.borrow();
        let mut paused = self.paused.borrow_mut();
        for _ in 0..count.min(paused.len()) {
            let Some(outbox) = paused.pop_front() else { return };
            if WAITING_MAX / 2 < hub.waiting_count(outbox.id) {
                paused.push_back(outbox);
            } else {
                outbox.is_paused.set(false);
                outbox.wake();
            }
        }
    }

    /// Notifies the stream of progress from now on.
    fn start_progress_timer(&self, outbox: &Outbox, now_ms: u64, interval_ms: u64) {
        if !outbox.has_progress_timer.replace(true) {
            self.due.borrow_mut().insert((now_ms + spread(interval_ms, outbox.id), outbox.id));
        }
    }

    /// Tells the hub whose interval is over.
    fn notify_due(&self, now_ms: u64, interval_ms: u64) {
        let mut due = self.due.borrow_mut();
        while let Some(&(due_ms, id)) = due.first()
            && due_ms <= now_ms
        {
            due.pop_first();
            if self.outboxes.borrow().contains_key(&id) {
                self.hub.borrow_mut().on_progress_due(id);
                due.insert((now_ms + spread(interval_ms, id), id));
            }
        }
    }

    /// The stream that has stood still for longest, at least since `ms`.
    fn most_stalled(&self, ms: u64) -> Option<Rc<Outbox>> {
        let outboxes = self.outboxes.borrow();
        let stalled =
            outboxes.values().filter(|outbox| outbox.level.stands_still_since(ms) && !outbox.is_ending());
        stalled.min_by_key(|outbox| outbox.level.progress_ms()).map(Rc::clone)
    }
}

/// The interval and up to a tenth of it more, always the same for a stream, so that streams that began
/// together are not due together for ever.
fn spread(interval_ms: u64, id: StreamId) -> u64 {
    // Fibonacci hashing: consecutive numbers are spread evenly.
    let part = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    interval_ms + (interval_ms / 10).saturating_mul(part) / (1 << 32)
}

/// The outboxes, as the hub sees them while it takes in one notice.
struct Outboxes<'a> {
    watches: &'a Watches,
    headers: &'a Headers,
    term: Term,
    /// The one that was asked for last: the hub asks for room before each push.
    last: RefCell<Option<Rc<Outbox>>>,
}

impl Outboxes<'_> {
    /// Calls `f` with the stream's outbox, if it has not ended.
    fn with<T>(&self, id: StreamId, f: impl FnOnce(&Rc<Outbox>) -> T) -> Option<T> {
        let mut last = self.last.borrow_mut();
        if last.as_ref().is_none_or(|outbox| outbox.id != id) {
            *last = self.watches.outboxes.borrow().get(&id).map(Rc::clone);
        }
        last.as_ref().map(f)
    }
}

impl Sink for Outboxes<'_> {
    fn has_room(&self, stream: StreamId) -> bool {
        // A stream that has ended takes anything: the hub will hear of its end next.
        self.with(stream, |outbox| outbox.level.has_room()).unwrap_or(true)
    }

    fn push(&mut self, stream: StreamId, response: &Response<'_>) {
        self.watches.events.add(response.events.len() as u64);
        self.with(stream, |outbox| {
            outbox.push(self.headers, self.term, response);
            if !outbox.is_dirty.replace(true) {
                self.watches.dirty.borrow_mut().push(Rc::clone(outbox));
            }
        });
    }
}

impl<B: Backend> ClientShard<B> {
    /// News for the watch hub, which `flush` has it carry out.
    pub fn on_watch(&self, term: Term, notice: Notice) {
        let watches = &self.watches;
        if !matches!(notice, Notice::Batch(_) | Notice::Part { .. } | Notice::Jumped { .. }) {
            let orders = watches.orders_count.get();
            watches.orders_count.set(orders.checked_sub(1).expect("each notice answers one order"));
        }
        watches.term.set(term);
        watches.hub.borrow_mut().on_notice(notice);
    }

    /// Whoever answers the hub's orders has begun anew: all streams end with this word, and orders that are under way
    /// have no answers.
    pub(in crate::shell) fn renew_watches(self: &Rc<Self>, reason: &str) {
        let watches = &self.watches;
        let status = Status { code: Code::Unavailable, message: reason.to_owned().into() };
        watches.outboxes.borrow().values().for_each(|outbox| outbox.end(Ended::Status(status.clone())));
        watches.hub.replace_with(|hub| hub.renewed(watches.limits));
        watches.orders_count.set(0);
        // Each of them ends.
        watches.paused.take();
        self.settle_watches();
    }

    /// Carries out notices for a turn, sends what they have made the hub say, and what it orders now. What is
    /// left has its turns behind those of others.
    pub(in crate::shell::client) fn flush_watches(self: &Rc<Self>) {
        // Work that goes on has its turns behind a look at the sockets: answers that have just come leave before it.
        if !self.watches.is_working.get() {
            self.work_on_watches();
        }
        self.end_flush();
    }

    /// Hands the front end what the hub has said.
    fn end_flush(self: &Rc<Self>) {
        // What is made text of long messages comes on top of the hub's turn.
        let mut slice = Slice::of(TURN_NS_IN_COMPANY);
        let mut unready: Vec<_> =
            self.watches.dirty.take().into_iter().filter(|outbox| outbox.flush(&mut slice)).collect();
        if !unready.is_empty() {
            // Another one is first next time.
            unready.rotate_left(1);
            unready.iter().for_each(|outbox| outbox.is_dirty.set(true));
            self.watches.dirty.borrow_mut().append(&mut unready);
        }
        self.settle_watches();
        self.watches.wake_paused(PAUSED_A_FLUSH);
        self.keep_working_on_watches();
    }

    /// A turn's slices of the hub's work.
    fn work_on_watches(&self) {
        let watches = &self.watches;
        watches.closed_ns.set(0);
        if !watches.hub.borrow().has_work() {
            return;
        }
        let mut sink =
            Outboxes { watches, headers: &self.headers, term: watches.term.get(), last: RefCell::new(None) };
        let mut pace = watches.pace.borrow_mut();
        if 0 < self.calls.borrow().len() {
            pace.on_calls();
        }
        let mut turn = pace.begin();
        while let Some(mut slice) = turn.next_slice() {
            let begun = Instant::now();
            let mut hub = watches.hub.borrow_mut();
            hub.work(&mut slice, &mut sink);
            let has_work = hub.has_work();
            slice.check();
            turn.on_slice(&slice, begun.elapsed());
            if !has_work {
                break;
            }
        }
        pace.end(&turn);
    }

    /// Sees to it that the hub's work goes on, if it has any.
    fn keep_working_on_watches(self: &Rc<Self>) {
        let watches = &self.watches;
        if !watches.has_work() || watches.is_working.replace(true) {
            return;
        }
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            let mut begun = Instant::now();
            while shard.watches.has_work() {
                breathe().await;
                // What the turn said has left, or waits for its client. That belongs to what the turn took.
                if shard.watches.may_rest() {
                    glommio::timer::sleep(begun.elapsed().min(HISTORY_PAUSE_MAX)).await;
                }
                begun = Instant::now();
                shard.work_on_watches();
                shard.end_flush();
            }
            shard.watches.is_working.set(false);
        })
        .detach();
    }

    /// Tells the hub which streams have room again, if there are any.
    pub(in crate::shell::client) fn settle_rooms(&self) {
        if self.watches.room.has_freed() {
            self.settle_watches();
        }
    }

    /// Tells the hub what has happened to its streams, and passes its orders on.
    pub(super) fn settle_watches(&self) {
        let watches = &self.watches;
        {
            // If this is called from inside the hub, whoever called the hub settles afterwards.
            let Ok(mut hub) = watches.hub.try_borrow_mut() else { return };
            for id in watches.closing.take() {
                hub.close(id);
                // A stream of a few watchers is gone at once, unless a thousand end together.
                let closed_ns = watches.closed_ns.get();
                let mut slice = Slice::of(CLOSING_NS.saturating_sub(closed_ns));
                hub.let_go(&mut slice);
                watches.closed_ns.set(closed_ns + slice.spent_ns());
            }
            for id in watches.room.take_freed() {
                hub.on_room(id);
            }
        }
        while watches.orders_count.get() < ORDERS_MAX {
            let Some(order) = watches.hub.borrow_mut().next_order() else { break };
            if let Err(order) = self.backend.order(order) {
                // The ring is full, so there are replies and notices to come, and a flush after them.
                watches.hub.borrow_mut().give_back(order);
                break;
            }
            watches.orders_count.set(watches.orders_count.get() + 1);
        }
    }

    /// Moves the clock of the watch streams and gives whatever is due its turn.
    pub(in crate::shell::client) fn tick_watches(&self) {
        let (watches, now_ms) = (&self.watches, self.now_ms());
        watches.room.on_tick(now_ms);
        watches.notify_due(now_ms, self.config.watch_progress_interval_ms());
        if watches.room.is_full() {
            let since_ms = now_ms.saturating_sub(self.config.pressure_timeout_ms());
            if let Some(outbox) = watches.most_stalled(since_ms) {
                self.counters.count(|counters| counters.watch_resets += 1);
                outbox.end(Ended::Crowded);
            }
        }
        self.settle_watches();
        watches.wake_paused(usize::MAX);
    }

    /// Ends a stream that was opened.
    pub(super) fn close_watch(self: &Rc<Self>, outbox: &Outbox, ended: Ended) {
        let removed = self.watches.outboxes.borrow_mut().remove(&outbox.id);
        assert!(removed.is_some(), "a stream is closed once");
        outbox.close(ended);
        self.watches.closing.borrow_mut().push(outbox.id);
        self.settle_watches();
        self.keep_working_on_watches();
    }

    /// Serves a watch stream until it ends.
    pub(in crate::shell::client) fn spawn_watch(
        self: &Rc<Self>,
        head: &Head,
        requests: Requests,
        responder: Responder,
    ) {
        let (shard, end, shown) = (Rc::clone(self), self.end_of_stream(head), head.shown.clone());
        glommio::spawn_local(async move {
            // At once and not with the first response: some clients wait for it before they ask.
            let Some(stream) = responder.open() else { return };
            let open = |id, room: &_| Outbox::of_client(id, room, stream);
            let outbox = shard.watches.open(open);
            let mut task = WatchTask {
                shard: &shard,
                outbox: &outbox,
                requests: Some(requests),
                end,
                shown,
                permitting: None,
            };
            let ended = poll_fn(|cx| task.poll(cx)).await;
            shard.revocation.remove(outbox.id);
            shard.close_watch(&outbox, ended);
        })
        .detach();
    }
}

/// The task of a client's stream.
struct WatchTask<'a, B: Backend> {
    shard: &'a Rc<ClientShard<B>>,
    outbox: &'a Rc<Outbox>,
    /// None: the client sends no more requests.
    requests: Option<Requests>,
    end: CallEnd,
    /// Shows who watches.
    shown: Option<Shown>,
    /// A request whose right is asked for; what comes behind it waits.
    permitting: Option<Permitting>,
}

/// A request, and the question whether it may be.
struct Permitting {
    request: RequestUnion,
    answer: LocalBoxFuture<'static, Result<Option<Arc<Login>>, Status>>,
}

impl<B: Backend> WatchTask<'_, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut ended = self.outbox.poll_ended(cx);
        if ended.is_pending() {
            ended = self.end.poll(cx).map(Ended::Status);
        }
        if ended.is_pending() {
            ended = self.poll_requests(cx);
            self.shard.settle_watches();
        }
        ended
    }

    /// Takes the requests that are there. Ready when the stream is to end.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let watches = &self.shard.watches;
        for _ in 0..REQUESTS_A_TURN {
            if let Some(permitting) = &mut self.permitting {
                let answer = ready!(permitting.answer.as_mut().poll(cx));
                let request = self.permitting.take().expect("it is there").request;
                self.on_permitted(request, answer);
            }
            let Some(requests) = &mut self.requests else { return Poll::Pending };
            if watches.must_wait(self.outbox) {
                requests.absorb(cx);
                return Poll::Pending;
            }
            let payload = match ready!(requests.poll_next(cx)) {
                Ok(Request::Message(payload)) => payload,
                Ok(Request::HalfClosed) => {
                    self.requests = None;
                    return Poll::Pending;
                }
                Ok(Request::Gone) => return Poll::Ready(Ended::Gone),
                Err(status) => return Poll::Ready(Ended::Status(status)),
            };
            let request: pb::WatchRequest = match decode(payload) {
                Ok(request) => request,
                Err(status) => return Poll::Ready(Ended::Status(status)),
            };
            if let Some(RequestUnion::CreateRequest(create)) = &request.request_union
                && create.progress_notify
            {
                let interval_ms = self.shard.config.watch_progress_interval_ms();
                watches.start_progress_timer(self.outbox, self.shard.now_ms(), interval_ms);
            }
            match request.request_union {
                Some(RequestUnion::CreateRequest(create)) if self.shard.identities.revision().is_some() => {
                    self.ask_for_permit(create);
                }
                Some(request @ (RequestUnion::CreateRequest(_) | RequestUnion::ProgressRequest(_)))
                    if self.shard.backend.upstream().is_some() =>
                {
                    self.ask_for_present(request);
                }
                request_union => watches.on_request(self.outbox.id, pb::WatchRequest { request_union }),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<B: Backend> WatchTask<'_, B> {
    /// Asks the store whether the range may be read.
    fn ask_for_permit(&mut self, create: pb::WatchCreateRequest) {
        // No key is the first one there is.
        let key = if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key.clone() };
        let permit = Permit::Range { key, range_end: create.range_end.clone() };
        let (shard, shown) = (Rc::clone(self.shard), self.shown.clone());
        let answer = Box::pin(async move {
            let Some(login) = shard.login(shown.as_ref()).await? else { return Ok(None) };
            shard.permit(login.clone(), permit).await?;
            Ok(login)
        });
        self.permitting = Some(Permitting { request: RequestUnion::CreateRequest(create), answer });
    }

    /// Asks the members behind this proxy what is committed, which the answer may not be older than. They refuse that
    /// to whoever needs a login, and so they do here.
    fn ask_for_present(&mut self, request: RequestUnion) {
        let shard = Rc::clone(self.shard);
        let answer = Box::pin(async move {
            let Some(upstream) = shard.backend.upstream() else { unreachable!("it was there before") };
            match upstream.present().await {
                Ok(revision) => shard.backend.raise_floor(revision),
                Err(refused) if cancel_reason(&refused) != UNTOLD => return Err(refused),
                // Without a quorum nobody knows, and what is known may be watched.
                Err(_unknown) => {}
            }
            Ok(None)
        });
        self.permitting = Some(Permitting { request, answer });
    }

    /// It is known whether the request may be.
    fn on_permitted(&mut self, request: RequestUnion, answer: Result<Option<Arc<Login>>, Status>) {
        let is_creation = matches!(request, RequestUnion::CreateRequest(_));
        match answer {
            Err(status) if is_creation => {
                self.shard.watches.hub.borrow_mut().refuse(self.outbox.id, cancel_reason(&status));
            }
            Err(_) => {}
            Ok(login) => {
                if let Some(login) = login.filter(|login| !login.is_member()) {
                    self.shard.revocation.insert(self.outbox.id, &login.name);
                }
                let request_union = Some(request);
                self.shard.watches.on_request(self.outbox.id, pb::WatchRequest { request_union });
            }
        }
    }
}

/// The member could not tell in time; to try again is all that can be done.
const UNTOLD: &str = "rpc error: code = Unavailable desc = etcdserver: request timed out";

/// What a client is told of a watch that it may not have, in the words of etcd.
fn cancel_reason(status: &Status) -> &'static str {
    if *status == status::INVALID_AUTH_TOKEN {
        "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"
    } else if *status == status::USER_EMPTY {
        "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"
    } else if *status == status::AUTH_OLD_REVISION {
        "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
    } else if *status == status::PERMISSION_DENIED {
        "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    } else {
        UNTOLD
    }
}
