//! What a shard counts of its calls, whatever front end they came by: methods, statuses, messages and bytes.
//!
//! Each call carries a `Tally`, which knows its method and counts its end; dropped without one, the client had left.

use std::rc::Rc;
use std::time::Instant;

use super::call::end::Ended;
use crate::metrics::{Count, MethodCounts, Name, Report};
use crate::rpc::api_version::ApiVersion;
use crate::rpc::method::CallShape;
use crate::rpc::{Code, Method};

/// The counts of one shard.
#[derive(Debug)]
pub(super) struct Tallies {
    methods: MethodCounts,
    /// Calls are timed (`--metrics=extensive`).
    is_extensive: bool,
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
            received_bytes: Count::default(),
            sent_bytes: Count::default(),
            versions: Default::default(),
        })
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
        let begun = tallies.is_extensive.then(Instant::now);
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
            let seconds = self.begun.map(|begun| begun.elapsed().as_secs_f64());
            self.tallies.methods.on_end(self.method, code, seconds);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.finish(Code::Canceled);
    }
}
