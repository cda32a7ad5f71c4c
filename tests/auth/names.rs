//! Names and ranges that nobody would choose, beside real etcds.

use bytes::Bytes;
use pinion_kit::client::{CallError, Client, refusal};
use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::{Launch, TEST_DEADLINE, WorkDir, block_on, etcds};
use prost::Message as _;

use crate::jwt::is_of;
use crate::manage::{self, CHEAP};

/// Code and text; of an answer its bytes without the header, whose length is told by its first ones.
fn shown(answer: Result<Bytes, CallError>) -> String {
    match answer {
        Ok(body) => {
            let header = body.get(1).map_or(0, |length| 2 + usize::from(*length));
            format!("ok {}", body[header..].escape_ascii())
        }
        Err(error) => {
            let (code, text) = refusal(Err::<(), _>(error));
            format!("{code} {text}")
        }
    }
}

/// A message whose fields 1, 2 … are these bytes.
fn message(fields: &[&[u8]]) -> Bytes {
    let mut bytes = Vec::new();
    for (number, field) in (1_u8..).zip(fields) {
        bytes.extend_from_slice(&[number << 3 | 2, u8::try_from(field.len()).unwrap()]);
        bytes.extend_from_slice(field);
    }
    bytes.into()
}

async fn call(client: &Client, method: &str, message: Bytes) -> String {
    shown(client.call(&format!("/etcdserverpb.Auth/{method}"), message).await)
}

/// The life of a role and a user with this name.
async fn life(client: &Client, name: &[u8]) -> Vec<String> {
    let mut told = Vec::new();
    for (method, fields) in [
        ("RoleAdd", &[name][..]),
        ("RoleAdd", &[name]),
        ("UserAdd", &[name, b"password"]),
        ("UserGrantRole", &[name, name]),
        ("UserGet", &[name]),
        ("RoleGet", &[name]),
        ("RoleList", &[]),
        ("UserList", &[]),
        ("UserRevokeRole", &[name, name]),
        ("UserDelete", &[name]),
        ("RoleDelete", &[name]),
    ] {
        told.push(format!("{method}: {}", call(client, method, message(fields)).await));
    }
    told
}

#[test]
fn names_of_every_byte_live_as_with_etcd_and_those_that_are_no_text_are_refused() {
    block_on(TEST_DEADLINE, async {
        let work = WorkDir::new();
        let server = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let ours = server.connect().await;
        let mut others = Vec::new();
        for (number, etcd) in etcds("etcd").into_iter().enumerate() {
            let launch = Launch::binary(&etcd, work.join(&format!("etcd{number}"))).flag(CHEAP);
            let server = launch.start().await;
            let client = server.connect().await;
            others.push((etcd, server, client));
        }
        let long = "x".repeat(120);
        let texts = (0..0x80_u8).map(|byte| vec![b'r', byte]);
        let wide = ["\u{fc}", "\u{0}", "\u{feff}", "\u{10ffff}", "a/b:c\"d\\", "r\u{202e}\n", &long];
        for name in texts.chain(wide.map(|name| name.as_bytes().to_vec())) {
            let told = life(&ours, &name).await;
            assert!(told[0].starts_with("RoleAdd: ok"), "{told:?}");
            for (etcd, _, client) in &others {
                assert_eq!(told, life(client, &name).await, "{} {}", name.escape_ascii(), etcd.display());
            }
        }
        // Releases before 3.7 do not look whether a name is text.
        for byte in 0x80..=0xff_u8 {
            for told in life(&ours, &[b'r', byte]).await {
                let is_list = told.starts_with("RoleList") || told.starts_with("UserList");
                assert!(
                    if is_list { told.ends_with("ok ") } else { told.contains(": 13 ") },
                    "{byte:x}: {told}"
                );
            }
        }
    });
}

#[test]
fn permissions_upside_down_and_of_no_key_are_refused_as_by_etcd() {
    const BOUNDS: [&[u8]; 7] = [b"", b"\0", b"a", b"a\0", b"b", b"\xff", b"\xff\xff"];
    block_on(TEST_DEADLINE, async {
        let Some(etcd) = etcds("etcd").into_iter().find(|etcd| is_of(etcd, "3.5")) else { return };
        let work = WorkDir::new();
        let reference = Launch::binary(&etcd, work.join("etcd")).flag(CHEAP).start().await;
        let subject = Launch::new(work.join("data")).flag(CHEAP).start().await;
        let (theirs, ours) = (reference.connect().await, subject.connect().await);
        let mut refused = 0;
        for (number, (key, end)) in BOUNDS.iter().flat_map(|key| BOUNDS.map(|end| (*key, end))).enumerate() {
            let role = format!("role{number}");
            let mut both = Vec::new();
            for client in [&theirs, &ours] {
                manage::role_add(client, &role).await.unwrap();
                let perm = pinion_kit::pb::authpb::Permission {
                    perm_type: manage::BOTH,
                    key: key.into(),
                    range_end: end.into(),
                };
                let grant = pb::AuthRoleGrantPermissionRequest { name: role.clone(), perm: Some(perm) };
                let granted = call(client, "RoleGrantPermission", grant.encode_to_vec().into()).await;
                let told = call(client, "RoleGet", message(&[role.as_bytes()])).await;
                let revoked =
                    call(client, "RoleRevokePermission", message(&[role.as_bytes(), key, end])).await;
                both.push([granted, told, revoked]);
            }
            assert_eq!(both[1], both[0], "{} {}", key.escape_ascii(), end.escape_ascii());
            refused += usize::from(!both[1][0].starts_with("ok"));
        }
        assert!((10..40).contains(&refused), "{refused} of 49 were refused");
    });
}
