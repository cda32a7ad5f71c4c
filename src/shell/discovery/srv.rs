//! Finding the members of a domain: both services asked for, and the entry that is this member.
//!
//! A lookup that fails is repeated until `RESOLVE_PATIENCE` is over; one that says "there are none" counts at
//! once. A service that could not be asked for is never taken for one that has no records: members that
//! drew different conclusions would begin different clusters.

use std::io;
use std::time::{Duration, Instant};

use super::Stop;
use super::dns_client::{DnsClient, DnsError};
use crate::config::{MemberUrls, SrvDiscovery, Url};
use crate::discovery::srv::{self, SrvError};
use crate::shell::net::addresses::Addresses;
use crate::shell::net::addresses::RESOLVE_PATIENCE;

const PAUSE: Duration = Duration::from_secs(1);

/// Why DNS gives no list.
#[derive(Debug, thiserror::Error)]
pub(in crate::shell) enum FindError {
    #[error(transparent)]
    Records(#[from] SrvError),
    #[error(
        "cannot ask DNS for the members of --discovery-srv={domain}: {error}. Are the name servers of /etc/resolv.conf \
         reachable from here?"
    )]
    Dns { domain: String, error: DnsError },
    #[error("cannot read /etc/resolv.conf: {0}")]
    Configuration(#[from] io::Error),
    #[error("a record has a target that is no URL's: {0}")]
    Target(String),
    #[error("stopped while asking DNS for the members")]
    Interrupted,
}

/// The members that the domain's records list, of which one has this name and leads to these URLs.
///
/// # Errors
/// [`FindError`].
pub(super) async fn find(
    discovery: &SrvDiscovery,
    name: &str,
    own: &[Url],
    stop: &Stop<'_>,
) -> Result<MemberUrls, FindError> {
    let deadline = Instant::now() + RESOLVE_PATIENCE;
    let is_told = || stop.is_told();
    let client = DnsClient::new(deadline, &is_told)?;
    loop {
        let error = match attempt(&client, discovery, name, own, deadline) {
            Err(FindError::Dns { error: DnsError::Interrupted, .. }) => return Err(FindError::Interrupted),
            Err(error) if is_passing(&error) && Instant::now() + PAUSE < deadline => error,
            found => return found,
        };
        tracing::warn!(%error, "asking DNS again");
        stop.waiting.on(format!("DNS is asked for the members: {error}"));
        if !stop.sleep(PAUSE).await {
            return Err(FindError::Interrupted);
        }
    }
}

/// Whether a moment later the answer may be another.
fn is_passing(error: &FindError) -> bool {
    match error {
        FindError::Dns { error, .. } => matches!(error, DnsError::Unanswered(_)),
        FindError::Records(SrvError::NotListed { unresolved, .. }) => !unresolved.is_empty(),
        _ => false,
    }
}

fn attempt(
    client: &DnsClient<'_>,
    discovery: &SrvDiscovery,
    name: &str,
    own: &[Url],
    deadline: Instant,
) -> Result<MemberUrls, FindError> {
    let ask = |service: &str| {
        let dns = |error| FindError::Dns { domain: discovery.domain.clone(), error };
        client.srv(service).map_err(dns)
    };
    let http_service = srv::http_service(discovery);
    let https = ask(&srv::https_service(discovery))?;
    let http = ask(&http_service)?;
    let mut addresses = Addresses::until(deadline);
    let mut unresolved = Vec::new();
    let members = srv::members(discovery, &https, &http, name, |listed| {
        if own.iter().any(|own| addresses.lead_to_same(own, listed)) {
            return true;
        }
        if own.iter().any(|own| own.port() == listed.port()) && addresses.of(listed).is_empty() {
            unresolved.push(listed.to_string());
        }
        false
    })?;
    let text = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if members.iter().all(|(member, _)| member != name) {
        let listed = members.iter().map(|(_, urls)| text(urls)).collect::<Vec<_>>().join(",");
        let unresolved = match unresolved.is_empty() {
            true => String::new(),
            false => format!(" (no address is known of {})", unresolved.join(",")),
        };
        let (name, own) = (name.to_owned(), text(own));
        return Err(SrvError::NotListed { name, plain: http_service, listed, own, unresolved }.into());
    }
    let listed: Vec<String> = members.iter().map(|(name, urls)| format!("{name}={}", text(urls))).collect();
    tracing::info!(service = http_service, members = listed.join(","), "members found in DNS");
    Ok(members)
}
