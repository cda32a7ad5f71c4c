//! What the raft role counts.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::metrics::{Count, Histogram};
use crate::types::MemberId;

/// How long other members took to answer, each.
pub(super) type RoundTrips = Rc<RefCell<BTreeMap<MemberId, Histogram>>>;

/// See the module.
#[derive(Default)]
pub(super) struct Observed {
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

impl Observed {
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
