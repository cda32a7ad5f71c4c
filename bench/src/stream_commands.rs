//! `watch` and `lease` on the command line: each scenario of streams against any endpoint.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::call;
use crate::cli::{self, AnyError, Cpus};
use crate::client::{Endpoint, Plan};
use crate::fanout::{FanOut, Pace};
use crate::findings::Findings;
use crate::host::Host;
use crate::lease::{Expiry, KeepAlive};
use crate::report;
use crate::stage::Timing;
use crate::subject::{Pid, Subject};
use crate::watch::{self, Bench, CatchUp, SidePuts};
use crate::watchers::{Scope, Shape};
use crate::workload::{Fill, Load, Space};

const KEY_BYTES: usize = 32;
/// How long a question beside the load may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Scenarios of watchers.
#[derive(Debug, Subcommand)]
pub(crate) enum WatchCommand {
    /// One writer, many watchers: events a second, and from a put to each event
    #[command(
        after_help = "Without --rate the writer keeps --in-flight puts on their way, and a put has arrived \
        when its last watcher has it: the rate that the server keeps up. With --rate puts are due on a fixed \
        schedule. Every response is checked: its watch id, and that a watcher's revisions only grow; every event \
        must come exactly once."
    )]
    FanOut {
        #[command(flatten)]
        target: StreamTarget,
        #[command(flatten)]
        shape: ShapeArgs,
        /// What the watchers watch
        #[arg(long, value_enum, default_value = "one-key")]
        scope: Scope,
        /// Puts that have not reached all their watchers, at most
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        in_flight: u32,
        /// Puts a second, instead
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        rate: Option<u64>,
        /// Keys that are put when a prefix is watched
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        keys: u64,
        /// Bytes of a value, at least 8
        #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=65_536))]
        value_bytes: u32,
    },
    /// Watchers of distinct keys to which nothing happens: the server's memory for each, given its --server-pid
    Idle {
        #[command(flatten)]
        target: StreamTarget,
        #[command(flatten)]
        shape: ShapeArgs,
    },
    /// Puts at a fixed rate, without and with watchers of all keys that have stopped reading
    Slow {
        #[command(flatten)]
        target: StreamTarget,
        #[command(flatten)]
        shape: ShapeArgs,
        #[command(flatten)]
        puts: SidePutArgs,
    },
    /// Watchers of all keys that start in the past, while puts go on
    CatchUp {
        #[command(flatten)]
        target: StreamTarget,
        /// Watchers, each on a stream of its own
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        watchers: u32,
        /// Connections of the watchers
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        connections: u32,
        /// Puts to write first, which the watchers then ask for
        #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
        history: u64,
        /// How long the last watcher may take
        #[arg(long, default_value = "60s", value_parser = cli::parse_duration)]
        limit: Duration,
        #[command(flatten)]
        puts: SidePutArgs,
    },
}

/// Scenarios of leases.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Renew leases as fast as the server answers (for grants: `run lease-grant`)
    KeepAlive {
        #[command(flatten)]
        target: StreamTarget,
        /// Leases to renew in turn
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        leases: u32,
        /// Streams over all connections
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        streams: u32,
        /// TCP connections
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
        connections: u32,
        /// Keep-alives in flight on each stream
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        in_flight: u32,
    },
    /// Many leases with a key each, renewed together and left to die, while puts go on
    #[command(
        after_help = "The lag counts from the arrival of a lease's keep-alive reply plus its TTL to the \
        arrival of its key's delete on a watch. A delete within TTL of the keep-alive's *sending* is an early \
        expiry and a failure."
    )]
    Expiry {
        #[command(flatten)]
        target: StreamTarget,
        /// Leases that die together
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        leases: u32,
        /// TTL in seconds: longer than granting and attaching takes
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(i64).range(2..=100_000))]
        ttl: i64,
        /// How long after its time the last key may go
        #[arg(long, default_value = "60s", value_parser = cli::parse_duration)]
        limit: Duration,
        #[command(flatten)]
        puts: SidePutArgs,
    },
}

/// Where, how long, and what to look at.
#[derive(Debug, Args)]
pub(crate) struct StreamTarget {
    /// Where the server listens (plain text HTTP/2)
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// The server's process, if it runs here: its CPU and memory are figures then
    #[arg(long)]
    server_pid: Option<u32>,
    /// How long to measure
    #[arg(long, default_value = "5s", value_parser = cli::parse_window)]
    duration: Duration,
    /// How long to load the server before measuring
    #[arg(long, default_value = "1s", value_parser = cli::parse_duration)]
    warmup: Duration,
    /// Cores: the first for puts that go on beside, the next for streams (default: not pinned)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pin: Cpus,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How watchers are spread.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ShapeArgs {
    /// Watchers over all streams
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    watchers: u32,
    /// Streams over all connections (default: one a watcher, at most 1000)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    streams: Option<u32>,
    /// TCP connections (default: one a stream, at most 10)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: Option<u32>,
}

/// Puts that go on beside.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct SidePutArgs {
    /// Puts a second
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: u64,
    /// Keys that are put
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    value_bytes: u32,
}

impl SidePutArgs {
    fn puts(self) -> SidePuts {
        let value_bytes = usize::try_from(self.value_bytes).expect("32 bits fit");
        SidePuts {
            rate_per_s: self.rate,
            space: Space { keys: self.keys, key_bytes: KEY_BYTES, value_bytes },
        }
    }
}

impl ShapeArgs {
    fn shape(self, scope: Scope) -> Result<Shape, String> {
        let count = |count: u32| usize::try_from(count).expect("32 bits fit");
        Shape::new(count(self.watchers), self.streams.map(count), self.connections.map(count), scope)
    }
}

/// What `--json` writes.
#[derive(Debug, Serialize)]
struct StreamReport<'a> {
    host: &'a Host,
    scenario: &'a str,
    findings: &'a Findings,
}

impl StreamTarget {
    fn subject(&self) -> Result<Subject, AnyError> {
        let pid = self.server_pid.map(Pid);
        if let Some(Err(error)) = pid.map(Pid::cpu_time) {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "there is no such process".to_owned(),
                _ => error.to_string(),
            };
            return Err(format!("--server-pid {}: {reason}", self.server_pid.unwrap_or_default()).into());
        }
        Ok(Subject { endpoint: Endpoint::parse(&self.endpoint)?, pid })
    }

    fn bench(&self) -> Bench {
        Bench { pin: self.pin.0.clone(), seed: self.seed }
    }

    fn timing(&self) -> Timing {
        Timing { warmup: self.warmup, duration: Some(self.duration) }
    }

    fn tell(&self, scenario: &str, findings: &Findings) -> Result<bool, AnyError> {
        let host = Host::read(&std::env::current_dir()?);
        print!("{}{scenario}\n{}", host.lines(), findings.table());
        if let Some(path) = &self.json {
            report::save_json(path, &StreamReport { host: &host, scenario, findings })?;
        }
        Ok(findings.is_clean())
    }
}

/// Runs one. False when something was not as it must be.
pub(crate) fn run_watch(command: WatchCommand) -> Result<bool, AnyError> {
    match command {
        WatchCommand::FanOut { target, shape, scope, in_flight, rate, keys, value_bytes } => {
            let pace = match rate {
                Some(rate) => Pace::Rate(rate),
                None => Pace::InFlight(usize::try_from(in_flight)?),
            };
            let value_bytes = usize::try_from(value_bytes)?;
            let (shape, seed, drain) = (shape.shape(scope)?, target.seed, FanOut::DRAIN);
            let fan_out = FanOut { shape, pace, keys, value_bytes, seed, drain };
            let core = target.bench().streams_core();
            let findings = fan_out.run(&target.subject()?, core, target.timing())?;
            target.tell(&fan_out.to_string(), &findings)
        }
        WatchCommand::Idle { target, shape } => {
            let shape = shape.shape(Scope::DistinctKeys)?;
            let findings = watch::idle(&shape, &target.subject()?, &target.bench())?;
            let unseen =
                if target.server_pid.is_none() { "; memory is not seen without --server-pid" } else { "" };
            target.tell(&format!("idle: {shape}{unseen}"), &findings)
        }
        WatchCommand::Slow { target, shape, puts } => {
            let (shape, puts) = (shape.shape(Scope::Prefix)?, puts.puts());
            let findings = watch::slow(&shape, &puts, &target.subject()?, &target.bench(), target.timing())?;
            target.tell(&format!("slow readers: {shape}; {puts}"), &findings)
        }
        WatchCommand::CatchUp { target, watchers, connections, history, limit, puts } => {
            let (watchers, connections) = (usize::try_from(watchers)?, usize::try_from(connections)?);
            let catch_up = CatchUp { shape: watch::one_a_stream(watchers, connections.min(watchers)), limit };
            let (puts, subject) = (puts.puts(), target.subject()?);
            let findings =
                catch_up_after(&catch_up, history, &puts, &subject, &target.bench(), target.timing())?;
            target.tell(&format!("{catch_up}; {history} puts to catch up with; {puts}"), &findings)
        }
    }
}

/// Writes a history of single puts and lets watchers catch up with it.
pub(crate) fn catch_up_after(
    catch_up: &CatchUp,
    history: u64,
    puts: &SidePuts,
    subject: &Subject,
    bench: &Bench,
    timing: Timing,
) -> Result<Findings, AnyError> {
    let base = call::revision(&subject.endpoint, CALL_TIMEOUT)?;
    let order = Fill { batch: 1, is_shuffled: true };
    let plan = Plan {
        endpoints: vec![subject.endpoint.clone()],
        connections: 16,
        in_flight: 32,
        rate_per_s: None,
        warmup: Duration::ZERO,
        duration: None,
        cutoff: None,
        deadline: CALL_TIMEOUT,
        threads: 1,
        pin: bench.pin.clone(),
        is_spinning: false,
        keeps_timeline: false,
        seed: bench.seed,
        space: Space { keys: history, ..puts.space.clone() },
        load: Load::Fill(order),
    };
    cli::fill(&plan, order)?;
    Ok(catch_up.run(base, puts, subject, bench, timing)?)
}

/// Runs one. False when something was not as it must be.
pub(crate) fn run_lease(command: LeaseCommand) -> Result<bool, AnyError> {
    match command {
        LeaseCommand::KeepAlive { target, leases, streams, connections, in_flight } => {
            let keep_alive = KeepAlive {
                leases: usize::try_from(leases)?,
                streams: usize::try_from(streams)?,
                connections: usize::try_from(connections.min(streams))?,
                in_flight: usize::try_from(in_flight)?,
            };
            let findings = keep_alive.run(&target.subject()?, &target.bench(), target.timing())?;
            target.tell(&keep_alive.to_string(), &findings)
        }
        LeaseCommand::Expiry { target, leases, ttl, limit, puts } => {
            let expiry = Expiry { leases: usize::try_from(leases)?, ttl_s: ttl, limit };
            let puts = puts.puts();
            let findings = expiry.run(&puts, &target.subject()?, &target.bench(), target.timing())?;
            target.tell(&format!("{expiry}; {puts}"), &findings)
        }
    }
}
