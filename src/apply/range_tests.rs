use expect_test::expect;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::apply::script::{check, machine, run};
use crate::apply::{Machine, StatusFacts};
use crate::pb::mvccpb;
use crate::request::Query;
use crate::rpc::range_stream::RangeStream;

#[test]
fn ranges_name_keys_as_etcd_does() {
    check(expect![[r#"
        put a 1 => rev 2
        put b 2 => rev 3
        put c 3 => rev 4
        put \0 z => rev 5
        # one key, a half-open range, to the end, everything
        get b => rev 5 [b=2@3/3/1] of 1
        get nothing => rev 5 [] of 0
        get a c => rev 5 [a=1@2/2/1 b=2@3/3/1] of 2
        get b \0 => rev 5 [b=2@3/3/1 c=3@4/4/1] of 2
        get \0 \0 => rev 5 [\0=z@5/5/1 a=1@2/2/1 b=2@3/3/1 c=3@4/4/1] of 4
        # upside down and empty ranges are no error
        get c a => rev 5 [] of 0
        get b b => rev 5 [] of 0
        get a \0\0 => rev 5 [] of 0
        get \0 \0\0 => rev 5 [\0=z@5/5/1] of 1
        get "" => InvalidArgument etcdserver: key is not provided
        get "" \0 => InvalidArgument etcdserver: key is not provided
    "#]]);
}

#[test]
fn reads_of_the_past_show_it_under_a_header_of_now() {
    check(expect![[r#"
        get a rev=1 => rev 1 [] of 0
        get a rev=2 => OutOfRange etcdserver: mvcc: required revision is a future revision
        put a 1 => rev 2
        put a 2 => rev 3
        del a => rev 4 deleted 1
        put a 3 => rev 5
        get a => rev 5 [a=3@5/5/1] of 1
        get a rev=2 => rev 5 [a=1@2/2/1] of 1
        get a rev=3 => rev 5 [a=2@2/3/2] of 1
        get a rev=4 => rev 5 [] of 0
        get a rev=5 => rev 5 [a=3@5/5/1] of 1
        get a rev=6 => OutOfRange etcdserver: mvcc: required revision is a future revision
        # anything up to zero is now
        get a rev=-7 => rev 5 [a=3@5/5/1] of 1
        compact 3 => rev 5
        get a rev=2 => OutOfRange etcdserver: mvcc: required revision has been compacted
        get a rev=3 => rev 5 [a=2@2/3/2] of 1
        work => done=true
        get a rev=2 => OutOfRange etcdserver: mvcc: required revision has been compacted
        get a rev=3 => rev 5 [a=2@2/3/2] of 1
        get a rev=4 => rev 5 [] of 0
        # the future is told before the past
        get a rev=7 => OutOfRange etcdserver: mvcc: required revision is a future revision
    "#]]);
}

#[test]
fn limit_cuts_and_count_does_not_care() {
    check(expect![[r#"
        put a 1 => rev 2
        put b 2 => rev 3
        put c 3 => rev 4
        put d 4 => rev 5
        get a z limit=2 => rev 5 [a=1@2/2/1 b=2@3/3/1]+ of 4
        get a z limit=4 => rev 5 [a=1@2/2/1 b=2@3/3/1 c=3@4/4/1 d=4@5/5/1] of 4
        get a z limit=5 => rev 5 [a=1@2/2/1 b=2@3/3/1 c=3@4/4/1 d=4@5/5/1] of 4
        get a z limit=9223372036854775807 => rev 5 [a=1@2/2/1 b=2@3/3/1 c=3@4/4/1 d=4@5/5/1] of 4
        get a z limit=-1 => rev 5 [a=1@2/2/1 b=2@3/3/1 c=3@4/4/1 d=4@5/5/1] of 4
        get a limit=1 => rev 5 [a=1@2/2/1] of 1
        get a z limit=1 count_only => rev 5 [] of 4
        get a count_only => rev 5 [] of 1
        get a z count_only max_mod=3 => rev 5 [] of 4
        get a z limit=1 rev=3 => rev 5 [a=1@2/2/1]+ of 2
        get x z limit=1 => rev 5 [] of 0
    "#]]);
}

#[test]
fn keys_only_leaves_out_values_but_sorts_by_them() {
    check(expect![[r#"
        put a 3 => rev 2
        put b 2 => rev 3
        put c 1 => rev 4
        get a z keys_only => rev 4 [a=@2/2/1 b=@3/3/1 c=@4/4/1] of 3
        get a keys_only => rev 4 [a=@2/2/1] of 1
        get a z keys_only order=1 target=4 => rev 4 [c=@4/4/1 b=@3/3/1 a=@2/2/1] of 3
    "#]]);
}

#[test]
fn filters_come_before_limit_and_not_into_count() {
    check(expect![[r#"
        put a 1 => rev 2
        put b 2 => rev 3
        put c 3 => rev 4
        put a 4 => rev 5
        put b 5 => rev 6
        # a: created 2, changed 5; b: 3, 6; c: 4, 4
        get a z min_mod=5 => rev 6 [a=4@2/5/2 b=5@3/6/2] of 3
        get a z max_mod=5 => rev 6 [a=4@2/5/2 c=3@4/4/1] of 3
        get a z min_create=3 max_create=3 => rev 6 [b=5@3/6/2] of 3
        get a z min_mod=5 limit=1 => rev 6 [a=4@2/5/2]+ of 3
        get a z min_mod=6 limit=1 => rev 6 [b=5@3/6/2] of 3
        get a z min_mod=5 max_mod=4 => rev 6 [] of 3
        get c min_mod=5 => rev 6 [] of 1
        get c max_mod=4 => rev 6 [c=3@4/4/1] of 1
        get a z min_mod=-1 => rev 6 [a=4@2/5/2 b=5@3/6/2 c=3@4/4/1] of 3
        get a z max_mod=-1 => rev 6 [] of 3
        get a z min_mod=5 order=2 limit=1 => rev 6 [b=5@3/6/2]+ of 3
    "#]]);
}

#[test]
fn sorts_by_every_target_in_both_directions() {
    check(expect![[r#"
        put a 3 => rev 2
        put b 1 => rev 3
        put c 2 => rev 4
        put b 1 => rev 5
        put b 0 => rev 6
        put a 9 => rev 7
        # a: version 2, created 2, changed 7; b: 3, 3, 6; c: 1, 4, 4
        get a z order=1 => rev 7 [a=9@2/7/2 b=0@3/6/3 c=2@4/4/1] of 3
        get a z order=2 => rev 7 [c=2@4/4/1 b=0@3/6/3 a=9@2/7/2] of 3
        get a z order=1 target=1 => rev 7 [c=2@4/4/1 a=9@2/7/2 b=0@3/6/3] of 3
        get a z order=2 target=1 => rev 7 [b=0@3/6/3 a=9@2/7/2 c=2@4/4/1] of 3
        get a z order=1 target=2 => rev 7 [a=9@2/7/2 b=0@3/6/3 c=2@4/4/1] of 3
        get a z order=2 target=2 => rev 7 [c=2@4/4/1 b=0@3/6/3 a=9@2/7/2] of 3
        get a z order=1 target=3 => rev 7 [c=2@4/4/1 b=0@3/6/3 a=9@2/7/2] of 3
        get a z order=2 target=3 => rev 7 [a=9@2/7/2 b=0@3/6/3 c=2@4/4/1] of 3
        get a z order=1 target=4 => rev 7 [b=0@3/6/3 c=2@4/4/1 a=9@2/7/2] of 3
        get a z order=2 target=4 => rev 7 [a=9@2/7/2 c=2@4/4/1 b=0@3/6/3] of 3
        # a target alone is ascending
        get a z target=4 => rev 7 [b=0@3/6/3 c=2@4/4/1 a=9@2/7/2] of 3
        # the best of all, not of the first
        get a z order=1 target=4 limit=1 => rev 7 [b=0@3/6/3]+ of 3
        get a z order=2 target=3 limit=2 => rev 7 [a=9@2/7/2 b=0@3/6/3]+ of 3
        get a z order=2 limit=1 => rev 7 [c=2@4/4/1]+ of 3
        # ties stay in key order
        put d 2 => rev 8
        get a z order=2 target=4 => rev 8 [a=9@2/7/2 c=2@4/4/1 d=2@8/8/1 b=0@3/6/3] of 4
    "#]]);
}

#[test]
fn a_target_without_a_direction_sorts_only_what_was_fetched() {
    check(expect![[r#"
        put a 4 => rev 2
        put b 3 => rev 3
        put c 2 => rev 4
        put d 1 => rev 5
        # limit 1 fetches a and b, and shows the smaller
        get a z target=4 limit=1 => rev 5 [b=3@3/3/1]+ of 4
        get a z target=4 limit=2 => rev 5 [c=2@4/4/1 b=3@3/3/1]+ of 4
        get a z target=4 limit=4 => rev 5 [d=1@5/5/1 c=2@4/4/1 b=3@3/3/1 a=4@2/2/1] of 4
        # a filter makes it fetch all
        get a z target=4 limit=1 min_mod=1 => rev 5 [d=1@5/5/1]+ of 4
        get a z order=1 target=4 limit=1 => rev 5 [d=1@5/5/1]+ of 4
    "#]]);
}

#[test]
fn unknown_sort_numbers_are_refused() {
    check(expect![[r#"
        get a order=3 => InvalidArgument etcdserver: invalid sort option
        get a target=5 => InvalidArgument etcdserver: invalid sort option
        get a target=-1 => InvalidArgument etcdserver: invalid sort option
        txn then get a order=3 => InvalidArgument etcdserver: invalid sort option
        !txn then get a order=3 => InvalidArgument etcdserver: invalid sort option
        !txn then put b 1 , get a target=9 => InvalidArgument etcdserver: invalid sort option
        get a z count_only => rev 1 [] of 0
    "#]]);
}

#[test]
fn a_stream_shows_one_revision_in_slices() {
    check(expect![[r#"
        stream a z => rev 1 [] of 0
        put k01 1 => rev 2
        put k02 1 => rev 3
        put k03 1 => rev 4
        put k04 1 => rev 5
        put k05 1 => rev 6
        put k06 1 => rev 7
        put k07 1 => rev 8
        put k08 1 => rev 9
        put k09 1 => rev 10
        put k10 1 => rev 11
        stream k l => rev 11 [k01=1@2/2/1 k02=1@3/3/1 k03=1@4/4/1 k04=1@5/5/1 k05=1@6/6/1 k06=1@7/7/1 k07=1@8/8/1 k08=1@9/9/1 k09=1@10/10/1 k10=1@11/11/1] of 10
        put k11 1 => rev 12
        put k12 1 => rev 13
        stream k l => rev 13 [k01=1@2/2/1 k02=1@3/3/1 k03=1@4/4/1 k04=1@5/5/1 k05=1@6/6/1 k06=1@7/7/1 k07=1@8/8/1 k08=1@9/9/1 k09=1@10/10/1 k10=1@11/11/1] of 0 | [k11=1@12/12/1 k12=1@13/13/1] of 12
        stream k l limit=10 => rev 13 [k01=1@2/2/1 k02=1@3/3/1 k03=1@4/4/1 k04=1@5/5/1 k05=1@6/6/1 k06=1@7/7/1 k07=1@8/8/1 k08=1@9/9/1 k09=1@10/10/1 k10=1@11/11/1]+ of 12
        stream k l limit=11 => rev 13 [k01=1@2/2/1 k02=1@3/3/1 k03=1@4/4/1 k04=1@5/5/1 k05=1@6/6/1 k06=1@7/7/1 k07=1@8/8/1 k08=1@9/9/1 k09=1@10/10/1 k10=1@11/11/1] of 0 | [k11=1@12/12/1]+ of 12
        stream k l limit=12 => rev 13 [k01=1@2/2/1 k02=1@3/3/1 k03=1@4/4/1 k04=1@5/5/1 k05=1@6/6/1 k06=1@7/7/1 k07=1@8/8/1 k08=1@9/9/1 k09=1@10/10/1 k10=1@11/11/1] of 0 | [k11=1@12/12/1 k12=1@13/13/1] of 12
        stream k l limit=3 => rev 13 [k01=1@2/2/1 k02=1@3/3/1 k03=1@4/4/1]+ of 12
        stream k l count_only => rev 13 [] of 12
        stream k l keys_only => rev 13 [k01=@2/2/1 k02=@3/3/1 k03=@4/4/1 k04=@5/5/1 k05=@6/6/1 k06=@7/7/1 k07=@8/8/1 k08=@9/9/1 k09=@10/10/1 k10=@11/11/1] of 0 | [k11=@12/12/1 k12=@13/13/1] of 12
        stream k l rev=3 => rev 13 [k01=1@2/2/1 k02=1@3/3/1] of 2
        stream k01 => rev 13 [k01=1@2/2/1] of 1
        stream k12 k => rev 13 [] of 0
        stream k l rev=99 => OutOfRange etcdserver: mvcc: required revision is a future revision
        stream k l order=2 => Unimplemented RangeStream does not support custom sort orders
        stream k l order=1 target=1 => Unimplemented RangeStream does not support custom sort orders
        stream k l min_mod=1 => Unimplemented RangeStream does not support revision filters
    "#]]);
}

/// Feeds a stream's slices, with `between` run after each; returns keys and the last message.
fn stream(
    machine: &mut Machine,
    mut between: impl FnMut(&mut Machine),
) -> Result<(Vec<String>, pb::RangeResponse), Rejection> {
    let request = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let first = RangeStream::first_slice(request);
    let mut stream = RangeStream::new(&first, 1_572_864);
    let mut next = Some(first);
    let mut keys = Vec::new();
    let mut last = pb::RangeResponse::default();
    while let Some(slice) = next {
        let response = machine.read(&Query::RangeSlice(Box::new(slice)), &StatusFacts::default())?;
        last = pb::RangeResponse::decode(&*response.body).unwrap();
        keys.extend(last.kvs.iter().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap()));
        next = stream.on_slice(&response);
        assert_eq!(next.is_none(), last.count != 0, "the last message, and only it, tells the count");
        between(machine);
    }
    Ok((keys, last))
}

#[test]
fn a_stream_is_one_state_though_writes_go_on_and_ends_when_that_is_compacted() {
    let mut machine = machine();
    for n in 0..100 {
        run(&mut machine, &format!("put k{n:03} old"));
    }
    let mut slices = 0;
    let (values, last) = stream(&mut machine, |machine| {
        run(machine, "txn then del k05 k07 , put k0001 new , put k099 new , put k9 new");
        slices += 1;
    })
    .unwrap();
    assert_eq!((values.len(), last.count, last.more), (100, 100, false));
    assert!(values.iter().all(|value| value == "old"), "{values:?}");
    // 10, 20, 40 and the rest.
    assert_eq!(slices, 4);
    let overtaken = stream(&mut machine, |machine| {
        run(machine, "put k0001 newer");
        run(machine, &format!("compact {}", machine.store().current_revision()));
    });
    assert!(matches!(overtaken, Err(Rejection::Compacted { .. })), "{overtaken:?}");
}

#[test]
fn slices_follow_the_size_of_what_was_sent() {
    let slice = RangeStream::first_slice(pb::RangeRequest { key: "k".into(), ..Default::default() });
    let mut stream = RangeStream::new(&slice, 1_000);
    let mut next = |body_bytes: usize| {
        let response = Response { revision: 5, body: vec![0; body_bytes], resume: Some("r".into()) };
        let slice = stream.on_slice(&response).unwrap();
        (slice.keys_max, slice.keys_sent)
    };
    assert_eq!(next(499), (20, 10));
    assert_eq!(next(500), (20, 30));
    assert_eq!(next(2_000), (20, 50));
    assert_eq!(next(2_001), (10, 70));
    for _ in 0..5 {
        next(9_999);
    }
    assert_eq!(next(9_999).0, 1, "never none");
}

/// All of a range's rules once more, told over a list in which nothing is clever.
fn naive(all: &[mvccpb::KeyValue], request: &pb::RangeRequest) -> pb::RangeResponse {
    let range = KeyRange::new(&request.key, &request.range_end);
    let mut kvs: Vec<_> = all.iter().filter(|kv| range.contains(&kv.key)).cloned().collect();
    let count = i64::try_from(kvs.len()).unwrap();
    if request.count_only {
        return pb::RangeResponse { count, ..Default::default() };
    }
    let limit = usize::try_from(request.limit).ok().filter(|&limit| limit != 0);
    let filtered = Filter(request).is_active();
    if request.sort_order == 0 && !filtered {
        kvs.truncate(limit.map_or(usize::MAX, |limit| limit.saturating_add(1)));
    }
    kvs.retain(|kv| request.min_mod_revision == 0 || request.min_mod_revision <= kv.mod_revision);
    kvs.retain(|kv| request.max_mod_revision == 0 || kv.mod_revision <= request.max_mod_revision);
    kvs.retain(|kv| request.min_create_revision == 0 || request.min_create_revision <= kv.create_revision);
    kvs.retain(|kv| request.max_create_revision == 0 || kv.create_revision <= request.max_create_revision);
    match request.sort_target {
        0 => {}
        1 => kvs.sort_by_key(|kv| kv.version),
        2 => kvs.sort_by_key(|kv| kv.create_revision),
        3 => kvs.sort_by_key(|kv| kv.mod_revision),
        _ => kvs.sort_by_key(|kv| kv.value.clone()),
    }
    if request.sort_order == 2 {
        // Stable both ways: ties stay in key order.
        kvs.reverse();
        match request.sort_target {
            0 => {}
            1 => kvs.sort_by(|a, b| b.version.cmp(&a.version).then(a.key.cmp(&b.key))),
            2 => kvs.sort_by(|a, b| b.create_revision.cmp(&a.create_revision).then(a.key.cmp(&b.key))),
            3 => kvs.sort_by(|a, b| b.mod_revision.cmp(&a.mod_revision).then(a.key.cmp(&b.key))),
            _ => kvs.sort_by(|a, b| b.value.cmp(&a.value).then(a.key.cmp(&b.key))),
        }
    }
    let more = limit.is_some_and(|limit| limit < kvs.len());
    kvs.truncate(limit.unwrap_or(usize::MAX));
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| {
            kv.value.clear();
            kv.lease = if request.sort_target == 4 { kv.lease } else { 0 };
        });
    }
    pb::RangeResponse { header: None, kvs, more, count }
}

#[test]
fn random_ranges_over_many_keys_agree_with_a_plain_list() {
    let seed: u64 = std::env::var_os("PINION_SEED").map_or(5, |seed| seed.to_str().unwrap().parse().unwrap());
    println!("replay with PINION_SEED={seed} cargo test --lib random_ranges_over_many_keys");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Store::new();
    for _ in 0..9_000 {
        let key = format!("{:04}", rng.random_range(0..5_000));
        let mut txn = store.begin();
        // Past the requests, for the leases that none of them can name yet.
        txn.put(key.as_bytes(), format!("{}", rng.random_range(0..50)).as_bytes(), rng.random_range(0..3));
        txn.commit();
    }
    let all: Vec<_> = store
        .scan(KeyRange::From(b""), store.current_revision())
        .map(|kv| mvccpb::KeyValue {
            key: Bytes::copy_from_slice(kv.key),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: Bytes::copy_from_slice(kv.value),
            lease: kv.lease,
        })
        .collect();
    for round in 0..300 {
        let key = |rng: &mut StdRng| Bytes::from(format!("{:04}", rng.random_range(0..5_000)));
        let bound = |rng: &mut StdRng| {
            if rng.random_range(0..4) == 0 { rng.random_range(1..9_000) } else { 0 }
        };
        let request = pb::RangeRequest {
            key: key(&mut rng),
            range_end: [Bytes::from_static(b"\0"), key(&mut rng), Bytes::new()][rng.random_range(0..3)]
                .clone(),
            limit: [0, 1, 2, 10, 100, 600, i64::MAX][rng.random_range(0..7)],
            sort_order: rng.random_range(0..3),
            sort_target: rng.random_range(0..5),
            keys_only: rng.random(),
            count_only: rng.random_range(0..10) == 0,
            min_mod_revision: bound(&mut rng),
            max_mod_revision: bound(&mut rng),
            min_create_revision: bound(&mut rng),
            max_create_revision: bound(&mut rng),
            ..Default::default()
        };
        let answered = answer(&store, &request).unwrap();
        assert!(answered.body.len() == answered.body.capacity(), "of the exact size");
        let expected = naive(&all, &request);
        assert!(expected.encode_to_vec() == answered.body, "round {round}: {request:?}");
    }
}

#[test]
fn a_scan_of_more_than_a_message_can_carry_stops_on_its_way() {
    let value = vec![b'v'; 1 << 20];
    let kv = KeyValueRef {
        key: b"k",
        value: &value,
        create_revision: 1,
        mod_revision: 1,
        sub: 0,
        version: 1,
        lease: 0,
        mark: crate::mvcc::Mark::default(),
    };
    let mut scanned = 0;
    let endless = std::iter::repeat_with(|| {
        scanned += 1;
        kv
    });
    let refused = first(endless, usize::MAX, Shown::ALL);
    assert!(matches!(refused, Err(Rejection::AnswerTooLarge { .. })), "{:?}", refused.map(|kvs| kvs.len()));
    assert_eq!(scanned, 2_049, "2047 fit, the next goes too far, one more tells so");
}
