use expect_test::expect;

use crate::apply::script::check;

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
