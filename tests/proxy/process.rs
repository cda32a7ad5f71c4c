//! A proxy as a process.
#![expect(clippy::disallowed_types, reason = "a process is waited for with a deadline, and writes to a file")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pinion_kit::client::Client;
use pinion_kit::{WorkDir, free_port, server_binary};

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(20);

/// A proxy that runs. Killed when it is dropped.
pub struct Proxy {
    pub port: u16,
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// One with these flags in front of these endpoints, when it takes connections.
    pub fn start(work: &WorkDir, endpoints: &[String], flags: &[String]) -> Self {
        let mut proxy = Self::spawn(Command::new(server_binary()), work, endpoints, flags);
        proxy.wait_for("ready to pass client requests on");
        proxy
    }

    /// etcd's own.
    pub fn start_etcds(etcd: &Path, work: &WorkDir, endpoints: &[String], flags: &[String]) -> Self {
        let mut proxy = Self::spawn(Command::new(etcd), work, endpoints, flags);
        proxy.wait_for_port();
        proxy
    }

    pub fn spawn(command: Command, work: &WorkDir, endpoints: &[String], flags: &[String]) -> Self {
        Self::spawn_at(command, work, free_port(), endpoints, flags)
    }

    pub fn spawn_at(
        mut command: Command,
        work: &WorkDir,
        port: u16,
        endpoints: &[String],
        flags: &[String],
    ) -> Self {
        let log = work.join(&format!("proxy-{port}.log"));
        command.args(["grpc-proxy", "start", &format!("--listen-addr=127.0.0.1:{port}")]);
        command.arg(format!("--advertise-client-url=127.0.0.1:{port}"));
        command.arg(format!("--endpoints={}", endpoints.join(","))).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { port, child: command.spawn().unwrap(), log }
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.port).await.unwrap()
    }

    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "no {what:?}: {ended:?} {}", self.output());
            std::thread::park_timeout(LOOK);
        }
    }

    /// Waits until the log says so.
    pub fn wait_for(&mut self, words: &str) {
        self.wait_until(words, |proxy| proxy.output().contains(words));
    }

    fn wait_for_port(&mut self) {
        self.wait_until("port", |proxy| std::net::TcpStream::connect(("127.0.0.1", proxy.port)).is_ok());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it runs on: {}", self.output());
            std::thread::park_timeout(LOOK);
        }
    }

    pub fn signal(&self, name: &str) {
        let told =
            Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Memory of its own, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the proxy wrote: {}", self.output());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Where a server on this port is dialed.
pub fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[expect(clippy::disallowed_methods, reason = "an endpoint beside the test is a thread")]
pub fn aside(run: impl FnOnce() + Send + 'static) {
    drop(std::thread::spawn(run));
}
