use std::collections::BTreeMap;

use super::*;
use crate::pb::etcdserverpb as pb;
use crate::request::{Command, Read};

/// Each `rpc` of the protocol: its path, and which way its messages are a stream.
fn protocol() -> BTreeMap<String, CallShape> {
    let texts = [
        include_str!("../../proto/kv.proto"),
        include_str!("../../proto/auth.proto"),
        include_str!("../../proto/rpc.proto"),
        include_str!("../../proto/v3lock.proto"),
        include_str!("../../proto/v3election.proto"),
        include_str!("../../proto/health.proto"),
    ];
    let mut methods = BTreeMap::new();
    for text in texts {
        let package = text.lines().find_map(|line| line.strip_prefix("package ")).unwrap();
        let package = package.trim_end_matches(';');
        let mut service = "";
        for line in text.lines().map(str::trim_start) {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split(' ').next().unwrap();
            }
            let Some(rest) = line.strip_prefix("rpc ") else { continue };
            let (name, messages) = rest.split_once('(').unwrap();
            let (request, answer) = messages.split_once("returns (").unwrap();
            let shape = match (request.starts_with("stream "), answer.starts_with("stream ")) {
                (false, false) => CallShape::Unary,
                (false, true) => CallShape::ServerStream,
                (true, true) => CallShape::BothWays,
                (true, false) => {
                    panic!("{name} is a stream of requests alone, which the table has no word for")
                }
            };
            assert_eq!(methods.insert(format!("/{package}.{service}/{name}"), shape), None, "{name}");
        }
    }
    methods
}

#[test]
fn the_table_has_the_protocols_methods_and_no_others_in_their_shapes() {
    let table: BTreeMap<String, CallShape> =
        table().iter().map(|row| (row.path.to_owned(), row.call)).collect();
    assert_eq!(table, protocol());
    assert_eq!(table.len(), ROWS.len(), "a path stands there twice");
}

#[test]
fn each_method_is_found_by_its_path() {
    for row in table() {
        assert_eq!(Method::find(row.path), Ok(row.method));
    }
}

#[test]
fn only_the_exact_path_is_a_method() {
    assert_eq!(Method::find("/etcdserverpb.KV/Put"), Ok(Method::Put));
    let text = |path| Method::find(path).unwrap_err().message.into_owned();
    assert_eq!(text("/etcdserverpb.KV/put"), "unknown method put for service etcdserverpb.KV");
    assert_eq!(text("/etcdserverpb.KV/Put/"), "unknown service etcdserverpb.KV/Put");
    assert_eq!(text("/etcdserverpb.kv/Put"), "unknown service etcdserverpb.kv");
    assert_eq!(text("/etcdserverpb.KV/Put?x=1"), "unknown method Put?x=1 for service etcdserverpb.KV");
    assert_eq!(text("/"), "malformed method name: \"/\"");
    assert_eq!(text(""), "malformed method name: \"\"");
    assert_eq!(text("etcdserverpb.KV/Put"), "malformed method name: \"etcdserverpb.KV/Put\"");
    assert_eq!(text("/etcdserverpb.Auth/Enable"), "unknown method Enable for service etcdserverpb.Auth");
    assert_eq!(text("/v3lockpb.Lock/Try"), "unknown method Try for service v3lockpb.Lock");
}

#[test]
fn every_service_of_the_table_is_one_whose_unknown_methods_are_refused_by_name() {
    for row in table() {
        let (service, _) = split_path(row.path).unwrap();
        let status = Method::find(&format!("/{service}/Nothing")).unwrap_err();
        assert_eq!(&*status.message, format!("unknown method Nothing for service {service}"));
    }
}

#[test]
fn requests_that_add_data_are_those_of_methods_that_do() {
    let mut kinds = Vec::new();
    for row in table() {
        match row.method.request_kind() {
            Some(kind) => {
                assert_eq!(adds_data(kind), row.adds_data, "{kind:?}");
                kinds.push(kind);
            }
            None => assert!(!row.adds_data, "{:?} is no request that could be refused", row.method),
        }
    }
    assert_eq!(kinds.into_iter().filter(|&kind| adds_data(kind)).count(), 3);
    // What the member asks of itself is needed to run the cluster.
    for own in [RequestKind::PublishMember, RequestKind::LeaseExpire, RequestKind::LeaseCheckpoint] {
        assert!(!adds_data(own), "{own:?}");
    }
}

#[test]
fn answers_weigh_what_their_requests_ask_for() {
    let weigh = |method: Method, query| method.row().weigh(&Command::Read(Read::new(true, query)));
    let range = |range_end: &'static [u8], count_only| pb::RangeRequest {
        key: "k".into(),
        range_end: range_end.into(),
        count_only,
        ..Default::default()
    };
    assert_eq!(weigh(Method::Range, Query::Range(range(b"", false))), Weight::Point);
    assert_eq!(weigh(Method::Range, Query::Range(range(b"z", true))), Weight::Point);
    assert_eq!(weigh(Method::Range, Query::Range(range(b"z", false))), Weight::Wide);
    let time_to_live = |keys| Query::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id: 1, keys });
    assert_eq!(weigh(Method::LeaseTimeToLive, time_to_live(false)), Weight::Light);
    assert_eq!(weigh(Method::LeaseTimeToLive, time_to_live(true)), Weight::Wide);
    assert_eq!(weigh(Method::LeaseLeases, Query::LeaseLeases), Weight::Wide);
    assert_eq!(weigh(Method::Txn, Query::Txn(pb::TxnRequest::default())), Weight::Wide);
    let body = bytes::Bytes::new();
    let txn = Method::Txn.row().weigh(&Command::Propose { kind: RequestKind::Txn, body, login: None });
    assert_eq!(txn, Weight::Light);
    assert_eq!(weigh(Method::Status, Query::Status), Weight::Light);
}
