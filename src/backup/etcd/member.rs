//! A member of etcd, put together as etcd itself does at a start.
//!
//! | | |
//! |---|---|
//! | C | `consistent_index`: the last entry that is in the database |
//! | S | the snapshot at which the log begins to count |
//! | K | the commit index of the last state record, which may lag behind C |
//! | L | the last entry |
//!
//! What is committed for sure, up to the larger of K and C, is applied. What comes behind it becomes the log, entry by
//! entry with index and term, and raft decides about it as etcd's would have: it may have been acknowledged. Term and
//! vote are kept.

use prost::Message as _;

use super::entries::{Converter, UnknownEntry};
use super::roster::Roster;
use super::snap::Snap;
use super::wal::{LogFault, Reading};
use crate::apply::Machine;
use crate::backup::Contents;
use crate::membership::{Cluster, MemberChange};
use crate::raft::{CheckpointMeta, Entry, EntryKind, HardState};
use crate::request::EntryId;
use crate::request::group::decode_group;
use crate::types::{FormatLevel, LogIndex, MemberId, Term};

/// Why a member's data is not imported.
#[derive(Debug, thiserror::Error)]
pub enum MemberFault {
    #[error(transparent)]
    Log(#[from] LogFault),
    #[error(transparent)]
    Entry(#[from] UnknownEntry),
    #[error("this member ({0:x}) was removed from its cluster and cannot come back")]
    Removed(u64),
    #[error(
        "its database needs the snapshot at {snapshot} and holds only what was applied up to {applied}: the file \
         {snapshot:016x}.snap.db is missing"
    )]
    NoDatabase { snapshot: u64, applied: u64 },
    /// The sentence is whole.
    #[error("{0}")]
    Told(String),
}

/// What was read of a member: its database, its log, its snapshots.
pub struct EtcdMember {
    pub contents: Contents,
    pub log: Reading,
    /// Those that could be read, whatever their order.
    pub snaps: Vec<Snap>,
}

/// What an imported member starts from.
#[derive(Debug)]
pub struct Imported {
    pub machine: Machine,
    pub member: MemberId,
    /// The state is as of here.
    pub checkpoint: CheckpointMeta,
    pub tail: Tail,
}

/// What is behind the state.
#[derive(Debug)]
pub struct Tail {
    pub hard_state: HardState,
    pub entries: Vec<Entry>,
}

impl EtcdMember {
    /// Where the log begins to count, by the index of its snapshot; 0 is the beginning. For the choice of the database:
    /// one that was received and not renamed yet has this index.
    #[must_use]
    pub fn start(log: &Reading, snaps: &[Snap], storage_version: Option<&str>) -> (u64, u64) {
        let is_valid = |index: u64, term: u64| {
            let mut records = log.snapshots.iter().filter(|record| record.index <= log.commit);
            records.any(|record| (record.index, record.term) == (index, term))
        };
        if storage_version.is_some_and(|version| version.starts_with("3.7")) {
            let last = log.snapshots.iter().rfind(|record| record.index <= log.commit);
            return last.map_or((0, 0), |record| (record.index, record.term));
        }
        let newest =
            snaps.iter().filter(|snap| is_valid(snap.index, snap.term)).max_by_key(|snap| snap.index);
        newest.map_or((0, 0), |snap| (snap.index, snap.term))
    }

    /// Makes our state of it.
    ///
    /// # Errors
    /// [`MemberFault`].
    pub fn import(self, converter: &Converter<'_>) -> Result<Imported, MemberFault> {
        let Self { contents, mut log, snaps } = self;
        let told = |text: String| MemberFault::Told(text);
        let Contents { store, leases, alarms, realm, meta, members, removed, .. } = contents;
        let (start, start_term) = Self::start(&log, &snaps, meta.storage_version.as_deref());
        let applied = meta.consistent_index;
        if applied < start {
            return Err(MemberFault::NoDatabase { snapshot: start, applied });
        }
        let first = log.entries.first().map_or(start + 1, |entry| entry.index);
        let last = log.entries.last().map_or(start, |entry| entry.index);
        if start + 1 < first {
            return Err(told(format!(
                "the log begins with entry {first} and is needed from {} on: segments are missing",
                start + 1
            )));
        }
        let last = last.max(start);
        if last < log.commit {
            return Err(told(format!("the log says that {} is committed and ends with {last}", log.commit)));
        }
        if last < applied {
            return Err(told(format!(
                "entry {applied} is applied and the log ends with {last}: acknowledged entries are lost, as by an etcd \
                 of one member before 3.4.21 and 3.5.5, by --unsafe-no-fsync, or by a log that was put back"
            )));
        }
        let commit = log.commit.max(applied);
        if let Some((file, offset)) = &log.torn
            && last < commit
        {
            return Err(told(format!("{file} is torn at offset {offset}, in front of what was committed")));
        }
        if let Some(entry) = log.entries.iter().find(|entry| start < entry.index && entry.term < start_term) {
            return Err(told(format!(
                "entry {} of term {} behind the snapshot's {start_term}",
                entry.index, entry.term
            )));
        }
        if log.entries.iter().any(|entry| entry.index == start && entry.term != start_term) && 0 < start {
            return Err(told(format!("the snapshot at {start} and the log have another term for it")));
        }
        let term_at = |index: u64| {
            let found = log.entries.iter().find(|entry| entry.index == index);
            found.map_or(if index == start { start_term } else { 0 }, |entry| entry.term)
        };
        let commit_term = term_at(commit);
        log.entries.retain(|entry| start < entry.index);

        // Who is a member: the snapshot of the log and the entries behind it. The buckets of the database say so only where
        // there is neither; after a restore by 3.4 they are those of the cluster that the file came from.
        let snap = snaps.into_iter().find(|snap| (snap.index, snap.term) == (start, start_term));
        let follows_entries = snap.is_some() || start == 0;
        let mut roster = match snap {
            Some(snap) => snap.roster,
            None if start == 0 => Roster::default(),
            None => Roster::of_buckets(members, removed),
        };
        let record = log.snapshots.iter().rfind(|record| record.index == start);
        let (mut voters, mut learners) =
            record.and_then(|record| record.conf_state.clone()).unwrap_or_default();
        // The first entries make the first members; a database may not have come so far.
        let founded = log.entries.iter().take_while(|entry| entry.kind == 1 && entry.term == 1 && start == 0);
        let known = applied.max(founded.last().map_or(0, |entry| entry.index.min(commit)));
        let mut later = Vec::new();
        for raw in &log.entries {
            let converted = converter.convert(raw)?;
            if known < raw.index {
                later.push(converted.entry);
                continue;
            }
            if let Some(change) = &converted.change {
                follow(change, &mut voters, &mut learners);
                if follows_entries {
                    roster.change(change);
                }
            }
            if follows_entries && let Some((id, name, client_urls)) = converted.published {
                roster.publish(id, name, client_urls);
            }
            if applied < raw.index {
                later.push(converted.entry);
            }
        }
        if !follows_entries {
            roster.set_roles(&voters, &learners);
        }
        if roster.removed.contains(&log.member) {
            return Err(MemberFault::Removed(log.member));
        }
        let cluster = Cluster::decode(roster.to_record(log.cluster).encode_to_vec().into());
        let cluster = cluster.map_err(|error| told(error.to_string()))?;
        let mut machine = Machine::of_backup((store, leases), cluster, alarms, realm, FormatLevel::HIGHEST);
        let mut tail = Vec::new();
        for entry in later {
            if commit < entry.index.0 {
                tail.push(entry);
            } else {
                apply(&mut machine, &entry)
                    .map_err(|problem| told(format!("entry {}: {problem}", entry.index.0)))?;
            }
        }
        while !machine.work_slice(usize::MAX) {}
        if machine.cluster().is_removed(MemberId(log.member)) {
            return Err(MemberFault::Removed(log.member));
        }
        if machine.cluster().member(MemberId(log.member)).is_none() {
            return Err(told(format!("member {:x} of the log is no member of its cluster", log.member)));
        }
        let checkpoint = CheckpointMeta {
            index: LogIndex(commit),
            term: Term(commit_term),
            voters: machine.cluster().voters().collect(),
            learners: machine.cluster().learners().collect(),
        };
        if commit == 0 || commit_term == 0 {
            return Err(told("nothing was ever committed in it: there is nothing to go on with".to_owned()));
        }
        let last_term = tail.last().map_or(commit_term, |entry| entry.term.0);
        let hard_state = HardState {
            term: Term(log.term.max(last_term)),
            // A vote is of its term alone.
            vote: (log.vote != 0 && last_term <= log.term).then_some(MemberId(log.vote)),
            commit: LogIndex(commit),
        };
        Ok(Imported {
            machine,
            member: MemberId(log.member),
            checkpoint,
            tail: Tail { hard_state, entries: tail },
        })
    }
}

/// Raft's own list of who votes.
fn follow(change: &super::roster::Change, voters: &mut Vec<u64>, learners: &mut Vec<u64>) {
    use super::roster::Change;
    match change {
        Change::Add(member) if member.is_learner => {
            if !voters.contains(&member.id) && !learners.contains(&member.id) {
                learners.push(member.id);
            }
        }
        Change::Add(member) => {
            learners.retain(|id| *id != member.id);
            if !voters.contains(&member.id) {
                voters.push(member.id);
            }
        }
        Change::Promote(id) => {
            learners.retain(|known| known != id);
            if !voters.contains(id) {
                voters.push(*id);
            }
        }
        Change::Remove(id) => {
            voters.retain(|known| known != id);
            learners.retain(|known| known != id);
        }
        Change::Update { .. } => {}
    }
}

fn apply(machine: &mut Machine, entry: &Entry) -> Result<(), String> {
    match entry.kind {
        EntryKind::Normal if entry.data.is_empty() => {}
        EntryKind::Normal => {
            let group = decode_group(entry.data.clone()).map_err(|error| error.to_string())?;
            let at = EntryId { index: entry.index, term: entry.term };
            for request in &machine.admit(group) {
                // Whoever asked is gone.
                drop(machine.apply(request, at));
            }
            drop(machine.take_lease_changes());
        }
        EntryKind::ConfChange => {
            let change = MemberChange::decode(entry.data.clone()).map_err(|error| error.to_string())?;
            drop(machine.change_members(&change));
        }
    }
    Ok(())
}
