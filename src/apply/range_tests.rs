use expect_test::expect;

use crate::apply::script::check;

#[test]
fn ranges_name_keys_as_etcd_does() {
    check(expect![[r#"
        put a 1
        put b 2
        put c 3
        put \0 z
        # one key, a half-open range, to the end, everything
        get b
        get nothing
        get a c
        get b \0
        get \0 \0
        # upside down and empty ranges are no error
        get c a
        get b b
        get a \0\0
        get \0 \0\0
        get ""
        get "" \0
    "#]]);
}

#[test]
fn reads_of_the_past_show_it_under_a_header_of_now() {
    check(expect![[r#"
        get a rev=1
        get a rev=2
        put a 1
        put a 2
        del a
        put a 3
        get a
        get a rev=2
        get a rev=3
        get a rev=4
        get a rev=5
        get a rev=6
        # anything up to zero is now
        get a rev=-7
        compact 3
        get a rev=2
        get a rev=3
        work
        get a rev=2
        get a rev=3
        get a rev=4
        # the future is told before the past
        get a rev=7
    "#]]);
}

#[test]
fn limit_cuts_and_count_does_not_care() {
    check(expect![[r#"
        put a 1
        put b 2
        put c 3
        put d 4
        get a z limit=2
        get a z limit=4
        get a z limit=5
        get a z limit=9223372036854775807
        get a z limit=-1
        get a limit=1
        get a z limit=1 count_only
        get a count_only
        get a z count_only max_mod=3
        get a z limit=1 rev=3
        get x z limit=1
    "#]]);
}

#[test]
fn keys_only_leaves_out_values_but_sorts_by_them() {
    check(expect![[r#"
        put a 3
        put b 2
        put c 1
        get a z keys_only
        get a keys_only
        get a z keys_only order=1 target=4
    "#]]);
}

#[test]
fn filters_come_before_limit_and_not_into_count() {
    check(expect![[r#"
        put a 1
        put b 2
        put c 3
        put a 4
        put b 5
        # a: created 2, changed 5; b: 3, 6; c: 4, 4
        get a z min_mod=5
        get a z max_mod=5
        get a z min_create=3 max_create=3
        get a z min_mod=5 limit=1
        get a z min_mod=6 limit=1
        get a z min_mod=5 max_mod=4
        get c min_mod=5
        get c max_mod=4
        get a z min_mod=-1
        get a z max_mod=-1
        get a z min_mod=5 order=2 limit=1
    "#]]);
}

#[test]
fn sorts_by_every_target_in_both_directions() {
    check(expect![[r#"
        put a 3
        put b 1
        put c 2
        put b 1
        put b 0
        put a 9
        # a: version 2, created 2, changed 7; b: 3, 3, 6; c: 1, 4, 4
        get a z order=1
        get a z order=2
        get a z order=1 target=1
        get a z order=2 target=1
        get a z order=1 target=2
        get a z order=2 target=2
        get a z order=1 target=3
        get a z order=2 target=3
        get a z order=1 target=4
        get a z order=2 target=4
        # a target alone is ascending
        get a z target=4
        # the best of all, not of the first
        get a z order=1 target=4 limit=1
        get a z order=2 target=3 limit=2
        get a z order=2 limit=1
        # ties stay in key order
        put d 2
        get a z order=2 target=4
    "#]]);
}

#[test]
fn a_target_without_a_direction_sorts_only_what_was_fetched() {
    check(expect![[r#"
        put a 4
        put b 3
        put c 2
        put d 1
        # limit 1 fetches a and b, and shows the smaller
        get a z target=4 limit=1
        get a z target=4 limit=2
        get a z target=4 limit=4
        # a filter makes it fetch all
        get a z target=4 limit=1 min_mod=1
        get a z order=1 target=4 limit=1
    "#]]);
}

#[test]
fn unknown_sort_numbers_are_refused() {
    check(expect![[r#"
        get a order=3
        get a target=5
        get a target=-1
        txn then get a order=3
        !txn then get a order=3
        !txn then put b 1 , get a target=9
        get a z count_only
    "#]]);
}

#[test]
fn a_stream_shows_one_revision_in_slices() {
    check(expect![[r#"
        stream a z
        put k01 1
        put k02 1
        put k03 1
        put k04 1
        put k05 1
        put k06 1
        put k07 1
        put k08 1
        put k09 1
        put k10 1
        stream k l
        put k11 1
        put k12 1
        stream k l
        stream k l limit=10
        stream k l limit=11
        stream k l limit=12
        stream k l limit=3
        stream k l count_only
        stream k l keys_only
        stream k l rev=3
        stream k01
        stream k12 k
        stream k l rev=99
        stream k l order=2
        stream k l order=1 target=1
        stream k l min_mod=1
    "#]]);
}
