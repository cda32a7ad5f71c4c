//! What the machine must offer, checked before anything is opened, each with an answer to "what now?".

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam::channel;
use glommio::{LocalExecutorBuilder, Placement};

/// Locked memory the runtime's rings ask for, per executor.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// Descriptors below which a server with a few hundred clients would run dry.
const FILES_MIN: u64 = 1024;

/// How long a taken address may take to become free.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);

const ADDRESS_RETRY: Duration = Duration::from_millis(20);

/// Threads of an executor: its own, and the one that blocks for it.
const THREADS_PER_EXECUTOR: usize = 2;

/// Threads of a member besides: the log's writer, helper and reader, the writer of checkpoints, the pulse,
/// the logger, the parent of the helpers, and room for a few of those and a resolver.
const THREADS_BESIDES: usize = 12;

/// How long threads that have ended may count against a limit.
const THREADS_PATIENCE: Duration = Duration::from_secs(1);

/// Why this machine cannot run Pinion.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum HostError {
    #[error(
        "this process may lock {limit} bytes of memory, io_uring needs {needed} for this placement: raise it with `ulimit -l`, LimitMEMLOCK= of systemd, or /etc/security/limits.conf"
    )]
    Memlock { limit: u64, needed: u64 },
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}); Pinion does all network I/O through it: run `sysctl kernel.io_uring_disabled=0`"
    )]
    IoUringDisabled { value: String },
    #[error(
        "io_uring cannot be used: {reason}. Pinion needs Linux 5.8 or newer, and a container must not forbid io_uring_setup (its seccomp profile often does)"
    )]
    IoUring { reason: String },
    #[error(
        "{flag}: address {address} is already in use by another process; stop it, or choose another port"
    )]
    AddressInUse { flag: &'static str, address: SocketAddr },
    #[error(
        "this process may start {got} more threads, and needs {wanted} for this placement ({source}): raise the limit of processes (`ulimit -u`, LimitNPROC= and TasksMax= of systemd, the pids limit of the container), or end others of this user"
    )]
    Threads { wanted: usize, got: usize, source: io::Error },
}

/// A soft limit from the kernel's own table; `u64::MAX` when unlimited or unreadable.
fn soft_limit(table: &str, name: &str) -> u64 {
    table
        .lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
        .and_then(|value| value.parse().ok())
        .unwrap_or(u64::MAX)
}

/// Checks memory locking, threads and io_uring for so many executors; warns about few file descriptors.
///
/// # Errors
/// [`HostError`], whose text says what to change.
pub(in crate::shell) fn check(executors: u64) -> Result<(), HostError> {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let (limit, needed) = (soft_limit(&limits, "Max locked memory"), executors * MEMLOCK_BYTES_MIN);
    if limit < needed {
        return Err(HostError::Memlock { limit, needed });
    }
    let files = soft_limit(&limits, "Max open files");
    if files < FILES_MIN {
        tracing::warn!(
            limit = files,
            "few file descriptors: each client connection needs one, raise `ulimit -n`"
        );
    }
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
        Ok(_probe) => Ok(()),
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

/// Refuses an address somebody listens on already. The shards bind with `SO_REUSEPORT`, which would
/// let two servers share a port in silence.
///
/// # Errors
/// [`HostError::AddressInUse`].
pub(in crate::shell) fn check_address_free(flag: &'static str, address: SocketAddr) -> Result<(), HostError> {
    let is_taken = || {
        ["/proc/net/tcp", "/proc/net/tcp6"]
            .into_iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .any(|table| listeners(&table).any(|other| overlaps(other, address)))
    };
    // The kernel closes the sockets of a killed process a moment after its end, when its rings are
    // torn down; a restart comes sooner.
    let deadline = Instant::now() + ADDRESS_PATIENCE;
    while is_taken() {
        if deadline <= Instant::now() {
            return Err(HostError::AddressInUse { flag, address });
        }
        std::thread::sleep(ADDRESS_RETRY);
    }
    Ok(())
}

fn overlaps(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

/// The addresses in LISTEN state of a `/proc/net/tcp` table.
fn listeners(table: &str) -> impl Iterator<Item = SocketAddr> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, state) = (columns.next()?, columns.nth(1)?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (state == "0A").then_some(SocketAddr::new(parse_ip(ip)?, port))
    })
}

/// The kernel prints addresses as 32-bit words in its own byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(if cfg!(target_endian = "little") { word.swap_bytes() } else { word })
    };
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let address = words.iter().fold(0, |sum: u128, word| sum << 32 | u128::from(*word));
            let address = Ipv6Addr::from(address);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_with_a_listener_is_refused_and_a_free_one_is_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = check_address_free("--listen-client-urls", address).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()));
        let wildcard = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
        assert!(check_address_free("--listen-client-urls", wildcard).is_err());
        drop(listener);
        check_address_free("--listen-client-urls", address).unwrap();
    }

    #[test]
    fn the_kernels_limit_table_is_understood() {
        let table = "Limit  Soft Limit  Hard Limit  Units\nMax locked memory   65536   65536   bytes\n\
                     Max open files   unlimited   unlimited   files\n";
        assert_eq!(soft_limit(table, "Max locked memory"), 65536);
        assert_eq!(soft_limit(table, "Max open files"), u64::MAX);
    }
}
