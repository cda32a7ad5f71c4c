//! Whose turn it is to read history.
//!
//! One slice of history is on its way at a time; it serves a *cohort* of watchers that stand close
//! together. Turns alternate. Every second one goes to whoever has the least to catch up, so a
//! watcher that lost a few revisions is back soon however many others read millions. The ones between
//! go round: over the streams, and within a stream over its watchers, so everybody is served and no
//! client gets more turns for having more watchers.
//!
//! Invariant: exactly the streams that have watchers behind and are not blocked are in both sets, in
//! `nearest` with the position that the stream keeps as its `rank`.
//! Cost: a change of a stream O(log streams); a turn O(cohort · log watchers).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::StreamId;
use super::stream::Stream;

/// Watchers that one slice serves at most, as in etcd.
const COHORT_MAX: usize = 512;

/// How far ahead of the slice's first revision a watcher may stand to be served by it too. A slice
/// ends where the store decides, so one that stands further would mostly make the slice fuller and
/// thus shorter for nothing.
const COHORT_REVISIONS: i64 = 4_096;

/// Who is served by one slice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// First revision that is wanted.
    pub(super) from: i64,
    /// Slots, each once. One of them stands at `from`, none before.
    pub(super) cohort: Vec<u32>,
}

#[derive(Debug, Default)]
pub(super) struct UnsyncedTurns {
    ready: BTreeSet<StreamId>,
    nearest: BTreeSet<(i64, StreamId)>,
    /// The stream whose turn was last.
    last: Option<StreamId>,
    is_nearest_due: bool,
}

impl UnsyncedTurns {
    /// To be called after any change of what is behind in the stream or whether it is blocked.
    pub(super) fn rank(&mut self, id: StreamId, stream: &mut Stream) {
        let rank = if stream.is_blocked { None } else { stream.behind.nearest().map(|(next, _)| next) };
        if rank == stream.rank {
            return;
        }
        if let Some(old) = stream.rank {
            self.nearest.remove(&(old, id));
        }
        match rank {
            Some(new) => {
                self.nearest.insert((new, id));
                self.ready.insert(id);
            }
            None => {
                self.ready.remove(&id);
            }
        }
        stream.rank = rank;
    }

    /// Forgets a stream that is closed.
    pub(super) fn remove(&mut self, id: StreamId, stream: &Stream) {
        if let Some(rank) = stream.rank {
            self.nearest.remove(&(rank, id));
            self.ready.remove(&id);
        }
    }

    /// Whose turn it is; `None` when nobody is behind who could be served. `next_of` tells the
    /// position of a watcher.
    pub(super) fn take(
        &mut self,
        streams: &mut BTreeMap<StreamId, Stream>,
        next_of: impl Fn(u32) -> i64,
    ) -> Option<Turn> {
        self.is_nearest_due = !self.is_nearest_due;
        let (id, slot) = if self.is_nearest_due {
            let &(_, id) = self.nearest.last()?;
            (id, behind(streams, id).nearest().map(|(_, slot)| slot))
        } else {
            let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
            let mut from_here = self.ready.range((after, Bound::Unbounded));
            let &id = from_here.next().or_else(|| self.ready.first())?;
            self.last = Some(id);
            (id, behind(streams, id).take_turn())
        };
        let leader = slot.expect("a stream that is ready has a watcher behind");
        let from = next_of(leader);
        let end = from.saturating_add(COHORT_REVISIONS);
        let mut cohort = vec![leader];
        cohort.extend(
            behind(streams, id).within(from, end).filter(|&slot| slot != leader).take(COHORT_MAX - 1),
        );
        // Streams before this place in `nearest` have nobody at `from` or later. The bound on how
        // many are looked at is for those that have somebody far later only.
        for &(_, other) in self.nearest.range((from, StreamId(0))..).take(COHORT_MAX) {
            if cohort.len() == COHORT_MAX {
                break;
            }
            if other != id {
                let left = COHORT_MAX - cohort.len();
                cohort.extend(behind(streams, other).within(from, end).take(left));
            }
        }
        Some(Turn { from, cohort })
    }
}

fn behind(streams: &mut BTreeMap<StreamId, Stream>, id: StreamId) -> &mut super::stream::Behind {
    &mut streams.get_mut(&id).expect("a stream that is ready is open").behind
}
