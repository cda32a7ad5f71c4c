//! What a data directory or a snapshot holds, told without a member: `status`, `hashkv`, `snapshot status`.
//!
//! Looks only. A directory in use is refused by its lock; nothing is created, repaired or removed.
//!
//! Compatibility: `snapshot status` prints etcdutl 3.6's and later's fields: live keys, where 3.5 counts the entries of
//! all buckets. The hash is CRC-32C over names of buckets, keys and values.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pinion_wal::SegmentSeq;
use pinion_wal::scan::Scan;
use prost::Message as _;
use serde_json::{Value, json};

use super::data_dir::{DataDir, IdentityFile};
use super::progress::Progress;
use super::recovery::{RecoveryError, wal_identity};
use super::replay::apply_entry;
use super::restore::{ToolError, read_snapshot};
use super::snapshot_file::SnapshotFile;
use crate::apply::Machine;
use crate::apply::checkpoint::Restore;
use crate::backup::bbolt::{self, Walk};
use crate::checkpoint::format::Header;
use crate::config::Format;
use crate::mvcc::HashKv;
use crate::pb::mvccpb;
use crate::peer::Lives;
use crate::raft::{CheckpointMeta, Entry, EntryKind, HardState, Recovered, StartError};
use crate::shell::log::entries::{entry_from_wal, hard_state_from_wal};
use crate::shell::store::check_format_level;
use crate::shell::store::checkpoint_file::{self, Part};
use crate::types::{FormatLevel, LogIndex, MemberId, Term};

/// What a data directory holds.
#[derive(Debug)]
pub(in crate::shell) struct Held {
    pub identity: IdentityFile,
    /// None before the member's first start.
    pub lives: Option<Lives>,
    pub header: Header,
    checkpoint_bytes: u64,
    /// As of `applied`, which `read` leaves at the commit index.
    pub machine: Machine,
    applied: LogIndex,
    pub recovered: Recovered,
    /// The log behind the checkpoint.
    pub tail: Vec<Entry>,
    /// The last entry that is known to be committed. What comes behind it may be, too.
    pub commit: LogIndex,
    /// The last entry, of the log or of the checkpoint.
    pub last: (Term, LogIndex),
    /// Who voted at the checkpoint, and after each change of that since.
    pub voters: Vec<BTreeSet<MemberId>>,
    pub segments: usize,
    pub torn: bool,
}

impl Held {
    /// Reads a directory.
    ///
    /// # Errors
    /// It is none, is in use, or is damaged.
    pub(in crate::shell) fn read(root: &Path, wal: Option<&Path>) -> Result<Self, ToolError> {
        let dir = DataDir::look(root, wal)?;
        let told = |text: String| ToolError::Told(text);
        let Some(identity) = dir.identity()?.filter(|identity| identity.is_ready) else {
            // Where there is other data, whose it is says more.
            dir.check_unused()?;
            return Err(told(format!(
                "{} holds no data of Pinion's, or a bootstrap that did not end",
                root.display()
            )));
        };
        let mut restore = Restore::new();
        let (mut checkpoint_bytes, mut progress) = (0, None);
        let header = checkpoint_file::load_newest(&dir.checkpoints(), |part| match part {
            Part::Header(_, bytes) => {
                checkpoint_bytes = bytes;
                progress = Some(Progress::new("the checkpoint is read", bytes));
                Ok(())
            }
            Part::Block(block) => {
                if let Some(progress) = &mut progress {
                    progress.on_bytes(block.len() as u64);
                }
                restore.feed(block).map_err(|error| error.to_string())
            }
        });
        // First of all: that the rest cannot be read follows from it.
        let level = restore.format_level();
        check_format_level(level, FormatLevel::HIGHEST).map_err(RecoveryError::from)?;
        let header = header.map_err(|error| told(error.to_string()))?;
        let header =
            header.ok_or_else(|| told(format!("{} has no checkpoint", dir.checkpoints().display())))?;
        if (header.cluster, header.member) != (identity.cluster, identity.member) {
            return Err(told(format!("the checkpoint is that of member {}", header.member)));
        }
        let machine = restore.finish().map_err(|error| told(error.to_string()))?;
        dir.check_log()?;
        let log = read_log(dir.wal(), &identity)?;
        let checkpoint = CheckpointMeta {
            index: header.index,
            term: header.term,
            voters: header.voters.clone(),
            learners: header.learners.clone(),
        };
        let entries = log.entries.into_iter().map(entry_from_wal).collect::<Result<Vec<_>, _>>();
        let recovered = Recovered {
            hard_state: log.hard_state.map(hard_state_from_wal),
            checkpoint,
            replayed: None,
            entries: entries.map_err(|error| told(error.to_string()))?,
        };
        let tail = recovered.tail().map_err(|error| told(error.to_string()))?;
        let last = tail.last().map_or((header.term, header.index), |entry| (entry.term, entry.index));
        let commit = recovered.hard_state.map_or(header.index, |state| state.commit).max(header.index);
        if last.1 < commit {
            let (commit, last) = (commit, last.1);
            return Err(told(StartError::CommitPastLast { commit, last }.to_string()));
        }
        let mut held = Self {
            lives: dir.known_lives()?,
            identity,
            checkpoint_bytes,
            voters: vec![machine.cluster().voters().collect()],
            machine,
            applied: header.index,
            recovered,
            tail,
            commit,
            last,
            segments: log.segments,
            torn: log.torn,
            header,
        };
        held.apply_through(commit)?;
        // What it has, a sole voter has committed.
        while held.commit < held.last.1 && held.machine.cluster().voters().count() <= 1 {
            held.commit.0 += 1;
            held.apply_through(held.commit)?;
        }
        Ok(held)
    }

    /// Applies the log up to an entry.
    ///
    /// # Errors
    /// An entry cannot be applied.
    pub(in crate::shell) fn apply_through(&mut self, index: LogIndex) -> Result<(), ToolError> {
        let Self { machine, tail, applied, voters, header, .. } = self;
        // The tail is without gaps.
        let slot = |index: LogIndex| {
            let behind = index.0.max(applied.0) - header.index.0;
            usize::try_from(behind).map_or(tail.len(), |behind| behind.min(tail.len()))
        };
        for entry in &tail[slot(*applied)..slot(index)] {
            apply_entry(machine, entry.clone()).map_err(|problem| {
                ToolError::Told(format!("log entry {} cannot be applied: {problem}", entry.index.0))
            })?;
            if entry.kind == EntryKind::ConfChange {
                let now: BTreeSet<MemberId> = machine.cluster().voters().collect();
                if voters.last() != Some(&now) {
                    voters.push(now);
                }
            }
        }
        *applied = index.max(*applied);
        while !machine.work_slice(usize::MAX) {}
        Ok(())
    }

    /// The last entry that `machine` has applied.
    #[must_use]
    pub(in crate::shell) fn applied(&self) -> LogIndex {
        self.applied
    }
}

/// A member's life, for a person.
pub(super) fn life(lives: Option<&Lives>) -> String {
    lives.map_or_else(|| "none".to_owned(), |lives| format!("{:x}", lives.own))
}

struct Log {
    entries: Vec<pinion_wal::Entry>,
    hard_state: Option<pinion_wal::HardState>,
    segments: usize,
    torn: bool,
}

fn read_log(dir: &Path, identity: &IdentityFile) -> Result<Log, ToolError> {
    let told = |path: &Path, problem: String| ToolError::Told(format!("{}: {problem}", path.display()));
    let names = fs::read_dir(dir).map_err(|error| told(dir, error.to_string()))?;
    let mut files: Vec<(SegmentSeq, PathBuf)> = names
        .filter_map(|name| {
            let path = name.ok()?.path();
            Some((SegmentSeq::parse(path.file_name()?.to_str()?)?, path))
        })
        .collect();
    files.sort_unstable_by_key(|(seq, _)| seq.0);
    let mut scan = Scan::new(wal_identity(identity));
    for (seq, path) in &files {
        let image = fs::read(path).map_err(|error| told(path, error.to_string()))?;
        scan.segment(*seq, &image).map_err(|damage| told(path, format!("{damage:?}")))?;
    }
    let scanned = scan.finish().map_err(|damage| told(dir, format!("{damage:?}")))?;
    Ok(Log {
        entries: scanned.entries,
        hard_state: scanned.hard_state,
        segments: scanned.segments.len(),
        torn: scanned.torn.is_some(),
    })
}

/// `pinion status DIR`.
///
/// # Errors
/// [`ToolError`].
pub(in crate::shell) fn status(root: &Path, wal: Option<&Path>, format: Format) -> Result<String, ToolError> {
    let held = Held::read(root, wal)?;
    let (machine, store) = (&held.machine, held.machine.store());
    let state = held.recovered.hard_state.unwrap_or(HardState {
        term: held.header.term,
        vote: None,
        commit: held.header.index,
    });
    let members: Vec<String> = machine
        .cluster()
        .members()
        .map(|member| {
            let role = if member.learner { ", learner" } else { "" };
            format!("{} {}{role} {}", member.id, member.name, member.peer_urls.join(","))
        })
        .collect();
    let alarms: Vec<String> = machine.alarms().iter().map(|alarm| alarm.to_string()).collect();
    let vote = state.vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string());
    let fields = vec![
        ("Cluster", json!(held.identity.cluster.to_string())),
        ("Member", json!(held.identity.member.to_string())),
        ("Life", json!(life(held.lives.as_ref()))),
        ("Members", json!(members)),
        ("FormatLevel", json!(machine.format_level().0)),
        ("Revision", json!(store.current_revision())),
        ("CompactRevision", json!(store.compact_revision())),
        ("Keys", json!(store.keys_count())),
        ("Leases", json!(machine.leases().len())),
        ("Users", json!(machine.realm().users().len())),
        ("AuthEnabled", json!(machine.realm().is_enabled())),
        ("Alarms", json!(alarms)),
        ("Bytes", json!(store.bytes_in_use())),
        ("CheckpointIndex", json!(held.header.index.0)),
        ("CheckpointTerm", json!(held.header.term.0)),
        ("CheckpointBytes", json!(held.checkpoint_bytes)),
        ("CommitIndex", json!(held.commit.0)),
        ("UncertainEntries", json!(held.last.1.0.saturating_sub(held.commit.0))),
        ("LastIndex", json!(held.last.1.0)),
        ("LastTerm", json!(held.last.0.0)),
        ("Term", json!(state.term.0)),
        ("Vote", json!(vote)),
        ("LogSegments", json!(held.segments)),
        ("TornTail", json!(held.torn)),
    ];
    Ok(shown(&fields, format))
}

/// `pinion hashkv`.
///
/// # Errors
/// [`ToolError`].
pub(in crate::shell) fn hash_kv(
    path: &Path,
    wal: Option<&Path>,
    revision: i64,
    format: Format,
) -> Result<String, ToolError> {
    let store = if path.is_dir() {
        Held::read(path, wal)?.machine.into_store()
    } else {
        // As etcdutl, which asks for no hash of the file.
        read_snapshot(path, true, 0)?.store
    };
    let (current, compacted) = (store.current_revision(), store.compact_revision());
    let at = if revision <= 0 { current } else { revision };
    if at < compacted || current < at {
        return Err(ToolError::Told(format!(
            "revision {at} cannot be read: the current one is {current}, and all below {compacted} is compacted"
        )));
    }
    let HashKv { hash, compact_revision, hash_revision } = store.hash_kv(at);
    let fields = vec![
        ("Hash", json!(hash)),
        ("HashRevision", json!(hash_revision)),
        ("CompactRevision", json!(compact_revision)),
    ];
    Ok(shown(&fields, format))
}

/// `pinion snapshot status`.
///
/// # Errors
/// [`ToolError`].
pub(in crate::shell) fn snapshot_status(path: &Path, format: Format) -> Result<String, ToolError> {
    let file = SnapshotFile::open(path)?;
    let mut database = file.database()?;
    let total_bytes = database.bytes();
    let mut progress = Progress::new("the snapshot is read", total_bytes);
    let fault = |fault| ToolError::Snapshot(file.fault(fault));
    let (mut hash, mut revision, mut version) = (0, 0, String::new());
    let mut live = BTreeSet::<Vec<u8>>::new();
    for (name, at) in database.buckets().map_err(fault)? {
        hash = crc32c::crc32c_append(hash, &name);
        let mut walk = Walk::new(&mut database, &at).map_err(fault)?;
        while let Some(bbolt::Entry { key, value }) = walk.next(&mut database).map_err(fault)? {
            progress.on_bytes((key.len() + value.len()) as u64);
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value);
            match &name[..] {
                b"key" => {
                    let Some(main) = key.first_chunk::<8>() else { continue };
                    revision = i64::from_be_bytes(*main);
                    let Ok(kv) = mvccpb::KeyValue::decode(value) else { continue };
                    if key.len() == 18 {
                        live.remove(&kv.key[..]);
                    } else if !kv.key.is_empty() {
                        live.insert(kv.key.to_vec());
                    }
                }
                b"meta" if key == b"storageVersion" => version = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
    }
    file.check_unchanged()?;
    let keys = live.len();
    let size = human(total_bytes);
    Ok(match format {
        Format::Simple => format!("{hash:x}, {revision}, {keys}, {size}, {version}\n"),
        Format::Json => {
            let json = json!({
                "hash": hash, "revision": revision, "totalKey": keys, "totalSize": total_bytes, "version": version,
            });
            format!("{json}\n")
        }
        Format::Fields => format!(
            "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {total_bytes}\n\"Version\" : \
             \"{version}\"\n"
        ),
        Format::Table => table(&[
            ("HASH", format!("{hash:x}")),
            ("REVISION", revision.to_string()),
            ("TOTAL KEYS", keys.to_string()),
            ("TOTAL SIZE", size),
            ("STORAGE VERSION", version),
        ]),
    })
}

/// Bytes as etcd's tools write them.
#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while 1000.0 <= value && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || 10.0 <= value {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

fn shown(fields: &[(&str, Value)], format: Format) -> String {
    match format {
        Format::Json => {
            let object: serde_json::Map<String, Value> =
                fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            format!("{}\n", Value::Object(object))
        }
        Format::Fields => fields.iter().map(|(name, value)| format!("\"{name}\" : {value}\n")).collect(),
        Format::Simple | Format::Table => {
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
            fields.iter().map(|(name, value)| format!("{name:<width$}  {}\n", text(value))).collect()
        }
    }
}

/// One row under its titles.
fn table(columns: &[(&str, String)]) -> String {
    let widths: Vec<usize> = columns.iter().map(|(title, value)| title.len().max(value.len())).collect();
    let line = |cells: Vec<&str>| {
        let cells =
            cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} ", width = *width));
        format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
    };
    let rule =
        format!("+{}+\n", widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+"));
    let titles = line(columns.iter().map(|(title, _)| *title).collect());
    let values = line(columns.iter().map(|(_, value)| value.as_str()).collect());
    format!("{rule}{titles}{rule}{values}{rule}")
}
