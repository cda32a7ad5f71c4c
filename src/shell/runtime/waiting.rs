//! What a start waits for, said from time to time: in the log, and to the service manager.
//!
//! Whoever holds a start up says on what: first the main thread, step by step, then the raft role, which knows
//! who is there. A thread of its own repeats it, since the main thread may be inside a read of the log for
//! minutes. Nothing is said of a start that is quick.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, RecvTimeoutError};

use crate::shell::runtime::logging::rounded;
use crate::shell::runtime::service_manager::ServiceManager;

/// A start that takes longer is said to take longer, ...
const FIRST: Duration = Duration::from_secs(3);

/// ... and again after so long.
const PERIOD: Duration = Duration::from_secs(10);

/// How much longer a service manager is asked to wait each time. More than a `PERIOD` that comes late.
const EXTENSION: Duration = Duration::from_secs(60);

/// What is waited for now. Clones share it.
#[derive(Debug, Clone, Default)]
pub(in crate::shell) struct Waiting(Arc<Mutex<String>>);

impl Waiting {
    /// From now on this is waited for: the end of the sentence "waiting for", or what there is and what is missing.
    pub(in crate::shell) fn on(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    fn what(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Says it until it is dropped.
pub(in crate::shell) struct Reports {
    _stop: channel::Sender<()>,
}

impl Reports {
    /// # Errors
    /// When there is no room for a thread.
    pub(in crate::shell) fn start(waiting: Waiting, manager: Arc<ServiceManager>) -> io::Result<Self> {
        let (stop, is_stopped) = channel::bounded(0);
        let started = Instant::now();
        let run = move || {
            let mut pause = FIRST;
            while is_stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = PERIOD;
                let what = waiting.what();
                tracing::info!(since = rounded(started.elapsed()), "waiting: {what}");
                // A service manager would end a start that takes longer than its own patience, and begin it anew.
                manager.tell(&[
                    ("STATUS", &format!("waiting: {what}")),
                    ("EXTEND_TIMEOUT_USEC", &EXTENSION.as_micros().to_string()),
                ]);
            }
        };
        std::thread::Builder::new().name("waiting".to_owned()).spawn(run)?;
        Ok(Self { _stop: stop })
    }
}
