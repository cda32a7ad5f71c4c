//! One thread of load: its connections, what is in flight on them, and the loop that moves bytes.
//!
//! Each turn of the loop opens as many calls as may be opened, writes each connection's bytes with one
//! call, waits in epoll, and reads what came. With many calls in flight a system call is shared by many
//! requests, which is where the client's cheapness comes from.
//!
//! Invariants: `Flights` holds the calls of a connection in the order of their stream ids, so a reply
//! finds its call by subtraction, and the front is the oldest: only it can be the first to miss its
//! deadline. Its length is bounded by the calls opened within one deadline.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::client::{ClientError, Endpoint, Plan, Window, WorkerResult, nanos};
use crate::http2::{End, Sink};
use crate::link::{CONNECT_TIMEOUT, Link, OUT_BYTES_MAX, READ_BYTES};
use crate::schedule::Schedule;
use crate::sys::{self, Clock, Timer};
use crate::tally::{Failure, Tally};
use crate::workload::Generator;

/// The longest sleep in epoll: how late the window's edges and an interrupt may be noticed.
const POLL_MAX: Duration = Duration::from_millis(5);
/// Between two attempts to connect again.
const RECONNECT_PAUSE_NS: u64 = 50_000_000;
const TIMER: Token = Token(usize::MAX);

/// A call that was sent.
#[derive(Debug, Clone, Copy)]
struct Flight {
    due_ns: u64,
    sent_ns: u64,
    reply_bytes: u32,
    reply_bytes_min: u32,
    is_open: bool,
}

/// The calls of one connection.
#[derive(Debug, Default)]
struct Flights {
    /// Stream id of the front.
    first_stream: u32,
    calls: VecDeque<Flight>,
    open: usize,
}

impl Flights {
    fn push(&mut self, stream: u32, flight: Flight) {
        if self.calls.is_empty() {
            self.first_stream = stream;
        }
        let slot = u32::try_from(self.calls.len()).expect("stream ids have 31 bits");
        assert!(self.first_stream + 2 * slot == stream, "stream {stream} is out of order");
        self.calls.push_back(flight);
        self.open += 1;
    }

    /// The open call of a stream; none when it was given up or never was.
    fn get(&mut self, stream: u32) -> Option<&mut Flight> {
        let slot = stream.checked_sub(self.first_stream)? / 2;
        self.calls.get_mut(usize::try_from(slot).ok()?).filter(|flight| flight.is_open)
    }

    /// Closes a call and forgets the closed ones at the front.
    fn close(&mut self, stream: u32) -> Option<Flight> {
        let flight = self.get(stream)?;
        flight.is_open = false;
        let closed = *flight;
        self.open -= 1;
        while self.calls.front().is_some_and(|front| !front.is_open) {
            self.calls.pop_front();
            self.first_stream += 2;
        }
        Some(closed)
    }

    /// The oldest open call: the front, since `close` clears it.
    fn oldest(&self) -> Option<(u32, Flight)> {
        self.calls.front().map(|flight| (self.first_stream, *flight))
    }

    /// Takes every open call with a stream id above `last`.
    fn take_above(&mut self, last: u32) -> usize {
        let mut taken = 0;
        let mut stream = self.first_stream;
        for flight in &mut self.calls {
            if flight.is_open && last < stream {
                flight.is_open = false;
                taken += 1;
            }
            stream = stream.saturating_add(2);
        }
        self.open -= taken;
        while self.calls.front().is_some_and(|front| !front.is_open) {
            self.calls.pop_front();
            self.first_stream += 2;
        }
        taken
    }
}

/// What arrives, on its way into the tally.
struct Arrivals<'a> {
    flights: &'a mut Flights,
    tally: &'a mut Tally,
    now_ns: u64,
}

impl Sink for Arrivals<'_> {
    fn on_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    fn on_data(&mut self, stream: u32, payload: &[u8]) {
        if let Some(flight) = self.flights.get(stream) {
            let length = u32::try_from(payload.len()).expect("a frame");
            flight.reply_bytes = flight.reply_bytes.saturating_add(length);
        }
    }

    fn on_end(&mut self, stream: u32, end: End<'_>) {
        let Some(flight) = self.flights.close(stream) else { return };
        match end {
            End::Status { code: 0, .. } if flight.reply_bytes_min <= flight.reply_bytes => {
                self.tally.on_reply(flight.due_ns, self.now_ns);
            }
            End::Status { code: 0, .. } => {
                let example = format!("{} bytes, want {}", flight.reply_bytes, flight.reply_bytes_min);
                self.tally.on_failure(Failure::ShortReply, &example);
            }
            End::Status { code, message } => self.tally.on_failure(Failure::Status(code), message),
            End::Reset(code) => self.tally.on_failure(Failure::Reset(code), ""),
        }
    }
}

/// A connection and the calls on it.
#[derive(Debug)]
struct Lane {
    link: Link,
    flights: Flights,
    broken: Option<Broken>,
}

/// Since when a connection is broken, and when to try the next one.
#[derive(Debug, Clone, Copy)]
struct Broken {
    since_ns: u64,
    retry_at_ns: u64,
}

impl Lane {
    fn connect(endpoint: &Endpoint, clock: Clock) -> Result<Self, ClientError> {
        let link = Link::connect(endpoint, endpoint.connection(), clock)?;
        Ok(Self { link, flights: Flights::default(), broken: None })
    }

    fn has_room(&self, in_flight: usize) -> bool {
        self.broken.is_none()
            && self.flights.open < in_flight
            && self.flights.open < usize::try_from(self.link.connection.streams_max()).expect("32 bits fit")
            && self.link.connection.can_open()
            && self.link.waiting_bytes() < OUT_BYTES_MAX
    }

    /// Reads all that has come.
    fn read(&mut self, buffer: &mut [u8], tally: &mut Tally, clock: Clock) -> Result<(), String> {
        let mut arrivals = Arrivals { flights: &mut self.flights, tally, now_ns: 0 };
        self.link.read(buffer, u32::MAX, clock, &mut arrivals).map(|_| ())
    }
}

/// One thread's part of a run.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    plan: &'a Plan,
    clock: Clock,
    index: usize,
    poll: Poll,
    events: Events,
    timer: Timer,
    lanes: Vec<Lane>,
    buffer: Vec<u8>,
    message: Vec<u8>,
    generator: Generator,
    is_exhausted: bool,
    /// The lane that the next open-loop request tries first.
    turn: usize,
    reconnects: u64,
}

impl<'a> Worker<'a> {
    /// Connects this worker's share and waits for every server greeting.
    pub(crate) fn connect(plan: &'a Plan, index: usize, clock: Clock) -> Result<Self, ClientError> {
        let io = |operation| move |source| ClientError::Io { operation, source };
        let workers = plan.workers();
        let poll = Poll::new().map_err(io("epoll"))?;
        let timer = Timer::new().map_err(io("timerfd"))?;
        let timer_fd = timer.fd();
        poll.registry()
            .register(&mut SourceFd(&timer_fd), TIMER, Interest::READABLE)
            .map_err(io("epoll add"))?;
        let mut worker = Self {
            plan,
            clock,
            index,
            poll,
            events: Events::with_capacity(1024),
            timer,
            lanes: Vec::new(),
            buffer: vec![0; READ_BYTES],
            message: Vec::with_capacity(4096),
            generator: Generator::new(&plan.space, &plan.load, plan.seed, index as u64, workers as u64),
            is_exhausted: false,
            turn: 0,
            reconnects: 0,
        };
        let lanes = (index..plan.connections).step_by(workers).count();
        for slot in 0..lanes {
            let mut lane = Lane::connect(worker.endpoint(slot), clock)?;
            worker.register(slot, &mut lane.link).map_err(io("epoll add"))?;
            worker.lanes.push(lane);
        }
        worker.wait_for_settings()?;
        Ok(worker)
    }

    /// Where a lane goes: the run's connections take the endpoints in turn.
    fn endpoint(&self, slot: usize) -> &'a Endpoint {
        let connection = self.index + slot * self.plan.workers();
        &self.plan.endpoints[connection % self.plan.endpoints.len()]
    }

    fn register(&self, slot: usize, link: &mut Link) -> std::io::Result<()> {
        self.poll.registry().register(&mut link.stream, Token(slot), Interest::READABLE | Interest::WRITABLE)
    }

    fn wait_for_settings(&mut self) -> Result<(), ClientError> {
        let give_up_ns = self.clock.now_ns() + nanos(CONNECT_TIMEOUT);
        let mut tally = Tally::new(u64::MAX, u64::MAX);
        loop {
            for slot in 0..self.lanes.len() {
                let address = self.endpoint(slot).address;
                let flushed = self.lanes[slot].link.flush();
                flushed.map_err(|error| ClientError::NoSettings(address, error))?;
            }
            if self.lanes.iter().all(|lane| lane.link.connection.is_settled()) {
                return Ok(());
            }
            if give_up_ns < self.clock.now_ns() {
                let silent = self.lanes.iter().position(|lane| !lane.link.connection.is_settled());
                let address = self.endpoint(silent.unwrap_or_default()).address;
                return Err(ClientError::NoSettings(address, "no SETTINGS frame came".to_owned()));
            }
            if sys::is_interrupted() {
                return Err(ClientError::Interrupted);
            }
            self.wait(POLL_MAX)?;
            for slot in 0..self.lanes.len() {
                let address = self.endpoint(slot).address;
                let lane = &mut self.lanes[slot];
                lane.link.is_blocked = false;
                lane.read(&mut self.buffer, &mut tally, self.clock)
                    .map_err(|error| ClientError::NoSettings(address, error))?;
            }
        }
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), ClientError> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                Err(ClientError::Io { operation: "epoll wait", source: error })
            }
            _ => Ok(()),
        }
    }

    /// Runs from `window.start_ns` until every request has its reply, its failure or its deadline.
    pub(crate) fn run(&mut self, mut window: Window, live: &AtomicU64) -> Result<WorkerResult, ClientError> {
        let mut tally = Tally::new(window.measure_start_ns, window.stop_ns);
        tally.timeline = self.plan.keeps_timeline.then(Vec::new);
        let mut schedule = self.plan.rate_per_s.map(|rate| {
            let workers = self.plan.workers() as u64;
            Schedule::new(window.start_ns, window.stop_ns, rate, self.index as u64, workers)
        });
        while self.clock.now_ns() < window.start_ns {
            std::hint::spin_loop();
        }
        let mut cpu_start_ns = None;
        let mut cpu_ns = None;
        loop {
            let now_ns = self.clock.now_ns();
            // Not before the window opened: a run that was cut short in its warm-up has an empty window.
            let cut_ns = now_ns.max(window.measure_start_ns);
            if cut_ns < window.stop_ns
                && self.plan.cutoff.as_ref().is_some_and(|cutoff| cutoff.load(Ordering::Relaxed))
            {
                window.stop_ns = cut_ns;
                tally.close(window.stop_ns);
                if let Some(schedule) = &mut schedule {
                    schedule.close(window.stop_ns);
                }
            }
            if cpu_start_ns.is_none() && window.measure_start_ns <= now_ns {
                cpu_start_ns = Some(sys::thread_cpu_ns());
            }
            if cpu_ns.is_none() && window.stop_ns <= now_ns {
                cpu_ns = cpu_start_ns.map(|start_ns| sys::thread_cpu_ns() - start_ns);
            }
            self.expire(now_ns, &mut tally);
            let is_producing = now_ns < window.stop_ns && !self.is_exhausted;
            let mut next_due_ns = None;
            if let Some(schedule) = &mut schedule {
                next_due_ns = self.send_due(now_ns, schedule, &mut tally);
                if !is_producing {
                    while let Some(due_ns) = schedule.peek() {
                        tally.on_unsent(due_ns, window.stop_ns);
                        schedule.advance();
                    }
                }
            } else if is_producing {
                self.send_all(&mut tally);
            }
            self.flush(&mut tally);
            live.store(tally.replies, Ordering::Relaxed);
            let is_idle = self.lanes.iter().all(|lane| lane.flights.open == 0);
            if (!is_producing && is_idle) || sys::is_interrupted() {
                break;
            }
            if let Some(due_ns) = next_due_ns
                && !self.plan.is_spinning
            {
                let delay_ns = due_ns.saturating_sub(self.clock.now_ns());
                self.timer
                    .set(delay_ns)
                    .map_err(|source| ClientError::Io { operation: "timerfd", source })?;
            }
            self.wait(if self.plan.is_spinning { Duration::ZERO } else { POLL_MAX })?;
            self.read_ready(&mut tally)?;
        }
        let cpu_start_ns = cpu_start_ns.unwrap_or_default();
        let cpu_ns = cpu_ns.unwrap_or_else(|| sys::thread_cpu_ns() - cpu_start_ns);
        Ok(WorkerResult { tally, stop_ns: window.stop_ns, cpu_ns, reconnects: self.reconnects })
    }

    /// Closed loop: every connection is kept full.
    fn send_all(&mut self, tally: &mut Tally) {
        for slot in 0..self.lanes.len() {
            while !self.is_exhausted && self.lanes[slot].has_room(self.plan.in_flight) {
                // Read anew for each request: a fill of hundreds takes long enough to matter.
                let now_ns = self.clock.now_ns();
                self.send(slot, now_ns, now_ns, tally);
            }
        }
    }

    /// Open loop: sends what is due, on the connections in turn. Tells when the next request is due, if
    /// there is a connection to send it on; with every connection full only a reply can help.
    fn send_due(&mut self, now_ns: u64, schedule: &mut Schedule, tally: &mut Tally) -> Option<u64> {
        loop {
            let due_ns = schedule.peek()?;
            if now_ns < due_ns {
                return Some(due_ns);
            }
            let lanes = self.lanes.len();
            let free = (0..lanes)
                .map(|step| (self.turn + step) % lanes)
                .find(|&slot| self.lanes[slot].has_room(self.plan.in_flight))?;
            self.turn = (free + 1) % lanes;
            let sent_ns = self.clock.now_ns();
            self.send(free, due_ns, sent_ns, tally);
            schedule.advance();
        }
    }

    fn send(&mut self, slot: usize, due_ns: u64, sent_ns: u64, tally: &mut Tally) {
        let Some(call) = self.generator.next(&mut self.message) else {
            self.is_exhausted = true;
            return;
        };
        let lane = &mut self.lanes[slot];
        let stream = lane.link.connection.open(call.method, &self.message);
        let reply_bytes_min = call.reply_bytes_min;
        lane.flights.push(stream, Flight { due_ns, sent_ns, reply_bytes: 0, reply_bytes_min, is_open: true });
        tally.on_sent(due_ns, sent_ns);
    }

    fn flush(&mut self, tally: &mut Tally) {
        for slot in 0..self.lanes.len() {
            let lane = &mut self.lanes[slot];
            if lane.broken.is_none()
                && !lane.link.connection.out.is_empty()
                && let Err(error) = lane.link.flush()
            {
                self.on_broken(slot, &error, tally);
            }
        }
    }

    fn read_ready(&mut self, tally: &mut Tally) -> Result<(), ClientError> {
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let Token(slot) = event.token();
            if event.token() == TIMER || self.lanes[slot].broken.is_some() {
                continue;
            }
            let lane = &mut self.lanes[slot];
            if event.is_writable() {
                lane.link.is_blocked = false;
            }
            if event.is_readable()
                && let Err(error) = lane.read(&mut self.buffer, tally, self.clock)
            {
                self.on_broken(slot, &error, tally);
            }
        }
        self.events = events;
        for slot in 0..self.lanes.len() {
            self.renew(slot, tally)?;
        }
        Ok(())
    }

    /// Every call of a broken connection has failed; a new one is made after a pause.
    fn on_broken(&mut self, slot: usize, error: &str, tally: &mut Tally) {
        let lane = &mut self.lanes[slot];
        for _ in 0..lane.flights.take_above(0) {
            tally.on_failure(Failure::ConnectionLost, error);
        }
        let now_ns = self.clock.now_ns();
        lane.broken = Some(Broken { since_ns: now_ns, retry_at_ns: now_ns });
    }

    /// Replaces a connection that is broken, or spent and out of calls. Connecting blocks this worker:
    /// on the loopback that is microseconds, and elsewhere an event worth its trace in the latencies.
    /// A server that stays away for a whole deadline ends a fill.
    fn renew(&mut self, slot: usize, tally: &mut Tally) -> Result<(), ClientError> {
        let lane = &mut self.lanes[slot];
        if let Some(last) = lane.link.connection.goaway() {
            for _ in 0..lane.flights.take_above(last) {
                tally.on_failure(Failure::ConnectionLost, "passed over by GOAWAY");
            }
        }
        let connection = &lane.link.connection;
        if lane.broken.is_none() && connection.is_settled() && !connection.is_spent() {
            return Ok(());
        }
        let now_ns = self.clock.now_ns();
        if !connection.is_settled() && lane.link.born_ns + nanos(CONNECT_TIMEOUT) < now_ns {
            self.on_broken(slot, "no SETTINGS frame came", tally);
        }
        let lane = &self.lanes[slot];
        let is_due = match lane.broken {
            Some(broken) => broken.retry_at_ns <= now_ns,
            None => lane.link.connection.is_spent() && lane.flights.open == 0,
        };
        if !is_due {
            return Ok(());
        }
        match Lane::connect(self.endpoint(slot), self.clock) {
            Ok(mut fresh) => {
                self.register(slot, &mut fresh.link)
                    .map_err(|source| ClientError::Io { operation: "epoll add", source })?;
                // The old socket leaves epoll when it is closed here.
                self.lanes[slot] = fresh;
                self.reconnects += 1;
            }
            Err(error) => {
                let since_ns = self.lanes[slot].broken.map_or(now_ns, |broken| broken.since_ns);
                // A timed run ends by itself and tells what was lost; a fill would wait for ever.
                if self.plan.duration.is_none() && since_ns + nanos(self.plan.deadline) < now_ns {
                    return Err(error);
                }
                let retry_at_ns = self.clock.now_ns() + RECONNECT_PAUSE_NS;
                self.lanes[slot].broken = Some(Broken { since_ns, retry_at_ns });
            }
        }
        Ok(())
    }

    /// Gives up on calls past their deadline.
    fn expire(&mut self, now_ns: u64, tally: &mut Tally) {
        let deadline_ns = nanos(self.plan.deadline);
        for lane in &mut self.lanes {
            while let Some((stream, flight)) = lane.flights.oldest()
                && flight.sent_ns + deadline_ns <= now_ns
            {
                lane.flights.close(stream);
                lane.link.connection.cancel(stream);
                tally.on_missing(flight.due_ns, now_ns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(due_ns: u64) -> Flight {
        Flight { due_ns, sent_ns: due_ns, reply_bytes: 0, reply_bytes_min: 0, is_open: true }
    }

    #[test]
    fn replies_find_their_calls_in_any_order() {
        let mut flights = Flights::default();
        for slot in 0..5 {
            flights.push(1 + 2 * slot, flight(u64::from(slot)));
        }
        assert_eq!(flights.close(5).unwrap().due_ns, 2);
        assert!(flights.close(5).is_none(), "answered twice");
        assert!(flights.close(11).is_none(), "never asked");
        assert_eq!(flights.oldest().unwrap().0, 1);
        flights.close(1);
        flights.close(3);
        assert_eq!(flights.oldest().unwrap().0, 7, "closed calls at the front are forgotten");
        assert!(flights.close(1).is_none());
        assert_eq!(flights.open, 2);
        flights.push(11, flight(9));
        assert_eq!(flights.take_above(7), 2);
        assert_eq!(flights.open, 1);
        assert_eq!(flights.close(7).unwrap().due_ns, 3);
        assert!(flights.calls.is_empty());
        flights.push(13, flight(1));
        assert_eq!(flights.oldest().unwrap().0, 13);
    }
}
