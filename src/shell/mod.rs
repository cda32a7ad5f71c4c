//! The shell: everything that touches a clock, a file, a socket, a thread or the runtime.
//!
//! One folder a role: `client/`, `raft/`, `log/` and `store/`. `boot/` opens the data directory and starts
//! them; `runtime/` joins them and says where they run; `net/` and `peer/` are their sockets; `discovery/`
//! finds the first members. `gateway/` and `proxy/` are programs of their own, without roles; `upstream/` is whom a proxy
//! passes calls on to. `demo/` runs members as processes; `doctor/` looks at the host.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this is where the world is touched"
)]

mod boot;
pub mod client;
mod demo;
mod discovery;
mod doctor;
mod gateway;
mod log;
mod net;
mod peer;
mod proxy;
mod raft;
mod runtime;
mod store;
mod upstream;

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use boot::{BootError, Ended};
use runtime::exit::with_causes;
use runtime::logging;

use crate::config::{
    CONFIG_FILE_BYTES_MAX, Config, Demo, Doctor, Gateway, GrpcProxy, LogConfig, LogFormat, LogLevel, Refused,
    Tool,
};

/// Runs a member until it is told to stop.
#[must_use]
pub fn run(config: &Config, warnings: &[String]) -> ExitCode {
    if let Err(error) = start_log(&config.process.log) {
        logging::complain(&format!("pinion: {error}\n"));
        return ExitCode::FAILURE;
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let ended = boot::run(config);
    let mut code = ExitCode::SUCCESS;
    logging::last_words(|| match ended {
        Ok(Ended::Told) => {}
        // As etcd: a supervisor that restarts what failed must not restart this for ever.
        Ok(Ended::Removed) | Err(BootError::Removed) => {
            tracing::error!("{}; the process ends", BootError::Removed);
        }
        Err(error) => {
            code = ExitCode::from(error.exit_code());
            tracing::error!(error = with_causes(&error), "cannot start");
        }
    });
    code
}

/// Begins to log as is configured.
fn start_log(log: &LogConfig) -> Result<(), logging::LogError> {
    let level = match log.level {
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Error => tracing::Level::ERROR,
    };
    let format = match log.format {
        LogFormat::Json => logging::Format::Json,
        LogFormat::Fitting if !io::stderr().is_terminal() => logging::Format::Json,
        LogFormat::Console | LogFormat::Fitting => logging::Format::Console,
    };
    logging::start(level, format, &log.outputs, log.rotation)
}

/// Forwards connections until it is told to stop.
fn run_gateway(gateway: &Gateway) -> ExitCode {
    if let Err(error) = start_log(&gateway.log) {
        logging::complain(&format!("pinion: {error}\n"));
        return ExitCode::FAILURE;
    }
    let ended = gateway::run(gateway);
    let mut code = ExitCode::SUCCESS;
    logging::last_words(|| {
        if let Err(error) = ended {
            code = ExitCode::FAILURE;
            tracing::error!(error = with_causes(&error), "the gateway cannot start");
        }
    });
    code
}

/// Passes calls on until it is told to stop.
fn run_proxy(proxy: &GrpcProxy) -> ExitCode {
    if let Err(error) = start_log(&proxy.front.process.log) {
        logging::complain(&format!("pinion: {error}\n"));
        return ExitCode::FAILURE;
    }
    logging::abort_on_panic();
    let ended = proxy::run(proxy);
    let mut code = ExitCode::SUCCESS;
    logging::last_words(|| {
        if let Err(error) = ended {
            code = ExitCode::FAILURE;
            tracing::error!(error = with_causes(&error), "the proxy cannot start");
        }
    });
    code
}

/// Shows three members until somebody has seen enough.
fn run_demo(demo: &Demo) -> ExitCode {
    match demo::run(demo) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::complain(&format!("pinion demo: {}\n", with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Tells what this host is like.
fn run_doctor(doctor: &Doctor) -> ExitCode {
    let (text, is_fit) = match doctor::run(doctor) {
        Ok(told) => told,
        Err(error) => {
            logging::complain(&format!("pinion doctor: {}\n", with_causes(&error)));
            return ExitCode::FAILURE;
        }
    };
    let code = print(&text);
    if is_fit { code } else { ExitCode::FAILURE }
}

/// Carries out a command that is no member.
#[must_use]
pub fn use_tool(tool: &Tool) -> ExitCode {
    let told = match tool {
        Tool::Gateway(gateway) => return run_gateway(gateway),
        Tool::GrpcProxy(proxy) => return run_proxy(proxy),
        Tool::Demo(demo) => return run_demo(demo),
        Tool::Doctor(doctor) => return run_doctor(doctor),
        Tool::Print(text) => Ok(text.clone()),
        Tool::Restore(restore) => boot::restore::restore(restore).map(|()| String::new()),
        Tool::Recover(recover) => boot::recover::recover(recover),
        Tool::SnapshotStatus { file, format } => boot::inspect::snapshot_status(file.as_ref(), *format),
        Tool::Status { dir, wal_dir, format } => {
            boot::inspect::status(dir.as_ref(), wal_dir.as_deref().map(Path::new), *format)
        }
        Tool::HashKv { path, wal_dir, revision, format } => {
            boot::inspect::hash_kv(path.as_ref(), wal_dir.as_deref().map(Path::new), *revision, *format)
        }
    };
    match told {
        Ok(text) => print(&text),
        Err(error) => {
            logging::complain(&format!("pinion: {}\n", with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The text of a configuration file.
///
/// # Errors
/// Why it cannot be read.
pub fn read_config(path: &str) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    // A pipe or a device need not end.
    let read = file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    if CONFIG_FILE_BYTES_MAX < text.len() as u64 {
        return Err(format!("more than {CONFIG_FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// Says why the command line is refused.
#[must_use]
pub fn refuse(refused: &Refused) -> ExitCode {
    logging::complain(&format!("pinion: {}\n", refused.message));
    ExitCode::from(refused.exit_code)
}

/// Prints what the command line asked for.
#[must_use]
pub fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // The reader has seen enough, as `head` has.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            logging::complain(&format!("pinion: cannot write to standard output: {error}\n"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
