use super::*;
use crate::types::LeaseId;

/// Code and text of every row, sorted; held against the list of what clients match on when it was written,
/// so that a slip in the table shows.
const ETCD: &[(u8, &str)] = &[
    (1, "context canceled"),
    (1, "etcdserver: request canceled"),
    (1, "etcdserver: watch canceled"),
    (2, "\"leader\" field must be provided"),
    (2, "auth: authentication failed, password was given for no password user"),
    (2, "auth: token signing attempted with verify-only key"),
    (2, "bcrypt: password length exceeds 72 bytes"),
    (2, "election: no leader"),
    (2, "election: not leader"),
    (2, "election: observe closed early"),
    (2, "etcdserver: re-configuration failed due to not enough started members"),
    (2, "etcdserver: request timed out, leader transfer took too long"),
    (2, "etcdserver: too many requests"),
    (2, "etcdserver: unknown method"),
    (2, "mutex: session is expired"),
    (2, "not a primary lessor"),
    (2, "raft proposal dropped"),
    (3, "etcdserver: authentication failed, invalid user ID or password"),
    (3, "etcdserver: duplicate key given in txn request"),
    (3, "etcdserver: given member URLs are invalid"),
    (3, "etcdserver: invalid auth management"),
    (3, "etcdserver: invalid client api version"),
    (3, "etcdserver: invalid downgrade target version"),
    (3, "etcdserver: invalid sort option"),
    (3, "etcdserver: key is not provided"),
    (3, "etcdserver: key not found"),
    (3, "etcdserver: lease is provided"),
    (3, "etcdserver: permission not given"),
    (3, "etcdserver: request is too large"),
    (3, "etcdserver: revision of auth store is old"),
    (3, "etcdserver: role name is empty"),
    (3, "etcdserver: too many operations in txn request"),
    (3, "etcdserver: user name is empty"),
    (3, "etcdserver: value is provided"),
    (3, "etcdserver: wrong downgrade target version format"),
    (4, "context deadline exceeded"),
    (5, "etcdserver: member not found"),
    (5, "etcdserver: requested lease not found"),
    (5, "unknown service"),
    (7, "etcdserver: permission denied"),
    (8, "etcdserver: mvcc: database space exceeded"),
    (9, "etcdserver: Peer URLs already exists"),
    (9, "etcdserver: authentication is not enabled"),
    (9, "etcdserver: bad leader transferee"),
    (9, "etcdserver: can only promote a learner member"),
    (9, "etcdserver: can only promote a learner member which is in sync with leader"),
    (9, "etcdserver: cluster ID mismatch"),
    (9, "etcdserver: cluster has a downgrade job in progress"),
    (9, "etcdserver: cluster version not found during downgrade"),
    (9, "etcdserver: lease already exists"),
    (9, "etcdserver: member ID already exist"),
    (9, "etcdserver: not capable"),
    (9, "etcdserver: not leader"),
    (9, "etcdserver: permission is not granted to the role"),
    (9, "etcdserver: role is not granted to the user"),
    (9, "etcdserver: role name already exists"),
    (9, "etcdserver: role name not found"),
    (9, "etcdserver: root user does not exist"),
    (9, "etcdserver: root user does not have root role"),
    (9, "etcdserver: rpc not supported for learner"),
    (9, "etcdserver: too many learner members in cluster"),
    (9, "etcdserver: user name already exists"),
    (9, "etcdserver: user name not found"),
    (11, "etcdserver: mvcc: required revision has been compacted"),
    (11, "etcdserver: mvcc: required revision is a future revision"),
    (11, "etcdserver: too large lease TTL"),
    (12, "RangeStream does not support custom sort orders"),
    (12, "RangeStream does not support revision filters"),
    (14, "etcdserver: leader changed"),
    (14, "etcdserver: no leader"),
    (14, "etcdserver: request timed out"),
    (14, "etcdserver: request timed out, possibly due to connection lost"),
    (14, "etcdserver: request timed out, possibly due to previous leader failure"),
    (14, "etcdserver: request timed out, waiting for the applied index took too long"),
    (14, "etcdserver: server stopped"),
    (14, "etcdserver: unhealthy cluster"),
    (15, "etcdserver: corrupt cluster"),
    (16, "etcdserver: invalid auth token"),
];

/// Those that etcd has no counterpart of, by code and then text.
const OURS: &[(u8, &str)] =
    &[(14, "pinion: this member has not applied the revision of pinion-not-older-than in time")];

#[test]
fn every_row_has_etcds_code_and_text_and_our_own_rows_say_whose_they_are() {
    let mut rows: Vec<(u8, &str)> =
        ROWS.iter().map(|(_, status)| (status.code.number(), &*status.message)).collect();
    rows.sort_unstable();
    let (ours, etcds): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|(_, text)| text.starts_with("pinion: "));
    assert_eq!(etcds, ETCD);
    assert_eq!(ours, OURS);
}

#[test]
fn texts_are_told_apart_by_clients_so_no_two_rows_share_one() {
    for (slot, (name, status)) in ROWS.iter().enumerate() {
        for (other, twin) in &ROWS[..slot] {
            assert_ne!(status.message, twin.message, "{name} and {other}");
        }
    }
}

#[test]
fn texts_with_numbers_or_names_are_grpcs_own() {
    let shown = |status: Status| format!("{} {}", status.code.number(), status.message);
    assert_eq!(shown(Status::undecodable("why")), "13 grpc: error unmarshalling request: why");
    assert_eq!(
        shown(Status::received_too_large(2_097_160, 2_097_152)),
        "8 grpc: received message larger than max (2097160 vs. 2097152)"
    );
    assert_eq!(
        shown(Status::sent_too_large(3, 2)),
        "8 grpc: trying to send message larger than max (3 vs. 2)"
    );
    assert_eq!(shown(Status::unknown_alarm(3)), "3 etcdserver: unknown alarm 3");
    assert_eq!(shown(Status::unknown_alarm_action(9)), "3 etcdserver: unknown alarm action 9");
    assert_eq!(shown(Status::unknown_service("a.B")), "12 unknown service a.B");
    assert_eq!(shown(Status::unknown_method("M", "a.B")), "12 unknown method M for service a.B");
}

#[test]
fn rejections_and_refusals_become_their_rows() {
    let rejections = [
        (Rejection::Compacted { required: 1, compacted: 2 }, COMPACTED),
        (Rejection::FutureRevision { required: 2, current: 1 }, FUTURE_REVISION),
        (Rejection::LeaseNotFound(LeaseId(7)), LEASE_NOT_FOUND),
        (Rejection::LeaseExists(LeaseId(-7)), LEASE_EXISTS),
        (Rejection::KeyNotFound, KEY_NOT_FOUND),
        (Rejection::KeyEmpty, KEY_EMPTY),
        (Rejection::SortOption { order: 9, target: 0 }, INVALID_SORT_OPTION),
        (Rejection::RequestTooLarge { bytes: 7 }, REQUEST_TOO_LARGE),
        (Rejection::AnswerTooLarge { bytes: 3, bytes_max: 2 }, Status::sent_too_large(3, 2)),
        (Rejection::Corrupt, CORRUPT),
        (Rejection::NoSpace, NO_SPACE),
        (Rejection::UnknownAlarm(3), Status::unknown_alarm(3)),
        (Rejection::UnknownAlarmAction(9), Status::unknown_alarm_action(9)),
        (Rejection::Undecodable("why".into()), Status::undecodable("why")),
    ];
    for (rejection, status) in rejections {
        assert_eq!(Status::from(&rejection), status, "{rejection:?}");
    }
    let refusals = [
        (Refusal::Stopped, STOPPED),
        (Refusal::TooManyRequests, TOO_MANY_REQUESTS),
        (Refusal::NoSpace, NO_SPACE),
        (Refusal::TimedOut, TIMED_OUT),
        (Refusal::TooSlow, TOO_SLOW),
        (Refusal::SortTooLarge, SORT_TOO_LARGE),
        (Refusal::NoLeader, NO_LEADER),
        (Refusal::LostWithLeader, TIMED_OUT_LEADER_FAILURE),
        (Refusal::LeaderChanged, LEADER_CHANGED),
        (Refusal::Dropped, PROPOSAL_DROPPED),
        (Refusal::NotProposed, CONTEXT_DEADLINE_EXCEEDED),
    ];
    for (refusal, status) in refusals {
        assert_eq!(Status::from(refusal), status, "{refusal:?}");
    }
}
