use expect_test::expect;

use super::super::script::{AT, check, machine, request, run};
use super::*;
use crate::apply::Applied;

#[test]
fn users_and_roles_are_made_granted_and_deleted_as_etcd_does() {
    check(expect![[r#"
        level 2 => rev 0
        auth status => rev 1 off at 1
        user add "" => InvalidArgument etcdserver: user name is empty
        user add alice => rev 1
        user add alice => FailedPrecondition etcdserver: user name already exists
        user add bob none => rev 1
        user get alice => rev 1
        user get eve => FailedPrecondition etcdserver: user name not found
        user list => rev 1 alice bob
        role add "" => InvalidArgument etcdserver: role name is empty
        role add reader => rev 1
        role add reader => FailedPrecondition etcdserver: role name already exists
        role list => rev 1 reader
        role grant nobody read a => FailedPrecondition etcdserver: role name not found
        role grant reader => InvalidArgument etcdserver: permission not given
        role grant reader read "" => InvalidArgument etcdserver: invalid auth management
        role grant reader read b a => InvalidArgument etcdserver: invalid auth management
        role grant reader read a m => rev 1
        role grant reader both k => rev 1
        role grant reader write a m => rev 1
        role get reader => rev 1 write a..m, both k..
        role get nobody => FailedPrecondition etcdserver: role name not found
        role revoke reader a => FailedPrecondition etcdserver: permission is not granted to the role
        role revoke reader k => rev 1
        role get reader => rev 1 write a..m
        user grant alice nobody => FailedPrecondition etcdserver: role name not found
        user grant eve reader => FailedPrecondition etcdserver: user name not found
        user grant alice reader => rev 1
        auth status => rev 1 off at 9
        user grant alice reader => rev 1
        user grant alice root => rev 1
        auth status => rev 1 off at 10
        user get alice => rev 1 reader root
        user revoke alice writer => FailedPrecondition etcdserver: role is not granted to the user
        user passwd eve => FailedPrecondition etcdserver: user name not found
        user passwd alice => rev 1
        role delete reader => rev 1
        user get alice => rev 1 root
        role add root => rev 1
        role get root => rev 1 both ..\0
        user delete eve => FailedPrecondition etcdserver: user name not found
        user delete bob => rev 1
        auth status => rev 1 off at 14
    "#]]);
}

#[test]
fn rights_are_asked_for_only_while_somebody_can_switch_them_off() {
    check(expect![[r#"
        level 2 => rev 0
        auth on => FailedPrecondition etcdserver: root user does not exist
        user add root => rev 1
        auth on => FailedPrecondition etcdserver: root user does not have root role
        user grant root root => rev 1
        auth on => rev 1
        auth status => rev 1 on at 3
        auth on => InvalidArgument etcdserver: user name is empty
        as root auth on => rev 1
        as root user delete root => InvalidArgument etcdserver: invalid auth management
        as root role delete root => InvalidArgument etcdserver: invalid auth management
        as root user revoke root root => InvalidArgument etcdserver: invalid auth management
        auth off => InvalidArgument etcdserver: user name is empty
        as root auth off => rev 1
        auth status => rev 1 off at 4
        user delete root => rev 1
    "#]]);
}

#[test]
fn a_login_counts_only_at_the_revision_at_which_its_password_was_right() {
    check(expect![[r#"
        level 2 => rev 0
        user add root => rev 1
        user grant root root => rev 1
        login root 3 => FailedPrecondition etcdserver: authentication is not enabled
        auth on => rev 1
        login root 3 => rev 1 abcdefghijklmnop.9
        as root user add alice => rev 1
        login root 3 => InvalidArgument etcdserver: revision of auth store is old
        login alice 4 => rev 1 abcdefghijklmnop.9
    "#]]);
}

#[test]
fn below_its_format_level_nothing_of_it_is_taken_by_anybody() {
    check(expect![[r#"
        level 1 => rev 0
        user add root => FailedPrecondition etcdserver: not capable
        auth on => FailedPrecondition etcdserver: not capable
        auth status => rev 1 off at 1
    "#]]);
}

#[test]
fn changes_say_whose_tokens_end() {
    let mut machine = machine();
    for line in ["level 2", "user add root", "user grant root root", "user add alice", "auth on"] {
        run(&mut machine, line);
    }
    machine.take_auth_changes();
    let mut changes = |line: &str| {
        run(&mut machine, line);
        machine.take_auth_changes()
    };
    let alice = || "alice".to_owned();
    assert_eq!(
        changes("login alice 4"),
        [AuthChange::LoggedIn { user: alice(), digest: "abcdefghijklmnop.9".into() }]
    );
    assert_eq!(changes("as root user passwd eve"), []);
    assert_eq!(
        changes("as root user passwd alice"),
        [AuthChange::LoggedOut { user: alice() }, AuthChange::Rights]
    );
    assert_eq!(
        changes("as root user delete alice"),
        [AuthChange::LoggedOut { user: alice() }, AuthChange::Rights]
    );
    assert_eq!(changes("as root auth off"), [AuthChange::AllLoggedOut, AuthChange::Rights]);
}

/// Logs of earlier releases hold tokens themselves.
#[test]
fn a_token_of_an_earlier_release_is_known_by_its_digest_too() {
    let mut machine = machine();
    for line in ["level 2", "user add root", "user grant root root", "auth on"] {
        run(&mut machine, line);
    }
    machine.take_auth_changes();
    let prefix = "abcdefghijklmnop".to_owned();
    let body = peer::Authenticate { user: "root".into(), prefix, revision: 3, is_digest: false };
    let request = request(RequestKind::Authenticate, body.encode_to_vec());
    let Applied::Now(answer) = machine.apply(&request, AT) else { panic!("it is applied at once") };
    let answer = pb::AuthenticateResponse::decode(&answer.unwrap().body[..]).unwrap();
    assert_eq!(answer.token, "abcdefghijklmnop.9");
    let digest = token_text(&prefix_digest("abcdefghijklmnop"), 9);
    assert_eq!(machine.take_auth_changes(), [AuthChange::LoggedIn { user: "root".into(), digest }]);
}

#[test]
fn digests_are_logged_once_all_members_know_tokens_by_them() {
    for (level, expected) in [(2, false), (3, true)] {
        let mut machine = machine();
        for line in [&format!("level {level}"), "user add root", "user grant root root", "auth on"] {
            run(&mut machine, line);
        }
        let answer = machine.read_auth(&Query::PasswordOf("root".into())).unwrap();
        let record = peer::PasswordRecord::decode(&answer.body[..]).unwrap();
        assert_eq!(record.takes_digest, expected, "level {level}");
    }
}
