//! A member whose data differs is found, named, and stops nothing but writes.

use std::time::Duration;

use pinion_kit::client::refusal;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::etcdserverpb::request_op::Request as Op;
use pinion_kit::{Cluster, TEST_DEADLINE, block_on, server_is_etcd, skip};
use tokio::time::Instant;

use crate::cluster::{start, wait_alarms};
use crate::{ACTIVATE, CORRUPT, DEACTIVATE, GET, forge};

const CORRUPT_CLUSTER: &str = "etcdserver: corrupt cluster";

/// A checkpoint after a few entries.
const FLAGS: &[&str] = &["--snapshot-count=5", "--checkpoint-bytes=1048576"];

/// Writes, one entry each, the first of them the one that will be forged.
async fn write_history(cluster: &Cluster) {
    let client = cluster.client(0).await;
    client.put_kv("victim", "value-as-written").await.unwrap();
    for number in 0..40 {
        client.put_kv(&format!("k{}", number % 7), &"x".repeat(200)).await.unwrap();
    }
}

/// Stops one that does not lead, and gives it another value.
async fn forge_follower(cluster: &mut Cluster) -> usize {
    let victim = (cluster.leader().await + 1) % 3;
    forge::wait_checkpoint(&cluster.launch(victim).data_dir, "value-as-written").await;
    cluster.terminate(victim).await;
    forge::exchange(&cluster.launch(victim).data_dir, "value-as-written", "value-as-damaged");
    victim
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), serializable: true, ..Default::default() }
}

#[test]
fn a_member_with_other_data_is_found_by_the_leader_and_writes_stop_until_the_alarm_is_lifted() {
    if server_is_etcd() {
        return skip("the files are Pinion's");
    }
    block_on(TEST_DEADLINE, async {
        let flags = [FLAGS, &["--corrupt-check-time=300ms"]].concat();
        let mut cluster = start(&flags).await;
        write_history(&cluster).await;
        let leader = cluster.leader().await;
        cluster.server(leader).says("data is the same").await;
        assert_eq!(wait_alarms(&cluster, 0).await, []);

        let victim = forge_follower(&mut cluster).await;
        cluster.server(cluster.leader().await).says("could not compare").await;
        assert_eq!(wait_alarms(&cluster, 0).await, [], "a member that is down is not one that differs");
        cluster.spawn(victim);
        cluster.wait_ready(victim).await;
        let client = cluster.client(victim).await;
        let found = client.range(&range("victim")).await.unwrap().kvs;
        assert_eq!(&*found[0].value, b"value-as-damaged", "or there is nothing to be found");

        let victim_id = cluster.ids[victim];
        let alarms = wait_alarms(&cluster, 1).await;
        assert_eq!((alarms[0].member_id, alarms[0].alarm), (victim_id, CORRUPT));
        let leader = cluster.leader().await;
        cluster.server(leader).says("members hold different data").await;
        for slot in 0..3 {
            let client = cluster.client(slot).await;
            assert_eq!(
                client.status().await.unwrap().errors,
                [format!("memberID:{victim_id} alarm:CORRUPT")]
            );
            assert_eq!(refusal(client.put_kv("k0", "y").await), (15, CORRUPT_CLUSTER.to_owned()));
            assert_eq!(client.get("k0").await.unwrap().unwrap().len(), 200);
        }

        // The wrong member's alarm is not this one; and what is not repaired is found again.
        let client = cluster.client(leader).await;
        assert_eq!(client.alarm(DEACTIVATE, CORRUPT, 77).await.unwrap().alarms, []);
        assert_eq!(client.alarm(DEACTIVATE, CORRUPT, victim_id).await.unwrap().alarms.len(), 1);
        assert_eq!(wait_alarms(&cluster, 1).await[0].member_id, victim_id);

        // Without the member that differs the alarm can be lifted for good.
        cluster.terminate(victim).await;
        let client = cluster.client(cluster.leader().await).await;
        client.alarm(DEACTIVATE, CORRUPT, victim_id).await.unwrap();
        client.put_kv("k0", "y").await.unwrap();
        assert_eq!(wait_alarms(&cluster, 0).await, []);
    });
}

#[test]
fn a_member_with_other_data_refuses_to_serve_when_it_is_told_to_look_first() {
    if server_is_etcd() {
        return skip("the files are Pinion's");
    }
    block_on(TEST_DEADLINE, async {
        let flags = [FLAGS, &["--feature-gates=InitialCorruptCheck=true"]].concat();
        let mut cluster = start(&flags).await;
        write_history(&cluster).await;
        let victim = forge_follower(&mut cluster).await;
        cluster.spawn(victim);
        let exit = cluster.wait_exit(victim).await;
        assert_eq!(exit.status.code(), Some(65), "{}", exit.output);
        exit.assert_says(&["differs from that of others", "hash", "empty --data-dir"]);
        assert!(!exit.output.contains("ready to serve"), "{}", exit.output);

        // The others serve, and one of them starts again beside the wreck: a majority agrees with it.
        forge::exchange(&cluster.launch(victim).data_dir, "value-as-damaged", "value-as-written");
        cluster.spawn(victim);
        cluster.wait_ready(victim).await;
        let client = cluster.client(victim).await;
        assert_eq!(client.get("victim").await.unwrap().as_deref(), Some(&b"value-as-written"[..]));
        cluster.server(victim).says("data is the same").await;
    });
}

#[test]
fn what_a_compaction_left_is_compared_where_the_gate_is_open() {
    if server_is_etcd() {
        return skip("the files are Pinion's");
    }
    block_on(TEST_DEADLINE, async {
        let gates = ["--feature-gates=CompactHashCheck=true", "--compact-hash-check-time=200ms"];
        let flags = [FLAGS, &gates].concat();
        let mut cluster = start(&flags).await;
        write_history(&cluster).await;
        let victim = forge_follower(&mut cluster).await;
        cluster.spawn(victim);
        cluster.wait_ready(victim).await;
        assert_eq!(wait_alarms(&cluster, 0).await, [], "nothing was compacted, so nothing was compared");
        let leader = cluster.leader().await;
        let client = cluster.client(leader).await;
        client.compact(&pb::CompactionRequest { revision: 30, physical: false }).await.unwrap();
        let alarms = wait_alarms(&cluster, 1).await;
        assert_eq!((alarms[0].member_id, alarms[0].alarm), (cluster.ids[victim], CORRUPT));
    });
}

#[test]
fn alarms_are_the_same_on_every_member_and_survive_restarts_with_and_without_a_checkpoint() {
    if server_is_etcd() {
        return skip("three members of etcd are not what is tested");
    }
    block_on(TEST_DEADLINE, async {
        let mut cluster = start(FLAGS).await;
        let client = cluster.client(0).await;
        // Long enough to be there when nothing may change any more, on a loaded machine too.
        let lease = client.lease_grant(&pb::LeaseGrantRequest { id: 7, ttl: 6 }).await.unwrap();
        let granted = Instant::now();
        let held = pb::PutRequest { key: "held".into(), lease: lease.id, ..Default::default() };
        client.put(&held).await.unwrap();
        client.alarm(ACTIVATE, CORRUPT, 5).await.unwrap();
        assert_eq!(wait_alarms(&cluster, 1).await[0].member_id, 5);
        for slot in 0..3 {
            let client = cluster.client(slot).await;
            let nested = pb::TxnRequest { success: vec![], ..Default::default() };
            let op = pb::RequestOp { request: Some(Op::RequestTxn(nested)) };
            let txn = pb::TxnRequest { success: vec![op], ..Default::default() };
            let corrupt = (15, CORRUPT_CLUSTER.to_owned());
            assert_eq!(refusal(client.txn(&txn).await), corrupt);
            assert_eq!(refusal(client.lease_revoke(7).await), corrupt);
            let compaction = pb::CompactionRequest { revision: 2, physical: true };
            assert_eq!(refusal(client.compact(&compaction).await), corrupt);
        }
        for slot in 0..3 {
            cluster.terminate(slot).await;
            cluster.spawn(slot);
            cluster.wait_ready(slot).await;
            assert_eq!(cluster.client(slot).await.alarm(GET, 0, 0).await.unwrap().alarms.len(), 1);
        }
        // Its time is over, and it is there as long as nothing may change.
        let client = cluster.client(1).await;
        tokio::time::sleep_until(granted + Duration::from_secs(7)).await;
        assert!(client.get("held").await.unwrap().is_some());
        client.alarm(DEACTIVATE, CORRUPT, 5).await.unwrap();
        for number in 0..40 {
            client.put_kv(&format!("k{number}"), "v").await.unwrap();
        }
        while client.get("held").await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.terminate(2).await;
        cluster.spawn(2);
        cluster.wait_ready(2).await;
        assert_eq!(wait_alarms(&cluster, 0).await, []);
    });
}
