//! A majority is lost for good: one member goes on alone, with all that was acknowledged.

use pinion_kit::{TEST_DEADLINE, WorkDir, block_on};

use crate::group::{Load, Node, REMOVED, add, eventually, join, list, start_new};

#[test]
fn last_member_goes_on_alone_with_every_acknowledged_write_and_grows_again() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut nodes = [Node::new(&work, "a"), Node::new(&work, "b"), Node::new(&work, "c")];
        start_new(&mut nodes).await;
        let load = Load::start(&nodes);
        load.goes_on(50).await;
        // All writes that were acknowledged before two members are lost are known to the third, if not
        // as committed: the load goes on to the end.
        let survivor = crate::group::leader(&nodes).await;
        for node in &mut nodes {
            node.server().kill();
            node.server = None;
        }
        let launch = nodes[survivor].launch.clone();
        let mut forced = launch.clone().flag("--force-new-cluster").start().await;
        forced.says("goes on as a cluster of its own").await;
        // Killed before it did anything else, and started without the flag: one step, so nothing is half.
        forced.kill();
        nodes[survivor].server = Some(launch.start().await);
        let client = nodes[survivor].client().await;
        let list = list(&client).await.unwrap();
        assert_eq!(list.members.len(), 1);
        assert_eq!(list.members[0].name, nodes[survivor].name);
        load.go_to(&nodes);
        load.goes_on(20).await;

        // Another one of the old cluster is not let in, whatever it believes.
        let lost = (survivor + 1) % 3;
        let mut zombie = nodes[lost].launch.spawn();
        let exit = zombie.wait_exit().await;
        assert_eq!(exit.status.code(), Some(REMOVED), "{}", exit.output);

        let mut fresh = Node::new(&work, "d");
        let url = fresh.peer_url();
        eventually(async || add(&client, &url, false).await).await;
        join(&mut fresh, &[&nodes[survivor]]).await;
        let nodes = nodes.into_iter().chain([fresh]).collect::<Vec<Node>>();
        load.go_to(&nodes);
        load.goes_on(20).await;
        load.check(&nodes).await;
    });
}

#[test]
fn forcing_needs_data_that_a_cluster_was_made_of() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut nodes = [Node::new(&work, "a")];
        let exit = nodes[0].launch.clone().flag("--force-new-cluster").start_refused().await;
        exit.assert_says(&["--force-new-cluster", "the data directory is empty"]);
        start_new(&mut nodes).await;
        nodes[0].client().await.put_kv("k", "v").await.unwrap();
        nodes[0].server().kill();
        // Harmless where the member is alone already, as often as it is given.
        for _ in 0..2 {
            let mut server = nodes[0].launch.clone().flag("--force-new-cluster").start().await;
            assert_eq!(server.connect().await.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
            server.kill();
        }
    });
}
