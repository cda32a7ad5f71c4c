//! Linearizable reads until they may be answered.
//!
//! A read must reflect everything that was acknowledged before it arrived, by any member. So it asks
//! the leader for an index: the leader takes its commit index and lets a quorum confirm that it
//! still leads (ReadIndex). Whoever has applied that index may answer.
//!
//! *Sharing.* One round at a time. Reads that arrive while it runs wait for the next round: the one
//! that runs took its index before they arrived. So the cost of a round is shared by all reads of a
//! round trip, whatever the load.
//!
//! *Retry.* A round may be lost: a message, a leader that changes, a leader that has not committed
//! an entry of its term. It is asked again under a new number after `retry_ticks`, and at once when
//! a new leader appears. A late answer to an earlier round still counts, for the reads that had
//! arrived when it was asked; so a network slower than the retry does not starve them.
//!
//! *A sole voter needs no round.* Nothing is acknowledged anywhere before this member, whose vote is
//! every quorum, has committed it; and whatever was acknowledged by this member since it started was
//! applied by it first, because it answers a request by applying it. What remains is what was
//! acknowledged before this start, or by others before they left. All of that is committed at a
//! place before the first entry of the term in which this member leads. So once that entry has been
//! handed out to the state machine, a read may follow it there at once, and before that it waits.
//!
//! *Urgent reads.* A renewal of a lease has a deadline that its client cannot move. Of the reads that are released
//! together urgent ones are the first, and they are counted apart, so that a flood of others does not shut them out.
//!
//! Invariants: a read leaves exactly once, released or refused.
//! Bounds: the caller bounds the number of reads; see `count` and `urgent_count`.

use std::collections::VecDeque;

use crate::types::LogIndex;

/// A read that waits, whatever the caller keeps for it.
#[derive(Debug)]
struct Waiting<R> {
    read: R,
    is_urgent: bool,
    arrived_tick: u64,
}

/// Reads that share a round.
#[derive(Debug)]
struct Round<R> {
    number: u64,
    /// Absent when the round is likely lost.
    asked_tick: Option<u64>,
    reads: Vec<Waiting<R>>,
}

/// Reads that know their index.
#[derive(Debug)]
struct Confirmed<R> {
    index: LogIndex,
    reads: Vec<Waiting<R>>,
}

/// All reads of a member that may not be answered yet.
#[derive(Debug)]
pub(super) struct Reads<R> {
    /// Arrived since the last round was asked.
    waiting: Vec<Waiting<R>>,
    /// Asked, not confirmed; numbers ascend.
    rounds: VecDeque<Round<R>>,
    /// Confirmed; wait for the state machine.
    confirmed: VecDeque<Confirmed<R>>,
    next_round: u64,
    count: usize,
    urgent_count: usize,
    /// Rounds that were asked while one before them was unanswered for too long.
    retries: u64,
}

impl<R> Reads<R> {
    pub(super) fn new() -> Self {
        Self {
            waiting: Vec::new(),
            rounds: VecDeque::new(),
            confirmed: VecDeque::new(),
            next_round: 1,
            count: 0,
            urgent_count: 0,
            retries: 0,
        }
    }

    /// Rounds that had to be asked again so far.
    pub(super) fn retries(&self) -> u64 {
        self.retries
    }

    /// Reads that wait, in whatever state, but for urgent ones.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Urgent reads that wait, in whatever state.
    pub(super) fn urgent_count(&self) -> usize {
        self.urgent_count
    }

    pub(super) fn push(&mut self, read: R, tick: u64) {
        self.waiting.push(Waiting { read, is_urgent: false, arrived_tick: tick });
        self.count += 1;
    }

    pub(super) fn push_urgent(&mut self, read: R, tick: u64) {
        self.waiting.push(Waiting { read, is_urgent: true, arrived_tick: tick });
        self.urgent_count += 1;
    }

    /// The number of the round to ask now, if one is due. `on_asked` or nothing must follow.
    pub(super) fn due(&self, tick: u64, retry_ticks: u64) -> Option<u64> {
        let due = match self.rounds.back() {
            None => !self.waiting.is_empty(),
            Some(last) => last.asked_tick.is_none_or(|asked| asked + retry_ticks <= tick),
        };
        due.then_some(self.next_round)
    }

    /// The due round is on its way: all that wait are part of it.
    pub(super) fn on_asked(&mut self, tick: u64) {
        self.retries += u64::from(self.rounds.back().is_some_and(|last| last.asked_tick.is_some()));
        let number = self.next_round;
        self.next_round += 1;
        let reads = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { number, asked_tick: Some(tick), reads });
    }

    /// Leadership moved: whatever was asked is lost as likely as not.
    pub(super) fn on_leader_change(&mut self) {
        if let Some(last) = self.rounds.back_mut() {
            last.asked_tick = None;
        }
    }

    /// A round is confirmed, and with it every earlier one: its index was taken later than theirs.
    pub(super) fn on_confirmed(&mut self, number: u64, index: LogIndex) {
        let mut reads = Vec::new();
        while self.rounds.front().is_some_and(|round| round.number <= number) {
            let mut round = self.rounds.pop_front().expect("it was there a line above");
            if reads.is_empty() { reads = round.reads } else { reads.append(&mut round.reads) }
        }
        if !reads.is_empty() {
            self.confirmed.push_back(Confirmed { index, reads });
        }
    }

    /// The only voter leads: what waits needs no round, only the first entry of the term.
    pub(super) fn confirm_all(&mut self, index: LogIndex) {
        let mut reads = std::mem::take(&mut self.waiting);
        for mut round in self.rounds.drain(..) {
            reads.append(&mut round.reads);
        }
        if !reads.is_empty() {
            self.confirmed.push_back(Confirmed { index, reads });
        }
    }

    /// Moves out the reads that a state machine which has applied `applied` may answer.
    pub(super) fn release(&mut self, applied: LogIndex, released: &mut Vec<R>) {
        // Indexes of different leaders need not ascend, so the whole queue is looked at; it is short.
        let may_go = |confirmed: &Confirmed<R>| confirmed.index <= applied;
        if 0 < self.urgent_count {
            for confirmed in self.confirmed.iter_mut().filter(|confirmed| may_go(confirmed)) {
                let before = released.len();
                let urgent = confirmed.reads.extract_if(.., |waiting| waiting.is_urgent);
                released.extend(urgent.map(|waiting| waiting.read));
                self.urgent_count -= released.len() - before;
            }
        }
        let count = &mut self.count;
        self.confirmed.retain_mut(|confirmed| {
            if !may_go(confirmed) {
                return true;
            }
            *count -= confirmed.reads.len();
            released.extend(confirmed.reads.drain(..).map(|waiting| waiting.read));
            false
        });
    }

    /// Moves out the reads that arrived before `tick`, in whatever state.
    pub(super) fn expire(&mut self, tick: u64, expired: &mut Vec<R>) {
        self.take_if(|waiting| waiting.arrived_tick < tick, expired);
    }

    /// Moves out the reads that are meant, in whatever state.
    pub(super) fn withdraw(&mut self, is_meant: impl Fn(&R) -> bool, withdrawn: &mut Vec<R>) {
        self.take_if(|waiting| is_meant(&waiting.read), withdrawn);
    }

    fn take_if(&mut self, mut is_meant: impl FnMut(&Waiting<R>) -> bool, taken: &mut Vec<R>) {
        let rounds = self.rounds.iter_mut().map(|round| &mut round.reads);
        let confirmed = self.confirmed.iter_mut().map(|confirmed| &mut confirmed.reads);
        let (count, urgent_count) = (&mut self.count, &mut self.urgent_count);
        for reads in rounds.chain(confirmed).chain([&mut self.waiting]) {
            for gone in reads.extract_if(.., |waiting| is_meant(waiting)) {
                *(if gone.is_urgent { &mut *urgent_count } else { &mut *count }) -= 1;
                taken.push(gone.read);
            }
        }
        self.confirmed.retain(|confirmed| !confirmed.reads.is_empty());
        if self.rounds.iter().all(|round| round.reads.is_empty()) {
            self.rounds.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY_TICKS: u64 = 5;

    fn released(reads: &mut Reads<&'static str>, applied: u64) -> Vec<&'static str> {
        let mut released = Vec::new();
        reads.release(LogIndex(applied), &mut released);
        released
    }

    fn ask(reads: &mut Reads<&'static str>, tick: u64) -> Option<u64> {
        let round = reads.due(tick, RETRY_TICKS)?;
        reads.on_asked(tick);
        Some(round)
    }

    #[test]
    fn reads_that_arrive_during_a_round_share_the_next_one() {
        let mut reads = Reads::new();
        reads.push("a", 0);
        assert_eq!(ask(&mut reads, 0), Some(1));
        reads.push("b", 0);
        reads.push("c", 1);
        assert_eq!(ask(&mut reads, 1), None, "one round at a time");
        reads.on_confirmed(1, LogIndex(10));
        assert_eq!(released(&mut reads, 10), ["a"], "b and c arrived after the index was taken");
        assert_eq!(ask(&mut reads, 1), Some(2));
        reads.on_confirmed(2, LogIndex(10));
        assert_eq!(released(&mut reads, 10), ["b", "c"]);
        assert_eq!(reads.count(), 0);
    }

    #[test]
    fn urgent_reads_are_released_before_others_that_arrived_earlier_and_are_counted_apart() {
        let mut reads = Reads::new();
        reads.push("get", 0);
        reads.push_urgent("renew", 0);
        assert_eq!(ask(&mut reads, 0), Some(1));
        reads.on_confirmed(1, LogIndex(9));
        reads.push("list", 1);
        reads.push_urgent("renew again", 1);
        assert_eq!(ask(&mut reads, 1), Some(2));
        reads.on_confirmed(2, LogIndex(10));
        reads.push_urgent("too early", 1);
        assert_eq!((reads.count(), reads.urgent_count()), (2, 3));
        assert_eq!(released(&mut reads, 9), ["renew", "get"], "no index is skipped for it");
        assert_eq!(released(&mut reads, 10), ["renew again", "list"]);
        assert_eq!((reads.count(), reads.urgent_count()), (0, 1));
        let mut withdrawn = Vec::new();
        reads.withdraw(|read| *read == "too early", &mut withdrawn);
        assert_eq!((withdrawn, reads.urgent_count()), (vec!["too early"], 0));
    }

    #[test]
    fn confirmed_read_waits_for_its_index() {
        let mut reads = Reads::new();
        reads.push("a", 0);
        ask(&mut reads, 0);
        reads.on_confirmed(1, LogIndex(10));
        assert!(released(&mut reads, 9).is_empty());
        assert_eq!(released(&mut reads, 10), ["a"]);
    }

    #[test]
    fn lost_round_is_asked_again_and_a_late_answer_to_the_first_counts_for_its_own_reads_only() {
        let mut reads = Reads::new();
        reads.push("a", 0);
        assert_eq!(ask(&mut reads, 0), Some(1));
        reads.push("b", 1);
        assert_eq!(ask(&mut reads, 4), None);
        assert_eq!(ask(&mut reads, 5), Some(2));
        reads.on_confirmed(1, LogIndex(3));
        assert_eq!(released(&mut reads, 3), ["a"]);
        reads.on_confirmed(2, LogIndex(4));
        assert_eq!(released(&mut reads, 4), ["b"]);
    }

    #[test]
    fn later_round_confirms_the_reads_of_earlier_ones() {
        let mut reads = Reads::new();
        reads.push("a", 0);
        ask(&mut reads, 0);
        reads.push("b", 1);
        reads.on_leader_change();
        assert_eq!(ask(&mut reads, 1), Some(2));
        reads.on_confirmed(2, LogIndex(4));
        assert_eq!(released(&mut reads, 4), ["a", "b"]);
    }

    #[test]
    fn expired_reads_leave_in_every_state_and_no_round_is_asked_for_nobody() {
        let mut reads = Reads::new();
        reads.push("confirmed", 0);
        ask(&mut reads, 0);
        reads.on_confirmed(1, LogIndex(9));
        reads.push("asked", 1);
        ask(&mut reads, 1);
        reads.push("waiting", 2);
        reads.push("young", 8);
        let mut expired = Vec::new();
        reads.expire(5, &mut expired);
        expired.sort_unstable();
        assert_eq!(expired, ["asked", "confirmed", "waiting"]);
        assert_eq!(reads.count(), 1);
        expired.clear();
        reads.withdraw(|read| *read == "old", &mut expired);
        assert!(expired.is_empty());
        reads.expire(9, &mut expired);
        assert_eq!(expired, ["young"]);
        assert_eq!(ask(&mut reads, 100), None);
    }
}
