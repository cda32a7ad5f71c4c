use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::pb::etcdserverpb as pb;
use crate::pb::etcdserverpb::compare::TargetUnion;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::mvccpb;

fn call(path: &str) -> Call {
    Call::of_path(path).unwrap()
}

fn put_request(text: &str) -> Result<pb::PutRequest, String> {
    let mut bytes = Vec::new();
    read(call("/etcdserverpb.KV/Put").request, text.as_bytes(), &mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(pb::PutRequest::decode(&bytes[..]).unwrap())
}

fn range_request(text: &str) -> Result<pb::RangeRequest, String> {
    let mut bytes = Vec::new();
    read(call("/etcdserverpb.KV/Range").request, text.as_bytes(), &mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(pb::RangeRequest::decode(&bytes[..]).unwrap())
}

fn txn_request(text: &str) -> Result<pb::TxnRequest, String> {
    let mut bytes = Vec::new();
    read(call("/etcdserverpb.KV/Txn").request, text.as_bytes(), &mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(pb::TxnRequest::decode(&bytes[..]).unwrap())
}

fn text(path: &str, message: &impl prost::Message) -> String {
    let mut out = Vec::new();
    write(call(path).answer, &message.encode_to_vec(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn names_are_taken_in_both_spellings_and_unknown_ones_passed_over() {
    let expected = pb::PutRequest {
        key: Bytes::from_static(b"foo"),
        value: Bytes::from_static(b"bar"),
        lease: 7,
        prev_kv: true,
        ignore_value: true,
        ..Default::default()
    };
    for text in [
        r#"{"key":"Zm9v","value":"YmFy","lease":7,"prev_kv":true,"ignore_value":true}"#,
        r#" { "key" : "Zm9v" , "value":"YmFy","lease":"7","prevKv":true,"ignoreValue":true, "unknown":{"a":[1,{}]}}"#,
        "{\"ke\\u0079\":\"Zm9v\",\"value\":\"YmFy\",\"lease\":7.0,\"prev_kv\":true,\"ignoreValue\":true}trailing",
    ] {
        assert_eq!(put_request(text).as_ref(), Ok(&expected), "{text}");
    }
    assert_eq!(put_request(""), Ok(pb::PutRequest::default()));
    assert_eq!(put_request(" \r\n"), Ok(pb::PutRequest::default()));
    assert_eq!(put_request("{}"), Ok(pb::PutRequest::default()));
    let nothing = r#"{"key":null,"lease":null,"prev_kv":null}"#;
    assert_eq!(put_request(nothing), Ok(pb::PutRequest::default()));
}

#[test]
fn capital_names_of_members_and_leases_are_taken_as_protobuf_spells_them() {
    let read = |path, text: &str| {
        let mut bytes = Vec::new();
        read(call(path).request, text.as_bytes(), &mut bytes).unwrap();
        bytes
    };
    let granted = read("/etcdserverpb.Lease/LeaseGrant", r#"{"TTL":"5","ID":"-3"}"#);
    let granted = pb::LeaseGrantRequest::decode(&granted[..]).unwrap();
    assert_eq!((granted.ttl, granted.id), (5, -3));
    let added = read("/etcdserverpb.Cluster/MemberAdd", r#"{"peerURLs":["a","b"],"isLearner":true}"#);
    let added = pb::MemberAddRequest::decode(&added[..]).unwrap();
    assert_eq!((added.peer_ur_ls, added.is_learner), (vec!["a".to_owned(), "b".to_owned()], true));
}

#[test]
fn numbers_may_be_quoted_or_have_a_point_or_an_exponent_but_must_be_whole_and_fit() {
    for (number, expected) in [
        ("0", 0),
        ("-0", 0),
        ("5", 5),
        ("\"5\"", 5),
        ("-5", -5),
        ("1.0", 1),
        ("1e3", 1000),
        ("\"1e3\"", 1000),
        ("10.5e1", 105),
        ("9223372036854775807", i64::MAX),
        ("\"-9223372036854775808\"", i64::MIN),
    ] {
        assert_eq!(range_request(&format!("{{\"limit\":{number}}}")).map(|range| range.limit), Ok(expected));
    }
    for number in [
        "1.5",
        "9223372036854775808",
        "-9223372036854775809",
        "1e30",
        "\"\"",
        "\"+5\"",
        "\" 5\"",
        "\"0x5\"",
        "\"five\"",
        "true",
        "{}",
        "[]",
        "01",
        "NaN",
    ] {
        let refused = range_request(&format!("{{\"limit\":{number}}}"));
        assert!(refused.is_err(), "{number}: {refused:?}");
    }
    let hash = |number| {
        let mut bytes = Vec::new();
        let text = format!("{{\"memberID\":{number}}}");
        read(call("/etcdserverpb.Maintenance/Alarm").request, text.as_bytes(), &mut bytes)
            .map(|()| pb::AlarmRequest::decode(&bytes[..]).unwrap().member_id)
    };
    assert_eq!(hash("18446744073709551615").unwrap(), u64::MAX);
    assert_eq!(hash("\"18446744073709551615\"").unwrap(), u64::MAX);
    assert!(hash("18446744073709551616").is_err() && hash("-1").is_err());
}

#[test]
fn enums_are_taken_by_name_or_number_unknown_numbers_go_through_and_unknown_names_are_passed_over() {
    for (value, expected) in
        [("\"DESCEND\"", 2), ("2", 2), ("2.0", 2), ("77", 77), ("-1", -1), ("\"NONE\"", 0), ("null", 0)]
    {
        let read = range_request(&format!("{{\"sort_order\":{value}}}"));
        assert_eq!(read.map(|range| range.sort_order), Ok(expected), "{value}");
    }
    // etcd before 3.5.30 refuses these.
    for value in ["\"descend\"", "\"2\"", "\"\""] {
        let read = range_request(&format!("{{\"limit\":3,\"sort_order\":{value}}}"));
        assert_eq!(read.map(|range| (range.limit, range.sort_order)), Ok((3, 0)), "{value}");
    }
    for value in ["2147483648", "true", "{}"] {
        assert!(range_request(&format!("{{\"sortOrder\":{value}}}")).is_err(), "{value}");
    }
    let filters = |text: &str| {
        let mut bytes = Vec::new();
        read(call("/etcdserverpb.Watch/Watch").request, text.as_bytes(), &mut bytes).unwrap();
        match pb::WatchRequest::decode(&bytes[..]).unwrap().request_union {
            Some(pb::watch_request::RequestUnion::CreateRequest(create)) => create.filters,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(filters(r#"{"create_request":{"filters":["NODELETE",0,"NOPUT"]}}"#), [1, 0, 0]);
    assert_eq!(filters(r#"{"createRequest":{}}"#), [0; 0]);
    assert_eq!(filters(r#"{"create_request":{"filters":["NOPE","NODELETE"]}}"#), [1]);
}

#[test]
fn base64_is_taken_in_both_alphabets_with_and_without_padding_and_with_ends_of_lines() {
    for (text, expected) in [
        ("", &b""[..]),
        ("AA==", b"\0"),
        ("AA", b"\0"),
        ("Zm8=", b"fo"),
        ("Zm8", b"fo"),
        ("Zm9v", b"foo"),
        ("+/+/", b"\xfb\xff\xbf"),
        ("-_-_", b"\xfb\xff\xbf"),
        ("-_-_AA==", b"\xfb\xff\xbf\0"),
        ("Zm9v\\nZm9v\\r\\n", b"foofoo"),
        ("Zm9\\/", b"fo\x7f"),
    ] {
        let put = put_request(&format!("{{\"value\":\"{text}\"}}"));
        assert_eq!(put.map(|put| put.value.to_vec()).as_deref(), Ok(expected), "{text}");
    }
    for text in [
        "\"Z\"",
        "\"Zm8=\\n=\"",
        "\"AA=\"",
        "\"Zm9vAA=\"",
        "\"Zm9v=\"",
        "\"Zm 9v\"",
        "\"+_\"",
        "\"=\"",
        "\"!!!!\"",
        "5",
        "true",
        "{}",
        "[\"Zm9v\"]",
    ] {
        let refused = put_request(&format!("{{\"value\":{text}}}"));
        assert!(refused.is_err(), "{text}: {refused:?}");
    }
}

#[test]
fn arm_of_a_oneof_is_set_even_to_nothing_and_two_are_refused() {
    let compare = |text: &str| {
        txn_request(&format!("{{\"compare\":[{text}]}}")).map(|txn| txn.compare[0].target_union.clone())
    };
    assert_eq!(compare(r#"{"value":""}"#), Ok(Some(TargetUnion::Value(Bytes::new()))));
    assert_eq!(compare(r#"{"createRevision":"0"}"#), Ok(Some(TargetUnion::CreateRevision(0))));
    assert_eq!(compare(r#"{"version":null,"lease":3}"#), Ok(Some(TargetUnion::Lease(3))));
    assert_eq!(compare("{}"), Ok(None));
    assert!(compare(r#"{"version":1,"lease":3}"#).is_err());
    assert!(put_request(r#"{"key":"Zm9v","key":"Zm9v"}"#).is_err());
    assert!(put_request(r#"{"prev_kv":true,"prevKv":true}"#).is_err());
}

#[test]
fn nested_messages_of_any_length_are_those_that_prost_reads() {
    for length in [0, 1, 90, 96, 127, 128, 12_000, 16_384, 100_000] {
        let value = vec![b'x'; length];
        let text = format!(
            r#"{{"success":[{{"request_txn":{{"success":[{{"request_put":{{"key":"Zm9v","value":"{}"}}}},{{}}]}}}}]}}"#,
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &value)
        );
        let txn = txn_request(&text).unwrap();
        let Some(Op::RequestTxn(inner)) = &txn.success[0].request else { panic!("{txn:?}") };
        let Some(Op::RequestPut(put)) = &inner.success[0].request else { panic!("{inner:?}") };
        assert!(put.value == value && put.key == "foo" && inner.success[1].request.is_none(), "{length}");
    }
    let deep = r#"{"success":[{"request_txn":"#.repeat(200) + "{}";
    assert!(txn_request(&deep).is_err(), "depth is bounded");
}

#[test]
fn text_that_is_no_json_is_refused_with_its_place() {
    for text in [
        "{",
        "[]",
        "5",
        "\"x\"",
        "null",
        "{key:1}",
        "{\"key\"}",
        "{\"key\":}",
        "{\"key\":\"\\x\"}",
        "\u{feff}{}",
    ] {
        let error = put_request(text).unwrap_err();
        assert!(error.contains("column") || error.contains("expected"), "{text}: {error}");
    }
}

#[test]
fn answers_have_proto_names_quoted_numbers_and_nothing_that_is_unset() {
    let header = pb::ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: -5, raft_term: 0 };
    let kv = |value: &[u8]| mvccpb::KeyValue {
        key: Bytes::from_static(b"a\xff"),
        value: Bytes::copy_from_slice(value),
        version: 1,
        ..Default::default()
    };
    let range =
        pb::RangeResponse { header: Some(header), kvs: vec![kv(b""), kv(b"x")], more: true, count: i64::MAX };
    assert_eq!(
        text("/etcdserverpb.KV/Range", &range),
        r#"{"header":{"cluster_id":"18446744073709551615","member_id":"1","revision":"-5"},"kvs":[{"key":"Yf8=","version":"1"},{"key":"Yf8=","version":"1","value":"eA=="}],"more":true,"count":"9223372036854775807"}"#
    );
    assert_eq!(text("/etcdserverpb.KV/Range", &pb::RangeResponse::default()), "{}");
    let hash = pb::HashKvResponse { hash: u32::MAX, compact_revision: -1, ..Default::default() };
    assert_eq!(
        text("/etcdserverpb.Maintenance/HashKV", &hash),
        r#"{"hash":4294967295,"compact_revision":"-1"}"#
    );
    let alarm =
        |alarm| pb::AlarmResponse { header: None, alarms: vec![pb::AlarmMember { member_id: 1, alarm }] };
    let path = "/etcdserverpb.Maintenance/Alarm";
    assert_eq!(text(path, &alarm(2)), r#"{"alarms":[{"memberID":"1","alarm":"CORRUPT"}]}"#);
    assert_eq!(text(path, &alarm(99)), r#"{"alarms":[{"memberID":"1","alarm":99}]}"#);
    let status = pb::StatusResponse { errors: vec!["a\"\u{1}".into(), String::new()], ..Default::default() };
    assert_eq!(text("/etcdserverpb.Maintenance/Status", &status), r#"{"errors":["a\"\u0001",""]}"#);
}

#[test]
fn message_in_pieces_is_the_message_in_one_wherever_it_is_cut() {
    let kvs: Vec<_> = (0..6_usize)
        .map(|n| mvccpb::KeyValue {
            key: vec![7; n].into(),
            version: 1 << n,
            value: vec![0xab; 5 - n].into(),
            ..Default::default()
        })
        .collect();
    let range = pb::RangeResponse { header: None, kvs, more: true, count: i64::MAX };
    let op = |response| pb::ResponseOp { response: Some(response) };
    let txn = pb::TxnResponse {
        header: Some(pb::ResponseHeader { revision: 300, ..Default::default() }),
        succeeded: true,
        responses: vec![
            op(pb::response_op::Response::ResponseRange(range.clone())),
            op(pb::response_op::Response::ResponsePut(pb::PutResponse::default())),
        ],
    };
    let status =
        pb::StatusResponse { errors: vec!["a".into(), String::new(), "é".into()], ..Default::default() };
    for (path, bytes) in [
        ("/etcdserverpb.KV/Range", range.encode_to_vec()),
        ("/etcdserverpb.KV/Txn", txn.encode_to_vec()),
        ("/etcdserverpb.Maintenance/Status", status.encode_to_vec()),
    ] {
        let answer = call(path).answer;
        let mut whole = Vec::new();
        write(answer, &bytes, &mut whole);
        serde_json::from_slice::<serde_json::Value>(&whole).unwrap();
        for size in 1..=bytes.len() {
            let mut out = Vec::new();
            let mut writer = Writer::begin(answer, &mut out);
            for piece in bytes.chunks(size) {
                writer.put(piece, &mut out);
            }
            writer.end(&mut out);
            assert_eq!(out.escape_ascii().to_string(), whole.escape_ascii().to_string(), "{path} by {size}");
        }
    }
}

#[test]
fn stream_is_cut_into_its_messages_however_it_arrives() {
    let stream = br#" {"a":"}{\"\\"} {"b":[{},{"c":"[\\\""}]}
{}{"d":1}"#;
    let expected = [r#"{"a":"}{\"\\"}"#, r#"{"b":[{},{"c":"[\\\""}]}"#, "{}", r#"{"d":1}"#];
    for size in 1..=stream.len() {
        let mut splitter = Splitter::new(100);
        let mut found = Vec::new();
        for piece in stream.chunks(size) {
            splitter.push(piece).unwrap();
            found.extend(std::iter::from_fn(|| splitter.take()));
        }
        let found: Vec<_> = found.into_iter().map(|text| String::from_utf8(text).unwrap()).collect();
        assert_eq!(found, expected, "pieces of {size}");
        assert!(splitter.is_empty() && splitter.finish().is_ok());
    }
    let mut splitter = Splitter::new(10);
    assert_eq!(splitter.push(b"{} x"), Err(SplitError::NoObject(b'x')));
    assert_eq!(Splitter::new(10).push(b"[]"), Err(SplitError::NoObject(b'[')));
    let mut splitter = Splitter::new(10);
    splitter.push(b"{\"a").unwrap();
    assert_eq!(splitter.finish(), Err(SplitError::Unfinished));
    assert_eq!(splitter.push(b"aaaaaaaa"), Err(SplitError::TooLarge { bytes_max: 10 }));
}
