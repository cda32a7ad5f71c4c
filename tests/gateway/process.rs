//! A gateway as a process, and endpoints that are a few lines of the test's own.
#![expect(clippy::disallowed_types, reason = "a process is waited for with a deadline, and writes to a file")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use pinion_kit::{WorkDir, free_port, server_binary};

/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_millis(20);

/// A gateway that runs. Killed when it is dropped.
pub struct Gateway {
    pub port: u16,
    child: Child,
    log: PathBuf,
}

impl Gateway {
    /// One with these flags, when it is ready.
    pub fn start(work: &WorkDir, flags: &[String]) -> Self {
        Self::start_as(Command::new(server_binary()), work, flags)
    }

    /// The same, run by another program or with more than flags.
    pub fn start_as(command: Command, work: &WorkDir, flags: &[String]) -> Self {
        let mut gateway = Self::spawn_as(command, work, flags);
        gateway.wait_for("ready to forward client connections");
        gateway
    }

    pub fn spawn_as(mut command: Command, work: &WorkDir, flags: &[String]) -> Self {
        let port = free_port();
        let log = work.join(&format!("gateway-{port}.log"));
        command.args(["gateway", "start", &format!("--listen-addr=127.0.0.1:{port}")]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        Self { port, child: command.spawn().unwrap(), log }
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until the log says so, so many times.
    pub fn wait_for_times(&mut self, words: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.output().matches(words).count() < times {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no {words:?}: {ended:?} {}",
                self.output()
            );
            std::thread::park_timeout(LOOK);
        }
    }

    pub fn wait_for(&mut self, words: &str) {
        self.wait_for_times(words, 1);
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

    /// Waits until its port is free. The kernel takes io_uring's hold of a socket away some time after a process has
    /// ended.
    pub fn wait_for_its_port(&self) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = TcpListener::bind(("127.0.0.1", self.port)) {
            assert!(Instant::now() < deadline, "the port is not free: {error}");
            std::thread::park_timeout(LOOK);
        }
    }

    pub fn signal(&self, name: &str) {
        let told = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Memory of its own, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the gateway wrote: {}", self.output());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An endpoint that says its name to each connection and then sends back what comes.
pub struct Echo {
    pub port: u16,
    listener: Option<TcpListener>,
}

impl Echo {
    pub fn start(name: &'static str) -> Self {
        Self::start_at(name, free_port())
    }

    pub fn start_at(name: &'static str, port: u16) -> Self {
        let listener = listen(port);
        let accepting = listener.try_clone().unwrap();
        spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                spawn(move || {
                    stream.write_all(name.as_bytes()).ok();
                    let mut from = stream.try_clone().unwrap();
                    std::io::copy(&mut from, &mut stream).ok();
                    stream.shutdown(std::net::Shutdown::Write).ok();
                });
            }
        });
        Self { port, listener: Some(listener) }
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Accepts no more.
    pub fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            shut(&listener);
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens on a port that may have been used before.
pub fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).unwrap()
}

/// Ends a listener that others have clones of, and wakes whoever accepts.
fn shut(listener: &TcpListener) {
    socket2::SockRef::from(listener).shutdown(std::net::Shutdown::Both).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "an endpoint beside the test is a thread")]
pub fn spawn<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::spawn(run)
}

/// The next bytes, as many as `wanted` has.
pub fn hears(stream: &mut TcpStream, wanted: &str) {
    let mut bytes = vec![0; wanted.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), wanted);
}

/// The name of whoever is at the other end.
pub fn name_of(gateway: &Gateway) -> String {
    let mut bytes = [0; 1];
    gateway.connect().read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Whether the other side ends the connection without a word.
pub fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

/// `--endpoints` and a short `--retry-delay`.
pub fn flags(endpoints: &[String]) -> Vec<String> {
    vec![format!("--endpoints={}", endpoints.join(",")), "--retry-delay=100ms".to_owned()]
}
