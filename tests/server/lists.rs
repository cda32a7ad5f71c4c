//! Lists of many keys beside other calls.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, server_is_etcd, skip};

const KEYS: usize = 20_000;

const LISTS: usize = 30;

#[test]
fn what_comes_behind_many_lists_waits_for_one_of_them_and_not_for_all() {
    if server_is_etcd() {
        return skip("etcd answers side by side");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        for first in (0..KEYS).step_by(100) {
            let put = |number: usize| {
                let put = pb::PutRequest { key: format!("k/{number:06}").into(), ..Default::default() };
                pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
            };
            let success = (first..first + 100).map(put).collect();
            client.txn(&pb::TxnRequest { success, ..Default::default() }).await.unwrap();
        }
        let lease = client.lease_grant(&pb::LeaseGrantRequest { ttl: 600, id: 0 }).await.unwrap().id;
        // A connection has few lists under way at a time.
        let mut listers = Vec::new();
        for _ in 0..LISTS {
            listers.push(server.connect().await);
        }
        let listed = Rc::new(Cell::new(0));
        let lists: Vec<_> = listers
            .into_iter()
            .map(|lister| {
                let listed = Rc::clone(&listed);
                tokio::task::spawn_local(async move {
                    let request = pb::RangeRequest {
                        key: Bytes::from_static(b"k/"),
                        range_end: Bytes::from_static(b"k0"),
                        keys_only: true,
                        ..Default::default()
                    };
                    assert_eq!(lister.range(&request).await.unwrap().kvs.len(), KEYS);
                    listed.set(listed.get() + 1);
                })
            })
            .collect();
        // The lists leave first.
        tokio::task::yield_now().await;
        let (mut renewals, mut renewed) = client.keep_alive().await.unwrap();
        renewals.send(&pb::LeaseKeepAliveRequest { id: lease }).unwrap();
        assert!(renewed.next().await.unwrap().is_some());
        client.put_kv("other", "x").await.unwrap();
        let before = listed.get();
        for list in lists {
            list.await.unwrap();
        }
        assert!(before < LISTS / 2, "a renewal and a put came behind {before} of {LISTS} lists");
    });
}
