//! What whoever looks at the dashboard sees, gathered once a second for all of them.
//!
//! `sampling` writes it, viewers read it. The lock is held to copy; no call of a client waits for it.
//!
//! Bounds: the history's (`metrics::History`), `SLOW_MAX` slow requests, `VIEWERS_MAX` viewers, one text for all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::metrics::{History, Sample};
use crate::rpc::json::put_text;

/// Between two samples.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Requests that took long, the last of them.
const SLOW_MAX: usize = 32;

/// Who may look at once.
const VIEWERS_MAX: usize = 32;

/// A request that took long.
#[derive(Debug)]
pub(super) struct SlowRequest {
    pub(super) name: String,
    pub(super) took_ms: u64,
    pub(super) queued_ms: u64,
    pub(super) waited_for: &'static str,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    /// The series of the newest scrape, as JSON. Empty while nobody looks.
    series: Bytes,
    /// When each was noted, in milliseconds since 1970.
    slow: VecDeque<(u64, SlowRequest)>,
}

/// See the module. Shared by the shards of the process.
#[derive(Debug, Default)]
pub(in crate::shell) struct Overview {
    state: Mutex<State>,
    viewers: AtomicUsize,
}

/// News for one viewer.
pub(super) struct News {
    /// Number of the first sample.
    pub(super) first: u64,
    pub(super) samples: Vec<Sample>,
    /// Whether there are later ones already.
    pub(super) has_more: bool,
    pub(super) series: Bytes,
}

impl Overview {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether somebody looks.
    pub(super) fn is_watched(&self) -> bool {
        0 < self.viewers.load(Ordering::Acquire)
    }

    /// A second has passed. `series` is empty while nobody looks.
    pub(super) fn on_sample(&self, sample: Option<Sample>, series: Bytes) {
        self.with(|state| {
            if let Some(sample) = sample {
                state.history.push(sample);
            }
            state.series = series;
        });
    }

    /// Lets somebody look, until what is returned is dropped. None: there are too many.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Viewer> {
        let viewer = Viewer(Arc::clone(self));
        (self.viewers.fetch_add(1, Ordering::AcqRel) < VIEWERS_MAX).then_some(viewer)
    }

    pub(super) fn note_slow(&self, request: SlowRequest) {
        self.with(|state| {
            if state.slow.len() == SLOW_MAX {
                state.slow.pop_front();
            }
            state.slow.push_back((now_ms(), request));
        });
    }

    /// At most `count` samples from number `from` on.
    pub(super) fn read(&self, from: u64, count: usize) -> News {
        self.with(|state| {
            let (first, samples) = state.history.read(from, count);
            let has_more = first + (samples.len() as u64) < state.history.next();
            News { first, samples, has_more, series: state.series.clone() }
        })
    }

    /// Appends the slow requests, the newest first, as JSON.
    pub(super) fn put_slow(&self, out: &mut Vec<u8>) {
        self.with(|state| {
            out.push(b'[');
            for (at, (noted_ms, slow)) in state.slow.iter().rev().enumerate() {
                out.extend_from_slice(if at == 0 { b"[" } else { b",[" });
                out.extend_from_slice(format!("{noted_ms},").as_bytes());
                put_text(&slow.name, out);
                out.extend_from_slice(format!(",{},{},", slow.took_ms, slow.queued_ms).as_bytes());
                put_text(slow.waited_for, out);
                out.push(b']');
            }
            out.push(b']');
        });
    }
}

/// Milliseconds since 1970 by this host's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}

/// Somebody who looks.
pub(super) struct Viewer(Arc<Overview>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.fetch_sub(1, Ordering::AcqRel);
    }
}
