//! The multi-version store: every key's value at every revision that is not yet compacted.
//!
//! Two structures hold everything. The *revision log* (`log`, `record`) has all records, values
//! included, packed in the order they were written. It is the watch history, the order of `HashKV`
//! and the body of a checkpoint at once. The *key index* (`tree`, `key_block`) is a B+tree from each
//! key to the number of its newest record, with live keys counted per subtree. A record links to the
//! older versions of its key and says at which revision it was superseded, so a compaction tells
//! from a record alone whether it goes. Links are numbers that survive when records move; there are
//! no pointers and no per-version allocations.
//!
//! A deletion of many keys changes the index and owes the log its records for a while (`owed`), which nothing that is
//! read shows.
//!
//! Reads, write transactions (`txn`), `compaction`, `hash` and `checkpoint` are views of these two.
//! Leases, auth, watchers and what a request means live elsewhere: here a lease is a number kept
//! beside a value. Nothing here knows a clock, a file or chance.
//!
//! Invariants: see `store`, `log`, `tree`; `Store::check_invariants` checks them all.
//! Cost: a put appends one record and changes one slot; a count is two descents; a page is one
//! descent and its items. A version costs its key and value and about 18 bytes, a key about as much
//! again beside its own bytes. Work on history (compaction, hash, checkpoint) comes in slices.
//! Compatibility: revisions, versions, compaction and `HashKV` are etcd's (3.7).

mod settling;
mod store;
mod txn;

mod log;
mod memory;
mod owed;
mod record;

mod key_block;
mod tree;
mod ways;

mod change;
mod history;
mod key_value;
mod mark;

mod compaction;
mod pin;
mod pinned;

mod crc32c;
mod cursor;
mod hash;

mod checkpoint;
mod export;
mod import;
mod restore;
mod side_by_side;

#[cfg(test)]
mod tests;

pub use change::Change;
pub use checkpoint::CheckpointCursor;
pub use cursor::Cursor;
pub use export::{Export, ExportCursor};
pub use hash::{HashCursor, HashKv, HashOvertaken};
pub use history::KeyChanges;
pub use import::{Import, REVISION_MAX};
pub use key_value::KeyValueRef;
pub use mark::{Action, Expiry, Mark};
pub use memory::TakesMemory;
pub use pinned::{CountCursor, ReadPin};
pub use restore::{Restore, RestoreError};
pub use side_by_side::{OneByOne, SideBySide};
pub use store::{Changes, KEYS_AHEAD, Scan, Store, Tallies};
pub use txn::{Suspended, WriteTxn, Written};
