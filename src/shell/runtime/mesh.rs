//! Rings between roles: bounded, lock-free across cores, plain memory on one core.
//!
//! Every pair of roles and direction has a ring of its own, so a ring has one producer and one
//! consumer. Each role waits on one [`Doorbell`]; a producer pushes any number of messages and then
//! rings once. Two roles on one executor get the same interface over a `VecDeque` and a `Cell`: no
//! atomics, no wake-up of the kernel.
//!
//! Bounds: a producer that can wait asks whether there is room first (a shard stops reading its
//! sockets). Answers may not wait, nobody could take them back: what finds no room goes to the producer's
//! overflow list, which the shards bound by the number of calls they let wait.
//! Lost wake-ups: the consumer arms its bell, then looks at the rings once more, then sleeps; the
//! producer pushes, then takes the armed flag. Both sides are sequentially consistent, so one of
//! them sees the other.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Poll, Waker};

use crossbeam::queue::ArrayQueue;
use futures_util::task::AtomicWaker;

/// The part of a role's bell that other threads may ring.
#[derive(Debug, Default)]
pub(in crate::shell) struct SharedBell {
    armed: AtomicBool,
    waker: AtomicWaker,
}

impl SharedBell {
    /// Wakes the role if it sleeps.
    pub(in crate::shell) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

/// The part of a role's bell that roles on the same executor ring.
#[derive(Debug, Default)]
struct LocalBell {
    armed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl LocalBell {
    fn ring(&self) {
        if self.armed.replace(false)
            && let Some(waker) = self.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }
}

/// Rings when the thread that holds it is done, however it ended.
#[derive(Debug)]
pub(in crate::shell) struct RingsAtEnd(pub(in crate::shell) Arc<SharedBell>);

impl Drop for RingsAtEnd {
    fn drop(&mut self) {
        self.0.ring();
    }
}

/// What a role sleeps on.
#[derive(Debug, Clone)]
pub(in crate::shell) struct Doorbell {
    shared: Arc<SharedBell>,
    local: Rc<LocalBell>,
}

impl Doorbell {
    /// A bell whose shared half was handed to other threads before this executor started.
    #[must_use]
    pub(in crate::shell) fn new(shared: Arc<SharedBell>) -> Self {
        Self { shared, local: Rc::default() }
    }

    /// Rings from the same executor.
    pub(in crate::shell) fn ring(&self) {
        self.local.ring();
    }

    /// Sleeps until `is_ready`. It is asked once more after arming, and again after every ring.
    pub(in crate::shell) async fn wait(&self, mut is_ready: impl FnMut() -> bool) {
        poll_fn(|cx| {
            if is_ready() || self.arm(cx.waker(), &mut is_ready) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Sleeps until `is_ready` or the first ring, whatever it was for.
    pub(in crate::shell) async fn wait_once(&self, mut is_ready: impl FnMut() -> bool) {
        let mut is_armed = false;
        poll_fn(|cx| {
            if is_armed || is_ready() || self.arm(cx.waker(), &mut is_ready) {
                return Poll::Ready(());
            }
            is_armed = true;
            Poll::Pending
        })
        .await;
    }

    /// Makes the next ring wake `waker`. True, and disarmed, if there is something to do already.
    fn arm(&self, waker: &Waker, is_ready: &mut impl FnMut() -> bool) -> bool {
        self.shared.waker.register(waker);
        {
            let mut known = self.local.waker.borrow_mut();
            if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
                *known = Some(waker.clone());
            }
        }
        self.local.armed.set(true);
        self.shared.armed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if is_ready() {
            self.local.armed.set(false);
            self.shared.armed.store(false, Ordering::SeqCst);
            return true;
        }
        false
    }
}

/// A ring between executors, made before they start.
#[derive(Debug)]
pub(in crate::shell) struct SharedRing<T> {
    queue: ArrayQueue<T>,
    bell: Arc<SharedBell>,
}

impl<T> SharedRing<T> {
    /// A ring of `capacity` messages whose consumer sleeps on `bell`.
    #[must_use]
    pub(in crate::shell) fn new(capacity: usize, bell: Arc<SharedBell>) -> Arc<Self> {
        Arc::new(Self { queue: ArrayQueue::new(capacity), bell })
    }

    /// Pushes and rings; for producers that are not executors.
    ///
    /// # Errors
    /// Gives the message back when the ring is full.
    pub(in crate::shell) fn send(&self, message: T) -> Result<(), T> {
        let pushed = self.queue.push(message);
        self.bell.ring();
        pushed
    }

    /// Takes the oldest message.
    #[must_use]
    pub(in crate::shell) fn take(&self) -> Option<T> {
        self.queue.pop()
    }

    /// Whether nothing waits.
    #[must_use]
    pub(in crate::shell) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[derive(Debug)]
struct LocalRing<T> {
    queue: RefCell<VecDeque<T>>,
    capacity: usize,
    bell: Doorbell,
}

#[derive(Debug)]
enum Ring<T> {
    Shared(Arc<SharedRing<T>>),
    Local(Rc<LocalRing<T>>),
}

impl<T> Clone for Ring<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Shared(ring) => Self::Shared(Arc::clone(ring)),
            Self::Local(ring) => Self::Local(Rc::clone(ring)),
        }
    }
}

/// The producing end of a ring.
#[derive(Debug)]
pub(in crate::shell) struct Sender<T> {
    ring: Ring<T>,
    overflow: RefCell<VecDeque<T>>,
    dirty: Cell<bool>,
}

impl<T> Sender<T> {
    /// Whether the next message finds room. It does then: a ring has one producer.
    #[must_use]
    pub(in crate::shell) fn has_room(&self) -> bool {
        let has_room = match &self.ring {
            Ring::Shared(ring) => !ring.queue.is_full(),
            Ring::Local(ring) => ring.queue.borrow().len() < ring.capacity,
        };
        has_room && self.overflow.borrow().is_empty()
    }

    fn try_send(&self, message: T) -> Result<(), T> {
        self.dirty.set(true);
        match &self.ring {
            Ring::Shared(ring) => ring.queue.push(message),
            Ring::Local(ring) => {
                let mut queue = ring.queue.borrow_mut();
                if queue.len() < ring.capacity {
                    queue.push_back(message);
                    Ok(())
                } else {
                    Err(message)
                }
            }
        }
    }

    /// Pushes without ringing; call [`Sender::ring`] at the end of the batch. What does not fit waits here,
    /// in order, until that finds room.
    pub(in crate::shell) fn send_always(&self, message: T) {
        let mut overflow = self.overflow.borrow_mut();
        if !overflow.is_empty() {
            overflow.push_back(message);
        } else if let Err(message) = self.try_send(message) {
            overflow.push_back(message);
        }
    }

    /// Wakes the consumer if anything was pushed since the last call. Answers whether messages are
    /// still waiting for room, in which case the caller has to call again.
    pub(in crate::shell) fn ring(&self) -> bool {
        let mut overflow = self.overflow.borrow_mut();
        while let Some(message) = overflow.pop_front() {
            if let Err(message) = self.try_send(message) {
                overflow.push_front(message);
                break;
            }
        }
        if self.dirty.replace(false) {
            match &self.ring {
                Ring::Shared(ring) => ring.bell.ring(),
                Ring::Local(ring) => ring.bell.ring(),
            }
        }
        !overflow.is_empty()
    }
}

/// The consuming end of a ring.
#[derive(Debug)]
pub(in crate::shell) struct Receiver<T> {
    ring: Ring<T>,
}

impl<T> Receiver<T> {
    /// Takes the oldest message.
    #[must_use]
    pub(in crate::shell) fn take(&self) -> Option<T> {
        match &self.ring {
            Ring::Shared(ring) => ring.queue.pop(),
            Ring::Local(ring) => ring.queue.borrow_mut().pop_front(),
        }
    }

    /// Messages that wait.
    #[must_use]
    pub(in crate::shell) fn len(&self) -> usize {
        match &self.ring {
            Ring::Shared(ring) => ring.queue.len(),
            Ring::Local(ring) => ring.queue.borrow().len(),
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub(in crate::shell) fn is_empty(&self) -> bool {
        match &self.ring {
            Ring::Shared(ring) => ring.queue.is_empty(),
            Ring::Local(ring) => ring.queue.borrow().is_empty(),
        }
    }
}

/// A ring between two roles of one executor.
#[must_use]
pub(in crate::shell) fn local<T>(capacity: usize, consumer: &Doorbell) -> (Sender<T>, Receiver<T>) {
    let ring = Rc::new(LocalRing { queue: RefCell::default(), capacity, bell: consumer.clone() });
    (producer(Ring::Local(Rc::clone(&ring))), Receiver { ring: Ring::Local(ring) })
}

/// The producing end of a ring between executors.
#[must_use]
pub(in crate::shell) fn shared_sender<T>(ring: &Arc<SharedRing<T>>) -> Sender<T> {
    producer(Ring::Shared(Arc::clone(ring)))
}

/// The consuming end of a ring between executors.
#[must_use]
pub(in crate::shell) fn shared_receiver<T>(ring: &Arc<SharedRing<T>>) -> Receiver<T> {
    Receiver { ring: Ring::Shared(Arc::clone(ring)) }
}

fn producer<T>(ring: Ring<T>) -> Sender<T> {
    Sender { ring, overflow: RefCell::default(), dirty: Cell::new(false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_tells_when_it_is_full_and_keeps_order() {
        let (bell, shared) = (Doorbell::new(Arc::default()), SharedRing::new(2, Arc::default()));
        for (sender, receiver) in [local(2, &bell), (shared_sender(&shared), shared_receiver(&shared))] {
            for message in [1, 2, 3] {
                assert_eq!(sender.has_room(), message < 3);
                sender.send_always(message);
            }
            assert_eq!([receiver.take(), receiver.take(), receiver.take()], [Some(1), Some(2), None]);
            // What waits has the next place.
            assert!(!sender.has_room());
            assert!(!sender.ring() && sender.has_room());
            assert_eq!(receiver.take(), Some(3));
            assert!(receiver.is_empty());
        }
    }

    #[test]
    fn messages_that_may_not_be_refused_wait_in_order_for_room() {
        let shared = SharedRing::new(2, Arc::default());
        let (sender, receiver) = (shared_sender(&shared), shared_receiver(&shared));
        for message in 0..5 {
            sender.send_always(message);
        }
        assert!(sender.ring());
        let mut seen = Vec::new();
        while seen.len() < 5 {
            while let Some(message) = receiver.take() {
                seen.push(message);
            }
            sender.ring();
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert!(!sender.ring());
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        // A consumer that sleeps after every message, against a producer that never waits for it.
        const MESSAGES: u64 = 20_000;
        let bell = Arc::<SharedBell>::default();
        let ring = SharedRing::new(64, Arc::clone(&bell));
        let producer = Arc::clone(&ring);
        #[expect(clippy::disallowed_methods, reason = "the test is about two threads")]
        let thread = std::thread::spawn(move || {
            for mut message in 0..MESSAGES {
                while let Err(back) = producer.send(message) {
                    message = back;
                    std::thread::yield_now();
                }
            }
        });
        let doorbell = Doorbell::new(bell);
        let receiver = shared_receiver(&ring);
        futures_lite::future::block_on(async {
            let mut next = 0;
            while next < MESSAGES {
                doorbell.wait(|| !receiver.is_empty()).await;
                assert_eq!(receiver.take(), Some(next));
                next += 1;
            }
        });
        thread.join().expect("the producer does not panic");
    }
}
