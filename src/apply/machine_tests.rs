use expect_test::expect;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::apply::script::{AT, check, machine, request, run};
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::rpc::{Limits, validate};
use crate::types::limits::KEY_NS;

#[test]
fn puts_count_versions_and_tell_what_was() {
    check(expect![[r#"
        put a 1 => rev 2
        put a 1 => rev 3
        put a 2 prev => rev 4 was a=1@2/3/2
        put b 1 prev => rev 5
        del a => rev 6 deleted 1
        put a 3 prev => rev 7
        get a => rev 7 [a=3@7/7/1] of 1
        put "" 1 => InvalidArgument etcdserver: key is not provided
        !put "" 1 => InvalidArgument etcdserver: key is not provided
        put \0 1 => rev 8
        put e "" => rev 9
        get e => rev 9 [e=@9/9/1] of 1
        put e "" prev => rev 10 was e=@9/9/1
    "#]]);
}

#[test]
fn puts_keep_what_they_are_told_to_keep() {
    check(expect![[r#"
        put a "" ignore_value => InvalidArgument etcdserver: key not found
        put a 1 ignore_lease => InvalidArgument etcdserver: key not found
        put a 1 => rev 2
        put a "" ignore_value prev => rev 3 was a=1@2/2/1
        put a 2 ignore_lease prev => rev 4 was a=1@2/3/2
        put a "" ignore_value ignore_lease => rev 5
        get a => rev 5 [a=2@2/5/4] of 1
        put a 1 ignore_value => InvalidArgument etcdserver: value is provided
        put a "" lease=3 ignore_lease => InvalidArgument etcdserver: lease is provided
        put a "" lease=3 ignore_value => NotFound etcdserver: requested lease not found
        # the lease before the key
        put nokey "" lease=3 ignore_value => NotFound etcdserver: requested lease not found
        put a 1 lease=3 => NotFound etcdserver: requested lease not found
        put a 1 lease=-3 => NotFound etcdserver: requested lease not found
        get a => rev 5 [a=2@2/5/4] of 1
    "#]]);
}

#[test]
fn ignore_lease_keeps_the_lease_and_anything_else_lets_go_of_it() {
    let leased = || {
        let mut machine = machine();
        run(&mut machine, "grant 7 60");
        run(&mut machine, "put a 1 lease=7");
        machine
    };
    for (line, expected) in [
        ("put a 2 ignore_lease", "a=2@2/3/2~7"),
        ("put a \"\" ignore_lease ignore_value", "a=1@2/3/2~7"),
        ("txn then put a 2 ignore_lease", "a=2@2/3/2~7"),
        ("put a 2", "a=2@2/3/2"),
        ("put a \"\" ignore_value", "a=1@2/3/2"),
    ] {
        let mut machine = leased();
        run(&mut machine, line);
        assert_eq!(run(&mut machine, "get a"), format!("rev 3 [{expected}] of 1"), "{line}");
        let keys = if expected.contains('~') { "a" } else { "" };
        assert_eq!(run(&mut machine, "leases"), format!("7:60[{keys}]"), "{line}");
    }
    let mut machine = leased();
    assert_eq!(run(&mut machine, "get a keys_only"), "rev 2 [a=@2/2/1] of 1");
    assert_eq!(run(&mut machine, "get a keys_only target=4"), "rev 2 [a=@2/2/1~7] of 1");
    assert_eq!(
        run(&mut machine, "txn if lease a = 7 then del a prev"),
        "rev 3 then {del rev 3 deleted 1 [a=1@2/2/1~7]}"
    );
}

#[test]
fn deletions_share_a_revision_and_none_is_none() {
    check(expect![[r#"
        del a => rev 1 deleted 0
        put a 1 => rev 2
        put b 2 => rev 3
        put c 3 => rev 4
        del b c => rev 5 deleted 1
        del b prev => rev 5 deleted 0
        del c a => rev 5 deleted 0
        del a \0 prev => rev 6 deleted 2 [a=1@2/2/1 c=3@4/4/1]
        del a \0 => rev 6 deleted 0
        put a 4 => rev 7
        get a => rev 7 [a=4@7/7/1] of 1
        del "" => InvalidArgument etcdserver: key is not provided
        !del "" => InvalidArgument etcdserver: key is not provided
        !del "" \0 => InvalidArgument etcdserver: key is not provided
        del \0 \0 => rev 8 deleted 1
    "#]]);
}

#[test]
fn compactions_go_forward_once() {
    check(expect![[r#"
        compact -1 => OutOfRange etcdserver: mvcc: required revision has been compacted
        compact 0 => rev 1
        compact 0 => OutOfRange etcdserver: mvcc: required revision has been compacted
        compact -1 => OutOfRange etcdserver: mvcc: required revision has been compacted
        compact 1 => rev 1
        compact 2 => OutOfRange etcdserver: mvcc: required revision is a future revision
        put a 1 => rev 2
        put a 2 => rev 3
        del a => rev 4 deleted 1
        put b 1 => rev 5
        compact 3 physical => rev 5 after compaction
        work => done=true
        compact 3 => OutOfRange etcdserver: mvcc: required revision has been compacted
        compact 2 => OutOfRange etcdserver: mvcc: required revision has been compacted
        compact 4 physical => rev 5 after compaction
        get a \0 rev=3 => OutOfRange etcdserver: mvcc: required revision has been compacted
        get a \0 rev=4 => rev 5 [] of 0
        hash 3 => OutOfRange etcdserver: mvcc: required revision has been compacted
        hash 4 => rev 5 hash 4 compacted 4
        hash => rev 5 hash 5 compacted 4
        hash 6 => OutOfRange etcdserver: mvcc: required revision is a future revision
        compact 6 => OutOfRange etcdserver: mvcc: required revision is a future revision
        compact 5 => rev 5
        work => done=true
        get a \0 => rev 5 [b=1@5/5/1] of 1
        get a \0 rev=4 => OutOfRange etcdserver: mvcc: required revision has been compacted
    "#]]);
}

#[test]
fn a_physical_compaction_is_answered_when_the_work_is_done() {
    let mut machine = machine();
    for n in 0..2_000 {
        let value = format!("{n}");
        let put = pb::PutRequest { key: "a".into(), value: value.into(), ..Default::default() };
        let applied = machine.apply(&request(RequestKind::Put, put.encode_to_vec()), AT);
        assert!(matches!(applied, Applied::Now(Ok(_))));
    }
    let before = machine.store().bytes_in_use();
    let compact = pb::CompactionRequest { revision: 2_001, physical: true };
    let applied = machine.apply(&request(RequestKind::Compact, compact.encode_to_vec()), AT);
    assert_eq!(applied, Applied::AfterCompaction(Response { revision: 2_001, ..Response::default() }));
    let mut slices = 1;
    while !machine.work_slice(100) {
        slices += 1;
        // In between the machine answers as if all were gone already.
        assert!(run(&mut machine, "get a rev=2000").contains("has been compacted"));
        assert!(run(&mut machine, "get a rev=2001").contains("a=1999@2/2001/2000"));
    }
    assert!(10 < slices, "done in {slices} slices of 100 for 2000 versions");
    assert!(machine.store().bytes_in_use() < before / 100);
}

#[test]
fn a_plain_put_is_answered_without_a_buffer() {
    let mut machine = machine();
    let put = pb::PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
    let Applied::Now(Ok(response)) = machine.apply(&request(RequestKind::Put, put.encode_to_vec()), AT)
    else {
        panic!("refused");
    };
    assert_eq!(response.body.capacity(), 0);
}

#[test]
fn status_members_and_hash_are_answered_as_their_messages() {
    let mut machine = machine();
    run(&mut machine, "put a 1");
    let publish =
        peer::PublishMember { id: 7, name: "n7".into(), client_urls: vec!["http://127.0.0.1:2379".into()] };
    let applied = machine.apply(&request(RequestKind::PublishMember, publish.encode_to_vec()), AT);
    assert_eq!(applied, Applied::Now(Ok(Response::default())));

    let facts = StatusFacts {
        leader: MemberId(7),
        term: Term(3),
        committed: LogIndex(9),
        applied: LogIndex(8),
        is_learner: true,
        quota_bytes: 2_147_483_648,
        errors: vec!["etcdserver: no leader".into()],
    };
    let members = machine.read(&Query::MemberList, &facts).unwrap();
    assert_eq!(members.revision, 0, "cluster answers carry none");
    let members = pb::MemberListResponse::decode(&*members.body).unwrap().members;
    assert_eq!((members.len(), members[0].id, &*members[0].name), (1, 7, "n7"));
    assert_eq!(members[0].client_ur_ls, ["http://127.0.0.1:2379"]);

    let status = machine.read(&Query::Status, &facts).unwrap();
    assert_eq!(status.revision, 2);
    let status = pb::StatusResponse::decode(&*status.body).unwrap();
    assert!(0 < status.db_size_in_use && status.db_size_in_use <= status.db_size, "{status:?}");
    let expected = pb::StatusResponse {
        header: None,
        version: "3.7.1".into(),
        db_size: status.db_size,
        leader: 7,
        raft_index: 9,
        raft_term: 3,
        raft_applied_index: 8,
        errors: vec!["etcdserver: no leader".into()],
        db_size_in_use: status.db_size_in_use,
        is_learner: true,
        storage_version: "3.7.0".into(),
        db_size_quota: 2_147_483_648,
        downgrade_info: Some(pb::DowngradeInfo::default()),
    };
    assert_eq!(status, expected);

    let hash = machine.read(&Query::Hash, &facts).unwrap();
    let hash = pb::HashResponse::decode(&*hash.body).unwrap().hash;
    assert_eq!(hash, machine.store().hash_kv(2).hash);
}

#[test]
fn a_sliced_hash_is_the_whole_ones_and_starts_over_behind_a_compaction() {
    let mut machine = machine();
    for n in 0..100 {
        run(&mut machine, &format!("put k{} {n}", n % 7));
    }
    let whole = |machine: &Machine, revision| {
        machine.read(&Query::HashKv(pb::HashKvRequest { revision }), &StatusFacts::default())
    };
    let finish = |machine: &Machine, read: &mut HashRead| {
        (0..1_000).find_map(|_| machine.hash_slice(read, &mut Slice::of(10 * KEY_NS))).expect("bounded")
    };
    let begin = |machine: &Machine, revision| {
        machine.begin_hash(&Query::HashKv(pb::HashKvRequest { revision })).unwrap()
    };
    let mut read = begin(&machine, 0);
    assert_eq!(finish(&machine, &mut read), whole(&machine, 0));
    let mut read = machine.begin_hash(&Query::Hash).unwrap();
    assert_eq!(finish(&machine, &mut read), machine.read(&Query::Hash, &StatusFacts::default()));

    let (mut overtaken, mut gone) = (begin(&machine, 90), begin(&machine, 50));
    let mut current = machine.begin_hash(&Query::Hash).unwrap();
    for read in [&mut overtaken, &mut gone, &mut current] {
        assert_eq!(machine.hash_slice(read, &mut Slice::of(10 * KEY_NS)), None);
    }
    run(&mut machine, "compact 80");
    run(&mut machine, "put late 1");
    assert_eq!(finish(&machine, &mut overtaken), whole(&machine, 90));
    assert_eq!(finish(&machine, &mut gone), Err(Rejection::Compacted { required: 50, compacted: 80 }));
    // A Hash is of whatever is current.
    assert_eq!(finish(&machine, &mut current), machine.read(&Query::Hash, &StatusFacts::default()));
    assert!(machine.begin_hash(&Query::HashKv(pb::HashKvRequest { revision: 999 })).is_err());
}

/// Everything the machine holds, as bytes.
fn dump(machine: &mut Machine) -> Vec<u8> {
    let mut checkpoint = machine.begin_checkpoint();
    let mut out = Vec::new();
    while !machine.checkpoint_slice(&mut checkpoint, 1 << 16, &mut out) {}
    machine.end_checkpoint(checkpoint);
    out.extend_from_slice(&machine.store().bytes_in_use().to_le_bytes());
    out
}

#[test]
fn a_refused_request_leaves_every_byte_as_it_was() {
    let mut machine = machine();
    let history = [
        "put a 1",
        "put d1 1",
        "put d2 2",
        "del a",
        "put a 2",
        "compact 3",
        "work",
        "grant 5 60",
        "grant 6 60",
    ];
    for line in history {
        run(&mut machine, line);
    }
    let before = dump(&mut machine);
    let refused = [
        "put a 1 lease=9",
        "put x 1 ignore_lease",
        "txn then put n 1 , put a 9 , del d1 , del \\0 \\0 , put d9 1 , ( txn then put d2 3 ignore_lease )",
        "!txn then put n 1 , put n 2 , del n , put n 3 , put a 4 , nothing",
        "!txn then ( txn then put n 1 , ( txn then del \\0 \\0 prev , put n 2 prev , put \"\" 1 ) )",
        "!txn then put n 1 , get a order=9",
        "grant 5 60",
        "grant 0 60",
        "revoke 7",
        "txn then put a 1 lease=5 , put n 1 lease=7",
        "!txn then put a 1 lease=5 , put n 1 lease=6 , del a , nothing",
        "compact 99",
        "compact 3 physical",
    ];
    for line in refused {
        let answer = run(&mut machine, line);
        assert!(!answer.starts_with("rev "), "{line}: {answer}");
        assert!(dump(&mut machine) == before, "{line} left something behind: {answer}");
        machine.store().check_invariants();
    }
    assert_eq!(run(&mut machine, "txn then put a 9"), "rev 7 then {put rev 7}");
    assert!(dump(&mut machine) != before, "the dump shows changes");
}

fn seed(test: &str) -> u64 {
    let seed = std::env::var_os("PINION_SEED").map_or(23, |seed| seed.to_str().unwrap().parse().unwrap());
    println!("replay with PINION_SEED={seed} cargo test --lib {test}");
    seed
}

/// A request of any shape, most of them good.
fn random_txn(rng: &mut StdRng, depth: u32) -> pb::TxnRequest {
    let key = |rng: &mut StdRng| {
        Bytes::copy_from_slice([&b"a"[..], b"b", b"bc", b"c\xff", b"d", b"\0"].choose(rng).unwrap())
    };
    let end = |rng: &mut StdRng| {
        Bytes::copy_from_slice([&b""[..], b"", b"\0", b"c", b"z", b"a"].choose(rng).unwrap())
    };
    let small = |rng: &mut StdRng| [0, 0, 0, 1, 2, 5, -1].choose(rng).copied().unwrap();
    let ops = |rng: &mut StdRng| -> Vec<pb::RequestOp> {
        (0..rng.random_range(0..4))
            .map(|_| {
                let request = match rng.random_range(0..12) {
                    0..4 => Some(Op::RequestPut(pb::PutRequest {
                        key: key(rng),
                        value: vec![b'v'; rng.random_range(0..200)].into(),
                        lease: i64::from(rng.random_range(0..40) == 0),
                        prev_kv: rng.random(),
                        ignore_value: rng.random_range(0..10) == 0,
                        ignore_lease: rng.random_range(0..10) == 0,
                    })),
                    4..7 => Some(Op::RequestRange(pb::RangeRequest {
                        key: key(rng),
                        range_end: end(rng),
                        limit: small(rng),
                        revision: if rng.random_range(0..10) == 0 { small(rng) } else { 0 },
                        sort_order: rng.random_range(0..3),
                        sort_target: rng.random_range(0..5),
                        keys_only: rng.random(),
                        count_only: rng.random_range(0..8) == 0,
                        min_mod_revision: small(rng),
                        ..Default::default()
                    })),
                    7..9 => Some(Op::RequestDeleteRange(pb::DeleteRangeRequest {
                        key: key(rng),
                        range_end: end(rng),
                        prev_kv: rng.random(),
                    })),
                    9 if rng.random_range(0..20) == 0 => None,
                    _ if depth == 0 => None,
                    _ => Some(Op::RequestTxn(random_txn(rng, depth - 1))),
                };
                pb::RequestOp { request }
            })
            .filter(|op| op.request.is_some() || depth != 0)
            .collect()
    };
    let compare = (0..rng.random_range(0..3))
        .map(|_| pb::Compare {
            result: rng.random_range(0..5),
            target: rng.random_range(0..6),
            key: key(rng),
            range_end: end(rng),
            target_union: None,
        })
        .collect();
    pb::TxnRequest { compare, success: ops(rng), failure: ops(rng) }
}

// The claim of `encode`: what prost decodes from an answer it encodes to the same bytes.
#[test]
fn random_transactions_are_answered_in_prosts_own_bytes_and_are_atomic() {
    let mut rng = StdRng::seed_from_u64(seed("random_transactions_are_answered"));
    let mut machine = machine();
    let (mut answered, mut refused) = (0, 0);
    let limits = Limits::default();
    for round in 0..6_000 {
        let txn = random_txn(&mut rng, 3);
        let before = (round % 8 == 0).then(|| dump(&mut machine));
        let body = Bytes::from(txn.encode_to_vec());
        let Applied::Now(outcome) = machine.apply(&request(RequestKind::Txn, body.clone()), AT) else {
            panic!("not a compaction");
        };
        match outcome {
            Ok(response) => {
                answered += 1;
                let answer = pb::TxnResponse::decode(&*response.body).unwrap();
                assert!(answer.encode_to_vec() == response.body, "round {round}: {txn:?}");
                assert_eq!(response.revision, machine.store().current_revision());
            }
            Err(rejection) => {
                refused += 1;
                if let Some(before) = before {
                    assert!(
                        dump(&mut machine) == before,
                        "round {round}: {rejection:?} left something: {txn:?}"
                    );
                }
                // What the shard lets through is refused for the state's sake only.
                if validate::txn(&txn, limits.txn_ops_max).is_ok() {
                    assert!(!matches!(rejection, Rejection::KeyEmpty | Rejection::SortOption { .. }));
                }
            }
        }
        if round % 500 == 0 {
            let compact =
                pb::CompactionRequest { revision: machine.store().current_revision(), physical: false };
            let _answered = machine.apply(&request(RequestKind::Compact, compact.encode_to_vec()), AT);
            machine.work_slice(1_000);
            machine.store().check_invariants();
        }
    }
    println!("{answered} answered, {refused} refused");
    assert!(1_000 < answered && 300 < refused, "one-sided input: {answered} {refused}");
}

#[test]
fn no_body_stops_a_member_and_all_members_refuse_alike() {
    let mut rng = StdRng::seed_from_u64(seed("no_body_stops_a_member"));
    let (mut machine, mut twin) = (machine(), machine());
    let kinds = [
        RequestKind::Put,
        RequestKind::DeleteRange,
        RequestKind::Txn,
        RequestKind::Compact,
        RequestKind::PublishMember,
        RequestKind::LeaseGrant,
        RequestKind::LeaseRevoke,
        RequestKind::LeaseExpire,
        RequestKind::LeaseCheckpoint,
    ];
    let mut undecodable = 0;
    for round in 0..20_000 {
        let kind = kinds[round % kinds.len()];
        // Noise, or a request with some bytes changed.
        let mut body = random_txn(&mut rng, 2).encode_to_vec();
        if round % 3 == 0 {
            body = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
        } else if !body.is_empty() {
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..body.len());
                body[at] = rng.random();
            }
        }
        let applied = machine.apply(&request(kind, body.clone()), AT);
        undecodable += i32::from(matches!(applied, Applied::Now(Err(Rejection::Undecodable(_)))));
        assert_eq!(twin.apply(&request(kind, body), AT), applied, "round {round}");
    }
    machine.store().check_invariants();
    assert!(dump(&mut machine) == dump(&mut twin), "two members, two states");
    println!("{undecodable} of 20000 did not decode; revision {}", machine.store().current_revision());
    assert!(2_000 < undecodable && 400 < machine.store().current_revision(), "one-sided input");
}

#[test]
fn bodies_beyond_any_bound_are_refused_before_they_are_looked_at() {
    // Not allocated: a zeroed page is shared until written.
    let body = Bytes::from(vec![0; REQUEST_BYTES_MAX + 1]);
    let applied = machine().apply(&request(RequestKind::Put, body), AT);
    let bytes = REQUEST_BYTES_MAX as u64 + 1;
    assert_eq!(applied, Applied::Now(Err(Rejection::RequestTooLarge { bytes })));
}

#[test]
fn the_deepest_nest_that_decodes_is_carried_out() {
    // 50 levels decode; each is a compare, a put and the next one.
    let mut txn = pb::TxnRequest::default();
    for level in 0..49 {
        let put = pb::PutRequest { key: format!("k{level}").into(), ..Default::default() };
        let nested = std::mem::take(&mut txn);
        txn.compare.push(pb::Compare { key: "k".into(), ..Default::default() });
        txn.success = vec![
            pb::RequestOp { request: Some(Op::RequestPut(put)) },
            pb::RequestOp { request: Some(Op::RequestTxn(nested)) },
        ];
    }
    let mut machine = machine();
    let applied = machine.apply(&request(RequestKind::Txn, txn.encode_to_vec()), AT);
    let Applied::Now(Ok(response)) = applied else { panic!("{applied:?}") };
    let mut answer = pb::TxnResponse::decode(&*response.body).unwrap();
    assert!(answer.encode_to_vec() == response.body);
    let mut depth = 0;
    while let Some(crate::pb::etcdserverpb::response_op::Response::ResponseTxn(nested)) =
        answer.responses.pop().and_then(|op| op.response)
    {
        answer = nested;
        depth += 1;
    }
    assert_eq!((depth, machine.store().keys_count()), (49, 49));
}

#[test]
fn a_plain_put_is_read_as_every_decoder_reads_it_and_leaves_what_the_long_way_leaves() {
    let mut random = StdRng::seed_from_u64(8);
    let mut plain_count = 0;
    for round in 0..4_000 {
        let key = vec![b'k'; random.random_range(0..4)];
        let value = vec![b'v'; [0, 3, 200][random.random_range(0..3)]];
        let lease = i64::from(random.random_ratio(1, 4)) * 7;
        let put = pb::PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            prev_kv: random.random_ratio(1, 8),
            ..Default::default()
        };
        let mut body = put.encode_to_vec();
        if random.random_ratio(1, 4) {
            // Fields that come twice, in another order, cut off or damaged.
            match random.random_range(0..3) {
                0 => body.extend_from_slice(&put.encode_to_vec()),
                1 => body.truncate(random.random_range(0..=body.len())),
                _ => body.iter_mut().for_each(|byte| *byte ^= u8::from(random.random_ratio(1, 20))),
            }
        }
        if let Some((key, value)) = plain_put(&body) {
            plain_count += 1;
            let decoded = pb::PutRequest::decode(&body[..]).unwrap();
            let expected = pb::PutRequest {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                ..Default::default()
            };
            assert_eq!(decoded, expected, "round {round}");
        }
    }
    assert!(500 < plain_count, "{plain_count}");

    // The same puts both ways, over keys with and without leases.
    let (mut plain, mut long) = (machine(), machine());
    for machine in [&mut plain, &mut long] {
        run(machine, "grant 7 60");
    }
    for round in 0..300 {
        let key = vec![b'a' + random.random_range(0..5_u8)];
        if round % 3 == 0 {
            let line = format!("put {} x lease=7", char::from(key[0]));
            assert_eq!(run(&mut plain, &line), run(&mut long, &line));
        } else {
            let put = pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
            let told = plain.put_plain(&put.key, &put.value);
            assert_eq!(Ok(told), long.put(&put));
        }
        assert_eq!(run(&mut plain, "leases"), run(&mut long, "leases"));
    }
    plain.store().check_invariants();
}
