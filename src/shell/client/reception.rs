//! The reception: how many connections there may be, and which shard gets the next.
//!
//! An address has one listening socket, and one shard accepts from it. (The kernel could spread
//! connections over sockets that share an address by `SO_REUSEPORT`, but then it spreads them over other
//! processes, too.) A connection goes to the shard with the fewest, the accepting one if it is among them;
//! another gets it over a queue and its bell. A connection costs this once.
//!
//! Clients do not get the last descriptors: members must reach each other and the log its files, however
//! many clients leak connections. `host.rs` says how many are kept back.
//!
//! Invariant: no more than `connections_max` connections are counted, and each is counted once, from its
//! accept to its end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam::queue::SegQueue;

use super::speaks::Endpoint;
use crate::config::Address;
use crate::shell::net::listen::Accepted;
use crate::shell::net::quiet::Quiet;
use crate::shell::net::tls::HandshakeError;
use crate::shell::net::{Remote, Stream};
use crate::shell::runtime::mesh::SharedBell;
use crate::types::FirstBytes;

/// What strangers can have the log say; each once in a while, for all shards together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    Full,
    AcceptFailed,
    Stranger(FirstBytes),
    /// A handshake that failed, by its cause.
    Handshake(u8),
}

/// One shard's part.
struct Desk {
    connections: AtomicUsize,
    /// Accepted elsewhere, and counted. Bounded by `connections_max`.
    waiting: SegQueue<(Endpoint, Accepted)>,
    bell: Arc<SharedBell>,
}

/// What all client shards of the process share. See the module.
pub struct Reception {
    /// By shard number.
    desks: BTreeMap<usize, Desk>,
    connections: AtomicUsize,
    connections_max: AtomicUsize,
    quiet: Mutex<Quiet<About>>,
}

/// A connection's place in the count.
pub(super) struct Place {
    reception: Arc<Reception>,
    shard: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.reception.desks[&self.shard].connections.fetch_sub(1, Ordering::Relaxed);
        self.reception.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reception {
    /// For shards with these bells, by number. Without a bound until one is set.
    #[must_use]
    pub(in crate::shell) fn new(bells: impl IntoIterator<Item = (usize, Arc<SharedBell>)>) -> Arc<Self> {
        let desk = |bell| Desk { connections: AtomicUsize::new(0), waiting: SegQueue::new(), bell };
        Arc::new(Self {
            desks: bells.into_iter().map(|(shard, bell)| (shard, desk(bell))).collect(),
            connections: AtomicUsize::new(0),
            connections_max: AtomicUsize::new(usize::MAX),
            quiet: Mutex::default(),
        })
    }

    /// For one shard alone.
    #[must_use]
    pub(super) fn alone(shard: u16) -> Arc<Self> {
        Self::new([(usize::from(shard), Arc::default())])
    }

    /// Connections that there are.
    pub(in crate::shell) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The bound from now on. Connections beyond it that there are already stay.
    pub(in crate::shell) fn set_connections_max(&self, connections_max: usize) {
        self.connections_max.store(connections_max, Ordering::Relaxed);
    }

    /// Takes a connection that was accepted on shard `here`. Gives it back if it is for this very shard;
    /// closes it if there are too many, and then answers an error.
    pub(super) fn receive(
        self: &Arc<Self>,
        here: usize,
        endpoint: Endpoint,
        accepted: Accepted,
    ) -> Result<Option<(Stream, Place)>, TooMany> {
        if self.connections_max.load(Ordering::Relaxed) <= self.connections.fetch_add(1, Ordering::Relaxed) {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            drop(accepted.bind_to_executor());
            return Err(TooMany);
        }
        let load = |shard: &usize| (self.desks[shard].connections.load(Ordering::Relaxed), *shard != here);
        let shard = *self.desks.keys().min_by_key(|shard| load(shard)).expect("there is a shard");
        let desk = &self.desks[&shard];
        desk.connections.fetch_add(1, Ordering::Relaxed);
        if shard == here {
            return Ok(Some((accepted.bind_to_executor(), self.place(shard))));
        }
        desk.waiting.push((endpoint, accepted));
        desk.bell.ring();
        Ok(None)
    }

    /// The next connection that another shard has accepted for this one.
    pub(super) fn take(self: &Arc<Self>, shard: usize) -> Option<(Endpoint, Stream, Place)> {
        let (endpoint, accepted) = self.desks[&shard].waiting.pop()?;
        Some((endpoint, accepted.bind_to_executor(), self.place(shard)))
    }

    /// Whether one waits.
    pub(in crate::shell) fn has_waiting(&self, shard: usize) -> bool {
        !self.desks[&shard].waiting.is_empty()
    }

    fn place(self: &Arc<Self>, shard: usize) -> Place {
        Place { reception: Arc::clone(self), shard }
    }

    /// Whether to log now; then with how many lines were left out since the last.
    pub(super) fn may_tell(&self, about: About) -> Option<u64> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner).ask(about, Instant::now())
    }

    /// A client was turned away.
    pub(super) fn tell_full(&self) {
        if let Some(left_out) = self.may_tell(About::Full) {
            let connections = self.connections();
            tracing::warn!(
                connections,
                left_out,
                "too many client connections: a new one was closed, and so are others until some end; each takes a \
                 file descriptor: find the client that leaks them, or raise LimitNOFILE= of systemd or `ulimit -n`"
            );
        }
    }

    /// Somebody does not speak our protocols.
    pub(super) fn tell_stranger(&self, spoken: FirstBytes, client: Remote, listener: &Address) {
        if let Some(left_out) = self.may_tell(About::Stranger(spoken)) {
            tracing::warn!(%client, %listener, left_out, "{}: connection closed", spoken.complaint());
        }
    }

    /// A connection that was to be encrypted did not come about.
    pub(super) fn tell_handshake(
        &self,
        error: &HandshakeError,
        client: Option<Remote>,
        listener: Option<&Address>,
    ) {
        let unknown = || "?".to_owned();
        let client = client.map_or_else(unknown, |client| client.to_string());
        if matches!(error, HandshakeError::Silent) {
            tracing::debug!(client, "a connection was closed before it began");
            return;
        }
        if let Some(left_out) = self.may_tell(About::Handshake(error.kind())) {
            tracing::warn!(
                client, listener = listener.map_or_else(unknown, Address::to_string), %error, left_out,
                "rejected connection on client endpoint"
            );
        }
    }
}

/// There are as many connections as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl fmt::Debug for Reception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let desk = |desk: &Desk| desk.connections.load(Ordering::Relaxed);
        f.debug_struct("Reception")
            .field("connections", &self.desks.values().map(desk).collect::<Vec<_>>())
            .field("connections_max", &self.connections_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;
    use crate::shell::client::Speaks;
    use crate::shell::net::listen;

    fn counts(reception: &Reception) -> Vec<usize> {
        reception.desks.values().map(|desk| desk.connections.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn connections_go_to_the_shard_with_the_fewest_and_are_bounded_together() {
        glommio::LocalExecutorBuilder::default().make().unwrap().run(async {
            let reception = Reception::new((0..3).map(|shard| (shard, Arc::default())));
            reception.set_connections_max(7);
            let listener = listen::listen("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            let (mut clients, mut places) = (Vec::new(), Vec::new());
            let mut connect = async |here| {
                clients.push(Client::connect(address).unwrap());
                reception.receive(here, Endpoint::plain(Speaks::All), listener.accept().await.unwrap())
            };
            for _ in 0..6 {
                places.extend(connect(1).await.unwrap());
            }
            assert_eq!(counts(&reception), [2, 2, 2]);
            assert_eq!(places.len(), 2, "two stay where they were accepted");
            // Among equals the shard that accepts.
            places.extend(connect(2).await.unwrap());
            assert_eq!((counts(&reception), places.len()), (vec![2, 2, 3], 3));
            assert!(matches!(connect(0).await, Err(TooMany)));
            assert_eq!(reception.connections(), 7, "who is turned away does not count");
            // One that waits for its shard, and one that ends.
            assert!(reception.has_waiting(0) && !reception.has_waiting(1));
            drop(reception.take(0).unwrap());
            assert_eq!((counts(&reception), reception.connections()), (vec![1, 2, 3], 6));
            assert!(connect(2).await.unwrap().is_none());
            assert_eq!(counts(&reception), [2, 2, 3]);
            drop(places);
            assert_eq!((counts(&reception), reception.connections()), (vec![2, 0, 2], 4));
        });
    }

    #[test]
    fn a_complaint_is_made_once_by_all_shards() {
        let reception = Reception::alone(0);
        let tls = About::Stranger(FirstBytes::Tls);
        assert_eq!(reception.may_tell(tls), Some(0));
        assert_eq!(reception.may_tell(tls), None);
        assert_eq!(reception.may_tell(About::Full), Some(0));
    }
}
