//! What the raft role starts from and keeps: each part is listed here, once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;

use super::checkpoint_transfer::Place;
use super::hash_checks::HashCheckConfig;
use crate::peer::Lives;
use crate::raft::Recovered;
use crate::replica;
use crate::shell::log::reader::ReaderHandle;
use crate::shell::log::writer::{LogEvent, LogHandle};
use crate::shell::net::KnownAddresses;
use crate::shell::net::listen::Held;
use crate::shell::peer::PeerConfig;
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::mesh::SharedRing;
use crate::shell::runtime::waiting::Waiting;
use crate::shell::store::quota::Quota;
use crate::types::{FormatLevel, LogIndex};

/// Made on the main thread, taken on the role's core.
pub(in crate::shell) struct Seat {
    pub replica: replica::Config,
    pub recovered: Recovered,
    pub peers: PeerConfig,
    /// The addresses on which other members find this one.
    /// Addresses for other members, and whether they are encrypted.
    pub held: Vec<(bool, Held)>,
    /// Where checkpoints lie.
    pub checkpoints: Place,
    /// What the newest one covers.
    pub checkpoint: LogIndex,
    pub helpers: Helpers,
    pub hash_checks: HashCheckConfig,
    pub settings: Settings,
    pub parts: Parts,
}

/// What the flags say.
#[derive(Debug, Clone, Copy)]
pub(in crate::shell) struct Settings {
    /// `--strict-reconfig-check`
    pub strict: bool,
    /// `--snapshot-catchup-entries`
    pub catch_up_entries: u64,
    /// `--max-learners`
    pub learners_max: u32,
    /// `--format-level-max`
    pub format_level_max: FormatLevel,
    /// `--heartbeat-interval`
    pub tick: Duration,
    /// Ticks without a leader before an election; a log that syncs nothing for as long costs the
    /// leadership.
    pub election_ticks: u64,
    /// Differs between members and starts.
    pub entropy: u64,
}

/// Writes a small file of the data directory, soon, on another thread.
pub(in crate::shell) type Keep<T> = Box<dyn Fn(T) + Send>;

/// What the role shares with other threads, for as long as it runs.
pub(in crate::shell) struct Parts {
    pub log: LogHandle,
    pub log_events: Arc<SharedRing<LogEvent>>,
    pub log_reader: ReaderHandle,
    /// This member's `PublishMember`.
    pub publish: Bytes,
    /// The store has applied it.
    pub is_published: Arc<AtomicBool>,
    /// Clients are let in.
    pub is_open: Arc<AtomicBool>,
    /// Told what the start waits for until then.
    pub waiting: Waiting,
    pub orders: RaftOrders,
    pub keep_lives: Keep<Lives>,
    pub keep_addresses: Keep<KnownAddresses>,
    pub quota: Arc<Quota>,
}

/// What the process tells the raft role. Each flag comes with a ring of the role's bell, and what came of
/// it is told as [`RaftNews`].
#[derive(Debug, Clone, Default)]
pub(in crate::shell) struct RaftOrders {
    /// Give leadership away, if this member has it.
    pub hand_over: Arc<AtomicBool>,
    /// Compare this member's data with the others'.
    pub compare: Arc<AtomicBool>,
    /// Close the log and end.
    pub stop: Arc<AtomicBool>,
}

/// What the raft role tells the process.
#[derive(Debug)]
pub(in crate::shell) enum RaftNews {
    /// This member's data was compared with the others': it may serve, or why not.
    Compared(Result<(), String>),
    /// Leadership is given away, or cannot be.
    HandedOver,
    /// The cluster has gone on without this member.
    Removed,
}
