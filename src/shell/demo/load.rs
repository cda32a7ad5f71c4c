//! A steady load: writers that put at a fixed rate, each at a member of its own as long as that one answers.
//!
//! A member that does not answer is left for the next one, as a client with all endpoints does, and tried again later.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::flow::Flow;
use super::gateway_client::GatewayClient;

/// Per member. With two, a writer that waits does not silence its member.
const WRITERS_PER_MEMBER: usize = 2;

/// Between two puts of a writer.
const INTERVAL: Duration = Duration::from_millis(4);

/// Keys that a writer puts again and again, so that the database stays small.
const KEYS_PER_WRITER: u64 = 200;

/// Longer than an election, so that only a lost member's writers move.
const PUT_PATIENCE: Duration = Duration::from_secs(3);

/// How long a member that did not answer is left alone.
const AVOIDED: Duration = Duration::from_secs(1);

/// A pause where no member answers.
const NOBODY: Duration = Duration::from_millis(10);

/// The writers, until they are told to stop.
pub(super) struct Load {
    flow: Arc<Mutex<Flow>>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    pub(super) fn start(ports: &[u16]) -> io::Result<Self> {
        let load = Self { flow: Arc::new(Mutex::new(Flow::new(Instant::now()))), is_over: Arc::default() };
        for number in 0..ports.len() * WRITERS_PER_MEMBER {
            let mut writer = Writer::new(number, ports);
            let (flow, is_over) = (Arc::clone(&load.flow), Arc::clone(&load.is_over));
            let run = move || {
                while !is_over.load(Ordering::Acquire) {
                    if writer.put() {
                        with(&flow, |flow| flow.on_accepted(Instant::now()));
                    }
                }
            };
            drop(Builder::new().name(format!("writer-{number}")).spawn(run)?);
        }
        Ok(load)
    }

    /// Looks at the writes so far, or marks an act.
    pub(super) fn with_flow<T>(&self, look: impl FnOnce(&mut Flow) -> T) -> T {
        with(&self.flow, look)
    }

    /// Tells the writers to stop. One that waits for an answer ends with its member, or with the process.
    pub(super) fn stop(&self) {
        self.is_over.store(true, Ordering::Release);
    }
}

fn with<T>(flow: &Mutex<Flow>, look: impl FnOnce(&mut Flow) -> T) -> T {
    look(&mut flow.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Writer {
    number: usize,
    puts_count: u64,
    due: Instant,
    members: Vec<Endpoint>,
}

struct Endpoint {
    client: GatewayClient,
    avoided_until: Option<Instant>,
}

impl Writer {
    fn new(number: usize, ports: &[u16]) -> Self {
        // Its own member comes first.
        let order = (0..ports.len()).map(|slot| ports[(number + slot) % ports.len()]);
        let members = order
            .map(|port| Endpoint { client: GatewayClient::new(port, PUT_PATIENCE), avoided_until: None });
        Self { number, puts_count: 0, due: Instant::now(), members: members.collect() }
    }

    /// One put, when it is due. Whether it was accepted.
    fn put(&mut self) -> bool {
        let now = Instant::now();
        std::thread::sleep(self.due.saturating_duration_since(now));
        // What a stall has held up is not made up for.
        self.due = self.due.max(now) + INTERVAL;
        let now = Instant::now();
        let is_tried = |member: &&mut Endpoint| member.avoided_until.is_none_or(|until| until <= now);
        let Some(member) = self.members.iter_mut().find(is_tried) else {
            std::thread::sleep(NOBODY);
            self.members.iter_mut().for_each(|member| member.avoided_until = None);
            return false;
        };
        let key = format!("demo/load/{}/{:03}", self.number, self.puts_count % KEYS_PER_WRITER);
        let accepted = member.client.put(&key, &format!("put {} of writer {}", self.puts_count, self.number));
        member.avoided_until = accepted.is_err().then(|| Instant::now() + AVOIDED);
        self.puts_count += 1;
        accepted.is_ok()
    }
}
