//! The connections that this member dials: one for each lane of each peer, kept up.
//!
//! A link dials at once, then after growing pauses; a peer that dials us has just started, so its
//! links try again at once. What is sent while a link is down is dropped: raft repeats what matters,
//! and what must not be repeated is better lost.
//!
//! Messages for a peer go over the connection that we dialed, or, where there is none, over one that the peer
//! dialed: a member that cannot be reached takes part as long as it reaches others. For a stream it is asked to
//! dial (`bulk`).
//!
//! A peer is *alive* while one of the two control connections is open, ours to it or its to us. When
//! either ends, the other is dialed anew: a process that has gone answers with a refused connection
//! within a round trip, and one that has not is up again as soon.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future;

use super::call::{CallError, Calls, Reads};
use super::connection::{Connection, End, FrameReader};
use super::events::PeerEvent;
use super::{About, Transport};
use crate::config::{Address, Url};
use crate::pb::peer::Hello as HelloWire;
use crate::peer::{FrameKind, HANDSHAKE_BYTES_MAX, Lane, Refusal, RefusalCode, Seal, moved_from_wire};
use crate::shell::net::within;
use crate::shell::runtime::wake::{Broadcast, Wake};
use crate::types::{FormatLevel, MemberId};

/// The lanes that are kept up, in the order of `Peer::links`.
const LANES: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Call];

/// A connection that lived shorter does not make the next attempt immediate.
const SETTLED: Duration = Duration::from_secs(1);

/// Callers in a hurry cause no more than one attempt in this time.
const RETRY_MIN: Duration = Duration::from_millis(10);

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum DialError {
    #[error("{authority}: {reason}")]
    Failed { authority: String, reason: String },
    #[error("it refuses: {0}")]
    Refused(Refusal),
    #[error("it has no address")]
    NoAddress,
    #[error("this member is stopping")]
    Stopping,
}

/// The use of a connection that is dialed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    pub lane: Lane,
    /// As in Hello.
    pub stream: u64,
}

impl Purpose {
    /// To send on a lane.
    pub(super) fn of(lane: Lane) -> Self {
        Self { lane, stream: 0 }
    }
}

/// A connection that was accepted.
pub(super) struct Opened {
    pub connection: Rc<Connection>,
    pub reader: FrameReader,
    pub release: String,
    pub incarnation: u64,
    pub is_duplex: bool,
    /// What the acceptor reads.
    pub format_level_max: FormatLevel,
}

/// Another member, as this one reaches it.
#[derive(Debug)]
pub(super) struct Peer {
    pub member: MemberId,
    pub urls: RefCell<Vec<Url>>,
    /// Where it says that it is, in the Hello of its newest connection.
    told_urls: RefCell<Vec<Url>>,
    /// Where it has told another member that it is, if it has told this one nothing since.
    heard_urls: RefCell<Vec<Url>>,
    /// Told by the member list; else by itself, in its Hello.
    pub is_listed: Cell<bool>,
    pub is_gone: Cell<bool>,
    links: [Rc<Link>; LANES.len()],
    pub calls: Calls,
    is_alive: Cell<bool>,
    /// `Up` was told, and no `Down` since.
    is_up_told: Cell<bool>,
    /// When our control connection to it was accepted, if it is open, and what it said then that it reads.
    up: Cell<Option<(Instant, FormatLevel)>>,
    /// `Unreachable` waits to be taken.
    pub is_unreachable_told: Cell<bool>,
    /// Connections that we opened for streams of its own.
    pub fetching: Cell<usize>,
    refused: Cell<Option<RefusalCode>>,
}

/// One lane to one peer.
#[derive(Debug, Default)]
pub(super) struct Link {
    connection: RefCell<Option<Rc<Connection>>>,
    /// Of the process at the other end of `connection`.
    incarnation: Cell<u64>,
    /// Ends a pause.
    poke: Wake,
    /// After every attempt.
    tried: Broadcast,
    failure: RefCell<Option<DialError>>,
    failed_at: Cell<Option<Instant>>,
}

impl Link {
    /// The open connection.
    pub(super) fn connection(&self) -> Option<Rc<Connection>> {
        self.connection.borrow().as_ref().filter(|connection| connection.is_open()).cloned()
    }

    /// The same; dials now if there is none, and fails with that attempt, or with one just made.
    pub(super) async fn connected(&self) -> Result<Rc<Connection>, CallError> {
        loop {
            if let Some(connection) = self.connection() {
                return Ok(connection);
            }
            let failed_now = self.failed_at.get().is_some_and(|at| at.elapsed() < RETRY_MIN);
            if !failed_now {
                self.poke.ring();
                self.tried.rung().await;
            }
            if let Some(error) = self.failure.borrow().clone() {
                return Err(error.into());
            }
        }
    }
}

impl Peer {
    pub(super) fn new(member: MemberId, urls: Vec<Url>, is_listed: bool) -> Self {
        Self {
            member,
            urls: RefCell::new(urls),
            told_urls: RefCell::default(),
            heard_urls: RefCell::default(),
            is_listed: Cell::new(is_listed),
            is_gone: Cell::new(false),
            links: Default::default(),
            calls: Calls::default(),
            is_alive: Cell::new(false),
            is_up_told: Cell::new(false),
            up: Cell::new(None),
            is_unreachable_told: Cell::new(false),
            fetching: Cell::new(0),
            refused: Cell::new(None),
        }
    }

    pub(super) fn link(&self, lane: Lane) -> &Rc<Link> {
        let slot = LANES.iter().position(|kept| *kept == lane);
        &self.links[slot.expect("a stream has no link")]
    }

    /// Tries every link now.
    pub(super) fn poke(&self) {
        self.links.iter().for_each(|link| link.poke.ring());
    }

    /// Where to dial it: as the members have agreed, then where it says that it is, or else has said to others. A
    /// member that has moved takes part by that before anybody has updated the list.
    pub(super) fn candidates(&self) -> Vec<Url> {
        let mut candidates = self.urls.borrow().clone();
        for url in self.told_urls.borrow().iter().chain(self.heard_urls.borrow().iter()) {
            if !candidates.contains(url) {
                candidates.push(url.clone());
            }
        }
        candidates
    }

    /// It has said where it is.
    pub(super) fn on_told(&self, urls: Vec<Url>) {
        self.heard_urls.take();
        if *self.told_urls.borrow() != urls {
            self.told_urls.replace(urls);
            self.poke();
        }
    }

    /// Another member says where it has said that it is. Only its own word is passed on, so a word that was
    /// true once does not go round for ever.
    fn on_told_by_another(&self, urls: Vec<Url>) {
        if *self.heard_urls.borrow() != urls {
            self.heard_urls.replace(urls);
            self.poke();
        }
    }

    /// Where it says that it is, if the members have not agreed on that.
    pub(super) fn moved(&self) -> Option<Vec<String>> {
        let (listed, told) = (self.urls.borrow(), self.told_urls.borrow());
        let has_moved = self.is_listed.get() && told.iter().any(|url| !listed.contains(url));
        has_moved.then(|| told.iter().map(ToString::to_string).collect())
    }

    /// Its control connection has arrived.
    pub(super) fn on_heard(&self) {
        self.is_alive.set(true);
        self.poke();
    }

    /// When our control connection to it was accepted, if it is open.
    pub(super) fn up_since(&self) -> Option<Instant> {
        self.up.get().map(|(since, _)| since)
    }

    /// The highest format level that it reads, as it said on that connection.
    pub(super) fn reads(&self) -> Option<FormatLevel> {
        self.up.get().map(|(_, reads)| reads)
    }

    /// The process that answered where we dialed, as far as a connection to it is open.
    pub(super) fn incarnation(&self) -> Option<u64> {
        let open = self.links.iter().filter(|link| link.connection().is_some());
        open.map(|link| link.incarnation.get()).max()
    }

    /// Ends the connections to processes before `incarnation`. Whether there was one.
    pub(super) fn leave_before(&self, incarnation: u64, refusal: &Refusal) -> bool {
        let older = self.links.iter().filter(|link| link.incarnation.get() < incarnation);
        let connections = older.filter_map(|link| link.connection());
        connections.map(|connection| connection.leave(refusal.clone())).count() != 0
    }

    /// Ends its connections; they are dialed anew.
    pub(super) fn leave(&self, refusal: &Refusal) {
        for connection in self.links.iter().filter_map(|link| link.connection()) {
            connection.leave(refusal.clone());
        }
    }

    /// Ends its links for good.
    pub(super) fn retire(&self, refusal: &Refusal) {
        self.is_gone.set(true);
        self.is_alive.set(false);
        self.leave(refusal);
        for link in &self.links {
            link.failure.replace(Some(DialError::NoAddress));
            link.tried.ring();
            link.poke.ring();
        }
    }
}

/// Pauses between attempts: doubling, with jitter, so that members do not dial in step.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
    random: u64,
}

impl Backoff {
    fn pause(&mut self) -> Duration {
        // xorshift64: only to spread attempts.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let share = u32::try_from(self.random >> 56).expect("eight bits");
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        // Between half and all of it.
        pause / 2 + pause * share / 510
    }

    fn reset(&mut self) {
        self.next = self.min;
    }
}

impl Transport {
    /// Starts a peer's links.
    pub(super) fn start_links(self: &Rc<Self>, peer: &Rc<Peer>) {
        for lane in LANES {
            let (transport, peer) = (Rc::clone(self), Rc::clone(peer));
            self.spawn(async move { transport.keep_up(&peer, lane).await });
        }
    }

    /// Keeps one lane connected until the peer is gone or the transport stops.
    async fn keep_up(self: &Rc<Self>, peer: &Rc<Peer>, lane: Lane) {
        let link = Rc::clone(peer.link(lane));
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        let seed = self.config.incarnation ^ peer.member.0.rotate_left(u32::from(lane as u8));
        let mut backoff = Backoff { next: min, min, max, random: seed | 1 };
        while !self.is_stopping() && !peer.is_gone.get() {
            match self.dial(&peer.candidates(), peer.member, Purpose::of(lane)).await {
                Ok(_) if self.is_stopping() || peer.is_gone.get() => return,
                Ok(opened) => {
                    let since = opened.connection.opened;
                    self.carry(peer, lane, opened).await;
                    if SETTLED <= since.elapsed() {
                        backoff.reset();
                    } else if !self.is_stopping() && !peer.is_gone.get() {
                        // No poke ends this pause: two members that accept each other's connections
                        // and then do not like them would go round without one.
                        glommio::timer::sleep(backoff.pause()).await;
                    }
                }
                Err(error) => {
                    self.on_dial_error(peer, lane, &error);
                    let is_refused = matches!(error, DialError::Refused(_));
                    link.failure.replace(Some(error));
                    if lane == Lane::Control {
                        self.on_way(peer, lane);
                    }
                    link.failed_at.set(Some(Instant::now()));
                    link.tried.ring();
                    let pause = backoff.pause();
                    let rested = async {
                        glommio::timer::sleep(if is_refused { max } else { pause }).await;
                        false
                    };
                    let poked = async {
                        link.poke.rung().await;
                        true
                    };
                    if !self.is_stopping() && !peer.is_gone.get() && future::or(poked, rested).await {
                        backoff.reset();
                    }
                }
            }
        }
    }

    /// Carries a connection that was accepted to its end.
    async fn carry(self: &Rc<Self>, peer: &Rc<Peer>, lane: Lane, opened: Opened) {
        let Opened { connection, reader, release, incarnation, is_duplex, format_level_max } = opened;
        let link = peer.link(lane);
        link.failure.replace(None);
        link.failed_at.set(None);
        link.incarnation.set(incarnation);
        link.connection.replace(Some(Rc::clone(&connection)));
        peer.refused.set(None);
        if lane == Lane::Control {
            peer.is_alive.set(true);
            peer.is_up_told.set(true);
            peer.up.set(Some((connection.opened, format_level_max)));
            self.events.tell(PeerEvent::Up(peer.member));
            tracing::info!(
                peer = %peer.member, address = %connection.remote, release,
                "connected to peer"
            );
        }
        if lane == Lane::Append {
            self.events.tell(PeerEvent::Reconnected(peer.member));
        }
        link.tried.ring();
        let carried = self.register(peer.member, &connection);
        let end = match lane {
            Lane::Call => {
                let reads = Reads { answers_to: Some(Rc::clone(peer)), requests: is_duplex };
                connection.run(self.read_calls(peer.member, reads, &connection, reader)).await
            }
            _ if is_duplex => {
                connection.run(self.read_messages(peer.member, lane, &connection, reader)).await
            }
            _ => connection.run(read_nothing(reader)).await,
        };
        drop(carried);
        link.connection.replace(None);
        if lane == Lane::Call {
            Self::end_calls(&peer.calls, &end);
        }
        if lane == Lane::Control {
            peer.up.set(None);
            if !matches!(end, End::Local(_)) {
                self.on_lost(peer, &end);
            }
        }
        let is_expected = matches!(&end, End::Local(_)) || lane != Lane::Control;
        if !is_expected && let Some(left_out) = self.quiet.ask((peer.member, About::End), Instant::now()) {
            tracing::warn!(peer = %peer.member, reason = %end, left_out, "connection to peer ended");
        }
    }

    /// A control connection with a peer has ended, in either direction, and not because we wanted it.
    pub(super) fn on_lost(&self, peer: &Peer, end: &End) {
        peer.is_up_told.set(false);
        if peer.is_alive.replace(false) {
            let reset = *end == End::Cut;
            self.events.tell(PeerEvent::Down { member: peer.member, reset });
        }
        // The other direction may look well still. A new connection tells.
        let link = peer.link(Lane::Control);
        if let Some(connection) = link.connection() {
            peer.up.set(None);
            connection.leave(Refusal::new(RefusalCode::Replaced, "the other direction has ended"));
        }
        link.poke.ring();
    }

    /// A peer has opened a connection that is used both ways, or we have failed to open one. If it is the only
    /// way, that is news.
    pub(super) fn on_way(&self, peer: &Peer, lane: Lane) {
        if lane == Lane::Bulk
            || peer.link(lane).failure.borrow().is_none()
            || self.way_to(peer, lane).is_none()
        {
            return;
        }
        match lane {
            Lane::Control if !peer.is_up_told.replace(true) => self.events.tell(PeerEvent::Up(peer.member)),
            Lane::Append => self.events.tell(PeerEvent::Reconnected(peer.member)),
            _ => {}
        }
    }

    fn on_dial_error(&self, peer: &Peer, lane: Lane, error: &DialError) {
        if let DialError::Refused(refusal) = error
            && peer.refused.replace(Some(refusal.code)) != Some(refusal.code)
        {
            self.events.tell(PeerEvent::Refused { by: peer.member, refusal: refusal.clone() });
        }
        // The lanes fail alike; one speaks for all.
        if lane == Lane::Control {
            let is_reached = self.way_to(peer, lane).is_some();
            if !is_reached {
                self.tell_unreachable(peer);
            }
            if let Some(left_out) = self.quiet.ask((peer.member, About::Dial), Instant::now()) {
                let instead =
                    if is_reached { "; it is reached over the connections that it opens" } else { "" };
                tracing::warn!(peer = %peer.member, %error, left_out, "cannot connect to peer{instead}");
            }
        }
    }

    /// Notes the life of a member that was dialed, at an address that the members or itself have told.
    fn meet_life(&self, member: MemberId, life: u64, reads: FormatLevel) -> Result<(), Refusal> {
        let told = self.lives.borrow().check_told(member, life, reads);
        let judged = self.lives.borrow().judge(self.config.member, member, life, 0);
        told.and(judged).map_err(|reason| Refusal::new(RefusalCode::OtherLife, reason))?;
        if self.lives.borrow_mut().meet(member, life) {
            self.events.tell(PeerEvent::Met);
        }
        Ok(())
    }

    /// Opens a connection to whoever of `urls` answers first.
    pub(super) async fn dial(
        &self,
        urls: &[Url],
        to: MemberId,
        purpose: Purpose,
    ) -> Result<Opened, DialError> {
        let mut error = DialError::NoAddress;
        for url in urls {
            let failed = |reason: io::Error| DialError::Failed {
                authority: url.authority(),
                reason: reason.to_string(),
            };
            let found = self.dialer.addresses(url).await;
            if let Some(known) = self.dialer.take_news() {
                self.events.tell(PeerEvent::Resolved(known));
            }
            let addresses = match found {
                Ok(addresses) => addresses,
                Err(reason) => {
                    error = failed(reason);
                    continue;
                }
            };
            for address in addresses {
                if self.is_stopping() {
                    return Err(DialError::Stopping);
                }
                match self.dial_address(url, &address, to, purpose).await {
                    Ok(opened) => return Ok(opened),
                    Err(DialError::Failed { reason, .. }) => error = failed(io::Error::other(reason)),
                    Err(refused) => error = refused,
                }
            }
        }
        Err(error)
    }

    async fn dial_address(
        &self,
        url: &Url,
        address: &Address,
        to: MemberId,
        purpose: Purpose,
    ) -> Result<Opened, DialError> {
        let lane = purpose.lane;
        let failed = |reason: String| DialError::Failed { authority: address.to_string(), reason };
        let stream = self.dialer.connect(url, address).await.map_err(|error| failed(error.to_string()))?;
        let connection = Connection::new(stream, &self.scratch, self.patience(lane));
        let connection = connection.map_err(|error| failed(error.to_string()))?;
        let mut reader = FrameReader::new(&connection, HANDSHAKE_BYTES_MAX);
        let session = self.next_session();
        let (life, to_life) = {
            let lives = self.lives.borrow();
            (lives.own, lives.of(to))
        };
        let hello = HelloWire {
            session,
            life,
            to_life,
            duplex: true,
            stream: purpose.stream,
            ..self.identity().hello(to, lane)
        };
        connection.queue_message(FrameKind::Hello, &hello);
        let work = async {
            connection.flush().await?;
            reader.next().await.map_err(io::Error::other)
        };
        let frame = within(self.config.handshake_timeout, work).await;
        let frame = frame.map_err(|error| failed(error.to_string()))?;
        match frame.kind {
            FrameKind::Welcome => {
                let level = self.format_level.get();
                let welcome = self.identity().check_welcome(to, level, frame.payload);
                let welcome = welcome.map_err(DialError::Refused)?;
                self.check_incarnation(to, welcome.incarnation).map_err(DialError::Refused)?;
                let reads = FormatLevel(welcome.format_level_max);
                self.meet_life(to, welcome.life, reads).map_err(DialError::Refused)?;
                for (member, urls) in moved_from_wire(&welcome) {
                    if let Some(peer) = self.peer(member) {
                        let urls = urls.iter().filter_map(|url| Url::parse(url).ok());
                        peer.on_told_by_another(urls.collect());
                    }
                }
                let (ours, theirs) = Seal::pair(session, welcome.session).unzip();
                connection.set_seal(ours);
                reader.set_seal(theirs);
                Ok(Opened {
                    connection,
                    reader,
                    release: welcome.release,
                    incarnation: welcome.incarnation,
                    is_duplex: welcome.duplex,
                    format_level_max: reads,
                })
            }
            FrameKind::Refusal => Err(DialError::Refused(Refusal::from_wire(frame.payload))),
            kind => Err(failed(format!("{kind:?} frame instead of a Welcome"))),
        }
    }
}

/// On lanes without answers only the end is news.
async fn read_nothing(mut reader: FrameReader) -> End {
    match reader.next().await {
        Ok(frame) => End::Malformed(format!("{:?} frame on a lane without answers", frame.kind)),
        Err(end) => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_are_never_alike() {
        let (min, max) = (Duration::from_millis(20), Duration::from_secs(1));
        let mut backoff = Backoff { next: min, min, max, random: 7 };
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= min);
        assert!(pauses.iter().all(|pause| min / 2 <= *pause && *pause <= max));
        assert!(pauses[10..].iter().all(|pause| max / 2 <= *pause));
        assert_ne!(pauses[18], pauses[19]);
        backoff.reset();
        assert!(backoff.pause() <= min);
    }
}
