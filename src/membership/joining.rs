//! Which of a running cluster's members a process with empty data is (`--initial-cluster-state=existing`).
//!
//! Somebody has added the member before; the process knows only addresses. What it was told on its
//! command line must be the whole membership, or it would dial others than the cluster means.
//! Compatibility: the rules and the texts are etcd's.

use super::cluster::Cluster;
use super::member::Member;
use crate::types::MemberId;

/// Why the configured members are not those of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error(
        "member count is unequal: the cluster has {cluster}, --initial-cluster lists {configured}. Add this member \
         first (etcdctl member add), and list exactly the members that are"
    )]
    Count { cluster: usize, configured: usize },
    #[error("PeerURLs: no match found for existing member ({0}, [{1}]), among those of --initial-cluster")]
    Unmatched(MemberId, String),
    #[error(
        "the member with the peer URLs of this one ({0}) has been started before: its data was lost or is elsewhere. \
         Remove that member and add a new one"
    )]
    StartedBefore(MemberId),
}

/// The member of `cluster` whose peer URLs are `own`, which `configured` has too. `same` tells whether
/// two lists of URLs lead to the same place.
///
/// # Errors
/// [`Mismatch`].
pub fn find_joining(
    cluster: &Cluster,
    configured: &[Vec<String>],
    own: &[String],
    mut same: impl FnMut(&[String], &[String]) -> bool,
) -> Result<MemberId, Mismatch> {
    if cluster.members().len() != configured.len() {
        return Err(Mismatch::Count { cluster: cluster.members().len(), configured: configured.len() });
    }
    let unmatched = |member: &Member| Mismatch::Unmatched(member.id, member.peer_urls.join(" "));
    for member in cluster.members() {
        if !configured.iter().any(|urls| same(&member.peer_urls, urls)) {
            return Err(unmatched(member));
        }
    }
    // As many members as lists and each has one; still two members could share a list.
    let found = cluster.members().find(|member| same(&member.peer_urls, own));
    let found =
        found.ok_or(Mismatch::Count { cluster: cluster.members().len(), configured: configured.len() })?;
    // Only a member that has run tells its name. Starting it anew without its data would make it forget
    // what it voted and acknowledged.
    if found.name.is_empty() { Ok(found.id) } else { Err(Mismatch::StartedBefore(found.id)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::peer as pb;

    fn cluster() -> Cluster {
        let record = |id: u64, name: &str| pb::MemberRecord {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("http://m{id}:1")],
            ..Default::default()
        };
        let members = vec![record(1, "one"), record(2, "")];
        let wire = pb::Membership { cluster_id: 7, members, removed: Vec::new() };
        Cluster::decode(prost::Message::encode_to_vec(&wire).into()).unwrap()
    }

    fn lists(ids: &[u64]) -> Vec<Vec<String>> {
        ids.iter().map(|id| vec![format!("http://m{id}:1")]).collect()
    }

    fn find(configured: &[u64], own: u64) -> Result<MemberId, Mismatch> {
        let own = vec![format!("http://m{own}:1")];
        find_joining(&cluster(), &lists(configured), &own, |a, b| a == b)
    }

    #[test]
    fn process_is_the_member_that_was_added_with_its_addresses() {
        assert_eq!(find(&[1, 2], 2), Ok(MemberId(2)));
        assert_eq!(find(&[2, 1], 2), Ok(MemberId(2)));
    }

    #[test]
    fn list_that_is_not_the_membership_is_refused_with_the_difference() {
        assert_eq!(find(&[2], 2), Err(Mismatch::Count { cluster: 2, configured: 1 }));
        assert_eq!(find(&[1, 3], 3), Err(Mismatch::Unmatched(MemberId(2), "http://m2:1".to_owned())));
        let text = find(&[1, 2, 3], 3).unwrap_err().to_string();
        assert!(text.starts_with("member count is unequal"), "{text}");
    }

    #[test]
    fn member_that_has_run_before_is_not_begun_anew() {
        assert_eq!(find(&[1, 2], 1), Err(Mismatch::StartedBefore(MemberId(1))));
    }
}
