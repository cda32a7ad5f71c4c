//! How appends between members go, for `/v2/stats`: counts, rates, and how long each follower takes to answer.
//!
//! Bounds: `UNDER_WAY_MAX` appends a follower are timed, the oldest first; rates remember `SAMPLES_MAX` messages.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::pb::peer;
use crate::raft::{self, MessageKind};
use crate::types::{LogIndex, MemberId};

/// What one follower may have under way, and room for repetitions.
const UNDER_WAY_MAX: usize = 512;

/// Messages that a rate is of, as in etcd.
const SAMPLES_MAX: usize = 200;

/// After so long without a message the rate is 0.
const RATE_LIFE: Duration = Duration::from_secs(1);

/// The last messages of one direction.
#[derive(Debug, Default)]
struct Rate {
    count: u64,
    samples: VecDeque<(Instant, usize)>,
}

impl Rate {
    fn on_message(&mut self, now: Instant, bytes: usize) {
        self.count += 1;
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, bytes));
    }

    /// Messages and bytes a second.
    #[expect(clippy::cast_precision_loss, reason = "a few messages and their bytes, far below 2^53")]
    fn rates(&self, now: Instant) -> (f64, f64) {
        let (Some((first, _)), Some((last, _))) = (self.samples.front(), self.samples.back()) else {
            return (0.0, 0.0);
        };
        let seconds = last.duration_since(*first).as_secs_f64();
        if RATE_LIFE < now.duration_since(*last) || seconds <= 0.0 {
            return (0.0, 0.0);
        }
        let bytes: usize = self.samples.iter().map(|(_, bytes)| bytes).sum();
        (self.samples.len() as f64 / seconds, bytes as f64 / seconds)
    }
}

/// A follower's answers.
#[derive(Debug, Default)]
struct Follower {
    /// Appends without an answer: the last entry of each, and when it left.
    under_way: VecDeque<(LogIndex, Instant)>,
    fail: u64,
    success: u64,
    current_ms: f64,
    sum_ms: f64,
    sum_of_squares: f64,
    minimum_ms: f64,
    maximum_ms: f64,
}

impl Follower {
    fn on_answer(&mut self, index: LogIndex, now: Instant) {
        // An answer is for everything up to its entry.
        let mut oldest = None;
        while let Some((_, sent)) = self.under_way.pop_front_if(|(last, _)| *last <= index) {
            oldest = oldest.or(Some(sent));
        }
        let Some(sent) = oldest else { return };
        let ms = now.duration_since(sent).as_secs_f64() * 1_000.0;
        self.minimum_ms = if self.success == 0 { ms } else { self.minimum_ms.min(ms) };
        self.maximum_ms = self.maximum_ms.max(ms);
        self.success += 1;
        self.current_ms = ms;
        self.sum_ms += ms;
        self.sum_of_squares += ms * ms;
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of answers, far below 2^53")]
    fn stats(&self, member: MemberId) -> peer::FollowerStats {
        let count = self.success.max(1) as f64;
        let average_ms = self.sum_ms / count;
        peer::FollowerStats {
            member: member.0,
            success: self.success,
            fail: self.fail,
            current_ms: self.current_ms,
            average_ms,
            deviation_ms: (self.sum_of_squares / count - average_ms * average_ms).max(0.0).sqrt(),
            minimum_ms: self.minimum_ms,
            maximum_ms: self.maximum_ms,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Appends {
    sent: Rate,
    received: Rate,
    followers: BTreeMap<MemberId, Follower>,
}

impl Appends {
    /// A message has left, or could not.
    pub(super) fn on_sent(&mut self, message: &raft::Message, is_sent: bool) {
        if message.kind() != MessageKind::Append {
            return;
        }
        let follower = self.followers.entry(message.to()).or_default();
        if !is_sent {
            follower.fail += 1;
            return;
        }
        let now = Instant::now();
        self.sent.on_message(now, message.encoded_bytes());
        if follower.under_way.len() < UNDER_WAY_MAX {
            follower.under_way.push_back((message.last_index(), now));
        }
    }

    /// A message has come.
    pub(super) fn on_received(&mut self, message: &raft::Message) {
        match message.kind() {
            MessageKind::Append => self.received.on_message(Instant::now(), message.encoded_bytes()),
            MessageKind::AppendResponse => {
                if let Some(follower) = self.followers.get_mut(&message.from()) {
                    follower.on_answer(message.last_index(), Instant::now());
                }
            }
            _ => {}
        }
    }

    /// Another member leads, or none.
    pub(super) fn stop_leading(&mut self) {
        self.followers.clear();
    }

    /// `pinion.peer.v1.AppendStats`.
    pub(super) fn stats(&self) -> Vec<u8> {
        let now = Instant::now();
        let (sent_per_s, sent_bytes_per_s) = self.sent.rates(now);
        let (received_per_s, received_bytes_per_s) = self.received.rates(now);
        let stats = peer::AppendStats {
            sent: self.sent.count,
            received: self.received.count,
            sent_per_s,
            sent_bytes_per_s,
            received_per_s,
            received_bytes_per_s,
            followers: self.followers.iter().map(|(&member, follower)| follower.stats(member)).collect(),
        };
        stats.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_for_all_appends_up_to_its_entry_and_timed_from_the_oldest() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut follower = Follower::default();
        for (index, ms) in [(1, 0), (2, 5), (3, 10)] {
            follower.under_way.push_back((LogIndex(index), at(ms)));
        }
        follower.on_answer(LogIndex(2), at(20));
        follower.on_answer(LogIndex(2), at(25));
        follower.on_answer(LogIndex(3), at(20));
        let stats = follower.stats(MemberId(7));
        assert_eq!((stats.success, stats.fail), (2, 0));
        assert_eq!((stats.minimum_ms, stats.maximum_ms, stats.average_ms), (10.0, 20.0, 15.0));
        assert_eq!((stats.current_ms, stats.deviation_ms), (10.0, 5.0));
    }

    #[test]
    fn a_rate_is_of_the_last_messages_and_ends_with_them() {
        let begin = Instant::now();
        let at = |ms: u64| begin + Duration::from_millis(ms);
        let mut rate = Rate::default();
        assert_eq!(rate.rates(at(0)), (0.0, 0.0));
        for ms in 0..=1_000 {
            rate.on_message(at(ms), 10);
        }
        let (messages, bytes) = rate.rates(at(1_000));
        assert!(
            (1_000.0..1_010.0).contains(&messages) && (10_000.0..10_100.0).contains(&bytes),
            "{messages}"
        );
        assert_eq!((rate.rates(at(2_001)), rate.count), ((0.0, 0.0), 1_001));
    }
}
