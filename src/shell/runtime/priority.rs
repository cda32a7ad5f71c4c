//! How the kernel is to rank threads of one core.

#![expect(unsafe_code, reason = "the scheduling of one thread, which std does not offer")]

use std::io;

/// A quarter of a core against one thread of normal priority, all of an idle one. Less would make a transfer
/// on a crowded machine so slow that what comes between (a new leader) makes it begin anew.
const BACKGROUND_NICE: libc::c_int = 5;

/// Of two such threads beside one that never sleeps: a thirtieth of the core each, all of it where it would be idle. A
/// password is compared in a twentieth of a second, so in 1.5 s on a core that has no time left, and not never, as with
/// the policy for idle time.
const LAST_NICE: libc::c_int = 15;

/// Of the log's thread: the least that Linux takes.
const LOG_SLICE_NS: u64 = 100_000;

/// Of a thread that gives way: far more than what a thread has that asks for nothing, some milliseconds.
const LONG_SLICE_NS: u64 = 20_000_000;

/// Lowers the calling thread's priority for good.
///
/// A low priority alone is not enough: whoever has begun its slice keeps the core though a thread of higher priority wakes
/// up, until the kernel's next tick. It is interrupted at once by one that has asked for less, so it asks for much.
pub(super) fn give_way() {
    set(BACKGROUND_NICE, LONG_SLICE_NS);
}

/// Gives the calling thread the core as soon as it has something to do, for a tenth of a millisecond at a time.
///
/// Linux asks every thread how long it wants to run at once, 3 ms where nothing is said, and lets the one that wakes
/// go first if it asks for less than the one that runs. A thread that works for some microseconds and sleeps would
/// else wait until an executor that has much to do has run its slice. It takes no right to ask for less, and costs
/// the others nothing but the switch. Before Linux 6.12 the wish is not heard.
pub(in crate::shell) fn come_first() {
    set(nice(), LOG_SLICE_NS);
}

/// Leaves the core to whatever else wants it, but for a thirtieth. See [`give_way`].
pub(super) fn come_last() {
    set(LAST_NICE, LONG_SLICE_NS);
}

/// Sets the calling thread's priority, and the slice that it asks for.
fn set(nice: libc::c_int, slice_ns: u64) {
    let wish = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).expect("some 50 bytes"),
        sched_policy: libc::SCHED_OTHER.unsigned_abs(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: slice_ns,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says from the struct, which lives until the call returns. 0
    // names the calling thread.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
    if answer != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "a thread keeps the priority and slice that it has");
    }
}

/// The calling thread's priority, which a wish for slices has to repeat.
fn nice() -> libc::c_int {
    // SAFETY: a system call without memory. An error looks like a priority of -1, and there is none for oneself.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}
