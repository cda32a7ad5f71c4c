//! Where the names in URLs lead, asked of the system's resolver, which may take its time.
//!
//! Each name is looked up on a thread of its own, which is left behind if it has not answered by the
//! deadline; after that nothing leads anywhere. Addresses are kept, failures are not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam::channel;

use super::resolve::start_lookup;
use crate::config::Url;

/// How long names may be looked up in all, as in etcd.
pub(in crate::shell) const RESOLVE_PATIENCE: Duration = Duration::from_secs(30);

/// What was found up to the deadline.
#[derive(Debug)]
pub(in crate::shell) struct Addresses {
    deadline: Instant,
    known: BTreeMap<String, BTreeSet<SocketAddr>>,
}

impl Addresses {
    pub(in crate::shell) fn until(deadline: Instant) -> Self {
        Self { deadline, known: BTreeMap::new() }
    }

    /// Whether two lists of URLs are the same, if not letter by letter, then by their addresses: each URL
    /// of one leads where one of the other does. A name that leads nowhere is only itself.
    pub(in crate::shell) fn are_same(&mut self, a: &[String], b: &[String]) -> bool {
        let as_set = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<String>>();
        as_set(a) == as_set(b) || (a.len() == b.len() && self.covers(a, b) && self.covers(b, a))
    }

    /// Whether each URL of `b` leads where one of `a` does.
    fn covers(&mut self, a: &[String], b: &[String]) -> bool {
        b.iter().all(|b| a.iter().any(|a| self.meet(a, b)))
    }

    fn meet(&mut self, a: &str, b: &str) -> bool {
        match (Url::parse(a), Url::parse(b)) {
            (Ok(a), Ok(b)) => self.lead_to_same(&a, &b),
            _ => a == b,
        }
    }

    /// Whether two URLs are the same or share an address.
    pub(in crate::shell) fn lead_to_same(&mut self, a: &Url, b: &Url) -> bool {
        // Another port is another listener; no name has to be looked up for that.
        a == b || (a.is_tls() == b.is_tls() && a.port() == b.port() && !self.of(a).is_disjoint(&self.of(b)))
    }

    /// The addresses behind a URL; none if it cannot be told, or if it leads to a socket's file.
    pub(in crate::shell) fn of(&mut self, url: &Url) -> BTreeSet<SocketAddr> {
        if url.socket_path().is_some() {
            return BTreeSet::new();
        }
        let authority = url.authority();
        if let Some(known) = self.known.get(&authority) {
            return known.clone();
        }
        let (answer, inbox) = channel::bounded(1);
        let on_found = move |found: io::Result<Vec<SocketAddr>>| {
            // Whoever asked may have given up.
            answer.send(found.into_iter().flatten().collect::<BTreeSet<_>>()).ok();
        };
        let found = match authority.parse() {
            Ok(address) => BTreeSet::from([address]),
            Err(_) => match start_lookup(authority.clone(), on_found) {
                Ok(()) => inbox.recv_deadline(self.deadline).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(%error, "cannot start a thread to look a name up");
                    BTreeSet::new()
                }
            },
        };
        if !found.is_empty() {
            self.known.insert(authority, found.clone());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn same(a: &[&str], b: &[&str]) -> bool {
        let owned = |urls: &[&str]| urls.iter().map(ToString::to_string).collect::<Vec<String>>();
        Addresses::until(Instant::now() + Duration::from_secs(10)).are_same(&owned(a), &owned(b))
    }

    #[test]
    fn lists_are_the_same_in_any_order_and_by_name_or_number() {
        assert!(same(
            &["http://a.invalid:1", "http://b.invalid:1"],
            &["http://b.invalid:1", "http://a.invalid:1"]
        ));
        assert!(same(&["http://localhost:1"], &["http://127.0.0.1:1"]));
        assert!(!same(&["http://localhost:1"], &["http://127.0.0.1:2"]));
        assert!(!same(&["http://localhost:1"], &["http://127.0.0.1:1", "http://127.0.0.1:2"]));
        assert!(!same(
            &["http://127.0.0.1:1", "http://127.0.0.1:3"],
            &["http://127.0.0.1:1", "http://127.0.0.1:2"]
        ));
    }

    #[test]
    fn two_names_that_lead_nowhere_do_not_lead_to_the_same_place() {
        assert!(!same(&["http://a.invalid:1"], &["http://b.invalid:1"]));
        assert!(!same(&["nonsense"], &["http://b.invalid:1"]));
    }

    #[test]
    fn nothing_is_waited_for_after_the_deadline() {
        let mut addresses = Addresses::until(Instant::now() - Duration::from_secs(1));
        let url = Url::parse("http://127.0.0.1:1").unwrap();
        assert_eq!(addresses.of(&url).len(), 1, "a number needs no lookup");
        assert!(addresses.of(&Url::parse("http://a.invalid:1").unwrap()).is_empty());
    }
}
