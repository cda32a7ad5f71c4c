//! `--discovery-endpoints`: members find each other through another Pinion or a real etcd, whatever
//! happens to it or to them meanwhile; who is one too many, or wrong, is told so.

use std::path::PathBuf;

use pinion::membership::{cluster_id, member_id};
use pinion_kit::client::Client;
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{
    Launch, Server, TEST_DEADLINE, WorkDir, block_on, free_port, installed, server_binary, start_all,
};

use crate::group::{check_one_cluster, identities, member};

/// A service in which tokens have this size.
async fn service(work: &WorkDir, binary: PathBuf, tokens: &[(&str, &str)]) -> (Launch, Server) {
    let launch = Launch::binary(binary, work.join("service"));
    let server = launch.start().await;
    let client = server.connect().await;
    for (token, size) in tokens {
        client.put_kv(&format!("/_etcd/registry/{token}/_config/size"), size).await.unwrap();
    }
    (launch, server)
}

fn discovering(work: &WorkDir, name: &str, service: &Launch, token: &str) -> Launch {
    member(work, name)
        .flag(format!("--discovery-endpoints=127.0.0.1:{}", service.client_port))
        .flag(format!("--discovery-token={token}"))
}

fn three(work: &WorkDir, service: &Launch, token: &str) -> Vec<Launch> {
    ["one", "two", "three"].iter().map(|name| discovering(work, name, service, token)).collect()
}

async fn registrations(client: &Client, token: &str) -> Vec<(String, i64)> {
    let range = client.prefix(&format!("/_etcd/registry/{token}/members/")).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    range.kvs.iter().map(|kv| (text(&kv.value), kv.create_revision)).collect()
}

/// Three find each other, their ids follow from the token, and a fourth is one too many.
async fn check_discovery(binary: PathBuf) {
    let work = WorkDir::new();
    let (service, _running) = service(&work, binary, &[("t/1", "3")]).await;
    let launches = three(&work, &service, "t/1");
    let servers = start_all(&launches).await;
    check_one_cluster(&servers).await;
    let ids = launches.iter().map(|launch| member_id(&[launch.peer_url()], "t/1"));
    assert_eq!(identities(&servers[0], 3).await.0, cluster_id(ids).0, "the token is the cluster's");
    let fourth = discovering(&work, "four", &service, "t/1");
    let exit = fourth.start_refused().await;
    exit.assert_says(&["discovery: cluster is full", "etcdctl member add"]);
    assert!(!fourth.data_dir.join("IDENTITY").exists(), "it left nothing that would begin a cluster");
    let unknown = discovering(&work, "five", &service, "other").start_refused().await;
    unknown.assert_says(&["size key not found", "/_etcd/registry/other/_config/size"]);
}

#[test]
fn three_members_find_each_other_through_a_pinion_and_a_fourth_is_refused() {
    block_on(TEST_DEADLINE, check_discovery(server_binary()));
}

#[test]
fn three_members_find_each_other_through_an_etcd_and_a_fourth_is_refused() {
    block_on(TEST_DEADLINE, async {
        if let Some(etcd) = installed("etcd") {
            check_discovery(etcd).await;
        }
    });
}

#[test]
fn service_may_be_down_first_go_away_and_come_back_and_a_member_may_be_killed_while_it_waits() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let (service, mut running) = service(&work, server_binary(), &[("t", "3")]).await;
        running.kill();
        let mut launches = three(&work, &service, "t");
        // The first address that it is given never answers.
        let dead = free_port();
        launches[1].flags[2] =
            format!("--discovery-endpoints=127.0.0.1:{dead},127.0.0.1:{}", service.client_port);
        let mut first = launches[0].spawn();
        first.wait_output("the discovery service does not serve").await;
        let mut running = service.start().await;
        first.wait_output("registered with the discovery service").await;
        first.kill();
        let mut first = launches[0].spawn();
        first.wait_output("waiting for members to register").await;
        assert!(!first.output().contains("registered with the discovery"), "it finds its own registration");
        let mut second = launches[1].spawn();
        second.wait_output("waiting for members to register").await;
        running.kill();
        second.wait_output("asking the discovery service again").await;
        let running = service.start().await;
        let third = launches[2].spawn();
        let mut servers = vec![first, second, third];
        for server in &mut servers {
            server.wait_ready().await.unwrap();
        }
        check_one_cluster(&servers).await;
        let names: Vec<String> =
            identities(&servers[0], 3).await.1.into_iter().map(|(.., name)| name).collect();
        let registered = registrations(&running.connect().await, "t").await;
        assert_eq!((names.len(), registered.len()), (3, 3), "{registered:?}");
    });
}

#[test]
fn mistakes_in_the_service_are_refused_by_name_and_a_signal_ends_the_waiting() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let tokens = [("t", "3"), ("bad", "many"), ("shrinks", "3")];
        let (service, running) = service(&work, server_binary(), &tokens).await;
        let client = running.connect().await;
        let bad = discovering(&work, "bad", &service, "bad").start_refused().await;
        bad.assert_says(&["size key is bad", "many"]);

        let first = discovering(&work, "one", &service, "t");
        let mut waiting = first.spawn();
        waiting.wait_output("waiting for members to register").await;
        let twin = Launch { name: "one".to_owned(), ..discovering(&work, "twin", &service, "t") };
        twin.start_refused().await.assert_says(&["discovery: duplicate name", "--name"]);
        assert_eq!(registrations(&client, "t").await.len(), 1, "it was not registered");
        let exit = waiting.terminate().await;
        exit.assert_says(&["stopped while waiting for the members"]);
        let renamed = Launch { name: "uno".to_owned(), ..first };
        renamed.start_refused().await.assert_says(&["duplicate member", "one=http://", "uno=http://"]);

        let key = "/_etcd/registry/t/members/1234";
        client.put_kv(key, "x=ftp://x").await.unwrap();
        let garbage = discovering(&work, "two", &service, "t").start_refused().await;
        garbage.assert_says(&["is not a registration", key]);

        let mut waiting = discovering(&work, "three", &service, "shrinks").spawn();
        waiting.wait_output("waiting for members to register").await;
        client.put_kv("/_etcd/registry/shrinks/_config/size", "2").await.unwrap();
        waiting.wait_exit().await.assert_says(&["changed from 3 to 2"]);
    });
}

#[test]
fn etcd_with_auth_lets_in_who_gives_the_right_user_and_others_hear_what_to_do() {
    block_on(TEST_DEADLINE, async {
        let Some(etcd) = installed("etcd") else { return };
        let work = WorkDir::new();
        let (service, running) = service(&work, etcd, &[("t", "1")]).await;
        enable_auth(&running.connect().await).await;
        let launch = discovering(&work, "one", &service, "t");
        let nobody = launch.start_refused().await;
        nobody.assert_says(&["refuses", "give --discovery-user"]);
        let wrong = launch.clone().flag("--discovery-user=finder:wrong").start_refused().await;
        wrong.assert_says(&["authentication failed", "Check --discovery-user"]);
        let stranger = launch
            .clone()
            .flag("--discovery-user=stranger")
            .flag("--discovery-password=p")
            .start_refused()
            .await;
        stranger.assert_says(&["permission denied", "/_etcd/registry/"]);
        let server = launch.flag("--discovery-user=finder:secret").start().await;
        check_one_cluster(&[server]).await;
    });
}

/// `finder` may use the registry, `stranger` nothing.
async fn enable_auth(client: &Client) {
    let call = |method: &str| format!("/etcdserverpb.Auth/{method}");
    for (name, password) in [("root", "r"), ("finder", "secret"), ("stranger", "p")] {
        let add = pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        };
        client.unary::<pb::AuthUserAddResponse>(&call("UserAdd"), &add).await.unwrap();
    }
    for role in ["root", "finder"] {
        let add = pb::AuthRoleAddRequest { name: role.to_owned() };
        client.unary::<pb::AuthRoleAddResponse>(&call("RoleAdd"), &add).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: role.to_owned(), role: role.to_owned() };
        client.unary::<pb::AuthUserGrantRoleResponse>(&call("UserGrantRole"), &grant).await.unwrap();
    }
    let permission = pinion_kit::pb::authpb::Permission {
        perm_type: pinion_kit::pb::authpb::permission::Type::Readwrite.into(),
        key: "/_etcd/registry/t/".into(),
        range_end: "/_etcd/registry/t0".into(),
    };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "finder".to_owned(), perm: Some(permission) };
    client.unary::<pb::AuthRoleGrantPermissionResponse>(&call("RoleGrantPermission"), &grant).await.unwrap();
    let enable = pb::AuthEnableRequest {};
    client.unary::<pb::AuthEnableResponse>(&call("AuthEnable"), &enable).await.unwrap();
}
