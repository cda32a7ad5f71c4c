//! The README's one command for a cluster on one machine: `tuning/cluster.sh`.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::tls::{self, Holder};
use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, installed, server_binary, server_is_etcd};
use tokio::time::{Instant, sleep};

/// Three members that must elect somebody, in a debug build on a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(40);
const EXIT_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// The script while it runs. Asked to stop when dropped, which stops its members.
struct Script {
    child: Child,
    output: PathBuf,
}

impl Script {
    fn start(work: &WorkDir, port: u16) -> Self {
        Self::start_with(work, port, &[])
    }

    fn start_with(work: &WorkDir, port: u16, more: &[&str]) -> Self {
        let output = work.join("output");
        let file = fs::OpenOptions::new().create(true).append(true).open(&output).unwrap();
        file.set_len(0).unwrap();
        let child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/cluster.sh"))
            .arg("--dir")
            .arg(work.join("trial"))
            .args(["--port", &port.to_string()])
            .args(more)
            .args(["--", "--initial-cluster-token=trial"])
            .env("PINION", server_binary())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// All it has said, once `words` are among it.
    async fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            let output = fs::read_to_string(&self.output).unwrap();
            if output.contains(words) {
                return output;
            }
            assert!(Instant::now() < deadline, "no {words:?} in {output}");
            sleep(POLL).await;
        }
    }

    async fn stop(&mut self) -> ExitStatus {
        signal("TERM", self.child.id());
        self.wait_exit().await
    }

    async fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + EXIT_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the script does not end");
            sleep(POLL).await;
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            signal("TERM", self.child.id());
            drop(self.child.wait());
        }
    }
}

fn signal(name: &str, pid: u32) {
    Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status().unwrap();
}

/// A port from which the script's six are free. Below those that `free_port` gives: the script binds late,
/// and another test may not be given one of the six meanwhile; so each call begins elsewhere, too.
fn base_port() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let calls = CALLS.fetch_add(1, Ordering::Relaxed);
    let start = std::process::id().wrapping_mul(31).wrapping_add(calls * 90);
    let candidates = (0..100).map(|step| 4_000 + u16::try_from(start.wrapping_add(step) % 180).unwrap() * 32);
    let mut free = candidates.filter(|base| [0, 1, 10, 11, 20, 21].iter().all(|step| is_free(base + step)));
    free.next().expect("there are six free ports below 10,000")
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
        let port = base_port();
        let mut script = Script::start(&work, port);
        let told = script.wait_for("stops all that this script started").await;
        assert!(told.contains("3 members serve"), "{told}");
        let line = told.lines().find(|line| line.trim_start().starts_with("m1 ")).unwrap();
        let first_pid: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
        let second = Client::connect(port + 10).await.unwrap();
        let third = Client::connect(port + 20).await.unwrap();
        second.put_kv("greeting", "hello").await.unwrap();
        assert_eq!(third.get("greeting").await.unwrap().as_deref(), Some(&b"hello"[..]));
        signal("KILL", first_pid);
        script.wait_for("m1.sh starts it again").await;
        // A request that was on its way to a killed leader may be refused, so it is asked again.
        let deadline = Instant::now() + READY_DEADLINE;
        while let Err(error) = second.put_kv("greeting", "again").await {
            assert!(Instant::now() < deadline, "two of three members accept no write: {error}");
        }
        assert!(script.stop().await.success());
        let mut script = Script::start(&work, port);
        script.wait_for("stops all that this script started").await;
        let first = Client::connect(port).await.unwrap();
        assert_eq!(first.get("greeting").await.unwrap().as_deref(), Some(&b"again"[..]));
        assert!(script.stop().await.success());
    });
}

#[test]
fn the_script_makes_certificates_by_which_members_and_clients_know_each_other() {
    if server_is_etcd() || installed("openssl").is_none() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let port = base_port();
        let mut script = Script::start_with(&work, port, &["--tls"]);
        let told = script.wait_for("stops all that this script started").await;
        assert!(told.contains("ETCDCTL_CACERT=") && told.contains("https://127.0.0.1:"), "{told}");
        let file = |name: &str| work.join("trial").join("certificates").join(name);
        let holder =
            Holder { certificate: file("client.pem"), key: file("client.key"), serial: 0_u64.into() };
        let client = tls::connect(port + 10, &file("ca.pem"), Some(&holder)).await.unwrap();
        client.put_kv("greeting", "hello").await.unwrap();
        let nobody = tls::connect(port, &file("ca.pem"), None).await;
        let refused = match nobody {
            Err(_) => true,
            // By TLS 1.3 a client hears of it behind its own last word.
            Ok(client) => client.status().await.is_err(),
        };
        assert!(refused, "a client without a certificate is served");
        assert!(script.stop().await.success());
    });
}

/// It is the members that are asked, not whoever has their ports.
#[test]
fn the_script_says_which_member_did_not_start_and_why_and_ends_with_an_error() {
    if server_is_etcd() {
        return;
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let port = base_port();
        let refused = async |member: &str, why: &str| {
            let mut script = Script::start(&work, port);
            let status = script.wait_exit().await;
            let told = fs::read_to_string(&script.output).unwrap();
            assert!(!status.success(), "{told}");
            assert!(told.contains(&format!("{member} has ended")) && told.contains(why), "{told}");
            assert!(!told.contains("members serve"), "{told}");
        };
        for (taken, member) in [(port, "m1"), (port + 11, "m2")] {
            let _holder = TcpListener::bind(("127.0.0.1", taken)).unwrap();
            refused(member, "address already in use").await;
        }
        // Another one that cannot start.
        drop(fs::remove_dir_all(work.join("trial").join("m3")));
        fs::write(work.join("trial").join("m3"), "not a directory").unwrap();
        refused("m3", "ot a directory").await;
    });
}
