//! When a member stands for leader because the leader's process has ended.
//!
//! Every follower hears of the end by its own connection, some milliseconds apart. Who stands first is refused by one
//! that has not heard yet: to that one a leader seems to live. Raft would ask again after an election timeout, so the
//! member stands a few times as long as it knows of no leader. An attempt starts no election by itself: it asks first
//! whether it could win (pre-vote), so others are left alone by one that could not.
//!
//! Deterministic: time and seed are the caller's.

use crate::raft::mix;

/// The most that members stagger their candidacies: without it they would all ask each other at once and split the vote.
const SPREAD_US: u64 = 60_000;

/// Between two attempts, beside the spread: time for an election with its syncs.
const PAUSE_US: u64 = 100_000;

/// After so many the election timeout has its turn.
const ATTEMPTS: u64 = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct Candidacy {
    seed: u64,
    attempts: u64,
    /// When to stand next, in microseconds since any fixed moment.
    due_us: Option<u64>,
}

impl Candidacy {
    /// The leader's process has ended. Returns in how many microseconds to stand.
    pub fn begin(&mut self, now_us: u64, seed: u64) -> u64 {
        *self = Self { seed, attempts: 0, due_us: None };
        self.schedule(now_us, 0)
    }

    /// A leader is known.
    pub fn end(&mut self) {
        self.due_us = None;
    }

    /// Whether the member is to stand, now or later.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.due_us.is_some()
    }

    #[must_use]
    pub fn is_due(&self, now_us: u64) -> bool {
        self.due_us.is_some_and(|due| due <= now_us)
    }

    /// The member stands. Returns in how many microseconds to stand again, unless it was the last attempt or a leader is
    /// known by then.
    ///
    /// # Panics
    /// If it is not due.
    pub fn stand(&mut self, now_us: u64) -> Option<u64> {
        assert!(self.is_due(now_us), "a member stands when that is due");
        self.due_us = None;
        self.attempts += 1;
        (self.attempts < ATTEMPTS).then(|| self.schedule(now_us, PAUSE_US))
    }

    fn schedule(&mut self, now_us: u64, pause_us: u64) -> u64 {
        let delay_us = pause_us + mix(self.seed ^ mix(self.attempts)) % SPREAD_US;
        self.due_us = Some(now_us + delay_us);
        delay_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_stands_a_few_times_further_and_further_apart_from_others_and_then_leaves_it_to_the_timeout() {
        let attempts = |seed| {
            let mut candidacy = Candidacy::default();
            let mut at = 1_000;
            at += candidacy.begin(at, seed);
            let mut attempts = vec![at];
            loop {
                assert!(!candidacy.is_due(at - 1) && candidacy.is_due(at));
                let Some(delay) = candidacy.stand(at) else { break };
                at += delay;
                attempts.push(at);
            }
            assert!(!candidacy.is_due(u64::MAX));
            attempts
        };
        let first = attempts(1);
        assert_eq!(first.len() as u64, ATTEMPTS);
        assert!(first[0] < 1_000 + SPREAD_US);
        assert!(first.windows(2).all(|two| PAUSE_US <= two[1] - two[0]));
        assert!(first[3] < 1_000 + ATTEMPTS * (PAUSE_US + SPREAD_US));
        assert_ne!(first, attempts(2), "members with different seeds stand apart");
    }

    #[test]
    fn whoever_knows_a_leader_does_not_stand() {
        let mut candidacy = Candidacy::default();
        assert!(!candidacy.is_due(u64::MAX));
        let delay = candidacy.begin(0, 7);
        candidacy.end();
        assert!(!candidacy.is_due(delay));
        let delay = candidacy.begin(0, 7);
        assert!(candidacy.stand(delay).is_some(), "and one that loses the next leader begins anew");
    }
}
