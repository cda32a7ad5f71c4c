//! What went to and came from each member, and what did not.

use super::Transport;
use crate::metrics::{Name, Report};
use crate::types::MemberId;

/// Of one member, since this process started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// Messages that could not be sent.
    pub send_failures: u64,
    /// Connections that ended by a fault.
    pub receive_failures: u64,
}

impl Transport {
    /// Counts for `member`, if it is one that is listed: a stranger may call itself anything.
    pub(super) fn count_traffic(&self, member: MemberId, count: impl FnOnce(&mut Traffic)) {
        let is_known = self.peers.borrow().contains_key(&member);
        let mut traffic = self.traffic.borrow_mut();
        if is_known || traffic.contains_key(&member) {
            count(traffic.entry(member).or_default());
        }
    }

    /// What is known of every other member.
    pub(in crate::shell) fn report(&self, report: &mut Report) {
        let mut traffic = self.traffic.borrow().clone();
        for (member, connection) in self.open.borrow().values() {
            let (sent, received) = connection.traffic();
            let of_member = traffic.entry(*member).or_default();
            of_member.sent_bytes += sent;
            of_member.received_bytes += received;
        }
        let local = self.config.member.to_string();
        for (member, peer) in &*self.peers.borrow() {
            let remote = member.to_string();
            let is_up = peer.up_since().is_some() || self.way_to(peer, crate::peer::Lane::Control).is_some();
            report.flag(Name::ActivePeers, [local.clone().into(), remote.clone().into()], is_up);
            report.flag(Name::KnownPeers, [local.clone().into(), remote.clone().into()], true);
            let traffic = traffic.get(member).copied().unwrap_or_default();
            report.count(Name::PeerSent, [remote.clone().into()], traffic.sent_bytes);
            report.count(Name::PeerReceived, [remote.clone().into()], traffic.received_bytes);
            report.count(Name::PeerSendFailures, [remote.clone().into()], traffic.send_failures);
            report.count(Name::PeerReceiveFailures, [remote.into()], traffic.receive_failures);
        }
    }

    /// All other members that are listed.
    pub(in crate::shell) fn listed(&self) -> Vec<MemberId> {
        self.peers.borrow().keys().copied().collect()
    }
}
