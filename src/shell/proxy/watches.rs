//! The watches of a proxy's clients, joined: `watch::RemoteFeed` on its streams and rings.
//!
//! ```text
//! shard 0 … n: Hub ── orders ─► Joint (on the first executor) ── Watch streams ─► members
//!                  ◄─ news ───
//! ```
//!
//! Whatever the shards, members see one watch of a range. A stream is a task: it finds a member whose watches can be
//! joined, lets requests out as the window has room, and gives the feed what comes. Streams want a leader of their
//! member, so that one that is cut off is left for another.
//!
//! Members are asked for their version when a stream reaches them: etcd before 3.4.25 and 3.5.8 answers progress requests
//! out of order. With no other in reach nothing is joined, and clients' streams are passed on one by one.
//!
//! Bounds: the feed's; news by what is subscribed; requests by what clients subscribe.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;

use crate::pb::etcdserverpb as pb;
use crate::rpc::framing::Splitter;
use crate::rpc::{Method, status};
use crate::shell::runtime::mesh::{Doorbell, Sender, SharedBell, SharedRing, shared_sender};
use crate::shell::runtime::wake::Wake;
use crate::shell::upstream::{Asked, Call, Said, Tried, Upstream};
use crate::types::Term;
use crate::watch::remote::{Act, Answerer};
use crate::watch::{Notice, Order, Received, RemoteFeed};

/// Orders of a shard that are under way, as in a member.
const ORDERS_MAX: usize = 2_048;

/// News of a shard that find room at once.
const NEWS_MAX: usize = 1_024;

/// The clock while something waits, and while nothing does.
const TICK: Duration = Duration::from_millis(10);
const IDLE_TICK: Duration = Duration::from_millis(250);

/// How long a member's version counts, and how long it may take to say it.
const VERSION_TTL: Duration = Duration::from_secs(10);
const VERSION_PATIENCE: Duration = Duration::from_secs(2);

/// How long the start waits until it is known whether watches can be joined, and the pause between two looks.
const LEARN_PATIENCE: Duration = Duration::from_secs(2);
const LEARN_PAUSE: Duration = Duration::from_secs(5);

/// Pieces of one stream that are taken in one go.
const PIECES_A_TURN: usize = 16;

/// Said to watches that can be joined no more.
const APART: &str = "etcdserver: watches are passed on one by one from now on, as the members answer progress \
                     requests out of order";

/// What a shard hears.
#[derive(Debug)]
pub(super) enum News {
    Notice {
        epoch: u64,
        term: Term,
        notice: Notice,
    },
    /// Who answers from now on.
    Answerer(Answerer),
    /// Everything before is void, and all watches end.
    Renew {
        epoch: u64,
        reason: String,
    },
    Leader(bool),
}

/// What shards and the feed share.
#[derive(Debug)]
pub(super) struct Joints {
    bell: Arc<SharedBell>,
    orders: Vec<Arc<SharedRing<(u64, Order)>>>,
    news: Vec<Arc<SharedRing<News>>>,
    /// What was committed when some client last asked for a watch.
    floor: AtomicI64,
    /// Watches are joined.
    is_joined: AtomicBool,
}

impl Joints {
    /// For shards with these bells.
    pub(super) fn new(shards: &[Arc<SharedBell>]) -> Arc<Self> {
        let bell = Arc::<SharedBell>::default();
        Arc::new(Self {
            orders: shards.iter().map(|_| SharedRing::new(ORDERS_MAX, Arc::clone(&bell))).collect(),
            news: shards.iter().map(|bell| SharedRing::new(NEWS_MAX, Arc::clone(bell))).collect(),
            bell,
            floor: AtomicI64::new(0),
            is_joined: AtomicBool::new(false),
        })
    }

    pub(super) fn is_joined(&self) -> bool {
        self.is_joined.load(Ordering::Acquire)
    }

    /// No order from now on may be answered as of an older revision.
    pub(super) fn raise_floor(&self, revision: i64) {
        self.floor.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn orders_of(&self, shard: usize) -> &Arc<SharedRing<(u64, Order)>> {
        &self.orders[shard]
    }

    pub(super) fn news_of(&self, shard: usize) -> &Arc<SharedRing<News>> {
        &self.news[shard]
    }
}

/// A stream's requests.
#[derive(Default)]
struct Outgoing {
    requests: RefCell<VecDeque<Bytes>>,
    wake: Wake,
    is_closed: Cell<bool>,
}

/// The feed on its executor.
pub(super) struct Joint {
    joints: Arc<Joints>,
    upstream: Rc<Upstream>,
    feed: RefCell<RemoteFeed>,
    epoch: Cell<u64>,
    streams: RefCell<BTreeMap<u64, Rc<Outgoing>>>,
    news: Vec<Sender<News>>,
    answerer: Cell<Answerer>,
    has_leader: Cell<bool>,
    /// News wait for room.
    is_late: Cell<bool>,
    /// Whether the watches of an endpoint can be joined, and when it was asked.
    versions: RefCell<BTreeMap<usize, (Instant, bool)>>,
    begun: Instant,
}

impl Joint {
    /// Begins, and waits a moment until it is known whether watches can be joined.
    pub(super) async fn start(joints: Arc<Joints>, upstream: Rc<Upstream>) {
        let shards = joints.orders.len();
        let joint = Rc::new(Self {
            feed: RefCell::new(RemoteFeed::new(shards)),
            epoch: Cell::new(0),
            streams: RefCell::default(),
            news: joints.news.iter().map(shared_sender).collect(),
            answerer: Cell::default(),
            has_leader: Cell::new(true),
            is_late: Cell::new(false),
            versions: RefCell::default(),
            begun: Instant::now(),
            joints,
            upstream,
        });
        glommio::spawn_local(Rc::clone(&joint).take_orders()).detach();
        glommio::spawn_local(Rc::clone(&joint).tick()).detach();
        let learning = glommio::spawn_local(Rc::clone(&joint).learn());
        let late = glommio::timer::sleep(LEARN_PATIENCE);
        let learned = async {
            while !joint.joints.is_joined() {
                glommio::timer::sleep(TICK).await;
            }
        };
        futures_lite::future::or(learned, async {
            late.await;
        })
        .await;
        learning.detach();
    }

    /// Looks for a member whose watches can be joined, for ever, while there is none.
    async fn learn(self: Rc<Self>) {
        loop {
            if !self.joints.is_joined()
                && let Err(reason) = self.begin().await
            {
                tracing::warn!(reason, "watches are passed on one by one");
            }
            glommio::timer::sleep(LEARN_PAUSE).await;
        }
    }

    async fn take_orders(self: Rc<Self>) {
        let bell = Doorbell::new(Arc::clone(&self.joints.bell));
        loop {
            bell.wait(|| self.joints.orders.iter().any(|ring| !ring.is_empty())).await;
            for (shard, ring) in (0..).zip(&self.joints.orders) {
                while let Some((epoch, order)) = ring.take() {
                    if epoch == self.epoch.get() {
                        let floor = self.joints.floor.load(Ordering::Acquire);
                        self.feed.borrow_mut().on_order(shard, order, floor);
                        self.carry_out();
                    }
                }
            }
        }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            let is_busy = self.is_late.get() || self.feed.borrow().is_busy();
            glommio::timer::sleep(if is_busy { TICK } else { IDLE_TICK }).await;
            let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.feed.borrow_mut().on_tick(now_ms);
            self.carry_out();
        }
    }

    /// Does what the feed wants done.
    fn carry_out(self: &Rc<Self>) {
        loop {
            let Some(act) = self.feed.borrow_mut().take_act() else { break };
            match act {
                Act::Open { stream } => {
                    let out = Rc::<Outgoing>::default();
                    self.streams.borrow_mut().insert(stream, Rc::clone(&out));
                    glommio::spawn_local(Rc::clone(self).carry(stream, out)).detach();
                }
                Act::Send { stream, request } => {
                    if let Some(out) = self.streams.borrow().get(&stream) {
                        out.requests.borrow_mut().push_back(request.encode_to_vec().into());
                        out.wake.ring();
                    }
                }
                Act::Close { stream } => {
                    if let Some(out) = self.streams.borrow_mut().remove(&stream) {
                        out.is_closed.set(true);
                        out.wake.ring();
                    }
                }
                Act::AskPresent => {
                    let joint = Rc::clone(self);
                    glommio::spawn_local(async move {
                        let epoch = joint.epoch.get();
                        if let Ok(revision) = joint.upstream.present().await
                            && epoch == joint.epoch.get()
                        {
                            joint.feed.borrow_mut().on_present(revision);
                            joint.carry_out();
                        }
                    })
                    .detach();
                }
                Act::Tell { shard, notice } => {
                    let term = Term(self.feed.borrow().answerer().term);
                    let news = News::Notice { epoch: self.epoch.get(), term, notice };
                    self.news[usize::from(shard)].send_always(news);
                }
                Act::Renew { reason } => {
                    tracing::warn!(reason, "all watches end");
                    let epoch = self.epoch.get() + 1;
                    self.epoch.set(epoch);
                    self.joints.floor.store(0, Ordering::Release);
                    self.tell_all(|| News::Renew { epoch, reason: reason.clone() });
                }
            }
        }
        let answerer = self.feed.borrow().answerer();
        if answerer != self.answerer.replace(answerer) {
            self.tell_all(|| News::Answerer(answerer));
        }
        let mut is_late = false;
        for news in &self.news {
            is_late |= news.ring();
        }
        self.is_late.set(is_late);
        // Those that waited for room look again.
        let feed = self.feed.borrow();
        for (stream, out) in &*self.streams.borrow() {
            if feed.has_room(*stream) {
                out.wake.ring();
            }
        }
    }

    fn tell_all(&self, news: impl Fn() -> News) {
        self.news.iter().for_each(|shard| shard.send_always(news()));
    }

    fn note_leader(&self, has_leader: bool) {
        if self.has_leader.replace(has_leader) != has_leader {
            self.tell_all(|| News::Leader(has_leader));
        }
    }

    /// Keeps a stream until either side ends it.
    async fn carry(self: Rc<Self>, stream: u64, out: Rc<Outgoing>) {
        let ended = match self.begin().await {
            Ok(call) => {
                if !out.is_closed.get() {
                    self.feed.borrow_mut().on_opened(stream);
                    self.carry_out();
                }
                self.relay(stream, &out, call).await
            }
            Err(reason) => reason,
        };
        if !out.is_closed.get() {
            tracing::debug!(stream, reason = ended, "a watch stream of the proxy has ended");
            self.streams.borrow_mut().remove(&stream);
            self.feed.borrow_mut().on_ended(stream);
            self.carry_out();
        }
    }

    /// A watch stream at a member whose watches can be joined; or why there is none.
    async fn begin(&self) -> Result<Call, String> {
        let asked = Asked {
            path: Method::Watch.row().path,
            said: Said { needs_leader: true, is_recent: true, ..Said::default() },
            timeout: None,
            first: None,
            is_unary: false,
            fails_fast: true,
        };
        let mut tried = Tried::default();
        loop {
            let begun = self.upstream.begin(&asked, &mut tried).await;
            let call = match begun {
                Ok(call) => call,
                // None of those that could be asked, if any could.
                Err(status) => {
                    if self.versions.borrow().values().any(|(_, can_join)| !can_join) {
                        self.part();
                    }
                    return Err(status.message.into_owned());
                }
            };
            if self.can_join(tried).await? {
                self.joints.is_joined.store(true, Ordering::Release);
                return Ok(call);
            }
        }
    }

    /// Whether the watches of the endpoint that was tried last can be joined.
    async fn can_join(&self, tried: Tried) -> Result<bool, String> {
        let endpoint = tried.last();
        let known = self.versions.borrow().get(&endpoint).copied();
        if let Some((_, can_join)) = known.filter(|(asked, _)| asked.elapsed() < VERSION_TTL) {
            return Ok(can_join);
        }
        let request = pb::StatusRequest {};
        let told =
            self.upstream.ask_at::<pb::StatusResponse>(endpoint, Method::Status, &request, VERSION_PATIENCE);
        let version = told.await.map_err(|status| status.message.into_owned())?.version;
        let can_join = answers_in_order(&version);
        self.versions.borrow_mut().insert(endpoint, (Instant::now(), can_join));
        Ok(can_join)
    }

    /// Watches are joined no more.
    fn part(&self) {
        if self.joints.is_joined.swap(false, Ordering::AcqRel) {
            self.feed.borrow_mut().give_up(APART);
        }
    }

    /// Passes requests on and takes what comes, until the end.
    async fn relay(self: &Rc<Self>, stream: u64, out: &Outgoing, mut call: Call) -> String {
        let mut splitter = Splitter::new(self.upstream.config().receive_bytes_max);
        poll_fn(|cx| {
            // What is woken is looked at below, and the next ring wakes again.
            while out.wake.poll_rung(cx).is_ready() {}
            if out.is_closed.get() {
                return Poll::Ready("it is not needed any more".to_owned());
            }
            self.poll_relay(stream, out, &mut call, &mut splitter, cx)
        })
        .await
    }

    fn poll_relay(
        self: &Rc<Self>,
        stream: u64,
        out: &Outgoing,
        call: &mut Call,
        splitter: &mut Splitter,
        cx: &mut Context<'_>,
    ) -> Poll<String> {
        for _ in 0..PIECES_A_TURN {
            while !out.requests.borrow().is_empty() && call.poll_room(cx).is_ready() {
                let request = out.requests.borrow_mut().pop_front().expect("it is there");
                call.send(&request);
            }
            if !self.feed.borrow().has_room(stream) {
                return Poll::Pending;
            }
            let piece = match call.poll_piece(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(piece))) => piece,
                Poll::Ready(Ok(None)) => return Poll::Ready("the member has ended it".to_owned()),
                Poll::Ready(Err(failure)) => {
                    let status = failure.status();
                    if status == status::NO_LEADER {
                        self.note_leader(false);
                    }
                    return Poll::Ready(status.message.into_owned());
                }
            };
            call.release(piece.len());
            splitter.push(&piece);
            loop {
                let message = match splitter.take() {
                    Ok(Some(message)) if !message.compressed => message.payload,
                    Ok(Some(_)) => {
                        return Poll::Ready("a compressed answer that nobody asked for".to_owned());
                    }
                    Ok(None) => break,
                    Err(error) => return Poll::Ready(error.to_string()),
                };
                let Some(received) = Received::read(&message) else {
                    return Poll::Ready("what came is no answer of a watch".to_owned());
                };
                self.note_leader(true);
                self.feed.borrow_mut().on_received(stream, received);
                if out.is_closed.get() {
                    break;
                }
            }
            self.carry_out();
            if out.is_closed.get() {
                return Poll::Ready("it is not needed any more".to_owned());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Whether a member of this version answers a progress request behind the events that were before it.
fn answers_in_order(version: &str) -> bool {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(3), Some(4), Some(patch)) => 25 <= patch,
        (Some(3), Some(5), Some(patch)) => 8 <= patch,
        (Some(3), Some(minor), Some(_)) => 6 <= minor,
        (Some(major), Some(_), Some(_)) => 3 < major,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_joined_from_those_releases_on_that_answer_progress_in_order() {
        for version in ["3.4.25", "3.5.8", "3.5.30", "3.6.0", "3.7.1", "3.6.0-rc.1", "4.0.0"] {
            assert!(answers_in_order(version), "{version}");
        }
        for version in ["3.3.27", "3.4.23", "3.4.24", "3.5.7", "2.3.8", "", "3", "3.5", "x.y.z", "3.-1.2"] {
            assert!(!answers_in_order(version), "{version}");
        }
    }
}
