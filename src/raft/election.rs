//! When a member runs for leader: the spread of election timeouts.
//!
//! raft-rs draws the timeout from the thread's random generator, so that the same seed would give
//! different runs. The node overwrites every draw with a number computed from the seed its caller
//! gives, the term, and how often it ran already. It changes with each attempt: two members that
//! tied once will not tie for ever, which a timeout fixed for the member's life could not promise.

/// Computes election timeouts. The same events give the same timeouts.
#[derive(Debug)]
pub(super) struct ElectionTimer {
    seed: u64,
    election_ticks: u64,
    /// Elections this member has started; a failed pre-vote leaves the term as it was.
    attempts: u64,
}

impl ElectionTimer {
    pub(super) fn new(seed: u64, election_ticks: usize) -> Self {
        Self { seed, election_ticks: election_ticks as u64, attempts: 0 }
    }

    pub(super) fn on_attempt(&mut self) {
        self.attempts += 1;
    }

    /// A number in `[election_ticks, 2 * election_ticks)`.
    pub(super) fn timeout_ticks(&self, term: u64) -> usize {
        let drawn = mix(self.seed ^ mix(term ^ mix(self.attempts)));
        usize::try_from(self.election_ticks + drawn % self.election_ticks).expect("it was a usize before")
    }
}

/// SplitMix64's finaliser: every input bit changes about half of the output bits.
#[must_use]
pub fn mix(input: u64) -> u64 {
    let mut word = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
