use expect_test::expect;

use super::*;
use crate::apply::script::{check, machine, run};
use crate::apply::{Applied, StatusFacts};
use crate::request::Query;

#[test]
fn each_action_answers_as_etcd_does() {
    check(expect![[r#"
        alarm get all => rev 1 []
        alarm on space 7 => rev 1 [1:7]
        alarm on corrupt 9 => rev 1 [2:9]
        alarm on corrupt 0 => rev 1 [2:0]
        # again
        alarm on space 7 => rev 1 [1:7]
        alarm get all => rev 1 [1:7 2:0 2:9]
        alarm get space => rev 1 [1:7]
        alarm get corrupt => rev 1 [2:0 2:9]
        alarm get 77 => rev 1 []
        # nothing to raise, nothing to lift
        alarm on all 7 => rev 1 []
        alarm off all 7 => rev 1 []
        alarm off space 9 => rev 1 []
        alarm off 77 9 => rev 1 []
        alarm off corrupt 9 => rev 1 [2:9]
        alarm off corrupt 9 => rev 1 []
        alarm get all => rev 1 [1:7 2:0]
        # these end an etcd
        alarm on 3 7 => InvalidArgument etcdserver: unknown alarm 3
        alarm on -1 7 => InvalidArgument etcdserver: unknown alarm -1
        alarm 3 space 7 => InvalidArgument etcdserver: unknown alarm action 3
        alarm get all => rev 1 [1:7 2:0]
    "#]]);
}

#[test]
fn corrupt_refuses_every_change_and_no_read_and_nothing_expires() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        put a 1 lease=1 => rev 2
        put b 1 => rev 3
        alarm on corrupt 7 => rev 3 [2:7]
        put a 2 => DataLoss etcdserver: corrupt cluster
        put a 2 lease=99 => DataLoss etcdserver: corrupt cluster
        del a => DataLoss etcdserver: corrupt cluster
        del nothing => DataLoss etcdserver: corrupt cluster
        txn then put a 2 => DataLoss etcdserver: corrupt cluster
        txn then ( txn ) => DataLoss etcdserver: corrupt cluster
        compact 2 => DataLoss etcdserver: corrupt cluster
        grant 2 60 => DataLoss etcdserver: corrupt cluster
        revoke 1 => DataLoss etcdserver: corrupt cluster
        revoke 99 => DataLoss etcdserver: corrupt cluster
        expire 1 => rev 3
        leases => 1:60[a]
        # noting what a lease has left goes on, and so does reading
        note 1=30 => rev 3
        leases => 1:30/60[a]
        get \0 \0 => rev 3 [a=1@2/2/1~1 b=1@3/3/1] of 2
        txn if version a > 0 then get a => rev 3 then {get rev 3 [a=1@2/2/1~1] of 1}
        hash => rev 3 hash 3 compacted -1
        alarm off corrupt 8 => rev 3 []
        put a 2 => DataLoss etcdserver: corrupt cluster
        alarm off corrupt 7 => rev 3 [2:7]
        put a 2 lease=1 => rev 4
        expire 1 => rev 5
        get a => rev 5 [] of 0
    "#]]);
}

#[test]
fn lack_of_space_refuses_what_adds_and_nothing_that_frees() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        put a 1 lease=1 => rev 2
        put b 1 => rev 3
        alarm on space 7 => rev 3 [1:7]
        put a 2 => ResourceExhausted etcdserver: mvcc: database space exceeded
        grant 2 60 => ResourceExhausted etcdserver: mvcc: database space exceeded
        txn then put a 2 => ResourceExhausted etcdserver: mvcc: database space exceeded
        # even where the put is not on the path that is taken, or deeper
        txn if version a = 9 then put a 2 else del a => ResourceExhausted etcdserver: mvcc: database space exceeded
        txn then ( txn then ( txn then put a 2 ) ) => ResourceExhausted etcdserver: mvcc: database space exceeded
        txn then del b , get a => rev 4 then {del rev 4 deleted 1; get rev 4 [a=1@2/2/1~1] of 1}
        txn then ( txn then del b ) => rev 4 then {txn then {del rev 4 deleted 0}}
        del b => rev 4 deleted 0
        compact 2 => rev 4
        note 1=30 => rev 4
        expire 1 => rev 5
        get \0 \0 => rev 5 [] of 0
        # corrupt is said first
        alarm on corrupt 7 => rev 5 [2:7]
        put a 2 => DataLoss etcdserver: corrupt cluster
        alarm off corrupt 7 => rev 5 [2:7]
        put a 2 => ResourceExhausted etcdserver: mvcc: database space exceeded
        alarm off space 7 => rev 5 [1:7]
        put a 2 => rev 6
    "#]]);
}

#[test]
fn status_tells_alarms_in_etcds_words_behind_the_members_own_trouble() {
    let mut machine = machine();
    for line in ["alarm on corrupt 10276657743932975437", "alarm on space 0", "alarm on corrupt 0"] {
        run(&mut machine, line);
    }
    let facts = StatusFacts { errors: vec!["etcdserver: no leader".into()], ..StatusFacts::default() };
    let status = machine.read(&Query::Status, &facts).unwrap();
    let status = pb::StatusResponse::decode(&*status.body).unwrap();
    let told = [
        "etcdserver: no leader",
        "alarm:NOSPACE",
        "alarm:CORRUPT",
        "memberID:10276657743932975437 alarm:CORRUPT",
    ];
    assert_eq!(status.errors, told);
}

#[test]
fn a_client_that_raises_alarms_without_an_end_is_refused_and_the_rest_stays() {
    let mut machine = machine();
    for member in 0..ALARMS_MAX as u64 {
        let alarm = Alarm { kind: AlarmType::Corrupt, member: MemberId(member) };
        assert!(machine.alarms.activate(alarm));
    }
    assert_eq!(
        run(&mut machine, "alarm on space 7"),
        "ResourceExhausted etcdserver: 1024 alarms are active already"
    );
    assert!(run(&mut machine, "alarm on corrupt 7").ends_with("[2:7]"), "that one is there already");
    assert!(!machine.alarms().lacks_space());
    assert!(run(&mut machine, "alarm off corrupt 8").ends_with("[2:8]"));
    assert!(run(&mut machine, "alarm on space 7").ends_with("[1:7]"));
}

#[test]
fn a_request_that_does_not_decode_is_refused_alike_whatever_the_alarms() {
    let mut machine = machine();
    let garbage = crate::apply::script::request(RequestKind::Alarm, &b"\xff\xff\xff"[..]);
    let answer = machine.apply(&garbage, crate::apply::script::AT);
    assert!(matches!(answer, Applied::Now(Err(Rejection::Undecodable(_)))), "{answer:?}");
    run(&mut machine, "alarm on corrupt 7");
    let garbage = crate::apply::script::request(RequestKind::Put, &b"\xff\xff\xff"[..]);
    assert_eq!(machine.apply(&garbage, crate::apply::script::AT), Applied::Now(Err(Rejection::Corrupt)));
}
