//! Questions about leases on their way to the leader, who alone knows how long a lease has left.
//!
//! [`Asking`] has those of this member's own clients while another member leads: what waits is passed on
//! in one call, and what arrives while `CALLS_MAX` calls are under way shares the next one. [`Serving`]
//! has those that other members passed on to this one: each becomes a confirmed read of the store under a
//! ticket of `PASSED_ON_SHARD`, and the call is answered with the last of them.
//!
//! A renewal may be asked twice, and a question has no effect. So a call that failed, or whose leader
//! leads no more, is simply made again; only the clients' patience ends that.
//!
//! Invariants: a question of `Asking` leaves once, with an answer or a refusal; a call that `Serving` has
//! taken in is answered once.
//! Bounds: `WAITING_MAX` questions of own clients; `CALL_QUESTIONS_MAX` in a call; an answer's bytes by
//! `BODY_BYTES_MAX`, of which a call has at most one that is not small; calls of others by the transport.
//! Cost: a renewal is some 15 bytes each way and two allocations.
//! Compatibility: the answering member's own header is put in front of the leader's answer, as in etcd.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use prost::Message as _;

use crate::pb::etcdserverpb as pb;
use crate::pb::peer;
use crate::request::{Query, Refusal, Rejection, Response};
use crate::types::{LeaseId, Ticket};

/// A call between members: `pinion.peer.v1.LeaseQuestions`, answered by `LeaseAnswers`.
pub(in crate::shell) const CALL_LEASE: u32 = 16;

/// Questions of own clients that wait for the leader or its answer.
const WAITING_MAX: usize = 100_000;

/// Questions in one call.
const CALL_QUESTIONS_MAX: usize = 4_096;

/// Calls under way: more than one, so that a question that waits for the leader's log does not hold up
/// the others; few, so that questions share calls.
const CALLS_MAX: usize = 4;

/// The longest answer that fits a call: the keys of a lease.
const BODY_BYTES_MAX: usize = 8 << 20;

const KIND_RENEW: u32 = 1;
const KIND_TIME_TO_LIVE: u32 = 2;
const KIND_TIME_TO_LIVE_WITH_KEYS: u32 = 3;

const CODE_ANSWERED: u32 = 0;
const CODE_TOO_MANY: u32 = 1;
const CODE_TOO_LARGE: u32 = 2;

fn to_wire(query: &Query) -> peer::LeaseQuestion {
    match query {
        Query::LeaseKeepAlive(id) => peer::LeaseQuestion { id: id.0, kind: KIND_RENEW },
        Query::LeaseTimeToLive(request) => {
            let kind = if request.keys { KIND_TIME_TO_LIVE_WITH_KEYS } else { KIND_TIME_TO_LIVE };
            peer::LeaseQuestion { id: request.id, kind }
        }
        _ => unreachable!("nothing else is for the leader alone"),
    }
}

fn from_wire(question: peer::LeaseQuestion) -> Option<Query> {
    let time_to_live = |keys| Query::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: question.id, keys });
    match question.kind {
        KIND_RENEW => Some(Query::LeaseKeepAlive(LeaseId(question.id))),
        KIND_TIME_TO_LIVE => Some(time_to_live(false)),
        KIND_TIME_TO_LIVE_WITH_KEYS => Some(time_to_live(true)),
        _ => None,
    }
}

/// A client's question.
#[derive(Debug)]
struct Question {
    ticket: Ticket,
    query: Query,
    arrived_tick: u64,
}

/// What became of questions.
#[derive(Debug, Default)]
pub(in crate::shell) struct Answered {
    /// Answers without a header.
    pub bodies: Vec<(Ticket, Vec<u8>)>,
    pub refused: Vec<(Ticket, Refusal)>,
    pub rejected: Vec<(Ticket, Rejection)>,
}

/// Questions of this member's clients; see the module.
#[derive(Debug, Default)]
pub(in crate::shell) struct Asking {
    /// For the next call, oldest first.
    waiting: VecDeque<Question>,
    /// Passed on, by the number of the call.
    calls: BTreeMap<u64, Vec<Question>>,
    last_call: u64,
    under_way: usize,
    /// A call has failed: none is made before this tick.
    paused_until: u64,
}

impl Asking {
    /// A client's question.
    ///
    /// # Errors
    /// When too many wait.
    pub(in crate::shell) fn ask(&mut self, ticket: Ticket, query: Query, tick: u64) -> Result<(), Refusal> {
        if WAITING_MAX <= self.waiting.len() + self.under_way {
            return Err(Refusal::TooManyRequests);
        }
        self.waiting.push_back(Question { ticket, query, arrived_tick: tick });
        Ok(())
    }

    /// The next call to make to the leader, which is another member: its number and its body.
    pub(in crate::shell) fn next_call(&mut self, tick: u64) -> Option<(u64, Bytes)> {
        if self.waiting.is_empty() || CALLS_MAX <= self.calls.len() || tick < self.paused_until {
            return None;
        }
        let mut questions = Vec::with_capacity(self.waiting.len().min(CALL_QUESTIONS_MAX));
        while questions.len() < CALL_QUESTIONS_MAX
            && let Some(question) = self.waiting.pop_front()
        {
            let is_wide = matches!(&question.query, Query::LeaseTimeToLive(request) if request.keys);
            questions.push(question);
            if is_wide {
                break;
            }
        }
        let wire = questions.iter().map(|question| to_wire(&question.query)).collect();
        let body = peer::LeaseQuestions { questions: wire }.encode_to_vec();
        self.last_call += 1;
        self.under_way += questions.len();
        self.calls.insert(self.last_call, questions);
        Some((self.last_call, body.into()))
    }

    /// What came of a call; None for nothing. A call that failed is made again, not in this tick.
    pub(in crate::shell) fn on_reply(&mut self, call: u64, reply: Option<Bytes>, tick: u64) -> Answered {
        let mut answered = Answered::default();
        // It was given up when leadership moved.
        let Some(questions) = self.calls.remove(&call) else { return answered };
        self.under_way -= questions.len();
        let answers = reply
            .and_then(|body| peer::LeaseAnswers::decode(body).ok())
            .filter(|answers| answers.answers.len() == questions.len());
        let Some(peer::LeaseAnswers { answers }) = answers else {
            self.paused_until = tick + 1;
            self.put_back(questions);
            return answered;
        };
        for (Question { ticket, .. }, answer) in questions.into_iter().zip(answers) {
            match answer.code {
                CODE_ANSWERED => answered.bodies.push((ticket, answer.body.into())),
                CODE_TOO_LARGE => {
                    let bytes_max = BODY_BYTES_MAX as u64;
                    let rejection = Rejection::AnswerTooLarge { bytes: answer.bytes, bytes_max };
                    answered.rejected.push((ticket, rejection));
                }
                _ => answered.refused.push((ticket, Refusal::TooManyRequests)),
            }
        }
        answered
    }

    fn put_back(&mut self, questions: Vec<Question>) {
        for question in questions.into_iter().rev() {
            self.waiting.push_front(question);
        }
    }

    /// Leadership moved: whoever was asked may not lead any more, so all is asked again.
    pub(in crate::shell) fn on_leadership(&mut self) {
        for questions in std::mem::take(&mut self.calls).into_values().rev() {
            self.put_back(questions);
        }
        (self.under_way, self.paused_until) = (0, 0);
    }

    /// This member leads: what waits is for its own store.
    pub(in crate::shell) fn take_waiting(&mut self) -> impl Iterator<Item = (Ticket, Query)> + use<> {
        std::mem::take(&mut self.waiting).into_iter().map(|question| (question.ticket, question.query))
    }

    /// Forgets what arrived before `tick` and waits; what is under way ends with its call.
    pub(in crate::shell) fn expire(&mut self, tick: u64) -> Vec<Ticket> {
        let mut expired = Vec::new();
        self.waiting.retain(|question| {
            let is_old = question.arrived_tick < tick;
            if is_old {
                expired.push(question.ticket);
            }
            !is_old
        });
        expired
    }
}

/// A call of another member.
#[derive(Debug)]
struct Call<R> {
    reply: R,
    answers: Vec<Option<peer::LeaseAnswer>>,
    unanswered: usize,
}

/// Questions of other members, to this one as the leader. `R` takes a call's answer.
#[derive(Debug)]
pub(in crate::shell) struct Serving<R> {
    /// By the number of its first question; the others' follow.
    calls: BTreeMap<u64, Call<R>>,
    next_number: u64,
}

impl<R> Serving<R> {
    pub(in crate::shell) fn new() -> Self {
        Self { calls: BTreeMap::new(), next_number: 0 }
    }

    /// Takes in a call. Returns its questions with their numbers.
    ///
    /// # Errors
    /// `reply` and what is wrong with the call.
    pub(in crate::shell) fn begin(
        &mut self,
        body: Bytes,
        reply: R,
    ) -> Result<impl Iterator<Item = (u64, Query)> + use<R>, (R, &'static str)> {
        let Ok(peer::LeaseQuestions { questions }) = peer::LeaseQuestions::decode(body) else {
            return Err((reply, "questions about leases that do not decode"));
        };
        if questions.is_empty() || CALL_QUESTIONS_MAX < questions.len() {
            return Err((reply, "no questions about leases, or too many"));
        }
        let Some(queries) = questions.into_iter().map(from_wire).collect::<Option<Vec<Query>>>() else {
            return Err((reply, "a question about leases of a kind that this version does not know"));
        };
        let first = self.next_number;
        self.next_number += queries.len() as u64;
        let answers = vec![None; queries.len()];
        self.calls.insert(first, Call { reply, unanswered: answers.len(), answers });
        Ok((first..).zip(queries))
    }

    /// The store's answer to a question. With the last one of a call: whom to send what; None says that
    /// this member does not lead.
    pub(in crate::shell) fn on_answer(
        &mut self,
        number: u64,
        result: Result<Response, Refusal>,
    ) -> Option<(R, Option<Bytes>)> {
        let (&first, call) = self.calls.range_mut(..=number).next_back()?;
        // A question of a call that was answered as a whole meanwhile.
        let place = call.answers.get_mut(usize::try_from(number - first).ok()?)?;
        let answer = match result {
            Ok(response) if BODY_BYTES_MAX < response.body.len() => peer::LeaseAnswer {
                code: CODE_TOO_LARGE,
                bytes: response.body.len() as u64,
                ..Default::default()
            },
            Ok(response) => peer::LeaseAnswer { body: response.body.into(), ..Default::default() },
            Err(Refusal::TooManyRequests) => peer::LeaseAnswer { code: CODE_TOO_MANY, ..Default::default() },
            Err(_) => return self.calls.remove(&first).map(|call| (call.reply, None)),
        };
        assert!(place.replace(answer).is_none(), "question {number} is answered once");
        call.unanswered -= 1;
        if 0 < call.unanswered {
            return None;
        }
        let call = self.calls.remove(&first).expect("it was there a line above");
        let answers = peer::LeaseAnswers { answers: call.answers.into_iter().flatten().collect() };
        Some((call.reply, Some(answers.encode_to_vec().into())))
    }

    /// Leadership moved: the members that asked have to look for the new leader.
    pub(in crate::shell) fn on_leadership(&mut self) -> impl Iterator<Item = R> + use<R> {
        std::mem::take(&mut self.calls).into_values().map(|call| call.reply)
    }
}

#[cfg(test)]
#[path = "lease_forward_tests.rs"]
mod tests;
