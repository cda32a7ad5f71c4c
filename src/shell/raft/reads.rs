//! Reads on their way through the raft role, and questions about leases, which only the leader can answer:
//! it gets them from its own clients and from other members.

use std::rc::Rc;

use super::RaftRole;
use crate::replica::exchange::ToStore;
use crate::request::{Answer, Read, Refusal, Reply, Response};
use crate::shell::peer::IncomingCall;
use crate::shell::raft::lease_forward::{Answered, CALL_LEASE};
use crate::types::{Caller, Ticket};

impl RaftRole {
    pub(super) fn on_read(&mut self, ticket: Ticket, read: Read) {
        let refused = |((ticket, _read), refusal)| (ticket, refusal);
        let taken = if !read.query.is_for_leader() {
            self.replica.on_read((ticket, read)).map_err(refused)
        } else if self.facts.leader == Some(self.replica.id()) {
            self.replica.on_urgent_read((ticket, read)).map_err(refused)
        } else {
            self.lease_questions.ask(ticket, read.query, self.ticks).map_err(|refusal| (ticket, refusal))
        };
        if let Err((ticket, refusal)) = taken {
            self.refuse(ticket, refusal);
        }
    }

    /// Brings the questions that only the leader can answer to whoever leads.
    pub(super) fn pass_on_lease_questions(&mut self) {
        loop {
            let Some((call, reply)) = self.lease_replies.borrow_mut().pop_front() else { break };
            let Answered { bodies, refused, rejected } =
                self.lease_questions.on_reply(call, reply, self.ticks);
            if !bodies.is_empty() {
                self.ports.to_store.send_always(ToStore::LeaseAnswers { answers: bodies });
            }
            for (ticket, refusal) in refused {
                self.refuse(ticket, refusal);
            }
            for (ticket, rejection) in rejected {
                let result = Ok(Answer { term: self.facts.term, outcome: Err(rejection) });
                self.reply(Reply { ticket, result });
            }
        }
        let Some(leader) = self.facts.leader else { return };
        if leader == self.replica.id() {
            for (ticket, query) in self.lease_questions.take_waiting() {
                self.on_read(ticket, Read::new(true, query));
            }
            return;
        }
        while let Some((call, body)) = self.lease_questions.next_call(self.ticks) {
            let (transport, replies) = (Rc::clone(&self.transport), Rc::clone(&self.lease_replies));
            let (bell, patience) = (self.ports.bell.clone(), self.request_timeout());
            glommio::spawn_local(async move {
                let reply = transport.call(leader, CALL_LEASE, body, patience).await;
                if let Err(error) = &reply {
                    tracing::debug!(%leader, %error, "questions about leases were not answered");
                }
                replies.borrow_mut().push_back((call, reply.ok()));
                bell.ring();
            })
            .detach();
        }
    }

    /// Questions about leases that another member passed on.
    pub(super) fn serve_leases(&mut self, call: IncomingCall) {
        if self.facts.leader != Some(self.replica.id()) {
            return call.reply.fail("this member does not lead");
        }
        match self.served_leases.begin(call.body, call.reply) {
            Ok(questions) => {
                for (number, query) in questions {
                    self.on_read(Caller::PassedOn(number).into(), Read::new(true, query));
                }
            }
            Err((reply, fault)) => reply.fail(fault),
        }
    }

    pub(super) fn answer_other_member(&mut self, number: u64, result: Result<Response, Refusal>) {
        match self.served_leases.on_answer(number, result) {
            None => {}
            Some((reply, Some(body))) => reply.succeed(body),
            Some((reply, None)) => reply.fail("this member does not lead"),
        }
    }

    /// Leadership moved: nobody may answer a question about a lease by what was confirmed for another.
    pub(super) fn turn_to_new_leader(&mut self) {
        for reply in self.served_leases.on_leadership() {
            reply.fail("leadership moved");
        }
        self.lease_questions.on_leadership();
        for (ticket, read) in self.replica.withdraw_reads(|(_, read)| read.query.is_for_leader()) {
            if !matches!(ticket.caller(), Caller::PassedOn(_)) {
                self.on_read(ticket, read);
            }
        }
    }
}
