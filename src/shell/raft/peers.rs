//! What other members say to the raft role: messages, calls, and news of their connections.

use super::hash_checks::CALL_HASH_KV;
use super::lease_forward::CALL_LEASE;
use super::observing::CALL_PING;
use super::{CALL_MEMBER_CHANGE, CALL_MEMBERS, RaftRole};
use crate::membership::MemberChange;
use crate::peer::{Refusal, RefusalCode};
use crate::raft;
use crate::shell::peer::{IncomingCall, PeerEvent};
use crate::shell::runtime::exit::EXIT_LOG_LOST;
use crate::shell::runtime::logging;
use crate::types::MemberId;

impl RaftRole {
    pub(super) fn take_peer_events(&mut self) {
        while let Some(event) = self.transport.take_event() {
            match event {
                PeerEvent::Message(message) => self.on_message(message),
                PeerEvent::Up(member) => {
                    tracing::debug!(%member, "peer connected");
                    self.on_touch();
                }
                PeerEvent::Reconnected(member) => self.replica.on_reconnected(member),
                PeerEvent::Down { member, reset } => {
                    self.observed.on_disconnected(member);
                    self.on_down(member, reset);
                    self.on_touch();
                }
                PeerEvent::Unreachable(member) => self.replica.node_mut().on_unreachable(member),
                PeerEvent::Refused { by, refusal } => self.on_refused(by, &refusal),
                PeerEvent::Call(call) => self.on_call(call),
                PeerEvent::Bulk(reader) => self.transfers.receive(reader),
                PeerEvent::Page(call) => self.on_page(call),
                PeerEvent::Met => (self.parts.keep_lives)(self.transport.lives()),
                PeerEvent::Resolved(known) => (self.parts.keep_addresses)(known),
            }
        }
    }

    /// Checkpoints that were sent, or were not.
    pub(super) fn take_sent_checkpoints(&mut self) {
        while let Some(sent) = self.transfers.take_sent() {
            self.observed.on_checkpoint_sent(sent.peer, sent.arrived);
            self.replica.node_mut().on_checkpoint_sent(sent.peer, sent.arrived);
            if let Some(message) = sent.message.filter(|_| sent.arrived) {
                // Raft repeats it if it has to.
                let _is_sent = self.transport.send(&message);
            }
        }
    }

    /// Another member does not want to talk to this one. One reason is final.
    fn on_refused(&mut self, by: MemberId, refusal: &Refusal) {
        match refusal.code {
            RefusalCode::Removed => self.end_as_removed(&refusal.reason),
            RefusalCode::DuplicateIdentity => tracing::error!(
                %by,
                reason = refusal.reason,
                "two processes run as one member: a data directory was copied. Stop the one that is not meant \
                 to be, and delete its data"
            ),
            _ => {}
        }
    }

    fn on_call(&mut self, call: IncomingCall) {
        match call.kind {
            CALL_MEMBER_CHANGE => match MemberChange::decode(call.body) {
                // A change is answered on the member that made it, so nobody makes one for another.
                Ok(change) if change.origin.member == call.from => {
                    self.last_follower += 1;
                    self.followers.insert(self.last_follower, call.reply);
                    self.calls.push_change(self.last_follower, change, self.ticks);
                }
                Ok(_) => call.reply.fail("a change in the name of another member"),
                Err(error) => call.reply.fail(&error.to_string()),
            },
            CALL_MEMBERS => match &self.cluster {
                Some(cluster) => call.reply.succeed(cluster.encode().into()),
                None => call.reply.fail("this member is still starting"),
            },
            CALL_PING => call.reply.succeed(call.body),
            CALL_LEASE => self.serve_leases(call),
            CALL_HASH_KV => self.checks.on_call(call),
            kind => call.reply.fail(&format!("call of kind {kind}, which this version does not know")),
        }
    }

    fn on_message(&mut self, message: raft::Message) {
        // A checkpoint's content comes first, on a lane of its own; what has none yet is asked again.
        if let Some(meta) = message.checkpoint()
            && !self.transfers.has_arrived(&meta)
        {
            tracing::debug!(index = meta.index.0, "checkpoint announced that did not arrive");
            return;
        }
        let (from, kind) = (message.from(), message.kind());
        self.appends.on_received(&message);
        if let Err(error) = self.replica.on_message(message) {
            match error {
                raft::StepError::LogLost { .. } => logging::exit(EXIT_LOG_LOST, || {
                    tracing::error!(%from, %error, "this member's log lacks what it once \
                        acknowledged; it must not take part. Remove the member from the cluster and add it again with an \
                        empty data directory")
                }),
                _ => tracing::debug!(%from, ?kind, %error, "raft message not taken"),
            }
        }
    }
}
