//! Compaction: history below a revision becomes unreadable at once and is removed in slices.
//!
//! What goes (`Record::is_dropped_at`): a version that had a newer one at the compact revision, and
//! a tombstone older than it. A tombstone exactly at the compact revision stays until the next
//! compaction, so that a watch from there still sees the delete.
//!
//! A job has two passes. The *walk* goes once over the records written between the last compact
//! revision and this one: each names the version it superseded, which is given up, and a tombstone
//! gives up itself and its key. So the walk costs what was written in between, not what is stored.
//! The *sweep* goes over the chunks up to the compact revision and rewrites those of which at
//! least a quarter is given up, joining small neighbours. So given-up records hold back at most a
//! third of what is retained, and no more than four bytes are copied for each byte freed.
//!
//! Between slices the store is whole: given-up records are unreadable whether removed or not.
//! While something is pinned (`pin`), jobs beyond the oldest pin wait, and what they would give up is counted.

use super::Store;
use super::log::{CHUNK_BYTES, Chunk, SegmentBox};
use super::record::NEWEST;
use super::store::KEY_OVERHEAD_BYTES;
use crate::types::Slice;
use crate::types::limits::SETTLE_NS;

/// Which compactions are carried out physically, and the one under way.
#[derive(Debug)]
pub(super) struct Compaction {
    done: i64,
    job: Option<Job>,
    held: Held,
}

/// What the oldest pin keeps that a compaction would have given up.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// The pin's revision.
    from: i64,
    /// Records below this are counted.
    next_seq: u64,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    to: i64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Goes on at this record.
    Walk(u64),
    /// Goes on at the chunk that holds this record.
    Sweep(u64),
}

impl Compaction {
    pub(super) fn new(done: i64) -> Self {
        Self { done, job: None, held: Held::default() }
    }

    /// The compact revision up to which all is removed.
    pub(super) fn done(&self) -> i64 {
        self.done
    }

    pub(super) fn is_idle(&self) -> bool {
        self.job.is_none()
    }

    /// The revision of the job whose walk is complete, if there is one.
    pub(super) fn walked(&self) -> Option<i64> {
        self.job.filter(|job| matches!(job.phase, Phase::Sweep(_))).map(|job| job.to)
    }
}

impl Store {
    /// Makes revisions below `revision` unreadable at once. The caller has checked that it is above
    /// the compact revision and not above the current one. Memory comes back by `compact_slice`.
    pub fn compact(&mut self, revision: i64) {
        assert!(self.compacted < revision, "{revision} is compacted already at {}", self.compacted);
        assert!(revision <= self.current, "{revision} is above the current revision {}", self.current);
        self.compacted = revision;
    }

    /// Removes compacted history, about `steps` records' worth of work (one more chunk at most:
    /// a few tens of microseconds). True when nothing is left to do now: all is removed, or what
    /// remains waits for a running checkpoint.
    pub fn compact_slice(&mut self, steps: usize) -> bool {
        assert!(!self.is_writing(), "what a write superseded is not removed before it is committed");
        let mut steps = steps.max(1);
        if !self.is_settled() {
            // What is removed is told by what is written in the log.
            let mut slice = Slice::of((steps as u64).saturating_mul(SETTLE_NS));
            if !self.settle_slice(&mut slice) {
                return false;
            }
            steps = slice.units_left(SETTLE_NS).min(steps);
        }
        while 0 < steps {
            let Some(job) = self.compaction.job else {
                let held_at = self.pins.held_at();
                let to = held_at.map_or(self.compacted, |held_at| held_at.min(self.compacted));
                if to <= self.compaction.done {
                    self.count_held(to, steps);
                    return true;
                }
                // From the old compact revision on, not behind it: its tombstones were kept.
                let first = self.log.seq_of_revision(self.compaction.done);
                self.compaction.job = Some(Job { to, phase: Phase::Walk(first) });
                continue;
            };
            match job.phase {
                Phase::Walk(seq) => self.walk(job.to, seq, &mut steps),
                Phase::Sweep(seq) => self.sweep(job.to, seq, &mut steps),
            }
        }
        false
    }

    /// Counts what a job from `from` to the compact revision would give up, which waits for a pin.
    fn count_held(&mut self, from: i64, steps: usize) {
        let mut held = self.compaction.held;
        if held.from != from || held.next_seq == 0 {
            held = Held { from, next_seq: self.log.seq_of_revision(from), bytes: 0 };
        }
        for record in self.log.iter_from(held.next_seq).take(steps) {
            if self.compacted < record.main {
                break;
            }
            held.next_seq = record.seq + 1;
            let previous = record.links.and_then(|links| self.log.get(links.previous));
            if from < record.main
                && let Some(previous) = previous
            {
                held.bytes += (previous.key.len() + previous.value.len()) as u64;
            }
        }
        self.compaction.held = held;
    }

    /// Bytes of keys and values that pins keep though they are compacted, as far as `compact_slice` has
    /// counted them.
    #[must_use]
    pub fn history_held_bytes(&self) -> u64 {
        if self.compaction.done < self.compacted && self.compaction.is_idle() {
            self.compaction.held.bytes
        } else {
            0
        }
    }

    /// Whether compacted history is still held in memory.
    #[must_use]
    pub fn is_compacting(&self) -> bool {
        self.compaction.done < self.compacted
    }

    /// The revision up to which compacted history is removed.
    #[must_use]
    pub fn removed_through(&self) -> i64 {
        self.compaction.done
    }

    fn walk(&mut self, to: i64, mut seq: u64, steps: &mut usize) {
        let done = self.compaction.done;
        while 0 < *steps {
            let Some(record) = self.log.iter_from(seq).next().filter(|record| record.main <= to) else {
                self.begin_sweep(to);
                return;
            };
            *steps -= 1;
            seq = record.seq;
            let (main, previous) = (record.main, record.links.map(|links| links.previous));
            if record.tombstone && record.is_dropped_at(to) && !record.is_dropped_at(done) {
                if record.superseded_at == NEWEST {
                    let (path, newest) = self.tree.find(record.key);
                    assert!(
                        newest.is_some_and(|newest| newest.is(&record)),
                        "the newest record is in the tree"
                    );
                    self.tree.remove(&path);
                    self.key_bytes -= record.key.len() as u64 + KEY_OVERHEAD_BYTES;
                }
                self.record_bytes -= self.log.note_dropped(seq) as u64;
                self.tallies.removed += 1;
            }
            // Superseded tombstones were handled when the walk, this or an earlier one, met them.
            let superseded = previous.filter(|_| done < main).and_then(|previous| self.log.get(previous));
            if let Some(put) = superseded.filter(|superseded| !superseded.tombstone) {
                let put = put.seq;
                self.record_bytes -= self.log.note_dropped(put) as u64;
                self.tallies.removed += 1;
            }
            seq += 1;
        }
        self.compaction.job = Some(Job { to, phase: Phase::Walk(seq) });
    }

    fn begin_sweep(&mut self, to: i64) {
        // The open chunk is swept too if it is worth it; otherwise at a later compaction.
        if self.log.is_open() && self.log.chunks().last().is_some_and(|open| is_worth_rewriting(open)) {
            self.log.seal();
        }
        self.compaction.job = Some(Job { to, phase: Phase::Sweep(0) });
    }

    fn sweep(&mut self, to: i64, seq: u64, steps: &mut usize) {
        let sealed = self.log.chunks().len() - usize::from(self.log.is_open());
        let mut end = self.log.position(seq).0.min(sealed);
        let mut start = end;
        let mut rewritten: Vec<SegmentBox> = Vec::new();
        let mut last = seq;
        if let Some(before) = start.checked_sub(1) {
            // A small chunk that the last slice left behind takes what comes next.
            if self.log.chunks()[before].bytes_count() < CHUNK_BYTES / 2 {
                start = before;
                rewritten.push(self.log.take(before));
            }
        }
        let mut finished = true;
        while end < sealed && self.log.chunks()[end].record_at(0).main <= to {
            if *steps == 0 {
                finished = false;
                break;
            }
            let chunk = self.log.take(end);
            end += 1;
            last = chunk.seq_at(chunk.records_count() - 1) + 1;
            let retained = chunk.bytes_count() - chunk.dropped_bytes();
            let joins = rewritten.last().is_some_and(|left| left.bytes_count() + retained <= CHUNK_BYTES / 2);
            if is_worth_rewriting(&chunk) || joins {
                *steps = steps.saturating_sub(chunk.records_count());
                copy_retained(&chunk, to, &mut rewritten);
            } else {
                *steps -= 1;
                rewritten.push(chunk);
            }
        }
        for chunk in &mut rewritten {
            chunk.trim();
        }
        self.log.replace(start..end, rewritten);
        if finished {
            self.compaction = Compaction::new(to);
        } else {
            self.compaction.job = Some(Job { to, phase: Phase::Sweep(last) });
        }
    }
}

fn is_worth_rewriting(chunk: &Chunk) -> bool {
    0 < chunk.dropped_bytes() && chunk.bytes_count() <= 4 * chunk.dropped_bytes()
}

/// Copies what a compaction at `to` retains behind the last chunk of `out`, or into new ones.
fn copy_retained(chunk: &Chunk, to: i64, out: &mut Vec<SegmentBox>) {
    let mut dropped = 0;
    let mut left = chunk.bytes_count() - chunk.dropped_bytes();
    for slot in 0..chunk.records_count() {
        let bytes = chunk.record_bytes_at(slot);
        if chunk.record_at(slot).is_dropped_at(to) {
            dropped += bytes.len();
            continue;
        }
        let seq = chunk.seq_at(slot);
        if !out.last().is_some_and(|last| last.has_room(seq, bytes.len())) {
            if let Some(full) = out.last_mut() {
                full.trim();
            }
            out.push(Box::new(Chunk::for_rewrite(left)));
        }
        let last = out.last_mut().expect("there is one with room");
        last.reserve(bytes.len(), left);
        last.push_moved(seq, bytes);
        left -= bytes.len();
    }
    assert_eq!(dropped, chunk.dropped_bytes(), "what is removed is what was given up");
}
