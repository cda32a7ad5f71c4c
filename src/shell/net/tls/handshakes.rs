//! Threads for the steps of handshakes: two, with a bounded queue.
//!
//! Their priority is lowered: where cores are few, calls of clients that are connected go before those who connect.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Poll;

use crossbeam::channel::{self, TrySendError};
use futures_util::task::AtomicWaker;

use crate::shell::runtime::helpers::Helpers;

const THREADS: usize = 2;

/// Steps that wait. One takes a millisecond or two, so the last of them waits for two seconds at worst.
const WAITING_MAX: usize = 2048;

/// Threads that wait for the system's resolver.
const APART_MAX: usize = 16;

type Job = Box<dyn FnOnce() + Send>;

/// There are too many steps already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

/// See the module. Clones share the threads, which begin with the first step.
#[derive(Clone, Default)]
pub(in crate::shell) struct Handshakes {
    /// None: before there are threads, at a start, whoever asks does it itself.
    helpers: Option<Helpers>,
    threads: Arc<Threads>,
}

#[derive(Default)]
struct Threads {
    jobs: OnceLock<channel::Sender<Job>>,
    /// Threads of their own.
    apart: AtomicUsize,
}

impl std::fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshakes").finish_non_exhaustive()
    }
}

/// An answer between a thread and an executor.
struct Slot<T> {
    answer: Mutex<Option<T>>,
    waker: AtomicWaker,
}

impl<T> Slot<T> {
    fn take(&self) -> Option<T> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Handshakes {
    pub(in crate::shell) fn new(helpers: Helpers) -> Self {
        Self { helpers: Some(helpers), threads: Arc::default() }
    }

    /// What `work` comes to on a thread.
    ///
    /// # Errors
    /// Too many wait already.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Crowded> {
        let Some(helpers) = &self.helpers else { return Ok(work()) };
        let jobs = self.threads.jobs.get_or_init(|| {
            let (jobs, inbox) = channel::bounded::<Job>(WAITING_MAX);
            for _ in 0..THREADS {
                let inbox = inbox.clone();
                helpers.run_in_background("handshakes", move || inbox.iter().for_each(|job| job()));
            }
            jobs
        });
        let (job, answer) = slot(work);
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Crowded),
        }
        Ok(answer.await)
    }

    /// The same on a thread of its own, for what waits for others: it would hold up all handshakes.
    ///
    /// # Errors
    /// There are too many already.
    pub(super) async fn run_apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Crowded> {
        let Some(helpers) = &self.helpers else { return Ok(work()) };
        if APART_MAX <= self.threads.apart.fetch_add(1, Ordering::Relaxed) {
            self.threads.apart.fetch_sub(1, Ordering::Relaxed);
            return Err(Crowded);
        }
        let (job, answer) = slot(work);
        let threads = Arc::clone(&self.threads);
        helpers.run_in_background("resolver", move || {
            job();
            threads.apart.fetch_sub(1, Ordering::Relaxed);
        });
        Ok(answer.await)
    }
}

/// A job for `work`, and its answer to come.
fn slot<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> (Job, impl Future<Output = T>) {
    let slot = Arc::new(Slot { answer: Mutex::new(None), waker: AtomicWaker::new() });
    let given = Arc::clone(&slot);
    let job = Box::new(move || {
        // Nobody waits any more when the connection has ended.
        if 1 < Arc::strong_count(&given) {
            let answer = work();
            given.answer.lock().unwrap_or_else(PoisonError::into_inner).replace(answer);
            given.waker.wake();
        }
    });
    let answer = poll_fn(move |cx| {
        slot.waker.register(cx.waker());
        slot.take().map_or(Poll::Pending, Poll::Ready)
    });
    (job, answer)
}
