//! Is the client good enough to measure with? Two questions, asked against a server that does no work.
//!
//! 1. How cheap is a request? What is left of a run against `DummyServer` is the client and the loopback.
//!    If that is several times faster than the server under test, the client is not what was measured.
//! 2. Does it keep its accounts? A server that loses, refuses and empties replies by a known count must be
//!    caught with exactly that count.

use std::time::Duration;

use crate::client::{self, ClientError, Endpoint, Plan, Unobserved};
use crate::dummy::{DummyServer, Mischief};
use crate::fanout::{FanOut, Pace};
use crate::findings::Findings;
use crate::report::Figures;
use crate::stage::Timing;
use crate::subject::Subject;
use crate::watchers::{Scope, Shape};
use crate::workload::{Load, Scenario, Space};

/// An event of a 256 B value to one of 1000 watchers may cost the client this much CPU.
pub(crate) const CPU_US_PER_EVENT_MAX: f64 = 1.0;
/// A put of 256 B by 16 connections with 32 in flight may cost the client this much CPU.
pub(crate) const CPU_US_PER_REQUEST_MAX: f64 = 1.5;

/// How to ask.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub connections: usize,
    pub in_flight: usize,
    pub duration: Duration,
    pub threads: usize,
    pub pin: Vec<usize>,
    pub server_pin: Option<usize>,
}

impl Options {
    fn plan(&self, server: &DummyServer) -> Plan {
        Plan {
            endpoints: vec![Endpoint::plain(server.address)],
            connections: self.connections,
            in_flight: self.in_flight,
            rate_per_s: None,
            warmup: self.duration / 4,
            duration: Some(self.duration),
            cutoff: None,
            deadline: Duration::from_secs(5),
            threads: self.threads,
            pin: self.pin.clone(),
            is_spinning: false,
            keeps_timeline: false,
            seed: 1,
            space: Space { keys: 100_000, key_bytes: 32, value_bytes: 256 },
            load: Load::Endless { scenario: Scenario::Put, read_percent: 0, page_keys: 1 },
        }
    }
}

fn start(options: &Options, mischief: Mischief) -> Result<DummyServer, ClientError> {
    DummyServer::start(mischief, options.server_pin)
        .map_err(|source| ClientError::Io { operation: "start the dummy server", source })
}

/// The fastest that this client can go here.
pub(crate) fn ceiling(options: &Options) -> Result<Figures, ClientError> {
    let server = start(options, Mischief::default())?;
    client::run(&options.plan(&server), &mut Unobserved).map(|run| Figures::of(&run))
}

/// The fastest that this client can count events here: 1000 watchers of one key on 10 connections.
pub(crate) fn fan_out_ceiling(options: &Options) -> Result<Findings, ClientError> {
    let server = start(options, Mischief::default())?;
    let timing = Timing { warmup: options.duration / 4, duration: Some(options.duration) };
    fan_out(1000, Pace::InFlight(8)).run(&subject(&server), options.pin.first().copied(), timing)
}

fn subject(server: &DummyServer) -> Subject {
    Subject { endpoint: Endpoint::plain(server.address), pid: None }
}

fn fan_out(watchers: usize, pace: Pace) -> FanOut {
    let shape = Shape { watchers, streams: watchers, connections: 10, scope: Scope::OneKey };
    FanOut { shape, pace, keys: 1, value_bytes: 256, seed: 1, drain: Duration::from_millis(300) }
}

/// Plants each fault in every 100th event of 20,000.
fn audit_events(options: &Options) -> Result<Vec<Audit>, ClientError> {
    const EVERY: u64 = 100;
    let losing = Mischief { lost_event_every: EVERY, ..Mischief::default() };
    let repeating = Mischief { repeated_event_every: EVERY, ..Mischief::default() };
    let faults = [
        ("lost event", losing, "event not delivered"),
        ("repeated event", repeating, "revision repeated or out of order"),
    ];
    let timing = Timing { warmup: Duration::ZERO, duration: Some(Duration::from_millis(500)) };
    let mut audits = Vec::new();
    for (fault, mischief, name) in faults {
        let server = start(options, mischief)?;
        let core = options.pin.first().copied();
        let findings = fan_out(100, Pace::Rate(400)).run(&subject(&server), core, timing)?;
        let seen = findings.faults.iter().filter(|line| line.what == name).map(|line| line.count).sum();
        audits.push(Audit { fault, expected: server.planted(), seen });
    }
    Ok(audits)
}

/// One planted fault: its name, what the client must call it, how many there were and how many it saw.
#[derive(Debug)]
pub(crate) struct Audit {
    pub fault: &'static str,
    pub expected: u64,
    pub seen: u64,
}

/// Plants each fault in every 100th call of 20,000 (and event of 20,000) and compares the client's count with the truth.
pub(crate) fn audit(options: &Options) -> Result<Vec<Audit>, ClientError> {
    const CALLS: u64 = 20_000;
    const EVERY: u64 = 100;
    let silent = Mischief { silent_every: EVERY, ..Mischief::default() };
    let refusing = Mischief { unavailable_every: EVERY, ..Mischief::default() };
    let empty = Mischief { empty_every: EVERY, ..Mischief::default() };
    let faults = [
        ("no reply", silent, "no reply before the deadline"),
        ("status 14", refusing, "grpc-status 14 UNAVAILABLE"),
        ("empty reply", empty, "reply too short to be true"),
    ];
    let mut audits = Vec::new();
    for (fault, mischief, name) in faults {
        let server = start(options, mischief)?;
        let plan = Plan {
            connections: 4,
            // Few enough that calls held up by silence do not fill a connection.
            in_flight: 256,
            duration: None,
            warmup: Duration::ZERO,
            deadline: Duration::from_secs(1),
            space: Space { keys: CALLS, key_bytes: 32, value_bytes: 8 },
            load: Load::Fill(crate::workload::Fill { batch: 1, is_shuffled: true }),
            ..options.plan(&server)
        };
        let figures = Figures::of(&client::run(&plan, &mut Unobserved)?);
        let seen: u64 = figures.failures.iter().filter(|line| line.what == name).map(|line| line.count).sum();
        let others: u64 =
            figures.failures.iter().filter(|line| line.what != name).map(|line| line.count).sum();
        // A miscount of any other kind counts against the audit as well.
        audits.push(Audit { fault, expected: server.planted(), seen: seen + others + figures.unaccounted });
    }
    audits.extend(audit_events(options)?);
    Ok(audits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            connections: 4,
            in_flight: 32,
            duration: Duration::from_millis(200),
            threads: 2,
            pin: Vec::new(),
            server_pin: None,
        }
    }

    fn figures(mischief: Mischief, change: impl FnOnce(&mut Plan)) -> Figures {
        let server = start(&options(), mischief).unwrap();
        let mut plan = options().plan(&server);
        change(&mut plan);
        Figures::of(&client::run(&plan, &mut Unobserved).unwrap())
    }

    #[test]
    fn every_request_of_a_closed_loop_is_answered() {
        let figures = ceiling(&options()).unwrap();
        assert!(figures.is_clean(), "{figures:?}");
        assert_eq!(figures.replies, figures.requests_sent);
        assert!(1_000 < figures.replies, "{figures:?}");
        assert!(0.0 < figures.client_cpu_us_per_request);
    }

    #[test]
    fn planted_faults_are_counted_exactly() {
        for audit in audit(&options()).unwrap() {
            assert_eq!(audit.seen, audit.expected, "{}", audit.fault);
        }
    }

    #[test]
    fn every_event_of_a_fan_out_is_counted_once() {
        let findings = fan_out_ceiling(&options()).unwrap();
        assert!(findings.is_clean(), "{findings:?}");
        let value = |name: &str| findings.readings.iter().find(|r| r.name == name).unwrap().value;
        assert!(10_000.0 < value("events"), "{findings:?}");
        assert!(0.0 < value("put to last watcher p50") && 0.0 < value("client CPU an event"));
        assert!(value("put to event p50") <= value("put to last watcher p99"));
    }

    #[test]
    fn an_open_loop_sends_its_rate_no_more_no_less() {
        let figures = figures(Mischief::default(), |plan| {
            plan.rate_per_s = Some(2_000);
            plan.warmup = Duration::from_millis(100);
            plan.duration = Some(Duration::from_millis(400));
        });
        assert!(figures.is_clean(), "{figures:?}");
        assert_eq!(figures.requests_sent, 1_000, "0.5 s at 2000 /s");
        assert_eq!(figures.unsent, 0);
    }

    /// The server answers nothing, so the in-flight bound holds back what is due: it must be told and
    /// must be in the percentiles.
    #[test]
    fn a_server_that_cannot_keep_up_shows() {
        let figures = figures(Mischief { silent_every: 1, ..Mischief::default() }, |plan| {
            plan.rate_per_s = Some(10_000);
            plan.connections = 1;
            plan.in_flight = 10;
            plan.warmup = Duration::ZERO;
            plan.deadline = Duration::from_millis(500);
        });
        assert_eq!(figures.requests_sent, 10);
        assert_eq!(figures.unsent, 2_000 - 10);
        assert_eq!(figures.failures[0].count, 10);
        assert!((80_000.0..=130_000.0).contains(&figures.latency_us.p50), "{figures:?}");
    }

    #[test]
    fn a_lost_connection_fails_its_calls_and_is_replaced() {
        let figures = figures(Mischief { hang_up_every: 1_000, ..Mischief::default() }, |_| {});
        assert!(0 < figures.reconnects);
        assert_eq!(figures.unaccounted, 0);
        assert!(figures.failures.iter().all(|failure| failure.what == "connection lost"), "{figures:?}");
        assert!(1_000 < figures.replies, "it went on: {figures:?}");
    }

    /// The server answers what it had read before its GOAWAY: the rest is passed over, none is forgotten.
    #[test]
    fn a_goaway_drains_the_connection_and_opens_another() {
        let figures = figures(Mischief { goaway_every: 1_000, ..Mischief::default() }, |_| {});
        assert!(0 < figures.reconnects);
        assert_eq!(figures.unaccounted, 0);
        assert!(1_000 < figures.replies, "{figures:?}");
    }

    #[test]
    fn a_fill_ends_by_itself() {
        let figures = figures(Mischief::default(), |plan| {
            plan.duration = None;
            plan.warmup = Duration::ZERO;
            plan.space.keys = 5_000;
            plan.load = Load::Fill(crate::workload::Fill { batch: 1, is_shuffled: true });
        });
        assert!(figures.is_clean(), "{figures:?}");
        assert_eq!(figures.replies, 5_000);
    }

    /// The server dies mid-run: what was in flight is counted, and neither kind of run hangs.
    #[test]
    fn a_server_that_goes_away_ends_no_run_in_silence() {
        let server = start(&options(), Mischief::default()).unwrap();
        let mut plan = options().plan(&server);
        plan.deadline = Duration::from_millis(200);
        plan.duration = Some(Duration::from_millis(600));
        let mut filling = plan.clone();
        filling.duration = None;
        filling.space.keys = u64::MAX / 2;
        filling.space.key_bytes = 64;
        filling.load = Load::Fill(crate::workload::Fill { batch: 1, is_shuffled: false });
        std::thread::scope(|scope| {
            let timed = scope.spawn(|| client::run(&plan, &mut Unobserved));
            let filled = scope.spawn(|| client::run(&filling, &mut Unobserved));
            std::thread::sleep(Duration::from_millis(300));
            drop(server);
            let figures = Figures::of(&timed.join().unwrap().unwrap());
            assert_eq!(figures.failures[0].what, "connection lost");
            assert_eq!(figures.unaccounted, 0);
            assert!(matches!(filled.join().unwrap(), Err(ClientError::Connect { .. })));
        });
    }

    #[test]
    fn nobody_there_is_an_error() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = start(&options(), Mischief::default()).unwrap();
        let mut plan = options().plan(&server);
        plan.endpoints = vec![Endpoint::plain(address)];
        assert!(matches!(client::run(&plan, &mut Unobserved), Err(ClientError::Connect { .. })));
    }
}
