//! From a data directory to a member that can start: identity, checkpoint, log.
//!
//! Nothing is repaired here but what is known to be no loss (a torn tail, left-over files); anything
//! else stops the start with the file, the offset and what to do.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pinion_wal::{self as wal, Storage, Wal, WalError};

use crate::apply::Machine;
use crate::apply::checkpoint::Restore;
use crate::checkpoint::cadence::LogSince;
use crate::checkpoint::format::Header;
use crate::config::{Config, InitialCluster, InitialClusterState, Refused, WalSync};
use crate::membership::{Cluster, member_id};
use crate::mvcc::Store;
use crate::raft::{CheckpointMeta, Entry, Recovered, Replay};
use crate::shell::boot::cores::Cores;
use crate::shell::boot::data_dir::{DataDir, DataDirError, IdentityFile, SyncMode};
use crate::shell::boot::force_new::{self, ForceError};
use crate::shell::boot::join::{self, JoinError};
use crate::shell::boot::replay::{self, Applied, Applier, Feeder, ReplayError};
use crate::shell::discovery::{self, DiscoveryError};
use crate::shell::log::entries::{UnknownKind, entry_from_wal, hard_state_from_wal};
use crate::shell::net::addresses::{Addresses, RESOLVE_PATIENCE};
use crate::shell::net::tls::TlsConnector;
use crate::shell::runtime::aside::run_aside;
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::waiting::Waiting;
use crate::shell::store::checkpoint_file::{self, LoadError, Part};
use crate::shell::store::memory_supply::MemorySupply;
use crate::shell::store::{FormatLevelTooHigh, check_format_level, stop};
use crate::types::{FormatLevel, LogIndex, MemberId};

/// Bytes of a checkpoint block that the first checkpoint is made of.
const BLOCK_BYTES: usize = 256 << 10;

/// How long a restart may look names up, only to compare what it was given with what it knows.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

/// The log on whichever storage.
pub(in crate::shell) type AnyWal = Wal<Box<dyn Storage + Send>>;

/// Why a member cannot start from its data directory.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum RecoveryError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("{0}")]
    Config(Refused),
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Force(#[from] ForceError),
    #[error(transparent)]
    Checkpoint(#[from] LoadError),
    #[error(
        "{path} has no checkpoint, yet every member begins with one: part of the data directory was deleted; restore it from a backup"
    )]
    CheckpointMissing { path: PathBuf },
    #[error(
        "the checkpoint in {path} belongs to member {found} of cluster {found_cluster}, this data directory to member {own} of cluster {own_cluster}: files of two directories were mixed"
    )]
    CheckpointForeign {
        path: PathBuf,
        found: MemberId,
        found_cluster: String,
        own: MemberId,
        own_cluster: String,
    },
    #[error(transparent)]
    FormatLevel(#[from] FormatLevelTooHigh),
    #[error("{0}")]
    Log(#[from] WalError),
    #[error(transparent)]
    EntryKind(#[from] UnknownKind),
    #[error(transparent)]
    Replay(ReplayError),
    #[error("cannot start the thread that reads the log: {0}")]
    Thread(io::Error),
    #[error("cannot start the runtime to ask other members: {0}")]
    Runtime(io::Error),
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Everything the roles start from.
pub(in crate::shell) struct Start {
    pub identity: IdentityFile,
    pub machine: Machine,
    pub recovered: Recovered,
    pub wal: AnyWal,
    pub sync_mode: SyncMode,
    /// Last entry that was in the log.
    pub last: LogIndex,
    /// What of the log was applied.
    pub applied: Applied,
}

/// Opens a member's data, creating it first where there is none. `is_interrupted` is asked while others
/// are waited for.
///
/// # Errors
/// [`RecoveryError`], whose text says what to do.
pub(in crate::shell) fn open(
    config: &Config,
    data_dir: &DataDir,
    tls: Option<&TlsConnector>,
    waiting: &Waiting,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Start, RecoveryError> {
    let (identity, is_new) = match data_dir.identity()? {
        Some(identity) if identity.is_ready => {
            data_dir.check_log()?;
            (identity, false)
        }
        // Also where a bootstrap was begun and not ended: nothing was ever acknowledged.
        _ => {
            data_dir.check_unused()?;
            (bootstrap(config, data_dir, tls, waiting, is_interrupted)?, true)
        }
    };
    data_dir.tell_strangers();
    let sync_mode = match config.process.wal_sync {
        WalSync::Auto => identity.measured_sync,
        WalSync::Mmap => SyncMode::Mmap,
        WalSync::Direct => SyncMode::Direct,
    };
    waiting.on(format!("the newest checkpoint in {} is being loaded", data_dir.checkpoints().display()));
    let level_max = config.process.format_level_max;
    // The log behind a checkpoint needs nothing of it but where it stands. So it is read at the same time, and touched
    // when both are believed.
    let own = &identity;
    // Without a helper the same memory is touched here.
    let mut memory = Helpers::start().ok().map(|helpers| MemorySupply::start(&helpers));
    let (checkpoint, mut machine, reading, (replay, applied)) = std::thread::scope(|scope| {
        let mut log = None;
        let on_header = |header: &Header| {
            let checkpoint = meta_of(header);
            let (feeder, applier) = replay::begin(&checkpoint);
            // A reduced cluster is made of the whole log at once, and nobody has committed anything before a checkpoint.
            let is_whole = config.cluster.force_new_cluster || checkpoint == CheckpointMeta::joining();
            let meta = checkpoint.clone();
            let read = move || read_log(data_dir, sync_mode, own, &meta, feeder, is_whole);
            let reader = std::thread::Builder::new().name("log-read".to_owned()).spawn_scoped(scope, read);
            log = Some((checkpoint, reader, applier));
        };
        let mut machine = load_checkpoint(data_dir, own, level_max, waiting, &mut memory, on_header)?;
        let (checkpoint, reader, applier) = log.expect("a checkpoint has a header");
        let applied =
            replay_log(applier, data_dir, &mut machine, level_max, waiting, &mut memory, is_interrupted);
        // What is wrong with the log comes first, whatever could be applied of it.
        let read = reader.map_err(RecoveryError::Thread)?.join();
        let read = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (reading, replay) = read?;
        match applied {
            Ok(applied) => Ok((checkpoint, machine, reading, (replay, applied))),
            Err(ReplayError::Entry { at, problem }) => stop(at, &problem),
            Err(error) => Err(RecoveryError::Replay(error)),
        }
    })?;
    let opened = Instant::now();
    let (wal, found) = reading.open()?;
    for note in &found.notes {
        tracing::warn!("{note}");
    }
    let entries = found.entries.into_iter().map(entry_from_wal).collect::<Result<Vec<Entry>, _>>()?;
    let last = entries.last().map_or(replay.last().0, |entry| entry.index);
    tracing::info!(
        checkpoint_index = checkpoint.index.0,
        applied_index = replay.last().0.0,
        last_index = last.0,
        seconds = opened.elapsed().as_secs_f64(),
        "log open"
    );
    let cluster = machine.cluster();
    let replayed = replay.finish(cluster.voters().collect(), cluster.learners().collect());
    let hard_state = found.hard_state.map(hard_state_from_wal);
    let checkpoint_index = checkpoint.index;
    let mut recovered = Recovered { hard_state, checkpoint, replayed, entries };
    if config.cluster.force_new_cluster {
        let own = identity.member;
        let may_leave = |cluster: &Cluster| match config.cluster.force_new_cluster_against_quorum {
            true => Ok(()),
            false => refuse_quorum(cluster, own, tls, waiting),
        };
        let reduced = force_new::reduce(&mut machine, &mut recovered, checkpoint_index, own, may_leave)?;
        tracing::warn!(
            index = recovered.checkpoint.index.0,
            revision = machine.store().current_revision(),
            uncertain_entries = reduced.uncertain_entries,
            removed_members = reduced.removed_members,
            "--force-new-cluster: this member goes on as a cluster of its own; the other members are removed for ever. \
             Start it without the flag from now on"
        );
        check_format_level(machine.format_level(), level_max)?;
        let header = force_new::header(&machine, identity.member, &recovered.checkpoint);
        write_checkpoint(data_dir, &header, &mut machine)?;
    }
    // Also of a member that has just joined, whatever it advertises.
    tell_differences(config, &machine, identity.member, is_new);
    Ok(Start { identity, machine, recovered, wal, sync_mode, last, applied })
}

/// Reads the log behind a checkpoint, and hands out what is committed unless it is wanted as a whole.
fn read_log(
    data_dir: &DataDir,
    sync_mode: SyncMode,
    identity: &IdentityFile,
    checkpoint: &CheckpointMeta,
    mut feeder: Feeder,
    is_whole: bool,
) -> Result<(wal::Reading<Box<dyn Storage + Send>>, Replay), RecoveryError> {
    let started = Instant::now();
    let (storage, own) = (open_storage(data_dir, sync_mode)?, wal_identity(identity));
    let (index, term) = (checkpoint.index.0, checkpoint.term.0);
    let reading = if is_whole {
        Wal::read(storage, own, index, term)?
    } else {
        Wal::read_handing_out(storage, own, index, term, |entry| feeder.take(entry))?
    };
    let replay = feeder.finish();
    tracing::info!(seconds = started.elapsed().as_secs_f64(), "log checked");
    Ok((reading, replay))
}

/// Applies what of the log is committed for certain.
fn replay_log(
    applier: Applier,
    data_dir: &DataDir,
    machine: &mut Machine,
    level_max: FormatLevel,
    waiting: &Waiting,
    memory: &mut Option<MemorySupply>,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Applied, ReplayError> {
    let dir = data_dir.wal();
    waiting.on(format!("the log in {} is being replayed", dir.display()));
    let started = Instant::now();
    let replayed = applier.apply_all(machine, level_max, memory, is_interrupted, |done| {
        let mib = done.bytes >> 20;
        waiting.on(format!(
            "the log in {} is being replayed: {mib} MiB, {} requests",
            dir.display(),
            done.requests
        ));
        tracing::info!(entries = done.entries, requests = done.requests, mib, "log is being replayed");
    });
    let applied = replayed?;
    let LogSince { entries, requests, bytes } = applied.log;
    if 0 < entries {
        let seconds = started.elapsed().as_secs_f64();
        let busy = applied.took.as_secs_f64();
        tracing::info!(entries, requests, bytes, seconds, busy, "log replayed");
    }
    Ok(applied)
}

fn meta_of(header: &Header) -> CheckpointMeta {
    CheckpointMeta {
        index: header.index,
        term: header.term,
        voters: header.voters.clone(),
        learners: header.learners.clone(),
    }
}

/// Asks the other members, which may be healthy: a flag that was left in a unit's file must not end them.
fn refuse_quorum(
    cluster: &Cluster,
    own: MemberId,
    tls: Option<&TlsConnector>,
    waiting: &Waiting,
) -> Result<(), ForceError> {
    waiting.on("--force-new-cluster: the other members are asked whether they are there");
    let answering = run_aside(join::answering(cluster, own, tls)).map_err(ForceError::Ask)?;
    if answering.len() + 1 < cluster.voters().count() / 2 + 1 || answering.is_empty() {
        return Ok(());
    }
    Err(ForceError::Quorum(answering.join(", ")))
}

/// Makes the data of a new cluster. Until its last line nothing is acknowledged, and a directory left
/// in the middle is begun anew.
fn bootstrap(
    config: &Config,
    data_dir: &DataDir,
    tls: Option<&TlsConnector>,
    waiting: &Waiting,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<IdentityFile, RecoveryError> {
    config.cluster.check_empty().map_err(RecoveryError::Config)?;
    let found =
        run_aside(discovery::find(config, waiting, is_interrupted)).map_err(RecoveryError::Runtime)??;
    let mut addresses = Addresses::until(Instant::now() + RESOLVE_PATIENCE);
    let same = |a: &[String], b: &[String]| addresses.are_same(a, b);
    let plan = config
        .cluster
        .bootstrap(&config.process, found.first_members(), same)
        .map_err(RecoveryError::Config)?;
    let (member, cluster, meta) = match plan.state {
        InitialClusterState::New => {
            let cluster = Cluster::bootstrap(plan.members.iter().map(Vec::as_slice), &plan.token);
            let member = member_id(&plan.peer_urls, &plan.token);
            assert!(cluster.member(member).is_some(), "the configuration lists this member");
            waiting.on("the other members of --initial-cluster are asked whether they know this one");
            run_aside(join::check_new(&plan.others, tls, cluster.id(), member))
                .map_err(RecoveryError::Runtime)??;
            let meta = CheckpointMeta::bootstrap(cluster.voters());
            (member, cluster, meta)
        }
        InitialClusterState::Existing => {
            let (member, cluster) =
                run_aside(join::join(&plan, tls, config.process.format_level_max, waiting, is_interrupted))
                    .map_err(RecoveryError::Runtime)??;
            (member, cluster, CheckpointMeta::joining())
        }
    };
    let mut identity =
        IdentityFile { cluster: cluster.id(), member, measured_sync: SyncMode::Mmap, is_ready: false };
    data_dir.write_identity(&identity)?;
    data_dir.reset_contents()?;
    waiting.on(format!("the log in {} is being made", data_dir.wal().display()));
    if config.process.wal_sync == WalSync::Auto {
        identity.measured_sync = measure(data_dir)?;
    }
    let mut machine = Machine::new(Store::new(), cluster);
    let header = force_new::header(&machine, member, &meta);
    write_checkpoint(data_dir, &header, &mut machine)?;
    let storage = open_storage(data_dir, identity.measured_sync)?;
    Wal::create(storage, wal_identity(&identity), header.index.0, header.term.0)?;
    identity.is_ready = true;
    data_dir.write_identity(&identity)?;
    let is_joining = plan.state == InitialClusterState::Existing;
    tracing::info!(cluster = %identity.cluster, member = %identity.member, is_joining, "new member");
    Ok(identity)
}

/// The flags that named this member when its data was made are not read any more. Where they say
/// something else now, the operator may have the wrong directory.
fn tell_differences(config: &Config, machine: &Machine, own: MemberId, is_new: bool) {
    if !is_new && !matches!(config.cluster.initial_cluster, InitialCluster::Listed(_)) {
        tracing::info!("discovery flags are ignored, since this member has data and knows its cluster");
    }
    let Some(member) = machine.cluster().member(own) else { return };
    let mut given: Vec<String> =
        config.process.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    given.sort_unstable();
    // Listed by name and advertised by number, say.
    let mut addresses = Addresses::until(Instant::now() + ADDRESS_PATIENCE);
    if !addresses.are_same(&given, &member.peer_urls) {
        tracing::warn!(
            member = %own, known = ?member.peer_urls, given = ?given,
            "--initial-advertise-peer-urls is not what the members have agreed on. This member tells it to those that it \
             reaches, and they dial it there too; `etcdctl member update` tells all. Is this the right --data-dir?"
        );
    }
}

pub(super) fn measure(data_dir: &DataDir) -> Result<SyncMode, RecoveryError> {
    let probe = wal::probe::probe(data_dir.wal()).map_err(|source| RecoveryError::Io {
        action: "cannot measure the disk under",
        path: data_dir.wal().to_owned(),
        source,
    })?;
    let mode = match probe.choice {
        wal::probe::Choice::Mmap => SyncMode::Mmap,
        wal::probe::Choice::Direct => SyncMode::Direct,
    };
    tracing::info!(
        small_mmap_us = probe.small.mmap_us,
        small_direct_us = probe.small.direct_us,
        large_mmap_us = probe.large.mmap_us,
        large_direct_us = probe.large.direct_us,
        bulk_mmap_us = probe.bulk.mmap_us,
        bulk_direct_us = probe.bulk.direct_us,
        chosen = mode.as_str(),
        "measured how fast this disk syncs the log; --wal-sync overrides the choice"
    );
    Ok(mode)
}

pub(super) fn open_storage(
    data_dir: &DataDir,
    mode: SyncMode,
) -> Result<Box<dyn Storage + Send>, RecoveryError> {
    let dir = data_dir.wal();
    let opened: io::Result<Box<dyn Storage + Send>> = match mode {
        SyncMode::Mmap => {
            wal::map::name_log_directory(dir);
            wal::map::MapStorage::open(dir, wal::SEGMENT_BYTES).map(|storage| Box::new(storage) as _)
        }
        SyncMode::Direct => {
            wal::direct::DirectStorage::open(dir, wal::SEGMENT_BYTES).map(|storage| Box::new(storage) as _)
        }
    };
    opened.map_err(|source| RecoveryError::Io {
        action: "cannot open the log in",
        path: dir.to_owned(),
        source,
    })
}

pub(in crate::shell) fn wal_identity(identity: &IdentityFile) -> wal::Identity {
    wal::Identity { cluster_id: identity.cluster.0, member_id: identity.member.0 }
}

/// Writes the whole state as the newest checkpoint.
pub(super) fn write_checkpoint(
    data_dir: &DataDir,
    header: &Header,
    machine: &mut Machine,
) -> Result<(), RecoveryError> {
    let mut checkpoint = machine.begin_checkpoint();
    let mut is_last = false;
    let blocks = std::iter::from_fn(|| {
        if is_last {
            return None;
        }
        let mut block = Vec::new();
        is_last = machine.checkpoint_slice(&mut checkpoint, BLOCK_BYTES, &mut block);
        Some(block)
    });
    let path = data_dir.checkpoints();
    let written = checkpoint_file::write_whole(&path, header, blocks);
    machine.end_checkpoint(checkpoint);
    written.map_err(|source| RecoveryError::Io { action: "cannot write a checkpoint to", path, source })
}

fn load_checkpoint(
    data_dir: &DataDir,
    identity: &IdentityFile,
    level_max: FormatLevel,
    waiting: &Waiting,
    memory: &mut Option<MemorySupply>,
    mut on_header: impl FnMut(&Header),
) -> Result<Machine, RecoveryError> {
    let path = data_dir.checkpoints();
    checkpoint_file::remove_unfinished(&path).map_err(|source| RecoveryError::Io {
        action: "cannot tidy",
        path: path.clone(),
        source,
    })?;
    let checkpoints = path.clone();
    let started = Instant::now();
    let mut restore = Restore::new();
    let cores = Cores::allowed();
    let (mut bytes, mut fed, mut told) = (0, 0, 0);
    let loaded = checkpoint_file::load_newest(&path, |part| match part {
        Part::Header(header, file_bytes) => {
            bytes = file_bytes;
            on_header(header);
            Ok(())
        }
        Part::Block(block) => {
            fed += block.len() as u64;
            let percent = 100 * fed / bytes.max(1);
            if told < percent {
                told = percent;
                waiting.on(format!(
                    "the newest checkpoint in {} is being loaded: {percent} % of {} MiB",
                    path.display(),
                    bytes >> 20
                ));
            }
            if let Some(memory) = memory {
                memory.refill(&mut restore);
            }
            restore.feed_with(block, &cores).map_err(|error| error.to_string())
        }
    });
    // First of all: that the rest cannot be read follows from it.
    check_format_level(restore.format_level(), level_max)?;
    let header = loaded?.ok_or_else(|| RecoveryError::CheckpointMissing { path: path.clone() })?;
    if header.cluster != identity.cluster || header.member != identity.member {
        return Err(RecoveryError::CheckpointForeign {
            path,
            found: header.member,
            found_cluster: header.cluster.to_string(),
            own: identity.member,
            own_cluster: identity.cluster.to_string(),
        });
    }
    let machine =
        restore.finish().map_err(|error| LoadError::Block { path, offset: 0, problem: error.to_string() })?;
    // Where a checkpoint of another member arrived and was not installed before the end.
    checkpoint_file::remove_older(&checkpoints, header.index).map_err(|source| RecoveryError::Io {
        action: "cannot tidy",
        path: checkpoints,
        source,
    })?;
    tracing::info!(
        index = header.index.0,
        revision = machine.store().current_revision(),
        keys = machine.store().keys_count(),
        seconds = started.elapsed().as_secs_f64(),
        "checkpoint loaded"
    );
    Ok(machine)
}
