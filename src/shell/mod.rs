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
use runtime::exit::with_causes;

use crate::config::{Config, LogFormat, LogLevel, LogOutput};

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
