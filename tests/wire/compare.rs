//! Whether two answers to one request say the same.
//!
//! Masked everywhere: cluster id, member id and raft term of a header, since each server has its own.
//!
//! Allowed, each as narrow as it can be told:
//! - *Ties.* A sort by version, create or mod revision, or value leaves the order of equal keys open.
//!   Sort keys must agree place by place, and every group of equals must have the same members; of a
//!   group that the limit cuts, only the size is compared. With `keys_only` the values that were sorted
//!   by are not shown, so an uncut answer is compared as a set, and a cut one by its size.
//! - *Unknown sort order.* Up to 3.5 etcd sorts by it as if it were none or panics; 3.6 and later answer
//!   `etcdserver: invalid sort option`, before they look at anything else. The subject may say that
//!   or the same as the reference.
//!
//! Known and not reachable from here, so not masked: `keys_only` drops the lease from 3.7 on (no
//! stream has leases yet), a tombstone at the compacted revision is kept from 3.5.16 on (no Range
//! shows tombstones), unknown sort targets (they crash the reference, so they are not sent).

use std::cmp::Ordering;

use pinion_kit::pb::etcdserverpb as pb;
use pinion_kit::pb::mvccpb::KeyValue;

use crate::generate::Request;

#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    Error { code: u32, message: String },
    Broken(String),
}

impl Answer {
    pub fn kvs_count(&self) -> u64 {
        match self {
            Self::Range(answer) => answer.kvs.len() as u64,
            Self::Delete(answer) => answer.prev_kvs.len() as u64,
            Self::Put(answer) => u64::from(answer.prev_kv.is_some()),
            Self::Txn(answer) => answer.responses.len() as u64,
            Self::Compact(_) | Self::Error { .. } | Self::Broken(_) => 0,
        }
    }
}

/// The first difference, in words.
pub fn compare(request: &Request, reference: &Answer, subject: &Answer) -> Result<(), String> {
    for (answer, name) in [(reference, "reference"), (subject, "subject")] {
        if let Answer::Broken(reason) = answer {
            return Err(format!("the {name} gave no answer: {reason}"));
        }
    }
    if let (Request::Range(range), Answer::Error { code, message }) = (request, subject)
        && !(0..=2).contains(&range.sort_order)
        && (*code, message.as_str()) == (3, "etcdserver: invalid sort option")
    {
        return Ok(());
    }
    match (request, reference, subject) {
        (Request::Range(request), Answer::Range(a), Answer::Range(b)) => range(request, a, b),
        (Request::Txn(request), Answer::Txn(a), Answer::Txn(b)) => txn(request, a, b),
        (_, Answer::Put(a), Answer::Put(b)) => {
            header(&a.header, &b.header)?;
            same("prev_kv", &a.prev_kv, &b.prev_kv)
        }
        (_, Answer::Delete(a), Answer::Delete(b)) => {
            header(&a.header, &b.header)?;
            same("deleted", &a.deleted, &b.deleted)?;
            same("prev_kvs", &a.prev_kvs, &b.prev_kvs)
        }
        (_, Answer::Compact(a), Answer::Compact(b)) => header(&a.header, &b.header),
        (_, a, b) => same("answer", a, b),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, a: &T, b: &T) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("{what}: reference {a:?}, subject {b:?}")) }
}

fn header(a: &Option<pb::ResponseHeader>, b: &Option<pb::ResponseHeader>) -> Result<(), String> {
    let revision = |header: &Option<pb::ResponseHeader>| header.as_ref().map(|header| header.revision);
    same("header.revision", &revision(a), &revision(b))?;
    // Masked, yet present on both or on neither: inner headers of a transaction have no ids.
    let has_ids = |header: &Option<pb::ResponseHeader>| {
        header.as_ref().map(|h| (h.cluster_id != 0, h.member_id != 0, h.raft_term != 0))
    };
    same("header has cluster_id, member_id, raft_term", &has_ids(a), &has_ids(b))
}

fn txn(request: &pb::TxnRequest, a: &pb::TxnResponse, b: &pb::TxnResponse) -> Result<(), String> {
    use pb::request_op::Request as Op;
    use pb::response_op::Response;
    header(&a.header, &b.header)?;
    same("succeeded", &a.succeeded, &b.succeeded)?;
    same("responses", &a.responses.len(), &b.responses.len())?;
    let ops = if a.succeeded { &request.success } else { &request.failure };
    for (slot, ((op, a), b)) in ops.iter().zip(&a.responses).zip(&b.responses).enumerate() {
        let compared = match (&op.request, &a.response, &b.response) {
            (
                Some(Op::RequestRange(request)),
                Some(Response::ResponseRange(a)),
                Some(Response::ResponseRange(b)),
            ) => range(request, a, b),
            (
                Some(Op::RequestTxn(request)),
                Some(Response::ResponseTxn(a)),
                Some(Response::ResponseTxn(b)),
            ) => txn(request, a, b),
            (_, a, b) => same("response", a, b),
        };
        compared.map_err(|difference| format!("op {slot}: {difference}"))?;
    }
    Ok(())
}

fn range(request: &pb::RangeRequest, a: &pb::RangeResponse, b: &pb::RangeResponse) -> Result<(), String> {
    header(&a.header, &b.header)?;
    same("count", &a.count, &b.count)?;
    same("more", &a.more, &b.more)?;
    same("kvs.len", &a.kvs.len(), &b.kvs.len())?;
    let by = pb::range_request::SortTarget::try_from(request.sort_target);
    let Ok(by @ (Sort::Version | Sort::Create | Sort::Mod | Sort::Value)) = by else {
        return kvs(&a.kvs, &b.kvs);
    };
    if by == Sort::Value && request.keys_only {
        return if a.more { Ok(()) } else { kvs(&ordered(&a.kvs, by_key), &ordered(&b.kvs, by_key)) };
    }
    let equal = |x: &KeyValue, y: &KeyValue| sort_order(by, x, y) == Ordering::Equal;
    for (slot, (x, y)) in a.kvs.iter().zip(&b.kvs).enumerate() {
        if !equal(x, y) {
            return Err(format!("kvs[{slot}] sorts elsewhere: reference {x:?}, subject {y:?}"));
        }
    }
    // Groups of equals now lie at the same places on both sides.
    let mut start = 0;
    for group in a.kvs.chunk_by(equal) {
        let end = start + group.len();
        let is_cut = a.more && end == a.kvs.len();
        if !is_cut {
            kvs(&ordered(group, by_key), &ordered(&b.kvs[start..end], by_key))?;
        }
        start = end;
    }
    Ok(())
}

use pb::range_request::SortTarget as Sort;

fn sort_order(by: Sort, a: &KeyValue, b: &KeyValue) -> Ordering {
    match by {
        Sort::Key => a.key.cmp(&b.key),
        Sort::Version => a.version.cmp(&b.version),
        Sort::Create => a.create_revision.cmp(&b.create_revision),
        Sort::Mod => a.mod_revision.cmp(&b.mod_revision),
        Sort::Value => a.value.cmp(&b.value),
    }
}

fn by_key(a: &KeyValue, b: &KeyValue) -> Ordering {
    a.key.cmp(&b.key)
}

fn ordered(kvs: &[KeyValue], order: fn(&KeyValue, &KeyValue) -> Ordering) -> Vec<KeyValue> {
    let mut kvs = kvs.to_vec();
    kvs.sort_by(order);
    kvs
}

fn kvs(a: &[KeyValue], b: &[KeyValue]) -> Result<(), String> {
    for (slot, (x, y)) in a.iter().zip(b).enumerate() {
        same(&format!("kvs[{slot}].key"), &x.key, &y.key)?;
        same(&format!("kvs[{slot}].create_revision"), &x.create_revision, &y.create_revision)?;
        same(&format!("kvs[{slot}].mod_revision"), &x.mod_revision, &y.mod_revision)?;
        same(&format!("kvs[{slot}].version"), &x.version, &y.version)?;
        same(&format!("kvs[{slot}].lease"), &x.lease, &y.lease)?;
        if x.value != y.value {
            return Err(format!("kvs[{slot}].value: {} and {} bytes differ", x.value.len(), y.value.len()));
        }
    }
    Ok(())
}
