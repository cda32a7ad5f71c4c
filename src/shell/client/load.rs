//! Who causes the load of a shard: requests, bytes and changed keys, by the client's address and by the prefix of
//! the key. Clients by unix sockets count by their user.
//!
//! A connection counts in its own cells; what it has counted goes to its address when it ends. Prefixes are a few
//! hundred at most (`metrics::Top`). Connections of one address on several shards are added up by the scrape.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::call::account::Account;
use crate::metrics::{Heavy, Name, Report, Token, Top, changed_keys, key_of, key_prefix};
use crate::request::{Command, RequestKind};
use crate::shell::net::Party;

/// Names of each kind that one shard tells.
const TOLD_MAX: usize = 32;

/// What one connection has caused.
#[derive(Debug, Default)]
pub(super) struct ConnectionLoad {
    party: Cell<Option<Party>>,
    caused: Cell<Heavy>,
}

impl ConnectionLoad {
    /// The connection is from there.
    pub(super) fn comes_from(&self, party: Party) {
        self.party.set(Some(party));
    }

    fn add(&self, more: Heavy) {
        let mut caused = self.caused.get();
        caused.add(more);
        self.caused.set(caused);
    }
}

/// Whom the answer to a request is counted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause {
    prefix: Option<Token>,
    /// Of a request that changes keys.
    changes: Option<RequestKind>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Loads {
    /// Segments of a key that make its prefix; 0: nothing is counted by prefix.
    depth: usize,
    prefixes: RefCell<Top>,
    /// Of connections that have ended.
    addresses: RefCell<Top>,
}

impl Loads {
    /// Counts by prefixes of so many segments.
    pub(super) fn new(depth: usize) -> Self {
        Self { depth, prefixes: RefCell::default(), addresses: RefCell::default() }
    }

    /// A request of so many bytes.
    pub(super) fn on_request(&self, load: &ConnectionLoad, command: &Command, bytes: usize) -> Cause {
        let caused = Heavy { requests: 1, bytes: bytes as u64, changed_keys: 0 };
        load.add(caused);
        let changes = match command {
            Command::Propose { kind, .. } => Some(*kind),
            _ => None,
        };
        let key = if 0 < self.depth { key_of(command) } else { None };
        let count = |key| self.prefixes.borrow_mut().count(key_prefix(key, self.depth), caused);
        Cause { prefix: key.and_then(count), changes }
    }

    /// A request of so many bytes that is passed on as it came.
    pub(super) fn on_forward(&self, load: &ConnectionLoad, bytes: usize) -> Cause {
        load.add(Heavy { requests: 1, bytes: bytes as u64, changed_keys: 0 });
        Cause { prefix: None, changes: None }
    }

    /// Its answer, which went well.
    pub(super) fn on_answer(&self, load: &ConnectionLoad, cause: Cause, body: &[u8]) {
        let changed_keys = cause.changes.map_or(0, |kind| changed_keys(kind, body));
        let caused = Heavy { requests: 0, bytes: body.len() as u64, changed_keys };
        load.add(caused);
        if let Some(token) = cause.prefix {
            self.prefixes.borrow_mut().add(token, caused);
        }
    }

    /// A connection has ended.
    pub(super) fn on_end(&self, load: &ConnectionLoad) {
        if let Some(party) = load.party.take() {
            let _token = self.addresses.borrow_mut().count(party.to_string().as_bytes(), load.caused.take());
        }
    }

    pub(super) fn report<'a>(&self, connections: impl Iterator<Item = &'a Rc<Account>>, report: &mut Report) {
        let mut by_address = BTreeMap::<String, Heavy>::new();
        for (address, caused) in self.addresses.borrow().heaviest(usize::MAX) {
            by_address.insert(String::from_utf8_lossy(address).into_owned(), caused);
        }
        for account in connections {
            if let Some(party) = account.load.party.get() {
                by_address.entry(party.to_string()).or_default().add(account.load.caused.get());
            }
        }
        let mut heaviest: Vec<_> = by_address.into_iter().collect();
        heaviest.sort_by_key(|(_, caused)| std::cmp::Reverse(caused.requests));
        for (address, caused) in heaviest.into_iter().take(TOLD_MAX) {
            let label = || [address.clone().into()];
            report.count(Name::LoadByAddressRequests, label(), caused.requests);
            report.count(Name::LoadByAddressBytes, label(), caused.bytes);
            report.count(Name::LoadByAddressChanged, label(), caused.changed_keys);
        }
        for (prefix, caused) in self.prefixes.borrow().heaviest(TOLD_MAX) {
            // A key is any bytes; a label is text.
            let label = || [prefix.escape_ascii().to_string().into()];
            report.count(Name::LoadByPrefixRequests, label(), caused.requests);
            report.count(Name::LoadByPrefixBytes, label(), caused.bytes);
            report.count(Name::LoadByPrefixChanged, label(), caused.changed_keys);
        }
    }
}
