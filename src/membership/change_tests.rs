//! What each membership change does, and that a refused one does nothing.

use super::*;

fn origin() -> Origin {
    Origin { member: MemberId(3), ticket: Ticket(9) }
}

fn member(id: u64, url: &str, learner: bool) -> Member {
    Member {
        id: MemberId(id),
        name: String::new(),
        peer_urls: vec![url.to_owned()],
        client_urls: Vec::new(),
        learner,
    }
}

fn add(member: Member) -> MemberChangeKind {
    MemberChangeKind::Add { member, learners_max: 1 }
}

/// Members 1 and 2 vote.
fn cluster() -> Cluster {
    let url = ["http://first:1".to_owned()];
    let mut cluster = Cluster::bootstrap([url.as_slice()], "");
    cluster.change(&add(member(1, "http://a:1", false))).unwrap();
    cluster.change(&add(member(2, "http://b:1", false))).unwrap();
    let first = cluster.members().find(|member| 2 < member.id.0).unwrap().id;
    cluster.change(&MemberChangeKind::Remove(first)).unwrap();
    cluster
}

#[test]
fn change_comes_out_of_the_log_as_it_went_in() {
    let kinds = [
        add(member(7, "http://x:1", false)),
        add(member(7, "http://x:1", true)),
        MemberChangeKind::Promote(MemberId(7)),
        MemberChangeKind::Remove(MemberId(7)),
    ];
    for kind in kinds {
        let change = MemberChange { origin: origin(), kind };
        assert_eq!(MemberChange::decode(change.to_conf_change().encode()), Ok(change));
    }
}

#[test]
fn change_of_another_format_or_against_itself_is_named_not_skipped() {
    let good = MemberChange { origin: origin(), kind: MemberChangeKind::Remove(MemberId(7)) };
    let mut conf = good.to_conf_change();
    conf.context = pb::MemberChange { format: 2, ..Default::default() }.encode_to_vec().into();
    let error = MemberChange::decode(conf.encode()).unwrap_err();
    assert_eq!(error.0, "format 2, this version reads 1");
    let mut conf = good.to_conf_change();
    conf.kind = ConfChangeKind::AddVoter;
    assert!(MemberChange::decode(conf.encode()).is_err(), "a new member without a record");
    let added = MemberChange { origin: origin(), kind: add(member(7, "u", true)) };
    let mut conf = added.to_conf_change();
    conf.member = MemberId(8);
    assert!(MemberChange::decode(conf.encode()).is_err(), "two ids");
}

#[test]
fn removed_id_never_returns() {
    let mut cluster = cluster();
    cluster.change(&MemberChangeKind::Remove(MemberId(1))).unwrap();
    let again = add(member(1, "http://new:1", false));
    assert_eq!(cluster.change(&again), Err(Rejection::MemberExists(MemberId(1))));
    let gone = MemberChangeKind::Remove(MemberId(1));
    assert_eq!(cluster.change(&gone), Err(Rejection::MemberNotFound(MemberId(1))));
}

#[test]
fn two_members_never_share_a_peer_url() {
    let mut cluster = cluster();
    let shared = add(member(5, "http://b:1", false));
    assert_eq!(cluster.change(&shared), Err(Rejection::PeerUrlExists("http://b:1".to_owned())));
    let update = |id, url: &str| etcdserverpb::MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
    assert!(matches!(cluster.update(update(1, "http://b:1")), Err(Rejection::PeerUrlExists(_))));
    assert!(matches!(cluster.update(update(9, "http://z:1")), Err(Rejection::MemberNotFound(_))));
    assert!(cluster.update(update(1, "http://a:1")).is_ok(), "its own URL");
    assert!(cluster.update(update(1, "http://c:1")).is_ok());
    assert_eq!(cluster.member(MemberId(1)).unwrap().peer_urls, ["http://c:1"]);
}

#[test]
fn only_a_learner_is_promoted_and_only_one_learner_waits() {
    let mut cluster = cluster();
    cluster.change(&add(member(5, "http://l:1", true))).unwrap();
    let second = add(member(6, "http://m:1", true));
    assert_eq!(cluster.change(&second), Err(Rejection::TooManyLearners(1)));
    let allowed = MemberChangeKind::Add { member: member(6, "http://m:1", true), learners_max: 2 };
    assert!(cluster.clone().change(&allowed).is_ok(), "the entry says how many there may be");
    cluster.change(&MemberChangeKind::Promote(MemberId(5))).unwrap();
    let again = MemberChangeKind::Promote(MemberId(5));
    assert_eq!(cluster.change(&again), Err(Rejection::NotLearner(MemberId(5))));
    let unknown = MemberChangeKind::Promote(MemberId(77));
    assert_eq!(cluster.change(&unknown), Err(Rejection::MemberNotFound(MemberId(77))));
}

#[test]
fn last_voter_stays_and_a_refused_change_leaves_nothing_behind() {
    let mut cluster = cluster();
    cluster.change(&MemberChangeKind::Remove(MemberId(1))).unwrap();
    let before = cluster.clone();
    let last = MemberChangeKind::Remove(MemberId(2));
    assert_eq!(cluster.change(&last), Err(Rejection::LastVoter(MemberId(2))));
    assert_eq!(cluster, before);
}

#[test]
fn golden_bytes_of_each_change_still_mean_the_same() {
    let learner = Member {
        name: "n".to_owned(),
        client_urls: vec!["http://c:1".to_owned()],
        ..member(7, "http://x:1", true)
    };
    let golden: [(MemberChangeKind, &[u8]); 4] = [
        (MemberChangeKind::Add { member: member(7, "http://x:1", false), learners_max: 1 }, b"\x12\x02\x10\x07\x1a-\x08\x01\x11\x03\x00\x00\x00\x00\x00\x00\x00\x19\x09\x00\x00\x00\x00\x00\x00\x00*\x15\x09\x07\x00\x00\x00\x00\x00\x00\x00\x1a\x0ahttp://x:10\x01"),
        (MemberChangeKind::Add { member: learner, learners_max: 1 }, b"\x12\x04\x08\x02\x10\x07\x1a>\x08\x01\x11\x03\x00\x00\x00\x00\x00\x00\x00\x19\x09\x00\x00\x00\x00\x00\x00\x00*&\x09\x07\x00\x00\x00\x00\x00\x00\x00\x12\x01n\x1a\x0ahttp://x:1\"\x0ahttp://c:1(\x010\x01"),
        (MemberChangeKind::Promote(MemberId(7)), b"\x12\x02\x10\x07\x1a\x16\x08\x01\x11\x03\x00\x00\x00\x00\x00\x00\x00\x19\x09\x00\x00\x00\x00\x00\x00\x00 \x01"),
        (MemberChangeKind::Remove(MemberId(7)), b"\x12\x04\x08\x01\x10\x07\x1a\x14\x08\x01\x11\x03\x00\x00\x00\x00\x00\x00\x00\x19\x09\x00\x00\x00\x00\x00\x00\x00"),
    ];
    for (kind, golden) in golden {
        let change = MemberChange { origin: origin(), kind };
        let encoded = change.to_conf_change().encode();
        assert_eq!(encoded, golden, "{change:?}: raise FORMAT and keep the old bytes readable");
        assert_eq!(MemberChange::decode(Bytes::from_static(golden)), Ok(change));
    }
}
