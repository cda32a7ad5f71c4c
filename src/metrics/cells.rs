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
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].set(self.counts[bucket].get() + 1);
        self.sum.set(self.sum.get() + value);
    }

    /// Of each bucket alone, and the sum.
    pub(super) fn read(&self) -> (Vec<u64>, f64) {
        (self.counts.iter().map(Cell::get).collect(), self.sum.get())
    }
}
