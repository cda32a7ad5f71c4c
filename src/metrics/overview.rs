//! An hour of a few numbers a second, and all that is told beside them, for whoever looks at a member.
//!
//! A sample is made of two scrapes a second apart: rates, and percentiles of what was observed between them. Nothing here
//! knows a clock: times come in.
//!
//! Bounds: `SAMPLES_MAX` samples of `FIELDS.len()` numbers.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::report::{Label, Merged, Value};
use super::{Histogram, Name};
use crate::rpc::json::put_text;

/// An hour.
pub const SAMPLES_MAX: usize = 3_600;

/// The numbers of a sample, in order. Rates are per second, times in milliseconds. What is not known is no number.
pub const FIELDS: [&str; 20] = [
    "puts",
    "deletes",
    "reads",
    "txns",
    "events",
    "commit_p50",
    "commit_p99",
    "commit_mean",
    "sync_p50",
    "sync_p99",
    "sync_mean",
    "apply_mean",
    "busy",
    "waiting",
    "db",
    "db_in_use",
    "connections",
    "watchers",
    "leases",
    "role",
];

/// One second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample([f32; FIELDS.len()]);

/// Series that are told as they are, beside the samples.
const TOLD: [Name; 36] = [
    Name::Alarms,
    Name::ServerId,
    Name::ServerVersion,
    Name::BuildInfo,
    Name::HasLeader,
    Name::IsLeader,
    Name::IsLearner,
    Name::LeaderChanges,
    Name::KnownPeers,
    Name::ActivePeers,
    Name::FollowerLag,
    Name::Committed,
    Name::Applied,
    Name::ApplyLag,
    Name::CoreBusy,
    Name::RingMessages,
    Name::DbSize,
    Name::DbSizeInUse,
    Name::Quota,
    Name::Keys,
    Name::CurrentRevision,
    Name::CompactRevision,
    Name::Leases,
    Name::LeaseExpired,
    Name::Watchers,
    Name::WatchStreams,
    Name::SlowWatchers,
    Name::PendingEvents,
    Name::ClientConnections,
    Name::CheckpointBytes,
    Name::Memory,
    Name::RoleUp,
    Name::LoadByPrefixRequests,
    Name::LoadByPrefixBytes,
    Name::LoadByAddressRequests,
    Name::LoadByAddressBytes,
];

impl Merged {
    /// The sum over all labels.
    fn sum(&self, name: Name) -> Option<f64> {
        let samples = self.0.get(&name)?;
        let numbers = samples.values().map(|value| match value {
            Value::Number(number) => *number,
            Value::Buckets(..) => panic!("{name:?} is a histogram"),
        });
        Some(numbers.sum())
    }

    /// A histogram; of several, the one with this label.
    fn buckets(&self, name: Name, label: Option<&str>) -> Option<(Vec<u64>, f64)> {
        let mut samples = self.0.get(&name)?.iter();
        let is_it = |labels: &[Label]| label.is_none_or(|label| labels.iter().any(|found| found == label));
        match samples.find(|(labels, _)| is_it(labels))? {
            (_, Value::Buckets(counts, sum)) => Some((counts.clone(), *sum)),
            (_, Value::Number(_)) => panic!("{name:?} is no histogram"),
        }
    }

    /// The most that the number of one core has grown.
    fn most_grown(&self, before: &Self, name: Name) -> Option<f64> {
        let (now, before) = (self.0.get(&name)?, before.0.get(&name)?);
        let grown = now.iter().filter_map(|(labels, value)| match (value, before.get(labels)?) {
            (Value::Number(now), Value::Number(before)) => Some(now - before),
            _ => None,
        });
        grown.reduce(f64::max)
    }

    /// Appends the series that are told, as JSON: for each an array of label values and number.
    pub fn put_overview(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut text = String::new();
        for (at, name) in TOLD.into_iter().filter(|name| self.0.contains_key(name)).enumerate() {
            if 0 < at {
                out.push(b',');
            }
            put_text(name.row().name, out);
            out.extend_from_slice(b":[");
            let numbers = self.0[&name].iter().filter_map(|(labels, value)| match value {
                Value::Number(number) => Some((labels, *number)),
                Value::Buckets(..) => None,
            });
            for (at, (labels, number)) in numbers.enumerate() {
                out.extend_from_slice(if at == 0 { b"[" } else { b",[" });
                for label in labels {
                    put_text(label, out);
                    out.push(b',');
                }
                text.clear();
                write!(text, "{number}").expect("a String takes every write");
                out.extend_from_slice(text.as_bytes());
                out.push(b']');
            }
            out.push(b']');
        }
        out.push(b'}');
    }
}

/// Makes samples of scrapes.
#[derive(Debug, Default)]
pub struct Sampler {
    before: Option<(u64, Merged)>,
}

impl Sampler {
    /// The numbers since the last scrape. None: this is the first.
    pub fn sample(&mut self, now: Merged, now_ns: u64) -> Option<Sample> {
        let sample = self.before.as_ref().map(|(before_ns, before)| {
            #[expect(clippy::cast_precision_loss, reason = "a second or a few, in nanoseconds")]
            let seconds = now_ns.saturating_sub(*before_ns).max(1) as f64 / 1e9;
            Sample::between(before, &now, seconds)
        });
        self.before = Some((now_ns, now));
        sample
    }
}

impl Sample {
    fn between(before: &Merged, now: &Merged, seconds: f64) -> Self {
        let rate = |name| Some((now.sum(name)? - before.sum(name)?) / seconds);
        let gauge = |name| now.sum(name);
        let observed = |name, label| {
            let (now, sum) = now.buckets(name, label)?;
            let (before, sum_before) = before.buckets(name, label)?;
            let counts: Vec<u64> =
                now.iter().zip(&before).map(|(now, before)| now.saturating_sub(*before)).collect();
            Some((counts, sum - sum_before))
        };
        let ms = |quantile: fn(&[u64], f64, Name) -> Option<f64>, name, label| {
            let (counts, sum) = observed(name, label)?;
            quantile(&counts, sum, name).map(|seconds| seconds * 1e3)
        };
        let p50 = |counts: &[u64], _: f64, name: Name| Histogram::quantile(name, counts, 0.5);
        let p99 = |counts: &[u64], _: f64, name: Name| Histogram::quantile(name, counts, 0.99);
        let role = match (gauge(Name::IsLeader), gauge(Name::HasLeader)) {
            (Some(1.0), _) => 2.0,
            (_, Some(1.0)) => 1.0,
            _ => 0.0,
        };
        let fields = [
            rate(Name::Puts),
            rate(Name::Deletes),
            rate(Name::Ranges),
            rate(Name::Txns),
            rate(Name::WatchEvents),
            ms(p50, Name::Commit, None),
            ms(p99, Name::Commit, None),
            ms(mean, Name::Commit, None),
            ms(p50, Name::Sync, Some("log")),
            ms(p99, Name::Sync, Some("log")),
            ms(mean, Name::Sync, Some("log")),
            ms(mean, Name::BackendCommit, None),
            now.most_grown(before, Name::CoreBusy).map(|busy| busy / seconds),
            gauge(Name::RingMessages),
            gauge(Name::DbSize),
            gauge(Name::DbSizeInUse),
            gauge(Name::ClientConnections),
            gauge(Name::Watchers),
            gauge(Name::Leases),
            Some(role),
        ];
        #[expect(clippy::cast_possible_truncation, reason = "a line of a chart needs no more digits")]
        Self(fields.map(|field| field.map_or(f32::NAN, |number| number as f32)))
    }

    /// Appends it as an array of JSON; `null` for what is not known.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut text = String::new();
        for (at, number) in self.0.iter().enumerate() {
            text.push(if at == 0 { '[' } else { ',' });
            let written = match *number {
                number if !number.is_finite() => write!(text, "null"),
                number if number.abs() < 1e3 => write!(text, "{}", (number * 1e3).round() / 1e3),
                number => write!(text, "{}", number.round()),
            };
            written.expect("a String takes every write");
        }
        out.extend_from_slice(text.as_bytes());
        out.push(b']');
    }
}

/// The mean of what was observed, if anything was.
#[expect(clippy::cast_precision_loss, reason = "a second's observations, far below 2^53")]
fn mean(counts: &[u64], sum: f64, _: Name) -> Option<f64> {
    let count: u64 = counts.iter().sum();
    (0 < count).then(|| sum / count as f64)
}

/// The last hour.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    /// Number of the sample behind the newest.
    next: u64,
}

impl History {
    pub fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.next += 1;
    }

    /// Number of the sample behind the newest.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// At most `count` samples from number `from` on, and the number of the first of them.
    #[must_use]
    pub fn read(&self, from: u64, count: usize) -> (u64, Vec<Sample>) {
        let oldest = self.next - self.samples.len() as u64;
        let first = from.clamp(oldest, self.next);
        let skipped = usize::try_from(first - oldest).expect("it is at most the number of samples");
        (first, self.samples.iter().skip(skipped).take(count).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Report;

    fn scrape(puts: u64, commits_s: &[f64]) -> Merged {
        let mut report = Report::brief();
        report.count(Name::Puts, [], puts);
        report.flag(Name::IsLeader, [], true);
        report.count(Name::RingMessages, ["raft".into()], 3);
        report.count(Name::RingMessages, ["store".into()], 4);
        // Which no sample needs.
        report.count(Name::BuildInfo, ["x".into()], 1);
        let commit = Histogram::new(Name::Commit);
        commits_s.iter().for_each(|seconds| commit.observe(*seconds));
        report.histogram(Name::Commit, [], &commit);
        let mut merged = Merged::default();
        merged.add(report);
        merged
    }

    fn field(sample: &Sample, name: &str) -> f32 {
        sample.0[FIELDS.iter().position(|field| *field == name).unwrap()]
    }

    #[test]
    fn a_sample_has_the_rates_and_percentiles_of_what_came_between_two_scrapes() {
        let mut sampler = Sampler::default();
        assert_eq!(sampler.sample(scrape(100, &[9.0; 50]), 1_000_000_000), None);
        let mut later = vec![9.0; 50];
        later.extend([0.001; 99]);
        later.push(0.1);
        let sample = sampler.sample(scrape(500, &later), 3_000_000_000).unwrap();
        assert_eq!(field(&sample, "puts"), 200.0);
        assert_eq!((field(&sample, "waiting"), field(&sample, "role")), (7.0, 2.0));
        let (p50, p99) = (field(&sample, "commit_p50"), field(&sample, "commit_p99"));
        // The bucket of a millisecond begins at 0.64 ms and ends at 1.28 ms.
        assert!((0.64..=1.28).contains(&p50) && (0.64..=1.29).contains(&p99), "{p50} {p99}");
        let mean = field(&sample, "commit_mean");
        assert!((1.9..2.1).contains(&mean), "{mean}");
        // Nothing is known of what nobody counts, and of what did not happen.
        assert!(field(&sample, "db").is_nan());
        let still = sampler.sample(scrape(500, &later), 4_000_000_000).unwrap();
        assert!(field(&still, "commit_p99").is_nan() && field(&still, "puts") == 0.0);
        let mut out = Vec::new();
        still.put(&mut out);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(read.as_array().unwrap().len(), FIELDS.len());
    }

    #[test]
    fn history_keeps_an_hour_and_says_where_it_begins() {
        let mut history = History::default();
        assert_eq!(history.read(0, 10).1.len(), 0);
        for number in 0..4_000_u16 {
            history.push(Sample([f32::from(number); FIELDS.len()]));
        }
        let (first, samples) = history.read(0, 2);
        assert_eq!((first, samples[0].0[0], samples.len()), (400, 400.0, 2));
        let (first, samples) = history.read(3_999, 10);
        assert_eq!((first, samples.len(), history.next()), (3_999, 1, 4_000));
        assert_eq!(history.read(9_000, 10).1.len(), 0);
    }

    #[test]
    fn labels_are_texts_in_what_is_told() {
        let mut report = Report::default();
        report.count(Name::LoadByPrefixRequests, ["</script>\"\\x00".into()], 7);
        let mut merged = Merged::default();
        merged.add(report);
        let mut out = Vec::new();
        merged.put_overview(&mut out);
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let told = &read["pinion_load_by_prefix_requests_total"][0];
        assert_eq!((told[0].as_str(), told[1].as_u64()), (Some("</script>\"\\x00"), Some(7)));
    }
}
