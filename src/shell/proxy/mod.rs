//! `pinion grpc-proxy start`: a member's front ends, and other members behind them.
//!
//! ```text
//! client ─► client shard (gRPC, JSON, TLS, accounts: `shell/client`) ─► call::forward ─► upstream ─► member
//! ```
//!
//! As many executors as the process may use cores, each with a client shard and its own connections to the endpoints.
//! There are no roles, no log and no state: a proxy that ends costs its clients a connection.
//!
//! Bounds: those of a client shard; descriptors as for a member; a start by its look-ups.
//! Compatibility: etcd's proxy, but that this one has the JSON gateway and `/version`, joins watches without changing what
//! their clients see (`watches`), and refuses its own address as an endpoint.

mod role;
mod watches;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, RecvTimeoutError};
use glommio::{LocalExecutorBuilder, Placement as Pin};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config::{self, Address, GrpcProxy, Listener, Url};
use crate::pb::etcdserverpb as pb;
use crate::rpc::{Method, status};
use crate::shell::boot::host::{self, Descriptors, HostError};
use crate::shell::boot::shard_config;
use crate::shell::boot::tls::{Tls, TlsError};
use crate::shell::client::role::ServingPorts;
use crate::shell::client::{Endpoint, Reception, ShardConfig, Speaks};
use crate::shell::net::addresses::{Addresses, RESOLVE_PATIENCE};
use crate::shell::net::is_own;
use crate::shell::net::listen::Held;
use crate::shell::net::tls::{Credentials, CredentialsError, Handshakes, Protocols, TlsConnector};
use crate::shell::runtime::aside::IO_MEMORY_BYTES;
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::mesh::{Doorbell, SharedBell, SharedRing};
use crate::shell::runtime::placement::{Core, Role, SHARDS_MAX};
use crate::shell::runtime::pulse::{self, Patient, Pulse};
use crate::shell::runtime::scrape::{SCRAPES_MAX, Scrape, Scraper};
use crate::shell::runtime::service_manager::ServiceManager;
use crate::shell::runtime::wiring::Scrapes;
use crate::shell::upstream::{Advertised, Pings, Registry, Upstream, UpstreamConfig};
use crate::types::{ClusterId, MemberId};
use watches::{Joint, Joints};

/// As in a member.
const PREEMPT_TIMER: Duration = Duration::from_millis(10);
const RING_DEPTH: usize = 1024;

/// How long a stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// A call that no member answers, without a deadline of its client's: longer than any member lets one wait, whatever
/// its election timeout.
const CALL_PATIENCE: Duration = Duration::from_secs(120);

/// An endpoint that says nothing for so long while calls are under way is asked whether it lives.
const PING_AFTER: Duration = Duration::from_secs(10);

/// How long a member may take to say what is committed, and the pause before it is asked again.
const PRESENT_PATIENCE: Duration = Duration::from_secs(5);
const PRESENT_PAUSE: Duration = Duration::from_secs(1);

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "cert has non empty Common Name ({0}): the members would take the calls of all clients for that user's. Give \
         --cert one without a Common Name"
    )]
    NamedCertificate(String),
    #[error(
        "--endpoints: {endpoint} ({address}) is where this proxy listens ({listen}): calls would go round in a circle. \
         Give the members' client addresses"
    )]
    Itself { endpoint: String, address: SocketAddr, listen: SocketAddr },
    #[error("cannot start {what}: {source}")]
    Thread { what: &'static str, source: io::Error },
    #[error("cannot start an executor: {0}")]
    Executor(String),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: Address, source: io::Error },
}

/// What the shards and signals tell the main thread.
enum Event {
    Serving,
    ExecutorFailed(String),
    ListenFailed(Address, io::Error),
    Ended,
    Signal(i32),
}

/// Runs until a signal says to stop.
///
/// # Errors
/// [`ProxyError`], before any client was let in.
pub(super) fn run(proxy: &GrpcProxy) -> Result<(), ProxyError> {
    let (events, inbox) = channel::unbounded();
    watch_signals(events.clone())?;
    let manager = ServiceManager::of_environment();
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    let shards = allowed.len().clamp(1, SHARDS_MAX);
    let descriptors_max = host::check(shards as u64)?;
    let process = &proxy.front.process;
    let listeners = [
        (Speaks::All, "--listen-addr", &process.listen_client),
        (Speaks::Metrics, "--metrics-addr", &process.listen_metrics),
    ];
    refuse_itself(proxy, listeners.iter().flat_map(|(_, _, listeners)| listeners.iter()))?;
    let mut held = Vec::new();
    for (speaks, flag, listeners) in listeners {
        let addresses: Vec<Address> = listeners.iter().map(|listener| listener.address.clone()).collect();
        let endpoints = listeners.iter().map(|listener| Endpoint { speaks, encryption: listener.encryption });
        held.extend(endpoints.zip(host::hold_addresses(flag, &addresses, false)?));
    }
    let tls = Tls::load(&proxy.front, &process.data_dir, "proxy")?;
    let thread = |what| move |source| ProxyError::Thread { what, source };
    let helpers = Helpers::start().map_err(thread("the helper threads"))?;
    let handshakes = Handshakes::new(helpers.clone());
    tls.keep_fresh(&helpers);
    let upstream = UpstreamConfig {
        endpoints: proxy.endpoints.clone(),
        tls: connector(proxy, &handshakes, &helpers)?,
        pings: Pings {
            after: proxy.dial_keepalive_time.unwrap_or(PING_AFTER),
            patience: proxy.dial_keepalive_timeout,
            always: proxy.permit_without_stream,
        },
        send_bytes_max: proxy.send_bytes_max,
        receive_bytes_max: proxy.receive_bytes_max,
        advertised: Some(&proxy.advertise_client_url)
            .filter(|url| !url.is_empty())
            .map(|url| Advertised { name: host_name(), url: url.clone() }),
        registry: proxy.registry.clone().map(|(prefix, ttl_s)| Registry { prefix, ttl_s }),
        seen: proxy.ordering.then(Arc::default),
    };
    let bells: Vec<Arc<SharedBell>> = (0..shards).map(|_| Arc::default()).collect();
    let joints = Joints::new(&bells);
    let reception = Reception::new(bells.iter().cloned().enumerate());
    let descriptors = Descriptors::expected(descriptors_max, shards as u64);
    // Besides those of a member each shard has one for each endpoint.
    let connections_max = descriptors.clients.saturating_sub(shards * proxy.endpoints.len()).max(1);
    reception.set_connections_max(connections_max);
    let mut scraper = Scraper::default();
    let scrapes: Vec<Arc<SharedRing<Scrape>>> =
        bells.iter().map(|bell| SharedRing::new(SCRAPES_MAX, Arc::clone(bell))).collect();
    for (shard, ring) in scrapes.iter().enumerate() {
        let ring = Arc::clone(ring);
        scraper.add(Role::Shard(shard).to_string(), move |scrape| ring.send(scrape).is_ok());
    }
    let entropy = || host::entropy().map_err(thread("the source of randomness"));
    let generation = u32::try_from(entropy()? >> 32).expect("a shifted u64 fits");
    let mut shard = shard_config(&proxy.front, ClusterId(0), MemberId(0), generation, entropy()?);
    shard.request_timeout = CALL_PATIENCE;
    shard.reception = Arc::clone(&reception);
    shard.scraper = Arc::new(scraper);
    shard.tls = tls.client_acceptor(&handshakes);
    let stop = Arc::<AtomicBool>::default();
    let mut dealt = BTreeMap::<usize, Vec<_>>::new();
    for (number, held) in held.into_iter().enumerate() {
        dealt.entry(number % shards).or_default().push(held);
    }
    let mut threads = Vec::new();
    for number in 0..shards {
        let pulse = Arc::<Pulse>::default();
        let executor = Executor {
            number,
            pulse: Arc::clone(&pulse),
            config: ShardConfig {
                shard: u16::try_from(number).expect("bounded by SHARDS_MAX"),
                ..shard.clone()
            },
            upstream: upstream.clone(),
            seed: entropy()?,
            bell: Arc::clone(&bells[number]),
            joints: Arc::clone(&joints),
            scrapes: Arc::clone(&scrapes[number]),
            stop: Arc::clone(&stop),
            held: dealt.remove(&number).unwrap_or_default(),
            events: events.clone(),
        };
        let spawned =
            std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || executor.run());
        threads.push(Patient { pulse, thread: spawned.map_err(thread("an executor"))? });
    }
    pulse::start(threads).map_err(thread("the pulse"))?;
    let signal = match wait_until_serving(&inbox, shards)? {
        Some(signal) => signal,
        None => {
            let (endpoints, address) = (list(&proxy.endpoints), list_addresses(&process.listen_client));
            tracing::info!(
                address,
                endpoints,
                shards,
                connections_max,
                commit = config::COMMIT,
                build = config::BUILD,
                "ready to pass client requests on"
            );
            manager.tell(&[("READY", "1"), ("STATUS", &format!("passing calls on from {address}"))]);
            wait_for_signal(&inbox)
        }
    };
    tracing::info!(signal, connections = reception.connections(), "stopping: calls under way may finish");
    manager.tell(&[("STOPPING", "1"), ("STATUS", "stopping")]);
    stop.store(true, Ordering::Release);
    bells.iter().for_each(|bell| bell.ring());
    if wait_for_ends(&inbox, shards) {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped before all calls had ended");
    }
    Ok(())
}

/// Refuses an endpoint that is this proxy.
fn refuse_itself<'a>(
    proxy: &GrpcProxy,
    listeners: impl Iterator<Item = &'a Listener>,
) -> Result<(), ProxyError> {
    let mut addresses = Addresses::until(Instant::now() + RESOLVE_PATIENCE);
    let listen: Vec<SocketAddr> = listeners
        .filter_map(|listener| match listener.address {
            Address::Ip(address) => Some(address),
            Address::Socket(_) => None,
        })
        .collect();
    for url in proxy.endpoints.iter().filter(|url| url.socket_path().is_none()) {
        for address in addresses.of(url) {
            if let Some(listen) = listen.iter().find(|listen| is_own(address, **listen)) {
                return Err(ProxyError::Itself { endpoint: url.to_string(), address, listen: *listen });
            }
        }
    }
    Ok(())
}

/// How members with TLS are dialed; None where there are none.
fn connector(
    proxy: &GrpcProxy,
    handshakes: &Handshakes,
    helpers: &Helpers,
) -> Result<Option<TlsConnector>, ProxyError> {
    if !proxy.endpoints.iter().any(Url::is_tls) {
        return Ok(None);
    }
    let credentials = Credentials::load(&proxy.security, &proxy.front.process.tls.policy, Protocols::Http)?;
    if let Some(name) = credentials.shown_name().filter(|name| !name.is_empty()) {
        return Err(ProxyError::NamedCertificate(name));
    }
    let kept = Arc::clone(&credentials);
    helpers.run_in_background("certificates", move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            kept.refresh();
        }
    });
    Ok(Some(TlsConnector::new(credentials, handshakes.clone())))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

fn list(urls: &[Url]) -> String {
    urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn list_addresses(listeners: &[Listener]) -> String {
    listeners.iter().map(|listener| listener.address.to_string()).collect::<Vec<_>>().join(",")
}

fn watch_signals(events: channel::Sender<Event>) -> Result<(), ProxyError> {
    let thread = |source| ProxyError::Thread { what: "signal handling", source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(thread)?;
    let listen = move || {
        for signal in signals.forever() {
            // The main thread is gone only when the process is ending anyway.
            events.send(Event::Signal(signal)).ok();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop).map_err(thread)
}

/// The signal that came instead, if one did.
fn wait_until_serving(inbox: &channel::Receiver<Event>, shards: usize) -> Result<Option<i32>, ProxyError> {
    let mut serving = 0;
    while serving < shards {
        match inbox.recv().expect("this thread has a sender too") {
            Event::Serving => serving += 1,
            Event::ExecutorFailed(reason) => return Err(ProxyError::Executor(reason)),
            Event::ListenFailed(address, source) => return Err(ProxyError::Listen { address, source }),
            Event::Signal(signal) => return Ok(Some(signal)),
            Event::Ended => {}
        }
    }
    Ok(None)
}

fn wait_for_signal(inbox: &channel::Receiver<Event>) -> i32 {
    loop {
        if let Event::Signal(signal) = inbox.recv().expect("this thread has a sender too") {
            return signal;
        }
    }
}

/// Whether all shards have ended in time; a second signal ends the patience.
fn wait_for_ends(inbox: &channel::Receiver<Event>, shards: usize) -> bool {
    let deadline = Instant::now() + STOP_PATIENCE;
    let mut left = shards;
    while 0 < left {
        match inbox.recv_deadline(deadline) {
            Ok(Event::Ended) => left -= 1,
            Ok(Event::Signal(_)) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return false;
            }
            Ok(_) => {}
        }
    }
    true
}

/// Where answers may not go back, nobody is served before it is known what is committed: or else a proxy that was started
/// again would forget what its clients have seen. A cluster that wants a login does not say.
async fn see_the_present(upstream: &Upstream, stop: &AtomicBool) {
    let Some(seen) = &upstream.config().seen else { return };
    let request = pb::RangeRequest { key: "_".into(), keys_only: true, ..Default::default() };
    while !stop.load(Ordering::Acquire) {
        match upstream.ask::<pb::RangeResponse>(Method::Range, &request, PRESENT_PATIENCE).await {
            Ok(answer) => return seen.note(answer.header.map_or(0, |header| header.revision)),
            Err(refused) if refused == status::USER_EMPTY || refused == status::PERMISSION_DENIED => {
                tracing::warn!("members want a login, so what clients saw before this start is not known");
                return;
            }
            Err(status) => {
                tracing::warn!(reason = %status.message, "clients wait until a member says what is committed");
                glommio::timer::sleep(PRESENT_PAUSE).await;
            }
        }
    }
}

/// One shard and what it starts from. Built on the main thread.
struct Executor {
    number: usize,
    pulse: Arc<Pulse>,
    config: ShardConfig,
    upstream: UpstreamConfig,
    seed: u64,
    bell: Arc<SharedBell>,
    joints: Arc<Joints>,
    scrapes: Arc<SharedRing<Scrape>>,
    stop: Arc<AtomicBool>,
    held: Vec<(Endpoint, Held)>,
    events: channel::Sender<Event>,
}

impl Executor {
    fn run(self) {
        let builder = LocalExecutorBuilder::new(Pin::Unbound)
            .preempt_timer(PREEMPT_TIMER)
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH);
        let events = self.events.clone();
        match builder.make() {
            Ok(local) => local.run(self.serve()),
            Err(error) => {
                events.send(Event::ExecutorFailed(error.to_string())).ok();
            }
        }
    }

    async fn serve(self) {
        glommio::spawn_local(self.pulse.feel()).detach();
        let upstream = Upstream::start(self.upstream, self.seed);
        see_the_present(&upstream, &self.stop).await;
        // One watches for all, and registers for all.
        if self.number == 0 {
            Joint::start(Arc::clone(&self.joints), Rc::clone(&upstream)).await;
        }
        let lease = Rc::new(Cell::new(0));
        if self.number == 0 {
            let (upstream, lease) = (Rc::clone(&upstream), Rc::clone(&lease));
            glommio::spawn_local(async move {
                let UpstreamConfig { registry, advertised, .. } = upstream.config();
                if let (Some(registry), Some(advertised)) = (registry, advertised) {
                    upstream.stay_registered(registry, advertised, |id| lease.set(id)).await;
                }
            })
            .detach();
        }
        let registered = Rc::clone(&upstream);
        let role = Role::Shard(self.number);
        let executor = Some((self.number as Core, role.to_string()));
        let ports = ServingPorts {
            bell: Doorbell::new(self.bell),
            scrapes: Scrapes::of(self.scrapes, role, executor),
            stop: self.stop,
        };
        let events = self.events.clone();
        let on_serving = move || {
            events.send(Event::Serving).ok();
        };
        let ended = match role::run(self.config, upstream, self.joints, ports, self.held, on_serving).await {
            Ok(()) => Event::Ended,
            Err((address, error)) => Event::ListenFailed(address, error),
        };
        if lease.get() != 0 {
            registered.deregister(lease.get()).await;
        }
        self.events.send(ended).ok();
    }
}
