//! The pages of the port for peers: versions, members, and the promotion of a learner by whoever may reach it.
//!
//! Whoever reaches this port is trusted with what members may do to each other, as with etcd; a network, or
//! certificates, keep others away.
//!
//! Compatibility: paths, methods, statuses, texts and headers are etcd's. Its other paths there are the conversation
//! between its members, which ours hold in words of their own (`peer`): not found.

use super::RaftRole;
use super::promotions::{CLUSTER_HEADER, answer_members};
use crate::config::ETCD_API_VERSION;
use crate::membership::{MemberChange, MemberChangeKind};
use crate::request::Origin;
use crate::rpc::web::{AnswerHead, JSON, put_version};
use crate::shell::peer::{PageCall, PageReply};
use crate::types::format::ETCD_STORAGE_VERSION;
use crate::types::{Caller, MemberId};

const PROMOTE: &str = "/members/promote/";

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
                answer_members(reply, self.transport.cluster(), cluster);
            }
            (None, None) => reply.answer(AnswerHead::of_text(503), "this member is still starting\n"),
        }
    }

    fn promote(&mut self, text: &str, reply: PageReply) {
        let Ok(id) = text.parse::<u64>() else {
            let head = AnswerHead::of_text(404).with(CLUSTER_HEADER, self.transport.cluster().to_string());
            return reply.answer(head, format!("member {text} not found in cluster\n"));
        };
        let Some(key) = self.promotions.begin(MemberId(id), reply) else { return };
        let origin = Origin { member: self.replica.id(), ticket: Caller::Nobody.into() };
        let change = MemberChange { origin, kind: MemberChangeKind::Promote(MemberId(id)) };
        self.calls.push_page(key, change, self.ticks);
    }
}
