//! Leases when their leader is stopped for longer than they live, and when leaders change faster than that.

use std::time::Duration;

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Cluster, block_on};
use tokio::time::Instant;

use crate::{FAST, TEST_DEADLINE};

const TTL: Duration = Duration::from_secs(4);

/// How long each leader leads. After two fifths of a lease's life it notes in the log how much is left.
const TENURE: Duration = Duration::from_secs(2);

/// A leader's looking, the way through the log, an election, a loaded machine.
const SLACK: Duration = Duration::from_secs(2);

async fn grant(client: &Client, id: i64, key: &str) {
    let ttl = TTL.as_secs().cast_signed();
    client.lease_grant(&pb::LeaseGrantRequest { id, ttl }).await.unwrap();
    let put = pb::PutRequest { key: key.to_owned().into(), lease: id, ..Default::default() };
    client.put(&put).await.unwrap();
}

/// One renewal, on a stream of its own.
async fn renew(client: &Client, id: i64) -> Result<i64, CallError> {
    let (mut requests, mut answers) = client.keep_alive().await?;
    requests.send(&pb::LeaseKeepAliveRequest { id })?;
    let ended = || CallError::Transport("the stream ended".to_owned());
    Ok(answers.next().await?.ok_or_else(ended)?.ttl)
}

#[test]
fn a_leader_that_slept_longer_than_a_lease_does_not_end_what_was_renewed_at_the_next() {
    block_on(TEST_DEADLINE, async {
        let cluster = Cluster::start(3, &FAST).await;
        let asleep = cluster.leader().await;
        let client = Client::connect(cluster.client_port((asleep + 1) % 3)).await.unwrap();
        grant(&client, 1, "renewed").await;
        grant(&client, 2, "abandoned").await;
        let granted = Instant::now();
        cluster.signal(asleep, "STOP");
        // A lease that was abandoned ends in time at the next leader; the other one lives.
        let mut renewed = granted;
        let until = granted + TTL + TTL / 2;
        while Instant::now() < until {
            let asked = Instant::now();
            if let Ok(Ok(ttl)) = tokio::time::timeout(Duration::from_secs(1), renew(&client, 1)).await {
                assert_eq!(ttl, TTL.as_secs().cast_signed(), "the lease was renewed all the time");
                renewed = asked;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(granted + TTL < renewed, "it was not renewed at the next leader");
        cluster.signal(asleep, "CONT");
        // What the old leader believes is due it may propose now, in vain.
        while renewed.elapsed() < TTL {
            assert!(client.get("renewed").await.unwrap().is_some(), "ended {:?} after", renewed.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while client.get("renewed").await.unwrap().is_some() {
            assert!(renewed.elapsed() < TTL + SLACK, "never ends");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("ended {:?} after its last renewal, of {TTL:?}", renewed.elapsed());
        assert!(client.get("abandoned").await.unwrap().is_none());
    });
}

#[test]
fn leases_end_in_bounded_time_though_no_leader_lives_as_long_as_they_do() {
    block_on(TEST_DEADLINE, async {
        let cluster = Cluster::start(3, &FAST).await;
        let mut leader = cluster.leader().await;
        let client = Client::connect(cluster.client_port((leader + 1) % 3)).await.unwrap();
        grant(&client, 1, "leased").await;
        let granted = Instant::now();
        let mut changes = 0;
        let mut due = granted + TENURE;
        while client.get("leased").await.unwrap().is_some() {
            assert!(granted.elapsed() < 3 * TTL, "a lease of {TTL:?} lives on after {changes} leaders");
            if due <= Instant::now() {
                leader = (leader + 1) % 3;
                cluster.lead(leader).await;
                changes += 1;
                due = Instant::now() + TENURE;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(1 <= changes, "no leader changed");
        println!("a lease of {TTL:?} ended after {:?} and {changes} changes of leader", granted.elapsed());
        assert!(TTL <= granted.elapsed(), "early");
    });
}
