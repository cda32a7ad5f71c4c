//! The data directory: who owns it, what it holds, and that nobody else uses it.
//!
//! ```text
//! <data-dir>/            0700, created with its parents
//!   LOCK                 held with an exclusive flock for the life of the process
//!   IDENTITY             text, last line its own CRC-32: cluster, member, sync mode, state
//!   INCARNATION          the same with the number of the last start, which only grows
//!   wal/                 segments (elsewhere with --wal-dir)
//!   checkpoint/          <index>.checkpoint, and *.tmp while one is written
//! ```
//!
//! A bootstrap writes IDENTITY with `state bootstrapping` first, then log and checkpoint, then
//! `state ready`. Power cut in between: the next start finds `bootstrapping`, knows that nothing was
//! ever acknowledged, and begins anew. A directory that holds a log or a checkpoint but no IDENTITY
//! is damaged and refused: starting empty under an old name would lose acknowledged writes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::Lines;

use crate::types::{ClusterId, MemberId};

const IDENTITY_TITLE: &str = "pinion data directory, format 1";
const INCARNATION_TITLE: &str = "pinion incarnation, format 1";

/// How the log reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum SyncMode {
    /// Copy into a mapped segment, then `fdatasync`.
    Mmap,
    /// `O_DIRECT | O_DSYNC` writes.
    Direct,
}

impl SyncMode {
    /// The word in flags, logs and IDENTITY.
    #[must_use]
    pub(in crate::shell) fn as_str(self) -> &'static str {
        match self {
            Self::Mmap => "mmap",
            Self::Direct => "direct",
        }
    }
}

/// What IDENTITY says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::shell) struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// The mode that `--wal-sync=auto` measured at first start.
    pub measured_sync: SyncMode,
    /// Whether the bootstrap came to its end.
    pub is_ready: bool,
}

/// Why a data directory cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum DataDirError {
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "data directory {path} is in use by another process (its LOCK is held); stop that process, or choose another --data-dir"
    )]
    Locked { path: PathBuf },
    #[error(
        "data directory {path} can be read by others (mode {mode:o}) and this process may not change that; run `chmod 700 {path}` as its owner"
    )]
    Mode { path: PathBuf, mode: u32 },
    #[error(
        "{path} is damaged at offset {offset}: {problem}. Restore the directory from a backup; starting without this file could lose acknowledged writes"
    )]
    Identity { path: PathBuf, offset: usize, problem: &'static str },
    #[error(
        "{path} is damaged at offset {offset}: {problem}. If this machine's clock is right, delete the file: the next number is then taken from the clock"
    )]
    Incarnation { path: PathBuf, offset: usize, problem: &'static str },
    #[error(
        "{path} holds a log or a checkpoint but no IDENTITY file: part of it was deleted. Restore the directory from a backup, or choose an empty one"
    )]
    IdentityMissing { path: PathBuf },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io { action, path: path.to_owned(), source }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the file system answered.
pub(in crate::shell) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory that only its owner can enter, its parents too where they are missing, and makes
/// all their names durable: a data directory whose parent is gone after a power cut is gone itself.
///
/// # Errors
/// What the file system answered.
pub(in crate::shell) fn create_private_dir(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.exists() {
        create_private_dir(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if !path.is_dir() => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

/// A data directory that this process holds the lock of.
#[derive(Debug)]
pub(in crate::shell) struct DataDir {
    root: PathBuf,
    wal: PathBuf,
    /// Dropping it would release the lock.
    _lock: File,
}

impl DataDir {
    /// Creates the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError`]: not ours, readable by others, or an I/O error.
    pub(in crate::shell) fn open(root: &Path, wal: Option<&Path>) -> Result<Self, DataDirError> {
        if !root.exists() {
            create_private_dir(root).map_err(io_error("cannot create", root))?;
        }
        let mode = fs::metadata(root).map_err(io_error("cannot read", root))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            // A directory made by hand is usually 0755. Narrowing it is what its owner wants; where
            // that is not allowed, others could read every key.
            fs::set_permissions(root, fs::Permissions::from_mode(0o700))
                .map_err(|_source| DataDirError::Mode { path: root.to_owned(), mode })?;
        }
        let lock_path = root.join("LOCK");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io_error("cannot open", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => DataDirError::Locked { path: root.to_owned() },
            fs::TryLockError::Error(source) => {
                DataDirError::Io { action: "cannot lock", path: lock_path, source }
            }
        })?;
        let wal = wal.map_or_else(|| root.join("wal"), Path::to_owned);
        Ok(Self { root: root.to_owned(), wal, _lock: lock })
    }

    /// Where segments live.
    #[must_use]
    pub(in crate::shell) fn wal(&self) -> &Path {
        &self.wal
    }

    /// Where checkpoints live.
    #[must_use]
    pub(in crate::shell) fn checkpoints(&self) -> PathBuf {
        self.root.join("checkpoint")
    }

    fn identity_path(&self) -> PathBuf {
        self.root.join("IDENTITY")
    }

    /// Reads IDENTITY; absent in a directory that was never used.
    ///
    /// # Errors
    /// [`DataDirError`] when it is damaged, or missing beside data.
    pub(in crate::shell) fn identity(&self) -> Result<Option<Identity>, DataDirError> {
        let path = self.identity_path();
        match fs::read(&path) {
            Ok(bytes) => parse_identity(&bytes)
                .map(Some)
                .map_err(|(offset, problem)| DataDirError::Identity { path, offset, problem }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for dir in [self.wal(), &self.checkpoints()] {
                    let is_used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
                    if is_used {
                        return Err(DataDirError::IdentityMissing { path: self.root.clone() });
                    }
                }
                Ok(None)
            }
            Err(source) => Err(DataDirError::Io { action: "cannot read", path, source }),
        }
    }

    /// Replaces IDENTITY durably.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(in crate::shell) fn write_identity(&self, identity: &Identity) -> Result<(), DataDirError> {
        self.replace("IDENTITY", &format_identity(identity))
    }

    /// The number of this start of the member, durable before anybody hears it: more than any before, and
    /// at least `floor`, so that it grows even if the file was deleted.
    ///
    /// # Errors
    /// [`DataDirError`] when the last one is damaged, or cannot be replaced.
    pub(in crate::shell) fn begin_incarnation(&self, floor: u64) -> Result<u64, DataDirError> {
        let path = self.root.join("INCARNATION");
        let last = match fs::read(&path) {
            Ok(bytes) => parse_incarnation(&bytes)
                .map_err(|(offset, problem)| DataDirError::Incarnation { path, offset, problem })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(DataDirError::Io { action: "cannot read", path, source }),
        };
        let incarnation = floor.max(last.saturating_add(1));
        let text = format!("{INCARNATION_TITLE}\nincarnation {incarnation:016x}\n");
        self.replace("INCARNATION", &with_crc(text))?;
        Ok(incarnation)
    }

    /// Replaces a file durably: written aside, synced, renamed, directory synced.
    fn replace(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        let (path, aside) = (self.root.join(name), self.root.join(format!("{name}.tmp")));
        let write = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            sync_dir(&self.root)
        };
        write().map_err(io_error("cannot write", &path))
    }

    /// Makes the directories of log and checkpoints, empty: what an unfinished bootstrap left goes.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(in crate::shell) fn reset_contents(&self) -> Result<(), DataDirError> {
        for dir in [self.wal.clone(), self.checkpoints()] {
            if dir.exists() {
                for entry in fs::read_dir(&dir).map_err(io_error("cannot read", &dir))? {
                    let path = entry.map_err(io_error("cannot read", &dir))?.path();
                    fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
                }
            }
            create_private_dir(&dir).map_err(io_error("cannot create", &dir))?;
        }
        Ok(())
    }
}

fn format_identity(identity: &Identity) -> String {
    let text = format!(
        "{IDENTITY_TITLE}\ncluster {:016x}\nmember {:016x}\nwal-sync {}\nstate {}\n",
        identity.cluster.0,
        identity.member.0,
        identity.measured_sync.as_str(),
        if identity.is_ready { "ready" } else { "bootstrapping" },
    );
    with_crc(text)
}

fn with_crc(text: String) -> String {
    let crc = crc32fast::hash(text.as_bytes());
    text + &format!("crc32 {crc:08x}\n")
}

/// The lines behind the title of a file whose last line is its own checksum.
fn checked_lines<'a>(bytes: &'a [u8], title: &str) -> Result<Lines<'a>, (usize, &'static str)> {
    // The CRC line has a fixed length, so any change in the file moves or breaks it.
    const CRC_LINE_BYTES: usize = "crc32 01234567\n".len();
    let split = bytes.len().checked_sub(CRC_LINE_BYTES).ok_or((0, "the file is too short"))?;
    let (text, crc_line) = bytes.split_at(split);
    if crc_line != format!("crc32 {:08x}\n", crc32fast::hash(text)).as_bytes() {
        return Err((split, "its checksum does not fit its text"));
    }
    let text = str::from_utf8(text).map_err(|error| (error.valid_up_to(), "not UTF-8"))?;
    let mut lines = text.lines();
    if lines.next() != Some(title) {
        return Err((0, "written by another version, or not by Pinion"));
    }
    Ok(lines)
}

/// The value of the next line, which has to be of this name.
fn value<'a>(lines: &mut Lines<'a>, name: &str) -> Result<&'a str, (usize, &'static str)> {
    let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.ok_or((0, "a line is missing"))
}

fn number(text: &str) -> Result<u64, (usize, &'static str)> {
    u64::from_str_radix(text, 16).map_err(|_error| (0, "not a number"))
}

fn parse_incarnation(bytes: &[u8]) -> Result<u64, (usize, &'static str)> {
    number(value(&mut checked_lines(bytes, INCARNATION_TITLE)?, "incarnation")?)
}

fn parse_identity(bytes: &[u8]) -> Result<Identity, (usize, &'static str)> {
    let mut lines = checked_lines(bytes, IDENTITY_TITLE)?;
    let mut value = |name| value(&mut lines, name);
    let cluster = ClusterId(number(value("cluster")?)?);
    let member = MemberId(number(value("member")?)?);
    let measured_sync = match value("wal-sync")? {
        "mmap" => SyncMode::Mmap,
        "direct" => SyncMode::Direct,
        _ => return Err((0, "unknown sync mode")),
    };
    let is_ready = match value("state")? {
        "ready" => true,
        "bootstrapping" => false,
        _ => return Err((0, "unknown state")),
    };
    Ok(Identity { cluster, member, measured_sync, is_ready })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId(0xcdf8_181e_3227_7b62),
            member: MemberId(0x8e9e_05c5_2164_694d),
            measured_sync: SyncMode::Mmap,
            is_ready: true,
        }
    }

    #[test]
    fn identity_round_trips_and_every_damaged_byte_is_refused() {
        let text = format_identity(&identity()).into_bytes();
        assert_eq!(parse_identity(&text), Ok(identity()));
        for position in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[position] ^= 1 << bit;
                assert!(parse_identity(&damaged).is_err(), "bit {bit} of byte {position}");
            }
            assert!(parse_identity(&text[..position]).is_err());
        }
    }

    #[test]
    fn incarnation_grows_from_start_to_start_even_if_the_clock_goes_back_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), None).unwrap();
        let begun: Vec<u64> =
            [500, 700, 3, 3, 702, 900].iter().map(|now| data.begin_incarnation(*now).unwrap()).collect();
        assert_eq!(begun, [500, 700, 701, 702, 703, 900]);
        let path = dir.path().join("data/INCARNATION");
        let text = fs::read(&path).unwrap();
        for position in 0..text.len() {
            let mut damaged = text.clone();
            damaged[position] ^= 1;
            assert!(parse_incarnation(&damaged).is_err(), "byte {position}");
        }
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(data.begin_incarnation(901), Err(DataDirError::Incarnation { .. })));
        fs::remove_file(&path).unwrap();
        assert_eq!(data.begin_incarnation(902).unwrap(), 902);
    }

    #[test]
    fn a_directory_is_created_with_its_parents_and_again_without_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        create_private_dir(&path).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(dir.path().join("file"), b"x").unwrap();
        assert!(create_private_dir(&dir.path().join("file")).is_err());
        assert!(create_private_dir(&dir.path().join("file/below")).is_err());
    }

    #[test]
    fn a_second_owner_and_a_missing_identity_are_refused_and_a_wide_mode_is_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let first = DataDir::open(&root, None).unwrap();
        assert!(matches!(DataDir::open(&root, None), Err(DataDirError::Locked { .. })));
        assert_eq!(first.identity().unwrap(), None);
        first.write_identity(&identity()).unwrap();
        assert_eq!(first.identity().unwrap(), Some(identity()));
        first.reset_contents().unwrap();
        fs::write(first.wal().join("segment"), b"x").unwrap();
        fs::remove_file(root.join("IDENTITY")).unwrap();
        assert!(matches!(first.identity(), Err(DataDirError::IdentityMissing { .. })));
        drop(first);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let narrowed = DataDir::open(&root, None).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        drop(narrowed);
    }
}
