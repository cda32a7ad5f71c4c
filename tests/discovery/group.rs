//! What both kinds of discovery are asked for: one cluster, with the same ids on all its members.

use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, Server, WorkDir};
use tokio::time::Instant;

/// What a log says, it says by then.
const LOG_DEADLINE: Duration = Duration::from_secs(20);

/// How to start a member that finds the others itself.
pub fn member(work: &WorkDir, name: &str) -> Launch {
    // Half of etcd's time for elections: a test should not wait for them.
    let mut launch =
        Launch::new(work.join(name)).flag("--heartbeat-interval=50").flag("--election-timeout=500");
    launch.name = name.to_owned();
    launch.discovers = true;
    launch
}

/// Waits until the member has written `word` into its log.
pub async fn until_it_says(server: &mut Server, word: &str) {
    let deadline = Instant::now() + LOG_DEADLINE;
    while !server.output().contains(word) {
        assert!(server.is_running(), "it ended before it said {word:?}:\n{}", server.output());
        assert!(Instant::now() < deadline, "it does not say {word:?}:\n{}", server.output());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts all, and waits until all serve.
pub async fn start(launches: &[Launch]) -> Vec<Server> {
    let mut servers: Vec<Server> = launches.iter().map(Launch::spawn).collect();
    for server in &mut servers {
        server.wait_ready().await.unwrap();
    }
    servers
}

/// The cluster's id, and of each member the id, peer URLs and name, in the order of ids.
pub async fn identities(server: &Server, members: usize) -> (u64, Vec<(u64, Vec<String>, String)>) {
    let client = server.connect().await;
    let deadline = Instant::now() + LOG_DEADLINE;
    loop {
        let list = client.member_list().await.unwrap();
        // A member has a name once it has published it.
        if list.members.iter().filter(|member| !member.name.is_empty()).count() == members {
            let of = |member: pb::Member| (member.id, member.peer_ur_ls, member.name);
            return (list.header.unwrap().cluster_id, list.members.into_iter().map(of).collect());
        }
        assert!(Instant::now() < deadline, "not {members} members: {list:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What one member takes the others have.
pub async fn check_one_cluster(servers: &[Server]) {
    servers[0].connect().await.put_kv("found", "each other").await.unwrap();
    for server in servers {
        let client: Client = server.connect().await;
        assert_eq!(client.get("found").await.unwrap().as_deref(), Some(&b"each other"[..]));
    }
    let first = identities(&servers[0], servers.len()).await;
    for server in &servers[1..] {
        assert_eq!(identities(server, servers.len()).await, first, "all tell of the same cluster");
    }
}
