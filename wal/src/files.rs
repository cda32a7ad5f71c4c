//! Segments as files of a directory, and the helper thread that prepares and recycles them.
//!
//! `FileStorage` is driven by the log writer's thread. Everything that may take long and is not the
//! one sync of a group (zero-writing a segment, renaming, directory syncs, unmapping) happens on the
//! helper. Create the storage before pinning: the helper inherits the affinity of the thread that
//! creates it, and must not share the writer's core.
//!
//! Invariants: the directory is locked for the life of the storage; segments are read past the page
//! cache, so that opening a log never fills it with large folios.
//! Cost: one thread, asleep unless a segment is asked for; memory of one segment image while opening.

#![expect(clippy::disallowed_types, reason = "the map feature is where the log touches files")]

use crate::reader::SegmentFiles;
use crate::segment::{PAGE_BYTES, SegmentSeq};
use crate::storage::{Directory, Housekeeping, Prepared, Storage};
use crate::{direct, map};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::marker::PhantomData;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::{fmt, io};

/// How the bytes of an open segment reach the disk.
pub trait Medium: fmt::Debug + Send + Sized + 'static {
    /// Goes through the page cache.
    const CACHED: bool;
    /// Creates the file with all its blocks written and synced.
    fn fill_zero(path: &Path, bytes: u32) -> io::Result<()>;
    /// Opens a prepared segment; may take its time.
    fn open(path: &Path) -> io::Result<Self>;
    /// Opens the last segment at start; must not take long.
    fn open_unwarmed(path: &Path) -> io::Result<Self>;
    /// Takes over the memory of a segment that is full.
    fn inherit(&mut self, _full: &mut Self) {}
    /// The next window begins at `tail`.
    fn position(&mut self, tail: u64) -> io::Result<()>;
    fn window(&mut self, offset: usize, len: usize) -> &mut [u8];
    fn sync(&mut self) -> io::Result<()>;
}

enum Command<M> {
    Prepare {
        seq: SegmentSeq,
        head: Vec<u8>,
        segment_bytes: u32,
    },
    Release {
        seq: SegmentSeq,
        segment_bytes: u32,
    },
    /// Unmapping 32 MiB takes longer than a group may wait.
    Close(M),
    /// Brings the pages of the segment found at start into the cache, ahead of the writer.
    Warm {
        seq: SegmentSeq,
        offset: u64,
    },
}

/// A segment that a thread reads, from its beginning, and the memory that it is read to.
#[derive(Debug)]
struct Ahead {
    seq: SegmentSeq,
    len: usize,
    reading: JoinHandle<(io::Result<usize>, Aligned)>,
}

/// Segments in one directory.
#[derive(Debug)]
pub struct FileStorage<M: Medium> {
    path: PathBuf,
    segment_bytes: u32,
    open: Option<(SegmentSeq, M)>,
    prepared: Prepared<M>,
    ahead: Option<Ahead>,
    /// The segment that was read last, and memory for the next: a log is read with the memory of two segments, since the
    /// kernel has to clear what is touched for the first time, which takes longer than to check it.
    image: Aligned,
    spare: Aligned,
    /// Asked of the helper and not answered yet.
    asked: BTreeSet<SegmentSeq>,
    commands: Option<Sender<Command<M>>>,
    answers: Receiver<(SegmentSeq, io::Result<M>)>,
    helper: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    /// Holds the directory's lock.
    _lock: File,
}

impl<M: Medium> FileStorage<M> {
    /// Opens a directory that exists. Fails with `WouldBlock` if another process has it.
    pub fn open(path: &Path, segment_bytes: u32) -> io::Result<Self> {
        let lock = File::open(path)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, "another process has this log open")
            }
            TryLockError::Error(error) => error,
        })?;
        let (commands, inbox) = channel();
        let (outbox, answers) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let work = Helper::<M> {
            directory: FileDirectory::new(path),
            housekeeping: Housekeeping::default(),
            stopping: Arc::clone(&stopping),
        };
        let helper = std::thread::Builder::new()
            .name("wal-helper".to_owned())
            .spawn(move || work.run(&inbox, &outbox))?;
        Ok(Self {
            path: path.to_owned(),
            segment_bytes,
            open: None,
            prepared: Prepared::default(),
            ahead: None,
            image: Aligned::new(0),
            spare: Aligned::new(0),
            asked: BTreeSet::new(),
            commands: Some(commands),
            answers,
            helper: Some(helper),
            stopping,
            _lock: lock,
        })
    }

    fn command(&self, command: Command<M>) -> io::Result<()> {
        let commands = self.commands.as_ref().expect("taken only by drop");
        commands.send(command).map_err(|_| io::Error::other("the log's helper thread has died"))
    }

    fn take_answer(&mut self, (seq, result): (SegmentSeq, io::Result<M>)) {
        self.asked.remove(&seq);
        self.prepared.insert(seq, result);
    }

    fn file(&self, seq: SegmentSeq) -> PathBuf {
        self.path.join(seq.file_name())
    }
}

impl<M: Medium> Drop for FileStorage<M> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.commands = None;
        if let Some(ahead) = self.ahead.take() {
            // Nobody wants it any more.
            drop(ahead.reading.join());
        }
        if let Some(helper) = self.helper.take()
            && helper.join().is_err()
        {
            // Its panic has been printed, and everything it was asked shows as an error already.
        }
    }
}

impl<M: Medium> Storage for FileStorage<M> {
    fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    fn adopt_segment_bytes(&mut self, segment_bytes: u32) {
        self.segment_bytes = segment_bytes;
    }

    fn segments(&mut self) -> io::Result<Vec<SegmentSeq>> {
        assert!(self.asked.is_empty(), "sweeping would remove what the helper is making");
        Housekeeping::default().sweep(&mut FileDirectory::<M>::new(&self.path))
    }

    fn size(&mut self, seq: SegmentSeq) -> io::Result<u64> {
        Ok(fs::metadata(self.file(seq))?.len())
    }

    fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read_past_cache(&self.file(seq), offset, len)
    }

    fn read_whole(&mut self, seq: SegmentSeq, len: usize, next: Option<SegmentSeq>) -> io::Result<&[u8]> {
        let read = match self.ahead.take_if(|ahead| (ahead.seq, ahead.len) == (seq, len)) {
            Some(ahead) => {
                let joined = ahead.reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let (read, image) = joined;
                self.spare = std::mem::replace(&mut self.image, image);
                read?
            }
            None => read_whole(&self.file(seq), len, &mut self.image)?,
        };
        if let Some(seq) = next {
            let (path, mut image) = (self.file(seq), std::mem::replace(&mut self.spare, Aligned::new(0)));
            let read = move || (read_whole(&path, len, &mut image), image);
            // Without a thread it is read when it is asked for.
            let reading = std::thread::Builder::new().name("wal-ahead".to_owned()).spawn(read);
            self.ahead = reading.ok().map(|reading| Ahead { seq, len, reading });
        }
        Ok(&self.image.bytes()[..read])
    }

    fn prepare(&mut self, seq: SegmentSeq, head: Vec<u8>) {
        while let Ok(answer) = self.answers.try_recv() {
            self.take_answer(answer);
        }
        if self.prepared.is_ready(seq) || self.asked.contains(&seq) {
            return;
        }
        // An earlier failure counts no more: space may have come back.
        match self.command(Command::Prepare { seq, head, segment_bytes: self.segment_bytes }) {
            Ok(()) => {
                self.asked.insert(seq);
            }
            Err(error) => self.prepared.insert(seq, Err(error)),
        }
    }

    fn wait_prepared(&mut self, seq: SegmentSeq) -> io::Result<()> {
        while self.asked.contains(&seq) {
            match self.answers.recv() {
                Ok(answer) => self.take_answer(answer),
                Err(_) => return Err(io::Error::other("the log's helper thread has died")),
            }
        }
        self.prepared.check(seq)
    }

    fn open(&mut self, seq: SegmentSeq, tail: u64) -> io::Result<()> {
        // What was to be read has been.
        (self.image, self.spare) = (Aligned::new(0), Aligned::new(0));
        if let Some((open, medium)) = &mut self.open
            && *open == seq
        {
            return medium.position(tail);
        }
        let mut medium = match self.prepared.take(seq) {
            Some(medium) => medium,
            None => {
                let medium = M::open_unwarmed(&self.file(seq))?;
                if M::CACHED {
                    self.command(Command::Warm { seq, offset: tail })?;
                }
                medium
            }
        };
        if let Some((_, full)) = &mut self.open {
            medium.inherit(full);
        }
        medium.position(tail)?;
        if let Some((_, full)) = self.open.replace((seq, medium)) {
            self.command(Command::Close(full))?;
        }
        Ok(())
    }

    fn window(&mut self, offset: usize, len: usize) -> &mut [u8] {
        let (_, medium) = self.open.as_mut().expect("a segment is open");
        medium.window(offset, len)
    }

    fn sync(&mut self) -> io::Result<()> {
        let (_, medium) = self.open.as_mut().expect("a segment is open");
        medium.sync()
    }

    fn release(&mut self, seq: SegmentSeq) {
        // A helper that died answers the next `prepare` with an error; space is all that this costs.
        drop(self.command(Command::Release { seq, segment_bytes: self.segment_bytes }));
    }

    fn locate(&self, seq: SegmentSeq) -> String {
        self.file(seq).display().to_string()
    }
}

struct Helper<M: Medium> {
    directory: FileDirectory<M>,
    housekeeping: Housekeeping,
    stopping: Arc<AtomicBool>,
}

impl<M: Medium> Helper<M> {
    /// Until the storage is dropped; what was asked before that is still done, save warming.
    fn run(mut self, inbox: &Receiver<Command<M>>, outbox: &Sender<(SegmentSeq, io::Result<M>)>) {
        while let Ok(command) = inbox.recv() {
            match command {
                Command::Prepare { seq, head, segment_bytes } => {
                    let made = self.housekeeping.prepare(&mut self.directory, seq, &head, segment_bytes);
                    let opened = made.and_then(|()| M::open(&self.directory.file(&seq.file_name())));
                    if outbox.send((seq, opened)).is_err() {
                        return;
                    }
                }
                Command::Release { seq, segment_bytes } => {
                    // Tried again with the next release; until then it costs only space.
                    drop(self.housekeeping.release(&mut self.directory, seq, segment_bytes));
                }
                Command::Close(full) => drop(full),
                Command::Warm { seq, offset } => {
                    let stop = || self.stopping.load(Ordering::Relaxed);
                    // A cold page costs the writer a disk read, nothing else.
                    drop(map::warm(&self.directory.file(&seq.file_name()), offset, &stop));
                }
            }
        }
    }
}

/// A real directory.
struct FileDirectory<M> {
    path: PathBuf,
    medium: PhantomData<M>,
}

impl<M: Medium> FileDirectory<M> {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), medium: PhantomData }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl<M: Medium> Directory for FileDirectory<M> {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for found in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = found?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn size(&mut self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.file(name))?.len())
    }

    fn create_zeroed(&mut self, name: &str, bytes: u32) -> io::Result<()> {
        M::fill_zero(&self.file(name), bytes)
    }

    fn write_head(&mut self, name: &str, head: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.file(name))?;
        // Page by page, for the folios' sake: see `map.rs`.
        for (page, bytes) in head.chunks(PAGE_BYTES).enumerate() {
            file.write_all_at(bytes, (page * PAGE_BYTES) as u64)?;
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        File::open(self.file(name))?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from), self.file(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// The segments of a directory that a [`FileStorage`] of this process writes. Reads past the page cache:
/// what a follower asks for is old, and reading it ahead would bring large folios into files that are
/// recycled (see `map.rs`). The kernel writes dirty pages of the part that is read out first; readers ask
/// for what is durable, so there are next to none.
#[derive(Debug)]
pub struct SharedFiles {
    path: PathBuf,
}

impl SharedFiles {
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

impl SegmentFiles for SharedFiles {
    fn list(&mut self) -> io::Result<Vec<SegmentSeq>> {
        let mut segments = Vec::new();
        for found in fs::read_dir(&self.path)? {
            segments.extend(found?.file_name().to_str().and_then(SegmentSeq::parse));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn read(&mut self, seq: SegmentSeq, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read_past_cache(&self.path.join(seq.file_name()), offset, len)
    }
}

/// Alignment and unit of direct I/O: the largest logical block in use.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Zeroed memory that begins at a block's boundary.
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(crate) fn new(length: usize) -> Self {
        let memory = vec![0; length + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start <= BLOCK_BYTES, "byte pointers can be aligned");
        Self { memory, start, length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    /// At least `length`, the first `kept` bytes as before.
    pub(crate) fn grow(&mut self, length: usize, kept: usize) {
        if self.length < length {
            let mut larger = Self::new(length.max(2 * self.length));
            larger.bytes_mut()[..kept].copy_from_slice(&self.bytes()[..kept]);
            *self = larger;
        }
    }

    /// Down to `length`, keeping its bytes.
    pub(crate) fn shrink(&mut self, length: usize) {
        let mut smaller = Self::new(length);
        smaller.bytes_mut().copy_from_slice(&self.bytes()[..length]);
        *self = smaller;
    }
}

pub(crate) fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// Reads up to `len` bytes of a file from its beginning, past the cache. Returns how many there are.
fn read_whole(path: &Path, len: usize, image: &mut Aligned) -> io::Result<usize> {
    let is_direct = direct::is_supported(path);
    let file = if is_direct { open_direct(path)? } else { File::open(path)? };
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let wanted = len.min(size);
    image.grow(wanted.next_multiple_of(BLOCK_BYTES), 0);
    let mut done = 0;
    while done < wanted {
        let end = wanted.next_multiple_of(BLOCK_BYTES).min(done + READ_BYTES);
        match file.read_at(&mut image.bytes_mut()[done..end], done as u64) {
            // It was longer a moment ago.
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if is_direct && !done.is_multiple_of(BLOCK_BYTES) {
            break; // The end of the file: direct reads are short nowhere else.
        }
    }
    if !is_direct {
        map::forget_cache(&file)?;
    }
    Ok(done.min(wanted))
}

/// Bytes that are asked of the disk at once.
const READ_BYTES: usize = 4 << 20;

fn read_past_cache(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    const PIECE: usize = 1 << 20;
    if !direct::is_supported(path) {
        return read_through_cache(path, offset, len);
    }
    let file = open_direct(path)?;
    let mut piece = Aligned::new(PIECE);
    let skipped = usize::try_from(offset % BLOCK_BYTES as u64).expect("less than a block");
    let mut at = offset - skipped as u64;
    let size = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = Vec::with_capacity(len.min(usize::try_from(size).unwrap_or(usize::MAX)));
    let mut skip = skipped;
    while bytes.len() < len {
        let wanted = (skip + len - bytes.len()).next_multiple_of(BLOCK_BYTES).min(PIECE);
        let read = match file.read_at(&mut piece.bytes_mut()[..wanted], at) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let fresh = piece.bytes().get(skip..read).unwrap_or_default();
        bytes.extend_from_slice(&fresh[..fresh.len().min(len - bytes.len())]);
        skip = 0;
        at += read as u64;
        if read < wanted {
            break; // The end of the file: direct reads are short nowhere else.
        }
    }
    Ok(bytes)
}

fn read_through_cache(path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len().saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(size)];
    file.read_exact_at(&mut bytes, offset)?;
    map::forget_cache(&file)?;
    Ok(bytes)
}
