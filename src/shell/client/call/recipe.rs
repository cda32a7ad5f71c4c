//! Calls that the shard carries out in several commands: the services `Lock` and `Election`.
//!
//! Each call has a task. It asks one command at a time on the shard's own account and follows it to
//! its answer even when the caller has left meanwhile, because what was written is known only then;
//! what a call that failed left in a queue is taken out before its task ends. While it waits it holds
//! a watcher of one key, its own key's name and the request, all of it counted.
//!
//! Waits have no timeout of the server's. They end with the caller's deadline, its reset, or the stop
//! of the server.
//!
//! Compatibility: an error of an inner command arrives as Unknown with its text, as through etcd's own
//! client. A lease is renewed once, at the start of a call, and not kept alive while it waits.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message as _;

use super::account::Account;
use super::end::{CallEnd, Ended};
use super::identity::guarded;
use super::local_watch::{LocalWatch, News};
use super::place::{Kind, Place};
use super::shown::Shown;
use super::{Head, overloaded};
use crate::pb::etcdserverpb as pb;
use crate::request::{Command, Login, Query, Read, RequestKind, Response};
use crate::rpc::method::Recipe;
use crate::rpc::queue::{Contender, Standing, Step, rethrown};
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::responder::Responder;
use crate::types::{LeaseId, Term};

/// Seconds that a lease lives which a call is given.
const SESSION_TTL_S: i64 = 60;

/// A caller and what may end its wait.
pub(in crate::shell::client) struct Caller<B: Backend> {
    pub(in crate::shell::client) shard: Rc<ClientShard<B>>,
    pub(in crate::shell::client) account: Rc<Account>,
    /// None: the caller was told that it waited too long, or has left. What it began is still followed to its
    /// end.
    pub(super) responder: Option<Responder>,
    end: CallEnd,
    /// Each command is asked in the name of whoever has it.
    pub(super) shown: Option<Shown>,
    /// The call's place in the account.
    _place: Place,
}

/// A call's answer: its header, and the message without it.
pub(in crate::shell::client) struct RecipeAnswer {
    pub(in crate::shell::client) standing: Standing,
    pub(in crate::shell::client) body: Vec<u8>,
}

/// The lease of a call.
#[derive(Clone, Copy)]
pub(super) struct Session {
    pub(in crate::shell::client) lease: LeaseId,
    /// Granted for this call; nobody else knows it before the call is answered.
    is_granted: bool,
}

impl<B: Backend> ClientShard<B> {
    /// Gives a call of several commands its task.
    pub(super) fn spawn_recipe(
        self: &Rc<Self>,
        account: &Rc<Account>,
        recipe: Recipe,
        head: &Head,
        payload: Bytes,
        responder: Responder,
    ) {
        let kind = match recipe {
            Recipe::Lock | Recipe::Campaign => Kind::Queue,
            Recipe::Observe => Kind::Observe,
            Recipe::Unlock | Recipe::Proclaim | Recipe::Leader | Recipe::Resign => Kind::Unqueue,
        };
        let place = Place::begin(&self.places, kind).and_then(|mut place| {
            // The request, and a copy of its name in the key.
            place.grow(2 * payload.len()).then_some(place)
        });
        let Some(place) = place else {
            return responder.refuse(&overloaded("too many calls that wait"));
        };
        let mut caller = Caller {
            shard: Rc::clone(self),
            account: Rc::clone(account),
            responder: Some(responder),
            end: match recipe {
                Recipe::Observe => self.end_of_stream(head),
                _ => self.end_of_unary(head),
            },
            shown: head.shown.clone(),
            _place: place,
        };
        glommio::spawn_local(async move {
            let told = match recipe {
                Recipe::Lock => caller.lock(payload).await,
                Recipe::Unlock => caller.unlock(payload).await,
                Recipe::Campaign => caller.campaign(payload).await,
                Recipe::Proclaim => caller.proclaim(payload).await,
                Recipe::Leader => caller.leader(payload).await,
                Recipe::Resign => caller.resign(payload).await,
                Recipe::Observe => return caller.observe(payload).await,
            };
            caller.finish(told);
        })
        .detach();
    }
}

impl<B: Backend> Caller<B> {
    fn finish(&mut self, told: Result<RecipeAnswer, Ended>) {
        let Some(responder) = self.responder.take() else { return };
        match told {
            Ok(RecipeAnswer { standing: Standing { revision, term }, body }) => {
                let head = |out: &mut Vec<u8>| self.shard.headers.put(out, revision, term);
                responder.answer(&self.account, head, body);
            }
            Err(Ended::Status(status)) => responder.refuse(&status),
            Err(Ended::Gone | Ended::Crowded) => responder.abandon(),
        }
    }

    /// Whether the caller has stopped waiting, or has to.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let is_gone = self.responder.as_mut().is_none_or(|responder| responder.poll_gone(cx).is_ready());
        if is_gone { Poll::Ready(Ended::Gone) } else { self.poll_out_of_time(cx) }
    }

    /// Whether the caller's deadline or the server's end has come, or its patience without a leader is
    /// over.
    pub(super) fn poll_out_of_time(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.end.poll(cx).map(Ended::Status)
    }

    /// Asks and follows the command to its end. A caller that may not wait for it is told so meanwhile.
    pub(in crate::shell::client) async fn ask(
        &mut self,
        command: Command,
    ) -> Result<(Term, Response), Ended> {
        let refused = |status| Ended::Status(rethrown(status));
        let command = self.shard.in_the_name_of(self.shown.as_ref(), command).await.map_err(refused)?;
        let mailbox = self.shard.begin_to_ask(command);
        let answered = poll_fn(|cx| {
            if self.responder.is_some()
                && let Poll::Ready(ended) = self.poll_ended(cx)
            {
                self.finish(Err(ended));
            }
            mailbox.poll_take(cx)
        });
        answered.await.map_err(refused)
    }

    /// The lease to use: the caller's, renewed, or a new one.
    pub(super) async fn session(&mut self, lease: LeaseId) -> Result<Session, Ended> {
        if lease == LeaseId(0) {
            let id = self.shard.lease_ids.positive();
            let ttl = SESSION_TTL_S.max(self.shard.limits.lease_ttl_min_s);
            let body = pb::LeaseGrantRequest { id, ttl }.encode_to_vec().into();
            self.ask(Command::Propose { kind: RequestKind::LeaseGrant, body, login: None }).await?;
            return Ok(Session { lease: LeaseId(id), is_granted: true });
        }
        // Whether it exists is told by the put that attaches a key to it.
        let query = Query::LeaseKeepAlive(lease);
        let renewal = Command::Read(Read::new(true, query));
        let renewal = self.shard.in_the_name_of(self.shown.as_ref(), renewal).await;
        drop(self.shard.begin_to_ask(renewal.map_err(|status| Ended::Status(rethrown(status)))?));
        Ok(Session { lease, is_granted: false })
    }

    /// Ends what a failed call has begun: the lease made for it with all that is attached, or its key.
    pub(super) async fn clean_up(&self, session: Session, left: Option<Command>) {
        let command = if session.is_granted {
            let body = pb::LeaseRevokeRequest { id: session.lease.0 }.encode_to_vec().into();
            Some(Command::Propose { kind: RequestKind::LeaseRevoke, body, login: None })
        } else {
            left
        };
        // What the member began for the caller it may end itself, whatever the caller may do by now.
        let login = self.shard.identities.revision().map(|_| Arc::new(Login::member()));
        if let Some(command) = command
            && let Err(status) = self.shard.ask(guarded(command, login)).await
        {
            // The lease ends it in time.
            tracing::debug!(text = %status.message, "a key stays in its queue until its lease ends");
        }
    }

    /// Runs a contender until it holds. What it has written is gone when this fails.
    pub(super) async fn acquire(
        &mut self,
        contender: &mut Contender,
        session: Session,
    ) -> Result<Standing, Ended> {
        let acquired = self.run(contender).await;
        if acquired.is_err() {
            self.clean_up(session, contender.leave()).await;
        }
        acquired
    }

    async fn run(&mut self, contender: &mut Contender) -> Result<Standing, Ended> {
        let refused = |status| Ended::Status(rethrown(status));
        let mut step = contender.enter(self.shard.limits.request_bytes_max).map_err(refused)?;
        loop {
            step = match step {
                Step::Ask(command) => {
                    let (term, response) = self.ask(command).await?;
                    contender.on_answer(term, &response).map_err(refused)?
                }
                Step::AwaitDelete { key, from } => {
                    self.wait_for_deletion(key, from).await?;
                    contender.on_deleted()
                }
                Step::Acquired(standing) => {
                    // Nobody would ever give it back for a caller that left meanwhile.
                    let ended = poll_fn(|cx| match self.poll_ended(cx) {
                        Poll::Ready(ended) => Poll::Ready(Err(ended)),
                        Poll::Pending => Poll::Ready(Ok(standing)),
                    });
                    return ended.await;
                }
            };
        }
    }

    async fn wait_for_deletion(&mut self, key: Bytes, from: i64) -> Result<(), Ended> {
        let mut watch = self.shard.watch_locally(key, from);
        loop {
            match self.news(&mut watch).await? {
                News::Events(events) if !events.iter().any(|event| event.is_delete) => {}
                // History that is gone may have held the deletion: the contender looks again anyway.
                News::Events(_) | News::Compacted(_) => return Ok(()),
            }
        }
    }

    async fn news(&mut self, watch: &mut LocalWatch<B>) -> Result<News, Ended> {
        let mut next = pin!(watch.next());
        poll_fn(|cx| {
            if let Poll::Ready(ended) = self.poll_ended(cx) {
                return Poll::Ready(Err(ended));
            }
            next.as_mut().poll(cx).map_err(|status| Ended::Status(rethrown(status)))
        })
        .await
    }
}

/// The standing that an answer's header tells.
pub(in crate::shell::client) fn standing(term: Term, response: &Response) -> Standing {
    Standing { term, revision: response.revision }
}
