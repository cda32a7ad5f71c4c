//! etcd's v2 API: which path is what, and who answers it. On by `--enable-v2`.
//!
//! | path | file |
//! |---|---|
//! | `/v2/keys/…` | `keys`: reads and writes; `waits`: long polls and streams |
//! | `/v2/members…`, `/v2/machines` | `members` |
//! | `/v2/stats/…` | `stats` |
//! | `/v2/auth/…` | refused by name: users and roles are those of v3 |
//!
//! A request has a task. It asks in the name of whoever `basic` finds in its header; whether that user may is decided
//! where the request is applied or answered, as for v3.
//!
//! Bounds: requests and lists under way are places of `Kind::Node`, with the bytes that they hold; waits are places of
//! `Kind::NodeWait`. Whoever finds no place is refused. A connection has one request at a time.

pub(in crate::shell::client) mod basic;
mod keys;
mod members;
mod stats;
pub(in crate::shell::client) mod waits;

use std::borrow::Cow;
use std::rc::Rc;

use crate::request::Command;
use crate::rpc::nodes::Failure;
use crate::rpc::nodes::ask::KEYS;
use crate::rpc::web::{AnswerHead, Ask, JSON};
use crate::shell::client::call::account::Account;
use crate::shell::client::call::identity::guarded;
use crate::shell::client::call::place::{Kind, Place};
use crate::shell::client::call::turns::Turn;
use crate::shell::client::web::sink::Sink;
use crate::shell::client::{Backend, ClientShard};

const CLUSTER_ID: &str = "X-Etcd-Cluster-Id";
const INDEX: &str = "X-Etcd-Index";
const RAFT_INDEX: &str = "X-Raft-Index";
const RAFT_TERM: &str = "X-Raft-Term";

/// What is kept of a request until its body has come.
pub(in crate::shell::client) struct Request {
    method: String,
    /// Clean, without escapes.
    path: Vec<u8>,
    query: String,
    content_type: Option<Vec<u8>>,
    authorization: Option<Vec<u8>>,
}

impl Request {
    pub(in crate::shell::client) fn of(ask: &Ask<'_>, path: Cow<'_, [u8]>) -> Self {
        let header = |name| ask.header(name).map(<[u8]>::to_vec);
        Self {
            method: ask.method.to_owned(),
            path: path.into_owned(),
            query: ask.query.to_owned(),
            content_type: header("content-type"),
            authorization: header("authorization"),
        }
    }

    fn bytes(&self) -> usize {
        self.path.len() + self.query.len()
    }
}

/// Answers with an error that no state was asked about.
pub(in crate::shell::client) fn refuse(account: &Rc<Account>, sink: Sink, failure: &Failure) {
    sink.answer(account, head_of(failure.status(), failure.index), |out| failure.put(out));
}

fn head_of(status: u16, index: u64) -> AnswerHead {
    AnswerHead::new(status, JSON).with(INDEX, index.to_string())
}

/// One that finds no room.
fn crowded() -> Failure {
    Failure::new(crate::rpc::nodes::fault::INTERNAL, &b"etcdserver: too many requests"[..])
}

impl<B: Backend> ClientShard<B> {
    /// A request of the v2 API has come, its body with it.
    pub(in crate::shell::client) fn on_v2(
        self: &Rc<Self>,
        account: &Rc<Account>,
        request: Request,
        body: &[u8],
        turn: Option<Turn>,
        sink: Sink,
    ) {
        let not_found = |sink: Sink, why: Cow<'static, str>| {
            sink.answer_bytes(account, AnswerHead::of_text(404), why.as_bytes());
        };
        let Some(root) = self.config.web.v2_root.clone() else {
            return not_found(sink, "404 page not found: this member serves /v2 with --enable-v2\n".into());
        };
        let only_get = |sink: Sink| {
            let head = AnswerHead::of_text(405).with("Allow", "GET");
            sink.answer_bytes(account, head, b"Method Not Allowed\n");
        };
        let path = request.path.clone();
        let is_get = request.method == "GET";
        let rest = |prefix: &[u8]| {
            path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        if rest(KEYS).is_some() {
            return self.on_keys(account, &root, request, body, turn, sink);
        }
        if let Some(rest) = rest(b"/v2/members") {
            let rest = String::from_utf8_lossy(rest);
            return self.on_members(account, request, &rest, body, sink);
        }
        if rest(b"/v2/auth").is_some() {
            let why = "404 page not found: users and roles of /v2 are those of v3; use /v3/auth or etcdctl\n";
            return not_found(sink, why.into());
        }
        match &path[..] {
            b"/v2/machines" if is_get || request.method == "HEAD" => self.spawn_machines(account, sink),
            b"/v2/machines" => {
                let head = AnswerHead::of_text(405).with("Allow", "GET,HEAD");
                sink.answer_bytes(account, head, b"Method Not Allowed\n");
            }
            b"/v2/stats/self" | b"/v2/stats/store" | b"/v2/stats/leader" if !is_get => only_get(sink),
            b"/v2/stats/self" => self.spawn_self_stats(account, sink),
            b"/v2/stats/store" => self.spawn_store_stats(account, sink),
            b"/v2/stats/leader" => self.spawn_leader_stats(account, sink),
            _ => not_found(sink, "404 page not found\n".into()),
        }
    }

    /// A place for a request that holds so many bytes.
    fn node_place(&self, bytes: usize) -> Option<Place> {
        Place::begin(&self.places, Kind::Node).and_then(|mut place| place.hold(bytes).then_some(place))
    }

    fn cluster_id(&self) -> String {
        format!("{:x}", self.config.cluster.0)
    }

    /// Asks a command in the name of whoever a header shows.
    async fn ask_as(
        self: &Rc<Self>,
        account: &Rc<Account>,
        authorization: Option<&[u8]>,
        command: Command,
    ) -> Result<(crate::types::Term, crate::request::Response), crate::rpc::Status> {
        let command = match self.basic_login(account.address, authorization).await? {
            None => command,
            Some(login) => guarded(command, login),
        };
        self.ask(command).await
    }
}

/// Nanoseconds since 1970.
fn now_ns() -> u64 {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
