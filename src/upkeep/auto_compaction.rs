//! Auto-compaction: the revision that is to be compacted next, and the moment for it.
//!
//! Every member watches the revisions go by, so that any of them can go on when it becomes the leader; only the
//! leader compacts. *Periodic* with retention P looks every min(P, 1 h) / 10, compacts for the first time after P,
//! then every min(P, 1 h), to the revision of P ago (or of one look more); what fails is tried again at the next
//! look. *Revision* with retention N compacts every five minutes to the current revision less N.
//!
//! Compatibility: moments and revisions are etcd 3.7's, and so is what counts as success: also "compacted already".
//! Unlike etcd, a revision that is known to be compacted is passed over without a word and without an entry in the
//! log.
//!
//! Bound: P / look + 1 revisions, as they come in: 11 up to an hour, 241 for a day.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::AutoCompaction;

const HOUR: Duration = Duration::from_secs(3_600);

/// etcd's: looks in one interval of a periodic compaction.
const LOOKS: u32 = 10;

/// etcd's, of mode `revision`.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// etcd has no least interval, and looks without a rest if the retention is a few nanoseconds.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// An outcome that has not come by then does not come. Requests are refused long before.
const OUTCOME_WAIT: Duration = Duration::from_secs(300);

/// Where the state stands at a look.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The current revision.
    pub current: i64,
    /// What is compacted already.
    pub compacted: i64,
    /// Whether this member leads.
    pub leads: bool,
}

/// What became of a compaction that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, or another was faster.
    Compacted,
    Failed,
}

/// A compaction that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub revision: i64,
    pub took: Duration,
}

/// A compaction under way.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    number: u64,
    revision: i64,
    began: Duration,
}

/// See the module. All times are since any fixed moment.
#[derive(Debug)]
pub struct AutoCompactor {
    policy: AutoCompaction,
    /// The revisions of the last looks, the oldest first.
    seen: VecDeque<i64>,
    /// Time from the last success to the next compaction: the retention at first.
    pause: Duration,
    last_success: Duration,
    under_way: Option<UnderWay>,
    last_number: u64,
    /// What mode `revision` compacted last.
    previous: i64,
}

impl AutoCompactor {
    /// Begins at `now`, with the revision of that moment.
    #[must_use]
    pub fn new(policy: AutoCompaction, now: Duration, current: i64) -> Self {
        let pause = match policy {
            AutoCompaction::Periodic(retention) => retention,
            AutoCompaction::Revision(_) => Duration::ZERO,
        };
        let seen = VecDeque::from([current]);
        Self { policy, seen, pause, last_success: now, under_way: None, last_number: 0, previous: 0 }
    }

    /// What it was made with.
    #[must_use]
    pub fn policy(&self) -> AutoCompaction {
        self.policy
    }

    /// The time from one look to the next.
    #[must_use]
    pub fn interval(&self) -> Duration {
        match self.policy {
            AutoCompaction::Periodic(retention) => (retention.min(HOUR) / LOOKS).max(INTERVAL_MIN),
            AutoCompaction::Revision(_) => REVISION_INTERVAL,
        }
    }

    /// The number and the revision of the compaction under way.
    #[must_use]
    pub fn under_way(&self) -> Option<(u64, i64)> {
        self.under_way.map(|under_way| (under_way.number, under_way.revision))
    }

    /// A look, one interval after the last. Returns the number and the revision of a compaction to begin now;
    /// `on_outcome` is told what becomes of it.
    pub fn look(&mut self, now: Duration, standing: Standing) -> Option<(u64, i64)> {
        if self.under_way.is_some_and(|under_way| under_way.began + OUTCOME_WAIT <= now) {
            self.under_way = None;
        }
        let may_begin = standing.leads && self.under_way.is_none();
        let wanted = match self.policy {
            AutoCompaction::Periodic(retention) => {
                let wanted = if may_begin { self.periodic(now, retention) } else { None };
                self.see(standing.current, retention);
                wanted
            }
            AutoCompaction::Revision(retention) => {
                let revision = standing.current.saturating_sub(retention);
                Some(revision).filter(|revision| may_begin && 0 < *revision && *revision != self.previous)
            }
        }?;
        if wanted <= standing.compacted {
            self.succeed(now, wanted);
            return None;
        }
        self.last_number += 1;
        self.under_way = Some(UnderWay { number: self.last_number, revision: wanted, began: now });
        Some((self.last_number, wanted))
    }

    /// The revision of a retention ago, if its time has come.
    fn periodic(&mut self, now: Duration, retention: Duration) -> Option<i64> {
        if now.saturating_sub(self.last_success) < self.pause {
            return None;
        }
        // The first wait is the whole retention.
        self.pause = retention.min(HOUR);
        self.seen.front().copied()
    }

    fn see(&mut self, current: i64, retention: Duration) {
        self.seen.push_back(current);
        let seen_max = retention.as_nanos() / self.interval().as_nanos() + 1;
        if seen_max < self.seen.len() as u128 {
            self.seen.pop_front();
        }
    }

    fn succeed(&mut self, now: Duration, revision: i64) {
        self.last_success = now;
        self.previous = revision;
    }

    /// What became of the compaction with this number. None: it was given up before.
    pub fn on_outcome(&mut self, now: Duration, number: u64, outcome: Outcome) -> Option<Ended> {
        let ended = self.under_way.take_if(|under_way| under_way.number == number)?;
        if outcome == Outcome::Compacted {
            self.succeed(now, ended.revision);
        }
        Some(Ended { revision: ended.revision, took: now.saturating_sub(ended.began) })
    }
}
