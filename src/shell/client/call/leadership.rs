//! What a shard knows of the leader, and what calls are told because of it.
//!
//! A client that sets `hasleader` wants no service from a member that has lost its leader: a call is
//! refused at once, and a stream ends when there has been none for `LEADERLESS_TIMEOUTS` election
//! timeouts. A call that waited for as long as the server lets any wait is told what it waited for.
//!
//! Compatibility: etcd's texts by etcd's rules. The moments are those at which this shard heard the news,
//! and the shard's clock moves in ticks.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use crate::replica::exchange::Facts;
use crate::request::{Command, Query};
use crate::rpc::{Status, status};
use crate::shell::client::signal::Signal;
use crate::types::MemberId;

/// Election timeouts without a leader after which streams that want one end.
const LEADERLESS_TIMEOUTS: u64 = 3;

/// What a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell::client) enum Wait {
    /// A place in the log.
    Write,
    Read,
    /// The leader's word about a lease.
    Lease,
    /// A revision that the state has to reach before it is read.
    NotOlder,
}

impl Wait {
    pub(in crate::shell::client) fn of(command: &Command) -> Self {
        match command {
            Command::AppendStats => Self::Read,
            Command::Propose { .. } | Command::Member(_) => Self::Write,
            Command::Read(read) => match read.query {
                Query::LeaseKeepAlive(_) | Query::LeaseTimeToLive(_) => Self::Lease,
                Query::NotOlder(_) => Self::NotOlder,
                _ => Self::Read,
            },
        }
    }
}

/// See the module.
pub(in crate::shell::client) struct Leadership {
    election_timeout_ms: u64,
    /// What raft last said; None before it has said anything.
    facts: Cell<Option<Facts>>,
    leaderless_since_ms: Cell<Option<u64>>,
    /// When the last leader was first heard of.
    elected_ms: Cell<u64>,
    in_touch_since_ms: Cell<Option<u64>>,
    /// Streams that want a leader.
    streams: RefCell<Vec<Weak<Signal>>>,
}

impl Leadership {
    pub(in crate::shell::client) fn new(election_timeout_ms: u64) -> Self {
        Self {
            election_timeout_ms,
            facts: Cell::new(None),
            leaderless_since_ms: Cell::new(None),
            elected_ms: Cell::new(0),
            in_touch_since_ms: Cell::new(None),
            streams: RefCell::default(),
        }
    }

    pub(in crate::shell::client) fn on_facts(&self, facts: Facts, now_ms: u64) {
        let before = self.facts.replace(Some(facts));
        match facts.leader {
            None if self.leaderless_since_ms.get().is_none() => self.leaderless_since_ms.set(Some(now_ms)),
            None => {}
            Some(_) => {
                self.leaderless_since_ms.set(None);
                if before.is_none_or(|before| before.leader != facts.leader) {
                    self.elected_ms.set(now_ms);
                }
            }
        }
        // In touch with another leader is not in touch for so long.
        let is_same = before.is_some_and(|before| before.leader == facts.leader);
        if !facts.in_touch {
            self.in_touch_since_ms.set(None);
        } else if !is_same || self.in_touch_since_ms.get().is_none() {
            self.in_touch_since_ms.set(Some(now_ms));
        }
    }

    pub(in crate::shell::client) fn is_learner(&self) -> bool {
        self.facts.get().is_some_and(|facts| facts.is_learner)
    }

    /// Who leads, and since when it was heard of, by the shard's clock.
    pub(in crate::shell::client) fn leader(&self) -> Option<(MemberId, u64)> {
        let leader = self.facts.get()?.leader?;
        Some((leader, self.elected_ms.get()))
    }

    /// Whether this member knows that it knows no leader.
    pub(in crate::shell::client) fn is_leaderless(&self) -> bool {
        self.leaderless_since_ms.get().is_some()
    }

    /// A wish for a leader that lasts as long as the stream that has it.
    pub(super) fn wish(&self, needs_leader: bool) -> LeaderWish {
        if !needs_leader {
            return LeaderWish(None);
        }
        let signal = Rc::new(Signal::default());
        let mut streams = self.streams.borrow_mut();
        if streams.len().is_power_of_two() {
            streams.retain(|signal| 0 < signal.strong_count());
        }
        streams.push(Rc::downgrade(&signal));
        LeaderWish(Some(signal))
    }

    /// Ends the streams that have wanted a leader for too long.
    pub(in crate::shell::client) fn on_tick(&self, now_ms: u64) {
        let Some(since_ms) = self.leaderless_since_ms.get() else { return };
        if now_ms < since_ms + LEADERLESS_TIMEOUTS * self.election_timeout_ms {
            return;
        }
        for signal in self.streams.take() {
            if let Some(signal) = signal.upgrade() {
                signal.fire();
            }
        }
    }

    /// What a call is told that began at `start_ms` and has waited for as long as any may.
    pub(super) fn timed_out(&self, wait: Wait, start_ms: u64) -> Status {
        let leaderless_since_ms = self.leaderless_since_ms.get();
        match wait {
            Wait::Read => return status::TIMED_OUT,
            Wait::NotOlder => return status::NOT_NEW_ENOUGH,
            Wait::Lease if leaderless_since_ms.is_some() => return status::NO_LEADER,
            Wait::Lease => return status::TIMED_OUT,
            Wait::Write => {}
        }
        let Some(facts) = self.facts.get() else { return status::TIMED_OUT };
        if leaderless_since_ms.is_some_and(|since_ms| since_ms <= start_ms) {
            // It went nowhere.
            return status::CONTEXT_DEADLINE_EXCEEDED;
        }
        let elected_ms = self.elected_ms.get();
        if start_ms < elected_ms && elected_ms < start_ms + 2 * self.election_timeout_ms {
            return status::TIMED_OUT_LEADER_FAILURE;
        }
        let has_been_in_touch = self.in_touch_since_ms.get().is_some_and(|since_ms| since_ms <= start_ms);
        if facts.leader.is_some() && !has_been_in_touch {
            return status::TIMED_OUT_CONNECTION_LOST;
        }
        status::TIMED_OUT
    }
}

/// Whether a stream ends for want of a leader.
pub(super) struct LeaderWish(Option<Rc<Signal>>);

impl LeaderWish {
    pub(super) fn poll_lost(&self, cx: &mut Context<'_>) -> Poll<Status> {
        match &self.0 {
            None => Poll::Pending,
            Some(signal) => signal.poll_fired(cx).map(|()| status::NO_LEADER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogIndex, MemberId, Term};

    const ELECTION_MS: u64 = 1_000;

    fn facts(leader: Option<u64>, in_touch: bool) -> Facts {
        let leader = leader.map(MemberId);
        Facts { leader, term: Term(1), committed: LogIndex(1), is_learner: false, in_touch }
    }

    fn told(news: &[(u64, Option<u64>, bool)]) -> Leadership {
        let leadership = Leadership::new(ELECTION_MS);
        for &(now_ms, leader, in_touch) in news {
            leadership.on_facts(facts(leader, in_touch), now_ms);
        }
        leadership
    }

    #[test]
    fn a_write_that_nobody_could_take_is_told_that_its_time_is_over_and_others_what_may_have_happened() {
        let lost = told(&[(0, Some(1), true), (10_000, None, false)]);
        assert_eq!(lost.timed_out(Wait::Write, 10_000), status::CONTEXT_DEADLINE_EXCEEDED);
        assert_eq!(lost.timed_out(Wait::Write, 15_000), status::CONTEXT_DEADLINE_EXCEEDED);
        assert_eq!(lost.timed_out(Wait::Write, 9_999), status::TIMED_OUT, "a leader may have taken it");

        let moved = told(&[(0, Some(1), true), (10_000, None, false), (11_000, Some(2), true)]);
        assert_eq!(moved.timed_out(Wait::Write, 9_001), status::TIMED_OUT_LEADER_FAILURE);
        assert_eq!(moved.timed_out(Wait::Write, 10_999), status::TIMED_OUT_LEADER_FAILURE);
        assert_eq!(moved.timed_out(Wait::Write, 11_000), status::TIMED_OUT);
        assert_eq!(moved.timed_out(Wait::Write, 8_000), status::TIMED_OUT_CONNECTION_LOST);

        let cut = told(&[(0, Some(1), true), (10_000, Some(1), false)]);
        assert_eq!(cut.timed_out(Wait::Write, 12_000), status::TIMED_OUT_CONNECTION_LOST);
        let mended = told(&[(0, Some(1), true), (10_000, Some(1), false), (10_500, Some(1), true)]);
        assert_eq!(mended.timed_out(Wait::Write, 10_400), status::TIMED_OUT_CONNECTION_LOST);
        assert_eq!(mended.timed_out(Wait::Write, 10_500), status::TIMED_OUT);

        let calm = told(&[(0, Some(1), true), (5_000, Some(1), true)]);
        assert_eq!(calm.timed_out(Wait::Write, 3_000), status::TIMED_OUT);
        assert_eq!(told(&[]).timed_out(Wait::Write, 0), status::TIMED_OUT, "before raft has said anything");
    }

    #[test]
    fn reads_and_questions_about_leases_have_their_own_words() {
        let lost = told(&[(0, Some(1), true), (10_000, None, false)]);
        assert_eq!(lost.timed_out(Wait::Read, 12_000), status::TIMED_OUT);
        assert_eq!(lost.timed_out(Wait::Lease, 12_000), status::NO_LEADER);
        let led = told(&[(0, Some(1), true)]);
        assert_eq!(led.timed_out(Wait::Lease, 12_000), status::TIMED_OUT);
    }

    #[test]
    fn streams_that_want_a_leader_end_after_three_election_timeouts_without_one_in_a_row() {
        let leadership = told(&[(0, Some(1), true), (100, None, false)]);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (wanting, easy) = (leadership.wish(true), leadership.wish(false));
        leadership.on_tick(3_000);
        leadership.on_facts(facts(Some(2), true), 3_050);
        leadership.on_facts(facts(None, false), 3_060);
        leadership.on_facts(facts(None, false), 5_000);
        leadership.on_tick(6_059);
        assert!(wanting.poll_lost(&mut cx).is_pending());
        leadership.on_tick(6_060);
        assert_eq!(wanting.poll_lost(&mut cx), Poll::Ready(status::NO_LEADER));
        assert!(easy.poll_lost(&mut cx).is_pending());
    }
}
