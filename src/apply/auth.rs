//! Requests about users and roles, and reads of them.
//!
//! Cost: that of the change (see `auth`); nothing else is rebuilt.
//! Compatibility: which of them needs what is etcd's; answers are empty but for their headers.

use prost::Message;

use super::Machine;
use super::machine::decode;
use crate::auth::{AuthChange, Realm, prefix_digest, token_text};
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{AuthRejection, EntryId, Outcome, Query, Request, RequestKind};
use crate::types::Feature;

impl Machine {
    /// Users and roles.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// What has changed since it was last asked.
    pub fn take_auth_changes(&mut self) -> Vec<AuthChange> {
        std::mem::take(&mut self.auth_changes)
    }

    /// A request about users and roles. The others never come here.
    pub(super) fn auth(&mut self, request: &Request, at: EntryId) -> Outcome {
        // Nobody proposes it sooner, but what is in the log is not chosen here.
        if !self.format_level.allows(Feature::Auth) {
            return Err(AuthRejection::NotCapable.into());
        }
        let body = &request.body;
        let login = request.login.as_ref();
        if request.kind == RequestKind::Authenticate {
            return self.log_in(&decode(body)?, at);
        }
        self.permit_admin(login)?;
        let before = self.realm.revision();
        match request.kind {
            RequestKind::AuthEnable => {
                self.realm.enable()?;
                self.auth_changes.push(AuthChange::Rights);
            }
            RequestKind::AuthDisable => {
                if self.realm.disable() {
                    self.auth_changes.push(AuthChange::AllLoggedOut);
                }
            }
            RequestKind::UserAdd => self.realm.add_user(&decode(body)?)?,
            RequestKind::UserDelete => {
                let request: pb::AuthUserDeleteRequest = decode(body)?;
                self.realm.delete_user(&request.name)?;
                self.auth_changes.push(AuthChange::LoggedOut { user: request.name });
            }
            RequestKind::UserChangePassword => {
                let request: pb::AuthUserChangePasswordRequest = decode(body)?;
                self.realm.change_password(&request)?;
                self.auth_changes.push(AuthChange::LoggedOut { user: request.name });
            }
            RequestKind::UserGrantRole => self.realm.grant_role(&decode(body)?)?,
            RequestKind::UserRevokeRole => self.realm.revoke_role(&decode(body)?)?,
            RequestKind::RoleAdd => {
                let request: pb::AuthRoleAddRequest = decode(body)?;
                self.realm.add_role(&request.name)?;
            }
            RequestKind::RoleDelete => {
                let request: pb::AuthRoleDeleteRequest = decode(body)?;
                self.realm.delete_role(&request.role)?;
            }
            RequestKind::RoleGrantPermission => self.realm.grant_permission(&decode(body)?)?,
            RequestKind::RoleRevokePermission => self.realm.revoke_permission(&decode(body)?)?,
            other => unreachable!("{other:?} is not about users and roles"),
        }
        if self.realm.revision() != before {
            self.auth_changes.push(AuthChange::Rights);
        }
        Ok(self.response(Vec::new()))
    }

    /// The member that asks has compared the password, at a revision that must not have passed.
    fn log_in(&mut self, request: &peer::Authenticate, at: EntryId) -> Outcome {
        self.realm.check_unchanged(request.revision)?;
        let prefix = &request.prefix;
        let digest = if request.is_digest { prefix.clone() } else { prefix_digest(prefix) };
        let digest = token_text(&digest, at.index.0);
        self.auth_changes.push(AuthChange::LoggedIn { user: request.user.clone(), digest });
        // Whoever knows the token itself puts its letters there.
        let token = token_text(prefix, at.index.0);
        let body = pb::AuthenticateResponse { header: None, token }.encode_to_vec();
        Ok(self.response(body))
    }

    /// Answers a read of users and roles.
    pub(super) fn read_auth(&self, query: &Query) -> Outcome {
        let realm = &self.realm;
        let body = match query {
            Query::AuthStatus => pb::AuthStatusResponse {
                header: None,
                enabled: realm.is_enabled(),
                auth_revision: realm.revision(),
            }
            .encode_to_vec(),
            Query::UserGet(name) => {
                pb::AuthUserGetResponse { header: None, roles: realm.roles_of(name)? }.encode_to_vec()
            }
            Query::UserList => {
                let users = realm.users().map(Into::into).collect();
                pb::AuthUserListResponse { header: None, users }.encode_to_vec()
            }
            Query::RoleGet(role) => {
                pb::AuthRoleGetResponse { header: None, perm: realm.permissions_of(role)? }.encode_to_vec()
            }
            Query::RoleList => {
                let roles = realm.roles().map(Into::into).collect();
                pb::AuthRoleListResponse { header: None, roles }.encode_to_vec()
            }
            Query::PasswordOf(name) => {
                let user = realm.password_of(name)?;
                let takes_digest = self.format_level.allows(Feature::TokenDigests);
                let (hash, revision) = (user.password_hash, user.revision);
                peer::PasswordRecord { hash, revision, takes_digest }.encode_to_vec()
            }
            other => unreachable!("{other:?} is not about users and roles"),
        };
        Ok(self.response(body))
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
