//! What happened to the requests: latencies, replies, and every kind of failure by name.
//!
//! Invariants: every request sent ends in exactly one of: a reply, a failure, or a missing reply (a
//! failure of its own kind). Latencies count only requests that were due inside the measured window;
//! failures count always, since an error during warm-up is an error too.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// The longest time that the histograms tell apart: above any deadline.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// How a request went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// A gRPC status other than OK.
    Status(u32),
    /// The stream was reset with this HTTP/2 error code.
    Reset(u32),
    /// OK, but with fewer bytes than the answer must have.
    ShortReply,
    /// The connection ended, or the server's GOAWAY passed the request over.
    ConnectionLost,
    /// The deadline passed.
    Missing,
}

impl Failure {
    /// The name in reports.
    pub(crate) fn name(self) -> String {
        const CODES: [&str; 17] = [
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        ];
        match self {
            Self::Status(code) => {
                let name = usize::try_from(code).ok().and_then(|slot| CODES.get(slot)).unwrap_or(&"?");
                format!("grpc-status {code} {name}")
            }
            Self::Reset(code) => format!("stream reset, HTTP/2 error {code}"),
            Self::ShortReply => "reply too short to be true".to_owned(),
            Self::ConnectionLost => "connection lost".to_owned(),
            Self::Missing => "no reply before the deadline".to_owned(),
        }
    }
}

/// One kind of failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FailureCount {
    pub count: u64,
    /// What the first one said.
    pub example: String,
}

/// One worker's counts, and their sum.
#[derive(Debug)]
pub(crate) struct Tally {
    measure_start_ns: u64,
    measure_stop_ns: u64,
    /// From due (open loop) or sent (closed loop) to answered, of requests due inside the window.
    pub latency: Histogram<u64>,
    /// How late requests went out after they were due: the client's own doing, or its in-flight bound.
    pub send_delay: Histogram<u64>,
    /// Requests sent in the whole run.
    pub sent: u64,
    /// Good replies in the whole run.
    pub replies: u64,
    /// Good replies that arrived inside the window.
    pub replies_in_window: u64,
    /// Due inside the window, but not sent when it closed. Their ages are in `latency` as lower bounds.
    pub unsent: u64,
    pub failures: BTreeMap<Failure, FailureCount>,
    /// When the last good reply came.
    pub last_reply_ns: u64,
    /// If wanted: of each request due inside the window, when it was due, counted from the window's start, and
    /// its latency; in no order.
    pub timeline: Option<Vec<Sample>>,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub due_ns: u64,
    pub latency_ns: u64,
}

impl Tally {
    /// A tally of the window `[measure_start_ns, measure_stop_ns)`.
    pub(crate) fn new(measure_start_ns: u64, measure_stop_ns: u64) -> Self {
        // 100 ns is the grain: a clock reading costs a quarter of it.
        let histogram =
            || Histogram::new_with_bounds(100, LATENCY_NS_MAX, 3).expect("the bounds are in order");
        Self {
            measure_start_ns,
            measure_stop_ns,
            latency: histogram(),
            send_delay: histogram(),
            sent: 0,
            replies: 0,
            replies_in_window: 0,
            unsent: 0,
            failures: BTreeMap::new(),
            last_reply_ns: 0,
            timeline: None,
        }
    }

    /// Ends the window early: no request due later has been counted.
    pub(crate) fn close(&mut self, stop_ns: u64) {
        self.measure_stop_ns = self.measure_stop_ns.min(stop_ns);
    }

    fn is_measured(&self, time_ns: u64) -> bool {
        self.measure_start_ns <= time_ns && time_ns < self.measure_stop_ns
    }

    fn record(&mut self, due_ns: u64, latency_ns: u64) {
        self.latency.saturating_record(latency_ns);
        if let Some(timeline) = &mut self.timeline {
            timeline.push(Sample { due_ns: due_ns - self.measure_start_ns, latency_ns });
        }
    }

    pub(crate) fn on_sent(&mut self, due_ns: u64, sent_ns: u64) {
        self.sent += 1;
        // In a closed loop a request is due when it is sent: the histogram stays empty.
        if self.is_measured(due_ns) && due_ns < sent_ns {
            self.send_delay.saturating_record(sent_ns - due_ns);
        }
    }

    pub(crate) fn on_reply(&mut self, due_ns: u64, now_ns: u64) {
        self.replies += 1;
        self.last_reply_ns = now_ns;
        self.replies_in_window += u64::from(self.is_measured(now_ns));
        if self.is_measured(due_ns) {
            self.record(due_ns, now_ns - due_ns);
        }
    }

    pub(crate) fn on_failure(&mut self, failure: Failure, example: &str) {
        let entry = self.failures.entry(failure).or_default();
        if entry.count == 0 {
            example.clone_into(&mut entry.example);
        }
        entry.count += 1;
    }

    /// The deadline passed. The time waited so far is a lower bound of the latency and is recorded as
    /// such: leaving the worst requests out would flatter the percentiles.
    pub(crate) fn on_missing(&mut self, due_ns: u64, now_ns: u64) {
        self.on_failure(Failure::Missing, "");
        if self.is_measured(due_ns) {
            self.record(due_ns, now_ns - due_ns);
        }
    }

    /// The window closed before this request could be sent; the same lower bound as for a missing reply.
    pub(crate) fn on_unsent(&mut self, due_ns: u64, now_ns: u64) {
        if self.is_measured(due_ns) {
            self.unsent += 1;
            self.record(due_ns, now_ns - due_ns);
        }
    }

    pub(crate) fn failures_count(&self) -> u64 {
        self.failures.values().map(|failure| failure.count).sum()
    }

    /// Adds another worker's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.latency.add(&other.latency).expect("equal bounds");
        self.send_delay.add(&other.send_delay).expect("equal bounds");
        self.sent += other.sent;
        self.replies += other.replies;
        self.replies_in_window += other.replies_in_window;
        self.unsent += other.unsent;
        self.last_reply_ns = self.last_reply_ns.max(other.last_reply_ns);
        if let (Some(own), Some(others)) = (&mut self.timeline, &other.timeline) {
            own.extend_from_slice(others);
        }
        for (failure, count) in &other.failures {
            let entry = self.failures.entry(*failure).or_default();
            if entry.count == 0 {
                entry.example.clone_from(&count.example);
            }
            entry.count += count.count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_due_in_the_window_have_a_latency() {
        let mut tally = Tally::new(1_000_000, 2_000_000);
        tally.on_reply(999_999, 1_500_000); // warm-up request, answered inside
        tally.on_reply(1_000_000, 1_500_000);
        tally.on_reply(1_999_999, 2_500_000); // answered after the end: slow, not absent
        tally.on_reply(2_000_000, 2_500_000);
        assert_eq!(tally.latency.len(), 2);
        assert_eq!((tally.replies, tally.replies_in_window), (4, 2));
    }

    #[test]
    fn a_stalled_server_is_charged_for_what_was_due_meanwhile() {
        // 1000 requests due each millisecond; the server answers at once, but stands still from 0.1 to 0.6 s.
        let mut tally = Tally::new(0, 1_000_000_000);
        for due_ns in (0..1000).map(|i| i * 1_000_000) {
            let stalled = (100_000_000..600_000_000).contains(&due_ns);
            tally.on_reply(due_ns, if stalled { 600_000_000 } else { due_ns + 1_000 });
        }
        let p90_ms = tally.latency.value_at_quantile(0.90) / 1_000_000;
        assert!((395..=405).contains(&p90_ms), "{p90_ms} ms");
    }

    #[test]
    fn missing_and_unsent_requests_stay_in_the_percentiles() {
        let mut tally = Tally::new(0, 1_000);
        tally.on_reply(0, 200);
        tally.on_missing(10, 5_000_000_010);
        tally.on_unsent(20, 3_000_000_020);
        assert_eq!(tally.latency.len(), 3);
        assert!(tally.latency.max() >= 5_000_000_000);
        assert_eq!(tally.failures[&Failure::Missing].count, 1);
        assert_eq!(tally.unsent, 1);
    }

    #[test]
    fn merged_tallies_are_the_tally_of_all() {
        let (mut one, mut two) = (Tally::new(0, 1_000_000), Tally::new(0, 1_000_000));
        one.on_sent(5, 5);
        one.on_reply(5, 1_000);
        two.on_reply(5, 900_000);
        two.on_failure(Failure::Status(14), "first");
        one.on_failure(Failure::Status(14), "");
        one.merge(&two);
        assert_eq!((one.sent, one.replies, one.last_reply_ns), (1, 2, 900_000));
        assert_eq!(one.failures[&Failure::Status(14)].count, 2);
        assert_eq!(one.latency.len(), 2);
        assert_eq!(Failure::Status(14).name(), "grpc-status 14 UNAVAILABLE");
        assert_eq!(Failure::Status(99).name(), "grpc-status 99 ?");
    }
}
