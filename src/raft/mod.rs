//! Consensus: raft-rs, told in our words.
//!
//! `node` drives raft-rs as a plain state machine: events come in as calls, effects go out as one
//! ordered `Ready`. `log` is the storage raft-rs reads: the tail of the log in memory, and what the disk
//! holds before that, read by the shell when a follower needs it (`node/catch_up`). `message` is
//! the only way bytes of another member become something raft-rs sees: its own protobuf code never
//! parses what came from outside. `conf_change`, `read_index` and `snapshot` are the three payloads
//! that travel inside.
//!
//! Invariants: applied <= handed out <= committed <= last, and handed out <= durable. Nothing that
//! promises a durable fact (a vote, an acknowledgement) leaves before that fact is durable.
//! Absent on purpose: joint consensus (etcd's API changes one member at a time), leader-lease reads
//! (a paused leader would answer from the past), and the persisted applied index (the checkpoint
//! says where the state machine stands; what follows it in the log is replayed, before raft starts or by it).
//! Compatibility: the numbers of `EntryKind` and `MessageKind` are on disk and on the wire.

mod conf_change;
mod election;
mod entry;
mod library_log;
mod log;
mod message;
mod node;
mod raft_state;
mod read_index;
mod ready;
mod recovery;
mod replay;
mod snapshot;
mod start_error;
mod terms;
#[cfg(test)]
pub(crate) mod tests;

pub use conf_change::{ConfChange, ConfChangeKind, ConfChangeUndecodable};
pub use election::mix;
pub use entry::{Entry, EntryKind, HardState};
pub use library_log::{LogLevel, LogSink};
pub use log::Retention;
pub use message::{Message, MessageError, MessageKind};
pub use node::{ConfChangeRefused, Config, Fetch, Node, ProposeError, ReadIndexError, Status, StepError};
pub use raft_state::RaftState;
pub use ready::{Leadership, ReadState, Ready};
pub use recovery::Recovered;
pub use replay::{Replay, Replayed};
pub use snapshot::CheckpointMeta;
pub use start_error::StartError;
