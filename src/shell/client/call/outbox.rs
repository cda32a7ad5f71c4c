//! What watch streams still have to send, and whether they may be given more.
//!
//! The shard's watch responses share one budget of `SHARD_BYTES_MAX`. A stream may have unsent what
//! `STREAM_SHARE`-th of the budget is *free*: half a megabyte while there are few slow readers, less the
//! more there are. `n` stopped streams thus come to rest at `budget / (n + STREAM_SHARE)` each and
//! never take all of it, so a stream whose client reads has room however many others do not. Only
//! responses larger than their stream's part can fill the budget; then streams that stand still are
//! reset (`watch`), which their clients answer by watching on from where they were.
//!
//! A stream that has refused events is told of room when it is down to half of what it may have: by
//! whoever lets go of its bytes, or by the shard's tick if it is others' bytes that went.
//!
//! Small events are written one behind the other into one buffer, which goes to `h2` as one piece
//! when the notices at hand are through. Large ones are not copied: they go out as pieces that all
//! their watchers share, but are counted as if each had its own.
//!
//! Invariants: `Room::unsent_bytes` is the sum over all levels; a level counts a response from when it
//! is pushed until `h2`, or the task that waits for it, has let go of it.
//! Cost: O(1) a response and a copy of what is small.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::account::ANSWER_OVERHEAD_BYTES;
use super::body::Body;
use super::end::Ended;
use super::header::Headers;
use super::local_watch::News;
use crate::rpc::{Code, Status};
use crate::shell::client::responder::{AnswerStream, Messages};
use crate::types::{Slice, Term};
use crate::watch::wire::{encoded_len, put_event_head, put_frame, put_response};
use crate::watch::{Response, StreamId};

/// Unsent bytes of all watch streams of the shard: half as much as of all answers.
pub(in crate::shell::client) const SHARD_BYTES_MAX: usize = 128 << 20;

/// The part of what is free that one stream may have unsent.
const STREAM_SHARE: usize = 256;

/// Bodies of events from here on are not copied. Smaller ones would save less than the frame costs
/// that `h2` makes of each piece, and keep more of the batch they are a part of in memory.
const APART_BYTES: usize = 64 << 10;

/// Counted work on text at the end of a stream; what is none by then is not sent.
const CLOSING_NS: u64 = 100_000;

/// The budget of the shard's watch streams.
#[derive(Debug, Default)]
pub(super) struct Room {
    unsent_bytes: Cell<usize>,
    now_ms: Cell<u64>,
    /// Levels that have refused and were not found to have room by the last tick.
    refused: RefCell<Vec<Rc<Level>>>,
    /// Streams that can take events again.
    freed: RefCell<Vec<StreamId>>,
}

impl Room {
    pub(in crate::shell::client) fn unsent_bytes(&self) -> usize {
        self.unsent_bytes.get()
    }

    /// There is nothing left, so others wait for whoever does not read.
    pub(in crate::shell::client) fn is_full(&self) -> bool {
        self.stream_bytes_max() == 0
    }

    /// What a stream may have unsent.
    fn stream_bytes_max(&self) -> usize {
        SHARD_BYTES_MAX.saturating_sub(self.unsent_bytes.get()) / STREAM_SHARE
    }

    /// Moves the clock, and finds who has room because others' bytes went.
    pub(in crate::shell::client) fn on_tick(&self, now_ms: u64) {
        self.now_ms.set(now_ms);
        self.refused.borrow_mut().retain(|level| {
            level.note_room();
            level.has_refused.get() || !level.is_listed.replace(false)
        });
    }

    pub(super) fn has_freed(&self) -> bool {
        !self.freed.borrow().is_empty()
    }

    /// Streams that had refused events and have room now.
    pub(super) fn take_freed(&self) -> Vec<StreamId> {
        self.freed.take()
    }
}

/// How much a stream has unsent.
#[derive(Debug)]
pub(super) struct Level {
    stream: StreamId,
    room: Rc<Room>,
    unsent_bytes: Cell<usize>,
    has_refused: Cell<bool>,
    /// It is in `Room::refused`.
    is_listed: Cell<bool>,
    /// When bytes last left, or began to wait.
    progress_ms: Cell<u64>,
}

impl Level {
    pub(in crate::shell::client) fn new(stream: StreamId, room: &Rc<Room>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            room: Rc::clone(room),
            unsent_bytes: Cell::new(0),
            has_refused: Cell::new(false),
            is_listed: Cell::new(false),
            progress_ms: Cell::new(0),
        })
    }

    /// Whether events may be pushed. If not, `Room::take_freed` names the stream when they may.
    pub(in crate::shell::client) fn has_room(self: &Rc<Self>) -> bool {
        if self.unsent_bytes.get() < self.room.stream_bytes_max() {
            return true;
        }
        self.has_refused.set(true);
        if !self.is_listed.replace(true) {
            self.room.refused.borrow_mut().push(Rc::clone(self));
        }
        false
    }

    pub(super) fn add(&self, bytes: usize) {
        if self.unsent_bytes.get() == 0 {
            self.note_progress();
        }
        self.unsent_bytes.set(self.unsent_bytes.get() + bytes);
        self.room.unsent_bytes.set(self.room.unsent_bytes.get() + bytes);
    }

    /// Bytes have left, or will never.
    pub(in crate::shell::client) fn remove(&self, bytes: usize) {
        let take = |cell: &Cell<usize>| {
            cell.set(cell.get().checked_sub(bytes).expect("what leaves a level was added to it"));
        };
        take(&self.unsent_bytes);
        take(&self.room.unsent_bytes);
        self.note_progress();
        self.note_room();
    }

    /// The stream has ended: nobody waits for room any more.
    fn end(&self) {
        self.has_refused.set(false);
    }

    /// The client takes bytes.
    pub(super) fn note_progress(&self) {
        self.progress_ms.set(self.room.now_ms.get());
    }

    /// Whether bytes wait that did not move since `ms`.
    pub(super) fn stands_still_since(&self, ms: u64) -> bool {
        0 < self.unsent_bytes.get() && self.progress_ms.get() <= ms
    }

    pub(in crate::shell::client) fn progress_ms(&self) -> u64 {
        self.progress_ms.get()
    }

    fn note_room(&self) {
        let enough = self.room.stream_bytes_max().div_ceil(2);
        if self.has_refused.get() && self.unsent_bytes.get() < enough {
            self.has_refused.set(false);
            self.room.freed.borrow_mut().push(self.stream);
        }
    }
}

/// Where a stream's responses go.
enum Target {
    Client(AnswerStream),
    /// To a task of this shard, with what each piece is counted as.
    Local {
        news: VecDeque<(Result<News, Status>, usize)>,
    },
    /// To nobody any more.
    Closed,
}

/// Gathers a response. Returns what it will take of the wire.
fn gather(
    messages: &mut Messages<'_>,
    headers: &Headers,
    term: Term,
    response: &Response<'_>,
) -> Result<usize, Status> {
    let body_bytes = encoded_len(response);
    let is_large = |part: &Bytes| APART_BYTES <= part.len();
    let is_joined = !response.joined.is_empty();
    let any_large =
        is_joined || response.events.iter().any(|event| is_large(&event.body) || is_large(&event.previous));
    if !any_large {
        messages.make_room(body_bytes);
    }
    messages.begin(|out| headers.put(out, response.revision, term), body_bytes)?;
    if any_large {
        gather_in_pieces(messages, response);
    } else {
        put_response(messages.rest(), response);
    }
    Ok(messages.end())
}

fn gather_in_pieces(messages: &mut Messages<'_>, response: &Response<'_>) {
    // Events are the last field.
    put_frame(messages.rest(), response);
    if !response.joined.is_empty() {
        return response.joined.iter().for_each(|piece| gather_part(messages, piece));
    }
    for event in response.events.iter() {
        put_event_head(messages.rest(), event, response.previous);
        gather_part(messages, &event.body);
        if response.previous {
            gather_part(messages, &event.previous);
        }
    }
}

fn gather_part(messages: &mut Messages<'_>, part: &Bytes) {
    if APART_BYTES <= part.len() {
        messages.share(part.clone());
    } else {
        messages.rest().extend_from_slice(part);
    }
}

/// One stream's responses on their way out.
pub(super) struct Outbox {
    pub(in crate::shell::client) id: StreamId,
    pub(in crate::shell::client) level: Rc<Level>,
    target: RefCell<Target>,
    /// Counted bytes of what the front end gathers.
    unflushed_bytes: Cell<usize>,
    /// It is on the list of those to flush.
    pub(super) is_dirty: Cell<bool>,
    /// It is on the list of those that wait with their next request.
    pub(in crate::shell::client) is_paused: Cell<bool>,
    /// The stream is notified of progress.
    pub(super) has_progress_timer: Cell<bool>,
    ended: RefCell<Option<Ended>>,
    waker: RefCell<Option<Waker>>,
}

impl Outbox {
    fn new(id: StreamId, room: &Rc<Room>, target: Target) -> Rc<Self> {
        Rc::new(Self {
            id,
            level: Level::new(id, room),
            target: RefCell::new(target),
            unflushed_bytes: Cell::new(0),
            is_dirty: Cell::new(false),
            is_paused: Cell::new(false),
            has_progress_timer: Cell::new(false),
            ended: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// Of a client's stream.
    pub(super) fn of_client(id: StreamId, room: &Rc<Room>, stream: AnswerStream) -> Rc<Self> {
        Self::new(id, room, Target::Client(stream))
    }

    /// Of a task of this shard.
    pub(super) fn of_task(id: StreamId, room: &Rc<Room>) -> Rc<Self> {
        Self::new(id, room, Target::Local { news: VecDeque::new() })
    }

    /// Takes a response in.
    pub(in crate::shell::client) fn push(&self, headers: &Headers, term: Term, response: &Response<'_>) {
        match &mut *self.target.borrow_mut() {
            Target::Client(stream) => match gather(&mut stream.messages(), headers, term, response) {
                Ok(bytes) => {
                    self.level.add(bytes);
                    self.unflushed_bytes.set(self.unflushed_bytes.get() + bytes);
                }
                Err(status) => self.end(status.into()),
            },
            Target::Local { news } => {
                if let Some(piece) = piece_of_news(response) {
                    // The overhead is for what the events keep in memory of the pieces they are in.
                    let bytes = encoded_len(response) + ANSWER_OVERHEAD_BYTES;
                    self.level.add(bytes);
                    news.push_back((piece, bytes));
                }
            }
            Target::Closed => {}
        }
    }

    /// Hands what was pushed to the front end, or wakes the task that waits for it. True when some of it is still to be
    /// made text of, for which the slice had no time.
    pub(in crate::shell::client) fn flush(&self, slice: &mut Slice) -> bool {
        self.is_dirty.set(false);
        match &mut *self.target.borrow_mut() {
            Target::Client(stream) => {
                let (taken, made) = stream.convert(slice);
                self.level.add(made);
                self.level.remove(taken);
                let waiting_bytes = stream.waiting_bytes();
                let unsent_bytes = self.unflushed_bytes.replace(waiting_bytes) + made - taken;
                // The overhead is counted here, since it is the front end's for each piece.
                let overhead_bytes = stream.messages().pieces_count() * ANSWER_OVERHEAD_BYTES;
                self.level.add(overhead_bytes);
                let mut uncounted = unsent_bytes - waiting_bytes + overhead_bytes;
                let sent = stream.send(|piece| {
                    let counted = piece.len() + ANSWER_OVERHEAD_BYTES;
                    uncounted -= counted;
                    Body::of_watch(&self.level, piece, counted)
                });
                // An error means that the client is gone, which the stream's task will hear.
                sent.ok();
                assert_eq!(uncounted, 0, "every byte is in a piece");
                0 < waiting_bytes
            }
            Target::Local { .. } => {
                self.wake();
                false
            }
            Target::Closed => false,
        }
    }

    /// Has the stream's task end it.
    pub(in crate::shell::client) fn end(&self, ended: Ended) {
        self.ended.borrow_mut().get_or_insert(ended);
        self.wake();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Gives the stream's task a turn.
    pub(in crate::shell::client) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether the stream is to end, from either side. If not, the task is woken when it is, and by
    /// `wake`.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.wait(cx);
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(ended);
        }
        match &mut *self.target.borrow_mut() {
            Target::Client(stream) => stream.poll_gone(cx).map(|()| Ended::Gone),
            Target::Local { .. } => Poll::Pending,
            Target::Closed => Poll::Ready(Ended::Gone),
        }
    }

    fn wait(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// The next news of a task's stream. That the watcher is gone is said again and again.
    pub(super) fn poll_news(&self, cx: &mut Context<'_>) -> Poll<Result<News, Status>> {
        self.wait(cx);
        let Target::Local { news } = &mut *self.target.borrow_mut() else { return Poll::Pending };
        match news.front() {
            None => Poll::Pending,
            Some((Ok(News::Compacted(revision)), _)) => Poll::Ready(Ok(News::Compacted(*revision))),
            Some((Err(status), _)) => Poll::Ready(Err(status.clone())),
            Some((Ok(News::Events(_)), _)) => {
                let (events, bytes) = news.pop_front().expect("it is there");
                self.level.remove(bytes);
                Poll::Ready(events)
            }
        }
    }

    /// Ends the stream towards its client. Nothing is pushed to it any more.
    pub(in crate::shell::client) fn close(&self, ended: Ended) {
        if matches!(ended, Ended::Status(_)) {
            self.flush(&mut Slice::of(CLOSING_NS));
        }
        let target = self.target.replace(Target::Closed);
        self.level.end();
        self.level.remove(self.unflushed_bytes.take());
        self.waker.replace(None);
        match target {
            Target::Client(stream) => stream.end(Err(ended)),
            Target::Local { news } => self.level.remove(news.iter().map(|(_, bytes)| bytes).sum()),
            Target::Closed => {}
        }
    }
}

/// What a task learns from a response.
fn piece_of_news(response: &Response<'_>) -> Option<Result<News, Status>> {
    if !response.events.is_empty() {
        return Some(Ok(News::Events(response.events.iter().cloned().collect())));
    }
    if response.compact_revision != 0 {
        return Some(Ok(News::Compacted(response.compact_revision)));
    }
    (response.created && response.canceled)
        .then(|| Err(Status { code: Code::ResourceExhausted, message: response.cancel_reason.into() }))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::{etcdserverpb as pb, mvccpb};
    use crate::rpc::framing::put_prefix;
    use crate::shell::client::grpc::response::Framed;
    use crate::types::{ClusterId, MemberId};
    use crate::watch::{Event, Events};

    fn levels(room: &Rc<Room>, count: u64) -> Vec<Rc<Level>> {
        (0..count).map(|n| Level::new(StreamId(n), room)).collect()
    }

    fn fill(level: &Rc<Level>, response_bytes: usize) {
        while level.has_room() {
            level.add(response_bytes);
        }
    }

    #[test]
    fn stopped_streams_share_the_budget_and_leave_room_for_the_next_one() {
        for (count, most) in [(1, 513 << 10), (256, 257 << 10), (1_000, 105 << 10), (10_000, 14 << 10)] {
            let room = Rc::<Room>::default();
            let stopped = levels(&room, count);
            // All get the same number of small responses, as watchers of one key do.
            while stopped.iter().any(|level| level.has_room()) {
                for level in stopped.iter().filter(|level| level.has_room()) {
                    level.add(100);
                }
            }
            let largest = stopped.iter().map(|level| level.unsent_bytes.get()).max().unwrap();
            assert!(largest <= most, "{largest} bytes of one of {count}");
            assert!(room.unsent_bytes() < SHARD_BYTES_MAX && !room.is_full());
            assert!(Level::new(StreamId(count), &room).has_room(), "beside {count}");
        }
    }

    #[test]
    fn large_responses_pass_the_budget_by_one_at_most() {
        const RESPONSE_BYTES: usize = 3 << 20;
        let room = Rc::<Room>::default();
        for level in levels(&room, 1_000) {
            fill(&level, RESPONSE_BYTES);
        }
        assert!(room.is_full());
        assert!(room.unsent_bytes() <= SHARD_BYTES_MAX + RESPONSE_BYTES, "{}", room.unsent_bytes());
    }

    #[test]
    fn refused_stream_is_named_once_when_half_of_what_it_may_have_has_left() {
        let room = Rc::<Room>::default();
        let level = Level::new(StreamId(7), &room);
        fill(&level, 1_000);
        let full = level.unsent_bytes.get();
        while full / 2 < level.unsent_bytes.get() {
            assert!(!room.has_freed());
            level.remove(1_000);
        }
        room.on_tick(1);
        assert_eq!(room.take_freed(), [StreamId(7)]);
        level.remove(1_000);
        room.on_tick(2);
        assert!(!room.has_freed() && room.refused.borrow().is_empty());
        // It may be refused again.
        fill(&level, 1_000);
        level.remove(level.unsent_bytes.get());
        assert_eq!(room.take_freed(), [StreamId(7)]);
    }

    #[test]
    fn stream_refused_because_of_others_is_named_when_theirs_has_left_unless_it_ended() {
        let room = Rc::<Room>::default();
        let hog = Level::new(StreamId(0), &room);
        hog.add(SHARD_BYTES_MAX);
        let (empty, ended) = (Level::new(StreamId(1), &room), Level::new(StreamId(2), &room));
        assert!(!empty.has_room() && !ended.has_room());
        room.on_tick(1);
        assert!(!room.has_freed());
        ended.end();
        hog.remove(SHARD_BYTES_MAX);
        room.on_tick(2);
        assert_eq!(room.take_freed(), [StreamId(1)]);
        assert!(room.refused.borrow().is_empty());
    }

    #[test]
    fn stream_stands_still_from_the_first_byte_that_waits_until_one_leaves() {
        let room = Rc::<Room>::default();
        let level = Level::new(StreamId(0), &room);
        room.on_tick(100);
        assert!(!level.stands_still_since(100), "nothing waits");
        level.add(10);
        room.on_tick(200);
        level.add(10);
        assert!(level.stands_still_since(100) && !level.stands_still_since(99));
        level.note_progress();
        assert!(!level.stands_still_since(199));
    }

    #[test]
    fn responses_of_any_size_are_the_bytes_that_prost_would_frame() {
        let headers = Headers::new(ClusterId(5), MemberId(6));
        let kv = |bytes: usize| mvccpb::KeyValue {
            key: Bytes::from_static(b"key"),
            value: vec![b'v'; bytes].into(),
            mod_revision: 9,
            ..Default::default()
        };
        let sizes = [0, 100, APART_BYTES - 20, APART_BYTES, 2 << 20];
        let (mut framed, mut expected, mut counted) = (Framed::default(), Vec::new(), 0);
        for (body, before) in sizes.into_iter().flat_map(|body| sizes.map(|before| (body, before))) {
            let event = mvccpb::Event { kv: Some(kv(body)), ..Default::default() };
            let previous = mvccpb::Event { prev_kv: Some(kv(before)), ..Default::default() };
            let encoded = Event {
                revision: 9,
                key: Bytes::from_static(b"key"),
                is_delete: false,
                body: event.encode_to_vec().into(),
                previous: previous.encode_to_vec().into(),
            };
            let both = [encoded.clone(), encoded];
            for is_asked in [false, true] {
                let response = Response {
                    watch_id: -1,
                    revision: 10,
                    previous: is_asked,
                    events: Events::new(&both, &[0, 1], 2, true, true),
                    ..Response::default()
                };
                counted += gather(&mut Messages::Grpc(&mut framed), &headers, Term(3), &response).unwrap();
                let mut whole = event.clone();
                if is_asked {
                    whole.prev_kv = previous.prev_kv.clone();
                }
                let message = pb::WatchResponse {
                    header: Some(pb::ResponseHeader {
                        cluster_id: 5,
                        member_id: 6,
                        revision: 10,
                        raft_term: 3,
                    }),
                    watch_id: -1,
                    events: vec![whole.clone(), whole],
                    ..Default::default()
                };
                let message = message.encode_to_vec();
                put_prefix(&mut expected, false, message.len().try_into().unwrap());
                expected.extend(message);
            }
        }
        let pieces: Vec<Bytes> = framed.take().collect();
        assert!(2 * sizes.len() < pieces.len(), "large bodies are pieces of their own");
        assert!(pieces.concat() == expected);
        assert_eq!(counted, expected.len());
    }
}
