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
use crate::types::Ticket;

/// Exit code when a committed entry cannot be applied (`EX_SOFTWARE` of sysexits).
const EXIT_STATE_UNKNOWN: i32 = 70;

/// Exit code when the log lacks what this member once acknowledged to its leader (`EX_DATAERR`).
const EXIT_LOG_LOST: i32 = 65;

/// Exit code when this member's data differs from that of the others (`EX_DATAERR`, too).
const EXIT_DATA_DIFFERS: u8 = 65;

/// The ticket of this member's own first request. Its shard number is none that exists.
const PUBLISH_TICKET: Ticket = Ticket(u64::MAX);

/// The shard number, one that no shard has, in the tickets of the store role's own requests.
const LEASE_SHARD: u64 = 0xffe;

/// The shard number, one that no shard has, in the tickets of questions about leases that other members
/// passed on to this one.
const PASSED_ON_SHARD: u64 = 0xffd;

/// The same for the raft role's own reads and requests.
const RAFT_SHARD: u64 = 0xffc;

/// Bits of a ticket below its shard number.
const TICKET_BITS: u32 = 52;

/// The ticket of the store role's own request about leases with this number.
fn lease_ticket(number: u64) -> Ticket {
    assert!(number < 1 << TICKET_BITS, "a request a nanosecond for fifty days");
    Ticket(LEASE_SHARD << TICKET_BITS | number)
}

/// The number in such a ticket, if it is one.
fn lease_number(ticket: Ticket) -> Option<u64> {
    (ticket.0 >> TICKET_BITS == LEASE_SHARD).then_some(ticket.0 & ((1 << TICKET_BITS) - 1))
}

/// The ticket of the question with this number that another member passed on.
fn passed_on_ticket(number: u64) -> Ticket {
    assert!(number < 1 << TICKET_BITS, "a question a nanosecond for fifty days");
    Ticket(PASSED_ON_SHARD << TICKET_BITS | number)
}

/// The number in such a ticket, if it is one.
fn passed_on_number(ticket: Ticket) -> Option<u64> {
    (ticket.0 >> TICKET_BITS == PASSED_ON_SHARD).then_some(ticket.0 & ((1 << TICKET_BITS) - 1))
}

/// The ticket of the raft role's own read with this number. 0 is for requests whose answer nobody
/// waits for.
fn raft_ticket(number: u64) -> Ticket {
    assert!(number < 1 << TICKET_BITS, "a read a nanosecond for fifty days");
    Ticket(RAFT_SHARD << TICKET_BITS | number)
}

/// The number in such a ticket, if it is one.
fn raft_number(ticket: Ticket) -> Option<u64> {
    (ticket.0 >> TICKET_BITS == RAFT_SHARD).then_some(ticket.0 & ((1 << TICKET_BITS) - 1))
}

/// The shard that waits for an answer; see `client::slots`.
fn shard_of(ticket: Ticket) -> usize {
    usize::try_from(ticket.0 >> TICKET_BITS).expect("twelve bits")
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
    fn tickets_of_the_roles_themselves_are_told_from_all_others() {
        for number in [0, 1, (1 << TICKET_BITS) - 1] {
            assert_eq!(lease_number(lease_ticket(number)), Some(number));
            assert!(runtime::placement::SHARDS_MAX <= shard_of(lease_ticket(number)));
            assert_eq!(lease_number(passed_on_ticket(number)), None);
            assert_eq!(passed_on_number(passed_on_ticket(number)), Some(number));
            assert_eq!(passed_on_number(lease_ticket(number)), None);
            assert!(runtime::placement::SHARDS_MAX <= shard_of(passed_on_ticket(number)));
        }
        assert_eq!((lease_number(PUBLISH_TICKET), passed_on_number(PUBLISH_TICKET)), (None, None));

        for number in [0, 1, (1 << TICKET_BITS) - 1] {
            assert_eq!(raft_number(raft_ticket(number)), Some(number));
            assert_eq!(lease_number(raft_ticket(number)), None);
            assert!(runtime::placement::SHARDS_MAX <= shard_of(raft_ticket(number)));
        }
        assert_eq!(lease_number(PUBLISH_TICKET), None);
        assert_eq!(raft_number(PUBLISH_TICKET), None);
        assert_eq!(lease_number(Ticket((LEASE_SHARD << TICKET_BITS) - 1)), None);
    }

    #[test]
    fn an_error_names_its_cause_once() {
        let io = || std::io::Error::from_raw_os_error(libc::EIO);
        let bare = pinion_wal::WalError::Io { operation: "syncing the log", source: io() };
        assert_eq!(with_causes(&bare), format!("syncing the log failed: {}", io()));
        let told = boot::BootError::Thread { what: "the log writer", source: io() };
        assert_eq!(with_causes(&told), told.to_string());
    }
}
