//! Events of one watcher as responses: whole revisions, cut where they get long, in fragments where
//! the client can put them together again.

use super::watcher::Watcher;
use super::wire::{event_field_len, frame_len};
use super::{Event, Response, Sink};

/// How long responses get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseLimits {
    /// Revisions of one response at most.
    pub(super) revisions_max: usize,
    /// Bytes of events in one response, unless a single revision has more. A response is copied whole
    /// into its stream's outbox, so this bounds what one push adds to it.
    pub(super) events_bytes_max: usize,
    /// From this size on a response is sent in fragments to those who asked for them.
    pub(super) fragment_bytes: usize,
}

impl ResponseLimits {
    /// A thousand revisions are etcd's bound; it has none for bytes.
    pub(super) fn new(fragment_bytes: usize) -> Self {
        Self { revisions_max: 1_000, events_bytes_max: 1 << 20, fragment_bytes }
    }
}

/// The largest `ResponseHeader` with its tag and length: four numbers of at most ten bytes.
const HEADER_BYTES_MAX: usize = 2 + 4 * 11;

/// What `header.revision` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderRevision {
    /// The last event's: the watcher is told what happens as it happens.
    LastEvent,
    /// Where the store stood when the history was read.
    Current(i64),
}

/// Pushes the events of a watcher. Returns the first revision that found no room, with which the
/// watcher has to go on later; `None` when everything was pushed.
pub(super) fn deliver(
    watcher: &Watcher,
    events: &[&Event],
    header: HeaderRevision,
    limits: &ResponseLimits,
    sink: &mut impl Sink,
) -> Option<i64> {
    let mut rest = events;
    while let [first, ..] = rest {
        if !sink.has_room(watcher.stream) {
            return Some(first.revision);
        }
        let (now, later) = rest.split_at(cut(rest, watcher.wants.previous, limits));
        let last = now.last().expect("a cut takes at least one revision");
        let revision = match header {
            HeaderRevision::LastEvent => last.revision,
            HeaderRevision::Current(current) => current,
        };
        let response = Response {
            watch_id: watcher.watch_id,
            revision,
            events: now,
            previous: watcher.wants.previous,
            ..Response::default()
        };
        if watcher.wants.fragment && now.len() > 1 {
            push_fragments(watcher, response, limits.fragment_bytes, sink);
        } else {
            sink.push(watcher.stream, &response);
        }
        rest = later;
    }
    None
}

/// How many of the events go into one response: whole revisions, at least one.
fn cut(events: &[&Event], previous: bool, limits: &ResponseLimits) -> usize {
    let (mut len, mut bytes) = (0, 0);
    for _ in 0..limits.revisions_max {
        let Some(first) = events.get(len) else { break };
        let of_revision = events[len..].iter().take_while(|event| event.revision == first.revision);
        let (mut count, mut revision_bytes) = (0, 0);
        for event in of_revision {
            count += 1;
            revision_bytes += event_field_len(event, previous);
        }
        if len > 0 && bytes + revision_bytes > limits.events_bytes_max {
            break;
        }
        len += count;
        bytes += revision_bytes;
    }
    len
}

/// As etcd's `sendFragments`: a part takes events until the next one would bring it to the bound, and
/// at least one.
fn push_fragments(watcher: &Watcher, whole: Response<'_>, fragment_bytes: usize, sink: &mut impl Sink) {
    let frame = HEADER_BYTES_MAX + frame_len(&Response { fragment: true, ..whole });
    let mut rest = whole.events;
    while !rest.is_empty() {
        let (mut count, mut bytes) = (0, frame);
        for event in rest {
            bytes += event_field_len(event, whole.previous);
            if count > 0 && bytes >= fragment_bytes {
                break;
            }
            count += 1;
        }
        let (part, later) = rest.split_at(count);
        let response = Response { events: part, fragment: !later.is_empty(), ..whole };
        sink.push(watcher.stream, &response);
        rest = later;
    }
}
