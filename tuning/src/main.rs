//! `pinion-tuning check`: whether this host gives Pinion what its latency and durability depend on.
//!
//! Reads `/proc` and `/sys` and changes nothing. Each finding says what was found, what it costs and
//! what to do; `tuning/README.md` tells the reasons at length, and how to undo each change.

mod check;
mod cores;
mod disk;
mod host;

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use check::{Finding, Verdict};
use host::Host;

#[derive(Parser)]
#[command(name = "pinion-tuning", version, about = "Checks a host against what Pinion depends on")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// A list of cores. A type of its own, since clap would read a set as an option given many times.
#[derive(Clone)]
struct Cores(BTreeSet<u32>);

#[derive(Subcommand)]
enum Command {
    /// Look at kernel, limits, cores and disk; ends with 1 if Pinion could not start or not be durable
    Check {
        /// Where the data will be; the nearest directory that exists is looked at
        #[arg(long, default_value = "default.etcd")]
        data_dir: PathBuf,
        /// Cores that roles are pinned to, such as 0-2,5; interrupts should not be served there
        #[arg(long, default_value = "", value_parser = read_cores)]
        cores: Cores,
    },
}

fn main() -> ExitCode {
    let Command::Check { data_dir, cores: Cores(cores) } = Arguments::parse().command;
    let findings = check::all(&Host::this(), &data_dir, &cores);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let mut text: String = findings.iter().map(lines).collect();
    text.push_str(&format!(
        "\n{} pass, {} warn, {} fail, {} unknown\n",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Unknown)
    ));
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return ExitCode::from(2),
        _ => {}
    }
    if count(Verdict::Fail) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read_cores(text: &str) -> Result<Cores, String> {
    let cores = cores::parse_list(text);
    cores.map(Cores).ok_or_else(|| "expected core numbers and ranges such as 0-2,5".to_owned())
}

fn lines(finding: &Finding) -> String {
    let mut text = format!("{:7} {:22} {}\n", finding.verdict.word(), finding.name, finding.found);
    if !finding.advice.is_empty() {
        text.push_str(&format!("{:30} {}\n", "", finding.advice));
    }
    text
}
