//! The leader's part of leases: it answers keep-alives, and asks the log for what has come due.
//!
//! Joins `expiry` with the requests on their way. The shell tells it the time and what was applied,
//! takes proposals as long as there are any, and gives the answers it hands out to their callers.
//!
//! Bounded: what one round through the log revokes, so that everything else in that round waits for
//! milliseconds only (`EXPIRING_KEYS_MAX`); notes in one request; keep-alives that wait.
//! Invariants: at most one `LeaseCheckpoint` is on its way, so notes reach the log in the order in
//! which they were made; a lease is in at most one `LeaseExpire` on its way; a request that went
//! nowhere is made again, not before the next tick.

use std::collections::BTreeMap;

use super::{Change, Expiry, Renewal, Table};
use crate::pb::peer;
use crate::types::{LeaseId, LogIndex, Term, Ticket};

/// Leases in one `LeaseExpire`.
const EXPIRE_LEASES_MAX: usize = 512;

/// Keys and leases that all requests on their way revoke together; one lease may have more. A key
/// costs the store about a microsecond, so a round takes it some 2 ms; and 100,000 leases of one key
/// each are gone in 50 rounds.
const EXPIRING_KEYS_MAX: usize = 4_096;

/// Leases in one `LeaseCheckpoint`, about 12 bytes each.
const NOTES_MAX: usize = 4_096;

/// Timers looked at in one turn, some 50 ns each.
const TIMERS_PER_TURN: usize = 16_384;

/// Keep-alives that wait for the log.
const WAITING_MAX: usize = 100_000;

/// A request for the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposal {
    Expire(peer::LeaseExpire),
    Checkpoint(peer::LeaseCheckpoint),
}

/// What a keep-alive gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// 0: there is no such lease.
    Now { ttl_s: u64 },
    /// `Renewed`s tell later.
    Later,
    /// Too many wait.
    Refused,
}

/// The answer to a keep-alive that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub ticket: Ticket,
    pub id: LeaseId,
    /// 0: the lease is gone.
    pub ttl_s: u64,
}

#[derive(Debug)]
enum Sent {
    Expire { ids: Vec<LeaseId>, keys: usize },
    Checkpoint { ids: Vec<LeaseId> },
}

/// See the module.
#[derive(Debug, Default)]
pub struct Keeper {
    /// The term in which this member leads and has applied what earlier leaders logged.
    term: Option<Term>,
    expiry: Expiry,
    waiting: BTreeMap<LeaseId, Vec<Ticket>>,
    waiting_count: usize,
    sent: BTreeMap<u64, Sent>,
    /// Never used twice while the process lives.
    next_number: u64,
    expiring_keys: usize,
    is_noting: bool,
    /// A request was refused: nothing is proposed before the next tick.
    is_paused: bool,
    /// Nothing is asked to expire.
    is_held: bool,
    /// The last look at the wheel did not come to its end.
    is_behind: bool,
}

impl Keeper {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The term in which it leads, if it does.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    /// Whether time must be told.
    #[must_use]
    pub fn needs_ticks(&self) -> bool {
        !self.expiry.is_empty()
    }

    /// This member leads, and has applied the first entry of its term: the table holds everything
    /// that earlier leaders logged.
    pub fn lead(&mut self, now_ms: u64, term: Term, table: &Table, extend_ms: u64) {
        assert!(self.term.is_none_or(|before| before < term), "{term:?} after {:?}", self.term);
        assert!(self.waiting.is_empty(), "whoever waited for an earlier term was told");
        self.expiry.become_leader(now_ms, table, extend_ms);
        self.term = Some(term);
        // What was sent in an earlier term comes to nothing or was applied by now.
        self.sent.clear();
        (self.expiring_keys, self.is_noting) = (0, false);
        (self.is_paused, self.is_behind) = (false, false);
    }

    /// Another member leads, or none. Returns the keep-alives that will get no answer here.
    pub fn step_down(&mut self) -> Vec<(LeaseId, Ticket)> {
        self.term = None;
        self.expiry.step_down();
        self.sent.clear();
        self.waiting_count = 0;
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        waiting.flat_map(|(id, tickets)| tickets.into_iter().map(move |ticket| (id, ticket))).collect()
    }

    /// The table changed. Call it for each change of each entry of the present term, in order.
    pub fn on_change(&mut self, now_ms: u64, change: Change, answers: &mut Vec<Renewed>) {
        if self.term.is_none() {
            return;
        }
        self.expiry.on_change(now_ms, change);
        match change {
            Change::Granted { .. } => {}
            Change::Revoked { id } => self.release(id, 0, answers),
            Change::RemainingSet { id, remaining_s: 0 } => {
                // Whoever waits, waits for this, or for the end of a lease that was due before.
                if let Some(ttl_s) = self.expiry.ttl_s_of_live(id) {
                    self.release(id, ttl_s, answers);
                }
            }
            Change::RemainingSet { .. } => {}
        }
    }

    fn release(&mut self, id: LeaseId, ttl_s: u64, answers: &mut Vec<Renewed>) {
        for ticket in self.waiting.remove(&id).into_iter().flatten() {
            self.waiting_count -= 1;
            answers.push(Renewed { ticket, id, ttl_s });
        }
    }

    /// A keep-alive came, and this member was the leader after it came. `None` if it leads no more.
    pub fn keep_alive(&mut self, now_ms: u64, id: LeaseId, ticket: Ticket) -> Option<KeepAlive> {
        self.term?;
        Some(match self.expiry.renew(id, now_ms) {
            Renewal::Unknown => KeepAlive::Now { ttl_s: 0 },
            Renewal::Renewed { ttl_s } => KeepAlive::Now { ttl_s },
            Renewal::Due | Renewal::MustLog if self.waiting_count == WAITING_MAX => KeepAlive::Refused,
            Renewal::Due | Renewal::MustLog => {
                self.waiting.entry(id).or_default().push(ticket);
                self.waiting_count += 1;
                KeepAlive::Later
            }
        })
    }

    /// Whether leases may not expire for now. What comes due meanwhile stays due.
    pub fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    /// Time passed.
    pub fn on_tick(&mut self) {
        self.is_paused = false;
        self.is_behind = true;
    }

    /// The next request for the log, with a number by which `on_applied` and `on_refused` name it. Call
    /// it until there is none, after ticks and after what was applied. `table` is as of `applied`.
    pub fn propose(&mut self, now_ms: u64, table: &Table, applied: LogIndex) -> Option<(u64, Proposal)> {
        let term = self.term?.0;
        if std::mem::take(&mut self.is_behind) {
            self.is_behind = self.expiry.advance(now_ms, TIMERS_PER_TURN);
        }
        if self.is_paused {
            return None;
        }
        let through = applied.0;
        if !self.is_noting {
            let leases = self.expiry.take_notes(now_ms, NOTES_MAX);
            if !leases.is_empty() {
                self.is_noting = true;
                let ids = leases.iter().map(|lease| LeaseId(lease.id)).collect();
                let number = self.send(Sent::Checkpoint { ids });
                return Some((number, Proposal::Checkpoint(peer::LeaseCheckpoint { term, leases, through })));
            }
        }
        if self.is_held { None } else { self.propose_expire(term, table, through) }
    }

    fn propose_expire(&mut self, term: u64, table: &Table, through: u64) -> Option<(u64, Proposal)> {
        let (mut ids, mut keys) = (Vec::new(), 0);
        while ids.len() < EXPIRE_LEASES_MAX && self.expiring_keys + keys < EXPIRING_KEYS_MAX {
            let Some(id) = self.expiry.take_due() else { break };
            let lease = table.get(id).expect("the expiry holds the table's leases");
            keys += 1 + lease.keys().len();
            ids.push(id);
        }
        if ids.is_empty() {
            return None;
        }
        self.expiring_keys += keys;
        let raw = ids.iter().map(|id| id.0).collect();
        let number = self.send(Sent::Expire { ids, keys });
        Some((number, Proposal::Expire(peer::LeaseExpire { term, ids: raw, through })))
    }

    fn send(&mut self, sent: Sent) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.sent.insert(number, sent);
        number
    }

    /// Whether another turn is wanted at once.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.term.is_some() && self.is_behind
    }

    /// The request was applied, as part of an entry of this term, and its changes told.
    pub fn on_applied(&mut self, number: u64) {
        self.on_outcome(number);
    }

    /// The request will not be applied.
    pub fn on_refused(&mut self, number: u64) {
        self.is_paused |= self.on_outcome(number);
    }

    /// Makes what the request did not do be done again. False if it is one of an earlier term.
    fn on_outcome(&mut self, number: u64) -> bool {
        match self.sent.remove(&number) {
            None => return false,
            Some(Sent::Expire { ids, keys }) => {
                self.expiring_keys -= keys;
                ids.into_iter().for_each(|id| self.expiry.put_back_due(id));
            }
            Some(Sent::Checkpoint { ids }) => {
                self.is_noting = false;
                self.expiry.on_noted(ids.into_iter());
            }
        }
        true
    }

    /// Time a lease has left; `None` if it is not there or this member does not lead.
    #[must_use]
    pub fn remaining_ms(&self, id: LeaseId, now_ms: u64) -> Option<u64> {
        self.expiry.remaining_ms(id, now_ms)
    }

    /// When a lease is due. `None`: there is none, or this member does not lead.
    #[must_use]
    pub fn due_ms(&self, id: LeaseId) -> Option<u64> {
        self.term.and_then(|_| self.expiry.remaining_ms(id, 0))
    }

    /// All leases, soonest due first; `None` if this member does not lead.
    #[must_use]
    pub fn by_remaining(&self) -> Option<Vec<LeaseId>> {
        self.term.map(|_| self.expiry.by_remaining())
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
