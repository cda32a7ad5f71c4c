//! How a member is started: binary, ports, directory, flags and limits.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::seccomp;
use crate::server::{Exit, Server};

/// The binary under test: the one that `PINION_TEST_BIN` names, or else what cargo built for this test. Cargo
/// tells it only at run time to a crate that is not a test itself.
#[expect(clippy::disallowed_methods, reason = "which binary a test runs is asked of its runner")]
pub fn server_binary() -> PathBuf {
    let named = std::env::var("PINION_TEST_BIN").or_else(|_| std::env::var("CARGO_BIN_EXE_pinion"));
    PathBuf::from(named.expect("started by `cargo test`, or with the server binary in PINION_TEST_BIN"))
}

/// Whether the binary under test is etcd, whose error texts and files are not ours.
pub fn server_is_etcd() -> bool {
    server_binary().file_name().is_some_and(|name| name == "etcd")
}

/// A loopback port that is free and that nobody here was given before. Below the range from which the
/// kernel serves clients and listeners that do not care: one of those may not take it meanwhile.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin apart.
    let start = std::process::id().wrapping_mul(997);
    loop {
        let place = start.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(10_000 + place % 22_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How to start one server.
#[derive(Clone)]
pub struct Launch {
    pub binary: PathBuf,
    pub name: String,
    pub data_dir: PathBuf,
    pub client_port: u16,
    pub peer_port: u16,
    /// Where other members reach it, when that is not its own port.
    pub advertised_peer_port: Option<u16>,
    /// `--initial-cluster`; itself alone unless given.
    pub initial_cluster: Option<String>,
    /// It finds the members itself, so `--initial-cluster` is left out.
    pub discovers: bool,
    pub flags: Vec<String>,
    /// Variables that it sees beside the runner's.
    pub env: Vec<(String, String)>,
    /// Where its output goes; beside the data directory unless given.
    pub log_path: Option<PathBuf>,
    /// A program and its arguments that starts the binary, such as `setpriv`.
    pub wrapper: Vec<String>,
    /// Soft and hard limit of locked memory in KiB.
    pub memlock_kib: Option<u32>,
    /// What the shell's `ulimit` is told about descriptors, such as `-n 256`, or `-S -n 256` for the soft
    /// limit alone.
    pub descriptors: Option<&'static str>,
    /// `io_uring_setup` fails with EPERM, as in a container with Docker's default profile.
    pub forbid_io_uring: bool,
}

impl Launch {
    /// The binary under test with data in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self::binary(server_binary(), data_dir)
    }

    pub fn binary(binary: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            name: "m0".to_owned(),
            data_dir: data_dir.into(),
            client_port: free_port(),
            peer_port: free_port(),
            advertised_peer_port: None,
            initial_cluster: None,
            discovers: false,
            flags: Vec::new(),
            env: Vec::new(),
            log_path: None,
            wrapper: Vec::new(),
            memlock_kib: None,
            descriptors: None,
            forbid_io_uring: false,
        }
    }

    /// Another name than m0.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// Where other members reach it.
    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.advertised_peer_port.unwrap_or(self.peer_port))
    }

    /// The `--initial-cluster` of these members.
    pub fn listed<'a>(members: impl IntoIterator<Item = &'a Self>) -> String {
        let listed = members.into_iter().map(|launch| format!("{}={}", launch.name, launch.peer_url()));
        listed.collect::<Vec<_>>().join(",")
    }

    /// Adds a flag as typed.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    fn command(&self) -> Command {
        let memlock = self.memlock_kib.map(|kib| format!("ulimit -l {kib} && "));
        let descriptors = self.descriptors.map(|limit| format!("ulimit {limit} && "));
        let limits: String = memlock.into_iter().chain(descriptors).collect();
        let mut words: Vec<OsString> = self.wrapper.iter().map(Into::into).collect();
        words.push(self.binary.clone().into());
        if !limits.is_empty() {
            let script = format!("{limits}exec \"$0\" \"$@\"");
            words.splice(..0, ["sh", "-c", &script].map(Into::into));
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        // The child must not see the runner's variables.
        let inherited: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
        for name in inherited {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD") || text.starts_with("PINION_") {
                command.env_remove(&name);
            }
        }
        let (client_url, advertised) = (self.client_url(), self.peer_url());
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let initial_cluster = self.initial_cluster.clone().unwrap_or_else(|| Self::listed([self]));
        command
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data_dir.display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={advertised}"))
            .arg("--logger=zap");
        if !self.discovers {
            command.arg(format!("--initial-cluster={initial_cluster}"));
        }
        // Behind all others: the last of two equal flags counts.
        command.args(&self.flags).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        if self.forbid_io_uring {
            seccomp::forbid_io_uring(&mut command);
        }
        // A group of its own: Ctrl-C in the terminal ends the test, whose drop ends the server.
        command.process_group(0);
        command
    }

    fn output_path(&self) -> PathBuf {
        if let Some(path) = &self.log_path {
            return path.clone();
        }
        let mut path = self.data_dir.clone().into_os_string();
        path.push(".log");
        PathBuf::from(path)
    }

    /// Starts the process and does not wait for anything.
    pub fn spawn(&self) -> Server {
        let log_path = self.output_path();
        let log = fs::OpenOptions::new().create(true).append(true).open(&log_path).unwrap();
        let log_start = log.metadata().unwrap().len();
        self.spawn_into(log.try_clone().unwrap().into(), log.into(), log_path, log_start)
    }

    /// Starts the process with other files or pipes for what it says, which `Server::output` does not see then.
    pub fn spawn_saying_to(&self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Server {
        self.spawn_into(stdout.into(), stderr.into(), self.output_path(), 0)
    }

    fn spawn_into(&self, stdout: Stdio, stderr: Stdio, log_path: PathBuf, log_start: u64) -> Server {
        let mut command = self.command();
        command.stdout(stdout).stderr(stderr);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.binary.display()));
        Server::new(child, self.clone(), log_path, log_start)
    }

    /// Starts the process and waits until it serves.
    pub async fn start(&self) -> Server {
        let mut server = self.spawn();
        match server.wait_ready().await {
            Ok(()) => server,
            Err(reason) => panic!("{} did not start: {reason}", self.binary.display()),
        }
    }

    /// Starts the process, which must end by itself and with an error.
    pub async fn start_refused(&self) -> Exit {
        let mut server = self.spawn();
        let exit = server.wait_exit().await;
        assert!(!exit.status.success(), "it ended without an error:\n{}", exit.output);
        exit
    }
}
