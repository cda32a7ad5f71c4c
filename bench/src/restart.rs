//! Restarts: seconds for a million keys that a checkpoint is loaded with, and that the log is replayed with.
//!
//! One program fills a data directory, twice: once it is killed with everything in the log, once it is left alone until
//! its checkpoint has everything. Then each program in turn is started on a copy of either and killed when it answers.
//! Two programs, round by round, show what a change brings on a machine that is not always alike; CPU time, all
//! threads together, says it also where others use the cores.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cli::{self, AnyError, Cpus};
use crate::client::{self, Plan, Unobserved};
use crate::disk::ScratchDir;
use crate::host::Host;
use crate::process::{Launch, Server, StopSignal};
use crate::report;
use crate::workload::{Fill, Load, Space};

/// Nothing but idleness begins a checkpoint.
const NO_CHECKPOINTS: [&str; 3] =
    ["--snapshot-count=1000000000", "--checkpoint-bytes=1000000000000", "--quota-backend-bytes=34359738368"];
/// A checkpoint of an idle server has begun and ended by then.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(120);
/// A checkpoint file that nobody has written to for so long is whole.
const QUIET: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(60);

/// How to restart.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct RestartOptions {
    /// The pinion to measure
    #[arg(long, default_value = "target/release/pinion")]
    pub pinion_bin: PathBuf,
    /// Another one to compare it with, such as one built before a change
    #[arg(long)]
    pub before_bin: Option<PathBuf>,
    /// More flags for both, separated by blanks
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub pinion_args: String,
    /// Keys that are put, one by one
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// Starts of each program on either directory
    #[arg(long, default_value_t = 3, value_parser = cli::parse_count)]
    pub rounds: usize,
    /// Where the data is kept, in a fresh directory
    #[arg(long, default_value = ".")]
    pub dir: PathBuf,
    /// Cores of the server: 0 or 0,2-3 (default: all)
    #[arg(long, default_value = "", value_parser = cli::parse_cpus)]
    pub server_cpus: Cpus,
    /// Write the figures to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Seed of keys and values
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Where the keys are when a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum From {
    Checkpoint,
    Log,
}

/// One start, in seconds for a million keys.
#[derive(Debug, Clone, Copy, Serialize)]
struct Start {
    from: From,
    is_before: bool,
    wall_s: f64,
    cpu_s: f64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    host: Host,
    options: &'a RestartOptions,
    starts: &'a [Start],
}

/// Runs all of it.
pub(crate) fn run(options: &RestartOptions) -> Result<bool, AnyError> {
    let host = Host::read(&options.dir);
    print!("{}", host.lines());
    let name = format!("pinion-bench-restart-{}", std::process::id());
    let scratch = ScratchDir::create(&options.dir, &name, false)?;
    let launch = |program: &Path| Launch {
        name: "pinion".to_owned(),
        program: program.to_owned(),
        extra_args: NO_CHECKPOINTS
            .into_iter()
            .chain(options.pinion_args.split_ascii_whitespace())
            .map(str::to_owned)
            .collect(),
        cpus: options.server_cpus.0.clone(),
        tls: None,
    };
    let now = launch(&options.pinion_bin);
    let before = options.before_bin.as_deref().map(launch);
    let mut starts = Vec::new();
    for from in [From::Log, From::Checkpoint] {
        let directory = scratch.path.join(format!("{from:?}").to_lowercase());
        // A later program reads the data that an earlier one wrote.
        let mut server = fill(options, before.as_ref().unwrap_or(&now), &directory, from)?;
        let (data, saved) = (directory.join("data"), directory.join("saved"));
        fs::rename(&data, &saved)?;
        for round in 0..options.rounds {
            for (launch, is_before) in before.iter().map(|before| (before, true)).chain([(&now, false)]) {
                if data.exists() {
                    fs::remove_dir_all(&data)?;
                }
                copy(&saved, &data)?;
                server = server.start_again_as(launch)?;
                let (wall, cpu) = (server.start_time, server.pid().cpu_time()?);
                server.stop(StopSignal::Kill)?;
                let each = |time: Duration| time.as_secs_f64() * 1e6 / options.keys as f64;
                let start = Start { from, is_before, wall_s: each(wall), cpu_s: each(cpu) };
                println!(
                    "{from:?}, round {}, {}: {:.2} s a million keys, {:.2} s of CPU",
                    round + 1,
                    if is_before { "before" } else { "now" },
                    start.wall_s,
                    start.cpu_s
                );
                starts.push(start);
            }
        }
        fs::remove_dir_all(&directory)?;
    }
    print!("{}", table(&starts));
    if let Some(path) = &options.json {
        report::save_json(path, &Report { host, options, starts: &starts })?;
    }
    Ok(true)
}

/// Fills a directory; the server has ended.
fn fill(options: &RestartOptions, launch: &Launch, directory: &Path, from: From) -> Result<Server, AnyError> {
    let mut server = Server::start(launch, directory)?;
    let plan = Plan {
        endpoints: vec![server.endpoint.clone()],
        connections: 16,
        in_flight: 32,
        rate_per_s: None,
        warmup: Duration::ZERO,
        duration: None,
        cutoff: None,
        deadline: DEADLINE,
        threads: 1,
        pin: Vec::new(),
        is_spinning: false,
        keeps_timeline: false,
        seed: options.seed,
        space: Space { keys: options.keys, key_bytes: 32, value_bytes: options.value_bytes },
        load: Load::Fill(Fill { batch: 1, is_shuffled: true }),
    };
    plan.space.validate()?;
    let run = client::run(&plan, &mut Unobserved)?;
    if 0 < run.tally.failures_count() {
        return Err(format!("{} puts failed", run.tally.failures_count()).into());
    }
    if from == From::Checkpoint {
        wait_for_checkpoint(&directory.join("data/checkpoint"))?;
    }
    server.stop(StopSignal::Kill)?;
    Ok(server)
}

/// Waits until an idle server has written a checkpoint and nothing changes any more.
fn wait_for_checkpoint(directory: &Path) -> Result<(), AnyError> {
    let look = || -> std::io::Result<Vec<(PathBuf, u64)>> {
        let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
        entries.iter().map(|entry| Ok((entry.path(), entry.metadata()?.len()))).collect()
    };
    let (begun, first) = (Instant::now(), look()?);
    let (mut last, mut since) = (first.clone(), Instant::now());
    while begun.elapsed() < CHECKPOINT_PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
        let Ok(now) = look() else { continue };
        if now != last {
            (last, since) = (now, Instant::now());
        } else if last != first && QUIET < since.elapsed() {
            return Ok(());
        }
    }
    Err("the server wrote no checkpoint while it was idle".into())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            // A start reads past the page cache, and would wait for what is not written yet.
            fs::File::open(target)?.sync_all()?;
        }
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn table(starts: &[Start]) -> String {
    let mut text = String::from("\nmedians, seconds a million keys:\n");
    for (from, name) in [(From::Checkpoint, "checkpoint"), (From::Log, "log")] {
        for (is_cpu, what) in [(false, "start"), (true, "CPU")] {
            let of = |is_before| {
                let starts = starts.iter().filter(|start| start.from == from && start.is_before == is_before);
                median(starts.map(|start| if is_cpu { start.cpu_s } else { start.wall_s }).collect())
            };
            let line = match (of(false), of(true)) {
                (None, _) => continue,
                (Some(now), None) => format!("{now:.2}"),
                (Some(now), Some(before)) => {
                    format!("{now:.2}, before {before:.2} ({:.2}x)", report::ratio(now, before))
                }
            };
            writeln!(text, "  from the {name}, {what}: {line}").expect("a String takes everything");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_both_programs_stand_beside_each_other() {
        let start = |from, is_before, wall_s| Start { from, is_before, wall_s, cpu_s: 2.0 * wall_s };
        let starts = [
            start(From::Log, true, 3.0),
            start(From::Log, false, 1.0),
            start(From::Log, false, 9.0),
            start(From::Log, false, 1.5),
            start(From::Checkpoint, false, 0.5),
        ];
        let text = table(&starts);
        assert!(text.contains("from the log, start: 1.50, before 3.00 (0.50x)"), "{text}");
        assert!(text.contains("from the checkpoint, CPU: 1.00\n"), "{text}");
    }
}
