//! Checkpoint files: written by a thread of their own, read once at start.
//!
//! The store hands over blocks through a short bounded channel; a full channel slows the checkpoint,
//! never the store. Writes bypass the page cache where the file system allows it, so that half a
//! gigabyte of checkpoint neither evicts the log's pages nor gathers into one long flush in front of
//! the log's next sync.
//!
//! Power cut at any line: until the rename is durable the old checkpoint and the whole log behind it
//! are there; the log is released only after [`WriterEvent::Written`], which comes after the directory
//! sync. Left-over `*.tmp` files are removed at start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{self, TrySendError};

use super::read_ahead::ReadAhead;
use crate::checkpoint::format::{
    Decoder, Encoder, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FormatError, Frame, Header,
};
use crate::shell::runtime::mesh::SharedBell;
use crate::types::LogIndex;

/// The longest rest behind a block.
const REST_MAX: Duration = Duration::from_millis(20);

/// Blocks that may wait for the disk. Two: one is being written while the next is made.
const BLOCKS_WAITING_MAX: usize = 2;

/// Bytes written at once, which a sync of the log that comes meanwhile waits for; a multiple of every device's block.
const WRITE_BYTES: usize = 256 << 10;

/// Bytes of a block that fit one frame beside its tag.
const BLOCK_BYTES_MAX: usize = FRAME_BYTES_MAX as usize - 1;

/// What O_DIRECT asks of addresses, lengths and offsets.
const ALIGNMENT: usize = 4096;

const SUFFIX: &str = "checkpoint";

/// Of a checkpoint that another member is sending.
pub(in crate::shell) const INCOMING_SUFFIX: &str = "incoming";

/// Why a checkpoint could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum LoadError {
    #[error("cannot read checkpoint {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "checkpoint {path} is damaged: {source}. The log before it is gone, so starting without it would lose acknowledged writes: restore the data directory from a backup"
    )]
    Format { path: PathBuf, source: FormatError },
    #[error("checkpoint {path} is damaged in the block at offset {offset}: {problem}")]
    Block { path: PathBuf, offset: u64, problem: String },
}

/// What the writing thread reports.
#[derive(Debug)]
pub(in crate::shell) enum WriterEvent {
    /// The checkpoint at this index is durable under its name; older ones are gone.
    Written { header: Header, bytes: u64 },
    /// It could not be written; nothing is lost, the log stays. `error` says why.
    Failed { index: LogIndex, error: io::Error },
    /// It was given up on request; nothing is left of it.
    Abandoned,
}

enum Command {
    Begin(Header),
    /// Bytes, and whether calls were under way when they were made: then the thread rests as long as they take it.
    Block(Vec<u8>, bool),
    Finish,
    Abandon,
}

/// The store's handle to the writing thread.
#[derive(Debug)]
pub(in crate::shell) struct CheckpointWriter {
    commands: channel::Sender<Command>,
}

impl CheckpointWriter {
    /// Starts the thread. It rings `room` whenever it took a block, and tells `report` how each
    /// checkpoint ended.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(in crate::shell) fn start(
        dir: PathBuf,
        room: Arc<SharedBell>,
        report: impl Fn(WriterEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, inbox) = channel::bounded(BLOCKS_WAITING_MAX);
        std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while let Ok(command) = inbox.recv() {
                let Command::Begin(header) = command else { continue };
                // What the last block took, if the thread is to rest for it.
                let mut begun = None;
                let next = || {
                    if let Some(begun) = begun.take() {
                        rest_for(begun);
                    }
                    let command = inbox.recv().ok();
                    room.ring();
                    if let Some(Command::Block(_, true)) = command {
                        begun = Some(Instant::now());
                    }
                    command
                };
                match write(&dir, &header, next) {
                    Ok(Some(bytes)) => report(WriterEvent::Written { header, bytes }),
                    Ok(None) => report(WriterEvent::Abandoned),
                    Err(error) => report(WriterEvent::Failed { index: header.index, error }),
                }
            }
        })?;
        Ok(Self { commands })
    }

    /// Begins a checkpoint. False while the thread has no room: try again when rung.
    #[must_use]
    pub(in crate::shell) fn begin(&self, header: Header) -> bool {
        self.send(Command::Begin(header)).is_ok()
    }

    /// Hands over a block of the state machine's stream, of any size, and says whether calls are under way.
    ///
    /// # Errors
    /// Gives the block back while the thread has no room.
    pub(in crate::shell) fn block(&self, block: Vec<u8>, has_calls: bool) -> Result<(), Vec<u8>> {
        self.send(Command::Block(block, has_calls)).map_err(|command| match command {
            Command::Block(block, _) => block,
            Command::Begin(_) | Command::Finish | Command::Abandon => {
                unreachable!("the command comes back as it was sent")
            }
        })
    }

    /// Ends the checkpoint. False while the thread has no room.
    #[must_use]
    pub(in crate::shell) fn finish(&self) -> bool {
        self.send(Command::Finish).is_ok()
    }

    /// Gives the checkpoint up. False while the thread has no room.
    #[must_use]
    pub(in crate::shell) fn abandon(&self) -> bool {
        self.send(Command::Abandon).is_ok()
    }

    fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) => command,
            TrySendError::Disconnected(_) => unreachable!("the thread lives as long as its sender"),
        })
    }
}

/// Leaves core and disk to the calls under way, as the store does between its turns.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, which blocks on the disk as well")]
fn rest_for(begun: Instant) {
    std::thread::sleep(begun.elapsed().min(REST_MAX));
}

/// Where the checkpoint at `index` lies.
pub(in crate::shell) fn path_of(dir: &Path, index: LogIndex) -> PathBuf {
    dir.join(format!("{:016x}.{SUFFIX}", index.0))
}

/// Writes one checkpoint. `None`: it was abandoned, or the process is stopping.
fn write(dir: &Path, header: &Header, mut next: impl FnMut() -> Option<Command>) -> io::Result<Option<u64>> {
    let path = path_of(dir, header.index);
    let aside = path.with_extension("tmp");
    let mut result = Output::create(&aside);
    let mut encoder = None;
    let mut frames = Vec::with_capacity(WRITE_BYTES * 2);
    if result.is_ok() {
        encoder = Some(Encoder::new(header, &mut frames));
    }
    // After an error the blocks are still taken, or the store would wait for ever.
    loop {
        match next() {
            None | Some(Command::Abandon) => {
                drop(result);
                fs::remove_file(&aside).ok();
                return Ok(None);
            }
            Some(Command::Begin(_)) => unreachable!("the store finishes one checkpoint before the next"),
            Some(Command::Finish) => break,
            Some(Command::Block(block, _)) => {
                if let (Ok(output), Some(encoder)) = (&mut result, &mut encoder) {
                    // A block is as large as the largest value, so it may be more than a frame; the state
                    // machine's stream may be cut anywhere.
                    let mut written = Ok(());
                    for part in block.chunks(BLOCK_BYTES_MAX) {
                        encoder.block(part, &mut frames);
                        written = written.and_then(|()| output.write(&frames));
                        frames.clear();
                    }
                    if let Err(error) = written {
                        result = Err(error);
                    }
                }
            }
        }
    }
    let written = result.and_then(|mut output| {
        encoder.take().expect("made together with the output").finish(&mut frames);
        output.write(&frames)?;
        let bytes = output.finish()?;
        fs::rename(&aside, &path)?;
        sync_dir(dir)?;
        Ok(bytes)
    });
    if written.is_err() {
        // Room on a full disk matters more than a second error message.
        fs::remove_file(&aside).ok();
    } else {
        remove_older(dir, header.index)?;
    }
    written.map(Some)
}

/// Removes the checkpoints before the one at `index`, which is durable.
///
/// # Errors
/// What the file system answered.
pub(in crate::shell) fn remove_older(dir: &Path, index: LogIndex) -> io::Result<()> {
    for (path, old) in list(dir)? {
        if old < index {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A file written in aligned pieces, past the page cache where the file system takes that.
pub(in crate::shell) struct Output {
    file: File,
    buffer: Vec<u8>,
    /// Where the aligned part of `buffer` starts.
    start: usize,
    filled: usize,
    bytes: u64,
}

impl Output {
    pub(in crate::shell) fn create(path: &Path) -> io::Result<Self> {
        let open = |flags| {
            OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .custom_flags(flags)
                .open(path)
        };
        let file = match open(libc::O_DIRECT) {
            // tmpfs and some others have no O_DIRECT.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0)?,
            opened => opened?,
        };
        let buffer = vec![0; WRITE_BYTES + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "a byte pointer can always be aligned");
        Ok(Self { file, buffer, start, filled: 0, bytes: 0 })
    }

    pub(in crate::shell) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let part = bytes.len().min(WRITE_BYTES - self.filled);
            let at = self.start + self.filled;
            self.buffer[at..at + part].copy_from_slice(&bytes[..part]);
            self.filled += part;
            bytes = &bytes[part..];
            if self.filled == WRITE_BYTES {
                self.file.write_all(&self.buffer[self.start..self.start + WRITE_BYTES])?;
                self.filled = 0;
            }
        }
        Ok(())
    }

    /// Writes the rest, cuts the padding off, and makes contents and length durable.
    pub(in crate::shell) fn finish(mut self) -> io::Result<u64> {
        let padded = self.filled.next_multiple_of(ALIGNMENT);
        self.buffer[self.start + self.filled..self.start + padded].fill(0);
        self.file.write_all(&self.buffer[self.start..self.start + padded])?;
        self.file.set_len(self.bytes)?;
        self.file.sync_all()?;
        Ok(self.bytes)
    }
}

fn list(dir: &Path) -> io::Result<Vec<(PathBuf, LogIndex)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_checkpoint = is_own(&path) && !is_unfinished(&path);
        let index = path.file_stem().and_then(|stem| u64::from_str_radix(stem.to_str()?, 16).ok());
        if let (true, Some(index)) = (is_checkpoint, index) {
            found.push((path, LogIndex(index)));
        }
    }
    Ok(found)
}

/// Whether a file of this name is a checkpoint, or one that is not finished.
pub(in crate::shell) fn is_own(path: &Path) -> bool {
    let stem = path.file_name().and_then(|name| name.to_str()?.split('.').next());
    let is_index = stem.is_some_and(|stem| stem.len() == 16 && u64::from_str_radix(stem, 16).is_ok());
    is_index && (path.extension().is_some_and(|extension| extension == SUFFIX) || is_unfinished(path))
}

fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp" || extension == INCOMING_SUFFIX)
}

/// Removes what an interrupted checkpoint left behind, one of this member's own or another's that was
/// on its way.
///
/// # Errors
/// What the file system answered.
pub(in crate::shell) fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_own(&path) && is_unfinished(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes a checkpoint on the calling thread, before a member runs. One of the same index is replaced.
///
/// # Errors
/// What the file system answered.
pub(in crate::shell) fn write_whole(
    dir: &Path,
    header: &Header,
    blocks: impl IntoIterator<Item = Vec<u8>>,
) -> io::Result<()> {
    let mut commands = blocks.into_iter().map(|block| Command::Block(block, false)).chain([Command::Finish]);
    write(dir, header, || commands.next()).map(|_bytes| ())
}

/// Reads the newest checkpoint and hands every part of it over. `None`: there is none. A thread reads and checks the
/// next blocks while one is taken.
///
/// # Errors
/// [`LoadError`] naming file and offset; a damaged checkpoint is never skipped in favour of an
/// older one, since the log between the two is gone.
pub(in crate::shell) fn load_newest(
    dir: &Path,
    mut on_part: impl FnMut(Part<'_>) -> Result<(), String>,
) -> Result<Option<Header>, LoadError> {
    let newest = list(dir).map_err(io(dir))?.into_iter().max_by_key(|(_path, index)| *index);
    let Some((path, index)) = newest else { return Ok(None) };
    let path = &path;
    std::thread::scope(|scope| {
        let (parts, inbox) = channel::bounded(BLOCKS_WAITING_MAX);
        let (spares, spare) = channel::bounded(BLOCKS_WAITING_MAX + 2);
        scope.spawn(move || {
            let ended = std::thread::scope(|scope| {
                let (input, bytes) = ReadAhead::open(scope, path).map_err(io(path))?;
                read_frames(path, (input, bytes), &spare, |part| parts.send(Ok(part)).is_ok())
            });
            if let Err(error) = ended {
                // Nobody takes it: a block before it was refused already.
                drop(parts.send(Err(error)));
            }
        });
        let mut header = None;
        for part in inbox {
            match part? {
                Read::Header(found, bytes) => {
                    on_part(Part::Header(&found, bytes)).map_err(|problem| block_error(path, 0, problem))?;
                    header = Some(found);
                }
                Read::Block { payload, offset } => {
                    on_part(Part::Block(&payload[1..]))
                        .map_err(|problem| block_error(path, offset, problem))?;
                    drop(spares.try_send(payload));
                }
            }
        }
        let header = header.expect("a whole checkpoint starts with its header");
        if header.index == index {
            Ok(Some(header))
        } else {
            Err(block_error(path, 0, "its name is not the index it holds".to_owned()))
        }
    })
}

/// A part of a checkpoint that is being loaded.
pub(in crate::shell) enum Part<'a> {
    /// First of all; and how long the file is.
    Header(&'a Header, u64),
    Block(&'a [u8]),
}

/// What the thread that reads has checked.
enum Read {
    Header(Header, u64),
    Block {
        /// Behind its tag.
        payload: Vec<u8>,
        offset: u64,
    },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> LoadError {
    let path = path.to_owned();
    move |source| LoadError::Io { path, source }
}

fn block_error(path: &Path, offset: u64, problem: String) -> LoadError {
    LoadError::Block { path: path.to_owned(), offset, problem }
}

/// Reads and checks frame by frame, into buffers that were used before, until the end or until `hand_over` wants
/// no more.
fn read_frames(
    path: &Path,
    (mut input, file_bytes): (impl io::Read, u64),
    spare: &channel::Receiver<Vec<u8>>,
    mut hand_over: impl FnMut(Read) -> bool,
) -> Result<(), LoadError> {
    let format = |source| LoadError::Format { path: path.to_owned(), source };
    let mut decoder = Decoder::default();
    loop {
        let mut head = [0; FRAME_HEADER_BYTES];
        let truncated = FormatError::Truncated { offset: decoder.offset() };
        match read_full(&mut input, &mut head).map_err(io(path))? {
            0 => break,
            FRAME_HEADER_BYTES => {}
            _ => return Err(format(truncated)),
        }
        let mut payload = spare.try_recv().unwrap_or_default();
        payload.resize(decoder.payload_bytes(head).map_err(format)?, 0);
        if read_full(&mut input, &mut payload).map_err(io(path))? < payload.len() {
            return Err(format(truncated));
        }
        let offset = decoder.offset();
        let read = match decoder.frame(head, &payload).map_err(format)? {
            Frame::Header(found) => Read::Header(found, file_bytes),
            Frame::Block(_) => Read::Block { payload, offset },
            Frame::Trailer => continue,
        };
        if !hand_over(read) {
            return Ok(());
        }
    }
    decoder.finish().map_err(format)
}

/// Reads until `buffer` is full or the input ends; answers how much came.
fn read_full(input: &mut impl io::Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the file system answered.
pub(in crate::shell) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, MemberId, Term};

    fn header(index: u64) -> Header {
        Header {
            cluster: ClusterId(1),
            member: MemberId(2),
            index: LogIndex(index),
            term: Term(3),
            voters: vec![MemberId(2)],
            learners: Vec::new(),
        }
    }

    fn blocks() -> Vec<Vec<u8>> {
        vec![b"small".to_vec(), vec![3; 700_000], vec![4; 1 << 20], vec![5; 4096]]
    }

    #[test]
    fn a_newer_checkpoint_replaces_the_older_one_and_reads_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        write_whole(dir.path(), &header(5), vec![b"old".to_vec()]).unwrap();
        write_whole(dir.path(), &header(9), blocks()).unwrap();
        let (mut first, mut read) = (None, Vec::new());
        let found = load_newest(dir.path(), |part| {
            match part {
                Part::Header(header, _) => first = Some((header.clone(), read.len())),
                Part::Block(block) => read.push(block.to_vec()),
            }
            Ok(())
        });
        assert_eq!(found.unwrap(), Some(header(9)));
        assert_eq!(first, Some((header(9), 0)), "the header comes before all blocks");
        assert_eq!(read, blocks());
        assert_eq!(list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_block_larger_than_a_frame_is_cut_and_comes_back_whole() {
        let dir = tempfile::tempdir().unwrap();
        let block: Vec<u8> = (0..3_500_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
        write_whole(dir.path(), &header(9), vec![block.clone(), b"small".to_vec()]).unwrap();
        let mut read = Vec::new();
        load_newest(dir.path(), |part| {
            if let Part::Block(block) = part {
                read.extend_from_slice(block);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(read, [&block[..], b"small"].concat());
    }

    #[test]
    fn whoever_refuses_a_block_is_not_asked_again_and_hears_where_it_lay() {
        let dir = tempfile::tempdir().unwrap();
        let many = (0..40_u8).map(|number| vec![number; 300_000]).collect::<Vec<_>>();
        write_whole(dir.path(), &header(9), many).unwrap();
        let mut asked = 0;
        let refused = load_newest(dir.path(), |part| match part {
            Part::Header(..) => Ok(()),
            Part::Block(_) => {
                asked += 1;
                if asked == 3 { Err("the third is not liked".to_owned()) } else { Ok(()) }
            }
        });
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("the third is not liked") && error.contains("offset"), "{error}");
        assert_eq!(asked, 3);
    }

    #[test]
    fn a_damaged_newest_checkpoint_is_refused_with_its_name_not_skipped() {
        let dir = tempfile::tempdir().unwrap();
        write_whole(dir.path(), &header(9), blocks()).unwrap();
        let path = path_of(dir.path(), LogIndex(9));
        let mut bytes = fs::read(&path).unwrap();
        bytes[800_000] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = load_newest(dir.path(), |_block| Ok(())).unwrap_err().to_string();
        assert!(error.contains("0000000000000009.checkpoint") && error.contains("offset"), "{error}");
    }

    #[test]
    fn an_interrupted_checkpoint_leaves_the_older_one_in_force() {
        let dir = tempfile::tempdir().unwrap();
        write_whole(dir.path(), &header(5), blocks()).unwrap();
        fs::write(path_of(dir.path(), LogIndex(9)).with_extension("tmp"), b"half").unwrap();
        remove_unfinished(dir.path()).unwrap();
        assert_eq!(load_newest(dir.path(), |_block| Ok(())).unwrap(), Some(header(5)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
