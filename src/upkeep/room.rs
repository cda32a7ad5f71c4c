//! Room that large writes leave for work that rests while one is prepared.
//!
//! Half a write may be taken back, so meanwhile nothing is settled (`mvcc::owed`) and nothing that was compacted is
//! removed. And no checkpoint or snapshot begins within an entry of the log. Large writes that follow each other would
//! put all of that off for ever. So:
//!
//! 1. Behind an entry with a large write each other kind of long work is offered a slice, and a turn ends, before the
//!    next entry.
//! 2. A large write begins when what deletions owe, and what large writes took since there last was nothing to settle
//!    or to remove, less what removal had, come to `LARGE_WRITES_NS` together at most.
//!
//! So the deletions that owe their records are bounded. All of them are written before large writes have taken
//! `LARGE_WRITES_NS` more, since only that makes the second number smaller; and removal of `n` ns of counted work is done
//! before they have taken `LARGE_WRITES_NS + n`. A large write waits for what is beyond that bound, and only for that. Small
//! writes wait for the large ones before them in the log, as ever.

use crate::types::limits::{LARGE_WRITES_NS, SETTLE_NS};

/// Offers to all other kinds behind an entry with a large write. A turn makes each kind two at most, so one ends.
const ROUNDS: u8 = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct Room {
    /// What large writes took, in counted nanoseconds.
    taken_ns: u64,
    rounds_left: u8,
}

impl Room {
    /// Whether a large write may begin, while so many deletions owe their records.
    #[must_use]
    pub fn is_there(&self, owed_records: u64) -> bool {
        let owed_ns = owed_records.saturating_mul(SETTLE_NS);
        self.taken_ns.saturating_add(owed_ns) <= LARGE_WRITES_NS
    }

    /// A large write had a slice.
    pub fn on_write(&mut self, spent_ns: u64) {
        self.taken_ns = self.taken_ns.saturating_add(spent_ns);
    }

    /// An entry with a large write was applied.
    pub fn on_entry(&mut self) {
        self.rounds_left = ROUNDS;
    }

    /// Each other kind was offered a slice. True when the next entry may be applied.
    pub fn on_round(&mut self) -> bool {
        self.rounds_left = self.rounds_left.saturating_sub(1);
        self.rounds_left == 0
    }

    /// What is owed is written, and removal had a slice. `has_more`: it goes on now.
    pub fn on_removal(&mut self, spent_ns: u64, has_more: bool) {
        self.taken_ns = if has_more { self.taken_ns.saturating_sub(spent_ns) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::limits::SLICE_NS;

    /// The store's long work beside large writes that follow each other without end, in counted nanoseconds.
    struct Load {
        room: Room,
        owed_records: u64,
        removal_ns: u64,
        /// By large writes, in all.
        written_ns: u64,
    }

    impl Load {
        /// A large write that deletes so many keys, and what comes before it.
        fn write(&mut self, spent_ns: u64, deleted: u64) {
            loop {
                self.rest();
                if self.room.on_round() {
                    break;
                }
            }
            let mut slices = 0;
            while !self.room.is_there(self.owed_records) {
                self.rest();
                slices += 1;
                assert!(slices < 1_000_000, "a large write waits for ever");
            }
            self.room.on_write(spent_ns);
            self.written_ns += spent_ns;
            self.owed_records += deleted;
            self.room.on_entry();
        }

        /// What the store does with a slice for settling and removal.
        fn rest(&mut self) {
            if 0 < self.owed_records {
                self.owed_records = self.owed_records.saturating_sub(SLICE_NS / SETTLE_NS);
                return;
            }
            let spent_ns = self.removal_ns.min(SLICE_NS);
            self.removal_ns -= spent_ns;
            self.room.on_removal(spent_ns, 0 < self.removal_ns);
        }
    }

    #[test]
    fn deletions_without_a_gap_leave_room_to_write_what_they_owe() {
        for (spent_ns, deleted) in [(40_000, 1_001), (20_000_000, 500_000), (200_000_000, 5_000_000)] {
            let mut load = Load { room: Room::default(), owed_records: 0, removal_ns: 0, written_ns: 0 };
            let (mut most, mut settled_at) = (0, 0);
            for _ in 0..10_000_000_000 / spent_ns {
                load.write(spent_ns, deleted);
                most = most.max(load.owed_records);
                while !load.room.is_there(load.owed_records) {
                    load.rest();
                    if load.owed_records == 0 {
                        settled_at = load.written_ns;
                    }
                }
                let since_ns = load.written_ns - settled_at;
                assert!(
                    since_ns <= LARGE_WRITES_NS + spent_ns,
                    "{since_ns} ns of writes, all the time owing"
                );
                if load.owed_records < SLICE_NS / SETTLE_NS {
                    settled_at = load.written_ns;
                }
            }
            assert!(most <= LARGE_WRITES_NS / SETTLE_NS + deleted, "{most} are owed");
        }
    }

    #[test]
    fn a_compaction_ends_beside_large_writes_without_a_gap() {
        for deleted in [0, 1_001, 100_000] {
            let removal_ns = 3_000_000_000;
            let mut load = Load { room: Room::default(), owed_records: 0, removal_ns, written_ns: 0 };
            while 0 < load.removal_ns {
                assert!(
                    load.written_ns <= 2 * LARGE_WRITES_NS + removal_ns,
                    "it still has {}",
                    load.removal_ns
                );
                load.write(4_000_000, deleted);
            }
        }
    }

    #[test]
    fn a_large_write_behind_little_waits_for_nothing_but_the_others_turn() {
        let mut room = Room::default();
        assert!(room.is_there(0));
        room.on_write(20_000_000);
        room.on_entry();
        assert!(room.is_there(500_000), "a deletion of half a million keys holds up no other");
        assert!(!room.on_round(), "a turn may not have ended");
        assert!(room.on_round());
        assert!(!room.is_there(LARGE_WRITES_NS / SETTLE_NS + 1));
    }
}
