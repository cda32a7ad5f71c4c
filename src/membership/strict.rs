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

/// How well this member and another one are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    Lost,
    /// Connected, for less than five seconds.
    Young,
    /// Connected for at least five seconds; always so with itself.
    Lasting,
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

fn lasting_count(cluster: &Cluster, touch: impl Fn(MemberId) -> Touch) -> usize {
    voters(cluster).filter(|member| touch(member.id) == Touch::Lasting).count()
}

/// `touch` tells of any member, this one included.
///
/// # Errors
/// When the cluster might lose its quorum while the new member is not running yet.
pub fn check_add(cluster: &Cluster, learner: bool, touch: impl Fn(MemberId) -> Touch) -> Result<(), Unsafe> {
    let count = voters(cluster).count();
    let started = started_count(cluster, None);
    // One member that becomes two: there is no safer way to grow.
    let is_first = started == 1 && count == 1;
    if !learner && !is_first && started < quorum(count + 1) {
        return Err(Unsafe::NotEnoughStarted);
    }
    if !is_first && lasting_count(cluster, touch) < quorum(count + 1) {
        return Err(Unsafe::Unhealthy);
    }
    Ok(())
}

/// # Errors
/// When the rest might have no quorum. A member that is out of touch may always go.
pub fn check_remove(
    cluster: &Cluster,
    id: MemberId,
    touch: impl Fn(MemberId) -> Touch,
) -> Result<(), Unsafe> {
    let member = cluster.member(id);
    if member.is_some_and(|member| member.learner) {
        return Ok(());
    }
    // An unknown id is judged like a voter that is out of touch, and refused by the state machine.
    let left = voters(cluster).filter(|voter| voter.id != id).count();
    if started_count(cluster, Some(id)) < quorum(left) {
        return Err(Unsafe::NotEnoughStarted);
    }
    if member.is_none() || touch(id) == Touch::Lost {
        return Ok(());
    }
    // One less even if the member is not among those that are counted, as in etcd.
    if lasting_count(cluster, touch) < quorum(left) + 1 { Err(Unsafe::Unhealthy) } else { Ok(()) }
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

    fn all_but(lost: u64) -> impl Fn(MemberId) -> Touch {
        move |id| if id.0 == lost { Touch::Lost } else { Touch::Lasting }
    }

    #[test]
    fn lone_member_grows_to_two_and_two_not_to_three_before_the_second_has_started() {
        assert_eq!(check_add(&cluster(&[1], &[1]), false, |_| Touch::Lasting), Ok(()));
        let two = cluster(&[1, 2], &[1]);
        assert_eq!(check_add(&two, false, |_| Touch::Lasting), Err(Unsafe::NotEnoughStarted));
        assert_eq!(check_add(&cluster(&[1, 2], &[1, 2]), false, |_| Touch::Lasting), Ok(()));
    }

    #[test]
    fn nobody_is_added_while_a_member_that_would_be_needed_is_out_of_touch() {
        let three = cluster(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(check_add(&three, false, all_but(3)), Err(Unsafe::Unhealthy));
        assert_eq!(check_add(&three, true, all_but(3)), Err(Unsafe::Unhealthy));
        assert_eq!(check_add(&three, true, |_| Touch::Lasting), Ok(()));
    }

    #[test]
    fn member_out_of_touch_may_go_and_one_that_is_needed_may_not() {
        let three = cluster(&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(check_remove(&three, MemberId(3), all_but(3)), Ok(()));
        assert_eq!(check_remove(&three, MemberId(2), all_but(3)), Err(Unsafe::Unhealthy));
        assert_eq!(check_remove(&three, MemberId(3), |_| Touch::Lasting), Ok(()));
        let young = cluster(&[1, 2, 3], &[1, 3]);
        assert_eq!(check_remove(&young, MemberId(3), |_| Touch::Lasting), Err(Unsafe::NotEnoughStarted));
        assert_eq!(check_remove(&young, MemberId(2), all_but(2)), Ok(()));
        let one = cluster(&[1], &[1]);
        assert_eq!(check_remove(&one, MemberId(1), |_| Touch::Lasting), Err(Unsafe::NotEnoughStarted));
    }

    #[test]
    fn nobody_who_is_connected_is_removed_before_five_seconds_have_shown_that_the_others_stay() {
        let three = cluster(&[1, 2, 3], &[1, 2, 3]);
        let young = |id: MemberId| if id.0 == 1 { Touch::Lasting } else { Touch::Young };
        assert_eq!(check_remove(&three, MemberId(2), young), Err(Unsafe::Unhealthy));
        assert_eq!(check_remove(&three, MemberId(1), young), Err(Unsafe::Unhealthy));
        let one_is_gone = |id: MemberId| if id.0 == 2 { Touch::Lost } else { young(id) };
        assert_eq!(check_remove(&three, MemberId(2), one_is_gone), Ok(()));
        assert_eq!(check_add(&three, false, young), Err(Unsafe::Unhealthy));
    }

    #[test]
    fn unknown_id_is_left_to_the_state_machine_unless_the_quorum_is_in_doubt_anyway() {
        let one = cluster(&[1], &[1]);
        assert_eq!(check_remove(&one, MemberId(9), |_| Touch::Lasting), Ok(()));
        let two = cluster(&[1, 2], &[1]);
        assert_eq!(check_remove(&two, MemberId(9), |_| Touch::Lasting), Err(Unsafe::NotEnoughStarted));
    }

    #[test]
    fn learner_is_promoted_where_the_new_quorum_has_started() {
        assert_eq!(check_promote(&cluster(&[1], &[1])), Ok(()));
        assert_eq!(check_promote(&cluster(&[1, 2, 3], &[1])), Err(Unsafe::NotEnoughStarted));
    }
}
