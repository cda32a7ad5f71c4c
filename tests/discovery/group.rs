//! What both kinds of discovery are asked for: one cluster, with the same ids on all its members.

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, WorkDir, eventually};

/// How to start a member that finds the others itself.
pub fn member(work: &WorkDir, name: &str) -> Launch {
    // Half of etcd's time for elections: a test should not wait for them.
    let launch = Launch::new(work.join(name)).named(name);
    let launch = launch.flag("--heartbeat-interval=50").flag("--election-timeout=500");
    Launch { discovers: true, ..launch }
}

/// The cluster's id, and of each member the id, peer URLs and name, in the order of ids.
pub async fn identities(server: &Server, members: usize) -> (u64, Vec<(u64, Vec<String>, String)>) {
    let client = server.connect().await;
    let list = eventually(async || {
        let list = client.member_list(false).await.unwrap();
        // A member has a name once it has published it.
        let named = list.members.iter().filter(|member| !member.name.is_empty()).count();
        if named == members { Ok(list) } else { Err(list) }
    })
    .await;
    let of = |member: pb::Member| (member.id, member.peer_ur_ls, member.name);
    (list.header.unwrap().cluster_id, list.members.into_iter().map(of).collect())
}

/// What one member takes the others have.
pub async fn check_one_cluster(servers: &[Server]) {
    servers[0].connect().await.put_kv("found", "each other").await.unwrap();
    for server in servers {
        let found = server.connect().await.get("found").await.unwrap();
        assert_eq!(found.as_deref(), Some(&b"each other"[..]));
    }
    let first = identities(&servers[0], servers.len()).await;
    for server in &servers[1..] {
        assert_eq!(identities(server, servers.len()).await, first, "all tell of the same cluster");
    }
}
