//! Reads that wait until the state has reached their revision.
//!
//! A reader that has seen revision r at another member asks for an answer of r or later. Here it waits in the order of
//! revisions, and is answered in the turn in which the state gets there. Its shard ends the client's wait in time; what
//! is left here then is dropped when it is the oldest.
//!
//! Bounds: `WAITING_MAX` reads, `WAITING_BYTES_MAX` of queries; beyond either a read is refused. `PATIENCE` of each.
//! Cost: a comparison a turn while nobody waits; O(log waiting) a read.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::request::{Query, Read};
use crate::types::Ticket;

/// Reads that wait.
const WAITING_MAX: usize = 16_384;

/// Bytes of their queries.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// What a read costs besides its query's bytes, about.
const READ_BYTES: usize = 512;

/// Twice as long as a shard lets a client wait, unless elections take long here.
const PATIENCE: Duration = Duration::from_secs(15);

/// One read.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    read: Read,
    bytes: usize,
}

/// What becomes of a read that arrives.
#[derive(Debug)]
pub(super) enum Admitted {
    /// The state is new enough.
    Ready(Read),
    Waits,
    /// There are too many.
    Refused,
}

/// The reads that wait, by their revision and in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct NotOlderReads {
    waiting: BTreeMap<(i64, u64), Waiting>,
    /// When each came, the oldest first. Some are answered already.
    came: VecDeque<(Instant, (i64, u64))>,
    next: u64,
    bytes: usize,
}

impl NotOlderReads {
    /// Takes a read in whose answer has to be of `revision`, while the state is at `current`.
    pub(super) fn admit(
        &mut self,
        ticket: Ticket,
        revision: i64,
        read: Read,
        current: i64,
        now: Instant,
    ) -> Admitted {
        if revision <= current {
            return Admitted::Ready(read);
        }
        self.drop_late(now);
        let bytes = READ_BYTES + query_bytes(&read.query);
        if WAITING_MAX <= self.came.len() || WAITING_BYTES_MAX < self.bytes + bytes {
            return Admitted::Refused;
        }
        let place = (revision, self.next);
        self.next += 1;
        self.bytes += bytes;
        self.waiting.insert(place, Waiting { ticket, read, bytes });
        self.came.push_back((now, place));
        Admitted::Waits
    }

    /// The next read that a state at `current` is new enough for.
    pub(super) fn take_ready(&mut self, current: i64) -> Option<(Ticket, Read)> {
        let first = self.waiting.first_entry()?;
        if current < first.key().0 {
            return None;
        }
        let Waiting { ticket, read, bytes } = first.remove();
        self.bytes -= bytes;
        if self.waiting.is_empty() {
            self.came.clear();
        }
        Some((ticket, read))
    }

    /// Drops those whose clients have long been told that it took too long, and what is left of those that were
    /// answered.
    fn drop_late(&mut self, now: Instant) {
        while let Some((came, place)) = self.came.front() {
            let is_late = PATIENCE < now.duration_since(*came);
            if !is_late && self.waiting.contains_key(place) {
                return;
            }
            if let Some(late) = self.waiting.remove(place) {
                self.bytes -= late.bytes;
            }
            self.came.pop_front();
        }
    }
}

fn query_bytes(query: &Query) -> usize {
    match query {
        Query::Range(request) => request.encoded_len(),
        Query::RangeSlice(slice) => slice.request.encoded_len() + slice.start.len(),
        Query::Txn(request) => request.encoded_len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::RangeRequest;
    use crate::types::Caller;

    fn read(key: &'static [u8]) -> Read {
        Read::new(true, Query::Range(RangeRequest { key: key.into(), ..Default::default() }))
    }

    fn ticket() -> Ticket {
        Caller::Nobody.into()
    }

    #[test]
    fn reads_are_answered_by_revision_and_then_in_their_order_and_none_too_early() {
        let (mut reads, now) = (NotOlderReads::default(), Instant::now());
        assert!(matches!(reads.admit(ticket(), 7, read(b"ready"), 7, now), Admitted::Ready(_)));
        for (revision, key) in [(9, &b"c"[..]), (8, b"a"), (8, b"b"), (12, b"d")] {
            assert!(matches!(reads.admit(ticket(), revision, read(key), 7, now), Admitted::Waits));
        }
        assert!(reads.take_ready(7).is_none());
        let mut taken = |current| {
            let ready = std::iter::from_fn(|| reads.take_ready(current));
            let key = |read: Read| match read.query {
                Query::Range(range) => String::from_utf8(range.key.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            };
            ready.map(|(_, read)| key(read)).collect::<Vec<_>>()
        };
        assert_eq!(taken(8), ["a", "b"]);
        assert_eq!(taken(11), ["c"]);
        assert_eq!(taken(100), ["d"]);
        assert_eq!((reads.bytes, reads.waiting.len(), reads.came.len()), (0, 0, 0));
    }

    #[test]
    fn what_waits_is_bounded_and_those_that_nobody_waits_for_make_room() {
        let (mut reads, now) = (NotOlderReads::default(), Instant::now());
        let fill = |reads: &mut NotOlderReads, now| {
            (0..)
                .take_while(|_| matches!(reads.admit(ticket(), 9, read(b"k"), 7, now), Admitted::Waits))
                .count()
        };
        assert_eq!(fill(&mut reads, now), WAITING_MAX);
        assert_eq!(fill(&mut reads, now + PATIENCE / 2), 0);
        assert_eq!(fill(&mut reads, now + PATIENCE * 2), WAITING_MAX);
        assert_eq!(reads.waiting.len(), WAITING_MAX);
        let mut large = NotOlderReads::default();
        static KEY: [u8; 1 << 20] = [0; 1 << 20];
        let count =
            (0..).take_while(|_| matches!(large.admit(ticket(), 9, read(&KEY), 7, now), Admitted::Waits));
        assert_eq!(count.count(), 63);
    }
}
