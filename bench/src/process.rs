//! A server under test as a process: started on fresh ports and a fresh directory, watched, and ended.
//!
//! Invariants: a `Server` that goes out of scope has been killed and reaped, by pid; should this process
//! die first, however it dies, the kernel kills the server (`sys::confine`).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::call;
use crate::client::{ClientError, Endpoint};
use crate::secure::{Blocking, Certificates, Speaks};
use crate::subject::Pid;
use crate::sys;

/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks.
const POLL: Duration = Duration::from_millis(1);
/// How much of a log is shown when its server has failed.
const LOG_TAIL_BYTES: usize = 2000;

/// What went wrong with a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error("cannot start {program}: {source}")]
    Start { program: PathBuf, source: io::Error },
    #[error("{name} ended before it answered ({status}); its log says:\n{log}")]
    Ended { name: String, status: ExitStatus, log: String },
    #[error("{name} did not answer within {START_TIMEOUT:?}: {error}; its log says:\n{log}")]
    Silent { name: String, error: ClientError, log: String },
    #[error("{name} did not end within {STOP_TIMEOUT:?} of SIGTERM")]
    DidNotEnd { name: String },
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error("interrupted")]
    Interrupted,
}

/// How to start a server that takes etcd's flags.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub name: String,
    pub program: PathBuf,
    /// After the flags that every server gets.
    pub extra_args: Vec<String>,
    /// Cores it may use; none is all.
    pub cpus: Vec<usize>,
    /// Its clients come by TLS.
    pub tls: Option<Certificates>,
}

impl Launch {
    /// The first line of `--version`.
    pub(crate) fn version(&self) -> io::Result<String> {
        let output = Command::new(&self.program).arg("--version").stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().next().unwrap_or("no version told").trim().to_owned())
    }
}

/// How a server is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StopSignal {
    /// SIGTERM: it may tidy up
    Term,
    /// SIGKILL: it may not
    Kill,
}

/// What makes a server a member of its cluster; the same at each of its starts.
#[derive(Debug, Clone)]
struct Seat {
    name: String,
    /// For clients, for members.
    ports: [u16; 2],
    initial_cluster: String,
}

impl Seat {
    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    launch: Launch,
    child: Child,
    directory: PathBuf,
    seat: Seat,
    pub endpoint: Endpoint,
    /// From exec to the first answer of a linearizable read.
    pub start_time: Duration,
}

impl Server {
    /// Starts a server on `directory` and two free ports, and waits for its first answer.
    pub(crate) fn start(launch: &Launch, directory: &Path) -> Result<Self, ProcessError> {
        let mut servers = Self::start_together(launch, directory, &["bench"])?;
        Ok(servers.remove(0))
    }

    /// Starts one server for each name, as members of one cluster, and waits until each of them answers.
    /// Several have a directory each.
    pub(crate) fn start_together(
        launch: &Launch,
        directory: &Path,
        names: &[&str],
    ) -> Result<Vec<Self>, ProcessError> {
        let ports = free_ports(2 * names.len())
            .map_err(|source| ProcessError::Io { operation: "find a port", source })?;
        let mut seats: Vec<Seat> = names
            .iter()
            .zip(ports.chunks(2))
            .map(|(name, ports)| Seat {
                name: (*name).to_owned(),
                ports: [ports[0], ports[1]],
                initial_cluster: String::new(),
            })
            .collect();
        let listed: Vec<String> =
            seats.iter().map(|seat| format!("{}={}", seat.name, seat.peer_url())).collect();
        let mut servers = Vec::new();
        let begin = Instant::now();
        for seat in &mut seats {
            seat.initial_cluster = listed.join(",");
            let own = if names.len() == 1 { directory.to_owned() } else { directory.join(&seat.name) };
            servers.push(Self::spawn(launch, &own, seat)?);
        }
        for server in &mut servers {
            server.wait_for_answer(begin)?;
        }
        Ok(servers)
    }

    /// Starts the process. It does not answer yet.
    fn spawn(launch: &Launch, directory: &Path, seat: &Seat) -> Result<Self, ProcessError> {
        let address = SocketAddr::from(([127, 0, 0, 1], seat.ports[0]));
        let client = format!("{}://{address}", if launch.tls.is_some() { "https" } else { "http" });
        let peer = seat.peer_url();
        let log_path = directory.join("server.log");
        let io = |operation| move |source| ProcessError::Io { operation, source };
        fs::create_dir_all(directory).map_err(io("create the data directory"))?;
        let log = File::options().create(true).append(true).open(&log_path).map_err(io("open the log"))?;
        let mut command = Command::new(&launch.program);
        command
            .arg(format!("--name={}", seat.name))
            .arg(format!("--data-dir={}", directory.join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", seat.initial_cluster))
            .args(launch.tls.iter().flat_map(Certificates::flags))
            .args(&launch.extra_args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io("open the log"))?)
            .stderr(log);
        sys::confine(&mut command, &launch.cpus);
        let child = command
            .spawn()
            .map_err(|source| ProcessError::Start { program: launch.program.clone(), source })?;
        let tls = launch.tls.as_ref().map(|certificates| Arc::clone(&certificates.config));
        let endpoint = Endpoint { tls, ..Endpoint::plain(address) };
        Ok(Self {
            launch: launch.clone(),
            child,
            directory: directory.to_owned(),
            seat: seat.clone(),
            endpoint,
            start_time: Duration::ZERO,
        })
    }

    fn wait_for_answer(&mut self, begin: Instant) -> Result<(), ProcessError> {
        loop {
            let error = match call::probe(&self.endpoint, Duration::from_secs(5)) {
                Ok(()) => {
                    self.start_time = begin.elapsed();
                    return Ok(());
                }
                Err(error) => error,
            };
            let name = self.launch.name.clone();
            let ended =
                self.child.try_wait().map_err(|source| ProcessError::Io { operation: "wait", source })?;
            if let Some(status) = ended {
                return Err(ProcessError::Ended { name, status, log: self.log_tail() });
            }
            if sys::is_interrupted() {
                return Err(ProcessError::Interrupted);
            }
            if START_TIMEOUT < begin.elapsed() {
                return Err(ProcessError::Silent { name, error, log: self.log_tail() });
            }
            std::thread::sleep(POLL);
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.directory.join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    /// Ends the server and waits until it is gone. Returns how long that took.
    pub(crate) fn stop(&mut self, signal: StopSignal) -> Result<Duration, ProcessError> {
        let io = |source| ProcessError::Io { operation: "end the server", source };
        let begin = Instant::now();
        let number = match signal {
            StopSignal::Term => libc::SIGTERM,
            StopSignal::Kill => libc::SIGKILL,
        };
        self.signal(number)?;
        while self.child.try_wait().map_err(io)?.is_none() {
            if STOP_TIMEOUT < begin.elapsed() {
                return Err(ProcessError::DidNotEnd { name: self.launch.name.clone() });
            }
            std::thread::sleep(POLL);
        }
        Ok(begin.elapsed())
    }

    /// Ends the server and starts it again on the same directory and ports.
    pub(crate) fn restart(mut self, signal: StopSignal) -> Result<Self, ProcessError> {
        self.stop(signal)?;
        self.start_again()
    }

    /// Starts a server that has ended on the same directory and ports, and waits for its first answer.
    pub(crate) fn start_again(self) -> Result<Self, ProcessError> {
        let begin = Instant::now();
        let mut server = Self::spawn(&self.launch, &self.directory, &self.seat)?;
        server.wait_for_answer(begin)?;
        Ok(server)
    }

    /// The same by another program.
    pub(crate) fn start_again_as(mut self, launch: &Launch) -> Result<Self, ProcessError> {
        self.launch = launch.clone();
        self.start_again()
    }

    /// Sends the process a signal and does not wait for what it does.
    pub(crate) fn signal(&self, number: libc::c_int) -> Result<(), ProcessError> {
        let io = |source| ProcessError::Io { operation: "signal the server", source };
        sys::send_signal(self.child.id(), number).map_err(io)
    }

    /// The process, to be looked at.
    pub(crate) fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// How often it has synced its log, if its `/metrics` tells.
    pub(crate) fn wal_syncs(&self) -> Option<u64> {
        let mut stream = Blocking::connect(&self.endpoint, Duration::from_secs(2), Speaks::Http1).ok()?;
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.endpoint.authority
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut reply = Vec::new();
        // A server without metrics may leave the connection open: what came by then is looked at.
        drop(stream.take(4 << 20).read_to_end(&mut reply));
        parse_wal_syncs(&String::from_utf8_lossy(&reply))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either call fails only when the process has been reaped already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn parse_wal_syncs(metrics: &str) -> Option<u64> {
    let prefix = "etcd_disk_wal_fsync_duration_seconds_count ";
    metrics.lines().find_map(|line| line.strip_prefix(prefix))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_read_from_the_metrics() {
        let metrics = "# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n\
                       etcd_disk_wal_fsync_duration_seconds_count 12\n";
        assert_eq!(parse_wal_syncs(metrics), Some(12));
        assert_eq!(parse_wal_syncs("404"), None);
    }

    #[test]
    fn a_program_that_ends_at_once_is_an_error_with_its_log() {
        let scratch = crate::disk::ScratchDir::create(
            &std::env::temp_dir(),
            &format!("pinion-bench-process-{}", std::process::id()),
            false,
        )
        .unwrap();
        let launch = Launch {
            name: "ls".to_owned(),
            program: "ls".into(), // does not know --name
            extra_args: Vec::new(),
            cpus: Vec::new(),
            tls: None,
        };
        let error = Server::start(&launch, &scratch.path).unwrap_err().to_string();
        assert!(error.contains("ended before it answered"), "{error}");
        assert!(error.contains("--name"), "{error}");
    }
}
