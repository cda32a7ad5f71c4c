//! Calls about users and roles, short to write.

use bytes::Bytes;
use pinion_kit::client::{CallError, Client};
use pinion_kit::pb::authpb::{self, Permission};
use pinion_kit::pb::etcdserverpb as pb;
use prost::Message;

/// bcrypt's least work: tests log in often.
pub const CHEAP: &str = "--bcrypt-cost=4";

pub const READ: i32 = 0;
pub const WRITE: i32 = 1;
pub const BOTH: i32 = 2;

async fn call<A: Message + Default>(
    client: &Client,
    method: &str,
    request: impl Message,
) -> Result<A, CallError> {
    client.unary(&format!("/etcdserverpb.Auth/{method}"), &request).await
}

pub async fn user_add(client: &Client, name: &str, password: &str) -> Result<(), CallError> {
    let request =
        pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() };
    call::<pb::AuthUserAddResponse>(client, "UserAdd", request).await.map(drop)
}

pub async fn user_add_without_password(client: &Client, name: &str) -> Result<(), CallError> {
    let options = Some(authpb::UserAddOptions { no_password: true });
    let request = pb::AuthUserAddRequest { name: name.into(), options, ..Default::default() };
    call::<pb::AuthUserAddResponse>(client, "UserAdd", request).await.map(drop)
}

pub async fn user_delete(client: &Client, name: &str) -> Result<(), CallError> {
    let request = pb::AuthUserDeleteRequest { name: name.into() };
    call::<pb::AuthUserDeleteResponse>(client, "UserDelete", request).await.map(drop)
}

pub async fn user_password(client: &Client, name: &str, password: &str) -> Result<(), CallError> {
    let request = pb::AuthUserChangePasswordRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    call::<pb::AuthUserChangePasswordResponse>(client, "UserChangePassword", request).await.map(drop)
}

pub async fn user_grant(client: &Client, user: &str, role: &str) -> Result<(), CallError> {
    let request = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
    call::<pb::AuthUserGrantRoleResponse>(client, "UserGrantRole", request).await.map(drop)
}

pub async fn user_revoke(client: &Client, user: &str, role: &str) -> Result<(), CallError> {
    let request = pb::AuthUserRevokeRoleRequest { name: user.into(), role: role.into() };
    call::<pb::AuthUserRevokeRoleResponse>(client, "UserRevokeRole", request).await.map(drop)
}

pub async fn user_get(client: &Client, name: &str) -> Result<Vec<String>, CallError> {
    let request = pb::AuthUserGetRequest { name: name.into() };
    call::<pb::AuthUserGetResponse>(client, "UserGet", request).await.map(|answer| answer.roles)
}

pub async fn user_list(client: &Client) -> Result<Vec<String>, CallError> {
    call::<pb::AuthUserListResponse>(client, "UserList", pb::AuthUserListRequest {})
        .await
        .map(|answer| answer.users)
}

pub async fn role_add(client: &Client, name: &str) -> Result<(), CallError> {
    let request = pb::AuthRoleAddRequest { name: name.into() };
    call::<pb::AuthRoleAddResponse>(client, "RoleAdd", request).await.map(drop)
}

pub async fn role_delete(client: &Client, role: &str) -> Result<(), CallError> {
    let request = pb::AuthRoleDeleteRequest { role: role.into() };
    call::<pb::AuthRoleDeleteResponse>(client, "RoleDelete", request).await.map(drop)
}

pub async fn role_grant(
    client: &Client,
    role: &str,
    kind: i32,
    key: &str,
    range_end: &str,
) -> Result<(), CallError> {
    let perm = Permission {
        perm_type: kind,
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
    };
    let request = pb::AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(perm) };
    call::<pb::AuthRoleGrantPermissionResponse>(client, "RoleGrantPermission", request).await.map(drop)
}

pub async fn role_revoke(client: &Client, role: &str, key: &str, range_end: &str) -> Result<(), CallError> {
    let request = pb::AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end.as_bytes()),
    };
    call::<pb::AuthRoleRevokePermissionResponse>(client, "RoleRevokePermission", request).await.map(drop)
}

pub async fn role_get(client: &Client, role: &str) -> Result<Vec<Permission>, CallError> {
    let request = pb::AuthRoleGetRequest { role: role.into() };
    call::<pb::AuthRoleGetResponse>(client, "RoleGet", request).await.map(|answer| answer.perm)
}

pub async fn role_list(client: &Client) -> Result<Vec<String>, CallError> {
    call::<pb::AuthRoleListResponse>(client, "RoleList", pb::AuthRoleListRequest {})
        .await
        .map(|answer| answer.roles)
}

pub async fn enable(client: &Client) -> Result<(), CallError> {
    call::<pb::AuthEnableResponse>(client, "AuthEnable", pb::AuthEnableRequest {}).await.map(drop)
}

pub async fn disable(client: &Client) -> Result<(), CallError> {
    call::<pb::AuthDisableResponse>(client, "AuthDisable", pb::AuthDisableRequest {}).await.map(drop)
}

pub async fn auth_revision(client: &Client) -> u64 {
    call::<pb::AuthStatusResponse>(client, "AuthStatus", pb::AuthStatusRequest {})
        .await
        .unwrap()
        .auth_revision
}

/// `root`, `alice` who reads and writes from a to m, `bob` without a role; each with its name as its password.
/// Rights are asked for afterwards. Gives `root`.
pub async fn people(client: &Client) -> Client {
    for name in ["root", "alice", "bob"] {
        user_add(client, name, name).await.unwrap();
    }
    user_grant(client, "root", "root").await.unwrap();
    role_add(client, "half").await.unwrap();
    role_grant(client, "half", BOTH, "a", "m").await.unwrap();
    user_grant(client, "alice", "half").await.unwrap();
    enable(client).await.unwrap();
    client.logged_in("root", "root").await.unwrap()
}
