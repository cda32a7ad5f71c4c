//! The network between members: every peer connection goes through a proxy of ours, which does to each
//! direction of each pair what the test says.
//!
//! A member advertises its proxy's port and listens on another. Who dials is not told by an address on
//! loopback, so the proxy reads it from the first bytes: the Hello of Pinion, or etcd's `X-Server-From`.
//!
//! What a proxy over TCP can do: hold bytes back (what a cut cable does to a connection that lives on:
//! they arrive late or never), delay, slow down, and break connections in the midst of a message, which
//! loses what was on its way. TCP never repeats or reorders; a faulty middlebox that knows our frames
//! might, so between members of Pinion frames are told apart, and a link can send one twice, late, or
//! before its predecessor (`Link::Repeat`). Whole connections are recorded from their first byte and can be
//! dialed again later, word by word (`Network::replay`). What it cannot: a dial through a cut link
//! connects, to hear nothing, where a real one would wait for its first packet.
//!
//! It runs on a thread of its own, so that the load does not slow it.

#![expect(clippy::disallowed_types, reason = "the network's thread and the test share what was recorded")]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pinion::peer::{FRAME_HEADER_BYTES, FrameDecoder, FrameKind, Greeting, HANDSHAKE_BYTES_MAX, PREFACE};
use pinion_kit::{Cluster, free_port};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// What happens to bytes from one member to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    Pass,
    /// They wait until the link is another.
    Cut,
    /// Connections are reset, and new ones at once.
    Reset,
    /// Each piece arrives so much later, in order.
    Delay {
        least: Duration,
        most: Duration,
    },
    /// At most so many bytes a second.
    Slow {
        bytes_per_second: u32,
    },
    /// Each piece that passes breaks the connection with this probability.
    Flaky {
        probability: f64,
    },
    /// Each frame comes again with this probability, at once or later, or after the one behind it.
    Repeat {
        probability: f64,
    },
}

/// What the proxies go by.
#[derive(Debug, Clone, Default)]
struct Rules {
    /// Member ids, which the members make themselves.
    members: BTreeMap<u64, usize>,
    links: BTreeMap<(usize, usize), Link>,
}

impl Rules {
    fn link(&self, from: Side, to: Side) -> Link {
        let index = |side| match side {
            Side::Dialer(id) => self.members.get(&id).copied(),
            Side::Target(index) => Some(index),
        };
        let pair = index(from).zip(index(to));
        pair.and_then(|pair| self.links.get(&pair).copied()).unwrap_or(Link::Pass)
    }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
enum Side {
    /// By the id it tells; 0: it told none.
    Dialer(u64),
    Target(usize),
}

/// A new cluster whose members reach each other through proxies.
pub async fn cluster(count: usize, flags: &[&str]) -> (Cluster, Network) {
    let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
    let network = Network::start(&ports);
    let cluster = Cluster::start_with(count, flags, |member, launch| {
        (launch.advertised_peer_port, launch.peer_port) = (Some(ports[member].0), ports[member].1);
    });
    let cluster = cluster.await;
    network.name_members(&cluster.ids);
    (cluster, network)
}

/// The proxies of a cluster.
pub struct Network {
    rules: watch::Sender<Rules>,
    recordings: Recordings,
    runtime: tokio::runtime::Handle,
    /// The thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl Network {
    /// For each pair a proxy that listens on the first port and dials the second, on loopback.
    pub fn start(ports: &[(u16, u16)]) -> Self {
        let (rules, seen) = watch::channel(Rules::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let ports = ports.to_vec();
        let recordings = Recordings::default();
        let recorded = recordings.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (target, (from, to)) in ports.into_iter().enumerate() {
                    let listener = TcpListener::bind(("127.0.0.1", from)).await.unwrap();
                    tokio::spawn(accept(listener, target, to, seen.clone(), recorded.clone()));
                }
                ready.send(tokio::runtime::Handle::current()).unwrap();
                // An error says that the sender is gone: the end as well.
                drop(stopped.await);
            });
        };
        std::thread::Builder::new().name("network".to_owned()).spawn(run).unwrap();
        let runtime = is_ready.recv().unwrap();
        Self { rules, recordings, runtime, _stop: stop }
    }

    /// Which member has which id.
    pub fn name_members(&self, ids: &[u64]) {
        let members = ids.iter().enumerate().map(|(index, id)| (*id, index)).collect();
        self.rules.send_modify(|rules| rules.members = members);
    }

    /// What happens from now on to bytes from one member to another.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.rules.send_modify(|rules| {
            rules.links.insert((from, to), link);
        });
    }

    /// The same, for both directions between a member and every other of `count`.
    pub fn set_around(&self, member: usize, count: usize, link: Link) {
        for other in (0..count).filter(|other| *other != member) {
            self.set(member, other, link);
            self.set(other, member, link);
        }
    }

    /// Dials again what was dialed before, and says again all that was said there. How many connections.
    pub fn replay(&self) -> usize {
        let recordings = lock(&self.recordings).clone();
        let whole = recordings.iter().filter(|recording| !lock(&recording.bytes).is_empty());
        whole
            .map(|recording| {
                let (bytes, port) = (lock(&recording.bytes).clone(), recording.port);
                self.runtime.spawn(async move {
                    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    // Whatever comes back: who repeats does not listen.
                    let (mut reads, mut writes) = stream.split();
                    let say = async {
                        writes.write_all(&bytes).await.ok();
                        tokio::time::sleep(REPLAY_LINGER).await;
                    };
                    let mut sink = tokio::io::sink();
                    tokio::select! {
                        () = say => {}
                        _ = tokio::io::copy(&mut reads, &mut sink) => {}
                    }
                });
            })
            .count()
    }

    /// All links as they should be.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| rules.links.clear());
    }
}

/// What dialers have said, from the first byte on.
type Recordings = Arc<Mutex<VecDeque<Recording>>>;

#[derive(Clone)]
struct Recording {
    port: u16,
    /// Emptied when it grows too large: half a connection is no use.
    bytes: Arc<Mutex<Vec<u8>>>,
}

/// Recordings that are kept, the newest.
const RECORDINGS: usize = 24;

const RECORDING_BYTES_MAX: usize = 4 << 20;

/// How long a repeated connection stays when all is said.
const REPLAY_LINGER: Duration = Duration::from_millis(200);

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("its other holders do not panic")
}

async fn accept(
    listener: TcpListener,
    target: usize,
    port: u16,
    rules: watch::Receiver<Rules>,
    recordings: Recordings,
) {
    let mut seed = u64::from(port) << 32;
    while let Ok((stream, _)) = listener.accept().await {
        seed += 2;
        tokio::spawn(carry(stream, target, port, rules.clone(), recordings.clone(), seed));
    }
}

/// How a direction of a connection broke.
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Carries one connection to its end. A broken one is reset on both sides, as the death of a process
/// or a reset would look without a proxy.
async fn carry(
    mut dialer: TcpStream,
    target: usize,
    port: u16,
    rules: watch::Receiver<Rules>,
    recordings: Recordings,
    seed: u64,
) {
    let Ok((id, first)) = greeting(&mut dialer).await else { return reset(&dialer) };
    let recorded = Arc::new(Mutex::new(Vec::new()));
    {
        let mut recordings = lock(&recordings);
        recordings.push_back(Recording { port, bytes: Arc::clone(&recorded) });
        if RECORDINGS < recordings.len() {
            recordings.pop_front();
        }
    }
    let (near, far) = (Side::Dialer(id), Side::Target(target));
    let Ok(mut acceptor) = TcpStream::connect(("127.0.0.1", port)).await else { return reset(&dialer) };
    let is_set = dialer.set_nodelay(true).and_then(|()| acceptor.set_nodelay(true));
    let (dialer_reads, dialer_writes) = dialer.split();
    let (acceptor_reads, acceptor_writes) = acceptor.split();
    let there =
        direction(first, dialer_reads, acceptor_writes, (near, far), rules.clone(), seed, Some(recorded));
    let back = direction(Vec::new(), acceptor_reads, dialer_writes, (far, near), rules, seed + 1, None);
    let carried = tokio::try_join!(there, back);
    if carried.is_err() || is_set.is_err() {
        reset(&dialer);
        reset(&acceptor);
    }
}

/// The socket's close will be a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().ok();
}

/// Reads until the dialer's id is known, or that it tells none.
async fn greeting(stream: &mut TcpStream) -> io::Result<(u64, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await?;
        bytes.extend_from_slice(&piece[..count]);
        if let Some(id) = dialer_id(&bytes) {
            return Ok((id, bytes));
        }
        if count == 0 || HANDSHAKE_BYTES_MAX < bytes.len() {
            return Ok((0, bytes));
        }
    }
}

fn dialer_id(bytes: &[u8]) -> Option<u64> {
    if bytes.starts_with(b"GET ") || bytes.starts_with(b"POST ") {
        let text = String::from_utf8_lossy(bytes);
        let head = text.split_once("\r\n\r\n")?.0;
        let line = head.lines().find_map(|line| line.strip_prefix("X-Server-From: "));
        return Some(line.and_then(|id| u64::from_str_radix(id.trim(), 16).ok()).unwrap_or(0));
    }
    let mut decoder = FrameDecoder::new(HANDSHAKE_BYTES_MAX);
    decoder.push(bytes);
    match decoder.take() {
        Ok(None) => None,
        Ok(Some(frame)) if frame.kind == FrameKind::Hello => {
            Some(Greeting::read(frame.payload).map_or(0, |greeting| greeting.from.member.0))
        }
        _ => Some(0),
    }
}

/// Tells the frames of a direction apart, and repeats some.
#[derive(Default)]
struct Frames {
    has_preface: bool,
    /// These are no frames of ours.
    is_strange: bool,
    /// The frame that is not complete, of which so much has been passed on.
    partial: Vec<u8>,
    passed: usize,
    /// Comes behind the next frame.
    overtaken: Option<Vec<u8>>,
    /// Come again after so many frames.
    late: Vec<(u32, Vec<u8>)>,
}

impl Frames {
    /// What is passed on now that these bytes have come.
    fn pass(&mut self, bytes: &[u8], probability: f64, rng: &mut StdRng) -> Vec<u8> {
        if self.is_strange {
            return bytes.to_vec();
        }
        self.partial.extend_from_slice(bytes);
        let mut passed = Vec::new();
        while let Some(length) = self.complete() {
            let rest = self.partial.split_off(length);
            let frame = std::mem::replace(&mut self.partial, rest);
            let begun = std::mem::take(&mut self.passed);
            // A preface, or what has been passed on in part, goes on as it is.
            if begun == 0 && length != PREFACE.len() && rng.random_bool(probability) {
                match rng.random_range(0..3) {
                    0 => passed.extend_from_slice(&frame),
                    1 => self.late.push((rng.random_range(1..20), frame.clone())),
                    _ => {
                        self.overtaken.replace(frame).into_iter().for_each(|held| passed.extend(held));
                        continue;
                    }
                }
            }
            passed.extend_from_slice(&frame[begun..]);
            self.overtaken.take().into_iter().for_each(|held| passed.extend(held));
            for (left, frame) in &mut self.late {
                *left -= 1;
                if *left == 0 {
                    passed.extend_from_slice(frame);
                }
            }
            self.late.retain(|(left, _)| 0 < *left);
        }
        // Whole frames only, where they are repeated. The end of the stream loses nothing else.
        if probability == 0.0 || self.is_strange || self.passed != 0 || bytes.is_empty() {
            if self.passed == 0 {
                self.overtaken.take().into_iter().for_each(|held| passed.extend(held));
            }
            passed.extend_from_slice(&self.partial[self.passed..]);
            self.passed = self.partial.len();
        }
        passed
    }

    /// The length of the next preface or frame, if all of it is there.
    fn complete(&mut self) -> Option<usize> {
        let length = if self.has_preface {
            let length = self.partial.first_chunk::<4>()?;
            FRAME_HEADER_BYTES + usize::try_from(u32::from_le_bytes(*length)).ok()?
        } else {
            let known = self.partial.len().min(PREFACE.len());
            self.is_strange = self.partial[..known] != PREFACE[..known];
            PREFACE.len()
        };
        if self.is_strange || self.partial.len() < length {
            return None;
        }
        self.has_preface = true;
        Some(length)
    }
}

/// A piece on its way, and when it may arrive; empty: nothing follows.
struct Piece {
    bytes: Vec<u8>,
    due: Instant,
}

/// Carries one direction until its sender ends it.
async fn direction(
    first: Vec<u8>,
    mut reads: ReadHalf<'_>,
    mut writes: WriteHalf<'_>,
    (from, to): (Side, Side),
    rules: watch::Receiver<Rules>,
    seed: u64,
    recorded: Option<Arc<Mutex<Vec<u8>>>>,
) -> Result<(), Broken> {
    // What is on the cable; when it is full the sender's window fills.
    let (cable, mut arrivals) = mpsc::channel::<Piece>(256);
    let mut reading = rules.clone();
    let read = async move {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut due = Instant::now();
        let mut frames = Frames::default();
        let mut is_recorded = true;
        let mut bytes = first;
        loop {
            if bytes.is_empty() {
                bytes = vec![0; 16 * 1024];
                let count = tokio::select! {
                    count = reads.read(&mut bytes) => count?,
                    // A reset takes no byte to be noticed.
                    reset = until_reset(&mut reading, from, to) => return reset,
                };
                bytes.truncate(count);
            }
            let is_end = bytes.is_empty();
            if let Some(recorded) = recorded.as_ref().filter(|_| is_recorded) {
                let mut recorded = lock(recorded);
                recorded.extend_from_slice(&bytes);
                if RECORDING_BYTES_MAX < recorded.len() {
                    *recorded = Vec::new();
                    is_recorded = false;
                }
            }
            let now = Instant::now();
            let link = reading.borrow_and_update().link(from, to);
            due = due.max(match link {
                Link::Delay { least, most } => now + rng.random_range(least..=most),
                Link::Slow { bytes_per_second } => {
                    due.max(now) + Duration::from_secs_f64(bytes.len() as f64 / f64::from(bytes_per_second))
                }
                Link::Flaky { probability } if rng.random_bool(probability) => return Err(Broken),
                _ => now,
            });
            let repeat = if let Link::Repeat { probability } = link { probability } else { 0.0 };
            let passed = frames.pass(&std::mem::take(&mut bytes), repeat, &mut rng);
            let is_sent =
                passed.is_empty() && !is_end || cable.send(Piece { bytes: passed, due }).await.is_ok();
            if !is_sent || is_end {
                return Ok(());
            }
        }
    };
    let mut writing = rules;
    let write = async move {
        while let Some(piece) = arrivals.recv().await {
            tokio::time::sleep_until(piece.due).await;
            loop {
                match writing.borrow_and_update().link(from, to) {
                    Link::Reset => return Err(Broken),
                    Link::Cut => {}
                    _ => break,
                }
                if writing.changed().await.is_err() {
                    return Err(Broken);
                }
            }
            if piece.bytes.is_empty() {
                writes.shutdown().await?;
                return Ok(());
            }
            writes.write_all(&piece.bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

async fn until_reset(rules: &mut watch::Receiver<Rules>, from: Side, to: Side) -> Result<(), Broken> {
    loop {
        if rules.borrow_and_update().link(from, to) == Link::Reset {
            return Err(Broken);
        }
        if rules.changed().await.is_err() {
            return Err(Broken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_pass_whole_and_in_order_unless_they_are_repeated() {
        let mut stream = PREFACE.to_vec();
        for number in 0..200_u8 {
            let mut frame = bytes::BytesMut::new();
            let payload = vec![number; usize::from(number) * 7];
            pinion::peer::frame::put_frame(&mut frame, FrameKind::RaftMessage, |buffer| {
                buffer.extend_from_slice(&payload);
            });
            stream.extend_from_slice(&frame);
        }
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut frames, mut out, mut plain) = (Frames::default(), Vec::new(), Frames::default());
            let mut same = Vec::new();
            for bytes in stream.chunks(300) {
                let probability = if rng.random() { 0.3 } else { 0.0 };
                out.extend(frames.pass(bytes, probability, &mut rng));
                same.extend(plain.pass(bytes, 0.0, &mut rng));
            }
            out.extend(frames.pass(&[], 0.0, &mut rng));
            assert!(same == stream);
            let mut decoder = FrameDecoder::new(1 << 20);
            decoder.push(&out);
            let mut seen = Vec::new();
            while let Some(frame) = decoder.take().expect("whole frames") {
                seen.push(frame.payload.first().copied().unwrap_or(0));
            }
            let mut each = seen.clone();
            each.sort_unstable();
            each.dedup();
            assert_eq!(each.len(), 200, "none is lost");
            assert!(200 < seen.len() && !seen.is_sorted(), "some are repeated and overtaken");
        }
    }

    #[test]
    fn dialers_are_known_by_their_first_bytes() {
        let http =
            b"GET /raft/stream/msgapp/1 HTTP/1.1\r\nHost: x\r\nX-Server-From: 8e9e05c52164694d\r\n\r\n";
        assert_eq!(dialer_id(http), Some(0x8e9e_05c5_2164_694d));
        assert_eq!(dialer_id(&http[..30]), None);
        assert_eq!(dialer_id(b"GET /version HTTP/1.1\r\n\r\n"), Some(0));
        assert_eq!(dialer_id(b"PINION\n\x01"), None);
        assert_eq!(dialer_id(b"garbage that is no peer"), Some(0));
    }
}
