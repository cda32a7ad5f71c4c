//! The client shard over real sockets, with a small store behind it on the same executor.
//!
//! `Server` runs a shard on its own executor and thread; tests talk to it as `h2` clients (what gRPC
//! says) or as raw bytes (what a hostile client says). Every wait of a client has a deadline.

mod abuse;
mod calls;
mod fan_out;
mod feed;
mod headers;
mod honest;
mod leader;
mod lease;
mod lock;
mod overload;
mod pieces;
mod raw;
mod throughput;
mod watch;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use glommio::{LocalExecutorBuilder, Placement};
use h2::client::SendRequest;
use http::{HeaderMap, Request, StatusCode};
use prost::Message;

use super::{Backend, ClientShard, Counters, Endpoint, ShardConfig, Speaks};
use crate::pb::{etcdserverpb as pb, mvccpb};
use crate::replica::exchange::ToShard;
use crate::request::{
    Answer, Command, Outcome, PieceOrder, Query, RangeSlice, Read, Refusal, Reply, RequestKind, Response,
    WaitOrder,
};
use crate::rpc::framing::{PREFIX_BYTES, percent_decode, put_prefix};
use crate::rpc::queue::model::Model;
use crate::types::{ClusterId, MemberId, Term, Ticket};
use crate::watch::{Notice, Order};
use feed::Feed;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(10);

const CLUSTER: ClusterId = ClusterId(0xc1);
const MEMBER: MemberId = MemberId(0x3e);
const TERM: Term = Term(3);

/// A map with etcd's revisions, just enough to tell answers apart.
#[derive(Default)]
struct MapBackend {
    keys: RefCell<BTreeMap<Bytes, mvccpb::KeyValue>>,
    revision: Cell<i64>,
    feed: RefCell<Feed>,
    changes: RefCell<Vec<Notice>>,
    outgoing: RefCell<VecDeque<ToShard>>,
    pump: RefCell<Option<Waker>>,
    /// Answers are made and kept back.
    is_holding: Cell<bool>,
    /// The rings are full.
    is_full: Cell<bool>,
    /// Everything is refused with this.
    refusal: Cell<Option<Refusal>>,
    /// Slices of range streams asked for.
    slices: Cell<u64>,
    /// Leases, transactions, and the keys of `Lock` and `Election`.
    model: RefCell<Model>,
    /// Renewals asked for.
    renewals: Cell<u64>,
    /// Ranges from a key `pieces:N`.
    long_reads: RefCell<pieces::LongReads>,
}

impl Backend for MapBackend {
    fn submit(&self, ticket: Ticket, command: Command) -> Result<(), Command> {
        if self.is_full.get() {
            return Err(command);
        }
        let result = match self.refusal.get() {
            Some(refusal) => Err(refusal),
            None if let Some(begun) = self.long_reads.borrow_mut().begin(ticket, &command) => {
                self.outgoing.borrow_mut().extend(begun.into_iter().map(ToShard::Pieces));
                self.wake_pump();
                return Ok(());
            }
            None if is_the_models(&command) => {
                Ok(Answer { term: TERM, outcome: self.model_answer(&command) })
            }
            None => Ok(Answer { term: TERM, outcome: Ok(self.answer(command)) }),
        };
        self.outgoing.borrow_mut().push_back(ToShard::Reply(Reply { ticket, result }));
        // As the store does: an answer comes before the changes that it made.
        let changes = self.changes.take().into_iter();
        self.outgoing.borrow_mut().extend(changes.map(|notice| ToShard::Watch {
            term: TERM,
            notice,
            made_ns: 0,
        }));
        self.wake_pump();
        Ok(())
    }

    fn order(&self, order: Order) -> Result<(), Order> {
        if self.is_full.get() {
            return Err(order);
        }
        let notice = self.feed.borrow_mut().on_order(order, self.revision.get());
        self.outgoing.borrow_mut().push_back(ToShard::Watch { term: TERM, notice, made_ns: 0 });
        self.wake_pump();
        Ok(())
    }

    fn order_wait(&self, order: WaitOrder) {
        panic!("{order:?}: the map knows no nodes");
    }

    fn order_pieces(&self, order: PieceOrder) {
        let notices = self.long_reads.borrow_mut().on_order(order);
        self.outgoing.borrow_mut().extend(notices.into_iter().map(ToShard::Pieces));
        self.wake_pump();
    }
}

impl MapBackend {
    fn wake_pump(&self) {
        if let Some(waker) = self.pump.take() {
            waker.wake();
        }
    }

    fn model_answer(&self, command: &Command) -> Outcome {
        if matches!(command, Command::Read(Read { query: Query::LeaseKeepAlive(_), .. })) {
            self.renewals.set(self.renewals.get() + 1);
        }
        self.model.borrow_mut().carry_out(command)
    }

    fn answer(&self, command: Command) -> Response {
        let (body, resume) = match command {
            Command::Propose { kind: RequestKind::Put, body, .. } => {
                let put = pb::PutRequest::decode(body).unwrap();
                let revision = self.revision.get() + 1;
                self.revision.set(revision);
                let entry = mvccpb::KeyValue {
                    key: put.key.clone(),
                    value: put.value,
                    mod_revision: revision,
                    ..Default::default()
                };
                let previous = self.keys.borrow_mut().insert(put.key, entry.clone());
                self.changes.borrow_mut().extend(self.feed.borrow_mut().on_change(entry, false, previous));
                (Vec::new(), None)
            }
            Command::Propose { kind: RequestKind::DeleteRange, body, .. } => {
                let delete = pb::DeleteRangeRequest::decode(body).unwrap();
                if let Some(previous) = self.keys.borrow_mut().remove(&delete.key) {
                    let revision = self.revision.get() + 1;
                    self.revision.set(revision);
                    let key = delete.key;
                    let entry = mvccpb::KeyValue { key, mod_revision: revision, ..Default::default() };
                    let change = self.feed.borrow_mut().on_change(entry, true, Some(previous));
                    self.changes.borrow_mut().extend(change);
                }
                (Vec::new(), None)
            }
            Command::Propose { kind: RequestKind::Compact, body, .. } => {
                let compaction = pb::CompactionRequest::decode(body).unwrap();
                self.feed.borrow_mut().compact(compaction.revision);
                (Vec::new(), None)
            }
            Command::Propose { .. } | Command::Member(_) | Command::AppendStats => (Vec::new(), None),
            Command::Read(Read { query, .. }) => match query {
                Query::Range(range) => (self.range(&range).encode_to_vec(), None),
                Query::RangeSlice(slice) => self.slice(&slice),
                Query::MemberList => {
                    let members = vec![pb::Member { name: "solo".into(), ..Default::default() }];
                    (pb::MemberListResponse { members, ..Default::default() }.encode_to_vec(), None)
                }
                Query::Status => {
                    let response = pb::StatusResponse { version: "3.7.0".into(), ..Default::default() };
                    (response.encode_to_vec(), None)
                }
                _ => (Vec::new(), None),
            },
        };
        Response { revision: self.revision.get(), body, resume }
    }

    /// A key `size:N` has a value of N bytes; a range from it has it as its only entry.
    fn range(&self, range: &pb::RangeRequest) -> pb::RangeResponse {
        let size = std::str::from_utf8(&range.key).ok().and_then(|key| key.strip_prefix("size:"));
        let kvs: Vec<_> = match size {
            Some(size) => {
                let value = Bytes::from(vec![b'v'; size.parse().unwrap()]);
                vec![mvccpb::KeyValue { key: range.key.clone(), value, ..Default::default() }]
            }
            None => self.keys.borrow().get(&range.key).cloned().into_iter().collect(),
        };
        pb::RangeResponse { count: kvs.len().try_into().unwrap(), kvs, ..Default::default() }
    }

    fn slice(&self, slice: &RangeSlice) -> (Vec<u8>, Option<Bytes>) {
        self.slices.set(self.slices.get() + 1);
        let keys = self.keys.borrow();
        let mut rest = keys.range(slice.start.clone()..).map(|(_, entry)| entry);
        let kvs: Vec<_> = rest.by_ref().take(slice.keys_max as usize).cloned().collect();
        match rest.next() {
            Some(next) => {
                (pb::RangeResponse { kvs, ..Default::default() }.encode_to_vec(), Some(next.key.clone()))
            }
            None => {
                let count = keys.len().try_into().unwrap();
                (pb::RangeResponse { kvs, count, ..Default::default() }.encode_to_vec(), None)
            }
        }
    }

    /// Hands answers to the shard, in batches as the rings do.
    async fn pump(self: Rc<Self>, shard: Rc<ClientShard<Self>>) {
        std::future::poll_fn(|cx| {
            // First: the flush may order something, which wakes this again.
            self.pump.replace(Some(cx.waker().clone()));
            while !self.is_holding.get() {
                let Some(message) = self.outgoing.borrow_mut().pop_front() else { break };
                match message {
                    ToShard::Reply(reply) => shard.on_reply(reply),
                    ToShard::Pieces(notice) => shard.on_pieces(notice),
                    ToShard::Wait(news) => shard.on_wait_news(news),
                    ToShard::Watch { term, notice, .. } => shard.on_watch(term, notice),
                    ToShard::Facts(facts) => shard.on_facts(facts),
                }
            }
            shard.flush();
            Poll::<()>::Pending
        })
        .await;
    }
}

/// Whether the model answers: leases, transactions, and the keys of `Lock` and `Election`, which alone
/// have a slash.
fn is_the_models(command: &Command) -> bool {
    match command {
        Command::Propose { kind, body, .. } => match kind {
            RequestKind::Txn | RequestKind::LeaseGrant | RequestKind::LeaseRevoke => true,
            RequestKind::DeleteRange => {
                pb::DeleteRangeRequest::decode(body.clone()).unwrap().key.contains(&b'/')
            }
            _ => false,
        },
        Command::Member(_) | Command::AppendStats => false,
        Command::Read(Read { query, .. }) => match query {
            Query::Range(range) => range.sort_order != 0,
            Query::Txn(_) | Query::LeaseKeepAlive(_) | Query::LeaseTimeToLive(_) | Query::LeaseLeases => true,
            _ => false,
        },
    }
}

/// What a test does on the server's thread.
type Work = dyn FnOnce(&Rc<ClientShard<MapBackend>>, &MapBackend) + Send;

/// What a test tells the server's thread.
enum Control {
    Hold(bool),
    Full(bool),
    Refuse(Option<Refusal>),
    Counters(mpsc::Sender<(Counters, u64)>),
    Model(mpsc::Sender<(Model, u64)>),
    Cpu(mpsc::Sender<u64>),
    Run(Box<Work>),
    Stop,
}

struct Server {
    address: SocketAddr,
    control: mpsc::Sender<Control>,
    waker: Arc<AtomicWaker>,
    thread: Option<JoinHandle<()>>,
}

/// Times short enough that no test waits long for one.
fn quick() -> ShardConfig {
    let mut config = ShardConfig::new(1, CLUSTER, MEMBER);
    config.tick = Duration::from_millis(5);
    config.drain_timeout = Duration::from_secs(2);
    config
}

impl Server {
    fn start(config: ShardConfig) -> Self {
        let (address_out, address) = mpsc::channel();
        let (control, inbox) = mpsc::channel();
        let waker = Arc::new(AtomicWaker::new());
        let control_waker = Arc::clone(&waker);
        let builder = LocalExecutorBuilder::new(Placement::Unbound)
            .name("client-shard")
            .io_memory(512 << 10)
            .ring_depth(64)
            // Not a short one: glommio 0.9 loses its runnable tasks when this timer fires between
            // polling for events and running them, and on a loaded machine a thread is easily off
            // its core for a millisecond there. The executor then sleeps until the next event.
            .preempt_timer(Duration::from_millis(100));
        #[expect(clippy::disallowed_methods, reason = "the server of a test has its own thread")]
        let thread = std::thread::spawn(move || {
            builder.make().unwrap().run(run_server(config, address_out, inbox, control_waker));
        });
        let address = address.recv_timeout(PATIENCE).unwrap();
        Self { address, control, waker, thread: Some(thread) }
    }

    fn tell(&self, control: Control) {
        self.control.send(control).unwrap();
        self.waker.wake();
    }

    fn counters(&self) -> Counters {
        let (out, counters) = mpsc::channel();
        self.tell(Control::Counters(out));
        counters.recv_timeout(PATIENCE).unwrap().0
    }

    /// Runs `work` on the server's thread.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Rc<ClientShard<MapBackend>>, &MapBackend) -> T + Send + 'static,
    ) -> T {
        let (out, result) = mpsc::channel();
        self.tell(Control::Run(Box::new(move |shard, backend| out.send(work(shard, backend)).unwrap())));
        result.recv_timeout(PATIENCE).unwrap()
    }

    fn slices(&self) -> u64 {
        let (out, counters) = mpsc::channel();
        self.tell(Control::Counters(out));
        counters.recv_timeout(PATIENCE).unwrap().1
    }

    /// The model as it stands, and the renewals asked for.
    fn model(&self) -> (Model, u64) {
        let (out, model) = mpsc::channel();
        self.tell(Control::Model(out));
        model.recv_timeout(PATIENCE).unwrap()
    }

    /// Nanoseconds the server's thread has been on a core.
    fn cpu_ns(&self) -> u64 {
        let (out, cpu) = mpsc::channel();
        self.tell(Control::Cpu(out));
        cpu.recv_timeout(PATIENCE).unwrap()
    }

    /// Asks for the counters until they are as the test expects, and lets the client's tasks run.
    #[expect(clippy::disallowed_types, reason = "a test's deadline")]
    async fn until(&self, what: &str, is_so: impl Fn(&Counters) -> bool) -> Counters {
        let start = std::time::Instant::now();
        loop {
            let counters = self.counters();
            if is_so(&counters) {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "not in time: {what}: {counters:?}");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell(Control::Stop);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

async fn run_server(
    config: ShardConfig,
    address: mpsc::Sender<SocketAddr>,
    inbox: mpsc::Receiver<Control>,
    waker: Arc<AtomicWaker>,
) {
    let backend = Rc::new(MapBackend::default());
    backend.revision.set(1);
    let shard = ClientShard::new(config, Rc::clone(&backend));
    let pump = glommio::spawn_local(Rc::clone(&backend).pump(Rc::clone(&shard)));
    let listener = crate::shell::net::listen::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    address.send(listener.local_addr().unwrap()).unwrap();
    let served =
        glommio::spawn_local(Rc::clone(&shard).serve(vec![(Endpoint::plain(Speaks::All), listener)]));
    std::future::poll_fn(|cx| {
        waker.register(cx.waker());
        while let Ok(control) = inbox.try_recv() {
            match control {
                Control::Hold(is_holding) => {
                    backend.is_holding.set(is_holding);
                    backend.wake_pump();
                }
                Control::Full(is_full) => {
                    backend.is_full.set(is_full);
                    shard.ready();
                }
                Control::Refuse(refusal) => backend.refusal.set(refusal),
                Control::Counters(out) => out.send((shard.counters(), backend.slices.get())).unwrap(),
                Control::Model(out) => {
                    out.send((backend.model.borrow().clone(), backend.renewals.get())).unwrap();
                }
                Control::Cpu(out) => out.send(thread_cpu_ns()).unwrap(),
                Control::Run(work) => work(&shard, &backend),
                Control::Stop => return Poll::Ready(()),
            }
        }
        Poll::Pending
    })
    .await;
    shard.stop();
    served.await;
    assert_eq!(shard.counters().connections, 0, "every connection ends with the shard");
    // The tasks of watch streams hear of their connections' end in their own turns, and many watchers go in slices.
    while 0 < shard.counters().watch_streams || 0 < shard.counters().watchers {
        glommio::timer::sleep(Duration::from_micros(100)).await;
    }
    let counters = shard.counters();
    assert_eq!(counters.unsent_bytes, 0, "no answer outlives its connection");
    assert_eq!(counters.watch_unsent_bytes, 0, "no watch response outlives its connection");
    assert_eq!(counters.watchers, 0, "no watcher outlives its stream");
    pump.cancel().await;
}

fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// An answer as a gRPC client sees it.
#[derive(Debug)]
struct Answered {
    http: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// None: the response headers ended the stream.
    trailers: Option<HeaderMap>,
}

impl Answered {
    fn status(&self) -> (u32, String) {
        let headers = self.trailers.as_ref().unwrap_or(&self.headers);
        let code = headers["grpc-status"].to_str().unwrap().parse().unwrap();
        let text = headers.get("grpc-message").map_or("", |text| text.to_str().unwrap());
        (code, percent_decode(text))
    }

    /// The one message of an answer that went well.
    fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.status(), (0, String::new()));
        let (prefix, payload) = self.body.split_at(PREFIX_BYTES);
        assert_eq!(prefix[0], 0);
        assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, payload.len());
        M::decode(payload).unwrap()
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_prefix(&mut out, false, payload.len().try_into().unwrap());
    out.extend_from_slice(payload);
    out
}

fn put(key: &str, value: &[u8]) -> Vec<u8> {
    let value = Bytes::copy_from_slice(value);
    framed(
        &pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value, ..Default::default() }
            .encode_to_vec(),
    )
}

fn get(key: &str) -> Vec<u8> {
    framed(
        &pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
            .encode_to_vec(),
    )
}

/// A range that is not of one key.
fn wide(key: &str) -> Vec<u8> {
    let range_end = Bytes::from_static(b"\0");
    let key = Bytes::copy_from_slice(key.as_bytes());
    framed(&pb::RangeRequest { key, range_end, ..Default::default() }.encode_to_vec())
}

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";

/// Runs a client's side of a test.
fn client<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(3 * PATIENCE, work).await.expect("in time") })
}

/// A client's connection.
#[derive(Clone)]
struct Client {
    requests: SendRequest<Bytes>,
    authority: String,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        // Hundreds of small answers may wait for their tasks here; h2's default takes that for abuse.
        Self::connect_with(server, h2::client::Builder::new().data_frame_budget(1 << 20)).await
    }

    async fn connect_with(server: &Server, builder: &mut h2::client::Builder) -> Self {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self { requests, authority: server.address.to_string() }
    }

    /// With the task of its connection, which ends when it is aborted.
    async fn connect_alone(server: &Server) -> (Self, tokio::task::JoinHandle<()>) {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        (Self { requests, authority: server.address.to_string() }, connection)
    }

    fn request(&self, path: &str) -> http::request::Builder {
        Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    }

    async fn call(&self, path: &str, body: Vec<u8>) -> Answered {
        self.send(self.request(path), body).await.unwrap()
    }

    async fn send(&self, request: http::request::Builder, body: Vec<u8>) -> Result<Answered, h2::Error> {
        let work = async {
            let mut requests = self.requests.clone().ready().await?;
            let (response, mut stream) = requests.send_request(request.body(()).unwrap(), false)?;
            // A server may answer before it has read everything and reset the rest.
            drop(stream.send_data(Bytes::from(body), true));
            read_answer(response).await
        };
        tokio::time::timeout(PATIENCE, work).await.expect("answered in time")
    }
}

async fn read_answer(response: h2::client::ResponseFuture) -> Result<Answered, h2::Error> {
    let (head, mut stream) = response.await?.into_parts();
    let only_headers = stream.is_end_stream();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        body.extend_from_slice(&piece);
        stream.flow_control().release_capacity(piece.len())?;
    }
    let trailers = if only_headers { None } else { stream.trailers().await? };
    Ok(Answered { http: head.status, headers: head.headers, body, trailers })
}
