//! The store role's clock for auto-compaction: it looks when `upkeep` wants to, proposes what comes back through
//! the log, and says what became of it in etcd's words.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::config::AutoCompaction;
use crate::pb::etcdserverpb as pb;
use crate::replica::exchange::ToRaft;
use crate::request::{Command, Login, Rejection, RequestKind};
use crate::shell::runtime::mesh::{Doorbell, Sender};
use crate::types::Caller;
use crate::upkeep::{AutoCompactor, Outcome, Standing};

/// See the module.
pub(in crate::shell) struct CompactionClock {
    compactor: AutoCompactor,
    started: Instant,
    has_ticked: Rc<Cell<bool>>,
}

impl CompactionClock {
    /// Its clock begins now.
    #[must_use]
    pub(in crate::shell) fn start(policy: AutoCompaction, current: i64, bell: Doorbell) -> Self {
        let compactor = AutoCompactor::new(policy, Duration::ZERO, current);
        let has_ticked = Rc::<Cell<bool>>::default();
        let (ticked, interval) = (Rc::clone(&has_ticked), compactor.interval());
        glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(interval).await;
                ticked.set(true);
                bell.ring();
            }
        })
        .detach();
        Self { compactor, started: Instant::now(), has_ticked }
    }

    /// Whether it wants to look: part of what the role sleeps on.
    pub(in crate::shell) fn has_ticked(&self) -> bool {
        self.has_ticked.get()
    }

    /// A turn of the role.
    pub(in crate::shell) fn turn(
        &mut self,
        standing: Standing,
        login: Option<Login>,
        to_raft: &Sender<ToRaft>,
    ) {
        if !self.has_ticked.take() {
            return;
        }
        let Some((number, revision)) = self.compactor.look(self.started.elapsed(), standing) else { return };
        match self.compactor.policy() {
            AutoCompaction::Periodic(period) => {
                tracing::info!(revision, "compact-period" = ?period, "starting auto periodic compaction");
            }
            AutoCompaction::Revision(retention) => tracing::info!(
                revision,
                "revision-compaction-retention" = retention,
                "starting auto revision compaction"
            ),
        }
        let body = pb::CompactionRequest { revision, physical: false }.encode_to_vec().into();
        let login = login.map(Arc::new);
        let command = Command::Propose { kind: RequestKind::Compact, body, login };
        to_raft.send_always(ToRaft::Command { ticket: Caller::Compaction(number).into(), command });
    }

    /// The compaction with this number was applied, rejected, or will never be.
    pub(in crate::shell) fn on_ended(&mut self, number: u64, rejection: Option<&Rejection>) {
        match rejection {
            None | Some(Rejection::Compacted { .. }) => self.end(number, Outcome::Compacted, ""),
            Some(rejection) => self.end(number, Outcome::Failed, &rejection.to_string()),
        }
    }

    /// Raft did not take it, or nobody knows what became of it.
    pub(in crate::shell) fn on_refused(&mut self, number: u64, reason: &str) {
        self.end(number, Outcome::Failed, reason);
    }

    fn end(&mut self, number: u64, outcome: Outcome, error: &str) {
        let retry = self.compactor.interval();
        let Some(ended) = self.compactor.on_outcome(self.started.elapsed(), number, outcome) else { return };
        let (revision, took) = (ended.revision, ended.took);
        match (self.compactor.policy(), outcome) {
            (AutoCompaction::Periodic(period), Outcome::Compacted) => {
                tracing::info!(revision, "compact-period" = ?period, ?took, "completed auto periodic compaction");
            }
            (AutoCompaction::Periodic(period), Outcome::Failed) => tracing::warn!(
                revision,
                "compact-period" = ?period,
                "retry-interval" = ?retry,
                error,
                "failed auto periodic compaction"
            ),
            (AutoCompaction::Revision(retention), Outcome::Compacted) => tracing::info!(
                revision,
                "revision-compaction-retention" = retention,
                ?took,
                "completed auto revision compaction"
            ),
            (AutoCompaction::Revision(retention), Outcome::Failed) => tracing::warn!(
                revision,
                "revision-compaction-retention" = retention,
                "retry-interval" = ?retry,
                error,
                "failed auto revision compaction"
            ),
        }
    }
}
