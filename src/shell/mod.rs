//! The shell: everything that touches a clock, a file, a socket, a thread or the runtime.
//!
//! `boot` opens the data directory and starts the roles; `consensus`, `state_machine`, `client` and
//! `log_writer` are the roles' loops; `mesh` and `wiring` join them; `placement` says where they run.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is where the world is touched"
)]

mod boot;
mod checkpoint_file;
pub mod client;
mod client_role;
mod consensus;
mod data_dir;
mod host;
mod log_writer;
mod logging;
mod mesh;
#[expect(unused_imports, reason = "the raft role does not use it yet")]
#[cfg_attr(not(test), expect(dead_code, reason = "the raft role does not use it yet"))]
mod peer;
mod placement;
mod pulse;
mod recovery;
mod state_machine;
mod wiring;

use std::process::ExitCode;

use crate::config::{Config, LogFormat, LogLevel, LogOutput};
use crate::types::Ticket;

/// Exit code when a committed entry cannot be applied (`EX_SOFTWARE` of sysexits).
const EXIT_STATE_UNKNOWN: i32 = 70;

/// The ticket of this member's own first request. Its shard number is none that exists.
const PUBLISH_TICKET: Ticket = Ticket(u64::MAX);

/// The shard that waits for an answer; see `client::slots`.
fn shard_of(ticket: Ticket) -> usize {
    usize::try_from(ticket.0 >> 52).expect("twelve bits")
}

/// Runs a member until it is told to stop.
#[must_use]
pub fn run(config: &Config, warnings: &[String]) -> ExitCode {
    let log = &config.process.log;
    let level = match log.level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    };
    let format = match log.format {
        LogFormat::Json => logging::Format::Json,
        LogFormat::Console => logging::Format::Console,
    };
    let output = match log.output {
        LogOutput::Stderr => logging::Output::Stderr,
        LogOutput::Stdout => logging::Output::Stdout,
    };
    logging::start(level, format, output);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match boot::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = with_causes(&error);
            tracing::error!(error, "cannot start");
            eprintln!("pinion: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, without saying twice what a text already contains.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_cause_once() {
        let io = || std::io::Error::from_raw_os_error(libc::EIO);
        let bare = pinion_wal::WalError::Io { operation: "syncing the log", source: io() };
        assert_eq!(with_causes(&bare), format!("syncing the log failed: {}", io()));
        let told = boot::BootError::Thread { what: "the log writer", source: io() };
        assert_eq!(with_causes(&told), told.to_string());
    }
}
