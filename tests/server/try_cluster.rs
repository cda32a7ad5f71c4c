//! The README's one command for a cluster on one machine: `tuning/cluster.sh`.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::harness::client::Client;
use crate::harness::{TEST_DEADLINE, WorkDir, block_on, free_port, server_binary, server_is_etcd};

/// Three members that must elect somebody, in a debug build on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(40);
const EXIT_DEADLINE: Duration = Duration::from_secs(60);

/// The script while it runs. Asked to stop when dropped, which stops its members.
struct Script {
    child: Child,
    output: std::sync::mpsc::Receiver<String>,
}

impl Script {
    fn start(dir: &Path, port: u16) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/cluster.sh");
        let mut child = Command::new(script)
            .arg("--dir")
            .arg(dir)
            .args(["--port", &port.to_string(), "--", "--initial-cluster-token=trial"])
            .env("PINION", server_binary())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, output) = std::sync::mpsc::channel();
        let pipe = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            pipe.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)));
        });
        Self { child, output }
    }

    /// The lines up to the first that contains `words`.
    fn wait_for(&self, words: &str) -> Vec<String> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.output.recv_timeout(left);
            lines.push(line.unwrap_or_else(|_| panic!("no {words:?} in {lines:#?}")));
            if lines.last().is_some_and(|line| line.contains(words)) {
                return lines;
            }
        }
    }

    fn stop(&mut self) -> ExitStatus {
        signal("TERM", self.child.id());
        let deadline = Instant::now() + EXIT_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the script does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.stop();
        }
    }
}

fn signal(name: &str, pid: u32) {
    Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status().unwrap();
}

/// A port from which the script's six are free.
fn base_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let base = free_port();
        if [1, 10, 11, 20, 21].iter().all(|step| is_free(base + step)) {
            return base;
        }
    }
}

/// Puts on one member and gets on another; again with the first one killed and, after that, with the
/// script started anew on the same directory.
#[test]
fn the_script_of_the_readme_starts_a_cluster_that_outlives_a_member_and_a_restart() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let dir = work.join("trial");
        let port = base_port();
        let mut script = Script::start(&dir, port);
        let told = script.wait_for("stops all that this script started");
        assert!(told.iter().any(|line| line.contains("3 members serve")), "{told:#?}");
        let pid_of = |member: &str| -> u32 {
            let line = told.iter().find(|line| line.trim_start().starts_with(member)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let second = Client::connect(port + 10).await.unwrap();
        let third = Client::connect(port + 20).await.unwrap();
        second.put_kv("greeting", "hello").await.unwrap();
        assert_eq!(third.get("greeting").await.unwrap().as_deref(), Some(&b"hello"[..]));
        signal("KILL", pid_of("m1"));
        let told = script.wait_for("m1 ended");
        assert!(told.last().unwrap().contains("m1.sh starts it again"), "{told:#?}");
        // A request that was on its way to a killed leader may be refused, so it is asked again.
        let deadline = Instant::now() + READY_DEADLINE;
        while let Err(error) = second.put_kv("greeting", "again").await {
            assert!(Instant::now() < deadline, "two of three members accept no write: {error}");
        }
        assert!(script.stop().success());
        let mut script = Script::start(&dir, port);
        script.wait_for("stops all that this script started");
        let first = Client::connect(port).await.unwrap();
        assert_eq!(first.get("greeting").await.unwrap().as_deref(), Some(&b"again"[..]));
        assert!(script.stop().success());
    });
}
