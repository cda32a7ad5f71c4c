//! Who leads, as the raft role acts on it: candidacies, a disk that stalls, the hand-over before a stop, and
//! what the other roles are told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::seat::RaftNews;
use super::{HandOver, RaftRole};
use crate::replica::exchange::{ToShard, ToStore};
use crate::shell::runtime::logging::rounded;
use crate::shell::runtime::scrape::now_ns;
use crate::types::MemberId;

fn now_us() -> u64 {
    now_ns() / 1_000
}

impl RaftRole {
    /// A leader whose disk stalls commits nothing and deposes nobody, because its heartbeats need
    /// no disk. It gives way to a member whose disk works.
    ///
    /// Asked at every tick: raft forgets once in an election timeout whom it has heard of, and in that
    /// tick knows no successor.
    pub(super) fn give_way_if_stalled(&mut self) {
        if let Some((_, since)) = self.unsynced.front()
            && since + self.settings.election_ticks <= self.ticks
            && !self.replica.node().is_transferring()
            && let Some(successor) = self.replica.node().successor()
        {
            tracing::warn!(
                ticks = self.ticks - since,
                successor = %successor,
                "the log has synced nothing for an election timeout: handing leadership over"
            );
            self.replica.node_mut().transfer_leader(successor);
        }
    }

    /// A connection is gone. The end of the leader's process is news worth acting on at once.
    pub(super) fn on_down(&mut self, member: MemberId, reset: bool) {
        self.replica.node_mut().on_unreachable(member);
        if !reset || self.facts.leader != Some(member) || self.facts.is_learner {
            return;
        }
        self.replica.node_mut().forget_leader(member);
        let seed = self.settings.entropy ^ self.ticks ^ self.replica.id().0;
        let delay = self.candidacy.begin(now_us(), seed);
        self.ring_in(delay);
        let delay = Duration::from_micros(delay);
        tracing::info!(leader = %member, delay = rounded(delay), "the leader's connection ended");
    }

    fn ring_in(&self, delay_us: u64) {
        let bell = self.ports.bell.clone();
        glommio::spawn_local(async move {
            glommio::timer::sleep(Duration::from_micros(delay_us)).await;
            bell.ring();
        })
        .detach();
    }

    pub(super) fn is_candidacy_due(&self) -> bool {
        // The clock is read in every turn only while somebody is about to stand.
        self.candidacy.is_waiting() && self.candidacy.is_due(now_us())
    }

    /// Runs for leader when that is due and nobody else leads by now.
    pub(super) fn run_if_due(&mut self) {
        if !self.is_candidacy_due() {
            return;
        }
        if self.replica.status().leader.is_some() {
            self.candidacy.end();
            return;
        }
        if let Some(delay) = self.candidacy.stand(now_us()) {
            self.ring_in(delay);
        }
        self.replica.node_mut().campaign();
    }

    pub(super) fn is_asked_to_hand_over(&self) -> bool {
        self.hand_over == HandOver::NotAsked && self.parts.orders.hand_over.load(Ordering::Acquire)
    }

    /// Gives leadership away when the process is about to end, so that nobody has to notice.
    pub(super) fn hand_over(&mut self) {
        let until = match self.hand_over {
            HandOver::Done => return,
            HandOver::NotAsked if !self.parts.orders.hand_over.load(Ordering::Acquire) => return,
            HandOver::NotAsked => self.ticks + self.settings.election_ticks,
            HandOver::Until(until) => until,
        };
        self.hand_over = HandOver::Until(until);
        match self.replica.node().successor().filter(|_| self.ticks < until) {
            Some(successor) if !self.replica.node().is_transferring() => {
                tracing::info!(successor = %successor, "handing leadership over");
                self.replica.node_mut().transfer_leader(successor);
            }
            Some(_) => {}
            // Until the new leader is known, what waits here has nowhere to go.
            None if self.facts.leader.is_none() && self.ticks < until => {}
            None => {
                self.hand_over = HandOver::Done;
                (self.on_news)(RaftNews::HandedOver);
            }
        }
    }

    /// A connection came or went.
    pub(super) fn on_touch(&mut self) {
        if self.facts.in_touch != self.is_in_touch() {
            self.tell_facts();
        }
    }

    fn is_in_touch(&self) -> bool {
        let (own, Some(cluster)) = (self.replica.id(), &self.cluster) else { return false };
        let is_connected = |member| member == own || self.transport.connected_since(member).is_some();
        match self.facts.leader {
            None => false,
            Some(leader) if leader == own => {
                let voters = || cluster.members().filter(|member| !member.learner);
                voters().count() < 2 * voters().filter(|member| is_connected(member.id)).count()
            }
            Some(leader) => is_connected(leader),
        }
    }

    /// Tells store and shards who leads.
    pub(super) fn tell_facts(&mut self) {
        self.facts.in_touch = self.is_in_touch();
        self.ports.to_store.send_always(ToStore::Leadership { facts: self.facts });
        for sender in &self.ports.to_shards {
            sender.send_always(ToShard::Facts(self.facts));
        }
    }
}
