//! `pinion snapshot restore`: a data directory out of a snapshot, for a member of a new cluster.
//!
//! The members of `--initial-cluster` are the members of that cluster, and ids follow from their URLs and the token
//! as at any first start. Each member restores the same file, and each gets the same checkpoint.
//!
//! Nothing is there under its final name before it is whole. A mark (`UNFINISHED`) is the first file in the directory
//! and the last that goes; a start refuses a directory that has it, and another restore begins anew in it. In between come
//! the checkpoint (written aside, synced, renamed), the empty log, and IDENTITY.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pinion_wal::Wal;

use super::data_dir::{DataDir, DataDirError, IdentityFile};
use super::force_new::{self, ForceError};
use super::progress::Progress;
use super::recovery::{self, RecoveryError, wal_identity};
use super::snapshot_file::{SnapshotError, SnapshotFile};
use crate::apply::Machine;
use crate::backup::{Contents, ImportError, import};
use crate::config::{FirstMembers, InitialCluster, Refused, Restore};
use crate::membership::{Cluster, member_id};
use crate::raft::CheckpointMeta;
use crate::shell::net::addresses::{Addresses, RESOLVE_PATIENCE};
use crate::shell::runtime::logging;
use crate::types::{FormatLevel, MemberId};

/// Why a command without a server fails.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum ToolError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("{path}: {source}")]
    Import { path: PathBuf, source: ImportError },
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error(transparent)]
    Force(#[from] ForceError),
    #[error("{0}")]
    Config(Refused),
    /// The sentence is whole.
    #[error("{0}")]
    Told(String),
}

/// All that a file holds. It is compared with its hash first, unless that is to be skipped.
///
/// # Errors
/// [`ToolError`].
pub(in crate::shell) fn read_snapshot(
    path: &Path,
    skip_hash_check: bool,
    bump_revision: u64,
) -> Result<Contents, ToolError> {
    let file = SnapshotFile::open(path)?;
    if !skip_hash_check {
        file.check_hash(&mut Progress::new("the snapshot is compared with its hash", file.database_bytes()))?;
    }
    let mut database = file.database()?;
    let mut progress = Progress::new("the snapshot is read", database.bytes());
    let contents = import(&mut database, bump_revision, |bytes| progress.on_bytes(bytes));
    // Whatever was found in a file that was changed meanwhile is not its fault.
    file.check_unchanged()?;
    contents.map_err(|source| ToolError::Import { path: path.to_owned(), source })
}

/// Makes a member's data of a state, in a directory that `DataDir::begin_restore` has marked, and takes the mark away.
///
/// # Errors
/// [`ToolError`]; the directory has the mark then.
pub(super) fn write_data(
    data_dir: &DataDir,
    machine: &mut Machine,
    member: MemberId,
    meta: &CheckpointMeta,
) -> Result<IdentityFile, ToolError> {
    let cluster = machine.cluster().id();
    let measured_sync = recovery::measure(data_dir)?;
    let identity = IdentityFile { cluster, member, measured_sync, is_ready: true };
    let header = force_new::header(machine, member, meta);
    logging::complain("the state is written\n");
    recovery::write_checkpoint(data_dir, &header, machine)?;
    let storage = recovery::open_storage(data_dir, identity.measured_sync)?;
    Wal::create(storage, wal_identity(&identity), header.index.0, header.term.0)
        .map_err(RecoveryError::from)?;
    data_dir.write_identity(&identity)?;
    data_dir.end_restore()?;
    Ok(identity)
}

/// Restores a snapshot.
///
/// # Errors
/// [`ToolError`], whose text says what to do. The snapshot is as it was; the data directory is as it was, or has the
/// mark.
pub(in crate::shell) fn restore(tool: &Restore) -> Result<(), ToolError> {
    let started = Instant::now();
    let config = &tool.config;
    let InitialCluster::Listed(listed) = &config.cluster.initial_cluster else {
        unreachable!("no other flags are taken by the command");
    };
    let first = FirstMembers {
        members: listed,
        token: &config.cluster.initial_cluster_token,
        source: "--initial-cluster",
    };
    let mut addresses = Addresses::until(Instant::now() + RESOLVE_PATIENCE);
    let same = |a: &[String], b: &[String]| addresses.are_same(a, b);
    let plan = config.cluster.bootstrap(&config.process, first, same).map_err(ToolError::Config)?;
    let cluster = Cluster::bootstrap(plan.members.iter().map(Vec::as_slice), &plan.token);
    let member = member_id(&plan.peer_urls, &plan.token);
    assert!(cluster.member(member).is_some(), "the configuration lists this member");

    let (root, wal) = (&config.process.data_dir, config.process.wal_dir.as_deref());
    // Before the file is read, which may take long.
    DataDir::check_empty(root, wal)?;
    let contents = read_snapshot(Path::new(&tool.file), tool.skip_hash_check, tool.bump_revision)?;
    let data_dir = DataDir::begin_restore(root, wal)?;
    let Contents { store, leases, alarms, realm, .. } = contents;
    let told = (store.current_revision(), store.compact_revision(), store.keys_count(), leases.len());
    let meta = CheckpointMeta::bootstrap(cluster.voters());
    let mut machine = Machine::of_backup((store, leases), cluster, alarms, realm, FormatLevel::HIGHEST);
    let identity = write_data(&data_dir, &mut machine, member, &meta)?;
    let (revision, compacted, keys, leases) = told;
    logging::complain(&format!(
        "restored {} to {}: member {member} of cluster {}, revision {revision}, compacted at {compacted}, {keys} keys, \
         {leases} leases, {:.1} s\n",
        tool.file,
        root.display(),
        identity.cluster,
        started.elapsed().as_secs_f64(),
    ));
    Ok(())
}
