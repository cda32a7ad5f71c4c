use std::collections::BTreeSet;

use super::series::{Kind, rows};
use super::*;
use crate::request::{Command, Query, Read, RequestKind};
use crate::rpc::{Code, Method};

fn text(reports: impl IntoIterator<Item = Report>, format: Format) -> String {
    let mut merged = Merged::default();
    reports.into_iter().for_each(|report| merged.add(report));
    write(&merged, format)
}

#[test]
fn what_shards_have_counted_under_the_same_labels_is_added_up() {
    let report = |requests: u64, seconds: f64| {
        let mut report = Report::default();
        report.count(Name::LoadByPrefixRequests, ["/a/\"b\\\n".into()], requests);
        let histogram = Histogram::new(Name::GrpcHandlingSeconds);
        histogram.observe(seconds);
        report.histogram(Name::GrpcHandlingSeconds, ["unary".into(), "S".into(), "M".into()], &histogram);
        report.flag(Name::HasLeader, [], true);
        report
    };
    let mut second = report(4, 100.0);
    second.count(Name::LoadByPrefixRequests, ["/c/".into()], 1);
    let told = text([report(3, 0.005), second], Format::Prometheus);
    for line in [
        "# TYPE pinion_load_by_prefix_requests_total counter",
        r#"pinion_load_by_prefix_requests_total{prefix="/a/\"b\\\n"} 7"#,
        r#"pinion_load_by_prefix_requests_total{prefix="/c/"} 1"#,
        r#"grpc_server_handling_seconds_bucket{grpc_type="unary",grpc_service="S",grpc_method="M",le="0.005"} 1"#,
        r#"grpc_server_handling_seconds_bucket{grpc_type="unary",grpc_service="S",grpc_method="M",le="10"} 1"#,
        r#"grpc_server_handling_seconds_bucket{grpc_type="unary",grpc_service="S",grpc_method="M",le="+Inf"} 2"#,
        r#"grpc_server_handling_seconds_sum{grpc_type="unary",grpc_service="S",grpc_method="M"} 100.005"#,
        r#"grpc_server_handling_seconds_count{grpc_type="unary",grpc_service="S",grpc_method="M"} 2"#,
        "etcd_server_has_leader 2",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
    }
    let types = told.lines().filter(|line| line.starts_with("# TYPE grpc_server_handling_seconds"));
    assert_eq!(types.count(), 1, "a family is told once");
}

#[test]
fn open_metrics_names_families_without_their_suffix_and_ends_with_a_word() {
    let mut report = Report::default();
    report.count(Name::LeaseGranted, [], 1);
    report.count(Name::SnapshotSendSuccess, ["a".into()], 2);
    report.count(Name::Committed, [], 3);
    let told = text([report], Format::OpenMetrics);
    for line in [
        "# TYPE etcd_debugging_lease_granted counter",
        "etcd_debugging_lease_granted_total 1",
        "# TYPE etcd_network_snapshot_send_success unknown",
        "etcd_network_snapshot_send_success{To=\"a\"} 2",
        "# TYPE etcd_server_proposals_committed_total gauge",
        "etcd_server_proposals_committed_total 3",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
    }
    assert!(told.ends_with("\n# EOF\n"));
}

#[test]
fn format_is_what_the_client_prefers() {
    for (accept, want) in [
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("text/plain", Format::Prometheus),
        ("application/openmetrics-text", Format::OpenMetrics),
        // Prometheus 2 and 3.
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            Format::OpenMetrics,
        ),
        ("text/plain;version=0.0.4, application/openmetrics-text;q=0.5", Format::Prometheus),
        ("application/openmetrics-text;q=0", Format::Prometheus),
        ("application/openmetrics-text;q=nonsense", Format::Prometheus),
    ] {
        assert_eq!(Format::accepted(accept), want, "{accept}");
    }
}

#[test]
fn names_labels_and_buckets_are_ones_that_prometheus_takes() {
    let mut names = BTreeSet::new();
    for row in rows() {
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        assert!(is_name(row.name) && names.insert(row.name), "{}", row.name);
        assert!(row.labels.iter().all(|label| is_name(label) && *label != "le"), "{}", row.name);
        assert_eq!(row.kind == Kind::Histogram, !row.bounds.is_empty(), "{}", row.name);
        assert!(row.bounds.windows(2).all(|pair| pair[0] < pair[1]), "{}", row.name);
        assert!(row.help.len() > 8, "{}", row.name);
        // etcd's own names have their own history.
        if row.name.starts_with("pinion_") {
            assert_eq!(row.kind == Kind::Counter, row.name.ends_with("_total"), "{}", row.name);
        }
    }
}

#[test]
fn table_of_the_docs_is_what_the_binary_prints() {
    // UPDATE_EXPECT=1 writes it.
    expect_test::expect_file!["../../tuning/METRICS.md"].assert_eq(&markdown());
}

#[test]
fn every_method_is_told_from_the_start_with_every_status() {
    let counts = MethodCounts::new(true);
    counts.on_start(Method::Put);
    counts.on_received(Method::Put);
    counts.on_sent(Method::Put, 1);
    counts.on_end(Method::Put, Code::OutOfRange, Some(0.3));
    let mut report = Report::default();
    counts.report(&mut report);
    let told = text([report], Format::Prometheus);
    let put = r#"{grpc_type="unary",grpc_service="etcdserverpb.KV",grpc_method="Put"}"#;
    for name in ["started", "msg_received", "msg_sent"] {
        assert!(told.contains(&format!("grpc_server_{name}_total{put} 1\n")), "{name}");
    }
    let watch = r#"grpc_type="bidi_stream",grpc_service="etcdserverpb.Watch",grpc_method="Watch""#;
    assert!(told.contains(&format!("grpc_server_started_total{{{watch}}} 0\n")));
    assert!(
        told.contains(&format!("grpc_server_handled_total{{{watch},grpc_code=\"Unauthenticated\"}} 0\n"))
    );
    let put = put.trim_end_matches('}');
    assert!(told.contains(&format!("grpc_server_handled_total{put},grpc_code=\"OutOfRange\"}} 1\n")));
    assert!(told.contains(&format!("grpc_server_handling_seconds_bucket{put},le=\"0.5\"}} 1\n")));
    let methods = crate::rpc::method::table().len();
    assert_eq!(told.matches("\ngrpc_server_handled_total{").count(), 17 * methods);
}

#[test]
fn prefix_is_the_first_segments_and_never_the_name_behind_them() {
    for (key, depth, want) in [
        ("/registry/pods/default/a", 2, "/registry/pods/"),
        ("/registry/pods/default/a", 1, "/registry/"),
        ("/registry/pods/default/a", 9, "/registry/pods/default/"),
        ("/registry/leases", 2, "/registry/"),
        ("a/b/c", 2, "a/b/"),
        ("/a", 2, ""),
        ("a", 2, ""),
        ("", 2, ""),
        ("/", 2, ""),
        ("//a", 2, "//"),
    ] {
        assert_eq!(key_prefix(key.as_bytes(), depth), want.as_bytes(), "{key} {depth}");
    }
    let long = [b"/".to_vec(), vec![b'x'; 1_000_000]].concat();
    assert_eq!(key_prefix(&long, 2), b"");
}

#[test]
fn key_of_a_command_is_its_first_and_garbage_has_none() {
    use prost::Message as _;

    use crate::pb::etcdserverpb::{self as pb, request_op::Request};
    let put = pb::PutRequest { key: "/a/b".into(), value: "v".into(), ..Default::default() };
    let propose = |kind, body: Vec<u8>| Command::Propose { kind, body: body.into(), login: None };
    let key = |command: &Command| key_of(command).map(|key| String::from_utf8_lossy(key).into_owned());
    assert_eq!(key(&propose(RequestKind::Put, put.encode_to_vec())).as_deref(), Some("/a/b"));
    let compare = pb::Compare { key: "/c/d".into(), ..Default::default() };
    let operation = pb::RequestOp { request: Some(Request::RequestPut(put.clone())) };
    let txn = pb::TxnRequest { compare: vec![compare], success: vec![operation], failure: vec![] };
    assert_eq!(key(&propose(RequestKind::Txn, txn.encode_to_vec())).as_deref(), Some("/a/b"));
    let only_compare = pb::TxnRequest { success: vec![], ..txn };
    assert_eq!(key(&propose(RequestKind::Txn, only_compare.encode_to_vec())).as_deref(), Some("/c/d"));
    let range = pb::RangeRequest { key: "/e/f".into(), ..Default::default() };
    let read = Command::Read(Read::new(true, Query::Range(range)));
    assert_eq!(key(&read).as_deref(), Some("/e/f"));
    assert_eq!(key(&Command::Read(Read::new(true, Query::Status))), None);
    let whole = put.encode_to_vec();
    for length in 0..whole.len() {
        for kind in [RequestKind::Put, RequestKind::Txn] {
            let _any = key(&propose(kind, whole[..length].to_vec()));
        }
    }
}

#[test]
fn changed_keys_are_counted_from_the_answer() {
    use prost::Message as _;

    use crate::pb::etcdserverpb::{self as pb, response_op::Response};
    let deleted = pb::DeleteRangeResponse { deleted: 300, ..Default::default() };
    assert_eq!(changed_keys(RequestKind::Put, &[]), 1);
    assert_eq!(changed_keys(RequestKind::DeleteRange, &deleted.encode_to_vec()), 300);
    assert_eq!(changed_keys(RequestKind::LeaseGrant, &[]), 0);
    let operation = |response| pb::ResponseOp { response: Some(response) };
    let inner = pb::TxnResponse {
        responses: vec![operation(Response::ResponsePut(pb::PutResponse::default()))],
        ..Default::default()
    };
    let txn = pb::TxnResponse {
        succeeded: true,
        responses: vec![
            operation(Response::ResponsePut(pb::PutResponse::default())),
            operation(Response::ResponseRange(pb::RangeResponse { count: 9, ..Default::default() })),
            operation(Response::ResponseDeleteRange(deleted)),
            operation(Response::ResponseTxn(inner)),
        ],
        ..Default::default()
    };
    assert_eq!(changed_keys(RequestKind::Txn, &txn.encode_to_vec()), 302);
}

#[test]
fn heavy_names_are_kept_among_a_million_that_come_once() {
    let mut top = Top::default();
    let one = Heavy { requests: 1, bytes: 10, changed_keys: 0 };
    let mut heavy = 0;
    for number in 0..1_000_000_u32 {
        top.count(format!("/once/{number}/").as_bytes(), one);
        if number % 20 == 0 {
            let token = top.count(b"/registry/pods/", one);
            heavy += 1;
            if let Some(token) = token {
                top.add(token, Heavy { changed_keys: 1, ..Heavy::default() });
            }
        }
    }
    let heaviest = top.heaviest(1);
    assert_eq!(heaviest[0].0, b"/registry/pods/");
    let counted = heaviest[0].1;
    assert_eq!(counted.requests, heavy, "it was there from the beginning");
    assert_eq!((counted.bytes, counted.changed_keys), (10 * heavy, heavy));
    assert_eq!(top.heaviest(usize::MAX).len(), 256);
    // One that comes late, with a tenth of the load, finds a place.
    for number in 0..100_000_u32 {
        top.count(format!("/later/{number}/").as_bytes(), one);
        if number % 10 == 0 {
            top.count(b"/late/", one);
        }
    }
    let late = top.heaviest(2).into_iter().find(|(name, _)| *name == b"/late/");
    let late = late.expect("among the two heaviest").1.requests;
    assert!(5_000 < late && late <= 10_000, "{late}");
}

#[test]
fn token_of_an_entry_that_has_gone_counts_for_nobody() {
    let mut top = Top::default();
    let one = Heavy { requests: 1, ..Heavy::default() };
    let token = top.count(b"first", one).unwrap();
    for number in 0..100_000_u32 {
        top.count(number.to_string().as_bytes(), Heavy { requests: 2, ..one });
    }
    top.add(token, Heavy { bytes: 7, ..Heavy::default() });
    assert!(top.heaviest(usize::MAX).iter().all(|(_, counted)| counted.bytes == 0));
}

#[test]
fn numbers_are_written_as_go_writes_them() {
    let mut report = Report::default();
    for (number, name) in [(1_048_576.0, "a"), (0.00001, "b"), (131_072.0, "c"), (0.1024, "d"), (0.0, "e")] {
        report.number(Name::LoadByPrefixBytes, [name.into()], number);
    }
    let told = text([report], Format::Prometheus);
    let values: Vec<&str> = told
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    assert_eq!(values, ["1.048576e+06", "1e-05", "131072", "0.1024", "0"]);
}
