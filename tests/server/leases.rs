//! Leases and the clock: never early, hardly late, and remembered across a kill.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use pinion_kit::client::{Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::stream::Answers;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, server_is_etcd, skip};
use tokio::time::Instant;

async fn grant(client: &Client, ttl: i64, id: i64) -> pb::LeaseGrantResponse {
    client.lease_grant(&pb::LeaseGrantRequest { ttl, id }).await.expect("a lease is granted")
}

async fn put(client: &Client, key: &str, lease: i64) {
    let request =
        pb::PutRequest { key: key.to_owned().into(), value: "v".into(), lease, ..Default::default() };
    client.put(&request).await.expect("a put with a lease");
}

/// The next response with events.
async fn next_events(answers: &mut Answers<pb::WatchResponse>) -> pb::WatchResponse {
    loop {
        let response = answers.next().await.unwrap().expect("the stream goes on");
        if !response.events.is_empty() {
            return response;
        }
    }
}

#[test]
fn leases_with_ttls_and_ids_out_of_bounds_get_etcds_answers() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        // The shortest lease is one and a half election timeouts, which is 2 s by default.
        for ttl in [0, -1, i64::MIN, 1, 2] {
            let granted = grant(&client, ttl, 0).await;
            assert_eq!((granted.ttl, granted.error.as_str()), (2, ""), "{ttl}");
            assert!(granted.id > 0, "{}", granted.id);
            client.lease_revoke(granted.id).await.unwrap();
        }
        let too_large = (11, "etcdserver: too large lease TTL".to_owned());
        for ttl in [9_000_000_001, i64::MAX] {
            let answer = client.lease_grant(&pb::LeaseGrantRequest { ttl, id: 0 }).await;
            assert_eq!(refusal(answer), too_large, "{ttl}");
        }
        let huge = grant(&client, 9_000_000_000, 5).await;
        assert_eq!((huge.id, huge.ttl), (5, 9_000_000_000));
        for id in [-1, i64::MIN, i64::MAX] {
            assert_eq!(grant(&client, 600, id).await.id, id);
        }
        let in_use = (9, "etcdserver: lease already exists".to_owned());
        assert_eq!(refusal(client.lease_grant(&pb::LeaseGrantRequest { ttl: 9, id: 5 }).await), in_use);
        let unknown = (5, "etcdserver: requested lease not found".to_owned());
        assert_eq!(refusal(client.lease_revoke(77).await), unknown);
        let gone = client.lease_time_to_live(77, true).await.unwrap();
        assert_eq!((gone.ttl, gone.granted_ttl, gone.keys.len()), (-1, 0, 0));
    });
}

#[test]
fn keep_alives_are_answered_in_order_and_unknown_leases_with_ttl_0() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        grant(&client, 60, 1).await;
        grant(&client, 70, -2).await;
        let (mut requests, mut answers) = client.keep_alive().await.unwrap();
        let asked: Vec<i64> = (0..300).map(|number| [1, 99, -2, 0][number % 4]).collect();
        for id in &asked {
            requests.send(&pb::LeaseKeepAliveRequest { id: *id }).unwrap();
        }
        for id in asked {
            let answer = answers.next().await.unwrap().expect("the stream goes on");
            let ttl = [(1, 60), (-2, 70)].iter().find(|(known, _)| *known == id).map_or(0, |(_, ttl)| *ttl);
            assert_eq!((answer.id, answer.ttl), (id, ttl));
        }
        requests.half_close().unwrap();
        assert_eq!(answers.next().await.unwrap(), None, "a half close ends the stream with OK");
    });
}

/// A hundred leases of 2 s, and one that is kept alive: measured by the watch that sees the keys go.
#[test]
fn leases_expire_never_early_and_within_a_second() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).start().await;
        let client = server.connect().await;
        let (mut requests, mut answers) = client.watch().await.unwrap();
        let request = pb::WatchCreateRequest {
            key: "leased/".into(),
            range_end: "leased0".into(),
            filters: vec![0],
            prev_kv: true,
            ..Default::default()
        };
        requests.create(request).unwrap();
        // Read all the while: what is told while others are still granted is in time.
        let told = Rc::new(RefCell::new(Vec::new()));
        let reader = tokio::task::spawn_local({
            let told = Rc::clone(&told);
            async move {
                loop {
                    let response = next_events(&mut answers).await;
                    told.borrow_mut().push((Instant::now(), response));
                }
            }
        });
        // Granted between these two moments: the lease may end 2 s after the first, not sooner.
        let mut granted = Vec::new();
        for number in 1..=100 {
            let before = Instant::now();
            grant(&client, 2, number).await;
            granted.push((before, Instant::now()));
            put(&client, &format!("leased/{number}"), number).await;
        }
        // The last of all: it is renewed from here on.
        let (mut keep, mut kept_alive) = client.keep_alive().await.unwrap();
        assert_eq!(grant(&client, 2, 1_000).await.ttl, 2);
        put(&client, "leased/kept", 1_000).await;
        let renewed = Instant::now();
        let mut ended = 0;
        let (mut earliest, mut latest) = (Duration::MAX, Duration::ZERO);
        // Longer than it lives by itself, too.
        while ended < 100 || renewed.elapsed() < Duration::from_secs(3) {
            keep.send(&pb::LeaseKeepAliveRequest { id: 1_000 }).unwrap();
            assert_eq!(kept_alive.next().await.unwrap().unwrap().ttl, 2, "it is kept alive");
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(!reader.is_finished(), "the stream goes on");
            let told = told.take().into_iter();
            for (now, event) in told.flat_map(|(now, told)| told.events.into_iter().map(move |e| (now, e))) {
                assert_eq!(event.r#type, 1);
                let lease = event.prev_kv.expect("asked for").lease;
                assert_ne!(lease, 1_000, "the lease that was kept alive ended");
                let (before, after) = granted[usize::try_from(lease).unwrap() - 1];
                // What can be said for sure: it lived at most `longest`, at least `shortest`.
                let (longest, shortest) = (now - before, now - after);
                assert!(longest >= Duration::from_secs(2), "lease {lease} of 2 s ended after {longest:?}");
                earliest = earliest.min(longest);
                latest = latest.max(shortest);
                ended += 1;
            }
        }
        reader.abort();
        println!("100 leases of 2 s ended after {earliest:?} to {latest:?}");
        // A second, and what a loaded machine takes to tell us.
        assert!(latest < Duration::from_millis(3_500), "a lease of 2 s ended after {latest:?}");
        let left = client.lease_time_to_live(1_000, true).await.unwrap();
        assert_eq!(left.keys, ["leased/kept"]);
    });
}

/// etcd gives a lease its whole time again after a restart; here the time that has passed stays passed.
#[test]
fn remaining_time_of_a_lease_survives_a_kill() {
    if server_is_etcd() {
        return skip("etcd starts every lease anew");
    }
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let launch = Launch::new(work.join("data"));
        let mut server = launch.start().await;
        let client = server.connect().await;
        grant(&client, 6, 1).await;
        grant(&client, 1_000, 2).await;
        let granted = Instant::now();
        put(&client, "short", 1).await;
        put(&client, "long", 2).await;
        // Until more than three seconds have visibly passed: at two a note was made.
        while client.lease_time_to_live(1, false).await.unwrap().ttl > 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server.kill();
        let server = launch.start().await;
        let client = server.connect().await;
        let passed = i64::try_from(granted.elapsed().as_secs()).unwrap();
        let long = client.lease_time_to_live(2, true).await.unwrap();
        assert_eq!((long.granted_ttl, &long.keys[..]), (1_000, &["long".into()][..]));
        // At least half of the three seconds is remembered, to the whole second, and a new leader adds an
        // election timeout (1 s); whether time passes while nobody serves is open.
        println!("{} s left of 1000 after {passed} s, one kill included", long.ttl);
        assert!(long.ttl < 1_000, "{} s left of 1000: the time before the kill is forgotten", long.ttl);
        assert!(long.ttl >= 1_000 - passed - 2, "{} s left of 1000 after {passed}", long.ttl);
        let (mut requests, mut answers) = client.watch().await.unwrap();
        let request = pb::WatchCreateRequest {
            key: "short".into(),
            start_revision: 2,
            filters: vec![0],
            ..Default::default()
        };
        requests.create(request).unwrap();
        let restarted = Instant::now();
        let gone = next_events(&mut answers).await;
        assert_eq!(gone.events.len(), 1);
        let lived = granted.elapsed();
        assert!(lived >= Duration::from_millis(5_900), "a lease of 6 s ended after {lived:?}");
        assert!(
            restarted.elapsed() < Duration::from_millis(6_000),
            "its time began anew: it ended {:?} after the restart",
            restarted.elapsed()
        );
    });
}
