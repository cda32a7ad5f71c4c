//! The command line: what may be asked, and each command's story from options to figures.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::call;
use crate::client::{self, Endpoint, Plan};
use crate::compare::{self, CompareOptions};
use crate::directories::{self, DirectoriesOptions};
use crate::disturb::{self, DisturbOptions};
use crate::floor::{self, FloorOptions};
use crate::host::Host;
use crate::report::{self, Bar, Figures};
use crate::restart::{self, RestartOptions};
use crate::selfcheck;
use crate::stream_commands::{self, LeaseCommand, WatchCommand};
use crate::workload::{Fill, Load, Scenario, Space};

/// Any error ends a command with its text.
pub(crate) type AnyError = Box<dyn std::error::Error + Send + Sync>;

const COUNT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
#[command(
    name = "pinion-bench",
    version,
    about = "Measures any etcd v3 endpoint, and compares Pinion with etcd on the same machine",
    after_help = "Examples:\n  \
        pinion-bench self-check                        what this client can do, and whether it counts right\n  \
        pinion-bench run put --connections 16 --in-flight 32\n  \
        pinion-bench run put --rate 10000              latency at a fixed load\n  \
        pinion-bench fill --keys 1000000               load a million keys\n  \
        pinion-bench run page --keys 100000 --fill     pages of a big range\n  \
        pinion-bench watch fan-out --watchers 1000     events a second, and from a put to each event\n  \
        pinion-bench lease expiry --leases 10000       how late keys go when their leases end together\n  \
        pinion-bench compare --rounds 3                against the etcd on PATH\n\n\
        Exit status: 0 all requests answered well; 1 some failed or are missing; 2 it could not be measured."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one scenario against an endpoint
    #[command(
        after_help = "A closed loop (no --rate) keeps --connections x --in-flight requests going and shows \
        throughput; its latencies are those of a full server. An open loop (--rate) sends on a fixed schedule and \
        measures each latency from the moment the request was due, so a stall is charged for everything that waited."
    )]
    Run(RunArgs),
    /// Load --keys keys as fast as the server takes them
    Fill(FillArgs),
    /// Watchers: fan-out, idle crowds, slow readers, latecomers
    #[command(subcommand)]
    Watch(WatchCommand),
    /// Leases: keep-alives, mass expiry (grants are `run lease-grant`)
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// The v2 API: a list of a directory above many keys, long polls, puts and gets beside the JSON gateway's
    #[command(
        after_help = "The server needs --enable-v2; its data is written to below /bench, /polled and /rw. One descriptor \
        a poll is needed here and there: raise `ulimit -n`. Marks: a list's time does not depend on --keys; v2 puts and \
        gets within 130 % of the gateway's."
    )]
    Directories(DirectoriesOptions),
    /// Start etcd and Pinion in turn on the same disk and cores, run every scenario, print the ratios
    #[command(
        after_help = "Each round starts a fresh server on fresh data, etcd first in one round and Pinion first \
        in the next. Ratios are Pinion / etcd of the same round: min, median and max over the rounds. Device figures \
        count the whole block device: let nothing else write to it. Give the servers and the client different cores \
        (--server-cpus 0 --client-cpus 1) or they measure each other."
    )]
    Compare(CompareOptions),
    /// Puts at a fixed rate while something big happens: their latency over time, as figures and pictures
    #[command(
        after_help = "Starts each target on fresh data, loads --keys keys, puts --rate a second on a fixed schedule, \
        and lets each disturbance begin after --lead: what came before is \"alone\". Percentiles beside a disturbance \
        are of the requests due while it lasted. Give the server and the client different cores."
    )]
    Disturb(DisturbOptions),
    /// How long starts take, for a million keys in a checkpoint and in the log
    Restart(RestartOptions),
    /// The least that a lone put and a lone get cost on this disk and these cores: loops without a protocol
    #[command(
        after_help = "What a server takes above the loop is its own doing. `compare` holds the lone put and get of both \
        servers against the loop in which both sides sleep."
    )]
    Floor(FloorOptions),
    /// Measure this client against a server that does no work, and check its accounts
    SelfCheck(SelfCheckArgs),
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// Where the server listens (plain text HTTP/2); several members of a cluster, separated by commas, get
    /// connections in turn
    #[arg(long, default_value = "127.0.0.1:2379")]
    endpoint: String,
    /// TCP connections
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Requests in flight on each connection, at most
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: u32,
    /// Size of the key space
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a key: "bench/" and a zero-padded number
    #[arg(long, default_value_t = 32)]
    key_bytes: usize,
    /// Bytes of a value, random
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// How long a request may take before it is given up and counted as missing
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    deadline: Duration,
    /// Client threads; each has its own connections
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    threads: usize,
    /// Cores for the client threads, in turn: 1 or 0,2-3 (default: not pinned)
    #[arg(long, default_value = "", value_parser = parse_cpus)]
    pin: Cpus,
    /// Never sleep while waiting for replies: saves wake-ups, costs the whole core
    #[arg(long)]
    spin: bool,
    /// Seed of keys and values: equal seeds ask equal questions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What to ask
    #[arg(value_enum)]
    scenario: Scenario,
    #[command(flatten)]
    target: TargetArgs,
    /// Open loop: requests a second over all connections (default: closed loop)
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = parse_window)]
    duration: Duration,
    /// How long to load the server before measuring
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,
    /// Keys a page asks for
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    page_keys: u64,
    /// Share of gets in the mixed scenario
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(0..=100))]
    read_percent: u32,
    /// Load the key space first if it is not there
    #[arg(long)]
    fill: bool,
}

#[derive(Debug, Args)]
struct FillArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Puts in one transaction; 1 is plain puts (etcd's --max-txn-ops allows 128)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    batch: u64,
    /// Load keys in ascending order instead of scattered
    #[arg(long)]
    ascending: bool,
}

#[derive(Debug, Args)]
struct SelfCheckArgs {
    /// TCP connections
    #[arg(long, default_value_t = 16, value_parser = parse_count)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 32, value_parser = parse_count)]
    in_flight: usize,
    /// How long to measure
    #[arg(long, default_value = "3s", value_parser = parse_window)]
    duration: Duration,
    /// Client threads
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    threads: usize,
    /// Cores for the client threads, in turn
    #[arg(long, default_value = "", value_parser = parse_cpus)]
    pin: Cpus,
    /// Core for the dummy server
    #[arg(long)]
    server_pin: Option<usize>,
}

/// A list of cores. A type of its own, since clap would read a `Vec` as an option given many times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Cpus(pub Vec<usize>);

/// What `run --json` writes.
#[derive(Debug, Serialize)]
struct RunReport<'a> {
    host: Host,
    scenario: Scenario,
    rate_per_s: Option<u64>,
    connections: usize,
    in_flight: usize,
    space: &'a Space,
    figures: &'a Figures,
}

/// What `fill --json` writes.
#[derive(Debug, Serialize)]
struct FillReport<'a> {
    host: Host,
    space: &'a Space,
    batch: u64,
    keys_per_s: f64,
    figures: &'a Figures,
}

/// Does what the command line says. False when requests failed.
pub(crate) fn run() -> Result<bool, AnyError> {
    match Cli::parse().command {
        Command::Run(args) => run_scenario(&args),
        Command::Fill(args) => run_fill(&args),
        Command::Watch(command) => stream_commands::run_watch(command),
        Command::Lease(command) => stream_commands::run_lease(command),
        Command::Directories(options) => directories::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Disturb(options) => disturb::run(&options),
        Command::Restart(options) => restart::run(&options),
        Command::Floor(options) => floor::run(&options),
        Command::SelfCheck(args) => run_self_check(args),
    }
}

impl TargetArgs {
    fn plan(&self, load: Load) -> Result<Plan, AnyError> {
        let space = Space { keys: self.keys, key_bytes: self.key_bytes, value_bytes: self.value_bytes };
        space.validate()?;
        Ok(Plan {
            endpoints: parse_endpoints(&self.endpoint)?,
            connections: usize::try_from(self.connections)?,
            in_flight: usize::try_from(self.in_flight)?,
            rate_per_s: None,
            warmup: Duration::ZERO,
            duration: None,
            cutoff: None,
            deadline: self.deadline,
            threads: self.threads,
            pin: self.pin.0.clone(),
            is_spinning: self.spin,
            keeps_timeline: false,
            seed: self.seed,
            space,
            load,
        })
    }
}

fn run_scenario(args: &RunArgs) -> Result<bool, AnyError> {
    let load =
        Load::Endless { scenario: args.scenario, read_percent: args.read_percent, page_keys: args.page_keys };
    let plan = Plan {
        rate_per_s: args.rate,
        warmup: args.warmup,
        duration: Some(args.duration),
        ..args.target.plan(load)?
    };
    let host = Host::read(&std::env::current_dir()?);
    if args.scenario.reads() {
        let keys = call::count_keys(&plan.endpoints[0], COUNT_TIMEOUT)?;
        if keys < plan.space.keys {
            if !args.fill {
                return Err(format!(
                    "{} of {} keys are there: run `pinion-bench fill` with the same --keys first, or add --fill",
                    keys, plan.space.keys
                )
                .into());
            }
            fill(&plan, Fill { batch: 100, is_shuffled: true })?;
        }
    }
    let figures = {
        let mut bar = Bar::of_time(args.warmup + args.duration);
        Figures::of(&client::run(&plan, &mut bar)?)
    };
    print!("{}", host.lines());
    let pace = args.rate.map_or("closed loop".to_owned(), |rate| format!("{rate} /s open loop"));
    println!(
        "{}, {pace}, {} x {} in flight, {} keys of {} B, values of {} B",
        args.scenario.name(),
        plan.connections,
        plan.in_flight,
        plan.space.keys,
        plan.space.key_bytes,
        plan.space.value_bytes
    );
    print!("{}", figures.table(plan.is_spinning));
    if let Some(path) = &args.target.json {
        let report = RunReport {
            host,
            scenario: args.scenario,
            rate_per_s: args.rate,
            connections: plan.connections,
            in_flight: plan.in_flight,
            space: &plan.space,
            figures: &figures,
        };
        report::save_json(path, &report)?;
    }
    Ok(figures.is_clean())
}

fn run_fill(args: &FillArgs) -> Result<bool, AnyError> {
    let order = Fill { batch: args.batch, is_shuffled: !args.ascending };
    let plan = args.target.plan(Load::Fill(order))?;
    let host = Host::read(&std::env::current_dir()?);
    let figures = fill(&plan, order)?;
    let keys_per_s = plan.space.keys as f64 / figures.window_s;
    print!("{}", host.lines());
    println!("{} keys in {:.1} s: {} /s", plan.space.keys, figures.window_s, report::thousands(keys_per_s));
    print!("{}", figures.table(plan.is_spinning));
    if let Some(path) = &args.target.json {
        let report =
            FillReport { host, space: &plan.space, batch: args.batch, keys_per_s, figures: &figures };
        report::save_json(path, &report)?;
    }
    Ok(figures.is_clean())
}

/// Loads `plan`'s key space, with a progress bar.
pub(crate) fn fill(plan: &Plan, order: Fill) -> Result<Figures, AnyError> {
    let plan = Plan {
        rate_per_s: None,
        warmup: Duration::ZERO,
        duration: None,
        deadline: plan.deadline.max(Duration::from_secs(30)),
        load: Load::Fill(order),
        ..plan.clone()
    };
    let mut bar = Bar::of_replies(plan.space.keys.div_ceil(order.batch));
    let figures = Figures::of(&client::run(&plan, &mut bar)?);
    drop(bar);
    if !figures.is_clean() {
        return Err(format!("the fill failed:\n{}", figures.table(plan.is_spinning)).into());
    }
    Ok(figures)
}

fn run_self_check(args: SelfCheckArgs) -> Result<bool, AnyError> {
    let options = selfcheck::Options {
        connections: args.connections,
        in_flight: args.in_flight,
        duration: args.duration,
        threads: args.threads,
        pin: args.pin.0,
        server_pin: args.server_pin,
    };
    print!("{}", Host::read(&std::env::current_dir()?).lines());
    let figures = selfcheck::ceiling(&options)?;
    println!("put against a server that does no work, {} x {} in flight", args.connections, args.in_flight);
    print!("{}", figures.table(false));
    let is_cheap = figures.client_cpu_us_per_request <= selfcheck::CPU_US_PER_REQUEST_MAX;
    println!(
        "{} cost: {:.2} us CPU a request, at most {} is wanted",
        mark(is_cheap),
        figures.client_cpu_us_per_request,
        selfcheck::CPU_US_PER_REQUEST_MAX
    );
    let events = selfcheck::fan_out_ceiling(&options)?;
    println!("events of a server that does no work, to 1000 watchers");
    print!("{}", events.table());
    let cost = events.readings.iter().find(|reading| reading.name == "client CPU an event");
    let event_us = cost.map_or(f64::INFINITY, |reading| reading.value);
    let is_event_cheap = event_us <= selfcheck::CPU_US_PER_EVENT_MAX;
    println!(
        "{} cost: {event_us:.2} us CPU an event, at most {} is wanted",
        mark(is_event_cheap),
        selfcheck::CPU_US_PER_EVENT_MAX
    );
    let mut is_good = figures.is_clean() && is_cheap && events.is_clean() && is_event_cheap;
    for audit in selfcheck::audit(&options)? {
        let is_exact = audit.seen == audit.expected;
        println!(
            "{} accounts: {} planted {} times, {} seen",
            mark(is_exact),
            audit.fault,
            audit.expected,
            audit.seen
        );
        is_good &= is_exact;
    }
    Ok(is_good)
}

fn mark(is_good: bool) -> &'static str {
    if is_good { "ok  " } else { "FAIL" }
}

/// `1500ms`, `10s`, `2m`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write 500ms, 10s or 2m");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match &text[digits.len()..] {
        "ms" => value / 1e3,
        "s" => value,
        "m" => value * 60.0,
        _ => return Err(wrong()),
    };
    let is_sane = (0.0..=1e6).contains(&seconds);
    if is_sane { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// A duration in which something can be measured.
pub(crate) fn parse_window(text: &str) -> Result<Duration, String> {
    let window = parse_duration(text)?;
    if window.is_zero() { Err("nothing can be measured in no time".to_owned()) } else { Ok(window) }
}

/// A count of connections, threads or requests: one at least.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err(format!("{text:?} is not a number from 1 to 1000000")),
    }
}

/// `host:port,host:port`; one at least.
fn parse_endpoints(text: &str) -> Result<Vec<Endpoint>, AnyError> {
    Ok(text.split(',').map(|part| Endpoint::parse(part.trim())).collect::<Result<_, _>>()?)
}

/// `0,2-3`.
pub(crate) fn parse_cpus(text: &str) -> Result<Cpus, String> {
    /// The size of the kernel's fixed mask.
    const CPU_MAX: usize = 1023;
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().ok().filter(|&cpu| cpu <= CPU_MAX);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
            _ => return Err(format!("{part:?} is no core or range of cores: write 0,2-3")),
        }
    }
    Ok(Cpus(cpus))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_and_cores_are_read_or_refused() {
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("0.5s"), Ok(Duration::from_millis(500)));
        for wrong in ["", "10", "s", "-1s", "1h", "nans", "1e9s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert!(parse_window("0s").is_err() && parse_window("1ms").is_ok());
        assert!(parse_count("0").is_err() && parse_count("1") == Ok(1));
        assert_eq!(parse_cpus("0,2-3"), Ok(Cpus(vec![0, 2, 3])));
        assert_eq!(parse_cpus(""), Ok(Cpus(vec![])));
        for wrong in ["a", "3-2", "1-", "5000"] {
            assert!(parse_cpus(wrong).is_err(), "{wrong}");
        }
    }
}
