//! Who belongs to the cluster, as the raft role acts on it: this member's own record, changes that clients
//! and followers ask for, and this member's removal.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::member_calls::{LeaderAnswer, Notification, Standing, refusal_number, refusal_of};
use super::seat::RaftNews;
use super::{CALL_MEMBER_CHANGE, RaftRole};
use crate::config::Url;
use crate::membership::{Cluster, Touch};
use crate::pb::peer as pb;
use crate::request::{Answer, Refusal, Reply, RequestKind, Response};
use crate::shell::peer::Transport;
use crate::shell::runtime::mesh::Doorbell;
use crate::types::{Caller, LogIndex, MemberId};

/// How long the leader may take for a change that it is asked to propose; then it is asked again.
const MEMBER_CHANGE_TIMEOUT: Duration = Duration::from_secs(3);

const MEMBER_CHANGE_PAUSE: Duration = Duration::from_millis(50);

/// How long a peer has been connected before a membership change counts on it; etcd's.
const IN_TOUCH_TIME: Duration = Duration::from_secs(5);

impl RaftRole {
    pub(super) fn on_members(&mut self, cluster: Box<Cluster>) {
        let own = self.replica.id();
        let others = cluster.members().filter(|member| member.id != own);
        self.transport.set_peers(others.map(|member| {
            // A URL that this version cannot dial is another member's way to it.
            let urls = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok());
            (member.id, urls.collect::<Vec<Url>>())
        }));
        self.transport.set_removed(cluster.removed());
        if cluster.is_removed(own) {
            self.end_as_removed("this member has applied its removal from the cluster");
        }
        self.facts.is_learner = cluster.member(own).is_some_and(|member| member.learner);
        self.promotions.on_members(self.transport.cluster(), &cluster);
        self.cluster = Some(cluster);
        self.tell_facts();
    }

    pub(super) fn on_verdict(&mut self, index: LogIndex, accepted: bool) {
        // The cluster's own rules are stricter than raft's, so raft has nothing left to refuse.
        if let Err(refused) = self.replica.on_conf_change(index, accepted) {
            panic!("raft refuses the membership change at {index:?} that the cluster accepted: {refused}");
        }
    }

    /// The cluster has gone on without this member, for ever.
    pub(super) fn end_as_removed(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_removed, true) {
            tracing::error!(
                reason,
                "this member was removed from the cluster and cannot come back. To join again, add a member and \
                 start it with an empty data directory"
            );
            (self.on_news)(RaftNews::Removed);
        }
    }

    /// Proposes this member's own record once somebody leads and the replay leaves room: a long log
    /// that is still being applied counts as a backlog like any other.
    pub(super) fn publish(&mut self) {
        if self.parts.is_published.load(Ordering::Acquire) || self.facts.leader.is_none() {
            return;
        }
        // A member that joins knows nobody until it has the leader's checkpoint.
        if self.replica.status().voters_count == 0 {
            return;
        }
        // One that went to a leader may have been lost with it.
        let patience = 2 * self.settings.election_ticks;
        if self.published_tick.is_none_or(|tick| tick + patience <= self.ticks) {
            let proposed = self.replica.on_request(
                Caller::Publish.into(),
                RequestKind::PublishMember,
                self.parts.publish.clone(),
                None,
            );
            self.published_tick = proposed.is_ok().then_some(self.ticks);
        }
    }

    /// Carries out calls about the members, as far as they can be now.
    pub(super) fn call_members(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let own = self.replica.id();
        let standing = Standing {
            cluster,
            own,
            ticks: self.ticks,
            touch: &|member| match self.transport.connected_since(member) {
                _ if member == own => Touch::Lasting,
                None => Touch::Lost,
                Some(since) if since.elapsed() < IN_TOUCH_TIME => Touch::Young,
                Some(_) => Touch::Lasting,
            },
            ask: &|id, leader, change| {
                let (transport, bell) = (Rc::clone(&self.transport), self.ports.bell.clone());
                ask_leader(transport, bell, Rc::clone(&self.leader_answers), (id, leader, change));
            },
        };
        for (id, answer) in self.leader_answers.take() {
            self.calls.on_leader_answer(id, answer);
        }
        let told = self.calls.advance(&mut self.replica, &standing);
        for told in told {
            match told {
                Notification::Client(ticket, outcome) => {
                    let answer = Answer { term: self.facts.term, outcome: Ok(Response::default()) };
                    self.reply(Reply { ticket, result: outcome.map(|()| answer) });
                }
                Notification::Page(key, outcome) => self.promotions.on_change(key, outcome),
                Notification::Follower(key, refusal) => {
                    let reply = self.followers.remove(&key).expect("one for each change");
                    let answer = pb::MemberChangeAnswer { refusal: refusal_number(refusal) };
                    reply.succeed(answer.encode_to_vec().into());
                }
            }
        }
    }
}

/// Sends a membership change to the leader, whose answer goes to `answers`.
fn ask_leader(
    transport: Rc<Transport>,
    bell: Doorbell,
    answers: Rc<RefCell<Vec<(u64, LeaderAnswer)>>>,
    (id, leader, change): (u64, MemberId, Bytes),
) {
    glommio::spawn_local(async move {
        let called = transport.call(leader, CALL_MEMBER_CHANGE, change, MEMBER_CHANGE_TIMEOUT).await;
        if let Err(error) = &called {
            tracing::debug!(%leader, %error, "a membership change did not reach the leader");
        }
        let answer = called.ok().and_then(|body| pb::MemberChangeAnswer::decode(body).ok());
        let answer = match answer.map(|answer| refusal_of(answer.refusal)) {
            Some(None) => LeaderAnswer::Proposed,
            Some(Some(refusal)) => LeaderAnswer::Refused(refusal),
            None => LeaderAnswer::Lost,
        };
        if matches!(answer, LeaderAnswer::Lost | LeaderAnswer::Refused(Refusal::NotLeader)) {
            // News of who leads is on its way; to ask again at once would only spin.
            glommio::timer::sleep(MEMBER_CHANGE_PAUSE).await;
        }
        answers.borrow_mut().push((id, answer));
        bell.ring();
    })
    .detach();
}
