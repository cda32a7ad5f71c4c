use prost::Message;

use super::super::Events;
use super::super::model_tests::{Change, event, wire_event};
use super::*;
use crate::pb::etcdserverpb::WatchResponse;
use crate::pb::mvccpb::KeyValue;

fn change(key: &'static str, value: &'static str, previous: Option<&'static str>) -> Change {
    let kv = |value: &'static str, mod_revision| KeyValue {
        key: key.into(),
        create_revision: 3,
        mod_revision,
        version: 2,
        value: value.into(),
        lease: -7,
    };
    Change { key: key.into(), put: Some(kv(value, 9)), previous: previous.map(|value| kv(value, 8)) }
}

fn check(response: &Response<'_>, events: Vec<crate::pb::mvccpb::Event>) {
    let message = WatchResponse {
        header: None,
        watch_id: response.watch_id,
        created: response.created,
        canceled: response.canceled,
        compact_revision: response.compact_revision,
        cancel_reason: response.cancel_reason.to_owned(),
        fragment: response.fragment,
        events,
    };
    let mut bytes = Vec::new();
    put_response(&mut bytes, response);
    assert_eq!(bytes, message.encode_to_vec());
    assert_eq!(bytes.len(), encoded_len(response));
}

#[test]
fn responses_without_events_are_the_bytes_prost_writes() {
    check(&Response::default(), vec![]);
    for watch_id in [0, 1, 127, 128, -1, i64::MAX, i64::MIN] {
        check(&Response { watch_id, created: true, ..Response::default() }, vec![]);
        let compact_revision = watch_id;
        check(&Response { watch_id, canceled: true, compact_revision, ..Response::default() }, vec![]);
        let cancel_reason = "mvcc: watcher range is empty";
        check(
            &Response { watch_id, created: true, canceled: true, cancel_reason, ..Response::default() },
            vec![],
        );
    }
}

#[test]
fn events_are_the_bytes_prost_writes_with_and_without_the_previous_version() {
    let long: &'static str = "v".repeat(300).leak();
    let mut changes =
        vec![change("a", "", None), change("b", "short", Some("before")), change("c", long, Some(long))];
    changes.push(Change { put: None, ..change("d", "", Some("before")) });
    let encoded: Vec<_> = changes.iter().map(|change| event(9, change, true)).collect();
    let chosen: Vec<u32> = (0..4).collect();
    let events = Events::new(&encoded, &chosen, 4, true, true);
    for previous in [false, true] {
        for fragment in [false, true] {
            let response = Response { watch_id: 5, fragment, events, previous, ..Response::default() };
            check(&response, changes.iter().map(|change| wire_event(9, change, previous)).collect());
        }
    }
}
