//! The URLs that a member listens on and tells others.
//!
//! `http` and `https` have a host and a port and nothing else. `unix` and `unixs` have the path of a socket's file,
//! which is all that stands behind `://`, as etcd reads it: `unix:///run/m.sock` is absolute; `unix://localhost:2380`
//! and `unix://run/m.sock` are seen from the working directory, and the first is a file with a colon in its name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::Address;

/// Longest path of a socket: the kernel's 108 bytes, the last of which is zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An address to dial, as another member or a client was told it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    is_tls: bool,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Net(Host, u16),
    /// A socket's file.
    Socket(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Ip(IpAddr),
    /// An address of IPv6 that means one link of this host, and the name or number of that link.
    Zoned(Ipv6Addr, Box<str>),
    Name(String),
}

/// Why a text is not a URL that this member can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("the list is empty")]
    Empty,
    #[error("URL scheme must be http, https, unix, or unixs: {0}")]
    Scheme(String),
    #[error("URL scheme must be http, https, unix, or unixs: {0:?} has none; write http://{0}")]
    NoScheme(String),
    #[error("URL address does not have the form \"host:port\": {0}")]
    HostPort(String),
    #[error("a port is at most 65535: {0}")]
    PortTooLarge(String),
    #[error("URL must not contain a path: {0}")]
    Path(String),
    #[error("expected IP in URL for binding ({0})")]
    NotBindable(String),
    #[error("the zone of an IPv6 address begins with %25 in a URL, as in http://[fe80::1%25eth0]:2380: {0}")]
    Zone(String),
    #[error("port 0 cannot be told to others: {0}")]
    PortZero(String),
    #[error("a URL of a unix socket has the path of its file behind ://, as in unix:///run/pinion.sock: {0}")]
    NoSocketPath(String),
    #[error(
        "the path of a unix socket is at most {SOCKET_PATH_BYTES_MAX} bytes long, and this one {bytes}: {url}"
    )]
    SocketPathTooLong { bytes: usize, url: String },
    #[error("the path of a unix socket has no control characters, and none of ?, #, %, @ and \\: {0}")]
    SocketPath(String),
}

impl Url {
    /// Reads `http://host:port`, `https://host:port`, `unix://path` or `unixs://path`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let owned = || text.to_owned();
        let Some((scheme, rest)) = text.split_once("://") else {
            let is_empty = text.is_empty();
            return Err(if is_empty { UrlError::Scheme(owned()) } else { UrlError::NoScheme(owned()) });
        };
        // As Go's parser does.
        let (is_tls, is_file) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (false, false),
            "https" => (true, false),
            "unix" => (false, true),
            "unixs" => (true, true),
            _ => return Err(UrlError::Scheme(owned())),
        };
        if is_file {
            return Ok(Self { is_tls, place: Place::Socket(socket_path(text, rest)?) });
        }
        if rest.contains(['/', '?', '#']) {
            return Err(UrlError::Path(owned()));
        }
        let bad = || UrlError::HostPort(text.to_owned());
        let (host, port) = rest.rsplit_once(':').ok_or_else(bad)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let port: u16 = port.parse().map_err(|_| UrlError::PortTooLarge(owned()))?;
        if port == 0 {
            return Err(UrlError::PortZero(owned()));
        }
        let host = if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            match inner.split_once('%') {
                None => Host::Ip(IpAddr::V6(inner.parse().map_err(|_| bad())?)),
                Some((ip, zone)) => {
                    let zone = zone.strip_prefix("25").filter(|zone| is_zone(zone));
                    let zone = zone.ok_or_else(|| UrlError::Zone(owned()))?;
                    Host::Zoned(ip.parse().map_err(|_| bad())?, zone.into())
                }
            }
        } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
            Host::Ip(IpAddr::V4(ip))
        } else if is_host_name(host) {
            Host::Name(host.to_owned())
        } else {
            return Err(bad());
        };
        Ok(Self { is_tls, place: Place::Net(host, port) })
    }

    /// Reads a comma-separated list; duplicates are dropped, the order is kept.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, UrlError> {
        let mut urls = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let url = Self::parse(part)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.is_empty() { Err(UrlError::Empty) } else { Ok(urls) }
    }

    /// Whether it means all addresses of a host, so that nobody elsewhere can dial it.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        match &self.place {
            Place::Net(Host::Ip(ip), _) => ip.is_unspecified(),
            Place::Net(Host::Zoned(ip, _), _) => ip.is_unspecified(),
            Place::Net(Host::Name(_), _) | Place::Socket(_) => false,
        }
    }

    /// The address to listen on. An address with a zone is no IP to etcd here. A name other than `localhost` would have to be resolved, and what
    /// it resolves to may change, so etcd refuses it and so do we.
    pub fn bind_addr(&self) -> Result<Address, UrlError> {
        match &self.place {
            Place::Socket(path) => Ok(Address::Socket(path.as_str().into())),
            Place::Net(Host::Ip(ip), port) => Ok(Address::Ip(SocketAddr::new(*ip, *port))),
            Place::Net(Host::Name(name), port) if name == "localhost" => {
                Ok(Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), *port)))
            }
            Place::Net(..) => Err(UrlError::NotBindable(self.to_string())),
        }
    }

    /// The path of the socket's file, if it leads to one.
    #[must_use]
    pub fn socket_path(&self) -> Option<&str> {
        match &self.place {
            Place::Socket(path) => Some(path),
            Place::Net(..) => None,
        }
    }

    /// `host:port`, as a URL has it. Of a socket's file, what Go takes for it: the path up to its first slash; or
    /// `localhost`, where nothing stands before that.
    #[must_use]
    pub fn authority(&self) -> String {
        match &self.place {
            Place::Net(Host::Ip(ip), port) => SocketAddr::new(*ip, *port).to_string(),
            Place::Net(Host::Zoned(ip, zone), port) => format!("[{ip}%25{zone}]:{port}"),
            Place::Net(Host::Name(name), port) => format!("{name}:{port}"),
            Place::Socket(path) => match path.split('/').next() {
                None | Some("") => "localhost".to_owned(),
                Some(first) => first.to_owned(),
            },
        }
    }

    /// Whether it is dialed, and listened on, by TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The same address by TLS, or without.
    #[must_use]
    pub fn with_tls(self, is_tls: bool) -> Self {
        Self { is_tls, ..self }
    }

    /// The host without the port, as a certificate has it.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.place {
            Place::Net(Host::Ip(ip), _) => ip.to_string(),
            Place::Net(Host::Zoned(ip, _), _) => ip.to_string(),
            Place::Net(Host::Name(name), _) => name.clone(),
            Place::Socket(_) => {
                let authority = self.authority();
                match authority.rsplit_once(':') {
                    Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host.to_owned(),
                    _ => authority,
                }
            }
        }
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match (&self.place, self.is_tls) {
            (Place::Net(..), false) => "http",
            (Place::Net(..), true) => "https",
            (Place::Socket(_), false) => "unix",
            (Place::Socket(_), true) => "unixs",
        }
    }

    /// The port; None: a socket's file has none.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self.place {
            Place::Net(_, port) => Some(port),
            Place::Socket(_) => None,
        }
    }
}

/// The path in the URL `text`, behind `://`. What Go's parser reads as something else (a query, an escape, a user) is
/// refused: it would become another file than the one that is written.
fn socket_path(text: &str, path: &str) -> Result<String, UrlError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(UrlError::NoSocketPath(text.to_owned()));
    }
    if path.contains(|c: char| c.is_control() || matches!(c, '?' | '#' | '%' | '@' | '\\')) {
        return Err(UrlError::SocketPath(text.to_owned()));
    }
    if SOCKET_PATH_BYTES_MAX < path.len() {
        return Err(UrlError::SocketPathTooLong { bytes: path.len(), url: text.to_owned() });
    }
    Ok(path.to_owned())
}

/// Letters, digits, hyphens, underscores and dots: what DNS names and container names are made of.
fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The name of a network interface, or its number.
fn is_zone(zone: &str) -> bool {
    !zone.is_empty()
        && zone.len() <= 64
        && zone.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~'))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Net(..) => write!(f, "{}://{}", self.scheme(), self.authority()),
            Place::Socket(path) => write!(f, "{}://{path}", self.scheme()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_reads_and_prints_as_it_was_given() {
        for text in [
            "http://127.0.0.1:2379",
            "http://localhost:2379",
            "http://[::1]:1",
            "http://n-0.etcd:65535",
            "https://n-0.etcd:1",
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Url::parse("HTTP://localhost:1").unwrap().to_string(), "http://localhost:1");
    }

    #[test]
    fn a_socket_is_all_that_stands_behind_the_scheme() {
        for (text, path, authority, host) in [
            ("unix:///run/m 0.sock", "/run/m 0.sock", "localhost", "localhost"),
            ("unix://localhost:2380", "localhost:2380", "localhost:2380", "localhost"),
            ("unixs://run/m0.sock", "run/m0.sock", "run", "run"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.to_string(), text);
            assert_eq!((url.socket_path(), url.port()), (Some(path), None));
            assert_eq!((url.authority().as_str(), url.host().as_str()), (authority, host));
            assert_eq!(url.bind_addr().unwrap(), Address::Socket(path.into()));
            assert_eq!(url.is_tls(), text.starts_with("unixs"));
        }
        let longest = format!("unix:///{}", "a".repeat(SOCKET_PATH_BYTES_MAX - 1));
        assert_eq!(Url::parse(&longest).unwrap().to_string(), longest);
    }

    /// etcd 3.4 and 3.5 take these for addresses that are told to others, and no zone to listen on.
    #[test]
    fn a_zone_is_read_as_go_reads_it_and_is_not_listened_on() {
        let url = Url::parse("http://[fe80::1%25eth0]:2380").unwrap();
        assert_eq!(url.to_string(), "http://[fe80::1%25eth0]:2380");
        assert_eq!((url.authority().as_str(), url.port()), ("[fe80::1%25eth0]:2380", Some(2380)));
        assert!(matches!(url.bind_addr(), Err(UrlError::NotBindable(_))));
        for text in ["http://[fe80::1%eth0]:1", "http://[fe80::1%25]:1", "http://[fe80::1%25a/b]:1"] {
            let error = Url::parse(text).unwrap_err();
            assert!(matches!(error, UrlError::Zone(_) | UrlError::Path(_)), "{text}: {error:?}");
        }
        assert!(matches!(Url::parse("http://[127.0.0.1%25lo]:1"), Err(UrlError::HostPort(_))));
    }

    #[test]
    fn bad_url_is_refused_with_its_reason() {
        type Check = fn(&UrlError) -> bool;
        let long = format!("unix:///{}", "a".repeat(SOCKET_PATH_BYTES_MAX));
        let cases: [(&str, Check); 20] = [
            ("", |e| matches!(e, UrlError::Scheme(_))),
            ("localhost:2379", |e| matches!(e, UrlError::NoScheme(_))),
            ("ftp://localhost:1", |e| matches!(e, UrlError::Scheme(_))),
            ("unix://", |e| matches!(e, UrlError::NoSocketPath(_))),
            ("unixs:///run/", |e| matches!(e, UrlError::NoSocketPath(_))),
            ("unix:///run/a?b", |e| matches!(e, UrlError::SocketPath(_))),
            ("unix:///run/a%20b", |e| matches!(e, UrlError::SocketPath(_))),
            ("unix:///run/a\0b", |e| matches!(e, UrlError::SocketPath(_))),
            (&long, |e| matches!(e, UrlError::SocketPathTooLong { bytes: 108, .. })),
            ("http://localhost", |e| matches!(e, UrlError::HostPort(_))),
            ("http://localhost:", |e| matches!(e, UrlError::HostPort(_))),
            ("http://:2379", |e| matches!(e, UrlError::HostPort(_))),
            ("http://localhost:65536", |e| matches!(e, UrlError::PortTooLarge(_))),
            ("http://localhost:99999999999999999999", |e| matches!(e, UrlError::PortTooLarge(_))),
            ("http://localhost:+1", |e| matches!(e, UrlError::HostPort(_))),
            ("http://::1:2379", |e| matches!(e, UrlError::HostPort(_))),
            ("http://[::1:2379", |e| matches!(e, UrlError::HostPort(_))),
            ("http://a b:1", |e| matches!(e, UrlError::HostPort(_))),
            ("http://localhost:1/", |e| matches!(e, UrlError::Path(_))),
            ("http://localhost:0", |e| matches!(e, UrlError::PortZero(_))),
        ];
        for (text, is_expected) in cases {
            let error = Url::parse(text).unwrap_err();
            assert!(is_expected(&error), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn list_drops_duplicates_and_keeps_order() {
        let urls = Url::parse_list("http://b:2, http://a:1,http://b:2").unwrap();
        assert_eq!(urls.iter().map(ToString::to_string).collect::<Vec<_>>(), ["http://b:2", "http://a:1"]);
        assert_eq!(Url::parse_list(" , "), Err(UrlError::Empty));
    }

    #[test]
    fn only_an_address_or_localhost_can_be_bound() {
        let bind = |text: &str| Url::parse(text).unwrap().bind_addr();
        assert_eq!(bind("unix://localhost:7").unwrap().to_string(), "localhost:7");
        assert_eq!(bind("http://localhost:7").unwrap().to_string(), "127.0.0.1:7");
        assert_eq!(bind("http://[::]:7").unwrap().to_string(), "[::]:7");
        assert!(matches!(bind("http://example.com:7"), Err(UrlError::NotBindable(_))));
    }
}
