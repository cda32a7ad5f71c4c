//! Range: which keys, in which order, how many of them.
//!
//! Cost: one key O(log keys). A page in key order O(log keys + page), its count included: the scan
//! stops behind the page and the index counts the rest. Any other order has to look at every key of
//! the range, but keeps no more of them than twice the limit.
//! Compatibility: etcd 3.7 to the letter, its quirk about an order without a direction included.
//! Keys that tie are left in key order, in both directions, where etcd promises nothing.

use std::cmp::Ordering;

use bytes::Bytes;

use super::encode::{Encode as _, Found, RangeAnswer, Shown, check_answer_bytes, kv_len};
use super::view::{View, check_readable};
use crate::mvcc::{KeyValueRef, Store};
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::request::{Outcome, RangeSlice, Rejection, Response};
use crate::types::KeyRange;
use crate::types::limits::{SHORT_BYTES_MAX, SHORT_KEYS_MAX};
use crate::types::proto::message_field_len;

/// Answers a Range of its own.
pub(super) fn answer(store: &Store, request: &pb::RangeRequest) -> Outcome {
    let at = readable_revision(store, request.revision)?;
    let body = select(store, request, at)?.to_body()?;
    // The header speaks of now, also when the read is of long ago.
    Ok(Response { revision: store.current_revision(), body, resume: None })
}

/// Answers a Range of its own that is answered in one piece: it looks at `SHORT_KEYS_MAX` keys at most, and
/// takes no more than `SHORT_BYTES_MAX`. `None`: it may not, and is a `LongRead`.
pub(super) fn answer_short(store: &Store, request: &pb::RangeRequest) -> Option<Outcome> {
    let at = match readable_revision(store, request.revision) {
        Ok(at) => at,
        Err(rejection) => return Some(Err(rejection)),
    };
    keys_visited_max(store, request, at).filter(|&keys| keys <= SHORT_KEYS_MAX)?;
    match select(store, request, at) {
        Ok(answer) => {
            let body = answer.to_short_body(SHORT_BYTES_MAX)?;
            Some(Ok(Response { revision: store.current_revision(), body, resume: None }))
        }
        Err(rejection) => Some(Err(rejection)),
    }
}

/// Keys that `select` looks at, at most; `None` where that cannot be told.
pub(super) fn keys_visited_max(store: &Store, request: &pb::RangeRequest, at: i64) -> Option<u64> {
    let keys = KeyRange::new(&request.key, &request.range_end);
    if matches!(keys, KeyRange::One(_)) {
        return Some(1);
    }
    // Of an older revision it looks at keys that are deleted, too; while something is written, the current one is
    // no better.
    if at < store.current_revision() || store.is_writing() {
        return None;
    }
    if request.count_only {
        return Some(1);
    }
    let is_sorted =
        request.sort_order > SortOrder::Ascend as i32 || request.sort_target != SortTarget::Key as i32;
    let looks_at_all = is_sorted || request.limit <= 0 || Filter(request).is_active();
    if !looks_at_all && request.limit.unsigned_abs() <= SHORT_KEYS_MAX {
        // The one more that tells whether there are more is not counted.
        return Some(request.limit.unsigned_abs());
    }
    // Values are as long as they are: comparing many is not short.
    let is_costly = request.sort_target == SortTarget::Value as i32;
    let count = store.count(keys, at);
    Some(if is_costly { count.saturating_mul(64) } else { count })
}

/// Zero and negative numbers mean the current revision.
pub(super) fn readable_revision(store: &Store, revision: i64) -> Result<i64, Rejection> {
    if revision <= 0 {
        return Ok(store.current_revision());
    }
    check_readable(store, revision)?;
    Ok(revision)
}

/// Answers the next slice of a RangeStream. The last slice is the first whose answer has no `resume`.
pub(super) fn slice_answer(store: &Store, slice: &RangeSlice) -> Outcome {
    let request = &slice.request;
    let at = readable_revision(store, request.revision)?;
    let revision = store.current_revision();
    if request.count_only {
        let body = select(store, request, at)?.to_body()?;
        return Ok(Response { revision, body, resume: None });
    }
    let limit_left = match u64::try_from(request.limit) {
        Ok(limit) if 0 < limit => limit.saturating_sub(slice.keys_sent),
        _ => u64::MAX,
    };
    let keys_max = u64::from(slice.keys_max.max(1)).min(limit_left);
    let keys_max = usize::try_from(keys_max).unwrap_or(usize::MAX);

    let mut scan = store.scan(KeyRange::new(&slice.start, &request.range_end), at);
    let mut kvs = Vec::new();
    let mut next = None;
    for kv in scan.by_ref() {
        if kvs.len() == keys_max {
            next = Some(kv.key);
            break;
        }
        kvs.push(kv);
    }
    let shown = shown(request);
    let limit_reached = kvs.len() as u64 == limit_left;
    if let (Some(next), false) = (next, limit_reached) {
        let part = RangeAnswer { kvs: Found::Many(kvs), shown, more: false, count: 0 };
        return Ok(Response { revision, body: part.to_body()?, resume: Some(Bytes::copy_from_slice(next)) });
    }
    let count = store.count(KeyRange::new(&request.key, &request.range_end), at);
    let last = RangeAnswer { kvs: Found::Many(kvs), shown, more: next.is_some(), count };
    Ok(Response { revision, body: last.to_body()?, resume: None })
}

/// What `keys_only` leaves out. 3.7 answers it from the index, which knows no leases, unless it had
/// to fetch the values to sort by them.
pub(super) fn shown(request: &pb::RangeRequest) -> Shown {
    if !request.keys_only {
        return Shown::ALL;
    }
    Shown { value: false, lease: request.sort_target == SortTarget::Value as i32 }
}

/// Inclusive bounds on revisions, each active if not zero.
pub(super) struct Filter<'r>(pub(super) &'r pb::RangeRequest);

impl Filter<'_> {
    pub(super) fn is_active(&self) -> bool {
        let request = self.0;
        (request.min_mod_revision | request.max_mod_revision) != 0
            || (request.min_create_revision | request.max_create_revision) != 0
    }

    pub(super) fn passes(&self, kv: &KeyValueRef<'_>) -> bool {
        let within = |min: i64, max: i64, revision: i64| {
            (min == 0 || min <= revision) && (max == 0 || revision <= max)
        };
        within(self.0.min_mod_revision, self.0.max_mod_revision, kv.mod_revision)
            && within(self.0.min_create_revision, self.0.max_create_revision, kv.create_revision)
    }
}

/// In which order, by what.
pub(super) fn sort_options(request: &pb::RangeRequest) -> Result<(SortOrder, SortTarget), Rejection> {
    let unknown = |_| Rejection::SortOption { order: request.sort_order, target: request.sort_target };
    let order = SortOrder::try_from(request.sort_order).map_err(unknown)?;
    let target = SortTarget::try_from(request.sort_target).map_err(unknown)?;
    Ok((order, target))
}

/// Evaluates `request` at revision `at`, which the caller has checked.
pub(super) fn select<'v, V: View>(
    view: &'v V,
    request: &'v pb::RangeRequest,
    at: i64,
) -> Result<RangeAnswer<'v>, Rejection> {
    let (order, target) = sort_options(request)?;
    let keys = KeyRange::new(&request.key, &request.range_end);
    let shown = shown(request);
    if request.count_only {
        return Ok(RangeAnswer { kvs: Found::One(None), shown, more: false, count: view.count(keys, at) });
    }
    let filter = Filter(request);
    if let KeyRange::One(key) = keys {
        let kv = view.get(key, at);
        let count = u64::from(kv.is_some());
        return Ok(RangeAnswer {
            kvs: Found::One(kv.filter(|kv| filter.passes(kv))),
            shown,
            more: false,
            count,
        });
    }

    let limit = usize::try_from(request.limit).ok().filter(|&limit| 0 < limit).unwrap_or(usize::MAX);
    // One key more than asked for tells whether there are more.
    let fetched_max = limit.saturating_add(1);
    let found = view.scan(keys, at).filter(|kv| filter.passes(kv));
    let sort = match (order, target) {
        (SortOrder::None | SortOrder::Ascend, SortTarget::Key) => None,
        (SortOrder::None | SortOrder::Ascend, _) => Some(Sort { target, descending: false }),
        (SortOrder::Descend, _) => Some(Sort { target, descending: true }),
    };
    // etcd's quirk: told a target but no direction, it fetches the first keys as if unsorted (unless
    // a filter makes it look at all) and sorts only those, the extra one included.
    let fetches_all = order != SortOrder::None || filter.is_active();
    let mut kvs = match sort {
        Some(sort) if fetches_all && fetched_max < usize::MAX => sort.best(found, fetched_max),
        _ => first(found, fetched_max, shown)?,
    };
    if let Some(sort) = sort {
        kvs.sort_unstable_by(|a, b| sort.compare(a, b));
    }
    let more = limit < kvs.len();
    kvs.truncate(limit);
    let seen_all = !more && !filter.is_active();
    let count = if seen_all { kvs.len() as u64 } else { view.count(keys, at) };
    Ok(RangeAnswer { kvs: Found::Many(kvs), shown, more, count })
}

/// The first `count_max` keys.
pub(super) fn first<'v>(
    found: impl Iterator<Item = KeyValueRef<'v>>,
    count_max: usize,
    shown: Shown,
) -> Result<Vec<KeyValueRef<'v>>, Rejection> {
    let mut kvs = Vec::new();
    let mut bytes = 0;
    for kv in found.take(count_max) {
        // More than a message can carry is refused before the list of keys grows as large.
        check_answer_bytes(bytes)?;
        bytes += message_field_len(kv_len(&kv, shown)) as u64;
        kvs.push(kv);
    }
    Ok(kvs)
}

#[derive(Debug, Clone, Copy)]
struct Sort {
    target: SortTarget,
    descending: bool,
}

impl Sort {
    /// The `count_max` keys that sort first, in no order.
    fn best<'v>(
        self,
        found: impl Iterator<Item = KeyValueRef<'v>>,
        count_max: usize,
    ) -> Vec<KeyValueRef<'v>> {
        // Twice as many are kept before the worse half goes: constant work per key.
        let kept_max = count_max.saturating_mul(2).max(1024);
        let mut kept = Vec::new();
        for kv in found {
            if kept.len() == kept_max {
                self.cut(&mut kept, count_max);
            }
            kept.push(kv);
        }
        self.cut(&mut kept, count_max);
        kept
    }

    fn cut(self, kept: &mut Vec<KeyValueRef<'_>>, count_max: usize) {
        if count_max < kept.len() {
            kept.select_nth_unstable_by(count_max, |a, b| self.compare(a, b));
            kept.truncate(count_max);
        }
    }

    /// A total order, so that the answer does not depend on how it was computed.
    fn compare(self, a: &KeyValueRef<'_>, b: &KeyValueRef<'_>) -> Ordering {
        let by_target = match self.target {
            SortTarget::Key => a.key.cmp(b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(b.value),
        };
        let by_target = if self.descending { by_target.reverse() } else { by_target };
        by_target.then_with(|| a.key.cmp(b.key))
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
