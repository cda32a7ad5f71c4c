//! Fan-out: one writer, many watchers, every delivery counted and timed.
//!
//! Every value begins with the put's number, so an event is led back to the moment its put was due and to
//! the moment its reply came, on one thread and one clock. Closed loop: a number of puts are on their way
//! at any time, and one has arrived only when the last of its watchers has it; that finds the rate
//! that the server can keep up without a backlog. Open loop: puts are due at a fixed rate whatever
//! happens, as in `worker`.
//!
//! Invariants: `Journal::puts` are the puts from the oldest that is not over to the newest; a delivery
//! that no put in there waits for is a fault.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::{ClientError, Window, nanos};
use crate::findings::{Faults, Findings, Unit, times};
use crate::http2::Method;
use crate::messages;
use crate::report::ratio;
use crate::schedule::Schedule;
use crate::stage::{self, Timing};
use crate::streams::{Script, Streams};
use crate::subject::{CpuGauge, Subject};
use crate::sys::{self, Clock};
use crate::tally::Failure;
use crate::watchers::{self, Book, Scope, Shape, Watching};
use crate::workload::{PREFIX, SplitMix64};

/// A call's tag: above the numbers of streams.
const CALL: u64 = 1 << 63;
/// Open loop: puts in flight at most.
const IN_FLIGHT_MAX: usize = 4096;
/// How puts follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pace {
    /// Puts that have not reached all their watchers, at most.
    InFlight(usize),
    /// Puts a second.
    Rate(u64),
}

/// What to play.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FanOut {
    pub shape: Shape,
    pub pace: Pace,
    /// Keys that are put when a prefix is watched.
    pub keys: u64,
    pub value_bytes: usize,
    pub seed: u64,
    /// How long after the last put the last event may come.
    pub drain: Duration,
}

impl fmt::Display for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.shape.space(self.keys, self.value_bytes).keys;
        write!(f, "fan-out: {}; puts of {} B to {keys} keys, ", self.shape, self.value_bytes)?;
        match self.pace {
            Pace::InFlight(puts) => write!(f, "{puts} in flight"),
            Pace::Rate(rate) => write!(f, "{rate} /s"),
        }
    }
}

/// A put that is not over.
#[derive(Debug, Clone, Copy)]
struct Put {
    due_ns: u64,
    /// 0 until its reply came.
    replied_ns: u64,
    /// Deliveries that are missing.
    left: usize,
}

/// The puts that are not over, by number.
#[derive(Debug, Default)]
struct Journal {
    first: u64,
    puts: VecDeque<Put>,
}

impl Journal {
    fn push(&mut self, put: Put) -> u64 {
        self.puts.push_back(put);
        self.first + self.puts.len() as u64 - 1
    }

    fn get(&mut self, number: u64) -> Option<&mut Put> {
        let slot = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.puts.get_mut(slot)
    }

    /// Forgets the puts at the front that are over.
    fn settle(&mut self) {
        while self.puts.front().is_some_and(|put| put.replied_ns != 0 && put.left == 0) {
            self.puts.pop_front();
            self.first += 1;
        }
    }
}

/// One fan-out as it plays.
#[derive(Debug)]
struct Play {
    shape: Shape,
    book: Book,
    journal: Journal,
    window: Window,
    events: u64,
    events_in_window: u64,
    puts_in_window: u64,
    put: Histogram<u64>,
    to_event: Histogram<u64>,
    reply_to_event: Histogram<u64>,
    to_last: Histogram<u64>,
    cpu_ns: u64,
}

impl Play {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            book: Book::new(&shape, 0),
            journal: Journal::default(),
            window: Window { start_ns: u64::MAX, measure_start_ns: u64::MAX, stop_ns: u64::MAX },
            events: 0,
            events_in_window: 0,
            puts_in_window: 0,
            put: times(),
            to_event: times(),
            reply_to_event: times(),
            to_last: times(),
            cpu_ns: 0,
        }
    }

    fn is_measured(window: Window, time_ns: u64) -> bool {
        window.measure_start_ns <= time_ns && time_ns < window.stop_ns
    }

    /// What never came counts with the time it was waited for.
    fn give_up(&mut self, now_ns: u64, drain: Duration) {
        let mut undelivered = 0;
        for put in &self.journal.puts {
            undelivered += put.left as u64;
            if Self::is_measured(self.window, put.due_ns) {
                let waited_ns = now_ns - put.due_ns;
                self.to_event.record_n(waited_ns, put.left as u64).expect("shorter than ten minutes");
                if put.left != 0 {
                    self.to_last.saturating_record(waited_ns);
                }
                if put.replied_ns == 0 {
                    self.put.saturating_record(waited_ns);
                }
            }
        }
        let unanswered = self.journal.puts.iter().filter(|put| put.replied_ns == 0).count() as u64;
        let text = || format!("{drain:?} after the last put");
        self.book.faults.add_many("event not delivered", undelivered, text);
        self.book.faults.add_many("put not answered", unanswered, text);
    }
}

impl Script for Play {
    fn on_message(&mut self, tag: u64, message: &[u8], now_ns: u64) {
        if tag & CALL != 0 {
            return; // its end tells more
        }
        let Self { shape, book, journal, window, .. } = self;
        let (mut events, mut unknown) = (0, 0);
        let stream = usize::try_from(tag).expect("a stream's number");
        book.on_response(stream, message, |faults: &mut Faults, watcher, event| {
            events += 1;
            let number = event.value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let Some(put) = number.and_then(|number| journal.get(number)).filter(|put| 0 < put.left) else {
                unknown += 1;
                return;
            };
            if shape.scope == Scope::DistinctKeys && key_number(event.key) != Some(watcher as u64) {
                faults.add("event of another watcher's key", || format!("watcher {watcher}"));
            }
            put.left -= 1;
            if Self::is_measured(*window, put.due_ns) {
                let took_ns = now_ns.saturating_sub(put.due_ns);
                self.to_event.saturating_record(took_ns);
                // Nothing for an event that overtook the reply.
                let after_ns = if put.replied_ns == 0 { 0 } else { now_ns.saturating_sub(put.replied_ns) };
                self.reply_to_event.saturating_record(after_ns);
                if put.left == 0 {
                    self.to_last.saturating_record(took_ns);
                }
            }
        });
        book.faults.add_many("event of no put that is waited for", unknown, || format!("stream {stream}"));
        self.events += events;
        if Self::is_measured(*window, now_ns) {
            self.events_in_window += events;
        }
        journal.settle();
    }

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, now_ns: u64) {
        if let Err((failure, text)) = end {
            self.book.faults.add(&failure.name(), || text.to_owned());
        }
        if tag & CALL == 0 {
            self.book.faults.add("watch stream ended", || format!("stream {tag}"));
            return;
        }
        let Some(put) = self.journal.get(tag & !CALL) else { return };
        put.replied_ns = now_ns;
        if end.is_err() {
            put.left = 0; // it may or may not have happened
        } else if Self::is_measured(self.window, put.due_ns) {
            self.put.saturating_record(now_ns.saturating_sub(put.due_ns));
            self.puts_in_window += 1;
        }
        self.journal.settle();
    }
}

impl Watching for Play {
    fn book(&mut self) -> &mut Book {
        &mut self.book
    }
}

/// The number in one of `Space`'s keys.
fn key_number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?.parse().ok()
}

impl FanOut {
    /// What `drain` is outside tests.
    pub(crate) const DRAIN: Duration = Duration::from_secs(10);

    /// Plays it against `subject`.
    pub(crate) fn run(
        &self,
        subject: &Subject,
        core: Option<usize>,
        timing: Timing,
    ) -> Result<Findings, ClientError> {
        let mut gauge = CpuGauge::new(subject);
        let endpoint = &subject.endpoint;
        let play = stage::play(core, timing, &mut gauge, |cue| {
            let clock = Clock::start();
            let mut streams = Streams::new(clock)?;
            let watching = streams.connect(endpoint, self.shape.connections, None)?;
            let mut play = self.prepare(&mut streams, watching, clock)?;
            let writer = streams.connect(endpoint, 1, None)?.start;
            play.window = cue.ready()?;
            self.load(&mut streams, writer, clock, &mut play)?;
            Ok(play)
        })?;
        Ok(self.findings(&play, &gauge))
    }

    fn prepare(
        &self,
        streams: &mut Streams,
        lanes: std::ops::Range<usize>,
        clock: Clock,
    ) -> Result<Play, ClientError> {
        let mut play = Play::new(self.shape);
        let space = self.shape.space(self.keys, self.value_bytes);
        let refs = watchers::open_streams(streams, lanes, &self.shape)?;
        watchers::create(streams, &refs, &self.shape, &space, clock, &mut play)?;
        Ok(play)
    }

    fn load(
        &self,
        streams: &mut Streams,
        writer: usize,
        clock: Clock,
        play: &mut Play,
    ) -> Result<(), ClientError> {
        let window = play.window;
        let space = self.shape.space(self.keys, self.value_bytes);
        let mut random = SplitMix64(self.seed);
        let mut value = vec![0; self.value_bytes];
        value.fill_with(|| random.next().to_le_bytes()[0]);
        let (mut key, mut message) = (Vec::new(), Vec::new());
        let mut schedule = match self.pace {
            Pace::Rate(rate) => Some(Schedule::new(window.start_ns, window.stop_ns, rate, 0, 1)),
            Pace::InFlight(_) => None,
        };
        let mut put = |streams: &mut Streams, play: &mut Play, due_ns: u64| {
            let left = self.shape.watchers_per_put();
            let number = play.journal.push(Put { due_ns, replied_ns: 0, left });
            value[..8].copy_from_slice(&number.to_le_bytes());
            key.clear();
            space.put_key(&mut key, random.below(space.keys));
            message.clear();
            messages::put_put(&mut message, &key, &value, 0);
            streams.call(writer, Method::Put, &message, CALL | number);
        };
        let (mut cpu_start_ns, mut is_over) = (None, false);
        loop {
            let now_ns = clock.now_ns();
            if cpu_start_ns.is_none() && window.measure_start_ns <= now_ns {
                cpu_start_ns = Some(sys::thread_cpu_ns());
            }
            if !is_over && window.stop_ns <= now_ns {
                is_over = true;
                play.cpu_ns = cpu_start_ns.map_or(0, |start_ns| sys::thread_cpu_ns() - start_ns);
            }
            let mut until_ns = None;
            match (&mut schedule, self.pace) {
                _ if now_ns < window.start_ns => until_ns = Some(window.start_ns),
                (Some(schedule), _) => {
                    while let Some(due_ns) = schedule.peek() {
                        if now_ns < due_ns {
                            until_ns = Some(due_ns);
                            break;
                        }
                        if !streams.has_room(writer, IN_FLIGHT_MAX) {
                            break;
                        }
                        put(streams, play, due_ns);
                        schedule.advance();
                    }
                }
                (None, Pace::InFlight(in_flight)) if !is_over => {
                    while play.journal.puts.len() < in_flight && streams.has_room(writer, in_flight) {
                        put(streams, play, clock.now_ns());
                    }
                }
                _ => {}
            }
            if is_over && play.journal.puts.is_empty() {
                break;
            }
            if window.stop_ns.saturating_add(nanos(self.drain)) < now_ns {
                play.give_up(now_ns, self.drain);
                break;
            }
            streams.turn(until_ns, play)?;
        }
        let unsent = std::iter::from_fn(|| {
            let schedule = schedule.as_mut()?;
            let due_ns = schedule.peek()?;
            schedule.advance();
            play.put.saturating_record(window.stop_ns - due_ns);
            Some(())
        })
        .count();
        play.book
            .faults
            .add_many("put due but never sent", unsent as u64, || "too many in flight".to_owned());
        Ok(())
    }

    fn findings(&self, play: &Play, gauge: &CpuGauge<'_>) -> Findings {
        let window_s = (play.window.stop_ns - play.window.measure_start_ns) as f64 / 1e9;
        let events = play.events_in_window as f64;
        let client_us = play.cpu_ns as f64 / 1e3;
        let mut findings = Findings::default();
        findings.add("events", Unit::PerSecond, ratio(events, window_s));
        findings.add("puts", Unit::PerSecond, ratio(play.puts_in_window as f64, window_s));
        findings.add_times("put", &play.put);
        findings.add_times("put to event", &play.to_event);
        findings.add_times("reply to event", &play.reply_to_event);
        if 1 < self.shape.watchers_per_put() {
            findings.add_times("put to last watcher", &play.to_last);
        }
        let client = Duration::from_nanos(play.cpu_ns);
        gauge.add_to(&mut findings, "server CPU an event", events, client, window_s);
        findings.add("client CPU an event", Unit::Cpu, ratio(client_us, events));
        findings.add("client thread busy", Unit::Percent, ratio(client_us, window_s * 1e4));
        findings.faults = play.book.faults.lines();
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_over_when_it_is_answered_and_everyone_has_it() {
        let mut journal = Journal::default();
        let put = |left| Put { due_ns: 1, replied_ns: 0, left };
        assert_eq!((journal.push(put(1)), journal.push(put(2)), journal.push(put(0))), (0, 1, 2));
        journal.get(1).unwrap().left = 0;
        journal.get(1).unwrap().replied_ns = 5;
        journal.get(2).unwrap().replied_ns = 5;
        journal.settle();
        assert_eq!(journal.puts.len(), 3, "the first is not over");
        journal.get(0).unwrap().left = 0;
        journal.settle();
        assert_eq!(journal.puts.len(), 3, "delivered but not answered");
        journal.get(0).unwrap().replied_ns = 6;
        journal.settle();
        assert!(journal.puts.is_empty());
        assert!(journal.get(1).is_none());
        assert_eq!(journal.push(put(1)), 3, "numbers go on");
    }

    #[test]
    fn a_key_leads_back_to_its_number() {
        let space =
            Shape { watchers: 5000, streams: 1, connections: 1, scope: Scope::DistinctKeys }.space(1, 8);
        let mut key = Vec::new();
        space.put_key(&mut key, 4321);
        assert_eq!(key_number(&key), Some(4321));
        assert_eq!(key_number(b"else"), None);
    }
}
