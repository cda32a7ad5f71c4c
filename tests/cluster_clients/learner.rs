//! What a member without a vote says.

use pinion_kit::client::{Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on};

#[test]
fn a_learner_serves_status_and_stale_ranges_until_it_is_promoted() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &[]).await;
        let (leader, _) = cluster.roles().await;
        let voter = cluster.client(leader).await;
        voter.put_kv("key", "value").await.unwrap();
        cluster.add_learner(&voter).await;
        let port = cluster.client_port(3);
        let learner = loop {
            if let Ok(client) = Client::connect(port).await
                && client.status().await.is_ok_and(|status| status.is_learner && status.leader != 0)
            {
                break client;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        let stale = pb::RangeRequest { key: "key".into(), serializable: true, ..Default::default() };
        while learner.range(&stale).await.unwrap().kvs.first().is_none_or(|kv| kv.value != "value") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        // A client before 3.6 goes on to its next endpoint for Unavailable alone.
        for (version, code) in [(None, 14), (Some("3.5"), 14), (Some("3.6"), 9), (Some("3.7"), 9)] {
            let learner = learner.clone().speaking(version);
            let told = (code, "etcdserver: rpc not supported for learner".to_owned());
            assert_eq!(refusal(learner.get("key").await), told);
            assert_eq!(refusal(learner.put_kv("key", "other").await), told);
            assert_eq!(refusal(learner.member_list(false).await), told);
            assert_eq!(refusal(learner.leases().await), told);
            assert_eq!(refusal(learner.lease_time_to_live(1, false).await), told);
            assert_eq!(refusal(learner.watch().await.unwrap().1.next().await), told);
            assert_eq!(refusal(learner.keep_alive().await.unwrap().1.next().await), told);
        }

        voter.member_promote(cluster.ids[3]).await.unwrap();
        while learner.status().await.unwrap().is_learner {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        learner.put_kv("key", "by the new voter").await.unwrap();
        assert_eq!(voter.get("key").await.unwrap().unwrap(), "by the new voter");
    });
}
