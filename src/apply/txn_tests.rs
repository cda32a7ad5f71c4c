use expect_test::expect;

use crate::apply::script::check;

#[test]
fn a_transaction_takes_one_branch_and_tells_which() {
    check(expect![[r#"
        txn
        txn then put a 1 else put b 1
        txn if value a = 1 then put a 2 else put b 2
        txn if value a = 1 then put a 3 else put b 3
        get a c
        # comparisons are all to hold
        txn if value a = 2 , value b = 3 then get a
        txn if value a = 2 , value b = 4 then get a else get b
    "#]]);
}

#[test]
fn a_missing_key_compares_as_zeros_but_never_by_value() {
    check(expect![[r#"
        txn if version x = 0
        txn if create x = 0 , mod x = 0 , lease x = 0
        txn if version x > 0
        txn if version x != 0
        txn if version x < 1
        txn if value x = ""
        txn if value x != 1
        txn if value x < 1
        txn if value x > ""
    "#]]);
}

#[test]
fn comparisons_read_the_field_they_name() {
    check(expect![[r#"
        put a m
        put b 1
        put a n
        txn if version a = 2 , create a = 2 , mod a = 4 , value a = n , lease a = 0
        txn if version a > 1 , version a < 3 , version a != 1
        txn if value a > m , value a < nn , value a > "" , value a != m
        txn if mod a > 4
        txn if mod a < 4
        txn if mod a != 4
        # an operand for another target, or none, is zero or empty
        txn if version a = 2:2
        txn if version a > 2:2
        txn if mod a > none , value a > none
        txn if value a = 0:2
        # unknown results hold; unknown targets compare as equal
        txn if version a 7 99
        txn if 9 a = none
        txn if 9 a != none
        txn if 9 a > none
        txn if 9 a 7 none
        txn if 9 nokey = none
    "#]]);
}

#[test]
fn a_range_comparison_holds_for_every_key_or_for_none_there() {
    check(expect![[r#"
        put a1 x
        put a2 x
        put a3 y
        txn if value a1..a3 = x
        txn if value a1..a4 = x
        txn if create a1..\0 > 1
        txn if version a..b = 1
        txn if version q..z = 0
        txn if version q..z = 1
        txn if value q..z = ""
        txn if version a3..a1 = 0
    "#]]);
}

#[test]
fn comparisons_see_the_state_before_nested_ones_too() {
    check(expect![[r#"
        put a 1
        txn then put a 2 , ( txn if value a = 1 then get a else get b )
        txn then ( txn if value a = 2 then put n 1 ) , ( txn if version n = 0 then put m 1 else put o 1 )
        txn if value a = 1 then put z 1 else ( txn if value a = 2 then ( txn if value a = 9 then get a else get n ) )
    "#]]);
}

#[test]
fn operations_see_the_ones_before_and_share_one_revision() {
    check(expect![[r#"
        put a 1
        txn then get b , put b 1 , get b , put c 1 , get a z count_only , del a , get a z
        get a z
        # headers: what changed nothing yet tells the revision before
        txn then del nope , get a , put d 1 , del nope , get a
        txn then del nope , del nope2
        txn then del b , del b , get b
        # later writes of one key, where the duplicate check is blind
        txn then put d5 1 , del d \0 , get d z
        txn then del d \0 , put d5 1 , get d5
        txn then ( txn then put k 1 ) , ( txn then del k prev ) , get k
        get \0 \0
    "#]]);
}

#[test]
fn ranges_in_a_transaction_read_the_past_but_not_its_own_future() {
    check(expect![[r#"
        # nothing compacted: the oldest revision is -1
        txn then get a rev=-1
        txn then get a rev=-2
        put a 1
        put a 2
        txn then put a 3 , get a , get a rev=2 , get a rev=3
        # the revision it is about to make
        txn then put a 4 , get a rev=5
        txn then put a 4 , get a rev=6
        compact 3
        txn then put a 4 , get a rev=2
        txn then get a rev=2
        txn then get a rev=3
        txn then get a rev=-1
        txn then get a rev=0
        # only on the path that is taken
        txn then get a else get a rev=2
        txn then put b 1 else get a rev=99
        get a z
    "#]]);
}

#[test]
fn what_can_be_refused_is_refused_before_anything_is_written() {
    check(expect![[r#"
        put a 1
        txn then put b 1 , put c 1 lease=7
        txn then put b 1 , put c "" ignore_value
        txn then put b 1 , put c 1 ignore_lease
        txn then put b 1 , ( txn then put c 1 lease=7 )
        # puts before ranges, the key before the lease
        txn then get a rev=99 , put c 1 lease=7
        txn then put c "" lease=7 ignore_value
        # the state before decides, not the one on the way
        txn then put b 1 , put a "" ignore_value
        txn then ( txn then put c 1 ) , ( txn if version a = 0 then nothing )
        txn if version a = 0 then put c 1 lease=7 else put e 1
        get a z
    "#]]);
}

#[test]
fn a_transaction_that_fails_on_its_way_leaves_nothing() {
    check(expect![[r#"
        put d1 1
        put d2 2
        # etcd panics here: the key is there before, and gone when it is needed
        txn then put a 1 , del d \0 , ( txn then put d1 "" ignore_value )
        txn then put a 1 , del d \0 , put d2 2 ignore_lease
        get a z
        !txn then put a 1 , put "" 1
        !txn then put a 1 , del ""
        !txn then put a 1 , nothing
        get a z
        put d1 2
    "#]]);
}

#[test]
fn nested_transactions_answer_in_place() {
    check(expect![[r#"
        txn then ( txn )
        txn then ( txn then ( txn then get a ) , get b ) , get c
        txn then put a 1 , ( txn if version a = 0 then put b 1 , ( txn if version a = 1 then get a else put c 1 prev ) , get a z ) , del a z prev
    "#]]);
}

#[test]
fn shape_is_refused_in_etcds_order() {
    check(expect![[r#"
        txn then nothing
        txn if version "" = 0
        txn if version "" = 0 then nothing
        txn then nothing , put "" 1
        txn then put a 1 , put a 1 , get ""
        txn then put a 1 , put a 1
        txn then put a 1 else put a 2
        txn then put a "1" ignore_value
        txn then put a "" lease=1 ignore_lease
    "#]]);
}
