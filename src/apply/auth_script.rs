//! The part of the tests' language (`script`) that is about users and roles.
//!
//! ```text
//! level N                                   the format level of the cluster
//! auth on|off|status
//! user add NAME [none] | delete NAME | passwd NAME | grant NAME ROLE | revoke NAME ROLE | get NAME | list
//! role add NAME | delete NAME | get NAME | list
//! role grant NAME read|write|both|N KEY [END] | revoke NAME KEY [END]
//! login NAME [REV]                          its password was right at this auth revision, or that of now
//! permit login|admin|read KEY [END]         what is done elsewhere
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost::Message as _;

use super::machine::{Machine, StatusFacts};
use super::script::{Words, decode, show, show_bytes, text};
use crate::pb::authpb::{self, Permission};
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{Login, Permit, Query, RequestKind};

/// What a line asks.
pub(super) enum Asked {
    Request(RequestKind, Bytes),
    Query(Query),
}

/// In whose name a line is, and the line.
pub(super) fn login<'l>(machine: &Machine, line: &'l str) -> (Option<Login>, &'l str) {
    let Some(rest) = line.strip_prefix("as ") else { return (None, line) };
    let (who, line) = rest.split_once(' ').expect("somebody asks something");
    let (name, revision) = who.split_once('@').unwrap_or((who, ""));
    let revision = if revision.is_empty() { machine.realm().revision() } else { revision.parse().unwrap() };
    let login = match name {
        "member" => Login::member(),
        name => Login { name: name.as_bytes().to_vec().into(), revision },
    };
    (Some(login), line)
}

/// Reads a line about users and roles.
pub(super) fn parse(words: &mut Words<'_>) -> Option<Asked> {
    let request = |kind, body: Vec<u8>| Some(Asked::Request(kind, body.into()));
    let query = |query| Some(Asked::Query(query));
    if words.eat("level") {
        let level = words.next().parse().unwrap();
        return request(RequestKind::FormatLevel, peer::FormatLevel { level }.encode_to_vec());
    }
    if words.eat("auth") {
        return match words.next() {
            "on" => request(RequestKind::AuthEnable, Vec::new()),
            "off" => request(RequestKind::AuthDisable, Vec::new()),
            _ => query(Query::AuthStatus),
        };
    }
    if words.eat("login") {
        let user = words.next().into();
        let revision = words.argument().map_or(0, |revision| revision.parse().unwrap());
        let body = peer::Authenticate { user, prefix: "abcdefghijklmnop".into(), revision, is_digest: true };
        return request(RequestKind::Authenticate, body.encode_to_vec());
    }
    if words.eat("permit") {
        return query(Query::Permit(match words.next() {
            "login" => Permit::Login,
            "admin" => Permit::Admin,
            _ => Permit::Range { key: text(words.next()), range_end: end(words) },
        }));
    }
    if words.eat("user") {
        return user(words);
    }
    words.eat("role").then(|| role(words))
}

fn name(words: &mut Words<'_>) -> String {
    match words.next() {
        "\"\"" => String::new(),
        name => name.into(),
    }
}

fn end(words: &mut Words<'_>) -> Bytes {
    words.argument().map_or(Bytes::new(), text)
}

fn user(words: &mut Words<'_>) -> Option<Asked> {
    let verb = words.next();
    if verb == "list" {
        return Some(Asked::Query(Query::UserList));
    }
    let name = name(words);
    let (kind, body) = match verb {
        "get" => return Some(Asked::Query(Query::UserGet(name))),
        "add" => {
            let options = words.eat("none").then_some(authpb::UserAddOptions { no_password: true });
            let hashed_password = BASE64.encode("some hash");
            let add = pb::AuthUserAddRequest { name, options, hashed_password, ..Default::default() };
            (RequestKind::UserAdd, add.encode_to_vec())
        }
        "delete" => (RequestKind::UserDelete, pb::AuthUserDeleteRequest { name }.encode_to_vec()),
        "passwd" => {
            let hashed_password = BASE64.encode("another hash");
            let change = pb::AuthUserChangePasswordRequest { name, hashed_password, ..Default::default() };
            (RequestKind::UserChangePassword, change.encode_to_vec())
        }
        "grant" => {
            let grant = pb::AuthUserGrantRoleRequest { user: name, role: words.next().into() };
            (RequestKind::UserGrantRole, grant.encode_to_vec())
        }
        _ => {
            let revoke = pb::AuthUserRevokeRoleRequest { name, role: words.next().into() };
            (RequestKind::UserRevokeRole, revoke.encode_to_vec())
        }
    };
    Some(Asked::Request(kind, body.into()))
}

fn role(words: &mut Words<'_>) -> Asked {
    let verb = words.next();
    if verb == "list" {
        return Asked::Query(Query::RoleList);
    }
    let name = name(words);
    let (kind, body) = match verb {
        "get" => return Asked::Query(Query::RoleGet(name)),
        "add" => (RequestKind::RoleAdd, pb::AuthRoleAddRequest { name }.encode_to_vec()),
        "delete" => (RequestKind::RoleDelete, pb::AuthRoleDeleteRequest { role: name }.encode_to_vec()),
        "grant" => {
            let perm = words.argument().map(|kind| Permission {
                perm_type: match kind {
                    "read" => 0,
                    "write" => 1,
                    "both" => 2,
                    number => number.parse().unwrap(),
                },
                key: text(words.next()),
                range_end: end(words),
            });
            let grant = pb::AuthRoleGrantPermissionRequest { name, perm };
            (RequestKind::RoleGrantPermission, grant.encode_to_vec())
        }
        _ => {
            let revoke = pb::AuthRoleRevokePermissionRequest {
                role: name,
                key: text(words.next()),
                range_end: end(words),
            };
            (RequestKind::RoleRevokePermission, revoke.encode_to_vec())
        }
    };
    Asked::Request(kind, body.into())
}

/// Asks and shows the answer.
pub(super) fn answer(machine: &Machine, login: Option<Login>, query: Query) -> String {
    let outcome = match machine.permit(login.as_ref(), &query) {
        Ok(()) => machine.read(&query, &StatusFacts::default()),
        Err(denied) => Err(denied.into()),
    };
    show(outcome, |response| match query {
        Query::AuthStatus => {
            let answer: pb::AuthStatusResponse = decode(response);
            format!("{} at {}", if answer.enabled { "on" } else { "off" }, answer.auth_revision)
        }
        Query::UserGet(_) => decode::<pb::AuthUserGetResponse>(response).roles.join(" "),
        Query::UserList => decode::<pb::AuthUserListResponse>(response).users.join(" "),
        Query::RoleList => decode::<pb::AuthRoleListResponse>(response).roles.join(" "),
        Query::RoleGet(_) => {
            let permissions =
                decode::<pb::AuthRoleGetResponse>(response).perm.into_iter().map(|permission| {
                    let kind = match permission.perm_type {
                        0 => "read".to_owned(),
                        1 => "write".to_owned(),
                        2 => "both".to_owned(),
                        other => other.to_string(),
                    };
                    let (key, end) = (show_bytes(&permission.key), show_bytes(&permission.range_end));
                    format!("{kind} {key}..{end}")
                });
            permissions.collect::<Vec<_>>().join(", ")
        }
        _ => "yes".to_owned(),
    })
}
