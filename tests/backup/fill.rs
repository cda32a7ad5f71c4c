//! A state with everything in it: history, deletions, compactions, large values, leases, users, roles, alarms.

use pinion_kit::client::Client;
use pinion_kit::pb::authpb;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::etcdserverpb::request_op::Request as Op;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The password of everybody.
pub const PASSWORD: &str = "pw";

/// Makes a random state by so many steps.
pub async fn fill(client: &Client, seed: u64, steps: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut leases = Vec::new();
    for _ in 0..steps {
        let key = format!("key-{}", random.random_range(0..steps / 4 + 2));
        match random.random_range(0..100) {
            0..60 => {
                let lease = match leases.len() {
                    0 => 0,
                    count if random.random_range(0..5) == 0 => leases[random.random_range(0..count)],
                    _ => 0,
                };
                let bytes = [0, 1, 10, 300, 5_000, 200_000][random.random_range(0..60_usize).min(5) % 6];
                let value = vec![b'a' + u8::try_from(random.random_range(0..26)).unwrap(); bytes];
                let put =
                    pb::PutRequest { key: key.into(), value: value.into(), lease, ..Default::default() };
                client.put(&put).await.unwrap();
            }
            60..80 => {
                let delete = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
                client.delete(&delete).await.unwrap();
            }
            80..83 => {
                let end = format!("{key}9").into();
                let delete = pb::DeleteRangeRequest { key: key.into(), range_end: end, ..Default::default() };
                client.delete(&delete).await.unwrap();
            }
            83..93 => {
                let ops = (0..random.random_range(1..5)).map(|number| {
                    let key = format!("txn-{number}").into();
                    let put = pb::PutRequest { key, value: "v".into(), ..Default::default() };
                    pb::RequestOp { request: Some(Op::RequestPut(put)) }
                });
                let txn = pb::TxnRequest { success: ops.collect(), ..Default::default() };
                client.txn(&txn).await.unwrap();
            }
            93..97 => {
                let id = [0, 77, i64::MAX, 1 << 40][random.random_range(0..4)];
                let grant = pb::LeaseGrantRequest { id, ttl: random.random_range(3_000..9_000) };
                if let Ok(granted) = client.lease_grant(&grant).await {
                    leases.push(granted.id);
                }
            }
            _ => {
                let revision = client.get_revision().await - random.random_range(0..30);
                if 0 < revision {
                    let compaction = pb::CompactionRequest { revision, physical: true };
                    drop(client.compact(&compaction).await);
                }
            }
        }
    }
    client.put_kv("key-1", "last").await.unwrap();
}

/// So many keys, a fifth of them with a lease, a third written again, a tenth deleted; some of it compacted.
pub async fn fill_many(client: &Client, keys: u64) {
    /// Below what a transaction may have.
    const OPS: u64 = 100;
    let mut leases = vec![0; 4];
    let grant = pb::LeaseGrantRequest { id: 4_711, ttl: 9_000 };
    leases.push(client.lease_grant(&grant).await.unwrap().id);
    let name = |key: u64| bytes::Bytes::from(format!("many/{key:08}"));
    let put = |key: u64, generation: u8| {
        let lease = leases[usize::try_from(key % 5).unwrap()];
        let value = vec![b'a' + generation; usize::try_from(20 + key % 300).unwrap()];
        let put = pb::PutRequest { key: name(key), value: value.into(), lease, ..Default::default() };
        pb::RequestOp { request: Some(Op::RequestPut(put)) }
    };
    let delete = |key: u64| {
        let delete = pb::DeleteRangeRequest { key: name(key), ..Default::default() };
        pb::RequestOp { request: Some(Op::RequestDeleteRange(delete)) }
    };
    let mut compact_at = 0;
    for first in (0..keys).step_by(usize::try_from(OPS).unwrap()) {
        let all = first..keys.min(first + OPS);
        let passes: [Vec<pb::RequestOp>; 3] = [
            all.clone().map(|key| put(key, 0)).collect(),
            all.clone().filter(|key| key % 3 == 0).map(|key| put(key, 1)).collect(),
            all.filter(|key| key % 10 == 0).map(delete).collect(),
        ];
        for success in passes.into_iter().filter(|ops| !ops.is_empty()) {
            let txn = pb::TxnRequest { success, ..Default::default() };
            let done = client.txn(&txn).await.unwrap();
            if first < keys / 4 {
                compact_at = done.header.unwrap().revision;
            }
        }
    }
    let compaction = pb::CompactionRequest { revision: compact_at, physical: true };
    client.compact(&compaction).await.unwrap();
    client.put_kv("key-1", "last").await.unwrap();
}

trait Revision {
    async fn get_revision(&self) -> i64;
}

impl Revision for Client {
    async fn get_revision(&self) -> i64 {
        let nothing = pb::RangeRequest { key: "nothing".into(), ..Default::default() };
        self.range(&nothing).await.unwrap().header.unwrap().revision
    }
}

/// Makes users and roles, and has rights asked for.
pub async fn guard(client: &Client) {
    let call = async |method: &str, request: &dyn Encodes| {
        client.call(&format!("/etcdserverpb.Auth/{method}"), request.encoded()).await.unwrap();
    };
    let user = |name: &str| pb::AuthUserAddRequest {
        name: name.into(),
        password: PASSWORD.into(),
        ..Default::default()
    };
    call("UserAdd", &user("root")).await;
    call("UserAdd", &user("reader")).await;
    let options = Some(authpb::UserAddOptions { no_password: true });
    call("UserAdd", &pb::AuthUserAddRequest { password: String::new(), options, ..user("nobody") }).await;
    call("RoleAdd", &pb::AuthRoleAddRequest { name: "root".into() }).await;
    call("RoleAdd", &pb::AuthRoleAddRequest { name: "keys".into() }).await;
    for (key, range_end, kind) in [("key-", "key.", 0), ("txn-1", "", 2), ("a", "\0", 1)] {
        let (key, range_end) = (key.into(), range_end.into());
        let perm = Some(authpb::Permission { perm_type: kind, key, range_end });
        call("RoleGrantPermission", &pb::AuthRoleGrantPermissionRequest { name: "keys".into(), perm }).await;
    }
    for (user, role) in [("root", "root"), ("reader", "keys")] {
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        call("UserGrantRole", &grant).await;
    }
    call("AuthEnable", &pb::AuthEnableRequest::default()).await;
}

/// A message, whichever.
trait Encodes {
    fn encoded(&self) -> bytes::Bytes;
}

impl<M: prost::Message> Encodes for M {
    fn encoded(&self) -> bytes::Bytes {
        self.encode_to_vec().into()
    }
}
