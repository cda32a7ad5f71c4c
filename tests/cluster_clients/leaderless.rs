//! What a member says that has lost its quorum.

use std::time::Duration;

use pinion_kit::client::refusal;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on};
use tokio::time::Instant;

/// A fifth of etcd's, so that the test need not wait for its 7 s.
const FLAGS: [&str; 2] = ["--heartbeat-interval=20", "--election-timeout=200"];
const ELECTION: Duration = Duration::from_millis(200);
/// 5 s and two election timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(5_400);

#[test]
fn a_member_without_a_quorum_answers_in_etcds_words_and_at_etcds_times() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &FLAGS).await;
        let (leader, followers) = cluster.roles().await;
        let (alone, other) = (followers[0], followers[1]);
        let client = cluster.client(alone).await;
        let strict = client.clone().requiring_leader();
        client.put_kv("key", "value").await.unwrap();
        client.lease_grant(&pb::LeaseGrantRequest { id: 1, ttl: 60 }).await.unwrap();

        let (mut watch_requests, mut watch) = strict.watch().await.unwrap();
        watch_requests.create(pb::WatchCreateRequest { key: "key".into(), ..Default::default() }).unwrap();
        assert!(watch.next().await.unwrap().unwrap().created);
        let (mut renewals, mut renewed) = strict.keep_alive().await.unwrap();
        renewals.send(&pb::LeaseKeepAliveRequest { id: 1 }).unwrap();
        assert_eq!(renewed.next().await.unwrap().unwrap().ttl, 60);
        let (_observe, mut observed) = strict.observe("nobody").await.unwrap();
        let (mut easy_requests, mut easy) = client.watch().await.unwrap();
        easy_requests.create(pb::WatchCreateRequest { key: "key".into(), ..Default::default() }).unwrap();
        assert!(easy.next().await.unwrap().unwrap().created);

        let status = client.status().await.unwrap();
        assert!(status.leader != 0 && status.errors.is_empty() && !status.is_learner, "{status:?}");
        assert_eq!(status.header.unwrap().raft_term, status.raft_term);
        let killed = Instant::now();
        cluster.kill(leader);
        cluster.kill(other);
        let lost = loop {
            let status = client.status().await.unwrap();
            if status.leader == 0 {
                assert_eq!(status.errors, ["etcdserver: no leader"]);
                break Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        println!("known to have no leader {:?} after the kill", lost - killed);

        let no_leader = (14, "etcdserver: no leader".to_owned());
        let ended = async {
            for status in
                [refusal(watch.next().await), refusal(renewed.next().await), refusal(observed.next().await)]
            {
                assert_eq!(status, no_leader);
            }
            let after = lost.elapsed();
            println!("streams that want a leader ended {after:?} after it was lost");
            assert!(
                3 * ELECTION - Duration::from_millis(100) <= after
                    && after < 3 * ELECTION + Duration::from_secs(1),
                "{after:?}"
            );
        };
        let at_once = async {
            let start = Instant::now();
            assert_eq!(refusal(strict.put_kv("key", "other").await), no_leader);
            assert_eq!(refusal(strict.watch().await.unwrap().1.next().await), no_leader);
            assert!(start.elapsed() < Duration::from_secs(1));
            let stale = pb::RangeRequest { key: "key".into(), serializable: true, ..Default::default() };
            assert_eq!(client.range(&stale).await.unwrap().kvs[0].value, "value");
        };
        let in_time = |what: &'static str| {
            let start = Instant::now();
            move || {
                let waited = start.elapsed();
                println!("{what}: after {waited:?}");
                let early = REQUEST_TIMEOUT - Duration::from_millis(150);
                assert!(
                    early <= waited && waited < REQUEST_TIMEOUT + Duration::from_secs(2),
                    "{what}: {waited:?}"
                );
            }
        };
        let write = async {
            let check = in_time("write");
            let told = refusal(client.put_kv("key", "other").await);
            assert_eq!(told, (4, "context deadline exceeded".to_owned()));
            check();
        };
        let read = async {
            let check = in_time("linearizable read");
            let told = refusal(client.get("key").await);
            assert_eq!(told, (14, "etcdserver: request timed out".to_owned()));
            check();
        };
        let look_up = async {
            let check = in_time("time to live");
            assert_eq!(refusal(client.lease_time_to_live(1, false).await), no_leader);
            check();
        };
        let renewal = async {
            let check = in_time("keep-alive");
            let (mut renewals, mut renewed) = client.keep_alive().await.unwrap();
            renewals.send(&pb::LeaseKeepAliveRequest { id: 1 }).unwrap();
            assert_eq!(refusal(renewed.next().await), no_leader);
            check();
        };
        // Whoever comes later than the first one waits no shorter.
        let later = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let check = in_time("later write");
            let told = refusal(client.put_kv("key", "other").await);
            assert_eq!(told, (4, "context deadline exceeded".to_owned()));
            check();
        };
        tokio::join!(ended, at_once, write, read, look_up, renewal, later);
        let silent = tokio::time::timeout(Duration::from_millis(10), easy.next_unbounded()).await;
        assert!(silent.is_err(), "a watcher that does not care stays: {silent:?}");
    });
}
