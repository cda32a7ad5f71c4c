//! A member's data as etcd keeps it: its log, its snapshots' metadata, and what the entries mean here.
//!
//! `wal` reads segments, `snap` the `.snap` files, `roster` follows who is a member, `entries` turns etcd's entries
//! into ours. `member` puts them together by the rules by which etcd itself starts. None does I/O; all bytes are suspect.

mod entries;
mod fields;
mod member;
mod roster;
mod snap;
mod wal;

#[cfg(test)]
mod tests;

pub use entries::{Converted, Converter, UnknownEntry};
pub use member::{EtcdMember, Imported, MemberFault, Tail};
pub use roster::Roster;
pub use snap::{Snap, SnapFault};
pub use wal::{LogFault, Reading, Segment};
