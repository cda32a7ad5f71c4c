//! `pinion demo` as somebody sees it who types, whose terminal goes, or whose machine has no room.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use pinion_kit::{PATIENCE, WorkDir, installed, server_binary, server_is_etcd, skip};

/// What a demo says last before it takes orders.
const GREETED: &str = "q  quit";

/// A demo, or a program that runs one.
struct Demo {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Demo {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        // Ends with the other end of the pipe.
        std::thread::Builder::new()
            .spawn(move || {
                let mut line = Vec::new();
                while matches!(out.read_until(b'\n', &mut line), Ok(read) if 0 < read) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    line.clear();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
            })
            .unwrap();
        Self { child, lines, said: String::new() }
    }

    /// Reads until a line has these words, and returns it.
    fn read_to(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{error}: no {words:?} in:\n{}", self.said));
            self.said.push_str(&line);
            if line.contains(words) {
                return line;
            }
        }
    }

    fn order(&mut self, words: &str) {
        self.child.stdin.as_mut().unwrap().write_all(words.as_bytes()).unwrap();
    }

    /// The processes that it told of.
    fn members(&self) -> Vec<u32> {
        let told = self.said.lines().filter_map(|line| line.split_once("process "));
        told.map(|(_, pid)| pid.trim().parse().unwrap()).collect()
    }

    /// Waits for its end.
    fn end(&mut self) -> ExitStatus {
        // Its standard output ends with it, or with a process that it left.
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push_str(&line);
        }
        wait_until("the demo has ended", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let (_sender, never) = channel::<()>();
    let polls = PATIENCE.as_millis() / 10;
    for _ in 0..polls {
        if is_so() {
            return;
        }
        never.recv_timeout(PATIENCE / u32::try_from(polls).unwrap()).ok();
    }
    panic!("{what}: not in {PATIENCE:?}");
}

fn pinion_demo(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(server_binary());
    command.arg("demo").arg("--dir").arg(dir).args(more);
    // Variables for another member are none of its members'.
    command.env("ETCD_NAME", "somebody").env("ETCD_DATA_DIR", "/nowhere");
    command
}

/// Neither processes nor files.
fn assert_nothing_is_left(dir: &Path, members: &[u32]) {
    for pid in members {
        // A process that has ended and that nobody has waited for yet has no command line.
        let is_gone = || {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !String::from_utf8_lossy(&line).contains("--initial-cluster-token=demo-")
        };
        wait_until("the member has ended", is_gone);
    }
    wait_until("the directory is removed", || std::fs::read_dir(dir).unwrap().next().is_none());
}

/// The milliseconds of a line such as `leader m1 killed: 23 ms without an accepted write; m2 leads`.
fn gap_ms(line: &str) -> f64 {
    let (_, behind) = line.split_once(": ").unwrap();
    behind.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("no gap in {line}"))
}

#[test]
fn a_demo_tells_the_gap_of_each_loss_by_words_from_a_pipe_and_leaves_nothing() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    let dir = WorkDir::new();
    let mut demo = Demo::start(pinion_demo(dir.path(), &[]));
    demo.read_to(GREETED);
    let members = demo.members();
    assert_eq!(members.len(), 3, "{}", demo.said);
    assert!(demo.said.contains("/dashboard"), "{}", demo.said);
    demo.order("kill leader\nstatus\nback\nfreeze leader\nback\nnonsense\u{1b}[2J\nkill follower\n");
    let killed = demo.read_to("killed: ");
    assert!(killed.starts_with("leader m") && 0.0 < gap_ms(&killed), "{killed}");
    let lost = &killed["leader ".len()..][..2];
    assert!(killed.ends_with(" leads\n") && !killed.contains(&format!("{lost} leads")), "{killed}");
    let states = demo.read_to("leader");
    assert!(states.contains(&format!("{lost} away")), "{states}");
    let back = demo.read_to("brought back");
    assert!(back.starts_with(&format!("{lost} brought back: ")), "{back}");
    // A leader that stops without a word is missed only after an election timeout of a second.
    let frozen = demo.read_to("frozen: ");
    assert!(500.0 < gap_ms(&frozen), "{frozen}");
    demo.read_to("brought back: ");
    assert_eq!(demo.read_to("no such key"), "nonsense[2J: no such key\n");
    let follower = demo.read_to("killed: ");
    assert!(follower.starts_with("follower m"), "{follower}");
    // Its end is an order, too.
    drop(demo.child.stdin.take());
    assert!(demo.end().success(), "{}", demo.said);
    assert_nothing_is_left(dir.path(), &members);
}

#[test]
fn without_a_quorum_nothing_is_accepted_until_a_member_is_back() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    let dir = WorkDir::new();
    let mut demo = Demo::start(pinion_demo(dir.path(), &[]));
    demo.read_to(GREETED);
    let members = demo.members();
    demo.order("freeze follower\nfreeze follower\n");
    demo.read_to("frozen: ");
    demo.read_to("is no quorum");
    demo.order("back\n");
    let told = demo.read_to("without an accepted write");
    assert!(told.starts_with("no quorum until m") && told.contains(" and m"), "{told}");
    demo.order("quit\n");
    assert!(demo.end().success());
    assert_nothing_is_left(dir.path(), &members);
}

#[test]
fn a_demo_that_is_killed_leaves_no_process_and_no_directory() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    let dir = WorkDir::new();
    let mut demo = Demo::start(pinion_demo(dir.path(), &[]));
    demo.read_to(GREETED);
    let members = demo.members();
    // One that is frozen cannot end by itself.
    demo.order("freeze follower\n");
    demo.read_to("frozen: ");
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    assert_nothing_is_left(dir.path(), &members);
}

#[test]
fn keys_of_a_terminal_do_the_same_and_its_end_ends_the_demo() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    let Some(script) = installed("script") else { return };
    let dir = WorkDir::new();
    let mut command = Command::new(script);
    let line = format!("{} demo --dir {}", server_binary().display(), dir.path().display());
    command.args(["-qfc", &line, "/dev/null"]);
    let mut demo = Demo::start(command);
    demo.read_to(GREETED);
    let members = demo.members();
    demo.order("K");
    let told = demo.read_to("without an accepted write");
    assert!(told.contains("follower m"), "{told}");
    demo.order("b");
    demo.read_to("brought back: ");
    // The last line changes while nothing happens.
    demo.order("?");
    demo.read_to("puts/s");
    demo.child.kill().unwrap();
    demo.child.wait().unwrap();
    assert_nothing_is_left(dir.path(), &members);
}

#[test]
fn a_demo_without_ports_or_room_says_so_and_leaves_nothing() {
    if server_is_etcd() {
        return skip("it is a command of Pinion");
    }
    let dir = WorkDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    // The first port where the third member's clients are to come.
    let first = (taken.local_addr().unwrap().port() - 20).to_string();
    let missing = dir.path().join("missing");
    for (place, more, words) in [
        (dir.path(), &["--port", &port][..], format!("port {port} of this machine cannot be used")),
        (dir.path(), &["--port", &first], "of this machine cannot be used".to_owned()),
        (&missing, &[], "--dir picks another".to_owned()),
        // A file system that has room for nothing.
        (Path::new("/proc"), &[], "--dir picks another".to_owned()),
    ] {
        let output = pinion_demo(place, more).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(&words), "{more:?}: {said}");
        assert_nothing_is_left(dir.path(), &[]);
    }
}
