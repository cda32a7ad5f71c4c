use expect_test::expect;

use crate::apply::script::check;

#[test]
fn a_transaction_takes_one_branch_and_tells_which() {
    check(expect![[r#"
        txn => rev 1 then {}
        txn then put a 1 else put b 1 => rev 2 then {put rev 2}
        txn if value a = 1 then put a 2 else put b 2 => rev 3 then {put rev 3}
        txn if value a = 1 then put a 3 else put b 3 => rev 4 else {put rev 4}
        get a c => rev 4 [a=2@2/3/2 b=3@4/4/1] of 2
        # comparisons are all to hold
        txn if value a = 2 , value b = 3 then get a => rev 4 then {get rev 4 [a=2@2/3/2] of 1}
        txn if value a = 2 , value b = 4 then get a else get b => rev 4 else {get rev 4 [b=3@4/4/1] of 1}
    "#]]);
}

#[test]
fn a_missing_key_compares_as_zeros_but_never_by_value() {
    check(expect![[r#"
        txn if version x = 0 => rev 1 then {}
        txn if create x = 0 , mod x = 0 , lease x = 0 => rev 1 then {}
        txn if version x > 0 => rev 1 else {}
        txn if version x != 0 => rev 1 else {}
        txn if version x < 1 => rev 1 then {}
        txn if value x = "" => rev 1 else {}
        txn if value x != 1 => rev 1 else {}
        txn if value x < 1 => rev 1 else {}
        txn if value x > "" => rev 1 else {}
    "#]]);
}

#[test]
fn comparisons_read_the_field_they_name() {
    check(expect![[r#"
        put a m => rev 2
        put b 1 => rev 3
        put a n => rev 4
        txn if version a = 2 , create a = 2 , mod a = 4 , value a = n , lease a = 0 => rev 4 then {}
        txn if version a > 1 , version a < 3 , version a != 1 => rev 4 then {}
        txn if value a > m , value a < nn , value a > "" , value a != m => rev 4 then {}
        txn if mod a > 4 => rev 4 else {}
        txn if mod a < 4 => rev 4 else {}
        txn if mod a != 4 => rev 4 else {}
        # an operand for another target, or none, is zero or empty
        txn if version a = 2:2 => rev 4 else {}
        txn if version a > 2:2 => rev 4 then {}
        txn if mod a > none , value a > none => rev 4 then {}
        txn if value a = 0:2 => rev 4 else {}
        # unknown results hold; unknown targets compare as equal
        txn if version a 7 99 => rev 4 then {}
        txn if 9 a = none => rev 4 then {}
        txn if 9 a != none => rev 4 else {}
        txn if 9 a > none => rev 4 else {}
        txn if 9 a 7 none => rev 4 then {}
        txn if 9 nokey = none => rev 4 then {}
    "#]]);
}

#[test]
fn a_range_comparison_holds_for_every_key_or_for_none_there() {
    check(expect![[r#"
        put a1 x => rev 2
        put a2 x => rev 3
        put a3 y => rev 4
        txn if value a1..a3 = x => rev 4 then {}
        txn if value a1..a4 = x => rev 4 else {}
        txn if create a1..\0 > 1 => rev 4 then {}
        txn if version a..b = 1 => rev 4 then {}
        txn if version q..z = 0 => rev 4 then {}
        txn if version q..z = 1 => rev 4 else {}
        txn if value q..z = "" => rev 4 else {}
        txn if version a3..a1 = 0 => rev 4 then {}
    "#]]);
}

#[test]
fn comparisons_see_the_state_before_nested_ones_too() {
    check(expect![[r#"
        put a 1 => rev 2
        txn then put a 2 , ( txn if value a = 1 then get a else get b ) => rev 3 then {put rev 3; txn then {get rev 3 [a=2@2/3/2] of 1}}
        txn then ( txn if value a = 2 then put n 1 ) , ( txn if version n = 0 then put m 1 else put o 1 ) => rev 4 then {txn then {put rev 4}; txn then {put rev 4}}
        txn if value a = 1 then put z 1 else ( txn if value a = 2 then ( txn if value a = 9 then get a else get n ) ) => rev 4 else {txn then {txn else {get rev 4 [n=1@4/4/1] of 1}}}
    "#]]);
}

#[test]
fn operations_see_the_ones_before_and_share_one_revision() {
    check(expect![[r#"
        put a 1 => rev 2
        txn then get b , put b 1 , get b , put c 1 , get a z count_only , del a , get a z => rev 3 then {get rev 2 [] of 0; put rev 3; get rev 3 [b=1@3/3/1] of 1; put rev 3; get rev 3 [] of 3; del rev 3 deleted 1; get rev 3 [b=1@3/3/1 c=1@3/3/1] of 2}
        get a z => rev 3 [b=1@3/3/1 c=1@3/3/1] of 2
        # headers: what changed nothing yet tells the revision before
        txn then del nope , get a , put d 1 , del nope , get a => rev 4 then {del rev 3 deleted 0; get rev 3 [] of 0; put rev 4; del rev 4 deleted 0; get rev 4 [] of 0}
        txn then del nope , del nope2 => rev 4 then {del rev 4 deleted 0; del rev 4 deleted 0}
        txn then del b , del b , get b => rev 5 then {del rev 5 deleted 1; del rev 5 deleted 0; get rev 5 [] of 0}
        # later writes of one key, where the duplicate check is blind
        txn then put d5 1 , del d \0 , get d z => rev 6 then {put rev 6; del rev 6 deleted 2; get rev 6 [] of 0}
        txn then del d \0 , put d5 1 , get d5 => rev 7 then {del rev 6 deleted 0; put rev 7; get rev 7 [d5=1@7/7/1] of 1}
        txn then ( txn then put k 1 ) , ( txn then del k prev ) , get k => rev 8 then {txn then {put rev 8}; txn then {del rev 8 deleted 1 [k=1@8/8/1]}; get rev 8 [] of 0}
        get \0 \0 => rev 8 [c=1@3/3/1 d5=1@7/7/1] of 2
    "#]]);
}

#[test]
fn ranges_in_a_transaction_read_the_past_but_not_its_own_future() {
    check(expect![[r#"
        # nothing compacted: the oldest revision is -1
        txn then get a rev=-1 => rev 1 then {get rev 1 [] of 0}
        txn then get a rev=-2 => OutOfRange etcdserver: mvcc: required revision has been compacted
        put a 1 => rev 2
        put a 2 => rev 3
        txn then put a 3 , get a , get a rev=2 , get a rev=3 => rev 4 then {put rev 4; get rev 4 [a=3@2/4/3] of 1; get rev 4 [a=1@2/2/1] of 1; get rev 4 [a=2@2/3/2] of 1}
        # the revision it is about to make
        txn then put a 4 , get a rev=5 => OutOfRange etcdserver: mvcc: required revision is a future revision
        txn then put a 4 , get a rev=6 => OutOfRange etcdserver: mvcc: required revision is a future revision
        compact 3 => rev 4
        txn then put a 4 , get a rev=2 => OutOfRange etcdserver: mvcc: required revision has been compacted
        txn then get a rev=2 => OutOfRange etcdserver: mvcc: required revision has been compacted
        txn then get a rev=3 => rev 4 then {get rev 4 [a=2@2/3/2] of 1}
        txn then get a rev=-1 => OutOfRange etcdserver: mvcc: required revision has been compacted
        txn then get a rev=0 => rev 4 then {get rev 4 [a=3@2/4/3] of 1}
        # only on the path that is taken
        txn then get a else get a rev=2 => rev 4 then {get rev 4 [a=3@2/4/3] of 1}
        txn then put b 1 else get a rev=99 => rev 5 then {put rev 5}
        get a z => rev 5 [a=3@2/4/3 b=1@5/5/1] of 2
    "#]]);
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_written() {
    check(expect![[r#"
        put a 1 => rev 2
        txn then put b 1 , put c 1 lease=7 => NotFound etcdserver: requested lease not found
        txn then put b 1 , put c "" ignore_value => InvalidArgument etcdserver: key not found
        txn then put b 1 , put c 1 ignore_lease => InvalidArgument etcdserver: key not found
        txn then put b 1 , ( txn then put c 1 lease=7 ) => NotFound etcdserver: requested lease not found
        # puts before ranges, the key before the lease
        txn then get a rev=99 , put c 1 lease=7 => NotFound etcdserver: requested lease not found
        txn then put c "" lease=7 ignore_value => InvalidArgument etcdserver: key not found
        # the state before decides, not the one on the way
        txn then put b 1 , put a "" ignore_value => rev 3 then {put rev 3; put rev 3}
        txn then ( txn then put c 1 ) , ( txn if version a = 0 then nothing ) => InvalidArgument etcdserver: key not found
        txn if version a = 0 then put c 1 lease=7 else put e 1 => rev 4 else {put rev 4}
        get a z => rev 4 [a=1@2/3/2 b=1@3/3/1 e=1@4/4/1] of 3
    "#]]);
}

#[test]
fn a_transaction_that_fails_on_its_way_leaves_nothing() {
    check(expect![[r#"
        put d1 1 => rev 2
        put d2 2 => rev 3
        # etcd panics here: the key is there before, and gone when it is needed
        txn then put a 1 , del d \0 , ( txn then put d1 "" ignore_value ) => InvalidArgument etcdserver: key not found
        txn then put a 1 , del d \0 , put d2 2 ignore_lease => InvalidArgument etcdserver: key not found
        get a z => rev 3 [d1=1@2/2/1 d2=2@3/3/1] of 2
        !txn then put a 1 , put "" 1 => InvalidArgument etcdserver: key is not provided
        !txn then put a 1 , del "" => InvalidArgument etcdserver: key is not provided
        !txn then put a 1 , nothing => InvalidArgument etcdserver: key not found
        get a z => rev 3 [d1=1@2/2/1 d2=2@3/3/1] of 2
        put d1 2 => rev 4
    "#]]);
}

#[test]
fn nested_transactions_answer_in_place() {
    check(expect![[r#"
        txn then ( txn ) => rev 1 then {txn then {}}
        txn then ( txn then ( txn then get a ) , get b ) , get c => rev 1 then {txn then {txn then {get rev 1 [] of 0}; get rev 1 [] of 0}; get rev 1 [] of 0}
        txn then put a 1 , ( txn if version a = 0 then put b 1 , ( txn if version a = 1 then get a else put c 1 prev ) , get a z ) , del a z prev => InvalidArgument etcdserver: duplicate key given in txn request
    "#]]);
}

#[test]
fn shape_is_refused_in_etcds_order() {
    check(expect![[r#"
        txn then nothing => InvalidArgument etcdserver: key not found
        txn if version "" = 0 => InvalidArgument etcdserver: key is not provided
        txn if version "" = 0 then nothing => InvalidArgument etcdserver: key is not provided
        txn then nothing , put "" 1 => InvalidArgument etcdserver: key not found
        txn then put a 1 , put a 1 , get "" => InvalidArgument etcdserver: key is not provided
        txn then put a 1 , put a 1 => InvalidArgument etcdserver: duplicate key given in txn request
        txn then put a 1 else put a 2 => rev 2 then {put rev 2}
        txn then put a "1" ignore_value => InvalidArgument etcdserver: value is provided
        txn then put a "" lease=1 ignore_lease => InvalidArgument etcdserver: lease is provided
    "#]]);
}
