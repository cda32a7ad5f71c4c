//! A session with the real `etcdctl`, as a user has it.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, installed, server_is_etcd};
use tokio::time::Instant;

/// A command that goes on has printed what it must print by then.
const PRINT_DEADLINE: Duration = Duration::from_secs(15);

struct Ctl {
    program: PathBuf,
    endpoint: String,
}

impl Ctl {
    fn run(&self, args: &[&str], input: &str) -> (bool, String, String) {
        let mut child = Command::new(&self.program)
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint))
            .args(["--dial-timeout=5s", "--command-timeout=20s"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// Starts a command that goes on until it is stopped; what it prints goes to a file.
    fn start(&self, work: &WorkDir, name: &str, args: &[&str]) -> Running {
        let output = work.join(name);
        let file = fs::OpenOptions::new().create_new(true).write(true).open(&output).unwrap();
        let child = Command::new(&self.program)
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Running { child, output }
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let (success, stdout, stderr) = self.run(args, "");
        assert!(success, "etcdctl {args:?}: {stdout}{stderr}");
        stdout
    }

    /// Standard error of a command that must fail.
    fn fails(&self, args: &[&str]) -> String {
        let (success, stdout, stderr) = self.run(args, "");
        assert!(!success, "etcdctl {args:?} succeeded: {stdout}");
        stderr
    }
}

/// A command that watches, keeps alive or holds something. Killed when dropped.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    fn printed(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// Waits until it has printed what `is_enough`; a process tells nobody when it writes to a file.
    async fn until(&self, is_enough: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PRINT_DEADLINE;
        loop {
            let printed = self.printed();
            if is_enough(&printed) {
                return printed;
            }
            assert!(Instant::now() < deadline, "after {PRINT_DEADLINE:?} it has printed {printed:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn prints(&self, expected: &str) {
        let printed = self.until(|printed| printed.len() >= expected.len()).await;
        assert_eq!(printed, expected);
    }

    /// Ctrl-C, which lets it give back what it holds.
    async fn interrupt(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("sh").args(["-c", "kill -s INT \"$0\"", &pid]).status().unwrap().success());
        self.end().await
    }

    async fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PRINT_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on and prints {:?}", self.printed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn etcdctl_session_prints_what_it_prints_with_etcd() {
    let Some(program) = installed("etcdctl") else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let ctl = Ctl { program, endpoint: format!("http://127.0.0.1:{}", server.client_port()) };
        session(&ctl, &work.join("data"));
    });
}

fn session(ctl: &Ctl, data_dir: &Path) {
    // Keys.
    assert_eq!(ctl.ok(&["put", "fruit/apple", "red"]), "OK\n");
    assert_eq!(ctl.ok(&["put", "fruit/banana", "yellow"]), "OK\n");
    assert_eq!(ctl.ok(&["put", "--prev-kv", "fruit/apple", "green"]), "OK\nfruit/apple\nred\n");
    assert_eq!(ctl.ok(&["get", "fruit/apple"]), "fruit/apple\ngreen\n");
    assert_eq!(ctl.ok(&["get", "--rev=2", "fruit/apple"]), "fruit/apple\nred\n");
    assert_eq!(ctl.ok(&["get", "nothing"]), "");
    assert_eq!(ctl.ok(&["get", "--prefix", "fruit/"]), "fruit/apple\ngreen\nfruit/banana\nyellow\n");
    assert_eq!(ctl.ok(&["get", "--prefix", "--keys-only", "fruit/"]), "fruit/apple\n\nfruit/banana\n\n");
    assert_eq!(
        ctl.ok(&["get", "--prefix", "--limit=1", "--order=DESCEND", "fruit/"]),
        "fruit/banana\nyellow\n"
    );
    let json = ctl.ok(&["get", "--write-out=json", "fruit/apple"]);
    for part in
        ["\"revision\":4", "\"create_revision\":2", "\"mod_revision\":4", "\"version\":2", "\"count\":1"]
    {
        assert!(json.contains(part), "{part} in {json}");
    }

    // Transactions: compares, then, else.
    let txn = "value(\"fruit/apple\") = \"green\"\n\nput fruit/apple blue\nget fruit/banana\n\nput wrong branch\n\n";
    let (success, stdout, stderr) = ctl.run(&["txn"], txn);
    assert!(success, "{stderr}");
    assert_eq!(stdout, "SUCCESS\n\nOK\n\nfruit/banana\nyellow\n");
    let (success, stdout, stderr) = ctl.run(&["txn"], txn);
    assert!(success, "{stderr}");
    assert_eq!(stdout, "FAILURE\n\nOK\n");

    // Deletes.
    assert_eq!(ctl.ok(&["del", "--prev-kv", "fruit/banana"]), "1\nfruit/banana\nyellow\n");
    assert_eq!(ctl.ok(&["del", "fruit/banana"]), "0\n");
    assert_eq!(ctl.ok(&["del", "--prefix", "fruit/"]), "1\n");
    assert_eq!(ctl.ok(&["get", "--prefix", ""]), "wrong\nbranch\n");

    // Compaction.
    assert_eq!(ctl.ok(&["compaction", "--physical", "4"]), "compacted revision 4\n");
    assert!(ctl.fails(&["get", "--rev=3", "fruit/apple"]).contains("required revision has been compacted"));
    assert_eq!(ctl.ok(&["get", "--rev=4", "fruit/apple"]), "fruit/apple\ngreen\n");
    assert!(ctl.fails(&["compaction", "4"]).contains("required revision has been compacted"));
    assert!(ctl.fails(&["compaction", "4000"]).contains("required revision is a future revision"));

    // The member itself.
    assert!(
        ctl.run(&["endpoint", "health"], "").2.contains("is healthy") || {
            ctl.ok(&["endpoint", "health"]).contains("is healthy")
        }
    );
    let status = ctl.ok(&["endpoint", "status", "--write-out=fields"]);
    for field in ["\"Version\"", "\"DBSize\"", "\"Leader\"", "\"RaftIndex\"", "\"RaftTerm\""] {
        assert!(status.contains(field), "{field} in {status}");
    }
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(&format!("\"{name}\" :"))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(number("Leader"), number("MemberID"), "a lone member leads: {status}");
    assert!(number("RaftTerm") >= 1 && number("RaftIndex") > 5, "{status}");
    let members = ctl.ok(&["member", "list"]);
    assert_eq!(members.lines().count(), 1);
    let fields: Vec<&str> = members.trim().split(", ").collect();
    assert_eq!(fields[0], format!("{:x}", number("MemberID")), "{members}");
    assert_eq!(fields[1..3], ["started", "m0"], "{members}");
    assert_eq!(fields[4], ctl.endpoint, "{members}");
    assert_eq!(fields[5], "false", "not a learner: {members}");
    assert!(data_dir.is_dir());
    if !server_is_etcd() {
        println!("{status}\n{members}");
    }
}

#[test]
fn etcdctl_watch_prints_what_it_prints_with_etcd() {
    let Some(program) = installed("etcdctl") else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let ctl = Ctl { program, endpoint: format!("http://127.0.0.1:{}", server.client_port()) };
        for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            ctl.ok(&["put", key, value]);
        }
        // Each begins in the past: whatever is written while it starts, it sees.
        let all = ctl.start(&work, "all", &["watch", "--prefix", "--rev=2", "--prev-kv", ""]);
        let one = ctl.start(&work, "one", &["watch", "--rev=4", "a"]);
        let range = ctl.start(&work, "range", &["watch", "--rev=2", "a", "b"]);
        let json = ctl.start(&work, "json", &["watch", "--rev=3", "--write-out=json", "b"]);
        let shell = "echo $ETCD_WATCH_REVISION $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE";
        let exec = ctl.start(&work, "exec", &["watch", "--rev=4", "a", "--", "sh", "-c", shell]);
        let mut interactive = ctl.start(&work, "interactive", &["watch", "-i"]);
        let stdin = interactive.child.stdin.as_mut().unwrap();
        stdin.write_all(b"watch --rev=2 b\nwatch --rev=4 a\n").unwrap();
        ctl.ok(&["del", "b"]);
        ctl.ok(&["put", "c", "4"]);
        all.prints("PUT\na\n1\nPUT\nb\n2\nPUT\na\n1\na\n3\nDELETE\nb\n2\nb\n\nPUT\nc\n4\n").await;
        one.prints("PUT\na\n3\n").await;
        range.prints("PUT\na\n1\nPUT\na\n3\n").await;
        exec.until(|printed| printed.contains("\"PUT\" \"a\" \"3\"")).await;
        let printed = json.until(|printed| printed.contains("\"type\":1")).await;
        for part in ["\"Events\":[", "\"key\":\"Yg==\"", "\"mod_revision\":3", "\"Canceled\":false"] {
            assert!(printed.contains(part), "{part} in {printed}");
        }
        // Two watchers on one stream: either may be first.
        let mut printed =
            interactive.until(|printed| printed.len() >= "PUT\nb\n2\nPUT\na\n3\nDELETE\nb\n\n".len()).await;
        for part in ["PUT\nb\n2\n", "PUT\na\n3\n", "DELETE\nb\n\n"] {
            assert!(printed.contains(part), "{part:?} in {printed:?}");
            printed = printed.replacen(part, "", 1);
        }
        assert_eq!(printed, "");

        ctl.ok(&["compaction", "4"]);
        let compacted = ctl.fails(&["watch", "--rev=2", "a"]);
        assert!(
            compacted.contains("watch was canceled (etcdserver: mvcc: required revision has been compacted)"),
            "{compacted}"
        );
    });
}

#[test]
fn etcdctl_lease_prints_what_it_prints_with_etcd() {
    let Some(program) = installed("etcdctl") else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let ctl = Ctl { program, endpoint: format!("http://127.0.0.1:{}", server.client_port()) };
        assert_eq!(ctl.ok(&["lease", "list"]), "found 0 leases\n");
        let granted = ctl.ok(&["lease", "grant", "600"]);
        let id = granted.split(' ').nth(1).unwrap();
        assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
        assert!(i64::from_str_radix(id, 16).unwrap() > 0, "{id}");
        for key in ["b", "a"] {
            assert_eq!(ctl.ok(&["put", "--lease", id, key, "v"]), "OK\n");
        }
        let left = |printed: &str, rest: &str| {
            let head = format!("lease {id} granted with TTL(600s), remaining(");
            let seconds = printed.strip_prefix(&head).and_then(|tail| tail.strip_suffix(rest));
            let seconds: u32 =
                seconds.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{printed:?}"));
            assert!((590..=600).contains(&seconds), "{printed:?}");
        };
        left(&ctl.ok(&["lease", "timetolive", id]), "s)\n");
        let keys = ctl.ok(&["lease", "timetolive", id, "--keys"]);
        // In no order.
        left(&keys.replace("[b a]", "[a b]"), "s), attached keys([a b])\n");
        assert_eq!(
            ctl.ok(&["lease", "keep-alive", "--once", id]),
            format!("lease {id} keepalived with TTL(600)\n")
        );
        assert_eq!(ctl.ok(&["lease", "list"]), format!("found 1 leases\n{id}\n"));

        // Kept alive over its two seconds, and gone after.
        let short = ctl.ok(&["lease", "grant", "2"]);
        let short = short.split(' ').nth(1).unwrap();
        ctl.ok(&["put", "--lease", short, "kept", "v"]);
        let mut kept = ctl.start(&work, "kept", &["lease", "keep-alive", short]);
        let line = format!("lease {short} keepalived with TTL(2)\n");
        kept.prints(&line.repeat(5)).await;
        assert_eq!(ctl.ok(&["get", "kept"]), "kept\nv\n");
        // Ctrl-C would end it as well; so it is the lease's own end that shows.
        kept.child.kill().unwrap();
        kept.end().await;
        let gone = ctl.start(&work, "gone", &["watch", "--rev=4", "kept"]);
        gone.prints("PUT\nkept\nv\nDELETE\nkept\n\n").await;
        assert_eq!(ctl.ok(&["lease", "timetolive", short]), format!("lease {short} already expired\n"));

        assert_eq!(ctl.ok(&["lease", "revoke", id]), format!("lease {id} revoked\n"));
        assert_eq!(ctl.ok(&["get", "--prefix", ""]), "");
        assert_eq!(ctl.ok(&["lease", "timetolive", id]), format!("lease {id} already expired\n"));
        let unknown = "etcdserver: requested lease not found";
        assert!(ctl.fails(&["lease", "revoke", id]).contains(unknown));
        assert!(ctl.fails(&["put", "--lease", id, "k", "v"]).contains(unknown));
        assert!(ctl.fails(&["lease", "keep-alive", "--once", id]).contains(unknown));
        assert!(ctl.fails(&["lease", "grant", "9000000001"]).contains("etcdserver: too large lease TTL"));
    });
}

#[test]
fn etcdctl_lock_and_elect_print_what_they_print_with_etcd() {
    let Some(program) = installed("etcdctl") else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let ctl = Ctl { program, endpoint: format!("http://127.0.0.1:{}", server.client_port()) };
        assert_eq!(ctl.ok(&["lock", "l", "echo", "locked"]), "locked\n");
        let held =
            |printed: &str, name: &str| printed.starts_with(&format!("{name}/")) && printed.ends_with('\n');
        let mut first = ctl.start(&work, "first", &["lock", "l"]);
        let key = first.until(|printed| held(printed, "l")).await;
        let second = ctl.start(&work, "second", &["lock", "l", "echo", "my turn"]);
        // The second waits: its key lies behind the first's.
        let keys = || ctl.ok(&["get", "--prefix", "--keys-only", "l/"]).split_whitespace().count();
        let deadline = Instant::now() + PRINT_DEADLINE;
        while keys() < 2 {
            assert!(Instant::now() < deadline, "the second never queued");
        }
        assert_eq!(second.printed(), "");
        assert!(ctl.ok(&["get", "--prefix", "--keys-only", "l/"]).contains(key.trim()));
        first.interrupt().await;
        second.prints("my turn\n").await;

        let mut leader = ctl.start(&work, "leader", &["elect", "e", "one"]);
        let elected = leader.until(|printed| held(printed, "e") && printed.ends_with("\none\n")).await;
        let listener = ctl.start(&work, "listener", &["elect", "--listen", "e"]);
        listener.prints(&elected).await;
        let next = ctl.start(&work, "next", &["elect", "e", "two"]);
        let deadline = Instant::now() + PRINT_DEADLINE;
        while ctl.ok(&["get", "--prefix", "--keys-only", "e/"]).split_whitespace().count() < 2 {
            assert!(Instant::now() < deadline, "the candidate never queued");
        }
        assert_eq!(next.printed(), "");
        leader.interrupt().await;
        let elected_next = next.until(|printed| held(printed, "e") && printed.ends_with("\ntwo\n")).await;
        listener.prints(&format!("{elected}{elected_next}")).await;
    });
}
