//! Followers that need more of the log than memory holds.
//!
//! raft-rs asks for entries, hears that they come later, and is asked again when the shell has read them
//! from the disk ([`Fetch`]). What it is then given is checked against the terms that this log knows, so
//! nothing depends on how the shell found it. A wish needs no care: raft-rs repeats it at the follower's
//! next heartbeat, so one that was dropped, failed or came too late costs a heartbeat interval.
//!
//! Invariants: at most [`FETCHES_MAX`] fetches are out, none twice. While one follower has
//! [`UNANSWERED_MAX`] appends unanswered, nothing is read for it: memory and the disk's bandwidth
//! are spent at the pace at which followers take it.

use std::collections::BTreeMap;

use ::raft::{GetEntriesContext, ProgressState, SnapshotStatus, StateRole};

use super::Node;
use crate::raft::entry::Entry;
use crate::raft::snapshot::CheckpointMeta;
use crate::types::{LogIndex, MemberId, Term};

/// Fetches that are out at once.
const FETCHES_MAX: usize = 4;

/// Appends to one follower that may be unanswered when the next one is read for it.
const UNANSWERED_MAX: usize = 4;

/// Wishes for one place. Followers of one place are few.
const CONTEXTS_MAX: usize = 8;

/// Places that are wished for.
const PLACES_MAX: usize = 64;

/// Ticks after which a fetch that was not answered is asked again; a disk may stall.
const FETCH_PATIENCE: u64 = 50;

/// Failures in a row after which the disk counts as holding nothing that memory does not.
const FAILURES_MAX: u32 = 3;

/// Entries for the shell to read from the log on the disk; answered with [`Node::on_fetched`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub number: u64,
    pub first: LogIndex,
    /// Nothing behind this one is of use.
    pub last: LogIndex,
    /// Enough for one message.
    pub bytes_max: u64,
    /// Which term wrote what: each holds from its entry on. An entry of another term was replaced.
    pub terms: Vec<(LogIndex, Term)>,
}

#[derive(Debug)]
struct Place {
    last: u64,
    bytes_max: u64,
    contexts: Vec<GetEntriesContext>,
    /// The tick of the first wish.
    since: u64,
    /// Number and tick of the fetch that is out.
    asked: Option<(u64, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    tick: u64,
    /// By their first entry.
    places: BTreeMap<u64, Place>,
    /// Of the last fetch.
    number: u64,
    failures: u32,
    /// Nothing is fetched before this tick.
    pause_until: u64,
    /// When each follower was last heard of.
    heard: BTreeMap<MemberId, u64>,
}

impl Node {
    pub(super) fn tick_catch_up(&mut self) {
        self.catch_up.tick += 1;
        let (raft, tick) = (&self.raw.raft, self.catch_up.tick);
        if raft.state != StateRole::Leader {
            self.catch_up.heard.clear();
            return;
        }
        for (id, _) in raft.prs().iter().filter(|(_, progress)| progress.recent_active) {
            self.catch_up.heard.insert(MemberId(*id), tick);
        }
        let is_known = |member: &MemberId| raft.prs().get(member.0).is_some();
        self.catch_up.heard.retain(|member, _| is_known(member));
    }

    /// The next entries to read from the disk, if any are needed.
    #[must_use]
    pub fn take_fetch(&mut self) -> Option<Fetch> {
        self.note_wanted();
        if self.catch_up.places.is_empty() {
            return None;
        }
        let Self { raw, catch_up, election_ticks, .. } = self;
        let raft = &raw.raft;
        if raft.state != StateRole::Leader {
            catch_up.places.clear();
            return None;
        }
        let tick = catch_up.tick;
        let at = |first: u64| raft.prs().iter().filter(move |(_, progress)| progress.next_idx == first);
        catch_up.places.retain(|first, place| {
            if place.asked.is_some_and(|(_, since)| since + FETCH_PATIENCE <= tick) {
                place.asked = None;
            }
            // Followers that have gone on wish for something else.
            place.asked.is_some() || at(*first).next().is_some()
        });
        let out = catch_up.places.values().filter(|place| place.asked.is_some()).count();
        if FETCHES_MAX <= out || tick < catch_up.pause_until {
            return None;
        }
        let takes = |first: u64| at(first).any(|(_, progress)| progress.ins.count() < UNANSWERED_MAX);
        // What was lost on its way is never answered. One more, and the follower rejects it and says where
        // it stands; without that it would wait for ever.
        let is_overdue = |place: &Place| place.since + *election_ticks <= tick;
        let is_next = |(first, place): &(&u64, &mut Place)| {
            place.asked.is_none() && (takes(**first) || is_overdue(place))
        };
        let (&first, place) = catch_up.places.iter_mut().find(is_next)?;
        if first <= raft.store().floor() {
            // Gone meanwhile; asked again, raft-rs sends a checkpoint.
            catch_up.places.remove(&first);
            return None;
        }
        catch_up.number += 1;
        place.asked = Some((catch_up.number, tick));
        Some(Fetch {
            number: catch_up.number,
            first: LogIndex(first),
            last: LogIndex(place.last),
            bytes_max: place.bytes_max,
            terms: raft.store().terms(first, place.last),
        })
    }

    /// Takes down what raft-rs asked of the log since the last call.
    fn note_wanted(&mut self) {
        for wanted in self.raw.store().take_wanted() {
            let places = &mut self.catch_up.places;
            if !places.contains_key(&wanted.first) && PLACES_MAX <= places.len() {
                continue;
            }
            let place = places.entry(wanted.first).or_insert(Place {
                last: wanted.last,
                bytes_max: wanted.bytes_max,
                contexts: Vec::new(),
                since: self.catch_up.tick,
                asked: None,
            });
            if place.contexts.len() < CONTEXTS_MAX {
                place.contexts.push(wanted.context);
            }
        }
    }

    /// What a fetch brought: entries from its first one on, or nothing, because they cannot be read.
    /// An answer that nobody waits for any more is ignored, as is one that is not this log's.
    pub fn on_fetched(&mut self, number: u64, entries: Option<Vec<Entry>>) {
        let places = &mut self.catch_up.places;
        let is_asked = |place: &Place| place.asked.is_some_and(|(asked, _)| asked == number);
        let Some((&first, _)) = places.iter().find(|(_, place)| is_asked(place)) else { return };
        let place = places.remove(&first).expect("just found");
        if self.raw.raft.state != StateRole::Leader {
            return;
        }
        let entries = entries.map(|entries| entries.into_iter().map(Entry::into_library).collect::<Vec<_>>());
        let entries = entries.filter(|entries| self.raw.store().is_of_disk(first, entries));
        let Some(entries) = entries else { return self.on_fetch_failed(first) };
        self.catch_up.failures = 0;
        self.raw.mut_store().lay_out(entries);
        for context in place.contexts {
            self.raw.on_entries_fetched(context);
        }
        self.raw.mut_store().lay_out(Vec::new());
        self.after_event();
    }

    fn on_fetch_failed(&mut self, first: u64) {
        // What the disk let go of meanwhile is no failure of it.
        if first <= self.raw.store().floor() {
            return;
        }
        self.catch_up.failures += 1;
        self.catch_up.pause_until = self.catch_up.tick + 1;
        if FAILURES_MAX <= self.catch_up.failures {
            self.catch_up.failures = 0;
            let dropped = self.raw.store().dropped().0;
            self.raw.mut_store().on_disk_released(dropped);
        }
    }

    /// The log on the disk has let go of everything up to `index`: whoever needs that gets a checkpoint.
    pub fn on_log_released(&mut self, index: LogIndex) {
        self.raw.mut_store().on_disk_released(index.0);
    }

    /// While this member leads: the entry behind which followers that were heard of in the last so many
    /// election timeouts may need everything. It is never past the newest checkpoint, before which alone the
    /// disk may let go of entries.
    #[must_use]
    pub fn log_needed_after(&self, elections: u64) -> Option<LogIndex> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return None;
        }
        let (floor, checkpoint) = (raft.store().floor(), raft.store().checkpoint().index.0);
        let patience = elections * self.election_ticks;
        let needs = raft.prs().iter().filter_map(|(id, progress)| {
            let heard = self.catch_up.heard.get(&MemberId(*id));
            let was_heard = heard.is_some_and(|heard| self.catch_up.tick <= heard + patience);
            // One that was heard of after the last tick may have a checkpoint on its way already.
            if *id == self.id.0 || !(was_heard || progress.recent_active) {
                return None;
            }
            let has = match progress.state {
                ProgressState::Snapshot => progress.matched.max(progress.pending_snapshot),
                ProgressState::Probe | ProgressState::Replicate => progress.matched,
            };
            // One that was sent a checkpoint and has not answered yet goes on behind that.
            let has = if has < floor { has.max(progress.next_idx - 1) } else { has };
            // One that the log cannot help gets this checkpoint or a newer one.
            Some(if has < floor { checkpoint } else { has.min(checkpoint) })
        });
        needs.min().map(LogIndex)
    }

    /// A `Snapshot` message's checkpoint reached the peer, or did not.
    pub fn on_checkpoint_sent(&mut self, peer: MemberId, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(peer.0, status);
        self.after_event();
    }

    /// A checkpoint of this member's state machine is durable.
    ///
    /// # Panics
    /// When it ends past what is applied.
    pub fn on_checkpoint(&mut self, meta: CheckpointMeta) {
        self.raw.mut_store().on_checkpoint(meta);
    }

    /// Whether a follower needs entries that only a newer checkpoint can bring. Asking clears it.
    #[must_use]
    pub fn take_checkpoint_wanted(&self) -> bool {
        self.raw.store().take_checkpoint_wanted()
    }

    /// The newest durable checkpoint, or the one the member started from.
    #[must_use]
    pub fn checkpoint(&self) -> &CheckpointMeta {
        self.raw.store().checkpoint()
    }

    /// Whether so much is in memory that more from the leader has to wait, and applying will make room.
    pub(super) fn is_behind_applying(&self) -> bool {
        let store = self.raw.store();
        self.unapplied_bytes_max < store.unapplied_bytes() && store.applied() < self.handed_out.0
    }
}
