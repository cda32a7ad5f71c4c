//! What the loss of a member costs those who write: the time until a write is accepted again.
//!
//! Small puts on a fixed schedule, in turn to the members that stay; after a second of them one member
//! is killed or frozen. The schedule goes on whatever comes of it, so a cluster that stalls is asked as
//! often as one that does not.
//!
//! The figure is from the signal to the arrival of the first OK of a put that was *sent after* it.

use std::time::Duration;

use crate::client::{ClientError, nanos};
use crate::cluster::{Cluster, ClusterError};
use crate::findings::{Faults, Findings, Unit};
use crate::http2::Method;
use crate::messages;
use crate::process::StopSignal;
use crate::schedule::Schedule;
use crate::stage;
use crate::streams::{Script, Streams};
use crate::sys::Clock;
use crate::tally::Failure;

/// Puts a second: one due every two milliseconds is as finely as the figure is read.
const RATE_PER_S: u64 = 500;
/// Puts before the blow: all of them must be accepted, or what follows means nothing.
const BEFORE: Duration = Duration::from_secs(1);
/// How long a cluster may take to accept a write again.
const PATIENCE: Duration = Duration::from_secs(20);
/// The schedule goes on so long after that: a second stall counts too.
const AFTER: Duration = Duration::from_secs(2);
/// Puts whose answers are waited for on one connection; a schedule of `PATIENCE` fits.
const OPEN_MAX: usize = 20_000;
const VALUE_BYTES: usize = 256;

/// The figure of each outage.
pub(crate) const NEXT_WRITE: &str = "next accepted write";

/// What happens to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outage {
    LeaderKilled,
    LeaderFrozen,
    FollowerKilled,
}

impl Outage {
    pub(crate) const ALL: [Self; 3] = [Self::LeaderKilled, Self::LeaderFrozen, Self::FollowerKilled];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LeaderKilled => "cluster-leader-killed",
            Self::LeaderFrozen => "cluster-leader-frozen",
            Self::FollowerKilled => "cluster-follower-killed",
        }
    }

    fn victim(self, leader: usize, members: usize) -> usize {
        if self == Self::FollowerKilled { (leader + 1) % members } else { leader }
    }

    fn signal(self) -> libc::c_int {
        if self == Self::LeaderFrozen { libc::SIGSTOP } else { libc::SIGKILL }
    }

    /// Brings the outage about and measures it, then makes the cluster whole again.
    pub(crate) fn run(self, cluster: &mut Cluster, core: Option<usize>) -> Result<Findings, ClusterError> {
        let victim = self.victim(cluster.leader, cluster.members.len());
        // On a thread of its own, which may be pinned without pinning this one for good.
        let played = std::thread::scope(|scope| {
            let player = scope.spawn(|| {
                stage::pin_to(core)?;
                self.play(cluster, victim)
            });
            player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // A frozen one goes on where it was; it must find its way back by itself.
        match self {
            Self::LeaderFrozen => {
                cluster.members[victim].signal(libc::SIGCONT)?;
                cluster.settle()?;
            }
            Self::LeaderKilled | Self::FollowerKilled => cluster.restart(victim, StopSignal::Kill)?,
        }
        Ok(played.unwrap_or_else(|error| Findings::failed(error.to_string())))
    }

    fn play(self, cluster: &Cluster, victim: usize) -> Result<Findings, ClientError> {
        let clock = Clock::start();
        let mut streams = Streams::new(clock)?;
        let mut lanes = 0;
        for (slot, member) in cluster.members.iter().enumerate() {
            if slot != victim {
                lanes = streams.connect(&member.endpoint, 1, None)?.end;
            }
        }
        let start_ns = clock.now_ns();
        let blow_due_ns = start_ns + nanos(BEFORE);
        let mut schedule = Schedule::new(start_ns, u64::MAX, RATE_PER_S, 0, 1);
        let (mut ledger, mut message) = (Ledger::default(), Vec::new());
        let value = [b'x'; VALUE_BYTES];
        let mut blow_ns = None;
        let end_ns = loop {
            let now_ns = clock.now_ns();
            if blow_ns.is_none() && blow_due_ns <= now_ns {
                if ledger.accepted.len() * 10 < ledger.sent_ns.len() * 9 || !ledger.faults.is_empty() {
                    let found = format!("{} of {}", ledger.accepted.len(), ledger.sent_ns.len());
                    return Err(ClientError::Call(format!("{found} puts accepted before anything was done")));
                }
                let sent = cluster.members[victim].signal(self.signal());
                sent.map_err(|error| ClientError::Call(error.to_string()))?;
                blow_ns = Some(clock.now_ns());
            }
            if let Some(blow_ns) = blow_ns {
                let next_ns = ledger.next_accepted_ns(blow_ns);
                let until_ns = next_ns.map_or(blow_ns + nanos(PATIENCE), |next_ns| next_ns + nanos(AFTER));
                if until_ns <= now_ns {
                    break now_ns;
                }
            }
            while let Some(due_ns) = schedule.peek()
                && due_ns <= clock.now_ns()
            {
                let number = ledger.sent_ns.len();
                let lane = number % lanes;
                schedule.advance();
                if !streams.has_room(lane, OPEN_MAX) {
                    ledger.faults.add("put not sent: the connection is full", String::new);
                    continue;
                }
                message.clear();
                messages::put_put(&mut message, format!("failover/{}", number % 1000).as_bytes(), &value, 0);
                ledger.sent_ns.push(clock.now_ns());
                streams.call(lane, Method::Put, &message, number as u64);
            }
            streams.turn(schedule.peek(), &mut ledger)?;
        };
        Ok(ledger.findings(blow_ns.expect("the loop ends after the blow"), end_ns))
    }
}

/// What came of each put.
#[derive(Debug, Default)]
struct Ledger {
    sent_ns: Vec<u64>,
    /// When each accepted put was sent, and when its answer came, in the order of the answers.
    accepted: Vec<(u64, u64)>,
    /// Statuses other than OK, which an outage may bring.
    refused: u64,
    faults: Faults,
}

impl Ledger {
    /// When the first put was accepted that was sent after `blow_ns`.
    fn next_accepted_ns(&self, blow_ns: u64) -> Option<u64> {
        self.accepted.iter().find(|(sent_ns, _)| blow_ns < *sent_ns).map(|(_, reply_ns)| *reply_ns)
    }

    /// The longest time without an accepted put, from the last one before the blow on.
    fn longest_gap_ns(&self, blow_ns: u64, end_ns: u64) -> u64 {
        let before = self.accepted.iter().rev().find(|(_, reply_ns)| *reply_ns <= blow_ns);
        let mut last_ns = before.map_or(blow_ns, |(_, reply_ns)| *reply_ns);
        let mut longest_ns = 0;
        for &(_, reply_ns) in self.accepted.iter().filter(|(_, reply_ns)| blow_ns < *reply_ns) {
            longest_ns = longest_ns.max(reply_ns - last_ns);
            last_ns = reply_ns;
        }
        longest_ns.max(end_ns.saturating_sub(last_ns))
    }

    fn findings(mut self, blow_ns: u64, end_ns: u64) -> Findings {
        let mut findings = Findings::default();
        match self.next_accepted_ns(blow_ns) {
            Some(next_ns) => findings.add(NEXT_WRITE, Unit::Time, (next_ns - blow_ns) as f64 / 1e3),
            None => self.faults.add("no write accepted", || format!("within {PATIENCE:?}")),
        }
        let gap_us = self.longest_gap_ns(blow_ns, end_ns) as f64 / 1e3;
        findings.add("longest time without one", Unit::Time, gap_us);
        findings.add("puts refused", Unit::Count, self.refused as f64);
        let unanswered = self.sent_ns.len() - self.accepted.len();
        findings.add("puts unanswered yet", Unit::Count, (unanswered as u64 - self.refused) as f64);
        findings.faults = self.faults.lines();
        findings
    }
}

impl Script for Ledger {
    fn on_message(&mut self, _tag: u64, _message: &[u8], _now_ns: u64) {}

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, now_ns: u64) {
        let slot = usize::try_from(tag).expect("tags count puts");
        match end {
            Ok(()) => self.accepted.push((self.sent_ns[slot], now_ns)),
            Err(_) => self.refused += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ledger(accepted_ms: &[(u64, u64)]) -> Ledger {
        let accepted: Vec<(u64, u64)> =
            accepted_ms.iter().map(|(sent, reply)| (sent * MS, reply * MS)).collect();
        Ledger { sent_ns: accepted.iter().map(|(sent, _)| *sent).collect(), accepted, ..Ledger::default() }
    }

    #[test]
    fn only_a_put_sent_after_the_blow_tells_that_writes_go_on() {
        // The blow is at 100: the put of 99 was on its way already, and its answer proves nothing.
        let ledger = ledger(&[(10, 11), (98, 99), (99, 101), (1200, 1250), (700, 1300), (1300, 1301)]);
        assert_eq!(ledger.next_accepted_ns(100 * MS), Some(1250 * MS));
        assert_eq!(ledger.next_accepted_ns(1300 * MS), None, "sent at the very moment");
        let findings = ledger.findings(100 * MS, 1400 * MS);
        let value = |name| findings.readings.iter().find(|r| r.name == name).unwrap().value;
        assert_eq!(value(NEXT_WRITE), 1_150_000.0);
        assert_eq!(value("longest time without one"), 1_149_000.0, "from 101 to 1250");
    }

    #[test]
    fn a_cluster_that_never_comes_back_is_a_fault_and_its_silence_is_counted() {
        let mut lost = ledger(&[(10, 11), (90, 95)]);
        lost.sent_ns.extend([200 * MS, 300 * MS]);
        lost.on_end(3, Err((Failure::Status(14), "no leader")), 400 * MS);
        let findings = lost.findings(100 * MS, 2_095 * MS);
        assert!(!findings.is_clean());
        let values: Vec<f64> = findings.readings.iter().map(|reading| reading.value).collect();
        assert_eq!(values, [2_000_000.0, 1.0, 1.0]);
    }

    #[test]
    fn the_one_that_is_hit_is_the_leader_or_is_not() {
        for leader in 0..3 {
            assert_eq!(Outage::LeaderKilled.victim(leader, 3), leader);
            assert_eq!(Outage::LeaderFrozen.victim(leader, 3), leader);
            assert_ne!(Outage::FollowerKilled.victim(leader, 3), leader);
        }
    }
}
