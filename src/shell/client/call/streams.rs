//! Calls that answer with more than one message: `RangeStream` and the health service's `Watch`.
//!
//! Each has a task. A range stream has at most one slice with the store or on its way out: the next
//! is asked for when `h2` has let go of the last, so a client that does not read holds one slice.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use prost::Message as _;

use super::account::Account;
use super::end::Ended;
use super::leadership::LeaderWish;
use super::place::{Kind, Place};
use super::shown::Shown;
use super::{Head, Mailbox, Recipient, not_older, overloaded};
use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use crate::request::{Command, Query, RangeSlice, Read, Response};
use crate::rpc::Status;
use crate::rpc::method::Weight;
use crate::rpc::range_stream::RangeStream;
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::responder::{AnswerStream, Responder};
use crate::types::Term;
use crate::types::proto::put_message_head;

/// `RangeStreamResponse.range_response`, its only field.
const RANGE_RESPONSE: u8 = 1;

/// The health service's answer for this server, or for a service it does not know.
pub(super) fn health_response(is_known: bool) -> HealthCheckResponse {
    let status = if is_known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
    HealthCheckResponse { status: status.into() }
}

/// All services of which the health service speaks: the server as a whole.
pub(super) fn health_list() -> HealthListResponse {
    HealthListResponse { statuses: [(String::new(), health_response(true))].into() }
}

impl<B: Backend> ClientShard<B> {
    /// Answers with the present health and stays open until the client or the server leaves.
    pub(super) fn spawn_health_watch(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        request: &HealthCheckRequest,
        responder: Responder,
    ) {
        let Some(place) = Place::begin(&self.places, Kind::HealthWatch) else {
            return responder.refuse(&overloaded("too many streams"));
        };
        let message = health_response(request.service.is_empty()).encode_to_vec();
        let (account, end) = (Rc::clone(account), self.end_of_stream(head));
        glommio::spawn_local(async move {
            let _place = place;
            let Some(mut stream) = responder.open() else { return };
            if let Err(ended) = stream.send_message(&account, |_| {}, &message) {
                return stream.end(Err(ended));
            }
            let ended = poll_fn(|cx| match stream.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(Ended::Gone),
                Poll::Pending => end.poll(cx).map(Ended::Status),
            });
            let ended = ended.await;
            stream.end(Err(ended));
        })
        .detach();
    }

    /// Sends a range in slices.
    pub(super) fn spawn_range_stream(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        linearizable: bool,
        first: RangeSlice,
        responder: Responder,
    ) {
        let Some(place) = Place::begin(&self.places, Kind::RangeStream) else {
            return responder.refuse(&overloaded("too many streams"));
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        let (client_deadline_ms, leader) = (head.client_deadline_ms, self.leadership.wish(head.needs_leader));
        let (shown, not_older_than) = (head.shown.clone(), head.not_older_than);
        glommio::spawn_local(async move {
            let _place = place;
            let (shard, account, shown) = (&shard, &account, shown.as_ref());
            let mut slices =
                Slices { shard, account, client_deadline_ms, leader, linearizable, shown, not_older_than };
            slices.run(first, responder).await;
        })
        .detach();
    }
}

/// One range stream.
struct Slices<'a, B: Backend> {
    shard: &'a Rc<ClientShard<B>>,
    account: &'a Rc<Account>,
    client_deadline_ms: Option<u64>,
    leader: LeaderWish,
    linearizable: bool,
    /// Each slice is asked for anew in the name of whoever has it.
    shown: Option<&'a Shown>,
    not_older_than: i64,
}

impl<B: Backend> Slices<'_, B> {
    async fn run(&mut self, first: RangeSlice, mut responder: Responder) {
        let mut range = RangeStream::new(&first, self.shard.limits.request_bytes_max);
        // The first slice decides whether there will be messages or a status alone.
        let mailbox = match self.ask(first).await {
            Ok(mailbox) => mailbox,
            Err(status) => return responder.refuse(&status),
        };
        let answered = poll_fn(|cx| {
            let is_gone = responder.poll_gone(cx).is_ready();
            self.poll_answer(cx, is_gone, &mailbox)
        });
        let (term, answer) = match answered.await {
            Ok(answer) => answer,
            Err(Ended::Status(status)) => return responder.refuse(&status),
            Err(Ended::Gone | Ended::Crowded) => return responder.abandon(),
        };
        let Some(mut stream) = responder.open() else { return };
        let end = self.rest(&mut range, &mut stream, term, answer).await;
        stream.end(end);
    }

    /// The answer to a slice, unless the client `is_gone` or has lost its patience.
    fn poll_answer(
        &self,
        cx: &mut Context<'_>,
        is_gone: bool,
        mailbox: &Mailbox,
    ) -> Poll<Result<(Term, Response), Ended>> {
        if is_gone {
            return Poll::Ready(Err(Ended::Gone));
        }
        match self.leader.poll_lost(cx) {
            Poll::Ready(status) => Poll::Ready(Err(status.into())),
            Poll::Pending => mailbox.poll_take(cx).map_err(Ended::Status),
        }
    }

    async fn ask(&self, slice: RangeSlice) -> Result<Rc<Mailbox>, Status> {
        let mailbox = Rc::new(Mailbox::default());
        let recipient = Recipient::Task(Rc::clone(&mailbox));
        let request_bytes = slice.start.len();
        let query = Query::RangeSlice(Box::new(slice));
        let command = Command::Read(Read::new(self.linearizable, query));
        let command = self.shard.in_the_name_of(self.shown, command).await?;
        let command = not_older(self.not_older_than, command);
        let (shard, deadline_ms) = (self.shard, self.client_deadline_ms);
        shard.submit(self.account, Weight::Point, request_bytes, deadline_ms, command, recipient);
        Ok(mailbox)
    }

    async fn rest(
        &mut self,
        range: &mut RangeStream,
        stream: &mut AnswerStream,
        mut term: Term,
        mut answer: Response,
    ) -> Result<(), Ended> {
        loop {
            let next = range.on_slice(&answer);
            // The message has one field, the slice; only the last one's has a header.
            let mut header = Vec::new();
            if next.is_none() {
                self.shard.headers.put(&mut header, range.revision().unwrap_or(answer.revision), term);
            }
            let head = |out: &mut Vec<u8>| {
                put_message_head(out, RANGE_RESPONSE, header.len() + answer.body.len());
                out.extend_from_slice(&header);
            };
            let has_left = stream.send_message(self.account, head, &answer.body)?;
            drop(std::mem::take(&mut answer.body));
            let Some(next) = next else { return Ok(()) };
            poll_fn(|cx| match stream.poll_gone(cx) {
                Poll::Ready(()) => Poll::Ready(Err(Ended::Gone)),
                Poll::Pending => match self.leader.poll_lost(cx) {
                    Poll::Ready(status) => Poll::Ready(Err(status.into())),
                    Poll::Pending => has_left.poll_fired(cx).map(Ok),
                },
            })
            .await?;
            // The first slice has read at a revision that is durable; what follows reads there.
            self.linearizable = false;
            let mailbox = self.ask(next).await?;
            let answered = poll_fn(|cx| {
                let is_gone = stream.poll_gone(cx).is_ready();
                self.poll_answer(cx, is_gone, &mailbox)
            });
            (term, answer) = answered.await?;
        }
    }
}
