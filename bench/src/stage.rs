//! Where a scenario of streams plays: on a thread and core of its own, while the caller keeps time.
//!
//! The scenario connects and sets up, then asks for its window; the caller hears the window open and
//! close and reads the server's counters there, outside the loop that is measured.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::client::{ClientError, Observer, Window, nanos};
use crate::sys::Clock;

/// From a scenario's "ready" to its window.
const START_DELAY_NS: u64 = 1_000_000;
/// How late the end of a scenario may be noticed.
const TICK: Duration = Duration::from_millis(20);

/// How long a scenario is loaded and then measured; without a duration, until it is through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub warmup: Duration,
    pub duration: Option<Duration>,
}

/// The scenario's side.
#[derive(Debug)]
pub(crate) struct Cue {
    ready: mpsc::Sender<()>,
    window: mpsc::Receiver<Window>,
}

impl Cue {
    /// All is set up: when does the window open?
    pub(crate) fn ready(&self) -> Result<Window, ClientError> {
        self.ready.send(()).map_err(|_| ClientError::Interrupted)?;
        self.window.recv().map_err(|_| ClientError::Interrupted)
    }
}

/// Puts the calling thread on a core, if one is given.
pub(crate) fn pin_to(core: Option<usize>) -> Result<(), ClientError> {
    match core {
        Some(id) if !core_affinity::set_for_current(core_affinity::CoreId { id }) => {
            let source = std::io::Error::other(format!("core {id} is not ours to use"));
            Err(ClientError::Io { operation: "pin", source })
        }
        _ => Ok(()),
    }
}

/// Plays `script` and tells `observer` of its window.
pub(crate) fn play<T: Send>(
    core: Option<usize>,
    timing: Timing,
    observer: &mut dyn Observer,
    script: impl FnOnce(&Cue) -> Result<T, ClientError> + Send,
) -> Result<T, ClientError> {
    let clock = Clock::start();
    std::thread::scope(|scope| {
        let (ready, inbox) = mpsc::channel();
        let (starter, window) = mpsc::channel();
        let player = scope.spawn(move || {
            pin_to(core)?;
            script(&Cue { ready, window })
        });
        // Its end closes the channel, whether it ever became ready or not.
        if inbox.recv().is_ok() {
            let start_ns = clock.now_ns() + START_DELAY_NS;
            let measure_start_ns = start_ns + nanos(timing.warmup);
            let stop_ns = timing.duration.map_or(u64::MAX, |duration| measure_start_ns + nanos(duration));
            starter.send(Window { start_ns, measure_start_ns, stop_ns }).unwrap_or(());
            let (mut is_open, mut is_closed) = (false, false);
            loop {
                let now_ns = clock.now_ns();
                if !is_open && measure_start_ns <= now_ns {
                    is_open = true;
                    observer.on_window_open();
                }
                if is_open && !is_closed && stop_ns <= now_ns {
                    is_closed = true;
                    observer.on_window_close();
                }
                let edge_ns = if is_open { stop_ns } else { measure_start_ns };
                let wait = Duration::from_nanos(edge_ns.saturating_sub(now_ns));
                let wait = if is_closed { TICK } else { TICK.min(wait) };
                match inbox.recv_timeout(wait) {
                    Err(RecvTimeoutError::Disconnected) => break,
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                }
            }
            if is_open && !is_closed {
                observer.on_window_close();
            }
        }
        player.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(Vec<&'static str>);

    impl Observer for Heard {
        fn on_window_open(&mut self) {
            self.0.push("open");
        }
        fn on_window_close(&mut self) {
            self.0.push("close");
        }
    }

    fn heard(
        duration: Option<Duration>,
        script: impl FnOnce(&Cue) -> Result<u32, ClientError> + Send,
    ) -> (Vec<&'static str>, Result<u32, ClientError>) {
        let mut heard = Heard::default();
        let timing = Timing { warmup: Duration::ZERO, duration };
        let result = play(None, timing, &mut heard, script);
        (heard.0, result)
    }

    #[test]
    fn the_window_opens_once_and_closes_once_however_the_scenario_ends() {
        let until = |window: Window, end_ns: u64| {
            let clock = Clock::start();
            while clock.now_ns() < end_ns.min(window.start_ns + 500_000_000) {
                std::thread::yield_now();
            }
        };
        let (edges, result) = heard(Some(Duration::from_millis(30)), |cue| {
            let window = cue.ready()?;
            until(window, window.stop_ns + 10_000_000);
            Ok(7)
        });
        assert_eq!((edges, result.unwrap()), (vec!["open", "close"], 7));
        let (edges, _) = heard(None, |cue| {
            let window = cue.ready()?;
            until(window, window.start_ns + 60_000_000);
            Ok(0)
        });
        assert_eq!(edges, ["open", "close"], "without a duration it closes at the end");
        let (edges, result) = heard(None, |_| Err(ClientError::Interrupted));
        assert!(edges.is_empty() && result.is_err(), "it never became ready");
    }
}
