//! What a node asks of its shell.

use super::entry::{Entry, HardState};
use super::message::Message;
use super::raft_state::RaftState;
use super::snapshot::CheckpointMeta;
use crate::types::{LogIndex, MemberId, Term};

/// Work for the shell, in the order the shell does it.
///
/// Several may be in flight: take the next one whenever there is one, and report each that
/// `must_sync` with `Node::on_durable` in the order of their numbers.
#[must_use = "dropping a Ready loses entries the node counts on"]
#[derive(Debug)]
pub struct Ready {
    /// Names this one to `Node::on_durable`.
    pub number: u64,
    /// 1. Send now. They promise nothing that is not durable already: the node itself keeps back the
    ///    votes and acknowledgements that depend on a sync, and hands them out in a later `Ready`
    ///    once `on_durable` has said that the sync is done.
    pub messages: Vec<Message>,
    /// 2. Make this checkpoint, whose content was fetched before its message was stepped, the state
    ///    machine's, and let the log on disk start anew after it: recovery must not see an older
    ///    entry. Reporting the number durable says that this is done too.
    pub checkpoint: Option<CheckpointMeta>,
    /// 3. Append, in this order, entries and hard state,
    pub entries: Vec<Entry>,
    ///    so that a torn tail cannot leave a commit index past the log's end.
    pub hard_state: Option<HardState>,
    /// 4. Then one sync. Not set when 2 and 3 are empty; such a number is never reported. A commit
    ///    index that moved alone is no reason to write: it is recomputed after a crash, so it waits
    ///    for the next `Ready` that syncs anyway.
    pub must_sync: bool,
    /// 5. Apply, in index order. All of them are durable here and on a quorum.
    pub committed: Vec<Entry>,
    /// Rounds of `Node::read_index` that are confirmed.
    pub read_states: Vec<ReadState>,
    /// Who leads, when that changed.
    pub leadership: Option<Leadership>,
}

/// A ReadIndex round is confirmed: whoever has applied `index` knows everything that was
/// acknowledged anywhere in the cluster before the round began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    pub round: u64,
    pub index: LogIndex,
}

/// Who leads, as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leadership {
    pub state: RaftState,
    pub term: Term,
    pub leader: Option<MemberId>,
}
