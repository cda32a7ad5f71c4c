//! KV responses as protobuf, written straight from the store's own bytes.
//!
//! A generic encoder would first copy every key and value into a message. Here one pass adds up
//! sizes and one writes, into a buffer of exactly that size.
//!
//! Invariant: the bytes are those that prost writes for the same message: fields in ascending order,
//! zeros left out. The tests hold one against the other.

use crate::mvcc::KeyValueRef;
use crate::request::Rejection;
use crate::types::proto::{
    bytes_field_len, int_field_len, message_field_len, put_bytes_field, put_int_field, put_message_head,
};

/// Bytes of a response's body at most: gRPC carries 2^31 - 1 in one message, and the header that
/// the client shard adds takes less than 64.
pub(super) const ANSWER_BYTES_MAX: u64 = i32::MAX as u64 - 64;

/// Refuses an answer that no message can carry.
pub(super) fn check_answer_bytes(bytes: u64) -> Result<(), Rejection> {
    if bytes > ANSWER_BYTES_MAX {
        return Err(Rejection::AnswerTooLarge { bytes, bytes_max: ANSWER_BYTES_MAX });
    }
    Ok(())
}

/// `ResponseHeader` with nothing but `revision`, as responses inside a transaction carry it.
#[derive(Debug, Clone, Copy)]
pub(super) struct InnerHeader {
    pub(super) revision: i64,
}

impl InnerHeader {
    fn len(self) -> usize {
        int_field_len(self.revision)
    }
}

pub(super) fn header_len(header: Option<InnerHeader>) -> usize {
    header.map_or(0, |header| message_field_len(header.len()))
}

pub(super) fn put_header(out: &mut Vec<u8>, header: Option<InnerHeader>) {
    if let Some(header) = header {
        put_message_head(out, 1, header.len());
        put_int_field(out, 3, header.revision);
    }
}

/// Which parts of a key's record an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(super) value: bool,
    pub(super) lease: bool,
}

impl Shown {
    pub(crate) const ALL: Self = Self { value: true, lease: true };

    pub(super) fn value<'a>(self, kv: &KeyValueRef<'a>) -> &'a [u8] {
        if self.value { kv.value } else { &[] }
    }

    fn lease(self, kv: &KeyValueRef<'_>) -> i64 {
        if self.lease { kv.lease } else { 0 }
    }
}

/// Bytes of `mvccpb.KeyValue`.
pub(crate) fn kv_len(kv: &KeyValueRef<'_>, shown: Shown) -> usize {
    bytes_field_len(kv.key)
        + int_field_len(kv.create_revision)
        + int_field_len(kv.mod_revision)
        + int_field_len(kv.version)
        + bytes_field_len(shown.value(kv))
        + int_field_len(shown.lease(kv))
}

pub(crate) fn put_kv_field(out: &mut Vec<u8>, field: u8, kv: &KeyValueRef<'_>, shown: Shown) {
    put_kv_front(out, field, kv, shown);
    out.extend_from_slice(shown.value(kv));
    put_kv_lease(out, kv, shown);
}

/// Writes `put_kv_field` up to the value's bytes.
pub(super) fn put_kv_front(out: &mut Vec<u8>, field: u8, kv: &KeyValueRef<'_>, shown: Shown) {
    put_message_head(out, field, kv_len(kv, shown));
    put_bytes_field(out, 1, kv.key);
    put_int_field(out, 2, kv.create_revision);
    put_int_field(out, 3, kv.mod_revision);
    put_int_field(out, 4, kv.version);
    let value = shown.value(kv);
    if !value.is_empty() {
        put_message_head(out, 5, value.len());
    }
}

/// Writes what follows the value's bytes.
pub(super) fn put_kv_lease(out: &mut Vec<u8>, kv: &KeyValueRef<'_>, shown: Shown) {
    put_int_field(out, 6, shown.lease(kv));
}

/// Bytes of a `RangeResponse` behind its keys.
pub(super) fn range_tail_len(more: bool, count: u64) -> usize {
    usize::from(more) * 2 + int_field_len(count_field(count))
}

/// Writes what follows the keys of a `RangeResponse`.
pub(super) fn put_range_tail(out: &mut Vec<u8>, more: bool, count: u64) {
    put_int_field(out, 3, i64::from(more));
    put_int_field(out, 4, count_field(count));
}

/// A response that knows its size before it is written.
pub(super) trait Encode {
    fn encoded_len(&self, header: Option<InnerHeader>) -> usize;
    fn encode(&self, header: Option<InnerHeader>, out: &mut Vec<u8>);

    /// The response of a call of its own: without a header, in a buffer of its exact size, which
    /// for an empty response is no buffer.
    fn to_body(&self) -> Result<Vec<u8>, Rejection> {
        let len = self.encoded_len(None);
        check_answer_bytes(len as u64)?;
        Ok(self.to_body_of(len))
    }

    /// The same, unless it takes more than `bytes_max`.
    fn to_short_body(&self, bytes_max: usize) -> Option<Vec<u8>> {
        let len = self.encoded_len(None);
        (len <= bytes_max).then(|| self.to_body_of(len))
    }

    fn to_body_of(&self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len);
        self.encode(None, &mut out);
        debug_assert_eq!(out.len(), len, "the two passes disagree");
        out
    }
}

/// `RangeResponse`.
#[derive(Debug)]
pub(super) struct RangeAnswer<'a> {
    pub(super) kvs: Found<'a>,
    pub(super) shown: Shown,
    pub(super) more: bool,
    pub(super) count: u64,
}

/// Keys found. A lone key needs no list.
#[derive(Debug)]
pub(super) enum Found<'a> {
    One(Option<KeyValueRef<'a>>),
    Many(Vec<KeyValueRef<'a>>),
}

impl<'a> Found<'a> {
    pub(super) fn as_slice(&self) -> &[KeyValueRef<'a>] {
        match self {
            Self::One(kv) => kv.as_slice(),
            Self::Many(kvs) => kvs,
        }
    }
}

pub(super) fn count_field(count: u64) -> i64 {
    i64::try_from(count).expect("no store holds 2^63 keys")
}

impl Encode for RangeAnswer<'_> {
    fn encoded_len(&self, header: Option<InnerHeader>) -> usize {
        let kvs = self.kvs.as_slice().iter().map(|kv| message_field_len(kv_len(kv, self.shown)));
        header_len(header) + kvs.sum::<usize>() + range_tail_len(self.more, self.count)
    }

    fn encode(&self, header: Option<InnerHeader>, out: &mut Vec<u8>) {
        put_header(out, header);
        for kv in self.kvs.as_slice() {
            put_kv_field(out, 2, kv, self.shown);
        }
        put_range_tail(out, self.more, self.count);
    }
}

/// `PutResponse`.
#[derive(Debug)]
pub(super) struct PutAnswer<'a> {
    pub(super) previous: Option<KeyValueRef<'a>>,
}

impl Encode for PutAnswer<'_> {
    fn encoded_len(&self, header: Option<InnerHeader>) -> usize {
        header_len(header) + self.previous.map_or(0, |kv| message_field_len(kv_len(&kv, Shown::ALL)))
    }

    fn encode(&self, header: Option<InnerHeader>, out: &mut Vec<u8>) {
        put_header(out, header);
        if let Some(kv) = &self.previous {
            put_kv_field(out, 2, kv, Shown::ALL);
        }
    }
}

/// `DeleteRangeResponse`.
#[derive(Debug)]
pub(super) struct DeleteAnswer<'a> {
    pub(super) deleted: u64,
    /// Empty when nobody asked for them.
    pub(super) previous: Vec<KeyValueRef<'a>>,
}

impl Encode for DeleteAnswer<'_> {
    fn encoded_len(&self, header: Option<InnerHeader>) -> usize {
        let previous = self.previous.iter().map(|kv| message_field_len(kv_len(kv, Shown::ALL)));
        header_len(header) + int_field_len(count_field(self.deleted)) + previous.sum::<usize>()
    }

    fn encode(&self, header: Option<InnerHeader>, out: &mut Vec<u8>) {
        put_header(out, header);
        put_int_field(out, 2, count_field(self.deleted));
        for kv in &self.previous {
            put_kv_field(out, 3, kv, Shown::ALL);
        }
    }
}

/// Which arm of `ResponseOp` an answer goes into.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(super) enum OpField {
    Range = 1,
    Put = 2,
    DeleteRange = 3,
    Txn = 4,
}

/// `TxnResponse` in the making. Operations are answered as they run, so the length of a nested
/// response is not known when its first operation is written: its brackets are kept aside and set in
/// one copy at the end, however deep the nest.
#[derive(Debug)]
pub(super) struct TxnAnswer {
    /// `responses` of all levels in order, without the brackets of nested responses.
    bytes: Vec<u8>,
    nested: Vec<Nested>,
    /// What `bytes` and brackets take at most.
    bytes_bound: u64,
}

#[derive(Debug)]
struct Nested {
    parent: Option<usize>,
    succeeded: bool,
    /// Its own stretch of `bytes`.
    start: usize,
    end: usize,
    /// Bytes of the brackets inside that stretch; filled in at the end.
    brackets: usize,
}

impl Nested {
    /// `header` (present and empty), `succeeded`, `responses`.
    fn len(&self) -> usize {
        2 + usize::from(self.succeeded) * 2 + (self.end - self.start) + self.brackets
    }

    /// Two tags and lengths, header and `succeeded`: what stands in front of its responses.
    fn bracket_len(&self) -> usize {
        let own = self.len();
        message_field_len(message_field_len(own)) - own + 2 + usize::from(self.succeeded) * 2
    }
}

/// No nested response's bracket is longer: two tags, two lengths, header, `succeeded`.
const BRACKET_BYTES_MAX: u64 = 2 + 2 * 5 + 2 + 2;

impl TxnAnswer {
    pub(super) fn new(succeeded: bool) -> Self {
        let mut bytes = Vec::new();
        put_int_field(&mut bytes, 2, i64::from(succeeded));
        Self { bytes, nested: Vec::new(), bytes_bound: 2 }
    }

    /// Appends one operation's answer.
    pub(super) fn push<E: Encode>(
        &mut self,
        field: OpField,
        header: InnerHeader,
        answer: &E,
    ) -> Result<(), Rejection> {
        let out = self.push_front(field, answer.encoded_len(Some(header)))?;
        answer.encode(Some(header), out);
        Ok(())
    }

    /// Makes room for one operation's answer, of `inner` bytes with its header, and writes what stands in front of
    /// it. The answer is to be written to what is returned, or to `rest`.
    pub(super) fn push_front(&mut self, field: OpField, inner: usize) -> Result<&mut Vec<u8>, Rejection> {
        let op = message_field_len(inner);
        let len = message_field_len(op);
        self.grow_bound(len as u64)?;
        self.bytes.reserve(len);
        put_message_head(&mut self.bytes, 3, op);
        put_message_head(&mut self.bytes, field as u8, inner);
        Ok(&mut self.bytes)
    }

    /// Where an answer is written on that was begun by `push_front`.
    pub(super) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Opens a nested transaction's response; what follows up to `close` belongs to it.
    pub(super) fn open(&mut self, parent: Option<usize>, succeeded: bool) -> Result<usize, Rejection> {
        self.grow_bound(BRACKET_BYTES_MAX)?;
        let start = self.bytes.len();
        self.nested.push(Nested { parent, succeeded, start, end: start, brackets: 0 });
        Ok(self.nested.len() - 1)
    }

    pub(super) fn close(&mut self, nested: usize) {
        self.nested[nested].end = self.bytes.len();
    }

    /// Bytes of the answer so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    fn grow_bound(&mut self, bytes: u64) -> Result<(), Rejection> {
        self.bytes_bound += bytes;
        check_answer_bytes(self.bytes_bound)
    }

    pub(super) fn into_body(mut self) -> Vec<u8> {
        if self.nested.is_empty() {
            return self.bytes;
        }
        // Children stand behind their parents, so from the back every child is complete first.
        let mut brackets = 0;
        for slot in (0..self.nested.len()).rev() {
            let own = self.nested[slot].bracket_len();
            brackets += own;
            if let Some(parent) = self.nested[slot].parent {
                let inside = self.nested[slot].brackets;
                self.nested[parent].brackets += own + inside;
            }
        }
        let mut out = Vec::with_capacity(self.bytes.len() + brackets);
        let mut copied = 0;
        for nested in &self.nested {
            out.extend_from_slice(&self.bytes[copied..nested.start]);
            copied = nested.start;
            put_message_head(&mut out, 3, message_field_len(nested.len()));
            put_message_head(&mut out, OpField::Txn as u8, nested.len());
            put_message_head(&mut out, 1, 0);
            put_int_field(&mut out, 2, i64::from(nested.succeeded));
        }
        out.extend_from_slice(&self.bytes[copied..]);
        debug_assert_eq!(out.len(), self.bytes.len() + brackets, "the two passes disagree");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims a size and writes nothing.
    struct Claim(usize);

    impl Encode for Claim {
        fn encoded_len(&self, _header: Option<InnerHeader>) -> usize {
            self.0
        }

        fn encode(&self, _header: Option<InnerHeader>, _out: &mut Vec<u8>) {}
    }

    #[test]
    fn an_answer_beyond_what_grpc_carries_is_refused_before_it_is_written() {
        let too_large =
            |result: Result<(), Rejection>| matches!(result, Err(Rejection::AnswerTooLarge { .. }));
        let header = InnerHeader { revision: 1 };
        let mut txn = TxnAnswer::new(true);
        assert_eq!(txn.push(OpField::Range, header, &Claim(100 << 20)), Ok(()));
        assert!(too_large(txn.push(OpField::Range, header, &Claim(1_950 << 20))), "alone it fits");
        assert!(too_large(Claim(i32::MAX as usize).to_body().map(drop)));
        let (mut deep, mut parent) = (TxnAnswer::new(true), None);
        deep.bytes_bound = ANSWER_BYTES_MAX - 10 * BRACKET_BYTES_MAX;
        for _ in 0..10 {
            parent = Some(deep.open(parent, true).unwrap());
        }
        assert!(too_large(deep.open(parent, true).map(drop)), "brackets count");
    }
}
