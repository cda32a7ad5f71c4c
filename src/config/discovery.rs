//! How a member that has no data learns who begins the cluster with it: from a list, from DNS, or from a
//! discovery service.
//!
//! Invariant of every value that `read` returns: exactly one of the three. The names that are asked for
//! in DNS are valid, whatever the member adds to them, and so are the keys in the service.
//! Compatibility: flags, defaults and the texts about their contradictions are etcd 3.7's. A password is
//! never printed.

use std::fmt;
use std::time::Duration;

use super::member_urls::{MemberUrls, parse_initial_cluster};
use super::parse::{Refused, Settings};
use super::process::ProcessConfig;
use super::tls::{self, Security};
use super::url::Url;

/// Where the first members are listed. Read only while no data exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitialCluster {
    /// `--initial-cluster`, or this member alone.
    Listed(MemberUrls),
    /// `--discovery-srv`.
    Srv(SrvDiscovery),
    /// `--discovery-endpoints`.
    Service(Box<ServiceDiscovery>),
}

/// Discovery by SRV records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvDiscovery {
    /// Absolute if it ends in a dot.
    pub domain: String,
    /// `--discovery-srv-name`, or empty.
    pub service_suffix: String,
}

/// Discovery by a service: any etcd or Pinion that is not part of the cluster which is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceDiscovery {
    /// At least one; asked in turn.
    pub endpoints: Vec<Url>,
    /// Names the cluster in the service, and goes into its ids.
    pub token: String,
    pub credentials: Option<Credentials>,
    /// What it shows to endpoints with https, and whom it believes there.
    pub security: Security,
    /// For a connection, the handshake included.
    pub dial_timeout: Duration,
    /// For each request.
    pub request_timeout: Duration,
    /// A connection that was silent for so long is pinged; `None` is never.
    pub keepalive_time: Option<Duration>,
    /// A connection whose ping stays unanswered for so long is given up.
    pub keepalive_timeout: Duration,
}

/// `--discovery-user` and `--discovery-password`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Bytes of one label of a DNS name.
const LABEL_BYTES_MAX: usize = 63;

/// Bytes of a DNS name as text, without the final dot.
const NAME_BYTES_MAX: usize = 253;

/// The longest that is put before the domain, but for the suffix.
const SERVICE_PREFIX: &str = "_etcd-server-ssl._tcp.";

/// Bytes of a token: it is part of every key, and of what is hashed for ids.
const TOKEN_BYTES_MAX: usize = 1024;

impl InitialCluster {
    pub(super) fn read(settings: &Settings, process: &ProcessConfig) -> Result<Self, Refused> {
        let given = |name: &str| !settings.text(name).is_empty();
        // There is nothing to fall back to; a value that etcd does not know is refused whatever is asked.
        settings.word("discovery-fallback", &[("exit", ()), ("proxy", ())])?;
        let service = ServiceDiscovery::read(settings)?;
        let srv = given("discovery-srv");
        let chosen = [given("initial-cluster"), srv, service.is_some()];
        if 1 < chosen.iter().filter(|is_chosen| **is_chosen).count() {
            return Err(Refused::contradiction(
                "multiple discovery or bootstrap flags are set. Choose one of --initial-cluster, \
                 --discovery-endpoints or --discovery-srv",
            ));
        }
        if let Some(service) = service {
            return Ok(Self::Service(Box::new(service)));
        }
        if srv {
            return Ok(Self::Srv(SrvDiscovery::read(settings)?));
        }
        if given("discovery-srv-name") {
            return Err(Refused::contradiction(format!(
                "{} is part of a service name in DNS, but no --discovery-srv names a domain",
                settings.source("discovery-srv-name")
            )));
        }
        if given("initial-cluster") {
            return Ok(Self::Listed(parse_initial_cluster(settings)?));
        }
        Ok(Self::Listed(vec![(process.name.clone(), process.initial_advertise_peer_urls.clone())]))
    }
}

impl SrvDiscovery {
    fn read(settings: &Settings) -> Result<Self, Refused> {
        let domain = settings.text("discovery-srv");
        let service_suffix = settings.text("discovery-srv-name");
        let is_label = |label: &str| {
            let is_known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(is_known)
        };
        let prefix_bytes = SERVICE_PREFIX.len() + service_suffix.len() + 1;
        let relative = domain.strip_suffix('.').unwrap_or(domain);
        if !relative.split('.').all(is_label) || NAME_BYTES_MAX < prefix_bytes + relative.len() {
            return Err(settings.invalid("discovery-srv", "expected a domain name such as example.com"));
        }
        let label_bytes = "_etcd-server-ssl-".len() + service_suffix.len();
        if !service_suffix.is_empty() && (!is_label(service_suffix) || LABEL_BYTES_MAX < label_bytes) {
            return Err(settings.invalid(
                "discovery-srv-name",
                "expected letters, digits and hyphens, at most 46, which become part of a DNS name",
            ));
        }
        Ok(Self { domain: domain.to_owned(), service_suffix: service_suffix.to_owned() })
    }
}

impl ServiceDiscovery {
    /// None: the flags ask for none. Numbers are read all the same, since nonsense is still nonsense.
    fn read(settings: &Settings) -> Result<Option<Self>, Refused> {
        let positive = |name: &str| match settings.duration(name)? {
            Duration::ZERO => Err(settings.invalid(name, "must be greater than 0")),
            duration => Ok(duration),
        };
        let dial_timeout = positive("discovery-dial-timeout")?;
        let request_timeout = positive("discovery-request-timeout")?;
        let keepalive_timeout = positive("discovery-keepalive-timeout")?;
        let keepalive_time = Some(settings.duration("discovery-keepalive-time")?).filter(|d| !d.is_zero());
        let credentials = Credentials::read(settings)?;
        let security = Security {
            client_pair: tls::pair(settings, "discovery-cert", "discovery-key")?,
            trusted_ca: tls::path(settings, "discovery-cacert"),
            believes_anybody: settings.boolean("discovery-insecure-skip-tls-verify")?,
            ..Security::none("--discovery-cert, --discovery-key, --discovery-cacert")
        };
        let (endpoints, token) =
            (settings.text("discovery-endpoints"), settings.text("discovery-token").to_owned());
        if endpoints.is_empty() && token.is_empty() {
            return Ok(None);
        }
        if endpoints.is_empty() || token.is_empty() {
            return Err(Refused::contradiction(
                "both --discovery-endpoints and --discovery-token must be set",
            ));
        }
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if TOKEN_BYTES_MAX < token.len() || !token.split('/').all(is_plain) {
            return Err(settings.invalid("discovery-token", "expected a word that can be part of a key"));
        }
        let endpoints = parse_endpoints(settings)?;
        Ok(Some(Self {
            endpoints,
            token,
            credentials,
            security,
            dial_timeout,
            request_timeout,
            keepalive_time,
            keepalive_timeout,
        }))
    }
}

impl Credentials {
    /// `--discovery-user=name:password`, or the password in a flag or variable of its own; then the user's
    /// name may have a colon.
    fn read(settings: &Settings) -> Result<Option<Self>, Refused> {
        let (user, password) = (settings.text("discovery-user"), settings.text("discovery-password"));
        let both = |user: &str, password: &str| {
            Ok(Some(Self { user: user.to_owned(), password: password.to_owned() }))
        };
        match (user, password) {
            ("", "") => Ok(None),
            ("", _) => Err(Refused::contradiction("--discovery-password is given, but no --discovery-user")),
            (user, "") => match user.split_once(':') {
                Some((name, password)) if !name.is_empty() && !password.is_empty() => both(name, password),
                // etcd would ask on a terminal, which a service has none of. The value is not shown: half
                // of it may be a password.
                _ => Err(Refused::contradiction(
                    "--discovery-user has no password: set ETCD_DISCOVERY_PASSWORD, or give user:password",
                )),
            },
            (user, password) => both(user, password),
        }
    }
}

/// `host:port` or a URL, as etcd's clients take endpoints.
fn parse_endpoints(settings: &Settings) -> Result<Vec<Url>, Refused> {
    let flag = "discovery-endpoints";
    let scheme = if settings.boolean("discovery-insecure-transport")? { "http" } else { "https" };
    let mut endpoints = Vec::new();
    for part in settings.text(flag).split(',').map(str::trim) {
        if part.is_empty() {
            return Err(settings.invalid(flag, "must not contain empty endpoints"));
        }
        let text = if part.contains("://") { part.to_owned() } else { format!("{scheme}://{part}") };
        let url = Url::parse(&text).map_err(|error| settings.invalid(flag, &error.to_string()))?;
        if !endpoints.contains(&url) {
            endpoints.push(url);
        }
    }
    Ok(endpoints)
}
