//! Checks that try: rings of io_uring, pinned threads, syncs of the data directory's disk, connections to peers.
//!
//! Each undoes what it does, and each is bounded: `SYNCS_MAX` syncs or `SYNC_TIME`, twice; `DIALS` connections a peer.
#![expect(unsafe_code, reason = "system calls that std does not offer")]

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::finding::Finding;

/// Entries of the ring that is set up.
const RING_ENTRIES: libc::c_uint = 8;

/// Bytes of `struct io_uring_params`, which the kernel fills.
const RING_PARAMS_BYTES: usize = 120;

/// Sets up a ring, as every executor does, and closes it.
pub(super) fn io_uring() -> Finding {
    let name = "io_uring set up";
    let mut params = [0_u8; RING_PARAMS_BYTES];
    // SAFETY: a number and a struct of the size that this call fills, which outlives it.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, RING_ENTRIES, params.as_mut_ptr()) };
    if let Ok(ring @ 0..) = i32::try_from(ring) {
        // SAFETY: a descriptor that the call above has made and nobody else has.
        unsafe { libc::close(ring) };
        return Finding::pass(name, "a ring was set up");
    }
    let error = io::Error::last_os_error();
    let advice = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "sysctl kernel.io_uring_disabled=0; in a container: --security-opt seccomp=tuning/container/seccomp.json"
        }
        Some(libc::ENOMEM) => "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        Some(libc::ENOSYS) => {
            "this kernel, or what emulates it, has no io_uring: Linux 5.8 or newer is needed"
        }
        _ => "see dmesg: the kernel refuses a ring",
    };
    Finding::fail(name, error.to_string(), advice)
}

/// Pins a thread to each core that was named.
pub(super) fn pinned(cores: &BTreeSet<u32>) -> Finding {
    let name = "pinning";
    if cores.is_empty() {
        return Finding::unknown(name, "--cores says which cores to try");
    }
    let cores = cores.clone();
    let tried = std::thread::spawn(move || cores.into_iter().find(|core| !pin(*core)));
    match tried.join() {
        Ok(None) => Finding::pass(name, "a thread was pinned to each"),
        Ok(Some(core)) => Finding::fail(
            name,
            format!("no thread can be pinned to core {core}"),
            "name cores that this process may use: see Cpus_allowed_list in /proc/self/status",
        ),
        Err(_) => Finding::unknown(name, "the thread that tries it ended"),
    }
}

fn pin(core: u32) -> bool {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let slot = usize::try_from(core).unwrap_or(usize::MAX);
    if size_of::<libc::cpu_set_t>() * 8 <= slot {
        return false;
    }
    // SAFETY: the slot is inside the set; the calls read it.
    unsafe {
        libc::CPU_SET(slot, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

/// Whether the kernel says that something sets its clock.
pub(super) fn clock() -> Finding {
    let name = "clock in step";
    // SAFETY: all zeros asks to change nothing.
    let mut told: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a struct for the answer, which outlives the call.
    match unsafe { libc::adjtimex(&raw mut told) } {
        -1 => Finding::unknown(name, io::Error::last_os_error().to_string()),
        libc::TIME_ERROR => Finding::warn(
            name,
            "nothing sets it",
            "no promise depends on it, but certificates, tokens and the log do: start chronyd or systemd-timesyncd",
        ),
        _ => Finding::pass(name, format!("within {} µs", told.maxerror)),
    }
}

/// Syncs of one round, at most.
const SYNCS_MAX: usize = 400;

/// And how long a round may take.
const SYNC_TIME: Duration = Duration::from_secs(2);

/// A small group of the log.
const BLOCK_BYTES: usize = 4096;

/// Of the file that is written over and over, as the log's segments are.
const FILE_BYTES: usize = 1 << 20;

/// What somebody else writes at a time, beside the syncs.
const OTHER_BYTES: usize = 4 << 20;

/// A sync beyond it is felt by clients; etcd's documents name 10 ms at the 99th percentile as the least.
const SYNC_P99_MAX: Duration = Duration::from_millis(10);

/// How long syncs take in `dir`, alone, and beside somebody who writes there.
pub(super) fn syncs(dir: &Path) -> Vec<Finding> {
    let (alone, beside) = ("sync of the log", "sync beside writes");
    let path = dir.join(format!(".pinion-doctor-{}", std::process::id()));
    let _removed = Removed(vec![path.clone(), other(&path)]);
    let cannot = |error: &io::Error| format!("{}: {error}", dir.display());
    let file = match make(&path, FILE_BYTES) {
        Ok(file) => file,
        Err(error) => return vec![Finding::unknown(alone, cannot(&error))],
    };
    let mut findings = vec![told(alone, measure(&file).as_deref().map_err(cannot))];
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (is_over, path) = (Arc::clone(&is_over), other(&path));
        std::thread::spawn(move || -> io::Result<()> {
            let file = make(&path, OTHER_BYTES)?;
            let bytes = vec![0x5a; OTHER_BYTES];
            while !is_over.load(Ordering::Acquire) {
                file.write_all_at(&bytes, 0)?;
                file.sync_data()?;
            }
            Ok(())
        })
    };
    let measured = measure(&file);
    is_over.store(true, Ordering::Release);
    match writer.join() {
        Ok(Ok(())) => findings.push(told(beside, measured.as_deref().map_err(cannot))),
        Ok(Err(error)) => findings.push(Finding::unknown(beside, cannot(&error))),
        Err(_) => findings.push(Finding::unknown(beside, "the thread that writes ended")),
    }
    findings
}

fn other(path: &Path) -> PathBuf {
    path.with_extension("other")
}

/// Files that are gone when this is.
struct Removed(Vec<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        for path in &self.0 {
            // It may not have been made.
            fs::remove_file(path).ok();
        }
    }
}

fn make(path: &Path, bytes: usize) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&vec![0; bytes])?;
    file.sync_all()?;
    Ok(file)
}

/// What each sync took, in order of length.
fn measure(file: &File) -> io::Result<Vec<Duration>> {
    let (begun, block) = (Instant::now(), [0xa5; BLOCK_BYTES]);
    let mut took = Vec::new();
    while took.len() < SYNCS_MAX && begun.elapsed() < SYNC_TIME {
        let offset = (took.len() * BLOCK_BYTES) % FILE_BYTES;
        let sync = Instant::now();
        file.write_all_at(&block, offset as u64)?;
        file.sync_data()?;
        took.push(sync.elapsed());
    }
    took.sort_unstable();
    Ok(took)
}

fn told(name: &'static str, took: Result<&[Duration], String>) -> Finding {
    let took = match took {
        Ok(took) if !took.is_empty() => took,
        Ok(_) => return Finding::unknown(name, "none was over in time"),
        Err(error) => return Finding::unknown(name, error),
    };
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let ms = |took: Duration| format!("{:.2}", took.as_secs_f64() * 1e3);
    let found = format!(
        "p50 {} p90 {} p99 {} max {} ms of {}",
        ms(at(50)),
        ms(at(90)),
        ms(at(99)),
        ms(at(100)),
        took.len()
    );
    if at(99) <= SYNC_P99_MAX {
        return Finding::pass(name, found);
    }
    Finding::warn(
        name,
        found,
        "every put waits for a sync: give the log a disk of its own (--wal-dir), an SSD with power-loss protection at best",
    )
}

/// Connections that are made to each peer.
const DIALS: usize = 10;

const DIAL_PATIENCE: Duration = Duration::from_secs(2);

/// How far away a peer is: a connection is made in one round trip.
pub(super) fn peer(address: &str) -> Finding {
    let name = "peer";
    let found = address.to_socket_addrs().map(|mut addresses| addresses.next());
    let socket = match found {
        Ok(Some(socket)) => socket,
        Ok(None) => {
            return Finding::fail(name, format!("{address}: no address"), "name a host that resolves");
        }
        Err(error) => {
            return Finding::fail(name, format!("{address}: {error}"), "name a host that resolves");
        }
    };
    let mut took = Vec::new();
    let mut path = PathFacts::default();
    for _ in 0..DIALS {
        let begun = Instant::now();
        match TcpStream::connect_timeout(&socket, DIAL_PATIENCE) {
            Ok(stream) => {
                took.push(begun.elapsed());
                path.add(&stream);
            }
            // It is there, and nobody listens yet: as far away.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => took.push(begun.elapsed()),
            Err(error) => {
                return Finding::fail(
                    name,
                    format!("{address}: {error} after {} of {DIALS}", took.len()),
                    "open the peer port between the members",
                );
            }
        }
    }
    took.sort_unstable();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    let (middle, worst) = (ms(took[DIALS / 2]), ms(took[DIALS - 1]));
    let found = format!("{address}: {middle:.2} ms, at most {worst:.2} ms{path}");
    if 0 < path.lost {
        return Finding::warn(
            name,
            found,
            "a lost packet costs 200 ms and more, and a few in a row an election: look at cables, duplex, queues, MTU",
        );
    }
    // A heartbeat comes every 100 ms, and the election timeout is ten of them.
    if worst < 50.0 {
        Finding::pass(name, found)
    } else {
        Finding::warn(
            name,
            found,
            "give --heartbeat-interval a round trip, and --election-timeout ten of them",
        )
    }
}

/// What the kernel knows of the way to a peer.
#[derive(Debug, Default)]
struct PathFacts {
    /// Largest packet that goes there whole.
    mtu: Option<u32>,
    /// Packets that were sent again, over all connections.
    lost: u32,
}

impl PathFacts {
    fn add(&mut self, stream: &TcpStream) {
        // SAFETY: all zeros is a value of this struct of numbers.
        let mut told: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut bytes = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).expect("a struct is small");
        // SAFETY: the struct and its length outlive the call, which writes no more than that many bytes.
        let rc = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut told).cast(),
                &raw mut bytes,
            )
        };
        if rc == 0 {
            self.mtu = Some(told.tcpi_pmtu).filter(|&mtu| 0 < mtu);
            self.lost += told.tcpi_total_retrans;
        }
    }
}

impl fmt::Display for PathFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mtu) = self.mtu {
            write!(f, ", MTU {mtu}")?;
        }
        if 0 < self.lost { write!(f, ", {} packets sent again", self.lost) } else { Ok(()) }
    }
}
