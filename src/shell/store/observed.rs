//! What the store role counts.

use std::time::{Duration, Instant};

use crate::apply::machine::Applied;
use crate::metrics::{Count, Histogram, Name, Report};
use crate::request::{Outcome, Query, RequestKind};

/// etcd's `--warning-apply-duration`.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Room for each kind of request by its number.
const KINDS: usize = 48;

/// What etcd calls the application of a request; kinds that it lacks have our names.
const fn operation(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Put => "Put",
        RequestKind::DeleteRange => "DeleteRange",
        RequestKind::Txn => "Txn",
        RequestKind::Compact => "Compaction",
        RequestKind::PublishMember => "ClusterMemberAttrSet",
        RequestKind::LeaseGrant => "LeaseGrant",
        RequestKind::LeaseRevoke => "LeaseRevoke",
        RequestKind::LeaseExpire => "LeaseExpire",
        RequestKind::LeaseCheckpoint => "LeaseCheckpoint",
        RequestKind::MemberUpdate => "MemberUpdate",
        RequestKind::Alarm => "Alarm",
        RequestKind::FormatLevel => "FormatLevel",
        RequestKind::Part => "Part",
        RequestKind::AuthEnable => "AuthEnable",
        RequestKind::AuthDisable => "AuthDisable",
        RequestKind::Authenticate => "Authenticate",
        RequestKind::UserAdd => "AuthUserAdd",
        RequestKind::UserDelete => "AuthUserDelete",
        RequestKind::UserChangePassword => "AuthUserChangePassword",
        RequestKind::UserGrantRole => "AuthUserGrantRole",
        RequestKind::UserRevokeRole => "AuthUserRevokeRole",
        RequestKind::RoleAdd => "AuthRoleAdd",
        RequestKind::RoleDelete => "AuthRoleDelete",
        RequestKind::RoleGrantPermission => "AuthRoleGrantPermission",
        RequestKind::RoleRevokePermission => "AuthRoleRevokePermission",
        RequestKind::NodeWrite => "NodeWrite",
        RequestKind::NodeExpire => "NodeExpire",
        RequestKind::NodeCheckpoint => "NodeCheckpoint",
    }
}

/// See the module. The clock is read once for each request: what begins, began when the last one ended.
pub(super) struct Observed {
    now: Instant,
    /// By the kind's number; of failures and of successes.
    apply: Vec<[Option<Histogram>; 2]>,
    range: [Histogram; 2],
    ranges: Count,
    txns: Count,
    slow_apply: Count,
    commit: Histogram,
    group_requests: Histogram,
    group_bytes: Histogram,
    compaction_pause: Histogram,
    compaction_total: Histogram,
    compaction_began: Option<Instant>,
    compaction_last_s: Count,
    hash: Histogram,
    hash_rev: Histogram,
    pub(super) checkpoint: Histogram,
    pub(super) checkpoint_bytes: u64,
}

impl Observed {
    pub(super) fn new() -> Self {
        Self {
            now: Instant::now(),
            apply: (0..KINDS).map(|_| [None, None]).collect(),
            range: [Histogram::new(Name::RangeDuration), Histogram::new(Name::RangeDuration)],
            ranges: Count::default(),
            txns: Count::default(),
            slow_apply: Count::default(),
            commit: Histogram::new(Name::BackendCommit),
            group_requests: Histogram::new(Name::GroupRequests),
            group_bytes: Histogram::new(Name::GroupBytes),
            compaction_pause: Histogram::new(Name::CompactionPause),
            compaction_total: Histogram::new(Name::CompactionTotal),
            compaction_began: None,
            compaction_last_s: Count::default(),
            hash: Histogram::new(Name::HashDuration),
            hash_rev: Histogram::new(Name::HashRevDuration),
            checkpoint: Histogram::new(Name::SnapSave),
            checkpoint_bytes: 0,
        }
    }

    /// Work begins that is timed.
    pub(super) fn begin(&mut self) -> Instant {
        self.now = Instant::now();
        self.now
    }

    /// Since what was timed last has ended.
    fn lap(&mut self) -> Duration {
        let begun = self.now;
        self.begin().saturating_duration_since(begun)
    }

    pub(super) fn on_applied(&mut self, kind: RequestKind, applied: &Applied) {
        let took = self.lap();
        self.on_took(kind, applied, took);
    }

    /// A large write was applied in slices, the first of which came after `begun`. What waited for it begins.
    pub(super) fn on_prepared(&mut self, kind: RequestKind, applied: &Applied, begun: Instant) {
        let took = self.begin().saturating_duration_since(begun);
        self.on_took(kind, applied, took);
    }

    fn on_took(&mut self, kind: RequestKind, applied: &Applied, took: Duration) {
        let is_success = !matches!(applied, Applied::Now(Err(_)));
        let histogram = self.apply[kind.number() as usize][usize::from(is_success)]
            .get_or_insert_with(|| Histogram::new(Name::ApplyDuration));
        histogram.observe(took.as_secs_f64());
        if kind == RequestKind::Txn && is_success {
            self.txns.increment();
        }
        if SLOW_APPLY <= took {
            self.slow_apply.increment();
        }
    }

    /// A group of so many requests and bytes was applied since `begun`.
    #[expect(clippy::cast_precision_loss, reason = "requests and bytes of a group, far below 2^53")]
    pub(super) fn on_group(&mut self, begun: Instant, requests: usize, bytes: usize) {
        self.commit.observe(self.now.saturating_duration_since(begun).as_secs_f64());
        self.group_requests.observe(requests as f64);
        self.group_bytes.observe(bytes as f64);
    }

    pub(super) fn on_read(&mut self, query: &Query, outcome: &Outcome) {
        match query {
            Query::Range(_) | Query::RangeSlice(_) => {
                let took = self.lap();
                self.ranges.increment();
                self.range[usize::from(outcome.is_ok())].observe(took.as_secs_f64());
            }
            _ => {}
        }
    }

    /// A list that is read in slices begins.
    pub(super) fn on_long_read(&mut self, query: &Query) {
        self.ranges.add(u64::from(matches!(query, Query::Range(_) | Query::RangeSlice(_))));
    }

    /// A slice of a compaction began at `begun`; `is_complete`: nothing is left to remove.
    pub(super) fn on_compaction_slice(&mut self, begun: Instant, is_complete: bool) {
        let now = self.begin();
        let first = *self.compaction_began.get_or_insert(begun);
        self.compaction_pause.observe(now.saturating_duration_since(begun).as_secs_f64() * 1e3);
        if is_complete {
            self.compaction_total.observe(now.saturating_duration_since(first).as_secs_f64() * 1e3);
            self.compaction_began = None;
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let last_s = since.map_or(0, |since| since.as_secs());
            self.compaction_last_s.add(last_s.saturating_sub(self.compaction_last_s.get()));
        }
    }

    pub(super) fn on_hashed(&mut self, is_of_all: bool, begun: Instant) {
        let histogram = if is_of_all { &mut self.hash } else { &mut self.hash_rev };
        histogram.observe(begun.elapsed().as_secs_f64());
    }

    /// Adds what was counted.
    pub(super) fn report(&self, report: &mut Report) {
        for (number, both) in (0..).zip(&self.apply) {
            let Some(op) = RequestKind::from_number(number).map(operation) else { continue };
            for (success, histogram) in ["false", "true"].iter().zip(both) {
                if let Some(histogram) = histogram {
                    let labels = ["v3".into(), op.into(), (*success).into()];
                    report.histogram(Name::ApplyDuration, labels, histogram);
                }
            }
        }
        for (success, histogram) in ["false", "true"].iter().zip(&self.range) {
            report.histogram(Name::RangeDuration, [(*success).into()], histogram);
        }
        report.count(Name::Ranges, [], self.ranges.get());
        report.count(Name::Txns, [], self.txns.get());
        report.count(Name::SlowApply, [], self.slow_apply.get());
        report.histogram(Name::BackendCommit, [], &self.commit);
        report.histogram(Name::GroupRequests, [], &self.group_requests);
        report.histogram(Name::GroupBytes, [], &self.group_bytes);
        report.histogram(Name::CompactionPause, [], &self.compaction_pause);
        report.histogram(Name::CompactionTotal, [], &self.compaction_total);
        report.count(Name::CompactionLast, [], self.compaction_last_s.get());
        report.histogram(Name::HashDuration, [], &self.hash);
        report.histogram(Name::HashRevDuration, [], &self.hash_rev);
        report.histogram(Name::SnapSave, [], &self.checkpoint);
        report.count(Name::CheckpointBytes, [], self.checkpoint_bytes);
    }
}
