//! The mapped medium: a group is stored into the page cache and one `fdatasync` makes it durable.
//!
//! Segments must sit in the cache as single pages. Were they large folios, each sync would write the
//! whole folio around a dirty byte: 1 MiB instead of 4 KiB. So a fresh segment is zero-written page by
//! page (the kernel sizes a folio by the write that creates it), reads of it are marked random (no
//! read-ahead, which allocates large folios), and its pages are touched ahead by the helper.
//!
//! Invariants: a mapped file is whole, not sparse (no SIGBUS on a full disk), and is neither shrunk
//! nor written by anyone else: the directory lock sees to that.
//! Cost: append is a memory copy plus a page fault a page and sync; sync is one system call.

#![expect(unsafe_code, reason = "mapping files, and the system calls around it that std does not offer")]
#![expect(clippy::disallowed_types, reason = "the map feature is where the log touches files")]

use crate::files::{FileStorage, Medium};
use crate::segment::PAGE_BYTES;
use memmap2::{Advice, MmapMut, MmapOptions};
use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// Segments in mapped files.
pub type MapStorage = FileStorage<Mapped>;

/// One mapped segment.
#[derive(Debug)]
pub struct Mapped {
    file: File,
    map: MmapMut,
}

impl Medium for Mapped {
    const CACHED: bool = true;

    fn fill_zero(path: &Path, bytes: u32) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        // First of all the blocks: a full disk shows here, at once and cleanly.
        allocate(&file, bytes)?;
        let page = [0; PAGE_BYTES];
        for at in (0..u64::from(bytes)).step_by(PAGE_BYTES) {
            file.write_all_at(&page, at)?;
            // In slices, so that the writer's own syncs never queue behind a whole segment.
            if at % (1 << 20) == (1 << 20) - PAGE_BYTES as u64 {
                file.sync_data()?;
            }
        }
        file.sync_all()
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // SAFETY: the file is whole (a segment gets its name only then), the directory lock keeps
        // other processes of ours away, and this process opens a segment once at a time. What an
        // outsider does to the file can corrupt its bytes, which the checksums are for, or truncate
        // it, which is SIGBUS and ends the process (`install_sigbus_handler`).
        let map = unsafe { MmapOptions::new().map_mut(&file)? };
        map.advise(Advice::Random)?;
        // Ahead of the writer, so that its first store to a page meets no disk read. Kernels before
        // 5.14 do not know the advice; there the first touch pays.
        if let Err(error) = map.advise(Advice::PopulateRead)
            && error.raw_os_error() != Some(libc::EINVAL)
        {
            return Err(error);
        }
        Ok(Self { file, map })
    }

    fn open_unwarmed(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // Whoever read the file before (a copy, a backup) may have left it cached in large folios.
        file.sync_data()?;
        forget_cache(&file)?;
        // SAFETY: as in `open`.
        let map = unsafe { MmapOptions::new().map_mut(&file)? };
        map.advise(Advice::Random)?;
        Ok(Self { file, map })
    }

    fn position(&mut self, _tail: u64) -> io::Result<()> {
        Ok(())
    }

    fn window(&mut self, offset: usize, len: usize) -> &mut [u8] {
        &mut self.map[offset..offset + len]
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Reads a file's pages into the cache one at a time, from `offset` on, until `stop` says so.
pub(crate) fn warm(path: &Path, offset: u64, stop: &dyn Fn() -> bool) -> io::Result<()> {
    let file = File::open(path)?;
    advise(&file, libc::POSIX_FADV_RANDOM)?;
    let length = file.metadata()?.len();
    let mut page = [0; PAGE_BYTES];
    let first = offset - offset % PAGE_BYTES as u64;
    for at in (first..length).step_by(PAGE_BYTES) {
        if stop() {
            break;
        }
        file.read_at(&mut page, at)?;
    }
    Ok(())
}

/// Gives a new file all its blocks.
pub(crate) fn allocate(file: &File, bytes: u32) -> io::Result<()> {
    // SAFETY: a system call on an open descriptor, no memory involved.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, i64::from(bytes)) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Drops a file's clean pages from the cache.
pub(crate) fn forget_cache(file: &File) -> io::Result<()> {
    advise(file, libc::POSIX_FADV_DONTNEED)
}

fn advise(file: &File, advice: i32) -> io::Result<()> {
    // SAFETY: a system call on an open descriptor, no memory involved.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The process's exit code when a mapped segment lost its file (EX_IOERR).
pub const EXIT_LOG_STORAGE_LOST: i32 = 74;

/// The directory whose file system the handler asks about room.
static LOG_DIRECTORY: OnceLock<CString> = OnceLock::new();

/// Less room than this counts as full: a segment. A file system that copies on write keeps some back.
const FULL_BYTES: u64 = 64 << 20;

/// Names the log's directory to the handler, so that it can tell a full file system from a lost one. The
/// first directory stays.
pub fn name_log_directory(path: &Path) {
    if let Ok(path) = CString::new(path.as_os_str().as_bytes()) {
        LOG_DIRECTORY.get_or_init(|| path);
    }
}

/// Ends the process with a plain message when the file under a map is truncated, its file system shut
/// down, or it has no room for a page that is written to (btrfs copies on write, however whole the file
/// is): the store that failed cannot be told from one that did not, so nothing may go on. The message goes to
/// the descriptor `told`, which stays open, and the process does not wait long for its reader.
pub fn install_sigbus_handler(told: RawFd) -> io::Result<()> {
    TOLD.store(told, Ordering::Relaxed);
    // SAFETY: `sigaction` is a plain C struct, for which zero is the documented empty value; the
    // handler calls only what is async-signal-safe, and `statfs`, which is one system call into memory of
    // its own and takes no lock.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where the handler writes.
static TOLD: AtomicI32 = AtomicI32::new(libc::STDERR_FILENO);

/// Seconds that the handler may take: a pipe that nobody reads takes nothing, and a lost file system may not answer.
const LAST_WORDS_S: u32 = 1;

extern "C" fn on_alarm(_signal: i32) {
    // SAFETY: async-signal-safe, and it does not return.
    unsafe { libc::_exit(EXIT_LOG_STORAGE_LOST) }
}

extern "C" fn on_sigbus(_signal: i32, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: both calls are async-signal-safe; the handler of the alarm does not return.
    unsafe {
        libc::signal(libc::SIGALRM, on_alarm as *const () as libc::sighandler_t);
        libc::alarm(LAST_WORDS_S);
    }
    const UNKNOWN: &[u8] = b"fatal: log storage lost: a write-ahead log segment was truncated, or its file \
system failed or had no room for a page of it (a quota, say), under the running process (SIGBUS); nothing more \
was acknowledged\n";
    const GONE: &[u8] =
        b"fatal: log storage lost: the file system of the write-ahead log went away under the \
running process (SIGBUS); nothing more was acknowledged\n";
    const FULL: &[u8] = b"fatal: log storage lost: the file system of the write-ahead log is full (less than \
64 MiB free) and had no room for a page of a segment (SIGBUS); one that copies on write, such as btrfs, needs room \
even to overwrite. Make room and start again; nothing more was acknowledged\n";
    let text = match LOG_DIRECTORY.get().map(|path| room(path)) {
        Some(Some(bytes)) if bytes < FULL_BYTES => FULL,
        Some(None) => GONE,
        Some(Some(_)) | None => UNKNOWN,
    };
    // SAFETY: both calls are async-signal-safe; the text is static.
    unsafe {
        libc::write(TOLD.load(Ordering::Relaxed), text.as_ptr().cast(), text.len());
        libc::_exit(EXIT_LOG_STORAGE_LOST);
    }
}

/// Bytes that a file system has left for this process; `None` if it does not answer.
fn room(path: &CStr) -> Option<u64> {
    // SAFETY: `statfs` is a plain C struct, for which zero is a value; the call fills it and reads the
    // path, which ends in a zero byte.
    let found = unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        (libc::statfs(path.as_ptr(), &raw mut found) == 0).then_some(found)
    };
    found.map(|found| found.f_bavail.saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0)))
}
