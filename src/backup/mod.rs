//! Backups: etcd's snapshot file out of our state, and our state out of etcd's.

pub mod bbolt;
pub mod etcd;
mod export;
mod import;
mod schema;

#[cfg(test)]
mod tests;

pub use export::Export;
pub use import::{Contents, ImportError, MemberEntry, Meta, import};
