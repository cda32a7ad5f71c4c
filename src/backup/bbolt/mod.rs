//! bbolt's file format: the B+tree of pages in which etcd keeps its data.
//!
//! `write` makes a file from its first byte to its last, `read` walks one that anybody may have made. Neither does
//! I/O. Crates for the format exist as ports of the Go library: they map the file, trust its pages and write in place,
//! where here a file is streamed once and each byte of a foreign one is suspect.
//!
//! ```text
//! page     id u64 | flags u16: 1 branch, 2 leaf, 4 meta, 16 free list | count u16 | overflow u32 | elements | data
//! meta     magic u32 | version u32 = 2 | page size u32 | flags u32 | root bucket | free list u64 | pages u64
//!          | transaction u64 | FNV-1a of the 56 bytes before, u64
//! bucket   root page u64, 0: one page follows inline | sequence u64
//! leaf     flags u32: 1 bucket | distance from here to the key u32 | key bytes u32 | value bytes u32
//! branch   distance from here to the key u32 | key bytes u32 | page u64
//! ```
//! Integers are little endian. Pages 0 and 1 are metas, of which the valid one with the higher transaction counts. A
//! page with `overflow` n is n + 1 pages long. Keys ascend bytewise; a branch holds the first key of each child.

pub mod read;
pub mod write;

pub use read::{Entry, Fault, Reader, Walk};
pub use write::{Bucket, Layout, Root};

/// Magic number of a meta page.
pub const MAGIC: u32 = 0xED0C_DAED;

/// The only version there is.
const VERSION: u32 = 2;

/// Page size of the files that are written.
pub const PAGE_BYTES: usize = 4096;

const PAGE_HEAD_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const BUCKET_BYTES: usize = 16;
const META_BYTES: usize = 64;

const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;

/// Flag of an element whose value is a bucket.
const IS_BUCKET: u32 = 1;

/// "No free list is stored": whoever opens the file to write it looks for free pages itself.
const NO_FREE_LIST: u64 = u64::MAX;

/// FNV-1a with 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests;
