//! The `pinion` binary: a command without a server, or a member: parse, then start the shell.

use std::process::ExitCode;

use pinion::config::{self, Parsed};
use pinion::{metrics, shell};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match config::parse_tool(&args) {
        Some(Ok(tool)) => return shell::use_tool(&tool),
        Some(Err(refused)) => return shell::refuse(&refused),
        None => {}
    }
    let variables = std::env::vars_os().filter_map(utf8);
    match config::parse(args, variables, shell::read_config) {
        Parsed::Print(text) => shell::print(&text),
        Parsed::PrintMetrics => shell::print(&metrics::markdown()),
        Parsed::Refused(refused) => shell::refuse(&refused),
        Parsed::Run { config, warnings } => shell::run(&config, &warnings),
    }
}

/// A variable that is not UTF-8 cannot be one of ours.
fn utf8((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}
