//! The few calls that std does not make: CPU clocks, core masks, a nanosecond timer, signals.
//!
//! The only unsafe code of this package.
#![expect(unsafe_code, reason = "system calls without a safe wrapper in std, one function each")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const NS_PER_S: u64 = 1_000_000_000;

/// Nanoseconds since this process asked for the first time: one origin for all threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        Self { origin: *ORIGIN.get_or_init(Instant::now) }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a run is shorter than 584 years")
    }
}

/// CPU time that the calling thread has used, user and system.
pub(crate) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the call to fill.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert!(rc == 0, "this clock exists on every Linux");
    u64::try_from(time.tv_sec).expect("not negative") * NS_PER_S
        + u64::try_from(time.tv_nsec).expect("not negative")
}

/// Has the calling thread, and those that it spawns from now on, run behind the others of this process.
pub(crate) fn give_way() {
    // SAFETY: no pointers; 0 is the calling thread.
    let rc = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
    assert!(rc == 0, "everybody may lower a priority");
}

/// Clock ticks a second in `/proc/PID/stat`.
pub(crate) fn ticks_per_s() -> u64 {
    // SAFETY: sysconf takes a constant and touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).expect("Linux always answers this")
}

/// A timer that epoll can wait for, with the kernel's full resolution: mio's own timeout counts whole
/// milliseconds, which at 10 k requests a second would send ten at a time.
#[derive(Debug)]
pub(crate) struct Timer {
    fd: OwnedFd,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; a non-negative result is a descriptor that nobody else owns.
        let fd = unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Self { fd })
    }

    /// Fires once, `delay_ns` from now. Setting it again forgets the earlier time.
    pub(crate) fn set(&self, delay_ns: u64) -> io::Result<()> {
        let delay_ns = delay_ns.max(1); // zero would disarm it
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(delay_ns / NS_PER_S).expect("small"),
            tv_nsec: libc::c_long::try_from(delay_ns % NS_PER_S).expect("below a second"),
        };
        let once =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: `fd` is open, `once` is initialised, the old value is not asked for.
        let rc =
            unsafe { libc::timerfd_settime(self.fd.as_raw_fd(), 0, &raw const once, std::ptr::null_mut()) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` may be called in a signal handler. The second Ctrl-C does not wait for order:
        // the servers die with us (`die_with_parent`).
        unsafe { libc::_exit(130) }
    }
}

/// From now on Ctrl-C and SIGTERM are noticed by `is_interrupted` instead of ending the process, so that
/// servers are stopped and directories removed. A closed pipe (`| head`) ends it without a word.
pub(crate) fn catch_interrupts() {
    let handler = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only touches an atomic and `_exit`, both async-signal-safe.
        let before = unsafe { libc::signal(signal, handler) };
        assert!(before != libc::SIG_ERR, "the signal numbers are valid");
    }
    // SAFETY: no handler runs; sockets are written with MSG_NOSIGNAL by std and never raise it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ctrl-C was pressed (or SIGTERM came).
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sends a signal to a process that we started and have not reaped.
pub(crate) fn send_signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: no memory is touched; the pid is our child's, so it cannot have been reused.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the command's process run on `cpus` only (all of ours when empty) and die when we do, even when
/// we are killed.
pub(crate) fn confine(command: &mut Command, cpus: &[usize]) {
    let mut set: libc::cpu_set_t = {
        // SAFETY: a cpu_set_t is an array of integers, for which zero is a value.
        unsafe { std::mem::zeroed() }
    };
    for &cpu in cpus {
        // SAFETY: CPU_SET checks the index against the set's size (an index beyond it is a panic).
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    let is_pinned = !cpus.is_empty();
    // SAFETY: between fork and exec the closure makes two system calls on memory it owns: no allocation,
    // no lock.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            if is_pinned && libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_fires_after_its_delay_and_not_before() {
        let timer = Timer::new().unwrap();
        let clock = Clock::start();
        timer.set(2_000_000).unwrap();
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let fd = timer.fd();
        poll.registry()
            .register(&mut mio::unix::SourceFd(&fd), mio::Token(0), mio::Interest::READABLE)
            .unwrap();
        poll.poll(&mut events, Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(events.iter().count(), 1);
        assert!(clock.now_ns() >= 2_000_000);
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = thread_cpu_ns();
        let mut sum = 0_u64;
        while thread_cpu_ns() < before + 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(sum > 0);
    }
}
