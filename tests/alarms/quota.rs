//! A member that holds as much as it may: what adds is refused everywhere until space was made.

use std::time::Duration;

use pinion_kit::client::refusal;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{TEST_DEADLINE, block_on, server_is_etcd, skip};

use crate::cluster::{start, wait_alarms};
use crate::{DEACTIVATE, NO_SPACE};

const QUOTA: i64 = 3_000_000;

#[test]
fn a_full_member_stops_what_adds_until_space_was_made_and_the_alarm_is_lifted() {
    if server_is_etcd() {
        return skip("etcd counts pages of its file");
    }
    block_on(TEST_DEADLINE, async {
        let cluster = start(&[&format!("--quota-backend-bytes={QUOTA}")]).await;
        let client = cluster.client(0).await;
        assert_eq!(client.status().await.unwrap().db_size_quota, QUOTA);
        let value = "x".repeat(50_000);
        let mut written = 0;
        let refused = loop {
            match client.put_kv("fat", &value).await {
                Ok(_) => written += 1,
                Err(error) => break refusal::<()>(Err(error)),
            }
            assert!(written < 1_000, "50 MB in 3 MB");
        };
        assert_eq!(refused, (8, "etcdserver: mvcc: database space exceeded".to_owned()));
        assert!(30 < written, "refused after {written} puts");
        // Each member has reached it and says so.
        let alarms = wait_alarms(&cluster, 3).await;
        assert!(alarms.iter().all(|alarm| alarm.alarm == NO_SPACE));
        let current =
            client.range(&pb::RangeRequest { key: "fat".into(), ..Default::default() }).await.unwrap();
        let revision = current.header.unwrap().revision;

        client.delete(&pb::DeleteRangeRequest { key: "fat".into(), ..Default::default() }).await.unwrap();
        client.compact(&pb::CompactionRequest { revision: revision + 1, physical: true }).await.unwrap();
        for slot in 0..3 {
            let client = cluster.client(slot).await;
            while QUOTA <= client.status().await.unwrap().db_size {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(refusal(client.put_kv("thin", "x").await).0, 8, "it is not lifted by itself");
        for alarmed in alarms {
            client.alarm(DEACTIVATE, NO_SPACE, alarmed.member_id).await.unwrap();
        }
        client.put_kv("thin", "x").await.unwrap();
        assert_eq!(wait_alarms(&cluster, 0).await, []);
    });
}

#[test]
fn a_value_that_would_not_fit_is_refused_before_it_is_written() {
    block_on(TEST_DEADLINE, async {
        let cluster = start(&[&format!("--quota-backend-bytes={QUOTA}")]).await;
        let follower = cluster.client(2).await;
        let value = "x".repeat(1_500_000);
        follower.put_kv("first", &value).await.unwrap();
        let refused = refusal(follower.put_kv("second", &value).await);
        assert_eq!(refused, (8, "etcdserver: mvcc: database space exceeded".to_owned()));
        // Only the member that was asked knows, so its alarm is the one that tells.
        let id = follower.status().await.unwrap().header.unwrap().member_id;
        wait_alarms(&cluster, 1).await.iter().for_each(|alarm| assert_eq!(alarm.member_id, id));
        let all = pb::RangeRequest {
            key: "a".into(),
            range_end: "z".into(),
            count_only: true,
            ..Default::default()
        };
        assert_eq!(follower.range(&all).await.unwrap().count, 1);
    });
}
