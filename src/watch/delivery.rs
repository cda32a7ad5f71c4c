//! Events of one watcher as responses: whole revisions, cut where they get long, in fragments where
//! the client can put them together again.

use super::encode::{event_field_len, frame_len};
use super::watcher::Watcher;
use super::{Event, Response, Sink};

/// Revisions of one response at most, as in etcd.
const REVISIONS_MAX: usize = 1_000;

/// Bytes of events in one response, unless a single revision has more. A response is copied whole
/// into its stream's outbox, so this bounds what one push adds to it.
const EVENTS_BYTES_MAX: usize = 1 << 20;

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
    fragment_bytes: usize,
    sink: &mut impl Sink,
) -> Option<i64> {
    let mut rest = events;
    while let [first, ..] = rest {
        if !sink.has_room(watcher.stream) {
            return Some(first.revision);
        }
        let (now, later) = rest.split_at(cut(rest, watcher.wants.previous));
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
            push_fragments(watcher, response, fragment_bytes, sink);
        } else {
            sink.push(watcher.stream, &response);
        }
        rest = later;
    }
    None
}

/// How many of the events go into one response: whole revisions, at least one.
fn cut(events: &[&Event], previous: bool) -> usize {
    let (mut len, mut bytes) = (0, 0);
    for _ in 0..REVISIONS_MAX {
        let Some(first) = events.get(len) else { break };
        let of_revision = events[len..].iter().take_while(|event| event.revision == first.revision);
        let (mut count, mut revision_bytes) = (0, 0);
        for event in of_revision {
            count += 1;
            revision_bytes += event_field_len(event, previous);
        }
        if len > 0 && bytes + revision_bytes > EVENTS_BYTES_MAX {
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
