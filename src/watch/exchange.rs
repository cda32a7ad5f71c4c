//! What a shard's hub and the store's feed say to each other.
//!
//! Each order is answered by exactly one notice with its token, in the order in which
//! the orders came; batches and jumps come in between, unasked.

use super::{Batch, WatchRange};

/// Names an order to the hub that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// From a shard to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// From now on the shard's batches hold the changes of `range`, with `previous` filled in if
    /// `previous` is set. The same range may be subscribed many times: each counts.
    Subscribe { token: Token, range: WatchRange, previous: bool },
    /// Takes back one `Subscribe` of the same range and `previous`.
    Unsubscribe { token: Token, range: WatchRange, previous: bool },
    /// Where does the store stand?
    Ask { token: Token },
    /// Changes from the past.
    CatchUp(CatchUp),
}

/// A slice of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatchUp {
    pub token: Token,
    /// First revision that is wanted.
    pub from: i64,
    /// Which keys, and whether with `previous`.
    pub ranges: Vec<(WatchRange, bool)>,
    /// How many watchers the slice is for. The hub copies it for each in one go, so the more there are
    /// the shorter it is.
    pub watchers: usize,
}

/// From the store to a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Batches hold the range's changes from `current + 1` on.
    Subscribed {
        token: Token,
        current: i64,
        compacted: i64,
    },
    Unsubscribed {
        token: Token,
        current: i64,
    },
    Standing {
        token: Token,
        current: i64,
    },
    /// What has just been applied.
    Batch(Batch),
    /// The same of exactly this range, which may have several watchers: other ranges have their own, and until a `Batch`
    /// or an answer says so, the store is not known to stand at `batch.through`. A shard whose store is elsewhere is
    /// told in this way (`remote`).
    Part {
        range: WatchRange,
        batch: Batch,
    },
    /// The store has got ahead by another member's checkpoint: everything up to `from` was said, and
    /// nothing of what lies behind it up to `current` will be in a batch. Who wants it reads history.
    Jumped {
        from: i64,
        current: i64,
    },
    /// History with `after = from - 1`. It has reached the present when `through == current`: what
    /// follows comes in batches. The store decides how long a slice is; it covers at least one
    /// revision unless there is none.
    CaughtUp {
        token: Token,
        batch: Batch,
        current: i64,
    },
    /// The history from `from` on is gone up to and including `compacted - 1`.
    Overtaken {
        token: Token,
        compacted: i64,
    },
}
