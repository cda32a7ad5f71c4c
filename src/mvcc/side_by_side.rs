//! Pieces of work that need nothing of each other, for whoever has cores to do them on.

/// Does pieces of work, at the same time where it can.
pub trait SideBySide {
    /// How many pieces it does at a time.
    fn width(&self) -> usize;

    /// Does `work` once for each number below `count`, in any order, and comes back when all are done.
    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync));
}

/// One piece after the other, where the caller is.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneByOne;

impl SideBySide for OneByOne {
    fn width(&self) -> usize {
        1
    }

    fn run(&self, count: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(work);
    }
}
