//! Connections that other members dial.
//!
//! Until its Hello is accepted a connection is a stranger's: it gets little memory and little time,
//! and when there are too many the oldest makes room, so that a flood of silent ones does not keep
//! members out.
//!
//! Invariants: at most one connection of each lane of a member is read, the newest; all connections
//! of a member belong to one incarnation of it.
//! Bounds: `half_open_max` strangers, `VISITORS_MAX` members, `STRANGERS_MAX` callers without
//! identity, `BULKS_MAX` streams a member.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::future;

use super::call::Reads;
use super::connection::{Connection, End, FrameReader};
use super::events::{Allowance, PeerEvent};
use super::{About, Transport};
use crate::config::Url;
use crate::peer::handshake::Acquaintance;
use crate::peer::{
    FrameError, FrameKind, Greeting, HANDSHAKE_BYTES_MAX, Lane, Refusal, RefusalCode, Seal,
    duplicate_of_newer, lane_of, moved_to_wire,
};
use crate::raft::{Message, MessageKind};
use crate::shell::net::listen::Listening;
use crate::shell::net::{Stream, TimedOut, within};
use crate::types::{FormatLevel, MemberId};

/// Members that may be connected: those of the list, and a few that are to be added.
const VISITORS_MAX: usize = 64;

/// Callers without identity.
const STRANGERS_MAX: usize = 16;

/// Streams of one member at a time.
pub(super) const BULKS_MAX: usize = 2;

/// Members that are dialed though the list does not know them.
const UNLISTED_MAX: usize = 16;

/// After a failed accept, most likely for want of file descriptors: those that end make room.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A live member answers heartbeats many times in this time.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// A member whose connections are open.
#[derive(Debug, Default)]
pub(super) struct Visitor {
    incarnation: u64,
    /// What is for it may go over its connections.
    is_duplex: bool,
    /// When it last said anything.
    heard: Cell<Option<Instant>>,
    /// The highest format level that it reads, as it said.
    pub(super) reads: FormatLevel,
    lanes: BTreeMap<Lane, Rc<Connection>>,
    bulks: Vec<Rc<Connection>>,
}

impl Visitor {
    /// The connection of a lane, for what is said back to it. A process that is silent may be frozen: what would
    /// be queued for it would only be old when it wakes up.
    pub(super) fn way_back(&self, lane: Lane) -> Option<&Rc<Connection>> {
        let is_heard = self.heard.get().is_some_and(|at| at.elapsed() < SILENCE_MAX);
        self.lanes.get(&lane).filter(|connection| self.is_duplex && is_heard && connection.is_open())
    }

    /// Ends all its connections.
    pub(super) fn leave(&self, refusal: &Refusal) {
        self.connections().for_each(|connection| connection.leave(refusal.clone()));
    }

    fn connections(&self) -> impl Iterator<Item = &Rc<Connection>> {
        self.lanes.values().chain(&self.bulks)
    }
}

/// Counts one while it lives.
pub(super) struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    pub(super) fn one_more(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Transport {
    /// The newest process that runs as `member`, of those with which a connection is open in either direction.
    fn incarnation_of(&self, member: MemberId) -> Option<u64> {
        let dialed = self.peer(member).and_then(|peer| peer.incarnation());
        dialed.max(self.incarnation_of_visitor(member))
    }

    fn incarnation_of_visitor(&self, member: MemberId) -> Option<u64> {
        let visitors = self.visitors.borrow();
        let visitor = visitors.get(&member)?;
        visitor.connections().any(|connection| connection.is_open()).then_some(visitor.incarnation)
    }

    /// A process of this incarnation has answered where `member` was dialed: an older one ends.
    ///
    /// # Errors
    /// When a newer one has dialed this member.
    pub(super) fn check_incarnation(&self, member: MemberId, incarnation: u64) -> Result<(), Refusal> {
        match self.incarnation_of_visitor(member) {
            Some(known) if incarnation < known => Err(duplicate_of_newer(member)),
            Some(known) if known < incarnation => {
                if let Some(visitor) = self.visitors.borrow().get(&member) {
                    visitor.leave(&Refusal::new(RefusalCode::Replaced, "a newer process took over"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Accepts from one listener more.
    pub(in crate::shell) fn listen(self: &Rc<Self>, listener: Listening, is_secured: bool) {
        assert_ne!(self.config.member, MemberId(0), "who listens has an identity");
        let transport = Rc::clone(self);
        self.spawn(async move {
            let stopped = transport.stopped();
            future::or(stopped, transport.accept(&listener, is_secured)).await;
        });
    }

    async fn accept(self: &Rc<Self>, listener: &Listening, is_secured: bool) {
        loop {
            match listener.accept().await {
                Ok(accepted) if is_secured => self.secure(accepted.bind_to_executor()),
                Ok(accepted) => self.adopt(accepted.bind_to_executor()),
                Err(error) => {
                    if let Some(left_out) = self.quiet.ask((MemberId(0), About::Accept), Instant::now()) {
                        tracing::warn!(%error, left_out, "cannot accept a peer connection");
                    }
                    glommio::timer::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    pub(super) fn adopt(self: &Rc<Self>, stream: Stream) {
        // The other side may have gone already.
        let Ok(connection) = Connection::new(stream, &self.scratch, self.config.patience) else { return };
        let id = self.next_id();
        let crowded_out = {
            let mut half_open = self.half_open.borrow_mut();
            half_open.insert(id, Rc::clone(&connection));
            (self.config.half_open_max < half_open.len()).then(|| half_open.pop_first()).flatten()
        };
        if let Some((_, oldest)) = crowded_out {
            oldest.close(End::Local(Refusal::new(RefusalCode::Busy, "too many connections without a Hello")));
        }
        let transport = Rc::clone(self);
        self.spawn(async move {
            let accepted = transport.greet(&connection).await;
            transport.half_open.borrow_mut().remove(&id);
            if let Some((greeting, reader)) = accepted {
                transport.host(&greeting, &connection, reader).await;
            }
        });
    }

    /// The Hello of a connection, if it is accepted. Otherwise the connection is over.
    async fn greet(self: &Rc<Self>, connection: &Rc<Connection>) -> Option<(Greeting, FrameReader)> {
        let mut reader = FrameReader::new(connection, HANDSHAKE_BYTES_MAX);
        let read = async { Ok::<_, TimedOut>(reader.next().await) };
        let read = within(self.config.handshake_timeout, read).await;
        let refusal = match read {
            Err(_) => Refusal::new(RefusalCode::Malformed, "no Hello in time"),
            Ok(Err(end)) => {
                if end == End::Garbage(FrameError::Http1) {
                    self.serve_page(connection, reader.into_bytes()).await;
                    return None;
                }
                // Closed before it spoke: a probe of the port, or one that was crowded out.
                if matches!(end, End::Garbage(_) | End::Malformed(_)) {
                    self.log_stranger(connection, &end);
                }
                return None;
            }
            Ok(Ok(frame)) if frame.kind != FrameKind::Hello => {
                let reason = format!("{:?} frame instead of a Hello", frame.kind);
                Refusal::new(RefusalCode::Malformed, reason)
            }
            Ok(Ok(frame)) => match Greeting::read(frame.payload) {
                Err(refusal) => refusal,
                Ok(greeting) => match self.judge(&greeting, connection, &mut reader) {
                    Ok(()) => return Some((greeting, reader)),
                    Err(refusal) => {
                        self.log_refusal(connection, Some(greeting.from.member), &refusal.reason);
                        connection.refuse(refusal);
                        connection.run(future::pending()).await;
                        return None;
                    }
                },
            },
        };
        self.log_refusal(connection, None, &refusal.reason);
        connection.refuse(refusal);
        connection.run(future::pending()).await;
        None
    }

    /// Somebody who does not speak the protocol. What is known of it is told apart, so that a scan of the
    /// port does not hide a member that is told the wrong scheme.
    fn log_stranger(&self, connection: &Connection, end: &End) {
        let about = match end {
            End::Garbage(FrameError::Tls) => About::Tls,
            End::Garbage(FrameError::Http2) => About::Http,
            _ => About::Refusal,
        };
        self.log(about, connection, None, &end.to_string());
    }

    pub(super) fn log_refusal(&self, connection: &Connection, from: Option<MemberId>, reason: &str) {
        self.log(About::Refusal, connection, from, reason);
    }

    pub(super) fn log(&self, about: About, connection: &Connection, from: Option<MemberId>, reason: &str) {
        if let Some(left_out) = self.quiet.ask((from.unwrap_or_default(), about), Instant::now()) {
            tracing::warn!(
                address = %connection.remote, from = from.map(|from| from.to_string()), reason, left_out,
                "peer connection refused"
            );
        }
    }

    /// Answers the Hello with a Welcome, if everything is as it should be.
    fn judge(
        &self,
        greeting: &Greeting,
        connection: &Connection,
        reader: &mut FrameReader,
    ) -> Result<(), Refusal> {
        if self.is_stopping() {
            return Err(Refusal::new(RefusalCode::Stopping, "this member is stopping"));
        }
        let from = greeting.from.member;
        let visitors = self.visitors.borrow();
        let visitor = visitors.get(&from);
        let known = Acquaintance {
            is_removed: self.removed.borrow().contains(&from),
            incarnation: self.incarnation_of(from),
            format_level: self.format_level.get(),
        };
        let mut welcome = self.identity().welcome(greeting, known)?;
        let lives = self.lives.borrow();
        if from != MemberId(0) {
            let reads = greeting.from.format_level_max;
            let told = lives.check_told(from, greeting.life, reads);
            let judged = lives.judge(self.config.member, from, greeting.life, greeting.to_life);
            told.and(judged).map_err(|reason| Refusal::new(RefusalCode::OtherLife, reason))?;
        }
        if greeting.stream != 0 && !self.is_wanted(from, greeting.stream) {
            return Err(Refusal::new(RefusalCode::Aborted, "no stream waits for this connection"));
        }
        let is_crowded = if from == MemberId(0) {
            STRANGERS_MAX <= self.strangers.get()
        } else if let Some(visitor) = visitor {
            let is_same = visitor.incarnation == greeting.from.incarnation;
            greeting.lane == Lane::Bulk && is_same && BULKS_MAX <= visitor.bulks.len()
        } else {
            VISITORS_MAX <= visitors.len()
        };
        if is_crowded {
            return Err(Refusal::new(RefusalCode::Busy, "too many connections"));
        }
        welcome.session = self.next_session();
        welcome.life = lives.own;
        welcome.duplex = true;
        if greeting.lane == Lane::Control {
            let peers = self.peers.borrow();
            let others = peers.values().filter(|peer| peer.member != from);
            welcome.moved = moved_to_wire(others.filter_map(|peer| Some((peer.member, peer.moved()?))));
        }
        connection.queue_message(FrameKind::Welcome, &welcome);
        let (theirs, ours) = Seal::pair(greeting.session, welcome.session).unzip();
        connection.set_seal(ours);
        reader.set_seal(theirs);
        Ok(())
    }

    /// Serves an accepted connection to its end.
    async fn host(self: &Rc<Self>, greeting: &Greeting, connection: &Rc<Connection>, reader: FrameReader) {
        let from = greeting.from.member;
        let _registered = self.register(from, connection);
        if from == MemberId(0) {
            let _counted = Counted::one_more(&self.strangers);
            connection.run(self.read_calls(from, Reads::REQUESTS, connection, reader)).await;
            return;
        }
        self.admit(greeting, connection);
        let lane = greeting.lane;
        let end = match lane {
            Lane::Control | Lane::Append => {
                connection.run(self.read_messages(from, lane, connection, reader)).await
            }
            Lane::Call => {
                let peer = self.peer(from).filter(|_| greeting.is_duplex);
                let reads = Reads { answers_to: peer.clone(), requests: true };
                let end = connection.run(self.read_calls(from, reads, connection, reader)).await;
                if let Some(peer) = peer.filter(|peer| peer.link(lane).connection().is_none()) {
                    Self::end_calls(&peer.calls, &end);
                }
                end
            }
            Lane::Bulk if greeting.stream != 0 => self.send_wanted(greeting.stream, connection, reader).await,
            Lane::Bulk => self.take_bulk(from, connection, reader).await,
        };
        let was_current = self.dismiss(from, lane, connection);
        if lane == Lane::Control && was_current && !self.is_stopping() && !matches!(end, End::Local(_)) {
            let is_replaced = matches!(&end, End::Goodbye(why) if why.code == RefusalCode::Replaced);
            if let Some(peer) = self.peer(from)
                && !is_replaced
            {
                self.on_lost(&peer, &end);
            }
        }
        if matches!(end, End::Malformed(_)) {
            self.log_refusal(connection, Some(from), &end.to_string());
        }
    }

    /// Makes the connection the one of its lane, and its incarnation the one of its member.
    fn admit(self: &Rc<Self>, greeting: &Greeting, connection: &Rc<Connection>) {
        let (from, incarnation) = (greeting.from.member, greeting.from.incarnation);
        let replaced = || Refusal::new(RefusalCode::Replaced, "a newer connection took over");
        let mut has_restarted = false;
        {
            let mut visitors = self.visitors.borrow_mut();
            let visitor = visitors.entry(from).or_default();
            if visitor.incarnation != incarnation {
                has_restarted = visitor.connections().next().is_some();
                visitor.leave(&replaced());
                *visitor =
                    Visitor { incarnation, reads: greeting.from.format_level_max, ..Visitor::default() };
            }
            visitor.is_duplex = greeting.is_duplex;
            visitor.heard.set(Some(Instant::now()));
            if greeting.lane == Lane::Bulk {
                visitor.bulks.push(Rc::clone(connection));
            } else if let Some(old) = visitor.lanes.insert(greeting.lane, Rc::clone(connection)) {
                old.leave(replaced());
            }
        }
        if let Some(peer) = self.peer(from) {
            has_restarted |= peer.leave_before(incarnation, &replaced());
        }
        let urls: Vec<Url> = greeting.from.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
        if let Some(peer) = self.peer(from).or_else(|| self.meet(from, &urls)) {
            peer.on_told(urls);
            if has_restarted {
                self.on_lost(&peer, &End::Cut);
            }
            if greeting.lane == Lane::Control {
                peer.on_heard();
            }
            if greeting.is_duplex {
                self.on_way(&peer, greeting.lane);
            }
        }
    }

    /// A member that the list does not know yet, at the addresses it told.
    fn meet(self: &Rc<Self>, member: MemberId, urls: &[Url]) -> Option<Rc<super::link::Peer>> {
        let unlisted = self.peers.borrow().values().filter(|peer| !peer.is_listed.get()).count();
        if urls.is_empty() || UNLISTED_MAX <= unlisted {
            return None;
        }
        Some(self.add_peer(member, urls.to_vec(), false))
    }

    /// Forgets a connection. Whether it was its lane's current one.
    fn dismiss(&self, from: MemberId, lane: Lane, connection: &Rc<Connection>) -> bool {
        let mut visitors = self.visitors.borrow_mut();
        let Some(visitor) = visitors.get_mut(&from) else { return false };
        let was_current = if lane == Lane::Bulk {
            visitor.bulks.retain(|bulk| !Rc::ptr_eq(bulk, connection));
            true
        } else if visitor.lanes.get(&lane).is_some_and(|current| Rc::ptr_eq(current, connection)) {
            visitor.lanes.remove(&lane);
            true
        } else {
            false
        };
        if visitor.connections().next().is_none() {
            visitors.remove(&from);
            drop(visitors);
            self.forget_unlisted(from);
        }
        was_current
    }

    /// Takes raft's messages off a connection.
    pub(super) async fn read_messages(
        &self,
        from: MemberId,
        lane: Lane,
        connection: &Connection,
        mut reader: FrameReader,
    ) -> End {
        reader.set_payload_bytes_max(self.config.message_bytes_max);
        let allowance = Rc::<Allowance>::default();
        loop {
            allowance.room(self.config.inbound_bytes_max).await;
            let frame = match reader.next().await {
                Ok(frame) if frame.kind == FrameKind::RaftMessage => frame,
                Ok(frame) => return End::Malformed(format!("{:?} frame on a raft lane", frame.kind)),
                Err(end) => return end,
            };
            // Another connection has taken over; what this one still brings may be old.
            if !connection.is_open() {
                return End::Cut;
            }
            if let Some(visitor) = self.visitors.borrow().get(&from) {
                visitor.heard.set(Some(Instant::now()));
            }
            let bytes = frame.payload.len();
            let message = match Message::decode(frame.payload) {
                Ok(message) => message,
                Err(error) => return End::Malformed(error.to_string()),
            };
            if let Some(fault) = self.fault_of(from, lane, &message) {
                return End::Malformed(format!("{:?} message {fault}", message.kind()));
            }
            self.events.deliver(lane, PeerEvent::Message(message), bytes, &allowance);
        }
    }

    fn fault_of(&self, from: MemberId, lane: Lane, message: &Message) -> Option<String> {
        let kind = message.kind();
        if message.to() != self.config.member {
            return Some(format!("is for member {}", message.to()));
        }
        // These are passed on with the name of who sent them first.
        let is_passed_on = matches!(kind, MessageKind::ReadIndex | MessageKind::TransferLeader);
        if message.from() != from && !is_passed_on {
            return Some(format!("is from member {}", message.from()));
        }
        (lane_of(kind) != lane).then(|| format!("is on the lane {lane:?}"))
    }
}
