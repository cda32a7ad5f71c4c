//! Transports on loopback, each test on an executor of its own with a deadline.

mod calls;
mod liveness;
mod messages;
mod refusals;
mod streams;

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
use crate::peer::{Frame, Greeting, HANDSHAKE_BYTES_MAX, Seal};
use crate::raft::MessageKind;
use crate::shell::net::listen;

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
        let listener = listen::listen(address).unwrap();
        let address = listener.local_addr().unwrap();
        transport.listen(listener, false);
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
        self.hello_with(from, to, lane, |_hello| ()).await;
    }

    async fn hello_with(&mut self, from: u64, to: u64, lane: Lane, change: impl FnOnce(&mut pb::Hello)) {
        let identity = PeerIdentity {
            cluster: CLUSTER,
            member: MemberId(from),
            incarnation: 7,
            peer_urls: vec![],
            format_level_max: FormatLevel::HIGHEST,
        };
        let mut bytes = BytesMut::from(&PREFACE[..]);
        let mut hello = identity.hello(MemberId(to), lane);
        change(&mut hello);
        put_message(&mut bytes, FrameKind::Hello, &hello);
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
