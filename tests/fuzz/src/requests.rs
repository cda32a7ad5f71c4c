//! Calls and log entries against two machines that must stay one.
//!
//! Claims, for any bytes: `rpc::convert::command` answers; what it lets through to the log is never
//! refused there for a reason that the client shard owns; `Machine::apply` answers every body of
//! every kind, a refusal leaves the state as it was, and `request::group::decode_group` answers.
//! Two machines fed alike give equal answers to requests and reads and hold equal states, though one
//! compacts in other slices, holds back compaction by checkpoints under way, and is now and then
//! rebuilt from its own checkpoint. A range streamed in slices is the range asked at once.
//!
//! States are compared by content: a checkpoint's bytes also tell the links between versions, and a
//! put over a compacted tombstone is linked to it exactly if compaction has not come by yet.

use arbitrary::Unstructured;
use bytes::Bytes;
use pinion::apply::{Applied, Checkpoint, Machine, Restore, StatusFacts};
use pinion::lease::Table;
use pinion::membership::Cluster;
use pinion::mvcc::{KeyValueRef, Store};
use pinion::pb::etcdserverpb as pb;
use pinion::pb::peer;
use pinion::request::group::{decode_group, encode_group};
use pinion::request::{Command, EntryId, Origin, Outcome, Query, Rejection, Request, RequestKind, Response};
use pinion::rpc::convert::{self, Limits};
use pinion::rpc::method::Method;
use pinion::rpc::range_stream::RangeStream;
use pinion::types::{FormatLevel, KeyRange, LeaseId, LogIndex, MemberId, Revision, Term, Ticket};
use prost::Message as _;

use crate::message::{self, KINDS, METHODS};
use crate::{below, bytes, one_in};

/// A run's length: the store is walked after each step.
const STEPS_MAX: usize = 120;

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 8 {
        0 => raw_call(rest),
        1 => raw_group(rest),
        _ => twins(&mut Unstructured::new(rest)),
    }
}

/// One voter, 7; 3 is gone.
pub fn cluster() -> Cluster {
    let voter = peer::MemberRecord { id: 7, ..Default::default() };
    let record = peer::Membership { cluster_id: 5, members: vec![voter], removed: vec![3] };
    Cluster::decode(record.encode_to_vec().into()).expect("a cluster with a voter")
}

pub fn machine() -> Machine {
    Machine::new(Store::new(), cluster())
}

/// Whose requests they are.
pub const MEMBER: MemberId = MemberId(7);

/// The entry that every request stands in.
pub const AT: EntryId = EntryId { index: LogIndex(9), term: Term(3) };

pub fn request(kind: RequestKind, body: impl Into<Bytes>) -> Request {
    Request { origin: Origin { member: MEMBER, ticket: Ticket(1) }, kind, body: body.into(), login: None }
}

/// The machine's whole state as bytes.
pub fn stream(machine: &mut Machine, bytes_max: usize) -> Vec<u8> {
    let mut checkpoint = machine.begin_checkpoint();
    let mut out = Vec::new();
    while !machine.checkpoint_slice(&mut checkpoint, bytes_max, &mut out) {}
    machine.end_checkpoint(checkpoint);
    out
}

/// One version or tombstone: key, main and sub revision, and `(value, create, version, lease)`.
type Record = (Vec<u8>, i64, i64, Option<(Vec<u8>, i64, i64, i64)>);

/// All that a machine can ever be asked about.
#[derive(Debug, PartialEq, Eq)]
struct State {
    revisions: (i64, i64),
    /// Alive at the oldest readable revision.
    oldest: Vec<Record>,
    since: Vec<Record>,
    cluster: Cluster,
    leases: Table,
}

fn state(machine: &Machine) -> State {
    let store = machine.store();
    let (current, compacted) = (store.current_revision(), store.compact_revision());
    let oldest = compacted.max(0);
    let put = |kv: KeyValueRef<'_>| (kv.value.to_vec(), kv.create_revision, kv.version, kv.lease);
    State {
        revisions: (current, compacted),
        oldest: store
            .scan(KeyRange::From(b""), oldest)
            .map(|kv| (kv.key.to_vec(), kv.mod_revision, kv.sub, Some(put(kv))))
            .collect(),
        since: store
            .changes(Revision::new(oldest, 0))
            .map(|change| {
                let Revision { main, sub } = change.revision;
                (change.key.to_vec(), main, sub, change.put.map(put))
            })
            .collect(),
        cluster: machine.cluster().clone(),
        leases: machine.leases().clone(),
    }
}

/// The first byte chooses how the rest is taken: as a call of a method, as an entry of a kind.
fn raw_call(rest: &[u8]) {
    let Some((choice, body)) = rest.split_first() else { return };
    let mut twins = Twins::new(Limits::default());
    twins.call(METHODS[usize::from(*choice) % METHODS.len()], Bytes::copy_from_slice(body));
    for kind in KINDS {
        drop(twins.apply(kind, Bytes::copy_from_slice(body)));
    }
    twins.end();
}

fn raw_group(rest: &[u8]) {
    let Ok(group) = decode_group(Bytes::copy_from_slice(rest)) else { return };
    if let Some(id) = group.id {
        assert_eq!(decode_group(encode_group(id, &group.requests)).as_ref(), Ok(&group));
    }
    let mut twins = Twins::new(Limits::default());
    for request in group.requests {
        drop(twins.apply(request.kind, request.body));
    }
    twins.end();
}

fn twins(input: &mut Unstructured<'_>) {
    let limits = Limits {
        txn_ops_max: [128, 4, 1][below(input, 3)],
        request_bytes_max: [1_572_864, 200][below(input, 2)],
        ..Limits::default()
    };
    let mut twins = Twins::new(limits);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        match below(input, 16) {
            0..=6 => {
                let method = METHODS[below(input, METHODS.len())];
                let mut body = message::call_body(input, method);
                if one_in(input, 6) {
                    message::damage(input, &mut body);
                }
                twins.call(method, body.into());
            }
            7..=10 => {
                let kind = KINDS[below(input, KINDS.len())];
                let mut body = message::request_body(input, kind);
                if one_in(input, 6) {
                    message::damage(input, &mut body);
                }
                drop(twins.apply(kind, body.into()));
            }
            11 => {
                let kind = KINDS[below(input, KINDS.len())];
                drop(twins.apply(kind, Bytes::copy_from_slice(bytes(input, 60))));
            }
            12 => drop(twins.plain.work_slice(1 + below(input, 300))),
            13 => drop(twins.other.work_slice(1 + below(input, 300))),
            14 => twins.rebuild(1 + below(input, 500)),
            _ => twins.turn_checkpoint(1 + below(input, 500)),
        }
    }
    twins.end();
}

struct Twins {
    limits: Limits,
    plain: Machine,
    /// Lives a less quiet life.
    other: Machine,
    /// A checkpoint of `other` under way: what was written of it, and what it must be in the end.
    checkpoint: Option<(Checkpoint, Vec<u8>, State)>,
    /// `plain`'s checkpoint.
    bytes: Vec<u8>,
}

impl Twins {
    fn new(limits: Limits) -> Self {
        let (mut plain, other) = (machine(), machine());
        let bytes = stream(&mut plain, usize::MAX);
        Self { limits, plain, other, checkpoint: None, bytes }
    }

    fn call(&mut self, method: Method, body: Bytes) {
        match convert::command(method, body, &self.limits, || 7) {
            Ok(Command::Propose { kind, body, .. }) => {
                let outcome = self.apply(kind, body);
                let is_shards_own = matches!(
                    outcome,
                    Err(Rejection::Undecodable(_)
                        | Rejection::KeyEmpty
                        | Rejection::SortOption { .. }
                        | Rejection::RequestTooLarge { .. })
                );
                assert!(!is_shards_own, "{method:?} passed the client shard, then: {outcome:?}");
            }
            Ok(Command::Read(read)) => self.read(&read.query),
            // For raft, which is not here.
            Ok(Command::Member(_) | Command::AppendStats) => {}
            Err(status) => assert!(!status.message.is_empty(), "{method:?} was refused without a word"),
        }
    }

    fn apply(&mut self, kind: RequestKind, body: Bytes) -> Outcome {
        let level = peer::FormatLevel::decode(body.clone()).map_or(0, |raise| raise.level);
        if kind == RequestKind::FormatLevel && FormatLevel::HIGHEST < FormatLevel(level) {
            // A member ends there, and its checkpoint is for a later release.
            return Err(Rejection::Undecodable(String::new()));
        }
        let request = request(kind, body);
        let revision = self.plain.store().current_revision();
        let applied = self.plain.apply(&request, AT);
        assert_eq!(self.other.apply(&request, AT), applied, "{request:?}");
        let outcome = match applied {
            Applied::Now(outcome) => outcome,
            Applied::AfterCompaction(response) => Ok(response),
        };
        let bytes = stream(&mut self.plain, usize::MAX);
        let now = self.plain.store().current_revision();
        if outcome.is_err() {
            assert_eq!(self.bytes, bytes, "a refused request left something behind: {request:?}");
        }
        // Each lease or node that expires is a revision of its own; everything else is one or none.
        let is_one = !matches!(request.kind, RequestKind::LeaseExpire | RequestKind::NodeExpire);
        assert!(revision <= now, "{revision} -> {now}: {request:?}");
        assert!(!is_one || now <= revision + 1, "{revision} -> {now}: {request:?}");
        let attached = self.plain.store().scan(KeyRange::From(b""), now).filter(|kv| kv.lease != 0);
        self.plain.leases().check_invariants(attached.map(|kv| (kv.key, LeaseId(kv.lease))));
        self.bytes = bytes;
        outcome
    }

    fn read(&mut self, query: &Query) {
        let facts = StatusFacts::default();
        let answer = self.plain.read(query, &facts);
        // What a Status tells of memory depends on how far compaction has come.
        if !matches!(query, Query::Status) {
            assert_eq!(self.other.read(query, &facts), answer, "{query:?}");
        }
        if let Query::RangeSlice(first) = query {
            let whole = self.plain.read(&Query::Range(first.request.clone()), &facts);
            // Told a target, a range sorts what it found; a stream never does.
            if first.request.sort_target == 0 {
                assert_eq!(self.stream_range(query, &facts), whole.map(|answer| decode(&answer.body)));
            }
        }
    }

    fn stream_range(&self, first: &Query, facts: &StatusFacts) -> Result<pb::RangeResponse, Rejection> {
        let Query::RangeSlice(slice) = first else { unreachable!("the caller's query is a slice") };
        let mut stream = RangeStream::new(slice, self.limits.request_bytes_max);
        let mut answer = self.plain.read(first, facts)?;
        let mut all = answer.body.clone();
        while let Some(next) = stream.on_slice(&answer) {
            answer = self.plain.read(&Query::RangeSlice(Box::new(next)), facts)?;
            all.extend_from_slice(&answer.body);
        }
        Ok(decode(&all))
    }

    /// `other` goes on as what its own checkpoint says it is.
    fn rebuild(&mut self, piece: usize) {
        self.turn_checkpoint(usize::MAX);
        if self.checkpoint.is_some() {
            self.turn_checkpoint(usize::MAX);
        }
        let bytes = stream(&mut self.other, piece);
        let mut restore = Restore::new();
        bytes.chunks(piece).for_each(|piece| restore.feed(piece).expect("the machine's own bytes"));
        self.other = restore.finish().expect("the machine's own stream");
        self.other.store().check_invariants();
    }

    /// Begins a checkpoint of `other`, or goes on with the one under way.
    fn turn_checkpoint(&mut self, bytes_max: usize) {
        let Some((mut checkpoint, mut written, expected)) = self.checkpoint.take() else {
            let expected = state(&self.plain);
            self.checkpoint = Some((self.other.begin_checkpoint(), Vec::new(), expected));
            return;
        };
        loop {
            let done = self.other.checkpoint_slice(&mut checkpoint, bytes_max, &mut written);
            if done {
                break;
            }
            if bytes_max < usize::MAX {
                self.checkpoint = Some((checkpoint, written, expected));
                return;
            }
        }
        self.other.end_checkpoint(checkpoint);
        let mut restore = Restore::new();
        restore.feed(&written).expect("the machine's own bytes");
        let twin = restore.finish().expect("the machine's own stream");
        assert_eq!(state(&twin), expected, "a checkpoint is not the state it began with");
    }

    fn end(mut self) {
        if self.checkpoint.is_some() {
            self.turn_checkpoint(usize::MAX);
        }
        assert_eq!(state(&self.other), state(&self.plain), "two machines fed alike differ");
        while !self.plain.work_slice(1_000) {}
        assert_eq!(stream(&mut self.plain, usize::MAX), self.bytes, "compaction changed what is kept");
        self.plain.store().check_invariants();
        self.other.store().check_invariants();
    }
}

fn decode(body: &[u8]) -> pb::RangeResponse {
    pb::RangeResponse::decode(body).expect("the machine's own answer")
}

/// Requests that fill a machine with history: puts, deletes and a compaction.
pub fn history() -> Vec<Request> {
    let mut requests = Vec::new();
    for n in 0..60 {
        let put = pb::PutRequest {
            key: format!("k{}", n % 7).into(),
            value: vec![b'v'; n % 11].into(),
            ..Default::default()
        };
        requests.push(request(RequestKind::Put, put.encode_to_vec()));
        if n % 9 == 8 {
            let delete = pb::DeleteRangeRequest { key: format!("k{}", n % 5).into(), ..Default::default() };
            requests.push(request(RequestKind::DeleteRange, delete.encode_to_vec()));
        }
    }
    let compact = pb::CompactionRequest { revision: 20, physical: false };
    requests.push(request(RequestKind::Compact, compact.encode_to_vec()));
    requests
}

/// An answer that nobody waits for.
pub fn ignore(applied: Applied) -> Option<Response> {
    match applied {
        Applied::Now(outcome) => outcome.ok(),
        Applied::AfterCompaction(response) => Some(response),
    }
}
