//! Reads of one revision in slices, while writes and compactions go on.
//!
//! A [`ReadPin`] keeps the revision readable for whoever holds it, whatever is compacted meanwhile. Between
//! two slices a read holds nothing of the store but the key or the record number at which it stands, since
//! both are found again however the index and the log have moved.
//!
//! Cost: a slice begins with one descent. At the current revision deleted keys cost nothing; once something
//! was written since, each known key of the range costs O(log versions), alive then or not.

use std::ops::ControlFlow;

use super::pin::Pin;
use super::store::is_past;
use super::tree::Tree;
use super::{Cursor, KeyValueRef, Store};
use crate::types::{KeyRange, Slice};

/// Keeps a revision readable. Must be given to `Store::unpin`: until then compacted history stays in memory.
#[derive(Debug)]
#[must_use = "a forgotten pin holds back compaction for ever"]
pub struct ReadPin {
    pin: Pin,
}

impl ReadPin {
    /// The revision that it keeps readable.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.pin.at
    }
}

/// A count in slices. See `Store::begin_count`.
#[derive(Debug)]
pub struct CountCursor {
    way: Way,
    count: u64,
}

#[derive(Debug)]
enum Way {
    /// Key by key.
    Forward(Cursor),
    /// From what there is at revision `now` by undoing the records from `next` up to `end`.
    Back { now: i64, next: u64, end: u64 },
}

impl Store {
    /// Keeps the readable revision `at` readable until `unpin`.
    pub fn pin(&mut self, at: i64) -> ReadPin {
        self.check_readable(at);
        assert!(at <= self.current, "revision {at} is above the current one, {}", self.current);
        ReadPin { pin: self.pins.add(at) }
    }

    /// Releases a pin of this store.
    pub fn unpin(&mut self, pin: ReadPin) {
        self.pins.remove(pin.pin);
    }

    /// The revision beyond which pins hold compaction back.
    #[must_use]
    pub fn oldest_pin(&self) -> Option<i64> {
        self.pins.held_at()
    }

    /// Visits the live keys of `range` at revision `at`, not below the pin's, behind `cursor` and in key
    /// order, until the slice is spent or `each` breaks. `each` gets the number of the version, by which
    /// `version` finds it again. True: that was the last key.
    pub fn scan_slice<'a>(
        &'a self,
        (pin, at): (&ReadPin, i64),
        range: KeyRange<'_>,
        cursor: &mut Cursor,
        slice: &mut Slice,
        mut each: impl FnMut(u64, KeyValueRef<'a>, &mut Slice) -> ControlFlow<()>,
    ) -> bool {
        assert!(pin.revision() <= at, "a read at {at} needs a pin no later than that");
        let is_current = self.head <= at;
        let start = cursor.last().unwrap_or(range.start());
        let mut path = self.tree.seek(start);
        let mut skips = cursor.last().is_some();
        let mut touched = 0_usize;
        let mut last = None;
        let is_at_end = loop {
            let Some((key, newest)) = self.tree.settle(&mut path, is_current) else { break true };
            if is_past(&range, key) {
                break true;
            }
            if std::mem::take(&mut skips) && cursor.last() == Some(key) {
                Tree::advance(&mut path);
                continue;
            }
            if slice.is_spent() {
                break false;
            }
            if touched == 0 {
                touched = self.touch_ahead(&path);
            }
            touched -= 1;
            Tree::advance(&mut path);
            slice.spend_key();
            last = Some(key);
            let record =
                if is_current { Some(self.newest_record(newest)) } else { self.find_version(newest, at) };
            let Some((seq, kv)) = record.and_then(|record| Some((record.seq, record.key_value()?))) else {
                continue;
            };
            if each(seq, kv, slice).is_break() {
                break false;
            }
        };
        if let Some(key) = last {
            cursor.set(key);
        }
        is_at_end
    }

    /// The version with this number, which was found at a revision that is pinned since.
    #[must_use]
    pub fn version(&self, seq: u64) -> KeyValueRef<'_> {
        let record = self.log.get(seq).expect("a pinned version is retained");
        record.key_value().expect("a version that was found alive is a put")
    }

    /// Whether `count` at the readable revision `at` is done in no more than `steps_max` steps.
    #[must_use]
    pub fn is_count_short(&self, range: KeyRange<'_>, at: i64, steps_max: u64) -> bool {
        if self.head <= at || matches!(range, KeyRange::One(_)) || range.is_empty() {
            return true;
        }
        self.changes_count_max(at + 1) <= steps_max
    }

    /// Starts to count the keys of `range` alive at revision `at`, which is pinned.
    #[must_use]
    pub fn begin_count(&self, range: KeyRange<'_>, at: i64) -> CountCursor {
        let now = self.current;
        let count = self.count_now(range);
        let (next, end) = (self.log.seq_of_revision(at + 1), self.log.next_seq());
        // A write that is under way may be taken back.
        if self.head <= at || (!self.is_writing() && end - next <= count) {
            CountCursor { way: Way::Back { now, next, end }, count }
        } else {
            CountCursor { way: Way::Forward(Cursor::default()), count: 0 }
        }
    }

    /// Goes on counting. The count, when that is complete.
    pub fn count_slice(
        &self,
        (pin, at): (&ReadPin, i64),
        range: KeyRange<'_>,
        cursor: &mut CountCursor,
        slice: &mut Slice,
    ) -> Option<u64> {
        let CountCursor { way, count } = cursor;
        match way {
            Way::Forward(cursor) => {
                let is_at_end = self.scan_slice((pin, at), range, cursor, slice, |_, _, _| {
                    *count += 1;
                    ControlFlow::Continue(())
                });
                is_at_end.then_some(*count)
            }
            Way::Back { now, next, end } => {
                for record in self.log.iter_from(*next) {
                    if *end <= record.seq {
                        break;
                    }
                    if slice.is_spent() {
                        *next = record.seq;
                        return None;
                    }
                    self.spend_record(slice);
                    if !range.contains(record.key) {
                        continue;
                    }
                    slice.spend_key();
                    let before = record.links.and_then(|links| self.log.get(links.previous));
                    if before.is_some_and(|before| at < before.main) {
                        continue; // not the key's first change since `at`
                    }
                    let was_live = before.is_some_and(|before| !before.tombstone);
                    let newest = self.tree.get(record.key).and_then(|newest| self.find_version(newest, *now));
                    let is_live = newest.is_some_and(|newest| !newest.tombstone);
                    // One of two keys may have come before the other went, so the order matters not.
                    *count = count.wrapping_add(u64::from(was_live)).wrapping_sub(u64::from(is_live));
                }
                Some(*count)
            }
        }
    }
}
