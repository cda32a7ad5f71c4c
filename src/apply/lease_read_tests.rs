use super::*;
use crate::apply::script::{AT, machine, request};
use crate::apply::{Applied, StatusFacts};
use crate::lease::Lease;
use crate::request::{Query, RequestKind};
use crate::types::LogIndex;
use crate::types::limits::SLICE_NS;

/// A lease with so many keys, and a few others.
fn machine_with(keys: usize, leases: i64) -> Machine {
    let mut machine = machine();
    for id in 1..=leases {
        machine.leases.insert(LeaseId(id), Lease::new(60, 0, LogIndex(1)));
    }
    for number in 0..keys {
        let put = pb::PutRequest { key: key(number).into(), lease: 1, ..Default::default() };
        apply(&mut machine, &put);
    }
    machine
}

fn apply(machine: &mut Machine, put: &pb::PutRequest) {
    let applied = machine.apply(&request(RequestKind::Put, put.encode_to_vec()), AT);
    assert!(matches!(applied, Applied::Now(Ok(_))), "{applied:?}");
}

fn key(number: usize) -> String {
    format!("key-{number:05}")
}

/// The whole answer, and how many slices it took. `between` has its turn behind each slice.
fn finish(
    machine: &mut Machine,
    mut read: LeaseRead,
    due_ms: impl Fn(LeaseId) -> Option<u64>,
    budget_ns: u64,
    mut between: impl FnMut(&mut Machine, usize),
) -> (Vec<u8>, usize) {
    let mut slices = 0;
    let mut next_slice = |machine: &mut Machine| {
        slices += 1;
        between(machine, slices);
        Slice::of(budget_ns)
    };
    let bytes = loop {
        let mut slice = next_slice(machine);
        let bytes = machine.lease_read_slice(&mut read, &due_ms, &mut slice);
        assert!(slice.spent_ns() <= budget_ns + 10_000, "{} ns of {budget_ns}", slice.spent_ns());
        if let Some(bytes) = bytes {
            break bytes;
        }
    };
    let mut body = Vec::new();
    while !read.write(&mut next_slice(machine), 1_000_000, &mut body) {}
    assert!(body.len() as u64 == bytes && bytes <= read.bytes_max() + 64);
    machine.end_lease_read(read);
    (body, slices)
}

#[test]
fn the_keys_of_a_lease_are_told_in_slices_as_in_one_piece_whatever_changes_meanwhile() {
    let mut machine = machine_with(3_000, 2);
    let asked = pb::LeaseTimeToLiveRequest { id: 1, keys: true };
    let whole = machine.lease_time_to_live(&asked, 7_999);
    for budget_ns in [1, 5_000, SLICE_NS] {
        let read = machine.begin_lease_time_to_live(&asked, 7_999).unwrap();
        let revision = machine.store().current_revision();
        assert_eq!(read.revision(), revision);
        let mut turned = 0;
        let (body, slices) = finish(
            &mut machine,
            read,
            |_| None,
            budget_ns,
            |machine, slice| {
                // Keys leave the lease and come to it, before and behind where the read stands.
                let number = slice * 7 % 3_100;
                let put = pb::PutRequest { key: key(number).into(), lease: 2, ..Default::default() };
                apply(machine, &put);
                let put = pb::PutRequest { lease: 1, ..put };
                turned += 1;
                if number < 3_000 {
                    apply(machine, &put);
                }
            },
        );
        assert!(body == whole.body, "slices of {budget_ns} ns");
        assert!(turned == slices && (1 < slices), "{slices} slices of {budget_ns} ns");
        // The keys that came meanwhile are those of another lease.
        assert_eq!(machine.lease_time_to_live(&asked, 7_999).body, whole.body);
    }
    let short = pb::LeaseTimeToLiveRequest { keys: false, ..asked };
    assert!(machine.begin_lease_time_to_live(&short, 0).is_none());
    assert!(machine.begin_lease_time_to_live(&pb::LeaseTimeToLiveRequest { id: 2, keys: true }, 0).is_none());
}

#[test]
fn a_lease_that_is_revoked_while_its_keys_are_told_is_answered_as_none() {
    let mut machine = machine_with(1_500, 1);
    let asked = pb::LeaseTimeToLiveRequest { id: 1, keys: true };
    let read = machine.begin_lease_time_to_live(&asked, 5_000).unwrap();
    let (body, _) = finish(
        &mut machine,
        read,
        |_| None,
        10_000,
        |machine, slice| {
            if slice == 3 {
                drop(machine.leases.revoke(LeaseId(1)));
            }
        },
    );
    assert_eq!(body, machine.lease_time_to_live(&asked, 0).body);
}

#[test]
fn all_leases_are_told_in_slices_as_in_one_piece_the_soonest_due_first() {
    let mut machine = machine_with(0, 5_000);
    assert!(machine.has_many_leases());
    let whole = machine.read(&Query::LeaseLeases, &StatusFacts::default()).unwrap();
    let due_ms = |id: LeaseId| Some(u64::try_from(id.0).unwrap() * 7_919 % 5_003);
    let mut sorted: Vec<LeaseId> = machine.leases.iter().map(|(id, _)| id).collect();
    sorted.sort_by_key(|&id| due_ms(id));
    let by_due = machine.lease_leases(sorted.into_iter());
    for budget_ns in [1, 5_000, SLICE_NS] {
        let read = machine.begin_lease_leases();
        let (body, slices) = finish(&mut machine, read, |_| None, budget_ns, |_, _| {});
        assert!(body == whole.body && 10 < slices, "{slices} slices of {budget_ns} ns");
        let read = machine.begin_lease_leases();
        let (body, _) = finish(&mut machine, read, due_ms, budget_ns, |_, _| {});
        assert!(body == by_due.body, "slices of {budget_ns} ns");
    }
    // Those of the beginning, whatever comes and goes.
    let read = machine.begin_lease_leases();
    let (body, _) = finish(
        &mut machine,
        read,
        |_| None,
        20_000,
        |machine, slice| {
            let id = i64::try_from(slice).unwrap();
            machine.leases.insert(LeaseId(10_000 - id), Lease::new(60, 0, LogIndex(2)));
            drop(machine.leases.revoke(LeaseId(5_001 - id)));
        },
    );
    assert!(body == whole.body);
}
