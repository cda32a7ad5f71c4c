//! Pins: what holds compaction back.
//!
//! A pin keeps all that is readable at its revision: a compaction that is asked for meanwhile makes revisions
//! unreadable at once, as ever, but removes nothing beyond the oldest pin until that is released. A checkpoint
//! pins the compact revision, since it writes the history too; a list pins the revision that it reads.
//!
//! Cost: a pin is 16 bytes; all operations O(pins).

/// Holds compaction back. Must be given back to the store that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    id: u64,
    /// Jobs up to this revision remove nothing that the pin keeps.
    pub(super) at: i64,
}

/// The pins of a store.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pins: Vec<Pin>,
    made: u64,
}

impl Pins {
    pub(super) fn add(&mut self, at: i64) -> Pin {
        let pin = Pin { id: self.made, at };
        self.made += 1;
        self.pins.push(pin);
        pin
    }

    pub(super) fn remove(&mut self, pin: Pin) {
        let slot = self.pins.iter().position(|known| *known == pin);
        self.pins.swap_remove(slot.expect("a pin is released once, in the store that made it"));
    }

    /// The revision up to which history may be removed; `None` without a pin.
    pub(super) fn held_at(&self) -> Option<i64> {
        self.pins.iter().map(|pin| pin.at).min()
    }
}
