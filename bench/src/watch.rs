//! Watchers beside the load: what an idle crowd weighs, what slow readers do to puts, and how fast
//! latecomers catch up.
//!
//! The puts beside them are `client::run`'s, on a schedule that waits for nobody, so that their latencies
//! mean what they mean everywhere else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use crate::call;
use crate::client::{self, ClientError, Plan, Unobserved, nanos};
use crate::findings::{Findings, Unit};
use crate::report::{Figures, ratio};
use crate::stage::{self, Timing};
use crate::streams::{Script, Streams};
use crate::subject::Subject;
use crate::sys::{self, Clock};
use crate::tally::Failure;
use crate::watchers::{self, Book, Scope, Shape, Watching};
use crate::workload::{Load, Scenario, Space};

/// Let a collector or a background write settle before memory is read.
const SETTLE: Duration = Duration::from_secs(1);
/// A slow reader takes its "created" and an event or two, and then nothing more.
const SLOW_WINDOW_BYTES: u32 = 1024;
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where the client's threads run, and its seed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bench {
    /// Cores in turn: the puts' thread has the first, the streams' thread the next.
    pub pin: Vec<usize>,
    pub seed: u64,
}

impl Bench {
    fn core(&self, thread: usize) -> Option<usize> {
        (!self.pin.is_empty()).then(|| self.pin[thread % self.pin.len()])
    }

    /// The core of the thread that serves streams.
    pub(crate) fn streams_core(&self) -> Option<usize> {
        self.core(1)
    }
}

/// Puts at a fixed rate, beside something else.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SidePuts {
    pub rate_per_s: u64,
    pub space: Space,
}

impl fmt::Display for SidePuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Space { keys, value_bytes, .. } = &self.space;
        write!(f, "{} puts/s of {value_bytes} B to {keys} keys beside", self.rate_per_s)
    }
}

impl SidePuts {
    /// Puts for `timing`, or until `cutoff` is set.
    pub(crate) fn run(
        &self,
        subject: &Subject,
        bench: &Bench,
        timing: Timing,
        cutoff: Option<Arc<AtomicBool>>,
    ) -> Result<Figures, ClientError> {
        let plan = Plan {
            endpoints: vec![subject.endpoint.clone()],
            connections: 4,
            in_flight: 1024,
            rate_per_s: Some(self.rate_per_s),
            warmup: timing.warmup,
            duration: timing.duration,
            cutoff,
            deadline: DEADLINE,
            threads: 1,
            pin: bench.core(0).into_iter().collect(),
            is_spinning: false,
            keeps_timeline: false,
            seed: bench.seed,
            space: self.space.clone(),
            load: Load::Endless { scenario: Scenario::Put, read_percent: 0, page_keys: 1 },
        };
        client::run(&plan, &mut Unobserved).map(|run| Figures::of(&run))
    }
}

/// Adds what puts at a fixed rate went through, and what went wrong with them.
pub(crate) fn add_puts(findings: &mut Findings, name: &str, figures: &Figures) {
    findings.add(format!("{name} p50"), Unit::Time, figures.latency_us.p50);
    findings.add(format!("{name} p99"), Unit::Time, figures.latency_us.p99);
    findings.faults.extend(figures.failures.iter().cloned());
}

/// Watchers that are only looked after: every response is checked, nothing more.
#[derive(Debug)]
struct Crowd {
    book: Book,
    events: u64,
}

impl Crowd {
    fn new(shape: &Shape, start_revision: i64) -> Self {
        Self { book: Book::new(shape, start_revision), events: 0 }
    }
}

impl Script for Crowd {
    fn on_message(&mut self, tag: u64, message: &[u8], _now_ns: u64) {
        let stream = usize::try_from(tag).expect("a stream's number");
        let events = &mut self.events;
        self.book.on_response(stream, message, |_, _, _| *events += 1);
    }

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, _now_ns: u64) {
        self.book.faults.add("watch stream ended", || how_ended(tag, end));
    }
}

impl Watching for Crowd {
    fn book(&mut self) -> &mut Book {
        &mut self.book
    }
}

/// Memory of watchers to whom nothing happens.
pub(crate) fn idle(shape: &Shape, subject: &Subject, bench: &Bench) -> Result<Findings, ClientError> {
    let space = shape.space(1, 8);
    let before = subject.anonymous_bytes();
    let (mut after, mut created_s) = (None, 0.0);
    let timing = Timing { warmup: Duration::ZERO, duration: None };
    let crowd = stage::play(bench.streams_core(), timing, &mut Unobserved, |_| {
        let clock = Clock::start();
        let mut streams = Streams::new(clock)?;
        let mut crowd = Crowd::new(shape, 0);
        let lanes = streams.connect(&subject.endpoint, shape.connections, None)?;
        let start_ns = clock.now_ns();
        let refs = watchers::open_streams(&mut streams, lanes, shape)?;
        watchers::create(&mut streams, &refs, shape, &space, clock, &mut crowd)?;
        let created_ns = clock.now_ns();
        created_s = (created_ns - start_ns) as f64 / 1e9;
        while clock.now_ns() < created_ns + nanos(SETTLE) {
            streams.turn(None, &mut crowd)?;
        }
        after = subject.anonymous_bytes();
        Ok(crowd)
    })?;
    let mut findings = Findings::default();
    findings.add("watchers created", Unit::PerSecond, ratio(shape.watchers as f64, created_s));
    if let Some((before, after)) = before.zip(after) {
        let per_watcher = ratio(after.saturating_sub(before) as f64, shape.watchers as f64);
        findings.add("server memory a watcher", Unit::Bytes, per_watcher);
        findings.add("server memory in all", Unit::Bytes, after as f64);
    }
    findings.faults = crowd.book.faults.lines();
    Ok(findings)
}

/// Puts without and with watchers of the same keys that have stopped reading.
pub(crate) fn slow(
    shape: &Shape,
    puts: &SidePuts,
    subject: &Subject,
    bench: &Bench,
    timing: Timing,
) -> Result<Findings, ClientError> {
    let alone = puts.run(subject, bench, timing, None)?;
    let before = subject.anonymous_bytes();
    let is_over = AtomicBool::new(false);
    let (crowd, beside, after) = std::thread::scope(|scope| {
        let (created, is_created) = mpsc::channel();
        let watching = scope.spawn(|| {
            let created = created;
            stage::pin_to(bench.streams_core())?;
            let clock = Clock::start();
            let mut streams = Streams::new(clock)?;
            let mut crowd = Crowd::new(shape, 0);
            let lanes = streams.connect(&subject.endpoint, shape.connections, Some(SLOW_WINDOW_BYTES))?;
            let refs = watchers::open_streams(&mut streams, lanes, shape)?;
            watchers::create(&mut streams, &refs, shape, &puts.space, clock, &mut crowd)?;
            created.send(()).map_err(|_| ClientError::Interrupted)?;
            while !is_over.load(Ordering::Relaxed) {
                streams.turn(None, &mut crowd)?;
            }
            Ok::<_, ClientError>(crowd)
        });
        let mut beside = Err(ClientError::Interrupted);
        let mut after = None;
        if is_created.recv().is_ok() {
            beside = puts.run(subject, bench, timing, None);
            after = subject.anonymous_bytes();
        }
        is_over.store(true, Ordering::Relaxed);
        let crowd = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok::<_, ClientError>((crowd, beside?, after))
    })?;
    let mut findings = Findings::default();
    add_puts(&mut findings, "put alone", &alone);
    add_puts(&mut findings, "put beside slow watchers", &beside);
    if let Some((before, after)) = before.zip(after) {
        findings.add("server memory grown", Unit::Bytes, after.saturating_sub(before) as f64);
    }
    findings.add("events each slow watcher took", Unit::Count, crowd.events as f64 / shape.watchers as f64);
    findings.faults.extend(crowd.book.faults.lines());
    Ok(findings)
}

/// Latecomers to a history.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct CatchUp {
    pub shape: Shape,
    /// How long the last watcher may take.
    pub limit: Duration,
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "catch-up: {}, the last within {:?}", self.shape, self.limit)
    }
}

/// Watchers of a history, until each has it.
#[derive(Debug)]
pub(crate) struct Latecomers {
    pub book: Book,
    /// The history's last revision.
    target: i64,
    /// Events up to it.
    events: u64,
    /// Watchers that have seen it.
    arrived: usize,
    last_arrival_ns: u64,
}

impl Script for Latecomers {
    fn on_message(&mut self, tag: u64, message: &[u8], now_ns: u64) {
        let stream = usize::try_from(tag).expect("a stream's number");
        let Self { book, target, events, arrived, last_arrival_ns } = self;
        book.on_response(stream, message, |_, _, event| {
            // One put is one revision, so the history's last event comes once to each.
            *events += u64::from(event.mod_revision <= *target);
            if event.mod_revision == *target {
                *arrived += 1;
                *last_arrival_ns = now_ns;
            }
        });
    }

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, _now_ns: u64) {
        self.book.faults.add("watch stream ended", || how_ended(tag, end));
    }
}

impl Watching for Latecomers {
    fn book(&mut self) -> &mut Book {
        &mut self.book
    }
}

/// Sets a flag however its scope is left.
pub(crate) struct SetOnDrop(pub Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl CatchUp {
    /// Watchers of everything after revision `base`, since when there were only puts of one key each; they
    /// come while `puts` go on. Puts alone are measured first, and become part of the history.
    pub(crate) fn run(
        &self,
        base: i64,
        puts: &SidePuts,
        subject: &Subject,
        bench: &Bench,
        timing: Timing,
    ) -> Result<Findings, ClientError> {
        let alone = puts.run(subject, bench, timing, None)?;
        let target = call::revision(&subject.endpoint, DEADLINE)?;
        let cutoff = Arc::new(AtomicBool::new(false));
        let ((late, took_ns, cpu_ns), beside) = std::thread::scope(|scope| {
            let (ready, is_ready) = mpsc::channel();
            let flag = SetOnDrop(Arc::clone(&cutoff));
            let watching = scope.spawn(move || {
                let _flag = flag;
                self.watch(base, target, (target - base).unsigned_abs(), subject, bench, &ready)
            });
            let mut beside = Err(ClientError::Interrupted);
            if is_ready.recv().is_ok() {
                let timing = Timing { warmup: Duration::ZERO, duration: Some(self.limit) };
                beside = puts.run(subject, bench, timing, Some(cutoff));
            }
            let watched = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, ClientError>((watched, beside?))
        })?;
        let mut findings = Findings::default();
        let events = late.events as f64;
        findings.add("events of history", Unit::Count, (target - base) as f64);
        findings.add("events", Unit::PerSecond, ratio(events, took_ns as f64 / 1e9));
        findings.add("until the last has all", Unit::Time, took_ns as f64 / 1e3);
        add_puts(&mut findings, "put alone", &alone);
        add_puts(&mut findings, "put beside catch-up", &beside);
        findings.add("client CPU an event", Unit::Cpu, ratio(cpu_ns as f64 / 1e3, events));
        findings.faults.extend(late.book.faults.lines());
        Ok(findings)
    }

    /// Lets them come, and says so to `ready`. Up to `target` each is told `events_each` events, or more. What they saw, how long it took, and the client's own time.
    pub(crate) fn watch(
        &self,
        base: i64,
        target: i64,
        events_each: u64,
        subject: &Subject,
        bench: &Bench,
        ready: &mpsc::Sender<()>,
    ) -> Result<(Latecomers, u64, u64), ClientError> {
        stage::pin_to(bench.streams_core())?;
        let clock = Clock::start();
        let mut streams = Streams::new(clock)?;
        let book = Book::new(&self.shape, base + 1);
        let mut late = Latecomers { book, target, events: 0, arrived: 0, last_arrival_ns: 0 };
        let lanes = streams.connect(&subject.endpoint, self.shape.connections, None)?;
        let refs = watchers::open_streams(&mut streams, lanes, &self.shape)?;
        let space = self.shape.space(1, 8);
        ready.send(()).map_err(|_| ClientError::Interrupted)?;
        let (start_ns, cpu_start_ns) = (clock.now_ns(), sys::thread_cpu_ns());
        watchers::create(&mut streams, &refs, &self.shape, &space, clock, &mut late)?;
        while late.arrived < self.shape.watchers && clock.now_ns() < start_ns + nanos(self.limit) {
            streams.turn(None, &mut late)?;
        }
        let missing = self.shape.watchers - late.arrived.min(self.shape.watchers);
        let limit = self.limit;
        late.book.faults.add_many("watcher did not catch up", missing as u64, || format!("within {limit:?}"));
        let expected = events_each * self.shape.watchers as u64;
        if missing == 0 && late.events < expected {
            let events = late.events;
            late.book.faults.add("history incomplete", || format!("{events} of {expected} events"));
        }
        let end_ns = if missing == 0 { late.last_arrival_ns } else { clock.now_ns() };
        Ok((late, end_ns - start_ns, sys::thread_cpu_ns() - cpu_start_ns))
    }
}

/// The end of a stream that should have lasted, for people.
fn how_ended(stream: u64, end: Result<(), (Failure, &str)>) -> String {
    match end {
        Ok(()) => format!("stream {stream}: the server ended it with OK"),
        Err((failure, "")) => format!("stream {stream}: {}", failure.name()),
        Err((failure, text)) => format!("stream {stream}: {}: {text}", failure.name()),
    }
}

/// A shape of watchers of all keys, one on each stream.
pub(crate) fn one_a_stream(watchers: usize, connections: usize) -> Shape {
    Shape { watchers, streams: watchers, connections, scope: Scope::Prefix }
}
