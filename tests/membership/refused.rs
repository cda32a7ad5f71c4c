//! Starts that must not be, and mistakes that are said in the log.

use std::fs;

use pinion_kit::{
    Member, TEST_DEADLINE, WorkDir, block_on, copy_tree, eventually, server_is_etcd, start_new,
};

use crate::group::{leader, member};

#[test]
fn joining_is_refused_where_the_lists_differ_or_nobody_answers() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut first = [member(&work, "a")];
        let (b, c) = (member(&work, "b"), member(&work, "c"));
        let alone = b.with("existing", &[&b]).start_refused().await;
        alone.assert_says(&["lists no other member to ask"]);
        let nobody = b.with("existing", &[&first[0], &b]).start_refused().await;
        nobody.assert_says(&[
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
            "refused",
        ]);
        start_new(&mut first).await;
        let early = b.with("existing", &[&first[0], &b]).start_refused().await;
        early.assert_says(&[
            "error validating peerURLs {ClusterID:",
            "member count is unequal",
            "member add",
        ]);
        let client = first[0].client().await;
        client.member_add(&b.peer_url(), true).await.unwrap();
        let many = b.with("existing", &[&first[0], &b, &c]).start_refused().await;
        many.assert_says(&["member count is unequal"]);
        let other = c.with("existing", &[&first[0], &c]).start_refused().await;
        other.assert_says(&["PeerURLs: no match found for existing member"]);
        // None of them has left anything that a right start would stumble over.
        assert_eq!(client.member_list(true).await.unwrap().members.len(), 2);
        assert!(!b.launch.data_dir.join("IDENTITY").exists());
    });
}

/// `--initial-cluster-state=existing` compares the list with the members that there are. What the process
/// advertises is not part of that, and the cluster's own record stays.
#[test]
fn joining_member_may_advertise_another_url_than_it_was_added_with() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut a = [member(&work, "a")];
        let mut b = member(&work, "b");
        start_new(&mut a).await;
        let client = a[0].client().await;
        client.member_add(&b.peer_url(), false).await.unwrap();
        let list_of_both = format!("--initial-cluster=,a={},,b={},", a[0].peer_url(), b.peer_url());
        let launch = b.with("existing", &[]).flag(list_of_both);
        let launch = launch.flag("--initial-advertise-peer-urls=http://127.0.0.1:9");
        b.start_as(&launch).await;
        let listed = eventually(async || client.member_list(true).await).await.members;
        let own = listed.iter().find(|member| member.name == "b").expect("it has said its name");
        assert_eq!(own.peer_ur_ls, [b.peer_url()]);
        if !server_is_etcd() {
            b.server().says("--initial-advertise-peer-urls is not what the members have agreed on").await;
        }
        b.client().await.put_kv("k", "v").await.unwrap();
    });
}

#[test]
fn two_members_cannot_begin_under_one_name_or_one_address() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (a, b) = (member(&work, "a"), member(&work, "b"));
        let second = b.with("new", &[&a, &b]).flag("--name=a").start_refused().await;
        second.assert_says(&["--initial-cluster has a=", &b.peer_url(), "--initial-advertise-peer-urls"]);
        let shared = format!("--initial-cluster=a={0},b={0}", b.peer_url());
        b.with("new", &[]).flag(shared).start_refused().await.assert_says(&["is listed twice"]);
        let unlisted = b.with("new", &[&a, &b]).flag("--name=c").start_refused().await;
        unlisted.assert_says(&["couldn't find local name", "in the initial cluster configuration"]);
        assert!(!b.launch.data_dir.join("IDENTITY").exists());
    });
}

#[test]
fn members_of_two_clusters_refuse_each_other_and_both_say_so() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut members = [member(&work, "a"), member(&work, "b"), member(&work, "c")];
        let mut launches: Vec<_> = {
            let all: Vec<&Member> = members.iter().collect();
            members.iter().map(|member| member.with("new", &all)).collect()
        };
        launches[2].flags.push("--initial-cluster-token=another".to_owned());
        for (member, launch) in members.iter_mut().zip(&launches) {
            member.spawn_as(launch);
        }
        for member in &mut members[..2] {
            member.wait_ready().await;
        }
        for slot in [0, 2] {
            members[slot].server().says("cluster ID mismatch").await;
        }
        // It keeps asking, and the others keep serving.
        assert!(members[2].server_mut().is_running());
        members[0].client().await.put_kv("k", "v").await.unwrap();
    });
}

#[test]
fn data_of_another_member_is_noticed_and_two_processes_of_one_member_are_told_apart() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut members = [member(&work, "a"), member(&work, "b"), member(&work, "c")];
        start_new(&mut members).await;
        let client = members[0].client().await;
        client.put_kv("k", "v").await.unwrap();
        members[2].kill();
        let mut twin = member(&work, "twin");
        copy_tree(&members[2].launch.data_dir, &twin.launch.data_dir);
        members[2].start().await;
        twin.spawn().says("Is this the right --data-dir?").await;
        // Whichever started first is refused by the others, and says why.
        eventually(async || {
            let outputs = [twin.output(), members[2].output()];
            let is_told = outputs.iter().any(|output| output.contains("two processes run as one member"));
            if is_told { Ok(()) } else { Err(outputs) }
        })
        .await;
        drop(twin);
        eventually(async || client.put_kv("k", "w").await).await;
        eventually(async || match members[2].client().await.get("k").await {
            Ok(Some(value)) if value == "w" => Ok(()),
            other => Err(other),
        })
        .await;
    });
}

#[test]
fn older_copy_of_the_data_does_not_take_part() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut members = [member(&work, "a"), member(&work, "b"), member(&work, "c")];
        start_new(&mut members).await;
        let slot = (leader(&members).await + 1) % 3;
        // Not the leader, so that the one that leads remembers what it has acknowledged.
        let (own, old) = (members[slot].launch.data_dir.clone(), work.join("old"));
        members[slot].kill();
        copy_tree(&own, &old);
        members[slot].start().await;
        let client = members[slot].client().await;
        for number in 0..50 {
            client.put_kv(&format!("k/{number}"), "v").await.unwrap();
        }
        members[slot].kill();
        fs::remove_dir_all(&own).unwrap();
        copy_tree(&old, &own);
        members[slot].spawn();
        let exit = members[slot].wait_exit().await;
        assert_eq!(exit.status.code(), Some(65), "{}", exit.output);
        exit.assert_says(&["lacks what it once acknowledged", "add it again with an empty data directory"]);
    });
}
