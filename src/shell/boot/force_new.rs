//! `--force-new-cluster` and `pinion recover`: a member's data becomes that of a cluster of its own.
//!
//! For when a majority is lost for good. Every entry of the log is applied, whether it was known to be
//! committed or not: whoever waited for one that was not has no answer, and one that was may be known to
//! this member only as a line of its log. (etcd drops what it does not know to be committed, and can lose
//! acknowledged writes by it.) Then the other members are removed for ever, and a checkpoint says so.
//!
//! Crash-safe because there is one step: the checkpoint's rename. Before it the old cluster is in force,
//! after it the new one, whose checkpoint ends where the log ends; so the log has nothing more to say.

use crate::apply::Machine;
use crate::checkpoint::format::Header;
use crate::membership::Cluster;
use crate::raft::{CheckpointMeta, Recovered, StartError};
use crate::request::Rejection;
use crate::shell::boot::replay::apply_entry;
use crate::types::{LogIndex, MemberId};

/// Why no new cluster can be made of the data.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum ForceError {
    #[error("a new cluster of this member: the log cannot be continued: {0}")]
    Log(#[from] StartError),
    #[error("a new cluster of this member: log entry {index} cannot be applied: {problem}")]
    Entry { index: u64, problem: String },
    #[error(
        "a new cluster of this member: it was added to a cluster and never received its data; choose another one"
    )]
    NoData,
    #[error("a new cluster of this member: it was removed from its cluster; choose another one ({0})")]
    NotMember(Rejection),
    #[error(
        "--force-new-cluster: the other members that answer ({0}) are a quorum with this one. Start it without the flag, \
         and it takes part. To leave them behind all the same, give --force-new-cluster-against-quorum too: they are \
         removed and end, and what they acknowledged and this member does not have is lost"
    )]
    Quorum(String),
    #[error("--force-new-cluster: the other members cannot be asked: {0}")]
    Ask(#[source] std::io::Error),
}

/// What became of a member's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) struct Reduced {
    /// Entries of which this member does not know whether they were committed.
    pub uncertain_entries: usize,
    pub removed_members: usize,
}

/// Applies the log behind `applied` to `machine` and leaves `own` as the only member, if `may_leave` lets it leave the
/// others. `recovered` is then what that state starts from. Nothing is on the disk until the caller writes the
/// checkpoint.
///
/// # Errors
/// [`ForceError`].
pub(in crate::shell) fn reduce(
    machine: &mut Machine,
    recovered: &mut Recovered,
    applied: LogIndex,
    own: MemberId,
    may_leave: impl FnOnce(&Cluster) -> Result<(), ForceError>,
) -> Result<Reduced, ForceError> {
    let tail = recovered.tail()?;
    let known = recovered.hard_state.map_or(recovered.checkpoint.index, |state| state.commit);
    let uncertain_entries = tail.iter().filter(|entry| known < entry.index).count();
    for entry in tail.iter().filter(|entry| applied < entry.index) {
        apply_entry(machine, entry.clone())
            .map_err(|problem| ForceError::Entry { index: entry.index.0, problem })?;
    }
    let checkpoint = &mut recovered.checkpoint;
    if let Some(last) = tail.last() {
        (checkpoint.index, checkpoint.term) = (last.index, last.term);
    }
    if checkpoint.index == LogIndex(0) {
        return Err(ForceError::NoData);
    }
    may_leave(machine.cluster())?;
    let removed_members = machine.cluster().members().len() - 1;
    machine.reduce_cluster_to(own).map_err(ForceError::NotMember)?;
    checkpoint.voters = vec![own];
    checkpoint.learners = Vec::new();
    recovered.entries = Vec::new();
    Ok(Reduced { uncertain_entries, removed_members })
}

/// What the checkpoint of `meta` says of itself.
pub(in crate::shell) fn header(machine: &Machine, own: MemberId, meta: &CheckpointMeta) -> Header {
    Header {
        cluster: machine.cluster().id(),
        member: own,
        index: meta.index,
        term: meta.term,
        voters: meta.voters.clone(),
        learners: meta.learners.clone(),
    }
}
