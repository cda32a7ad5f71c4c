//! What a shard has done, for metrics and logs.

use std::cell::Cell;

use super::connection::Ending;
use super::grpc::frame_meter::Abuse;
use crate::rpc::headers::Fault;

/// Counts since the start, and levels now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections taken in.
    pub accepted: u64,
    /// Accepts that failed.
    pub accept_errors: u64,
    /// Connections closed at once, since there were as many as there may be.
    pub turned_away: u64,
    /// Connections closed because of first bytes that are neither gRPC nor HTTP.
    pub strangers: u64,
    /// Connections ended because of too many control frames, or of headers without end.
    pub floods: u64,
    /// Connections ended because of too many pings.
    pub too_many_pings: u64,
    /// Connections ended because of a violation of HTTP/2.
    pub protocol_errors: u64,
    /// Connections ended because the client did not answer a ping.
    pub stalled: u64,
    /// Connections ended because the shard needed their memory.
    pub evicted: u64,
    /// Connections ended because they had said nothing and others wanted their place.
    pub silent_dropped: u64,
    /// Uploads refused because they stood still and the shard needed their memory.
    pub uploads_dropped: u64,
    /// Requests whose headers have arrived.
    pub requests: u64,
    /// Answers of the member.
    pub replies: u64,
    /// Answers that nobody waited for any more.
    pub stale_replies: u64,
    /// Calls answered that they took too long.
    pub timeouts: u64,
    /// Answers that took longer than `--warning-unary-request-duration`.
    pub slow: u64,
    /// Times that the backend took no command.
    pub blocked: u64,
    /// Times that a connection waited for a look at the sockets before it went on reading or sending.
    pub rests: u64,
    /// Watch streams ended because the shard needed their memory.
    pub watch_resets: u64,
    /// Now: connections.
    pub connections: u64,
    /// Now: calls with the backend.
    pub calls: u64,
    /// Now: bytes of answers that clients have not taken.
    pub unsent_bytes: u64,
    /// Now: watch streams, those of the shard's own tasks among them.
    pub watch_streams: u64,
    /// Now: watchers of all streams.
    pub watchers: u64,
    /// Now: bytes of watch responses that clients have not taken.
    pub watch_unsent_bytes: u64,
}

impl Counters {
    pub(super) fn count_ending(&mut self, ending: Ending) {
        match ending {
            Ending::Finished | Ending::Stopped => {}
            Ending::Protocol | Ending::Headers(Fault::Compression) => self.protocol_errors += 1,
            Ending::Abuse(Abuse::ControlFlood) | Ending::Headers(Fault::Flood) => self.floods += 1,
            Ending::Abuse(Abuse::TooManyPings) => self.too_many_pings += 1,
            Ending::Stalled => self.stalled += 1,
            Ending::Evicted => self.evicted += 1,
        }
    }
}

/// Counters of one executor.
#[derive(Default)]
pub(super) struct CountersCell(Cell<Counters>);

impl CountersCell {
    pub(super) fn get(&self) -> Counters {
        self.0.get()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.0.get();
        change(&mut counters);
        self.0.set(counters);
    }
}
