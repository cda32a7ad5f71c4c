//! The owned messages that roles exchange over their rings.

use crate::apply::Machine;
use crate::membership::Cluster;
use crate::raft::{CheckpointMeta, Entry};
use crate::request::{Command, PieceNotice, PieceOrder, Read, Refusal, Reply, Response, WaitNews, WaitOrder};
use crate::types::{FormatLevel, LogIndex, MemberId, Term, Ticket};
use crate::watch;

/// What raft is told.
#[derive(Debug)]
pub enum ToRaft {
    /// A client's proposal, linearizable read or call about the members; or the store's own proposal, or a
    /// question about a lease that reached it while it did not lead, and is for whoever does.
    Command { ticket: Ticket, command: Command },
    /// What the leader's store says to the question about a lease that another member passed on under
    /// this number.
    LeaseAnswer { number: u64, result: Result<Response, Refusal> },
    /// The members as of now. Comes once at the start, and again whenever they change.
    Members { cluster: Box<Cluster> },
    /// The cluster's format level, once at the start and again whenever it is raised.
    FormatLevel(FormatLevel),
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
    Confirmed { reads: Vec<(Ticket, Read)> },
    /// A serializable read.
    Read { ticket: Ticket, read: Read },
    /// Answers of the leader to questions about leases: bodies without a header. They get this member's.
    LeaseAnswers { answers: Vec<(Ticket, Vec<u8>)> },
    /// From the watch hub of a client shard.
    Watch { shard: u16, order: watch::Order },
    /// From a client shard, about an answer in pieces.
    Pieces { order: PieceOrder },
    /// Leadership moved.
    Leadership { facts: Facts },
    /// A follower needs a newer checkpoint than there is.
    CheckpointWanted,
    /// The leader's checkpoint takes the state's place; its file is durable.
    Install { meta: CheckpointMeta, machine: Box<Machine> },
    /// The store's own request about leases with this number goes nowhere.
    LeaseRefused { number: u64 },
    /// The same of nodes with a time to live.
    NodeRefused { number: u64 },
    /// From a client shard, about who waits for a change of a node.
    Wait { shard: u16, order: WaitOrder },
    /// The same of the compaction with this number that the store asked for itself.
    CompactionRefused { number: u64, refusal: Refusal },
}

/// What a client shard is told. One ring from each role, so what the store says comes in the order it
/// was said: an answer comes before the watch batch of the revision it made, and a notice behind all
/// batches before it.
#[derive(Debug)]
pub enum ToShard {
    Reply(Reply),
    /// Of an answer in pieces.
    Pieces(PieceNotice),
    /// To whoever waits for a change of a node.
    Wait(WaitNews),
    /// For the shard's watch hub.
    Watch {
        term: Term,
        notice: watch::Notice,
        /// When it was made, on the process's clock.
        made_ns: u64,
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
