//! How much of the log stays on the disk that a checkpoint has made superfluous for this member.
//!
//! Others may need it. A follower that was away for a short time comes back by the log, which costs
//! nobody a checkpoint: for that the newest `--snapshot-catchup-entries` stay, [`KEPT_BYTES`] at most,
//! wherever there are followers. And while one catches up, or may be on its way back (see
//! `raft/catch_up`), what it is going to need stays, or a leader that is written to would overtake
//! the very checkpoint that it sends: up to a bound, the larger of [`HELD_BYTES_MIN`] and twice the
//! checkpoint. Whoever needs more begins anew.
//! A full disk ends all this at once: see `writer`.

use pinion_wal::Held;

/// About 250,000 small writes made one at a time, or some seconds of full speed.
const KEPT_BYTES: u64 = 128 << 20;

/// The least that is held for a follower that catches up.
const HELD_BYTES_MIN: u64 = 1 << 30;

/// What stays behind a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::shell) struct Keep {
    /// The newest entries, for whoever may come back, up to `bytes_max`.
    pub entries: u64,
    pub bytes_max: u64,
    /// What is behind this entry, for who catches up, up to `held_bytes_max`.
    pub held_after: Option<u64>,
    pub held_bytes_max: u64,
}

/// How much is held for a follower that needs a checkpoint of so many bytes.
#[must_use]
pub(in crate::shell) fn held_bytes_max(checkpoint_bytes: u64) -> u64 {
    HELD_BYTES_MIN.max(checkpoint_bytes.saturating_mul(2))
}

impl Keep {
    /// For a member that others may need.
    #[must_use]
    pub(in crate::shell) fn new(entries: u64, held_after: Option<u64>, checkpoint_bytes: u64) -> Self {
        let held_bytes_max = held_bytes_max(checkpoint_bytes);
        Self { entries, bytes_max: KEPT_BYTES, held_after, held_bytes_max }
    }

    /// The entry up to which segments may go, of a log of `segments` (oldest first, the last one open)
    /// beside a checkpoint that ends at `checkpoint`; and whether something goes that is held for a
    /// follower, for want of room.
    #[must_use]
    pub(in crate::shell) fn release_through(
        self,
        segments: impl Iterator<Item = Held> + Clone,
        segment_bytes: u32,
        checkpoint: u64,
    ) -> (u64, bool) {
        let fitting = |bytes: u64| usize::try_from(bytes / u64::from(segment_bytes)).unwrap_or(usize::MAX);
        let covered = segments.take_while(|held| held.last_index <= checkpoint);
        let count = covered.clone().count();
        let behind = |after: u64| count - covered.clone().take_while(|held| held.last_index <= after).count();
        let wanted = self.held_after.map_or(0, behind);
        let held = wanted.min(fitting(self.held_bytes_max));
        let kept = behind(checkpoint.saturating_sub(self.entries)).min(fitting(self.bytes_max)).max(held);
        let through = covered.take(count - kept).last().map_or(0, |held| held.last_index);
        (through, kept < wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinion_wal::SegmentSeq;

    const SEGMENT_BYTES: u32 = 32 << 20;

    /// Ten segments of 100 entries each.
    fn segments() -> impl Iterator<Item = Held> + Clone {
        (0..10_u64).map(|number| Held {
            seq: SegmentSeq(u32::try_from(number).unwrap() + 1),
            start_index: number * 100,
            last_index: (number + 1) * 100,
        })
    }

    fn through(keep: Keep, checkpoint: u64) -> (u64, bool) {
        keep.release_through(segments(), SEGMENT_BYTES, checkpoint)
    }

    #[test]
    fn a_lone_member_keeps_nothing_that_its_checkpoint_covers() {
        assert_eq!(through(Keep::default(), 850), (800, false));
        assert_eq!(through(Keep::default(), 99), (0, false));
    }

    #[test]
    fn members_with_followers_keep_the_newest_entries_behind_the_checkpoint_up_to_a_bound() {
        assert_eq!(through(Keep::new(u64::MAX, None, 0), 850), (400, false));
        assert_eq!(through(Keep::new(u64::MAX, None, 0), 450), (0, false));
        assert_eq!(through(Keep::new(150, None, 0), 850), (700, false));
        assert_eq!(through(Keep::new(0, None, 0), 850), (800, false));
    }

    #[test]
    fn what_a_follower_needs_that_catches_up_stays_whatever_else_goes() {
        assert_eq!(through(Keep::new(1_000, Some(250), 0), 850), (200, false));
        assert_eq!(through(Keep::new(1_000, Some(200), 0), 850), (200, false));
        assert_eq!(through(Keep::new(1_000, Some(199), 0), 850), (100, false));
        assert_eq!(through(Keep::new(1_000, Some(0), 0), 850), (0, false));
        // It holds less than is kept anyway.
        assert_eq!(through(Keep::new(1_000, Some(840), 0), 850), (400, false));
    }

    #[test]
    fn holding_ends_at_its_bound_and_says_so() {
        let bound = |held_bytes_max| Keep { held_after: Some(0), held_bytes_max, ..Keep::default() };
        assert_eq!(through(bound(5 * u64::from(SEGMENT_BYTES)), 850), (300, true));
        assert_eq!(through(bound(8 * u64::from(SEGMENT_BYTES)), 850), (0, false));
        assert_eq!(Keep::new(1_000, Some(0), 0).held_bytes_max, 1 << 30);
        assert_eq!(Keep::new(1_000, Some(0), 5 << 30).held_bytes_max, 10 << 30);
    }
}
