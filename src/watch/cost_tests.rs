//! What the feed costs the store, printed. Run by hand:
//! `cargo test --release --lib watch::cost_tests -- --ignored --nocapture --test-threads 1`

use bytes::Bytes;

use super::event_encoder::EventEncoder;
use super::history::{SLICE, Way, slice};
use super::{CatchUp, Feed, Notice, Order, Token, WatchRange};
use crate::mvcc::Store;
use crate::types::Slice;

const PUTS: u64 = 200_000;
const KEYS: u64 = 10_000;

fn key(number: u64) -> Bytes {
    // Spread, so that neighbours in time are not neighbours in order.
    let number = number * 7_919 % KEYS;
    format!("/registry/objects/{:03}/{:09}", number % 1_000, number / 1_000).into()
}

fn one(number: u64) -> WatchRange {
    WatchRange::new(key(number), Bytes::new())
}

fn prefix(number: u64) -> WatchRange {
    let bound = |last: &str| format!("/registry/objects/{number:03}{last}").into();
    WatchRange::new(bound("/"), bound("0"))
}

/// Time this thread was on a processor, in nanoseconds: on a busy machine the clock says little.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// Prints what `collect` costs a put, and how many events it made.
fn collect(what: &str, ranges: impl Iterator<Item = (WatchRange, bool)>, group: u64) {
    let value = [b'v'; 256];
    let mut store = Store::new();
    for number in 0..KEYS {
        let mut txn = store.begin();
        txn.put(&key(number), &value, 0);
        txn.commit();
    }
    let mut feed = Feed::new(2, store.current_revision());
    for (range, previous) in ranges {
        let order = Order::Subscribe { token: Token(0), range, previous };
        assert!(feed.on_order(1, order, &store).is_some());
    }
    let keys: Vec<Bytes> = (0..KEYS).map(key).collect();
    let (mut put_time, mut collect_time, mut events) = (0, 0, 0);
    for start in (0..PUTS).step_by(usize::try_from(group).unwrap()) {
        let begin = processor_time();
        for number in start..start + group {
            let mut txn = store.begin();
            txn.put(&keys[usize::try_from(number % KEYS).unwrap()], &value, 0);
            txn.commit();
        }
        let middle = processor_time();
        feed.collect(&store, |_, batch| events += batch.events.len());
        let end = processor_time();
        put_time += middle - begin;
        collect_time += end - middle;
    }
    // Reading the clock itself.
    let begin = processor_time();
    for _ in 0..1_000 {
        std::hint::black_box(processor_time());
    }
    let clock = (processor_time() - begin) / 1_000 * (PUTS / group);
    let (put, each) = (put_time.saturating_sub(clock) / PUTS, collect_time.saturating_sub(clock) / PUTS);
    println!(
        "  {what:<44} groups of {group:>3}: put {put:>5} ns, collect {each:>5} ns a put, {events} events"
    );
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_collecting_a_put() {
    for group in [1_000, 100] {
        collect("no subscription", std::iter::empty(), group);
        collect("one key, another one", std::iter::once((prefix(1_001), false)), group);
        collect("one key of 10,000", std::iter::once((one(1), false)), group);
        collect(
            "all keys",
            std::iter::once((WatchRange::new(key(0), Bytes::from_static(b"\0")), false)),
            group,
        );
        collect("10,000 keys, each put hits one", (0..KEYS).map(|number| (one(number), false)), group);
        collect("the same with previous", (0..KEYS).map(|number| (one(number), true)), group);
        let missed = (0..100_000_u64).map(|number| {
            let key = format!("/registry/objects/{:03}/x{number:09}", number % 1_000);
            (WatchRange::new(key.into(), Bytes::new()), false)
        });
        collect("100,000 keys, no put hits any", missed, group);
        collect("1,000 prefixes, each put hits one", (0..1_000).map(|number| (prefix(number), false)), group);
        let overlapping = (0..10_000_u64).map(|number| {
            let (start, end) = (format!("/{number:05}"), format!("0{number:05}"));
            (WatchRange::new(start.into(), end.into()), false)
        });
        collect("10,000 ranges, each put hits all", overlapping, group);
    }
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_a_slice_of_history() {
    let mut store = Store::new();
    for number in 0..1_000_000_u64 {
        let mut txn = store.begin();
        // One in a thousand is the rare key.
        let key = if number % 1_000 == 999 { Bytes::from_static(b"rare") } else { key(number) };
        txn.put(&key, &[b'v'; 64], 0);
        txn.commit();
    }
    let current = store.current_revision();
    let rare = || (WatchRange::new(Bytes::from_static(b"rare"), Bytes::new()), true);
    let seldom = (0..512).map(|number| (prefix(1_000 + number), false)).collect();
    let all = vec![(WatchRange::new(Bytes::new(), Bytes::from_static(b"\0")), true)];
    for (what, ranges, way) in [
        ("walk, one key", vec![rare()], Way::Walk),
        ("walk, 512 prefixes, no hit", seldom, Way::Walk),
        ("walk, everything with previous", all, Way::Walk),
        ("look up one key", vec![rare()], Way::LookUp),
    ] {
        let mut encoder = EventEncoder::default();
        let (mut from, mut slices, mut events) = (2, 0, 0);
        let begin = processor_time();
        while from <= current && slices < 200 {
            let order = CatchUp { token: Token(0), from, ranges: ranges.clone(), watchers: 1 };
            let batch = slice(&order, &store, &mut encoder, SLICE, current, way);
            (from, slices, events) = (batch.through + 1, slices + 1, events + batch.events.len());
        }
        let each = (processor_time() - begin) / slices / 1_000;
        println!("  {what:<34} {each:>6} us a slice, {} revisions and {events} events in {slices}", from - 2);
    }
    // The feed chooses.
    let mut feed = Feed::new(1, current);
    let order = Order::CatchUp(CatchUp { token: Token(0), from: 2, ranges: vec![rare()], watchers: 1 });
    assert!(feed.on_order(0, order, &store).is_none());
    feed.work(&store, &mut Slice::new(), |_, notice| {
        let Notice::CaughtUp { batch, .. } = notice else { panic!("{notice:?}") };
        println!("  one key of a thousand changes: the first slice comes to revision {}", batch.through);
        assert_eq!(batch.events.len(), 256);
    });
}
