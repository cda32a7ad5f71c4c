//! Large writes, prepared in slices and made visible at once.
//!
//! A request that touches more than `SHORT_KEYS_MAX` keys is not applied in one go. Its changes are made slice by
//! slice in a suspended transaction (`mvcc::txn`), which nobody sees: reads see the revision before. The last slice
//! commits, and from then on all of it is there. A request that fails half way is taken back in slices, too.
//! Meanwhile nothing behind it in the log is applied.
//!
//! The outcome is the one that applying in one piece has, byte by byte, so it is no matter which member does
//! what in slices. What is prepared is in memory alone: a crash leaves nothing of it, and the log has it whole.
//!
//! The answer of a transaction, and the previous versions that a deletion tells, are put together in memory,
//! as those of small ones are.

use std::ops::ControlFlow;

use super::encode::{
    InnerHeader, OpField, Shown, TxnAnswer, check_answer_bytes, count_field, header_len, kv_len, put_header,
    put_kv_field,
};
use super::long_read::List;
use super::moves::Moves;
use super::node_removal::Removals;
use super::txn::{self, Path};
use super::write;
use crate::directory::{Deadlines, Directories};
use crate::lease::{AttachedCursor, Change, Lease, Table};
use crate::mvcc::{Cursor, KEYS_AHEAD, KeyValueRef, Mark, ReadPin, Store, Suspended, WriteTxn};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::request::{Outcome, Rejection, Response};
use crate::types::limits::KEY_NS;
use crate::types::proto::{int_field_len, message_field_len, put_int_field};
use crate::types::{KeyRange, LeaseId, Slice};

/// To ask a lease for what hangs on it costs no more than to look at so many keys' versions.
const LEASES_PER_KEY: u64 = 4;

/// A write under way.
#[derive(Debug)]
pub(super) struct Preparation {
    work: Work,
    /// The transaction, as long as it is open.
    suspended: Option<Suspended>,
    /// Keeps what is readable readable for the write's own ranges.
    pin: ReadPin,
}

#[derive(Debug)]
enum Work {
    Operations(Box<Operations>),
    Revoke(Revoke),
    /// Each lease is a revision of its own.
    Expire {
        meant: std::vec::IntoIter<LeaseId>,
        mark: Mark,
        owed_keys_min: u64,
        revoke: Option<Revoke>,
    },
    /// Its transactions are its own, and it does not fail.
    Nodes(Box<Removals>),
    /// It failed; what it wrote is taken back.
    RollBack {
        rejection: Rejection,
        moves: Moves,
    },
}

/// A lease on its way out, with the keys that are not deleted yet.
#[derive(Debug)]
struct Revoke {
    id: LeaseId,
    lease: Lease,
    /// Whether so many keys go that their records are owed.
    owes: bool,
    /// Keys that go next; empty between two slices.
    keys: Vec<Box<[u8]>>,
}

/// A deletion, or a transaction.
#[derive(Debug)]
struct Operations {
    /// Comparisons that are not decided yet.
    decide: Option<Decide>,
    steps: std::vec::IntoIter<Step>,
    now: Now,
    moves: Moves,
    /// A deletion of so many keys owes their records.
    owed_keys_min: u64,
    answer: Answer,
    /// Open nested responses, outer ones first.
    nested: Vec<usize>,
}

#[derive(Debug)]
enum Answer {
    /// A deletion's own.
    Delete(Vec<u8>),
    Txn(TxnAnswer),
}

/// One operation, in the order in which they are carried out.
#[derive(Debug)]
enum Step {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Open {
        succeeded: bool,
    },
    Close,
    /// An operation that names nothing.
    Nothing,
}

/// The operation under way.
#[derive(Debug)]
enum Now {
    Nothing,
    Range { list: Box<List>, header: InnerHeader, is_measured: bool },
    Delete(Box<Delete>),
}

#[derive(Debug)]
struct Delete {
    request: pb::DeleteRangeRequest,
    /// Finds the keys that hang on a lease, by the leases; `None`: every version is looked at.
    attached: Option<AttachedCursor>,
    /// Whether so many keys go that their records are owed.
    owes: bool,
    cursor: Cursor,
    /// Whether previous versions are still to be measured.
    is_measuring: bool,
    count: u64,
    previous_bytes: u64,
    deleted: u64,
    /// As the transaction stood before it.
    base: i64,
    changed: bool,
}

/// Decides the comparisons of a transaction and of those inside it.
#[derive(Debug)]
struct Decide {
    request: pb::TxnRequest,
    /// From the outermost in: the transaction that is looked at.
    stack: Vec<Frame>,
    decisions: Vec<bool>,
}

#[derive(Debug)]
struct Frame {
    request: pb::TxnRequest,
    /// Comparisons that hold.
    compared: usize,
    cursor: Cursor,
    /// Whether the comparison at hand has met a key.
    has_key: bool,
    succeeded: Option<bool>,
    /// Operations of the branch that were looked at.
    looked_at: usize,
}

/// What a slice came to.
enum Progress {
    Spent,
    Done,
}

impl Preparation {
    fn new(store: &mut Store, work: Work) -> Self {
        let pin = store.pin(store.compact_revision());
        Self { work, suspended: None, pin }
    }

    fn operations(store: &mut Store, operations: Operations) -> Self {
        Self::new(store, Work::Operations(Box::new(operations)))
    }

    pub(super) fn delete(store: &mut Store, request: pb::DeleteRangeRequest, owed_keys_min: u64) -> Self {
        let operations = Operations {
            decide: None,
            steps: vec![Step::Delete(request)].into_iter(),
            now: Now::Nothing,
            moves: Moves::default(),
            owed_keys_min,
            answer: Answer::Delete(Vec::new()),
            nested: Vec::new(),
        };
        Self::operations(store, operations)
    }

    pub(super) fn txn(store: &mut Store, request: pb::TxnRequest, owed_keys_min: u64) -> Self {
        let decide = Decide { stack: vec![Frame::new(request.clone())], request, decisions: Vec::new() };
        let operations = Operations {
            decide: Some(decide),
            steps: Vec::new().into_iter(),
            now: Now::Nothing,
            moves: Moves::default(),
            owed_keys_min,
            answer: Answer::Delete(Vec::new()),
            nested: Vec::new(),
        };
        Self::operations(store, operations)
    }

    pub(super) fn revoke(store: &mut Store, id: LeaseId, lease: Lease, owed_keys_min: u64) -> Self {
        Self::new(store, Work::Revoke(Revoke::new(id, lease, owed_keys_min)))
    }

    /// `mark`: what v2 tells of the deletions.
    pub(super) fn expire(store: &mut Store, meant: Vec<LeaseId>, mark: Mark, owed_keys_min: u64) -> Self {
        Self::new(store, Work::Expire { meant: meant.into_iter(), mark, owed_keys_min, revoke: None })
    }

    pub(super) fn removals(store: &mut Store, removals: Removals) -> Self {
        Self::new(store, Work::Nodes(Box::new(removals)))
    }

    /// Goes on. The request's outcome when it has one.
    pub(super) fn slice(
        &mut self,
        store: &mut Store,
        (leases, directories): (&mut Table, &mut Directories),
        lease_changes: &mut Vec<Change>,
        slice: &mut Slice,
        announce: &mut impl FnMut(&Store, &mut Slice) -> bool,
    ) -> Option<Outcome> {
        let Self { work, suspended, pin } = self;
        match work {
            Work::Operations(operations) => {
                let open = suspended.take().unwrap_or_else(|| store.begin().suspend());
                let deadlines = &mut directories.deadlines;
                let (txn, result) = operations.slice(store, open, (leases, deadlines), pin, slice);
                match result {
                    Ok(Progress::Spent) => *suspended = Some(txn),
                    Ok(Progress::Done) if !announce(store, slice) => *suspended = Some(txn),
                    Ok(Progress::Done) => {
                        let revision = store.resume(txn).commit();
                        let body = match std::mem::replace(&mut operations.answer, Answer::Delete(Vec::new()))
                        {
                            Answer::Delete(body) => body,
                            Answer::Txn(answer) => answer.into_body(),
                        };
                        return Some(Ok(Response { revision, body, resume: None }));
                    }
                    Err(rejection) => {
                        *suspended = Some(txn);
                        let moves = std::mem::take(&mut operations.moves);
                        *work = Work::RollBack { rejection, moves };
                    }
                }
            }
            Work::Revoke(revoke) => {
                let open = suspended.take().unwrap_or_else(|| store.begin().suspend());
                let mut txn = store.resume(open);
                let is_whole = revoke.slice(&mut txn, Mark::default(), slice);
                let open = txn.suspend();
                if !is_whole || !announce(store, slice) {
                    *suspended = Some(open);
                    return None;
                }
                let revision = store.resume(open).commit();
                lease_changes.push(Change::Revoked { id: revoke.id });
                return Some(Ok(Response { revision, ..Response::default() }));
            }
            Work::Expire { meant, mark, owed_keys_min, revoke } => loop {
                if revoke.is_none() {
                    let Some(id) = meant.next() else {
                        let revision = store.current_revision();
                        return Some(Ok(Response { revision, ..Response::default() }));
                    };
                    // The same lease may be named twice.
                    *revoke = leases.revoke(id).map(|lease| Revoke::new(id, lease, *owed_keys_min));
                }
                slice.spend_key();
                let Some(going) = revoke else { continue };
                let open = suspended.take().unwrap_or_else(|| store.begin().suspend());
                let mut txn = store.resume(open);
                let is_whole = going.slice(&mut txn, *mark, slice);
                let open = txn.suspend();
                if !is_whole || !announce(store, slice) {
                    *suspended = Some(open);
                    return None;
                }
                store.resume(open).commit();
                lease_changes.push(Change::Revoked { id: going.id });
                *revoke = None;
            },
            Work::Nodes(removals) => {
                return removals.slice(store, (leases, directories), slice, announce).map(Ok);
            }
            Work::RollBack { rejection, moves } => {
                let txn = suspended.as_mut().expect("what failed is still open");
                if moves.forget_slice(slice) && store.roll_back_slice(txn, slice) {
                    *suspended = None;
                    return Some(Err(rejection.clone()));
                }
            }
        }
        None
    }

    /// Gives up what it pins.
    pub(super) fn end(self, store: &mut Store) {
        assert!(self.suspended.is_none(), "a write ends committed or rolled back");
        store.unpin(self.pin);
    }
}

impl Revoke {
    fn new(id: LeaseId, lease: Lease, owed_keys_min: u64) -> Self {
        let owes = owed_keys_min <= lease.keys().len() as u64;
        Self { id, lease, owes, keys: Vec::new() }
    }

    /// Deletes keys. True when there are no more.
    fn slice(&mut self, txn: &mut WriteTxn<'_>, mark: Mark, slice: &mut Slice) -> bool {
        let Self { lease, owes, keys, .. } = self;
        while !slice.is_spent() {
            if *owes {
                let count = KEYS_AHEAD.min(slice.units_left(KEY_NS));
                keys.extend(std::iter::from_fn(|| lease.take_key()).take(count));
                if keys.is_empty() {
                    return true;
                }
                slice.spend(keys.len() as u64 * KEY_NS);
                txn.bury_keys(keys, mark);
                keys.clear();
            } else {
                let Some(key) = lease.take_key() else { return true };
                slice.spend_key();
                let deleted = txn.delete_marked(KeyRange::One(&key), mark, |_| ());
                assert!(deleted == 1, "a key attached to a lease is not there");
            }
        }
        false
    }
}

impl Operations {
    fn slice(
        &mut self,
        store: &mut Store,
        suspended: Suspended,
        (leases, deadlines): (&mut Table, &mut Deadlines),
        pin: &ReadPin,
        slice: &mut Slice,
    ) -> (Suspended, Result<Progress, Rejection>) {
        match self.decide(store, leases, pin, slice) {
            Ok(Progress::Done) => {}
            other => return (suspended, other),
        }
        let mut txn = store.resume(suspended);
        let result = self.carry_out(&mut txn, (leases, deadlines), pin, slice);
        let suspended = txn.suspend();
        let result = result.map(|progress| match progress {
            // Whoever reads leases waits for this request, too.
            Progress::Done if self.moves.commit_slice(leases, deadlines, slice) => Progress::Done,
            _ => Progress::Spent,
        });
        (suspended, result)
    }

    /// Decides what is to be done, and whether it may be.
    fn decide(
        &mut self,
        store: &Store,
        leases: &Table,
        pin: &ReadPin,
        slice: &mut Slice,
    ) -> Result<Progress, Rejection> {
        if let Some(decide) = &mut self.decide {
            if !decide.slice(store, pin, slice) {
                return Ok(Progress::Spent);
            }
            let (request, path) = (&decide.request, Path::of(std::mem::take(&mut decide.decisions)));
            txn::check_puts(store, leases, request, &mut path.walk())?;
            txn::check_ranges(store, request, &mut path.walk())?;
            let (mut steps, mut walk) = (Vec::new(), path.walk());
            let succeeded = walk.next();
            flatten(txn::branch(request, succeeded), &mut walk, &mut steps);
            self.answer = Answer::Txn(TxnAnswer::new(succeeded));
            self.steps = steps.into_iter();
            self.decide = None;
        }
        Ok(Progress::Done)
    }

    fn carry_out(
        &mut self,
        txn: &mut WriteTxn<'_>,
        (leases, deadlines): (&Table, &Deadlines),
        pin: &ReadPin,
        slice: &mut Slice,
    ) -> Result<Progress, Rejection> {
        loop {
            let is_done = match &mut self.now {
                Now::Nothing => true,
                Now::Range { list, header, is_measured } => {
                    let Answer::Txn(answer) = &mut self.answer else {
                        unreachable!("a deletion of its own has no range")
                    };
                    range_slice(list, *header, is_measured, (txn, pin), answer, slice)?
                }
                Now::Delete(delete) => {
                    delete.slice((txn, leases), pin, &mut self.moves, &mut self.answer, slice)?
                }
            };
            if is_done {
                self.now = Now::Nothing;
            }
            if slice.is_spent() || !is_done {
                return Ok(Progress::Spent);
            }
            let Some(step) = self.steps.next() else { return Ok(Progress::Done) };
            slice.spend_key();
            self.begin(step, txn, (leases, deadlines))?;
        }
    }

    /// Begins a step; most are over at once.
    fn begin(
        &mut self,
        step: Step,
        txn: &mut WriteTxn<'_>,
        (leases, deadlines): (&Table, &Deadlines),
    ) -> Result<(), Rejection> {
        let Self { answer, moves, nested, owed_keys_min, .. } = self;
        match (step, answer) {
            (Step::Delete(request), _) => {
                if request.key.is_empty() {
                    return Err(Rejection::KeyEmpty);
                }
                let count = txn.store().count_now(KeyRange::new(&request.key, &request.range_end));
                // The leases know what hangs on them, unless something is just being moved.
                let is_known = moves.is_empty() && deadlines.table().is_empty();
                let is_cheaper = leases.len() as u64 <= count / LEASES_PER_KEY;
                let by_leases = is_known && is_cheaper && !request.prev_kv;
                self.now = Now::Delete(Box::new(Delete {
                    attached: by_leases.then(AttachedCursor::default),
                    owes: *owed_keys_min <= count,
                    is_measuring: request.prev_kv,
                    request,
                    cursor: Cursor::default(),
                    count: 0,
                    previous_bytes: 0,
                    deleted: 0,
                    base: txn.base_revision(),
                    changed: txn.changed(),
                }));
            }
            (Step::Range(request), _) => {
                let revision = txn.revision();
                let at = if request.revision <= 0 { revision } else { request.revision };
                let list = Box::new(List::new(txn.store(), request, at)?);
                self.now = Now::Range { list, header: InnerHeader { revision }, is_measured: false };
            }
            (Step::Put(request), Answer::Txn(answer)) => {
                let header = InnerHeader { revision: txn.base_revision() + 1 };
                write::put(txn, moves, &request, |put| answer.push(OpField::Put, header, &put))?;
            }
            (Step::Open { succeeded }, Answer::Txn(answer)) => {
                nested.push(answer.open(nested.last().copied(), succeeded)?);
            }
            (Step::Close, Answer::Txn(answer)) => answer.close(nested.pop().expect("it was opened")),
            (Step::Nothing, _) => return Err(Rejection::KeyNotFound),
            (_, Answer::Delete(_)) => unreachable!("a deletion of its own is one step"),
        }
        Ok(())
    }
}

/// A range inside a transaction. True when it is answered.
fn range_slice(
    list: &mut List,
    header: InnerHeader,
    is_measured: &mut bool,
    (txn, pin): (&WriteTxn<'_>, &ReadPin),
    answer: &mut TxnAnswer,
    slice: &mut Slice,
) -> Result<bool, Rejection> {
    if !*is_measured {
        if !list.measure(txn.store(), pin, slice)? {
            return Ok(false);
        }
        *is_measured = true;
        let out = answer.push_front(OpField::Range, list.len(Some(header)))?;
        put_header(out, Some(header));
    }
    let is_done = list.write(txn.store(), pin, slice, usize::MAX, answer.rest());
    if is_done {
        list.write_tail(answer.rest());
    }
    Ok(is_done)
}

/// The operations of a branch in the order in which they are carried out.
fn flatten(ops: &[pb::RequestOp], walk: &mut txn::Walk<'_>, steps: &mut Vec<Step>) {
    for op in ops {
        match &op.request {
            Some(Op::RequestRange(request)) => steps.push(Step::Range(request.clone())),
            Some(Op::RequestPut(request)) => steps.push(Step::Put(request.clone())),
            Some(Op::RequestDeleteRange(request)) => steps.push(Step::Delete(request.clone())),
            Some(Op::RequestTxn(request)) => {
                let succeeded = walk.next();
                steps.push(Step::Open { succeeded });
                flatten(txn::branch(request, succeeded), walk, steps);
                steps.push(Step::Close);
            }
            None => steps.push(Step::Nothing),
        }
    }
}

impl Delete {
    /// True when all is deleted and answered.
    fn slice(
        &mut self,
        (txn, leases): (&mut WriteTxn<'_>, &Table),
        pin: &ReadPin,
        moves: &mut Moves,
        answer: &mut Answer,
        slice: &mut Slice,
    ) -> Result<bool, Rejection> {
        let Self { request, attached, owes, cursor, is_measuring, count, previous_bytes, deleted, .. } = self;
        let keys = KeyRange::new(&request.key, &request.range_end);
        if *is_measuring {
            let at = txn.revision();
            let is_at_end = txn.store().scan_slice((pin, at), keys, cursor, slice, |_, kv, _| {
                *count += 1;
                *previous_bytes += message_field_len(kv_len(&kv, Shown::ALL)) as u64;
                if check_answer_bytes(*previous_bytes).is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            });
            check_answer_bytes(*previous_bytes)?;
            if !is_at_end {
                return Ok(false);
            }
            (*is_measuring, *cursor) = (false, Cursor::default());
            self.answer_front(answer)?;
            return self.slice((txn, leases), pin, moves, answer, slice);
        }
        if let Some(attached) = attached
            && !leases.attached_slice(keys, attached, slice, |lease, key| moves.on_detach(key, lease))
        {
            return Ok(false);
        }
        let tells_previous = request.prev_kv;
        let out = match answer {
            Answer::Delete(out) => out,
            Answer::Txn(answer) => answer.rest(),
        };
        let mut copied = 0;
        let mut see = |kv: KeyValueRef<'_>| {
            moves.on_delete(&kv);
            if tells_previous {
                copied += kv.value.len();
                put_kv_field(out, 3, &kv, Shown::ALL);
            }
        };
        let mark = Mark::default();
        let (now, is_done) = if !*owes {
            let is_seen = attached.is_none();
            txn.delete_slice(keys, mark, cursor, slice, |kv| {
                if is_seen {
                    see(kv);
                }
            })
        } else if attached.is_none() {
            txn.bury_slice(keys, mark, cursor, slice, Some(&mut see))
        } else {
            txn.bury_slice(keys, mark, cursor, slice, None::<fn(KeyValueRef<'_>)>)
        };
        slice.spend_bytes(copied);
        *deleted += now;
        if is_done && !tells_previous {
            *count = *deleted;
            self.answer_front(answer)?;
        }
        assert!(
            !is_done || self.count == self.deleted,
            "deleted {} keys after telling of {}",
            self.deleted,
            self.count
        );
        Ok(is_done)
    }

    /// Writes the answer up to the previous versions.
    fn answer_front(&self, answer: &mut Answer) -> Result<(), Rejection> {
        let count = count_field(self.count);
        let previous_bytes =
            usize::try_from(self.previous_bytes).expect("checked against what a message holds");
        let revision = self.base + i64::from(self.changed || 0 < self.count);
        let header = matches!(answer, Answer::Txn(_)).then_some(InnerHeader { revision });
        let bytes = header_len(header) + int_field_len(count) + previous_bytes;
        let out = match answer {
            Answer::Delete(out) => {
                check_answer_bytes(bytes as u64)?;
                out.reserve_exact(bytes);
                out
            }
            Answer::Txn(answer) => answer.push_front(OpField::DeleteRange, bytes)?,
        };
        put_header(out, header);
        put_int_field(out, 2, count);
        Ok(())
    }
}

impl Decide {
    /// True when all on the way is decided.
    fn slice(&mut self, store: &Store, pin: &ReadPin, slice: &mut Slice) -> bool {
        while let Some(frame) = self.stack.last_mut() {
            if slice.is_spent() {
                return false;
            }
            let Some(succeeded) = frame.succeeded else {
                frame.compare(store, pin, slice);
                self.decisions.extend(frame.succeeded);
                continue;
            };
            let branch = txn::branch(&frame.request, succeeded);
            let nested = branch[frame.looked_at..].iter().find_map(|op| {
                frame.looked_at += 1;
                match &op.request {
                    Some(Op::RequestTxn(nested)) => Some(nested.clone()),
                    _ => None,
                }
            });
            match nested {
                Some(nested) => self.stack.push(Frame::new(nested)),
                None => drop(self.stack.pop()),
            }
        }
        true
    }
}

impl Frame {
    fn new(request: pb::TxnRequest) -> Self {
        Self {
            request,
            compared: 0,
            cursor: Cursor::default(),
            has_key: false,
            succeeded: None,
            looked_at: 0,
        }
    }

    /// Goes on with the comparison at hand.
    fn compare(&mut self, store: &Store, pin: &ReadPin, slice: &mut Slice) {
        let Some(compare) = self.request.compare.get(self.compared) else {
            self.succeeded = Some(true);
            return;
        };
        let holds = if compare.range_end.is_empty() {
            slice.spend_key();
            txn::holds(store, compare)
        } else {
            let keys = KeyRange::new(&compare.key, &compare.range_end);
            let (mut all_hold, at) = (true, store.current_revision());
            let is_at_end = store.scan_slice((pin, at), keys, &mut self.cursor, slice, |_, kv, _| {
                self.has_key = true;
                all_hold = txn::holds_for(compare, &kv);
                if all_hold { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            if all_hold && !is_at_end {
                return; // more in the next slice
            }
            all_hold && (self.has_key || txn::holds_for_missing(compare))
        };
        (self.cursor, self.has_key) = (Cursor::default(), false);
        self.compared += 1;
        if !holds {
            self.succeeded = Some(false);
        }
    }
}

/// Keys that a transaction may look at besides those it names one by one.
pub(super) fn keys_max(store: &Store, request: &pb::TxnRequest) -> u64 {
    let count = |key: &[u8], range_end: &[u8]| match range_end {
        [] => 1,
        _ => store.count_now(KeyRange::new(key, range_end)),
    };
    let compared = request.compare.iter().map(|compare| count(&compare.key, &compare.range_end));
    let ops = request.success.iter().chain(&request.failure).map(|op| match &op.request {
        // At an older revision it looks at deleted keys, too.
        Some(Op::RequestRange(range)) if 0 < range.revision && !range.range_end.is_empty() => u64::MAX,
        Some(Op::RequestRange(range)) => count(&range.key, &range.range_end),
        Some(Op::RequestDeleteRange(delete)) => count(&delete.key, &delete.range_end),
        Some(Op::RequestTxn(nested)) => keys_max(store, nested),
        Some(Op::RequestPut(_)) | None => 1,
    });
    compared.chain(ops).fold(0, u64::saturating_add)
}

#[cfg(test)]
#[path = "preparation_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "preparation_cost_tests.rs"]
mod cost;
