//! A crowd of watchers: how it is spread over streams and connections, and what it must see.
//!
//! Invariants checked of every response: it names a watcher of its stream that was created before; each
//! watcher's revisions grow from response to response and never fall within one (a revision is not
//! split, repeated or reordered). What breaks one is a fault, and the run is not clean.
//! Cost: a watcher is sixteen bytes here, whatever it costs the server.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::client::{ClientError, nanos};
use crate::findings::{Faults, shown};
use crate::http2::Method;
use crate::messages::{self, Event, WatchResponse};
use crate::streams::{Script, StreamRef, Streams};
use crate::sys::Clock;
use crate::workload::{PREFIX, PREFIX_END, Space};

/// How long a crowd may take to be created.
const CREATE_TIMEOUT: Duration = Duration::from_secs(120);

const STREAMS_DEFAULT_MAX: usize = 1000;
const CONNECTIONS_DEFAULT_MAX: usize = 10;

/// What the watchers watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// All of them one key, and every put is to it
    OneKey,
    /// All of them the range of all keys
    Prefix,
    /// Each its own key, and every put is to one of these
    DistinctKeys,
}

/// How many watchers, and where.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Shape {
    pub watchers: usize,
    pub streams: usize,
    pub connections: usize,
    pub scope: Scope,
}

impl Shape {
    /// So many watchers, on as many streams and connections as were asked for. Where nothing was: a stream for
    /// each watcher up to 1,000, on ten connections at most.
    ///
    /// # Errors
    /// When a stream would have no watcher, or a connection no stream.
    pub(crate) fn new(
        watchers: usize,
        streams: Option<usize>,
        connections: Option<usize>,
        scope: Scope,
    ) -> Result<Self, String> {
        let streams = streams.unwrap_or(watchers.min(STREAMS_DEFAULT_MAX).max(connections.unwrap_or(1)));
        let connections = connections.unwrap_or(streams.min(CONNECTIONS_DEFAULT_MAX));
        if watchers < streams {
            return Err(format!(
                "{watchers} watchers cannot fill {streams} streams, each of which has one at least: \
                 raise --watchers, or lower --streams or --connections"
            ));
        }
        if streams < connections {
            return Err(format!(
                "{streams} streams cannot fill {connections} connections, each of which has one at least: \
                 raise --streams or lower --connections"
            ));
        }
        Ok(Self { watchers, streams, connections, scope })
    }

    /// The keys that are put.
    pub(crate) fn space(&self, keys: u64, value_bytes: usize) -> Space {
        let keys = match self.scope {
            Scope::OneKey => 1,
            Scope::Prefix => keys,
            Scope::DistinctKeys => self.watchers as u64,
        };
        Space { keys, key_bytes: 32, value_bytes }
    }

    /// How many watchers see each put.
    pub(crate) fn watchers_per_put(&self) -> usize {
        if self.scope == Scope::DistinctKeys { 1 } else { self.watchers }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watched = match self.scope {
            Scope::OneKey => "one key",
            Scope::Prefix => "all keys",
            Scope::DistinctKeys => "a key each",
        };
        let Self { watchers, streams, connections, .. } = self;
        write!(f, "{watchers} watchers of {watched}, {streams} streams, {connections} connections")
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Watcher {
    last_revision: i64,
    is_created: bool,
}

/// What each watcher has seen. Watcher `i` is number `i / streams` of stream `i % streams`; the server
/// numbers the watchers of a stream from 0, in the order in which they were asked for.
#[derive(Debug)]
pub(crate) struct Book {
    watchers: Vec<Watcher>,
    streams: usize,
    /// 0 is "from now": the first event is later than the revision at which the watcher was created.
    start_revision: i64,
    pub created: usize,
    pub faults: Faults,
}

impl Book {
    pub(crate) fn new(shape: &Shape, start_revision: i64) -> Self {
        Self {
            watchers: vec![Watcher::default(); shape.watchers],
            streams: shape.streams,
            start_revision,
            created: 0,
            faults: Faults::default(),
        }
    }

    /// Reads a response on stream number `stream`, and tells of each event with its watcher's number.
    pub(crate) fn on_response(
        &mut self,
        stream: usize,
        message: &[u8],
        mut on_event: impl FnMut(&mut Faults, usize, &Event<'_>),
    ) {
        let Ok(mut response) = WatchResponse::read(message) else {
            self.faults.add("malformed WatchResponse", || shown(message));
            return;
        };
        let head = response.head;
        if head.is_canceled {
            self.faults.add("watcher canceled", || {
                let reason = String::from_utf8_lossy(head.cancel_reason).into_owned();
                format!("compact revision {}, {reason:?}", head.compact_revision)
            });
            return;
        }
        let number = usize::try_from(head.watch_id).ok().and_then(|id| {
            let number = id.checked_mul(self.streams)?.checked_add(stream)?;
            (number < self.watchers.len()).then_some(number)
        });
        let Some(number) = number else {
            self.faults.add("unknown watch id", || format!("{} on stream {stream}", head.watch_id));
            return;
        };
        let watcher = &mut self.watchers[number];
        if head.is_created {
            if watcher.is_created {
                self.faults.add("watcher created twice", || format!("watcher {number}"));
            }
            self.created += usize::from(!watcher.is_created);
            watcher.is_created = true;
            watcher.last_revision =
                if self.start_revision == 0 { head.revision } else { self.start_revision - 1 };
        }
        let before = watcher.last_revision;
        let mut last = before;
        loop {
            let event = match response.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => {
                    self.faults.add("malformed event", || shown(message));
                    break;
                }
            };
            let revision = event.mod_revision;
            if !watcher.is_created {
                self.faults.add("event before its watcher was created", || format!("watcher {number}"));
            }
            if revision <= before || revision < last {
                self.faults.add("revision repeated or out of order", || {
                    format!("{revision} after {last}, watcher {number}")
                });
            }
            last = last.max(revision);
            on_event(&mut self.faults, number, &event);
        }
        watcher.last_revision = last;
    }
}

/// A script that keeps a book.
pub(crate) trait Watching: Script {
    fn book(&mut self) -> &mut Book;
}

/// Opens the shape's streams on `lanes`, tagged by their number.
pub(crate) fn open_streams(
    streams: &mut Streams,
    lanes: Range<usize>,
    shape: &Shape,
) -> Result<Vec<StreamRef>, ClientError> {
    let lanes: Vec<usize> = lanes.collect();
    (0..shape.streams)
        .map(|number| {
            let lane = lanes[number % lanes.len()];
            if !streams.has_room(lane, usize::MAX) {
                let text = format!("the server takes no more than {} streams", number / lanes.len());
                return Err(ClientError::Call(text));
            }
            Ok(streams.open(lane, Method::Watch, number as u64))
        })
        .collect()
}

/// Asks for every watcher of the shape and waits until the server has made them all.
pub(crate) fn create(
    streams: &mut Streams,
    refs: &[StreamRef],
    shape: &Shape,
    space: &Space,
    clock: Clock,
    script: &mut impl Watching,
) -> Result<(), ClientError> {
    let give_up_ns = clock.now_ns() + nanos(CREATE_TIMEOUT);
    let start_revision = script.book().start_revision;
    let (mut message, mut key) = (Vec::new(), Vec::new());
    let mut asked = 0;
    while script.book().created < shape.watchers {
        while asked < shape.watchers && !streams.is_choked(refs[asked % refs.len()]) {
            message.clear();
            key.clear();
            match shape.scope {
                Scope::OneKey => {
                    space.put_key(&mut key, 0);
                    messages::put_watch_create(&mut message, &key, b"", start_revision);
                }
                Scope::Prefix => {
                    messages::put_watch_create(&mut message, PREFIX, PREFIX_END, start_revision);
                }
                Scope::DistinctKeys => {
                    space.put_key(&mut key, asked as u64);
                    messages::put_watch_create(&mut message, &key, b"", start_revision);
                }
            }
            streams.send(refs[asked % refs.len()], &message);
            asked += 1;
        }
        streams.turn(None, script)?;
        let book = script.book();
        if !book.faults.is_empty() || give_up_ns < clock.now_ns() {
            let faults: Vec<String> =
                book.faults.lines().iter().map(|line| format!("{}: {}", line.what, line.example)).collect();
            let text =
                format!("{} of {} watchers created; {}", book.created, shape.watchers, faults.join(", "));
            return Err(ClientError::Call(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_watchers_need_fewer_streams_without_saying_so() {
        let shape = |watchers, streams, connections| {
            Shape::new(watchers, streams, connections, Scope::OneKey)
                .map(|shape| (shape.watchers, shape.streams, shape.connections))
        };
        assert_eq!(shape(1000, None, None), Ok((1000, 1000, 10)));
        assert_eq!(shape(5, None, None), Ok((5, 5, 5)));
        assert_eq!(shape(100_000, None, None), Ok((100_000, 1000, 10)));
        assert_eq!(shape(1000, Some(4), None), Ok((1000, 4, 4)));
        assert_eq!(shape(5000, None, Some(2000)), Ok((5000, 2000, 2000)));
        assert!(shape(100, Some(200), None).unwrap_err().contains("100 watchers cannot fill 200 streams"));
        assert!(shape(100, None, Some(200)).unwrap_err().contains("100 watchers cannot fill 200 streams"));
        assert!(shape(100, Some(5), Some(6)).unwrap_err().contains("5 streams cannot fill 6 connections"));
    }

    #[test]
    fn shapes_are_told_in_words() {
        let shape = Shape::new(1000, None, None, Scope::DistinctKeys).unwrap();
        assert_eq!(shape.to_string(), "1000 watchers of a key each, 1000 streams, 10 connections");
    }
    use crate::protobuf::{put_length, put_varint};

    /// A WatchResponse with these events' revisions.
    fn response(watch_id: u64, header_revision: u64, is_created: bool, revisions: &[u64]) -> Vec<u8> {
        let mut header = Vec::new();
        put_varint(&mut header, 3, header_revision);
        let mut message = Vec::new();
        put_length(&mut message, 1, header.len());
        message.extend_from_slice(&header);
        put_varint(&mut message, 2, watch_id);
        put_varint(&mut message, 3, u64::from(is_created));
        for &revision in revisions {
            let mut pair = Vec::new();
            put_varint(&mut pair, 3, revision);
            let mut event = Vec::new();
            put_length(&mut event, 2, pair.len());
            event.extend_from_slice(&pair);
            put_length(&mut message, 11, event.len());
            message.extend_from_slice(&event);
        }
        message
    }

    /// Four watchers on two streams, all created at revision 5.
    fn book() -> Book {
        let shape = Shape { watchers: 4, streams: 2, connections: 1, scope: Scope::Prefix };
        let mut book = Book::new(&shape, 0);
        for stream in 0..2 {
            for id in 0..2 {
                book.on_response(stream, &response(id, 5, true, &[]), |_, _, _| unreachable!());
            }
        }
        assert_eq!((book.created, book.faults.lines().len()), (4, 0));
        book
    }

    fn faults(book: &mut Book, stream: usize, message: &[u8]) -> Vec<String> {
        book.faults = Faults::default();
        book.on_response(stream, message, |_, _, _| {});
        book.faults.lines().into_iter().map(|line| line.what).collect()
    }

    #[test]
    fn events_reach_the_watcher_that_the_id_and_stream_name() {
        let mut book = book();
        let mut seen = Vec::new();
        for (stream, id) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            book.on_response(stream, &response(id, 9, false, &[6, 7, 7]), |_, watcher, event| {
                seen.push((watcher, event.mod_revision));
            });
        }
        let expected: Vec<_> =
            (0..4).flat_map(|watcher| [(watcher, 6), (watcher, 7), (watcher, 7)]).collect();
        assert_eq!(seen, expected);
        assert!(book.faults.is_empty(), "events of one revision stand together");
        assert_eq!(book.watchers[3].last_revision, 7);
    }

    #[test]
    fn every_broken_promise_is_a_fault() {
        let wrong = ["revision repeated or out of order"];
        let mut book = book();
        assert_eq!(faults(&mut book, 0, &response(0, 6, false, &[6])), [""; 0]);
        assert_eq!(faults(&mut book, 0, &response(0, 6, false, &[6])), wrong, "delivered twice");
        assert_eq!(faults(&mut book, 0, &response(0, 9, false, &[9, 8])), wrong, "out of order");
        assert_eq!(faults(&mut book, 1, &response(0, 9, false, &[5])), wrong, "older than the watcher");
        assert_eq!(faults(&mut book, 0, &response(2, 9, false, &[10])), ["unknown watch id"]);
        assert_eq!(faults(&mut book, 0, &response(u64::MAX, 9, false, &[10])), ["unknown watch id"]);
        assert_eq!(faults(&mut book, 0, &response(1, 9, true, &[])), ["watcher created twice"]);
        assert_eq!(faults(&mut book, 0, b"\x0b"), ["malformed WatchResponse"]);
        let mut canceled = response(0, 9, false, &[]);
        put_varint(&mut canceled, 4, 1);
        assert_eq!(faults(&mut book, 0, &canceled), ["watcher canceled"]);
        let shape = Shape { watchers: 1, streams: 1, connections: 1, scope: Scope::Prefix };
        let mut fresh = Book::new(&shape, 0);
        let early = faults(&mut fresh, 0, &response(0, 9, false, &[10]));
        assert_eq!(early, ["event before its watcher was created"]);
        let mut past = Book::new(&shape, 3);
        assert_eq!(faults(&mut past, 0, &response(0, 9, true, &[3, 4])), [""; 0], "a start in the past");
    }
}
