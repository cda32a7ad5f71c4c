//! Changes that are made while the cluster serves.

use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, free_port};

use crate::group::{
    Load, Node, add, eventually, id_of, join, leader, list, move_leader, no, promote, remove, start_new,
    status, update,
};

/// These members, of which the first `started` serve a load as a new cluster.
async fn under_load(work: &WorkDir, names: &[&str], started: usize) -> (Vec<Node>, Load) {
    let mut nodes: Vec<Node> = names.iter().map(|name| Node::new(work, name)).collect();
    start_new(&mut nodes[..started]).await;
    let load = Load::start(&nodes[..started]);
    load.goes_on(20).await;
    (nodes, load)
}

#[test]
fn cluster_grows_from_one_to_five_and_shrinks_to_three_and_keeps_every_acknowledged_write() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut nodes, load) = under_load(&work, &["a", "b", "c", "d", "e"], 1).await;
        for slot in 1..5 {
            let (members, rest) = nodes.split_at_mut(slot);
            let url = rest[0].peer_url();
            // Any member may be asked.
            let asked = members[slot - 1].client().await;
            let added = eventually(async || add(&asked, &url, false).await).await;
            assert_eq!(added.members.len(), slot + 1);
            let member = added.member.unwrap();
            assert_eq!((member.name.as_str(), member.is_learner), ("", false));
            join(&mut rest[0], &members.iter().collect::<Vec<&Node>>()).await;
            load.go_to(&nodes);
            load.goes_on(20).await;
        }
        // The leader removes itself first, then another one removes a third.
        let leads = leader(&nodes).await;
        let id = id_of(&nodes[leads]).await;
        let left = remove(&nodes[leads].client().await, id).await.unwrap();
        assert_eq!(left.members.len(), 4);
        nodes[leads].expect_removed().await;
        load.go_to(&nodes);
        load.goes_on(20).await;
        let running: Vec<usize> = (0..5).filter(|slot| nodes[*slot].server.is_some()).collect();
        let id = id_of(&nodes[running[0]]).await;
        let asked = nodes[running[1]].client().await;
        eventually(async || remove(&asked, id).await).await;
        nodes[running[0]].expect_removed().await;
        load.go_to(&nodes);
        load.goes_on(20).await;
        let list = list(&nodes[running[1]].client().await).await.unwrap();
        assert_eq!(list.members.len(), 3);
        assert!(list.members.iter().all(|member| !member.name.is_empty() && !member.client_ur_ls.is_empty()));
        load.check(&nodes).await;
    });
}

#[test]
fn dead_member_is_replaced_and_its_lost_data_cannot_be_begun_anew() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut nodes, load) = under_load(&work, &["a", "b", "c"], 3).await;
        let old = id_of(&nodes[2]).await;
        nodes[2].server = None;
        std::fs::remove_dir_all(&nodes[2].launch.data_dir).unwrap();
        load.go_to(&nodes);
        load.goes_on(20).await;
        let refs: Vec<&Node> = nodes.iter().collect();
        let exit = nodes[2].with("new", &refs).start_refused().await;
        exit.assert_says(&["has already been bootstrapped", "Remove it from the cluster"]);
        let exit = nodes[2].with("existing", &refs).start_refused().await;
        exit.assert_says(&["error validating peerURLs", "has been started before"]);

        let asked = nodes[0].client().await;
        eventually(async || remove(&asked, old).await).await;
        let exit = nodes[2].with("new", &refs).start_refused().await;
        exit.assert_says(&["has been removed from this cluster"]);
        let url = nodes[2].peer_url();
        let added = eventually(async || add(&asked, &url, false).await).await;
        assert_ne!(added.member.unwrap().id, old, "an id never returns");
        let (members, rest) = nodes.split_at_mut(2);
        join(&mut rest[0], &members.iter().collect::<Vec<&Node>>()).await;
        load.go_to(&nodes);
        load.goes_on(20).await;
        load.check(&nodes).await;
    });
}

#[test]
fn learner_is_promoted_by_any_member_once_it_has_the_log() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut nodes, load) = under_load(&work, &["a", "b", "c"], 2).await;
        let leads = leader(&nodes).await;
        let follower = nodes[1 - leads].client().await;
        let url = nodes[2].peer_url();
        let id = eventually(async || add(&follower, &url, true).await).await.member.unwrap().id;
        for node in &nodes[..2] {
            let early = no(promote(&node.client().await, id).await);
            let text = "etcdserver: can only promote a learner member which is in sync with leader";
            assert_eq!(early, (9, text.to_owned()), "asked {}", node.name);
            let second = no(add(&node.client().await, "http://127.0.0.1:1", true).await);
            assert_eq!(second, (9, "etcdserver: too many learner members in cluster".to_owned()));
        }
        let (members, rest) = nodes.split_at_mut(2);
        let launch = rest[0].with("existing", &[&members[0], &members[1], &rest[0]]);
        // A learner answers no linearizable read, so it is not waited for as the others are.
        rest[0].server = Some(launch.spawn());
        let learner = eventually(async || {
            let client = pinion_kit::client::Client::connect(rest[0].launch.client_port).await?;
            status(&client).await.map(|status| (status, client))
        })
        .await;
        assert!(learner.0.is_learner);
        let promoted = eventually(async || promote(&follower, id).await).await;
        assert_eq!(promoted.members.len(), 3);
        assert!(promoted.members.iter().all(|member| !member.is_learner));
        let again = no(promote(&follower, id).await);
        assert_eq!(again, (9, "etcdserver: can only promote a learner member".to_owned()));
        eventually(async || list(&learner.1).await).await;
        load.go_to(&nodes);
        load.goes_on(20).await;
        load.check(&nodes).await;
    });
}

#[test]
fn leadership_moves_on_the_leaders_word_and_a_member_moves_to_another_address() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut nodes, load) = under_load(&work, &["a", "b", "c"], 3).await;
        let leads = leader(&nodes).await;
        let next = (leads + 1) % 3;
        let (leader_client, next_client) = (nodes[leads].client().await, nodes[next].client().await);
        let next_id = id_of(&nodes[next]).await;
        assert_eq!(no(move_leader(&next_client, next_id).await), (9, "etcdserver: not leader".to_owned()));
        let stranger = no(move_leader(&leader_client, 77).await);
        assert_eq!(stranger, (9, "etcdserver: bad leader transferee".to_owned()));
        let moved = move_leader(&leader_client, next_id).await.unwrap();
        assert_eq!(moved.header, None);
        assert_eq!(status(&leader_client).await.unwrap().leader, next_id);
        load.goes_on(20).await;

        // The old leader gets a new address: told first, then restarted there.
        let id = id_of(&nodes[leads]).await;
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let answer = eventually(async || update(&next_client, id, &url).await).await;
        let updated = answer.members.iter().find(|member| member.id == id).unwrap();
        assert_eq!(updated.peer_ur_ls, std::slice::from_ref(&url));
        let server = nodes[leads].server.take().unwrap();
        load.go_to(&nodes);
        assert_eq!(server.terminate().await.status.code(), Some(0));
        nodes[leads].launch.peer_port = port;
        let launch = nodes[leads].launch.clone();
        nodes[leads].server = Some(launch.start().await);
        load.go_to(&nodes);
        load.goes_on(20).await;
        load.check(&nodes).await;
    });
}

#[test]
fn member_that_was_removed_while_it_was_down_ends_by_itself_when_it_comes_back() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (mut nodes, _load) = under_load(&work, &["a", "b", "c"], 3).await;
        let id = id_of(&nodes[2]).await;
        nodes[2].server = None;
        let asked = nodes[0].client().await;
        eventually(async || remove(&asked, id).await).await;
        let launch = nodes[2].launch.clone();
        for _ in 0..2 {
            nodes[2].server = Some(launch.spawn());
            let exit = nodes[2].expect_removed().await;
            exit.assert_says(&["add a new member and start it with an empty --data-dir"]);
        }
        eventually(async || asked.put_kv("still", "here").await).await;
    });
}
