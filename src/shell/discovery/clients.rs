//! Finding members as clients do, for a gateway: by the SRV records of their client URLs.

use std::time::Instant;

use super::dns_client::DnsClient;
use super::srv::FindError;
use crate::config::SrvDiscovery;
use crate::discovery::srv::{self, ClientEndpoint};
use crate::shell::net::addresses::RESOLVE_PATIENCE;

/// What the domain's records list; nothing if it has none.
///
/// # Errors
/// [`FindError`], when nobody tells, or a record leads nowhere.
pub(in crate::shell) fn find(
    discovery: &SrvDiscovery,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<Vec<ClientEndpoint>, FindError> {
    let client = DnsClient::new(Instant::now() + RESOLVE_PATIENCE, is_interrupted)?;
    let mut found = Vec::new();
    for (scheme, service) in srv::client_services(discovery) {
        let dns = |error| FindError::Dns { domain: discovery.domain.clone(), error };
        found.push((scheme, client.srv(&service).map_err(dns)?));
    }
    srv::client_endpoints(&found).map_err(FindError::Target)
}
