//! Starts, watches and stops the real server binary on loopback.
//!
//! The binary is `pinion` as cargo built it, or the one that `PINION_TEST_BIN` names. Since the flags
//! are etcd's, `PINION_TEST_BIN=/usr/bin/etcd` runs most tests against etcd itself, which is how the
//! tests were proven before they judged anything.
//!
//! Every wait has a deadline. A process is stopped by its own id, also when its test panics; its
//! directory and log are then kept and named.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of the harness")]

pub mod client;
#[allow(unsafe_code, reason = "prctl between fork and exec; see the module")]
pub mod seccomp;
pub mod stream;
pub mod watch_judge;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pinion::pb::etcdserverpb as pb;
use tokio::time::Instant;

use client::Client;

/// A server that is not ready by then never will be: even etcd in a loaded machine needs 3 s.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A server that refuses to start or was told to stop is gone by then.
const EXIT_DEADLINE: Duration = Duration::from_secs(20);

/// No test runs longer unless it was asked for more rounds.
pub const TEST_DEADLINE: Duration = Duration::from_secs(120);

/// Runs one test's future on a thread of its own, and fails it at the deadline.
pub fn block_on<T>(deadline: Duration, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        tokio::time::timeout(deadline, future).await.expect("the test ran past its deadline")
    })
}

/// A number from the environment, such as a count of rounds.
#[expect(clippy::disallowed_methods, reason = "how often a test runs is asked of its runner")]
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// The binary under test.
#[expect(clippy::disallowed_methods, reason = "which binary a test runs is asked of its runner")]
pub fn server_binary() -> PathBuf {
    match std::env::var("PINION_TEST_BIN") {
        Ok(path) => PathBuf::from(path),
        Err(_) => PathBuf::from(env!("CARGO_BIN_EXE_pinion")),
    }
}

/// Whether the binary under test is etcd, whose error texts and files are not ours.
pub fn server_is_etcd() -> bool {
    server_binary().file_name().is_some_and(|name| name == "etcd")
}

/// An installed program, or `None` with a line that says what is not tested without it.
#[expect(clippy::disallowed_methods, reason = "PATH is where installed programs are")]
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{program} is not installed (Debian: apt-get install etcd-server etcd-client)"));
    }
    found
}

/// Says loudly that a test did not test. Written past libtest's capture, which would swallow it.
pub fn skip(reason: &str) {
    use std::io::Write as _;
    let line = format!("\nSKIPPED {}: {reason}\n", test_name());
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
}

fn test_name() -> String {
    std::thread::current().name().unwrap_or("test").to_owned()
}

thread_local! {
    static DIRS: Cell<u32> = const { Cell::new(0) };
}

/// A directory for one test, on the disk that `target/` is on. Kept if the test fails.
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    pub fn new() -> Self {
        Self::inside(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    pub fn inside(parent: &Path) -> Self {
        let count = DIRS.get();
        DIRS.set(count + 1);
        let name = format!("{}-{}-{count}", test_name().replace("::", "-"), std::process::id());
        let path = parent.join(name);
        fs::create_dir_all(&path).unwrap();
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
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
    /// Soft and hard limit of locked memory in KiB.
    pub memlock_kib: Option<u32>,
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
            memlock_kib: None,
            forbid_io_uring: false,
        }
    }

    /// Adds a flag as typed.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    fn command(&self) -> Command {
        let mut command = match self.memlock_kib {
            None => Command::new(&self.binary),
            Some(kib) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -l {kib} && exec \"$0\" \"$@\"")]).arg(&self.binary);
                shell
            }
        };
        // The child must not see the runner's variables.
        let inherited: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).collect();
        for name in inherited {
            let text = name.to_string_lossy();
            if text.starts_with("ETCD") || text.starts_with("PINION_") {
                command.env_remove(&name);
            }
        }
        let client_url = format!("http://127.0.0.1:{}", self.client_port);
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let advertised = format!("http://127.0.0.1:{}", self.advertised_peer_port.unwrap_or(self.peer_port));
        let alone = || format!("{}={advertised}", self.name);
        let initial_cluster = self.initial_cluster.clone().unwrap_or_else(alone);
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
        let mut command = self.command();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.binary.display()));
        Server { child, launch: self.clone(), log_path, log_start, exit: None }
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

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    launch: Launch,
    log_path: PathBuf,
    log_start: u64,
    exit: Option<ExitStatus>,
}

/// How a server ended.
pub struct Exit {
    pub status: ExitStatus,
    /// What this run wrote to its standard output and error.
    pub output: String,
}

impl Exit {
    /// Fails unless the output has each of the words, whatever their case.
    pub fn assert_says(&self, words: &[&str]) {
        let output = self.output.to_lowercase();
        for word in words {
            assert!(
                output.contains(&word.to_lowercase()),
                "{:?} ({}) does not say {word:?}",
                self.output,
                self.status
            );
        }
        assert!(!output.contains("panicked at"), "a refusal is not a panic: {:?}", self.output);
        assert!(self.status.signal().is_none(), "ended by a signal: {} {:?}", self.status, self.output);
    }
}

impl Server {
    pub fn client_port(&self) -> u16 {
        self.launch.client_port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection.
    pub async fn connect(&self) -> Client {
        Client::connect(self.client_port()).await.unwrap_or_else(|error| {
            panic!("cannot connect to {}: {error}\n{}", self.client_port(), self.output_tail())
        })
    }

    /// What this run has written so far.
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.log_path).unwrap_or_default();
        let start = usize::try_from(self.log_start).unwrap().min(bytes.len());
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    fn output_tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits until a linearizable read is answered. Asked again and again, since neither a bound
    /// port nor a line in the log says that reads are served.
    pub async fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_DEADLINE;
        let probe = pb::RangeRequest { key: "ready?".into(), ..Default::default() };
        loop {
            if let Some(status) = self.try_exit() {
                return Err(format!("it ended with {status}:\n{}", self.output_tail()));
            }
            if let Ok(client) = Client::connect(self.client_port()).await
                && client.range(&probe).await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not ready after {READY_DEADLINE:?}:\n{}", self.output_tail()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn try_exit(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().unwrap();
        }
        self.exit
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.try_exit().is_none()
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_exit(&mut self) -> Exit {
        let deadline = Instant::now() + EXIT_DEADLINE;
        loop {
            if let Some(status) = self.try_exit() {
                return Exit { status, output: self.output() };
            }
            assert!(
                Instant::now() < deadline,
                "still running after {EXIT_DEADLINE:?}:\n{}",
                self.output_tail()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        if self.try_exit().is_none() {
            self.child.kill().unwrap();
            self.exit = Some(self.child.wait().unwrap());
        }
    }

    /// Any other signal, by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid]).status().unwrap();
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(mut self) -> Exit {
        self.signal("TERM");
        self.wait_exit().await
    }

    /// What a hang looks like from outside: where each thread waits, what lies in the sockets' queues,
    /// and whether another connection is served.
    pub async fn diagnosis(&self) -> String {
        let mut lines = Vec::new();
        let tasks = format!("/proc/{}/task", self.pid());
        for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            let field = |index: usize| fields.get(index).copied().unwrap_or("?");
            lines.push(format!(
                "thread {}: state {}, in {}, {} user and {} system ticks",
                read("comm").trim(),
                field(0),
                read("wchan"),
                field(11),
                field(12)
            ));
        }
        let port = format!(":{:04X} ", self.client_port());
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        lines.push("sockets (local, remote, state, send:receive queue):".to_owned());
        for line in sockets.lines().filter(|line| line.contains(&port)) {
            lines.push(line.split_whitespace().skip(1).take(4).collect::<Vec<_>>().join(" "));
        }
        let probe = async { Client::connect(self.client_port()).await?.get("r/000").await };
        let other = tokio::time::timeout(Duration::from_secs(5), probe).await;
        lines.push(format!("a get on a new connection: {other:?}"));
        lines.join("\n")
    }

    /// The largest resident memory so far, in bytes.
    pub fn resident_bytes_peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The resident memory now, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// What of it is the process's own, without the pages of mapped files.
    pub fn resident_bytes_own(&self) -> u64 {
        self.memory("RssAnon:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux reports memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} wrote last:\n{}", self.launch.binary.display(), self.output_tail());
        }
        self.kill();
    }
}
