//! A member that runs: what it says, how it ends, what it takes.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tokio::time::Instant;

use crate::client::{CallError, Client};
use crate::launch::Launch;
use crate::pb::etcdserverpb as pb;
use crate::wait::{PATIENCE, POLL, eventually};

/// A server that is not ready by then never will be: even etcd in a loaded machine needs 3 s.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A server that refuses to start or was told to stop is gone by then.
const EXIT_DEADLINE: Duration = Duration::from_secs(20);

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
    pub(crate) fn new(child: Child, launch: Launch, log_path: PathBuf, log_start: u64) -> Self {
        Self { child, launch, log_path, log_start, exit: None }
    }

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

    /// What this run has written once these words are among it: a log line comes a moment after its reason.
    pub async fn says(&self, words: &str) -> String {
        eventually(async || {
            let output = self.output();
            if output.contains(words) { Ok(output) } else { Err(output) }
        })
        .await
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
            if let Ok(client) = Client::connect(self.client_port()).await {
                match client.range(&probe).await {
                    Ok(_) => return Ok(()),
                    // It asks for rights, which is an answer of its state as well.
                    Err(CallError::Status { code: 3, .. }) => return Ok(()),
                    Err(_) => {}
                }
            }
            if Instant::now() > deadline {
                return Err(format!("not ready after {READY_DEADLINE:?}:\n{}", self.output_tail()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until this run has written these words.
    pub async fn wait_output(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.output().contains(words) {
            assert!(self.is_running(), "it ended before it said {words:?}:\n{}", self.output());
            assert!(Instant::now() < deadline, "it does not say {words:?}:\n{}", self.output());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it was killed or found to have ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.exit.is_some()
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
