//! What the raft role counts.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use crate::metrics::{Count, Histogram, Name};
use crate::types::{LogIndex, MemberId};

/// How long other members took to answer, each.
pub(super) type RoundTrips = Rc<RefCell<BTreeMap<MemberId, Histogram>>>;

/// See the module.
pub(super) struct Observed {
    /// Entries that this leader has handed to its log and that are not committed: the last of each turn, and when.
    under_way: VecDeque<(LogIndex, Instant)>,
    pub(super) commit: Histogram,
    /// The last leader that was heard of.
    leader: Option<MemberId>,
    pub(super) leader_changes: Count,
    pub(super) late_heartbeats: Count,
    pub(super) failed_reads: Count,
    pub(super) disconnected: BTreeMap<MemberId, Count>,
    pub(super) checkpoints_sent: BTreeMap<MemberId, [Count; 2]>,
    pub(super) round_trips: RoundTrips,
    pub(super) pinged_tick: u64,
}

/// Turns that are timed at once; those beyond are left out.
const UNDER_WAY_MAX: usize = 1024;

impl Observed {
    pub(super) fn new() -> Self {
        Self {
            under_way: VecDeque::new(),
            commit: Histogram::new(Name::Commit),
            leader: None,
            leader_changes: Count::default(),
            late_heartbeats: Count::default(),
            failed_reads: Count::default(),
            disconnected: BTreeMap::new(),
            checkpoints_sent: BTreeMap::new(),
            round_trips: RoundTrips::default(),
            pinged_tick: 0,
        }
    }

    /// This leader hands entries up to `last` to its log.
    pub(super) fn on_appended(&mut self, last: LogIndex) {
        if self.under_way.len() < UNDER_WAY_MAX {
            self.under_way.push_back((last, Instant::now()));
        }
    }

    /// Everything up to `committed` is committed.
    pub(super) fn on_committed(&mut self, committed: LogIndex) {
        if self.under_way.front().is_none_or(|(last, _)| committed < *last) {
            return;
        }
        let now = Instant::now();
        while let Some((_, begun)) = self.under_way.pop_front_if(|(last, _)| *last <= committed) {
            self.commit.observe(now.duration_since(begun).as_secs_f64());
        }
    }

    /// This member does not lead any more: others decide what becomes of its entries.
    pub(super) fn stop_leading(&mut self) {
        self.under_way.clear();
    }

    pub(super) fn on_leader(&mut self, leader: Option<MemberId>) {
        let Some(leader) = leader else { return };
        // The first that is heard of is news as well, as in etcd.
        if self.leader != Some(leader) {
            self.leader_changes.increment();
        }
        self.leader = Some(leader);
    }

    pub(super) fn on_disconnected(&mut self, member: MemberId) {
        self.disconnected.entry(member).or_default().increment();
    }

    pub(super) fn on_checkpoint_sent(&mut self, member: MemberId, arrived: bool) {
        self.checkpoints_sent.entry(member).or_default()[usize::from(arrived)].increment();
    }
}
