//! The peer transport: carries raft's messages, calls and streams between members.
//!
//! Lives on the raft role's executor and decides nothing about consensus. `link` keeps connections to
//! the other members, `listener` takes in theirs, `connection` carries one of either, `call` and
//! `bulk` are what is spoken beside raft's messages; `peer/` is the conversation itself.
//!
//! What raft may rely on: a message arrives whole or not at all, at most once, and in order with
//! the others of its lane from the same connection. It may be lost whenever a connection ends or a
//! queue is full, and then the peer is reported unreachable.
//! Bounds: each lane's outbox and what waits for the raft role by the configuration; connections by
//! `listener`; a stream's buffers by `bulk`.
//! Cost: a message is encoded into its lane's outbox; all that a turn gathers leaves in one write.

mod bulk;
mod call;
mod connection;
mod events;
mod link;
mod listener;
mod pages;
mod securing;
#[cfg(test)]
mod tests;
mod traffic;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future;

pub(super) use bulk::{BulkError, BulkReader};
pub(super) use call::{CallError, IncomingCall, Reply};
pub(super) use events::PeerEvent;
pub(super) use pages::{PageCall, PageReply};

use self::bulk::Wanted;
use self::connection::{Connection, Scratch};
use self::events::Events;
use self::link::Peer;
use self::listener::Visitor;
use self::traffic::Traffic;
use crate::config::Url;
use crate::peer::frame::put_frame;
use crate::peer::{FrameKind, Lane, Lives, PeerIdentity, Refusal, RefusalCode, lane_of};
use crate::raft::{Message, mix};
use crate::shell::net::quiet::Quiet;
use crate::shell::net::tls::{TlsAcceptor, TlsConnector};
use crate::shell::net::{Dialer, KnownAddresses};
use crate::shell::runtime::mesh::Doorbell;
use crate::shell::runtime::wake::{Broadcast, Wake};
use crate::types::{ClusterId, FormatLevel, MemberId};

/// How long connections may take to say goodbye at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a transport is told. Durations are above zero.
#[derive(Debug, Clone)]
pub(super) struct PeerConfig {
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Larger at each start of the process; see `peer::handshake`.
    pub incarnation: u64,
    /// Where others reach this member.
    pub peer_urls: Vec<Url>,
    /// This member's life, and those that it has met.
    pub lives: Lives,
    /// Where the names in URLs led when they were last looked up.
    pub addresses: KnownAddresses,
    /// What it tells them that it reads.
    pub format_level_max: FormatLevel,
    /// The cluster's, as known at the start; see `set_format_level`.
    pub format_level: FormatLevel,
    /// Largest raft message. An append carries at least one entry, so it exceeds the largest group.
    pub message_bytes_max: usize,
    /// What may wait for each lane's socket.
    pub queue_bytes_max: usize,
    /// What may wait for the raft role, of each connection, beside one message.
    pub inbound_bytes_max: usize,
    /// Largest question and answer of a call.
    pub call_bytes_max: usize,
    pub dial_timeout: Duration,
    pub handshake_timeout: Duration,
    /// A connection that makes no progress is given up after this.
    pub patience: Duration,
    /// The same for a stream, whose ends may wait for a disk.
    pub bulk_patience: Duration,
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Connections without a Hello, and as many in a handshake of TLS.
    pub half_open_max: usize,
    /// How members that dial are met at addresses with TLS; None: there are none.
    pub acceptor: Option<TlsAcceptor>,
    /// How members are dialed at such addresses; None: they are not.
    pub connector: Option<TlsConnector>,
}

impl PeerConfig {
    /// The defaults for one member.
    #[must_use]
    pub(super) fn new(cluster: ClusterId, member: MemberId, incarnation: u64) -> Self {
        Self {
            cluster,
            member,
            incarnation,
            peer_urls: Vec::new(),
            lives: Lives::default(),
            addresses: KnownAddresses::new(),
            format_level_max: FormatLevel::HIGHEST,
            format_level: FormatLevel::LOWEST,
            message_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            inbound_bytes_max: 16 << 20,
            call_bytes_max: 16 << 20,
            dial_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(3),
            patience: Duration::from_secs(5),
            bulk_patience: Duration::from_secs(30),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            half_open_max: 64,
            acceptor: None,
            connector: None,
        }
    }
}

/// What a line of the log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Accept,
    Refusal,
    Tls,
    Http,
    /// A handshake of TLS that failed, by its cause.
    Handshake(u8),
    Dial,
    End,
    Size,
}

/// This member's connections. See the module.
#[derive(Debug)]
pub(super) struct Transport {
    config: PeerConfig,
    identity: PeerIdentity,
    lives: RefCell<Lives>,
    /// The cluster's.
    format_level: Cell<FormatLevel>,
    events: Events,
    peers: RefCell<BTreeMap<MemberId, Rc<Peer>>>,
    removed: RefCell<BTreeSet<MemberId>>,
    visitors: RefCell<BTreeMap<MemberId, Visitor>>,
    strangers: Cell<usize>,
    /// Streams whose receivers have been asked to dial, by their names.
    wanted: RefCell<BTreeMap<u64, Rc<Wanted>>>,
    half_open: RefCell<BTreeMap<u64, Rc<Connection>>>,
    /// Connections in a handshake of TLS.
    in_handshake: RefCell<BTreeMap<u64, Rc<Wake>>>,
    /// Accepted, in either direction, with whom it is.
    open: RefCell<BTreeMap<u64, (MemberId, Rc<Connection>)>>,
    /// Of connections that have ended.
    traffic: RefCell<BTreeMap<MemberId, Traffic>>,
    /// After each that has ended.
    closed: Broadcast,
    last_id: Cell<u64>,
    stop: Cell<bool>,
    at_stop: Broadcast,
    scratch: Scratch,
    dialer: Dialer,
    /// Lines about one peer, by what they are about.
    quiet: Quiet<(MemberId, About)>,
}

/// Keeps a connection in the list of those that are told when the transport stops.
struct Registered<'a> {
    transport: &'a Transport,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let gone = self.transport.open.borrow_mut().remove(&self.id);
        if let Some((member, connection)) = gone {
            let (sent, received) = connection.traffic();
            self.transport.count_traffic(member, |traffic| {
                traffic.sent_bytes += sent;
                traffic.received_bytes += received;
                traffic.receive_failures += u64::from(connection.has_failed());
            });
        }
        self.transport.closed.ring();
    }
}

impl Transport {
    /// A transport without peers. Its tasks run on this executor until `stop`; `bell` is rung when an
    /// event waits.
    #[must_use]
    pub(super) fn new(config: PeerConfig, bell: Doorbell) -> Rc<Self> {
        let identity = PeerIdentity {
            cluster: config.cluster,
            member: config.member,
            incarnation: config.incarnation,
            peer_urls: config.peer_urls.iter().map(ToString::to_string).collect(),
            format_level_max: config.format_level_max,
        };
        let dialer = Dialer::knowing(config.addresses.clone(), config.dial_timeout, config.connector.clone());
        Rc::new(Self {
            format_level: Cell::new(config.format_level),
            identity,
            lives: RefCell::new(config.lives.clone()),
            config,
            events: Events::new(bell),
            peers: RefCell::default(),
            removed: RefCell::default(),
            visitors: RefCell::default(),
            strangers: Cell::new(0),
            wanted: RefCell::default(),
            half_open: RefCell::default(),
            in_handshake: RefCell::default(),
            open: RefCell::default(),
            traffic: RefCell::default(),
            closed: Broadcast::default(),
            last_id: Cell::new(0),
            stop: Cell::new(false),
            at_stop: Broadcast::default(),
            scratch: connection::scratch(),
            dialer,
            quiet: Quiet::default(),
        })
    }

    /// The members to be connected to, this one aside. Links to others end; a changed address is used
    /// at the next dial.
    pub(super) fn set_peers(self: &Rc<Self>, listed: impl IntoIterator<Item = (MemberId, Vec<Url>)>) {
        let listed: BTreeMap<MemberId, Vec<Url>> =
            listed.into_iter().filter(|(member, _)| *member != self.config.member).collect();
        let dropped: Vec<Rc<Peer>> = {
            let mut peers = self.peers.borrow_mut();
            let is_dropped = |peer: &Peer| peer.is_listed.get() && !listed.contains_key(&peer.member);
            peers.extract_if(.., |_member, peer| is_dropped(peer)).map(|(_member, peer)| peer).collect()
        };
        for peer in dropped {
            peer.retire(&Refusal::new(RefusalCode::Replaced, "not on the member list any more"));
        }
        for (member, urls) in listed {
            match self.peer(member) {
                Some(peer) => {
                    peer.is_listed.set(true);
                    if *peer.urls.borrow() != urls {
                        peer.urls.replace(urls);
                        peer.poke();
                    }
                }
                None => drop(self.add_peer(member, urls, true)),
            }
        }
    }

    /// Members that were removed from the cluster: nobody talks to them again.
    pub(super) fn set_removed(&self, removed: impl IntoIterator<Item = MemberId>) {
        let removed: BTreeSet<MemberId> = removed.into_iter().collect();
        for member in &removed {
            let reason = format!("member {member} has been removed from the cluster");
            let refusal = Refusal::new(RefusalCode::Removed, reason);
            let peer = self.peers.borrow_mut().remove(member);
            if let Some(peer) = peer {
                peer.retire(&refusal);
            }
            if let Some(visitor) = self.visitors.borrow().get(member) {
                visitor.leave(&refusal);
            }
        }
        self.lives.borrow_mut().known.retain(|member, _| !removed.contains(member));
        self.traffic.borrow_mut().retain(|member, _| !removed.contains(member));
        self.removed.replace(removed);
    }

    /// The lives that this member has met.
    pub(super) fn lives(&self) -> Lives {
        self.lives.borrow().clone()
    }

    /// Sends a message to its receiver, or drops it; then the receiver is reported unreachable. False:
    /// no byte of it has left or will.
    pub(super) fn send(&self, message: &Message) -> bool {
        let Some(peer) = self.peer(message.to()) else { return false };
        let bytes_max = self.config.message_bytes_max;
        let lane = lane_of(message.kind());
        if lane == Lane::Control {
            self.leave_unheard(&peer);
        }
        let is_sent = self.way_to(&peer, lane).is_some_and(|connection| {
            connection.queue(self.config.queue_bytes_max, |outbox| {
                let start = outbox.len();
                put_frame(outbox, FrameKind::RaftMessage, |outbox| message.encode(outbox));
                let bytes = outbox.len() - start;
                if connection::framed_bytes(bytes_max) < bytes {
                    // It would end the connection. A bound that the groups' own does not fit: said
                    // again and again, since replication to this peer stands still.
                    outbox.truncate(start);
                    if let Some(left_out) = self.quiet.ask((peer.member, About::Size), Instant::now()) {
                        let kind = message.kind();
                        tracing::error!(bytes, bytes_max, ?kind, left_out, "message too large for a peer");
                    }
                }
            })
        });
        if !is_sent {
            self.count_traffic(peer.member, |traffic| traffic.send_failures += 1);
            self.tell_unreachable(&peer);
        }
        is_sent
    }

    /// The oldest event; urgent ones first.
    pub(super) fn take_event(&self) -> Option<PeerEvent> {
        let event = self.events.take();
        if let Some(PeerEvent::Unreachable(member)) = &event
            && let Some(peer) = self.peer(*member)
        {
            peer.is_unreachable_told.set(false);
        }
        event
    }

    /// Whether an event waits.
    pub(super) fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// Since when messages to `member` get through.
    pub(super) fn connected_since(&self, member: MemberId) -> Option<Instant> {
        let peer = self.peer(member)?;
        peer.up_since().or_else(|| self.way_to(&peer, Lane::Control).map(|connection| connection.opened))
    }

    /// The connection that carries a lane to a peer: ours, or else the peer's own.
    fn way_to(&self, peer: &Peer, lane: Lane) -> Option<Rc<Connection>> {
        peer.link(lane).connection().or_else(|| self.way_back(peer, lane))
    }

    /// The peer's own connection of a lane, for what is said back to it.
    fn way_back(&self, peer: &Peer, lane: Lane) -> Option<Rc<Connection>> {
        self.visitors.borrow().get(&peer.member)?.way_back(lane).cloned()
    }

    /// Ends our connections to a peer where nobody acknowledges what is sent, while the peer is heard on those that
    /// it opened, which carry the lanes from then on: a firewall went up that swallows one direction. Without this
    /// the kernel gives them up after `PeerConfig::patience`. The control lane tells for all: its few bytes are never
    /// too many for a reader that is slow, whose kernel drops what it has no room for. A lane changes its connection
    /// by the end of the one before, never beside it, or it would overtake what is under way.
    fn leave_unheard(&self, peer: &Peer) {
        let is_unheard = peer.link(Lane::Control).connection().is_some_and(|ours| ours.is_unheard());
        if is_unheard && self.way_back(peer, Lane::Control).is_some() {
            let reason = "what is sent to the peer is not acknowledged; it is reached over the connections that it opens";
            tracing::warn!(peer = %peer.member, "connections ended: {reason}");
            peer.leave(&Refusal::new(RefusalCode::Replaced, reason));
            // Entries that were under way are lost.
            self.events.tell(PeerEvent::Reconnected(peer.member));
        }
    }

    /// The cluster that this member belongs to.
    pub(super) fn cluster(&self) -> ClusterId {
        self.config.cluster
    }

    /// The highest format level that `member` reads, while messages to it get through.
    pub(super) fn reads(&self, member: MemberId) -> Option<FormatLevel> {
        let peer = self.peer(member)?;
        peer.reads().or_else(|| {
            let visitors = self.visitors.borrow();
            let visitor = visitors.get(&member)?;
            visitor.way_back(Lane::Control).map(|_| visitor.reads)
        })
    }

    /// The cluster's format level: members that do not read it are refused from now on, and their connections
    /// end. There are none unless a member came back as an earlier release in the same moment.
    pub(super) fn set_format_level(&self, level: FormatLevel) {
        if self.format_level.replace(level) == level {
            return;
        }
        let refusal = Refusal::new(
            RefusalCode::FormatLevel,
            format!("the cluster writes format level {level} from now on, which this member does not read"),
        );
        // Ending a connection runs no other task, so neither list changes below.
        for visitor in self.visitors.borrow().values().filter(|visitor| visitor.reads < level) {
            visitor.leave(&refusal);
        }
        for peer in
            self.peers.borrow().values().filter(|peer| peer.reads().is_some_and(|reads| reads < level))
        {
            peer.leave(&refusal);
        }
    }

    /// Says goodbye on all connections and ends everything.
    pub(super) async fn stop(&self) {
        self.stop.set(true);
        self.at_stop.ring();
        let refusal = Refusal::new(RefusalCode::Stopping, "this member is stopping");
        self.peers.borrow().values().for_each(|peer| peer.retire(&refusal));
        for connection in self.half_open.take().into_values() {
            connection.close(connection::End::Local(refusal.clone()));
        }
        // None of these calls runs another task, so the list does not change below.
        self.open.borrow().values().for_each(|(_, connection)| connection.leave(refusal.clone()));
        let ended = async {
            while !self.open.borrow().is_empty() {
                self.closed.rung().await;
            }
        };
        future::or(ended, glommio::timer::sleep(FAREWELL)).await;
        // What holds this transport in a circle.
        self.peers.take();
    }

    fn is_stopping(&self) -> bool {
        self.stop.get()
    }

    async fn stopped(&self) {
        while !self.is_stopping() {
            self.at_stop.rung().await;
        }
    }

    fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    fn patience(&self, lane: Lane) -> Duration {
        if lane == Lane::Bulk { self.config.bulk_patience } else { self.config.patience }
    }

    fn peer(&self, member: MemberId) -> Option<Rc<Peer>> {
        self.peers.borrow().get(&member).cloned()
    }

    fn add_peer(self: &Rc<Self>, member: MemberId, urls: Vec<Url>, is_listed: bool) -> Rc<Peer> {
        let peer = Rc::new(Peer::new(member, urls, is_listed));
        self.peers.borrow_mut().insert(member, Rc::clone(&peer));
        self.start_links(&peer);
        peer
    }

    /// A member that was met and never listed has gone.
    fn forget_unlisted(&self, member: MemberId) {
        let peer = self.peer(member).filter(|peer| !peer.is_listed.get());
        if let Some(peer) = peer {
            self.peers.borrow_mut().remove(&member);
            if peer.up_since().is_some() {
                self.events.tell(PeerEvent::Down { member, reset: false });
            }
            peer.retire(&Refusal::new(RefusalCode::Replaced, "not on the member list"));
        }
    }

    fn tell_unreachable(&self, peer: &Peer) {
        if !peer.is_unreachable_told.replace(true) {
            self.events.tell(PeerEvent::Unreachable(peer.member));
        }
    }

    fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// A name for a connection, which no other connection of this member has had: incarnations differ.
    fn next_session(&self) -> u64 {
        mix(self.config.incarnation).wrapping_add(self.next_id()).max(1)
    }

    fn register(&self, member: MemberId, connection: &Rc<Connection>) -> Registered<'_> {
        let id = self.next_id();
        self.open.borrow_mut().insert(id, (member, Rc::clone(connection)));
        Registered { transport: self, id }
    }

    #[expect(clippy::unused_self, reason = "a task belongs to a transport")]
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(task).detach();
    }
}
