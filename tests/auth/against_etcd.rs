//! Random users, roles, permissions and calls, beside a real etcd: codes and texts.
//!
//! Not sent, since 3.4, which Debian has, differs from 3.7: calls about leases, which it guards less; nested
//! transactions and `prev_kv`, which it does not look at; AuthStatus, which it does not have; and the permissions of
//! the role `root`, which it does not tell; a token while rights are not asked for, which it refuses.

use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::etcdserverpb::request_op::Request as Op;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, env_number, installed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::manage::{self, CHEAP};

const CALLS: usize = 1_500;

fn shown<T: std::fmt::Debug>(answer: Result<T, CallError>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => error.to_string(),
    }
}

/// What both servers are asked.
#[derive(Debug, Clone)]
enum Call {
    UserAdd(String, String),
    UserAddWithoutPassword(String),
    UserDelete(String),
    UserPassword(String, String),
    UserGrant(String, String),
    UserRevoke(String, String),
    UserGet(String),
    UserList,
    RoleAdd(String),
    RoleDelete(String),
    RoleGrant(String, i32, String, String),
    RoleRevoke(String, String, String),
    RoleGet(String),
    RoleList,
    Enable,
    Disable,
    LogIn(String, String),
    Forget,
    Range(String, String),
    Put(String),
    Delete(String, String),
    Txn(String, String, String),
}

fn draw(random: &mut StdRng) -> Call {
    let user =
        |random: &mut StdRng| ["root", "alice", "bob", "eve", ""][random.random_range(0..5)].to_owned();
    let role = |random: &mut StdRng| ["root", "r1", "r2", "none", ""][random.random_range(0..5)].to_owned();
    let key = |random: &mut StdRng| ["a", "b", "bb", "c", "\0"][random.random_range(0..5)].to_owned();
    let end = |random: &mut StdRng| ["", "", "c", "b", "z", "\0"][random.random_range(0..6)].to_owned();
    let password = |random: &mut StdRng| ["p", "q", ""][random.random_range(0..3)].to_owned();
    match random.random_range(0..40) {
        0 => Call::UserAdd(user(random), password(random)),
        1 => Call::UserAddWithoutPassword(user(random)),
        2 if random.random_bool(0.3) => Call::UserDelete(user(random)),
        // 3.4 hashes an empty one.
        3 => Call::UserPassword(user(random), "q".to_owned()),
        4 | 5 => Call::UserGrant(user(random), role(random)),
        6 if random.random_bool(0.4) => Call::UserRevoke(user(random), role(random)),
        7 => Call::UserGet(user(random)),
        8 => Call::UserList,
        9 | 10 => Call::RoleAdd(role(random)),
        11 if random.random_bool(0.3) => Call::RoleDelete(role(random)),
        12..15 => {
            let (key, end) = (key(random), end(random));
            // 3.4 grants what is upside down.
            let end = if end.len() == 1 && end != "\0" && end <= key { "zz".to_owned() } else { end };
            Call::RoleGrant(role(random), random.random_range(0..4), key, end)
        }
        15 => Call::RoleRevoke(role(random), key(random), end(random)),
        16 => Call::RoleGet(["r1", "r2", "none"][random.random_range(0..3)].to_owned()),
        17 => Call::RoleList,
        18 => Call::Enable,
        19 if random.random_bool(0.3) => Call::Disable,
        20..25 => Call::LogIn(user(random), password(random)),
        25 => Call::Forget,
        26..31 => Call::Range(key(random), end(random)),
        31..35 => Call::Put(key(random)),
        35..37 => Call::Delete(key(random), end(random)),
        _ => Call::Txn(key(random), key(random), key(random)),
    }
}

/// One server, and who is logged in there.
struct Side {
    plain: Client,
    login: Client,
}

impl Side {
    async fn play(&mut self, call: &Call) -> String {
        let client = &self.login;
        match call.clone() {
            Call::UserAdd(name, password) => shown(manage::user_add(client, &name, &password).await),
            Call::UserAddWithoutPassword(name) => {
                shown(manage::user_add_without_password(client, &name).await)
            }
            Call::UserDelete(name) => shown(manage::user_delete(client, &name).await),
            Call::UserPassword(name, password) => {
                shown(manage::user_password(client, &name, &password).await)
            }
            Call::UserGrant(user, role) => shown(manage::user_grant(client, &user, &role).await),
            Call::UserRevoke(user, role) => shown(manage::user_revoke(client, &user, &role).await),
            Call::UserGet(name) => shown(manage::user_get(client, &name).await),
            Call::UserList => shown(manage::user_list(client).await),
            Call::RoleAdd(name) => shown(manage::role_add(client, &name).await),
            Call::RoleDelete(name) => shown(manage::role_delete(client, &name).await),
            Call::RoleGrant(role, kind, key, end) => {
                shown(manage::role_grant(client, &role, kind, &key, &end).await)
            }
            Call::RoleRevoke(role, key, end) => shown(manage::role_revoke(client, &role, &key, &end).await),
            Call::RoleGet(role) => {
                let mut told = manage::role_get(client, &role).await;
                if let Ok(permissions) = &mut told {
                    // Many of one key come in no order.
                    permissions.sort_by_key(|permission| format!("{permission:?}"));
                }
                shown(told)
            }
            Call::RoleList => shown(manage::role_list(client).await),
            Call::Enable => shown(manage::enable(client).await),
            Call::Disable => {
                let told = shown(manage::disable(client).await);
                if told == "()" {
                    self.login = self.plain.clone();
                }
                told
            }
            Call::LogIn(name, password) => match self.plain.logged_in(&name, &password).await {
                Ok(login) => {
                    self.login = login;
                    "ok".to_owned()
                }
                Err(error) => error.to_string(),
            },
            Call::Forget => {
                self.login = self.plain.clone();
                String::new()
            }
            Call::Range(key, end) => {
                let range = pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
                shown(client.range(&range).await.map(|answer| answer.count))
            }
            Call::Put(key) => {
                let put = pb::PutRequest { key: key.into(), ..Default::default() };
                shown(client.put(&put).await.map(|answer| answer.header.unwrap().revision))
            }
            Call::Delete(key, end) => {
                let delete =
                    pb::DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() };
                shown(client.delete(&delete).await.map(|answer| answer.deleted))
            }
            Call::Txn(compared, put, read) => {
                let compare = pb::Compare { key: compared.into(), ..Default::default() };
                let put = pb::PutRequest { key: put.into(), ..Default::default() };
                let range = pb::RangeRequest { key: read.into(), ..Default::default() };
                let txn = pb::TxnRequest {
                    compare: vec![compare],
                    success: vec![pb::RequestOp { request: Some(Op::RequestPut(put)) }],
                    failure: vec![pb::RequestOp { request: Some(Op::RequestRange(range)) }],
                };
                shown(
                    client.txn(&txn).await.map(|answer| (answer.succeeded, answer.header.unwrap().revision)),
                )
            }
        }
    }
}

#[test]
fn random_calls_are_answered_as_etcd_answers_them() {
    let Some(etcd) = installed("etcd") else { return };
    let seed = env_number("PINION_SEED", 7);
    println!("replay with PINION_SEED={seed}");
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let quick = |launch: Launch| launch.flag("--heartbeat-interval=10").flag("--election-timeout=100");
        let reference = quick(Launch::binary(etcd, work.join("reference"))).flag(CHEAP).start().await;
        let subject = quick(Launch::new(work.join("subject"))).flag(CHEAP).start().await;
        let (reference, subject) = (reference.connect().await, subject.connect().await);
        let mut reference = Side { login: reference.clone(), plain: reference };
        let mut subject = Side { login: subject.clone(), plain: subject };
        let mut random = StdRng::seed_from_u64(seed);
        let mut refused = 0;
        let mut before = Vec::new();
        for number in 0..CALLS {
            let call = draw(&mut random);
            let expected = reference.play(&call).await;
            let told = subject.play(&call).await;
            before.push(format!("{call:?}: {expected}"));
            let before = &before[before.len().saturating_sub(30)..];
            assert_eq!(told, expected, "call {number} of seed {seed}, the last of: {before:#?}");
            refused += usize::from(told.contains("etcdserver: "));
        }
        assert!((CALLS / 10..CALLS * 9 / 10).contains(&refused), "{refused} of {CALLS} were refused");
        println!("{CALLS} calls, {refused} refused, no difference");
    });
}
