//! Checkpoints in the making: when one is due, slice by slice to the thread that writes it, and its end.

use std::time::{Duration, Instant};

use super::{Checkpointing, Progress, StoreRole, checkpoint_file};
use crate::checkpoint::cadence::{LogSince, State};
use crate::checkpoint::format::Header;
use crate::raft::CheckpointMeta;
use crate::replica::exchange::ToRaft;
use crate::types::Slice;

/// Price of a KiB of checkpoint: a few records that lie in no cache, and their copying.
const CHECKPOINT_KIB_NS: u64 = 1_000;

/// How long a failed checkpoint is left alone.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);

/// Log that is worth a checkpoint when nothing else is to be done: half a second of replay at most
/// is left for a restart that follows a burst of writes.
const IDLE_CHECKPOINT_BYTES: u64 = 8 << 20;

impl StoreRole {
    pub(super) fn checkpoint(&mut self, slice: &mut Slice) -> bool {
        while let Some(event) = self.checkpoint_events.take() {
            self.on_checkpoint_event(event);
        }
        if let Some(Checkpointing { progress: Progress::Slices { checkpoint, .. }, .. }) = &self.checkpointing
            && !self.machine.store().is_settled_through(checkpoint.revision())
        {
            // It would look for the next version of each record.
            return false;
        }
        let Some(Checkpointing { header, progress }) = self.checkpointing.take() else {
            if self.is_checkpoint_due() {
                self.begin_checkpoint();
                return true;
            }
            return false;
        };
        let (progress, wants_turn) = match progress {
            Progress::Begin(checkpoint) => {
                if self.writer.begin(header.clone()) {
                    (Progress::Slices { checkpoint, waiting: None, is_last: false }, true)
                } else {
                    (Progress::Begin(checkpoint), false)
                }
            }
            Progress::Slices { mut checkpoint, waiting, is_last } => {
                let (block, is_last) = match waiting {
                    Some(block) => (block, is_last),
                    None => {
                        let kib = slice.units_left(CHECKPOINT_KIB_NS);
                        slice.spend(kib as u64 * CHECKPOINT_KIB_NS);
                        let bytes = kib << 10;
                        let mut block = Vec::with_capacity(bytes + (bytes >> 3));
                        let is_last = self.machine.checkpoint_slice(&mut checkpoint, bytes, &mut block);
                        (block, is_last)
                    }
                };
                match self.writer.block(block, self.turns.is_in_close_company()) {
                    Err(block) => (Progress::Slices { checkpoint, waiting: Some(block), is_last }, false),
                    Ok(()) if is_last => {
                        self.machine.end_checkpoint(checkpoint);
                        (Progress::Finish, true)
                    }
                    Ok(()) => (Progress::Slices { checkpoint, waiting: None, is_last }, true),
                }
            }
            Progress::Finish => {
                if self.writer.finish() {
                    (Progress::Wait, false)
                } else {
                    (Progress::Finish, false)
                }
            }
            Progress::Wait => (Progress::Wait, false),
            Progress::Abandon => {
                if self.writer.abandon() {
                    (Progress::Wait, false)
                } else {
                    (Progress::Abandon, false)
                }
            }
        };
        self.checkpointing = Some(Checkpointing { header, progress });
        wants_turn
    }

    /// See `checkpoint::cadence`.
    fn is_checkpoint_due(&self) -> bool {
        let store = self.machine.store();
        let state = State { bytes: store.bytes_in_use(), is_compacting: store.is_compacting() };
        self.cadence.is_due(self.log, state)
            && self.checkpoint_after.is_none_or(|end| end <= Instant::now())
            // A checkpoint holds all of an entry or nothing.
            && self.is_between_entries()
    }

    /// Nothing was applied for a whole tick: time for the checkpoint that is not due yet.
    pub(super) fn on_idle_tick(&mut self) {
        self.logins.on_idle_tick();
        let is_idle = self.idle_at == self.applied && self.applying.is_none();
        self.idle_at = self.applied;
        let is_worth_it =
            (self.machine.store().bytes_in_use() / 16).max(IDLE_CHECKPOINT_BYTES) <= self.log.bytes;
        if is_idle && is_worth_it && self.checkpointing.is_none() && self.checkpoint_after.is_none() {
            self.begin_checkpoint();
        }
    }

    pub(super) fn begin_checkpoint(&mut self) {
        let cluster = self.machine.cluster();
        let header = Header {
            cluster: cluster.id(),
            member: self.position.member,
            index: self.applied,
            term: self.applied_term,
            voters: cluster.voters().collect(),
            learners: cluster.learners().collect(),
        };
        tracing::debug!(index = header.index.0, "checkpoint begins");
        self.checkpoint_after = None;
        self.log = LogSince::default();
        self.checkpoint_began = Some(Instant::now());
        let progress = Progress::Begin(self.machine.begin_checkpoint());
        self.checkpointing = Some(Checkpointing { header, progress });
    }

    fn on_checkpoint_event(&mut self, event: checkpoint_file::WriterEvent) {
        self.checkpointing = None;
        match event {
            checkpoint_file::WriterEvent::Abandoned => {}
            // An installed one overtook it.
            checkpoint_file::WriterEvent::Written { header, .. } if header.index < self.installed => {}
            checkpoint_file::WriterEvent::Written { header, bytes } => {
                tracing::info!(
                    index = header.index.0,
                    bytes,
                    revision = self.machine.store().current_revision(),
                    "checkpoint written; the log before it is free"
                );
                self.checkpointed = header.index;
                self.observed.checkpoint_bytes = bytes;
                if let Some(begun) = self.checkpoint_began.take() {
                    self.observed.checkpoint.observe(begun.elapsed().as_secs_f64());
                }
                let Header { index, term, voters, learners, .. } = header;
                let meta = CheckpointMeta { index, term, voters, learners };
                self.ports.to_raft.send_always(ToRaft::Checkpointed { meta, bytes });
            }
            checkpoint_file::WriterEvent::Failed { index, error } => {
                tracing::error!(
                    index = index.0,
                    %error,
                    "checkpoint not written; nothing is lost, the log grows until one succeeds"
                );
                // Due again at once, but not before the pause.
                self.log.entries = self.log.entries.max(self.upkeep.checkpoint_entries);
                self.log.bytes = self.log.bytes.max(self.machine.store().bytes_in_use() / 2);
                self.checkpoint_after = Some(Instant::now() + CHECKPOINT_RETRY);
            }
        }
    }

    /// The state that a checkpoint is of is gone. One that the thread knows nothing of yet ends here; one it
    /// is writing is given up, and one that it has whole is harmless: it is older than the one installed.
    pub(super) fn give_up_checkpoint(&mut self) {
        self.checkpointing = match self.checkpointing.take() {
            None | Some(Checkpointing { progress: Progress::Begin(_), .. }) => None,
            Some(Checkpointing { header, progress: Progress::Slices { .. } | Progress::Abandon }) => {
                Some(Checkpointing { header, progress: Progress::Abandon })
            }
            waiting => waiting,
        };
    }
}
