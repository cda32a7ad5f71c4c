//! Metrics: what is measured, under which names, and how a scrape says it.
//!
//! A role counts in cells of its own, which no other core touches; a scrape asks each role for a `Report`, adds up
//! what has the same labels, and writes the sum as text. Nothing here knows a clock, a lock or an atomic.
//!
//! `series` is the one table of names, types, labels, buckets and meanings; `tuning/METRICS.md` is made from it. A
//! label's values are bounded: methods, members and addresses are few, and whatever a client chooses goes through
//! `top`, which keeps the heaviest alone.
//!
//! No library of the field fits. Those that are kept (`prometheus`, `prometheus-client`, `measured`, `metrics`) hold
//! their values in atomics behind one registry of the process, which is the shared cache line that is to be
//! avoided. The encoder of `prometheus-client` could be used without its values, but it writes OpenMetrics alone, and
//! appends `_total` to every counter: a third of etcd's names would be others.
//!
//! Compatibility: names, types, labels and buckets are those of etcd 3.7.1, so that its dashboard and its alert
//! rules work. A series of etcd's that measures nothing here is absent.

mod calls;
mod cause;
mod cells;
mod overview;
mod report;
mod series;
mod text;
mod top;

pub use calls::MethodCounts;
pub use cause::{changed_keys, key_of, key_prefix};
pub use cells::{Count, Histogram};
pub use overview::{FIELDS, History, SAMPLES_MAX, Sample, Sampler};
pub use report::{Label, Merged, Report};
pub use series::{Name, markdown};
pub use text::{Format, write};
pub use top::{Heavy, Token, Top};

#[cfg(test)]
mod tests;
