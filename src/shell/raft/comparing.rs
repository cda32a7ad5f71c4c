//! Comparisons of this member's data with the others', as the raft role carries them on.

use std::sync::atomic::Ordering;

use prost::Message as _;

use super::RaftRole;
use super::hash_checks::{self, Occasion};
use super::seat::RaftNews;
use crate::apply::{Alarm, AlarmType};
use crate::replica::exchange::ToStore;
use crate::request::{Login, Read, RequestKind};
use crate::types::{Caller, MemberId};

impl RaftRole {
    pub(super) fn has_to_compare(&self) -> bool {
        let is_ordered = self.parts.orders.compare.load(Ordering::Acquire);
        self.checks.has_work() || (self.checks.may_start() && is_ordered)
    }

    /// Carries comparisons of data on: begins them, gives their reads to the store, acts on what they find.
    pub(super) fn compare_data(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let own = self.replica.id();
        let leads = self.facts.leader == Some(own);
        let others = || cluster.members().map(|member| member.id).filter(|id| *id != own).collect();
        // One that is under way goes first; this one is asked for again.
        if self.parts.orders.compare.load(Ordering::Acquire) && self.checks.may_start() {
            self.parts.orders.compare.store(false, Ordering::Release);
            self.checks.start(Occasion::Start, own, others());
        }
        if let Some(occasion) = self.checks.take_due().filter(|_| leads) {
            self.checks.start(occasion, own, others());
        }
        while let Some(asked) = self.checks.take_asked() {
            let (ticket, read) = (asked.ticket, Read::new(asked.linearizable, asked.query));
            if !read.linearizable {
                self.ports.to_store.send_always(ToStore::Read { ticket, read });
            } else if let Err((read, refusal)) = self.replica.on_read((ticket, read)) {
                self.refuse(read.0, refusal);
            }
        }
        if let Some((occasion, found)) = self.checks.take_found() {
            let verdict = hash_checks::report(occasion, own, &found);
            if occasion == Occasion::Start {
                (self.on_news)(RaftNews::Compared(verdict));
            } else if let Ok(findings) = found {
                findings.suspects().into_iter().for_each(|member| self.raise_corrupt(member));
            }
        }
    }

    fn raise_corrupt(&mut self, member: MemberId) {
        let request = Alarm { kind: AlarmType::Corrupt, member }.activation();
        let login = Login::of_member(self.format_gate.level());
        let proposed = self.replica.on_request(
            Caller::Nobody.into(),
            RequestKind::Alarm,
            request.encode_to_vec().into(),
            login.as_ref(),
        );
        if let Err(refusal) = proposed {
            tracing::error!(%member, ?refusal, "the CORRUPT alarm could not be raised; the next check tries again");
        }
    }
}
