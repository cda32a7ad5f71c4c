//! What a client sees of a state, so that two servers can be held against each other; and what tells that files were
//! touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;

/// A state, as far as two servers must agree on it.
#[derive(Debug, PartialEq)]
pub struct Seen {
    pub revision: i64,
    pub compact_revision: i64,
    /// `HashKV` by revision.
    hashes: BTreeMap<i64, u32>,
    leases: BTreeMap<i64, (i64, Vec<bytes::Bytes>)>,
    users: BTreeMap<String, Vec<String>>,
    roles: BTreeMap<String, Vec<(i32, bytes::Bytes, bytes::Bytes)>>,
    alarms: Vec<(u64, i32)>,
    pub keys: Vec<(bytes::Bytes, i64, i64, i64)>,
}

/// What `client` sees at `revision`, or at the present one for 0.
pub async fn seen(client: &Client, revision: i64) -> Seen {
    let all = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        keys_only: true,
        ..Default::default()
    };
    let list = client.range(&all).await.unwrap();
    let revision = if revision == 0 { list.header.unwrap().revision } else { revision };
    let now = client.hash_kv(revision).await.unwrap();
    let compact_revision = now.compact_revision;
    let mut hashes = BTreeMap::from([(revision, now.hash)]);
    for at in [compact_revision + 1, compact_revision.midpoint(revision), revision - 1] {
        // Before 3.5 the compact revision itself has no hash.
        if 0 < at && compact_revision < at && at <= revision {
            hashes.insert(at, client.hash_kv(at).await.unwrap().hash);
        }
    }
    let mut leases = BTreeMap::new();
    for lease in client.leases().await.unwrap().leases {
        let mut told = client.lease_time_to_live(lease.id, true).await.unwrap();
        told.keys.sort_unstable();
        leases.insert(lease.id, (told.granted_ttl, told.keys));
    }
    let (mut users, mut roles) = (BTreeMap::new(), BTreeMap::new());
    let list: pb::AuthUserListResponse =
        client.unary("/etcdserverpb.Auth/UserList", &pb::AuthUserListRequest::default()).await.unwrap();
    for name in list.users {
        let request = pb::AuthUserGetRequest { name: name.clone() };
        let told: pb::AuthUserGetResponse =
            client.unary("/etcdserverpb.Auth/UserGet", &request).await.unwrap();
        users.insert(name, told.roles);
    }
    let listed: pb::AuthRoleListResponse =
        client.unary("/etcdserverpb.Auth/RoleList", &pb::AuthRoleListRequest::default()).await.unwrap();
    // What root may do is told by some versions alone.
    for role in listed.roles.into_iter().filter(|role| role != "root") {
        let request = pb::AuthRoleGetRequest { role: role.clone() };
        let told: pb::AuthRoleGetResponse =
            client.unary("/etcdserverpb.Auth/RoleGet", &request).await.unwrap();
        let told = told.perm.into_iter().map(|perm| (perm.perm_type, perm.key, perm.range_end)).collect();
        roles.insert(role, told);
    }
    let mut alarms: Vec<(u64, i32)> = client
        .alarm(0, 0, 0)
        .await
        .unwrap()
        .alarms
        .iter()
        .map(|alarm| (alarm.member_id, alarm.alarm))
        .collect();
    alarms.sort_unstable();
    let keys = list_keys(client, revision).await;
    Seen { revision, compact_revision, hashes, leases, users, roles, alarms, keys }
}

async fn list_keys(client: &Client, revision: i64) -> Vec<(bytes::Bytes, i64, i64, i64)> {
    let all = pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        keys_only: true,
        ..Default::default()
    };
    let list = client.range(&all).await.unwrap().kvs.into_iter();
    // Whether leases are told where values are not differs between versions; the hashes have them.
    list.map(|kv| (kv.key, kv.create_revision, kv.mod_revision, kv.version)).collect()
}

/// Everything in a directory, or nothing where there is none: names, and the length, the inode and the time of the last
/// change of each. (Logs are long; a change of content has a time.)
pub fn tree(dir: &Path) -> Vec<(PathBuf, u64, u64, (i64, i64))> {
    let Ok(names) = fs::read_dir(dir) else { return Vec::new() };
    let mut all = Vec::new();
    for entry in names {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        if found.is_dir() {
            all.extend(tree(&path));
        }
        all.push((path, found.len(), found.ino(), (found.ctime(), found.ctime_nsec())));
    }
    all.sort();
    all
}
