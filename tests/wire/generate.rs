//! The stream of requests: a small world of keys, so that requests meet each other's traces.
//!
//! A function of the seed and of what the reference answered (its revision and compacted revision),
//! so both sides get the same stream.

use bytes::Bytes;
use pinion_kit::pb::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use pb::request_op::Request as Op;

use crate::compare::Answer;

#[derive(Debug, Clone)]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
}

/// Keys that are each other's prefixes and neighbours, at both ends of the byte order.
const KEYS: [&[u8]; 16] = [
    b"\0",
    b"\0\0",
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"b",
    b"b\xff",
    b"b\xff\xff",
    b"ba",
    b"c",
    b"d/1",
    b"d/2",
    b"d/3",
    b"\xff",
    b"\xff\xff",
];

/// Bounds that are keys, lie between keys, below all, or mean "to the end".
const ENDS: [&[u8]; 10] =
    [b"\0", b"\0\0", b"a", b"b", b"c", b"d0", b"d/2", b"\xff", b"\xff\xff\xff", b"b\xff\xff\0"];

const VALUES: [&[u8]; 6] = [b"", b"0", b"1", b"1\0", b"value", b"\xff\xfe not UTF-8"];

/// No test grants a lease yet, so each of these is unknown.
const LEASES: [i64; 3] = [1, -1, i64::MAX];

pub struct Generator {
    rng: StdRng,
    pub revision: i64,
    pub compacted: i64,
}

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), revision: 1, compacted: 0 }
    }

    /// Follows the store's revisions, so that the stream asks around them.
    pub fn learn(&mut self, request: &Request, answer: &Answer) {
        let header = match answer {
            Answer::Range(answer) => &answer.header,
            Answer::Put(answer) => &answer.header,
            Answer::Delete(answer) => &answer.header,
            Answer::Txn(answer) => &answer.header,
            Answer::Compact(answer) => &answer.header,
            Answer::Error { .. } | Answer::Broken(_) => return,
        };
        self.revision = header.as_ref().map_or(self.revision, |header| header.revision);
        if let (Request::Compact(request), Answer::Compact(_)) = (request, answer) {
            self.compacted = request.revision;
        }
    }

    pub fn next_request(&mut self) -> Request {
        match self.rng.random_range(0..1_000) {
            0..300 => {
                let order_unknown = self.one_in(60);
                let mut range = self.range();
                if order_unknown {
                    // Only outside of transactions: etcd before 3.6 carries it out, 3.6 refuses it, and
                    // then a transaction's writes would set the two stores apart.
                    range.sort_order = 7;
                }
                Request::Range(range)
            }
            300..550 => Request::Put(self.put()),
            550..680 => Request::Delete(self.delete()),
            680..975 => {
                let mut txn = self.txn(2);
                // etcd up to 3.7 panics when a delete removes the key whose value or lease a later put
                // of the transaction wants to keep: the check before the first write cannot foresee it.
                if any_op(&txn, |op| matches!(op, Op::RequestDeleteRange(_))) {
                    keep_nothing(&mut txn);
                }
                Request::Txn(txn)
            }
            975..998 => Request::Compact(self.compaction()),
            _ => Request::Put(self.large_put()),
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn pick(&mut self, from: &[&'static [u8]]) -> Bytes {
        Bytes::from_static(from[self.rng.random_range(0..from.len())])
    }

    fn key(&mut self) -> Bytes {
        if self.one_in(60) { Bytes::new() } else { self.pick(&KEYS) }
    }

    fn range_end(&mut self) -> Bytes {
        match self.rng.random_range(0..10) {
            0..4 => Bytes::new(),
            4..6 => Bytes::from_static(b"\0"),
            6..7 => self.pick(&KEYS),
            _ => self.pick(&ENDS),
        }
    }

    /// Mostly the present, else history, the compacted past, the future, or nonsense.
    fn read_revision(&mut self) -> i64 {
        match self.rng.random_range(0..20) {
            0..11 => 0,
            11..15 => self.rng.random_range(self.compacted.max(1)..=self.revision.max(self.compacted + 1)),
            15 => self.compacted,
            16 => self.compacted - 1,
            17 => self.revision,
            18 => self.revision + self.rng.random_range(1..3),
            _ => [-1, -2, i64::MIN, i64::MAX, 1][self.rng.random_range(0..5)],
        }
    }

    fn filter_revision(&mut self) -> i64 {
        match self.rng.random_range(0..24) {
            0..21 => 0,
            21..23 => self.rng.random_range(1..=self.revision + 1),
            _ => -1,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: [0, 0, 0, 1, 2, 3, 7, 100, -1][self.rng.random_range(0..9)],
            revision: self.read_revision(),
            sort_order: self.rng.random_range(0..3),
            sort_target: if self.one_in(2) { 0 } else { self.rng.random_range(0..5) },
            serializable: self.one_in(4),
            keys_only: self.one_in(5),
            count_only: self.one_in(8),
            min_mod_revision: self.filter_revision(),
            max_mod_revision: self.filter_revision(),
            min_create_revision: self.filter_revision(),
            max_create_revision: self.filter_revision(),
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.one_in(10);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && !self.one_in(4) { Bytes::new() } else { self.pick(&VALUES) },
            lease: if self.one_in(25) { LEASES[self.rng.random_range(0..LEASES.len())] } else { 0 },
            prev_kv: self.one_in(3),
            ignore_value,
            ignore_lease: self.one_in(12),
        }
    }

    /// Clearly below and clearly above the bounds on requests and on messages. Not at them: how many
    /// bytes the encoded request has besides key and value is each server's own.
    fn large_put(&mut self) -> pb::PutRequest {
        let bytes = [1_400_000, 1_600_000, 2_097_200][self.rng.random_range(0..3)];
        pb::PutRequest { key: self.pick(&KEYS), value: vec![b'L'; bytes].into(), ..Default::default() }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        // Whole prefixes rarely, or the store would be empty most of the time.
        let range_end = if self.one_in(4) { self.range_end() } else { Bytes::new() };
        pb::DeleteRangeRequest { key: self.key(), range_end, prev_kv: self.one_in(2) }
    }

    fn compaction(&mut self) -> pb::CompactionRequest {
        let revision = match self.rng.random_range(0..8) {
            0 => 0,
            1 => -1,
            2 => self.revision + 1,
            3 => self.compacted,
            4 => self.revision,
            _ => self.rng.random_range(self.compacted.min(self.revision)..=self.revision),
        };
        pb::CompactionRequest { revision, physical: self.one_in(2) }
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        if depth == 2 && self.one_in(80) {
            return self.txn_at_the_op_limit();
        }
        let compares = [0, 0, 1, 1, 2, 3][self.rng.random_range(0..6)];
        let (success, failure) = (self.rng.random_range(0..5), self.rng.random_range(0..3));
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..success).map(|_| self.op(depth)).collect(),
            failure: (0..failure).map(|_| self.op(depth)).collect(),
        }
    }

    /// 127 to 130 operations, alone or with a nested transaction that gets what the outer one leaves.
    fn txn_at_the_op_limit(&mut self) -> pb::TxnRequest {
        let read = |key: &'static [u8]| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                key: Bytes::from_static(key),
                count_only: true,
                ..Default::default()
            })),
        };
        let count = self.rng.random_range(127..131);
        if self.one_in(2) {
            return pb::TxnRequest { success: vec![read(b"a"); count], ..Default::default() };
        }
        let outer = 65;
        let inner = pb::TxnRequest { failure: vec![read(b"b"); count - outer], ..Default::default() };
        let mut success = vec![read(b"a"); outer - 1];
        success.push(pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(inner)) });
        pb::TxnRequest { success, ..Default::default() }
    }

    fn op(&mut self, depth: u32) -> pb::RequestOp {
        let request = match self.rng.random_range(0..100) {
            0..35 => Some(Op::RequestPut(self.put())),
            35..60 => {
                let mut range = self.range();
                // Most of a transaction's reads must be acceptable, or few transactions would be.
                if !self.one_in(8) {
                    range.revision = 0;
                }
                Some(Op::RequestRange(range))
            }
            60..80 => Some(Op::RequestDeleteRange(self.delete())),
            80..98 if depth > 0 => Some(Op::RequestTxn(self.txn(depth - 1))),
            80..99 => Some(Op::RequestPut(pb::PutRequest { key: self.key(), ..Default::default() })),
            _ => None,
        };
        pb::RequestOp { request }
    }

    fn compare(&mut self) -> pb::Compare {
        use pb::compare::TargetUnion as Union;
        let number = match self.rng.random_range(0..4) {
            0 => 0,
            1 => self.rng.random_range(-1..4),
            _ => self.rng.random_range(0..=self.revision + 1),
        };
        let target: i32 = if self.one_in(40) { 9 } else { self.rng.random_range(0..5) };
        // The arm that fits the target, or any, or none.
        let arm = if self.one_in(12) { self.rng.random_range(0..6) } else { target };
        let target_union = match arm {
            0 => Some(Union::Version(number.min(5))),
            1 => Some(Union::CreateRevision(number)),
            2 => Some(Union::ModRevision(number)),
            3 => Some(Union::Value(self.pick(&VALUES))),
            4 => Some(Union::Lease(if self.one_in(2) { 0 } else { 1 })),
            _ => None,
        };
        pb::Compare {
            result: if self.one_in(40) { 11 } else { self.rng.random_range(0..4) },
            target,
            key: self.key(),
            range_end: if self.one_in(4) { self.range_end() } else { Bytes::new() },
            target_union,
        }
    }
}

/// Whether some operation of either branch, nested ones included, is meant.
fn any_op(txn: &pb::TxnRequest, is_meant: fn(&Op) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref()).any(|op| match op {
        Op::RequestTxn(nested) => any_op(nested, is_meant),
        op => is_meant(op),
    })
}

/// Clears `ignore_value` and `ignore_lease` of every put.
fn keep_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Op::RequestTxn(nested)) => keep_nothing(nested),
            _ => {}
        }
    }
}
