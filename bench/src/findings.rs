//! What a scenario of streams found: named figures, and whatever was not as it must be.
//!
//! Requests all have the same figures (`report::Figures`); a fan-out, an idle crowd and a mass expiry do
//! not, so here each figure carries its name and its unit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::report::{FailureLine, thousands, time};

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    PerSecond,
    /// Microseconds.
    Time,
    /// Microseconds of CPU for one of the things counted.
    Cpu,
    Bytes,
    Percent,
    Count,
}

impl Unit {
    /// A value of this unit, for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{} /s", thousands(value)),
            Self::Time => time(value),
            Self::Cpu => format!("{value:.2} us"),
            Self::Bytes => format!("{} B", thousands(value)),
            Self::Percent => format!("{value:.0} %"),
            Self::Count => thousands(value),
        }
    }
}

/// The beginning of a message that makes no sense, for people.
pub(crate) fn shown(message: &[u8]) -> String {
    const BYTES_MAX: usize = 32;
    let mut text = format!("{} bytes:", message.len());
    for byte in message.iter().take(BYTES_MAX) {
        write!(text, " {byte:02x}").expect("a String takes every write");
    }
    if BYTES_MAX < message.len() {
        text.push_str(" ...");
    }
    text
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Reading {
    pub name: String,
    pub unit: Unit,
    pub value: f64,
}

/// What one scenario found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Findings {
    pub readings: Vec<Reading>,
    /// Broken promises and failed calls. A clean run has none.
    pub faults: Vec<FailureLine>,
}

impl Findings {
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: Unit, value: f64) {
        self.readings.push(Reading { name: name.into(), unit, value });
    }

    /// Median and 99th percentile of times, unless nothing was timed.
    pub(crate) fn add_times(&mut self, name: &str, times: &Histogram<u64>) {
        if !times.is_empty() {
            for (suffix, quantile) in [("p50", 0.50), ("p99", 0.99)] {
                let us = times.value_at_quantile(quantile) as f64 / 1e3;
                self.add(format!("{name} {suffix}"), Unit::Time, us);
            }
        }
    }

    /// Nothing was found, because of this.
    pub(crate) fn failed(example: String) -> Self {
        let fault = FailureLine { what: "not measured".to_owned(), count: 1, example };
        Self { readings: Vec::new(), faults: vec![fault] }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for reading in &self.readings {
            writeln!(text, "  {:<34}{}", reading.name, reading.unit.show(reading.value))
                .expect("a String takes everything");
        }
        for fault in &self.faults {
            writeln!(text, "  {:<34}{} x {}: {}", "FAILED", fault.count, fault.what, fault.example)
                .expect("a String takes everything");
        }
        text
    }

    /// One line for the progress of a comparison.
    pub(crate) fn line(&self) -> String {
        let mut parts: Vec<String> =
            self.readings.iter().map(|r| format!("{} {}", r.name, r.unit.show(r.value))).collect();
        parts.extend(self.faults.iter().map(|f| format!("FAILED {} x {}: {}", f.count, f.what, f.example)));
        parts.join(", ")
    }
}

/// Faults by kind, each with the first example.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(BTreeMap<String, (u64, String)>);

impl Faults {
    /// Counts one; `example` is asked only of the first of its kind.
    pub(crate) fn add(&mut self, what: &str, example: impl FnOnce() -> String) {
        self.add_many(what, 1, example);
    }

    pub(crate) fn add_many(&mut self, what: &str, count: u64, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        if let Some((before, _)) = self.0.get_mut(what) {
            *before += count;
        } else {
            self.0.insert(what.to_owned(), (count, example()));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn lines(&self) -> Vec<FailureLine> {
        let line = |(what, (count, example)): (&String, &(u64, String))| FailureLine {
            what: what.clone(),
            count: *count,
            example: example.clone(),
        };
        self.0.iter().map(line).collect()
    }
}

/// Times from 100 ns to ten minutes.
pub(crate) fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(100, 600_000_000_000, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_what_was_found_and_what_was_wrong() {
        let mut findings = Findings::default();
        findings.add("events", Unit::PerSecond, 1_234_567.0);
        findings.add_times("nothing", &times());
        let mut some = times();
        some.record(5_000_000).unwrap();
        findings.add_times("send to event", &some);
        assert_eq!(findings.readings.len(), 3, "nothing timed, nothing told");
        assert!(findings.is_clean());
        let mut faults = Faults::default();
        faults.add("twice", || "first".to_owned());
        faults.add("twice", || unreachable!("one example is enough"));
        faults.add_many("never", 0, || unreachable!("none is none"));
        findings.faults = faults.lines();
        assert!(!findings.is_clean());
        let text = findings.table();
        assert!(text.contains("1,234,567 /s") && text.contains("2 x twice: first"), "{text}");
        assert!(findings.line().contains("send to event p50 50"), "{}", findings.line());
    }
}
