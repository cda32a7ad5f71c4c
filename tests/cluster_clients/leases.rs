//! Leases whose clients talk to followers.

use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on};
use tokio::time::Instant;

async fn grant(client: &Client, id: i64, ttl: i64) {
    let granted = client.lease_grant(&pb::LeaseGrantRequest { id, ttl }).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (id, ttl));
    let key = format!("leased/{id}");
    client.put(&pb::PutRequest { key: key.into(), lease: id, ..Default::default() }).await.unwrap();
}

/// Renews a lease every so often for a time; when the last renewal that was answered was asked.
async fn keep_alive(client: &Client, id: i64, ttl: i64, for_time: Duration) -> Result<Instant, CallError> {
    let member = client.status().await?.header.unwrap().member_id;
    let (mut requests, mut answers) = client.keep_alive().await?;
    let end = Instant::now() + for_time;
    loop {
        let asked = Instant::now();
        requests.send(&pb::LeaseKeepAliveRequest { id })?;
        let answer = answers.next().await?.expect("the stream is not half closed");
        assert_eq!((answer.id, answer.ttl), (id, ttl));
        assert_eq!(answer.header.unwrap().member_id, member, "the header is the answering member's");
        if end <= Instant::now() {
            return Ok(asked);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn is_there(client: &Client, id: i64) -> bool {
    client.get(&format!("leased/{id}")).await.unwrap().is_some()
}

async fn until_gone(client: &Client, id: i64) -> Instant {
    while is_there(client, id).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Instant::now()
}

#[test]
fn leases_are_kept_alive_through_followers_and_none_ends_early_when_the_leader_is_killed() {
    block_on(TEST_DEADLINE, async {
        let mut cluster = Cluster::start(3, &[]).await;
        let (leader, followers) = cluster.roles().await;
        let client = cluster.client(followers[0]).await;
        let other = cluster.client(followers[1]).await;
        grant(&client, 1, 2).await;
        // Longer than it lives, through both followers at once.
        let through = Duration::from_millis(3_500);
        let (a, b) = tokio::join!(keep_alive(&client, 1, 2, through), keep_alive(&other, 1, 2, through));
        a.and(b).unwrap();
        assert!(is_there(&client, 1).await);
        for member in 0..3 {
            let lives = cluster.client(member).await.lease_time_to_live(1, true).await.unwrap();
            assert!((0..=2).contains(&lives.ttl), "m{member}: {} s left", lives.ttl);
            assert_eq!((lives.granted_ttl, &lives.keys[..]), (2, &["leased/1".into()][..]), "m{member}");
            let unknown = cluster.client(member).await.lease_time_to_live(99, false).await.unwrap();
            assert_eq!((unknown.ttl, unknown.granted_ttl), (-1, 0), "m{member}");
        }

        // Two that nobody keeps alive: their time began before, and may begin anew, but never early.
        grant(&client, 2, 3).await;
        let granted = Instant::now();
        cluster.kill(leader);
        let killed = Instant::now();
        let renewed = keep_alive(&client, 1, 2, Duration::from_secs(2)).await.unwrap();
        println!("renewed through a follower {:?} after the kill and before", killed.elapsed());
        let (gone_first, gone_second) = tokio::join!(until_gone(&client, 1), until_gone(&client, 2));
        let (first, second) = (gone_first - renewed, gone_second - granted);
        println!(
            "a lease of 2 s ended {first:?} after its last renewal, one of 3 s {second:?} after its grant"
        );
        assert!(Duration::from_secs(2) <= first, "a lease of 2 s ended after {first:?}");
        // Half a second of the leader's looking, an election timeout, and a loaded machine.
        assert!(first < Duration::from_millis(4_500), "a lease of 2 s ended after {first:?}");
        assert!(Duration::from_secs(3) <= second, "a lease of 3 s ended after {second:?}");
        assert!(second < Duration::from_secs(9), "a lease of 3 s ended after {second:?}");
    });
}

#[test]
fn thousands_of_renewals_through_a_follower_share_calls_and_are_answered_in_order() {
    block_on(TEST_DEADLINE, async {
        let cluster = Cluster::start(3, &[]).await;
        let (_, followers) = cluster.roles().await;
        let client = cluster.client(followers[0]).await;
        for id in 1..=20 {
            client.lease_grant(&pb::LeaseGrantRequest { id, ttl: 100 + id }).await.unwrap();
        }
        let start = Instant::now();
        let streams = (0..8).map(|_| async {
            let (mut requests, mut answers) = client.keep_alive().await.unwrap();
            for id in (1..=21).cycle().take(500) {
                requests.send(&pb::LeaseKeepAliveRequest { id }).unwrap();
            }
            for id in (1..=21).cycle().take(500) {
                let answer = answers.next().await.unwrap().unwrap();
                let ttl = if id == 21 { 0 } else { 100 + id };
                assert_eq!((answer.id, answer.ttl), (id, ttl));
            }
        });
        side_by_side(streams.collect()).await;
        println!("4000 renewals through a follower took {:?}", start.elapsed());
    });
}

/// All of them, side by side.
async fn side_by_side(futures: Vec<impl Future<Output = ()>>) {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        waiting.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
