//! The queue behind `Lock` and `Election`: who holds a name, and whom the next one waits for.
//!
//! A contender's key is `<name>/<its lease in hex>`, attached to that lease. The oldest key under
//! `<name>/`, by create revision, holds the name. Everyone else waits for the deletion of the key just
//! before its own, so the end of a key wakes one contender and not all of them, and looks again: the
//! one before may have given up without ever holding.
//!
//! ```text
//! new ─► enter ──► no key before mine ───────────────────────────► Acquired
//!          │                                                        ▲
//!          ├──► a key before mine ──► AwaitDelete ──► look ─────────┤
//!          └──► my key was there ──► (proclaim) ───► look ──────────┘
//!                                                     └──► my key is gone: an error
//! ```
//!
//! A `Contender` does nothing itself: it says which command or deletion is next and is told what came
//! of it. Whoever runs it submits the commands, waits, and calls `leave` when the caller gives up.
//!
//! Invariants: a contender acquires only from a state in which its own key, the very one it entered
//! with, exists and none under the prefix is older; so of two contenders one at most holds, as long as
//! leases live.
//! Cost: a free name takes one transaction; a wait adds one read of the prefix for each key that ends
//! before ours. Each read looks at all keys under the prefix.
//! Compatibility: keys, order, texts and header revisions are etcd's. Other than etcd, a contender
//! whose key went away while it waited never acquires: etcd's `Campaign` does not look, and its `Lock`
//! takes a key that was deleted and made anew for its own.

use bytes::Bytes;
use prost::Message;

use super::status::{self, Status};
use super::validate;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::response_op::Response as Done;
use crate::pb::mvccpb::KeyValue;
use crate::request::{Command, Query, Read, RequestKind, Response};
use crate::types::{LeaseId, Term};

/// For which service a contender stands in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Lock,
    Election,
}

/// Where an answer's header comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub term: Term,
    pub revision: i64,
}

/// What a contender needs next.
#[derive(Debug)]
pub enum Step {
    /// Submit this and tell `on_answer` what came.
    Ask(Command),
    /// Wait until `key` is deleted in revision `from` or later, then call `on_deleted`.
    AwaitDelete { key: Bytes, from: i64 },
    /// The name is held. The call's header is this.
    Acquired(Standing),
}

/// What the last `Ask` was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing yet, or the key's creation.
    Enter,
    /// Another value for a key that was there.
    Proclaim,
    /// A look at the own key and the one before it.
    Look,
}

/// One caller in the queue of a name.
#[derive(Debug)]
pub struct Contender {
    purpose: Purpose,
    prefix: Bytes,
    key: Bytes,
    value: Bytes,
    lease: LeaseId,
    stage: Stage,
    /// Of the own key; 0 until it is known.
    create_revision: i64,
    /// Of the transaction that entered.
    entered: Standing,
}

impl Contender {
    /// A contender for `name` that has asked nothing yet.
    #[must_use]
    pub fn new(purpose: Purpose, name: &[u8], lease: LeaseId, value: Bytes) -> Self {
        let prefix = prefix(name);
        let key = Bytes::from([&prefix, hex(lease).as_bytes()].concat());
        let entered = Standing { term: Term::default(), revision: 0 };
        Self { purpose, prefix, key, value, lease, stage: Stage::Enter, create_revision: 0, entered }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Create revision of its key, 0 before that is known.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.create_revision
    }

    /// The first step: create the key, or find it.
    ///
    /// # Errors
    /// When the key and the value are more than one request may carry.
    pub fn enter(&mut self, request_bytes_max: u32) -> Result<Step, Status> {
        assert_eq!(self.stage, Stage::Enter, "a contender enters once");
        // The newest two: one's own and the one before it.
        let newest = pb::RangeRequest { limit: 2, ..self.by_age(SortOrder::Descend) };
        // Only an election looks at the value.
        let keys_only = self.purpose == Purpose::Lock;
        let own = pb::RangeRequest { key: self.key.clone(), keys_only, ..Default::default() };
        let request = pb::TxnRequest {
            compare: vec![created_at(self.key.clone(), 0)],
            success: vec![self.put(), op(Op::RequestRange(newest))],
            failure: vec![op(Op::RequestRange(own))],
        };
        Ok(Step::Ask(propose_txn(&request, request_bytes_max)?))
    }

    /// Takes the answer to the last `Ask`.
    ///
    /// # Errors
    /// The own key is gone: the caller's final status, always of code Unknown.
    pub fn on_answer(&mut self, term: Term, response: &Response) -> Result<Step, Status> {
        let standing = Standing { term, revision: response.revision };
        let mut answer = decode::<pb::TxnResponse>(&response.body);
        let done = std::mem::take(&mut answer.responses);
        match self.stage {
            Stage::Enter => {
                self.entered = standing;
                if answer.succeeded {
                    self.create_revision = response.revision;
                    let before = range_of(&done, 1).iter().find(|kv| kv.key != self.key);
                    return Ok(self.wait_for(before, standing));
                }
                let own = range_of(&done, 0).first().expect("its create revision was not 0 just now");
                self.create_revision = own.create_revision;
                if self.purpose == Purpose::Election && own.value != self.value {
                    self.stage = Stage::Proclaim;
                    let request = guarded(self.key.clone(), self.create_revision, vec![self.put()]);
                    // It is smaller than the request that entered.
                    return Ok(Step::Ask(proposal(&request)));
                }
                Ok(self.look())
            }
            Stage::Proclaim if !answer.succeeded => Err(self.lost()),
            Stage::Proclaim => Ok(self.look()),
            Stage::Look => {
                let own = range_of(&done, 0).first();
                if own.is_none_or(|own| own.create_revision != self.create_revision) {
                    return Err(self.lost());
                }
                Ok(self.wait_for(range_of(&done, 1).first(), standing))
            }
        }
    }

    /// The deletion that was waited for has happened, or may have: looks again.
    pub fn on_deleted(&mut self) -> Step {
        self.look()
    }

    /// Takes the key out of the queue, unless it is another one by now. None: there is none to take
    /// out, as far as is known.
    #[must_use]
    pub fn leave(&self) -> Option<Command> {
        (self.create_revision != 0).then(|| proposal(&resign(self.key.clone(), self.create_revision)))
    }

    fn wait_for(&self, before: Option<&KeyValue>, standing: Standing) -> Step {
        match before {
            Some(before) => Step::AwaitDelete { key: before.key.clone(), from: standing.revision + 1 },
            None if self.purpose == Purpose::Election => Step::Acquired(self.entered),
            None => Step::Acquired(standing),
        }
    }

    fn look(&mut self) -> Step {
        assert!(0 < self.create_revision, "there is a key to look at");
        self.stage = Stage::Look;
        let own = pb::RangeRequest { key: self.key.clone(), keys_only: true, ..Default::default() };
        let before = pb::RangeRequest {
            limit: 1,
            max_create_revision: self.create_revision - 1,
            ..self.by_age(SortOrder::Descend)
        };
        // A bound of 0 would be none; but what was created in revision 1 has nothing before it.
        assert!(1 < self.create_revision, "revision 1 is the empty store");
        let success = vec![op(Op::RequestRange(own)), op(Op::RequestRange(before))];
        let request = pb::TxnRequest { success, ..Default::default() };
        Step::Ask(Command::Read(Read::new(true, Query::Txn(request))))
    }

    /// The keys of the queue, without their values.
    fn by_age(&self, order: SortOrder) -> pb::RangeRequest {
        pb::RangeRequest { keys_only: true, ..by_age(&self.prefix, order) }
    }

    fn put(&self) -> pb::RequestOp {
        put(self.key.clone(), self.value.clone(), self.lease)
    }

    fn lost(&self) -> Status {
        match self.purpose {
            Purpose::Lock => status::SESSION_EXPIRED,
            Purpose::Election => status::ELECTION_NOT_LEADER,
        }
    }
}

/// What all keys of a queue begin with.
fn prefix(name: &[u8]) -> Bytes {
    Bytes::from([name, b"/"].concat())
}

/// First key behind a prefix, which ends in a slash.
#[must_use]
pub fn end_of(prefix: &[u8]) -> Bytes {
    let (last, front) = prefix.split_last().expect("a prefix ends in a slash");
    Bytes::from([front, &[last + 1]].concat())
}

/// A lease as keys name it: lower-case hex, and a minus where Go prints one.
fn hex(lease: LeaseId) -> String {
    let sign = if lease.0 < 0 { "-" } else { "" };
    format!("{sign}{:x}", lease.0.unsigned_abs())
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put(key: Bytes, value: Bytes, lease: LeaseId) -> pb::RequestOp {
    op(Op::RequestPut(pb::PutRequest { key, value, lease: lease.0, ..Default::default() }))
}

fn created_at(key: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// `success`, if the key is still the one that was created at `revision`.
fn guarded(key: Bytes, revision: i64, success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { compare: vec![created_at(key, revision)], success, failure: Vec::new() }
}

fn by_age(prefix: &Bytes, order: SortOrder) -> pb::RangeRequest {
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: end_of(prefix),
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// All keys of a queue: what an observer watches while there is no leader.
#[must_use]
pub fn keys_of(name: &[u8]) -> (Bytes, Bytes) {
    let prefix = prefix(name);
    let end = end_of(&prefix);
    (prefix, end)
}

/// The key that holds `name`.
#[must_use]
pub fn leader(name: &[u8]) -> Command {
    let query = Query::Range(pb::RangeRequest { limit: 1, ..by_age(&prefix(name), SortOrder::Ascend) });
    Command::Read(Read::new(true, query))
}

/// Another value for a leader's key.
#[must_use]
pub fn proclaim(key: Bytes, create_revision: i64, value: Bytes, lease: LeaseId) -> pb::TxnRequest {
    let put = put(key.clone(), value, lease);
    guarded(key, create_revision, vec![put])
}

/// The end of a leader's key.
#[must_use]
pub fn resign(key: Bytes, create_revision: i64) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    guarded(key, create_revision, vec![op(Op::RequestDeleteRange(delete))])
}

fn proposal(request: &pb::TxnRequest) -> Command {
    Command::Propose { kind: RequestKind::Txn, body: request.encode_to_vec().into(), login: None }
}

/// Proposes a transaction made of what a client sent.
///
/// # Errors
/// When its key is empty or its size is more than a request may have.
pub fn propose_txn(request: &pb::TxnRequest, request_bytes_max: u32) -> Result<Command, Status> {
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(status::KEY_EMPTY);
    }
    validate::request_bytes(request.encoded_len(), request_bytes_max)?;
    Ok(proposal(request))
}

/// Decodes the state machine's own answer.
fn decode<M: Message + Default>(body: &[u8]) -> M {
    M::decode(body).expect("the state machine's answer decodes")
}

/// The keys that the transaction's operation `slot` read.
fn range_of(done: &[pb::ResponseOp], slot: usize) -> &[KeyValue] {
    match done.get(slot).and_then(|done| done.response.as_ref()) {
        Some(Done::ResponseRange(range)) => &range.kvs,
        other => unreachable!("operation {slot} was a range: {other:?}"),
    }
}

/// Inner errors of `Lock` and `Election` lose their code on the way through etcd's own client.
#[must_use]
pub fn rethrown(status: Status) -> Status {
    Status { code: super::Code::Unknown, ..status }
}

#[cfg(test)]
#[path = "queue_model.rs"]
pub(crate) mod model;
#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
