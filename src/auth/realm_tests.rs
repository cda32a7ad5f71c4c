use super::*;

fn add(realm: &mut Realm, name: &str) {
    let hashed_password = BASE64.encode("hash");
    let request = pb::AuthUserAddRequest { name: name.into(), hashed_password, ..Default::default() };
    realm.add_user(&request).unwrap();
}

fn grant(realm: &mut Realm, role: &str, kind: permission::Type, key: &[u8], range_end: &[u8]) -> Changed {
    let perm = Permission {
        perm_type: kind.into(),
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::copy_from_slice(range_end),
    };
    realm.grant_permission(&pb::AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) })
}

fn give(realm: &mut Realm, user: &str, role: &str) {
    realm.grant_role(&pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() }).unwrap();
}

fn filled() -> Realm {
    let mut realm = Realm::default();
    for name in ["root", "alice", "bob"] {
        add(&mut realm, name);
    }
    give(&mut realm, "root", ADMIN);
    realm.add_role("reader").unwrap();
    grant(&mut realm, "reader", permission::Type::Read, b"a", b"m").unwrap();
    give(&mut realm, "alice", "reader");
    realm.enable().unwrap();
    realm
}

fn login(realm: &Realm, name: &str) -> Login {
    Login { name: Bytes::copy_from_slice(name.as_bytes()), revision: realm.revision() }
}

#[test]
fn records_make_the_same_realm_and_stay_what_they_were() {
    let mut realm = filled();
    let records = realm.records();
    realm.delete_user("alice").unwrap();
    realm.delete_role("reader").unwrap();
    let mut twin = Realm::restore(true, 9).unwrap();
    for record in records {
        twin.restore_record(record).unwrap();
    }
    assert_eq!(twin.users().collect::<Vec<_>>(), ["alice", "bob", "root"]);
    assert_eq!(twin.roles().collect::<Vec<_>>(), ["reader"]);
    let alice = login(&twin, "alice");
    assert_eq!(twin.check(Some(&alice), Access::Read, KeyRange::new(b"a", b"m")), Ok(()));
    let denied = twin.check(Some(&alice), Access::Write, KeyRange::new(b"a", b""));
    assert_eq!(denied, Err(AuthRejection::PermissionDenied));
    assert_eq!(twin.password_of("bob").unwrap().password_hash, "hash");
}

#[test]
fn records_that_no_realm_holds_are_refused() {
    let user = |name: &[u8], roles: &[&str]| {
        let roles = roles.iter().map(|&role| role.into()).collect();
        Record::User(authpb::User { name: name.to_vec().into(), roles, ..Default::default() })
    };
    assert!(Realm::restore(false, 0).is_err());
    for record in [user(b"", &[]), user(b"\xff", &[]), user(b"b", &["y", "x"]), user(b"b", &["x", "x"])] {
        assert!(Realm::restore(false, 1).unwrap().restore_record(record).is_err());
    }
    let mut realm = Realm::restore(false, 1).unwrap();
    realm.restore_record(user(b"b", &[])).unwrap();
    assert!(realm.restore_record(user(b"b", &[])).is_err());
    assert!(realm.restore_record(user(b"a", &[])).is_err());
}

#[test]
fn what_a_user_may_follows_every_change_at_once() {
    let mut realm = filled();
    let may = |realm: &Realm| {
        realm.check(Some(&login(realm, "alice")), Access::Read, KeyRange::new(b"z", b"")).is_ok()
    };
    assert!(!may(&realm));
    grant(&mut realm, "reader", permission::Type::Read, b"z", b"").unwrap();
    assert!(may(&realm));
    let revoke = |range_end: &'static [u8]| pb::AuthRoleRevokePermissionRequest {
        role: "reader".into(),
        key: Bytes::from_static(b"z"),
        range_end: Bytes::from_static(range_end),
    };
    assert_eq!(realm.revoke_permission(&revoke(b"zz")), Err(AuthRejection::PermissionNotGranted));
    realm.revoke_permission(&revoke(b"")).unwrap();
    assert!(!may(&realm));
    give(&mut realm, "alice", ADMIN);
    assert!(may(&realm));
}

/// The rights of the last login are not taken for another's, nor for its own after a change.
#[test]
fn logins_in_turn_are_checked_each_by_their_own_rights() {
    let mut realm = filled();
    let may = |realm: &Realm, name: &str, key: &[u8]| {
        realm.check(Some(&login(realm, name)), Access::Read, KeyRange::new(key, b"")).is_ok()
    };
    for _ in 0..3 {
        assert_eq!(
            ["alice", "bob", "root", "nobody"].map(|name| may(&realm, name, b"b")),
            [true, false, true, false]
        );
        assert!(may(&realm, "alice", b"b") && may(&realm, "alice", b"c") && !may(&realm, "alice", b"z"));
    }
    let first = login(&realm, "alice");
    let shared = Login { name: first.name.clone(), revision: first.revision };
    assert_eq!(realm.check(Some(&first), Access::Read, KeyRange::new(b"b", b"")), Ok(()));
    assert_eq!(
        realm.check(Some(&shared), Access::Write, KeyRange::new(b"b", b"")),
        Err(AuthRejection::PermissionDenied)
    );
    // The same bytes in memory, of a name that begins alike.
    let shorter = Login { name: first.name.slice(..3), revision: first.revision };
    assert_eq!(
        realm.check(Some(&shorter), Access::Read, KeyRange::new(b"b", b"")),
        Err(AuthRejection::PermissionDenied)
    );
    realm
        .revoke_role(&pb::AuthUserRevokeRoleRequest { name: "alice".into(), role: "reader".into() })
        .unwrap();
    assert_eq!(
        realm.check(Some(&first), Access::Read, KeyRange::new(b"b", b"")),
        Err(AuthRejection::RevisionOld)
    );
    assert!(!may(&realm, "alice", b"b"));
    let mut restored = Realm::restore(true, realm.revision()).unwrap();
    assert!(!may(&restored, "bob", b"b"));
    let roles = vec![ADMIN.to_owned()];
    restored
        .restore_record(Record::User(authpb::User { name: "bob".into(), roles, ..Default::default() }))
        .unwrap();
    assert!(may(&restored, "bob", b"b"));
}

#[test]
fn second_permission_of_a_pair_that_is_not_the_first_of_its_key_is_appended_as_in_etcd() {
    let mut realm = filled();
    for (kind, end) in [
        (permission::Type::Read, &b""[..]),
        (permission::Type::Read, b"c"),
        (permission::Type::Write, b"c"),
        (permission::Type::Readwrite, b""),
    ] {
        grant(&mut realm, "reader", kind, b"b", end).unwrap();
    }
    let permissions = realm.permissions_of("reader").unwrap();
    let shown: Vec<_> = permissions[1..].iter().map(|p| (p.perm_type, &p.range_end[..])).collect();
    assert_eq!(shown, [(2, &b""[..]), (0, b"c"), (1, b"c")]);
}

#[test]
fn no_password_hash_is_shown() {
    let mut realm = Realm::default();
    add(&mut realm, "alice");
    let shown = format!("{realm:?} {:?}", realm.users.get("alice"));
    assert!(!shown.contains("hash\"") && !shown.contains("104, 97"), "{shown}");
}

/// Ten thousand users with a hundred permissions each: a change does not look at them, and a check looks at its
/// own user only.
#[test]
fn a_change_costs_no_more_with_ten_thousand_users() {
    let mut realm = filled();
    realm.add_role("wide").unwrap();
    for number in 0..100_u32 {
        grant(&mut realm, "wide", permission::Type::Read, format!("k{number:03}").as_bytes(), b"").unwrap();
    }
    for number in 0..10_000 {
        let name = format!("u{number}");
        add(&mut realm, &name);
        give(&mut realm, &name, "wide");
    }
    let merged = |realm: &Realm| realm.users.values().filter(|entry| entry.rights.borrow().is_some()).count();
    assert_eq!(merged(&realm), 0);
    let range = KeyRange::new(b"k007", b"");
    realm.check(Some(&login(&realm, "u77")), Access::Read, range).unwrap();
    assert_eq!(merged(&realm), 1);
    grant(&mut realm, "wide", permission::Type::Read, b"l", b"").unwrap();
    assert_eq!(merged(&realm), 1, "nothing is merged by a change");
}
/// Deletions, grants and users that come and go, beside sets that are emptied at once.
#[test]
fn roles_of_users_are_what_taking_a_deleted_role_from_each_at_once_leaves() {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut realm = Realm::default();
        let (mut users, mut roles) = (BTreeMap::<String, BTreeSet<String>>::new(), BTreeSet::<String>::new());
        let most = if seed % 2 == 0 { 20 } else { 400 };
        let mut records = None;
        for step in 0..4_000 {
            let user = format!("u{}", random.random_range(0..most));
            let role = if random.random_ratio(1, 10) {
                ADMIN.into()
            } else {
                format!("r{}", random.random_range(0..4))
            };
            let before = realm.revision();
            let is_done = match random.random_range(0..20) {
                0..4 => {
                    let request = pb::AuthUserAddRequest { name: user.clone(), ..Default::default() };
                    let is_new = !users.contains_key(&user);
                    users.entry(user).or_default();
                    (realm.add_user(&request).is_ok(), is_new)
                }
                4 => (realm.delete_user(&user).is_ok(), users.remove(&user).is_some()),
                5..7 => (realm.add_role(&role).is_ok(), roles.insert(role)),
                7 => {
                    let is_there = roles.remove(&role);
                    if is_there {
                        for own in users.values_mut() {
                            own.remove(&role);
                        }
                    }
                    (realm.delete_role(&role).is_ok(), is_there)
                }
                8..17 => {
                    let request = pb::AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
                    let may = roles.contains(&role) || role == ADMIN;
                    let own = users.get_mut(&user).filter(|_| may);
                    let is_known = own.is_some();
                    let is_new = own.is_some_and(|own| own.insert(role));
                    let granted = realm.grant_role(&request).is_ok();
                    assert_eq!(realm.revision() != before, is_new, "seed {seed}, step {step}");
                    (granted, is_known)
                }
                _ => {
                    let request = pb::AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
                    let had = users.get_mut(&user).is_some_and(|own| own.remove(&role));
                    (realm.revoke_role(&request).is_ok(), had)
                }
            };
            assert_eq!(is_done.0, is_done.1, "seed {seed}, step {step}");
            let user = format!("u{}", random.random_range(0..most));
            let own = users.get(&user).map(|own| own.iter().cloned().collect());
            assert_eq!(realm.roles_of(&user).ok(), own, "seed {seed}, step {step}");
            if step % 500 == 250 {
                records = Some((realm.records(), users.clone()));
            }
            if step % 500 == 400 {
                // Records that a checkpoint on its way holds are as they were, whatever was deleted and cleared since.
                let (records, then) = records.take().unwrap();
                let told: BTreeMap<_, BTreeSet<_>> = records
                    .filter_map(|record| match record {
                        Record::User(user) => Some((
                            String::from_utf8(user.name.to_vec()).unwrap(),
                            user.roles.into_iter().collect(),
                        )),
                        Record::Role(_) => None,
                    })
                    .collect();
                assert_eq!(told, then, "seed {seed}, step {step}");
            }
        }
        // Notes go with two rounds over the users.
        for _ in 0..2 * users.len().div_ceil(super::super::granted::CLEARED) + 2 {
            realm.add_role("passing").unwrap();
            realm.on_changed();
            realm.roles.remove("passing");
        }
        assert_eq!(realm.deletions.len(), 0, "seed {seed}");
        for (user, own) in &users {
            assert_eq!(realm.roles_of(user).unwrap(), own.iter().cloned().collect::<Vec<_>>());
        }
    }
}
