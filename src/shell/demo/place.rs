//! The directory of a demo, which is gone when the demo is, however it ends.
//!
//! A process of its own waits for the end of this one and removes the directory then: a demo that is killed, or whose
//! terminal is, cannot.
#![expect(unsafe_code, reason = "a process without another program, which std does not offer")]

use std::fs;
use std::io::{self, Read as _, pipe};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::DemoError;

/// The logs of three members, a segment that is written and one in reserve each, and room for some time.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// How often the directory of members that are just dying is tried again.
const REMOVALS_MAX: u32 = 100;

const BETWEEN_REMOVALS: Duration = Duration::from_millis(50);

/// A directory with nobody else's files, until it is dropped.
pub(super) struct Place {
    path: PathBuf,
    /// Its end is what the other process waits for.
    _held: io::PipeWriter,
}

impl Place {
    /// Makes it below `parent`. To be called before any thread is started.
    pub(super) fn make(parent: &Path) -> Result<Self, DemoError> {
        let refuse = |source| DemoError::Directory { path: parent.to_owned(), source };
        let free = free_bytes(parent).map_err(refuse)?;
        if free < FREE_BYTES_MIN {
            return Err(DemoError::NoSpace { path: parent.to_owned(), free_mib: free >> 20 });
        }
        let parent = parent.canonicalize().map_err(refuse)?;
        let path = parent.join(format!("pinion-demo-{}-{:08x}", std::process::id(), draw()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(refuse)?;
        match guard(&path) {
            Ok(held) => Ok(Self { path, _held: held }),
            Err(source) => {
                remove(&path);
                Err(DemoError::Start { what: "the process that clears up", source })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// So that a directory left by a process with this id does not matter.
fn draw() -> u32 {
    getrandom::u32().unwrap_or(0)
}

fn remove(path: &Path) {
    for _ in 0..REMOVALS_MAX {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(BETWEEN_REMOVALS),
            _ => return,
        }
    }
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let text = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    // SAFETY: all zeros is a value of this struct of numbers.
    let mut told: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a text that ends with a zero, and a struct for the answer; both outlive the call.
    if unsafe { libc::statvfs(text.as_ptr(), &raw mut told) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(told.f_bavail.saturating_mul(told.f_frsize))
}

/// Starts the process that removes `path` when what this returns is closed.
fn guard(path: &Path) -> io::Result<io::PipeWriter> {
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let (mut end, held) = pipe()?;
    // SAFETY: no other thread runs yet, so no lock is held in the copy and it may do whatever this process may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(held);
            // SAFETY: calls with numbers only. A group of its own, out of reach of the terminal's Ctrl-C, and none of
            // this process's streams, whose readers wait for their end.
            unsafe {
                libc::setsid();
                for standard in 0..=2 {
                    libc::dup2(null.as_raw_fd(), standard);
                }
            }
            // Nothing is ever written: this returns at the end.
            end.read_exact(&mut [0]).ok();
            remove(path);
            // SAFETY: ends the copy without running what the original has registered for its own end.
            unsafe { libc::_exit(0) }
        }
        _ => Ok(held),
    }
}
