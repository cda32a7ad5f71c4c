//! The state machine: everything that members agree on, and the only writer of it.
//!
//! Committed requests come in, in log order; answers come out. Each request is atomic: one that is
//! refused half way leaves nothing behind. No request, however malformed, stops a member, since every
//! member meets the same entry again at every restart.
//!
//! Invariant: the state is a function of the requests applied, in their order: no clock, no
//! randomness, nothing about this member. Incremental work (`work_slice`, checkpoints) changes what
//! is kept in memory, never what a read at a readable revision sees.
//! Cost: see `range`, `txn` and `mvcc`; a put that asks for nothing back allocates nothing here.
//! Compatibility: answers are etcd 3.7's, field by field.

use bytes::Bytes;
use prost::Message;

use super::encode::Encode as _;
use super::moves::{Moves, check_lease};
use super::node_write::NodeWrite;
use super::parts::Parts;
use super::preparation::{self, Preparation};
use super::view::check_readable;
use super::{Alarms, LongRead, Sessions, range, txn, write};
use crate::auth::{AuthChange, Realm};
use crate::directory::Directories;
use crate::lease::{Change, Table};
use crate::membership::{Cluster, MemberChange};
use crate::mvcc::{HashCursor, HashKv, HashOvertaken, KEYS_AHEAD, REVISION_MAX, Store, TakesMemory};
use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{EntryId, Group, Outcome, Query, Rejection, Request, RequestKind, Response};
use crate::types::format::ETCD_STORAGE_VERSION;
use crate::types::limits::{OWED_KEYS_MIN, SHORT_KEYS_MAX};
use crate::types::proto::take_bytes_field;
use crate::types::{FormatLevel, KeyRange, LeaseId, LogIndex, MemberId, Slice, Term};

/// The etcd release whose behaviour clients meet; they choose features by it.
pub const ETCD_VERSION: &str = "3.7.1";

/// More than any `--max-request-bytes` in use, less than one version in the store may take: a guard
/// against a log written with other limits.
const REQUEST_BYTES_MAX: usize = 1 << 29;

/// A longer request is read faster than it is touched.
const BODY_BYTES_AHEAD: usize = 512;
/// Bytes that a processor's cache fetches at a time.
const LINE_BYTES: usize = 64;

/// Field numbers in `PutRequest`.
const PUT_KEY: u8 = 1;
const PUT_VALUE: u8 = 2;

/// What became of a committed request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "someone waits for the answer"]
pub enum Applied {
    Now(Outcome),
    /// It took effect; whoever waits is told once `work_slice` next says that nothing is left.
    AfterCompaction(Response),
}

/// The outcome of a committed request in the first moment.
#[derive(Debug)]
#[must_use = "a write that is being prepared is to be gone on with"]
pub enum Begun {
    Applied(Applied),
    /// It is a large write: `prepare_slice` goes on with it, and nothing else is applied before that is over.
    Preparing,
    /// It is a large write and was told to wait. Nothing of it has happened.
    Waiting,
}

/// What a Status answer tells that is not in the state machine.
#[derive(Debug, Clone, Default)]
pub struct StatusFacts {
    /// 0 when none is known.
    pub leader: MemberId,
    pub term: Term,
    pub committed: LogIndex,
    pub applied: LogIndex,
    pub is_learner: bool,
    /// `--quota-backend-bytes`, the default spelt out.
    pub quota_bytes: i64,
    /// What is wrong with this member beside the alarms, in etcd's words.
    pub errors: Vec<String>,
}

/// All replicated state of a member.
#[derive(Debug)]
pub struct Machine {
    pub(super) store: Store,
    pub(super) cluster: Cluster,
    pub(super) leases: Table,
    pub(super) alarms: Alarms,
    pub(super) sessions: Sessions,
    pub(super) parts: Parts,
    pub(super) format_level: FormatLevel,
    /// Not yet taken by whoever applies.
    pub(super) lease_changes: Vec<Change>,
    pub(super) realm: Realm,
    /// Not yet taken, as above.
    pub(super) auth_changes: Vec<AuthChange>,
    /// A large write under way.
    pub(super) preparation: Option<Preparation>,
    /// Whether one may begin.
    pub(super) has_room: bool,
    /// A write that touches more keys is prepared in slices.
    pub(super) short_keys_max: u64,
    /// A deletion in slices owes its records if it is of so many keys.
    pub(super) owed_keys_min: u64,
    pub(super) directories: Directories,
}

impl TakesMemory for Machine {
    fn wanted_memory(&self) -> (usize, usize) {
        self.store.wanted_memory()
    }

    fn supply_memory(&mut self, piece: Vec<u8>) {
        self.store.supply_memory(piece);
    }
}

impl Machine {
    /// Without leases or alarms, at the lowest format level; so no key of `store` has a lease.
    #[must_use]
    pub fn new(store: Store, cluster: Cluster) -> Self {
        Self {
            store,
            cluster,
            leases: Table::new(),
            alarms: Alarms::default(),
            sessions: Sessions::default(),
            parts: Parts::default(),
            format_level: FormatLevel::LOWEST,
            lease_changes: Vec::new(),
            realm: Realm::default(),
            auth_changes: Vec::new(),
            preparation: None,
            has_room: true,
            short_keys_max: SHORT_KEYS_MAX,
            owed_keys_min: OWED_KEYS_MIN,
            directories: Directories::default(),
        }
    }

    /// A machine of the parts of a backup. The leases know their keys.
    #[must_use]
    pub fn of_backup(
        (store, leases): (Store, Table),
        cluster: Cluster,
        alarms: Alarms,
        realm: Realm,
        format_level: FormatLevel,
    ) -> Self {
        Self { leases, alarms, realm, format_level, ..Self::new(store, cluster) }
    }

    /// The key space alone.
    #[must_use]
    pub fn into_store(self) -> Store {
        self.store
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The formats that this member may write; see `types::format`.
    #[must_use]
    pub fn format_level(&self) -> FormatLevel {
        self.format_level
    }

    /// Carries out a membership change, which reaches the machine as raft's own entry. Raft must be
    /// told whether it was taken.
    pub fn change_members(&mut self, change: &MemberChange) -> Outcome {
        let outcome = self.cluster.change(&change.kind);
        self.parts.retain(|member| !self.cluster.is_removed(member));
        outcome
    }

    /// The cluster goes on as this member alone; see `Cluster::reduce_to`.
    ///
    /// # Errors
    /// When `own` is no member.
    pub fn reduce_cluster_to(&mut self, own: MemberId) -> Result<(), Rejection> {
        self.cluster.reduce_to(own)?;
        self.parts.retain(|member| !self.cluster.is_removed(member));
        Ok(())
    }

    /// The cluster, of which `own` is the only member, goes on as another one; see `Cluster::renew`. Members that are
    /// added reach it at `peer_urls`, where they are given.
    ///
    /// # Errors
    /// Why it cannot have these URLs.
    pub fn renew_cluster(
        &mut self,
        own: MemberId,
        token: &str,
        peer_urls: Option<Vec<String>>,
    ) -> Result<(), Rejection> {
        assert_eq!(self.cluster.members().len(), 1, "nobody else has to be told");
        if let Some(peer_ur_ls) = peer_urls {
            drop(self.cluster.update(pb::MemberUpdateRequest { id: own.0, peer_ur_ls })?);
        }
        self.cluster.renew(token);
        Ok(())
    }

    /// Raises the revision by `by` and compacts everything below, so that clients which may have seen more than there
    /// is now begin anew.
    ///
    /// # Errors
    /// The revision that cannot be raised so far.
    pub fn raise_revision(&mut self, by: u64) -> Result<(), i64> {
        assert!(self.preparation.is_none(), "nothing is half written");
        let current = self.store.current_revision();
        let raised = i64::try_from(by).ok().and_then(|by| current.checked_add(by));
        let raised = raised.filter(|raised| *raised <= REVISION_MAX).ok_or(current)?;
        self.store.advance_to(raised);
        self.store.compact(raised);
        self.directories.compact(raised, raised);
        Ok(())
    }

    /// Which groups have been applied.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The requests of the next group of the log that are to be applied: all, or none if it was applied
    /// before or overtaken. A part of a request stands for the request when it is the last, and else for nothing.
    #[must_use]
    pub fn admit(&mut self, group: Group) -> Vec<Request> {
        let Some(id) = group.id else { return group.requests };
        if !self.sessions.admit(id) {
            return Vec::new();
        }
        let mut requests = group.requests;
        // The only one of its group: `decode_group`.
        if let Some(part) = requests.pop_if(|request| request.kind == RequestKind::Part) {
            requests.extend(self.parts.take(id, part));
        }
        requests
    }

    /// Has the processor fetch what the next requests will read, if they are puts, and says how many requests that
    /// were, at least one. Each put by itself waits for memory several times. Changes nothing that is read.
    #[inline]
    pub fn touch_ahead(&mut self, requests: &[Request]) -> usize {
        // Twice as many wait for memory side by side in hardly more time; fewer are not worth it.
        const FEW: usize = KEYS_AHEAD / 2;
        const MANY: usize = 2 * KEYS_AHEAD;
        match requests.len() {
            0 => 1,
            1..FEW => requests.len(),
            FEW..MANY => self.touch_next::<KEYS_AHEAD>(requests),
            _ => self.touch_next::<MANY>(requests),
        }
    }

    #[inline]
    fn touch_next<const N: usize>(&mut self, requests: &[Request]) -> usize {
        let requests = &requests[..requests.len().min(N)];
        let last = requests.last().expect("the caller has counted them");
        // The bytes themselves were another core's a moment ago.
        let lines = requests
            .iter()
            .flat_map(|request| request.body.iter().take(BODY_BYTES_AHEAD).step_by(LINE_BYTES));
        std::hint::black_box(lines.fold(0, |sum, byte| sum ^ byte));
        self.store.touch_keys::<N>(&std::array::from_fn(|place| key_of(requests.get(place).unwrap_or(last))));
        requests.len()
    }

    /// Applies the next request of a group that was admitted, which stands in the entry `at`.
    pub fn apply(&mut self, request: &Request, at: EntryId) -> Applied {
        match self.begin_apply(request, at, true) {
            Begun::Applied(applied) => applied,
            Begun::Waiting => unreachable!("it has room"),
            Begun::Preparing => loop {
                if let Some(outcome) = self.prepare_slice(&mut Slice::unbounded(), |_, _| true) {
                    return Applied::Now(outcome);
                }
            },
        }
    }

    /// The same, unless the request is a large write: that is only begun, and where it has no room not even that.
    pub fn begin_apply(&mut self, request: &Request, at: EntryId, has_room: bool) -> Begun {
        assert!(self.preparation.is_none(), "requests are applied in order");
        self.has_room = has_room;
        match self.apply_short(request, at) {
            Some(applied) => Begun::Applied(applied),
            None if self.preparation.is_some() => Begun::Preparing,
            None => Begun::Waiting,
        }
    }

    /// None: it is a large write.
    fn apply_short(&mut self, request: &Request, at: EntryId) -> Option<Applied> {
        let body = &request.body;
        if REQUEST_BYTES_MAX < body.len() {
            return Some(Applied::Now(Err(Rejection::RequestTooLarge { bytes: body.len() as u64 })));
        }
        if let Err(rejection) = self.alarms.check(request.kind) {
            return Some(Applied::Now(Err(rejection)));
        }
        let login = request.login.as_ref();
        let outcome = match request.kind {
            RequestKind::Put => match plain_put(body).filter(|_| !self.realm.is_enabled()) {
                Some((key, value)) => Ok(self.put_plain(key, value)),
                None => decode(body).and_then(|request| {
                    self.permit_put(login, &request)?;
                    self.put(&request)
                }),
            },
            RequestKind::DeleteRange => match decode(body).and_then(|delete: pb::DeleteRangeRequest| {
                self.permit_delete(login, &delete)?;
                Ok(delete)
            }) {
                Ok(delete) if self.is_long_delete(&delete) => {
                    let owed_keys_min = self.owed_keys_min;
                    return self
                        .prepare(|machine| Preparation::delete(&mut machine.store, delete, owed_keys_min));
                }
                Ok(delete) => self.delete_range(&delete),
                Err(rejection) => Err(rejection),
            },
            RequestKind::Txn => match decode(body).and_then(|txn| {
                self.permit_txn(login, &txn)?;
                self.alarms.check_txn(&txn)?;
                Ok(txn)
            }) {
                Ok(txn) if self.short_keys_max < preparation::keys_max(&self.store, &txn) => {
                    let owed_keys_min = self.owed_keys_min;
                    return self.prepare(|machine| Preparation::txn(&mut machine.store, txn, owed_keys_min));
                }
                Ok(txn) => {
                    let deadlines = &mut self.directories.deadlines;
                    txn::apply(&mut self.store, &mut self.leases, deadlines, &txn)
                }
                Err(rejection) => Err(rejection),
            },
            RequestKind::Compact => match decode(body).and_then(|request| {
                self.permit_admin(login)?;
                self.compact(&request)
            }) {
                Ok((response, true)) => return Some(Applied::AfterCompaction(response)),
                Ok((response, false)) => Ok(response),
                Err(rejection) => Err(rejection),
            },
            RequestKind::PublishMember => decode(body).map(|request| self.publish(request)),
            RequestKind::MemberUpdate => decode(body).and_then(|request| {
                self.permit_admin(login)?;
                self.cluster.update(request)
            }),
            RequestKind::LeaseGrant => decode(body).and_then(|request| {
                self.permit_login(login)?;
                self.grant_lease(&request, at)
            }),
            RequestKind::LeaseRevoke => match decode(body).and_then(|request: pb::LeaseRevokeRequest| {
                self.permit_lease(login, request.id)?;
                Ok(request)
            }) {
                Ok(request) => self.revoke_lease(&request)?,
                Err(rejection) => Err(rejection),
            },
            RequestKind::LeaseExpire => match decode(body).map(|request| self.expire_leases(&request, at)) {
                Ok(response) => Ok(response?),
                Err(rejection) => Err(rejection),
            },
            RequestKind::LeaseCheckpoint => decode(body).map(|request| self.note_leases(&request, at)),
            RequestKind::Alarm => decode(body).and_then(|request| {
                self.permit_admin(login)?;
                self.alarm(&request)
            }),
            RequestKind::FormatLevel => decode(body).map(|request| self.raise_format_level(&request)),
            RequestKind::NodeWrite => {
                let written = decode(body).and_then(|request: peer::NodeWrite| {
                    self.alarms.check_node(request.method)?;
                    let write = NodeWrite::read(&request)?;
                    self.permit_node(login, &write)?;
                    Ok(self.write_node(&write, at))
                });
                match written {
                    Ok(outcome) => outcome?,
                    Err(rejection) => Err(rejection),
                }
            }
            RequestKind::NodeExpire => match decode(body).map(|request| self.expire_nodes(&request, at)) {
                Ok(response) => Ok(response?),
                Err(rejection) => Err(rejection),
            },
            RequestKind::NodeCheckpoint => decode(body).map(|request| self.note_nodes(&request, at)),
            RequestKind::Part => Err(Rejection::Undecodable("a part that does not fit the others".into())),
            RequestKind::AuthEnable
            | RequestKind::AuthDisable
            | RequestKind::Authenticate
            | RequestKind::UserAdd
            | RequestKind::UserDelete
            | RequestKind::UserChangePassword
            | RequestKind::UserGrantRole
            | RequestKind::UserRevokeRole
            | RequestKind::RoleAdd
            | RequestKind::RoleDelete
            | RequestKind::RoleGrantPermission
            | RequestKind::RoleRevokePermission => self.auth(request, at),
        };
        Some(Applied::Now(outcome))
    }

    /// Goes on with the write that `begin_apply` began. Its outcome when it is committed, or was taken back.
    /// `announce` sees the changes of a revision when all of them are made (`Store::changes_under_way`), as often as
    /// it takes until it says true; only then are they committed.
    ///
    /// # Panics
    /// When there is none.
    pub fn prepare_slice(
        &mut self,
        slice: &mut Slice,
        mut announce: impl FnMut(&Store, &mut Slice) -> bool,
    ) -> Option<Outcome> {
        let Self { store, leases, lease_changes, preparation, directories, .. } = self;
        let outcome = preparation.as_mut().expect("a write is being prepared").slice(
            store,
            (leases, directories),
            lease_changes,
            slice,
            &mut announce,
        )?;
        preparation.take().expect("it was there above").end(store);
        Some(outcome)
    }

    /// Begins to prepare a large write, if it has room. Whoever comes here has changed nothing yet.
    pub(super) fn prepare<T>(&mut self, begin: impl FnOnce(&mut Self) -> Preparation) -> Option<T> {
        if self.has_room {
            self.preparation = Some(begin(self));
        }
        None
    }

    fn is_long_delete(&self, request: &pb::DeleteRangeRequest) -> bool {
        let keys = KeyRange::new(&request.key, &request.range_end);
        !matches!(keys, KeyRange::One(_)) && self.short_keys_max < self.store.count_now(keys)
    }

    /// Most puts: nothing of them is kept but what the store copies.
    fn put_plain(&mut self, key: &[u8], value: &[u8]) -> Response {
        let mut txn = self.store.begin();
        let written = txn.put(key, value, 0);
        let revision = txn.commit();
        if (written.previous_lease, written.previous_expiring) != (0, 0) {
            let mut moves = Moves::default();
            moves.on_put(&Bytes::copy_from_slice(key), written.previous_lease, 0);
            moves.on_superseded(written.previous_expiring);
            moves.commit(&mut self.leases, &mut self.directories.deadlines);
        }
        Response { revision, body: Vec::new(), resume: None }
    }

    fn put(&mut self, request: &pb::PutRequest) -> Outcome {
        // The lease before the key: the other way round than a put in a transaction.
        check_lease(&self.leases, request.lease)?;
        let (mut txn, mut moves) = (self.store.begin(), Moves::default());
        let body = write::put(&mut txn, &mut moves, request, |answer| answer.to_body())?;
        let revision = txn.commit();
        moves.commit(&mut self.leases, &mut self.directories.deadlines);
        Ok(Response { revision, body, resume: None })
    }

    fn delete_range(&mut self, request: &pb::DeleteRangeRequest) -> Outcome {
        let (mut txn, mut moves) = (self.store.begin(), Moves::default());
        let body = write::delete_range(&mut txn, &mut moves, request, |answer| answer.to_body())?;
        let revision = txn.commit();
        moves.commit(&mut self.leases, &mut self.directories.deadlines);
        Ok(Response { revision, body, resume: None })
    }

    /// Also tells whether the answer waits for the old data to be gone.
    fn compact(&mut self, request: &pb::CompactionRequest) -> Result<(Response, bool), Rejection> {
        let (compacted, current) = (self.store.compact_revision(), self.store.current_revision());
        let required = request.revision;
        // A fresh store counts as compacted at -1: 0 can be compacted once, negative numbers never.
        if required <= compacted {
            return Err(Rejection::Compacted { required, compacted });
        }
        if current < required {
            return Err(Rejection::FutureRevision { required, current });
        }
        self.store.compact(required);
        self.directories.compact(required, current);
        Ok((Response { revision: current, ..Response::default() }, request.physical))
    }

    fn publish(&mut self, request: peer::PublishMember) -> Response {
        self.cluster.publish(request);
        Response::default()
    }

    /// The level never falls. Two leaders may have asked for the same one, so that it is raised already is
    /// nothing to complain about.
    fn raise_format_level(&mut self, request: &peer::FormatLevel) -> Response {
        self.format_level = self.format_level.max(FormatLevel(request.level));
        Response::default()
    }

    /// Writes records of deletions that took effect, until the slice is spent. True when none is owed any more. What
    /// is read never tells the difference; `work_slice` does it first.
    pub fn settle_slice(&mut self, slice: &mut Slice) -> bool {
        assert!(self.preparation.is_none(), "what is owed rests while a write is prepared");
        self.store.settle_slice(slice)
    }

    /// Does about `steps` records' worth of the work that compactions left behind. True when nothing
    /// is left, or all that is left waits for a checkpoint or a list under way: then every
    /// `Applied::AfterCompaction` so far may be answered.
    pub fn work_slice(&mut self, steps: usize) -> bool {
        assert!(self.preparation.is_none(), "compaction rests while a write is prepared");
        // Directories first: it is the key space that says whether work is left.
        self.directories.entries.compact_slice(steps) && self.store.compact_slice(steps)
    }

    /// Answers a read from the present state. What of a lease only its leader knows is not in it: a
    /// time to live is what the log says, leases are in the order of their ids, and a keep-alive, which
    /// changes the leader's memory, never comes here.
    pub fn read(&self, query: &Query, facts: &StatusFacts) -> Outcome {
        match query {
            Query::Range(request) => range::answer(&self.store, request),
            Query::RangeSlice(slice) => range::slice_answer(&self.store, slice),
            Query::Txn(request) => txn::answer(&self.store, request),
            Query::Hash | Query::HashKv(_) | Query::HashCompacted => {
                let revision = self.hash_revision(query)?;
                Ok(self.hash_response(matches!(query, Query::Hash), &self.store.hash_kv(revision)))
            }
            Query::Snapshot => unreachable!("the store role begins a backup of its own"),
            // Cluster answers carry no revision.
            Query::MemberList => {
                Ok(Response { body: self.cluster.member_list_body(), ..Response::default() })
            }
            Query::Membership => Ok(Response { body: self.cluster.encode(), ..Response::default() }),
            Query::ClusterVersion => {
                let (version, _patch) = ETCD_VERSION.rsplit_once('.').expect("a version has three parts");
                let answer = pb::DowngradeResponse { header: None, version: version.into() };
                Ok(self.response(answer.encode_to_vec()))
            }
            Query::Status => Ok(self.response(self.status(facts).encode_to_vec())),
            Query::Alarms { kind } => Ok(self.list_alarms(*kind)),
            Query::LeaseTimeToLive(request) => {
                let lease = self.leases.get(LeaseId(request.id));
                let noted_s = lease.map_or(0, |lease| match lease.remaining_s() {
                    0 => lease.ttl_s(),
                    noted_s => noted_s,
                });
                Ok(self.lease_time_to_live(request, noted_s.saturating_mul(1_000)))
            }
            Query::LeaseLeases => Ok(self.lease_leases(self.leases.iter().map(|(id, _)| id))),
            Query::LeaseKeepAlive(_) => {
                unreachable!("the store role gives keep-alives to the leader's memory")
            }
            Query::Node(query) => self.read_node(query, facts.applied),
            Query::NodeTallies => unreachable!("the store role has a part of them"),
            Query::AuthStatus
            | Query::UserGet(_)
            | Query::UserList
            | Query::RoleGet(_)
            | Query::RoleList
            | Query::PasswordOf(_) => self.read_auth(query),
            // Whether it is permitted was asked before.
            Query::Permit(_) => Ok(self.response(Vec::new())),
            Query::Token(_) => unreachable!("the store role gives tokens to the member's memory"),
            Query::NotOlder(_) => {
                unreachable!("the store role lets it wait, and takes it out of its wrapping")
            }
        }
    }

    /// Answers a read as `read` does if that is done in one piece in next to no time. `None`: it is one that
    /// `begin_long_read` begins.
    #[must_use]
    pub fn read_short(&self, query: &Query, facts: &StatusFacts) -> Option<Outcome> {
        match query {
            Query::Range(request) => range::answer_short(&self.store, request),
            Query::Txn(request) => txn::answer_short(&self.store, request),
            other => Some(self.read(other, facts)),
        }
    }

    /// Begins a Range or a transaction of ranges at its revision, which stays readable for it until
    /// `end_long_read`.
    ///
    /// # Errors
    /// The read's answer.
    pub fn begin_long_read(&mut self, query: &Query) -> Result<LongRead, Rejection> {
        match query {
            Query::Range(request) => LongRead::range(&mut self.store, request),
            Query::Txn(request) => LongRead::txn(&mut self.store, request),
            other => unreachable!("{other:?} is read in one piece"),
        }
    }

    /// Gives up what the read has pinned.
    pub fn end_long_read(&mut self, read: LongRead) {
        read.end(&mut self.store);
    }

    pub(super) fn response(&self, body: Vec<u8>) -> Response {
        Response { revision: self.store.current_revision(), body, resume: None }
    }

    fn status(&self, facts: &StatusFacts) -> pb::StatusResponse {
        let bytes = |bytes: u64| i64::try_from(bytes).expect("memory holds no 2^63 bytes");
        pb::StatusResponse {
            header: None,
            version: ETCD_VERSION.into(),
            db_size: bytes(self.bytes_held()),
            db_size_in_use: bytes(self.store.bytes_in_use() + self.directories.bytes_in_use()),
            leader: facts.leader.0,
            raft_index: facts.committed.0,
            raft_term: facts.term.0,
            raft_applied_index: facts.applied.0,
            errors: facts.errors.iter().cloned().chain(self.alarms.iter().map(|a| a.to_string())).collect(),
            is_learner: facts.is_learner,
            storage_version: ETCD_STORAGE_VERSION.into(),
            db_size_quota: facts.quota_bytes,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }
    }

    fn hash_revision(&self, query: &Query) -> Result<i64, Rejection> {
        match query {
            Query::HashKv(request) => range::readable_revision(&self.store, request.revision),
            Query::HashCompacted => {
                let compacted = self.store.compact_revision();
                // Never compacted, or at 0, which is no revision.
                if compacted <= 0 {
                    return Err(Rejection::Compacted { required: compacted, compacted });
                }
                Ok(compacted)
            }
            Query::Hash => Ok(self.store.current_revision()),
            other => unreachable!("{other:?} asks for no hash"),
        }
    }

    fn hash_response(&self, is_of_all: bool, hash: &HashKv) -> Response {
        let HashKv { hash, compact_revision, hash_revision } = *hash;
        let body = if is_of_all {
            // etcd hashes its file. Ours is the history that the file would hold.
            pb::HashResponse { header: None, hash }.encode_to_vec()
        } else {
            pb::HashKvResponse { header: None, hash, compact_revision, hash_revision }.encode_to_vec()
        };
        self.response(body)
    }

    /// Starts the answer to a question for a hash, which `hash_slice` carries on.
    ///
    /// # Errors
    /// When the revision cannot be read.
    pub fn begin_hash(&self, query: &Query) -> Result<HashRead, Rejection> {
        let revision = self.hash_revision(query)?;
        let is_of_all = matches!(query, Query::Hash);
        Ok(HashRead { is_of_all, revision, cursor: self.store.begin_hash(revision) })
    }

    /// Hashes on; writes may go on in between. The answer when done.
    pub fn hash_slice(&self, read: &mut HashRead, slice: &mut Slice) -> Option<Outcome> {
        match self.store.hash_slice(&mut read.cursor, slice) {
            Ok(hash) => hash.map(|hash| Ok(self.hash_response(read.is_of_all, &hash))),
            // Part of what was hashed may be gone. Begin again, if the revision still can be read.
            Err(HashOvertaken { .. }) => {
                if read.is_of_all {
                    read.revision = self.store.current_revision();
                }
                match check_readable(&self.store, read.revision) {
                    Ok(()) => {
                        read.cursor = self.store.begin_hash(read.revision);
                        None
                    }
                    Err(rejection) => Some(Err(rejection)),
                }
            }
        }
    }
}

/// A hash under way.
#[derive(Debug)]
pub struct HashRead {
    is_of_all: bool,
    revision: i64,
    cursor: HashCursor,
}

impl HashRead {
    /// The revision that is hashed.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.cursor.revision()
    }

    /// Whether it answers `Hash`, not `HashKV`.
    #[must_use]
    pub fn is_of_all(&self) -> bool {
        self.is_of_all
    }
}

/// The key that a put writes; an empty one of other requests, and where the key does not stand first.
#[inline]
fn key_of(request: &Request) -> &[u8] {
    match request.kind {
        RequestKind::Put => take_bytes_field(&mut request.body.as_ref(), PUT_KEY).unwrap_or_default(),
        _ => &[],
    }
}

/// Key and value of a put that has both and says nothing else; prost would read the same. `None`: look closer.
#[inline]
fn plain_put(mut body: &[u8]) -> Option<(&[u8], &[u8])> {
    let key = take_bytes_field(&mut body, PUT_KEY)?;
    let value = take_bytes_field(&mut body, PUT_VALUE)?;
    (!key.is_empty() && body.is_empty()).then_some((key, value))
}

/// Every byte string has the same fate on every member: the decoder is part of the state machine.
pub(super) fn decode<M: Message + Default>(body: &Bytes) -> Result<M, Rejection> {
    M::decode(body.clone()).map_err(|error| Rejection::Undecodable(error.to_string()))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
