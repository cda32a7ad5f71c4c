//! Promotions that somebody waits for who asked by HTTP, and the list of members that answers them.

use std::collections::BTreeMap;

use crate::membership::{Cluster, Member};
use crate::request::Refusal;
use crate::rpc::json::put_text;
use crate::rpc::web::{AnswerHead, JSON};
use crate::shell::peer::PageReply;
use crate::types::{ClusterId, MemberId};

/// Promotions at a time.
const PROMOTIONS_MAX: usize = 64;

/// Promotions under way.
#[derive(Debug, Default)]
pub(super) struct Promotions {
    /// Not proposed yet, by the key that `calls` knows them by.
    asked: BTreeMap<u64, (MemberId, PageReply)>,
    /// Proposed, and not applied yet.
    proposed: Vec<(MemberId, PageReply)>,
    last: u64,
}

impl Promotions {
    /// The change is proposed, or why not.
    pub(super) fn on_change(&mut self, key: u64, outcome: Result<(), Refusal>) {
        let Some((member, reply)) = self.asked.remove(&key) else { return };
        match outcome {
            Ok(()) => self.proposed.push((member, reply)),
            Err(refusal) => refuse(reply, refusal),
        }
    }

    /// Who belongs to the cluster has changed.
    pub(super) fn on_members(&mut self, id: ClusterId, cluster: &Cluster) {
        let is_learner = |member| cluster.member(member).is_some_and(|member| member.learner);
        let (waiting, done): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.proposed).into_iter().partition(|(member, _)| is_learner(*member));
        self.proposed = waiting;
        for (_member, reply) in done {
            answer_members(reply, id, cluster);
        }
    }

    /// Takes a promotion that is about to be asked for. Its key, unless there are too many.
    pub(super) fn begin(&mut self, member: MemberId, reply: PageReply) -> Option<u64> {
        // Those whose askers have left are as many as wait for a member that never votes.
        if PROMOTIONS_MAX <= self.asked.len() + self.proposed.len() {
            refuse(reply, Refusal::TooManyRequests);
            return None;
        }
        self.last += 1;
        self.asked.insert(self.last, (member, reply));
        Some(self.last)
    }
}

pub(super) const CLUSTER_HEADER: &str = "X-Etcd-Cluster-ID";

/// Tells who belongs to the cluster.
pub(super) fn answer_members(reply: PageReply, id: ClusterId, cluster: &Cluster) {
    let head = AnswerHead::new(200, JSON).with(CLUSTER_HEADER, id.to_string());
    reply.answer(head, members_page(cluster));
}

fn refuse(reply: PageReply, refusal: Refusal) {
    let (status, text) = match refusal {
        Refusal::MemberNotFound => (404, "membership: ID not found"),
        Refusal::NotLearner => (412, "membership: can only promote a learner member"),
        Refusal::LearnerNotReady => {
            (412, "etcdserver: can only promote a learner member which is in sync with leader")
        }
        _ => (500, "Internal Server Error"),
    };
    reply.answer(AnswerHead::of_text(status), format!("{text}\n"));
}

fn members_page(cluster: &Cluster) -> Vec<u8> {
    let mut members: Vec<&Member> = cluster.members().collect();
    members.sort_by(|a, b| a.peer_urls.cmp(&b.peer_urls));
    let mut out = vec![b'['];
    for (number, member) in members.into_iter().enumerate() {
        if number != 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("{{\"id\":{},\"peerURLs\":", member.id.0).as_bytes());
        put_texts(&member.peer_urls, &mut out);
        if member.learner {
            out.extend_from_slice(b",\"isLearner\":true");
        }
        if !member.name.is_empty() {
            out.extend_from_slice(b",\"name\":");
            put_text(&member.name, &mut out);
        }
        if !member.client_urls.is_empty() {
            out.extend_from_slice(b",\"clientURLs\":");
            put_texts(&member.client_urls, &mut out);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]\n");
    out
}

fn put_texts(texts: &[String], out: &mut Vec<u8>) {
    out.push(b'[');
    for (number, text) in texts.iter().enumerate() {
        if number != 0 {
            out.push(b',');
        }
        put_text(text, out);
    }
    out.push(b']');
}
