//! The members of a demo: processes of this same program, on loopback, that end with this one.
#![expect(
    unsafe_code,
    reason = "signals to a process, and a child that ends with its parent, which std does not offer"
)]

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::error::DemoError;
use super::gateway_client::{GatewayClient, Status};

/// A quorum of them survives the loss of one.
pub(super) const MEMBERS_COUNT: usize = 3;

/// For a question about who leads; whoever takes longer is as good as away.
const STATUS_PATIENCE: Duration = Duration::from_millis(300);

/// Bytes at the end of a log in which its last line is looked for.
const LOG_TAIL_BYTES: usize = 4096;

/// How a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Frozen,
    Ended,
}

/// Ports of a member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) peer: u16,
}

pub(super) struct Member {
    pub(super) name: String,
    pub(super) ports: Ports,
    pub(super) state: State,
    /// It answered when it was asked last.
    pub(super) answers: bool,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    client: GatewayClient,
    /// Its raft id, once it has told it.
    id: u64,
}

/// Ports that nobody has: those from `first` on, or any.
pub(super) fn choose_ports(first: Option<u16>) -> Result<Vec<Ports>, DemoError> {
    // All are held until the last is found, so that none is found twice.
    let mut held = Vec::new();
    let mut hold = |port: u16| match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => {
            let port = listener.local_addr().map(|address| address.port());
            held.push(listener);
            port.map_err(|source| DemoError::Port { port: 0, source })
        }
        Err(source) => Err(DemoError::Port { port, source }),
    };
    let slots = (0u16..).step_by(10).take(MEMBERS_COUNT);
    let ports = slots.map(|slot| {
        let (client, peer) = first.map_or((0, 0), |first| (first + slot, first + slot + 1));
        Ok(Ports { client: hold(client)?, peer: hold(peer)? })
    });
    ports.collect()
}

/// The members, not yet started.
pub(super) fn prepare(place: &Path, ports: &[Ports]) -> Vec<Member> {
    let name = |slot: usize| format!("m{}", slot + 1);
    let peer = |ports: &Ports| format!("http://127.0.0.1:{}", ports.peer);
    let initial: Vec<String> =
        ports.iter().enumerate().map(|(slot, ports)| format!("{}={}", name(slot), peer(ports))).collect();
    let members = ports.iter().enumerate().map(|(slot, ports)| {
        let client = format!("http://127.0.0.1:{}", ports.client);
        let data = place.join(name(slot));
        Member {
            name: name(slot),
            ports: *ports,
            state: State::Ended,
            answers: false,
            args: vec![
                format!("--name={}", name(slot)),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={}", peer(ports)),
                format!("--initial-advertise-peer-urls={}", peer(ports)),
                format!("--initial-cluster={}", initial.join(",")),
                format!("--initial-cluster-token=demo-{}", std::process::id()),
                // The load overwrites its keys for as long as somebody looks.
                "--auto-compaction-mode=revision".to_owned(),
                "--auto-compaction-retention=10000".to_owned(),
            ],
            log: place.join(format!("{}.log", name(slot))),
            child: None,
            client: GatewayClient::new(ports.client, STATUS_PATIENCE),
            id: 0,
        }
    });
    members.collect()
}

impl Member {
    /// Starts it. To be called on the main thread: the kernel ends a child with the thread that started it.
    pub(super) fn start(&mut self) -> Result<(), DemoError> {
        let refuse = |source| DemoError::Start { what: "a member", source };
        let log = File::options().create(true).append(true).open(&self.log).map_err(refuse)?;
        // A program that was replaced meanwhile is only there under its link.
        let own = std::env::current_exe().ok().filter(|path| path.exists());
        let mut command = Command::new(own.unwrap_or_else(|| PathBuf::from("/proc/self/exe")));
        command.arg0("pinion").args(&self.args).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(refuse)?).stderr(log);
        // Ctrl-C is for the demo.
        command.process_group(0);
        // Variables of whoever starts the demo configure another member.
        for (name, _) in std::env::vars_os() {
            let is_ours = name.to_str().is_some_and(|name| {
                name.starts_with("ETCD_") || name.starts_with("PINION_") || name == "NOTIFY_SOCKET"
            });
            if is_ours {
                command.env_remove(name);
            }
        }
        let parent = libc::pid_t::try_from(std::process::id()).expect("process ids are positive");
        let end_with_parent = move || {
            let signal = libc::c_ulong::try_from(libc::SIGKILL).expect("signals are positive");
            // SAFETY: two calls with numbers only, both async-signal-safe.
            let is_alone =
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) != 0 || libc::getppid() != parent };
            if is_alone { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(end_with_parent) };
        self.child = Some(command.spawn().map_err(refuse)?);
        self.state = State::Up;
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Ends it as a loss of power would, but for what the kernel has.
    pub(super) fn kill(&mut self) {
        self.state = State::Ended;
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops it where it is.
    pub(super) fn freeze(&mut self) {
        self.signal(libc::SIGSTOP);
        self.state = State::Frozen;
    }

    pub(super) fn thaw(&mut self) {
        self.signal(libc::SIGCONT);
        self.state = State::Up;
    }

    fn signal(&self, signal: libc::c_int) {
        let Some(pid) = self.child.as_ref().and_then(|child| libc::pid_t::try_from(child.id()).ok()) else {
            return;
        };
        // SAFETY: numbers only. The child has not been waited for, so its id is nobody else's.
        unsafe { libc::kill(pid, signal) };
    }

    /// Whether it has ended by itself since this was asked last.
    pub(super) fn take_end(&mut self) -> bool {
        let has_ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if has_ended {
            self.child = None;
            self.state = State::Ended;
        }
        has_ended
    }

    /// The last line that it has logged.
    pub(super) fn last_words(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]);
        let line = tail.lines().rfind(|line| !line.is_empty()).unwrap_or("it has logged nothing");
        printable(line)
    }

    pub(super) fn ask(&mut self) -> Option<Status> {
        let status = self.client.status().ok();
        self.answers = status.is_some();
        self.id = status.map_or(self.id, |status| status.id);
        status
    }
}

/// The member that leads, by whoever knows of the highest term.
pub(super) fn leader(members: &mut [Member]) -> Option<usize> {
    let up = members.iter_mut().filter(|member| member.state == State::Up);
    let told = up.filter_map(Member::ask).filter(|status| status.leader != 0);
    let leader = told.max_by_key(|status| status.term)?.leader;
    members.iter().position(|member| member.id == leader && member.state == State::Up)
}

/// Without what a terminal would take for a command.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
