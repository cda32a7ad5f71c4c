//! A signal to stop, heard between other work.

use std::cell::Cell;
use std::time::Duration;

use futures_lite::future;

use crate::shell::runtime::waiting::Waiting;

/// How long it may take until a signal is noticed.
const SLICE: Duration = Duration::from_millis(100);

/// Whether a signal has told the process to stop. It is heard once and remembered.
pub(in crate::shell) struct Stop<'a> {
    listen: &'a dyn Fn() -> bool,
    /// Told what the process waits for instead.
    pub waiting: &'a Waiting,
    is_told: Cell<bool>,
}

impl<'a> Stop<'a> {
    pub(super) fn new(listen: &'a dyn Fn() -> bool, waiting: &'a Waiting) -> Self {
        Self { listen, waiting, is_told: Cell::new(false) }
    }

    pub(super) fn is_told(&self) -> bool {
        if !self.is_told.get() && (self.listen)() {
            self.is_told.set(true);
        }
        self.is_told.get()
    }

    /// Waits until the process is told to stop.
    pub(super) async fn told(&self) {
        while !self.is_told() {
            glommio::timer::sleep(SLICE).await;
        }
    }

    /// False: told to stop before the time was over.
    pub(super) async fn sleep(&self, time: Duration) -> bool {
        let told = async {
            self.told().await;
            false
        };
        let rested = async {
            glommio::timer::sleep(time).await;
            true
        };
        future::or(told, rested).await
    }
}
