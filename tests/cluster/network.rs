//! The network between members: every peer connection goes through a proxy of ours, which does to each
//! direction of each pair what the test says.
//!
//! A member advertises its proxy's port and listens on another. Who dials is not told by an address on
//! loopback, so the proxy reads it from the first bytes: the Hello of Pinion, or etcd's `X-Server-From`.
//!
//! What a proxy over TCP can do: hold bytes back (what a cut cable does to a connection that lives on:
//! they arrive late or never), delay, slow down, and break connections in the midst of a message, which
//! loses what was on its way. What it cannot: repeat or reorder bytes within a connection, since TCP
//! never does; and a dial through a cut link connects, to hear nothing, where a real one would wait for
//! its first packet. Messages repeated and out of order are the simulation's business
//! (`src/raft/`, `src/replica/`).
//!
//! It runs on a thread of its own, so that the load does not slow it.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use pinion::peer::{FrameDecoder, FrameKind, Greeting, HANDSHAKE_BYTES_MAX};
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

/// The proxies of a cluster.
pub struct Network {
    rules: watch::Sender<Rules>,
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
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for (target, (from, to)) in ports.into_iter().enumerate() {
                    let listener = TcpListener::bind(("127.0.0.1", from)).await.unwrap();
                    tokio::spawn(accept(listener, target, to, seen.clone()));
                }
                ready.send(()).unwrap();
                // An error says that the sender is gone: the end as well.
                drop(stopped.await);
            });
        };
        std::thread::Builder::new().name("network".to_owned()).spawn(run).unwrap();
        is_ready.recv().unwrap();
        Self { rules, _stop: stop }
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

    /// All links as they should be.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| rules.links.clear());
    }
}

async fn accept(listener: TcpListener, target: usize, port: u16, rules: watch::Receiver<Rules>) {
    let mut seed = u64::from(port) << 32;
    while let Ok((stream, _)) = listener.accept().await {
        seed += 2;
        tokio::spawn(carry(stream, target, port, rules.clone(), seed));
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
async fn carry(mut dialer: TcpStream, target: usize, port: u16, rules: watch::Receiver<Rules>, seed: u64) {
    let Ok((id, first)) = greeting(&mut dialer).await else { return reset(&dialer) };
    let (near, far) = (Side::Dialer(id), Side::Target(target));
    let Ok(mut acceptor) = TcpStream::connect(("127.0.0.1", port)).await else { return reset(&dialer) };
    let is_set = dialer.set_nodelay(true).and_then(|()| acceptor.set_nodelay(true));
    let (dialer_reads, dialer_writes) = dialer.split();
    let (acceptor_reads, acceptor_writes) = acceptor.split();
    let there = direction(first, dialer_reads, acceptor_writes, (near, far), rules.clone(), seed);
    let back = direction(Vec::new(), acceptor_reads, dialer_writes, (far, near), rules, seed + 1);
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
) -> Result<(), Broken> {
    // What is on the cable; when it is full the sender's window fills.
    let (cable, mut arrivals) = mpsc::channel::<Piece>(256);
    let mut reading = rules.clone();
    let read = async move {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut due = Instant::now();
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
            if cable.send(Piece { bytes: std::mem::take(&mut bytes), due }).await.is_err() || is_end {
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
