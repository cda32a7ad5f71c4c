//! The data directory: who owns it, what it holds, and that nobody else uses it.
//!
//! ```text
//! <data-dir>/            created 0700 with its parents; narrowed to that if it is ours alone
//!   LOCK                 held with an exclusive flock for the life of the process
//!   IDENTITY             text, last line its own CRC-32: cluster, member, sync mode, state
//!   INCARNATION          the same with the number of the last start, which only grows
//!   LIVES                the same with this member's life and those that it has met (`peer/lives.rs`)
//!   ADDRESSES            the same with where names led last, a hint (`address_file.rs`)
//!   UNFINISHED           there while a snapshot is restored or a cluster recovered into the directory; no member starts on it
//!   wal/                 segments (elsewhere with --wal-dir)
//!   checkpoint/          <index>.checkpoint, and *.tmp while one is written
//! ```
//!
//! A bootstrap writes IDENTITY with `state bootstrapping` first, then log and checkpoint, then
//! `state ready`. Power cut in between: the next start finds `bootstrapping`, knows that nothing was
//! ever acknowledged, and begins anew. A directory that holds a log or a checkpoint but no IDENTITY
//! is damaged and refused: starting empty under an old name would lose acknowledged writes. So is one
//! that holds the data of another database (`contents.rs`), or of etcd without what could be imported (`etcd_dir.rs`);
//! other names are left alone.
//!
//! A mount of a container often belongs to somebody else, and only its group or everybody may write. Its
//! mode is then whatever its owner wants: files are 0600 and directories 0700 in any case, so others see
//! names only; but whoever may write to the directory may take files away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::Lines;

use super::contents::{self, EtcdFiles, Foreign};
use crate::peer::Lives;
use crate::shell::store::checkpoint_file::sync_dir;
use crate::types::{ClusterId, MemberId};

/// The beginning of IDENTITY's title in every version.
const IDENTITY_TITLE_ANY: &str = "pinion data directory, format ";

const IDENTITY_TITLE: &str = "pinion data directory, format 1";
const INCARNATION_TITLE: &str = "pinion incarnation, format 1";

/// First line of LIVES.
const LIVES_TITLE: &str = "pinion lives, format 1";

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
pub(in crate::shell) struct IdentityFile {
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
        "this process (user {user}) may not write to {path}, which has mode {mode:o} and belongs to user {owner}, group {group}; give it to that user, or to a group of its (fsGroup in Kubernetes)"
    )]
    NotWritable { path: PathBuf, mode: u32, owner: u32, group: u32, user: u32 },
    #[error(
        "{path} ({flag}) holds files of etcd ({names}) and no database in member/snap/db that could be imported. An empty store in its place would look to clients as if every key had been deleted, so nothing was begun and nothing touched. Give the directory in which etcd has its member/ (and --wal-dir, if etcd had it); to begin an empty store, choose an empty directory"
    )]
    Etcd { path: PathBuf, flag: &'static str, names: String },
    #[error(
        "{path} ({flag}) holds the data of {program} ({mark}); choose an empty directory, or one of its own below this one"
    )]
    OtherProgram { path: PathBuf, flag: &'static str, program: &'static str, mark: &'static str },
    #[error("data-dir {path} is not empty: new data begins in a directory that is empty, or not there")]
    NotEmpty { path: PathBuf },
    #[error(
        "in {path} a restore was begun and did not end, or a recovery (UNFINISHED is there), so it does not hold all of the data. Run that command again, or delete the directory"
    )]
    Unfinished { path: PathBuf },
    #[error(
        "{path} is of format {format}, written by a later version of Pinion; this one knows format 1. Start that version, or choose another --data-dir"
    )]
    Later { path: PathBuf, format: u64 },
    #[error(
        "{path} ({flag}) holds no log, though this member has data in {root}. Without its log it would not know what it has acknowledged. {advice}"
    )]
    LogMissing { path: PathBuf, flag: &'static str, root: PathBuf, advice: String },
    #[error(
        "{path} is damaged at offset {offset}: {problem}. Restore the directory from a backup; starting without this file could lose acknowledged writes"
    )]
    DamagedIdentity { path: PathBuf, offset: usize, problem: &'static str },
    #[error(
        "{path} is damaged at offset {offset}: {problem}. If this machine's clock is right, delete the file: the next number is then taken from the clock"
    )]
    Incarnation { path: PathBuf, offset: usize, problem: &'static str },
    #[error(
        "{path} is damaged at offset {offset}: {problem}. Restore the directory from a backup, or remove this member from its cluster and add it again with an empty directory: without the file the others would take it for one that began anew"
    )]
    DamagedLives { path: PathBuf, offset: usize, problem: &'static str },
    #[error(
        "{path} holds a log or a checkpoint, but {root} has no IDENTITY file: part of the data was deleted, or one of the two is of another member. Restore the directory from a backup, or choose an empty one"
    )]
    IdentityMissing { path: PathBuf, root: PathBuf },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    move |source| DataDirError::Io { action, path: path.to_owned(), source }
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

/// Tells our own names in a directory from all others.
type IsOurs = fn(&str) -> bool;

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
    /// [`DataDirError`]: not ours, not writable, or an I/O error.
    pub(in crate::shell) fn open(root: &Path, wal: Option<&Path>) -> Result<Self, DataDirError> {
        check_finished(root)?;
        Self::open_any(root, wal)
    }

    /// Takes a directory to look at it. Nothing in it changes.
    ///
    /// # Errors
    /// [`DataDirError`]: it is not there, or in use.
    pub(in crate::shell) fn look(root: &Path, wal: Option<&Path>) -> Result<Self, DataDirError> {
        check_finished(root)?;
        let lock_path = root.join("LOCK");
        // A copy may have been made without it.
        let lock_path = if lock_path.exists() { lock_path } else { root.to_owned() };
        let lock = File::open(&lock_path).map_err(io_error("cannot open", &lock_path))?;
        take_lock(&lock, root, &lock_path)?;
        let wal = wal.map_or_else(|| root.join("wal"), Path::to_owned);
        Ok(Self { root: root.to_owned(), wal, _lock: lock })
    }

    /// Refuses a directory that holds anything, for new data. What an earlier run of the command left there that did not
    /// end is nothing.
    ///
    /// # Errors
    /// [`DataDirError::NotEmpty`].
    pub(in crate::shell) fn check_empty(root: &Path, wal: Option<&Path>) -> Result<(), DataDirError> {
        let is_left_over = root.join(UNFINISHED).exists();
        let checkpoints = root.join("checkpoint");
        for dir in [Some(root), wal].into_iter().flatten() {
            let is_nothing = |name: &str| {
                let path = dir.join(name);
                // A fresh disk has that; and a run that was ended before its mark was there has left the lock.
                matches!(name, "lost+found" | "LOCK" | "UNFINISHED.tmp")
                    || is_left_over
                        && (OWN_NAMES.contains(&name)
                            || contents::is_log_name(name)
                            || path == checkpoints
                            || path == root.join("wal"))
            };
            match fs::read_dir(dir) {
                Ok(mut names) => {
                    let is_nothing = |name: io::Result<fs::DirEntry>| {
                        name.is_ok_and(|name| name.file_name().to_str().is_some_and(is_nothing))
                    };
                    if !names.all(is_nothing) {
                        return Err(DataDirError::NotEmpty { path: dir.to_owned() });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("cannot read", dir)(error)),
            }
        }
        Ok(())
    }

    /// Takes an empty directory for new data, and marks it until that is done.
    ///
    /// # Errors
    /// [`DataDirError`]: not empty, or as `open`.
    pub(in crate::shell) fn begin_restore(root: &Path, wal: Option<&Path>) -> Result<Self, DataDirError> {
        Self::check_empty(root, wal)?;
        let dir = Self::open_any(root, wal)?;
        dir.replace(
            UNFINISHED,
            "the data of this directory is being made; whoever began that did not end it\n",
        )?;
        dir.reset_contents()?;
        Ok(dir)
    }

    /// The restore is whole and on the disk.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(in crate::shell) fn end_restore(&self) -> Result<(), DataDirError> {
        let path = self.root.join(UNFINISHED);
        fs::remove_file(&path).and_then(|()| sync_dir(&self.root)).map_err(io_error("cannot remove", &path))
    }

    /// The data of an etcd that is to be imported.
    #[must_use]
    pub(in crate::shell) fn etcd(&self) -> Option<EtcdFiles> {
        EtcdFiles::find(&self.root, Some(&self.wal))
    }

    fn open_any(root: &Path, wal: Option<&Path>) -> Result<Self, DataDirError> {
        if !root.join("IDENTITY").exists() {
            check_unused(root, wal)?;
        }
        if !root.exists() {
            create_private_dir(root).map_err(io_error("cannot create", root))?;
        }
        narrow(root).map_err(io_error("cannot read", root))?;
        let lock_path = root.join("LOCK");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| not_writable(root, &lock_path, source))?;
        take_lock(&lock, root, &lock_path)?;
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
    pub(in crate::shell) fn identity(&self) -> Result<Option<IdentityFile>, DataDirError> {
        let path = self.identity_path();
        match fs::read(&path) {
            Ok(bytes) => {
                parse_identity(&bytes).map(Some).map_err(|(offset, problem)| match later_format(&bytes) {
                    Some(format) => DataDirError::Later { path: self.root.clone(), format },
                    None => DataDirError::DamagedIdentity { path, offset, problem },
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let checkpoints = self.checkpoints();
                for (dir, is_ours) in self.kinds(&checkpoints) {
                    if contents::holds(dir, is_ours) {
                        let (path, root) = (dir.to_owned(), self.root.clone());
                        return Err(DataDirError::IdentityMissing { path, root });
                    }
                }
                Ok(None)
            }
            Err(source) => Err(DataDirError::Io { action: "cannot read", path, source }),
        }
    }

    /// The directories of log and checkpoints, with the names that are ours there.
    fn kinds<'a>(&'a self, checkpoints: &'a Path) -> [(&'a Path, IsOurs); 2] {
        [(self.wal(), contents::is_log_name), (checkpoints, contents::is_checkpoint_name)]
    }

    /// Refuses the data of others, for a directory that has none of ours.
    ///
    /// # Errors
    /// [`DataDirError::Etcd`], [`DataDirError::OtherProgram`].
    pub(in crate::shell) fn check_unused(&self) -> Result<(), DataDirError> {
        check_unused(&self.root, Some(&self.wal))
    }

    /// Refuses a directory without a log, for a member that has data, and says where the log may be.
    ///
    /// # Errors
    /// [`DataDirError::LogMissing`].
    pub(in crate::shell) fn check_log(&self) -> Result<(), DataDirError> {
        if contents::holds(&self.wal, contents::is_log_name) {
            return Ok(());
        }
        let default = self.root.join("wal");
        let is_default = self.wal == default;
        let elsewhere = [default.clone(), self.wal.join("wal"), self.root.clone()];
        let found = elsewhere.iter().find(|dir| contents::holds(dir, contents::is_log_name));
        let advice = match found {
            Some(dir) if *dir == default => {
                format!(
                    "There is a log in {}: leave --wal-dir out, or move the files of the log",
                    dir.display()
                )
            }
            Some(dir) => format!("There is a log in {0}: start with --wal-dir={0}", dir.display()),
            None if is_default => "Was this member started with --wal-dir before?".to_owned(),
            None => format!(
                "Is the disk of --wal-dir mounted? There is none in {} either, where it is without --wal-dir",
                default.display()
            ),
        };
        let flag = if is_default { "--data-dir" } else { "--wal-dir" };
        let (path, root) = (self.wal.clone(), self.root.clone());
        Err(DataDirError::LogMissing { path, flag, root, advice })
    }

    /// Tells once what lies beside our files. All of it is left alone.
    pub(in crate::shell) fn tell_strangers(&self) {
        let (default, checkpoints) = (self.root.join("wal"), self.checkpoints());
        let is_ours = |name: &str| {
            let path = self.root.join(name);
            OWN_NAMES.contains(&name)
                || [&default, &self.wal, &checkpoints].contains(&&path)
                || contents::is_log_name(name)
                || contents::is_checkpoint_name(name)
        };
        for dir in [&self.root, &self.wal, &checkpoints] {
            let found = contents::strangers(dir, is_ours);
            if found.count != 0 {
                tracing::info!(
                    dir = %dir.display(), names = ?found.names, count = found.count,
                    "names here that are not of Pinion's kind are left alone"
                );
            }
        }
        if let Some(Foreign::Etcd(names)) = contents::foreign_data(&self.root) {
            tracing::warn!(
                dir = %self.root.display(), ?names,
                "etcd's data lies beside this member's own, and is not read"
            );
        }
    }

    /// Replaces IDENTITY durably.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(in crate::shell) fn write_identity(&self, identity: &IdentityFile) -> Result<(), DataDirError> {
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

    /// This member's life and those that it has met. A directory that has none yet gets `drawn`, durable
    /// before anybody hears it.
    ///
    /// # Errors
    /// [`DataDirError`] when the file is damaged, or cannot be written.
    pub(in crate::shell) fn lives(&self, drawn: u64) -> Result<Lives, DataDirError> {
        if let Some(lives) = self.known_lives()? {
            return Ok(lives);
        }
        // 0 is none.
        let lives = Lives { own: drawn.max(1), ..Lives::default() };
        self.replace("LIVES", &format_lives(&lives))?;
        Ok(lives)
    }

    /// The same as far as it was written: none before the first start.
    ///
    /// # Errors
    /// [`DataDirError`] when the file is damaged.
    pub(super) fn known_lives(&self) -> Result<Option<Lives>, DataDirError> {
        let path = self.root.join("LIVES");
        match fs::read(&path) {
            Ok(bytes) => match parse_lives(&bytes) {
                Ok(lives) => Ok(Some(lives)),
                Err((offset, problem)) => Err(DataDirError::DamagedLives { path, offset, problem }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { action: "cannot read", path, source }),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A writer of LIVES for any thread, to be called by one at a time.
    pub(in crate::shell) fn lives_writer(&self) -> impl Fn(&Lives) -> Result<(), DataDirError> + use<> {
        let root = self.root.clone();
        move |lives| replace(&root, "LIVES", &format_lives(lives))
    }

    /// Replaces a file durably: written aside, synced, renamed, directory synced.
    fn replace(&self, name: &str, text: &str) -> Result<(), DataDirError> {
        replace(&self.root, name, text)
    }

    /// Makes the directories of log and checkpoints, without files of our kind: what an unfinished
    /// bootstrap left goes.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub(in crate::shell) fn reset_contents(&self) -> Result<(), DataDirError> {
        let checkpoints = self.checkpoints();
        for (dir, is_ours) in self.kinds(&checkpoints) {
            if dir.exists() {
                for entry in fs::read_dir(dir).map_err(io_error("cannot read", dir))? {
                    let entry = entry.map_err(io_error("cannot read", dir))?;
                    if entry.file_name().to_str().is_some_and(is_ours) {
                        let path = entry.path();
                        fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
                    }
                }
            }
            create_private_dir(dir).map_err(io_error("cannot create", dir))?;
        }
        Ok(())
    }
}

/// Refuses a directory in which a restore did not end.
fn check_finished(root: &Path) -> Result<(), DataDirError> {
    if root.join(UNFINISHED).exists() {
        return Err(DataDirError::Unfinished { path: root.to_owned() });
    }
    Ok(())
}

fn take_lock(lock: &File, root: &Path, lock_path: &Path) -> Result<(), DataDirError> {
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => DataDirError::Locked { path: root.to_owned() },
        fs::TryLockError::Error(source) => {
            DataDirError::Io { action: "cannot lock", path: lock_path.to_owned(), source }
        }
    })
}

pub(super) fn replace(root: &Path, name: &str, text: &str) -> Result<(), DataDirError> {
    let (path, aside) = (root.join(name), root.join(format!("{name}.tmp")));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, &path)?;
        sync_dir(root)
    };
    write().map_err(io_error("cannot write", &path))
}

/// The mark of a directory that is being restored.
const UNFINISHED: &str = "UNFINISHED";

/// Our names at the top of a data directory, but for the log's.
const OWN_NAMES: [&str; 12] = [
    UNFINISHED,
    "UNFINISHED.tmp",
    "LOCK",
    "IDENTITY",
    "IDENTITY.tmp",
    "INCARNATION",
    "INCARNATION.tmp",
    "LIVES",
    "LIVES.tmp",
    "ADDRESSES",
    "ADDRESSES.tmp",
    "checkpoint",
];

/// See [`DataDir::check_unused`]. Looks only, so that a directory that is refused stays as it was.
fn check_unused(root: &Path, wal: Option<&Path>) -> Result<(), DataDirError> {
    if EtcdFiles::find(root, wal).is_some() {
        return Ok(());
    }
    for (dir, flag) in [(Some(root), "--data-dir"), (wal, "--wal-dir")] {
        let Some(dir) = dir else { continue };
        let path = dir.to_owned();
        match contents::foreign_data(dir) {
            None => {}
            Some(Foreign::Etcd(names)) => {
                return Err(DataDirError::Etcd { path, flag, names: names.join(", ") });
            }
            Some(Foreign::Other { program, mark }) => {
                return Err(DataDirError::OtherProgram { path, flag, program, mark });
            }
        }
    }
    Ok(())
}

/// Takes the rights of others away, which a directory made by hand usually gives (0755), if it is ours to
/// do: it belongs to this user, nothing of others lies in it, and it is no place for everybody like /tmp.
fn narrow(root: &Path) -> io::Result<()> {
    const STICKY: u32 = 0o1000;
    let found = fs::metadata(root)?;
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let is_ours = |name: &str| {
        OWN_NAMES.contains(&name) || matches!(name, "wal" | "lost+found") || contents::is_log_name(name)
    };
    let is_own = found.uid() == user() && mode & STICKY == 0;
    if is_own
        && contents::strangers(root, is_ours).count == 0
        && fs::set_permissions(root, fs::Permissions::from_mode(0o700)).is_ok()
    {
        return Ok(());
    }
    tracing::warn!(
        dir = %root.display(), mode = format!("{mode:o}"), owner = found.uid(), group = found.gid(),
        "others may enter the data directory too. They cannot read the files of this member, but whoever may \
         write to the directory can take them away; 0700 is better where it is possible"
    );
    Ok(())
}

/// The user that this process acts as.
#[expect(unsafe_code, reason = "a system call that std does not offer")]
fn user() -> u32 {
    // SAFETY: a system call without memory, which cannot fail.
    unsafe { libc::geteuid() }
}

fn not_writable(root: &Path, path: &Path, source: io::Error) -> DataDirError {
    match fs::metadata(root) {
        // An old LOCK of another user is something else than a directory that cannot be written to.
        Ok(found) if source.kind() == io::ErrorKind::PermissionDenied && !path.exists() => {
            DataDirError::NotWritable {
                path: root.to_owned(),
                mode: found.permissions().mode() & 0o7777,
                owner: found.uid(),
                group: found.gid(),
                user: user(),
            }
        }
        _ => DataDirError::Io { action: "cannot open", path: path.to_owned(), source },
    }
}

/// The format that a later version's IDENTITY names, whatever else is in it.
fn later_format(bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let format = str::from_utf8(line).ok()?.strip_prefix(IDENTITY_TITLE_ANY)?.parse().ok()?;
    (1 < format).then_some(format)
}

fn format_identity(identity: &IdentityFile) -> String {
    let text = format!(
        "{IDENTITY_TITLE}\ncluster {:016x}\nmember {:016x}\nwal-sync {}\nstate {}\n",
        identity.cluster.0,
        identity.member.0,
        identity.measured_sync.as_str(),
        if identity.is_ready { "ready" } else { "bootstrapping" },
    );
    with_crc(text)
}

pub(super) fn with_crc(text: String) -> String {
    let crc = crc32fast::hash(text.as_bytes());
    text + &format!("crc32 {crc:08x}\n")
}

/// The lines behind the title of a file whose last line is its own checksum.
pub(super) fn checked_lines<'a>(bytes: &'a [u8], title: &str) -> Result<Lines<'a>, (usize, &'static str)> {
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
pub(super) fn value<'a>(lines: &mut Lines<'a>, name: &str) -> Result<&'a str, (usize, &'static str)> {
    let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.ok_or((0, "a line is missing"))
}

fn number(text: &str) -> Result<u64, (usize, &'static str)> {
    u64::from_str_radix(text, 16).map_err(|_error| (0, "not a number"))
}

fn parse_incarnation(bytes: &[u8]) -> Result<u64, (usize, &'static str)> {
    number(value(&mut checked_lines(bytes, INCARNATION_TITLE)?, "incarnation")?)
}

fn format_lives(lives: &Lives) -> String {
    let mut text = format!("{LIVES_TITLE}\nown {:016x}\n", lives.own);
    for (member, life) in &lives.known {
        text += &format!("member {:016x} {life:016x}\n", member.0);
    }
    with_crc(text)
}

fn parse_lives(bytes: &[u8]) -> Result<Lives, (usize, &'static str)> {
    let mut lines = checked_lines(bytes, LIVES_TITLE)?;
    let mut lives = Lives { own: number(value(&mut lines, "own")?)?, ..Lives::default() };
    while lines.clone().next().is_some() {
        let (member, life) =
            value(&mut lines, "member")?.split_once(' ').ok_or((0, "a line is too short"))?;
        lives.known.insert(MemberId(number(member)?), number(life)?);
    }
    Ok(lives)
}

fn parse_identity(bytes: &[u8]) -> Result<IdentityFile, (usize, &'static str)> {
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
    Ok(IdentityFile { cluster, member, measured_sync, is_ready })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> IdentityFile {
        IdentityFile {
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
    fn life_is_drawn_once_and_those_met_are_kept_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), None).unwrap();
        let mut lives = data.lives(0).unwrap();
        assert_eq!((lives.own, lives.known.len()), (1, 0), "0 is no life");
        assert!(lives.meet(MemberId(7), 70) && lives.meet(MemberId(3), 30));
        data.lives_writer()(&lives).unwrap();
        assert_eq!(data.lives(9).unwrap(), lives);
        let path = dir.path().join("data/LIVES");
        let text = fs::read(&path).unwrap();
        for position in 0..text.len() {
            let mut damaged = text.clone();
            damaged[position] ^= 1;
            assert!(parse_lives(&damaged).is_err(), "byte {position}");
        }
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(data.lives(9), Err(DataDirError::DamagedLives { .. })));
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
        fs::write(first.wal().join("00000001.wal"), b"x").unwrap();
        fs::remove_file(root.join("IDENTITY")).unwrap();
        assert!(matches!(first.identity(), Err(DataDirError::IdentityMissing { .. })));
        drop(first);
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let narrowed = DataDir::open(&root, None).unwrap();
        let mode = || fs::metadata(&root).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o700);
        drop(narrowed);
        // A place that others use, too, keeps its mode.
        for (wide, stranger) in [(0o755, true), (0o1777, false)] {
            let file = root.join("somebody.else");
            if stranger {
                fs::write(&file, b"x").unwrap()
            } else {
                fs::remove_file(&file).unwrap()
            }
            fs::set_permissions(&root, fs::Permissions::from_mode(wide)).unwrap();
            drop(DataDir::open(&root, None).unwrap());
            assert_eq!(mode(), wide);
        }
    }

    #[test]
    fn names_of_others_are_no_log_and_survive_a_bootstrap() {
        let dir = tempfile::tempdir().unwrap();
        let (root, wal) = (dir.path().join("data"), dir.path().join("disk"));
        fs::create_dir_all(wal.join("lost+found")).unwrap();
        fs::write(wal.join(".keep"), b"").unwrap();
        let data = DataDir::open(&root, Some(&wal)).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        fs::write(wal.join("wal-00000001.tmp"), b"x").unwrap();
        fs::create_dir(root.join("checkpoint")).unwrap();
        fs::create_dir(root.join("checkpoint/.snapshot")).unwrap();
        data.reset_contents().unwrap();
        let mut left: Vec<_> = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".keep", "lost+found"]);
        assert!(root.join("checkpoint/.snapshot").is_dir());
        fs::write(wal.join("00000001.wal"), b"x").unwrap();
        let error = data.identity().unwrap_err();
        assert!(matches!(&error, DataDirError::IdentityMissing { path, .. } if *path == wal), "{error}");
    }

    #[test]
    fn data_of_others_is_refused_before_anything_is_written_unless_there_is_data_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        fs::create_dir_all(root.join("member/wal")).unwrap();
        let refused = DataDir::open(&root, None).unwrap_err();
        assert!(matches!(refused, DataDirError::Etcd { flag: "--data-dir", .. }), "{refused}");
        let other = dir.path().join("other");
        let refused = DataDir::open(&other, Some(&root)).unwrap_err();
        assert!(matches!(refused, DataDirError::Etcd { flag: "--wal-dir", .. }), "{refused}");
        assert!(!other.exists() && fs::read_dir(&root).unwrap().count() == 1);
        fs::write(root.join("IDENTITY"), format_identity(&identity())).unwrap();
        let data = DataDir::open(&root, None).unwrap();
        assert_eq!(data.identity().unwrap(), Some(identity()));
        assert!(matches!(data.check_unused(), Err(DataDirError::Etcd { .. })), "if that was never ready");
        fs::write(root.join("IDENTITY"), "pinion data directory, format 2\nwhatever").unwrap();
        assert!(matches!(data.identity(), Err(DataDirError::Later { format: 2, .. })));
    }

    #[test]
    fn member_without_its_log_is_told_where_that_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let (root, disk) = (dir.path().join("data"), dir.path().join("disk"));
        let told = |wal: Option<&Path>| {
            let data = DataDir::open(&root, wal).unwrap();
            data.check_log().map_err(|error| error.to_string())
        };
        assert!(told(None).unwrap_err().contains("started with --wal-dir before?"));
        assert!(told(Some(&disk)).unwrap_err().contains("Is the disk of --wal-dir mounted?"));
        fs::create_dir_all(root.join("wal")).unwrap();
        fs::write(root.join("wal/00000001.wal"), b"x").unwrap();
        assert_eq!(told(None), Ok(()));
        let text = told(Some(&disk)).unwrap_err();
        assert!(
            text.contains("disk (--wal-dir) holds no log") && text.contains("leave --wal-dir out"),
            "{text}"
        );
        fs::create_dir_all(disk.join("wal")).unwrap();
        fs::rename(root.join("wal/00000001.wal"), disk.join("wal/00000001.wal")).unwrap();
        let text = told(Some(&disk)).unwrap_err();
        assert!(text.contains("start with --wal-dir=") && text.contains("disk/wal"), "{text}");
        assert!(!disk.join("LOCK").exists());
    }
}
