//! A snapshot's file on a disk: its length, its hash, and its bytes for `backup::bbolt`.
//!
//! ```text
//! file = database, a multiple of 512 bytes | SHA-256 of it, 32 bytes; absent in a copy of a member's database
//! ```
//! The file is read in place and never whole. It is locked as bbolt locks it, so the database of an etcd that runs is
//! refused, and looked at again at the end, so that one that was changed meanwhile is not believed.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::progress::Progress;
use crate::backup::bbolt::read::Source;
use crate::backup::bbolt::{Fault, Reader};

/// Bytes of the hash.
const HASH_BYTES: u64 = 32;

/// What the length of a database is a multiple of.
const SECTOR_BYTES: u64 = 512;

/// Bytes read at once for the hash.
const CHUNK_BYTES: usize = 1 << 20;

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum SnapshotError {
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is no file")]
    NoFile { path: PathBuf },
    #[error(
        "{path} is in use by a process that has locked it, as a running etcd does: stop it, or copy the file"
    )]
    Locked { path: PathBuf },
    #[error(
        "{path} has no hash at its end: snapshot missing hash but --skip-hash-check=false. A copy of a member's \
         database has none and is taken with --skip-hash-check; a snapshot without one was cut short"
    )]
    NoHash { path: PathBuf },
    #[error(
        "{path} is damaged: expected sha256 {expected}, got {found}. --skip-hash-check takes it all the same, and \
         whatever is wrong in it"
    )]
    Hash { path: PathBuf, expected: String, found: String },
    #[error("{path}: {source}")]
    Database { path: PathBuf, source: Fault },
    #[error("{path} was changed while it was read; read it again when nobody writes to it")]
    Changed { path: PathBuf },
}

/// What tells that a file was changed.
type Mark = (u64, u64, u64, i64, i64);

/// An open snapshot.
#[derive(Debug)]
pub(in crate::shell) struct SnapshotFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    mark: Mark,
}

/// The bytes of a file.
#[derive(Debug)]
pub(in crate::shell) struct Bytes<'a>(&'a File);

impl Source for Bytes<'_> {
    fn read_at(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
}

impl SnapshotFile {
    /// Opens and locks it.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(in crate::shell) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let io = |action| move |source| SnapshotError::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let found = file.metadata().map_err(io("read"))?;
        if !found.is_file() {
            return Err(SnapshotError::NoFile { path: path.to_owned() });
        }
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SnapshotError::Locked { path: path.to_owned() }),
            // A file system without locks has nobody who holds one.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        let mark = mark(&file).map_err(io("read"))?;
        Ok(Self { path: path.to_owned(), bytes: found.len(), file, mark })
    }

    /// Bytes of the database, without its hash.
    #[must_use]
    pub(in crate::shell) fn database_bytes(&self) -> u64 {
        self.bytes - if self.has_hash() { HASH_BYTES } else { 0 }
    }

    fn has_hash(&self) -> bool {
        self.bytes % SECTOR_BYTES == HASH_BYTES
    }

    /// Compares the hash with the database.
    ///
    /// # Errors
    /// There is none, or it is another one.
    pub(in crate::shell) fn check_hash(&self, progress: &mut Progress) -> Result<(), SnapshotError> {
        if !self.has_hash() {
            return Err(SnapshotError::NoHash { path: self.path.clone() });
        }
        let io = |source| SnapshotError::Io { action: "read", path: self.path.clone(), source };
        let (mut sum, mut offset) = (Sha256::new(), 0);
        let mut chunk = vec![0; CHUNK_BYTES];
        while offset < self.database_bytes() {
            let left = usize::try_from(self.database_bytes() - offset).unwrap_or(usize::MAX);
            let part = &mut chunk[..left.min(CHUNK_BYTES)];
            self.file.read_exact_at(part, offset).map_err(io)?;
            sum.update(&*part);
            offset += part.len() as u64;
            progress.on_bytes(part.len() as u64);
        }
        let mut expected = [0; 32];
        self.file.read_exact_at(&mut expected, offset).map_err(io)?;
        let found = sum.finalize();
        if found[..] == expected {
            return Ok(());
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Err(SnapshotError::Hash { path: self.path.clone(), expected: hex(&expected), found: hex(&found) })
    }

    /// The database.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::shell) fn database(&self) -> Result<Reader<Bytes<'_>>, SnapshotError> {
        Reader::open(Bytes(&self.file), self.database_bytes()).map_err(|source| self.fault(source))
    }

    /// A fault of this file.
    pub(in crate::shell) fn fault(&self, source: Fault) -> SnapshotError {
        SnapshotError::Database { path: self.path.clone(), source }
    }

    /// Whether it is still what it was when it was opened.
    ///
    /// # Errors
    /// It is not.
    pub(in crate::shell) fn check_unchanged(&self) -> Result<(), SnapshotError> {
        let path = || self.path.clone();
        match mark(&self.file) {
            Ok(mark) if mark == self.mark => Ok(()),
            Ok(_) => Err(SnapshotError::Changed { path: path() }),
            Err(source) => Err(SnapshotError::Io { action: "read", path: path(), source }),
        }
    }
}

fn mark(file: &File) -> io::Result<Mark> {
    let found = file.metadata()?;
    Ok((found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
}
