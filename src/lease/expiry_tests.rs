use std::collections::btree_map::Entry;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::lease::Lease;
use crate::types::LogIndex;
use crate::types::limits::LEASE_TTL_MAX_S;

fn leading(now_ms: u64) -> Expiry {
    let mut expiry = Expiry::new();
    expiry.become_leader(now_ms, &Table::new(), 0);
    expiry
}

fn granted(id: i64, ttl_s: u64) -> Change {
    Change::Granted { id: LeaseId(id), ttl_s }
}

fn set(id: i64, remaining_s: u64) -> Change {
    Change::RemainingSet { id: LeaseId(id), remaining_s }
}

fn take_all(expiry: &mut Expiry, now_ms: u64) -> Vec<i64> {
    while expiry.advance(now_ms, 3) {}
    std::iter::from_fn(|| expiry.take_due()).map(|id| id.0).collect()
}

fn notes(expiry: &mut Expiry, now_ms: u64) -> Vec<(i64, u64)> {
    while expiry.advance(now_ms, 3) {}
    expiry.take_notes(now_ms, 100).into_iter().map(|note| (note.id, note.remaining_s)).collect()
}

#[test]
fn a_lease_is_due_a_whole_ttl_after_its_last_keep_alive() {
    let mut expiry = leading(1_000);
    expiry.on_change(1_000, granted(7, 2));
    assert_eq!(expiry.renew(LeaseId(7), 1_900), Renewal::Renewed { ttl_s: 2 });
    assert_eq!(expiry.remaining_ms(LeaseId(7), 2_000), Some(1_900));
    assert_eq!(take_all(&mut expiry, 3_899), [0; 0]);
    assert_eq!(expiry.remaining_ms(LeaseId(7), 3_899), Some(1));
    // Up to a tick late.
    assert_eq!(take_all(&mut expiry, 3_900 + 32), [7]);
    assert_eq!(expiry.remaining_ms(LeaseId(7), 9_000), Some(0));
    assert_eq!(expiry.renew(LeaseId(7), 3_950), Renewal::Due);
    assert_eq!(take_all(&mut expiry, 9_000), [0; 0], "handed out once");
    expiry.put_back_due(LeaseId(7));
    assert_eq!(take_all(&mut expiry, 9_000), [7]);
    expiry.on_change(9_000, Change::Revoked { id: LeaseId(7) });
    expiry.put_back_due(LeaseId(7));
    assert_eq!(take_all(&mut expiry, 9_000), [0; 0]);
    assert_eq!(expiry.renew(LeaseId(7), 9_000), Renewal::Unknown);
}

#[test]
fn a_late_keep_alive_counts_until_the_lease_is_found_due() {
    let mut expiry = leading(0);
    expiry.on_change(0, granted(7, 2));
    assert_eq!(expiry.renew(LeaseId(7), 2_500), Renewal::Renewed { ttl_s: 2 });
    assert_eq!(take_all(&mut expiry, 4_499), [0; 0]);
    assert_eq!(take_all(&mut expiry, 4_600), [7]);
}

/// When a lease of 60 s is noted, and with how much left, if nobody renews it from now on.
fn notes_of_an_abandoned(mut expiry: Expiry) -> Vec<(u64, u64)> {
    let mut told = Vec::new();
    for now_ms in (0..60_000).step_by(50) {
        for (id, remaining_s) in notes(&mut expiry, now_ms) {
            told.push((now_ms / 1_000, remaining_s));
            expiry.on_change(now_ms, set(id, remaining_s));
            expiry.on_noted([LeaseId(id)].into_iter());
        }
    }
    assert_eq!(take_all(&mut expiry, 60_050), [7]);
    told
}

#[test]
fn what_is_left_is_noted_by_halves_down_to_a_second_once_a_keep_alive_is_overdue() {
    let mut expiry = leading(0);
    expiry.on_change(0, granted(7, 60));
    assert_eq!(expiry.renew(LeaseId(7), 0), Renewal::Renewed { ttl_s: 60 });
    let told = notes_of_an_abandoned(expiry);
    assert_eq!(told, [(30, 30), (45, 15), (52, 8), (56, 4), (58, 2), (59, 1)]);
}

#[test]
fn a_lease_that_nobody_ever_renewed_is_noted_by_doublings_of_its_age_too() {
    let mut expiry = leading(0);
    expiry.on_change(0, granted(7, 60));
    let told = notes_of_an_abandoned(expiry);
    let by_age = [(1, 59), (2, 58), (4, 56), (8, 52), (16, 44), (32, 28)];
    assert_eq!(told, [&by_age[..], &[(46, 14), (53, 7), (56, 4), (58, 2), (59, 1)]].concat());
}

#[test]
fn a_lease_kept_alive_every_third_of_its_ttl_is_never_noted() {
    let mut expiry = leading(0);
    for id in 1..50 {
        expiry.on_change(0, granted(id, id.cast_unsigned() + 1));
    }
    for now_ms in (0..200_000_u64).step_by(100) {
        assert_eq!(notes(&mut expiry, now_ms), []);
        for id in 1..50_i64 {
            let ttl_ms = (id.cast_unsigned() + 1) * 1_000;
            if now_ms % (ttl_ms / 3 / 100 * 100) == 0 {
                assert!(matches!(expiry.renew(LeaseId(id), now_ms), Renewal::Renewed { .. }));
            }
        }
    }
    assert!(expiry.take_due().is_none());
}

#[test]
fn a_noted_lease_is_renewed_only_when_the_note_is_taken_back() {
    let mut expiry = leading(0);
    expiry.on_change(0, granted(7, 10));
    assert_eq!(notes(&mut expiry, 5_024), [(7, 5)]);
    // On its way: it will be in the log after this.
    assert_eq!(expiry.renew(LeaseId(7), 5_100), Renewal::MustLog);
    assert_eq!(expiry.renew(LeaseId(7), 5_200), Renewal::MustLog);
    expiry.on_change(5_300, set(7, 5));
    expiry.on_noted([LeaseId(7)].into_iter());
    assert_eq!(take_all(&mut expiry, 60_000), [0; 0], "someone was promised an answer");
    assert_eq!(notes(&mut expiry, 60_000), [(7, 0)]);
    // It went nowhere: again.
    expiry.on_noted([LeaseId(7)].into_iter());
    assert_eq!(notes(&mut expiry, 61_000), [(7, 0)]);
    assert_eq!(expiry.renew(LeaseId(7), 61_500), Renewal::MustLog);
    expiry.on_change(62_000, set(7, 0));
    expiry.on_noted([LeaseId(7)].into_iter());
    assert_eq!(expiry.remaining_ms(LeaseId(7), 62_000), Some(10_000));
    assert_eq!(expiry.renew(LeaseId(7), 62_100), Renewal::Renewed { ttl_s: 10 });
    assert_eq!(notes(&mut expiry, 67_050), []);
    assert_eq!(notes(&mut expiry, 67_150), [(7, 5)]);
}

#[test]
fn a_note_that_went_nowhere_is_made_again_and_one_overtaken_by_a_keep_alive_is_not() {
    let mut expiry = leading(0);
    expiry.on_change(0, granted(7, 10));
    expiry.on_change(0, granted(8, 10));
    assert_eq!(notes(&mut expiry, 5_024), [(8, 5), (7, 5)]);
    expiry.on_noted([LeaseId(7), LeaseId(8)].into_iter());
    while expiry.advance(5_100, 9) {}
    assert_eq!(expiry.renew(LeaseId(8), 5_100), Renewal::Renewed { ttl_s: 10 }, "not on its way any more");
    assert_eq!(notes(&mut expiry, 5_100), [(7, 5)]);
}

#[test]
fn leaders_that_each_lead_for_half_of_a_leases_time_do_not_keep_it_alive() {
    for ttl_s in [6_u64, 10, 60, 3_600] {
        let ttl_ms = ttl_s * 1_000;
        let (mut remaining_s, mut now_ms, mut tenures) = (0, 0, 0);
        let ended = 'life: loop {
            let mut table = Table::new();
            table.insert(LeaseId(7), Lease::new(ttl_s, remaining_s, LogIndex(1)));
            let mut expiry = Expiry::new();
            expiry.become_leader(now_ms, &table, 1_000);
            tenures += 1;
            let until = now_ms + ttl_ms / 2;
            while now_ms < until {
                now_ms += 50;
                for (id, left_s) in notes(&mut expiry, now_ms) {
                    remaining_s = left_s;
                    expiry.on_change(now_ms, set(id, left_s));
                    expiry.on_noted([LeaseId(id)].into_iter());
                }
                if !take_all(&mut expiry, now_ms).is_empty() {
                    break 'life now_ms;
                }
            }
            assert!(tenures < 20, "{ttl_s} s: {remaining_s} s left after {now_ms} ms");
        };
        println!("a lease of {ttl_s} s ended after {ended} ms and {tenures} leaders");
        assert!((ttl_ms..=4 * ttl_ms).contains(&ended), "{ended} ms");
    }
}

#[test]
fn a_new_leader_gives_what_the_log_says_and_the_extension() {
    let mut table = Table::new();
    table.insert(LeaseId(1), Lease::new(60, 0, LogIndex(1)));
    table.insert(LeaseId(2), Lease::new(60, 10, LogIndex(1)));
    table.insert(LeaseId(3), Lease::new(LEASE_TTL_MAX_S.cast_unsigned(), 0, LogIndex(1)));
    for now_ms in [0, 77, u64::MAX - 5_000] {
        let mut expiry = Expiry::new();
        expiry.become_leader(now_ms, &table, 1_000);
        let left = |id| expiry.remaining_ms(LeaseId(id), now_ms).unwrap();
        assert_eq!(left(1), 61_000.min(u64::MAX - now_ms));
        assert_eq!(left(2), 11_000.min(u64::MAX - now_ms));
        assert_eq!(expiry.by_remaining()[0], LeaseId(if now_ms < 1 << 60 { 2 } else { 1 }));
        assert_eq!(expiry.renew(LeaseId(2), now_ms), Renewal::MustLog);
        assert_eq!(expiry.renew(LeaseId(1), now_ms), Renewal::Renewed { ttl_s: 60 });
        assert_eq!(
            expiry.remaining_ms(LeaseId(1), now_ms).unwrap(),
            61_000.min(u64::MAX - now_ms),
            "not less"
        );
        expiry.step_down();
        assert!(expiry.is_empty());
    }
}

/// Deadlines as anybody would keep them.
#[derive(Default)]
struct Naive(BTreeMap<i64, (u64, u64)>);

// Grants, keep-alives, revocations and time in any order; notes are answered at once, so that they
// are in nobody's way. No lease is handed out early, none is missed by more than a tick.
#[test]
fn leases_come_due_as_in_a_naive_map() {
    let seed: u64 =
        std::env::var_os("PINION_SEED").map_or(11, |seed| seed.to_str().unwrap().parse().unwrap());
    println!("replay with PINION_SEED={seed} cargo test --lib leases_come_due_as_in_a_naive_map");
    let mut due_count = 0;
    for seed in seed..seed + 30 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut now_ms = random.random_range(0..1 << 40);
        let (mut expiry, mut naive) = (leading(now_ms), Naive::default());
        for _ in 0..4_000 {
            let id = random.random_range(1..60_i64);
            match random.random_range(0..8) {
                0..2 => {
                    if let Entry::Vacant(place) = naive.0.entry(id) {
                        let longest = 1 << random.random_range(1..12);
                        let ttl_s = random.random_range(1..longest);
                        expiry.on_change(now_ms, granted(id, ttl_s));
                        place.insert((ttl_s, now_ms + ttl_s * 1_000));
                    }
                }
                2..5 => match (expiry.renew(LeaseId(id), now_ms), naive.0.get_mut(&id)) {
                    (Renewal::Unknown, None) => {}
                    (Renewal::Renewed { ttl_s }, Some((known, deadline))) => {
                        assert_eq!(ttl_s, *known);
                        *deadline = now_ms + ttl_s * 1_000;
                    }
                    (Renewal::MustLog, Some((ttl_s, deadline))) => {
                        expiry.on_change(now_ms, set(id, 0));
                        *deadline = now_ms + *ttl_s * 1_000;
                    }
                    other => panic!("seed {seed}: {other:?}"),
                },
                5 => {
                    if naive.0.remove(&id).is_some() {
                        expiry.on_change(now_ms, Change::Revoked { id: LeaseId(id) });
                    }
                }
                _ => {
                    let reach = 1 << random.random_range(1..14);
                    now_ms += random.random_range(0..reach);
                    let noted = notes(&mut expiry, now_ms);
                    for &(id, remaining_s) in &noted {
                        expiry.on_change(now_ms, set(id, remaining_s));
                    }
                    expiry.on_noted(noted.iter().map(|&(id, _)| LeaseId(id)));
                    for id in take_all(&mut expiry, now_ms) {
                        let (_, deadline) = naive.0.remove(&id).expect("handed out once");
                        assert!(deadline <= now_ms, "seed {seed}: {id} at {now_ms}, {deadline}");
                        expiry.on_change(now_ms, Change::Revoked { id: LeaseId(id) });
                        due_count += 1;
                    }
                    let missed = naive.0.values().filter(|&&(_, deadline)| deadline + 32 <= now_ms).count();
                    assert_eq!(missed, 0, "seed {seed} at {now_ms}");
                }
            }
        }
        assert_eq!(expiry.slots.len(), naive.0.len());
    }
    println!("{due_count} leases came due");
    assert!(1_000 < due_count, "one-sided input");
}
