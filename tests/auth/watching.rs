//! Watches and renewals of those who have logged in.

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on};

use crate::manage::{self, BOTH, CHEAP};

fn create(key: &str, range_end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }
}

#[test]
fn a_watch_is_refused_with_etcds_reason_and_the_stream_goes_on() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let client = server.connect().await;
        let root = manage::people(&client).await;
        let alice = client.logged_in("alice", "alice").await.unwrap();
        for (client, reason) in [
            (client.clone(), "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
            (
                client.clone().with_token("abcdefghijklmnop.7"),
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            ),
            (alice.clone(), "rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
        ] {
            let (mut requests, mut answers) = client.watch().await.unwrap();
            requests.create(create("a", "z")).unwrap();
            let refused = answers.next().await.unwrap().unwrap();
            assert_eq!((refused.watch_id, refused.created, refused.canceled), (-1, true, true));
            assert_eq!(refused.cancel_reason, reason);
        }
        let (mut requests, mut answers) = alice.watch().await.unwrap();
        requests.create(create("a", "z")).unwrap();
        requests.create(create("a", "c")).unwrap();
        assert!(answers.next().await.unwrap().unwrap().canceled);
        let created = answers.next().await.unwrap().unwrap();
        assert!(created.created && !created.canceled, "{created:?}");
        root.put_kv("b", "1").await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap().events.len(), 1);
    });
}

#[test]
fn a_watch_whose_right_is_revoked_ends_and_others_of_the_stream_go_on() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let client = server.connect().await;
        let root = manage::people(&client).await;
        manage::role_grant(&root, "half", BOTH, "x", "").await.unwrap();
        let alice = client.logged_in("alice", "alice").await.unwrap();
        let (mut requests, mut answers) = alice.watch().await.unwrap();
        for range in [create("x", ""), create("a", "c")] {
            requests.create(range).unwrap();
            assert!(!answers.next().await.unwrap().unwrap().canceled);
        }
        manage::role_revoke(&root, "half", "x", "").await.unwrap();
        let ended = answers.next().await.unwrap().unwrap();
        assert_eq!((ended.watch_id, ended.canceled), (0, true), "{ended:?}");
        assert_eq!(ended.cancel_reason, "etcdserver: permission denied");
        root.put_kv("x", "1").await.unwrap();
        root.put_kv("a", "1").await.unwrap();
        let told = answers.next().await.unwrap().unwrap();
        assert_eq!((told.watch_id, told.events.len()), (1, 1), "{told:?}");
    });
}

#[test]
fn a_lease_is_renewed_by_those_who_may_write_its_keys() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let client = server.connect().await;
        let root = manage::people(&client).await;
        root.lease_grant(&pb::LeaseGrantRequest { id: 7, ttl: 60 }).await.unwrap();
        let put = pb::PutRequest { key: "a".into(), lease: 7, ..Default::default() };
        root.put(&put).await.unwrap();
        let renew = async |client: &pinion_kit::client::Client| {
            let (mut requests, mut answers) = client.keep_alive().await.unwrap();
            requests.send(&pb::LeaseKeepAliveRequest { id: 7 }).unwrap();
            pinion_kit::client::refusal_or(answers.next().await, |answer| answer.unwrap().ttl)
        };
        let alice = client.logged_in("alice", "alice").await.unwrap();
        let bob = client.logged_in("bob", "bob").await.unwrap();
        assert_eq!(renew(&alice).await, Ok(60));
        assert_eq!(renew(&bob).await, Err((7, "etcdserver: permission denied".to_owned())));
        assert_eq!(renew(&client).await, Err((3, "etcdserver: user name is empty".to_owned())));
    });
}
