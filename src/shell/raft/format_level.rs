//! The raft role's part in the format gate: what members say they read, for the gate to decide by.

use super::RaftRole;
use crate::types::FormatLevel;

impl RaftRole {
    /// The state machine has applied this level. From now on members are refused that do not read it.
    pub(super) fn on_format_level(&mut self, level: FormatLevel) {
        self.format_gate.on_applied(level);
        self.replica.on_format_level(level);
        self.transport.set_format_level(level);
    }

    /// Raises the cluster's level, if this member leads and all others read the next one.
    pub(super) fn raise_format_level(&mut self) {
        let (Some(cluster), transport) = (&self.cluster, &self.transport) else { return };
        let told = self.format_gate.on_tick(&mut self.replica, cluster, |member| transport.reads(member));
        if let Some(held_back) = told {
            tracing::info!(
                member = %held_back.member,
                reads = held_back.reads.map(|level| level.0),
                needed = held_back.needed.0,
                needs = held_back.needed.releases(),
                "the cluster's format level is not raised before this member is connected and runs such a release, \
                 without a lower --format-level-max"
            );
        }
    }
}
