//! What a request or a read needs the right to, and whether its login has it.
//!
//! This decides, not the shard that took the call: for a request when it is applied, for a read when it is
//! answered. A transaction is allowed if each operation in it, in both branches and however deep, and each
//! comparison is.
//!
//! Cost: O(log permissions) a key range. A put with a lease, and what touches a lease, asks for each key of the
//! lease, unless the login runs the cluster.
//! Compatibility: etcd 3.7's rules, and where its releases of 2026 closed a hole, the closed one: `prev_kv` needs
//! the right to read, a nested transaction is looked into, a lease is guarded by its keys.

use super::Machine;
use super::node_write::NodeWrite;
use crate::auth::{Access, Realm};
use crate::directory::Found;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::request::{AuthRejection, Login, NodeQuery, Permit, Query};
use crate::types::{KeyRange, LeaseId, NodePath};

type Permitted = Result<(), AuthRejection>;

/// The rights of one login, in the present state.
struct Guard<'m> {
    machine: &'m Machine,
    login: Option<&'m Login>,
}

impl Machine {
    fn guard<'m>(&'m self, login: Option<&'m Login>) -> Option<Guard<'m>> {
        let is_asked = self.realm.is_enabled() && !login.is_some_and(Login::is_member);
        is_asked.then_some(Guard { machine: self, login })
    }

    pub(super) fn permit_put(&self, login: Option<&Login>, put: &pb::PutRequest) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.put(put))
    }

    pub(super) fn permit_delete(&self, login: Option<&Login>, delete: &pb::DeleteRangeRequest) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.delete(delete))
    }

    pub(super) fn permit_txn(&self, login: Option<&Login>, txn: &pb::TxnRequest) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.txn(txn))
    }

    pub(super) fn permit_node(&self, login: Option<&Login>, write: &NodeWrite<'_>) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.write_node(write))
    }

    /// To write all keys of a lease, which is what revoking it does.
    pub(super) fn permit_lease(&self, login: Option<&Login>, lease: i64) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.lease(Access::Write, LeaseId(lease)))
    }

    /// To be somebody.
    pub(super) fn permit_login(&self, login: Option<&Login>) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.realm().check_login(login))
    }

    /// To run the cluster.
    pub(super) fn permit_admin(&self, login: Option<&Login>) -> Permitted {
        self.guard(login).map_or(Ok(()), |guard| guard.realm().check_admin(login))
    }

    /// What a read needs.
    ///
    /// # Errors
    /// The login does not have it.
    pub fn permit(&self, login: Option<&Login>, query: &Query) -> Permitted {
        let Some(guard) = self.guard(login) else { return Ok(()) };
        let realm = guard.realm();
        match query {
            Query::Range(range) => guard.range(range),
            Query::RangeSlice(slice) => guard.range(&slice.request),
            Query::Txn(txn) => guard.txn(txn),
            Query::HashKv(_)
            | Query::HashCompacted
            | Query::Hash
            | Query::Snapshot
            | Query::UserList
            | Query::RoleList
            // etcd asks it of a call that may change the version.
            | Query::ClusterVersion => {
                realm.check_admin(login)
            }
            Query::MemberList | Query::Status | Query::Alarms { .. } => realm.check_login(login),
            Query::LeaseKeepAlive(id) => guard.lease(Access::Write, *id),
            Query::LeaseTimeToLive(request) if request.keys => guard.lease(Access::Read, LeaseId(request.id)),
            Query::LeaseTimeToLive(_) => realm.check_login(login),
            Query::LeaseLeases => guard.all_leases(),
            Query::Node(query) => guard.read_node(query),
            Query::AuthStatus => Ok(()),
            Query::UserGet(name) => realm.check_sees_user(login, name),
            Query::RoleGet(role) => realm.check_sees_role(login, role),
            // The member asks these for itself.
            Query::PasswordOf(_) | Query::Token(_) | Query::NodeTallies | Query::Membership => {
                Err(AuthRejection::PermissionDenied)
            }
            Query::Permit(Permit::Login) => realm.check_login(login),
            Query::Permit(Permit::Admin) => realm.check_admin(login),
            Query::Permit(Permit::Range { key, range_end }) => {
                realm.check(login, Access::Read, KeyRange::new(key, range_end))
            }
            Query::Permit(Permit::Ask(query)) => self.permit(login, query),
            Query::NotOlder(later) => self.permit(login, &later.query),
        }
    }
}

impl Guard<'_> {
    fn realm(&self) -> &Realm {
        &self.machine.realm
    }

    fn check(&self, access: Access, key: &[u8], range_end: &[u8]) -> Permitted {
        self.realm().check(self.login, access, KeyRange::new(key, range_end))
    }

    fn range(&self, range: &pb::RangeRequest) -> Permitted {
        self.check(Access::Read, &range.key, &range.range_end)
    }

    fn put(&self, put: &pb::PutRequest) -> Permitted {
        self.check(Access::Write, &put.key, &[])?;
        // The keys that hang on the lease live and die with it.
        self.lease_keys(Access::Write, LeaseId(put.lease))?;
        // What is kept is not shown, but a refusal would tell whether there is something.
        if put.prev_kv { self.check(Access::Read, &put.key, &[]) } else { Ok(()) }
    }

    fn delete(&self, delete: &pb::DeleteRangeRequest) -> Permitted {
        self.check(Access::Write, &delete.key, &delete.range_end)?;
        if delete.prev_kv { self.check(Access::Read, &delete.key, &delete.range_end) } else { Ok(()) }
    }

    /// Recursion is as deep as the decoder allows.
    fn txn(&self, txn: &pb::TxnRequest) -> Permitted {
        for compare in &txn.compare {
            self.check(Access::Read, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Op::RequestRange(range)) => self.range(range)?,
                Some(Op::RequestPut(put)) => self.put(put)?,
                Some(Op::RequestDeleteRange(delete)) => self.delete(delete)?,
                Some(Op::RequestTxn(nested)) => self.txn(nested)?,
                None => {}
            }
        }
        // An empty one says something too: that whoever asks is somebody.
        self.realm().check_login(self.login)
    }

    /// The node itself, or a directory with what is below it.
    fn node(&self, access: Access, path: &NodePath, is_wide: bool) -> Permitted {
        if !path.is_root() {
            self.check(access, path.key(), &[])?;
        }
        if is_wide { self.check(access, &path.below(), &path.behind()) } else { Ok(()) }
    }

    fn write_node(&self, write: &NodeWrite<'_>) -> Permitted {
        let (path, is_wide) = (&write.path, write.is_wide() || write.makes_name());
        self.node(Access::Write, path, is_wide)?;
        // The answer shows the node, or tells whether it was there.
        if write.reads() { self.node(Access::Read, path, is_wide) } else { Ok(()) }
    }

    fn read_node(&self, query: &NodeQuery) -> Permitted {
        let tree = self.machine.tree(self.machine.store.current_revision());
        let is_directory = matches!(tree.find(&query.path), Found::Directory(_));
        let is_wide = if query.is_standing { query.recursive } else { is_directory };
        self.node(Access::Read, &query.path, is_wide)
    }

    fn lease(&self, access: Access, id: LeaseId) -> Permitted {
        self.realm().check_login(self.login)?;
        self.lease_keys(access, id)
    }

    fn lease_keys(&self, access: Access, id: LeaseId) -> Permitted {
        let Some(lease) = self.machine.leases.get(id) else { return Ok(()) };
        if lease.keys().len() == 0 || self.realm().check_admin(self.login).is_ok() {
            return Ok(());
        }
        lease.keys().try_for_each(|key| self.check(access, key, &[]))
    }

    fn all_leases(&self) -> Permitted {
        self.realm().check_login(self.login)?;
        if self.realm().check_admin(self.login).is_ok() {
            return Ok(());
        }
        self.machine.leases.iter().try_for_each(|(id, _)| self.lease_keys(Access::Read, id))
    }
}

#[cfg(test)]
#[path = "permit_tests.rs"]
mod tests;
