//! The raft role's part in the format gate: what members say they read, for the gate to decide by, and what clients
//! ask that the level does not allow.

use super::RaftRole;
use crate::request::{Command, Refusal, RequestKind};
use crate::types::{FormatLevel, Ticket};

/// Requests that wait for a level.
const WAITING_MAX: usize = 1_000;

/// Heartbeats that a request waits: two seconds by default. A cluster that has just begun raises its level within
/// a few; one that is being updated may take a day.
const PATIENCE_TICKS: u64 = 20;

impl RaftRole {
    /// The state machine has applied this level. From now on members are refused that do not read it.
    pub(super) fn on_format_level(&mut self, level: FormatLevel) {
        self.format_gate.on_applied(level);
        self.replica.on_format_level(level);
        self.transport.set_format_level(level);
        for (ticket, command, since) in std::mem::take(&mut self.waiting_for_level) {
            match &command {
                Command::Propose { kind, .. } if !self.allows(*kind) => {
                    self.waiting_for_level.push_back((ticket, command, since));
                }
                _ => self.on_command(ticket, command),
            }
        }
    }

    /// Whether a request of this kind may be written now.
    pub(super) fn allows(&self, kind: RequestKind) -> bool {
        kind.feature().is_none_or(|feature| self.format_gate.level().allows(feature))
    }

    /// Keeps a request until the level allows it, for a while.
    pub(super) fn wait_for_level(&mut self, ticket: Ticket, command: Command) {
        if WAITING_MAX <= self.waiting_for_level.len() {
            return self.refuse(ticket, Refusal::TooManyRequests);
        }
        self.waiting_for_level.push_back((ticket, command, self.ticks));
    }

    /// Raises the cluster's level, if this member leads and all others read the next one.
    pub(super) fn raise_format_level(&mut self) {
        let given_up = self.ticks.saturating_sub(PATIENCE_TICKS);
        while let Some((ticket, _, _)) =
            self.waiting_for_level.pop_front_if(|(_, _, since)| *since < given_up)
        {
            tracing::warn!(
                level = self.format_gate.level().0,
                "a request was refused that some member of the cluster does not know yet: update all members, and \
                 start none with a lower --format-level-max"
            );
            self.refuse(ticket, Refusal::NotCapable);
        }
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
