//! `pinion-bench`: measures any etcd v3 endpoint, and compares Pinion with etcd on the same machine.
//!
//! From the wire up: `frame` and `hpack` are HTTP/2's bytes, `http2` one connection without I/O,
//! `worker` a thread of connections, `client` a whole run; `workload`, `schedule` and `tally` say what is
//! asked, when, and what came of it. `compare` starts servers (`process`) and judges (`verdict`).
//! README.md tells how to read the figures.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a load generator is all shell: it reads clocks and files and starts threads; no state here is replicated"
)]

mod call;
mod cli;
mod client;
mod cluster;
mod compare;
mod directories;
mod disk;
mod disturb;
mod disturbance;
mod dummy;
mod failover;
mod fanout;
mod findings;
mod floor;
mod frame;
mod host;
mod hpack;
mod http2;
#[cfg(test)]
mod interop;
mod lease;
mod link;
mod messages;
mod people;
mod process;
mod protobuf;
mod report;
mod restart;
mod schedule;
mod secure;
mod selfcheck;
mod stage;
mod stream_cases;
mod stream_commands;
mod stream_verdict;
mod streams;
mod subject;
mod sys;
mod tally;
mod timeline;
mod verdict;
mod watch;
mod watchers;
mod worker;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    sys::catch_interrupts();
    match cli::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pinion-bench: {error}");
            ExitCode::from(2)
        }
    }
}
