//! Says in the log what a shard drops for want of memory, descriptors or an answer, at most once in a while.

use std::cell::Cell;

/// Between two lines.
const INTERVAL_MS: u64 = 10_000;

/// What has been dropped so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Drops {
    /// Connections with responses that nobody took.
    pub(super) unread_responses: u64,
    /// Watch streams with such.
    pub(super) unread_watch_streams: u64,
    pub(super) stalled_uploads: u64,
    /// Connections that had said nothing.
    pub(super) never_spoke: u64,
    pub(super) unanswered_pings: u64,
    pub(super) floods: u64,
}

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    said: Cell<Drops>,
    /// When the next line may come.
    next_ms: Cell<u64>,
}

impl DropLog {
    /// Says what has been dropped since the last line, if anything.
    pub(super) fn on_tick(&self, now_ms: u64, now: Drops) {
        let said = self.said.get();
        if now == said || now_ms < self.next_ms.get() {
            return;
        }
        self.said.set(now);
        self.next_ms.set(now_ms + INTERVAL_MS);
        tracing::warn!(
            unread_responses = now.unread_responses - said.unread_responses,
            unread_watch_streams = now.unread_watch_streams - said.unread_watch_streams,
            stalled_uploads = now.stalled_uploads - said.stalled_uploads,
            never_spoke = now.never_spoke - said.never_spoke,
            unanswered_pings = now.unanswered_pings - said.unanswered_pings,
            floods = now.floods - said.floods,
            "clients were dropped, the longest idle first"
        );
    }
}
