use std::time::Duration;

use super::{AutoCompactor, Ended, Outcome, Standing};
use crate::config::AutoCompaction;

const MINUTE: Duration = Duration::from_secs(60);

/// A state whose revision is the number of looks so far, and in which every compaction succeeds at once.
struct World {
    compactor: AutoCompactor,
    now: Duration,
    standing: Standing,
    looks: u32,
    /// Look and revision of each compaction.
    compacted: Vec<(u32, i64)>,
}

impl World {
    fn new(policy: AutoCompaction) -> Self {
        let standing = Standing { current: 1, compacted: -1, leads: true };
        Self {
            compactor: AutoCompactor::new(policy, Duration::ZERO, standing.current),
            now: Duration::ZERO,
            standing,
            looks: 0,
            compacted: Vec::new(),
        }
    }

    fn periodic(retention: Duration) -> Self {
        Self::new(AutoCompaction::Periodic(retention))
    }

    /// One look; a compaction that it begins ends with `outcome`.
    fn look(&mut self, outcome: Outcome) {
        self.now += self.compactor.interval();
        self.looks += 1;
        self.standing.current += 1;
        if let Some((number, revision)) = self.compactor.look(self.now, self.standing) {
            assert!(self.standing.leads, "only a leader compacts");
            assert!(self.standing.compacted < revision, "{revision} is compacted");
            if outcome == Outcome::Compacted {
                self.compacted.push((self.looks, revision));
                self.standing.compacted = revision;
            }
            let ended = self.compactor.on_outcome(self.now, number, outcome);
            assert_eq!(ended, Some(Ended { revision, took: Duration::ZERO }));
        }
    }

    fn looks(&mut self, count: u32) {
        (0..count).for_each(|_| self.look(Outcome::Compacted));
    }
}

/// Revision 1 is that of the start, and each look finds one more, after it has decided.
#[test]
fn up_to_an_hour_a_tenth_is_one_look_and_each_retention_one_compaction() {
    for (retention, interval) in [
        (Duration::from_secs(5), Duration::from_millis(500)),
        (59 * MINUTE, Duration::from_secs(354)),
        (60 * MINUTE, 6 * MINUTE),
    ] {
        let mut world = World::periodic(retention);
        assert_eq!(world.compactor.interval(), interval);
        world.looks(35);
        // etcd keeps eleven looks, so all but the first reach back one look further.
        assert_eq!(world.compacted, [(10, 1), (20, 10), (30, 20)], "{retention:?}");
    }
}

#[test]
fn beyond_an_hour_the_first_waits_for_the_retention_and_the_others_for_an_hour() {
    let mut world = World::periodic(24 * 60 * MINUTE);
    assert_eq!(world.compactor.interval(), 6 * MINUTE);
    world.looks(239);
    assert_eq!(world.compacted, []);
    world.looks(25);
    assert_eq!(world.compacted, [(240, 1), (250, 10), (260, 20)]);
}

#[test]
fn what_fails_is_tried_again_at_the_next_look() {
    let mut world = World::periodic(MINUTE);
    world.looks(9);
    world.look(Outcome::Failed);
    world.look(Outcome::Failed);
    world.look(Outcome::Compacted);
    assert_eq!(world.compacted, [(12, 2)], "the window has moved on meanwhile");
    world.looks(10);
    assert_eq!(world.compacted[1].0, 22, "a retention after the success");
}

#[test]
fn a_new_leader_goes_on_with_what_it_saw_as_a_follower() {
    let mut world = World::periodic(MINUTE);
    world.standing.leads = false;
    world.looks(25);
    assert_eq!(world.compacted, []);
    world.standing.leads = true;
    world.look(Outcome::Compacted);
    assert_eq!(world.compacted, [(26, 16)], "its retention has long passed: at its first look");
}

#[test]
fn what_is_compacted_already_is_passed_over_and_waits_like_a_success() {
    let mut world = World::periodic(MINUTE);
    world.standing.compacted = 5;
    world.looks(10);
    assert_eq!(world.compacted, []);
    world.looks(9);
    assert_eq!(world.compacted, []);
    world.look(Outcome::Compacted);
    assert_eq!(world.compacted, [(20, 10)]);
}

#[test]
fn one_compaction_is_under_way_at_a_time_and_an_outcome_that_never_comes_is_given_up() {
    let mut compactor = AutoCompactor::new(AutoCompaction::Periodic(MINUTE), Duration::ZERO, 1);
    let standing = Standing { current: 9, compacted: 0, leads: true };
    let (number, revision) = compactor.look(MINUTE, standing).unwrap();
    assert_eq!(compactor.under_way(), Some((number, revision)));
    assert_eq!(compactor.look(2 * MINUTE, standing), None);
    assert_eq!(compactor.look(5 * MINUTE, standing), None);
    let again = compactor.look(6 * MINUTE, standing).unwrap();
    assert_ne!(number, again.0);
    assert_eq!(
        compactor.on_outcome(6 * MINUTE, number, Outcome::Compacted),
        None,
        "the first comes too late"
    );
    let ended = compactor.on_outcome(7 * MINUTE, again.0, Outcome::Compacted);
    assert_eq!(ended, Some(Ended { revision: again.1, took: MINUTE }));
    assert_eq!(compactor.under_way(), None);
}

#[test]
fn revisions_are_counted_every_five_minutes_and_an_idle_cluster_is_left_alone() {
    let mut world = World::new(AutoCompaction::Revision(3));
    assert_eq!(world.compactor.interval(), 5 * MINUTE);
    world.looks(2);
    assert_eq!(world.compacted, [], "revision 3 less 3");
    world.looks(2);
    assert_eq!(world.compacted, [(3, 1), (4, 2)]);
    world.standing.current -= 1;
    world.look(Outcome::Compacted);
    assert_eq!(world.compacted.len(), 2, "nothing was written");
    world.standing.leads = false;
    world.looks(5);
    assert_eq!(world.compacted.len(), 2);
    world.standing.leads = true;
    world.look(Outcome::Failed);
    world.look(Outcome::Compacted);
    assert_eq!(world.compacted[2..], [(12, 9)]);
}

#[test]
fn extreme_retentions_are_bounded_in_time_and_memory() {
    let tiny = AutoCompactor::new(AutoCompaction::Periodic(Duration::from_nanos(1)), Duration::ZERO, 1);
    assert_eq!(tiny.interval(), Duration::from_millis(10));
    let mut world = World::periodic(Duration::from_nanos(1));
    world.looks(3);
    assert_eq!(world.compacted, [(1, 1), (2, 2), (3, 3)]);
    let mut world = World::new(AutoCompaction::Revision(i64::MAX));
    world.looks(3);
    let mut longest = World::periodic(Duration::from_nanos(i64::MAX.unsigned_abs()));
    longest.looks(100);
    assert_eq!(longest.compacted, []);
}
