//! Stand-in until the transport is there.
use crate::raft;
use crate::types::MemberId;
pub(super) enum PeerEvent {
    Message(raft::Message),
    Up(MemberId),
    Down { member: MemberId, reset: bool },
    Unreachable(MemberId),
    Other(Other),
}
pub(super) struct Other;
pub(super) struct Transport;
impl Transport {
    pub(super) fn set_peers(&self, _peers: impl Iterator<Item = (MemberId, Vec<String>)>) {}
    pub(super) fn set_removed(&self, _ids: impl Iterator<Item = MemberId>) {}
    pub(super) fn send(&self, _message: raft::Message) {}
    pub(super) fn take_event(&self) -> Option<PeerEvent> {
        None
    }
    pub(super) fn has_event(&self) -> bool {
        false
    }
    pub(super) fn is_in_touch(&self, _member: MemberId) -> bool {
        true
    }
    pub(super) fn stop(&self) {}
}
