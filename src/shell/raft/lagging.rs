//! Members that fall behind, as the raft role sees it: what the log keeps for them and reads for them, and
//! what this member takes over from a leader.

use super::RaftRole;
use crate::raft::CheckpointMeta;
use crate::replica::exchange::ToStore;
use crate::shell::log::keeping::Keep;
use crate::shell::log::writer::LogCommand;
use crate::shell::raft::checkpoint_transfer::Arrived;
use crate::types::LogIndex;

impl RaftRole {
    /// A checkpoint of this member is durable.
    pub(super) fn on_checkpointed(&mut self, meta: CheckpointMeta, bytes: u64) {
        // Raft first: what a follower needs that gets this one is behind it.
        let through = meta.index.0;
        self.replica.on_checkpoint(meta);
        self.kept.checkpoint_bytes = bytes;
        self.release_log(through);
    }

    /// Lets the log go up to a checkpoint, save what others may need.
    pub(super) fn release_log(&mut self, through: u64) {
        self.kept.through = through;
        self.kept.keep = self.to_keep();
        self.parts.log.send(LogCommand::Release { through, keep: self.kept.keep });
    }

    /// Followers come, go on and go.
    pub(super) fn keep_log(&mut self) {
        let keep = self.to_keep();
        if keep != self.kept.keep && 0 < self.kept.through {
            self.release_log(self.kept.through);
        }
    }

    fn to_keep(&self) -> Keep {
        let node = self.replica.node();
        let status = node.status();
        let has_followers = 1 < status.voters_count + status.learners_count;
        if !has_followers {
            return Keep::default();
        }
        // Who has all that the checkpoint covers needs nothing that could go.
        let held_after =
            node.log_needed_after(self.kept.patience()).filter(|after| *after < node.checkpoint().index);
        Keep::new(self.kept.entries, held_after.map(|LogIndex(after)| after), self.kept.checkpoint_bytes)
    }

    /// Has read what followers need and memory does not hold.
    pub(super) fn fetch(&mut self) {
        while let Some(fetch) = self.replica.node_mut().take_fetch() {
            self.parts.log_reader.send(fetch);
        }
    }

    /// Gives raft what was read.
    pub(super) fn take_fetched(&mut self) {
        while let Some(fetched) = self.parts.log_reader.take() {
            self.replica.node_mut().on_fetched(fetched.number, fetched.entries);
        }
    }

    /// A leader's checkpoint takes the place of state and log; returns its index. Of this member's requests
    /// that are inside nobody heard the outcome.
    pub(super) fn install(&mut self, meta: CheckpointMeta) -> u64 {
        let Arrived { machine } = self.transfers.take_arrived(&meta);
        tracing::info!(index = meta.index.0, term = meta.term.0, "installing the leader's checkpoint");
        let (own, incarnation) = (self.replica.id(), self.replica.incarnation());
        self.replica.on_installed(machine.sessions().last_number(own, incarnation));
        // What this member published may be in the checkpoint, where nobody sees it being applied.
        self.published_tick = None;
        self.parts.log.send(LogCommand::Reset { after: meta.index.0, after_term: meta.term.0 });
        let index = meta.index.0;
        self.ports.to_store.send_always(ToStore::Install { meta, machine });
        index
    }
}
