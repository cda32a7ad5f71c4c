use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::types::KeyRange;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_op(key: &str) -> pb::RequestOp {
    op(Op::RequestPut(pb::PutRequest { key: bytes(key), ..Default::default() }))
}

fn delete_op(key: &str, range_end: &str) -> pb::RequestOp {
    let (key, range_end) = (bytes(key), bytes(range_end));
    op(Op::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv: false }))
}

fn range_op(key: &str) -> pb::RequestOp {
    op(Op::RequestRange(pb::RangeRequest { key: bytes(key), ..Default::default() }))
}

fn txn_of(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare: Vec::new(), success, failure }
}

fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
    op(Op::RequestTxn(txn_of(success, failure)))
}

#[track_caller]
fn check_txn(success: Vec<pb::RequestOp>, expected: Result<(), Status>) {
    assert_eq!(txn(&txn_of(success.clone(), vec![]), 128), expected);
    assert_eq!(txn(&txn_of(vec![], success), 128), expected, "the failure branch is checked alike");
}

#[test]
fn single_requests_are_checked_in_etcds_order() {
    let range_with = |change: fn(&mut pb::RangeRequest)| {
        let mut request = pb::RangeRequest { key: bytes("k"), ..Default::default() };
        change(&mut request);
        (range(&request), range_stream(&request))
    };
    assert_eq!(range_with(|_| ()), (Ok(()), Ok(())));
    let both = |status: Status| (Err(status.clone()), Err(status));
    assert_eq!(range_with(|r| r.sort_order = 3), both(status::INVALID_SORT_OPTION));
    assert_eq!(range_with(|r| r.sort_target = -1), both(status::INVALID_SORT_OPTION));
    let empty_key = range_with(|r| {
        r.key.clear();
        r.sort_order = 3;
    });
    assert_eq!(empty_key, both(status::KEY_EMPTY));

    assert_eq!(range_with(|r| r.sort_target = 4), (Ok(()), Ok(())), "no order, any target");
    assert_eq!(range_with(|r| r.sort_order = 1), (Ok(()), Ok(())), "ascending keys");
    assert_eq!(range_with(|r| r.sort_order = 2), (Ok(()), Err(status::RANGE_STREAM_SORT)));
    let by_value = range_with(|r| (r.sort_order, r.sort_target) = (1, 4));
    assert_eq!(by_value, (Ok(()), Err(status::RANGE_STREAM_SORT)));
    assert_eq!(range_with(|r| r.max_create_revision = -1), (Ok(()), Err(status::RANGE_STREAM_FILTER)));

    let put_with = |change: fn(&mut pb::PutRequest)| {
        let mut request = pb::PutRequest {
            key: bytes("k"),
            value: bytes("v"),
            lease: 1,
            ignore_value: true,
            ignore_lease: true,
            prev_kv: false,
        };
        change(&mut request);
        put(&request)
    };
    assert_eq!(put_with(|r| r.key.clear()), Err(status::KEY_EMPTY));
    assert_eq!(put_with(|_| ()), Err(status::VALUE_PROVIDED));
    assert_eq!(put_with(|r| r.value.clear()), Err(status::LEASE_PROVIDED));
    assert_eq!(put_with(|r| (r.value, r.lease) = (Bytes::new(), 0)), Ok(()));
    assert_eq!(delete_range(&pb::DeleteRangeRequest::default()), Err(status::KEY_EMPTY));
}

#[test]
fn operations_of_a_level_are_lost_to_the_transactions_inside_it() {
    let ranges = |count: usize| vec![range_op("k"); count];
    check_txn(ranges(128), Ok(()));
    check_txn(ranges(129), Err(status::TOO_MANY_OPS));
    let nest = |outer: usize, inner: usize| {
        let mut ops = ranges(outer - 2);
        ops.push(txn_op(ranges(inner), vec![]));
        ops.push(txn_op(vec![], ranges(inner)));
        ops
    };
    check_txn(nest(65, 63), Ok(()));
    check_txn(nest(65, 64), Err(status::TOO_MANY_OPS));

    let compare = pb::Compare { key: bytes("k"), ..Default::default() };
    let mut request = pb::TxnRequest { compare: vec![compare; 129], ..Default::default() };
    assert_eq!(txn(&request, 128), Err(status::TOO_MANY_OPS));
    request.compare.truncate(128);
    assert_eq!(txn(&request, 128), Ok(()));
    request.compare[127].key.clear();
    assert_eq!(txn(&request, 128), Err(status::KEY_EMPTY));
}

#[test]
fn every_operation_is_checked_and_shape_comes_before_duplicates() {
    check_txn(vec![pb::RequestOp { request: None }], Err(status::KEY_NOT_FOUND));
    check_txn(vec![put_op("a"), put_op("a"), put_op("")], Err(status::KEY_EMPTY));
    check_txn(vec![range_op("")], Err(status::KEY_EMPTY));
    check_txn(vec![delete_op("", "z")], Err(status::KEY_EMPTY));
    check_txn(vec![txn_op(vec![], vec![put_op("")])], Err(status::KEY_EMPTY));
    let sorted = pb::RangeRequest { key: bytes("a"), sort_order: 77, ..Default::default() };
    check_txn(vec![op(Op::RequestRange(sorted))], Err(status::INVALID_SORT_OPTION));
}

// Each line was asked of a real etcd [observed on 3.4.23].
#[test]
fn duplicate_keys_are_seen_exactly_where_etcd_sees_them() {
    let dup = || Err(status::DUPLICATE_KEY);
    check_txn(vec![put_op("k"), put_op("k")], dup());
    check_txn(vec![put_op("k"), put_op("k2")], Ok(()));
    check_txn(vec![put_op("k"), delete_op("k", "")], dup());
    check_txn(vec![delete_op("a", "z"), put_op("z")], Ok(()));
    check_txn(vec![delete_op("a", "c"), delete_op("b", "z"), delete_op("b", "")], Ok(()));
    check_txn(vec![delete_op("z", "c"), delete_op("b", "d"), put_op("c")], dup());
    // "To the end" and upside-down ranges are no intervals to this check.
    check_txn(vec![put_op("d5"), delete_op("d", "\0")], Ok(()));
    check_txn(vec![put_op("d5"), delete_op("d", "c")], Ok(()));
    check_txn(vec![put_op("\0"), delete_op("\0", "\0\0")], dup());
    // Nested, against the level outside.
    check_txn(vec![put_op("k"), txn_op(vec![], vec![delete_op("k", "")])], dup());
    check_txn(vec![delete_op("a", "z"), txn_op(vec![], vec![put_op("k")])], dup());
    check_txn(vec![txn_op(vec![put_op("k")], vec![]), put_op("k")], dup());
    // The two branches of one transaction exclude each other.
    check_txn(vec![txn_op(vec![put_op("k")], vec![put_op("k")])], Ok(()));
    check_txn(vec![txn_op(vec![delete_op("k", "")], vec![put_op("k")])], Ok(()));
    // Siblings: a delete counts for those behind it only.
    check_txn(vec![txn_op(vec![], vec![put_op("k")]), txn_op(vec![put_op("k")], vec![])], dup());
    check_txn(vec![txn_op(vec![delete_op("k", "")], vec![]), txn_op(vec![put_op("k")], vec![])], dup());
    check_txn(vec![txn_op(vec![put_op("k")], vec![]), txn_op(vec![delete_op("k", "")], vec![])], Ok(()));
}

/// A write and the way to it: at each level the operation's position, and the branch taken if that is
/// a transaction.
struct Write<'a> {
    way: Vec<(usize, Option<bool>)>,
    put: Option<&'a [u8]>,
    deleted: Option<KeyRange<'a>>,
}

fn writes<'a>(ops: &'a [pb::RequestOp], way: &[(usize, Option<bool>)], found: &mut Vec<Write<'a>>) {
    for (position, op) in ops.iter().enumerate() {
        let step = |branch| [way, &[(position, branch)]].concat();
        match op.request.as_ref().unwrap() {
            Op::RequestPut(put) => {
                found.push(Write { way: step(None), put: Some(&put.key), deleted: None });
            }
            Op::RequestDeleteRange(delete) => {
                // The blind spot: a bound that is not above the key.
                if delete.range_end.is_empty() || delete.key < delete.range_end {
                    let deleted = Some(KeyRange::new(&delete.key, &delete.range_end));
                    found.push(Write { way: step(None), put: None, deleted });
                }
            }
            Op::RequestTxn(txn) => {
                writes(&txn.success, &step(Some(true)), found);
                writes(&txn.failure, &step(Some(false)), found);
            }
            Op::RequestRange(_) => {}
        }
    }
}

/// The duplicate rule told pair by pair, from where the ways to two writes part.
fn naive_duplicate(ops: &[pb::RequestOp]) -> bool {
    let mut found = Vec::new();
    writes(ops, &[], &mut found);
    let clash = |a: &Write<'_>, b: &Write<'_>| {
        let level = (0..).find(|&level| a.way[level] != b.way[level]).unwrap();
        let ((a_position, a_branch), (b_position, b_branch)) = (a.way[level], b.way[level]);
        if a_position == b_position {
            return false; // one transaction's two branches
        }
        match (a.put, b.put, a.deleted) {
            (Some(a), Some(b), _) => a == b,
            (None, Some(key), Some(deleted)) => {
                let both_nested = a_branch.is_some() && b_branch.is_some();
                deleted.contains(key) && !(both_nested && b_position < a_position)
            }
            _ => false,
        }
    };
    (0..found.len()).any(|a| (0..found.len()).any(|b| a != b && clash(&found[a], &found[b])))
}

fn random_ops(rng: &mut StdRng, depth: u32, keys: u32) -> Vec<pb::RequestOp> {
    let count = rng.random_range(0..5);
    let key = |rng: &mut StdRng| format!("{:02}", rng.random_range(0..keys));
    (0..count)
        .map(|_| match rng.random_range(0..10) {
            0..4 => put_op(&key(rng)),
            4..6 => delete_op(&key(rng), ""),
            6 => delete_op(&key(rng), &key(rng)),
            7 => delete_op(&key(rng), "\0"),
            _ if depth == 0 => range_op(&key(rng)),
            _ => txn_op(random_ops(rng, depth - 1, keys), random_ops(rng, depth - 1, keys)),
        })
        .collect()
}

#[test]
fn the_duplicate_check_agrees_with_one_that_compares_every_pair() {
    let seed: u64 =
        std::env::var_os("PINION_SEED").map_or(17, |seed| seed.to_str().unwrap().parse().unwrap());
    println!("replay with PINION_SEED={seed} cargo test --lib the_duplicate_check_agrees");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut verdicts = [0; 2];
    for round in 0..20_000 {
        let keys = [3, 12, 60][round % 3];
        let ops = random_ops(&mut rng, 3, keys);
        let expected = naive_duplicate(&ops);
        let found = txn(&txn_of(ops.clone(), vec![]), 128) == Err(status::DUPLICATE_KEY);
        assert_eq!(found, expected, "round {round}: {ops:#?}");
        verdicts[usize::from(found)] += 1;
    }
    println!("{} accepted, {} refused", verdicts[0], verdicts[1]);
    assert!(verdicts.iter().all(|&count| count > 2_000), "one-sided input: {verdicts:?}");
}

#[test]
fn a_key_at_the_bottom_of_a_deep_nest_is_held_against_the_top() {
    let nest = |top: &str| {
        let mut ops: Vec<_> = (0..20_000).map(|n| put_op(&format!("k{n:06}"))).collect();
        for level in 0..40 {
            ops = vec![txn_op(ops, vec![]), delete_op(&format!("a{level}"), &format!("a{level}x"))];
        }
        ops.push(put_op(top));
        txn(&txn_of(ops, vec![]), 1_000_000)
    };
    assert_eq!(nest("k0"), Ok(()));
    assert_eq!(nest("k019999"), Err(status::DUPLICATE_KEY));
    assert_eq!(nest("a7q"), Err(status::DUPLICATE_KEY), "deleted on level 7");
}

#[test]
fn nests_deeper_than_the_stack_is_meant_for_are_refused() {
    let nest = |depth: u32| {
        (0..depth).fold(txn_of(vec![], vec![]), |inner, _| txn_of(vec![op(Op::RequestTxn(inner))], vec![]))
    };
    assert_eq!(txn(&nest(TXN_DEPTH_MAX), 1_000), Ok(()));
    assert_eq!(txn(&nest(TXN_DEPTH_MAX + 1), 1_000), Err(status::TOO_MANY_OPS));
}

#[test]
fn the_largest_request_is_etcds_to_the_byte() {
    assert_eq!(request_bytes(1_572_847, 1_572_864), Ok(()));
    assert_eq!(request_bytes(1_572_848, 1_572_864), Err(status::REQUEST_TOO_LARGE));
    assert_eq!(request_bytes(usize::MAX, u32::MAX), Err(status::REQUEST_TOO_LARGE));
}
