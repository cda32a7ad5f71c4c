//! A session with the real `etcdctl`, as a user has it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::{Launch, TEST_DEADLINE, WorkDir, block_on, installed, server_is_etcd};

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
