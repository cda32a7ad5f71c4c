//! Calls by method and status, as the libraries of gRPC count them on a server of etcd's.

use super::{Count, Histogram, Label, Name, Report};
use crate::rpc::method::{self, CallShape, Row};
use crate::rpc::{Code, Method};

/// Statuses of gRPC, from OK on.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Debug, Default)]
struct Counts {
    started: Count,
    received: Count,
    sent: Count,
    handled: [Count; CODES.len()],
    handling: Option<Histogram>,
}

/// The counts of every method of the table.
#[derive(Debug)]
pub struct MethodCounts(Vec<Counts>);

impl MethodCounts {
    /// `is_extensive`: how long calls take is counted too (`--metrics=extensive`).
    #[must_use]
    pub fn new(is_extensive: bool) -> Self {
        let counts = || Counts {
            handling: is_extensive.then(|| Histogram::new(Name::GrpcHandlingSeconds)),
            ..Counts::default()
        };
        Self(method::table().iter().map(|_| counts()).collect())
    }

    fn of(&self, method: Method) -> &Counts {
        &self.0[method as usize]
    }

    pub fn on_start(&self, method: Method) {
        self.of(method).started.increment();
    }

    pub fn on_received(&self, method: Method) {
        self.of(method).received.increment();
    }

    pub fn on_sent(&self, method: Method, messages: u64) {
        self.of(method).sent.add(messages);
    }

    /// The call has ended, so many seconds after its start, if that is counted.
    pub fn on_end(&self, method: Method, code: Code, seconds: Option<f64>) {
        let counts = self.of(method);
        counts.handled[usize::from(code.number())].increment();
        if let (Some(handling), Some(seconds)) = (&counts.handling, seconds) {
            handling.observe(seconds);
        }
    }

    pub fn report(&self, report: &mut Report) {
        for (row, counts) in method::table().iter().zip(&self.0) {
            let labels = || labels(row);
            report.count(Name::GrpcStarted, labels(), counts.started.get());
            report.count(Name::GrpcReceived, labels(), counts.received.get());
            report.count(Name::GrpcSent, labels(), counts.sent.get());
            for (code, handled) in CODES.iter().zip(&counts.handled) {
                let labels = labels().into_iter().chain([Label::Borrowed(*code)]);
                report.count(Name::GrpcHandled, labels, handled.get());
            }
            if let Some(handling) = &counts.handling {
                report.histogram(Name::GrpcHandlingSeconds, labels(), handling);
            }
        }
    }
}

fn labels(row: &'static Row) -> [Label; 3] {
    let shape = match row.call {
        CallShape::Unary => "unary",
        CallShape::ServerStream => "server_stream",
        CallShape::BothWays => "bidi_stream",
    };
    let (service, method) = row.path[1..].split_once('/').expect("a path is /service/method");
    [shape.into(), service.into(), method.into()]
}
