//! `v3electionpb.Election`: `Campaign`, `Proclaim`, `Leader`, `Observe` and `Resign`.
//!
//! The queue is `rpc::queue`; how a call waits and ends is `recipe`. An observer has one message at
//! most on its way out and reads its watcher when that has left, so a client that does not read holds
//! one leader's key and value; it sees every value all the same unless history is compacted under it.
//!
//! Compatibility: other than etcd, `Leader` and `Resign` with lease 0 grant no lease that nobody uses.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message as _;

use super::decode;
use super::end::Ended;
use super::local_watch::{LocalWatch, News};
use super::recipe::{Caller, RecipeAnswer, standing};
use crate::pb::mvccpb::{self, KeyValue};
use crate::pb::{etcdserverpb as pb, v3electionpb};
use crate::request::Response;
use crate::rpc::queue::{self, Contender, Purpose, Standing, rethrown};
use crate::rpc::status;
use crate::shell::client::Backend;
use crate::shell::client::responder::AnswerStream;
use crate::types::LeaseId;
use crate::watch::{Event, WatchRange};

impl<B: Backend> Caller<B> {
    /// Answers when the caller leads.
    pub(super) async fn campaign(&mut self, payload: Bytes) -> Result<RecipeAnswer, Ended> {
        let v3electionpb::CampaignRequest { name, lease, value } = decode(payload)?;
        let session = self.session(LeaseId(lease)).await?;
        let mut contender = Contender::new(Purpose::Election, &name, session.lease, value);
        let standing = self.acquire(&mut contender, session).await?;
        let leader = v3electionpb::LeaderKey {
            name,
            key: contender.key().clone(),
            rev: contender.create_revision(),
            lease: session.lease.0,
        };
        let response = v3electionpb::CampaignResponse { header: None, leader: Some(leader) };
        Ok(RecipeAnswer { standing, body: response.encode_to_vec() })
    }

    /// Gives the leader's key another value, if it is still the one it was.
    pub(in crate::shell::client) async fn proclaim(&mut self, payload: Bytes) -> Result<RecipeAnswer, Ended> {
        let v3electionpb::ProclaimRequest { leader, value } = decode(payload)?;
        let leader = leader.ok_or(status::ELECTION_LEADER_MISSING)?;
        if leader.key.is_empty() {
            // Before a lease is granted for it.
            return Err(rethrown(status::KEY_EMPTY).into());
        }
        let session = self.session(LeaseId(leader.lease)).await?;
        let request = queue::proclaim(leader.key, leader.rev, value, session.lease);
        let proclaimed = self.carry_out(&request).await.and_then(|(standing, succeeded)| {
            if succeeded { Ok(standing) } else { Err(status::ELECTION_NOT_LEADER.into()) }
        });
        if proclaimed.is_err() {
            self.clean_up(session, None).await;
        }
        Ok(RecipeAnswer { standing: proclaimed?, body: Vec::new() })
    }

    /// Deletes the leader's key, if it is still the one it was.
    pub(in crate::shell::client) async fn resign(&mut self, payload: Bytes) -> Result<RecipeAnswer, Ended> {
        let v3electionpb::ResignRequest { leader } = decode(payload)?;
        let leader = leader.ok_or(status::ELECTION_LEADER_MISSING)?;
        let (standing, _) = self.carry_out(&queue::resign(leader.key, leader.rev)).await?;
        Ok(RecipeAnswer { standing, body: Vec::new() })
    }

    /// Tells the leader's key.
    pub(in crate::shell::client) async fn leader(&mut self, payload: Bytes) -> Result<RecipeAnswer, Ended> {
        let request: v3electionpb::LeaderRequest = decode(payload)?;
        let (term, response) = self.ask(queue::leader(&request.name)).await?;
        let kv = Some(first_key(&response).ok_or(status::ELECTION_NO_LEADER)?);
        let body = v3electionpb::LeaderResponse { header: None, kv }.encode_to_vec();
        Ok(RecipeAnswer { standing: standing(term, &response), body })
    }

    /// Proposes a guarded transaction; tells whether the guard held.
    async fn carry_out(&mut self, request: &pb::TxnRequest) -> Result<(Standing, bool), Ended> {
        let bytes_max = self.shard.limits.request_bytes_max;
        let command = queue::propose_txn(request, bytes_max).map_err(rethrown)?;
        let (term, response) = self.ask(command).await?;
        let answer = pb::TxnResponse::decode(&response.body[..]).expect("the state machine's answer decodes");
        Ok((standing(term, &response), answer.succeeded))
    }

    /// Sends the present leader, each of its values, and then the next one.
    pub(in crate::shell::client) async fn observe(mut self, payload: Bytes) {
        let Some(responder) = self.responder.take() else { return };
        let request: v3electionpb::LeaderRequest = match decode(payload) {
            Ok(request) => request,
            Err(status) => return responder.refuse(&status),
        };
        let Some(mut stream) = responder.open() else { return };
        let ended = self.observe_on(&request.name, &mut stream).await;
        stream.end(Err(ended));
    }

    async fn observe_on(&self, name: &[u8], stream: &mut AnswerStream) -> Ended {
        let mut observer = Observer { caller: self, stream, name, sent: (Bytes::new(), 0) };
        loop {
            if let Err(ended) = observer.follow_next_leader().await {
                return ended;
            }
        }
    }
}

/// The task of an `Observe`.
struct Observer<'a, B: Backend> {
    caller: &'a Caller<B>,
    stream: &'a mut AnswerStream,
    name: &'a [u8],
    /// Key and `mod_revision` of what was sent last: a second look after a compaction repeats nothing.
    sent: (Bytes, i64),
}

impl<B: Backend> Observer<'_, B> {
    /// Waits for a leader if there is none, and sends what it says until it goes.
    async fn follow_next_leader(&mut self) -> Result<(), Ended> {
        // Any failure of the store ends an observer with one text, as in etcd.
        let Caller { shard, shown, .. } = self.caller;
        let look = shard.in_the_name_of(shown.as_ref(), queue::leader(self.name)).await;
        let found = shard.begin_to_ask(look.map_err(|_| status::ELECTION_OBSERVE_CLOSED)?);
        let found = poll_fn(|cx| {
            if let Poll::Ready(ended) = self.poll_ended(cx) {
                return Poll::Ready(Err(ended));
            }
            found.poll_take(cx).map_err(|_| status::ELECTION_OBSERVE_CLOSED.into())
        });
        let (term, response) = found.await?;
        let mut standing = standing(term, &response);
        let kv = match first_key(&response) {
            Some(kv) => kv,
            None => {
                let Some(kv) = self.wait_for_first(standing.revision + 1).await? else { return Ok(()) };
                standing.revision = kv.mod_revision;
                kv
            }
        };
        let key = kv.key.clone();
        self.send(standing, kv).await?;
        let mut watch = self.caller.shard.watch_locally(key, standing.revision + 1);
        loop {
            let News::Events(events) = self.news(&mut watch).await? else { return Ok(()) };
            for event in events {
                if event.is_delete {
                    return Ok(());
                }
                self.send(Standing { revision: event.revision, ..standing }, key_value(&event)).await?;
            }
        }
    }

    /// The first key that is put under the name. None: history is gone, look again.
    async fn wait_for_first(&mut self, from: i64) -> Result<Option<KeyValue>, Ended> {
        let (key, range_end) = queue::keys_of(self.name);
        let mut watch = self.caller.shard.watch_puts_locally(WatchRange::new(key, range_end), from);
        loop {
            let News::Events(events) = self.news(&mut watch).await? else { return Ok(None) };
            if let Some(event) = events.first() {
                return Ok(Some(key_value(event)));
            }
        }
    }

    /// Whether the stream has to end.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.stream.poll_gone(cx).is_ready() {
            return Poll::Ready(Ended::Gone);
        }
        self.caller.poll_out_of_time(cx)
    }

    async fn news(&mut self, watch: &mut LocalWatch<B>) -> Result<News, Ended> {
        let mut next = std::pin::pin!(watch.next());
        poll_fn(|cx| {
            if let Poll::Ready(ended) = self.poll_ended(cx) {
                return Poll::Ready(Err(ended));
            }
            next.as_mut().poll(cx).map_err(|_| status::ELECTION_OBSERVE_CLOSED.into())
        })
        .await
    }

    /// Sends a leader and waits until the message has left.
    async fn send(&mut self, standing: Standing, kv: KeyValue) -> Result<(), Ended> {
        let sent = (kv.key.clone(), kv.mod_revision);
        if sent == self.sent {
            return Ok(());
        }
        self.sent = sent;
        let body = v3electionpb::LeaderResponse { header: None, kv: Some(kv) }.encode_to_vec();
        let (shard, account) = (&self.caller.shard, &self.caller.account);
        let head = |out: &mut Vec<u8>| shard.headers.put(out, standing.revision, standing.term);
        let has_left = self.stream.send_message(account, head, &body)?;
        poll_fn(|cx| match self.poll_ended(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => has_left.poll_fired(cx).map(Ok),
        })
        .await
    }
}

/// The only key of a range.
fn first_key(response: &Response) -> Option<KeyValue> {
    let range = pb::RangeResponse::decode(&response.body[..]).expect("the state machine's answer decodes");
    range.kvs.into_iter().next()
}

/// The key of an event as the store encoded it.
fn key_value(event: &Event) -> KeyValue {
    let event = mvccpb::Event::decode(&event.body[..]).expect("the store's own event decodes");
    event.kv.expect("an event has a key")
}
