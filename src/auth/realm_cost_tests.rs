//! The cost of changes of rights among many users, printed. Run by hand:
//! `cargo test --release --lib auth::realm::cost -- --ignored --nocapture`
//!
//! Each user has a role of its own with a hundred permissions that cannot be joined, and one role that all have.

use super::*;

const USERS: usize = 10_000;
const PERMISSIONS: usize = 100;
/// Changes of each kind.
const TIMES: usize = 1_000;

/// The role that everybody has.
const SHARED: &str = "shared";

/// Time this thread was on a processor, in nanoseconds: on a busy machine the clock says little.
fn processor_time() -> u64 {
    // The kernel brings the number up to date when it chooses who runs next.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn role(user: usize) -> String {
    format!("role{user:06}")
}

fn user(user: usize) -> String {
    format!("user{user:06}")
}

/// Reads and writes of a range that touches no other.
fn permission(number: usize) -> Permission {
    let bound = |end: char| Bytes::from(format!("{number:06}{end}"));
    Permission { perm_type: permission::Type::Readwrite.into(), key: bound('a'), range_end: bound('b') }
}

fn grant(realm: &mut Realm, role: &str, number: usize) {
    let request =
        pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm: Some(permission(number)) };
    realm.grant_permission(&request).unwrap();
}

fn revoke(realm: &mut Realm, role: &str, number: usize) {
    let Permission { key, range_end, .. } = permission(number);
    let request = pb::AuthRoleRevokePermissionRequest { role: role.to_owned(), key, range_end };
    realm.revoke_permission(&request).unwrap();
}

fn add(realm: &mut Realm, name: &str) {
    let options = Some(authpb::UserAddOptions { no_password: true });
    let request = pb::AuthUserAddRequest { name: name.to_owned(), options, ..Default::default() };
    realm.add_user(&request).unwrap();
}

fn give(realm: &mut Realm, user: &str, role: &str) {
    let request = pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
    realm.grant_role(&request).unwrap();
}

fn take(realm: &mut Realm, user: &str, role: &str) {
    let request = pb::AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
    realm.revoke_role(&request).unwrap();
}

fn check(realm: &Realm, number: usize) {
    let login = Login { name: user(number).into(), revision: realm.revision() };
    realm.check(Some(&login), Access::Read, KeyRange::new(b"000000a", b"000000b")).unwrap();
}

/// Does something many times, and prints what each time cost.
fn measure(what: &str, times: usize, mut work: impl FnMut(usize)) {
    let mut all: Vec<_> = (0..times)
        .map(|time| {
            let start = processor_time();
            work(time);
            processor_time() - start
        })
        .collect();
    all.sort_unstable();
    println!("  {what:<52} median {:>9} ns  worst {:>9} ns  of {times}", all[times / 2], all[times - 1]);
}

#[test]
#[ignore = "measurement, run by hand in release"]
fn cost_of_changes_of_rights() {
    let mut realm = Realm::default();
    realm.add_role(ADMIN).unwrap();
    add(&mut realm, ADMIN);
    give(&mut realm, ADMIN, ADMIN);
    realm.add_role(SHARED).unwrap();
    for number in 0..USERS {
        let (user, role) = (user(number), role(number));
        realm.add_role(&role).unwrap();
        (0..PERMISSIONS).for_each(|number| grant(&mut realm, &role, 2 * number));
        add(&mut realm, &user);
        give(&mut realm, &user, &role);
        give(&mut realm, &user, SHARED);
    }
    realm.enable().unwrap();
    println!("{USERS} users with {PERMISSIONS} permissions each, and a role that all have");
    (0..USERS).for_each(|number| check(&realm, number));
    measure("nothing: what measuring costs", TIMES, |_| {});
    measure("grant a permission to a user's role", TIMES, |time| grant(&mut realm, &role(time), 1));
    measure("first check of a user behind a change", TIMES, |time| check(&realm, time));
    measure("the next check", TIMES, |time| check(&realm, time));
    measure("revoke the permission", TIMES, |time| revoke(&mut realm, &role(time), 1));
    measure("grant a permission to the role that all have", TIMES, |time| grant(&mut realm, SHARED, time));
    // A record that a checkpoint on its way holds is copied when it is changed.
    let records = realm.records();
    measure("grant while a checkpoint holds all records", TIMES, |time| grant(&mut realm, &role(time), 1));
    drop(records);
    measure("take a role from a user", TIMES, |time| take(&mut realm, &user(time), &role(time)));
    measure("give it back", TIMES, |time| give(&mut realm, &user(time), &role(time)));
    measure("add a user", TIMES, |time| add(&mut realm, &user(USERS + time)));
    measure("delete it", TIMES, |time| realm.delete_user(&user(USERS + time)).unwrap());
    measure("delete a role that one user has", TIMES, |time| realm.delete_role(&role(time)).unwrap());
    measure("take the records for a checkpoint", 10, |_| drop(realm.records()));
    let records = realm.records();
    measure("delete the role that all have, while it holds them", 1, |_| realm.delete_role(SHARED).unwrap());
    drop(records);
    realm.add_role(SHARED).unwrap();
    (0..USERS).for_each(|number| give(&mut realm, &user(number), SHARED));
    measure("delete the role that all have", 1, |_| realm.delete_role(SHARED).unwrap());
}
