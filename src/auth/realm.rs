//! The replicated state: users, roles, the revision, and whether rights are asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

use super::granted::{Deletions, Granted};
use super::rights::{Rights, is_permission_range};
use crate::pb::authpb::{self, Permission, permission};
use crate::pb::etcdserverpb as pb;
use crate::request::{AuthRejection, Login};
use crate::types::KeyRange;

/// The user that must exist before rights are asked for, and the role that may do everything. Both may be
/// neither deleted nor parted while they are.
pub const ADMIN: &str = "root";

/// What is done to keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// A user's record as it is kept and exported.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    password: PasswordHash,
    roles: Granted,
    /// As the client gave them.
    options: Option<authpb::UserAddOptions>,
}

/// bcrypt's text, or nothing, which no password matches.
#[derive(Clone, PartialEq, Eq)]
struct PasswordHash(Bytes);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl User {
    fn has_no_password(&self) -> bool {
        self.options.is_some_and(|options| options.no_password)
    }
}

/// A user, and what it may do in sum.
#[derive(Debug)]
struct Entry {
    user: Arc<User>,
    /// As of this revision; of an older one it is merged anew.
    rights: RefCell<Option<(u64, AllOr)>>,
}

/// All rights, or these.
type AllOr = Option<Arc<Rights>>;

/// The rights of the login that was checked last. The next one is likely to be the same: calls come by connections.
#[derive(Debug)]
struct Checked {
    name: Bytes,
    revision: u64,
    rights: AllOr,
}

impl Checked {
    fn is_of(&self, login: &Login, revision: u64) -> bool {
        // Mostly the same bytes in memory, too.
        let is_same = self.name.as_ptr() == login.name.as_ptr() && self.name.len() == login.name.len();
        self.revision == revision && (is_same || self.name == login.name)
    }
}

impl Entry {
    fn new(user: User) -> Self {
        Self { user: Arc::new(user), rights: RefCell::new(None) }
    }
}

/// Which user a question or a change is about, and what a password is compared with.
#[derive(Clone, PartialEq, Eq)]
pub struct ParticularUser {
    /// bcrypt's text; empty when no password fits.
    pub password_hash: Bytes,
    /// The revision at which this was so.
    pub revision: u64,
}

impl std::fmt::Debug for ParticularUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParticularUser").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// A part of the state as a checkpoint keeps it.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    User(authpb::User),
    Role(authpb::Role),
}

/// Users, roles, and whether they count. See the module `auth`.
#[derive(Debug)]
pub struct Realm {
    is_enabled: bool,
    /// Grows with every change of rights. From 1.
    revision: u64,
    users: BTreeMap<String, Entry>,
    /// Permissions are in the order of their keys.
    roles: BTreeMap<String, Arc<Vec<Permission>>>,
    deletions: Deletions,
    /// Says nothing that users and roles of its revision do not say.
    checked: RefCell<Option<Checked>>,
}

impl Default for Realm {
    fn default() -> Self {
        Self {
            is_enabled: false,
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            deletions: Deletions::default(),
            checked: RefCell::new(None),
        }
    }
}

/// What came of a change.
pub type Changed = Result<(), AuthRejection>;

impl Realm {
    /// Whether rights are asked for.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// See the field.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether it is as it was made.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        !self.is_enabled && self.revision == 1 && self.users.is_empty() && self.roles.is_empty()
    }

    fn entry(&self, name: &str) -> Result<&Entry, AuthRejection> {
        self.users.get(name).ok_or(AuthRejection::UserNotFound)
    }

    fn has_role(&self, user: &User, role: &str) -> bool {
        user.roles.has(role, &self.deletions)
    }

    fn is_admin(&self, user: &User) -> bool {
        self.has_role(user, ADMIN)
    }

    /// Rights have changed.
    fn on_changed(&mut self) {
        self.revision += 1;
        self.deletions.clear_some(
            &mut self.users,
            |entry| &entry.user.roles,
            |entry| &mut Arc::make_mut(&mut entry.user).roles,
        );
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, AuthRejection> {
        let entry = self.users.get_mut(name).ok_or(AuthRejection::UserNotFound)?;
        // A checkpoint on its way may still hold the old record.
        Ok(Arc::make_mut(&mut entry.user))
    }

    fn permissions_mut(&mut self, role: &str) -> Result<&mut Vec<Permission>, AuthRejection> {
        self.roles.get_mut(role).map(Arc::make_mut).ok_or(AuthRejection::RoleNotFound)
    }

    /// Asks for rights from now on. Nothing happens when it is so already.
    ///
    /// # Errors
    /// Without a user `root` that has the role `root`, nobody could ever switch it off.
    pub fn enable(&mut self) -> Changed {
        if !self.is_enabled {
            let root = self.users.get(ADMIN).ok_or(AuthRejection::RootUserNotFound)?;
            self.is_admin(&root.user).then_some(()).ok_or(AuthRejection::RootRoleNotGranted)?;
            self.is_enabled = true;
        }
        Ok(())
    }

    /// Asks for nothing any more. Tells whether that is news.
    pub fn disable(&mut self) -> bool {
        let was_enabled = std::mem::take(&mut self.is_enabled);
        if was_enabled {
            self.on_changed();
        }
        was_enabled
    }

    /// Makes a user without roles. The password comes as a hash (see `hash_of`).
    ///
    /// # Errors
    /// No name, a name in use, a hash that is no base64.
    pub fn add_user(&mut self, request: &pb::AuthUserAddRequest) -> Changed {
        if request.name.is_empty() {
            return Err(AuthRejection::UserNameEmpty);
        }
        if self.users.contains_key(&request.name) {
            return Err(AuthRejection::UserExists);
        }
        let has_password = !request.options.is_some_and(|options| options.no_password);
        let password = if has_password { hash_of(&request.hashed_password)? } else { Bytes::new() };
        let user =
            User { password: PasswordHash(password), roles: Granted::default(), options: request.options };
        self.users.insert(request.name.clone(), Entry::new(user));
        self.on_changed();
        Ok(())
    }

    /// # Errors
    /// No such user; `root` while rights are asked for.
    pub fn delete_user(&mut self, name: &str) -> Changed {
        if self.is_enabled && name == ADMIN {
            return Err(AuthRejection::InvalidManagement);
        }
        self.users.remove(name).ok_or(AuthRejection::UserNotFound)?;
        self.on_changed();
        Ok(())
    }

    /// # Errors
    /// No such user, a hash that is no base64.
    pub fn change_password(&mut self, request: &pb::AuthUserChangePasswordRequest) -> Changed {
        let has_none = self.entry(&request.name)?.user.has_no_password();
        let password = if has_none { Bytes::new() } else { hash_of(&request.hashed_password)? };
        self.user_mut(&request.name)?.password = PasswordHash(password);
        self.on_changed();
        Ok(())
    }

    /// # Errors
    /// No such user or role. The role `root` need not exist.
    pub fn grant_role(&mut self, request: &pb::AuthUserGrantRoleRequest) -> Changed {
        self.entry(&request.user)?;
        if request.role != ADMIN && !self.roles.contains_key(&request.role) {
            return Err(AuthRejection::RoleNotFound);
        }
        let (deleted, revision) = (self.deletions.of(&request.role), self.revision + 1);
        if self.user_mut(&request.user)?.roles.grant(&request.role, revision, deleted) {
            self.on_changed();
        }
        Ok(())
    }

    /// # Errors
    /// No such user, a role that it does not have; `root` of `root` while rights are asked for.
    pub fn revoke_role(&mut self, request: &pb::AuthUserRevokeRoleRequest) -> Changed {
        if self.is_enabled && request.name == ADMIN && request.role == ADMIN {
            return Err(AuthRejection::InvalidManagement);
        }
        let deleted = self.deletions.of(&request.role);
        let was_granted = self.user_mut(&request.name)?.roles.revoke(&request.role, deleted);
        was_granted.then_some(()).ok_or(AuthRejection::RoleNotGranted)?;
        self.on_changed();
        Ok(())
    }

    /// Makes a role without permissions.
    ///
    /// # Errors
    /// No name, a name in use.
    pub fn add_role(&mut self, name: &str) -> Changed {
        if name.is_empty() {
            return Err(AuthRejection::RoleNameEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(AuthRejection::RoleExists);
        }
        self.roles.insert(name.into(), Arc::default());
        self.on_changed();
        Ok(())
    }

    /// Deletes a role, and takes it from all who have it.
    ///
    /// # Errors
    /// No such role; `root` while rights are asked for.
    pub fn delete_role(&mut self, name: &str) -> Changed {
        if self.is_enabled && name == ADMIN {
            return Err(AuthRejection::InvalidManagement);
        }
        self.roles.remove(name).ok_or(AuthRejection::RoleNotFound)?;
        self.on_changed();
        self.deletions.note(name, self.revision);
        Ok(())
    }

    /// Grants a permission. One of the same pair is replaced where it is the first of its key; else it is a
    /// second one, as etcd has it.
    ///
    /// # Errors
    /// No permission, a pair that means no key, no such role.
    pub fn grant_permission(&mut self, request: &pb::AuthRoleGrantPermissionRequest) -> Changed {
        let granted = request.perm.as_ref().ok_or(AuthRejection::PermissionNotGiven)?;
        if !is_permission_range(&granted.key, &granted.range_end) {
            return Err(AuthRejection::InvalidManagement);
        }
        let permissions = self.permissions_mut(&request.name)?;
        let first = permissions.partition_point(|permission| permission.key < granted.key);
        match permissions.get_mut(first) {
            Some(same) if same.key == granted.key && same.range_end == granted.range_end => {
                same.perm_type = granted.perm_type;
            }
            _ => {
                let behind = permissions.partition_point(|permission| permission.key <= granted.key);
                // The request's bytes are a part of its group, which the record must not hold.
                permissions.insert(
                    behind,
                    Permission {
                        perm_type: granted.perm_type,
                        key: Bytes::copy_from_slice(&granted.key),
                        range_end: Bytes::copy_from_slice(&granted.range_end),
                    },
                );
            }
        }
        self.on_changed();
        Ok(())
    }

    /// Revokes all permissions of exactly this pair.
    ///
    /// # Errors
    /// No such role, or permission.
    pub fn revoke_permission(&mut self, request: &pb::AuthRoleRevokePermissionRequest) -> Changed {
        let permissions = self.permissions_mut(&request.role)?;
        let before = permissions.len();
        permissions
            .retain(|permission| permission.key != request.key || permission.range_end != request.range_end);
        if permissions.len() == before {
            return Err(AuthRejection::PermissionNotGranted);
        }
        self.on_changed();
        Ok(())
    }

    /// What a password of this user is compared with.
    ///
    /// # Errors
    /// Rights are not asked for; the user is not there, or has no password on purpose.
    pub fn password_of(&self, name: &str) -> Result<ParticularUser, AuthRejection> {
        if !self.is_enabled {
            return Err(AuthRejection::NotEnabled);
        }
        let user = &self.users.get(name).ok_or(AuthRejection::AuthenticationFailed)?.user;
        if user.has_no_password() {
            return Err(AuthRejection::NoPasswordUser);
        }
        Ok(ParticularUser { password_hash: user.password.0.clone(), revision: self.revision })
    }

    /// Whether what was found out about a user at `revision` still holds.
    ///
    /// # Errors
    /// Rights are not asked for any more, or have changed.
    pub fn check_unchanged(&self, revision: u64) -> Changed {
        if !self.is_enabled {
            return Err(AuthRejection::NotEnabled);
        }
        if revision != self.revision { Err(AuthRejection::RevisionOld) } else { Ok(()) }
    }

    /// The roles of a user, in order.
    ///
    /// # Errors
    /// No such user.
    pub fn roles_of(&self, name: &str) -> Result<Vec<String>, AuthRejection> {
        Ok(self.entry(name)?.user.roles.roles(&self.deletions).map(str::to_owned).collect())
    }

    /// The permissions of a role; those of `root` are told as one for everything.
    ///
    /// # Errors
    /// No such role.
    pub fn permissions_of(&self, role: &str) -> Result<Vec<Permission>, AuthRejection> {
        let permissions = self.roles.get(role).ok_or(AuthRejection::RoleNotFound)?;
        if role == ADMIN {
            let everything = Permission {
                perm_type: permission::Type::Readwrite.into(),
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            };
            return Ok(vec![everything]);
        }
        Ok(permissions.to_vec())
    }

    /// All users, in order.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// All roles, in order.
    pub fn roles(&self) -> impl ExactSizeIterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    /// Whether `login` may read or write all keys of the range.
    ///
    /// # Errors
    /// It may not, or what it shows is older than the last change of rights.
    pub fn check(&self, login: Option<&Login>, access: Access, range: KeyRange<'_>) -> Changed {
        if !self.is_enabled {
            return Ok(());
        }
        let login = login.ok_or(AuthRejection::UserNameEmpty)?;
        if login.revision < self.revision {
            return Err(AuthRejection::RevisionOld);
        }
        let mut checked = self.checked.borrow_mut();
        let checked = match &mut *checked {
            Some(checked) if checked.is_of(login, self.revision) => checked,
            other => {
                let rights = self.rights_of(&login.name)?;
                other.insert(Checked { name: login.name.clone(), revision: self.revision, rights })
            }
        };
        let Some(rights) = &checked.rights else { return Ok(()) };
        let is_allowed = match access {
            Access::Read => rights.may_read(range),
            Access::Write => rights.may_write(range),
        };
        if is_allowed { Ok(()) } else { Err(AuthRejection::PermissionDenied) }
    }

    /// The rights of a user now.
    fn rights_of(&self, name: &[u8]) -> Result<AllOr, AuthRejection> {
        let name = std::str::from_utf8(name).map_err(|_| AuthRejection::PermissionDenied)?;
        let entry = self.users.get(name).ok_or(AuthRejection::PermissionDenied)?;
        let mut cached = entry.rights.borrow_mut();
        match &*cached {
            Some((revision, rights)) if *revision == self.revision => Ok(rights.clone()),
            _ => {
                let rights = (!self.is_admin(&entry.user)).then(|| Arc::new(self.rights(&entry.user)));
                *cached = Some((self.revision, rights.clone()));
                Ok(rights)
            }
        }
    }

    fn rights(&self, user: &User) -> Rights {
        // A role that is gone gives nothing.
        let roles = user.roles.roles(&self.deletions).filter_map(|role| self.roles.get(role));
        Rights::of(roles.flat_map(|role| role.iter()))
    }

    /// Whether `login` may run the cluster.
    ///
    /// # Errors
    /// It may not.
    pub fn check_admin(&self, login: Option<&Login>) -> Changed {
        let Some(user) = self.user_of(login)? else { return Ok(()) };
        if self.is_admin(user) { Ok(()) } else { Err(AuthRejection::PermissionDenied) }
    }

    /// Whether `login` is somebody at all.
    ///
    /// # Errors
    /// It is not.
    pub fn check_login(&self, login: Option<&Login>) -> Changed {
        if self.is_enabled && login.is_none() { Err(AuthRejection::UserNameEmpty) } else { Ok(()) }
    }

    /// Whether `login` may see the roles of this user: its own, or it may run the cluster.
    ///
    /// # Errors
    /// It may not.
    pub fn check_sees_user(&self, login: Option<&Login>, name: &str) -> Changed {
        match self.check_admin(login) {
            // As in etcd, nobody is who has no name, and learns that there is no such user.
            Err(_) if login.map_or(&b""[..], |login| &login.name) == name.as_bytes() => Ok(()),
            checked => checked,
        }
    }

    /// Whether `login` may see the permissions of this role: it has it, or it may run the cluster.
    ///
    /// # Errors
    /// It may not.
    pub fn check_sees_role(&self, login: Option<&Login>, role: &str) -> Changed {
        match self.check_admin(login) {
            Err(denied) => match self.user_of(login) {
                Ok(Some(user)) if self.has_role(user, role) => Ok(()),
                _ => Err(denied),
            },
            Ok(()) => Ok(()),
        }
    }

    /// The user of a login; none where nobody is asked.
    fn user_of(&self, login: Option<&Login>) -> Result<Option<&User>, AuthRejection> {
        if !self.is_enabled {
            return Ok(None);
        }
        let login = login.ok_or(AuthRejection::UserNameEmpty)?;
        if login.name.is_empty() {
            return Err(AuthRejection::UserNameEmpty);
        }
        // A certificate may name somebody who is no user.
        let name = std::str::from_utf8(&login.name).ok();
        let entry = name.and_then(|name| self.users.get(name)).ok_or(AuthRejection::PermissionDenied)?;
        Ok(Some(&entry.user))
    }

    /// All records in order, users first: each as it is now, whatever changes later. O(users + roles), no
    /// record is copied.
    pub fn records(&self) -> impl Iterator<Item = Record> + use<> {
        let users: Vec<_> =
            self.users.iter().map(|(name, entry)| (name.clone(), Arc::clone(&entry.user))).collect();
        let roles: Vec<_> = self.roles.iter().map(|(name, role)| (name.clone(), Arc::clone(role))).collect();
        let deletions = self.deletions.clone();
        let users = users.into_iter().map(move |(name, user)| {
            Record::User(authpb::User {
                name: name.into(),
                password: user.password.0.clone(),
                roles: user.roles.roles(&deletions).map(str::to_owned).collect(),
                options: user.options,
            })
        });
        let roles = roles.into_iter().map(|(name, permissions)| {
            Record::Role(authpb::Role { name: name.into(), key_permission: permissions.to_vec() })
        });
        users.chain(roles)
    }

    /// A state without users and roles, of a checkpoint or a backup.
    ///
    /// # Errors
    /// A revision that no state has.
    pub fn restore(is_enabled: bool, revision: u64) -> Result<Self, &'static str> {
        if revision == 0 {
            return Err("revision 0");
        }
        Ok(Self { is_enabled, revision, ..Self::default() })
    }

    /// Takes the next record. Records of one kind come in the order of their names.
    ///
    /// # Errors
    /// A record that no state holds.
    pub fn restore_record(&mut self, record: Record) -> Result<(), &'static str> {
        fn name_of(bytes: &[u8]) -> Result<String, &'static str> {
            match std::str::from_utf8(bytes) {
                Ok("") | Err(_) => Err("a name that is none"),
                Ok(name) => Ok(name.into()),
            }
        }
        fn is_next<T>(map: &BTreeMap<String, T>, name: &str) -> bool {
            map.last_key_value().is_none_or(|(last, _)| last.as_str() < name)
        }
        // The revision does not tell how far it is restored.
        self.checked.replace(None);
        match record {
            Record::User(user) => {
                let name = name_of(&user.name)?;
                if !is_next(&self.users, &name) || !user.roles.is_sorted_by(|a, b| a < b) {
                    return Err("users or roles out of order");
                }
                let password = PasswordHash(Bytes::copy_from_slice(&user.password));
                let roles = Granted::restored(user.roles);
                let user = User { password, roles, options: user.options };
                self.users.insert(name, Entry::new(user));
            }
            Record::Role(role) => {
                let name = name_of(&role.name)?;
                if !is_next(&self.roles, &name) || !role.key_permission.is_sorted_by(|a, b| a.key <= b.key) {
                    return Err("roles or permissions out of order");
                }
                self.roles.insert(name, Arc::new(role.key_permission));
            }
        }
        Ok(())
    }
}

/// The hash that a request carries as base64. An empty one is a password that nobody can give.
fn hash_of(hashed_password: &str) -> Result<Bytes, AuthRejection> {
    BASE64.decode(hashed_password).map(Bytes::from).map_err(|_| AuthRejection::NoPasswordUser)
}

#[cfg(test)]
#[path = "realm_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "realm_cost_tests.rs"]
mod cost;
