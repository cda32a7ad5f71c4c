//! `Lock` and `Election` where nobody has to wait, and callers that leave.
//!
//! Who waits for whom is tried in `rpc::queue`, and whole in `tests/server/lock.rs`.

use super::lease::granted;
use super::*;
use crate::pb::{v3electionpb as election, v3lockpb as lock};

const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
const LEADER: &str = "/v3electionpb.Election/Leader";
const RESIGN: &str = "/v3electionpb.Election/Resign";

fn lock_request(name: &'static str, lease: i64) -> Vec<u8> {
    framed(&lock::LockRequest { name: name.into(), lease }.encode_to_vec())
}

fn campaign_request(lease: i64, value: &'static str) -> Vec<u8> {
    framed(&election::CampaignRequest { name: "e".into(), lease, value: value.into() }.encode_to_vec())
}

async fn leader(client: &Client) -> Answered {
    client.call(LEADER, framed(&election::LeaderRequest { name: "e".into() }.encode_to_vec())).await
}

#[test]
fn free_lock_is_taken_with_the_key_of_its_lease_and_given_back_by_unlock() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        granted(&client, -31, 60).await;
        for _ in 0..2 {
            let taken: lock::LockResponse = client.call(LOCK, lock_request("n", -31)).await.message();
            assert_eq!(taken.key, "n/-1f");
            let header = taken.header.unwrap();
            assert_eq!((header.member_id, header.revision, header.raft_term), (MEMBER.0, 2, TERM.0));
        }
        let (model, renewals) = server.model();
        assert_eq!(renewals, 2, "the lease is renewed once a call");
        assert_eq!(model.keys[&b"n/-1f"[..]].lease, -31);
        let unlock = framed(&lock::UnlockRequest { key: "n/-1f".into() }.encode_to_vec());
        for _ in 0..2 {
            let gone: lock::UnlockResponse = client.call(UNLOCK, unlock.clone()).await.message();
            assert_eq!(gone.header.unwrap().revision, 3, "also when there is nothing to delete");
        }
        assert!(server.model().0.keys.is_empty());
    });
}

#[test]
fn lock_without_a_lease_gets_one_of_sixty_seconds() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let taken: lock::LockResponse = client.call(LOCK, lock_request("", 0)).await.message();
        let model = server.model().0;
        let (id, ttl) = model.leases.iter().next().unwrap();
        assert_eq!((*ttl, taken.key), (60, Bytes::from(format!("/{id:x}"))));
    });
}

#[test]
fn errors_of_inner_commands_arrive_as_unknown_with_their_text() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        let no_lease = (2, "etcdserver: requested lease not found".to_owned());
        assert_eq!(client.call(LOCK, lock_request("n", 9)).await.status(), no_lease);
        assert_eq!(client.call(CAMPAIGN, campaign_request(9, "v")).await.status(), no_lease);
        let no_key = (2, "etcdserver: key is not provided".to_owned());
        assert_eq!(client.call(UNLOCK, framed(&[])).await.status(), no_key);
        let missing = (2, "\"leader\" field must be provided".to_owned());
        let nobody = Some(election::LeaderKey::default());
        for path in [PROCLAIM, RESIGN] {
            assert_eq!(client.call(path, framed(&[])).await.status(), missing);
            let request = election::ResignRequest { leader: nobody.clone() };
            assert_eq!(client.call(path, framed(&request.encode_to_vec())).await.status(), no_key);
        }
        assert_eq!(leader(&client).await.status(), (2, "election: no leader".into()));
        // What is wrong with the bytes themselves keeps its code.
        assert_eq!(client.call(LOCK, framed(&[0xff; 3])).await.status().0, 13);
        server.tell(Control::Refuse(Some(Refusal::NoLeader)));
        server.counters();
        let no_leader = (2, "etcdserver: no leader".to_owned());
        assert_eq!(client.call(LOCK, lock_request("n", 0)).await.status(), no_leader);
        assert!(server.model().0.leases.is_empty(), "no lease was granted in vain");
    });
}

#[test]
fn leader_campaigns_proclaims_and_resigns() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        granted(&client, 8, 60).await;
        let won: election::CampaignResponse =
            client.call(CAMPAIGN, campaign_request(8, "v1")).await.message();
        let key = won.leader.unwrap();
        assert_eq!((&key.name[..], &key.key[..], key.rev, key.lease), (&b"e"[..], &b"e/8"[..], 2, 8));
        let again: election::CampaignResponse =
            client.call(CAMPAIGN, campaign_request(8, "v2")).await.message();
        assert_eq!((again.leader, again.header.unwrap().revision), (Some(key.clone()), 2));
        let told: election::LeaderResponse = leader(&client).await.message();
        assert_eq!((told.kv.unwrap().value, told.header.unwrap().revision), ("v2".into(), 3));

        let proclaim = |key: &election::LeaderKey, value: &'static str| {
            framed(
                &election::ProclaimRequest { leader: Some(key.clone()), value: value.into() }.encode_to_vec(),
            )
        };
        let said: election::ProclaimResponse = client.call(PROCLAIM, proclaim(&key, "v3")).await.message();
        assert_eq!(said.header.unwrap().revision, 4);
        // Without a lease the key gets a new one, as in etcd; one that is not used is taken back.
        let free = election::LeaderKey { lease: 0, ..key.clone() };
        let said: election::ProclaimResponse = client.call(PROCLAIM, proclaim(&free, "v4")).await.message();
        assert_eq!(said.header.unwrap().revision, 5);
        let old = election::LeaderKey { rev: 1, ..free };
        let status = client.call(PROCLAIM, proclaim(&old, "v5")).await.status();
        assert_eq!(status, (2, "election: not leader".into()));
        let model = server.model().0;
        assert_eq!(model.leases.len(), 2);
        assert_ne!(model.keys[&b"e/8"[..]].lease, 8);

        let resign = |key: &election::LeaderKey| {
            framed(&election::ResignRequest { leader: Some(key.clone()) }.encode_to_vec())
        };
        for (key, revision) in [(&old, 5), (&key, 6), (&key, 6)] {
            let gone: election::ResignResponse = client.call(RESIGN, resign(key)).await.message();
            assert_eq!(gone.header.unwrap().revision, revision);
        }
        assert_eq!(leader(&client).await.status(), (2, "election: no leader".into()));
    });
}

/// Opens a lock call and leaves once its first command is with the backend.
async fn lock_and_leave(server: &Server, lease: i64) {
    let client = Client::connect(server).await;
    let mut requests = client.requests.clone().ready().await.unwrap();
    let request = client.request(LOCK).body(()).unwrap();
    let (response, mut stream) = requests.send_request(request, false).unwrap();
    stream.send_data(Bytes::from(lock_request("n", lease)), true).unwrap();
    server.until("its command is asked", |counters| 1 <= counters.calls).await;
    drop((response, stream, requests, client));
    server.until("the connection is gone", |counters| counters.connections == 0).await;
}

#[test]
fn caller_that_left_before_it_was_answered_leaves_no_key_and_no_lease() {
    for lease in [0, 7] {
        let server = Server::start(quick());
        client(async {
            let other = Client::connect(&server).await;
            granted(&other, 7, 60).await;
            drop(other);
            server.until("it is gone", |counters| counters.connections == 0).await;
            server.tell(Control::Hold(true));
            lock_and_leave(&server, lease).await;
            server.tell(Control::Hold(false));
            server.until("its commands are over", |counters| counters.calls == 0).await;
            let model = server.model().0;
            assert!(model.keys.is_empty(), "{:?}", model.keys);
            assert_eq!(model.leases.keys().copied().collect::<Vec<_>>(), [7]);
            assert_eq!(2, model.events.len(), "it was there and was taken out");
        });
    }
}

#[test]
fn caller_whose_deadline_passes_is_told_at_once_and_its_key_is_taken_out_later() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        server.tell(Control::Hold(true));
        let request = client.request(LOCK).header("grpc-timeout", "30m");
        let status = client.send(request, lock_request("n", 0)).await.unwrap().status();
        assert_eq!(status, (4, "context deadline exceeded".into()));
        server.tell(Control::Hold(false));
        server.until("its commands are over", |counters| counters.calls == 0).await;
        let model = server.model().0;
        assert!(model.keys.is_empty() && model.leases.is_empty());
    });
}

#[test]
fn locks_wait_for_full_rings_and_none_is_lost() {
    let server = Server::start(quick());
    client(async {
        let client = Client::connect(&server).await;
        server.tell(Control::Full(true));
        server.counters();
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let calls = names.map(|name| client.call(LOCK, lock_request(name, 0)));
        let open = async {
            server.until("rings were found full", |counters| 1 <= counters.blocked).await;
            server.tell(Control::Full(false));
        };
        let (answered, ()) = tokio::join!(futures_util::future::join_all(calls), open);
        assert!(answered.iter().all(|answered| answered.status().0 == 0));
        assert_eq!(server.model().0.keys.len(), names.len());
    });
}
