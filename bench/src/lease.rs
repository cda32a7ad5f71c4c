//! Leases: keep-alives as fast as they go, and many leases that die together.
//!
//! Granting is a unary call and so a scenario of `run`. Here is what runs over streams: keep-alives, of
//! which a stream carries many at a time and gets the answers in order, and the deletes of a mass expiry,
//! which a watcher brings.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::{ClientError, Window, nanos};
use crate::findings::{Faults, Findings, Unit, times};
use crate::http2::Method;
use crate::messages;
use crate::protobuf::Malformed;
use crate::report::ratio;
use crate::stage::{self, Timing};
use crate::streams::{Script, StreamRef, Streams};
use crate::subject::{CpuGauge, Subject};
use crate::sys::{self, Clock};
use crate::tally::Failure;
use crate::watch::{Bench, SetOnDrop, SidePuts, add_puts};
use crate::watchers::{Book, Scope, Shape};

/// Leases of the keep-alive scenario outlive it.
const LONG_TTL_S: i64 = 3600;
/// A call's tag: above the numbers of streams.
const CALL: u64 = 1 << 63;
/// Calls in flight on each connection while leases are set up.
const SETUP_IN_FLIGHT: usize = 64;
const SETUP_CONNECTIONS: usize = 4;
/// How long setting up may take.
const SETUP_TIMEOUT: Duration = Duration::from_secs(120);
/// Expiring keys live below this.
const KEY_PREFIX: &[u8] = b"lease/";
const KEY_PREFIX_END: &[u8] = b"lease0";
/// Puts begin this long before the first lease is due.
const LEAD: Duration = Duration::from_millis(500);
/// The tags of the expiry's two streams.
const WATCH_TAG: u64 = 0;
const KEEP_ALIVE_TAG: u64 = 1;

/// Replies to a number of calls.
#[derive(Debug, Default)]
struct Replies {
    /// Lease ids, by the number of the call that granted them.
    ids: Vec<i64>,
    /// When each call was sent, as far as this is long.
    sent_ns: Vec<u64>,
    wanted_ttl_s: i64,
    done: usize,
    faults: Faults,
}

/// An answer about a lease, for people.
fn told(reply: &Result<(i64, i64), Malformed>) -> String {
    match reply {
        Ok((id, ttl_s)) => format!("lease {id}, TTL {ttl_s} s"),
        Err(Malformed) => "a message that cannot be read".to_owned(),
    }
}

impl Replies {
    fn on_grant(&mut self, call: u64, message: &[u8]) {
        let slot = usize::try_from(call).ok().and_then(|call| self.ids.get_mut(call));
        match (slot, messages::read_lease(message)) {
            (Some(slot), Ok((id, ttl_s))) if id != 0 && ttl_s == self.wanted_ttl_s => *slot = id,
            (_, reply) => self.faults.add("wrong grant", || told(&reply)),
        }
    }

    fn on_end(&mut self, end: Result<(), (Failure, &str)>) {
        self.done += 1;
        if let Err((failure, text)) = end {
            self.faults.add(&failure.name(), || text.to_owned());
        }
    }
}

/// A script that counts replies.
trait Replied: Script {
    fn replies(&mut self) -> &mut Replies;
}

/// Makes `count` calls over `lanes` and waits for all replies.
fn call_all(
    streams: &mut Streams,
    lanes: Range<usize>,
    count: usize,
    method: Method,
    script: &mut impl Replied,
    mut write: impl FnMut(&mut Vec<u8>, usize, &Replies),
) -> Result<(), ClientError> {
    let clock = Clock::start();
    let give_up_ns = clock.now_ns() + nanos(SETUP_TIMEOUT);
    let mut message = Vec::new();
    let mut sent = 0;
    script.replies().done = 0;
    while script.replies().done < count {
        for lane in lanes.clone() {
            while sent < count && streams.has_room(lane, SETUP_IN_FLIGHT) {
                message.clear();
                write(&mut message, sent, script.replies());
                if let Some(sent_ns) = script.replies().sent_ns.get_mut(sent) {
                    *sent_ns = clock.now_ns();
                }
                streams.call(lane, method, &message, CALL | sent as u64);
                sent += 1;
            }
        }
        streams.turn(None, script)?;
        let replies = script.replies();
        if !replies.faults.is_empty() || give_up_ns < clock.now_ns() {
            let lines = replies.faults.lines();
            let faults: Vec<_> =
                lines.iter().map(|line| format!("{}: {}", line.what, line.example)).collect();
            let text = format!("{} of {count} calls answered; {}", replies.done, faults.join(", "));
            return Err(ClientError::Call(text));
        }
    }
    Ok(())
}

/// Keep-alives, closed loop.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct KeepAlive {
    pub leases: usize,
    pub streams: usize,
    pub connections: usize,
    /// On each stream.
    pub in_flight: usize,
}

impl fmt::Display for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leases, streams, connections, in_flight } = self;
        write!(
            f,
            "keep-alives of {leases} leases, {streams} streams x {in_flight} in flight, {connections} connections"
        )
    }
}

/// A stream's keep-alives that are not answered: lease and time of sending, in the order of both.
#[derive(Debug)]
struct Lane {
    at: StreamRef,
    waiting: VecDeque<(i64, u64)>,
    /// The stream renews leases `next`, `next + streams`, ...
    next: usize,
}

#[derive(Debug)]
struct KeepAlivePlay {
    replies: Replies,
    lanes: Vec<Lane>,
    window: Window,
    renewed_in_window: u64,
    latency: Histogram<u64>,
    cpu_ns: u64,
}

impl Script for KeepAlivePlay {
    fn on_message(&mut self, tag: u64, message: &[u8], now_ns: u64) {
        if tag & CALL != 0 {
            self.replies.on_grant(tag & !CALL, message);
            return;
        }
        let lane = &mut self.lanes[usize::try_from(tag).expect("a stream's number")];
        let asked = lane.waiting.pop_front();
        let reply = messages::read_lease(message);
        let sent_ns = match (asked, reply) {
            (Some((id, sent_ns)), Ok((answered, LONG_TTL_S))) if id == answered => sent_ns,
            _ => {
                self.replies.faults.add("wrong keep-alive", || {
                    let asked = asked.map_or("nothing".to_owned(), |(id, _)| format!("lease {id}"));
                    format!("asked for {asked}, answered: {}", told(&reply))
                });
                return;
            }
        };
        if self.window.measure_start_ns <= now_ns && now_ns < self.window.stop_ns {
            self.renewed_in_window += 1;
            self.latency.saturating_record(now_ns - sent_ns);
        }
    }

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, _now_ns: u64) {
        if tag & CALL == 0 {
            self.replies.faults.add("keep-alive stream ended", || format!("stream {tag}"));
        }
        self.replies.on_end(end);
    }
}

impl Replied for KeepAlivePlay {
    fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }
}

impl KeepAlive {
    pub(crate) fn run(
        &self,
        subject: &Subject,
        bench: &Bench,
        timing: Timing,
    ) -> Result<Findings, ClientError> {
        let mut gauge = CpuGauge::new(subject);
        let play = stage::play(bench.streams_core(), timing, &mut gauge, |cue| {
            let mut streams = Streams::new(Clock::start())?;
            let lanes = streams.connect(&subject.endpoint, self.connections.max(SETUP_CONNECTIONS), None)?;
            let mut play = self.prepare(&mut streams, lanes)?;
            let first = streams.connect(&subject.endpoint, self.connections, None)?.start;
            for number in 0..self.streams {
                let lane = first + number % self.connections;
                let at = streams.open(lane, Method::LeaseKeepAlive, number as u64);
                play.lanes.push(Lane { at, waiting: VecDeque::new(), next: number % self.leases });
            }
            play.window = cue.ready()?;
            self.load(&mut streams, &mut play)?;
            Ok(play)
        })?;
        let window_s = (play.window.stop_ns - play.window.measure_start_ns) as f64 / 1e9;
        let renewed = play.renewed_in_window as f64;
        let client_us = play.cpu_ns as f64 / 1e3;
        let mut findings = Findings::default();
        findings.add("keep-alives", Unit::PerSecond, ratio(renewed, window_s));
        findings.add_times("keep-alive", &play.latency);
        let client = Duration::from_nanos(play.cpu_ns);
        gauge.add_to(&mut findings, "server CPU a keep-alive", renewed, client, window_s);
        findings.add("client CPU a keep-alive", Unit::Cpu, ratio(client_us, renewed));
        findings.add("client thread busy", Unit::Percent, ratio(client_us, window_s * 1e4));
        findings.faults = play.replies.faults.lines();
        Ok(findings)
    }

    fn prepare(&self, streams: &mut Streams, lanes: Range<usize>) -> Result<KeepAlivePlay, ClientError> {
        let never = Window { start_ns: u64::MAX, measure_start_ns: u64::MAX, stop_ns: u64::MAX };
        let replies = Replies { ids: vec![0; self.leases], wanted_ttl_s: LONG_TTL_S, ..Replies::default() };
        let mut play = KeepAlivePlay {
            replies,
            lanes: Vec::new(),
            window: never,
            renewed_in_window: 0,
            latency: times(),
            cpu_ns: 0,
        };
        call_all(streams, lanes, self.leases, Method::LeaseGrant, &mut play, |message, _, _| {
            messages::put_lease_grant(message, 0, LONG_TTL_S);
        })?;
        Ok(play)
    }

    fn load(&self, streams: &mut Streams, play: &mut KeepAlivePlay) -> Result<(), ClientError> {
        let clock = Clock::start();
        let window = play.window;
        let mut message = Vec::new();
        let mut cpu_start_ns = None;
        loop {
            let now_ns = clock.now_ns();
            if cpu_start_ns.is_none() && window.measure_start_ns <= now_ns {
                cpu_start_ns = Some(sys::thread_cpu_ns());
            }
            if window.stop_ns <= now_ns || !play.replies.faults.is_empty() {
                play.cpu_ns = cpu_start_ns.map_or(0, |start_ns| sys::thread_cpu_ns() - start_ns);
                return Ok(());
            }
            for lane in &mut play.lanes {
                while lane.waiting.len() < self.in_flight && !streams.is_choked(lane.at) {
                    let id = play.replies.ids[lane.next];
                    lane.next = (lane.next + self.streams) % self.leases;
                    message.clear();
                    messages::put_keep_alive(&mut message, id);
                    streams.send(lane.at, &message);
                    lane.waiting.push_back((id, clock.now_ns()));
                }
            }
            streams.turn(None, play)?;
        }
    }
}

/// Leases with a key each that are renewed together and then left to die.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Expiry {
    pub leases: usize,
    pub ttl_s: i64,
    /// How long after its due time the last key may go.
    pub limit: Duration,
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leases, ttl_s, limit } = self;
        write!(f, "{leases} leases of {ttl_s} s end together, the last key within {limit:?}")
    }
}

/// A lease's last renewal, and whether its key is gone.
#[derive(Debug, Clone, Copy, Default)]
struct Life {
    /// When the grant or renewal was sent that the server confirmed last: it lives TTL from then on.
    confirmed_ns: u64,
    /// When the renewal was sent.
    sent_ns: u64,
    /// When the renewal was confirmed; 0 before.
    replied_ns: u64,
    is_gone: bool,
}

#[derive(Debug)]
struct ExpiryPlay {
    replies: Replies,
    book: Book,
    is_granting: bool,
    ttl_ns: u64,
    lives: Vec<Life>,
    /// Keep-alives answered.
    renewed: usize,
    gone: usize,
    /// Leases that ended in their time, but before they were renewed: setting up took too long.
    ended_in_setup: usize,
    lag: Histogram<u64>,
    before_due: u64,
    before_due_ns_max: u64,
    last_gone_ns: u64,
}

impl ExpiryPlay {
    fn new(expiry: &Expiry) -> Self {
        let shape = Shape { watchers: 1, streams: 1, connections: 1, scope: Scope::Prefix };
        Self {
            replies: Replies {
                ids: vec![0; expiry.leases],
                sent_ns: vec![0; expiry.leases],
                wanted_ttl_s: expiry.ttl_s,
                ..Replies::default()
            },
            book: Book::new(&shape, 0),
            is_granting: true,
            ttl_ns: expiry.ttl_s.unsigned_abs() * 1_000_000_000,
            lives: vec![Life::default(); expiry.leases],
            renewed: 0,
            gone: 0,
            ended_in_setup: 0,
            lag: times(),
            before_due: 0,
            before_due_ns_max: 0,
            last_gone_ns: 0,
        }
    }

    fn on_renewed(&mut self, message: &[u8], now_ns: u64) {
        let reply = messages::read_lease(message);
        let Some(life) = self.lives.get_mut(self.renewed) else {
            self.replies.faults.add("keep-alive answered twice", || told(&reply));
            return;
        };
        let id = self.replies.ids[self.renewed];
        self.renewed += 1;
        if reply == Ok((id, 0)) && life.confirmed_ns + self.ttl_ns <= now_ns {
            self.ended_in_setup += 1;
            return;
        }
        if reply != Ok((id, self.replies.wanted_ttl_s)) {
            self.replies
                .faults
                .add("wrong keep-alive", || format!("asked for lease {id}, answered: {}", told(&reply)));
        }
        life.confirmed_ns = life.sent_ns;
        life.replied_ns = now_ns;
    }

    /// A key is gone. Before TTL has passed since the confirmed renewal was *sent* that is early whatever the
    /// server's clock says; between that and TTL after the reply it is told, but no fault: the server
    /// renewed somewhere between the two.
    fn on_gone(&mut self, key: &[u8], now_ns: u64) {
        let number = key_number(key).filter(|&number| number < self.lives.len());
        let Some(life) = number.and_then(|number| self.lives.get_mut(number)).filter(|life| !life.is_gone)
        else {
            self.book.faults.add("delete of no lease's key", || String::from_utf8_lossy(key).into_owned());
            return;
        };
        life.is_gone = true;
        self.gone += 1;
        self.last_gone_ns = now_ns;
        let lived_ns = now_ns.saturating_sub(life.confirmed_ns);
        if lived_ns < self.ttl_ns {
            let ttl_s = self.replies.wanted_ttl_s;
            self.book
                .faults
                .add("lease expired early", || format!("after {} ms of {ttl_s} s", lived_ns / 1_000_000));
            return;
        }
        if life.replied_ns == 0 {
            return; // its keep-alive will say that it came too late
        }
        let due_ns = life.replied_ns + self.ttl_ns;
        if now_ns < due_ns {
            self.before_due += 1;
            self.before_due_ns_max = self.before_due_ns_max.max(due_ns - now_ns);
        }
        self.lag.saturating_record(now_ns.saturating_sub(due_ns));
    }
}

impl Script for ExpiryPlay {
    fn on_message(&mut self, tag: u64, message: &[u8], now_ns: u64) {
        match tag {
            WATCH_TAG => {
                let mut gone = Vec::new();
                self.book.on_response(0, message, |_, _, event| {
                    if event.is_delete {
                        gone.push(event.key.to_vec());
                    }
                });
                for key in gone {
                    self.on_gone(&key, now_ns);
                }
            }
            KEEP_ALIVE_TAG => self.on_renewed(message, now_ns),
            call if self.is_granting => self.replies.on_grant(call & !CALL, message),
            _ => {}
        }
    }

    fn on_end(&mut self, tag: u64, end: Result<(), (Failure, &str)>, _now_ns: u64) {
        if tag & CALL == 0 {
            self.book.faults.add("stream ended", || format!("stream {tag}"));
        }
        self.replies.on_end(end);
    }
}

impl Replied for ExpiryPlay {
    fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }
}

impl Expiry {
    /// Lets the leases die while `puts` go on. Puts alone are measured first.
    pub(crate) fn run(
        &self,
        puts: &SidePuts,
        subject: &Subject,
        bench: &Bench,
        timing: Timing,
    ) -> Result<Findings, ClientError> {
        let alone = puts.run(subject, bench, timing, None)?;
        let cutoff = Arc::new(AtomicBool::new(false));
        let (play, beside) = std::thread::scope(|scope| {
            let (dying, are_dying) = mpsc::channel();
            let flag = SetOnDrop(Arc::clone(&cutoff));
            let watching = scope.spawn(move || {
                let _flag = flag;
                self.watch(subject, bench, &dying)
            });
            let mut beside = Err(ClientError::Interrupted);
            if are_dying.recv().is_ok() {
                let timing = Timing { warmup: LEAD, duration: Some(self.limit) };
                beside = puts.run(subject, bench, timing, Some(cutoff));
            }
            let play = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, ClientError>((play, beside?))
        })?;
        let mut findings = Findings::default();
        let last_due_ns = play.lives.iter().map(|life| life.replied_ns).max().unwrap_or(0) + play.ttl_ns;
        let first_due_ns = play.lives.iter().map(|life| life.replied_ns).min().unwrap_or(0) + play.ttl_ns;
        findings.add("due within", Unit::Time, (last_due_ns - first_due_ns) as f64 / 1e3);
        findings.add_times("expiry lag", &play.lag);
        findings.add("expiry lag max", Unit::Time, play.lag.max() as f64 / 1e3);
        let last_us = play.last_gone_ns.saturating_sub(last_due_ns) as f64 / 1e3;
        findings.add("last key gone after last due", Unit::Time, last_us);
        findings.add("gone before reply + TTL", Unit::Count, play.before_due as f64);
        if 0 < play.before_due {
            findings.add("the earliest by", Unit::Time, play.before_due_ns_max as f64 / 1e3);
        }
        add_puts(&mut findings, "put alone", &alone);
        add_puts(&mut findings, "put beside expiry", &beside);
        findings.faults.extend(play.book.faults.lines());
        findings.faults.extend(play.replies.faults.lines());
        Ok(findings)
    }

    fn watch(
        &self,
        subject: &Subject,
        bench: &Bench,
        dying: &mpsc::Sender<()>,
    ) -> Result<ExpiryPlay, ClientError> {
        stage::pin_to(bench.streams_core())?;
        let clock = Clock::start();
        let mut streams = Streams::new(clock)?;
        let start_ns = clock.now_ns();
        let mut play = ExpiryPlay::new(self);
        let stream_lane = streams.connect(&subject.endpoint, 1, None)?.start;
        let lanes = streams.connect(&subject.endpoint, SETUP_CONNECTIONS, None)?;
        let mut message = Vec::new();
        let watch = streams.open(stream_lane, Method::Watch, WATCH_TAG);
        messages::put_watch_create(&mut message, KEY_PREFIX, KEY_PREFIX_END, 0);
        streams.send(watch, &message);
        call_all(
            &mut streams,
            lanes.clone(),
            self.leases,
            Method::LeaseGrant,
            &mut play,
            |message, _, _| {
                messages::put_lease_grant(message, 0, self.ttl_s);
            },
        )?;
        play.is_granting = false;
        for (life, sent_ns) in play.lives.iter_mut().zip(std::mem::take(&mut play.replies.sent_ns)) {
            life.confirmed_ns = sent_ns;
        }
        let mut key = Vec::new();
        call_all(&mut streams, lanes, self.leases, Method::Put, &mut play, |message, number, replies| {
            put_key(&mut key, number);
            messages::put_put(message, &key, b"alive", replies.ids[number]);
        })?;
        self.renew(&mut streams, stream_lane, clock, &mut play)?;
        if 0 < play.ended_in_setup {
            let (ended, took_s) = (play.ended_in_setup, (clock.now_ns() - start_ns) / 1_000_000_000);
            return Err(ClientError::Call(format!(
                "{ended} leases ended before they were renewed: setting up took {took_s} s, give them more TTL"
            )));
        }
        let first_due_ns = play.lives.iter().map(|life| life.sent_ns).min().unwrap_or(0) + play.ttl_ns;
        let last_due_ns = play.lives.iter().map(|life| life.replied_ns).max().unwrap_or(0) + play.ttl_ns;
        let mut has_told = false;
        while play.gone < self.leases && clock.now_ns() < last_due_ns + nanos(self.limit) {
            if !has_told && first_due_ns <= clock.now_ns() + nanos(LEAD) {
                has_told = true;
                dying.send(()).map_err(|_| ClientError::Interrupted)?;
            }
            streams.turn(None, &mut play)?;
        }
        let (left, limit) = (self.leases - play.gone, self.limit);
        play.book
            .faults
            .add_many("lease did not expire", left as u64, || format!("{limit:?} after its time"));
        Ok(play)
    }

    /// Renews every lease once, on one stream.
    fn renew(
        &self,
        streams: &mut Streams,
        lane: usize,
        clock: Clock,
        play: &mut ExpiryPlay,
    ) -> Result<(), ClientError> {
        let give_up_ns = clock.now_ns() + nanos(SETUP_TIMEOUT);
        let at = streams.open(lane, Method::LeaseKeepAlive, KEEP_ALIVE_TAG);
        let mut message = Vec::new();
        let mut sent = 0;
        while play.renewed < self.leases {
            while sent < self.leases && !streams.is_choked(at) {
                message.clear();
                messages::put_keep_alive(&mut message, play.replies.ids[sent]);
                streams.send(at, &message);
                play.lives[sent].sent_ns = clock.now_ns();
                sent += 1;
            }
            streams.turn(None, play)?;
            if give_up_ns < clock.now_ns() {
                let text = format!("{} of {} keep-alives answered", play.renewed, self.leases);
                return Err(ClientError::Call(text));
            }
        }
        Ok(())
    }
}

fn put_key(key: &mut Vec<u8>, number: usize) {
    key.clear();
    key.extend_from_slice(KEY_PREFIX);
    key.extend_from_slice(format!("{number:010}").as_bytes());
}

fn key_number(key: &[u8]) -> Option<usize> {
    std::str::from_utf8(key.strip_prefix(KEY_PREFIX)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::put_varint;

    fn play() -> ExpiryPlay {
        let mut play = ExpiryPlay::new(&Expiry { leases: 2, ttl_s: 10, limit: Duration::from_secs(1) });
        play.replies.ids = vec![7, 8];
        for life in &mut play.lives {
            life.confirmed_ns = 500_000_000; // granted
            life.sent_ns = 1_000_000_000;
        }
        play
    }

    fn renewal(id: u64, ttl_s: u64) -> Vec<u8> {
        let mut message = Vec::new();
        put_varint(&mut message, 2, id);
        put_varint(&mut message, 3, ttl_s);
        message
    }

    fn faults(play: &ExpiryPlay) -> Vec<String> {
        let lines = play.book.faults.lines().into_iter().chain(play.replies.faults.lines());
        lines.map(|line| line.what).collect()
    }

    #[test]
    fn a_lag_counts_from_the_renewals_reply() {
        let mut play = play();
        play.on_renewed(&renewal(7, 10), 1_100_000_000);
        play.on_renewed(&renewal(8, 10), 1_200_000_000);
        play.on_gone(b"lease/0000000000", 11_050_000_000);
        play.on_gone(b"lease/0000000001", 11_700_000_000);
        assert_eq!(faults(&play), [""; 0]);
        assert_eq!((play.gone, play.before_due, play.before_due_ns_max), (2, 1, 50_000_000));
        assert!((499_000_000..=501_000_000).contains(&play.lag.max()), "{}", play.lag.max());
    }

    /// A server that is slow to be set up lets leases end in their time: no measurement, but no fault of it.
    #[test]
    fn a_lease_that_ended_before_its_renewal_is_told_apart_from_an_early_one() {
        let mut play = play();
        play.on_gone(b"lease/0000000000", 10_600_000_000);
        play.on_renewed(&renewal(7, 0), 10_700_000_000);
        play.on_renewed(&renewal(8, 0), 10_700_000_000);
        assert_eq!((faults(&play), play.ended_in_setup), (Vec::new(), 2));
        let mut play = self::play();
        play.on_renewed(&renewal(7, 0), 10_400_000_000);
        assert_eq!((faults(&play), play.ended_in_setup), (vec!["wrong keep-alive".to_owned()], 0));
    }

    #[test]
    fn an_early_or_unknown_or_second_death_is_a_fault() {
        let mut play = play();
        play.on_gone(b"lease/0000000001", 10_499_999_999);
        assert_eq!(faults(&play), ["lease expired early"], "before the grant's TTL");
        play.book.faults = Faults::default();
        play.on_renewed(&renewal(7, 10), 1_100_000_000);
        play.on_gone(b"lease/0000000000", 10_999_999_999);
        assert_eq!(faults(&play), ["lease expired early"], "before the renewal's");
        play.book.faults = Faults::default();
        play.on_gone(b"lease/0000000000", 12_000_000_000);
        play.on_gone(b"lease/0000000002", 12_000_000_000);
        assert_eq!(play.book.faults.lines()[0].count, 2);
        play.book.faults = Faults::default();
        play.on_renewed(&renewal(8, 9), 1_100_000_000);
        assert_eq!(faults(&play), ["wrong keep-alive"]);
        play.on_renewed(&renewal(8, 10), 1_100_000_000);
        assert_eq!(faults(&play), ["keep-alive answered twice", "wrong keep-alive"]);
    }
}
