//! Stand-in until checkpoints travel.
use super::peer::{BulkReader, Transport};
use crate::apply::Machine;
use crate::raft::{self, CheckpointMeta};
use crate::types::{LogIndex, MemberId};
pub(super) struct Arrived {
    pub machine: Box<Machine>,
}
pub(super) struct Sent {
    pub peer: MemberId,
    pub arrived: bool,
    pub message: Option<raft::Message>,
}
pub(super) struct Transfers;
impl Transfers {
    pub(super) fn has_event(&self) -> bool {
        false
    }
    pub(super) fn on_checkpoint(&mut self, _index: LogIndex) {}
    pub(super) fn receive(&mut self, _reader: BulkReader) {}
    pub(super) fn take_sent(&mut self) -> Option<Sent> {
        None
    }
    pub(super) fn has_arrived(&self, _meta: &CheckpointMeta) -> bool {
        false
    }
    pub(super) fn take_arrived(&mut self, _meta: &CheckpointMeta) -> Arrived {
        todo!()
    }
    pub(super) fn send(&mut self, _transport: &Transport, _message: raft::Message) {}
}
