//! A run: several workers, one schedule, one result.
//!
//! Each worker is a thread with its own epoll, connections, generator and tally; nothing is shared while
//! the run lasts but a counter for the progress bar. The thread that calls `run` only keeps time.
//!
//! Invariants: no request is sent before every connection has the server's SETTINGS; a run ends within
//! its duration plus one deadline.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustls::ClientConfig;

use crate::http2::{Connection, ConnectionError};
use crate::sys::{self, Clock};
use crate::tally::Tally;
use crate::worker::Worker;
use crate::workload::{Load, Space};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);
/// From "all connected" to the first request: time for every worker to wake.
const START_DELAY_NS: u64 = 2_000_000;

/// Why a run could not be made, or not be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("endpoint {0:?}: want host:port or http://host:port (TLS is spoken by `compare --tls` alone)")]
    BadEndpoint(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("{0} does not answer as an HTTP/2 server: {1}")]
    NoSettings(SocketAddr, String),
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: std::io::Error },
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the call failed: {0}")]
    Call(String),
    #[error("interrupted")]
    Interrupted,
}

/// Where the server is, and in whose name it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub address: SocketAddr,
    pub authority: String,
    /// Whom it has to be, to be asked by TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// The token of a user.
    pub token: Option<String>,
}

impl Endpoint {
    /// Asked in plain text, in nobody's name.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, authority: address.to_string(), tls: None, token: None }
    }

    /// A connection for its calls.
    pub(crate) fn connection(&self) -> Connection {
        Connection::new(&self.authority).named(self.tls.is_some(), self.token.as_deref())
    }

    /// The same whose every stream may bring `stream_window` bytes until it is widened.
    pub(crate) fn connection_with_stream_window(&self, stream_window: u32) -> Connection {
        let connection = Connection::with_stream_window(&self.authority, stream_window);
        connection.named(self.tls.is_some(), self.token.as_deref())
    }

    pub(crate) fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::BadEndpoint(text.to_owned());
        let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        if authority.contains('/') {
            return Err(bad());
        }
        let address = authority.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(bad)?;
        Ok(Self { authority: authority.to_owned(), ..Self::plain(address) })
    }
}

/// Everything that defines a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Connections are spread over these in turn. Never empty.
    pub endpoints: Vec<Endpoint>,
    pub connections: usize,
    /// Requests in flight on each connection, at most.
    pub in_flight: usize,
    /// Requests a second over all connections; `None` is a closed loop.
    pub rate_per_s: Option<u64>,
    pub warmup: Duration,
    /// `None` until the load is through.
    pub duration: Option<Duration>,
    /// Ends the run before its time: set when what the run was to accompany is over.
    pub cutoff: Option<Arc<AtomicBool>>,
    /// How long a request may take.
    pub deadline: Duration,
    pub threads: usize,
    /// Cores for the workers, in turn; none is no pinning.
    pub pin: Vec<usize>,
    /// Ask epoll without ever sleeping in it.
    pub is_spinning: bool,
    /// Remember each request's own latency: see `Tally::timeline`.
    pub keeps_timeline: bool,
    pub seed: u64,
    pub space: Space,
    pub load: Load,
}

impl Plan {
    /// How many threads the connections can keep busy.
    pub(crate) fn workers(&self) -> usize {
        self.threads.clamp(1, self.connections.max(1))
    }
}

/// Hears when the measured window opens and closes, and how far the run is.
pub(crate) trait Observer {
    fn on_window_open(&mut self) {}
    fn on_window_close(&mut self) {}
    fn on_progress(&mut self, _replies: u64, _elapsed: Duration) {}
}

/// Watches nothing.
#[derive(Debug)]
pub(crate) struct Unobserved;

impl Observer for Unobserved {}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct RunResult {
    pub tally: Tally,
    /// Length of the measured window; of a fill, until the last reply.
    pub window: Duration,
    /// CPU time of the workers in the window, and in the busiest of them.
    pub client_cpu: Duration,
    pub client_cpu_busiest: Duration,
    /// Reconnections: more than none says something about the server.
    pub reconnects: u64,
}

/// The instants of a run, on its clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub start_ns: u64,
    pub measure_start_ns: u64,
    pub stop_ns: u64,
}

/// What a worker hands back.
#[derive(Debug)]
pub(crate) struct WorkerResult {
    pub tally: Tally,
    /// When it ceased to send: the window's end, or earlier when the run was cut short.
    pub stop_ns: u64,
    pub cpu_ns: u64,
    pub reconnects: u64,
}

enum Report {
    Ready,
    Done(Box<Result<WorkerResult, ClientError>>),
}

/// Makes the run that `plan` describes.
pub(crate) fn run(plan: &Plan, observer: &mut dyn Observer) -> Result<RunResult, ClientError> {
    let workers = plan.workers();
    let clock = Clock::start();
    let live: Vec<AtomicU64> = (0..workers).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        let (reports, inbox) = mpsc::channel();
        let mut starters = Vec::new();
        for (index, live) in live.iter().enumerate() {
            let (starter, window) = mpsc::channel::<Window>();
            starters.push(starter);
            let reports = reports.clone();
            scope.spawn(move || {
                let result = work(plan, index, clock, live, &reports, &window);
                // The receiver is gone only when the run was given up.
                drop(reports.send(Report::Done(Box::new(result))));
            });
        }
        drop(reports);
        for _ in 0..workers {
            match inbox.recv() {
                Ok(Report::Ready) => {}
                // Dropping the starters sends the other workers home.
                Ok(Report::Done(result)) => return Err(result.err().unwrap_or(ClientError::Interrupted)),
                Err(_) => return Err(ClientError::Interrupted),
            }
        }
        let start_ns = clock.now_ns() + START_DELAY_NS;
        let measure_start_ns = start_ns + nanos(plan.warmup);
        let stop_ns = plan.duration.map_or(u64::MAX, |duration| measure_start_ns + nanos(duration));
        let window = Window { start_ns, measure_start_ns, stop_ns };
        for starter in &starters {
            // A worker that died meanwhile reports so below.
            starter.send(window).unwrap_or(());
        }
        collect(workers, window, clock, &live, &inbox, observer)
    })
}

fn work(
    plan: &Plan,
    index: usize,
    clock: Clock,
    live: &AtomicU64,
    reports: &mpsc::Sender<Report>,
    window: &mpsc::Receiver<Window>,
) -> Result<WorkerResult, ClientError> {
    if !plan.pin.is_empty() {
        let id = plan.pin[index % plan.pin.len()];
        if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
            let source = std::io::Error::other(format!("core {id} is not ours to use"));
            return Err(ClientError::Io { operation: "pin", source });
        }
    }
    let mut worker = Worker::connect(plan, index, clock)?;
    drop(reports.send(Report::Ready));
    let window = window.recv().map_err(|_| ClientError::Interrupted)?;
    worker.run(window, live)
}

/// Keeps time for the observer and gathers what the workers hand back.
fn collect(
    workers: usize,
    window: Window,
    clock: Clock,
    live: &[AtomicU64],
    inbox: &mpsc::Receiver<Report>,
    observer: &mut dyn Observer,
) -> Result<RunResult, ClientError> {
    let mut tally = Tally::new(window.measure_start_ns, window.stop_ns);
    tally.timeline = Some(Vec::new());
    let (mut cpu_ns, mut cpu_ns_busiest, mut reconnects, mut done) = (0, 0, 0, 0);
    let (mut is_open, mut is_closed) = (false, false);
    let mut stop_ns = 0;
    while done < workers {
        let now_ns = clock.now_ns();
        if !is_open && window.measure_start_ns <= now_ns {
            is_open = true;
            observer.on_window_open();
        }
        if is_open && !is_closed && window.stop_ns <= now_ns {
            is_closed = true;
            observer.on_window_close();
        }
        let next_ns = if is_open { window.stop_ns } else { window.measure_start_ns };
        let wait =
            if is_closed { TICK } else { TICK.min(Duration::from_nanos(next_ns.saturating_sub(now_ns))) };
        match inbox.recv_timeout(wait) {
            Ok(Report::Done(result)) => {
                let result = (*result)?;
                tally.merge(&result.tally);
                stop_ns = stop_ns.max(result.stop_ns);
                cpu_ns += result.cpu_ns;
                cpu_ns_busiest = cpu_ns_busiest.max(result.cpu_ns);
                reconnects += result.reconnects;
                done += 1;
            }
            Ok(Report::Ready) => unreachable!("every worker has said so before the start"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(ClientError::Interrupted),
        }
        let replies = live.iter().map(|counter| counter.load(Ordering::Relaxed)).sum();
        let elapsed = Duration::from_nanos(clock.now_ns().saturating_sub(window.start_ns));
        observer.on_progress(replies, elapsed);
    }
    if sys::is_interrupted() {
        return Err(ClientError::Interrupted);
    }
    if !is_closed {
        observer.on_window_close();
    }
    let stop_ns = if stop_ns == u64::MAX { tally.last_reply_ns } else { stop_ns };
    Ok(RunResult {
        tally,
        window: Duration::from_nanos(stop_ns.saturating_sub(window.measure_start_ns)),
        client_cpu: Duration::from_nanos(cpu_ns),
        client_cpu_busiest: Duration::from_nanos(cpu_ns_busiest),
        reconnects,
    })
}

/// A duration as nanoseconds; none that the command line takes is too long.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a duration below 584 years")
}
