//! What one task of this executor waits for another to say.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// A bell for one waiting task. A ring that nobody waited for is kept for the next wait, and only one.
#[derive(Debug, Default)]
pub(in crate::shell) struct Wake {
    has_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wake {
    /// Wakes the waiting task, or lets the next wait end at once.
    pub(in crate::shell) fn ring(&self) {
        self.has_rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready after a ring; else the task is woken by the next.
    pub(in crate::shell) fn poll_rung(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_rung.take() {
            return Poll::Ready(());
        }
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *known = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for a ring.
    pub(in crate::shell) async fn rung(&self) {
        poll_fn(|cx| self.poll_rung(cx)).await;
    }
}

/// A bell for any number of waiting tasks.
#[derive(Debug, Default)]
pub(in crate::shell) struct Broadcast {
    rings: Cell<u64>,
    wakers: RefCell<Vec<Waker>>,
}

impl Broadcast {
    /// Wakes everyone who waits.
    pub(in crate::shell) fn ring(&self) {
        self.rings.set(self.rings.get() + 1);
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits for the next ring after this call.
    pub(in crate::shell) async fn rung(&self) {
        let before = self.rings.get();
        poll_fn(|cx| {
            if self.rings.get() != before {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|known| known.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_kept_once() {
        let wake = Wake::default();
        wake.ring();
        wake.ring();
        block_on(async {
            assert_eq!(poll_once(wake.rung()).await, Some(()));
            assert_eq!(poll_once(wake.rung()).await, None);
        });
    }
}
