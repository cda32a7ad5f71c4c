//! Requests that took long, and the part of the way on which they did.
//!
//! Times are those of the shard's clock, which is read once a tick: a request costs two copies of a number, and what
//! is told is exact to a tick.

use std::sync::Arc;
use std::time::Instant;

use super::leadership::Wait;
use crate::request::{Command, Query, RequestKind};
use crate::shell::client::overview::{Overview, SlowRequest};
use crate::shell::net::quiet::Quiet;

/// The kind of a request, by which lines are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Write(RequestKind),
    Member,
    Read(&'static str),
}

impl What {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::Propose { kind, .. } => Self::Write(*kind),
            Command::Member(_) => Self::Member,
            Command::AppendStats => Self::Read("stats"),
            Command::Read(read) => Self::of_query(&read.query),
        }
    }

    fn of_query(query: &Query) -> Self {
        Self::Read(match query {
            Query::Range(_) | Query::RangeSlice(_) => "Range",
            Query::Txn(_) => "Txn",
            Query::HashKv(_) | Query::HashCompacted => "HashKV",
            Query::Hash => "Hash",
            Query::Snapshot => "Snapshot",
            Query::MemberList | Query::Membership => "MemberList",
            Query::Status => "Status",
            Query::ClusterVersion => "Downgrade",
            Query::Alarms { .. } => "Alarm",
            Query::LeaseKeepAlive(_) => "LeaseKeepAlive",
            Query::LeaseTimeToLive(_) => "LeaseTimeToLive",
            Query::LeaseLeases => "LeaseLeases",
            Query::AuthStatus => "AuthStatus",
            Query::UserGet(_) => "UserGet",
            Query::UserList => "UserList",
            Query::RoleGet(_) => "RoleGet",
            Query::RoleList => "RoleList",
            Query::PasswordOf(_) => "Authenticate",
            Query::Node(_) | Query::NodeTallies => "v2",
            Query::Token(_) | Query::Permit(_) => "who calls",
            Query::NotOlder(later) => return Self::of_query(&later.query),
        })
    }

    fn name(self) -> String {
        match self {
            Self::Write(kind) => format!("{kind:?}"),
            Self::Member => "a change of the members".to_owned(),
            Self::Read(name) => name.to_owned(),
        }
    }
}

/// When a request got how far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub what: What,
    pub arrived_ms: u64,
    pub submitted_ms: u64,
}

/// What the shard says of slow requests.
#[derive(Debug)]
pub(in crate::shell::client) struct Slow {
    after_ms: u64,
    quiet: Quiet<What>,
    /// Where whoever looks sees them.
    overview: Arc<Overview>,
}

impl Slow {
    /// Of requests that take so long, and longer.
    pub(in crate::shell::client) fn new(after_ms: u64, overview: Arc<Overview>) -> Self {
        Self { after_ms, quiet: Quiet::default(), overview }
    }

    pub(super) fn is_slow(&self, pace: &Pace, now_ms: u64) -> bool {
        self.after_ms <= now_ms - pace.arrived_ms
    }

    /// Says so, once in a while for each kind.
    #[cold]
    pub(super) fn tell(&self, pace: &Pace, wait: Wait, now_ms: u64, response_bytes: Option<usize>) {
        let Some(left_out) = self.quiet.ask(pace.what, Instant::now()) else { return };
        let waited_for = match wait {
            Wait::Write => "the log: a sync on a quorum, and what was to be applied before",
            Wait::Read => "the store, and a linearizable one for a quorum's word before",
            Wait::Lease => "the leader's word",
            Wait::NotOlder => "the store, until that has applied the revision of pinion-not-older-than",
        };
        self.overview.note_slow(SlowRequest {
            name: pace.what.name(),
            took_ms: now_ms - pace.arrived_ms,
            queued_ms: pace.submitted_ms - pace.arrived_ms,
            waited_for,
        });
        tracing::warn!(
            request = pace.what.name(),
            took_ms = now_ms - pace.arrived_ms,
            in_its_connections_queue_ms = pace.submitted_ms - pace.arrived_ms,
            in_the_member_ms = now_ms - pace.submitted_ms,
            waited_for,
            response_bytes,
            left_out,
            "slow request"
        );
    }
}
