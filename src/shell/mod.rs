//! The shell: everything that touches a clock, a file, a socket, a thread or the runtime.
//!
//! One folder a role: `client/`, `raft/`, `log/` and `store/`. `boot/` opens the data directory and starts
//! them; `runtime/` joins them and says where they run; `net/` and `peer/` are their sockets; `discovery/`
//! finds the first members.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is where the world is touched"
)]

mod boot;
pub mod client;
mod discovery;
mod log;
mod net;
mod peer;
mod raft;
mod runtime;
mod store;

use std::process::ExitCode;

use boot::{BootError, Ended};

use crate::config::{Config, LogFormat, LogLevel, LogOutput};

/// Exit code when a committed entry cannot be applied (`EX_SOFTWARE` of sysexits).
const EXIT_STATE_UNKNOWN: i32 = 70;

/// Exit code when the log lacks what this member once acknowledged to its leader (`EX_DATAERR`).
const EXIT_LOG_LOST: i32 = 65;

/// Exit code when this member's data differs from that of the others (`EX_DATAERR`, too).
const EXIT_DATA_DIFFERS: u8 = 65;

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
        LogFormat::Json => boot::logging::Format::Json,
        LogFormat::Console => boot::logging::Format::Console,
    };
    let output = match log.output {
        LogOutput::Stderr => boot::logging::Output::Stderr,
        LogOutput::Stdout => boot::logging::Output::Stdout,
    };
    boot::logging::start(level, format, output);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match boot::run(config) {
        Ok(Ended::Told) => ExitCode::SUCCESS,
        // As etcd: a supervisor that restarts what failed must not restart this for ever.
        Ok(Ended::Removed) | Err(BootError::Removed) => {
            tracing::error!("{}; the process ends", BootError::Removed);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = error.exit_code();
            let error = with_causes(&error);
            tracing::error!(error, "cannot start");
            eprintln!("pinion: {error}");
            ExitCode::from(code)
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
