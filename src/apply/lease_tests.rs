use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::apply::script::{AT, check, machine, request, run};
use crate::apply::{Applied, StatusFacts};
use crate::request::{Query, RequestKind};

#[test]
fn leases_are_granted_once_and_revoked_once() {
    check(expect![[r#"
        revoke 7 => NotFound etcdserver: requested lease not found
        grant 7 60 => rev 1 lease 7 for 60 s
        grant 7 90 => FailedPrecondition etcdserver: lease already exists
        grant -3 2 => rev 1 lease -3 for 2 s
        put a 1 => rev 2
        grant 8 9000000000 => rev 2 lease 8 for 9000000000 s
        leases => -3:2[] 7:60[] 8:9000000000[]
        # without keys there is nothing to delete and no revision
        revoke 7 => rev 2
        revoke 7 => NotFound etcdserver: requested lease not found
        leases => -3:2[] 8:9000000000[]
        # what only a log from elsewhere can hold
        grant 0 60 => NotFound etcdserver: requested lease not found
        grant 1 -5 => rev 2 lease 1 for 1 s
        grant 2 9000000001 => rev 2 lease 2 for 9000000000 s
    "#]]);
}

#[test]
fn puts_attach_move_and_detach_and_deletes_detach() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        grant 2 60 => rev 1 lease 2 for 60 s
        put b x lease=1 => rev 2
        put a x lease=1 => rev 3
        leases => 1:60[a b] 2:60[]
        get a => rev 3 [a=x@3/3/1~1] of 1
        # again, elsewhere, nowhere
        put a y lease=1 => rev 4
        put b y lease=2 => rev 5
        put a z => rev 6
        leases => 1:60[] 2:60[b]
        # kept, and let go of with the value kept
        put b z ignore_lease => rev 7
        leases => 1:60[] 2:60[b]
        put b "" ignore_value lease=1 => rev 8
        leases => 1:60[b] 2:60[]
        put b "" ignore_value => rev 9
        leases => 1:60[] 2:60[]
        put c x lease=2 prev => rev 10
        del a z => rev 11 deleted 3
        leases => 1:60[] 2:60[]
        put c x lease=2 => rev 12
        put c x lease=9 => NotFound etcdserver: requested lease not found
        put c x lease=-2 => NotFound etcdserver: requested lease not found
        del c prev => rev 13 deleted 1 [c=x@12/12/1~2]
        leases => 1:60[] 2:60[]
    "#]]);
}

#[test]
fn a_lease_takes_its_keys_along_in_one_revision_in_key_order() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        put c 1 lease=1 => rev 2
        put a 1 lease=1 => rev 3
        put b 1 => rev 4
        put d 1 lease=1 => rev 5
        revoke 1 => rev 6
        get a z => rev 6 [b=1@4/4/1] of 1
        get a z rev=5 => rev 6 [a=1@3/3/1~1 b=1@4/4/1 c=1@2/2/1~1 d=1@5/5/1~1] of 4
        # the id is free again, and nothing hangs on it
        grant 1 30 => rev 6 lease 1 for 30 s
        put a 2 ignore_lease => InvalidArgument etcdserver: key not found
        leases => 1:30[]
    "#]]);
    let mut machine = machine();
    for line in ["grant 1 60", "put c 1 lease=1", "put a 1 lease=1", "put b 1 lease=1", "revoke 1"] {
        run(&mut machine, line);
    }
    let changes = machine.store().changes(crate::types::Revision::new(5, 0));
    let deletes: Vec<_> = changes.map(|change| (change.revision.sub, change.key.to_vec())).collect();
    assert_eq!(deletes, [(0, b"a".to_vec()), (1, b"b".to_vec()), (2, b"c".to_vec())]);
}

#[test]
fn a_transaction_moves_keys_when_it_commits_and_not_before() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        grant 2 60 => rev 1 lease 2 for 60 s
        put a 1 lease=1 => rev 2
        txn then put a 2 lease=2 , put b 2 lease=1 , ( txn then put c 3 lease=2 ) => rev 3 then {put rev 3; put rev 3; txn then {put rev 3}}
        leases => 1:60[b] 2:60[a c]
        # in the order of its operations
        !txn then del a , put d 1 lease=1 , del d , put b 1 ignore_lease => rev 4 then {del rev 4 deleted 1; put rev 4; del rev 4 deleted 1; put rev 4}
        leases => 1:60[b] 2:60[c]
        # refused before it runs, and while it runs
        txn then put b 9 lease=2 , put x 9 lease=3 => NotFound etcdserver: requested lease not found
        !txn then put b 9 lease=2 , del c , put x 9 lease=1 , put c 9 ignore_lease => InvalidArgument etcdserver: key not found
        leases => 1:60[b] 2:60[c]
        # leases are checked on the path that is taken only
        txn if version b = 9 then put x 9 lease=3 else put x 9 lease=1 => rev 5 else {put rev 5}
        txn if lease x = 1 then put x 9 => rev 6 then {put rev 6}
        leases => 1:60[b] 2:60[c]
    "#]]);
}

#[test]
fn expiry_is_a_revision_per_lease_in_the_leaders_order_and_of_its_term_only() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        grant 2 60 => rev 1 lease 2 for 60 s
        grant 3 60 => rev 1 lease 3 for 60 s
        put a 1 lease=1 => rev 2
        put b 1 lease=2 => rev 3
        put c 1 lease=2 => rev 4
        # proposed by a leader that was deposed before the entry was made
        expire term=2 2 1 => rev 4
        expire term=4 2 1 => rev 4
        leases => 1:60[a] 2:60[b c] 3:60[]
        # meant for earlier leases with these ids
        expire through=8 2 1 => rev 4
        expire 2 9 1 3 1 => rev 6
        leases => 
        get a z rev=5 => rev 6 [a=1@2/2/1~1] of 1
    "#]]);
}

#[test]
fn notes_of_remaining_time_are_the_leaders_and_bounded_by_the_ttl() {
    check(expect![[r#"
        grant 1 60 => rev 1 lease 1 for 60 s
        grant 2 60 => rev 1 lease 2 for 60 s
        note 1=30 2=7 9=1 => rev 1
        leases => 1:30/60[] 2:7/60[]
        note term=2 1=1 => rev 1
        note through=8 1=1 => rev 1
        leases => 1:30/60[] 2:7/60[]
        note 1=0 2=60 => rev 1
        leases => 1:60[] 2:60[]
        note 1=99999999999999 => rev 1
        leases => 1:60[] 2:60[]
    "#]]);
}

#[test]
fn changes_tell_the_leader_what_happened_to_leases() {
    let mut machine = machine();
    for line in
        ["grant 1 60", "put a 1 lease=1", "note 1=5 2=5", "grant 1 60", "grant 2 2", "revoke 1", "expire 1 2"]
    {
        run(&mut machine, line);
    }
    let [one, two] = [LeaseId(1), LeaseId(2)];
    let changes: Vec<Change> = machine.take_lease_changes().collect();
    assert_eq!(
        changes,
        [
            Change::Granted { id: one, ttl_s: 60 },
            Change::RemainingSet { id: one, remaining_s: 5 },
            Change::Granted { id: two, ttl_s: 2 },
            Change::Revoked { id: one },
            Change::Revoked { id: two },
        ]
    );
    assert_eq!(machine.take_lease_changes().len(), 0);
}

#[test]
fn reads_of_leases_are_answered_as_their_messages() {
    let mut machine = machine();
    for line in ["grant 5 60", "grant -2 10", "put b 1 lease=5", "put a 1 lease=5", "note 5=20"] {
        run(&mut machine, line);
    }
    let time_to_live = |id, keys| {
        let query = Query::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys });
        let response = machine.read(&query, &StatusFacts::default()).unwrap();
        assert_eq!(response.revision, 3);
        pb::LeaseTimeToLiveResponse::decode(&*response.body).unwrap()
    };
    let keys: Vec<Bytes> = vec!["a".into(), "b".into()];
    let known = pb::LeaseTimeToLiveResponse { id: 5, ttl: 20, granted_ttl: 60, ..Default::default() };
    assert_eq!(time_to_live(5, false), known);
    assert_eq!(time_to_live(5, true), pb::LeaseTimeToLiveResponse { keys, ..known });
    assert_eq!((time_to_live(-2, true).ttl, time_to_live(-2, true).granted_ttl), (10, 10));
    assert_eq!((time_to_live(9, true).ttl, time_to_live(9, true).granted_ttl), (-1, 0));
    let request = pb::LeaseTimeToLiveRequest { id: 5, keys: false };
    let answer = machine.lease_time_to_live(&request, 1_999);
    assert_eq!(pb::LeaseTimeToLiveResponse::decode(&*answer.body).unwrap().ttl, 1, "rounded down");

    let all = machine.read(&Query::LeaseLeases, &StatusFacts::default()).unwrap();
    let all = pb::LeaseLeasesResponse::decode(&*all.body).unwrap();
    assert_eq!(all.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [-2, 5]);
    let kept = pb::LeaseKeepAliveResponse::decode(&*machine.lease_keep_alive(LeaseId(5), 60).body).unwrap();
    assert_eq!((kept.id, kept.ttl), (5, 60));
}

/// Leases and keys as anybody would write them down.
#[derive(Default)]
struct Naive {
    leases: BTreeMap<i64, u64>,
    keys: BTreeMap<String, i64>,
}

// Random stories against `Naive`: who is attached to whom, and what a lease takes along.
#[test]
fn attachments_are_those_of_a_naive_model() {
    let seed: u64 =
        std::env::var_os("PINION_SEED").map_or(31, |seed| seed.to_str().unwrap().parse().unwrap());
    println!("replay with PINION_SEED={seed} cargo test --lib attachments_are_those_of_a_naive_model");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut machine, mut naive) = (machine(), Naive::default());
    let (mut moved, mut gone) = (0, 0);
    for round in 0..12_000 {
        let lease: i64 = *[0, 0, 1, 2, 3, -4].choose(&mut random).unwrap();
        let key = format!("k{}", random.random_range(0..12));
        let before = machine.store().current_revision();
        match random.random_range(0..12) {
            0 => {
                let told = run(&mut machine, &format!("grant {lease} 60"));
                let fresh = lease != 0 && !naive.leases.contains_key(&lease);
                assert_eq!(told.starts_with("rev"), fresh, "round {round}: {told}");
                if fresh {
                    naive.leases.insert(lease, 60);
                }
            }
            1 => {
                let verb = ["revoke", "expire"][random.random_range(0..2)];
                run(&mut machine, &format!("{verb} {lease}"));
                if naive.leases.remove(&lease).is_some() {
                    let keys = naive.keys.len();
                    naive.keys.retain(|_, attached| *attached != lease);
                    gone += keys - naive.keys.len();
                    let made = machine.store().current_revision() - before;
                    assert_eq!(made, i64::from(naive.keys.len() < keys), "round {round}");
                }
            }
            2 => {
                run(&mut machine, &format!("del {key} k5"));
                naive.keys.retain(|known, _| !(key.as_str().."k5").contains(&known.as_str()));
            }
            3..6 => {
                // Two puts and a delete at once, refused as a whole if either lease is unknown.
                let (other, twin) =
                    (format!("k{}", random.random_range(12..15)), [0, 1, 2].choose(&mut random));
                let twin = *twin.unwrap();
                let line =
                    format!("txn then put {key} 1 lease={lease} , del k20 , put {other} 1 lease={twin}");
                let told = run(&mut machine, &line);
                if told.starts_with("rev") {
                    naive.keys.insert(key, lease);
                    naive.keys.insert(other, twin);
                } else {
                    let known = |id| id == 0 || naive.leases.contains_key(&id);
                    assert!(!known(lease) || !known(twin), "round {round}: {told}");
                }
            }
            6 => {
                let told = run(&mut machine, &format!("put {key} 2 ignore_lease"));
                assert_eq!(told.starts_with("rev"), naive.keys.contains_key(&key), "round {round}");
            }
            _ => {
                let told = run(&mut machine, &format!("put {key} 1 lease={lease}"));
                let known = lease == 0 || naive.leases.contains_key(&lease);
                assert_eq!(told.starts_with("rev"), known, "round {round}: {told}");
                if known && naive.keys.insert(key, lease) != Some(lease) {
                    moved += 1;
                }
            }
        }
        if round % 16 == 0 {
            for (id, lease) in machine.leases().iter() {
                let attached = naive.keys.iter().filter(|&(_, &attached)| attached == id.0);
                let expected: BTreeSet<&[u8]> = attached.map(|(key, _)| key.as_bytes()).collect();
                assert!(lease.keys().eq(expected), "round {round}: {id:?}");
            }
            assert!(machine.leases().iter().map(|(id, _)| id.0).eq(naive.leases.keys().copied()));
            run(&mut machine, "leases");
        }
    }
    println!("{moved} keys moved by puts, {gone} gone with their lease");
    assert!(1_000 < moved && 100 < gone, "one-sided input");
}

#[test]
fn requests_about_leases_answer_any_body_alike_on_all_members() {
    let mut random = StdRng::seed_from_u64(5);
    let (mut machine, mut twin) = (machine(), machine());
    for _ in 0..4_000 {
        let kind = [
            RequestKind::LeaseGrant,
            RequestKind::LeaseRevoke,
            RequestKind::LeaseExpire,
            RequestKind::LeaseCheckpoint,
        ][random.random_range(0..4)];
        let body: Vec<u8> = (0..random.random_range(0..24)).map(|_| random.random_range(0..24)).collect();
        let applied = machine.apply(&request(kind, body.clone()), AT);
        assert_eq!(twin.apply(&request(kind, body), AT), applied);
        assert!(matches!(applied, Applied::Now(_)));
    }
    assert_eq!(machine.leases(), twin.leases());
    assert!(!machine.leases().is_empty(), "one-sided input");
}
