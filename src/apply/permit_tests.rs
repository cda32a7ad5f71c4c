use expect_test::expect;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::script::{check, machine, run};

#[test]
fn keys_need_what_is_done_to_them() {
    check(expect![[r#"
        level 2 => rev 0
        put a 1 => rev 2
        put b 2 => rev 3
        put z 9 => rev 4
        user add root => rev 4
        user grant root root => rev 4
        user add alice => rev 4
        role add r => rev 4
        role grant r read a m => rev 4
        role grant r write b => rev 4
        user grant alice r => rev 4
        auth on => rev 4
        get a => InvalidArgument etcdserver: user name is empty
        put a 2 => InvalidArgument etcdserver: user name is empty
        as alice get a => rev 4 [a=1@2/2/1] of 1
        as alice get a m => rev 4 [a=1@2/2/1 b=2@3/3/1] of 2
        as alice get a n => PermissionDenied etcdserver: permission denied
        as alice get \0 \0 => PermissionDenied etcdserver: permission denied
        as alice put a 2 => PermissionDenied etcdserver: permission denied
        as alice put b 2 => rev 5
        as alice put b 2 prev => rev 6 was b=2@3/5/2
        as alice del b => rev 7 deleted 1
        as alice del a c => PermissionDenied etcdserver: permission denied
        as root put z 1 prev => rev 8 was z=9@4/4/1
        as root get \0 \0 => rev 8 [a=1@2/2/1 z=1@4/8/2] of 2
        as eve get a => PermissionDenied etcdserver: permission denied
        as alice@1 get a => InvalidArgument etcdserver: revision of auth store is old
        as alice@99 get a => rev 8 [a=1@2/2/1] of 1
        as alice hash => PermissionDenied etcdserver: permission denied
        as root hash => rev 8 hash 8 compacted -1
        as alice compact 2 => PermissionDenied etcdserver: permission denied
        as root compact 2 => rev 8
        compact 3 => InvalidArgument etcdserver: user name is empty
        as member compact 3 => rev 8
        as alice alarm on space 7 => PermissionDenied etcdserver: permission denied
        as member alarm on space 7 => rev 8 [1:7]
        alarm off space 7 => InvalidArgument etcdserver: user name is empty
        as root alarm off space 7 => rev 8 [1:7]
    "#]]);
}

#[test]
fn users_and_roles_are_seen_by_those_who_have_them_and_changed_by_root() {
    check(expect![[r#"
        level 2 => rev 0
        user add root => rev 1
        user grant root root => rev 1
        user add alice => rev 1
        user add bob => rev 1
        role add r => rev 1
        role add q => rev 1
        user grant alice r => rev 1
        auth on => rev 1
        user list => InvalidArgument etcdserver: user name is empty
        as alice user list => PermissionDenied etcdserver: permission denied
        as alice role list => PermissionDenied etcdserver: permission denied
        as alice user get alice => rev 1 r
        as alice user get bob => PermissionDenied etcdserver: permission denied
        as alice role get r => rev 1
        as alice role get q => PermissionDenied etcdserver: permission denied
        as bob role get r => PermissionDenied etcdserver: permission denied
        as root user get bob => rev 1
        as eve user get eve => FailedPrecondition etcdserver: user name not found
        as eve role get r => PermissionDenied etcdserver: permission denied
        as alice user add eve => PermissionDenied etcdserver: permission denied
        as alice auth off => PermissionDenied etcdserver: permission denied
        as alice permit login => rev 1 yes
        permit login => InvalidArgument etcdserver: user name is empty
        as alice permit admin => PermissionDenied etcdserver: permission denied
        as root permit admin => rev 1 yes
        as alice permit read a => PermissionDenied etcdserver: permission denied
        auth status => rev 1 on at 8
    "#]]);
}

#[test]
fn a_lease_is_guarded_by_its_keys() {
    check(expect![[r#"
        level 2 => rev 0
        grant 1 60 => rev 1 lease 1 for 60 s
        put a 1 lease=1 => rev 2
        put z 1 lease=1 => rev 3
        user add root => rev 3
        user grant root root => rev 3
        user add alice => rev 3
        role add r => rev 3
        role grant r both a m => rev 3
        user grant alice r => rev 3
        auth on => rev 3
        grant 2 60 => InvalidArgument etcdserver: user name is empty
        as alice grant 2 60 => rev 3 lease 2 for 60 s
        as alice put b 1 lease=1 => PermissionDenied etcdserver: permission denied
        as alice put b 1 lease=2 => rev 4
        as alice revoke 1 => PermissionDenied etcdserver: permission denied
        revoke 2 => InvalidArgument etcdserver: user name is empty
        as alice revoke 2 => rev 5
        as root revoke 1 => rev 6
    "#]]);
}

/// A transaction is allowed if and only if each of its leaves is allowed alone, by the user's permissions.
#[test]
fn a_transaction_is_allowed_if_and_only_if_each_leaf_is() {
    let mut machine = machine();
    for line in [
        "level 2",
        "put a 1",
        "put b 1",
        "put c 1",
        "user add root",
        "user grant root root",
        "user add alice",
        "role add r",
        "role grant r read a c",
        "role grant r write b d",
        "user grant alice r",
        "auth on",
    ] {
        let told = run(&mut machine, line);
        assert!(told.starts_with("rev "), "{line}: {told}");
    }
    let mut allowed = 0;
    for seed in 0..3_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut leaves = Vec::new();
        let txn = tree(&mut random, 3, &mut leaves);
        let line = format!("as alice txn {txn}");
        let alone =
            leaves.iter().all(|leaf| !run(&mut machine, &format!("as alice {leaf}")).contains("denied"));
        let told = run(&mut machine, &line);
        assert_eq!(!told.contains("denied"), alone, "seed {seed}: {line}: {told}");
        allowed += u32::from(alone);
    }
    assert!((300..2_700).contains(&allowed), "{allowed} of 3000 were allowed");
}

/// A transaction, and each key range it touches as a line of its own.
fn tree(random: &mut StdRng, depth: u32, leaves: &mut Vec<String>) -> String {
    let key = |random: &mut StdRng| ["a", "b", "c"][random.random_range(0..3)];
    let mut text = String::new();
    if random.random_bool(0.3) {
        let compared = key(random);
        text.push_str(&format!("if version {compared} > 0 "));
        leaves.push(format!("get {compared}"));
    }
    for branch in ["then", "else"] {
        if random.random_bool(0.4) {
            continue;
        }
        let op = if 0 < depth && random.random_bool(0.3) {
            format!("( txn {} )", tree(random, depth - 1, leaves).trim_end())
        } else {
            let key = key(random);
            let op = match random.random_range(0..5) {
                0 => format!("put {key} 1"),
                1 => format!("put {key} 1 prev"),
                2 => format!("del {key}"),
                3 => format!("del {key} prev"),
                _ => format!("get {key}"),
            };
            leaves.push(op.clone());
            op
        };
        text.push_str(&format!("{branch} {op} "));
    }
    text
}
