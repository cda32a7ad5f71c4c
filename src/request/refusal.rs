//! A "no" to the client that is this member's own: of the moment, and no part of the state.

/// The member could not carry the request out; the state machine never saw it, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The member is stopping.
    Stopped,
    /// More is committed than applied, by too much.
    TooManyRequests,
    /// The disk has no room for the log, or the request would not fit the quota.
    NoSpace,
    /// Larger than what the cluster's other members may read yet.
    TooLarge,
    /// The read held more compacted history, or memory of sorts, than there may be, and was the slowest.
    TooSlow,
    /// Sorting the answer would take more memory than there may be.
    SortTooLarge,
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
    /// Some member of the cluster does not know what the request is about.
    NotCapable,
}
