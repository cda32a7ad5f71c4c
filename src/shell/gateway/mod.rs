//! `pinion gateway start`: TCP forwarded to whichever member answers.
//!
//! ```text
//! client ─► listen ─► endpoints::pick ─► dial ─► forward, both ways, until both have ended
//!                          ▲                │
//!                          └─ retry, later ◄┘ did not answer
//! ```
//!
//! A program of its own on one executor, without a role: bytes are not looked at, so nothing here knows a protocol.
//! Where endpoints are is asked of the resolver at each dial; which there are is asked of DNS once, at the start.
//!
//! Bounds: connections by descriptors, two each; a dial by `DIAL_PATIENCE`; bytes as `forward` says; lines of the log by
//! `Quiet`. A connection beyond the bound is closed at once, so that its client tries another address.
//!
//! Compatibility: etcd's, but for what is better said than left: one direction may end before the other; a name that
//! does not resolve at the start is an endpoint that does not answer; its own address is refused wherever it comes up.

mod endpoints;
mod forward;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use futures_lite::future;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::endpoints::{Endpoint, Endpoints};
use self::forward::{READ_BYTES_MAX, forward};
use crate::config::{Address, Gateway, Url};
use crate::discovery::srv::ClientEndpoint;
use crate::shell::boot::host::{self, HostError};
use crate::shell::discovery::clients;
use crate::shell::net::addresses::{Addresses, RESOLVE_PATIENCE};
use crate::shell::net::listen::{Accepted, Held, Listening};
use crate::shell::net::quiet::Quiet;
use crate::shell::net::tls::{Credentials, CredentialsError, Handshakes, Protocols, TlsConnector};
use crate::shell::net::{Dialer, Stream, is_own, within};
use crate::shell::runtime::aside;
use crate::shell::runtime::mesh::{Doorbell, SharedBell};
use crate::shell::runtime::service_manager::ServiceManager;

/// How long an endpoint may take until it is connected, its name's look-up included.
const DIAL_PATIENCE: Duration = Duration::from_secs(5);

/// Descriptors that are not for connections: listener, rings, signals, standard streams, lookups, retries.
const DESCRIPTORS_KEPT: usize = 64;

/// Rings of io_uring.
const RING_DEPTH: usize = 1024;

/// A pause when nothing can be accepted, such as without descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum GatewayError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("failed to resolve listen host: --listen-addr={0} leads nowhere")]
    Listen(String),
    #[error("an error occurred while discovering the endpoints: {0}")]
    Discovery(String),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "SRV or endpoint ({endpoint}->{address}) should not resolve to the gateway listen addr ({listen}): connections \
         would go round in a circle. Give --endpoints the members' client addresses"
    )]
    Itself { endpoint: String, address: SocketAddr, listen: SocketAddr },
    #[error("cannot start {what}: {source}")]
    Thread { what: &'static str, source: io::Error },
}

/// Runs until a signal says to stop.
///
/// # Errors
/// [`GatewayError`], before any connection was taken.
pub(super) fn run(gateway: &Gateway) -> Result<(), GatewayError> {
    let (bell, signal) = (Arc::<SharedBell>::default(), Arc::new(AtomicI32::new(0)));
    watch_signals(Arc::clone(&bell), Arc::clone(&signal))?;
    let manager = ServiceManager::of_environment();
    let descriptors_max = host::check(1)?;
    let connections_max = (descriptors_max.saturating_sub(DESCRIPTORS_KEPT) / 2).max(1);
    let is_interrupted = || signal.load(Ordering::Acquire) != 0;
    let mut addresses = Addresses::until(Instant::now() + RESOLVE_PATIENCE);
    let listen = addresses.of(&gateway.listen).into_iter().next();
    let listen = listen.ok_or_else(|| GatewayError::Listen(gateway.listen.authority()))?;
    let held = host::hold_addresses("--listen-addr", &[Address::Ip(listen)], false)?.remove(0);
    let found = find_endpoints(gateway, &is_interrupted)?;
    for endpoint in &found {
        let known = addresses.of(&endpoint.url);
        if let Some(address) = known.iter().find(|address| is_own(**address, listen)) {
            let endpoint = endpoint.url.authority();
            return Err(GatewayError::Itself { endpoint, address: *address, listen });
        }
        if known.is_empty() {
            tracing::warn!(endpoint = endpoint.url.authority(), "the endpoint's name has no address yet");
        }
    }
    let served = aside::run_with("gateway", RING_DEPTH, async {
        serve(gateway, held, listen, found, connections_max, &manager, Doorbell::new(bell), is_interrupted)
            .await
    });
    tracing::info!(signal = signal.load(Ordering::Acquire), "stopped");
    served.and_then(|served| served).map_err(|source| GatewayError::Thread { what: "the executor", source })
}

fn watch_signals(bell: Arc<SharedBell>, signal: Arc<AtomicI32>) -> Result<(), GatewayError> {
    let thread = |source| GatewayError::Thread { what: "signal handling", source };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(thread)?;
    let listen = move || {
        for told in signals.forever() {
            signal.store(told, Ordering::Release);
            bell.ring();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map(drop).map_err(thread)
}

/// Who is forwarded to: those that DNS lists, if it is to be asked and lists some; else those of the command line.
fn find_endpoints(
    gateway: &Gateway,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Vec<Endpoint>, GatewayError> {
    let given = || gateway.endpoints.iter().map(|url| Endpoint::new(url.clone(), 0, 0)).collect();
    let Some(discovery) = &gateway.discovery else { return Ok(given()) };
    let found = clients::find(discovery, is_interrupted)
        .map_err(|error| GatewayError::Discovery(error.to_string()))?;
    let listed = |found: &[ClientEndpoint]| {
        found.iter().map(|endpoint| endpoint.url.to_string()).collect::<Vec<_>>().join(",")
    };
    tracing::info!(domain = discovery.domain, endpoints = listed(&found), "endpoints found in DNS");
    let found =
        if gateway.insecure_discovery || found.is_empty() { found } else { verified(gateway, found)? };
    if found.is_empty() {
        let endpoints = gateway.endpoints.iter().map(Url::authority).collect::<Vec<_>>().join(",");
        tracing::warn!(
            domain = discovery.domain,
            endpoints,
            "DNS lists no endpoint that can be used (see above; --insecure-discovery takes those without TLS): \
             forwarding to --endpoints"
        );
        return Ok(given());
    }
    Ok(found.into_iter().map(|found| Endpoint::new(found.url, found.priority, found.weight)).collect())
}

/// Those that have a certificate for the domain.
fn verified(gateway: &Gateway, found: Vec<ClientEndpoint>) -> Result<Vec<ClientEndpoint>, GatewayError> {
    let credentials = Credentials::load(&gateway.security, &gateway.policy, Protocols::Http)?;
    let dialer = Dialer::new(DIAL_PATIENCE, Some(TlsConnector::new(credentials, Handshakes::default())));
    let verify = async {
        let mut verified = Vec::new();
        for endpoint in found {
            let greeted = match endpoint.url.is_tls() {
                true => dialer.dial(&endpoint.url, async |_| Ok::<(), io::Error>(())).await,
                false => Err(io::Error::other("it has no TLS")),
            };
            match greeted {
                Ok(()) => verified.push(endpoint),
                Err(error) => {
                    tracing::warn!(endpoint = %endpoint.url, %error, "an endpoint of DNS is left out");
                }
            }
        }
        verified
    };
    aside::run_aside(verify).map_err(|source| GatewayError::Thread { what: "the executor", source })
}

/// What the log is told of once in a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Full,
    AcceptFailed,
    NobodyAnswers,
    NoResources,
}

/// What all connections share.
struct Shared {
    endpoints: RefCell<Endpoints>,
    dialer: Dialer,
    listen: SocketAddr,
    connections: Cell<usize>,
    random: Cell<u64>,
    scratch: RefCell<Box<[u8]>>,
    quiet: Quiet<About>,
    retry_delay: Duration,
}

#[expect(clippy::too_many_arguments, reason = "the one place where a gateway's parts meet")]
async fn serve(
    gateway: &Gateway,
    held: Held,
    listen: SocketAddr,
    found: Vec<Endpoint>,
    connections_max: usize,
    manager: &ServiceManager,
    bell: Doorbell,
    is_told: impl Fn() -> bool,
) -> io::Result<()> {
    let names = found.iter().map(|endpoint| endpoint.url.authority()).collect::<Vec<_>>().join(",");
    let shared = Rc::new(Shared {
        endpoints: RefCell::new(Endpoints::new(found)),
        dialer: Dialer::new(DIAL_PATIENCE, None),
        listen,
        connections: Cell::new(0),
        random: Cell::new(host::entropy()?),
        scratch: RefCell::new(vec![0; READ_BYTES_MAX].into_boxed_slice()),
        quiet: Quiet::default(),
        retry_delay: gateway.retry_delay,
    });
    let listening = held.listen()?;
    tracing::info!(
        address = %listen,
        endpoints = names,
        connections_max,
        retry_delay_s = gateway.retry_delay.as_secs_f64(),
        "ready to forward client connections"
    );
    manager.tell(&[("READY", "1")]);
    let _retries = glommio::spawn_local(Rc::clone(&shared).retry());
    let told = async {
        bell.wait(is_told).await;
    };
    future::or(told, shared.accept(&listening, connections_max)).await;
    manager.tell(&[("STOPPING", "1")]);
    tracing::info!(connections = shared.connections.get(), "stopping: connections end");
    Ok(())
}

impl Shared {
    /// A number below `below`, by SplitMix64.
    fn random(&self, below: u64) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    /// Takes connections, for ever.
    async fn accept(self: &Rc<Self>, listening: &Listening, connections_max: usize) {
        loop {
            match listening.accept().await {
                Ok(accepted) if self.connections.get() < connections_max => self.spawn(accepted),
                Ok(accepted) => {
                    drop(accepted.bind_to_executor());
                    if let Some(left_out) = self.quiet.ask(About::Full, Instant::now()) {
                        tracing::warn!(
                            connections_max,
                            left_out,
                            "a connection is closed: there are as many as descriptors allow; raise `ulimit -n` or LimitNOFILE="
                        );
                    }
                }
                Err(error) => {
                    if let Some(left_out) = self.quiet.ask(About::AcceptFailed, Instant::now()) {
                        tracing::warn!(%error, left_out, "cannot accept a connection");
                    }
                    glommio::timer::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(self: &Rc<Self>, accepted: Accepted) {
        let shared = Rc::clone(self);
        self.connections.set(self.connections.get() + 1);
        let mut client = accepted.bind_to_executor();
        glommio::spawn_local(async move {
            shared.attend(&mut client).await;
            shared.connections.set(shared.connections.get() - 1);
        })
        .detach();
    }

    /// One connection, from its accept to its end.
    async fn attend(&self, client: &mut Stream) {
        let Some((mut server, endpoint)) = self.find_server().await else { return };
        // An option that cannot be set costs a little time, and no byte.
        client.keep_alive().ok();
        server.keep_alive().ok();
        tracing::debug!(endpoint, "a connection is forwarded");
        let (up, down, ended) = forward(client, &mut server, &self.scratch).await;
        match ended {
            Ok(()) => tracing::debug!(endpoint, up, down, "a connection has ended"),
            Err(error) => tracing::debug!(endpoint, up, down, %error, "a connection has failed"),
        }
    }

    /// A connection to the next one that answers, and its name.
    async fn find_server(&self) -> Option<(Stream, String)> {
        loop {
            let picked = self.endpoints.borrow_mut().pick(|below| self.random(below));
            let Some(index) = picked else {
                if let Some(left_out) = self.quiet.ask(About::NobodyAnswers, Instant::now()) {
                    tracing::error!(
                        left_out,
                        retry_delay_s = self.retry_delay.as_secs_f64(),
                        "a connection is closed: no endpoint answers; they are tried again each --retry-delay"
                    );
                }
                return None;
            };
            let url = self.endpoints.borrow().list[index].url.clone();
            match self.dial(&url).await {
                Ok(server) => return Some((server, url.authority())),
                Err(error) if is_own_fault(&error) => {
                    if let Some(left_out) = self.quiet.ask(About::NoResources, Instant::now()) {
                        tracing::error!(%error, left_out, "a connection is closed: this host cannot open another");
                    }
                    return None;
                }
                Err(error) => self.deactivate(index, &error),
            }
        }
    }

    fn deactivate(&self, index: usize, error: &io::Error) {
        let mut endpoints = self.endpoints.borrow_mut();
        let endpoint = &mut endpoints.list[index];
        // Others may have found out meanwhile.
        if std::mem::replace(&mut endpoint.is_active, false) {
            tracing::warn!(
                endpoint = endpoint.url.authority(),
                %error,
                retry_delay_s = self.retry_delay.as_secs_f64(),
                "deactivated endpoint: it cannot be dialed, and gets no connections until it answers again"
            );
        }
    }

    /// A connection to an endpoint, in time, and not to this gateway.
    async fn dial(&self, url: &Url) -> io::Result<Stream> {
        within(DIAL_PATIENCE, async {
            let mut failure = io::Error::other("the name has no address");
            for address in self.dialer.addresses(url).await? {
                if let Address::Ip(ip) = &address
                    && is_own(*ip, self.listen)
                {
                    failure = io::Error::other(format!("{ip} is this gateway's own address"));
                    continue;
                }
                match self.dialer.connect(url, &address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => failure = error,
                }
            }
            Err(failure)
        })
        .await
    }

    /// Tries those again that did not answer, each on its own, for ever.
    async fn retry(self: Rc<Self>) {
        loop {
            glommio::timer::sleep(self.retry_delay).await;
            let mut endpoints = self.endpoints.borrow_mut();
            for (index, endpoint) in endpoints.list.iter_mut().enumerate() {
                if endpoint.is_active || std::mem::replace(&mut endpoint.is_tried, true) {
                    continue;
                }
                let (shared, url) = (Rc::clone(&self), endpoint.url.clone());
                glommio::spawn_local(async move {
                    let dialed = shared.dial(&url).await;
                    let mut endpoints = shared.endpoints.borrow_mut();
                    let endpoint = &mut endpoints.list[index];
                    endpoint.is_tried = false;
                    match dialed {
                        Ok(_answers) => {
                            endpoint.is_active = true;
                            tracing::info!(
                                endpoint = url.authority(),
                                "activated endpoint: it answers again"
                            );
                        }
                        Err(error) => tracing::debug!(endpoint = url.authority(), %error, "still inactive"),
                    }
                })
                .detach();
            }
        }
    }
}

/// Whether a dial failed for want of something of this host, so that nothing is known of the endpoint.
fn is_own_fault(error: &io::Error) -> bool {
    let own = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| own.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_address_is_known_in_every_form() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (endpoint, listen, expected) in [
            ("127.0.0.1:5", "127.0.0.1:5", true),
            ("127.0.0.1:5", "127.0.0.1:6", false),
            ("127.0.0.1:5", "0.0.0.0:5", true),
            ("127.0.0.2:5", "0.0.0.0:5", true),
            ("0.0.0.0:5", "127.0.0.1:5", true),
            ("[::ffff:127.0.0.1]:5", "127.0.0.1:5", true),
            ("127.0.0.2:5", "127.0.0.1:5", false),
            ("192.0.2.1:5", "0.0.0.0:5", false),
        ] {
            assert_eq!(is_own(address(endpoint), address(listen)), expected, "{endpoint} at {listen}");
        }
    }
}
