//! What the machine must offer, checked before anything is opened, each with an answer to "what now?".

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam::channel;
use glommio::{LocalExecutorBuilder, Placement};

use crate::config::Address;
use crate::shell::net::listen::{self, Held};

/// Locked memory the runtime's rings ask for, per executor.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Descriptors of an executor, by count: three rings and an event.
const DESCRIPTORS_PER_EXECUTOR: u64 = 4;

/// Those of the rest of a member that serves: listeners, segments, the lock, the standard streams, signals;
/// 13 by count.
const DESCRIPTORS_OF_FILES: u64 = 24;

/// Descriptors below which there is nothing to share out: three members' lanes, and a few clients.
const DESCRIPTORS_TO_SHARE_MIN: u64 = 64;

/// Descriptors that clients do not get, where there are enough. With eight other members: 80 for their
/// lanes and ours, one of each a direction and two streams; 50 for connections without a Hello; the rest
/// for callers without identity, and for segments and checkpoints that are opened later. etcd keeps as many.
const KEPT_MAX: usize = 150;

/// Threads of an executor: its own, and the one that blocks for it.
const THREADS_PER_EXECUTOR: usize = 2;

/// Threads of a member besides: the log's writer, helper and reader, the writer of checkpoints, the pulse,
/// the logger, the parent of the helpers, and room for a few of those and a resolver.
const THREADS_BESIDES: usize = 12;

/// How long threads that have ended may count against a limit.
const THREADS_PATIENCE: Duration = Duration::from_secs(1);

/// A number that nobody else draws.
///
/// # Errors
/// What the source of randomness answered.
pub(in crate::shell) fn entropy() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Why this machine cannot run Pinion.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum HostError {
    #[error(
        "this process may lock {limit} bytes of memory, io_uring needs {needed} for this placement: raise it with `ulimit -l`, LimitMEMLOCK= of systemd, or /etc/security/limits.conf"
    )]
    Memlock { limit: u64, needed: u64 },
    #[error(
        "this process may have {limit} open files, {needed} are needed for this placement and some clients: raise it with `ulimit -n`, LimitNOFILE= of systemd, or /etc/security/limits.conf"
    )]
    Descriptors { limit: u64, needed: u64 },
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}); Pinion does all network I/O through it: run `sysctl kernel.io_uring_disabled=0`"
    )]
    IoUringDisabled { value: String },
    #[error(
        "io_uring cannot be used: {reason}. Pinion needs Linux 5.8 or newer, and a container must not forbid io_uring_setup (its seccomp profile often does)"
    )]
    IoUring { reason: String },
    #[error(
        "{flag}: cannot listen on {address}: address already in use by another process; stop it, or choose another {}",
        match address {
            Address::Ip(_) => "port",
            Address::Socket(_) => "path",
        }
    )]
    AddressInUse { flag: &'static str, address: Address },
    #[error(
        "this process may start {got} more threads, and needs {wanted} for this placement ({source}): raise the limit of processes (`ulimit -u`, LimitNPROC= and TasksMax= of systemd, the pids limit of the container), or end others of this user"
    )]
    Threads { wanted: usize, got: usize, source: io::Error },
    #[error(
        "--memory-mlock: this process may not lock its memory ({source}): raise `ulimit -l`, or LimitMEMLOCK= of systemd, to what the member may grow to"
    )]
    LockMemory { source: io::Error },
    #[error("{flag}: cannot listen on {address}: {source}")]
    Listen { flag: &'static str, address: Address, source: io::Error },
}

/// A limit of the process that the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limited {
    LockedMemory,
    Descriptors,
}

/// Raises a soft limit to the hard one, which needs no privilege. Answers what is in force then;
/// `u64::MAX` is none. The kernel's default for descriptors is 1,024, for the sake of programs that use
/// `select`; Go's programs raise it too. No program is started from here that would inherit it.
#[expect(unsafe_code, reason = "std has no rlimits")]
fn raise(limited: Limited) -> u64 {
    let resource = match limited {
        Limited::LockedMemory => libc::RLIMIT_MEMLOCK,
        Limited::Descriptors => libc::RLIMIT_NOFILE,
    };
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit`, which `limit` is and outlives the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return u64::MAX;
    }
    let soft = limit.rlim_cur;
    if soft < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads one `rlimit`, which `limit` is and outlives the call.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(?limited, soft, hard = limit.rlim_max, %error, "cannot raise a soft limit");
            return soft;
        }
    }
    limit.rlim_cur
}

/// Keeps what this process touches in RAM from now on. Pages are locked as they are touched: to lock all that is
/// mapped would read the whole log and fill every reserved arena.
///
/// # Errors
/// [`HostError::LockMemory`], when the limit of locked memory is in the way.
#[expect(unsafe_code, reason = "std has no mlockall")]
pub(in crate::shell) fn lock_memory() -> Result<(), HostError> {
    // SAFETY: the call takes flags alone and changes no memory that the process sees.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } == 0 {
        return Ok(());
    }
    Err(HostError::LockMemory { source: io::Error::last_os_error() })
}

/// Raises the soft limits, then checks memory locking, descriptors, threads and io_uring for so many
/// executors. Answers how many descriptors the process may have.
///
/// # Errors
/// [`HostError`], whose text says what to change.
pub(in crate::shell) fn check(executors: u64) -> Result<usize, HostError> {
    let (limit, needed) = (raise(Limited::LockedMemory), executors * MEMLOCK_BYTES_MIN);
    if limit < needed {
        return Err(HostError::Memlock { limit, needed });
    }
    let (limit, needed) =
        (raise(Limited::Descriptors), descriptors_at_start(executors) + DESCRIPTORS_TO_SHARE_MIN);
    if limit < needed {
        return Err(HostError::Descriptors { limit, needed });
    }
    let descriptors = usize::try_from(limit).unwrap_or(usize::MAX);
    if let Ok(value) = fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        && value.trim() == "2"
    {
        return Err(HostError::IoUringDisabled { value: value.trim().to_owned() });
    }
    // The runtime panics where no thread can be started, too.
    let executors = usize::try_from(executors).expect("as many as cores");
    probe_threads(executors * THREADS_PER_EXECUTOR + THREADS_BESIDES)?;
    // The runtime panics where the kernel refuses a ring, so the kernel is asked first.
    if let Err(error) = probe_io_uring() {
        return Err(HostError::IoUring { reason: error.to_string() });
    }
    match LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10).ring_depth(8).make() {
        Ok(_probe) => Ok(descriptors),
        Err(error) => Err(HostError::IoUring { reason: error.to_string() }),
    }
}

/// Starts as many threads as a member will have, all at once, and lets them end.
fn probe_threads(wanted: usize) -> Result<(), HostError> {
    let threads_count = || fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    let before = threads_count();
    let (hold, held) = channel::bounded::<()>(0);
    let mut threads = Vec::new();
    let mut refused = None;
    while threads.len() < wanted && refused.is_none() {
        let held = held.clone();
        match std::thread::Builder::new().name("probe".to_owned()).spawn(move || held.recv().is_ok()) {
            Ok(thread) => threads.push(thread),
            Err(source) => refused = Some(HostError::Threads { wanted, got: threads.len(), source }),
        }
    }
    drop(hold);
    for thread in threads {
        thread.join().expect("it only waits");
    }
    // One that has ended counts until the kernel has taken it apart.
    let deadline = Instant::now() + THREADS_PATIENCE;
    while before < threads_count() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    refused.map_or(Ok(()), Err)
}

/// Sets up the smallest ring there is, and closes it.
#[expect(unsafe_code, reason = "std has no io_uring; this is the one call that tells whether it is allowed")]
fn probe_io_uring() -> io::Result<()> {
    /// `struct io_uring_params` of linux/io_uring.h: 120 bytes, zero asks for nothing special.
    #[repr(C, align(8))]
    struct Params([u8; 120]);
    let mut params = Params([0; 120]);
    // SAFETY: the kernel reads and writes at most the 120 bytes of its own structure, which `params`
    // is and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, &raw mut params) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).expect("descriptors are small");
    // SAFETY: the call above just made this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Descriptors of a member that serves nobody yet, roughly.
fn descriptors_at_start(executors: u64) -> u64 {
    executors * DESCRIPTORS_PER_EXECUTOR + DESCRIPTORS_OF_FILES
}

/// How the descriptors of the process are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) struct Descriptors {
    pub limit: usize,
    /// For the peers and files to come.
    pub kept: usize,
    /// For connections of clients.
    pub clients: usize,
}

impl Descriptors {
    /// Before the executors are there.
    pub(in crate::shell) fn expected(limit: usize, executors: u64) -> Self {
        Self::share(limit, usize::try_from(descriptors_at_start(executors)).expect("a few an executor"))
    }

    /// Once the member serves, with so many connections of clients.
    pub(in crate::shell) fn counted(limit: usize, executors: u64, connections: usize) -> Self {
        match fs::read_dir("/proc/self/fd") {
            Ok(open) => Self::share(limit, open.count().saturating_sub(connections)),
            Err(_) => Self::expected(limit, executors),
        }
    }

    /// `open` are in use for other things than clients. Where few are left, clients get half of them.
    fn share(limit: usize, open: usize) -> Self {
        let free = limit.saturating_sub(open);
        let kept = KEPT_MAX.min(free / 2);
        Self { limit, kept, clients: free - kept }
    }

    /// Connections without a Hello that the peer port may hold: a third of what is kept at most.
    pub(in crate::shell) fn half_open_max(self, usual: usize) -> usize {
        usual.min(self.kept / 3)
    }
}

/// Holds the addresses that `flag` names.
///
/// # Errors
/// [`HostError::AddressInUse`] when another process has one; [`HostError::Listen`] when it cannot be had
/// for another reason.
pub(in crate::shell) fn hold_addresses(
    flag: &'static str,
    addresses: &[Address],
    reuse_port: bool,
) -> Result<Vec<Held>, HostError> {
    let hold = |address: &Address| {
        listen::hold(address, reuse_port).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => HostError::AddressInUse { flag, address: address.clone() },
            _ => HostError::Listen { flag, address: address.clone(), source },
        })
    };
    addresses.iter().map(hold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_a_listener_is_refused_and_a_free_one_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        let error =
            hold_addresses("--listen-client-urls", std::slice::from_ref(&address), false).unwrap_err();
        assert!(error.to_string().contains(&format!("{address}: address already in use")), "{error}");
        drop(listener);
        hold_addresses("--listen-client-urls", &[address], false).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_refused_naming_the_flag() {
        let address = Address::Ip("192.0.2.1:2379".parse().unwrap());
        let error = hold_addresses("--listen-peer-urls", std::slice::from_ref(&address), false).unwrap_err();
        assert!(error.to_string().contains("--listen-peer-urls: cannot listen on 192.0.2.1:2379"), "{error}");
    }

    #[test]
    fn clients_get_what_members_and_files_do_not_need() {
        let share = |limit, open| Descriptors::share(limit, open);
        assert_eq!(share(1_048_576, 60), Descriptors { limit: 1_048_576, kept: 150, clients: 1_048_366 });
        assert_eq!(share(1024, 60), Descriptors { limit: 1024, kept: 150, clients: 814 });
        // Few for all: half and half.
        assert_eq!(share(256, 60), Descriptors { limit: 256, kept: 98, clients: 98 });
        assert_eq!(share(50, 60).clients, 0);
        assert_eq!((share(1024, 60).half_open_max(64), share(256, 60).half_open_max(64)), (50, 32));
    }

    #[test]
    fn soft_limits_are_as_high_as_the_hard_ones() {
        for (limited, name) in
            [(Limited::Descriptors, "Max open files"), (Limited::LockedMemory, "Max locked memory")]
        {
            let now = raise(limited);
            let table = fs::read_to_string("/proc/self/limits").unwrap();
            let line = table.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[0], words[1], "{name}: soft and hard");
            let shown = if now == u64::MAX { "unlimited".to_owned() } else { now.to_string() };
            assert_eq!(words[0], shown, "{name}");
        }
    }
}
