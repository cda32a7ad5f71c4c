//! What a lease costs the store role, printed. Run by hand:
//! `cargo test --release --lib lease::cost_tests -- --ignored --nocapture --test-threads 1`

use prost::Message as _;

use super::keeper::KeepAlive;
use super::{Keeper, Proposal};
use crate::apply::{Applied, Machine};
use crate::membership::Cluster;
use crate::mvcc::Store;
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{EntryId, Origin, Request, RequestKind};
use crate::types::{LeaseId, LogIndex, MemberId, Term, Ticket};

const LEASES: i64 = 100_000;
const AT: EntryId = EntryId { index: LogIndex(1), term: Term(1) };

/// Time this thread was on a processor, in nanoseconds: on a busy machine the clock says little.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn measure(what: &str, count: u64, work: impl FnOnce()) {
    let start = processor_time();
    work();
    let each = (processor_time() - start) / count;
    println!("  {what:<52} {each:>8} ns");
}

fn apply(machine: &mut Machine, keeper: &mut Keeper, now_ms: u64, kind: RequestKind, body: Vec<u8>) {
    let origin = Origin { member: MemberId(7), ticket: Ticket(1) };
    let applied = machine.apply(&Request { origin, kind, body: body.into(), login: None }, AT);
    assert!(matches!(applied, Applied::Now(Ok(_))));
    for change in machine.take_lease_changes() {
        keeper.on_change(now_ms, change, &mut Vec::new());
    }
}

/// Ids without an order, as clients or a random number generator choose them.
fn id(number: i64) -> i64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()) | 1
}

#[test]
#[ignore = "a measurement: meant for a release build"]
fn leases_cost_what_is_printed() {
    let voter = peer::MemberRecord { id: 7, ..Default::default() };
    let record = peer::Membership { cluster_id: 5, members: vec![voter], removed: vec![] };
    let cluster = Cluster::decode(record.encode_to_vec().into()).unwrap();
    let (mut machine, mut keeper) = (Machine::new(Store::new(), cluster), Keeper::new());
    keeper.lead(0, Term(1), machine.leases(), 0);
    let count = LEASES.cast_unsigned();
    println!("{LEASES} leases of one key each");
    let before = anonymous_bytes();
    measure("grant", count, || {
        for number in 0..LEASES {
            let body = pb::LeaseGrantRequest { id: id(number), ttl: 10 }.encode_to_vec();
            apply(&mut machine, &mut keeper, 0, RequestKind::LeaseGrant, body);
        }
    });
    println!("  memory of a lease without a key: {} B", (anonymous_bytes() - before) / count);
    let put = |machine: &mut Machine, keeper: &mut Keeper, lease: &dyn Fn(i64) -> i64| {
        for number in 0..LEASES {
            let key = format!("/services/some/{number:06}");
            let put = pb::PutRequest {
                key: key.into(),
                value: "v".into(),
                lease: lease(number),
                ..Default::default()
            };
            apply(machine, keeper, 0, RequestKind::Put, put.encode_to_vec());
        }
    };
    measure("put of a new key without a lease", count, || put(&mut machine, &mut keeper, &|_| 0));
    measure("put again, without a lease", count, || put(&mut machine, &mut keeper, &|_| 0));
    let before = anonymous_bytes();
    measure("put that attaches", count, || put(&mut machine, &mut keeper, &id));
    println!("  memory of a version and its attachment: {} B", (anonymous_bytes() - before) / count);
    measure("put that keeps the lease", count, || put(&mut machine, &mut keeper, &id));
    measure("keep-alive", count, || {
        for number in 0..LEASES {
            let kept = keeper.keep_alive(3_000, LeaseId(id(number)), Ticket(1));
            assert_eq!(kept, Some(KeepAlive::Now { ttl_s: 10 }));
        }
    });
    measure("look at a timer that goes off too soon", count, || {
        keeper.on_tick();
        while keeper.propose(6_000, machine.leases(), LogIndex(1)).is_some() || keeper.has_work() {}
    });
    let started = processor_time();
    let mut twin = Keeper::new();
    twin.lead(0, Term(2), machine.leases(), 1_000);
    println!("  become leader: {} us", (processor_time() - started) / 1_000);
    let started = processor_time();
    assert_eq!(twin.by_remaining().unwrap().len() as u64, count);
    println!("  list by remaining time: {} us", (processor_time() - started) / 1_000);

    keeper.on_tick();
    let (mut rounds, mut longest) = (0, 0);
    measure("expire, all of it", count, || {
        while !machine.leases().is_empty() {
            let started = processor_time();
            let mut round = Vec::new();
            while let Some(proposed) = keeper.propose(20_000, machine.leases(), LogIndex(1)) {
                round.push(proposed);
            }
            for (number, proposal) in round {
                let (kind, body) = match proposal {
                    Proposal::Expire(message) => (RequestKind::LeaseExpire, message.encode_to_vec()),
                    Proposal::Checkpoint(message) => (RequestKind::LeaseCheckpoint, message.encode_to_vec()),
                };
                apply(&mut machine, &mut keeper, 20_000, kind, body);
                keeper.on_applied(number);
            }
            rounds += 1;
            longest = longest.max(processor_time() - started);
        }
    });
    println!("  {rounds} rounds through the log, the longest {} us", longest / 1_000);
    assert_eq!(machine.store().keys_count(), 0);
}
