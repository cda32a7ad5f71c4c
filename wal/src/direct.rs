//! The direct medium: groups gather in an aligned staging area, and one O_DIRECT + O_DSYNC write per
//! sync carries them to the device past the page cache.
//!
//! Writes are whole 4 KiB blocks. The last block of a write is usually partly filled, and the next
//! write repeats it with more in it. That is safe: a group owns its sectors, so the repeated sectors
//! carry the very bytes they hold already, and a device writes each sector wholly or not at all.
//!
//! Invariants: the staging area begins at a block's start and holds what the file holds before
//! `staged.start`; un-synced bytes are exactly `staged`.
//! Cost: append is a memory copy; sync is one system call. The staging area goes from a segment to the next.

#![expect(clippy::disallowed_types, reason = "the map feature is where the log touches files")]

use crate::files::{Aligned, BLOCK_BYTES, FileStorage, Medium, open_direct};
use crate::map::allocate;
use crate::segment::MARK_OFFSET;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Segments written past the page cache.
pub type DirectStorage = FileStorage<Direct>;

/// Staging that is kept whatever comes.
const STAGING_BYTES_KEPT: usize = 1 << 20;

/// A larger one goes back once so many syncs in a row needed no more than that: new memory costs more than the copy into
/// it, and large groups come in numbers.
const SMALL_SYNCS_MAX: u32 = 256;

/// One segment open for direct writes.
#[derive(Debug)]
pub struct Direct {
    file: File,
    staging: Aligned,
    /// File offset of the staging area's first byte.
    base: usize,
    /// Un-synced bytes, as file offsets.
    staged: Range<usize>,
    /// Syncs since the last one that needed more than `STAGING_BYTES_KEPT`.
    small_syncs: u32,
    mark: Option<Aligned>,
    /// The file may hold bytes that an earlier, mapped run left un-synced.
    unsettled: bool,
}

impl Medium for Direct {
    const CACHED: bool = false;

    fn fill_zero(path: &Path, bytes: u32) -> io::Result<()> {
        const PIECE: usize = 1 << 20;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT)
            .open(path)?;
        allocate(&file, bytes)?;
        let zeros = Aligned::new(PIECE);
        let length = bytes as usize;
        for at in (0..length).step_by(PIECE) {
            file.write_all_at(&zeros.bytes()[..PIECE.min(length - at)], at as u64)?;
        }
        file.sync_all()
    }

    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC);
        Ok(Self {
            file: options.open(path)?,
            staging: Aligned::new(BLOCK_BYTES),
            base: 0,
            staged: 0..0,
            small_syncs: 0,
            mark: None,
            // Preparation has synced it.
            unsettled: false,
        })
    }

    fn open_unwarmed(path: &Path) -> io::Result<Self> {
        Ok(Self { unsettled: true, ..Self::open(path)? })
    }

    fn inherit(&mut self, full: &mut Self) {
        assert!(full.staged.is_empty(), "a segment with un-synced bytes is not full");
        std::mem::swap(&mut self.staging, &mut full.staging);
        self.small_syncs = full.small_syncs;
    }

    fn position(&mut self, tail: u64) -> io::Result<()> {
        assert!(self.staged.is_empty(), "moved away from un-synced bytes");
        let tail = usize::try_from(tail).expect("within a segment");
        self.base = tail - tail % BLOCK_BYTES;
        self.staged = tail..tail;
        let read = self.file.read_at(&mut self.staging.bytes_mut()[..BLOCK_BYTES], self.base as u64)?;
        if read < tail - self.base {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn window(&mut self, offset: usize, len: usize) -> &mut [u8] {
        if offset == MARK_OFFSET {
            assert!(self.staged.is_empty(), "the mark is written alone");
            let mark = self.mark.get_or_insert_with(|| Aligned::new(BLOCK_BYTES));
            return &mut mark.bytes_mut()[..len];
        }
        assert_eq!(offset, self.staged.end, "windows adjoin");
        self.staged.end += len;
        let needed = (self.staged.end - self.base).next_multiple_of(BLOCK_BYTES);
        let kept = self.staged.end - len - self.base;
        self.staging.grow(needed, kept);
        // What lies behind the group in its last block becomes blank: zero says so.
        let from = offset - self.base;
        self.staging.bytes_mut()[from + len..needed].fill(0);
        &mut self.staging.bytes_mut()[from..from + len]
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.unsettled {
            self.file.sync_data()?;
            self.unsettled = false;
        }
        if let Some(mark) = self.mark.take() {
            self.file.write_all_at(mark.bytes(), MARK_OFFSET as u64)?;
        }
        if self.staged.is_empty() {
            return Ok(());
        }
        let end = self.staged.end;
        let length = (end - self.base).next_multiple_of(BLOCK_BYTES);
        self.file.write_all_at(&self.staging.bytes()[..length], self.base as u64)?;
        let last_block = end - end % BLOCK_BYTES;
        let from = last_block - self.base;
        if from < length {
            self.staging.bytes_mut().copy_within(from..from + BLOCK_BYTES, 0);
        }
        self.small_syncs = if length <= STAGING_BYTES_KEPT { self.small_syncs + 1 } else { 0 };
        if self.small_syncs == SMALL_SYNCS_MAX {
            self.small_syncs = 0;
            if STAGING_BYTES_KEPT < self.staging.bytes().len() {
                self.staging.shrink(BLOCK_BYTES);
            }
        }
        self.base = last_block;
        self.staged = end..end;
        Ok(())
    }
}

/// Whether files of this directory can be opened for direct writes.
pub(crate) fn is_supported(path: &Path) -> bool {
    open_direct(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::DATA_OFFSET;

    const GROUP_BYTES: usize = 3 << 20;

    fn segment(directory: &Path, name: &str) -> Direct {
        let path = directory.join(name);
        Direct::fill_zero(&path, 8 << 20).unwrap();
        Direct::open(&path).unwrap()
    }

    #[test]
    fn memory_of_large_groups_goes_from_segment_to_segment_and_back_when_they_have_ceased() {
        let directory = tempfile::tempdir().unwrap();
        let mut direct = segment(directory.path(), "1");
        direct.position(DATA_OFFSET as u64).unwrap();
        direct.window(DATA_OFFSET, GROUP_BYTES).fill(7);
        direct.sync().unwrap();
        let place = direct.staging.bytes().as_ptr();

        let mut next = segment(directory.path(), "2");
        next.inherit(&mut direct);
        next.position(DATA_OFFSET as u64).unwrap();
        next.window(DATA_OFFSET, GROUP_BYTES).fill(8);
        next.sync().unwrap();
        assert_eq!(next.staging.bytes().as_ptr(), place);
        let bytes = std::fs::read(directory.path().join("2")).unwrap();
        assert!(bytes[..DATA_OFFSET].iter().all(|byte| *byte == 0));
        assert!(bytes[DATA_OFFSET..DATA_OFFSET + GROUP_BYTES].iter().all(|byte| *byte == 8));

        for sync in 0..SMALL_SYNCS_MAX as usize {
            assert!(GROUP_BYTES <= next.staging.bytes().len(), "after {sync} syncs");
            next.window(DATA_OFFSET + GROUP_BYTES + 512 * sync, 512).fill(9);
            next.sync().unwrap();
        }
        assert!(next.staging.bytes().len() <= STAGING_BYTES_KEPT);
    }
}
