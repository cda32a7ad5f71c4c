//! Who may ask: scripts of which origins, by which names of this host.

use std::borrow::Cow;

use super::Ask;

/// What the operator lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Origins whose scripts may read answers (`--cors`). Empty, or with a `*` among them: any.
    pub origins: Vec<String>,
    /// Names by which this host may be asked without TLS (`--host-whitelist`). Empty, or with a `*`: any.
    pub hosts: Vec<String>,
    /// Whether calls may come as JSON (`--enable-grpc-gateway`).
    pub serves_gateway: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { origins: Vec::new(), hosts: Vec::new(), serves_gateway: true }
    }
}

fn is_any(list: &[String]) -> bool {
    list.is_empty() || list.iter().any(|word| word == "*")
}

impl Rules {
    /// Whether this host may be asked by the name in a `Host` header, whatever its port.
    pub(super) fn admits_host(&self, host: &[u8]) -> bool {
        if is_any(&self.hosts) {
            return true;
        }
        let Ok(host) = std::str::from_utf8(host) else { return false };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(']') => {
                name
            }
            _ => host,
        };
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        self.hosts.iter().any(|admitted| admitted == name)
    }

    /// The origin whose scripts may read the answer, as the answer tells a browser.
    #[must_use]
    pub fn origin_for(&self, ask: &Ask<'_>) -> Option<Cow<'static, str>> {
        if is_any(&self.origins) {
            return Some(Cow::Borrowed("*"));
        }
        let origin = std::str::from_utf8(ask.header("origin")?).ok()?;
        self.origins.iter().find(|admitted| *admitted == origin).map(|origin| Cow::Owned(origin.clone()))
    }
}
