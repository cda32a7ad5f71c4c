//! What a role answers to a scrape, and the sum of all answers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Histogram, Name};

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
pub struct Report(Vec<(Name, Vec<Label>, Value)>);

impl Report {
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
        let labels: Vec<Label> = labels.into_iter().collect();
        assert_eq!(labels.len(), name.row().labels.len(), "labels of {}", name.row().name);
        self.0.push((name, labels, value));
    }
}

/// The answers of all roles: what has one name and the same labels is added up.
#[derive(Debug, Default)]
pub struct Merged(pub(super) BTreeMap<Name, BTreeMap<Vec<Label>, Value>>);

impl Merged {
    pub fn add(&mut self, report: Report) {
        for (name, labels, value) in report.0 {
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
