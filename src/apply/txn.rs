//! Transactions: compare, then do one thing or the other, all of it or nothing.
//!
//! In this order, as etcd does: every comparison, nested ones too, against the state before the
//! transaction, which decides the path; then what can be refused on that path, against the same
//! state, all puts before all ranges; then the operations in order, each seeing the ones before.
//! A write may still fail while it runs, where etcd panics (a put with `ignore_value` of a key that
//! an earlier operation deleted): then it is rolled back and refused.
//!
//! Cost: a key compare O(log keys), a range compare O(keys in range) until one fails. Recursion is
//! as deep as the decoder allows, 50 levels.
//! Compatibility: etcd 3.7; `tests/wire/` holds the answers to random ones against those of a real etcd.

use super::encode::{InnerHeader, OpField, TxnAnswer};
use super::moves::{Moves, check_lease};
use super::view::{View, check_readable};
use super::{range, write};
use crate::directory::Deadlines;
use crate::lease::Table;
use crate::mvcc::{KeyValueRef, Mark, Store, WriteTxn};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::request::{Outcome, Rejection, Response};
use crate::types::KeyRange;
use crate::types::limits::{SHORT_BYTES_MAX, SHORT_KEYS_MAX};

/// Runs a transaction that may write.
pub(super) fn apply(
    store: &mut Store,
    leases: &mut Table,
    deadlines: &mut Deadlines,
    request: &pb::TxnRequest,
) -> Outcome {
    let path = Path::decide(store, request);
    check_puts(store, leases, request, &mut path.walk())?;
    check_ranges(store, request, &mut path.walk())?;

    let mut walk = path.walk();
    let succeeded = walk.next();
    let mut run = Run { txn: store.begin(), moves: Moves::default(), answer: TxnAnswer::new(succeeded) };
    run.ops(branch(request, succeeded), None, &mut walk)?;
    let Run { txn, moves, answer } = run;
    let revision = txn.commit();
    moves.commit(leases, deadlines);
    Ok(Response { revision, body: answer.into_body(), resume: None })
}

/// Answers a transaction of ranges only, which does not go through the log.
pub(super) fn answer(store: &Store, request: &pb::TxnRequest) -> Outcome {
    let (succeeded, ranges) = ranges(store, request)?;
    let mut answer = TxnAnswer::new(succeeded);
    for range in ranges {
        push_range(&mut answer, store, range)?;
    }
    Ok(Response { revision: store.current_revision(), body: answer.into_body(), resume: None })
}

/// As `answer`, if the transaction is answered in one piece; see `range::answer_short`.
pub(super) fn answer_short(store: &Store, request: &pb::TxnRequest) -> Option<Outcome> {
    let compared = request.compare.iter().map(|compare| match compare.range_end.is_empty() {
        true => 1,
        false if store.is_writing() => u64::MAX,
        false => store.count_now(KeyRange::new(&compare.key, &compare.range_end)),
    });
    let mut keys = compared.fold(0, u64::saturating_add);
    if SHORT_KEYS_MAX < keys {
        return None;
    }
    let (succeeded, ranges) = match ranges(store, request) {
        Ok(path) => path,
        Err(rejection) => return Some(Err(rejection)),
    };
    let mut answer = TxnAnswer::new(succeeded);
    for range in ranges {
        let at = if range.revision <= 0 { store.current_revision() } else { range.revision };
        keys += range::keys_visited_max(store, range, at)?;
        if SHORT_KEYS_MAX < keys {
            return None;
        }
        if let Err(rejection) = push_range(&mut answer, store, range) {
            return Some(Err(rejection));
        }
        if SHORT_BYTES_MAX < answer.len() {
            return None;
        }
    }
    Some(Ok(Response { revision: store.current_revision(), body: answer.into_body(), resume: None }))
}

/// What the comparisons of a transaction of ranges say, and the ranges to be answered.
pub(super) fn ranges<'r>(
    store: &Store,
    request: &'r pb::TxnRequest,
) -> Result<(bool, impl Iterator<Item = &'r pb::RangeRequest> + use<'r>), Rejection> {
    let path = Path::decide(store, request);
    check_ranges(store, request, &mut path.walk())?;
    let succeeded = path.walk().next();
    let ranges = branch(request, succeeded).iter().map(|op| match &op.request {
        Some(Op::RequestRange(range)) => range,
        _ => unreachable!("the client shard sends what is not all ranges through the log"),
    });
    Ok((succeeded, ranges))
}

pub(super) fn branch(request: &pb::TxnRequest, succeeded: bool) -> &[pb::RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// What each transaction on the way decided, outer ones before those inside them.
pub(super) struct Path(Vec<bool>);

impl Path {
    fn decide(store: &Store, request: &pb::TxnRequest) -> Self {
        let mut path = Self(Vec::new());
        path.extend(store, request);
        path
    }

    fn extend(&mut self, store: &Store, request: &pb::TxnRequest) {
        let succeeded = request.compare.iter().all(|compare| holds(store, compare));
        self.0.push(succeeded);
        for op in branch(request, succeeded) {
            if let Some(Op::RequestTxn(nested)) = &op.request {
                self.extend(store, nested);
            }
        }
    }

    /// The path of which each transaction's decision is known, in the order in which they are met.
    pub(super) fn of(decisions: Vec<bool>) -> Self {
        Self(decisions)
    }

    pub(super) fn walk(&self) -> Walk<'_> {
        Walk(self.0.iter())
    }
}

/// Follows a path: one step per transaction, in the order in which it was decided.
pub(super) struct Walk<'p>(std::slice::Iter<'p, bool>);

impl Walk<'_> {
    pub(super) fn next(&mut self) -> bool {
        *self.0.next().expect("every transaction on the path was decided")
    }
}

/// Whether a comparison holds for every key it names.
pub(super) fn holds(store: &Store, compare: &pb::Compare) -> bool {
    let at = store.current_revision();
    if compare.range_end.is_empty() {
        return match store.get(&compare.key, at) {
            Some(kv) => holds_for(compare, &kv),
            None => holds_for_missing(compare),
        };
    }
    let mut kvs = store.scan(KeyRange::new(&compare.key, &compare.range_end), at).peekable();
    if kvs.peek().is_none() {
        return holds_for_missing(compare);
    }
    kvs.all(|kv| holds_for(compare, &kv))
}

/// A missing key is all zeros, but has no value at all: no operator holds for that.
pub(super) fn holds_for_missing(compare: &pb::Compare) -> bool {
    let nothing = KeyValueRef {
        key: &[],
        value: &[],
        create_revision: 0,
        mod_revision: 0,
        sub: 0,
        version: 0,
        lease: 0,
        mark: Mark::default(),
    };
    compare.target != CompareTarget::Value as i32 && holds_for(compare, &nothing)
}

pub(super) fn holds_for(compare: &pb::Compare, kv: &KeyValueRef<'_>) -> bool {
    // An operand for another target than the one named counts as none: zero, or empty.
    let operand = compare.target_union.as_ref();
    let number = |given: Option<i64>| given.unwrap_or(0);
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Version) => kv.version.cmp(&number(match operand {
            Some(TargetUnion::Version(version)) => Some(*version),
            _ => None,
        })),
        Ok(CompareTarget::Create) => kv.create_revision.cmp(&number(match operand {
            Some(TargetUnion::CreateRevision(revision)) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Mod) => kv.mod_revision.cmp(&number(match operand {
            Some(TargetUnion::ModRevision(revision)) => Some(*revision),
            _ => None,
        })),
        Ok(CompareTarget::Lease) => kv.lease.cmp(&number(match operand {
            Some(TargetUnion::Lease(lease)) => Some(*lease),
            _ => None,
        })),
        Ok(CompareTarget::Value) => kv.value.cmp(match operand {
            Some(TargetUnion::Value(value)) => value,
            _ => &[],
        }),
        // A target from the future: nothing to compare, so nothing differs.
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

pub(super) fn check_puts(
    store: &Store,
    leases: &Table,
    request: &pb::TxnRequest,
    walk: &mut Walk<'_>,
) -> Result<(), Rejection> {
    for op in branch(request, walk.next()) {
        match &op.request {
            Some(Op::RequestPut(put)) => {
                // The key before the lease: the other way round than a Put of its own.
                let keeps = put.ignore_value || put.ignore_lease;
                if keeps && store.get(&put.key, store.current_revision()).is_none() {
                    return Err(Rejection::KeyNotFound);
                }
                check_lease(leases, put.lease)?;
            }
            Some(Op::RequestTxn(nested)) => check_puts(store, leases, nested, walk)?,
            Some(Op::RequestRange(_) | Op::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

pub(super) fn check_ranges(
    store: &Store,
    request: &pb::TxnRequest,
    walk: &mut Walk<'_>,
) -> Result<(), Rejection> {
    for op in branch(request, walk.next()) {
        match &op.request {
            // Only zero means "current" here. Any other number is held against the oldest readable
            // revision, which is -1 as long as nothing was compacted, so that -1 passes until then
            // [observed on 3.4.23].
            Some(Op::RequestRange(range)) if range.revision != 0 => check_readable(store, range.revision)?,
            Some(Op::RequestTxn(nested)) => check_ranges(store, nested, walk)?,
            Some(Op::RequestRange(_) | Op::RequestPut(_) | Op::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

/// A range in a transaction; its header tells the revision of the state it was asked of.
fn push_range<V: View>(
    answer: &mut TxnAnswer,
    view: &V,
    request: &pb::RangeRequest,
) -> Result<(), Rejection> {
    let revision = view.current();
    let at = if request.revision <= 0 { revision } else { request.revision };
    answer.push(OpField::Range, InnerHeader { revision }, &range::select(view, request, at)?)
}

/// A transaction under way. Dropped on the way out of an error, it takes its writes along.
struct Run<'s> {
    txn: WriteTxn<'s>,
    moves: Moves,
    answer: TxnAnswer,
}

impl Run<'_> {
    fn ops(
        &mut self,
        ops: &[pb::RequestOp],
        parent: Option<usize>,
        walk: &mut Walk<'_>,
    ) -> Result<(), Rejection> {
        for op in ops {
            let Self { txn, moves, answer } = self;
            match &op.request {
                Some(Op::RequestRange(request)) => push_range(answer, txn, request)?,
                Some(Op::RequestPut(request)) => {
                    // The put makes this revision, whatever was written before it.
                    let header = InnerHeader { revision: txn.base_revision() + 1 };
                    write::put(txn, moves, request, |put| answer.push(OpField::Put, header, &put))?;
                }
                Some(Op::RequestDeleteRange(request)) => {
                    let (base, changed) = (txn.base_revision(), txn.changed());
                    write::delete_range(txn, moves, request, |delete| {
                        let revision = base + i64::from(changed || 0 < delete.deleted);
                        answer.push(OpField::DeleteRange, InnerHeader { revision }, &delete)
                    })?;
                }
                Some(Op::RequestTxn(request)) => {
                    let succeeded = walk.next();
                    let nested = answer.open(parent, succeeded)?;
                    self.ops(branch(request, succeeded), Some(nested), walk)?;
                    self.answer.close(nested);
                }
                None => return Err(Rejection::KeyNotFound),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "txn_tests.rs"]
mod tests;
