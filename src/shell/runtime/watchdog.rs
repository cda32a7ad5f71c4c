//! The word to systemd that this process lives (`WatchdogSec=`): while every executor runs its tasks.
//!
//! A thread that only sends would outlive everything that matters. So an executor counts each time that its pulse
//! is felt (`pulse`), and nothing is sent while one of them stands still; then systemd restarts the member.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::shell::runtime::logging::rounded;
use crate::shell::runtime::pulse::Pulse;
use crate::shell::runtime::service_manager::ServiceManager;

/// The variables of sd_watchdog_enabled(3).
const PERIOD_VARIABLE: &str = "WATCHDOG_USEC";
const PROCESS_VARIABLE: &str = "WATCHDOG_PID";

/// How often the environment wants to hear of this process; None: never.
#[expect(
    clippy::disallowed_methods,
    reason = "systemd says it in the environment, once, before the member starts"
)]
pub(in crate::shell) fn period_of_environment() -> Option<Duration> {
    let read = |name: &str| std::env::var(name).ok();
    period(read(PERIOD_VARIABLE)?.as_str(), read(PROCESS_VARIABLE).as_deref(), std::process::id())
}

fn period(micros: &str, process: Option<&str>, own: u32) -> Option<Duration> {
    let is_meant = process.is_none_or(|process| process.parse() == Ok(own));
    let micros: u64 = micros.parse().ok().filter(|micros| 0 < *micros)?;
    is_meant.then(|| Duration::from_micros(micros))
}

/// Tells `manager` twice in each `period` that all of `pulses` are felt, for the life of the process.
///
/// # Errors
/// When the thread cannot be started.
pub(in crate::shell) fn start(
    period: Duration,
    manager: Arc<ServiceManager>,
    pulses: Vec<Arc<Pulse>>,
) -> io::Result<()> {
    let run = move || {
        let mut last: Vec<u64> = pulses.iter().map(|pulse| pulse.felt()).collect();
        loop {
            std::thread::sleep(period / 2);
            let now: Vec<u64> = pulses.iter().map(|pulse| pulse.felt()).collect();
            if last.iter().zip(&now).all(|(before, now)| before < now) {
                manager.tell(&[("WATCHDOG", "1")]);
            } else {
                let since = rounded(period / 2);
                tracing::warn!(
                    since,
                    "an executor runs no tasks; the service manager's watchdog is not told that it does"
                );
            }
            last = now;
        }
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(run).map(|_handle| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_is_taken_if_it_is_one_and_meant_for_this_process() {
        let half = Duration::from_millis(500);
        assert_eq!(period("500000", None, 7), Some(half));
        assert_eq!(period("500000", Some("7"), 7), Some(half));
        for (micros, process) in
            [("500000", Some("8")), ("500000", Some("x")), ("0", None), ("-1", None), ("", None)]
        {
            assert_eq!(period(micros, process, 7), None, "{micros} {process:?}");
        }
    }
}
