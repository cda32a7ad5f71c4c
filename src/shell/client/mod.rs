//! The client shard: connections of clients, HTTP/2, gRPC, and the answers' way back.
//!
//! A shard is one executor's share of the clients. It owns sockets and calls and no state of the
//! store: what a request asks is submitted to the `Backend` under a ticket, and whoever drains the
//! member's answers hands each to `on_reply`, which writes it at once. The connection's task then
//! sends all that was written in one system call.
//!
//! ```text
//!            front end (grpc/)                  call/
//! socket → h2_io → gate → h2 → request ─ on_call, on_stream ─ submit(ticket, command) → Backend
//! socket ← h2_io ← h2 ← response ←──────── Responder ←────── on_reply(ticket, result) ←┘
//! ```
//!
//! A call knows no transport (`call`): it is admitted, accounted for, submitted, waited for and given up there,
//! and what streams or takes several commands has its task there. A front end turns a connection's bytes
//! into calls and answers into bytes (`grpc`). Between them stands `responder`. The methods themselves are
//! `rpc::method`.
//!
//! In `call`, `account` bounds what a connection holds, `place` what calls with a task do, `slots` knows who
//! waits, `leadership` what is told for want of a leader, `end` how a call ends; `watch`, `keep_alive` and
//! `streams` are the calls with many answers, `recipe` those of several commands. In `grpc`, the gate is
//! `rpc::headers`, which writes anew the header blocks that `h2` would not take and etcd does; `frame_meter`
//! judges the client's frames by the `frame_credit` they have, and `limits` is what `h2` is told. Here,
//! `jwt` has the keys of JSON web tokens, `reception` spreads connections over the shards, `connection` runs their turns,
//! `rest` has those wait that have more to do than a turn holds, `silence` knows who has not spoken yet.
//!
//! Invariants: a call is answered once; a ticket whose waiter left is ignored; what a connection
//! holds is counted until it is gone; no borrow of a cell is held while the backend or `h2` is called.
//! Cost: a put costs no task and no timer; see `account` for memory.
//! Compatibility: gRPC-Go's answers to malformed calls, etcd's keepalive policy and timeouts.

mod call;
mod connection;
mod counters;
mod drop_log;
mod grpc;
mod http1;
mod http2;
pub(in crate::shell) mod jwt;
mod listener;
mod load;
mod observing;
mod overview;
mod reception;
mod responder;
mod rest;
pub(in crate::shell) mod role;
mod sampling;
mod signal;
mod silence;
mod speaks;
mod tally;
#[cfg(test)]
mod tests;
mod upload;
mod web;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use call::Submitted;
use call::account::{Account, Ledger};
use call::header::Headers;
use call::identity::Identities;
use call::leadership::Leadership;
use call::pieces::Incoming;
use call::place::Places;
use call::revocation::Revocation;
use call::serial::Serial;
use call::slots::Slots;
use call::slow::Slow;
use call::turns::Turns;
use call::watch::Watches;
pub use counters::Counters;
use counters::CountersCell;
use drop_log::{DropLog, Drops};
use grpc::greeting::Greeting;
use grpc::h2_io::SharedBuffers;
use grpc::response::Templates;
use jwt::Jwt;
use load::Loads;
use overview::Overview;
use reception::Place;
pub use reception::Reception;
use rest::Resting;
use signal::Signal;
use silence::{Silence, Silent};
pub use speaks::{Endpoint, Speaks};
use tally::Tallies;
use web::v2::basic::Basics;
use web::v2::waits::NodeWaits;

use crate::config::{FeatureGates, WebConfig};
use crate::metrics::{Count, Histogram, Name};
use crate::replica::exchange::Facts;
use crate::request::{Command, PieceOrder, Reply, WaitOrder};
use crate::rpc::Limits;
use crate::rpc::web::Rules;
use crate::shell::net::listen::Listening;
use crate::shell::net::tls::TlsAcceptor;
use crate::shell::net::{Remote, Stream};
use crate::shell::runtime::passwords::Passwords;
use crate::shell::runtime::rights::Rights;
use crate::shell::runtime::scrape::Scraper;
use crate::shell::upstream::Upstream;
use crate::types::limits::{
    GRPC_OVERHEAD_BYTES, LEASE_TTL_MIN_S_DEFAULT, METADATA_BYTES_MAX_DEFAULT, REQUEST_BYTES_MAX_DEFAULT,
    TXN_OPS_MAX_DEFAULT,
};
use crate::types::{ClusterId, MemberId, Ticket};
use crate::watch::Order;

/// The rest of the member, as a shard sees it.
pub trait Backend: 'static {
    /// Passes a command on. Its answer comes through `ClientShard::on_reply`, not before this
    /// returns.
    ///
    /// # Errors
    /// Gives the command back when the rings are full. The shard then reads from no connection until
    /// `ClientShard::ready`.
    #[expect(clippy::result_large_err, reason = "a command that comes back goes into the queue as it is")]
    fn submit(&self, ticket: Ticket, command: Command) -> Result<(), Command>;

    /// Passes an order of the watch hub on. Its notice comes through `ClientShard::on_watch`, not
    /// before this returns.
    ///
    /// # Errors
    /// Gives the order back when the ring is full.
    fn order(&self, order: Order) -> Result<(), Order>;

    /// Passes on an order about an answer in pieces; it may wait for room, in order, until the next `release`.
    fn order_pieces(&self, order: PieceOrder);

    /// The same about who waits for a change of a node. Its news come through `ClientShard::on_wait_news`, not before
    /// this returns.
    fn order_wait(&self, order: WaitOrder);

    /// Messages that are passed on between `hold` and `release` may wait for `release`, which comes within the
    /// turn of one task.
    fn hold(&self) {}

    /// See `hold`. Comes at least once a tick.
    fn release(&self) {}

    /// The members that calls are passed on to. None: the backend answers them.
    fn upstream(&self) -> Option<&Rc<Upstream>> {
        None
    }

    /// Where there are such members: whether `order` reaches a feed that joins the watches of those who call in nobody's
    /// name.
    fn joins_watches(&self) -> bool {
        false
    }

    /// Nobody whose order comes from now on may be told of an older revision.
    fn raise_floor(&self, _revision: i64) {}
}

/// Pressure timeouts that a client may take nothing while a quarter of the shard's memory for unread
/// answers is left: a minute.
const LOW_PRESSURE_PATIENCE: u64 = 30;

/// How clients' keepalive pings are treated, and the server's own.
#[derive(Debug, Clone)]
pub struct Keepalive {
    /// A client that pings more often is sent away after two strikes (`--grpc-keepalive-min-time`).
    pub min_time: Duration,
    /// An idle connection is pinged (`--grpc-keepalive-interval`).
    pub interval: Duration,
    /// A ping that is not answered ends the connection (`--grpc-keepalive-timeout`).
    pub timeout: Duration,
}

/// What a shard needs to know.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// Number of the shard in its member; the top bits of its tickets.
    pub shard: u16,
    /// Differs between starts of the process; see `Slots::new`.
    pub first_generation: u32,
    /// Differs between starts of the process; where the names of leases come from.
    pub lease_seed: u64,
    /// Shortest life of a lease: 1.5 election timeouts, so that a leader can be elected meanwhile.
    pub lease_ttl_min_s: i64,
    pub cluster: ClusterId,
    pub member: MemberId,
    /// `--max-request-bytes`
    pub request_bytes_max: u32,
    /// `--max-request-metadata-bytes`
    pub metadata_bytes_max: u32,
    /// `--max-txn-ops`
    pub txn_ops_max: u32,
    /// `--max-concurrent-streams`; None is unlimited, and what is announced then is nothing.
    pub concurrent_streams_max: Option<u32>,
    /// After this a call is answered that it timed out: 5 s and two election timeouts.
    pub request_timeout: Duration,
    /// `--election-timeout`
    pub election_timeout: Duration,
    pub keepalive: Keepalive,
    /// Whoever makes no progress for this long may be dropped while the shard holds more than it may:
    /// unread answers, watch responses, unfinished requests. Nobody is for being slow alone.
    pub pressure_timeout: Duration,
    /// How often a watcher that asked for it hears how far it has come while nothing else happens; up
    /// to a tenth longer (`--watch-progress-notify-interval`).
    pub watch_progress_interval: Duration,
    /// Requests that take so long are logged (`--warning-unary-request-duration`).
    pub slow_after: Duration,
    /// By HTTP/1: time for a head, between two requests, and between two pieces of a body.
    pub http_idle: Duration,
    /// Calls under way at `stop` may take this long.
    pub drain_timeout: Duration,
    /// Step of the shard's clock and bound on how late a timeout is.
    pub tick: Duration,
    /// Who may ask by HTTP, and for what.
    pub web: WebConfig,
    /// `--metrics=extensive`: calls are timed.
    pub is_extensive: bool,
    /// `--load-prefix-depth`
    pub load_prefix_depth: usize,
    /// `--feature-gates`
    pub features: FeatureGates,
    /// The ways to all roles, for `/metrics`.
    pub(in crate::shell) scraper: Arc<Scraper>,
    /// What the dashboard shows. Shared by the shards of the process.
    pub(in crate::shell) overview: Arc<Overview>,
    /// Shared by the shards of the process.
    pub reception: Arc<Reception>,
    /// Whether the store asks for rights.
    pub(in crate::shell) rights: Rights,
    /// Where passwords are compared and hashed.
    pub(in crate::shell) passwords: Passwords,
    /// How logins are told from each other by JSON web tokens; None: tokens are simple ones.
    pub(in crate::shell) jwt: Option<Jwt>,
    /// How clients are met at addresses with TLS; None: there are none.
    pub(in crate::shell) tls: Option<TlsAcceptor>,
}

impl ShardConfig {
    /// etcd's defaults for one shard of `member`.
    #[must_use]
    pub fn new(shard: u16, cluster: ClusterId, member: MemberId) -> Self {
        Self {
            shard,
            first_generation: 0,
            lease_seed: 0,
            lease_ttl_min_s: LEASE_TTL_MIN_S_DEFAULT,
            cluster,
            member,
            request_bytes_max: REQUEST_BYTES_MAX_DEFAULT,
            metadata_bytes_max: METADATA_BYTES_MAX_DEFAULT,
            txn_ops_max: TXN_OPS_MAX_DEFAULT,
            concurrent_streams_max: None,
            request_timeout: Duration::from_secs(7),
            election_timeout: Duration::from_secs(1),
            keepalive: Keepalive {
                min_time: Duration::from_secs(5),
                interval: Duration::from_secs(2 * 60 * 60),
                timeout: Duration::from_secs(20),
            },
            pressure_timeout: Duration::from_secs(2),
            watch_progress_interval: Duration::from_secs(10 * 60),
            slow_after: Duration::from_millis(300),
            // etcd's for a head.
            http_idle: Duration::from_secs(5 * 60),
            drain_timeout: Duration::from_secs(5),
            tick: Duration::from_millis(50),
            web: WebConfig {
                origins: Vec::new(),
                hosts: Vec::new(),
                own_hosts: Vec::new(),
                serves_gateway: true,
                v2_root: None,
            },
            is_extensive: false,
            load_prefix_depth: 2,
            features: FeatureGates::default(),
            scraper: Arc::default(),
            overview: Arc::default(),
            reception: Reception::alone(shard),
            rights: Rights::default(),
            passwords: Passwords::default(),
            jwt: None,
            tls: None,
        }
    }

    fn request_timeout_ms(&self) -> u64 {
        millis(self.request_timeout)
    }
    /// Bytes of a request's headers at most: its metadata and what HTTP/2 and gRPC say themselves.
    fn header_bytes_max(&self) -> usize {
        self.metadata_bytes_max as usize + grpc::limits::CALL_HEADERS_BYTES
    }
    fn keepalive_min_ms(&self) -> u64 {
        millis(self.keepalive.min_time)
    }
    fn keepalive_interval_ms(&self) -> u64 {
        millis(self.keepalive.interval)
    }
    fn keepalive_timeout_ms(&self) -> u64 {
        millis(self.keepalive.timeout)
    }
    fn pressure_timeout_ms(&self) -> u64 {
        millis(self.pressure_timeout)
    }
    fn watch_progress_interval_ms(&self) -> u64 {
        millis(self.watch_progress_interval)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// One executor's share of the clients. See the module.
pub struct ClientShard<B: Backend> {
    /// For tasks that begin where the shard is borrowed.
    itself: Weak<Self>,
    config: ShardConfig,
    backend: Rc<B>,
    limits: Limits,
    /// Largest message that is received: what may be proposed and gRPC's overhead.
    receive_bytes_max: u32,
    headers: Headers,
    templates: Rc<Templates>,
    buffers: Rc<SharedBuffers>,
    greeting: Greeting,
    ledger: Rc<Ledger>,
    places: Rc<Places>,
    turns: Rc<Turns>,
    resting: Resting,
    silent: Rc<Silent>,
    /// HTTP/1 connections between two requests.
    idle: Rc<Silent>,
    idle_begun: Cell<u64>,
    web_rules: Rc<Rules>,
    drop_log: DropLog,
    /// Names leases whose clients leave that to the server.
    lease_ids: Serial,
    /// What the shard asks for itself is counted here.
    own: Rc<Account>,
    calls: RefCell<Slots<Submitted>>,
    incoming: Incoming,
    timers: Rc<RefCell<Slots<Weak<Signal>>>>,
    watches: Watches,
    connections: RefCell<BTreeMap<u64, Rc<Account>>>,
    connections_made: Cell<u64>,
    /// The backend's rings are full.
    is_blocked: Cell<bool>,
    /// Connections that want a turn when it is `ready`.
    blocked: RefCell<Vec<Rc<Account>>>,
    is_stopping: Cell<bool>,
    /// Accept loops and streams that end with the shard.
    at_stop: RefCell<Vec<Weak<Signal>>>,
    is_ticking: Cell<bool>,
    clock: Clock,
    now_ms: Cell<u64>,
    leadership: Leadership,
    slow: Slow,
    identities: Identities,
    basics: Basics,
    node_waits: NodeWaits,
    revocation: Revocation,
    counters: CountersCell,
    tallies: Rc<Tallies>,
    loads: Loads,
    watch_lag: Histogram,
    proposals_failed: Count,
    /// Answers of `/health`: not well, and well.
    health: [Count; 2],
}

impl<B: Backend> ClientShard<B> {
    /// A shard that serves nobody yet.
    #[must_use]
    pub fn new(config: ShardConfig, backend: Rc<B>) -> Rc<Self> {
        let ledger = Rc::new(Ledger::default());
        Rc::new_cyclic(|itself| Self {
            itself: Weak::clone(itself),
            limits: Limits {
                txn_ops_max: config.txn_ops_max,
                request_bytes_max: config.request_bytes_max,
                lease_ttl_min_s: config.lease_ttl_min_s,
            },
            receive_bytes_max: config.request_bytes_max.saturating_add(GRPC_OVERHEAD_BYTES),
            headers: Headers::new(config.cluster, config.member),
            templates: Templates::new(),
            buffers: SharedBuffers::new(),
            greeting: Greeting::record(&grpc::limits::server_builder(config.concurrent_streams_max)),
            lease_ids: Serial::new(config.lease_seed, config.shard),
            own: Account::new(u64::MAX, Rc::clone(&ledger)),
            ledger,
            places: Rc::default(),
            turns: Rc::default(),
            resting: Resting::default(),
            silent: Rc::default(),
            idle: Rc::new(Silent::new(http1::IDLE_MAX)),
            idle_begun: Cell::new(0),
            web_rules: Rc::new(Rules {
                origins: config.web.origins.clone(),
                hosts: config.web.hosts.clone(),
                own_hosts: config.web.own_hosts.clone(),
                serves_gateway: config.web.serves_gateway,
            }),
            drop_log: DropLog::default(),
            calls: RefCell::new(Slots::new(config.shard, config.first_generation)),
            incoming: Incoming::default(),
            timers: Rc::new(RefCell::new(Slots::new(0, 0))),
            watches: Watches::new(&config, backend.upstream().is_some()),
            connections: RefCell::new(BTreeMap::new()),
            connections_made: Cell::new(0),
            is_blocked: Cell::new(false),
            blocked: RefCell::new(Vec::new()),
            is_stopping: Cell::new(false),
            at_stop: RefCell::new(Vec::new()),
            is_ticking: Cell::new(false),
            clock: Clock::start(),
            now_ms: Cell::new(0),
            leadership: Leadership::new(millis(config.election_timeout)),
            slow: Slow::new(millis(config.slow_after), Arc::clone(&config.overview)),
            identities: Identities::new(config.rights.clone()),
            basics: Basics::default(),
            node_waits: NodeWaits::default(),
            revocation: Revocation::default(),
            counters: CountersCell::default(),
            tallies: Tallies::new(config.is_extensive),
            loads: Loads::new(config.load_prefix_depth),
            watch_lag: Histogram::new(Name::WatchLag),
            proposals_failed: Count::default(),
            health: Default::default(),
            config,
            backend,
        })
    }

    /// An answer of the member. Written now, sent in the connection's next turn.
    pub fn on_reply(&self, reply: Reply) {
        let waiter = self.calls.borrow_mut().take(reply.ticket);
        self.counters.count(|counters| match waiter {
            Some(_) => counters.replies += 1,
            None => counters.stale_replies += 1,
        });
        if let Some(waiter) = waiter {
            self.on_answer(waiter, reply.result);
        }
        if call::account::SHARD_UNSENT_BYTES_LIMIT < self.ledger.unread_bytes() {
            self.relieve_at_once();
        }
    }

    /// Who leads, and what this member is.
    pub fn on_facts(&self, facts: Facts) {
        self.leadership.on_facts(facts, self.now_ms());
    }

    /// Answers that this shard makes itself are this member's, at this term.
    pub(in crate::shell) fn answer_for(&self, cluster: ClusterId, member: MemberId) {
        self.headers.be(cluster, member);
    }

    /// Ends a batch of answers and notices. The connections of answers have their turns already, one
    /// each however many answers they got, and those of watch streams get theirs; this also lets the
    /// shard submit again, since answers make room.
    pub fn flush(self: &Rc<Self>) {
        self.flush_watches();
        if self.is_blocked() {
            self.ready();
        }
        self.submit_deferred(&self.own);
    }

    /// The rings have room again.
    pub fn ready(&self) {
        self.is_blocked.set(false);
        self.submit_deferred(&self.own);
        for account in self.blocked.take() {
            account.waits_for_ready.set(false);
            account.wake();
        }
    }

    /// Stops: no new connections, GOAWAY to those there are, calls under way may finish within the
    /// drain timeout. `serve` returns when the last connection has ended.
    pub fn stop(&self) {
        if self.is_stopping.replace(true) {
            return;
        }
        for signal in self.at_stop.take() {
            if let Some(signal) = signal.upgrade() {
                signal.fire();
            }
        }
        for account in self.connections.borrow().values() {
            account.wake();
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.get();
        counters.connections = self.connections.borrow().len() as u64;
        counters.calls = self.calls.borrow().len() as u64;
        counters.silent_dropped = self.silent.dropped();
        counters.unsent_bytes = self.ledger.unsent_bytes.get() as u64;
        self.watches.count(&mut counters);
        counters
    }

    /// Accepts connections until `stop`, then waits for the last one to end. Those that are for other
    /// shards go to the reception, from where `take_waiting` gets this one's.
    pub(in crate::shell) async fn serve(self: Rc<Self>, listeners: Vec<(Endpoint, Listening)>) {
        self.start_ticking();
        let accepting: Vec<_> = listeners
            .into_iter()
            .map(|(endpoint, listener)| {
                glommio::spawn_local(listener::accept_until_stopped(Rc::clone(&self), endpoint, listener))
            })
            .collect();
        listener::stopped(&self).await;
        // The addresses are free when each of these has dropped its listener.
        for accepting in accepting {
            accepting.await;
        }
        self.wait_for_connections(self.config.drain_timeout).await;
        for account in self.connections.borrow().values() {
            account.is_evicted.set(true);
            account.wake();
        }
        self.wait_for_connections(connection::LINGER + self.config.tick).await;
    }

    /// Waits until there is no connection, at most `patience`.
    async fn wait_for_connections(&self, patience: Duration) {
        let deadline_ms = self.now_ms() + millis(patience);
        while !self.connections.borrow().is_empty() && self.now_ms() < deadline_ms {
            glommio::timer::sleep(self.config.tick).await;
        }
    }

    fn start_ticking(self: &Rc<Self>) {
        if self.is_ticking.replace(true) {
            return;
        }
        let (shard, tick) = (Rc::downgrade(self), self.config.tick);
        glommio::spawn_local(async move {
            loop {
                glommio::timer::sleep(tick).await;
                let Some(shard) = shard.upgrade() else { return };
                shard.on_tick();
            }
        })
        .detach();
    }

    /// Moves the clock and gives whatever is due its turn.
    fn on_tick(self: &Rc<Self>) {
        self.now_ms.set(self.clock.elapsed_ms());
        self.leadership.on_tick(self.now_ms());
        self.expire_calls();
        self.timers.borrow_mut().expire(self.now_ms(), |_, signal| {
            if let Some(signal) = signal.upgrade() {
                signal.fire();
            }
            None
        });
        self.expire_deferred(&self.own);
        let accounts: Vec<Rc<Account>> = self.connections.borrow().values().map(Rc::clone).collect();
        for account in &accounts {
            self.expire_deferred(account);
            if account.due_ms.get() <= self.now_ms() {
                account.wake();
            }
        }
        self.relieve_pressure(&accounts);
        let stalled_ms = self.now_ms().saturating_sub(self.config.pressure_timeout_ms());
        let refused = self.places.on_tick(self.now_ms(), stalled_ms);
        self.counters.count(|counters| counters.uploads_dropped += refused);
        self.tick_watches();
        self.tick_revocation();
        self.drop_log.on_tick(self.now_ms(), self.drops());
        self.backend.release();
        if self.is_blocked() {
            self.ready();
        }
    }

    /// What has been dropped so far.
    fn drops(&self) -> Drops {
        let counters = self.counters.get();
        Drops {
            unread_responses: counters.evicted,
            unread_watch_streams: counters.watch_resets,
            stalled_uploads: counters.uploads_dropped,
            never_spoke: self.silent.dropped(),
            unanswered_pings: counters.stalled,
            floods: counters.floods + counters.too_many_pings,
        }
    }

    /// While the shard holds too many unread answers, closes the connection whose client has taken
    /// nothing for longest: it is the one that cannot complain about waiting. Before that, while there is
    /// little room left for others, one that has taken nothing for long.
    fn relieve_pressure(&self, accounts: &[Rc<Account>]) {
        let unread_bytes = self.ledger.unread_bytes();
        let patience_ms = if call::account::SHARD_UNSENT_BYTES_MAX < unread_bytes {
            self.config.pressure_timeout_ms()
        } else if call::account::SHARD_UNSENT_BYTES_MAX / 4 * 3 < unread_bytes {
            LOW_PRESSURE_PATIENCE * self.config.pressure_timeout_ms()
        } else {
            return;
        };
        let stalled_ms = self.now_ms().saturating_sub(patience_ms);
        let stalled = accounts.iter().filter(|account| {
            0 < account.unread_bytes() && account.idle_since_ms() <= stalled_ms && !account.is_evicted.get()
        });
        if let Some(account) = stalled.min_by_key(|account| account.idle_since_ms()) {
            account.evict();
        }
    }

    /// Closes those who have taken nothing for longest until the rest is within the limit.
    #[cold]
    fn relieve_at_once(&self) {
        let mut accounts: Vec<Rc<Account>> = self.connections.borrow().values().map(Rc::clone).collect();
        accounts.retain(|account| 0 < account.unread_bytes());
        // Those that are closed already go first.
        accounts.sort_by_key(|account| (!account.is_evicted.get(), account.idle_since_ms()));
        let mut left = self.ledger.unread_bytes();
        for account in accounts {
            if left <= call::account::SHARD_UNSENT_BYTES_LIMIT {
                return;
            }
            left = left.saturating_sub(account.unread_bytes());
            account.evict();
        }
    }

    /// Milliseconds since the shard was made, as of the last tick.
    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    fn set_blocked(&self) {
        self.is_blocked.set(true);
        self.counters.count(|counters| counters.blocked += 1);
    }

    /// Gives the connection a turn at the next `ready`.
    fn wait_until_ready(&self, account: &Rc<Account>) {
        if !account.waits_for_ready.replace(true) {
            self.blocked.borrow_mut().push(Rc::clone(account));
        }
    }

    /// An HTTP/1 connection is idle from now on.
    fn begin_idle(&self) -> Silence {
        let number = self.idle_begun.replace(self.idle_begun.get() + 1);
        self.idle.begin(number)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.get()
    }

    /// A signal that fires at `deadline_ms`.
    fn set_timer(&self, deadline_ms: u64) -> Timer {
        let signal = Rc::new(Signal::default());
        let ticket = self.timers.borrow_mut().insert(deadline_ms, Rc::downgrade(&signal));
        Timer { signal, ticket, timers: Rc::clone(&self.timers) }
    }

    /// A signal that fires at `stop`.
    fn signal_at_stop(&self) -> Rc<Signal> {
        let signal = Rc::new(Signal::default());
        if self.is_stopping() {
            signal.fire();
        }
        let mut at_stop = self.at_stop.borrow_mut();
        if at_stop.len().is_power_of_two() {
            at_stop.retain(|signal| 0 < signal.strong_count());
        }
        at_stop.push(Rc::downgrade(&signal));
        signal
    }

    /// Takes in the connections that other shards have accepted for this one.
    pub fn take_waiting(self: &Rc<Self>) {
        while let Some((endpoint, stream, place)) = self.config.reception.take(usize::from(self.config.shard))
        {
            self.adopt(endpoint, stream, place);
        }
    }

    /// Takes in a connection that was accepted.
    fn adopt(self: &Rc<Self>, endpoint: Endpoint, stream: Stream, place: Place) {
        // Answers are gathered here; the kernel must not wait for more.
        if let Err(error) = stream.set_nodelay() {
            tracing::debug!(%error, "connection was gone before it began");
            return;
        }
        let id = self.connections_made.get();
        self.connections_made.set(id + 1);
        self.counters.count(|counters| counters.accepted += 1);
        let remote = stream.remote().ok();
        let account = Account::of_client(id, Rc::clone(&self.ledger), remote.and_then(Remote::ip));
        if let Some(remote) = remote {
            account.load.comes_from(remote.party());
        }
        self.connections.borrow_mut().insert(id, Rc::clone(&account));
        let shard = Rc::clone(self);
        glommio::spawn_local(async move {
            connection::run(Rc::clone(&shard), Rc::clone(&account), endpoint, stream).await;
            account.end();
            shard.loads.on_end(&account.load);
            shard.connections.borrow_mut().remove(&id);
            drop(place);
        })
        .detach();
    }
}

/// A deadline of a task. Dropped, it costs nothing more.
struct Timer {
    signal: Rc<Signal>,
    ticket: Ticket,
    timers: Rc<RefCell<Slots<Weak<Signal>>>>,
}

impl Timer {
    fn poll_fired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.signal.poll_fired(cx)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // None when it has fired.
        drop(self.timers.borrow_mut().take(self.ticket));
    }
}

/// The shard's clock: read once a tick.
struct Clock(
    #[expect(clippy::disallowed_types, reason = "the shell reads the clock, here for all of a shard")]
    std::time::Instant,
);

impl Clock {
    #[expect(clippy::disallowed_types, reason = "as above")]
    fn start() -> Self {
        Self(std::time::Instant::now())
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.0.elapsed())
    }
}
