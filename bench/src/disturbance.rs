//! Disturbances: big things that a server is asked to do while others put.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::call;
use crate::client::{self, ClientError, Endpoint, Plan, Unobserved};
use crate::http2::Method;
use crate::messages;
use crate::subject::Subject;
use crate::watch::{Bench, CatchUp};
use crate::watchers::{Scope, Shape};
use crate::workload::{Fill, Load, Space, compact_request, delete_request, list_request};

/// How long one call of a disturbance may take: etcd lists a million keys in some seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Keys that go at once.
const DELETE_KEYS: u64 = 100_000;
/// How many puts there are between two looks whether a checkpoint has begun.
const BURST_KEYS: u64 = 10_000;
/// A checkpoint that has not begun by then is not coming.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(60);
/// Streams and connections of the latecomers.
const LATE_STREAMS: usize = 1_000;
const LATE_CONNECTIONS: usize = 10;
const LATE_VALUE_BYTES: usize = 256;

/// The work that goes on beside the puts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Disturbance {
    /// All keys are listed without their values, again and again
    List,
    /// HashKV, again and again
    Hash,
    /// A snapshot of everything is streamed to a client that reads as fast as it can, again and again
    Snapshot,
    /// As many revisions as there are keys are compacted, once
    Compact,
    /// A checkpoint of all keys is written (pinion alone has any)
    Checkpoint,
    /// --latecomers watchers read --history revisions of one key, again and again
    Latecomers,
    /// A hundred thousand keys are deleted at once, ten times
    Delete,
    /// Half of all keys are deleted at once: look at the worst put, which waits for all of it
    Erase,
    /// A member of three comes back that missed everything, and gets it (a cluster of its own)
    Follower,
    /// Two hundred connections a second, each with a TLS handshake and one call; the puts come by TLS too (a server of its
    /// own)
    Handshakes,
    /// A thousand logins a second with wrong passwords, at the servers' own cost of a comparison; the puts are a user's
    /// (a server of its own)
    Logins,
}

impl Disturbance {
    /// In an order in which each leaves to the next one what that needs.
    pub(crate) const ALL: [Self; 11] = [
        Self::List,
        Self::Hash,
        Self::Snapshot,
        Self::Latecomers,
        Self::Checkpoint,
        Self::Compact,
        Self::Delete,
        Self::Erase,
        Self::Follower,
        Self::Handshakes,
        Self::Logins,
    ];

    /// Whether it needs servers of its own.
    pub(crate) fn is_apart(self) -> bool {
        matches!(self, Self::Follower | Self::Handshakes | Self::Logins)
    }

    pub(crate) fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.expect("none is hidden").get_name().to_owned()
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// When it was going on, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Happened {
    pub begin: Instant,
    pub end: Instant,
    pub times: u64,
}

/// Whom it is done to, and how much of it.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub endpoint: &'a Endpoint,
    /// The server's data directory.
    pub data: &'a Path,
    pub space: &'a Space,
    pub bench: &'a Bench,
    pub latecomers: usize,
    pub history: u64,
    /// How long it goes on where it can be repeated.
    pub duration: Duration,
}

impl Scene<'_> {
    /// Does it, for its time or once. What has servers of its own is not done here.
    pub(crate) fn play(&self, what: Disturbance) -> Result<Happened, ClientError> {
        match what {
            Disturbance::List => self.again_and_again(|| self.call(Method::Range, &list_request())),
            Disturbance::Hash => self.again_and_again(|| self.call(Method::HashKv, &[])),
            Disturbance::Snapshot => self.again_and_again(|| self.snapshot()),
            Disturbance::Compact => {
                let revision = call::revision(self.endpoint, CALL_TIMEOUT)?.unsigned_abs();
                self.once(|| self.call(Method::Compact, &compact_request(revision)))
            }
            Disturbance::Checkpoint => self.checkpoint(),
            Disturbance::Latecomers => self.again_and_again(|| self.latecomers()),
            Disturbance::Delete => self.delete(),
            Disturbance::Erase => self
                .once(|| self.call(Method::DeleteRange, &delete_request(self.space, 0..self.space.keys / 2))),
            Disturbance::Follower | Disturbance::Handshakes | Disturbance::Logins => {
                unreachable!("{what} has servers of its own")
            }
        }
    }

    fn call(&self, method: Method, message: &[u8]) -> Result<(), ClientError> {
        call::call(self.endpoint, method, message, CALL_TIMEOUT).map(|_| ())
    }

    fn snapshot(&self) -> Result<(), ClientError> {
        match call::drain(self.endpoint, Method::Snapshot, &[], CALL_TIMEOUT)? {
            0 => Err(ClientError::Call("the snapshot is empty".to_owned())),
            _ => Ok(()),
        }
    }

    fn once(&self, mut act: impl FnMut() -> Result<(), ClientError>) -> Result<Happened, ClientError> {
        let begin = Instant::now();
        act()?;
        Ok(Happened { begin, end: Instant::now(), times: 1 })
    }

    fn again_and_again(
        &self,
        mut act: impl FnMut() -> Result<(), ClientError>,
    ) -> Result<Happened, ClientError> {
        let begin = Instant::now();
        let mut times = 0;
        while begin.elapsed() < self.duration {
            act()?;
            times += 1;
        }
        Ok(Happened { begin, end: Instant::now(), times })
    }

    /// A tenth of the time for each of ten, whatever each takes.
    fn delete(&self) -> Result<Happened, ClientError> {
        let begin = Instant::now();
        let count = DELETE_KEYS.min(self.space.keys / 10);
        for turn in 0..10 {
            let due = self.duration / 10 * turn;
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
            let first = u64::from(turn) * count;
            self.call(Method::DeleteRange, &delete_request(self.space, first..first + count))?;
        }
        Ok(Happened { begin, end: Instant::now(), times: 10 })
    }

    /// The history is of one key, so that they all have it one day: of what is put meanwhile, thousands of watchers
    /// would be told more than any server can say.
    fn latecomers(&self) -> Result<(), ClientError> {
        let streams = LATE_STREAMS.min(self.latecomers);
        let connections = LATE_CONNECTIONS.min(streams);
        let shape = Shape { watchers: self.latecomers, streams, connections, scope: Scope::OneKey };
        let (mut key, mut message) = (Vec::new(), Vec::new());
        shape.space(1, LATE_VALUE_BYTES).put_key(&mut key, 0);
        messages::put_put(&mut message, &key, &[b'h'; LATE_VALUE_BYTES], 0);
        let base = call::revision(self.endpoint, CALL_TIMEOUT)?;
        let mut target = base;
        for _ in 0..self.history {
            target = call::revision_of(self.endpoint, Method::Put, &message, CALL_TIMEOUT)?;
        }
        let subject = Subject { endpoint: self.endpoint.clone(), pid: None };
        let (ready, _is_ready) = mpsc::channel();
        let catch_up = CatchUp { shape, limit: CALL_TIMEOUT };
        let (late, ..) = catch_up.watch(base, target, self.history, &subject, self.bench, &ready)?;
        match late.book.faults.lines().first() {
            None => Ok(()),
            Some(fault) => Err(ClientError::Call(format!("latecomers: {}: {}", fault.what, fault.example))),
        }
    }

    /// More is put until the server begins to write one, which counts from then on.
    fn checkpoint(&self) -> Result<Happened, ClientError> {
        let directory = self.data.join("checkpoint");
        let is_writing = || {
            let names =
                fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
            names.into_iter().any(|name| Path::new(&name).extension().is_some_and(|suffix| suffix == "tmp"))
        };
        let give_up = Instant::now() + CHECKPOINT_PATIENCE;
        let mut seed = 1_000;
        while !is_writing() {
            if give_up < Instant::now() {
                return Err(ClientError::Call("no checkpoint was begun".to_owned()));
            }
            seed += 1;
            client::run(&self.burst(seed), &mut Unobserved)?;
        }
        let begin = Instant::now();
        while is_writing() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Happened { begin, end: Instant::now(), times: 1 })
    }

    fn burst(&self, seed: u64) -> Plan {
        Plan {
            endpoints: vec![self.endpoint.clone()],
            connections: 1,
            in_flight: 4,
            rate_per_s: None,
            warmup: Duration::ZERO,
            duration: None,
            cutoff: None,
            deadline: CALL_TIMEOUT,
            threads: 1,
            pin: self.bench.pin.clone(),
            is_spinning: false,
            keeps_timeline: false,
            seed,
            space: Space { keys: BURST_KEYS.min(self.space.keys), ..self.space.clone() },
            load: Load::Fill(Fill { batch: 100, is_shuffled: true }),
        }
    }
}
