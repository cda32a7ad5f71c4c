//! Rights in a cluster, over restarts and over a rolling update.

use pinion_kit::client::{CallError, refusal};
use pinion_kit::{Cluster, Launch, TEST_DEADLINE, WorkDir, block_on, eventually};

use crate::manage::{self, CHEAP};

const DENIED: &str = "etcdserver: permission denied";
const BAD_TOKEN: &str = "etcdserver: invalid auth token";

/// What was answered holds at once on the member that answered, and everywhere for what is applied or read later.
#[test]
fn a_grant_and_a_revoke_hold_for_whatever_comes_after_them_on_every_member() {
    block_on(TEST_DEADLINE, async {
        let cluster = Cluster::start(3, &[CHEAP]).await;
        let first = cluster.client(0).await;
        let root = manage::people(&first).await;
        for round in 0..10 {
            let member = round % 3;
            let elsewhere = cluster.client((member + 1) % 3).await;
            let bob = cluster.client(member).await.logged_in("bob", "bob").await.unwrap();
            let there = elsewhere.logged_in("bob", "bob").await.unwrap();
            let admin = cluster.client(member).await.with_token(&root_token(&root).await);
            manage::user_grant(&admin, "bob", "half").await.unwrap();
            bob.put_kv("b", "1").await.unwrap();
            manage::user_revoke(&admin, "bob", "half").await.unwrap();
            let refused = |answer| refusal::<pinion_kit::pb::etcdserverpb::PutResponse>(answer).1;
            // Whoever has not heard of it yet is told that its knowledge is old; nobody is let through.
            let told = refused(there.put_kv("b", "2").await);
            assert!(told == DENIED || told == "etcdserver: revision of auth store is old", "{told}");
            assert_eq!(refused(bob.put_kv("b", "2").await), DENIED);
            assert_eq!(refusal(there.get("b").await).1, DENIED);
        }
    });
}

async fn root_token(client: &pinion_kit::client::Client) -> String {
    client.authenticate("root", "root").await.unwrap()
}

#[test]
fn a_token_is_good_on_every_member_and_ends_with_its_user_and_its_member() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &[CHEAP]).await;
        let root = manage::people(&cluster.client(0).await).await;
        for round in 0..5 {
            let token = cluster.client(round % 3).await.authenticate("alice", "alice").await.unwrap();
            for member in 0..3 {
                cluster.client(member).await.with_token(&token).put_kv("a", "1").await.unwrap();
            }
        }
        let token = cluster.client(1).await.authenticate("alice", "alice").await.unwrap();
        manage::user_password(&root, "alice", "new").await.unwrap();
        for member in 0..3 {
            let told = cluster.client(member).await.with_token(&token).get("a").await;
            assert_eq!(refusal(told), (16, BAD_TOKEN.to_owned()), "member {member}");
        }
        let refused = cluster.client(2).await.authenticate("alice", "alice").await;
        assert_eq!(refusal(refused).0, 3);
        let token = cluster.client(2).await.authenticate("alice", "new").await.unwrap();
        cluster.kill(2);
        cluster.start_again(2).await;
        let told = cluster.client(2).await.with_token(&token).get("a").await;
        // The log behind its checkpoint may bring the token again.
        assert!(told.is_ok() || refusal(told) == (16, BAD_TOKEN.to_owned()));
        cluster.client(2).await.logged_in("alice", "new").await.unwrap().get("a").await.unwrap();
    });
}

#[test]
fn users_and_roles_outlive_a_checkpoint_and_a_restart() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        // Every start leaves a checkpoint of what was there.
        let launch = Launch::new(work.join("data")).flag(CHEAP).flag("--snapshot-count=1");
        let launch = launch.flag("--checkpoint-bytes=1048576");
        let server = launch.start().await;
        let root = manage::people(&server.connect().await).await;
        for number in 0..300 {
            root.put_kv(&format!("k{number}"), &"x".repeat(10_000)).await.unwrap();
        }
        server.terminate().await;
        let server = launch.start().await;
        let client = server.connect().await;
        assert_eq!(refusal(client.get("a").await).1, "etcdserver: user name is empty");
        let alice = client.logged_in("alice", "alice").await.unwrap();
        alice.put_kv("a", "1").await.unwrap();
        assert_eq!(refusal(alice.put_kv("z", "1").await).1, DENIED);
        let root = client.logged_in("root", "root").await.unwrap();
        assert_eq!(manage::user_list(&root).await.unwrap(), ["alice", "bob", "root"]);
    });
}

#[test]
fn a_cluster_that_is_held_at_an_earlier_level_refuses_users_by_name_and_takes_them_when_it_is_let_go() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &[CHEAP, "--format-level-max=1"]).await;
        let told = manage::user_add(&cluster.client(0).await, "root", "root").await;
        assert_eq!(refusal(told), (9, "etcdserver: not capable".to_owned()));
        for member in 0..3 {
            cluster.terminate(member).await;
            cluster.launch_mut(member).flags.retain(|flag| !flag.starts_with("--format-level-max"));
            cluster.start_again(member).await;
        }
        let client = cluster.client(0).await;
        eventually(async || -> Result<(), CallError> { manage::user_add(&client, "root", "root").await })
            .await;
    });
}
