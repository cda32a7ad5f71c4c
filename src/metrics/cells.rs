//! Cells that one role counts in: no other thread sees them.

use std::cell::Cell;

use super::Name;

/// A number that only grows, or one that a role sets.
#[derive(Debug, Default)]
pub struct Count(Cell<u64>);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.set(self.0.get().wrapping_add(n));
    }

    pub fn increment(&self) {
        self.add(1);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// How many observations fell into each bucket of a series, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// Of each bucket alone, the one without a bound last.
    counts: Box<[Cell<u64>]>,
    sum: Cell<f64>,
}

impl Histogram {
    /// Nothing observed, in the buckets of this series.
    ///
    /// # Panics
    /// When it is no histogram.
    #[must_use]
    pub fn new(name: Name) -> Self {
        let bounds = name.row().bounds;
        assert!(!bounds.is_empty(), "{} is no histogram", name.row().name);
        Self { bounds, counts: (0..=bounds.len()).map(|_| Cell::new(0)).collect(), sum: Cell::new(0.0) }
    }

    /// One observation, in the unit of the series.
    pub fn observe(&self, value: f64) {
        // Most of what is observed is short.
        let is_in_first = value <= self.bounds[0];
        let bucket = if is_in_first { 0 } else { self.bounds.partition_point(|bound| *bound < value) };
        self.counts[bucket].set(self.counts[bucket].get() + 1);
        self.sum.set(self.sum.get() + value);
    }

    /// The value below which so large a part of the observations was, by the buckets of a series; between two bounds
    /// they are taken as evenly spread. None: nothing was observed.
    #[expect(clippy::cast_precision_loss, reason = "observations, far below 2^53")]
    #[must_use]
    pub(super) fn quantile(name: Name, counts: &[u64], part: f64) -> Option<f64> {
        let bounds = name.row().bounds;
        let total: u64 = counts.iter().sum();
        let wanted = part * total as f64;
        let mut below = 0.0;
        for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count != 0) {
            let count = *count as f64;
            if wanted <= below + count {
                let from = if bucket == 0 { 0.0 } else { bounds[bucket - 1] };
                let to = bounds.get(bucket).copied().unwrap_or(from);
                return Some(from + (to - from) * (wanted - below) / count);
            }
            below += count;
        }
        None
    }

    /// Of each bucket alone, and the sum.
    pub(super) fn read(&self) -> (Vec<u64>, f64) {
        (self.counts.iter().map(Cell::get).collect(), self.sum.get())
    }
}
