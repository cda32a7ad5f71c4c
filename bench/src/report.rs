//! A run's figures: for people as a table, for machines as JSON.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::client::{Observer, RunResult};

/// A busier client thread than this may be the limit of the run.
const CLIENT_BUSY_PERCENT: f64 = 90.0;

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
}

/// One kind of failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FailureLine {
    pub what: String,
    pub count: u64,
    pub example: String,
}

/// What one run measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// In the whole run, warm-up included.
    pub requests_sent: u64,
    pub replies: u64,
    pub failures: Vec<FailureLine>,
    /// Sent, and neither answered nor failed: always 0, or the client has lost count.
    pub unaccounted: u64,
    /// Open loop: due in the window, but the in-flight bound never let them go.
    pub unsent: u64,
    pub reconnects: u64,
    /// In the measured window.
    pub window_s: f64,
    pub replies_in_window: u64,
    pub replies_per_s: f64,
    pub latency_us: Latency,
    /// Open loop: how late the client sent, p99.
    pub send_delay_p99_us: f64,
    pub client_cpu_us_per_request: f64,
    pub client_busiest_thread_percent: f64,
}

impl Figures {
    pub(crate) fn of(run: &RunResult) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let tally = &run.tally;
        let at = |quantile| us(tally.latency.value_at_quantile(quantile));
        let window_s = run.window.as_secs_f64();
        let replies = tally.replies_in_window as f64;
        let accounted = tally.replies + tally.failures_count();
        Self {
            requests_sent: tally.sent,
            replies: tally.replies,
            failures: tally
                .failures
                .iter()
                .map(|(failure, count)| FailureLine {
                    what: failure.name(),
                    count: count.count,
                    example: count.example.clone(),
                })
                .collect(),
            unaccounted: tally.sent.abs_diff(accounted),
            unsent: tally.unsent,
            reconnects: run.reconnects,
            window_s,
            replies_in_window: tally.replies_in_window,
            replies_per_s: ratio(replies, window_s),
            latency_us: Latency {
                p50: at(0.50),
                p90: at(0.90),
                p99: at(0.99),
                p999: at(0.999),
                max: us(tally.latency.max()),
                mean: tally.latency.mean() / 1e3,
            },
            send_delay_p99_us: us(tally.send_delay.value_at_quantile(0.99)),
            client_cpu_us_per_request: ratio(run.client_cpu.as_secs_f64() * 1e6, replies),
            client_busiest_thread_percent: ratio(100.0 * run.client_cpu_busiest.as_secs_f64(), window_s),
        }
    }

    /// Every request was answered, and well.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.unaccounted == 0 && 0 < self.replies
    }

    /// For people.
    pub(crate) fn table(&self, is_spinning: bool) -> String {
        let mut text = String::new();
        let latency = &self.latency_us;
        let mut line = |name: &str, value: String| {
            writeln!(text, "  {name:<22}{value}").expect("a String takes everything");
        };
        line("replies", format!("{} of {} requests", self.replies, self.requests_sent));
        line("throughput", format!("{} /s over {:.2} s", thousands(self.replies_per_s), self.window_s));
        line(
            "latency",
            format!(
                "p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                time(latency.p50),
                time(latency.p90),
                time(latency.p99),
                time(latency.p999),
                time(latency.max)
            ),
        );
        line(
            "client",
            format!(
                "{:.2} us CPU a request, busiest thread {:.0} %",
                self.client_cpu_us_per_request, self.client_busiest_thread_percent
            ),
        );
        if 0.0 < self.send_delay_p99_us {
            line("sent after due", format!("p99 {}", time(self.send_delay_p99_us)));
        }
        if 0 < self.reconnects {
            line("reconnects", self.reconnects.to_string());
        }
        for failure in &self.failures {
            line("FAILED", format!("{} x {}: {}", failure.count, failure.what, failure.example));
        }
        if 0 < self.unaccounted {
            line("UNACCOUNTED", self.unaccounted.to_string());
        }
        if 0 < self.unsent {
            line(
                "TOO SLOW",
                format!(
                    "{} requests were due and could not be sent: percentiles are lower bounds",
                    self.unsent
                ),
            );
        }
        if CLIENT_BUSY_PERCENT < self.client_busiest_thread_percent && !is_spinning {
            line("CAUTION", "a client thread was full: the server may be faster; add --threads".to_owned());
        }
        text
    }
}

/// `a / b`, and 0 for nothing of nothing.
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// `23,100`; small numbers keep a digit.
pub(crate) fn thousands(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (slot, digit) in digits.chars().enumerate() {
        if slot != 0 && (digits.len() - slot).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds, in the unit that reads best.
pub(crate) fn time(us: f64) -> String {
    if us < 10_000.0 {
        format!("{us:.0} us")
    } else if us < 10_000_000.0 {
        format!("{:.1} ms", us / 1e3)
    } else {
        format!("{:.1} s", us / 1e6)
    }
}

/// Writes a result where a program will look for it.
pub(crate) fn save_json(path: &Path, result: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(result)?;
    text.push('\n');
    fs::write(path, text)
}

/// A progress bar on a terminal, nothing elsewhere.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    is_counting_replies: bool,
}

impl Bar {
    /// A bar that fills as the time passes.
    pub(crate) fn of_time(total: Duration) -> Self {
        Self::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX), false)
    }

    /// A bar that fills as `total` replies come.
    pub(crate) fn of_replies(total: u64) -> Self {
        Self::new(total, true)
    }

    fn new(total: u64, is_counting_replies: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}").expect("a fixed template");
        Self { bar: ProgressBar::new(total).with_style(style), is_counting_replies }
    }
}

impl Observer for Bar {
    fn on_progress(&mut self, replies: u64, elapsed: Duration) {
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.bar.set_position(if self.is_counting_replies { replies } else { elapsed_ms });
        let rate = ratio(replies as f64, elapsed.as_secs_f64());
        self.bar.set_message(format!("{replies} replies, {} /s", thousands(rate)));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Failure, Tally};

    fn run() -> RunResult {
        let mut tally = Tally::new(0, 1_000_000_000);
        for slot in 0..1000_u64 {
            tally.on_sent(slot, slot);
            tally.on_reply(slot, slot + (slot + 1) * 1_000);
        }
        tally.on_sent(0, 0);
        tally.on_failure(Failure::Status(14), "etcdserver: no leader");
        RunResult {
            tally,
            window: Duration::from_secs(1),
            client_cpu: Duration::from_millis(2),
            client_cpu_busiest: Duration::from_millis(1),
            reconnects: 0,
        }
    }

    #[test]
    fn figures_are_computed_from_the_window() {
        let figures = Figures::of(&run());
        assert_eq!(figures.replies_per_s, 1000.0);
        assert!((499.0..=501.5).contains(&figures.latency_us.p50), "{}", figures.latency_us.p50);
        assert!((989.0..=991.5).contains(&figures.latency_us.p99));
        assert_eq!(figures.client_cpu_us_per_request, 2.0);
        assert_eq!(figures.unaccounted, 0);
        assert!(!figures.is_clean(), "an error is an error");
        assert!(figures.table(false).contains("1 x grpc-status 14 UNAVAILABLE: etcdserver: no leader"));
        let mut lost = run();
        lost.tally.sent += 3;
        assert_eq!(Figures::of(&lost).unaccounted, 3);
    }

    #[test]
    fn json_holds_what_the_table_shows() {
        let text = serde_json::to_string(&Figures::of(&run())).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["replies"], 1000);
        assert_eq!(value["failures"][0]["what"], "grpc-status 14 UNAVAILABLE");
        assert_eq!(value["failures"][0]["count"], 1);
        assert!(value["latency_us"]["p999"].as_f64().unwrap() > value["latency_us"]["p50"].as_f64().unwrap());
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567.0), "1,234,567");
        assert_eq!(thousands(155.0), "155");
        assert_eq!(thousands(6.44), "6.4");
        assert_eq!(
            (time(255.4), time(24_000.0), time(12e6)),
            ("255 us".into(), "24.0 ms".into(), "12.0 s".into())
        );
    }
}
