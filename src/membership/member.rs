//! A member, and how its identity follows from its addresses.
//!
//! Ids are etcd's, bit for bit: members that are configured alike compute the same ids without
//! talking, and tools that know a cluster's ids find them again.
//!
//! Compatibility: SHA-1 here is a name, not a proof; its first 8 bytes, big-endian, are the id.

use sha1::{Digest, Sha1};

use crate::pb::{etcdserverpb, peer as pb};
use crate::types::{ClusterId, MemberId};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Empty until the member has started and published itself.
    pub name: String,
    /// Where other members reach it, ascending.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until published.
    pub client_urls: Vec<String>,
    /// Receives the log, has no vote.
    pub learner: bool,
}

impl Member {
    /// As checkpoints and the log hold it.
    #[must_use]
    pub fn to_record(&self) -> pb::MemberRecord {
        pb::MemberRecord {
            id: self.id.0,
            name: self.name.clone(),
            peer_urls: self.peer_urls.clone(),
            client_urls: self.client_urls.clone(),
            learner: self.learner,
        }
    }

    /// From a checkpoint or the log.
    #[must_use]
    pub fn from_record(record: pb::MemberRecord) -> Self {
        let pb::MemberRecord { id, name, peer_urls, client_urls, learner } = record;
        Self { id: MemberId(id), name, peer_urls, client_urls, learner }
    }

    /// As clients see it.
    #[must_use]
    pub fn to_message(&self) -> etcdserverpb::Member {
        etcdserverpb::Member {
            id: self.id.0,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: self.learner,
        }
    }
}

/// The id of a member of a new cluster. `token` is `--initial-cluster-token`, which keeps clusters
/// apart that use the same addresses one after the other.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    id_of_urls(peer_urls, token)
}

/// The id of a member that is added to a running cluster. The time makes it new when a member with
/// the same addresses was removed before: a removed id never returns.
#[must_use]
pub fn joining_member_id(peer_urls: &[String], token: &str, unix_seconds: i64) -> MemberId {
    id_of_urls(peer_urls, &format!("{token}{unix_seconds}"))
}

fn id_of_urls(peer_urls: &[String], suffix: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(suffix);
    MemberId(first_eight(&hash.finalize()))
}

/// The id of a cluster: of its first members, in whatever order they are given.
#[must_use]
pub fn cluster_id(members: impl IntoIterator<Item = MemberId>) -> ClusterId {
    let mut members: Vec<MemberId> = members.into_iter().collect();
    members.sort_unstable();
    let mut hash = Sha1::new();
    for member in members {
        hash.update(member.0.to_be_bytes());
    }
    ClusterId(first_eight(&hash.finalize()))
}

/// The id of a cluster that goes on with the data of another one. `token` tells apart what is made of the same data.
#[must_use]
pub(super) fn renewed_cluster_id(old: ClusterId, token: &str) -> ClusterId {
    let hash = Sha1::new().chain_update(old.0.to_be_bytes()).chain_update(token);
    ClusterId(first_eight(&hash.finalize()))
}

fn first_eight(digest: &[u8]) -> u64 {
    let (eight, _) = digest.split_first_chunk().expect("a SHA-1 digest has 20 bytes");
    u64::from_be_bytes(*eight)
}
