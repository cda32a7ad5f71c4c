//! The members that stand behind a proxy: who of them answers, and calls to them.
//!
//! ```text
//! begin(asked) ─► turns::pick ─► Line (one HTTP/2 connection an endpoint) ─► Call: requests out, answers in
//!                     ▲               │
//!                     └── keeper ◄────┘ ended: dial again, later and later
//! ```
//!
//! One `Upstream` a shard, on its executor: endpoints are dialed at the start, and again when a connection has ended.
//! Calls go in turns to those that are connected. What was certainly not sent is sent to another; what else becomes of a
//! call is told to whoever asked, who knows whether it may be asked twice.
//!
//! Bounds: a dial and the first answer by `DIAL_PATIENCE`, and so is the wait of a call for an endpoint; silence while
//! calls are under way by pings; an answer's unread bytes by its window.
//! Compatibility: what etcd's Go client does with several endpoints, and its texts where nobody answers.

mod call;
mod line;
mod own;
mod present;
mod registry;
mod renewals;
mod renewing;
mod rounds;
pub(in crate::shell) mod seen;
mod turns;

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(in crate::shell) use call::{Asked, Call, Failure, Said, bad_answer};
use line::Line;
pub(in crate::shell) use line::Pings;
pub(in crate::shell) use registry::{Advertised, Registry};
use renewals::Renewals;
use rounds::Rounds;
use seen::Seen;
pub(in crate::shell) use turns::Tried;
use turns::Turns;

use crate::config::Url;
use crate::rpc::{Code, Status};
use crate::shell::net::quiet::Quiet;
use crate::shell::net::tls::TlsConnector;
use crate::shell::net::{Dialer, within};
use crate::shell::runtime::wake::Broadcast;

/// Until an endpoint is connected and has answered; and how long a call waits for the first that is.
pub(in crate::shell) const DIAL_PATIENCE: Duration = Duration::from_secs(5);

/// Between the end of a connection and the next dial: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What is known of the members from the start.
#[derive(Debug, Clone)]
pub(in crate::shell) struct UpstreamConfig {
    /// At least one.
    pub endpoints: Vec<Url>,
    /// How those with TLS are dialed.
    pub tls: Option<TlsConnector>,
    pub pings: Pings,
    /// Of a request.
    pub send_bytes_max: u32,
    /// Of an answer.
    pub receive_bytes_max: u32,
    /// What clients are told who ask for members. None: the members' own answer.
    pub advertised: Option<Advertised>,
    /// Where proxies are registered, this one too. None: clients are told of this one alone.
    pub registry: Option<Registry>,
    /// What no read's answer may be older than, if answers may not go back.
    pub seen: Option<Arc<Seen>>,
}

/// One endpoint.
struct Slot {
    url: Url,
    line: RefCell<Option<Rc<Line>>>,
    /// Why there is none.
    failure: RefCell<String>,
}

/// See the module.
pub struct Upstream {
    config: UpstreamConfig,
    dialer: Dialer,
    slots: Vec<Slot>,
    turns: RefCell<Turns>,
    /// An endpoint is connected now, or has failed now.
    news: Broadcast,
    /// All were dialed once.
    first_dials_left: Cell<usize>,
    quiet: Quiet<usize>,
    renewals: Renewals,
    /// Of the question what is committed.
    present_rounds: Rounds<Result<i64, Status>>,
    random: Cell<u64>,
}

impl Upstream {
    /// Begins to dial. On an executor. `seed` makes the pauses of shards and processes differ.
    pub(in crate::shell) fn start(config: UpstreamConfig, seed: u64) -> Rc<Self> {
        let slot = |url: &Url| Slot {
            url: url.clone(),
            line: RefCell::default(),
            failure: RefCell::new("it was not dialed yet".to_owned()),
        };
        let upstream = Rc::new(Self {
            dialer: Dialer::new(DIAL_PATIENCE, config.tls.clone()),
            slots: config.endpoints.iter().map(slot).collect(),
            turns: RefCell::new(Turns::new(config.endpoints.len(), seed)),
            news: Broadcast::default(),
            first_dials_left: Cell::new(config.endpoints.len()),
            quiet: Quiet::default(),
            renewals: Renewals::default(),
            present_rounds: Rounds::default(),
            random: Cell::new(seed),
            config,
        });
        for index in 0..upstream.slots.len() {
            glommio::spawn_local(Rc::clone(&upstream).keep(index)).detach();
        }
        upstream
    }

    pub(in crate::shell) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Keeps an endpoint connected, for ever.
    async fn keep(self: Rc<Self>, index: usize) {
        let slot = &self.slots[index];
        let mut pause = PAUSE_MIN;
        let mut is_first = true;
        loop {
            let begun = Instant::now();
            let dialed = within(DIAL_PATIENCE, self.dial(&slot.url)).await;
            match dialed {
                Ok(line) => {
                    tracing::info!(endpoint = %slot.url, "connected with an endpoint");
                    let line = Rc::new(line);
                    slot.line.replace(Some(Rc::clone(&line)));
                    self.note(index, &mut is_first);
                    let reason = line.end_reason().await;
                    slot.line.replace(None);
                    tracing::warn!(endpoint = %slot.url, reason, "the connection with an endpoint has ended");
                    slot.failure.replace(format!("error reading from server: {reason}"));
                    if PAUSE_MAX < begun.elapsed() {
                        pause = PAUSE_MIN;
                    }
                }
                Err(error) => {
                    let failure = format!(
                        "connection error: desc = \"transport: Error while dialing: dial {}: {error}\"",
                        slot.url.authority()
                    );
                    if let Some(left_out) = self.quiet.ask(index, Instant::now()) {
                        tracing::warn!(endpoint = %slot.url, %error, left_out, "an endpoint cannot be reached");
                    }
                    slot.failure.replace(failure);
                    self.note(index, &mut is_first);
                }
            }
            glommio::timer::sleep(pause + self.jitter(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn note(&self, index: usize, is_first: &mut bool) {
        let is_ready = self.slots[index].line.borrow().is_some();
        tracing::debug!(index, is_ready, "news of an endpoint");
        if std::mem::take(is_first) {
            self.first_dials_left.set(self.first_dials_left.get() - 1);
        }
        self.news.ring();
    }

    /// Up to a quarter of a pause.
    fn jitter(&self, pause: Duration) -> Duration {
        let drawn = self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.random.set(drawn);
        pause / 4 * u32::try_from(drawn >> 56).expect("eight bits") / 255
    }

    async fn dial(&self, url: &Url) -> io::Result<Line> {
        let (authority, pings) = (url.authority(), self.config.pings);
        self.dialer.dial(url, async |stream| Line::begin(stream, &authority, pings).await).await
    }

    /// Begins a call at the next endpoint that `tried` does not name, and notes it there. Where nobody is connected it
    /// waits for somebody.
    ///
    /// # Errors
    /// Nobody has taken it.
    pub(in crate::shell) async fn begin(&self, asked: &Asked, tried: &mut Tried) -> Result<Call, Status> {
        let deadline = Instant::now() + DIAL_PATIENCE;
        loop {
            while let Some((index, line)) = self.pick(tried) {
                tried.add(index);
                match line.begin_call(asked).await {
                    Ok(call) => return Ok(call),
                    Err(reason) => {
                        tracing::debug!(endpoint = %self.slots[index].url, reason, "an endpoint takes no call");
                        line.end(reason);
                    }
                }
            }
            let now = Instant::now();
            if tried.has_any() || deadline <= now {
                return Err(self.nobody());
            }
            // All have failed: it is told at once, as the next dial may be seconds away.
            let has_failed = |slot: &Slot| slot.line.borrow().is_none();
            if self.first_dials_left.get() == 0 && self.slots.iter().all(has_failed) && asked.fails_fast {
                return Err(self.nobody());
            }
            let rung = async {
                self.news.rung().await;
                Ok::<(), io::Error>(())
            };
            // Whether in time or not, it is looked again.
            drop(within(deadline - now, rung).await);
        }
    }

    /// Whose turn it is.
    fn pick(&self, tried: &Tried) -> Option<(usize, Rc<Line>)> {
        let line =
            |index: usize| self.slots[index].line.borrow().as_ref().filter(|line| line.is_open()).cloned();
        let index = self.turns.borrow_mut().pick(|index| !tried.has(index) && line(index).is_some())?;
        line(index).map(|line| (index, line))
    }

    /// Whether some endpoint that is connected was not tried yet.
    pub(in crate::shell) fn has_another(&self, tried: &Tried) -> bool {
        (0..self.slots.len()).any(|index| {
            !tried.has(index) && self.slots[index].line.borrow().as_ref().is_some_and(|line| line.is_open())
        })
    }

    fn nobody(&self) -> Status {
        let failed = self.slots.iter().find(|slot| slot.line.borrow().is_none());
        let reason = failed.map_or_else(
            || "no endpoint takes another call".to_owned(),
            |slot| slot.failure.borrow().clone(),
        );
        Status { code: Code::Unavailable, message: reason.into() }
    }
}
