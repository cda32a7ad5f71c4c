//! Puts beside disturbances: each target in turn, each disturbance on the same puts, alone and beside it.
//!
//! The puts are an open loop, so a stall is charged for everything that was due meanwhile. "Alone" is the time before
//! the disturbance, of the same run and on the same data: a ratio compares neighbours in time.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::call;
use crate::cli::{self, AnyError, Cpus};
use crate::client::{self, ClientError, Endpoint, Observer, Plan, Unobserved, nanos};
use crate::cluster::{Cluster, Reach};
use crate::compare::Target;
use crate::disk::ScratchDir;
use crate::disturbance::{Disturbance, Happened, Scene};
use crate::host::Host;
use crate::http2::Method;
use crate::people;
use crate::process::{Launch, Server, StopSignal};
use crate::report::{self, ratio};
use crate::secure::Certificates;
use crate::sys;
use crate::timeline::{self, Percentiles, Timeline};
use crate::watch::{Bench, SetOnDrop};
use crate::workload::{Fill, Load, Scenario, Space};

const KEY_BYTES: usize = 32;
const VALUE_BYTES: usize = 256;
const DEADLINE: Duration = Duration::from_secs(60);
/// Puts go on for so long behind a disturbance.
const TAIL: Duration = Duration::from_secs(2);
/// No disturbance lasts longer, or it fails.
const LIMIT: Duration = Duration::from_secs(300);
/// A disturbance that was over sooner is judged by the puts of so much time.
const JUDGED_S_MIN: f64 = 1.0;
/// The calls of clients who begin, and how many threads they have.
const HANDSHAKES_PER_S: u32 = 200;
const HANDSHAKE_THREADS: u32 = 8;
const WRONG_LOGINS_PER_S: u64 = 1_000;
/// Between two disturbances of one server: let what the last one left behind end.
const SETTLE: Duration = Duration::from_secs(2);

/// How to disturb.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct DisturbOptions {
    /// The etcd to compare with
    #[arg(long, default_value = "etcd")]
    pub etcd_bin: PathBuf,
    /// The pinion to compare
    #[arg(long, default_value = "target/release/pinion")]
    pub pinion_bin: PathBuf,
    /// More flags for etcd, separated by blanks
    #[arg(
        long,
        default_value = "--logger=zap --log-level=error --quota-backend-bytes=8589934592",
        allow_hyphen_values = true
    )]
    pub etcd_args: String,
    /// More flags for pinion, separated by blanks
    #[arg(
        long,
        default_value = "--log-level=error --quota-backend-bytes=8589934592",
        allow_hyphen_values = true
    )]
    pub pinion_args: String,
    /// Only these targets: etcd, pinion
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Target>,
    /// Only these disturbances, separated by commas
    #[arg(long, value_enum, value_delimiter = ',')]
    pub what: Vec<Disturbance>,
    /// Where both keep their data, each in a fresh directory
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Cores of the server under test: 0 or 0,2-3 (default: all)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub server_cpus: Cpus,
    /// Cores of the client's threads (default: not pinned)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub client_cpus: Cpus,
    /// Keys that are there
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10..=1_000_000_000))]
    pub keys: u64,
    /// Puts a second
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub rate: u64,
    /// How long the puts are alone before
    #[arg(long, default_value = "10s", value_parser = cli::parse_window)]
    pub lead: Duration,
    /// How long what can be repeated is repeated
    #[arg(long, default_value = "10s", value_parser = cli::parse_window)]
    pub duration: Duration,
    /// Watchers that read history
    #[arg(long, default_value_t = 10_000, value_parser = cli::parse_count)]
    pub latecomers: usize,
    /// Revisions that each of them reads
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub history: u64,
    /// Draw a picture of each disturbance into this directory
    #[arg(long, value_name = "DIRECTORY")]
    pub svg: Option<PathBuf>,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the table to this file as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A disturbance of a target.
#[derive(Debug, Serialize)]
struct Outcome {
    target: Target,
    what: Disturbance,
    /// In milliseconds.
    alone: Percentiles,
    beside: Percentiles,
    lasted_s: f64,
    times: u64,
    puts_failed: u64,
    #[serde(skip)]
    timeline: Timeline,
}

/// Runs all of it. False when a put failed.
pub(crate) fn run(options: &DisturbOptions) -> Result<bool, AnyError> {
    let host = Host::read(&options.dir);
    print!("{}", host.lines());
    let (mut outcomes, mut notes) = (Vec::new(), Vec::new());
    for target in [Target::Etcd, Target::Pinion] {
        if options.only.is_empty() || options.only.contains(&target) {
            target_alone(options, target, &mut outcomes, &mut notes)?;
            for (what, play) in [
                (Disturbance::Follower, follower as fn(&_, _) -> _),
                (Disturbance::Handshakes, handshakes),
                (Disturbance::Logins, logins),
            ] {
                if options.wants(what) {
                    outcomes.push(play(options, target)?);
                }
            }
        }
    }
    if let Some(directory) = &options.svg {
        fs::create_dir_all(directory)?;
        for what in Disturbance::ALL {
            let of_what = outcomes.iter().filter(|outcome| outcome.what == what);
            let lines: Vec<_> = of_what.map(|outcome| (outcome.target.name(), &outcome.timeline)).collect();
            if !lines.is_empty() {
                let title = format!("{what}: {} puts/s beside {} keys", options.rate, options.keys);
                timeline::draw(&directory.join(format!("{what}.svg")), &title, &lines)?;
            }
        }
    }
    let table = table(&outcomes, &notes);
    print!("{table}");
    if let Some(path) = &options.markdown {
        fs::write(path, format!("```\n{}```\n\n{table}", host.lines()))?;
    }
    if let Some(path) = &options.json {
        report::save_json(path, &Report { host, options, outcomes: &outcomes, notes: &notes })?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.puts_failed == 0))
}

/// The report that `--json` writes.
#[derive(Debug, Serialize)]
struct Report<'a> {
    host: Host,
    options: &'a DisturbOptions,
    outcomes: &'a [Outcome],
    notes: &'a [String],
}

impl DisturbOptions {
    fn wants(&self, what: Disturbance) -> bool {
        self.what.is_empty() || self.what.contains(&what)
    }

    fn launch(&self, target: Target) -> Launch {
        let (program, args) = match target {
            Target::Etcd => (&self.etcd_bin, &self.etcd_args),
            Target::Pinion => (&self.pinion_bin, &self.pinion_args),
        };
        Launch {
            name: target.name().to_owned(),
            program: program.clone(),
            extra_args: args.split_ascii_whitespace().map(str::to_owned).collect(),
            cpus: self.server_cpus.0.clone(),
            tls: None,
        }
    }

    fn scratch(&self, target: Target) -> std::io::Result<ScratchDir> {
        let name = format!("pinion-bench-disturb-{}-{}", target.name(), std::process::id());
        ScratchDir::create(&self.dir, &name, false)
    }

    fn space(&self) -> Space {
        Space { keys: self.keys, key_bytes: KEY_BYTES, value_bytes: VALUE_BYTES }
    }

    fn bench(&self) -> Bench {
        Bench { pin: self.client_cpus.0.clone(), seed: self.seed }
    }

    /// The puts.
    fn plan(&self, endpoint: &Endpoint) -> Plan {
        Plan {
            endpoints: vec![endpoint.clone()],
            connections: 16,
            in_flight: 4_096,
            rate_per_s: Some(self.rate),
            warmup: Duration::from_secs(1),
            duration: Some(self.lead + LIMIT),
            cutoff: None,
            deadline: DEADLINE,
            threads: 1,
            pin: self.client_cpus.0.clone(),
            is_spinning: false,
            keeps_timeline: true,
            seed: self.seed,
            space: self.space(),
            load: Load::Endless { scenario: Scenario::Put, read_percent: 0, page_keys: 1 },
        }
    }

    fn fill(&self, endpoint: &Endpoint) -> Result<(), AnyError> {
        let plan = Plan { keeps_timeline: false, in_flight: 4, ..self.plan(endpoint) };
        cli::fill(&plan, Fill { batch: 100, is_shuffled: true }).map(|_| ())
    }

    /// Puts, and after a while `act` beside them.
    fn beside(
        &self,
        (target, what): (Target, Disturbance),
        endpoint: &Endpoint,
        act: impl FnOnce() -> Result<Happened, AnyError> + Send,
    ) -> Result<Outcome, AnyError> {
        let over = Arc::new(AtomicBool::new(false));
        let plan = Plan { cutoff: Some(Arc::clone(&over)), ..self.plan(endpoint) };
        let lead = self.lead;
        let (opened, is_open) = mpsc::channel::<Instant>();
        let (run, acted) = std::thread::scope(|scope| {
            let acting = scope.spawn(move || -> Result<(Instant, Happened), AnyError> {
                let _over = SetOnDrop(over);
                // The server is judged: the disturbance's own client must not keep the puts' from its core.
                sys::give_way();
                let opened = is_open.recv().map_err(|_| ClientError::Interrupted)?;
                std::thread::sleep(lead.saturating_sub(opened.elapsed()));
                let happened = act()?;
                std::thread::sleep(TAIL);
                Ok((opened, happened))
            });
            let run = client::run(&plan, &mut Opening(Some(opened)));
            let acted = acting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (run, acted)
        });
        let (opened, happened) = acted?;
        let run = run?;
        let at = |instant: Instant| nanos(instant.saturating_duration_since(opened)) as f64 / 1e9;
        let disturbed = at(happened.begin)..at(happened.end);
        let samples = run.tally.timeline.as_deref().unwrap_or_default();
        let timeline = Timeline::new(samples, disturbed.clone());
        let judged = disturbed.start..disturbed.end.max(disturbed.start + JUDGED_S_MIN);
        let outcome = Outcome {
            target,
            what,
            alone: timeline.percentiles(&(0.0..lead.as_secs_f64())),
            beside: timeline.percentiles(&judged),
            lasted_s: disturbed.end - disturbed.start,
            times: happened.times,
            puts_failed: run.tally.failures_count(),
            timeline,
        };
        println!("{}", outcome.line());
        Ok(outcome)
    }
}

/// Tells when the window opens.
struct Opening(Option<mpsc::Sender<Instant>>);

impl Observer for Opening {
    fn on_window_open(&mut self) {
        if let Some(opened) = self.0.take() {
            // Nobody listens when the acting thread has failed, which it says itself.
            opened.send(Instant::now()).unwrap_or(());
        }
    }
}

/// All that one server can be disturbed by, in one life of it.
fn target_alone(
    options: &DisturbOptions,
    target: Target,
    outcomes: &mut Vec<Outcome>,
    notes: &mut Vec<String>,
) -> Result<(), AnyError> {
    let wanted: Vec<Disturbance> =
        Disturbance::ALL.into_iter().filter(|what| !what.is_apart() && options.wants(*what)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let scratch = options.scratch(target)?;
    let server = Server::start(&options.launch(target), &scratch.path)?;
    println!("{}: {} keys are loaded twice", target.name(), options.keys);
    // Twice, so that there is as much to compact as there are keys.
    options.fill(&server.endpoint)?;
    options.fill(&server.endpoint)?;
    let data = scratch.path.join("data");
    let (space, bench) = (options.space(), options.bench());
    let scene = Scene {
        endpoint: &server.endpoint,
        data: &data,
        space: &space,
        bench: &bench,
        latecomers: options.latecomers,
        history: options.history,
        duration: options.duration,
    };
    for what in wanted {
        if sys::is_interrupted() {
            return Err(ClientError::Interrupted.into());
        }
        if what == Disturbance::Checkpoint && target == Target::Etcd {
            notes.push("etcd writes no checkpoint: its backend commits all the time".to_owned());
            continue;
        }
        if what == Disturbance::Erase {
            // Others before it have deleted most of the keys.
            options.fill(&server.endpoint)?;
        }
        std::thread::sleep(SETTLE);
        match options.beside((target, what), &server.endpoint, || Ok(scene.play(what)?)) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => {
                // The others can still be measured.
                eprintln!("{}: {what}: {error}", target.name());
                notes.push(format!("{}: {what} could not be measured: {error}", target.name()));
            }
        }
    }
    Ok(())
}

/// A cluster of three, of which one member was away while everything was loaded, and comes back.
fn follower(options: &DisturbOptions, target: Target) -> Result<Outcome, AnyError> {
    let scratch = options.scratch(target)?;
    let mut cluster = Cluster::start(&options.launch(target), &scratch.path)?;
    let leader = cluster.endpoints(Reach::Leader).remove(0);
    let away = (cluster.leader + 1) % cluster.members.len();
    let mut member = cluster.members.remove(away);
    member.stop(StopSignal::Kill)?;
    println!("{}: {} keys are loaded into two of three members", target.name(), options.keys);
    options.fill(&leader)?;
    std::thread::sleep(SETTLE);
    options.beside((target, Disturbance::Follower), &leader, move || {
        let begin = Instant::now();
        // Its first answer of a linearizable read: it has everything.
        let _member = member.start_again()?;
        Ok(Happened { begin, end: Instant::now(), times: 1 })
    })
}

/// Connections that begin, each with a handshake and one call.
fn handshakes(options: &DisturbOptions, target: Target) -> Result<Outcome, AnyError> {
    let scratch = options.scratch(target)?;
    let launch = Launch { tls: Some(Certificates::make(&scratch.path)?), ..options.launch(target) };
    let server = Server::start(&launch, &scratch.path)?;
    println!("{}: {} keys are loaded by TLS", target.name(), options.keys);
    options.fill(&server.endpoint)?;
    std::thread::sleep(SETTLE);
    options.beside((target, Disturbance::Handshakes), &server.endpoint, || {
        let begin = Instant::now();
        let each = Duration::from_secs(1) * HANDSHAKE_THREADS / HANDSHAKES_PER_S;
        // Each thread keeps its own schedule: one that is late for one connection begins the next at once.
        let shake = || -> Result<u64, ClientError> {
            let mut times = 0;
            while begin.elapsed() < options.duration {
                std::thread::sleep((each * times).saturating_sub(begin.elapsed()));
                call::call(&server.endpoint, Method::Status, &[], DEADLINE)?;
                times += 1;
            }
            Ok(times.into())
        };
        let times = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..HANDSHAKE_THREADS).map(|_| scope.spawn(shake)).collect();
            let joined =
                threads.into_iter().map(|thread| thread.join().expect("a thread that shakes hands ends"));
            joined.sum::<Result<u64, ClientError>>()
        });
        Ok(Happened { begin, end: Instant::now(), times: times? })
    })
}

/// Logins with wrong passwords, on a fixed schedule.
fn logins(options: &DisturbOptions, target: Target) -> Result<Outcome, AnyError> {
    let scratch = options.scratch(target)?;
    let server = Server::start(&options.launch(target), &scratch.path)?;
    println!("{}: {} keys are loaded", target.name(), options.keys);
    options.fill(&server.endpoint)?;
    let count = usize::try_from(people::COUNT)?;
    people::make(&server.endpoint, count, Space::bounds())?;
    let users = people::enable(&server.endpoint, count)?;
    std::thread::sleep(SETTLE);
    options.beside((target, Disturbance::Logins), &users[0], || {
        let wrong = Plan {
            warmup: Duration::ZERO,
            duration: Some(options.duration),
            rate_per_s: Some(WRONG_LOGINS_PER_S),
            keeps_timeline: false,
            load: Load::Endless { scenario: Scenario::WrongLogin, read_percent: 0, page_keys: 1 },
            ..options.plan(&server.endpoint)
        };
        let begin = Instant::now();
        let run = client::run(&wrong, &mut Unobserved)?;
        Ok(Happened { begin, end: begin + options.duration, times: run.tally.failures_count() })
    })
}

impl Outcome {
    fn line(&self) -> String {
        let Self { alone, beside, .. } = self;
        format!(
            "{:<7}{:<11} {:>6.1} s x{:<4} p99 {:>8.2} ms alone, {:>8.2} beside ({:.2}x); p99.9 {:>8.2}, {:>8.2} ({:.2}x); \
             worst {:>8.1}, {:>8.1}",
            self.target.name(),
            self.what.name(),
            self.lasted_s,
            self.times,
            alone.p99,
            beside.p99,
            ratio(beside.p99, alone.p99),
            alone.p999,
            beside.p999,
            ratio(beside.p999, alone.p999),
            alone.worst,
            beside.worst
        )
    }
}

fn table(outcomes: &[Outcome], notes: &[String]) -> String {
    let mut text = String::from(
        "| | beside | lasted, s | times | alone p50 / p99 / p99.9 / worst, ms | beside | p99 | p99.9 | puts failed |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let figures =
        |of: &Percentiles| format!("{:.2} / {:.2} / {:.2} / {:.1}", of.p50, of.p99, of.p999, of.worst);
    for outcome in outcomes {
        let Outcome { target, what, alone, beside, .. } = outcome;
        writeln!(
            text,
            "| {} | {what} | {:.1} | {} | {} | {} | {:.2}x | {:.2}x | {} |",
            target.name(),
            outcome.lasted_s,
            outcome.times,
            figures(alone),
            figures(beside),
            ratio(beside.p99, alone.p99),
            ratio(beside.p999, alone.p999),
            outcome.puts_failed
        )
        .expect("a String takes everything");
    }
    for note in notes {
        writeln!(text, "\n{note}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_and_says_what_is_missing() {
        let percentiles = |p99| Percentiles { requests: 10, p50: 1.0, p99, p999: 2.0 * p99, worst: 50.0 };
        let outcome = Outcome {
            target: Target::Pinion,
            what: Disturbance::List,
            alone: percentiles(2.0),
            beside: percentiles(3.0),
            lasted_s: 10.0,
            times: 4,
            puts_failed: 0,
            timeline: Timeline::new(&[], 0.0..1.0),
        };
        let text = table(&[outcome], &["etcd: nothing".to_owned()]);
        assert!(text.contains("| pinion | list | 10.0 | 4 | 1.00 / 2.00 / 4.00 / 50.0 |"), "{text}");
        assert!(text.contains("| 1.50x | 1.50x | 0 |"), "{text}");
        assert!(text.ends_with("etcd: nothing\n"), "{text}");
    }
}
