//! The alarm calls and what they refuse, beside a real etcd, field by field.
//!
//! Not sent, since they end that etcd: an unknown action, and an unknown alarm to be raised. Not sent,
//! since 3.4, which Debian has, differs from 3.7: raising alarm 0, which 3.4 lists as an alarm, and a put
//! inside a nested transaction, which 3.4 takes for one that needs no space, and one of two alarms lifted,
//! after which 3.4 refuses nothing until its next start. Headers of alarm answers,
//! which 3.4 leaves out, are masked.

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::etcdserverpb::request_op::Request as Op;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, installed};

use crate::{ACTIVATE, CORRUPT, DEACTIVATE, GET, NO_SPACE};

/// An answer without what differs between two servers.
fn shown<T: std::fmt::Debug>(answer: Result<T, CallError>, revision: impl Fn(&T) -> i64) -> String {
    match answer {
        Ok(answer) => format!("rev {}", revision(&answer)),
        Err(error) => error.to_string(),
    }
}

async fn one_alarm(client: &Client, action: i32, kind: i32, member: u64) -> String {
    match client.alarm(action, kind, member).await {
        Ok(answer) => {
            let mut alarms: Vec<(u64, i32)> =
                answer.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect();
            // etcd lists them in any order.
            alarms.sort_unstable();
            // Before 3.5 the answer has no header.
            format!("{alarms:?}")
        }
        Err(error) => error.to_string(),
    }
}

/// Every call that an alarm may refuse, and some that it never does.
async fn calls(client: &Client) -> Vec<String> {
    let put = |key: &str| pb::PutRequest { key: key.to_owned().into(), ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let get = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: "none".into(), ..Default::default() };
    let txns = [
        pb::TxnRequest { success: vec![op(Op::RequestPut(put("t")))], ..Default::default() },
        pb::TxnRequest { failure: vec![op(Op::RequestPut(put("t")))], ..Default::default() },
        pb::TxnRequest { success: vec![op(Op::RequestDeleteRange(delete.clone()))], ..Default::default() },
        pb::TxnRequest { success: vec![op(Op::RequestRange(get.clone()))], ..Default::default() },
        pb::TxnRequest::default(),
    ];
    let revision = |header: &Option<pb::ResponseHeader>| header.as_ref().unwrap().revision;
    let mut told = vec![
        shown(client.put(&put("a")).await, |answer| revision(&answer.header)),
        shown(client.put(&pb::PutRequest { lease: 99, ..put("a") }).await, |answer| revision(&answer.header)),
        shown(client.put(&put("")).await, |answer| revision(&answer.header)),
        shown(client.delete(&delete).await, |answer| revision(&answer.header)),
        shown(client.range(&get).await, |answer| revision(&answer.header)),
    ];
    for txn in &txns {
        told.push(shown(client.txn(txn).await, |answer| revision(&answer.header)));
    }
    let grant = pb::LeaseGrantRequest { id: 5, ttl: 60 };
    told.push(shown(client.lease_grant(&grant).await, |answer| revision(&answer.header)));
    told.push(shown(client.lease_revoke(5).await, |answer| revision(&answer.header)));
    told.push(shown(client.lease_revoke(6).await, |answer| revision(&answer.header)));
    let compaction = pb::CompactionRequest { revision: 1_000, physical: false };
    told.push(shown(client.compact(&compaction).await, |answer| revision(&answer.header)));
    let mut errors = client.status().await.unwrap().errors;
    // 3.7's text form has no blank at the end.
    errors.iter_mut().for_each(|error| error.truncate(error.trim_end().len()));
    errors.sort_unstable();
    told.push(errors.join(", "));
    told
}

async fn play(client: &Client) -> Vec<String> {
    let mut told = calls(client).await;
    let steps = [
        (GET, 0, 0),
        (DEACTIVATE, 0, 7),
        (DEACTIVATE, CORRUPT, 7),
        (ACTIVATE, NO_SPACE, 7),
        (ACTIVATE, NO_SPACE, 7),
        (GET, 0, 3),
        (GET, NO_SPACE, 3),
        (GET, CORRUPT, 3),
        (GET, 77, 3),
        (DEACTIVATE, 77, 3),
        (DEACTIVATE, NO_SPACE, 8),
        (DEACTIVATE, NO_SPACE, 7),
        (ACTIVATE, CORRUPT, u64::MAX),
        (GET, 0, 0),
        (DEACTIVATE, CORRUPT, u64::MAX),
        (GET, 0, 0),
        (ACTIVATE, NO_SPACE, 9),
        (ACTIVATE, CORRUPT, 9),
        (GET, 0, 0),
    ];
    for (action, kind, member) in steps {
        told.push(format!("{action} {kind} {member}: {}", one_alarm(client, action, kind, member).await));
        told.extend(calls(client).await);
    }
    told
}

#[test]
fn alarm_calls_and_refusals_are_etcds() {
    let Some(etcd) = installed("etcd") else { return };
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let quick = |launch: Launch| launch.flag("--heartbeat-interval=10").flag("--election-timeout=100");
        let reference = quick(Launch::binary(etcd, work.join("reference"))).start().await;
        let subject = quick(Launch::new(work.join("subject"))).start().await;
        let expected = play(&reference.connect().await).await;
        let told = play(&subject.connect().await).await;
        assert!(expected.iter().any(|line| line.contains("database space exceeded")), "{expected:?}");
        assert!(expected.iter().any(|line| line.contains("corrupt cluster")), "{expected:?}");
        for (place, (expected, told)) in expected.iter().zip(&told).enumerate() {
            assert_eq!(told, expected, "answer {place}");
        }
        assert_eq!(told.len(), expected.len());
        println!("{} answers, no difference", told.len());
    });
}
