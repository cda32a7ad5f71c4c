//! The owned messages that roles exchange over their rings.

use bytes::Bytes;

use crate::apply::{Machine, Outcome, RequestKind, Response};
use crate::membership::Cluster;
use crate::pb::etcdserverpb as pb;
use crate::raft::{CheckpointMeta, Entry};
use crate::types::{LeaseId, LogIndex, MemberId, Term, Ticket};
use crate::watch;

/// What a client shard asks of the rest of the member.
#[derive(Debug)]
pub enum Command {
    /// Through consensus: `body` is the client's encoded request, already validated.
    Propose { kind: RequestKind, body: Bytes },
    /// From the state machine.
    Read(Read),
    /// A change of who belongs to the cluster, or of who leads it.
    Member(MemberCall),
}

/// A call about the cluster's members. Each answer's body is the named response message without its
/// header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberCall {
    /// `MemberAddResponse`. The URLs are checked.
    Add { peer_urls: Vec<String>, learner: bool },
    /// `MemberRemoveResponse`.
    Remove(MemberId),
    /// `MemberPromoteResponse`.
    Promote(MemberId),
    /// `MoveLeaderResponse`.
    MoveLeader(MemberId),
}

/// A read of the state machine.
#[derive(Debug)]
pub struct Read {
    /// Whether the answer must reflect everything acknowledged before the read arrived.
    pub linearizable: bool,
    pub query: Query,
}

/// What is read. Each answer's body is the named response message without its header.
#[derive(Debug)]
pub enum Query {
    /// `RangeResponse`.
    Range(pb::RangeRequest),
    /// The next `RangeResponse` of a `RangeStream`.
    RangeSlice(Box<RangeSlice>),
    /// `TxnResponse`, of a transaction that only reads.
    Txn(pb::TxnRequest),
    /// `HashKVResponse`.
    HashKv(pb::HashKvRequest),
    /// `HashKVResponse` at the compact revision; refused as compacted when there is none.
    HashCompacted,
    /// `HashResponse`.
    Hash,
    /// `MemberListResponse`.
    MemberList,
    /// `StatusResponse`.
    Status,
    /// `AlarmResponse`: the active alarms of this kind, or of all kinds for 0.
    Alarms { kind: i32 },
    /// `LeaseKeepAliveResponse`. Renews the lease in the leader's memory; nothing is logged.
    LeaseKeepAlive(LeaseId),
    /// `LeaseTimeToLiveResponse`.
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    /// `LeaseLeasesResponse`.
    LeaseLeases,
}

/// One step of a `RangeStream`: the keys from `start` on.
///
/// The body holds `kvs` only while the answer's `resume` names the key to go on from; the last one
/// also holds `more` and `count`, and is told by `resume` being absent.
#[derive(Debug)]
pub struct RangeSlice {
    /// The client's request. After the first slice `revision` is the one the first slice was read at.
    pub request: pb::RangeRequest,
    /// First key of this slice; the request's own key at first.
    pub start: Bytes,
    /// Keys at most in this slice.
    pub keys_max: u32,
    /// Keys that earlier slices carried.
    pub keys_sent: u64,
}

/// An answer on its way to the client shard that asked.
#[derive(Debug)]
pub struct Reply {
    pub ticket: Ticket,
    pub result: Result<Answer, Refusal>,
}

/// An answer of the state machine with the term it was given in.
#[derive(Debug)]
pub struct Answer {
    pub term: Term,
    pub outcome: Outcome,
}

/// The member could not carry the request out; the state machine never saw it, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The member is stopping.
    Stopped,
    /// More is committed than applied, by too much.
    TooManyRequests,
    /// The disk has no room for the log, or the request would not fit the quota.
    NoSpace,
    /// No answer within the request timeout.
    TimedOut,
    /// No leader took it within the request timeout. It is in no log.
    NotProposed,
    /// No leader is known.
    NoLeader,
    /// Leadership moved while a linearizable read waited.
    LeaderChanged,
    /// Raft dropped the proposal.
    Dropped,
    /// It was proposed to a leader that was replaced before it was committed.
    LostWithLeader,
    /// This member does not lead.
    NotLeader,
    /// Leadership cannot go to that member.
    BadTransferee,
    /// Leadership did not move in time.
    TransferTimedOut,
    /// Too few members have started for the change to be safe.
    NotEnoughStarted,
    /// Too few members have been in touch for long enough.
    Unhealthy,
    /// No such member.
    MemberNotFound,
    /// The member votes already.
    NotLearner,
    /// The learner has not caught up yet.
    LearnerNotReady,
}

/// What raft is told.
#[derive(Debug)]
pub enum ToRaft {
    /// A client's request.
    Propose { ticket: Ticket, kind: RequestKind, body: Bytes },
    /// A linearizable read. From the store: a question about a lease that reached it while it did not
    /// lead; it is for whoever does.
    Read { ticket: Ticket, query: Query },
    /// What the leader's store says to the question about a lease that another member passed on under
    /// this number.
    LeaseAnswer { number: u64, result: Result<Response, Refusal> },
    /// A call about the members.
    Member { ticket: Ticket, call: MemberCall },
    /// The members as of now. Comes once at the start, and again whenever they change.
    Members { cluster: Box<Cluster> },
    /// What the state machine says to the membership change at `index`, before it has applied anything
    /// behind it.
    Verdict { index: LogIndex, accepted: bool },
    /// To a read that the raft role asked the store for itself.
    Answer(Reply),
    /// The state machine stands here.
    Applied { index: LogIndex },
    /// A checkpoint of the state machine is durable, in a file of so many bytes.
    Checkpointed { meta: CheckpointMeta, bytes: u64 },
}

/// What the store is told.
#[derive(Debug)]
pub enum ToStore {
    /// Apply these next.
    Committed { entries: Vec<Entry>, facts: Facts },
    /// Linearizable reads that may be answered now: everything they must see came before on this ring.
    Confirmed { reads: Vec<(Ticket, Query)> },
    /// A serializable read.
    Read { ticket: Ticket, query: Query },
    /// Answers of the leader to questions about leases: bodies without a header. They get this member's.
    LeaseAnswers { answers: Vec<(Ticket, Vec<u8>)> },
    /// From the watch hub of a client shard.
    Watch { shard: u16, order: watch::Order },
    /// Leadership moved.
    Leadership { facts: Facts },
    /// A follower needs a newer checkpoint than there is.
    CheckpointWanted,
    /// The leader's checkpoint takes the state's place; its file is durable.
    Install { meta: CheckpointMeta, machine: Box<Machine> },
    /// The store's own request about leases with this number goes nowhere.
    LeaseRefused { number: u64 },
}

/// What a client shard is told. One ring from each role, so what the store says comes in the order it
/// was said: an answer comes before the watch batch of the revision it made, and a notice behind all
/// batches before it.
#[derive(Debug)]
pub enum ToShard {
    Reply(Reply),
    /// For the shard's watch hub.
    Watch {
        term: Term,
        notice: watch::Notice,
    },
    /// Who leads, and what this member is.
    Facts(Facts),
}

/// What a status answer tells of consensus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub leader: Option<MemberId>,
    pub term: Term,
    pub committed: LogIndex,
    pub is_learner: bool,
    /// A follower is connected to its leader, a leader to a quorum.
    pub in_touch: bool,
}
