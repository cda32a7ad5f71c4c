//! Watch, Lock and Election through members that do not lead.

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::v3electionpb as election;
use pinion_kit::pb::v3lockpb as lock;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on};

#[test]
fn locks_elections_and_watchers_work_across_members() {
    block_on(TEST_DEADLINE, async {
        let cluster = Cluster::start(3, &[]).await;
        let (_, followers) = cluster.roles().await;
        let (a, b) = (cluster.client(followers[0]).await, cluster.client(followers[1]).await);
        for id in [1, 2] {
            a.lease_grant(&pb::LeaseGrantRequest { id, ttl: 60 }).await.unwrap();
        }
        let (mut requests, mut answers) = a.watch().await.unwrap();
        requests.create(pb::WatchCreateRequest { key: "key".into(), ..Default::default() }).unwrap();
        assert!(answers.next().await.unwrap().unwrap().created);
        let put = b.put_kv("key", "value").await.unwrap().header.unwrap();
        let event = answers.next().await.unwrap().unwrap();
        assert_eq!((event.events.len(), event.header.unwrap().revision), (1, put.revision));

        let request = |lease| lock::LockRequest { name: "lock".into(), lease };
        let held = a.lock(&request(1)).await.unwrap();
        let second = request(2);
        let mut waits = std::pin::pin!(b.lock(&second));
        tokio::select! {
            taken = &mut waits => panic!("taken twice: {taken:?}"),
            written = b.put_kv("other", "value") => drop(written.unwrap()),
        }
        a.unlock(held.key).await.unwrap();
        assert_eq!(waits.await.unwrap().key, "lock/2");

        let campaign = |lease, value: &'static str| election::CampaignRequest {
            name: "vote".into(),
            lease,
            value: value.into(),
        };
        let (_requests, mut observed) = b.observe("vote").await.unwrap();
        let won = a.campaign(&campaign(1, "first")).await.unwrap();
        assert_eq!(observed.next().await.unwrap().unwrap().kv.unwrap().value, "first");
        a.resign(won.leader).await.unwrap();
        b.campaign(&campaign(2, "second")).await.unwrap();
        assert_eq!(observed.next().await.unwrap().unwrap().kv.unwrap().value, "second");
    });
}
