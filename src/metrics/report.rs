//! What a role answers to a scrape, and the sum of all answers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Histogram, Name};

/// What a brief report has: enough for a sample of the overview.
const SAMPLED: [Name; 19] = [
    Name::Puts,
    Name::Deletes,
    Name::Ranges,
    Name::Txns,
    Name::WatchEvents,
    Name::Commit,
    Name::Sync,
    Name::BackendCommit,
    Name::CoreBusy,
    Name::RingMessages,
    Name::DbSize,
    Name::DbSizeInUse,
    Name::ClientConnections,
    Name::Watchers,
    Name::Leases,
    Name::HasLeader,
    Name::IsLeader,
    Name::WalFsync,
    Name::ApplyLag,
];

/// The value of a label.
pub type Label = Cow<'static, str>;

/// The values of one series with one set of labels.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(f64),
    /// Of each bucket alone, and the sum.
    Buckets(Vec<u64>, f64),
}

/// What one role has counted.
#[derive(Debug, Default)]
pub struct Report {
    counted: Vec<(Name, Vec<Label>, Value)>,
    is_brief: bool,
}

impl Report {
    /// One that takes what a sample of the overview needs, and leaves out the rest.
    #[must_use]
    pub fn brief() -> Self {
        Self { counted: Vec::new(), is_brief: true }
    }

    /// Whether whatever is long can be left out.
    #[must_use]
    pub fn is_brief(&self) -> bool {
        self.is_brief
    }

    /// A counter or a gauge, its labels in the order of the series.
    pub fn number(&mut self, name: Name, labels: impl IntoIterator<Item = Label>, value: f64) {
        self.push(name, labels, Value::Number(value));
    }

    /// The same of a count.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus has no other numbers; exact up to 2^53")]
    pub fn count(&mut self, name: Name, labels: impl IntoIterator<Item = Label>, value: u64) {
        self.number(name, labels, value as f64);
    }

    /// 1 or 0.
    pub fn flag(&mut self, name: Name, labels: impl IntoIterator<Item = Label>, value: bool) {
        self.count(name, labels, value.into());
    }

    pub fn histogram(&mut self, name: Name, labels: impl IntoIterator<Item = Label>, histogram: &Histogram) {
        let (counts, sum) = histogram.read();
        self.push(name, labels, Value::Buckets(counts, sum));
    }

    fn push(&mut self, name: Name, labels: impl IntoIterator<Item = Label>, value: Value) {
        if self.is_brief && !SAMPLED.contains(&name) {
            return;
        }
        let labels: Vec<Label> = labels.into_iter().collect();
        assert_eq!(labels.len(), name.row().labels.len(), "labels of {}", name.row().name);
        self.counted.push((name, labels, value));
    }
}

/// The answers of all roles: what has one name and the same labels is added up.
#[derive(Debug, Default)]
pub struct Merged(pub(super) BTreeMap<Name, BTreeMap<Vec<Label>, Value>>);

impl Merged {
    pub fn add(&mut self, report: Report) {
        for (name, labels, value) in report.counted {
            let known = self.0.entry(name).or_default().entry(labels);
            known.and_modify(|known| add(known, &value)).or_insert(value);
        }
    }
}

fn add(known: &mut Value, more: &Value) {
    match (known, more) {
        (Value::Number(known), Value::Number(more)) => *known += more,
        (Value::Buckets(counts, sum), Value::Buckets(more_counts, more_sum)) => {
            assert_eq!(counts.len(), more_counts.len(), "buckets are those of the series");
            counts.iter_mut().zip(more_counts).for_each(|(count, more)| *count += more);
            *sum += more_sum;
        }
        (known, more) => panic!("{known:?} and {more:?} have one name"),
    }
}
