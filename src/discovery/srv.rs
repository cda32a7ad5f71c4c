//! From a domain's SRV records to the members that begin a cluster.
//!
//! Invariants: every member that finds the same records lists the same URLs, whatever its own name is and
//! whatever it can resolve, so all derive the same ids; no URL is listed twice; exactly the entries that
//! lead to this member have its name.
//! Compatibility: services, names and the refusals are etcd's. Other than etcd's, the list does not shrink
//! when a target has no address for a moment, and a number is never given that is this member's name.

use super::dns::SrvRecord;
use crate::config::{MemberUrls, SrvDiscovery, Url};

/// The service whose members are reached by TLS, and its domain.
#[must_use]
pub fn https_service(srv: &SrvDiscovery) -> String {
    service("etcd-server-ssl", srv)
}

/// The service whose members are reached without.
#[must_use]
pub fn http_service(srv: &SrvDiscovery) -> String {
    service("etcd-server", srv)
}

/// The services that clients find members by: with TLS, and without.
#[must_use]
pub fn client_services(srv: &SrvDiscovery) -> [(&'static str, String); 2] {
    [("https", service("etcd-client-ssl", srv)), ("http", service("etcd-client", srv))]
}

/// Where clients are served, as a record says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEndpoint {
    pub url: Url,
    pub priority: u16,
    pub weight: u16,
}

/// The endpoints that the records of both services list, each once, those with TLS first.
///
/// # Errors
/// The first target that is no URL's.
pub fn client_endpoints(found: &[(&'static str, Vec<SrvRecord>)]) -> Result<Vec<ClientEndpoint>, String> {
    let mut endpoints: Vec<ClientEndpoint> = Vec::new();
    for (scheme, records) in found {
        let mut records = records.clone();
        records.sort();
        for SrvRecord { priority, target, port, weight } in records {
            // The root as a target: there is decidedly no such service.
            if target.is_empty() {
                continue;
            }
            let url =
                Url::parse(&format!("{scheme}://{target}:{port}")).map_err(|error| error.to_string())?;
            if endpoints.iter().all(|known| known.url.authority() != url.authority()) {
                endpoints.push(ClientEndpoint { url, priority, weight });
            }
        }
    }
    Ok(endpoints)
}

fn service(service: &str, srv: &SrvDiscovery) -> String {
    let SrvDiscovery { domain, service_suffix } = srv;
    let dash = if service_suffix.is_empty() { "" } else { "-" };
    format!("_{service}{dash}{service_suffix}._tcp.{domain}")
}

/// Why records are not the list of a cluster's members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SrvError {
    #[error(
        "no SRV records: neither {plain} nor {https} has any. Add one for each member to the zone, such as \
         `{plain}. 300 IN SRV 0 0 2380 m1.example.com.`, or check --discovery-srv and --discovery-srv-name"
    )]
    None { plain: String, https: String },
    #[error(
        "{plain} has a record with the target {target:?} and port {port}, which is no peer URL: {reason}"
    )]
    Target { plain: String, target: String, port: u16, reason: String },
    #[error(
        "cannot find local etcd member {name:?} in SRV records: {plain} lists {listed}, and none leads to \
         --initial-advertise-peer-urls={own}. Add a record for it, or advertise the URL that is listed{unresolved}"
    )]
    NotListed { name: String, plain: String, listed: String, own: String, unresolved: String },
}

/// The members that the records of both services list, `plain` being those without TLS: the entries that `is_own`
/// recognises under `name`, the others under numbers in the order of priority, target and port, those with TLS first.
///
/// # Errors
/// [`SrvError`], but not `NotListed`: who is not listed is for the caller to tell.
pub fn members(
    srv: &SrvDiscovery,
    https: &[SrvRecord],
    plain: &[SrvRecord],
    name: &str,
    mut is_own: impl FnMut(&Url) -> bool,
) -> Result<MemberUrls, SrvError> {
    let (https_name, plain_name) = (https_service(srv), http_service(srv));
    // A target that is the root says that there is decidedly no such service (RFC 2782).
    let is_service = |record: &&SrvRecord| !record.target.is_empty();
    let sorted = |records: &'_ [SrvRecord]| {
        let mut records: Vec<SrvRecord> = records.iter().filter(is_service).cloned().collect();
        records.sort();
        records
    };
    let secured = sorted(https).into_iter().map(|record| ("https", &https_name, record));
    let unsecured = sorted(plain).into_iter().map(|record| ("http", &plain_name, record));
    let (mut own, mut urls) = (Vec::new(), Vec::new());
    for (scheme, service, SrvRecord { target, port, .. }) in secured.chain(unsecured) {
        let url = Url::parse(&format!("{scheme}://{target}:{port}")).map_err(|error| SrvError::Target {
            plain: service.clone(),
            target: target.clone(),
            port,
            reason: error.to_string(),
        })?;
        if urls.contains(&url) || own.contains(&url) {
            continue;
        }
        if is_own(&url) { own.push(url) } else { urls.push(url) }
    }
    if own.is_empty() && urls.is_empty() {
        return Err(SrvError::None { plain: plain_name, https: https_name });
    }
    let numbers = (0..).map(|number: u32| number.to_string()).filter(|number| number != name);
    let mut members: MemberUrls = numbers.zip(urls).map(|(name, url)| (name, vec![url])).collect();
    if !own.is_empty() {
        members.push((name.to_owned(), own));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Cluster;

    fn srv(domain: &str, suffix: &str) -> SrvDiscovery {
        SrvDiscovery { domain: domain.to_owned(), service_suffix: suffix.to_owned() }
    }

    fn record(priority: u16, target: &str, port: u16) -> SrvRecord {
        SrvRecord { priority, target: target.to_owned(), port, weight: 0 }
    }

    fn listed(plain: &[SrvRecord], name: &str, own: &str) -> Vec<(String, String)> {
        let members = members(&srv("x", ""), &[], plain, name, |url| url.to_string() == own).unwrap();
        let join = |urls: Vec<Url>| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        members.into_iter().map(|(name, urls)| (name, join(urls))).collect()
    }

    #[test]
    fn services_have_etcds_names_and_take_the_suffix() {
        assert_eq!(http_service(&srv("example.com", "")), "_etcd-server._tcp.example.com");
        assert_eq!(https_service(&srv("example.com.", "b")), "_etcd-server-ssl-b._tcp.example.com.");
    }

    #[test]
    fn endpoints_of_clients_keep_priority_and_weight_and_are_listed_once() {
        assert_eq!(client_services(&srv("x", "b"))[0].1, "_etcd-client-ssl-b._tcp.x");
        let weighted = |record: SrvRecord, weight| SrvRecord { weight, ..record };
        let found = [
            ("https", vec![weighted(record(1, "a.x", 1), 7), record(0, "", 1)]),
            ("http", vec![weighted(record(0, "a.x", 1), 9), weighted(record(2, "b.x", 1), 3)]),
        ];
        let told: Vec<_> = client_endpoints(&found)
            .unwrap()
            .into_iter()
            .map(|endpoint| (endpoint.url.to_string(), endpoint.priority, endpoint.weight))
            .collect();
        assert_eq!(told, [("https://a.x:1".to_owned(), 1, 7), ("http://b.x:1".to_owned(), 2, 3)]);
    }

    #[test]
    fn others_are_numbered_in_order_and_own_entry_has_own_name() {
        let records = [record(1, "a", 1), record(0, "c", 1), record(0, "b", 2), record(0, "b", 1)];
        let pairs = listed(&records, "me", "http://b:2");
        let names: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let wanted = [("0", "http://b:1"), ("1", "http://c:1"), ("2", "http://a:1"), ("me", "http://b:2")];
        assert_eq!(names, wanted);
        let own_number = listed(&records[..2], "0", "http://a:1");
        assert_eq!(own_number[0].0, "1", "a number that is this member's name goes to nobody else");
    }

    #[test]
    fn ids_are_the_same_on_all_members_though_the_names_differ() {
        let records =
            [record(0, "m1.x", 1), record(0, "m2.x", 2), record(0, "m3.x", 3), record(9, "m1.x", 1)];
        let ids: Vec<_> = ["http://m1.x:1", "http://m2.x:2", "http://m3.x:3"]
            .iter()
            .zip(["a", "b", "1"])
            .map(|(own, name)| {
                let lists: Vec<Vec<String>> =
                    listed(&records, name, own).into_iter().map(|(_, url)| vec![url]).collect();
                assert_eq!(lists.len(), 3, "what is there twice is listed once");
                let cluster = Cluster::bootstrap(lists.iter().map(Vec::as_slice), "token");
                (cluster.id(), cluster.members().map(|member| member.id).collect::<Vec<_>>())
            })
            .collect();
        assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    }

    #[test]
    fn several_own_entries_are_one_member_with_several_urls() {
        let records = [record(0, "a", 1), record(0, "a", 2), record(0, "b", 1)];
        let members = members(&srv("x", ""), &[], &records, "me", |url| url.authority().starts_with('a'));
        let members = members.unwrap();
        assert_eq!((members[1].0.as_str(), members[1].1.len()), ("me", 2));
    }

    #[test]
    fn nothing_and_targets_without_a_port_are_refused_with_what_to_do() {
        let refused = |https: &[SrvRecord], plain: &[SrvRecord]| {
            members(&srv("x.y", ""), https, plain, "me", |_| false).unwrap_err().to_string()
        };
        for nothing in [refused(&[], &[]), refused(&[record(0, "", 0)], &[record(0, "", 0)])] {
            assert!(nothing.contains("_etcd-server._tcp.x.y") && nothing.contains("Add one for each member"));
        }
        let port = refused(&[], &[record(0, "m1.x", 0)]);
        assert!(port.contains("m1.x") && port.contains("port 0"), "{port}");
    }

    #[test]
    fn both_services_are_listed_each_with_its_scheme() {
        let (https, plain) = ([record(0, "a", 1), record(0, "b", 1)], [record(0, "b", 1)]);
        let members = members(&srv("x", ""), &https, &plain, "me", |url| url.to_string() == "https://b:1");
        let urls: Vec<String> = members.unwrap().into_iter().map(|(_, urls)| urls[0].to_string()).collect();
        assert_eq!(urls, ["https://a:1", "http://b:1", "https://b:1"]);
    }
}
