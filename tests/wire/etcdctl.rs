//! `etcdctl` against a real etcd and against us: what a person sees must be the same, line by line.
//!
//! Numbers that a server chooses for itself (identities, leases) are masked, as runs of ten digits or
//! more and of fifteen hexadecimal digits or more; so are ports. `-w protobuf` is left out: the messages
//! themselves are compared by the other tests, and identities are not of one length there. Commands
//! whose answer is about the machine (status, sizes, hashes' values, durations) are left out.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, installed};

use crate::{Pair, reference_binary};

/// Those whose output is text and says nothing about the machine.
const FORMATS: [&str; 4] = ["simple", "json", "fields", "table"];

const TXN: &str = "mod(\"foo\") > \"0\"\nvalue(\"foo\") = \"no\"\n\nput foo ok\nget foo\n\nput foo else\nget foo\ndel in\n\n";

/// Each with what it reads from its input; in every format.
const IN_EVERY_FORMAT: [(&str, &str); 13] = [
    ("put foo bar", ""),
    ("put foo bar2 --prev-kv", ""),
    ("get foo", ""),
    ("get fo --prefix", ""),
    ("get none", ""),
    ("txn", TXN),
    ("put in", "from the input"),
    ("del none", ""),
    ("del foo --prev-kv", ""),
    ("lease timetolive 1234", ""),
    ("lease grant 100", ""),
    ("lease revoke 1234", ""),
    ("member remove 1234", ""),
];

const IN_SIMPLE_FORMAT: [(&str, &str); 59] = [
    ("put foo v --ignore-value", ""),
    ("put foo v --ignore-lease", ""),
    ("put foo v --lease=1234", ""),
    ("put foo v --lease=zz", ""),
    ("put none v --ignore-lease", ""),
    ("put p1 b", ""),
    ("put p2 a", ""),
    ("put p3 c", ""),
    ("put p2 d", ""),
    ("get p --prefix", ""),
    ("get p --from-key", ""),
    ("get p --prefix --limit=2", ""),
    ("get p --prefix --order=DESCEND", ""),
    ("get p --prefix --sort-by=VALUE --order=ASCEND", ""),
    ("get p --prefix --sort-by=MODIFY --order=DESCEND", ""),
    ("get p --prefix --sort-by=CREATE", ""),
    ("get p --prefix --sort-by=VERSION --order=DESCEND", ""),
    ("get p --prefix --keys-only", ""),
    ("get p --prefix --print-value-only", ""),
    ("get p --prefix --keys-only --limit=2 -w json", ""),
    ("get p --prefix --count-only -w fields", ""),
    ("get p1 p3", ""),
    ("get p2 --rev=9999", ""),
    ("get p2 --consistency=s", ""),
    ("get p2 --hex", ""),
    ("get p --sort-by=nothing", ""),
    ("txn", "create(\"new\") = \"0\"\n\nput new \"a value\"\nput new again\n\n\n"),
    ("txn", "ver(\"p2\") > \"1\"\n\nget p --prefix --limit=1\nput x y\nput z \"a b\"\n\n\n"),
    ("txn -i", "val(\"p1\") = \"b\"\n\nput a b\n\nput c d\n\n"),
    ("txn", "\n\n\n"),
    ("txn", "nonsense\n\n\n"),
    ("watch p2 --rev=zz", ""),
    ("compaction 10", ""),
    ("compaction 10", ""),
    ("compaction 99999", ""),
    ("compaction 12 --physical", ""),
    ("compaction abc", ""),
    ("compaction", ""),
    ("get p2 --rev=5", ""),
    ("watch p2 --rev=3", ""),
    ("lease grant 0", ""),
    ("lease grant -- -1", ""),
    ("lease grant 9000000001", ""),
    ("lease keep-alive --once 1234", ""),
    ("lease keep-alive 1234", ""),
    ("member add x --peer-urls=bad", ""),
    ("member update 1234 --peer-urls=http://127.0.0.1:1", ""),
    ("member promote 1234", ""),
    ("member list -w json", ""),
    ("member list", ""),
    ("move-leader 1234", ""),
    ("alarm list", ""),
    ("alarm disarm", ""),
    ("defrag", ""),
    ("lock l --ttl=5 echo held", ""),
    ("lock l sh -c false", ""),
    ("put big", "LARGE"),
    ("--command-timeout=1ns get foo", ""),
    ("get", ""),
];

fn run(program: &Path, port: u16, arguments: &str, input: &str) -> std::io::Result<Output> {
    // coreutils' own bound: a command that goes on is a fault of the list above.
    let mut child = Command::new("timeout")
        .arg("20")
        .arg(program)
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints=127.0.0.1:{port}"))
        .args(["--dial-timeout=10s", "--command-timeout=20s"])
        .args(arguments.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = if input == "LARGE" { "x".repeat(1_600_000) } else { input.to_owned() };
    // A command that does not read its input may be gone by then.
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).ok();
    child.wait_with_output()
}

/// Numbers that no other server would choose, as `N`, and every port, as `PORT`.
fn mask(text: &str) -> String {
    const HOST: &str = "127.0.0.1:";
    let mut masked = String::new();
    let mut run = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_digit() || ('a'..='f').contains(&c) {
            run.push(c);
            continue;
        }
        let is_number = 10 <= run.len() && run.bytes().all(|byte| byte.is_ascii_digit());
        masked.push_str(match () {
            () if masked.ends_with(HOST) => "PORT",
            () if is_number || 15 <= run.len() => "N",
            () => &run,
        });
        run.clear();
        masked.push(c);
    }
    masked
}

/// What a person sees: exit code, output, and the lines of the error output that are not the client's
/// own log.
fn seen(output: &Output) -> (Option<i32>, String, Vec<String>) {
    let errors = String::from_utf8_lossy(&output.stderr);
    let told = errors.lines().filter(|line| !line.starts_with('{'));
    (output.status.code(), mask(&String::from_utf8_lossy(&output.stdout)), told.map(mask).collect())
}

#[test]
fn etcdctl_shows_the_same_as_with_a_real_etcd() {
    let (Some(reference), Some(program)) = (reference_binary(), installed("etcdctl")) else { return };
    let work = WorkDir::new();
    block_on(TEST_DEADLINE, async {
        let mut pair = Pair::start(&reference, &work).await;
        let every = IN_EVERY_FORMAT.iter().flat_map(|(arguments, input)| {
            FORMATS.map(|format| (format!("-w {format} {arguments}"), *input))
        });
        let simple = IN_SIMPLE_FORMAT.iter().map(|(arguments, input)| ((*arguments).to_owned(), *input));
        let ports = [0, 1].map(|side| pair.servers[side].client_port());
        let mut differences = Vec::new();
        for (arguments, input) in every.chain(simple) {
            // Both at once: most of the time is the program's start.
            let [reference, subject] = std::thread::scope(|scope| {
                let ask = |side: usize| {
                    let (program, arguments) = (&program, &arguments);
                    scope.spawn(move || run(program, ports[side], arguments, input).unwrap())
                };
                [ask(0), ask(1)].map(|asked| asked.join().unwrap())
            });
            let answers = [seen(&reference), seen(&subject)];
            assert_ne!(answers[0].0, Some(124), "etcdctl {arguments} does not end");
            if answers[0] != answers[1] {
                differences
                    .push(format!("etcdctl {arguments}\n  etcd {:?}\n  here {:?}", answers[0], answers[1]));
            }
        }
        pair.check_alive();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    });
}

#[test]
fn what_a_server_chose_is_masked_and_nothing_else() {
    let line = "cafe, 8e9e05c52164694d, http://127.0.0.1:4001, 1795194678916, rev 42, face it";
    assert_eq!(mask(line).trim_end(), "cafe, N, http://127.0.0.1:PORT, N, rev 42, face it");
}
