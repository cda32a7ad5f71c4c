//! Connections that have not said yet what they want.
//!
//! etcd waits for a first byte as long as it takes, and so do we: a connection that was opened ahead of
//! need costs a descriptor and little memory. Their number is bounded instead. One too many, or a
//! shortage of descriptors, ends the one that is silent for longest.
//!
//! Invariants: a connection is in `waiting` exactly while its `Silence` lives and nobody has ended it.
//! Cost: O(log silent connections) a connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::signal::Signal;

/// Silent connections of a shard. Each costs 5 KiB.
pub(super) const SILENT_MAX: usize = 2048;

/// The silent connections of a shard.
#[derive(Debug)]
pub(super) struct Silent {
    max: usize,
    /// By number, so the first is silent for longest.
    waiting: RefCell<BTreeMap<u64, Rc<Signal>>>,
    dropped: Cell<u64>,
}

/// A connection's time of silence.
pub(super) struct Silence {
    silent: Rc<Silent>,
    number: u64,
    dropped: Rc<Signal>,
}

impl Default for Silent {
    fn default() -> Self {
        Self::new(SILENT_MAX)
    }
}

impl Silent {
    /// At most so many.
    pub(super) fn new(max: usize) -> Self {
        Self { max, waiting: RefCell::default(), dropped: Cell::new(0) }
    }

    /// A connection begins, and says nothing so far. Later ones have higher numbers.
    pub(super) fn begin(self: &Rc<Self>, number: u64) -> Silence {
        if self.max <= self.waiting.borrow().len() {
            self.drop_longest();
        }
        let dropped = Rc::<Signal>::default();
        self.waiting.borrow_mut().insert(number, Rc::clone(&dropped));
        Silence { silent: Rc::clone(self), number, dropped }
    }

    /// Ends the connection that is silent for longest. False: there is none.
    pub(super) fn drop_longest(&self) -> bool {
        let Some((_, dropped)) = self.waiting.borrow_mut().pop_first() else { return false };
        dropped.fire();
        self.dropped.set(self.dropped.get() + 1);
        true
    }

    /// Connections ended so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}

impl Silence {
    /// Whether the connection is to end.
    pub(super) fn poll_dropped(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.dropped.poll_fired(cx)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.silent.waiting.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_ends_the_one_that_is_silent_for_longest() {
        let silent = Rc::<Silent>::default();
        let mut silences: Vec<Silence> = (0..SILENT_MAX as u64).map(|number| silent.begin(number)).collect();
        // The first has spoken meanwhile.
        drop(silences.remove(0));
        silences.push(silent.begin(SILENT_MAX as u64));
        assert_eq!(silent.dropped(), 0);
        silences.push(silent.begin(SILENT_MAX as u64 + 1));
        assert!(silent.drop_longest());
        let ended: Vec<u64> = silences
            .iter()
            .filter(|silence| silence.dropped.has_fired())
            .map(|silence| silence.number)
            .collect();
        assert_eq!((ended, silent.dropped()), (vec![1, 2], 2));
        drop(silences);
        assert!(!silent.drop_longest());
    }
}
