//! Starting and stopping a member.
//!
//! Order of a start: look at the host, lock the data directory, read checkpoint and log, start the
//! log thread, then one executor a core with its roles. Raft replays what was committed, this
//! member publishes itself through the log, and only then clients are let in.
//! Order of a stop: clients first (no new ones, calls under way may finish), then raft, which closes
//! the log; the process ends when the log says that everything in it is on the disk.

mod address_file;
mod contents;
mod cores;
pub(in crate::shell) mod data_dir;
mod etcd_dir;
pub(in crate::shell) mod force_new;
pub(in crate::shell) mod host;
pub(in crate::shell) mod inspect;
pub(in crate::shell) mod join;
mod progress;
pub(in crate::shell) mod recover;
pub(in crate::shell) mod recovery;
mod replay;
pub(in crate::shell) mod restore;
mod snapshot_file;
pub(in crate::shell) mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use crossbeam::channel::{self, RecvTimeoutError};
use glommio::{LocalExecutorBuilder, Placement as Pin};
use prost::Message as _;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::config::{self, Address, Config, Listener, TokenConfig, Url};
use crate::pb::peer;
use crate::peer::PEER_URLS_MAX;
use crate::raft::{self, StartError};
use crate::replica;
use crate::request::EntryId;
use crate::shell::client::jwt::{Jwt, JwtError, Keys};
use crate::shell::client::role::ShardOrders;
use crate::shell::client::{Endpoint, Keepalive, Reception, ShardConfig, Speaks};
use crate::shell::log::writer::LogCommand;
use crate::shell::net::listen::Held;
use crate::shell::net::tls::Handshakes;
use crate::shell::peer::PeerConfig;
use crate::shell::raft::checkpoint_transfer::Place;
use crate::shell::raft::hash_checks::HashCheckConfig;
use crate::shell::raft::seat::{Keep, Parts, RaftNews, RaftOrders, Seat as RaftSeat, Settings};
use crate::shell::raft::{RaftRole, RaftStartError};
use crate::shell::runtime::aside::IO_MEMORY_BYTES;
use crate::shell::runtime::exit::{EXIT_DATA_DIFFERS, EXIT_FORMAT_LEVEL};
use crate::shell::runtime::helpers::Helpers;
use crate::shell::runtime::logging;
use crate::shell::runtime::mesh::SharedRing;
use crate::shell::runtime::passwords::Passwords;
use crate::shell::runtime::placement::{self, Core, PlanError, Role};
use crate::shell::runtime::pulse::{self, Patient, Pulse};
use crate::shell::runtime::rights::Rights;
use crate::shell::runtime::service_manager::ServiceManager;
use crate::shell::runtime::waiting::{Reports, Waiting};
use crate::shell::runtime::watchdog;
use crate::shell::runtime::wiring::{Ports, Wiring};
use crate::shell::store::quota::Quota;
use crate::shell::store::{Position, Seat as StoreSeat, StoreRole, Upkeep};
use crate::types::{ClusterId, MemberId};
use data_dir::{DataDir, DataDirError, IdentityFile};
use etcd_dir::EtcdDirError;
use host::{Descriptors, HostError};
use recovery::{RecoveryError, Start, wal_identity};
use replay::ReplayError;
use tls::{Tls, TlsError};

/// Completions of the log that may wait for raft; more than its commands in flight.
const LOG_EVENTS_MAX: usize = 256;

/// Tasks that never rest for this long are interrupted to look at the rings. Roles rest after every
/// batch, so it hardly fires, and it should not: see `pulse.rs`. The runtime's default is 100 ms, which a
/// message from another core could wait; 1, 10 and 100 ms measured alike at 10 k puts/s.
const PREEMPT_TIMER: Duration = Duration::from_millis(10);

/// Rings of io_uring: sockets in flight a turn.
const RING_DEPTH: usize = 1024;

/// How long each half of a stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum BootError {
    #[error(transparent)]
    Placement(#[from] PlanError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Etcd(#[from] EtcdDirError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("what the data directory holds is no log that can be continued: {0}")]
    Raft(#[from] StartError),
    #[error("cannot start {what}: {source}{}", advice(.source))]
    Thread { what: &'static str, source: io::Error },
    #[error("cannot start an executor on core {core}: {reason}")]
    Executor { core: Core, reason: String },
    #[error("cannot listen on {address} (--listen-client-urls): {source}")]
    Listen { address: Address, source: io::Error },
    #[error("cannot listen on {address} (--listen-peer-urls): {source}")]
    ListenPeer { address: Address, source: io::Error },
    #[error(
        "this member was removed from its cluster and cannot come back; add a new member and start it with an empty --data-dir"
    )]
    Removed,
    /// The sentence is whole.
    #[error("{0}")]
    DataDiffers(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Jwt(#[from] JwtError),
    #[error("stopped before it was ready")]
    Interrupted,
}

/// What to do where no thread can be started.
fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EAGAIN) => {
            ". The limit of processes is reached: raise `ulimit -u`, LimitNPROC= and TasksMax= of systemd, or the \
             pids limit of the container"
        }
        _ => "",
    }
}

impl BootError {
    /// What the process ends with.
    pub(in crate::shell) fn exit_code(&self) -> u8 {
        match self {
            Self::DataDiffers(_) => EXIT_DATA_DIFFERS,
            Self::Recovery(
                RecoveryError::FormatLevel(_) | RecoveryError::Replay(ReplayError::FormatLevel(_)),
            ) => EXIT_FORMAT_LEVEL,
            _ => 1,
        }
    }
}

/// What the roles tell the main thread.
enum MemberEvent {
    Serving,
    ExecutorFailed(Core, String),
    ThreadFailed(&'static str, io::Error),
    ListenFailed(Address, io::Error),
    ShardEnded,
    HandedOver,
    /// The cluster has removed this member.
    Removed,
    PeerListenFailed(Address, io::Error),
    /// This member's data is not what the others have.
    DataDiffers(String),
    RaftRefused(StartError),
    RaftEnded,
    Signal(i32),
}

type Events = channel::Sender<MemberEvent>;

fn tell(events: &Events, event: MemberEvent) {
    // The main thread is gone only when the process is ending anyway.
    events.send(event).ok();
}

/// Why a member stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shell) enum Ended {
    /// A signal told it to.
    Told,
    /// Its cluster removed it.
    Removed,
}

/// Runs a member until a signal stops it, or its cluster removes it.
///
/// # Errors
/// [`BootError`], before any client was let in.
pub(in crate::shell) fn run(config: &Config) -> Result<Ended, BootError> {
    let started = Instant::now();
    logging::abort_on_panic();
    let (events, inbox) = channel::unbounded();
    forward_signals(events.clone())?;
    let manager = Arc::new(ServiceManager::of_environment());
    let waiting = Waiting::default();
    let reports = Reports::start(waiting.clone(), Arc::clone(&manager)).map_err(|source| {
        BootError::Thread { what: "the thread that says what a start waits for", source }
    })?;

    let allowed =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect::<Vec<Core>>();
    let process = &config.process;
    let placed = placement::place(&process.placement, &allowed)?;
    let (plan, pinned) = (&placed.plan, placed.pinned);
    let executors = placement::executors(plan);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), placement = %plan, pinned, executors = executors.len(), "placement plan");
    let executors_count = executors.len() as u64;
    let descriptors_max = host::check(executors_count)?;
    if process.lock_memory {
        host::lock_memory()?;
    }
    let descriptors = Descriptors::expected(descriptors_max, executors_count);
    // Before anything is on the disk, which is another member's if the addresses are.
    let hold = |flag, listeners: &[Listener]| {
        let addresses: Vec<Address> = listeners.iter().map(|listener| listener.address.clone()).collect();
        host::hold_addresses(flag, &addresses, process.socket_reuse_port)
    };
    // Both kinds of calls come to every address, unless the operator has given HTTP its own.
    let has_http_apart = !process.listen_client_http.is_empty();
    let mut held_for_clients = Vec::new();
    for (speaks, flag, listeners) in [
        (
            if has_http_apart { Speaks::Grpc } else { Speaks::All },
            "--listen-client-urls",
            &process.listen_client,
        ),
        (Speaks::Http, "--listen-client-http-urls", &process.listen_client_http),
        (Speaks::Metrics, "--listen-metrics-urls", &process.listen_metrics),
    ] {
        let endpoints = listeners.iter().map(|listener| Endpoint { speaks, encryption: listener.encryption });
        held_for_clients.extend(endpoints.zip(hold(flag, listeners)?));
    }
    let held_for_peers = hold("--listen-peer-urls", &process.listen_peer)?;
    let secured_peers = process.listen_peer.iter().map(|listener| listener.encryption.has_tls());
    let held_for_peers: Vec<(bool, Held)> = secured_peers.zip(held_for_peers).collect();

    let data_dir = DataDir::open(&process.data_dir, process.wal_dir.as_deref())?;
    pinion_wal::map::install_sigbus_handler(logging::descriptor())
        .map_err(|source| BootError::Thread { what: "the SIGBUS handler", source })?;
    etcd_dir::import_if_any(config, &data_dir, &waiting)?;
    let tls = Tls::load(config, &process.data_dir, "client")?;
    tls.tell(config);
    let token_keys = match &process.auth.tokens {
        TokenConfig::Simple => None,
        TokenConfig::Jwt(jwt) => Some(Keys::load(jwt)?),
    };
    // Nothing but a signal can come before a thread of ours runs.
    let start =
        recovery::open(config, &data_dir, tls.connector(&Handshakes::default()).as_ref(), &waiting, &|| {
            inbox.try_recv().is_ok()
        })?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let known = start.machine.sessions().last_incarnation(start.identity.member);
    let floor = u64::try_from(since.as_micros()).unwrap_or(0).max(known + 1);
    let incarnation = data_dir.begin_incarnation(floor)?;
    let lives = data_dir.lives(entropy()?)?;
    tracing::info!(
        data_dir = %process.data_dir.display(),
        incarnation,
        cluster = %start.identity.cluster,
        member = %start.identity.member,
        format_level = start.machine.format_level().0,
        wal_sync = start.sync_mode.as_str(),
        "data directory open"
    );

    waiting.on("the roles are being started");
    let wiring = Wiring::new(executors.values().map(Vec::as_slice));
    let log_events = SharedRing::new(LOG_EVENTS_MAX, wiring.bell(Role::Raft));
    // Whoever spins on a core that others need only delays them.
    let spin = |core: Core, is_executor: bool| {
        let is_shared = if is_executor { core == plan.log } else { executors.contains_key(&core) };
        if is_shared || !pinned { Duration::ZERO } else { process.spin_before_park }
    };
    let Start { identity, machine, recovered, wal, sync_mode: _, last, applied } = start;
    let own = machine.cluster().member(identity.member);
    let known_peer_urls = own.into_iter().flat_map(|own| &own.peer_urls);
    let known_peer_urls = known_peer_urls.filter_map(|url| Url::parse(url).ok()).collect();
    let log = crate::shell::log::writer::start(
        wal,
        pinned.then_some(plan.log),
        spin(plan.log, false),
        Arc::clone(&log_events),
    )
    .map_err(|source| BootError::Thread { what: "the log writer", source })?;

    let log_for_scrapes = log.clone();
    let log_reader =
        crate::shell::log::reader::start(data_dir.wal(), wal_identity(&identity), wiring.bell(Role::Raft))
            .map_err(|source| BootError::Thread { what: "the log reader", source })?;
    // Before the executors, which are pinned.
    let helpers =
        Helpers::start().map_err(|source| BootError::Thread { what: "the helper threads", source })?;

    let handshakes = Handshakes::new(helpers.clone());
    tls.keep_fresh(&helpers);

    let orders = ShardOrders::default();
    let raft_orders = RaftOrders::default();
    let position = Position {
        member: identity.member,
        checkpoint: recovered.checkpoint.index,
        applied: EntryId { index: recovered.start().index, term: recovered.start().term },
        replayed: applied.log,
        replay: applied.took,
        recovered: last,
        format_level_max: process.format_level_max,
    };
    let quota_bytes = u64::try_from(process.quota_bytes).unwrap_or(u64::MAX);
    let quota = Arc::new(Quota::new(quota_bytes, wiring.bell(Role::Store)));
    let is_published = Arc::<AtomicBool>::default();
    let mut raft_seat = Some(RaftSeat {
        replica: replica_config(config, &identity, incarnation),
        peers: PeerConfig {
            lives,
            addresses: data_dir.addresses(),
            format_level: machine.format_level(),
            acceptor: tls.peer_acceptor(&handshakes),
            connector: tls.connector(&handshakes),
            ..peer_config(config, &identity, incarnation, known_peer_urls, descriptors)
        },
        held: held_for_peers,
        checkpoints: Place {
            dir: data_dir.checkpoints(),
            cluster: identity.cluster,
            member: identity.member,
        },
        checkpoint: recovered.checkpoint.index,
        recovered,
        helpers: helpers.clone(),
        hash_checks: HashCheckConfig {
            period: process.corrupt_check_interval.unwrap_or_default(),
            compact_period: process.compact_hash_check_interval.unwrap_or_default(),
        },
        settings: Settings {
            strict: config.cluster.strict_reconfig_check,
            catch_up_entries: process.catch_up_entries,
            learners_max: config.cluster.learners_max,
            format_level_max: process.format_level_max,
            tick: Duration::from_millis(u64::from(config.cluster.heartbeat_ms)),
            election_ticks: u64::from(config.cluster.election_ms / config.cluster.heartbeat_ms),
            entropy: entropy()?,
        },
        parts: Parts {
            log,
            log_events,
            log_reader,
            publish: publish_body(config, &identity),
            is_published: Arc::clone(&is_published),
            is_open: Arc::clone(&orders.open),
            waiting,
            orders: raft_orders.clone(),
            keep_lives: keep(data_dir.lives_writer(), "which lives of other members were met", &helpers),
            keep_addresses: keep(data_dir.addresses_writer(), "where the names of members lead", &helpers),
            quota: Arc::clone(&quota),
        },
    });
    let rights = Rights::default();
    let mut store_seat = Some(StoreSeat {
        machine,
        position,
        upkeep: Upkeep {
            checkpoint_entries: process.checkpoint_entries,
            checkpoint_bytes: process.checkpoint_bytes,
            compaction_batch: process.compaction_batch_revisions as usize,
            compaction_sleep: process.compaction_sleep,
            auto_compaction: process.auto_compaction,
            pinned_history_bytes: process.pinned_history_bytes,
            election_timeout: Duration::from_millis(u64::from(config.cluster.election_ms)),
        },
        quota_bytes: process.quota_bytes,
        quota,
        rights: rights.clone(),
        token_ttl: process.auth.token_ttl,
        dir: data_dir.checkpoints(),
        helpers: helpers.clone(),
    });
    let jwt = token_keys.map(|keys| Jwt::new(keys, helpers.clone()));
    let passwords = Passwords::new(process.auth.bcrypt_cost, helpers.clone());
    let compare = process.features.initial_corrupt_check.then(|| Arc::clone(&raft_orders.compare));
    let mut threads = Vec::new();
    let generation = u32::try_from(entropy()? >> 32).expect("a shifted u64 fits");
    let lease_seed = entropy()?;
    let reception = Reception::new(wiring.shard_bells().into_iter().enumerate());
    reception.set_connections_max(descriptors.clients);
    let mut held_by_shard = deal(held_for_clients, plan.shards.len());
    let mut scraper = wiring.scraper();
    scraper.write_on(helpers.clone());
    scraper.add("log", move |scrape| {
        log_for_scrapes.send(LogCommand::Observe(scrape));
        true
    });
    let scraper = Arc::new(scraper);
    let overview = Arc::default();
    for (&core, roles) in &executors {
        let mut shard_config =
            shard_config(config, identity.cluster, identity.member, generation, lease_seed);
        shard_config.reception = Arc::clone(&reception);
        shard_config.rights = rights.clone();
        shard_config.passwords = passwords.clone();
        shard_config.jwt = jwt.clone();
        shard_config.tls = tls.client_acceptor(&handshakes);
        shard_config.scraper = Arc::clone(&scraper);
        shard_config.overview = Arc::clone(&overview);
        let pulse = Arc::<Pulse>::default();
        let executor = Executor {
            pulse: Arc::clone(&pulse),
            core,
            roles: roles.clone(),
            wiring: wiring.clone(),
            raft: roles.contains(&Role::Raft).then(|| raft_seat.take().expect("one raft role")),
            store: roles.contains(&Role::Store).then(|| store_seat.take().expect("one store role")),
            compare: compare.clone(),
            is_published: Arc::clone(&is_published),
            shard_config,
            held: roles.iter().filter_map(|role| held_by_shard.remove_entry(role)).collect(),
            orders: orders.clone(),
            events: events.clone(),
        };
        let builder = LocalExecutorBuilder::new(if pinned { Pin::Fixed(core) } else { Pin::Unbound })
            .spin_before_park(spin(core, true))
            .preempt_timer(PREEMPT_TIMER)
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH);
        let events = events.clone();
        let thread = std::thread::Builder::new()
            .name(format!("core-{core}"))
            .spawn(move || match builder.make() {
                Ok(local) => local.run(executor.run()),
                Err(error) => tell(&events, MemberEvent::ExecutorFailed(core, error.to_string())),
            })
            .map_err(|source| BootError::Thread { what: "an executor", source })?;
        threads.push(Patient { pulse, thread });
    }

    let pulses: Vec<Arc<Pulse>> = threads.iter().map(|patient| Arc::clone(&patient.pulse)).collect();
    pulse::start(threads).map_err(|source| BootError::Thread { what: "the pulse", source })?;
    let shards = plan.shards.len();
    let signal = wait_until_serving(&inbox, shards)?;
    drop(reports);
    if signal.is_none() {
        if let Some(period) = watchdog::period_of_environment() {
            watchdog::start(period, Arc::clone(&manager), pulses)
                .map_err(|source| BootError::Thread { what: "the watchdog", source })?;
        }
        let descriptors = Descriptors::counted(descriptors_max, executors_count, reception.connections());
        reception.set_connections_max(descriptors.clients);
        let Descriptors { limit, kept, clients } = descriptors;
        tracing::info!(limit, clients, kept, "file descriptors: for clients, and kept for peers and files");
        let addresses = process
            .listen_client
            .iter()
            .map(|listener| listener.address.to_string())
            .collect::<Vec<_>>()
            .join(",");
        tracing::info!(
            address = addresses.as_str(),
            name = process.name,
            seconds = started.elapsed().as_secs_f64(),
            commit = config::COMMIT,
            build = config::BUILD,
            connect = format!("etcdctl --endpoints={}", endpoints(&process.advertise_client_urls)),
            "ready to serve client requests"
        );
        manager.tell(&[("READY", "1"), ("STATUS", &format!("serving clients on {addresses}"))]);
    }
    let signal = signal.or_else(|| wait_for_signal(&inbox));
    tracing::info!(signal, "stopping");
    manager.tell(&[("STOPPING", "1"), ("STATUS", "stopping")]);
    let ended = if signal.is_some() { Ended::Told } else { Ended::Removed };
    let ring = |role| wiring.bell(role).ring();
    raft_orders.hand_over.store(true, Ordering::Release);
    ring(Role::Raft);
    wait_for(&inbox, 1, |event| matches!(event, MemberEvent::HandedOver));
    orders.stop.store(true, Ordering::Release);
    (0..shards).for_each(|shard| ring(Role::Shard(shard)));
    wait_for(&inbox, shards, |event| matches!(event, MemberEvent::ShardEnded));
    raft_orders.stop.store(true, Ordering::Release);
    ring(Role::Raft);
    if wait_for(&inbox, 1, |event| matches!(event, MemberEvent::RaftEnded)) {
        tracing::info!("stopped");
    } else {
        tracing::warn!("the log did not end in time; everything acknowledged is on the disk all the same");
    }
    Ok(ended)
}

/// Which shard accepts on which address: one after the other.
fn deal(held: Vec<(Endpoint, Held)>, shards: usize) -> BTreeMap<Role, Vec<(Endpoint, Held)>> {
    let mut dealt = BTreeMap::<Role, Vec<_>>::new();
    for (number, held) in held.into_iter().enumerate() {
        dealt.entry(Role::Shard(number % shards)).or_default().push(held);
    }
    dealt
}

/// The addresses that a client on this machine can dial.
fn endpoints(advertised: &[Url]) -> String {
    let dialable = |url: &Url| match url.bind_addr() {
        Ok(Address::Ip(address)) if address.ip().is_unspecified() => {
            let loopback = match address.ip() {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
            };
            format!("{}://{}", url.scheme(), SocketAddr::new(loopback, address.port()))
        }
        _ => url.to_string(),
    };
    advertised.iter().map(dialable).collect::<Vec<String>>().join(",")
}

fn forward_signals(events: Events) -> Result<(), BootError> {
    let thread = |source| BootError::Thread { what: "signal handling", source };
    // A file size limit would end the process without a word; with a handler the write fails instead.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(thread)?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(thread)?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                tell(&events, MemberEvent::Signal(signal));
            }
        })
        .map(|_handle| ())
        .map_err(thread)
}

/// The signal that came instead, if one did.
fn wait_until_serving(
    inbox: &channel::Receiver<MemberEvent>,
    shards: usize,
) -> Result<Option<i32>, BootError> {
    let mut serving = 0;
    while serving < shards {
        match inbox.recv() {
            Ok(MemberEvent::Serving) => serving += 1,
            Ok(MemberEvent::ExecutorFailed(core, reason)) => {
                return Err(BootError::Executor { core, reason });
            }
            Ok(MemberEvent::ThreadFailed(what, source)) => return Err(BootError::Thread { what, source }),
            Ok(MemberEvent::ListenFailed(address, source)) => {
                return Err(BootError::Listen { address, source });
            }
            Ok(MemberEvent::PeerListenFailed(address, source)) => {
                return Err(BootError::ListenPeer { address, source });
            }
            Ok(MemberEvent::Removed) => return Err(BootError::Removed),
            Ok(MemberEvent::RaftRefused(error)) => return Err(BootError::Raft(error)),
            Ok(MemberEvent::DataDiffers(reason)) => return Err(BootError::DataDiffers(reason)),
            Ok(MemberEvent::Signal(signal)) => return Ok(Some(signal)),
            Ok(MemberEvent::ShardEnded | MemberEvent::HandedOver | MemberEvent::RaftEnded) | Err(_) => {
                return Err(BootError::Interrupted);
            }
        }
    }
    Ok(None)
}

/// None: the member was removed instead.
fn wait_for_signal(inbox: &channel::Receiver<MemberEvent>) -> Option<i32> {
    loop {
        match inbox.recv().expect("this thread has a sender too") {
            MemberEvent::Signal(signal) => return Some(signal),
            MemberEvent::Removed => return None,
            _ => {}
        }
    }
}

/// Whether so many events came within the patience; a second signal ends the patience.
fn wait_for(
    inbox: &channel::Receiver<MemberEvent>,
    mut count: usize,
    is_wanted: impl Fn(&MemberEvent) -> bool,
) -> bool {
    let deadline = Instant::now() + STOP_PATIENCE;
    while count > 0 {
        match inbox.recv_deadline(deadline) {
            Ok(event) if is_wanted(&event) => count -= 1,
            Ok(MemberEvent::Signal(_)) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return false;
            }
            Ok(_) => {}
        }
    }
    true
}

fn entropy() -> Result<u64, BootError> {
    host::entropy().map_err(|source| BootError::Thread { what: "the source of randomness", source })
}

/// Writes a file aside, again and again. It is one file, so whoever writes has the lock, and writes the newest.
fn keep<T: Clone + Default + Send + 'static>(
    write: impl Fn(&T) -> Result<(), DataDirError> + Send + Sync + 'static,
    what: &'static str,
    helpers: &Helpers,
) -> Keep<T> {
    let (write, helpers) = (Arc::new(write), helpers.clone());
    let (newest, file) = (Arc::<Mutex<T>>::default(), Arc::<Mutex<()>>::default());
    Box::new(move |noted| {
        *newest.lock().unwrap_or_else(PoisonError::into_inner) = noted;
        let (write, newest, file) = (Arc::clone(&write), Arc::clone(&newest), Arc::clone(&file));
        helpers.run("notes", move || {
            let _turn = file.lock().unwrap_or_else(PoisonError::into_inner);
            let noted = newest.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Err(error) = write(&noted) {
                tracing::error!(%error, what, "a note is not kept; it is with the next one");
            }
        });
    })
}

fn replica_config(config: &Config, identity: &IdentityFile, incarnation: u64) -> replica::Config {
    let mut raft = raft::Config::new(identity.member, incarnation);
    let cluster = &config.cluster;
    raft.election_ticks = (cluster.election_ms / cluster.heartbeat_ms) as usize;
    raft.pre_vote = cluster.pre_vote;
    let mut replica = replica::Config::new(raft);
    let request_timeout = request_timeout(config).as_millis();
    replica.request_timeout_ticks =
        u64::try_from(request_timeout).expect("seconds") / u64::from(cluster.heartbeat_ms);
    // Two of the largest, beside what is small.
    replica.backlog_bytes_max = replica.backlog_bytes_max.max(3 * cluster.request_bytes_max as usize);
    replica.read_retry_ticks = u64::from(500_u32.div_ceil(cluster.heartbeat_ms));
    replica
}

/// etcd's: 5 s and two election timeouts.
fn request_timeout(config: &Config) -> Duration {
    Duration::from_secs(5) + 2 * Duration::from_millis(u64::from(config.cluster.election_ms))
}

/// etcd's: 1.5 election timeouts, in ticks rounded down and in seconds rounded up.
fn lease_ttl_min_s(config: &Config) -> i64 {
    let cluster = &config.cluster;
    let ticks = 3 * (cluster.election_ms / cluster.heartbeat_ms) / 2;
    i64::from((ticks * cluster.heartbeat_ms).div_ceil(1000))
}

/// What a client shard is told of the configuration.
pub(in crate::shell) fn shard_config(
    config: &Config,
    cluster: ClusterId,
    member: MemberId,
    generation: u32,
    lease_seed: u64,
) -> ShardConfig {
    let mut shard = ShardConfig::new(0, cluster, member);
    let (cluster, process) = (&config.cluster, &config.process);
    shard.first_generation = generation;
    shard.lease_seed = lease_seed;
    shard.lease_ttl_min_s = lease_ttl_min_s(config);
    shard.request_bytes_max = cluster.request_bytes_max;
    shard.metadata_bytes_max = process.metadata_bytes_max;
    shard.txn_ops_max = cluster.txn_ops_max;
    shard.concurrent_streams_max =
        (process.max_concurrent_streams != u32::MAX).then_some(process.max_concurrent_streams);
    shard.request_timeout = request_timeout(config);
    shard.election_timeout = Duration::from_millis(u64::from(cluster.election_ms));
    shard.keepalive = Keepalive {
        min_time: process.keepalive.client_min_time,
        interval: process.keepalive.server_interval.unwrap_or(Duration::MAX),
        timeout: process.keepalive.server_timeout,
    };
    shard.watch_progress_interval = process.watch_progress_interval;
    shard.slow_after = process.slow_after;
    shard.web = process.web.clone();
    shard.is_extensive = process.has_extensive_metrics;
    shard.load_prefix_depth = process.load_prefix_depth;
    shard.features = process.features;
    shard
}

/// `known` are the URLs that the cluster has for this member. They come first: the flag names nobody any
/// more once a member is listed, and may be wrong; or it is newer than this member's data.
fn peer_config(
    config: &Config,
    identity: &IdentityFile,
    incarnation: u64,
    known: Vec<Url>,
    descriptors: Descriptors,
) -> PeerConfig {
    let mut peers = PeerConfig::new(identity.cluster, identity.member, incarnation);
    peers.half_open_max = descriptors.half_open_max(peers.half_open_max);
    peers.format_level_max = config.process.format_level_max;
    peers.peer_urls = known;
    for url in &config.process.initial_advertise_peer_urls {
        if !peers.peer_urls.contains(url) {
            peers.peer_urls.push(url.clone());
        }
    }
    peers.peer_urls.truncate(PEER_URLS_MAX);
    peers
}

fn publish_body(config: &Config, identity: &IdentityFile) -> Bytes {
    let message = peer::PublishMember {
        id: identity.member.0,
        name: config.process.name.clone(),
        client_urls: config.process.advertise_client_urls.iter().map(ToString::to_string).collect(),
    };
    message.encode_to_vec().into()
}

/// One executor's roles and what they start from. Built on the main thread, run on the core.
struct Executor {
    pulse: Arc<Pulse>,
    core: Core,
    roles: Vec<Role>,
    wiring: Wiring,
    raft: Option<RaftSeat>,
    store: Option<StoreSeat>,
    /// Raft's order to compare data first, if clients are let in only after that.
    compare: Option<Arc<AtomicBool>>,
    is_published: Arc<AtomicBool>,
    shard_config: ShardConfig,
    /// The addresses on which each shard accepts.
    held: BTreeMap<Role, Vec<(Endpoint, Held)>>,
    orders: ShardOrders,
    events: Events,
}

impl Executor {
    async fn run(mut self) {
        let Ports { shards, raft, store } = self.wiring.ports(self.core, &self.roles);
        let mut tasks = Vec::new();
        glommio::spawn_local(self.pulse.feel()).detach();
        for (shard, ports) in shards {
            let mut config = self.shard_config.clone();
            config.shard = u16::try_from(shard).expect("bounded by placement::SHARDS_MAX");
            let held = self.held.remove(&Role::Shard(shard)).unwrap_or_default();
            let orders = self.orders.clone();
            let events = self.events.clone();
            tasks.push(glommio::spawn_local(async move {
                let on_serving = || tell(&events, MemberEvent::Serving);
                match crate::shell::client::role::run(config, ports, held, orders, on_serving).await {
                    Ok(()) => tell(&events, MemberEvent::ShardEnded),
                    Err((address, error)) => tell(&events, MemberEvent::ListenFailed(address, error)),
                }
            }));
        }
        if let (Some(seat), Some(ports)) = (self.raft, raft) {
            let (events, news) = (self.events.clone(), self.events.clone());
            let open = opener(&self.orders, &self.wiring);
            let on_news = move |told| match told {
                RaftNews::Compared(Ok(())) => open(),
                RaftNews::Compared(Err(reason)) => tell(&news, MemberEvent::DataDiffers(reason)),
                RaftNews::HandedOver => tell(&news, MemberEvent::HandedOver),
                RaftNews::Removed => tell(&news, MemberEvent::Removed),
            };
            tasks.push(glommio::spawn_local(async move {
                match RaftRole::new(seat, ports, on_news) {
                    Ok(role) => {
                        role.run().await;
                        tell(&events, MemberEvent::RaftEnded);
                    }
                    Err(RaftStartError::Listen(address, error)) => {
                        tell(&events, MemberEvent::PeerListenFailed(address, error));
                    }
                    Err(RaftStartError::Log(error)) => tell(&events, MemberEvent::RaftRefused(error)),
                }
            }));
        }
        if let (Some(seat), Some(ports)) = (self.store, store) {
            let (open, raft) = (opener(&self.orders, &self.wiring), self.wiring.bell(Role::Raft));
            let (compare, is_published) = (self.compare, self.is_published);
            let on_published = move || {
                is_published.store(true, Ordering::Release);
                match &compare {
                    None => open(),
                    Some(compare) => {
                        compare.store(true, Ordering::Release);
                        raft.ring();
                    }
                }
            };
            match StoreRole::new(seat, ports, self.wiring.bell(Role::Store), on_published) {
                Ok(store) => tasks.push(glommio::spawn_local(store.run())),
                Err(source) => tell(&self.events, MemberEvent::ThreadFailed("the checkpoint writer", source)),
            }
        }
        for task in tasks {
            task.await;
        }
    }
}

/// What lets clients in.
fn opener(orders: &ShardOrders, wiring: &Wiring) -> impl Fn() + 'static {
    let (open, shards) = (Arc::clone(&orders.open), wiring.shard_bells());
    move || {
        open.store(true, Ordering::Release);
        shards.iter().for_each(|bell| bell.ring());
    }
}
