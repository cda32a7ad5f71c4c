//! A start on the data directory of etcd: imported once, beside etcd's own files, which stay as they are.
//!
//! ```text
//! DATA/member/snap/db, *.snap, *.snap.db   the database and the snapshots
//! DATA/member/wal/*.wal                    the log; elsewhere with etcd's --wal-dir, which must be given here too
//! ```
//! etcd must not run on it, now or later: two processes would act for one member. Its locks are taken at each start, as
//! long as etcd's files are there, and kept for the life of the process: that of the database is flock's, those of the
//! segments are bound to the open file (`F_OFD_SETLK`), which flock does not see.
//!
//! Power cut at any line: IDENTITY says that a bootstrap is under way until all is on the disk, and the next start
//! begins the import anew.
#![expect(unsafe_code, reason = "locks of open files, which std does not offer")]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pinion_wal::{Wal, WalError};
use sha2::{Digest as _, Sha256};

use super::contents::EtcdFiles;
use super::data_dir::{DataDir, DataDirError, IdentityFile, SyncMode};
use super::force_new;
use super::recovery::{self, RecoveryError, wal_identity};
use super::snapshot_file::{SnapshotError, SnapshotFile};
use crate::backup::etcd::{Converter, EtcdMember, Imported, MemberFault, Reading, Segment, Snap, SnapFault};
use crate::backup::{Contents, ImportError, import as import_database};
use crate::config::{Config, WalSync};
use crate::shell::log::entries::{entry_to_wal, hard_state_to_wal};
use crate::shell::runtime::waiting::Waiting;

/// The largest segment that is read: etcd's hold 64 MB and one request more.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// The largest `.snap` file; they hold the members.
const SNAP_BYTES_MAX: u64 = 64 << 20;

/// Why the data of an etcd is not imported. The data is as it was.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum EtcdDirError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("the log: {0}")]
    Log(#[from] WalError),
    #[error(transparent)]
    Database(#[from] SnapshotError),
    #[error("{path}: {source}")]
    Import { path: PathBuf, source: ImportError },
    #[error("the data of etcd in {path} is not imported: {source}")]
    Member { path: PathBuf, source: MemberFault },
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} holds the database of etcd and there is no log of it in {wal}: give the --wal-dir that etcd was started with"
    )]
    NoLog { path: PathBuf, wal: PathBuf },
    #[error("{path} is in use by an etcd that runs: stop it for good, it cannot take part beside Pinion")]
    Running { path: PathBuf },
    #[error("{path}: {problem}")]
    Segments { path: PathBuf, problem: String },
    #[error("{path}: {source}")]
    Snap { path: PathBuf, source: SnapFault },
}

impl EtcdFiles {
    fn segments(&self) -> Result<Vec<(u64, PathBuf)>, EtcdDirError> {
        let mut found = Vec::new();
        for path in files(&self.wal, "wal").unwrap_or_default() {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if let Some((seq, _)) = stem.split_once('-')
                && let Ok(seq) = u64::from_str_radix(seq, 16)
            {
                found.push((seq, path));
            }
        }
        found.sort_unstable();
        if found.is_empty() {
            return Err(EtcdDirError::NoLog { path: self.snap.clone(), wal: self.wal.clone() });
        }
        let has_gap = found.windows(2).find(|pair| pair[0].0 + 1 != pair[1].0);
        if let Some([(seq, path), _]) = has_gap {
            let problem = format!("segment {:016x} is missing behind it", seq + 1);
            return Err(EtcdDirError::Segments { path: path.clone(), problem });
        }
        Ok(found)
    }

    fn database(&self, name: &str, waiting: &Waiting) -> Result<(SnapshotFile, Contents), EtcdDirError> {
        let path = self.snap.join(name);
        let file = SnapshotFile::open(&path)?;
        waiting.on(format!("the database of etcd in {} is being imported", path.display()));
        let mut reader = file.database()?;
        let (bytes, mut done, mut told) = (reader.bytes().max(1), 0, 0);
        let contents = import_database(&mut reader, 0, |more| {
            done += more;
            let percent = 100 * done / bytes;
            if told < percent {
                told = percent;
                waiting.on(format!(
                    "the database of etcd in {} is being imported: {percent} % of {} MiB",
                    path.display(),
                    bytes >> 20
                ));
            }
        });
        file.check_unchanged()?;
        let contents = contents.map_err(|source| EtcdDirError::Import { path, source })?;
        Ok((file, contents))
    }

    fn snaps(&self) -> Result<Vec<Snap>, EtcdDirError> {
        let io = |source| EtcdDirError::Io { action: "cannot read", path: self.snap.clone(), source };
        let mut found = Vec::new();
        for path in files(&self.snap, "snap").map_err(io)? {
            let bytes = read_bounded(&path, SNAP_BYTES_MAX)?;
            match Snap::read(&bytes) {
                Ok(snap) => found.push(snap),
                // etcd goes on with an older one, too.
                Err(SnapFault::Damaged(problem)) => {
                    tracing::warn!(file = %path.display(), problem, "a snapshot of etcd is passed over");
                }
                Err(source) => return Err(EtcdDirError::Snap { path, source }),
            }
        }
        Ok(found)
    }
}

/// Imports the data of an etcd, if the directory has that and no member's data of ours. Afterwards it is a member's, and
/// etcd's files are locked against an etcd.
///
/// # Errors
/// [`EtcdDirError`], whose text says what is the matter.
pub(super) fn import_if_any(
    config: &Config,
    data_dir: &DataDir,
    waiting: &Waiting,
) -> Result<(), EtcdDirError> {
    // An import or a bootstrap that did not end is begun anew.
    let is_ours = data_dir.identity()?.is_some_and(|identity| identity.is_ready);
    match data_dir.etcd() {
        Some(etcd) if is_ours => keep_etcd_away(&etcd),
        Some(etcd) => import(config, data_dir, &etcd, waiting),
        None => Ok(()),
    }
}

/// Takes the locks of what is left of etcd's files.
fn keep_etcd_away(etcd: &EtcdFiles) -> Result<(), EtcdDirError> {
    let path = etcd.snap.join("db");
    let file = match SnapshotFile::open(&path) {
        Ok(file) => file,
        Err(SnapshotError::Locked { path }) => return Err(EtcdDirError::Running { path }),
        Err(error) => return Err(error.into()),
    };
    let segments = files(&etcd.wal, "wal").unwrap_or_default();
    let locks = segments.iter().map(|path| lock_segment(path)).collect::<Result<Vec<File>, _>>()?;
    // While this process lives no etcd gets them.
    std::mem::forget((locks, file));
    Ok(())
}

fn import(
    config: &Config,
    data_dir: &DataDir,
    etcd: &EtcdFiles,
    waiting: &Waiting,
) -> Result<(), EtcdDirError> {
    let started = Instant::now();
    tracing::info!(
        database = %etcd.snap.join("db").display(),
        log = %etcd.wal.display(),
        "the directory holds the data of etcd: it is imported once, and etcd's files stay as they are"
    );
    let segments = etcd.segments()?;
    let mut locks = Vec::new();
    for (_, path) in &segments {
        locks.push(lock_segment(path)?);
    }
    let (mut file, mut contents) = etcd.database("db", waiting)?;
    waiting.on(format!("the log of etcd in {} is being read", etcd.wal.display()));
    let mut log = Reading::new(contents.meta.consistent_index);
    for (number, (_, path)) in segments.iter().enumerate() {
        let bytes = read_bounded(path, SEGMENT_BYTES_MAX)?;
        let file = path.display().to_string();
        let is_last = number + 1 == segments.len();
        let read = log.segment(Segment { file: &file, bytes: &bytes, is_last });
        read.map_err(|source| EtcdDirError::Member { path: etcd.wal.clone(), source: source.into() })?;
    }
    let snaps = etcd.snaps()?;
    let (start, _) = EtcdMember::start(&log, &snaps, contents.meta.storage_version.as_deref());
    if contents.meta.consistent_index < start {
        let received = format!("{start:016x}.snap.db");
        if etcd.snap.join(&received).is_file() {
            // Received from a leader and not renamed yet.
            (file, contents) = etcd.database(&received, waiting)?;
        }
    }
    let (storage_version, cluster_version) =
        (contents.meta.storage_version.clone(), contents.cluster_version.clone());
    let applied = contents.meta.consistent_index;
    let versions = [storage_version.as_deref(), cluster_version.as_deref()];
    let is_of_3_7 = versions.into_iter().flatten().any(|version| version.starts_with("3.7"));
    let cluster_id = log.cluster_id();
    let cost = config.process.auth.bcrypt_cost;
    let hash = |password: &str, index: u64| {
        // The same on every member, and another one for each entry.
        let sum = Sha256::new().chain_update(cluster_id.to_be_bytes()).chain_update(index.to_be_bytes());
        let salt: [u8; 16] = *sum.finalize().first_chunk()?;
        bcrypt::hash_with_salt(password, cost, salt).ok().map(|parts| parts.to_string())
    };
    let election_ms = i64::from(config.cluster.election_ms);
    let converter = Converter {
        lease_ttl_min_s: (election_ms * 3 + 1_999) / 2_000,
        drops_ranges: !is_of_3_7,
        hash: &hash,
    };
    let imported = EtcdMember { contents, log, snaps }.import(&converter);
    let Imported { mut machine, member, checkpoint, tail } =
        imported.map_err(|source| EtcdDirError::Member { path: etcd.snap.clone(), source })?;
    let mut identity = IdentityFile {
        cluster: machine.cluster().id(),
        member,
        measured_sync: SyncMode::Mmap,
        is_ready: false,
    };
    data_dir.write_identity(&identity)?;
    data_dir.reset_contents()?;
    if config.process.wal_sync == WalSync::Auto {
        identity.measured_sync = recovery::measure(data_dir)?;
    }
    let header = force_new::header(&machine, member, &checkpoint);
    recovery::write_checkpoint(data_dir, &header, &mut machine)?;
    let storage = recovery::open_storage(data_dir, identity.measured_sync)?;
    let mut wal = Wal::create(storage, wal_identity(&identity), header.index.0, header.term.0)?;
    let uncertain = tail.entries.len();
    let entries: Vec<_> = tail.entries.into_iter().map(entry_to_wal).collect();
    wal.append(Some(hard_state_to_wal(tail.hard_state)), &entries)?;
    wal.sync()?;
    drop(wal);
    identity.is_ready = true;
    data_dir.write_identity(&identity)?;
    let store = machine.store();
    tracing::info!(
        cluster = %identity.cluster,
        member = %member,
        members = machine.cluster().members().len(),
        storage_version,
        cluster_version,
        applied,
        commit = checkpoint.index.0,
        term = tail.hard_state.term.0,
        entries_behind_commit = uncertain,
        revision = store.current_revision(),
        compact_revision = store.compact_revision(),
        keys = store.keys_count(),
        leases = machine.leases().len(),
        seconds = started.elapsed().as_secs_f64(),
        "etcd's data is imported. That etcd must not run again: two processes would act for one member"
    );
    for alarm in machine.alarms().iter() {
        tracing::warn!(%alarm, "an alarm of etcd is still set; disarm it when its reason is gone");
    }
    // While this process lives no etcd gets them.
    std::mem::forget((locks, file));
    Ok(())
}

fn files(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<PathBuf>>>()?;
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    Ok(paths)
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, EtcdDirError> {
    let read = || {
        if bytes_max < fs::metadata(path)?.len() {
            return Err(io::Error::other(format!("more than {bytes_max} bytes")));
        }
        fs::read(path)
    };
    read().map_err(|source| EtcdDirError::Io { action: "cannot read", path: path.to_owned(), source })
}

/// Takes a lock that keeps etcd's away.
fn lock_segment(path: &Path) -> Result<File, EtcdDirError> {
    let io = |source| EtcdDirError::Io { action: "cannot lock", path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: all-zero is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // Shared: the file is open to be read. etcd asks for the exclusive one.
    lock.l_type = libc::c_short::try_from(libc::F_RDLCK).expect("a small constant");
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).expect("a small constant");
    // SAFETY: the descriptor is open, and the struct outlives the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    if answer == 0 {
        return Ok(file);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(EtcdDirError::Running { path: path.to_owned() }),
        // A file system without such locks has nobody who holds one.
        Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP) => Ok(file),
        _ => Err(io(error)),
    }
}
