use super::*;
use crate::request::RequestKind;
use crate::rpc::method::{self, Becomes};
use crate::rpc::status;

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

fn range_request() -> pb::RangeRequest {
    pb::RangeRequest { key: key(), ..Default::default() }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// As the shard calls it; a lease that needs a name gets 77.
fn command(method: Method, body: Bytes, limits: &Limits) -> Result<Command, Status> {
    super::command(method, body, limits, || 77)
}

/// `w` for what goes through consensus, `l` and `s` for linearizable and serializable reads.
#[track_caller]
fn kind(method: Method, message: &impl Message) -> char {
    match command(method, message.encode_to_vec().into(), &Limits::default()).unwrap() {
        Command::Propose { .. } => 'w',
        Command::Member(_) => 'm',
        Command::AppendStats => 'a',
        Command::Read(Read { linearizable: true, .. }) => 'l',
        Command::Read(Read { linearizable: false, .. }) => 's',
    }
}

#[test]
fn reads_wait_for_the_leader_unless_the_client_says_otherwise() {
    let mut request = range_request();
    assert_eq!(kind(Method::Range, &request), 'l');
    assert_eq!(kind(Method::RangeStream, &request), 'l');
    request.serializable = true;
    assert_eq!(kind(Method::Range, &request), 's');
    assert_eq!(kind(Method::RangeStream, &request), 's');
    assert_eq!(kind(Method::MemberList, &pb::MemberListRequest { linearizable: true }), 'l');
    assert_eq!(kind(Method::MemberList, &pb::MemberListRequest::default()), 's');
    for method in [Method::Status, Method::Hash, Method::HashKv] {
        assert_eq!(kind(method, &pb::StatusRequest::default()), 's');
    }
}

#[test]
fn writes_carry_the_clients_own_bytes() {
    // An unknown field, 15, stays in: a newer member may know it.
    let body = Bytes::from_static(b"\x0a\x01k\x12\x01v\x7a\x01x");
    let command = command(Method::Put, body.clone(), &Limits::default()).unwrap();
    let Command::Propose { kind: RequestKind::Put, body: proposed, .. } = command else {
        panic!("not proposed: {command:?}");
    };
    assert_eq!(proposed.as_ptr(), body.as_ptr(), "copied");
    assert_eq!(proposed, body);
    assert_eq!(kind(Method::DeleteRange, &pb::DeleteRangeRequest { key: key(), ..Default::default() }), 'w');
    assert_eq!(kind(Method::Compact, &pb::CompactionRequest::default()), 'w');
}

#[test]
fn a_transaction_reads_only_if_every_operation_of_both_branches_is_a_range() {
    let range = |serializable| op(Op::RequestRange(pb::RangeRequest { serializable, ..range_request() }));
    let txn = |success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>| pb::TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    };
    let kind = |request: &pb::TxnRequest| kind(Method::Txn, request);
    assert_eq!(kind(&txn(vec![range(true)], vec![range(true)])), 's');
    assert_eq!(kind(&txn(vec![range(true)], vec![range(false)])), 'l');
    assert_eq!(kind(&txn(vec![], vec![])), 'l', "nobody asked for a stale comparison");
    let nested = op(Op::RequestTxn(txn(vec![range(true)], vec![])));
    assert_eq!(kind(&txn(vec![nested], vec![])), 'w');
    let put = op(Op::RequestPut(pb::PutRequest { key: key(), ..Default::default() }));
    assert_eq!(kind(&txn(vec![range(true)], vec![put])), 'w');
}

#[test]
fn garbage_is_answered_with_grpcs_words_for_every_method() {
    let bodies: [&[u8]; 4] = [b"\xff\xff\xff", b"\x0a\x05a", b"\x08\x05", b"\x0b"];
    let rows = method::table().iter();
    let commands =
        rows.filter(|row| matches!(row.becomes, Becomes::Command(_) | Becomes::Read | Becomes::Member));
    for method in commands.map(|row| row.method) {
        let mut refused = 0;
        for body in bodies {
            if let Err(status) = command(method, Bytes::from_static(body), &Limits::default()) {
                // 08 05 is an action that nobody knows.
                let of_action = match method {
                    Method::Alarm => Some(Status::unknown_alarm_action(5)),
                    Method::Downgrade => Some(status::UNKNOWN_DOWNGRADE_ACTION),
                    _ => None,
                };
                if of_action.as_ref() == Some(&status) {
                    continue;
                }
                let unreadable = status.message.starts_with("grpc: error unmarshalling request: ");
                assert!(unreadable, "{method:?} {body:?}: {status:?}");
                assert_eq!(status.code, status::Code::Internal);
                refused += 1;
            }
        }
        // 08 05 is a field of its own in some messages, and an unknown one in others.
        assert!(3 <= refused, "{method:?} took garbage");
    }
}

#[test]
fn a_transaction_nested_deeper_than_the_decoder_goes_is_undecodable() {
    let nest = |depth: usize| {
        let mut body = Vec::new();
        for _ in 0..depth {
            for tag in [0x22, 0x12] {
                let mut outer = vec![tag];
                prost::encode_length_delimiter(body.len(), &mut outer).unwrap();
                outer.extend_from_slice(&body);
                body = outer;
            }
        }
        command(Method::Txn, body.into(), &Limits::default())
    };
    assert!(nest(50).is_ok());
    assert_eq!(nest(51).unwrap_err().code, status::Code::Internal);
    assert_eq!(nest(10_000).unwrap_err().code, status::Code::Internal);
}

#[test]
fn only_what_goes_through_consensus_is_held_against_the_request_bound() {
    let limits = Limits { request_bytes_max: 100, ..Limits::default() };
    let body = |bytes: usize| {
        let request = pb::PutRequest { key: key(), value: vec![b'v'; bytes].into(), ..Default::default() };
        Bytes::from(request.encode_to_vec())
    };
    assert!(command(Method::Put, body(78), &limits).is_ok());
    assert_eq!(command(Method::Put, body(79), &limits).unwrap_err(), status::REQUEST_TOO_LARGE);
    let range = pb::RangeRequest { key: vec![b'k'; 500].into(), ..Default::default() };
    assert!(command(Method::Range, range.encode_to_vec().into(), &limits).is_ok());
    // The shape comes before the size.
    let empty_key = pb::PutRequest { value: vec![b'v'; 500].into(), ..Default::default() };
    let refused = command(Method::Put, empty_key.encode_to_vec().into(), &limits);
    assert_eq!(refused.unwrap_err(), status::KEY_EMPTY);
}

#[test]
fn lease_calls_ask_whoever_knows_the_answer() {
    assert_eq!(kind(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: 1 }), 'w');
    // What is left of a lease's time is known to the leader alone.
    assert_eq!(kind(Method::LeaseTimeToLive, &pb::LeaseTimeToLiveRequest { id: 1, keys: false }), 'l');
    assert_eq!(kind(Method::LeaseLeases, &pb::LeaseLeasesRequest {}), 's');
    let renewal = lease_keep_alive(pb::LeaseKeepAliveRequest { id: -7 }.encode_to_vec().into()).unwrap();
    let asked = matches!(
        renewal,
        Command::Read(Read { linearizable: true, query: Query::LeaseKeepAlive(LeaseId(-7)), .. })
    );
    assert!(asked, "{renewal:?}");
    assert_eq!(lease_keep_alive(Bytes::from_static(b"\xff")).unwrap_err().code, status::Code::Internal);
}

#[test]
fn grant_is_proposed_with_an_id_and_a_time_within_the_bounds() {
    let limits = Limits { lease_ttl_min_s: 5, ..Limits::default() };
    let grant = |id, ttl| {
        let body = pb::LeaseGrantRequest { id, ttl }.encode_to_vec().into();
        let command = command(Method::LeaseGrant, body, &limits)?;
        let Command::Propose { kind: RequestKind::LeaseGrant, body, .. } = command else {
            panic!("not proposed: {command:?}");
        };
        let proposed = pb::LeaseGrantRequest::decode(body).unwrap();
        Ok((proposed.id, proposed.ttl))
    };
    assert_eq!(grant(3, 100), Ok((3, 100)));
    assert_eq!(grant(-3, 4), Ok((-3, 5)));
    assert_eq!(grant(0, i64::MIN), Ok((77, 5)));
    assert_eq!(grant(0, 9_000_000_000), Ok((77, 9_000_000_000)));
    assert_eq!(grant(3, 9_000_000_001), Err(status::LEASE_TTL_TOO_LARGE));
    assert_eq!(grant(3, i64::MAX), Err(status::LEASE_TTL_TOO_LARGE));
}

#[test]
fn alarms_are_listed_by_a_linearizable_read_and_changed_through_the_log() {
    let request = |action| pb::AlarmRequest { action, member_id: 7, alarm: 2 };
    assert_eq!(kind(Method::Alarm, &request(0)), 'l');
    assert_eq!(kind(Method::Alarm, &request(1)), 'w');
    assert_eq!(kind(Method::Alarm, &request(2)), 'w');
    let unknown = command(Method::Alarm, request(3).encode_to_vec().into(), &Limits::default());
    assert_eq!(unknown.unwrap_err(), Status::unknown_alarm_action(3));
}
