//! `/etc/resolv.conf`: which servers answer questions, how long to wait for them, and under which names
//! to ask.
//!
//! Total: a line that is not understood is skipped, as every resolver does, and numbers are brought
//! within the bounds of the C library's.
//! Compatibility: resolv.conf(5); of the options `timeout`, `attempts`, `ndots` and `use-vc`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

const PORT: u16 = 53;

/// Servers that are asked; more are not looked at.
const SERVERS_MAX: usize = 3;

/// Domains that are searched.
const SEARCH_MAX: usize = 16;

const TIMEOUT_S_MAX: u64 = 30;
const ATTEMPTS_MAX: u32 = 5;
const NDOTS_MAX: usize = 15;

/// How this host asks for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// At least one.
    pub servers: Vec<SocketAddr>,
    /// Domains in which a name is looked for that is not absolute.
    pub search: Vec<String>,
    /// A name with so many dots is tried as it is first, and in the domains after that.
    pub ndots: usize,
    /// For one answer of one server.
    pub timeout: Duration,
    /// How often all servers are asked.
    pub attempts: u32,
    /// Always by TCP.
    pub tcp: bool,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            servers: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT)],
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
        }
    }
}

impl ResolvConf {
    /// Reads the file's text.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        let mut servers = Vec::new();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    if let Some(address) = address.filter(|_| servers.len() < SERVERS_MAX) {
                        servers.push(SocketAddr::new(address, PORT));
                    }
                }
                // The last line of either kind counts.
                Some("search") => conf.search = words.filter_map(domain).take(SEARCH_MAX).collect(),
                Some("domain") => conf.search = words.filter_map(domain).take(1).collect(),
                Some("options") => words.for_each(|word| conf.set(word)),
                _ => {}
            }
        }
        if !servers.is_empty() {
            conf.servers = servers;
        }
        conf
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        match (name, value.parse::<u64>()) {
            ("timeout", Ok(seconds)) => self.timeout = Duration::from_secs(seconds.clamp(1, TIMEOUT_S_MAX)),
            ("attempts", Ok(count)) => {
                self.attempts = u32::try_from(count).unwrap_or(ATTEMPTS_MAX).clamp(1, ATTEMPTS_MAX);
            }
            ("ndots", Ok(count)) => self.ndots = usize::try_from(count).unwrap_or(NDOTS_MAX).min(NDOTS_MAX),
            ("use-vc" | "usevc" | "tcp", _) => self.tcp = true,
            _ => {}
        }
    }

    /// The absolute names, without a final dot, under which `name` may exist, in the order they are tried.
    #[must_use]
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut candidates: Vec<String> =
            self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let place = if self.ndots <= dots { 0 } else { candidates.len() };
        candidates.insert(place, name.to_owned());
        candidates
    }
}

/// A domain without its final dot; the root has nothing to add to a name.
fn domain(word: &str) -> Option<String> {
    let domain = word.strip_suffix('.').unwrap_or(word);
    (!domain.is_empty()).then(|| domain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_read_line_by_line_and_what_is_not_understood_is_skipped() {
        let conf = ResolvConf::parse(
            "# comment\nnameserver 10.0.0.1 # first\nnameserver fe80::1\nnameserver nonsense\n\
             nameserver 10.0.0.2\nnameserver 10.0.0.3\ndomain old.example\nsearch a.example b.example. .\n\
             options ndots:5 timeout:1 attempts:3 rotate edns0 timeout:x\nsortlist 1.2.3.4\n",
        );
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fe80::1]:53", "10.0.0.2:53"]);
        assert_eq!(conf.search, ["a.example", "b.example"]);
        let timeout = Duration::from_secs(1);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts, conf.tcp), (5, timeout, 3, false));
        assert!(ResolvConf::parse("options use-vc").tcp);
    }

    #[test]
    fn empty_file_asks_this_host_and_numbers_stay_within_their_bounds() {
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
        let conf = ResolvConf::parse("options timeout:0 attempts:0 ndots:99999999999");
        assert_eq!((conf.timeout, conf.attempts, conf.ndots), (Duration::from_secs(1), 1, 15));
        let conf = ResolvConf::parse("options timeout:900 attempts:18446744073709551615");
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(30), 5));
    }

    #[test]
    fn name_is_tried_as_it_is_first_only_if_it_has_the_dots_for_it() {
        let conf = |ndots| ResolvConf { search: vec!["x.y".to_owned()], ndots, ..ResolvConf::default() };
        assert_eq!(conf(1).candidates("_s._tcp.a"), ["_s._tcp.a", "_s._tcp.a.x.y"]);
        assert_eq!(conf(2).candidates("_s._tcp.a"), ["_s._tcp.a", "_s._tcp.a.x.y"], "as many as it takes");
        assert_eq!(conf(5).candidates("_s._tcp.a"), ["_s._tcp.a.x.y", "_s._tcp.a"]);
        assert_eq!(conf(5).candidates("_s._tcp.a."), ["_s._tcp.a"]);
    }
}
