//! Who may ask: scripts of which origins, by which names of this host.

use std::borrow::Cow;
use std::net::IpAddr;

use super::Ask;

/// What the operator lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Origins whose scripts may read answers (`--cors`). Empty, or with a `*` among them: any.
    pub origins: Vec<String>,
    /// Names by which this host may be asked without TLS (`--host-whitelist`). Empty, or with a `*`: any.
    pub hosts: Vec<String>,
    /// Names by which the dashboard may be asked without TLS, besides addresses, `localhost` and `hosts`: those of the
    /// URLs that clients are told.
    pub own_hosts: Vec<String>,
    /// Whether calls may come as JSON (`--enable-grpc-gateway`).
    pub serves_gateway: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { origins: Vec::new(), hosts: Vec::new(), own_hosts: Vec::new(), serves_gateway: true }
    }
}

fn is_any(list: &[String]) -> bool {
    list.is_empty() || list.iter().any(|word| word == "*")
}

/// The name or address in a `Host` header, without its port.
fn name_of(host: &[u8]) -> Option<&str> {
    let host = std::str::from_utf8(host).ok()?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(']') => name,
        _ => host,
    };
    Some(name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name))
}

/// Why somebody does not get the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DashboardRefusal {
    /// The name in the request is none of this member's.
    Host,
    /// A script of another origin asks.
    Origin,
}

/// Whether a path is the dashboard's.
fn is_dashboard(path: &str) -> bool {
    path.strip_prefix("/dashboard").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Rules {
    /// Whether this host may be asked by the name in a `Host` header, whatever its port.
    pub(super) fn admits_host(&self, host: &[u8]) -> bool {
        if is_any(&self.hosts) {
            return true;
        }
        let Some(name) = name_of(host) else { return false };
        self.hosts.iter().any(|admitted| admitted == name)
    }

    /// Whether the dashboard may be asked so. Its pages are for a person whose browser came here by itself: a name that
    /// somebody else has made lead to this host, and scripts of another origin, get nothing.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn admit_to_dashboard(&self, ask: &Ask<'_>) -> Result<(), DashboardRefusal> {
        let host = ask.header("host").unwrap_or_default();
        // By TLS the certificate has said which names lead here.
        if !ask.is_secured {
            let is_known = name_of(host).is_some_and(|name| {
                name.parse::<IpAddr>().is_ok()
                    || name.eq_ignore_ascii_case("localhost")
                    || self.hosts.iter().chain(&self.own_hosts).any(|own| own.eq_ignore_ascii_case(name))
            });
            if !is_known {
                return Err(DashboardRefusal::Host);
            }
        }
        let Some(origin) = ask.header("origin") else { return Ok(()) };
        let scheme: &[u8] = if ask.is_secured { b"https://" } else { b"http://" };
        let is_own = origin.strip_prefix(scheme).is_some_and(|rest| rest.eq_ignore_ascii_case(host));
        if is_own { Ok(()) } else { Err(DashboardRefusal::Origin) }
    }

    /// The origin whose scripts may read the answer, as the answer tells a browser.
    #[must_use]
    pub fn origin_for(&self, ask: &Ask<'_>) -> Option<Cow<'static, str>> {
        if is_dashboard(ask.path) {
            return None;
        }
        if is_any(&self.origins) {
            return Some(Cow::Borrowed("*"));
        }
        let origin = std::str::from_utf8(ask.header("origin")?).ok()?;
        self.origins.iter().find(|admitted| *admitted == origin).map(|origin| Cow::Owned(origin.clone()))
    }
}
