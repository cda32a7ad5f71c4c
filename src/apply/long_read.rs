//! Reads in slices: a list of any length, or a transaction of lists, while writes go on.
//!
//! A unary answer of gRPC says its length first. So a list runs twice over the revision that it pins: once for
//! the number of its keys and its length in bytes, once for the bytes, which are made as they are sent. In
//! between it holds the key at which it stands. A list in another order than the keys' keeps an entry of 16
//! bytes for each key instead (`sort`), and its second pass goes along these.
//!
//! ```text
//! begin ─► measure, slice by slice ─► the length ─► write, piece by piece ─► end
//! ```
//!
//! What the answer holds is decided by the revision alone: what is written, or compacted, while the read is
//! under way changes no byte of it. Header revisions are those of the moment when the read began.
//!
//! Invariants: both passes see the same versions; what is written is as long as was told. A piece is cut
//! anywhere, also inside a value, so nothing but a key is copied in one go.
//! Cost: two visits a key, one where the answer is a count; see `mvcc::pinned` and `sort`.

use std::ops::ControlFlow;

use super::encode::{
    InnerHeader, OpField, Shown, check_answer_bytes, header_len, kv_len, put_header, put_kv_front,
    put_kv_lease, put_range_tail, range_tail_len,
};
use super::range::{self, Filter};
use super::sort::{Entry, Merge, Order, SORTING_ENTRY_BYTES};
use super::txn;
use crate::mvcc::{CountCursor, Cursor, KeyValueRef, ReadPin, Store};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::request::Rejection;
use crate::types::proto::{message_field_len, put_int_field, put_message_head};
use crate::types::{KeyRange, Slice};

/// With a limit no larger than this, a sort keeps the best it has found and no more than `KEPT_MAX`.
const SMALL_LIMIT: usize = 1_000;

/// Entries that such a sort keeps before the worse ones go.
const KEPT_MAX: usize = 4 * SMALL_LIMIT;

/// A read under way. Must be given to `end`.
#[derive(Debug)]
#[must_use = "it pins a revision"]
pub struct LongRead {
    pin: ReadPin,
    /// `header.revision`.
    revision: i64,
    /// What the transaction's comparisons said; `None` for a Range.
    succeeded: Option<bool>,
    lists: Vec<List>,
    stage: Stage,
    /// Of the body, once it is measured.
    body_bytes: u64,
    written_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Goes on with this list.
    Measure(usize),
    /// Goes on with this list, whose front is written or not.
    Write { list: usize, has_front: bool },
}

impl LongRead {
    /// Begins a Range.
    pub(super) fn range(store: &mut Store, request: &pb::RangeRequest) -> Result<Self, Rejection> {
        let at = range::readable_revision(store, request.revision)?;
        let list = List::new(store, request.clone(), at)?;
        Ok(Self::new(store, None, vec![list]))
    }

    /// Begins a transaction of ranges.
    pub(super) fn txn(store: &mut Store, request: &pb::TxnRequest) -> Result<Self, Rejection> {
        let (succeeded, ranges) = txn::ranges(store, request)?;
        let current = store.current_revision();
        let lists = ranges.map(|range| {
            let at = if range.revision <= 0 { current } else { range.revision };
            List::new(store, range.clone(), at)
        });
        let lists = lists.collect::<Result<_, _>>()?;
        Ok(Self::new(store, Some(succeeded), lists))
    }

    fn new(store: &mut Store, succeeded: Option<bool>, lists: Vec<List>) -> Self {
        let revision = store.current_revision();
        let oldest = lists.iter().map(|list| list.at).min().unwrap_or(revision);
        Self {
            pin: store.pin(oldest),
            revision,
            succeeded,
            lists,
            stage: Stage::Measure(0),
            body_bytes: if succeeded == Some(true) { 2 } else { 0 },
            written_bytes: 0,
        }
    }

    pub(super) fn end(self, store: &mut Store) {
        store.unpin(self.pin);
    }

    /// The revision that it pins.
    #[must_use]
    pub fn pinned(&self) -> i64 {
        self.pin.revision()
    }

    /// `header.revision` of the answer.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Bytes that its sorts will take at most.
    #[must_use]
    pub fn sort_bytes_max(&self) -> u64 {
        self.lists.iter().map(|list| list.sort_bytes_max).sum()
    }

    /// Measures on. The length of the body, when that is known.
    ///
    /// # Errors
    /// No message carries the answer.
    pub fn measure(&mut self, store: &Store, slice: &mut Slice) -> Result<Option<u64>, Rejection> {
        while let Stage::Measure(number) = self.stage {
            let Some(list) = self.lists.get_mut(number) else {
                self.stage = Stage::Write { list: 0, has_front: false };
                break;
            };
            if !list.measure(store, &self.pin, slice)? {
                return Ok(None);
            }
            let header = self.succeeded.map(|_| InnerHeader { revision: self.revision });
            self.body_bytes += match header {
                None => list.len(None) as u64,
                Some(_) => message_field_len(message_field_len(list.len(header))) as u64,
            };
            check_answer_bytes(self.body_bytes)?;
            self.stage = Stage::Measure(number + 1);
        }
        Ok(Some(self.body_bytes))
    }

    /// Appends to `out`, until that holds `full` bytes or a key more, or the slice is spent. True: that was
    /// all. The read must be measured.
    pub fn write(&mut self, store: &Store, slice: &mut Slice, full: usize, out: &mut Vec<u8>) -> bool {
        let before = out.len();
        let is_done = self.write_on(store, slice, full, out);
        self.written_bytes += (out.len() - before) as u64;
        assert!(
            !is_done || self.written_bytes == self.body_bytes,
            "{} bytes were told and {} written",
            self.body_bytes,
            self.written_bytes
        );
        is_done
    }

    fn write_on(&mut self, store: &Store, slice: &mut Slice, full: usize, out: &mut Vec<u8>) -> bool {
        let header = self.succeeded.map(|_| InnerHeader { revision: self.revision });
        if self.written_bytes == 0 {
            put_int_field(out, 2, i64::from(self.succeeded == Some(true)));
        }
        loop {
            let Stage::Write { list: number, has_front } = self.stage else {
                panic!("a read is measured before it is written");
            };
            let Some(list) = self.lists.get_mut(number) else { return true };
            if full <= out.len() || slice.is_spent() {
                return false;
            }
            if !has_front {
                if header.is_some() {
                    let inner = list.len(header);
                    put_message_head(out, 3, message_field_len(inner));
                    put_message_head(out, OpField::Range as u8, inner);
                    put_header(out, header);
                }
                self.stage = Stage::Write { list: number, has_front: true };
            } else if list.write(store, &self.pin, slice, full, out) {
                list.write_tail(out);
                list.entries = Vec::new();
                self.stage = Stage::Write { list: number + 1, has_front: false };
            }
        }
    }
}

/// One Range under way.
#[derive(Debug)]
pub(super) struct List {
    request: pb::RangeRequest,
    at: i64,
    shown: Shown,
    /// Keys of the answer at most.
    limit: usize,
    order: Option<Order>,
    /// Keys that are looked for at most.
    found_max: u64,
    sort_bytes_max: u64,
    phase: Phase,
    /// Keys that pass the filter.
    found: u64,
    /// What is sorted: in the order in which it was found, and then in the answer's.
    entries: Vec<Entry>,
    /// Bytes of what was found, of which all is in the answer or, if it is sorted and cut, less.
    kvs_bytes: u64,
    /// Keys in the answer, once it is measured.
    taken: u64,
    more: bool,
    count: u64,
}

#[derive(Debug)]
enum Phase {
    Gather(Cursor),
    /// Then goes on to gather, if not at the end.
    Sort(Merge, Option<Cursor>),
    /// Adds up the lengths of the entries from this one on.
    AddUp(usize),
    Count(CountCursor),
    /// Measured; not a byte is written.
    Measured,
    /// Goes on behind the keys that are written.
    Write(Cursor, Writer),
}

/// What is written of a list.
#[derive(Debug, Default)]
struct Writer {
    /// Keys.
    written: u64,
    /// A version of whose value not all is written.
    partial: Option<Partial>,
}

#[derive(Debug, Clone, Copy)]
struct Partial {
    seq: u64,
    /// Bytes of the value that are written.
    written: usize,
}

impl Writer {
    /// Writes a key, and of its value as much as there is room for. Breaks when there is no more.
    fn put(
        &mut self,
        (seq, kv): (u64, &KeyValueRef<'_>),
        shown: Shown,
        slice: &mut Slice,
        full: usize,
        out: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        slice.spend_bytes(kv.key.len());
        put_kv_front(out, 2, kv, shown);
        self.put_value(kv, Partial { seq, written: 0 }, shown, slice, full, out)
    }

    /// Writes a value on.
    fn put_value(
        &mut self,
        kv: &KeyValueRef<'_>,
        begun: Partial,
        shown: Shown,
        slice: &mut Slice,
        full: usize,
        out: &mut Vec<u8>,
    ) -> ControlFlow<()> {
        let rest = &shown.value(kv)[begun.written..];
        let room = full.saturating_sub(out.len()).min(slice.bytes_left());
        let now = &rest[..rest.len().min(room)];
        slice.spend_bytes(now.len());
        out.extend_from_slice(now);
        if now.len() < rest.len() {
            self.partial = Some(Partial { written: begun.written + now.len(), ..begun });
            return ControlFlow::Break(());
        }
        put_kv_lease(out, kv, shown);
        self.written += 1;
        if full <= out.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl List {
    /// A list at the readable revision `at`.
    pub(super) fn new(store: &Store, request: pb::RangeRequest, at: i64) -> Result<Self, Rejection> {
        let (sort_order, target) = range::sort_options(&request)?;
        let filter = Filter(&request);
        let limit = usize::try_from(request.limit).ok().filter(|&limit| 0 < limit).unwrap_or(usize::MAX);
        let order = match (sort_order, target) {
            (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => None,
            (SortOrder::None | SortOrder::Ascend, _) => Some(Order { target, descending: false }),
            (SortOrder::Descend, _) => Some(Order { target, descending: true }),
        };
        // See `range::select`: a target without a direction sorts only the first keys.
        let fetches_all = sort_order != SortOrder::None || filter.is_active();
        let found_max = match order {
            Some(_) if fetches_all => u64::MAX,
            _ => (limit as u64).saturating_add(1),
        };
        let keys = KeyRange::new(&request.key, &request.range_end);
        let sort_bytes_max = if order.is_some() && !request.count_only {
            // Each key that is gone now and was there then has left a record since.
            let keys_max = store.count_now(keys) + store.changes_count_max(at + 1);
            let kept_max = if limit <= SMALL_LIMIT { KEPT_MAX as u64 } else { u64::MAX };
            keys_max.min(found_max).min(kept_max) * SORTING_ENTRY_BYTES
        } else {
            0
        };
        let phase = if request.count_only {
            Phase::Count(store.begin_count(keys, at))
        } else {
            Phase::Gather(Cursor::default())
        };
        let shown = range::shown(&request);
        Ok(Self {
            request,
            at,
            shown,
            limit,
            order,
            found_max,
            sort_bytes_max,
            phase,
            found: 0,
            entries: Vec::new(),
            kvs_bytes: 0,
            taken: 0,
            more: false,
            count: 0,
        })
    }

    /// Bytes of the response, once it is measured.
    pub(super) fn len(&self, header: Option<InnerHeader>) -> usize {
        let kvs_bytes = usize::try_from(self.kvs_bytes).expect("checked against what a message holds");
        header_len(header) + kvs_bytes + range_tail_len(self.more, self.count)
    }

    /// Measures on. True when that is done.
    pub(super) fn measure(
        &mut self,
        store: &Store,
        pin: &ReadPin,
        slice: &mut Slice,
    ) -> Result<bool, Rejection> {
        loop {
            if slice.is_spent() && !matches!(self.phase, Phase::Measured) {
                return Ok(false);
            }
            match std::mem::replace(&mut self.phase, Phase::Measured) {
                Phase::Gather(cursor) => self.gather(store, pin, cursor, slice)?,
                Phase::Sort(mut merge, cursor) => match merge.slice(store, slice) {
                    None => self.phase = Phase::Sort(merge, cursor),
                    Some(entries) => {
                        self.entries = entries;
                        self.on_sorted(store, cursor);
                    }
                },
                Phase::AddUp(first) => self.add_up(store, first, slice)?,
                Phase::Count(mut cursor) => {
                    let keys = KeyRange::new(&self.request.key, &self.request.range_end);
                    match store.count_slice((pin, self.at), keys, &mut cursor, slice) {
                        Some(count) => self.count = count,
                        None => self.phase = Phase::Count(cursor),
                    }
                }
                Phase::Measured => return Ok(true),
                Phase::Write(..) => unreachable!("it is measured"),
            }
        }
    }

    /// Looks for keys.
    fn gather(
        &mut self,
        store: &Store,
        pin: &ReadPin,
        mut cursor: Cursor,
        slice: &mut Slice,
    ) -> Result<(), Rejection> {
        let Self { request, shown, limit, order, found_max, found, entries, kvs_bytes, .. } = self;
        let filter = Filter(request);
        let keys = KeyRange::new(&request.key, &request.range_end);
        let kept_max = if *limit <= SMALL_LIMIT { KEPT_MAX } else { usize::MAX };
        let is_at_end = store.scan_slice((pin, self.at), keys, &mut cursor, slice, |seq, kv, _| {
            if !filter.passes(&kv) {
                return ControlFlow::Continue(());
            }
            *found += 1;
            let is_in_answer = order.is_some() || *found <= *limit as u64;
            if is_in_answer {
                *kvs_bytes += message_field_len(kv_len(&kv, *shown)) as u64;
            }
            if let Some(order) = order {
                entries.push(order.entry(seq, &kv, *found));
            }
            let is_full = entries.len() == kept_max || *found == *found_max;
            if is_full || (order.is_none() && check_answer_bytes(*kvs_bytes).is_err()) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let is_done = is_at_end || *found == *found_max;
        let Some(order) = *order else {
            check_answer_bytes(*kvs_bytes)?;
            if is_done {
                self.taken = self.found.min(self.limit as u64);
                self.on_selected(store);
            } else {
                self.phase = Phase::Gather(cursor);
            }
            return Ok(());
        };
        let is_full = entries.len() == kept_max;
        if !is_done && !is_full {
            self.phase = Phase::Gather(cursor);
            return Ok(());
        }
        let (entries, cursor) = (std::mem::take(&mut self.entries), (!is_done).then_some(cursor));
        if order.target == SortTarget::Key {
            // What was found is in the order of the keys; it is read from the end.
            self.entries = entries;
            self.on_sorted(store, cursor);
        } else {
            self.phase = Phase::Sort(Merge::new(order, entries), cursor);
        }
        Ok(())
    }

    /// The entries are in their order. With a cursor, more are looked for.
    fn on_sorted(&mut self, store: &Store, cursor: Option<Cursor>) {
        let kept = if cursor.is_some() { self.limit.saturating_add(1) } else { self.limit };
        let is_cut = kept < self.entries.len() || (self.entries.len() as u64) < self.found;
        if kept < self.entries.len() {
            if self.reads_from_end() {
                self.entries.drain(..self.entries.len() - kept);
            } else {
                self.entries.truncate(kept);
            }
        }
        if let Some(cursor) = cursor {
            self.phase = Phase::Gather(cursor);
            return;
        }
        self.taken = self.entries.len() as u64;
        if is_cut {
            self.kvs_bytes = 0;
            self.phase = Phase::AddUp(0);
        } else {
            self.on_selected(store);
        }
    }

    fn reads_from_end(&self) -> bool {
        self.order.is_some_and(|order| order.target == SortTarget::Key)
    }

    fn add_up(&mut self, store: &Store, first: usize, slice: &mut Slice) -> Result<(), Rejection> {
        for (slot, entry) in self.entries.iter().enumerate().skip(first) {
            if slice.is_spent() {
                self.phase = Phase::AddUp(slot);
                return Ok(());
            }
            slice.spend_key();
            self.kvs_bytes += message_field_len(kv_len(&store.version(entry.seq), self.shown)) as u64;
        }
        check_answer_bytes(self.kvs_bytes)?;
        self.on_selected(store);
        Ok(())
    }

    /// What the answer holds is known; how many keys there are may not be.
    fn on_selected(&mut self, store: &Store) {
        self.more = self.taken < self.found;
        let has_seen_all = !self.more && !Filter(&self.request).is_active();
        if has_seen_all {
            self.count = self.taken;
            self.phase = Phase::Measured;
        } else {
            let keys = KeyRange::new(&self.request.key, &self.request.range_end);
            self.phase = Phase::Count(store.begin_count(keys, self.at));
        }
    }

    /// Writes what follows the keys.
    pub(super) fn write_tail(&self, out: &mut Vec<u8>) {
        put_range_tail(out, self.more, self.count);
    }

    /// Writes on. True when all keys are written.
    pub(super) fn write(
        &mut self,
        store: &Store,
        pin: &ReadPin,
        slice: &mut Slice,
        full: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        if matches!(self.phase, Phase::Measured) {
            self.phase = Phase::Write(Cursor::default(), Writer::default());
        }
        let reads_from_end = self.reads_from_end();
        let Self { request, at, shown, order, entries, taken, phase, .. } = self;
        let (shown, taken) = (*shown, *taken);
        let Phase::Write(cursor, writer) = phase else { panic!("a list is measured before it is written") };
        if let Some(begun) = writer.partial.take() {
            let kv = store.version(begun.seq);
            if writer.put_value(&kv, begun, shown, slice, full, out).is_break() {
                return writer.written == taken;
            }
        }
        if order.is_some() {
            while writer.written < taken && !slice.is_spent() {
                slice.spend_key();
                let slot = usize::try_from(writer.written).expect("entries are in memory");
                let slot = if reads_from_end { entries.len() - 1 - slot } else { slot };
                let seq = entries[slot].seq;
                if writer.put((seq, &store.version(seq)), shown, slice, full, out).is_break() {
                    break;
                }
            }
        } else if writer.written < taken && !slice.is_spent() {
            let filter = Filter(request);
            let keys = KeyRange::new(&request.key, &request.range_end);
            store.scan_slice((pin, *at), keys, cursor, slice, |seq, kv, slice| {
                if !filter.passes(&kv) {
                    return ControlFlow::Continue(());
                }
                writer.put((seq, &kv), shown, slice, full, out)?;
                if writer.written == taken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
        writer.written == taken
    }
}

#[cfg(test)]
#[path = "long_read_tests.rs"]
mod tests;
