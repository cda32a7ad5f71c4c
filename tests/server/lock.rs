//! `Lock` and `Election` where callers wait for each other, lose their leases and leave.
//!
//! Holds for etcd too, where it can be tried with `PINION_TEST_BIN`.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::Request;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::{etcdserverpb as pb, v3electionpb as election, v3lockpb as lock};
use pinion_kit::{Launch, Server, TEST_DEADLINE, WorkDir, block_on, server_is_etcd};
use prost::Message;
use tokio::task::JoinHandle;

async fn started(work: &WorkDir, leases: impl IntoIterator<Item = i64>) -> (Server, Client) {
    let server = Launch::new(work.join("data")).start().await;
    let client = server.connect().await;
    for id in leases {
        let request = pb::LeaseGrantRequest { id, ttl: 600 };
        let granted: pb::LeaseGrantResponse =
            unary(&client, "/etcdserverpb.Lease/LeaseGrant", &request).await.unwrap();
        assert_eq!(granted.id, id);
    }
    (server, client)
}

async fn unary<A: Message + Default>(
    client: &Client,
    method: &str,
    request: &impl Message,
) -> Result<A, CallError> {
    let answer = client.call(method, request.encode_to_vec().into()).await?;
    Ok(A::decode(answer).unwrap())
}

async fn revoke(client: &Client, id: i64) {
    let request = pb::LeaseRevokeRequest { id };
    let revoked: Result<pb::LeaseRevokeResponse, _> =
        unary(client, "/etcdserverpb.Lease/LeaseRevoke", &request).await;
    revoked.unwrap();
}

async fn take(client: &Client, lease: i64) -> Result<lock::LockResponse, CallError> {
    unary(client, "/v3lockpb.Lock/Lock", &lock::LockRequest { name: "n".into(), lease }).await
}

async fn unlock(client: &Client, key: &Bytes) -> i64 {
    let request = lock::UnlockRequest { key: key.clone() };
    let gone: lock::UnlockResponse = unary(client, "/v3lockpb.Lock/Unlock", &request).await.unwrap();
    gone.header.unwrap().revision
}

async fn campaign(
    client: &Client,
    lease: i64,
    value: &'static str,
) -> Result<election::CampaignResponse, CallError> {
    let request = election::CampaignRequest { name: "n".into(), lease, value: value.into() };
    unary(client, "/v3electionpb.Election/Campaign", &request).await
}

/// Calls until `n/` has so many keys.
async fn until_queued(client: &Client, count: i64) {
    let looks = async {
        while client.prefix("n/").await.unwrap().count != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), looks).await.expect("the queue got there in time");
}

/// Starts a caller and waits until it stands in the queue as the `place`th.
async fn queue_up<T: 'static>(
    client: &Client,
    place: i64,
    call: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    let caller = tokio::task::spawn_local(call);
    until_queued(client, place).await;
    caller
}

fn contend(
    client: &Client,
    lease: i64,
) -> impl Future<Output = Result<lock::LockResponse, CallError>> + 'static {
    let client = client.clone();
    async move { take(&client, lease).await }
}

#[test]
fn lock_goes_from_hand_to_hand_in_the_order_of_the_queue() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, client) = started(&work, 1..=5).await;
        let mut held = take(&client, 1).await.unwrap().key;
        let mut waiters = Vec::new();
        for lease in 2..=5 {
            waiters.push(queue_up(&client, lease, contend(&client, lease)).await);
        }
        for (lease, waiter) in (2..).zip(waiters) {
            assert!(!waiter.is_finished(), "lease {lease} holds beside another");
            let given_back = unlock(&client, &held).await;
            let taken = waiter.await.unwrap().unwrap();
            assert_eq!(taken.key, format!("n/{lease}"));
            assert!(given_back <= taken.header.unwrap().revision, "read after the wait");
            held = taken.key;
        }
    });
}

#[test]
fn waiter_that_leaves_takes_its_key_along_and_those_behind_it_wait_on() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, client) = started(&work, 1..=3).await;
        let held = take(&client, 1).await.unwrap().key;
        let leaving = queue_up(&client, 2, contend(&client, 2)).await;
        let last = queue_up(&client, 3, contend(&client, 3)).await;
        leaving.abort();
        until_queued(&client, 2).await;
        assert!(client.get("n/2").await.unwrap().is_none());
        assert!(!last.is_finished());
        unlock(&client, &held).await;
        assert_eq!(last.await.unwrap().unwrap().key, "n/3");
    });
}

#[test]
fn waiters_without_a_lease_of_their_own_leave_nothing_when_their_connection_breaks() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, client) = started(&work, [1]).await;
        take(&client, 1).await.unwrap();
        let other = server.connect().await;
        let waiters =
            [queue_up(&client, 2, contend(&other, 0)).await, queue_up(&client, 3, contend(&other, 0)).await];
        waiters.iter().for_each(JoinHandle::abort);
        drop(other);
        until_queued(&client, 1).await;
        let leases: pb::LeaseLeasesResponse =
            unary(&client, "/etcdserverpb.Lease/LeaseLeases", &pb::LeaseLeasesRequest {}).await.unwrap();
        // etcd lets the leases that it granted for them live on.
        assert!(server_is_etcd() || leases.leases == [pb::LeaseStatus { id: 1 }], "{leases:?}");
    });
}

#[test]
fn revoked_lease_of_the_holder_passes_the_lock_on() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, client) = started(&work, 1..=2).await;
        take(&client, 1).await.unwrap();
        let waiter = queue_up(&client, 2, contend(&client, 2)).await;
        revoke(&client, 1).await;
        assert_eq!(waiter.await.unwrap().unwrap().key, "n/2");
    });
}

#[test]
fn waiter_whose_lease_was_revoked_never_holds() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (_server, client) = started(&work, 1..=3).await;
        let held = take(&client, 1).await.unwrap().key;
        let locks = queue_up(&client, 2, contend(&client, 2)).await;
        let campaigner = client.clone();
        let leads = queue_up(&client, 3, async move { campaign(&campaigner, 3, "v").await }).await;
        revoke(&client, 2).await;
        revoke(&client, 3).await;
        unlock(&client, &held).await;
        let (locks, leads) = (locks.await.unwrap(), leads.await.unwrap());
        if server_is_etcd() {
            // Up to 3.4 neither looks; later only Lock does.
            return;
        }
        let unknown = |message: &str| CallError::Status { code: 2, message: message.to_owned() };
        assert_eq!(locks.unwrap_err(), unknown("mutex: session is expired"));
        assert_eq!(leads.unwrap_err(), unknown("election: not leader"));
    });
}

/// An `Observe`, which is a stream of answers.
struct Observer {
    body: RecvStream,
    bytes: Vec<u8>,
}

impl Observer {
    async fn start(server: &Server) -> Self {
        let port = server.client_port();
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::task::spawn_local(async move { drop(connection.await) });
        let request = Request::post(format!("http://127.0.0.1:{port}/v3electionpb.Election/Observe"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        let message = election::LeaderRequest { name: "n".into() }.encode_to_vec();
        let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        framed.extend(message);
        stream.send_data(framed.into(), true).unwrap();
        Self { body: response.await.unwrap().into_body(), bytes: Vec::new() }
    }

    /// Key, value and header revision of the next message.
    async fn next(&mut self) -> (String, String, i64) {
        loop {
            if let Some((prefix, rest)) = self.bytes.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                if length <= rest.len() {
                    let message = election::LeaderResponse::decode(&rest[..length]).unwrap();
                    self.bytes.drain(..5 + length);
                    let kv = message.kv.unwrap();
                    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                    return (text(kv.key), text(kv.value), message.header.unwrap().revision);
                }
            }
            let piece = tokio::time::timeout(Duration::from_secs(10), self.body.data());
            let piece = piece.await.expect("in time").expect("it does not end by itself").unwrap();
            self.body.flow_control().release_capacity(piece.len()).unwrap();
            self.bytes.extend_from_slice(&piece);
        }
    }
}

#[test]
fn observer_sees_each_leader_and_each_of_its_values_in_order() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (server, client) = started(&work, 1..=2).await;
        let first = campaign(&client, 1, "a").await.unwrap();
        let mut revision = first.header.unwrap().revision;
        let mut observer = Observer::start(&server).await;
        assert_eq!(observer.next().await, ("n/1".into(), "a".into(), revision));
        client.put_kv("noise", "1").await.unwrap();
        for value in ["b", "c"] {
            let request = election::ProclaimRequest { leader: first.leader.clone(), value: value.into() };
            let said: election::ProclaimResponse =
                unary(&client, "/v3electionpb.Election/Proclaim", &request).await.unwrap();
            revision = said.header.unwrap().revision;
            assert_eq!(observer.next().await, ("n/1".into(), value.into(), revision));
        }
        let campaigner = client.clone();
        let second = queue_up(&client, 2, async move { campaign(&campaigner, 2, "d").await }).await;
        assert!(!second.is_finished());
        let request = election::ResignRequest { leader: first.leader };
        let gone: election::ResignResponse =
            unary(&client, "/v3electionpb.Election/Resign", &request).await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert_eq!(second.header.unwrap().revision, revision + 1, "of its first transaction");
        let (key, value, seen) = observer.next().await;
        assert_eq!((&*key, &*value), ("n/2", "d"));
        assert!(gone.header.unwrap().revision <= seen);
        // Nobody leads; the next one does.
        revoke(&client, 2).await;
        let third = campaign(&client, 1, "e").await.unwrap();
        let revision = third.header.unwrap().revision;
        assert_eq!(observer.next().await, ("n/1".into(), "e".into(), revision));
    });
}
