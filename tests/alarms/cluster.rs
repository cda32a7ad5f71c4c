//! Three members, and what is waited for in these tests.

use pinion_kit::client::CallError;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, eventually};

use crate::GET;

/// Three members with these flags, all of which serve.
pub async fn start(flags: &[&str]) -> Cluster {
    let own = ["--heartbeat-interval=20", "--election-timeout=200", "--wal-sync=mmap"];
    Cluster::start(3, &[&own, flags].concat()).await
}

/// Asks every member that runs until all of them list this many alarms.
pub async fn wait_alarms(cluster: &Cluster, count: usize) -> Vec<pb::AlarmMember> {
    eventually(async || {
        let (mut running, mut listed) = (0, Vec::new());
        for member in cluster.members.iter().filter(|member| member.runs()) {
            running += 1;
            match member.client().await.alarm(GET, 0, 0).await {
                Ok(answer) => listed.push(answer.alarms),
                // A leader may be on its way out.
                Err(CallError::Status { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let is_so = listed.len() == running && listed.iter().all(|alarms| alarms.len() == count);
        if is_so { Ok(listed.swap_remove(0)) } else { Err(format!("not {count} alarms but {listed:?}")) }
    })
    .await
}
