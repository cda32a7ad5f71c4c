//! The pages of the port for peers: versions, members, and the promotion of a learner by whoever may reach it.
//!
//! Whoever reaches this port is trusted with what members may do to each other, as with etcd; a network, or
//! certificates, keep others away.
//!
//! Compatibility: paths, methods, statuses, texts and headers are etcd's. Its other paths there are the conversation
//! between its members, which ours hold in words of their own (`peer`): not found.

use std::collections::BTreeMap;

use super::RaftRole;

use crate::config::ETCD_API_VERSION;
use crate::membership::{Cluster, Member, MemberChange, MemberChangeKind};
use crate::request::{Origin, Refusal};
use crate::rpc::json::put_text;
use crate::rpc::web::{AnswerHead, JSON, put_version};
use crate::shell::peer::{PageCall, PageReply};
use crate::types::format::ETCD_STORAGE_VERSION;
use crate::types::{Caller, ClusterId, MemberId};

/// Promotions that somebody waits for.
const PROMOTIONS_MAX: usize = 64;

const PROMOTE: &str = "/members/promote/";

/// Promotions under way.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// Not proposed yet, by the key that `calls` knows them by.
    asked: BTreeMap<u64, (MemberId, PageReply)>,
    /// Proposed, and not applied yet.
    proposed: Vec<(MemberId, PageReply)>,
    last: u64,
}

impl Pages {
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
            reply.answer(members_head(id), members_page(cluster));
        }
    }
}

impl RaftRole {
    /// Somebody asks for a page.
    pub(super) fn on_page(&mut self, call: PageCall) {
        let PageCall { method, path, reply } = call;
        let expected = if path.starts_with(PROMOTE) { "POST" } else { "GET" };
        let is_known = matches!(path.as_str(), "/version" | "/members") || path.starts_with(PROMOTE);
        if !is_known {
            return reply.answer(AnswerHead::of_text(404), "404 page not found\n");
        }
        if method != expected {
            return reply.answer(AnswerHead::of_text(405).with("Allow", expected), "Method Not Allowed\n");
        }
        match (path.strip_prefix(PROMOTE), &self.cluster) {
            (Some(id), _) => self.promote(id, reply),
            (None, _) if path == "/version" => {
                let mut page = Vec::new();
                put_version(ETCD_API_VERSION, ETCD_STORAGE_VERSION, &mut page);
                reply.answer(AnswerHead::new(200, JSON), page);
            }
            (None, Some(cluster)) => {
                reply.answer(members_head(self.transport.cluster()), members_page(cluster));
            }
            (None, None) => reply.answer(AnswerHead::of_text(503), "this member is still starting\n"),
        }
    }

    fn promote(&mut self, text: &str, reply: PageReply) {
        let Ok(id) = text.parse::<u64>() else {
            let head = AnswerHead::of_text(404).with(CLUSTER_HEADER, self.transport.cluster().to_string());
            return reply.answer(head, format!("member {text} not found in cluster\n"));
        };
        // Those whose askers have left are as many as wait for a member that never votes.
        if PROMOTIONS_MAX <= self.pages.asked.len() + self.pages.proposed.len() {
            return refuse(reply, Refusal::TooManyRequests);
        }
        let pages = &mut self.pages;
        pages.last += 1;
        pages.asked.insert(pages.last, (MemberId(id), reply));
        let origin = Origin { member: self.replica.id(), ticket: Caller::Nobody.into() };
        let change = MemberChange { origin, kind: MemberChangeKind::Promote(MemberId(id)) };
        self.calls.push_page(pages.last, change, self.ticks);
    }
}

const CLUSTER_HEADER: &str = "X-Etcd-Cluster-ID";

fn members_head(cluster: ClusterId) -> AnswerHead {
    AnswerHead::new(200, JSON).with(CLUSTER_HEADER, cluster.to_string())
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
