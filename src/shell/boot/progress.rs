//! How far a command without a server is, on standard error.

use std::time::{Duration, Instant};

use crate::shell::runtime::logging;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(2);

/// Work of a known size.
#[derive(Debug)]
pub(in crate::shell) struct Progress {
    what: &'static str,
    bytes: u64,
    done_bytes: u64,
    told: Instant,
}

impl Progress {
    pub(in crate::shell) fn new(what: &'static str, bytes: u64) -> Self {
        Self { what, bytes, done_bytes: 0, told: Instant::now() }
    }

    /// So many bytes more are done. Says so once in a while.
    pub(in crate::shell) fn on_bytes(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        // Entries come by the million; the clock is asked about each MiB.
        if self.done_bytes >> 20 != (self.done_bytes - bytes) >> 20 && PAUSE <= self.told.elapsed() {
            self.told = Instant::now();
            let percent = 100 * self.done_bytes / self.bytes.max(1);
            logging::complain(&format!("{}: {percent} % of {} MiB\n", self.what, self.bytes >> 20));
        }
    }
}
