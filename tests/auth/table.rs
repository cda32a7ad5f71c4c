//! Every call by everybody: what each login is told.

use std::fmt::Write as _;

use bytes::Bytes;
use expect_test::expect;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::etcdserverpb::request_op::Request as Op;
use pinion_kit::pb::{v3electionpb as election, v3lockpb as lock};
use pinion_kit::tls::{self, Authority};
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, free_port};
use prost::Message;

use crate::jwt::{self, Secret};
use crate::manage::{self, CHEAP, READ, WRITE};

/// A call that changes nothing that another one needs, whoever makes it.
fn calls() -> Vec<(&'static str, Vec<u8>)> {
    let get = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let put = pb::PutRequest { key: "a".into(), value: "1".into(), ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: "none".into(), ..Default::default() };
    let txn = pb::TxnRequest {
        success: vec![pb::RequestOp { request: Some(Op::RequestPut(put.clone())) }],
        ..Default::default()
    };
    let nested = pb::TxnRequest {
        failure: vec![pb::RequestOp { request: Some(Op::RequestTxn(txn.clone())) }],
        ..Default::default()
    };
    let permission = pinion_kit::pb::authpb::Permission { key: "q".into(), ..Default::default() };
    let leader = election::LeaderKey { name: "a".into(), key: "a/1".into(), rev: 1, lease: 1 };
    vec![
        ("etcdserverpb.KV/Range", get.encode_to_vec()),
        ("etcdserverpb.KV/Range", pb::RangeRequest { serializable: true, ..get.clone() }.encode_to_vec()),
        ("etcdserverpb.KV/RangeStream", get.encode_to_vec()),
        ("etcdserverpb.KV/Put", put.encode_to_vec()),
        ("etcdserverpb.KV/Put", pb::PutRequest { prev_kv: true, ..put.clone() }.encode_to_vec()),
        ("etcdserverpb.KV/DeleteRange", delete.encode_to_vec()),
        ("etcdserverpb.KV/DeleteRange", pb::DeleteRangeRequest { prev_kv: true, ..delete }.encode_to_vec()),
        ("etcdserverpb.KV/Txn", txn.encode_to_vec()),
        ("etcdserverpb.KV/Txn", nested.encode_to_vec()),
        ("etcdserverpb.KV/Txn", pb::TxnRequest::default().encode_to_vec()),
        ("etcdserverpb.KV/Compact", Vec::new()),
        ("etcdserverpb.Lease/LeaseGrant", pb::LeaseGrantRequest { id: 77, ttl: 60 }.encode_to_vec()),
        (
            "etcdserverpb.Lease/LeaseTimeToLive",
            pb::LeaseTimeToLiveRequest { id: 7, keys: false }.encode_to_vec(),
        ),
        (
            "etcdserverpb.Lease/LeaseTimeToLive",
            pb::LeaseTimeToLiveRequest { id: 7, keys: true }.encode_to_vec(),
        ),
        ("etcdserverpb.Lease/LeaseLeases", Vec::new()),
        ("etcdserverpb.Lease/LeaseRevoke", pb::LeaseRevokeRequest { id: 99 }.encode_to_vec()),
        ("etcdserverpb.Cluster/MemberAdd", Vec::new()),
        ("etcdserverpb.Cluster/MemberRemove", pb::MemberRemoveRequest { id: 9 }.encode_to_vec()),
        (
            "etcdserverpb.Cluster/MemberUpdate",
            pb::MemberUpdateRequest { id: 9, ..Default::default() }.encode_to_vec(),
        ),
        ("etcdserverpb.Cluster/MemberPromote", pb::MemberPromoteRequest { id: 9 }.encode_to_vec()),
        ("etcdserverpb.Cluster/MemberList", pb::MemberListRequest { linearizable: true }.encode_to_vec()),
        ("etcdserverpb.Maintenance/Alarm", Vec::new()),
        (
            "etcdserverpb.Maintenance/Alarm",
            pb::AlarmRequest { action: 2, alarm: 1, member_id: 9 }.encode_to_vec(),
        ),
        ("etcdserverpb.Maintenance/Status", Vec::new()),
        ("etcdserverpb.Maintenance/Defragment", Vec::new()),
        ("etcdserverpb.Maintenance/Hash", Vec::new()),
        ("etcdserverpb.Maintenance/HashKV", Vec::new()),
        ("etcdserverpb.Maintenance/MoveLeader", pb::MoveLeaderRequest { target_id: 9 }.encode_to_vec()),
        ("etcdserverpb.Auth/AuthStatus", Vec::new()),
        ("etcdserverpb.Auth/AuthEnable", Vec::new()),
        ("etcdserverpb.Auth/UserAdd", Vec::new()),
        ("etcdserverpb.Auth/UserGet", pb::AuthUserGetRequest { name: "reader".into() }.encode_to_vec()),
        ("etcdserverpb.Auth/UserList", Vec::new()),
        ("etcdserverpb.Auth/UserDelete", Vec::new()),
        ("etcdserverpb.Auth/UserChangePassword", Vec::new()),
        ("etcdserverpb.Auth/UserGrantRole", Vec::new()),
        ("etcdserverpb.Auth/UserRevokeRole", Vec::new()),
        ("etcdserverpb.Auth/RoleAdd", Vec::new()),
        ("etcdserverpb.Auth/RoleGet", pb::AuthRoleGetRequest { role: "reads".into() }.encode_to_vec()),
        ("etcdserverpb.Auth/RoleList", Vec::new()),
        ("etcdserverpb.Auth/RoleDelete", Vec::new()),
        (
            "etcdserverpb.Auth/RoleGrantPermission",
            pb::AuthRoleGrantPermissionRequest { name: String::new(), perm: Some(permission) }
                .encode_to_vec(),
        ),
        ("etcdserverpb.Auth/RoleRevokePermission", Vec::new()),
        ("v3lockpb.Lock/Lock", lock::LockRequest { name: "a".into(), lease: 0 }.encode_to_vec()),
        ("v3lockpb.Lock/Unlock", lock::UnlockRequest { key: "a/none".into() }.encode_to_vec()),
        (
            "v3electionpb.Election/Campaign",
            election::CampaignRequest { name: "c".into(), ..Default::default() }.encode_to_vec(),
        ),
        ("v3electionpb.Election/Leader", election::LeaderRequest { name: "a".into() }.encode_to_vec()),
        ("v3electionpb.Election/Resign", election::ResignRequest { leader: Some(leader) }.encode_to_vec()),
        ("grpc.health.v1.Health/Check", Vec::new()),
    ]
}

/// The call's end in a word or two: what matters is who decides it.
fn shown(answer: Result<Bytes, CallError>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let (code, text) = pinion_kit::client::refusal(Err::<(), _>(error));
            let word = match &*text {
                "etcdserver: user name is empty" => "nobody",
                "etcdserver: permission denied" => "denied",
                "etcdserver: invalid auth token" => "token",
                text => text,
            };
            format!("{code} {word}")
        }
    }
}

/// Connections whose certificates name users, one of whom there is none, and nobody.
async fn by_certificate(port: u16, authority: &Authority) -> Vec<(&'static str, Client)> {
    let mut logins = Vec::new();
    for (column, name) in
        [("cn-reader", "reader"), ("cn-root", "root"), ("cn-stranger", "stranger"), ("cn-empty", "")]
    {
        let holder = authority.issue(name);
        let client = tls::connect(port, &authority.certificate, Some(&holder)).await.unwrap();
        logins.push((column, client));
    }
    // A token goes before the certificate, also one that is not good.
    let holder = authority.issue("root");
    let client = tls::connect(port, &authority.certificate, Some(&holder)).await.unwrap();
    logins.push(("cn-root-bad-token", client.with_token("abcdefghijklmnop.1")));
    logins
}

async fn logins(client: &Client) -> Vec<(&'static str, Client)> {
    let mut logins = vec![("none", client.clone()), ("bad", client.clone().with_token("abcdefghijklmnop.1"))];
    for name in ["norole", "reader", "writer", "root"] {
        logins.push((name, client.logged_in(name, name).await.unwrap()));
    }
    logins
}

/// Users with roles, a lease on a key, and rights asked for.
async fn prepare(client: &Client) {
    for name in ["norole", "reader", "writer", "root"] {
        manage::user_add(client, name, name).await.unwrap();
    }
    for (role, kind, user) in [("reads", READ, "reader"), ("writes", WRITE, "writer")] {
        manage::role_add(client, role).await.unwrap();
        manage::role_grant(client, role, kind, "a", "b").await.unwrap();
        manage::user_grant(client, user, role).await.unwrap();
    }
    manage::user_grant(client, "root", "root").await.unwrap();
    client.lease_grant(&pb::LeaseGrantRequest { id: 7, ttl: 600 }).await.unwrap();
    let put = pb::PutRequest { key: "aa".into(), lease: 7, ..Default::default() };
    client.put(&put).await.unwrap();
    manage::enable(client).await.unwrap();
}

/// What each login is told, a line for each call.
async fn played(logins: &[(&'static str, Client)]) -> String {
    let root = &logins.iter().find(|(name, _)| *name == "root").expect("root is among them").1;
    let mut table = String::new();
    for (method, message) in calls() {
        write!(table, "{method}:").unwrap();
        for (name, client) in logins {
            if *name == "cn-root" && (method.ends_with("/Lock") || method.ends_with("/Campaign")) {
                // Root has it already, by its token.
                for (key, range_end) in [("a/", "a0"), ("c/", "c0")] {
                    let held = pb::DeleteRangeRequest {
                        key: key.into(),
                        range_end: range_end.into(),
                        ..Default::default()
                    };
                    root.delete(&held).await.unwrap();
                }
            }
            let answer = client.call(&format!("/{method}"), message.clone().into()).await;
            write!(table, " {name}={}", shown(answer)).unwrap();
        }
        table.push('\n');
        // What the call may have made.
        drop(root.lease_revoke(77).await);
    }
    table
}

/// Who holds a token of either kind is told the same, and tokens that are minted are what they say.
#[test]
fn every_call_is_answered_to_json_web_tokens_as_to_simple_ones() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let secret = Secret::new();
        let mut tables = Vec::new();
        for (name, tokens) in [("simple", "--auth-token=simple".to_owned()), ("jwt", secret.flag(&work))] {
            let server = Launch::new(work.join(name)).flag(CHEAP).flag(tokens).start().await;
            let client = server.connect().await;
            prepare(&client).await;
            let mut logins = logins(&client).await;
            if name == "jwt" {
                let revision = manage::auth_revision(&logins[5].1).await;
                for (name, claims) in [
                    ("minted", format!(r#"{{"username":"reader","revision":{revision}}}"#)),
                    ("ended", format!(r#"{{"username":"reader","revision":{revision},"exp":1}}"#)),
                    ("old", r#"{"username":"reader","revision":1}"#.to_owned()),
                ] {
                    logins.push((name, client.clone().with_token(&secret.mint(jwt::HEADER, &claims))));
                }
            }
            tables.push(played(&logins).await);
        }
        let mut too_old = 0;
        for (simple, jwt) in tables[0].lines().zip(tables[1].lines()) {
            let (shared, minted) = jwt.split_once(" minted=").unwrap();
            assert_eq!(shared, simple);
            let (minted, rest) = minted.split_once(" ended=").unwrap();
            let (ended, old) = rest.split_once(" old=").unwrap();
            let of = |name: &str| simple.split(&format!(" {name}=")).nth(1).unwrap();
            let of = |name: &str, next: &str| of(name).split(&format!(" {next}=")).next().unwrap();
            assert_eq!(minted, of("reader", "writer"), "{jwt}");
            assert_eq!(ended, of("bad", "norole"), "{jwt}");
            match old.trim_start_matches(char::is_numeric) {
                " etcdserver: revision of auth store is old" => too_old += 1,
                _ => assert_eq!(old, of("reader", "writer"), "{jwt}"),
            }
        }
        println!("{too_old} calls were told that a token is too old");
        assert!((10..40).contains(&too_old), "{too_old}");
    });
}

/// The first column is the state's own answer, of auth switched off; where a column has less, rights said so.
#[test]
fn every_call_is_answered_by_the_rights_of_whoever_makes_it() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let authority = Authority::new(&work, "ca");
        let (launch, port) = (Launch::new(work.join("data")).flag(CHEAP), free_port());
        let urls = format!("{},https://127.0.0.1:{port}", launch.client_url());
        let [certificate, key] = authority.issue("server").flags("cert-file", "key-file");
        let launch = launch
            .flag(format!("--listen-client-urls={urls}"))
            .flag(certificate)
            .flag(key)
            .flag(format!("--trusted-ca-file={}", authority.certificate.display()))
            .flag("--client-cert-auth");
        let server = launch.start().await;
        let client = server.connect().await;
        prepare(&client).await;
        let mut logins = logins(&client).await;
        logins.extend(by_certificate(port, &authority).await);
        let table = played(&logins).await;
        expect![[r#"
            etcdserverpb.KV/Range: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/Range: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/RangeStream: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/Put: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=ok root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/Put: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/DeleteRange: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/DeleteRange: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/Txn: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=ok root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/Txn: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=ok root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.KV/Txn: none=3 nobody bad=16 token norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=16 token
            etcdserverpb.KV/Compact: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=11 etcdserver: mvcc: required revision has been compacted cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Lease/LeaseGrant: none=3 nobody bad=16 token norole=ok reader=9 etcdserver: lease already exists writer=9 etcdserver: lease already exists root=9 etcdserver: lease already exists cn-reader=9 etcdserver: lease already exists cn-root=9 etcdserver: lease already exists cn-stranger=9 etcdserver: lease already exists cn-empty=9 etcdserver: lease already exists cn-root-bad-token=16 token
            etcdserverpb.Lease/LeaseTimeToLive: none=3 nobody bad=16 token norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=16 token
            etcdserverpb.Lease/LeaseTimeToLive: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.Lease/LeaseLeases: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=7 denied cn-root-bad-token=16 token
            etcdserverpb.Lease/LeaseRevoke: none=3 nobody bad=16 token norole=5 etcdserver: requested lease not found reader=5 etcdserver: requested lease not found writer=5 etcdserver: requested lease not found root=5 etcdserver: requested lease not found cn-reader=5 etcdserver: requested lease not found cn-root=5 etcdserver: requested lease not found cn-stranger=5 etcdserver: requested lease not found cn-empty=5 etcdserver: requested lease not found cn-root-bad-token=16 token
            etcdserverpb.Cluster/MemberAdd: none=3 etcdserver: given member URLs are invalid bad=3 etcdserver: given member URLs are invalid norole=3 etcdserver: given member URLs are invalid reader=3 etcdserver: given member URLs are invalid writer=3 etcdserver: given member URLs are invalid root=3 etcdserver: given member URLs are invalid cn-reader=3 etcdserver: given member URLs are invalid cn-root=3 etcdserver: given member URLs are invalid cn-stranger=3 etcdserver: given member URLs are invalid cn-empty=3 etcdserver: given member URLs are invalid cn-root-bad-token=3 etcdserver: given member URLs are invalid
            etcdserverpb.Cluster/MemberRemove: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=5 etcdserver: member not found cn-reader=7 denied cn-root=5 etcdserver: member not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Cluster/MemberUpdate: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=5 etcdserver: member not found cn-reader=7 denied cn-root=5 etcdserver: member not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Cluster/MemberPromote: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=5 etcdserver: member not found cn-reader=7 denied cn-root=5 etcdserver: member not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Cluster/MemberList: none=3 nobody bad=16 token norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=16 token
            etcdserverpb.Maintenance/Alarm: none=3 nobody bad=16 token norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=16 token
            etcdserverpb.Maintenance/Alarm: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Maintenance/Status: none=3 nobody bad=16 token norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=16 token
            etcdserverpb.Maintenance/Defragment: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Maintenance/Hash: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Maintenance/HashKV: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Maintenance/MoveLeader: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: bad leader transferee cn-reader=7 denied cn-root=9 etcdserver: bad leader transferee cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/AuthStatus: none=ok bad=ok norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=ok
            etcdserverpb.Auth/AuthEnable: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserAdd: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=3 nobody cn-reader=7 denied cn-root=3 nobody cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserGet: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserList: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserDelete: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: user name not found cn-reader=7 denied cn-root=9 etcdserver: user name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserChangePassword: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: user name not found cn-reader=7 denied cn-root=9 etcdserver: user name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserGrantRole: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: user name not found cn-reader=7 denied cn-root=9 etcdserver: user name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/UserRevokeRole: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: user name not found cn-reader=7 denied cn-root=9 etcdserver: user name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/RoleAdd: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=3 etcdserver: role name is empty cn-reader=7 denied cn-root=3 etcdserver: role name is empty cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/RoleGet: none=3 nobody bad=16 token norole=7 denied reader=ok writer=7 denied root=ok cn-reader=ok cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/RoleList: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=ok cn-reader=7 denied cn-root=ok cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/RoleDelete: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: role name not found cn-reader=7 denied cn-root=9 etcdserver: role name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/RoleGrantPermission: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: role name not found cn-reader=7 denied cn-root=9 etcdserver: role name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            etcdserverpb.Auth/RoleRevokePermission: none=3 nobody bad=16 token norole=7 denied reader=7 denied writer=7 denied root=9 etcdserver: role name not found cn-reader=7 denied cn-root=9 etcdserver: role name not found cn-stranger=7 denied cn-empty=3 nobody cn-root-bad-token=16 token
            v3lockpb.Lock/Lock: none=2 nobody bad=2 token norole=2 denied reader=2 denied writer=2 denied root=ok cn-reader=2 denied cn-root=ok cn-stranger=2 denied cn-empty=2 denied cn-root-bad-token=2 token
            v3lockpb.Lock/Unlock: none=2 nobody bad=2 token norole=2 denied reader=2 denied writer=ok root=ok cn-reader=2 denied cn-root=ok cn-stranger=2 denied cn-empty=2 denied cn-root-bad-token=2 token
            v3electionpb.Election/Campaign: none=2 nobody bad=2 token norole=2 denied reader=2 denied writer=2 denied root=ok cn-reader=2 denied cn-root=ok cn-stranger=2 denied cn-empty=2 denied cn-root-bad-token=2 token
            v3electionpb.Election/Leader: none=2 nobody bad=2 token norole=2 denied reader=2 election: no leader writer=2 denied root=2 election: no leader cn-reader=2 election: no leader cn-root=2 election: no leader cn-stranger=2 denied cn-empty=2 denied cn-root-bad-token=2 token
            v3electionpb.Election/Resign: none=2 nobody bad=2 token norole=2 denied reader=2 denied writer=2 denied root=ok cn-reader=2 denied cn-root=ok cn-stranger=2 denied cn-empty=2 denied cn-root-bad-token=2 token
            grpc.health.v1.Health/Check: none=ok bad=ok norole=ok reader=ok writer=ok root=ok cn-reader=ok cn-root=ok cn-stranger=ok cn-empty=ok cn-root-bad-token=ok
        "#]]
        .assert_eq(&table);
    });
}
