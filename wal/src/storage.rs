//! Storage: what the log asks of the disk, and the order in which files come and go.
//!
//! `Storage` is what the writer sees: segments, a window into the open one, one blocking sync.
//! `Directory` is what lies below: names and files, nothing durable until a sync. `Housekeeping`
//! joins them: it prepares, recycles and removes segment files so that a crash after any step leaves
//! only whole segments under segment names. Real files and the in-memory double share it, so the
//! crash tests run the very order that ships.
//!
//! Invariants: a file gets a segment's name only when its content is durable; the name is durable
//! before the segment is used; segments lose their names oldest first, one directory sync each.

use crate::Identity;
use crate::segment::{Header, PAGE_BYTES, SegmentSeq};
use std::collections::{BTreeMap, VecDeque};
use std::io;

/// The disk as the log writer sees it. A blocking call each; an error of `sync` is final.
pub trait Storage {
    /// Size that prepared segments get.
    fn segment_bytes(&self) -> u32;

    /// A log keeps the segment size it was created with, whatever the configuration says now.
    fn adopt_segment_bytes(&mut self, segment_bytes: u32);

    /// Segments present, ascending. Removes left-overs of interrupted preparation first.
    fn segments(&mut self) -> io::Result<Vec<SegmentSeq>>;

    /// Size of a segment's file.
    fn size(&mut self, seq: SegmentSeq) -> io::Result<u64>;

    /// `len` bytes of a segment from `offset` on, fewer where the file ends.
    fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>>;

    /// The first `len` bytes of a segment, fewer where the file ends. `next` will be read so after it: a storage may begin
    /// with it at once, and what fails shows when it is read. What is kept for that goes when a segment is opened.
    fn read_whole(&mut self, seq: SegmentSeq, len: usize, next: Option<SegmentSeq>) -> io::Result<&[u8]>;

    /// Asks for segment `seq` to exist, durably, with `head` at its beginning and no valid group
    /// behind that. Does not wait. A segment that is there already is left as it is.
    fn prepare(&mut self, seq: SegmentSeq, head: Vec<u8>);

    /// Waits for what `prepare` asked. After an error, `prepare` may be asked again.
    fn wait_prepared(&mut self, seq: SegmentSeq) -> io::Result<()>;

    /// Makes a prepared segment the open one; `tail` is the offset of the next write.
    fn open(&mut self, seq: SegmentSeq, tail: u64) -> io::Result<()>;

    /// Bytes of the open segment, to be overwritten whole. Between two syncs windows adjoin, except
    /// that the mark's may be the only one.
    fn window(&mut self, offset: usize, len: usize) -> &mut [u8];

    /// Makes all windows handed out since the last sync durable: the one blocking wait of a group.
    /// The first sync after `open` covers what the file held before, too.
    fn sync(&mut self) -> io::Result<()>;

    /// The segment is no longer needed: its file is recycled or removed. Does not wait; what fails
    /// costs only space, and shows when the next segment cannot be prepared.
    fn release(&mut self, seq: SegmentSeq);

    /// The segment's file, for messages.
    fn locate(&self, seq: SegmentSeq) -> String;
}

/// A log over borrowed storage, or over storage chosen at run time.
macro_rules! forward_storage {
    ($($holder:ty),*) => {$(
        impl<S: Storage + ?Sized> Storage for $holder {
            fn segment_bytes(&self) -> u32 {
                (**self).segment_bytes()
            }
            fn adopt_segment_bytes(&mut self, segment_bytes: u32) {
                (**self).adopt_segment_bytes(segment_bytes);
            }
            fn segments(&mut self) -> io::Result<Vec<SegmentSeq>> {
                (**self).segments()
            }
            fn size(&mut self, seq: SegmentSeq) -> io::Result<u64> {
                (**self).size(seq)
            }
            fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>> {
                (**self).read(seq, offset, len)
            }
            fn read_whole(&mut self, seq: SegmentSeq, len: usize, next: Option<SegmentSeq>) -> io::Result<&[u8]> {
                (**self).read_whole(seq, len, next)
            }
            fn prepare(&mut self, seq: SegmentSeq, head: Vec<u8>) {
                (**self).prepare(seq, head);
            }
            fn wait_prepared(&mut self, seq: SegmentSeq) -> io::Result<()> {
                (**self).wait_prepared(seq)
            }
            fn open(&mut self, seq: SegmentSeq, tail: u64) -> io::Result<()> {
                (**self).open(seq, tail)
            }
            fn window(&mut self, offset: usize, len: usize) -> &mut [u8] {
                (**self).window(offset, len)
            }
            fn sync(&mut self) -> io::Result<()> {
                (**self).sync()
            }
            fn release(&mut self, seq: SegmentSeq) {
                (**self).release(seq);
            }
            fn locate(&self, seq: SegmentSeq) -> String {
                (**self).locate(seq)
            }
        }
    )*};
}
forward_storage!(Box<S>, &mut S);

/// Names and files. Nothing is durable before `sync` (content) and `sync_directory` (names).
pub trait Directory {
    fn list(&mut self) -> io::Result<Vec<String>>;
    fn size(&mut self, name: &str) -> io::Result<u64>;
    /// A new file of `bytes` zeros, every block of it written. An error leaves no promise about it.
    fn create_zeroed(&mut self, name: &str, bytes: u32) -> io::Result<()>;
    /// Overwrites the file's beginning: whole pages.
    fn write_head(&mut self, name: &str, head: &[u8]) -> io::Result<()>;
    fn sync(&mut self, name: &str) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
    fn sync_directory(&mut self) -> io::Result<()>;
}

/// Released files kept for reuse. One is what a steady log needs between two cuts; the second
/// absorbs a checkpoint that releases late.
const FREE_COUNT_MAX: usize = 2;

/// Prepares, recycles and removes segment files.
#[derive(Debug, Default)]
pub struct Housekeeping {
    /// Files that no longer are segments, whole and of the right size.
    free: VecDeque<String>,
    /// Released, and not gone yet: one that failed is tried again before any later one.
    leaving: VecDeque<SegmentSeq>,
    /// Names given to free files and temporaries, so that none is used twice.
    names: u64,
}

impl Housekeeping {
    /// Removes what an interrupted preparation left; answers the segments that are there.
    pub fn sweep(&mut self, directory: &mut impl Directory) -> io::Result<Vec<SegmentSeq>> {
        let mut segments = Vec::new();
        for name in directory.list()? {
            if let Some(seq) = SegmentSeq::parse(&name) {
                segments.push(seq);
            } else if is_temporary(&name) {
                directory.remove(&name)?;
            }
        }
        segments.sort_unstable();
        // Names that a dead process left in the cache become durable before anything relies on them.
        directory.sync_directory()?;
        Ok(segments)
    }

    /// See [`Storage::prepare`].
    pub fn prepare(
        &mut self,
        directory: &mut impl Directory,
        seq: SegmentSeq,
        head: &[u8],
        segment_bytes: u32,
    ) -> io::Result<()> {
        let name = seq.file_name();
        if !directory.list()?.contains(&name) {
            assert_eq!(head.len() % PAGE_BYTES, 0, "a segment's head is whole pages");
            // A recycled file keeps its stale groups: their stamps name the old segment, so they
            // cannot speak.
            let recycled = self.free.pop_front();
            let fresh = recycled.is_none();
            let temporary = recycled.unwrap_or_else(|| self.temporary("tmp"));
            if let Err(error) = fill(directory, &temporary, fresh.then_some(segment_bytes), head, &name) {
                // On a full disk the half-made file must give its blocks back. That this fails as
                // well changes nothing: the next start removes it.
                drop(directory.remove(&temporary));
                return Err(error);
            }
        }
        // Also when the name is there already: an earlier try may have failed at just this.
        directory.sync_directory()
    }

    /// See [`Storage::release`].
    pub fn release(
        &mut self,
        directory: &mut impl Directory,
        seq: SegmentSeq,
        segment_bytes: u32,
    ) -> io::Result<()> {
        self.leaving.push_back(seq);
        while let Some(oldest) = self.leaving.front() {
            let name = oldest.file_name();
            if directory.list()?.contains(&name) {
                let whole = directory.size(&name)? == u64::from(segment_bytes);
                if whole && self.free.len() < FREE_COUNT_MAX {
                    let free = self.temporary("free");
                    directory.rename(&name, &free)?;
                    // Before its header changes: a crash must not find the new header under the old
                    // name. Should this fail, the file is left to the next start's sweep.
                    directory.sync_directory()?;
                    self.free.push_back(free);
                    self.leaving.pop_front();
                    continue;
                }
                directory.remove(&name)?;
            }
            // Before the next name goes: a gap in the names means a lost segment.
            directory.sync_directory()?;
            self.leaving.pop_front();
        }
        Ok(())
    }

    fn temporary(&mut self, suffix: &str) -> String {
        self.names += 1;
        format!("wal-{:08x}.{suffix}", self.names)
    }
}

/// Content first, durably; then the name.
fn fill(
    directory: &mut impl Directory,
    temporary: &str,
    create_bytes: Option<u32>,
    head: &[u8],
    name: &str,
) -> io::Result<()> {
    if let Some(bytes) = create_bytes {
        directory.create_zeroed(temporary, bytes)?;
    }
    directory.write_head(temporary, head)?;
    directory.sync(temporary)?;
    directory.rename(temporary, name)
}

/// Whether a file of this name belongs to a log: a segment, or one in the making or to be recycled.
#[must_use]
pub fn is_log_file(name: &str) -> bool {
    SegmentSeq::parse(name).is_some() || is_temporary(name)
}

fn is_temporary(name: &str) -> bool {
    name.starts_with("wal-") && (name.ends_with(".tmp") || name.ends_with(".free"))
}

/// The head of an unused segment.
#[must_use]
pub fn empty_head(identity: Identity, seq: SegmentSeq, segment_bytes: u32) -> Vec<u8> {
    Header { seq, segment_bytes, identity }.encode()
}

/// What became of each asked preparation; shared by storages that do it at once or on a helper.
#[derive(Debug)]
pub(crate) struct Prepared<T> {
    done: BTreeMap<SegmentSeq, io::Result<T>>,
}

impl<T> Default for Prepared<T> {
    fn default() -> Self {
        Self { done: BTreeMap::new() }
    }
}

impl<T> Prepared<T> {
    pub(crate) fn insert(&mut self, seq: SegmentSeq, result: io::Result<T>) {
        self.done.insert(seq, result);
    }

    pub(crate) fn is_ready(&self, seq: SegmentSeq) -> bool {
        matches!(self.done.get(&seq), Some(Ok(_)))
    }

    /// An error is handed out once, so that the next ask starts anew.
    pub(crate) fn check(&mut self, seq: SegmentSeq) -> io::Result<()> {
        match self.done.remove(&seq) {
            Some(Ok(held)) => {
                self.done.insert(seq, Ok(held));
                Ok(())
            }
            Some(Err(error)) => Err(error),
            None => Err(io::Error::other(format!("segment {seq} was never asked for"))),
        }
    }

    pub(crate) fn take(&mut self, seq: SegmentSeq) -> Option<T> {
        self.done.remove(&seq).and_then(Result::ok)
    }
}
