//! The comparison: start a server, put each scenario to it, end it; then the other one; then again.
//!
//! One server runs at a time, so neither disturbs the other. Scenarios of one group share a server's
//! life; groups differ in what is in the store; scenarios of streams have a life each. Rounds alternate which target goes first, so that a
//! machine growing slower over the minutes harms both alike.
//!
//! Reads are measured on a server that was started again after the load. That is kind to etcd 3.4.23: a
//! get costs it 496 us CPU after a bulk load and 55 us once started again (every read seems to allocate a
//! buffer as large as the largest batch of writes so far). It is no harm to anyone else.
//!
//! Invariants: both targets get the same cores, disk, client, seed and flags but for `--*-args`;
//! measurements of one round stand next to each other in time and are compared only with each other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::{self, AnyError, Cpus};
use crate::client::{self, Endpoint, Observer, Plan};
use crate::cluster::{Cluster, Reach};
use crate::disk::{self, Device, DiskCounters, RawSync, ScratchDir};
use crate::failover::Outage;
use crate::findings::Findings;
use crate::floor::{self, Floor};
use crate::host::{self, Host};
use crate::people;
use crate::process::{Launch, Server, StopSignal};
use crate::report::{self, Bar, Figures, ratio, thousands, time};
use crate::secure::Certificates;
use crate::stage::Timing;
use crate::stream_cases::{STREAM_CASES, StreamCase};
use crate::stream_verdict::{self, StreamMeasurement};
use crate::subject::Subject;
use crate::sys;
use crate::verdict;
use crate::watch::Bench;
use crate::workload::{Fill, Load, Scenario, Space};

/// A key of some path's length and a value of a small record. The marks of the design hold for these sizes.
const KEY_BYTES: usize = 32;
const VALUE_BYTES: usize = 256;
/// So many large values are written over again, in a database that may hold what a round writes.
const LARGE_KEYS: u64 = 1_000;
const LARGE_QUOTA: &str = "--quota-backend-bytes=17179869184";
/// A count over a million keys takes etcd a while, sixteen of them at once longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Let a collector or a background write settle before memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// How to compare.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct CompareOptions {
    /// The etcd to compare with
    #[arg(long, default_value = "etcd")]
    pub etcd_bin: PathBuf,
    /// The pinion to compare
    #[arg(long, default_value = "target/release/pinion")]
    pub pinion_bin: PathBuf,
    /// More flags for etcd, separated by blanks
    #[arg(long, default_value = "--logger=zap --log-level=error", allow_hyphen_values = true)]
    pub etcd_args: String,
    /// More flags for pinion, separated by blanks
    #[arg(long, default_value = "--log-level=error", allow_hyphen_values = true)]
    pub pinion_args: String,
    /// Only these targets and groups of scenarios, separated by commas: etcd or pinion alone; watch,cluster
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Only>,
    /// Where both keep their data, each in a fresh directory: on the disk that is to be measured
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Clients come by TLS, with certificates that are made for this comparison: TLS 1.3, AES-128-GCM, P-256
    #[arg(long)]
    pub tls: bool,
    /// Also what rights cost: the same load with nobody asked and with a user of 100 permissions on each connection,
    /// one after the other on one server (auth-put-1x1, auth-put-16x32, auth-get-16x32; open- without)
    #[arg(long)]
    pub auth: bool,
    /// Leave data and logs behind
    #[arg(long)]
    pub keep: bool,
    /// Cores of the server under test: 0 or 0,2-3 (default: all)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub server_cpus: Cpus,
    /// Cores of the client's threads (default: not pinned)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub client_cpus: Cpus,
    /// Client threads
    #[arg(long, default_value_t = 1, value_parser = cli::parse_count)]
    pub threads: usize,
    /// Never sleep while waiting for replies
    #[arg(long)]
    pub spin: bool,
    /// How often each target is measured; a cluster is started anew each time
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each scenario is measured
    #[arg(long, default_value = "3s", value_parser = cli::parse_window)]
    pub duration: Duration,
    /// How long it is loaded before
    #[arg(long, default_value = "1s", value_parser = cli::parse_duration)]
    pub warmup: Duration,
    /// Only these, separated by commas: put-1x1, put-16x4, put-16x32, put-10k, txn-16x32, put-64k, put-1m,
    /// get-16x32, serializable-get-16x32, page, count, page-big, count-big, memory, restart, fanout-1x1000,
    /// fanout-1x1000-50, fanout-1x1000-one-stream, fanout-10k-keys, fanout-10k-keys-2k, idle-100k-one-stream,
    /// idle-100k-1000-streams, slow-watchers-1000, catch-up, lease-grant-16x32, keep-alive, lease-expiry-10k,
    /// lease-expiry-100k, cluster-put-1x1, cluster-put-16x4, cluster-put-16x32, cluster-put-5k,
    /// cluster-put-16x4-spread, cluster-put-16x32-spread, cluster-get-16x32, cluster-get-16x32-followers,
    /// cluster-leader-killed, cluster-leader-frozen, cluster-follower-killed, and with --auth: open-put-1x1,
    /// auth-put-1x1, open-put-16x32, auth-put-16x32, open-get-16x32, auth-get-16x32
    #[arg(long, value_delimiter = ',')]
    pub scenarios: Vec<String>,
    /// Also pages and counts of --big-keys keys, and 100 k leases that expire together
    #[arg(long)]
    pub big: bool,
    /// Key space of puts, gets, pages and counts
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Keys for memory, restart, page-big and count-big
    #[arg(long, default_value_t = 1_000_000)]
    pub big_keys: u64,
    /// Puts in one transaction when --big-keys are loaded; 1 is how keys come in real life
    #[arg(long, default_value_t = 1)]
    pub big_batch: u64,
    /// How often the big store is loaded and measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub big_rounds: u32,
    /// How often watchers and leases are measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub stream_rounds: u32,
    /// Puts that watchers catch up with; the time etcd 3.4 takes for them grows with the square
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub history: u64,
    /// How a server is ended before it is started again
    #[arg(long, value_enum, default_value = "term")]
    pub restart_signal: StopSignal,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write everything measured to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the tables to this file as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    Etcd,
    Pinion,
}

impl Target {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Pinion => "pinion",
        }
    }
}

/// What a comparison may be confined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Only {
    /// This target, not the other
    Etcd,
    /// This target, not the other
    Pinion,
    /// Puts and transactions
    Writes,
    /// Puts of 64 KiB and of 1 MiB
    Large,
    /// Gets, pages and counts
    Reads,
    /// Memory, restart, and pages and counts of --big-keys
    Big,
    /// Fan-out, idle and slow watchers, catch-up
    Watch,
    /// Grants, keep-alives, expiry
    Lease,
    /// Three members on this machine: puts, gets, and the loss of a member
    Cluster,
    /// The cost of rights, as with --auth
    Auth,
}

/// What is in the store when a scenario starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Nothing but what earlier scenarios of the group wrote.
    Writes,
    /// The same, with room for large values.
    Large,
    /// `--keys` keys.
    Reads,
    /// `--big-keys` keys.
    Big,
    /// Nothing: each scenario of streams has a server of its own.
    Watch,
    /// Nothing.
    Lease,
    /// Nothing; three members. Gets are asked of `--keys` keys after all members were started again.
    Cluster,
    /// `--keys` keys and a user for each connection.
    Auth,
}

impl Group {
    const ALL: [Self; 8] = [
        Self::Writes,
        Self::Large,
        Self::Reads,
        Self::Big,
        Self::Watch,
        Self::Lease,
        Self::Cluster,
        Self::Auth,
    ];

    fn only(self) -> Only {
        match self {
            Self::Writes => Only::Writes,
            Self::Large => Only::Large,
            Self::Reads => Only::Reads,
            Self::Big => Only::Big,
            Self::Watch => Only::Watch,
            Self::Lease => Only::Lease,
            Self::Cluster => Only::Cluster,
            Self::Auth => Only::Auth,
        }
    }

    fn has_keys(self) -> bool {
        matches!(self, Self::Reads | Self::Big)
    }
}

/// A scenario at a load.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    group: Group,
    scenario: Scenario,
    connections: usize,
    in_flight: usize,
    rate_per_s: Option<u64>,
    value_bytes: usize,
}

const fn case(
    name: &'static str,
    group: Group,
    scenario: Scenario,
    connections: usize,
    in_flight: usize,
) -> Case {
    Case { name, group, scenario, connections, in_flight, rate_per_s: None, value_bytes: VALUE_BYTES }
}

const CASES: [Case; 16] = [
    case("put-1x1", Group::Writes, Scenario::Put, 1, 1),
    case("put-16x4", Group::Writes, Scenario::Put, 16, 4),
    case("put-16x32", Group::Writes, Scenario::Put, 16, 32),
    Case { rate_per_s: Some(10_000), ..case("put-10k", Group::Writes, Scenario::Put, 16, 64) },
    case("put-1000x1", Group::Writes, Scenario::Put, 1000, 1),
    case("txn-16x32", Group::Writes, Scenario::Txn, 16, 32),
    Case { value_bytes: 64 << 10, ..case("put-64k", Group::Large, Scenario::Put, 8, 4) },
    Case { value_bytes: 1 << 20, ..case("put-1m", Group::Large, Scenario::Put, 4, 2) },
    case("get-1x1", Group::Reads, Scenario::Get, 1, 1),
    case("get-16x32", Group::Reads, Scenario::Get, 16, 32),
    case("serializable-get-16x32", Group::Reads, Scenario::SerializableGet, 16, 32),
    case("page", Group::Reads, Scenario::Page, 4, 4),
    case("count", Group::Reads, Scenario::Count, 4, 4),
    case("page-big", Group::Big, Scenario::Page, 4, 4),
    case("count-big", Group::Big, Scenario::Count, 4, 4),
    case("lease-grant-16x32", Group::Lease, Scenario::LeaseGrant, 16, 32),
];
/// What is asked of three members, and of which.
const CLUSTER_CASES: [(Case, Reach); 8] = [
    (cluster_case("cluster-put-1x1", Scenario::Put, 1, 1), Reach::Leader),
    (cluster_case("cluster-put-16x4", Scenario::Put, 16, 4), Reach::Leader),
    (cluster_case("cluster-put-16x32", Scenario::Put, 16, 32), Reach::Leader),
    (
        Case { rate_per_s: Some(5_000), ..cluster_case("cluster-put-5k", Scenario::Put, 16, 64) },
        Reach::Leader,
    ),
    // Fifteen connections, so that each of three members has five.
    (cluster_case("cluster-put-16x4-spread", Scenario::Put, 15, 4), Reach::Everyone),
    (cluster_case("cluster-put-16x32-spread", Scenario::Put, 15, 32), Reach::Everyone),
    (cluster_case("cluster-get-16x32", Scenario::Get, 16, 32), Reach::Leader),
    (cluster_case("cluster-get-16x32-followers", Scenario::Get, 16, 32), Reach::Followers),
];

const fn cluster_case(name: &'static str, scenario: Scenario, connections: usize, in_flight: usize) -> Case {
    case(name, Group::Cluster, scenario, connections, in_flight)
}

/// The same load while nobody is asked who he is, and while everybody is.
const AUTH_CASES: [[Case; 2]; 3] = [
    [
        case("open-put-1x1", Group::Auth, Scenario::Put, 1, 1),
        case("auth-put-1x1", Group::Auth, Scenario::Put, 1, 1),
    ],
    [
        case("open-put-16x32", Group::Auth, Scenario::Put, 16, 32),
        case("auth-put-16x32", Group::Auth, Scenario::Put, 16, 32),
    ],
    [
        case("open-get-16x32", Group::Auth, Scenario::Get, 16, 32),
        case("auth-get-16x32", Group::Auth, Scenario::Get, 16, 32),
    ],
];

/// Users that there are: one for each connection.
const USERS: usize = 16;

/// How keys are loaded before reads.
const LOAD: Case = case("load", Group::Reads, Scenario::Put, 16, 32);
/// What is measured in the big group besides its cases.
const MEMORY: &str = "memory";
const RESTART: &str = "restart";

/// One scenario, one target, one round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    pub case: &'static str,
    pub target: Target,
    pub round: u32,
    pub figures: Figures,
    pub server_cpu_us_per_request: f64,
    pub device_bytes_per_request: Option<f64>,
    pub device_writes_per_request: Option<f64>,
    pub device_flushes_per_request: Option<f64>,
    /// CPU that neither server nor client used meanwhile, in percent of one core: others were at work.
    pub other_cpu_percent: f64,
    /// By the server's own account, warm-up included.
    pub wal_syncs_per_request: Option<f64>,
}

/// What a big store costs.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BigStore {
    pub target: Target,
    pub round: u32,
    pub keys: u64,
    pub load_keys_per_s: f64,
    pub anonymous_bytes_before: u64,
    pub anonymous_bytes_after: u64,
    pub anonymous_bytes_per_key: f64,
    /// From exec to the first answer of a linearizable read, once per restart.
    pub restart_s: Vec<f64>,
}

/// Everything a comparison found.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub host: Host,
    pub versions: Vec<(Target, String)>,
    pub options: CompareOptions,
    pub raw_sync: RawSync,
    pub floor: Floor,
    pub measurements: Vec<Measurement>,
    pub big_stores: Vec<BigStore>,
    pub stream_measurements: Vec<StreamMeasurement>,
    pub marks: Vec<verdict::Mark>,
}

struct Session<'a> {
    options: &'a CompareOptions,
    scratch: &'a Path,
    device: Option<Device>,
    targets: Vec<(Target, Launch)>,
    measurements: Vec<Measurement>,
    big_stores: Vec<BigStore>,
    stream_measurements: Vec<StreamMeasurement>,
}

/// Compares, prints and saves. False when any request failed.
pub(crate) fn run(options: &CompareOptions) -> Result<bool, AnyError> {
    check_scenarios(options)?;
    let mut targets = launches(options)?;
    let versions = targets
        .iter()
        .map(|(target, launch)| Ok((*target, launch.version()?)))
        .collect::<Result<Vec<_>, std::io::Error>>()?;
    let name = format!("pinion-bench-{}", std::process::id());
    let scratch = ScratchDir::create(&options.dir, &name, options.keep)?;
    if options.tls {
        let certificates = Certificates::make(&scratch.path)?;
        for (_, launch) in &mut targets {
            launch.tls = Some(certificates.clone());
        }
    }
    let host = Host::read(&scratch.path);
    eprint!("{}", host.lines());
    for (target, version) in &versions {
        eprintln!("{}: {version}", target.name());
    }
    let first_sync = disk::raw_sync(&scratch.path)?;
    eprintln!("raw sync of this disk: p50 {}, p99 {}", time(first_sync.p50_us), time(first_sync.p99_us));
    let first_floor = floor::find(&scratch.path, &options.server_cpus, &options.client_cpus)?;
    let mut session = Session {
        options,
        scratch: &scratch.path,
        device: Device::of(&scratch.path),
        targets,
        measurements: Vec::new(),
        big_stores: Vec::new(),
        stream_measurements: Vec::new(),
    };
    for group in Group::ALL {
        session.run_group(group)?;
    }
    let Session { measurements, big_stores, stream_measurements, .. } = session;
    // Once more at the end: the faster one is the disk, the slower one the disk and its neighbours.
    let last_sync = disk::raw_sync(&scratch.path)?;
    let raw_sync = if first_sync.p50_us <= last_sync.p50_us { first_sync } else { last_sync };
    let floor = first_floor.min(floor::find(&scratch.path, &options.server_cpus, &options.client_cpus)?);
    let mut marks = verdict::marks(&measurements, &big_stores, (&raw_sync, &floor), KEY_BYTES + VALUE_BYTES);
    marks.extend(stream_verdict::marks(&stream_measurements));
    let comparison = Comparison {
        host,
        versions,
        options: options.clone(),
        raw_sync,
        floor,
        measurements,
        big_stores,
        stream_measurements,
        marks,
    };
    let text = verdict::markdown(&comparison);
    print!("{text}");
    if let Some(path) = &options.markdown {
        std::fs::write(path, &text)?;
    }
    if let Some(path) = &options.json {
        report::save_json(path, &comparison)?;
    }
    let is_clean = comparison.measurements.iter().all(|measurement| measurement.figures.is_clean())
        && comparison.stream_measurements.iter().all(|measurement| measurement.findings.is_clean());
    Ok(is_clean)
}

fn check_scenarios(options: &CompareOptions) -> Result<(), AnyError> {
    for wanted in &options.scenarios {
        let is_known = CASES.iter().any(|case| case.name == wanted)
            || STREAM_CASES.iter().any(|case| case.name == wanted)
            || CLUSTER_CASES.iter().any(|(case, _)| case.name == wanted)
            || AUTH_CASES.iter().flatten().any(|case| case.name == wanted)
            || Outage::ALL.iter().any(|outage| outage.name() == wanted)
            || wanted == MEMORY
            || wanted == RESTART;
        if !is_known {
            return Err(format!("no scenario {wanted:?}; see `pinion-bench compare --help`").into());
        }
    }
    Ok(())
}

/// The servers to measure. One that is not there is an error, unless the other alone was asked for.
fn launches(options: &CompareOptions) -> Result<Vec<(Target, Launch)>, AnyError> {
    let all = [
        (Target::Etcd, &options.etcd_bin, &options.etcd_args),
        (Target::Pinion, &options.pinion_bin, &options.pinion_args),
    ];
    let mut targets = Vec::new();
    for (target, program, args) in all {
        let named = |target| options.only.contains(&target);
        let is_wanted = match target {
            Target::Etcd => named(Only::Etcd) || !named(Only::Pinion),
            Target::Pinion => named(Only::Pinion) || !named(Only::Etcd),
        };
        if !is_wanted {
            continue;
        }
        let launch = Launch {
            name: target.name().to_owned(),
            program: program.clone(),
            extra_args: args.split_whitespace().map(str::to_owned).collect(),
            cpus: options.server_cpus.0.clone(),
            tls: None,
        };
        launch.version().map_err(|error| {
            let name = target.name();
            format!("cannot run {}: {error} (give --{name}-bin, or --only the other one)", program.display())
        })?;
        targets.push((target, launch));
    }
    Ok(targets)
}

impl Session<'_> {
    fn is_wanted(&self, name: &str) -> bool {
        let is_optional = name.ends_with("-big");
        let named = &self.options.scenarios;
        if named.is_empty() {
            !is_optional || self.options.big
        } else {
            named.iter().any(|wanted| wanted == name)
        }
    }

    fn is_group_wanted(&self, group: Group) -> bool {
        let mut groups = self.options.only.iter().filter(|only| !matches!(only, Only::Etcd | Only::Pinion));
        let is_any = groups.clone().next().is_none();
        if group == Group::Auth && self.options.auth {
            return true;
        }
        // Asked for by name alone.
        (is_any && group != Group::Auth) || groups.any(|only| *only == group.only())
    }

    fn run_group(&mut self, group: Group) -> Result<(), AnyError> {
        if !self.is_group_wanted(group) {
            return Ok(());
        }
        let rounds = match group {
            Group::Cluster => return self.run_clusters(),
            Group::Auth => return self.run_auth(),
            Group::Writes | Group::Large | Group::Reads => self.options.rounds,
            Group::Big => self.options.big_rounds,
            Group::Watch | Group::Lease => self.options.stream_rounds,
        };
        self.run_cases(group, rounds)?;
        let is_lease = group == Group::Lease;
        if group == Group::Watch || is_lease {
            for case in STREAM_CASES.iter().filter(|case| case.is_lease == is_lease) {
                let is_named = self.options.scenarios.iter().any(|name| name == case.name);
                let is_default = self.options.scenarios.is_empty() && (!case.is_big || self.options.big);
                if is_named || is_default {
                    self.run_stream_case(case, rounds)?;
                }
            }
        }
        Ok(())
    }

    /// One scenario of streams, for both targets in turn. One that cannot be measured is a finding too.
    fn run_stream_case(&mut self, case: &StreamCase, rounds: u32) -> Result<(), AnyError> {
        let bench = Bench { pin: self.options.client_cpus.0.clone(), seed: self.options.seed };
        let timing = Timing { warmup: self.options.warmup, duration: Some(self.options.duration) };
        for round in 1..=rounds {
            for (target, launch) in self.targets_in(round) {
                if sys::is_interrupted() {
                    return Err("interrupted".into());
                }
                let name = format!("{}-{}-{round}", target.name(), case.name);
                let directory = ScratchDir::create(self.scratch, &name, self.options.keep)?;
                let server = Server::start(&launch, &directory.path)?;
                let subject = Subject { endpoint: server.endpoint.clone(), pid: Some(server.pid()) };
                let findings = case.run(&subject, &bench, timing, self.options.history);
                let findings = findings.unwrap_or_else(|error| Findings::failed(error.to_string()));
                eprintln!("{} {} round {round}: {}", case.name, target.name(), findings.line());
                self.stream_measurements.push(StreamMeasurement { case: case.name, target, round, findings });
            }
        }
        Ok(())
    }

    /// The targets in the order of this round.
    fn targets_in(&self, round: u32) -> Vec<(Target, Launch)> {
        let mut targets = self.targets.clone();
        if round.is_multiple_of(2) {
            targets.reverse();
        }
        targets
    }

    fn run_cases(&mut self, group: Group, rounds: u32) -> Result<(), AnyError> {
        let cases: Vec<Case> =
            CASES.into_iter().filter(|case| case.group == group && self.is_wanted(case.name)).collect();
        let has_extras = group == Group::Big && (self.is_wanted(MEMORY) || self.is_wanted(RESTART));
        if cases.is_empty() && !has_extras {
            return Ok(());
        }
        for round in 1..=rounds {
            for (target, mut launch) in self.targets_in(round) {
                if group == Group::Large {
                    launch.extra_args.push(LARGE_QUOTA.to_owned());
                }
                let name = format!("{}-{group:?}-{round}", target.name()).to_lowercase();
                let directory = ScratchDir::create(self.scratch, &name, self.options.keep)?;
                let server = Server::start(&launch, &directory.path)?;
                self.run_life(server, target, group, round, &cases)?;
            }
        }
        Ok(())
    }

    fn run_clusters(&mut self) -> Result<(), AnyError> {
        let cases: Vec<(Case, Reach)> =
            CLUSTER_CASES.into_iter().filter(|(case, _)| self.is_wanted(case.name)).collect();
        let outages: Vec<Outage> =
            Outage::ALL.into_iter().filter(|outage| self.is_wanted(outage.name())).collect();
        if cases.is_empty() && outages.is_empty() {
            return Ok(());
        }
        for round in 1..=self.options.rounds {
            for (target, launch) in self.targets_in(round) {
                let name = format!("{}-cluster-{round}", target.name());
                let directory = ScratchDir::create(self.scratch, &name, self.options.keep)?;
                let cluster = Cluster::start(&launch, &directory.path)?;
                self.run_cluster_life(cluster, target, round, &cases, &outages)?;
            }
        }
        Ok(())
    }

    /// The cost of rights. On one server each load is put twice in a row, and which comes first changes by round.
    fn run_auth(&mut self) -> Result<(), AnyError> {
        let pairs: Vec<[Case; 2]> =
            AUTH_CASES.into_iter().filter(|pair| pair.iter().any(|case| self.is_wanted(case.name))).collect();
        let keys = self.options.keys;
        for round in 1..=self.options.rounds {
            for (target, mut launch) in self.targets_in(round) {
                let name = format!("{}-auth-{round}", target.name());
                let directory = ScratchDir::create(self.scratch, &name, self.options.keep)?;
                launch.extra_args.push(people::CHEAP.to_owned());
                let server = Server::start(&launch, &directory.path)?;
                let open = server.endpoint.clone();
                cli::fill(
                    &self.plan(vec![open.clone()], &LOAD, keys),
                    Fill { batch: 100, is_shuffled: true },
                )?;
                people::make(&open, USERS, Space::bounds())?;
                let server = server.restart(StopSignal::Term)?;
                for [without, with] in &pairs {
                    let in_turn = if round.is_multiple_of(2) { [with, without] } else { [without, with] };
                    for case in in_turn {
                        let is_asked = case.name == with.name;
                        let endpoints =
                            if is_asked { people::enable(&open, USERS)? } else { vec![open.clone()] };
                        let plan = self.plan(endpoints, case, keys);
                        let servers = std::slice::from_ref(&server);
                        let measurement = self.measure(servers, target, round, case, &plan)?;
                        eprintln!("{}", progress_line(&measurement));
                        self.measurements.push(measurement);
                        if is_asked {
                            people::disable(&open)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// One cluster's life: puts, gets, and then a member lost in each way.
    fn run_cluster_life(
        &mut self,
        mut cluster: Cluster,
        target: Target,
        round: u32,
        cases: &[(Case, Reach)],
        outages: &[Outage],
    ) -> Result<(), AnyError> {
        let keys = self.options.keys;
        let mut has_keys = false;
        for (case, reach) in cases {
            if case.scenario.reads() && !has_keys {
                has_keys = true;
                let plan = self.plan(cluster.endpoints(Reach::Leader), &LOAD, keys);
                cli::fill(&plan, Fill { batch: 100, is_shuffled: true })?;
                for slot in 0..cluster.members.len() {
                    cluster.restart(slot, StopSignal::Term)?;
                }
            }
            // Leadership may have moved under the load before.
            cluster.settle()?;
            let plan = self.plan(cluster.endpoints(*reach), case, keys);
            let measurement = self.measure(&cluster.members, target, round, case, &plan)?;
            eprintln!("{}", progress_line(&measurement));
            self.measurements.push(measurement);
        }
        for outage in outages {
            if sys::is_interrupted() {
                return Err("interrupted".into());
            }
            let findings = outage.run(&mut cluster, self.options.client_cpus.0.first().copied())?;
            eprintln!("{} {} round {round}: {}", outage.name(), target.name(), findings.line());
            self.stream_measurements.push(StreamMeasurement { case: outage.name(), target, round, findings });
        }
        Ok(())
    }

    /// One server's life: from an empty store to the last scenario of its group.
    fn run_life(
        &mut self,
        mut server: Server,
        target: Target,
        group: Group,
        round: u32,
        cases: &[Case],
    ) -> Result<(), AnyError> {
        let keys = if group == Group::Big { self.options.big_keys } else { self.options.keys };
        let mut big_store = None;
        if group.has_keys() {
            let before = server.pid().anonymous_bytes()?;
            let batch = if group == Group::Big { self.options.big_batch } else { 100 };
            let filled = cli::fill(
                &self.plan(vec![server.endpoint.clone()], &LOAD, keys),
                Fill { batch, is_shuffled: true },
            )?;
            if group == Group::Big {
                std::thread::sleep(SETTLE);
                let after = server.pid().anonymous_bytes()?;
                let per_key = after.saturating_sub(before) as f64 / keys as f64;
                eprintln!(
                    "{} round {round}: {keys} keys loaded at {} /s, {per_key:.0} B anonymous memory a key",
                    target.name(),
                    thousands(ratio(keys as f64, filled.window_s)),
                );
                big_store = Some(BigStore {
                    target,
                    round,
                    keys,
                    load_keys_per_s: ratio(keys as f64, filled.window_s),
                    anonymous_bytes_before: before,
                    anonymous_bytes_after: after,
                    anonymous_bytes_per_key: per_key,
                    restart_s: Vec::new(),
                });
            }
            if !cases.is_empty() {
                server = server.restart(StopSignal::Term)?;
            }
        }
        for case in cases {
            let plan = self.plan(vec![server.endpoint.clone()], case, keys);
            let servers = std::slice::from_ref(&server);
            let measurement = self.measure(servers, target, round, case, &plan)?;
            eprintln!("{}", progress_line(&measurement));
            self.measurements.push(measurement);
        }
        if let Some(mut big_store) = big_store {
            if self.is_wanted(RESTART) {
                big_store.restart_s = self.restart_times(server, target)?;
            }
            self.big_stores.push(big_store);
        }
        Ok(())
    }

    fn restart_times(&self, mut server: Server, target: Target) -> Result<Vec<f64>, AnyError> {
        let mut times = Vec::new();
        for _ in 0..self.options.rounds {
            server = server.restart(self.options.restart_signal)?;
            times.push(server.start_time.as_secs_f64());
            eprintln!(
                "{}: restarted, first read after {:.2} s",
                target.name(),
                server.start_time.as_secs_f64()
            );
        }
        Ok(times)
    }

    fn plan(&self, endpoints: Vec<Endpoint>, case: &Case, keys: u64) -> Plan {
        Plan {
            endpoints,
            connections: case.connections,
            in_flight: case.in_flight,
            rate_per_s: case.rate_per_s,
            warmup: self.options.warmup,
            duration: Some(self.options.duration),
            cutoff: None,
            deadline: DEADLINE,
            threads: self.options.threads,
            pin: self.options.client_cpus.0.clone(),
            is_spinning: self.options.spin,
            keeps_timeline: false,
            seed: self.options.seed,
            space: Space {
                keys: if case.group == Group::Large { keys.min(LARGE_KEYS) } else { keys },
                key_bytes: KEY_BYTES,
                value_bytes: case.value_bytes,
            },
            load: Load::Endless { scenario: case.scenario, read_percent: 0, page_keys: 100 },
        }
    }

    fn measure(
        &self,
        servers: &[Server],
        target: Target,
        round: u32,
        case: &Case,
        plan: &Plan,
    ) -> Result<Measurement, AnyError> {
        if sys::is_interrupted() {
            return Err("interrupted".into());
        }
        let wal_syncs = || servers.iter().map(Server::wal_syncs).sum::<Option<u64>>();
        let syncs_before = wal_syncs();
        let mut gauges = Gauges {
            bar: Bar::of_time(self.options.warmup + self.options.duration),
            servers,
            device: self.device.as_ref(),
            open: None,
            close: None,
        };
        let run = client::run(plan, &mut gauges)?;
        let (open, close) = gauges.open.zip(gauges.close).ok_or("the window never opened and closed")?;
        drop(gauges.bar);
        let figures = Figures::of(&run);
        let replies = figures.replies_in_window as f64;
        let disk = close.disk.zip(open.disk).map(|(after, before)| after.since(before));
        let per_request = |pick: fn(DiskCounters) -> u64| disk.map(|disk| ratio(pick(disk) as f64, replies));
        let wal_syncs = wal_syncs().zip(syncs_before).map(|(after, before)| after.saturating_sub(before));
        Ok(Measurement {
            case: case.name,
            target,
            round,
            server_cpu_us_per_request: ratio(close.cpu.saturating_sub(open.cpu).as_secs_f64() * 1e6, replies),
            device_bytes_per_request: per_request(|disk| disk.bytes_written),
            device_writes_per_request: per_request(|disk| disk.writes),
            device_flushes_per_request: per_request(|disk| disk.flushes),
            other_cpu_percent: other_cpu_percent(&open, &close, run.client_cpu, figures.window_s),
            wal_syncs_per_request: wal_syncs.map(|syncs| ratio(syncs as f64, figures.replies as f64)),
            figures,
        })
    }
}

fn progress_line(measurement: &Measurement) -> String {
    let figures = &measurement.figures;
    let failures = if figures.is_clean() { "" } else { "  SOME FAILED" };
    format!(
        "{} {} round {}: {} /s, p50 {}, p99 {}, server {:.1} us, client {:.2} us{failures}",
        measurement.case,
        measurement.target.name(),
        measurement.round,
        thousands(figures.replies_per_s),
        time(figures.latency_us.p50),
        time(figures.latency_us.p99),
        measurement.server_cpu_us_per_request,
        figures.client_cpu_us_per_request,
    )
}

fn other_cpu_percent(open: &Reading, close: &Reading, client: Duration, window_s: f64) -> f64 {
    let all = close.machine_cpu.saturating_sub(open.machine_cpu);
    let ours = close.cpu.saturating_sub(open.cpu) + client;
    100.0 * ratio(all.saturating_sub(ours).as_secs_f64(), window_s)
}

/// What server and disk have used up to one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    cpu: Duration,
    machine_cpu: Duration,
    disk: Option<DiskCounters>,
}

/// Reads the server's and the disk's counters at the window's edges.
struct Gauges<'a> {
    bar: Bar,
    servers: &'a [Server],
    device: Option<&'a Device>,
    open: Option<Reading>,
    close: Option<Reading>,
}

impl Gauges<'_> {
    fn read(&self) -> Option<Reading> {
        // None when a server is gone: the run's errors say so.
        let cpu = self.servers.iter().map(|server| server.pid().cpu_time().ok()).sum::<Option<Duration>>()?;
        let machine_cpu = host::machine_cpu()?;
        Some(Reading { cpu, machine_cpu, disk: self.device.and_then(Device::counters) })
    }
}

impl Observer for Gauges<'_> {
    fn on_window_open(&mut self) {
        self.open = self.read();
    }

    fn on_window_close(&mut self) {
        self.close = self.read();
    }

    fn on_progress(&mut self, replies: u64, elapsed: Duration) {
        self.bar.on_progress(replies, elapsed);
    }
}
