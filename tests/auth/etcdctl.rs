//! Sessions with the real `etcdctl` about users and rights, beside a real etcd: what it prints and how it ends.

use std::path::Path;
use std::process::{Command, Stdio};

use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, etcds};

use crate::jwt::is_of;
use crate::manage::CHEAP;

/// What `etcdctl` prints, on both outputs, and whether it ends well. It has 20 s.
async fn run(etcdctl: &Path, port: u16, line: &str) -> (bool, String) {
    let mut command = Command::new("timeout");
    command.arg("20").arg(etcdctl).arg(format!("--endpoints=127.0.0.1:{port}"));
    command.args(line.split_whitespace()).env("ETCDCTL_API", "3");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // What it warns of carries the time and its own address.
    let errors = text(&output.stderr);
    let errors = errors.lines().filter(|line| !line.starts_with("{\"level\"")).collect::<Vec<_>>().join("\n");
    (output.status.success(), (text(&output.stdout) + &errors).replace(&port.to_string(), "PORT"))
}

/// From nothing to rights and back. Each release's own `etcdctl` talks to its etcd and to us.
const SESSION: &[&str] = &[
    "user list",
    "role list",
    "user add root:pw",
    "user add root:pw",
    "user add alice:a:b",
    "user add bob --no-password",
    "user add :pw",
    "role add reads",
    "role add reads",
    "role add writes",
    "role grant-permission reads read a b",
    "role grant-permission reads read point",
    "role grant-permission writes readwrite k --prefix",
    "role grant-permission writes write z --from-key",
    "role grant-permission none read a",
    "role get reads",
    "role get writes",
    "role get none",
    "user grant-role alice reads",
    "user grant-role alice writes",
    "user grant-role alice writes",
    "user grant-role nobody reads",
    "user get alice",
    "user get nobody",
    "user list",
    "put a 1",
    "auth disable",
    "auth enable",
    "auth enable",
    "get a",
    "put a 2",
    "user list",
    "get a --user=alice:wrong",
    "get a --user=nobody:pw",
    "get a --user=bob:pw",
    "get a --user=alice:a:b",
    "get point --user=alice:a:b",
    "get a z --user=alice:a:b",
    "put a 2 --user=alice:a:b",
    "put k/1 2 --user=alice:a:b",
    "put zz 2 --user=alice:a:b",
    "get zz --user=alice:a:b",
    "del k --prefix --user=alice:a:b",
    "del a --user=alice:a:b",
    "user add eve:pw --user=alice:a:b",
    "user get alice --user=alice:a:b",
    "user get root --user=alice:a:b",
    "role get reads --user=alice:a:b",
    "member list --user=alice:a:b -w simple --hex=false",
    "compact 2 --user=alice:a:b",
    "compact 2 --user=root:pw",
    "endpoint health --user=alice:a:b",
    "user revoke-role alice reads --user=root:pw",
    "user revoke-role alice reads --user=root:pw",
    "get a --user=alice:a:b",
    "role revoke-permission writes z --from-key --user=root:pw",
    "role revoke-permission writes q --user=root:pw",
    "role revoke-permission reads a b --user=root:pw",
    "role get writes --user=root:pw",
    "role get root --user=root:pw",
    "role delete writes --user=root:pw",
    "role delete root --user=root:pw",
    "role list --user=root:pw",
    "put k/1 2 --user=alice:a:b",
    "user delete alice --user=root:pw",
    "user delete root --user=root:pw",
    "user list --user=root:pw",
    "get a --user=alice:a:b",
    "auth disable --user=root:pw",
    "auth disable",
    "get a",
    "user delete root",
    "user list",
];

/// What 3.7 says, where these releases say something else: 3.4 lets everybody compact, and both do not tell what root
/// may.
const NEWER: &[(&[&str], &str, bool, &str)] = &[
    (&["3.4"], "compact 2 --user=alice:a:b", false, "Error: etcdserver: permission denied"),
    (&["3.4"], "compact 2 --user=root:pw", true, "compacted revision 2\n"),
    (
        &["3.4", "3.5"],
        "role get root --user=root:pw",
        true,
        "Role root\nKV Read:\n\t[, <open ended> (prefix )\nKV Write:\n\t[, <open ended> (prefix )\n",
    ),
];

/// Lines that say what is each server's own: ids, addresses, how long something took.
fn is_compared_by_its_end_alone(line: &str) -> bool {
    line.starts_with("member list") || line.starts_with("endpoint health")
}

#[test]
fn sessions_of_etcdctl_with_users_and_rights_read_as_with_etcd() {
    block_on(TEST_DEADLINE, async {
        for etcd in etcds("etcd") {
            let etcdctl = etcd.with_file_name("etcdctl");
            let work = WorkDir::new();
            let quick =
                |launch: Launch| launch.flag("--heartbeat-interval=10").flag("--election-timeout=100");
            let reference = quick(Launch::binary(&etcd, work.join("reference"))).flag(CHEAP).start().await;
            let subject = Launch::new(work.join("subject")).flag(CHEAP).start().await;
            let mut differences = Vec::new();
            for line in SESSION {
                let expected = run(&etcdctl, reference.client_port(), line).await;
                let told = run(&etcdctl, subject.client_port(), line).await;
                let newer = NEWER.iter().find(|(_, newer, ..)| newer == line);
                let newer = newer.filter(|(older, ..)| older.iter().any(|release| is_of(&etcd, release)));
                let expected = newer.map_or(expected, |(.., success, text)| (*success, (*text).to_owned()));
                let is_same = match is_compared_by_its_end_alone(line) {
                    true => expected.0 == told.0,
                    false => expected == told,
                };
                if !is_same {
                    differences.push(format!("{line}\n  etcd: {expected:?}\n  we:   {told:?}"));
                }
            }
            assert!(differences.is_empty(), "{}:\n{}", etcd.display(), differences.join("\n"));
        }
    });
}
