//! Who belongs to the cluster, followed through etcd's entries by etcd's rules.
//!
//! A change is judged where it is applied; one that fails changes neither the members nor raft. Whether a member votes
//! is raft's word (`ConfState` and the changes behind it): before 3.6 the record of a learner says "voter" once its
//! URLs were changed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::fields::{bytes, fields, number};
use crate::backup::MemberEntry;
use crate::pb::peer;

/// The members, and the ids that are gone for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    pub(super) members: BTreeMap<u64, MemberEntry>,
    pub(super) removed: BTreeSet<u64>,
}

/// What a membership change asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Add(MemberEntry),
    Promote(u64),
    Remove(u64),
    Update { id: u64, peer_urls: Vec<String> },
}

impl Change {
    /// From an entry's data.
    ///
    /// # Errors
    /// It is no change that etcd writes.
    pub(super) fn decode(data: &[u8]) -> Result<Self, String> {
        let change = fields(data).ok_or("a membership change that does not decode")?;
        let (kind, id, context) = (number(&change, 2), number(&change, 3), bytes(&change, 4));
        let member = || MemberEntry::parse(context);
        match kind {
            0 | 3 => {
                let json: Json = serde_json::from_slice(context).map_err(|error| error.to_string())?;
                if json["isPromote"].as_bool() == Some(true) {
                    return Ok(Self::Promote(id));
                }
                let member = MemberEntry { is_learner: kind == 3, ..member()? };
                if member.id != id {
                    return Err(format!("raft means member {id:x}, the record {:x}", member.id));
                }
                Ok(Self::Add(member))
            }
            1 => Ok(Self::Remove(id)),
            2 => Ok(Self::Update { id, peer_urls: member()?.peer_urls }),
            other => Err(format!("a membership change of type {other}, which is not known")),
        }
    }
}

impl Roster {
    /// Of the buckets of a database.
    #[must_use]
    pub fn of_buckets(members: Vec<MemberEntry>, removed: Vec<u64>) -> Self {
        let members = members.into_iter().map(|member| (member.id, member)).collect();
        Self { members, removed: removed.into_iter().collect() }
    }

    /// Takes over raft's word on who votes, as far as it knows the member.
    pub(super) fn set_roles(&mut self, voters: &[u64], learners: &[u64]) {
        for member in self.members.values_mut() {
            if voters.contains(&member.id) {
                member.is_learner = false;
            } else if learners.contains(&member.id) {
                member.is_learner = true;
            }
        }
    }

    /// Carries a change out, if it may be.
    pub(super) fn change(&mut self, change: &Change) {
        match change {
            Change::Add(member) => {
                let has_url = |other: &&MemberEntry| {
                    other.id != member.id && other.peer_urls.iter().any(|url| member.peer_urls.contains(url))
                };
                let is_new = !self.removed.contains(&member.id) && !self.members.contains_key(&member.id);
                if is_new && self.members.values().find(has_url).is_none() {
                    self.members.insert(member.id, member.clone());
                }
            }
            Change::Promote(id) => {
                if let Some(member) = self.members.get_mut(id) {
                    member.is_learner = false;
                }
            }
            Change::Remove(id) => {
                if self.members.remove(id).is_some() {
                    self.removed.insert(*id);
                }
            }
            Change::Update { id, peer_urls } => {
                let is_taken = |other: &MemberEntry| {
                    other.id != *id && other.peer_urls.iter().any(|url| peer_urls.contains(url))
                };
                if !self.members.values().any(is_taken)
                    && let Some(member) = self.members.get_mut(id)
                {
                    member.peer_urls.clone_from(peer_urls);
                }
            }
        }
    }

    /// A member says its name and where clients reach it.
    pub(super) fn publish(&mut self, id: u64, name: String, client_urls: Vec<String>) {
        if let Some(member) = self.members.get_mut(&id) {
            (member.name, member.client_urls) = (name, client_urls);
        }
    }

    /// As a checkpoint holds it.
    #[must_use]
    pub(super) fn to_record(&self, cluster_id: u64) -> peer::Membership {
        let members = self.members.values().map(|member| peer::MemberRecord {
            id: member.id,
            name: member.name.clone(),
            peer_urls: {
                let mut urls = member.peer_urls.clone();
                urls.sort_unstable();
                urls
            },
            client_urls: member.client_urls.clone(),
            learner: member.is_learner,
        });
        peer::Membership {
            cluster_id,
            members: members.collect(),
            removed: self.removed.iter().copied().collect(),
        }
    }
}
