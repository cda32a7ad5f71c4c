//! What a shard counts of its calls, whatever front end they came by: methods, statuses, messages and bytes.
//!
//! Each call carries a `Tally`, which knows its method and counts its end; dropped without one, the client had left.
//!
//! Where calls are timed, the clock is read once for all that begin or end in one turn: two readings a call would cost a
//! hundredth of a put. A turn takes a millisecond at most, and the first bucket of the histogram has five.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::call::end::Ended;
use crate::metrics::{Count, MethodCounts, Name, Report};
use crate::rpc::api_version::ApiVersion;
use crate::rpc::method::CallShape;
use crate::rpc::{Code, Method};

/// When calls begin and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    /// At the time that is read then.
    Read,
    /// At the time of the first one in this turn, which has not come yet.
    First,
    At(Instant),
}

/// See `Tallies::begin_turn`.
pub(in crate::shell) struct Turn<'a>(&'a Tallies);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turn.set(Clock::Read);
    }
}

/// The counts of one shard.
#[derive(Debug)]
pub(super) struct Tallies {
    methods: MethodCounts,
    /// Calls are timed (`--metrics=extensive`).
    is_extensive: bool,
    turn: Cell<Clock>,
    received_bytes: Count,
    sent_bytes: Count,
    /// Of one request and of streams; by `VERSIONS`.
    versions: [[Count; VERSIONS.len()]; 2],
}

/// What clients say of the API that they speak, as far as a member goes by it.
const VERSIONS: [(ApiVersion, &str); 3] =
    [(ApiVersion::Recent, "3.6+"), (ApiVersion::Old, "unknown"), (ApiVersion::Malformed, "malformed")];

impl Tallies {
    pub(super) fn new(is_extensive: bool) -> Rc<Self> {
        Rc::new(Self {
            methods: MethodCounts::new(is_extensive),
            is_extensive,
            turn: Cell::new(Clock::Read),
            received_bytes: Count::default(),
            sent_bytes: Count::default(),
            versions: Default::default(),
        })
    }

    /// Until the turn is dropped, all calls begin and end at one time. It must not live across an `.await`.
    pub(super) fn begin_turn(&self) -> Turn<'_> {
        self.turn.set(Clock::First);
        Turn(self)
    }

    fn now(&self) -> Instant {
        match self.turn.get() {
            Clock::At(time) => time,
            Clock::Read => Instant::now(),
            Clock::First => {
                let time = Instant::now();
                self.turn.set(Clock::At(time));
                time
            }
        }
    }

    fn on_received(&self, method: Method, bytes: usize) {
        self.methods.on_received(method);
        self.received_bytes.add(bytes as u64);
    }

    pub(super) fn report(&self, report: &mut Report) {
        self.methods.report(report);
        report.count(Name::ClientReceived, [], self.received_bytes.get());
        report.count(Name::ClientSent, [], self.sent_bytes.get());
        for (shape, counts) in ["unary", "stream"].iter().zip(&self.versions) {
            for ((_, version), count) in VERSIONS.iter().zip(counts) {
                let labels = [(*shape).into(), (*version).into()];
                report.count(Name::ClientRequests, labels, count.get());
            }
        }
    }
}

/// The requests of a call that has any number of them.
#[derive(Debug)]
pub(super) struct Received {
    tallies: Rc<Tallies>,
    method: Method,
}

impl Received {
    pub(super) fn count(&self, bytes: usize) {
        self.tallies.on_received(self.method, bytes);
    }
}

/// One call.
#[derive(Debug)]
pub(super) struct Tally {
    tallies: Rc<Tallies>,
    method: Method,
    begun: Option<Instant>,
    has_ended: bool,
}

impl Tally {
    /// A call of `method` begins.
    pub(super) fn begin(tallies: &Rc<Tallies>, method: Method, version: ApiVersion) -> Self {
        tallies.methods.on_start(method);
        let shape = usize::from(method.row().call != CallShape::Unary);
        let version = VERSIONS.iter().position(|(known, _)| *known == version);
        tallies.versions[shape][version.expect("the table has every version")].increment();
        let begun = tallies.is_extensive.then(|| tallies.now());
        Self { tallies: Rc::clone(tallies), method, begun, has_ended: false }
    }

    /// A message of the request has come.
    pub(super) fn received(&self, bytes: usize) {
        self.tallies.on_received(self.method, bytes);
    }

    /// What counts the requests of a stream, which come apart from its answers.
    pub(super) fn received_of(&self) -> Received {
        Received { tallies: Rc::clone(&self.tallies), method: self.method }
    }

    /// Messages of the answer go out.
    pub(super) fn sent(&self, messages: u64, bytes: usize) {
        self.tallies.methods.on_sent(self.method, messages);
        self.tallies.sent_bytes.add(bytes as u64);
    }

    /// The call ends.
    pub(super) fn end(mut self, code: Code) {
        self.finish(code);
    }

    /// A stream ends.
    pub(super) fn end_stream(self, end: &Result<(), Ended>) {
        self.end(match end {
            Ok(()) => Code::Ok,
            Err(Ended::Status(status)) => status.code,
            Err(Ended::Gone) => Code::Canceled,
            Err(Ended::Crowded) => Code::Internal,
        });
    }

    fn finish(&mut self, code: Code) {
        if !std::mem::replace(&mut self.has_ended, true) {
            let seconds = self.begun.map(|begun| self.tallies.now().duration_since(begun).as_secs_f64());
            self.tallies.methods.on_end(self.method, code, seconds);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.finish(Code::Canceled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_turn_begin_and_end_at_one_time_and_all_others_at_their_own() {
        let tallies = Tallies::new(true);
        let begin = || Tally::begin(&tallies, Method::Put, ApiVersion::Old);
        let turn = tallies.begin_turn();
        let (first, second) = (begin(), begin());
        assert_eq!(first.begun, second.begun);
        assert_eq!(tallies.now(), first.begun.unwrap(), "what ends in it ends then");
        drop(turn);
        assert_eq!(tallies.turn.get(), Clock::Read);
        let apart = begin();
        assert!(first.begun.unwrap() < apart.begun.unwrap());
        // A turn that began later is not before what began in none.
        let _turn = tallies.begin_turn();
        assert!(apart.begun.unwrap() <= tallies.now());
    }
}
