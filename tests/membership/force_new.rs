//! A majority is lost for good: one member goes on alone, with all that was acknowledged.

use pinion_kit::{Member, TEST_DEADLINE, WorkDir, block_on, eventually, start_new};

use crate::group::{Load, REMOVED, join, leader, member};

#[test]
fn last_member_goes_on_alone_with_every_acknowledged_write_and_grows_again() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut members = [member(&work, "a"), member(&work, "b"), member(&work, "c")];
        start_new(&mut members).await;
        let load = Load::start(&members);
        load.goes_on(50).await;
        // All writes that were acknowledged before two members are lost are known to the third, if not
        // as committed: the load goes on to the end.
        let survivor = leader(&members).await;
        members.iter_mut().for_each(Member::kill);
        let forced = members[survivor].launch.clone().flag("--force-new-cluster");
        members[survivor].start_as(&forced).await;
        members[survivor].server().says("goes on as a cluster of its own").await;
        // Killed before it did anything else, and started without the flag: one step, so nothing is half.
        members[survivor].kill();
        members[survivor].start().await;
        let client = members[survivor].client().await;
        let list = client.member_list(true).await.unwrap();
        assert_eq!(list.members.len(), 1);
        assert_eq!(list.members[0].name, members[survivor].name());
        load.go_to(&members);
        load.goes_on(20).await;

        // Another one of the old cluster is not let in, whatever it believes.
        let lost = (survivor + 1) % 3;
        members[lost].spawn();
        let exit = members[lost].wait_exit().await;
        assert_eq!(exit.status.code(), Some(REMOVED), "{}", exit.output);

        let mut fresh = member(&work, "d");
        let url = fresh.peer_url();
        eventually(async || client.member_add(&url, false).await).await;
        join(&mut fresh, &members[survivor..=survivor]).await;
        let members = members.into_iter().chain([fresh]).collect::<Vec<Member>>();
        load.go_to(&members);
        load.goes_on(20).await;
        load.check(&members).await;
    });
}

#[test]
fn forcing_needs_data_that_a_cluster_was_made_of() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut members = [member(&work, "a")];
        let exit = members[0].launch.clone().flag("--force-new-cluster").start_refused().await;
        exit.assert_says(&["--force-new-cluster", "the data directory is empty"]);
        start_new(&mut members).await;
        members[0].client().await.put_kv("k", "v").await.unwrap();
        members[0].kill();
        // Harmless where the member is alone already, as often as it is given.
        let forced = members[0].launch.clone().flag("--force-new-cluster");
        for _ in 0..2 {
            members[0].start_as(&forced).await;
            assert_eq!(members[0].client().await.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
            members[0].kill();
        }
    });
}
