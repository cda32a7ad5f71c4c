//! Calls that answer with more than one message: `RangeStream` and the health service's `Watch`.
//!
//! Each has a task. A range stream has at most one slice with the store or on its way out: the next
//! is asked for when `h2` has let go of the last, so a client that does not read holds one slice.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};
use prost::Message as _;

use super::account::{Account, Body};
use super::leadership::LeaderWish;
use super::place::{Kind, Place};
use super::{Head, Mailbox, Recipient};
use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse, HealthListResponse};
use crate::request::{Command, Query, RangeSlice, Read, Response};
use crate::rpc::framing::{PREFIX_BYTES, put_prefix};
use crate::rpc::method::Weight;
use crate::rpc::range_stream::RangeStream;
use crate::rpc::{Code, Status};
use crate::shell::client::Backend;
use crate::shell::client::ClientShard;
use crate::shell::client::grpc::response::{self, Responder};
use crate::shell::client::signal::Signal;
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

/// How a call with a task ended, when not by its last message.
pub(super) enum Ended {
    /// The client is told.
    Status(Status),
    /// The client has left.
    Gone,
}

impl<B: Backend> ClientShard<B> {
    /// Answers with the present health and stays open until the client or the server leaves.
    pub(super) fn spawn_health_watch(
        self: &Rc<Self>,
        account: &Rc<Account>,
        head: &Head,
        request: &HealthCheckRequest,
        mut responder: Responder,
    ) {
        let Some(place) = Place::begin(&self.places, Kind::HealthWatch) else {
            return refuse(&mut responder);
        };
        let message = health_response(request.service.is_empty()).encode_to_vec();
        let (shard, account, end) = (Rc::clone(self), Rc::clone(account), self.end_of_stream(head));
        glommio::spawn_local(async move {
            let _place = place;
            let Some(mut stream) = response::send_head(&shard.templates, &mut responder) else { return };
            let body = Body::new(&account, framed(|_| {}, &message), None);
            if stream.send_data(body, false).is_err() {
                return;
            }
            let ended = poll_fn(|cx| match stream.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => end.poll(cx).map(Some),
            });
            if let Some(status) = ended.await {
                drop(stream.send_trailers(response::status_trailers(&status)));
            }
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
        mut responder: Responder,
    ) {
        let Some(place) = Place::begin(&self.places, Kind::RangeStream) else {
            return refuse(&mut responder);
        };
        let (shard, account) = (Rc::clone(self), Rc::clone(account));
        let (client_deadline_ms, leader) = (head.client_deadline_ms, self.leadership.wish(head.needs_leader));
        glommio::spawn_local(async move {
            let _place = place;
            let (shard, account) = (&shard, &account);
            let mut slices = Slices { shard, account, client_deadline_ms, leader, linearizable };
            slices.run(first, &mut responder).await;
        })
        .detach();
    }
}

fn refuse(responder: &mut Responder) {
    let message = "too many streams".into();
    response::send_status(responder, &Status { code: Code::ResourceExhausted, message });
}

/// Frames a message of what `head` writes and `body`.
pub(in crate::shell::client) fn framed(head: impl FnOnce(&mut Vec<u8>), body: &[u8]) -> Bytes {
    let mut out = vec![0; PREFIX_BYTES];
    head(&mut out);
    out.extend_from_slice(body);
    let length = u32::try_from(out.len() - PREFIX_BYTES).expect("a slice is a few megabytes");
    put_prefix(&mut &mut out[..PREFIX_BYTES], false, length);
    Bytes::from(out)
}

/// One range stream.
struct Slices<'a, B: Backend> {
    shard: &'a Rc<ClientShard<B>>,
    account: &'a Rc<Account>,
    client_deadline_ms: Option<u64>,
    leader: LeaderWish,
    linearizable: bool,
}

impl<B: Backend> Slices<'_, B> {
    async fn run(&mut self, first: RangeSlice, responder: &mut Responder) {
        let mut range = RangeStream::new(&first, self.shard.limits.request_bytes_max);
        // The first slice decides whether there will be response headers or a status alone.
        let mailbox = self.ask(first);
        let answered = poll_fn(|cx| {
            if responder.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Ended::Gone));
            }
            if let Poll::Ready(status) = self.leader.poll_lost(cx) {
                return Poll::Ready(Err(Ended::Status(status)));
            }
            mailbox.poll_take(cx).map_err(Ended::Status)
        });
        let (term, answer) = match answered.await {
            Ok(answer) => answer,
            Err(Ended::Status(status)) => return response::send_status(responder, &status),
            Err(Ended::Gone) => return responder.send_reset(Reason::CANCEL),
        };
        let Some(mut stream) = response::send_head(&self.shard.templates, responder) else { return };
        let trailers = match self.rest(&mut range, &mut stream, term, answer).await {
            Ok(()) => self.shard.templates.ok(),
            Err(Ended::Status(status)) => response::status_trailers(&status),
            Err(Ended::Gone) => return stream.send_reset(Reason::CANCEL),
        };
        drop(stream.send_trailers(trailers));
    }

    fn ask(&self, slice: RangeSlice) -> Rc<Mailbox> {
        let mailbox = Rc::new(Mailbox::default());
        let recipient = Recipient::Task(Rc::clone(&mailbox));
        let request_bytes = slice.start.len();
        let query = Query::RangeSlice(Box::new(slice));
        let command = Command::Read(Read { linearizable: self.linearizable, query });
        let (shard, deadline_ms) = (self.shard, self.client_deadline_ms);
        shard.submit(self.account, Weight::Point, request_bytes, deadline_ms, command, recipient);
        mailbox
    }

    async fn rest(
        &mut self,
        range: &mut RangeStream,
        stream: &mut SendStream<Body>,
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
            let message = framed(
                |out| {
                    put_message_head(out, RANGE_RESPONSE, header.len() + answer.body.len());
                    out.extend_from_slice(&header);
                },
                &answer.body,
            );
            drop(std::mem::take(&mut answer.body));
            self.send(stream, message, next.is_none()).await?;
            let Some(next) = next else { return Ok(()) };
            // The first slice has read at a revision that is durable; what follows reads there.
            self.linearizable = false;
            let mailbox = self.ask(next);
            let answered = poll_fn(|cx| {
                if stream.poll_reset(cx).is_ready() {
                    return Poll::Ready(Err(Ended::Gone));
                }
                if let Poll::Ready(status) = self.leader.poll_lost(cx) {
                    return Poll::Ready(Err(Ended::Status(status)));
                }
                mailbox.poll_take(cx).map_err(Ended::Status)
            });
            (term, answer) = answered.await?;
        }
    }

    /// Sends a message and, unless it is the last, waits until it has left.
    async fn send(&self, stream: &mut SendStream<Body>, message: Bytes, is_last: bool) -> Result<(), Ended> {
        let has_left = Rc::new(Signal::default());
        let body = Body::new(self.account, message, Some(Rc::clone(&has_left)));
        if stream.send_data(body, false).is_err() {
            return Err(Ended::Gone);
        }
        if is_last {
            return Ok(());
        }
        poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(Ended::Gone)),
            Poll::Pending => match self.leader.poll_lost(cx) {
                Poll::Ready(status) => Poll::Ready(Err(Ended::Status(status))),
                Poll::Pending => has_left.poll_fired(cx).map(Ok),
            },
        })
        .await
    }
}
