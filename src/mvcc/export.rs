//! The history as it stands at one moment, read in slices while writes go on, as often as wanted.
//!
//! As a checkpoint, an export pins the compact revision: nothing that is retained at its start is removed before
//! `end_export`. What is written later is told by its number.
//!
//! Cost: one pass over the records, in their order.

use std::ops::ControlFlow;

use super::pin::Pin;
use super::{Change, Store};
use crate::types::Slice;

/// An export under way. Must be given to `Store::end_export`: until then compacted history stays in memory.
#[derive(Debug)]
#[must_use = "a forgotten export holds back compaction for ever"]
pub struct Export {
    pin: Pin,
    revision: i64,
    end_seq: u64,
}

impl Export {
    /// The revision of the last write that is in it.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compact revision, whose history it pins; -1 if nothing was ever compacted.
    #[must_use]
    pub fn compacted(&self) -> i64 {
        self.pin.at
    }
}

/// Where a pass through an export stands: behind the record of this number.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportCursor(u64);

impl Store {
    /// Starts an export of everything that is not compacted.
    pub fn begin_export(&mut self) -> Export {
        assert!(!self.is_writing(), "an export holds all of a write or nothing");
        Export { pin: self.pins.add(self.compacted), revision: self.current, end_seq: self.log.next_seq() }
    }

    /// Shows the changes behind `cursor` in their order until the slice is spent or `each` breaks. `each` gets the
    /// number of the change, by which `exported` finds it again. True: that was the last one.
    pub fn export_slice<'a>(
        &'a self,
        export: &Export,
        cursor: &mut ExportCursor,
        slice: &mut Slice,
        mut each: impl FnMut(u64, Change<'a>, &mut Slice) -> ControlFlow<()>,
    ) -> bool {
        for record in self.log.iter_from(cursor.0 + 1) {
            if export.end_seq <= record.seq {
                break;
            }
            if slice.is_spent() {
                return false;
            }
            self.spend_record(slice);
            cursor.0 = record.seq;
            if self.is_dropped(&record, export.pin.at) {
                continue;
            }
            if each(record.seq, Change::new(&record), slice).is_break() {
                return false;
            }
        }
        true
    }

    /// The change with this number, which an export that is still under way has shown.
    #[must_use]
    pub fn exported(&self, seq: u64) -> Change<'_> {
        Change::new(&self.log.get(seq).expect("a pinned record is retained"))
    }

    /// Releases an export.
    pub fn end_export(&mut self, export: Export) {
        self.pins.remove(export.pin);
    }
}
