//! Wakes every executor from outside, many times a second while there is work.
//!
//! glommio 0.9 can put an executor to sleep that still has tasks to run: when its preempt timer fires
//! between its look at the rings and its look at the task queues (the thread lost its core just
//! there), `run_task_queues` answers that nothing ran, which is taken for "there is nothing to run",
//! and the executor sleeps until the next completion. Nothing inside can help, since what would is
//! among the tasks that do not run. On a loaded machine this was met about once in a thousand starts.
//!
//! Two ways, since the first needs a task that has run: a waker, once there is one; before that, a
//! signal, which ends the thread's wait in the kernel.
//! Cost: one wake-up of each executor a pulse. A member without work is pulsed a tenth as often: its own pulses
//! were nine tenths of what it used, and an executor can fall asleep by mistake only where it was awake. What is
//! called "without work" follows from the processor time of the whole process, which no path has to count for it.

#![expect(unsafe_code, reason = "a signal to one thread, which std does not offer")]

use std::future::poll_fn;
use std::io;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use signal_hook::consts::SIGURG;

/// Longest stall of an executor that was put to sleep by mistake.
const PULSE: Duration = Duration::from_millis(10);

/// The same in a process that had hardly any work before.
const IDLE_PULSE: Duration = Duration::from_millis(100);

/// A process that uses less than this share of one core has hardly any work. Pulses themselves stay below it.
const IDLE_SHARE: u32 = 32;

/// What one executor is woken by.
#[derive(Debug, Default)]
pub(in crate::shell) struct Pulse {
    waker: AtomicWaker,
    has_waker: AtomicBool,
    felt: AtomicU64,
}

impl Pulse {
    /// Runs on the executor and never ends. Being woken is all it is for.
    pub(in crate::shell) async fn feel(self: Arc<Self>) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            self.has_waker.store(true, Ordering::Release);
            self.felt.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        })
        .await;
    }
}

impl Pulse {
    /// How often the executor was woken by it and ran this task: it grows as long as tasks get their turns.
    pub(in crate::shell) fn felt(&self) -> u64 {
        self.felt.load(Ordering::Relaxed)
    }
}

/// An executor's thread and its pulse.
pub(in crate::shell) struct Patient {
    pub pulse: Arc<Pulse>,
    pub thread: JoinHandle<()>,
}

impl Patient {
    fn wake(&self) {
        if self.pulse.has_waker.load(Ordering::Acquire) {
            self.pulse.waker.wake();
        } else {
            // SAFETY: the handle is neither joined nor dropped, so the thread's id stays its own even
            // when the thread has ended; then the call answers an error, which is as good.
            unsafe { libc::pthread_kill(self.thread.as_pthread_t(), SIGURG) };
        }
    }
}

/// Starts the pulse, for the life of the process.
///
/// # Errors
/// When the thread cannot be started or the signal not be handled.
pub(in crate::shell) fn start(executors: Vec<Patient>) -> io::Result<()> {
    // Without a handler the signal is ignored before it wakes anybody.
    signal_hook::flag::register(SIGURG, Arc::default())?;
    let pulse = move || {
        let mut pause = PULSE;
        loop {
            let (began, used) = (Instant::now(), processor_time());
            std::thread::sleep(pause);
            executors.iter().for_each(Patient::wake);
            pause = pause_after(processor_time().saturating_sub(used), began.elapsed());
        }
    };
    std::thread::Builder::new().name("pulse".to_owned()).spawn(pulse).map(|_handle| ())
}

/// The pause after one in which the process used so much of the processors.
fn pause_after(used: Duration, elapsed: Duration) -> Duration {
    if used * IDLE_SHARE < elapsed { IDLE_PULSE } else { PULSE }
}

/// What the process has used of the processors so far.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`, which lives until the call returns.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(answer, 0, "this clock always exists");
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.expect("it counts up"), nanos.expect("below a second"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_process_without_work_is_pulsed_a_tenth_as_often() {
        let ms = Duration::from_millis;
        assert_eq!(pause_after(ms(0), PULSE), IDLE_PULSE);
        assert_eq!(pause_after(ms(3), IDLE_PULSE), IDLE_PULSE);
        assert_eq!(pause_after(ms(4), IDLE_PULSE), PULSE);
        assert_eq!(pause_after(ms(20), PULSE), PULSE, "two cores at work");
        let before = processor_time();
        while processor_time() == before {}
    }

    #[test]
    fn a_thread_that_waits_in_the_kernel_is_woken_before_it_has_a_waker() {
        let (asleep, is_asleep) = mpsc::channel();
        let (woken, is_woken) = mpsc::channel();
        let thread = std::thread::Builder::new().spawn(move || {
            asleep.send(()).unwrap();
            // SAFETY: no descriptors, so no memory is touched; without end but for a signal.
            let answer = unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
            woken.send((answer, io::Error::last_os_error().kind())).unwrap();
        });
        is_asleep.recv().unwrap();
        start(vec![Patient { pulse: Arc::default(), thread: thread.unwrap() }]).unwrap();
        // Many pulses: the thread may not have been in the kernel at the first.
        let answer = is_woken.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(answer, (-1, io::ErrorKind::Interrupted));
    }
}
