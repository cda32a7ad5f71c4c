//! `pinion-tuning check`: whether this host gives Pinion what its latency and durability depend on.
//!
//! Reads `/proc` and `/sys` and changes nothing. Each finding says what was found, what it costs and
//! what to do; `tuning/README.md` tells the reasons at length, and how to undo each change.

mod check;
mod cores;
mod disk;
mod host;

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

#[derive(Subcommand)]
enum Command {
    /// Look at kernel, limits, cores and disk; ends with 1 if Pinion could not start or not be durable
    Check {
        /// Where the data will be; the nearest directory that exists is looked at
        #[arg(long, default_value = "default.etcd")]
        data_dir: PathBuf,
        /// Cores that roles are pinned to, such as 0-2,5; interrupts should not be served there
        #[arg(long, default_value = "")]
        cores: String,
    },
}

fn main() -> ExitCode {
    let Command::Check { data_dir, cores } = Arguments::parse().command;
    let Some(cores) = cores::parse_list(&cores) else {
        eprintln!("--cores={cores}: expected core numbers and ranges such as 0-2,5");
        return ExitCode::from(2);
    };
    let findings = check::all(&Host::this(), &data_dir, &cores);
    for finding in &findings {
        print(finding);
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    println!(
        "\n{} pass, {} warn, {} fail, {} unknown",
        count(Verdict::Pass),
        count(Verdict::Warn),
        count(Verdict::Fail),
        count(Verdict::Unknown)
    );
    if count(Verdict::Fail) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn print(finding: &Finding) {
    println!("{:7} {:22} {}", finding.verdict.word(), finding.name, finding.found);
    if !finding.advice.is_empty() {
        println!("{:30} {}", "", finding.advice);
    }
}
