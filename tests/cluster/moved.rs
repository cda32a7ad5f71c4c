//! Members that come back under other addresses than the cluster knows.

use std::time::Duration;

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, eventually, free_port};

/// Gives a stopped member another peer address, and starts it there.
pub fn move_and_spawn(cluster: &mut Cluster, member: usize) {
    cluster.members[member].launch.peer_port = free_port();
    cluster.spawn(member);
}

/// Tells the cluster where the member is now.
pub async fn update(cluster: &Cluster, client: &Client, member: usize) {
    update_to(cluster, client, member, cluster.members[member].peer_url()).await;
}

/// The same, at a URL of the test's.
pub async fn update_to(cluster: &Cluster, client: &Client, member: usize, url: String) {
    let request = pb::MemberUpdateRequest { id: cluster.ids[member], peer_ur_ls: vec![url] };
    let answer: pb::MemberUpdateResponse =
        eventually(async || client.unary("/etcdserverpb.Cluster/MemberUpdate", &request).await).await;
    drop(answer);
}

/// Every member takes a write, and all have it.
pub async fn check_all_write(cluster: &mut Cluster) {
    for member in 0..cluster.count() {
        let client = cluster.client(member).await;
        let key = format!("through m{member}");
        eventually(async || client.put_kv(&key, "x").await).await;
    }
    let revision = tokio::time::timeout(Duration::from_secs(30), cluster.settle()).await.unwrap();
    cluster.assert_equal_hashes(revision).await;
}
