//! An event that happens once, for a task of the same executor.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Fired once; stays so.
#[derive(Debug, Default)]
pub(super) struct Signal {
    has_fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes whoever waits, now or later.
    pub(super) fn fire(&self) {
        self.has_fired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn has_fired(&self) -> bool {
        self.has_fired.get()
    }

    /// Whether it has fired; if not, the task is woken when it does.
    pub(super) fn poll_fired(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_fired.get() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}
