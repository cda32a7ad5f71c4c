//! The members of a cluster, as part of the state that every member applies alike.
//!
//! Who votes is raft's business (`raft::CheckpointMeta`); here is what clients and operators see:
//! names, addresses, and which ids are gone for ever. A membership change is made in both by the
//! entry that carries it.
//!
//! Invariants: no id is both a member and removed; a member's addresses are what it was added with
//! or published last. Cost: O(log members) a change.
//! Compatibility: `encode` is `pinion.peer.v1.Membership`, inside the checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;

use super::member::{self, Member};
use crate::pb::{etcdserverpb, peer as pb};
use crate::request::Rejection;
use crate::types::{ClusterId, MemberId};

/// The members of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    id: ClusterId,
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

/// A checkpoint's membership does not decode, or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("membership in the checkpoint: {0}")]
pub struct ClusterUndecodable(pub String);

impl Cluster {
    /// A new cluster. `members` are the configured ones: each name with its peer URLs; all vote.
    /// Every member computes the same from the same configuration.
    ///
    /// The names stay out until the members publish themselves, as in etcd.
    #[must_use]
    pub fn bootstrap<'a>(peer_urls: impl IntoIterator<Item = &'a [String]>, token: &str) -> Self {
        let members: BTreeMap<MemberId, Member> = peer_urls
            .into_iter()
            .map(|urls| {
                let mut peer_urls = urls.to_vec();
                peer_urls.sort_unstable();
                let id = member::member_id(&peer_urls, token);
                let member =
                    Member { id, name: String::new(), peer_urls, client_urls: Vec::new(), learner: false };
                (id, member)
            })
            .collect();
        let id = member::cluster_id(members.keys().copied());
        Self { id, members, removed: BTreeSet::new() }
    }

    #[must_use]
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// The members, ascending by id.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether the id belonged to a member once. It can never belong to one again.
    #[must_use]
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The members that vote, ascending.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> {
        self.members.values().filter(|member| !member.learner).map(|member| member.id)
    }

    /// The members that only receive, ascending.
    pub fn learners(&self) -> impl Iterator<Item = MemberId> {
        self.members.values().filter(|member| member.learner).map(|member| member.id)
    }

    /// A member says how it is called and where clients reach it. Returns whether it is a member:
    /// one that was removed meanwhile changes nothing.
    pub fn publish(&mut self, published: pb::PublishMember) -> bool {
        let Some(member) = self.members.get_mut(&MemberId(published.id)) else { return false };
        member.name = published.name;
        member.client_urls = published.client_urls;
        true
    }

    pub(super) fn member_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.members.get_mut(&id)
    }

    /// Takes a member in whose id is new.
    pub(super) fn insert(&mut self, mut member: Member) {
        member.peer_urls.sort_unstable();
        let replaced = self.members.insert(member.id, member);
        assert!(replaced.is_none(), "an id belongs to one member");
    }

    /// Takes a member out for ever.
    pub(super) fn retire(&mut self, id: MemberId) {
        let member = self.members.remove(&id);
        assert!(member.is_some(), "only a member is removed");
        self.removed.insert(id);
    }

    /// Everybody but `own` goes for ever, and it votes: the cluster of `--force-new-cluster`.
    ///
    /// # Errors
    /// When `own` is no member.
    pub fn reduce_to(&mut self, own: MemberId) -> Result<(), Rejection> {
        let member = self.members.get_mut(&own).ok_or(Rejection::MemberNotFound(own))?;
        member.learner = false;
        let others: Vec<MemberId> = self.members.keys().copied().filter(|id| *id != own).collect();
        others.into_iter().for_each(|id| self.retire(id));
        Ok(())
    }

    /// The cluster goes on as another one, with an id made of its own and of `token`: members of the one take no part in
    /// the other, and are told so.
    pub fn renew(&mut self, token: &str) {
        self.id = member::renewed_cluster_id(self.id, token);
    }

    /// The ids that were members once, ascending.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// `etcdserverpb.MemberListResponse` without its header.
    #[must_use]
    pub fn member_list_body(&self) -> Vec<u8> {
        let members = self.members.values().map(Member::to_message);
        etcdserverpb::MemberListResponse { header: None, members: members.collect() }.encode_to_vec()
    }

    /// For the checkpoint.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let members = self.members.values().map(Member::to_record);
        pb::Membership {
            cluster_id: self.id.0,
            members: members.collect(),
            removed: self.removed.iter().map(|id| id.0).collect(),
        }
        .encode_to_vec()
    }

    /// From a checkpoint.
    ///
    /// # Errors
    /// When the bytes do not decode, or say what no member would have written.
    pub fn decode(bytes: Bytes) -> Result<Self, ClusterUndecodable> {
        let wire = pb::Membership::decode(bytes).map_err(|error| ClusterUndecodable(error.to_string()))?;
        let fault = |text: String| Err(ClusterUndecodable(text));
        let removed: BTreeSet<MemberId> = wire.removed.into_iter().map(MemberId).collect();
        let mut members = BTreeMap::new();
        for record in wire.members {
            let id = MemberId(record.id);
            if id == MemberId(0) {
                return fault("member 0 cannot exist".to_owned());
            }
            if removed.contains(&id) {
                return fault(format!("member {id} is both present and removed"));
            }
            if members.insert(id, Member::from_record(record)).is_some() {
                return fault(format!("member {id} is there twice"));
            }
        }
        if members.values().all(|member| member.learner) {
            return fault("no member votes".to_owned());
        }
        Ok(Self { id: ClusterId(wire.cluster_id), members, removed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| (*url).to_owned()).collect()
    }

    fn published() -> Cluster {
        let (a, b) = (urls(&["http://b:2380", "http://a:2380"]), urls(&["http://c:2380"]));
        let mut cluster = Cluster::bootstrap([a.as_slice(), &b], "token");
        let id = cluster.voters().next().unwrap();
        let client_urls = urls(&["http://a:2379"]);
        assert!(cluster.publish(pb::PublishMember { id: id.0, name: "one".to_owned(), client_urls }));
        cluster.removed.insert(MemberId(7));
        cluster
    }

    /// Observed with etcd 3.4.23:
    /// `etcd --name m1 --initial-advertise-peer-urls http://127.0.0.1:23801,http://localhost:23801
    /// --initial-cluster m1=http://127.0.0.1:23801,m1=http://localhost:23801
    /// --initial-cluster-token pinion-token`, then `etcdctl member list -w json`.
    #[test]
    fn ids_are_those_a_real_etcd_computes() {
        let peer_urls = urls(&["http://localhost:23801", "http://127.0.0.1:23801"]);
        let id = member::member_id(&peer_urls, "pinion-token");
        assert_eq!(id, MemberId(9_932_745_362_114_945_975));
        assert_eq!(member::cluster_id([id]), ClusterId(4_305_041_653_934_903_042));
        let cluster = Cluster::bootstrap([peer_urls.as_slice()], "pinion-token");
        assert_eq!(
            (cluster.id(), cluster.voters().collect::<Vec<_>>()),
            (ClusterId(4_305_041_653_934_903_042), vec![id])
        );
    }

    #[test]
    fn ids_do_not_depend_on_the_order_of_the_configuration() {
        let (a, b) = (urls(&["http://a:1"]), urls(&["http://b:1"]));
        let one = Cluster::bootstrap([a.as_slice(), &b], "t");
        assert_eq!(one, Cluster::bootstrap([b.as_slice(), &a], "t"));
        assert_ne!(one.id(), Cluster::bootstrap([a.as_slice(), &b], "u").id());
    }

    #[test]
    fn membership_comes_out_of_a_checkpoint_as_it_went_in() {
        let cluster = published();
        assert_eq!(Cluster::decode(cluster.encode().into()), Ok(cluster));
    }

    #[test]
    fn publishing_tells_name_and_client_urls_and_a_stranger_changes_nothing() {
        let mut cluster = published();
        let before = cluster.clone();
        assert!(!cluster.publish(pb::PublishMember {
            id: 99,
            name: "x".to_owned(),
            client_urls: Vec::new()
        }));
        assert_eq!(cluster, before);
        let named: Vec<&str> = cluster.members().map(|member| member.name.as_str()).collect();
        assert_eq!(named, ["one", ""]);
    }

    #[test]
    fn member_list_is_sorted_by_id_and_has_no_header() {
        let cluster = published();
        let list = etcdserverpb::MemberListResponse::decode(cluster.member_list_body().as_slice()).unwrap();
        assert_eq!(list.header, None);
        let ids: Vec<u64> = list.members.iter().map(|member| member.id).collect();
        assert_eq!(ids, cluster.voters().map(|id| id.0).collect::<Vec<_>>());
        assert!(ids.is_sorted());
        assert_eq!(list.members[0].client_ur_ls, ["http://a:2379"]);
    }

    #[test]
    fn cluster_reduced_to_one_member_lets_it_vote_and_never_takes_the_others_back() {
        let record = |id, learner| pb::MemberRecord { id, learner, ..Default::default() };
        let members = vec![record(1, false), record(2, true), record(3, false)];
        let wire = pb::Membership { cluster_id: 1, members, removed: vec![4] };
        let mut cluster = Cluster::decode(wire.encode_to_vec().into()).unwrap();
        assert_eq!(cluster.reduce_to(MemberId(4)), Err(Rejection::MemberNotFound(MemberId(4))));
        cluster.reduce_to(MemberId(2)).unwrap();
        assert_eq!(cluster.voters().collect::<Vec<_>>(), [MemberId(2)]);
        assert_eq!(cluster.removed().collect::<Vec<_>>(), [1, 3, 4].map(MemberId));
        let again = cluster.clone();
        cluster.reduce_to(MemberId(2)).unwrap();
        assert_eq!(cluster, again);
    }

    #[test]
    fn membership_that_contradicts_itself_is_refused() {
        let record = |id, learner| pb::MemberRecord { id, learner, ..Default::default() };
        let decode = |members: Vec<pb::MemberRecord>, removed: Vec<u64>| {
            let wire = pb::Membership { cluster_id: 1, members, removed };
            Cluster::decode(wire.encode_to_vec().into()).is_ok()
        };
        assert!(decode(vec![record(1, false), record(2, true)], vec![3]));
        assert!(!decode(vec![record(1, false), record(1, false)], vec![]));
        assert!(!decode(vec![record(1, false)], vec![1]));
        assert!(!decode(vec![record(1, true)], vec![]));
        assert!(!decode(vec![record(0, false)], vec![]));
        let bytes = published().encode();
        for cut in 0..bytes.len() {
            drop(Cluster::decode(Bytes::copy_from_slice(&bytes[..cut])));
        }
    }
}
