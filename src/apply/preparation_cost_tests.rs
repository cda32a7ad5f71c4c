//! Costs of a key of a large write, printed. Run by hand:
//! `cargo test --release --no-default-features --lib apply::preparation::cost -- --ignored --nocapture --test-threads 1`

use super::*;
use crate::apply::script::{AT, machine, request};
use crate::apply::{Begun, Machine};
use crate::request::{Request, RequestKind};

const KEYS: u64 = 1_000_000;

fn key(number: u64) -> String {
    format!("/registry/some/objects/{number:09}")
}

/// Time this thread was on a processor, in nanoseconds: on a busy machine the clock says little.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn put_all(machine: &mut Machine, lease: i64, number_of: impl Fn(u64) -> u64) {
    let value = [b'v'; 256];
    for number in 0..KEYS {
        let mut txn = machine.store.begin();
        txn.put(key(number_of(number)).as_bytes(), &value, lease);
        txn.commit();
    }
}

/// A machine whose keys have two versions each; those lie in the order of the keys, or anywhere.
fn filled(is_ordered: bool) -> Machine {
    let mut machine = machine();
    // A step without a common divisor meets every key once.
    let step = if is_ordered { 1 } else { 618_033 };
    for _ in 0..2 {
        put_all(&mut machine, 0, |number| number * step % KEYS);
    }
    machine
}

fn delete(first: u64, end: u64) -> Request {
    let delete =
        pb::DeleteRangeRequest { key: key(first).into(), range_end: key(end).into(), ..Default::default() };
    request(RequestKind::DeleteRange, prost::Message::encode_to_vec(&delete))
}

fn measure(machine: &mut Machine, what: &str, keys: u64, request: &Request, slice_ns: u64) {
    let start = processor_time();
    let mut slices = 0_u64;
    let (mut longest, mut last) = (0, start);
    if let Begun::Preparing = machine.begin_apply(request, AT, true) {
        loop {
            slices += 1;
            let outcome = machine.prepare_slice(&mut Slice::of(slice_ns), |_, _| true);
            if slice_ns != u64::MAX {
                let now = processor_time();
                longest = longest.max(now - last);
                last = now;
            }
            if let Some(outcome) = outcome {
                outcome.unwrap();
                break;
            }
        }
    }
    let took = processor_time() - start;
    let (start, mut settling) = (processor_time(), 0);
    while !machine.settle_slice(&mut Slice::of(slice_ns)) {
        settling += 1;
    }
    let settled = processor_time() - start;
    println!("  {:<40} {:>5} ns a key, {settling} slices, to write what it owed", "", settled / keys);
    println!(
        "  {what:<40} {:>5} ns a key, {:>6.1} ms, {slices} slices, longest {} us",
        took / keys,
        took as f64 / 1e6,
        longest / 1000
    );
}

fn puts_of_a_transaction(first: u64, count: u64) -> Request {
    let success = (first..first + count).map(|number| {
        let put =
            pb::PutRequest { key: key(number).into(), value: vec![b'w'; 256].into(), ..Default::default() };
        pb::RequestOp { request: Some(Op::RequestPut(put)) }
    });
    let txn = pb::TxnRequest { success: success.collect(), ..Default::default() };
    request(RequestKind::Txn, prost::Message::encode_to_vec(&txn))
}

fn cost_of_writes(is_ordered: bool) {
    println!("{KEYS} keys of 32 B with two values of 256 B; versions lie in key order: {is_ordered}");
    let mut machine = filled(is_ordered);
    measure(&mut machine, "delete 100 k in one piece", 100_000, &delete(0, 100_000), u64::MAX);
    measure(&mut machine, "delete 100 k, 0.1 ms", 100_000, &delete(100_000, 200_000), 100_000);
    measure(&mut machine, "delete 500 k, 0.1 ms", 500_000, &delete(200_000, 700_000), 100_000);
    measure(
        &mut machine,
        "transaction of 50 k puts, 0.1 ms",
        50_000,
        &puts_of_a_transaction(700_000, 50_000),
        100_000,
    );
    let start = processor_time();
    let value = [b'x'; 256];
    for number in 0..200_000_u64 {
        let put = pb::PutRequest {
            key: key(700_000 + number * 618_033 % 300_000).into(),
            value: value.to_vec().into(),
            ..Default::default()
        };
        drop(machine.apply(&request(RequestKind::Put, prost::Message::encode_to_vec(&put)), AT));
    }
    println!("  {:<40} {:>5} ns", "put, its making included", (processor_time() - start) / 200_000);
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_large_writes_where_versions_lie_in_the_order_of_their_keys() {
    cost_of_writes(true);
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_large_writes_where_versions_lie_anywhere() {
    cost_of_writes(false);
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_the_end_of_a_lease() {
    let mut machine = machine();
    let grant = prost::Message::encode_to_vec(&pb::LeaseGrantRequest { id: 1, ttl: 60 });
    drop(machine.apply(&request(RequestKind::LeaseGrant, grant), AT));
    for number in 0..100_000_u64 {
        let key = key(number * 618_033 % 100_000).into();
        let put = pb::PutRequest { key, value: vec![b'v'; 256].into(), lease: 1, ..Default::default() };
        drop(machine.apply(&request(RequestKind::Put, prost::Message::encode_to_vec(&put)), AT));
    }
    let revoke = prost::Message::encode_to_vec(&pb::LeaseRevokeRequest { id: 1 });
    measure(
        &mut machine,
        "a lease of 100 k keys, 0.1 ms",
        100_000,
        &request(RequestKind::LeaseRevoke, revoke),
        100_000,
    );
}
