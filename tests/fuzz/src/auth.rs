//! Requests about users, roles and permissions against a slow reading of the same rules.
//!
//! Claims, for any sequence: each request is answered, and refused exactly where the model refuses it; a refusal changes
//! nothing; the revision grows by one with each change of rights; what a user may read or write is what the permissions of
//! its roles say key by key, at the present revision and no other; an administrator may everything, a stranger nothing; and
//! a machine made of the checkpoint decides alike. Bodies that are no message, or damaged, are refused or do what they say.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion::apply::{Applied, Machine, Restore};
use pinion::auth::Realm;
use pinion::pb::authpb::{Permission, UserAddOptions};
use pinion::pb::etcdserverpb as pb;
use pinion::pb::peer;
use pinion::request::{Login, Query, Request, RequestKind};
use pinion::types::{FormatLevel, KeyRange};
use prost::Message;

use crate::requests::{AT, machine, request, stream};
use crate::{below, bytes, one_in};

const STEPS_MAX: usize = 80;
const NAMES: [&str; 4] = ["root", "alice", "b\u{0}b", ""];
const ROLES: [&str; 4] = ["root", "reader", "w\u{fc}", ""];
const BOUNDS: [&[u8]; 9] = [b"", b"\0", b"a", b"a\0", b"b", b"bb", b"c", b"\xff", b"\xff\xff"];

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => raw(rest),
        _ => sequence(&mut Unstructured::new(rest)),
    }
}

/// A machine whose cluster may have users.
fn ready() -> Machine {
    let mut machine = machine();
    let level = peer::FormatLevel { level: FormatLevel::HIGHEST.0 }.encode_to_vec();
    assert!(is_accepted(&mut machine, RequestKind::FormatLevel, level));
    machine
}

fn is_accepted(machine: &mut Machine, kind: RequestKind, body: Vec<u8>) -> bool {
    let request = Request { login: Some(Login::member()), ..request(kind, body) };
    match machine.apply(&request, AT) {
        Applied::Now(outcome) => outcome.is_ok(),
        Applied::AfterCompaction(_) => unreachable!("{kind:?} compacts nothing"),
    }
}

const KINDS: [RequestKind; 12] = [
    RequestKind::AuthEnable,
    RequestKind::AuthDisable,
    RequestKind::Authenticate,
    RequestKind::UserAdd,
    RequestKind::UserDelete,
    RequestKind::UserChangePassword,
    RequestKind::UserGrantRole,
    RequestKind::UserRevokeRole,
    RequestKind::RoleAdd,
    RequestKind::RoleDelete,
    RequestKind::RoleGrantPermission,
    RequestKind::RoleRevokePermission,
];

/// Any bytes as every kind of request, by a member, by nobody, and by somebody.
fn raw(body: &[u8]) {
    let mut machine = ready();
    for kind in KINDS {
        let logins = [
            Some(Login::member()),
            None,
            Some(Login { name: Bytes::copy_from_slice(&body[..body.len().min(5)]), revision: 1 }),
        ];
        for login in logins {
            let before = stream(&mut machine, usize::MAX);
            let request = Request { login, ..request(kind, body.to_vec()) };
            let Applied::Now(outcome) = machine.apply(&request, AT) else { panic!("{kind:?} compacts") };
            assert!(outcome.is_ok() || before == stream(&mut machine, usize::MAX), "{kind:?} left something");
        }
    }
    twin(&mut machine);
}

/// A machine of the checkpoint, with the same users and roles.
fn twin(machine: &mut Machine) -> Machine {
    let mut restore = Restore::new();
    restore.feed(&stream(machine, usize::MAX)).expect("the machine's own bytes");
    let twin = restore.finish().expect("the machine's own stream");
    let told = |realm: &Realm| (realm.is_enabled(), realm.revision(), realm.records().collect::<Vec<_>>());
    assert_eq!(told(twin.realm()), told(machine.realm()));
    twin
}

/// Users and roles as plain lists.
#[derive(Debug, Default)]
struct Model {
    is_enabled: bool,
    /// Whether the user has no password on purpose, and its roles.
    users: BTreeMap<String, (bool, BTreeSet<String>)>,
    /// Kind, key and end of each permission, in the order of keys and then of coming.
    roles: BTreeMap<String, Vec<(i32, Vec<u8>, Vec<u8>)>>,
    changes: u64,
}

impl Model {
    fn done(&mut self) -> bool {
        self.changes += 1;
        true
    }

    fn is_admin(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|(_, roles)| roles.contains("root"))
    }

    /// Whether a user may, key by key: at each key where it may change whether it may.
    fn may(&self, user: &str, write: bool, range: (&[u8], &[u8])) -> bool {
        let Some((_, roles)) = self.users.get(user) else { return false };
        if self.is_admin(user) {
            return true;
        }
        let is_meant = |kind: i32| matches!((kind, write), (2, _) | (0, false) | (1, true));
        let own: Vec<_> = roles
            .iter()
            .filter_map(|role| self.roles.get(role))
            .flatten()
            .filter(|(kind, ..)| is_meant(*kind))
            .map(|(_, key, end)| KeyRange::new(key, end))
            .collect();
        let asked = KeyRange::new(range.0, range.1);
        let ends =
            roles.iter().filter_map(|role| self.roles.get(role)).flatten().flat_map(|(_, key, end)| {
                let behind = [key, &[0][..]].concat();
                [key.clone(), behind, end.clone()]
            });
        // Behind all bounds there is only what is open.
        let last = vec![0xff; 8];
        let mut keys = ends.chain([range.0.to_vec(), last]);
        keys.all(|key| {
            let is_asked = asked.contains(&key) || key == range.0;
            !is_asked || (!key.is_empty() && own.iter().any(|range| range.contains(&key)))
        })
    }
}

fn sequence(input: &mut Unstructured<'_>) {
    let (mut machine, mut model) = (ready(), Model::default());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let revision = machine.realm().revision();
        let before = stream(&mut machine, usize::MAX);
        let (kind, body, expected) = step(input, &mut model);
        let changes = model.changes;
        let accepted = is_accepted(&mut machine, kind, body);
        assert_eq!(accepted, expected, "{kind:?} with {model:?}");
        if !accepted {
            assert!(stream(&mut machine, usize::MAX) == before, "{kind:?} was refused and left something");
        }
        assert_eq!(machine.realm().is_enabled(), model.is_enabled);
        assert_eq!(machine.realm().revision(), 1 + changes, "from {revision} by {kind:?}");
        if one_in(input, 10) {
            machine = twin(&mut machine);
        }
        for _ in 0..3 {
            ask(input, &machine, &model);
        }
    }
    twin(&mut machine);
}

/// A request, and whether the model accepts it.
fn step(input: &mut Unstructured<'_>, model: &mut Model) -> (RequestKind, Vec<u8>, bool) {
    let (name, role) = (NAMES[below(input, NAMES.len())], ROLES[below(input, ROLES.len())]);
    let (user, is_kept) = (name.to_owned(), model.is_enabled && name == "root");
    let hash = ["aGFzaA==", "", "%"][below(input, 3)];
    let is_hash = hash != "%";
    // What makes users and rights comes more often than what takes them away.
    match below(input, 20) {
        0 | 1 => {
            let accepted = model.is_enabled || model.is_admin("root");
            model.is_enabled |= accepted;
            (RequestKind::AuthEnable, Vec::new(), accepted)
        }
        2 => {
            if std::mem::take(&mut model.is_enabled) {
                model.done();
            }
            (RequestKind::AuthDisable, Vec::new(), true)
        }
        3 => {
            let revision = model.changes + 1 - u64::from(one_in(input, 2)).min(model.changes);
            let accepted = model.is_enabled && revision == model.changes + 1;
            let request =
                peer::Authenticate { user, prefix: "abcdefghijklmnop".into(), revision, is_digest: true };
            (RequestKind::Authenticate, request.encode_to_vec(), accepted)
        }
        4..=6 => {
            let no_password = one_in(input, 3);
            let accepted = !name.is_empty() && !model.users.contains_key(name) && (no_password || is_hash);
            let accepted = accepted && {
                model.users.insert(user.clone(), (no_password, BTreeSet::new()));
                model.done()
            };
            let options = no_password.then_some(UserAddOptions { no_password });
            let request = pb::AuthUserAddRequest {
                name: user,
                options,
                hashed_password: hash.into(),
                ..Default::default()
            };
            (RequestKind::UserAdd, request.encode_to_vec(), accepted)
        }
        7 => {
            let accepted = !is_kept && model.users.remove(name).is_some() && model.done();
            (RequestKind::UserDelete, pb::AuthUserDeleteRequest { name: user }.encode_to_vec(), accepted)
        }
        8 => {
            let known = model.users.get(name);
            let accepted = known.is_some_and(|(no_password, _)| *no_password || is_hash) && model.done();
            let request = pb::AuthUserChangePasswordRequest {
                name: user,
                hashed_password: hash.into(),
                ..Default::default()
            };
            (RequestKind::UserChangePassword, request.encode_to_vec(), accepted)
        }
        9..=11 => {
            let is_role = role == "root" || model.roles.contains_key(role);
            let known = model.users.get_mut(name).filter(|_| is_role);
            let news = known.map(|(_, roles)| roles.insert(role.to_owned()));
            if news == Some(true) {
                model.done();
            }
            let request = pb::AuthUserGrantRoleRequest { user, role: role.into() };
            (RequestKind::UserGrantRole, request.encode_to_vec(), news.is_some())
        }
        12 => {
            let had = |(_, roles): &mut (bool, BTreeSet<String>)| roles.remove(role);
            let accepted = !(is_kept && role == "root") && model.users.get_mut(name).is_some_and(had);
            let request = pb::AuthUserRevokeRoleRequest { name: user, role: role.into() };
            (RequestKind::UserRevokeRole, request.encode_to_vec(), accepted && model.done())
        }
        13 | 14 => {
            let accepted = !role.is_empty() && !model.roles.contains_key(role);
            let accepted = accepted && {
                model.roles.insert(role.to_owned(), Vec::new());
                model.done()
            };
            (RequestKind::RoleAdd, pb::AuthRoleAddRequest { name: role.into() }.encode_to_vec(), accepted)
        }
        15 => {
            let is_kept = model.is_enabled && role == "root";
            let accepted = !is_kept && model.roles.remove(role).is_some() && model.done();
            if accepted {
                for (_, roles) in model.users.values_mut() {
                    roles.remove(role);
                }
            }
            (
                RequestKind::RoleDelete,
                pb::AuthRoleDeleteRequest { role: role.into() }.encode_to_vec(),
                accepted,
            )
        }
        16..=18 => grant(input, model, role),
        _ => {
            let (key, end) = (BOUNDS[below(input, BOUNDS.len())], BOUNDS[below(input, BOUNDS.len())]);
            let accepted = model.roles.get_mut(role).is_some_and(|permissions| {
                let before = permissions.len();
                permissions.retain(|(_, other, other_end)| other != key || other_end != end);
                permissions.len() < before
            });
            let (key, range_end) = (Bytes::from_static(key), Bytes::from_static(end));
            let request = pb::AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
            (RequestKind::RoleRevokePermission, request.encode_to_vec(), accepted && model.done())
        }
    }
}

fn grant(input: &mut Unstructured<'_>, model: &mut Model, role: &str) -> (RequestKind, Vec<u8>, bool) {
    let kind = [2, 0, 1, 9, -1][below(input, 5)];
    // Any bytes may be a key.
    let key = match one_in(input, 4) {
        true => bytes(input, 6).to_vec(),
        false => BOUNDS[below(input, BOUNDS.len())].to_vec(),
    };
    let end = BOUNDS[below(input, BOUNDS.len())].to_vec();
    let is_given = !one_in(input, 12);
    let holds_a_key = !key.is_empty() && (end.is_empty() || end == [0] || key < end);
    let role_of = model.roles.get_mut(role).filter(|_| is_given && holds_a_key);
    let accepted = role_of.map(|permissions| {
        // The same pair is replaced where it is the first of its key.
        match permissions.iter_mut().find(|(_, other, _)| *other == key) {
            Some((same, _, other_end)) if *other_end == end => *same = kind,
            _ => {
                let behind = permissions.iter().take_while(|(_, other, _)| *other <= key).count();
                permissions.insert(behind, (kind, key.clone(), end.clone()));
            }
        }
    });
    let perm = is_given.then(|| Permission { perm_type: kind, key: key.into(), range_end: end.into() });
    let request = pb::AuthRoleGrantPermissionRequest { name: role.into(), perm };
    (RequestKind::RoleGrantPermission, request.encode_to_vec(), accepted.is_some() && model.done())
}

fn ask(input: &mut Unstructured<'_>, machine: &Machine, model: &Model) {
    let name = NAMES[below(input, NAMES.len())];
    let late = below(input, 3) as u64;
    let revision = (machine.realm().revision() + 1).saturating_sub(late);
    let key = BOUNDS[below(input, BOUNDS.len())];
    let end = BOUNDS[below(input, BOUNDS.len())];
    let write = one_in(input, 2);
    let login = Login { name: name.into(), revision };
    let is_old = revision < machine.realm().revision();
    let expected = !model.is_enabled || (!is_old && model.may(name, write, (key, end)));
    let asked = (write, key, end);
    let (key, range_end) = (Bytes::from_static(key), Bytes::from_static(end));
    let told = if write {
        let delete = pb::DeleteRangeRequest { key, range_end, prev_kv: false };
        let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestDeleteRange(delete)) };
        machine.permit(Some(&login), &Query::Txn(pb::TxnRequest { success: vec![op], ..Default::default() }))
    } else {
        machine.permit(Some(&login), &Query::Range(pb::RangeRequest { key, range_end, ..Default::default() }))
    };
    assert_eq!(told.is_ok(), expected, "{login:?} asks {asked:?} of {model:?}");
    assert_eq!(machine.permit(None, &Query::Range(pb::RangeRequest::default())).is_ok(), !model.is_enabled);
}
