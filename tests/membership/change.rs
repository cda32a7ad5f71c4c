//! Changes that are made while the cluster serves.

use pinion_kit::client::{Client, refusal};
use pinion_kit::{Member, TEST_DEADLINE, WorkDir, block_on, eventually, free_port, start_new};

use crate::group::{Load, expect_removed, id_of, join, leader, member};

/// These members, of which the first `started` serve a load as a new cluster.
async fn under_load(work: &WorkDir, names: &[&str], started: usize) -> (Vec<Member>, Load) {
    let mut members: Vec<Member> = names.iter().map(|name| member(work, name)).collect();
    start_new(&mut members[..started]).await;
    let load = Load::start(&members[..started]);
    load.goes_on(20).await;
    (members, load)
}

#[test]
fn cluster_grows_from_one_to_five_and_shrinks_to_three_and_keeps_every_acknowledged_write() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut members, load) = under_load(&work, &["a", "b", "c", "d", "e"], 1).await;
        for slot in 1..5 {
            let url = members[slot].peer_url();
            // Any member may be asked.
            let asked = members[slot - 1].client().await;
            let added = eventually(async || asked.member_add(&url, false).await).await;
            assert_eq!(added.members.len(), slot + 1);
            let member = added.member.unwrap();
            assert_eq!((member.name.as_str(), member.is_learner), ("", false));
            let (others, joining) = members.split_at_mut(slot);
            join(&mut joining[0], others).await;
            load.go_to(&members);
            load.goes_on(20).await;
        }
        // The leader removes itself first, then another one removes a third.
        let leads = leader(&members).await;
        let id = id_of(&members[leads]).await;
        let left = members[leads].client().await.member_remove(id).await.unwrap();
        assert_eq!(left.members.len(), 4);
        expect_removed(&mut members[leads]).await;
        load.go_to(&members);
        load.goes_on(20).await;
        let running: Vec<usize> = (0..5).filter(|slot| members[*slot].runs()).collect();
        let id = id_of(&members[running[0]]).await;
        let asked = members[running[1]].client().await;
        eventually(async || asked.member_remove(id).await).await;
        expect_removed(&mut members[running[0]]).await;
        load.go_to(&members);
        load.goes_on(20).await;
        let list = members[running[1]].client().await.member_list(true).await.unwrap();
        assert_eq!(list.members.len(), 3);
        assert!(list.members.iter().all(|member| !member.name.is_empty() && !member.client_ur_ls.is_empty()));
        load.check(&members).await;
    });
}

#[test]
fn dead_member_is_replaced_and_its_lost_data_cannot_be_begun_anew() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut members, load) = under_load(&work, &["a", "b", "c"], 3).await;
        let old = id_of(&members[2]).await;
        members[2].kill();
        std::fs::remove_dir_all(&members[2].launch.data_dir).unwrap();
        load.go_to(&members);
        load.goes_on(20).await;
        let refs: Vec<&Member> = members.iter().collect();
        let exit = members[2].with("new", &refs).start_refused().await;
        exit.assert_says(&["has already been bootstrapped", "Remove it from the cluster"]);
        let exit = members[2].with("existing", &refs).start_refused().await;
        exit.assert_says(&["error validating peerURLs", "has been started before"]);

        let asked = members[0].client().await;
        eventually(async || asked.member_remove(old).await).await;
        let exit = members[2].with("new", &refs).start_refused().await;
        exit.assert_says(&["has been removed from this cluster"]);
        let url = members[2].peer_url();
        let added = eventually(async || asked.member_add(&url, false).await).await;
        assert_ne!(added.member.unwrap().id, old, "an id never returns");
        let (others, joining) = members.split_at_mut(2);
        join(&mut joining[0], others).await;
        load.go_to(&members);
        load.goes_on(20).await;
        load.check(&members).await;
    });
}

#[test]
fn learner_is_promoted_by_any_member_once_it_has_the_log() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut members, load) = under_load(&work, &["a", "b", "c"], 2).await;
        let leads = leader(&members).await;
        let follower = members[1 - leads].client().await;
        let url = members[2].peer_url();
        let id = eventually(async || follower.member_add(&url, true).await).await.member.unwrap().id;
        for asked in &members[..2] {
            let early = refusal(asked.client().await.member_promote(id).await);
            let text = "etcdserver: can only promote a learner member which is in sync with leader";
            assert_eq!(early, (9, text.to_owned()), "asked {}", asked.name());
            let second = refusal(asked.client().await.member_add("http://127.0.0.1:1", true).await);
            assert_eq!(second, (9, "etcdserver: too many learner members in cluster".to_owned()));
        }
        let launch = members[2].with("existing", &members.iter().collect::<Vec<&Member>>());
        // A learner answers no linearizable read, so it is not waited for as the others are.
        members[2].spawn_as(&launch);
        let learner = eventually(async || {
            let client = Client::connect(launch.client_port).await?;
            client.status().await.map(|status| (status, client))
        })
        .await;
        assert!(learner.0.is_learner);
        let promoted = eventually(async || follower.member_promote(id).await).await;
        assert_eq!(promoted.members.len(), 3);
        assert!(promoted.members.iter().all(|member| !member.is_learner));
        let again = refusal(follower.member_promote(id).await);
        assert_eq!(again, (9, "etcdserver: can only promote a learner member".to_owned()));
        eventually(async || learner.1.member_list(true).await).await;
        load.go_to(&members);
        load.goes_on(20).await;
        load.check(&members).await;
    });
}

#[test]
fn leadership_moves_on_the_leaders_word_and_a_member_moves_to_another_address() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut members, load) = under_load(&work, &["a", "b", "c"], 3).await;
        let leads = leader(&members).await;
        let next = (leads + 1) % 3;
        let (leader_client, next_client) = (members[leads].client().await, members[next].client().await);
        let next_id = id_of(&members[next]).await;
        assert_eq!(refusal(next_client.move_leader(next_id).await), (9, "etcdserver: not leader".to_owned()));
        let stranger = refusal(leader_client.move_leader(77).await);
        assert_eq!(stranger, (9, "etcdserver: bad leader transferee".to_owned()));
        let moved = leader_client.move_leader(next_id).await.unwrap();
        assert_eq!(moved.header, None);
        assert_eq!(leader_client.status().await.unwrap().leader, next_id);
        load.goes_on(20).await;

        // The old leader gets a new address: told first, then restarted there.
        let id = id_of(&members[leads]).await;
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let answer = eventually(async || next_client.member_update(id, &url).await).await;
        let updated = answer.members.iter().find(|member| member.id == id).unwrap();
        assert_eq!(updated.peer_ur_ls, std::slice::from_ref(&url));
        assert_eq!(members[leads].terminate().await.status.code(), Some(0));
        load.go_to(&members);
        members[leads].launch.peer_port = port;
        members[leads].start().await;
        load.go_to(&members);
        load.goes_on(20).await;
        load.check(&members).await;
    });
}

#[test]
fn member_that_was_removed_while_it_was_down_ends_by_itself_when_it_comes_back() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut members, _load) = under_load(&work, &["a", "b", "c"], 3).await;
        let id = id_of(&members[2]).await;
        members[2].kill();
        let asked = members[0].client().await;
        eventually(async || asked.member_remove(id).await).await;
        for _ in 0..2 {
            members[2].spawn();
            let exit = expect_removed(&mut members[2]).await;
            exit.assert_says(&["add a new member and start it with an empty --data-dir"]);
        }
        eventually(async || asked.put_kv("still", "here").await).await;
    });
}
