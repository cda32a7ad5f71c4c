//! One connection: which protocol it speaks, its turns, its end.
//!
//! A turn is one poll of the connection's task: send what waited, submit what waited, read and take
//! requests until the socket is dry, hold the frames against the policy, and hand everything that was
//! written to the socket in one system call.
//!
//! No wait for a client has a timer of its own: an honest one may be paused for hours. Bounds are on
//! memory (`account`, `place`, `outbox`, `silence`), and when it is short whoever makes no progress for
//! longest goes first. A client that is dead rather than slow is found by the keepalive ping, as etcd finds
//! it; our own last words have a timer. The turn says when one of these is due (`Account::due_ms`) and
//! the shard's tick gives it a turn then.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future;
use futures_lite::io::AsyncReadExt as _;
use h2::server::Connection;
use h2::{Ping, PingPong, Reason};

use super::Backend;
use super::ClientShard;
use super::call::account::Account;
use super::call::body::Body;
use super::grpc::frame_meter::{self, Abuse, FrameMeter};
use super::grpc::greeting::{SETTINGS_ACK, Said};
use super::grpc::h2_io::{Io, IoHandle};
use super::grpc::limits;
use super::http1;
use super::silence::Silence;
use super::speaks::{Endpoint, Speaks};
use crate::config::Encryption;
use crate::rpc::headers::{Fault, Gate, Spared};
use crate::shell::net::Stream;
use crate::shell::net::tls::{HandshakeError, is_tls};
use crate::types::first_bytes::{FirstBytes, HTTP2_PREFACE};

/// How long a connection that ends is listened to, so that the kernel does not throw our last words
/// away together with bytes of the client that nobody read.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How often something is looked at that is overdue.
const OVERDUE_STEP_MS: u64 = 1_000;

/// Bytes that are read meanwhile.
const LINGER_BYTES_MAX: usize = 1 << 20;

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The client left, or everything was said after a graceful stop.
    Finished,
    /// `h2` found a violation and said so in its GOAWAY.
    Protocol,
    /// The client broke the policy.
    Abuse(Abuse),
    /// Its header blocks cannot be followed any more, or are no end of bytes.
    Headers(Fault),
    /// The client does not answer a ping.
    Stalled,
    /// The shard needed its memory.
    Evicted,
    /// The time for a graceful stop is over.
    Stopped,
}

/// What the first bytes told.
enum Protocol {
    Http2,
    Http1,
    /// Something that is not served here.
    Other(FirstBytes),
    /// The client left, or never said anything.
    None,
}

/// Serves a connection to its end.
pub(super) async fn run<B: Backend>(
    shard: Rc<ClientShard<B>>,
    account: Rc<Account>,
    endpoint: Endpoint,
    stream: Stream,
) {
    let silence = shard.silent.begin(account.id);
    let Some((stream, seen)) = meet(&shard, &account, &silence, endpoint, stream).await else { return };
    let speaks = endpoint.speaks;
    let is_secured = stream.is_secured();
    account.web.set(Some(speaks).filter(|speaks| is_secured && *speaks != Speaks::Grpc));
    if let Some(user) = stream.user() {
        account.set_user(user);
    }
    let now_ms = shard.now_ms();
    let meter = FrameMeter::new(shard.config.keepalive_min_ms(), now_ms);
    let bytes_max = shard.config.header_bytes_max();
    let spared = if account.web.get().is_some() { Spared::Unread } else { Spared::UnreadAndAuthority };
    let gate = Gate::new(bytes_max).sparing(spared);
    let io = Io::new(stream, Rc::clone(&shard.buffers), meter, gate, now_ms);
    let io = Rc::new(RefCell::new(io));
    account.progress_ms.set(now_ms);
    // No timer: see `silence`.
    account.due_ms.set(u64::MAX);
    match read_protocol(&shard, &account, &silence, &io, seen).await {
        // Without TLS nobody who asks for pages says HTTP/2 unasked.
        Protocol::Http2 if is_secured || matches!(speaks, Speaks::All | Speaks::Grpc) => {
            drop(silence);
            let ending = match greet(&shard, &account, &io).await {
                // In a box, which is made when it is needed.
                true => Box::pin(serve_h2(&shard, &account, &io)).await,
                false => Ending::Finished,
            };
            account.end();
            shard.forget_calls(&account);
            shard.counters.count(|counters| counters.count_ending(ending));
            tracing::debug!(connection = account.id, ?ending, "connection ended");
            say_farewell(&io, ending);
        }
        Protocol::Http1 => {
            drop(silence);
            let ending = Box::pin(http1::serve(&shard, &account, &io, speaks)).await;
            account.end();
            shard.forget_calls(&account);
            shard.counters.count(|counters| counters.count_ending(ending));
            tracing::debug!(connection = account.id, ?ending, "HTTP/1 connection ended");
        }
        protocol @ (Protocol::Http2 | Protocol::Other(_)) => {
            drop(silence);
            let Protocol::Other(spoken) = protocol else {
                // Its preface is no request of HTTP/1.
                return;
            };
            shard.counters.count(|counters| counters.strangers += 1);
            // Without addresses the connection is gone already.
            if let Some((remote, local)) = io.borrow().addresses() {
                shard.config.reception.tell_stranger(spoken, remote, &local);
            }
        }
        Protocol::None => return,
    }
    linger(&shard, &account, &io).await;
}

/// Does what comes before the first byte of a protocol: the handshake, at an address with TLS. Also what was read
/// and is the protocol's. None: the connection is over.
async fn meet<B: Backend>(
    shard: &Rc<ClientShard<B>>,
    account: &Account,
    silence: &Silence,
    endpoint: Endpoint,
    mut stream: Stream,
) -> Option<(Stream, Vec<u8>)> {
    let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
    if endpoint.encryption == Encryption::None {
        return Some((stream, seen));
    }
    // An encrypted address without a certificate does not pass the configuration.
    let tls = shard.config.tls.as_ref()?;
    let (remote, local) = (stream.remote().ok(), stream.local().ok());
    let met = async {
        if endpoint.encryption == Encryption::Either {
            let mut first = [0];
            if stream.read(&mut first).await? == 0 {
                return Err(HandshakeError::Silent);
            }
            seen.push(first[0]);
            if !is_tls(first[0]) {
                return Ok(stream);
            }
        }
        // As in etcd, where only the addresses of metrics and of members hold a certificate against the client's.
        let checking = (endpoint.speaks == Speaks::Metrics).then(|| tls.checking_address());
        // In a box: a handshake is large, and most connections have none.
        Box::pin(checking.as_ref().unwrap_or(tls).accept(stream, std::mem::take(&mut seen))).await
    };
    let given_up = poll_fn(|cx| {
        account.set_waker(cx.waker());
        if silence.poll_dropped(cx).is_ready() || shard.is_stopping() {
            return Poll::Ready(Err(HandshakeError::Cut));
        }
        Poll::Pending
    });
    // The shard's end is heard at the next tick that wakes the account, at the latest.
    let met = future::or(met, given_up).await;
    match met {
        Ok(stream) => Some((stream, seen)),
        Err(error) => {
            shard.counters.count(|counters| counters.strangers += 1);
            shard.config.reception.tell_handshake(&error, remote, local.as_ref());
            None
        }
    }
}

/// Reads the first bytes until they tell the protocol.
async fn read_protocol<B: Backend>(
    shard: &ClientShard<B>,
    account: &Account,
    silence: &Silence,
    io: &RefCell<Io>,
    mut seen: Vec<u8>,
) -> Protocol {
    loop {
        let mut piece = [0; HTTP2_PREFACE.len()];
        let room = HTTP2_PREFACE.len() - seen.len();
        let read = read_some(shard, account, silence, io, &mut piece[..room]).await;
        let Ok(n @ 1..) = read else { return Protocol::None };
        seen.extend_from_slice(&piece[..n]);
        let protocol = match FirstBytes::judge(&seen) {
            Some(FirstBytes::Http2) => Protocol::Http2,
            Some(FirstBytes::Http1) => Protocol::Http1,
            Some(other) => return Protocol::Other(other),
            None => continue,
        };
        io.borrow_mut().push_back(seen);
        return protocol;
    }
}

/// Reads once, however long it takes, unless the connection's place is needed or the shard stops.
async fn read_some<B: Backend>(
    shard: &ClientShard<B>,
    account: &Account,
    silence: &Silence,
    io: &RefCell<Io>,
    into: &mut [u8],
) -> io::Result<usize> {
    poll_fn(|cx| {
        account.set_waker(cx.waker());
        let mut io = io.borrow_mut();
        io.now_ms = shard.now_ms();
        if silence.poll_dropped(cx).is_ready() || shard.is_stopping() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        io.poll_raw_read(cx, into)
    })
    .await
}

/// Greets a client and waits until it says what `h2` is needed for, or until something is to be said to it. False:
/// it has left.
async fn greet<B: Backend>(shard: &ClientShard<B>, account: &Account, io: &RefCell<Io>) -> bool {
    let mut said = Said::default();
    io.borrow_mut().append(shard.greeting.bytes());
    let stays = poll_fn(|cx| {
        account.set_waker(cx.waker());
        let (now_ms, mut io) = (shard.now_ms(), io.borrow_mut());
        io.start_turn(now_ms);
        let ping_ms = io.last_read_ms.saturating_add(shard.config.keepalive_interval_ms());
        account.due_ms.set(ping_ms);
        if shard.is_stopping() || account.is_evicted.get() || ping_ms <= now_ms {
            return Poll::Ready(true);
        }
        loop {
            if let Poll::Ready(Err(_)) = io.poll_drain(cx) {
                return Poll::Ready(false);
            }
            let mut piece = [0; 256];
            let Ok(n @ 1..) = ready!(io.poll_raw_read(cx, &mut piece)) else { return Poll::Ready(false) };
            io.meter.on_received(now_ms, &piece[..n]);
            let (settings, needs_h2) = said.hear(&piece[..n]);
            (0..settings).for_each(|_| io.append(&SETTINGS_ACK));
            if needs_h2 {
                return Poll::Ready(true);
            }
        }
    });
    let stays = stays.await;
    io.borrow_mut().replay(said.replay(&shard.greeting));
    stays
}

async fn serve_h2<B: Backend>(
    shard: &Rc<ClientShard<B>>,
    account: &Rc<Account>,
    io: &Rc<RefCell<Io>>,
) -> Ending {
    let builder = limits::server_builder(shard.config.concurrent_streams_max);
    // The preface is there already and our settings go into the gather buffer: this does not wait.
    let handshake = builder.handshake::<_, Body>(IoHandle(Rc::clone(io)));
    let Ok(mut h2) = handshake.await else { return Ending::Protocol };
    let ping = h2.ping_pong().expect("it is asked for once");
    let mut turns =
        Turns { shard, account, io, h2, ping, ping_sent_ms: None, is_stopping: false, has_untaken: false };
    poll_fn(|cx| turns.poll(cx)).await
}

/// The turns of an HTTP/2 connection.
struct Turns<'a, B: Backend> {
    shard: &'a Rc<ClientShard<B>>,
    account: &'a Rc<Account>,
    io: &'a Rc<RefCell<Io>>,
    h2: Connection<IoHandle, Body>,
    ping: PingPong,
    /// A keepalive ping of ours is on its way.
    ping_sent_ms: Option<u64>,
    is_stopping: bool,
    /// Requests may wait in `h2` that were not taken, because there was enough to do.
    has_untaken: bool,
}

impl<B: Backend> Turns<'_, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let now_ms = self.shard.now_ms();
        self.account.set_waker(cx.waker());
        self.io.borrow_mut().start_turn(now_ms);
        if let Err(ending) = self.look_after(now_ms) {
            return Poll::Ready(ending);
        }
        if self.io.borrow().is_write_blocked() && self.drain(cx).is_err() {
            return Poll::Ready(Ending::Finished);
        }
        let was_blocked = self.io.borrow().is_write_blocked();
        self.shard.backend.hold();
        self.shard.submit_deferred(self.account);
        let ended = {
            let shard = self.shard;
            let _turn = shard.begin_turn();
            self.exchange(cx, was_blocked)
        };
        // Before the answers are written: others work meanwhile.
        self.shard.backend.release();
        let has_streams = || self.h2.has_streams();
        let clock = || self.shard.clock.elapsed_ms();
        if let Err(abuse) = self.io.borrow_mut().meter.check(clock, has_streams) {
            return Poll::Ready(Ending::Abuse(abuse));
        }
        if let Some(fault) = self.io.borrow().gate.fault() {
            return Poll::Ready(Ending::Headers(fault));
        }
        if let Poll::Ready(ending) = ended {
            return Poll::Ready(ending);
        }
        if self.drain(cx).is_err() {
            return Poll::Ready(Ending::Finished);
        }
        if self.is_dead(cx, now_ms) {
            return Poll::Ready(Ending::Stalled);
        }
        if was_blocked && !self.io.borrow().is_write_blocked() {
            // Reading was left out for want of room to write; there is room now.
            cx.waker().wake_by_ref();
        }
        let has_more = self.io.borrow().is_turn_over();
        self.shard.end_turn(self.account, has_more);
        // Bodies have left in this turn, maybe those of watch streams that were full.
        self.shard.settle_rooms();
        self.set_due(now_ms);
        Poll::Pending
    }

    /// Lets `h2` read and write, and takes the requests it found.
    ///
    /// What was found earlier is taken before more is read. So `h2` never has more requests than one
    /// turn brings, and a client that gives up its calls while they wait there is not taken for one that
    /// floods it.
    fn exchange(&mut self, cx: &mut Context<'_>, was_blocked: bool) -> Poll<Ending> {
        loop {
            let is_full = self.shard.is_blocked() || self.account.is_full();
            self.account.is_paused.set(is_full);
            self.io.borrow_mut().paused = is_full || was_blocked || self.has_untaken;
            if is_full {
                self.has_untaken = true;
                if self.shard.is_blocked() {
                    self.shard.wait_until_ready(self.account);
                }
                return self.h2.poll_closed(cx).map(|end| ending(&end));
            }
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, responder)))) => {
                    let aside = self.io.borrow_mut().gate.take_aside(responder.stream_id().as_u32());
                    self.shard.on_request(self.account, cx, request, aside, responder);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(ending(&Err(error))),
                Poll::Ready(None) => return Poll::Ready(Ending::Finished),
                Poll::Pending if self.has_untaken => self.has_untaken = false,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ends what has to end, and starts what is due.
    fn look_after(&mut self, now_ms: u64) -> Result<(), Ending> {
        if self.account.is_evicted.get() {
            return Err(if self.shard.is_stopping() { Ending::Stopped } else { Ending::Evicted });
        }
        if self.shard.is_stopping() && !self.is_stopping {
            self.is_stopping = true;
            self.h2.graceful_shutdown();
        }
        if self.ping_sent_ms.is_none()
            && self.io.borrow().last_read_ms + self.shard.config.keepalive_interval_ms() <= now_ms
            && self.ping.send_ping(Ping::opaque()).is_ok()
        {
            self.ping_sent_ms = Some(now_ms);
        }
        Ok(())
    }

    /// Whether the client has not answered a ping in time. Judged when everything has been read: the
    /// answer may have come while this process stood still.
    fn is_dead(&mut self, cx: &mut Context<'_>, now_ms: u64) -> bool {
        let Some(sent_ms) = self.ping_sent_ms else { return false };
        if self.ping.poll_pong(cx).is_ready() {
            self.ping_sent_ms = None;
            return false;
        }
        let io = self.io.borrow();
        // Whoever takes no bytes is not read either, so it is judged by what it takes.
        let moved_ms = if io.is_write_blocked() { io.last_write_ms } else { io.last_read_ms };
        let is_read = io.is_write_blocked() || !io.paused;
        is_read && sent_ms.max(moved_ms) + self.shard.config.keepalive_timeout_ms() <= now_ms
    }

    /// Says when the next turn is due if nothing happens.
    fn set_due(&self, now_ms: u64) {
        let config = &self.shard.config;
        let mut io = self.io.borrow_mut();
        self.account.progress_ms.set(io.last_write_ms);
        self.account.note_gathered(io.blocked_bytes());
        if !self.account.note_headers(io.header_bytes()) {
            io.gate.refuse_held();
        }
        let due_ms = match self.ping_sent_ms {
            Some(sent_ms) => sent_ms.max(io.last_read_ms) + config.keepalive_timeout_ms(),
            None => io.last_read_ms + config.keepalive_interval_ms(),
        };
        // What is overdue now is looked at again soon, not at every tick.
        self.account.due_ms.set(due_ms.max(now_ms + OVERDUE_STEP_MS));
    }

    fn drain(&self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.io.borrow_mut().poll_drain(cx) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }
}

fn ending(end: &Result<(), h2::Error>) -> Ending {
    match end {
        Ok(()) => Ending::Finished,
        Err(error) if error.is_io() || error.is_remote() => Ending::Finished,
        Err(_) => Ending::Protocol,
    }
}

/// Puts the GOAWAY of our own policy behind what was sent, where a frame may be put.
fn say_farewell(io: &RefCell<Io>, ending: Ending) {
    let (reason, debug) = match ending {
        Ending::Finished | Ending::Protocol => return,
        Ending::Abuse(Abuse::TooManyPings) => (Reason::ENHANCE_YOUR_CALM, &b"too_many_pings"[..]),
        Ending::Abuse(Abuse::ControlFlood) => (Reason::ENHANCE_YOUR_CALM, &b"too_many_control_frames"[..]),
        Ending::Headers(Fault::Compression) => (Reason::COMPRESSION_ERROR, &b"header block breaks HPACK"[..]),
        Ending::Headers(Fault::Flood) => (Reason::ENHANCE_YOUR_CALM, &b"too_many_headers"[..]),
        Ending::Stalled => (Reason::NO_ERROR, &b"stalled"[..]),
        Ending::Evicted => (Reason::ENHANCE_YOUR_CALM, &b"too_many_unread_responses"[..]),
        Ending::Stopped => (Reason::NO_ERROR, &b"server stopped"[..]),
    };
    let mut io = io.borrow_mut();
    if io.meter.may_insert() {
        let frame = frame_meter::go_away(io.meter.last_stream(), reason.into(), debug);
        io.append(&frame);
    }
}

/// Sends the last bytes, ends our direction and reads on for a moment.
async fn linger<B: Backend>(shard: &ClientShard<B>, account: &Account, io: &RefCell<Io>) {
    let deadline_ms = shard.now_ms() + super::millis(LINGER);
    account.due_ms.set(deadline_ms);
    let mut read = 0;
    poll_fn(|cx| {
        account.set_waker(cx.waker());
        if deadline_ms <= shard.now_ms() {
            return Poll::Ready(());
        }
        let mut io = io.borrow_mut();
        if ready!(io.poll_close(cx)).is_err() {
            return Poll::Ready(());
        }
        let mut piece = [0; 4096];
        while read < LINGER_BYTES_MAX {
            match ready!(io.poll_raw_read(cx, &mut piece)) {
                Ok(n @ 1..) => read += n,
                _ => break,
            }
        }
        Poll::Ready(())
    })
    .await;
}
