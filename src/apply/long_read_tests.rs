use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::apply::script::{AT, machine, request};
use crate::apply::{Applied, Machine, StatusFacts};
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::request::{Query, RequestKind};
use crate::types::limits::{KEY_NS, SHORT_BYTES_MAX};

fn apply(machine: &mut Machine, kind: RequestKind, body: &impl prost::Message) -> Applied {
    machine.apply(&request(kind, body.encode_to_vec()), AT)
}

fn put(machine: &mut Machine, key: String, value: Vec<u8>) {
    let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    assert!(matches!(apply(machine, RequestKind::Put, &request), Applied::Now(Ok(_))));
}

fn key(random: &mut StdRng) -> String {
    format!("k{:03}", random.random_range(0..300))
}

/// Puts, deletes, compactions, a checkpoint's slices, and the removal of what was compacted.
fn disturb(machine: &mut Machine, random: &mut StdRng) {
    match random.random_range(0..20) {
        0 => {
            let (from, to) = (key(random), key(random));
            let request =
                pb::DeleteRangeRequest { key: from.into(), range_end: to.into(), ..Default::default() };
            drop(apply(machine, RequestKind::DeleteRange, &request));
        }
        1 => {
            let revision = machine.store().current_revision() - random.random_range(0..5);
            let request = pb::CompactionRequest { revision, physical: false };
            drop(apply(machine, RequestKind::Compact, &request));
        }
        2..6 => {
            machine.work_slice(random.random_range(1..500));
        }
        _ => {
            let length = if random.random_range(0..30) == 0 { 3_000 } else { random.random_range(0..12) };
            let value = (0..length).map(|_| random.random_range(b'a'..b'c')).collect();
            put(machine, key(random), value);
        }
    }
}

fn range(machine: &Machine, random: &mut StdRng) -> pb::RangeRequest {
    let (compacted, current) = (machine.store().compact_revision(), machine.store().current_revision());
    let old = random.random_range(compacted.max(1)..=current);
    let mut maybe = |number: i64| if random.random_range(0..4) == 0 { number } else { 0 };
    let (min_mod_revision, max_create_revision, revision) =
        (maybe(current / 2), maybe(current / 2), maybe(old) + maybe(0));
    let ends: [&[u8]; 4] = [b"", b"\0", b"k2", b"l"];
    pb::RangeRequest {
        key: Bytes::copy_from_slice([&b"k"[..], b"k1", b"k020", b"\0"][random.random_range(0..4)]),
        range_end: Bytes::copy_from_slice(ends[random.random_range(0..4)]),
        limit: [0, 0, 1, 7, 100, 1_000_000, -1][random.random_range(0..7)],
        revision,
        sort_order: random.random_range(0..3),
        sort_target: random.random_range(0..5),
        keys_only: random.random_range(0..3) == 0,
        count_only: random.random_range(0..6) == 0,
        min_mod_revision,
        max_create_revision,
        ..Default::default()
    }
}

fn query(machine: &Machine, random: &mut StdRng) -> Query {
    if random.random_range(0..3) != 0 {
        return Query::Range(range(machine, random));
    }
    let ops = (0..random.random_range(0..5))
        .map(|_| pb::RequestOp { request: Some(Op::RequestRange(range(machine, random))) });
    let success: Vec<_> = ops.collect();
    let compare =
        (0..random.random_range(0..2)).map(|_| pb::Compare { key: key(random).into(), ..Default::default() });
    let compare = compare.collect();
    Query::Txn(pb::TxnRequest { compare, failure: success.clone(), success })
}

/// Runs a read to its end in slices of random sizes; `between` happens between any two.
fn run(
    machine: &mut Machine,
    query: &Query,
    random: &mut StdRng,
    mut between: impl FnMut(&mut Machine, &mut StdRng),
) -> Result<(i64, Vec<u8>), Rejection> {
    let mut read = machine.begin_long_read(query)?;
    let slice = |random: &mut StdRng| Slice::of(random.random_range(1..40 * KEY_NS));
    let bytes = loop {
        match read.measure(machine.store(), &mut slice(random)) {
            Ok(Some(bytes)) => break bytes,
            Ok(None) => between(machine, random),
            Err(rejection) => {
                machine.end_long_read(read);
                return Err(rejection);
            }
        }
    };
    let mut body = Vec::new();
    loop {
        let full = random.random_range(1..200);
        let mut piece = Vec::new();
        let is_done = read.write(machine.store(), &mut slice(random), full, &mut piece);
        // Its keys are short, and each is written with four numbers.
        assert!(piece.len() < full + 64, "a piece of {} bytes for {full}", piece.len());
        body.extend(piece);
        if is_done {
            break;
        }
        between(machine, random);
    }
    assert_eq!(body.len() as u64, bytes, "the length that was told");
    let revision = read.revision();
    machine.end_long_read(read);
    Ok((revision, body))
}

#[test]
fn a_read_in_slices_answers_what_it_would_have_answered_at_once_whatever_is_written_meanwhile() {
    #[expect(clippy::disallowed_methods, reason = "a run that failed is replayed by its seed")]
    let replayed = std::env::var("PINION_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for seed in replayed.map_or(0..400, |seed| seed..seed + 1) {
        println!("PINION_SEED={seed} cargo test --lib apply::long_read");
        let mut random = StdRng::seed_from_u64(seed);
        let mut machine = machine();
        for _ in 0..random.random_range(1..400) {
            disturb(&mut machine, &mut random);
        }
        for _ in 0..8 {
            let query = query(&machine, &mut random);
            let at_once = machine
                .read(&query, &StatusFacts::default())
                .map(|response| (response.revision, response.body));
            if let Some(short) = machine.read_short(&query, &StatusFacts::default()) {
                assert_eq!(short.map(|response| (response.revision, response.body)), at_once);
            }
            let sliced = run(&mut machine, &query, &mut random, |machine, random| {
                for _ in 0..random.random_range(0..3) {
                    disturb(machine, random);
                }
            });
            assert_eq!(sliced, at_once, "{query:?}");
        }
        // All pins are given back.
        while !machine.work_slice(1_000) {}
        assert!(!machine.store().is_compacting());
        machine.store().check_invariants();
    }
}

#[test]
fn history_that_a_read_holds_is_counted_until_it_ends() {
    let mut machine = machine();
    for number in 0..100 {
        put(&mut machine, format!("k{number:03}"), vec![b'x'; 1_000]);
    }
    let everything = Query::Range(pb::RangeRequest {
        key: Bytes::from_static(b"k"),
        range_end: Bytes::from_static(b"l"),
        ..Default::default()
    });
    let read = machine.begin_long_read(&everything).unwrap();
    let held_bytes = |machine: &mut Machine| {
        let revision = machine.store().current_revision();
        drop(apply(machine, RequestKind::Compact, &pb::CompactionRequest { revision, physical: false }));
        while !machine.work_slice(10_000) {}
        machine.store().history_held_bytes()
    };
    assert_eq!(held_bytes(&mut machine), 0, "nothing was superseded");
    for number in 0..50 {
        put(&mut machine, format!("k{number:03}"), Vec::new());
    }
    assert_eq!(held_bytes(&mut machine), 50 * 1_004);
    assert_eq!(machine.store().oldest_pin(), Some(read.pinned()));
    machine.end_long_read(read);
    assert!(machine.work_slice(10_000) || machine.work_slice(10_000));
    assert_eq!(machine.store().history_held_bytes(), 0);
    assert!(!machine.store().is_compacting());
}

#[test]
fn a_read_is_short_by_its_keys_and_by_its_bytes() {
    let mut machine = machine();
    for number in 0..2_000 {
        put(&mut machine, format!("k{number:04}"), Vec::new());
    }
    put(&mut machine, "large".into(), vec![0; SHORT_BYTES_MAX]);
    let is_short = |request: pb::RangeRequest| {
        machine.read_short(&Query::Range(request), &StatusFacts::default()).is_some()
    };
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    assert!(!is_short(all.clone()));
    assert!(is_short(pb::RangeRequest { limit: 1_000, ..all.clone() }));
    assert!(!is_short(pb::RangeRequest { limit: 1_001, ..all.clone() }));
    assert!(is_short(pb::RangeRequest { count_only: true, ..all.clone() }));
    assert!(is_short(pb::RangeRequest { range_end: "k05".into(), ..all.clone() }));
    assert!(!is_short(pb::RangeRequest { limit: 500, sort_target: 2, sort_order: 2, ..all.clone() }));
    assert!(!is_short(pb::RangeRequest { limit: 500, min_mod_revision: 5, ..all }));
    assert!(is_short(pb::RangeRequest { key: "k0000".into(), ..Default::default() }));
    assert!(!is_short(pb::RangeRequest { key: "large".into(), ..Default::default() }));
}

#[test]
fn a_sort_keeps_as_much_as_was_said_and_a_small_limit_little() {
    let mut machine = machine();
    for number in 0..20_000 {
        put(&mut machine, format!("k{number:05}"), format!("{}", number % 7).into());
    }
    for (limit, bytes_max) in [(0, 20_000 * 32), (10, 4_000 * 32), (1_001, 20_000 * 32)] {
        for sort_target in 0..5 {
            let query = Query::Range(pb::RangeRequest {
                key: "k".into(),
                range_end: "l".into(),
                sort_order: 2,
                sort_target,
                limit,
                ..Default::default()
            });
            let at_once = machine.read(&query, &StatusFacts::default()).unwrap().body;
            let mut read = machine.begin_long_read(&query).unwrap();
            assert_eq!(read.sort_bytes_max(), bytes_max);
            let (mut body, mut slices) = (Vec::new(), 0);
            while read.measure(machine.store(), &mut Slice::new()).unwrap().is_none() {
                slices += 1;
                let entries = read.lists[0].entries.capacity() as u64 * 16;
                assert!(entries <= bytes_max.next_power_of_two(), "{entries} bytes of entries");
            }
            assert!(10 < slices, "20,000 keys in {slices} slices");
            while !read.write(machine.store(), &mut Slice::new(), usize::MAX, &mut body) {}
            assert!(body == at_once, "limit {limit}, target {sort_target}");
            machine.end_long_read(read);
        }
    }
}
