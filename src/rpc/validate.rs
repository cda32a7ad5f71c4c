//! Every check of a KV or lease request that needs no state, in etcd's order.
//!
//! What passes here may still be refused when it is applied (an unknown lease, a compacted
//! revision); what fails here never reaches the log.
//!
//! Cost: a transaction of n operations costs O(n log² n) whatever its nesting; one of a single
//! operation allocates nothing. Recursion is bounded by `TXN_DEPTH_MAX`.
//! Compatibility: etcd 3.7, its blind spots in the duplicate check included (`BranchKeys`).

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Url;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::rpc::status::{self, Status};
use crate::types::limits::{LEASE_TTL_MAX_S, TXN_DEPTH_MAX};

/// What etcd adds to a request before it holds it against `--max-request-bytes`: a header with a
/// nine-byte request id (13 bytes) and the request's own tag and length (4 bytes at this size).
/// A body of 1 572 847 bytes is the largest that passes the default bound [observed on 3.4.23].
pub const REQUEST_OVERHEAD_BYTES: u32 = 17;

/// Whether a request of this many bytes may go through consensus.
pub fn request_bytes(body_bytes: usize, bytes_max: u32) -> Result<(), Status> {
    if body_bytes.saturating_add(REQUEST_OVERHEAD_BYTES as usize) > bytes_max as usize {
        return Err(status::REQUEST_TOO_LARGE);
    }
    Ok(())
}

pub fn range(request: &pb::RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(status::KEY_EMPTY);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(status::INVALID_SORT_OPTION);
    }
    Ok(())
}

/// A stream sends keys as it finds them, so it knows key order only and filters nothing.
pub fn range_stream(request: &pb::RangeRequest) -> Result<(), Status> {
    range(request)?;
    let natural = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !natural {
        return Err(status::RANGE_STREAM_SORT);
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters != [0; 4] {
        return Err(status::RANGE_STREAM_FILTER);
    }
    Ok(())
}

pub fn put(request: &pb::PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(status::KEY_EMPTY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(status::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(status::LEASE_PROVIDED);
    }
    Ok(())
}

pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(status::KEY_EMPTY);
    }
    Ok(())
}

pub fn lease_grant(request: &pb::LeaseGrantRequest) -> Result<(), Status> {
    if LEASE_TTL_MAX_S < request.ttl {
        return Err(status::LEASE_TTL_TOO_LARGE);
    }
    Ok(())
}

/// The whole shape first, then duplicate keys, so that an empty key is told before a repeated one.
pub fn txn(request: &pb::TxnRequest, ops_max: u32) -> Result<(), Status> {
    txn_shape(request, ops_max as usize, TXN_DEPTH_MAX)?;
    for branch in [&request.success, &request.failure] {
        if !is_trivially_free_of_duplicates(branch) {
            BranchKeys::of(branch)?;
        }
    }
    Ok(())
}

fn txn_shape(request: &pb::TxnRequest, ops_max: usize, depth_left: u32) -> Result<(), Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    // What this level uses is lost to each transaction inside it, not to its siblings.
    let Some(ops_left) = ops_max.checked_sub(ops) else {
        return Err(status::TOO_MANY_OPS);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(status::KEY_EMPTY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Op::RequestRange(inner)) => range(inner)?,
            Some(Op::RequestPut(inner)) => put(inner)?,
            Some(Op::RequestDeleteRange(inner)) => delete_range(inner)?,
            // The stack is finite. A decoded message never gets here: prost stops at depth 50.
            Some(Op::RequestTxn(_)) if depth_left == 0 => return Err(status::TOO_MANY_OPS),
            Some(Op::RequestTxn(inner)) => txn_shape(inner, ops_left, depth_left - 1)?,
            None => return Err(status::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// The common branches: reads only, deletes only, one put alone. No set is built for them.
fn is_trivially_free_of_duplicates(branch: &[pb::RequestOp]) -> bool {
    let (mut puts, mut deletes) = (0, 0);
    for op in branch {
        match op.request {
            Some(Op::RequestPut(_)) => puts += 1,
            Some(Op::RequestDeleteRange(_)) => deletes += 1,
            Some(Op::RequestTxn(_)) => return false,
            Some(Op::RequestRange(_)) | None => {}
        }
    }
    puts == 0 || (puts == 1 && deletes == 0)
}

/// The keys that one list of operations writes, nested transactions included.
///
/// Two writes of one key in one transaction are refused when one of them is a put, but not always:
/// - the two branches of one nested transaction may touch the same key, only one of them runs;
/// - a delete in a nested transaction is held against puts of *later* siblings, not of earlier ones
///   [observed on 3.4.23];
/// - a delete whose `range_end` is not above its key, which includes `\0`, "to the end", covers
///   nothing here [observed on 3.4.23].
///
/// So a transaction that passes may still write a key twice, and the store has to cope.
#[derive(Default)]
struct BranchKeys<'a> {
    puts: BTreeSet<&'a [u8]>,
    deleted_keys: BTreeSet<&'a [u8]>,
    /// Start → end of deleted ranges, not empty, disjoint and not touching each other.
    deleted_ranges: BTreeMap<&'a [u8], &'a [u8]>,
}

impl<'a> BranchKeys<'a> {
    /// Fails with `DUPLICATE_KEY`, whichever pair it is.
    fn of(branch: &'a [pb::RequestOp]) -> Result<Self, Status> {
        let mut keys = Self::default();
        for op in branch {
            if let Some(Op::RequestDeleteRange(delete)) = &op.request {
                keys.insert_delete(delete);
            }
        }
        for op in branch {
            if let Some(Op::RequestTxn(txn)) = &op.request {
                let success = Self::of(&txn.success)?;
                let failure = Self::of(&txn.failure)?;
                keys.check_puts(&success)?;
                keys.check_puts(&failure)?;
                keys.merge(success);
                keys.merge(failure);
            }
        }
        for op in branch {
            if let Some(Op::RequestPut(put)) = &op.request {
                let key = &*put.key;
                if keys.is_deleted(key) || !keys.puts.insert(key) {
                    return Err(status::DUPLICATE_KEY);
                }
            }
        }
        Ok(keys)
    }

    fn insert_delete(&mut self, delete: &'a pb::DeleteRangeRequest) {
        let (key, end) = (&*delete.key, &*delete.range_end);
        if end.is_empty() {
            self.deleted_keys.insert(key);
        } else if key < end {
            self.insert_range(key, end);
        }
    }

    fn insert_range(&mut self, start: &'a [u8], end: &'a [u8]) {
        let (mut start, mut end) = (start, end);
        // From the right, swallow every range that reaches into [start, end].
        while let Some((&other_start, &other_end)) = self.deleted_ranges.range(..=end).next_back() {
            if other_end < start {
                break;
            }
            self.deleted_ranges.remove(other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.deleted_ranges.insert(start, end);
    }

    fn is_deleted(&self, key: &[u8]) -> bool {
        self.deleted_keys.contains(key)
            || self.deleted_ranges.range(..=key).next_back().is_some_and(|(_, &end)| key < end)
    }

    /// Holds the puts of a nested branch against everything seen so far. Always walks the smaller
    /// side: together with `merge` that keeps deep nests from costing n per level.
    fn check_puts(&self, nested: &Self) -> Result<(), Status> {
        let puts = &nested.puts;
        let twice = intersects(puts, &self.puts)
            || intersects(puts, &self.deleted_keys)
            || if puts.len() <= self.deleted_ranges.len() {
                puts.iter().any(|key| self.is_deleted(key))
            } else {
                self.deleted_ranges.iter().any(|(&start, &end)| puts.range(start..end).next().is_some())
            };
        if twice { Err(status::DUPLICATE_KEY) } else { Ok(()) }
    }

    fn merge(&mut self, mut nested: Self) {
        merge_smaller(&mut self.puts, nested.puts);
        merge_smaller(&mut self.deleted_keys, nested.deleted_keys);
        if self.deleted_ranges.len() < nested.deleted_ranges.len() {
            std::mem::swap(&mut self.deleted_ranges, &mut nested.deleted_ranges);
        }
        for (start, end) in nested.deleted_ranges {
            self.insert_range(start, end);
        }
    }
}

fn intersects(a: &BTreeSet<&[u8]>, b: &BTreeSet<&[u8]>) -> bool {
    let (small, large) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    small.iter().any(|key| large.contains(key))
}

fn merge_smaller<'a>(into: &mut BTreeSet<&'a [u8]>, mut from: BTreeSet<&'a [u8]>) {
    if into.len() < from.len() {
        std::mem::swap(into, &mut from);
    }
    into.extend(from);
}

/// A new member's peer URLs: at least one, each one that can be dialed.
pub fn member_add(request: &pb::MemberAddRequest) -> Result<(), Status> {
    let is_url = |text: &String| Url::parse(text).is_ok();
    if request.peer_ur_ls.is_empty() || !request.peer_ur_ls.iter().all(is_url) {
        return Err(status::BAD_MEMBER_URLS);
    }
    Ok(())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
