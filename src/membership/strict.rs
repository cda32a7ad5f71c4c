//! Whether a membership change may be asked for at all (`--strict-reconfig-check`).
//!
//! Looks at what is known on the member that takes the call: who has started (published itself), and
//! with whom it has been in touch for the last five seconds. So it is a precaution, not a part of the
//! state: another member may judge otherwise at the same moment.
//!
//! Compatibility: the rules and the order of the two errors are etcd's.

use super::cluster::Cluster;
use super::member::Member;
use crate::types::MemberId;

/// Why a change is not asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsafe {
    /// Fewer members than the new quorum have ever started.
    NotEnoughStarted,
    /// Too few are in touch now.
    Unhealthy,
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn voters(cluster: &Cluster) -> impl Iterator<Item = &Member> {
    cluster.members().filter(|member| !member.learner)
}

fn is_started(member: &Member) -> bool {
    !member.name.is_empty()
}

fn started_count(cluster: &Cluster, but: Option<MemberId>) -> usize {
    voters(cluster).filter(|member| Some(member.id) != but && is_started(member)).count()
}

/// `in_touch` tells of any member, this one included, whether it has been connected long enough.
///
/// # Errors
/// When the cluster might lose its quorum while the new member is not running yet.
pub fn check_add(
    cluster: &Cluster,
    learner: bool,
    in_touch: impl Fn(MemberId) -> bool,
) -> Result<(), Unsafe> {
    let count = voters(cluster).count();
    let started = started_count(cluster, None);
    // One member that becomes two: there is no safer way to grow.
    let is_first = started == 1 && count == 1;
    if !learner && !is_first && started < quorum(count + 1) {
        return Err(Unsafe::NotEnoughStarted);
    }
    let connected = voters(cluster).filter(|member| in_touch(member.id)).count();
    if !is_first && connected < quorum(count + 1) {
        return Err(Unsafe::Unhealthy);
    }
    Ok(())
}

/// # Errors
/// When the rest might have no quorum. A member that is out of touch may always go.
pub fn check_remove(
    cluster: &Cluster,
    id: MemberId,
    in_touch: impl Fn(MemberId) -> bool,
) -> Result<(), Unsafe> {
    if cluster.member(id).is_none_or(|member| member.learner) {
        return Ok(());
    }
    let left = voters(cluster).count() - 1;
    if started_count(cluster, Some(id)) < quorum(left) {
        return Err(Unsafe::NotEnoughStarted);
    }
    if !in_touch(id) {
        return Ok(());
    }
    let connected = voters(cluster).filter(|member| in_touch(member.id)).count();
    if connected - 1 < quorum(left) { Err(Unsafe::Unhealthy) } else { Ok(()) }
}

/// # Errors
/// When too few members have started for one more voter.
pub fn check_promote(cluster: &Cluster) -> Result<(), Unsafe> {
    let count = voters(cluster).count();
    let started = started_count(cluster, None) + 1;
    if started < quorum(count + 1) { Err(Unsafe::NotEnoughStarted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::peer as pb;

    /// Voters with these ids; those in `started` have published themselves.
    fn cluster(ids: &[u64], started: &[u64]) -> Cluster {
        let record = |id: &u64| pb::MemberRecord {
            id: *id,
            name: if started.contains(id) { format!("m{id}") } else { String::new() },
            peer_urls: vec![format!("http://m{id}:1")],
            ..Default::default()
        };
        let wire =
            pb::Membership { cluster_id: 1, members: ids.iter().map(record).collect(), removed: Vec::new() };
        Cluster::decode(prost::Message::encode_to_vec(&wire).into()).unwrap()
    }

    #[test]
    fn lone_member_grows_to_two_and_two_not_to_three_before_the_second_has_started() {
        assert_eq!(check_add(&cluster(&[1], &[1]), false, |_| true), Ok(()));
        let two = cluster(&[1, 2], &[1]);
        assert_eq!(check_add(&two, false, |_| true), Err(Unsafe::NotEnoughStarted));
        assert_eq!(check_add(&cluster(&[1, 2], &[1, 2]), false, |_| true), Ok(()));
    }

    #[test]
    fn nobody_is_added_while_a_member_that_would_be_needed_is_out_of_touch() {
        let three = cluster(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(check_add(&three, false, |id| id.0 != 3), Err(Unsafe::Unhealthy));
        assert_eq!(check_add(&three, true, |id| id.0 != 3), Err(Unsafe::Unhealthy));
        assert_eq!(check_add(&three, true, |_| true), Ok(()));
    }

    #[test]
    fn member_out_of_touch_may_go_and_one_that_is_needed_may_not() {
        let three = cluster(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(check_remove(&three, MemberId(3), |id| id.0 != 3), Ok(()));
        assert_eq!(check_remove(&three, MemberId(2), |id| id.0 != 3), Err(Unsafe::Unhealthy));
        assert_eq!(check_remove(&three, MemberId(3), |_| true), Ok(()));
        let young = cluster(&[1, 2, 3], &[1, 3]);
        assert_eq!(check_remove(&young, MemberId(3), |_| true), Err(Unsafe::NotEnoughStarted));
        assert_eq!(check_remove(&young, MemberId(2), |id| id.0 != 2), Ok(()));
        let one = cluster(&[1], &[1]);
        assert_eq!(check_remove(&one, MemberId(1), |_| true), Err(Unsafe::NotEnoughStarted));
    }

    #[test]
    fn learner_is_promoted_where_the_new_quorum_has_started() {
        assert_eq!(check_promote(&cluster(&[1], &[1])), Ok(()));
        assert_eq!(check_promote(&cluster(&[1, 2, 3], &[1])), Err(Unsafe::NotEnoughStarted));
    }
}
