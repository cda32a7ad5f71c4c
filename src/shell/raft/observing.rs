//! The raft role's answer to a scrape, and how it asks the other members how far away they are.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::RaftRole;
use crate::metrics::{Count, Histogram, Name, Report};
use crate::shell::peer::CallError;
use crate::shell::runtime::scrape::Scrape;

/// A call between members that says nothing: how long its answer takes is what is asked. Members that do not
/// know it say so as fast.
pub(super) const CALL_PING: u32 = 64;

/// How often every other member is asked.
const PING_INTERVAL: Duration = Duration::from_secs(4);

/// How long an answer may take.
const PING_PATIENCE: Duration = Duration::from_secs(3);

impl RaftRole {
    /// Asks the other members how far away they are, from time to time.
    pub(super) fn ping_if_due(&mut self) {
        let ticks = PING_INTERVAL.as_nanos() / self.settings.tick.as_nanos().max(1);
        if u128::from(self.ticks - self.observed.pinged_tick) < ticks {
            return;
        }
        self.observed.pinged_tick = self.ticks;
        let listed = self.transport.listed();
        self.observed.round_trips.borrow_mut().retain(|member, _| listed.contains(member));
        for member in listed {
            let (transport, round_trips) =
                (Rc::clone(&self.transport), Rc::clone(&self.observed.round_trips));
            glommio::spawn_local(async move {
                let begun = Instant::now();
                let answer = transport.call(member, CALL_PING, Bytes::new(), PING_PATIENCE).await;
                if matches!(answer, Ok(_) | Err(CallError::Failed(_))) {
                    let mut round_trips = round_trips.borrow_mut();
                    let histogram =
                        round_trips.entry(member).or_insert_with(|| Histogram::new(Name::PeerRoundTrip));
                    histogram.observe(begun.elapsed().as_secs_f64());
                }
            })
            .detach();
        }
    }

    pub(super) fn answer_scrapes(&mut self) {
        while let Some(scrape) = self.ports.scrapes.take() {
            let report = self.report(&scrape);
            scrape.answer(report);
        }
    }

    fn report(&self, scrape: &Scrape) -> Report {
        let mut report =
            self.ports.scrapes.begin_report(scrape, self.ports.inbox.iter().map(|ring| ring.len()));
        let (own, observed) = (self.replica.id(), &self.observed);
        report.flag(Name::HasLeader, [], self.facts.leader.is_some());
        report.flag(Name::IsLeader, [], self.facts.leader == Some(own));
        report.flag(Name::IsLearner, [], self.facts.is_learner);
        report.count(Name::LeaderChanges, [], observed.leader_changes.get());
        report.count(Name::HeartbeatFailures, [], observed.late_heartbeats.get());
        report.count(Name::ReadIndexesFailed, [], observed.failed_reads.get());
        report.count(Name::SlowReadIndexes, [], self.replica.read_retries());
        report.count(Name::Committed, [], self.replica.status().committed.0);
        report.count(Name::Memory, ["log".into()], self.replica.node().unapplied_bytes() as u64);
        report.histogram(Name::Commit, [], &observed.commit);
        if report.is_brief() {
            return report;
        }
        self.transport.report(&mut report);
        if self.facts.leader == Some(own) {
            let node = self.replica.node();
            let last = node.matched(own).unwrap_or_default();
            for follower in self.transport.listed() {
                if let Some(matched) = node.matched(follower) {
                    let lag = last.0.saturating_sub(matched.0);
                    report.count(Name::FollowerLag, [follower.to_string().into()], lag);
                }
            }
        }
        let local = own.to_string();
        for member in self.transport.listed() {
            let remote = member.to_string();
            let times = observed.disconnected.get(&member).map_or(0, Count::get);
            report.count(Name::DisconnectedPeers, [local.clone().into(), remote.clone().into()], times);
            if let Some(histogram) = observed.round_trips.borrow().get(&member) {
                report.histogram(Name::PeerRoundTrip, [remote.clone().into()], histogram);
            }
            if let Some([failed, arrived]) = observed.checkpoints_sent.get(&member) {
                report.count(Name::SnapshotSendFailures, [remote.clone().into()], failed.get());
                report.count(Name::SnapshotSendSuccess, [remote.into()], arrived.get());
            }
        }
        report
    }
}
