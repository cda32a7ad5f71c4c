//! Transports on loopback, each test on an executor of its own with a deadline.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_lite::future;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use prost::Message as _;

use super::call::CallError;
use super::*;
use crate::pb::peer as pb;
use crate::peer::frame::{FRAME_HEADER_BYTES, FrameDecoder, PREFACE, put_message};
use crate::peer::{Frame, HANDSHAKE_BYTES_MAX};
use crate::raft::MessageKind;

const CLUSTER: ClusterId = ClusterId(0xc1);
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test's work; a wait that never ends fails it.
fn run<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
    let builder = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(512 << 10)
        .ring_depth(128)
        .preempt_timer(Duration::from_millis(100));
    let thread = std::thread::Builder::new().spawn(move || {
        builder.make().unwrap().run(async {
            // The runtime may lose a wake-up (`pulse`); a timer brings it back.
            glommio::spawn_local(async {
                loop {
                    glommio::timer::sleep(Duration::from_millis(10)).await;
                }
            })
            .detach();
            let late = async {
                glommio::timer::sleep(PATIENCE).await;
                panic!("the test takes too long");
            };
            future::or(Box::pin(work()) as Pin<Box<dyn Future<Output = T>>>, late).await
        })
    });
    match thread.unwrap().join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

struct Node {
    transport: Rc<Transport>,
    bell: Doorbell,
    address: SocketAddr,
}

fn config(member: u64, incarnation: u64) -> PeerConfig {
    PeerConfig::new(CLUSTER, MemberId(member), incarnation)
}

fn local() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn url(address: SocketAddr) -> Url {
    Url::parse(&format!("http://{address}")).unwrap()
}

impl Node {
    fn start(config: PeerConfig) -> Self {
        Self::start_at(config, local())
    }

    fn start_at(config: PeerConfig, address: SocketAddr) -> Self {
        let bell = Doorbell::new(Arc::default());
        let transport = Transport::new(config, bell.clone());
        let address = transport.listen(address).unwrap();
        Self { transport, bell, address }
    }

    fn id(&self) -> MemberId {
        self.transport.config.member
    }

    fn peers(&self, others: &[&Node]) {
        self.transport.set_peers(others.iter().map(|other| (other.id(), vec![url(other.address)])));
    }

    async fn event(&self) -> PeerEvent {
        loop {
            if let Some(event) = self.transport.take_event() {
                return event;
            }
            self.bell.wait(|| self.transport.has_event()).await;
        }
    }

    /// Events until one is what the test waits for; the others are dropped.
    async fn until<T>(&self, mut wanted: impl FnMut(PeerEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.event().await) {
                return found;
            }
        }
    }

    async fn up(&self, member: u64) {
        let is_up = |event| matches!(event, PeerEvent::Up(up) if up.0 == member).then_some(());
        self.until(is_up).await;
        // The other lanes come up at the same time, more or less.
        let peer = self.transport.peer(MemberId(member)).unwrap();
        for lane in [Lane::Append, Lane::Call] {
            while peer.link(lane).connection().is_none() {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn message(&self) -> Message {
        self.until(|event| if let PeerEvent::Message(message) = event { Some(message) } else { None }).await
    }

    async fn down(&self, member: u64) -> bool {
        self.until(|event| match event {
            PeerEvent::Down { member: down, reset } if down.0 == member => Some(reset),
            _ => None,
        })
        .await
    }

    async fn refused(&self) -> Refusal {
        self.until(|event| match event {
            PeerEvent::Refused { by, refusal } => Some((by, refusal)),
            _ => None,
        })
        .await
        .1
    }
}

/// Two members that are connected both ways.
async fn pair() -> (Node, Node) {
    pair_of(config(1, 100), config(2, 200)).await
}

async fn pair_of(a: PeerConfig, b: PeerConfig) -> (Node, Node) {
    let (a, b) = (Node::start(a), Node::start(b));
    a.peers(&[&b]);
    b.peers(&[&a]);
    a.up(b.id().0).await;
    b.up(a.id().0).await;
    (a, b)
}

fn message(kind: MessageKind, from: u64, to: u64, index: u64, data: &[u8]) -> Message {
    let entries = if kind == MessageKind::Append {
        vec![pb::RaftEntry { index: index + 1, term: 1, kind: 1, data: Bytes::copy_from_slice(data) }]
    } else {
        Vec::new()
    };
    let wire = pb::RaftMessage {
        format: 1,
        kind: kind as u32,
        to,
        from,
        term: 1,
        log_term: u64::from(kind == MessageKind::Append),
        index,
        entries,
        ..Default::default()
    };
    Message::decode(wire.encode_to_vec().into()).unwrap()
}

fn append(from: u64, to: u64, index: u64, bytes: usize) -> Message {
    message(MessageKind::Append, from, to, index, &vec![7; bytes])
}

fn heartbeat(from: u64, to: u64) -> Message {
    message(MessageKind::Heartbeat, from, to, 0, b"")
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn with(&self, text: &str) -> usize {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().filter(|line| line.contains(text)).count()
    }
}

/// A process that speaks the protocol by hand.
struct Puppet {
    stream: TcpStream,
    decoder: FrameDecoder,
}

impl Puppet {
    async fn dial(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        Self { stream, decoder: FrameDecoder::new(1 << 20) }
    }

    /// As a member whose Hello is accepted.
    async fn member(address: SocketAddr, from: u64, to: u64, lane: Lane) -> Self {
        let mut puppet = Self::dial(address).await;
        puppet.hello(from, to, lane).await;
        assert_eq!(puppet.frame().await.unwrap().kind, FrameKind::Welcome);
        puppet
    }

    async fn hello(&mut self, from: u64, to: u64, lane: Lane) {
        let identity =
            Identity { cluster: CLUSTER, member: MemberId(from), incarnation: 7, peer_urls: vec![] };
        let mut bytes = BytesMut::from(&PREFACE[..]);
        put_message(&mut bytes, FrameKind::Hello, &identity.hello(MemberId(to), lane));
        self.write(&bytes).await;
    }

    async fn send(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, FrameKind::RaftMessage, |bytes| message.encode(bytes));
        self.write(&bytes).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// None at the end.
    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.take().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.decoder.push(&bytes[..n]),
            }
        }
    }

    /// The reason with which the other side ends the connection.
    async fn goodbye(&mut self) -> Refusal {
        let frame = self.frame().await.unwrap();
        assert!(matches!(frame.kind, FrameKind::Goodbye | FrameKind::Refusal), "{frame:?}");
        Refusal::from_wire(frame.payload)
    }
}

#[test]
fn messages_arrive_once_and_in_order_within_their_lane() {
    run(async || {
        let (a, b) = pair().await;
        for index in 1..=500 {
            a.transport.send(&append(1, 2, index, 1000));
            a.transport.send(&heartbeat(1, 2));
        }
        let (mut next, mut heartbeats) = (1, 0);
        while next <= 500 || heartbeats < 500 {
            let message = b.message().await;
            match message.kind() {
                MessageKind::Append => {
                    assert_eq!(message, append(1, 2, next, 1000));
                    next += 1;
                }
                _ => heartbeats += 1,
            }
        }
        assert!(a.transport.connected_since(MemberId(2)).is_some());
        assert!(!b.transport.has_event(), "nothing came twice");
    });
}

#[test]
fn heartbeats_pass_a_stream_that_is_stuck_and_appends_that_are_not_taken() {
    run(async || {
        let mut small = config(2, 200);
        small.inbound_bytes_max = 1 << 20;
        let mut sender = config(1, 100);
        sender.queue_bytes_max = 8 << 20;
        let (a, b) = pair_of(sender, small).await;
        // A stream of 64 MiB that its receiver does not read yet.
        let transport = Rc::clone(&a.transport);
        let stream = glommio::spawn_local(async move {
            let mut stream = transport.open_bulk(MemberId(2), Bytes::from_static(b"state")).await.unwrap();
            for piece in 0..64_u8 {
                stream.write(Bytes::from(vec![piece; 1 << 20])).await.unwrap();
            }
            stream.finish(PATIENCE).await
        });
        let mut reader =
            b.until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None }).await;
        assert_eq!((reader.from, &reader.header[..]), (MemberId(1), &b"state"[..]));
        reader.accept(0);
        // Appends fill everything between the two until one is dropped.
        let mut sent = 0;
        let mut queued_max = 0;
        while !a.transport.has_event() {
            sent += 1;
            a.transport.send(&append(1, 2, sent, 1 << 20));
            glommio::timer::sleep(Duration::from_millis(1)).await;
            let peer = a.transport.peer(MemberId(2)).unwrap();
            queued_max = queued_max.max(peer.link(Lane::Append).connection().unwrap().queued_bytes());
        }
        assert!(matches!(a.event().await, PeerEvent::Unreachable(MemberId(2))));
        assert!(queued_max <= 8 << 20, "{queued_max} bytes wait on the sender");
        assert!(sent < 64, "{sent} MiB went nowhere");
        let waiting = b.transport.events.bulky_bytes();
        assert!(waiting <= 3 << 20, "{waiting} bytes wait on the receiver");
        // Heartbeats get through all the same, in no time.
        let start = Instant::now();
        for _beat in 0..100 {
            a.transport.send(&heartbeat(1, 2));
            loop {
                if b.message().await.kind() == MessageKind::Heartbeat {
                    break;
                }
            }
        }
        println!("heartbeat beside a stuck stream: {:?}", start.elapsed() / 100);
        let mut length = 0;
        while let Some((offset, bytes)) = reader.next().await.unwrap() {
            assert_eq!(offset, length);
            for (at, byte) in (offset..).zip(&bytes[..]) {
                assert_eq!(u64::from(*byte), at >> 20);
            }
            length += bytes.len() as u64;
        }
        reader.finish();
        assert_eq!(length, 64 << 20);
        assert_eq!(stream.await, Ok(()));
    });
}

#[test]
fn a_process_that_dies_is_news_and_one_that_stops_is_none() {
    // The other member lives on a thread of its own, whose sockets the kernel closes with it.
    let (address_out, address) = mpsc::channel();
    let (die, dead) = mpsc::channel::<()>();
    let (gone_out, gone) = mpsc::channel();
    let other = move || {
        run(async move || {
            let b = Node::start(config(2, 200));
            address_out.send(b.address).unwrap();
            while dead.try_recv().is_err() {
                glommio::timer::sleep(Duration::from_millis(1)).await;
            }
            // No goodbye: as a process that is killed.
            for connection in b.transport.open.borrow().values() {
                connection.close(connection::End::Lost("killed".to_owned()));
            }
            // What ends with a process and does not end with an executor: the listener.
            b.transport.stop.set(true);
            b.transport.at_stop.ring();
            glommio::timer::sleep(Duration::from_millis(20)).await;
        });
        gone_out.send(()).unwrap();
    };
    let thread = std::thread::Builder::new().spawn(other).unwrap();
    let address = address.recv_timeout(PATIENCE).unwrap();
    run(async move || {
        let a = Node::start(config(1, 100));
        a.transport.set_peers([(MemberId(2), vec![url(address)])]);
        a.up(2).await;
        die.send(()).unwrap();
        let killed = Instant::now();
        assert!(a.down(2).await, "a connection that is cut without a word is a reset");
        println!("death noticed after at most {:?}", killed.elapsed());
        assert_eq!(a.transport.connected_since(MemberId(2)), None);
        while gone.try_recv().is_err() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        a.transport.send(&heartbeat(1, 2));
        a.until(|event| matches!(event, PeerEvent::Unreachable(MemberId(2))).then_some(())).await;

        // It starts again at its address, dials, and is dialed back at once.
        let b = Node::start_at(config(2, 201), address);
        b.peers(&[&a]);
        let started = Instant::now();
        a.up(2).await;
        println!("up again after {:?}", started.elapsed());
        a.transport.send(&append(1, 2, 5, 10));
        assert_eq!(b.message().await, append(1, 2, 5, 10));
        b.transport.stop().await;
        assert!(!a.down(2).await, "it said goodbye");
    });
    thread.join().unwrap();
}

#[test]
fn a_control_connection_that_breaks_in_either_direction_is_told_and_comes_back() {
    run(async || {
        let (a, b) = pair().await;
        let ours = a.transport.peer(MemberId(2)).unwrap().link(Lane::Control).connection().unwrap();
        ours.close(connection::End::Local(Refusal::new(RefusalCode::Unknown, "torn")));
        assert!(b.down(1).await, "it was theirs to us, and ended without a word");
        b.up(1).await;
        let same = a.until(|event| match event {
            PeerEvent::Up(member) => Some(Ok(member)),
            PeerEvent::Down { member, .. } => Some(Err(member)),
            _ => None,
        });
        assert_eq!(same.await, Ok(MemberId(2)), "who tore it has no news to tell");
        a.transport.send(&heartbeat(1, 2));
        assert_eq!(b.message().await, heartbeat(1, 2));
        b.transport.send(&heartbeat(2, 1));
        assert_eq!(a.message().await, heartbeat(2, 1));
    });
}

#[test]
fn a_member_that_only_dials_us_is_missed_when_its_process_ends() {
    run(async || {
        let b = Node::start(config(2, 200));
        b.transport.set_peers([(MemberId(1), vec![Url::parse("http://127.0.0.1:1").unwrap()])]);
        let mut puppet = Puppet::member(b.address, 1, 2, Lane::Control).await;
        puppet.send(&heartbeat(1, 2)).await;
        assert_eq!(b.message().await, heartbeat(1, 2));
        puppet.stream.shutdown(std::net::Shutdown::Both).await.unwrap();
        assert!(b.down(1).await);
        // One that leaves for a new connection is not.
        let mut puppet = Puppet::member(b.address, 1, 2, Lane::Control).await;
        let mut bytes = BytesMut::new();
        let replaced = Refusal::new(RefusalCode::Replaced, "a new one comes");
        put_message(&mut bytes, FrameKind::Goodbye, &replaced.to_wire());
        puppet.write(&bytes).await;
        assert_eq!(puppet.frame().await, None);
        while let Some(event) = b.transport.take_event() {
            assert!(!matches!(event, PeerEvent::Down { .. }), "{event:?}");
        }
    });
}

#[test]
fn who_is_refused_hears_why_and_both_sides_log_it() {
    run(async || {
        let (lines, _guard) = Lines::listen();
        let b = Node::start(config(2, 200));
        b.transport.set_removed([MemberId(5)]);

        let mut other = config(1, 100);
        other.cluster = ClusterId(0xc2);
        let other = Node::start(other);
        other.peers(&[&b]);
        let refusal = other.refused().await;
        assert_eq!(refusal.code, RefusalCode::OtherCluster);
        assert_eq!(lines.with("cluster ID mismatch: c2 is not c1"), 2, "once on each side");

        let removed = Node::start(config(5, 100));
        removed.peers(&[&b]);
        assert_eq!(removed.refused().await.code, RefusalCode::Removed);
        assert!(2 <= lines.with("member 5 has been removed from the cluster"));

        let wrong = Node::start(config(3, 100));
        wrong.transport.set_peers([(MemberId(9), vec![url(b.address)])]);
        assert_eq!(wrong.refused().await.code, RefusalCode::WrongRecipient);
        assert!(2 <= lines.with("this is member 2, not 9"));

        let own = Node::start(config(4, 100));
        own.transport.set_peers([(MemberId(9), vec![url(own.address)])]);
        assert_eq!(own.refused().await.code, RefusalCode::WrongRecipient);
        assert!(!b.transport.has_event(), "nobody got in");
    });
}

#[test]
fn a_member_that_is_removed_loses_its_connections() {
    run(async || {
        let (a, b) = pair().await;
        b.transport.set_removed([MemberId(1)]);
        assert!(!a.down(2).await);
        assert_eq!(a.refused().await.code, RefusalCode::Removed);
        a.transport.send(&heartbeat(1, 2));
        a.until(|event| matches!(event, PeerEvent::Unreachable(_)).then_some(())).await;
        assert_eq!(b.transport.visitors.borrow().len(), 0);
    });
}

#[test]
fn an_older_process_of_a_member_is_refused_and_a_newer_one_takes_over() {
    run(async || {
        let (a, b) = pair().await;
        let older = Node::start(config(1, 99));
        older.peers(&[&b]);
        assert_eq!(older.refused().await.code, RefusalCode::DuplicateIdentity);
        assert!(a.transport.connected_since(MemberId(2)).is_some());
        let newer = Node::start(config(1, 101));
        newer.peers(&[&b]);
        newer.up(2).await;
        assert!(b.down(1).await, "whoever was member 1 has ended");
        assert_eq!(a.refused().await.code, RefusalCode::DuplicateIdentity);
    });
}

#[test]
fn garbage_on_the_peer_port_is_closed_logged_once_in_a_while_and_harms_nobody() {
    run(async || {
        let (lines, _guard) = Lines::listen();
        let b = Node::start(config(2, 200));
        let mut hello = BytesMut::from(&PREFACE[..]);
        put_message(&mut hello, FrameKind::Hello, &pb::Hello::default());
        let mut flipped = hello.clone();
        flipped[20] ^= 1;
        let mut large = BytesMut::from(&PREFACE[..]);
        let payload = vec![0; HANDSHAKE_BYTES_MAX + 1];
        put_frame(&mut large, FrameKind::Hello, |bytes| bytes.extend_from_slice(&payload));
        let mut early = BytesMut::from(&PREFACE[..]);
        put_frame(&mut early, FrameKind::RaftMessage, |bytes| heartbeat(1, 2).encode(bytes));
        let garbage: [&[u8]; 7] =
            [b"GET /members HTTP/1.1\r\n\r\n", b"\x16\x03\x01", &hello, &flipped, &large, &early, b""];
        for _round in 0..10 {
            for bytes in garbage {
                let mut puppet = Puppet::dial(b.address).await;
                puppet.stream.write_all(bytes).await.unwrap();
                puppet.stream.shutdown(std::net::Shutdown::Write).await.unwrap();
                // What comes, if anything, is a refusal, and then the end.
                let mut rest = Vec::new();
                puppet.stream.read_to_end(&mut rest).await.ok();
            }
        }
        assert_eq!(lines.with("peer connection refused"), 1, "{}", lines.with(""));
        assert_eq!(lines.with("does not speak the peer protocol"), 1);
        let a = Node::start(config(1, 100));
        a.peers(&[&b]);
        a.up(2).await;
    });
}

#[test]
fn what_no_member_sends_ends_its_connection_with_the_reason() {
    run(async || {
        let b = Node::start(config(2, 200));
        type Send = fn(&mut BytesMut);
        let cases: [(Lane, Send, &str); 8] = [
            (
                Lane::Append,
                |bytes| {
                    // A header alone, which claims a gigabyte.
                    let mut header = [0; FRAME_HEADER_BYTES];
                    header[..4].copy_from_slice(&(1_u32 << 30).to_le_bytes());
                    header[4] = FrameKind::RaftMessage as u8;
                    let checksum = crc32fast::hash(&header[..12]);
                    header[12..].copy_from_slice(&checksum.to_le_bytes());
                    bytes.extend_from_slice(&header);
                },
                "frame of 1073741824 bytes",
            ),
            (Lane::Append, |bytes| raft(bytes, &append(1, 3, 5, 5)), "is for member 3"),
            (Lane::Append, |bytes| raft(bytes, &append(4, 2, 5, 5)), "is from member 4"),
            (Lane::Append, |bytes| raft(bytes, &heartbeat(1, 2)), "is on the lane Append"),
            (
                Lane::Control,
                |bytes| put_frame(bytes, FrameKind::RaftMessage, |bytes| bytes.extend_from_slice(b"junk")),
                "does not decode",
            ),
            (Lane::Control, |bytes| put_frame(bytes, FrameKind::BulkDone, |_| ()), "on a raft lane"),
            (Lane::Call, |bytes| put_frame(bytes, FrameKind::BulkDone, |_| ()), "on the call lane"),
            (Lane::Bulk, |bytes| put_frame(bytes, FrameKind::BulkEnd, |_| ()), "before a stream"),
        ];
        for (lane, send, reason) in cases {
            let mut puppet = Puppet::member(b.address, 1, 2, lane).await;
            let mut bytes = BytesMut::new();
            send(&mut bytes);
            puppet.write(&bytes).await;
            let goodbye = puppet.goodbye().await;
            assert!(goodbye.reason.contains(reason), "{goodbye}");
            assert_eq!(puppet.frame().await, None);
        }
        while let Some(event) = b.transport.take_event() {
            assert!(!matches!(event, PeerEvent::Message(_)), "{event:?}");
        }
    });
}

fn raft(bytes: &mut BytesMut, message: &Message) {
    put_frame(bytes, FrameKind::RaftMessage, |bytes| message.encode(bytes));
}

#[test]
fn silent_connections_do_not_keep_members_out_and_end_by_themselves() {
    run(async || {
        let mut b = config(2, 200);
        b.half_open_max = 8;
        b.handshake_timeout = Duration::from_millis(400);
        let b = Node::start(b);
        let mut silent = Vec::new();
        for _connection in 0..100 {
            silent.push(Puppet::dial(b.address).await);
        }
        let a = Node::start(config(1, 100));
        a.peers(&[&b]);
        a.up(2).await;
        assert!(b.transport.half_open.borrow().len() <= 8);
        for puppet in &mut silent {
            // Either crowded out, without a word, or told that it took too long.
            if let Some(frame) = puppet.frame().await {
                assert_eq!(Refusal::from_wire(frame.payload).reason, "no Hello in time");
            }
        }
        drop(silent);
        while !b.transport.half_open.borrow().is_empty() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn the_newest_connection_of_a_lane_wins_and_no_message_comes_twice() {
    run(async || {
        let b = Node::start(config(2, 200));
        let mut first = Puppet::member(b.address, 1, 2, Lane::Append).await;
        first.send(&append(1, 2, 1, 10)).await;
        assert_eq!(b.message().await, append(1, 2, 1, 10));
        let mut second = Puppet::member(b.address, 1, 2, Lane::Append).await;
        assert_eq!(first.goodbye().await.code, RefusalCode::Replaced);
        second.send(&append(1, 2, 2, 10)).await;
        assert_eq!(b.message().await, append(1, 2, 2, 10));
        drop(first);
        second.send(&append(1, 2, 3, 10)).await;
        assert_eq!(b.message().await, append(1, 2, 3, 10));
        assert!(!b.transport.has_event());
    });
}

#[test]
fn a_peer_that_reads_nothing_costs_a_bounded_queue_and_is_given_up() {
    run(async || {
        let listener = TcpListener::bind(local()).unwrap();
        let mut a = config(1, 100);
        a.patience = Duration::from_millis(300);
        a.queue_bytes_max = 2 << 20;
        let a = Node::start(a);
        a.transport.set_peers([(MemberId(2), vec![url(listener.local_addr().unwrap())])]);
        // Accepts every connection, reads the Hello, and then nothing: a process that is frozen.
        let frozen = Rc::new(RefCell::new(Vec::new()));
        let kept = Rc::clone(&frozen);
        let accepting = glommio::spawn_local(async move {
            loop {
                let mut puppet = Puppet::over(listener.accept().await.unwrap());
                assert_eq!(puppet.frame().await.unwrap().kind, FrameKind::Hello);
                let mut bytes = BytesMut::from(&PREFACE[..]);
                let welcome =
                    pb::Welcome { version: 1, cluster_id: CLUSTER.0, member: 2, ..Default::default() };
                put_message(&mut bytes, FrameKind::Welcome, &welcome);
                puppet.write(&bytes).await;
                kept.borrow_mut().push(puppet);
            }
        });
        a.up(2).await;
        let beat = message(MessageKind::Heartbeat, 1, 2, 0, b"");
        let link = Rc::clone(a.transport.peer(MemberId(2)).unwrap().link(Lane::Control));
        while let Some(connection) = link.connection() {
            for _beat in 0..10_000 {
                a.transport.send(&beat);
            }
            assert!(connection.queued_bytes() <= (2 << 20) + 1024);
            glommio::timer::sleep(Duration::from_millis(5)).await;
        }
        assert!(!a.down(2).await, "silence is no proof of an end");
        accepting.cancel().await;
    });
}

#[test]
fn a_call_comes_back_with_its_answer_or_with_what_went_wrong() {
    run(async || {
        let mut caller = config(1, 100);
        caller.call_bytes_max = 2 << 20;
        let mut answerer = config(2, 200);
        answerer.call_bytes_max = 1 << 20;
        let (a, b) = pair_of(caller, answerer).await;
        let b = Rc::new(b);
        let served = Rc::clone(&b);
        glommio::spawn_local(async move {
            let mut kept = Vec::new();
            loop {
                let event = served.event().await;
                let PeerEvent::Call(call) = event else { continue };
                match call.kind {
                    1 => {
                        let mut answer = call.body.to_vec();
                        answer.extend_from_slice(&call.from.0.to_le_bytes());
                        call.reply.succeed(answer.into());
                    }
                    2 => call.reply.fail("not today"),
                    3 => drop(call),
                    4 => kept.push(call),
                    5 => call.reply.succeed(Bytes::from(vec![0; (1 << 20) + 1])),
                    _ => served.transport.stop().await,
                }
            }
        })
        .detach();
        let call = async |kind, body: &'static [u8], timeout| {
            a.transport.call(MemberId(2), kind, Bytes::from_static(body), timeout).await
        };
        assert_eq!(call(1, b"ping", PATIENCE).await.unwrap(), &b"ping\x01\0\0\0\0\0\0\0"[..]);
        assert_eq!(call(2, b"", PATIENCE).await, Err(CallError::Failed("not today".to_owned())));
        assert_eq!(call(3, b"", PATIENCE).await, Err(CallError::Failed("the call was dropped".to_owned())));
        assert_eq!(call(4, b"", Duration::from_millis(30)).await, Err(CallError::TimedOut));
        assert!(matches!(call(5, b"", PATIENCE).await, Err(CallError::Failed(why)) if why.contains("large")));
        let large = Bytes::from(vec![0; (2 << 20) + 1]);
        let answer = a.transport.call(MemberId(2), 1, large, PATIENCE).await;
        assert_eq!(answer, Err(CallError::TooLarge((2 << 20) + 1)));
        let unknown = a.transport.call(MemberId(9), 1, Bytes::new(), PATIENCE).await;
        assert!(matches!(unknown, Err(CallError::Unreachable(_))));
        // A large answer, and many at once, each to its caller.
        let a = Rc::new(a);
        let calls: Vec<_> = (0..100_u32)
            .map(|n| {
                let a = Rc::clone(&a);
                let body = Bytes::from(n.to_le_bytes().repeat(1000));
                glommio::spawn_local(async move {
                    let answer = a.transport.call(MemberId(2), 1, body.clone(), PATIENCE).await.unwrap();
                    assert_eq!(answer[..body.len()], body);
                })
            })
            .collect();
        for call in calls {
            call.await;
        }
        // The other side stops while a call is under way; the next one finds nobody, and at once.
        let ended = a.transport.call(MemberId(2), 6, Bytes::new(), PATIENCE).await;
        assert!(matches!(ended, Err(CallError::Interrupted(_))), "{ended:?}");
        let start = Instant::now();
        let refused = a.transport.call(MemberId(2), 1, Bytes::new(), PATIENCE).await;
        assert!(matches!(refused, Err(CallError::Unreachable(_) | CallError::Refused(_))), "{refused:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn more_calls_than_the_bound_are_refused_and_not_queued() {
    run(async || {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let calls: Vec<_> = (0..call::CALLS_MAX + 10)
            .map(|_| {
                let a = Rc::clone(&a);
                glommio::spawn_local(async move {
                    a.transport.call(MemberId(2), 1, Bytes::new(), Duration::from_millis(200)).await
                })
            })
            .collect();
        let mut refused = 0;
        for call in calls {
            refused += usize::from(call.await == Err(CallError::Overloaded));
        }
        assert_eq!(refused, 10);
        // The receiver's own bound does not trust the sender's: it still holds the first calls.
        let late = a.transport.call(MemberId(2), 1, Bytes::new(), PATIENCE).await;
        assert_eq!(late, Err(CallError::Overloaded));
        let mut held = 0;
        while let Some(event) = b.transport.take_event() {
            held += usize::from(matches!(event, PeerEvent::Call(_)));
        }
        assert_eq!(held, call::CALLS_MAX);
    });
}

#[test]
fn a_stream_is_resumed_where_it_broke_and_refused_with_a_reason() {
    run(async || {
        let (a, b) = pair().await;
        let state: Vec<u8> = (0..3_000_000_u32).map(|n| (n >> 8).to_le_bytes()[0]).collect();
        let state = Bytes::from(state);
        let stream = async |from: &Node| {
            from.until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None }).await
        };
        // The sender gives up half way.
        let opening = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 7"));
        let receiving = async {
            let mut reader = stream(&b).await;
            reader.accept(0);
            reader
        };
        let (writer, mut reader) = futures_lite::future::zip(opening, receiving).await;
        let mut writer = writer.unwrap();
        writer.write(state.slice(..1_000_000)).await.unwrap();
        drop(writer);
        let mut held = Vec::new();
        let error = loop {
            match reader.next().await {
                Ok(Some((_, bytes))) => held.extend_from_slice(&bytes),
                Ok(None) => panic!("the stream was not complete"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("the sender gave up"), "{error}");
        assert_eq!(held, state[..held.len()]);
        assert_eq!(held.len(), 1_000_000, "what was written before arrived");
        drop(reader);
        // The receiver says from where on.
        let sending = async {
            let mut writer = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 7")).await.unwrap();
            assert_eq!(writer.offset(), 1_000_000);
            let rest = state.slice(usize::try_from(writer.offset()).unwrap()..);
            writer.write(rest).await.unwrap();
            writer.finish(PATIENCE).await.unwrap();
        };
        let receiving = async {
            let mut reader = stream(&b).await;
            reader.accept(held.len() as u64);
            while let Some((offset, bytes)) = reader.next().await.unwrap() {
                assert_eq!(offset, held.len() as u64);
                held.extend_from_slice(&bytes);
            }
            reader.finish();
            assert_eq!(held, state);
        };
        futures_lite::future::zip(sending, receiving).await;
        // A receiver that does not want it.
        let opening = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 8"));
        let refusing = async { stream(&b).await.refuse("no space left") };
        let (writer, ()) = futures_lite::future::zip(opening, refusing).await;
        assert!(matches!(writer.unwrap_err(), BulkError::Refused(why) if why.reason == "no space left"));
        // Or that loses interest while it is under way.
        let opening = a.transport.open_bulk(MemberId(2), Bytes::from_static(b"at 9"));
        let receiving = async {
            let mut reader = stream(&b).await;
            reader.accept(0);
            reader.next().await.unwrap();
        };
        let sending = async {
            let mut writer = opening.await.unwrap();
            loop {
                if let Err(error) = writer.write(state.clone()).await {
                    break error;
                }
            }
        };
        let (error, ()) = futures_lite::future::zip(sending, receiving).await;
        assert!(matches!(&error, BulkError::Refused(why) if why.reason == "the receiver gave up"), "{error}");
    });
}

#[test]
fn a_stream_with_a_gap_or_a_wrong_length_is_never_complete() {
    run(async || {
        let b = Node::start(config(2, 200));
        let chunk = |bytes: &mut BytesMut, offset: u64, data: &[u8]| {
            put_frame(bytes, FrameKind::BulkChunk, |bytes| {
                bytes.extend_from_slice(&offset.to_le_bytes());
                bytes.extend_from_slice(data);
            });
        };
        let mut streams = Vec::new();
        for (second, length, reason) in [
            (Some(4), None, "a chunk at offset 4, not at 3"),
            (Some(2), None, "a chunk at offset 2, not at 3"),
            (Some(3), Some(7), "a stream of 7 bytes ends at 6"),
            (None, Some(0), "a stream of 0 bytes ends at 3"),
        ] {
            let mut bytes = BytesMut::new();
            put_message(&mut bytes, FrameKind::BulkBegin, &pb::BulkBegin::default());
            chunk(&mut bytes, 0, b"abc");
            if let Some(offset) = second {
                chunk(&mut bytes, offset, b"def");
            }
            if let Some(length) = length {
                put_message(&mut bytes, FrameKind::BulkEnd, &pb::BulkEnd { length });
            }
            streams.push((bytes, reason));
        }
        for (bytes, reason) in streams {
            let mut puppet = Puppet::member(b.address, 1, 2, Lane::Bulk).await;
            puppet.write(&bytes).await;
            let mut reader =
                b.until(|event| if let PeerEvent::Bulk(reader) = event { Some(reader) } else { None }).await;
            reader.accept(0);
            let error = loop {
                match reader.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("complete, but {reason}"),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains(reason), "{error}");
            drop(reader);
            assert_eq!(puppet.frame().await.unwrap().kind, FrameKind::BulkAccept);
            assert_eq!(puppet.goodbye().await.reason, reason);
        }
    });
}

#[test]
fn a_goodbye_gets_through_while_messages_keep_coming() {
    run(async || {
        let (a, b) = pair().await;
        let a = Rc::new(a);
        let busy = Rc::clone(&a);
        let sending = glommio::spawn_local(async move {
            for index in 1.. {
                busy.transport.send(&heartbeat(1, 2));
                busy.transport.send(&append(1, 2, index, 100_000));
                glommio::timer::sleep(Duration::from_micros(100)).await;
            }
        });
        for _message in 0..20 {
            b.message().await;
        }
        b.transport.stop().await;
        assert!(!a.down(2).await, "a stop is no reset");
        sending.cancel().await;
    });
}

#[test]
fn a_member_that_the_list_does_not_know_yet_is_dialed_back() {
    run(async || {
        let b = Node::start(config(2, 200));
        let listener = std::net::TcpListener::bind(local()).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let mut new = config(3, 300);
        new.peer_urls = vec![Url::parse(&format!("http://localhost:{}", address.port())).unwrap()];
        let new = Node::start_at(new, address);
        new.peers(&[&b]);
        new.up(2).await;
        b.up(3).await;
        b.transport.send(&heartbeat(2, 3));
        assert_eq!(new.message().await, heartbeat(2, 3));
        // A list without it leaves it alone; when it goes, it is forgotten.
        b.transport.set_peers([]);
        b.transport.send(&heartbeat(2, 3));
        assert_eq!(new.message().await, heartbeat(2, 3));
        new.transport.stop().await;
        b.down(3).await;
        while b.transport.peer(MemberId(3)).is_some() {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_peer_that_leaves_the_list_is_left_and_its_address_may_change() {
    run(async || {
        let (a, b) = pair().await;
        a.transport.set_peers([]);
        assert_eq!(a.transport.connected_since(MemberId(2)), None);
        a.peers(&[&b]);
        a.up(2).await;
        let dead = Url::parse("http://127.0.0.1:1").unwrap();
        a.transport.set_peers([(MemberId(2), vec![dead.clone()])]);
        assert!(a.transport.connected_since(MemberId(2)).is_some(), "what works is kept");
        let c = Node::start(config(3, 300));
        c.transport.set_peers([(MemberId(2), vec![dead])]);
        c.until(|event| matches!(event, PeerEvent::Unreachable(MemberId(2))).then_some(())).await;
        c.peers(&[&b]);
        c.up(2).await;
    });
}

#[test]
fn speed_of_small_and_large_messages_is_printed() {
    run(async || {
        let (a, b) = pair().await;
        let b = Rc::new(b);
        let echo = Rc::clone(&b);
        let echoing = glommio::spawn_local(async move {
            loop {
                let message = echo.message().await;
                let index = message.encoded_bytes() as u64;
                echo.transport.send(&append(2, 1, index, 1024));
            }
        });
        const ROUNDS: u32 = 500;
        let start = Instant::now();
        for round in 0..ROUNDS {
            a.transport.send(&append(1, 2, u64::from(round) + 1, 1024));
            a.message().await;
        }
        println!("1 KiB append there and back, one executor: {:?}", start.elapsed() / ROUNDS);
        echoing.cancel().await;
        const APPENDS: u64 = 64;
        let large = append(1, 2, 1, 1 << 20);
        let start = Instant::now();
        let mut taken = 0;
        for _append in 0..APPENDS {
            let peer = a.transport.peer(MemberId(2)).unwrap();
            peer.link(Lane::Append).connection().unwrap().room(8 << 20).await;
            a.transport.send(&large);
            while let Some(PeerEvent::Message(_)) = b.transport.take_event() {
                taken += 1;
            }
        }
        while taken < APPENDS {
            b.message().await;
            taken += 1;
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("1 MiB appends, both ends on one executor: {:.0} MiB/s", APPENDS as f64 / seconds);
    });
}
