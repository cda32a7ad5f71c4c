//! Long polls and streams of changes.
//!
//! A wait is asked of the store, which knows the history (`directory::waits`), and told once; a stream asks for the next
//! change when the last one has left. So a client that does not read holds one change, and what it is slow for is
//! history.
//!
//! Who may wait is asked when the wait begins, and again before a change is told if rights have changed since.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_lite::future;
use prost::Message as _;

use super::keys::told;
use super::{Request, crowded, now_ns};
use crate::pb::peer;
use crate::request::{Command, NodeQuery, NodeWait, Query, Read, WaitId, WaitNews, WaitOrder};
use crate::rpc::nodes::Failure;
use crate::rpc::nodes::show::put_event;
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::place::{Kind, Place};
use crate::shell::client::signal::Signal;
use crate::shell::client::web::part::Part;
use crate::shell::client::web::sink::{Sink, SinkStream};
use crate::shell::client::{Backend, ClientShard};

/// Where a task waits for its news.
#[derive(Default)]
struct Slot {
    news: RefCell<Option<WaitNews>>,
    waker: RefCell<Option<Waker>>,
}

impl Slot {
    fn poll_take(&self, cx: &mut Context<'_>) -> Poll<WaitNews> {
        if let Some(news) = self.news.take() {
            return Poll::Ready(news);
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// The waits of a shard that are with the store.
#[derive(Default)]
pub(in crate::shell::client) struct NodeWaits {
    next: Cell<u64>,
    slots: RefCell<BTreeMap<WaitId, Rc<Slot>>>,
}

/// One of them. Dropped before its news, it is taken back.
struct Waiting<B: Backend> {
    shard: Rc<ClientShard<B>>,
    id: WaitId,
    slot: Rc<Slot>,
}

impl<B: Backend> Drop for Waiting<B> {
    fn drop(&mut self) {
        if self.shard.node_waits.slots.borrow_mut().remove(&self.id).is_some() {
            self.shard.backend.order_wait(WaitOrder::Cancel { id: self.id });
        }
    }
}

impl<B: Backend> ClientShard<B> {
    /// News for whoever waits.
    pub(in crate::shell::client) fn on_wait_news(&self, news: WaitNews) {
        let slot = self.node_waits.slots.borrow_mut().remove(&news.id);
        if let Some(slot) = slot {
            slot.news.replace(Some(news));
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        }
    }

    fn begin_wait(self: &Rc<Self>, wait: NodeWait) -> Waiting<B> {
        let waits = &self.node_waits;
        let id = WaitId(waits.next.replace(waits.next.get() + 1));
        let slot = Rc::<Slot>::default();
        waits.slots.borrow_mut().insert(id, Rc::clone(&slot));
        self.backend.order_wait(WaitOrder::Begin { id, wait: wait.into() });
        Waiting { shard: Rc::clone(self), id, slot }
    }

    pub(super) fn spawn_wait(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: Request,
        wait: NodeWait,
        stream: bool,
        sink: Sink,
    ) {
        let place = Place::begin(&self.places, Kind::NodeWait)
            .and_then(|mut place| place.hold(4 * request.bytes()).then_some(place));
        let Some(place) = place else { return self.answer_failure(account, sink, &crowded()) };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let _place = place;
            shard.wait(&account, &request, wait, stream, sink).await;
        })
        .detach();
    }

    /// How far the state has come, if it may be read and what is waited for is not compacted.
    async fn standing(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: &Request,
        wait: &NodeWait,
    ) -> Result<super::keys::Told, Failure> {
        let query = NodeQuery {
            path: wait.path.clone(),
            recursive: wait.recursive,
            is_standing: true,
            at: wait.from,
            resume: None,
        };
        let read = Read::new(false, Query::Node(query.into()));
        let asked = self.ask_as(account, request.authorization.as_deref(), Command::Read(read)).await;
        told(asked.map_err(|status| Failure::of_status(&status))?)
    }

    async fn wait(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: &Request,
        mut wait: NodeWait,
        stream: bool,
        sink: Sink,
    ) {
        let mut revision = self.identities.revision();
        let standing = match self.standing(account, request, &wait).await {
            Ok(standing) => standing,
            Err(failure) => return self.answer_failure(account, sink, &failure),
        };
        if wait.from == 0 {
            wait.from = i64::try_from(standing.answer.index).unwrap_or(i64::MAX).saturating_add(1);
        }
        let Some(answer) = sink.open(self.node_head(200, &standing)) else { return };
        let stop = self.signal_at_stop();
        loop {
            let waiting = self.begin_wait(wait.clone());
            let news = async { Some(poll_fn(|cx| waiting.slot.poll_take(cx)).await) };
            let over = async {
                future::or(poll_fn(|cx| answer.poll_gone(cx)), poll_fn(|cx| stop.poll_fired(cx))).await;
                None
            };
            // A client that gets nothing has to ask again: the same as when a server goes.
            let Some(news) = future::or(news, over).await else { return answer.end(Vec::new()) };
            drop(waiting);
            if revision != self.identities.revision() {
                revision = self.identities.revision();
                let asked = NodeWait { from: 0, ..wait.clone() };
                if self.standing(account, request, &asked).await.is_err() {
                    return answer.end(Vec::new());
                }
            }
            let told = peer::NodeAnswer::decode(news.answer).expect("the store's own message");
            let Some(event) = told.event else { return answer.end(Vec::new()) };
            let line = framed(&answer, &event);
            if !stream {
                return answer.end(line);
            }
            let has_left = Rc::<Signal>::default();
            if answer.send(Body::with_signal(account, Bytes::from(line), &has_left)).is_err() {
                return;
            }
            let left = poll_fn(|cx| has_left.poll_fired(cx));
            let gone = poll_fn(|cx| answer.poll_gone(cx));
            future::or(left, gone).await;
            wait.from = i64::try_from(told.index).unwrap_or(i64::MAX);
            wait.passed = news.passed;
        }
    }
}

/// An event as a part of the answer.
fn framed(answer: &SinkStream, event: &peer::NodeEvent) -> Vec<u8> {
    let mut line = Vec::with_capacity(512);
    let framing = answer.framing();
    let start = framing.begin(&mut line);
    put_event(event, false, now_ns(), &mut line);
    framing.end(&mut line, start, Part::Whole);
    line
}
