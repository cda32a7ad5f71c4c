//! One change of the membership, from the log's entry to the cluster.
//!
//! A change is raft's own entry (`raft::ConfChange`), whose context is `pinion.peer.v1.MemberChange`.
//! Raft and cluster take it or refuse it together: the state machine decides, and its verdict goes to
//! raft before anything behind the entry is applied.
//!
//! Invariants: the same entry has the same verdict on every member. An id that was removed never
//! returns; two members never share a peer URL; somebody votes.
//! Compatibility: `FORMAT` is on disk; a higher one stops the member instead of being skipped.

use bytes::Bytes;
use prost::Message as _;

use super::cluster::Cluster;
use super::member::Member;
use crate::pb::{etcdserverpb, peer as pb};
use crate::raft::{ConfChange, ConfChangeKind};
use crate::request::{Origin, Outcome, Rejection, Response};
use crate::types::{MemberId, Ticket};

const FORMAT: u32 = 1;

/// What is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChangeKind {
    /// Joins, as voter or learner as the member says.
    Add {
        member: Member,
        /// Learners that the cluster may have with it (`--max-learners` of the member that was asked).
        learners_max: u32,
    },
    /// A learner gets a vote.
    Promote(MemberId),
    Remove(MemberId),
}

/// A change and who waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberChange {
    pub origin: Origin,
    pub kind: MemberChangeKind,
}

/// An entry of a membership change that this version cannot carry out. The member must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("membership change of unknown form: {0}")]
pub struct ChangeUndecodable(pub String);

impl MemberChange {
    /// As raft proposes it.
    #[must_use]
    pub fn to_conf_change(&self) -> ConfChange {
        let (kind, member, added) = match &self.kind {
            MemberChangeKind::Add { member, learners_max } => {
                let kind = if member.learner { ConfChangeKind::AddLearner } else { ConfChangeKind::AddVoter };
                (kind, member.id, Some((member, *learners_max)))
            }
            MemberChangeKind::Promote(id) => (ConfChangeKind::AddVoter, *id, None),
            MemberChangeKind::Remove(id) => (ConfChangeKind::Remove, *id, None),
        };
        let context = pb::MemberChange {
            format: FORMAT,
            origin_member: self.origin.member.0,
            ticket: self.origin.ticket.0,
            promote: matches!(self.kind, MemberChangeKind::Promote(_)),
            member: added.map(|(member, _)| member.to_record()),
            learners_max: added.map_or(0, |(_, learners_max)| learners_max),
        };
        ConfChange { kind, member, context: context.encode_to_vec().into() }
    }

    /// From an entry's data.
    ///
    /// # Errors
    /// When the bytes do not decode, or say something this version never writes.
    pub fn decode(data: Bytes) -> Result<Self, ChangeUndecodable> {
        let fault = |text: String| ChangeUndecodable(text);
        let change = ConfChange::decode(data).map_err(|error| fault(error.to_string()))?;
        let wire = pb::MemberChange::decode(change.context).map_err(|error| fault(error.to_string()))?;
        if wire.format != FORMAT {
            return Err(fault(format!("format {}, this version reads {FORMAT}", wire.format)));
        }
        let origin = Origin { member: MemberId(wire.origin_member), ticket: Ticket(wire.ticket) };
        let kind = match (change.kind, wire.promote, wire.member) {
            (ConfChangeKind::AddVoter, true, None) => MemberChangeKind::Promote(change.member),
            (ConfChangeKind::Remove, false, None) => MemberChangeKind::Remove(change.member),
            (kind, false, Some(record)) if kind != ConfChangeKind::Remove => {
                let member = Member::from_record(record);
                let is_meant = member.learner == (kind == ConfChangeKind::AddLearner);
                if member.id != change.member || !is_meant {
                    return Err(fault(format!("raft means {}, the record {}", change.member, member.id)));
                }
                MemberChangeKind::Add { member, learners_max: wire.learners_max }
            }
            _ => return Err(fault("its parts contradict each other".to_owned())),
        };
        Ok(Self { origin, kind })
    }
}

impl Cluster {
    /// Carries a change out; refused, it has changed nothing. The body is that of etcd's answer to
    /// the call that asked for it, without header.
    ///
    /// # Errors
    /// Why the change cannot be.
    pub fn change(&mut self, kind: &MemberChangeKind) -> Outcome {
        let added = match kind {
            MemberChangeKind::Add { member, learners_max } => {
                self.add(member.clone(), *learners_max)?;
                Some(member.to_message())
            }
            MemberChangeKind::Promote(id) => {
                self.promote(*id)?;
                None
            }
            MemberChangeKind::Remove(id) => {
                self.remove(*id)?;
                None
            }
        };
        let members = self.members().map(Member::to_message).collect();
        // Field numbers differ: only MemberAdd's answer names the member it is about.
        let body = match added {
            Some(member) => {
                let member = Some(member);
                etcdserverpb::MemberAddResponse { header: None, member, members }.encode_to_vec()
            }
            None => etcdserverpb::MemberRemoveResponse { header: None, members }.encode_to_vec(),
        };
        Ok(Response { body, ..Response::default() })
    }

    /// New peer URLs for a member (`MemberUpdate`).
    ///
    /// # Errors
    /// When there is no such member, or a URL belongs to another one.
    pub fn update(&mut self, request: etcdserverpb::MemberUpdateRequest) -> Outcome {
        self.set_peer_urls(MemberId(request.id), request.peer_ur_ls)?;
        let members = self.members().map(Member::to_message).collect();
        let body = etcdserverpb::MemberUpdateResponse { header: None, members }.encode_to_vec();
        Ok(Response { body, ..Response::default() })
    }

    fn add(&mut self, member: Member, learners_max: u32) -> Result<(), Rejection> {
        if member.id == MemberId(0) || self.member(member.id).is_some() || self.is_removed(member.id) {
            return Err(Rejection::MemberExists(member.id));
        }
        self.check_urls(member.id, &member.peer_urls)?;
        let learners = self.learners().count();
        if member.learner && learners_max as usize <= learners {
            return Err(Rejection::TooManyLearners(learners));
        }
        self.insert(member);
        Ok(())
    }

    /// No peer URL may lead to two members.
    fn check_urls(&self, id: MemberId, urls: &[String]) -> Result<(), Rejection> {
        let mut others = self.members().filter(|other| other.id != id).flat_map(|other| &other.peer_urls);
        match others.find(|url| urls.contains(url)) {
            Some(url) => Err(Rejection::PeerUrlExists(url.clone())),
            None => Ok(()),
        }
    }

    fn promote(&mut self, id: MemberId) -> Result<(), Rejection> {
        let member = self.member_mut(id).ok_or(Rejection::MemberNotFound(id))?;
        if !member.learner {
            return Err(Rejection::NotLearner(id));
        }
        member.learner = false;
        Ok(())
    }

    fn remove(&mut self, id: MemberId) -> Result<(), Rejection> {
        let Some(member) = self.member(id) else { return Err(Rejection::MemberNotFound(id)) };
        if !member.learner && self.voters().count() == 1 {
            return Err(Rejection::LastVoter(id));
        }
        self.retire(id);
        Ok(())
    }

    fn set_peer_urls(&mut self, id: MemberId, mut urls: Vec<String>) -> Result<(), Rejection> {
        if self.member(id).is_none() {
            return Err(Rejection::MemberNotFound(id));
        }
        self.check_urls(id, &urls)?;
        urls.sort_unstable();
        self.member_mut(id).expect("it was there two lines above").peer_urls = urls;
        Ok(())
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
