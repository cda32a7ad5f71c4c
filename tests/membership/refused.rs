//! Starts that must not be, and mistakes that are said in the log.

use std::fs;

use pinion_kit::{TEST_DEADLINE, WorkDir, block_on, server_is_etcd};

use crate::group::{Node, add, eventually, leader, list, start_new};

#[test]
fn joining_is_refused_where_the_lists_differ_or_nobody_answers() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut first = [Node::new(&work, "a")];
        let (b, c) = (Node::new(&work, "b"), Node::new(&work, "c"));
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
        add(&client, &b.peer_url(), true).await.unwrap();
        let many = b.with("existing", &[&first[0], &b, &c]).start_refused().await;
        many.assert_says(&["member count is unequal"]);
        let other = c.with("existing", &[&first[0], &c]).start_refused().await;
        other.assert_says(&["PeerURLs: no match found for existing member"]);
        // None of them has left anything that a right start would stumble over.
        assert_eq!(list(&client).await.unwrap().members.len(), 2);
        assert!(!b.launch.data_dir.join("IDENTITY").exists());
    });
}

/// `--initial-cluster-state=existing` compares the list with the members that there are. What the process
/// advertises is not part of that, and the cluster's own record stays.
#[test]
fn joining_member_may_advertise_another_url_than_it_was_added_with() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut a = [Node::new(&work, "a")];
        let mut b = Node::new(&work, "b");
        start_new(&mut a).await;
        let client = a[0].client().await;
        add(&client, &b.peer_url(), false).await.unwrap();
        let list_of_both = format!("--initial-cluster=,a={},,b={},", a[0].peer_url(), b.peer_url());
        let launch = b.with("existing", &[]).flag(list_of_both);
        let launch = launch.flag("--initial-advertise-peer-urls=http://127.0.0.1:9");
        b.server = Some(launch.start().await);
        let members = eventually(async || list(&client).await).await.members;
        let own = members.iter().find(|member| member.name == "b").expect("it has said its name");
        assert_eq!(own.peer_ur_ls, [b.peer_url()]);
        if !server_is_etcd() {
            b.server().says("--initial-advertise-peer-urls is ignored").await;
        }
        b.client().await.put_kv("k", "v").await.unwrap();
    });
}

#[test]
fn two_members_cannot_begin_under_one_name_or_one_address() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (a, b) = (Node::new(&work, "a"), Node::new(&work, "b"));
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
        let mut nodes = [Node::new(&work, "a"), Node::new(&work, "b"), Node::new(&work, "c")];
        let launches: Vec<_> = {
            let all: Vec<&Node> = nodes.iter().collect();
            nodes.iter().map(|node| node.with("new", &all)).collect()
        };
        nodes[0].server = Some(launches[0].spawn());
        nodes[1].server = Some(launches[1].spawn());
        nodes[2].server = Some(launches[2].clone().flag("--initial-cluster-token=another").spawn());
        for node in &mut nodes[..2] {
            node.server().wait_ready().await.unwrap();
        }
        for slot in [0, 2] {
            eventually(async || {
                let output = nodes[slot].server.as_ref().unwrap().output();
                if output.contains("cluster ID mismatch") { Ok(()) } else { Err(output) }
            })
            .await;
        }
        // It keeps asking, and the others keep serving.
        assert!(nodes[2].server().is_running());
        nodes[0].client().await.put_kv("k", "v").await.unwrap();
    });
}

#[test]
fn data_of_another_member_is_noticed_and_two_processes_of_one_member_are_told_apart() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let mut nodes = [Node::new(&work, "a"), Node::new(&work, "b"), Node::new(&work, "c")];
        start_new(&mut nodes).await;
        let client = nodes[0].client().await;
        client.put_kv("k", "v").await.unwrap();
        nodes[2].server = None;
        let twin = Node::new(&work, "twin");
        copy_dir(&nodes[2].launch.data_dir, &twin.launch.data_dir);
        let launch = nodes[2].launch.clone();
        nodes[2].server = Some(launch.start().await);
        let twin = twin.launch.spawn();
        eventually(async || {
            let output = twin.output();
            if output.contains("Is this the right --data-dir?") { Ok(()) } else { Err(output) }
        })
        .await;
        // Whichever started first is refused by the others, and says why.
        eventually(async || {
            let outputs = [twin.output(), nodes[2].server.as_ref().unwrap().output()];
            let is_told = outputs.iter().any(|output| output.contains("two processes run as one member"));
            if is_told { Ok(()) } else { Err(outputs) }
        })
        .await;
        drop(twin);
        eventually(async || client.put_kv("k", "w").await).await;
        eventually(async || match nodes[2].client().await.get("k").await {
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
        let mut nodes = [Node::new(&work, "a"), Node::new(&work, "b"), Node::new(&work, "c")];
        start_new(&mut nodes).await;
        let slot = (leader(&nodes).await + 1) % 3;
        // Not the leader, so that the one that leads remembers what it has acknowledged.
        let old = work.join("old");
        nodes[slot].server().kill();
        copy_dir(&nodes[slot].launch.data_dir, &old);
        let launch = nodes[slot].launch.clone();
        nodes[slot].server = Some(launch.start().await);
        let client = nodes[slot].client().await;
        for number in 0..50 {
            client.put_kv(&format!("k/{number}"), "v").await.unwrap();
        }
        nodes[slot].server().kill();
        fs::remove_dir_all(&launch.data_dir).unwrap();
        copy_dir(&old, &launch.data_dir);
        let mut server = launch.spawn();
        let exit = server.wait_exit().await;
        assert_eq!(exit.status.code(), Some(65), "{}", exit.output);
        exit.assert_says(&["lacks what it once acknowledged", "add it again with an empty data directory"]);
    });
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
