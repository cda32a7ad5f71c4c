//! Reads and writes under `/v2/keys`.
//!
//! A list comes from the store in pages at one revision, is sorted here a page at a time and written in slices, so a
//! directory of any size holds up nobody but its own caller. Its bytes are counted in the request's place: one that is larger than there is room for is
//! refused.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures_lite::future;
use prost::Message as _;

use super::{CLUSTER_ID, INDEX, RAFT_INDEX, RAFT_TERM, Request, crowded, now_ns};
use crate::pb::peer;
use crate::request::{Command, NodeQuery, Query, Read, RequestKind, Response};
use crate::rpc::nodes::ask::{KEYS, METHODS};
use crate::rpc::nodes::fault::INVALID_FORM;
use crate::rpc::nodes::form::reads_body;
use crate::rpc::nodes::show::{Listing, put_event, status_of};
use crate::rpc::nodes::{Failure, Form, NodeAsk, Wanted};
use crate::rpc::status;
use crate::rpc::web::{AnswerHead, JSON};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::body::Body;
use crate::shell::client::call::place::Place;
use crate::shell::client::call::turns::Turn;
use crate::shell::client::signal::Signal;
use crate::shell::client::web::part::Part;
use crate::shell::client::web::sink::Sink;
use crate::shell::client::{Backend, ClientShard};
use crate::shell::runtime::pace::breathe;
use crate::types::limits::{PIECE_BYTES, PIECES_MAX, TURN_NS_IN_COMPANY};
use crate::types::{Slice, Term};

/// What a chunk has around its bytes.
const CHUNK_BYTES: usize = 32;

/// What is to be answered.
pub(super) struct Told {
    pub(super) answer: peer::NodeAnswer,
    pub(super) term: Term,
}

/// Reads the store's answer. What the state does not allow is a failure.
pub(super) fn told((term, response): (Term, Response)) -> Result<Told, Failure> {
    let answer = peer::NodeAnswer::decode(&response.body[..]).expect("the store's own message");
    if answer.fault == 0 {
        return Ok(Told { answer, term });
    }
    Err(Failure::new(answer.fault, answer.cause.to_vec()).at(answer.index))
}

impl<B: Backend> ClientShard<B> {
    /// The head of an answer that goes well.
    pub(super) fn node_head(&self, status: u16, told: &Told) -> AnswerHead {
        AnswerHead::new(status, JSON)
            .with(CLUSTER_ID, self.cluster_id())
            .with(INDEX, told.answer.index.to_string())
            .with(RAFT_INDEX, told.answer.applied.to_string())
            .with(RAFT_TERM, told.term.0.to_string())
    }

    /// Answers with an error.
    pub(super) fn answer_failure(&self, account: &Rc<Account>, sink: Sink, failure: &Failure) {
        let head = super::head_of(failure.status(), failure.index).with(CLUSTER_ID, self.cluster_id());
        sink.answer(account, head, |out| failure.put(out));
    }

    /// A request about nodes.
    pub(super) fn on_keys(
        self: &Rc<Self>,
        account: &Rc<Account>,
        root: &str,
        request: Request,
        body: &[u8],
        turn: Option<Turn>,
        sink: Sink,
    ) {
        let method = request.method.as_str();
        if !METHODS.split(',').any(|known| known == method) {
            let head = AnswerHead::of_text(405).with("Allow", METHODS);
            return sink.answer_bytes(account, head, b"Method Not Allowed\n");
        }
        let path = request.path.strip_prefix(KEYS).unwrap_or_default();
        let form = reads_body(method, request.content_type.as_deref())
            .and_then(|reads| Form::read(if reads { body } else { b"" }, request.query.as_bytes()))
            .map_err(|error| Failure::new(INVALID_FORM, error.to_string().into_bytes()));
        let ask = form.and_then(|form| NodeAsk::read(root, method, path, &form, now_ns()));
        let ask = match ask {
            Ok(ask) => ask,
            Err(failure) => return self.answer_failure(account, sink, &failure),
        };
        let shows_nothing = ask.shows_nothing;
        match ask.wanted {
            Wanted::Wait { wait, stream } => self.spawn_wait(account, request, wait, stream, sink),
            Wanted::Write(body) => {
                if (self.config.request_bytes_max as usize) < body.len() {
                    return self.answer_failure(
                        account,
                        sink,
                        &Failure::of_status(&status::REQUEST_TOO_LARGE),
                    );
                }
                self.spawn_write(account, request, body, shows_nothing, turn, sink);
            }
            Wanted::Read { query, linearizable } => {
                self.spawn_read(account, request, query, linearizable, sink);
            }
        }
    }

    fn spawn_write(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: Request,
        body: Bytes,
        shows_nothing: bool,
        turn: Option<Turn>,
        sink: Sink,
    ) {
        let Some(place) = self.node_place(request.bytes() + body.len()) else {
            return self.answer_failure(account, sink, &crowded());
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let _held = (place, turn);
            let command = Command::Propose { kind: RequestKind::NodeWrite, body, login: None };
            let answered = shard.ask_as(&account, request.authorization.as_deref(), command).await;
            match answered.map_err(|status| Failure::of_status(&status)).and_then(told) {
                Ok(mut told) => {
                    let event = told.answer.event.take().unwrap_or_default();
                    let head = shard.node_head(status_of(&event), &told);
                    sink.answer(&account, head, |out| {
                        put_event(&event, shows_nothing, now_ns(), out);
                    });
                }
                Err(failure) => shard.answer_failure(&account, sink, &failure),
            }
        })
        .detach();
    }

    fn spawn_read(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: Request,
        query: NodeQuery,
        linearizable: bool,
        sink: Sink,
    ) {
        let Some(mut place) = self.node_place(request.bytes()) else {
            return self.answer_failure(account, sink, &crowded());
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        glommio::spawn_local(async move {
            let read = shard.read_pages(&account, &request, query, linearizable, &mut place);
            let gone = async {
                poll_fn(|cx| sink.poll_gone(cx)).await;
                None
            };
            let Some(answered) = future::or(async { Some(read.await) }, gone).await else { return };
            match answered {
                Ok((told, listing)) => {
                    let head = shard.node_head(200, &told);
                    let is_shown = request.method != "HEAD";
                    answer_list(head, told, listing, is_shown, &account, sink).await;
                }
                Err(failure) => shard.answer_failure(&account, sink, &failure),
            }
        })
        .detach();
    }

    /// A node and all pages of what is below it, at one revision.
    async fn read_pages(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: &Request,
        mut query: NodeQuery,
        linearizable: bool,
        place: &mut Place,
    ) -> Result<(Told, Listing), Failure> {
        let mut held = request.bytes();
        let mut listing = Listing::default();
        let mut first: Option<Told> = None;
        loop {
            let is_first = first.is_none();
            let read = Read::new(linearizable && is_first, Query::Node(query.clone().into()));
            let answered = self.ask_as(account, request.authorization.as_deref(), Command::Read(read)).await;
            let mut page = told(answered.map_err(|status| Failure::of_status(&status))?)?;
            held += page
                .answer
                .nodes
                .iter()
                // What a node is in memory, and its text.
                .map(|node| 256 + 3 * (node.path.len() + node.value.len()))
                .sum::<usize>();
            if !place.hold(held) {
                return Err(crowded());
            }
            let resume = page.answer.resume.take();
            listing.add(std::mem::take(&mut page.answer.nodes));
            let told = first.take().unwrap_or(page);
            let Some(resume) = resume else { return Ok((told, listing)) };
            query.at = i64::try_from(told.answer.index).unwrap_or(i64::MAX);
            query.resume = Some(resume);
            first = Some(told);
        }
    }
}

/// Writes a list in slices and sends it in pieces, two ahead of its client. A short one is one piece, whose length its
/// head says.
async fn answer_list(
    head: AnswerHead,
    mut told: Told,
    mut listing: Listing,
    is_shown: bool,
    account: &Rc<Account>,
    sink: Sink,
) {
    let node = told.answer.event.take().and_then(|event| event.node).unwrap_or_default();
    let now_ns = now_ns();
    let mut text = Vec::new();
    listing.begin(node, now_ns, &mut text);
    // Only the length of what is not shown is sent.
    let piece_bytes = if is_shown { PIECE_BYTES } else { usize::MAX };
    let mut is_over = put_piece(&mut listing, now_ns, piece_bytes, &mut text).await;
    if is_over {
        return sink.answer_bytes(account, head, &text);
    }
    let Some(stream) = sink.open(head) else { return };
    let framing = stream.framing();
    let mut leaving = VecDeque::<Rc<Signal>>::new();
    loop {
        let mut piece = Vec::with_capacity(text.len() + CHUNK_BYTES);
        let start = framing.begin(&mut piece);
        piece.append(&mut text);
        framing.end(&mut piece, start, Part::Middle);
        let has_left = Rc::new(Signal::default());
        if stream.send(Body::with_signal(account, piece.into(), &has_left)).is_err() {
            return stream.cut();
        }
        if is_over {
            return stream.end(Vec::new());
        }
        leaving.push_back(has_left);
        if PIECES_MAX <= leaving.len() {
            let has_left = leaving.pop_front().expect("there are some");
            let goes_on = poll_fn(|cx| match stream.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => has_left.poll_fired(cx).map(|()| true),
            });
            if !goes_on.await {
                return stream.cut();
            }
        }
        is_over = put_piece(&mut listing, now_ns, piece_bytes, &mut text).await;
    }
}

/// Writes the next piece, in turns between which others have theirs. True when it is the last one.
async fn put_piece(listing: &mut Listing, now_ns: u64, bytes_max: usize, text: &mut Vec<u8>) -> bool {
    loop {
        let is_over = listing.put(now_ns, bytes_max, &mut Slice::of(TURN_NS_IN_COMPANY), text);
        if is_over || bytes_max <= text.len() {
            return is_over;
        }
        breathe().await;
    }
}
