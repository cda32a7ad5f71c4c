//! One put or one range deletion, alone or inside a transaction.
//!
//! The answer is made before the write, from the store's own bytes of what the write supersedes, so
//! that `prev_kv` costs no copy but the one into the answer.

use super::encode::{DeleteAnswer, PutAnswer, Shown};
use super::moves::Moves;
use super::range;
use crate::mvcc::WriteTxn;
use crate::pb::etcdserverpb as pb;
use crate::request::Rejection;
use crate::types::KeyRange;

/// Writes a version of the key; the caller has checked the lease. `answer` gets what the caller is
/// to be told; when it fails, so does the put. `moves` takes effect when the transaction does.
pub(super) fn put<T>(
    txn: &mut WriteTxn<'_>,
    moves: &mut Moves,
    request: &pb::PutRequest,
    answer: impl FnOnce(PutAnswer<'_>) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    if request.key.is_empty() {
        return Err(Rejection::KeyEmpty);
    }
    let keeps = request.ignore_value || request.ignore_lease;
    if !keeps && !request.prev_kv {
        let written = txn.put(&request.key, &request.value, request.lease);
        moves.on_put(&request.key, written.previous_lease, request.lease);
        moves.on_superseded(written.previous_expiring);
        return answer(PutAnswer { previous: None });
    }
    let previous = txn.get(&request.key, txn.revision());
    if keeps && previous.is_none() {
        return Err(Rejection::KeyNotFound);
    }
    let answered = answer(PutAnswer { previous: previous.filter(|_| request.prev_kv) })?;
    let kept_lease = previous.filter(|_| request.ignore_lease).map(|kv| kv.lease);
    // The store may move its bytes while it writes, so the kept value is copied out first.
    let kept_value = previous.filter(|_| request.ignore_value).map(|kv| kv.value.to_vec());
    let value = kept_value.as_deref().unwrap_or(&request.value);
    let lease = kept_lease.unwrap_or(request.lease);
    let written = txn.put(&request.key, value, lease);
    moves.on_put(&request.key, written.previous_lease, lease);
    moves.on_superseded(written.previous_expiring);
    Ok(answered)
}

/// Deletes the keys of the range. `moves` and `answer` as in `put`.
pub(super) fn delete_range<T>(
    txn: &mut WriteTxn<'_>,
    moves: &mut Moves,
    request: &pb::DeleteRangeRequest,
    answer: impl FnOnce(DeleteAnswer<'_>) -> Result<T, Rejection>,
) -> Result<T, Rejection> {
    if request.key.is_empty() {
        return Err(Rejection::KeyEmpty);
    }
    let keys = KeyRange::new(&request.key, &request.range_end);
    if !request.prev_kv {
        let deleted = txn.delete_range(keys, |kv| moves.on_delete(&kv));
        return answer(DeleteAnswer { deleted, previous: Vec::new() });
    }
    let previous = range::first(txn.scan(keys, txn.revision()), usize::MAX, Shown::ALL)?;
    let told = previous.len() as u64;
    let answered = answer(DeleteAnswer { deleted: told, previous })?;
    let deleted = txn.delete_range(keys, |kv| moves.on_delete(&kv));
    assert!(deleted == told, "deleted {deleted} keys after telling of {told}");
    Ok(answered)
}
